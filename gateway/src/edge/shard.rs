//! A shard's state and its turn: what arrived from other shards, then what leaves.
//!
//! **Runs on: shard.** Tasks borrow it between two awaits, never across one. Invariants: every
//! output of a turn leaves at its end, in one submission; other shards get their messages and one
//! wake at the same point; nothing in a turn waits.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use slab::Slab;
use trine_core::buf;
use trine_core::kafka::connection::Settings;
use trine_core::kafka::{client as kafka, producer, sasl};
use trine_core::metrics::{Counter, Gauge, Histogram, Writer};
use trine_core::rt::{self, Stream, Turn, WakeHandle};
use trine_core::shard::{Balance, Mailboxes};
use trine_proto::client::Disconnect;
use trine_proto::hash;
use trine_proto::kafka::record;
use trine_proto::kafka::scram::Mechanism;
use trine_proto::ws::FrameKind;

use super::alarm::{Alarm, Say};
use super::connection::{Connections, Face};
use super::deliver::Deliveries;
use super::durable::Asked;
use super::http::Agreed;
use super::members::{capped, member_of, member_options};
use super::watch::watch;
use crate::broker::Broker;
use crate::config::{Compression, Config, Kafka as KafkaConfig, LogKind, Sasl};
use crate::data::{Names, Peers, Standings, StopSignal, Stores};
use crate::deliver;
use crate::hub::{Hub, Ticket, ToShard};
use crate::ingest::{Ingest, Routes};
use crate::limits::{
    DRAIN_MS, GAUGES_INTERVAL_MS, GIVE_BACK_INTERVAL_MS, KAFKA_CONNECT_MS, KAFKA_REQUEST_MS,
    MAILBOX_TURN, SPOOL_ALARM_PAUSE_MS, SPOOL_LOOK_MS, STALL_MS, SWEEP_CONNECTIONS,
    SWEEP_INTERVAL_MS,
};
use crate::log::{
    Embedded, Feed, FeedSpec, Kafka, KafkaTotals, Log, Main, QUEUE_GROUP, Resharding, Spool,
};
use crate::session::{Session, Tick};

/// A subscription that the hub made and the client's wish forbids.
pub(super) struct Undo {
    pub client: u32,
    pub channel: u32,
}

/// Everything of one shard.
pub(super) struct Shard {
    pub index: usize,
    pub config: Rc<Config>,
    pub hub: Hub<Mailboxes<ToShard>>,
    pub clients: Connections,
    pub ingest: Ingest,
    /// Durable commands of this shard's clients that the log has not answered.
    pub asked: Slab<Asked>,
    /// What this shard delivers of the log.
    pub deliveries: Deliveries,
    /// Number of the last call of the HTTP API.
    pub next_call: u32,
    pub balance: Balance,
    /// Connections that other shards gave us, to be started by a task.
    pub arrived: Vec<Stream>,
    /// Set once the shard is asked to stop; the time when it stops at the latest.
    pub draining_until_ms: Option<u64>,
    /// Who asked, and whether it was told that this shard is drained.
    drain: Option<(StopSignal, bool)>,
    wake: WakeHandle,
    /// A stalled command may go on: room was made, or time has passed.
    news: bool,
    random: u64,
    ids: StdRng,
    fired: Vec<u32>,
    next_sweep_ms: u64,
    next_gauges_ms: u64,
    next_give_back_ms: u64,
    /// Start of the second over which the utilisation is measured, and the CPU time then.
    measured_ns: (u64, u64),
    mailbox_totals: (u64, u64, u64),
    delivered: deliver::Totals,
    /// What Kafka and its spool have done, and dead letters, as counted so far.
    log_totals: (KafkaTotals, u64),
    /// The spool's oldest record is older than it may be.
    spool_alarm: Alarm,
    log_suppressed: u64,
}

