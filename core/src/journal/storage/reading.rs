//! Reads of a stream: from the newest commits in memory, else from what was fetched of the disk.
//!
//! **Runs on: storage.** Sans-IO: [`collect`] says which bytes it lacks. A fetch takes more than
//! one commit where it can, and stops before bytes that may still be written.

use std::collections::VecDeque;

use bytes::Bytes;

use super::super::format::{Kind, Records, commit_at};
use super::super::machine::Journal;
use super::super::streams::{Place, StreamId};
use super::message::StoredRecord;
use crate::limits::{STORAGE_READ_AHEAD_BYTES, STORAGE_READ_BYTES, STORAGE_READ_CACHE_BYTES};

/// Bytes of a segment that a read lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    pub segment: u64,
    pub position: u64,
    pub bytes: usize,
}

/// A read that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub shard: usize,
    pub token: u64,
    pub stream: StreamId,
    pub offset: u64,
    pub limit_bytes: usize,
    pub limit_records: usize,
    pub wait: bool,
}

/// What a read came to.
pub enum Collected {
    /// Perhaps none, and where to go on.
    Records { records: Vec<StoredRecord>, next_offset: u64 },
    /// These bytes are needed first.
    Lacks(Fetch),
    /// The commit is damaged; the stream goes on at this offset.
    Damaged { next_offset: u64 },
}

/// What was fetched last.
#[derive(Default)]
pub struct Fetched {
    /// The newest at the back.
    chunks: VecDeque<Chunk>,
    bytes: usize,
}

struct Chunk {
    segment: u64,
    position: u64,
    data: Bytes,
    /// The segment has no more. It may have been cut behind the last record, within its block.
    is_last: bool,
}

impl Chunk {
    fn get(&self, place: Place) -> Option<Bytes> {
        let begin = place.position.checked_sub(self.position)? as usize;
        let end = begin + place.bytes as usize;
        let end = if self.is_last { end.min(self.data.len()) } else { end };
        let is_there = self.segment == place.segment && begin < end && end <= self.data.len();
        is_there.then(|| self.data.slice(begin..end))
    }
}

impl Fetched {
    pub fn put(&mut self, fetch: Fetch, data: Bytes) {
        let Fetch { segment, position, bytes } = fetch;
        self.bytes += data.len();
        self.chunks.push_back(Chunk { segment, position, is_last: data.len() < bytes, data });
        while self.bytes > STORAGE_READ_CACHE_BYTES && self.chunks.len() > 1 {
            let old = self.chunks.pop_front().expect("there are two");
            self.bytes -= old.data.len();
        }
    }

    /// The bytes of a commit.
    pub fn get(&self, place: Place) -> Option<Bytes> {
        self.chunks.iter().rev().find_map(|chunk| chunk.get(place))
    }
}

/// Takes the records that are wanted, as far as their bytes are at hand.
pub fn collect(journal: &Journal, fetched: &Fetched, wanted: &Wanted) -> Collected {
    let range = journal.range(wanted.stream);
    let mut batch = Batch {
        records: Vec::new(),
        bytes: 0,
        next_offset: wanted.offset.max(range.start),
        limit_bytes: wanted.limit_bytes.min(STORAGE_READ_BYTES),
        limit_records: wanted.limit_records.max(1),
    };
    let mut place = journal.place(wanted.stream, batch.next_offset);
    while let Some(at) = place {
        let Some(data) = journal.cached(at).or_else(|| fetched.get(at)) else {
            if batch.records.is_empty() {
                return Collected::Lacks(fetch_of(journal, at, batch.limit_bytes));
            }
            break;
        };
        place = journal.place_after(wanted.stream, at);
        let behind = place.map_or(range.end, |place| place.offset);
        match batch.take(wanted.stream, at, &data) {
            Some(true) => batch.next_offset = batch.next_offset.max(behind),
            None if batch.records.is_empty() => {
                return Collected::Damaged { next_offset: behind };
            }
            Some(false) | None => break,
        }
    }
    Collected::Records { records: batch.records, next_offset: batch.next_offset }
}

/// The stream's offset behind a read's first commit.
pub fn offset_behind(journal: &Journal, wanted: &Wanted) -> u64 {
    let range = journal.range(wanted.stream);
    let first = journal.place(wanted.stream, wanted.offset.max(range.start));
    let next = first.and_then(|place| journal.place_after(wanted.stream, place));
    next.map_or(range.end, |place| place.offset)
}

fn fetch_of(journal: &Journal, at: Place, limit_bytes: usize) -> Fetch {
    let readable = journal.readable_bytes(at.segment).saturating_sub(at.position) as usize;
    let commit = at.bytes as usize;
    let bytes = STORAGE_READ_AHEAD_BYTES.max(limit_bytes).min(readable).max(commit);
    Fetch { segment: at.segment, position: at.position, bytes }
}

struct Batch {
    records: Vec<StoredRecord>,
    bytes: usize,
    next_offset: u64,
    limit_bytes: usize,
    limit_records: usize,
}

impl Batch {
    /// Takes a commit's records; false: it is full before their end, `None`: that is no commit.
    fn take(&mut self, stream: StreamId, at: Place, data: &Bytes) -> Option<bool> {
        let header = commit_at(at.segment, at.position, data)?;
        let mut records = Records::new(header, data);
        loop {
            for record in records.by_ref() {
                let ours = record.kind == Kind::Data && record.stream == stream.number();
                if !ours || record.offset < self.next_offset {
                    continue;
                }
                let more = self.bytes + record.payload.len();
                let is_full = self.records.len() >= self.limit_records
                    || (more > self.limit_bytes && !self.records.is_empty());
                if is_full {
                    return Some(false);
                }
                self.bytes = more;
                self.next_offset = record.offset + 1;
                let (offset, time_ms) = (record.offset, record.time_ms);
                let payload = data.slice_ref(record.payload);
                self.records.push(StoredRecord { offset, time_ms, payload });
            }
            if records.is_done() {
                return Some(true);
            }
            records.skip_damaged();
        }
    }
}
