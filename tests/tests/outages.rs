//! Outages, and what must be left of them: brokers killed, unreachable, without enough replicas, a
//! spool or a disk that is full, another number of shards, groups in unrest, slow backends.
//!
//! **Runs on: any.** Each test ends with the checker. Its bound of duplicates is the design's: for
//! each outage five batches of every partition on every shard, and for each kill the same again and
//! what the last durable cursor lags behind. Batches are small, so that this is not much.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use trine_tests::backend::{Answer, Backend, Request};
use trine_tests::checker::{self, Allowed, BATCH_BYTES, Outcome, Record, Sent};
use trine_tests::durable::{
    self, FORWARD_RATE, PATIENCE, Plan, Progress, RATE_PER_S, RPC, SENDERS, SHARDS, StopOnDrop,
    TOPIC, places, publish,
};
use trine_tests::gateway::Gateway;
use trine_tests::harm::harm;
use trine_tests::kafka::Kafka;
use trine_tests::member::Member;
use trine_tests::namespace::Namespace;
use trine_tests::random::Random;
use trine_tests::{journal, process, wait};

const PARTITIONS: usize = 8;

/// How long each direction of a late Kafka's network takes at most.
const LATE: Duration = Duration::from_millis(1_500);

/// How long a group waits for a sign of life of a member, and how long members are stopped.
const SESSION_MS: u32 = 6_000;
const STOPPED: Duration = Duration::from_secs(15);

/// How long an expulsion may take: less than the 45 s of a member that was told no `session_ms`.
const EXPULSION: Duration = Duration::from_secs(35);

fn config(kafka: &Kafka, more: &str) -> String {
    format!(
        "shards.count = {SHARDS}\n[log]\nkind = \"kafka\"\n[kafka]\nbrokers = [\"{}\"]\n\
         batch_bytes = {BATCH_BYTES}\n{more}{RPC}",
        kafka.bootstrap().replace(',', "\", \"")
    )
}

/// Runs publishers of 2,000 messages a second while `meanwhile` does harm; what they know in the end.
fn publish_while(
    gateway: &mut Gateway,
    run: &str,
    fill_bytes: usize,
    meanwhile: impl FnOnce(&mut Gateway, &Progress),
) -> Vec<Sent> {
    let plan = Plan::rpc(gateway.client, run, "sender", TOPIC);
    let plan = Plan { rate_per_s: RATE_PER_S, fill_bytes, ..plan };
    durable::publish_while(gateway, &plan, SENDERS, meanwhile)
}

fn spooled(gateway: &Gateway) -> f64 {
    gateway.metrics().sum("trine_spool_records", &[])
}

/// Waits until something is spooled, or nothing is.
#[track_caller]
fn await_spool(gateway: &Gateway, is_empty: bool) {
    if is_empty {
        // Each kill may have left a share that is forwarded at no more than the spool's rate.
        return gateway.await_empty_spool(PATIENCE * harm().kills as u32 / 5);
    }
    let there = || (spooled(gateway) > 0.0).then_some(());
    assert!(wait::within(PATIENCE, there).is_some(), "something is spooled");
}

/// Waits until the spool is empty and says what Kafka has.
#[track_caller]
fn settled(gateway: &Gateway, kafka: &Kafka) -> Vec<Record> {
    await_spool(gateway, true);
    kafka.read(TOPIC)
}

/// What so many outages may leave twice.
fn allowed(outages: usize) -> Allowed {
    Allowed::outages(outages, SHARDS, PARTITIONS)
}

#[track_caller]
fn await_in_sync(kafka: &Kafka, topic: &str) {
    let all = || {
        let partitions = kafka.describe(topic);
        let whole = |count| count == kafka.nodes();
        partitions.iter().all(|of| whole(of.in_sync.len())).then_some(())
    };
    assert!(wait::within(PATIENCE, all).is_some(), "all replicas are in sync");
}

#[test]
fn a_killed_leader_and_too_few_replicas_lose_nothing() {
    let kafka = Kafka::start(3);
    kafka.create_topic(TOPIC, PARTITIONS);
    let mut gateway = Gateway::start(&config(&kafka, ""));
    let sent = publish_while(&mut gateway, "cluster", 0, |gateway, progress| {
        let leader = kafka.describe(TOPIC)[0].leader.expect("a leader");
        kafka.kill_node(leader);
        progress.acknowledge(3_000);
        kafka.restart_node(leader);
        await_in_sync(&kafka, TOPIC);
        await_spool(gateway, true);
        // From here on all three replicas are wanted: one node less, and no partition takes a record.
        kafka.configure_topic(TOPIC, "min.insync.replicas", "3");
        let follower = kafka.describe(TOPIC)[0].replicas[1];
        kafka.kill_node(follower);
        await_spool(gateway, false);
        progress.acknowledge(2_000);
        kafka.restart_node(follower);
        await_in_sync(&kafka, TOPIC);
    });
    let records = settled(&gateway, &kafka);
    println!("{:?}", places(&sent));
    assert!(gateway.metrics().sum("trine_kafka_errors_total", &[]) > 0.0, "operators see it");
    let report = checker::check("cluster", &sent, &records);
    report.assert(allowed(2));
}

