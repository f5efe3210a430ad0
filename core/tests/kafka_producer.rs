//! The producer against a real broker, read back by another client.
//!
//! **Runs on: any.** Runs only where `TRINE_KAFKA` names a broker (`host:port`), and against older
//! versions and errors where `TRINE_KFAKE` names the program of `tests/services/kfake`.

mod kafka;

use kafka::kfake::{self, Kfake};
use kafka::{PARTITIONS, PATIENCE, broker, create_topic, options, runtime};
use rskafka::client::ClientBuilder;
use rskafka::client::partition::UnknownTopicHandling;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use trine_core::kafka::client::{Client, Options};
use trine_core::kafka::cluster::{Literal, Resolve, literal};
use trine_core::kafka::producer::{self, Outcome, Refused};
use trine_core::kafka::{client::NotTaken, producer::Totals};
use trine_core::rt;
use trine_proto::hash;
use trine_proto::kafka::record::{Compression, write_body};

const KEYS: u64 = 1000;

/// What a shard shall produce.
struct Load {
    topic: String,
    records: u64,
    /// Records that may be unsettled.
    window: u64,
    value_bytes: usize,
    producer: producer::Options,
}

/// What came of it.
struct Report {
    outcomes: Vec<Outcome>,
    totals: Totals,
    cpu: Duration,
    elapsed: Duration,
}

struct Progress {
    client: Rc<Client>,
    given: u64,
    settled: u64,
    began: Option<(Instant, Duration)>,
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Lets turns come by themselves, so that a deadline is seen and what others do is looked at.
async fn ticks() {
    loop {
        rt::sleep_until(rt::now_ms() + 5).await;
        rt::request_turn();
    }
}

/// Runs a shard that produces the load, with `tokens` counting from 0.
fn produce(load: &Load, bootstrap: SocketAddr, resolve: Rc<dyn Resolve>) -> Report {
    let progress: Rc<RefCell<Option<Progress>>> = Rc::default();
    let (begun, producer) = (progress.clone(), load.producer.clone());
    let mut outcomes = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    let mut report = None;
    let start = move |driver: &rt::Driver| {
        println!("driver: {driver}");
        let client = Client::start(Options { resolve, ..options(bootstrap, 0, producer) });
        *begun.borrow_mut() = Some(Progress { client, given: 0, settled: 0, began: None });
        rt::spawn(ticks());
        rt::request_turn();
    };
    rt::run(rt::Preference::from_environment(), start, |turn| {
        while turn.next_sent().is_some() {}
        let mut progress = progress.borrow_mut();
        let Some(progress) = &mut *progress else { return };
        let before = outcomes.len();
        progress.client.take_outcomes(&mut outcomes);
        progress.settled += (outcomes.len() - before) as u64;
        feed(progress, load);
        progress.client.flush();
        assert!(Instant::now() < deadline, "stuck: {:?}", progress.client.take_error());
        if progress.settled == load.records && report.is_none() {
            let (began, cpu_before) = progress.began.expect("it has begun");
            report = Some((began.elapsed(), cpu() - cpu_before, progress.client.totals()));
            progress.client.close();
            rt::stop();
        }
    })
    .expect("a driver");
    let (elapsed, cpu, totals) = report.expect("it was done");
    Report { outcomes, totals, cpu, elapsed }
}

/// Records are of now: a broker removes at once what is older than its retention.
fn now_ms() -> i64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64
}

