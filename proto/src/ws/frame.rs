//! Frames of RFC 6455 §5.2: reading a client's header, writing a server's.
//!
//! **Runs on: any.** A header is checked as far as it has arrived, so a wrong first byte is an error
//! before the second one comes, and a length over the limit before the payload does.

use super::Error;
use crate::limits::WS_CONTROL_BYTES;

/// The frames a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// A whole text message; the payload must be UTF-8.
    Text,
    /// A whole binary message.
    Binary,
    /// A close frame; see [`close_payload`].
    Close,
    /// A ping, at most 125 bytes.
    Ping,
    /// A pong, at most 125 bytes: the payload of the ping it answers.
    Pong,
}

/// A few bytes with a length, kept in place.
#[derive(Clone, Copy)]
pub struct Inline<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

/// A server's frame header.
pub type Header = Inline<10>;
/// The payload of a close frame.
pub type ClosePayload = Inline<WS_CONTROL_BYTES>;

impl<const N: usize> Inline<N> {
    /// The bytes to send.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len()).unwrap_or_default()
    }

    /// How many bytes there are; at least two.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    fn new() -> Inline<N> {
        Inline { bytes: [0; N], len: 0 }
    }

    fn push(&mut self, more: &[u8]) {
        let start = self.len();
        let room = self.bytes.get_mut(start..start + more.len());
        assert!(room.is_some(), "N covers every caller");
        if let Some(room) = room {
            room.copy_from_slice(more);
            self.len += more.len() as u8;
        }
    }
}

/// The header of a server's frame, FIN set and unmasked, to be sent before `payload_len` bytes of
/// payload (RFC 6455 §5.2). At most 10 bytes. A control frame's payload is at most 125 bytes.
pub fn header(kind: FrameKind, payload_len: usize) -> Header {
    let opcode = match kind {
        FrameKind::Text => Opcode::Text,
        FrameKind::Binary => Opcode::Binary,
        FrameKind::Close => Opcode::Close,
        FrameKind::Ping => Opcode::Ping,
        FrameKind::Pong => Opcode::Pong,
    };
    assert!(!opcode.is_control() || payload_len <= WS_CONTROL_BYTES);
    let mut header = Header::new();
    let first = FIN | opcode as u8;
    if payload_len <= WS_CONTROL_BYTES {
        header.push(&[first, payload_len as u8]);
    } else if let Ok(len) = u16::try_from(payload_len) {
        header.push(&[first, LENGTH_16]);
        header.push(&len.to_be_bytes());
    } else {
        header.push(&[first, LENGTH_64]);
        header.push(&(payload_len as u64).to_be_bytes());
    }
    header
}

/// The payload of a close frame (RFC 6455 §5.5.1): the code, then the reason cut at a character's
/// end to 123 bytes.
pub fn close_payload(code: u16, reason: &str) -> ClosePayload {
    let end = reason.floor_char_boundary(WS_CONTROL_BYTES - 2);
    let mut payload = ClosePayload::new();
    payload.push(&code.to_be_bytes());
    payload.push(reason.as_bytes().get(..end).unwrap_or_default());
    payload
}

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// The longest header of a client's frame: two bytes, a length of eight, a key of four.
pub(super) const CLIENT_HEADER_BYTES: usize = 14;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    pub(super) fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }

    fn from_bits(bits: u8) -> Result<Opcode, Error> {
        Ok(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return Err(Error::UnknownOpcode),
        })
    }
}

/// A client's frame header, checked. What is left of the frame while it is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) fin: bool,
    pub(super) opcode: Opcode,
    /// Bytes of payload still to come.
    pub(super) remaining: usize,
    /// The masking key, turned so that its first byte meets the next byte of payload.
    pub(super) key: [u8; 4],
}

/// What a header is checked against.
#[derive(Clone, Copy)]
pub(super) struct Context {
    /// Bytes of the message under way, if there is one.
    pub(super) message: Option<usize>,
    /// Bytes a message may have.
    pub(super) message_limit: usize,
}

