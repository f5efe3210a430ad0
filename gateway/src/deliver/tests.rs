//! Lanes: each rule by itself, and a model that watches random lives.
//!
//! **Runs on: any.** The model knows every record and every outcome it gave; it objects to an
//! effect that breaks an order, a bound or a pause, and to a commit that goes too far.

mod model;

use std::rc::Rc;

use bytes::Bytes;
use trine_proto::kafka::record::{Body, write_body};

use super::*;
use crate::config::{Config, Consumer, Namespace, NullValues, Payload, Schedule, Upstream};
use crate::limits::DEAD_LETTER_KEY_BYTES;

type Headers<'a> = &'a [(&'a str, Option<&'a [u8]>)];

fn record(offset: u64, key: Option<&[u8]>, value: Option<&[u8]>, headers: Headers<'_>) -> Fetched {
    let mut bytes = Vec::new();
    write_body(&mut bytes, key, value, headers.iter().copied());
    Fetched { offset, time_ms: 0, body: bytes.into() }
}

/// Records of the keys, from offset 0, each with its offset as its value.
fn records(keys: &[&str]) -> Vec<Fetched> {
    let numbered = keys.iter().zip(0..);
    numbered
        .map(|(key, offset)| {
            record(offset, Some(key.as_bytes()), Some(offset.to_string().as_bytes()), &[])
        })
        .collect()
}

fn to_channel() -> Consumer {
    let mut consumer = Consumer { name: "desk".to_owned(), ..Consumer::default() };
    consumer.to.channel = Template::parse("user:{key}").ok();
    consumer
}

fn to_upstream() -> Consumer {
    let mut consumer = Consumer { name: "desk".to_owned(), ..Consumer::default() };
    consumer.to.upstream = Some("backend".to_owned());
    consumer
}

fn route(consumer: Consumer) -> Rc<Route> {
    let mut config = Config::with_file_defaults();
    config.namespaces.push(Namespace::closed("user".to_owned()));
    config.namespaces.push(Namespace::closed("u".to_owned()));
    config.namespaces.push(Namespace {
        payload: Payload::Binary,
        message_limit_bytes: 10,
        ..Namespace::closed("raw".to_owned())
    });
    config.consumers.push(consumer);
    Rc::new(Route::new(Rc::new(config), 0))
}

fn lane_of(consumer: Consumer) -> Lane {
    Lane::new(route(consumer), "tickets".into(), 3, 0)
}

/// Everything it wants done now.
fn all(lane: &mut Lane, now_ms: u64) -> Vec<Effect> {
    std::iter::from_fn(|| lane.next(now_ms)).collect()
}

fn token(effect: &Effect) -> Token {
    match effect {
        Effect::Publish { token, .. }
        | Effect::Call { token, .. }
        | Effect::Produce { token, .. }
        | Effect::DeadLetter { token, .. } => *token,
        effect => panic!("{effect:?} has no outcome"),
    }
}

/// The channels of publishes, the offsets of calls, and words for the rest.
fn names(effects: &[Effect]) -> Vec<String> {
    let name = |effect: &Effect| match effect {
        Effect::Publish { channel, data, .. } => {
            format!("{channel} {}", String::from_utf8_lossy(data))
        }
        Effect::Call { first_offset, records, .. } => format!("call {first_offset}+{records}"),
        Effect::Produce { topic, key, body, .. } => {
            assert_eq!(key.as_deref(), Body::parse(body).unwrap().key());
            let value = Body::parse(body).unwrap().value().unwrap_or_default().to_vec();
            format!("{topic} {}", String::from_utf8_lossy(&value))
        }
        Effect::DeadLetter { body, .. } => format!("dead {}", header(body, "trine-dlq-reason")),
        Effect::Commit { next_offset } => format!("commit {next_offset}"),
        Effect::GivenUp { offset, reason, .. } => format!("given up {offset} {}", reason.as_str()),
        Effect::Alarm(Alarm::DeadLetterFailed { offset, .. }) => format!("alarm {offset}"),
        Effect::Alarm(Alarm::DeadLetterWritten) => "all clear".to_owned(),
        Effect::Drained => "drained".to_owned(),
    };
    effects.iter().map(name).collect()
}

