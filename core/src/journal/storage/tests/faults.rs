//! Disks that fail, fill up, cannot be opened and lose power under a storage thread.
//!
//! **Runs on: any.** `TRINE_SEEDS` asks for more power losses.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use super::super::super::disk::simulated::Faults;
use super::*;

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
        let lost = Answer::Refused { token: 1, why: Refused::Lost };
        assert_eq!(ask(store, append(1, a, "one")), lost);
        store.try_send(Request::MoveCursor { cursor, value: 3 }).unwrap();
        // Between two, the disk is tried again.
        let mut token = 1;
        until("it is refused at once", || {
            token += 1;
            match ask(store, append(token, a, "more")) {
                Answer::Refused { why: Refused::Lost, .. } => false,
                refused => refused == Answer::Refused { token, why: Refused::Failing },
            }
        });
        until("the phase", || storage.state().phase() == phase);
        store.try_send(Request::Flush { token: 0 }).unwrap();
        store.flush();
        disk.with(|disk| disk.faults = Faults::default());
        assert_eq!(answer(store), Answer::Flushed { token: 0 }, "the cursor is durable");
        token += 1;
        assert_eq!(ask(store, append(token, a, "last")), Answer::Durable { token, offset: 0 });
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
    store.try_send(named).unwrap();
    let failing = Answer::Refused { token: 2, why: Refused::Failing };
    assert_eq!(ask(store, Request::Flush { token: 2 }), failing);
    assert_eq!(storage.state().phase(), Phase::Failing);
    assert!(storage.state().error().is_some_and(|error| error.contains("nothing there")));
    broken.store(false, Ordering::SeqCst);
    until("the folder", || storage.state().phase() == Phase::Ready);
    assert!(matches!(answer(store), Answer::Opened { token: 1, .. }), "who asked has waited");

    let never = || Err::<HeldDisk, _>(io::Error::other("nothing there"));
    let (storage, _stores) = start_on(setup(PathBuf::new(), LOG, 1), never).unwrap();
    assert!(storage.stop(PATIENCE).is_err_and(|error| error.to_string().contains("nothing")));
}

/// Where its streams end is not known, so that a new record would get the place of one that is there.
#[test]
fn a_journal_whose_end_cannot_be_read_is_tried_again() {
    let disk = HeldDisk::new(1);
    let (storage, mut stores) = start_held(&disk, LOG, 1);
    let a = stream(&mut stores[0], "a");
    assert_eq!(ask(&mut stores[0], append(1, a, "one")), Answer::Durable { token: 1, offset: 0 });
    storage.stop(PATIENCE).unwrap();
    disk.with(|disk| disk.unreadable = Some(1));
    let (storage, mut stores) = start_held(&disk, LOG, 1);
    until("the failure", || storage.state().phase() == Phase::Failing);
    let error = storage.state().error();
    assert!(error.as_ref().is_some_and(|error| error.contains("1.segment can't")), "{error:?}");
    disk.with(|disk| disk.unreadable = None);
    let a = stream(&mut stores[0], "a");
    assert_eq!(ask(&mut stores[0], append(2, a, "two")), Answer::Durable { token: 2, offset: 1 });
    storage.stop(PATIENCE).unwrap();
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
        let moved = value;
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
            Answer::Listed { .. } => unreachable!("nothing here asks for names"),
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

/// On a spool: a log whose disk fails often gives up its oldest records for the room of segments that
/// were abandoned.
#[test]
fn power_loss_loses_nothing_that_a_shard_was_told_is_durable() {
    let seeds = std::env::var("TRINE_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let mut records_checked = 0;
    for seed in 0..seeds.unwrap_or(200) {
        let disk = HeldDisk::new(seed);
        let mut promised = BTreeMap::new();
        let mut asked = [(0, 0); 3];
        for round in 0..3 {
            let (storage, stores) = start_held(&disk, SPOOL, 3);
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
            disk.with(|disk| {
                disk.faults =
                    Faults { write: 20, sync: 20, create: 20, remove: 20, capacity_bytes: 0 };
                disk.power_in = Some(20 + disk.below(60) as u32);
            });
            let deadline = Instant::now() + PATIENCE;
            while !disk.with(|disk| disk.is_dark()) {
                let random = disk.with(|disk| disk.below(u64::MAX));
                thread::yield_now();
                clients[(random >> 32) as usize % 3].act(random);
                assert!(Instant::now() < deadline, "seed {seed}: the power never fails");
            }
            let stopped = storage.stop(PATIENCE).expect_err("there is no power for a mark");
            assert_ne!(stopped.kind(), io::ErrorKind::TimedOut, "seed {seed}, round {round}");
            for client in &mut clients {
                while let Some(answer) = client.store.receive() {
                    client.take(answer);
                }
            }
            disk.with(|disk| {
                disk.restart();
                disk.faults = Faults::default();
            });
            let (storage, mut stores) = start_held(&disk, SPOOL, 1);
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
