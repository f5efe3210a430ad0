//! Loads that a gateway must survive without hurting anybody else: a reader too slow, and 5,000
//! clients cut at once.
//!
//! **Runs on: any.**

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use trine_tests::client::{Client, Failure};
use trine_tests::durable::PATIENCE;
use trine_tests::follower::Follower;
use trine_tests::gateway::Gateway;
use trine_tests::process;
use trine_tests::wait;

const TWO_SHARDS: &str = "shards.count = 2";

/// Sixteen megabytes to readers of which one never reads: it is closed as slow, the others hear all.
#[test]
fn a_slow_reader_is_closed_and_others_are_untouched() {
    const MESSAGES: usize = 400;
    const READERS: usize = 4;
    /// Messages that readers together may be behind, which is less than is kept for one of them.
    const BEHIND: usize = 16;
    let gateway = Gateway::start(TWO_SHARDS);
    let mut slow = Client::connect(gateway.client, "slow").expect("connected");
    slow.subscribe("flood", None).expect("subscribed");
    let address = gateway.client;
    let heard = Arc::new(AtomicUsize::new(0));
    let read = |n: usize| {
        let mut reader =
            Follower::start(address, &format!("reader-{n}"), "flood").expect("subscribed");
        let (all, mut counted) = (heard.clone(), 0);
        move || {
            assert!(reader.listen(4 * wait::DEADLINE, |of| {
                all.fetch_add(of.heard.len() - counted, Ordering::Relaxed);
                counted = of.heard.len();
                counted == MESSAGES
            }));
            assert_eq!((reader.reconnects, reader.resubscribes), (0, 0));
        }
    };
    let readers: Vec<_> = (0..READERS).map(|n| thread::spawn(read(n))).collect();
    let mut publisher = Client::connect(gateway.client, "publisher").expect("connected");
    for number in 0..MESSAGES {
        let data = json!({"number": number, "fill": "x".repeat(40_000)});
        publisher.publish("flood", data).expect("published");
        wait::until("who reads keeps up", || {
            (heard.load(Ordering::Relaxed) + BEHIND > number * READERS).then_some(())
        });
    }
    readers.into_iter().for_each(|reader| reader.join().expect("a reader hears all"));

    wait::until("the slow reader is closed, once", || {
        let metrics = gateway.metrics();
        let closed = metrics.sum("trine_connections_closed_total", &[("code", "3008")]);
        (metrics.sum("trine_slow_closes_total", &[]) == 1.0 && closed == 1.0).then_some(())
    });
    match slow.end() {
        // The close frame comes after what the kernel already held, or the kernel dropped it.
        Failure::Closed { code: 3008, .. } | Failure::Cut(_) => {}
        other => panic!("a slow reader is closed with 3008, not: {other}"),
    }
}

/// A frame of small commands whose answers are large: each is answered when the client has taken what
/// came before, so that it is neither slow by what it asked for nor has the gateway hold it all.
/// Channels of both shards take turns, so that answers also wait behind others.
#[test]
fn what_a_frame_asks_for_is_answered_as_fast_as_it_is_read() {
    const PUBLICATIONS: usize = 50;
    const COMMANDS: usize = 400;
    const CHANNELS: usize = 8;
    // Beside what a process has anyway; all answers together are 640 MB.
    const LIMIT_BYTES: u64 = 150 << 20;
    let mut gateway = Gateway::start(TWO_SHARDS);
    let address = gateway.client;
    let connect = |name| Client::connect(address, name).expect("connected");
    let mut client = connect("curious");
    for number in 0..CHANNELS * PUBLICATIONS {
        let channel = format!("channel-{}", number % CHANNELS);
        client.publish(&channel, json!("x".repeat(32_000))).expect("published");
    }
    let ask = |number| json!({"channel": format!("channel-{}", number % CHANNELS), "limit": -1});
    let asked: Vec<_> = (0..COMMANDS).map(ask).collect();
    // Some go before they have taken much, each after another while.
    for number in 0..4 {
        let mut gone = connect("gone");
        let first = gone.send_together("history", &asked).expect("sent");
        (first..).take(number).for_each(|id| drop(gone.reply(id, "history").expect("answered")));
        gone.cut();
    }
    let first = client.send_together("history", &asked).expect("sent");
    for id in (first..).take(COMMANDS) {
        let history = client.reply(id, "history").expect("answered");
        let publications = history["publications"].as_array().map_or(0, Vec::len);
        assert_eq!(publications, PUBLICATIONS);
    }
    wait::until("those who went are forgotten", || {
        (gateway.metrics().sum("trine_connections", &[]) == 1.0).then_some(())
    });
    let peak_bytes = process::peak_memory_bytes(gateway.data());
    assert!(peak_bytes < LIMIT_BYTES, "it held {peak_bytes} bytes");
}