fn header(body: &Bytes, name: &str) -> String {
    let found = Body::parse(body).unwrap().header(name);
    String::from_utf8(found.unwrap_or_default().to_vec()).unwrap()
}

fn failed() -> Outcome {
    Outcome::Failed { detail: "HTTP 503".into(), retry_after_ms: None }
}

fn refused() -> Outcome {
    Outcome::Refused { reason: Reason::Refused, detail: "HTTP 422".into() }
}

#[test]
fn a_key_keeps_its_order_and_others_go_ahead() {
    let mut lane = lane_of(to_channel());
    lane.fetched(records(&["a", "a", "b", "a"]), 4, 0);
    let first = all(&mut lane, 0);
    assert_eq!(names(&first), ["user:a 0", "user:b 2"]);
    lane.done(token(&first[1]), Outcome::Delivered, 0, 0);
    assert_eq!((names(&all(&mut lane, 0)), lane.position()), (vec![], 0));
    lane.done(token(&first[0]), Outcome::Delivered, 0, 0);
    let second = all(&mut lane, 0);
    assert_eq!((names(&second), lane.position()), (vec!["user:a 1".to_owned()], 1));
    lane.done(token(&second[0]), Outcome::Delivered, 0, 0);
    assert_eq!(lane.position(), 3, "the one of b was finished before");
    assert_eq!(lane.totals().delivered, 3);
}

#[test]
fn commits_are_gathered_and_one_is_awaited() {
    let mut lane = lane_of(to_channel());
    lane.fetched(records(&["a", "b", "c"]), 5, 0);
    let effects = all(&mut lane, 0);
    assert_eq!(lane.deadline_ms(), None);
    lane.done(token(&effects[0]), Outcome::Delivered, 10, 0);
    assert_eq!(lane.deadline_ms(), Some(510));
    lane.done(token(&effects[1]), Outcome::Delivered, 300, 0);
    assert_eq!(names(&all(&mut lane, 509)), [""; 0]);
    assert_eq!(names(&all(&mut lane, 510)), ["commit 2"]);
    lane.done(token(&effects[2]), Outcome::Delivered, 511, 0);
    assert_eq!((lane.deadline_ms(), names(&all(&mut lane, 9999)).len()), (None, 0));
    lane.committed(false, 10_000);
    assert_eq!(names(&all(&mut lane, 10_500)), ["commit 5"], "past what the log hides");
    lane.committed(true, 10_501);
    assert_eq!(lane.deadline_ms(), None);
}

#[test]
fn a_retry_repeats_only_the_part_that_failed() {
    let mut settings = to_channel();
    settings.to.upstream = Some("backend".to_owned());
    let mut lane = lane_of(settings);
    lane.fetched(records(&["a"]), 1, 0);
    let effects = all(&mut lane, 0);
    assert_eq!(names(&effects), ["user:a 0", "call 0+1"]);
    lane.done(token(&effects[1]), failed(), 0, 0);
    assert_eq!(lane.deadline_ms(), None, "the other part is awaited first");
    lane.done(token(&effects[0]), Outcome::Delivered, 7, 0);
    assert_eq!(lane.deadline_ms(), Some(207));
    let effects = all(&mut lane, 207);
    assert_eq!(names(&effects), ["call 0+1"]);
    lane.done(token(&effects[0]), Outcome::Delivered, 208, 0);
    assert_eq!((lane.totals().delivered, lane.totals().retried, lane.position()), (1, 1, 1));
}

#[test]
fn pauses_double_up_to_the_longest_and_hear_the_other_side() {
    let mut lane = lane_of(to_upstream());
    lane.fetched(records(&["a"]), 1, 0);
    let mut pauses = Vec::new();
    for retry_after_ms in [None, None, None, Some(5_000), Some(1 << 40)] {
        let now_ms = lane.deadline_ms().unwrap_or(0);
        let effects = all(&mut lane, now_ms);
        let outcome = Outcome::Failed { detail: "".into(), retry_after_ms };
        lane.done(token(&effects[0]), outcome, 1_000_000, 0);
        pauses.push(lane.deadline_ms().unwrap() - 1_000_000);
    }
    assert_eq!(pauses, [200, 400, 800, 5_000, 30_000]);
    for random in [1, 99, u64::MAX] {
        let pause = route::pause_ms(&Consumer::default().retry, 4, random);
        assert!((800..=1600).contains(&pause), "{pause}");
    }
}

