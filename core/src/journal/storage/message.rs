//! What a shard asks of the storage thread and what it gets for it.
//!
//! **Runs on: shard** and **storage**. Each value crosses once, in a ring; its memory is its own.

use bytes::Bytes;

use super::super::machine::Refused;
use super::super::streams::StreamId;

/// What a shard asks for. A token is the shard's own name for a request and comes back with the
/// answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Finds a stream or cursor by its name, or makes it: [`Answer::Opened`] or
    /// [`Answer::Refused`].
    Open {
        /// Comes back.
        token: u64,
        /// Its name, at most [`crate::limits::STREAM_NAME_BYTES`].
        name: Box<str>,
        /// A cursor and not a stream: the two have names of their own.
        cursor: bool,
    },
    /// Asks for the names of the streams that begin so: [`Answer::Listed`] or [`Answer::Refused`].
    List {
        /// Comes back.
        token: u64,
        /// How the names begin.
        prefix: Box<str>,
    },
    /// Appends a record: [`Answer::Durable`] or [`Answer::Refused`]. A stream's records are in the
    /// order of one shard's appends, and so are their answers, refusals aside.
    Append {
        /// Comes back.
        token: u64,
        /// The stream.
        stream: StreamId,
        /// At most [`crate::limits::RECORD_BYTES`], in memory that no pool of a shard owns.
        payload: Bytes,
    },
    /// Reads durable records: [`Answer::Read`] or [`Answer::ReadFailed`].
    Read {
        /// Comes back; [`Request::CancelRead`] names it, so of those that wait each has its own.
        token: u64,
        /// The stream.
        stream: StreamId,
        /// The first that is wanted.
        offset: u64,
        /// Bytes of payloads, at most [`crate::limits::STORAGE_READ_BYTES`]; one record comes
        /// whatever its size.
        limit_bytes: usize,
        /// Records, at least one.
        limit_records: usize,
        /// Answered only when there is a record.
        wait: bool,
    },
    /// Forgets a read that waits; it may have been answered meanwhile.
    CancelRead {
        /// The read's token.
        token: u64,
    },
    /// Moves a cursor; durable within [`crate::limits::CURSOR_DELAY_MS`] and a commit. No answer.
    MoveCursor {
        /// The cursor.
        cursor: StreamId,
        /// Its new value.
        value: u64,
    },
    /// Says that no record below `offset` is wanted any more. No answer.
    Release {
        /// The stream.
        stream: StreamId,
        /// The first that is still wanted.
        offset: u64,
    },
    /// Asks for [`Answer::Flushed`] once everything that this shard sent before is durable, moved
    /// cursors too, and does not let it wait for more.
    Flush {
        /// Comes back.
        token: u64,
    },
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The stream or cursor.
    Opened {
        /// The request's.
        token: u64,
        /// Its number, the same for all shards until the process ends.
        stream: StreamId,
        /// A stream's first offset that is kept.
        first: u64,
        /// The offset after a stream's last durable record.
        next: u64,
        /// A cursor's newest value.
        value: u64,
    },
    /// Names of streams.
    Listed {
        /// The request's.
        token: u64,
        /// The whole names.
        names: Vec<Box<str>>,
    },
    /// The record is durable.
    Durable {
        /// The request's.
        token: u64,
        /// Its offset in the stream.
        offset: u64,
    },
    /// The request was not carried out.
    Refused {
        /// The request's.
        token: u64,
        /// Why.
        why: Refused,
    },
    /// Records.
    Read {
        /// The request's.
        token: u64,
        /// In order of offsets, which have gaps where something was damaged or not kept. The
        /// payloads share the memory of a commit: copy what is kept for long.
        records: Vec<StoredRecord>,
        /// The stream's first offset that is kept; above the one asked for, records are gone.
        first: u64,
        /// Where to go on.
        next_offset: u64,
        /// The offset after the last durable record.
        end_offset: u64,
    },
    /// Nothing could be read.
    ReadFailed {
        /// The request's.
        token: u64,
        /// Why.
        why: ReadFailure,
        /// Behind the commit that can't be read: to go on without it.
        next_offset: u64,
    },
    /// Everything before the request is durable, or was refused.
    Flushed {
        /// The request's.
        token: u64,
    },
}

/// A record as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its place in the stream.
    pub offset: u64,
    /// When it was appended, Unix milliseconds.
    pub time_ms: u64,
    /// Its bytes.
    pub payload: Bytes,
}

/// Why nothing could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFailure {
    /// The disk can't read it.
    Unreadable,
    /// What the disk has is damaged.
    Damaged,
    /// Too many reads of this shard wait.
    Busy,
    /// The journal could not be opened.
    Failing,
    /// The journal is being closed.
    Closing,
}
