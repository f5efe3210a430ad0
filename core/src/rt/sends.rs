//! Sends in flight: started together at the end of a turn, reported when each is whole.
//!
//! **Runs on: shard.** No allocation per send after warm-up: a slot keeps its future's memory, its
//! pieces' box and its waker. A slot is polled only when its own operation completed, so blocked
//! connections cost nothing while they are blocked.

use super::local::{self, Queued};
use super::stream::Stream;
use crate::buf::Outgoing;
use crate::limits::PIECES_PER_SEND;
use monoio::buf::{IoBuf, IoVecBuf};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// A send that ended.
pub struct Sent {
    /// The caller's name for it.
    pub token: u32,
    /// `Ok` when every byte was taken by the kernel; an error means that the connection is gone.
    pub result: io::Result<()>,
}

/// What the hook of [`super::run`] gets at the end of a turn.
#[derive(Default)]
pub struct Turn {
    pub(super) sent: VecDeque<Sent>,
    /// Events that can wait, and how long a rest may be.
    pub(super) gather: Option<(u64, Duration)>,
}

impl Turn {
    /// The next send that ended since the last turn's end.
    pub fn next_sent(&mut self) -> Option<Sent> {
        self.sent.pop_front()
    }

    /// Says that so many events have come since the last turn, and that those to come are not
    /// urgent: where a rest before the thread waits for them lets several gather, there is one, less
    /// than a second long. To be called in each turn for which that holds.
    pub fn gather(&mut self, events: u64, rest: Duration) {
        let (known, _) = self.gather.unwrap_or_default();
        self.gather = Some((known + events, rest));
    }
}

/// Who is told that a send ended.
pub(super) enum Report {
    /// The hook, under this name.
    Hook(u32),
    /// The task that waits in [`Stream::write`], if it still does.
    Writer(Stream),
}

/// All sends of the thread. `make` turns a stream and its pieces into the one send future there
/// is; being generic over it is what lets a slot hold the future in place.
pub(super) struct Sends<F, M> {
    make: M,
    slots: Vec<Slot<F>>,
    free: Vec<usize>,
    flights: Vec<Flight>,
    queued: Vec<Queued>,
    ready: Vec<usize>,
}

struct Slot<F> {
    report: Report,
    future: Pin<Box<Option<F>>>,
    waker: Waker,
}

struct SlotWaker(usize);

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        local::mark_ready(self.0);
    }
    fn wake_by_ref(self: &Arc<Self>) {
        local::mark_ready(self.0);
    }
}

impl<F, M> Sends<F, M>
where
    F: Future<Output = (Flight, io::Result<()>)>,
    M: Fn(Stream, Flight) -> F,
{
    pub fn new(make: M) -> Self {
        let (slots, free, flights) = (Vec::new(), Vec::new(), Vec::new());
        Self { make, slots, free, flights, queued: Vec::new(), ready: Vec::new() }
    }

    /// Takes in what completed since the last turn.
    pub fn collect(&mut self, turn: &mut Turn) {
        let mut ready = std::mem::take(&mut self.ready);
        local::swap_ready(&mut ready);
        for slot in ready.drain(..) {
            self.poll(slot, turn);
        }
        self.ready = ready;
    }

    /// Starts what the turn queued. With epoll a send often completes here.
    pub fn start(&mut self, turn: &mut Turn) {
        let mut queued = std::mem::take(&mut self.queued);
        local::swap_queued(&mut queued);
        for Queued { report, stream, outgoing } in queued.drain(..) {
            let flight = self.flights.pop().unwrap_or_default().load(outgoing);
            let slot = self.free.pop().unwrap_or_else(|| self.add_slot());
            self.slots[slot].report = report;
            self.slots[slot].future.set(Some((self.make)(stream, flight)));
            self.poll(slot, turn);
        }
        self.queued = queued;
    }

    fn add_slot(&mut self) -> usize {
        let number = self.slots.len();
        let waker = Waker::from(Arc::new(SlotWaker(number)));
        self.slots.push(Slot { report: Report::Hook(0), future: Box::pin(None), waker });
        number
    }

    fn poll(&mut self, number: usize, turn: &mut Turn) {
        let slot = &mut self.slots[number];
        let Some(future) = slot.future.as_mut().as_pin_mut() else { return };
        let Poll::Ready((flight, result)) = future.poll(&mut Context::from_waker(&slot.waker))
        else {
            return;
        };
        slot.future.set(None);
        match std::mem::replace(&mut slot.report, Report::Hook(0)) {
            Report::Hook(token) => turn.sent.push_back(Sent { token, result }),
            Report::Writer(stream) => stream.written(result),
        }
        self.free.push(number);
        self.flights.push(flight.unload());
    }
}

