//! The clients of one row: their connections' lives, what they send and when,
//! and what becomes of what they receive.
//!
//! **Runs on: any** (one thread).
//!
//! Invariants: a message is complete when its reply and all its deliveries are
//! there, each counted once; in a closed loop a sender never has more than its
//! window outstanding; in an open loop messages go out by the clock alone.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::places::{self, Place};
use super::report::{Latency, Memory, Report};
use super::tamper::Tamperer;
use super::{Options, Row};
use crate::accounting::{Reading, Watch, slab_bytes};
use crate::check::Checker;
use crate::frame;
use crate::message::{self, Encoder, Message};
use crate::payload::{self, Stamp};
use crate::ring::{Handler, Net, Wait};

/// Handshakes under way at once while the connections are opened.
const HANDSHAKES: u32 = 128;
/// Publications in flight when idle connections are tried at the end.
const PROBES: u32 = 64;
/// Commands 1 and 2 are connect and subscribe; messages follow.
const FIRST_MESSAGE_ID: u64 = 3;
/// How long to wait for what is outstanding, or for anything at all.
const PATIENCE: Duration = Duration::from_secs(5);
/// Source addresses to spread over, so that ports do not run out.
const SOURCES: u32 = 100;
/// Longest latency told apart.
const LATENCY_LIMIT_NS: u64 = 60_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Upgrading,
    Joining,
    Ready,
    Leaving,
    Gone,
}

struct Client {
    connection: u32,
    state: State,
    /// Where it publishes, and what it hears if it is subscribed.
    channel: u32,
    receiver: Option<u32>,
    begun_ns: u64,
    partial: Vec<u8>,
    sent: u32,
    first_outstanding: u32,
    outstanding: VecDeque<Outstanding>,
}

/// A message on its way.
struct Outstanding {
    remaining: u32,
    due_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    WarmUp,
    Measuring,
    /// Idle connections are tried.
    Probing,
    Draining,
    Done,
}

/// Runs one row; a [`Handler`] of the loop.
pub struct Driver {
    options: Options,
    encoder: Encoder,
    request: Vec<u8>,
    payload: Vec<u8>,
    run: u32,
    clients: Vec<Client>,
    /// The client of each connection.
    by_connection: Vec<u32>,
    channels: Vec<Vec<u8>>,
    checker: Checker,
    /// Where the log said that it has a record.
    places: HashSet<Place>,
    tamperer: Tamperer,
    phase: Phase,
    epoch: Instant,
    phase_ends_ns: u64,
    last_progress_ns: u64,
    handshakes: u32,
    ready: u32,
    in_flight: u64,
    next_due_ns: f64,
    next_sender: u32,
    /// Clients whose life is over, where lives begin by the clock.
    free: Vec<u32>,
    watch: Watch,
    before: Reading,
    before_ns: u64,
    busy_before: Duration,
    memory: Memory,
    slab_before: u64,
    histogram: Histogram<u64>,
    report: Report,
    failure: Option<io::Error>,
}

impl Driver {
    /// Prepares the clients; nothing is connected yet.
    pub fn new(options: Options) -> Driver {
        let watch =
            Watch::new(options.server_pid, options.broker_pid, options.server_cpu, options.own_cpu);
        let run = std::process::id() ^ (started_ns() as u32);
        let mut driver = Driver {
            encoder: Encoder::new(options.format),
            request: frame::upgrade_request(
                &options.address.to_string(),
                options.format.subprotocol(),
            ),
            payload: Vec::new(),
            run,
            clients: Vec::new(),
            by_connection: Vec::new(),
            channels: Vec::new(),
            checker: Checker::new(run),
            places: HashSet::new(),
            tamperer: Tamperer::new(options.tamper),
            phase: Phase::Opening,
            epoch: Instant::now(),
            phase_ends_ns: 0,
            last_progress_ns: 0,
            handshakes: 0,
            ready: 0,
            in_flight: 0,
            next_due_ns: 0.0,
            next_sender: 0,
            free: Vec::new(),
            memory: Memory {
                server_before_bytes: watch.server_resident_bytes(),
                ..Memory::default()
            },
            slab_before: slab_bytes(),
            watch,
            before: Reading::default(),
            before_ns: 0,
            busy_before: Duration::ZERO,
            histogram: Histogram::new_with_bounds(1, LATENCY_LIMIT_NS, 3).expect("fixed bounds"),
            report: Report { rate: options.rate, ..Report::default() },
            failure: None,
            options,
        };
        driver.add_clients();
        driver
    }

