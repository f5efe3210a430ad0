//! Replies that can't leave yet, since an earlier command's answer is outstanding.
//!
//! **Runs on: shard.** Bounded by `client.in_flight` commands. Invariant: what leaves, leaves in
//! the order of the commands, and a subscription's pushes after its reply.

use bytes::Bytes;
use std::collections::VecDeque;

/// A command whose answer is outstanding.
#[derive(Debug)]
pub struct Waiting {
    /// The command's id.
    pub id: u32,
    /// What the answer will be about.
    pub what: WaitingFor,
    /// When the command came, in nanoseconds.
    pub since_ns: u64,
}

/// What an outstanding answer is about.
#[derive(Debug)]
pub enum WaitingFor {
    /// A subscribe of this channel.
    Subscribe {
        /// The channel's number.
        channel: u32,
        /// The reply carries the position.
        position: bool,
        /// The reply says that recovery is possible.
        recoverable: bool,
        /// Recovery was asked for.
        recovering: bool,
        /// An impossible recovery is refused.
        refuse_unrecoverable: bool,
    },
    /// A publish.
    Publish,
    /// History.
    History,
    /// Presence.
    Presence,
    /// Presence numbers.
    PresenceStats,
}

impl WaitingFor {
    /// Whether the answer may be as long as a channel's history, or name all who are there.
    fn is_large(&self) -> bool {
        match self {
            WaitingFor::Subscribe { recovering, .. } => *recovering,
            WaitingFor::History | WaitingFor::Presence => true,
            WaitingFor::Publish | WaitingFor::PresenceStats => false,
        }
    }
}

/// One thing that waits, in the order in which things will leave.
#[derive(Debug)]
pub enum Slot {
    /// The answer is outstanding.
    Waiting(Waiting),
    /// A reply, framed for its face. `subscribe`: it is the reply to a subscribe.
    Ready {
        /// The frame.
        frame: Bytes,
        /// Pushes may wait behind it.
        subscribe: bool,
    },
    /// A push that waits behind a subscribe's reply.
    Push(Bytes),
}

/// All that waits for one client.
#[derive(Debug, Default)]
pub struct Pending {
    /// The place of the first slot; places count up and wrap.
    first: u32,
    slots: VecDeque<Slot>,
    outstanding: usize,
    /// Replies to subscribes, and pushes, that wait.
    held: usize,
    bytes: usize,
    push_bytes: usize,
    large: usize,
}

impl Pending {
    /// Appends a command whose answer is outstanding; returns its place.
    pub fn wait(&mut self, waiting: Waiting) -> u32 {
        self.outstanding += 1;
        self.large += usize::from(waiting.what.is_large());
        self.slots.push_back(Slot::Waiting(waiting));
        self.next_place().wrapping_sub(1)
    }

    /// The place that [`Pending::wait`] would return.
    pub fn next_place(&self) -> u32 {
        self.first.wrapping_add(self.slots.len() as u32)
    }

    /// Appends a frame that leaves when everything before it has left.
    pub fn push(&mut self, slot: Slot) {
        match &slot {
            Slot::Waiting(_) => unreachable!("commands are appended by `wait`"),
            Slot::Ready { frame, subscribe } => {
                self.bytes += frame.len();
                self.held += usize::from(*subscribe);
            }
            Slot::Push(frame) => {
                self.bytes += frame.len();
                self.push_bytes += frame.len();
                self.held += 1;
            }
        }
        self.slots.push_back(slot);
    }

    /// The command at `place`, if its answer is outstanding.
    pub fn waiting(&self, place: u32) -> Option<&Waiting> {
        match self.slots.get(place.wrapping_sub(self.first) as usize)? {
            Slot::Waiting(waiting) => Some(waiting),
            _ => None,
        }
    }

    /// The answer at `place` has come: here is its reply.
    pub fn settle(&mut self, place: u32, frame: Bytes) {
        let index = place.wrapping_sub(self.first) as usize;
        let Some(slot) = self.slots.get_mut(index) else { return };
        let Slot::Waiting(waiting) = slot else { return };
        let subscribe = matches!(waiting.what, WaitingFor::Subscribe { .. });
        self.outstanding -= 1;
        self.large -= usize::from(waiting.what.is_large());
        self.held += usize::from(subscribe);
        self.bytes += frame.len();
        *slot = Slot::Ready { frame, subscribe };
    }

    /// The next frame that may leave.
    pub fn take(&mut self) -> Option<Bytes> {
        if matches!(self.slots.front()?, Slot::Waiting(_)) {
            return None;
        }
        self.first = self.first.wrapping_add(1);
        match self.slots.pop_front()? {
            Slot::Waiting(_) => None,
            Slot::Ready { frame, subscribe } => {
                self.bytes -= frame.len();
                self.held -= usize::from(subscribe);
                Some(frame)
            }
            Slot::Push(frame) => {
                self.bytes -= frame.len();
                self.push_bytes -= frame.len();
                self.held -= 1;
                Some(frame)
            }
        }
    }

    /// Commands whose answers are outstanding.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Bytes of frames that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of pushes that wait.
    pub fn push_bytes(&self) -> usize {
        self.push_bytes
    }

    /// Commands whose answers are outstanding and may be large.
    pub fn large(&self) -> usize {
        self.large
    }

    /// Whether a push must wait: behind a subscribe's reply, or behind a push that waits, which may
    /// still do so after that reply has left.
    pub fn holds_pushes(&self) -> bool {
        self.held > 0
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether the answer to a subscribe of this channel is outstanding.
    pub fn is_subscribing(&self, channel: u32) -> bool {
        self.slots.iter().any(|slot| {
            matches!(slot, Slot::Waiting(Waiting { what: WaitingFor::Subscribe { channel: known, .. }, .. })
                if *known == channel)
        })
    }

    /// Subscribes whose answers are outstanding.
    pub fn subscribing(&self) -> usize {
        let waits = |slot: &&Slot| {
            matches!(slot, Slot::Waiting(Waiting { what: WaitingFor::Subscribe { .. }, .. }))
        };
        self.slots.iter().filter(waits).count()
    }

    /// The places of commands whose answers are outstanding.
    pub fn places(&self) -> impl Iterator<Item = u32> {
        let first = self.first;
        let waiting = self.slots.iter().enumerate();
        waiting
            .filter(|(_, slot)| matches!(slot, Slot::Waiting(_)))
            .map(move |(index, _)| first.wrapping_add(index as u32))
    }
}