#[test]
fn dropped_packets_are_bridged() {
    let outcome = Namespace::run("dropped_packets_are_bridged", |namespace| {
        let kafka = Kafka::start(1);
        kafka.create_topic(TOPIC, PARTITIONS);
        let mut gateway = Gateway::start(&config(&kafka, ""));
        let sent = publish_while(&mut gateway, "drops", 0, |gateway, progress| {
            namespace.drop_port(kafka.address(1).port());
            await_spool(gateway, false);
            progress.last();
            namespace.pass();
            await_spool(gateway, true);
        });
        let records = settled(&gateway, &kafka);
        println!("{:?}", places(&sent));
        let report = checker::check("drops", &sent, &records);
        report.assert(allowed(1));
    });
    if let Err(missing) = outcome {
        println!("SKIPPED: there can be no namespace: {missing}");
    }
}

/// A Kafka that takes longer than the spool waits, and stays so: what the spool has gets there once,
/// and not again and again, since nobody waits for it.
#[test]
fn a_kafka_that_stays_late_gets_what_is_spooled() {
    let (kafka, proxies) = Kafka::behind_proxies(1, 7);
    kafka.create_topic(TOPIC, PARTITIONS);
    let config = config(&kafka, "");
    let config = config.replace(&kafka.bootstrap(), &proxies[0].address().to_string());
    let mut gateway = Gateway::start(&config);
    let sent = publish_while(&mut gateway, "late", 0, |gateway, progress| {
        progress.acknowledge(1_000);
        proxies[0].delay(LATE);
        await_spool(gateway, false);
        progress.acknowledge(2_000);
    });
    let take_overs = || gateway.metrics().sum("trine_spool_take_overs_total", &[]) as usize;
    // Metrics tell a few times a second what happened before.
    let mut last = (take_overs(), Instant::now());
    let before = wait::until("no more are taken over", || {
        let now = take_overs();
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_secs(1)).then_some(now)
    });
    await_spool(&gateway, true);
    assert_eq!(take_overs(), before, "what is forwarded is not taken back");
    proxies[0].restore();
    println!("{:?}, {before} partitions taken over", places(&sent));
    let report = checker::check("late", &sent, &kafka.read(TOPIC));
    report.assert(allowed(before.div_ceil(SHARDS * PARTITIONS)));
}

#[test]
fn a_full_spool_refuses_and_keeps_what_it_has() {
    let kafka = Kafka::start(1);
    kafka.create_topic(TOPIC, PARTITIONS);
    let mut gateway = Gateway::start(&config(&kafka, "[spool]\nquota_bytes = 16_777_216\n"));
    let sent = publish_while(&mut gateway, "full", 30_000, |_, progress| {
        kafka.kill_node(1);
        let refused = || (progress.refused() >= 100).then_some(());
        assert!(wait::within(PATIENCE, refused).is_some(), "a full spool refuses");
        kafka.restart_node(1);
        progress.acknowledge(500);
    });
    let records = settled(&gateway, &kafka);
    println!("{:?}", places(&sent));
    let refusals = sent.iter().filter_map(|message| match message.outcome {
        Outcome::Refused { code, .. } => Some(code),
        _ => None,
    });
    assert_eq!(refusals.collect::<BTreeSet<_>>(), [100].into(), "temporary");
    let report = checker::check("full", &sent, &records);
    report.assert(allowed(1));
}