impl Shard {
    pub fn new(
        index: usize,
        config: Rc<Config>,
        metrics: Writer,
        peers: Peers,
        standings: Standings,
    ) -> Self {
        let now_ms = rt::now_ms();
        let mut ids = StdRng::from_os_rng();
        let share_bytes = config.broker.history_limit_bytes / peers.mailboxes.shards();
        let broker = Broker::new(share_bytes, StdRng::from_os_rng());
        let wake = peers.mailboxes.wake_handle();
        let routes = Rc::new(Routes::new(&config));
        let ingest = Ingest::new(&config, routes, Log::from(Main::None), ids.next_u64());
        Self {
            index,
            hub: Hub::new(index, peers.ownership, config.clone(), broker, peers.mailboxes),
            clients: Connections::new(config.clone(), metrics, now_ms),
            ingest,
            asked: Slab::new(),
            deliveries: Deliveries::new(&config, standings),
            next_call: 0,
            config,
            balance: peers.balance,
            arrived: Vec::new(),
            draining_until_ms: None,
            drain: None,
            wake,
            news: false,
            random: ids.next_u64(),
            ids,
            fired: Vec::new(),
            next_sweep_ms: 0,
            next_gauges_ms: 0,
            next_give_back_ms: 0,
            measured_ns: (rt::clock_ns(), thread_cpu_ns()),
            mailbox_totals: (0, 0, 0),
            delivered: deliver::Totals::default(),
            log_totals: Default::default(),
            spool_alarm: Alarm::default(),
            log_suppressed: 0,
        }
    }

    /// Begins with the log, inside the shard's runtime.
    pub fn begin_log(&mut self, stores: Stores, names: Names, resharding: Arc<Resharding>) {
        let (config, routes) = (self.config.clone(), self.ingest.routes().clone());
        let of @ (index, _) = (self.index, self.hub.post().shards());
        let (topics, partitions) = (routes.log_topics(), config.log.partitions);
        let main = match stores.log {
            Some(store) if config.log.kind == LogKind::Embedded => {
                let feeds = feeds(&config, topics, of, false);
                let log = Embedded::new(store, topics, partitions, feeds, index == 0);
                Main::Embedded(Box::new(log))
            }
            Some(store) => {
                let letters = stores.letters.expect("they are kept beside the spool");
                let store = (store, letters);
                let spool = Spool::new(store, of, resharding, topics, config.spool.forward_rate);
                let options = kafka_options(&config, names, StdRng::from_os_rng());
                let limits = (config.spool.after_ms, config.log.timeout_ms);
                let mut kafka = Kafka::start(options, spool, topics, limits);
                for (number, consumer) in config.consumers.iter().enumerate() {
                    if config.drains(consumer) {
                        continue;
                    }
                    if let Some(member) = member_of(consumer, of) {
                        kafka.join(number as u16, member_options(&config, consumer, member));
                    }
                }
                // The shards' number is the process's, so one shard speaks for all.
                for consumer in capped(&config, of.1).filter(|_| index == 0) {
                    let (consumer, members, shards) = (&consumer.name, consumer.members, of.1);
                    let text = "a consumer has fewer members than it shall: one a shard at most";
                    tracing::warn!(consumer, members, shards, "{text}");
                }
                if index == 0 && !config.kafka.watch_groups.is_empty() {
                    let (client, standings) = (kafka.client(), self.deliveries.to_control());
                    let topics = routes.topics().to_vec();
                    rt::spawn(watch(Rc::downgrade(client), config.clone(), topics, standings));
                }
                Main::Kafka(Box::new(kafka))
            }
            None => Main::None,
        };
        let queues = routes.topics().chunks(1).zip(stores.queues);
        let queues = queues.map(|(topic, store)| {
            let feeds = feeds(&config, topic, of, true);
            Embedded::new(store, topic, partitions, feeds, index == 0).of_queue()
        });
        self.ingest.log = Log::from(main).with_queues(queues.collect());
    }

