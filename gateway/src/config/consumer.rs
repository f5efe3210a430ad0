//! `[[consumer]]` and `[[upstream]]`: who reads which topics, and where the records go.
//!
//! **Runs on: any**; read by control, obeyed by the shards' `deliver`. Invariants: a consumer has a
//! channel, an upstream or a topic to go to; an upstream that it names is there; no consumer
//! publishes into a namespace whose publications become records of a topic that it reads, nor do
//! records that it drains into a topic come back to it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::DeValue;
use trine_core::limits;
use trine_core::upstream::Options;

use super::Config;
use super::file::Reader;
use super::schema::{Key, Kind, Value, keys, list, name_of, quoted, time_of_day, word, write_key};
use crate::deliver::Template;
use crate::limits::{KAFKA_SESSION_MS, YEAR_MS};

/// A consumer group's member, or several, on each node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// Its name in metrics and messages.
    pub name: String,
    /// The consumer group.
    pub group: String,
    /// The topics it reads.
    pub topics: Vec<String>,
    /// Where a group without a committed offset starts.
    pub start: Start,
    /// Members of the group on this node.
    pub members: u32,
    /// How the group shares the partitions out.
    pub assignor: Assignor,
    /// A member that comes back within its session keeps its partitions (KIP-345).
    pub static_membership: bool,
    /// How long the group waits for a sign of life of a member before others get its partitions; a
    /// group that the broker leads (KIP-848) is told so by the broker.
    pub session_ms: u32,
    /// Records of one partition that may wait in memory, and their bytes.
    pub prefetch_records: usize,
    /// Their bytes; the last batch fetched may exceed it.
    pub prefetch_bytes: usize,
    /// Deliveries of one partition under way at once, to channels and to the upstream each.
    pub concurrency: usize,
    /// Least time between two commits of a partition.
    pub commit_interval_ms: u64,
    /// Where records go.
    pub to: Target,
    /// When records go there, and how fast.
    pub schedule: Schedule,
    /// How many records one request to the upstream carries.
    pub batch: Batch,
    /// How a delivery is repeated.
    pub retry: Retry,
    /// Records that can't be delivered go to `<topic>.dlq`; else they are skipped and counted.
    pub dead_letter: bool,
    /// What is done with a record without a value.
    pub null_values: NullValues,
    /// Older records are skipped and counted; 0: none are.
    pub ttl_ms: u64,
    /// When to say that it falls behind.
    pub lag: Lag,
}

/// Where a group without a committed offset starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With what comes from now on.
    Latest,
    /// With the oldest record there is.
    Earliest,
}

/// How a group shares its partitions out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Assignor {
    /// Ranges of each topic.
    Range,
    /// In turns.
    Roundrobin,
    /// As before as far as possible.
    Sticky,
    /// … and without stopping those that stay.
    CooperativeSticky,
    /// As the broker decides (KIP-848), where it offers that; else as `cooperative-sticky`.
    Broker,
}

/// What is done with a record without a value (a tombstone).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NullValues {
    /// Nothing; it is counted.
    Skip,
    /// It is delivered: `null` to a channel of JSON, an empty payload or body elsewhere.
    Deliver,
    /// It goes to the dead letters.
    DeadLetter,
}

/// Where records go; with several, one is delivered when all have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// A channel.
    pub channel: Option<Template>,
    /// An upstream, by name.
    pub upstream: Option<String>,
    /// Another topic of the log, which gets each record as it is.
    pub topic: Option<String>,
    /// The path of the requests; empty: the upstream's.
    pub path: String,
    /// The events' source, a URI reference (CloudEvents 1.0).
    pub source: String,
}

/// When a queue is drained: its records wait in the log until so many wait in a partition, or for
/// the first of its times after they came. Without a number and times nothing waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Times at the multiples of this since 1970; 0: none.
    pub every_ms: u64,
    /// Times of day, in minutes after midnight UTC.
    pub at: Vec<u16>,
    /// Records of a partition that don't wait any longer; 0: their number means nothing.
    pub records: u64,
    /// Records of a partition that are begun in a second at most; 0: any number.
    pub rate_per_s: u64,
}

/// Records that share a request (CloudEvents batched content mode).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// At most so many; 1: each record has a request of its own.
    pub records: usize,
    /// At most so many bytes of values, unless it is a single record.
    pub limit_bytes: usize,
    /// How long the first waits for others.
    pub linger_ms: u64,
}

