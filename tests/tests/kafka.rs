//! Durable events on a real Kafka broker: acknowledged by it, and spooled while it can't answer.
//!
//! **Runs on: any.**

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use trine_tests::backend::{Answer, Backend};
use trine_tests::checker::{self, Allowed, BATCH_BYTES, Outcome, Sent};
use trine_tests::client::Client;
use trine_tests::durable::{
    self, FORWARD_RATE, PATIENCE, Plan, Progress, RATE_PER_S, RPC, SENDERS, SHARDS, TOPIC, places,
    publish,
};
use trine_tests::gateway::{Gateway, binary};
use trine_tests::kafka::Kafka;
use trine_tests::member::Member;
use trine_tests::{http, journal, wait};

const PARTITIONS: usize = 8;

fn config(kafka: &Kafka) -> String {
    format!(
        "shards.count = {SHARDS}\n[log]\nkind = \"kafka\"\n[kafka]\nbrokers = [\"{}\"]\n\
         batch_bytes = {BATCH_BYTES}\n{RPC}",
        kafka.bootstrap()
    )
}

/// The same for tests of something else than the spool: a broker that is slow for a moment is waited
/// for, rather than that the spool takes over and may write twice.
fn patient(config: String) -> String {
    config + "[spool]\nafter_ms = 10_000\n"
}

/// Runs four publishers while `meanwhile` does harm; what they know in the end.
fn publish_while(
    gateway: &mut Gateway,
    run: &str,
    meanwhile: impl FnOnce(&mut Gateway, &Progress),
) -> Vec<Sent> {
    let plan = Plan::rpc(gateway.client, run, "sender", TOPIC);
    let plan = Plan { rate_per_s: RATE_PER_S, ..plan };
    durable::publish_while(gateway, &plan, SENDERS, meanwhile)
}

/// Waits until the spool is empty and says what Kafka has.
fn settled(gateway: &Gateway, kafka: &Kafka) -> Vec<checker::Record> {
    gateway.await_empty_spool(PATIENCE);
    kafka.read(TOPIC)
}

#[test]
fn kafka_has_what_was_acknowledged() {
    let kafka = Kafka::start(1);
    kafka.create_topic(TOPIC, PARTITIONS);
    let mut gateway = Gateway::start(&patient(config(&kafka)));
    let sent = publish_while(&mut gateway, "plain", |_, _| {});
    let records = settled(&gateway, &kafka);
    let places = places(&sent);
    assert!(places.get("kafka").is_some_and(|&count| count > 500), "{places:?}");
    checker::check("plain", &sent, &records).assert(Allowed::default());
    // Clients in two languages see the same.
    let read: Vec<_> = records.iter().map(|of| (of.partition, of.log_offset)).collect();
    assert!(kafka.places_by_kcat(TOPIC).is_none_or(|places| places == read));
}

#[test]
fn a_broker_that_hangs_is_bridged_by_the_spool() {
    let kafka = Kafka::start(1);
    kafka.create_topic(TOPIC, PARTITIONS);
    let config = format!("{}[spool]\nalarm_ms = 1_000\n", config(&kafka));
    let mut gateway = Gateway::start(&config);
    let age = |gateway: &Gateway| gateway.metrics().sum("trine_spool_age_seconds", &[]);
    let sent = publish_while(&mut gateway, "hang", |gateway, progress| {
        kafka.stop_node(1);
        progress.last();
        wait::until("the spool's age is seen", || (age(gateway) > 0.0).then_some(()));
        let told = || gateway.log().contains("the spool grows old").then_some(());
        wait::until("operators are told of it", told);
        kafka.resume_node(1);
        progress.acknowledge(500);
    });
    let records = settled(&gateway, &kafka);
    wait::until("nothing old is left", || (age(&gateway) == 0.0).then_some(()));
    let places = places(&sent);
    println!("{places:?}");
    assert!(places.get("spool").is_some_and(|&count| count > 1_000), "{places:?}");
    // What was in flight when the broker stopped may have been written, and again from the spool.
    let report = checker::check("hang", &sent, &records);
    report.assert(Allowed::outages(1, SHARDS, PARTITIONS));
}

