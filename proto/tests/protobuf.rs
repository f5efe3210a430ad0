//! The client protocol's Protobuf form against `prost`: what it encodes we read, what we write it
//! decodes.
//!
//! **Runs on: any.** Field numbers are those of client protocol §2, written down here once more.

use std::collections::HashMap;

use proptest::prelude::*;
use prost::Message;
use trine_proto::client::{
    ClientInfo, Commands, ConnectResult, ErrorCode, Format, History, Publication, Push, Reply,
    Request, Subscribe, SubscribeResult, Tags, UnsubscribeCode, write_error, write_push,
    write_reply,
};

mod wire {
    use std::collections::HashMap;

    macro_rules! message {
        ($name:ident { $($(#[$tag:meta])* $field:ident: $kind:ty,)* }) => {
            #[derive(Clone, PartialEq, prost::Message)]
            pub struct $name { $($(#[$tag])* pub $field: $kind,)* }
        };
    }

    message!(Command {
        #[prost(uint32, tag = "1")] id: u32,
        #[prost(message, optional, tag = "4")] connect: Option<Connect>,
        #[prost(message, optional, tag = "5")] subscribe: Option<Subscribe>,
        #[prost(message, optional, tag = "6")] unsubscribe: Option<Channel>,
        #[prost(message, optional, tag = "7")] publish: Option<Publish>,
        #[prost(message, optional, tag = "8")] presence: Option<Channel>,
        #[prost(message, optional, tag = "9")] presence_stats: Option<Channel>,
        #[prost(message, optional, tag = "10")] history: Option<History>,
        #[prost(message, optional, tag = "13")] rpc: Option<Rpc>,
        #[prost(string, tag = "99")] unknown: String,
    });
    message!(Connect {
        #[prost(string, tag = "1")] token: String,
        #[prost(bytes = "vec", tag = "2")] data: Vec<u8>,
        #[prost(string, tag = "4")] name: String,
        #[prost(string, tag = "5")] version: String,
        #[prost(map = "string, string", tag = "6")] headers: HashMap<String, String>,
    });
    message!(Subscribe {
        #[prost(string, tag = "1")] channel: String,
        #[prost(string, tag = "2")] token: String,
        #[prost(bool, tag = "3")] recover: bool,
        #[prost(string, tag = "6")] epoch: String,
        #[prost(uint64, tag = "7")] offset: u64,
        #[prost(bytes = "vec", tag = "8")] data: Vec<u8>,
        #[prost(bool, tag = "9")] positioned: bool,
        #[prost(bool, tag = "10")] recoverable: bool,
        #[prost(bool, tag = "11")] join_leave: bool,
        #[prost(string, tag = "12")] delta: String,
        #[prost(message, tag = "13")] tf: Option<Position>,
        #[prost(int64, tag = "14")] flag: i64,
    });
    message!(Channel {
        #[prost(string, tag = "1")]
        channel: String,
    });
    message!(Publish {
        #[prost(string, tag = "1")] channel: String,
        #[prost(bytes = "vec", tag = "2")] data: Vec<u8>,
    });
    message!(History {
        #[prost(string, tag = "1")] channel: String,
        #[prost(int32, tag = "7")] limit: i32,
        #[prost(message, optional, tag = "8")] since: Option<Position>,
        #[prost(bool, tag = "9")] reverse: bool,
    });
    message!(Position {
        #[prost(uint64, tag = "1")]
        offset: u64,
        #[prost(string, tag = "2")]
        epoch: String,
    });
    message!(Rpc {
        #[prost(bytes = "vec", tag = "1")] data: Vec<u8>,
        #[prost(string, tag = "2")] method: String,
    });

    message!(Reply {
        #[prost(uint32, tag = "1")] id: u32,
        #[prost(message, optional, tag = "2")] error: Option<Error>,
        #[prost(message, optional, tag = "4")] push: Option<Push>,
        #[prost(message, optional, tag = "5")] connect: Option<ConnectResult>,
        #[prost(message, optional, tag = "6")] subscribe: Option<SubscribeResult>,
        #[prost(message, optional, tag = "7")] unsubscribe: Option<Empty>,
        #[prost(message, optional, tag = "8")] publish: Option<Empty>,
        #[prost(message, optional, tag = "9")] presence: Option<Presence>,
        #[prost(message, optional, tag = "10")] presence_stats: Option<Stats>,
        #[prost(message, optional, tag = "11")] history: Option<HistoryResult>,
        #[prost(message, optional, tag = "13")] rpc: Option<RpcResult>,
    });
    message!(Empty {});
    message!(Error {
        #[prost(uint32, tag = "1")]
        code: u32,
        #[prost(string, tag = "2")]
        message: String,
        #[prost(bool, tag = "3")]
        temporary: bool,
    });
    message!(ClientInfo {
        #[prost(string, tag = "1")] user: String,
        #[prost(string, tag = "2")] client: String,
        #[prost(bytes = "vec", tag = "3")] conn_info: Vec<u8>,
        #[prost(bytes = "vec", tag = "4")] chan_info: Vec<u8>,
    });
    message!(Publication {
        #[prost(bytes = "vec", tag = "4")] data: Vec<u8>,
        #[prost(message, optional, tag = "5")] info: Option<ClientInfo>,
        #[prost(uint64, tag = "6")] offset: u64,
        #[prost(map = "string, string", tag = "7")] tags: HashMap<String, String>,
    });
    message!(Membership { #[prost(message, optional, tag = "1")] info: Option<ClientInfo>, });
    message!(Unsubscribe {
        #[prost(uint32, tag = "2")]
        code: u32,
        #[prost(string, tag = "3")]
        reason: String,
    });
    message!(Push {
        #[prost(string, tag = "2")] channel: String,
        #[prost(message, optional, tag = "4")] publication: Option<Publication>,
        #[prost(message, optional, tag = "5")] join: Option<Membership>,
        #[prost(message, optional, tag = "6")] leave: Option<Membership>,
        #[prost(message, optional, tag = "7")] unsubscribe: Option<Unsubscribe>,
    });
    message!(ConnectResult {
        #[prost(string, tag = "1")] client: String,
        #[prost(string, tag = "2")] version: String,
        #[prost(bytes = "vec", tag = "5")] data: Vec<u8>,
        #[prost(uint32, tag = "7")] ping: u32,
        #[prost(bool, tag = "8")] pong: bool,
    });
    message!(SubscribeResult {
        #[prost(bool, tag = "3")] recoverable: bool,
        #[prost(string, tag = "6")] epoch: String,
        #[prost(message, repeated, tag = "7")] publications: Vec<Publication>,
        #[prost(bool, tag = "8")] recovered: bool,
        #[prost(uint64, tag = "9")] offset: u64,
        #[prost(bool, tag = "10")] positioned: bool,
        #[prost(bytes = "vec", tag = "11")] data: Vec<u8>,
        #[prost(bool, tag = "12")] was_recovering: bool,
    });
    message!(Presence {
        #[prost(map = "string, message", tag = "1")] presence: HashMap<String, ClientInfo>,
    });
    message!(Stats {
        #[prost(uint32, tag = "1")]
        num_clients: u32,
        #[prost(uint32, tag = "2")]
        num_users: u32,
    });
    message!(HistoryResult {
        #[prost(message, repeated, tag = "1")] publications: Vec<Publication>,
        #[prost(string, tag = "2")] epoch: String,
        #[prost(uint64, tag = "3")] offset: u64,
    });
    message!(RpcResult { #[prost(bytes = "vec", tag = "1")] data: Vec<u8>, });
}

fn reads(command: &wire::Command, expected: &Request<'_>) {
    let bytes = command.encode_length_delimited_to_vec();
    let mut commands = Commands::new(Format::Protobuf, &bytes);
    let read = commands.next().unwrap().unwrap();
    assert_eq!((read.id, &read.request), (command.id, expected));
    assert!(commands.next().is_none());
}

fn decoded(write: impl FnOnce(&mut Vec<u8>)) -> wire::Reply {
    let mut out = Vec::new();
    write(&mut out);
    let mut rest = &out[..];
    let reply = wire::Reply::decode_length_delimited(&mut rest).unwrap();
    assert!(rest.is_empty());
    reply
}

fn info<'a>(user: &'a str, client: &'a str, conn_info: &'a [u8]) -> ClientInfo<'a> {
    ClientInfo { user, client, conn_info, chan_info: b"" }
}

fn wire_info(user: &str, client: &str, conn_info: &[u8]) -> wire::ClientInfo {
    wire::ClientInfo {
        user: user.into(),
        client: client.into(),
        conn_info: conn_info.into(),
        chan_info: Vec::new(),
    }
}

proptest! {
    #[test]
    fn commands_are_read(
        id in 1u32..,
        channel in ".{0,30}",
        epoch in "[a-z0-9]{0,8}",
        data in prop::collection::vec(any::<u8>(), 0..300),
        offset in any::<u64>(),
        limit in any::<i32>(),
        flags in prop::array::uniform4(any::<bool>()),
        flag in any::<i64>(),
        unknown in ".{0,9}",
    ) {
        let command = wire::Command { id, unknown, ..Default::default() };
        let connect = wire::Connect {
            token: epoch.clone(),
            data: data.clone(),
            name: channel.clone(),
            version: epoch.clone(),
            headers: HashMap::from([(epoch.clone(), channel.clone())]),
        };
        let Request::Connect(read) = Request::Connect(trine_proto::client::Connect {
            token: epoch.as_str().into(),
            data: &data,
            name: channel.as_str().into(),
            version: epoch.as_str().into(),
        }) else { unreachable!() };
        reads(&wire::Command { connect: Some(connect), ..command.clone() }, &Request::Connect(read));

        let [recover, positioned, recoverable, join_leave] = flags;
        let subscribe = wire::Subscribe {
            channel: channel.clone(),
            token: epoch.clone(),
            recover,
            epoch: epoch.clone(),
            offset,
            data: data.clone(),
            positioned,
            recoverable,
            join_leave,
            delta: epoch.clone(),
            // Any message will do for a filter.
            tf: recover.then(|| wire::Position { offset, epoch: epoch.clone() }),
            flag,
        };
        let read = Subscribe {
            channel: channel.as_str().into(),
            token: epoch.as_str().into(),
            recover,
            epoch: epoch.as_str().into(),
            offset,
            data: &data,
            positioned,
            recoverable,
            join_leave,
            delta: epoch.as_str().into(),
            filtered: recover,
            flag,
        };
        let sent = wire::Command { subscribe: Some(subscribe), ..command.clone() };
        reads(&sent, &Request::Subscribe(read));

        let publish = wire::Publish { channel: channel.clone(), data: data.clone() };
        let read = Request::Publish { channel: channel.as_str().into(), data: &data };
        reads(&wire::Command { publish: Some(publish), ..command.clone() }, &read);

        let since = recover.then(|| wire::Position { offset, epoch: epoch.clone() });
        let history =
            wire::History { channel: channel.clone(), limit, since, reverse: positioned };
        let read = Request::History(History {
            channel: channel.as_str().into(),
            limit,
            since: recover.then(|| (offset, epoch.as_str().into())),
            reverse: positioned,
        });
        reads(&wire::Command { history: Some(history), ..command.clone() }, &read);

        let rpc = wire::Rpc { method: channel.clone(), data: data.clone() };
        let read = Request::Rpc { method: channel.as_str().into(), data: &data };
        reads(&wire::Command { rpc: Some(rpc), ..command.clone() }, &read);

        let named = Some(wire::Channel { channel: channel.clone() });
        let read = Request::Unsubscribe { channel: channel.as_str().into() };
        reads(&wire::Command { unsubscribe: named.clone(), ..command.clone() }, &read);
        let read = Request::Presence { channel: channel.as_str().into() };
        reads(&wire::Command { presence: named.clone(), ..command.clone() }, &read);
        let read = Request::PresenceStats { channel: channel.as_str().into() };
        reads(&wire::Command { presence_stats: named, ..command }, &read);
    }

    #[test]
    fn replies_and_pushes_are_written(
        id in 1u32..,
        text in ".{0,200}",
        data in prop::collection::vec(any::<u8>(), 0..300),
        offset in any::<u64>(),
        numbers in any::<(u32, u32)>(),
        flags in prop::array::uniform4(any::<bool>()),
    ) {
        let reply = |reply: &Reply<'_>| decoded(|out| write_reply(Format::Protobuf, id, reply, out));
        let push = |push: &Push<'_>| decoded(|out| write_push(Format::Protobuf, push, out));
        let plain = wire::Reply { id, ..Default::default() };
        let [recoverable, recovered, positioned, was_recovering] = flags;

        let who = info(&text, "c1", &data);
        let mut tags = Vec::new();
        Tags::pack(&mut tags, &text, "1");
        Tags::pack(&mut tags, "other", &text);
        let tags = Tags::packed(&tags);
        let publication = Publication { data: &data, info: Some(who), offset, tags };
        let wired = wire::Publication {
            data: data.clone(),
            info: Some(wire_info(&text, "c1", &data)),
            offset,
            tags: [(text.clone(), "1".to_owned()), ("other".to_owned(), text.clone())].into(),
        };
        let got = push(&Push::Publication { channel: &text, publication: &publication });
        let expected = wire::Push {
            channel: text.clone(),
            publication: Some(wired.clone()),
            ..Default::default()
        };
        prop_assert_eq!(got, wire::Reply { push: Some(expected), ..Default::default() });

        let got = push(&Push::Join { channel: &text, info: &who }).push.unwrap();
        prop_assert_eq!(got.join.unwrap().info, Some(wire_info(&text, "c1", &data)));
        let got = push(&Push::Leave { channel: &text, info: &who }).push.unwrap();
        prop_assert_eq!(got.leave.unwrap().info, Some(wire_info(&text, "c1", &data)));
        let code = UnsubscribeCode::InsufficientState;
        let got = push(&Push::Unsubscribe { channel: &text, code }).push.unwrap();
        prop_assert_eq!((got.channel.as_str(), got.unsubscribe.unwrap().code), (&text[..], 2500));

        let result = SubscribeResult {
            recoverable,
            epoch: &text,
            publications: &[publication, publication],
            recovered,
            offset,
            positioned,
            data: &data,
            was_recovering,
        };
        let expected = wire::SubscribeResult {
            recoverable,
            epoch: text.clone(),
            publications: vec![wired.clone(), wired.clone()],
            recovered,
            offset,
            positioned,
            data: data.clone(),
            was_recovering,
        };
        let got = reply(&Reply::Subscribe(result));
        prop_assert_eq!(got, wire::Reply { subscribe: Some(expected), ..plain.clone() });

        let result =
            ConnectResult { client: "c1", version: &text, data: &data, ping: numbers.0, pong: recovered };
        let expected = wire::ConnectResult {
            client: "c1".into(),
            version: text.clone(),
            data: data.clone(),
            ping: numbers.0,
            pong: recovered,
        };
        let got = reply(&Reply::Connect(result));
        prop_assert_eq!(got, wire::Reply { connect: Some(expected), ..plain.clone() });

        let got = reply(&Reply::History { publications: &[publication], epoch: &text, offset });
        let expected =
            wire::HistoryResult { publications: vec![wired], epoch: text.clone(), offset };
        prop_assert_eq!(got, wire::Reply { history: Some(expected), ..plain.clone() });

        let got = reply(&Reply::Presence(&[who, info("bob", "c2", b"")]));
        let expected = HashMap::from([
            ("c1".to_owned(), wire_info(&text, "c1", &data)),
            ("c2".to_owned(), wire_info("bob", "c2", b"")),
        ]);
        prop_assert_eq!(got.presence.unwrap().presence, expected);

        let (num_clients, num_users) = numbers;
        let got = reply(&Reply::PresenceStats { num_clients, num_users });
        prop_assert_eq!(got.presence_stats, Some(wire::Stats { num_clients, num_users }));
        let got = reply(&Reply::Rpc { data: &data });
        prop_assert_eq!(got.rpc, Some(wire::RpcResult { data }));
        prop_assert!(reply(&Reply::Publish).publish.is_some());
        prop_assert!(reply(&Reply::Unsubscribe).unsubscribe.is_some());
    }

    #[test]
    fn a_length_that_lies_is_refused(declared in 1u64.., data in prop::collection::vec(any::<u8>(), 0..20)) {
        prop_assume!(declared > data.len() as u64);
        let mut bytes = Vec::new();
        prost::encoding::encode_varint(declared, &mut bytes);
        bytes.extend_from_slice(&data);
        let mut commands = Commands::new(Format::Protobuf, &bytes);
        prop_assert!(commands.next().unwrap().is_err());
        prop_assert!(commands.next().is_none());
    }
}

#[test]
fn every_error_is_written() {
    for &code in ErrorCode::ALL {
        let got = decoded(|out| write_error(Format::Protobuf, 5, code, out));
        let expected = wire::Error {
            code: code.code().into(),
            message: code.message().to_owned(),
            temporary: code.temporary(),
        };
        assert_eq!((got.id, got.error), (5, Some(expected)));
    }
}