/// How a delivery is repeated before it is given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Tries in all; 0: without end.
    pub tries: u32,
    /// Age of the first try after which there is no other; 0: without end.
    pub age_ms: u64,
    /// The pause before the second try; it doubles with each.
    pub min_ms: u64,
    /// The longest pause.
    pub max_ms: u64,
}

/// When a consumer falls behind; in records of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    /// A warning; 0: none.
    pub warn: u64,
    /// An alarm; 0: none.
    pub critical: u64,
    /// Over how long a growing lag is looked at before more members are asked for; 0: never.
    pub window_ms: u64,
    /// Gets a POST for each change; empty: none.
    pub hook: String,
}

/// A legacy backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// Its endpoints.
    pub endpoints: Vec<SocketAddr>,
    /// The Host of every request; empty: the first endpoint's address.
    pub host: String,
    /// The path of requests that name none.
    pub path: String,
    /// Connections of one shard, to all its endpoints.
    pub max_connections: usize,
    /// Requests of one shard that may wait for a connection.
    pub max_waiting: usize,
    /// How long a request may wait for a connection.
    pub wait_timeout_ms: u64,
    /// How long a connection may take to open.
    pub connect_timeout_ms: u64,
    /// How long a connection in use may make no progress.
    pub timeout_ms: u64,
    /// How long a whole request may take, with its waits.
    pub call_timeout_ms: u64,
    /// How long an unused connection is kept.
    pub idle_timeout_ms: u64,
}

impl Default for Consumer {
    fn default() -> Self {
        Consumer {
            name: String::new(),
            group: String::new(),
            topics: Vec::new(),
            start: Start::Latest,
            members: 1,
            assignor: Assignor::CooperativeSticky,
            static_membership: false,
            session_ms: KAFKA_SESSION_MS,
            prefetch_records: 1_000,
            prefetch_bytes: 4 << 20,
            concurrency: 16,
            commit_interval_ms: 500,
            to: Target { source: "/trine".to_owned(), ..Target::default() },
            schedule: Schedule::default(),
            batch: Batch { records: 1, limit_bytes: 1 << 20, linger_ms: 0 },
            retry: Retry { tries: 10, age_ms: 0, min_ms: 200, max_ms: 30_000 },
            dead_letter: true,
            null_values: NullValues::Skip,
            ttl_ms: 0,
            lag: Lag { warn: 10_000, critical: 100_000, window_ms: 60_000, hook: String::new() },
        }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Upstream {
            name: String::new(),
            endpoints: Vec::new(),
            host: String::new(),
            path: "/".to_owned(),
            max_connections: limits::UPSTREAM_CONNECTIONS,
            max_waiting: limits::UPSTREAM_WAITING,
            wait_timeout_ms: limits::UPSTREAM_WAIT_MS,
            connect_timeout_ms: limits::UPSTREAM_CONNECT_MS,
            timeout_ms: limits::UPSTREAM_INACTIVITY_MS,
            call_timeout_ms: limits::UPSTREAM_CALL_MS,
            idle_timeout_ms: limits::UPSTREAM_IDLE_MS,
        }
    }
}

impl Upstream {
    /// What the shard's pool is made of.
    pub fn options(&self) -> Options {
        let first = self.endpoints.first().map(SocketAddr::to_string);
        let host = if self.host.is_empty() { first.unwrap_or_default() } else { self.host.clone() };
        Options {
            connections: self.max_connections,
            waiting: self.max_waiting,
            wait_ms: self.wait_timeout_ms,
            connect_ms: self.connect_timeout_ms,
            inactivity_ms: self.timeout_ms,
            call_ms: self.call_timeout_ms,
            idle_ms: self.idle_timeout_ms,
            // A connection that is held for longer than a call may take was forgotten.
            lease_ms: self.call_timeout_ms + self.call_timeout_ms / 2,
            ..Options::new(host, self.endpoints.clone())
        }
    }
}

impl Schedule {
    /// Whether anything waits for a number or a time.
    pub fn holds(&self) -> bool {
        self.records > 0 || self.has_times()
    }

    pub(super) fn has_times(&self) -> bool {
        self.every_ms > 0 || !self.at.is_empty()
    }
}

