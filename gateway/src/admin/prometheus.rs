//! `/metrics`: the Prometheus text format, version 0.0.4.
//!
//! **Runs on: control.**
//!
//! Each family is one group: `HELP`, `TYPE`, then all its series. Durations are stored in
//! nanoseconds and given in seconds.

use std::fmt::{Display, Write};
use std::sync::Arc;
use std::time::Duration;

use trine_core::metrics::{
    CLOSE_CODES, Counter, Gauge, Histogram, Series, Snapshot, bucket_bound_nanos,
};

use crate::control::State;
use crate::control::report::{Consumer, Journal, PHASES, Partition, Recovery, Report};
use crate::edge::Pool;

/// The format's media type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything that is rendered.
#[derive(Debug)]
pub struct View {
    /// Control's build.
    pub build: String,
    /// Whether a data process serves.
    pub up: bool,
    /// Data processes started after the first.
    pub restarts: u64,
    /// Configuration generation.
    pub generation: u64,
    /// Since the data process's start.
    pub uptime: Duration,
    /// Log records that control has left out.
    pub log_suppressed: u64,
    /// One snapshot a shard.
    pub shards: Vec<Snapshot>,
    /// What the data process said last of its journals and consumers.
    pub report: Option<Arc<Report>>,
}

impl View {
    /// What there is to see now.
    pub fn of(state: &State) -> View {
        View {
            build: state.build.clone(),
            up: state.data_pid.is_some(),
            restarts: state.identity.restarts,
            generation: state.identity.generation,
            uptime: state.uptime(),
            log_suppressed: crate::logs::suppressed(),
            shards: state.pages.iter().map(trine_core::metrics::Page::snapshot).collect(),
            report: state.report.clone(),
        }
    }
}

/// The whole page.
pub fn render(view: &View) -> String {
    let mut text = Text { out: String::with_capacity(64 << 10), family: "" };
    process(&mut text, view);
    for counter in Counter::ALL {
        let series = counter.series();
        text.shards(series, "counter", view, |seen| seen.counter(*counter));
    }
    closes(&mut text, view);
    for gauge in Gauge::ALL {
        text.shards(gauge.series(), "gauge", view, |seen| seen.gauge(*gauge));
    }
    for histogram in Histogram::ALL {
        for (shard, seen) in view.shards.iter().enumerate() {
            text.histogram(*histogram, shard, seen);
        }
    }
    if let Some(report) = &view.report {
        journals(&mut text, report);
        consumers(&mut text, report);
        watched(&mut text, report);
        upstreams(&mut text, report);
    }
    text.out
}

/// Greatest over mean of the shards' connections; 1 when there are none.
pub fn imbalance(shards: &[Snapshot]) -> f64 {
    let connections = shards.iter().map(|seen| seen.gauge(Gauge::Connections));
    let (most, sum) = connections.fold((0, 0), |(most, sum), n| (n.max(most), n + sum));
    if sum == 0 { 1.0 } else { most as f64 * shards.len() as f64 / sum as f64 }
}

/// What is about the gateway and not about one shard.
fn process(text: &mut Text, view: &View) {
    let (version, _) = view.build.split_once('+').unwrap_or((&view.build, ""));
    let labels = format!("version=\"{version}\",build=\"{}\"", view.build);
    text.one("trine_build_info", "gauge", "Build of the control process.", &labels, 1);
    text.one("trine_data_up", "gauge", "Whether a data process serves.", "", u8::from(view.up));
    let help = "Data processes started after the first.";
    text.one("trine_data_restarts_total", "counter", help, "", view.restarts);
    let help = "Time since the data process started.";
    text.one("trine_data_uptime_seconds", "gauge", help, "", view.uptime.as_secs_f64());
    let help = "Configurations applied so far.";
    text.one("trine_config_generation", "gauge", help, "", view.generation);
    let help = "Log records of control that were left out.";
    text.one("trine_control_log_suppressed_total", "counter", help, "", view.log_suppressed);
    text.one("trine_shards", "gauge", "Shards.", "", view.shards.len());
    let help = "Connections of the fullest shard over the mean of all.";
    text.one("trine_shard_imbalance_ratio", "gauge", help, "", imbalance(&view.shards));
}

