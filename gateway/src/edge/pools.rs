//! How a shard's pools of connections to upstreams are, and who keeps a connection.
//!
//! **Runs on: shard.**

use serde::{Deserialize, Serialize};
use trine_core::upstream::Upstream;

/// A pool of connections to one upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pool {
    /// Connections in use, those being made included.
    pub leased: u64,
    /// Connections kept for later.
    pub idle: u64,
    /// Calls that wait for a connection.
    pub waiting: u64,
    /// Connections in use for longer than any call may take; the log names who has them.
    pub overdue: u64,
    /// Calls refused since too many waited, or for too long, since the start.
    pub refused: u64,
    /// Connects tried since the start.
    pub connects: u64,
    /// Connects that failed since the start.
    pub connect_failures: u64,
}

impl Pool {
    /// What `upstream` says of itself.
    pub(super) fn of(upstream: &Upstream) -> Pool {
        let report = upstream.report();
        Pool {
            leased: report.leased as u64,
            idle: report.idle as u64,
            waiting: report.waiting as u64,
            overdue: report.overdue.len() as u64,
            refused: report.totals.refused,
            connects: report.totals.connects,
            connect_failures: report.totals.connect_failures,
        }
    }

    /// Adds another shard's.
    pub fn add(&mut self, other: &Pool) {
        self.add_totals(other);
        for (sum, more) in [
            (&mut self.leased, other.leased),
            (&mut self.idle, other.idle),
            (&mut self.waiting, other.waiting),
            (&mut self.overdue, other.overdue),
        ] {
            *sum += more;
        }
    }

    /// Adds what another has counted, and nothing of how it is now.
    pub fn add_totals(&mut self, other: &Pool) {
        for (sum, more) in [
            (&mut self.refused, other.refused),
            (&mut self.connects, other.connects),
            (&mut self.connect_failures, other.connect_failures),
        ] {
            *sum += more;
        }
    }
}

/// Names who has a connection for longer than any call may take, each once.
pub(super) fn name_overdue(name: &str, upstream: &Upstream) {
    for (holder, age_ms) in upstream.take_overdue() {
        let holder = &*holder;
        tracing::error!(upstream = name, holder, age_ms, "a connection is not given back");
    }
}
