//! The client's side of the centrifuge client protocol, version 2, by hand:
//! commands out, replies and publications in, in JSON and Protobuf.
//!
//! **Runs on: any.**

use std::str;

use crate::frame;

/// The form of the messages on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lines of JSON in text frames.
    Json,
    /// Length-prefixed Protobuf in binary frames.
    Protobuf,
}

impl Format {
    /// The WebSocket subprotocol that asks for it.
    pub fn subprotocol(self) -> &'static str {
        match self {
            Format::Json => "centrifuge-json",
            Format::Protobuf => "centrifuge-protobuf",
        }
    }
}

/// What a server said.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A ping, to be answered with [`Encoder::pong`].
    Ping,
    /// The reply to a command.
    Reply {
        /// The command's id.
        id: u64,
        /// What an rpc gave; else empty.
        data: &'a [u8],
    },
    /// An error reply.
    Error {
        /// The command's id.
        id: u64,
        /// The protocol's error code.
        code: u64,
    },
    /// A publication.
    Publication {
        /// The channel's name.
        channel: &'a [u8],
        /// The payload.
        data: &'a [u8],
    },
    /// A push of another kind.
    Other,
}

/// A message that is not of the protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct BadMessage;

/// Encodes commands, each as one masked frame.
pub struct Encoder {
    format: Format,
    body: Vec<u8>,
}

impl Encoder {
    /// An encoder for one format.
    pub fn new(format: Format) -> Encoder {
        Encoder { format, body: Vec::with_capacity(1024) }
    }

    /// `connect`, and `subscribe` in the same frame if there is a channel.
    /// The ids of the commands are `id` and `id + 1`.
    pub fn connect(&mut self, out: &mut Vec<u8>, id: u64, channel: Option<&[u8]>) {
        match self.format {
            Format::Json => {
                self.body.extend_from_slice(b"{\"id\":");
                put_number(&mut self.body, id);
                self.body.extend_from_slice(b",\"connect\":{}}");
                if let Some(channel) = channel {
                    self.body.extend_from_slice(b"\n{\"id\":");
                    put_number(&mut self.body, id + 1);
                    self.body.extend_from_slice(b",\"subscribe\":{\"channel\":\"");
                    self.body.extend_from_slice(channel);
                    self.body.extend_from_slice(b"\"}}");
                }
            }
            Format::Protobuf => {
                put_command(&mut self.body, id, 4, &[]);
                if let Some(channel) = channel {
                    put_command(&mut self.body, id + 1, 5, &[(1, channel)]);
                }
            }
        }
        self.finish(out);
    }

    /// `publish`.
    pub fn publish(&mut self, out: &mut Vec<u8>, id: u64, channel: &[u8], data: &[u8]) {
        match self.format {
            Format::Json => {
                self.body.extend_from_slice(b"{\"id\":");
                put_number(&mut self.body, id);
                self.body.extend_from_slice(b",\"publish\":{\"channel\":\"");
                self.body.extend_from_slice(channel);
                self.body.extend_from_slice(b"\",\"data\":");
                self.body.extend_from_slice(data);
                self.body.extend_from_slice(b"}}");
            }
            Format::Protobuf => {
                put_command(&mut self.body, id, 7, &[(1, channel), (2, data)]);
            }
        }
        self.finish(out);
    }

    /// `rpc`.
    pub fn rpc(&mut self, out: &mut Vec<u8>, id: u64, method: &str, data: &[u8]) {
        match self.format {
            Format::Json => {
                self.body.extend_from_slice(b"{\"id\":");
                put_number(&mut self.body, id);
                self.body.extend_from_slice(b",\"rpc\":{\"method\":\"");
                self.body.extend_from_slice(method.as_bytes());
                self.body.extend_from_slice(b"\",\"data\":");
                self.body.extend_from_slice(data);
                self.body.extend_from_slice(b"}}");
            }
            Format::Protobuf => {
                put_command(&mut self.body, id, 13, &[(1, data), (2, method.as_bytes())]);
            }
        }
        self.finish(out);
    }

