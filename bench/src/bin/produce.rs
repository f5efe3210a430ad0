//! `produce`: measures the producer of `trine_core::kafka` alone, as a shard drives it. Flags, clock
//! and output are those of `baselines/go/produce`.
//!
//! **Runs on: shard** (one thread).
//!
//! Invariants: in a closed loop no more than `--outstanding` records are unsettled; in an open loop
//! a record's latency counts from the due time that `clock` gave it; every record that was taken is
//! settled before the report.
#![allow(unsafe_code)] // taking over the standard input

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use serde::Serialize;
use trine_bench::accounting::own_cpu;
use trine_bench::client::{self, since_1970_ns};
use trine_bench::load::Latency;
use trine_core::kafka::client::{Client, NotTaken};
use trine_core::kafka::producer::{self, Outcome, Refused, TopicId};
use trine_core::rt;
use trine_proto::kafka::record::write_body;

/// As in the gateway.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often patience is looked at, milliseconds.
const LOOK_MS: u64 = 100;
/// Longest latency told apart.
const LATENCY_LIMIT_NS: u64 = 60_000_000_000;

/// Measures the producer alone.
#[derive(Parser)]
struct Arguments {
    /// A broker to begin with.
    #[arg(long)]
    brokers: SocketAddr,
    /// Where records go.
    #[arg(long, default_value = "bench")]
    topic: String,
    /// They take turns.
    #[arg(long, default_value_t = 16)]
    partitions: u32,
    /// Of a record.
    #[arg(long, default_value_t = 128)]
    value_bytes: usize,
    /// Records without an acknowledgement, at most.
    #[arg(long, default_value_t = 10_000)]
    outstanding: u64,
    /// How long a batch waits for more records.
    #[arg(long, default_value_t = 0)]
    linger_ms: u64,
    /// How long the thread rests to let records gather, as a shard does; 0: never.
    #[arg(long, default_value_t = 250)]
    gather_us: u64,
    /// Of a batch, at most.
    #[arg(long, default_value_t = 1_000_000)]
    batch_bytes: usize,
    /// Seconds before measuring.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Seconds measured.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Open loop, by the due times on the standard input.
    #[arg(long)]
    clock: bool,
}

#[derive(Serialize)]
struct Report {
    client: &'static str,
    seconds: f64,
    records: u64,
    records_per_s: f64,
    cpu_us_per_record: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    acknowledged: u64,
    errors: u64,
    first_error: Option<String>,
}

/// The clocks at one moment.
#[derive(Clone, Copy)]
struct Reading {
    at: Instant,
    cpu: Duration,
    acknowledged: u64,
}

struct Load {
    arguments: Arguments,
    client: Rc<Client>,
    topic: TopicId,
    /// A record's body; all are the same.
    body: Vec<u8>,
    began: Option<Instant>,
    /// When the first record of an open loop was due.
    first_due_ns: u64,
    /// Due times that were not taken yet.
    due_ns: VecDeque<u64>,
    is_over: bool,
    sent: u64,
    acknowledged: u64,
    errors: u64,
    first_error: Option<String>,
    outcomes: Vec<Outcome>,
    latencies: Histogram<u64>,
    before: Option<Reading>,
    after: Option<Reading>,
    progress: Instant,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let load: Rc<RefCell<Option<Load>>> = Rc::default();
    let begun = load.clone();
    let start = move |_: &rt::Driver| {
        let clock = arguments.clock;
        *begun.borrow_mut() = Some(Load::new(arguments));
        if clock {
            rt::spawn(listen(begun.clone()));
        }
        rt::spawn(look());
        rt::request_turn();
    };
    let ended = rt::run(rt::Preference::from_environment(), start, |turn| {
        while turn.next_sent().is_some() {}
        if let Some(load) = &mut *load.borrow_mut() {
            load.turn(turn);
        }
    });
    if let Err(error) = ended {
        eprintln!("produce: {error}");
        return ExitCode::FAILURE;
    }
    let report = load.borrow().as_ref().and_then(Load::report);
    match report {
        Some(report) => {
            println!("{}", serde_json::to_string(&report).expect("a plain struct"));
            ExitCode::SUCCESS
        }
        None => {
            let why = load.borrow().as_ref().and_then(|load| load.client.take_error());
            eprintln!("produce: nothing was measured: {why:?}");
            ExitCode::FAILURE
        }
    }
}

/// Takes due times in.
async fn listen(load: Rc<RefCell<Option<Load>>>) {
    // SAFETY: nothing else in this process reads the standard input.
    let input = rt::Stream::from_fd(unsafe { OwnedFd::from_raw_fd(0) });
    let input = input.expect("a clock on the standard input");
    let mut part = Vec::new();
    while let Ok(Some(chunk)) = input.recv().await {
        if let Some(load) = &mut *load.borrow_mut() {
            part.extend_from_slice(&chunk);
            let (whole, rest) = part.as_chunks::<8>();
            load.due_ns.extend(whole.iter().map(|bytes| u64::from_le_bytes(*bytes)));
            let rest = rest.len();
            part.drain(..part.len() - rest);
        }
        rt::request_turn();
    }
    if let Some(load) = &mut *load.borrow_mut() {
        load.is_over = true;
    }
    rt::request_turn();
}

/// Lets turns come although nothing happens.
async fn look() {
    loop {
        rt::sleep_until(rt::now_ms() + LOOK_MS).await;
        rt::request_turn();
    }
}

