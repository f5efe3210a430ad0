//! The journal on a disk that tears, forgets, fails and fills up, and its bytes one by one.
//!
//! **Runs on: any.** `TRINE_SEEDS` and `TRINE_FLIPS` ask for more power losses and flipped bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::disk::at_once;
use super::disk::simulated::{Faults, SimulatedDisk};
use super::*;

#[path = "../../fuzz/properties.rs"]
mod properties;

const NOW: u64 = 1_700_000_000_000;
const LOG: Options =
    Options { quota_bytes: 16 << 20, retention: Retention::Oldest { age_ms: 0 }, gather_ms: 0 };
const SPOOL: Options =
    Options { quota_bytes: 24 << 20, retention: Retention::Released, gather_ms: 0 };

/// A journal on its disk, and all that it has promised.
struct World {
    disk: SimulatedDisk,
    journal: Journal,
    opened: Found,
    now_ms: u64,
    token: u64,
    /// What was appended and not yet answered: stream, payload.
    asked: BTreeMap<u64, (StreamId, Bytes)>,
    /// What must be there, by the name of its stream and its offset.
    durable: BTreeMap<(String, u64), Bytes>,
    lost: usize,
    failed: usize,
}

/// What opening told.
#[derive(Debug, Default, PartialEq)]
struct Found {
    damaged: Vec<Damage>,
    missing_records: u64,
    missing_segments: Vec<u64>,
    torn_bytes: u64,
    records: u64,
}

impl World {
    fn new(seed: u64, options: Options) -> World {
        World::on(SimulatedDisk::new(seed), options)
    }

    fn on(mut disk: SimulatedDisk, options: Options) -> World {
        let opened = at_once(open(&mut disk, options)).expect("the folder can be read");
        let found = Found {
            damaged: opened.damaged,
            missing_records: opened.missing_records,
            missing_segments: opened.missing_segments,
            torn_bytes: opened.torn_bytes,
            records: opened.records,
        };
        World {
            disk,
            journal: opened.journal,
            opened: found,
            now_ms: NOW,
            token: 0,
            asked: BTreeMap::new(),
            durable: BTreeMap::new(),
            lost: 0,
            failed: 0,
        }
    }

    /// The same disk, after the process or the power has come back.
    fn reopen(self, options: Options) -> World {
        let World { disk, durable, now_ms, token, .. } = self;
        World { durable, now_ms, token, ..World::on(disk, options) }
    }

    fn append(&mut self, stream: &str, payload: impl Into<Bytes>) -> Result<u64, Refused> {
        let (payload, id) = (payload.into(), self.journal.stream(stream).expect("few streams"));
        self.token += 1;
        let offset = self.journal.append(self.token, id, payload.clone(), self.now_ms)?;
        self.asked.insert(self.token, (id, payload));
        Ok(offset)
    }

    /// One operation and its answer; false: there was none.
    fn step(&mut self) -> bool {
        let Some(operation) = self.journal.next_operation(self.now_ms) else { return false };
        let result = at_once(perform(&mut self.disk, &operation));
        if self.disk.is_dark() {
            return false;
        }
        let mut events = Vec::new();
        self.journal.completed(result, self.now_ms, &mut events);
        for event in events {
            match event {
                Event::Durable { token, stream, offset } => {
                    let (asked, payload) = self.asked.remove(&token).expect("each is told once");
                    assert_eq!(asked, stream);
                    let names: Vec<_> = self.journal.names(false).collect();
                    let name = names.iter().find(|(id, _)| *id == stream).expect("it has a name");
                    let before = self.durable.insert((name.1.to_owned(), offset), payload);
                    assert_eq!(before, None, "an offset is given once");
                }
                Event::Lost { token } => {
                    self.asked.remove(&token).expect("each is told once");
                    self.lost += 1;
                }
                Event::Failed { .. } => self.failed += 1,
                Event::Removed { .. } => {}
            }
        }
        true
    }

    fn settle(&mut self) {
        while self.step() {}
    }

    /// What all segments take up.
    fn disk_bytes(&mut self) -> u64 {
        at_once(self.disk.list()).expect("readable").iter().map(|listed| listed.bytes).sum()
    }

    fn close(mut self, options: Options) -> World {
        self.journal.close();
        self.settle();
        assert!(self.journal.is_closed());
        self.reopen(options)
    }

