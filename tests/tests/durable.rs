//! Durable events on the embedded log, on the built program: the ticket flow, the order of log and
//! fan-out, the API for backends, kills at any time, what operators see of it, queues with a
//! schedule.
//!
//! **Runs on: any.**

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::{Value, json};
use trine_tests::backend::{Answer, Backend, Request};
use trine_tests::checker::{self, Allowed, Outcome, Record, Sent};
use trine_tests::client::{Client, Failure};
use trine_tests::durable::{self, Plan, Progress, publish};
use trine_tests::gateway::Gateway;
use trine_tests::harm::harm;
use trine_tests::{http, journal, process, wait};

const PARTITIONS: u32 = 4;
const TOPIC: &str = "ticket.create";
/// A disk may stall for seconds without an event being refused.
const PATIENT: &str = "log.timeout_ms = 9_000\n";
/// Calls of `ticket.create`, ordered by the payload's field `key`.
const TICKETS: &str = "shards.count = 2\n[[rpc]]\nmethod = \"ticket.create\"\n\
    topic = \"ticket.create\"\nkey = \"/key\"\n\
    [[rpc]]\nmethod = \"warm\"\ntopic = \"warm\"\nkey = \"/key\"\n";

/// Waits until the journal is open on every shard: before, durable calls are refused for now.
fn warm_up(gateway: &Gateway) {
    let warm = Plan::rpc(gateway.client, "warm", "eve", "warm");
    let warm = Plan { rate_per_s: 0, keys: 16, ..warm };
    wait::until("the log takes records", || {
        let progress = Progress::default();
        publish(&warm, 16, &progress);
        (progress.acknowledged() == 16).then_some(())
    });
}

/// A folder that can't be the journal's is told to operators and clients for what it is.
#[test]
fn a_data_dir_that_can_not_be_is_no_recovery() {
    let file = std::env::temp_dir().join(format!("trine-no-folder-{}", std::process::id()));
    std::fs::write(&file, "").expect("a file");
    let gateway = Gateway::start_on(Some(&file), TICKETS);
    let mut client = Client::connect(gateway.client, "ann").expect("connected");
    let body = json!({"method": "ticket.create", "data": {"key": "a"}});
    wait::until("the refusal says that the log fails", || {
        let refused = client.call("rpc", body.clone()).expect_err("there is no journal");
        format!("{refused:?}").contains("the log fails").then_some(())
    });
    wait::until("the log names the folder", || {
        gateway.log().contains(&*file.join("log").display().to_string()).then_some(())
    });
    drop(gateway);
    let _ = std::fs::remove_file(&file);
}

/// Whether as many commands were timed as were taken.
fn timed(gateway: &Gateway) -> Option<()> {
    let metrics = gateway.metrics();
    let timed = metrics.sum("trine_command_duration_seconds_count", &[]);
    (timed == metrics.sum("trine_commands_total", &[])).then_some(())
}

fn seen(pushed: &Value) -> Option<u64> {
    pushed["pub"]["data"]["sequence"].as_u64()
}

/// What was pushed to a channel's subscriber, by key, until there were `count`.
fn pushed(client: &mut Client, count: usize) -> BTreeMap<String, Vec<u64>> {
    let mut by_key: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for _ in 0..count {
        let push = client.push(Duration::from_secs(20)).expect("a record is pushed");
        let key = push["pub"]["data"]["key"].as_str().expect("the payload has its key");
        by_key.entry(key.to_owned()).or_default().push(seen(&push).expect("a sequence"));
    }
    by_key
}

#[test]
fn a_ticket_reaches_every_group() {
    let legacy = Backend::start();
    legacy.usually(Answer::Slow(Duration::from_millis(20), 200));
    let config = format!(
        "{PATIENT}{TICKETS}[[consumer]]\nname = \"notification\"\ngroup = \"notification\"\n\
         topics = [\"{TOPIC}\"]\n[consumer.to]\nchannel = \"tickets\"\n\
         [[consumer]]\nname = \"quality\"\ngroup = \"quality\"\ntopics = [\"{TOPIC}\"]\n\
         [consumer.to]\nupstream = \"legacy\"\npath = \"/tickets\"\n\
         [[upstream]]\nname = \"legacy\"\nendpoints = [\"{}\"]\n",
        legacy.address()
    );
    let mut gateway = Gateway::start(&config);
    let mut agent = Client::connect(gateway.client, "agent").unwrap();
    agent.subscribe("tickets", None).unwrap();
    let plan = Plan { rate_per_s: 500, ..Plan::rpc(gateway.client, "flow", "ann", TOPIC) };
    warm_up(&gateway);
    let progress = Progress::default();
    let sent = publish(&plan, 200, &progress);
    assert_eq!(progress.acknowledged(), 200);
    wait::until("each command was timed once", || timed(&gateway));
    let by_key = pushed(&mut agent, 200);
    assert_eq!(by_key.len(), 10);
    assert!(by_key.values().all(|sequences| sequences.is_sorted()), "{by_key:?}");
    let requests = legacy.await_requests(200);
    assert_eq!(requests.len(), 200);
    let mut of_key: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for request in &requests {
        assert_eq!((&*request.method, &*request.target), ("POST", "/tickets"));
        assert_eq!(request.header("ce-type"), Some(TOPIC));
        let body: Value = serde_json::from_slice(&request.body).expect("the payload as it was");
        let key = body["key"].as_str().unwrap().to_owned();
        of_key.entry(key).or_default().push(body["sequence"].as_u64().unwrap());
    }
    assert_eq!(of_key, by_key, "a slow backend gets the same, in the same order");
    assert!(gateway.terminate(Duration::from_secs(10)).unwrap().success());
    let records = journal::read(&gateway.data_dir(), TOPIC, PARTITIONS);
    checker::check("flow", &sent, &records).assert(Allowed::default());
    let (whole, said) = journal::check(&gateway.data_dir());
    assert!(whole, "{said}");
    // What was delivered is committed: nothing comes twice after an orderly end.
    gateway.start_control();
    wait::until("it serves again", || gateway.is_serving().then_some(()));
    let lag = || gateway.metrics().sum("trine_consumer_partitions", &[]);
    wait::until("its partitions are read", || (lag() == 8.0).then_some(()));
    let mut agent = Client::connect(gateway.client, "agent").unwrap();
    agent.subscribe("tickets", None).unwrap();
    let one = Plan { sender: "bob".to_owned(), ..plan };
    publish(&one, 1, &Progress::default());
    assert_eq!(pushed(&mut agent, 1).into_keys().next().as_deref(), Some("bob-0"));
    legacy.await_requests(201);
    assert_eq!(legacy.requests().len(), 201);
}

