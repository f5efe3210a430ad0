//! The Kafka client of a shard: owns connections and drives the producer.
//!
//! **Runs on: shard.** What a turn appends leaves at its end, when the shard calls
//! [`Client::flush`]; what brokers answer asks for a turn ([`rt::request_turn`]), at whose end the
//! shard takes the outcomes and flushes again. Nothing waits inside a turn: tasks connect, ask for
//! metadata and ids, and watch the deadlines. A broker's produce connection is opened on first use;
//! metadata and ids go over a connection of their own, so that a slow acknowledgement holds up
//! neither.

use super::cluster::{self, Cluster, Resolve, endpoint};
use super::collect::Body;
use super::connection::{Connection, Error, Settings, What};
use super::producer::{
    self, Identity, Outcome, PartitionId, Produced, Producer, Refused, Request, Taken, Token,
    TopicId, Totals,
};
use crate::limits::{
    KAFKA_LOOK_MS, KAFKA_METADATA_AGE_MS, KAFKA_RECONNECT_MAX_MS, KAFKA_RECONNECT_MS,
};
use crate::rt::{self, Notify};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::{Rc, Weak};
use trine_proto::kafka::{
    ErrorCode, Topic, Uuid, describe_configs, init_producer_id, metadata, produce,
};

/// What a client needs to begin.
pub struct Options {
    /// Hosts and ports of some brokers.
    pub bootstrap: Vec<(Rc<str>, u16)>,
    /// How to talk to brokers.
    pub settings: Settings,
    /// How to gather and how long to try.
    pub producer: producer::Options,
    /// Where hosts are.
    pub resolve: Rc<dyn Resolve>,
    /// How often a turn is wanted while records are not acknowledged, in milliseconds.
    pub look_ms: Option<u64>,
    /// The shard's random numbers, for waits and nonces.
    pub random: Box<dyn FnMut() -> u64>,
}

/// Why a record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// The topic has no such partition, as far as is known by now.
    Unknown,
    /// The producer refuses it.
    Refused(Refused),
}

/// A client.
pub struct Client {
    /// For replies, which must not keep the client alive.
    own: Weak<Self>,
    settings: Settings,
    random: RefCell<Box<dyn FnMut() -> u64>>,
    look_ms: Option<u64>,
    producer: RefCell<Producer>,
    cluster: RefCell<Cluster>,
    /// The producer's partitions of each topic.
    partitions: RefCell<Vec<Vec<PartitionId>>>,
    /// What topics take.
    topic_limits: RefCell<HashMap<TopicId, TopicLimit>>,
    brokers: RefCell<HashMap<i32, Broker>>,
    /// Wakes the task that watches deadlines and opens connections.
    watcher: Notify,
    /// Until when it sleeps.
    watched_ms: Cell<u64>,
    /// Wakes the task that asks for metadata and ids.
    asker: Notify,
    is_closed: Cell<bool>,
    last_error: RefCell<Option<Rc<Error>>>,
    /// What a produce request is written in.
    head: RefCell<(Vec<u8>, Vec<usize>)>,
}

/// A broker that is or was connected to for producing.
enum Broker {
    /// A task connects, or waits to.
    Connecting,
    Connected(Rc<Connection>),
}

/// What was learnt of the largest batch that a topic takes.
struct TopicLimit {
    /// The topic that it was learnt of, which may have been made anew since.
    of: Uuid,
    asked_ms: u64,
    /// `None`: the broker does not say.
    bytes: Option<usize>,
}

impl Client {
    /// Starts a client; call it inside the shard's runtime.
    pub fn start(options: Options) -> Rc<Self> {
        let client = Rc::new_cyclic(|own| Self {
            own: own.clone(),
            settings: options.settings,
            random: RefCell::new(options.random),
            look_ms: options.look_ms,
            producer: RefCell::new(Producer::new(options.producer)),
            cluster: RefCell::new(Cluster::new(options.bootstrap, options.resolve)),
            partitions: RefCell::default(),
            topic_limits: RefCell::default(),
            brokers: RefCell::default(),
            watcher: Notify::new(),
            watched_ms: Cell::new(0),
            asker: Notify::new(),
            is_closed: Cell::new(false),
            last_error: RefCell::default(),
            head: RefCell::default(),
        });
        rt::spawn(watch(client.clone()));
        rt::spawn(ask(client.clone()));
        client
    }