    fn read(&mut self, stream: &str) -> Vec<(u64, Bytes)> {
        let id = self.journal.stream(stream).expect("few streams");
        let mut records = Vec::new();
        let from = self.journal.range(id).start;
        let reading = read(&mut self.disk, &self.journal, id, from, |offset, _, payload| {
            records.push((offset, payload));
            true
        });
        at_once(reading).expect("what is durable can be read");
        records
    }

    /// Everything that was promised is there, in order and as it was; the rest is what was in
    /// flight.
    fn check(&mut self) {
        let names: Vec<String> =
            self.journal.names(false).map(|(_, name)| name.to_owned()).collect();
        for ((name, offset), payload) in &self.durable {
            assert!(names.contains(name), "{name} is gone with offset {offset}: {payload:?}");
        }
        for name in names {
            let records = self.read(&name);
            let offsets: Vec<u64> = records.iter().map(|(offset, _)| *offset).collect();
            assert!(offsets.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{name}: {offsets:?}");
            let there: BTreeMap<u64, Bytes> = records.into_iter().collect();
            for ((of, offset), payload) in &self.durable {
                if *of == name {
                    assert_eq!(there.get(offset), Some(payload), "{name} {offset}");
                }
            }
            // What came to light unasked is durable from now on.
            for (offset, payload) in there {
                self.durable.insert((name.clone(), offset), payload);
            }
        }
    }
}

fn payload(random: u64) -> Bytes {
    let length = [0, 1, 30, 200, 4000, 4096, 9000][(random % 7) as usize];
    Bytes::from(vec![(random >> 8) as u8; length])
}

#[test]
fn what_was_acknowledged_is_there_after_a_clean_stop() {
    let mut world = World::new(1, LOG);
    for number in 0..300_u64 {
        let stream = ["a", "b", "c"][(number % 3) as usize];
        assert_eq!(world.append(stream, payload(number)), Ok(number / 3));
        if number % 10 == 9 {
            world.settle();
        }
    }
    world.settle();
    assert_eq!(world.durable.len(), 300);
    world.check();
    let cursor = world.journal.cursor("group").expect("few cursors");
    world.journal.move_cursor(cursor, 41, world.now_ms);
    let mut world = world.close(LOG);
    assert_eq!(world.opened, Found { records: world.opened.records, ..Found::default() });
    world.check();
    let cursor = world.journal.cursor("group").expect("few cursors");
    assert_eq!(world.journal.cursor_value(cursor), 41);
    assert_eq!(world.append("b", "more"), Ok(100));
    world.settle();
    assert_eq!(world.read("b").len(), 101);
}

#[test]
fn one_turns_records_share_a_commit() {
    let mut world = World::new(1, LOG);
    for number in 0..1000_u64 {
        world.append("a", number.to_string()).expect("there is room");
    }
    let mut writes = 0;
    while let Some(operation) = world.journal.next_operation(NOW) {
        writes += u32::from(matches!(operation, Operation::Write { .. }));
        at_once(perform(&mut world.disk, &operation)).expect("nothing fails here");
        world.journal.completed(Ok(()), NOW, &mut Vec::new());
    }
    assert_eq!(writes, 1);
}

#[test]
fn records_wait_for_others_as_long_as_asked() {
    let mut world = World::new(1, Options { gather_ms: 2, ..LOG });
    world.append("a", "one").expect("there is room");
    assert_eq!(world.journal.next_operation(NOW), None);
    assert_eq!(world.journal.deadline_ms(), NOW + 2);
    world.append("a", "two").expect("there is room");
    world.now_ms += 2;
    world.settle();
    assert_eq!(world.durable.len(), 2);
}

#[test]
fn power_loss_at_any_operation_loses_nothing_acknowledged() {
    let seeds = std::env::var("TRINE_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    for seed in 0..seeds.unwrap_or(200) {
        let mut world = World::new(seed, SPOOL);
        let mut cursor_value = 0;
        for _ in 0..4 {
            world.disk.faults =
                Faults { write: 20, sync: 20, create: 20, remove: 20, capacity_bytes: 0 };
            world.disk.power_in = Some(world.disk.below(60) as u32);
            while !world.disk.is_dark() {
                let random = world.disk.below(u64::MAX);
                let stream = ["a", "b", "c", "d"][(random % 4) as usize];
                let _ = world.append(stream, payload(random >> 3));
                if random.is_multiple_of(5) {
                    let cursor = world.journal.cursor("group").expect("few cursors");
                    cursor_value = world.journal.cursor_value(cursor) + 1;
                    world.journal.move_cursor(cursor, cursor_value, world.now_ms);
                }
                world.now_ms += random % 20;
                for _ in 0..random % 4 {
                    world.step();
                }
            }
            world.disk.restart();
            world.disk.faults = Faults::default();
            // Not every start writes something.
            world = world.reopen(SPOOL).reopen(SPOOL);
            let found = &world.opened;
            assert_eq!(found.damaged, [], "seed {seed}: a power loss is no corruption");
            assert_eq!(
                (found.missing_records, &found.missing_segments[..]),
                (0, &[][..]),
                "{seed}"
            );
            world.check();
            let cursor = world.journal.cursor("group").expect("few cursors");
            let value = world.journal.cursor_value(cursor);
            assert!(value <= cursor_value, "seed {seed}: a cursor never leads");
            cursor_value = value;
        }
    }
}

#[test]
fn a_failed_sync_seals_the_file_and_its_records_go_to_a_new_one() {
    let mut world = World::new(1, LOG);
    world.append("a", "first").expect("there is room");
    world.settle();
    world.append("a", "second").expect("there is room");
    // The write is fine, the sync is not.
    world.disk.script.extend([true, false]);
    world.settle();
    assert_eq!((world.durable.len(), world.lost, world.failed), (2, 0, 1));
    let segments = at_once(world.disk.list()).expect("the folder can be read");
    assert_eq!(segments.len(), 2);
    world.disk.restart();
    let mut world = world.reopen(LOG);
    assert_eq!(world.opened.damaged, []);
    world.check();
    assert_eq!(world.read("a").len(), 2);
}

#[test]
fn a_disk_that_always_fails_refuses_and_is_tried_again() {
    let mut world = World::new(1, LOG);
    world.disk.faults.sync = 1000;
    world.append("a", "first").expect("there is room");
    world.append("a", "second").expect("there is room");
    world.settle();
    assert_eq!((world.durable.len(), world.lost, world.failed), (0, 2, 3));
    assert_eq!(world.append("a", "third"), Err(Refused::Failing));
    world.disk.faults.sync = 0;
    world.now_ms = world.journal.deadline_ms();
    assert_eq!(world.append("a", "fourth"), Ok(0), "no offset was used up");
    world.settle();
    assert_eq!(world.durable.len(), 1);
    world.disk.restart();
    let mut world = world.reopen(LOG);
    world.check();
    assert_eq!(world.read("a"), [(0, Bytes::from("fourth"))], "what was refused stays away");
}

/// A journal that has filled its disk, long before its quota.
fn full_disk(options: Options) -> World {
    let mut world = World::new(1, options);
    world.disk.faults.capacity_bytes = 7 << 20;
    while world.lost == 0 {
        world.append("a", vec![7; 100_000]).expect("the quota is larger than the disk");
        world.settle();
    }
    world
}

#[test]
fn a_full_disk_refuses_and_keeps_what_it_has() {
    let world = full_disk(SPOOL);
    assert!(world.durable.len() > 10);
    let mut world = world.reopen(SPOOL);
    world.check();
}

#[test]
fn a_full_disk_has_room_again_once_records_are_released() {
    let mut world = full_disk(SPOOL);
    let cursor = world.journal.cursor("forwarded").expect("few cursors");
    let taken = world.durable.len() as u64;
    world.journal.move_cursor(cursor, taken, world.now_ms);
    let stream = world.journal.stream("a").expect("few streams");
    world.journal.release(stream, taken);
    for _ in 0..8 {
        world.now_ms += 2_000;
        world.settle();
    }
    assert_eq!(world.append("a", "again"), Ok(taken));
    world.settle();
    let mut world = world.reopen(SPOOL);
    assert_eq!(world.read("a").last(), Some(&(taken, Bytes::from("again"))));
    let cursor = world.journal.cursor("forwarded").expect("few cursors");
    assert_eq!(world.journal.cursor_value(cursor), taken);
}

#[test]
fn a_full_disk_has_room_again_once_records_are_too_old() {
    let log = Options { retention: Retention::Oldest { age_ms: 10_000 }, ..LOG };
    let mut world = full_disk(log);
    let (taken, stream) =
        (world.durable.len() as u64, world.journal.stream("a").expect("few streams"));
    world.now_ms += 10_000;
    world.settle();
    assert_eq!(world.journal.range(stream), 0..taken, "nothing is too old yet");
    world.now_ms += 1;
    world.settle();
    assert!(world.journal.range(stream).start > 0);
    assert_eq!(world.append("a", "again"), Ok(taken));
    world.settle();
    assert!(world.durable.contains_key(&("a".to_owned(), taken)));
}

/// The newest segment of the process before names all, so no other has to be made first.
#[test]
fn a_start_on_a_full_disk_has_room_once_records_are_too_old() {
    let log = Options { retention: Retention::Oldest { age_ms: 10_000 }, ..LOG };
    let mut world = full_disk(log);
    let taken = world.durable.len() as u64;
    world.now_ms += 10_001;
    let mut world = world.reopen(log);
    world.disk.faults.capacity_bytes = world.disk_bytes();
    world.settle();
    let stream = world.journal.stream("a").expect("few streams");
    assert!(world.journal.range(stream).start > 0);
    let mut world = world.reopen(log);
    assert_eq!(world.append("a", "again"), Ok(taken), "offsets go on where they were");
    world.settle();
    assert!(world.durable.contains_key(&("a".to_owned(), taken)));
}

/// It may have been damaged, and then what it named is known from earlier ones alone.
#[test]
fn a_segment_that_does_not_name_all_replaces_none_before_it() {
    let log = Options { retention: Retention::Oldest { age_ms: 10_000 }, ..LOG };
    let mut world = World::new(1, log);
    for payload in ["first", "second"] {
        world.append("a", payload).expect("there is room");
        world.settle();
        world.journal.close();
        world.settle();
        world = world.reopen(log);
        world.settle();
    }
    assert!(world.disk.flip(2, 20, 1), "in the header of the only commit with records");
    world.now_ms += 10_001;
    let mut world = world.reopen(log);
    world.settle();
    assert_eq!(world.read("a"), [(0, Bytes::from("first"))]);
}

#[test]
fn a_start_on_a_full_disk_takes_what_room_there_is() {
    let mut world = World::new(1, SPOOL);
    for _ in 0..70 {
        world.append("a", vec![7; 100_000]).expect("there is room");
        world.settle();
    }
    let taken = world.durable.len() as u64;
    let mut world = world.reopen(SPOOL);
    world.settle();
    let used = world.disk_bytes();
    world.disk.faults.capacity_bytes = used + COMMIT_BYTES as u64 + (64 << 10);
    world.append("a", "next").expect("it is tried");
    world.settle();
    assert_eq!(world.lost, 1, "a whole segment has no room");
    world.now_ms += 2_000;
    assert_eq!(world.append("a", "again"), Ok(taken));
    world.settle();
    assert!(world.durable.contains_key(&("a".to_owned(), taken)));
    world.reopen(SPOOL).check();
}

/// Segments that failed count in the quota, and nothing that was acknowledged makes room for them.
#[test]
fn a_failing_disk_costs_the_log_no_record() {
    for faults in
        [Faults { write: 1000, ..Faults::default() }, Faults { sync: 1000, ..Faults::default() }]
    {
        let mut world = World::new(1, LOG);
        for _ in 0..70 {
            world.append("a", vec![7; 100_000]).expect("there is room");
            world.settle();
        }
        world.disk.faults = faults;
        for _ in 0..20 {
            world.now_ms += 2_000;
            world.append("a", "not now").expect("it is tried");
            world.settle();
        }
        assert!(world.lost == 20 && world.failed >= 60, "{} failed", world.failed);
        world.disk.faults = Faults::default();
        world.now_ms += 2_000;
        world.append("a", "again").expect("it is well");
        world.settle();
        let stream = world.journal.stream("a").expect("few streams");
        assert_eq!(world.journal.range(stream).start, 0);
        let all = world.disk_bytes();
        assert!(all <= LOG.quota_bytes, "{all}: what failed is gone");
        world.check();
        world.reopen(LOG).check();
    }
}

/// And all of a spool, since nobody knows whether what is in the others was released.
#[test]
fn only_the_newest_segment_of_a_log_must_be_read() {
    for (options, unreadable, is_whole) in
        [(LOG, 1, true), (LOG, 2, false), (SPOOL, 1, false), (SPOOL, 2, false)]
    {
        let mut world = World::new(1, options);
        world.append("a", "first").expect("there is room");
        world.settle();
        let mut world = world.reopen(options);
        world.append("a", "second").expect("there is room");
        world.settle();
        world.disk.unreadable = Some(unreadable);
        let opened = at_once(open(&mut world.disk, options)).expect("the folder can be read");
        assert_eq!(opened.damaged.len(), 1);
        let end = opened.whole().map(|mut opened| {
            let stream = opened.journal.stream("a").expect("few streams");
            opened.journal.range(stream).end
        });
        assert_eq!(end.ok(), is_whole.then_some(2), "{options:?}, {unreadable}");
    }
}

#[test]
fn what_cannot_be_read_is_as_young_as_what_comes_behind() {
    let age_ms = 1_000_000;
    let log = Options { retention: Retention::Oldest { age_ms }, ..LOG };
    let mut world = World::new(1, log);
    for payload in ["first", "second"] {
        world.append("a", payload).expect("there is room");
        world.settle();
        world = world.reopen(log);
    }
    world.disk.unreadable = Some(1);
    let mut world = world.reopen(log);
    let mut left = |now_ms| -> Vec<u64> {
        world.now_ms = now_ms;
        world.append("a", "more").expect("there is room");
        world.settle();
        let listed = at_once(world.disk.list()).expect("readable");
        listed.iter().map(|listed| listed.segment).collect()
    };
    assert_eq!(left(NOW + age_ms), [1, 2, 3]);
    assert_eq!(left(NOW + age_ms + 1), [3]);
}

#[test]
fn a_full_spool_refuses_until_records_are_released() {
    let mut world = World::new(1, SPOOL);
    let refused = loop {
        if let Err(refused) = world.append("a", vec![7; 100_000]) {
            break refused;
        }
        world.settle();
    };
    assert_eq!(refused, Refused::Full);
    let (taken, used) = (world.durable.len() as u64, world.journal.used_bytes());
    assert!(used > SPOOL.quota_bytes / 2 && used < SPOOL.quota_bytes);
    let all = world.disk_bytes();
    assert!(all <= SPOOL.quota_bytes, "{all}: preallocated room counts too");
    // Cursors still move.
    let cursor = world.journal.cursor("forwarded").expect("few cursors");
    world.journal.move_cursor(cursor, taken / 2, world.now_ms);
    world.now_ms += 1000;
    world.settle();
    let stream = world.journal.stream("a").expect("few streams");
    world.journal.release(stream, taken / 2);
    world.settle();
    assert!(world.journal.range(stream).start > 0);
    assert!(world.journal.range(stream).start <= taken / 2);
    assert_eq!(world.append("a", "again"), Ok(taken));
    world.settle();
    let mut world = world.reopen(SPOOL);
    assert_eq!((world.opened.missing_records, &world.opened.missing_segments[..]), (0, &[][..]));
    let cursor = world.journal.cursor("forwarded").expect("few cursors");
    assert_eq!(world.journal.cursor_value(cursor), taken / 2);
    assert_eq!(world.read("a").last(), Some(&(taken, Bytes::from("again"))));
}

#[test]
fn a_log_forgets_its_oldest_segments() {
    let mut world = World::new(1, Options { quota_bytes: 24 << 20, ..LOG });
    world.append("rare", "once").expect("there is room");
    for _ in 0..600 {
        world.append("a", vec![7; 100_000]).expect("old records make room");
        world.settle();
    }
    assert!(world.journal.used_bytes() <= 24 << 20);
    let stream = world.journal.stream("a").expect("few streams");
    let range = world.journal.range(stream);
    assert!(range.start > 300 && range.end == 600);
    let mut world = world.close(LOG);
    let stream = world.journal.stream("a").expect("few streams");
    assert_eq!(world.journal.range(stream), range);
    let rare = world.journal.stream("rare").expect("few streams");
    assert_eq!(world.journal.range(rare), 1..1, "its offsets go on where they were");
    assert_eq!(world.append("rare", "twice"), Ok(1));
}

/// Records that come while each commit is under way leave room its turn.
#[test]
fn a_journal_that_never_rests_stays_within_its_quota() {
    let small = Options { quota_bytes: 16 << 20, ..LOG };
    let large = Options { quota_bytes: 24 << 20, ..LOG };
    // So much waits in the first that one commit fills a segment.
    for (options, waiting, steps) in [(small, 2 << 20, 200), (large, 1, 1_200), (SPOOL, 1, 1_200)] {
        let mut world = World::new(1, options);
        for _ in 0..steps {
            while world.journal.pending_bytes() < waiting {
                world.append("a", vec![7; 60_000]).expect("what goes makes room");
            }
            assert!(world.step());
            let stream = world.journal.stream("a").expect("few streams");
            let end = world.journal.range(stream).end;
            world.journal.release(stream, end);
        }
        let bytes = world.disk_bytes();
        assert!(bytes <= options.quota_bytes + options.segment_bytes(), "{bytes}");
    }
}

/// A segment that can't be removed takes up room, and no record is refused for it.
#[test]
fn a_segment_that_stays_holds_up_no_record() {
    let options = Options { quota_bytes: 24 << 20, ..LOG };
    let mut world = World::new(1, options);
    world.disk.faults = Faults { remove: 1000, ..Faults::default() };
    for _ in 0..400 {
        world.append("a", vec![7; 100_000]).expect("the disk takes records");
        world.settle();
        world.now_ms += 10;
    }
    assert!(world.lost == 0 && (1..10).contains(&world.failed), "{} failed", world.failed);
    world.disk.faults = Faults::default();
    world.now_ms = world.journal.deadline_ms();
    world.settle();
    assert!(world.disk_bytes() <= options.quota_bytes + options.segment_bytes());
}

/// Every flip below the last mark is reported; what is above is never silently lost or changed.
#[test]
fn a_flipped_byte_is_never_silent() {
    let flips = std::env::var("TRINE_FLIPS").ok().and_then(|flips| flips.parse().ok());
    for seed in 0..flips.unwrap_or(400) {
        let mut world = World::new(seed, LOG);
        for number in 0..40_u64 {
            world.append("a", payload(number * 7919)).expect("there is room");
            if number % 4 == 3 {
                world.settle();
            }
        }
        world.settle();
        let clean = seed.is_multiple_of(2);
        if clean {
            world.journal.close();
            world.settle();
        }
        let written =
            4096 * world.disk.bytes(1).chunks(4096).filter(|b| b[0..4] == *b"TJC1").count();
        assert!(written > 0);
        let end = world.disk.bytes(1).iter().rposition(|&byte| byte != 0).expect("written") as u64;
        let at = world.disk.below(end);
        let bits = 1 << world.disk.below(8);
        assert!(world.disk.flip(1, at, bits));
        let expected = world.durable.clone();
        let mut world = world.reopen(LOG);
        let reported = !world.opened.damaged.is_empty() || world.opened.torn_bytes > 0;
        assert!(reported, "seed {seed}: byte {at} of {end} changed unseen");
        let there = world.read("a");
        for (offset, payload) in &there {
            assert_eq!(expected.get(&("a".to_owned(), *offset)), Some(payload), "seed {seed}");
        }
        if clean && at < end - 64 {
            assert!(!world.opened.damaged.is_empty(), "seed {seed}: below the mark is corruption");
            assert_eq!(world.disk.quarantined(), [1]);
        }
        let last = there.last().map_or(0, |(offset, _)| offset + 1);
        let missing = last - there.len() as u64;
        assert_eq!(world.opened.missing_records, missing, "seed {seed}: gaps are counted");
    }
}

#[test]
fn a_repaired_segment_has_all_but_what_was_damaged() {
    for seed in 0..100 {
        let mut world = World::new(seed, Options { quota_bytes: 24 << 20, ..LOG });
        for number in 0..300 {
            world.append("a", payload(number * 7919)).expect("there is room");
            if number % 4 == 3 {
                world.settle();
            }
        }
        world = world.close(LOG);
        world.settle();
        let end = world.disk.bytes(1).len() as u64;
        let at = world.disk.below(end);
        assert!(world.disk.flip(1, at, 1));
        let whole = world.disk.bytes(1).to_vec();
        let fixed = repaired(1, &whole, None);
        let mut before = 0;
        scan(1, &whole, end, |_, _| before += 1);
        let mut after = 0;
        let scanned = scan(1, &fixed, end, |_, _| after += 1);
        assert_eq!(
            (after, scanned.damaged, scanned.torn_bytes),
            (before, vec![], 0),
            "seed {seed}"
        );
    }
}

/// A segment without one good commit says nothing of the ones before it, and neither does what is
/// written in its place.
#[test]
fn a_repaired_segment_leaves_the_ones_before_it() {
    let mut world = World::new(1, LOG);
    for payload in ["first", "second", "third"] {
        world.append("a", payload).expect("there is room");
        world.settle();
        world = world.reopen(LOG);
        world.settle();
    }
    assert!(world.disk.flip(2, 20, 1), "in the header of the only commit");
    let listed = at_once(world.disk.list()).expect("readable");
    let mark = at_once(mark_of(&mut world.disk, 2, &listed[2..], &mut Vec::new()));
    let fixed = repaired(2, world.disk.bytes(2), mark);
    assert_eq!(fixed.len(), world.disk.bytes(2).len());
    at_once(world.disk.write(2, 0, &fixed)).expect("nothing fails here");
    at_once(world.disk.sync(2)).expect("nothing fails here");
    let mut world = world.reopen(LOG);
    let expected = Found { missing_records: 1, records: world.opened.records, ..Found::default() };
    assert_eq!(world.opened, expected, "the second record alone");
    assert_eq!(world.read("a"), [(0, Bytes::from("first")), (2, Bytes::from("third"))]);
}

/// A process that was killed leaves what it wrote in the page cache: what is read of it after a start
/// is still there when the power fails then.
#[test]
fn what_a_start_has_found_is_durable() {
    for seed in 0..50 {
        let mut world = World::new(seed, LOG);
        for number in 0..10_u64 {
            world.append("a", payload(number * 7919)).expect("there is room");
        }
        while let Some(operation) = world.journal.next_operation(NOW) {
            if matches!(operation, Operation::Sync { .. }) {
                break;
            }
            at_once(perform(&mut world.disk, &operation)).expect("nothing fails here");
            world.journal.completed(Ok(()), NOW, &mut Vec::new());
        }
        let mut world = world.reopen(LOG);
        let found = world.read("a");
        assert_eq!(found.len(), 10);
        world.disk.restart();
        let mut world = world.reopen(LOG);
        assert!(world.read("a") == found, "seed {seed}");
    }
}

/// What a segment held that was given up may show up in the room of a later one, so no two have one
/// number.
#[test]
fn a_number_is_given_once_though_nothing_was_kept() {
    let segments = |world: &mut World| -> Vec<(u64, bool)> {
        let listed = at_once(world.disk.list()).expect("readable");
        listed.iter().map(|listed| (listed.segment, listed.bytes == 0)).collect()
    };
    let mut empty = 0;
    for seed in 0..20 {
        let mut world = World::new(seed, LOG);
        world.append("a", vec![1; 9000]).expect("there is room");
        world.disk.script.extend([true, false]);
        assert!(world.step() && world.step(), "a segment is made, and the write fails somewhere");
        let mut world = world.reopen(LOG);
        world.settle();
        let mut world = world.reopen(LOG);
        world.append("a", "second").expect("there is room");
        world.settle();
        let [(1, is_empty), (2, false)] = segments(&mut world)[..] else { panic!("two segments") };
        empty += usize::from(is_empty);
        let mut world = world.reopen(LOG);
        assert_eq!(segments(&mut world).len(), if is_empty { 1 } else { 2 });
        world.check();
    }
    assert!(empty > 0, "mostly the write is cut");
}

/// Not even where a segment in which nothing became durable was between.
#[test]
fn what_retention_removed_is_not_missed() {
    let mut world = World::new(1, Options { quota_bytes: 24 << 20, ..LOG });
    world.append("a", "first").expect("there is room");
    world.settle();
    // The first segment is given up, and nothing of the second one becomes durable.
    world.disk.script.extend([true, false, true, true, false]);
    world.append("a", "second").expect("there is room");
    world.settle();
    while at_once(world.disk.list()).expect("readable")[0].segment == 1 {
        world.append("a", vec![7; 100_000]).expect("old records make room");
        world.settle();
    }
    assert_eq!(at_once(world.disk.list()).expect("readable")[0].segment, 3);
    let world = world.reopen(LOG);
    assert_eq!((&world.opened.missing_segments[..], world.opened.missing_records), (&[][..], 0));
}

#[test]
fn a_removed_file_is_missed() {
    let mut world = World::new(1, Options { quota_bytes: 24 << 20, ..LOG });
    for _ in 0..150 {
        world.append("a", vec![7; 100_000]).expect("there is room");
        world.settle();
    }
    at_once(world.disk.remove(2)).expect("it is there");
    let world = world.reopen(LOG);
    assert_eq!(world.opened.missing_segments, [2]);
    assert!(world.opened.missing_records > 0);
}

#[test]
fn too_large_and_too_much_are_refused() {
    let mut world = World::new(1, LOG);
    let limit = crate::limits::RECORD_BYTES;
    assert_eq!(world.append("a", vec![0; limit + 1]), Err(Refused::TooLarge));
    let mut taken = 0;
    while world.append("a", vec![0; limit]).is_ok() {
        taken += 1;
    }
    assert_eq!(world.append("a", vec![0; limit]), Err(Refused::Busy));
    world.settle();
    assert_eq!(world.durable.len(), taken);
    world.journal.close();
    assert_eq!(world.append("a", "x"), Err(Refused::Closing));
}

/// The fuzz target's corpus and its damaged neighbours.
#[test]
fn the_corpus_is_replayed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/journal");
    let files = std::fs::read_dir(folder).unwrap();
    let files: Vec<_> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(files.len() >= 8);
    for data in files {
        properties::journal(&data);
        for at in 0..data.len() {
            properties::journal(&data[..at]);
            for bits in [1, 0x55, 0xff] {
                let mut changed = data.clone();
                changed[at] ^= bits;
                properties::journal(&changed);
            }
        }
    }
}

