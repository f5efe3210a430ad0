//! HTTP/1.1 message framing, the server's side of it (RFC 9112), as sans-IO machines.
//!
//! **Runs on: any.** [`HeadScanner`] finds the end of a request's head, [`Request::parse`] reads it,
//! [`BodyDecoder`] takes its body apart, [`write_response_head`] and [`write_chunk`] answer, and
//! [`upgrade`] checks a WebSocket handshake. The deadline of a head belongs to the caller.
//! Invariant: what two readers could frame differently is refused with 400, never repaired.

mod body;
mod error;
mod request;
mod response;
mod scanner;
mod upgrade;

pub use body::{BodyDecoder, BodyEvent};
pub use error::Error;
pub use request::{BodyLength, Header, Request, Version};
pub use response::{LAST_CHUNK, ResponseBody, write_chunk, write_response_head};
pub use scanner::HeadScanner;
pub use upgrade::{Upgrade, upgrade};