#[test]
fn what_only_the_log_may_acknowledge_never_enters_the_spool() {
    let kafka = Kafka::start(1);
    kafka.create_topic(TOPIC, 1);
    let strict =
        "[[rpc]]\nmethod = \"strict\"\ntopic = \"ticket.create\"\nkey = \"/key\"\nack = \"log\"\n";
    let config = config(&kafka, strict).replace("shards.count = 2", "shards.count = 1");
    let gateway = Gateway::start(&config);
    let send = |sender: &str, method: &str, count| {
        let plan = Plan::rpc(gateway.client, "strict", sender, method);
        publish(&plan, count, &Progress::default())
    };
    let mut serial = 0;
    let mut strictly = |wanted: &str| {
        let try_it = || {
            serial += 1;
            let sent = send(&format!("warm{serial}"), "strict", 1);
            matches!(sent[0].outcome, Outcome::Acknowledged { .. }).then_some(sent)
        };
        wait::within(PATIENCE, try_it).unwrap_or_else(|| panic!("{wanted}"))
    };
    // Refused tries before that one are of no interest: each has a sender of its own and a clean end.
    let mut sent = strictly("the log acknowledges");
    kafka.stop_node(1);
    let began = Instant::now();
    let hung = send("hung", "strict", 20);
    assert!(began.elapsed() >= Duration::from_secs(3), "log.timeout_ms, and not the spool's limit");
    let unclear = Outcome::Refused { code: 100, possibly_written: true };
    let refused = Outcome::Refused { code: 100, possibly_written: false };
    let is_refused = |of: &Sent| of.outcome == unclear || of.outcome == refused;
    assert!(hung.iter().all(is_refused), "{hung:?}");
    // What was sent may be in the log; what waited behind it is not.
    assert_eq!(hung[0].outcome, unclear);
    let metrics = gateway.metrics();
    assert_eq!(metrics.sum("trine_spool_records_total", &[("direction", "in")]), 0.0);
    assert_eq!(metrics.sum("trine_spool_records", &[]), 0.0);
    let bridged = send("bridged", TOPIC, 20);
    assert_eq!(places(&bridged), [("spool".to_owned(), 20)].into());
    let behind = send("behind", "strict", 20);
    assert!(behind.iter().all(|message| message.outcome == refused), "{behind:?}");
    // Those and no others; the gauge is told a little later.
    wait::until("20 are spooled", || (spooled(&gateway) == 20.0).then_some(()));
    let taken = gateway.metrics().sum("trine_spool_records_total", &[("direction", "in")]);
    assert_eq!(taken, 20.0);
    kafka.resume_node(1);
    await_spool(&gateway, true);
    sent.extend(strictly("the log acknowledges again"));
    let bridged_count = bridged.len();
    sent.extend([hung, bridged, behind].into_iter().flatten());
    let mut records = kafka.read(TOPIC);
    let known: BTreeSet<_> = sent.iter().map(|message| message.sender.clone()).collect();
    records.retain(|record| known.contains(text_of(record, "sender").as_str()));
    let report = checker::check("strict", &sent, &records);
    // What was spooled may be there twice; what only the log may acknowledge is given to it once.
    report.assert(Allowed { duplicates: bridged_count, ..Allowed::default() });
}

fn text_of(record: &Record, field: &str) -> String {
    let value: Value = serde_json::from_slice(record.value.as_deref().unwrap_or_default())
        .expect("a payload is JSON");
    value[field].as_str().unwrap_or_default().to_owned()
}

#[test]
fn another_number_of_shards_forwards_what_was_spooled_first() {
    let kafka = Kafka::start(1);
    kafka.create_topic(TOPIC, PARTITIONS);
    let mut gateway = Gateway::start(&config(&kafka, ""));
    let sent = publish_while(&mut gateway, "shards", 0, |gateway, progress| {
        for (from, to) in [(2, 1), (1, 2)] {
            kafka.kill_node(1);
            await_spool(gateway, false);
            progress.acknowledge(1_000);
            let [from, to] = [from, to].map(|count| format!("shards.count = {count}"));
            gateway.reconfigure(&from, &to);
            assert!(gateway.terminate(Duration::from_secs(10)).is_some_and(|of| of.success()));
            gateway.start_control();
            wait::until("it serves", || gateway.is_serving().then_some(()));
            await_spool(gateway, false);
            let refused = progress.refused();
            // Keys have other owners now: nothing is taken before all is forwarded.
            let more = || (progress.refused() > refused + 50).then_some(());
            assert!(wait::within(PATIENCE, more).is_some(), "new records are refused");
            kafka.restart_node(1);
            progress.acknowledge(1_000);
        }
    });
    let records = settled(&gateway, &kafka);
    println!("{:?}", places(&sent));
    let report = checker::check("shards", &sent, &records);
    report.assert(allowed(2));
}

