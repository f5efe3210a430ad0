//! SyncGroup: the leader hands in the assignment, every member gets its part.
//!
//! **Runs on: any.** The broker answers when the leader has handed it in.

use super::Membership;
use super::codec::{Error, Reader, Writer};
use super::error::ErrorCode;
use super::frame::{self, Api};

/// The versions that are known here.
pub const API: Api = Api { key: 14, name: "SyncGroup", min: 1, max: 5, flexible: 4 };

/// Hands in or waits.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who.
    pub membership: Membership<'a>,
    /// `consumer` for consumers; from version 5.
    pub protocol_type: &'a str,
    /// The chosen assignor; from version 5.
    pub protocol: &'a str,
    /// From the leader: each member's id and assignment.
    pub assignments: &'a [(&'a str, &'a [u8])],
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response<'r> {
    /// How long the broker holds back what comes next, by quota.
    pub throttle_ms: i32,
    /// The error.
    pub error: ErrorCode,
    /// This member's part, empty with an error.
    pub assignment: &'r [u8],
}

impl frame::Request for Request<'_> {
    const API: Api = API;
    type Response<'r> = Response<'r>;

    fn write(&self, to: &mut Writer<'_>) {
        self.membership.write(to, 3);
        if to.since(5) {
            to.string(self.protocol_type);
            to.string(self.protocol);
        }
        to.items(self.assignments, |to, (member, assignment)| {
            to.string(member);
            to.bytes(assignment);
            to.tags();
        });
        to.tags();
    }

    fn read<'r>(from: &mut Reader<'r>) -> Result<Response<'r>, Error> {
        let (throttle_ms, error) = (from.i32()?, ErrorCode(from.i16()?));
        if from.since(5) {
            let _protocol_type = from.nullable_string()?;
            let _protocol = from.nullable_string()?;
        }
        let assignment = from.bytes()?;
        from.tags()?;
        Ok(Response { throttle_ms, error, assignment })
    }
}
