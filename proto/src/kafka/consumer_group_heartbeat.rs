//! ConsumerGroupHeartbeat: the group protocol in which the broker assigns (KIP-848).
//!
//! **Runs on: any.** Joins, stays, leaves and gets assignments. A field that has not changed since the
//! last heartbeat that was answered is left out, as null or -1.

use super::codec::{Error, Reader, Writer};
use super::error::ErrorCode;
use super::frame::{self, Api};
use super::{Membership, Topic, Uuid};

/// The versions that are known here. From version 1 the member chooses its own id.
pub const API: Api = Api { key: 68, name: "ConsumerGroupHeartbeat", min: 0, max: 1, flexible: 0 };

/// The member epoch that joins.
pub const JOIN: i32 = 0;

/// The member epoch that leaves.
pub const LEAVE: i32 = -1;

/// The member epoch with which a static member leaves to come back.
pub const LEAVE_STATIC: i32 = -2;

/// Says that a member is alive, and what changed.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who; the generation is the member's epoch, [`JOIN`], [`LEAVE`] or [`LEAVE_STATIC`].
    pub membership: Membership<'a>,
    /// The rack to read in.
    pub rack: Option<&'a str>,
    /// How long the member may take to give up partitions, -1 for unchanged.
    pub rebalance_timeout_ms: i32,
    /// The names of the topics, `None` for unchanged.
    pub topics: Option<&'a [&'a str]>,
    /// A regular expression of more of them, `None` for unchanged; from version 1.
    pub topics_regex: Option<&'a str>,
    /// The broker's assignor to use, `None` for its default or unchanged.
    pub assignor: Option<&'a str>,
    /// The partitions that the member has, those of a topic side by side; `None` for unchanged.
    pub owned: Option<&'a [(Uuid, i32)]>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'r> {
    /// How long the broker holds back what comes next, by quota.
    pub throttle_ms: i32,
    /// The error.
    pub error: ErrorCode,
    /// What the broker says to the error.
    pub message: Option<&'r str>,
    /// The member's id.
    pub member: Option<&'r str>,
    /// The member's epoch.
    pub member_epoch: i32,
    /// How long until the next heartbeat.
    pub heartbeat_interval_ms: i32,
    /// The partitions that the member is to have, `None` for unchanged.
    pub assignment: Option<Vec<(Uuid, i32)>>,
}

impl frame::Request for Request<'_> {
    const API: Api = API;
    type Response<'r> = Response<'r>;

    fn write(&self, to: &mut Writer<'_>) {
        to.string(self.membership.group);
        to.string(self.membership.member);
        to.i32(self.membership.generation);
        to.nullable_string(self.membership.instance);
        to.nullable_string(self.rack);
        to.i32(self.rebalance_timeout_ms);
        to.nullable_count(self.topics.map(<[_]>::len));
        for name in self.topics.unwrap_or_default() {
            to.string(name);
        }
        if to.since(1) {
            to.nullable_string(self.topics_regex);
        }
        to.nullable_string(self.assignor);
        match self.owned {
            None => to.nullable_count(None),
            Some(owned) => to.by_topic(
                owned,
                |partition| Topic { id: partition.0, name: "" },
                true,
                |to, partition| to.i32(partition.1),
            ),
        }
        to.tags();
    }

    fn read<'r>(from: &mut Reader<'r>) -> Result<Response<'r>, Error> {
        let response = Response {
            throttle_ms: from.i32()?,
            error: ErrorCode(from.i16()?),
            message: from.nullable_string()?,
            member: from.nullable_string()?,
            member_epoch: from.i32()?,
            heartbeat_interval_ms: from.i32()?,
            // A structure that may be null begins with -1 or 1.
            assignment: match from.i8()? {
                -1 => None,
                1 => {
                    let read =
                        |from: &mut Reader<'r>, topic: Topic<'r>| Ok((topic.id, from.i32()?));
                    let assignment = from.by_topic(true, read)?;
                    from.tags()?;
                    Some(assignment)
                }
                _ => return Err(Error::Malformed("presence of an assignment")),
            },
        };
        from.tags()?;
        Ok(response)
    }
}
