//! Lines on a real journal: what they hold, forward and take back.
//!
//! **Runs on: any.**

use super::*;
use crate::limits::SPOOL_EPOCHS_AHEAD;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use trine_core::journal::storage::{Preference, Setup, Storage, start};
use trine_core::journal::{Options, Retention};
use trine_core::rt::WakeHandle;

/// A spool of one shard in a folder of its own.
struct Fixture {
    spool: Spool,
    storage: Option<[Storage; 2]>,
    folder: PathBuf,
}

/// Records a second that are forwarded, where a test does not look at that.
const RATE: u64 = 1_000_000;

fn start_spool(folder: &Path, shard: (usize, usize), rate: u64) -> (Spool, [Storage; 2]) {
    let (quota_bytes, retention) = (16 << 20, Retention::Released);
    let options = Options { quota_bytes, retention, gather_ms: 0 };
    let start = |name: &str| {
        let wakes = vec![WakeHandle::new().unwrap()];
        let (folder, preference) = (folder.join(name), Preference::Plain);
        let setup = Setup { folder, options, shards: 1, wakes, cpus: None, preference };
        let (storage, mut stores) = start(setup).unwrap();
        (storage, stores.remove(0))
    };
    let ((storage, store), (other, letters)) = (start("spool"), start("letters"));
    let topics: [Box<str>; 1] = ["topic".into()];
    (Spool::new((store, letters), shard, Arc::default(), &topics, rate), [storage, other])
}

fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("trine-{name}-{}", std::process::id()))
}

impl Fixture {
    fn new(name: &str) -> Self {
        Self::at(folder(name), RATE)
    }

    fn at(folder: PathBuf, rate: u64) -> Self {
        let (spool, storage) = start_spool(&folder, (0, 1), rate);
        Self { spool, storage: Some(storage), folder }
    }

    /// Another process on the same journal.
    fn restart(&mut self) {
        self.restart_as((0, 1));
    }

    /// … with another shard of so many; the producer that it goes on with.
    fn restart_as(&mut self, shard: (usize, usize)) -> Option<(i64, i16)> {
        for storage in self.storage.take().into_iter().flatten() {
            storage.stop(Duration::from_secs(20)).unwrap();
        }
        let (spool, storage) = start_spool(&self.folder, shard, RATE);
        (self.spool, self.storage) = (spool, Some(storage));
        self.until(0, |event| match event {
            SpoolEvent::Open { last } => Some(last),
            _ => None,
        })
    }

    /// Its identity becomes durable.
    fn keep_identity(&mut self, id: i64, epoch: i16) {
        self.spool.keep_identity(id, epoch);
        self.until(0, |event| matches!(event, SpoolEvent::Identity).then_some(()));
    }

