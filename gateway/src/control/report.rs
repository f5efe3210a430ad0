//! What the data process says of its journals and consumers once a second, and how control asks.
//!
//! **Runs on: control**, and the data process's main and link threads, which make and send it.
//!
//! Metric pages hold series that are known beforehand; what gets its labels at run time is here.
//! A report is of one process's life and ends with it. Its totals do not: control tells the next
//! process the last ones that it heard, which that process hands on beside its own, so that a
//! counter never falls, be control another one meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;
use trine_core::journal::storage::{self, Phase};

use super::process::greet;
use super::state::Shared;
use super::wire::{self, Request};
use crate::config::LogKind;
use crate::edge::Pool;
use crate::limits::{REPORT_DAMAGES, REPORT_INTERVAL};

/// Everything that is reported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Where durable events go; absent: there are none, or nothing is known.
    pub log: Option<Log>,
    /// The journal in front of Kafka, where there is one.
    pub spool: Option<Journal>,
    /// The journal of what Kafka refuses for good, beside the spool.
    pub dead_letters: Option<Journal>,
    /// The journal of each queue.
    pub queues: Vec<(String, Journal)>,
    /// What consumers read, a topic each.
    pub consumers: Vec<Consumer>,
    /// What groups of other programs have committed, a topic each; they have no name.
    pub watched: Vec<Consumer>,
    /// Partitions that a report has no room for: those with the least lag.
    pub partitions_omitted: u64,
    /// Backends, in the order of the configuration.
    pub upstreams: Vec<Upstream>,
    /// Totals of the data processes before.
    pub past: Past,
}

/// Totals of data processes that have ended, by name; whatever else is there says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Past {
    /// As [`Report::journals`] names them.
    pub journals: BTreeMap<String, Journal>,
    /// Backends' pools.
    pub upstreams: BTreeMap<String, Pool>,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Which log it is.
    pub kind: LogKind,
    /// Its journal, where it has one of this process.
    #[serde(flatten)]
    pub journal: Option<Journal>,
}

/// A journal: how it is now, and totals since the data process started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The folder that holds it.
    pub data_dir: String,
    /// What it does with records, one of [`PHASES`].
    pub phase: String,
    /// How it writes, and why not better.
    pub driver: Option<String>,
    /// Bytes that it has of its quota.
    pub used_bytes: u64,
    /// Bytes that it may have.
    pub quota_bytes: u64,
    /// Bytes that wait for the disk.
    pub pending_bytes: u64,
    /// Commits that became durable.
    pub commits: u64,
    /// Records that became durable.
    pub records: u64,
    /// Syncs, failed ones too.
    pub syncs: u64,
    /// Nanoseconds of all syncs together.
    pub sync_total_ns: u64,
    /// Nanoseconds of a sync on average.
    pub sync_mean_ns: u64,
    /// Nanoseconds of the longest sync.
    pub sync_max_ns: u64,
    /// Operations of the disk that failed.
    pub failures: u64,
    /// Records that were taken and then refused since the disk failed.
    pub lost_records: u64,
    /// Records that were removed to make room or for their age, and that nobody had released.
    #[serde(default)]
    pub removed_records: u64,
    /// The last failure.
    pub error: Option<String>,
    /// What was found at the start; absent until that is done.
    pub recovery: Option<Recovery>,
    /// A line for each damaged place, the first [`REPORT_DAMAGES`] of them.
    pub damages: Vec<String>,
}

/// What a journal found when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// Segments read.
    pub segments: u64,
    /// Records found.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Damaged places.
    pub damaged: u64,
    /// Records missing between others.
    pub missing_records: u64,
    /// Segments that are not there.
    pub missing_segments: u64,
    /// Bytes behind the last whole commit, which nothing had confirmed.
    pub torn_bytes: u64,
    /// Milliseconds it took.
    pub duration_ms: u64,
}

/// A consumer and one topic that it reads on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// Its name.
    pub name: String,
    /// Its group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The partitions read here, by number.
    pub partitions: Vec<Partition>,
}

