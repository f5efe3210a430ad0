//! Shards and what crosses between them: ownership, mailboxes, the balance of connections.
//!
//! **Runs on: shard** (made once on the main thread, then each part moves to its shard).
//! Invariants: one bounded FIFO for each ordered pair of shards; a message that may not be refused
//! waits in the sender's own list for that pair, which goes first and in order; one wake a turn
//! for each shard that sleeps; nobody waits inside a turn.

use crate::limits::{MAILBOX_MESSAGES, MAILBOX_MESSAGES_IN_A_ROW, MAILBOX_MESSAGES_PER_SHARD};
use crate::rt::WakeHandle;
use crossbeam_utils::CachePadded;
use rtrb::{Consumer, Producer, PushError, RingBuffer};
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

/// Which shard owns a name. All shards of a process hold clones of one value, whose keys are
/// random: a client cannot choose names that all fall on one shard.
#[derive(Clone, Debug)]
pub struct Ownership {
    shards: usize,
    keys: RandomState,
}

impl Ownership {
    /// Ownership among `shards` shards (at least one).
    pub fn new(shards: usize) -> Self {
        assert!(shards > 0, "a process has at least one shard");
        Self { shards, keys: RandomState::new() }
    }

    /// The shard that owns `name`.
    #[inline]
    pub fn owner(&self, name: &str) -> usize {
        if self.shards == 1 {
            return 0;
        }
        (self.keys.hash_one(name) % self.shards as u64) as usize
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shards
    }
}

/// The mailboxes of one shard: a queue from and one to every other shard.
pub struct Mailboxes<M> {
    index: usize,
    outgoing: Vec<Option<Lane<M>>>,
    incoming: Vec<Option<Inlet<M>>>,
    /// Where the next look for a message begins, and how many more it may give before the next
    /// peer, so that no peer is always first.
    next_from: usize,
    in_a_row: usize,
    sent: u64,
    received: u64,
    refused: u64,
    shared: Arc<Shared>,
}

struct Lane<M> {
    ring: Producer<M>,
    /// Messages that may not be refused and found the ring full, oldest first.
    backlog: VecDeque<M>,
    /// Something went into the ring since the last flush.
    pushed: bool,
    /// A message was refused since the last flush, so room is waited for.
    wanted: bool,
}

struct Inlet<M> {
    ring: Consumer<M>,
    /// Something was taken out since the queue was last seen empty.
    popped: bool,
}

struct Shared {
    /// A shard that is about to wait for the kernel says so here; who clears it wakes it.
    parked: Vec<CachePadded<AtomicBool>>,
    /// For each ordered pair (from × shards + to): the sender waits for room.
    wants_room: Vec<CachePadded<AtomicBool>>,
    wakes: Vec<WakeHandle>,
}

impl Shared {
    fn wake(&self, shard: usize) {
        if self.parked[shard].swap(false, Ordering::SeqCst) {
            self.wakes[shard].wake();
        }
    }
}

/// Makes the mailboxes among `shards` shards, one value for each.
///
/// Errors: no descriptor left for an eventfd.
pub fn mesh<M: Send>(shards: usize) -> io::Result<Vec<Mailboxes<M>>> {
    mesh_with_capacity(shards, (MAILBOX_MESSAGES_PER_SHARD / shards).clamp(64, MAILBOX_MESSAGES))
}

/// [`mesh`] with room for `capacity` messages in each mailbox.
pub fn mesh_with_capacity<M: Send>(
    shards: usize,
    capacity: usize,
) -> io::Result<Vec<Mailboxes<M>>> {
    let wakes = (0..shards).map(|_| WakeHandle::new()).collect::<io::Result<_>>()?;
    let flags = |count| (0..count).map(|_| CachePadded::new(AtomicBool::new(false))).collect();
    let shared =
        Arc::new(Shared { parked: flags(shards), wants_room: flags(shards * shards), wakes });
    let mut all: Vec<Mailboxes<M>> = (0..shards)
        .map(|index| Mailboxes {
            index,
            outgoing: (0..shards).map(|_| None).collect(),
            incoming: (0..shards).map(|_| None).collect(),
            next_from: 0,
            in_a_row: 0,
            sent: 0,
            received: 0,
            refused: 0,
            shared: shared.clone(),
        })
        .collect();
    for from in 0..shards {
        for to in (0..shards).filter(|&to| to != from) {
            let (ring, consumer) = RingBuffer::new(capacity);
            let lane = Lane { ring, backlog: VecDeque::new(), pushed: false, wanted: false };
            all[from].outgoing[to] = Some(lane);
            all[to].incoming[from] = Some(Inlet { ring: consumer, popped: false });
        }
    }
    Ok(all)
}

