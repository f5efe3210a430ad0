//! One channel's stream: its epoch, its offsets and the publications that are kept.
//!
//! **Runs on: shard**, the owner's. Sans-IO. Invariants: offsets are 1, 2, 3 … without a gap; the
//! kept publications are the newest ones; a recovery is whole or refused.

use super::{InfoRef, Message, Version};
use crate::config::{Namespace, Payload};
use crate::limits::{HISTORY_PUBLICATIONS, PUBLICATION_OVERHEAD_BYTES};
use bytes::Bytes;
use std::collections::VecDeque;
use std::fmt;
use trine_proto::client::Tags;
use uuid::Uuid;

/// Names one life of a stream; random, so that it never repeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Epoch {
    /// Reads the text that a client sends back. Text that no epoch has gives `None`.
    pub fn parse(text: &str) -> Option<Self> {
        let well_formed = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        well_formed.then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

/// A stream's epoch and the offset of its newest publication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The stream's life.
    pub epoch: Epoch,
    /// The newest offset; 0 before the first publication.
    pub offset: u64,
}

/// A position that a client names. Its epoch may be of no stream at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// What the client has seen up to.
    pub offset: u64,
    /// Whose stream it was.
    pub epoch: SinceEpoch,
}

/// The epoch that a client names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SinceEpoch {
    /// None was named; it matches every stream.
    #[default]
    Any,
    /// This one.
    Named(Epoch),
    /// A text that is no epoch of ours, so it matches none.
    Foreign,
}

impl Since {
    /// From the fields of a request.
    pub fn new(epoch: &str, offset: u64) -> Self {
        let epoch = match epoch {
            "" => SinceEpoch::Any,
            text => Epoch::parse(text).map_or(SinceEpoch::Foreign, SinceEpoch::Named),
        };
        Self { offset, epoch }
    }

    /// Whether it names a position of the stream with `epoch`.
    pub fn matches(&self, epoch: Epoch) -> bool {
        match self.epoch {
            SinceEpoch::Any => true,
            SinceEpoch::Named(named) => named == epoch,
            SinceEpoch::Foreign => false,
        }
    }
}

/// A publication in memory of its own: one block with the payload and what its publisher is known
/// by, so that keeping it costs one allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its offset in the stream; 0 without history.
    pub offset: u64,
    /// Payload, tags, user, connection information.
    block: Bytes,
    data_bytes: u32,
    user_bytes: u32,
    tags_bytes: u32,
    /// The publisher, if it was a client.
    client: Option<Uuid>,
    /// The namespace takes any payload, so this one may be something else than JSON.
    binary: bool,
}

impl Stored {
    /// Copies a publication.
    pub fn new(offset: u64, Message { data, info, options }: Message<'_>) -> Self {
        let (user, conn_info) = info.map_or(("", &b""[..]), |info| (info.user, info.conn_info));
        let tags = options.tags();
        let bytes = data.len() + tags.len() + user.len() + conn_info.len();
        let mut block = Vec::with_capacity(bytes);
        block.extend_from_slice(data);
        block.extend_from_slice(tags);
        block.extend_from_slice(user.as_bytes());
        block.extend_from_slice(conn_info);
        Self {
            offset,
            block: block.into(),
            data_bytes: data.len() as u32,
            user_bytes: user.len() as u32,
            tags_bytes: tags.len() as u32,
            client: info.map(|info| info.client),
            binary: false,
        }
    }

    /// Whether the payload must be looked at before a JSON client is told it.
    pub fn is_binary(&self) -> bool {
        self.binary
    }

    /// The payload.
    pub fn data(&self) -> &[u8] {
        &self.block[..self.data_bytes as usize]
    }

    /// What its publisher added.
    pub fn tags(&self) -> Tags<'_> {
        Tags::packed(&self.block[self.data_bytes as usize..][..self.tags_bytes as usize])
    }

    /// The publisher, if it was a client.
    pub fn info(&self) -> Option<InfoRef<'_>> {
        let client = self.client?;
        let behind = (self.data_bytes + self.tags_bytes) as usize;
        let (user, conn_info) = self.block[behind..].split_at(self.user_bytes as usize);
        let user = std::str::from_utf8(user).expect("it was a `str` when it was copied");
        Some(InfoRef { client, user, conn_info })
    }
}

/// Which part of the history is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryFilter {
    /// 0: the position only; negative: everything; capped at [`HISTORY_PUBLICATIONS`].
    pub limit: i32,
    /// Exclusive start.
    pub since: Option<Since>,
    /// Newest first.
    pub reverse: bool,
}

/// What a recovery gives: every missed publication, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Whether the client now has everything.
    pub complete: bool,
    /// The missed publications, ascending; empty unless complete.
    pub publications: Vec<Stored>,
    /// What the reply must name as its offset: the requested one if complete, else the top.
    pub offset: u64,
}

