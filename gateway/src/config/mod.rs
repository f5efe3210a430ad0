//! What an operator may choose, resolved: defaults filled in, every value checked.
//!
//! **Runs on: any.** Control reads the file and hands the result to the data process. Nothing here
//! does I/O; `trine check` and `trine run` share [`parse`].

mod consumer;
mod durable;
mod file;
mod rules;
mod schema;
#[cfg(test)]
mod tests;
mod tickets;

pub use consumer::{
    Assignor, Batch, Consumer, Lag, NullValues, Retry, Schedule, Start, Target, Upstream,
};
pub use durable::{
    Ack, Api, Compression, Kafka, Log, LogKind, Partitioner, Queue, RecordHeader, RecordKey, Route,
    Rpc, Sasl, Spool,
};
pub use file::{Problems, next_port, parse};
pub use schema::default_file;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The resolved configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// No file was given: everything is open, and the connect data's `name` becomes the user.
    pub embedded_default: bool,
    /// Serve the demo page at `/`.
    pub demo: bool,
    /// Where to listen.
    pub listen: Listen,
    /// Holds the lock, the data process's socket and the state file.
    pub runtime_dir: PathBuf,
    /// How many shards, and on which CPUs.
    pub shards: Shards,
    /// Limits and timers of a client.
    pub client: Client,
    /// The embedded broker.
    pub broker: Broker,
    /// This gateway's name in the records that it writes.
    pub gateway: String,
    /// Records for people.
    pub logs: Logs,
    /// Holds what must outlive the process: the journal.
    pub data_dir: PathBuf,
    /// Where durable events go.
    pub log: Log,
    /// The cluster, where the log is Kafka.
    pub kafka: Kafka,
    /// The journal in front of it.
    pub spool: Spool,
    /// Topics that this node keeps until they are drained.
    pub queue: Queue,
    /// The HTTP API for backends.
    pub api: Api,
    /// Rpc methods that are durable events.
    pub rpcs: Vec<Rpc>,
    /// Who reads topics of the log, and where the records go.
    pub consumers: Vec<Consumer>,
    /// Backends.
    pub upstreams: Vec<Upstream>,
    /// Rules for channels; the first has no name and is for channels without a prefix.
    pub namespaces: Vec<Namespace>,
}

/// Addresses to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Clients.
    pub client: SocketAddr,
    /// Operators: `/metrics`, `/healthz`, `/status`.
    pub admin: SocketAddr,
    /// WebSocket echo for conformance tests and measurements.
    pub echo: Option<SocketAddr>,
    /// Where backends publish, while `api.key` is set.
    pub api: SocketAddr,
}

/// Shards; `None` leaves it to the pin plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shards {
    /// How many.
    pub count: Option<usize>,
    /// The CPU of each.
    pub cpus: Option<Vec<usize>>,
    /// CPUs of busy shards don't halt, where the system allows it.
    pub keep_awake: bool,
}

/// Limits and timers of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Connect without a token.
    pub anonymous: bool,
    /// Between two server pings; 0: none.
    pub ping_interval_ms: u64,
    /// How long a pong may take; shorter than the interval.
    pub pong_timeout_ms: u64,
    /// How long `connect` may take.
    pub stale_close_delay_ms: u64,
    /// Channels that one client may be subscribed to.
    pub channels_limit: usize,
    /// Commands of one client that may wait for an answer; more wait in its socket.
    pub in_flight: usize,
    /// Longest message from a client.
    pub message_limit_bytes: usize,
    /// Bytes that may wait for a slow reader before it is closed with 3008.
    pub outbox_limit_bytes: usize,
    /// How long a send may take for each 64 KiB before 3009.
    pub write_timeout_ms: u64,
    /// How long a request head may take.
    pub head_timeout_ms: u64,
    /// Pages that may connect besides those of the same host; each exactly as in `Origin`.
    pub allowed_origins: Vec<String>,
}

/// The embedded broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broker {
    /// History and presence of all shards; beyond it the oldest publications go first.
    pub history_limit_bytes: usize,
}

/// Records for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// The least level that is written.
    pub level: LogLevel,
    /// How a record looks.
    pub format: LogFormat,
}