    /// The answer to a ping.
    pub fn pong(&mut self, out: &mut Vec<u8>) {
        match self.format {
            Format::Json => self.body.extend_from_slice(b"{}"),
            Format::Protobuf => self.body.push(0),
        }
        self.finish(out);
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        let opcode = match self.format {
            Format::Json => frame::TEXT,
            Format::Protobuf => frame::BINARY,
        };
        frame::write_masked(out, opcode, &self.body);
        self.body.clear();
    }
}

/// Calls `visit` for every message of a frame's payload.
pub fn decode<'a>(
    format: Format,
    payload: &'a [u8],
    mut visit: impl FnMut(Message<'a>),
) -> Result<(), BadMessage> {
    match format {
        Format::Json => {
            for line in payload.split(|&byte| byte == b'\n') {
                if !line.is_empty() {
                    visit(json_message(line)?);
                }
            }
        }
        Format::Protobuf => {
            let mut rest = payload;
            while !rest.is_empty() {
                visit(protobuf_message(take_bytes(&mut rest)?)?);
            }
        }
    }
    Ok(())
}

fn put_number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// A length-prefixed `Command` with one request of bytes fields.
fn put_command(out: &mut Vec<u8>, id: u64, number: u64, fields: &[(u64, &[u8])]) {
    let request: usize = fields.iter().map(|(_, value)| field_length(value.len())).sum();
    put_varint(out, (1 + varint_length(id as usize) + field_length(request)) as u64);
    out.push(1 << 3);
    put_varint(out, id);
    put_varint(out, number << 3 | 2);
    put_varint(out, request as u64);
    for (number, value) in fields {
        put_varint(out, number << 3 | 2);
        put_varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }
}

/// Appends an unsigned varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The bytes that a varint takes.
pub fn varint_length(value: usize) -> usize {
    (usize::BITS as usize - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// The bytes that a length-delimited field takes, if its number is below 16.
pub fn field_length(value_bytes: usize) -> usize {
    1 + varint_length(value_bytes) + value_bytes
}

/// Takes an unsigned varint off the front.
pub fn take_varint(bytes: &mut &[u8]) -> Result<u64, BadMessage> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 127) << (7 * index);
        if byte < 128 {
            *bytes = &bytes[index + 1..];
            return Ok(value);
        }
    }
    Err(BadMessage)
}

/// Takes a length and that many bytes off the front.
pub fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], BadMessage> {
    let length = take_varint(bytes)?;
    let (value, rest) = bytes.split_at_checked(length as usize).ok_or(BadMessage)?;
    *bytes = rest;
    Ok(value)
}

/// Calls `visit(number, varint, bytes)` for every field of a message.
pub fn each_field<'a>(
    mut bytes: &'a [u8],
    mut visit: impl FnMut(u64, u64, &'a [u8]),
) -> Result<(), BadMessage> {
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes)?;
        match key & 7 {
            0 => visit(key >> 3, take_varint(&mut bytes)?, &[]),
            2 => visit(key >> 3, 0, take_bytes(&mut bytes)?),
            1 => bytes = bytes.get(8..).ok_or(BadMessage)?,
            5 => bytes = bytes.get(4..).ok_or(BadMessage)?,
            _ => return Err(BadMessage),
        }
    }
    Ok(())
}

fn protobuf_message(body: &[u8]) -> Result<Message<'_>, BadMessage> {
    if body.is_empty() {
        return Ok(Message::Ping);
    }
    let (mut id, mut kind, mut value) = (0, 0, &[][..]);
    each_field(body, |number, varint, bytes| match number {
        1 => id = varint,
        _ => (kind, value) = (number, bytes),
    })?;
    match kind {
        2 => {
            let mut code = 0;
            each_field(value, |number, varint, _| {
                if number == 1 {
                    code = varint;
                }
            })?;
            Ok(Message::Error { id, code })
        }
        4 => protobuf_push(value),
        13 => {
            let mut data = &[][..];
            each_field(value, |number, _, bytes| {
                if number == 1 {
                    data = bytes;
                }
            })?;
            Ok(Message::Reply { id, data })
        }
        _ => Ok(Message::Reply { id, data: &[] }),
    }
}

