//! What a namespace lets a client do, and what a command must look like to be allowed at all.
//!
//! **Runs on: shard.** Pure functions. The order of checks, and so the error a client sees, is
//! that of client protocol §3.

use crate::broker::{HistoryFilter, Since};
use crate::config::{Access, Config, Namespace, Payload};
use crate::limits::{CHANNEL_NAME_BYTES, USER_NAME_BYTES};
use bytes::Bytes;
use trine_proto::client::{ErrorCode, Format, History, Subscribe, is_json};

/// Finds the namespace of a channel. Errors: 107 for a name that is too long or not ASCII, 102 for
/// an unknown namespace, 103 for a private or user-limited channel (tokens are not configured).
pub fn namespace_of(config: &Config, channel: &str) -> Result<usize, ErrorCode> {
    if channel.len() > CHANNEL_NAME_BYTES {
        return Err(ErrorCode::BadRequest);
    }
    let public = channel.strip_prefix('$').unwrap_or(channel);
    let name = public.split_once(':').map_or("", |(name, _)| name);
    let index = config.namespaces.iter().position(|namespace| namespace.name == name);
    let index = index.ok_or(ErrorCode::UnknownChannel)?;
    if !channel.is_ascii() {
        return Err(ErrorCode::BadRequest);
    }
    if channel.starts_with('$') || channel.contains('#') {
        return Err(ErrorCode::PermissionDenied);
    }
    Ok(index)
}

/// Whether a client may do what `access` guards.
pub fn permits(access: Access, subscribed: bool, has_user: bool) -> bool {
    match access {
        Access::Nobody => false,
        Access::Subscribers => subscribed,
        Access::Clients => has_user,
        Access::Anonymous => true,
    }
}

/// What a subscription gets of what it asked for or is forced to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    pub position: bool,
    pub recoverable: bool,
    pub join_leave: bool,
}

/// Wishes are honoured where the namespace allows them, else silently ignored.
pub fn subscription(
    namespace: &Namespace,
    subscribe: &Subscribe<'_>,
    may_read_history: bool,
) -> Granted {
    let history = namespace.has_history();
    let may_recover = history && (namespace.recovery || may_read_history);
    let may_position = history && (namespace.positioning || may_read_history);
    let wants_recovery = subscribe.recoverable || subscribe.recover;
    let recoverable = (history && namespace.force_recovery) || (may_recover && wants_recovery);
    let position = recoverable
        || (history && namespace.force_positioning)
        || (may_position && subscribe.positioned);
    let join_leave =
        namespace.join_leave && (namespace.force_push_join_leave || subscribe.join_leave);
    Granted { position, recoverable, join_leave }
}

/// Whether a payload may be published in a namespace by somebody whom `allowed` describes.
pub fn check_publish(
    namespace: &Namespace,
    data: &[u8],
    format: Format,
    allowed: impl Fn(Access) -> bool,
) -> Result<(), ErrorCode> {
    if data.is_empty() {
        return Err(ErrorCode::BadRequest);
    }
    if !allowed(namespace.publish) {
        return Err(ErrorCode::PermissionDenied);
    }
    if data.len() > namespace.message_limit_bytes {
        return Err(ErrorCode::LimitExceeded);
    }
    // A JSON client's payload is a JSON value already, or the command would not have been read.
    let must_look = namespace.payload == Payload::Json && format == Format::Protobuf;
    if must_look && !is_json(data) {
        return Err(ErrorCode::BadRequest);
    }
    Ok(())
}

pub fn check_history(
    namespace: &Namespace,
    history: &History<'_>,
    allowed: impl Fn(Access) -> bool,
) -> Result<HistoryFilter, ErrorCode> {
    if !namespace.has_history() {
        return Err(ErrorCode::NotAvailable);
    }
    if !allowed(namespace.history_access) {
        return Err(ErrorCode::PermissionDenied);
    }
    let since = history.since.as_ref().map(|(offset, epoch)| Since::new(epoch, *offset));
    if history.reverse && since.is_some_and(|since| since.offset == 0) {
        return Err(ErrorCode::BadRequest);
    }
    Ok(HistoryFilter { limit: history.limit, since, reverse: history.reverse })
}

pub fn check_presence(
    namespace: &Namespace,
    allowed: impl Fn(Access) -> bool,
) -> Result<(), ErrorCode> {
    if !namespace.presence {
        return Err(ErrorCode::NotAvailable);
    }
    if !allowed(namespace.presence_access) {
        return Err(ErrorCode::PermissionDenied);
    }
    Ok(())
}

/// The `name` in the data of a connect, where the embedded default makes it the user.
pub fn name_in(data: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Data {
        name: String,
    }
    let name = serde_json::from_slice::<Data>(data).ok()?.name;
    (!name.is_empty() && name.len() <= USER_NAME_BYTES).then_some(name)
}

/// What others see of a client that gave its name.
pub fn conn_info(name: &str) -> Bytes {
    serde_json::json!({ "name": name }).to_string().into()
}
