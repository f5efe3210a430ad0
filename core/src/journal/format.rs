//! The bytes of a segment: commits that begin on a block of their own, records inside them.
//!
//! **Runs on: storage**, and wherever `trine journal` looks at files. Sans-IO: every function takes
//! bytes. All numbers are little-endian. Both checksums are CRC32C over the segment's id and the
//! bytes' own position too, so what an older file left in preallocated space can't pass.
//!
//! ```text
//! commit  magic 4 · crc 4 · segment 8 · position 8 · synced 8 · bytes 4 · records 4 · time_ms 8
//!         · previous segment 8 · its synced bytes 8 · records · zeros up to the next block
//! record  crc 4 · payload bytes 4 · stream 4 · kind 1 · zeros 3 · offset 8 · time_ms 8 · payload
//! ```

use std::ops::Range;

use crate::limits::BLOCK_BYTES;

const MAGIC: u32 = u32::from_le_bytes(*b"TJC1");
/// Bytes of a commit before its records.
pub const COMMIT_HEADER_BYTES: usize = 64;
/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 32;

/// Up to where a segment was synced: damage below it is corruption, above it a torn tail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The segment; 0: there is none.
    pub segment: u64,
    /// Its bytes from the beginning that a sync has confirmed.
    pub synced: u64,
}

/// What a commit says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitHeader {
    /// The segment that it was written to.
    pub segment: u64,
    /// Where in the segment it begins, a multiple of [`BLOCK_BYTES`].
    pub position: u64,
    /// Bytes of this segment that were synced before it was written.
    pub synced: u64,
    /// Its bytes without the zeros behind them.
    pub bytes: u32,
    /// Its records; 0: it only marks what was synced.
    pub records: u32,
    /// When it was written, Unix milliseconds.
    pub time_ms: u64,
    /// The newest segment before this one in which something was synced; what lies between the
    /// two is void.
    pub previous: Mark,
}

impl CommitHeader {
    /// Its bytes with the zeros behind them.
    pub fn padded_bytes(&self) -> u64 {
        (self.bytes as u64).next_multiple_of(BLOCK_BYTES as u64)
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Names its stream (the payload); its offset is the stream's next.
    Stream = 1,
    /// A user's bytes.
    Data = 2,
    /// Names its cursor (the payload); its offset is the cursor's value.
    Cursor = 3,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Stream, Kind::Data, Kind::Cursor].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The stream's number.
    pub stream: u32,
    /// What it is.
    pub kind: Kind,
    /// Its place in the stream, or a cursor's value.
    pub offset: u64,
    /// When it was appended, Unix milliseconds.
    pub time_ms: u64,
    /// The user's bytes, or a name.
    pub payload: &'a [u8],
}

/// Bytes that a record with such a payload takes.
pub fn record_bytes(payload_bytes: usize) -> usize {
    RECORD_HEADER_BYTES + payload_bytes
}

/// Puts a commit together.
pub struct CommitWriter {
    bytes: Vec<u8>,
    segment: u64,
    position: u64,
    records: u32,
}

impl CommitWriter {
    /// An empty commit for this place, with room for `bytes`.
    pub fn new(segment: u64, position: u64, bytes: usize) -> Self {
        assert!(position.is_multiple_of(BLOCK_BYTES as u64), "a commit begins on a block");
        let mut room = Vec::with_capacity(bytes.next_multiple_of(BLOCK_BYTES));
        room.resize(COMMIT_HEADER_BYTES, 0);
        Self { bytes: room, segment, position, records: 0 }
    }

