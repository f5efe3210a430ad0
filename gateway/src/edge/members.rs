//! Which members of Kafka's groups a shard has, and what they are.
//!
//! **Runs on: shard.** Invariants: a shard has one member of a consumer at most; a member's number
//! and instance id are the same after each start with as many shards.

use trine_core::kafka::consumer::{self, Options};
use trine_proto::hash;

use super::shard::wall_ms;
use crate::config::{Assignor, Config, Consumer, Start};
use crate::limits::{KAFKA_REBALANCE_MS, KAFKA_SESSION_MS};

/// The number of the member of `consumer` that shard `index` of so many has, if it has one. Members
/// are on shards in a row, from one that the consumer's name picks: not all on the first ones.
pub(super) fn member_of(consumer: &Consumer, (index, shards): (usize, usize)) -> Option<usize> {
    let first = hash::murmur2(consumer.name.as_bytes()) as usize % shards;
    let number = (index + shards - first) % shards;
    (number < consumer.members as usize).then_some(number)
}

/// Consumers of Kafka that want more members than so many shards have.
pub(super) fn capped(config: &Config, shards: usize) -> impl Iterator<Item = &Consumer> {
    let of_kafka = config.consumers.iter().filter(|consumer| !config.drains(consumer));
    of_kafka.filter(move |consumer| consumer.members as usize > shards)
}

/// What the member with this number is.
pub(super) fn member_options(config: &Config, consumer: &Consumer, number: usize) -> Options {
    let assignor = match consumer.assignor {
        Assignor::Range => consumer::Assignor::Range,
        Assignor::Roundrobin => consumer::Assignor::RoundRobin,
        Assignor::Sticky => consumer::Assignor::Sticky,
        Assignor::CooperativeSticky | Assignor::Broker => consumer::Assignor::CooperativeSticky,
    };
    // Other consumers of this gateway may be in the same group.
    let instance = format!("{}-{}-{number}", config.gateway, consumer.name);
    Options {
        group: consumer.group.as_str().into(),
        topics: consumer.topics.iter().map(|topic| topic.as_str().into()).collect(),
        protocol: match consumer.assignor {
            Assignor::Broker => consumer::Protocol::Consumer,
            _ => consumer::Protocol::Classic,
        },
        assignor,
        start: match consumer.start {
            Start::Latest => consumer::Start::Latest,
            Start::Earliest => consumer::Start::Earliest,
        },
        instance: consumer.static_membership.then(|| instance.into()),
        session_timeout_ms: match consumer.assignor {
            // The broker has a session of its own, and a member must not outlive it.
            Assignor::Broker => consumer.session_ms.min(KAFKA_SESSION_MS),
            _ => consumer.session_ms,
        },
        rebalance_timeout_ms: KAFKA_REBALANCE_MS,
        read_committed: true,
        started_unix_ms: wall_ms() as i64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn consumer(name: &str, members: u32) -> Consumer {
        Consumer { name: name.to_owned(), members, static_membership: true, ..Consumer::default() }
    }

    #[test]
    fn members_are_on_shards_of_their_own_from_one_that_the_name_picks() {
        let mut firsts = BTreeSet::new();
        for name in (0..40).map(|number| format!("consumer-{number}")) {
            for (members, shards) in [(1, 1), (1, 4), (3, 4), (4, 4), (9, 4)] {
                let consumer = consumer(&name, members);
                let on = |index| member_of(&consumer, (index, shards));
                let numbers: BTreeSet<usize> = (0..shards).filter_map(on).collect();
                let count = (0..shards).filter(|&index| on(index).is_some()).count();
                let expected = shards.min(members as usize);
                assert_eq!((numbers, count), ((0..expected).collect(), expected), "{name}");
                if shards == 4 {
                    firsts.extend((0..shards).find(|&index| on(index) == Some(0)));
                }
            }
        }
        assert_eq!(firsts.len(), 4, "no shard is left out");
    }

    #[test]
    fn what_wants_more_members_than_there_are_shards_is_named() {
        let consumers = vec![consumer("few", 2), consumer("many", 3), consumer("most", 256)];
        let config = Config { consumers, ..Config::embedded() };
        let names = |shards| -> Vec<&str> {
            capped(&config, shards).map(|consumer| consumer.name.as_str()).collect()
        };
        assert_eq!(names(2), ["many", "most"]);
        assert_eq!(names(3), ["most"]);
        assert_eq!(names(256), [""; 0]);
    }

    #[test]
    fn no_two_members_of_a_gateway_have_the_same_instance_id() {
        let config = Config { gateway: "edge-7".to_owned(), ..Config::embedded() };
        let group = "desk".to_owned();
        let [one, other] =
            ["mail", "crm"].map(|name| Consumer { group: group.clone(), ..consumer(name, 2) });
        let instance = |consumer, number| member_options(&config, consumer, number).instance;
        assert_eq!(instance(&one, 1).as_deref(), Some("edge-7-mail-1"));
        let all = [(&one, 0), (&one, 1), (&other, 0), (&other, 1)];
        let ids: BTreeSet<_> = all.map(|(consumer, number)| instance(consumer, number)).into();
        assert_eq!(ids.len(), 4);
        let dynamic = Consumer { static_membership: false, ..one.clone() };
        assert_eq!(instance(&dynamic, 0), None);
    }
}