pub(super) struct Stream {
    epoch: Epoch,
    offset: u64,
    items: VecDeque<(u64, Stored)>,
    bytes: usize,
    touched_ms: u64,
    /// The newest version that was published.
    version: Option<Box<Version>>,
}

impl Stream {
    pub fn new(epoch: Epoch, now_ms: u64) -> Self {
        let (items, bytes) = (VecDeque::new(), 0);
        Self { epoch, offset: 0, items, bytes, touched_ms: now_ms, version: None }
    }

    /// Whether a publication of this version tells something new.
    pub fn is_news(&self, version: Option<&Version>) -> bool {
        let (Some(version), Some(newest)) = (version, &self.version) else { return true };
        !version.is_outdated(newest)
    }

    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, offset: self.offset }
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn bytes(&self) -> usize {
        let of_version = |version: &Version| size_of::<Version>() + version.epoch.len();
        self.bytes + self.version.as_deref().map_or(0, of_version)
    }

    /// The age of the oldest publication kept.
    pub fn oldest_age(&self) -> Option<u64> {
        self.items.front().map(|(age, _)| *age)
    }

    pub fn append(
        &mut self,
        namespace: &Namespace,
        age: u64,
        message: Message<'_>,
        now_ms: u64,
    ) -> u64 {
        self.offset += 1;
        self.touched_ms = now_ms;
        match (&mut self.version, &message.options.version) {
            (Some(newest), Some(version)) if version.epoch.is_empty() => {
                newest.number = version.number;
            }
            (newest, Some(version)) => *newest = Some(version.clone()),
            (_, None) => {}
        }
        let mut stored = Stored::new(self.offset, message);
        stored.binary = namespace.payload == Payload::Binary;
        self.bytes += stored_bytes(&stored);
        self.items.push_back((age, stored));
        while self.items.len() > namespace.history_size {
            self.trim_first();
        }
        self.offset
    }

    /// Drops the oldest publication; returns the bytes and publications freed.
    pub fn trim_first(&mut self) -> (usize, usize) {
        let Some((_, stored)) = self.items.pop_front() else { return (0, 0) };
        let bytes = stored_bytes(&stored);
        self.bytes -= bytes;
        (bytes, 1)
    }

    /// Drops the publications if the newest of them is older than the namespace keeps them.
    pub fn expire(&mut self, namespace: &Namespace, now_ms: u64) -> (usize, usize) {
        if self.items.is_empty() || now_ms < self.touched_ms + namespace.history_ttl_ms {
            return (0, 0);
        }
        let freed = (self.bytes, self.items.len());
        self.items = VecDeque::new();
        self.bytes = 0;
        freed
    }

    /// Whether even the position need not be kept any more.
    pub fn is_forgotten(&self, namespace: &Namespace, now_ms: u64) -> bool {
        self.items.is_empty() && now_ms >= self.touched_ms + namespace.history_meta_ttl_ms
    }

    /// Client protocol §4: recovered exactly if the epoch matches and everything after the
    /// requested offset is still here and within the limit.
    pub fn recover(&self, since: &Since) -> Recovered {
        let missed = self.offset.checked_sub(since.offset);
        let kept = missed.is_some_and(|missed| missed as usize <= self.items.len());
        let within = missed.is_some_and(|missed| missed <= HISTORY_PUBLICATIONS as u64);
        if !since.matches(self.epoch) || !kept || !within {
            return Recovered { complete: false, publications: Vec::new(), offset: self.offset };
        }
        let skip = self.items.len() - (self.offset - since.offset) as usize;
        let publications: Vec<Stored> =
            self.items.iter().skip(skip).map(|(_, stored)| stored.clone()).collect();
        debug_assert!(publications.first().is_none_or(|first| first.offset == since.offset + 1));
        Recovered { complete: true, publications, offset: since.offset }
    }

    pub fn read(&self, filter: &HistoryFilter) -> Vec<Stored> {
        let limit = match filter.limit {
            0 => return Vec::new(),
            limit if limit < 0 => HISTORY_PUBLICATIONS,
            limit => HISTORY_PUBLICATIONS.min(limit as usize),
        };
        let items = self.items.iter().map(|(_, stored)| stored);
        match (filter.reverse, filter.since) {
            (false, None) => items.take(limit).cloned().collect(),
            (false, Some(since)) => {
                items.filter(|stored| stored.offset > since.offset).take(limit).cloned().collect()
            }
            (true, None) => items.rev().take(limit).cloned().collect(),
            (true, Some(since)) => {
                let older = items.rev().filter(|stored| stored.offset < since.offset);
                older.take(limit).cloned().collect()
            }
        }
    }
}

fn stored_bytes(stored: &Stored) -> usize {
    PUBLICATION_OVERHEAD_BYTES + stored.block.len()
}
