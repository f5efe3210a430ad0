//! The storage thread through its real rings: what it promises, disks that stall, rings too small
//! for anything, processes that are killed.
//!
//! **Runs on: any.**

mod abort;
mod faults;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::disk::simulated::SimulatedDisk;
use super::super::disk::{Disk, Listed, at_once};
use super::super::machine::{Operation, Refused};
use super::super::open::{open as open_journal, perform};
use super::super::{Retention, StreamId};
use super::engine::{Engine, Next};
use super::*;
use crate::limits::{JOURNAL_CACHE_BYTES, STREAM_NAME_BYTES};

const LOG: Options =
    Options { quota_bytes: 64 << 20, retention: Retention::Oldest { age_ms: 0 }, gather_ms: 0 };
const SPOOL: Options =
    Options { quota_bytes: 24 << 20, retention: Retention::Released, gather_ms: 0 };

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

// ------------------------------------------------------------------ a disk that tests hold

/// A simulated disk that outlives its storage thread, with a gate before each sync.
#[derive(Clone)]
struct HeldDisk(Arc<(Mutex<Held>, Condvar)>);

struct Held {
    disk: SimulatedDisk,
    /// Syncs that wait.
    at_gate: usize,
    closed: bool,
}

impl HeldDisk {
    fn new(seed: u64) -> Self {
        let held = Held { disk: SimulatedDisk::new(seed), at_gate: 0, closed: false };
        Self(Arc::new((Mutex::new(held), Condvar::new())))
    }

    fn with<T>(&self, change: impl FnOnce(&mut SimulatedDisk) -> T) -> T {
        change(&mut self.0.0.lock().unwrap().disk)
    }

    fn close_gate(&self, closed: bool) {
        self.0.0.lock().unwrap().closed = closed;
        self.0.1.notify_all();
    }

    fn is_stalled(&self) -> bool {
        self.0.0.lock().unwrap().at_gate > 0
    }

    fn do_now<T>(&self, work: impl AsyncFnOnce(&mut SimulatedDisk) -> T) -> T {
        at_once(work(&mut self.0.0.lock().unwrap().disk))
    }
}

impl Disk for HeldDisk {
    async fn list(&mut self) -> io::Result<Vec<Listed>> {
        self.do_now(async |disk| disk.list().await)
    }

    async fn create(&mut self, segment: u64, bytes: u64) -> io::Result<()> {
        self.do_now(async |disk| disk.create(segment, bytes).await)
    }

    async fn write(&mut self, segment: u64, position: u64, data: &[u8]) -> io::Result<()> {
        self.do_now(async |disk| disk.write(segment, position, data).await)
    }

    async fn sync(&mut self, segment: u64) -> io::Result<()> {
        let (held, opened) = &*self.0;
        let mut held = held.lock().unwrap();
        held.at_gate += 1;
        while held.closed {
            held = opened.wait(held).unwrap();
        }
        held.at_gate -= 1;
        at_once(held.disk.sync(segment))
    }

    async fn read(
        &mut self,
        segment: u64,
        position: u64,
        bytes: usize,
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        self.do_now(async |disk| disk.read(segment, position, bytes, buffer).await)
    }

    async fn truncate(&mut self, segment: u64, bytes: u64) -> io::Result<()> {
        self.do_now(async |disk| disk.truncate(segment, bytes).await)
    }

    async fn remove(&mut self, segment: u64) -> io::Result<()> {
        self.do_now(async |disk| disk.remove(segment).await)
    }

    async fn quarantine(&mut self, segment: u64) -> io::Result<()> {
        self.do_now(async |disk| disk.quarantine(segment).await)
    }
}

// ------------------------------------------------------------------ helpers

fn setup(folder: PathBuf, options: Options, shards: usize) -> Setup {
    let wakes = (0..shards).map(|_| WakeHandle::new().unwrap()).collect();
    Setup { folder, options, shards, wakes, cpus: None, preference: Preference::Automatic }
}

