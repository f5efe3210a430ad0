//! Bodies and batches.
//!
//! **Runs on: any.**

use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records as theirs;
use proptest::prelude::*;
use trine_proto::kafka::Error;
use trine_proto::kafka::record::{
    AbortedTransaction, AbortedTransactions, BatchWriter, Batches, Body, Compression,
    RECORDS_START, Stamp, restamp, write_body,
};

const STAMP: Stamp = Stamp { producer_id: 4001, producer_epoch: 3, base_sequence: 70 };

const ALL: [(Compression, theirs::Compression); 5] = [
    (Compression::None, theirs::Compression::None),
    (Compression::Gzip, theirs::Compression::Gzip),
    (Compression::Snappy, theirs::Compression::Snappy),
    (Compression::Lz4, theirs::Compression::Lz4),
    (Compression::Zstd, theirs::Compression::Zstd),
];

fn body(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]) -> Vec<u8> {
    let mut out = Vec::new();
    let len = write_body(&mut out, key, value, headers.iter().copied());
    assert_eq!(len, out.len());
    out
}

fn batch_of(count: usize, compression: Compression) -> Vec<u8> {
    let mut writer = BatchWriter::new(b"an old buffer".to_vec());
    for index in 0..count {
        let value = format!("value {index} ").repeat(40);
        let key = (index % 3 != 0).then_some(&b"key"[..]);
        let body = body(key, Some(value.as_bytes()), &[("a", Some(b"1")), ("b", None)]);
        let most = writer.size_with(body.len());
        // Timestamps go back too.
        writer.push(1_700_000_000_000 + (index as i64 % 5) * 100 - 200, &body);
        assert!(writer.size() <= most);
    }
    writer.finish(STAMP, compression, false).unwrap()
}

/// The message format's worked example, written out by hand.
#[test]
fn a_body_is_key_value_and_headers() {
    let bytes = body(Some(b"k"), None, &[("name", Some(b"v")), ("null", None)]);
    assert_eq!(bytes, b"\x02k\x01\x04\x08name\x02v\x08null\x01");
    let read = Body::parse(&bytes).unwrap();
    assert_eq!((read.key(), read.value()), (Some(&b"k"[..]), None));
    let headers: Vec<_> = read.headers().collect();
    assert_eq!(headers, [("name", Some(&b"v"[..])), ("null", None)]);
    assert_eq!(read.header("name"), Some(&b"v"[..]));
    assert_eq!((read.header("null"), read.header("other")), (None, None));
    for at in 0..bytes.len() {
        assert!(Body::parse(&bytes[..at]).is_err(), "{at}");
    }
    assert!(matches!(Body::parse(&[&bytes[..], b"x"].concat()), Err(Error::Malformed(_))));
    // A count of headers, and a length, of 2 GiB.
    assert_eq!(Body::parse(b"\x01\x01\xfe\xff\xff\xff\x0f"), Err(Error::Truncated));
    assert_eq!(Body::parse(b"\xfe\xff\xff\xff\x0f"), Err(Error::Truncated));
    assert!(matches!(Body::parse(b"\x03\x01\x00"), Err(Error::Malformed(_))));
    // The last of a name counts.
    let twice = body(None, None, &[("n", Some(b"1")), ("n", Some(b"2"))]);
    assert_eq!(Body::parse(&twice).unwrap().header("n"), Some(&b"2"[..]));
}

#[test]
fn ours_is_read_by_theirs_with_each_compression() {
    for (compression, named) in ALL {
        let batch = batch_of(100, compression);
        if compression != Compression::None {
            assert!(batch.len() < batch_of(100, Compression::None).len());
        }
        let sets = theirs::RecordBatchDecoder::decode_all(&mut Bytes::from(batch)).unwrap();
        let [set] = &sets[..] else { panic!() };
        assert_eq!((set.compression, set.version, set.records.len()), (named, 2, 100));
        for (index, record) in set.records.iter().enumerate() {
            assert_eq!((record.offset, record.sequence), (index as i64, 70 + index as i32));
            assert_eq!((record.producer_id, record.producer_epoch), (4001, 3));
            assert_eq!(record.timestamp, 1_700_000_000_000 + (index as i64 % 5) * 100 - 200);
            assert_eq!(record.key, (index % 3 != 0).then_some(Bytes::from_static(b"key")));
            assert_eq!(record.value.as_ref().unwrap(), &format!("value {index} ").repeat(40));
            assert_eq!(record.headers[&StrBytes::from_static_str("a")].as_deref(), Some(&b"1"[..]));
            assert_eq!(record.headers[&StrBytes::from_static_str("b")], None);
            assert!(!record.transactional && !record.control);
        }
    }
}

