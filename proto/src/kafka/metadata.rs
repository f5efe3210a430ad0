//! Metadata: brokers, topics, and the leader of each partition.
//!
//! **Runs on: any.** Leader epochs from version 7 (KIP-320), topic ids from version 10 (KIP-516).

use super::codec::{Error, Reader, Writer};
use super::error::ErrorCode;
use super::frame::{self, Api};
use super::{Broker, Leader, Topic};
use crate::limits::KAFKA_TOPIC_PARTITIONS;

/// The versions that are known here.
pub const API: Api = Api { key: 3, name: "Metadata", min: 4, max: 13, flexible: 9 };

/// Asks for topics.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The names, or `None` for all topics. An empty list asks for brokers alone.
    pub topics: Option<&'a [&'a str]>,
    /// Whether a topic that is not there is made with the broker's defaults.
    pub create_topics: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'r> {
    /// How long the broker holds back what comes next, by quota.
    pub throttle_ms: i32,
    /// The brokers.
    pub brokers: Vec<Broker<'r>>,
    /// The cluster's id.
    pub cluster_id: Option<&'r str>,
    /// The broker that takes requests for the controller, -1 if none is known.
    pub controller_id: i32,
    /// The topics.
    pub topics: Vec<TopicMetadata<'r>>,
    /// An error of the whole, from version 13.
    pub error: ErrorCode,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMetadata<'r> {
    /// The error.
    pub error: ErrorCode,
    /// Its name, and its id from version 10.
    pub topic: Topic<'r>,
    /// Whether it is the brokers' own.
    pub is_internal: bool,
    /// The partitions, in any order.
    pub partitions: Vec<PartitionMetadata>,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionMetadata {
    /// The error; with `REPLICA_NOT_AVAILABLE` the leader is still good.
    pub error: ErrorCode,
    /// Its number.
    pub index: i32,
    /// Its leader; the epoch is -1 before version 7.
    pub leader: Leader,
    /// The brokers that have it.
    pub replicas: Vec<i32>,
    /// The brokers that are in sync.
    pub in_sync: Vec<i32>,
}

impl frame::Request for Request<'_> {
    const API: Api = API;
    type Response<'r> = Response<'r>;

    fn write(&self, to: &mut Writer<'_>) {
        to.nullable_count(self.topics.map(<[_]>::len));
        for name in self.topics.unwrap_or_default() {
            if to.since(10) {
                to.uuid(&[0; 16]);
            }
            to.string(name);
            to.tags();
        }
        to.bool(self.create_topics);
        if to.since(8) && !to.since(11) {
            to.bool(false);
        }
        if to.since(8) {
            to.bool(false);
        }
        to.tags();
    }

    fn read<'r>(from: &mut Reader<'r>) -> Result<Response<'r>, Error> {
        let mut response = Response {
            throttle_ms: from.i32()?,
            brokers: from.items(broker)?,
            cluster_id: from.nullable_string()?,
            controller_id: from.i32()?,
            topics: from.items(topic)?,
            error: ErrorCode::NONE,
        };
        if from.since(8) && !from.since(11) {
            let _authorized_operations = from.i32()?;
        }
        if from.since(13) {
            response.error = ErrorCode(from.i16()?);
        }
        from.tags()?;
        Ok(response)
    }
}

/// A broker, as Metadata, Produce and Fetch write it.
pub(super) fn broker<'r>(from: &mut Reader<'r>) -> Result<Broker<'r>, Error> {
    let broker = Broker {
        id: from.i32()?,
        host: from.string()?,
        port: from.i32()?,
        rack: from.nullable_string()?,
    };
    from.tags()?;
    Ok(broker)
}

fn topic<'r>(from: &mut Reader<'r>) -> Result<TopicMetadata<'r>, Error> {
    let error = ErrorCode(from.i16()?);
    // Null is for a topic that was asked for by its id and is not there.
    let name = from.nullable_string()?.unwrap_or_default();
    let id = if from.since(10) { from.uuid()? } else { [0; 16] };
    let is_internal = from.bool()?;
    let partitions = from.items(partition)?;
    if partitions.len() > KAFKA_TOPIC_PARTITIONS {
        return Err(Error::TooLarge("topic of more than 32,768 partitions"));
    }
    if from.since(8) {
        let _authorized_operations = from.i32()?;
    }
    from.tags()?;
    Ok(TopicMetadata { error, topic: Topic { name, id }, is_internal, partitions })
}

fn partition(from: &mut Reader<'_>) -> Result<PartitionMetadata, Error> {
    let error = ErrorCode(from.i16()?);
    let index = from.i32()?;
    let id = from.i32()?;
    let epoch = if from.since(7) { from.i32()? } else { -1 };
    let leader = Leader { id, epoch };
    let replicas = from.items(Reader::i32)?;
    let in_sync = from.items(Reader::i32)?;
    if from.since(5) {
        let _offline = from.items(Reader::i32)?;
    }
    from.tags()?;
    Ok(PartitionMetadata { error, index, leader, replicas, in_sync })
}
