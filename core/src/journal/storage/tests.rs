//! The storage thread through its real rings: disks that stall, fail, fill up and lose power, rings
//! too small for anything, processes that are killed.
//!
//! **Runs on: any.** `TRINE_SEEDS` asks for more power losses.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::disk::simulated::{Faults, SimulatedDisk};
use super::super::disk::{Disk, Listed, at_once};
use super::super::machine::Refused;
use super::super::{Retention, StreamId};
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
    let (_storage, mut stores) = start_held(&disk, LOG, 1);
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
}

// ------------------------------------------------------------------ faults

#[test]
fn a_sync_that_fails_once_is_not_felt() {
    let disk = HeldDisk::new(1);
    let (storage, mut stores) = start_held(&disk, LOG, 1);
    let a = stream(&mut stores[0], "a");
    ask(&mut stores[0], append(0, a, "first"));
    disk.with(|disk| disk.script.extend([true, false]));
    let second = ask(&mut stores[0], append(1, a, "second"));
    assert_eq!(second, Answer::Durable { token: 1, offset: 1 });
    assert_eq!((storage.state().failures(), storage.state().lost()), (1, 0));
    assert!(storage.state().error().is_some_and(|error| error.contains("sync")));
}

#[test]
fn a_disk_that_fails_or_is_full_refuses_until_it_is_well() {
    for (faults, phase) in [
        (Faults { sync: 1000, ..Faults::default() }, Phase::Failing),
        (Faults { create: 1000, ..Faults::default() }, Phase::Failing),
        (Faults { capacity_bytes: 1, ..Faults::default() }, Phase::Full),
    ] {
        let disk = HeldDisk::new(1);
        disk.with(|disk| disk.faults = faults);
        let (storage, mut stores) = start_held(&disk, LOG, 1);
        let store = &mut stores[0];
        let a = stream(store, "a");
        let (cursor, ..) = open_any(store, "group", true);
        store.try_send(Request::MoveCursor { cursor, value: 3 }).unwrap();
        let lost = Answer::Refused { token: 1, why: Refused::Lost };
        assert_eq!(ask(store, append(1, a, "one")), lost);
        assert_eq!(storage.state().phase(), phase);
        let failing = Answer::Refused { token: 2, why: Refused::Failing };
        assert_eq!(ask(store, append(2, a, "two")), failing);
        store.try_send(Request::Flush { token: 3 }).unwrap();
        store.flush();
        disk.with(|disk| disk.faults = Faults::default());
        assert_eq!(answer(store), Answer::Flushed { token: 3 }, "the cursor is durable");
        assert_eq!(ask(store, append(4, a, "four")), Answer::Durable { token: 4, offset: 0 });
        until("the news", || storage.state().phase() == Phase::Ready);
        storage.stop(PATIENCE).unwrap();
    }
}

#[test]
fn a_folder_that_cannot_be_opened_is_tried_again() {
    let (disk, broken) = (HeldDisk::new(1), Arc::new(AtomicBool::new(true)));
    let (held, switch) = (disk.clone(), broken.clone());
    let open = move || match switch.load(Ordering::SeqCst) {
        true => Err(io::Error::other("nothing there")),
        false => Ok(held.clone()),
    };
    let (storage, mut stores) = start_on(setup(PathBuf::new(), LOG, 1), open).unwrap();
    let store = &mut stores[0];
    let named = Request::Open { token: 1, name: "a".into(), cursor: false };
    let failing = Answer::Refused { token: 1, why: Refused::Failing };
    assert_eq!(ask(store, named.clone()), failing);
    assert_eq!(storage.state().phase(), Phase::Failing);
    assert!(storage.state().error().is_some_and(|error| error.contains("nothing there")));
    broken.store(false, Ordering::SeqCst);
    until("the folder", || storage.state().phase() == Phase::Ready);
    assert!(matches!(ask(store, named), Answer::Opened { .. }));

    let never = || Err::<HeldDisk, _>(io::Error::other("nothing there"));
    let (storage, _stores) = start_on(setup(PathBuf::new(), LOG, 1), never).unwrap();
    assert!(storage.stop(PATIENCE).is_err_and(|error| error.to_string().contains("nothing")));
}

