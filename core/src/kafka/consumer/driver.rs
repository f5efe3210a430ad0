//! What drives a consumer's machines: connections, deadlines, and the way of events to the caller.
//!
//! **Runs on: shard.** Like the producer's client: the shard takes events, says what it wants and
//! what is delivered, and calls [`Consumer::flush`] at the end of each turn, which sends what may go.
//! What brokers answer asks for a turn; tasks connect and watch the deadlines. Invariant: no reply is
//! handled while the state is borrowed.

use super::TopicPartition;
use super::assignor::Assignor;
use super::broker_led::BrokerLed;
use super::fetcher::{self, Fetcher};
use super::group::Group;
use super::membership::{self, Membership};
use super::offsets::{self, Commit, Offsets, Start};
use super::records::Record;
use crate::kafka::client::{Client, open};
use crate::kafka::connection::{Connection, Error};
use crate::kafka::producer::TopicId;
use crate::limits::{KAFKA_LAG_MS, KAFKA_LOOK_MS, KAFKA_RECONNECT_MAX_MS, KAFKA_RECONNECT_MS};
use crate::rt::{self, Notify};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use trine_proto::kafka::{ErrorCode, Leader, Topic, Uuid, consumer_group_heartbeat};

/// How a group's partitions are given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// By its members, one of which leads.
    #[default]
    Classic,
    /// By the broker (KIP-848), where it offers that, else as in the classic protocol. The assignor
    /// is the broker's choice then, and the session's length too.
    Consumer,
}

/// What a consumer is and reads.
#[derive(Clone, Debug)]
pub struct Options {
    /// The group.
    pub group: Rc<str>,
    /// The topics.
    pub topics: Vec<Rc<str>>,
    /// How the group's partitions are given out.
    pub protocol: Protocol,
    /// The rule by which the group's leader gives out partitions.
    pub assignor: Assignor,
    /// Where the group begins that has committed nothing.
    pub start: Start,
    /// The instance id of a static member.
    pub instance: Option<Rc<str>>,
    /// Milliseconds without a heartbeat after which the member is taken for dead.
    pub session_timeout_ms: u32,
    /// Milliseconds that it may take to give up partitions and join again.
    pub rebalance_timeout_ms: u32,
    /// Whether only records of committed transactions are seen.
    pub read_committed: bool,
    /// The time now, in milliseconds since 1970: when a group begins that has committed nothing.
    pub started_unix_ms: i64,
}

/// What has happened.
#[derive(Debug)]
pub enum Event {
    /// A partition is this member's and can be fetched.
    Assigned {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: u32,
        /// Everything before it is delivered, as the group has committed.
        next_offset: i64,
    },
    /// Records, the answer to a fetch.
    Records {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: u32,
        /// Ascending. None where there were only a transaction's marks or aborted records.
        records: Vec<Record>,
        /// Where to go on.
        next_offset: i64,
        /// Where the partition ends now: its high watermark or last stable offset.
        end_offset: i64,
    },
    /// A partition is to be given up: no records come of it any more, and when all that came are
    /// delivered and committed the caller says so by [`Consumer::released`].
    Revoke {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: u32,
    },
    /// A partition is another member's by now: nothing of it can be committed, and what was revoked
    /// of it need not be released any more.
    Lost {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: u32,
    },
    /// Everything before this offset is committed.
    Committed {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: u32,
        /// The offset.
        next_offset: i64,
    },
    /// A commit was dropped: its offset is not there any more, or it was refused for a partition
    /// that is to be given up.
    NotCommitted {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: u32,
    },
    /// The offset that was fetched is not there any more, or is one of a topic that was made anew;
    /// an alarm. To be fetched again from `first`.
    OutOfRange {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: u32,
        /// What was wanted.
        offset: i64,
        /// The earliest that is there.
        first: i64,
    },
    /// A broker refuses something, or what it sends can't be read. It is tried again by itself.
    Failed {
        /// What and why.
        text: String,
    },
}

/// How far a partition of this member is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: u32,
    /// What is committed.
    pub committed: i64,
    /// Where it ends, as of a few seconds ago.
    pub end_offset: i64,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    Fetch(i32),
    Group(i32),
}

impl Purpose {
    fn broker(self) -> i32 {
        let (Self::Fetch(broker) | Self::Group(broker)) = self;
        broker
    }
}

