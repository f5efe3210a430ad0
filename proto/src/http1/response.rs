//! Writing responses (RFC 9112 §4, §7.1).
//!
//! **Runs on: any.** Invariant: no field can end the head or start a second response: one whose name
//! is no token, or whose value has a control character, is left out.

use super::field::is_field;

/// How the end of a response's body is found (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseBody {
    /// So many bytes follow; the answer to HEAD names them and sends none.
    Length(u64),
    /// Chunks follow, by [`write_chunk`] and then [`LAST_CHUNK`]. Not for HTTP/1.0 clients.
    Chunked,
    /// The status has no body: 1xx, 204, 304.
    None,
}

/// What ends a chunked body: the last chunk and an empty trailer section.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Appends a response's head to `out`, its empty line included. Content-Length, Transfer-Encoding
/// and, for a final status, Connection are written from `body` and `keep_alive`: they must not be
/// among `headers`.
///
/// `status` is three digits; its reason phrase comes from RFC 9110 §15, or is empty.
pub fn write_response_head(
    out: &mut Vec<u8>,
    status: u16,
    headers: &[(&str, &str)],
    body: ResponseBody,
    keep_alive: bool,
) {
    assert!((100..1000).contains(&status));
    out.extend_from_slice(b"HTTP/1.1 ");
    write_number(out, u64::from(status), 10);
    out.push(b' ');
    out.extend_from_slice(phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        if is_field(name, value.as_bytes()) {
            write_field(out, name, value.as_bytes());
        }
    }
    match body {
        ResponseBody::Length(len) => {
            out.extend_from_slice(b"Content-Length: ");
            write_number(out, len, 10);
            out.extend_from_slice(b"\r\n");
        }
        ResponseBody::Chunked => write_field(out, "Transfer-Encoding", b"chunked"),
        ResponseBody::None => {}
    }
    // HTTP/1.0 clients keep a connection only if told so (RFC 9112 §9.3). An interim response says
    // nothing of the connection, and 101 says Upgrade.
    if status >= 200 {
        write_field(out, "Connection", if keep_alive { b"keep-alive" } else { b"close" });
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends one chunk of a chunked body; an empty one is left out, since it would end the body.
pub fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        write_number(out, data.len() as u64, 16);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
}

pub(super) fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

pub(super) fn write_number(out: &mut Vec<u8>, mut number: u64, base: u64) {
    let start = out.len();
    loop {
        let digit = (number % base) as u8;
        out.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
        number /= base;
        if number == 0 {
            break;
        }
    }
    if let Some(digits) = out.get_mut(start..) {
        digits.reverse();
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