    /// The outcome, or what ended the run early.
    pub fn into_report(mut self) -> io::Result<Report> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        self.report.tampered = self.tamperer.finish(&mut self.checker);
        let wrong_replies = self.report.faults;
        self.report.faults = self.checker.finish(|sender| self.clients[sender as usize].sent);
        self.report.faults.misrouted += wrong_replies.misrouted;
        self.report.faults.lost += wrong_replies.lost;
        self.report.faults.duplicated += wrong_replies.duplicated;
        if self.options.row.is_replies_only() {
            self.report.faults.lost += self.in_flight;
        }
        Ok(self.report)
    }

    fn add_clients(&mut self) {
        let connections = self.options.connections;
        let channels = match self.options.row {
            Row::FanOut | Row::Deliver => 1,
            Row::Chat => connections.div_ceil(2),
            _ => connections,
        };
        let prefix = &self.options.channel_prefix;
        self.channels = (0..channels).map(|n| format!("{prefix}bench{n}").into_bytes()).collect();
        for n in 0..connections {
            let receives = !self.options.row.is_replies_only();
            self.add_client(n % channels, receives);
        }
        if self.options.row.is_one_to_all() {
            self.add_client(0, false);
        }
        if !self.options.row.is_replies_only() && self.options.row != Row::Churn {
            for sender in self.senders() {
                self.checker.add_sender(sender, self.clients[sender as usize].channel);
            }
        }
    }

    fn add_client(&mut self, channel: u32, receives: bool) {
        self.clients.push(Client {
            connection: u32::MAX,
            state: State::Gone,
            channel,
            receiver: receives.then(|| self.checker.add_receiver(channel)),
            begun_ns: 0,
            partial: Vec::new(),
            sent: 0,
            first_outstanding: 0,
            outstanding: VecDeque::new(),
        });
    }

    /// The clients that publish or call.
    fn senders(&self) -> std::ops::Range<u32> {
        let clients = self.clients.len() as u32;
        if self.options.row.is_one_to_all() { clients - 1..clients } else { 0..clients }
    }

    fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    fn fail(&mut self, message: String) {
        self.failure.get_or_insert_with(|| io::Error::other(message));
        self.phase = Phase::Done;
    }

    fn note_error(&mut self, message: impl FnOnce() -> String) {
        self.report.errors += 1;
        self.report.first_error.get_or_insert_with(message);
    }

    fn open(&mut self, net: &mut Net, client: u32, begun_ns: u64) {
        let from = Ipv4Addr::new(127, 0, 1, (1 + self.next_sender % SOURCES) as u8);
        self.next_sender = self.next_sender.wrapping_add(1);
        match net.connect(from, self.options.address) {
            Ok(connection) => {
                if self.by_connection.len() <= connection as usize {
                    self.by_connection.resize(connection as usize + 1, u32::MAX);
                }
                self.by_connection[connection as usize] = client;
                net.output(connection).extend_from_slice(&self.request);
                self.handshakes += 1;
                let c = &mut self.clients[client as usize];
                c.connection = connection;
                c.state = State::Upgrading;
                c.begun_ns = begun_ns;
            }
            Err(error) => self.fail(format!("connect to {}: {error}", self.options.address)),
        }
    }

    /// Sends one message of a client.
    fn send(&mut self, net: &mut Net, sender: u32, due_ns: u64) {
        let deliveries = match self.options.row {
            Row::Rpc | Row::Ticket | Row::Publish | Row::Churn => 0,
            Row::Idle => 1,
            Row::FanOut | Row::Deliver | Row::Chat => self.options.units_a_message(),
        };
        let client = &mut self.clients[sender as usize];
        let stamp = Stamp { run: self.run, sender, sequence: client.sent, due_ns };
        let id = FIRST_MESSAGE_ID + u64::from(client.sent);
        client.sent += 1;
        client.outstanding.push_back(Outstanding { remaining: deliveries + 1, due_ns });
        self.in_flight += 1;
        self.payload.clear();
        payload::write(&mut self.payload, self.options.payload_bytes, &stamp);
        let out = net.output(client.connection);
        match self.options.row {
            Row::Rpc => self.encoder.rpc(out, id, "echo", &self.payload),
            Row::Ticket | Row::Deliver => self.encoder.rpc(out, id, "ticket.create", &self.payload),
            _ => {
                let channel = &self.channels[client.channel as usize];
                self.encoder.publish(out, id, channel, &self.payload);
            }
        }
    }

    /// Takes one reply or delivery off what a message waits for.
    fn acknowledge(&mut self, net: &mut Net, sender: u32, sequence: u32, now_ns: u64) {
        let Some(client) = self.clients.get_mut(sender as usize) else { return };
        let place = sequence.wrapping_sub(client.first_outstanding) as usize;
        let Some(message) = client.outstanding.get_mut(place) else { return };
        if message.remaining == 0 {
            return;
        }
        message.remaining -= 1;
        if message.remaining > 0 {
            return;
        }
        while client.outstanding.front().is_some_and(|m| m.remaining == 0) {
            client.outstanding.pop_front();
            client.first_outstanding += 1;
        }
        self.in_flight -= 1;
        self.last_progress_ns = now_ns;
        match self.phase {
            Phase::WarmUp | Phase::Measuring if self.options.rate.is_none() => {
                self.send(net, sender, now_ns);
            }
            Phase::Probing => self.probe(net, now_ns),
            _ => {}
        }
    }

    fn unit(&mut self, due_ns: u64, now_ns: u64) {
        if self.phase == Phase::Measuring {
            self.report.units += 1;
            let latency_ns = now_ns.saturating_sub(due_ns).clamp(1, LATENCY_LIMIT_NS);
            self.histogram.saturating_record(latency_ns);
        }
    }

    fn message(&mut self, net: &mut Net, client: u32, message: Message, now_ns: u64) {
        match message {
            Message::Publication { channel, data } => {
                self.delivery(net, client, channel, data, now_ns);
            }
            Message::Reply { id, data } if id >= FIRST_MESSAGE_ID => {
                self.reply(net, client, (id - FIRST_MESSAGE_ID) as u32, data, now_ns);
            }
            Message::Reply { id, .. } => self.joined(net, client, id, now_ns),
            Message::Error { id, code } => {
                self.note_error(|| format!("command {id} was answered with error {code}"));
                if id < FIRST_MESSAGE_ID {
                    self.fail(format!("could not join: error {code}"));
                } else if self.options.row == Row::Ticket {
                    // A refusal is an answer: the client goes on.
                    self.acknowledge(net, client, (id - FIRST_MESSAGE_ID) as u32, now_ns);
                }
            }
            Message::Ping => {
                let connection = self.clients[client as usize].connection;
                self.encoder.pong(net.output(connection));
            }
            Message::Other => {}
        }
    }

    fn delivery(&mut self, net: &mut Net, client: u32, name: &[u8], data: &[u8], now_ns: u64) {
        let c = &self.clients[client as usize];
        let Some(receiver) = c.receiver else {
            self.report.faults.misrouted += 1;
            return;
        };
        let channel = (self.channels[c.channel as usize] == name).then_some(c.channel);
        let stamp = payload::read(data, self.options.payload_bytes);
        self.tamperer.pass(&mut self.checker, (receiver, channel, stamp));
        if let Some(stamp) = stamp {
            self.unit(stamp.due_ns, now_ns);
            self.acknowledge(net, stamp.sender, stamp.sequence, now_ns);
        }
    }

    fn reply(&mut self, net: &mut Net, client: u32, sequence: u32, data: &[u8], now_ns: u64) {
        let c = &self.clients[client as usize];
        let place = sequence.wrapping_sub(c.first_outstanding) as usize;
        let Some(due_ns) = c.outstanding.get(place).map(|message| message.due_ns) else {
            self.report.faults.misrouted += 1;
            return;
        };
        self.report.replies += 1;
        if self.options.row.is_replies_only() {
            self.unit(due_ns, now_ns);
        }
        if self.options.row.is_durable() {
            match places::read(data, &self.options.at) {
                Some(place) if !place.is_exact() || self.places.insert(place) => {}
                Some(_) => self.report.faults.duplicated += 1,
                None => self.report.faults.misrouted += 1,
            }
        }
        if self.options.row == Row::Rpc {
            let own = Stamp { run: self.run, sender: client, sequence, due_ns };
            if payload::read(data, self.options.payload_bytes) != Some(own) {
                self.report.faults.misrouted += 1;
            }
        }
        self.acknowledge(net, client, sequence, now_ns);
    }

    /// The reply to connect (1) or subscribe (2).
    fn joined(&mut self, net: &mut Net, client: u32, id: u64, now_ns: u64) {
        let c = &mut self.clients[client as usize];
        let last = if c.receiver.is_some() { 2 } else { 1 };
        if id != last || c.state != State::Joining {
            return;
        }
        c.state = State::Ready;
        self.ready += 1;
        self.handshakes -= 1;
        self.last_progress_ns = now_ns;
        if self.options.row == Row::Churn {
            c.state = State::Leaving;
            let (connection, begun_ns) = (c.connection, c.begun_ns);
            frame::write_masked(net.output(connection), frame::CLOSE, &1000u16.to_be_bytes());
            if self.phase == Phase::Measuring {
                let latency_ns = now_ns.saturating_sub(begun_ns).clamp(1, LATENCY_LIMIT_NS);
                self.histogram.saturating_record(latency_ns);
            }
        }
    }

    /// Publishes once from the next idle client.
    fn probe(&mut self, net: &mut Net, now_ns: u64) {
        if (self.next_sender as usize) < self.clients.len() {
            self.send(net, self.next_sender, now_ns);
            self.next_sender += 1;
        } else {
            self.phase = Phase::Draining;
        }
    }

    /// All bytes of a connection so far; says how many were used.
    fn consume(&mut self, net: &mut Net, client: u32, bytes: &[u8], now_ns: u64) -> usize {
        let mut rest = bytes;
        if self.clients[client as usize].state == State::Upgrading {
            let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
                return 0;
            };
            if !bytes.starts_with(b"HTTP/1.1 101") {
                self.fail(format!("no upgrade: {}", String::from_utf8_lossy(&bytes[..end])));
                return bytes.len();
            }
            rest = &bytes[end + 4..];
            let c = &mut self.clients[client as usize];
            c.state = State::Joining;
            let channel = c.receiver.map(|_| &self.channels[c.channel as usize][..]);
            self.encoder.connect(net.output(c.connection), 1, channel);
        }
        loop {
            match frame::read(&mut rest) {
                Ok(Some(frame)) => self.frame(net, client, &frame, now_ns),
                Ok(None) => return bytes.len() - rest.len(),
                Err(frame::BadFrame) => {
                    self.fail("the server sent a bad frame".into());
                    return bytes.len();
                }
            }
        }
    }

    fn frame(&mut self, net: &mut Net, client: u32, frame: &frame::Frame, now_ns: u64) {
        let connection = self.clients[client as usize].connection;
        match frame.opcode {
            frame::TEXT | frame::BINARY => {
                let format = self.options.format;
                let result = message::decode(format, frame.payload, |message| {
                    self.message(net, client, message, now_ns);
                });
                if result.is_err() {
                    self.fail(format!(
                        "bad message: {:?}",
                        frame.payload.escape_ascii().to_string()
                    ));
                }
            }
            frame::PING => {
                frame::write_masked(net.output(connection), frame::PONG, frame.payload);
            }
            frame::CLOSE => {
                if self.clients[client as usize].state != State::Leaving {
                    let text = frame.payload.escape_ascii().to_string();
                    self.note_error(|| format!("the server closed: {text}"));
                }
                net.close(connection);
            }
            _ => {}
        }
    }

    fn begin(&mut self, net: &mut Net, now_ns: u64) {
        self.phase = Phase::WarmUp;
        self.phase_ends_ns = now_ns + self.options.warm_up.as_nanos() as u64;
        self.next_due_ns = now_ns as f64;
        self.last_progress_ns = now_ns;
        let closed_loop =
            self.options.rate.is_none() && !matches!(self.options.row, Row::Idle | Row::Churn);
        if closed_loop {
            for sender in self.senders() {
                for _ in 0..self.options.window {
                    self.send(net, sender, now_ns);
                }
            }
        }
        if self.options.row != Row::Churn {
            self.next_sender = 0;
        }
    }

    /// Open loop: sends what is due, and says how long until the next.
    fn send_due(&mut self, net: &mut Net, rate: f64, now_ns: u64) -> Duration {
        let interval_ns = 1e9 * f64::from(self.options.units_a_message()) / rate;
        let senders = self.senders();
        while self.next_due_ns <= now_ns as f64 {
            if self.options.row == Row::Churn {
                // While all live, what is due waits for one that ends.
                let Some(client) = self.free.pop() else { return PATIENCE };
                self.open(net, client, self.next_due_ns as u64);
                self.next_due_ns += interval_ns;
                continue;
            }
            let sender = senders.start + self.next_sender % (senders.end - senders.start);
            self.send(net, sender, self.next_due_ns as u64);
            self.next_sender = self.next_sender.wrapping_add(1);
            self.next_due_ns += interval_ns;
        }
        Duration::from_nanos((self.next_due_ns - now_ns as f64).max(1.0) as u64)
    }

    fn measure(&mut self, net: &Net, now_ns: u64) {
        self.phase = Phase::Measuring;
        self.before = self.watch.read();
        self.before_ns = self.now_ns();
        self.busy_before = net.busy();
        self.phase_ends_ns = now_ns + self.options.measured.as_nanos() as u64;
    }

    fn stop_measuring(&mut self, net: &mut Net) {
        let now_ns = self.now_ns();
        self.report.usage = self.watch.read().since(&self.before);
        self.report.seconds = (now_ns - self.before_ns) as f64 / 1e9;
        let busy = (net.busy() - self.busy_before).as_secs_f64() / self.report.seconds;
        self.report.derive(self.options.spin.then_some(busy));
        self.report.latency = Latency::of(&self.histogram);
        self.phase = Phase::Draining;
        self.last_progress_ns = now_ns;
        if self.options.row == Row::Idle {
            self.memory.server_after_bytes = self.watch.server_resident_bytes();
            let connections = f64::from(self.options.connections);
            let grown = |after: u64, before: u64| (after as f64 - before as f64) / connections;
            self.memory.server_bytes_a_connection =
                grown(self.memory.server_after_bytes, self.memory.server_before_bytes);
            self.memory.slab_bytes_a_connection = grown(slab_bytes(), self.slab_before);
            self.report.memory = Some(self.memory);
            self.phase = Phase::Probing;
            for _ in 0..PROBES {
                self.probe(net, now_ns);
            }
        }
    }

    fn open_more(&mut self, net: &mut Net, now_ns: u64) {
        while self.handshakes < HANDSHAKES
            && (self.next_sender as usize) < self.clients.len()
            && self.phase == Phase::Opening
        {
            self.open(net, self.next_sender, now_ns);
        }
        if self.ready as usize == self.clients.len() || self.options.row == Row::Churn {
            self.begin(net, now_ns);
        }
    }

    fn wait(&self, now_ns: u64, until_due: Duration) -> Wait {
        if self.phase == Phase::Done {
            return Wait::Stop;
        }
        if self.options.spin {
            return Wait::Spin;
        }
        let until_phase = Duration::from_nanos(self.phase_ends_ns.saturating_sub(now_ns).max(1));
        match self.phase {
            Phase::WarmUp | Phase::Measuring => Wait::For(until_due.min(until_phase)),
            _ => Wait::For(Duration::from_millis(10)),
        }
    }
}