/// What to send, and to whom.
pub(super) enum Action {
    Find,
    Group(Rc<Connection>, membership::Request),
    Commit(Rc<Connection>, Vec<Commit>),
    Committed(Rc<Connection>, Vec<TopicPartition>),
    List(Rc<Connection>, Vec<(TopicPartition, i64)>),
    Ends(Rc<Connection>, Vec<TopicPartition>),
    Fetch(i32, Rc<Connection>, fetcher::Request),
}

/// A consumer.
pub struct Consumer {
    pub(super) own: Weak<Self>,
    pub(super) client: Rc<Client>,
    pub(super) read_committed: bool,
    pub(super) state: RefCell<State>,
    /// Something has happened since the last flush.
    is_dirty: Cell<bool>,
    /// The cluster's version at the last flush.
    version: Cell<u64>,
    deadline_ms: Cell<u64>,
    watcher: Notify,
    is_closed: Cell<bool>,
}

pub(super) struct State {
    pub(super) membership: Group,
    pub(super) offsets: Offsets,
    pub(super) fetcher: Fetcher,
    /// Partitions of this member, and whether the caller knows.
    assigned: BTreeMap<TopicPartition, bool>,
    /// Given up by the caller, and waiting for their last commit.
    releasing: BTreeSet<TopicPartition>,
    links: BTreeMap<Purpose, Option<Rc<Connection>>>,
    lag_ms: u64,
    /// Ends to be asked for.
    ends: BTreeSet<TopicPartition>,
    events: Vec<Event>,
    told: (Vec<membership::Event>, Vec<offsets::Event>, Vec<fetcher::Event>),
}

impl Consumer {
    /// Starts a consumer; call it inside the shard's runtime.
    pub fn start(client: &Rc<Client>, options: Options) -> Rc<Self> {
        for topic in &options.topics {
            client.topic(topic);
        }
        let member = membership::Options {
            group: options.group,
            topics: options.topics,
            assignor: options.assignor,
            instance: options.instance,
            session_timeout_ms: options.session_timeout_ms,
            rebalance_timeout_ms: options.rebalance_timeout_ms,
        };
        let membership = match options.protocol {
            Protocol::Classic => Group::Classic(Membership::new(member)),
            Protocol::Consumer => Group::BrokerLed(BrokerLed::new(member, client.nonce().into())),
        };
        let state = State {
            membership,
            offsets: Offsets::new(options.start, options.started_unix_ms),
            fetcher: Fetcher::default(),
            assigned: BTreeMap::new(),
            releasing: BTreeSet::new(),
            links: BTreeMap::new(),
            lag_ms: 0,
            ends: BTreeSet::new(),
            events: Vec::new(),
            told: Default::default(),
        };
        let consumer = Rc::new_cyclic(|own| Self {
            own: own.clone(),
            client: client.clone(),
            read_committed: options.read_committed,
            state: RefCell::new(state),
            is_dirty: Cell::new(true),
            version: Cell::new(0),
            deadline_ms: Cell::new(0),
            watcher: Notify::new(),
            is_closed: Cell::new(false),
        });
        rt::spawn(watch(consumer.clone()));
        rt::request_turn();
        consumer
    }

    /// Moves the events that have come up to `into`.
    pub fn take_events(&self, into: &mut Vec<Event>) {
        let mut state = self.state.borrow_mut();
        state.spread(&self.client);
        into.append(&mut state.events);
    }

    /// Wants records of an assigned partition, from `offset` on: one [`Event::Records`] answers it,
    /// with `limit_bytes` at most if one batch is not more.
    pub fn fetch(&self, topic: TopicId, partition: u32, offset: i64, limit_bytes: usize) {
        let partition = TopicPartition { topic, partition };
        self.state.borrow_mut().fetcher.want(partition, offset, limit_bytes);
        self.is_dirty.set(true);
    }

    /// Says that everything before `next_offset` is delivered.
    pub fn commit(&self, topic: TopicId, partition: u32, next_offset: i64) {
        let partition = TopicPartition { topic, partition };
        self.state.borrow_mut().offsets.commit(partition, next_offset);
        self.is_dirty.set(true);
    }

    /// Says that a revoked partition is drained: it goes to its next owner once what was delivered
    /// is committed.
    pub fn released(&self, topic: TopicId, partition: u32) {
        let partition = TopicPartition { topic, partition };
        let mut state = self.state.borrow_mut();
        if state.assigned.contains_key(&partition) {
            state.releasing.insert(partition);
        }
        self.is_dirty.set(true);
    }

