//! Logs and queues on a real journal: where groups begin, what a queue gives up, and what is kept
//! over a restart.
//!
//! **Runs on: any.**

use super::*;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use trine_core::journal::storage::{Preference, Setup, Storage, start};
use trine_core::journal::{Options, Retention};
use trine_core::rt::WakeHandle;

const OLDEST: Retention = Retention::Oldest { age_ms: 0 };

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A log or a queue of one shard in a folder of its own.
struct Fixture {
    log: Embedded,
    storage: Option<Storage>,
    folder: PathBuf,
}

fn start_log(
    folder: &Path,
    retention: Retention,
    partitions: u32,
    feeds: Vec<FeedSpec>,
) -> (Embedded, Storage) {
    let options = Options { quota_bytes: 16 << 20, retention, gather_ms: 0 };
    let wakes = vec![WakeHandle::new().unwrap()];
    let (folder, preference) = (folder.to_owned(), Preference::Plain);
    let setup = Setup { folder, options, shards: 1, wakes, cpus: None, preference };
    let (storage, mut stores) = start(setup).unwrap();
    let topics: [Box<str>; 1] = ["topic".into()];
    (Embedded::new(stores.remove(0), &topics, partitions, feeds, true), storage)
}

fn start_queue(folder: &Path, partitions: u32) -> (Embedded, Storage) {
    let feeds = (0..partitions).map(|partition| reads(QUEUE_GROUP, partition, Start::Latest));
    let (log, storage) = start_log(folder, Retention::Released, partitions, feeds.collect());
    (log.of_queue(), storage)
}

fn reads(group: &str, partition: u32, start: Start) -> FeedSpec {
    FeedSpec { group: group.into(), feed: Feed { consumer: 0, topic: 0, partition }, start }
}

fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("trine-{name}-{}", std::process::id()))
}

impl Fixture {
    fn new(name: &str, partitions: u32) -> Self {
        let folder = folder(name);
        let (log, storage) = start_queue(&folder, partitions);
        Self { log, storage: Some(storage), folder }
    }

    /// A log of one partition, which nobody reads yet.
    fn of_log(name: &str) -> Self {
        let folder = folder(name);
        let (log, storage) = start_log(&folder, OLDEST, 1, Vec::new());
        Self { log, storage: Some(storage), folder }
    }

    /// The process ends well, if it still runs.
    fn end(&mut self) {
        if let Some(storage) = self.storage.take() {
            storage.stop(PATIENCE).unwrap();
        }
    }

    /// Another process on the same queue; where its feeds begin.
    fn restart(&mut self, partitions: u32) -> Vec<u64> {
        self.end();
        let (log, storage) = start_queue(&self.folder, partitions);
        (self.log, self.storage) = (log, Some(storage));
        (0..partitions).map(|_| self.ready()).collect()
    }

    /// Another process on the same log, in which these groups read it.
    fn restart_with(&mut self, groups: &[(&str, Start)]) {
        self.end();
        let feeds = groups.iter().map(|&(group, start)| reads(group, 0, start));
        let (log, storage) = start_log(&self.folder, OLDEST, 1, feeds.collect());
        (self.log, self.storage) = (log, Some(storage));
    }

    /// Another process on what a crash leaves: nothing that only a clean end would have written.
    fn crash(&mut self) {
        let there = self.folder.with_extension("crashed");
        std::fs::create_dir_all(&there).unwrap();
        for entry in std::fs::read_dir(&self.folder).unwrap().map(Result::unwrap) {
            if entry.path().is_file() {
                std::fs::copy(entry.path(), there.join(entry.file_name())).unwrap();
            }
        }
        self.end();
        std::fs::remove_dir_all(&self.folder).unwrap();
        std::fs::rename(there, &self.folder).unwrap();
        self.restart_with(&[]);
    }