fn their_record(index: i64) -> theirs::Record {
    theirs::Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: 6,
        producer_id: 4001,
        producer_epoch: 3,
        timestamp_type: theirs::TimestampType::Creation,
        offset: 500 + index,
        sequence: 70 + index as i32,
        timestamp: 1_700_000_000_000 + index,
        key: Some(Bytes::from(format!("key {index}"))),
        value: Some(Bytes::from("some text ".repeat(300))),
        headers: IndexMap::from([(StrBytes::from_static_str("h"), None)]),
    }
}

fn their_batch(records: &[theirs::Record], compression: theirs::Compression) -> Vec<u8> {
    let mut out = BytesMut::new();
    let options = theirs::RecordEncodeOptions { version: 2, compression };
    theirs::RecordBatchEncoder::encode(&mut out, records, &options).unwrap();
    out.to_vec()
}

#[test]
fn theirs_is_read_by_ours_with_each_compression() {
    let records: Vec<_> = (0..50).map(their_record).collect();
    for (compression, named) in ALL {
        let bytes = their_batch(&records, named);
        let batches: Vec<_> = Batches::new(&bytes).collect::<Result<_, _>>().unwrap();
        let [batch] = &batches[..] else { panic!() };
        assert_eq!((batch.base_offset, batch.last_offset, batch.count), (500, 549, 50));
        assert_eq!((batch.producer_id, batch.producer_epoch, batch.base_sequence), (4001, 3, 70));
        assert_eq!((batch.compression, batch.leader_epoch), (compression, 6));
        assert!(!batch.is_control() && !batch.is_transactional());
        let inflated = batch.inflate().unwrap();
        let read: Vec<_> = batch.iter(&inflated).collect::<Result<_, _>>().unwrap();
        assert_eq!(read.len(), 50);
        for (record, index) in read.iter().zip(0..) {
            assert_eq!(record.offset, 500 + index);
            assert_eq!(record.timestamp_ms, 1_700_000_000_000 + index);
            let body = Body::parse(record.body).unwrap();
            assert_eq!(body.key(), Some(format!("key {index}").as_bytes()));
            assert_eq!(body.value().map(<[u8]>::len), Some(3000));
            assert_eq!(body.headers().collect::<Vec<_>>(), [("h", None)]);
        }
    }
}

#[test]
fn a_cut_record_set_gives_its_whole_batches() {
    let one = batch_of(3, Compression::None);
    let two = [&one[..], &one[..]].concat();
    for at in 0..=two.len() {
        let mut batches = Batches::new(&two[..at]);
        let whole = batches.by_ref().map(Result::unwrap).count();
        assert_eq!(whole, at / one.len(), "cut at {at}");
        assert_eq!(batches.rest().len(), at % one.len());
    }
}

#[test]
fn any_flipped_byte_is_noticed() {
    let batch = batch_of(3, Compression::None);
    for at in 0..batch.len() {
        let mut changed = batch.clone();
        changed[at] ^= 0x10;
        let read = Batches::new(&changed).next();
        match at {
            // The base offset is the broker's to set and not under the checksum, nor is the epoch.
            0..8 | 12..16 => {}
            // A longer length looks like a batch that is cut short.
            8..12 => assert!(!matches!(read, Some(Ok(_))), "{at}"),
            _ => assert!(matches!(read, Some(Err(_))), "{at}"),
        }
    }
}

