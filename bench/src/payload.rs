//! The payload of a benchmark message: a small JSON object of a chosen size
//! that says who sent it, as which one, and when it was due.
//!
//! **Runs on: any.**
//!
//! `{"id":"RRRRRRRR.SSSSSS.QQQQQQQQ.TTTTTTTTTTTT","pad":"xxx"}`: run, sender,
//! sequence, and nanoseconds since the run began, in hexadecimal, each always
//! at the same place.

/// The smallest payload.
pub const SMALLEST_BYTES: usize = 55;

const RUN: usize = 7;
const SENDER: usize = 16;
const SEQUENCE: usize = 23;
const TIME: usize = 32;
const TIME_END: usize = 44;

/// Who sent a message, as which one, and when it was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Names the run, so that leftovers of another are noticed.
    pub run: u32,
    /// The sending client, below 2^24.
    pub sender: u32,
    /// 0, 1, 2 … for each sender.
    pub sequence: u32,
    /// When the message was due, since the run began; below 2^48.
    pub due_ns: u64,
}

/// Appends a payload of `size_bytes`, at least [`SMALLEST_BYTES`].
pub fn write(out: &mut Vec<u8>, size_bytes: usize, stamp: &Stamp) {
    assert!(size_bytes >= SMALLEST_BYTES);
    let start = out.len();
    out.extend_from_slice(br#"{"id":"RRRRRRRR.SSSSSS.QQQQQQQQ.TTTTTTTTTTTT","pad":""#);
    out.resize(start + size_bytes - 2, b'x');
    out.extend_from_slice(br#""}"#);
    let text = &mut out[start..];
    put(&mut text[RUN..RUN + 8], u64::from(stamp.run));
    put(&mut text[SENDER..SENDER + 6], u64::from(stamp.sender));
    put(&mut text[SEQUENCE..SEQUENCE + 8], u64::from(stamp.sequence));
    put(&mut text[TIME..TIME_END], stamp.due_ns);
}

/// Reads a payload; `None` if it is not one of `size_bytes`.
pub fn read(text: &[u8], size_bytes: usize) -> Option<Stamp> {
    if text.len() != size_bytes || size_bytes < SMALLEST_BYTES {
        return None;
    }
    Some(Stamp {
        run: get(&text[RUN..RUN + 8])? as u32,
        sender: get(&text[SENDER..SENDER + 6])? as u32,
        sequence: get(&text[SEQUENCE..SEQUENCE + 8])? as u32,
        due_ns: get(&text[TIME..TIME_END])?,
    })
}

fn put(digits: &mut [u8], mut value: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

fn get(digits: &[u8]) -> Option<u64> {
    let mut value = 0;
    for &digit in digits {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        value = value << 4 | u64::from(nibble);
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote() {
        let stamp = Stamp { run: 0xdead_beef, sender: 12, sequence: 70_000, due_ns: 1 << 40 };
        for size_bytes in [SMALLEST_BYTES, 64, 128] {
            let mut out = Vec::new();
            write(&mut out, size_bytes, &stamp);
            assert_eq!(out.len(), size_bytes);
            assert_eq!(read(&out, size_bytes), Some(stamp));
            assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
            assert_eq!(read(&out, size_bytes + 1), None);
        }
    }
}
