//! SaslHandshake: which SASL mechanism is to come (KIP-43).
//!
//! **Runs on: any.** After version 1 the exchange goes on in SaslAuthenticate requests.

use super::codec::{Error, Reader, Writer};
use super::error::ErrorCode;
use super::frame::{self, Api};

/// The versions that are known here.
pub const API: Api = Api { key: 17, name: "SaslHandshake", min: 1, max: 1, flexible: i16::MAX };

/// Chooses a mechanism.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its name, such as `PLAIN`.
    pub mechanism: &'a str,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'r> {
    /// `UNSUPPORTED_SASL_MECHANISM` if the broker has not got it switched on.
    pub error: ErrorCode,
    /// The mechanisms that the broker has switched on.
    pub mechanisms: Vec<&'r str>,
}

impl frame::Request for Request<'_> {
    const API: Api = API;
    type Response<'r> = Response<'r>;

    fn write(&self, to: &mut Writer<'_>) {
        to.string(self.mechanism);
    }

    fn read<'r>(from: &mut Reader<'r>) -> Result<Response<'r>, Error> {
        Ok(Response { error: ErrorCode(from.i16()?), mechanisms: from.items(Reader::string)? })
    }
}
