//! Wire formats as sans-IO machines: bytes in, events and bytes out.
//!
//! **Runs on: any.** Nothing here opens a socket, reads a clock or starts a thread, and no input
//! can make it panic.

pub mod client;
pub mod hash;
pub mod http1;
pub mod kafka;
pub mod limits;
pub mod simd;
pub mod ws;
