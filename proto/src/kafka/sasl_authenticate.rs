//! SaslAuthenticate: one message of a SASL exchange each way (KIP-152), and the PLAIN message.
//!
//! **Runs on: any.** [`super::scram`] makes the messages of SCRAM.

use super::codec::{Error, Reader, Writer};
use super::error::ErrorCode;
use super::frame::{self, Api};

/// The versions that are known here.
pub const API: Api = Api { key: 36, name: "SaslAuthenticate", min: 0, max: 2, flexible: 2 };

/// Sends the client's message.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The message.
    pub message: &'a [u8],
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response<'r> {
    /// `SASL_AUTHENTICATION_FAILED` if the credentials are wrong; the broker closes after it.
    pub error: ErrorCode,
    /// What the broker says to the error.
    pub error_message: Option<&'r str>,
    /// The server's message.
    pub message: &'r [u8],
    /// After how long the broker wants it all again (KIP-368), 0 for never. From version 1.
    pub session_lifetime_ms: i64,
}

impl frame::Request for Request<'_> {
    const API: Api = API;
    type Response<'r> = Response<'r>;

    fn write(&self, to: &mut Writer<'_>) {
        to.bytes(self.message);
        to.tags();
    }

    fn read<'r>(from: &mut Reader<'r>) -> Result<Response<'r>, Error> {
        let response = Response {
            error: ErrorCode(from.i16()?),
            error_message: from.nullable_string()?,
            message: from.bytes()?,
            session_lifetime_ms: if from.since(1) { from.i64()? } else { 0 },
        };
        from.tags()?;
        Ok(response)
    }
}

/// The one message of PLAIN (RFC 4616): both words in the clear, so only where the connection is
/// trusted. Neither may have a NUL in it.
pub fn plain(user: &str, password: &str) -> Vec<u8> {
    [b"\0", user.as_bytes(), b"\0", password.as_bytes()].concat()
}