/// How far a consumer is in a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Its number.
    pub partition: u32,
    /// The next offset that is not delivered.
    pub position: u64,
    /// Where the partition ends.
    pub end_offset: u64,
    /// Nothing is begun: a mailbox is full, or a dead letter can't be written.
    pub paused: bool,
    /// How bad its lag is: 0 fine, 1 `lag.warn` reached, 2 `lag.critical`.
    #[serde(default)]
    pub lag_level: u8,
    /// Milliseconds since the oldest record was appended that is held and not delivered; 0 without
    /// one.
    #[serde(default)]
    pub age_ms: u64,
}

/// A backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// The pools of all shards together; totals since the data process started.
    #[serde(flatten)]
    pub pool: Pool,
}

/// The words for what a journal does with records.
pub const PHASES: [&str; 5] = ["recovering", "ready", "failing", "full", "closed"];

impl Report {
    /// The journals with names of their own: the log's, the spool's, the dead letters', the queues'.
    pub fn journals(&self) -> impl Iterator<Item = (String, &Journal)> {
        let log = self.log.as_ref().and_then(|log| log.journal.as_ref());
        let of_log = [("log", log), ("spool", self.spool.as_ref())];
        let of_log = of_log.into_iter().chain([("dead-letters", self.dead_letters.as_ref())]);
        let of_log = of_log.filter_map(|(name, journal)| Some((name.to_owned(), journal?)));
        let queues = self.queues.iter().map(|(topic, queue)| (format!("queue/{topic}"), queue));
        of_log.chain(queues)
    }

    /// Totals of this process and of those before.
    pub fn totals(&self) -> Past {
        let mut totals = self.past.clone();
        for (name, journal) in self.journals() {
            totals.journals.entry(name).or_default().add_totals(journal);
        }
        for Upstream { name, pool } in &self.upstreams {
            totals.upstreams.entry(name.clone()).or_default().add_totals(pool);
        }
        totals
    }
}

impl Journal {
    /// Adds another process's totals.
    fn add_totals(&mut self, other: &Journal) {
        for (sum, more) in [
            (&mut self.commits, other.commits),
            (&mut self.records, other.records),
            (&mut self.syncs, other.syncs),
            (&mut self.sync_total_ns, other.sync_total_ns),
            (&mut self.failures, other.failures),
            (&mut self.lost_records, other.lost_records),
            (&mut self.removed_records, other.removed_records),
        ] {
            *sum += more;
        }
    }

    /// What `state` says of the journal below `data_dir`. Takes the state's locks for texts.
    pub fn of(data_dir: &Path, state: &storage::State) -> Journal {
        let phase = match state.phase() {
            Phase::Recovering => 0,
            Phase::Ready => 1,
            Phase::Failing => 2,
            Phase::Full => 3,
            Phase::Closed => 4,
        };
        let (syncs, sync_total_ns) = (state.syncs(), state.sync_total_ns());
        let mut damages = state.damages();
        damages.truncate(REPORT_DAMAGES);
        Journal {
            data_dir: data_dir.display().to_string(),
            phase: PHASES[phase].to_owned(),
            driver: state.driver(),
            used_bytes: state.used_bytes(),
            quota_bytes: state.quota_bytes(),
            pending_bytes: state.pending_bytes(),
            commits: state.commits(),
            records: state.records(),
            syncs,
            sync_total_ns,
            sync_mean_ns: sync_total_ns.checked_div(syncs).unwrap_or(0),
            sync_max_ns: state.sync_max_ns(),
            failures: state.failures(),
            lost_records: state.lost(),
            removed_records: state.removed(),
            error: state.error(),
            recovery: state.recovery().map(Recovery::from),
            damages,
        }
    }
}

impl From<storage::Recovery> for Recovery {
    fn from(found: storage::Recovery) -> Recovery {
        Recovery {
            segments: found.segments,
            records: found.records,
            bytes: found.bytes,
            damaged: found.damaged,
            missing_records: found.missing_records,
            missing_segments: found.missing_segments,
            torn_bytes: found.torn_bytes,
            duration_ms: found.duration_ms,
        }
    }
}

impl Consumer {
    /// Records that are not delivered, of all partitions read here.
    pub fn lag(&self) -> u64 {
        self.partitions.iter().map(Partition::lag).sum()
    }
}

