//! Ingest driven by hand over a log that answers as told.
//!
//! **Runs on: any.**

use super::*;
use crate::broker::{InfoRef, PublishOptions};
use crate::config::{self, Partitioner, RecordHeader, RecordKey};
use crate::limits::MESSAGE_ID_BYTES;
use crate::log::{Main, Scripted};
use trine_proto::kafka::record::Body;
use uuid::Uuid;

/// Routes 0.. are rpcs `a`, `b` … with the routes given.
fn ingest(routes: Vec<config::Route>) -> Ingest {
    let mut config = Config::embedded();
    config.gateway = "edge-1".to_owned();
    let named = routes.into_iter().zip('a'..).map(|(mut route, name)| {
        route.topic = format!("topic-{name}");
        config::Rpc { method: name.to_string(), route }
    });
    config.rpcs = named.collect();
    let log = Main::Scripted(Scripted { partitions: 8, ..Scripted::default() }).into();
    Ingest::new(&config, Rc::new(Routes::new(&config)), log, 0xabc)
}

fn log(ingest: &mut Ingest) -> &mut Scripted {
    let Main::Scripted(log) = &mut ingest.log.main else { panic!("the test's log") };
    log
}

fn asker(request: u32) -> Asker {
    Asker { shard: 0, request }
}

fn draft(ingest: &Ingest, route: u16, data: &str) -> Result<Draft, Refusal> {
    let headers = [("region".into(), "eu".into()), ("traceparent".into(), "00-1-2-01".into())];
    let event = Event {
        channel: "",
        namespace: 0,
        info: Some(InfoRef { client: Uuid::nil(), user: "ann", conn_info: b"" }),
        data: data.as_bytes(),
        headers: &headers,
        json: false,
        options: &PublishOptions::PLAIN,
    };
    Draft::new(route, ingest.routes(), &event).map(|(draft, _)| draft)
}

fn publish(ingest: &Ingest, data: &str) -> Draft {
    let mut draft = draft(ingest, 0, data).unwrap();
    draft.publication = Some(Publication {
        channel: "room".into(),
        namespace: 0,
        info: None,
        options: PublishOptions::PLAIN,
        name: None,
        is_repeat: false,
    });
    draft
}

fn answer(ingest: &mut Ingest, record: u32, offset: u64) {
    log(ingest).outcomes.push_back((record, Ok((At::Journal, Some(offset)))));
}

/// What every request was answered with, and the payloads published, in order.
fn settle(ingest: &mut Ingest, now_ms: u64) -> (Vec<(u32, Outcome)>, Vec<Bytes>) {
    ingest.poll(now_ms);
    let (mut answers, mut published) = (Vec::new(), Vec::new());
    while let Some(settled) = ingest.next_settled() {
        published.extend(settled.publication.map(|(_, data)| data));
        answers.extend(settled.askers.iter().map(|asker| (asker.request, settled.outcome)));
    }
    (answers, published)
}

fn at(partition: u32, offset: u64) -> Outcome {
    Ok(Place { at: At::Journal, partition, log_offset: Some(offset) })
}

