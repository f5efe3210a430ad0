//! An event on its way to the log: the record's bytes, and what its key's owner must know.
//!
//! **Runs on: shard.** Made on the client's shard, finished on the owner's. The payload is copied
//! once, into the record's body; what is fanned out later is a slice of that body.

use bytes::Bytes;
use std::borrow::Cow;
use std::ops::Range;
use trine_proto::client::is_json;
use trine_proto::hash;
use trine_proto::kafka::record;

use super::Refusal;
use super::routes::{Choose, Find, Route, Routes};
use crate::broker::{Info, InfoRef, PublishOptions, joined};
use crate::config::RecordHeader;
use crate::limits::{MESSAGE_ID_BYTES, RECORD_HEADERS_BYTES};
use crate::scratch;

/// What a client or a backend sent.
#[derive(Clone, Copy)]
pub struct Event<'a> {
    /// The channel; empty for an rpc.
    pub channel: &'a str,
    /// The channel's namespace, by its index.
    pub namespace: usize,
    /// Who sent it, if it was a client.
    pub info: Option<InfoRef<'a>>,
    /// The payload.
    pub data: &'a [u8],
    /// Headers of the request, names in lower case.
    pub headers: &'a [(Box<str>, Box<str>)],
    /// It came as JSON, and so did the payload; any other is looked at where that matters.
    pub json: bool,
    /// How it is published.
    pub options: &'a PublishOptions,
}

/// What becomes a publication once the log has it.
#[derive(Debug)]
pub struct Publication {
    /// The channel.
    pub channel: Box<str>,
    /// Its namespace, by its index.
    pub namespace: u16,
    /// The publisher, if it was a client.
    pub info: Option<Box<Info>>,
    /// How, but for its name.
    pub options: PublishOptions,
    /// Its name in its channel, if it was given one.
    pub name: Option<Box<str>>,
    /// It was published before, and only its place is asked for.
    pub is_repeat: bool,
}

/// A record that lacks what only its key's owner gives it.
#[derive(Debug)]
pub struct Draft {
    /// The route, by its number.
    pub route: u16,
    /// The message id that duplicates share.
    pub dedupe: Option<Box<[u8]>>,
    /// It is an idempotency key, and not of the payload.
    pub is_named: bool,
    /// What to publish.
    pub publication: Option<Publication>,
    /// The body without the gateway's headers.
    body: Vec<u8>,
    value: Range<usize>,
    wish: Wish,
}

/// Which partition it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The one of this hash.
    Hash(u32),
    /// This one, as far as the topic has it.
    Partition(u32),
    /// The next in turn.
    Next,
    /// The one that is filled now.
    Current,
}

impl Draft {
    /// The event as a record of `route`, and the hash that finds the owner of its key; `None`: any
    /// shard will do.
    ///
    /// # Errors
    /// When the payload or the request has nothing where the route looks for its key, its
    /// partition or its message id.
    pub fn new(
        number: u16,
        routes: &Routes,
        event: &Event<'_>,
    ) -> Result<(Self, Option<Owner>), Refusal> {
        let route = routes.get(number);
        let key = event.find(&route.key, "the record's key")?;
        let wish = event.wish(route, key.as_deref())?;
        let dedupe: Option<Box<[u8]>> = match (&event.options.idempotency_key, &route.dedupe) {
            (Some(key), _) => Some(joined(event.channel, key)),
            (None, None) => None,
            (None, Some(pointer)) => match pointer.find(event.data) {
                Some(id) if id.len() > MESSAGE_ID_BYTES => {
                    return Err(Refusal::bad_request("the message id is longer than 256 bytes"));
                }
                Some(_) if key.as_ref().is_some_and(|key| key.len() > MESSAGE_ID_BYTES) => {
                    return Err(Refusal::bad_request("the record's key is longer than 256 bytes"));
                }
                Some(id) => Some(scoped(event.channel, key.as_deref(), &id)),
                None => return Err(Refusal::bad_request("the payload has no message id")),
            },
        };
        let key = key.as_ref().map(|key| key.as_bytes());
        let owner = key
            .or(dedupe.as_deref())
            .map(|name| Owner::new(&routes.topics()[route.topic as usize], name));
        let key_bytes = key.map_or(0, <[u8]>::len);
        let mut body = scratch::body(key_bytes + event.data.len() + RECORD_HEADERS_BYTES);
        let own = super::OWN_HEADERS;
        let options = route.headers.iter().filter_map(|header| event.header(*header));
        let options: smallvec::SmallVec<[(&str, &str); 4]> = options.collect();
        let value = record::begin_body(&mut body, key, Some(event.data), options.len() + own);
        for (name, value) in options {
            record::write_header(&mut body, name, Some(value.as_bytes()));
        }
        let publication = (!event.channel.is_empty()).then(|| Publication {
            channel: event.channel.into(),
            namespace: event.namespace as u16,
            info: event.info.map(|info| Box::new(info.to_owned())),
            options: PublishOptions { idempotency_key: None, ..event.options.clone() },
            name: event.options.idempotency_key.clone(),
            is_repeat: false,
        });
        let is_named = event.options.idempotency_key.is_some();
        Ok((Self { route: number, dedupe, is_named, publication, body, value, wish }, owner))
    }