    /// A topic, whose metadata are asked for from now on.
    pub fn topic(&self, name: &str) -> TopicId {
        let topic = self.cluster.borrow_mut().topic(name);
        let mut partitions = self.partitions.borrow_mut();
        if partitions.len() <= topic as usize {
            partitions.resize_with(topic as usize + 1, Vec::new);
            self.asker.notify();
        }
        topic
    }

    /// How many partitions a topic has; 0: not known (yet). Fewer than before where it was made anew.
    pub fn partition_count(&self, topic: TopicId) -> u32 {
        let known = self.partitions.borrow()[topic as usize].len();
        known.min(self.cluster.borrow().get(topic).leaders.len()) as u32
    }

    /// Bytes of a record's body that a topic takes; `None`: not known (yet).
    pub fn record_bytes(&self, topic: TopicId) -> Option<usize> {
        let of = self.cluster.borrow().get(topic).id;
        self.topic_limits.borrow().get(&topic).filter(|known| known.of == of)?.bytes?;
        let first = *self.partitions.borrow().get(topic as usize)?.first()?;
        Some(self.producer.borrow().record_bytes(first))
    }

    /// What the brokers last said of a topic.
    pub fn topic_error(&self, topic: TopicId) -> ErrorCode {
        self.cluster.borrow().get(topic).error
    }

    /// Takes a record: `body` is as `trine_proto::kafka::record::write_body` writes it. It leaves with
    /// a later [`Client::flush`]; what becomes of it comes by [`Client::take_outcomes`].
    ///
    /// # Errors
    /// It was not taken; there will be no outcome.
    pub fn append(
        &self,
        token: Token,
        topic: TopicId,
        partition: u32,
        timestamp_ms: i64,
        body: &[u8],
    ) -> Result<(), NotTaken> {
        let is_there = partition < self.partition_count(topic);
        let id = self.partition(topic, partition).filter(|_| is_there).ok_or(NotTaken::Unknown)?;
        let mut producer = self.producer.borrow_mut();
        let result = producer.append(token, id, timestamp_ms, body, rt::now_ms());
        result.map_err(NotTaken::Refused)
    }

    /// The producer's name for a partition of a topic.
    pub fn partition(&self, topic: TopicId, partition: u32) -> Option<PartitionId> {
        self.partitions.borrow().get(topic as usize)?.get(partition as usize).copied()
    }

    /// Moves the outcomes that have come up to `into`.
    pub fn take_outcomes(&self, into: &mut Vec<Outcome>) {
        self.producer.borrow_mut().take_outcomes(into);
    }

    /// Sends what may go now. The shard calls it at the end of each turn.
    pub fn flush(&self) {
        let now_ms = rt::now_ms();
        loop {
            let request = self.producer.borrow_mut().next_request(now_ms);
            match request {
                Some(request) => self.send(request),
                None => break,
            }
        }
        let mut producer = self.producer.borrow_mut();
        if producer.take_metadata_wish() {
            self.cluster.borrow_mut().refresh();
            self.asker.notify();
        }
        if producer.wants_identity() {
            self.asker.notify();
        }
        let brokers = self.brokers.borrow();
        let is_new = producer.wanted_brokers().any(|broker| !brokers.contains_key(&broker));
        let deadline_ms = self.deadline_ms(&producer, now_ms);
        let is_sooner = deadline_ms.is_some_and(|ms| ms < self.watched_ms.get());
        if is_new || is_sooner {
            self.watcher.notify();
        }
    }

    /// When a turn is wanted although nothing has happened.
    fn deadline_ms(&self, producer: &Producer, now_ms: u64) -> Option<u64> {
        let is_unanswered = producer.buffered().1 > 0;
        let look_ms = self.look_ms.filter(|_| is_unanswered).map(|look_ms| now_ms + look_ms);
        [producer.deadline_ms(), look_ms].into_iter().flatten().min()
    }

    /// Stops: connections are closed, and what is not acknowledged has no outcome any more.
    pub fn close(&self) {
        self.is_closed.set(true);
        for connection in self.connections() {
            connection.close();
        }
        self.watcher.notify();
        self.asker.notify();
    }

    /// What failed last since this was asked, for logs.
    pub fn take_error(&self) -> Option<Rc<Error>> {
        self.last_error.take()
    }

    /// Bytes and records that are not settled.
    pub fn buffered(&self) -> (usize, usize) {
        self.producer.borrow().buffered()
    }

    /// Counts since the start.
    pub fn totals(&self) -> Totals {
        self.producer.borrow().totals()
    }