fn protobuf_push(body: &[u8]) -> Result<Message<'_>, BadMessage> {
    let (mut channel, mut publication) = (&[][..], None);
    each_field(body, |number, _, bytes| match number {
        2 => channel = bytes,
        4 => publication = Some(bytes),
        _ => {}
    })?;
    let Some(publication) = publication else { return Ok(Message::Other) };
    let mut data = &[][..];
    each_field(publication, |number, _, bytes| {
        if number == 4 {
            data = bytes;
        }
    })?;
    Ok(Message::Publication { channel, data })
}

fn json_message(line: &[u8]) -> Result<Message<'_>, BadMessage> {
    let mut id = 0;
    let mut data = &[][..];
    let mut code = None;
    let mut channel = &[][..];
    let mut push = false;
    let mut publication = false;
    let mut empty = true;
    let mut scanner = Scanner { rest: line };
    scanner.object(|key, scanner| {
        empty = false;
        match key {
            b"id" => scanner.number().map(|n| id = n),
            b"push" => {
                push = true;
                scanner.object(|key, scanner| match key {
                    b"channel" => scanner.string().map(|s| channel = s),
                    b"pub" => {
                        publication = true;
                        scanner.member(b"data", |value| data = value)
                    }
                    _ => scanner.skip(),
                })
            }
            b"rpc" => scanner.member(b"data", |value| data = value),
            b"error" => scanner.member(b"code", |value| {
                code = str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            }),
            _ => scanner.skip(),
        }
    })?;
    Ok(match (empty, publication, push, code) {
        (true, ..) => Message::Ping,
        (_, true, ..) => Message::Publication { channel, data },
        (_, _, true, _) => Message::Other,
        (.., Some(code)) => Message::Error { id, code },
        _ => Message::Reply { id, data },
    })
}

/// Walks JSON without building anything. It trusts the server to send JSON and
/// checks no more than it needs to find its way.
struct Scanner<'a> {
    rest: &'a [u8],
}

impl<'a> Scanner<'a> {
    fn take(&mut self, byte: u8) -> Result<(), BadMessage> {
        match self.rest {
            [first, rest @ ..] if *first == byte => {
                self.rest = rest;
                Ok(())
            }
            [b' ', rest @ ..] => {
                self.rest = rest;
                self.take(byte)
            }
            _ => Err(BadMessage),
        }
    }