#[test]
fn kills_at_random_during_outages_lose_nothing() {
    let seed = Random::seed();
    println!("TRINE_TESTS_SEED={seed}");
    let mut random = Random::new(seed);
    let kafka = Kafka::start(1);
    kafka.create_topic(TOPIC, PARTITIONS);
    let mut gateway =
        Gateway::start(&config(&kafka, &format!("[spool]\nforward_rate = {FORWARD_RATE}\n")));
    let kills = harm().kills;
    let sent = publish_while(&mut gateway, "kills", 0, |gateway, progress| {
        for kill in 0..kills {
            kafka.stop_node(1);
            progress.acknowledge(1 + random.below(1_500));
            // Before or after the broker goes on: the kill meets the outage or the forwarding.
            let resume_first = kill % 2 == 1;
            if resume_first {
                await_spool(gateway, false);
                kafka.resume_node(1);
            }
            let old = gateway.kill_data();
            wait::until("another data process", || (gateway.data() != old).then_some(()));
            progress.acknowledge(1 + random.below(500));
            if !resume_first {
                kafka.resume_node(1);
            }
            progress.acknowledge(1 + random.below(500));
        }
        // So that a bound which follows from the harm is far from all that there is.
        progress.acknowledge(4_000);
    });
    // An outage and a kill each time, of which every other one meets the forwarding.
    let published_per_s = SENDERS * RATE_PER_S as usize;
    let allowed =
        allowed(2 * kills).and_forwarding(kills.div_ceil(2), SHARDS, FORWARD_RATE, published_per_s);
    let records = settled(&gateway, &kafka);
    println!("{:?}, at most {} twice", places(&sent), allowed.duplicates);
    checker::check("kills", &sent, &records).assert(allowed);
}

/// A small filesystem of its own, unmounted when it goes out of scope.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// An ext4 of 16 MiB in a file; why there can't be one.
    fn mount(folder: &Path) -> Result<Self, String> {
        let (image, point) = (folder.join("image"), folder.join("disk"));
        std::fs::create_dir_all(&point).map_err(|error| error.to_string())?;
        let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(16 << 20).map_err(|error| error.to_string())?;
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&point))?;
        Ok(Self(point))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(why) = run(Command::new("umount").arg("-l").arg(&self.0)) {
            eprintln!("{why}");
        }
        if let Some(folder) = self.0.parent() {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or(said)
}

#[test]
fn a_full_disk_refuses_and_keeps_what_it_has() {
    let folder = std::env::temp_dir().join(format!("trine-disk-{}", std::process::id()));
    let disk = match SmallDisk::mount(&folder) {
        Ok(disk) => disk,
        Err(why) => return println!("SKIPPED: there can be no small disk: {why}"),
    };
    // Segments of 2 MiB: the disk is full before the quota is.
    let config = format!("shards.count = 2\n[log]\nquota_bytes = 16_777_216\n{RPC}");
    let mut gateway = Gateway::start_on(Some(&disk.0), &config);
    let sent = publish_refused(&mut gateway);
    assert!(gateway.terminate(Duration::from_secs(10)).is_some_and(|of| of.success()));
    let (whole, said) = journal::check(&gateway.data_dir());
    assert!(whole, "{said}");
    let records = journal::read(&gateway.data_dir(), TOPIC, 4);
    checker::check("disk", &sent, &records).assert(Allowed::default());
    // It starts on the full disk, and what it has can be read.
    gateway.start_control();
    wait::until("it serves", || gateway.is_serving().then_some(()));
    assert!(gateway.terminate(Duration::from_secs(10)).is_some_and(|of| of.success()));
    let again = journal::read(&gateway.data_dir(), TOPIC, 4);
    checker::check("disk", &sent, &again).assert(Allowed::default());
    drop(gateway);
}

/// Publishes large messages until a hundred were refused.
fn publish_refused(gateway: &mut Gateway) -> Vec<Sent> {
    let progress = Progress::default();
    let plan = Plan::rpc(gateway.client, "disk", "sender", TOPIC);
    let plan = Plan { rate_per_s: 200, fill_bytes: 30_000, ..plan };
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| publish(&plan, u64::MAX, &progress));
        let stop = StopOnDrop(&progress);
        let full = || (progress.acknowledged() > 100 && progress.refused() >= 100).then_some(());
        assert!(wait::within(PATIENCE, full).is_some(), "a full disk refuses");
        drop(stop);
        sender.join().expect("a sender")
    })
}

/// Key and sequence of what a backend was asked.
fn event(request: &Request) -> (String, u64) {
    let body: Value = serde_json::from_slice(&request.body).expect("the payload as it was");
    let key = body["key"].as_str().expect("its key").to_owned();
    (key, body["sequence"].as_u64().expect("its sequence"))
}

