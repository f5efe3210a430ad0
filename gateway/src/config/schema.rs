//! The one table of settings: name, kind, allowed values, meaning, and where the value goes.
//!
//! **Runs on: control.** The parser, the errors' hints and `trine config default` all read it, so
//! none can forget a key.

use super::consumer;
use super::{
    Access, Ack, Compression, Config, LogFormat, LogKind, Namespace, Partitioner, Payload,
    RecordHeader, RecordKey, Route, Rpc, Sasl,
};
use crate::limits::{SHARDS_MAX, YEAR_MS};

/// What a key holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number from the first to the second, both allowed.
    Integer(u64, u64),
    /// Any text but an empty one.
    Text,
    /// An address with its port, such as `127.0.0.1:8000`.
    Address,
    /// An address, or empty text for none.
    AddressOrNone,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of origins, such as `https://example.org`.
    Origins,
    /// A list of CPU numbers, each once.
    Cpus,
    /// A namespace's or a topic's name.
    Name,
    /// What [`RecordKey::parse`] takes.
    RecordKey,
    /// What [`Partitioner::parse`] takes.
    Partitioner,
    /// Text, which may be empty.
    AnyText,
    /// A JSON pointer (RFC 6901), or empty text for none.
    Pointer,
    /// A list of `host:port`, each once, one at least.
    Brokers,
    /// A list of these words, each once.
    Choices(&'static [&'static str]),
    /// A table of names with whole numbers below 100,000.
    Numbers,
    /// A list of times of day, such as `02:00`.
    TimesOfDay,
    /// A list of names, each once, one at least.
    Names,
    /// A list of names, each once.
    NamesOrNone,
    /// A channel's template, such as `user:{key}`.
    Template,
    /// A list of addresses with their ports, each once.
    Addresses,
    /// The path of a request, such as `/tickets`.
    Path,
    /// A Host header: a name or an address, with or without a port.
    Host,
    /// Where to send a request, such as `http://127.0.0.1:9093/lag`.
    Url,
}

/// A value that has its kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Integer(u64),
    Text(String),
    Texts(Vec<String>),
    Integers(Vec<usize>),
    Numbers(Vec<(String, u32)>),
}

impl Value {
    pub(super) fn bool(&self) -> bool {
        matches!(self, Value::Bool(true))
    }

    pub(super) fn integer(&self) -> u64 {
        if let Value::Integer(integer) = self { *integer } else { 0 }
    }

    pub(super) fn size(&self) -> usize {
        usize::try_from(self.integer()).unwrap_or(usize::MAX)
    }

    pub(super) fn text(&self) -> &str {
        if let Value::Text(text) = self { text } else { "" }
    }

    pub(super) fn texts(&self) -> &[String] {
        if let Value::Texts(texts) = self { texts } else { &[] }
    }

    fn numbers(&self) -> Vec<(String, u32)> {
        if let Value::Numbers(numbers) = self { numbers.clone() } else { Vec::new() }
    }
}

/// A key of a section that fills a `T`.
pub(super) struct Key<T> {
    pub section: &'static str,
    pub name: &'static str,
    pub kind: Kind,
    /// One sentence for the default file.
    pub doc: &'static str,
    pub set: fn(&mut T, &Value),
    /// The value as TOML; `None` when it has none by default.
    pub get: fn(&T) -> Option<String>,
}

const ACCESS: Kind = Kind::Choice(&["nobody", "subscribers", "clients", "anonymous"]);

macro_rules! keys {
    ($t:ty; $($section:literal $name:literal $kind:expr, $doc:literal, $set:expr, $get:expr;)+) => {
        &[$(Key::<$t> { section: $section, name: $name, kind: $kind, doc: $doc, set: $set, get: $get }),+]
    };
}

pub(super) use keys;

