//! A queue on a real journal: what it gives up, and what it keeps over a restart.
//!
//! **Runs on: any.**

use super::*;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use trine_core::journal::storage::{Preference, Setup, Storage, start};
use trine_core::journal::{Options, Retention};
use trine_core::rt::WakeHandle;

/// A queue of one shard in a folder of its own.
struct Fixture {
    queue: Embedded,
    storage: Option<Storage>,
    folder: PathBuf,
}

fn start_queue(folder: &Path, partitions: u32) -> (Embedded, Storage) {
    let (quota_bytes, retention) = (16 << 20, Retention::Released);
    let options = Options { quota_bytes, retention, gather_ms: 0 };
    let wakes = vec![WakeHandle::new().unwrap()];
    let (folder, preference) = (folder.to_owned(), Preference::Plain);
    let setup = Setup { folder, options, shards: 1, wakes, cpus: None, preference };
    let (storage, mut stores) = start(setup).unwrap();
    let feeds = (0..partitions).map(|partition| {
        let feed = Feed { consumer: 0, topic: 0, partition };
        FeedSpec { group: QUEUE_GROUP.into(), feed, start: Start::Latest }
    });
    let topics: [Box<str>; 1] = ["topic".into()];
    let store = stores.remove(0);
    (Embedded::new(store, &topics, partitions, feeds.collect(), true).of_queue(), storage)
}

impl Fixture {
    fn new(name: &str, partitions: u32) -> Self {
        let folder = std::env::temp_dir().join(format!("trine-{name}-{}", std::process::id()));
        let (queue, storage) = start_queue(&folder, partitions);
        Self { queue, storage: Some(storage), folder }
    }

    /// Another process on the same journal; where its feeds begin.
    fn restart(&mut self, partitions: u32) -> Vec<u64> {
        self.storage.take().unwrap().stop(Duration::from_secs(20)).unwrap();
        let (queue, storage) = start_queue(&self.folder, partitions);
        (self.queue, self.storage) = (queue, Some(storage));
        (0..partitions).map(|_| self.ready()).collect()
    }

    fn turns<T>(&mut self, mut wanted: impl FnMut(&mut Embedded) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            assert!(Instant::now() < deadline, "it never came");
            self.queue.receive();
            if let Some(found) = wanted(&mut self.queue) {
                return found;
            }
            self.queue.flush();
            std::thread::yield_now();
        }
    }

    fn ready(&mut self) -> u64 {
        self.turns(|queue| match queue.next_event()? {
            FeedEvent::Ready { next_offset, .. } => Some(next_offset),
            other => panic!("{other:?}"),
        })
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
    fixture.queue.commit(0, 5);
    fixture.queue.commit(1, 1);
    fixture.append(1, 10);
    assert_eq!(fixture.restart(2), [5, 1], "what was not delivered is there");
    // The first partition gets nothing more; the other passes through the journal twice.
    for offset in 2..70 {
        fixture.queue.commit(1, offset);
        fixture.append(1, 500_000);
    }
    // With fewer partitions nobody reads what is drained, and it is given up all the same.
    fixture.queue.commit(1, 70);
    fixture.append(0, 10);
    assert_eq!(fixture.restart(1), [5]);
    for offset in 6..70 {
        fixture.queue.commit(0, offset);
        fixture.append(0, 500_000);
    }
}