#[test]
fn what_keeps_failing_becomes_a_dead_letter_that_tells_all() {
    let mut settings = to_upstream();
    settings.retry.tries = 2;
    let mut lane = Lane::new(route(settings), "tickets".into(), 3, 7);
    let original = record(7, Some(b"k"), Some(b"v"), &[("h", None), ("h", Some(b"x"))]);
    lane.fetched([Fetched { time_ms: 99, ..original }], 8, 0);
    for now_ms in [0, 1000] {
        let effects = all(&mut lane, now_ms);
        assert_eq!(names(&effects), ["call 7+1"]);
        lane.done(token(&effects[0]), failed(), now_ms, 0);
    }
    let effects = all(&mut lane, 1000);
    let Effect::DeadLetter { topic, key, body, token } = &effects[0] else {
        panic!("{effects:?}");
    };
    assert_eq!((&**topic, key.as_deref()), ("tickets.dlq", Some(&b"k"[..])));
    let letter = Body::parse(body).unwrap();
    assert_eq!((letter.key(), letter.value()), (Some(&b"k"[..]), Some(&b"v"[..])));
    let headers: Vec<_> = letter.headers().take(2).collect();
    assert_eq!(headers, [("h", None), ("h", Some(&b"x"[..]))]);
    for (name, value) in [
        ("reason", "tries"),
        ("detail", "HTTP 503"),
        ("consumer", "desk"),
        ("topic", "tickets"),
        ("partition", "3"),
        ("offset", "7"),
        ("time-ms", "99"),
        ("tries", "2"),
    ] {
        assert_eq!(header(body, &format!("trine-dlq-{name}")), value, "{name}");
    }
    assert_eq!(lane.position(), 7, "not before it is written");
    lane.done(*token, Outcome::Delivered, 1000, 0);
    assert_eq!((lane.position(), lane.totals().dead_lettered), (8, 1));
}

#[test]
fn a_record_is_given_up_by_age_too() {
    let mut settings = to_upstream();
    settings.retry.tries = 0;
    settings.retry.age_ms = 1_000;
    let mut lane = lane_of(settings);
    lane.fetched(records(&["a"]), 1, 0);
    let mut now_ms = 0;
    let dead = loop {
        let effects = all(&mut lane, now_ms);
        match &effects[..] {
            [Effect::Call { token, .. }] => lane.done(*token, failed(), now_ms, 0),
            other => break names(other),
        }
        now_ms = lane.deadline_ms().unwrap_or(now_ms);
    };
    assert_eq!(dead, ["dead age"]);
    assert!(now_ms <= 1_000);
}

#[test]
fn what_no_channel_takes_is_a_dead_letter_with_its_reason() {
    let channel = |template: &str| {
        let mut settings = to_channel();
        settings.to.channel = Template::parse(template).ok();
        settings.null_values = NullValues::DeadLetter;
        settings
    };
    let key = Some(&b"k"[..]);
    for (template, record, reason) in [
        ("user:{key}", record(0, key, Some(b"{"), &[]), "not_json"),
        ("user:{key}", record(0, key, Some(b"\"M\xfcller\""), &[]), "not_json"),
        ("user:{header.x}", record(0, key, Some(b"1"), &[]), "missing_field"),
        ("user:{key}", record(0, Some(b"\n"), Some(b"1"), &[]), "invalid_channel"),
        ("{key}:x", record(0, key, Some(b"1"), &[]), "unknown_namespace"),
        ("raw:{key}", record(0, key, Some(&[b'1'; 11]), &[]), "too_large"),
        ("user:{key}", record(0, key, None, &[]), "null_value"),
    ] {
        let mut lane = lane_of(channel(template));
        lane.fetched([record], 1, 0);
        assert_eq!(names(&all(&mut lane, 0)), [format!("dead {reason}")]);
    }
    let mut lane = lane_of(channel("user:{key}"));
    let broken = Bytes::from_static(b"\x7f");
    lane.fetched([Fetched { offset: 0, time_ms: 0, body: broken.clone() }], 1, 0);
    let effects = all(&mut lane, 0);
    let Effect::DeadLetter { body, key: None, .. } = &effects[0] else { panic!("{effects:?}") };
    assert_eq!(header(body, "trine-dlq-reason"), "malformed");
    assert_eq!(Body::parse(body).unwrap().value(), Some(&broken[..]));
}

