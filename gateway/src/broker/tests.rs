//! Streams against a model that keeps everything, and the budget that all of them share.
//!
//! **Runs on: any.**

use proptest::prelude::*;
use rand::SeedableRng;

use super::stream::SinceEpoch;
use super::*;

fn plain(data: &[u8]) -> Message<'_> {
    Message::plain(data, None)
}
use crate::config::{Access, Config};
use crate::limits::HISTORY_PUBLICATIONS;

fn namespace(size: usize, ttl_ms: u64) -> Namespace {
    let mut namespace = Config::embedded().namespaces.remove(0);
    namespace.history_size = size;
    namespace.history_ttl_ms = ttl_ms;
    namespace.history_meta_ttl_ms = 10 * ttl_ms.max(1);
    assert_eq!(namespace.publish, Access::Anonymous);
    namespace
}

fn broker(limit_bytes: usize) -> Broker {
    Broker::new(limit_bytes, StdRng::seed_from_u64(1))
}

fn position(broker: &mut Broker, name: &str, namespace: &Namespace, now_ms: u64) -> Position {
    let filter = HistoryFilter::default();
    broker.history(name, (namespace, 0), &filter, now_ms).unwrap().1
}

fn recover(
    broker: &mut Broker,
    namespace: &Namespace,
    since: Since,
    now_ms: u64,
) -> (Recovered, Position) {
    let wish = SubscribeWish { position: true, recover: Some(since), presence: None };
    let answer = broker.subscribe(0, "room", (namespace, 0), wish, now_ms);
    (answer.recovered.unwrap(), answer.position.unwrap())
}

#[test]
fn without_history_there_are_no_offsets_and_nothing_is_kept() {
    let (mut broker, namespace) = (broker(1 << 20), namespace(0, 0));
    let (offset, shards) = broker.publish("room", (&namespace, 0), plain(b"1"), 0);
    assert_eq!((offset, shards), (None, Some(ShardSet::default())));
    assert_eq!(broker.sizes(), (0, 0, 0, 0));
}

#[test]
fn a_version_that_is_no_news_is_not_published() {
    let (mut broker, namespace) = (broker(1 << 20), namespace(2, 1000));
    let mut publish = |number, epoch: &str, skip_history| {
        let version = Some(Box::new(Version { number, epoch: epoch.into() }));
        let options = PublishOptions { version, skip_history, ..PublishOptions::PLAIN };
        let message = Message { data: b"1", info: None, options: &options };
        let (position, shards) = broker.publish("room", (&namespace, 0), message, 0);
        (position.map(|position| position.offset), shards.is_some())
    };
    assert_eq!(publish(5, "a", false), (Some(1), true));
    for outdated in [(5, "a"), (4, "a"), (5, "")] {
        assert_eq!(publish(outdated.0, outdated.1, false), (Some(1), false));
    }
    assert_eq!(publish(1, "a", true), (None, true), "history says nothing of it");
    assert_eq!(publish(1, "b", false), (Some(2), true), "another source's numbers");
    assert_eq!(publish(6, "a", false), (Some(3), true));
    assert_eq!(publish(6, "a", false), (Some(3), false));
    assert_eq!(publish(7, "", false), (Some(4), true), "of any source, so of this one");
    assert_eq!(publish(7, "a", false), (Some(4), false));
    let bytes = broker.sizes().0;
    broker.sweep(std::slice::from_ref(&namespace), 1_000_000);
    assert!(bytes > 0);
    assert_eq!(broker.sizes(), (0, 0, 0, 0), "a version is accounted for");
}

#[test]
fn publications_expire_and_then_the_stream_is_forgotten() {
    let (mut broker, namespace) = (broker(1 << 20), namespace(10, 1000));
    let first = position(&mut broker, "room", &namespace, 0);
    assert_eq!(first.offset, 0, "a channel that is asked for has an epoch");
    for _ in 0..3 {
        broker.publish("room", (&namespace, 0), plain(b"1"), 0);
    }
    let since = Since { offset: 1, epoch: SinceEpoch::Named(first.epoch) };
    assert_eq!(recover(&mut broker, &namespace, since, 999).0.publications.len(), 2);
    let (late, top) = recover(&mut broker, &namespace, since, 1000);
    assert_eq!((late.complete, late.offset, top.offset), (false, 3, 3));
    let at_top = Since { offset: 3, ..since };
    assert!(recover(&mut broker, &namespace, at_top, 1000).0.complete, "nothing was missed");
    broker.unsubscribe(0, "room");
    for now_ms in [5000, 10_000] {
        broker.sweep(std::slice::from_ref(&namespace), now_ms);
    }
    assert_eq!(broker.sizes(), (0, 0, 0, 0));
    let anew = position(&mut broker, "room", &namespace, 10_001);
    assert!(anew.offset == 0 && anew.epoch != first.epoch, "another life, another epoch");
}

