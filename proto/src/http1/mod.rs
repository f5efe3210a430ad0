//! HTTP/1.1 message framing (RFC 9112) as sans-IO machines.
//!
//! **Runs on: any.** [`HeadScanner`] finds the end of a head. Of a server: [`Request::parse`] reads it,
//! [`BodyDecoder`] takes its body apart, [`write_response_head`] and [`write_chunk`] answer, and
//! [`upgrade`] checks a WebSocket handshake. Of a client: [`write_request_head`] asks,
//! [`Response::parse`] and [`BodyDecoder`] read the answer. Deadlines belong to the caller.
//! Invariant: what two readers could frame differently is an error, never repaired.

mod body;
mod error;
mod field;
mod request;
mod response;
mod scanner;
mod upgrade;
mod upstream;

pub use body::{BodyDecoder, BodyEvent};
pub use error::Error;
pub use field::Header;
pub use request::{BodyLength, Request, Version};
pub use response::{LAST_CHUNK, ResponseBody, write_chunk, write_response_head};
pub use scanner::HeadScanner;
pub use upgrade::{Upgrade, upgrade};
pub use upstream::{Response, write_request_head};