fn feed(progress: &mut Progress, load: &Load) {
    let topic = progress.client.topic(&load.topic);
    let count = progress.client.partition_count(topic);
    if count == 0 {
        return;
    }
    progress.began.get_or_insert_with(|| (Instant::now(), cpu()));
    let mut body = Vec::new();
    let mut value = vec![b'.'; load.value_bytes];
    let now_ms = now_ms();
    while progress.given < load.records && progress.given - progress.settled < load.window {
        let token = progress.given;
        let key = format!("key-{}", token % KEYS);
        value[..20].copy_from_slice(format!("{token:020}").as_bytes());
        body.clear();
        write_body(&mut body, Some(key.as_bytes()), Some(&value), std::iter::empty());
        let partition = hash::partition(key.as_bytes(), count);
        match progress.client.append(token, topic, partition, now_ms, &body) {
            Ok(()) => progress.given += 1,
            Err(NotTaken::Refused(Refused::Full)) => return,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// What the topic holds: partition, offset, key and token of each record, by another client.
fn read_back(bootstrap: SocketAddr, topic: &str) -> Vec<(i32, i64, Vec<u8>, u64)> {
    runtime().block_on(async {
        let client = ClientBuilder::new(vec![bootstrap.to_string()]).build().await.unwrap();
        let mut all = Vec::new();
        for partition in 0..PARTITIONS as i32 {
            let retry = UnknownTopicHandling::Retry;
            let partition_client = client.partition_client(topic, partition, retry).await.unwrap();
            let mut offset = 0;
            loop {
                let (records, end) =
                    partition_client.fetch_records(offset, 1..4_000_000, 1000).await.unwrap();
                for record in records {
                    offset = record.offset + 1;
                    let value = record.record.value.expect("a value");
                    let token = std::str::from_utf8(&value[..20]).unwrap().parse().unwrap();
                    let key = record.record.key.expect("a key");
                    all.push((partition, record.offset, key, token));
                }
                if offset >= end {
                    break;
                }
            }
        }
        all
    })
}

/// Each record is acknowledged where it is, once, and those of a key are in order.
fn check(load: &Load, report: &Report, found: &[(i32, i64, Vec<u8>, u64)]) {
    assert_eq!(report.outcomes.len() as u64, load.records);
    assert_eq!(found.len() as u64, load.records, "nothing is lost and nothing there twice");
    let by_token: HashMap<u64, i64> = found.iter().map(|found| (found.3, found.1)).collect();
    assert_eq!(by_token.len() as u64, load.records);
    for outcome in &report.outcomes {
        match outcome {
            Outcome::Acknowledged { token, offset: Some(offset) } => {
                assert_eq!(by_token[token], *offset, "where it was said to be");
            }
            Outcome::Acknowledged { token, .. } => assert!(by_token.contains_key(token)),
            failed => panic!("{failed:?}"),
        }
    }
    let mut last: HashMap<&[u8], u64> = HashMap::new();
    for (_, _, key, token) in found {
        let before = last.insert(key, *token);
        assert!(before.is_none_or(|before| before < *token), "the records of a key in order");
    }
    println!("checked {} records of {} keys", found.len(), last.len());
}

fn small(records: u64, what: &str, bootstrap: SocketAddr) -> Load {
    let topic = create_topic(bootstrap, what);
    let producer = producer::Options::default();
    Load { topic, records, window: 5_000, value_bytes: 100, producer }
}

#[test]
fn records_are_there_once_in_order_and_where_they_were_said_to_be() {
    let Some(broker) = broker() else { return };
    let all = [
        (Compression::None, 100_000),
        (Compression::Gzip, 10_000),
        (Compression::Snappy, 10_000),
        (Compression::Lz4, 10_000),
        (Compression::Zstd, 10_000),
    ];
    for (compression, records) in all {
        let mut load = small(records, "plain", broker);
        load.producer.compression = compression;
        let report = produce(&load, broker, Rc::new(Literal));
        println!("{compression:?}: {:?}", report.totals);
        check(&load, &report, &read_back(broker, &load.topic));
    }
}

fn on(kfake: &Kfake, records: u64) -> (Load, Report) {
    let producer = producer::Options { batch_bytes: 2_000, ..producer::Options::default() };
    let topic = kfake::TOPIC.to_owned();
    let load = Load { topic, records, window: 5_000, value_bytes: 100, producer };
    let report = produce(&load, kfake.address, Rc::new(Literal));
    (load, report)
}

#[test]
fn older_brokers_are_spoken_to_by_their_versions() {
    for version in kfake::OLDER {
        let Some(mut kfake) = Kfake::start(version, PARTITIONS) else { return };
        let (load, report) = on(&kfake, 20_000);
        println!("{version}: {:?}", report.totals);
        check(&load, &report, &kfake.read());
    }
}

/// What a broker says of a batch that it takes later, or has taken already.
const PASSING: [&str; 13] = [
    "CORRUPT_MESSAGE",
    "UNKNOWN_TOPIC_OR_PARTITION",
    "LEADER_NOT_AVAILABLE",
    "NOT_LEADER_FOR_PARTITION",
    "REQUEST_TIMED_OUT",
    "NETWORK_EXCEPTION",
    "NOT_ENOUGH_REPLICAS",
    "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
    "KAFKA_STORAGE_ERROR",
    "FENCED_LEADER_EPOCH",
    "UNKNOWN_LEADER_EPOCH",
    "OUT_OF_ORDER_SEQUENCE_NUMBER",
    "UNKNOWN_PRODUCER_ID",
];

/// Each third request fails, with requests in flight behind it, so that it hits the oldest and others.
#[test]
fn errors_that_pass_lose_nothing_and_keep_the_order() {
    for error in PASSING {
        let Some(mut kfake) = Kfake::start("", PARTITIONS) else { return };
        assert_eq!(kfake.ask(&format!("fault Produce {error} 3 20")), "ok", "{error}");
        let (load, report) = on(&kfake, 20_000);
        assert_eq!(kfake.ask("hits"), "20", "{error}");
        println!("{error}: {:?}", report.totals);
        check(&load, &report, &kfake.read());
    }
}

/// What a broker refuses for good fails by that name and is not there; all else is, in order.
#[test]
fn errors_that_stay_are_told_and_the_rest_flows() {
    for error in ["TOPIC_AUTHORIZATION_FAILED", "POLICY_VIOLATION", "INVALID_REQUIRED_ACKS"] {
        let Some(mut kfake) = Kfake::start("", PARTITIONS) else { return };
        assert_eq!(kfake.ask(&format!("fault Produce {error} 3 5")), "ok", "{error}");
        let (load, report) = on(&kfake, 20_000);
        let found = kfake.read();
        let there: HashMap<u64, i64> = found.iter().map(|found| (found.3, found.1)).collect();
        assert_eq!(there.len(), found.len(), "{error}: nothing twice");
        let mut failed = 0;
        for outcome in &report.outcomes {
            match outcome {
                Outcome::Acknowledged { token, .. } => assert!(there.contains_key(token)),
                Outcome::Failed { token, possibly_written, why } => {
                    failed += 1;
                    let is_there = there.contains_key(token);
                    assert!(*possibly_written || !is_there, "{error}: {token} {why:?}");
                }
            }
        }
        assert!(failed > 0 && failed < load.records, "{error}: {failed} failed");
        let mut last: HashMap<&[u8], u64> = HashMap::new();
        for (_, _, key, token) in &found {
            assert!(last.insert(key, *token).is_none_or(|before| before < *token), "{error}");
        }
        println!("{error}: {failed} failed, {:?}", report.totals);
    }
}

/// Brokers are reached through the proxy, whatever they say of themselves.
struct Through(SocketAddr);

impl Resolve for Through {
    fn resolve(&self, host: &str, port: u16) -> Option<SocketAddr> {
        literal(host, port).map(|_| self.0)
    }
}

#[test]
fn connections_that_break_lose_and_double_nothing() {
    let Some(broker) = broker() else { return };
    let proxy = Proxy::start(broker);
    let load = small(100_000, "cut", broker);
    let report = produce(&load, proxy.address, Rc::new(Through(proxy.address)));
    let cuts = proxy.cuts.load(Ordering::SeqCst);
    println!("{cuts} cuts, {:?}", report.totals);
    assert!(cuts >= 5, "the proxy has cut connections");
    assert!(report.totals.errors > 0, "requests were lost with them");
    check(&load, &report, &read_back(broker, &load.topic));
}

/// A TCP proxy that cuts each connection after some traffic, now in a request, now in a response.
struct Proxy {
    address: SocketAddr,
    cuts: Arc<AtomicUsize>,
}

impl Proxy {
    fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let cuts = Arc::new(AtomicUsize::new(0));
        let count = cuts.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(to) else { continue };
                let number = count.load(Ordering::SeqCst);
                // Requests of a run are a hundred times longer than responses.
                let (up, down) = match number {
                    0..10 if number.is_multiple_of(2) => (600_000 + 70_001 * number, usize::MAX),
                    0..10 => (usize::MAX, 2_000 + 301 * number),
                    _ => (usize::MAX, usize::MAX),
                };
                let pair = Arc::new(Mutex::new(Some((
                    client.try_clone().unwrap(),
                    server.try_clone().unwrap(),
                ))));
                copy(
                    client.try_clone().unwrap(),
                    server.try_clone().unwrap(),
                    up,
                    pair.clone(),
                    count.clone(),
                );
                copy(server, client, down, pair, count.clone());
            }
        });
        Self { address, cuts }
    }
}