    /// How far each assigned partition is behind.
    pub fn lag(&self, into: &mut Vec<Lag>) {
        let state = self.state.borrow();
        let lag = |&TopicPartition { topic, partition }: &TopicPartition| {
            let place = TopicPartition { topic, partition };
            let committed = state.offsets.committed(place)?;
            let (end_offset, _) = state.fetcher.position(place)?;
            let end_offset = end_offset.max(committed);
            Some(Lag { topic, partition, committed, end_offset })
        };
        into.extend(state.assigned.keys().filter_map(lag));
    }

    /// Leaves the group in order: everything is revoked first. [`Consumer::has_left`] says when.
    pub fn leave(&self) {
        self.state.borrow_mut().membership.leave(rt::now_ms());
        self.is_dirty.set(true);
        rt::request_turn();
    }

    /// Whether it has left the group, or was fenced by another member of its instance id.
    pub fn has_left(&self) -> bool {
        self.state.borrow().membership.has_ended()
    }

    /// Stops at once, without leaving: the group learns it by the end of the session.
    pub fn close(&self) {
        self.is_closed.set(true);
        let links = std::mem::take(&mut self.state.borrow_mut().links);
        links.values().flatten().for_each(|connection| connection.close());
        self.watcher.notify();
    }

    /// Sends what may go now. The shard calls it at the end of each turn.
    pub fn flush(&self) {
        let now_ms = rt::now_ms();
        let version = self.client.cluster().borrow().version();
        let is_due = self.is_dirty.get() || self.deadline_ms.get() <= now_ms;
        if self.is_closed.get() || (!is_due && self.version.get() == version) {
            return;
        }
        self.is_dirty.set(false);
        self.version.set(version);
        loop {
            let action = self.state.borrow_mut().next(&self.client, now_ms);
            match action {
                Some(action) => self.act(action),
                None => break,
            }
        }
        self.connect();
        let mut state = self.state.borrow_mut();
        if state.fetcher.take_metadata_wish() {
            self.client.refresh_metadata();
        }
        let until_ms = state.deadline_ms(now_ms);
        // The end of a turn can't ask for another one; the task that watches can.
        if until_ms < self.deadline_ms.replace(until_ms) || !state.events.is_empty() {
            self.watcher.notify();
        }
    }

    /// Something has come from a broker.
    pub(super) fn wake(&self) {
        self.is_dirty.set(true);
        rt::request_turn();
    }

    /// Opens the connections that are wanted and closes the ones to former coordinators.
    fn connect(&self) {
        let mut state = self.state.borrow_mut();
        let wanted = state.wanted(&self.client);
        for purpose in wanted {
            if let std::collections::btree_map::Entry::Vacant(entry) = state.links.entry(purpose) {
                entry.insert(None);
                if let Some(consumer) = self.own.upgrade() {
                    rt::spawn(serve(consumer, purpose));
                }
            }
        }
        let coordinator = state.membership.coordinator();
        let is_former = |purpose: &Purpose| match (purpose, coordinator) {
            (Purpose::Group(broker), Some(coordinator)) => *broker != coordinator,
            _ => false,
        };
        let former = state.links.iter().filter(|(purpose, _)| is_former(purpose));
        let former: Vec<_> = former.filter_map(|(_, connection)| connection.clone()).collect();
        drop(state);
        former.iter().for_each(|connection| connection.close());
    }
}

impl State {
    fn connection(&self, purpose: Purpose) -> Option<Rc<Connection>> {
        let connection = self.links.get(&purpose)?.as_ref()?;
        (!connection.has_ended()).then(|| connection.clone())
    }

    fn deadline_ms(&self, now_ms: u64) -> u64 {
        let membership_ms = self.membership.deadline_ms();
        let offsets_ms = match self.membership.may_commit() {
            true => self.offsets.deadline_ms(),
            false => u64::MAX,
        };
        // What is due and could not be sent waits for a connection or for metadata, which wake.
        let due_ms = [membership_ms, offsets_ms, self.fetcher.deadline_ms(now_ms), self.lag_ms];
        let next_ms = due_ms.into_iter().filter(|due_ms| *due_ms > now_ms).min();
        next_ms.unwrap_or(u64::MAX).min(now_ms + KAFKA_LOOK_MS)
    }