#[test]
fn a_dead_backend_for_one_partition_stops_no_other() {
    const KEYS: u64 = 100;
    let legacy = Backend::start();
    let consumer = format!(
        "shards.count = 2\n{RPC}[[consumer]]\nname = \"legacy\"\ntopics = [\"{TOPIC}\"]\n\
         start = \"earliest\"\n[consumer.to]\nupstream = \"legacy\"\n[consumer.retry]\ntries = 0\n\
         max_ms = 500\n[[upstream]]\nname = \"legacy\"\nendpoints = [\"{}\"]\n\
         timeout_ms = 2_000\n",
        legacy.address()
    );
    let gateway = Gateway::start(&consumer);
    let plan = |run: &str| {
        let plan = Plan::rpc(gateway.client, run, "ann", TOPIC);
        Plan { keys: KEYS, rate_per_s: 1_000, ..plan }
    };
    wait::until("its partitions are read", || {
        let read = gateway.metrics().sum("trine_consumer_partitions", &[]);
        (read == 4.0).then_some(())
    });
    // One of each key tells the partition that it is in.
    let first = publish(&plan("first"), KEYS, &Progress::default());
    legacy.await_requests(KEYS as usize);
    let dead: BTreeSet<String> = journal::read(&gateway.data_dir(), TOPIC, 4)
        .iter()
        .filter(|record| record.partition == 0)
        .map(|record| text_of(record, "key"))
        .collect();
    assert!(!dead.is_empty() && dead.len() < KEYS as usize);
    let hung = dead.clone();
    legacy.except(move |request| hung.contains(&event(request).0).then_some(Answer::Hang));
    let sent = publish(&plan("dead"), 20 * KEYS, &Progress::default());
    assert_eq!(places(&sent), [("journal".to_owned(), sent.len())].into());
    let others = || {
        let requests = legacy.requests();
        let alive = requests.iter().map(event).filter(|(key, _)| !dead.contains(key));
        (alive.count() >= 21 * (KEYS as usize - dead.len())).then_some(())
    };
    assert!(wait::within(PATIENCE, others).is_some(), "other partitions go on");
    legacy.except(|_| None);
    let all = || {
        let seen: BTreeSet<_> = legacy.requests()[KEYS as usize..].iter().map(event).collect();
        (seen.len() == sent.len()).then_some(())
    };
    assert!(wait::within(PATIENCE, all).is_some(), "what hung is delivered in the end");
    let records = journal::read(&gateway.data_dir(), TOPIC, 4);
    check_runs(&[("first", first), ("dead", sent)], &records, Allowed::default());
    in_order(&records, &legacy.requests(), &BTreeSet::new());
}

/// Holds each run's messages against its records, which a topic has of no other.
#[track_caller]
fn check_runs(runs: &[(&str, Vec<Sent>)], records: &[Record], allowed: Allowed) {
    let mut count = 0;
    for (run, sent) in runs {
        let of_run = |record: &&Record| text_of(record, "run") == *run;
        let records: Vec<_> = records.iter().filter(of_run).cloned().collect();
        checker::check(run, sent, &records).assert(allowed);
        count += records.len();
    }
    assert_eq!(count, records.len(), "there is no other run");
}

/// Partition and offset of what a backend was asked.
fn place(request: &Request) -> (i32, i64) {
    let id = request.header("ce-id").expect("an event has its id");
    let mut parts = id.rsplit('/').map(|part| part.parse::<i64>().expect("a number"));
    let offset = parts.next().expect("an offset");
    (parts.next().expect("a partition") as i32, offset)
}

#[test]
fn a_backend_that_is_only_slow_gets_everything() {
    const COUNT: u64 = 60;
    let legacy = Backend::start();
    legacy.usually(Answer::Slow(Duration::from_millis(120), 200));
    let consumer = format!(
        "shards.count = 1\n{RPC}[[consumer]]\nname = \"legacy\"\ntopics = [\"{TOPIC}\"]\n\
         start = \"earliest\"\n[consumer.to]\nupstream = \"legacy\"\n[consumer.retry]\ntries = 1\n\
         [[upstream]]\nname = \"legacy\"\nendpoints = [\"{}\"]\nmax_connections = 1\n\
         wait_timeout_ms = 100\n",
        legacy.address()
    );
    let gateway = Gateway::start(&consumer);
    wait::until("its partitions are read", || (held(&gateway) == 4).then_some(()));
    let plan = Plan::rpc(gateway.client, "slow", "ann", TOPIC);
    // Two of each key, so that there is an order to keep.
    let plan = Plan { keys: COUNT / 2, rate_per_s: 1_000, ..plan };
    let sent = publish(&plan, COUNT, &Progress::default());
    let all = || {
        let seen: BTreeSet<_> = legacy.requests().iter().map(event).collect();
        (seen.len() as u64 == COUNT).then_some(())
    };
    assert!(wait::within(PATIENCE, all).is_some(), "{} came", legacy.requests().len());
    let delivered = || {
        let outcome =
            |name| gateway.metrics().sum("trine_consumer_records_total", &[("outcome", name)]);
        assert_eq!(outcome("dead_letter"), 0.0, "waiting for a connection of our own is no try");
        (outcome("delivered") == COUNT as f64).then_some(())
    };
    assert!(wait::within(PATIENCE, delivered).is_some(), "all is delivered");
    let records = journal::read(&gateway.data_dir(), TOPIC, 4);
    checker::check("slow", &sent, &records).assert(Allowed::default());
    in_order(&records, &legacy.requests(), &BTreeSet::new());
}

