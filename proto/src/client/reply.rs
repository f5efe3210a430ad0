//! Writing replies and pushes in both formats.
//!
//! **Runs on: any.** Each `write_*` appends exactly one message: in Protobuf with its length
//! before it, in JSON without a newline after it. Nothing is allocated beyond the caller's buffer.
//! What goes into a JSON message as payload must be JSON without raw newlines; that is the
//! caller's duty.

use super::protobuf::{write_bytes, write_delimited, write_message, write_number};
use super::{ErrorCode, Format, Tags, UnsubscribeCode};

/// Who a client is, as others see it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientInfo<'a> {
    /// The user, empty if anonymous.
    pub user: &'a str,
    /// The client id.
    pub client: &'a str,
    /// From the connection.
    pub conn_info: &'a [u8],
    /// From the subscription.
    pub chan_info: &'a [u8],
}

/// A publication.
#[derive(Clone, Copy, Debug, Default)]
pub struct Publication<'a> {
    /// The payload.
    pub data: &'a [u8],
    /// The publisher, if it was a client.
    pub info: Option<ClientInfo<'a>>,
    /// Its place in the channel's stream, 0 without one.
    pub offset: u64,
    /// What its publisher adds.
    pub tags: Tags<'a>,
}

/// The result of `connect`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectResult<'a> {
    /// The client id.
    pub client: &'a str,
    /// The server's version.
    pub version: &'a str,
    /// From the application.
    pub data: &'a [u8],
    /// Seconds between pings; 0: none.
    pub ping: u32,
    /// The client must answer pings.
    pub pong: bool,
}

/// The result of `subscribe`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SubscribeResult<'a> {
    /// Recovery is possible.
    pub recoverable: bool,
    /// The stream's epoch.
    pub epoch: &'a str,
    /// What was missed, ascending.
    pub publications: &'a [Publication<'a>],
    /// Nothing was missed beyond `publications`.
    pub recovered: bool,
    /// The stream's position.
    pub offset: u64,
    /// Publications carry positions.
    pub positioned: bool,
    /// From the application.
    pub data: &'a [u8],
    /// Recovery was asked for.
    pub was_recovering: bool,
}

/// What answers a command.
#[derive(Clone, Copy, Debug)]
pub enum Reply<'a> {
    /// To `connect`.
    Connect(ConnectResult<'a>),
    /// To `subscribe`.
    Subscribe(SubscribeResult<'a>),
    /// To `unsubscribe`.
    Unsubscribe,
    /// To `publish`.
    Publish,
    /// To `presence`: who is present.
    Presence(&'a [ClientInfo<'a>]),
    /// To `presence_stats`.
    PresenceStats {
        /// Clients.
        num_clients: u32,
        /// Distinct users.
        num_users: u32,
    },
    /// To `history`.
    History {
        /// In the order asked for.
        publications: &'a [Publication<'a>],
        /// The stream's epoch.
        epoch: &'a str,
        /// The stream's top.
        offset: u64,
    },
    /// To `rpc`.
    Rpc {
        /// The backend's answer.
        data: &'a [u8],
    },
}

/// What the server says unasked.
#[derive(Clone, Copy, Debug)]
pub enum Push<'a> {
    /// A publication in a channel.
    Publication {
        /// The channel.
        channel: &'a str,
        /// The publication.
        publication: &'a Publication<'a>,
    },
    /// A client joined a channel.
    Join {
        /// The channel.
        channel: &'a str,
        /// Who.
        info: &'a ClientInfo<'a>,
    },
    /// A client left a channel.
    Leave {
        /// The channel.
        channel: &'a str,
        /// Who.
        info: &'a ClientInfo<'a>,
    },
    /// The server has ended a subscription.
    Unsubscribe {
        /// The channel.
        channel: &'a str,
        /// Why.
        code: UnsubscribeCode,
    },
}

/// Writes an error reply.
pub fn write_error(format: Format, id: u32, code: ErrorCode, out: &mut Vec<u8>) {
    write_error_because(format, id, code, code.message(), out);
}

/// Writes an error reply that says more than its code's own text.
pub fn write_error_because(
    format: Format,
    id: u32,
    code: ErrorCode,
    message: &str,
    out: &mut Vec<u8>,
) {
    match format {
        Format::Json => {
            let mut reply = Object::begin(out);
            reply.number("id", id.into());
            let mut error = Object::begin(reply.key("error"));
            error.number("code", code.code().into());
            error.text("message", message);
            error.flag_if("temporary", code.temporary());
            error.end();
            reply.end();
        }
        Format::Protobuf => write_delimited(out, |out| {
            write_number(out, 1, id.into());
            write_message(out, 2, |out| {
                write_number(out, 1, code.code().into());
                write_bytes(out, 2, message.as_bytes());
                write_number(out, 3, code.temporary().into());
            });
        }),
    }
}

