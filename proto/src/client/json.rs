//! Reading commands in JSON: borrowed where the text has no escapes, payloads raw.
//!
//! **Runs on: any.**

use super::{Command, Connect, Error, History, Request, Subscribe};
use serde::de::{IgnoredAny, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};
use serde_json::value::RawValue;
use std::borrow::Cow;

#[derive(Deserialize)]
struct CommandForm<'a> {
    #[serde(default)]
    id: u32,
    #[serde(borrow)]
    connect: Option<Object<ConnectForm<'a>>>,
    #[serde(borrow)]
    subscribe: Option<Object<SubscribeForm<'a>>>,
    #[serde(borrow)]
    unsubscribe: Option<Object<ChannelForm<'a>>>,
    #[serde(borrow)]
    publish: Option<Object<PublishForm<'a>>>,
    #[serde(borrow)]
    presence: Option<Object<ChannelForm<'a>>>,
    #[serde(borrow)]
    presence_stats: Option<Object<ChannelForm<'a>>>,
    #[serde(borrow)]
    history: Option<Object<HistoryForm<'a>>>,
    #[serde(borrow)]
    rpc: Option<Object<RpcForm<'a>>>,
    #[serde(borrow)]
    send: Option<Object<SendForm<'a>>>,
    #[serde(borrow)]
    refresh: Option<Object<RefreshForm<'a>>>,
    #[serde(borrow)]
    sub_refresh: Option<Object<RefreshForm<'a>>>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct ConnectForm<'a> {
    #[serde(borrow)]
    token: Text<'a>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    version: Text<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SubscribeForm<'a> {
    #[serde(borrow)]
    channel: Text<'a>,
    #[serde(borrow)]
    token: Text<'a>,
    recover: bool,
    #[serde(borrow)]
    epoch: Text<'a>,
    offset: u64,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    positioned: bool,
    recoverable: bool,
    join_leave: bool,
    #[serde(borrow)]
    delta: Text<'a>,
    tf: Option<IgnoredAny>,
    flag: i64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ChannelForm<'a> {
    #[serde(borrow)]
    channel: Text<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PublishForm<'a> {
    #[serde(borrow)]
    channel: Text<'a>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct HistoryForm<'a> {
    #[serde(borrow)]
    channel: Text<'a>,
    limit: i32,
    #[serde(borrow)]
    since: Option<Object<SinceForm<'a>>>,
    reverse: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SinceForm<'a> {
    offset: u64,
    #[serde(borrow)]
    epoch: Text<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RpcForm<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Text<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SendForm<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RefreshForm<'a> {
    #[serde(borrow)]
    channel: Text<'a>,
    #[serde(borrow)]
    token: Text<'a>,
}

/// Read from an object alone: serde would also take an array for a struct.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::deserialize(ObjectIn(from)).map(Object)
    }
}

struct ObjectIn<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for ObjectIn<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

/// A string, borrowed unless it has escapes (serde borrows a bare `Cow` never).
#[derive(Deserialize, Default)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads one command.
pub fn command(line: &[u8]) -> Result<Command<'_>, Error> {
    let text = simdutf8::basic::from_utf8(line).map_err(|_| Error::Malformed)?;
    let form = serde_json::from_str::<Object<CommandForm<'_>>>(text);
    let form = form.map_err(|_| Error::Malformed)?.0;
    let id = form.id;
    let is_send = form.send.is_some() && first_is_send(&form);
    let request = if id == 0 && !is_send { Request::Pong } else { request(form) };
    Ok(Command { id, request })
}

/// Whether no request that goes before `send` is set.
fn first_is_send(form: &CommandForm<'_>) -> bool {
    form.connect.is_none()
        && form.subscribe.is_none()
        && form.unsubscribe.is_none()
        && form.publish.is_none()
        && form.presence.is_none()
        && form.presence_stats.is_none()
        && form.history.is_none()
        && form.rpc.is_none()
}

fn request(form: CommandForm<'_>) -> Request<'_> {
    if let Some(Object(ConnectForm { token, data, name, version })) = form.connect {
        let (token, name, version) = (token.0, name.0, version.0);
        Request::Connect(Connect { token, data: raw(data), name, version })
    } else if let Some(Object(form)) = form.subscribe {
        Request::Subscribe(subscribe(form))
    } else if let Some(Object(form)) = form.unsubscribe {
        Request::Unsubscribe { channel: form.channel.0 }
    } else if let Some(Object(form)) = form.publish {
        Request::Publish { channel: form.channel.0, data: raw(form.data) }
    } else if let Some(Object(form)) = form.presence {
        Request::Presence { channel: form.channel.0 }
    } else if let Some(Object(form)) = form.presence_stats {
        Request::PresenceStats { channel: form.channel.0 }
    } else if let Some(Object(form)) = form.history {
        let since = form.since.map(|Object(since)| (since.offset, since.epoch.0));
        let (limit, reverse) = (form.limit, form.reverse);
        Request::History(History { channel: form.channel.0, limit, since, reverse })
    } else if let Some(Object(form)) = form.rpc {
        Request::Rpc { method: form.method.0, data: raw(form.data) }
    } else if let Some(Object(form)) = form.send {
        Request::Send { data: raw(form.data) }
    } else if let Some(Object(form)) = form.refresh {
        Request::Refresh { token: form.token.0 }
    } else if let Some(Object(form)) = form.sub_refresh {
        Request::SubRefresh { channel: form.channel.0, token: form.token.0 }
    } else {
        Request::Unknown
    }
}

fn subscribe(form: SubscribeForm<'_>) -> Subscribe<'_> {
    Subscribe {
        channel: form.channel.0,
        token: form.token.0,
        recover: form.recover,
        epoch: form.epoch.0,
        offset: form.offset,
        data: raw(form.data),
        positioned: form.positioned,
        recoverable: form.recoverable,
        join_leave: form.join_leave,
        delta: form.delta.0,
        filtered: form.tf.is_some(),
        flag: form.flag,
    }
}

fn raw(value: Option<&RawValue>) -> &[u8] {
    value.map_or(&[], |value| value.get().as_bytes())
}
