//! ListOffsets: the offset of a time, of the start or of the end of a partition.
//!
//! **Runs on: any.** Only the partition's leader answers.

use super::Topic;
use super::codec::{Error, Reader, Writer};
use super::error::ErrorCode;
use super::frame::{self, Api};

/// The versions that are known here.
pub const API: Api = Api { key: 2, name: "ListOffsets", min: 2, max: 10, flexible: 6 };

/// The time that stands for the first offset that the partition still has.
pub const EARLIEST: i64 = -2;

/// The time that stands for the offset after the last record.
pub const LATEST: i64 = -1;

/// Asks for offsets.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Whether [`LATEST`] is the last stable offset instead of the high watermark.
    pub read_committed: bool,
    /// The partitions, those of a topic side by side.
    pub partitions: &'a [Partition<'a>],
    /// How long the broker may take where it has to ask its remote storage; from version 10.
    pub timeout_ms: i32,
}

/// A partition and a time.
#[derive(Clone, Copy, Debug)]
pub struct Partition<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The leader's epoch in the metadata that led here, -1 if unknown; from version 4.
    pub leader_epoch: i32,
    /// The time, in milliseconds: the first record of that time or later is found. Or [`EARLIEST`]
    /// or [`LATEST`].
    pub timestamp_ms: i64,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'r> {
    /// How long the broker holds back what comes next, by quota.
    pub throttle_ms: i32,
    /// The partitions, in the broker's order.
    pub partitions: Vec<Listed<'r>>,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed<'r> {
    /// The topic's name.
    pub topic: &'r str,
    /// The partition.
    pub partition: i32,
    /// The error.
    pub error: ErrorCode,
    /// The record's time, -1 where a special time was asked for or none was found.
    pub timestamp_ms: i64,
    /// The offset, -1 if there is no such record.
    pub offset: i64,
    /// The leader's epoch of that offset, -1 if unknown.
    pub leader_epoch: i32,
}

impl frame::Request for Request<'_> {
    const API: Api = API;
    type Response<'r> = Response<'r>;

    fn write(&self, to: &mut Writer<'_>) {
        // A follower says here who it is; a client is none.
        to.i32(-1);
        to.bool(self.read_committed);
        to.by_topic(
            self.partitions,
            |item| Topic::named(item.topic),
            false,
            |to, partition| {
                to.i32(partition.partition);
                if to.since(4) {
                    to.i32(partition.leader_epoch);
                }
                to.i64(partition.timestamp_ms);
                to.tags();
            },
        );
        if to.since(10) {
            to.i32(self.timeout_ms);
        }
        to.tags();
    }

    fn read<'r>(from: &mut Reader<'r>) -> Result<Response<'r>, Error> {
        let throttle_ms = from.i32()?;
        let partitions = from.by_topic(false, |from, topic| {
            let listed = Listed {
                topic: topic.name,
                partition: from.i32()?,
                error: ErrorCode(from.i16()?),
                timestamp_ms: from.i64()?,
                offset: from.i64()?,
                leader_epoch: if from.since(4) { from.i32()? } else { -1 },
            };
            from.tags()?;
            Ok(listed)
        })?;
        from.tags()?;
        Ok(Response { throttle_ms, partitions })
    }
}
