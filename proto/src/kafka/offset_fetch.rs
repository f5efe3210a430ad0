//! OffsetFetch: how far a group has come, our own or another.
//!
//! **Runs on: any.** One group a request, also from version 8, which could ask for several.

use super::codec::{Error, Reader, Writer};
use super::error::ErrorCode;
use super::frame::{self, Api};
use super::{Membership, Topic};

/// The versions that are known here.
pub const API: Api = Api { key: 9, name: "OffsetFetch", min: 2, max: 9, flexible: 6 };

/// Asks for offsets.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Which group, and from version 9 as which of its members; [`Membership::of_group`] for who is
    /// none.
    pub membership: Membership<'a>,
    /// Topic and partition, those of a topic side by side; `None` for all that the group has.
    pub partitions: Option<&'a [(&'a str, i32)]>,
    /// Whether offsets that an open transaction is about to commit are an error (KIP-447); from
    /// version 7.
    pub require_stable: bool,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'r> {
    /// How long the broker holds back what comes next, by quota.
    pub throttle_ms: i32,
    /// An error of the whole.
    pub error: ErrorCode,
    /// The partitions, in the broker's order.
    pub partitions: Vec<Committed<'r>>,
}

/// A partition's offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed<'r> {
    /// The topic's name.
    pub topic: &'r str,
    /// The partition.
    pub partition: i32,
    /// The offset of the next record to read, -1 if the group has none.
    pub offset: i64,
    /// The leader's epoch of the last record read, -1 if unknown.
    pub leader_epoch: i32,
    /// The committer's own words.
    pub metadata: Option<&'r str>,
    /// The error.
    pub error: ErrorCode,
}

impl frame::Request for Request<'_> {
    const API: Api = API;
    type Response<'r> = Response<'r>;

    fn write(&self, to: &mut Writer<'_>) {
        if to.since(8) {
            to.count(1);
        }
        to.string(self.membership.group);
        if to.since(9) {
            to.nullable_string(Some(self.membership.member).filter(|member| !member.is_empty()));
            to.i32(self.membership.generation);
        }
        match self.partitions {
            None => to.nullable_count(None),
            Some(partitions) => to.by_topic(
                partitions,
                |partition| Topic::named(partition.0),
                false,
                |to, partition| to.i32(partition.1),
            ),
        }
        if to.since(8) {
            to.tags();
        }
        if to.since(7) {
            to.bool(self.require_stable);
        }
        to.tags();
    }

    fn read<'r>(from: &mut Reader<'r>) -> Result<Response<'r>, Error> {
        let throttle_ms = if from.since(3) { from.i32()? } else { 0 };
        if from.since(8) {
            if from.count()? != 1 {
                return Err(Error::Malformed("not the one group that was asked for"));
            }
            let _group = from.string()?;
        }
        let partitions = from.by_topic(false, committed)?;
        let error = ErrorCode(from.i16()?);
        if from.since(8) {
            from.tags()?;
        }
        from.tags()?;
        Ok(Response { throttle_ms, error, partitions })
    }
}

fn committed<'r>(from: &mut Reader<'r>, topic: Topic<'r>) -> Result<Committed<'r>, Error> {
    let committed = Committed {
        topic: topic.name,
        partition: from.i32()?,
        offset: from.i64()?,
        leader_epoch: if from.since(5) { from.i32()? } else { -1 },
        metadata: from.nullable_string()?,
        error: ErrorCode(from.i16()?),
    };
    from.tags()?;
    Ok(committed)
}