    /// Which partition it wants.
    pub fn wish(&self) -> Wish {
        self.wish
    }

    /// The payload.
    pub fn value(&self) -> Bytes {
        Bytes::copy_from_slice(&self.body[self.value.clone()])
    }

    /// The whole body with the gateway's headers, and where the payload is in it.
    pub fn finish(mut self, headers: [(&str, &str); super::OWN_HEADERS]) -> (Bytes, Range<usize>) {
        for (name, value) in headers {
            record::write_header(&mut self.body, name, Some(value.as_bytes()));
        }
        (Bytes::from(self.body), self.value)
    }
}

/// A message id within its channel and key: what a client names its own says nothing of others'.
fn scoped(channel: &str, key: Option<&str>, id: &str) -> Box<[u8]> {
    let key = key.unwrap_or_default();
    let lengths = [channel.len() as u32, key.len() as u32].map(u32::to_le_bytes);
    [lengths.as_flattened(), channel.as_bytes(), key.as_bytes(), id.as_bytes()].concat().into()
}

/// What decides who owns a key. It is the same after a restart, since what a shard has spooled of a
/// key must be forwarded before anything more of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(u64);

impl Owner {
    /// Of the records of a topic with this key.
    pub fn new(topic: &str, name: &[u8]) -> Self {
        // FNV-1a.
        let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        let bytes = topic.as_bytes().iter().chain(b"/").chain(name);
        Self(bytes.fold(0xcbf2_9ce4_8422_2325, mix))
    }

    /// Which of so many shards it is.
    pub fn shard(self, shards: usize) -> usize {
        ((self.0 ^ self.0 >> 32) % shards as u64) as usize
    }
}

impl<'a> Event<'a> {
    fn user(&self) -> &'a str {
        self.info.map_or("", |info| info.user)
    }

    fn find(&self, find: &Find, what: &'static str) -> Result<Option<Cow<'a, str>>, Refusal> {
        let found = match find {
            Find::None => return Ok(None),
            Find::Channel => Some(Cow::Borrowed(self.channel)),
            Find::User => Some(Cow::Borrowed(self.user())),
            Find::Header(name) => self.header_value(name).map(Cow::Borrowed),
            Find::Payload(pointer) => pointer.find(self.data),
        };
        found.map(Some).ok_or_else(|| Refusal::bad_request(what))
    }

    fn wish(&self, route: &Route, key: Option<&str>) -> Result<Wish, Refusal> {
        let hash = |value: &str| Wish::Hash(hash::murmur2(value.as_bytes()) as u32 & 0x7fff_ffff);
        Ok(match &route.partition {
            Choose::Key => key.map_or(Wish::Current, hash),
            Choose::RoundRobin => Wish::Next,
            Choose::Sticky => Wish::Current,
            Choose::Value(find) => {
                let value = self.find(find, "what its partition depends on")?;
                let value = value.as_deref().unwrap_or_default();
                route.table.get(value).map_or_else(|| hash(value), |&is| Wish::Partition(is))
            }
        })
    }

    fn header_value(&self, name: &str) -> Option<&'a str> {
        self.headers.iter().find(|(known, _)| **known == *name).map(|(_, value)| &**value)
    }

    fn header(&self, header: RecordHeader) -> Option<(&'static str, &'a str)> {
        match header {
            RecordHeader::Traceparent => Some(("traceparent", self.header_value("traceparent")?)),
            RecordHeader::User => Some(("trine-user", self.user())),
            RecordHeader::Channel if self.channel.is_empty() => None,
            RecordHeader::Channel => Some(("trine-channel", self.channel)),
            RecordHeader::ContentType if self.json || is_json(self.data) => {
                Some(("content-type", "application/json"))
            }
            RecordHeader::ContentType => Some(("content-type", "application/octet-stream")),
        }
    }
}