/// Another program's events, all of which Kafka acknowledges.
#[track_caller]
fn write(kafka: &Kafka, topic: &str, run: &str, count: u64) -> Vec<Sent> {
    let sent = kafka.write(topic, run, count, 1_000).finish();
    assert_eq!(places(&sent), [("kafka".to_owned(), count as usize)].into());
    sent
}

/// Each node dies in its turn, and with it the coordinators of some groups; none comes back before
/// all groups have gone on without it.
#[test]
fn groups_go_on_without_the_node_of_their_coordinator() {
    const EVENTS: &str = "events";
    const COUNT: u64 = 100;
    let kafka = Kafka::start(3);
    kafka.create_topic_with(EVENTS, PARTITIONS, &[("min.insync.replicas", "1")]);
    let groups = ["range", "sticky", "cooperative-sticky", "broker"];
    let groups = groups.map(|assignor| [(assignor, "first"), (assignor, "second")]);
    let groups = groups.as_flattened();
    let backends: Vec<_> = groups.iter().map(|_| Backend::start()).collect();
    let consumer = |((assignor, which), backend): (&(&str, &str), &Backend)| {
        format!(
            "[[consumer]]\nname = \"{assignor}-{which}\"\nassignor = \"{assignor}\"\n\
             session_ms = {SESSION_MS}\nstart = \"earliest\"\ntopics = [\"{EVENTS}\"]\n\
             commit_interval_ms = 100\n[consumer.to]\nupstream = \"{assignor}-{which}\"\n\
             [[upstream]]\nname = \"{assignor}-{which}\"\nendpoints = [\"{}\"]\n",
            backend.address()
        )
    };
    let consumers: String = groups.iter().zip(&backends).map(consumer).collect();
    let _gateway = Gateway::start(&format!("{}{consumers}", config(&kafka, "")));
    let await_all = |count: usize, when: &str| {
        for (backend, (assignor, which)) in backends.iter().zip(groups) {
            let seen = || backend.requests().iter().map(place).collect::<BTreeSet<_>>().len();
            let all = wait::within(PATIENCE, || (seen() == count).then_some(()));
            assert!(all.is_some(), "{assignor}, {which}: {} of {count} {when}", seen());
        }
    };
    let mut runs = vec![("all", write(&kafka, EVENTS, "all", COUNT))];
    await_all(COUNT as usize, "with all nodes");
    for (node, run) in (1..).zip(["without node 1", "without node 2", "without node 3"]) {
        kafka.kill_node(node);
        runs.push((run, write(&kafka, EVENTS, run, COUNT)));
        await_all(COUNT as usize * runs.len(), run);
        kafka.restart_node(node);
        await_in_sync(&kafka, EVENTS);
    }
    let records = kafka.read(EVENTS);
    check_runs(&runs, &records, Allowed { without_marks: true, ..Allowed::default() });
    for backend in &backends {
        in_order(&records, &backend.requests(), &BTreeSet::new());
    }
}

