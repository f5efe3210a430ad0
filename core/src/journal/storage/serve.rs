//! The storage thread's loop: exchange with the shards, one operation of the disk, again.
//!
//! **Runs on: storage.**

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::super::Options;
use super::super::disk::plain::PlainDisk;
use super::super::disk::{Disk, RingDisk, at_once, run_ring};
use super::super::machine::Operation;
use super::super::open::{open as open_journal, perform};
use super::Preference;
use super::bell::{Bell, PlainBell};
use super::engine::{Engine, Next, refusal};
use super::link::{Desk, Shared};
use super::message::Request;
use super::state::Phase;
use crate::limits::{STORAGE_CLOSE_MS, STORAGE_RETRY_MS, STORAGE_WAITING_READS};
use crate::rt;

/// Unix milliseconds that never go back while something waits for a time: the monotonic clock, set
/// anew when nothing does.
struct Clock {
    ahead_ms: u64,
}

impl Clock {
    fn new() -> Self {
        let mut clock = Self { ahead_ms: 0 };
        clock.set();
        clock
    }

    fn set(&mut self) {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.ahead_ms = (unix.as_millis() as u64).saturating_sub(rt::clock_ns() / 1_000_000);
    }

    fn now_ms(&self) -> u64 {
        self.ahead_ms + rt::clock_ns() / 1_000_000
    }
}

/// The thread's end of all links.
pub(super) struct Desks {
    pub shared: Arc<Shared>,
    desks: Vec<Desk>,
    options: Options,
    /// Requests of one shard that may be unanswered.
    outstanding: usize,
    /// Questions about streams that came while there was no journal, with their shards.
    held: Vec<(usize, Request)>,
    /// Who is heard first, in turn.
    first: usize,
    clock: Clock,
}

impl Desks {
    pub fn new(
        shared: Arc<Shared>,
        desks: Vec<Desk>,
        options: Options,
        outstanding: usize,
    ) -> Self {
        let (held, clock) = (Vec::new(), Clock::new());
        Self { shared, desks, options, outstanding, held, first: 0, clock }
    }

    fn may_take(&self, engine: &Engine, shard: usize) -> bool {
        engine.outstanding(shard) + self.desks[shard].backlog() < self.outstanding
    }

    /// Takes requests and gives answers.
    fn exchange(&mut self, engine: &mut Engine) {
        // What was sent before the wish to close is taken before it is granted.
        let closing = self.shared.closing.load(Ordering::SeqCst);
        let now_ms = self.clock.now_ms();
        self.first = (self.first + 1) % self.desks.len().max(1);
        for step in 0..self.desks.len() {
            let shard = (self.first + step) % self.desks.len();
            // Requests without an answer are bounded too: the disk has its turn.
            let mut left = self.outstanding;
            while left > 0
                && self.may_take(engine, shard)
                && let Some(request) = self.desks[shard].take()
            {
                left -= 1;
                engine.take(shard, request, now_ms);
                self.give(engine);
            }
        }
        if closing {
            engine.close();
        }
        self.deliver(engine);
    }

    /// Gives answers, and tells how things are.
    fn deliver(&mut self, engine: &mut Engine) {
        self.give(engine);
        engine.tell(&self.shared.state, self.clock.now_ms());
        for desk in &mut self.desks {
            desk.flush();
            let limit = self.outstanding + STORAGE_WAITING_READS;
            assert!(desk.backlog() <= limit, "answers are as many as requests");
        }
    }

    fn give(&mut self, engine: &mut Engine) {
        for (shard, answer) in engine.answers() {
            self.desks[shard].put(answer);
        }
    }

    /// Whether [`Desks::exchange`] has something to do.
    fn has_work(&self, engine: &Engine) -> bool {
        let closing = self.shared.closing.load(Ordering::SeqCst) && !engine.is_closing();
        closing
            || self.desks.iter().enumerate().any(|(shard, desk)| {
                desk.has_way() || (desk.has_request() && self.may_take(engine, shard))
            })
    }

    /// Whether every answer has gone to its shard, if that is still there.
    fn are_done(&self) -> bool {
        self.desks.iter().all(|desk| desk.backlog() == 0 || desk.is_abandoned())
    }

