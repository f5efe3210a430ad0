//! Durable events on a disk that fails, is slow, or loses what was not synced: whatever was acknowledged is
//! there, in the embedded log and in Kafka behind the spool.
//!
//! **Runs on: any** that has FUSE; else each test says that it was skipped.

use std::time::Duration;

use trine_tests::checker::{self, Allowed, BATCH_BYTES, Sent};
use trine_tests::durable::{
    self, FORWARD_RATE, PATIENCE, Plan, Progress, RATE_PER_S, RPC, SENDERS, SHARDS, TOPIC, places,
};
use trine_tests::faulty_disk::{FaultyDisk, Step};
use trine_tests::gateway::Gateway;
use trine_tests::harm::harm;
use trine_tests::journal;
use trine_tests::kafka::Kafka;
use trine_tests::random::Random;
use trine_tests::wait;

const PARTITIONS: u32 = 4;

/// A disk of the test's own, and what its power losses are drawn from; nothing, said aloud, where there
/// can be none.
fn disk(name: &str) -> Option<(FaultyDisk, Random)> {
    let folder = std::env::temp_dir().join(format!("trine-{name}-{}", std::process::id()));
    match FaultyDisk::mount(&folder) {
        Ok(disk) => {
            let seed = Random::seed();
            println!("TRINE_TESTS_SEED={seed}");
            Some((disk, Random::new(seed)))
        }
        Err(why) => {
            println!("SKIPPED: there can be no filesystem of the tests' own: {why}");
            None
        }
    }
}

fn embedded(disk: &FaultyDisk) -> Gateway {
    Gateway::start_on(Some(disk.path()), &format!("shards.count = {SHARDS}\n{RPC}"))
}

fn publish_while(
    gateway: &mut Gateway,
    run: &str,
    meanwhile: impl FnOnce(&mut Gateway, &Progress),
) -> Vec<Sent> {
    let plan = Plan::rpc(gateway.client, run, "sender", TOPIC);
    let plan = Plan { rate_per_s: RATE_PER_S, ..plan };
    durable::publish_while(gateway, &plan, SENDERS, meanwhile)
}

/// Ends a gateway on the embedded log and checks what its files have.
fn check_files(mut gateway: Gateway, run: &str, sent: &[Sent]) {
    assert!(gateway.terminate(Duration::from_secs(10)).is_some_and(|of| of.success()));
    let (whole, said) = journal::check(&gateway.data_dir());
    assert!(whole, "{said}");
    let records = journal::read(&gateway.data_dir(), TOPIC, PARTITIONS);
    let report = checker::check(run, sent, &records);
    println!("{report:?}");
    report.assert(Allowed::default());
}

/// Both processes and the power are gone, and come again.
fn lose_power(gateway: &mut Gateway, disk: &FaultyDisk, random: &mut Random) {
    gateway.kill();
    disk.lose_power(random);
    gateway.start_control();
    serves(gateway);
}

fn serves(gateway: &Gateway) {
    let serves = || gateway.is_serving().then_some(());
    assert!(wait::within(PATIENCE, serves).is_some(), "it serves again");
}

/// The data process dies once it has carried out a step, and before it knows.
fn die_after(gateway: &mut Gateway, disk: &FaultyDisk, step: Step, random: &mut Random) {
    let (killed, old) = (disk.killed(), gateway.data());
    let count = if step == Step::SyncFolder { 1 } else { 1 + random.below(20) };
    disk.kill_after(step, count);
    if step == Step::SyncFolder {
        // A process that begins makes a new segment.
        gateway.kill_data();
    }
    let dead = || (disk.killed() > killed).then_some(());
    assert!(wait::within(PATIENCE, dead).is_some(), "a process came to {step:?}");
    wait::until("another data process", || (gateway.data() != old).then_some(()));
    serves(gateway);
}

#[test]
fn syncs_that_fail_lose_nothing_that_was_acknowledged() {
    let Some((disk, mut random)) = disk("sync") else { return };
    let mut gateway = embedded(&disk);
    let sent = publish_while(&mut gateway, "sync", |gateway, progress| {
        progress.acknowledge(500);
        disk.fail_syncs(1);
        wait::until("a sync fails", || (disk.failed_syncs() == 1).then_some(()));
        progress.acknowledge(500);
        // It fails always: everything is refused, and the disk is tried again all the while.
        disk.fail_syncs(usize::MAX);
        let refused = progress.refused();
        let refuses = || (progress.refused() >= refused + 500).then_some(());
        assert!(wait::within(PATIENCE, refuses).is_some(), "a disk that fails refuses");
        let phase = [("journal", "log"), ("phase", "failing")];
        let failing = || gateway.metrics().sum("trine_journal_state", &phase);
        wait::until("operators see it", || (failing() == 1.0).then_some(()));
        disk.fail_syncs(0);
        progress.acknowledge(500);
        // What the disk had not written although it was asked to is gone now.
        lose_power(gateway, &disk, &mut random);
        progress.acknowledge(500);
    });
    assert!(disk.failed_syncs() > 1, "{} syncs failed", disk.failed_syncs());
    check_files(gateway, "sync", &sent);
}

