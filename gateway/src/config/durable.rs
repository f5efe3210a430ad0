//! What makes events durable: the log, Kafka, the spool, and the routes that lead there.
//!
//! **Runs on: control** (made there) and every shard (its own copy). Plain values.

use serde::{Deserialize, Serialize};

/// Which log keeps durable events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogKind {
    /// The journal of this process.
    Embedded,
    /// A Kafka cluster.
    Kafka,
}

/// Where durable events go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Which log it is.
    pub kind: LogKind,
    /// Partitions of a topic of the embedded log.
    pub partitions: u32,
    /// Bytes on disk of the embedded log; the oldest records go first.
    pub quota_bytes: u64,
    /// Age at which its records may go; 0: age means nothing.
    pub retention_ms: u64,
    /// How long a durable command may take before it is refused.
    pub timeout_ms: u64,
    /// How long a shard rests at most, to let events gather, while records wait for the log.
    pub gather_us: u64,
}

/// The Kafka cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kafka {
    /// Brokers to begin with: `host:port`.
    pub brokers: Vec<String>,
    /// How the gateway proves who it is.
    pub sasl: Sasl,
    /// The name for SASL.
    pub user: String,
    /// The password for SASL.
    pub password: String,
    /// How long a batch waits for more records; 0: for the end of the turn only.
    pub linger_ms: u64,
    /// Bytes of a batch at most, before compression.
    pub batch_bytes: usize,
    /// How batches are compressed.
    pub compression: Compression,
    /// Topics that are not there are made, with the brokers' own defaults.
    pub create_topics: bool,
    /// Groups of other programs whose lag in this gateway's topics operators see: only where Kafka
    /// is the log.
    pub watch_groups: Vec<String>,
}

/// SASL mechanisms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sasl {
    /// None.
    None,
    /// PLAIN (RFC 4616).
    Plain,
    /// SCRAM-SHA-256 (RFC 7677).
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// SCRAM-SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

/// Compression of record batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// None.
    None,
    /// gzip.
    Gzip,
    /// snappy.
    Snappy,
    /// lz4.
    Lz4,
    /// zstd.
    Zstd,
}

/// The journal in front of Kafka.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spool {
    /// A record that Kafka has not acknowledged so long after its first send goes to the spool.
    pub after_ms: u64,
    /// Bytes on disk; then durable events are refused.
    pub quota_bytes: u64,
    /// Age of the oldest record that raises an alarm.
    pub alarm_ms: u64,
    /// Records a second that are forwarded beside live ones.
    pub forward_rate: u64,
}

/// Topics that this node keeps in journals of their own until they are drained, whatever the log is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Their names; each is drained by one consumer.
    pub topics: Vec<String>,
    /// Bytes on disk of each; then what goes there is refused.
    pub quota_bytes: u64,
}

/// The HTTP API for backends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Api {
    /// What a backend must know; empty: the API is off.
    pub key: String,
}

/// An rpc method whose calls are records of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rpc {
    /// The method.
    pub method: String,
    /// Where its calls go.
    pub route: Route,
}

/// How an event becomes a record of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The topic; empty: events are not durable.
    pub topic: String,
    /// What keeps its order.
    pub key: RecordKey,
    /// Which partition a record goes to.
    pub partitioner: Partitioner,
    /// What a partitioner's value means, where its hash shall not decide.
    pub partition_table: Vec<(String, u32)>,
    /// Headers beside the gateway's own.
    pub headers: Vec<RecordHeader>,
    /// When a command is answered.
    pub ack: Ack,
    /// Where a payload has its message id (RFC 6901); empty: duplicates are not looked for.
    pub dedupe_pointer: String,
    /// How long an id is remembered.
    pub dedupe_window_ms: u64,
    /// Ids remembered at most, on each shard.
    pub dedupe_count: usize,
}

impl Default for Route {
    fn default() -> Self {
        Route {
            topic: String::new(),
            key: RecordKey::None,
            partitioner: Partitioner::Hash,
            partition_table: Vec::new(),
            headers: Vec::new(),
            ack: Ack::Spool,
            dedupe_pointer: String::new(),
            dedupe_window_ms: 300_000,
            dedupe_count: 10_000,
        }
    }
}

impl Route {
    /// Itself, if events that take it are durable.
    pub fn durable(&self) -> Option<&Route> {
        (!self.topic.is_empty()).then_some(self)
    }
}

/// Records with the same key are in one partition, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordKey {
    /// No key.
    #[default]
    None,
    /// The channel.
    Channel,
    /// The client's user name.
    User,
    /// A header of the request that opened the connection, or that published.
    Header(String),
    /// A place in the payload (RFC 6901).
    Pointer(String),
}

impl RecordKey {
    /// The value that the configuration writes so.
    pub fn parse(text: &str) -> Option<RecordKey> {
        Some(match text {
            "none" => RecordKey::None,
            "channel" => RecordKey::Channel,
            "user" => RecordKey::User,
            _ if text.starts_with('/') => RecordKey::Pointer(text.to_owned()),
            _ => RecordKey::Header(header_name(text)?),
        })
    }

    /// As the configuration writes it.
    pub fn text(&self) -> String {
        match self {
            RecordKey::None => "none".to_owned(),
            RecordKey::Channel => "channel".to_owned(),
            RecordKey::User => "user".to_owned(),
            RecordKey::Header(name) => format!("header:{name}"),
            RecordKey::Pointer(pointer) => pointer.clone(),
        }
    }
}

/// How a record finds its partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Partitioner {
    /// By its key's hash, as the Java client has it; without a key as [`Partitioner::Sticky`].
    #[default]
    Hash,
    /// Partitions take turns.
    RoundRobin,
    /// One partition for a batch's worth of records, then another.
    Sticky,
    /// By the value of a header, which the table translates or a hash.
    Header(String),
    /// By a value in the payload, which the table translates or a hash.
    Pointer(String),
}

impl Partitioner {
    /// The value that the configuration writes so.
    pub fn parse(text: &str) -> Option<Partitioner> {
        Some(match text {
            "hash" => Partitioner::Hash,
            "round_robin" => Partitioner::RoundRobin,
            "sticky" => Partitioner::Sticky,
            _ if text.starts_with('/') => Partitioner::Pointer(text.to_owned()),
            _ => Partitioner::Header(header_name(text)?),
        })
    }

    /// As the configuration writes it.
    pub fn text(&self) -> String {
        match self {
            Partitioner::Hash => "hash".to_owned(),
            Partitioner::RoundRobin => "round_robin".to_owned(),
            Partitioner::Sticky => "sticky".to_owned(),
            Partitioner::Header(name) => format!("header:{name}"),
            Partitioner::Pointer(pointer) => pointer.clone(),
        }
    }
}

/// A header that a record gets by option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordHeader {
    /// The trace that the event belongs to (W3C Trace Context).
    Traceparent,
    /// `trine-user`: who sent it.
    User,
    /// `trine-channel`: where it was published.
    Channel,
    /// `content-type`: `application/json` or `application/octet-stream`.
    ContentType,
}

/// When a durable command is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// Once the log has it, or the spool in front of it.
    #[default]
    Spool,
    /// Once the log itself has it.
    Log,
    /// At once; nothing is promised.
    None,
}

fn header_name(text: &str) -> Option<String> {
    let name = text.strip_prefix("header:")?;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    (!name.is_empty() && name.bytes().all(token)).then(|| name.to_ascii_lowercase())
}