impl Frame {
    /// Reads a header from the start of `bytes`: the frame and the header's length, or `None` while
    /// part of it is missing. What has arrived is checked either way.
    #[inline]
    pub(super) fn parse(bytes: &[u8], context: Context) -> Result<Option<(Frame, usize)>, Error> {
        let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
        if first & RESERVED != 0 {
            return Err(Error::ReservedBits);
        }
        let fin = first & FIN != 0;
        let opcode = Opcode::from_bits(first & 0x0f)?;
        match (opcode, context.message) {
            (Opcode::Continuation, None) => return Err(Error::UnexpectedContinuation),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(Error::ExpectedContinuation),
            _ if opcode.is_control() && !fin => return Err(Error::ControlFragmented),
            _ => {}
        }

        let Some((&second, rest)) = rest.split_first() else { return Ok(None) };
        if second & MASKED == 0 {
            return Err(Error::Unmasked);
        }
        let short = second & !MASKED;
        if opcode.is_control() && usize::from(short) > WS_CONTROL_BYTES {
            return Err(Error::ControlTooLong);
        }
        let Some((len, rest)) = parse_length(short, rest)? else { return Ok(None) };
        let limit = if opcode.is_control() {
            WS_CONTROL_BYTES
        } else {
            context.message_limit.saturating_sub(context.message.unwrap_or(0))
        };
        let remaining =
            usize::try_from(len).ok().filter(|&len| len <= limit).ok_or(Error::MessageTooLong)?;
        let Some((&key, rest)) = rest.split_first_chunk() else { return Ok(None) };
        Ok(Some((Frame { fin, opcode, remaining, key }, bytes.len() - rest.len())))
    }
}

#[inline]
fn parse_length(short: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, Error> {
    let (len, rest, minimum) = match short {
        LENGTH_16 => match rest.split_first_chunk() {
            Some((&len, rest)) => (u64::from(u16::from_be_bytes(len)), rest, 126),
            None => return Ok(None),
        },
        LENGTH_64 => match rest.split_first_chunk() {
            Some((&len, rest)) => (u64::from_be_bytes(len), rest, 1 << 16),
            None => return Ok(None),
        },
        _ => (u64::from(short), rest, 0),
    };
    if len < minimum {
        return Err(Error::LengthNotMinimal);
    }
    if len >> 63 != 0 {
        return Err(Error::LengthInvalid);
    }
    Ok(Some((len, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_headers() {
        // RFC 6455 §5.7.
        assert_eq!(header(FrameKind::Text, 5).as_slice(), [0x81, 0x05]);
        assert_eq!(header(FrameKind::Ping, 5).as_slice(), [0x89, 0x05]);
        assert_eq!(header(FrameKind::Binary, 256).as_slice(), [0x82, 0x7e, 0x01, 0x00]);
        let large = [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0];
        assert_eq!(header(FrameKind::Binary, 65_536).as_slice(), large);
        // Each length in its shortest form (§5.2).
        for (len, bytes) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            assert_eq!(header(FrameKind::Text, len).len(), bytes);
        }
        assert_eq!(header(FrameKind::Close, 0).as_slice(), [0x88, 0]);
        assert_eq!(header(FrameKind::Pong, 125).as_slice(), [0x8a, 125]);
    }

    #[test]
    fn close_payloads() {
        assert_eq!(close_payload(1000, "").as_slice(), [0x03, 0xe8]);
        assert_eq!(close_payload(3008, "slow").as_slice(), b"\x0b\xc0slow");
        assert_eq!(close_payload(1000, &"x".repeat(200)).len(), 125);
        // 61 characters of two bytes and the half of one more would be 123 bytes.
        let cut = close_payload(1000, &"é".repeat(100));
        assert_eq!(cut.len(), 124);
        assert!(std::str::from_utf8(&cut.as_slice()[2..]).is_ok());
    }
}