    /// The connections that are wanted now.
    fn wanted(&self, client: &Client) -> BTreeSet<Purpose> {
        let cluster = client.cluster().borrow();
        let leader = |partition: &TopicPartition| {
            let leaders = &cluster.get(partition.topic).leaders;
            leaders.get(partition.partition as usize).filter(|leader| leader.id >= 0)
        };
        let leaders = self.assigned.keys().filter_map(leader);
        let mut wanted: BTreeSet<_> = leaders.map(|leader| Purpose::Fetch(leader.id)).collect();
        wanted.extend(self.membership.coordinator().map(Purpose::Group));
        wanted
    }

    /// The next thing to send.
    fn next(&mut self, client: &Client, now_ms: u64) -> Option<Action> {
        self.spread(client);
        self.release(client);
        let group = self.membership.coordinator().map(Purpose::Group);
        let group = group.and_then(|purpose| self.connection(purpose));
        if let Some(connection) = group.as_ref().filter(|_| self.membership.may_commit()) {
            let commits = self.offsets.next_commit(now_ms, !self.releasing.is_empty());
            if !commits.is_empty() {
                return Some(Action::Commit(connection.clone(), commits));
            }
            let topics = self.offsets.next_fetch(now_ms);
            if !topics.is_empty() {
                let partitions = self.partitions(client, &topics);
                return Some(Action::Committed(connection.clone(), partitions));
            }
        }
        let count = |topic: &str| {
            let topic = client.topic(topic);
            match (client.partition_count(topic), client.topic_error(topic)) {
                (0, ErrorCode::NONE) => None,
                (count, _) => Some(count),
            }
        };
        let name = |id: &Uuid| {
            let cluster = client.cluster().borrow();
            let found = cluster.find(&Topic { id: *id, name: "" })?;
            Some(cluster.get(found).name.clone())
        };
        if let Some(connection) = &group {
            self.fall_back(connection, now_ms);
        }
        let request = self.membership.poll(now_ms, group.is_some(), &count, &name);
        if let Some(request) = request {
            return Some(match (request, group) {
                (membership::Request::FindCoordinator, _) => Action::Find,
                (request, Some(connection)) => Action::Group(connection, request),
                (_, None) => return None,
            });
        }
        self.spread(client);
        self.next_at_leader(client, now_ms)
    }

    /// Becomes a classic member if the coordinator does not assign.
    fn fall_back(&mut self, coordinator: &Connection, now_ms: u64) {
        let Group::BrokerLed(member) = &self.membership else { return };
        let knows =
            coordinator.version(&consumer_group_heartbeat::API).is_some_and(|best| best > 0);
        if let (false, false, Some(broker)) = (knows, member.may_commit(), member.coordinator()) {
            let mut classic = Membership::new(member.options().clone());
            classic.found(Ok(broker), now_ms);
            self.membership = Group::Classic(classic);
        }
    }

    /// The next request to a partition's leader.
    fn next_at_leader(&mut self, client: &Client, now_ms: u64) -> Option<Action> {
        let cluster = client.cluster().borrow();
        let leader = |partition: TopicPartition| -> Option<Leader> {
            let leaders = &cluster.get(partition.topic).leaders;
            leaders.get(partition.partition as usize).copied()
        };
        if self.lag_ms <= now_ms {
            self.lag_ms = now_ms + KAFKA_LAG_MS;
            let wanted: BTreeSet<_> = self.fetcher.wanted().collect();
            self.ends = self.assigned.keys().copied().filter(|at| !wanted.contains(at)).collect();
        }
        let links = self.links.iter().filter_map(|(purpose, connection)| match purpose {
            Purpose::Fetch(broker) => Some((*broker, connection.clone()?)),
            Purpose::Group(_) => None,
        });
        let links: Vec<_> = links.filter(|(_, connection)| !connection.has_ended()).collect();
        for (broker, connection) in links {
            let is_there = |at: TopicPartition| leader(at).is_some_and(|at| at.id == broker);
            let lists = self.offsets.next_lists(now_ms, is_there);
            if !lists.is_empty() {
                return Some(Action::List(connection, lists));
            }
            let last_epoch = |at, next_offset| self.offsets.last_epoch(at, next_offset);
            let id_of = |topic| cluster.get(topic).id;
            let next = self.fetcher.next_request(broker, leader, last_epoch, id_of, now_ms);
            if let Some(request) = next {
                return Some(Action::Fetch(broker, connection, request));
            }
            let ends: Vec<_> = self.ends.iter().copied().filter(|at| is_there(*at)).collect();
            if !ends.is_empty() {
                ends.iter().for_each(|at| {
                    self.ends.remove(at);
                });
                return Some(Action::Ends(connection, ends));
            }
        }
        None
    }