/// A group that was told of records which no replica has any more: one that follows it meanwhile, and
/// one that comes back later.
#[test]
fn a_leader_that_lacks_what_was_delivered_is_read_from_where_it_differs() {
    const CUT: &str = "cut";
    let kafka = Kafka::start(3);
    let configs = [("min.insync.replicas", "1"), ("unclean.leader.election.enable", "true")];
    kafka.create_topic_with(CUT, 1, &configs);
    kafka.place(CUT, 0, &[1, 2]);
    let groups = ["range", "roundrobin"];
    let backends = groups.map(|_| Backend::start());
    let mut gateways = [0, 1].map(|which| {
        let config = group_config(&kafka, groups[which], CUT, &backends[which]);
        Gateway::start(&config.replace(',', "\", \""))
    });
    let await_all = |count: usize| {
        for (backend, group) in backends.iter().zip(groups) {
            let seen = || {
                let places: BTreeSet<_> = backend.requests().iter().map(place).collect();
                let committed = kafka.committed(group).get(&(CUT.to_owned(), 0)).copied();
                (places.len() == count && committed == Some(count as i64)).then_some(())
            };
            assert!(wait::within(PATIENCE, seen).is_some(), "{group} delivers and commits {count}");
        }
    };
    write(&kafka, CUT, "both", 50);
    await_all(50);
    kafka.kill_node(2);
    let alone = || (kafka.describe(CUT)[0].in_sync == [1]).then_some(());
    assert!(wait::within(PATIENCE, alone).is_some(), "one replica is in sync");
    write(&kafka, CUT, "lost", 50);
    await_all(100);
    assert!(gateways[1].terminate(Duration::from_secs(10)).is_some_and(|of| of.success()));
    kafka.kill_node(1);
    kafka.restart_node(2);
    let leads = || (kafka.try_describe(CUT)?[0].leader == Some(2)).then_some(());
    assert!(wait::within(PATIENCE, leads).is_some(), "who lacks records leads");
    assert_eq!(kafka.describe(CUT)[0].end_offset, Some(50));
    // Its log is longer soon than what was delivered, so that no offset is beyond its end.
    write(&kafka, CUT, "other", 100);
    gateways[1].start_control();
    for (backend, group) in backends.iter().zip(groups) {
        let others = || {
            let bodies = backend.requests().into_iter().map(|request| request.body);
            let of_run = |body: &Vec<u8>| String::from_utf8_lossy(body).contains("other");
            (bodies.filter(of_run).count() >= 100).then_some(())
        };
        assert!(wait::within(PATIENCE, others).is_some(), "{group} delivers what replaced it");
        let before = backend.requests().iter().filter(|request| place(request).1 < 50).count();
        assert_eq!(before, 50, "{group} repeats nothing of what is still there");
        let committed =
            || (kafka.committed(group).get(&(CUT.to_owned(), 0)) == Some(&150)).then_some(());
        assert!(wait::within(PATIENCE, committed).is_some(), "{group} commits it");
    }
    for gateway in &gateways {
        let alarms = gateway.metrics().sum("trine_consumer_out_of_range_total", &[]);
        assert!(alarms > 0.0, "it is an alarm");
    }
}

#[test]
fn a_topic_that_is_made_anew_is_delivered_from_its_beginning() {
    const ANEW: &str = "anew";
    let kafka = Kafka::start(1);
    kafka.create_topic(ANEW, 1);
    let legacy = Backend::start();
    let gateway = Gateway::start(&group_config(&kafka, "range", ANEW, &legacy));
    let await_all = |run: &str, count: usize| {
        let of_run = |request: &Request| String::from_utf8_lossy(&request.body).contains(run);
        let seen =
            || legacy.requests().iter().filter(|request| of_run(request)).map(place).collect();
        let all = wait::within(PATIENCE, || {
            let seen: BTreeSet<_> = seen();
            (seen.len() == count).then_some(())
        });
        let seen: BTreeSet<_> = seen();
        assert!(all.is_some(), "{} of {count} of {run}: {seen:?}", seen.len());
    };
    write(&kafka, ANEW, "before", 100);
    await_all("before", 100);
    kafka.delete_topic(ANEW);
    kafka.create_topic(ANEW, 1);
    // Fewer than were delivered, and there before the group looks.
    write(&kafka, ANEW, "after", 40);
    await_all("after", 40);
    assert!(gateway.metrics().sum("trine_consumer_out_of_range_total", &[]) > 0.0, "an alarm");
}

#[test]
fn groups_in_unrest_deliver_everything() {
    let kafka = Kafka::start(1);
    for assignor in ["range", "roundrobin", "cooperative-sticky", "broker"] {
        println!("{assignor}");
        unrest(&kafka, assignor);
    }
}

/// What two gateways share with foreign members.
fn group_config(kafka: &Kafka, assignor: &str, topic: &str, legacy: &Backend) -> String {
    format!(
        "shards.count = 1\n[log]\nkind = \"kafka\"\n[kafka]\nbrokers = [\"{}\"]\n[[consumer]]\n\
         name = \"all\"\ngroup = \"{assignor}\"\nassignor = \"{assignor}\"\nsession_ms = {SESSION_MS}\n\
         start = \"earliest\"\ntopics = [\"{topic}\"]\ndead_letter = false\n\
         commit_interval_ms = 100\n[consumer.to]\nupstream = \"legacy\"\n\
         [[upstream]]\nname = \"legacy\"\nendpoints = [\"{}\"]\n",
        kafka.bootstrap(),
        legacy.address()
    )
}

/// Partitions that a gateway's member holds, as far as control was told.
fn held(gateway: &Gateway) -> usize {
    gateway.metrics().sum("trine_consumer_partitions", &[]) as usize
}

