//! What several keys of a file must agree on: nothing that it says may be passed over in silence.
//!
//! **Runs on: control.** Each rule names the keys where it can be mended, and is said at the first
//! of them that the file has.

use super::file::Reader;
use super::schema::{Key, ROUTE_KEYS};
use super::{
    Config, Consumer, LogKind, Namespace, Partitioner, RecordHeader, RecordKey, Route, Rpc, Sasl,
};
use crate::deliver::Template;

impl Reader {
    pub(super) fn check(&mut self, config: &Config) {
        let client = &config.client;
        let (ping, pong) = (client.ping_interval_ms, client.pong_timeout_ms);
        self.rule(
            ping == 0 || pong < ping,
            &["client.pong_timeout_ms", "client.ping_interval_ms"],
            "a pong must be due before the next ping",
            &format!("pong_timeout_ms is {pong}, ping_interval_ms {ping}"),
        );
        if let (Some(count), Some(cpus)) = (config.shards.count, &config.shards.cpus) {
            self.rule(
                count <= cpus.len(),
                &["shards.count", "shards.cpus"],
                "there are more shards than CPUs for them",
                &format!("count is {count}, cpus names {}", cpus.len()),
            );
        }
        for (one, other) in config.listeners_in_conflict() {
            let keys = [one, other].map(|name| format!("listen.{name}"));
            self.rule(
                false,
                &keys.each_ref().map(String::as_str),
                "two listeners have the same address",
                &format!("{} and {} need one each", keys[0], keys[1]),
            );
        }
        self.rule(
            config.api.key.bytes().all(|byte| byte.is_ascii_graphic()),
            &["api.key"],
            "`api.key` can't be this",
            "visible ASCII, since it stands in a header field",
        );
        self.check_kafka(config);
        for (index, rpc) in config.rpcs.iter().enumerate() {
            let place = format!("rpc[{index}]");
            self.check_rpc(rpc, &place);
            self.check_route(config, &rpc.route, &place);
        }
        self.check_consumers(config);
        for (index, namespace) in config.namespaces.iter().enumerate() {
            let place = match index {
                0 => "channel".to_owned(),
                _ => format!("namespace[{}]", index - 1),
            };
            self.check_namespace(config, namespace, &place);
            self.check_route(config, &namespace.route, &place);
        }
    }

    fn check_kafka(&mut self, config: &Config) {
        let kafka = &config.kafka;
        self.rule(
            kafka.watch_groups.is_empty() || config.log.kind == LogKind::Kafka,
            &["kafka.watch_groups"],
            "`watch_groups` means nothing",
            "it needs log.kind = \"kafka\": set that, or take it out",
        );
        let proves = kafka.sasl != Sasl::None;
        for (key, text) in [("user", &kafka.user), ("password", &kafka.password)] {
            self.rule(
                proves || text.is_empty(),
                &[&format!("kafka.{key}")],
                &format!("`{key}` means nothing"),
                "it is for SASL: set kafka.sasl, or take it out",
            );
            self.rule(
                !proves || !text.is_empty(),
                &[&format!("kafka.{key}"), "kafka.sasl"],
                &format!("SASL needs a {key}"),
                &format!("set kafka.{key}"),
            );
        }
    }

    fn check_rpc(&mut self, rpc: &Rpc, place: &str) {
        self.rule(
            rpc.route.key != RecordKey::Channel,
            &[&format!("{place}.key")],
            "an rpc has no channel",
            "take another key",
        );
        self.rule(
            !rpc.route.headers.contains(&RecordHeader::Channel),
            &[&format!("{place}.headers")],
            "an rpc has no channel",
            "take out \"channel\"",
        );
    }