    fn turns<T>(&mut self, mut wanted: impl FnMut(&mut Embedded) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "it never came");
            self.log.receive();
            if let Some(found) = wanted(&mut self.log) {
                return found;
            }
            self.log.flush();
            std::thread::yield_now();
        }
    }

    fn event(&mut self) -> FeedEvent {
        self.turns(Embedded::next_event)
    }

    fn ready(&mut self) -> u64 {
        match self.event() {
            FeedEvent::Ready { next_offset, .. } => next_offset,
            other => panic!("{other:?}"),
        }
    }

    /// A record comes.
    fn append(&mut self, partition: u32, bytes: usize) {
        let append =
            |queue: &mut Embedded| queue.append(0, 0, partition, vec![7; bytes].into()).ok();
        self.turns(append);
        let (_, outcome) = self.turns(|queue| queue.next_outcome());
        outcome.expect("there is room");
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.storage = None;
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn what_was_drained_before_a_restart_does_not_fill_the_journal() {
    let mut fixture = Fixture::new("queue-full", 2);
    assert_eq!((fixture.ready(), fixture.ready()), (0, 0));
    (0..5).for_each(|_| fixture.append(0, 500_000));
    fixture.append(1, 10);
    fixture.log.commit(0, 5);
    fixture.log.commit(1, 1);
    fixture.append(1, 10);
    assert_eq!(fixture.restart(2), [5, 1], "what was not delivered is there");
    // The first partition gets nothing more; the other passes through the journal twice.
    for offset in 2..70 {
        fixture.log.commit(1, offset);
        fixture.append(1, 500_000);
    }
    // With fewer partitions nobody reads what is drained, and it is given up all the same.
    fixture.log.commit(1, 70);
    fixture.append(0, 10);
    assert_eq!(fixture.restart(1), [5]);
    for offset in 6..70 {
        fixture.log.commit(0, offset);
        fixture.append(0, 500_000);
    }
}

#[test]
fn a_group_of_the_latest_begins_at_the_end_and_keeps_that_place_over_a_crash() {
    let mut fixture = Fixture::of_log("log-latest");
    (0..3).for_each(|_| fixture.append(0, 10));
    fixture.restart_with(&[("group", Start::Latest)]);
    assert_eq!(fixture.ready(), 3);
    // It dies before it has delivered anything, and what comes next is for the group.
    fixture.crash();
    fixture.append(0, 10);
    fixture.restart_with(&[("group", Start::Latest), ("another", Start::Latest)]);
    assert_eq!([fixture.ready(), fixture.ready()], [3, 4], "only the first was there before");
}

#[test]
fn a_group_of_the_earliest_begins_at_the_first_record_and_goes_on_behind_its_commit() {
    let mut fixture = Fixture::of_log("log-earliest");
    (0..3).for_each(|_| fixture.append(0, 10));
    fixture.restart_with(&[("group", Start::Earliest)]);
    assert_eq!(fixture.ready(), 0);
    fixture.log.commit(0, 2);
    fixture.append(0, 10);
    fixture.restart_with(&[("group", Start::Earliest)]);
    assert_eq!(fixture.ready(), 2);
}

#[test]
fn a_group_of_the_latest_reads_an_empty_partition_from_its_beginning() {
    let mut fixture = Fixture::of_log("log-empty");
    fixture.restart_with(&[("group", Start::Latest)]);
    assert_eq!(fixture.ready(), 0);
    fixture.crash();
    fixture.append(0, 10);
    fixture.restart_with(&[("group", Start::Latest)]);
    assert_eq!(fixture.ready(), 0, "what came while nobody read is for the group");
}

#[test]
fn a_group_past_the_end_of_its_partition_is_told_of_and_goes_on_at_the_end() {
    let mut fixture = Fixture::of_log("log-past-end");
    fixture.restart_with(&[("group", Start::Earliest)]);
    assert_eq!(fixture.ready(), 0);
    fixture.log.commit(0, 40);
    (0..3).for_each(|_| fixture.append(0, 10));
    fixture.restart_with(&[("group", Start::Earliest)]);
    assert_eq!(fixture.ready(), 40, "where the group was");
    assert_eq!(fixture.event(), FeedEvent::OutOfRange { feed: 0, first: 3 });
    // Its new place is durable, so that it is told of once, and passes no record that comes next.
    fixture.crash();
    fixture.append(0, 10);
    fixture.restart_with(&[("group", Start::Earliest)]);
    assert_eq!(fixture.ready(), 3);
    fixture.append(0, 10);
    assert_eq!(fixture.log.next_event(), None);
}

#[test]
fn a_fetch_of_what_retention_has_removed_is_told_of() {
    let mut fixture = Fixture::of_log("log-retention");
    fixture.restart_with(&[("group", Start::Earliest)]);
    assert_eq!(fixture.ready(), 0);
    (0..70).for_each(|_| fixture.append(0, 500_000));
    fixture.log.fetch(0, 0, 1_000_000);
    let FeedEvent::OutOfRange { feed: 0, first } = fixture.event() else {
        panic!("the first records are gone");
    };
    assert!((1..70).contains(&first), "{first}");
    fixture.log.fetch(0, first, 1_000_000);
    let FeedEvent::Records { records, end_offset, .. } = fixture.event() else {
        panic!("the oldest that is there can be read");
    };
    assert_eq!((records[0].offset, end_offset), (first, 70));
}
