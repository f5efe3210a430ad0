//! The receiving side of a WebSocket: bytes of a client in, messages and control frames out.
//!
//! **Runs on: any.** A frame wholly inside the input is unmasked there and handed out as a slice of
//! it. Of anything else, the bytes received so far are unmasked and moved to an assembly of the
//! decoder's own, which grows by what arrives and never by what a header promises.
//! Invariant: the same events, then the same error, come out however the input is cut.

use super::frame::{CLIENT_HEADER_BYTES, Context, Frame, Opcode};
use super::{Error, FrameKind};
use crate::{limits, simd};

/// What a client may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one message over all its fragments; 64 KiB by default.
    pub message_bytes: usize,
    /// Frames one message may be cut into; 128 by default.
    pub fragments: u32,
    /// Control frames in one second; 20 by default.
    pub control_frames_per_second: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_bytes: limits::WS_MESSAGE_BYTES,
            fragments: limits::WS_FRAGMENTS,
            control_frames_per_second: limits::WS_CONTROL_FRAMES_PER_SECOND,
        }
    }
}

/// The type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8, and checked to be.
    Text,
    /// Any bytes.
    Binary,
}

impl From<Kind> for FrameKind {
    fn from(kind: Kind) -> FrameKind {
        match kind {
            Kind::Text => FrameKind::Text,
            Kind::Binary => FrameKind::Binary,
        }
    }
}

/// What a client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole message; the payload of a text message is valid UTF-8.
    Message {
        /// Its type.
        kind: Kind,
        /// Its bytes, unmasked.
        payload: &'a [u8],
    },
    /// To be answered by a pong with the same payload (RFC 6455 §5.5.3).
    Ping(&'a [u8]),
    /// The answer to a ping, or unsolicited (§5.5.3).
    Pong(&'a [u8]),
    /// To be answered by a close frame with the same code (§5.5.1). The last event: whatever
    /// follows it is thrown away.
    Close {
        /// The client's code, valid on the wire (§7.4); `None` if the frame had no body.
        code: Option<u16>,
        /// The client's reason, which may be empty.
        reason: &'a str,
    },
}

/// Decodes the frames of one client. Small, and without memory of its own between messages.
#[derive(Debug, Default)]
pub struct Decoder {
    /// A half-read frame or a message in parts.
    pending: Option<Box<Pending>>,
    /// When the second began in which control frames are counted.
    control_since_ms: u64,
    control_frames: u32,
    /// The first bytes of a header that is not whole yet.
    head: [u8; CLIENT_HEADER_BYTES],
    head_len: u8,
    /// A close frame or an error was handed out.
    closed: bool,
}

const _: () = assert!(size_of::<Decoder>() <= 56);

impl Decoder {
    /// A decoder for a connection right after its opening handshake.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Decodes the next event from `input`, unmasking in place. Returns how many bytes were consumed
    /// and the event if one is complete; `(input.len(), None)` means that more is needed.
    ///
    /// Call it until there is no event: the last call also gives back the memory of a message that
    /// came in parts. After a close frame or an error everything is consumed and ignored
    /// (RFC 6455 §5.5.1, §7.1.7). `now_ms` may be any clock that does not go back.
    pub fn next<'a>(
        &'a mut self,
        input: &'a mut [u8],
        limits: &Limits,
        now_ms: u64,
    ) -> Result<(usize, Option<Event<'a>>), Error> {
        self.release();
        if self.closed {
            return Ok((input.len(), None));
        }
        let mut position = 0;
        let complete = loop {
            match self.step(input, &mut position, limits, now_ms) {
                Ok(Step::Again) => {}
                Ok(Step::More) => return Ok((input.len(), None)),
                Ok(Step::Complete(complete)) => break complete,
                Err(error) => {
                    self.closed = true;
                    self.pending = None;
                    return Err(error);
                }
            }
        };
        self.closed = complete.opcode == Opcode::Close;
        let payload = match (complete.source, self.pending.as_deref()) {
            (Source::Input, _) => input.get(position - complete.len..position),
            (Source::Assembly, Some(pending)) => pending.message.as_ref().map(|m| &m.bytes[..]),
            (Source::Control, Some(pending)) => Some(&pending.control[..]),
            (_, None) => None,
        };
        assert!(payload.is_some());
        let event = event(complete.opcode, payload.unwrap_or_default())?;
        Ok((position, Some(event)))
    }

    /// Whether the connection is between messages, with nothing half-read.
    pub fn is_idle(&self) -> bool {
        self.head_len == 0 && self.pending.as_ref().is_none_or(|pending| pending.is_done())
    }

    /// Frees what the last event was borrowed from.
    fn release(&mut self) {
        let Some(pending) = &mut self.pending else { return };
        if self.closed || pending.is_done() {
            self.pending = None;
        } else if pending.frame.is_none() {
            pending.control = Vec::new();
        }
    }

    fn step(
        &mut self,
        input: &mut [u8],
        position: &mut usize,
        limits: &Limits,
        now_ms: u64,
    ) -> Result<Step, Error> {
        let rest = input.get_mut(*position..).unwrap_or_default();
        if let Some(pending) = &mut self.pending
            && let Some(frame) = pending.frame
        {
            *position += frame.remaining.min(rest.len());
            return pending.absorb(frame, rest);
        }

        let Some((frame, header_len)) = self.read_header(rest, limits)? else {
            return Ok(Step::More);
        };
        *position += header_len;
        if frame.opcode.is_control() {
            self.count_control_frame(limits, now_ms)?;
        }
        let rest = rest.get_mut(header_len..).unwrap_or_default();
        let alone = frame.opcode != Opcode::Continuation && frame.fin;
        if alone && let Some(payload) = rest.get_mut(..frame.remaining) {
            simd::mask(payload, frame.key);
            if frame.opcode == Opcode::Text && simdutf8::basic::from_utf8(payload).is_err() {
                return Err(Error::InvalidUtf8);
            }
            *position += frame.remaining;
            let len = frame.remaining;
            return Ok(Step::Complete(Complete {
                opcode: frame.opcode,
                source: Source::Input,
                len,
            }));
        }
        self.pending.get_or_insert_default().begin(frame, limits)?;
        Ok(Step::Again)
    }

    /// Reads a header from the input, or from the bytes kept of it and the input. The length is what
    /// was taken from the input.
    #[inline]
    fn read_header(
        &mut self,
        input: &[u8],
        limits: &Limits,
    ) -> Result<Option<(Frame, usize)>, Error> {
        let message = self.pending.as_ref().and_then(|pending| pending.message.as_ref());
        let context = Context {
            message: message.map(|message| message.bytes.len()),
            message_limit: limits.message_bytes,
        };
        if self.head_len == 0
            && let Some(whole) = Frame::parse(input, context)?
        {
            return Ok(Some(whole));
        }
        for (index, &byte) in input.iter().enumerate() {
            let kept = usize::from(self.head_len);
            if let Some(room) = self.head.get_mut(kept) {
                *room = byte;
            }
            self.head_len += 1;
            let head = self.head.get(..=kept).unwrap_or_default();
            if let Some((frame, _)) = Frame::parse(head, context)? {
                self.head_len = 0;
                return Ok(Some((frame, index + 1)));
            }
        }
        Ok(None)
    }

    fn count_control_frame(&mut self, limits: &Limits, now_ms: u64) -> Result<(), Error> {
        if now_ms.saturating_sub(self.control_since_ms) >= 1000 {
            self.control_since_ms = now_ms;
            self.control_frames = 0;
        }
        if self.control_frames >= limits.control_frames_per_second {
            return Err(Error::TooManyControlFrames);
        }
        self.control_frames += 1;
        Ok(())
    }
}

