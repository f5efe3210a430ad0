//! Who is subscribed to what on this shard, and the way from a publish to every subscriber.
//!
//! **Runs on: shard.** Sans-IO: other shards are behind [`Post`], clients behind [`Clients`], the
//! time comes with each call. Invariants: a subscription goes live exactly when its answer is
//! taken from the owner's queue; the owner knows this shard exactly while it has subscribers or
//! asks; a client that missed something is told (2500) before it gets anything more.

mod frames;
mod message;
#[cfg(test)]
mod tests;

pub use frames::{Event, Frames, frame_kind, with_info};
pub use message::{Acknowledged, Answer, Ask, Post, Ticket, ToShard};

use crate::broker::{
    Broker, HistoryFilter, Info, Message, Named, Position, Recovered, ShardSet, Stored,
    SubscribeWish, Subscribed,
};
use crate::config::{Config, Namespace, Payload};
use crate::limits::REQUESTS_OUTSTANDING;
use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;
use smallvec::SmallVec;
use std::hash::BuildHasher;
use std::rc::Rc;
use trine_core::shard::Ownership;
use trine_proto::client::{ErrorCode, Format, Tags, UnsubscribeCode};

/// A subscriber: the client's number on this shard and what the hot loop must know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriber(u32);

impl Subscriber {
    const PROTOBUF: u32 = 1 << 31;
    const JOIN_LEAVE: u32 = 1 << 30;

    /// A subscriber; `client` is below 2^30.
    pub fn new(client: u32, format: Format, join_leave: bool) -> Self {
        assert!(client < Self::JOIN_LEAVE, "a shard has fewer than 2^30 clients");
        let format = if format == Format::Protobuf { Self::PROTOBUF } else { 0 };
        Self(client | format | if join_leave { Self::JOIN_LEAVE } else { 0 })
    }

    /// The client's number.
    #[inline]
    pub fn client(self) -> u32 {
        self.0 & !(Self::PROTOBUF | Self::JOIN_LEAVE)
    }

    /// The format that it reads.
    #[inline]
    pub fn format(self) -> Format {
        if self.0 & Self::PROTOBUF != 0 { Format::Protobuf } else { Format::Json }
    }

    /// Whether it wants to know who joins and leaves.
    #[inline]
    pub fn join_leave(self) -> bool {
        self.0 & Self::JOIN_LEAVE != 0
    }
}

/// The clients of this shard, as the hub sees them.
pub trait Clients {
    /// Puts the frame into the client's outbox; false: the client is ending, or ends for it.
    fn deliver(&mut self, subscriber: Subscriber, frames: &mut Frames<'_>) -> bool;
    /// The owner has answered; a subscription is live from here on.
    fn answered(&mut self, ticket: Ticket, channel: Option<(u32, Subscriber)>, answer: Answer);
    /// The hub has ended the client's subscription of `channel`.
    fn unsubscribed(&mut self, client: u32, channel: u32, name: &str, code: UnsubscribeCode);
    /// Who the client is, for presence and join/leave.
    fn info(&self, client: u32) -> Info;
}

/// Where a command stands after the hub took it.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress<T> {
    /// Done, with this result.
    Done(T),
    /// The owner was asked; [`Clients::answered`] will follow.
    Asked,
    /// Nothing happened: the mailbox to this shard is full, or too many requests are outstanding.
    Full(usize),
}

/// What happened since the counters were last taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Publications that this shard gave their place.
    pub publications: u64,
    /// Publications put into outboxes.
    pub deliveries: u64,
    /// Forms encoded: JSON, Protobuf.
    pub encodes: [u64; 2],
    /// Channels marked as holed for another shard.
    pub holed: u64,
}

/// A subscribe command that has passed every check.
pub struct Subscribe<'a> {
    /// The channel's name.
    pub channel: &'a str,
    /// Its namespace, by index.
    pub namespace: usize,
    /// Who subscribes.
    pub subscriber: Subscriber,
    /// Where the reply goes if the owner must be asked.
    pub ticket: Ticket,
    /// What the owner shall do and tell.
    pub wish: SubscribeWish,
    /// Tell the others that this client joined.
    pub join: Option<Info>,
}