impl Consumer {
    /// Whether records that it drains into a topic come back to it, through consumers that drain
    /// that topic.
    pub(super) fn drains_into_itself(&self, all: &[Consumer]) -> bool {
        let mut reached: Vec<&String> = self.to.topic.iter().collect();
        let mut next = 0;
        while let Some(&topic) = reached.get(next) {
            next += 1;
            if self.topics.contains(topic) {
                return true;
            }
            let readers = all.iter().filter(|reader| reader.topics.contains(topic));
            for into in readers.filter_map(|reader| reader.to.topic.as_ref()) {
                if !reached.contains(&into) {
                    reached.push(into);
                }
            }
        }
        false
    }

    /// The first pair of namespace and topic, of those `written` by publishes, that this consumer
    /// would read from and publish into.
    pub fn feeds_itself<'a>(
        &self,
        mut written: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Option<(&'a str, &'a str)> {
        let into = self.to.channel.as_ref()?.namespace();
        written.find(|(namespace, topic)| {
            into.is_none_or(|into| into == *namespace) && self.topics.iter().any(|t| t == topic)
        })
    }
}

impl Reader {
    /// Reads a `[[consumer]]`.
    pub(super) fn consumer(&mut self, entry: &Spanned<DeValue<'_>>, config: &mut Config) {
        let DeValue::Table(table) = entry.get_ref() else {
            return self.problem(entry.span(), "a consumer is a table", "write [[consumer]]");
        };
        let mut consumer = Consumer::default();
        let place = format!("consumer[{}]", config.consumers.len());
        let tables: Vec<&str> = TABLES.iter().map(|(name, _)| *name).collect();
        self.section(
            &place,
            table,
            CONSUMER,
            &mut consumer,
            &tables,
            |reader, consumer, name, value| {
                let Some((_, keys)) = TABLES.iter().find(|(known, _)| *known == name) else {
                    return false;
                };
                match value.get_ref() {
                    DeValue::Table(table) => {
                        let place = format!("{place}.{name}");
                        reader.section(&place, table, keys, consumer, &[], |_, _, _, _| false);
                    }
                    _ => {
                        let label = format!("write [consumer.{name}], or {name} = {{ … }}");
                        reader.problem(value.span(), format!("`{name}` is a section"), label);
                    }
                }
                true
            },
        );
        for name in ["name", "topics"] {
            if self.span(&format!("{place}.{name}")).is_none() {
                let title = format!("this consumer has no {name}");
                self.problem(entry.span(), title, format!("add {name} = …"));
            }
        }
        let to = |name| format!("{place}.to.{name}");
        if ["channel", "upstream", "topic"].iter().all(|name| self.span(&to(name)).is_none()) {
            let label = "add to.channel, to.upstream or to.topic, or several";
            self.problem(entry.span(), "this consumer has nowhere to go", label);
        }
        if consumer.schedule.holds() && self.span(&format!("{place}.lag.window_ms")).is_none() {
            // Its lag grows by design between two drains.
            consumer.lag.window_ms = 0;
        }
        if consumer.group.is_empty() {
            consumer.group = consumer.name.clone();
        }
        if let Some(span) = self.span(&format!("{place}.name"))
            && config.consumers.iter().any(|known| known.name == consumer.name)
        {
            let title = format!("consumer `{}` is there already", consumer.name);
            self.problem(span, title, "names are used once");
        }
        config.consumers.push(consumer);
    }

    /// Reads an `[[upstream]]`.
    pub(super) fn upstream(&mut self, entry: &Spanned<DeValue<'_>>, config: &mut Config) {
        let DeValue::Table(table) = entry.get_ref() else {
            return self.problem(entry.span(), "an upstream is a table", "write [[upstream]]");
        };
        let mut upstream = Upstream::default();
        let place = format!("upstream[{}]", config.upstreams.len());
        self.section(&place, table, UPSTREAM_KEYS, &mut upstream, &[], |_, _, _, _| false);
        for name in ["name", "endpoints"] {
            if self.span(&format!("{place}.{name}")).is_none() {
                let title = format!("this upstream has no {name}");
                self.problem(entry.span(), title, format!("add {name} = …"));
            }
        }
        if let Some(span) = self.span(&format!("{place}.name"))
            && config.upstreams.iter().any(|known| known.name == upstream.name)
        {
            let title = format!("upstream `{}` is there already", upstream.name);
            self.problem(span, title, "names are used once");
        }
        config.upstreams.push(upstream);
    }
}

