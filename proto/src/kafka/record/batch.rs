//! Reading record batches of format v2.
//!
//! **Runs on: any.** Batches are handed out after their checksum was found right. Nothing is copied
//! but what was compressed.

use super::{Compression, RECORDS_START, reader};
use crate::kafka::codec::{Error, Reader};
use std::borrow::Cow;

/// The format of the batches; the older ones are 0 and 1.
pub(super) const MAGIC: u8 = 2;

const COMPRESSION: i16 = 7;
const LOG_APPEND_TIME: i16 = 8;
pub(super) const TRANSACTIONAL: i16 = 16;
const CONTROL: i16 = 32;

/// Where a batch's length ends, which counts from there.
pub(super) const LENGTH_END: usize = 12;

/// Where the part under the checksum starts.
const CHECKED_START: usize = 21;

/// The head of a batch and its records as they were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// The offset of the first record that the batch was written with.
    pub base_offset: i64,
    /// The offset of the last one; the next batch begins after it, also where compaction took
    /// records away.
    pub last_offset: i64,
    /// The leader's epoch when it was appended.
    pub leader_epoch: i32,
    /// The timestamp that the records' deltas count from, in milliseconds.
    pub base_timestamp_ms: i64,
    /// The highest timestamp in it, in milliseconds.
    pub max_timestamp_ms: i64,
    /// The producer's id, -1 without idempotence.
    pub producer_id: i64,
    /// The producer's epoch, -1 without idempotence.
    pub producer_epoch: i16,
    /// The sequence number of the first record, -1 without idempotence.
    pub base_sequence: i32,
    /// How many records are in it, as it says.
    pub count: i32,
    /// How the records are compressed.
    pub compression: Compression,
    /// The records as they were sent.
    pub records: &'a [u8],
    attributes: i16,
}

impl<'a> Batch<'a> {
    /// Whether it belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether its records are a coordinator's markers, which no application sees.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// The records without compression: as they are, or inflated into a new buffer.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when they inflate to more than 64 MiB, [`Error::Malformed`] when they are
    /// damaged.
    pub fn inflate(&self) -> Result<Cow<'a, [u8]>, Error> {
        match self.compression {
            Compression::None => Ok(Cow::Borrowed(self.records)),
            compression => compression.inflate(self.records).map(Cow::Owned),
        }
    }

    /// The records one by one, given what [`Batch::inflate`] returned.
    pub fn iter<'r>(&self, inflated: &'r [u8]) -> Records<'r> {
        let log_append_time = self.attributes & LOG_APPEND_TIME != 0;
        Records {
            rest: inflated,
            left: self.count,
            base_offset: self.base_offset,
            last_offset: self.last_offset,
            base_timestamp_ms: self.base_timestamp_ms,
            append_timestamp_ms: log_append_time.then_some(self.max_timestamp_ms),
        }
    }
}

/// The batches of a fetched record set.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Batches<'a> {
    /// Over the record set of one partition. A broker cuts it at the size that was asked for: a last
    /// batch that is cut short ends the iteration without an error, [`Batches::rest`] has it.
    pub fn new(record_set: &'a [u8]) -> Batches<'a> {
        Batches { rest: record_set }
    }

    /// What has not been handed out.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next batch, `None` where only a part of one is left.
    fn read(&mut self) -> Result<Option<Batch<'a>>, Error> {
        let mut from = reader(self.rest);
        let (Ok(base_offset), Ok(length), Ok(leader_epoch), Ok(magic)) =
            (from.i64(), from.i32(), from.i32(), from.i8())
        else {
            return Ok(None);
        };
        match magic as u8 {
            MAGIC => {}
            0 | 1 => return Err(Error::Unsupported("message format before Kafka 0.11")),
            _ => return Err(Error::Unsupported("message format newer than v2")),
        }
        let end = usize::try_from(length).map_err(|_| Error::Malformed("batch length"))?;
        let end = end.saturating_add(LENGTH_END);
        if end < RECORDS_START {
            return Err(Error::Malformed("batch shorter than its header"));
        }
        let Some((whole, rest)) = self.rest.split_at_checked(end) else { return Ok(None) };
        let checksum = from.u32()?;
        if crc32c::crc32c(&whole[CHECKED_START..]) != checksum {
            return Err(Error::Checksum);
        }
        let mut from = reader(&whole[CHECKED_START..]);
        let batch = Batch::read(&mut from, base_offset, leader_epoch)?;
        self.rest = rest;
        Ok(Some(batch))
    }
}

