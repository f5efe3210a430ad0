//! Vectors from client protocol §1-§4, truncation, random input.
//!
//! **Runs on: any.**

use super::*;
use proptest::prelude::*;

fn one(format: Format, payload: &[u8]) -> Command<'_> {
    let mut commands = Commands::new(format, payload);
    let command = commands.next().expect("one command").expect("well formed");
    assert!(commands.next().is_none());
    command
}

fn reply(format: Format, reply: &Reply<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write_reply(format, 3, reply, &mut out);
    out
}

#[test]
fn json_commands() {
    let command = one(
        Format::Json,
        br#"{"id":4294967295,"publish":{"channel":"a","data":{"b": [1.0e2]},"x":1}}"#,
    );
    assert_eq!(command.id, u32::MAX);
    let data = br#"{"b": [1.0e2]}"#;
    assert_eq!(command.request, Request::Publish { channel: "a".into(), data });
    let command = one(Format::Json, b"{\"id\":1,\"subscribe\":{\"channel\":\"\\u0061\",\"recover\":true,\"offset\":18446744073709551615,\"epoch\":\"e\"}}\n");
    let Request::Subscribe(subscribe) = command.request else { panic!() };
    assert_eq!((&*subscribe.channel, subscribe.offset, &*subscribe.epoch), ("a", u64::MAX, "e"));
    assert!(subscribe.recover);
    assert_eq!(one(Format::Json, b"{}").request, Request::Pong);
    assert_eq!(one(Format::Json, br#"{"subscribe":{"channel":"a"}}"#).request, Request::Pong);
    assert_eq!(one(Format::Json, br#"{"id":1,"ping":{}}"#).request, Request::Unknown);
    assert_eq!(one(Format::Json, br#"{"send":{"data":1}}"#).request, Request::Send { data: b"1" });
    let both = one(Format::Json, br#"{"id":1,"rpc":{"method":"m"},"connect":{}}"#);
    assert!(matches!(both.request, Request::Connect(_)));
    let null = one(Format::Json, br#"{"id":1,"publish":{"channel":"a","data":null}}"#);
    assert_eq!(null.request, Request::Publish { channel: "a".into(), data: b"" });
}

#[test]
fn broken_json_ends_the_frame_after_what_came_before() {
    let broken: [&[u8]; 7] =
        [b"[]", b"[1]", b"{\"id\":-1}", b"{\"id\":\"1\"}", b"{\"id\":4294967296}", b"{", b"\xff"];
    for text in broken {
        let frame = [&b"{}\n"[..], text].concat();
        let mut commands = Commands::new(Format::Json, &frame);
        assert_eq!(commands.next().unwrap().unwrap().request, Request::Pong);
        assert_eq!(commands.next(), Some(Err(Error::Malformed)), "{text:?}");
    }
    for empty in [&b""[..], b"\n", b" \n\n"] {
        let mut commands = Commands::new(Format::Json, empty);
        assert_eq!(commands.next(), Some(Err(Error::Empty)));
        assert_eq!(commands.next(), None);
    }
    assert_eq!(Commands::new(Format::Protobuf, b"").next(), Some(Err(Error::Empty)));
}

#[test]
fn an_array_is_no_request() {
    for (request, array) in [
        ("connect", "[]"),
        ("connect", r#"["token",{}]"#),
        ("subscribe", r#"["a"]"#),
        ("unsubscribe", r#"["a"]"#),
        ("publish", r#"["a",{"b":1}]"#),
        ("presence", r#"["a"]"#),
        ("presence_stats", r#"["a"]"#),
        ("history", r#"["a",1]"#),
        ("history", r#"{"channel":"a","since":[1,"e"]}"#),
        ("rpc", r#"[{},"m"]"#),
        ("send", "[1]"),
        ("refresh", r#"["","t"]"#),
        ("sub_refresh", r#"["a","t"]"#),
    ] {
        let text = format!(r#"{{"id":1,"{request}":{array}}}"#);
        let mut commands = Commands::new(Format::Json, text.as_bytes());
        assert_eq!(commands.next(), Some(Err(Error::Malformed)), "{text}");
    }
    // Null is as if it were not there.
    let text = br#"{"id":1,"connect":null,"history":{"channel":"a","since":null}}"#;
    let Request::History(history) = one(Format::Json, text).request else { panic!() };
    assert_eq!((&*history.channel, history.since), ("a", None));
}

#[test]
fn protobuf_commands() {
    // id 5, publish {channel "ab", data "xyz"}
    let publish = b"\x0d\x08\x05\x3a\x09\x0a\x02ab\x12\x03xyz";
    let command = one(Format::Protobuf, publish);
    assert_eq!(command.id, 5);
    assert_eq!(command.request, Request::Publish { channel: "ab".into(), data: b"xyz" });
    assert_eq!(one(Format::Protobuf, &[0]).request, Request::Pong);
    // rpc {data "d", method "m"}
    let rpc = one(Format::Protobuf, b"\x0a\x08\x01\x6a\x06\x0a\x01d\x12\x01m");
    assert_eq!(rpc.request, Request::Rpc { method: "m".into(), data: b"d" });
    // history {channel "c", limit -1, since {offset 7, epoch "e"}, reverse}
    let mut body = Vec::new();
    protobuf::write_delimited(&mut body, |out| {
        protobuf::write_number(out, 1, 9);
        protobuf::write_message(out, 10, |out| {
            protobuf::write_bytes(out, 1, b"c");
            protobuf::write_number(out, 7, u64::MAX);
            protobuf::write_message(out, 8, |out| {
                protobuf::write_number(out, 1, 7);
                protobuf::write_bytes(out, 2, b"e");
            });
            protobuf::write_number(out, 9, 1);
        });
    });
    let Request::History(history) = one(Format::Protobuf, &body).request else { panic!() };
    assert_eq!((history.limit, history.since, history.reverse), (-1, Some((7, "e".into())), true));
    for end in 1..publish.len() {
        let cut: Vec<_> = Commands::new(Format::Protobuf, &publish[..end]).collect();
        assert_eq!(cut, [Err(Error::Malformed)]);
    }
}

#[test]
fn hostile_protobuf_is_refused() {
    let hostile: [&[u8]; 6] = [
        b"\xff\xff\xff\xff\xff\xff\xff\x7f",         // a length near 2^56
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", // a varint over 64 bits
        b"\x02\x00\x01",                             // field number 0
        b"\x01\x0b",                                 // a group
        b"\x05\x08\x01\x32\x01\xff",                 // truncated
        b"\x07\x08\x01\x32\x03\x0a\x01\xff",         // a channel that is no UTF-8
    ];
    for frame in hostile {
        assert_eq!(Commands::new(Format::Protobuf, frame).next(), Some(Err(Error::Malformed)));
    }
}

#[test]
fn json_replies_omit_what_is_empty() {
    let text = |r: &Reply<'_>| String::from_utf8(reply(Format::Json, r)).unwrap();
    assert_eq!(text(&Reply::Unsubscribe), r#"{"id":3,"unsubscribe":{}}"#);
    assert_eq!(text(&Reply::Subscribe(SubscribeResult::default())), r#"{"id":3,"subscribe":{}}"#);
    assert_eq!(text(&Reply::Presence(&[])), r#"{"id":3,"presence":{"presence":{}}}"#);
    assert_eq!(
        text(&Reply::PresenceStats { num_clients: 0, num_users: 0 }),
        r#"{"id":3,"presence_stats":{"num_clients":0,"num_users":0}}"#
    );
    assert_eq!(
        text(&Reply::History { publications: &[], epoch: "", offset: 0 }),
        r#"{"id":3,"history":{"publications":[],"epoch":"","offset":0}}"#
    );
    let info = ClientInfo { client: "c", conn_info: b"{\"n\":1}", ..ClientInfo::default() };
    let mut tags = Vec::new();
    Tags::pack(&mut tags, "a\"", "1");
    Tags::pack(&mut tags, "", "");
    let tags = Tags::packed(&tags);
    let publication = Publication { data: b"[1]", info: Some(info), offset: 2, tags };
    let mut out = Vec::new();
    write_push(
        Format::Json,
        &Push::Publication { channel: "a\"", publication: &publication },
        &mut out,
    );
    assert_eq!(
        String::from_utf8(out).unwrap(),
        r#"{"push":{"channel":"a\"","pub":{"data":[1],"info":{"user":"","client":"c","conn_info":{"n":1}},"offset":2,"tags":{"a\"":"1","":""}}}}"#
    );
    let mut out = Vec::new();
    write_error(Format::Json, 1, ErrorCode::Internal, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        r#"{"id":1,"error":{"code":100,"message":"internal server error","temporary":true}}"#
    );
}

#[test]
fn protobuf_lengths_of_every_width() {
    for size in [0, 1, 100, 117, 118, 119, 120, 125, 126, 127, 128, 16_370, 16_384, 70_000] {
        let data = vec![7; size];
        let out = reply(Format::Protobuf, &Reply::Rpc { data: &data });
        // Read it back as a command: field 13 of a reply is rpc with data in field 1, like ours.
        let Request::Rpc { data: read, .. } = one(Format::Protobuf, &out).request else { panic!() };
        assert_eq!(read, data);
    }
    assert_eq!(reply(Format::Protobuf, &Reply::Publish), b"\x04\x08\x03\x42\x00");
}

#[test]
fn newlines_go_and_payloads_are_checked() {
    assert_eq!(strip_newlines(b"{\"a\":\r\n1}"), Some(b"{\"a\":1}".to_vec()));
    assert_eq!(strip_newlines(b"\"\\n\""), None);
    assert!(is_json(b" [1,2] ") && !is_json(b"") && !is_json(b"{} {}") && !is_json(b"\xff"));
    assert!(!is_json(b"\"\xff\"") && !is_json(b"{\"name\":\"M\xfcller\"}"));
    assert!(is_json("{\"name\":\"Müller\"}".as_bytes()));
    // Depth costs no stack: this must come back at all.
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let _ = is_json(&deep);
}

const REQUESTS: [&str; 11] = [
    "connect",
    "subscribe",
    "unsubscribe",
    "publish",
    "presence",
    "presence_stats",
    "history",
    "rpc",
    "send",
    "refresh",
    "sub_refresh",
];

proptest! {
    #[test]
    fn nothing_but_an_object_is_a_request(
        request in prop::sample::select(&REQUESTS[..]),
        other in prop_oneof![
            "[1-9][0-9]{0,2}",
            "\"[a-z]{0,5}\"",
            "\\[(\"[a-z]{0,3}\"(,(\"[a-z]\"|[0-9]|\\{\\}|true|null)){0,8})?\\]",
        ],
    ) {
        prop_assert!(is_json(other.as_bytes()), "{other}");
        let text = format!(r#"{{"id":1,"{request}":{other}}}"#);
        let read = Commands::new(Format::Json, text.as_bytes()).next();
        prop_assert_eq!(read, Some(Err(Error::Malformed)));
        let text = format!(r#"{{"id":1,"{request}":{{}}}}"#);
        let read = Commands::new(Format::Json, text.as_bytes()).next().unwrap().unwrap();
        prop_assert_ne!(read.request, Request::Unknown);
    }

    #[test]
    fn no_input_panics(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        for format in [Format::Json, Format::Protobuf] {
            for command in Commands::new(format, &payload) {
                let _ = command;
            }
        }
    }
}