enum Step {
    /// Something was consumed; look at what follows.
    Again,
    /// The input is used up.
    More,
    Complete(Complete),
}

/// A finished message or control frame, by where its payload lies.
struct Complete {
    opcode: Opcode,
    source: Source,
    /// Bytes of payload at the end of the consumed input, for [`Source::Input`].
    len: usize,
}

enum Source {
    Input,
    Assembly,
    Control,
}

#[derive(Debug, Default)]
struct Pending {
    /// The frame whose payload is being received.
    frame: Option<Frame>,
    /// The message whose parts are being collected, or the finished one that was handed out last.
    message: Option<Assembly>,
    /// The payload so far of a half-read control frame, at most 125 bytes.
    control: Vec<u8>,
}

#[derive(Debug)]
struct Assembly {
    opcode: Opcode,
    fragments: u32,
    bytes: Vec<u8>,
    /// How many bytes of a text message are known to be whole, valid characters.
    checked: usize,
    finished: bool,
}

impl Pending {
    /// Nothing is under way: what is here was handed out.
    fn is_done(&self) -> bool {
        self.frame.is_none() && self.message.as_ref().is_none_or(|message| message.finished)
    }

    /// Starts on a frame that is part of a message or not wholly received.
    fn begin(&mut self, frame: Frame, limits: &Limits) -> Result<(), Error> {
        assert!(self.frame.is_none());
        if !frame.opcode.is_control() {
            let message = self.message.get_or_insert_with(|| Assembly::new(frame.opcode));
            message.fragments += 1;
            if message.fragments > limits.fragments {
                return Err(Error::TooManyFragments);
            }
        }
        self.frame = Some(frame);
        Ok(())
    }

