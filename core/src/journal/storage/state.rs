//! What the storage thread says of itself, for anybody to read.
//!
//! **Runs on: any**; the storage thread writes. Single writer, relaxed: numbers for people and
//! gauges, nothing is decided by two of them together. The texts are behind locks that only the
//! storage thread and control take.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

use super::super::open::Opened;

/// What the journal does with appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Its files are being read; requests wait until that is done.
    Recovering = 0,
    /// It takes them.
    Ready = 1,
    /// It refuses, the disk fails; [`State::error`] has the reason.
    Failing = 2,
    /// It refuses: the quota is used up, or the disk has no room.
    Full = 3,
    /// It has ended.
    Closed = 4,
}

const PHASES: [Phase; 5] =
    [Phase::Recovering, Phase::Ready, Phase::Failing, Phase::Full, Phase::Closed];

/// What recovery found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Segments read.
    pub segments: u64,
    /// Records found.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Damaged places: corruption.
    pub damaged: u64,
    /// Records that are missing between others of their stream.
    pub missing_records: u64,
    /// Segments that later ones know of and that are not there.
    pub missing_segments: u64,
    /// Bytes behind the last whole commit, which no sync had confirmed.
    pub torn_bytes: u64,
    /// Milliseconds it took.
    pub duration_ms: u64,
}

/// Numbers since the start, and how things are now.
#[derive(Debug, Default)]
pub struct State {
    phase: AtomicU8,
    pub(super) disk_fails: AtomicBool,
    pub(super) used_bytes: AtomicU64,
    pub(super) quota_bytes: AtomicU64,
    pub(super) pending_bytes: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) records: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) sync_total_ns: AtomicU64,
    pub(super) sync_max_ns: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) removed: AtomicU64,
    texts: Mutex<Texts>,
}

#[derive(Debug, Default)]
struct Texts {
    error: Option<String>,
    driver: Option<String>,
    recovery: Option<Recovery>,
    damages: Vec<String>,
}

/// Adds to a number with one writer.
pub(super) fn add(number: &AtomicU64, more: u64) {
    number.store(number.load(Relaxed) + more, Relaxed);
}

impl State {
    /// Whether the disk takes nothing now, be it that it fails or that it has no room.
    pub fn disk_fails(&self) -> bool {
        self.disk_fails.load(Relaxed)
    }

    /// What the journal does with appends.
    pub fn phase(&self) -> Phase {
        PHASES[self.phase.load(Relaxed) as usize]
    }

    /// Bytes that the journal has of its quota.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Relaxed)
    }

    /// Bytes that it may have.
    pub fn quota_bytes(&self) -> u64 {
        self.quota_bytes.load(Relaxed)
    }

    /// Bytes that wait for the disk.
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes.load(Relaxed)
    }

    /// Commits that are durable.
    pub fn commits(&self) -> u64 {
        self.commits.load(Relaxed)
    }

    /// Records that became durable.
    pub fn records(&self) -> u64 {
        self.records.load(Relaxed)
    }

    /// Syncs, failed ones too.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Relaxed)
    }

    /// Nanoseconds of all syncs together.
    pub fn sync_total_ns(&self) -> u64 {
        self.sync_total_ns.load(Relaxed)
    }

    /// Nanoseconds of the longest sync.
    pub fn sync_max_ns(&self) -> u64 {
        self.sync_max_ns.load(Relaxed)
    }

    /// Operations of the disk that failed, and folders that could not be opened.
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// Records that were taken and then refused since the disk failed.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Records that were removed to make room or for their age, and that nobody had released.
    pub fn removed(&self) -> u64 {
        self.removed.load(Relaxed)
    }

    /// The last failure of the disk. For control: takes a lock.
    pub fn error(&self) -> Option<String> {
        self.texts().error.clone()
    }

    /// The driver that runs and why no better one does, in a line. For control: takes a lock.
    pub fn driver(&self) -> Option<String> {
        self.texts().driver.clone()
    }

    /// What recovery found, once it has ended. For control: takes a lock.
    pub fn recovery(&self) -> Option<Recovery> {
        self.texts().recovery.clone()
    }

    /// A line for each damaged place, missing segment and copy that could not be kept. For
    /// control: takes a lock.
    pub fn damages(&self) -> Vec<String> {
        self.texts().damages.clone()
    }

    fn texts(&self) -> std::sync::MutexGuard<'_, Texts> {
        self.texts.lock().expect("nothing panics with it")
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    pub(super) fn failed(&self, text: String) {
        add(&self.failures, 1);
        self.texts().error = Some(text);
    }

    pub(super) fn set_driver(&self, text: String) {
        self.texts().driver = Some(text);
    }

    pub(super) fn recovered(&self, opened: &Opened, duration_ms: u64) {
        let mut damages = Vec::new();
        for damage in &opened.damaged {
            let (segment, at) = (damage.segment, &damage.at);
            let error = damage.error.as_ref().map_or(String::new(), |error| format!(": {error}"));
            damages.push(format!("segment {segment:x}, bytes {}..{}{error}", at.start, at.end));
        }
        let missing = opened.missing_segments.iter();
        damages.extend(missing.map(|segment| format!("segment {segment:x} is missing")));
        let not_kept = opened.not_kept.iter();
        damages.extend(not_kept.map(|(segment, error)| {
            format!("segment {segment:x} is damaged and no copy could be kept: {error}")
        }));
        let mut texts = self.texts();
        texts.damages = damages;
        texts.recovery = Some(Recovery {
            segments: opened.segments as u64,
            records: opened.records,
            bytes: opened.bytes,
            damaged: opened.damaged.len() as u64,
            missing_records: opened.missing_records,
            missing_segments: opened.missing_segments.len() as u64,
            torn_bytes: opened.torn_bytes,
            duration_ms,
        });
    }

    pub(super) fn synced(&self, duration_ns: u64) {
        add(&self.syncs, 1);
        add(&self.sync_total_ns, duration_ns);
        if duration_ns > self.sync_max_ns() {
            self.sync_max_ns.store(duration_ns, Relaxed);
        }
    }
}