/// Every key outside the namespaces.
pub(super) const KEYS: &[Key<Config>] = keys! { Config;
    "" "runtime_dir" Kind::Text,
        "Folder for the lock and the sockets between the two processes; relative to this file.",
        |c, v| c.runtime_dir = v.text().into(), |c| Some(quoted(&c.runtime_dir.to_string_lossy()));
    "" "data_dir" Kind::Text,
        "Folder for what must outlive the process; relative to this file. One process has it.",
        |c, v| c.data_dir = v.text().into(), |c| Some(quoted(&c.data_dir.to_string_lossy()));
    "" "gateway" Kind::Name, "This gateway's name in the records that it writes; by default the host's.",
        |c, v| c.gateway = v.text().into(), |c| Some(quoted(&c.gateway));
    "" "demo" Kind::Bool, "Serve the demo page at `/`, and a slow service for it at `/demo/slow`.",
        |c, v| c.demo = v.bool(), |c| Some(c.demo.to_string());
    "listen" "client" Kind::Address, "Where clients connect.",
        |c, v| if let Ok(address) = v.text().parse() { c.listen.client = address },
        |c| Some(quoted(&c.listen.client.to_string()));
    "listen" "admin" Kind::Address,
        "Metrics and status for operators, without credentials; by default the next port.",
        |c, v| if let Ok(address) = v.text().parse() { c.listen.admin = address },
        |c| Some(quoted(&c.listen.admin.to_string()));
    "listen" "api" Kind::Address, "Where backends publish, while api.key is set.",
        |c, v| if let Ok(address) = v.text().parse() { c.listen.api = address },
        |c| Some(quoted(&c.listen.api.to_string()));
    "listen" "echo" Kind::AddressOrNone,
        "WebSocket echo at `/echo`, for conformance tests; empty for none.",
        |c, v| c.listen.echo = v.text().parse().ok(), |c| c.listen.echo.map_or_else(
            || Some(quoted("")), |address| Some(quoted(&address.to_string())));
    "shards" "count" Kind::Integer(1, SHARDS_MAX as u64),
        "How many shards; by default one a physical core, less one from five cores up.",
        |c, v| c.shards.count = Some(v.size()), |c| c.shards.count.map(|count| count.to_string());
    "shards" "cpus" Kind::Cpus, "The CPUs that shards are pinned to, in this order; by default all.",
        |c, v| if let Value::Integers(cpus) = v { c.shards.cpus = Some(cpus.clone()) },
        |c| c.shards.cpus.as_ref().map(|cpus| format!("{cpus:?}"));
    "shards" "keep_awake" Kind::Bool,
        "CPUs of busy shards don't halt: shorter tails, less CPU, more power. Only root can ask for it.",
        |c, v| c.shards.keep_awake = v.bool(), |c| Some(c.shards.keep_awake.to_string());
    "client" "anonymous" Kind::Bool, "Clients may connect without a token.",
        |c, v| c.client.anonymous = v.bool(), |c| Some(c.client.anonymous.to_string());
    "client" "ping_interval_ms" Kind::Integer(0, YEAR_MS), "Between two pings to a client; 0: none.",
        |c, v| c.client.ping_interval_ms = v.integer(),
        |c| Some(c.client.ping_interval_ms.to_string());
    "client" "pong_timeout_ms" Kind::Integer(0, YEAR_MS),
        "How long a pong may take, less than the interval; 0: pongs are not awaited.",
        |c, v| c.client.pong_timeout_ms = v.integer(),
        |c| Some(c.client.pong_timeout_ms.to_string());
    "client" "stale_close_delay_ms" Kind::Integer(100, YEAR_MS),
        "How long a client may take to send `connect`.",
        |c, v| c.client.stale_close_delay_ms = v.integer(),
        |c| Some(c.client.stale_close_delay_ms.to_string());
    "client" "channels_limit" Kind::Integer(1, 100_000),
        "Channels that one client may be subscribed to.",
        |c, v| c.client.channels_limit = v.size(), |c| Some(c.client.channels_limit.to_string());
    "client" "in_flight" Kind::Integer(1, 1024),
        "Commands of one client that may wait for an answer; more wait in its socket.",
        |c, v| c.client.in_flight = v.size(), |c| Some(c.client.in_flight.to_string());
    "client" "message_limit_bytes" Kind::Integer(1024, 16 << 20),
        "Longest message from a client; a longer one closes it with 1009.",
        |c, v| c.client.message_limit_bytes = v.size(),
        |c| Some(c.client.message_limit_bytes.to_string());
    "client" "outbox_limit_bytes" Kind::Integer(4096, 1 << 30),
        "Bytes of pushes that may wait for a slow reader; more close it with 3008.",
        |c, v| c.client.outbox_limit_bytes = v.size(),
        |c| Some(c.client.outbox_limit_bytes.to_string());
    "client" "write_timeout_ms" Kind::Integer(100, YEAR_MS),
        "How long a send to a client may take for each 64 KiB; longer closes it with 3009.",
        |c, v| c.client.write_timeout_ms = v.integer(),
        |c| Some(c.client.write_timeout_ms.to_string());
    "client" "head_timeout_ms" Kind::Integer(100, YEAR_MS), "How long a request head may take.",
        |c, v| c.client.head_timeout_ms = v.integer(),
        |c| Some(c.client.head_timeout_ms.to_string());
    "client" "allowed_origins" Kind::Origins,
        "Pages of other hosts that may connect, each exactly as the browser names it.",
        |c, v| if let Value::Texts(origins) = v { c.client.allowed_origins = origins.clone() },
        |c| Some(format!("{:?}", c.client.allowed_origins));
    "broker" "history_limit_bytes" Kind::Integer(1 << 20, 1 << 40),
        "Memory for history and presence of all channels; the oldest publications go first, \
         and clients that their presence has no room for are refused.",
        |c, v| c.broker.history_limit_bytes = v.size(),
        |c| Some(c.broker.history_limit_bytes.to_string());
    "logs" "level" Kind::Choice(&["error", "warn", "info", "debug"]), "The least level written.",
        |c, v| if let Some(level) = word(v) { c.logs.level = level },
        |c| Some(quoted(&name_of(&c.logs.level)));
    "logs" "format" Kind::Choice(&["json", "text"]), "One JSON object a line, or text for people.",
        |c, v| if let Some(format) = word::<LogFormat>(v) { c.logs.format = format },
        |c| Some(quoted(&name_of::<LogFormat>(&c.logs.format)));
    "log" "kind" Kind::Choice(&["embedded", "kafka"]),
        "Where durable events go: a journal in data_dir, or the cluster of [kafka].",
        |c, v| if let Some(kind) = word::<LogKind>(v) { c.log.kind = kind },
        |c| Some(quoted(&name_of(&c.log.kind)));
    "log" "partitions" Kind::Integer(1, 1024),
        "Partitions of a topic of the embedded log, and of a queue; records of one key are in one.",
        |c, v| c.log.partitions = v.integer() as u32, |c| Some(c.log.partitions.to_string());
    "log" "quota_bytes" Kind::Integer(16 << 20, 1 << 50),
        "Disk for the embedded log; the oldest records go first.",
        |c, v| c.log.quota_bytes = v.integer(), |c| Some(c.log.quota_bytes.to_string());
    "log" "retention_ms" Kind::Integer(0, YEAR_MS), "Age at which they may go; 0: never by age.",
        |c, v| c.log.retention_ms = v.integer(), |c| Some(c.log.retention_ms.to_string());
    "log" "timeout_ms" Kind::Integer(10, 600_000),
        "How long a durable command may take; then it gets error 100 and may be in the log.",
        |c, v| c.log.timeout_ms = v.integer(), |c| Some(c.log.timeout_ms.to_string());
    "log" "gather_us" Kind::Integer(0, 10_000),
        "While records wait for the log and events come fast, a shard rests so long to serve several at once; 0: never.",
        |c, v| c.log.gather_us = v.integer(), |c| Some(c.log.gather_us.to_string());
    "kafka" "brokers" Kind::Brokers, "Brokers to begin with; the others are found through them.",
        |c, v| c.kafka.brokers = v.texts().to_vec(), |c| Some(list(&c.kafka.brokers));
    "kafka" "sasl" Kind::Choice(&["none", "plain", "scram-sha-256", "scram-sha-512"]),
        "How the gateway proves who it is.",
        |c, v| if let Some(sasl) = word::<Sasl>(v) { c.kafka.sasl = sasl },
        |c| Some(quoted(&name_of(&c.kafka.sasl)));
    "kafka" "user" Kind::AnyText, "The name for SASL.",
        |c, v| c.kafka.user = v.text().into(), |c| Some(quoted(&c.kafka.user));
    "kafka" "password" Kind::AnyText, "The password for SASL.",
        |c, v| c.kafka.password = v.text().into(), |c| Some(quoted(&c.kafka.password));
    "kafka" "linger_ms" Kind::Integer(0, 10_000),
        "How long a batch waits for more records; 0: as long as one turn of the shard.",
        |c, v| c.kafka.linger_ms = v.integer(), |c| Some(c.kafka.linger_ms.to_string());
    "kafka" "batch_bytes" Kind::Integer(1024, 1 << 20), "Bytes of a batch at most, uncompressed.",
        |c, v| c.kafka.batch_bytes = v.size(), |c| Some(c.kafka.batch_bytes.to_string());
    "kafka" "compression" Kind::Choice(&["none", "gzip", "snappy", "lz4", "zstd"]),
        "How batches are compressed.",
        |c, v| if let Some(compression) = word::<Compression>(v) { c.kafka.compression = compression },
        |c| Some(quoted(&name_of(&c.kafka.compression)));
    "kafka" "create_topics" Kind::Bool,
        "Make topics that are not there, with the brokers' defaults for partitions and replicas.",
        |c, v| c.kafka.create_topics = v.bool(), |c| Some(c.kafka.create_topics.to_string());
    "kafka" "watch_groups" Kind::NamesOrNone,
        "Groups of other programs whose lag in the gateway's topics is shown beside its own; needs `log.kind = \"kafka\"`.",
        |c, v| if let Value::Texts(groups) = v { c.kafka.watch_groups = groups.clone() },
        |c| (!c.kafka.watch_groups.is_empty()).then(|| format!("{:?}", c.kafka.watch_groups));
    "spool" "after_ms" Kind::Integer(10, 60_000),
        "A record that Kafka has not acknowledged so long after its first send goes to disk.",
        |c, v| c.spool.after_ms = v.integer(), |c| Some(c.spool.after_ms.to_string());
    "spool" "quota_bytes" Kind::Integer(16 << 20, 1 << 50),
        "Disk for the spool; once it is full durable events are refused.",
        |c, v| c.spool.quota_bytes = v.integer(), |c| Some(c.spool.quota_bytes.to_string());
    "spool" "alarm_ms" Kind::Integer(1000, YEAR_MS), "Age of its oldest record that raises an alarm.",
        |c, v| c.spool.alarm_ms = v.integer(), |c| Some(c.spool.alarm_ms.to_string());
    "spool" "forward_rate" Kind::Integer(100, 10_000_000),
        "Spooled records a second that each shard sends to Kafka beside live ones.",
        |c, v| c.spool.forward_rate = v.integer(), |c| Some(c.spool.forward_rate.to_string());
    "queue" "topics" Kind::NamesOrNone,
        "Topics that wait on this node's disk, whatever the log is, for the one consumer that drains each.",
        |c, v| if let Value::Texts(topics) = v { c.queue.topics = topics.clone() },
        |c| (!c.queue.topics.is_empty()).then(|| format!("{:?}", c.queue.topics));
    "queue" "quota_bytes" Kind::Integer(16 << 20, 1 << 50),
        "Disk for each; once it is full what goes there is refused.",
        |c, v| c.queue.quota_bytes = v.integer(), |c| Some(c.queue.quota_bytes.to_string());
    "api" "key" Kind::AnyText, "What backends send as `X-API-Key`; empty: there is no API.",
        |c, v| c.api.key = v.text().into(), |c| Some(quoted(&c.api.key));
};

