//! What a shard says of a partition that it delivers: in logs, to the hook, in metrics.
//!
//! **Runs on: any.** A shard without a log, which is told what one would say.

use super::*;
use crate::config::{Consumer, Lag, Namespace};
use crate::data::Peers;
use crate::deliver::Template;
use crate::logs::logged;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};
use trine_core::metrics::Page;

const OF: Feed = Feed { consumer: 0, topic: 0, partition: 3 };

/// A shard with one consumer, in a runtime.
fn shard(hook: &str, page: &Page) -> Shard {
    let mut config = Config::with_file_defaults();
    config.namespaces.push(Namespace::closed("user".to_owned()));
    let mut consumer = Consumer {
        name: "desk".to_owned(),
        group: "desk-group".to_owned(),
        topics: vec!["tickets".to_owned()],
        lag: Lag { warn: 10, critical: 100, window_ms: 1_000, hook: hook.to_owned() },
        ..Consumer::default()
    };
    consumer.to.channel = Template::parse("user:{key}").ok();
    config.consumers.push(consumer);
    let peers = Peers::connect(1).unwrap().remove(0);
    Shard::new(0, Rc::new(config), page.writer().unwrap(), peers, Standings::default())
}

/// Runs `with` in a runtime, which ends when `done` says so.
fn in_runtime(with: impl FnOnce() + 'static, mut done: impl FnMut() -> bool + 'static) {
    let start = move |_: &rt::Driver| {
        with();
        rt::spawn(async move {
            let deadline = Instant::now() + Duration::from_secs(20);
            while !done() {
                assert!(Instant::now() < deadline, "it never came");
                rt::sleep_until(rt::now_ms() + 5).await;
            }
            rt::stop();
        });
    };
    rt::run(rt::Preference::from_environment(), start, |_| {}).unwrap();
}

/// An operator's hook: passes on the bodies that it is told.
fn serve_hook(listener: &TcpListener, bodies: &Sender<String>) {
    for socket in listener.incoming() {
        let mut reader = BufReader::new(socket.unwrap());
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line).unwrap() > 2 {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        reader.get_mut().write_all(answer).unwrap();
        if bodies.send(String::from_utf8(body).unwrap()).is_err() {
            return;
        }
    }
}

fn hook() -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/lag", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    std::thread::spawn(move || serve_hook(&listener, &sender));
    (url, receiver)
}

#[test]
fn a_lag_that_grows_is_logged_and_told_to_the_hook() {
    let (url, bodies) = hook();
    let page = Page::create(0).unwrap();
    let told = Rc::new(RefCell::new(Vec::new()));
    let observe = move || {
        let mut shard = shard(&url, &page);
        shard.begin_lane(0, OF, 0);
        // Where the partition ends, when that is seen, and what is said of it.
        let cases: [(u64, u64, &[&str]); 3] = [
            (0, 0, &[]),
            (10, 600, &["WARN|a consumer is behind"]),
            (100, 1_000, &["ERROR|a consumer is far behind", "WARN|it wants more members"]),
        ];
        for (end_offset, now_ms, expected) in cases {
            shard.feed_event(FeedEvent::End { feed: 0, end_offset }, now_ms);
            let said = logged(|| shard.observe(0, now_ms));
            assert_eq!(said.lines().count(), expected.len(), "{said}");
            for (line, expected) in said.lines().zip(expected) {
                let (level, text) = expected.split_once('|').unwrap();
                assert!(line.contains(level) && line.contains(text), "{line}");
                assert!(line.contains("desk") && line.contains("tickets"), "{line}");
            }
        }
    };
    let found = told.clone();
    let is_told = move || {
        match bodies.try_recv() {
            Ok(body) => found.borrow_mut().push(body),
            Err(error) => assert_eq!(error, TryRecvError::Empty),
        }
        found.borrow().len() == 3
    };
    in_runtime(observe, is_told);
    // Each has a connection of its own, so that they come in any order.
    for parts in [["\"lag\"", "\"warn\"", "10"], ["\"lag\"", "\"critical\"", "100"]] {
        let is_it = |body: &&String| parts.iter().all(|part| body.contains(part));
        assert!(told.borrow().iter().any(|body| is_it(&body)), "{parts:?}: {told:?}");
    }
    let told = told.borrow();
    let hints: Vec<_> = told.iter().filter(|body| body.contains("\"event\":\"scale\"")).collect();
    let [hint] = hints[..] else { panic!("one hint: {told:?}") };
    for part in ["\"produced\":100", "\"consumed\":0", "\"window_ms\":1000", "\"partition\":3"] {
        assert!(hint.contains(part), "{hint}");
    }
}

#[test]
fn an_offset_out_of_range_is_an_alarm_that_names_its_place() {
    let page = Page::create(0).unwrap();
    let read = page.try_clone().unwrap();
    let events = move || {
        let mut shard = shard("", &page);
        // Where a group is, the oldest record, where it goes on, and what is said of it.
        let cases = [
            (40, 3, 3, "or has other records"),
            (3, 7, 7, "records were removed before they were delivered"),
        ];
        for (next_offset, first, position, what) in cases {
            let said = logged(|| {
                shard.feed_event(FeedEvent::Ready { feed: 0, of: OF, next_offset }, 0);
                shard.feed_event(FeedEvent::OutOfRange { feed: 0, first }, 0);
            });
            assert_eq!(said.lines().count(), 1, "{said}");
            let (offset, first) = (format!("offset={next_offset}"), format!("first={first}"));
            let place = ["partition 3", "group=\"desk-group\"", "topic=\"tickets\""];
            for part in place.into_iter().chain(["ERROR", what, &*offset, &*first]) {
                assert!(said.contains(part), "{part} is missing: {said}");
            }
            let next = shard.deliveries.get(0).expect("it goes on").lane.next_fetch();
            assert_eq!(next, position);
        }
    };
    in_runtime(events, || true);
    assert_eq!(read.snapshot().counter(Counter::OffsetsOutOfRange), 2);
}
