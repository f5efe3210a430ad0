//! Where a consumer's records go: its part of the configuration, and the channel of each record.
//!
//! **Runs on: shard.** Invariant: a publication that leaves here is one its namespace takes.

use std::borrow::Cow;
use std::rc::Rc;

use bytes::Bytes;
use trine_proto::client::is_json;
use trine_proto::kafka::record::Body;

use super::{Outcome, Reason, RenderError};
use crate::config::{Config, Consumer, Payload, Retry};

/// A consumer's settings, shared by its lanes on this shard.
#[derive(Debug)]
pub struct Route {
    config: Rc<Config>,
    consumer: usize,
}

/// A record's publication.
pub(super) struct Publication {
    pub channel: String,
    pub namespace: usize,
    pub data: Bytes,
}

/// Why a record can't be delivered.
pub(super) type GiveUp = (Reason, Cow<'static, str>);

impl Route {
    /// The route of the consumer with this index in the configuration.
    pub fn new(config: Rc<Config>, consumer: usize) -> Self {
        assert!(consumer < config.consumers.len(), "the consumer is in the configuration");
        Self { config, consumer }
    }

    /// The consumer's settings.
    pub fn consumer(&self) -> &Consumer {
        &self.config.consumers[self.consumer]
    }

    /// Where its requests go: the upstream, by index in the configuration, and the path.
    pub fn upstream(&self) -> Option<(usize, &str)> {
        let to = &self.consumer().to;
        let name = to.upstream.as_deref()?;
        let index = self.config.upstreams.iter().position(|upstream| upstream.name == name)?;
        let path = if to.path.is_empty() { &self.config.upstreams[index].path } else { &to.path };
        Some((index, path))
    }

    /// The publication of a record. `bytes` holds what `body` points into.
    pub(super) fn publication(
        &self,
        topic: &str,
        bytes: &Bytes,
        body: &Body<'_>,
    ) -> Result<Publication, GiveUp> {
        let template = self.consumer().to.channel.as_ref();
        let template = template.expect("only a consumer with a channel publishes");
        let channel = template.render(topic, body).map_err(|error| match error {
            RenderError::MissingField(field) => (Reason::MissingField, field.into()),
            RenderError::Invalid(what) => (Reason::InvalidChannel, what.into()),
        })?;
        let namespace = self.namespace(&channel).ok_or((Reason::UnknownNamespace, "".into()))?;
        let settings = &self.config.namespaces[namespace];
        let data = match (body.value(), settings.payload) {
            (Some(value), Payload::Json) if !is_json(value) => {
                return Err((Reason::NotJson, channel.into()));
            }
            (Some(value), _) => bytes.slice_ref(value),
            (None, Payload::Json) => Bytes::from_static(b"null"),
            (None, Payload::Binary) => Bytes::new(),
        };
        if data.len() > settings.message_limit_bytes {
            let detail = format!("{} bytes for {channel}", data.len());
            return Err((Reason::TooLarge, detail.into()));
        }
        Ok(Publication { channel, namespace, data })
    }

    /// The namespace of a channel. Private and user-limited ones count too: what a client may not
    /// do, the operator's configuration may.
    fn namespace(&self, channel: &str) -> Option<usize> {
        let public = channel.strip_prefix('$').unwrap_or(channel);
        let name = public.split_once(':').map_or("", |(name, _)| name);
        self.config.namespaces.iter().position(|namespace| namespace.name == name)
    }
}

/// What an upstream's answer means. A status that judges the request itself refuses it for good;
/// any other but success may be different next time: a backend that is being deployed answers 404,
/// and one whose credentials ran out 401. `retry_after` is the header's value; only its form in
/// seconds is heard (RFC 9110 §10.2.3).
pub fn outcome_of(status: u16, retry_after: Option<&str>) -> Outcome {
    let detail = format!("HTTP {status}").into();
    match status {
        200..=299 => Outcome::Delivered,
        400 | 410 | 413 | 414 | 415 | 422 | 431 => {
            Outcome::Refused { reason: Reason::Refused, detail }
        }
        _ => {
            let seconds = retry_after.and_then(|text| text.trim().parse::<u64>().ok());
            let retry_after_ms = seconds.map(|seconds| seconds.saturating_mul(1000));
            Outcome::Failed { detail, retry_after_ms }
        }
    }
}

/// The pause after the given number of failed tries: it doubles, up to the longest, and lies at
/// random in its upper half, so that what failed together does not come back together.
pub(super) fn pause_ms(retry: &Retry, tries: u32, random: u64) -> u64 {
    let doubled = 1u64.checked_shl(tries.saturating_sub(1)).unwrap_or(u64::MAX);
    let longest = retry.min_ms.saturating_mul(doubled).min(retry.max_ms).max(1);
    longest - random % (longest / 2 + 1)
}
