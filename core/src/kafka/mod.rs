//! The Kafka client of a shard: connections, what is known of the cluster, the producer.
//!
//! **Runs on: shard.** [`producer`] and [`cluster`] are sans-IO machines; [`client`] drives them over
//! [`connection`]s. A broker answers the requests of a connection one after another, so producing,
//! fetching and group coordination each have their own, opened on first use.

pub mod client;
pub mod cluster;
pub mod collect;
pub mod connection;
pub mod partitioner;
pub mod producer;
pub mod sasl;