/// Clients that send all the time and never read: each is closed once a send has made no progress
/// for too long, whatever of theirs is still on its way, and nobody else notices.
#[test]
fn clients_that_never_read_are_closed_with_3009() {
    const CLIENTS: usize = 4;
    let mut gateway = Gateway::start(&format!(
        "{TWO_SHARDS}\nclient.write_timeout_ms = 500\nclient.ping_interval_ms = 0\nclient.outbox_limit_bytes = 1_000_000_000"
    ));
    let (address, data) = (gateway.client, gateway.data());
    let mut other = Client::connect(address, "other").expect("connected");
    thread::scope(|scope| {
        let flood = || {
            let stream = TcpStream::connect(address).expect("a listener is always there");
            // Little fits into what nobody reads, so that a send is stuck soon.
            let small = rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4096);
            small.expect("an option of sockets");
            let mut client = Client::over(stream, address, "deaf").expect("connected");
            let body = json!({"method": "echo", "data": "x".repeat(40_000)});
            while client.send("rpc", body.clone()).is_ok() {}
        };
        let floods: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(flood)).collect();
        for flood in floods {
            flood.join().expect("a flood ends");
        }
    });
    wait::until("all are closed for what they did not read", || {
        let closed = gateway.metrics().sum("trine_connections_closed_total", &[("code", "3009")]);
        (closed == CLIENTS as f64).then_some(())
    });
    assert_eq!(gateway.data(), data, "the data process is still the same");
    other.call("rpc", json!({"method": "echo", "data": 1})).expect("the other is answered");
}

/// What waits for a client that doesn't read is told by the metrics, until it is gone.
#[test]
fn what_a_client_does_not_read_is_seen_until_it_is_gone() {
    let config = format!("{TWO_SHARDS}\nclient.outbox_limit_bytes = 67_108_864");
    let gateway = Gateway::start(&config);
    let waiting = || gateway.metrics().sum("trine_outbox_bytes", &[]);
    let mut deaf = Client::connect(gateway.client, "deaf").expect("connected");
    deaf.subscribe("room", None).expect("subscribed");
    let mut publisher = Client::connect(gateway.client, "publisher").expect("connected");
    for _ in 0..300 {
        publisher.publish("room", json!("x".repeat(60_000))).expect("published");
    }
    // More than sockets take, and less than was published.
    wait::until("most of it waits", || (waiting() > 1_000_000.0).then_some(()));
    assert!(waiting() < 18_100_000.0, "{}", waiting());
    deaf.cut();
    wait::until("nothing waits", || (waiting() == 0.0).then_some(()));
}

/// The process is stopped for longer than a turn may take, until that hits one.
#[test]
fn a_turn_that_takes_long_is_counted_and_told() {
    const CALLS: usize = 500;
    const CLIENTS: usize = 4;
    let mut gateway = Gateway::start("client.in_flight = 1024");
    let data = gateway.data();
    let stalls = || gateway.metrics().sum("trine_stalls_total", &[]);
    let (address, before, is_over) = (gateway.client, stalls(), AtomicBool::new(false));
    let seen = thread::scope(|scope| {
        let busy = || {
            let mut client = Client::connect(address, "busy").expect("connected");
            let calls: Vec<_> = (0..CALLS).map(|n| json!({"method": "echo", "data": n})).collect();
            while !is_over.load(Ordering::Relaxed) {
                let first = client.send_together("rpc", &calls).expect("sent");
                for id in (first..).take(CALLS) {
                    client.reply(id, "rpc").expect("answered");
                }
            }
        };
        for _ in 0..CLIENTS {
            scope.spawn(busy);
        }
        let seen = wait::within(PATIENCE, || {
            process::signal(data, Signal::STOP);
            thread::sleep(Duration::from_millis(150));
            process::signal(data, Signal::CONT);
            // The counter is the turn's last deed.
            thread::sleep(Duration::from_millis(20));
            (stalls() > before).then_some(())
        });
        is_over.store(true, Ordering::Relaxed);
        seen
    });
    seen.expect("a turn that was stopped counts as a stall");
    let told = || gateway.log().lines().filter_map(turn_ms).next();
    let turn_ms = wait::until("it is told", told);
    assert!(turn_ms >= 100, "{turn_ms}");
}

/// What a record of the log says of a turn that took long.
fn turn_ms(line: &str) -> Option<u64> {
    let record: Value = serde_json::from_str(line).ok()?;
    (record["message"] == "a turn took long").then(|| record["turn_ms"].as_u64())?
}

