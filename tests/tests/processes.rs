//! The two processes end, separately and together, while clients talk: listeners stay, counters
//! never fall, and recovery tells the truth.
//!
//! **Runs on: any.** Ends only processes that the gateway under test started.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use trine_tests::client::{Client, Failure};
use trine_tests::follower::Follower;
use trine_tests::gateway::{self, Gateway};
use trine_tests::{process, wait};

const TWO_SHARDS: &str = "shards.count = 2";

/// How long control is away: several pings and what their pongs may take.
const OUTAGE: Duration = Duration::from_secs(9);

/// How long clients may take to show that they are served without control.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest that nobody is served meanwhile: more than a busy machine takes from everybody.
const STALL: Duration = Duration::from_secs(10);

/// A clean stop closes clients with 3001 and exits 0; after it, as many publications again bring
/// the stream to the same offset, and recovery must still say that it isn't the same stream.
#[test]
fn a_restart_is_not_mistaken_for_the_same_stream() {
    const MESSAGES: u64 = 10;
    let mut gateway = Gateway::start(TWO_SHARDS);
    let publish = |address: SocketAddr| {
        let mut publisher = Client::connect(address, "publisher").expect("connected");
        (0..MESSAGES).for_each(|n| publisher.publish("news", json!(n)).expect("published"));
    };
    let mut subscriber = Client::connect(gateway.client, "subscriber").expect("connected");
    let mut position = subscriber.subscribe("news", None).expect("subscribed").position;
    publish(gateway.client);
    position.offset = MESSAGES;

    let status = gateway.terminate(Duration::from_secs(10)).expect("it stops within 10 s");
    assert_eq!(status.code(), Some(0));
    match subscriber.end() {
        Failure::Closed { code: 3001, .. } => {}
        other => panic!("a clean stop closes with 3001, not: {other}"),
    }

    gateway.start_control();
    wait::until("it serves again", || gateway.is_serving().then_some(()));
    gateway.data();
    publish(gateway.client);
    let mut subscriber = Client::connect(gateway.client, "subscriber").expect("connected");
    let again = subscriber.subscribe("news", Some(&position)).expect("subscribed");
    assert!(!again.recovered, "another stream at the same offset is no recovery");
    assert!(again.publications.is_empty());
    assert_eq!(again.position.offset, MESSAGES);
    assert_ne!(again.position.epoch, position.epoch);
}

#[test]
fn the_data_process_killed_under_load() {
    let mut gateway = Gateway::start(TWO_SHARDS);
    let address = gateway.client;
    let load = Load::default();
    thread::scope(|scope| {
        let stop = StopOnDrop(&load);
        let publisher = scope.spawn(|| load.publish(address, "news", Duration::from_millis(2)));
        let follow = |n: usize| load.follow(address, &format!("follower-{n}"), "news");
        let followers: Vec<_> = (0..8).map(|n| scope.spawn(move || follow(n))).collect();
        wait::until("all hear", || (load.heard.load(Ordering::Relaxed) > 400).then_some(()));

        let before = gateway.metrics();
        let killed = gateway.kill_data();
        let start = Instant::now();
        // The listeners stay: a connection is accepted by the kernel at any time.
        wait::until("another data process serves", || {
            std::net::TcpStream::connect(address).expect("a listener is always there");
            let other = process::children(gateway.control()).iter().any(|id| *id != killed);
            (other && gateway.is_serving()).then_some(())
        });
        println!("served again after {:?}", start.elapsed());
        assert_ne!(gateway.data(), killed);
        let heard = load.heard.load(Ordering::Relaxed);
        wait::until("all hear again", || {
            (load.heard.load(Ordering::Relaxed) > heard + 400).then_some(())
        });
        let fallen = gateway.metrics().fallen_since(&before);
        assert!(fallen.is_empty(), "{fallen:#?}");

        drop(stop);
        publisher.join().expect("the publisher is content");
        for follower in followers {
            let follower = follower.join().expect("a follower is content");
            // History was in memory: the truth is that it is lost, once.
            assert_eq!((follower.losses, follower.reconnects), (1, 1), "{:?}", follower.last_end);
        }
    });
    let failed = gateway.metrics().sum("trine_recoveries_total", &[("outcome", "failed")]);
    assert!(failed >= 8.0, "{failed} recoveries were refused");
}