/// The hub of one shard, with the broker for the channels that the shard owns.
pub struct Hub<P> {
    index: usize,
    ownership: Ownership,
    config: Rc<Config>,
    channels: Slab<Channel>,
    names: HashTable<u32>,
    hasher: DefaultHashBuilder,
    broker: Broker,
    requests: Slab<Outstanding>,
    subscriptions: usize,
    post: P,
    totals: Totals,
}

struct Channel {
    name: Box<str>,
    namespace: u16,
    owner: u16,
    /// Subscribe requests that the owner has not answered.
    asked: u32,
    /// The owner (another shard) sends us its publications.
    live: bool,
    subscribers: SmallVec<[Subscriber; 4]>,
}

struct Outstanding {
    /// `None` once the client is gone.
    ticket: Option<Ticket>,
    subscribe: Option<(u32, Subscriber)>,
    /// To be taken back if the client is gone when the answer comes.
    leave: Option<Box<Info>>,
}

impl<P: Post> Hub<P> {
    /// The hub of shard `index`.
    pub fn new(
        index: usize,
        ownership: Ownership,
        config: Rc<Config>,
        broker: Broker,
        post: P,
    ) -> Self {
        Self {
            index,
            ownership,
            config,
            channels: Slab::new(),
            names: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            broker,
            requests: Slab::new(),
            subscriptions: 0,
            post,
            totals: Totals::default(),
        }
    }

    /// The way to the other shards.
    pub fn post(&mut self) -> &mut P {
        &mut self.post
    }

    /// The broker of the channels that this shard owns.
    pub fn broker(&mut self) -> &mut Broker {
        &mut self.broker
    }

    /// Expires history of the channels that this shard owns, a few at a time.
    pub fn sweep(&mut self, now_ms: u64) {
        self.broker.sweep(&self.config.namespaces, now_ms);
    }

    /// Takes the counters.
    pub fn take_totals(&mut self) -> Totals {
        std::mem::take(&mut self.totals)
    }

