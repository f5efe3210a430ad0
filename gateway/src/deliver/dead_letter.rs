//! What a dead letter looks like: the record as it was, and headers that say why it is here.
//!
//! **Runs on: shard.** Invariant: the original's key, value and headers are kept, in order; ours
//! come after them. A record that can't be read becomes the value, whole. Of one that is larger than
//! its log takes with these headers there is only where it is from.

use bytes::Bytes;
use trine_proto::kafka::record::{Body, write_body};

use super::route::GiveUp;
use crate::limits::DEAD_LETTER_KEY_BYTES;

/// Where a record comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: u64,
    pub time_ms: u64,
    /// The consumer that gave it up.
    pub consumer: &'a str,
    /// How often it was tried.
    pub tries: u32,
}

/// Key and body of the dead letter; `only_origin`: without the record's value and headers, and without
/// a key that is long.
pub(super) fn dead_letter(
    bytes: &Bytes,
    origin: &Origin<'_>,
    why: &GiveUp,
    only_origin: bool,
) -> (Option<Bytes>, Bytes) {
    let body = Body::parse(bytes).ok();
    let (reason, detail) = why;
    let ours = [
        ("trine-dlq-reason", reason.as_str().to_owned()),
        ("trine-dlq-detail", detail.to_string()),
        ("trine-dlq-consumer", origin.consumer.to_owned()),
        ("trine-dlq-topic", origin.topic.to_owned()),
        ("trine-dlq-partition", origin.partition.to_string()),
        ("trine-dlq-offset", origin.offset.to_string()),
        ("trine-dlq-time-ms", origin.time_ms.to_string()),
        ("trine-dlq-tries", origin.tries.to_string()),
    ];
    let ours = ours.iter().map(|(name, text)| (*name, Some(text.as_bytes())));
    if only_origin {
        let key = body.as_ref().and_then(Body::key);
        let key = key.filter(|key| key.len() <= DEAD_LETTER_KEY_BYTES);
        let mut letter = Vec::new();
        let cut = ("trine-dlq-only-origin", Some(&b"true"[..]));
        write_body(&mut letter, key, None, ours.chain([cut]));
        return (key.map(|key| bytes.slice_ref(key)), letter.into());
    }
    let (key, value) = match &body {
        Some(body) => (body.key(), body.value()),
        None => (None, Some(&bytes[..])),
    };
    let mut headers: Vec<_> = body.iter().flat_map(|body| body.headers()).collect();
    headers.extend(ours);
    let mut letter = Vec::with_capacity(bytes.len() + 256);
    write_body(&mut letter, key, value, headers.iter().copied());
    (key.map(|key| bytes.slice_ref(key)), letter.into())
}
