//! The engine: the runtime facade, shards and their mailboxes, buffers, timers, metric pages.
//!
//! **Runs on: any**; each module says where.

pub mod buf;
pub mod fd;
pub mod journal;
pub mod kafka;
pub mod limits;
pub mod metrics;
pub mod rt;
pub mod shard;
pub mod timer;
pub mod topology;
pub mod upstream;

// The fuzz target's properties name this package as others do.
#[cfg(test)]
extern crate self as trine_core;
