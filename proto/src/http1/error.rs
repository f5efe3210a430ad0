//! What a peer can do wrong in HTTP/1.1, and the status that tells of it.
//!
//! **Runs on: any.** Every one ends the connection, since the framing is lost: a client's after its
//! response.

use std::fmt;

/// A message that is refused. Answer a request with [`Error::status`], then close the connection;
/// of an upstream's response every one is a 502 (RFC 9110 §15.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The head is longer than 32 KiB.
    HeadTooLarge,
    /// The head has more than 100 fields.
    TooManyFields,
    /// LF without CR (RFC 9112 §2.2).
    BareLf,
    /// CR without LF (RFC 9112 §2.2).
    BareCr,
    /// NUL or another control character (RFC 9110 §5.5).
    ControlCharacter,
    /// The request line breaks RFC 9112 §3, or there is an empty line or whitespace before it.
    RequestLine,
    /// The request target is in none of the forms of RFC 9112 §3.2, or not for this method.
    Target,
    /// The status line breaks RFC 9112 §4, or its code is not in 100 to 599.
    StatusLine,
    /// A version other than HTTP/1.0 and HTTP/1.1.
    Version,
    /// A field line breaks RFC 9112 §5: its name, a space before the colon, a folded line.
    FieldLine,
    /// No Host in HTTP/1.1, two of them, or one that names no host (RFC 9112 §3.2).
    Host,
    /// Content-Length twice, or not one number of digits below 2^64 (RFC 9112 §6.3), or with a
    /// status that has no body.
    ContentLength,
    /// Transfer-Encoding other than one `chunked`, in HTTP/1.0, beside Content-Length, or with a
    /// status that has no body (RFC 9112 §6.1, §6.3).
    TransferEncoding,
    /// A chunk's size line or its end is malformed (RFC 9112 §7.1).
    Chunk,
    /// A chunk's size line, or all the extensions together, are too long.
    ChunkExtensionsTooLarge,
    /// A trailer field is malformed (RFC 9112 §7.1.2).
    Trailer,
    /// The trailer section is longer than 8 KiB.
    TrailersTooLarge,
    /// The connection ended before the body did (RFC 9112 §8).
    Incomplete,
    /// A WebSocket handshake that breaks RFC 6455 §4.2.1.
    Upgrade,
    /// A WebSocket version other than 13: answer with `Sec-WebSocket-Version: 13` (RFC 6455 §4.4).
    UpgradeVersion,
}

impl Error {
    /// The status of the response.
    pub fn status(&self) -> u16 {
        match self {
            Error::HeadTooLarge | Error::TooManyFields | Error::TrailersTooLarge => 431,
            Error::Version => 505,
            Error::StatusLine => 502,
            Error::UpgradeVersion => 426,
            _ => 400,
        }
    }

    /// A short explanation, without anything of the peer's.
    pub fn reason(&self) -> &'static str {
        match self {
            Error::HeadTooLarge => "message head too large",
            Error::TooManyFields => "too many header fields",
            Error::BareLf => "LF without CR",
            Error::BareCr => "CR without LF",
            Error::ControlCharacter => "control character in message head",
            Error::RequestLine => "malformed request line",
            Error::StatusLine => "malformed status line",
            Error::Target => "malformed request target",
            Error::Version => "unsupported HTTP version",
            Error::FieldLine => "malformed header field",
            Error::Host => "missing, repeated or malformed Host",
            Error::ContentLength => "repeated or malformed Content-Length",
            Error::TransferEncoding => "unsupported or ambiguous Transfer-Encoding",
            Error::Chunk => "malformed chunk",
            Error::ChunkExtensionsTooLarge => "chunk extensions too large",
            Error::Trailer => "malformed trailer field",
            Error::TrailersTooLarge => "trailers too large",
            Error::Incomplete => "connection closed within a body",
            Error::Upgrade => "malformed WebSocket handshake",
            Error::UpgradeVersion => "unsupported WebSocket version",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.reason())
    }
}

impl std::error::Error for Error {}
