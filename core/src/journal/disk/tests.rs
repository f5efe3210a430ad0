//! Segments as files in a real folder.
//!
//! **Runs on: any.**

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;

use super::super::{Journal, Opened, Options, Retention, open, perform};
use super::plain::PlainDisk;
use super::{Disk, at_once};
use crate::limits::OPEN_SEGMENTS;

const LOG: Options =
    Options { quota_bytes: 16 << 20, retention: Retention::Oldest { age_ms: 0 }, gather_ms: 0 };
const NOW: u64 = 1_700_000_000_000;

/// A folder of its own, with its disk.
struct Folder {
    path: PathBuf,
    disk: PlainDisk,
}

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("trine-disk-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        let disk = PlainDisk::open(&path).expect("a new folder");
        Self { path, disk }
    }

    /// Opens the journal, appends these records one by one, and does all that is left to do.
    fn run(&mut self, records: &[&'static str]) -> Opened {
        let mut opened = at_once(open(&mut self.disk, LOG)).expect("the folder can be read");
        let journal = &mut opened.journal;
        let mut settle = |journal: &mut Journal| {
            while let Some(operation) = journal.next_operation(NOW) {
                let result = at_once(perform(&mut self.disk, &operation));
                result.as_ref().expect("the disk is fine");
                journal.completed(result, NOW, &mut Vec::new());
            }
        };
        for record in records {
            let stream = journal.stream("a").expect("few streams");
            journal.append(1, stream, (*record).into(), NOW).expect("there is room");
            settle(journal);
        }
        settle(journal);
        opened
    }

    /// Damages the last commit of the first of two segments; the bytes of that segment.
    fn damage(&mut self) -> Vec<u8> {
        self.run(&["first", "second"]);
        self.run(&["third"]);
        let mut bytes = fs::read(self.disk.path(1)).expect("readable");
        assert_eq!(bytes.len(), 2 * 4096, "two commits");
        bytes[4096 + 20] ^= 1;
        fs::write(self.disk.path(1), &bytes).expect("writable");
        bytes
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[test]
fn what_is_in_a_journal_is_nobody_elses_to_read() {
    let mut folder = Folder::new("private");
    folder.run(&["first"]);
    let mode =
        |path: PathBuf| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(folder.path.clone()), 0o700);
    assert_eq!((mode(folder.disk.path(1)), mode(folder.path.join("lock"))), (0o600, 0o600));
}

#[test]
fn a_replaced_segment_keeps_its_owner_and_mode() {
    let mut folder = Folder::new("replaced");
    at_once(folder.disk.create(1, 4096)).expect("there is room");
    let path = folder.disk.path(1);
    // Only root may, and for all others it has the right owner anyhow.
    let _ = chown(&path, Some(4321), Some(1234));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("it is ours");
    let of = || {
        let status = fs::metadata(&path).expect("it is there");
        (status.uid(), status.gid(), status.mode())
    };
    let before = of();
    folder.disk.replace(1, b"other bytes").expect("there is room");
    assert_eq!((of(), fs::read(&path).expect("readable")), (before, b"other bytes".to_vec()));
}

#[test]
fn a_copy_from_before_the_cut_stays() {
    let mut folder = Folder::new("kept");
    // Only root may; what others make has the right owner anyhow.
    let _ = chown(&folder.path, Some(4321), Some(1234));
    let bytes = folder.damage();
    for _ in 0..2 {
        let opened = folder.run(&[]);
        assert_eq!((opened.damaged.len(), &opened.not_kept[..]), (1, &[][..]));
        let length = fs::metadata(folder.disk.path(1)).expect("it is there").len();
        assert_eq!(length, 4096, "it was cut");
        let quarantine = folder.path.join("quarantine");
        let there: Vec<_> =
            fs::read_dir(&quarantine).expect("readable").map(Result::unwrap).collect();
        assert_eq!(there.len(), 1);
        assert!(fs::read(there[0].path()).expect("readable") == bytes, "as it was found");
        let owner = |path| fs::metadata(path).expect("it is there").uid();
        assert_eq!(owner(&quarantine), owner(&folder.path));
    }
}

#[test]
fn what_could_not_be_copied_is_not_cut() {
    let mut folder = Folder::new("uncut");
    let bytes = folder.damage();
    fs::write(folder.path.join("quarantine"), b"no folder").expect("writable");
    let opened = folder.run(&["fourth"]);
    assert_eq!((opened.damaged.len(), opened.not_kept.len()), (1, 1));
    assert!(fs::read(folder.disk.path(1)).expect("readable") == bytes);
    assert_eq!(opened.journal.readable_bytes(1), bytes.len() as u64, "and counts whole");
}

#[test]
fn what_has_no_copy_is_found_again_by_the_next_start() {
    let mut folder = Folder::new("again");
    folder.run(&["first", "second", "third"]);
    let path = folder.disk.path(1);
    let mut bytes = fs::read(&path).expect("readable");
    // The third commit did not come whole, but its head says that the second was synced.
    bytes[4096 + 20] ^= 1;
    let body = bytes.windows(5).position(|at| at == b"third").expect("it was written");
    bytes[body] ^= 1;
    fs::write(&path, &bytes).expect("writable");
    fs::write(folder.path.join("quarantine"), b"no folder").expect("writable");
    for records in [&["fourth"][..], &[]] {
        let opened = folder.run(records);
        assert_eq!((opened.damaged.len(), opened.not_kept.len()), (1, 1));
        let now = fs::read(&path).expect("readable");
        assert!(now == bytes[..2 * 4096], "the damaged one stays, and no room behind it");
    }
}

#[test]
fn few_segments_stay_open() {
    let mut folder = Folder::new("open");
    let path = folder.path.clone();
    let open_segments = || {
        let all = fs::read_dir("/proc/self/fd").expect("readable").map(Result::unwrap);
        // Descriptors of other tests come and go.
        let ours = all.filter_map(|entry| fs::read_link(entry.path()).ok());
        let is_segment = |file: &PathBuf| file.extension().is_some_and(|end| end == "segment");
        ours.filter(|file| file.starts_with(&path)).filter(is_segment).count()
    };
    for segment in 1..=200 {
        at_once(folder.disk.create(segment, 4096)).expect("there is room");
    }
    assert_eq!(open_segments(), OPEN_SEGMENTS);
    for segment in 1..=200 {
        at_once(folder.disk.truncate(segment, 0)).expect("it is there");
    }
    assert_eq!(open_segments(), 0);
}
