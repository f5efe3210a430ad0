//! The Kafka client of a shard: so far the producer and the partitioners, sans-IO.
//!
//! **Runs on: shard.**

pub mod partitioner;
pub mod producer;