#[test]
fn null_values_follow_their_rule() {
    let null = || [record(0, Some(b"k"), None, &[])];
    let mut skipping = lane_of(to_channel());
    skipping.fetched(null(), 1, 0);
    assert_eq!((all(&mut skipping, 0).len(), skipping.totals().null_skipped), (0, 1));
    assert_eq!(skipping.position(), 1);
    let mut settings = to_channel();
    settings.null_values = NullValues::Deliver;
    let mut delivering = lane_of(settings.clone());
    delivering.fetched(null(), 1, 0);
    assert_eq!(names(&all(&mut delivering, 0)), ["user:k null"]);
    settings.to.channel = Template::parse("raw:{key}").ok();
    let mut binary = lane_of(settings);
    binary.fetched(null(), 1, 0);
    assert_eq!(names(&all(&mut binary, 0)), ["raw:k "]);
}

#[test]
fn old_records_are_skipped_and_ageless_ones_are_not() {
    let mut settings = to_channel();
    settings.ttl_ms = 100;
    let mut lane = lane_of(settings);
    let mut batch = records(&["a", "b", "c"]);
    batch[1].time_ms = 899;
    batch[2].time_ms = 900;
    // Their times are Unix time, which the lane's clock need not show.
    lane.set_clock(400);
    lane.fetched(batch, 3, 600);
    assert_eq!(names(&all(&mut lane, 600)), ["user:a 0", "user:c 2"]);
    assert_eq!(lane.totals().expired, 1);
}

#[test]
fn a_full_mailbox_pauses_the_lane_and_is_no_try() {
    let mut settings = to_channel();
    settings.concurrency = 2;
    settings.retry.tries = 1;
    let mut lane = lane_of(settings);
    lane.fetched(records(&["a", "b", "c"]), 3, 0);
    let effects = all(&mut lane, 0);
    assert_eq!(names(&effects), ["user:a 0", "user:b 1"]);
    lane.done(token(&effects[0]), Outcome::Full, 0, 0);
    lane.done(token(&effects[1]), Outcome::Delivered, 0, 0);
    assert!(lane.is_paused());
    assert_eq!(names(&all(&mut lane, 100)), [""; 0]);
    lane.room();
    assert_eq!(names(&all(&mut lane, 100)), ["user:a 0", "user:c 2"]);
    assert_eq!(lane.totals().retried, 0);
}

#[test]
fn a_dead_letter_that_fails_stops_the_partition_until_it_is_written() {
    let mut settings = to_channel();
    settings.concurrency = 2;
    let mut lane = lane_of(settings);
    lane.fetched(records(&["a", "b", "c"]), 3, 0);
    let effects = all(&mut lane, 0);
    lane.done(token(&effects[0]), refused(), 0, 0);
    let letter = all(&mut lane, 0);
    assert_eq!(names(&letter), ["dead refused", "user:c 2"]);
    lane.done(token(&letter[0]), failed(), 0, 0);
    assert_eq!(names(&all(&mut lane, 0)), ["alarm 0"]);
    lane.done(token(&effects[1]), Outcome::Delivered, 0, 0);
    lane.done(token(&letter[1]), Outcome::Delivered, 0, 0);
    assert_eq!((lane.position(), lane.is_paused()), (0, true));
    lane.fetched(vec![record(3, None, Some(b"3"), &[])], 4, 0);
    assert_eq!(names(&all(&mut lane, 199)), [""; 0]);
    let due_ms = lane.deadline_ms().unwrap();
    let again = all(&mut lane, due_ms);
    assert_eq!(names(&again), ["dead refused"]);
    lane.done(token(&again[0]), Outcome::Delivered, 200, 0);
    assert_eq!(lane.position(), 3);
    assert_eq!(names(&all(&mut lane, 200)), ["all clear", "dead missing_field"]);
}