impl<M> Mailboxes<M> {
    /// This shard's number.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.outgoing.len()
    }

    /// What wakes this shard; its thread waits on it.
    pub fn wake_handle(&self) -> WakeHandle {
        self.shared.wakes[self.index].clone()
    }

    /// Sends unless the mailbox is full; then the message comes back.
    pub fn try_send(&mut self, to: usize, message: M) -> Result<(), M> {
        let lane = self.lane(to);
        if lane.backlog.is_empty() {
            match lane.ring.push(message) {
                Ok(()) => {
                    lane.pushed = true;
                    self.sent += 1;
                    return Ok(());
                }
                Err(PushError::Full(back)) => {
                    lane.wanted = true;
                    self.refused += 1;
                    return Err(back);
                }
            }
        }
        lane.wanted = true;
        self.refused += 1;
        Err(message)
    }

    /// Sends a message that may not be refused: with a full mailbox it waits here, in order. The
    /// caller bounds how many such messages there can be.
    pub fn send(&mut self, to: usize, message: M) {
        self.sent += 1;
        let lane = self.lane(to);
        if !lane.backlog.is_empty() {
            lane.backlog.push_back(message);
            return;
        }
        lane.pushed = true;
        if let Err(PushError::Full(back)) = lane.ring.push(message) {
            lane.backlog.push_back(back);
        }
    }

    /// Whether [`Mailboxes::try_send`] would succeed now; if not, room is waited for, as after a
    /// refusal.
    pub fn has_room(&mut self, to: usize) -> bool {
        let lane = self.lane(to);
        let room = lane.backlog.is_empty() && lane.ring.slots() > 0;
        if !room {
            lane.wanted = true;
            self.refused += 1;
        }
        room
    }

    /// The next message for this shard and who sent it; peers take turns.
    pub fn receive(&mut self) -> Option<(usize, M)> {
        let shards = self.incoming.len();
        for step in 0..shards {
            let from = (self.next_from + step) % shards;
            let Some(inlet) = &mut self.incoming[from] else { continue };
            if let Ok(message) = inlet.ring.pop() {
                inlet.popped = true;
                self.in_a_row = if from == self.next_from { self.in_a_row + 1 } else { 1 };
                self.next_from = from;
                if self.in_a_row == MAILBOX_MESSAGES_IN_A_ROW {
                    (self.next_from, self.in_a_row) = ((from + 1) % shards, 0);
                }
                self.received += 1;
                return Some((from, message));
            }
            if std::mem::take(&mut inlet.popped) {
                self.tell_room(from);
            }
        }
        None
    }

    /// To be called at the end of a turn: moves what waits into the queues and wakes the sleepers.
    pub fn flush(&mut self) {
        for to in 0..self.outgoing.len() {
            let Some(lane) = &mut self.outgoing[to] else { continue };
            while let Some(message) = lane.backlog.pop_front() {
                match lane.ring.push(message) {
                    Ok(()) => lane.pushed = true,
                    Err(PushError::Full(back)) => {
                        lane.backlog.push_front(back);
                        lane.wanted = true;
                        break;
                    }
                }
            }
            if std::mem::take(&mut lane.pushed) {
                fence(Ordering::SeqCst);
                self.shared.wake(to);
            }
            if lane.wanted {
                let pair = self.index * self.shared.parked.len() + to;
                self.shared.wants_room[pair].store(true, Ordering::SeqCst);
            }
        }
    }

    /// Says that this shard is about to wait for the kernel. `false`: a message or the room that
    /// was waited for has come meanwhile, so look again first.
    pub fn prepare_to_park(&mut self) -> bool {
        self.shared.parked[self.index].store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let message = self.incoming.iter().flatten().any(|inlet| !inlet.ring.is_empty());
        let mut room = false;
        for lane in self.outgoing.iter_mut().flatten() {
            if lane.wanted && lane.ring.slots() > 0 {
                lane.wanted = false;
                room = true;
            }
        }
        if message || room {
            self.shared.parked[self.index].store(false, Ordering::SeqCst);
        }
        !message && !room
    }

    /// Messages that wait in the queues into this shard and in its own lists.
    pub fn depth(&self) -> usize {
        let incoming: usize = self.incoming.iter().flatten().map(|inlet| inlet.ring.slots()).sum();
        incoming + self.outgoing.iter().flatten().map(|lane| lane.backlog.len()).sum::<usize>()
    }

    /// Messages (sent, received, refused) since the start.
    pub fn totals(&self) -> (u64, u64, u64) {
        (self.sent, self.received, self.refused)
    }

    fn lane(&mut self, to: usize) -> &mut Lane<M> {
        assert_ne!(to, self.index, "a shard does not send to itself");
        self.outgoing[to].as_mut().expect("there is a lane to every other shard")
    }

    fn tell_room(&self, from: usize) {
        let pair = from * self.shared.parked.len() + self.index;
        let wants = &self.shared.wants_room[pair];
        // Either the sender sees the room made before this fence, or its wish is seen after it.
        fence(Ordering::SeqCst);
        if wants.load(Ordering::Relaxed) && wants.swap(false, Ordering::SeqCst) {
            self.shared.wake(from);
        }
    }
}