#[test]
fn a_stop_has_a_deadline_and_a_failing_disk_no_final_mark() {
    let disk = HeldDisk::new(1);
    let (storage, mut stores) = start_held(&disk, LOG, 1);
    let a = stream(&mut stores[0], "a");
    disk.close_gate(true);
    stores[0].try_send(append(1, a, "x")).unwrap();
    stores[0].flush();
    until("the sync", || disk.is_stalled());
    let stopped = storage.stop(Duration::from_millis(1));
    assert_eq!(stopped.unwrap_err().kind(), io::ErrorKind::TimedOut);
    disk.close_gate(false);

    let disk = HeldDisk::new(1);
    let (storage, mut stores) = start_held(&disk, LOG, 1);
    let a = stream(&mut stores[0], "a");
    disk.with(|disk| disk.faults.sync = 1000);
    stores[0].try_send(append(1, a, "x")).unwrap();
    stores[0].try_send(Request::Flush { token: 2 }).unwrap();
    assert!(storage.stop(PATIENCE).is_err());
    assert_eq!(answer(&mut stores[0]), Answer::Refused { token: 1, why: Refused::Lost });
    assert!(matches!(answer(&mut stores[0]), Answer::Flushed { .. } | Answer::Refused { .. }));
}

/// One shard of the power-loss test: what it asked, what it was promised, what it has read.
struct Client {
    store: Store,
    number: usize,
    asked: u64,
    durable: BTreeMap<(String, u64), (usize, u64)>,
    read: BTreeMap<(String, u64), (usize, u64)>,
    /// Its appends that are not answered: token and stream.
    open: BTreeMap<u64, String>,
    cursor: StreamId,
    moved: u64,
    flushing: Option<u64>,
    flushed: u64,
    tails: BTreeMap<u64, (String, StreamId)>,
    last_offset: BTreeMap<String, u64>,
}

const STREAMS: [&str; 3] = ["a", "b", "c"];

impl Client {
    fn new(mut store: Store, number: usize, asked: u64, moved: u64) -> Self {
        let mut tails = BTreeMap::new();
        for (at, name) in STREAMS.iter().enumerate() {
            let (id, _, next, _) = open_any(&mut store, name, false);
            store.try_send(read_waiting(1 << 40 | at as u64, id, next)).unwrap();
            tails.insert(1 << 40 | at as u64, ((*name).to_owned(), id));
        }
        let (cursor, .., value) = open_any(&mut store, &format!("group-{number}"), true);
        assert!(value <= moved, "a cursor never leads");
        let (durable, read, open) = Default::default();
        let (flushing, flushed, last_offset) = (None, value, BTreeMap::new());
        Self {
            store,
            number,
            asked,
            durable,
            read,
            open,
            cursor,
            moved,
            flushing,
            flushed,
            tails,
            last_offset,
        }
    }

    fn act(&mut self, random: u64) {
        let at = (random % 3) as usize;
        let (name, id) = self.tails[&(1 << 40 | at as u64)].clone();
        let length = [0, 30, 200, 4000, 9000][(random >> 8) as usize % 5];
        match random >> 4 & 7 {
            0..5 if self.open.len() < 8 => {
                self.asked += 1;
                let bytes = payload(self.number, self.asked, length);
                if self.store.try_send(append(self.asked, id, bytes)).is_ok() {
                    self.open.insert(self.asked, name);
                }
            }
            5 => {
                let value = self.moved + 1;
                let request = Request::MoveCursor { cursor: self.cursor, value };
                if self.store.try_send(request).is_ok() {
                    self.moved = value;
                }
            }
            6 if self.flushing.is_none() => {
                let flushed = self.store.try_send(Request::Flush { token: 1 << 50 | self.moved });
                self.flushing = flushed.is_ok().then_some(self.moved);
            }
            _ => self.store.flush(),
        }
        while let Some(answer) = self.store.receive() {
            self.take(answer);
        }
    }

    fn take(&mut self, answer: Answer) {
        match answer {
            Answer::Durable { token, offset } => {
                let name = self.open.remove(&token).expect("each is answered once");
                let before = self.last_offset.insert(name.clone(), offset);
                assert!(before.is_none_or(|before| before < offset), "in order");
                self.durable.insert((name, offset), (self.number, token));
            }
            Answer::Refused { token, .. } if token >> 50 == 1 => self.flushing = None,
            Answer::Refused { token, .. } => {
                self.open.remove(&token).expect("each is answered once");
            }
            Answer::Flushed { token } => {
                let flushed = self.flushing.take().expect("it was asked for");
                assert_eq!(1 << 50 | flushed, token);
                self.flushed = flushed;
            }
            Answer::Read { token, records, next_offset, .. } => {
                let (name, id) = self.tails[&token].clone();
                assert!(!records.is_empty(), "it waits for records");
                for record in records {
                    let key = (name.clone(), record.offset);
                    let before = self.read.insert(key, identity(&record.payload));
                    assert_eq!(before, None, "each is read once");
                }
                // After a stop nobody is there.
                let _ = self.store.try_send(read_waiting(token, id, next_offset));
                self.store.flush();
            }
            Answer::ReadFailed { .. } => {}
            Answer::Opened { .. } => panic!("nothing is opened here"),
        }
    }
}