/// Writes a reply.
pub fn write_reply(format: Format, id: u32, reply: &Reply<'_>, out: &mut Vec<u8>) {
    match format {
        Format::Json => json_reply(id, reply, out),
        Format::Protobuf => write_delimited(out, |out| {
            write_number(out, 1, id.into());
            write_message(out, reply_field(reply), |out| protobuf_reply(reply, out));
        }),
    }
}

/// Writes a push.
pub fn write_push(format: Format, push: &Push<'_>, out: &mut Vec<u8>) {
    match format {
        Format::Json => json_push(push, out),
        Format::Protobuf => write_delimited(out, |out| {
            write_message(out, 4, |out| protobuf_push(push, out));
        }),
    }
}

fn reply_field(reply: &Reply<'_>) -> u64 {
    match reply {
        Reply::Connect(_) => 5,
        Reply::Subscribe(_) => 6,
        Reply::Unsubscribe => 7,
        Reply::Publish => 8,
        Reply::Presence(_) => 9,
        Reply::PresenceStats { .. } => 10,
        Reply::History { .. } => 11,
        Reply::Rpc { .. } => 13,
    }
}

fn protobuf_reply(reply: &Reply<'_>, out: &mut Vec<u8>) {
    match reply {
        Reply::Connect(result) => {
            write_bytes(out, 1, result.client.as_bytes());
            write_bytes(out, 2, result.version.as_bytes());
            write_bytes(out, 5, result.data);
            write_number(out, 7, result.ping.into());
            write_number(out, 8, result.pong.into());
        }
        Reply::Subscribe(result) => {
            write_number(out, 3, result.recoverable.into());
            write_bytes(out, 6, result.epoch.as_bytes());
            for publication in result.publications {
                write_message(out, 7, |out| protobuf_publication(publication, out));
            }
            write_number(out, 8, result.recovered.into());
            write_number(out, 9, result.offset);
            write_number(out, 10, result.positioned.into());
            write_bytes(out, 11, result.data);
            write_number(out, 12, result.was_recovering.into());
        }
        Reply::Unsubscribe | Reply::Publish => {}
        Reply::Presence(clients) => {
            for info in *clients {
                write_message(out, 1, |out| {
                    write_bytes(out, 1, info.client.as_bytes());
                    write_message(out, 2, |out| protobuf_info(info, out));
                });
            }
        }
        Reply::PresenceStats { num_clients, num_users } => {
            write_number(out, 1, (*num_clients).into());
            write_number(out, 2, (*num_users).into());
        }
        Reply::History { publications, epoch, offset } => {
            for publication in *publications {
                write_message(out, 1, |out| protobuf_publication(publication, out));
            }
            write_bytes(out, 2, epoch.as_bytes());
            write_number(out, 3, *offset);
        }
        Reply::Rpc { data } => write_bytes(out, 1, data),
    }
}

fn protobuf_push(push: &Push<'_>, out: &mut Vec<u8>) {
    match push {
        Push::Publication { channel, publication } => {
            write_bytes(out, 2, channel.as_bytes());
            write_message(out, 4, |out| protobuf_publication(publication, out));
        }
        Push::Join { channel, info } | Push::Leave { channel, info } => {
            write_bytes(out, 2, channel.as_bytes());
            let field = if matches!(push, Push::Join { .. }) { 5 } else { 6 };
            write_message(out, field, |out| {
                write_message(out, 1, |out| protobuf_info(info, out));
            });
        }
        Push::Unsubscribe { channel, code } => {
            write_bytes(out, 2, channel.as_bytes());
            write_message(out, 7, |out| {
                write_number(out, 2, code.code().into());
                write_bytes(out, 3, code.reason().as_bytes());
            });
        }
    }
}

fn protobuf_publication(publication: &Publication<'_>, out: &mut Vec<u8>) {
    write_bytes(out, 4, publication.data);
    if let Some(info) = &publication.info {
        write_message(out, 5, |out| protobuf_info(info, out));
    }
    write_number(out, 6, publication.offset);
    for (name, text) in publication.tags.iter() {
        write_message(out, 7, |out| {
            write_bytes(out, 1, name.as_bytes());
            write_bytes(out, 2, text.as_bytes());
        });
    }
}

fn protobuf_info(info: &ClientInfo<'_>, out: &mut Vec<u8>) {
    write_bytes(out, 1, info.user.as_bytes());
    write_bytes(out, 2, info.client.as_bytes());
    write_bytes(out, 3, info.conn_info);
    write_bytes(out, 4, info.chan_info);
}

fn json_number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

fn json_text(out: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(&mut *out, text);
}

