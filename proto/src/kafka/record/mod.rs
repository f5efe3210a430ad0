//! Records: the body that a record keeps wherever it goes, and batches of them.
//!
//! **Runs on: any.** A record of format v2 begins with what depends on its place in a batch (length,
//! timestamp delta, offset delta); what follows is its *body*: key, value and headers, each with a
//! varint length. A body is written once, when a message comes in, and copied as it is from then on.
//! Source: Kafka documentation, "Message Format"; KIP-98.

mod aborted;
mod batch;
mod compression;
mod writer;

pub use aborted::{AbortedTransaction, AbortedTransactions};
pub use batch::{Batch, Batches, Record, Records};
pub use compression::Compression;
pub use writer::{BatchWriter, Stamp, restamp};

use std::ops::Range;

use super::codec::{Error, Reader, varint_len, write_varint};

/// Where the records of a batch start.
pub const RECORDS_START: usize = 61;

/// Bytes that a record adds to its body at most: attributes, length and two deltas.
pub const RECORD_OVERHEAD: usize = 1 + 5 + 10 + 5;

/// Appends the body of a record; `None` is Kafka's null. Returns its length.
///
/// The lengths have 32 bits with a sign: of anything longer than 2 GiB the caller has to stay clear.
pub fn write_body<'h>(
    out: &mut Vec<u8>,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl Iterator<Item = (&'h str, Option<&'h [u8]>)> + Clone,
) -> usize {
    let start = out.len();
    begin_body(out, key, value, headers.clone().count());
    for (name, value) in headers {
        write_header(out, name, value);
    }
    out.len() - start
}

/// Appends a body's beginning, which exactly `header_count` calls of [`write_header`] complete.
/// Returns where the value lies in `out`.
pub fn begin_body(
    out: &mut Vec<u8>,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    header_count: usize,
) -> Range<usize> {
    write_nullable(out, key);
    write_nullable(out, value);
    let end = out.len();
    write_varint(out, header_count as i64);
    end - value.map_or(0, <[u8]>::len)..end
}

/// Appends a header of a body that [`begin_body`] began.
pub fn write_header(out: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    write_nullable(out, Some(name.as_bytes()));
    write_nullable(out, value);
}

fn write_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    write_varint(out, bytes.map_or(-1, |bytes| bytes.len() as i64));
    out.extend_from_slice(bytes.unwrap_or_default());
}

fn read_nullable<'a>(from: &mut Reader<'a>) -> Result<Option<&'a [u8]>, Error> {
    match from.varint()? {
        -1 => Ok(None),
        length => {
            let length = usize::try_from(length).map_err(|_| Error::Malformed("record length"))?;
            from.take(length).map(Some)
        }
    }
}

fn read_header<'a>(from: &mut Reader<'a>) -> Result<(&'a str, Option<&'a [u8]>), Error> {
    let name = read_nullable(from)?.ok_or(Error::Malformed("header without a name"))?;
    let name = std::str::from_utf8(name).map_err(|_| Error::Malformed("header name"))?;
    Ok((name, read_nullable(from)?))
}

fn reader(bytes: &[u8]) -> Reader<'_> {
    Reader::new(bytes, 0, false)
}

/// A record's body, read and found whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body<'a> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    header_count: usize,
    headers: &'a [u8],
}

impl<'a> Body<'a> {
    /// Reads a body; all of `bytes` has to be one.
    ///
    /// # Errors
    /// It is cut short, breaks the format, or there are bytes left over.
    pub fn parse(bytes: &'a [u8]) -> Result<Body<'a>, Error> {
        let mut from = reader(bytes);
        let key = read_nullable(&mut from)?;
        let value = read_nullable(&mut from)?;
        let header_count =
            usize::try_from(from.varint()?).map_err(|_| Error::Malformed("header count"))?;
        let headers = from.rest();
        for _ in 0..header_count {
            read_header(&mut from)?;
        }
        match from.rest() {
            [] => Ok(Body { key, value, header_count, headers }),
            _ => Err(Error::Malformed("bytes after a record's headers")),
        }
    }

    /// The key, `None` for null.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// The value, `None` for null (a tombstone in a compacted topic).
    pub fn value(&self) -> Option<&'a [u8]> {
        self.value
    }

    /// The headers in their order; a name may come more than once.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone + use<'a> {
        let mut from = reader(self.headers);
        // They were read when the body was, so none of them fails.
        (0..self.header_count).map_while(move |_| read_header(&mut from).ok())
    }

    /// The value of the last header of this name, as in the Java client; `None` if it is null too.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().filter(|header| header.0 == name).last().and_then(|header| header.1)
    }
}

/// Bytes of a record in a batch, its own length included.
fn record_len(timestamp_delta: i64, offset_delta: i64, body_len: usize) -> (i64, usize) {
    let inner = 1 + varint_len(timestamp_delta) + varint_len(offset_delta) + body_len;
    (inner as i64, inner + varint_len(inner as i64))
}
