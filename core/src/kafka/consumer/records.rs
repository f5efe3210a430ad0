//! The records of a fetched record set.
//!
//! **Runs on: shard.** Bodies are slices of the response, or of what a compressed batch inflates to:
//! nothing is copied. Damage ends the reading, and so does it when much was inflated: what was before
//! is whole, and the rest is fetched again.

use crate::limits::KAFKA_INFLATED_BYTES;
use bytes::Bytes;
use smallvec::SmallVec;
use std::borrow::Cow;
use trine_proto::kafka;
use trine_proto::kafka::record::{AbortedTransaction, AbortedTransactions, Batch, Batches};
use trine_proto::limits::KAFKA_BATCH_BYTES;

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in its partition.
    pub offset: i64,
    /// When it was made, or appended where the topic says so, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Key, value and headers, for `trine_proto::kafka::record::Body::parse`. Keeps the memory of its
    /// whole response.
    pub body: Bytes,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The records from the wanted offset on, ascending.
    pub records: Vec<Record>,
    /// Where to go on; behind the wanted offset also where all records were left out.
    pub next_offset: i64,
    /// The first offset and the leader's epoch of each stretch of batches of one epoch.
    pub epochs: SmallVec<[(i64, i32); 1]>,
    /// What ended the reading.
    pub damage: Option<kafka::Error>,
    /// Bytes of memory that compressed batches took.
    pub inflated_bytes: usize,
}

/// Reads `set`, a slice of `response`, from `offset` on, without the records of the transactions that
/// were aborted.
pub fn read(response: &Bytes, set: &[u8], aborted: &[AbortedTransaction], offset: i64) -> Read {
    let mut read = Read { next_offset: offset, ..Read::default() };
    let mut aborted = AbortedTransactions::new(aborted);
    for batch in Batches::new(set) {
        let kept = batch.and_then(|batch| {
            let is_ahead = batch.last_offset >= offset;
            if aborted.keeps(&batch)? && is_ahead {
                add(response, &batch, offset, &mut read)?;
            }
            let is_same = read.epochs.last().is_some_and(|last| last.1 == batch.leader_epoch);
            if is_ahead && !is_same {
                read.epochs.push((batch.base_offset, batch.leader_epoch));
            }
            Ok(batch.last_offset.saturating_add(1))
        });
        match kept {
            Ok(next_offset) => read.next_offset = read.next_offset.max(next_offset),
            Err(error) => {
                read.damage = Some(error);
                break;
            }
        }
        if read.inflated_bytes >= KAFKA_INFLATED_BYTES {
            break;
        }
    }
    read
}

/// Adds all records of a batch from `offset` on, or none.
fn add(
    response: &Bytes,
    batch: &Batch<'_>,
    offset: i64,
    read: &mut Read,
) -> Result<(), kafka::Error> {
    let before = read.records.len();
    // What can't be inflated took as much time as what may be.
    let inflated = batch.inflate().inspect_err(|_| read.inflated_bytes += KAFKA_BATCH_BYTES)?;
    let result = match inflated {
        Cow::Borrowed(bytes) => push(response, bytes, batch, offset, &mut read.records),
        Cow::Owned(bytes) => {
            let inflated = Bytes::from(bytes);
            read.inflated_bytes += inflated.len();
            push(&inflated, &inflated, batch, offset, &mut read.records)
        }
    };
    if result.is_err() {
        read.records.truncate(before);
    }
    result
}

/// Adds the records in `bytes`, a slice of `memory`.
fn push(
    memory: &Bytes,
    bytes: &[u8],
    batch: &Batch<'_>,
    offset: i64,
    records: &mut Vec<Record>,
) -> Result<(), kafka::Error> {
    // A count is the sender's word; each record has seven bytes at least.
    records.reserve((batch.count.max(0) as usize).min(bytes.len() / 7));
    for record in batch.iter(bytes) {
        let record = record?;
        if record.offset >= offset {
            let body = memory.slice_ref(record.body);
            records.push(Record { offset: record.offset, timestamp_ms: record.timestamp_ms, body });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use trine_proto::kafka::record::{BatchWriter, Compression, Stamp, write_body};

    fn batch(base_offset: i64, values: &[&str], compression: Compression) -> Vec<u8> {
        let mut writer = BatchWriter::default();
        let mut body = Vec::new();
        for value in values {
            body.clear();
            write_body(&mut body, None, Some(value.as_bytes()), std::iter::empty());
            writer.push(1000, &body);
        }
        let mut bytes = writer.finish(Stamp::NONE, compression, false).unwrap();
        bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
        bytes
    }

    fn values(read: &Read) -> Vec<(i64, String)> {
        let value = |record: &Record| {
            let body = kafka::record::Body::parse(&record.body).unwrap();
            (record.offset, String::from_utf8(body.value().unwrap().to_vec()).unwrap())
        };
        read.records.iter().map(value).collect()
    }

    #[test]
    fn records_share_the_response_and_begin_where_it_was_asked_for() {
        let long = "x".repeat(300);
        let set = [
            batch(10, &["a", "b", "c"], Compression::None),
            batch(13, &[&long, &long], Compression::Zstd),
            batch(15, &["e"], Compression::None),
        ];
        let mut whole = set.concat();
        whole.truncate(whole.len() - 1);
        let response = Bytes::from([b"head".to_vec(), whole].concat());
        let read = read(&response, &response[4..], &[], 11);
        let offsets: Vec<_> = values(&read).iter().map(|value| value.0).collect();
        assert_eq!(offsets, [11, 12, 13, 14], "the last batch is cut short");
        assert_eq!(values(&read)[0].1, "b");
        assert_eq!((read.next_offset, read.damage), (15, None));
        let first = read.records[0].body.as_ptr() as usize;
        let within = response.as_ptr() as usize..response.as_ptr() as usize + response.len();
        assert!(within.contains(&first), "not copied");
    }

    #[test]
    fn what_inflates_to_much_is_read_in_pieces() {
        let large = "x".repeat(KAFKA_INFLATED_BYTES / 2);
        let set: Vec<_> = (0..5).flat_map(|at| batch(at, &[&large], Compression::Zstd)).collect();
        let response = Bytes::from(set);
        let first = read(&response, &response, &[], 0);
        assert_eq!((first.records.len(), first.next_offset, first.damage), (2, 2, None));
        let last = read(&response, &response, &[], 4);
        assert_eq!((last.records.len(), last.next_offset), (1, 5));
    }

    #[test]
    fn damage_ends_the_reading_behind_what_is_whole() {
        let mut set = batch(0, &["a"], Compression::None);
        let end = set.len();
        set.extend(batch(1, &["b"], Compression::None));
        for at in end + 20..set.len() {
            let mut set = set.clone();
            set[at] ^= 1;
            let response = Bytes::from(set);
            let read = read(&response, &response, &[], 0);
            assert_eq!((values(&read), read.next_offset), (vec![(0, "a".to_owned())], 1));
            assert_eq!(read.damage, Some(kafka::Error::Checksum), "flip at {at}");
        }
    }
}