#[test]
fn a_dead_letter_that_is_too_large_for_its_log_says_where_its_record_is() {
    let mut lane = lane_of(to_channel());
    let large = vec![b'x'; DEAD_LETTER_KEY_BYTES + 1];
    let key = [&b"a"[..], &large];
    let all_of = |n: usize| record(n as u64, Some(key[n]), Some(b"\xff"), &[("own", Some(b"1"))]);
    lane.fetched((0..2).map(all_of).collect::<Vec<_>>(), 2, 0);
    let letters = all(&mut lane, 0);
    assert_eq!(names(&letters), ["dead not_json", "dead invalid_channel"]);
    for (n, letter) in letters.iter().enumerate() {
        let refused = Outcome::Refused { reason: Reason::TooLarge, detail: "".into() };
        lane.done(token(letter), refused, 0, 0);
        let again = all(&mut lane, 0);
        let [Effect::DeadLetter { key: sent, body, .. }] = &again[..] else { panic!("{again:?}") };
        let parsed = Body::parse(body).unwrap();
        let kept = (key[n].len() <= DEAD_LETTER_KEY_BYTES).then_some(key[n]);
        assert_eq!((parsed.key(), sent.as_deref()), (kept, kept));
        assert_eq!((parsed.value(), parsed.header("own")), (None, None));
        assert_eq!(header(body, "trine-dlq-offset"), n.to_string());
        assert_eq!(header(body, "trine-dlq-only-origin"), "true");
        assert!(!lane.is_paused(), "that was no failure");
        lane.done(token(&again[0]), Outcome::Delivered, 0, 0);
        assert_eq!(lane.position(), n as u64 + 1);
    }
}

#[test]
fn without_dead_letters_what_is_given_up_is_told() {
    let mut lane = lane_of(Consumer { dead_letter: false, ..to_upstream() });
    lane.fetched(records(&["a"]), 1, 0);
    let effects = all(&mut lane, 0);
    lane.done(token(&effects[0]), refused(), 0, 0);
    assert_eq!(names(&all(&mut lane, 0)), ["given up 0 refused"]);
    assert_eq!((lane.position(), lane.totals().given_up), (1, 1));
}

#[test]
fn batches_gather_what_is_ready_and_wait_as_told() {
    let mut settings = to_upstream();
    settings.batch.records = 3;
    settings.batch.linger_ms = 20;
    let mut lane = lane_of(settings.clone());
    lane.fetched(records(&["a", "b", "c", "d", "d"]), 5, 100);
    assert_eq!(names(&all(&mut lane, 100)), ["call 0+3"]);
    assert_eq!(lane.deadline_ms(), Some(120));
    assert_eq!(names(&all(&mut lane, 119)), [""; 0]);
    assert_eq!(names(&all(&mut lane, 120)), ["call 3+1"], "one record of a key at a time");
    settings.batch.linger_ms = 0;
    settings.batch.limit_bytes = 2;
    let mut lane = lane_of(settings);
    lane.fetched(records(&["a", "b", "c"]), 3, 0);
    assert_eq!(names(&all(&mut lane, 0)), ["call 0+2", "call 2+1"]);
}

