//! The centrifuge client protocol, version 2, as a server sees it: commands in, replies and pushes
//! out, in JSON and in Protobuf.
//!
//! **Runs on: any.** Sans-IO. Commands borrow from the frame they came in, payloads are never
//! copied; what is written is appended to the caller's buffer, one message in its wire form at a
//! time. No input makes this panic.

mod codes;
mod json;
mod protobuf;
mod reply;
mod tags;

pub use codes::{Disconnect, ErrorCode, UnsubscribeCode};
pub use json::Object;
pub use reply::{
    ClientInfo, ConnectResult, Publication, Push, Reply, SubscribeResult, write_error,
    write_error_because, write_push, write_reply,
};
pub use tags::Tags;

use std::borrow::Cow;

/// The form of messages, fixed for the life of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON texts separated by newlines.
    Json,
    /// Protobuf messages, each preceded by its length as a varint.
    Protobuf,
}

impl Format {
    /// The empty reply that asks for a pong.
    pub fn ping(self) -> &'static [u8] {
        match self {
            Self::Json => b"{}",
            Self::Protobuf => &[0],
        }
    }
}

/// What is wrong with a frame; the connection ends with 3501.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The frame holds no message at all.
    Empty,
    /// A message is not of its format, or a field has the wrong type or range.
    Malformed,
}

/// A command of the client.
#[derive(Clone, Debug, PartialEq)]
pub struct Command<'a> {
    /// The client's number for it, 0 in `send` and pong.
    pub id: u32,
    /// What it asks.
    pub request: Request<'a>,
}

/// What a command asks. In JSON, `data` is the text of the value as sent, and empty if it is
/// absent or `null`.
#[derive(Clone, Debug, PartialEq)]
pub enum Request<'a> {
    /// Id 0 and no `send`, whatever else the message holds.
    Pong,
    /// `connect`.
    Connect(Connect<'a>),
    /// `subscribe`.
    Subscribe(Subscribe<'a>),
    /// `unsubscribe`.
    Unsubscribe {
        /// The channel.
        channel: Cow<'a, str>,
    },
    /// `publish`.
    Publish {
        /// The channel.
        channel: Cow<'a, str>,
        /// The payload.
        data: &'a [u8],
    },
    /// `presence`.
    Presence {
        /// The channel.
        channel: Cow<'a, str>,
    },
    /// `presence_stats`.
    PresenceStats {
        /// The channel.
        channel: Cow<'a, str>,
    },
    /// `history`.
    History(History<'a>),
    /// `rpc`.
    Rpc {
        /// The method.
        method: Cow<'a, str>,
        /// The payload.
        data: &'a [u8],
    },
    /// `send`.
    Send {
        /// The payload.
        data: &'a [u8],
    },
    /// `refresh`.
    Refresh {
        /// The new token.
        token: Cow<'a, str>,
    },
    /// `sub_refresh`.
    SubRefresh {
        /// The channel.
        channel: Cow<'a, str>,
        /// The new token.
        token: Cow<'a, str>,
    },
    /// An id and no request that is known, or only `ping`.
    Unknown,
}

/// The `connect` request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Connect<'a> {
    /// Connection token.
    pub token: Cow<'a, str>,
    /// For the application.
    pub data: &'a [u8],
    /// The client application's name.
    pub name: Cow<'a, str>,
    /// The client application's version.
    pub version: Cow<'a, str>,
}

/// The `subscribe` request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subscribe<'a> {
    /// The channel.
    pub channel: Cow<'a, str>,
    /// Subscription token.
    pub token: Cow<'a, str>,
    /// Return what was missed since `epoch` and `offset`.
    pub recover: bool,
    /// See `recover`.
    pub epoch: Cow<'a, str>,
    /// See `recover`.
    pub offset: u64,
    /// For the application.
    pub data: &'a [u8],
    /// Wish: a position with every publication.
    pub positioned: bool,
    /// Wish: recovery.
    pub recoverable: bool,
    /// Wish: joins and leaves.
    pub join_leave: bool,
    /// Delta compression by this name.
    pub delta: Cow<'a, str>,
    /// Wish: only publications whose tags pass a filter.
    pub filtered: bool,
    /// Bit 2: refuse with 112 when not recoverable.
    pub flag: i64,
}

/// The `history` request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History<'a> {
    /// The channel.
    pub channel: Cow<'a, str>,
    /// 0: position only; negative: all.
    pub limit: i32,
    /// Exclusive start: offset and epoch.
    pub since: Option<(u64, Cow<'a, str>)>,
    /// Newest first.
    pub reverse: bool,
}

/// The commands of one frame, in order.
#[derive(Clone, Debug)]
pub struct Commands<'a> {
    format: Format,
    rest: &'a [u8],
    /// A command was found, or the frame's emptiness was reported.
    begun: bool,
}

impl<'a> Commands<'a> {
    /// The commands in a frame's payload.
    pub fn new(format: Format, payload: &'a [u8]) -> Self {
        Self { format, rest: payload, begun: false }
    }

    /// What has not been read; a reader may stop and later go on with a copy of it.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn json(&mut self) -> Option<Result<Command<'a>, Error>> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            let (line, rest) = match self.rest.iter().position(|&byte| byte == b'\n') {
                Some(end) => (&self.rest[..end], &self.rest[end + 1..]),
                None => (self.rest, &self.rest[self.rest.len()..]),
            };
            // Nothing but space is no command that a reader could go on with.
            self.rest = rest.trim_ascii_start();
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Some(json::command(line));
            }
        }
    }

    fn protobuf(&mut self) -> Option<Result<Command<'a>, Error>> {
        if self.rest.is_empty() {
            return None;
        }
        let message = protobuf::delimited(&mut self.rest);
        if message.is_err() {
            self.rest = &[];
        }
        Some(message.and_then(protobuf::command))
    }
}

impl<'a> Iterator for Commands<'a> {
    type Item = Result<Command<'a>, Error>;

    /// The next command; a frame without any gives [`Error::Empty`] once.
    fn next(&mut self) -> Option<Self::Item> {
        let next = match self.format {
            Format::Json => self.json(),
            Format::Protobuf => self.protobuf(),
        };
        match next {
            None if !self.begun => {
                self.begun = true;
                Some(Err(Error::Empty))
            }
            next => {
                self.begun = true;
                next
            }
        }
    }
}

/// Removes raw newlines from a JSON text, where they are mere space (inside strings they are
/// escaped). `None`: there are none.
pub fn strip_newlines(json: &[u8]) -> Option<Vec<u8>> {
    let newline = |byte: &u8| matches!(byte, b'\n' | b'\r');
    if !json.iter().any(newline) {
        return None;
    }
    Some(json.iter().copied().filter(|byte| !newline(byte)).collect())
}

/// Whether `payload` is one JSON value, in UTF-8: it may go into a text frame as it is.
pub fn is_json(payload: &[u8]) -> bool {
    // The parser does not look into strings that it passes over.
    let text = simdutf8::basic::from_utf8(payload);
    text.is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
}

#[cfg(test)]
mod tests;
