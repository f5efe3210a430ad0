//! The embedded broker: history, presence and who must be told, for the channels a shard owns.
//!
//! **Runs on: shard**, the owner's. Sans-IO: the caller brings the time and the epochs' random
//! numbers come from the shard's generator. Invariants: only the owner assigns offsets; an epoch
//! never repeats; history and presence stay within the shard's share of
//! `broker.history_limit_bytes`, the oldest history going first; a client that its presence has no
//! room for is refused. Beyond it are only the positions of channels that are followed.

mod presence;
mod stream;
#[cfg(test)]
mod tests;

pub use presence::{Presence, PresenceStats};
pub use stream::{Epoch, HistoryFilter, Position, Recovered, Since, Stored};

use crate::config::Namespace;
use crate::limits::{CHANNEL_OVERHEAD_BYTES, IDEMPOTENCY_KEYS, IDEMPOTENCY_MS, SWEEP_CHANNELS};
use crate::recent::Recent;
use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashTable};
use rand::RngCore;
use rand::rngs::StdRng;
use slab::Slab;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::BuildHasher;
use stream::Stream;
use uuid::Uuid;

/// Who published, joined or left: the client and what its connection is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The connection's client id.
    pub client: Uuid,
    /// The user, empty for an anonymous client.
    pub user: Box<str>,
    /// Shown to other clients; empty or JSON.
    pub conn_info: Bytes,
}

/// [`Info`] by reference.
#[derive(Clone, Copy, Debug)]
pub struct InfoRef<'a> {
    /// See [`Info::client`].
    pub client: Uuid,
    /// See [`Info::user`].
    pub user: &'a str,
    /// See [`Info::conn_info`].
    pub conn_info: &'a [u8],
}

impl Info {
    /// This information by reference.
    pub fn as_ref(&self) -> InfoRef<'_> {
        InfoRef { client: self.client, user: &self.user, conn_info: &self.conn_info }
    }
}

impl InfoRef<'_> {
    /// A copy in memory of its own.
    pub fn to_owned(self) -> Info {
        let conn_info = Bytes::copy_from_slice(self.conn_info);
        Info { client: self.client, user: self.user.into(), conn_info }
    }
}

/// How something is published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishOptions {
    /// It gets no offset and is not kept.
    pub skip_history: bool,
    /// Names it in its channel: a second publish with this name is not done, and gets the first
    /// one's answer.
    pub idempotency_key: Option<Box<str>>,
    /// What is told with it, packed (see [`trine_proto::client::Tags`]).
    pub tags: Option<Box<[u8]>>,
    /// It is not done where the channel's history has seen this version, or a later one.
    pub version: Option<Box<Version>>,
}

/// The version of the state that a publication tells of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Its number; each later state has a greater one.
    pub number: u64,
    /// Names where numbers come from: those of another source don't compare. Empty: of any.
    pub epoch: Box<str>,
}

impl Version {
    /// Whether it tells nothing new to who has seen `newest`.
    pub fn is_outdated(&self, newest: &Version) -> bool {
        let is_comparable = self.epoch.is_empty() || self.epoch == newest.epoch;
        is_comparable && self.number <= newest.number
    }
}

impl PublishOptions {
    /// As a client publishes.
    pub const PLAIN: PublishOptions =
        PublishOptions { skip_history: false, idempotency_key: None, tags: None, version: None };

    /// The packed tags.
    pub fn tags(&self) -> &[u8] {
        self.tags.as_deref().unwrap_or_default()
    }
}

/// What is published.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The payload.
    pub data: &'a [u8],
    /// The publisher, if it is a client.
    pub info: Option<InfoRef<'a>>,
    /// How.
    pub options: &'a PublishOptions,
}

impl<'a> Message<'a> {
    /// As a client publishes.
    pub fn plain(data: &'a [u8], info: Option<InfoRef<'a>>) -> Self {
        Self { data, info, options: &PublishOptions::PLAIN }
    }
}

