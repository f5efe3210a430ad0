//! What one shard says to another: one closed enum.
//!
//! **Runs on: shard.** Everything in a message is memory of its own; a pool chunk never leaves its
//! shard. *Request*: may be refused by a full mailbox, and is answered exactly once. *Copy*: a
//! full mailbox holes the channel for that shard. Everything else is never refused.

use crate::broker::{
    HistoryFilter, Info, Position, PresenceStats, PublishOptions, Stored, SubscribeWish, Subscribed,
};
use crate::ingest::{Asker, Draft, Outcome, Place, Publication, Wish};
use bytes::Bytes;
use smallvec::SmallVec;
use std::os::fd::OwnedFd;
use trine_proto::client::ErrorCode;
use uuid::Uuid;

/// A message between shards.
#[derive(Debug)]
pub enum ToShard {
    /// Request to the channel's owner; `request` is the asker's number for it.
    Request {
        /// Comes back in the answer.
        request: u32,
        /// The channel it is about.
        channel: Box<str>,
        /// The channel's namespace, by its index in the configuration.
        namespace: u16,
        /// What is asked.
        ask: Ask,
    },
    /// The owner's answer. Never refused.
    Answer {
        /// The number of the request.
        request: u32,
        /// The answer.
        answer: Answer,
    },
    /// A publication for this shard's subscribers. Copy.
    Publication {
        /// The channel.
        channel: Box<str>,
        /// The publication; offset 0 without history.
        publication: Box<Stored>,
    },
    /// A client joined or left a channel. Copy.
    Membership {
        /// The channel.
        channel: Box<str>,
        /// Joined, else left.
        joined: bool,
        /// Who.
        info: Box<Info>,
    },
    /// The last subscriber here is gone. Never refused.
    Unsubscribe {
        /// The channel.
        channel: Box<str>,
    },
    /// A subscriber here is gone from a channel with presence or join/leave. Never refused.
    Leave {
        /// The channel.
        channel: Box<str>,
        /// The channel's namespace.
        namespace: u16,
        /// Who.
        who: Box<Info>,
    },
    /// A copy for this shard found its mailbox full: its subscribers have missed something. Goes
    /// before anything more of that channel. Never refused.
    Holed {
        /// The channel.
        channel: Box<str>,
    },
    /// An event for its key's owner, to be made durable. Request, answered by `Ingested`.
    Ingest {
        /// Comes back in the answer.
        request: u32,
        /// The event.
        draft: Box<Draft>,
    },
    /// A record of a topic, whole already, for its key's owner. Request, answered by `Ingested`.
    Record {
        /// Comes back in the answer.
        request: u32,
        /// The topic, by its number.
        topic: u16,
        /// Which partition it wants.
        wish: Wish,
        /// From its key's length on.
        body: Bytes,
    },
    /// What became of an event. Never refused.
    Ingested {
        /// The number of the request.
        request: u32,
        /// Where it is, or why not.
        outcome: Outcome,
        /// Its place in its channel, where that has history.
        position: Option<Position>,
    },
    /// What the log has and the channel's owner shall publish, before it answers. Never refused.
    Acknowledged(Box<Acknowledged>),
    /// A connection that shall live here; refused ones stay with their shard.
    Connection(OwnedFd),
}

/// A publication that the log has.
#[derive(Debug)]
pub struct Acknowledged {
    /// The channel and the publisher.
    pub publication: Publication,
    /// The payload.
    pub data: Bytes,
    /// Who waits for the answer.
    pub askers: SmallVec<[Asker; 1]>,
    /// The answer.
    pub place: Place,
}

/// What is asked of a channel's owner.
#[derive(Debug)]
pub enum Ask {
    /// Send me its publications from now on.
    Subscribe {
        /// What else the subscriber wants to know or do.
        wish: Box<SubscribeWish>,
        /// Tell the others that this client joined.
        join: Option<Box<Info>>,
    },
    /// Publish.
    Publish {
        /// The payload.
        data: Bytes,
        /// The publisher, if it is a client.
        info: Option<Box<Info>>,
        /// How.
        options: PublishOptions,
    },
    /// Read history.
    History(HistoryFilter),
    /// Who is present?
    Presence,
    /// How many are present?
    PresenceStats,
}

/// What an owner answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The shard is subscribed from this point of the queue on.
    Subscribed(Box<Subscribed>),
    /// Published; its position, where the channel has history.
    Published(Option<Position>),
    /// Nothing was done.
    Refused(ErrorCode),
    /// History and position.
    History(Vec<Stored>, Position),
    /// Who is present.
    Presence(Vec<Info>),
    /// How many are present.
    PresenceStats(PresenceStats),
}

/// The way to other shards.
pub trait Post {
    /// Sends unless the mailbox is full.
    fn try_send(&mut self, to: usize, message: ToShard) -> Result<(), ToShard>;
    /// Sends a message that may not be refused.
    fn send(&mut self, to: usize, message: ToShard);
    /// Whether [`Post::try_send`] would succeed; if not, room is waited for.
    fn has_room(&mut self, to: usize) -> bool;
}

impl Post for trine_core::shard::Mailboxes<ToShard> {
    fn try_send(&mut self, to: usize, message: ToShard) -> Result<(), ToShard> {
        Self::try_send(self, to, message)
    }
    fn send(&mut self, to: usize, message: ToShard) {
        Self::send(self, to, message);
    }
    fn has_room(&mut self, to: usize) -> bool {
        Self::has_room(self, to)
    }
}

/// A client of this shard that waits for an answer: its number and its number for the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The client, by its number on this shard.
    pub client: u32,
    /// The session's place for the reply.
    pub place: u32,
    /// The client id, to tell it from a later client with the same number.
    pub id: Uuid,
}

impl Ticket {
    /// The number, which no client has, of those who deliver records of the log.
    pub const DELIVER: u32 = u32::MAX;
    /// The number, which no client has, of those who want no answer.
    pub const NOBODY: u32 = u32::MAX - 1;
}
