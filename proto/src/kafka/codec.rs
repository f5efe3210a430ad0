//! The primitive types of Kafka's protocol: a reader that borrows and a writer that appends.
//!
//! **Runs on: any.** A reader and a writer know the API version of the message and whether it is a
//! flexible one (KIP-482), in which strings, byte strings and arrays are in compact form and each
//! structure ends with tagged fields. A count or a length is compared with what is left of the input
//! before anything is allocated for it.

use std::fmt;

/// A topic's id, a member's id, a directory's id: 16 bytes, all 0 where there is none.
pub type Uuid = [u8; 16];

/// Why bytes of a broker could not be read. All are the sender's fault (or the network's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It ends before it is complete.
    Truncated,
    /// It breaks the format, and how.
    Malformed(&'static str),
    /// It is over one of our limits, and which.
    TooLarge(&'static str),
    /// It is well-formed, for all we know, but nothing that is read here.
    Unsupported(&'static str),
    /// A record batch whose CRC-32C does not match.
    Checksum,
    /// What speaks at the other end is no Kafka broker's plain listener, and what it looks like.
    Foreign(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Truncated => f.write_str("ends too early"),
            Error::Malformed(what) => write!(f, "malformed: {what}"),
            Error::TooLarge(what) => write!(f, "too large: {what}"),
            Error::Unsupported(what) => write!(f, "not supported: {what}"),
            Error::Checksum => f.write_str("a record batch's checksum does not match"),
            Error::Foreign(what) => write!(f, "not a Kafka broker: {what}"),
        }
    }
}

impl std::error::Error for Error {}

type Result<T> = std::result::Result<T, Error>;

/// Reads the fields of one message in their order, borrowing from the input.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    version: i16,
    flexible: bool,
}

macro_rules! fixed {
    ($($name:ident: $type:ty),*) => {$(
        #[doc = concat!("A big-endian `", stringify!($type), "`.")]
        pub fn $name(&mut self) -> Result<$type> {
            self.array().map(<$type>::from_be_bytes)
        }
    )*};
}

impl<'a> Reader<'a> {
    /// A reader of a message of `version`.
    pub fn new(input: &'a [u8], version: i16, flexible: bool) -> Reader<'a> {
        Reader { rest: input, version, flexible }
    }

    /// Whether the message is of `version` or later.
    pub fn since(&self, version: i16) -> bool {
        self.version >= version
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    fixed!(i8: i8, i16: i16, i32: i32, i64: i64, u32: u32);

    /// A byte that says yes (other than 0) or no.
    pub fn bool(&mut self) -> Result<bool> {
        Ok(self.i8()? != 0)
    }

    /// 16 bytes.
    pub fn uuid(&mut self) -> Result<Uuid> {
        self.array()
    }

    /// An unsigned varint of 32 bits.
    pub fn unsigned_varint(&mut self) -> Result<u32> {
        let value = self.unsigned(5, "varint")?;
        u32::try_from(value).map_err(|_| Error::Malformed("varint"))
    }

    /// A zigzag varint of 32 bits.
    pub fn varint(&mut self) -> Result<i32> {
        let value = self.unsigned_varint()?;
        Ok((value >> 1) as i32 ^ -((value & 1) as i32))
    }

    /// A zigzag varint of 64 bits.
    pub fn varlong(&mut self) -> Result<i64> {
        let value = self.unsigned(10, "varlong")?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn unsigned(&mut self, most: usize, what: &'static str) -> Result<u64> {
        let mut value = 0u64;
        for index in 0..most {
            let (&byte, rest) = self.rest.split_first().ok_or(Error::Truncated)?;
            self.rest = rest;
            if index == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 127) << (7 * index);
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(Error::Malformed(what))
    }

    /// A length or count, `None` for null; `short` where the old form is of 16 bits.
    fn length(&mut self, short: bool) -> Result<Option<usize>> {
        let length = match (self.flexible, short) {
            (true, _) => i64::from(self.unsigned_varint()?) - 1,
            (false, true) => i64::from(self.i16()?),
            (false, false) => i64::from(self.i32()?),
        };
        match length {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| Error::Malformed("length")),
        }
    }

    /// A string or null.
    pub fn nullable_string(&mut self) -> Result<Option<&'a str>> {
        let Some(len) = self.length(true)? else { return Ok(None) };
        let text = self.take(len)?;
        std::str::from_utf8(text).map(Some).map_err(|_| Error::Malformed("string is not UTF-8"))
    }

    /// A string.
    pub fn string(&mut self) -> Result<&'a str> {
        self.nullable_string()?.ok_or(Error::Malformed("null string"))
    }

    /// Bytes or null.
    pub fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>> {
        let Some(len) = self.length(false)? else { return Ok(None) };
        self.take(len).map(Some)
    }