/// Levels, from few records to many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something needs looking after.
    Warn,
    /// What happens.
    Info,
    /// Why.
    Debug,
}

/// How a log record looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Who may do something in a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// No client.
    Nobody,
    /// Clients that are subscribed to it.
    Subscribers,
    /// Clients with a user name.
    Clients,
    /// Every client.
    Anonymous,
}

/// What a payload may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Payload {
    /// JSON, checked.
    Json,
    /// Any bytes; a JSON client cannot receive what is not JSON.
    Binary,
}

/// Rules for the channels `NAME:…`; the nameless one is for channels without a colon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// The prefix.
    pub name: String,
    /// Who may subscribe.
    pub subscribe: Access,
    /// Who may publish.
    pub publish: Access,
    /// Who may read presence.
    pub presence_access: Access,
    /// Who may read history, and recover.
    pub history_access: Access,
    /// Publications kept; 0: no history, no offsets.
    pub history_size: usize,
    /// How long they are kept after the newest.
    pub history_ttl_ms: u64,
    /// How long a stream's epoch and offset outlive its publications.
    pub history_meta_ttl_ms: u64,
    /// Keep who is subscribed.
    pub presence: bool,
    /// Tell of joins and leaves.
    pub join_leave: bool,
    /// … to subscribers that did not ask for it, too.
    pub force_push_join_leave: bool,
    /// A client may recover what it missed.
    pub recovery: bool,
    /// … whether it asked for it or not.
    pub force_recovery: bool,
    /// A client may ask for the stream's position.
    pub positioning: bool,
    /// … and gets it unasked.
    pub force_positioning: bool,
    /// What a payload may be.
    pub payload: Payload,
    /// Longest payload.
    pub message_limit_bytes: usize,
    /// Where publications are made durable before they are fanned out.
    pub route: Route,
}

impl Namespace {
    /// Whether publications get an offset and are kept.
    pub fn has_history(&self) -> bool {
        self.history_size > 0 && self.history_ttl_ms > 0
    }
}

impl Config {
    /// Namespaces whose publications become records, each with its topic.
    pub(crate) fn written_topics(&self) -> impl Iterator<Item = (&str, &str)> {
        let durable = |namespace: &'_ Namespace| namespace.route.durable().is_some();
        let written = self.namespaces.iter().filter(move |namespace| durable(namespace));
        written.map(|namespace| (namespace.name.as_str(), namespace.route.topic.as_str()))
    }

    /// What runs without a file: on loopback, everything open, with the ticket flow.
    pub fn embedded() -> Self {
        let mut config = Self::with_file_defaults();
        config.embedded_default = true;
        config.demo = true;
        config.client.anonymous = true;
        let open = &mut config.namespaces[0];
        open.subscribe = Access::Anonymous;
        open.publish = Access::Anonymous;
        open.presence_access = Access::Anonymous;
        open.history_access = Access::Anonymous;
        open.history_size = 100;
        open.history_ttl_ms = 300_000;
        open.presence = true;
        open.join_leave = true;
        open.recovery = true;
        open.positioning = true;
        config.add_ticket_flow();
        config
    }