/// Which publications a name is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Those that only the channel has.
    Live,
    /// Those that the log has, too.
    Durable,
}

/// A set of shards, at most [`crate::limits::SHARDS_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardSet([u64; 4]);

impl ShardSet {
    /// Adds `shard`; says whether it was new.
    pub fn insert(&mut self, shard: usize) -> bool {
        let (word, bit) = (shard / 64, 1 << (shard % 64));
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    /// Removes `shard`; says whether it was there.
    pub fn remove(&mut self, shard: usize) -> bool {
        let (word, bit) = (shard / 64, 1 << (shard % 64));
        let there = self.0[word] & bit != 0;
        self.0[word] &= !bit;
        there
    }

    /// Whether no shard is in it.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// The shards in it, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..4).flat_map(move |word| {
            let mut bits = self.0[word];
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros();
                (bit < 64).then(|| {
                    bits &= bits - 1;
                    word * 64 + bit as usize
                })
            })
        })
    }
}

/// What a subscriber asks of the owner, all answered in one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeWish {
    /// The reply shall carry the position.
    pub position: bool,
    /// Return what was missed since then.
    pub recover: Option<Since>,
    /// Enter this client into the channel's presence.
    pub presence: Option<Info>,
}

/// The owner's answer to a subscribe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscribed {
    /// The stream's top when it was asked for.
    pub position: Option<Position>,
    /// The outcome, if recovery was asked for.
    pub recovered: Option<Recovered>,
    /// The presence that was wished for has no room: the client isn't in it, and is refused.
    pub no_room: bool,
}

/// What happened in the broker since the counters were last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Publications dropped from history because the shard's budget was full.
    pub trimmed: u64,
    /// Subscribes that were refused, since their presence had no room.
    pub presence_refused: u64,
}

/// A name of a publication, in its channel.
pub(crate) fn joined(channel: &str, key: &str) -> Box<[u8]> {
    [channel.as_bytes(), b"\0", key.as_bytes()].concat().into()
}

/// The channels that one shard owns and knows something about.
pub struct Broker {
    channels: Slab<Channel>,
    names: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Streams by the age of their oldest publication, one entry for each stream that has any; an
    /// entry whose age is out of date is corrected when it comes up.
    oldest: BinaryHeap<Reverse<(u64, u32)>>,
    /// Number of the next publication kept, over all streams: the age that trimming goes by.
    next_age: u64,
    /// Where the next sweep begins.
    cursor: usize,
    /// Where the last look for streams that nobody follows stopped.
    trim_from: usize,
    /// How many channels have a stream.
    streams: usize,
    /// Places in a row at which such looks found none, since there may be another one.
    looked: usize,
    random: StdRng,
    limit_bytes: usize,
    used_bytes: usize,
    items: usize,
    presence_entries: usize,
    presence_bytes: usize,
    /// Publications that were named, those of the log apart: they come many a second.
    named: [Recent<Option<Position>>; 2],
    totals: Totals,
}

struct Channel {
    name: Box<str>,
    namespace: usize,
    /// Shards that have subscribers. The owner itself is in it only if one of its subscribers
    /// asked for more than live publications.
    shards: ShardSet,
    stream: Option<Box<Stream>>,
    presence: Option<Box<Presence>>,
}

impl Broker {
    /// A broker that keeps history and presence within `limit_bytes`.
    pub fn new(limit_bytes: usize, random: StdRng) -> Self {
        Self {
            channels: Slab::new(),
            names: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            oldest: BinaryHeap::new(),
            next_age: 0,
            cursor: 0,
            trim_from: 0,
            streams: 0,
            looked: 0,
            random,
            limit_bytes,
            used_bytes: 0,
            items: 0,
            presence_entries: 0,
            presence_bytes: 0,
            named: [(); 2].map(|()| Recent::new(IDEMPOTENCY_MS, IDEMPOTENCY_KEYS)),
            totals: Totals::default(),
        }
    }