    /// Calls `visit` for every member; it must consume the value.
    fn object(
        &mut self,
        mut visit: impl FnMut(&'a [u8], &mut Self) -> Result<(), BadMessage>,
    ) -> Result<(), BadMessage> {
        self.take(b'{')?;
        if self.take(b'}').is_ok() {
            return Ok(());
        }
        loop {
            let key = self.string()?;
            self.take(b':')?;
            visit(key, self)?;
            if self.take(b',').is_err() {
                return self.take(b'}');
            }
        }
    }

    /// Finds one member of an object and gives its raw value.
    fn member(&mut self, name: &[u8], mut found: impl FnMut(&'a [u8])) -> Result<(), BadMessage> {
        self.object(|key, scanner| {
            let start = scanner.rest;
            scanner.skip()?;
            if key == name {
                found(&start[..start.len() - scanner.rest.len()]);
            }
            Ok(())
        })
    }

    /// A string's raw inside, escapes kept.
    fn string(&mut self) -> Result<&'a [u8], BadMessage> {
        self.take(b'"')?;
        let inside = self.rest;
        let mut index = 0;
        while let Some(&byte) = inside.get(index) {
            match byte {
                b'"' => {
                    self.rest = &inside[index + 1..];
                    return Ok(&inside[..index]);
                }
                b'\\' => index += 2,
                _ => index += 1,
            }
        }
        Err(BadMessage)
    }

    fn number(&mut self) -> Result<u64, BadMessage> {
        let mut value = 0u64;
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        for &digit in &self.rest[..digits] {
            value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        }
        self.rest = &self.rest[digits..];
        if digits > 0 { Ok(value) } else { Err(BadMessage) }
    }

    fn skip(&mut self) -> Result<(), BadMessage> {
        match self.rest.first() {
            Some(b'{') => self.object(|_, scanner| scanner.skip()),
            Some(b'[') => {
                self.take(b'[')?;
                if self.take(b']').is_ok() {
                    return Ok(());
                }
                loop {
                    self.skip()?;
                    if self.take(b',').is_err() {
                        return self.take(b']');
                    }
                }
            }
            Some(b'"') => self.string().map(|_| ()),
            Some(b' ') => {
                self.rest = &self.rest[1..];
                self.skip()
            }
            Some(_) => {
                let end = |byte: &u8| matches!(byte, b',' | b'}' | b']');
                let length = self.rest.iter().position(end).ok_or(BadMessage)?;
                self.rest = &self.rest[length..];
                Ok(())
            }
            None => Err(BadMessage),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(format: Format, payload: &[u8]) -> Vec<Message<'_>> {
        let mut messages = Vec::new();
        decode(format, payload, |message| messages.push(message)).expect("good messages");
        messages
    }

    #[test]
    fn reads_json_in_any_order_of_members() {
        let payload = br#"{"id":7,"connect":{"client":"a\"}","ping":25,"pong":true}}
{"push":{"pub":{"info":{"user":"","client":"x"},"data":{"a":[1,"]"]},"offset":3},"channel":"c"}}
{}
{"id":9,"error":{"code":107,"message":"bad request"}}
{"rpc":{"data":[1, 2]},"id":10}
{"push":{"channel":"c","join":{"info":{}}}}"#;
        assert_eq!(
            all(Format::Json, payload),
            [
                Message::Reply { id: 7, data: b"" },
                Message::Publication { channel: b"c", data: br#"{"a":[1,"]"]}"# },
                Message::Ping,
                Message::Error { id: 9, code: 107 },
                Message::Reply { id: 10, data: b"[1, 2]" },
                Message::Other,
            ]
        );
        assert!(decode(Format::Json, b"{\"id\":", |_| ()).is_err());
    }

    #[test]
    fn reads_protobuf() {
        let mut payload = vec![0];
        // Reply { id: 5, push: Push { channel: "c", pub: Publication { data: "d" } } }
        payload.extend_from_slice(&[10, 0x22, 8, 0x12, 1, b'c', 0x22, 3, 0x22, 1, b'd']);
        // Reply { id: 5, publish: {} } and Reply { id: 6, error: { code: 105 } }
        payload.extend_from_slice(&[4, 8, 5, 0x42, 0, 6, 8, 6, 0x12, 2, 8, 105]);
        assert_eq!(
            all(Format::Protobuf, &payload),
            [
                Message::Ping,
                Message::Publication { channel: b"c", data: b"d" },
                Message::Reply { id: 5, data: b"" },
                Message::Error { id: 6, code: 105 },
            ]
        );
        assert!(decode(Format::Protobuf, &[9, 1], |_| ()).is_err());
    }

    #[test]
    fn lengths_of_varints() {
        for value in [0usize, 1, 127, 128, 16_383, 16_384, 1 << 40] {
            let mut out = Vec::new();
            put_varint(&mut out, value as u64);
            assert_eq!(out.len(), varint_length(value));
            assert_eq!(take_varint(&mut &out[..]), Ok(value as u64));
        }
    }
}
