//! Two shards: both serve, both sides exchange messages, and saturating the way between them loses
//! nothing that a client isn't told about.
//!
//! **Runs on: any.**

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use trine_tests::client::{Client, Failure};
use trine_tests::durable::PATIENCE;
use trine_tests::follower::Follower;
use trine_tests::gateway::Gateway;
use trine_tests::{process, wait};

const TWO_SHARDS: &str = "shards.count = 2";

#[test]
fn both_shards_serve_and_exchange_messages() {
    const CLIENTS: usize = 40;
    let mut gateway = Gateway::start(TWO_SHARDS);
    let data = gateway.data();
    wait::until("the plan is told", || gateway.log().contains("pin plan").then_some(()));
    for shard in ["shard-0", "shard-1"] {
        let cpus = process::allowed_cpus(data, shard);
        let is_one = |text: &String| text.parse::<usize>().is_ok();
        assert!(cpus.as_ref().is_some_and(is_one), "{shard} is not pinned to a CPU: {cpus:?}");
    }
    let pinned = || gateway.log().matches("pinned, verified").count();
    wait::until("both say that they are pinned", || (pinned() >= 2).then_some(()));
    assert_eq!(pinned(), 2, "{}", gateway.log());
    let connect = |number| Follower::start(gateway.client, &format!("user-{number}"), "all");
    let mut followers: Vec<_> = (0..CLIENTS).map(|n| connect(n).expect("subscribed")).collect();

    let connections = gateway.metrics().by("trine_sessions", "shard");
    assert_eq!(connections.len(), 2, "{connections:?}");
    assert!(connections.values().all(|count| *count >= 10.0), "{connections:?}");
    assert_eq!(connections.values().sum::<f64>(), CLIENTS as f64);

    // Publishers sit on both shards too, and the channels' owners are spread by hash.
    for number in 0..CLIENTS {
        let mut publisher = Client::connect(gateway.client, "publisher").expect("connected");
        publisher.publish("all", json!(number)).expect("published");
    }
    let wanted: Vec<_> = (0..CLIENTS).map(|number| json!(number)).collect();
    for follower in &mut followers {
        assert!(follower.listen(wait::DEADLINE, |of| of.heard.len() == CLIENTS));
        assert_eq!(follower.heard, wanted);
        assert_eq!((follower.reconnects, follower.resubscribes), (0, 0));
    }

    let metrics = gateway.metrics();
    for (series, label) in [("trine_deliveries_total", ""), ("trine_messages_total", "in")] {
        let labels: &[_] = if label.is_empty() { &[] } else { &[("direction", label)] };
        for shard in ["0", "1"] {
            let labels: Vec<_> = labels.iter().copied().chain([("shard", shard)]).collect();
            assert!(metrics.sum(series, &labels) > 0.0, "{series} of shard {shard}");
        }
    }
    // Each turn is timed, and a shard that was busy tells it within a second.
    for shard in ["0", "1"] {
        wait::until("turns and what they took", || {
            let metrics = gateway.metrics();
            let of = |series| metrics.sum(series, &[("shard", shard)]);
            let (turns, timed) = (of("trine_turns_total"), of("trine_turn_duration_seconds_count"));
            let utilisation = of("trine_shard_utilisation_ratio");
            assert!(utilisation <= 1.0, "{utilisation}");
            (turns > 0.0 && turns == timed && utilisation > 0.0).then_some(())
        });
    }
    assert_eq!(metrics.sum("trine_publications_total", &[]), CLIENTS as f64);
    assert_eq!(metrics.sum("trine_deliveries_total", &[]), (CLIENTS * CLIENTS) as f64);
    let exchanged = |direction, shard: &str| {
        let labels = [("direction", direction), ("shard", shard)];
        gateway.metrics().sum("trine_mailbox_messages_total", &labels)
    };
    // What is exchanged is counted a few times a second.
    for shard in ["0", "1"] {
        wait::until("both sides exchange messages", || {
            (exchanged("out", shard) > 0.0 && exchanged("in", shard) > 0.0).then_some(())
        });
    }
}

