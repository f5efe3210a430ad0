//! `/status`: what runs, as JSON, for people and for `trine status`.
//!
//! **Runs on: control.**

use serde::{Deserialize, Serialize};
use trine_core::metrics::{Counter, DRIVER_EPOLL, DRIVER_IO_URING, Gauge, Page, Snapshot};

use crate::control::State;
use crate::control::report::Report;

/// The answer's body.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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
    /// Durable events that were refused, of all data processes.
    #[serde(default)]
    pub events_refused: u64,
    /// Spooled records that Kafka has not acknowledged.
    #[serde(default)]
    pub spool_records: u64,
    /// Whether every shard has read what was spooled before it began; until then there may be more.
    #[serde(default)]
    pub spool_open: bool,
    /// Milliseconds since the oldest of them was spooled.
    #[serde(default)]
    pub spool_age_ms: u64,
    /// The log, the spool and the consumers; nothing of them while there is no data process.
    #[serde(flatten)]
    pub report: Report,
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
        let seen: Vec<Snapshot> = state.pages.iter().map(Page::snapshot).collect();
        let shard = |(index, seen): (usize, &Snapshot)| Shard {
            index,
            cpu: state.cpus.get(index).copied(),
            connections: seen.gauge(Gauge::Connections),
            sessions: seen.gauge(Gauge::Sessions),
            channels: seen.gauge(Gauge::Channels),
            subscriptions: seen.gauge(Gauge::Subscriptions),
            utilisation: seen.gauge(Gauge::UtilisationPpm) as f64 / 1e6,
            messages_in: seen.counter(Counter::MessagesIn),
            messages_out: seen.counter(Counter::MessagesOut),
        };
        let refused = |seen: &Snapshot| {
            seen.counter(Counter::EventsRefused) + seen.counter(Counter::EventsLate)
        };
        let mut drivers: Vec<u64> = seen.iter().map(|seen| seen.gauge(Gauge::Driver)).collect();
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
            shards: seen.iter().enumerate().map(shard).collect(),
            events_refused: seen.iter().map(refused).sum(),
            spool_records: seen.iter().map(|seen| seen.gauge(Gauge::SpoolRecords)).sum(),
            spool_open: seen.iter().all(|seen| seen.gauge(Gauge::SpoolOpen) == 1),
            spool_age_ms: seen.iter().map(|s| s.gauge(Gauge::SpoolAge)).max().unwrap_or(0),
            report: state.report.as_deref().cloned().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogKind;
    use crate::control::report::{Consumer, Journal, Log, Partition};

    #[test]
    fn what_is_written_is_what_is_read() {
        let mut state = State::new(None);
        for report in [false, true] {
            let journal = Journal { phase: "ready".to_owned(), ..Journal::default() };
            let partition = Partition {
                partition: 3,
                position: 5,
                end_offset: 9,
                paused: false,
                lag_level: 2,
                age_ms: 70,
            };
            let consumer = Consumer {
                name: "mail".to_owned(),
                group: "mail".to_owned(),
                topic: "tickets".to_owned(),
                partitions: vec![partition],
            };
            state.report = report.then(|| {
                let log = Log { kind: LogKind::Embedded, journal: Some(journal) };
                Report { log: Some(log), consumers: vec![consumer], ..Report::default() }.into()
            });
            let text = render(&state);
            assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), Status::of(&state));
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json["log"]["phase"].is_string(), report, "{text}");
            assert_eq!(json["log"]["kind"] == "embedded", report, "{text}");
            assert_eq!(json["consumers"].as_array().map(Vec::len), Some(usize::from(report)));
            assert!(json["spool"].is_null());
        }
        let older = r#"{"build":"1","control_pid":1,"data_pid":null,"uptime_s":0,"generation":1,
            "config_fingerprint":"","driver":"none","restarts":0,"adopted":false,"shards":[]}"#;
        assert_eq!(serde_json::from_str::<Status>(older).unwrap().report, Report::default());
    }
}