    /// What a file that says nothing gives: nobody may connect.
    pub fn with_file_defaults() -> Self {
        Config {
            embedded_default: false,
            demo: false,
            listen: Listen {
                client: ([127, 0, 0, 1], 8000).into(),
                admin: ([127, 0, 0, 1], 8001).into(),
                echo: None,
                api: ([127, 0, 0, 1], 8002).into(),
            },
            runtime_dir: default_runtime_dir(),
            shards: Shards { count: None, cpus: None, keep_awake: true },
            client: Client {
                anonymous: false,
                ping_interval_ms: 25_000,
                pong_timeout_ms: 8_000,
                stale_close_delay_ms: 10_000,
                channels_limit: 128,
                in_flight: 64,
                message_limit_bytes: 65_536,
                outbox_limit_bytes: 1 << 20,
                write_timeout_ms: 10_000,
                head_timeout_ms: 10_000,
                allowed_origins: Vec::new(),
            },
            broker: Broker { history_limit_bytes: 256 << 20 },
            logs: Logs { level: LogLevel::Info, format: LogFormat::Json },
            gateway: host_name(),
            data_dir: default_data_dir(),
            log: Log {
                kind: LogKind::Embedded,
                partitions: 4,
                quota_bytes: 1 << 30,
                retention_ms: 7 * 24 * 3_600_000,
                timeout_ms: 3_000,
                gather_us: 250,
            },
            kafka: Kafka {
                brokers: vec!["127.0.0.1:9092".to_owned()],
                sasl: Sasl::None,
                user: String::new(),
                password: String::new(),
                linger_ms: 0,
                batch_bytes: 256 << 10,
                compression: Compression::None,
                create_topics: false,
                watch_groups: Vec::new(),
            },
            spool: Spool {
                after_ms: 500,
                quota_bytes: 4 << 30,
                alarm_ms: 600_000,
                forward_rate: 50_000,
            },
            queue: Queue { topics: Vec::new(), quota_bytes: 1 << 30 },
            api: Api::default(),
            rpcs: Vec::new(),
            consumers: Vec::new(),
            upstreams: Vec::new(),
            namespaces: vec![Namespace::closed(String::new())],
        }
    }

    /// The routes of namespaces and rpcs that make events durable.
    fn durable_routes(&self) -> impl Iterator<Item = &Route> {
        let routes = self.namespaces.iter().map(|namespace| &namespace.route);
        routes.chain(self.rpcs.iter().map(|rpc| &rpc.route)).filter_map(Route::durable)
    }

    /// Names of the request headers that records are made with.
    pub fn record_headers(&self) -> impl Iterator<Item = &str> {
        self.durable_routes().flat_map(|route| {
            let key = match &route.key {
                RecordKey::Header(name) => Some(name.as_str()),
                _ => None,
            };
            let partition = match &route.partitioner {
                Partitioner::Header(name) => Some(name.as_str()),
                _ => None,
            };
            let trace = route.headers.contains(&RecordHeader::Traceparent);
            [key, partition, trace.then_some("traceparent")].into_iter().flatten()
        })
    }

    /// Whether anything is durable, so that there is a log.
    pub fn has_log(&self) -> bool {
        self.namespaces.iter().any(|namespace| namespace.route.durable().is_some())
            || !self.rpcs.is_empty()
            || !self.consumers.is_empty()
    }

    /// Whether a consumer drains queues.
    pub fn drains(&self, consumer: &Consumer) -> bool {
        consumer.topics.iter().any(|topic| self.queue.topics.contains(topic))
    }

    /// Listeners that would have the same address, by their keys in `[listen]`.
    pub fn listeners_in_conflict(&self) -> Vec<(&'static str, &'static str)> {
        let Listen { client, admin, api, echo } = self.listen;
        let api = (!self.api.key.is_empty()).then_some(api);
        let all = [("echo", echo), ("api", api), ("admin", Some(admin)), ("client", Some(client))];
        let mut conflicts = Vec::new();
        for (place, (name, address)) in all.iter().enumerate() {
            let others = all[place + 1..].iter().filter(|(_, other)| {
                other == address && address.is_some_and(|address| address.port() != 0)
            });
            conflicts.extend(others.map(|(other, _)| (*name, *other)));
        }
        conflicts
    }

    /// What control sends to the data process.
    pub fn to_wire(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a configuration has a JSON form")
    }