#[test]
fn old_formats_are_named() {
    let mut batch = batch_of(1, Compression::None);
    for magic in [0, 1, 3, 0xff] {
        batch[16] = magic;
        let mut batches = Batches::new(&batch);
        assert!(matches!(batches.next(), Some(Err(Error::Unsupported(_)))), "{magic}");
        assert!(batches.next().is_none());
    }
}

#[test]
fn another_stamp_changes_nothing_else() {
    for (compression, _) in ALL {
        let mut batch = batch_of(10, compression);
        let stamp = Stamp { producer_id: 4001, producer_epoch: 4, base_sequence: 0 };
        restamp(&mut batch, stamp);
        let read = Batches::new(&batch).next().unwrap().unwrap();
        assert_eq!((read.producer_id, read.producer_epoch, read.base_sequence), (4001, 4, 0));
        let records = read.inflate().unwrap();
        assert_eq!(read.iter(&records).map(Result::unwrap).count(), 10);
        restamp(&mut batch, STAMP);
        assert_eq!(batch, batch_of(10, compression));
        restamp(&mut batch[..RECORDS_START - 1], stamp);
    }
}

#[test]
fn what_does_not_get_smaller_stays_as_it_is() {
    let mut writer = BatchWriter::default();
    assert!(writer.is_empty());
    writer.push(5, &body(None, Some(b"x"), &[]));
    assert_eq!((writer.is_empty(), writer.count()), (false, 1));
    let batch = writer.finish(Stamp::NONE, Compression::Gzip, true).unwrap();
    let read = Batches::new(&batch).next().unwrap().unwrap();
    assert_eq!((read.compression, read.producer_id), (Compression::None, -1));
    assert!(read.is_transactional());
}

/// Batches of 64 MiB and one byte of zeroes each: refused whatever their own header says.
#[test]
fn a_bomb_is_refused() {
    let mut record = their_record(0);
    record.value = Some(Bytes::from(vec![0; 64 << 20]));
    for (_, named) in ALL.into_iter().skip(1) {
        let bytes = their_batch(&[record.clone()], named);
        assert!(bytes.len() < 4 << 20);
        let batch = Batches::new(&bytes).next().unwrap().unwrap();
        assert!(matches!(batch.inflate(), Err(Error::TooLarge(_))), "{named:?}");
    }
    // A raw Snappy block that claims 64 MiB and has nothing.
    let mut bytes = their_batch(&[their_record(0)], theirs::Compression::None);
    bytes[22] |= 2;
    bytes.truncate(RECORDS_START);
    bytes.extend_from_slice(b"\x80\x80\x80\x20");
    let length = (bytes.len() - 12) as u32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    restamp(&mut bytes, STAMP);
    let batch = Batches::new(&bytes).next().unwrap().unwrap();
    assert!(matches!(batch.inflate(), Err(Error::Malformed(_))));
}

/// A batch of one producer's transaction, or the marker that ends it.
fn transaction(producer_id: i64, offset: i64, marker: Option<u8>) -> Vec<u8> {
    let mut writer = BatchWriter::default();
    match marker {
        Some(kind) => writer.push(0, &body(Some(&[0, 0, 0, kind]), Some(&[0; 6]), &[])),
        None => writer.push(0, &body(None, Some(b"v"), &[])),
    }
    let mut batch = writer.finish(Stamp { producer_id, ..STAMP }, Compression::None, true).unwrap();
    batch[..8].copy_from_slice(&offset.to_be_bytes());
    batch[22] |= if marker.is_some() { 32 } else { 0 };
    restamp(&mut batch, Stamp { producer_id, ..STAMP });
    batch
}

