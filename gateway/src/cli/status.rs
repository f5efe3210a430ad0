//! `trine status`: asks the admin listener what runs.
//!
//! **Runs on: any**, beside the gateway. One request over plain HTTP with a deadline.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;

use crate::admin::Status;
use crate::config::{Config, LogKind};
use crate::control::report::{Consumer, Journal, Report};
use crate::limits::{STATUS_ANSWER_BYTES, STATUS_TIMEOUT};

/// Prints what the gateway with this configuration says of itself.
pub(super) fn show(config: &Config) -> ExitCode {
    let admin = config.listen.admin;
    let status = ask(admin).and_then(|body| {
        serde_json::from_str::<Status>(&body)
            .map_err(|error| format!("what answers there is no trine: {error}"))
    });
    match status {
        Ok(status) => super::print(&describe(&status)),
        Err(reason) => {
            super::complain(&format!(
                "no status from {admin}: {reason}; is it running with this listen.admin?"
            ));
            ExitCode::FAILURE
        }
    }
}

fn ask(admin: SocketAddr) -> Result<String, String> {
    let exchange = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&admin, STATUS_TIMEOUT)?;
        stream.set_read_timeout(Some(STATUS_TIMEOUT))?;
        stream.set_write_timeout(Some(STATUS_TIMEOUT))?;
        write!(stream, "GET /status HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(STATUS_ANSWER_BYTES).read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().map_err(|error| error.to_string())?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err("the answer is no status".to_owned()),
    }
}

fn describe(status: &Status) -> String {
    let data = status.data_pid.map_or("none".to_owned(), |pid| format!("pid {pid}"));
    let adopted = if status.adopted { ", adopted" } else { "" };
    let mut text = format!(
        "build       {}\ncontrol     pid {}\ndata        {data}{adopted}, up {} s, {} restarts\n\
         config      {} (generation {})\ndriver      {}\n",
        status.build,
        status.control_pid,
        status.uptime_s,
        status.restarts,
        status.config_fingerprint,
        status.generation,
        status.driver,
    );
    text.push_str("shard  cpu  connections  sessions  channels  subscriptions  busy\n");
    for shard in &status.shards {
        let cpu = shard.cpu.map_or("-".to_owned(), |cpu| cpu.to_string());
        text.push_str(&format!(
            "{:5}  {cpu:>3}  {:11}  {:8}  {:8}  {:13}  {:3.0}%\n",
            shard.index,
            shard.connections,
            shard.sessions,
            shard.channels,
            shard.subscriptions,
            shard.utilisation * 100.0,
        ));
    }
    describe_log(&mut text, status);
    describe_consumers(&mut text, &status.report);
    text
}

fn describe_log(text: &mut String, status: &Status) {
    let Some(log) = &status.report.log else { return };
    let kind = match log.kind {
        LogKind::Embedded => "embedded",
        LogKind::Kafka => "kafka",
    };
    match &log.journal {
        Some(journal) => describe_journal(text, "log", &format!("{kind}, "), journal),
        None => text.push_str(&format!("log         {kind}\n")),
    }
    if let Some(spool) = &status.report.spool {
        let age_s = status.spool_age_ms as f64 / 1e3;
        let waiting = match status.spool_records {
            _ if !status.spool_open => "is being read, ".to_owned(),
            0 => "empty, ".to_owned(),
            records => format!("{records} records for Kafka, the oldest {age_s:.1} s old, "),
        };
        describe_journal(text, "spool", &waiting, spool);
    }
    if let Some(letters) = &status.report.dead_letters {
        describe_journal(text, "dead letter", "", letters);
    }
    for (topic, queue) in &status.report.queues {
        describe_journal(text, "queue", &format!("{topic}, "), queue);
    }
    text.push_str(&format!("refused     {} durable events\n", status.events_refused));
}

fn describe_journal(text: &mut String, name: &str, what: &str, journal: &Journal) {
    text.push_str(&format!(
        "{name:<12}{what}{}, {} of {}, {}\n            {} records in {} syncs, on average {:.1} ms, \
         at most {:.1} ms; driver: {}\n",
        journal.phase,
        mebibytes(journal.used_bytes),
        mebibytes(journal.quota_bytes),
        journal.data_dir,
        journal.records,
        journal.syncs,
        journal.sync_mean_ns as f64 / 1e6,
        journal.sync_max_ns as f64 / 1e6,
        journal.driver.as_deref().unwrap_or("none yet"),
    ));
    if let Some(found) = &journal.recovery {
        text.push_str(&format!(
            "            recovered {} records and cursor moves, {} in {} ms: {} damaged places, \
             {} segments and {} records missing, {} bytes torn\n",
            found.records,
            mebibytes(found.bytes),
            found.duration_ms,
            found.damaged,
            found.missing_segments,
            found.missing_records,
            found.torn_bytes,
        ));
    }
    for damage in &journal.damages {
        text.push_str(&format!("            damage: {damage}\n"));
    }
    if journal.removed_records > 0 {
        text.push_str(&format!(
            "            {} records removed to make room or for their age\n",
            journal.removed_records
        ));
    }
    if journal.failures > 0 {
        text.push_str(&format!(
            "            {} failures of the disk, {} records lost to them; the last: {}\n",
            journal.failures,
            journal.lost_records,
            journal.error.as_deref().unwrap_or("unknown"),
        ));
    }
}