/// Adds the consumer's and the upstream's keys to the default file, commented out.
pub(super) fn write_keys(text: &mut String) {
    text.push_str(
        "\n# Records of topics go to clients and backends; repeat it for others.\n# [[consumer]]\n",
    );
    let consumer = Consumer {
        name: "notify".to_owned(),
        group: "notify".to_owned(),
        topics: vec!["ticket.create".to_owned()],
        to: Target { channel: Template::parse("user:{key}").ok(), ..Consumer::default().to },
        ..Consumer::default()
    };
    for key in CONSUMER {
        write_key(text, key, &consumer);
    }
    for (name, keys) in TABLES {
        text.push_str(&format!("# [consumer.{name}]\n"));
        for key in *keys {
            write_key(text, key, &consumer);
        }
    }
    text.push_str(
        "\n# A queue: records wait in the log for the night, or until 1,000 wait in a partition, and \
         reach\n# the backend in batches of 50, at most 200 of a partition a second.\n\
         # [[consumer]]\n# name = \"night\"\n# topics = [\"report.create\"]\n\
         # to.upstream = \"desk\"\n# batch = { records = 50, linger_ms = 100 }\n\
         # schedule = { at = [\"02:00\"], records = 1000, rate_per_s = 200 }\n\
         # With Kafka, queue.topics names \"report.create\", so that this node keeps it.\n",
    );
    text.push_str("\n# A backend that consumers call; repeat it for others.\n# [[upstream]]\n");
    let upstream = Upstream {
        name: "desk".to_owned(),
        endpoints: vec![([127, 0, 0, 1], 8080).into()],
        ..Upstream::default()
    };
    for key in UPSTREAM_KEYS {
        write_key(text, key, &upstream);
    }
}

/// The sections of a `[[consumer]]`.
const TABLES: &[(&str, &[Key<Consumer>])] = &[
    ("prefetch", PREFETCH),
    ("to", TO),
    ("schedule", SCHEDULE),
    ("batch", BATCH),
    ("retry", RETRY),
    ("lag", LAG),
];

/// The keys of a `[[consumer]]` itself.
const CONSUMER: &[Key<Consumer>] = keys! { Consumer;
    "" "name" Kind::Name, "The consumer's name, in metrics and messages.",
        |c, v| c.name = v.text().into(), |c| Some(quoted(&c.name));
    "" "group" Kind::Name, "The consumer group; by default the consumer's name.",
        |c, v| c.group = v.text().into(), |c| Some(quoted(&c.group));
    "" "topics" Kind::Names, "The topics it reads.",
        |c, v| if let Value::Texts(topics) = v { c.topics = topics.clone() },
        |c| Some(format!("{:?}", c.topics));
    "" "start" Kind::Choice(&["latest", "earliest"]),
        "Where a new group starts; partitions that appear later start at their earliest record.",
        |c, v| if let Some(start) = word(v) { c.start = start },
        |c| Some(quoted(&name_of(&c.start)));
    "" "members" Kind::Integer(1, 256), "Members of the group on this node, one a shard at most (Kafka).",
        |c, v| c.members = v.integer() as u32, |c| Some(c.members.to_string());
    "" "assignor" Kind::Choice(&["range", "roundrobin", "sticky", "cooperative-sticky", "broker"]),
        "How the group shares partitions out; its members agree on one. `broker`: as it decides.",
        |c, v| if let Some(assignor) = word(v) { c.assignor = assignor },
        |c| Some(quoted(&name_of(&c.assignor)));
    "" "static_membership" Kind::Bool,
        "A member that comes back within its session keeps its partitions; gateways need own names.",
        |c, v| c.static_membership = v.bool(), |c| Some(c.static_membership.to_string());
    "" "session_ms" Kind::Integer(1_000, 1_800_000),
        "Silence of a member after which others get its partitions; the brokers bound or set it.",
        |c, v| c.session_ms = v.integer() as u32, |c| Some(c.session_ms.to_string());
    "" "concurrency" Kind::Integer(1, 1024),
        "Deliveries of one partition under way at once; records of one key never are.",
        |c, v| c.concurrency = v.size(), |c| Some(c.concurrency.to_string());
    "" "commit_interval_ms" Kind::Integer(1, 600_000), "Least time between two commits of a partition.",
        |c, v| c.commit_interval_ms = v.integer(), |c| Some(c.commit_interval_ms.to_string());
    "" "dead_letter" Kind::Bool,
        "Records that can't be delivered go to `<topic>.dlq`; else they are skipped and counted.",
        |c, v| c.dead_letter = v.bool(), |c| Some(c.dead_letter.to_string());
    "" "null_values" Kind::Choice(&["skip", "deliver", "dead-letter"]),
        "What is done with records without a value.",
        |c, v| if let Some(null_values) = word(v) { c.null_values = null_values },
        |c| Some(quoted(&name_of(&c.null_values)));
    "" "ttl_ms" Kind::Integer(0, YEAR_MS), "Older records are skipped and counted; 0: none are.",
        |c, v| c.ttl_ms = v.integer(), |c| Some(c.ttl_ms.to_string());
};