    /// A cheap random number, to spread things in time.
    pub fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.random >> 33
    }

    /// The connection speaks the client protocol from now on.
    pub fn begin_session(&mut self, id: u32, agreed: Agreed) {
        let mut bytes = [0; 16];
        self.ids.fill_bytes(&mut bytes);
        let client = uuid::Builder::from_random_bytes(bytes).into_uuid();
        let session = Session::new(client, agreed.format, &self.config, rt::now_ms());
        let connection = self.clients.entry(id);
        let session = session.with_frame_pings(agreed.frame_pings).with_headers(agreed.headers);
        connection.session = Some(session);
        connection.face = Face::Client;
        connection.deadline_ms = u64::MAX;
        self.clients.arm(id);
        self.clients.metrics.add(Counter::Upgrades, 1);
    }

    /// Ends a client for a reason of the client protocol.
    pub fn close(&mut self, id: u32, disconnect: Disconnect) {
        self.close_socket(id, Some(disconnect.code()), disconnect.reason(), false);
    }

    /// Ends a WebSocket with a close frame; `answered`: it answers the peer's.
    pub fn close_socket(&mut self, id: u32, code: Option<u16>, reason: &str, answered: bool) {
        self.end_session(id);
        self.clients.close(id, code, reason, answered, rt::now_ms());
    }

    /// Ends what the connection has of the client protocol: its subscriptions end at once, what it
    /// waits for is forgotten.
    pub fn end_session(&mut self, id: u32) {
        let Some(mut session) = self.clients.entry(id).session.take() else { return };
        if session.is_connected() {
            self.clients.sessions -= 1;
        }
        for channel in session.take_subscriptions() {
            self.hub.unsubscribe(&mut self.clients, channel, id, || session.to_info());
        }
        if session.has_pending() {
            let client = session.id();
            for place in session.pending().places() {
                self.hub.forget(Ticket { client: id, place, id: client });
            }
        }
    }

    pub fn undo(&mut self, Undo { client, channel }: Undo) {
        let Some(session) = self.clients.get(client).and_then(|entry| entry.session.as_ref())
        else {
            return;
        };
        let who = session.to_info();
        self.hub.withdraw(&mut self.clients, channel, client, who);
    }

    /// The end of a turn. Ends the thread's runtime when the shard is drained.
    pub fn turn(&mut self, turn: &mut Turn) {
        let began_ns = rt::now_ns();
        let now_ms = began_ns / 1_000_000;
        while let Some(sent) = turn.next_sent() {
            self.clients.sent(sent.token, sent.result.is_err());
        }
        let mut room = MAILBOX_TURN;
        loop {
            self.receive(&mut room, now_ms);
            self.ingest_turn(now_ms);
            self.deliver_turn(now_ms);
            while let Some((id, disconnect)) = self.clients.take_doomed() {
                match self.clients.entry(id).face {
                    Face::Echo => self.clients.close(id, Some(1008), "too slow", false, now_ms),
                    // Requests without end whose answers nobody reads.
                    Face::Http { .. } => self.clients.entry(id).stream.abort(),
                    Face::Client | Face::Closing => self.close(id, disconnect),
                }
            }
            self.clients.send_dirty(now_ms);
            self.hub.post().flush();
            self.ingest.log.flush(now_ms);
            if self.hub.post().prepare_to_park() {
                break;
            }
            self.news = true;
            if room == 0 {
                // Clients come first now; the wake brings the shard back here at once.
                self.wake.wake();
                break;
            }
        }
        // Only what happened can let a stalled command go on, or time (see `tick`).
        if std::mem::take(&mut self.news) || room < MAILBOX_TURN {
            self.clients.wake_stalled();
        }
        if self.ingest.outstanding() > 0 {
            let rest = Duration::from_micros(self.config.log.gather_us);
            turn.gather(self.clients.totals.messages_in, rest);
        }
        self.count(began_ns);
        if let Some(until_ms) = self.draining_until_ms
            && (self.may_end() || now_ms >= until_ms)
        {
            self.gauges();
            self.end_deliveries(now_ms);
            rt::stop();
        }
    }

    /// Takes up to `room` messages of other shards.
    fn receive(&mut self, room: &mut usize, now_ms: u64) {
        while *room > 0 {
            let Some((from, message)) = self.hub.post().receive() else { return };
            *room -= 1;
            match &message {
                ToShard::Connection(_) => {
                    self.arrive(message);
                    continue;
                }
                ToShard::Ingest { .. }
                | ToShard::Record { .. }
                | ToShard::Ingested { .. }
                | ToShard::Acknowledged(_) => {
                    self.receive_durable(from, message, now_ms);
                    continue;
                }
                _ => {}
            }
            self.hub.receive(&mut self.clients, from, message, now_ms);
            while let Some(undo) = self.clients.undo.pop() {
                self.undo(undo);
            }
        }
    }

    fn arrive(&mut self, message: ToShard) {
        let ToShard::Connection(socket) = message else { return };
        match Stream::from_fd(socket) {
            Ok(stream) if self.draining_until_ms.is_none() => self.arrived.push(stream),
            _ => self.balance.remove(self.index),
        }
    }

    /// Stalled commands may try again at this turn's end.
    pub fn take_up_stalled(&mut self) {
        self.news = true;
    }

    /// Puts the turn's totals on the metric page.
    fn count(&mut self, began_ns: u64) {
        let totals = std::mem::take(&mut self.clients.totals);
        let hub = self.hub.take_totals();
        let metrics = &self.clients.metrics;
        let turn_ns = rt::clock_ns().saturating_sub(began_ns);
        for (counter, count) in [
            (Counter::Turns, 1),
            (Counter::MessagesIn, totals.messages_in),
            (Counter::MessagesOut, totals.messages_out),
            (Counter::BytesIn, totals.bytes_in),
            (Counter::BytesOut, totals.bytes_out),
            (Counter::Receives, totals.receives),
            (Counter::Sends, totals.sends),
            (Counter::Commands, totals.commands),
            (Counter::CommandErrors, totals.command_errors),
            (Counter::Publications, hub.publications),
            (Counter::Deliveries, hub.deliveries),
            (Counter::EncodesJson, hub.encodes[0]),
            (Counter::EncodesProtobuf, hub.encodes[1]),
            (Counter::HoledChannels, hub.holed),
        ] {
            if count > 0 {
                metrics.add(counter, count);
            }
        }
        for (gauge, value) in [
            (Gauge::Connections, self.clients.len()),
            (Gauge::Sessions, self.clients.sessions),
            (Gauge::Subscriptions, self.hub.sizes().1),
            (Gauge::OutboxBytes, self.clients.outbox_bytes()),
        ] {
            metrics.set(gauge, value as u64);
        }
        metrics.record(Histogram::TurnTime, turn_ns);
        // A reply leaves at the turn's end, so that is how long its command took.
        for _ in totals.asked..totals.commands {
            metrics.record(Histogram::CommandDuration, turn_ns);
        }
        if turn_ns > STALL_MS * 1_000_000 {
            metrics.add(Counter::Stalls, 1);
            tracing::warn!(shard = self.index, turn_ms = turn_ns / 1_000_000, "a turn took long");
        }
    }

    /// What is due by the clock; called once in each slot of the wheel.
    pub fn tick(&mut self, now_ms: u64) {
        let mut fired = std::mem::take(&mut self.fired);
        self.clients.fired(now_ms, &mut fired);
        for id in fired.drain(..) {
            self.due(id, now_ms);
        }
        if now_ms >= self.next_sweep_ms {
            self.next_sweep_ms = now_ms + SWEEP_INTERVAL_MS;
            let timeout_ms = self.config.client.write_timeout_ms;
            self.clients.stuck(SWEEP_CONNECTIONS, timeout_ms, now_ms, &mut fired);
            for id in fired.drain(..) {
                self.end_session(id);
                self.clients.cut(id, Disconnect::WriteError, now_ms);
            }
            self.hub.sweep(now_ms);
        }
        self.fired = fired;
        self.deliver_tick(now_ms);
        if now_ms >= self.next_gauges_ms {
            self.next_gauges_ms = now_ms + GAUGES_INTERVAL_MS;
            self.gauges();
        }
        if now_ms >= self.next_give_back_ms {
            self.next_give_back_ms = now_ms + GIVE_BACK_INTERVAL_MS;
            buf::give_back();
        }
        self.news = true;
        rt::request_turn();
    }

    fn due(&mut self, id: u32, now_ms: u64) {
        let connection = self.clients.entry(id);
        if now_ms >= connection.deadline_ms {
            match connection.face {
                Face::Http { begun } => {
                    connection.deadline_ms = u64::MAX;
                    if begun {
                        let mut answer = Vec::new();
                        super::http::write_timeout(&mut answer);
                        self.clients.push(id, &answer, &[]);
                        self.clients.metrics.add(Counter::HttpErrors, 1);
                    }
                    self.clients.linger(id, true, now_ms);
                }
                _ => {
                    connection.deadline_ms = u64::MAX;
                    connection.stream.abort();
                }
            }
            return self.clients.arm(id);
        }
        let (paused, holds_ping) = (connection.paused, connection.holds_ping());
        let Some(session) = connection.session.as_mut().filter(|_| !paused) else {
            return self.clients.arm(id);
        };
        if holds_ping && session.hold_pong(&self.config, now_ms) {
            return self.clients.arm(id);
        }
        let format = session.format();
        match session.tick(&self.config, now_ms) {
            Tick::Nothing => {}
            Tick::Ping => self.clients.ping(id, crate::hub::frame_kind(format), format.ping()),
            Tick::FramePing => self.clients.ping(id, FrameKind::Ping, b""),
            Tick::Close(disconnect) => self.close(id, disconnect),
        }
        self.clients.arm(id);
    }

    /// Gauges that need not be of this very turn.
    fn gauges(&mut self) {
        let (channels, ..) = self.hub.sizes();
        let (history_bytes, history_items, presence, known) = self.hub.broker().sizes();
        let broker = self.hub.broker().take_totals();
        let depth = self.hub.post().depth();
        let (sent, received, refused) = self.hub.post().totals();
        let (sent_before, received_before, refused_before) = self.mailbox_totals;
        self.mailbox_totals = (sent, received, refused);
        self.log_gauges();
        let metrics = &self.clients.metrics;
        if self.index == 0 {
            // The logs are the process's, so one shard counts for all.
            let suppressed = crate::logs::suppressed();
            metrics.add(Counter::LogSuppressed, suppressed - self.log_suppressed);
            self.log_suppressed = suppressed;
        }
        let ingest = self.ingest.take_totals();
        let delivered = self.deliveries.totals();
        let before = std::mem::replace(&mut self.delivered, delivered);
        for (counter, count) in [
            (Counter::EventsStored, ingest.stored),
            (Counter::EventsRefused, ingest.refused),
            (Counter::EventsLate, ingest.timed_out),
            (Counter::EventsDuplicate, ingest.duplicates),
            (Counter::RecordsDelivered, delivered.delivered - before.delivered),
            (Counter::RecordsDeadLettered, delivered.dead_lettered - before.dead_lettered),
            (Counter::RecordsGivenUp, delivered.given_up - before.given_up),
            (Counter::RecordsExpired, delivered.expired - before.expired),
            (Counter::RecordsNull, delivered.null_skipped - before.null_skipped),
            (Counter::RecordsRetried, delivered.retried - before.retried),
        ] {
            metrics.add(counter, count);
        }
        metrics.add(Counter::HistoryTrimmed, broker.trimmed);
        metrics.add(Counter::PresenceRefused, broker.presence_refused);
        metrics.add(Counter::MailboxSent, sent - sent_before);
        metrics.add(Counter::MailboxReceived, received - received_before);
        metrics.add(Counter::MailboxFull, refused - refused_before);
        for (gauge, value) in [
            (Gauge::Channels, channels.max(known)),
            (Gauge::PresenceEntries, presence),
            (Gauge::MailboxDepth, depth),
            (Gauge::HistoryItems, history_items),
            (Gauge::HistoryBytes, history_bytes),
            (Gauge::EventsOutstanding, self.ingest.outstanding()),
            (Gauge::ConsumerPartitions, self.deliveries.len()),
            (Gauge::ConsumerLag, self.deliveries.lag() as usize),
        ] {
            metrics.set(gauge, value as u64);
        }
        let (wall_ns, cpu_ns) = (rt::clock_ns(), thread_cpu_ns());
        let (wall_before, cpu_before) = self.measured_ns;
        let elapsed_ns = wall_ns.saturating_sub(wall_before);
        if elapsed_ns >= 1_000_000_000 {
            let used_ns = cpu_ns.saturating_sub(cpu_before);
            metrics.set(Gauge::UtilisationPpm, used_ns * 1_000_000 / elapsed_ns);
            self.measured_ns = (wall_ns, cpu_ns);
        }
    }

    fn log_gauges(&mut self) {
        let (metrics, now_ms) = (&self.clients.metrics, rt::now_ms());
        let Main::Kafka(log) = &self.ingest.log.main else { return };
        let (records, age_ms) = log.spool().backlog(now_ms);
        metrics.set(Gauge::SpoolRecords, records);
        metrics.set(Gauge::SpoolAge, age_ms);
        metrics.set(Gauge::SpoolOpen, u64::from(log.spool().is_open()));
        let (now, dead) = (log.totals(), log.spool().dead_letters());
        let (before, dead_before) = std::mem::replace(&mut self.log_totals, (now, dead));
        metrics.add(Counter::SpoolTaken, now.spooled - before.spooled);
        metrics.add(Counter::SpoolForwarded, now.forwarded - before.forwarded);
        metrics.add(Counter::SpoolTakeOvers, now.take_overs - before.take_overs);
        metrics.add(Counter::SpoolDeadLetters, dead - dead_before);
        metrics.add(Counter::KafkaErrors, now.errors - before.errors);
        let (shard, is_old) = (self.index, age_ms > self.config.spool.alarm_ms);
        match self.spool_alarm.look(is_old, SPOOL_ALARM_PAUSE_MS, now_ms) {
            Some(Say::Bad) => {
                tracing::error!(shard, records, age_ms, "the spool grows old");
            }
            Some(Say::Over) => {
                tracing::info!(shard, records, age_ms, "the spool is not old any more");
            }
            None => {}
        }
    }

    /// Whether nobody is connected and nothing is under way any more.
    fn is_drained(&self) -> bool {
        let is_idle = self.clients.len() == 0 && self.deliveries.len() == 0;
        is_idle && self.ingest.outstanding() == 0 && self.ingest.log.has_left()
    }

    /// Whether all shards are drained: what others have under way may need this one.
    fn may_end(&mut self) -> bool {
        let is_drained = self.is_drained();
        let Some((stop, told)) = &mut self.drain else { return is_drained };
        if is_drained && !std::mem::replace(told, true) {
            stop.tell_drained();
        }
        stop.all_drained()
    }

    /// Closes every client with 3001; the shard stops when they are gone, or soon after.
    pub fn drain(&mut self, stop: &StopSignal, now_ms: u64) {
        if self.draining_until_ms.is_some() {
            return;
        }
        self.draining_until_ms = Some(now_ms + DRAIN_MS);
        self.drain = Some((stop.clone(), false));
        self.revoke_deliveries();
        for id in self.clients.ids() {
            match self.clients.entry(id).face {
                Face::Client => self.close(id, Disconnect::Shutdown),
                Face::Echo => self.close_socket(id, Some(1001), "shutdown", false),
                Face::Http { .. } => self.clients.linger(id, true, now_ms),
                Face::Closing => {}
            }
        }
        rt::request_turn();
    }
}

