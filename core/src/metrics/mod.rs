//! Counters, gauges and histograms of a shard, in a page that another process can read.
//!
//! **Runs on: shard** writes ([`Writer`]), **control** creates, presets and reads ([`Page`],
//! [`Snapshot`]).
//!
//! - One writer a page; every update is a relaxed load and a relaxed store, never a locked
//!   instruction, and no two shards share a cache line.
//! - `table` names every series once; [`LAYOUT`] is derived from it, so two builds whose pages
//!   differ can't mistake each other's.
//! - A page lives in a memfd sealed against resizing: a reader can't be hit by `SIGBUS`.

mod page;
mod snapshot;
mod table;

pub use page::{Page, PageError, Writer};
pub use snapshot::{HistogramSnapshot, Snapshot};
pub use table::{
    BUCKETS, CLOSE_CODES, Counter, Gauge, Histogram, LAYOUT, Series, bucket_bound_nanos,
};
