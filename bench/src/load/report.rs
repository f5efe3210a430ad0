//! What a run of a row says about a server, as one line of JSON.
//!
//! **Runs on: any.**

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::accounting::Usage;
use crate::check::Faults;

/// Over this share of its core the tool, not the server, sets a closed loop's
/// rate.
const LOWER_BOUND_SHARE: f64 = 0.9;
/// Over this share an open loop's latencies are the tool's.
const VOID_SHARE: f64 = 0.8;

/// Microseconds from when a message was due until its unit was there.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Units measured.
    pub count: u64,
    /// Half of them were at most this late.
    pub p50_us: f64,
    /// 99 % of them.
    pub p99_us: f64,
    /// 99.9 % of them.
    pub p999_us: f64,
    /// All of them.
    pub max_us: f64,
}

impl Latency {
    /// From a histogram of nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Latency {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Latency {
            count: histogram.len(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max() as f64 / 1e3,
        }
    }
}

/// Memory before the first connection and with all of them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// Resident, all processes, before the first connection.
    pub server_before_bytes: u64,
    /// Resident, with all connections subscribed.
    pub server_after_bytes: u64,
    /// The difference for each connection.
    pub server_bytes_a_connection: f64,
    /// Both ends of a connection are on this machine.
    pub slab_bytes_a_connection: f64,
}

/// The outcome of one run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Length of the measurement.
    pub seconds: f64,
    /// Units that came within it.
    pub units: u64,
    /// Units a second.
    pub units_per_s: f64,
    /// Of the server's processes and its core's `ksoftirqd`.
    pub server_us_per_unit: f64,
    /// Of the broker behind the server.
    pub broker_us_per_unit: f64,
    /// CPU time within it.
    pub usage: Usage,
    /// The share of a core that the server took, `ksoftirqd` included.
    pub server_share: f64,
    /// The share of its core that this tool took. A tool that never sleeps
    /// counts the turns in which it found something to do.
    pub tool_share: f64,
    /// What neither the server, its broker nor this tool took of both cores.
    pub others_share: f64,
    /// The rate is the tool's limit, not the server's.
    pub lower_bound: bool,
    /// The latencies say nothing about the server.
    pub void: bool,
    /// The open loop's rate that was asked for, units a second.
    pub rate: Option<f64>,
    /// From when a message was due.
    pub latency: Latency,
    /// Of the idle row.
    pub memory: Option<Memory>,
    /// What went wrong with deliveries and replies, warm-up included.
    pub faults: Faults,
    /// Messages that were answered, warm-up included; of an acknowledged one
    /// the log must have the record.
    pub replies: u64,
    /// Error replies, and connections that ended by themselves.
    pub errors: u64,
    /// What the first of them said.
    pub first_error: Option<String>,
    /// Deliveries broken on purpose.
    pub tampered: u64,
}

impl Report {
    /// Fills in what follows from units, seconds and usage.
    pub fn derive(&mut self, busy_share: Option<f64>) {
        let Usage { server_s, broker_s, softirq_s, own_s, others_s, .. } = self.usage;
        let seconds = self.seconds.max(f64::MIN_POSITIVE);
        self.units_per_s = self.units as f64 / seconds;
        if self.units > 0 {
            self.server_us_per_unit = (server_s + softirq_s) * 1e6 / self.units as f64;
            self.broker_us_per_unit = broker_s * 1e6 / self.units as f64;
        }
        self.server_share = (server_s + softirq_s) / seconds;
        self.tool_share = busy_share.unwrap_or(own_s / seconds);
        self.others_share = others_s / seconds;
        self.lower_bound = self.rate.is_none() && self.tool_share > LOWER_BOUND_SHARE;
        self.void = self.rate.is_some() && self.tool_share > VOID_SHARE;
    }
}