/// A JSON object's members: a comma before each but the first.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    fn number(&mut self, key: &str, value: u64) {
        json_number(self.key(key), value);
    }

    fn number_if(&mut self, key: &str, value: u64) {
        if value != 0 {
            self.number(key, value);
        }
    }

    fn flag_if(&mut self, key: &str, value: bool) {
        if value {
            self.key(key).extend_from_slice(b"true");
        }
    }

    fn text(&mut self, key: &str, value: &str) {
        json_text(self.key(key), value);
    }

    fn text_if(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.text(key, value);
        }
    }

    fn raw_if(&mut self, key: &str, value: &[u8]) {
        if !value.is_empty() {
            self.key(key).extend_from_slice(value);
        }
    }

    fn publications(&mut self, publications: &[Publication<'_>]) {
        let out = self.key("publications");
        out.push(b'[');
        for (index, publication) in publications.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            json_publication(publication, out);
        }
        out.push(b']');
    }

    fn end(self) {
        self.out.push(b'}');
    }
}

fn json_reply(id: u32, reply: &Reply<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.number("id", id.into());
    let key = match reply {
        Reply::Connect(_) => "connect",
        Reply::Subscribe(_) => "subscribe",
        Reply::Unsubscribe => "unsubscribe",
        Reply::Publish => "publish",
        Reply::Presence(_) => "presence",
        Reply::PresenceStats { .. } => "presence_stats",
        Reply::History { .. } => "history",
        Reply::Rpc { .. } => "rpc",
    };
    let mut result = Object::begin(object.key(key));
    match reply {
        Reply::Connect(connect) => {
            result.text_if("client", connect.client);
            result.text_if("version", connect.version);
            result.raw_if("data", connect.data);
            result.number_if("ping", connect.ping.into());
            result.flag_if("pong", connect.pong);
        }
        Reply::Subscribe(subscribe) => json_subscribe(subscribe, &mut result),
        Reply::Unsubscribe | Reply::Publish => {}
        Reply::Presence(clients) => {
            let mut presence = Object::begin(result.key("presence"));
            for info in *clients {
                json_info(info, presence.key(info.client));
            }
            presence.end();
        }
        Reply::PresenceStats { num_clients, num_users } => {
            result.number("num_clients", (*num_clients).into());
            result.number("num_users", (*num_users).into());
        }
        Reply::History { publications, epoch, offset } => {
            result.publications(publications);
            result.text("epoch", epoch);
            result.number("offset", *offset);
        }
        Reply::Rpc { data } => result.raw_if("data", data),
    }
    result.end();
    object.end();
}

fn json_subscribe(subscribe: &SubscribeResult<'_>, result: &mut Object<'_>) {
    result.flag_if("recoverable", subscribe.recoverable);
    result.text_if("epoch", subscribe.epoch);
    if !subscribe.publications.is_empty() {
        result.publications(subscribe.publications);
    }
    result.flag_if("recovered", subscribe.recovered);
    result.number_if("offset", subscribe.offset);
    result.flag_if("positioned", subscribe.positioned);
    result.raw_if("data", subscribe.data);
    result.flag_if("was_recovering", subscribe.was_recovering);
}

fn json_push(push: &Push<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    let mut body = Object::begin(object.key("push"));
    match push {
        Push::Publication { channel, publication } => {
            body.text("channel", channel);
            json_publication(publication, body.key("pub"));
        }
        Push::Join { channel, info } | Push::Leave { channel, info } => {
            body.text("channel", channel);
            let key = if matches!(push, Push::Join { .. }) { "join" } else { "leave" };
            let mut member = Object::begin(body.key(key));
            json_info(info, member.key("info"));
            member.end();
        }
        Push::Unsubscribe { channel, code } => {
            body.text("channel", channel);
            let mut member = Object::begin(body.key("unsubscribe"));
            member.number("code", code.code().into());
            member.text("reason", code.reason());
            member.end();
        }
    }
    body.end();
    object.end();
}

fn json_publication(publication: &Publication<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.raw_if("data", publication.data);
    if let Some(info) = &publication.info {
        json_info(info, object.key("info"));
    }
    object.number_if("offset", publication.offset);
    if !publication.tags.is_empty() {
        let out = object.key("tags");
        let mut before = b'{';
        for (name, text) in publication.tags.iter() {
            out.push(std::mem::replace(&mut before, b','));
            json_text(out, name);
            out.push(b':');
            json_text(out, text);
        }
        out.push(b'}');
    }
    object.end();
}

fn json_info(info: &ClientInfo<'_>, out: &mut Vec<u8>) {
    let mut object = Object::begin(out);
    object.text("user", info.user);
    object.text("client", info.client);
    object.raw_if("conn_info", info.conn_info);
    object.raw_if("chan_info", info.chan_info);
    object.end();
}