/// A line for each consumer and topic, and for each group of other programs.
fn describe_consumers(text: &mut String, report: &Report) {
    let all = || report.consumers.iter().chain(&report.watched);
    if all().next().is_none() {
        return;
    }
    let width = |of: fn(&Consumer) -> &str, least: usize| {
        all().map(|consumer| of(consumer).len()).max().unwrap_or(0).max(least)
    };
    let name = width(|consumer| &consumer.name, 8);
    let group = width(|consumer| &consumer.group, 5);
    let topic = width(|consumer| &consumer.topic, 5);
    text.push_str(&format!(
        "{:<name$}  {:<group$}  {:<topic$}  partitions  paused         lag\n",
        "consumer", "group", "topic"
    ));
    for consumer in all() {
        let paused = consumer.partitions.iter().filter(|partition| partition.paused).count();
        text.push_str(&format!(
            "{:<name$}  {:<group$}  {:<topic$}  {:10}  {paused:6}  {:10}\n",
            if consumer.name.is_empty() { "-" } else { &consumer.name },
            consumer.group,
            consumer.topic,
            consumer.partitions.len(),
            consumer.lag(),
        ));
    }
    if report.partitions_omitted > 0 {
        text.push_str(&format!("{} partitions more, with less lag\n", report.partitions_omitted));
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::{Log, Partition, Recovery};

    #[test]
    fn people_are_told_of_damage_failures_and_lag() {
        let journal = Journal {
            data_dir: "/data".to_owned(),
            phase: "failing".to_owned(),
            used_bytes: 3 << 20,
            quota_bytes: 1 << 30,
            records: 10,
            syncs: 4,
            sync_mean_ns: 1_500_000,
            failures: 2,
            error: Some("write: no space".to_owned()),
            recovery: Some(Recovery { damaged: 1, ..Recovery::default() }),
            damages: vec!["segment 1, bytes 2..3".to_owned()],
            ..Journal::default()
        };
        let at = |partition, position| Partition {
            partition,
            position,
            end_offset: 9,
            paused: partition == 1,
            lag_level: 0,
            age_ms: 0,
        };
        let report = Report {
            log: Some(Log { kind: LogKind::Embedded, journal: Some(journal) }),
            consumers: vec![Consumer {
                name: "notification".to_owned(),
                group: "desk".to_owned(),
                topic: "tickets".to_owned(),
                partitions: vec![at(0, 9), at(1, 2)],
            }],
            watched: vec![Consumer {
                name: String::new(),
                group: "billing".to_owned(),
                topic: "tickets".to_owned(),
                partitions: vec![at(0, 4)],
            }],
            ..Report::default()
        };
        let mut status = Status { events_refused: 7, report, ..Status::default() };
        let text = describe(&status);
        for line in [
            "log         embedded, failing, 3.0 MiB of 1024.0 MiB, /data",
            "10 records in 4 syncs, on average 1.5 ms",
            "1 damaged places",
            "damage: segment 1, bytes 2..3",
            "2 failures of the disk, 0 records lost to them; the last: write: no space",
            "refused     7 durable events",
            "notification  desk     tickets           2       1           7",
            "-             billing  tickets           1       0           5",
        ] {
            assert!(text.contains(line), "{line}\n---\n{text}");
        }

        let journal = status.report.log.take().and_then(|log| log.journal);
        status.report.log = Some(Log { kind: LogKind::Kafka, journal: None });
        let letters = Journal { removed_records: 5, ..journal.clone().unwrap_or_default() };
        (status.report.spool, status.report.dead_letters) = (journal, Some(letters));
        (status.spool_records, status.spool_age_ms) = (12, 3_400);
        assert!(describe(&status).contains("spool       is being read, failing, 3.0 MiB of"));
        status.spool_open = true;
        let text = describe(&status);
        let waiting = "spool       12 records for Kafka, the oldest 3.4 s old, failing, 3.0 MiB of";
        assert!(text.contains("log         kafka\n") && text.contains(waiting), "{text}");
        let letters = text.split_once("dead letter failing, 3.0 MiB of").expect("its line").1;
        assert!(letters.contains("5 records removed to make room"), "{text}");
    }
}