const PREFETCH: &[Key<Consumer>] = keys! { Consumer;
    "" "records" Kind::Integer(1, 100_000), "Undelivered records of one partition in memory.",
        |c, v| c.prefetch_records = v.size(), |c| Some(c.prefetch_records.to_string());
    "" "limit_bytes" Kind::Integer(1024, 1 << 30), "Their bytes; the last fetch may exceed it.",
        |c, v| c.prefetch_bytes = v.size(), |c| Some(c.prefetch_bytes.to_string());
};

const TO: &[Key<Consumer>] = keys! { Consumer;
    "" "channel" Kind::Template,
        "The channel: text with {key}, {topic}, {header.NAME} or {value./json/pointer}.",
        |c, v| c.to.channel = Template::parse(v.text()).ok(),
        |c| c.to.channel.as_ref().map(|channel| quoted(channel.as_str()));
    "" "upstream" Kind::Name, "The upstream; with a channel too, both must have the record.",
        |c, v| c.to.upstream = Some(v.text().into()),
        |c| c.to.upstream.as_deref().map(quoted);
    "" "topic" Kind::Name, "Another topic, which gets each record as it is, with its key.",
        |c, v| c.to.topic = Some(v.text().into()),
        |c| c.to.topic.as_deref().map(quoted);
    "" "path" Kind::Path, "The path of the requests; by default the upstream's.",
        |c, v| c.to.path = v.text().into(),
        |c| (!c.to.path.is_empty()).then(|| quoted(&c.to.path));
    "" "source" Kind::Text, "The events' source, a URI reference.",
        |c, v| c.to.source = v.text().into(), |c| Some(quoted(&c.to.source));
};

const SCHEDULE: &[Key<Consumer>] = keys! { Consumer;
    "" "every_ms" Kind::Integer(0, YEAR_MS),
        "Records wait for the next multiple of this since 1970 (3600000: the full hour); 0: none.",
        |c, v| c.schedule.every_ms = v.integer(), |c| Some(c.schedule.every_ms.to_string());
    "" "at" Kind::TimesOfDay, "… or for the next of these times of day, in UTC.",
        |c, v| if let Value::Integers(minutes) = v {
            c.schedule.at = minutes.iter().map(|&minute| minute as u16).collect();
        },
        |c| Some(list(&c.schedule.at.iter().map(|&minute| time_of_day(minute)).collect::<Vec<_>>()));
    "" "records" Kind::Integer(0, u64::MAX >> 1),
        "… or until so many wait in their partition; needs one of the others. 0: none.",
        |c, v| c.schedule.records = v.integer(), |c| Some(c.schedule.records.to_string());
    "" "rate_per_s" Kind::Integer(0, 1_000_000),
        "Records of a partition that are begun in a second at most; 0: any number.",
        |c, v| c.schedule.rate_per_s = v.integer(), |c| Some(c.schedule.rate_per_s.to_string());
};

const BATCH: &[Key<Consumer>] = keys! { Consumer;
    "" "records" Kind::Integer(1, 10_000), "Records that share a request; 1: none do.",
        |c, v| c.batch.records = v.size(), |c| Some(c.batch.records.to_string());
    "" "limit_bytes" Kind::Integer(1024, 64 << 20), "Bytes of their values together.",
        |c, v| c.batch.limit_bytes = v.size(), |c| Some(c.batch.limit_bytes.to_string());
    "" "linger_ms" Kind::Integer(0, 60_000), "How long the first waits for others.",
        |c, v| c.batch.linger_ms = v.integer(), |c| Some(c.batch.linger_ms.to_string());
};

const RETRY: &[Key<Consumer>] = keys! { Consumer;
    "" "tries" Kind::Integer(0, 1_000_000), "Tries before a record is given up; 0: without end.",
        |c, v| c.retry.tries = v.integer() as u32, |c| Some(c.retry.tries.to_string());
    "" "age_ms" Kind::Integer(0, YEAR_MS), "How long after its first try it is; 0: without end.",
        |c, v| c.retry.age_ms = v.integer(), |c| Some(c.retry.age_ms.to_string());
    "" "min_ms" Kind::Integer(1, 600_000), "The first pause; it doubles with each try.",
        |c, v| c.retry.min_ms = v.integer(), |c| Some(c.retry.min_ms.to_string());
    "" "max_ms" Kind::Integer(1, 24 * 3_600_000), "The longest pause.",
        |c, v| c.retry.max_ms = v.integer(), |c| Some(c.retry.max_ms.to_string());
};