#[test]
fn a_gateway_that_dies_with_a_full_spool_forwards_it_later() {
    let kafka = Kafka::start(1);
    kafka.create_topic(TOPIC, PARTITIONS);
    let mut gateway = Gateway::start(&config(&kafka));
    let sent = publish_while(&mut gateway, "both", |gateway, progress| {
        kafka.kill_node(1);
        progress.acknowledge(1_000);
        for _ in 0..2 {
            let old = gateway.kill_data();
            wait::until("another data process", || (gateway.data() != old).then_some(()));
            progress.acknowledge(500);
        }
        progress.last();
        kafka.restart_node(1);
        progress.acknowledge(1_000);
    });
    let records = settled(&gateway, &kafka);
    println!("{:?}", places(&sent));
    let report = checker::check("both", &sent, &records);
    // Nothing was forwarded when the gateway died: only the broker's death left something in doubt.
    report.assert(Allowed::outages(1, SHARDS, PARTITIONS));
}

/// Records that the topic does not take.
const TOO_LARGE: u64 = 10;

#[test]
fn operators_see_the_lag_of_groups_of_other_programs() {
    let kafka = Kafka::start(1);
    kafka.create_topic(TOPIC, 2);
    let config =
        config(&kafka).replace("[[rpc]]", "watch_groups = [\"billing\", \"nobody\"]\n[[rpc]]");
    let gateway = Gateway::start(&patient(config));
    let send = |sender: &str, count| {
        let progress = Progress::default();
        publish(&Plan::rpc(gateway.client, "watch", sender, TOPIC), count, &progress);
        assert_eq!(progress.acknowledged() as u64, count);
    };
    let open = || {
        let progress = Progress::default();
        publish(&Plan::rpc(gateway.client, "watch", "first", TOPIC), 1, &progress);
        (progress.acknowledged() == 1).then_some(())
    };
    wait::until("a ticket is taken", open);
    send("ann", 20);
    let there = kafka.read(TOPIC).len();
    let member = Member::join(&kafka, "billing", TOPIC, &[]);
    let has = |count| wait::within(PATIENCE, || (member.records().len() >= count).then_some(()));
    assert!(has(there).is_some(), "the group has all");
    member.leave();
    send("bob", 7);
    let lag = |group: &str| gateway.metrics().sum("trine_group_lag", &[("group", group)]);
    let position = || gateway.metrics().sum("trine_group_position", &[("topic", TOPIC)]);
    let seen = || (lag("billing") == 7.0 && position() == there as f64).then_some(());
    let seen = wait::within(Duration::from_secs(40), seen);
    assert!(seen.is_some(), "{} behind, at {}: {}", lag("billing"), position(), gateway.log());
    assert_eq!(lag("nobody"), 0.0);
    let text = gateway.status();
    let row = text.lines().find(|line| line.starts_with("-  ") && line.contains("billing"));
    assert!(row.is_some_and(|row| row.ends_with(" 7")), "{text}");
    // It goes on: the group's next commit is seen too.
    let member = Member::join(&kafka, "billing", TOPIC, &[]);
    let has = |count| wait::within(PATIENCE, || (member.records().len() >= count).then_some(()));
    assert!(has(7).is_some(), "the group has the rest");
    member.leave();
    let none = || (lag("billing") == 0.0 && position() == (there + 7) as f64).then_some(());
    assert!(wait::within(Duration::from_secs(40), none).is_some(), "the lag has fallen");
}

/// Bytes that a record is filled with that is larger than the topic takes in the end.
const LARGE_BYTES: usize = 30_000;

fn is_at(place: &'static str) -> impl Fn(&Sent) -> bool {
    move |of| matches!(&of.outcome, Outcome::Acknowledged { at, .. } if at == place)
}

/// Sends one at a time until one is acknowledged there.
#[track_caller]
fn await_place(place: &'static str, send: impl Fn() -> Vec<Sent>) {
    let sent = || send().iter().all(is_at(place)).then_some(());
    assert!(wait::within(PATIENCE, sent).is_some(), "records go to {place}");
}