    fn connections(&self) -> Vec<Rc<Connection>> {
        let brokers = self.brokers.borrow();
        let connected = |broker: &Broker| match broker {
            Broker::Connected(connection) => Some(connection.clone()),
            Broker::Connecting => None,
        };
        brokers.values().filter_map(connected).collect()
    }

    fn connection(&self, broker: i32) -> Option<Rc<Connection>> {
        match self.brokers.borrow().get(&broker) {
            Some(Broker::Connected(connection)) => Some(connection.clone()),
            _ => None,
        }
    }

    /// A random number.
    pub(super) fn random(&self) -> u64 {
        (self.random.borrow_mut())()
    }

    /// A text that is never the same again.
    pub(super) fn nonce(&self) -> String {
        format!("{:016x}{:016x}", self.random(), self.random())
    }

    /// A wait between half of `wait_ms` and all of it.
    pub(super) fn jitter(&self, wait_ms: u64) -> u64 {
        wait_ms / 2 + self.random() % (wait_ms / 2 + 1)
    }

    pub(super) fn failed(&self, error: Rc<Error>) {
        *self.last_error.borrow_mut() = Some(error);
    }
}

/// What a consumer needs.
impl Client {
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn cluster(&self) -> &RefCell<Cluster> {
        &self.cluster
    }

    /// Asks for metadata soon.
    pub(super) fn refresh_metadata(&self) {
        self.cluster.borrow_mut().refresh();
        self.asker.notify();
    }
}

/// What the spool and the journal need; see [`Producer`].
impl Client {
    /// [`Producer::overdue`].
    pub fn overdue(&self, sent_ms: u64, into: &mut Vec<PartitionId>) {
        self.producer.borrow().overdue(sent_ms, into);
    }

    /// [`Producer::expire`].
    pub fn expire(&self, partition: PartitionId, latest_ms: u64) {
        self.producer.borrow_mut().expire(partition, latest_ms);
    }

    /// [`Producer::is_served`].
    pub fn is_served(&self, partition: PartitionId) -> bool {
        self.producer.borrow().is_served(partition)
    }

    /// [`Producer::is_numbered`].
    pub fn is_numbered(&self, partition: PartitionId) -> bool {
        self.producer.borrow().is_numbered(partition)
    }

    /// [`Producer::is_half_full`].
    pub fn is_half_full(&self) -> bool {
        self.producer.borrow().is_half_full()
    }

    /// [`Producer::take_over`].
    pub fn take_over(&self, partition: PartitionId) -> Vec<Taken> {
        self.producer.borrow_mut().take_over(partition)
    }

    /// [`Producer::raise_epoch`].
    pub fn raise_epoch(&self) {
        self.producer.borrow_mut().raise_epoch(rt::now_ms());
    }

    /// [`Producer::resume`].
    pub fn resume(&self, last: Identity) {
        self.producer.borrow_mut().resume(last, rt::now_ms());
    }

    /// [`Producer::identity`].
    pub fn identity(&self) -> Option<Identity> {
        self.producer.borrow().identity()
    }

    /// [`Producer::unrecorded_identity`].
    pub fn unrecorded_identity(&self) -> Option<Identity> {
        self.producer.borrow().unrecorded_identity()
    }

    /// [`Producer::identity_recorded`].
    pub fn identity_recorded(&self, identity: Identity) {
        self.producer.borrow_mut().identity_recorded(identity, rt::now_ms());
    }
}

