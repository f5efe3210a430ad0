//! OffsetCommit: how far a group has come.
//!
//! **Runs on: any.** The offset committed is that of the next record to read.

use super::codec::{Error, Reader, Writer};
use super::error::ErrorCode;
use super::frame::{self, Api};
use super::{Membership, Topic};

/// The versions that are known here.
pub const API: Api = Api { key: 8, name: "OffsetCommit", min: 2, max: 9, flexible: 8 };

/// Commits offsets.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who; with generation -1 and no member for a group that has none.
    pub membership: Membership<'a>,
    /// The partitions, those of a topic side by side.
    pub partitions: &'a [Partition<'a>],
}

/// A partition's offset.
#[derive(Clone, Copy, Debug)]
pub struct Partition<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The offset of the next record to read.
    pub offset: i64,
    /// The leader's epoch of the last record read, -1 if unknown; from version 6.
    pub leader_epoch: i32,
    /// The committer's own words.
    pub metadata: Option<&'a str>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'r> {
    /// How long the broker holds back what comes next, by quota.
    pub throttle_ms: i32,
    /// Topic, partition and error of each.
    pub partitions: Vec<(&'r str, i32, ErrorCode)>,
}

impl frame::Request for Request<'_> {
    const API: Api = API;
    type Response<'r> = Response<'r>;

    fn write(&self, to: &mut Writer<'_>) {
        self.membership.write(to, 7);
        if !to.since(5) {
            // The broker's own retention.
            to.i64(-1);
        }
        to.by_topic(
            self.partitions,
            |item| Topic::named(item.topic),
            false,
            |to, partition| {
                to.i32(partition.partition);
                to.i64(partition.offset);
                if to.since(6) {
                    to.i32(partition.leader_epoch);
                }
                to.nullable_string(partition.metadata);
                to.tags();
            },
        );
        to.tags();
    }

    fn read<'r>(from: &mut Reader<'r>) -> Result<Response<'r>, Error> {
        let throttle_ms = if from.since(3) { from.i32()? } else { 0 };
        let partitions = from.by_topic(false, |from, topic| {
            let partition = (topic.name, from.i32()?, ErrorCode(from.i16()?));
            from.tags()?;
            Ok(partition)
        })?;
        from.tags()?;
        Ok(Response { throttle_ms, partitions })
    }
}
