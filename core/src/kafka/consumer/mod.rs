//! The consumer of a shard: a member of a group that fetches what its caller wants.
//!
//! **Runs on: shard.** [`Membership`](membership::Membership), [`Offsets`](offsets::Offsets) and
//! [`Fetcher`](fetcher::Fetcher) are sans-IO machines; [`driver`] drives them over connections of the
//! shard, one a broker for fetching and one for the group's coordinator. Invariants: a partition is
//! fetched only between *assigned* and *revoked*, and only while the caller wants more of it; what the
//! caller said is delivered is committed before the partition is given up.

pub mod assignor;
mod backoff;
pub mod broker_led;
pub mod driver;
mod epochs;
pub mod fetcher;
pub mod group;
pub mod membership;
pub mod offsets;
pub mod records;
mod requests;
#[cfg(test)]
mod simulation_tests;

use crate::kafka::producer::TopicId;

pub use assignor::Assignor;
pub use driver::{Consumer, Event, Lag, Options, Protocol};
pub use offsets::Start;
pub use records::Record;

/// A partition of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic, as the client numbers them.
    pub topic: TopicId,
    /// The partition's number.
    pub partition: u32,
}
