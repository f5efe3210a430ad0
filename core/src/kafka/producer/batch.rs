//! A batch of one partition, from its first record to its acknowledgement.
//!
//! **Runs on: shard.** Sans-IO. Invariant: once a batch has a stamp (producer id, epoch, sequence)
//! its bytes do not change, so that a retry is recognised by the broker; only [`Batch::unseal`]
//! takes the stamp away, for a batch that is known not to be in the log under it.

use super::{Identity, Taken, Token};
use bytes::Bytes;
use trine_proto::kafka::record::{BatchWriter, Batches, Compression, Stamp, restamp};

/// Where a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Here: it gathers records, or waits to be sent (again).
    Unsent,
    /// In a request that was not answered yet.
    InFlight,
    /// In the log, at this offset where it is known; older batches are not yet settled.
    Done(Option<i64>),
}

/// A batch of records, and who waits for them.
#[derive(Debug)]
pub(super) struct Batch {
    /// Its name within the partition.
    pub serial: u64,
    pub state: State,
    /// An attempt was made whose end is not known, so it may be in the log.
    pub in_doubt: bool,
    /// When the first record came.
    pub appended_ms: u64,
    /// When it was sent for the first time.
    pub sent_ms: Option<u64>,
    pub tokens: Vec<Token>,
    /// Bytes of its records' bodies.
    pub body_bytes: usize,
    stamp: Option<Stamp>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Open(BatchWriter),
    Finished(Bytes),
}

impl Batch {
    /// An empty batch that gathers in `buffer`.
    pub fn new(serial: u64, now_ms: u64, buffer: Vec<u8>) -> Self {
        Self {
            serial,
            state: State::Unsent,
            in_doubt: false,
            appended_ms: now_ms,
            sent_ms: None,
            tokens: Vec::new(),
            body_bytes: 0,
            stamp: None,
            content: Content::Open(BatchWriter::new(buffer)),
        }
    }

    /// Adds a record, unless the batch is closed or would exceed `limit_bytes`; an empty batch takes
    /// any. Returns whether it did.
    pub fn push(&mut self, token: Token, timestamp_ms: i64, body: &[u8], limit: usize) -> bool {
        let Content::Open(writer) = &mut self.content else { return false };
        if !writer.is_empty() && writer.size_with(body.len()) > limit {
            return false;
        }
        writer.push(timestamp_ms, body);
        self.tokens.push(token);
        self.body_bytes += body.len();
        true
    }

    /// Whether nothing more fits, or it was sent before.
    pub fn is_complete(&self, limit_bytes: usize) -> bool {
        match &self.content {
            Content::Open(writer) => writer.size() >= limit_bytes,
            Content::Finished(_) => true,
        }
    }

    /// The stamp it was sent with.
    pub fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }

    /// Bytes of the batch as it is now.
    pub fn size(&self) -> usize {
        match &self.content {
            Content::Open(writer) => writer.size(),
            Content::Finished(bytes) => bytes.len(),
        }
    }

    /// The bytes to send: the same ones as before, or those of the stamp made of `identity` and
    /// `sequence` when it has none yet. `None`: the compressor failed.
    pub fn seal(
        &mut self,
        identity: Identity,
        sequence: i32,
        compression: Compression,
    ) -> Option<Bytes> {
        if self.stamp.is_none() {
            let stamp = Stamp {
                producer_id: identity.id,
                producer_epoch: identity.epoch,
                base_sequence: sequence,
            };
            self.stamp = Some(stamp);
            let empty = Content::Finished(Bytes::new());
            let finished = match std::mem::replace(&mut self.content, empty) {
                Content::Open(writer) => writer.finish(stamp, compression, false).ok()?,
                Content::Finished(bytes) => {
                    let mut bytes = Vec::from(bytes);
                    restamp(&mut bytes, stamp);
                    bytes
                }
            };
            self.content = Content::Finished(finished.into());
        }
        match &self.content {
            Content::Finished(bytes) if !bytes.is_empty() => Some(bytes.clone()),
            _ => None,
        }
    }

    /// Takes the stamp away, so that it can be sent with another.
    pub fn unseal(&mut self) {
        self.stamp = None;
    }

    /// Appends the records with their tokens, in order.
    pub fn take(mut self, into: &mut Vec<Taken>) {
        let none = Identity { id: -1, epoch: -1 };
        let mut bytes = self.seal(none, -1, Compression::None).unwrap_or_default();
        if let Content::Finished(own) = &mut self.content {
            // The last handle, if no send is underway: then nothing is copied.
            bytes = std::mem::take(own);
        }
        let mut tokens = self.tokens.iter();
        for batch in Batches::new(&bytes).flatten() {
            let Ok(inflated) = batch.inflate() else { continue };
            for record in batch.iter(&inflated).flatten() {
                let Some(&token) = tokens.next() else { return };
                let body = match &inflated {
                    std::borrow::Cow::Borrowed(_) => bytes.slice_ref(record.body),
                    std::borrow::Cow::Owned(_) => Bytes::copy_from_slice(record.body),
                };
                into.push(Taken { token, timestamp_ms: record.timestamp_ms, body });
            }
        }
        debug_assert!(tokens.next().is_none(), "a batch holds as many records as tokens");
    }

    /// Cuts it in two halves that have the records and, if it has a stamp, the sequence numbers of
    /// the whole. `serial` names the second.
    pub fn split(self, serial: u64, compression: Compression) -> [Self; 2] {
        let (stamp, appended_ms, sent_ms) = (self.stamp, self.appended_ms, self.sent_ms);
        let first_serial = self.serial;
        let mut records = Vec::with_capacity(self.tokens.len());
        self.take(&mut records);
        let middle = records.len() / 2;
        let half = |serial, records: &[Taken], skipped: usize| {
            let mut batch = Self::new(serial, appended_ms, Vec::new());
            batch.sent_ms = sent_ms;
            for record in records {
                batch.push(record.token, record.timestamp_ms, &record.body, usize::MAX);
            }
            if let Some(stamp) = stamp {
                let identity = Identity { id: stamp.producer_id, epoch: stamp.producer_epoch };
                let _ = batch.seal(identity, advance(stamp.base_sequence, skipped), compression);
            }
            batch
        };
        [half(first_serial, &records[..middle], 0), half(serial, &records[middle..], middle)]
    }

    /// The buffer, to gather in again; `None` while a send still holds it.
    pub fn into_buffer(self) -> Option<Vec<u8>> {
        match self.content {
            Content::Finished(bytes) if bytes.is_unique() => Some(bytes.into()),
            _ => None,
        }
    }
}