fn closes(text: &mut Text, view: &View) {
    let name = "trine_connections_closed_total";
    let help = "Connections closed, by close code; none when there was no close frame.";
    text.family(name, "counter", help);
    for (shard, seen) in view.shards.iter().enumerate() {
        // Codes never seen are left out: most never will be.
        for code in CLOSE_CODES.into_iter().filter(|code| seen.closed(*code) > 0) {
            let word = if code == 0 { "none".to_owned() } else { code.to_string() };
            let labels = format!("shard=\"{shard}\",code=\"{word}\"");
            text.sample(name, "", &labels, seen.closed(code));
        }
        if seen.closed_other() > 0 {
            let labels = format!("shard=\"{shard}\",code=\"other\"");
            text.sample(name, "", &labels, seen.closed_other());
        }
    }
}

/// Series of the journals: the log's, the spool's, the dead letters', the queues'.
fn journals(text: &mut Text, report: &Report) {
    let none = Journal::default();
    let all = report.journals().map(|(name, journal)| {
        let past = report.past.journals.get(&name).unwrap_or(&none);
        (label("journal", &name), journal, past)
    });
    let all: Vec<(String, &Journal, &Journal)> = all.collect();
    let name = "trine_journal_info";
    for (labels, journal, _) in &all {
        text.family(name, "gauge", "Where a journal is and what drives its disk.");
        let folder = label("data_dir", &journal.data_dir);
        let driver = label("driver", journal.driver.as_deref().unwrap_or_default());
        text.sample(name, "", &format!("{labels},{folder},{driver}"), 1);
    }
    let name = "trine_journal_state";
    for (labels, journal, _) in &all {
        text.family(name, "gauge", "What a journal does with records: 1 for the phase it is in.");
        for phase in PHASES {
            let labels = format!("{labels},{}", label("phase", phase));
            text.sample(name, "", &labels, u8::from(journal.phase == phase));
        }
    }
    for (name, kind, help, value) in JOURNAL {
        for (labels, journal, past) in &all {
            text.family(name, kind, help);
            text.sample(name, "", labels, value(journal) + value(past));
        }
    }
    for (name, help, value) in RECOVERY {
        for (labels, journal, _) in &all {
            if let Some(recovery) = &journal.recovery {
                text.family(name, "gauge", help);
                text.sample(name, "", labels, value(recovery));
            }
        }
    }
}

