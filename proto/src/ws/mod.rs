//! WebSocket, the server's side of it (RFC 6455), as a sans-IO machine.
//!
//! **Runs on: any.** [`Decoder`] turns received bytes into messages and control frames, unmasking
//! in place; [`header`] and [`close_payload`] build what a server sends; [`accept_key`] answers the
//! opening handshake, whose request `http1::upgrade` checks.
//! Invariants: a message that arrives whole is never copied; memory held is at most twice the bytes
//! received of the message under way plus a constant; a connection between messages holds none.

mod decoder;
mod error;
mod frame;
mod handshake;

pub use decoder::{Decoder, Event, Kind, Limits};
pub use error::Error;
pub use frame::{ClosePayload, FrameKind, Header, Inline, close_payload, header};
pub use handshake::accept_key;
