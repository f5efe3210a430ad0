//! What is known of a cluster: its brokers, and of each topic the partitions and their leaders.
//!
//! **Runs on: shard.** Sans-IO: the caller asks [`Cluster::wants`] when to send a Metadata request
//! and brings the response. Names are never resolved here: [`Resolve`] answers from what control has
//! found out. Invariants: of a topic that is the same, a leader of an older epoch never replaces one
//! of a newer.

use super::connection::Endpoint;
use super::producer::TopicId;
use crate::limits::{
    KAFKA_BROKERS, KAFKA_HOST_BYTES, KAFKA_METADATA_AGE_MS, KAFKA_METADATA_PAUSE_MAX_MS,
    KAFKA_METADATA_PAUSE_MS,
};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use trine_proto::kafka::{Broker, ErrorCode, Leader, Uuid, metadata};

/// Answers where a broker is, at once: from a table, never by asking the network.
pub trait Resolve {
    /// The address of a broker by its host and port, if it is known by now. Not knowing is a wish:
    /// control resolves the name meanwhile. [`literal`] answers for hosts that are addresses.
    fn resolve(&self, host: &str, port: u16) -> Option<SocketAddr>;
}

/// Knows no names, only addresses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Literal;

impl Resolve for Literal {
    fn resolve(&self, host: &str, port: u16) -> Option<SocketAddr> {
        literal(host, port)
    }
}

/// The address of a host that is one.
pub fn literal(host: &str, port: u16) -> Option<SocketAddr> {
    let address: IpAddr = host.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
    Some(SocketAddr::new(address, port))
}

/// A topic and what is known of it.
#[derive(Debug)]
pub struct Topic {
    /// Its name.
    pub name: Rc<str>,
    /// Its id; all 0 with brokers before 2.8.
    pub id: Uuid,
    /// The leader of each partition; an id of -1: there is none. Empty: nothing is known yet.
    pub leaders: Vec<Leader>,
    /// What the brokers last said of it.
    pub error: ErrorCode,
}

/// A cluster.
pub struct Cluster {
    bootstrap: Vec<(Rc<str>, u16)>,
    resolve: Rc<dyn Resolve>,
    brokers: BTreeMap<i32, (Rc<str>, u16)>,
    topics: Vec<Topic>,
    by_name: HashMap<Rc<str>, TopicId>,
    by_id: HashMap<Uuid, TopicId>,
    is_stale: bool,
    asked_ms: Option<u64>,
    /// Responses in a row that left something open.
    fruitless: u32,
    /// Where the next connection goes; see [`Cluster::any`].
    next: usize,
    version: u64,
}

impl Cluster {
    /// A cluster of which only some brokers' places are known.
    pub fn new(bootstrap: Vec<(Rc<str>, u16)>, resolve: Rc<dyn Resolve>) -> Self {
        Self {
            bootstrap,
            resolve,
            brokers: BTreeMap::new(),
            topics: Vec::new(),
            by_name: HashMap::new(),
            by_id: HashMap::new(),
            is_stale: false,
            asked_ms: None,
            fruitless: 0,
            next: 0,
            version: 0,
        }
    }

    /// Another table of the same cluster, with its brokers and without its topics.
    pub fn of_same_place(&self) -> Self {
        let mut other = Self::new(self.bootstrap.clone(), self.resolve.clone());
        other.brokers.clone_from(&self.brokers);
        other
    }

    /// The topic of this name, asked for from now on.
    pub fn topic(&mut self, name: &str) -> TopicId {
        if let Some(&topic) = self.by_name.get(name) {
            return topic;
        }
        let topic = self.topics.len() as TopicId;
        let name: Rc<str> = name.into();
        self.by_name.insert(name.clone(), topic);
        let (leaders, error) = (Vec::new(), ErrorCode::NONE);
        self.topics.push(Topic { name, id: [0; 16], leaders, error });
        self.is_stale = true;
        topic
    }

    /// What is known of a topic.
    pub fn get(&self, topic: TopicId) -> &Topic {
        &self.topics[topic as usize]
    }

