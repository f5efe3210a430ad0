//! What a client can do wrong on a WebSocket, and the close code that answers it.
//!
//! **Runs on: any.** Every one ends the connection: RFC 6455 knows no error of one message.

use std::fmt;

/// A violation of RFC 6455 or of a limit. Its scope is the connection: send a close frame with
/// [`Error::close_code`] and [`Error::reason`], then close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A reserved bit is set though no extension was negotiated (§5.2).
    ReservedBits,
    /// An opcode that RFC 6455 does not define (§5.2).
    UnknownOpcode,
    /// A control frame without FIN (§5.5).
    ControlFragmented,
    /// A control frame of more than 125 bytes (§5.5).
    ControlTooLong,
    /// A continuation frame with no message under way (§5.4).
    UnexpectedContinuation,
    /// A new message inside a fragmented one (§5.4).
    ExpectedContinuation,
    /// A client's frame without a mask (§5.1).
    Unmasked,
    /// A length written in more bytes than it needs (§5.2).
    LengthNotMinimal,
    /// A length with its most significant bit set (§5.2).
    LengthInvalid,
    /// The message would be longer than the limit.
    MessageTooLong,
    /// The message is cut into more frames than the limit.
    TooManyFragments,
    /// More control frames in a second than the limit.
    TooManyControlFrames,
    /// A text message is not UTF-8 (§8.1).
    InvalidUtf8,
    /// A close frame with a body of one byte (§5.5.1).
    CloseTooShort,
    /// A close code that must not be sent (§7.4).
    CloseCodeInvalid,
    /// A close reason is not UTF-8 (§5.5.1).
    CloseReasonInvalid,
}

impl Error {
    /// The status code of the close frame (§7.4.1).
    pub fn close_code(&self) -> u16 {
        match self {
            Error::MessageTooLong | Error::TooManyFragments => 1009,
            Error::InvalidUtf8 | Error::CloseReasonInvalid => 1007,
            // RFC 6455 allows any number of pings, so a flood breaks our policy, not the protocol.
            Error::TooManyControlFrames => 1008,
            _ => 1002,
        }
    }

    /// The reason of the close frame: short, and without anything of the peer's.
    pub fn reason(&self) -> &'static str {
        match self {
            Error::ReservedBits => "reserved bits set",
            Error::UnknownOpcode => "unknown opcode",
            Error::ControlFragmented => "fragmented control frame",
            Error::ControlTooLong => "control frame too long",
            Error::UnexpectedContinuation => "unexpected continuation",
            Error::ExpectedContinuation => "expected continuation",
            Error::Unmasked => "frame not masked",
            Error::LengthNotMinimal => "length not minimal",
            Error::LengthInvalid => "invalid length",
            Error::MessageTooLong => "message too long",
            Error::TooManyFragments => "too many fragments",
            Error::TooManyControlFrames => "too many control frames",
            Error::InvalidUtf8 => "invalid UTF-8",
            Error::CloseTooShort => "close frame too short",
            Error::CloseCodeInvalid => "invalid close code",
            Error::CloseReasonInvalid => "invalid UTF-8 in close reason",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.reason())
    }
}

impl std::error::Error for Error {}