/// All connections of one shard end; new ones that come to the other's listener are handed over
/// until the two are level, which the gauge tells.
#[test]
fn connections_are_handed_over_to_the_shard_that_has_fewer() {
    const MANY: usize = 60;
    let config = format!("{TWO_SHARDS}\nclient.ping_interval_ms = 0\n");
    let gateway = Gateway::start(&config);
    let sessions = || gateway.metrics().by("trine_sessions", "shard");
    let imbalance = || gateway.metrics().sum("trine_shard_imbalance_ratio", &[]);
    let (mut kept, mut others) = (Vec::new(), Vec::new());
    for _ in 0..2 * MANY {
        let before = sessions()["0"];
        let client = Client::connect(gateway.client, "client").expect("connected");
        if sessions()["0"] > before { kept.push(client) } else { others.push(client) }
    }
    others.into_iter().for_each(Client::cut);
    wait::until("all are on one shard", || (imbalance() == 2.0).then_some(()));

    let handed = || gateway.metrics().sum("trine_connections_handed_over_total", &[]);
    let before = handed();
    let more = (0..MANY).map(|_| Client::connect(gateway.client, "client").expect("connected"));
    kept.extend(more);
    let now = sessions();
    // A shard may exceed the other by 10 % and 16.
    let (fewer, more) = (now["0"].min(now["1"]), now["0"].max(now["1"]));
    assert!(more <= fewer + more * 0.1 + 17.0, "{now:?}");
    assert!(handed() > before, "none was handed over");
    assert!(imbalance() < 1.3, "{}", imbalance());
    for client in &mut kept {
        client.call("rpc", json!({"method": "echo", "data": 1})).expect("each is served");
    }
}

/// Each shard has half of the room: who has none in the presence is told so, isn't subscribed, and
/// is let in when others have left.
#[test]
fn a_client_that_presence_has_no_room_for_is_refused_for_now() {
    const CHANNELS: usize = 8_000;
    const HISTORY: usize = 100;
    let config = format!(
        "{TWO_SHARDS}\nclient.channels_limit = 10_000\nclient.ping_interval_ms = 0\n\
         broker.history_limit_bytes = 1_048_576\n"
    );
    let gateway = Gateway::start(&config);
    let mut client = Client::connect(gateway.client, "ann").expect("connected");
    for number in 0..HISTORY {
        client.publish("news", json!({"number": number})).expect("published");
    }
    let channels: Vec<_> = (0..CHANNELS).map(|number| format!("room-{number}")).collect();
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for some in channels.chunks(500) {
        let bodies: Vec<_> = some.iter().map(|channel| json!({"channel": channel})).collect();
        let first = client.send_together("subscribe", &bodies).expect("sent");
        for (channel, id) in some.iter().zip(first..) {
            match client.reply(id, "subscribe") {
                Ok(_) => inside.push(channel),
                Err(Failure::Refused { code: 100, .. }) => outside.push(channel),
                Err(other) => panic!("{channel}: {other:?}"),
            }
        }
    }
    assert!(inside.len() > 1_000 && outside.len() > 1_000, "{} have room", inside.len());
    let refused = || gateway.metrics().sum("trine_presence_refused_total", &[]);
    wait::until("each is counted", || (refused() == outside.len() as f64).then_some(()));
    // History has made room before.
    let trimmed = || gateway.metrics().sum("trine_history_trimmed_total", &[]);
    wait::until("all of it is gone", || (trimmed() == HISTORY as f64).then_some(()));
    let news = client.call("history", json!({"channel": "news", "limit": -1})).expect("answered");
    assert_eq!(news["publications"].as_array().map_or(0, Vec::len), 0, "{news}");
    let mut present = |channel: &str| {
        let stats = client.call("presence_stats", json!({"channel": channel})).expect("answered");
        stats["num_clients"].as_u64().unwrap_or_default()
    };
    assert_eq!((present(inside[0]), present(outside[0])), (1, 0));

    for channel in &inside[..1_000] {
        client.call("unsubscribe", json!({"channel": channel})).expect("it was subscribed");
    }
    client.call("subscribe", json!({"channel": outside[0]})).expect("there is room again");
    client.publish(outside[0], json!(1)).expect("published");
    let push = client.push(wait::DEADLINE).expect("what is published in it");
    assert_eq!((&push["channel"], &push["pub"]["data"]), (&json!(outside[0]), &json!(1)));
}