    /// The other end of [`Config::to_wire`].
    ///
    /// # Errors
    /// When the bytes are of another build.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// What an operator should know before production, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.embedded_default {
            warnings.push(
                "embedded default, not for production: anybody may connect under any name, \
                 subscribe and publish; give a file with -c, `trine config default` prints one"
                    .to_owned(),
            );
        }
        if !self.embedded_default && !self.client.anonymous {
            warnings.push(
                "nobody can connect: client.anonymous is false, and there are no tokens yet"
                    .to_owned(),
            );
        }
        if !self.embedded_default {
            warnings.extend(self.warnings_of_names());
        }
        if !self.listen.admin.ip().is_loopback() {
            warnings.push(format!(
                "listen.admin {} is not on loopback and asks for no credentials",
                self.listen.admin
            ));
        }
        if self.log.kind == LogKind::Embedded && self.kafka != Config::with_file_defaults().kafka {
            warnings.push(
                "[kafka] means nothing: the log is a journal of the gateway's own, since log.kind is \
                 \"embedded\""
                    .to_owned(),
            );
        }
        if !self.api.key.is_empty() && !self.listen.api.ip().is_loopback() {
            warnings.push(format!(
                "listen.api {} is not on loopback, and api.key is sent in the clear",
                self.listen.api
            ));
        }
        warnings
    }

    /// Who connects without a token has no name: what a file lets the named do, nobody can.
    fn warnings_of_names(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let lets_in = |namespace: &Namespace, whom: Access| {
            let Namespace { subscribe, publish, presence_access, history_access, .. } = namespace;
            [*subscribe, *publish, *presence_access, *history_access].contains(&whom)
        };
        // Of what no file speaks it wants nothing.
        let unsaid = Namespace::closed(String::new());
        let said = self.namespaces.iter().filter(|namespace| **namespace != unsaid);
        let closed = said.filter(|namespace| lets_in(namespace, Access::Clients));
        let closed = closed.map(|namespace| match namespace.name.as_str() {
            "" => "[channel]".to_owned(),
            name => format!("namespace {name}"),
        });
        let closed = closed.collect::<Vec<_>>().join(", ");
        if !closed.is_empty() {
            warnings.push(format!(
                "access \"clients\" lets nobody in, since clients have no names before there are \
                 tokens: {closed}"
            ));
        }
        let is_shut = !self.namespaces.iter().any(|of| lets_in(of, Access::Anonymous));
        if self.client.anonymous && closed.is_empty() && self.rpcs.is_empty() && is_shut {
            warnings.push(
                "no channel lets clients subscribe, publish or look; say so in \
                 [channel] or a [[namespace]], such as subscribe = \"anonymous\""
                    .to_owned(),
            );
        }
        let keyed = self.durable_routes().filter(|route| route.key == RecordKey::User);
        let mut topics: Vec<&str> = keyed.map(|route| route.topic.as_str()).collect();
        topics.sort_unstable();
        topics.dedup();
        if !topics.is_empty() {
            warnings.push(format!(
                "key \"user\" puts all records under one key, since clients have no names before \
                 there are tokens: {}",
                topics.join(", ")
            ));
        }
        warnings
    }
}

impl Namespace {
    /// The defaults of a namespace in a file: clients with a name may subscribe, nobody may do
    /// more, nothing is kept.
    pub fn closed(name: String) -> Self {
        Namespace {
            name,
            subscribe: Access::Clients,
            publish: Access::Nobody,
            presence_access: Access::Nobody,
            history_access: Access::Nobody,
            history_size: 0,
            history_ttl_ms: 0,
            history_meta_ttl_ms: 30 * 24 * 3_600_000,
            presence: false,
            join_leave: false,
            force_push_join_leave: false,
            recovery: false,
            force_recovery: false,
            positioning: false,
            force_positioning: false,
            payload: Payload::Json,
            message_limit_bytes: 65_536,
            route: Route { key: RecordKey::Channel, ..Route::default() },
        }
    }
}

/// The host's name as far as it is one that the configuration would take.
fn host_name() -> String {
    let system = rustix::system::uname();
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let name = system.nodename().to_string_lossy();
    let name: String = name.chars().filter(allowed).take(64).collect();
    if name.is_empty() { "trine".to_owned() } else { name }
}

/// `$XDG_STATE_HOME/trine`, by default `~/.local/state/trine`.
fn default_data_dir() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|base| !base.is_empty()).map(PathBuf::from);
    let base = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
    base.unwrap_or_else(|| PathBuf::from("/var/lib")).join("trine")
}

/// `$XDG_RUNTIME_DIR/trine`, else one in the system's directory for temporary files with the
/// user's number, so that two users do not meet.
fn default_runtime_dir() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(base) if !base.is_empty() => PathBuf::from(base).join("trine"),
        _ => {
            let user = rustix::process::geteuid().as_raw();
            std::env::temp_dir().join(format!("trine-{user}"))
        }
    }
}