/// A log that knows no topic refuses; what lacks a key gets no further than its client's shard.
#[test]
fn every_refused_event_is_counted_and_timed() {
    let config = format!(
        "{TICKETS}[log]\nkind = \"kafka\"\n[kafka]\nbrokers = [\"127.0.0.1:1\"]\n\
         [[namespace]]\nname = \"desk\"\ntopic = \"desk\"\nkey = \"/key\"\n\
         [api]\nkey = \"secret\"\n"
    );
    let gateway = Gateway::start(&config);
    let mut client = Client::connect(gateway.client, "ann").unwrap();
    for (data, code) in [(json!({"key": "a"}), 100), (json!({}), 107)] {
        let call = client.call("rpc", json!({"method": TOPIC, "data": data}));
        assert!(matches!(call, Err(Failure::Refused { code: c, .. }) if c == code), "{call:?}");
    }
    let body = r#"{"channel": "desk:1", "data": {}}"#;
    let (_, text) = http::post(gateway.api, "/api/publish", "X-API-Key: secret\r\n", body).unwrap();
    assert!(text.contains(r#""code":107"#), "{text}");
    // What is refused for now is so in the words of the caller's mode.
    for (mode, wanted) in [("", 200), ("X-Centrifugo-Error-Mode: transport\r\n", 503)] {
        let headers = format!("X-API-Key: secret\r\n{mode}");
        let body = r#"{"channel": "desk:1", "data": {"key": "a"}}"#;
        let (status, text) = http::post(gateway.api, "/api/publish", &headers, body).unwrap();
        assert!(status == wanted && text.contains(r#""code":100"#), "{status} {text}");
    }
    let refused = || gateway.metrics().sum("trine_events_total", &[("outcome", "refused")]);
    wait::until("all five are counted", || (refused() == 5.0).then_some(()));
    wait::until("each command was timed once", || timed(&gateway));
    let told = || gateway.status().contains("refused     5 durable events").then_some(());
    wait::until("people are told", told);
}

/// A namespace with a topic beside one without, and the API for backends.
const DESK: &str = "shards.count = 2\nchannel.history_size = 100\n[[namespace]]\nname = \"desk\"\ntopic = \"desk\"\n\
        subscribe = \"anonymous\"\npublish = \"anonymous\"\nhistory_size = 100\n\
        history_ttl_ms = 60_000\nheaders = [\"user\", \"channel\", \"content-type\"]\n\
        [[namespace]]\nname = \"case\"\ntopic = \"case\"\nkey = \"header:x-case\"\n\
        publish = \"anonymous\"\nheaders = [\"traceparent\"]\n\
        [api]\nkey = \"secret\"\n";

/// So many channels that each shard has some; a shard opens its streams for itself.
fn each_shards() -> Vec<String> {
    (10..26).map(|number| format!("desk:{number}")).collect()
}

/// Traces as W3C writes them: that of a client's connection, and that of a call of the API.
const TRACES: [&str; 2] = [
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
];

/// Publishes by a client and by the API, whose requests have a header for the key and a trace.
fn publish_traced(gateway: &Gateway) {
    let headers = [("x-case", "C-1"), ("traceparent", TRACES[0])];
    let mut client = Client::connect_with(gateway.client, "writer", &headers).unwrap();
    client.publish("case:1", json!(1)).unwrap();
    let headers = format!("X-API-Key: secret\r\nX-Case: C-2\r\nTraceparent: {}\r\n", TRACES[1]);
    let body = r#"{"channel": "case:1", "data": 2}"#;
    let (_, text) = http::post(gateway.api, "/api/publish", &headers, body).unwrap();
    assert!(text.contains(r#""at":"journal""#), "{text}");
    let (_, text) = http::post(gateway.api, "/api/publish", "X-API-Key: secret\r\n", body).unwrap();
    assert!(text.contains(r#""code":107"#), "without a key there is no record: {text}");
}

/// The log has both, each with the key and the trace of its own request.
fn assert_traced(gateway: &Gateway) {
    let mut records = journal::read(&gateway.data_dir(), "case", PARTITIONS);
    records.sort_by(|one, other| one.key.cmp(&other.key));
    assert_eq!(records.len(), 2);
    for ((record, key), trace) in records.iter().zip(["C-1", "C-2"]).zip(TRACES) {
        assert_eq!(record.key.as_deref(), Some(key.as_bytes()));
        assert_eq!(record.headers[0], ("traceparent".to_owned(), trace.as_bytes().to_vec()));
    }
}

/// A body beyond every limit is refused, and counted as that.
fn too_large(gateway: &Gateway) {
    let errors = || gateway.metrics().sum("trine_http_errors_total", &[]);
    let before = errors();
    let body = " ".repeat(24 << 20);
    // The answer may be lost to what is still on its way.
    let answer = http::post(gateway.api, "/api/publish", "X-API-Key: secret\r\n", &body);
    assert!(answer.as_ref().is_ok_and(|(status, _)| *status == 413) || answer.is_err());
    wait::until("it is counted", || (errors() - before == 1.0).then_some(()));
}

#[test]
fn a_publication_is_fanned_out_once_the_log_has_it() {
    let mut gateway = Gateway::start(DESK);
    let mut reader = Client::connect(gateway.client, "reader").unwrap();
    reader.subscribe("desk:1", None).unwrap();
    let mut writer = Client::connect(gateway.client, "writer").unwrap();
    // Until the journal is open, durable publishes are refused for now.
    let mut channels = each_shards();
    let open = || {
        channels.retain(|channel| writer.publish(channel, json!({"n": 0})).is_err());
        channels.is_empty().then_some(())
    };
    wait::until("the log takes records", open);
    writer.publish("desk:1", json!({"n": 1})).unwrap();
    let first = reader.push(wait::DEADLINE).unwrap();
    assert_eq!((&first["pub"]["offset"], &first["pub"]["data"]), (&1.into(), &json!({"n": 1})));
    let call = |headers: &str, body: &str| {
        http::post(gateway.api, "/api/publish", headers, body).expect("the API answers")
    };
    let key = "X-API-Key: secret\r\n";
    let body = r#"{"channel": "desk:1", "data": {"n": 2}}"#;
    let requests = || gateway.metrics().sum("trine_http_requests_total", &[]);
    let before = requests();
    assert_eq!(call("", body).0, 401);
    let (status, text) = call("X-API-Key: wrong\r\n", body);
    assert!(status == 401 && text.contains("X-API-Key") && !text.contains("secret"), "{text}");
    let (status, text) = call(key, body);
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    let result = &answer["result"];
    assert_eq!((status, &result["offset"], &result["at"]), (200, &2.into(), &"journal".into()));
    assert!(result["log_offset"].is_u64() && result["partition"].is_u64(), "{text}");
    let second = reader.push(wait::DEADLINE).unwrap();
    assert_eq!((&second["pub"]["offset"], &second["pub"]["data"]), (&2.into(), &json!({"n": 2})));
    assert!(second["pub"]["info"].is_null(), "a backend is no client");
    // A channel without a topic is published to at once.
    let (_, text) = call("Authorization: ApiKey secret\r\n", r#"{"channel":"room","data":"x"}"#);
    assert!(text.contains("\"offset\":1") && !text.contains("\"at\""), "{text}");
    for (body, status, said) in [
        ("{", 400, "EOF while parsing"),
        (r#"["desk:1", 1]"#, 400, "the body is not what publish takes"),
        (r#"{"channel": "none:1", "data": 1}"#, 200, r#""code":102"#),
        (r#"{"channel": "desk:1"}"#, 200, r#""code":107"#),
        (r#"{"chanel": "desk:1", "data": 1}"#, 200, "a channel is wanted"),
        (r#"{"channel": "desk:1", "b64data": "bm8="}"#, 200, r#""code":107"#),
        (r#"{"channel": "desk:1", "data": 1, "version": -7}"#, 400, "integer `-7`"),
    ] {
        let (seen, text) = call(key, body);
        assert!(seen == status && text.contains(said), "{body}: {seen} {text}");
    }
    let transport = format!("{key}X-Centrifugo-Error-Mode: transport\r\n");
    let (status, text) = call(&transport, r#"{"channel": "none:1", "data": 1}"#);
    assert_eq!((status, &*text), (404, r#"{"code":102,"message":"unknown channel"}"#));
    let other = http::post(gateway.api, "/api/broadcast", key, "{}").unwrap();
    assert!(other.0 == 404 && other.1.contains("POST /api/publish"), "{}", other.1);
    let get = http::get(gateway.api, "/api/publish?api_key=secret").unwrap();
    assert!(get.0 == 405 && get.1.contains("by POST"), "{}", get.1);
    assert_eq!(requests() - before, 14.0, "each is a request, whatever its answer");
    too_large(&gateway);
    publish_traced(&gateway);
    assert!(gateway.terminate(Duration::from_secs(10)).unwrap().success());
    let mut records = journal::read(&gateway.data_dir(), "desk", PARTITIONS);
    records.retain(|record| record.key.as_deref() == Some(b"desk:1"));
    assert_eq!(records.len(), 2);
    let value = records[0].value.as_deref();
    assert_eq!(value, Some(&br#"{"n":1}"#[..]), "the payload as it was sent");
    let names: Vec<&str> = records[0].headers.iter().map(|(name, _)| name.as_str()).collect();
    let own = ["trine-gateway", "trine-epoch", "trine-sequence"];
    assert_eq!(names, [&["trine-user", "trine-channel", "content-type"], &own[..]].concat());
    assert_traced(&gateway);
}

#[test]
fn backends_publish_once_with_tags_or_without_history() {
    let gateway = Gateway::start(DESK);
    let mut reader = Client::connect(gateway.client, "reader").unwrap();
    let call = |body: &str| {
        http::post(gateway.api, "/api/publish", "X-API-Key: secret\r\n", body).expect("it answers")
    };
    let mut channels = each_shards();
    let open = || {
        let body = |channel: &String| json!({"channel": channel, "data": 0}).to_string();
        channels.retain(|channel| !call(&body(channel)).1.contains("journal"));
        channels.is_empty().then_some(())
    };
    wait::until("the log takes records", open);
    let (_, text) = call(r#"{"channel": "room", "data": 4}"#);
    assert!(text.contains("\"offset\":1"), "{text}");
    // A second try is not a second publication, nor a second record.
    for (channel, same) in [("room", "\"offset\":2"), ("desk:2", "\"log_offset\":")] {
        let body = format!(r#"{{"channel": "{channel}", "data": 5, "idempotency_key": "five"}}"#);
        let (first, second) = (call(&body).1, call(&body).1);
        let of = |text: &str| serde_json::from_str::<Value>(text).expect("JSON")["result"].clone();
        assert!(first.contains(same), "{first}");
        assert!(of(&first)["offset"].is_u64(), "{first}");
        assert_eq!(of(&first), of(&second));
    }
    let (_, text) = call(r#"{"channel": "room", "data": 6, "skip_history": true}"#);
    assert!(!text.contains("offset") && text.contains("result"), "{text}");
    // Tags come with the publication, also from history.
    let tagged = r#"{"channel": "desk:3", "data": 8, "tags": {"from": "crm", "x": "\u00e9"}}"#;
    reader.subscribe("desk:3", None).unwrap();
    assert!(call(tagged).1.contains("\"at\":\"journal\""));
    let push = reader.push(wait::DEADLINE).unwrap();
    let tags = json!({"from": "crm", "x": "é"});
    assert_eq!((&push["pub"]["data"], &push["pub"]["tags"]), (&json!(8), &tags));
    let (_, text) = call(r#"{"channel": "room", "data": 7}"#);
    assert!(text.contains("\"offset\":3"), "{text}");
    // What tells of a state that is no news is not told, and its place is the newest's.
    reader.subscribe("room", None).unwrap();
    for (version, epoch, offset) in [(5, "", 4), (5, "", 4), (4, "", 4), (1, "b", 5), (1, "b", 5)] {
        let body = json!({"channel": "room", "data": [version, epoch], "version": version,
            "version_epoch": epoch, "delta": true});
        let (_, text) = call(&body.to_string());
        assert!(text.contains(&format!("\"offset\":{offset},")), "{body}: {text}");
    }
    for told in [json!([5, ""]), json!([1, "b"])] {
        assert_eq!(reader.push(wait::DEADLINE).unwrap()["pub"]["data"], told);
    }
    // The log has all of them, the channel only news.
    let versioned =
        r#"{"channel": "desk:3", "data": 9, "version": 1, "version_epoch": null, "delta": null}"#;
    let [first, second] = [call(versioned).1, call(versioned).1];
    let of = |text: &str| serde_json::from_str::<Value>(text).expect("JSON")["result"].clone();
    assert_eq!(of(&first)["offset"], of(&second)["offset"]);
    assert_ne!(of(&first)["log_offset"], of(&second)["log_offset"]);
    let long = "k".repeat(257);
    let (_, text) = call(&format!(r#"{{"channel":"room","data":1,"idempotency_key":"{long}"}}"#));
    assert!(text.contains("too long"), "{text}");
    // Data and tags share the limit of a message.
    for (data, tag, said) in [(65_000, 500, "result"), (65_000, 600, "106"), (1, 65_536, "106")] {
        let (data, tag) = ("d".repeat(data), "t".repeat(tag));
        for channel in ["room", "desk:4"] {
            let body = json!({"channel": channel, "data": data, "tags": {"a": tag}});
            let (_, text) = call(&body.to_string());
            assert!(text.contains(said), "{channel}: {text}");
        }
    }
}

#[test]
fn what_was_acknowledged_survives_kills_at_any_time() {
    let config = format!(
        "{PATIENT}{TICKETS}[[consumer]]\nname = \"all\"\ngroup = \"all\"\ntopics = [\"{TOPIC}\"]\n\
         start = \"earliest\"\n[consumer.to]\nchannel = \"all\"\n"
    );
    let mut gateway = Gateway::start(&config);
    let plan = Plan { rate_per_s: 500, ..Plan::rpc(gateway.client, "kills", "sender", TOPIC) };
    let sent = durable::publish_while(&mut gateway, &plan, 4, |gateway, progress| {
        for kill in 1..=harm().kills {
            progress.acknowledge(300);
            let old = gateway.kill_data();
            wait::until("another data process", || (gateway.data() != old).then_some(()));
            let restarts = || gateway.metrics().sum("trine_data_restarts_total", &[]);
            wait::until("it serves", || (restarts() == kill as f64).then_some(()));
        }
    });
    assert!(gateway.terminate(Duration::from_secs(10)).unwrap().success());
    let records = journal::read(&gateway.data_dir(), TOPIC, PARTITIONS);
    let report = checker::check("kills", &sent, &records);
    println!("{report:?}");
    report.assert(Allowed::default());
    let (whole, said) = journal::check(&gateway.data_dir());
    assert!(whole, "{said}");
}

/// A shard without work of its own waits for those that need it, and a consumer does what later
/// records have overtaken: what was moved is committed.
#[test]
fn clean_stops_repeat_and_lose_nothing() {
    let config = format!(
        "{PATIENT}{TICKETS}[[consumer]]\nname = \"mover\"\ngroup = \"mover\"\ntopics = [\"{TOPIC}\"]\n\
         start = \"earliest\"\nto.topic = \"moved\"\n"
    );
    let mut gateway = Gateway::start(&config);
    let plan = Plan { rate_per_s: 500, ..Plan::rpc(gateway.client, "stops", "sender", TOPIC) };
    let mut slow = 0;
    let mut sent = durable::publish_while(&mut gateway, &plan, 4, |gateway, progress| {
        for _ in 0..5 {
            progress.acknowledge(100);
            let began = Instant::now();
            assert!(gateway.terminate(Duration::from_secs(10)).expect("it stops").success());
            slow += usize::from(began.elapsed() > Duration::from_millis(500));
            gateway.start_control();
            wait::until("it serves", || gateway.is_serving().then_some(()));
        }
        progress.acknowledge(100);
    });
    wait::until("all is moved", || {
        let lags = lags(&gateway);
        (!lags.is_empty() && lags.values().all(|lag| *lag == 0.0)).then_some(())
    });
    assert!(gateway.terminate(Duration::from_secs(10)).expect("it stops").success());
    for message in &mut sent {
        // Where they were says nothing of where they are now.
        if let Outcome::Acknowledged { place, .. } = &mut message.outcome {
            *place = None;
        }
    }
    let moved = journal::read(&gateway.data_dir(), "moved", PARTITIONS);
    // What was overtaken is begun for half a second only, which a slow disk may need for itself.
    let duplicates = 10 + 500 * slow;
    checker::check("stops", &sent, &moved).assert(Allowed { duplicates, ..Allowed::default() });
}

/// The channels of a consumer may be those of a durable namespace: what was in the log is not logged
/// again, and it is delivered to channels that nobody looks at too.
#[test]
fn what_a_consumer_publishes_is_fanned_out_and_not_logged() {
    let config = format!(
        "{PATIENT}{TICKETS}[[namespace]]\nname = \"desk\"\ntopic = \"desk\"\nsubscribe = \"anonymous\"\n\
         publish = \"anonymous\"\n\
         [[consumer]]\nname = \"agents\"\ntopics = [\"{TOPIC}\"]\nto.channel = \"desk:{{key}}\"\n"
    );
    let mut gateway = Gateway::start(&config);
    warm_up(&gateway);
    let read = || (lags(&gateway).len() == PARTITIONS as usize).then_some(());
    wait::until("every partition is read", read);
    let mut agent = Client::connect(gateway.client, "agent").unwrap();
    agent.call("subscribe", json!({"channel": "desk:ann-3"})).unwrap();
    // Ten keys, and a subscriber for one of them.
    publish(&Plan::rpc(gateway.client, "desk", "ann", TOPIC), 20, &Progress::default());
    assert_eq!(pushed(&mut agent, 2), [("ann-3".to_owned(), vec![3, 13])].into());
    wait::until("all is delivered", || {
        let metrics = gateway.metrics();
        let delivered = metrics.sum("trine_consumer_records_total", &[("outcome", "delivered")]);
        let lag: f64 = lags(&gateway).values().sum();
        ((delivered, lag) == (20.0, 0.0)).then_some(())
    });
    // What a client publishes there is logged, and is all of its topic.
    agent.publish("desk:ann-3", json!("by hand")).unwrap();
    assert!(gateway.terminate(Duration::from_secs(10)).unwrap().success());
    let logged = journal::read(&gateway.data_dir(), "desk", PARTITIONS);
    let values: Vec<_> = logged.iter().map(|record| record.value.as_deref()).collect();
    assert_eq!(values, [Some(&br#""by hand""#[..])]);
}

/// Each record that is given up is worth a line, and so many at once are worth some and a number.
#[test]
fn operators_are_told_of_some_records_and_how_many_more() {
    const RECORDS: u64 = 200;
    let config = format!(
        "{PATIENT}{TICKETS}[[namespace]]\nname = \"desk\"\n\
         [[consumer]]\nname = \"agents\"\ntopics = [\"{TOPIC}\"]\n\
         to.channel = \"desk:{{header.nobody}}\"\ndead_letter = false\n"
    );
    let gateway = Gateway::start(&config);
    warm_up(&gateway);
    let read = || (lags(&gateway).len() == PARTITIONS as usize).then_some(());
    wait::until("every partition is read", read);
    let plan = Plan { rate_per_s: 0, ..Plan::rpc(gateway.client, "desk", "ann", TOPIC) };
    publish(&plan, RECORDS, &Progress::default());
    let given_up =
        || gateway.metrics().sum("trine_consumer_records_total", &[("outcome", "given_up")]);
    wait::until("none can be delivered", || (given_up() == RECORDS as f64).then_some(()));
    let lines = || gateway.log().matches("a record was given up").count() as f64;
    let suppressed = || gateway.metrics().sum("trine_log_suppressed_total", &[]);
    wait::until("each is told or counted", || {
        (suppressed() > 0.0 && lines() + suppressed() == RECORDS as f64).then_some(())
    });
}

/// The lag of each partition of all consumers together; none while nothing is known.
fn lags(gateway: &Gateway) -> BTreeMap<String, f64> {
    gateway.metrics().by("trine_consumer_lag", "partition")
}

/// The lag of a consumer that `trine status` tells.
fn told(gateway: &Gateway, consumer: &str) -> Option<u64> {
    let text = gateway.status();
    let line = text.lines().find(|line| line.starts_with(consumer))?;
    line.split_whitespace().last()?.parse().ok()
}

#[test]
fn operators_are_told_of_records_that_nobody_reads() {
    let mut gateway = Gateway::start(&format!("{PATIENT}{TICKETS}"));
    warm_up(&gateway);
    assert!(gateway.terminate(Duration::from_secs(10)).unwrap().success());
    gateway.reconfigure("topic = \"warm\"", "topic = \"cold\"");
    gateway.start_control();
    let told = || {
        let log = gateway.log();
        let of = |line: &str| line.contains("nobody reads") && line.contains("\"warm/");
        log.lines().any(of).then_some(())
    };
    wait::until("a partition with records is named", told);
}

#[test]
fn operators_see_the_lag_of_each_partition_whoever_dies() {
    let legacy = Backend::start();
    legacy.refuse();
    let config = format!(
        "{PATIENT}{TICKETS}[[consumer]]\nname = \"quality\"\ngroup = \"desk\"\ntopics = [\"{TOPIC}\"]\n\
         [consumer.to]\nupstream = \"legacy\"\npath = \"/tickets\"\n\
         [consumer.retry]\ntries = 0\nmin_ms = 50\nmax_ms = 200\n\
         [[upstream]]\nname = \"legacy\"\nendpoints = [\"{}\"]\n",
        legacy.address()
    );
    let mut gateway = Gateway::start(&config);
    let read = || (lags(&gateway).len() == PARTITIONS as usize).then_some(());
    wait::until("every partition is seen", read);
    let plan = Plan { rate_per_s: 500, ..Plan::rpc(gateway.client, "lag", "ann", TOPIC) };
    publish(&plan, 60, &Progress::default());
    // Sixty records over ten keys lie on several partitions, none of them delivered.
    let behind = |gateway: &Gateway| {
        let lags = lags(gateway);
        (lags.values().sum::<f64>() == 60.0).then_some(lags)
    };
    let per_partition = wait::until("the lag has grown", || behind(&gateway));
    assert!(per_partition.values().filter(|lag| **lag > 0.0).count() > 1, "{per_partition:?}");
    let labels = [("group", "desk"), ("topic", TOPIC)];
    assert_eq!(gateway.metrics().sum("trine_consumer_lag", &labels), 60.0);
    assert_eq!(gateway.metrics().sum("trine_consumer_position", &labels), 0.0);
    assert_eq!(told(&gateway, "quality"), Some(60), "{}", gateway.status());
    let ready = [("journal", "log"), ("phase", "ready")];
    assert_eq!(gateway.metrics().sum("trine_journal_state", &ready), 1.0);
    let stored =
        |gateway: &Gateway| gateway.metrics().sum("trine_journal_records_total", &ready[..1]);
    assert_eq!(stored(&gateway), 60.0);

    let old = gateway.data();
    gateway.kill_control();
    gateway.start_control();
    let adopted = wait::until("the new control sees it too", || behind(&gateway));
    assert_eq!(adopted, per_partition);

    // No child of the new control's, so it is ended by its id.
    process::signal(old, Signal::KILL);
    let restarted = || gateway.metrics().sum("trine_data_restarts_total", &[]) == 1.0;
    wait::until("another data process", || restarted().then_some(()));
    assert_ne!(gateway.data(), old);
    let again = wait::until("its lag is seen", || behind(&gateway));
    assert_eq!(again, per_partition, "nothing was delivered, nothing was lost");
    assert!(stored(&gateway) >= 60.0, "a total never falls: {}", stored(&gateway));
    // Offsets of consumers are records of the journal too.
    let found = gateway.metrics().sum("trine_journal_recovery_records", &ready[..1]);
    assert!(found >= 60.0, "{found}");
    let (status, text) = http::get(gateway.admin, "/status").unwrap();
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((status, &json["log"]["kind"]), (200, &"embedded".into()), "{text}");
    assert_eq!(json["log"]["recovery"]["damaged"], 0, "{text}");
    assert_eq!(json["consumers"][0]["partitions"].as_array().map(Vec::len), Some(4), "{text}");

    legacy.accept();
    let none = || (lags(&gateway).values().sum::<f64>() == 0.0).then_some(());
    legacy.await_requests(60);
    wait::until("the lag has fallen", none);
    assert_eq!(lags(&gateway).len(), PARTITIONS as usize);
    assert_eq!(gateway.metrics().sum("trine_consumer_position", &labels), 60.0);
    assert_eq!(told(&gateway, "quality"), Some(0), "{}", gateway.status());
}

#[test]
fn operators_are_told_when_a_lag_crosses_its_thresholds() {
    let (legacy, operator) = (Backend::start(), Backend::start());
    legacy.refuse();
    let config = format!(
        "log.partitions = 1\n{PATIENT}{TICKETS}[[consumer]]\nname = \"quality\"\ntopics = [\"{TOPIC}\"]\n\
         to.upstream = \"legacy\"\nretry = {{ tries = 0, min_ms = 50, max_ms = 200 }}\n\
         lag = {{ warn = 20, critical = 50, window_ms = 0, hook = \"{}\" }}\n\
         [[upstream]]\nname = \"legacy\"\nendpoints = [\"{}\"]\n",
        operator.url("/lag"),
        legacy.address()
    );
    let gateway = Gateway::start(&config);
    warm_up(&gateway);
    let labels = [("consumer", "quality"), ("topic", TOPIC), ("partition", "0")];
    let level = |wanted: f64| {
        let seen = || gateway.metrics().sum("trine_consumer_lag_level", &labels) == wanted;
        wait::until(&format!("the level is {wanted}"), || seen().then_some(()));
    };
    let told = |count: usize| {
        let request = operator.await_requests(count).swap_remove(count - 1);
        assert_eq!((&*request.method, &*request.target), ("POST", "/lag"));
        assert_eq!(request.header("content-type"), Some("application/json"));
        serde_json::from_slice::<Value>(&request.body).expect("JSON")
    };
    let plan = |sender| Plan::rpc(gateway.client, "lag", sender, TOPIC);
    let at = json!({"event": "lag", "consumer": "quality", "topic": TOPIC, "partition": 0});
    let event = |from: &str, to: &str, lag: u64| {
        let mut event = at.clone();
        (event["from"], event["to"], event["lag"]) = (from.into(), to.into(), lag.into());
        event
    };
    publish(&Plan { rate_per_s: 0, ..plan("ann") }, 19, &Progress::default());
    let behind = || gateway.metrics().sum("trine_consumer_lag", &labels) == 19.0;
    wait::until("the lag is seen", || behind().then_some(()));
    level(0.0);
    assert_eq!(operator.requests().len(), 0, "no threshold is reached");
    publish(&plan("bob"), 1, &Progress::default());
    assert_eq!(told(1), event("fine", "warn", 20));
    level(1.0);
    let logged = |text: &str| wait::until(text, || gateway.log().contains(text).then_some(()));
    logged("a consumer is behind");
    publish(&Plan { rate_per_s: 0, ..plan("eve") }, 30, &Progress::default());
    // The thirty may come between two looks.
    let critical = told(2);
    assert_eq!((&critical["from"], &critical["to"]), (&"warn".into(), &"critical".into()));
    level(2.0);
    logged("a consumer is far behind");
    legacy.accept();
    legacy.await_requests(50);
    level(0.0);
    // It may be seen between the two on its way down.
    let last = wait::until("the hook is told of the end", || {
        let requests = operator.requests();
        let bodies = requests.iter().map(|request| serde_json::from_slice(&request.body));
        bodies.map(|body| body.expect("JSON")).find(|body: &Value| body["to"] == "fine")
    });
    assert_eq!((&last["consumer"], &last["partition"]), (&at["consumer"], &at["partition"]));
    assert!(operator.requests().len() <= 4, "each change is told once");
}

#[test]
fn operators_are_told_of_a_lag_that_grows() {
    let operator = Backend::start();
    let config = format!(
        "log.partitions = 1\n{PATIENT}{TICKETS}[[consumer]]\nname = \"quality\"\ntopics = [\"{TOPIC}\"]\n\
         to.upstream = \"legacy\"\nretry = {{ tries = 0, min_ms = 50, max_ms = 200 }}\n\
         lag = {{ warn = 0, critical = 0, window_ms = 1_000, hook = \"{}\" }}\n\
         [[upstream]]\nname = \"legacy\"\nendpoints = [\"127.0.0.1:1\"]\n",
        operator.url("/lag")
    );
    let gateway = Gateway::start(&config);
    warm_up(&gateway);
    let plan = Plan::rpc(gateway.client, "growth", "ann", TOPIC);
    let hint = wait::until("the hook is asked for more members", || {
        publish(&plan, 1, &Progress::default());
        let body = &operator.requests().first()?.body.clone();
        Some(serde_json::from_slice::<Value>(body).expect("JSON"))
    });
    assert_eq!((&hint["event"], &hint["consumer"]), (&"scale".into(), &"quality".into()));
    assert_eq!((&hint["topic"], &hint["partition"]), (&TOPIC.into(), &0.into()));
    let number = |name: &str| hint[name].as_u64().expect("a number");
    assert!(number("lag") >= number("produced") && number("produced") > 0, "{hint}");
    assert_eq!(number("consumed"), 0, "{hint}");
    let logged = || gateway.log().contains("it wants more members").then_some(());
    wait::until("the log says so too", logged);
}

#[test]
fn operators_see_the_connections_of_a_slow_backend() {
    let legacy = Backend::start();
    legacy.refuse();
    // Each of the two shards has one connection, and ten keys want one.
    let config = format!(
        "{PATIENT}{TICKETS}[[consumer]]\nname = \"quality\"\ntopics = [\"{TOPIC}\"]\n\
         to.upstream = \"legacy\"\nretry = {{ tries = 0, min_ms = 50, max_ms = 200 }}\n\
         [[upstream]]\nname = \"legacy\"\nendpoints = [\"{}\"]\n\
         max_connections = 1\nmax_waiting = 2\n",
        legacy.address()
    );
    let gateway = Gateway::start(&config);
    let of = |what: &str| {
        gateway.metrics().sum(&format!("trine_upstream_{what}"), &[("upstream", "legacy")])
    };
    warm_up(&gateway);
    let plan = Plan { rate_per_s: 500, ..Plan::rpc(gateway.client, "slow", "ann", TOPIC) };
    publish(&plan, 60, &Progress::default());
    let failed = || (of("connect_failures_total") > 0.0).then_some(());
    wait::until("connects that failed are counted", failed);
    assert_eq!(of("idle"), 0.0);
    legacy.next([Answer::Hang, Answer::Hang]);
    legacy.accept();
    let busy = || (of("leased") > 0.0 && of("waiting") > 0.0).then_some(());
    wait::until("calls wait for a connection in use", busy);
    let refused = || (of("refused_total") > 0.0).then_some(());
    wait::until("calls are refused, since too many wait", refused);
    assert_eq!(of("overdue"), 0.0, "a call ends before its connection would be missed");
    legacy.await_requests(60 + 2);
    let idle = || (of("idle") > 0.0 && of("leased") == 0.0 && of("waiting") == 0.0).then_some(());
    wait::until("the connections are kept, and nobody has one", idle);
    assert!(of("idle") <= 2.0 && of("connects_total") > of("connect_failures_total"));
}

#[test]
fn operators_see_what_a_damaged_journal_lost() {
    let mut gateway = Gateway::start(&format!("{PATIENT}{TICKETS}"));
    let plan = Plan { rate_per_s: 500, ..Plan::rpc(gateway.client, "damage", "ann", TOPIC) };
    warm_up(&gateway);
    publish(&plan, 50, &Progress::default());
    assert!(gateway.terminate(Duration::from_secs(10)).unwrap().success());
    journal::damage(&gateway.data_dir(), b"\"sender\"");
    gateway.start_control();
    let damaged = || gateway.metrics().sum("trine_journal_recovery_damaged", &[]);
    wait::until("the damage is seen", || (damaged() >= 1.0).then_some(()));
    let text = gateway.status();
    assert!(text.contains("damage: segment ") && !text.contains(" 0 damaged places"), "{text}");
    let (_, text) = http::get(gateway.admin, "/status").unwrap();
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["log"]["damages"].as_array().map(Vec::is_empty), Some(false), "{text}");
}

/// The events of a batch.
fn events(request: &Request) -> Vec<Value> {
    serde_json::from_slice(&request.body).expect("a batch of events")
}

/// Whole slots of this length since 1970 are the times of the queue that drains into a topic.
const SLOT_MS: u64 = 1_000;

/// A queue of 100 calls that a backend gets in tens, and one that goes on to another topic.
fn queues(backend: &Backend) -> String {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    // Half a day away, so that only the number opens the queue.
    let minute = (unix.as_secs() / 60 + 720) % 1440;
    let (hour, minute) = (minute / 60, minute % 60);
    format!(
        "log.partitions = 1\n{PATIENT}{TICKETS}\
         [[consumer]]\nname = \"live\"\ntopics = [\"{TOPIC}\"]\nto.channel = \"live\"\n\
         [[consumer]]\nname = \"night\"\ntopics = [\"{TOPIC}\"]\nto.upstream = \"legacy\"\n\
         batch = {{ records = 10, linger_ms = 1_000 }}\n\
         schedule = {{ at = [\"{hour:02}:{minute:02}\"], records = 100 }}\n\
         [[consumer]]\nname = \"mover\"\ntopics = [\"{TOPIC}\"]\nto.topic = \"moved\"\n\
         schedule = {{ every_ms = {SLOT_MS}, rate_per_s = 1_000 }}\n\
         [[consumer]]\nname = \"reader\"\ntopics = [\"moved\"]\nto.channel = \"moved\"\n\
         [[upstream]]\nname = \"legacy\"\nendpoints = [\"{}\"]\n",
        backend.address()
    )
}

#[test]
fn a_queue_waits_for_its_schedule_and_drains_in_batches() {
    let legacy = Backend::start();
    let mut gateway = Gateway::start(&queues(&legacy));
    let subscribed = |channel: &str| {
        let mut client = Client::connect(gateway.client, channel).unwrap();
        client.subscribe(channel, None).unwrap();
        client
    };
    let (mut live, mut moved) = (subscribed("live"), subscribed("moved"));
    let plan = |sender: &str| Plan::rpc(gateway.client, "queue", sender, TOPIC);
    warm_up(&gateway);
    let progress = Progress::default();
    let mut sent = publish(&Plan { rate_per_s: 500, ..plan("ann") }, 99, &progress);
    assert_eq!(progress.acknowledged(), 99);
    let by_key = pushed(&mut live, 99);
    let waiting = || {
        let metrics = gateway.metrics();
        let ages = metrics.by("trine_consumer_age_seconds", "consumer");
        let old: Vec<&String> = ages.keys().filter(|consumer| ages[*consumer] > 0.0).collect();
        (metrics.sum("trine_consumer_lag_records", &[]) == 99.0 && old == ["night"]).then_some(())
    };
    wait::until("the backend's records wait, and those alone", waiting);
    assert_eq!(legacy.requests().len(), 0, "the queue is closed");
    sent.extend(publish(&plan("bob"), 1, &progress));
    let in_journal =
        |sent: &Sent| matches!(&sent.outcome, Outcome::Acknowledged { at, .. } if at == "journal");
    assert!(sent.iter().all(in_journal), "{sent:?}");
    let mut of_key: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let batches = wait::until("the backend has all", || {
        let batches: Vec<Vec<Value>> = legacy.requests().iter().map(events).collect();
        (batches.iter().map(Vec::len).sum::<usize>() >= 100).then_some(batches)
    });
    assert_eq!(batches[0].len(), 10, "ten keys had a record that could go");
    assert!(batches.iter().all(|batch| batch.len() <= 10));
    for event in batches.iter().flatten() {
        let key = event["data"]["key"].as_str().unwrap().to_owned();
        of_key.entry(key).or_default().push(event["data"]["sequence"].as_u64().unwrap());
    }
    assert_eq!(of_key.remove("bob-0"), Some(vec![0]));
    assert_eq!(of_key, by_key, "each key in order");
    let mut went_on = pushed(&mut moved, 100);
    went_on.remove("bob-0");
    assert_eq!(went_on, by_key, "the other topic has each key in order too");
    let drained =
        || (gateway.metrics().sum("trine_consumer_lag_records", &[]) == 0.0).then_some(());
    wait::until("nothing waits", drained);
    assert_eq!(legacy.requests().len(), batches.len());
    assert!(gateway.terminate(Duration::from_secs(10)).unwrap().success());
    let records = journal::read(&gateway.data_dir(), TOPIC, 1);
    checker::check("queue", &sent, &records).assert(Allowed::default());
    let moved = journal::read(&gateway.data_dir(), "moved", 1);
    assert_eq!(moved.len(), 100);
    for record in &moved {
        let is_it = |other: &&Record| other.value == record.value;
        let original = records.iter().find(is_it).expect("it was in the first topic");
        assert_eq!((&record.key, &record.headers), (&original.key, &original.headers));
        let slot = |record: &Record| record.timestamp_ms as u64 / SLOT_MS;
        assert!(slot(record) > slot(original), "{original:?} did not wait for its time");
    }
}