    /// Adds the shard `from` to those that get the channel's publications and reads what the
    /// subscriber asked for, in one step.
    pub fn subscribe(
        &mut self,
        from: usize,
        name: &str,
        (namespace, index): (&Namespace, usize),
        wish: SubscribeWish,
        now_ms: u64,
    ) -> Subscribed {
        let mut answer = Subscribed::default();
        let id = self.open(name, index);
        self.channels[id].shards.insert(from);
        answer.no_room = wish.presence.is_some_and(|info| !self.enter(id, info));
        if answer.no_room {
            return answer;
        }
        if wish.position || wish.recover.is_some() {
            let stream = self.stream(id, namespace, now_ms);
            answer.position = Some(stream.position());
            answer.recovered = wish.recover.map(|since| stream.recover(&since));
        }
        self.trim();
        answer
    }

    /// Enters a client into the channel's presence; says whether there was room.
    fn enter(&mut self, id: usize, info: Info) -> bool {
        let bytes = presence::entry_bytes(&info);
        let presence = &mut self.channels[id].presence;
        if presence.as_ref().is_some_and(|presence| presence.contains(info.client)) {
            return true;
        }
        if self.presence_bytes + bytes > self.limit_bytes {
            self.totals.presence_refused += 1;
            return false;
        }
        presence.get_or_insert_default().insert(info);
        self.presence_entries += 1;
        self.presence_bytes += bytes;
        self.used_bytes += bytes;
        true
    }

    /// Forgets that the shard `from` has subscribers.
    pub fn unsubscribe(&mut self, from: usize, name: &str) {
        if let Some(id) = self.find(name) {
            self.channels[id].shards.remove(from);
            self.looked = 0;
            self.drop_if_unused(id);
        }
    }

    /// The position of the publication with this name in the channel, if there was one.
    pub fn published(
        &mut self,
        of: Named,
        (channel, key): (&str, &str),
        now_ms: u64,
    ) -> Option<Option<Position>> {
        self.named[of as usize].find(&joined(channel, key), now_ms)
    }

    /// A publication of the channel has this name.
    pub fn name(
        &mut self,
        of: Named,
        (channel, key): (&str, &str),
        at: Option<Position>,
        now_ms: u64,
    ) {
        self.named[of as usize].insert(joined(channel, key), at, now_ms);
    }

    /// Gives the publication its place in the stream (0 without history) and returns the shards
    /// that must get it; `None`: nobody, since the stream has a later version. Without history
    /// versions say nothing.
    pub fn publish(
        &mut self,
        name: &str,
        (namespace, index): (&Namespace, usize),
        message: Message<'_>,
        now_ms: u64,
    ) -> (Option<Position>, Option<ShardSet>) {
        if !namespace.has_history() || message.options.skip_history {
            return (None, Some(self.shards(name)));
        }
        let id = self.open(name, index);
        let age = self.next_age;
        self.next_age += 1;
        let stream = self.stream(id, namespace, now_ms);
        if !stream.is_news(message.options.version.as_deref()) {
            return (Some(stream.position()), None);
        }
        if stream.is_empty() {
            self.order(age, id as u32);
        }
        let stream = self.channels[id].stream.as_mut().expect("made above");
        let before = (stream.bytes(), stream.len());
        stream.append(namespace, age, message, now_ms);
        let position = stream.position();
        self.used_bytes = self.used_bytes - before.0 + stream.bytes();
        self.items = self.items - before.1 + stream.len();
        let shards = self.channels[id].shards;
        self.trim();
        (Some(position), Some(shards))
    }