#[test]
fn a_record_too_large_stops_nothing_else() {
    let kafka = Kafka::start(1);
    kafka.create_topic(TOPIC, PARTITIONS);
    let more = format!("[spool]\nforward_rate = {FORWARD_RATE}\n");
    let mut gateway = Gateway::start(&format!("{}{more}", config(&kafka)));
    let address = gateway.client;
    let send = |sender: &str, fill_bytes, count| {
        let plan = Plan { fill_bytes, ..Plan::rpc(address, "aside", sender, TOPIC) };
        publish(&plan, count, &Progress::default())
    };
    let refused = |code| Outcome::Refused { code, possibly_written: false };
    let sent = publish_while(&mut gateway, "large", |gateway, progress| {
        progress.acknowledge(100);
        // What the gateway has learnt of the topic is not so any more.
        kafka.configure_topic(TOPIC, "max.message.bytes", "20000");
        // Where the spool has just taken over, it has this one, too.
        let live = || (send("live", LARGE_BYTES, 1)[0].outcome == refused(107)).then_some(());
        assert!(wait::within(PATIENCE, live).is_some(), "Kafka refuses it for good");
        // What the spool has taken and Kafka refuses is kept apart, counted, and its key goes on.
        kafka.kill_node(1);
        progress.acknowledge(500);
        assert!(send("spooled", LARGE_BYTES, TOO_LARGE).iter().all(is_at("spool")));
        kafka.restart_node(1);
        let counted = || gateway.metrics().sum("trine_spool_dead_letters_total", &[]);
        assert!(wait::within(PATIENCE, || (counted() > 0.0).then_some(())).is_some());
        // What is underway beside it is not passed over, should the process die meanwhile.
        gateway.kill_data();
        let told = || gateway.status().contains("dead letter ready").then_some(());
        wait::until("operators see the journal of dead letters", told);
        gateway.await_empty_spool(PATIENCE);
        // Each is kept apart, by the process that was killed or by the next, or by both.
        let mut letters = journal::read_dead_letters(&gateway.data_dir(), TOPIC, PARTITIONS as u32);
        letters.retain(|letter| letter.key.as_deref().is_some_and(|key| !key.starts_with(b"live")));
        let values: BTreeSet<_> = letters.iter().map(|letter| &letter.value).collect();
        let sizes = letters.iter().map(|letter| letter.value.as_ref().map_or(0, Vec::len));
        assert!(sizes.min() >= Some(LARGE_BYTES), "only what is too large is kept apart");
        assert_eq!(values.len() as u64, TOO_LARGE);
        // The new process has learnt it, and promises nothing that Kafka won't take later.
        await_place("kafka", || send("small", 0, 1));
        kafka.kill_node(1);
        await_place("spool", || send("small", 0, 1));
        assert_eq!(send("late", LARGE_BYTES, 1)[0].outcome, refused(106));
        gateway.kill_data();
        await_place("spool", || send("small", 0, 1));
        assert_eq!(send("later", LARGE_BYTES, 1)[0].outcome, refused(106), "also over a start");
        kafka.restart_node(1);
    });
    let mut records = settled(&gateway, &kafka);
    let is_small = |record: &checker::Record| {
        record.key.as_deref().is_some_and(|key| key.starts_with(b"small"))
    };
    records.retain(|record| !is_small(record));
    let allowed = Allowed::outages(4, SHARDS, PARTITIONS);
    let allowed = allowed.and_forwarding(2, SHARDS, FORWARD_RATE, SENDERS * RATE_PER_S as usize);
    checker::check("large", &sent, &records).assert(allowed);
}

#[test]
fn topics_that_change_stop_nothing_else() {
    let kafka = Kafka::start(1);
    kafka.create_topic(TOPIC, PARTITIONS);
    kafka.create_topic("other", 8);
    let more = "[[rpc]]\nmethod = \"other\"\ntopic = \"other\"\nkey = \"/key\"\n";
    let mut gateway = Gateway::start(&format!("{}{more}", config(&kafka)));
    let address = gateway.client;
    let send = |sender: &str, count| {
        publish(&Plan::rpc(address, "aside", sender, "other"), count, &Progress::default())
    };
    let sent = publish_while(&mut gateway, "beside", |gateway, progress| {
        progress.acknowledge(100);
        kafka.add_partitions(TOPIC, 12);
        progress.acknowledge(500);
        // A topic that is gone is waited for, and no other with it.
        kafka.delete_topic("other");
        await_place("spool", || send("first", 1));
        let gone = send("gone", 20);
        assert!(gone.iter().all(is_at("spool")), "{:?}", places(&gone));
        progress.acknowledge(500);
        // It is back, and most of the partitions that have its records are not.
        kafka.create_topic("other", 3);
        gateway.await_empty_spool(PATIENCE);
        await_place("kafka", || send("back", 20));
    });
    let records = settled(&gateway, &kafka);
    let report = checker::check("beside", &sent, &records);
    report.assert(Allowed { moved_keys: true, ..Allowed::default() });
    let is_gone = |record: &checker::Record| {
        let value = record.value.as_deref().unwrap_or_default();
        String::from_utf8_lossy(value).contains("\"gone\"")
    };
    let gone: BTreeSet<_> =
        kafka.read("other").into_iter().filter(is_gone).map(|of| of.value).collect();
    assert_eq!(gone.len(), 20, "what was spooled for it came to it");
}