    /// Takes what the input has of `frame`, the one under way.
    fn absorb(&mut self, mut frame: Frame, input: &mut [u8]) -> Result<Step, Error> {
        let taken = frame.remaining.min(input.len());
        let payload = input.get_mut(..taken).unwrap_or_default();
        simd::mask(payload, frame.key);
        frame.key.rotate_left(taken % 4);
        frame.remaining -= taken;
        self.frame = (frame.remaining > 0).then_some(frame);

        let opcode = frame.opcode;
        let complete = |source, opcode| Step::Complete(Complete { opcode, source, len: 0 });
        if opcode.is_control() {
            self.control.extend_from_slice(payload);
            let whole = self.frame.is_none();
            return Ok(if whole { complete(Source::Control, opcode) } else { Step::More });
        }
        let message = self.message.get_or_insert_with(|| Assembly::new(opcode));
        message.extend(payload)?;
        if self.frame.is_some() {
            return Ok(Step::More);
        }
        if !frame.fin {
            return Ok(Step::Again);
        }
        message.finish()?;
        Ok(complete(Source::Assembly, message.opcode))
    }
}

impl Assembly {
    fn new(opcode: Opcode) -> Assembly {
        Assembly { opcode, fragments: 0, bytes: Vec::new(), checked: 0, finished: false }
    }

    /// Adds bytes; those of a text must be characters, the last of which may still lack some.
    fn extend(&mut self, more: &[u8]) -> Result<(), Error> {
        self.bytes.extend_from_slice(more);
        if self.opcode != Opcode::Text {
            return Ok(());
        }
        let unchecked = self.bytes.get(self.checked..).unwrap_or_default();
        match simdutf8::compat::from_utf8(unchecked) {
            Ok(_) => self.checked = self.bytes.len(),
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(Error::InvalidUtf8),
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Error> {
        if self.opcode == Opcode::Text && self.checked != self.bytes.len() {
            return Err(Error::InvalidUtf8);
        }
        self.finished = true;
        Ok(())
    }
}

fn event(opcode: Opcode, payload: &[u8]) -> Result<Event<'_>, Error> {
    Ok(match opcode {
        Opcode::Text => Event::Message { kind: Kind::Text, payload },
        // An assembly keeps its first frame's opcode, so a continuation cannot come here.
        Opcode::Binary | Opcode::Continuation => Event::Message { kind: Kind::Binary, payload },
        Opcode::Ping => Event::Ping(payload),
        Opcode::Pong => Event::Pong(payload),
        Opcode::Close => close_event(payload)?,
    })
}

fn close_event(payload: &[u8]) -> Result<Event<'_>, Error> {
    let Some((&code, reason)) = payload.split_first_chunk() else {
        let empty = Event::Close { code: None, reason: "" };
        return if payload.is_empty() { Ok(empty) } else { Err(Error::CloseTooShort) };
    };
    let code = u16::from_be_bytes(code);
    // §7.4.1 and its registry at IANA: 1004-1006 and 1015 are never sent, 1016-2999 not yet given.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Error::CloseCodeInvalid);
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Error::CloseReasonInvalid)?;
    Ok(Event::Close { code: Some(code), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is held must follow what arrived, not what was promised.
    #[test]
    fn memory_grows_by_what_arrives_and_goes_when_done() {
        let limits = Limits { message_bytes: 16 << 20, ..Limits::default() };
        let mut decoder = Decoder::new();
        // A binary frame that promises 16 MiB.
        let mut head = [0x82, 0xff, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(decoder.next(&mut head, &limits, 0), Ok((14, None)));
        assert_eq!(held(&decoder), 0);
        let mut received = 0;
        for _ in 0..100 {
            assert_eq!(decoder.next(&mut [1; 1000], &limits, 0), Ok((1000, None)));
            received += 1000;
            assert!((received..=2 * received).contains(&held(&decoder)));
        }
        let mut rest = vec![1; (16 << 20) - received];
        let (_, event) = decoder.next(&mut rest, &limits, 0).expect("valid");
        assert!(matches!(event, Some(Event::Message { payload, .. }) if payload.len() == 16 << 20));
        assert!(decoder.is_idle());
        assert_eq!(decoder.next(&mut [], &limits, 0), Ok((0, None)));
        assert!(decoder.pending.is_none());
    }

    #[test]
    fn memory_goes_with_an_error() {
        let mut decoder = Decoder::new();
        let mut part = [0x01, 0x85, 0, 0, 0, 0, b'a'];
        assert_eq!(decoder.next(&mut part, &Limits::default(), 0), Ok((7, None)));
        assert!(decoder.pending.is_some());
        assert_eq!(decoder.next(&mut [0xff], &Limits::default(), 0), Err(Error::InvalidUtf8));
        assert!(decoder.pending.is_none());
    }

    fn held(decoder: &Decoder) -> usize {
        let message = decoder.pending.as_ref().and_then(|pending| pending.message.as_ref());
        message.map_or(0, |message| message.bytes.capacity())
    }
}