impl Load {
    fn new(arguments: Arguments) -> Load {
        let options = producer::Options {
            linger_ms: arguments.linger_ms,
            batch_bytes: arguments.batch_bytes,
            ..producer::Options::default()
        };
        let client = client::start(arguments.brokers, options);
        let mut body = Vec::new();
        let value = vec![b'x'; arguments.value_bytes];
        write_body(&mut body, None, Some(&value), std::iter::empty());
        Load {
            topic: client.topic(&arguments.topic),
            client,
            body,
            began: None,
            first_due_ns: 0,
            due_ns: VecDeque::new(),
            is_over: false,
            sent: 0,
            acknowledged: 0,
            errors: 0,
            first_error: None,
            outcomes: Vec::new(),
            latencies: Histogram::new_with_bounds(1, LATENCY_LIMIT_NS, 3).expect("fixed bounds"),
            before: None,
            after: None,
            progress: Instant::now(),
            arguments,
        }
    }

    fn turn(&mut self, turn: &mut rt::Turn) {
        let sent = self.sent;
        self.settle();
        let is_known = self.client.partition_count(self.topic) >= self.arguments.partitions;
        if is_known && self.arguments.clock {
            self.send_due();
        } else if is_known {
            self.send_more();
        }
        self.client.flush();
        if self.unsettled() > 0 {
            turn.gather(self.sent - sent, Duration::from_micros(self.arguments.gather_us));
        }
        let is_done = self.is_over && self.due_ns.is_empty() && self.unsettled() == 0;
        if is_done || self.progress.elapsed() > PATIENCE {
            self.client.close();
            rt::stop();
        }
    }

    fn unsettled(&self) -> u64 {
        self.sent - self.acknowledged - self.errors
    }

    fn settle(&mut self) {
        let mut outcomes = std::mem::take(&mut self.outcomes);
        self.client.take_outcomes(&mut outcomes);
        if !outcomes.is_empty() {
            self.progress = Instant::now();
        }
        let now_ns = since_1970_ns();
        for outcome in outcomes.drain(..) {
            match outcome {
                Outcome::Acknowledged { token: due_ns, .. } => {
                    self.acknowledged += 1;
                    if due_ns != 0 {
                        self.latencies.saturating_record(now_ns.saturating_sub(due_ns).max(1));
                    }
                }
                Outcome::Failed { why, .. } => {
                    self.errors += 1;
                    self.first_error.get_or_insert_with(|| format!("{why:?}"));
                }
            }
        }
        self.outcomes = outcomes;
    }

    /// Whether the next record was taken; its token is `due_ns`.
    fn send(&mut self, due_ns: u64, now_ms: u64) -> bool {
        if self.unsettled() >= self.arguments.outstanding {
            return false;
        }
        let partition = (self.sent % u64::from(self.arguments.partitions)) as u32;
        match self.client.append(due_ns, self.topic, partition, now_ms as i64, &self.body) {
            Ok(()) => self.sent += 1,
            Err(NotTaken::Refused(Refused::Full)) => return false,
            Err(error) => {
                self.first_error.get_or_insert_with(|| format!("{error:?}"));
                self.is_over = true;
                return false;
            }
        }
        true
    }

    /// Closed loop.
    fn send_more(&mut self) {
        let since = self.began.get_or_insert_with(Instant::now).elapsed();
        let warm_up = Duration::from_secs_f64(self.arguments.warm_up);
        if since >= warm_up && self.before.is_none() {
            self.before = Some(self.read());
        }
        if since >= warm_up + Duration::from_secs_f64(self.arguments.seconds) {
            self.stop();
            self.is_over = true;
        }
        let now_ms = since_1970_ns() / 1_000_000;
        while !self.is_over && self.send(0, now_ms) {}
    }

    /// Open loop.
    fn send_due(&mut self) {
        let warm_up_ns = (self.arguments.warm_up * 1e9) as u64;
        let measured_ns = (self.arguments.seconds * 1e9) as u64;
        let now_ms = since_1970_ns() / 1_000_000;
        while let Some(&due_ns) = self.due_ns.front() {
            if self.first_due_ns == 0 {
                self.first_due_ns = due_ns;
            }
            let since_ns = due_ns - self.first_due_ns;
            let is_measured = (warm_up_ns..warm_up_ns + measured_ns).contains(&since_ns);
            if is_measured && self.before.is_none() {
                self.before = Some(self.read());
            }
            if since_ns >= warm_up_ns + measured_ns {
                self.stop();
            }
            if !self.send(if is_measured { due_ns } else { 0 }, now_ms) {
                return;
            }
            self.due_ns.pop_front();
        }
        if self.is_over {
            self.stop();
        }
    }

    fn stop(&mut self) {
        if self.after.is_none() {
            self.after = Some(self.read());
        }
    }

    fn read(&self) -> Reading {
        Reading { at: Instant::now(), cpu: own_cpu(), acknowledged: self.acknowledged }
    }

    fn report(&self) -> Option<Report> {
        let (before, after) = (self.before?, self.after?);
        let seconds = (after.at - before.at).as_secs_f64();
        let records = after.acknowledged - before.acknowledged;
        let latency = Latency::of(&self.latencies);
        let cpu_us = (after.cpu - before.cpu).as_nanos() as f64 / 1e3;
        let unsettled = (self.unsettled() > 0).then(|| "not everything was settled".to_owned());
        Some(Report {
            client: "trine",
            seconds,
            records,
            records_per_s: records as f64 / seconds,
            cpu_us_per_record: if records > 0 { cpu_us / records as f64 } else { 0.0 },
            p50_us: latency.p50_us,
            p99_us: latency.p99_us,
            p999_us: latency.p999_us,
            acknowledged: self.acknowledged,
            errors: self.errors + self.unsettled(),
            first_error: self.first_error.clone().or(unsettled),
        })
    }
}