    /// The topic that a response names, by its name or its id.
    pub fn find(&self, topic: &trine_proto::kafka::Topic<'_>) -> Option<TopicId> {
        self.by_name.get(topic.name).or_else(|| self.by_id.get(&topic.id)).copied()
    }

    /// The names of all topics asked for.
    pub fn names(&self) -> Vec<Rc<str>> {
        self.topics.iter().map(|topic| topic.name.clone()).collect()
    }

    /// All topics with their numbers.
    pub fn topics(&self) -> impl Iterator<Item = (TopicId, &Topic)> {
        self.topics.iter().enumerate().map(|(id, topic)| (id as TopicId, topic))
    }

    /// Says that something is not as it was thought to be.
    pub fn refresh(&mut self) {
        self.is_stale = true;
    }

    /// When to send a Metadata request; `None`: there is no topic to ask for.
    pub fn due_ms(&self) -> Option<u64> {
        let pause_ms = KAFKA_METADATA_PAUSE_MS << self.fruitless.min(10);
        let pause_ms = pause_ms.min(KAFKA_METADATA_PAUSE_MAX_MS);
        let wait_ms = if self.is_stale { pause_ms } else { KAFKA_METADATA_AGE_MS };
        let due_ms = self.asked_ms.map_or(0, |asked_ms| asked_ms + wait_ms);
        (!self.topics.is_empty()).then_some(due_ms)
    }

    /// A Metadata request is being sent.
    pub fn asked(&mut self, now_ms: u64) {
        self.asked_ms = Some(now_ms);
        self.is_stale = false;
    }

    /// Counts up with everything that is learnt.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Takes in a response.
    pub fn update(&mut self, response: &metadata::Response<'_>) {
        self.version += 1;
        self.brokers.clear();
        self.add_brokers(&response.brokers);
        for found in &response.topics {
            let Some(&number) = self.by_name.get(found.topic.name) else { continue };
            let topic = &mut self.topics[number as usize];
            topic.error = found.error;
            if !found.error.is_none() {
                // Its partitions are kept: it may be back soon, and then nothing has changed.
                self.is_stale = true;
                continue;
            }
            let is_same = topic.id == found.topic.id;
            if !is_same {
                // What names the old one is not about this one, and ids must not heap up.
                self.by_id.remove(&topic.id);
                topic.id = found.topic.id;
                self.by_id.insert(topic.id, number);
                topic.leaders.clear();
            }
            for partition in &found.partitions {
                let (index, leader) = (partition.index, partition.leader);
                self.is_stale |= leader.id < 0;
                set_leader(topic, index, leader, found.partitions.len());
            }
        }
        self.fruitless = if self.is_stale { self.fruitless + 1 } else { 0 };
    }

    /// Takes in what a broker says in passing: the new leader of a partition (KIP-951). Whether that
    /// is news.
    pub fn hint(&mut self, topic: TopicId, index: i32, leader: Leader) -> bool {
        let topic = &mut self.topics[topic as usize];
        let count = topic.leaders.len();
        self.version += 1;
        leader.id >= 0 && set_leader(topic, index, leader, count)
    }