#[test]
fn another_epoch_or_a_position_beyond_the_top_is_never_recovered() {
    let (mut broker, namespace) = (broker(1 << 20), namespace(10, 1000));
    for _ in 0..3 {
        broker.publish("room", (&namespace, 0), plain(b"1"), 0);
    }
    let epoch = position(&mut broker, "room", &namespace, 0).epoch;
    for (offset, epoch, complete) in [
        (1, SinceEpoch::Named(epoch), true),
        (1, SinceEpoch::Any, true),
        (1, SinceEpoch::Named(Epoch(epoch.0 ^ 1)), false),
        (3, SinceEpoch::Named(Epoch(epoch.0 ^ 1)), false),
        (1, SinceEpoch::Foreign, false),
        (4, SinceEpoch::Named(epoch), false),
        (u64::MAX, SinceEpoch::Any, false),
    ] {
        let (recovered, _) = recover(&mut broker, &namespace, Since { offset, epoch }, 0);
        assert_eq!(recovered.complete, complete, "{offset} {epoch:?}");
        assert!(complete || recovered.publications.is_empty(), "whole or nothing");
    }
}

#[test]
fn the_oldest_of_all_channels_go_first_and_are_counted() {
    let namespace = namespace(1000, 1_000_000);
    let mut broker = broker(64 << 10);
    for number in 0..400u64 {
        let name = if number % 2 == 0 { "even" } else { "odd" };
        broker.publish(name, (&namespace, 0), plain(&[b'7'; 200]), number);
    }
    let (bytes, items, ..) = broker.sizes();
    assert!(bytes <= 64 << 10, "{bytes} bytes are kept");
    assert_eq!(broker.take_totals().trimmed as usize, 400 - items);
    for name in ["even", "odd"] {
        let filter = HistoryFilter { limit: -1, ..HistoryFilter::default() };
        let (kept, top) = broker.history(name, (&namespace, 0), &filter, 400).unwrap();
        assert_eq!(top.offset, 200);
        assert!(kept.len().abs_diff(items / 2) <= 1, "both lost their oldest alike");
        assert_eq!(kept.last().unwrap().offset, 200, "the newest are kept");
    }
}

#[test]
fn streams_that_expire_again_and_again_leave_nothing_behind() {
    let (mut broker, namespace) = (broker(1 << 20), namespace(10, 1000));
    for round in 0..10_000u64 {
        broker.publish("room", (&namespace, 0), plain(b"1"), 2000 * round);
    }
    assert!(broker.oldest.len() < 200, "{} entries for one stream", broker.oldest.len());
    // The order still finds the oldest of all.
    let mut small = Broker::new(64 << 10, StdRng::seed_from_u64(1));
    for round in 0..1000u64 {
        small.publish("expires", (&namespace, 0), plain(&[b'7'; 200]), 2000 * round);
    }
    for number in 0..150u64 {
        small.publish(&format!("room-{number}"), (&namespace, 0), plain(&[b'7'; 200]), 2_000_000);
    }
    assert!(small.sizes().0 <= 64 << 10, "{} bytes are kept", small.sizes().0);
    let filter = HistoryFilter { limit: -1, ..HistoryFilter::default() };
    let (kept, _) = small.history("room-149", (&namespace, 0), &filter, 2_000_000).unwrap();
    assert_eq!(kept.len(), 1, "the newest is kept");
}

#[test]
fn streams_that_nobody_follows_go_when_the_budget_is_full() {
    let namespace = namespace(10, 1000);
    let mut broker = broker(64 << 10);
    for number in 0..5000u64 {
        position(&mut broker, &format!("asked-for-{number}"), &namespace, number);
    }
    let (bytes, .., channels) = broker.sizes();
    assert!(bytes <= 64 << 10, "{bytes} bytes are kept for {channels} channels");
}

#[test]
fn streams_that_nobody_follows_push_out_no_history() {
    let namespace = namespace(10, 1000);
    let mut broker = broker(64 << 10);
    broker.subscribe(0, "room", (&namespace, 0), SubscribeWish::default(), 0);
    for _ in 0..10 {
        broker.publish("room", (&namespace, 0), plain(b"1"), 0);
    }
    for number in 0..5000u64 {
        position(&mut broker, &format!("asked-for-{number}"), &namespace, number / 100);
    }
    let (bytes, items, ..) = broker.sizes();
    assert_eq!(items, 10, "all of the room's history is there");
    assert!(bytes <= 64 << 10, "{bytes} bytes are kept");
}

#[test]
fn a_holed_channel_without_history_is_forgotten() {
    let (mut broker, namespace) = (broker(1 << 20), namespace(0, 0));
    broker.subscribe(1, "room", (&namespace, 0), SubscribeWish::default(), 0);
    assert_eq!(broker.sizes().3, 1);
    broker.hole("room", 1);
    assert_eq!(broker.sizes(), (0, 0, 0, 0));
}