/// What the Kafka client of a shard is made of.
fn kafka_options(config: &Config, names: Names, mut random: StdRng) -> kafka::Options {
    let KafkaConfig { brokers, sasl, user, password, .. } = &config.kafka;
    let bootstrap = brokers.iter().filter_map(|broker| {
        let (host, port) = broker.rsplit_once(':')?;
        Some((host.into(), port.parse().ok()?))
    });
    let sasl = match sasl {
        Sasl::None => None,
        Sasl::Plain => Some(None),
        Sasl::ScramSha256 => Some(Some(Mechanism::Sha256)),
        Sasl::ScramSha512 => Some(Some(Mechanism::Sha512)),
    };
    let credentials = |scram| sasl::Sasl { scram, user: user.clone(), password: password.clone() };
    kafka::Options {
        bootstrap: bootstrap.collect(),
        settings: Settings {
            client_id: format!("trine-{}", config.gateway),
            connect_timeout_ms: KAFKA_CONNECT_MS,
            request_timeout_ms: KAFKA_REQUEST_MS,
            sasl: sasl.map(credentials),
        },
        producer: producer::Options {
            linger_ms: config.kafka.linger_ms,
            batch_bytes: config.kafka.batch_bytes,
            compression: match config.kafka.compression {
                Compression::None => record::Compression::None,
                Compression::Gzip => record::Compression::Gzip,
                Compression::Snappy => record::Compression::Snappy,
                Compression::Lz4 => record::Compression::Lz4,
                Compression::Zstd => record::Compression::Zstd,
            },
            record_identity: true,
            retries_all: true,
            ..producer::Options::default()
        },
        resolve: Rc::new(names),
        look_ms: Some(SPOOL_LOOK_MS),
        random: Box::new(move || random.next_u64()),
    }
}

/// The partitions of `topics`, the embedded log's or the queues', that a shard's consumers read:
/// each is read on one shard.
fn feeds(
    config: &Config,
    topics: &[Box<str>],
    (index, shards): (usize, usize),
    queues: bool,
) -> Vec<FeedSpec> {
    let mut feeds = Vec::new();
    for (number, consumer) in config.consumers.iter().enumerate() {
        if config.drains(consumer) != queues {
            continue;
        }
        for name in &consumer.topics {
            // Of several queues each has a log of its own.
            let Some(topic) = topics.iter().position(|known| **known == **name) else { continue };
            let first = hash::murmur2(name.as_bytes()) as usize;
            for partition in 0..config.log.partitions {
                if first.wrapping_add(partition as usize) % shards == index {
                    let feed = Feed { consumer: number as u16, topic: topic as u16, partition };
                    let group = if queues { QUEUE_GROUP } else { &consumer.group };
                    feeds.push(FeedSpec { group: group.into(), feed, start: consumer.start });
                }
            }
        }
    }
    feeds
}

/// Milliseconds since 1970.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}

fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
