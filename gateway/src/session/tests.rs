//! The session by vectors: every answer that it decides on, in the order of client protocol §3,
//! its timers, and the order in which replies leave.
//!
//! **Runs on: any.**

use std::borrow::Cow;

use proptest::prelude::*;
use trine_proto::client::History;

use super::*;
use crate::config::Namespace;

const NOW: u64 = 1_000_000;

fn config() -> Config {
    let mut config = Config::embedded();
    let mut closed = Namespace::closed("closed".into());
    closed.subscribe = Access::Nobody;
    let mut named = Namespace::closed("named".into());
    named.publish = Access::Clients;
    let mut inner = config.namespaces[0].clone();
    inner.name = "inner".into();
    inner.publish = Access::Subscribers;
    inner.history_access = Access::Subscribers;
    inner.presence_access = Access::Subscribers;
    inner.message_limit_bytes = 10;
    config.namespaces.extend([closed, named, inner]);
    config
}

/// A session and the channels that its hub knows, by their place in the list.
struct World {
    config: Config,
    session: Session,
    channels: Vec<&'static str>,
}

impl World {
    fn new() -> World {
        let config = config();
        let session = Session::new(Uuid::from_u128(7), Format::Json, &config, NOW);
        World { config, session, channels: Vec::new() }
    }

    fn connected(data: &'static [u8]) -> World {
        let mut world = World::new();
        let connect = Request::Connect(Connect { data, ..Connect::default() });
        assert_eq!(world.take(connect), "Connected");
        world
    }

    /// The action, as text, which has no lifetime to care for.
    fn take(&mut self, request: Request<'_>) -> String {
        let World { config, session, channels } = self;
        let find = |name: &str| channels.iter().position(|known| *known == name).map(|n| n as u32);
        let command = Command { id: 1, request };
        let context = Context { config, find };
        format!("{:?}", session.command(&command, &context, NOW, 3))
    }

    fn subscribed(mut self, channel: &'static str) -> World {
        self.channels.push(channel);
        self.session.subscribed(self.channels.len() as u32 - 1);
        self
    }
}

fn subscribe(channel: &'static str) -> Request<'static> {
    Request::Subscribe(Subscribe { channel: channel.into(), ..Subscribe::default() })
}

fn publish(channel: &'static str, data: &'static [u8]) -> Request<'static> {
    Request::Publish { channel: channel.into(), data }
}