/// Two gateways and two foreign members share a group, which goes through [`storm`].
fn unrest(kafka: &Kafka, assignor: &str) {
    const COUNT: u64 = 3_000;
    let (group, topic) = (assignor, format!("events-{assignor}"));
    kafka.create_topic(&topic, PARTITIONS);
    let legacy = Backend::start();
    let config = group_config(kafka, assignor, &topic, &legacy);
    let (mut first, mut second) = (Gateway::start(&config), Gateway::start(&config));
    let shared = || (held(&first) + held(&second) == PARTITIONS).then_some(());
    assert!(wait::within(PATIENCE, shared).is_some(), "all partitions are read");
    let writer = kafka.write(&topic, "unrest", COUNT, 150);
    let arguments: &[&str] =
        if assignor == "broker" { &["--protocol", "consumer"] } else { &["--assignor", assignor] };
    let join = || Member::join(kafka, group, &topic, arguments);
    let (doomed, member) = (join(), join());
    let hold = || (!doomed.held().is_empty() && !member.held().is_empty()).then_some(());
    assert!(wait::within(PATIENCE, hold).is_some(), "the members are given partitions");
    let mut elsewhere: BTreeSet<_> = storm(&mut first, &mut second, doomed, &member);
    let back = || {
        let held = [held(&first), held(&second), member.held().len()];
        (!held.contains(&0) && held.iter().sum::<usize>() == PARTITIONS).then_some(())
    };
    assert!(wait::within(PATIENCE, back).is_some(), "who was expelled comes back");
    let sent = writer.finish();
    let records = kafka.read(&topic);
    let everywhere = |foreign: &BTreeSet<(i32, i64)>| {
        let mut seen: BTreeSet<_> = legacy.requests().iter().map(place).collect();
        seen.extend(foreign);
        seen
    };
    let come = || {
        let mut foreign = elsewhere.clone();
        foreign.extend(member.records());
        everywhere(&foreign).len()
    };
    let all = || (come() == records.len()).then_some(());
    let limit = Duration::from_secs(90);
    let is_whole = wait::within(limit, all).is_some();
    assert!(is_whole, "{} of {} came", come(), records.len());
    elsewhere.extend(member.leave());
    for mut gateway in [first, second] {
        assert!(gateway.terminate(Duration::from_secs(10)).is_some_and(|of| of.success()));
    }
    let report = checker::check("unrest", &sent, &records);
    report.assert(Allowed { without_marks: true, ..Allowed::default() });
    in_order(&records, &legacy.requests(), &elsewhere);
    let delivered = everywhere(&elsewhere);
    for ((_, partition), committed) in kafka.committed(group) {
        let before = (0..committed).filter(|offset| !delivered.contains(&(partition, *offset)));
        assert_eq!(before.count(), 0, "committed, not delivered in partition {partition}");
    }
}

/// One foreign member dies, the other and the second gateway's data process are stopped for longer
/// than the group waits for them, and the gateway that has everything then is killed before they
/// go on. What the dead one got.
fn storm(
    first: &mut Gateway,
    second: &mut Gateway,
    doomed: Member,
    member: &Member,
) -> BTreeSet<(i32, i64)> {
    let stopped = [second.data(), member.id()];
    stopped.iter().for_each(|id| process::signal(*id, Signal::STOP));
    let until = Instant::now() + STOPPED;
    let elsewhere = doomed.die().into_iter().collect();
    let alone = || (held(first) == PARTITIONS).then_some(());
    assert!(wait::within(EXPULSION, alone).is_some(), "who gives no sign of life is expelled");
    let old = first.kill_data();
    wait::until("another data process", || (first.data() != old).then_some(()));
    // The stop is to last so long; nothing is waited for.
    std::thread::sleep(until.saturating_duration_since(Instant::now()));
    stopped.iter().for_each(|id| process::signal(*id, Signal::CONT));
    elsewhere
}

/// When a record of a key is first delivered, all before it were, here or to the foreign member.
#[track_caller]
fn in_order(records: &[Record], requests: &[Request], elsewhere: &BTreeSet<(i32, i64)>) {
    let mut by_key: BTreeMap<&[u8], Vec<(i32, i64)>> = BTreeMap::new();
    for record in records {
        let of_key = by_key.entry(record.key.as_deref().unwrap_or_default()).or_default();
        of_key.push((record.partition, record.log_offset));
    }
    let before: BTreeMap<_, _> =
        by_key.values().flat_map(|of| of.windows(2).map(|pair| (pair[1], pair[0]))).collect();
    let mut seen = elsewhere.clone();
    for request in requests {
        let at = place(request);
        let previous = before.get(&at).copied();
        assert!(previous.is_none_or(|of| seen.contains(&of)), "{at:?} came before {previous:?}");
        seen.insert(at);
    }
}
