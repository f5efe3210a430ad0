//! Compression of a batch's records, through libraries.
//!
//! **Runs on: any.** What inflates to more than 64 MiB is refused while it is inflated, whatever it
//! says of its own size.

use crate::kafka::codec::{Error, Reader};
use crate::limits::KAFKA_BATCH_BYTES;
use std::io::{Read, Write};

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None = 0,
    /// gzip.
    Gzip = 1,
    /// Snappy. Written as one raw block; the chunks that the Java client writes are read too.
    Snappy = 2,
    /// LZ4, as a frame of independent blocks.
    Lz4 = 3,
    /// Zstandard; Kafka 2.1 and later (Produce from version 7, Fetch from version 10).
    Zstd = 4,
}

/// The level of gzip and zstd: both libraries' default.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// What the Java client's Snappy begins with; two version numbers of 32 bits follow, then chunks,
/// each with its length.
const SNAPPY_CHUNKS: &[u8] = b"\x82SNAPPY\0";

/// Members of one gzip. Clients write one; each takes microseconds, also those that hold nothing, of
/// which a million fit in a batch.
const GZIP_MEMBERS: usize = 64;

/// A Snappy block never inflates to more than this many times its size: an element of three bytes
/// yields 64 at most.
const SNAPPY_RATIO: usize = 64;

const DAMAGED: Error = Error::Malformed("compressed records");
const TOO_LARGE: Error = Error::TooLarge("batch that inflates to more than 64 MiB");

impl Compression {
    /// From a batch's attributes.
    pub(super) fn of(bits: i16) -> Result<Compression, Error> {
        Ok(match bits {
            0 => Compression::None,
            1 => Compression::Gzip,
            2 => Compression::Snappy,
            3 => Compression::Lz4,
            4 => Compression::Zstd,
            _ => return Err(Error::Unsupported("compression of a batch")),
        })
    }

    /// Appends the compressed form of `records`.
    pub(super) fn deflate(self, records: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        // Writing to memory fails only where a library has a limit of its own.
        const REFUSED: Error = Error::TooLarge("batch for its compressor");
        match self {
            Compression::None => out.extend_from_slice(records),
            Compression::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                let mut encoder = flate2::write::GzEncoder::new(out, level);
                encoder
                    .write_all(records)
                    .and_then(|()| encoder.try_finish())
                    .map_err(|_| REFUSED)?;
            }
            Compression::Snappy => {
                let start = out.len();
                out.resize(start + snap::raw::max_compress_len(records.len()), 0);
                let written = snap::raw::Encoder::new()
                    .compress(records, &mut out[start..])
                    .map_err(|_| REFUSED)?;
                out.truncate(start + written);
            }
            Compression::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(out);
                encoder.write_all(records).map_err(|_| REFUSED)?;
                encoder.finish().map_err(|_| REFUSED)?;
            }
            Compression::Zstd => {
                let deflated = zstd::bulk::compress(records, ZSTD_LEVEL).map_err(|_| REFUSED)?;
                out.extend_from_slice(&deflated);
            }
        }
        Ok(())
    }

    /// Inflates `deflated`, to 64 MiB at most.
    pub(super) fn inflate(self, deflated: &[u8]) -> Result<Vec<u8>, Error> {
        match self {
            Compression::None => Ok(deflated.to_vec()),
            Compression::Gzip => inflate_gzip(deflated),
            Compression::Snappy => inflate_snappy(deflated),
            Compression::Lz4 => read_all(lz4_flex::frame::FrameDecoder::new(deflated)),
            Compression::Zstd => {
                read_all(zstd::stream::read::Decoder::with_buffer(deflated).map_err(|_| DAMAGED)?)
            }
        }
    }
}

fn read_all(decoder: impl Read) -> Result<Vec<u8>, Error> {
    let mut inflated = Vec::new();
    append_all(decoder, &mut inflated)?;
    Ok(inflated)
}

fn append_all(decoder: impl Read, inflated: &mut Vec<u8>) -> Result<(), Error> {
    // One byte more than the limit tells what is too large from what fits exactly.
    let left = (KAFKA_BATCH_BYTES - inflated.len()) as u64 + 1;
    decoder.take(left).read_to_end(inflated).map_err(|_| DAMAGED)?;
    if inflated.len() > KAFKA_BATCH_BYTES { Err(TOO_LARGE) } else { Ok(()) }
}

fn inflate_gzip(mut deflated: &[u8]) -> Result<Vec<u8>, Error> {
    let mut inflated = Vec::new();
    for _ in 0..GZIP_MEMBERS {
        let mut decoder = flate2::bufread::GzDecoder::new(deflated);
        append_all(&mut decoder, &mut inflated)?;
        deflated = decoder.into_inner();
        if deflated.is_empty() {
            return Ok(inflated);
        }
    }
    Err(DAMAGED)
}

fn inflate_snappy(deflated: &[u8]) -> Result<Vec<u8>, Error> {
    let mut inflated = Vec::new();
    let Some(chunks) = deflated.strip_prefix(SNAPPY_CHUNKS) else {
        append_snappy(deflated, &mut inflated)?;
        return Ok(inflated);
    };
    let mut from = Reader::new(chunks, 0, false);
    from.take(8)?;
    while !from.rest().is_empty() {
        let len = usize::try_from(from.i32()?).map_err(|_| DAMAGED)?;
        append_snappy(from.take(len)?, &mut inflated)?;
    }
    Ok(inflated)
}

fn append_snappy(block: &[u8], inflated: &mut Vec<u8>) -> Result<(), Error> {
    let len = snap::raw::decompress_len(block).map_err(|_| DAMAGED)?;
    let start = inflated.len();
    if start.saturating_add(len) > KAFKA_BATCH_BYTES {
        return Err(TOO_LARGE);
    }
    if len > block.len().saturating_mul(SNAPPY_RATIO) {
        return Err(DAMAGED);
    }
    inflated.resize(start + len, 0);
    let written =
        snap::raw::Decoder::new().decompress(block, &mut inflated[start..]).map_err(|_| DAMAGED)?;
    if written == len { Ok(()) } else { Err(DAMAGED) }
}