#[test]
fn a_spool_is_not_left_behind() {
    let kafka = Kafka::start(1);
    kafka.create_topic(TOPIC, PARTITIONS);
    let mut gateway = Gateway::start(&config(&kafka));
    let sent = publish_while(&mut gateway, "left", |_, progress| {
        kafka.kill_node(1);
        progress.acknowledge(1_000);
    });
    let limit = Duration::from_secs(10);
    assert!(gateway.terminate(limit).is_some_and(|status| status.success()));
    gateway.reconfigure("kind = \"kafka\"", "kind = \"embedded\"");
    let refused = Command::new(binary()).args(gateway.arguments()).output().expect("it starts");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("records for Kafka") && said.contains("log.kind"), "{said}");
    gateway.reconfigure("kind = \"embedded\"", "kind = \"kafka\"");
    // Its topic has no route any more, and it is forwarded all the same.
    gateway.reconfigure("\ntopic = \"ticket.create\"", "\ntopic = \"other\"");
    kafka.restart_node(1);
    gateway.start_control();
    wait::until("it serves", || gateway.is_serving().then_some(()));
    wait::until("it says so", || gateway.log().contains("without a route").then_some(()));
    let (places, out) = (places(&sent), [("direction", "out")]);
    let forwarded = || {
        let forwarded = gateway.metrics().sum("trine_spool_records_total", &out);
        (forwarded >= places["spool"] as f64).then_some(())
    };
    assert!(wait::within(PATIENCE, forwarded).is_some(), "all is forwarded");
    let records = settled(&gateway, &kafka);
    let report = checker::check("left", &sent, &records);
    report.assert(Allowed::outages(1, SHARDS, PARTITIONS));
}

