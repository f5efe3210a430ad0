//! LeaveGroup: a member goes, so that the others need not wait for its session to end.
//!
//! **Runs on: any.** A static member stays a member when it leaves out this request.

use super::codec::{Error, Reader, Writer};
use super::error::ErrorCode;
use super::frame::{self, Api};
use super::{Acknowledged, Membership};

/// The versions that are known here.
pub const API: Api = Api { key: 13, name: "LeaveGroup", min: 1, max: 5, flexible: 4 };

/// Takes a member out of its group.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who; the generation is not sent.
    pub membership: Membership<'a>,
    /// Why, for the broker's log; from version 5.
    pub reason: Option<&'a str>,
}

impl frame::Request for Request<'_> {
    const API: Api = API;
    type Response<'r> = Acknowledged;

    fn write(&self, to: &mut Writer<'_>) {
        to.string(self.membership.group);
        if to.since(3) {
            to.count(1);
        }
        to.string(self.membership.member);
        if to.since(3) {
            to.nullable_string(self.membership.instance);
            if to.since(5) {
                to.nullable_string(self.reason);
            }
            to.tags();
        }
        to.tags();
    }

    fn read<'r>(from: &mut Reader<'r>) -> Result<Acknowledged, Error> {
        let (throttle_ms, mut error) = (from.i32()?, ErrorCode(from.i16()?));
        if from.since(3) {
            for _ in 0..from.count()? {
                let _member = from.string()?;
                let _instance = from.nullable_string()?;
                let member_error = ErrorCode(from.i16()?);
                from.tags()?;
                // Only one was sent, so that its error is the request's.
                if error.is_none() {
                    error = member_error;
                }
            }
        }
        from.tags()?;
        Ok(Acknowledged { throttle_ms, error })
    }
}