#[test]
fn a_record_is_the_payload_with_its_key_and_headers() {
    use RecordHeader::{Channel, ContentType, Traceparent, User};
    let mut ingest = ingest(vec![config::Route {
        key: RecordKey::Pointer("/ticket/id".to_owned()),
        headers: vec![Traceparent, User, Channel, ContentType],
        ..config::Route::default()
    }]);
    let payload = r#"{"ticket": {"id": "T-1"}}"#;
    for request in 0..2 {
        let draft = draft(&ingest, 0, payload).unwrap();
        ingest.take(draft, asker(request), 0);
    }
    let appended = std::mem::take(&mut log(&mut ingest).appended);
    for (number, (_, topic, partition, bytes)) in appended.iter().enumerate() {
        let body = Body::parse(bytes).unwrap();
        assert_eq!(body.key(), Some(&b"T-1"[..]));
        assert_eq!(body.value(), Some(payload.as_bytes()));
        let sequence = (number + 1).to_string();
        let headers: Vec<_> = body.headers().map(|(n, v)| (n, v.unwrap())).collect();
        let wanted: [(&str, &[u8]); 6] = [
            ("traceparent", b"00-1-2-01"),
            ("trine-user", b"ann"),
            ("content-type", b"application/json"),
            ("trine-gateway", b"edge-1"),
            ("trine-epoch", b"0000000000000abc"),
            ("trine-sequence", sequence.as_bytes()),
        ];
        assert_eq!(headers, wanted);
        assert_eq!((*topic, *partition), (0, trine_proto::hash::partition(b"T-1", 8)));
    }
    answer(&mut ingest, appended[0].0, 7);
    let (answers, _) = settle(&mut ingest, 1);
    assert_eq!(answers, [(0, at(appended[0].2, 7))]);
    let json = format!(r#"{{"at":"journal","partition":{},"log_offset":7}}"#, appended[0].2);
    assert_eq!(answers[0].1.unwrap().to_json(), json);
}

#[test]
fn the_content_type_is_what_the_payload_is() {
    let headers = vec![RecordHeader::ContentType];
    let mut ingest = ingest(vec![config::Route { headers, ..config::Route::default() }]);
    let payloads = ["{\"a\": 1}", "4", "{\"a\": ", "\u{1}\u{2}"];
    for payload in payloads {
        let draft = draft(&ingest, 0, payload).unwrap();
        ingest.take(draft, asker(0), 0);
    }
    let types = log(&mut ingest).appended.iter().map(|(_, _, _, bytes)| {
        let body = Body::parse(bytes).unwrap();
        let found = body.headers().find(|(name, _)| *name == "content-type");
        String::from_utf8(found.unwrap().1.unwrap().to_vec()).unwrap()
    });
    let (json, other) = ("application/json", "application/octet-stream");
    assert_eq!(types.collect::<Vec<_>>(), [json, json, other, other]);
}

#[test]
fn what_a_route_needs_must_be_there() {
    let pointer = |text: &str| RecordKey::Pointer(text.to_owned());
    let with = |key| config::Route { key, ..config::Route::default() };
    let ingest = ingest(vec![
        with(pointer("/id")),
        with(RecordKey::Header("region".to_owned())),
        with(RecordKey::Header("absent".to_owned())),
        config::Route { dedupe_pointer: "/id".to_owned(), ..config::Route::default() },
    ]);
    for (route, data, fine) in [
        (0, r#"{"id":5}"#, true),
        (0, r#"{"id":{}}"#, false),
        (0, "not JSON", false),
        (1, "{}", true),
        (2, "{}", false),
        (3, r#"{"id":"x"}"#, true),
        (3, "{}", false),
        (3, &format!(r#"{{"id":"{}"}}"#, "x".repeat(MESSAGE_ID_BYTES)), true),
        (3, &format!(r#"{{"id":"{}"}}"#, "x".repeat(MESSAGE_ID_BYTES + 1)), false),
    ] {
        let drafted = draft(&ingest, route, data);
        let code = drafted.as_ref().err().map(|refusal| refusal.code);
        assert_eq!(code, (!fine).then_some(ErrorCode::BadRequest), "{route} {data}");
    }
}

#[test]
fn partitions_are_chosen_as_the_route_says() {
    let with = |partitioner| config::Route { partitioner, ..config::Route::default() };
    let table = vec![("gold".to_owned(), 5), ("lead".to_owned(), 8 + 3)];
    let mut ingest = ingest(vec![
        with(Partitioner::RoundRobin),
        with(Partitioner::Sticky),
        config::Route { partition_table: table, ..with(Partitioner::Pointer("/class".to_owned())) },
        with(Partitioner::Header("region".to_owned())),
    ]);
    let mut chosen = |route, data: &str, count: usize| -> Vec<u32> {
        for _ in 0..count {
            let draft = draft(&ingest, route, data).unwrap();
            ingest.take(draft, asker(0), 0);
        }
        log(&mut ingest).appended.drain(..).map(|(_, _, partition, _)| partition).collect()
    };
    let turns = chosen(0, "{}", 16);
    assert!(turns.windows(2).all(|pair| pair[1] == (pair[0] + 1) % 8), "{turns:?}");
    let sticky = chosen(1, "{}", 2 * STICKY_RECORDS as usize);
    let (first, second) = sticky.split_at(STICKY_RECORDS as usize);
    assert!(first.iter().all(|&p| p == first[0]) && second.iter().all(|&p| p == second[0]));
    assert_ne!(first[0], second[0]);
    assert_eq!(chosen(2, r#"{"class":"gold"}"#, 1), [5]);
    assert_eq!(chosen(2, r#"{"class":"lead"}"#, 1), [3]);
    let hash = |value: &str| trine_proto::hash::partition(value.as_bytes(), 8);
    assert_eq!(chosen(2, r#"{"class":"tin"}"#, 1), [hash("tin")]);
    assert_eq!(chosen(3, "{}", 1), [hash("eu")]);
}

#[test]
fn a_second_try_gets_the_first_ones_answer() {
    let route = config::Route {
        dedupe_pointer: "/id".to_owned(),
        dedupe_window_ms: 1000,
        dedupe_count: 2,
        ..config::Route::default()
    };
    let mut ingest = ingest(vec![route]);
    let take = |ingest: &mut Ingest, id: &str, request, now_ms| {
        let draft = publish(ingest, &format!("{{\"id\":\"{id}\",\"try\":{request}}}"));
        ingest.take(draft, asker(request), now_ms);
    };
    take(&mut ingest, "x", 1, 0);
    take(&mut ingest, "x", 2, 0);
    let (record, _, partition, _) = log(&mut ingest).appended[0].clone();
    assert_eq!(log(&mut ingest).appended.len(), 1, "the second waits for the first");
    answer(&mut ingest, record, 40);
    let (answers, published) = settle(&mut ingest, 1);
    assert_eq!(answers, [(1, at(partition, 40)), (2, at(partition, 40))]);
    assert_eq!(published.len(), 1, "one record is one publication");
    take(&mut ingest, "x", 3, 900);
    assert_eq!(settle(&mut ingest, 900), (vec![(3, at(partition, 40))], vec![]));
    // Its window has passed.
    take(&mut ingest, "x", 4, 1000);
    assert_eq!(log(&mut ingest).appended.len(), 2);
    // One that the log refused is forgotten, so that the next try is a first one.
    let record = log(&mut ingest).appended[1].0;
    log(&mut ingest).outcomes.push_back((record, Err(Unavailable::Failing)));
    let (answers, published) = settle(&mut ingest, 1001);
    assert_eq!((answers[0].0, answers[0].1.is_err(), published.len()), (4, true, 0));
    take(&mut ingest, "x", 5, 1002);
    assert_eq!(log(&mut ingest).appended.len(), 3);
    // Only so many are remembered.
    take(&mut ingest, "y", 6, 1003);
    take(&mut ingest, "z", 7, 1004);
    take(&mut ingest, "x", 8, 1005);
    assert_eq!(log(&mut ingest).appended.len(), 6);
    assert_eq!(ingest.take_totals().duplicates, 2);
}

#[test]
fn an_id_is_one_within_its_key_and_channel() {
    let mut ingest = ingest(vec![config::Route {
        dedupe_pointer: "/id".to_owned(),
        key: RecordKey::Pointer("/customer".to_owned()),
        ..config::Route::default()
    }]);
    for (request, customer) in [(1, "ann"), (2, "bob"), (3, "ann")] {
        let draft = publish(&ingest, &format!("{{\"id\":1,\"customer\":\"{customer}\"}}"));
        ingest.take(draft, asker(request), 0);
    }
    assert_eq!(log(&mut ingest).appended.len(), 2, "bob's is another than ann's");
    assert_eq!(ingest.take_totals().duplicates, 1);
}

#[test]
fn a_late_refusal_forgets_no_later_record_of_the_same_id() {
    let mut ingest = ingest(vec![config::Route {
        dedupe_pointer: "/id".to_owned(),
        dedupe_window_ms: 10,
        ..config::Route::default()
    }]);
    for (request, now_ms) in [(1, 0), (2, 20)] {
        let draft = publish(&ingest, r#"{"id":1}"#);
        ingest.take(draft, asker(request), now_ms);
    }
    assert_eq!(log(&mut ingest).appended.len(), 2, "the window has passed");
    let record = log(&mut ingest).appended[0].0;
    log(&mut ingest).outcomes.push_back((record, Err(Unavailable::Failing)));
    settle(&mut ingest, 21);
    let third = publish(&ingest, r#"{"id":1}"#);
    ingest.take(third, asker(3), 21);
    assert_eq!(log(&mut ingest).appended.len(), 2, "the second is under way");
}

#[test]
fn what_takes_too_long_is_refused_and_not_published() {
    let mut ingest = ingest(vec![config::Route {
        dedupe_pointer: "/id".to_owned(),
        ..config::Route::default()
    }]);
    let first = publish(&ingest, r#"{"id":1,"try":1}"#);
    ingest.take(first, asker(1), 0);
    assert_eq!(settle(&mut ingest, 2_999), (vec![], vec![]));
    let (answers, published) = settle(&mut ingest, 3_000);
    let refusal = answers[0].1.unwrap_err();
    assert!(refusal.code.temporary() && refusal.message.contains("may be in the log"));
    assert_eq!((answers.len(), published.len()), (1, 0));
    // A second try takes the place of the one that was refused, its publication too.
    let again = publish(&ingest, r#"{"id":1,"try":2}"#);
    ingest.take(again, asker(2), 3_100);
    assert_eq!(log(&mut ingest).appended.len(), 1);
    let record = log(&mut ingest).appended[0].0;
    answer(&mut ingest, record, 9);
    let (answers, published) = settle(&mut ingest, 3_200);
    assert_eq!((answers.len(), answers[0].0, answers[0].1.is_ok()), (1, 2, true));
    assert_eq!(published, [r#"{"id":1,"try":2}"#]);
    // Without it, a late answer of the log concerns nobody.
    let third = publish(&ingest, r#"{"id":3}"#);
    ingest.take(third, asker(3), 4_000);
    settle(&mut ingest, 7_000);
    let record = log(&mut ingest).appended[1].0;
    answer(&mut ingest, record, 10);
    assert_eq!(settle(&mut ingest, 7_001), (vec![], vec![]));
    assert_eq!(ingest.outstanding(), 0);
    // It is in the log, and nobody was told of it: a second try does that, once.
    for (try_, published) in [(2, 1), (3, 0)] {
        let again = publish(&ingest, r#"{"id":3}"#);
        ingest.take(again, asker(try_), 7_002);
        let (answers, told) = settle(&mut ingest, 7_002);
        assert_eq!((answers[0].0, answers[0].1.is_ok(), told.len()), (try_, true, published));
    }
    assert_eq!(log(&mut ingest).appended.len(), 2);
}

#[test]
fn an_idempotency_key_is_no_message_id() {
    let mut ingest = ingest(vec![config::Route {
        dedupe_pointer: "/id".to_owned(),
        ..config::Route::default()
    }]);
    let options = PublishOptions { idempotency_key: Some("k".into()), ..PublishOptions::PLAIN };
    let named = |ingest: &mut Ingest, data: &str, number| {
        let event = Event {
            channel: "room",
            namespace: 0,
            info: None,
            data: data.as_bytes(),
            headers: &[],
            json: true,
            options: &options,
        };
        let (draft, _) = Draft::new(0, ingest.routes(), &event).unwrap();
        ingest.take(draft, asker(number), 0);
    };
    // A client that knows the key can't take it with an id of its own.
    let client = publish(&ingest, r#"{"id":"room\u0000k"}"#);
    ingest.take(client, asker(1), 0);
    named(&mut ingest, "{}", 2);
    assert_eq!(log(&mut ingest).appended.len(), 2);
    named(&mut ingest, "{}", 3);
    assert_eq!(log(&mut ingest).appended.len(), 2, "it was there already");
}

#[test]
fn without_acknowledgement_the_answer_comes_at_once_and_says_so() {
    let mut ingest = ingest(vec![config::Route { ack: Ack::None, ..config::Route::default() }]);
    let draft = publish(&ingest, "{}");
    ingest.take(draft, asker(1), 0);
    let (answers, published) = settle(&mut ingest, 0);
    assert_eq!((answers, published.len()), (vec![(1, Ok(Place::NONE))], 1));
    assert_eq!(Place::NONE.to_json(), r#"{"at":"none"}"#);
    let record = log(&mut ingest).appended[0].0;
    answer(&mut ingest, record, 1);
    assert_eq!(settle(&mut ingest, 1), (vec![], vec![]));
    assert_eq!(settle(&mut ingest, 10_000), (vec![], vec![]));
}

#[test]
fn a_log_that_refuses_is_an_answer() {
    let mut ingest = ingest(vec![config::Route::default()]);
    log(&mut ingest).refuses = Some(Unavailable::Full);
    let first = draft(&ingest, 0, "{}").unwrap();
    ingest.take(first, asker(1), 0);
    log(&mut ingest).refuses = None;
    log(&mut ingest).partitions = 0;
    let second = draft(&ingest, 0, "{}").unwrap();
    ingest.take(second, asker(2), 0);
    let (answers, _) = settle(&mut ingest, 0);
    let said: Vec<_> = answers.iter().map(|(n, outcome)| (*n, outcome.unwrap_err())).collect();
    assert_eq!(said[0], (1, Unavailable::Full.refusal()));
    assert!(said[1].1.message.contains("partitions") && said[1].1.code.temporary());
    assert_eq!((ingest.outstanding(), ingest.take_totals().refused), (0, 2));
}

#[test]
fn a_second_try_of_what_is_not_acknowledged_is_published_once() {
    let mut ingest = ingest(vec![config::Route {
        ack: Ack::None,
        dedupe_pointer: "/id".to_owned(),
        dedupe_count: 2,
        ..config::Route::default()
    }]);
    for request in 1..=2 {
        let draft = publish(&ingest, r#"{"id":1}"#);
        ingest.take(draft, asker(request), 0);
    }
    let (answers, published) = settle(&mut ingest, 0);
    assert_eq!(answers, [(1, Ok(Place::NONE)), (2, Ok(Place::NONE))]);
    assert_eq!((published.len(), log(&mut ingest).appended.len()), (1, 1));
    // Ids that the log refused one after the other leave nothing behind.
    for number in 0..100 {
        let draft = publish(&ingest, &format!("{{\"id\":\"refused {number}\"}}"));
        ingest.take(draft, asker(3), 0);
        let record = log(&mut ingest).appended.last().unwrap().0;
        log(&mut ingest).outcomes.push_back((record, Err(Unavailable::Failing)));
        settle(&mut ingest, 0);
    }
    assert!(ingest.dedupe[0].len() <= 2 && ingest.deadlines.is_empty());
}

#[test]
fn an_event_is_counted_once_whoever_waits_for_it() {
    let unacknowledged = config::Route { ack: Ack::None, ..config::Route::default() };
    let mut ingest = ingest(vec![unacknowledged, config::Route::default()]);
    let counted = |ingest: &mut Ingest| {
        let Totals { stored, refused, timed_out, .. } = ingest.take_totals();
        (stored, refused, timed_out)
    };
    let take = |ingest: &mut Ingest, route, now_ms| {
        let draft = draft(ingest, route, "{}").unwrap();
        ingest.take(draft, asker(1), now_ms);
        log(ingest).appended.last().unwrap().0
    };
    let record = take(&mut ingest, 0, 0);
    assert!(settle(&mut ingest, 0).0[0].1.is_ok(), "nobody waits for the log");
    log(&mut ingest).outcomes.push_back((record, Err(Unavailable::Failing)));
    settle(&mut ingest, 1);
    assert_eq!(counted(&mut ingest), (0, 1, 0), "it is lost");
    let record = take(&mut ingest, 1, 10);
    log(&mut ingest).outcomes.push_back((record, Err(Unavailable::Failing)));
    settle(&mut ingest, 11);
    assert_eq!(counted(&mut ingest), (0, 1, 0));
    // Two are refused for want of time; one of them is in the log.
    let (lost, late) = (take(&mut ingest, 1, 20), take(&mut ingest, 1, 20));
    settle(&mut ingest, 20 + 3_000);
    assert_eq!(counted(&mut ingest), (0, 0, 2));
    log(&mut ingest).outcomes.push_back((lost, Err(Unavailable::Lost)));
    answer(&mut ingest, late, 7);
    settle(&mut ingest, 4_000);
    assert_eq!(counted(&mut ingest), (1, 0, 0));
    ingest.count_refused();
    assert_eq!(counted(&mut ingest), (0, 1, 0));
}

#[test]
fn a_record_that_is_whole_already_is_no_event() {
    let mut ingest = ingest(vec![config::Route::default()]);
    let take = |ingest: &mut Ingest, now_ms| {
        let body = Bytes::from_static(b"whole");
        ingest.take_record(0, Wish::Next, body, asker(1), now_ms);
        log(ingest).appended.last().map(|appended| appended.0)
    };
    log(&mut ingest).refuses = Some(Unavailable::Full);
    take(&mut ingest, 0);
    log(&mut ingest).refuses = None;
    let record = take(&mut ingest, 0).unwrap();
    log(&mut ingest).outcomes.push_back((record, Err(Unavailable::Failing)));
    let (answers, _) = settle(&mut ingest, 0);
    assert!(answers.len() == 2 && answers.iter().all(|(_, outcome)| outcome.is_err()));
    let record = take(&mut ingest, 1).unwrap();
    assert!(settle(&mut ingest, 1 + 3_000).0[0].1.is_err(), "it took too long");
    answer(&mut ingest, record, 7);
    let record = take(&mut ingest, 4_000).unwrap();
    answer(&mut ingest, record, 8);
    let (answers, _) = settle(&mut ingest, 4_000);
    assert!(answers.len() == 1 && answers[0].1.is_ok());
    let Totals { stored, refused, timed_out, .. } = ingest.take_totals();
    assert_eq!((stored, refused, timed_out), (0, 0, 0));
}
