//! The harness of the Kafka tests itself: real brokers, foreign clients, the checker over both.
//!
//! **Runs on: any.** What a gateway does with a log is in tests of its own; these say that a failure
//! there is the gateway's.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Duration;

use trine_tests::checker::{Allowed, Record, check};
use trine_tests::durable::PATIENCE;
use trine_tests::fault::Direction;
use trine_tests::kafka::{Kafka, Writer};
use trine_tests::member::Member;
use trine_tests::namespace::Namespace;
use trine_tests::wait;

#[test]
fn one_node_keeps_what_two_foreign_clients_read() {
    const COUNT: u64 = 5000;
    let kafka = Kafka::start(1);
    kafka.create_topic_with("events", 3, &[("retention.ms", "600000")]);
    let sent = kafka.write("events", "first", COUNT, 0).finish();
    let records = kafka.read("events");
    let report = check("first", &sent, &records);
    report.assert(Allowed::default());
    assert_eq!(report.acknowledged, [("kafka".to_owned(), COUNT as usize)].into());
    assert_eq!(records, kafka.read_with("events", &["--client", "kafka-python"]));

    // The checker sees a record that goes missing here, and one of another run.
    assert_eq!(check("first", &sent, &records[1..]).lost.count, 1);
    kafka.write("events", "second", 1, 0).finish();
    assert_eq!(check("first", &sent, &kafka.read("events")).foreign.count, 1);

    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let read = kafka.read_with("events", &["--sasl", mechanism]);
        assert_eq!(read.len(), records.len() + 1, "{mechanism}");
    }

    kafka.add_partitions("events", 5);
    kafka.truncate("events", 0, 10);
    wait::until("the topic has changed", || (kafka.describe("events").len() == 5).then_some(()));
    let first = |records: &[Record]| records.first().map(|record| record.log_offset);
    assert_eq!(first(&kafka.read("events")), Some(10));
    kafka.delete_topic("events");
    kafka.create_topic("events", 1);
    assert!(kafka.read("events").is_empty());
}

#[test]
fn three_nodes_keep_data_while_each_is_killed() {
    const COUNT: u64 = 3000;
    let kafka = Kafka::start(3);
    kafka.create_topic("events", 6);
    let writer = kafka.write("events", "run", COUNT, 300);
    for node in 1..=3 {
        let led = kafka.describe("events");
        assert!(led.iter().all(|partition| partition.replicas.len() == 3), "{led:?}");
        kafka.kill_node(node);
        assert!(TcpStream::connect(kafka.address(node)).is_err(), "it is gone");
        kafka.restart_node(node);
        let in_sync = || {
            let partitions = kafka.describe("events");
            partitions.iter().all(|partition| partition.in_sync.len() == 3).then_some(())
        };
        assert!(wait::within(PATIENCE, in_sync).is_some(), "all are in sync again");
    }
    let sent = writer.finish();
    check("run", &sent, &kafka.read("events")).assert(Allowed::default());

    kafka.move_leader("events", 0, 3);
    assert_eq!(kafka.describe("events")[0].leader, Some(3));
    // Stopped, its connections stay and nothing is answered; it goes on where it was.
    kafka.stop_node(1);
    assert!(TcpStream::connect(kafka.address(1)).is_ok(), "the kernel accepts");
    kafka.resume_node(1);
    assert_eq!(kafka.read("events").len(), COUNT as usize);
}

#[test]
fn proxies_stay_in_the_way_of_clients() {
    let (kafka, proxies) = Kafka::behind_proxies(1, 5);
    kafka.create_topic("events", 2);
    let proxy = &proxies[0];
    let writer = Writer::start(&proxy.address().to_string(), "events", "run", 500, 250);
    wait::until("it writes", || (proxy.passed_bytes(Direction::ToClient) > 2000).then_some(()));
    // Answers that are held back and then lost with their connection are asked for again.
    proxy.hold(Direction::ToClient);
    let passed = proxy.passed_bytes(Direction::ToUpstream);
    wait::until("requests still pass", || {
        (proxy.passed_bytes(Direction::ToUpstream) > passed).then_some(())
    });
    proxy.cut_all();
    proxy.restore();
    let sent = writer.finish();
    let records = kafka.read("events");
    check("run", &sent, &records).assert(Allowed::default());
    let value_bytes: usize =
        records.iter().filter_map(|record| record.value.as_ref()).map(Vec::len).sum();
    let passed = proxy.passed_bytes(Direction::ToUpstream);
    assert!(passed > value_bytes as u64, "{passed} bytes passed, values have {value_bytes}");
}

/// Both of a group hold what the assignor gives them, and what they commit is seen.
#[test]
fn foreign_members_share_a_group() {
    const COUNT: usize = 600;
    let kafka = Kafka::start(1);
    kafka.create_topic("events", 4);
    kafka.write("events", "run", COUNT as u64, 0).finish();
    let cases: [(&str, &[&str]); 4] = [
        ("range", &["--assignor", "range"]),
        ("roundrobin", &["--assignor", "roundrobin"]),
        ("cooperative-sticky", &["--assignor", "cooperative-sticky"]),
        ("consumer", &["--protocol", "consumer"]),
    ];
    for (group, arguments) in cases {
        let members = [(); 2].map(|()| Member::join(&kafka, group, "events", arguments));
        let committed = || kafka.committed(group).values().sum::<i64>();
        // What a rebalance overtakes is committed by the next one to have it.
        let all = || {
            let held = members.each_ref().map(Member::held);
            let mut records = members.each_ref().map(Member::records).concat();
            records.sort_unstable();
            records.dedup();
            let shared = held.iter().all(|of| of.len() == 2) && held[0] != held[1];
            (shared && records.len() == COUNT && committed() == COUNT as i64).then_some(())
        };
        assert!(wait::within(PATIENCE, all).is_some(), "{group}: both share all that there is");
        members.into_iter().for_each(|member| drop(member.leave()));
        assert_eq!(committed(), COUNT as i64, "{group}");
    }
}

/// A network that drops packets: a producer hangs, and goes on when they pass again.
#[test]
fn dropped_packets_lose_nothing() {
    const COUNT: u64 = 400;
    let outcome = Namespace::run("dropped_packets_lose_nothing", |namespace| {
        let kafka = Kafka::start(1);
        kafka.create_topic("events", 2);
        let written = || {
            let ends = kafka.describe("events").into_iter().filter_map(|of| of.end_offset);
            ends.sum::<i64>()
        };
        let writer = kafka.write("events", "run", COUNT, 200);
        wait::until("some are written", || (written() > 20).then_some(()));
        let address = kafka.address(1);
        namespace.drop_port(address.port());
        let limit = Duration::from_millis(200);
        let refused = TcpStream::connect_timeout(&address, limit).expect_err("nothing passes");
        assert_eq!(refused.kind(), ErrorKind::TimedOut);
        namespace.pass();
        let sent = writer.finish();
        check("run", &sent, &kafka.read("events")).assert(Allowed::default());
    });
    if let Err(missing) = outcome {
        println!("SKIPPED: there can be no namespace: {missing}");
    }
}