    /// Adds brokers, or changes their places; as many are known as a cluster may have.
    pub fn add_brokers(&mut self, brokers: &[Broker<'_>]) {
        for broker in brokers {
            let Ok(port) = u16::try_from(broker.port) else { continue };
            let has_room = self.brokers.len() < KAFKA_BROKERS;
            let is_host = broker.host.len() <= KAFKA_HOST_BYTES;
            if is_host && (has_room || self.brokers.contains_key(&broker.id)) {
                self.brokers.insert(broker.id, (broker.host.into(), port));
            }
        }
    }

    /// Where a broker is: its host and port, and the address if the name is resolved.
    pub fn place(&self, broker: i32) -> Option<(Rc<str>, u16, Option<SocketAddr>)> {
        let known = self.brokers.get(&broker);
        known.map(|(host, port)| (host.clone(), *port, self.address(host, *port)))
    }

    /// Where any broker is, another one with each call: those that are known and the bootstrap list
    /// take turns.
    pub fn any(&mut self) -> Option<(Rc<str>, u16, Option<SocketAddr>)> {
        let all = self.brokers.values().chain(&self.bootstrap);
        let all: Vec<_> = all.map(|(host, port)| (host, *port)).collect();
        let &(host, port) = all.get(self.next % all.len().max(1))?;
        let place = (host.clone(), port, self.address(host, port));
        self.next = self.next.wrapping_add(1);
        Some(place)
    }

    fn address(&self, host: &str, port: u16) -> Option<SocketAddr> {
        self.resolve.resolve(host, port)
    }
}

/// A place as an endpoint, once its name is resolved.
pub fn endpoint(
    (host, port, address): (Rc<str>, u16, Option<SocketAddr>),
) -> Result<Endpoint, (Rc<str>, u16)> {
    match address {
        Some(address) => Ok(Endpoint { host, port, address }),
        None => Err((host, port)),
    }
}

/// Sets the leader of a partition unless a newer one is known. Whether that changed anything. A
/// topic has `count` partitions, which bounds what is allocated on the word of an index.
fn set_leader(topic: &mut Topic, index: i32, leader: Leader, count: usize) -> bool {
    let Ok(index) = usize::try_from(index) else { return false };
    if index >= topic.leaders.len() {
        if index >= count {
            return false;
        }
        topic.leaders.resize(index + 1, Leader { id: -1, epoch: -1 });
    }
    let known = &mut topic.leaders[index];
    // -1: the broker is too old to say.
    let is_news = (leader.epoch >= known.epoch || leader.epoch < 0) && *known != leader;
    if is_news {
        *known = leader;
    }
    is_news
}

#[cfg(test)]
mod tests {
    use super::*;
    use metadata::{PartitionMetadata, Response, TopicMetadata};

    struct Table;
    impl Resolve for Table {
        fn resolve(&self, host: &str, port: u16) -> Option<SocketAddr> {
            let named = || SocketAddr::from(([10, 0, 0, 2], port));
            literal(host, port).or_else(|| (host == "kafka-2").then(named))
        }
    }

    fn cluster() -> Cluster {
        Cluster::new(vec![("127.0.0.1".into(), 9092)], Rc::new(Table))
    }

    fn response(id: u8, leaders: &[(i32, i32)], error: ErrorCode) -> Response<'static> {
        let partition = |(index, &(id, epoch)): (usize, &(i32, i32))| PartitionMetadata {
            error: ErrorCode::NONE,
            index: index as i32,
            leader: Leader { id, epoch },
            replicas: Vec::new(),
            in_sync: Vec::new(),
        };
        let broker = |id, host| Broker { id, host, port: 9092, rack: None };
        Response {
            throttle_ms: 0,
            brokers: vec![broker(1, "kafka-1"), broker(2, "kafka-2"), broker(3, "::1")],
            cluster_id: None,
            controller_id: 1,
            topics: vec![TopicMetadata {
                error,
                topic: trine_proto::kafka::Topic { name: "tickets", id: [id; 16] },
                is_internal: false,
                partitions: leaders.iter().enumerate().map(partition).collect(),
            }],
            error: ErrorCode::NONE,
        }
    }

    fn leaders(cluster: &Cluster, topic: TopicId) -> Vec<(i32, i32)> {
        cluster.get(topic).leaders.iter().map(|leader| (leader.id, leader.epoch)).collect()
    }

    #[test]
    fn a_leader_of_an_older_epoch_is_not_believed_unless_the_topic_is_another() {
        let mut cluster = cluster();
        let topic = cluster.topic("tickets");
        cluster.update(&response(1, &[(1, 5), (2, 5)], ErrorCode::NONE));
        cluster.update(&response(1, &[(3, 4), (3, 6)], ErrorCode::NONE));
        assert_eq!(leaders(&cluster, topic), [(1, 5), (3, 6)]);
        assert!(!cluster.hint(topic, 0, Leader { id: 2, epoch: 4 }));
        assert!(cluster.hint(topic, 0, Leader { id: 2, epoch: 7 }));
        assert!(!cluster.hint(topic, 99, Leader { id: 2, epoch: 7 }), "no such partition");
        cluster.update(&response(2, &[(3, 0)], ErrorCode::NONE));
        assert_eq!(leaders(&cluster, topic), [(3, 0)]);
    }

