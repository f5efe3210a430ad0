//! The Kafka client of a shard: connections, what is known of the cluster, the producer and the
//! consumer.
//!
//! **Runs on: shard.** [`producer`] and [`cluster`] are sans-IO machines that [`client`] drives over
//! [`connection`]s; [`consumer`] has machines and a driver of its own. A broker answers the requests of a connection one after another, so producing,
//! fetching and group coordination each have their own, opened on first use.

pub mod client;
pub mod cluster;
pub mod collect;
pub mod connection;
pub mod consumer;
pub mod lag;
pub mod partitioner;
pub mod producer;
pub mod sasl;
