//! `consume`: measures a group member of `trine_core::kafka` alone, as a shard drives it. Flags and
//! output are those of `baselines/go/consume`.
//!
//! **Runs on: shard** (one thread).
//!
//! Invariants: each partition has one fetch wanted at a time, as a consumer without back-pressure
//! has; offsets without gap, what is not is an error; all that was read is committed at the end.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Serialize;
use trine_bench::accounting::own_cpu;
use trine_bench::client::{self, since_1970_ns};
use trine_core::kafka::client::Client;
use trine_core::kafka::consumer::{Assignor, Consumer, Event, Options, Protocol, Start};
use trine_core::kafka::producer::{self, TopicId};
use trine_core::rt;
use trine_proto::kafka::record::Body;

/// As in the gateway.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bytes of one partition's answer, at most: the default of franz-go and librdkafka.
const FETCH_BYTES: usize = 1 << 20;
/// How often the limit of time is looked at, milliseconds.
const LOOK_MS: u64 = 100;

/// Measures a group member alone.
#[derive(Parser)]
struct Arguments {
    /// A broker to begin with.
    #[arg(long)]
    brokers: SocketAddr,
    /// What is read.
    #[arg(long, default_value = "bench")]
    topic: String,
    /// A group that has committed nothing.
    #[arg(long, default_value = "bench")]
    group: String,
    /// How many are read, at least.
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Seconds that this may take.
    #[arg(long, default_value_t = 60.0)]
    limit: f64,
}

#[derive(Serialize)]
struct Report {
    client: &'static str,
    seconds: f64,
    records: u64,
    records_per_s: f64,
    cpu_us_per_record: f64,
    value_bytes: u64,
    errors: u64,
}

struct Member {
    arguments: Arguments,
    client: Rc<Client>,
    consumer: Rc<Consumer>,
    began: (Instant, Duration),
    first: Option<Instant>,
    /// The next offset of each partition, and what of it is committed.
    partitions: HashMap<(TopicId, u32), (i64, i64)>,
    events: Vec<Event>,
    records: u64,
    value_bytes: u64,
    errors: u64,
    report: Option<Report>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let began = (Instant::now(), own_cpu());
    let member: Rc<RefCell<Option<Member>>> = Rc::default();
    let begun = member.clone();
    let start = move |_: &rt::Driver| {
        *begun.borrow_mut() = Some(Member::new(arguments, began));
        rt::spawn(look());
        rt::request_turn();
    };
    let ended = rt::run(rt::Preference::from_environment(), start, |turn| {
        while turn.next_sent().is_some() {}
        if let Some(member) = &mut *member.borrow_mut() {
            member.turn();
        }
    });
    if let Err(error) = ended {
        eprintln!("consume: {error}");
        return ExitCode::FAILURE;
    }
    let member = member.borrow();
    match member.as_ref().and_then(|member| member.report.as_ref()) {
        Some(report) => {
            println!("{}", serde_json::to_string(report).expect("a plain struct"));
            ExitCode::SUCCESS
        }
        None => {
            let records = member.as_ref().map_or(0, |member| member.records);
            eprintln!("consume: only {records} records came, or were not committed");
            ExitCode::FAILURE
        }
    }
}

/// Lets turns come although nothing happens.
async fn look() {
    loop {
        rt::sleep_until(rt::now_ms() + LOOK_MS).await;
        rt::request_turn();
    }
}

impl Member {
    fn new(arguments: Arguments, began: (Instant, Duration)) -> Member {
        let client = client::start(arguments.brokers, producer::Options::default());
        let options = Options {
            group: arguments.group.as_str().into(),
            topics: vec![arguments.topic.as_str().into()],
            protocol: Protocol::Classic,
            assignor: Assignor::Range,
            start: Start::Earliest,
            instance: None,
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 30_000,
            read_committed: false,
            started_unix_ms: (since_1970_ns() / 1_000_000) as i64,
        };
        Member {
            consumer: Consumer::start(&client, options),
            client,
            began,
            first: None,
            partitions: HashMap::new(),
            events: Vec::new(),
            records: 0,
            value_bytes: 0,
            errors: 0,
            report: None,
            arguments,
        }
    }

    fn turn(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        self.consumer.take_events(&mut events);
        for event in events.drain(..) {
            self.take(event);
        }
        self.events = events;
        self.client.flush();
        self.consumer.flush();
        let is_done =
            self.is_enough() && self.partitions.values().all(|(next, committed)| committed >= next);
        if is_done {
            self.report = Some(self.report());
        }
        let limit = Duration::from_secs_f64(self.arguments.limit);
        if is_done || self.began.0.elapsed() > limit {
            self.consumer.close();
            self.client.close();
            rt::stop();
        }
    }

    fn is_enough(&self) -> bool {
        self.records >= self.arguments.records
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Assigned { topic, partition, next_offset } => {
                self.partitions.insert((topic, partition), (next_offset, next_offset));
                self.consumer.fetch(topic, partition, next_offset, FETCH_BYTES);
            }
            Event::Records { topic, partition, records, next_offset, .. } => {
                // What comes after enough has come is not counted and not committed.
                if self.is_enough() {
                    return;
                }
                self.count((topic, partition), &records, next_offset);
                self.consumer.commit(topic, partition, next_offset);
                self.consumer.fetch(topic, partition, next_offset, FETCH_BYTES);
            }
            Event::NotCommitted { .. } => {}
            Event::Committed { topic, partition, next_offset } => {
                if let Some((_, committed)) = self.partitions.get_mut(&(topic, partition)) {
                    *committed = next_offset;
                }
            }
            Event::Revoke { topic, partition } => self.consumer.released(topic, partition),
            Event::Lost { topic, partition } => {
                self.partitions.remove(&(topic, partition));
                self.errors += 1;
            }
            Event::OutOfRange { .. } => self.errors += 1,
            Event::Failed { text } => {
                eprintln!("consume: {text}");
                self.errors += 1;
            }
        }
    }

    fn count(
        &mut self,
        place: (TopicId, u32),
        records: &[trine_core::kafka::consumer::Record],
        next_offset: i64,
    ) {
        self.first.get_or_insert_with(Instant::now);
        let Some((next, _)) = self.partitions.get_mut(&place) else {
            self.errors += 1;
            return;
        };
        for record in records {
            self.errors += u64::from(record.offset != *next);
            *next = record.offset + 1;
            let value = Body::parse(&record.body).ok().and_then(|body| body.value());
            self.value_bytes += value.map_or(0, |value| value.len() as u64);
        }
        *next = next_offset;
        self.records += records.len() as u64;
    }

    fn report(&self) -> Report {
        let (at, cpu) = self.began;
        let since_first = self.first.unwrap_or(at).elapsed().as_secs_f64();
        let cpu_us = (own_cpu() - cpu).as_nanos() as f64 / 1e3;
        Report {
            client: "trine",
            seconds: at.elapsed().as_secs_f64(),
            records: self.records,
            records_per_s: self.records as f64 / since_first,
            cpu_us_per_record: cpu_us / self.records as f64,
            value_bytes: self.value_bytes,
            errors: self.errors,
        }
    }
}