#[test]
fn control_killed_and_adopted() {
    const FOLLOWERS: usize = 4;
    let mut gateway = Gateway::start(&format!(
        "{TWO_SHARDS}\nclient.ping_interval_ms = 2000\nclient.pong_timeout_ms = 1900"
    ));
    let address = gateway.client;
    let data = gateway.data();
    let load = Load::default();
    thread::scope(|scope| {
        let stop = StopOnDrop(&load);
        let publisher = scope.spawn(|| load.publish(address, "news", Duration::from_millis(10)));
        let arrivals = scope.spawn(|| load.arrive(address));
        let follow = |n: usize| load.follow(address, &format!("follower-{n}"), "news");
        let followers: Vec<_> = (0..FOLLOWERS).map(|n| scope.spawn(move || follow(n))).collect();
        wait::until("all hear", || (load.heard.load(Ordering::Relaxed) > 100).then_some(()));

        let before = gateway.metrics();
        gateway.kill_control();
        load.is_served_throughout(OUTAGE, FOLLOWERS);
        assert!(process::is_alive(data), "the data process lives on");

        gateway.start_control();
        let adopted = format!("adopted data process {data},");
        wait::until("it is adopted", || gateway.log().contains(&adopted).then_some(()));
        let fallen = gateway.metrics().fallen_since(&before);
        assert!(fallen.is_empty(), "{fallen:#?}");
        wait::until("it serves", || gateway.is_serving().then_some(()));
        assert!(process::is_alive(data));
        let status = gateway.status();
        let named = format!("pid {data}, adopted");
        assert!(status.contains(&named), "status names the adopted process:\n{status}");
        let published = load.published();
        wait::until("publications go on", || (load.published() > published + 50).then_some(()));

        drop(stop);
        publisher.join().expect("the publisher is content");
        assert_eq!(*load.last_error.lock().expect("no thread panics here"), "", "the publisher");
        arrivals.join().expect("newcomers are content");
        for follower in followers {
            let follower = follower.join().expect("a follower is content");
            assert_eq!((follower.losses, follower.reconnects), (0, 0), "{:?}", follower.last_end);
        }
    });

    let before = gateway.metrics();
    process::signal(data, Signal::KILL);
    wait::until("the adopted process ends", || (!process::is_alive(data)).then_some(()));
    let start = Instant::now();
    wait::until("it is replaced", || gateway.is_serving().then_some(()));
    println!("the adopted process was replaced after {:?}", start.elapsed());
    assert_ne!(gateway.data(), data);
    assert!(gateway.metrics().fallen_since(&before).is_empty());
}

#[test]
fn a_second_instance_is_told_why_it_may_not() {
    let gateway = Gateway::start("");
    let second = Command::new(gateway::binary()).args(gateway.arguments()).output();
    let second = second.expect("the built program starts");
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(said.trim().lines().count(), 1, "one line that names the thing: {said}");
    wait::until("the first serves", || gateway.is_serving().then_some(()));
}

/// Clients that go on in the background while processes end.
#[derive(Default)]
struct Load {
    over: AtomicBool,
    published: AtomicUsize,
    heard: AtomicUsize,
    arrived: AtomicUsize,
    /// How often each follower was pinged.
    pings: Mutex<BTreeMap<String, usize>>,
    last_error: Mutex<String>,
}

/// Ends the load even when an assertion fails, so that its threads can be joined.
struct StopOnDrop<'a>(&'a Load);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

impl Load {
    fn published(&self) -> usize {
        self.published.load(Ordering::Relaxed)
    }

    fn arrived(&self) -> usize {
        self.arrived.load(Ordering::Relaxed)
    }

    fn pings(&self) -> BTreeMap<String, usize> {
        self.pings.lock().expect("no thread panics here").clone()
    }