impl Handler for Driver {
    fn received(&mut self, net: &mut Net, connection: u32, bytes: &mut [u8]) {
        let now_ns = self.now_ns();
        let client = self.by_connection[connection as usize];
        if self.clients[client as usize].partial.is_empty() {
            let used = self.consume(net, client, bytes, now_ns);
            if used < bytes.len() {
                self.clients[client as usize].partial.extend_from_slice(&bytes[used..]);
            }
            return;
        }
        let mut partial = std::mem::take(&mut self.clients[client as usize].partial);
        partial.extend_from_slice(bytes);
        let used = self.consume(net, client, &partial, now_ns);
        partial.drain(..used);
        self.clients[client as usize].partial = partial;
    }

    fn closed(&mut self, net: &mut Net, connection: u32) {
        let client = self.by_connection[connection as usize];
        let c = &mut self.clients[client as usize];
        let state = std::mem::replace(&mut c.state, State::Gone);
        c.partial = Vec::new();
        if state != State::Leaving {
            if !matches!(self.phase, Phase::Done) {
                self.note_error(|| format!("a connection ended while {state:?}"));
            }
            if matches!(state, State::Upgrading | State::Joining) {
                self.fail("a connection ended before it was ready".into());
            }
            return;
        }
        if self.phase == Phase::Measuring {
            self.report.units += 1;
        }
        match self.phase {
            Phase::WarmUp | Phase::Measuring if self.options.rate.is_some() => {
                self.free.push(client);
            }
            Phase::WarmUp | Phase::Measuring => self.open(net, client, self.now_ns()),
            _ => {}
        }
    }

