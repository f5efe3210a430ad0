//! Kafka's wire formats against an implementation by others (`kafka-protocol`), in each version.
//!
//! **Runs on: any.**

mod consumer;
mod framing;
mod oracle;
mod produce;
mod record;
mod scram;