#[test]
fn a_queue_drains_into_kafka_and_to_a_backend() {
    let kafka = Kafka::start(1);
    kafka.create_topic("moved", 8);
    let legacy = Backend::start();
    let config = format!(
        "{}[[rpc]]\nmethod = \"calls\"\ntopic = \"calls\"\nkey = \"/key\"\n\
         [queue]\ntopics = [\"{TOPIC}\", \"calls\"]\n\
         [[consumer]]\nname = \"mover\"\ntopics = [\"{TOPIC}\"]\nto.topic = \"moved\"\n\
         commit_interval_ms = 100\nschedule = {{ every_ms = 500, rate_per_s = 10_000 }}\n\
         [[consumer]]\nname = \"night\"\ntopics = [\"calls\"]\nto.upstream = \"legacy\"\n\
         batch = {{ records = 10, linger_ms = 200 }}\n\
         schedule = {{ every_ms = 31_536_000_000, records = 20 }}\n\
         [[upstream]]\nname = \"legacy\"\nendpoints = [\"{}\"]\n",
        config(&kafka),
        legacy.address()
    );
    let mut gateway = Gateway::start(&config);
    let address = gateway.client;
    let calls = |count| {
        let plan = Plan { keys: 1, ..Plan::rpc(address, "calls", "night", "calls") };
        publish(&plan, count, &Progress::default())
    };
    let mut sent = publish_while(&mut gateway, "queued", |gateway, progress| {
        assert_eq!(places(&calls(15)).get("journal"), Some(&15));
        kafka.stop_node(1);
        progress.acknowledge(1_000);
        gateway.kill_data();
        progress.acknowledge(500);
        kafka.resume_node(1);
        progress.acknowledge(500);
        gateway.kill_data();
        progress.acknowledge(500);
    });
    let places = places(&sent);
    assert_eq!(places.keys().map(String::as_str).collect::<Vec<_>>(), ["journal"], "{places:?}");
    let lag =
        |consumer: &str| gateway.metrics().sum("trine_consumer_lag", &[("consumer", consumer)]);
    let stands = || ((lag("mover"), lag("night")) == (0.0, 15.0)).then_some(());
    let stands = wait::within(PATIENCE, stands);
    assert!(stands.is_some(), "one queue is empty, the other waits for its time");
    assert_eq!(legacy.requests().len(), 0);
    assert!(gateway.status().contains("\nqueue "), "{}", gateway.status());
    gateway.await_empty_spool(PATIENCE);
    for message in &mut sent {
        // Where they were in the queue says nothing of where they are in Kafka.
        if let Outcome::Acknowledged { place, .. } = &mut message.outcome {
            *place = None;
        }
    }
    let report = checker::check("queued", &sent, &kafka.read("moved"));
    // Two deaths, each with what was moved since a commit: half a second's, and half as much.
    report.assert(Allowed { duplicates: 2 * 1_500, ..Allowed::default() });
    // A queue with records is not left behind either.
    let limit = Duration::from_secs(10);
    assert!(gateway.terminate(limit).is_some_and(|status| status.success()));
    let (with, without) = ("\", \"calls\"]", "\"]");
    gateway.reconfigure(with, without);
    gateway.reconfigure("schedule = { every_ms = 31_536_000_000, records = 20 }\n", "");
    let refused = Command::new(binary()).args(gateway.arguments()).output().expect("it starts");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!((refused.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("holds 15 records") && said.contains("queue.topics"), "{said}");
    gateway.reconfigure(
        &format!("\"{TOPIC}\"]\n[[consumer]]"),
        &format!("\"{TOPIC}{with}\n[[consumer]]"),
    );
    gateway.start_control();
    wait::until("it serves", || gateway.is_serving().then_some(()));
    legacy.await_requests(2);
}

#[test]
fn a_ticket_reaches_every_group_through_kafka() {
    let kafka = Kafka::start(1);
    kafka.create_topic(TOPIC, PARTITIONS);
    kafka.create_topic(&format!("{TOPIC}.dlq"), 2);
    let legacy = Backend::start();
    // One record is refused for good, and goes to the dead letters.
    legacy.next([Answer::Status(200, String::new()), Answer::Status(422, String::new())]);
    let config = format!(
        "{}[[consumer]]\nname = \"notification\"\ngroup = \"notification\"\nmembers = 2\n\
         start = \"earliest\"\ntopics = [\"{TOPIC}\"]\n[consumer.to]\nchannel = \"tickets\"\n\
         [[consumer]]\nname = \"quality\"\ngroup = \"quality\"\nassignor = \"broker\"\n\
         start = \"earliest\"\ntopics = [\"{TOPIC}\"]\n[consumer.to]\nupstream = \"legacy\"\n\
         [[upstream]]\nname = \"legacy\"\nendpoints = [\"{}\"]\n",
        config(&kafka),
        legacy.address()
    );
    let mut gateway = Gateway::start(&patient(config));
    let mut agent = Client::connect(gateway.client, "agent").unwrap();
    agent.subscribe("tickets", None).unwrap();
    let sent = publish_while(&mut gateway, "flow", |_, _| {});
    let acknowledged: usize = places(&sent).values().sum();
    let mut seen = BTreeMap::new();
    for _ in 0..acknowledged {
        let push = agent.push(Duration::from_secs(30)).expect("a record is pushed");
        let data = &push["pub"]["data"];
        let key = data["key"].as_str().expect("its key").to_owned();
        let sequence = data["sequence"].as_u64().expect("its sequence");
        assert!(seen.insert(key, sequence).is_none_or(|before| before < sequence), "in order");
    }
    legacy.await_requests(acknowledged);
    let letters = || {
        let records = kafka.read(&format!("{TOPIC}.dlq"));
        (!records.is_empty()).then_some(records)
    };
    let letters = wait::within(Duration::from_secs(30), letters).expect("a dead letter");
    assert_eq!(letters.len(), 1);
    let header = |name: &str| {
        let found = letters[0].headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    };
    assert_eq!(header("trine-dlq-topic").as_deref(), Some(TOPIC));
    assert_eq!(header("trine-dlq-reason").as_deref(), Some("refused"));
    // An orderly end commits what was delivered and leaves the groups.
    assert!(gateway.terminate(Duration::from_secs(10)).unwrap().success());
    let committed: i64 = kafka.committed("notification").values().sum();
    let records = kafka.read(TOPIC);
    assert_eq!(committed, records.len() as i64);
    checker::check("flow", &sent, &records).assert(Allowed::default());
}

/// The groups of the example, and how long its tickets may take to reach them all.
const GROUPS: [&str; 3] = ["notification", "log", "quality"];
const LIMIT: Duration = PATIENCE;

/// The example that the README tells people to start, with addresses of its own.
fn example(kafka: &Kafka) -> Gateway {
    let text = include_str!("../../gateway/examples/customer-service.toml");
    let listen = "\n[listen]\nclient = \"127.0.0.1:8000\"\n";
    let brokers = "brokers = [\"127.0.0.1:9092\"]\n";
    let endpoints = "endpoints = [\"127.0.0.1:8000\"]\n";
    let paths = ["\nruntime_dir = \"run\"\n", "\ndata_dir = \"data\"\n"];
    for part in [listen, brokers, endpoints, paths[0], paths[1]] {
        assert_eq!(text.matches(part).count(), 1, "{part}");
    }
    Gateway::start_file(|client, admin| {
        let text = text.replace(listen, &format!("{listen}admin = \"{admin}\"\n"));
        let text = text.replace("127.0.0.1:8000", &client.to_string());
        patient(text.replace("127.0.0.1:9092", &kafka.bootstrap()))
    })
}

/// Waits until every group of the example has delivered and committed so many records, lags behind by
/// none, and the gateway says so.
#[track_caller]
fn await_delivered(kafka: &Kafka, gateway: &Gateway, count: usize) {
    for group in GROUPS {
        let done = || {
            let metrics = gateway.metrics();
            let [position, lag] = ["trine_consumer_position", "trine_consumer_lag"]
                .map(|name| metrics.sum(name, &[("group", group)]));
            let committed = kafka.committed(group).values().sum::<i64>() as f64;
            ((committed, position, lag) == (count as f64, count as f64, 0.0)).then_some(())
        };
        assert!(wait::within(LIMIT, done).is_some(), "{group}: {}", gateway.status());
    }
    let said = || {
        let status = gateway.status();
        let lines = status.lines().filter(|line| line.contains(TOPIC) && line.ends_with(" 0"));
        let groups: Vec<_> = lines.filter_map(|line| line.split_whitespace().nth(1)).collect();
        GROUPS.iter().all(|group| groups.contains(group)).then_some(())
    };
    assert!(wait::within(LIMIT, said).is_some(), "{}", gateway.status());
}

/// The demo page is there, and its channel tells it that each group has all of so many records.
#[track_caller]
fn await_page(gateway: &Gateway, count: u64) {
    let (status, page) = http::get(gateway.client, "/").expect("the page");
    assert!(status == 200 && page.contains("<title>Trine</title>"), "{status} {page}");
    let mut page = Client::connect(gateway.client, "page").unwrap();
    page.call("subscribe", json!({"channel": "demo:lag"})).unwrap();
    let mut of_shard = BTreeMap::new();
    let all_done = || {
        let push = page.push(LIMIT).expect("the lag is told each second");
        let mut data = push["pub"]["data"].clone();
        let shard = data["shard"].as_u64().expect("who tells it");
        of_shard.insert(shard, data["groups"].take());
        let told: Vec<_> = of_shard.values().filter_map(Value::as_array).flatten().collect();
        let sum = |group: &str, field: &str| -> u64 {
            let of_group = told.iter().filter(|of| of["group"] == group);
            of_group.map(|of| of[field].as_u64().expect("a number")).sum()
        };
        let is_done =
            |group: &&str| ["position", "end_offset"].map(|of| sum(group, of)) == [count; 2];
        GROUPS.iter().all(is_done).then_some(())
    };
    assert!(wait::within(LIMIT, all_done).is_some(), "{of_shard:?}");
}

#[test]
fn the_readmes_ticket_reaches_every_group_through_kafka() {
    let kafka = Kafka::start(1);
    let gateway = example(&kafka);
    // Groups that nobody knows yet begin with what comes once they have their partitions.
    let ready = || {
        let partitions = kafka.try_describe(TOPIC)?.len();
        let of = |group| gateway.metrics().count("trine_consumer_lag", &[("group", group)]);
        GROUPS.iter().all(|group| of(group) == partitions).then_some(())
    };
    assert!(wait::within(LIMIT, ready).is_some(), "all groups read: {}", gateway.status());
    let mut agent = Client::connect(gateway.client, "agent").unwrap();
    let outputs = ["desk:tickets", "log:ticket.create", "desk:quality"];
    for channel in outputs {
        agent.subscribe(channel, None).unwrap();
    }
    let mut customer = Client::connect(gateway.client, "ann").unwrap();
    let tickets = [
        json!({"id": "T-1", "customer": "ann", "subject": "Printer", "text": "it is out of ink"}),
        json!({"id": "T-2", "customer": "bob", "subject": "Phone", "text": "broken"}),
    ];
    let mut open = |ticket: &Value| {
        let reply = customer.call("rpc", json!({"method": TOPIC, "data": ticket})).unwrap();
        let place = ["partition", "log_offset"].map(|part| reply["data"][part].as_i64());
        assert_eq!(reply["data"]["at"], "kafka", "{reply}");
        (place[0].expect("its partition") as i32, place[1].expect("its offset"))
    };
    let opened = tickets.each_ref().map(&mut open);
    assert_eq!(open(&tickets[0]), opened[0], "sent again, it is not opened twice");
    let mut seen = BTreeMap::new();
    for _ in 0..outputs.len() * tickets.len() {
        let push = agent.push(LIMIT).expect("each group puts out each ticket");
        let channel = push["channel"].as_str().expect("its channel").to_owned();
        seen.entry(channel).or_insert_with(Vec::new).push(push["pub"]["data"].clone());
    }
    let id = |data: &Value| data["id"].as_str().or(data["ticket"].as_str()).map(str::to_owned);
    for channel in outputs {
        let mut ids: Vec<_> = seen[channel].iter().filter_map(id).collect();
        ids.sort();
        assert_eq!(ids, ["T-1", "T-2"], "{channel}");
    }
    assert!(outputs[..2].iter().all(|channel| seen[*channel].contains(&tickets[0])), "{seen:?}");
    let verdicts: Vec<_> = seen[outputs[2]].iter().map(|of| of["verdict"].to_string()).collect();
    assert!(verdicts.iter().any(|verdict| verdict.contains("too little")), "{verdicts:?}");
    await_delivered(&kafka, &gateway, tickets.len());
    await_page(&gateway, tickets.len() as u64);
    let records = kafka.read(TOPIC);
    let mut places: Vec<_> = records.iter().map(|of| (of.partition, of.log_offset)).collect();
    places.sort();
    let mut promised = opened.to_vec();
    promised.sort();
    assert_eq!(places, promised);
}

#[test]
fn topics_that_are_not_there_are_made() {
    let kafka = Kafka::start(1);
    let brokers = format!("brokers = [\"{}\"]\n", kafka.bootstrap());
    let gateway = Gateway::start(
        &config(&kafka).replace(&brokers, &format!("{brokers}create_topics = true\n")),
    );
    let mut client = Client::connect(gateway.client, "ann").unwrap();
    let call = json!({"method": TOPIC, "data": {"key": "k"}});
    let stored = || client.call("rpc", call.clone()).ok();
    wait::within(Duration::from_secs(30), stored).expect("the topic is made");
    gateway.await_empty_spool(PATIENCE);
    assert_eq!(kafka.read(TOPIC).len(), 1);
}

#[test]
fn a_gateway_proves_who_it_is() {
    let kafka = Kafka::start(1);
    kafka.create_topic(TOPIC, 2);
    for (mechanism, password, fine) in [
        ("plain", "secret", true),
        ("scram-sha-256", "secret", true),
        ("scram-sha-512", "secret", true),
        ("scram-sha-512", "wrong", false),
    ] {
        let config = config(&kafka).replace(
            &format!("brokers = [\"{}\"]\n", kafka.bootstrap()),
            &format!(
                "brokers = [\"{}\"]\nsasl = \"{mechanism}\"\nuser = \"trine\"\npassword = \"{password}\"\n",
                kafka.sasl_bootstrap()
            ),
        );
        let gateway = Gateway::start(&config);
        let mut client = Client::connect(gateway.client, "ann").unwrap();
        let call = json!({"method": TOPIC, "data": {"key": "k"}});
        let mut is_stored = false;
        let mut store = || {
            let reply = client.call("rpc", call.clone());
            is_stored |= reply.is_ok_and(|reply| reply["data"]["at"] == "kafka");
            is_stored
        };
        // The broker says so of every connection that it refuses.
        let is_refused = || kafka.log(1).contains("Failed authentication");
        wait::within(PATIENCE, || (store() || is_refused()).then_some(()));
        // What is refused stays so.
        store();
        assert_eq!((is_stored, is_refused()), (fine, !fine), "{mechanism} with {password}");
        let told = || gateway.log().contains("Kafka has a problem").then_some(());
        assert!(fine || wait::within(PATIENCE, told).is_some(), "operators are told");
    }
}