#[test]
fn a_queue_opens_by_number_and_by_time() {
    let mut settings = to_upstream();
    settings.batch.records = 2;
    settings.schedule = Schedule { every_ms: 1_000, records: 3, ..Schedule::default() };
    let mut lane = lane_of(settings.clone());
    lane.fetched(records(&["a", "b"]), 2, 100);
    lane.ends_at(2);
    assert_eq!((names(&all(&mut lane, 100)), lane.deadline_ms()), (vec![], Some(1_000)));
    assert_eq!(lane.wants_more(), Some(2), "it fetches meanwhile");
    assert_eq!(names(&all(&mut lane, 999)), [""; 0]);
    assert_eq!(names(&all(&mut lane, 1_000)), ["call 0+2"]);
    assert_eq!(lane.waits_since_ms(), Some(100));
    let more = ["c", "d", "e"].iter().zip(2..);
    lane.fetched(more.map(|(key, at)| record(at, Some(key.as_bytes()), Some(b"1"), &[])), 5, 1_001);
    lane.ends_at(4);
    assert_eq!(names(&all(&mut lane, 1_001)), [""; 0], "two began before and two wait");
    lane.ends_at(5);
    assert_eq!(names(&all(&mut lane, 1_001)), ["call 2+2", "call 4+1"]);
    // After a restart the clock is another and the log's time tells what was due before.
    let mut lane = lane_of(settings);
    lane.set_clock(1_000_000);
    let mut batch = records(&["a", "b", "c", "d"]);
    for (record, time_ms) in batch.iter_mut().zip([999_999, 1_000_001, 1_001_000, 9_999_999]) {
        record.time_ms = time_ms;
    }
    lane.fetched(batch, 4, 5);
    assert_eq!(
        (names(&all(&mut lane, 5)), lane.deadline_ms()),
        (vec!["call 0+1".into()], Some(1_000))
    );
    assert_eq!(names(&all(&mut lane, 1_000)), ["call 1+1"]);
    assert_eq!(names(&all(&mut lane, 1_999)), [""; 0], "the clocks may differ a little");
    assert_eq!(names(&all(&mut lane, 2_000)), ["call 2+2"], "a time far ahead is no time");
}

#[test]
fn a_rate_paces_whole_batches() {
    let mut settings = to_upstream();
    settings.batch.records = 2;
    settings.schedule.rate_per_s = 10;
    let mut lane = lane_of(settings);
    lane.fetched(records(&["a", "b", "c", "d", "e"]), 5, 1_000);
    assert_eq!(
        (names(&all(&mut lane, 1_000)), lane.deadline_ms()),
        (vec!["call 0+2".into()], Some(1_100))
    );
    assert_eq!(
        (names(&all(&mut lane, 1_150)), lane.deadline_ms()),
        (vec!["call 2+2".into()], Some(1_300))
    );
    assert_eq!(names(&all(&mut lane, 1_299)), [""; 0]);
    assert_eq!(names(&all(&mut lane, 1_300)), ["call 4+1"]);
}

#[test]
fn records_go_on_to_another_topic_as_they_are() {
    let mut settings = to_upstream();
    settings.to.topic = Some("done".to_owned());
    settings.concurrency = 2;
    let mut lane = lane_of(settings);
    lane.fetched(records(&["a", "a", "b"]), 3, 0);
    let effects = all(&mut lane, 0);
    assert_eq!(names(&effects), ["done 0", "call 0+1", "done 2", "call 2+1"]);
    for effect in &effects[1..] {
        lane.done(token(effect), Outcome::Delivered, 0, 0);
    }
    assert_eq!((names(&all(&mut lane, 0)), lane.position()), (vec![], 0), "the topic lacks it");
    lane.done(token(&effects[0]), Outcome::Full, 0, 0);
    assert_eq!(names(&all(&mut lane, 9)), [""; 0]);
    lane.room();
    let again = all(&mut lane, 9);
    assert_eq!(names(&again), ["done 0"]);
    lane.done(token(&again[0]), Outcome::Delivered, 9, 0);
    assert_eq!((names(&all(&mut lane, 9)).len(), lane.position()), (2, 1));
}