/// The key of an `[[rpc]]` beside those of its route.
pub(super) const RPC_KEYS: &[Key<Rpc>] = keys! { Rpc;
    "" "method" Kind::Text, "The rpc method.",
        |r, v| r.method = v.text().into(), |r| Some(quoted(&r.method));
};

/// How events become records: keys of `[channel]`, of a `[[namespace]]` and of an `[[rpc]]`.
pub(super) const ROUTE_KEYS: &[Key<Route>] = keys! { Route;
    "" "topic" Kind::Name, "Events become records of this topic, and are acknowledged once durable.",
        |r, v| r.topic = v.text().into(),
        |r| r.durable().map(|route| quoted(&route.topic));
    "" "key" Kind::RecordKey,
        "What keeps its order: `none`, `channel`, `user`, `header:NAME`, or a JSON pointer such as `/ticket/id`.",
        |r, v| if let Some(key) = RecordKey::parse(v.text()) { r.key = key },
        |r| Some(quoted(&r.key.text()));
    "" "partitioner" Kind::Partitioner,
        "`hash` (of the key), `round_robin`, `sticky`, `header:NAME` or a JSON pointer.",
        |r, v| if let Some(partitioner) = Partitioner::parse(v.text()) { r.partitioner = partitioner },
        |r| Some(quoted(&r.partitioner.text()));
    "" "partition_table" Kind::Numbers,
        "Partitions of the values that the partitioner finds; a value that is not in it goes by its hash.",
        |r, v| r.partition_table = v.numbers(), |_| Some("{}".to_owned());
    "" "headers" Kind::Choices(&["traceparent", "user", "channel", "content-type"]),
        "Headers of the record beside trine-gateway, trine-epoch and trine-sequence.",
        |r, v| r.headers = v.texts().iter().filter_map(|text| {
            word::<RecordHeader>(&Value::Text(text.clone()))
        }).collect(),
        |r| Some(list(&r.headers.iter().map(name_of).collect::<Vec<_>>()));
    "" "ack" Kind::Choice(&["spool", "log", "none"]),
        "Answer once the log or the spool has it, only once the log has it, or at once.",
        |r, v| if let Some(ack) = word::<Ack>(v) { r.ack = ack },
        |r| Some(quoted(&name_of(&r.ack)));
    "" "dedupe_pointer" Kind::Pointer,
        "Where a payload has its message id; a second one of its key and channel gets the first one's answer.",
        |r, v| r.dedupe_pointer = v.text().into(), |r| Some(quoted(&r.dedupe_pointer));
    "" "dedupe_window_ms" Kind::Integer(1, YEAR_MS), "How long an id is remembered.",
        |r, v| r.dedupe_window_ms = v.integer(), |r| Some(r.dedupe_window_ms.to_string());
    "" "dedupe_count" Kind::Integer(1, 10_000_000), "Ids remembered at most, on each shard.",
        |r, v| r.dedupe_count = v.size(), |r| Some(r.dedupe_count.to_string());
};