    /// Refuses records for a while, since there is no journal. Who asks for a stream needs it once
    /// there is one, and waits. Returns whether to go on.
    fn refuse(&mut self, error: &io::Error) -> bool {
        self.shared.state.failed(format!("the journal can't be opened: {error}"));
        self.shared.state.set_phase(Phase::Failing);
        let until_ms = self.clock.now_ms() + STORAGE_RETRY_MS;
        let room = self.outstanding * self.desks.len();
        loop {
            let closing = self.shared.closing.load(Ordering::SeqCst);
            for (shard, desk) in self.desks.iter_mut().enumerate() {
                while desk.backlog() < self.outstanding
                    && let Some(request) = desk.take()
                {
                    let asks = matches!(request, Request::Open { .. } | Request::List { .. });
                    if asks && self.held.len() < room {
                        self.held.push((shard, request));
                    } else {
                        refusal(&request).into_iter().for_each(|answer| desk.put(answer));
                    }
                }
                desk.flush();
            }
            let now_ms = self.clock.now_ms();
            if closing || now_ms >= until_ms {
                return !closing;
            }
            self.shared.fall_asleep();
            let busy = |desk: &Desk| {
                desk.has_way() || (desk.has_request() && desk.backlog() < self.outstanding)
            };
            if !self.desks.iter().any(busy) && !self.shared.closing.load(Ordering::SeqCst) {
                at_once(PlainBell(&self.shared.bell).wait(until_ms - now_ms));
            }
            self.shared.awake();
            self.shared.quieten();
        }
    }

    /// Opens the journal, for as long as it takes; `None`: it was closed before.
    fn open<D: Disk>(&mut self, mut open: impl FnMut() -> io::Result<D>) -> Option<(D, Engine)> {
        loop {
            let began_ns = rt::clock_ns();
            let opened = open().and_then(|mut disk| {
                let opened = at_once(open_journal(&mut disk, self.options))?.whole()?;
                Ok((disk, opened))
            });
            match opened {
                Ok((disk, opened)) => {
                    let duration_ms = (rt::clock_ns() - began_ns) / 1_000_000;
                    self.shared.state.recovered(&opened, duration_ms);
                    return Some((disk, Engine::new(opened.journal, self.desks.len())));
                }
                Err(error) if !self.refuse(&error) => return None,
                Err(_) => {}
            }
        }
    }
}

/// Runs the journal in a folder with the best driver there is. Returns whether it was closed well.
pub(super) fn run(
    desks: &mut Desks,
    open: impl FnMut() -> io::Result<PlainDisk>,
    preference: Preference,
) -> bool {
    let Some((disk, mut engine)) = desks.open(open) else { return false };
    let shared = desks.shared.clone();
    let mut plain = Some(disk);
    let why = match preference {
        Preference::Plain => "asked for by TRINE_DRIVER".to_owned(),
        Preference::Automatic => {
            let ran = run_ring(
                &shared.bell,
                || shared.ring(),
                async |mut bell| {
                    let mut disk = RingDisk::new(plain.take().expect("it is taken once")).await;
                    let way = if disk.is_direct() { "O_DIRECT" } else { "buffered" };
                    shared.state.set_driver(format!("io_uring ({way})"));
                    serve(desks, &mut engine, &mut disk, &mut bell).await
                },
            );
            match ran {
                Ok(clean) => return clean,
                Err(error) => format!(
                    "io_uring refused: {error}; look at seccomp, \
                     /proc/sys/kernel/io_uring_disabled and `ulimit -l`"
                ),
            }
        }
    };
    shared.state.set_driver(format!("plain system calls ({why})"));
    let disk = plain.take().expect("no executor has taken it");
    blocking(desks, disk, engine)
}

/// Runs the journal on a disk that blocks. Returns whether it was closed well.
pub(super) fn run_blocking<D: Disk>(
    desks: &mut Desks,
    open: impl FnMut() -> io::Result<D>,
) -> bool {
    let Some((disk, engine)) = desks.open(open) else { return false };
    desks.shared.state.set_driver("a disk that was given".to_owned());
    blocking(desks, disk, engine)
}

fn blocking<D: Disk>(desks: &mut Desks, mut disk: D, mut engine: Engine) -> bool {
    let shared = desks.shared.clone();
    at_once(serve(desks, &mut engine, &mut disk, &mut PlainBell(&shared.bell)))
}