/// Every client floods a channel and follows it, across two shards at once, until mailboxes were full
/// and channels were holed: a publish gets its reply, be it a refusal for now, and no follower
/// meets a gap that recovery doesn't mend.
#[test]
fn saturated_in_both_directions() {
    const PAIRS: usize = 32;
    // A recovery gives 300.
    const BURST: usize = 256;
    let config = format!("{TWO_SHARDS}\nclient.in_flight = 1024\nchannel.history_size = 1000\n");
    let mut gateway = Gateway::start(&config);
    let (address, data) = (gateway.client, gateway.data());
    let (begin, is_saturated) = (Barrier::new(PAIRS), AtomicBool::new(false));
    let waiting = AtomicUsize::new(0);
    let flood = |number: usize| {
        let channel = format!("flood-{number}");
        let mut follower = Follower::start(address, "follower", &channel).expect("subscribed");
        let mut publisher = Client::connect(address, "publisher").expect("connected");
        begin.wait();
        let mut published = 0;
        // A pair whose first burst was refused tries another.
        let began = Instant::now();
        let goes_on = |published| published == 0 || !is_saturated.load(Ordering::Relaxed);
        while goes_on(published) && began.elapsed() < PATIENCE {
            let send = |n| {
                let body = json!({"channel": channel, "data": {"n": n, "fill": "x".repeat(512)}});
                publisher.send("publish", body).expect("the connection is read again in time")
            };
            let ids: Vec<_> = (0..BURST).map(send).collect();
            waiting.fetch_add(1, Ordering::Relaxed);
            for id in ids {
                match publisher.reply(id, "publish") {
                    Ok(_) => published += 1,
                    Err(Failure::Refused { code: 100, .. }) => {}
                    Err(other) => panic!("a publish ended with {other}"),
                }
            }
            waiting.fetch_sub(1, Ordering::Relaxed);
            let whole = follower.listen(wait::DEADLINE, |of| of.heard.len() == published);
            assert!(whole, "{} of {published} heard", follower.heard.len());
        }
        assert!(published > 0, "nothing at all was published");
        assert_eq!((follower.reconnects, follower.losses), (0, 0));
        (published, follower.resubscribes)
    };
    let full = || gateway.metrics().by("trine_mailbox_full_total", "shard");
    let holed = || gateway.metrics().sum("trine_holed_channels_total", &[]);
    let mut deepest = 0.0f64;
    let (published, resubscribes) = thread::scope(|scope| {
        let threads: Vec<_> = (0..PAIRS).map(|n| scope.spawn(move || flood(n))).collect();
        while !threads.iter().all(|thread| thread.is_finished()) {
            // Bursts of all pairs wait when the shards go on: these may be faster than clients are.
            process::signal(data, Signal::STOP);
            let all = || (waiting.load(Ordering::Relaxed) == PAIRS).then_some(());
            let _ = wait::within(Duration::from_millis(500), all);
            process::signal(data, Signal::CONT);
            deepest = deepest.max(gateway.metrics().sum("trine_mailbox_depth", &[]));
            let both = full().values().all(|count| *count > 0.0);
            is_saturated.store(both && holed() > 0.0 && deepest > 0.0, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(20));
        }
        let of = threads.into_iter().map(|thread| thread.join().expect("a pair is content"));
        of.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    });
    println!("{published} published, {:?} full, {} holed, {resubscribes} back", full(), holed());
    println!("{deepest} messages in both mailboxes at most, as far as seen");
    assert!(full().values().all(|count| *count > 0.0), "{:?}", full());
    assert!(holed() > 0.0 && resubscribes > 0, "{} holed, {resubscribes} back", holed());
    assert!(deepest > 0.0, "the depth of a mailbox was never told");
    await_quiet(&gateway);
    let metrics = gateway.metrics();
    assert_eq!(metrics.sum("trine_publications_total", &[]), published as f64);
    wait::until("it serves", || gateway.is_serving().then_some(()));
}

/// Waits until mailboxes are empty and as much was received as was sent.
fn await_quiet(gateway: &Gateway) {
    wait::until("what was sent to a shard is received", || {
        let metrics = gateway.metrics();
        let of =
            |direction| metrics.sum("trine_mailbox_messages_total", &[("direction", direction)]);
        let depth = metrics.sum("trine_mailbox_depth", &[]);
        (depth == 0.0 && of("out") == of("in")).then_some(())
    });
}
