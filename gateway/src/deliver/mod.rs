//! Log to clients and backends: records of a partition become publications, requests to an
//! upstream, records of another topic, or dead letters, and only then is their offset committed.
//!
//! **Runs on: shard.** Sans-IO. A [`Lane`] is one partition that a consumer has been given: fetched
//! records and outcomes go in, [`Effect`]s come out, which the shard carries out and answers with
//! [`Lane::done`]. A publication enters at its channel's owner, never at ingest. Invariants: an
//! offset is committed only when every record below it was delivered, dead-lettered or skipped by a
//! rule of the configuration; records of one key are under way one at a time, in order; everything
//! held is bounded.

mod cloudevents;
mod dead_letter;
mod lag;
mod lane;
mod route;
mod schedule;
mod template;
#[cfg(test)]
mod tests;

pub use cloudevents::Request;
pub use lag::{LagEvent, LagMeter, Level};
pub use lane::Lane;
pub use route::{Route, outcome_of};
pub use template::{RenderError, Template, TemplateError};

use std::borrow::Cow;
use std::rc::Rc;

use bytes::Bytes;

pub use crate::log::Fetched;

/// Names an effect of one lane, for its outcome. A lane never repeats one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// What a lane wants done.
#[derive(Debug)]
pub enum Effect {
    /// Publish at the channel's owner.
    Publish {
        /// For [`Lane::done`].
        token: Token,
        /// The channel.
        channel: String,
        /// Its namespace, by index in the configuration.
        namespace: usize,
        /// The payload: not longer than the namespace allows, and JSON where it must be.
        data: Bytes,
    },
    /// POST to the consumer's upstream.
    Call {
        /// For [`Lane::done`].
        token: Token,
        /// Headers and body.
        request: Request,
        /// The lowest offset in it, for messages.
        first_offset: u64,
        /// Records in it.
        records: usize,
    },
    /// Append to the topic that the consumer drains into.
    Produce {
        /// For [`Lane::done`].
        token: Token,
        /// The topic.
        topic: Rc<str>,
        /// The record's key, for the partitioner.
        key: Option<Bytes>,
        /// The record as it was, from its key's length on.
        body: Bytes,
    },
    /// Produce to the dead letters, acknowledged by all replicas.
    DeadLetter {
        /// For [`Lane::done`].
        token: Token,
        /// The topic: `<topic>.dlq`.
        topic: Rc<str>,
        /// The record's key, for the partitioner.
        key: Option<Bytes>,
        /// A record of format 2, from its key's length on.
        body: Bytes,
    },
    /// Commit this position; answered by [`Lane::committed`].
    Commit {
        /// The offset of the first record that is not finished.
        next_offset: u64,
    },
    /// A record was dropped since `dead_letter` is off: to be logged.
    GivenUp {
        /// Its offset.
        offset: u64,
        /// Why.
        reason: Reason,
        /// More about it.
        detail: Cow<'static, str>,
    },
    /// Something that an operator must know.
    Alarm(Alarm),
    /// After [`Lane::revoke`]: nothing is under way and the last commit was answered. The last
    /// effect of a lane.
    Drained,
}

/// How an effect went.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Done and acknowledged.
    Delivered,
    /// There was no room for it; the lane starts nothing until [`Lane::room`].
    Full,
    /// It failed, and may succeed later.
    Failed {
        /// What happened.
        detail: Cow<'static, str>,
        /// The other side's wish (`Retry-After`); the configured longest pause bounds it.
        retry_after_ms: Option<u64>,
    },
    /// It can never succeed.
    Refused {
        /// What the dead letter will say.
        reason: Reason,
        /// What happened.
        detail: Cow<'static, str>,
    },
}

/// Why a record was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The record can't be read.
    Malformed,
    /// It has no value, and the consumer's rule is to keep such apart.
    NullValue,
    /// It lacks a field of the channel's template.
    MissingField,
    /// Its fields make no channel's name.
    InvalidChannel,
    /// Its channel's namespace is not in the configuration.
    UnknownNamespace,
    /// Its channel takes JSON only.
    NotJson,
    /// It is longer than its channel takes.
    TooLarge,
    /// The other side refused it for good.
    Refused,
    /// It failed as often as `retry.tries` allows.
    Tries,
    /// It failed for as long as `retry.age_ms` allows.
    Age,
}

impl Reason {
    /// The word in the dead letter's header and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Malformed => "malformed",
            Reason::NullValue => "null_value",
            Reason::MissingField => "missing_field",
            Reason::InvalidChannel => "invalid_channel",
            Reason::UnknownNamespace => "unknown_namespace",
            Reason::NotJson => "not_json",
            Reason::TooLarge => "too_large",
            Reason::Refused => "refused",
            Reason::Tries => "tries",
            Reason::Age => "age",
        }
    }
}

/// What an operator must know of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// A dead letter could not be written: the partition stands still until it is.
    DeadLetterFailed {
        /// The record's offset.
        offset: u64,
        /// What happened.
        detail: Cow<'static, str>,
    },
    /// All dead letters have been written: the partition goes on.
    DeadLetterWritten,
}

/// What became of a lane's records; each record is counted once among the first five.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Delivered to all its targets.
    pub delivered: u64,
    /// Written to the dead letters.
    pub dead_lettered: u64,
    /// Dropped by rule, since `dead_letter` is off.
    pub given_up: u64,
    /// Skipped, being older than `ttl_ms`.
    pub expired: u64,
    /// Skipped, having no value.
    pub null_skipped: u64,
    /// Tries that failed and were, or will be, repeated.
    pub retried: u64,
}