    #[test]
    fn a_topic_that_was_made_anew_is_not_found_by_its_old_id() {
        let mut cluster = cluster();
        let topic = cluster.topic("tickets");
        let of_id = |id| trine_proto::kafka::Topic { name: "", id: [id; 16] };
        for id in [1, 2] {
            cluster.update(&response(id, &[(1, 1)], ErrorCode::NONE));
            assert_eq!(cluster.find(&of_id(id)), Some(topic));
        }
        assert_eq!(cluster.find(&of_id(1)), None);
    }

    #[test]
    fn no_more_brokers_are_kept_than_a_cluster_may_have() {
        let mut cluster = cluster();
        let broker = |id, host| Broker { id, host, port: 9092, rack: None };
        let many = KAFKA_BROKERS as i32 + 10;
        let brokers: Vec<_> = (0..many).map(|id| broker(id, "10.0.0.1")).collect();
        cluster.add_brokers(&brokers);
        cluster.add_brokers(&[broker(7, "10.0.0.7"), broker(many, "10.0.0.8")]);
        let known = (0..=many).filter(|&id| cluster.place(id).is_some()).count();
        assert_eq!(known, KAFKA_BROKERS);
        assert_eq!(&*cluster.place(7).unwrap().0, "10.0.0.7", "one that is known may move");
        cluster.update(&response(1, &[], ErrorCode::NONE));
        assert!(cluster.place(7).is_none() && cluster.place(1).is_some(), "others make room");
    }

    #[test]
    fn a_host_is_no_longer_than_a_name_may_be() {
        let mut cluster = cluster();
        let hosts = ["h".repeat(KAFKA_HOST_BYTES), "h".repeat(KAFKA_HOST_BYTES + 1)];
        for (id, host) in (0..).zip(&hosts) {
            cluster.add_brokers(&[Broker { id, host, port: 9092, rack: None }]);
        }
        assert!(cluster.place(0).is_some() && cluster.place(1).is_none());
    }

    #[test]
    fn metadata_are_asked_for_when_needed_with_a_pause_and_by_age() {
        let mut cluster = cluster();
        assert_eq!(cluster.due_ms(), None);
        let topic = cluster.topic("tickets");
        assert_eq!(cluster.due_ms(), Some(0));
        cluster.asked(1000);
        cluster.update(&response(1, &[(1, 1)], ErrorCode::NONE));
        assert_eq!(cluster.due_ms(), Some(1000 + KAFKA_METADATA_AGE_MS));
        cluster.refresh();
        assert_eq!(cluster.due_ms(), Some(1000 + KAFKA_METADATA_PAUSE_MS));
        cluster.asked(2000);
        cluster.update(&response(1, &[], ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
        assert_eq!(
            cluster.due_ms(),
            Some(2000 + 2 * KAFKA_METADATA_PAUSE_MS),
            "it may take a while"
        );
        assert_eq!(leaders(&cluster, topic), [(1, 1)]);
    }

    #[test]
    fn names_are_answered_from_the_table_and_addresses_by_themselves() {
        let mut cluster = cluster();
        let any = cluster.any().unwrap();
        assert_eq!(any.2, Some(SocketAddr::from(([127, 0, 0, 1], 9092))));
        cluster.update(&response(1, &[(1, 1)], ErrorCode::NONE));
        assert_eq!(cluster.place(1).unwrap().2, None);
        assert_eq!(cluster.place(2).unwrap().2, Some(SocketAddr::from(([10, 0, 0, 2], 9092))));
        assert!(cluster.place(3).unwrap().2.is_some());
        assert!(cluster.place(4).is_none());
        let hosts: Vec<_> = (0..4).filter_map(|_| cluster.any()).map(|any| any.0).collect();
        assert!(hosts.iter().any(|host| &**host == "127.0.0.1"));
        assert!(hosts.iter().any(|host| &**host == "kafka-2"));
    }
}