impl<'a> Batch<'a> {
    /// Reads what is under the checksum.
    fn read(
        from: &mut Reader<'a>,
        base_offset: i64,
        leader_epoch: i32,
    ) -> Result<Batch<'a>, Error> {
        let attributes = from.i16()?;
        let last_offset_delta = from.i32()?;
        let last_offset = base_offset.checked_add(last_offset_delta.into());
        let batch = Batch {
            attributes,
            base_offset,
            last_offset: last_offset.ok_or(Error::Malformed("batch offsets"))?,
            leader_epoch,
            base_timestamp_ms: from.i64()?,
            max_timestamp_ms: from.i64()?,
            producer_id: from.i64()?,
            producer_epoch: from.i16()?,
            base_sequence: from.i32()?,
            count: from.i32()?,
            compression: Compression::of(attributes & COMPRESSION)?,
            records: from.rest(),
        };
        if base_offset < 0 || last_offset_delta < 0 {
            return Err(Error::Malformed("batch offsets"));
        }
        if batch.count < 0 {
            return Err(Error::Malformed("record count"));
        }
        Ok(batch)
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<Batch<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.read().transpose();
        if !matches!(next, Some(Ok(_))) {
            // Behind a damaged batch nothing can be found; behind a partial one nothing is.
            let rest = std::mem::take(&mut self.rest);
            self.rest = if next.is_none() { rest } else { &[] };
        }
        next
    }
}

/// A record and where it is in its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'r> {
    /// Its offset.
    pub offset: i64,
    /// When it was made, or appended where the topic says so, in milliseconds.
    pub timestamp_ms: i64,
    /// Its body, for [`super::Body::parse`].
    pub body: &'r [u8],
}

/// The records of a batch. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Records<'r> {
    rest: &'r [u8],
    left: i32,
    base_offset: i64,
    last_offset: i64,
    base_timestamp_ms: i64,
    append_timestamp_ms: Option<i64>,
}

impl<'r> Records<'r> {
    fn read(&mut self) -> Result<Record<'r>, Error> {
        let mut from = reader(self.rest);
        let length = from.varint()?;
        let length = usize::try_from(length).map_err(|_| Error::Malformed("record length"))?;
        let mut record = reader(from.take(length)?);
        // A record's attributes have no meaning yet.
        record.i8()?;
        let timestamp_ms = self.base_timestamp_ms.checked_add(record.varlong()?);
        let offset = self.base_offset.checked_add(record.varint()?.into());
        let offset = offset.filter(|offset| (self.base_offset..=self.last_offset).contains(offset));
        self.rest = from.rest();
        Ok(Record {
            offset: offset.ok_or(Error::Malformed("record offset"))?,
            timestamp_ms: self
                .append_timestamp_ms
                .or(timestamp_ms)
                .ok_or(Error::Malformed("record timestamp"))?,
            body: record.rest(),
        })
    }
}

impl<'r> Iterator for Records<'r> {
    type Item = Result<Record<'r>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let over = !std::mem::take(&mut self.rest).is_empty();
            return over.then_some(Err(Error::Malformed("bytes after a batch's records")));
        }
        self.left -= 1;
        let next = self.read();
        if next.is_err() {
            self.left = 0;
            self.rest = &[];
        }
        Some(next)
    }
}
