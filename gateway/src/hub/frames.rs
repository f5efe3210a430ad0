//! One push in every form that a subscriber may need, each encoded when the first one needs it.
//!
//! **Runs on: shard.** Encode once per format, WebSocket header included; every outbox gets a
//! handle to the same bytes.

use crate::broker::InfoRef;
use bytes::Bytes;
use trine_proto::client::{self, Format, Push};
use trine_proto::ws;

/// What is pushed to a channel's subscribers.
#[derive(Clone, Copy)]
pub enum Event<'a> {
    /// A publication; offset 0 without history.
    Publication {
        /// Its place in the stream.
        offset: u64,
        /// The payload.
        data: &'a [u8],
        /// The publisher.
        info: Option<InfoRef<'a>>,
        /// What the publisher added.
        tags: client::Tags<'a>,
    },
    /// A client joined.
    Join(InfoRef<'a>),
    /// A client left.
    Leave(InfoRef<'a>),
}

/// An event of a channel and the forms it has been encoded in.
pub struct Frames<'a> {
    channel: &'a str,
    event: Event<'a>,
    /// The payload may be something else than JSON, so that must be looked at first.
    binary: bool,
    json: Form,
    protobuf: Form,
    encodes: [u64; 2],
}

enum Form {
    Missing,
    Encoded(Bytes),
    Impossible,
}

impl<'a> Frames<'a> {
    /// Nothing is encoded yet. `binary`: the namespace takes any payload.
    pub fn new(channel: &'a str, event: Event<'a>, binary: bool) -> Self {
        let (json, protobuf) = (Form::Missing, Form::Missing);
        Self { channel, event, binary, json, protobuf, encodes: [0; 2] }
    }

    /// Whether this goes to those only who asked for join and leave.
    pub fn is_membership(&self) -> bool {
        !matches!(self.event, Event::Publication { .. })
    }

    /// The frame in `format`; `None` when JSON cannot carry the payload.
    #[inline]
    pub fn get(&mut self, format: Format) -> Option<&Bytes> {
        let form = match format {
            Format::Json => &self.json,
            Format::Protobuf => &self.protobuf,
        };
        if let Form::Missing = form {
            self.encode(format);
        }
        match (format, &self.json, &self.protobuf) {
            (Format::Json, Form::Encoded(frame), _)
            | (Format::Protobuf, _, Form::Encoded(frame)) => Some(frame),
            _ => None,
        }
    }

    /// How often a JSON and a Protobuf form was encoded: 0 or 1 each.
    pub fn encodes(&self) -> [u64; 2] {
        self.encodes
    }

    fn encode(&mut self, format: Format) {
        let stripped;
        let mut event = self.event;
        if let (true, Format::Json, Event::Publication { data, .. }) =
            (self.binary, format, &mut event)
        {
            if !client::is_json(data) {
                self.json = Form::Impossible;
                return;
            }
            if let Some(without) = client::strip_newlines(data) {
                stripped = without;
                *data = &stripped;
            }
        }
        let form = Form::Encoded(encode(format, self.channel, event));
        let (place, encodes) = match format {
            Format::Json => (&mut self.json, &mut self.encodes[0]),
            Format::Protobuf => (&mut self.protobuf, &mut self.encodes[1]),
        };
        *place = form;
        // Added up, so that a form that is encoded again is seen.
        *encodes += 1;
    }
}

/// Calls `with` with the wire form of `info`.
pub fn with_info<R>(info: InfoRef<'_>, with: impl FnOnce(client::ClientInfo<'_>) -> R) -> R {
    let mut text = uuid::Uuid::encode_buffer();
    with(client::ClientInfo {
        user: info.user,
        client: info.client.hyphenated().encode_lower(&mut text),
        conn_info: info.conn_info,
        chan_info: b"",
    })
}

fn encode(format: Format, channel: &str, event: Event<'_>) -> Bytes {
    crate::scratch::with(|message| {
        match event {
            Event::Publication { offset, data, info: None, tags } => {
                let publication = client::Publication { offset, data, info: None, tags };
                let push = Push::Publication { channel, publication: &publication };
                client::write_push(format, &push, message);
            }
            Event::Publication { offset, data, info: Some(info), tags } => {
                with_info(info, |info| {
                    let publication = client::Publication { offset, data, info: Some(info), tags };
                    let push = Push::Publication { channel, publication: &publication };
                    client::write_push(format, &push, message);
                });
            }
            Event::Join(info) => with_info(info, |info| {
                client::write_push(format, &Push::Join { channel, info: &info }, message);
            }),
            Event::Leave(info) => with_info(info, |info| {
                client::write_push(format, &Push::Leave { channel, info: &info }, message);
            }),
        }
        let kind = frame_kind(format);
        let header = ws::header(kind, message.len());
        let mut frame = Vec::with_capacity(header.len() + message.len());
        frame.extend_from_slice(header.as_slice());
        frame.extend_from_slice(message);
        Bytes::from(frame)
    })
}

/// The WebSocket frame that carries a format.
pub fn frame_kind(format: Format) -> ws::FrameKind {
    match format {
        Format::Json => ws::FrameKind::Text,
        Format::Protobuf => ws::FrameKind::Binary,
    }
}