    /// Bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        self.nullable_bytes()?.ok_or(Error::Malformed("null bytes"))
    }

    /// The number of an array's items, `None` for null. Every item has at least one byte, so that a
    /// count over the bytes that are left is refused.
    pub fn nullable_count(&mut self) -> Result<Option<usize>> {
        let count = self.length(false)?;
        if count.is_some_and(|count| count > self.rest.len()) {
            return Err(Error::Truncated);
        }
        Ok(count)
    }

    /// The number of an array's items; null counts as none.
    pub fn count(&mut self) -> Result<usize> {
        Ok(self.nullable_count()?.unwrap_or(0))
    }

    /// An array; null is an empty one.
    pub fn items<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let count = self.count()?;
        // No more than the input's own size is reserved on the word of a count.
        let reserve = count.min(self.rest.len() / size_of::<T>().max(1) + 1);
        let mut items = Vec::with_capacity(reserve);
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// The tagged fields that end a structure, all skipped.
    pub fn tags(&mut self) -> Result<()> {
        self.each_tag(|_, _| Ok(()))
    }

    /// The tagged fields that end a structure: `field` gets each tag with a reader of its value.
    pub fn each_tag(&mut self, mut field: impl FnMut(u32, &mut Self) -> Result<()>) -> Result<()> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.unsigned_varint()? {
            let tag = self.unsigned_varint()?;
            let len = self.unsigned_varint()? as usize;
            let mut value = Reader { rest: self.take(len)?, ..*self };
            field(tag, &mut value)?;
        }
        Ok(())
    }
}

/// Appends the fields of one message in their order.
#[derive(Debug)]
pub struct Writer<'o> {
    out: &'o mut Vec<u8>,
    version: i16,
    flexible: bool,
}

macro_rules! append {
    ($($name:ident: $type:ty),*) => {$(
        #[doc = concat!("A big-endian `", stringify!($type), "`.")]
        pub fn $name(&mut self, value: $type) {
            self.out.extend_from_slice(&value.to_be_bytes());
        }
    )*};
}

impl<'o> Writer<'o> {
    /// A writer of a message of `version`.
    pub fn new(out: &'o mut Vec<u8>, version: i16, flexible: bool) -> Writer<'o> {
        Writer { out, version, flexible }
    }

    /// Whether the message is of `version` or later.
    pub fn since(&self, version: i16) -> bool {
        self.version >= version
    }

    /// Bytes in the buffer by now, with what was there before the message.
    pub fn position(&self) -> usize {
        self.out.len()
    }

    append!(i8: i8, i16: i16, i32: i32, i64: i64);

    /// Yes or no.
    pub fn bool(&mut self, value: bool) {
        self.i8(value.into());
    }

    /// 16 bytes.
    pub fn uuid(&mut self, value: &Uuid) {
        self.out.extend_from_slice(value);
    }

    /// Bytes as they are, without a length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// A length or count, `None` for null. What is too long for its width can't be sent and is
    /// written as null; no name or id comes near.
    fn length(&mut self, length: Option<usize>, short: bool) {
        let length = length.map_or(-1, |length| i32::try_from(length).unwrap_or(-1));
        if self.flexible {
            write_unsigned(self.out, (i64::from(length) + 1) as u64);
        } else if short {
            self.i16(i16::try_from(length).unwrap_or(-1));
        } else {
            self.i32(length);
        }
    }

    /// A string or null.
    pub fn nullable_string(&mut self, value: Option<&str>) {
        // The old form's length has 16 bits: a longer one is null with no bytes after it.
        let value = value.filter(|value| self.flexible || value.len() <= i16::MAX as usize);
        self.length(value.map(str::len), true);
        self.raw(value.unwrap_or_default().as_bytes());
    }

    /// A string.
    pub fn string(&mut self, value: &str) {
        self.nullable_string(Some(value));
    }

    /// Bytes or null.
    pub fn nullable_bytes(&mut self, value: Option<&[u8]>) {
        self.length(value.map(<[u8]>::len), false);
        self.raw(value.unwrap_or_default());
    }

    /// Bytes.
    pub fn bytes(&mut self, value: &[u8]) {
        self.nullable_bytes(Some(value));
    }

    /// The length before bytes that the caller places itself.
    pub fn bytes_len(&mut self, len: usize) {
        self.length(Some(len), false);
    }

    /// The number of an array's items, `None` for null; the items follow.
    pub fn nullable_count(&mut self, count: Option<usize>) {
        self.length(count, false);
    }

    /// The number of an array's items; the items follow.
    pub fn count(&mut self, count: usize) {
        self.length(Some(count), false);
    }

    /// An array.
    pub fn items<T>(&mut self, items: &[T], mut item: impl FnMut(&mut Self, &T)) {
        self.count(items.len());
        for value in items {
            item(self, value);
        }
    }

    /// The end of a structure: no tagged fields.
    pub fn tags(&mut self) {
        if self.flexible {
            self.i8(0);
        }
    }
}

/// Appends an unsigned varint.
pub fn write_unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a zigzag varint, of 32 or 64 bits.
pub fn write_varint(out: &mut Vec<u8>, value: i64) {
    write_unsigned(out, zigzag(value));
}

/// Bytes of `value` as a zigzag varint.
pub fn varint_len(value: i64) -> usize {
    (64 - (zigzag(value) | 1).leading_zeros() as usize).div_ceil(7)
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}