/// Producing.
impl Client {
    fn send(&self, request: Request) {
        let Some(connection) = self.connection(request.broker) else { return };
        let Some(version) = self.produce_version(&connection, &request) else {
            connection.fail(What::NoVersion(produce::API.name));
            return;
        };
        let (broker, number) = (request.broker, request.request);
        let client = self.own.clone();
        let reply = Box::new(move |result: Result<Body<'_>, &Rc<Error>>| {
            // A connection that has ended is reported by its task.
            if let (Some(client), Ok(body)) = (client.upgrade(), result) {
                client.produced(broker, number, version, &body);
            }
        });
        let timeout_ms = self.settings.request_timeout_ms;
        connection.submit(produce::API.name, timeout_ms, reply, |outbox, id, client_id| {
            self.write(outbox, &request, version, id, client_id);
        });
    }

    fn write(
        &self,
        outbox: &mut crate::buf::Outbox,
        request: &Request,
        version: i16,
        correlation_id: i32,
        client_id: &str,
    ) {
        let cluster = self.cluster.borrow();
        let batch = |sending: &'_ producer::Sending| {
            let topic = cluster.get(sending.topic);
            (Topic { name: &topic.name, id: topic.id }, sending.index)
        };
        let batches: Vec<_> = request
            .batches
            .iter()
            .map(|sending| {
                let (topic, partition) = batch(sending);
                produce::Batch { topic, partition, bytes: &sending.bytes }
            })
            .collect();
        // The broker gives up waiting for its replicas a little before we give up on it.
        let timeout_ms =
            i32::try_from(self.settings.request_timeout_ms / 4 * 3).unwrap_or(i32::MAX);
        let body =
            produce::Request { transactional_id: None, acks: -1, timeout_ms, batches: &batches };
        let mut head = self.head.borrow_mut();
        let (bytes, places) = &mut *head;
        bytes.clear();
        places.clear();
        produce::write(bytes, places, &body, version, correlation_id, client_id);
        let carried: usize = request.batches.iter().map(|sending| sending.bytes.len()).sum();
        if bytes.len() + carried <= crate::limits::FLAT_BYTES {
            let mut from = 0;
            for (&place, sending) in places.iter().zip(&request.batches) {
                outbox.push_copy(&bytes[from..place], &sending.bytes);
                from = place;
            }
            outbox.push_copy(&bytes[from..], &[]);
            return;
        }
        let whole = Bytes::copy_from_slice(bytes);
        let mut from = 0;
        for (&place, sending) in places.iter().zip(&request.batches) {
            outbox.push_shared(&whole.slice(from..place));
            outbox.push_shared(&sending.bytes);
            from = place;
        }
        outbox.push_shared(&whole.slice(from..));
    }

    /// The version for a request: topics go by id where all of them have one.
    fn produce_version(&self, connection: &Connection, request: &Request) -> Option<i16> {
        let version = connection.version(&produce::API)?;
        let cluster = self.cluster.borrow();
        let is_named = |sending: &producer::Sending| cluster.get(sending.topic).id == [0; 16];
        let by_name = version > 12 && request.batches.iter().any(is_named);
        Some(if by_name { 12 } else { version })
    }

    fn produced(&self, broker: i32, request: u64, version: i16, body: &[u8]) {
        let response = trine_proto::kafka::frame::read::<produce::Request<'_>>(body, version);
        let response = match response {
            Ok(response) => response,
            Err(error) => {
                if let Some(connection) = self.connection(broker) {
                    connection.fail(What::Malformed(error));
                }
                return;
            }
        };
        let now_ms = rt::now_ms();
        let mut cluster = self.cluster.borrow_mut();
        cluster.add_brokers(&response.brokers);
        let mut results = Vec::with_capacity(response.partitions.len());
        let mut moved = BTreeMap::new();
        for result in &response.partitions {
            let Some(topic) = cluster.find(&result.topic) else { continue };
            let Ok(index) = u32::try_from(result.partition) else { continue };
            let Some(partition) = self.partition(topic, index) else { continue };
            if let Some(leader) = result.leader
                && cluster.hint(topic, result.partition, leader)
            {
                moved.insert(partition, leader.id);
            }
            let (code, base_offset) = (result.error, result.base_offset);
            if !code.is_none()
                && !code.is_retriable()
                && let Some(connection) = self.connection(broker)
            {
                self.failed(connection.error(What::Refused(produce::API.name, code)));
            }
            results.push(Produced { partition, code, base_offset });
        }
        let mut producer = self.producer.borrow_mut();
        producer.produced(request, results, now_ms);
        for (partition, leader) in moved {
            producer.set_leader(partition, Some(leader), now_ms);
        }
        rt::request_turn();
    }

    /// Tells the producer the leaders that the cluster is known to have.
    fn spread(&self) {
        let now_ms = rt::now_ms();
        let cluster = self.cluster.borrow();
        let mut producer = self.producer.borrow_mut();
        let mut partitions = self.partitions.borrow_mut();
        let limits = self.topic_limits.borrow();
        for (id, topic) in cluster.topics() {
            let Some(known) = partitions.get_mut(id as usize) else { continue };
            for index in known.len()..topic.leaders.len() {
                known.push(producer.partition(id, index as i32));
            }
            let limit = limits.get(&id).filter(|limit| limit.of == topic.id);
            if let Some(bytes) = limit.and_then(|limit| limit.bytes) {
                known.iter().for_each(|&at| producer.set_message_bytes(at, bytes));
            }
            let places = known.iter().enumerate();
            for (index, &partition) in places {
                let leader = topic.leaders.get(index).filter(|leader| leader.id >= 0);
                producer.set_leader(partition, leader.map(|leader| leader.id), now_ms);
            }
        }
        rt::request_turn();
    }
}