/// How many connections each shard has, those on their way to it counted.
///
/// Written at accept and close only: not a hot path, so shared cache lines are no harm here.
#[derive(Clone)]
pub struct Balance(Arc<Vec<CachePadded<AtomicUsize>>>);

impl Balance {
    /// All shards at zero.
    pub fn new(shards: usize) -> Self {
        Self(Arc::new((0..shards).map(|_| CachePadded::new(AtomicUsize::new(0))).collect()))
    }

    /// Where a connection that `shard` accepted shall live: with `shard` itself, unless that
    /// exceeds the least loaded by more than 10 % and 16 connections.
    pub fn place(&self, shard: usize) -> usize {
        let count = |index: usize| self.0[index].load(Ordering::Relaxed);
        let least = (0..self.0.len()).min_by_key(|&index| count(index)).unwrap_or(shard);
        let own = count(shard);
        if own > count(least) + own / 10 + 16 { least } else { shard }
    }

    /// A connection is on its way to `shard` or has come to it.
    pub fn add(&self, shard: usize) {
        self.0[shard].fetch_add(1, Ordering::Relaxed);
    }

    /// A connection of `shard` has gone.
    pub fn remove(&self, shard: usize) {
        let before = self.0[shard].fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "a shard cannot lose more connections than it had");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ownership_is_the_same_for_clones_and_uses_all_shards() {
        let ownership = Ownership::new(5);
        let clone = ownership.clone();
        let mut seen = [0; 5];
        for number in 0..1000 {
            let name = format!("room:{number}");
            assert_eq!(ownership.owner(&name), clone.owner(&name));
            seen[ownership.owner(&name)] += 1;
        }
        assert!(seen.iter().all(|&count| count > 100), "{seen:?}");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_reordered_however_full_the_mailbox_is(
            steps in prop::collection::vec((0u8..4, 1usize..20), 1..200),
        ) {
            let mut all = mesh_with_capacity::<u32>(2, 8).unwrap();
            let (mut receiver, mut sender) = (all.pop().unwrap(), all.pop().unwrap());
            let (mut next, mut expected, mut sent) = (0, VecDeque::new(), 0);
            for (step, count) in steps {
                for _ in 0..count {
                    match step {
                        0 => { sender.send(1, next); expected.push_back(next); next += 1; sent += 1; }
                        1 => if sender.try_send(1, next).is_ok() {
                            expected.push_back(next); next += 1; sent += 1;
                        },
                        2 => if let Some((from, message)) = receiver.receive() {
                            prop_assert_eq!(from, 0);
                            prop_assert_eq!(Some(message), expected.pop_front());
                        },
                        _ => sender.flush(),
                    }
                }
            }
            loop {
                sender.flush();
                match receiver.receive() {
                    Some((_, message)) => prop_assert_eq!(Some(message), expected.pop_front()),
                    None => break,
                }
            }
            prop_assert!(expected.is_empty());
            prop_assert_eq!(sender.totals().0, sent);
            prop_assert_eq!(receiver.totals().1, sent);
        }
    }