    /// All partitions of topics, as far as they are known or assigned.
    fn partitions(&self, client: &Client, topics: &[TopicId]) -> Vec<TopicPartition> {
        let mut partitions = BTreeSet::new();
        for &topic in topics {
            let known = 0..client.partition_count(topic);
            partitions.extend(known.map(|partition| TopicPartition { topic, partition }));
            partitions.extend(self.assigned.keys().filter(|at| at.topic == topic));
        }
        partitions.into_iter().collect()
    }

    /// Gives up what is drained and committed.
    fn release(&mut self, client: &Client) {
        let settled = self.releasing.iter().copied().filter(|at| self.offsets.is_settled(*at));
        let settled: Vec<_> = settled.collect();
        for partition in settled {
            self.forget(partition);
            let name = client.cluster().borrow().get(partition.topic).name.clone();
            self.membership.released(&(name, partition.partition as i32));
        }
    }

    /// A partition is not this member's any more. Whether the caller knew it.
    fn forget(&mut self, partition: TopicPartition) -> bool {
        self.releasing.remove(&partition);
        self.offsets.remove(partition);
        self.fetcher.remove(partition);
        self.ends.remove(&partition);
        self.assigned.remove(&partition).unwrap_or(false)
    }
}

/// The way of events from the machines to each other and to the caller.
impl State {
    fn spread(&mut self, client: &Client) {
        let (mut of_group, mut of_offsets, mut of_fetches) = std::mem::take(&mut self.told);
        self.membership.take_events(&mut of_group);
        of_group.drain(..).for_each(|event| self.of_membership(client, event));
        self.offsets.take_events(&mut of_offsets);
        of_offsets.drain(..).for_each(|event| self.of_offsets(client, event));
        self.fetcher.take_events(&mut of_fetches);
        of_fetches.drain(..).for_each(|event| self.of_fetcher(client, event));
        self.told = (of_group, of_offsets, of_fetches);
    }

    fn of_membership(&mut self, client: &Client, event: membership::Event) {
        let place = |(name, partition): &membership::Partition| TopicPartition {
            topic: client.topic(name),
            partition: *partition as u32,
        };
        match event {
            membership::Event::Assigned(partitions) => {
                for partition in partitions.iter().map(place) {
                    self.assigned.insert(partition, false);
                    self.offsets.add(partition);
                }
            }
            membership::Event::Revoke(partitions) => {
                for at in partitions.iter().map(place) {
                    self.fetcher.remove(at);
                    self.offsets.revoke(at);
                    let TopicPartition { topic, partition } = at;
                    match self.assigned.get(&at) {
                        Some(true) => self.events.push(Event::Revoke { topic, partition }),
                        // The caller has nothing of it.
                        _ => {
                            self.releasing.insert(at);
                        }
                    }
                }
            }
            membership::Event::Lost(partitions) => {
                for at in partitions.iter().map(place) {
                    let TopicPartition { topic, partition } = at;
                    if self.forget(at) {
                        self.events.push(Event::Lost { topic, partition });
                    }
                }
            }
            membership::Event::Failed(api, error) => {
                let group = &self.membership.options().group;
                let text = format!("group {group}: {api}: {error}");
                self.events.push(Event::Failed { text });
            }
        }
    }

    fn of_offsets(&mut self, client: &Client, event: offsets::Event) {
        match event {
            offsets::Event::Ready(at, next_offset) => {
                // It may have been lost, or be given up, before its offset was known.
                if self.releasing.contains(&at) || !self.assigned.contains_key(&at) {
                    return;
                }
                let TopicPartition { topic, partition } = at;
                self.fetcher.add(at, next_offset);
                self.assigned.insert(at, true);
                self.events.push(Event::Assigned { topic, partition, next_offset });
            }
            offsets::Event::NotCommitted(TopicPartition { topic, partition }) => {
                self.events.push(Event::NotCommitted { topic, partition });
            }
            offsets::Event::Committed(TopicPartition { topic, partition }, next_offset) => {
                self.events.push(Event::Committed { topic, partition, next_offset });
            }
            offsets::Event::OutOfRange(TopicPartition { topic, partition }, offset, first) => {
                self.events.push(Event::OutOfRange { topic, partition, offset, first });
            }
            offsets::Event::Failed(at, api, error) => self.failed(client, at, api, &error),
        }
    }