    /// What makes an event a record: nothing of it is obeyed where there is no topic.
    fn check_route(&mut self, config: &Config, route: &Route, place: &str) {
        if route.durable().is_none() {
            if self.span(&format!("{place}.topic")).is_some() {
                // It was given and can't be, which was told.
                return;
            }
            let closed = Namespace::closed(String::new()).route;
            let is_other = |key: &&Key<Route>| (key.get)(route) != (key.get)(&closed);
            for key in ROUTE_KEYS.iter().filter(is_other) {
                let title = format!("`{}` means nothing", key.name);
                let label = "it is for durable events: set topic, or take it out";
                self.rule(false, &[&format!("{place}.{}", key.name)], &title, label);
            }
            return;
        }
        let table = format!("{place}.partition_table");
        let finds = matches!(route.partitioner, Partitioner::Header(_) | Partitioner::Pointer(_));
        self.rule(
            finds || route.partition_table.is_empty(),
            &[&table],
            "`partition_table` means nothing",
            "it is for the values that partitioner = \"header:NAME\" or a JSON pointer finds",
        );
        let is_own =
            config.log.kind == LogKind::Embedded || config.queue.topics.contains(&route.topic);
        let least = config.log.partitions;
        for (value, partition) in &route.partition_table {
            self.rule(
                !is_own || *partition < least,
                &[&table],
                &format!("`{value}` has a partition that topic `{}` has not", route.topic),
                &format!("{partition} is not below log.partitions, which is {least}"),
            );
        }
    }

    fn check_namespace(&mut self, config: &Config, namespace: &Namespace, place: &str) {
        for (name, wanted) in [
            ("recovery", namespace.recovery),
            ("force_recovery", namespace.force_recovery),
            ("positioning", namespace.positioning),
            ("force_positioning", namespace.force_positioning),
        ] {
            self.rule(
                !wanted || namespace.has_history(),
                &[&format!("{place}.{name}")],
                &format!("`{name}` needs history"),
                "set history_size and history_ttl_ms above 0",
            );
        }
        let limit = config.client.message_limit_bytes;
        let key = format!("{place}.message_limit_bytes");
        self.rule(
            namespace.message_limit_bytes <= limit || self.span(&key).is_none(),
            &[&key],
            "no client can send a message as long as this payload",
            &format!("at most client.message_limit_bytes, which is {limit}"),
        );
    }

    /// What consumers must agree on with each other and with the rest of the file.
    fn check_consumers(&mut self, config: &Config) {
        self.check_queues(config);
        for (index, consumer) in config.consumers.iter().enumerate() {
            let place = |name: &str| format!("consumer[{index}].{name}");
            self.check_target(config, index);
            self.check_queue(config, index);
            let retry = &consumer.retry;
            self.rule(
                retry.min_ms <= retry.max_ms,
                &[&place("retry.max_ms"), &place("retry.min_ms")],
                "the longest pause is shorter than the first",
                &format!("min_ms is {}, max_ms {}", retry.min_ms, retry.max_ms),
            );
            let lag = &consumer.lag;
            self.rule(
                lag.critical == 0 || lag.warn <= lag.critical,
                &[&place("lag.critical"), &place("lag.warn")],
                "the alarm would come before the warning",
                &format!("warn is {}, critical {}", lag.warn, lag.critical),
            );
            let others = config.consumers[..index].iter();
            let twin = others
                .filter(|other| other.group == consumer.group)
                .find(|other| other.topics.iter().any(|topic| consumer.topics.contains(topic)));
            let said = twin.map_or("", |twin| twin.name.as_str());
            self.rule(
                twin.is_none(),
                &[&place("group"), &place("name")],
                &format!("consumer `{said}` reads a topic of this one in the same group"),
                "each would get a part of the records: use members, or another group",
            );
            let fed = consumer.feeds_itself(config.written_topics());
            let (namespace, topic) = fed.unwrap_or_default();
            self.rule(
                fed.is_none(),
                &[&place("to.channel")],
                &format!("`{}` would consume what it publishes", consumer.name),
                &format!("publishes in namespace `{namespace}` go to its topic `{topic}`"),
            );
        }
    }