#[test]
fn power_loss_loses_nothing_that_a_shard_was_told_is_durable() {
    let seeds = std::env::var("TRINE_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let small = Options { quota_bytes: 24 << 20, ..LOG };
    let mut records_checked = 0;
    for seed in 0..seeds.unwrap_or(200) {
        let disk = HeldDisk::new(seed);
        let mut promised = BTreeMap::new();
        let mut asked = [(0, 0); 3];
        for round in 0..3 {
            disk.with(|disk| {
                disk.faults = Faults { write: 20, sync: 20, create: 20, capacity_bytes: 0 };
                disk.power_in = Some(20 + disk.below(60) as u32);
            });
            let (storage, stores) = start_held(&disk, small, 3);
            let recovery = |storage: &Storage| {
                let found = storage.state().recovery().expect("it has answered");
                let lost = (found.damaged, found.missing_records, found.missing_segments);
                assert_eq!(lost, (0, 0, 0), "seed {seed}, round {round}: no corruption");
            };
            let mut clients: Vec<Client> = (0..3)
                .zip(stores)
                .map(|(number, store)| Client::new(store, number, asked[number].0, asked[number].1))
                .collect();
            recovery(&storage);
            let deadline = Instant::now() + PATIENCE;
            while !disk.with(|disk| disk.is_dark()) {
                let random = disk.with(|disk| disk.below(u64::MAX));
                thread::yield_now();
                clients[(random >> 32) as usize % 3].act(random);
                assert!(Instant::now() < deadline, "seed {seed}: the power never fails");
            }
            assert!(storage.stop(PATIENCE).is_err(), "there is no power for a mark");
            for client in &mut clients {
                while let Some(answer) = client.store.receive() {
                    client.take(answer);
                }
            }
            disk.with(|disk| {
                disk.restart();
                disk.faults = Faults::default();
            });
            let (storage, mut stores) = start_held(&disk, small, 1);
            for client in &clients {
                promised.extend(client.durable.clone());
                let name = format!("group-{}", client.number);
                let value = open_any(&mut stores[0], &name, true).3;
                assert!((client.flushed..=client.moved).contains(&value), "seed {seed}: {value}");
                asked[client.number] = (client.asked, client.moved);
            }
            let mut there = BTreeMap::new();
            for name in STREAMS {
                let id = stream(&mut stores[0], name);
                let records = read_all(&mut stores[0], id);
                check_order(&records);
                records_checked += records.len();
                let identities = records.iter().map(|r| (r.offset, identity(&r.payload)));
                there.extend(identities.map(|(offset, who)| ((name.to_owned(), offset), who)));
            }
            for (key, who) in promised.iter().chain(clients.iter().flat_map(|c| &c.read)) {
                assert_eq!(there.get(key), Some(who), "seed {seed}, round {round}: {key:?}");
            }
            recovery(&storage);
            storage.stop(PATIENCE).expect("the power is back");
        }
    }
    assert!(records_checked > 1000, "{records_checked}");
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
            println!("{preference:?}: {driver}");
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
    let mut number = begin;
    let mut out = io::stdout().lock();
    writeln!(out, "\nrunning").unwrap();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        while number < begin + 1_000_000
            && store.try_send(append(number, a, payload(0, number, 500))).is_ok()
        {
            number += 1;
        }
        store.flush();
        while let Some(answer) = store.receive() {
            match answer {
                Answer::Durable { token, offset } => {
                    writeln!(out, "acked {token} {offset}").unwrap()
                }
                Answer::Refused { why: Refused::Busy, .. } => {}
                other => panic!("{other:?}"),
            }
        }
        out.flush().unwrap();
    }
}

#[test]
fn killed_processes_leave_what_they_acknowledged() {
    for preference in [Preference::Plain, Preference::Automatic] {
        let folder = Folder::new(&format!("killed-{preference:?}"));
        let mut acked: BTreeMap<u64, u64> = BTreeMap::new();
        for round in 0..5_u64 {
            let before = acked.len();
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "--nocapture"]);
            child.arg("journal::storage::tests::child_that_appends_until_it_is_killed");
            child.env("TRINE_TEST_FOLDER", &folder.0);
            child.env("TRINE_TEST_BEGIN", (round * 1_000_000).to_string());
            if preference == Preference::Plain {
                child.env("TRINE_TEST_PLAIN", "1");
            }
            let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
            let out = BufReader::new(child.stdout.take().unwrap());
            // It dies somewhere between two acknowledgements, each time somewhere else.
            let mut left = 50 + round * 137;
            for line in out.lines() {
                let line = line.unwrap();
                let Some(rest) = line.strip_prefix("acked ") else { continue };
                let (token, offset) = rest.split_once(' ').expect("the line is whole");
                acked.insert(offset.parse().unwrap(), token.parse().unwrap());
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
