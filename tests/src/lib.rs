//! What whole-program tests share: a gateway started from the built binary, its metrics, a small
//! blocking client of the client protocol, a publisher that keeps every acknowledgement and the checker
//! that holds them against the log, real Kafka, a legacy backend, faults, and scripts in other languages.
//!
//! **Runs on: any.** Nothing sleeps to wait for an effect: [`wait::until`] polls it with a deadline.

pub mod backend;
pub mod checker;
pub mod client;
pub mod door;
pub mod durable;
pub mod fault;
pub mod faulty_disk;
pub mod follower;
pub mod gateway;
pub mod harm;
pub mod http;
pub mod journal;
pub mod kafka;
pub mod member;
pub mod metrics;
pub mod namespace;
pub mod process;
pub mod random;
pub mod script;
pub mod wait;