/// Watches deadlines and opens connections.
async fn watch(client: Rc<Client>) {
    while !client.is_closed.get() {
        let now_ms = rt::now_ms();
        let (wanted, deadline_ms) = {
            let producer = client.producer.borrow();
            let brokers = client.brokers.borrow();
            let is_new = |broker: &i32| !brokers.contains_key(broker);
            let wanted: Vec<_> = producer.wanted_brokers().filter(is_new).collect();
            (wanted, client.deadline_ms(&producer, now_ms))
        };
        for broker in wanted {
            client.brokers.borrow_mut().insert(broker, Broker::Connecting);
            rt::spawn(serve(client.clone(), broker));
        }
        if deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now_ms) {
            rt::request_turn();
        }
        // What is due is done by the flush at this turn's end; look again a little later.
        let until_ms = deadline_ms.unwrap_or(now_ms + KAFKA_LOOK_MS);
        let until_ms = until_ms.clamp(now_ms + 1, now_ms + KAFKA_LOOK_MS);
        client.watched_ms.set(until_ms);
        if rt::until(until_ms, client.watcher.wait()).await.is_none() {
            rt::request_turn();
        }
    }
}

/// Keeps the produce connection to one broker for as long as it is wanted.
async fn serve(client: Rc<Client>, broker: i32) {
    let mut wait_ms = KAFKA_RECONNECT_MS;
    while !client.is_closed.get() {
        let place = client.cluster.borrow().place(broker);
        // A broker that the cluster does not know any more leads nothing: metadata will tell.
        let Some(place) = place else {
            rt::sleep_until(rt::now_ms() + client.jitter(wait_ms)).await;
            break;
        };
        match open(&client, place).await {
            Ok(connection) => {
                wait_ms = KAFKA_RECONNECT_MS;
                let connected = Broker::Connected(connection.clone());
                client.brokers.borrow_mut().insert(broker, connected);
                client.producer.borrow_mut().connected(broker);
                rt::request_turn();
                client.failed(connection.ended().await);
                client.brokers.borrow_mut().insert(broker, Broker::Connecting);
                client.producer.borrow_mut().disconnected(broker, rt::now_ms());
            }
            Err(error) => {
                client.failed(error);
                client.producer.borrow_mut().unreachable(broker);
            }
        }
        client.cluster.borrow_mut().refresh();
        client.asker.notify();
        rt::request_turn();
        rt::sleep_until(rt::now_ms() + client.jitter(wait_ms)).await;
        wait_ms = (wait_ms * 2).min(KAFKA_RECONNECT_MAX_MS);
        if !client.producer.borrow().wanted_brokers().any(|wanted| wanted == broker) {
            break;
        }
    }
    client.brokers.borrow_mut().remove(&broker);
    client.cluster.borrow_mut().refresh();
    client.asker.notify();
    rt::request_turn();
}

type Place = (Rc<str>, u16, Option<std::net::SocketAddr>);

/// Opens a connection to a broker.
pub(super) async fn open(client: &Client, place: Place) -> Result<Rc<Connection>, Rc<Error>> {
    match endpoint(place) {
        Ok(endpoint) => Connection::open(endpoint, &client.settings, &client.nonce()).await,
        Err((host, port)) => Err(Rc::new(Error { host, port, what: What::Unresolved })),
    }
}

/// Asks for metadata and producer ids, over a connection that is opened when there is something to
/// ask and kept for as long as it lives.
async fn ask(client: Rc<Client>) {
    let mut connection: Option<Rc<Connection>> = None;
    let mut wait_ms = KAFKA_RECONNECT_MS;
    while !client.is_closed.get() {
        let now_ms = rt::now_ms();
        let due_ms = client.cluster.borrow().due_ms();
        let wants_metadata = due_ms.is_some_and(|due_ms| due_ms <= now_ms);
        let wants_identity = due_ms.is_some() && client.producer.borrow().wants_identity();
        if !wants_metadata && !wants_identity {
            let until_ms = due_ms.unwrap_or(u64::MAX).min(now_ms + KAFKA_LOOK_MS);
            rt::until(until_ms, client.asker.wait()).await;
            continue;
        }
        let answered = async {
            let open = match connection.take().filter(|open| !open.has_ended()) {
                Some(open) => open,
                None => {
                    let place = client.cluster.borrow_mut().any();
                    let Some(place) = place else { return Ok(false) };
                    open(&client, place).await?
                }
            };
            let open = connection.insert(open);
            if wants_metadata {
                ask_metadata(&client, open).await?;
                ask_configs(&client, open).await?;
            }
            if wants_identity {
                return ask_identity(&client, open).await;
            }
            Ok(true)
        };
        let is_well = answered.await.unwrap_or_else(|error| {
            client.failed(error);
            if let Some(connection) = connection.take() {
                connection.close();
            }
            false
        });
        if is_well {
            wait_ms = KAFKA_RECONNECT_MS;
        } else {
            client.cluster.borrow_mut().refresh();
            rt::sleep_until(rt::now_ms() + client.jitter(wait_ms)).await;
            wait_ms = (wait_ms * 2).min(KAFKA_RECONNECT_MAX_MS);
        }
    }
    if let Some(connection) = connection {
        connection.close();
    }
}

