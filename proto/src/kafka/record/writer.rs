//! Writing record batches of format v2.
//!
//! **Runs on: any.** The batch is built in the buffer that is sent, behind room for its header; the
//! header and the checksum come last. A batch that was not sent yet may be given another producer
//! epoch and sequence in place.

use super::{Compression, RECORD_OVERHEAD, RECORDS_START, record_len};
use crate::kafka::codec::{Error, write_varint};

/// Who wrote a batch: what makes a retry of it idempotent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The producer's id, -1 without idempotence.
    pub producer_id: i64,
    /// The producer's epoch, -1 without idempotence.
    pub producer_epoch: i16,
    /// The sequence number of the first record in its partition, -1 without idempotence. After
    /// `i32::MAX` comes 0.
    pub base_sequence: i32,
}

impl Stamp {
    /// Of a producer without idempotence.
    pub const NONE: Stamp = Stamp { producer_id: -1, producer_epoch: -1, base_sequence: -1 };
}

/// Gathers records of one partition into a batch.
#[derive(Debug)]
pub struct BatchWriter {
    buffer: Vec<u8>,
    count: i32,
    first_timestamp_ms: i64,
    last_timestamp_ms: i64,
}

impl Default for BatchWriter {
    fn default() -> BatchWriter {
        BatchWriter::new(Vec::new())
    }
}

impl BatchWriter {
    /// An empty batch in a buffer, whose capacity is used and whose content is not.
    pub fn new(mut buffer: Vec<u8>) -> BatchWriter {
        buffer.clear();
        buffer.resize(RECORDS_START, 0);
        BatchWriter { buffer, count: 0, first_timestamp_ms: 0, last_timestamp_ms: 0 }
    }

    /// Adds a record. `body` is what [`super::write_body`] writes.
    pub fn push(&mut self, timestamp_ms: i64, body: &[u8]) {
        if self.count == 0 {
            self.first_timestamp_ms = timestamp_ms;
            self.last_timestamp_ms = timestamp_ms;
        }
        self.last_timestamp_ms = self.last_timestamp_ms.max(timestamp_ms);
        let timestamp_delta = timestamp_ms.wrapping_sub(self.first_timestamp_ms);
        let offset_delta = i64::from(self.count);
        let (inner, whole) = record_len(timestamp_delta, offset_delta, body.len());
        self.buffer.reserve(whole);
        write_varint(&mut self.buffer, inner);
        self.buffer.push(0);
        write_varint(&mut self.buffer, timestamp_delta);
        write_varint(&mut self.buffer, offset_delta);
        self.buffer.extend_from_slice(body);
        self.count += 1;
    }

    /// How many records there are.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the batch as it is, before compression.
    pub fn size(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes of the batch after one more record, at most, before compression.
    pub fn size_with(&self, body_len: usize) -> usize {
        self.size() + body_len + RECORD_OVERHEAD
    }

    /// The batch, ready to be sent. Where compression does not make it smaller it stays as it is.
    /// One without records is nothing that a broker takes.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the batch is over 2 GiB or the compressor refuses it.
    pub fn finish(
        self,
        stamp: Stamp,
        compression: Compression,
        transactional: bool,
    ) -> Result<Vec<u8>, Error> {
        let BatchWriter { mut buffer, count, first_timestamp_ms, last_timestamp_ms } = self;
        let mut attributes = if transactional { super::batch::TRANSACTIONAL } else { 0 };
        if compression != Compression::None {
            let mut smaller = vec![0; RECORDS_START];
            compression.deflate(&buffer[RECORDS_START..], &mut smaller)?;
            if smaller.len() < buffer.len() {
                buffer = smaller;
                attributes |= compression as i16;
            }
        }
        let length = i32::try_from(buffer.len() - super::batch::LENGTH_END)
            .map_err(|_| Error::TooLarge("record batch of more than 2 GiB"))?;
        let mut head = Vec::with_capacity(RECORDS_START);
        head.extend_from_slice(&0i64.to_be_bytes());
        head.extend_from_slice(&length.to_be_bytes());
        // The leader's epoch is the broker's to fill in.
        head.extend_from_slice(&(-1i32).to_be_bytes());
        head.push(super::batch::MAGIC);
        head.extend_from_slice(&0u32.to_be_bytes());
        head.extend_from_slice(&attributes.to_be_bytes());
        head.extend_from_slice(&(count - 1).to_be_bytes());
        head.extend_from_slice(&first_timestamp_ms.to_be_bytes());
        head.extend_from_slice(&last_timestamp_ms.to_be_bytes());
        head.extend_from_slice(&[0; 14]);
        head.extend_from_slice(&count.to_be_bytes());
        buffer[..RECORDS_START].copy_from_slice(&head);
        restamp(&mut buffer, stamp);
        Ok(buffer)
    }
}

/// Gives a finished batch another stamp and its checksum again. Only for a batch that no broker can
/// have taken with the old one.
pub fn restamp(batch: &mut [u8], stamp: Stamp) {
    if batch.len() < RECORDS_START {
        return;
    }
    batch[43..51].copy_from_slice(&stamp.producer_id.to_be_bytes());
    batch[51..53].copy_from_slice(&stamp.producer_epoch.to_be_bytes());
    batch[53..57].copy_from_slice(&stamp.base_sequence.to_be_bytes());
    let checksum = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&checksum.to_be_bytes());
}