#[test]
fn a_bad_record_does_not_take_its_batch_along() {
    let mut settings = to_upstream();
    settings.batch.records = 3;
    settings.retry.tries = 1;
    for outcome in [refused(), failed()] {
        let mut lane = lane_of(settings.clone());
        lane.fetched(records(&["a", "b", "c"]), 3, 0);
        let effects = all(&mut lane, 0);
        assert_eq!(names(&effects), ["call 0+3"]);
        lane.done(token(&effects[0]), outcome.clone(), 0, 0);
        let alone = all(&mut lane, 1000);
        let mut calls = names(&alone);
        calls.sort();
        assert_eq!(calls, ["call 0+1", "call 1+1", "call 2+1"]);
        for effect in &alone {
            let Effect::Call { token, first_offset, .. } = effect else { unreachable!() };
            let outcome = if *first_offset == 1 { outcome.clone() } else { Outcome::Delivered };
            lane.done(*token, outcome, 1000, 0);
        }
        assert_eq!(all(&mut lane, 1000).len(), 1, "the dead letter of one");
        assert_eq!(lane.totals().delivered, 2);
    }
}

#[test]
fn prefetch_is_bounded_by_records_and_bytes() {
    let mut settings = to_channel();
    settings.prefetch_records = 2;
    let mut lane = lane_of(settings.clone());
    assert_eq!(lane.wants_more(), Some(0));
    lane.fetched(records(&["a", "b"]), 9, 0);
    assert_eq!(lane.wants_more(), None);
    let effects = all(&mut lane, 0);
    lane.done(token(&effects[1]), Outcome::Delivered, 0, 0);
    assert_eq!(lane.wants_more(), Some(9), "what is finished holds nothing up");
    lane.fetched([record(3, None, None, &[])], 10, 0);
    assert_eq!(lane.wants_more(), Some(10), "seen before");
    settings.prefetch_bytes = 8;
    let mut lane = lane_of(settings);
    lane.fetched([record(0, Some(b"a"), Some(b"\"abcde\""), &[])], 1, 0);
    assert_eq!(lane.wants_more(), None);
}

#[test]
fn a_revoked_lane_waits_commits_and_ends() {
    let mut settings = to_channel();
    settings.concurrency = 2;
    let mut lane = lane_of(settings);
    lane.fetched(records(&["a", "b", "c"]), 3, 0);
    let effects = all(&mut lane, 0);
    lane.revoke();
    assert_eq!(lane.wants_more(), None);
    lane.done(token(&effects[1]), failed(), 0, 0);
    assert_eq!(names(&all(&mut lane, 9_000)), [""; 0]);
    lane.done(token(&effects[0]), Outcome::Delivered, 0, 0);
    assert_eq!(names(&all(&mut lane, 0)), ["commit 1"]);
    lane.committed(false, 0);
    assert_eq!(names(&all(&mut lane, 0)), ["drained"]);
    lane.done(token(&effects[0]), Outcome::Delivered, 0, 0);
    assert_eq!((names(&all(&mut lane, 9_999)), lane.position()), (vec![], 1));
}

#[test]
fn a_revoked_lane_commits_in_time_while_it_waits() {
    let mut lane = lane_of(to_channel());
    lane.fetched(records(&["a", "b"]), 2, 0);
    let effects = all(&mut lane, 0);
    lane.done(token(&effects[0]), Outcome::Delivered, 10, 0);
    lane.revoke();
    assert_eq!((names(&all(&mut lane, 509)), lane.deadline_ms()), (vec![], Some(510)));
    assert_eq!(names(&all(&mut lane, 510)), ["commit 1"]);
    lane.committed(true, 520);
    assert_eq!((names(&all(&mut lane, 9_000)), lane.deadline_ms()), (vec![], None));
    lane.done(token(&effects[1]), Outcome::Delivered, 9_000, 0);
    assert_eq!(names(&all(&mut lane, 9_000)), ["commit 2"]);
    lane.committed(true, 9_001);
    assert_eq!(names(&all(&mut lane, 9_001)), ["drained"]);
}

