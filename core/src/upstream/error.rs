//! Why a call to an upstream failed: whose fault it is, whether it may be repeated, and the cause.
//!
//! **Runs on: shard.**

use std::fmt;
use std::io;
use std::net::SocketAddr;
use trine_proto::http1;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The backend or the way to it: a 502 or 504 for who asked through us.
    Upstream,
    /// Ours, or there is more to do than the pool may: a 503.
    Internal,
    /// The request cannot be sent as it is.
    Caller,
}

/// What happened.
#[derive(Debug)]
pub enum Cause {
    /// The request cannot be written.
    Request(http1::Error),
    /// As many calls wait for a connection as may.
    QueueFull,
    /// No connection came free in time.
    WaitTimeout,
    /// Connects to all endpoints failed a moment ago; the next is tried at this time of the shard's
    /// clock, in milliseconds.
    NoEndpoint(u64),
    /// No connection could be made; `TimedOut` when its deadline passed.
    Connect(io::Error),
    /// The connection broke.
    Broken(io::Error),
    /// The upstream closed the connection before its response was whole.
    Closed,
    /// Nothing was sent or received for the inactivity timeout.
    Inactive,
    /// The call as a whole took too long.
    CallTimeout,
    /// The response breaks the protocol.
    Response(http1::Error),
    /// More interim responses than anybody needs.
    TooManyInterim,
    /// 101, which was not asked for.
    Switched,
    /// The body of the response, which has this status, is larger than the limit.
    TooLarge(u16),
}

/// A call that failed.
#[derive(Debug)]
pub struct Error {
    /// What happened.
    pub cause: Cause,
    /// Whether the same request may be sent again without the danger of its work being done twice:
    /// nothing of it left, or it is idempotent.
    pub retry: bool,
    /// The endpoint, once there was one.
    pub endpoint: Option<SocketAddr>,
}

impl Error {
    pub(super) fn new(cause: Cause, endpoint: Option<SocketAddr>) -> Self {
        let retry = matches!(
            cause,
            Cause::QueueFull | Cause::WaitTimeout | Cause::NoEndpoint(_) | Cause::Connect(_)
        );
        Self { cause, retry, endpoint }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self.cause {
            Cause::Request(_) => Fault::Caller,
            Cause::QueueFull | Cause::WaitTimeout => Fault::Internal,
            _ => Fault::Upstream,
        }
    }

    /// Whether no whole answer came, so that the same request may get one at another time.
    pub(super) fn is_unanswered(&self) -> bool {
        self.is_lost() || matches!(self.cause, Cause::Inactive | Cause::CallTimeout)
    }

    /// Whether the connection ended, rather than the upstream having answered or kept silent.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self.cause, Cause::Broken(_) | Cause::Closed)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Request(error) => write!(f, "the request cannot be sent: {error}")?,
            Cause::QueueFull => write!(f, "all connections are in use and too many calls wait")?,
            Cause::WaitTimeout => write!(f, "no connection came free in time")?,
            Cause::NoEndpoint(_) => write!(f, "connects to all endpoints failed a moment ago")?,
            Cause::Connect(error) => write!(f, "cannot connect: {error}")?,
            Cause::Broken(error) => write!(f, "the connection broke: {error}")?,
            Cause::Closed => write!(f, "the connection was closed before the response was whole")?,
            Cause::Inactive => write!(f, "nothing was sent or received for too long")?,
            Cause::CallTimeout => write!(f, "the call took too long")?,
            Cause::Response(error) => write!(f, "the response is invalid: {error}")?,
            Cause::TooManyInterim => write!(f, "too many interim responses")?,
            Cause::Switched => write!(f, "the upstream switched protocols unasked")?,
            Cause::TooLarge(status) => write!(f, "the response ({status}) is too large")?,
        }
        match self.endpoint {
            Some(endpoint) => write!(f, " (endpoint {endpoint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Request(error) | Cause::Response(error) => Some(error),
            Cause::Connect(error) | Cause::Broken(error) => Some(error),
            _ => None,
        }
    }
}
