//! `/status`: what runs, as JSON, for people and for `trine status`.
//!
//! **Runs on: control.**

use serde::{Deserialize, Serialize};
use trine_core::metrics::{Counter, DRIVER_EPOLL, DRIVER_IO_URING, Gauge, Page};

use crate::control::State;

/// The answer's body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Control's build.
    pub build: String,
    /// Control's process id.
    pub control_pid: u32,
    /// The data process's id; absent while there is none.
    pub data_pid: Option<u32>,
    /// Seconds since the data process started.
    pub uptime_s: u64,
    /// Which configuration runs, counted from 1.
    pub generation: u64,
    /// Its hash.
    pub config_fingerprint: String,
    /// `io_uring`, `epoll`, `mixed`, or `none` before a shard has one.
    pub driver: String,
    /// Data processes started after the first.
    pub restarts: u64,
    /// Whether this control adopted the data process.
    pub adopted: bool,
    /// One entry a shard.
    pub shards: Vec<Shard>,
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shard {
    /// Its number.
    pub index: usize,
    /// The CPU the plan gave it.
    pub cpu: Option<usize>,
    /// Open connections.
    pub connections: u64,
    /// Connected sessions.
    pub sessions: u64,
    /// Channels.
    pub channels: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Share of its time it was busy, 0 to 1.
    pub utilisation: f64,
    /// Messages received in total.
    pub messages_in: u64,
    /// Messages sent in total.
    pub messages_out: u64,
}

/// The state as JSON.
pub fn render(state: &State) -> String {
    serde_json::to_string(&Status::of(state)).unwrap_or_default()
}

impl Status {
    fn of(state: &State) -> Status {
        let shard = |(index, page): (usize, &Page)| {
            let seen = page.snapshot();
            Shard {
                index,
                cpu: state.cpus.get(index).copied(),
                connections: seen.gauge(Gauge::Connections),
                sessions: seen.gauge(Gauge::Sessions),
                channels: seen.gauge(Gauge::Channels),
                subscriptions: seen.gauge(Gauge::Subscriptions),
                utilisation: seen.gauge(Gauge::UtilisationPpm) as f64 / 1e6,
                messages_in: seen.counter(Counter::MessagesIn),
                messages_out: seen.counter(Counter::MessagesOut),
            }
        };
        let mut drivers: Vec<u64> =
            state.pages.iter().map(|page| page.snapshot().gauge(Gauge::Driver)).collect();
        drivers.dedup();
        let driver = match drivers.as_slice() {
            [] | [0] => "none",
            [DRIVER_IO_URING] => "io_uring",
            [DRIVER_EPOLL] => "epoll",
            _ => "mixed",
        };
        Status {
            build: state.build.clone(),
            control_pid: std::process::id(),
            data_pid: state.data_pid,
            uptime_s: if state.data_pid.is_some() { state.uptime().as_secs() } else { 0 },
            generation: state.identity.generation,
            config_fingerprint: state.identity.fingerprint.clone(),
            driver: driver.to_owned(),
            restarts: state.identity.restarts,
            adopted: state.adopted,
            shards: state.pages.iter().enumerate().map(shard).collect(),
        }
    }
}