#[test]
fn what_waits_for_long_keeps_nothing_of_what_came_with_it() {
    let mut settings = to_channel();
    settings.retry.tries = 0;
    let mut lane = lane_of(settings);
    let fetched = records(&["a", "a"]);
    let all_of_it: Bytes = fetched.iter().flat_map(|record| record.body.to_vec()).collect();
    let end = fetched[0].body.len();
    let bodies = [all_of_it.slice(..end), all_of_it.slice(end..)];
    let fetched = fetched.into_iter().zip(bodies);
    lane.fetched(fetched.map(|(record, body)| Fetched { body, ..record }), 2, 0);
    let first = all(&mut lane, 0);
    assert!(!all_of_it.is_unique(), "it is not copied to be delivered at once");
    lane.done(token(&first[0]), failed(), 0, 0);
    drop(first);
    assert!(all_of_it.is_unique());
    let again = all(&mut lane, 1_000);
    assert_eq!(names(&again), ["user:a 0"]);
    lane.done(token(&again[0]), Outcome::Delivered, 1_000, 0);
    assert_eq!(names(&all(&mut lane, 1_000)), ["user:a 1"]);
}

#[test]
fn a_revoked_lane_leaves_nothing_that_was_overtaken() {
    for (mut settings, late_ms, end) in [
        (to_upstream(), 0, "commit 3"),
        (to_upstream(), crate::limits::LANE_FILL_MS, "commit 1"),
        (to_channel(), 0, "commit 1"),
    ] {
        settings.concurrency = 2;
        let is_filled = end == "commit 3";
        let mut lane = lane_of(settings.clone());
        lane.fetched(records(&["a", "a", "b", "c"]), 4, 0);
        // The second of "a" waits for the first, and "b" overtakes it.
        let effects = all(&mut lane, 0);
        lane.revoke();
        assert_eq!(names(&all(&mut lane, 0)), [""; 0]);
        lane.done(token(&effects[1]), Outcome::Delivered, 0, 0);
        lane.done(token(&effects[0]), Outcome::Delivered, 0, 0);
        let mut effects = all(&mut lane, late_ms);
        if is_filled {
            assert_eq!(effects.len(), 1, "the overtaken one, and not the last: {effects:?}");
            lane.done(token(&effects[0]), Outcome::Delivered, 0, 0);
            effects = all(&mut lane, 0);
        }
        assert_eq!(names(&effects), [end]);
        lane.committed(true, 0);
        assert_eq!(names(&all(&mut lane, late_ms)), ["drained"]);
    }
}

#[test]
fn a_lost_lane_is_silent() {
    let mut lane = lane_of(to_channel());
    lane.fetched(records(&["a", "b"]), 2, 0);
    let effect = lane.next(0).unwrap();
    lane.lose();
    lane.done(token(&effect), Outcome::Delivered, 0, 0);
    lane.fetched(records(&["a", "b", "c"]), 3, 0);
    assert_eq!((all(&mut lane, 9_999).len(), lane.deadline_ms()), (0, None));
    assert_eq!(lane.totals(), Totals::default());
}

#[test]
fn an_answer_is_delivered_refused_or_worth_another_try() {
    for status in [200, 202, 204] {
        assert!(matches!(outcome_of(status, None), Outcome::Delivered));
    }
    for status in [400, 413, 422] {
        assert!(matches!(outcome_of(status, Some("9")), Outcome::Refused { .. }));
    }
    for (status, said, expected) in [
        (429, Some("3"), Some(3_000)),
        (503, Some("Wed, 21 Oct 2026 07:28:00 GMT"), None),
        (503, Some("99999999999999999999"), None),
        (301, None, None),
        (404, None, None),
    ] {
        let outcome = outcome_of(status, said);
        let Outcome::Failed { retry_after_ms, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!(retry_after_ms, expected);
    }
}

#[test]
fn the_path_is_the_consumers_or_the_upstreams() {
    let mut settings = to_upstream();
    let mut config = Config::with_file_defaults();
    config.upstreams = ["other", "backend"]
        .map(|name| Upstream { name: name.to_owned(), ..Upstream::default() })
        .into();
    for (path, expected) in [("", "/"), ("/in", "/in")] {
        settings.to.path = path.to_owned();
        config.consumers = vec![settings.clone()];
        let route = Route::new(Rc::new(config.clone()), 0);
        assert_eq!(route.upstream(), Some((1, expected)));
    }
    assert_eq!(route(to_channel()).upstream(), None);
}
