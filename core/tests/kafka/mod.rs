//! What the tests of the producer and of the consumer share: a broker, a client, a topic.
//!
//! **Runs on: any.**

pub mod kfake;

use rskafka::client::ClientBuilder;
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::time::{Duration, Instant};
use trine_core::kafka::client::Options;
use trine_core::kafka::cluster::Literal;
use trine_core::kafka::connection::Settings;
use trine_core::kafka::producer;

pub const PARTITIONS: u32 = 16;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The broker to test with, or nothing.
pub fn broker() -> Option<SocketAddr> {
    let Ok(place) = std::env::var("TRINE_KAFKA") else {
        println!("SKIPPED: TRINE_KAFKA names no broker");
        return None;
    };
    let mut addresses = place.to_socket_addrs().expect("TRINE_KAFKA is host:port");
    Some(addresses.next().expect("TRINE_KAFKA has an address"))
}

/// The options of a client that goes where brokers say they are.
pub fn options(bootstrap: SocketAddr, number: usize, producer: producer::Options) -> Options {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64 + number as u64;
    let random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    Options {
        bootstrap: vec![(bootstrap.ip().to_string().into(), bootstrap.port())],
        settings: Settings {
            client_id: format!("trine-test-{number}"),
            connect_timeout_ms: 10_000,
            request_timeout_ms: 30_000,
            sasl: None,
        },
        producer,
        resolve: Rc::new(Literal),
        look_ms: None,
        random: Box::new(random),
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A name that no other test has.
pub fn unique(what: &str) -> String {
    let unique = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    format!("trine-{what}-{unique}")
}

/// Makes a topic, with `TRINE_KAFKA_REPLICAS` where that is set.
pub fn create_topic(bootstrap: SocketAddr, what: &str) -> String {
    let topic = unique(what);
    create_topic_named(bootstrap, &topic);
    topic
}

/// Makes a topic of this name, also one that has just been deleted.
pub fn create_topic_named(bootstrap: SocketAddr, topic: &str) {
    let replicas = std::env::var("TRINE_KAFKA_REPLICAS").map_or(1, |n| n.parse().unwrap());
    let deadline = Instant::now() + PATIENCE;
    runtime().block_on(async {
        let client = ClientBuilder::new(vec![bootstrap.to_string()]).build().await.unwrap();
        let controller = client.controller_client().unwrap();
        let create = || controller.create_topic(topic, PARTITIONS as i32, replicas, 10_000);
        // A broker that has just started knows no controller yet.
        while let Err(error) = create().await {
            assert!(Instant::now() < deadline, "the topic cannot be created: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}

/// Deletes a topic.
#[allow(dead_code, reason = "not each test file deletes topics")]
pub fn delete_topic(bootstrap: SocketAddr, topic: &str) {
    runtime().block_on(async {
        let client = ClientBuilder::new(vec![bootstrap.to_string()]).build().await.unwrap();
        client.controller_client().unwrap().delete_topic(topic, 10_000).await.unwrap();
    });
}
