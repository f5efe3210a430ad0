//! The engine: the runtime facade, shards and their mailboxes, buffers, timers, metric pages.
//!
//! **Runs on: any**; each module says where.
pub mod fd;
pub mod metrics;
pub mod topology;
