//! Heartbeat: a member is alive; the answer tells it of a rebalance.
//!
//! **Runs on: any.** `REBALANCE_IN_PROGRESS` asks it to join again.

use super::codec::{Error, Reader, Writer};
use super::error::ErrorCode;
use super::frame::{self, Api};
use super::{Acknowledged, Membership};

/// The versions that are known here.
pub const API: Api = Api { key: 12, name: "Heartbeat", min: 1, max: 4, flexible: 4 };

/// Says that a member is alive.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who.
    pub membership: Membership<'a>,
}

impl frame::Request for Request<'_> {
    const API: Api = API;
    type Response<'r> = Acknowledged;

    fn write(&self, to: &mut Writer<'_>) {
        self.membership.write(to, 3);
        to.tags();
    }

    fn read<'r>(from: &mut Reader<'r>) -> Result<Acknowledged, Error> {
        let (throttle_ms, error) = (from.i32()?, ErrorCode(from.i16()?));
        from.tags()?;
        Ok(Acknowledged { throttle_ms, error })
    }
}