    /// Channels with subscribers here, subscriptions, requests outstanding.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.channels.len(), self.subscriptions, self.requests.len())
    }

    /// Which shard owns a channel.
    pub fn owner(&self, channel: &str) -> usize {
        self.ownership.owner(channel)
    }

    /// Which shard owns a record's key.
    pub fn owner_of_key(&self, key: crate::ingest::Owner) -> usize {
        key.shard(self.ownership.shards())
    }

    /// Whether a request to `shard` would be taken.
    pub fn has_room(&mut self, shard: usize) -> bool {
        self.requests.len() < REQUESTS_OUTSTANDING && self.post.has_room(shard)
    }

    /// The number of a channel that this shard has subscribers of, or asks for.
    pub fn find(&self, name: &str) -> Option<u32> {
        if self.names.is_empty() {
            return None;
        }
        let hash = self.hasher.hash_one(name);
        self.names.find(hash, |&id| &*self.channels[id as usize].name == name).copied()
    }

    /// The name of a channel found by [`Hub::find`].
    pub fn name(&self, channel: u32) -> &str {
        &self.channels[channel as usize].name
    }

    /// Subscribes a client. `Done`: the subscription is live; after the reply call
    /// [`Hub::announce`] if others shall know.
    pub fn subscribe(
        &mut self,
        subscribe: Subscribe<'_>,
        now_ms: u64,
    ) -> Progress<(u32, Subscribed)> {
        let Subscribe { channel: name, namespace, subscriber, ticket, wish, join } = subscribe;
        let owner = self.ownership.owner(name);
        let id = self.find(name);
        let plain = !wish.position && wish.recover.is_none() && wish.presence.is_none();
        if owner == self.index {
            let id = id.unwrap_or_else(|| self.open(name, namespace, owner));
            let mut answer = Subscribed::default();
            if !plain {
                let namespaces = self.config.clone();
                let namespace = (&namespaces.namespaces[namespace], namespace);
                answer = self.broker.subscribe(self.index, name, namespace, wish, now_ms);
            }
            self.add(id, subscriber);
            return Progress::Done((id, answer));
        }
        if plain
            && join.is_none()
            && let Some(id) = id
            && self.channels[id as usize].live
        {
            self.add(id, subscriber);
            return Progress::Done((id, Subscribed::default()));
        }
        let leave = wish.presence.clone().or_else(|| join.clone()).map(Box::new);
        let ask = Ask::Subscribe { wish: Box::new(wish), join: join.map(Box::new) };
        let outstanding = Outstanding { ticket: Some(ticket), subscribe: None, leave };
        match self.ask(owner, name, namespace, ask, outstanding) {
            Ok(request) => {
                let id = id.unwrap_or_else(|| self.open(name, namespace, owner));
                self.channels[id as usize].asked += 1;
                self.requests[request as usize].subscribe = Some((id, subscriber));
                Progress::Asked
            }
            Err(owner) => Progress::Full(owner),
        }
    }

    /// Ends a live subscription of this shard.
    pub fn unsubscribe<C: Clients>(
        &mut self,
        clients: &mut C,
        channel: u32,
        subscriber: u32,
        who: impl FnOnce() -> Info,
    ) {
        self.remove(channel, subscriber);
        let entry = &self.channels[channel as usize];
        let namespace = &self.config.namespaces[entry.namespace as usize];
        if namespace.presence || namespace.join_leave {
            self.leave(clients, channel, who());
        }
        self.close_if_unused(channel);
    }

    /// Takes back a subscription that was refused after all. Another shard that owns the channel may
    /// have told of the join, and then tells of the leave; here nobody was told.
    pub fn withdraw<C: Clients>(
        &mut self,
        clients: &mut C,
        channel: u32,
        subscriber: u32,
        who: Info,
    ) {
        if usize::from(self.channels[channel as usize].owner) != self.index {
            return self.unsubscribe(clients, channel, subscriber, || who);
        }
        self.remove(channel, subscriber);
        self.broker.leave(&self.channels[channel as usize].name, who.client);
        self.close_if_unused(channel);
    }

    fn remove(&mut self, channel: u32, subscriber: u32) {
        let entry = &mut self.channels[channel as usize];
        let place = entry.subscribers.iter().position(|s| s.client() == subscriber);
        let place = place.expect("a session knows only live subscriptions");
        entry.subscribers.swap_remove(place);
        self.subscriptions -= 1;
    }

    /// The client is gone: its unanswered subscribe will be undone when the answer comes.
    pub fn forget(&mut self, ticket: Ticket) {
        for (_, outstanding) in &mut self.requests {
            if outstanding.ticket == Some(ticket) {
                outstanding.ticket = None;
            }
        }
    }

    /// Publishes for a client of this shard, or for a backend. `Done`: it has its place and is on its way to every
    /// subscriber.
    pub fn publish<C: Clients>(
        &mut self,
        clients: &mut C,
        (name, namespace): (&str, usize),
        message: Message<'_>,
        ticket: Ticket,
        now_ms: u64,
    ) -> Progress<Option<Position>> {
        let owner = self.ownership.owner(name);
        if owner == self.index {
            let position = self.publish_owned(clients, (name, namespace), message, now_ms);
            return Progress::Done(position);
        }
        let has_room = self.has_room(owner);
        if !has_room {
            // Said before the payload is copied; the mailbox notes that room is waited for.
            return Progress::Full(owner);
        }
        let (data, options) = (Bytes::copy_from_slice(message.data), message.options.clone());
        let info = message.info.map(|info| Box::new(info.to_owned()));
        let ask = Ask::Publish { data, info, options };
        self.asked(owner, name, namespace, ask, ticket)
    }

    /// Reads the history of a channel.
    pub fn history(
        &mut self,
        (name, namespace): (&str, usize),
        filter: HistoryFilter,
        ticket: Ticket,
        now_ms: u64,
    ) -> Progress<Answer> {
        self.read(name, namespace, Ask::History(filter), ticket, now_ms)
    }

    /// Reads the presence of a channel, or its numbers only.
    pub fn presence(
        &mut self,
        (name, namespace): (&str, usize),
        stats: bool,
        ticket: Ticket,
        now_ms: u64,
    ) -> Progress<Answer> {
        let ask = if stats { Ask::PresenceStats } else { Ask::Presence };
        self.read(name, namespace, ask, ticket, now_ms)
    }

    /// Tells a channel's subscribers that a client of this shard joined; for the owner only, after
    /// the joiner's reply.
    pub fn announce<C: Clients>(&mut self, clients: &mut C, name: &str, info: &Info) {
        self.tell(clients, name, true, info);
    }

    /// Takes one message from shard `from`.
    pub fn receive<C: Clients>(
        &mut self,
        clients: &mut C,
        from: usize,
        message: ToShard,
        now_ms: u64,
    ) {
        match message {
            ToShard::Request { request, channel, namespace, ask } => {
                self.serve(clients, from, request, &channel, namespace as usize, ask, now_ms);
            }
            ToShard::Answer { request, answer } => self.answered(clients, request, answer),
            ToShard::Publication { channel, publication } => {
                let (offset, data, info) =
                    (publication.offset, publication.data(), publication.info());
                let tags = publication.tags();
                self.deliver(clients, &channel, Event::Publication { offset, data, info, tags });
            }
            ToShard::Membership { channel, joined, info } => {
                let event = if joined { Event::Join } else { Event::Leave };
                self.deliver(clients, &channel, event(info.as_ref().as_ref()));
            }
            ToShard::Unsubscribe { channel } => self.broker.unsubscribe(from, &channel),
            ToShard::Leave { channel, namespace, who } => {
                self.left(clients, &channel, namespace as usize, *who);
            }
            ToShard::Holed { channel } => self.holed(clients, &channel),
            ToShard::Connection(_)
            | ToShard::Ingest { .. }
            | ToShard::Record { .. }
            | ToShard::Ingested { .. }
            | ToShard::Acknowledged(_) => unreachable!("the shard takes these before the hub"),
        }
    }

    /// Serves a request as the channel's owner.
    #[allow(clippy::too_many_arguments)]
    fn serve<C: Clients>(
        &mut self,
        clients: &mut C,
        from: usize,
        request: u32,
        name: &str,
        namespace: usize,
        ask: Ask,
        now_ms: u64,
    ) {
        assert_eq!(self.ownership.owner(name), self.index, "requests go to the owner");
        let mut joined = None;
        let answer = match ask {
            Ask::Subscribe { wish, join } => {
                let config = self.config.clone();
                let namespace = (&config.namespaces[namespace], namespace);
                let answer = self.broker.subscribe(from, name, namespace, *wish, now_ms);
                joined = join.filter(|_| !answer.no_room);
                Answer::Subscribed(Box::new(answer))
            }
            Ask::Publish { data, info, options } => {
                let info = info.as_deref().map(|info| info.as_ref());
                let message = Message { data: &data, info, options: &options };
                let position = self.publish_owned(clients, (name, namespace), message, now_ms);
                Answer::Published(position)
            }
            ask => self.read_owned(name, namespace, &ask, now_ms),
        };
        self.post.send(from, ToShard::Answer { request, answer });
        if let Some(info) = joined {
            self.tell(clients, name, true, &info);
        }
    }

    fn answered<C: Clients>(&mut self, clients: &mut C, request: u32, answer: Answer) {
        let outstanding = self.requests.remove(request as usize);
        let Some((id, subscriber)) = outstanding.subscribe else {
            if let Some(ticket) = outstanding.ticket {
                clients.answered(ticket, None, answer);
            }
            return;
        };
        let channel = &mut self.channels[id as usize];
        channel.asked -= 1;
        channel.live = true;
        match outstanding.ticket {
            Some(ticket) => {
                self.add(id, subscriber);
                clients.answered(ticket, Some((id, subscriber)), answer);
            }
            None => {
                if let Some(info) = outstanding.leave {
                    self.leave(clients, id, *info);
                }
                self.close_if_unused(id);
            }
        }
    }

    /// Gives a publication its place and sends it to every shard that has subscribers; for the
    /// channel's owner only.
    pub fn publish_owned<C: Clients>(
        &mut self,
        clients: &mut C,
        (name, namespace): (&str, usize),
        message: Message<'_>,
        now_ms: u64,
    ) -> Option<Position> {
        let options = message.options;
        if let Some(key) = &options.idempotency_key
            && let Some(position) = self.broker.published(Named::Live, (name, key), now_ms)
        {
            return position;
        }
        let config = self.config.clone();
        let settings = &config.namespaces[namespace];
        let stripped = match settings.payload {
            Payload::Json => trine_proto::client::strip_newlines(message.data),
            Payload::Binary => None,
        };
        let message = Message { data: stripped.as_deref().unwrap_or(message.data), ..message };
        let (position, shards) = self.broker.publish(name, (settings, namespace), message, now_ms);
        if let Some(key) = &options.idempotency_key {
            self.broker.name(Named::Live, (name, key), position, now_ms);
        }
        let Some(shards) = shards else { return position };
        self.totals.publications += 1;
        let offset = position.map_or(0, |position| position.offset);
        self.copy_to(shards, name, || ToShard::Publication {
            channel: name.into(),
            publication: Box::new(Stored::new(offset, message)),
        });
        let Message { data, info, options } = message;
        let tags = Tags::packed(options.tags());
        self.deliver(clients, name, Event::Publication { offset, data, info, tags });
        position
    }

    /// Puts an event into the outbox of every subscriber on this shard.
    fn deliver<C: Clients>(&mut self, clients: &mut C, name: &str, event: Event<'_>) {
        let Some(id) = self.find(name) else { return };
        let channel = &self.channels[id as usize];
        if channel.subscribers.is_empty() {
            return;
        }
        let binary = self.config.namespaces[channel.namespace as usize].payload == Payload::Binary;
        let mut frames = Frames::new(name, event, binary);
        let membership = frames.is_membership();
        for &subscriber in &channel.subscribers {
            if !membership {
                self.totals.deliveries += u64::from(clients.deliver(subscriber, &mut frames));
            } else if subscriber.join_leave() {
                clients.deliver(subscriber, &mut frames);
            }
        }
        let [json, protobuf] = frames.encodes();
        self.totals.encodes[0] += json;
        self.totals.encodes[1] += protobuf;
    }

    /// Sends a copy to each other shard in the set; one whose mailbox is full has a hole now.
    fn copy_to(&mut self, shards: ShardSet, name: &str, copy: impl Fn() -> ToShard) {
        for shard in shards.iter().filter(|&shard| shard != self.index) {
            if self.post.try_send(shard, copy()).is_err() {
                self.broker.hole(name, shard);
                self.totals.holed += 1;
                self.post.send(shard, ToShard::Holed { channel: name.into() });
            }
        }
    }

    /// Ends every subscription of a channel that this shard missed something of.
    fn holed<C: Clients>(&mut self, clients: &mut C, name: &str) {
        let Some(id) = self.find(name) else { return };
        let channel = &mut self.channels[id as usize];
        channel.live = false;
        let subscribers = std::mem::take(&mut channel.subscribers);
        let namespace = &self.config.namespaces[channel.namespace as usize];
        let tell = namespace.presence || namespace.join_leave;
        self.subscriptions -= subscribers.len();
        for subscriber in subscribers {
            let client = subscriber.client();
            if tell {
                let info = clients.info(client);
                self.leave(clients, id, info);
            }
            clients.unsubscribed(client, id, name, UnsubscribeCode::InsufficientState);
        }
        self.close_if_unused(id);
    }

    /// A subscriber here has left; the owner must know.
    fn leave<C: Clients>(&mut self, clients: &mut C, channel: u32, who: Info) {
        let Channel { owner, namespace, .. } = self.channels[channel as usize];
        let name = self.channels[channel as usize].name.clone();
        if usize::from(owner) == self.index {
            self.left(clients, &name, namespace as usize, who);
        } else {
            let message = ToShard::Leave { channel: name, namespace, who: Box::new(who) };
            self.post.send(owner.into(), message);
        }
    }

    /// As the owner: takes the client out of the presence and tells the others, but of one that had
    /// no room in it.
    fn left<C: Clients>(&mut self, clients: &mut C, name: &str, namespace: usize, who: Info) {
        let was_there = self.broker.leave(name, who.client).is_some();
        let namespace = &self.config.namespaces[namespace];
        if namespace.join_leave && (was_there || !namespace.presence) {
            self.tell(clients, name, false, &who);
        }
    }

    fn tell<C: Clients>(&mut self, clients: &mut C, name: &str, joined: bool, info: &Info) {
        let shards = self.broker.shards(name);
        self.copy_to(shards, name, || ToShard::Membership {
            channel: name.into(),
            joined,
            info: Box::new(info.clone()),
        });
        let event = if joined { Event::Join } else { Event::Leave };
        self.deliver(clients, name, event(info.as_ref()));
    }

    fn read(
        &mut self,
        name: &str,
        namespace: usize,
        ask: Ask,
        ticket: Ticket,
        now_ms: u64,
    ) -> Progress<Answer> {
        let owner = self.ownership.owner(name);
        if owner == self.index {
            return Progress::Done(self.read_owned(name, namespace, &ask, now_ms));
        }
        self.asked(owner, name, namespace, ask, ticket)
    }

    fn read_owned(&mut self, name: &str, namespace: usize, ask: &Ask, now_ms: u64) -> Answer {
        match ask {
            Ask::History(filter) => {
                let config = self.config.clone();
                let namespace = (&config.namespaces[namespace], namespace);
                match self.broker.history(name, namespace, filter, now_ms) {
                    Some((stored, position)) => Answer::History(stored, position),
                    None => Answer::Refused(ErrorCode::UnrecoverablePosition),
                }
            }
            Ask::Presence => {
                let presence = self.broker.presence(name);
                Answer::Presence(
                    presence.map(|p| p.clients().cloned().collect()).unwrap_or_default(),
                )
            }
            Ask::PresenceStats => {
                let presence = self.broker.presence(name);
                Answer::PresenceStats(presence.map(|p| p.stats()).unwrap_or_default())
            }
            Ask::Subscribe { .. } | Ask::Publish { .. } => unreachable!("these change something"),
        }
    }

    fn asked<T>(
        &mut self,
        owner: usize,
        name: &str,
        namespace: usize,
        ask: Ask,
        ticket: Ticket,
    ) -> Progress<T> {
        let outstanding = Outstanding { ticket: Some(ticket), subscribe: None, leave: None };
        match self.ask(owner, name, namespace, ask, outstanding) {
            Ok(_) => Progress::Asked,
            Err(owner) => Progress::Full(owner),
        }
    }

    fn ask(
        &mut self,
        owner: usize,
        name: &str,
        namespace: usize,
        ask: Ask,
        outstanding: Outstanding,
    ) -> Result<u32, usize> {
        if self.requests.len() >= REQUESTS_OUTSTANDING {
            return Err(owner);
        }
        let request = self.requests.vacant_key() as u32;
        let message =
            ToShard::Request { request, channel: name.into(), namespace: namespace as u16, ask };
        self.post.try_send(owner, message).map_err(|_| owner)?;
        self.requests.insert(outstanding);
        Ok(request)
    }

    fn add(&mut self, channel: u32, subscriber: Subscriber) {
        self.channels[channel as usize].subscribers.push(subscriber);
        self.subscriptions += 1;
    }

    fn open(&mut self, name: &str, namespace: usize, owner: usize) -> u32 {
        let id = self.channels.insert(Channel {
            name: name.into(),
            namespace: namespace as u16,
            owner: owner as u16,
            asked: 0,
            live: false,
            subscribers: SmallVec::new(),
        });
        let (channels, hasher) = (&self.channels, &self.hasher);
        let hash = hasher.hash_one(name);
        self.names
            .insert_unique(hash, id as u32, |&id| hasher.hash_one(&*channels[id as usize].name));
        id as u32
    }

    /// Drops a channel that nobody here needs, and tells its owner.
    fn close_if_unused(&mut self, id: u32) {
        let channel = &self.channels[id as usize];
        if !channel.subscribers.is_empty() || channel.asked > 0 {
            return;
        }
        let hash = self.hasher.hash_one(&*channel.name);
        let entry = self.names.find_entry(hash, |&known| known == id);
        entry.expect("every channel has its name in the table").remove();
        let Channel { name, owner, live, .. } = self.channels.remove(id as usize);
        if usize::from(owner) == self.index {
            self.broker.unsubscribe(self.index, &name);
        } else if live {
            self.post.send(owner.into(), ToShard::Unsubscribe { channel: name });
        }
    }

    /// The namespace of a channel found by [`Hub::find`].
    pub fn namespace(&self, channel: u32) -> &Namespace {
        &self.config.namespaces[self.channels[channel as usize].namespace as usize]
    }

    /// The outcome of a recovery, for the counters.
    pub fn is_recovered(recovered: &Recovered) -> bool {
        recovered.complete
    }
}