    /// What the channel's history holds, and its position; `None` when the filter names a position
    /// of another stream.
    pub fn history(
        &mut self,
        name: &str,
        (namespace, index): (&Namespace, usize),
        filter: &HistoryFilter,
        now_ms: u64,
    ) -> Option<(Vec<Stored>, Position)> {
        let id = self.open(name, index);
        let stream = self.stream(id, namespace, now_ms);
        let position = stream.position();
        let known = filter.since.is_none_or(|since| since.matches(position.epoch));
        let result = known.then(|| (stream.read(filter), position));
        self.trim();
        result
    }

    /// The clients that are present; `None` when nobody is.
    pub fn presence(&self, name: &str) -> Option<&Presence> {
        self.channels[self.find(name)?].presence.as_deref()
    }

    /// Removes a client from the presence; returns it if it was there.
    pub fn leave(&mut self, name: &str, client: Uuid) -> Option<Info> {
        let id = self.find(name)?;
        let info = self.channels[id].presence.as_mut()?.remove(client)?;
        let bytes = presence::entry_bytes(&info);
        self.presence_entries -= 1;
        self.presence_bytes -= bytes;
        self.used_bytes -= bytes;
        self.drop_if_unused(id);
        Some(info)
    }

    /// Shards that have subscribers of the channel; the owner itself only if the broker knows.
    pub fn shards(&self, name: &str) -> ShardSet {
        self.find(name).map(|id| self.channels[id].shards).unwrap_or_default()
    }

    /// The shard's mailbox was full for a publication of this channel: it gets nothing more until
    /// it subscribes again.
    pub fn hole(&mut self, name: &str, shard: usize) {
        let id = self.find(name);
        let removed = id.is_some_and(|id| self.channels[id].shards.remove(shard));
        assert!(removed, "only a subscribed shard can miss a publication");
        id.into_iter().for_each(|id| self.drop_if_unused(id));
    }

    /// Expires a bounded number of channels; to be called a few times a second. `namespaces` are
    /// the configured ones, by the index that channels were made with.
    pub fn sweep(&mut self, namespaces: &[Namespace], now_ms: u64) {
        for _ in 0..SWEEP_CHANNELS.min(self.channels.capacity()) {
            if self.cursor >= self.channels.capacity() {
                self.cursor = 0;
            }
            let id = self.cursor;
            self.cursor += 1;
            let Some(channel) = self.channels.get_mut(id) else { continue };
            let namespace = &namespaces[channel.namespace];
            let Some(stream) = &mut channel.stream else { continue };
            let expired = stream.expire(namespace, now_ms);
            let forgotten = channel.shards.is_empty() && stream.is_forgotten(namespace, now_ms);
            self.freed(expired);
            if forgotten {
                self.forget_stream(id);
            }
            self.drop_if_unused(id);
        }
    }

    /// Bytes of history and presence, publications kept, presence entries, channels known.
    pub fn sizes(&self) -> (usize, usize, usize, usize) {
        (self.used_bytes, self.items, self.presence_entries, self.channels.len())
    }

    /// Takes the counters.
    pub fn take_totals(&mut self) -> Totals {
        std::mem::take(&mut self.totals)
    }

    fn find(&self, name: &str) -> Option<usize> {
        if self.names.is_empty() {
            return None;
        }
        let hash = self.hasher.hash_one(name);
        let id = self.names.find(hash, |&id| &*self.channels[id as usize].name == name)?;
        Some(*id as usize)
    }

    fn open(&mut self, name: &str, namespace: usize) -> usize {
        if let Some(id) = self.find(name) {
            return id;
        }
        let id = self.channels.insert(Channel {
            name: name.into(),
            namespace,
            shards: ShardSet::default(),
            stream: None,
            presence: None,
        });
        let (channels, hasher) = (&self.channels, &self.hasher);
        let hash = hasher.hash_one(name);
        self.names
            .insert_unique(hash, id as u32, |&id| hasher.hash_one(&*channels[id as usize].name));
        id
    }