    /// Publications and newcomers go on all the time, and each follower is pinged twice: of these
    /// the first one may have been on its way before, and a timer that is lost brings no second.
    #[track_caller]
    fn is_served_throughout(&self, outage: Duration, followers: usize) {
        let (start, pings) = (Instant::now(), self.pings());
        while start.elapsed() < outage {
            let (since, published, arrived) = (Instant::now(), self.published(), self.arrived());
            let go_on = || {
                let is_longer = since.elapsed() >= Duration::from_secs(1);
                let are_more = self.published() > published && self.arrived() > arrived;
                (is_longer && are_more).then_some(())
            };
            let elapsed = start.elapsed();
            assert!(wait::within(STALL, go_on).is_some(), "not served after {elapsed:?}");
        }
        let pinged = || {
            let now = self.pings();
            let twice = |(name, count): (&String, &usize)| {
                *count >= pings.get(name).copied().unwrap_or_default() + 2
            };
            (now.len() == followers && now.iter().all(twice)).then_some(())
        };
        let is_pinged = wait::within(PATIENCE, pinged).is_some();
        assert!(is_pinged, "pings were {pings:?}, and are {:?}", self.pings());
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Publishes once every `interval`; comes back when its connection ends.
    fn publish(&self, address: SocketAddr, channel: &str, interval: Duration) {
        while !self.is_over() {
            if let Err(error) = self.publish_once_connected(address, channel, interval) {
                *self.last_error.lock().expect("no thread panics here") = error.to_string();
                thread::sleep(Duration::from_millis(10));
            }
        }
    }

    fn publish_once_connected(
        &self,
        address: SocketAddr,
        channel: &str,
        interval: Duration,
    ) -> Result<(), Failure> {
        let mut client = Client::connect(address, "publisher")?;
        while !self.is_over() {
            let start = Instant::now();
            client.publish(channel, json!({"number": self.published()}))?;
            self.published.fetch_add(1, Ordering::Relaxed);
            thread::sleep(interval.saturating_sub(start.elapsed()));
        }
        Ok(())
    }

    /// Follows a channel until the load is over.
    fn follow(&self, address: SocketAddr, name: &str, channel: &str) -> Follower {
        let mut follower = Follower::start(address, name, channel).expect("subscribed");
        let mut counted = 0;
        while !self.is_over() {
            follower.listen(Duration::from_millis(100), |of| {
                let mut pings = self.pings.lock().expect("no thread panics here");
                pings.insert(name.to_owned(), of.pings());
                self.heard.fetch_add(of.heard.len() - counted, Ordering::Relaxed);
                counted = of.heard.len();
                self.is_over()
            });
        }
        follower
    }

    /// Connects, asks and leaves, again and again; a failure is a panic.
    fn arrive(&self, address: SocketAddr) {
        while !self.is_over() {
            let mut client = Client::connect(address, "newcomer").expect("a newcomer is served");
            client.call("rpc", json!({"method": "echo", "data": 1})).expect("and answered");
            self.arrived.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A stop that reaches both processes, as init systems and `pkill` send it, is one orderly stop.
#[test]
fn a_stop_of_both_processes_says_goodbye() {
    for _ in 0..8 {
        let mut gateway = Gateway::start("shards.count = 2");
        let mut client = Client::connect(gateway.client, "guest").expect("connected");
        process::signal(gateway.data(), Signal::TERM);
        assert!(gateway.terminate(Duration::from_secs(10)).expect("it stops").success());
        let end = client.end();
        assert!(matches!(end, Failure::Closed { code: 3001, .. }), "{end}");
    }
}

/// The directory of the lock and the socket may vanish; what crashes then comes back all the same.
#[test]
fn a_crash_without_a_runtime_directory_is_survived() {
    let mut gateway = Gateway::start("");
    let data = gateway.data();
    fs::remove_dir_all(gateway.runtime_dir()).expect("it is there");
    process::signal(data, Signal::KILL);
    wait::until("another serves", || {
        (process::is_gone(data) && Client::connect(gateway.client, "guest").is_ok()).then_some(())
    });
    assert!(gateway.terminate(Duration::from_secs(10)).expect("it stops").success());
}

/// CPUs of busy shards are kept from halting, and may halt again once it is quiet or over.
#[test]
fn a_busy_cpu_is_kept_awake() {
    let file = Path::new("/sys/devices/system/cpu/cpu0/power/pm_qos_resume_latency_us");
    if fs::OpenOptions::new().write(true).open(file).is_err() {
        println!("not tried: {} can't be written here", file.display());
        return;
    }
    let asked = || fs::read_to_string(file).expect("it is readable").trim().to_owned();
    /// A test that fails leaves nothing behind.
    struct TakeBack<'a>(&'a Path);
    impl Drop for TakeBack<'_> {
        fn drop(&mut self) {
            let _ = fs::write(self.0, "0");
        }
    }
    assert_eq!(asked(), "0", "nobody else asks for it");
    let _take_back = TakeBack(file);
    let mut gateway = Gateway::start("[shards]\ncpus = [0]\nkeep_awake = true");
    let address = gateway.client;
    let busy = || {
        let mut publisher = Client::connect(address, "publisher").expect("connected");
        wait::until("the CPU is kept awake", || {
            (0..200).for_each(|n| publisher.publish("news", json!(n)).expect("published"));
            (asked() == "n/a").then_some(())
        });
    };
    let may_halt = || wait::until("it may halt again", || (asked() == "0").then_some(()));
    busy();
    may_halt();
    busy();
    // What a control leaves that is killed, the next one takes back, whatever it is told.
    for _ in 0..3 {
        gateway.kill_control();
        if asked() == "n/a" {
            break;
        }
        // It had become quiet before.
        gateway.start_control();
        wait::until("it serves", || gateway.is_serving().then_some(()));
        busy();
    }
    assert_eq!(asked(), "n/a");
    gateway.reconfigure("keep_awake = true", "keep_awake = false");
    gateway.start_control();
    may_halt();
    assert!(gateway.terminate(Duration::from_secs(10)).expect("it stops").success());
    gateway.reconfigure("keep_awake = false", "keep_awake = true");
    gateway.start_control();
    wait::until("it serves", || gateway.is_serving().then_some(()));
    busy();
    assert!(gateway.terminate(Duration::from_secs(10)).expect("it stops").success());
    assert_eq!(asked(), "0");
}
