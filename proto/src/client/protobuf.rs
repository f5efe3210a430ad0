//! Reading and writing Protobuf by hand: no copy, no allocation.
//!
//! **Runs on: any.** Every length is compared with what is there before it is used.

use super::{Command, Connect, Error, History, Request, Subscribe};
use std::borrow::Cow;

type Result<T> = std::result::Result<T, Error>;

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// 32 or 64 bits fixed, which no known field has.
    Fixed,
}

fn varint(input: &mut &[u8]) -> Result<u64> {
    let mut value = 0u64;
    for (index, &byte) in input.iter().enumerate().take(10) {
        if index == 9 && byte > 1 {
            return Err(Error::Malformed);
        }
        value |= u64::from(byte & 127) << (7 * index);
        if byte < 128 {
            *input = input.get(index + 1..).unwrap_or_default();
            return Ok(value);
        }
    }
    Err(Error::Malformed)
}

/// Takes a varint length and so many bytes.
pub fn delimited<'a>(input: &mut &'a [u8]) -> Result<&'a [u8]> {
    let length = usize::try_from(varint(input)?).map_err(|_| Error::Malformed)?;
    let (value, rest) = input.split_at_checked(length).ok_or(Error::Malformed)?;
    *input = rest;
    Ok(value)
}

/// Calls `field` with the number and value of each field.
fn each<'a>(
    mut message: &'a [u8],
    mut field: impl FnMut(u64, Value<'a>) -> Result<()>,
) -> Result<()> {
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let number = key >> 3;
        if number == 0 || number >= 1 << 29 {
            return Err(Error::Malformed);
        }
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut message)?),
            2 => Value::Bytes(delimited(&mut message)?),
            wire @ (1 | 5) => {
                let length = if wire == 1 { 8 } else { 4 };
                message = message.get(length..).ok_or(Error::Malformed)?;
                Value::Fixed
            }
            _ => return Err(Error::Malformed),
        };
        field(number, value)?;
    }
    Ok(())
}

impl<'a> Value<'a> {
    fn number(self) -> Result<u64> {
        match self {
            Value::Varint(value) => Ok(value),
            _ => Err(Error::Malformed),
        }
    }
    fn flag(self) -> Result<bool> {
        Ok(self.number()? != 0)
    }
    fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Value::Bytes(value) => Ok(value),
            _ => Err(Error::Malformed),
        }
    }
    fn text(self) -> Result<Cow<'a, str>> {
        let text = std::str::from_utf8(self.bytes()?).map_err(|_| Error::Malformed)?;
        Ok(Cow::Borrowed(text))
    }
}