fn start_held(disk: &HeldDisk, options: Options, shards: usize) -> (Storage, Vec<Store>) {
    let disk = disk.clone();
    start_on(setup(PathBuf::new(), options, shards), move || Ok(disk.clone())).unwrap()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} never came");
        thread::yield_now();
    }
}

fn answer(store: &mut Store) -> Answer {
    let mut answer = None;
    until("the answer", || {
        answer = store.receive();
        answer.is_some()
    });
    answer.unwrap()
}

fn ask(store: &mut Store, request: Request) -> Answer {
    store.try_send(request).expect("there is room");
    store.flush();
    answer(store)
}

fn open_any(store: &mut Store, name: &str, cursor: bool) -> (StreamId, u64, u64, u64) {
    match ask(store, Request::Open { token: 77, name: name.into(), cursor }) {
        Answer::Opened { token: 77, stream, first, next, value } => (stream, first, next, value),
        other => panic!("{other:?}"),
    }
}

fn stream(store: &mut Store, name: &str) -> StreamId {
    open_any(store, name, false).0
}

fn append(token: u64, stream: StreamId, payload: impl Into<Bytes>) -> Request {
    Request::Append { token, stream, payload: payload.into() }
}

fn read(token: u64, stream: StreamId, offset: u64) -> Request {
    let (limit_bytes, limit_records) = (1 << 20, 1000);
    Request::Read { token, stream, offset, limit_bytes, limit_records, wait: false }
}

fn read_waiting(token: u64, stream: StreamId, offset: u64) -> Request {
    let (limit_bytes, limit_records) = (1 << 20, 1000);
    Request::Read { token, stream, offset, limit_bytes, limit_records, wait: true }
}

/// All of a stream.
fn read_all(store: &mut Store, stream: StreamId) -> Vec<StoredRecord> {
    let (mut all, mut from) = (Vec::new(), 0);
    loop {
        match ask(store, read(1, stream, from)) {
            Answer::Read { records, next_offset, end_offset, .. } => {
                all.extend(records);
                if next_offset >= end_offset {
                    return all;
                }
                assert!(next_offset > from, "a read goes on");
                from = next_offset;
            }
            other => panic!("{other:?}: {:?}", store.state().error()),
        }
    }
}

/// Who appended a record and as which of its own.
fn payload(shard: usize, number: u64, bytes: usize) -> Bytes {
    let mut payload = vec![shard as u8; 9 + bytes];
    payload[1..9].copy_from_slice(&number.to_le_bytes());
    Bytes::from(payload)
}

fn identity(payload: &[u8]) -> (usize, u64) {
    (payload[0] as usize, u64::from_le_bytes(payload[1..9].try_into().unwrap()))
}