/// Every key of `[channel]` and of a `[[namespace]]`.
pub(super) const NAMESPACE_KEYS: &[Key<Namespace>] = keys! { Namespace;
    "" "name" Kind::Name, "Channels `NAME:…` are in this namespace.",
        |n, v| n.name = v.text().into(), |n| Some(quoted(&n.name));
    "" "subscribe" ACCESS, "Who may subscribe; `clients` are those with a user name.",
        |n, v| if let Some(access) = word(v) { n.subscribe = access },
        |n| Some(quoted(&name_of(&n.subscribe)));
    "" "publish" ACCESS, "Who may publish.",
        |n, v| if let Some(access) = word(v) { n.publish = access },
        |n| Some(quoted(&name_of(&n.publish)));
    "" "presence_access" ACCESS, "Who may read presence.",
        |n, v| if let Some(access) = word(v) { n.presence_access = access },
        |n| Some(quoted(&name_of(&n.presence_access)));
    "" "history_access" ACCESS, "Who may read history.",
        |n, v| if let Some(access) = word::<Access>(v) { n.history_access = access },
        |n| Some(quoted(&name_of(&n.history_access)));
    "" "history_size" Kind::Integer(0, 1_000_000), "Publications kept; 0: none, and no offsets.",
        |n, v| n.history_size = v.size(), |n| Some(n.history_size.to_string());
    "" "history_ttl_ms" Kind::Integer(0, YEAR_MS), "How long they are kept after the newest.",
        |n, v| n.history_ttl_ms = v.integer(), |n| Some(n.history_ttl_ms.to_string());
    "" "history_meta_ttl_ms" Kind::Integer(1000, YEAR_MS),
        "How long epoch and offset outlive the publications.",
        |n, v| n.history_meta_ttl_ms = v.integer(), |n| Some(n.history_meta_ttl_ms.to_string());
    "" "presence" Kind::Bool, "Keep who is subscribed.",
        |n, v| n.presence = v.bool(), |n| Some(n.presence.to_string());
    "" "join_leave" Kind::Bool, "Tell subscribers who joins and leaves.",
        |n, v| n.join_leave = v.bool(), |n| Some(n.join_leave.to_string());
    "" "force_push_join_leave" Kind::Bool, "… also those that did not ask for it.",
        |n, v| n.force_push_join_leave = v.bool(), |n| Some(n.force_push_join_leave.to_string());
    "" "recovery" Kind::Bool, "Clients may recover what they missed; needs history.",
        |n, v| n.recovery = v.bool(), |n| Some(n.recovery.to_string());
    "" "force_recovery" Kind::Bool, "… whether they ask for it or not.",
        |n, v| n.force_recovery = v.bool(), |n| Some(n.force_recovery.to_string());
    "" "positioning" Kind::Bool, "Clients may ask for the stream's position; needs history.",
        |n, v| n.positioning = v.bool(), |n| Some(n.positioning.to_string());
    "" "force_positioning" Kind::Bool, "… and get it unasked.",
        |n, v| n.force_positioning = v.bool(), |n| Some(n.force_positioning.to_string());
    "" "payload" Kind::Choice(&["json", "binary"]),
        "`json` is checked; `binary` is any bytes, for Protobuf clients.",
        |n, v| if let Some(payload) = word::<Payload>(v) { n.payload = payload },
        |n| Some(quoted(&name_of(&n.payload)));
    "" "message_limit_bytes" Kind::Integer(1, 16 << 20),
        "Longest payload, tags included, at most client.message_limit_bytes.",
        |n, v| n.message_limit_bytes = v.size(), |n| Some(n.message_limit_bytes.to_string());
};