    /// Whether what a consumer delivers to is there, and all that is said of it is obeyed.
    fn check_target(&mut self, config: &Config, index: usize) {
        let consumer = &config.consumers[index];
        let place = |name: &str| format!("consumer[{index}].{name}");
        let to = &consumer.to;
        if let Some(upstream) = &to.upstream {
            let known = config.upstreams.iter().map(|upstream| upstream.name.as_str());
            let title = format!("there is no upstream `{upstream}`");
            self.rule_known(known, upstream, &place("to.upstream"), "upstream", &title);
        }
        if let Some(namespace) = to.channel.as_ref().and_then(Template::namespace) {
            let known = config.namespaces.iter().map(|namespace| namespace.name.as_str());
            let title = format!("there is no namespace `{namespace}`");
            self.rule_known(known, namespace, &place("to.channel"), "namespace", &title);
        }
        let (batch, single) = (&consumer.batch, Consumer::default().batch);
        let has_linger = batch.linger_ms != single.linger_ms;
        let has_limit = batch.limit_bytes != single.limit_bytes;
        for (name, is_said) in [
            ("to.path", !to.path.is_empty()),
            ("batch.records", batch.records > 1),
            ("batch.linger_ms", has_linger),
            ("batch.limit_bytes", has_limit),
        ] {
            self.rule(
                to.upstream.is_some() || !is_said,
                &[&place(name)],
                &format!("`{name}` means nothing"),
                "it is for requests: add to.upstream, or take it out",
            );
        }
        for (name, is_said) in [("batch.linger_ms", has_linger), ("batch.limit_bytes", has_limit)] {
            self.rule(
                to.upstream.is_none() || batch.records > 1 || !is_said,
                &[&place(name)],
                &format!("`{name}` means nothing"),
                "a request carries one record: set batch.records above 1, or take it out",
            );
        }
        self.rule(
            consumer.batch.records <= consumer.prefetch_records,
            &[&place("batch.records"), &place("prefetch.records")],
            "a batch would never be full",
            &format!("prefetch.records, which may wait, is {}", consumer.prefetch_records),
        );
    }

    fn rule_known<'a>(
        &mut self,
        known: impl Iterator<Item = &'a str>,
        name: &str,
        key: &str,
        what: &str,
        title: &str,
    ) {
        let known: Vec<&str> = known.filter(|known| !known.is_empty()).collect();
        let label = match &known[..] {
            [] => format!("add a [[{what}]] with name = \"{name}\""),
            _ => format!("known are {}", known.join(", ")),
        };
        self.rule(name.is_empty() || known.contains(&name), &[key], title, &label);
    }

    /// Whether each queue is drained, and by one consumer.
    fn check_queues(&mut self, config: &Config) {
        let readers = |topic| config.consumers.iter().filter(|c| c.topics.contains(topic)).count();
        for (number, topic) in config.queue.topics.iter().enumerate() {
            self.rule(
                readers(topic) == 1 && !config.queue.topics[..number].contains(topic),
                &["queue.topics"],
                &format!("queue `{topic}` is drained by {} consumers, not by one", readers(topic)),
                "a record leaves a queue once: to.topic leads to a topic that several may read",
            );
        }
    }

    /// What a consumer with a schedule, or with a topic to drain into, needs.
    fn check_queue(&mut self, config: &Config, index: usize) {
        let consumer = &config.consumers[index];
        let place = |name: &str| format!("consumer[{index}].{name}");
        let schedule = &consumer.schedule;
        self.rule(
            schedule.records == 0 || schedule.has_times(),
            &[&place("schedule.records")],
            "the last records of the queue would wait for ever",
            "add schedule.every_ms or schedule.at",
        );
        let queued = consumer.topics.iter().filter(|topic| config.queue.topics.contains(topic));
        let (queued, topics) = (queued.count(), consumer.topics.len());
        self.rule(
            queued == 0 || queued == topics,
            &[&place("topics")],
            "a consumer drains queues or reads topics of the log, not both",
            "make two consumers of it, or name all of its topics in queue.topics, or none",
        );
        let keys = ["every_ms", "at", "records", "rate_per_s"];
        let keys = keys.map(|name| place(&format!("schedule.{name}")));
        let is_timed = schedule.holds() || schedule.rate_per_s > 0;
        self.rule(
            !is_timed || queued > 0 || config.log.kind == LogKind::Embedded,
            &keys.each_ref().map(String::as_str),
            "records of Kafka wait in Kafka, not for a schedule",
            "name the topics in queue.topics, so that this node keeps them, or take out `schedule`",
        );
        let topic = place("to.topic");
        self.rule(
            !consumer.drains_into_itself(&config.consumers),
            &[&topic],
            &format!("`{}` would consume what it drains", consumer.name),
            "records that go there come back to one of its own topics",
        );
    }
}