/// Nothing twice, and each shard's records in the order of its appends.
fn check_order(records: &[StoredRecord]) {
    assert!(records.windows(2).all(|pair| pair[0].offset + 1 == pair[1].offset));
    let mut last = BTreeMap::new();
    for record in records {
        let (shard, number) = identity(&record.payload);
        let before = last.insert(shard, number);
        assert!(before.is_none_or(|before| before < number), "{before:?}, then {number}");
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("trine-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

// ------------------------------------------------------------------ the ordinary

#[test]
fn records_are_appended_and_read_and_survive_a_stop() {
    let disk = HeldDisk::new(1);
    let (storage, mut stores) = start_held(&disk, LOG, 2);
    let a = stream(&mut stores[0], "a");
    assert_eq!(stream(&mut stores[1], "a"), a, "all shards have the same streams");
    let (cursor, .., value) = open_any(&mut stores[0], "group", true);
    assert_ne!(cursor, a);
    assert_eq!(value, 0);
    for number in 0..10 {
        let shard = number as usize % 2;
        let expected = Answer::Durable { token: number, offset: number };
        assert_eq!(ask(&mut stores[shard], append(number, a, number.to_string())), expected);
    }
    stores[1].try_send(Request::MoveCursor { cursor, value: 7 }).unwrap();
    assert_eq!(ask(&mut stores[1], Request::Flush { token: 5 }), Answer::Flushed { token: 5 });
    let Answer::Read { records, first: 0, next_offset: 6, end_offset: 10, .. } = ask(
        &mut stores[1],
        Request::Read {
            token: 1,
            stream: a,
            offset: 4,
            limit_bytes: 2,
            limit_records: 9,
            wait: true,
        },
    ) else {
        panic!("two bytes are two records");
    };
    assert_eq!(
        records.iter().map(|r| (r.offset, &*r.payload)).collect::<Vec<_>>(),
        [(4, &b"4"[..]), (5, &b"5"[..])]
    );
    assert_eq!((storage.state().phase(), storage.state().records()), (Phase::Ready, 10));
    assert!(storage.state().commits() >= 10 && storage.state().syncs() >= 10);
    storage.stop(PATIENCE).expect("the disk is fine");
    assert_eq!(stores[0].state().phase(), Phase::Closed);
    assert!(stores[0].try_send(append(1, a, "x")).is_err(), "nobody is there");

    let (storage, mut stores) = start_held(&disk, LOG, 1);
    assert_eq!(open_any(&mut stores[0], "a", false), (a, 0, 10, 0));
    assert_eq!(open_any(&mut stores[0], "group", true), (cursor, 0, 0, 7));
    let recovery = storage.state().recovery().expect("it is open");
    assert_eq!((recovery.damaged, recovery.torn_bytes, recovery.missing_records), (0, 0, 0));
    assert_eq!(read_all(&mut stores[0], a).len(), 10);
}

#[test]
fn what_comes_while_the_disk_works_is_one_commit() {
    let disk = HeldDisk::new(1);
    let (storage, mut stores) = start_held(&disk, LOG, 2);
    let a = stream(&mut stores[0], "a");
    disk.close_gate(true);
    stores[0].try_send(append(0, a, "first")).unwrap();
    stores[0].flush();
    until("the sync", || disk.is_stalled());
    for number in 0..500 {
        for store in &mut stores {
            store.try_send(append(number, a, "more")).unwrap();
            store.flush();
        }
    }
    assert_eq!(stores[0].receive(), None, "nothing is durable yet");
    disk.close_gate(false);
    assert_eq!(answer(&mut stores[0]), Answer::Durable { token: 0, offset: 0 });
    for store in &mut stores {
        for number in 0..500 {
            assert!(matches!(answer(store), Answer::Durable { token, .. } if token == number));
        }
    }
    assert_eq!((storage.state().commits(), storage.state().records()), (2, 1001));
}

#[test]
fn a_read_waits_for_the_first_durable_record_and_can_be_cancelled() {
    let disk = HeldDisk::new(1);
    let (storage, mut stores) = start_held(&disk, LOG, 2);
    let [writer, reader] = &mut stores[..] else { unreachable!() };
    let (a, b) = (stream(writer, "a"), stream(writer, "b"));
    let Answer::Read { records, next_offset: 0, end_offset: 0, .. } = ask(reader, read(1, a, 0))
    else {
        panic!("an empty stream is read at once");
    };
    assert_eq!(records, []);
    reader.try_send(read_waiting(2, a, 0)).unwrap();
    reader.try_send(read_waiting(3, b, 0)).unwrap();
    reader.try_send(read_waiting(4, a, 1)).unwrap();
    reader.try_send(Request::CancelRead { token: 3 }).unwrap();
    reader.try_send(Request::CancelRead { token: 99 }).unwrap();
    assert_eq!(ask(reader, Request::Flush { token: 0 }), Answer::Flushed { token: 0 });
    disk.close_gate(true);
    writer.try_send(append(1, b, "none")).unwrap();
    writer.try_send(append(1, a, "one")).unwrap();
    writer.flush();
    until("the sync", || disk.is_stalled());
    assert_eq!(reader.receive(), None, "it is not durable");
    disk.close_gate(false);
    let Answer::Read { token: 2, records, next_offset: 1, .. } = answer(reader) else {
        panic!("the first record");
    };
    assert_eq!(records[0].payload, "one");
    writer.try_send(append(2, a, "two")).unwrap();
    writer.flush();
    let Answer::Read { token: 4, records, .. } = answer(reader) else { panic!("the second") };
    assert_eq!((records.len(), &records[0].payload[..]), (1, &b"two"[..]));
    reader.try_send(read_waiting(5, a, 2)).unwrap();
    reader.flush();
    storage.stop(PATIENCE).unwrap();
    let (token, why, next_offset) = (5, ReadFailure::Closing, 2);
    assert_eq!(answer(reader), Answer::ReadFailed { token, why, next_offset });
}

#[test]
fn old_records_are_read_from_the_disk_and_what_is_gone_is_told() {
    let disk = HeldDisk::new(1);
    let (storage, mut stores) = start_held(&disk, LOG, 1);
    let store = &mut stores[0];
    let (a, b) = (stream(store, "a"), stream(store, "b"));
    let count = 4 * JOURNAL_CACHE_BYTES as u64 / 100_000;
    for number in 0..count {
        let more = ask(store, append(number, a, payload(0, number, 100_000)));
        assert_eq!(more, Answer::Durable { token: number, offset: number });
        ask(store, append(number, b, payload(1, number, 10)));
    }
    let all = read_all(store, a);
    check_order(&all);
    assert_eq!(all.last().map(|record| record.offset), Some(count - 1));
    let Answer::Read { first, records, .. } = ask(store, read(1, a, 0)) else { panic!("records") };
    assert!(first > 0 && first == records[0].offset && all[0].offset == first);
    assert_eq!(records.iter().map(|r| r.payload.len()).sum::<usize>() / 100_009, 9, "about a MiB");
    check_order(&read_all(store, b));
    until("what is gone is counted", || {
        let gone = [a, b].map(|stream| match ask(store, read(1, stream, 0)) {
            Answer::Read { first, .. } => first,
            other => panic!("{other:?}"),
        });
        gone.iter().sum::<u64>() == storage.state().removed()
    });
}

#[test]
fn a_damaged_commit_fails_its_read_and_the_stream_goes_on() {
    let disk = HeldDisk::new(1);
    let (storage, mut stores) = start_held(&disk, LOG, 1);
    let a = stream(&mut stores[0], "a");
    for number in 0..3 {
        ask(&mut stores[0], append(number, a, payload(0, number, 5000)));
    }
    storage.stop(PATIENCE).unwrap();
    let (storage, mut stores) = start_held(&disk, LOG, 1);
    let store = &mut stores[0];
    let a = stream(store, "a");
    // The first byte of the second commit, after recovery has seen it whole.
    assert!(disk.with(|disk| disk.flip(1, 8192, 1)));
    let Answer::Read { records, next_offset: 1, .. } = ask(store, read(1, a, 0)) else {
        panic!("the first is whole");
    };
    assert_eq!(records.len(), 1);
    let (token, why, next_offset) = (2, ReadFailure::Damaged, 2);
    assert_eq!(ask(store, read(2, a, 1)), Answer::ReadFailed { token, why, next_offset });
    assert!(matches!(ask(store, read(3, a, 2)), Answer::Read { next_offset: 3, .. }));
    drop(storage);
}

#[test]
fn too_much_is_refused_and_says_why() {
    let disk = HeldDisk::new(1);
    let (storage, mut stores) = start_held(&disk, SPOOL, 1);
    let store = &mut stores[0];
    let name = "x".repeat(STREAM_NAME_BYTES + 1).into();
    let refused = |token, why| Answer::Refused { token, why };
    let long = Request::Open { token: 1, name, cursor: false };
    assert_eq!(ask(store, long), refused(1, Refused::TooLarge));
    let a = stream(store, "a");
    let large = append(2, a, vec![0; crate::limits::RECORD_BYTES + 1]);
    assert_eq!(ask(store, large), refused(2, Refused::TooLarge));
    let mut taken = 0;
    let full = loop {
        match ask(store, append(3, a, vec![0; 100_000])) {
            Answer::Durable { .. } => taken += 1,
            other => break other,
        }
    };
    assert_eq!((full, storage.state().phase()), (refused(3, Refused::Full), Phase::Full));
    store.try_send(Request::Release { stream: a, offset: taken }).unwrap();
    store.flush();
    until("room", || storage.state().phase() == Phase::Ready);
    assert_eq!(ask(store, append(4, a, "x")), Answer::Durable { token: 4, offset: taken });
    assert_eq!(storage.state().removed(), 0, "what was released is not missed");
}

/// However many reads of old records wait, each commit is followed by at most one.
#[test]
fn reads_of_the_disk_do_not_starve_commits() {
    let mut disk = SimulatedDisk::new(1);
    let mut engine = Engine::new(at_once(open_journal(&mut disk, LOG)).unwrap().journal, 1);
    let state = State::default();
    let named = Request::Open { token: 0, name: "a".into(), cursor: false };
    engine.take(0, named, 1);
    let Some((0, Answer::Opened { stream: a, .. })) = engine.answers().next() else {
        panic!("it is opened")
    };
    let step = |engine: &mut Engine, disk: &mut SimulatedDisk, now_ms| match engine.next(now_ms) {
        Next::Operation(operation) => {
            let result = at_once(perform(disk, &operation));
            engine.completed(&operation, result, now_ms, &state);
            if matches!(operation, Operation::Sync { .. }) { 's' } else { 'o' }
        }
        Next::Fetch(fetch) => {
            let mut buffer = Vec::new();
            let read = disk.read(fetch.segment, fetch.position, fetch.bytes, &mut buffer);
            let result = at_once(read).map(|()| Bytes::from(buffer));
            engine.fetched(fetch, result, &state);
            'r'
        }
        Next::Wait { .. } => '.',
    };
    // What is read below has gone from memory, and no two of it fit one fetch.
    for number in 0..40 {
        engine.take(0, append(number, a, vec![0; 1 << 20]), 1);
        while step(&mut engine, &mut disk, 1) != '.' {}
    }
    for number in 0..20 {
        engine.take(0, read(number, a, number), 1);
    }
    engine.take(0, append(100, a, "x"), 1);
    let mut steps = String::new();
    for number in 0..60 {
        if number < 30 {
            engine.take(0, append(101 + number, a, "x"), 1);
        }
        steps.push(step(&mut engine, &mut disk, 1));
    }
    assert!(!steps.contains("rr") || steps.rfind('s') < steps.find("rr"), "{steps}");
    assert!(steps.contains("sros"), "{steps}");
    assert_eq!(steps.matches('r').count(), 20, "{steps}");
}

// ------------------------------------------------------------------ real folders and processes

fn start_real(folder: &Folder, preference: Preference) -> (Storage, Vec<Store>) {
    start(Setup { preference, ..setup(folder.0.clone(), LOG, 2) }).unwrap()
}

#[test]
fn a_real_folder_keeps_records_with_either_driver() {
    for (preference, expected) in [(Preference::Plain, "plain"), (Preference::Automatic, "")] {
        let folder = Folder::new(&format!("storage-{preference:?}"));
        let mut numbers = 0;
        for round in 0..3 {
            let (storage, mut stores) = start_real(&folder, preference);
            let (a, _, next, _) = open_any(&mut stores[0], "a", false);
            assert_eq!(next, numbers, "{preference:?}, round {round}");
            let driver = storage.state().driver().expect("it runs");
            assert!(driver.contains(expected), "{driver}");
            let reader = &mut stores[1];
            reader.try_send(read_waiting(0, a, next)).unwrap();
            reader.flush();
            let store = &mut stores[0];
            for _ in 0..100 {
                for _ in 0..10 {
                    numbers += 1;
                    let bytes = payload(0, numbers, numbers as usize * 37 % 9000);
                    store.try_send(append(numbers, a, bytes)).unwrap();
                }
                store.flush();
                for number in numbers - 9..=numbers {
                    let (token, offset) = (number, number - 1);
                    assert_eq!(answer(store), Answer::Durable { token, offset }, "{driver}");
                }
            }
            let first = answer(&mut stores[1]);
            assert!(matches!(first, Answer::Read { token: 0, ref records, .. }
                if records[0].offset == next));
            let records = read_all(&mut stores[1], a);
            assert_eq!(records.len() as u64, numbers);
            check_order(&records);
            assert!(storage.state().sync_max_ns() > 0);
            storage.stop(PATIENCE).unwrap();
        }
        let (storage, mut stores) = start_real(&folder, preference);
        let a = stream(&mut stores[0], "a");
        // Nothing of it is in memory now.
        let records = read_all(&mut stores[0], a);
        assert_eq!(records.len() as u64, numbers);
        check_order(&records);
        let recovery = storage.state().recovery().expect("it has answered");
        assert_eq!((recovery.damaged, recovery.torn_bytes), (0, 0));
        let other = start(setup(folder.0.clone(), LOG, 1));
        let refused = other.err().expect("a folder has one owner");
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    }
}

/// Not a test of its own: the process that [`killed_processes_leave_what_they_acknowledged`] kills.
#[test]
fn child_that_appends_until_it_is_killed() {
    let Ok(folder) = std::env::var("TRINE_TEST_FOLDER") else { return };
    let begin: u64 = std::env::var("TRINE_TEST_BEGIN").unwrap().parse().unwrap();
    let preference = match std::env::var("TRINE_TEST_PLAIN") {
        Ok(_) => Preference::Plain,
        Err(_) => Preference::Automatic,
    };
    let setup = setup(PathBuf::from(folder), LOG, 1);
    let (_storage, mut stores) = start(Setup { preference, ..setup }).unwrap();
    let store = &mut stores[0];
    let a = stream(store, "a");
    let load = Load { begin, window: u64::MAX, bytes: 500 };
    append_and_tell(store, a, load, PATIENCE, |_, _| {});
}

/// What a process appends that will be ended.
struct Load {
    /// The first record's number.
    begin: u64,
    /// Records that may be without an answer.
    window: u64,
    /// Bytes of each, at least.
    bytes: usize,
}

/// Appends for as long as it may and writes number and offset of each durable record to the standard
/// output; `after` is told how many are durable.
fn append_and_tell(
    store: &mut Store,
    stream: StreamId,
    load: Load,
    limit: Duration,
    mut after: impl FnMut(&mut Store, u64),
) {
    let Load { begin, window, bytes } = load;
    let (mut number, mut durable) = (begin, 0);
    let mut out = io::stdout().lock();
    writeln!(out, "\nrunning").unwrap();
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        while number - begin < durable.max(1_u64).saturating_add(window)
            && store.try_send(append(number, stream, payload(0, number, bytes))).is_ok()
        {
            number += 1;
        }
        store.flush();
        while let Some(answer) = store.receive() {
            match answer {
                Answer::Durable { token, offset } => {
                    durable += 1;
                    writeln!(out, "acked {token} {offset}").unwrap();
                }
                Answer::Refused { why: Refused::Busy, .. } => {}
                other => panic!("{other:?}"),
            }
        }
        out.flush().unwrap();
        after(store, durable);
    }
}

/// A process that runs one of these tests with a folder.
fn child(test: &str, folder: &Folder) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "--nocapture"]).arg(format!("journal::storage::tests::{test}"));
    child.env("TRINE_TEST_FOLDER", &folder.0).stdout(Stdio::piped());
    child
}