#[test]
fn presence_counts_clients_and_users() {
    let (mut broker, namespace) = (broker(1 << 20), namespace(0, 0));
    for (client, user) in [(1, "ann"), (2, "ann"), (3, "bob"), (3, "bob")] {
        let info =
            Info { client: Uuid::from_u128(client), user: user.into(), conn_info: Bytes::new() };
        let wish = SubscribeWish { presence: Some(info), ..SubscribeWish::default() };
        broker.subscribe(0, "room", (&namespace, 0), wish, 0);
    }
    let stats = broker.presence("room").unwrap().stats();
    assert_eq!(stats, PresenceStats { num_clients: 3, num_users: 2 });
    for client in [1, 3, 2] {
        broker.leave("room", Uuid::from_u128(client));
    }
    broker.unsubscribe(0, "room");
    assert_eq!(broker.sizes(), (0, 0, 0, 0));
}

#[test]
fn presence_takes_the_room_of_history_and_no_more() {
    let limit_bytes = 64 << 10;
    let (mut broker, namespace) = (broker(limit_bytes), namespace(100, 100_000));
    for _ in 0..100 {
        broker.publish("room", (&namespace, 0), plain(&[0; 200]), 0);
    }
    let info = |client| Info {
        client: Uuid::from_u128(client),
        user: client.to_string().into(),
        conn_info: Bytes::from_static(b"{}"),
    };
    let mut enter = |client| {
        let wish = SubscribeWish { presence: Some(info(client)), ..SubscribeWish::default() };
        let has_room = !broker.subscribe(0, "room", (&namespace, 0), wish, 0).no_room;
        assert!(broker.sizes().0 <= limit_bytes + CHANNEL_OVERHEAD_BYTES, "and its position");
        has_room
    };
    let entered = (0..1000).filter(|client| enter(*client)).count();
    assert!((300..500).contains(&entered), "{entered}");
    assert!(enter(0), "who is in it already needs no room");
    assert!(!enter(1000));
    assert_eq!((broker.sizes().1, broker.sizes().2), (0, entered), "history goes first");
    let refused = broker.take_totals().presence_refused;
    assert_eq!(refused, 1001 - entered as u64);
    broker.leave("room", Uuid::from_u128(7)).unwrap();
    let wish = SubscribeWish { presence: Some(info(1000)), ..SubscribeWish::default() };
    assert!(!broker.subscribe(0, "room", (&namespace, 0), wish, 0).no_room, "there is room again");
}

proptest! {
    /// A stream is the newest part of the list of everything that was ever published.
    #[test]
    fn reads_and_recoveries_are_those_of_a_plain_list(
        size in 1usize..20,
        published in 0u64..400,
        limit in -1i32..400,
        offset in 0u64..420,
        since in any::<bool>(),
        reverse in any::<bool>(),
    ) {
        let (mut broker, namespace) = (broker(16 << 20), namespace(size * 20, 1000));
        for number in 1..=published {
            let (given, _) =
                broker.publish("room", (&namespace, 0), plain(number.to_string().as_bytes()), 0);
            prop_assert_eq!(given.map(|position| position.offset), Some(number));
        }
        let first = published.saturating_sub(size as u64 * 20) + 1;
        let kept: Vec<u64> = (first..=published).collect();
        let from = Since { offset, epoch: SinceEpoch::Any };
        let filter = HistoryFilter { limit, since: since.then_some(from), reverse };
        let (read, top) = broker.history("room", (&namespace, 0), &filter, 0).unwrap();
        prop_assert_eq!(top.offset, published);
        let count = match limit {
            -1 => HISTORY_PUBLICATIONS,
            limit => HISTORY_PUBLICATIONS.min(limit as usize),
        };
        let wanted: Vec<u64> = match (reverse, since) {
            (false, true) => kept.iter().copied().filter(|&n| n > offset).collect(),
            (false, false) => kept.clone(),
            (true, true) => kept.iter().rev().copied().filter(|&n| n < offset).collect(),
            (true, false) => kept.iter().rev().copied().collect(),
        };
        let read: Vec<u64> = read.iter().map(|stored| {
            assert_eq!(stored.data(), stored.offset.to_string().as_bytes());
            stored.offset
        }).collect();
        prop_assert_eq!(&read[..], &wanted[..wanted.len().min(count)]);

        let (recovered, _) = recover(&mut broker, &namespace, from, 0);
        let missed: Vec<u64> = (offset + 1..=published).collect();
        let whole = offset <= published
            && missed.len() <= HISTORY_PUBLICATIONS
            && missed.iter().all(|number| kept.contains(number));
        prop_assert_eq!(recovered.complete, whole);
        let offsets: Vec<u64> = recovered.publications.iter().map(|stored| stored.offset).collect();
        prop_assert_eq!(offsets, if whole { missed } else { Vec::new() });
    }
}
