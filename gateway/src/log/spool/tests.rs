//! Lines on a real journal: what they hold, forward and take back.
//!
//! **Runs on: any.**

use super::*;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use trine_core::journal::storage::{Preference, Setup, Storage, start};
use trine_core::journal::{Options, Retention};
use trine_core::rt::WakeHandle;

/// A spool of one shard in a folder of its own.
struct Fixture {
    spool: Spool,
    storage: Option<Storage>,
    folder: PathBuf,
}

fn start_spool(folder: &Path) -> (Spool, Storage) {
    let (quota_bytes, retention) = (16 << 20, Retention::Released);
    let options = Options { quota_bytes, retention, gather_ms: 0 };
    let wakes = vec![WakeHandle::new().unwrap()];
    let (folder, preference) = (folder.to_owned(), Preference::Plain);
    let setup = Setup { folder, options, shards: 1, wakes, cpus: None, preference };
    let (storage, mut stores) = start(setup).unwrap();
    let topics: [Box<str>; 1] = ["topic".into()];
    let store = stores.remove(0);
    (Spool::new(store, (0, 1), Arc::default(), &topics, 1_000_000), storage)
}

impl Fixture {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("trine-{name}-{}", std::process::id()));
        let (spool, storage) = start_spool(&folder);
        Self { spool, storage: Some(storage), folder }
    }

    /// Another process on the same journal.
    fn restart(&mut self) {
        self.storage = None;
        let (spool, storage) = start_spool(&self.folder);
        (self.spool, self.storage) = (spool, Some(storage));
        self.until(0, |event| matches!(event, SpoolEvent::Open { .. }).then_some(()));
    }

    /// Turns go by until an event is of interest.
    fn until<T>(&mut self, now_ms: u64, mut wanted: impl FnMut(SpoolEvent) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            assert!(Instant::now() < deadline, "it never came");
            self.spool.receive(now_ms);
            while let Some(event) = self.spool.next_event() {
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
            self.spool.flush(now_ms);
            std::thread::yield_now();
        }
    }

    fn forwarded(&mut self, now_ms: u64) -> Vec<u64> {
        self.until(now_ms, |event| match event {
            SpoolEvent::Forward { records, .. } => {
                Some(records.iter().map(|&(offset, ..)| offset).collect())
            }
            _ => None,
        })
    }

    /// Spools `count` records, each durable before the next.
    fn append(&mut self, line: usize, count: u32, now_ms: u64) {
        for record in 0..count {
            self.spool.append(line, record, Bytes::from_static(b"body"), now_ms);
            self.until(now_ms, |event| match event {
                SpoolEvent::Durable(durable) => (durable == record).then_some(()),
                _ => None,
            });
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.storage = None;
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn opened(name: &str) -> (Fixture, usize) {
    let mut fixture = Fixture::new(name);
    fixture.until(0, |event| matches!(event, SpoolEvent::Open { .. }).then_some(()));
    let line = fixture.spool.line(0, 0);
    let deadline = Instant::now() + Duration::from_secs(20);
    while fixture.spool.get(line).stream.is_none() || fixture.spool.opening > 0 {
        assert!(Instant::now() < deadline, "the line never opens");
        fixture.spool.receive(0);
        fixture.spool.flush(0);
    }
    // Nothing is read until a test says so.
    fixture.spool.all[line].not_before_ms = 1_000;
    (fixture, line)
}

#[test]
fn a_line_is_let_go_once_the_producer_has_all_of_it() {
    let (mut fixture, line) = opened("spool-given");
    fixture.append(line, 3, 0);
    assert!(fixture.spool.get(line).holds());
    assert_eq!(fixture.forwarded(1_000), [0, 1, 2]);
    assert!(fixture.spool.get(line).holds(), "the producer does not have them yet");
    fixture.spool.gave(line, 3, 3, 1_000, false);
    assert!(!fixture.spool.get(line).holds());
    // What is taken back is ahead of everything again.
    fixture.spool.take_back(line, 1_000);
    assert!(fixture.spool.get(line).holds());
    assert_eq!(fixture.forwarded(2_000), [0, 1, 2]);
    fixture.spool.gave(line, 3, 3, 2_000, false);
    (0..3).for_each(|offset| fixture.spool.acknowledged(line, offset));
    assert_eq!(fixture.spool.backlog(2_000), (0, 0));
}

#[test]
fn a_read_under_way_when_a_line_is_taken_back_is_void() {
    let (mut fixture, line) = opened("spool-stale");
    fixture.append(line, 3, 0);
    assert_eq!(fixture.forwarded(1_000), [0, 1, 2]);
    // The producer took only the first; the others are asked for again, and meanwhile all is
    // taken back.
    fixture.spool.gave(line, 1, 1, 1_000, false);
    fixture.spool.flush(1_000);
    assert_eq!(fixture.spool.get(line).reading, Some(1));
    fixture.spool.take_back(line, 1_000);
    assert_eq!(fixture.forwarded(2_000), [0, 1, 2], "in order, from the first");
}

#[test]
fn the_number_of_partitions_stays_while_records_are_spooled() {
    let (mut fixture, line) = opened("spool-partitions");
    assert_eq!(fixture.spool.partitions(0), 0);
    fixture.spool.learn_partitions(0, 4);
    fixture.append(line, 2, 0);
    fixture.spool.learn_partitions(0, 8);
    assert_eq!(fixture.spool.partitions(0), 4, "a key stays behind its spooled records");
    fixture.restart();
    assert_eq!(fixture.spool.partitions(0), 4, "also over a restart");
    fixture.spool.learn_partitions(0, 8);
    assert_eq!(fixture.spool.partitions(0), 4);
    assert_eq!(fixture.forwarded(1_000), [0, 1]);
    let line = fixture.spool.line(0, 0);
    fixture.spool.gave(line, 2, 2, 1_000, false);
    (0..2).for_each(|offset| fixture.spool.acknowledged(line, offset));
    fixture.spool.learn_partitions(0, 8);
    assert_eq!(fixture.spool.partitions(0), 8);
}
