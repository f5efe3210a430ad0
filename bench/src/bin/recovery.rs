//! `recovery`: writes a journal, opens it again with its files cached, and says at which rate; beside
//! it the rates of merely reading the same files, cached and past the cache. One line of JSON.
//!
//! **Runs on: any** (one thread), as the storage thread does it at a start.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{fs, io};

use bytes::Bytes;
use clap::Parser;
use serde::Serialize;
use trine_bench::disk::read_all;
use trine_core::journal::disk::at_once;
use trine_core::journal::disk::plain::PlainDisk;
use trine_core::journal::{self, Event, Journal, Options, Refused, Retention, StreamId};

/// As in the gateway.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Streams that the records are spread over: a topic's partitions.
const STREAMS: usize = 16;
const GIB: f64 = (1 << 30) as f64;

/// Measures how fast a journal opens.
#[derive(Parser)]
struct Arguments {
    /// An empty folder for the journal; made, and removed again.
    folder: PathBuf,
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Of a record.
    #[arg(long, default_value_t = 1024)]
    bytes: usize,
    /// How often it is opened; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

#[derive(Serialize)]
struct Report {
    records: u64,
    /// Of the journal's files.
    bytes: u64,
    seconds: f64,
    gib_per_s: f64,
    records_per_s: f64,
    /// Reading the same files and nothing else.
    cached_read_gib_per_s: f64,
    /// The same past the page cache; `null` where the filesystem can't.
    direct_read_gib_per_s: Option<f64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let report = fs::create_dir(&arguments.folder).and_then(|()| {
        let report = measure(&arguments);
        fs::remove_dir_all(&arguments.folder)?;
        report
    });
    match report {
        Ok(report) => {
            println!("{}", serde_json::to_string(&report).expect("a plain struct"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("recovery: {}: {error}", arguments.folder.display());
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> io::Result<Report> {
    let options = Options {
        quota_bytes: arguments.records * (arguments.bytes as u64 + 256) * 2 + (64 << 20),
        retention: Retention::Released,
        gather_ms: 0,
    };
    write(arguments, options)?;
    let folder = &arguments.folder;
    let direct_read = read_all(folder, true).ok().map(rate);
    // What was written past the cache is in it after this.
    read_all(folder, false)?;
    let cached_read_gib_per_s = rate(read_all(folder, false)?);
    let mut rounds = Vec::new();
    for _ in 0..arguments.rounds.max(1) {
        rounds.push(open(folder, options, arguments.records)?);
    }
    rounds.sort();
    let (took, bytes) = rounds[rounds.len() / 2];
    let seconds = took.as_secs_f64();
    Ok(Report {
        records: arguments.records,
        bytes,
        seconds,
        gib_per_s: bytes as f64 / GIB / seconds,
        records_per_s: arguments.records as f64 / seconds,
        cached_read_gib_per_s,
        direct_read_gib_per_s: direct_read,
    })
}

fn rate((bytes, took): (u64, Duration)) -> f64 {
    bytes as f64 / GIB / took.as_secs_f64()
}

/// Opens the journal, which must hold all records; gives time and bytes.
fn open(folder: &Path, options: Options, records: u64) -> io::Result<(Duration, u64)> {
    let mut disk = PlainDisk::open(folder)?;
    let began = Instant::now();
    let opened = at_once(journal::open(&mut disk, options))?;
    let took = began.elapsed();
    // `Opened::records` counts the streams' names too.
    let streams: Vec<StreamId> = opened.journal.names(false).map(|(stream, _)| stream).collect();
    let ranges = streams.iter().map(|&stream| opened.journal.range(stream));
    let found: u64 = ranges.map(|range| range.end - range.start).sum();
    if found != records || !opened.damaged.is_empty() || opened.missing_records != 0 {
        let damaged = opened.damaged.len();
        return Err(io::Error::other(format!(
            "{found} of {records} records were found, {damaged} damaged places"
        )));
    }
    Ok((took, opened.bytes))
}

fn write(arguments: &Arguments, options: Options) -> io::Result<()> {
    let mut disk = PlainDisk::open(&arguments.folder)?;
    let mut journal = at_once(journal::open(&mut disk, options))?.journal;
    let names = (0..STREAMS).map(|number| format!("ticket.create/{number}"));
    let streams: Option<Vec<StreamId>> = names.map(|name| journal.stream(&name)).collect();
    let streams = streams.ok_or_else(|| io::Error::other("too many streams"))?;
    let payload = Bytes::from(vec![b'x'; arguments.bytes]);
    let mut sent = 0;
    while sent < arguments.records {
        let stream = streams[sent as usize % STREAMS];
        match journal.append(sent, stream, payload.clone(), 0) {
            Ok(_) => sent += 1,
            Err(Refused::Busy) => commit(&mut journal, &mut disk)?,
            Err(refused) => return Err(io::Error::other(format!("{refused:?}"))),
        }
    }
    commit(&mut journal, &mut disk)?;
    journal.close();
    commit(&mut journal, &mut disk)
}

/// Does what the journal wants of the disk until it wants nothing.
fn commit(journal: &mut Journal, disk: &mut PlainDisk) -> io::Result<()> {
    let mut events = Vec::new();
    journal.flush();
    while let Some(operation) = journal.next_operation(0) {
        let result = at_once(journal::perform(disk, &operation));
        journal.completed(result, 0, &mut events);
        for event in events.drain(..) {
            if let Event::Lost { .. } | Event::Failed { .. } = event {
                return Err(io::Error::other(format!("{event:?}")));
            }
        }
    }
    Ok(())
}
