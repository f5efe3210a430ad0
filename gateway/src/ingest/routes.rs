//! Which events are durable and how each becomes a record: the configuration's routes, resolved.
//!
//! **Runs on: shard**; the same on every shard, since all are made from one configuration.

use hashbrown::HashMap;

use super::pointer::Pointer;
use crate::config::{self, Ack, Config, Partitioner, RecordHeader, RecordKey};

/// All routes, and the topics that the log must know.
#[derive(Debug)]
pub struct Routes {
    routes: Vec<Route>,
    namespaces: Vec<Option<u16>>,
    rpcs: HashMap<Box<str>, u16>,
    topics: Vec<Box<str>>,
    queues: u16,
}

/// One route.
#[derive(Debug)]
pub struct Route {
    /// The topic, by its place among [`Routes::topics`].
    pub topic: u16,
    /// What keeps its order.
    pub key: Find,
    /// How a partition is found.
    pub partition: Choose,
    /// Partitions by the value that was found.
    pub table: HashMap<Box<str>, u32>,
    /// Headers by option.
    pub headers: Vec<RecordHeader>,
    /// When the event is answered.
    pub ack: Ack,
    /// Where the message id is.
    pub dedupe: Option<Pointer>,
    /// How long and how many ids are remembered.
    pub window: (u64, usize),
}

/// Where a value is found.
#[derive(Debug, PartialEq, Eq)]
pub enum Find {
    /// There is none.
    None,
    /// The channel.
    Channel,
    /// The user's name.
    User,
    /// A header of the request.
    Header(Box<str>),
    /// The payload.
    Payload(Pointer),
}

/// How a record finds its partition.
#[derive(Debug, PartialEq, Eq)]
pub enum Choose {
    /// By the key's hash.
    Key,
    /// In turns.
    RoundRobin,
    /// One for a while.
    Sticky,
    /// By a value.
    Value(Find),
}

impl Routes {
    /// The routes of a configuration.
    pub fn new(config: &Config) -> Self {
        let mut all = Self {
            routes: Vec::new(),
            namespaces: Vec::new(),
            rpcs: HashMap::new(),
            topics: config.queue.topics.iter().map(|topic| topic.as_str().into()).collect(),
            queues: config.queue.topics.len() as u16,
        };
        for namespace in &config.namespaces {
            let route = namespace.route.durable().map(|route| all.add(route));
            all.namespaces.push(route);
        }
        for rpc in &config.rpcs {
            let route = all.add(&rpc.route);
            all.rpcs.insert(rpc.method.as_str().into(), route);
        }
        for consumer in &config.consumers {
            if let Some(topic) = &consumer.to.topic {
                all.topic(topic);
            }
            for topic in &consumer.topics {
                all.topic(topic);
                if consumer.dead_letter {
                    all.topic(&format!("{topic}.dlq"));
                }
            }
        }
        all
    }

    /// The route of a namespace, by the namespace's index.
    pub fn of_namespace(&self, namespace: usize) -> Option<u16> {
        self.namespaces[namespace]
    }

    /// The route of an rpc method.
    pub fn of_rpc(&self, method: &str) -> Option<u16> {
        if self.rpcs.is_empty() { None } else { self.rpcs.get(method).copied() }
    }

    /// A route by its number.
    pub fn get(&self, route: u16) -> &Route {
        &self.routes[route as usize]
    }

    /// All routes.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }

    /// The names of all topics, the queues first.
    pub fn topics(&self) -> &[Box<str>] {
        &self.topics
    }

    /// How many of them are queues.
    pub fn queues(&self) -> u16 {
        self.queues
    }

    /// The names of those that the log has.
    pub fn log_topics(&self) -> &[Box<str>] {
        &self.topics[self.queues as usize..]
    }

    /// The number of a topic.
    pub fn find_topic(&self, name: &str) -> Option<u16> {
        self.topics.iter().position(|known| **known == *name).map(|at| at as u16)
    }

    /// The number of a topic, which is added if it is new.
    fn topic(&mut self, name: &str) -> u16 {
        self.find_topic(name).unwrap_or_else(|| {
            self.topics.push(name.into());
            (self.topics.len() - 1) as u16
        })
    }

    fn add(&mut self, route: &config::Route) -> u16 {
        let topic = self.topic(&route.topic);
        let table = route.partition_table.iter();
        self.routes.push(Route {
            topic,
            key: Find::of(&route.key),
            partition: Choose::of(&route.partitioner),
            table: table.map(|(value, partition)| (value.as_str().into(), *partition)).collect(),
            headers: route.headers.clone(),
            ack: route.ack,
            dedupe: (!route.dedupe_pointer.is_empty())
                .then(|| Pointer::parse(&route.dedupe_pointer)),
            window: (route.dedupe_window_ms, route.dedupe_count),
        });
        (self.routes.len() - 1) as u16
    }
}

impl Find {
    fn of(key: &RecordKey) -> Self {
        match key {
            RecordKey::None => Find::None,
            RecordKey::Channel => Find::Channel,
            RecordKey::User => Find::User,
            RecordKey::Header(name) => Find::Header(name.as_str().into()),
            RecordKey::Pointer(pointer) => Find::Payload(Pointer::parse(pointer)),
        }
    }
}

impl Choose {
    fn of(partitioner: &Partitioner) -> Self {
        match partitioner {
            Partitioner::Hash => Choose::Key,
            Partitioner::RoundRobin => Choose::RoundRobin,
            Partitioner::Sticky => Choose::Sticky,
            Partitioner::Header(name) => Choose::Value(Find::Header(name.as_str().into())),
            Partitioner::Pointer(pointer) => Choose::Value(Find::Payload(Pointer::parse(pointer))),
        }
    }
}