    fn of_fetcher(&mut self, client: &Client, event: fetcher::Event) {
        match event {
            fetcher::Event::Records(at, read) => {
                let TopicPartition { topic, partition } = at;
                self.offsets.read(at, &read.epochs);
                let end_offset = self.fetcher.position(at).map_or(-1, |position| position.0);
                let (records, next_offset) = (read.records, read.next_offset);
                let event = Event::Records { topic, partition, records, next_offset, end_offset };
                self.events.push(event);
            }
            fetcher::Event::OutOfRange(at, offset) => self.offsets.out_of_range(at, offset),
            fetcher::Event::Diverged(at, offset, epoch, end) => {
                self.offsets.diverged(at, offset, epoch, end);
            }
            fetcher::Event::Refused(at, error) => self.failed(client, at, "Fetch", &error),
            fetcher::Event::Damaged(at, offset, error) => {
                let what = format!("record batch at offset {offset}");
                self.failed(client, at, &what, &error);
            }
        }
    }

    fn failed(
        &mut self,
        client: &Client,
        at: TopicPartition,
        what: &str,
        error: &dyn std::fmt::Display,
    ) {
        let name = client.cluster().borrow().get(at.topic).name.clone();
        let text = format!("topic {name}, partition {}: {what}: {error}", at.partition);
        self.events.push(Event::Failed { text });
    }
}

/// Asks for a turn when a deadline has come.
async fn watch(consumer: Rc<Consumer>) {
    while !consumer.is_closed.get() {
        let now_ms = rt::now_ms();
        let until_ms = consumer.deadline_ms.get().clamp(now_ms + 1, now_ms + KAFKA_LOOK_MS);
        let is_due = rt::until(until_ms, consumer.watcher.wait()).await.is_none();
        if is_due || !consumer.state.borrow().events.is_empty() {
            consumer.wake();
        }
    }
}

/// Keeps a connection for as long as it is wanted.
async fn serve(consumer: Rc<Consumer>, purpose: Purpose) {
    let mut wait_ms = KAFKA_RECONNECT_MS;
    while !consumer.is_closed.get() {
        let place = consumer.client.cluster().borrow().place(purpose.broker());
        let Some(place) = place else {
            // Metadata will tell, or that nobody wants it: a coordinator that is gone must be looked
            // for anew.
            consumer.unreachable(purpose);
            rt::sleep_until(rt::now_ms() + KAFKA_RECONNECT_MS).await;
            break;
        };
        match open(&consumer.client, place).await {
            Ok(connection) if consumer.is_closed.get() => connection.close(),
            Ok(connection) => {
                wait_ms = KAFKA_RECONNECT_MS;
                set_link(&consumer, purpose, Some(connection.clone()));
                consumer.wake();
                consumer.client.failed(connection.ended().await);
                set_link(&consumer, purpose, None);
            }
            Err(error) => consumer.client.failed(error),
        }
        if consumer.is_closed.get() {
            return;
        }
        consumer.unreachable(purpose);
        rt::sleep_until(rt::now_ms() + consumer.client.jitter(wait_ms)).await;
        wait_ms = (wait_ms * 2).min(KAFKA_RECONNECT_MAX_MS);
        if !consumer.state.borrow().wanted(&consumer.client).contains(&purpose) {
            break;
        }
    }
    consumer.state.borrow_mut().links.remove(&purpose);
    consumer.client.refresh_metadata();
    consumer.wake();
}

fn set_link(consumer: &Consumer, purpose: Purpose, connection: Option<Rc<Connection>>) {
    if let Some(link) = consumer.state.borrow_mut().links.get_mut(&purpose) {
        *link = connection;
    }
}

impl Consumer {
    /// A connection has ended or could not be made.
    fn unreachable(&self, purpose: Purpose) {
        let mut state = self.state.borrow_mut();
        match purpose {
            Purpose::Fetch(broker) => state.fetcher.disconnected(broker),
            Purpose::Group(broker) if state.membership.coordinator() == Some(broker) => {
                state.membership.disconnected(rt::now_ms());
            }
            Purpose::Group(_) => {}
        }
        drop(state);
        self.client.refresh_metadata();
        self.wake();
    }

    /// Notes why something failed that is tried again.
    pub(super) fn failed(&self, error: Rc<Error>) {
        self.client.failed(error);
    }
}
