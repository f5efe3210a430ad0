//! The opening handshake of a WebSocket (RFC 6455 §4.2.1), on a parsed request.
//!
//! **Runs on: any.** Whether the origin may connect and which subprotocol is chosen is the caller's
//! to decide; the answer's key is `ws::accept_key`.

use super::field::is_token_character;
use super::{BodyLength, Error, Request, Version};
use crate::ws;

/// A valid request to become a WebSocket.
#[derive(Clone, Debug)]
pub struct Upgrade<'a> {
    /// Sec-WebSocket-Key, for `ws::accept_key`, which takes it.
    pub key: &'a [u8],
    /// Origin, which browsers always send (RFC 6455 §10.2).
    pub origin: Option<&'a str>,
    /// The host asked for, with its port if there is one; not empty.
    pub host: &'a str,
    protocols: Vec<&'a str>,
}

impl<'a> Upgrade<'a> {
    /// The subprotocols offered, in the client's order of preference.
    pub fn protocols(&self) -> impl Iterator<Item = &'a str> {
        self.protocols.iter().copied()
    }
}

/// Checks a request for a WebSocket handshake. `Ok(None)`: it does not ask for one.
///
/// Errors: [`Error::UpgradeVersion`] (426, to be sent with `Sec-WebSocket-Version: 13`);
/// [`Error::Upgrade`] (400) for any other break of RFC 6455 §4.2.1.
pub fn upgrade<'a>(request: &Request<'a>) -> Result<Option<Upgrade<'a>>, Error> {
    // RFC 9110 §7.8: an Upgrade in HTTP/1.0 is to be ignored.
    if request.version < Version::Http11 || !request.has_token("upgrade", "websocket") {
        return Ok(None);
    }
    // Bytes after the head must be frames, so there can be no body.
    let bodiless = matches!(request.body, BodyLength::None | BodyLength::Length(0));
    if request.method != "GET" || !bodiless || !request.has_token("connection", "upgrade") {
        return Err(Error::Upgrade);
    }
    match only(request, "sec-websocket-version")? {
        Some(b"13") => {}
        Some(_) => return Err(Error::UpgradeVersion),
        None => return Err(Error::Upgrade),
    }
    let key = only(request, "sec-websocket-key")?.ok_or(Error::Upgrade)?;
    if ws::accept_key(key).is_none() {
        return Err(Error::Upgrade);
    }
    let origin = only(request, "origin")?.map(text).transpose()?;
    let host = request.host().filter(|host| !host.is_empty()).ok_or(Error::Upgrade)?;
    let protocols =
        request.list("sec-websocket-protocol").map(token).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(Upgrade { key, origin, host, protocols }))
}

/// The value of a field that must not be repeated.
fn only<'a>(request: &Request<'a>, name: &str) -> Result<Option<&'a [u8]>, Error> {
    let mut values = request.headers_named(name);
    let value = values.next();
    if values.next().is_some() { Err(Error::Upgrade) } else { Ok(value) }
}

fn text(value: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(value).map_err(|_| Error::Upgrade)
}

fn token(value: &[u8]) -> Result<&str, Error> {
    if value.iter().copied().all(is_token_character) { text(value) } else { Err(Error::Upgrade) }
}