/// Serves until the journal is closed. Returns whether its final mark is there.
pub(super) async fn serve<D: Disk>(
    desks: &mut Desks,
    engine: &mut Engine,
    disk: &mut D,
    bell: &mut impl Bell,
) -> bool {
    let mut over_since_ms = None;
    for (shard, request) in std::mem::take(&mut desks.held) {
        engine.take(shard, request, desks.clock.now_ms());
        desks.give(engine);
    }
    loop {
        desks.exchange(engine);
        let now_ms = desks.clock.now_ms();
        let next = engine.next(now_ms);
        // Reads may have been answered, and the disk or the bell can take long.
        desks.deliver(engine);
        match next {
            Next::Operation(operation) => {
                let began_ns = rt::clock_ns();
                let result = during(perform(disk, &operation), desks, engine, bell).await;
                if matches!(operation, Operation::Sync { .. }) {
                    desks.shared.state.synced(rt::clock_ns() - began_ns);
                }
                engine.completed(&operation, result, desks.clock.now_ms(), &desks.shared.state);
            }
            Next::Fetch(fetch) => {
                let mut buffer = Vec::new();
                let read = disk.read(fetch.segment, fetch.position, fetch.bytes, &mut buffer);
                let result = during(read, desks, engine, bell).await;
                let result = result.map(|()| Bytes::from(buffer));
                engine.fetched(fetch, result, &desks.shared.state);
            }
            Next::Wait { until_ms } => {
                let mut timeout_ms = until_ms.saturating_sub(now_ms);
                if let Some(clean) = engine.is_over(now_ms) {
                    desks.deliver(engine);
                    let since_ms = *over_since_ms.get_or_insert(now_ms);
                    if desks.are_done() || now_ms >= since_ms + STORAGE_CLOSE_MS {
                        return clean;
                    }
                    timeout_ms = (since_ms + STORAGE_CLOSE_MS).saturating_sub(now_ms);
                } else if engine.is_idle() {
                    desks.clock.set();
                }
                desks.shared.fall_asleep();
                if !desks.has_work(engine) {
                    bell.wait(timeout_ms).await;
                }
                desks.shared.awake();
                desks.shared.quieten();
            }
        }
    }
}

/// Waits for the disk, and takes requests meanwhile.
async fn during<T>(
    work: impl Future<Output = T>,
    desks: &mut Desks,
    engine: &mut Engine,
    bell: &mut impl Bell,
) -> T {
    let mut work = pin!(work);
    let result = poll_fn(|context| {
        if let Poll::Ready(result) = work.as_mut().poll(context) {
            return Poll::Ready(result);
        }
        loop {
            desks.exchange(engine);
            desks.shared.fall_asleep();
            if desks.has_work(engine) {
                continue;
            }
            if bell.poll_rung(context).is_pending() {
                return Poll::Pending;
            }
            desks.shared.quieten();
        }
    })
    .await;
    desks.shared.awake();
    result
}

#[cfg(test)]
mod tests {
    use super::super::super::Retention;
    use super::super::super::disk::simulated::SimulatedDisk;
    use super::super::link::link;
    use super::super::message::Answer;
    use super::*;
    use crate::rt::WakeHandle;

    /// Moves of a cursor have no answer, so that nothing else bounds how many are taken.
    #[test]
    fn a_shard_that_moves_cursors_without_end_leaves_the_disk_its_turn() {
        let retention = Retention::Oldest { age_ms: 0 };
        let options = Options { quota_bytes: 64 << 20, retention, gather_ms: 0 };
        let opened = at_once(open_journal(&mut SimulatedDisk::new(1), options)).unwrap();
        let shared = Arc::new(Shared::new().unwrap());
        let (mut store, desk) = link(&shared, WakeHandle::new().unwrap(), 64, 64);
        let mut desks = Desks::new(shared, vec![desk], options, 4);
        let mut engine = Engine::new(opened.journal, 1);
        let open = Request::Open { token: 1, name: "group".into(), cursor: true };
        store.try_send(open).unwrap();
        store.flush();
        desks.exchange(&mut engine);
        let Some(Answer::Opened { stream: cursor, .. }) = store.receive() else { panic!() };
        for value in 1..=10 {
            store.try_send(Request::MoveCursor { cursor, value }).unwrap();
        }
        store.flush();
        let mut exchanges = 0;
        while desks.has_work(&engine) {
            desks.exchange(&mut engine);
            exchanges += 1;
        }
        assert_eq!(exchanges, 3, "four of ten at a time");
    }
}
