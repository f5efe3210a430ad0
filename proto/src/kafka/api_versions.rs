//! ApiVersions: which versions of each API a broker has (KIP-35, KIP-511).
//!
//! **Runs on: any.** The first request of a connection. A broker that does not know its version
//! answers in version 0 with `UNSUPPORTED_VERSION` and the versions that it has.

use super::codec::{Error, Reader, Writer};
use super::error::ErrorCode;
use super::frame::{self, Api};
use crate::limits::KAFKA_APIS;

/// The versions that are known here.
pub const API: Api = Api { key: 18, name: "ApiVersions", min: 0, max: 4, flexible: 3 };

/// Asks for the versions.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The client's name, for the broker's metrics: letters, digits, `-` and `.`.
    pub software_name: &'a str,
    /// The client's version, in the same characters.
    pub software_version: &'a str,
}

/// The versions of an API that a broker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// The API's key.
    pub key: i16,
    /// The lowest version.
    pub min: i16,
    /// The highest version.
    pub max: i16,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// `UNSUPPORTED_VERSION` if it has to be asked again in a version of `offered`.
    pub error: ErrorCode,
    /// What the broker has.
    pub offered: Vec<Offered>,
}

impl Response {
    /// The version to use an API in; `None` if the broker and we have none in common.
    pub fn version(&self, api: &Api) -> Option<i16> {
        let offered = self.offered.iter().find(|offered| offered.key == api.key)?;
        api.version(offered.min, offered.max)
    }
}

impl frame::Request for Request<'_> {
    const API: Api = API;
    type Response<'r> = Response;

    fn write(&self, to: &mut Writer<'_>) {
        if to.since(3) {
            to.string(self.software_name);
            to.string(self.software_version);
            to.tags();
        }
    }

    fn read<'r>(from: &mut Reader<'r>) -> Result<Response, Error> {
        let error = ErrorCode(from.i16()?);
        if error == ErrorCode::UNSUPPORTED_VERSION {
            *from = Reader::new(from.rest(), 0, false);
        }
        let offered = from.items(|from| {
            let offered = Offered { key: from.i16()?, min: from.i16()?, max: from.i16()? };
            from.tags()?;
            Ok(offered)
        })?;
        if offered.len() > KAFKA_APIS {
            return Err(Error::TooLarge("more than 1024 APIs of a broker"));
        }
        if from.since(1) {
            let _throttle_ms = from.i32()?;
        }
        from.tags()?;
        Ok(Response { error, offered })
    }
}