    /// Adds a record.
    pub fn record(&mut self, record: &Record<'_>) {
        let place = self.position + self.bytes.len() as u64;
        let mut header = [0; RECORD_HEADER_BYTES];
        header[4..8].copy_from_slice(&(record.payload.len() as u32).to_le_bytes());
        header[8..12].copy_from_slice(&record.stream.to_le_bytes());
        header[12] = record.kind as u8;
        header[16..24].copy_from_slice(&record.offset.to_le_bytes());
        header[24..32].copy_from_slice(&record.time_ms.to_le_bytes());
        let crc = record_crc(self.segment, place, &header, record.payload);
        header[..4].copy_from_slice(&crc.to_le_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(record.payload);
        self.records += 1;
    }

    /// The whole commit, padded to full blocks.
    pub fn finish(mut self, synced: u64, previous: Mark, time_ms: u64) -> Vec<u8> {
        let bytes = u32::try_from(self.bytes.len()).expect("a commit is far below 4 GiB");
        let header = &mut self.bytes[..COMMIT_HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[8..16].copy_from_slice(&self.segment.to_le_bytes());
        header[16..24].copy_from_slice(&self.position.to_le_bytes());
        header[24..32].copy_from_slice(&synced.to_le_bytes());
        header[32..36].copy_from_slice(&bytes.to_le_bytes());
        header[36..40].copy_from_slice(&self.records.to_le_bytes());
        header[40..48].copy_from_slice(&time_ms.to_le_bytes());
        header[48..56].copy_from_slice(&previous.segment.to_le_bytes());
        header[56..64].copy_from_slice(&previous.synced.to_le_bytes());
        let crc = crc32c::crc32c(&header[8..]);
        header[4..8].copy_from_slice(&crc.to_le_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        self.bytes
    }
}

fn record_crc(segment: u64, position: u64, header: &[u8], payload: &[u8]) -> u32 {
    let crc =
        crc32c::crc32c_append(segment as u32 ^ (segment >> 32) as u32, &position.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &header[4..RECORD_HEADER_BYTES]);
    crc32c::crc32c_append(crc, payload)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// The commit that begins at `bytes`, which are those of `segment` from `position` on; `None` if
/// there is none that was written to this very place.
pub fn commit_at(segment: u64, position: u64, bytes: &[u8]) -> Option<CommitHeader> {
    let header = bytes.get(..COMMIT_HEADER_BYTES)?;
    if u32_at(header, 0) != MAGIC || u32_at(header, 4) != crc32c::crc32c(&header[8..]) {
        return None;
    }
    let commit = CommitHeader {
        segment: u64_at(header, 8),
        position: u64_at(header, 16),
        synced: u64_at(header, 24),
        bytes: u32_at(header, 32),
        records: u32_at(header, 36),
        time_ms: u64_at(header, 40),
        previous: Mark { segment: u64_at(header, 48), synced: u64_at(header, 56) },
    };
    let here = commit.segment == segment && commit.position == position;
    (here && commit.bytes as usize >= COMMIT_HEADER_BYTES).then_some(commit)
}

/// The records of a commit.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    /// The commit's bytes as far as they are there.
    bytes: &'a [u8],
    header: CommitHeader,
    at: usize,
    left: u32,
}

impl<'a> Records<'a> {
    /// The records of the commit with this header; `bytes` begin with the header itself.
    pub fn new(header: CommitHeader, bytes: &'a [u8]) -> Self {
        let bytes = &bytes[..bytes.len().min(header.bytes as usize)];
        Self { bytes, header, at: COMMIT_HEADER_BYTES, left: header.records }
    }

    /// Whether every record that the header counts has been returned.
    pub fn is_done(&self) -> bool {
        self.left == 0
    }

    fn parse(&self, at: usize) -> Option<Record<'a>> {
        let header = self.bytes.get(at..at + RECORD_HEADER_BYTES)?;
        let begin = at + RECORD_HEADER_BYTES;
        let payload = self.bytes.get(begin..begin.checked_add(u32_at(header, 4) as usize)?)?;
        let place = self.header.position + at as u64;
        if u32_at(header, 0) != record_crc(self.header.segment, place, header, payload) {
            return None;
        }
        Some(Record {
            stream: u32_at(header, 8),
            kind: Kind::from_byte(header[12])?,
            offset: u64_at(header, 16),
            time_ms: u64_at(header, 24),
            payload,
        })
    }

    /// Goes behind a damaged record where its length still leads to a good one (or to the end).
    /// Returns the damaged bytes' place in the segment.
    pub fn skip_damaged(&mut self) -> Range<u64> {
        let from = self.at;
        let length = self.bytes.get(from..from + 8).map_or(0, |header| u32_at(header, 4) as usize);
        let to = from.saturating_add(RECORD_HEADER_BYTES).saturating_add(length);
        let last = self.left == 1 && to == self.header.bytes as usize;
        if self.left > 0 && (last || (to < self.bytes.len() && self.parse(to).is_some())) {
            self.at = to;
            self.left -= 1;
        } else {
            self.at = self.header.bytes as usize;
            self.left = 0;
        }
        self.header.position + from as u64..self.header.position + self.at as u64
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    /// The next record; `None` at the end and before a damaged one ([`Records::is_done`] tells).
    fn next(&mut self) -> Option<Record<'a>> {
        if self.left == 0 {
            return None;
        }
        let record = self.parse(self.at)?;
        self.at += RECORD_HEADER_BYTES + record.payload.len();
        self.left -= 1;
        Some(record)
    }
}