    /// Both threads park as a shard does (here by polling the flag) and must always be woken.
    #[test]
    fn sleepers_are_woken_with_both_directions_saturated() {
        let mut all = mesh_with_capacity::<u64>(2, 4).unwrap();
        let last = 20_000u64;
        let run = move |mut mailboxes: Mailboxes<u64>| {
            let peer = 1 - mailboxes.index();
            let (mut next, mut expected) = (0, 0);
            while next < last || expected < last || mailboxes.depth() > 0 {
                while let Some((_, message)) = mailboxes.receive() {
                    assert_eq!(message, expected);
                    expected += 1;
                }
                while next < last && mailboxes.try_send(peer, next).is_ok() {
                    next += 1;
                }
                mailboxes.flush();
                if mailboxes.prepare_to_park() {
                    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
                    while mailboxes.shared.parked[mailboxes.index].load(Ordering::SeqCst)
                        && (next < last || expected < last)
                    {
                        std::thread::yield_now();
                        assert!(std::time::Instant::now() < deadline, "nobody woke the sleeper");
                    }
                }
            }
            mailboxes
        };
        let second = all.pop().unwrap();
        let first = all.pop().unwrap();
        let other = std::thread::spawn(move || run(second));
        let first = run(first);
        assert_eq!(first.totals().1, last);
        assert_eq!(other.join().unwrap().totals().1, last);
    }

    #[test]
    fn a_peer_whose_mailbox_never_empties_does_not_keep_the_others_waiting() {
        let mut all = mesh_with_capacity::<u32>(3, 256).unwrap();
        let (mut quiet, mut busy, mut receiver) =
            (all.pop().unwrap(), all.pop().unwrap(), all.pop().unwrap());
        while busy.try_send(0, 1).is_ok() {}
        assert_eq!(receiver.receive(), Some((1, 1)));
        quiet.send(0, 2);
        let first = (0..256).find(|_| {
            let from = receiver.receive().map(|(from, _)| from);
            let _ = busy.try_send(0, 1);
            from == Some(2)
        });
        assert!(first.is_some(), "256 messages of the busy one came first");
    }

    #[test]
    fn who_was_told_that_there_is_no_room_does_not_park_when_there_is() {
        let mut all = mesh_with_capacity::<u32>(2, 2).unwrap();
        let (mut receiver, mut sender) = (all.pop().unwrap(), all.pop().unwrap());
        while sender.has_room(1) {
            sender.send(1, 0);
        }
        sender.flush();
        assert!(sender.prepare_to_park(), "there is nothing to do yet");
        while receiver.receive().is_some() {}
        assert!(!sender.shared.parked[0].load(Ordering::SeqCst), "room wakes the sender");
        assert!(!sender.prepare_to_park(), "there is room to look at");
    }

    #[test]
    fn a_connection_stays_unless_the_shard_is_well_above_the_least_loaded() {
        let balance = Balance::new(3);
        for _ in 0..17 {
            assert_eq!(balance.place(0), 0);
            balance.add(0);
        }
        assert_eq!(balance.place(0), 0, "16 more plus 10 % is not exceeded yet");
        balance.add(0);
        assert_ne!(balance.place(0), 0);
        balance.add(1);
        assert_eq!(balance.place(0), 2);
        balance.remove(0);
        balance.remove(0);
        assert_eq!(balance.place(0), 0);
    }
}
