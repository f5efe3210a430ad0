//! JoinGroup: becomes a member of a group and waits for the others.
//!
//! **Runs on: any.** The broker answers when all members have joined; one of them is the leader,
//! which gets everybody's metadata and assigns. From version 4 a new member is first told its id by
//! `MEMBER_ID_REQUIRED` and joins again with it (KIP-394).

use super::codec::{Error, Reader, Writer};
use super::error::ErrorCode;
use super::frame::{self, Api};

/// The versions that are known here.
pub const API: Api = Api { key: 11, name: "JoinGroup", min: 2, max: 9, flexible: 6 };

/// Joins.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The group.
    pub group: &'a str,
    /// After how long without a heartbeat the member is taken for dead.
    pub session_timeout_ms: i32,
    /// How long the others wait for a member to join again.
    pub rebalance_timeout_ms: i32,
    /// The member's id, empty for a new one.
    pub member: &'a str,
    /// The instance id of a static member (KIP-345), from version 5.
    pub instance: Option<&'a str>,
    /// `consumer` for consumers.
    pub protocol_type: &'a str,
    /// Assignors, the preferred one first, each with the metadata for it.
    pub protocols: &'a [(&'a str, &'a [u8])],
    /// Why it joins, for the broker's log; from version 8.
    pub reason: Option<&'a str>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'r> {
    /// How long the broker holds back what comes next, by quota.
    pub throttle_ms: i32,
    /// The error.
    pub error: ErrorCode,
    /// The generation, -1 with an error.
    pub generation: i32,
    /// The chosen assignor, empty with an error.
    pub protocol: &'r str,
    /// The leader's member id.
    pub leader: &'r str,
    /// Whether the leader leaves the assignment as it is (KIP-814), from version 9.
    pub skip_assignment: bool,
    /// This member's id.
    pub member: &'r str,
    /// For the leader: the members.
    pub members: Vec<Member<'r>>,
}

/// A member, as the leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'r> {
    /// Its id.
    pub member: &'r str,
    /// Its instance id, where it is a static member.
    pub instance: Option<&'r str>,
    /// Its metadata for the chosen assignor.
    pub metadata: &'r [u8],
}

impl frame::Request for Request<'_> {
    const API: Api = API;
    type Response<'r> = Response<'r>;

    fn write(&self, to: &mut Writer<'_>) {
        to.string(self.group);
        to.i32(self.session_timeout_ms);
        to.i32(self.rebalance_timeout_ms);
        to.string(self.member);
        if to.since(5) {
            to.nullable_string(self.instance);
        }
        to.string(self.protocol_type);
        to.items(self.protocols, |to, (name, metadata)| {
            to.string(name);
            to.bytes(metadata);
            to.tags();
        });
        if to.since(8) {
            to.nullable_string(self.reason);
        }
        to.tags();
    }

    fn read<'r>(from: &mut Reader<'r>) -> Result<Response<'r>, Error> {
        let (throttle_ms, error, generation) = (from.i32()?, ErrorCode(from.i16()?), from.i32()?);
        if from.since(7) {
            let _protocol_type = from.nullable_string()?;
        }
        let response = Response {
            throttle_ms,
            error,
            generation,
            protocol: from.nullable_string()?.unwrap_or_default(),
            leader: from.string()?,
            skip_assignment: from.since(9) && from.bool()?,
            member: from.string()?,
            members: from.items(|from| {
                let member = Member {
                    member: from.string()?,
                    instance: if from.since(5) { from.nullable_string()? } else { None },
                    metadata: from.bytes()?,
                };
                from.tags()?;
                Ok(member)
            })?,
        };
        from.tags()?;
        Ok(response)
    }
}