type Pair = Arc<Mutex<Option<(TcpStream, TcpStream)>>>;

/// Copies until `limit` bytes have gone, then cuts both sides.
fn copy(mut from: TcpStream, mut to: TcpStream, limit: usize, pair: Pair, cuts: Arc<AtomicUsize>) {
    std::thread::spawn(move || {
        let (mut buffer, mut left) = (vec![0; 16 << 10], limit);
        while let Ok(count) = from.read(&mut buffer) {
            if count == 0 || to.write_all(&buffer[..count.min(left)]).is_err() {
                break;
            }
            left = left.saturating_sub(count);
            if left == 0 {
                cuts.fetch_add(1, Ordering::SeqCst);
                break;
            }
        }
        if let Some((client, server)) = pair.lock().unwrap().take() {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    });
}

/// A TCP proxy that can keep what clients send, cut them off, and give it to the broker later.
#[derive(Default)]
struct Delay {
    holds: AtomicBool,
    held: AtomicUsize,
    releases: AtomicBool,
    /// Bytes that the broker answered when no client was there any more.
    late: AtomicUsize,
    clients: Mutex<Vec<TcpStream>>,
}

impl Delay {
    fn start(to: SocketAddr) -> (Arc<Delay>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, delay) = (listener.local_addr().unwrap(), Arc::<Delay>::default());
        let own = delay.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(to) else { continue };
                own.clients.lock().unwrap().push(client.try_clone().unwrap());
                let (up, down) = (own.clone(), own.clone());
                let (from, answers) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || up.up(from, server));
                std::thread::spawn(move || down.down(answers, client));
            }
        });
        (delay, address)
    }

    fn up(&self, mut client: TcpStream, mut server: TcpStream) {
        let (mut buffer, mut held) = (vec![0; 16 << 10], Vec::new());
        while let Ok(count @ 1..) = client.read(&mut buffer) {
            if self.holds.load(Ordering::SeqCst) || !held.is_empty() {
                held.extend_from_slice(&buffer[..count]);
                self.held.fetch_add(count, Ordering::SeqCst);
            } else if server.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
        let deadline = Instant::now() + PATIENCE;
        while !held.is_empty() && !self.releases.load(Ordering::SeqCst) {
            assert!(Instant::now() < deadline, "what is held is given on, or the test is over");
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = server.write_all(&held);
        if held.is_empty() {
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    fn down(&self, mut server: TcpStream, mut client: TcpStream) {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = server.read(&mut buffer) {
            if client.write_all(&buffer[..count]).is_err() {
                self.late.fetch_add(count, Ordering::SeqCst);
            }
        }
    }

    fn cut(&self) {
        self.holds.store(false, Ordering::SeqCst);
        for client in self.clients.lock().unwrap().drain(..) {
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

/// Where [`a_late_batch_of_the_epoch_before_is_fenced`] is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Begins,
    Written,
    Held,
    Forwarded,
    Released,
}

/// What the spool does after an outage, while the network still has the batch from before it.
#[test]
fn a_late_batch_of_the_epoch_before_is_fenced() {
    let Some(broker) = broker() else { return };
    let (delay, address) = Delay::start(broker);
    let topic = create_topic(broker, "late");
    let (client, stage) = (Rc::new(RefCell::new(None)), Cell::new(Stage::Begins));
    let (started, deadline) = (client.clone(), Instant::now() + PATIENCE);
    let start = move |_: &rt::Driver| {
        let options = options(address, 0, producer::Options::default());
        let resolve = Rc::new(Through(address));
        *started.borrow_mut() = Some(Client::start(Options { resolve, ..options }));
        rt::spawn(ticks());
    };
    let mut outcomes = Vec::new();
    rt::run(rt::Preference::from_environment(), start, |turn| {
        while turn.next_sent().is_some() {}
        let client = client.borrow();
        let Some(client) = client.as_ref() else { return };
        assert!(Instant::now() < deadline, "stuck at {:?}: {:?}", stage.get(), client.take_error());
        client.take_outcomes(&mut outcomes);
        let topic = client.topic(&topic);
        let append = |token: u64| {
            let (mut body, value) = (Vec::new(), format!("{token:020}"));
            write_body(&mut body, Some(b"key"), Some(value.as_bytes()), std::iter::empty());
            client.append(token, topic, 0, now_ms(), &body).expect("it is taken");
        };
        match stage.get() {
            Stage::Begins if client.partition_count(topic) > 0 => {
                (0..10).for_each(append);
                stage.set(Stage::Written);
            }
            Stage::Written if outcomes.len() == 10 => {
                delay.holds.store(true, Ordering::SeqCst);
                (10..20).for_each(append);
                stage.set(Stage::Held);
            }
            Stage::Held if delay.held.load(Ordering::SeqCst) > 0 => {
                let partition = client.partition(topic, 0).expect("it is known");
                let taken = client.take_over(partition);
                assert_eq!(taken.len(), 10);
                delay.cut();
                client.raise_epoch();
                taken.iter().for_each(|taken| append(taken.token));
                stage.set(Stage::Forwarded);
            }
            Stage::Forwarded if outcomes.len() == 20 => {
                delay.releases.store(true, Ordering::SeqCst);
                stage.set(Stage::Released);
            }
            // The broker has answered the late batch, so it has seen it.
            Stage::Released if delay.late.load(Ordering::SeqCst) > 0 => {
                client.close();
                rt::stop();
            }
            _ => {}
        }
        client.flush();
    })
    .expect("a driver");
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Acknowledged { .. })));
    let found: Vec<u64> = read_back(broker, &topic).into_iter().map(|found| found.3).collect();
    assert_eq!(found, (0..20).collect::<Vec<u64>>(), "the late batch is refused");
}

/// No assertion: what a record costs the shard, for the eye.
#[test]
fn cpu_for_each_record() {
    let Some(broker) = broker() else { return };
    let records = if cfg!(debug_assertions) { 50_000 } else { 1_000_000 };
    for round in 0..3 {
        let mut load = small(records, "cost", broker);
        load.window = 50_000;
        load.producer.linger_ms = 5;
        let report = produce(&load, broker, Rc::new(Literal));
        let ns = report.cpu.as_nanos() / u128::from(records);
        let rate = records as f64 / report.elapsed.as_secs_f64();
        println!(
            "round {round}: {records} records of 128 B, linger 5 ms: {ns} ns of CPU each, \
             {rate:.0} records/s, {:.0} records a batch, {:.1} batches a request",
            records as f64 / report.totals.batches as f64,
            report.totals.batches as f64 / report.totals.requests as f64,
        );
    }
}