/// Name, kind, help and value of a journal's series.
type OfJournal = (&'static str, &'static str, &'static str, fn(&Journal) -> f64);

/// Nothing but totals is there of the data processes before, so that the rest is of the present one.
const JOURNAL: [OfJournal; 11] = [
    ("trine_journal_bytes", "gauge", "Bytes that a journal has of its quota.", |journal| {
        journal.used_bytes as f64
    }),
    ("trine_journal_quota_bytes", "gauge", "Bytes that a journal may have.", |journal| {
        journal.quota_bytes as f64
    }),
    ("trine_journal_pending_bytes", "gauge", "Bytes that wait for the disk.", |journal| {
        journal.pending_bytes as f64
    }),
    ("trine_journal_commits_total", "counter", "Commits that became durable.", |journal| {
        journal.commits as f64
    }),
    ("trine_journal_records_total", "counter", "Records that became durable.", |journal| {
        journal.records as f64
    }),
    ("trine_journal_syncs_total", "counter", "Syncs of the disk.", |journal| journal.syncs as f64),
    ("trine_journal_sync_seconds_total", "counter", "Time of all syncs.", |journal| {
        journal.sync_total_ns as f64 / 1e9
    }),
    ("trine_journal_sync_max_seconds", "gauge", "Time of the longest sync.", |journal| {
        journal.sync_max_ns as f64 / 1e9
    }),
    ("trine_journal_failures_total", "counter", "Failed operations of the disk.", |journal| {
        journal.failures as f64
    }),
    (
        "trine_journal_lost_records_total",
        "counter",
        "Records taken and then refused since the disk failed.",
        |journal| journal.lost_records as f64,
    ),
    (
        "trine_journal_removed_records_total",
        "counter",
        "Records removed to make room or for their age that nobody had released.",
        |journal| journal.removed_records as f64,
    ),
];

/// Name, help and value of a series about what a journal's start found.
type OfRecovery = (&'static str, &'static str, fn(&Recovery) -> f64);

const RECOVERY: [OfRecovery; 7] = [
    ("trine_journal_recovery_seconds", "Time that recovery took.", |found| {
        found.duration_ms as f64 / 1e3
    }),
    (
        "trine_journal_recovery_records",
        "Records and moves of cursors found by recovery.",
        |found| found.records as f64,
    ),
    ("trine_journal_recovery_bytes", "Bytes read by recovery.", |found| found.bytes as f64),
    ("trine_journal_recovery_damaged", "Damaged places found by recovery.", |found| {
        found.damaged as f64
    }),
    ("trine_journal_recovery_missing_records", "Records found missing by recovery.", |found| {
        found.missing_records as f64
    }),
    ("trine_journal_recovery_missing_segments", "Segments found missing by recovery.", |found| {
        found.missing_segments as f64
    }),
    (
        "trine_journal_recovery_torn_bytes",
        "Bytes behind the last whole commit, dropped by recovery.",
        |found| found.torn_bytes as f64,
    ),
];

/// Series of each partition that a consumer reads.
fn consumers(text: &mut Text, report: &Report) {
    let help = "Partitions without series of their own: there are too many.";
    let omitted = report.partitions_omitted;
    text.one("trine_consumer_partitions_omitted", "gauge", help, "", omitted);
    let labels_of = |of: &Consumer| {
        let Consumer { name, group, topic, .. } = of;
        let [name, group] = [label("consumer", name), label("group", group)];
        format!("{name},{group},{}", label("topic", topic))
    };
    for (name, help, value) in PARTITION {
        for consumer in &report.consumers {
            text.family(name, "gauge", help);
            let common = labels_of(consumer);
            for partition in &consumer.partitions {
                let labels = format!("{common},partition=\"{}\"", partition.partition);
                text.sample(name, "", &labels, value(partition));
            }
        }
    }
}

/// Name, help and value of a partition's series.
type OfPartition = (&'static str, &'static str, fn(&Partition) -> f64);

const PARTITION: [OfPartition; 5] = [
    ("trine_consumer_lag", "Records that a consumer has not delivered.", |at| at.lag() as f64),
    ("trine_consumer_age_seconds", "Age of the oldest of them that its shard holds.", |at| {
        at.age_ms as f64 / 1e3
    }),
    ("trine_consumer_position", "Next offset that a consumer has not delivered.", |at| {
        at.position as f64
    }),
    (
        "trine_consumer_lag_level",
        "How bad the lag is: 0 fine, 1 lag.warn reached, 2 lag.critical.",
        |at| f64::from(at.lag_level),
    ),
    ("trine_consumer_paused", "Whether a consumer begins nothing: it can't go on.", |at| {
        f64::from(u8::from(at.paused))
    }),
];

/// Series of each partition that a group of another program reads.
fn watched(text: &mut Text, report: &Report) {
    for (name, help, value) in WATCHED {
        for Consumer { group, topic, partitions, .. } in &report.watched {
            text.family(name, "gauge", help);
            let common = format!("{},{}", label("group", group), label("topic", topic));
            for partition in partitions {
                let labels = format!("{common},partition=\"{}\"", partition.partition);
                text.sample(name, "", &labels, value(partition));
            }
        }
    }
}

const WATCHED: [OfPartition; 2] = [
    ("trine_group_lag", "Records that a group of kafka.watch_groups is behind.", |at| {
        at.lag() as f64
    }),
    ("trine_group_position", "What a group of kafka.watch_groups has committed.", |at| {
        at.position as f64
    }),
];

/// Series of each backend's connections.
fn upstreams(text: &mut Text, report: &Report) {
    for (name, kind, help, value) in UPSTREAM {
        for upstream in &report.upstreams {
            text.family(name, kind, help);
            let past = report.past.upstreams.get(&upstream.name).map_or(0, value);
            let labels = label("upstream", &upstream.name);
            text.sample(name, "", &labels, value(&upstream.pool) + past);
        }
    }
}

/// Name, kind, help and value of an upstream's series.
type OfUpstream = (&'static str, &'static str, &'static str, fn(&Pool) -> u64);

/// As in [`JOURNAL`].
const UPSTREAM: [OfUpstream; 7] = [
    ("trine_upstream_leased", "gauge", "Connections in use.", |pool| pool.leased),
    ("trine_upstream_idle", "gauge", "Connections kept for later.", |pool| pool.idle),
    ("trine_upstream_waiting", "gauge", "Calls that wait for a connection.", |pool| pool.waiting),
    (
        "trine_upstream_overdue",
        "gauge",
        "Connections in use for longer than any call may take: the log names who has them.",
        |pool| pool.overdue,
    ),
    (
        "trine_upstream_refused_total",
        "counter",
        "Calls refused since too many waited, or for too long.",
        |pool| pool.refused,
    ),
    ("trine_upstream_connects_total", "counter", "Connects tried.", |pool| pool.connects),
    ("trine_upstream_connect_failures_total", "counter", "Connects that failed.", |pool| {
        pool.connect_failures
    }),
];

/// A label with its value escaped: backslash, quote and line feed.
fn label(name: &str, value: &str) -> String {
    let mut text = format!("{name}=\"");
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

struct Text {
    out: String,
    family: &'static str,
}

impl Text {
    /// Opens a family, unless it is open already.
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        if self.family != name {
            self.family = name;
            self.line(format_args!("# HELP {name} {help}"));
            self.line(format_args!("# TYPE {name} {kind}"));
        }
    }

    /// A family of one series.
    fn one(
        &mut self,
        name: &'static str,
        kind: &str,
        help: &str,
        labels: &str,
        value: impl Display,
    ) {
        self.family(name, kind, help);
        self.sample(name, "", labels, value);
    }

    /// One series for each shard.
    fn shards(
        &mut self,
        series: Series,
        kind: &str,
        view: &View,
        value: impl Fn(&Snapshot) -> u64,
    ) {
        self.family(series.name, kind, series.help);
        for (shard, seen) in view.shards.iter().enumerate() {
            let mut labels = format!("shard=\"{shard}\"");
            if !series.labels.is_empty() {
                labels.push(',');
                labels.push_str(series.labels);
            }
            let value = value(seen);
            if series.scale == 1 {
                self.sample(series.name, "", &labels, value);
            } else {
                self.sample(series.name, "", &labels, value as f64 / series.scale as f64);
            }
        }
    }

    fn histogram(&mut self, histogram: Histogram, shard: usize, seen: &Snapshot) {
        let series = histogram.series();
        self.family(series.name, "histogram", series.help);
        let seen = seen.histogram(histogram);
        let mut count = 0;
        for (bucket, observations) in seen.buckets().iter().enumerate() {
            count += observations;
            let bound = match bucket_bound_nanos(bucket) {
                Some(nanos) => (nanos as f64 / series.scale as f64).to_string(),
                None => "+Inf".to_owned(),
            };
            let labels = format!("shard=\"{shard}\",le=\"{bound}\"");
            self.sample(series.name, "_bucket", &labels, count);
        }
        let labels = format!("shard=\"{shard}\"");
        let sum = seen.sum_nanos() as f64 / series.scale as f64;
        self.sample(series.name, "_sum", &labels, sum);
        self.sample(series.name, "_count", &labels, count);
    }

    fn sample(&mut self, name: &str, suffix: &str, labels: &str, value: impl Display) {
        if labels.is_empty() {
            self.line(format_args!("{name}{suffix} {value}"));
        } else {
            self.line(format_args!("{name}{suffix}{{{labels}}} {value}"));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string can't fail.
        let _ = writeln!(self.out, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogKind;
    use crate::control::report::{Log, Past, Upstream};
    use std::collections::{HashMap, HashSet};
    use trine_core::metrics::Writer;

    fn view() -> View {
        let shards = [10u64, 30].map(|connections| {
            let writer = Writer::detached();
            writer.set(Gauge::Connections, connections);
            writer.set(Gauge::UtilisationPpm, 250_000);
            writer.add(Counter::MessagesIn, connections * 7);
            writer.record(Histogram::CommandDuration, 1_024);
            writer.record(Histogram::CommandDuration, 1_025);
            writer.record(Histogram::CommandDuration, u64::from(u32::MAX) * 1_000);
            writer.closed(3008);
            writer.closed(0);
            writer.closed(4999);
            writer.snapshot()
        });
        View {
            build: "0.1.0+00c0ffee".to_owned(),
            up: true,
            restarts: 2,
            generation: 1,
            uptime: Duration::from_millis(1500),
            log_suppressed: 3,
            shards: shards.into(),
            report: Some(Arc::new(report())),
        }
    }

    fn report() -> Report {
        let partition = |partition, position, paused| Partition {
            partition,
            position,
            end_offset: 50,
            paused,
            lag_level: u8::from(paused),
            age_ms: 1_500 * (50 - position),
        };
        let consumer = |name: &str, partitions| Consumer {
            name: name.to_owned(),
            group: "desk".to_owned(),
            topic: "ticket.create".to_owned(),
            partitions,
        };
        let journal = Journal {
            data_dir: "/a \\ b,\"c\"=}\n/d".to_owned(),
            phase: "failing".to_owned(),
            syncs: 4,
            sync_total_ns: 6_000_000,
            failures: 2,
            recovery: Some(Recovery { damaged: 1, duration_ms: 12, ..Recovery::default() }),
            ..Journal::default()
        };
        Report {
            log: Some(Log { kind: LogKind::Embedded, journal: Some(journal) }),
            spool: Some(Journal { phase: "ready".to_owned(), ..Journal::default() }),
            dead_letters: Some(Journal {
                phase: "ready".to_owned(),
                removed_records: 17,
                used_bytes: 5,
                quota_bytes: 7,
                pending_bytes: 2,
                ..Journal::default()
            }),
            queues: vec![(
                "report".to_owned(),
                Journal { used_bytes: 3 << 20, quota_bytes: 8 << 20, ..Journal::default() },
            )],
            consumers: vec![
                consumer("mail", vec![partition(0, 50, false), partition(7, 20, true)]),
                consumer("quality", vec![partition(0, 1, false)]),
            ],
            watched: vec![consumer("", vec![partition(3, 8, false)])],
            partitions_omitted: 0,
            upstreams: vec![Upstream {
                name: "desk".to_owned(),
                pool: Pool { leased: 3, overdue: 1, refused: 5, ..Pool::default() },
            }],
            past: Past {
                journals: [("spool".to_owned(), Journal { syncs: 40, ..Journal::default() })]
                    .into(),
                upstreams: [("desk".to_owned(), Pool { refused: 50, ..Pool::default() })].into(),
            },
        }
    }

    /// Reads `name="value",…}` to its end: a value ends at its first quote that is not escaped, and
    /// only three characters are.
    fn check_labels(mut rest: &str) {
        let all = rest;
        let mut names = HashSet::new();
        loop {
            let (name, value) = rest.split_once("=\"").unwrap();
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{all}");
            assert!(names.insert(name), "{name} comes twice: {all}");
            let mut bytes = value.bytes().enumerate();
            let end = loop {
                match bytes.next().unwrap_or_else(|| panic!("no end: {all}")) {
                    (at, b'"') => break at,
                    (_, b'\\') => {
                        let escaped = bytes.next().unwrap().1;
                        assert!([b'\\', b'"', b'n'].contains(&escaped), "{all}");
                    }
                    _ => {}
                }
            };
            rest = &value[end + 1..];
            if rest == "}" {
                return;
            }
            rest = rest.strip_prefix(',').unwrap_or_else(|| panic!("{all}"));
        }
    }

    /// A strict reader of the text format: families in one group each, `HELP` and `TYPE` first,
    /// names and labels well formed, no series twice, histograms cumulative. Returns every sample.
    fn parse(text: &str) -> HashMap<String, f64> {
        let mut samples = HashMap::new();
        let mut closed: HashSet<&str> = HashSet::new();
        let (mut family, mut kind) = ("", "");
        let mut lines = text.lines().peekable();
        assert!(text.ends_with('\n'));
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                assert!(closed.insert(family), "{family} comes twice");
                family = help.split_once(' ').unwrap().0;
                assert!(!closed.contains(family), "{family} is split");
                let declared = lines.next().unwrap().strip_prefix("# TYPE ").unwrap();
                let (name, declared) = declared.split_once(' ').unwrap();
                assert_eq!(name, family);
                assert!(["counter", "gauge", "histogram"].contains(&declared));
                kind = declared;
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let value: f64 = value.parse().unwrap();
            assert!(value.is_finite() && value >= 0.0, "{line}");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{line}"));
            match kind {
                "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix)),
                _ => assert_eq!(suffix, "", "{line}"),
            }
            if !labels.is_empty() {
                check_labels(labels);
            }
            assert!(samples.insert(series.to_owned(), value).is_none(), "{series} comes twice");
        }
        samples
    }

    #[test]
    fn the_text_is_well_formed_and_says_what_was_counted() {
        let text = render(&view());
        let samples = parse(&text);
        for (series, value) in [
            ("trine_build_info{version=\"0.1.0\",build=\"0.1.0+00c0ffee\"}", 1.0),
            ("trine_data_up", 1.0),
            ("trine_data_restarts_total", 2.0),
            ("trine_data_uptime_seconds", 1.5),
            ("trine_shard_imbalance_ratio", 1.5),
            ("trine_shards", 2.0),
            ("trine_connections{shard=\"1\"}", 30.0),
            ("trine_shard_utilisation_ratio{shard=\"0\"}", 0.25),
            ("trine_messages_total{shard=\"0\",direction=\"in\"}", 70.0),
            ("trine_messages_total{shard=\"0\",direction=\"out\"}", 0.0),
            ("trine_connections_closed_total{shard=\"0\",code=\"3008\"}", 1.0),
            ("trine_connections_closed_total{shard=\"0\",code=\"none\"}", 1.0),
            ("trine_connections_closed_total{shard=\"0\",code=\"other\"}", 1.0),
            ("trine_command_duration_seconds_bucket{shard=\"0\",le=\"0.000001024\"}", 1.0),
            ("trine_command_duration_seconds_bucket{shard=\"0\",le=\"0.000001536\"}", 2.0),
            ("trine_command_duration_seconds_bucket{shard=\"0\",le=\"+Inf\"}", 3.0),
            ("trine_command_duration_seconds_count{shard=\"0\"}", 3.0),
            ("trine_command_duration_seconds_sum{shard=\"0\"}", 4294.967297049),
        ] {
            assert_eq!(samples.get(series), Some(&value), "{series}");
        }
        for metric in Counter::ALL.iter().map(|counter| counter.series().name) {
            assert!(text.contains(&format!("# TYPE {metric} counter\n")), "{metric}");
        }
    }

    #[test]
    fn journals_groups_and_backends_are_told_of() {
        let samples = render(&view());
        let samples = parse(&samples);
        let of = |what: &str, consumer: &str, partition: u32| {
            format!(
                "trine_consumer_{what}{{consumer=\"{consumer}\",group=\"desk\",\
                 topic=\"ticket.create\",partition=\"{partition}\"}}"
            )
        };
        assert!(!samples.contains_key("trine_journal_recovery_damaged{journal=\"spool\"}"));
        for (series, value) in [
            (
                "trine_journal_info{journal=\"log\",\
                 data_dir=\"/a \\\\ b,\\\"c\\\"=}\\n/d\",driver=\"\"}",
                1.0,
            ),
            ("trine_journal_state{journal=\"log\",phase=\"failing\"}", 1.0),
            ("trine_journal_state{journal=\"log\",phase=\"ready\"}", 0.0),
            ("trine_journal_state{journal=\"spool\",phase=\"ready\"}", 1.0),
            ("trine_journal_state{journal=\"dead-letters\",phase=\"ready\"}", 1.0),
            ("trine_journal_removed_records_total{journal=\"dead-letters\"}", 17.0),
            ("trine_journal_removed_records_total{journal=\"spool\"}", 0.0),
            ("trine_journal_bytes{journal=\"dead-letters\"}", 5.0),
            ("trine_journal_quota_bytes{journal=\"dead-letters\"}", 7.0),
            ("trine_journal_pending_bytes{journal=\"dead-letters\"}", 2.0),
            ("trine_journal_bytes{journal=\"queue/report\"}", 3_145_728.0),
            ("trine_journal_quota_bytes{journal=\"queue/report\"}", 8_388_608.0),
            ("trine_journal_syncs_total{journal=\"log\"}", 4.0),
            ("trine_journal_syncs_total{journal=\"spool\"}", 40.0),
            ("trine_journal_sync_seconds_total{journal=\"log\"}", 0.006),
            ("trine_journal_failures_total{journal=\"log\"}", 2.0),
            ("trine_journal_recovery_damaged{journal=\"log\"}", 1.0),
            ("trine_journal_recovery_seconds{journal=\"log\"}", 0.012),
            (&of("lag", "mail", 7), 30.0),
            (&of("lag", "mail", 0), 0.0),
            (&of("age_seconds", "mail", 7), 45.0),
            (&of("age_seconds", "mail", 0), 0.0),
            (&of("age_seconds", "quality", 0), 73.5),
            (&of("position", "mail", 7), 20.0),
            (&of("paused", "mail", 7), 1.0),
            (&of("lag_level", "mail", 7), 1.0),
            (&of("lag_level", "mail", 0), 0.0),
            (&of("lag", "quality", 0), 49.0),
            ("trine_group_lag{group=\"desk\",topic=\"ticket.create\",partition=\"3\"}", 42.0),
            ("trine_group_position{group=\"desk\",topic=\"ticket.create\",partition=\"3\"}", 8.0),
            ("trine_upstream_leased{upstream=\"desk\"}", 3.0),
            ("trine_upstream_overdue{upstream=\"desk\"}", 1.0),
            ("trine_upstream_refused_total{upstream=\"desk\"}", 55.0),
            ("trine_upstream_idle{upstream=\"desk\"}", 0.0),
        ] {
            assert_eq!(samples.get(series), Some(&value), "{series}");
        }
    }

    #[test]
    fn buckets_are_cumulative_in_the_order_of_their_bounds() {
        let text = render(&view());
        let prefix = "trine_turn_duration_seconds_bucket{shard=\"0\",le=\"";
        let bounds: Vec<f64> = text
            .lines()
            .filter_map(|line| line.strip_prefix(prefix)?.split_once('"'))
            .map(|(bound, _)| bound.parse().unwrap())
            .collect();
        assert!(bounds.is_sorted() && bounds.len() > 20);
        assert_eq!(bounds.last(), Some(&f64::INFINITY));
    }

    #[test]
    fn an_idle_or_absent_data_process_is_balanced() {
        assert_eq!(imbalance(&[]), 1.0);
        assert_eq!(imbalance(&[Snapshot::zero(), Snapshot::zero()]), 1.0);
        let mut empty = view();
        empty.shards.clear();
        empty.report = None;
        let text = render(&empty);
        parse(&text);
        assert!(!text.contains("trine_consumer_lag{") && !text.contains("trine_journal_info"));
    }
}