const LAG: &[Key<Consumer>] = keys! { Consumer;
    "" "warn" Kind::Integer(0, u64::MAX >> 1), "Records behind that warn; 0: never.",
        |c, v| c.lag.warn = v.integer(), |c| Some(c.lag.warn.to_string());
    "" "critical" Kind::Integer(0, u64::MAX >> 1), "Records behind that alarm; 0: never.",
        |c, v| c.lag.critical = v.integer(), |c| Some(c.lag.critical.to_string());
    "" "window_ms" Kind::Integer(0, YEAR_MS),
        "How long the lag must grow before more members are asked for; 0: never.",
        |c, v| c.lag.window_ms = v.integer(), |c| Some(c.lag.window_ms.to_string());
    "" "hook" Kind::Url, "Gets a POST for each change, such as http://127.0.0.1:9093/lag.",
        |c, v| c.lag.hook = v.text().into(),
        |c| (!c.lag.hook.is_empty()).then(|| quoted(&c.lag.hook));
};

/// Every key of an `[[upstream]]`.
const UPSTREAM_KEYS: &[Key<Upstream>] = keys! { Upstream;
    "" "name" Kind::Name, "The upstream's name.",
        |u, v| u.name = v.text().into(), |u| Some(quoted(&u.name));
    "" "endpoints" Kind::Addresses, "Its addresses, used in turns.",
        |u, v| if let Value::Texts(texts) = v {
            u.endpoints = texts.iter().filter_map(|text| text.parse().ok()).collect();
        },
        |u| Some(format!("{:?}", u.endpoints.iter().map(SocketAddr::to_string).collect::<Vec<_>>()));
    "" "host" Kind::Host, "The Host of every request; by default the first endpoint's address.",
        |u, v| u.host = v.text().into(), |u| (!u.host.is_empty()).then(|| quoted(&u.host));
    "" "path" Kind::Path, "The path of requests that name none.",
        |u, v| u.path = v.text().into(), |u| Some(quoted(&u.path));
    "" "max_connections" Kind::Integer(1, 65_536), "Connections of one shard.",
        |u, v| u.max_connections = v.size(), |u| Some(u.max_connections.to_string());
    "" "max_waiting" Kind::Integer(0, 1_000_000), "Requests of one shard that may wait for one.",
        |u, v| u.max_waiting = v.size(), |u| Some(u.max_waiting.to_string());
    "" "wait_timeout_ms" Kind::Integer(1, 600_000), "How long they may.",
        |u, v| u.wait_timeout_ms = v.integer(), |u| Some(u.wait_timeout_ms.to_string());
    "" "connect_timeout_ms" Kind::Integer(1, 600_000), "How long a connection may take to open.",
        |u, v| u.connect_timeout_ms = v.integer(), |u| Some(u.connect_timeout_ms.to_string());
    "" "timeout_ms" Kind::Integer(1, 600_000), "How long it may make no progress.",
        |u, v| u.timeout_ms = v.integer(), |u| Some(u.timeout_ms.to_string());
    "" "call_timeout_ms" Kind::Integer(1, 24 * 3_600_000),
        "How long a whole request may take, with its waits.",
        |u, v| u.call_timeout_ms = v.integer(), |u| Some(u.call_timeout_ms.to_string());
    "" "idle_timeout_ms" Kind::Integer(1, YEAR_MS), "How long an unused connection is kept.",
        |u, v| u.idle_timeout_ms = v.integer(), |u| Some(u.idle_timeout_ms.to_string());
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const TEXT: &str = r#"
[[consumer]]
name = "notify"
topics = ["tickets", "notes"]
start = "earliest"
members = 2
assignor = "range"
session_ms = 6_000
prefetch.records = 10
prefetch.limit_bytes = 2048
concurrency = 3
commit_interval_ms = 100
dead_letter = false
null_values = "dead-letter"
ttl_ms = 9
to = { channel = "user:{key}", upstream = "desk", topic = "done", path = "/in?x=1", source = "urn:desk" }
schedule = { every_ms = 60_000, at = ["02:00", "23:59"], records = 50, rate_per_s = 7 }
batch = { records = 5, limit_bytes = 4096, linger_ms = 20 }
retry = { tries = 2, age_ms = 3, min_ms = 4, max_ms = 5 }
[consumer.lag]
warn = 6
critical = 7
window_ms = 8
hook = "http://127.0.0.1:9093/lag"
[[consumer]]
name = "audit"
group = "others"
topics = ["tickets"]
to.upstream = "desk"
[[namespace]]
name = "user"
[[upstream]]
name = "desk"
endpoints = ["127.0.0.1:8080", "[::1]:8081"]
host = "desk.example:8080"
path = "/hook"
max_connections = 1
timeout_ms = 2
"#;

    #[test]
    fn consumers_and_upstreams_are_read() {
        let config = parse("trine.toml", TEXT).unwrap();
        let expected = Consumer {
            name: "notify".to_owned(),
            group: "notify".to_owned(),
            topics: vec!["tickets".to_owned(), "notes".to_owned()],
            start: Start::Earliest,
            members: 2,
            assignor: Assignor::Range,
            static_membership: false,
            session_ms: 6_000,
            prefetch_records: 10,
            prefetch_bytes: 2048,
            concurrency: 3,
            commit_interval_ms: 100,
            to: Target {
                channel: Some("user:{key}".to_owned().try_into().unwrap()),
                upstream: Some("desk".to_owned()),
                topic: Some("done".to_owned()),
                path: "/in?x=1".to_owned(),
                source: "urn:desk".to_owned(),
            },
            schedule: Schedule {
                every_ms: 60_000,
                at: vec![120, 1439],
                records: 50,
                rate_per_s: 7,
            },
            batch: Batch { records: 5, limit_bytes: 4096, linger_ms: 20 },
            retry: Retry { tries: 2, age_ms: 3, min_ms: 4, max_ms: 5 },
            dead_letter: false,
            null_values: NullValues::DeadLetter,
            ttl_ms: 9,
            lag: Lag {
                warn: 6,
                critical: 7,
                window_ms: 8,
                hook: "http://127.0.0.1:9093/lag".to_owned(),
            },
        };
        assert_eq!(config.consumers[0], expected);
        assert_eq!(config.consumers[1].group, "others");
        let desk = &config.upstreams[0];
        assert_eq!(
            (desk.endpoints.len(), &*desk.host, &*desk.path),
            (2, "desk.example:8080", "/hook")
        );
        assert_eq!((desk.max_connections, desk.connect_timeout_ms, desk.timeout_ms), (1, 2_000, 2));
        assert_eq!(Config::from_wire(&config.to_wire()).unwrap(), config);
    }

    #[test]
    fn mistakes_of_consumers_and_upstreams_are_refused() {
        const GOOD: &str = "[[consumer]]\nname = \"a\"\ntopics = [\"t\"]\nto.channel = \"{key}\"\n";
        const BACK: &str = "[[consumer]]\nname = \"b\"\ntopics = [\"u\"]\nto.topic = \"t\"\n";
        const KAFKA: &str = "[log]\nkind = \"kafka\"\n";
        const QUEUE: &str = "[queue]\ntopics = [\"t\"]\n";
        const DESK: &str = "[[upstream]]\nname = \"desk\"\nendpoints = [\"127.0.0.1:1\"]\n";
        assert!(parse("trine.toml", &format!("{GOOD}{DESK}")).is_ok());
        for (text, part) in [
            ("consumer = 1".to_owned(), "write [[consumer]]"),
            ("consumer = [1]".to_owned(), "a consumer is a table"),
            ("upstream = [1]".to_owned(), "an upstream is a table"),
            ("[[consumer]]\nto.channel = \"a\"".to_owned(), "no topics"),
            ("[[consumer]]\nname = \"a\"\ntopics = [\"t\"]".to_owned(), "nowhere to go"),
            (format!("{GOOD}topcs = 1"), "did you mean `topics`?"),
            (format!("{GOOD}lag = 1"), "[consumer.lag]"),
            (format!("{GOOD}session_ms = 999"), "1000"),
            (format!("{GOOD}retry.trise = 1"), "did you mean `tries`?"),
            (format!("{GOOD}retry.max_ms = 1"), "shorter than the first"),
            (format!("{GOOD}lag = {{ warn = 2, critical = 1 }}"), "before the warning"),
            (format!("{GOOD}lag.hook = \"https://x\""), "http:// with an IP address"),
            (format!("{GOOD}to.upstream = \"desk\""), "there is no upstream `desk`"),
            (format!("{GOOD}to.upstream = \"desc\"\n{DESK}"), "known are desk"),
            (format!("{GOOD}batch.records = 2"), "`batch.records` means nothing"),
            (format!("{GOOD}to.path = \"/x\""), "`to.path` means nothing"),
            (format!("{GOOD}schedule.records = 5"), "wait for ever"),
            (format!("{GOOD}schedule.at = [\"24:00\"]"), "such as [\"02:00\"]"),
            (format!("{GOOD}schedule.at = [\"2:00\"]"), "such as [\"02:00\"]"),
            (format!("{GOOD}schedule.at = \"02:00\""), "such as [\"02:00\"]"),
            (format!("{GOOD}schedule.evry_ms = 5"), "did you mean `every_ms`?"),
            (format!("{GOOD}schedule.every_ms = 5\n{KAFKA}"), "name the topics in queue.topics"),
            (format!("{GOOD}schedule.rate_per_s = 5\n{KAFKA}"), "name the topics in queue.topics"),
            (format!("{GOOD}{QUEUE}").replace("[\"t\"]\nto", "[\"t\", \"u\"]\nto"), "not both"),
            (QUEUE.to_owned(), "queue `t` is drained by 0 consumers"),
            (format!("{GOOD}{}{QUEUE}", GOOD.replace("\"a\"", "\"b\"")), "drained by 2 consumers"),
            (format!("{GOOD}to.topic = \"t\""), "`a` would consume what it drains"),
            (format!("{GOOD}to.topic = \"u\"\n{BACK}"), "`b` would consume what it drains"),
            (format!("{GOOD}{GOOD}"), "consumer `a` is there already"),
            (format!("{GOOD}{}group = \"a\"", GOOD.replace("\"a\"", "\"b\"")), "in the same group"),
            (GOOD.replace("[\"t\"]", "[\"t\", \"t\"]"), "each once"),
            (GOOD.replace("{key}", "{kee}"), " ^^^^^ at character 1: write {key}"),
            (format!("{DESK}{DESK}"), "upstream `desk` is there already"),
            (DESK.replace("127.0.0.1:1", "desk:80"), "IP addresses with ports"),
            (format!("{DESK}path = \"x\""), "a path such as"),
            (format!("{DESK}host = \"a\\r\\nb\""), "a name or an IP address"),
            ("[[upstream]]".to_owned(), "this upstream has no endpoints"),
        ] {
            let said = parse("trine.toml", &text).map(|_| text.clone()).unwrap_err().to_string();
            assert!(said.contains(part), "{text}: {part} is missing:\n{said}");
        }
    }

    #[test]
    fn an_upstreams_settings_reach_its_pool() {
        let desk = "[[upstream]]\nname = \"desk\"\nendpoints = [\"127.0.0.1:1\"]\nhost = \"desk\"\n\
            max_connections = 1\nmax_waiting = 2\nwait_timeout_ms = 3\nconnect_timeout_ms = 4\n\
            timeout_ms = 5\ncall_timeout_ms = 6\nidle_timeout_ms = 7";
        let options = parse("trine.toml", desk).unwrap().upstreams[0].options();
        assert_eq!(options.endpoints, ["127.0.0.1:1".parse().unwrap()]);
        assert_eq!((&*options.host, options.connections, options.waiting), ("desk", 1, 2));
        assert_eq!((options.wait_ms, options.connect_ms, options.inactivity_ms), (3, 4, 5));
        assert_eq!((options.call_ms, options.idle_ms), (6, 7));
        let plain = Upstream { endpoints: options.endpoints, ..Upstream::default() };
        assert_eq!(plain.options().host, "127.0.0.1:1");
    }

    #[test]
    fn a_consumer_that_feeds_itself_is_found() {
        let consumer = |channel: &str| Consumer {
            topics: vec!["tickets".to_owned()],
            to: Target {
                channel: Some(channel.to_owned().try_into().unwrap()),
                ..Target::default()
            },
            ..Consumer::default()
        };
        let written = [("", "other"), ("desk", "tickets")];
        for (channel, feeds) in
            [("desk:{key}", true), ("user:{key}", false), ("news", false), ("{topic}:{key}", true)]
        {
            let found = consumer(channel).feeds_itself(written.into_iter());
            assert_eq!(found, feeds.then_some(("desk", "tickets")), "{channel}");
        }
    }
}
