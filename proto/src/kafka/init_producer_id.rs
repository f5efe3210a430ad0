//! InitProducerId: an id and epoch for an idempotent producer (KIP-98, KIP-360).
//!
//! **Runs on: any.** Without a transactional id any broker answers, and each call gives a new id.

use super::codec::{Error, Reader, Writer};
use super::error::ErrorCode;
use super::frame::{self, Api};

/// The versions that are known here.
pub const API: Api = Api { key: 22, name: "InitProducerId", min: 0, max: 5, flexible: 2 };

/// Asks for an id.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The transactional id, `None` for a producer that is only idempotent.
    pub transactional_id: Option<&'a str>,
    /// After how long the coordinator aborts a transaction.
    pub transaction_timeout_ms: i32,
    /// The id and epoch to raise, (-1, -1) for new ones. Not sent before version 3.
    pub producer: (i64, i16),
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// How long the broker holds back what comes next, by quota.
    pub throttle_ms: i32,
    /// The error.
    pub error: ErrorCode,
    /// The id.
    pub producer_id: i64,
    /// The epoch.
    pub producer_epoch: i16,
}

impl frame::Request for Request<'_> {
    const API: Api = API;
    type Response<'r> = Response;

    fn write(&self, to: &mut Writer<'_>) {
        to.nullable_string(self.transactional_id);
        to.i32(self.transaction_timeout_ms);
        if to.since(3) {
            to.i64(self.producer.0);
            to.i16(self.producer.1);
        }
        to.tags();
    }

    fn read<'r>(from: &mut Reader<'r>) -> Result<Response, Error> {
        let response = Response {
            throttle_ms: from.i32()?,
            error: ErrorCode(from.i16()?),
            producer_id: from.i64()?,
            producer_epoch: from.i16()?,
        };
        from.tags()?;
        Ok(response)
    }
}
