//! The journal: crash-safe append-only files under the embedded log and the spool.
//!
//! **Runs on: storage.** A sans-IO machine: [`Journal`] takes records and answers of the disk, and
//! says what to do next ([`Operation`]) and what became of the records ([`Event`]); [`Disk`] is what
//! it needs of a filesystem. Invariants:
//!
//! - A record is reported durable only after a sync that began after it was written whole.
//! - A block that holds durable records is never written again, and after any start appending
//!   begins in a new segment.
//! - One commit is in flight at a time, so each says how far the ones before it were synced: after
//!   a crash damage below that is told from a tail that was never acknowledged.
//! - A segment with a failed write or sync is never written to again; what it held unacknowledged
//!   goes to a new one, or is refused.
//! - Nothing is dropped in silence: a full or failing journal refuses.

pub mod disk;
mod format;
mod machine;
mod open;
mod repair;
mod scan;
pub mod storage;
mod streams;
#[cfg(test)]
mod tests;

pub use disk::{Disk, Listed};
#[cfg(any(test, feature = "simulation"))]
pub use format::CommitWriter;
pub use format::{CommitHeader, Kind, Mark, Record, Records, commit_at};
pub use machine::{Event, Journal, Moment, Operation, Refused, Token};
pub use open::{Damage, Opened, mark_of, open, perform, read};
pub use repair::repaired;
pub use scan::{Scanned, scan};
pub use streams::{Place, StreamId};

use crate::limits::{BLOCK_BYTES, COMMIT_BYTES, SEGMENT_BYTES};

/// When a segment may be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// The oldest goes when the quota or the age is reached: a log.
    Oldest {
        /// Records older than this may go; 0: age means nothing.
        age_ms: u64,
    },
    /// A segment goes once everything in it was released; a full quota refuses: a spool.
    Released,
}

/// What a journal may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of all segments together. A twentieth is kept for cursors.
    pub quota_bytes: u64,
    /// When segments are removed.
    pub retention: Retention,
    /// Milliseconds that a record may wait for others, at most; 0: a commit starts as soon as the
    /// one before it is durable.
    pub gather_ms: u64,
}

impl Options {
    /// Bytes of one segment: large, so that few are made, and yet many fit the quota.
    pub fn segment_bytes(&self) -> u64 {
        let least = (COMMIT_BYTES + BLOCK_BYTES) as u64;
        let bytes = (self.quota_bytes / 8).clamp(least, SEGMENT_BYTES.max(least));
        bytes.next_multiple_of(BLOCK_BYTES as u64)
    }

    /// Bytes up to which records are taken.
    pub fn data_bytes(&self) -> u64 {
        self.quota_bytes - self.quota_bytes / 20
    }
}
