//! The client's side: writing requests to an upstream and reading the heads of its responses
//! (RFC 9112 §3, §4, §6.3).
//!
//! **Runs on: any.** Invariants: no part of a request can end its head or start a second request, and
//! what could is an error before a byte is written; a response that two readers could frame
//! differently is an error, so a connection is never reused out of step.

use super::field::{self, is_field, is_token};
use super::request::{is_authority, split_target};
use super::response::{write_field, write_number};
use super::{BodyLength, Error, Header, Version};
use crate::limits::HTTP1_HEADER_FIELDS;

/// Appends a request's head to `out`, its empty line included. Host, Content-Length and
/// Transfer-Encoding are written from `host` and `body`: they must not be among `headers`.
///
/// `target` is in a form of RFC 9112 §3.2 that fits `method`. A method that usually has a body says
/// `Length(0)` when it has none (RFC 9110 §8.6).
///
/// Errors, with `out` as it was: [`Error::RequestLine`] for a method that is no token,
/// [`Error::Target`], [`Error::Host`], [`Error::FieldLine`] for a name that is no token or a value
/// with a control character, [`Error::ContentLength`] and [`Error::TransferEncoding`] for a second
/// framing, or for [`BodyLength::UntilClose`], which no request has.
pub fn write_request_head(
    out: &mut Vec<u8>,
    method: &str,
    target: &str,
    host: &str,
    headers: &[Header<'_>],
    body: BodyLength,
) -> Result<(), Error> {
    if !is_token(method) {
        return Err(Error::RequestLine);
    }
    split_target(method, target)?;
    if host.is_empty() || !is_authority(host) {
        return Err(Error::Host);
    }
    if body == BodyLength::UntilClose {
        return Err(Error::TransferEncoding);
    }
    for &Header { name, value } in headers {
        if !is_field(name, value) {
            return Err(Error::FieldLine);
        }
        for (taken, error) in [
            ("host", Error::Host),
            ("content-length", Error::ContentLength),
            ("transfer-encoding", Error::TransferEncoding),
        ] {
            if name.eq_ignore_ascii_case(taken) {
                return Err(error);
            }
        }
    }
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_field(out, "Host", host.as_bytes());
    headers.iter().for_each(|header| write_field(out, header.name, header.value));
    match body {
        BodyLength::Length(len) => {
            out.extend_from_slice(b"Content-Length: ");
            write_number(out, len, 10);
            out.extend_from_slice(b"\r\n");
        }
        BodyLength::Chunked => write_field(out, "Transfer-Encoding", b"chunked"),
        BodyLength::None | BodyLength::UntilClose => {}
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// A response head.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    /// 100 to 599.
    pub status: u16,
    /// The version.
    pub version: Version,
    /// The fields in the order received; at most 100.
    pub headers: Vec<Header<'a>>,
    /// Where the body ends.
    pub body: BodyLength,
    /// Whether another request may be sent on this connection after the body (RFC 9112 §9.3).
    pub keep_alive: bool,
}

impl<'a> Response<'a> {
    /// Parses a head: exactly the bytes up to and with the empty line, as `HeadScanner` finds them,
    /// answering a request of this `method`. The reason phrase is thrown away.
    ///
    /// Errors: [`Error::StatusLine`], [`Error::Version`], and of the fields the same as a request's.
    /// The connection is of no more use then.
    pub fn parse(head: &'a [u8], method: &str) -> Result<Response<'a>, Error> {
        field::check_characters(head)?;
        if !head.starts_with(b"HTTP/") {
            return Err(Error::StatusLine);
        }
        let mut fields = [httparse::EMPTY_HEADER; HTTP1_HEADER_FIELDS];
        let mut parsed = httparse::Response::new(&mut fields);
        match parsed.parse(head) {
            Ok(httparse::Status::Complete(len)) if len == head.len() => {}
            Ok(_) => return Err(Error::FieldLine),
            Err(error) => return Err(parse_error(error)),
        }
        // RFC 9110 §15: other values are no status.
        let (Some(status @ 100..=599), Some(minor)) = (parsed.code, parsed.version) else {
            return Err(Error::StatusLine);
        };
        let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
        let headers = field::headers(parsed.headers);
        let body = body_length(status, method, &headers, version)?;
        let keep_alive =
            body != BodyLength::UntilClose && status != 101 && field::keep_alive(&headers, version);
        Ok(Response { status, version, headers, body, keep_alive })
    }

    /// Whether this only announces the response, which follows on the same connection
    /// (RFC 9110 §15.2). 101 is no such: the connection speaks another protocol after it.
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// The first value of a field; names are compared without case.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers_named(name).next()
    }

    /// All values of a field in the order received; names are compared without case.
    pub fn headers_named(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        field::named(&self.headers, name)
    }

    /// Whether a field that is a comma-separated list has this member; compared without case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        field::has_token(&self.headers, name, token)
    }
}

/// RFC 9112 §6.3 for responses. Fields that announce a body where there can be none are an error,
/// since who believes them waits for it.
fn body_length(
    status: u16,
    method: &str,
    headers: &[Header<'_>],
    version: Version,
) -> Result<BodyLength, Error> {
    let said = field::body_length(headers, version)?;
    match (status, method) {
        // There is no body, but the fields tell of the one that a GET would have had.
        (_, "HEAD") | (304, _) => Ok(BodyLength::None),
        // The connection is a tunnel from here on, and the fields are to be ignored.
        (200..=299, "CONNECT") => Ok(BodyLength::None),
        (100..=199 | 204, _) => match said {
            None | Some(BodyLength::Length(0)) => Ok(BodyLength::None),
            Some(BodyLength::Length(_)) => Err(Error::ContentLength),
            Some(_) => Err(Error::TransferEncoding),
        },
        _ => Ok(said.unwrap_or(BodyLength::UntilClose)),
    }
}

fn parse_error(error: httparse::Error) -> Error {
    match error {
        httparse::Error::HeaderName | httparse::Error::HeaderValue | httparse::Error::NewLine => {
            Error::FieldLine
        }
        httparse::Error::TooManyHeaders => Error::TooManyFields,
        httparse::Error::Version => Error::Version,
        _ => Error::StatusLine,
    }
}
