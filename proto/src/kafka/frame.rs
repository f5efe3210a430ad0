//! Requests and responses on the wire: length, header, correlation id, versions.
//!
//! **Runs on: any.** A broker answers the requests of a connection in their order; the correlation
//! id says which one it was. Source: Kafka protocol guide, "Protocol Primitive Types" and "The
//! Messages"; KIP-482 for the flexible headers.

use super::codec::{Error, Reader, Writer};
use crate::limits::KAFKA_RESPONSE_BYTES;

/// One API of the protocol and the versions of it that are written and read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    /// Its key in a request's header and in an ApiVersions response.
    pub key: i16,
    /// Its name in the protocol guide.
    pub name: &'static str,
    /// The lowest version.
    pub min: i16,
    /// The highest version.
    pub max: i16,
    /// The first version with compact types and tagged fields.
    pub flexible: i16,
}

impl Api {
    /// The highest version of both sides, given the lowest and highest of the broker; `None` if they
    /// have none in common.
    pub fn version(&self, min: i16, max: i16) -> Option<i16> {
        let best = self.max.min(max);
        (best >= self.min.max(min)).then_some(best)
    }

    /// Whether a message of `version` has compact types and tagged fields.
    pub fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible
    }
}

/// A request and how its response is read.
pub trait Request {
    /// The API that it belongs to.
    const API: Api;
    /// What the broker answers, borrowing from the received bytes.
    type Response<'r>;

    /// Appends the body in the writer's version, one of [`Request::API`].
    fn write(&self, to: &mut Writer<'_>);

    /// Reads the response's body in the reader's version.
    fn read<'r>(from: &mut Reader<'r>) -> Result<Self::Response<'r>, Error>;
}

/// Appends one whole request: its length, header and body.
pub fn write<R: Request>(
    out: &mut Vec<u8>,
    request: &R,
    version: i16,
    correlation_id: i32,
    client_id: &str,
) {
    let start = out.len();
    write_with(out, &R::API, version, correlation_id, client_id, |to| request.write(to));
    set_length(out, start, 0);
}

/// Appends a request with a length of 0, which [`set_length`] sets later.
pub(super) fn write_with(
    out: &mut Vec<u8>,
    api: &Api,
    version: i16,
    correlation_id: i32,
    client_id: &str,
    body: impl FnOnce(&mut Writer<'_>),
) {
    // The client id keeps the old form of a string also in a flexible header.
    let mut header = Writer::new(out, version, false);
    header.i32(0);
    header.i16(api.key);
    header.i16(version);
    header.i32(correlation_id);
    header.string(client_id);
    let mut to = Writer::new(out, version, api.is_flexible(version));
    to.tags();
    body(&mut to);
}

/// Sets the length of the request at `start`, of which `elsewhere` bytes are not in `out`.
pub(super) fn set_length(out: &mut [u8], start: usize, elsewhere: usize) {
    let length = (out.len() - start - LENGTH_END + elsewhere) as u32;
    if let Some(place) = out.get_mut(start..start + LENGTH_END) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// Where a message's length ends, which counts from there.
const LENGTH_END: usize = 4;

/// Where a response's body starts, after its length and correlation id.
pub const BODY_START: usize = 8;

/// What the received bytes begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed {
    /// No whole response yet: it needs this many bytes in all, as far as is known.
    Partial(usize),
    /// A response: its body is `received[BODY_START..end]`, the next response starts at `end`.
    Response {
        /// The correlation id of the request that it answers.
        correlation_id: i32,
        /// Where it ends.
        end: usize,
    },
}

/// Finds the response that `received` begins with.
///
/// # Errors
/// The connection is lost: [`Error::TooLarge`] over 64 MiB, [`Error::Malformed`] for a length
/// without room for a header, [`Error::Foreign`] for a TLS record or an HTTP answer in its place.
pub fn response(received: &[u8]) -> Result<Framed, Error> {
    let Some(&prefix) = received.first_chunk::<LENGTH_END>() else {
        return Ok(Framed::Partial(BODY_START));
    };
    let length = u32::from_be_bytes(prefix) as usize;
    if length > KAFKA_RESPONSE_BYTES {
        return Err(match prefix {
            // A TLS record of any type: alert 0x15, handshake 0x16, version 3.x.
            [0x14..=0x17, 3, ..] => Error::Foreign("it speaks TLS here"),
            [b'H', b'T', b'T', b'P'] => Error::Foreign("it speaks HTTP here"),
            _ => Error::TooLarge("response of more than 64 MiB"),
        });
    }
    if length < BODY_START - LENGTH_END {
        return Err(Error::Malformed("response shorter than its header"));
    }
    let end = LENGTH_END + length;
    match received.get(LENGTH_END..).and_then(<[u8]>::first_chunk) {
        Some(&id) if received.len() >= end => {
            Ok(Framed::Response { correlation_id: i32::from_be_bytes(id), end })
        }
        _ => Ok(Framed::Partial(end)),
    }
}

/// Reads the body of the response to a request `R` that was sent in `version`. Bytes after the last
/// known field are not looked at, as in other clients.
///
/// # Errors
/// The body is damaged; the connection can go on, since its framing is whole.
pub fn read<R: Request>(body: &[u8], version: i16) -> Result<R::Response<'_>, Error> {
    R::read(&mut body_reader(&R::API, body, version)?)
}

/// A reader behind the rest of a response's header.
pub fn body_reader<'r>(api: &Api, body: &'r [u8], version: i16) -> Result<Reader<'r>, Error> {
    let mut from = Reader::new(body, version, api.is_flexible(version));
    // A client asks for the versions before it knows them, so that this header never changed.
    if api.key != super::api_versions::API.key {
        from.tags()?;
    }
    Ok(from)
}