/// No program can keep what a disk has not kept: so the checker must find it, and the journal say so.
#[test]
fn a_disk_that_lies_is_found_out() {
    let Some((disk, mut random)) = disk("lies") else { return };
    let mut gateway = embedded(&disk);
    let sent = publish_while(&mut gateway, "lies", |gateway, progress| {
        progress.acknowledge(500);
        disk.lie();
        progress.acknowledge(500);
        lose_power(gateway, &disk, &mut random);
        progress.acknowledge(500);
    });
    assert!(gateway.terminate(Duration::from_secs(10)).is_some_and(|of| of.success()));
    let records = journal::read(&gateway.data_dir(), TOPIC, PARTITIONS);
    let report = checker::check("lies", &sent, &records);
    println!("{} lost", report.lost.count);
    assert!(report.lost.count > 0, "{report:?}");
    let recovered = gateway.log();
    let said = ["damaged", "missing_records", "torn_bytes"];
    let counts = said.map(|what| told(&recovered, what));
    assert!(counts.iter().any(|&count| count > 0), "{counts:?} {recovered}");
}

/// The largest number that recoveries have told of something.
fn told(log: &str, what: &str) -> u64 {
    let what = format!("\"{what}\":");
    let after = log.split(&what).skip(1);
    let number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    after.filter_map(number).max().unwrap_or(0)
}

#[test]
fn a_slow_disk_loses_nothing() {
    let Some((disk, mut random)) = disk("slow") else { return };
    let mut gateway = embedded(&disk);
    let sent = publish_while(&mut gateway, "slow", |gateway, progress| {
        progress.acknowledge(500);
        for slow_ms in [50, 300, 1_500] {
            disk.slow_syncs(Duration::from_millis(slow_ms));
            progress.acknowledge(200);
        }
        lose_power(gateway, &disk, &mut random);
        progress.acknowledge(500);
    });
    check_files(gateway, "slow", &sent);
}

#[test]
fn a_process_that_dies_after_any_step_and_lost_power_lose_nothing() {
    let Some((disk, mut random)) = disk("steps") else { return };
    let mut gateway = embedded(&disk);
    let sent = publish_while(&mut gateway, "steps", |gateway, progress| {
        for _ in 0..harm().kills {
            for step in Step::ALL {
                progress.acknowledge(50 + random.below(300));
                die_after(gateway, &disk, step, &mut random);
            }
            progress.acknowledge(50 + random.below(300));
            // A new control, which has seen none of these deaths, holds back no start.
            lose_power(gateway, &disk, &mut random);
        }
        progress.acknowledge(500);
    });
    check_files(gateway, "steps", &sent);
}

#[test]
fn what_was_spooled_reaches_kafka_from_a_disk_that_loses_power() {
    let Some((disk, mut random)) = disk("spool") else { return };
    let kafka = Kafka::start(1);
    kafka.create_topic(TOPIC, PARTITIONS as usize);
    let config = format!(
        "shards.count = {SHARDS}\n[log]\nkind = \"kafka\"\n[kafka]\nbrokers = [\"{}\"]\n\
         batch_bytes = {BATCH_BYTES}\n[spool]\nforward_rate = {FORWARD_RATE}\n{RPC}",
        kafka.bootstrap()
    );
    let mut gateway = Gateway::start_on(Some(disk.path()), &config);
    let sent = publish_while(&mut gateway, "spool", |gateway, progress| {
        kafka.stop_node(1);
        progress.acknowledge(1_000);
        for step in Step::ALL {
            die_after(gateway, &disk, step, &mut random);
            progress.acknowledge(200);
        }
        lose_power(gateway, &disk, &mut random);
        progress.acknowledge(1_000);
        disk.slow_syncs(Duration::from_millis(300));
        progress.acknowledge(500);
        disk.slow_syncs(Duration::ZERO);
        disk.fail_syncs(1);
        progress.acknowledge(500);
        kafka.resume_node(1);
        // Kafka has acknowledged what is forwarded, and its cursor is or is not durable.
        for step in [Step::Write, Step::Sync] {
            let out = [("direction", "out")];
            let forwarded = || gateway.metrics().sum("trine_spool_records_total", &out);
            let before = forwarded();
            let goes_on = || (forwarded() > before).then_some(());
            assert!(wait::within(PATIENCE, goes_on).is_some(), "the spool is forwarded");
            die_after(gateway, &disk, step, &mut random);
        }
        lose_power(gateway, &disk, &mut random);
        progress.acknowledge(500);
        // A disk that keeps nothing does not hold up what it has for Kafka.
        kafka.stop_node(1);
        progress.acknowledge(500);
        disk.fail_syncs(usize::MAX);
        let refused = progress.refused();
        let refuses = || (progress.refused() > refused + 100).then_some(());
        assert!(wait::within(PATIENCE, refuses).is_some(), "a disk that fails refuses");
        kafka.resume_node(1);
        gateway.await_empty_spool(PATIENCE);
        disk.fail_syncs(0);
        progress.acknowledge(4_000);
    });
    gateway.await_empty_spool(PATIENCE);
    println!("{:?}", places(&sent));
    let records = kafka.read(TOPIC);
    // The broker hung twice, and three deaths met the forwarding.
    let published_per_s = SENDERS * RATE_PER_S as usize;
    let allowed = Allowed::outages(2 + 3, SHARDS, PARTITIONS as usize);
    let allowed = allowed.and_forwarding(3, SHARDS, FORWARD_RATE, published_per_s);
    checker::check("spool", &sent, &records).assert(allowed);
}