    fn turn(&mut self, net: &mut Net) -> Wait {
        let now_ns = self.now_ns();
        let mut until_due = PATIENCE;
        if self.phase == Phase::Opening {
            self.open_more(net, now_ns);
        }
        if self.phase == Phase::WarmUp && now_ns >= self.phase_ends_ns {
            self.measure(net, now_ns);
        }
        if self.phase == Phase::Measuring && now_ns >= self.phase_ends_ns {
            self.stop_measuring(net);
        }
        if let (Some(rate), Phase::WarmUp | Phase::Measuring) = (self.options.rate, self.phase) {
            until_due = self.send_due(net, rate, now_ns);
        }
        let idle_by_design = self.options.row == Row::Idle && self.phase != Phase::Probing;
        let patience_ns = PATIENCE.as_nanos() as u64;
        let stuck = now_ns.saturating_sub(self.last_progress_ns) > patience_ns;
        match self.phase {
            Phase::Draining if self.in_flight == 0 || stuck => self.phase = Phase::Done,
            Phase::Opening if stuck => self.fail("connections do not come up".into()),
            _ if stuck && !idle_by_design => {
                self.fail(format!("no progress with {} messages in flight", self.in_flight));
            }
            _ => {}
        }
        self.wait(now_ns, until_due)
    }
}

fn started_ns() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