    /// The channel's stream, made if there is none, without what has expired.
    fn stream(&mut self, id: usize, namespace: &Namespace, now_ms: u64) -> &mut Stream {
        if self.channels[id].stream.is_none() {
            let epoch = Epoch(self.random.next_u64());
            self.channels[id].stream = Some(Box::new(Stream::new(epoch, now_ms)));
            self.streams += 1;
            self.looked = 0;
            self.used_bytes += CHANNEL_OVERHEAD_BYTES;
        }
        let stream = self.channels[id].stream.as_mut().expect("made above");
        let expired = stream.expire(namespace, now_ms);
        self.freed(expired);
        self.channels[id].stream.as_mut().expect("made above")
    }

    /// Notes a stream's first publication. Entries of streams that expired are still there; when
    /// they are the most, the heap is made anew, which costs each entry a constant.
    fn order(&mut self, age: u64, id: u32) {
        if self.oldest.len() > 2 * self.channels.len() + SWEEP_CHANNELS {
            let streams = self.channels.iter().filter_map(|(id, channel)| {
                Some(Reverse((channel.stream.as_ref()?.oldest_age()?, id as u32)))
            });
            self.oldest = streams.collect();
        }
        self.oldest.push(Reverse((age, id)));
    }

    fn freed(&mut self, (bytes, items): (usize, usize)) {
        self.used_bytes -= bytes;
        self.items -= items;
    }

    /// Drops the oldest publications until all fits; where streams take half of the room by merely
    /// being there, or no publications are left, empty ones that nobody follows.
    fn trim(&mut self) {
        let are_many = self.streams * CHANNEL_OVERHEAD_BYTES > self.limit_bytes / 2;
        if are_many && self.looked < self.channels.capacity() {
            self.trim_streams();
        }
        while self.used_bytes > self.limit_bytes {
            let Some(Reverse((age, id))) = self.oldest.pop() else { break };
            let Some(stream) = self.channels.get_mut(id as usize).and_then(|c| c.stream.as_mut())
            else {
                continue;
            };
            if stream.oldest_age() == Some(age) {
                let freed = stream.trim_first();
                self.totals.trimmed += freed.1 as u64;
                self.freed(freed);
            }
            let stream = self.channels[id as usize].stream.as_ref().expect("it was there");
            if let Some(age) = stream.oldest_age() {
                self.oldest.push(Reverse((age, id)));
            }
        }
        self.trim_streams();
    }

    /// A bounded look at the channels for streams that may go, from where the last one stopped
    /// until all fits.
    fn trim_streams(&mut self) {
        for _ in 0..SWEEP_CHANNELS.min(self.channels.capacity()) {
            if self.used_bytes <= self.limit_bytes {
                return;
            }
            self.looked += 1;
            self.trim_from = (self.trim_from + 1) % self.channels.capacity();
            let id = self.trim_from;
            let idle = |channel: &Channel| {
                channel.shards.is_empty() && channel.stream.as_ref().is_some_and(|s| s.is_empty())
            };
            if self.channels.get(id).is_some_and(idle) {
                self.looked = 0;
                self.forget_stream(id);
                self.drop_if_unused(id);
            }
        }
    }

    fn forget_stream(&mut self, id: usize) {
        if let Some(stream) = self.channels[id].stream.take() {
            self.streams -= 1;
            self.freed((stream.bytes() + CHANNEL_OVERHEAD_BYTES, stream.len()));
        }
    }

    fn drop_if_unused(&mut self, id: usize) {
        let channel = &mut self.channels[id];
        if channel.presence.as_ref().is_some_and(|presence| presence.is_empty()) {
            channel.presence = None;
        }
        if channel.shards.is_empty() && channel.stream.is_none() && channel.presence.is_none() {
            let hash = self.hasher.hash_one(&*channel.name);
            if let Ok(entry) = self.names.find_entry(hash, |&known| known as usize == id) {
                entry.remove();
            }
            self.channels.remove(id);
        }
    }
}