/// The sequence number `count` records after `sequence`: after `i32::MAX` comes 0.
pub(super) fn advance(sequence: i32, count: usize) -> i32 {
    ((sequence as u32).wrapping_add(count as u32) & i32::MAX as u32) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use trine_proto::kafka::record::write_body;

    const ID: Identity = Identity { id: 7, epoch: 2 };

    fn body(text: &str) -> Vec<u8> {
        let mut body = Vec::new();
        write_body(&mut body, Some(b"key"), Some(text.as_bytes()), std::iter::empty());
        body
    }

    fn batch(texts: &[&str]) -> Batch {
        let mut batch = Batch::new(1, 1000, Vec::new());
        for (token, text) in texts.iter().enumerate() {
            assert!(batch.push(token as u64, 5000 + token as i64, &body(text), 1 << 20));
        }
        batch
    }

    #[test]
    fn a_sealed_batch_keeps_its_bytes_until_it_is_unsealed() {
        let mut batch = batch(&["a", "b"]);
        let first = batch.seal(ID, 10, Compression::None).unwrap();
        let again = batch.seal(Identity { id: 8, epoch: 0 }, 0, Compression::None).unwrap();
        assert_eq!(first, again);
        batch.unseal();
        let other = batch.seal(Identity { id: 8, epoch: 0 }, 0, Compression::None).unwrap();
        assert_ne!(first, other);
        let read = Batches::new(&other).next().unwrap().unwrap();
        assert_eq!((read.producer_id, read.producer_epoch, read.base_sequence), (8, 0, 0));
        assert!(!batch.push(9, 1, &body("late"), 1 << 20), "a finished batch is closed");
    }

    #[test]
    fn records_come_back_as_they_went_in() {
        for compression in [Compression::None, Compression::Lz4] {
            let text = "x".repeat(300);
            let mut batch = batch(&["a", &text, "c"]);
            batch.seal(ID, 0, compression).unwrap();
            let mut taken = Vec::new();
            batch.take(&mut taken);
            let all: Vec<_> =
                taken.iter().map(|t| (t.token, t.timestamp_ms, t.body.to_vec())).collect();
            let expected = [(0, 5000, body("a")), (1, 5001, body(&text)), (2, 5002, body("c"))];
            assert_eq!(all, expected);
        }
    }

    #[test]
    fn halves_have_the_sequence_numbers_of_the_whole() {
        let mut batch = batch(&["a", "b", "c"]);
        batch.seal(ID, i32::MAX, Compression::None).unwrap();
        let [first, second] = batch.split(9, Compression::None);
        assert_eq!(first.tokens, [0]);
        assert_eq!(second.tokens, [1, 2]);
        assert_eq!(first.stamp().unwrap().base_sequence, i32::MAX);
        assert_eq!(second.stamp().unwrap().base_sequence, 0);
    }

    #[test]
    fn a_batch_takes_one_record_of_any_size_and_no_more_than_its_limit() {
        let mut batch = Batch::new(1, 0, Vec::new());
        assert!(batch.push(1, 0, &[0; 500], 100));
        assert!(batch.is_complete(100));
        assert!(!batch.push(2, 0, &[0; 1], 100));
    }
}
