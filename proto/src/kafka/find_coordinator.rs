//! FindCoordinator: the broker that keeps a group or a transaction.
//!
//! **Runs on: any.** From version 4 it is asked for several at once (KIP-699).

use super::Broker;
use super::codec::{Error, Reader, Writer};
use super::error::ErrorCode;
use super::frame::{self, Api};

/// The versions that are known here.
pub const API: Api = Api { key: 10, name: "FindCoordinator", min: 1, max: 6, flexible: 3 };

/// What the keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Group ids.
    Group = 0,
    /// Transactional ids.
    Transaction = 1,
}

/// Asks for coordinators.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What the keys are.
    pub kind: Kind,
    /// The keys; before version 4 only the first is asked for.
    pub keys: &'a [&'a str],
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'r> {
    /// How long the broker holds back what comes next, by quota.
    pub throttle_ms: i32,
    /// One for each key.
    pub coordinators: Vec<Coordinator<'r>>,
}

/// A coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coordinator<'r> {
    /// The key, empty before version 4.
    pub key: &'r str,
    /// Where it is, without meaning beside an error.
    pub broker: Broker<'r>,
    /// The error.
    pub error: ErrorCode,
    /// What the broker says to the error.
    pub message: Option<&'r str>,
}

impl frame::Request for Request<'_> {
    const API: Api = API;
    type Response<'r> = Response<'r>;

    fn write(&self, to: &mut Writer<'_>) {
        if !to.since(4) {
            to.string(self.keys.first().copied().unwrap_or_default());
        }
        to.i8(self.kind as i8);
        if to.since(4) {
            to.items(self.keys, |to, key| to.string(key));
        }
        to.tags();
    }

    fn read<'r>(from: &mut Reader<'r>) -> Result<Response<'r>, Error> {
        let throttle_ms = from.i32()?;
        let coordinators = if from.since(4) {
            from.items(|from| {
                let (key, broker) = (from.string()?, broker(from)?);
                let (error, message) = (ErrorCode(from.i16()?), from.nullable_string()?);
                from.tags()?;
                Ok(Coordinator { key, broker, error, message })
            })?
        } else {
            let (error, message) = (ErrorCode(from.i16()?), from.nullable_string()?);
            vec![Coordinator { key: "", broker: broker(from)?, error, message }]
        };
        from.tags()?;
        Ok(Response { throttle_ms, coordinators })
    }
}

fn broker<'r>(from: &mut Reader<'r>) -> Result<Broker<'r>, Error> {
    Ok(Broker { id: from.i32()?, host: from.string()?, port: from.i32()?, rack: None })
}