#[test]
fn aborted_transactions_are_left_out() {
    let (abort, commit) = (Some(0), Some(1));
    let set = [
        transaction(1, 10, None),
        transaction(2, 11, None),
        transaction(1, 12, None),
        transaction(1, 13, abort),
        transaction(2, 14, None),
        transaction(1, 15, None),
        transaction(2, 16, commit),
        transaction(1, 17, commit),
        transaction(3, 18, None),
    ]
    .concat();
    let aborted = [(3, 18), (1, 10)]
        .map(|(producer_id, first_offset)| AbortedTransaction { producer_id, first_offset });
    let kept = |aborted: &[AbortedTransaction]| {
        let mut filter = AbortedTransactions::new(aborted);
        let batches = Batches::new(&set).map(Result::unwrap);
        let kept = batches.filter(|batch| filter.keeps(batch).unwrap());
        kept.map(|batch| batch.base_offset).collect::<Vec<_>>()
    };
    assert_eq!(kept(&aborted), [11, 14, 15]);
    assert_eq!(kept(&[]), [10, 11, 12, 14, 15, 18]);
}

#[test]
fn a_gzip_has_no_end_of_members() {
    let nothing = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let whole = batch_of(20, Compression::Gzip);
    for (more, is_read) in [(1, true), (63, true), (64, false)] {
        let mut batch = [&whole[..], &nothing.repeat(more)].concat();
        let length = batch.len() as u32 - 12;
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        restamp(&mut batch, STAMP);
        let batch = Batches::new(&batch).next().unwrap().unwrap();
        let inflated = batch.inflate();
        let count = inflated.as_ref().map(|records| batch.iter(records).flatten().count());
        let refused = Err(&Error::Malformed("compressed records"));
        assert_eq!(count, if is_read { Ok(20) } else { refused }, "{more}");
    }
}

#[test]
fn a_compressed_control_batch_is_not_looked_into() {
    let mut writer = BatchWriter::default();
    writer.push(0, &body(Some(&[0, 0, 0, 0]), Some(&[0; 5000]), &[]));
    let mut batch = writer.finish(STAMP, Compression::Zstd, true).unwrap();
    assert!(batch.len() < 200, "it is compressed");
    batch[22] |= 32;
    restamp(&mut batch, STAMP);
    let batch = Batches::new(&batch).next().unwrap().unwrap();
    let kept = AbortedTransactions::default().keeps(&batch);
    assert_eq!(kept, Err(Error::Unsupported("compressed control batch")));
}

proptest! {
    #[test]
    fn bodies_come_back(
        key: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
        headers: Vec<(String, Option<Vec<u8>>)>,
    ) {
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        let bytes = body(key.as_deref(), value.as_deref(), &headers);
        let read = Body::parse(&bytes).unwrap();
        prop_assert_eq!(read.key(), key.as_deref());
        prop_assert_eq!(read.value(), value.as_deref());
        prop_assert_eq!(read.headers().collect::<Vec<_>>(), headers);
    }

    #[test]
    fn records_come_back(records: Vec<(i64, Vec<u8>)>, which in 0..5usize) {
        let mut writer = BatchWriter::default();
        let bodies: Vec<_> =
            records.iter().map(|(time, value)| (time >> 1, body(None, Some(value), &[]))).collect();
        for (time, body) in &bodies {
            writer.push(*time, body);
        }
        let batch = writer.finish(STAMP, ALL[which].0, false).unwrap();
        if bodies.is_empty() {
            return Ok(());
        }
        let read = Batches::new(&batch).next().unwrap().unwrap();
        let inflated = read.inflate().unwrap();
        let read: Vec<_> = read
            .iter(&inflated)
            .map(|record| record.map(|record| (record.timestamp_ms, record.body.to_vec())))
            .collect::<Result<_, _>>()
            .unwrap();
        prop_assert_eq!(read, bodies);
    }

    /// Damage behind a right checksum is no panic either.
    #[test]
    fn damaged_batches_do_no_harm(at in 21..4000usize, to: u8, which in 0..5usize) {
        let mut batch = batch_of(20, ALL[which].0);
        let at = 21 + at % (batch.len() - 21);
        batch[at] = to;
        let checksum = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&checksum.to_be_bytes());
        for batch in Batches::new(&batch).flatten() {
            if let Ok(records) = batch.inflate() {
                for record in batch.iter(&records).flatten() {
                    let _ = Body::parse(record.body).map(|body| body.headers().count());
                }
            }
            let _ = AbortedTransactions::default().keeps(&batch);
        }
    }
}
