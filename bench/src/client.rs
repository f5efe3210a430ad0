//! A Kafka client of `trine_core` as the benchmarks of it alone start one.
//!
//! **Runs on: shard.**

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::SystemTime;

use trine_core::kafka::client::{Client, Options};
use trine_core::kafka::cluster::Literal;
use trine_core::kafka::connection::Settings;
use trine_core::kafka::producer;

/// Starts a client; call it inside the runtime.
pub fn start(broker: SocketAddr, producer: producer::Options) -> Rc<Client> {
    let mut seed = since_1970_ns() | 1;
    let random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    Client::start(Options {
        bootstrap: vec![(broker.ip().to_string().into(), broker.port())],
        settings: Settings {
            client_id: "trine-bench".to_owned(),
            connect_timeout_ms: 5_000,
            request_timeout_ms: 30_000,
            sasl: None,
        },
        producer,
        resolve: Rc::new(Literal),
        look_ms: None,
        random: Box::new(random),
    })
}

/// Nanoseconds since 1970: the one clock that all processes share.
pub fn since_1970_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_nanos() as u64
}