async fn ask_metadata(client: &Client, connection: &Connection) -> Result<(), Rc<Error>> {
    let names = client.cluster.borrow().names();
    let names: Vec<_> = names.iter().map(|name| &**name).collect();
    client.cluster.borrow_mut().asked(rt::now_ms());
    let request = metadata::Request { topics: Some(&names), create_topics: false };
    let (body, version) = connection.request(&request).await?;
    let response = connection.read(&request, &body, version)?;
    if !response.error.is_none() {
        return Err(connection.error(What::Refused(metadata::API.name, response.error)));
    }
    client.cluster.borrow_mut().update(&response);
    client.spread();
    Ok(())
}

/// Asks what the topics take of which that is not known, or not known to be so still.
async fn ask_configs(client: &Client, connection: &Connection) -> Result<(), Rc<Error>> {
    let now_ms = rt::now_ms();
    let is_due = |id: TopicId, topic: &cluster::Topic| {
        let limits = client.topic_limits.borrow();
        let known = limits.get(&id).filter(|known| known.of == topic.id);
        let is_old = known.is_none_or(|known| now_ms >= known.asked_ms + KAFKA_METADATA_AGE_MS);
        is_old && topic.error.is_none() && !topic.leaders.is_empty()
    };
    let wanted: HashMap<_, _> = {
        let cluster = client.cluster.borrow();
        let due = cluster.topics().filter(|&(id, topic)| is_due(id, topic));
        due.map(|(id, topic)| (topic.name.clone(), (id, topic.id))).collect()
    };
    if wanted.is_empty() {
        return Ok(());
    }
    let learnt = |name: &str, bytes| {
        if let Some(&(id, of)) = wanted.get(name) {
            let limit = TopicLimit { of, asked_ms: now_ms, bytes };
            client.topic_limits.borrow_mut().insert(id, limit);
        }
    };
    let topics: Vec<_> = wanted.keys().map(|name| &**name).collect();
    let names = [describe_configs::LARGEST_BATCH];
    let request = describe_configs::Request { topics: &topics, names: &names };
    let (body, version) = match connection.request(&request).await {
        // It tells by refusing, then.
        Err(error) if matches!(error.what, What::NoVersion(_)) => {
            topics.iter().for_each(|name| learnt(name, None));
            return Ok(());
        }
        answer => answer?,
    };
    let response = connection.read(&request, &body, version)?;
    // What failed for now is asked for again with the next metadata.
    for found in response.topics.iter().filter(|found| !found.error.is_retriable()) {
        let value = found.configs.iter().find(|(name, _)| *name == names[0]);
        learnt(found.name, value.and_then(|(_, value)| value.as_ref()?.parse().ok()));
    }
    client.spread();
    Ok(())
}

/// Whether an id was had; a coordinator that is still loading says no.
async fn ask_identity(client: &Client, connection: &Connection) -> Result<bool, Rc<Error>> {
    let request = init_producer_id::Request {
        transactional_id: None,
        transaction_timeout_ms: i32::MAX,
        producer: (-1, -1),
    };
    let (body, version) = connection.request(&request).await?;
    let response = connection.read(&request, &body, version)?;
    if !response.error.is_none() {
        client.failed(connection.error(What::Refused(init_producer_id::API.name, response.error)));
        return Ok(false);
    }
    let identity = Identity { id: response.producer_id, epoch: response.producer_epoch };
    let mut producer = client.producer.borrow_mut();
    // It may have resumed an older id meanwhile.
    if producer.wants_identity() {
        producer.set_identity(identity, rt::now_ms());
    }
    rt::request_turn();
    Ok(true)
}
