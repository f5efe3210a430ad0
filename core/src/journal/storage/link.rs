//! The rings between a shard and the storage thread, and who wakes whom.
//!
//! **Runs on: shard** ([`Store`]) and **storage** ([`Desk`]). Each wish to be woken is a flag that
//! one side sets and the other takes. Whoever waits sets its flag and looks at the ring again, whoever
//! gives fills the ring and then looks at the flag, with a full fence between the two on both sides:
//! one of them sees the other.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_utils::CachePadded;
use rtrb::{Consumer, Producer, PushError, RingBuffer};
use rustix::pipe::{PipeFlags, pipe_with};

use super::message::{Answer, Request};
use super::state::State;
use crate::rt::WakeHandle;

/// What the storage thread and all shards share.
pub(super) struct Shared {
    pub state: State,
    /// The storage thread sleeps or waits for the disk; who clears it rings the bell.
    asleep: AtomicBool,
    /// No more is wanted of the journal.
    pub closing: AtomicBool,
    /// The reading end of a pipe: unlike an eventfd an executor can open it anew.
    pub bell: OwnedFd,
    rope: OwnedFd,
}

impl Shared {
    pub fn new() -> io::Result<Self> {
        let (bell, rope) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        let (state, asleep, closing) = (State::default(), false.into(), false.into());
        Ok(Self { state, asleep, closing, bell, rope })
    }

    /// Wakes the storage thread if it may be asleep.
    pub fn rouse(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::SeqCst) {
            self.ring();
        }
    }

    /// Rings the bell.
    pub fn ring(&self) {
        // It can only fail when the pipe is full, and then the bell is heard anyway.
        let _ = rustix::io::write(&self.rope, &[1]);
    }

    /// The storage thread is about to wait, and looks at everything once more after this.
    pub fn fall_asleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// It does not wait (any more).
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Forgets rings of the bell that were heard.
    pub fn quieten(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0_u8; 64]);
    }
}

/// The flags of one shard's link.
#[derive(Default)]
struct Flags {
    /// The shard was woken and has not yet found the answers' ring empty.
    told: AtomicBool,
    /// A request found no room.
    wants_room: AtomicBool,
    /// Answers wait for room.
    answers_wait: AtomicBool,
}

/// One shard's end: asks the journal and gets its answers.
///
/// The shard takes answers until there is none whenever it was woken; only then is it woken again.
pub struct Store {
    requests: Producer<Request>,
    answers: Consumer<Answer>,
    pushed: bool,
    flags: Arc<CachePadded<Flags>>,
    shared: Arc<Shared>,
}

/// The storage thread's end.
pub(super) struct Desk {
    requests: Consumer<Request>,
    answers: Producer<Answer>,
    /// Answers that found no room, oldest first; they are as many as requests are outstanding.
    backlog: VecDeque<Answer>,
    flags: Arc<CachePadded<Flags>>,
    wake: WakeHandle,
    pushed: bool,
    popped: bool,
}

/// Both ends for one shard, which `wake` wakes.
pub(super) fn link(
    shared: &Arc<Shared>,
    wake: WakeHandle,
    requests: usize,
    answers: usize,
) -> (Store, Desk) {
    let (request_in, request_out) = RingBuffer::new(requests);
    let (answer_in, answer_out) = RingBuffer::new(answers);
    let flags = Arc::new(CachePadded::new(Flags::default()));
    let store = Store {
        requests: request_in,
        answers: answer_out,
        pushed: false,
        flags: flags.clone(),
        shared: shared.clone(),
    };
    let desk = Desk {
        requests: request_out,
        answers: answer_in,
        backlog: VecDeque::new(),
        flags,
        wake,
        pushed: false,
        popped: false,
    };
    (store, desk)
}

impl Store {
    /// Sends a request, which goes out with the next [`Store::flush`].
    ///
    /// # Errors
    /// The request comes back when the ring is full (the shard is woken when there is room) or the
    /// storage thread has ended ([`super::Phase::Closed`]).
    pub fn try_send(&mut self, request: Request) -> Result<(), Request> {
        if self.requests.is_abandoned() {
            return Err(request);
        }
        let pushed = self.requests.push(request).or_else(|PushError::Full(request)| {
            self.flags.wants_room.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            self.requests.push(request)
        });
        // The thread may be asleep when it is the requests outstanding that leave no room.
        self.pushed = true;
        pushed.map_err(|PushError::Full(request)| request)
    }

    /// Wakes the storage thread if something was sent and it may be asleep: once, at a turn's end.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.pushed) {
            self.shared.rouse();
        }
    }

    /// The next answer.
    pub fn receive(&mut self) -> Option<Answer> {
        if let Ok(answer) = self.answers.pop() {
            return Some(answer);
        }
        if !self.flags.told.load(Ordering::Relaxed) {
            return None;
        }
        self.flags.told.store(false, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.flags.answers_wait.swap(false, Ordering::SeqCst) {
            self.shared.rouse();
        }
        self.answers.pop().ok()
    }

    /// How the journal is.
    pub fn state(&self) -> &State {
        &self.shared.state
    }
}

impl Desk {
    /// The next request.
    pub fn take(&mut self) -> Option<Request> {
        let request = self.requests.pop().ok()?;
        self.popped = true;
        Some(request)
    }

    /// Whether a request waits.
    pub fn has_request(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Whether waiting answers could move on.
    pub fn has_way(&self) -> bool {
        !self.backlog.is_empty() && self.answers.slots() > 0
    }

    /// Answers that wait here for room.
    pub fn backlog(&self) -> usize {
        self.backlog.len()
    }

    /// Whether the shard's end is gone.
    pub fn is_abandoned(&self) -> bool {
        self.answers.is_abandoned()
    }

    /// Gives an answer; it never fails and never waits.
    pub fn put(&mut self, answer: Answer) {
        self.backlog.push_back(answer);
    }

    /// Moves answers into the ring and wakes the shard if it is to look.
    pub fn flush(&mut self) {
        self.push();
        if !self.backlog.is_empty() {
            self.flags.answers_wait.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            self.push();
        }
        let (pushed, popped) = (std::mem::take(&mut self.pushed), std::mem::take(&mut self.popped));
        if !pushed && !popped {
            return;
        }
        fence(Ordering::SeqCst);
        let room = popped && self.flags.wants_room.swap(false, Ordering::SeqCst);
        let news = pushed && !self.flags.told.swap(true, Ordering::SeqCst);
        if room || news {
            self.wake.wake();
        }
    }

    fn push(&mut self) {
        while let Some(answer) = self.backlog.pop_front() {
            if let Err(PushError::Full(answer)) = self.answers.push(answer) {
                self.backlog.push_front(answer);
                return;
            }
            self.pushed = true;
        }
    }
}