/// A file with every key at its default, commented out, and what it means.
pub fn default_file() -> String {
    let config = Config::with_file_defaults();
    let mut text = String::from(
        "# Trine's configuration. Every key is shown with its default; uncomment what you change.\n\
         # `trine check -c FILE` checks it, `trine run -c FILE` runs it.\n",
    );
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            section = key.section;
            text.push_str(&format!("\n[{section}]\n"));
        }
        write_key(&mut text, key, &config);
    }
    text.push_str(
        "\n# Calls of this rpc method become records of a topic; repeat it for others. The reply \
         comes once\n# the record is durable, and says where it is.\n# [[rpc]]\n",
    );
    let topic = "ticket.create".to_owned();
    let rpc = Rpc { method: topic.clone(), route: Route { topic, ..Route::default() } };
    for key in RPC_KEYS {
        write_key(&mut text, key, &rpc);
    }
    for key in ROUTE_KEYS {
        write_key(&mut text, key, &rpc.route);
    }
    consumer::write_keys(&mut text);
    text.push_str(
        "\n# Channels without a prefix. In a file nobody may do anything until it says so.\n\
         [channel]\n",
    );
    let closed = Namespace::closed(String::new());
    for key in NAMESPACE_KEYS.iter().filter(|key| key.name != "name") {
        write_key(&mut text, key, &closed);
    }
    for key in ROUTE_KEYS {
        write_key(&mut text, key, &closed.route);
    }
    text.push_str(
        "\n# Channels `user:…`; repeat it for other names. It has the keys of [channel] too.\n\
         # [[namespace]]\n# name = \"user\"\n",
    );
    text
}

pub(super) fn write_key<T>(text: &mut String, key: &Key<T>, from: &T) {
    let allowed = match key.kind {
        Kind::Integer(min, max) => format!(" ({min} to {max})"),
        Kind::Choice(words) => format!(" ({})", words.join(", ")),
        _ => String::new(),
    };
    text.push_str(&format!("# {}{allowed}\n", key.doc));
    match (key.get)(from) {
        Some(value) => text.push_str(&format!("# {} = {value}\n", key.name)),
        None => text.push_str(&format!("# {} =\n", key.name)),
    }
}

pub(super) fn list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", texts.join(", "))
}

/// A time of day, given in minutes after midnight.
pub(super) fn time_of_day(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The enum's value that serde knows by this word.
pub(super) fn word<T: serde::de::DeserializeOwned>(value: &Value) -> Option<T> {
    serde_json::from_value(serde_json::Value::String(value.text().to_owned())).ok()
}

pub(super) fn name_of<T: serde::Serialize>(value: &T) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}