proptest! {
    #[test]
    fn any_segments_can_be_replayed(script in prop::collection::vec(any::<u8>(), 0..600)) {
        properties::journal(&script);
    }

    /// A commit reads back as it was written, and none of it passes at another place.
    #[test]
    fn commits_read_back(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..20),
        segment in 1..u64::MAX,
        block in 0..1_000_u64,
    ) {
        let position = block * BLOCK_BYTES as u64;
        let mut writer = CommitWriter::new(segment, position, 0);
        for (number, payload) in payloads.iter().enumerate() {
            let offset = number as u64;
            let record = Record { stream: 3, kind: Kind::Data, offset, time_ms: NOW, payload };
            writer.record(&record);
        }
        let previous = Mark { segment: segment - 1, synced: 8192 };
        let bytes = writer.finish(position, previous, NOW);
        prop_assert_eq!(bytes.len() % BLOCK_BYTES, 0);
        let header = commit_at(segment, position, &bytes).expect("it was written here");
        prop_assert_eq!(header.padded_bytes() as usize, bytes.len());
        let records: Vec<Record<'_>> = Records::new(header, &bytes).collect();
        prop_assert_eq!(records.len(), payloads.len());
        prop_assert!(records.iter().zip(&payloads).all(|(record, payload)| record.payload == payload));
        prop_assert_eq!(commit_at(segment ^ 1, position, &bytes), None);
        prop_assert_eq!(commit_at(segment, position + BLOCK_BYTES as u64, &bytes), None);
    }

    /// No bytes make the scan panic, and it never says more than the file holds.
    #[test]
    fn any_bytes_can_be_scanned(mut bytes in prop::collection::vec(any::<u8>(), 0..20_000),
        real in any::<bool>(), marked in 0..30_000_u64) {
        if real && bytes.len() > BLOCK_BYTES {
            let mut writer = CommitWriter::new(5, 0, 0);
            let payload = &bytes[..100];
            writer.record(&Record { stream: 0, kind: Kind::Data, offset: 0, time_ms: 0, payload });
            let commit = writer.finish(0, Mark::default(), 0);
            bytes[..BLOCK_BYTES].copy_from_slice(&commit);
        }
        let mut records = 0;
        let scanned = scan(5, &bytes, marked, |_, _| records += 1);
        prop_assert_eq!(scanned.records, records);
        prop_assert!(records == u64::from(real && bytes.len() > BLOCK_BYTES));
    }
}