/// Number and offset of what a child has told to be durable, until it ends.
fn acked(child: &mut std::process::Child) -> impl Iterator<Item = (u64, u64)> + use<> {
    let out = BufReader::new(child.stdout.take().expect("it is piped"));
    out.lines().map_while(Result::ok).filter_map(|line| {
        let (token, offset) = line.strip_prefix("acked ")?.split_once(' ')?;
        Some((token.parse().ok()?, offset.parse().ok()?))
    })
}

#[test]
fn killed_processes_leave_what_they_acknowledged() {
    for preference in [Preference::Plain, Preference::Automatic] {
        let folder = Folder::new(&format!("killed-{preference:?}"));
        let mut acked: BTreeMap<u64, u64> = BTreeMap::new();
        for round in 0..5_u64 {
            let before = acked.len();
            let mut command = child("child_that_appends_until_it_is_killed", &folder);
            command.env("TRINE_TEST_BEGIN", (round * 1_000_000).to_string());
            if preference == Preference::Plain {
                command.env("TRINE_TEST_PLAIN", "1");
            }
            let mut child = command.spawn().unwrap();
            // It dies somewhere between two acknowledgements, each time somewhere else.
            let mut left = 50 + round * 137;
            for (token, offset) in self::acked(&mut child) {
                acked.insert(offset, token);
                left = left.saturating_sub(1);
                if left == 0 {
                    child.kill().unwrap();
                    left = u64::MAX;
                }
            }
            child.wait().unwrap();
            assert!(acked.len() > before, "round {round}");
            let (storage, mut stores) = start_real(&folder, preference);
            let a = stream(&mut stores[0], "a");
            let records = read_all(&mut stores[0], a);
            check_order(&records);
            let there: BTreeMap<u64, u64> =
                records.iter().map(|r| (r.offset, identity(&r.payload).1)).collect();
            for (offset, token) in &acked {
                assert_eq!(there.get(offset), Some(token), "round {round}: offset {offset}");
            }
            assert_eq!(storage.state().recovery().expect("it is open").damaged, 0);
            storage.stop(PATIENCE).unwrap();
        }
    }
}

