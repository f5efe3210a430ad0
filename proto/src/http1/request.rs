//! A request's head (RFC 9112 §2-§6): parsed once, every ambiguity refused.
//!
//! **Runs on: any.** `httparse` splits the lines; the rules that decide where the request ends are
//! here. Invariant: a parsed request has exactly one body length, and in HTTP/1.1 exactly one host.

use super::{Error, Header, field};
use crate::limits::HTTP1_HEADER_FIELDS;

/// The versions spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// How the end of a body is found (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body.
    None,
    /// So many bytes, perhaps none.
    Length(u64),
    /// Chunks (RFC 9112 §7.1).
    Chunked,
    /// All bytes until the connection is closed: of responses only, and never of a request.
    UntilClose,
}

/// A request head.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The method, a token; methods are case-sensitive.
    pub method: &'a str,
    /// The request target as it was sent: visible ASCII.
    pub target: &'a str,
    /// The version.
    pub version: Version,
    /// The fields in the order received; at most 100.
    pub headers: Vec<Header<'a>>,
    /// Where the body ends.
    pub body: BodyLength,
    /// Whether the client wants to send more requests on this connection (RFC 9112 §9.3).
    pub keep_alive: bool,
    /// Whether the client waits for 100 (Continue) before the body (RFC 9110 §10.1.1).
    pub expect_continue: bool,
    host: Option<&'a str>,
    path_start: usize,
}

impl<'a> Request<'a> {
    /// Parses a head: exactly the bytes up to and with the empty line, as `HeadScanner` finds them.
    ///
    /// Errors: [`Error::TooManyFields`] is 431, [`Error::Version`] 505, every other one 400.
    pub fn parse(head: &'a [u8]) -> Result<Request<'a>, Error> {
        field::check_characters(head)?;
        // RFC 9112 §2.2 lets a server skip an empty line here; there is no need to.
        if !head.first().is_some_and(u8::is_ascii_graphic) {
            return Err(Error::RequestLine);
        }
        let mut fields = [httparse::EMPTY_HEADER; HTTP1_HEADER_FIELDS];
        let mut parsed = httparse::Request::new(&mut fields);
        match parsed.parse(head) {
            Ok(httparse::Status::Complete(len)) if len == head.len() => {}
            Ok(_) => return Err(Error::FieldLine),
            Err(error) => return Err(parse_error(error, head)),
        }
        let (Some(method), Some(target), Some(minor)) =
            (parsed.method, parsed.path, parsed.version)
        else {
            return Err(Error::RequestLine);
        };
        let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
        let headers = field::headers(parsed.headers);
        let (authority, path_start) = split_target(method, target)?;

        let mut request = Request {
            method,
            target,
            version,
            headers,
            body: BodyLength::None,
            keep_alive: false,
            expect_continue: false,
            host: None,
            path_start,
        };
        // The authority of the target goes before the field (RFC 9112 §3.2.2).
        let host = request.checked_host()?;
        request.host = authority.or(host);
        request.body = field::body_length(&request.headers, version)?.unwrap_or(BodyLength::None);
        request.keep_alive = field::keep_alive(&request.headers, version);
        request.expect_continue = version == Version::Http11
            && request.body != BodyLength::None
            && request.has_token("expect", "100-continue");
        Ok(request)
    }

    /// The first value of a field; names are compared without case.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers_named(name).next()
    }

    /// All values of a field in the order received; names are compared without case.
    pub fn headers_named(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        field::named(&self.headers, name)
    }

    /// The members of a field that is a comma-separated list, over all its lines (RFC 9110 §5.6.1).
    pub fn list(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        field::list(&self.headers, name)
    }

    /// Whether a field that is a comma-separated list has this member; compared without case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        field::has_token(&self.headers, name, token)
    }

    /// The host asked for, with its port if there is one: from the target if it has one, else from
    /// Host (RFC 9112 §3.3). `None` only in HTTP/1.0.
    pub fn host(&self) -> Option<&'a str> {
        self.host
    }

    /// The path of the target, not decoded; starts with `/`, except for `OPTIONS *` and CONNECT.
    pub fn path(&self) -> &'a str {
        let (path, _) = self.path_and_query();
        if path.is_empty() { "/" } else { path }
    }

    /// What follows the first `?` of the target, not decoded.
    pub fn query(&self) -> Option<&'a str> {
        self.path_and_query().1
    }

    fn path_and_query(&self) -> (&'a str, Option<&'a str>) {
        let target = self.target.get(self.path_start..).unwrap_or_default();
        match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        }
    }

    /// The Host field, checked (RFC 9112 §3.2).
    fn checked_host(&self) -> Result<Option<&'a str>, Error> {
        let mut hosts = self.headers_named("host");
        match (hosts.next(), hosts.next()) {
            (Some(host), None) => {
                let host = std::str::from_utf8(host).map_err(|_| Error::Host)?;
                if is_authority(host) { Ok(Some(host)) } else { Err(Error::Host) }
            }
            (None, _) if self.version == Version::Http10 => Ok(None),
            _ => Err(Error::Host),
        }
    }
}

fn parse_error(error: httparse::Error, head: &[u8]) -> Error {
    match error {
        httparse::Error::HeaderName | httparse::Error::HeaderValue | httparse::Error::NewLine => {
            Error::FieldLine
        }
        httparse::Error::TooManyHeaders => Error::TooManyFields,
        httparse::Error::Version if names_other_version(head) => Error::Version,
        _ => Error::RequestLine,
    }
}

/// Whether the request line is well-formed but for its version, which is another one than the two
/// spoken (RFC 9112 §2.3).
fn names_other_version(head: &[u8]) -> bool {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let (Some(_method), Some(_target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    matches!(version, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'])
        && !matches!(version, b"HTTP/1.0" | b"HTTP/1.1")
}

/// The authority in a target, if there is one, and where its path starts (RFC 9112 §3.2).
pub(super) fn split_target<'a>(
    method: &str,
    target: &'a str,
) -> Result<(Option<&'a str>, usize), Error> {
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(Error::Target);
    }
    let named = |authority: &&str| !authority.is_empty() && is_authority(authority);
    if method == "CONNECT" {
        let authority = Some(target).filter(named).ok_or(Error::Target)?;
        return Ok((Some(authority), 0));
    }
    if target.starts_with('/') || (method == "OPTIONS" && target == "*") {
        return Ok((None, 0));
    }
    let (scheme, rest) = target.split_once("://").ok_or(Error::Target)?;
    if !["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(Error::Target);
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let authority = rest.get(..end).filter(named).ok_or(Error::Target)?;
    Ok((Some(authority), target.len() - rest.len() + end))
}

/// Whether this is a host with an optional port, or empty (RFC 9110 §7.2): no user, no space, no
/// character that ends a host.
pub(super) fn is_authority(authority: &str) -> bool {
    let (host, port) = match authority.rsplit_once(':') {
        // The last colon of an address in brackets does not start a port.
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, ""),
    };
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host_is_valid = match literal {
        Some(address) => {
            !address.is_empty()
                && address.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b))
        }
        None => host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&b)),
    };
    host_is_valid
        && (port.is_empty() || !host.is_empty())
        && port.len() <= 5
        && port.bytes().all(|byte| byte.is_ascii_digit())
}