fn history(channel: &'static str) -> Request<'static> {
    Request::History(History { channel: channel.into(), limit: 1, ..History::default() })
}

fn presence(channel: &'static str) -> Request<'static> {
    Request::Presence { channel: channel.into() }
}

#[test]
fn nothing_goes_before_connect_and_connect_goes_once() {
    assert_eq!(World::new().take(subscribe("room")), "Close(BadRequest)");
    assert_eq!(World::new().take(Request::Pong), "Close(BadRequest)");
    let mut world = World::connected(b"");
    assert_eq!(world.take(Request::Connect(Connect::default())), "Close(BadRequest)");
    assert_eq!(World::connected(b"").take(Request::Unknown), "Close(BadRequest)");
    assert_eq!(World::connected(b"").take(Request::Send { data: b"1" }), "Close(NotAvailable)");
}

#[test]
fn tokens_are_invalid_until_keys_are_configured() {
    let mut world = World::new();
    let connect = Connect { token: "abc".into(), ..Connect::default() };
    assert_eq!(world.take(Request::Connect(connect)), "Close(InvalidToken)");
    let mut world = World::new();
    world.config.client.anonymous = false;
    assert_eq!(world.take(Request::Connect(Connect::default())), "Close(BadRequest)");
    let mut world = World::connected(b"");
    let refresh = Request::Refresh { token: "abc".into() };
    assert_eq!(world.take(refresh), "Refuse(NotAvailable)");
    let refresh = Request::SubRefresh { channel: "room".into(), token: "abc".into() };
    assert_eq!(world.take(refresh), "Refuse(NotAvailable)");
}

#[test]
fn a_name_makes_a_user_in_the_embedded_default_and_there_only() {
    let world = World::connected(b"{\"name\":\"ann\"}");
    assert_eq!(world.session.info().user, "ann");
    assert_eq!(world.session.info().conn_info, b"{\"name\":\"ann\"}");
    let mut world = World::new();
    world.config.embedded_default = false;
    let connect = Connect { data: b"{\"name\":\"ann\"}", ..Connect::default() };
    assert_eq!(world.take(Request::Connect(connect)), "Connected");
    assert_eq!(world.session.info().user, "");
}

#[test]
fn channels_are_checked_in_order() {
    let long: &'static str = Box::leak("r".repeat(256).into_boxed_str());
    for (channel, expected) in [
        ("", "Close(BadRequest)"),
        (long, "Refuse(BadRequest)"),
        ("nowhere:1", "Refuse(UnknownChannel)"),
        ("röom", "Refuse(BadRequest)"),
        ("$room", "Refuse(PermissionDenied)"),
        ("room#ann", "Refuse(PermissionDenied)"),
        ("closed:1", "Refuse(PermissionDenied)"),
        ("named:1", "Refuse(PermissionDenied)"),
    ] {
        assert_eq!(World::connected(b"").take(subscribe(channel)), expected, "{channel}");
    }
    let mut named = World::connected(b"{\"name\":\"ann\"}");
    assert!(named.take(subscribe("named:1")).starts_with("Subscribe("));
    let mut world = World::connected(b"").subscribed("room");
    assert_eq!(world.take(subscribe("room")), "Refuse(AlreadySubscribed)");
    world.config.client.channels_limit = 1;
    assert_eq!(world.take(subscribe("other")), "Refuse(LimitExceeded)");
    let delta = Subscribe { channel: "room".into(), delta: "x".into(), ..Subscribe::default() };
    assert_eq!(World::connected(b"").take(Request::Subscribe(delta)), "Close(BadRequest)");
    let filtered = Subscribe { channel: "room".into(), filtered: true, ..Subscribe::default() };
    let filtered = World::connected(b"").take(Request::Subscribe(filtered));
    assert_eq!(filtered, "Refuse(BadRequest)", "what is not filtered must not be told as if");
    let token = Subscribe { channel: "room".into(), token: "x".into(), ..Subscribe::default() };
    let token = World::connected(b"").take(Request::Subscribe(token));
    assert_eq!(token, "Refuse(PermissionDenied)", "nobody can check it");
}

#[test]
fn wishes_are_granted_where_the_namespace_allows_them() {
    let wish = |positioned, recoverable, join_leave| {
        Request::Subscribe(Subscribe {
            channel: "room".into(),
            positioned,
            recoverable,
            join_leave,
            ..Subscribe::default()
        })
    };
    let mut world = World::connected(b"");
    let said = world.take(wish(true, false, true));
    assert!(said.contains("position: true, recoverable: false, join_leave: true"), "{said}");
    let said = world.take(wish(false, true, false));
    assert!(said.contains("position: true, recoverable: true, join_leave: false"), "{said}");
    world.config.namespaces[0].history_size = 0;
    world.config.namespaces[0].join_leave = false;
    let said = world.take(wish(true, true, true));
    assert!(said.contains("position: false, recoverable: false, join_leave: false"), "{said}");
    let recover = Subscribe {
        channel: "room".into(),
        recover: true,
        epoch: Cow::Borrowed("0000000000000001"),
        offset: 3,
        flag: 2,
        ..Subscribe::default()
    };
    let said = World::connected(b"").take(Request::Subscribe(recover));
    assert!(said.contains("recover: Some(Since { offset: 3, epoch: Named(Epoch(1)) })"), "{said}");
    assert!(said.contains("refuse_unrecoverable: true"), "{said}");
}

/// A wish of a subscriber.
#[derive(Clone, Copy)]
enum Wish {
    Nothing,
    Recovery,
    Everything,
}

/// What a row sets in a namespace that has everything, the wish, whether the subscriber may read
/// history, and what it is granted: position, recovery, joins and leaves.
type Grant = (&'static str, fn(&mut Namespace), Wish, bool, [bool; 3]);

const GRANTS: &[Grant] = &[
    ("nothing is wished", |_| {}, Wish::Nothing, true, [false, false, false]),
    ("recovery is off", |of| of.recovery = false, Wish::Everything, false, [true, false, true]),
    ("positioning is off", |of| of.positioning = false, Wish::Recovery, false, [true, true, false]),
    (
        "both are off",
        |of| (of.recovery, of.positioning) = (false, false),
        Wish::Everything,
        false,
        [false, false, true],
    ),
    (
        "both are off, but history may be read",
        |of| (of.recovery, of.positioning) = (false, false),
        Wish::Everything,
        true,
        [true, true, true],
    ),
    (
        "recovery is forced",
        |of| of.force_recovery = true,
        Wish::Nothing,
        false,
        [true, true, false],
    ),
    (
        "positioning is forced",
        |of| of.force_positioning = true,
        Wish::Nothing,
        false,
        [true, false, false],
    ),
    (
        "both are forced without history",
        |of| (of.force_recovery, of.force_positioning, of.history_size) = (true, true, 0),
        Wish::Everything,
        true,
        [false, false, true],
    ),
    ("history lasts no time", |of| of.history_ttl_ms = 0, Wish::Recovery, true, [false; 3]),
    ("joins are off", |of| of.join_leave = false, Wish::Everything, false, [true, true, false]),
    (
        "joins are forced",
        |of| of.force_push_join_leave = true,
        Wish::Nothing,
        false,
        [false, false, true],
    ),
    (
        "joins are forced and off",
        |of| (of.force_push_join_leave, of.join_leave) = (true, false),
        Wish::Everything,
        false,
        [true, true, false],
    ),
];

#[test]
fn each_flag_of_a_namespace_grants_or_forces_its_own_wish() {
    for (what, set, wish, may_read_history, granted) in GRANTS {
        let mut namespace = config().namespaces[0].clone();
        set(&mut namespace);
        let all = matches!(wish, Wish::Everything);
        let subscribe = Subscribe {
            positioned: all,
            recoverable: all,
            join_leave: all,
            recover: matches!(wish, Wish::Recovery),
            ..Subscribe::default()
        };
        let [position, recoverable, join_leave] = *granted;
        let expected = rights::Granted { position, recoverable, join_leave };
        let granted = rights::subscription(&namespace, &subscribe, *may_read_history);
        assert_eq!(granted, expected, "{what}");
    }
}

#[test]
fn joins_and_leaves_are_told_to_who_may_read_presence_or_is_forced_to_hear_them() {
    let mut world = World::connected(b"");
    let mut asks = |presence_access, force_push_join_leave| {
        let namespace = &mut world.config.namespaces[0];
        namespace.presence_access = presence_access;
        namespace.force_push_join_leave = force_push_join_leave;
        let channel = Cow::Borrowed("room");
        let subscribe = Subscribe { channel, join_leave: true, ..Subscribe::default() };
        world.take(Request::Subscribe(subscribe))
    };
    for (presence_access, forced, told) in [
        (Access::Subscribers, false, true),
        (Access::Nobody, false, false),
        (Access::Clients, false, false),
        (Access::Nobody, true, true),
    ] {
        let said = asks(presence_access, forced);
        let expected = format!("join_leave: {told}");
        assert!(said.contains(&expected), "{presence_access:?}, forced {forced}: {said}");
    }
}

#[test]
fn history_and_presence_need_their_flag_and_their_right() {
    let refused = |set: fn(&mut Namespace), request| {
        let mut world = World::connected(b"").subscribed("room");
        set(&mut world.config.namespaces[0]);
        world.take(request)
    };
    for (set, expected) in [
        ((|of| of.history_size = 0) as fn(&mut Namespace), "Refuse(NotAvailable)"),
        (|of| of.history_ttl_ms = 0, "Refuse(NotAvailable)"),
        (|of| of.history_access = Access::Nobody, "Refuse(PermissionDenied)"),
        (|of| of.history_access = Access::Clients, "Refuse(PermissionDenied)"),
    ] {
        assert_eq!(refused(set, history("room")), expected);
    }
    for (set, expected) in [
        ((|of| of.presence = false) as fn(&mut Namespace), "Refuse(NotAvailable)"),
        (|of| of.presence_access = Access::Nobody, "Refuse(PermissionDenied)"),
        (|of| of.presence_access = Access::Clients, "Refuse(PermissionDenied)"),
    ] {
        assert_eq!(refused(set, presence("room")), expected);
    }
    assert!(refused(|_| {}, history("room")).starts_with("History {"));
    assert!(refused(|_| {}, presence("room")).starts_with("Presence {"));
}

#[test]
fn publish_history_and_presence_ask_for_rights() {
    let mut world = World::connected(b"");
    assert!(world.take(publish("room", b"1")).starts_with("Publish {"));
    assert_eq!(world.take(publish("room", b"")), "Refuse(BadRequest)");
    assert_eq!(world.take(publish("inner:1", b"1")), "Refuse(PermissionDenied)");
    assert_eq!(world.take(publish("named:1", b"1")), "Refuse(PermissionDenied)");
    assert_eq!(world.take(history("inner:1")), "Refuse(PermissionDenied)");
    assert_eq!(world.take(presence("inner:1")), "Refuse(PermissionDenied)");
    // 108 goes before 103.
    assert_eq!(world.take(history("closed:1")), "Refuse(NotAvailable)");
    assert_eq!(world.take(presence("closed:1")), "Refuse(NotAvailable)");
    let mut world = World::connected(b"").subscribed("inner:1");
    assert!(world.take(publish("inner:1", b"1")).starts_with("Publish {"));
    assert_eq!(world.take(publish("inner:1", b"12345678901")), "Refuse(LimitExceeded)");
    assert!(world.take(history("inner:1")).starts_with("History {"));
    assert!(world.take(presence("inner:1")).starts_with("Presence {"));
    let backwards = Request::History(History {
        channel: "inner:1".into(),
        since: Some((0, "".into())),
        reverse: true,
        ..History::default()
    });
    assert_eq!(world.take(backwards), "Refuse(BadRequest)");
}

#[test]
fn a_binary_payload_in_a_json_namespace_is_refused() {
    let mut world = World::connected(b"");
    world.session.format = Format::Protobuf;
    assert_eq!(world.take(publish("room", b"\x00\x01")), "Refuse(BadRequest)");
    world.config.namespaces[0].payload = crate::config::Payload::Binary;
    assert!(world.take(publish("room", b"\x00\x01")).starts_with("Publish {"));
}

#[test]
fn unsubscribing_what_is_not_subscribed_succeeds() {
    let mut world = World::connected(b"").subscribed("room");
    let unsubscribe = |channel: &'static str| Request::Unsubscribe { channel: channel.into() };
    assert_eq!(world.take(unsubscribe("other")), "Unsubscribe(None)");
    assert_eq!(world.take(unsubscribe("room")), "Unsubscribe(Some(0))");
}

#[test]
fn a_channel_whose_subscribe_is_unanswered_waits() {
    let mut world = World::connected(b"");
    world.channels.push("room");
    let what = WaitingFor::Subscribe {
        channel: 0,
        position: false,
        recoverable: false,
        recovering: false,
        refuse_unrecoverable: false,
    };
    world.session.pending().wait(Waiting { id: 2, what, since_ns: 0 });
    assert_eq!(world.take(publish("room", b"1")), "Wait");
    assert_eq!(world.take(subscribe("room")), "Wait");
    assert!(world.take(publish("other", b"1")).starts_with("Publish {"));
}

#[test]
fn unanswered_subscribes_count_against_the_limit_of_channels() {
    let mut world = World::connected(b"");
    world.config.client.channels_limit = 2;
    assert!(world.take(subscribe("first")).starts_with("Subscribe("));
    for channel in 0..2 {
        let what = WaitingFor::Subscribe {
            channel,
            position: false,
            recoverable: false,
            recovering: false,
            refuse_unrecoverable: false,
        };
        world.session.pending().wait(Waiting { id: 2, what, since_ns: 0 });
    }
    assert_eq!(world.take(subscribe("third")), "Refuse(LimitExceeded)");
}

#[test]
fn pings_are_answered_in_time_or_the_client_is_gone() {
    let mut world = World::new();
    let config = world.config.clone();
    let stale_ms = NOW + config.client.stale_close_delay_ms;
    assert_eq!(world.session.tick(&config, stale_ms - 1), Tick::Nothing);
    assert_eq!(world.session.tick(&config, stale_ms), Tick::Close(Disconnect::Stale));

    let mut world = World::connected(b"");
    assert_eq!(world.take(Request::Pong), "Close(BadRequest)", "none was asked for");
    let mut world = World::connected(b"");
    let first_ms = world.session.deadline_ms();
    let interval_ms = config.client.ping_interval_ms;
    assert!((NOW + interval_ms / 2..=NOW + interval_ms).contains(&first_ms));
    assert_eq!(world.session.tick(&config, first_ms), Tick::Ping);
    assert_eq!(world.session.deadline_ms(), first_ms + config.client.pong_timeout_ms);
    assert_eq!(world.take(Request::Pong), "Nothing");
    assert_eq!(world.session.deadline_ms(), first_ms + interval_ms, "the beat is kept");
    assert_eq!(world.session.tick(&config, first_ms + interval_ms), Tick::Ping);
    let due_ms = world.session.deadline_ms();
    world.session.resume(500);
    assert_eq!(world.session.tick(&config, due_ms), Tick::Nothing, "it stood still");
    assert_eq!(world.session.tick(&config, due_ms + 500), Tick::Close(Disconnect::NoPong));

    let mut world = World::connected(b"");
    world.config.client.pong_timeout_ms = 0;
    for beat in 0..3 {
        let due_ms = first_ms + beat * interval_ms;
        assert_eq!(world.session.deadline_ms(), due_ms, "no pong is awaited");
        assert_eq!(world.session.tick(&world.config, due_ms), Tick::Ping);
    }

    let mut world = World::new();
    world.session = world.session.with_frame_pings(true);
    assert_eq!(world.take(Request::Connect(Connect::default())), "Connected");
    world.session.frame_pong(&config);
    assert_eq!(world.session.deadline_ms(), first_ms, "a pong not asked for means nothing");
    assert_eq!(world.session.tick(&config, first_ms), Tick::FramePing);
    world.session.frame_pong(&config);
    assert_eq!(world.session.deadline_ms(), first_ms + interval_ms);
    assert_eq!(world.session.tick(&config, first_ms + interval_ms), Tick::FramePing);
    assert_eq!(world.take(Request::Pong), "Close(BadRequest)", "it is of the other kind");

    let mut world = World::new();
    world.config.client.ping_interval_ms = 0;
    assert_eq!(world.take(Request::Connect(Connect::default())), "Connected");
    assert_eq!(world.session.deadline_ms(), u64::MAX);
}

#[derive(Clone, Debug)]
enum Step {
    Wait(bool),
    Ready(bool),
    Push,
    Settle(usize),
}

fn waiting_for(number: u32, subscribe: bool) -> WaitingFor {
    match (subscribe, number.is_multiple_of(2)) {
        (true, recovering) => WaitingFor::Subscribe {
            channel: number,
            position: false,
            recoverable: recovering,
            recovering,
            refuse_unrecoverable: false,
        },
        (false, true) => WaitingFor::History,
        (false, false) => WaitingFor::Publish,
    }
}

proptest! {
    /// Whatever the order of the answers, frames leave in the order of their commands, each once,
    /// and a push leaves after the subscribe's reply that it waited behind and the pushes before it.
    #[test]
    fn replies_leave_in_order(steps in prop::collection::vec(prop_oneof![
        any::<bool>().prop_map(Step::Wait),
        any::<bool>().prop_map(Step::Ready),
        Just(Step::Push),
        (0usize..8).prop_map(Step::Settle),
    ], 1..100)) {
        let mut pending = Pending::default();
        let (mut expected, mut left) = (Vec::new(), Vec::new());
        let mut open: Vec<(u32, u32)> = Vec::new();
        let (mut number, mut pushes) = (0u32, Vec::new());
        for step in steps {
            number += 1;
            let frame = Bytes::from(number.to_string());
            match step {
                Step::Wait(subscribe) => {
                    let what = waiting_for(number, subscribe);
                    let next = pending.next_place();
                    let place = pending.wait(Waiting { id: number, what, since_ns: 0 });
                    prop_assert_eq!(place, next);
                    open.push((place, number));
                }
                Step::Ready(subscribe) => pending.push(Slot::Ready { frame, subscribe }),
                Step::Push if pending.holds_pushes() => {
                    pushes.push(number);
                    pending.push(Slot::Push(frame));
                }
                Step::Push => {
                    pushes.push(number);
                    left.push(number);
                }
                Step::Settle(at) => {
                    number -= 1;
                    if !open.is_empty() {
                        let (place, id) = open.remove(at % open.len());
                        prop_assert_eq!(pending.waiting(place).map(|waiting| waiting.id), Some(id));
                        pending.settle(place, Bytes::from(id.to_string()));
                        prop_assert!(pending.waiting(place).is_none());
                    }
                }
            }
            if expected.last() != Some(&number) && pushes.last() != Some(&number) {
                expected.push(number);
            }
            while let Some(frame) = pending.take() {
                left.push(String::from_utf8_lossy(&frame).parse::<u32>().unwrap());
            }
            prop_assert_eq!(pending.outstanding(), open.len());
        }
        for (place, id) in open {
            pending.settle(place, Bytes::from(id.to_string()));
        }
        while let Some(frame) = pending.take() {
            left.push(String::from_utf8_lossy(&frame).parse::<u32>().unwrap());
        }
        expected.retain(|&number| number > 0);
        let (left_pushes, left): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|number| pushes.contains(number));
        prop_assert_eq!(left_pushes, pushes);
        prop_assert_eq!(left, expected);
        let left = (pending.bytes(), pending.push_bytes(), pending.large());
        prop_assert!(pending.is_empty() && left == (0, 0, 0) && !pending.holds_pushes());
    }
}