/// Pieces in flight. Boxed, since monoio moves a buffer after it has handed out its address.
#[derive(Default)]
pub(super) struct Flight(Box<Load>);

#[derive(Default)]
struct Load {
    outgoing: Option<Outgoing>,
    /// Bytes of `outgoing` that the kernel has taken (never beyond the first piece when gathered).
    taken: usize,
    iovecs: Vec<libc::iovec>,
}

impl Flight {
    fn load(mut self, outgoing: Outgoing) -> Self {
        self.0.taken = 0;
        self.0.outgoing = Some(outgoing);
        self.refill();
        self
    }

    fn unload(mut self) -> Self {
        self.0.iovecs.clear();
        if let Some(outgoing) = self.0.outgoing.take() {
            outgoing.recycle();
        }
        self
    }

    pub(super) fn is_gathered(&self) -> bool {
        matches!(self.0.outgoing, Some(Outgoing::Gathered(_)))
    }

    /// Notes that the kernel took `count` bytes. Returns whether everything is sent.
    pub(super) fn advance(&mut self, count: usize) -> bool {
        let load = &mut *self.0;
        load.taken += count;
        match &mut load.outgoing {
            Some(Outgoing::Gathered(pieces)) => {
                let mut whole = 0;
                while whole < pieces.len() && load.taken >= pieces[whole].len() {
                    load.taken -= pieces[whole].len();
                    whole += 1;
                }
                pieces.drain(..whole);
                if pieces.is_empty() {
                    return true;
                }
                self.refill();
                false
            }
            Some(outgoing) => load.taken >= outgoing.len(),
            None => true,
        }
    }

    fn refill(&mut self) {
        let load = &mut *self.0;
        load.iovecs.clear();
        if let Some(Outgoing::Gathered(pieces)) = &load.outgoing {
            let mut skip = load.taken;
            for piece in pieces.iter().take(PIECES_PER_SEND) {
                let rest = &piece[skip..];
                skip = 0;
                load.iovecs.push(libc::iovec {
                    iov_base: rest.as_ptr().cast_mut().cast(),
                    iov_len: rest.len(),
                });
            }
        }
    }

    fn rest(&self) -> &[u8] {
        match &self.0.outgoing {
            Some(Outgoing::Shared(piece)) => &piece[self.0.taken..],
            Some(Outgoing::Flat(flat)) => &flat[self.0.taken..],
            Some(Outgoing::Gathered(_)) | None => &[],
        }
    }
}

// SAFETY: the bytes lie on the heap (a `Bytes` or a `Vec` inside the box), are not changed while
// the flight exists, and stay where they are when the flight itself is moved.
#[allow(unsafe_code)]
unsafe impl IoBuf for Flight {
    fn read_ptr(&self) -> *const u8 {
        self.rest().as_ptr()
    }
    fn bytes_init(&self) -> usize {
        self.rest().len()
    }
}

// SAFETY: the iovec list lies on the heap inside the box, and so does what it points to; neither
// is changed while an operation is in flight (`advance` runs between operations).
#[allow(unsafe_code)]
unsafe impl IoVecBuf for Flight {
    fn read_iovec_ptr(&self) -> *const libc::iovec {
        self.0.iovecs.as_ptr()
    }
    fn read_iovec_len(&self) -> usize {
        self.0.iovecs.len()
    }
}