/// Reads one command, without its length.
pub fn command(message: &[u8]) -> Result<Command<'_>> {
    let mut id = 0;
    // The request that comes first in the protocol's order wins; `ping` (11) is none.
    let mut found: Option<(usize, u64, &[u8])> = None;
    each(message, |number, value| {
        match number {
            1 => id = value.number()? as u32,
            4..=15 => {
                let body = value.bytes()?;
                let rank = [4, 5, 6, 7, 8, 9, 10, 13, 12, 14, 15].iter().position(|&n| n == number);
                if let Some(rank) = rank
                    && found.is_none_or(|(best, ..)| rank <= best)
                {
                    found = Some((rank, number, body));
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    let request = match found {
        Some((_, 12, body)) => Request::Send { data: two(body)?.0 },
        _ if id == 0 => Request::Pong,
        Some((_, number, body)) => request(number, body)?,
        None => Request::Unknown,
    };
    Ok(Command { id, request })
}

fn request(number: u64, body: &[u8]) -> Result<Request<'_>> {
    Ok(match number {
        4 => Request::Connect(connect(body)?),
        5 => Request::Subscribe(subscribe(body)?),
        6 => Request::Unsubscribe { channel: text(two(body)?.0)? },
        7 => {
            let (channel, data) = two(body)?;
            Request::Publish { channel: text(channel)?, data }
        }
        8 => Request::Presence { channel: text(two(body)?.0)? },
        9 => Request::PresenceStats { channel: text(two(body)?.0)? },
        10 => Request::History(history(body)?),
        13 => {
            let (data, method) = two(body)?;
            Request::Rpc { method: text(method)?, data }
        }
        14 => Request::Refresh { token: text(two(body)?.0)? },
        15 => {
            let (channel, token) = two(body)?;
            Request::SubRefresh { channel: text(channel)?, token: text(token)? }
        }
        _ => Request::Unknown,
    })
}

/// Fields 1 and 2, both strings or bytes: the whole of most requests.
fn two(body: &[u8]) -> Result<(&[u8], &[u8])> {
    let (mut first, mut second): (&[u8], &[u8]) = (&[], &[]);
    each(body, |number, value| {
        match number {
            1 => first = value.bytes()?,
            2 => second = value.bytes()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((first, second))
}

fn text(bytes: &[u8]) -> Result<Cow<'_, str>> {
    Value::Bytes(bytes).text()
}

fn connect(body: &[u8]) -> Result<Connect<'_>> {
    let mut connect = Connect::default();
    each(body, |number, value| {
        match number {
            1 => connect.token = value.text()?,
            2 => connect.data = value.bytes()?,
            4 => connect.name = value.text()?,
            5 => connect.version = value.text()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(connect)
}

fn subscribe(body: &[u8]) -> Result<Subscribe<'_>> {
    let mut subscribe = Subscribe::default();
    each(body, |number, value| {
        match number {
            1 => subscribe.channel = value.text()?,
            2 => subscribe.token = value.text()?,
            3 => subscribe.recover = value.flag()?,
            6 => subscribe.epoch = value.text()?,
            7 => subscribe.offset = value.number()?,
            8 => subscribe.data = value.bytes()?,
            9 => subscribe.positioned = value.flag()?,
            10 => subscribe.recoverable = value.flag()?,
            11 => subscribe.join_leave = value.flag()?,
            12 => subscribe.delta = value.text()?,
            13 => subscribe.filtered = value.bytes().map(|_| true)?,
            14 => subscribe.flag = value.number()? as i64,
            _ => {}
        }
        Ok(())
    })?;
    Ok(subscribe)
}

fn history(body: &[u8]) -> Result<History<'_>> {
    let mut history = History::default();
    each(body, |number, value| {
        match number {
            1 => history.channel = value.text()?,
            7 => history.limit = value.number()? as i32,
            8 => {
                let mut since = (0, Cow::Borrowed(""));
                each(value.bytes()?, |number, value| {
                    match number {
                        1 => since.0 = value.number()?,
                        2 => since.1 = value.text()?,
                        _ => {}
                    }
                    Ok(())
                })?;
                history.since = Some(since);
            }
            9 => history.reverse = value.flag()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(history)
}

/// Bytes of `value` as a varint.
pub fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends a varint.
pub fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a number unless it is 0.
pub fn write_number(out: &mut Vec<u8>, field: u64, value: u64) {
    if value != 0 {
        write_varint(out, field << 3);
        write_varint(out, value);
    }
}

/// Appends a string or bytes unless empty.
pub fn write_bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    if !value.is_empty() {
        write_varint(out, field << 3 | 2);
        write_varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }
}

/// Appends a message, also an empty one. Its body is written behind room for a length of one byte
/// and moved if the length needs more.
pub fn write_message(out: &mut Vec<u8>, field: u64, body: impl FnOnce(&mut Vec<u8>)) {
    write_varint(out, field << 3 | 2);
    write_delimited(out, body);
}

/// Appends what `body` writes, preceded by its length.
pub fn write_delimited(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(0);
    body(out);
    let length = out.len() - start - 1;
    let width = varint_len(length as u64);
    if width > 1 {
        out.resize(out.len() + width - 1, 0);
        out.copy_within(start + 1..start + 1 + length, start + width);
    }
    let mut value = length as u64;
    for index in 0..width {
        let more = if index + 1 < width { 128 } else { 0 };
        out[start + index] = (value as u8 & 127) | more;
        value >>= 7;
    }
}