impl Partition {
    /// Records that are not delivered.
    pub fn lag(&self) -> u64 {
        self.end_offset.saturating_sub(self.position)
    }
}

/// Asks for a report once a second, as long as this control runs. One that doesn't come is no
/// report: what is not known is not shown.
pub(super) async fn follow(shared: Shared, socket: PathBuf) {
    let mut tick = tokio::time::interval(REPORT_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(pid) = shared.with(|state| state.data_pid) else { continue };
        let socket = socket.clone();
        let asked = tokio::task::spawn_blocking(move || ask(&socket, pid)).await;
        let report = match asked.map_err(io::Error::from).flatten() {
            Ok(report) => Some(Arc::new(report)),
            Err(error) => {
                tracing::debug!(pid, %error, "no report");
                None
            }
        };
        shared.with(|state| {
            // That process may have ended meanwhile, and what it said with it.
            if state.data_pid == Some(pid) {
                if let Some(report) = &report {
                    state.past = report.totals();
                }
                state.report = report;
            }
        });
    }
}

/// Asks data process `pid` behind `socket`. Blocks for at most four times the link's timeout, so
/// not on control's own thread.
///
/// # Errors
/// When that process isn't there, has no report yet, or says nothing that can be understood.
pub fn ask(socket: &Path, pid: u32) -> io::Result<Report> {
    let (stream, hello) = greet(socket)?;
    if hello.layout != wire::layout() || hello.pid != pid {
        return Err(io::Error::other("another process answers"));
    }
    wire::send(&stream, &Request::Report, &[])?;
    Ok(wire::receive::<Report>(&stream)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_its_journal_through_json_and_may_have_none() {
        let journal = Journal {
            data_dir: "/var/lib/trine".to_owned(),
            phase: "failing".to_owned(),
            error: Some("EIO".to_owned()),
            recovery: Some(Recovery { damaged: 1, ..Recovery::default() }),
            damages: vec!["segment 1, bytes 2..3".to_owned()],
            ..Journal::default()
        };
        for journal in [Some(journal), None] {
            let report =
                Report { log: Some(Log { kind: LogKind::Embedded, journal }), ..Report::default() };
            let text = serde_json::to_string(&report).unwrap();
            assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report, "{text}");
        }
    }

    #[test]
    fn totals_are_of_all_processes_and_the_rest_of_none() {
        let journal = |records, used_bytes| Journal {
            phase: "ready".to_owned(),
            used_bytes,
            commits: 2 * records,
            records,
            syncs: 3 * records,
            sync_total_ns: 4 * records,
            sync_max_ns: 9,
            failures: 5 * records,
            lost_records: 6 * records,
            removed_records: 7 * records,
            ..Journal::default()
        };
        let report = |records, past| Report {
            log: Some(Log { kind: LogKind::Embedded, journal: Some(journal(records, 70)) }),
            spool: Some(journal(100, 70)),
            dead_letters: Some(journal(200, 70)),
            queues: vec![("night".to_owned(), journal(300, 70))],
            upstreams: vec![Upstream {
                name: "desk".to_owned(),
                pool: Pool { leased: 9, refused: 1, connects: 2, ..Pool::default() },
            }],
            past,
            ..Report::default()
        };
        let mut totals = Past::default();
        for records in [1, 10, 100] {
            totals = report(records, totals).totals();
        }
        let of = |records| Journal { phase: String::new(), sync_max_ns: 0, ..journal(records, 0) };
        let names = ["dead-letters", "log", "queue/night", "spool"].map(str::to_owned);
        let journals = [of(600), of(111), of(900), of(300)];
        assert_eq!(totals.journals, names.into_iter().zip(journals).collect());
        let pool = Pool { refused: 3, connects: 6, ..Pool::default() };
        assert_eq!(totals.upstreams, [("desk".to_owned(), pool)].into());
    }

    #[test]
    fn a_journal_that_nothing_was_written_to_has_a_report() {
        let journal = Journal::of(Path::new("/data"), &storage::State::default());
        assert_eq!((&*journal.phase, journal.sync_mean_ns), ("recovering", 0));
        assert_eq!((journal.recovery, journal.error), (None, None));
    }
}