// ------------------------------------------------------------------ rings that are too small

/// Three shards on runtimes of their own sleep and are woken; with two places in each ring and three
/// requests outstanding everything is full all the time.
#[test]
fn sleeping_shards_are_woken_with_everything_full() {
    const EACH: u64 = 3000;
    let disk = HeldDisk::new(1);
    let setup = setup(PathBuf::new(), Options { quota_bytes: 256 << 20, ..LOG }, 3);
    let wakes = setup.wakes.clone();
    let capacity = Capacity { requests: 2, answers: 2, outstanding: 3 };
    let held = disk.clone();
    let open = move || Ok(held.clone());
    let (storage, stores) =
        launch(setup, capacity, move |desks| serve::run_blocking(desks, open)).unwrap();
    let shards: Vec<_> = stores
        .into_iter()
        .zip(wakes)
        .enumerate()
        .map(|(number, (mut store, wake))| {
            thread::spawn(move || {
                let a = stream(&mut store, "a");
                let task = move |_: &crate::rt::Driver| {
                    crate::rt::spawn(async move {
                        let wakeup = crate::rt::Wakeup::new(&wake).unwrap();
                        let (mut next, mut answered) = (0, 0);
                        while answered < EACH {
                            while next < EACH
                                && store
                                    .try_send(append(next, a, payload(number, next, 10)))
                                    .is_ok()
                            {
                                next += 1;
                            }
                            store.flush();
                            while let Some(answer) = store.receive() {
                                let token = answered;
                                assert!(matches!(answer, Answer::Durable { token: t, .. }
                                    if t == token));
                                answered += 1;
                            }
                            if answered < EACH {
                                wakeup.wait().await.unwrap();
                            }
                        }
                        crate::rt::stop();
                    });
                };
                crate::rt::run(crate::rt::Preference::Epoll, task, |_| {}).unwrap();
            })
        })
        .collect();
    until("the last shard", || shards.iter().all(|shard| shard.is_finished()));
    for shard in shards {
        shard.join().unwrap();
    }
    assert_eq!(storage.state().records(), 3 * EACH);
    storage.stop(PATIENCE).unwrap();
}