    /// … without a word from the journal.
    fn has_identity(&mut self, id: i64, epoch: i16) -> bool {
        self.spool.keep_identity(id, epoch);
        let events = std::iter::from_fn(|| self.spool.next_event());
        events.filter(|event| matches!(event, SpoolEvent::Identity)).count() == 1
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

    /// Kafka takes what is forwarded, `count` records of a line in all and no more.
    fn forwards(&mut self, line: usize, count: u64, now_ms: u64) {
        let until = self.spool.get(line).next + count;
        while self.spool.get(line).next < until {
            let offsets = self.forwarded(now_ms);
            let next = offsets.last().expect("no line forwards nothing") + 1;
            self.spool.gave(line, offsets.len(), next, now_ms, false);
        }
        self.spool.flush(now_ms);
        let line = self.spool.get(line);
        assert_eq!((line.next, line.reading), (until, None), "more than {count} at {now_ms}");
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
    ready(Fixture::new(name))
}

/// With a line from which nothing is read before a test says so.
fn ready(mut fixture: Fixture) -> (Fixture, usize) {
    fixture.until(0, |event| matches!(event, SpoolEvent::Open { .. }).then_some(()));
    let line = fixture.spool.line(0, 0);
    let deadline = Instant::now() + Duration::from_secs(20);
    while fixture.spool.get(line).stream.is_none() || fixture.spool.opening > 0 {
        assert!(Instant::now() < deadline, "the line never opens");
        fixture.spool.receive(0);
        fixture.spool.flush(0);
    }
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
fn a_backlog_is_forwarded_at_its_rate_and_what_comes_meanwhile_beside_it() {
    let (mut fixture, line) = ready(Fixture::at(folder("spool-rate"), 100));
    fixture.append(line, 300, 0);
    // What came while nothing could be forwarded does not come in one burst.
    fixture.forwards(line, 100, 1_000);
    fixture.forwards(line, 0, 1_009);
    fixture.forwards(line, 50, 1_500);
    // The backlog must get smaller however fast records come: each of them lets another one go.
    for record in 300..350 {
        fixture.spool.append(line, record, Bytes::from_static(b"live"), 1_500);
    }
    fixture.forwards(line, 50, 1_500);
    // After a pause it is not made up for.
    fixture.forwards(line, 100, 9_000);
    assert_eq!(fixture.spool.get(line).next, 300);
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

/// What two shards leave: a record of the producer (6, 1), then two of (7, 3) by the second shard.
fn two_shards(name: &str) -> Fixture {
    let (mut fixture, line) = opened(name);
    fixture.keep_identity(6, 1);
    fixture.append(line, 1, 0);
    assert_eq!(fixture.restart_as((1, 2)), None);
    // As if the other shard had nothing to forward any more.
    fixture.spool.keep_shards();
    fixture.keep_identity(7, 3);
    let line = fixture.spool.line(0, 0);
    fixture.spool.all[line].not_before_ms = 1_000;
    while fixture.spool.opening > 0 {
        fixture.spool.receive(0);
        fixture.spool.flush(0);
    }
    fixture.append(line, 2, 0);
    fixture
}

#[test]
fn lines_of_a_shard_that_is_no_more_go_under_its_producer() {
    let mut fixture = two_shards("spool-givers");
    // One shard again: its own record first, then those of the other, and not before the producer
    // has its identity.
    assert_eq!(fixture.restart_as((0, 1)), Some((6, 1 + SPOOL_EPOCHS_AHEAD)));
    assert!(!fixture.spool.is_settled(), "keys' owners have changed");
    assert_eq!(fixture.forwarded(1_000), [0]);
    let own = fixture.spool.line(0, 0);
    fixture.spool.gave(own, 1, 1, 1_000, false);
    fixture.spool.acknowledged(own, 0);
    let resumed = |event| match event {
        SpoolEvent::Resume { last } => Some(last),
        SpoolEvent::Forward { .. } => panic!("its producer could not be fenced"),
        _ => None,
    };
    assert_eq!(fixture.until(1_000, resumed), (7, 3 + SPOOL_EPOCHS_AHEAD));
    fixture.keep_identity(7, 4 + SPOOL_EPOCHS_AHEAD);
    // A process that dies here goes on with the same.
    assert_eq!(fixture.restart_as((0, 1)), None);
    assert_eq!(fixture.until(1_000, resumed), (7, 4 + 2 * SPOOL_EPOCHS_AHEAD));
    fixture.keep_identity(7, 5 + 2 * SPOOL_EPOCHS_AHEAD);
    fixture.spool.resumed();
    assert_eq!(fixture.forwarded(1_000), [0, 1]);
    let its = (0..fixture.spool.len()).find(|&line| fixture.spool.get(line).holds()).unwrap();
    fixture.spool.gave(its, 2, 2, 1_000, false);
    (0..2).for_each(|offset| fixture.spool.acknowledged(its, offset));
    fixture.spool.flush(1_000);
    assert!(fixture.spool.is_settled());
    fixture.keep_identity(7, 6 + 2 * SPOOL_EPOCHS_AHEAD);
    // The id is this shard's now, and the other one does not go on with it.
    let line = fixture.spool.line(0, 0);
    fixture.append(line, 1, 0);
    assert_eq!(fixture.restart_as((0, 1)), Some((7, 6 + 3 * SPOOL_EPOCHS_AHEAD)));
    assert_eq!(fixture.restart_as((1, 2)), None);
    assert_eq!(fixture.spool.givers[0].last(), None);
}

#[test]
fn an_epoch_is_not_used_before_one_at_least_as_high_is_durable() {
    let (mut fixture, line) = opened("spool-epochs");
    assert!(!fixture.has_identity(7, 0), "nothing is durable yet");
    fixture.until(0, |event| matches!(event, SpoolEvent::Identity).then_some(()));
    // A journal that answers nothing is asked for more in time, and does not hold up these.
    for epoch in 1..=SPOOL_EPOCHS_AHEAD {
        assert!(fixture.has_identity(7, epoch), "{epoch}");
    }
    assert!(!fixture.has_identity(7, SPOOL_EPOCHS_AHEAD + 1));
    fixture.until(0, |event| matches!(event, SpoolEvent::Identity).then_some(()));
    assert!(fixture.has_identity(7, SPOOL_EPOCHS_AHEAD + 2));
    assert!(!fixture.has_identity(8, 0), "another id");
    fixture.until(0, |event| matches!(event, SpoolEvent::Identity).then_some(()));
    fixture.append(line, 1, 0);
    assert_eq!(fixture.restart_as((0, 1)), Some((8, SPOOL_EPOCHS_AHEAD)));
    // The last ones of an id.
    fixture.keep_identity(8, i16::MAX - 1);
    assert!(fixture.has_identity(8, i16::MAX));
    fixture.restart();
    assert_eq!(fixture.spool.givers[0].last(), Some((8, i16::MAX)));
}

#[test]
fn an_identity_of_the_giver_before_forwards_nothing_of_the_next() {
    let mut fixture = two_shards("spool-late-identity");
    fixture.restart_as((0, 1));
    let own = 2 + SPOOL_EPOCHS_AHEAD;
    fixture.keep_identity(6, own);
    assert_eq!(fixture.forwarded(1_000), [0]);
    let line = fixture.spool.line(0, 0);
    fixture.spool.gave(line, 1, 1, 1_000, false);
    fixture.spool.acknowledged(line, 0);
    // Its own next epoch and the end of what it has itself come in one turn.
    fixture.spool.keep_identity(6, own + 1);
    fixture.spool.flush(1_000);
    let mut resumes = false;
    while let Some(event) = fixture.spool.next_event() {
        match event {
            SpoolEvent::Identity => fixture.spool.resumed(),
            SpoolEvent::Resume { .. } => resumes = true,
            _ => {}
        }
    }
    assert!(resumes && fixture.spool.must_resume, "the other producer is not fenced yet");
}

#[test]
fn what_was_forwarded_before_a_restart_does_not_fill_the_journal() {
    let (mut fixture, line) = opened("spool-full");
    let pass = |fixture: &mut Fixture, line, offset| {
        fixture.spool.append(line, 0, vec![7; 500_000].into(), 1_000);
        fixture.until(1_000, |event| match event {
            SpoolEvent::Durable(_) => Some(()),
            SpoolEvent::Refused(_, _, why) => panic!("{why:?} at {offset}"),
            _ => None,
        });
        fixture.spool.gave(line, 1, offset + 1, 1_000, false);
        fixture.spool.acknowledged(line, offset);
        fixture.spool.flush(1_000);
    };
    (0..5).for_each(|offset| pass(&mut fixture, line, offset));
    fixture.keep_identity(1, 1);
    fixture.restart();
    // Nothing more comes for that line, and the journal is passed through twice by another.
    let other = fixture.spool.line(0, 1);
    while fixture.spool.opening > 0 {
        fixture.spool.receive(0);
        fixture.spool.flush(0);
    }
    (0..70).for_each(|offset| pass(&mut fixture, other, offset));
}

/// Not a test of its own: a process that ends itself after a step of the way to Kafka.
#[test]
fn child_that_ends_itself() {
    let Ok(folder) = std::env::var("TRINE_TEST_FOLDER") else { return };
    let step = std::env::var("TRINE_TEST_ABORT").expect("beside the folder");
    let did = |now: &str| {
        if now == step {
            std::process::abort();
        }
    };
    let (mut fixture, line) = ready(Fixture::at(folder.into(), RATE));
    fixture.append(line, 3, 0);
    did("durable");
    assert_eq!(fixture.forwarded(1_000), [0, 1, 2]);
    did("read");
    fixture.spool.gave(line, 3, 3, 1_000, false);
    did("produced");
    (0..2).for_each(|offset| fixture.spool.acknowledged(line, offset));
    did("acknowledged");
    fixture.spool.flush(1_000);
    did("cursor asked for");
    fixture.keep_identity(1, 1);
    did("cursor");
}

#[test]
fn an_abort_after_any_step_forwards_what_kafka_may_lack() {
    let steps = ["durable", "read", "produced", "acknowledged", "cursor asked for", "cursor"];
    for step in steps {
        let folder = format!("trine-spool-abort-{}-{}", step.replace(' ', "-"), std::process::id());
        let folder = std::env::temp_dir().join(folder);
        let ended = Command::new(std::env::current_exe().unwrap())
            .args(["log::spool::tests::child_that_ends_itself", "--exact", "--nocapture"])
            .env("TRINE_TEST_FOLDER", &folder)
            .env("TRINE_TEST_ABORT", step)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(ended.signal(), Some(rustix::process::Signal::ABORT.as_raw()), "{step}");
        let (mut fixture, _) = ready(Fixture::at(folder, RATE));
        let (left, _) = fixture.spool.backlog(0);
        let forwarded = fixture.forwarded(1_000);
        assert_eq!(forwarded.len() as u64, left, "{step}");
        match step {
            "cursor" => assert_eq!(forwarded, [2], "the cursor was durable"),
            // A cursor that is on its way may have come that far.
            "cursor asked for" => assert_eq!(forwarded.last(), Some(&2)),
            _ => assert_eq!(forwarded, [0, 1, 2], "{step}"),
        }
    }
}