/// An answer that takes a slow link much longer than a write or a pong may take arrives whole: the
/// write gets on, and the ping waits behind it.
#[test]
fn a_large_answer_arrives_over_a_slow_link() {
    const PUBLICATIONS: usize = 270;
    const PIECE_BYTES: usize = 128 << 10;
    const PAUSE: Duration = Duration::from_millis(100);
    let gateway = Gateway::start(
        "client.write_timeout_ms = 4_000\nclient.ping_interval_ms = 6_100\nclient.pong_timeout_ms = 6_000",
    );
    let mut publisher = Client::connect(gateway.client, "publisher").expect("connected");
    for _ in 0..PUBLICATIONS {
        publisher.publish("room", json!("x".repeat(60_000))).expect("published");
    }
    let link = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = link.local_addr().expect("it has one");
    let mut far = TcpStream::connect(gateway.client).expect("a listener is always there");
    rustix::net::sockopt::set_socket_recv_buffer_size(&far, PIECE_BYTES).expect("an option");
    thread::spawn(move || {
        let (mut near, _) = link.accept().expect("the client comes");
        let (mut up, mut down) =
            (near.try_clone().expect("cloned"), far.try_clone().expect("cloned"));
        thread::spawn(move || io::copy(&mut up, &mut down));
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = far.read(&mut piece) {
            if near.write_all(&piece[..count]).is_err() {
                return;
            }
            thread::sleep(PAUSE * count as u32 / PIECE_BYTES as u32);
        }
    });
    let mut client = Client::connect(address, "far").expect("connected");
    let began = Instant::now();
    client.send("history", json!({"channel": "room", "limit": -1})).expect("sent");
    let (_, history) = client.next_reply("history", PATIENCE).expect("the answer arrives");
    let history = history.expect("it is no refusal");
    assert_eq!(history["publications"].as_array().map_or(0, Vec::len), PUBLICATIONS);
    assert!(began.elapsed() > Duration::from_secs(8), "the link was no slow one");
    client.call("rpc", json!({"method": "echo", "data": 1})).expect("it is still there");
}

/// Everybody is cut within milliseconds, something is published, and everybody comes back at once:
/// each recovers exactly that, and nothing of the old connections is left.
#[test]
fn five_thousand_cut_at_once_come_back() {
    const CLIENTS: usize = 5_000;
    const THREADS: usize = 20;
    const CHANNELS: usize = 50;
    const MISSED: usize = 3;
    // Nobody answers pings while the others connect.
    let gateway = Gateway::start(&format!("{TWO_SHARDS}\nclient.ping_interval_ms = 0"));
    let address = gateway.client;
    let channel = |number: usize| format!("room-{}", number % CHANNELS);

    let followers = spread(CLIENTS, THREADS, |n| start(address, n, &channel(n)));
    let sessions = || gateway.metrics().sum("trine_sessions", &[]);
    assert_eq!(sessions(), CLIENTS as f64);

    let away = followers.into_iter().map(Follower::cut).collect::<Vec<_>>();
    let mut publisher = Client::connect(address, "publisher").expect("connected");
    for number in 0..CHANNELS * MISSED {
        publisher.publish(&channel(number), json!(number / CHANNELS)).expect("published");
    }

    let mut waiting: Vec<_> = away.into_iter().map(Some).collect();
    let each = waiting.len().div_ceil(THREADS);
    let missed: Vec<_> = (0..MISSED).map(|number| json!(number)).collect();
    thread::scope(|scope| {
        for part in waiting.chunks_mut(each) {
            scope.spawn(|| {
                let mut back = Vec::new();
                for away in part {
                    let away = away.take().expect("each comes back once");
                    back.push(away.come_back().expect("a client comes back"));
                }
                for follower in &mut back {
                    assert!(follower.listen(wait::DEADLINE, |of| of.heard.len() == MISSED));
                    assert_eq!((&follower.heard, follower.losses), (&missed, 0));
                }
            });
        }
    });
    wait::until("nothing of them is left", || (sessions() == 1.0).then_some(()));
    let metrics = gateway.metrics();
    assert_eq!(metrics.sum("trine_recoveries_total", &[("outcome", "recovered")]), CLIENTS as f64);
    assert_eq!(metrics.sum("trine_subscriptions", &[]), 0.0);
}

fn start(address: SocketAddr, number: usize, channel: &str) -> Follower {
    wait::until("a client is served", || {
        Follower::start(address, &format!("user-{number}"), channel).ok()
    })
}

/// `make` for each number below `count`, on `threads` threads; in any order.
fn spread<T: Send>(count: usize, threads: usize, make: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let make = &make;
    thread::scope(|scope| {
        let part = |first| move || (first..count).step_by(threads).map(make).collect::<Vec<_>>();
        let parts: Vec<_> = (0..threads).map(|first| scope.spawn(part(first))).collect();
        parts.into_iter().flat_map(|part| part.join().expect("all are made")).collect()
    })
}
