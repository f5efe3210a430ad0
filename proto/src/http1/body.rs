//! A body, taken apart where it lies (RFC 9112 §6, §7.1).
//!
//! **Runs on: any.** Data is named as a range of the input; nothing is kept but a few counters.
//! Invariant: the same data, then the same end or error, come out however the input is cut.

use std::ops::Range;

use super::field::is_token_character;
use super::{BodyLength, Error};
use crate::limits;

/// What [`BodyDecoder::decode`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyEvent {
    /// Data of the body: where it lies in the input. Never empty.
    Data(Range<usize>),
    /// The body is over; what follows in the input is the next message.
    Done,
}

/// Finds the data of one body.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    state: State,
    /// Bytes of the size line or of the trailer section so far.
    section_bytes: usize,
    /// Bytes of chunk extensions so far.
    extensions_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// So many bytes of a body of known length are to come.
    Length(u64),
    /// In a chunk's size; whether a digit was seen.
    Size(u64, bool),
    /// In whitespace before an extension.
    SizeSpace(u64),
    Extension(u64),
    SizeLf(u64),
    /// So many bytes of a chunk are to come; more than none.
    Data(u64),
    DataCr,
    DataLf,
    /// At the start of a line of the trailer section.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    /// All that comes until the connection ends.
    UntilClose,
    Done,
    Failed(Error),
}

impl BodyDecoder {
    /// A decoder for the body of a message.
    pub fn new(body: BodyLength) -> BodyDecoder {
        let state = match body {
            BodyLength::None => State::Length(0),
            BodyLength::Length(len) => State::Length(len),
            BodyLength::Chunked => State::Size(0, false),
            BodyLength::UntilClose => State::UntilClose,
        };
        BodyDecoder { state, section_bytes: 0, extensions_bytes: 0 }
    }

    /// Looks for the next data or the end in `input`. Returns how many bytes were consumed, data
    /// included, and what was found; `(input.len(), None)` means that more is needed. After the end
    /// it consumes nothing.
    ///
    /// Chunk extensions and trailers are checked, bounded and thrown away. After an error the same
    /// error comes again.
    pub fn decode(&mut self, input: &[u8]) -> Result<(usize, Option<BodyEvent>), Error> {
        let mut position = 0;
        loop {
            match self.state {
                State::Length(0) | State::Done => {
                    self.state = State::Done;
                    return Ok((position, Some(BodyEvent::Done)));
                }
                State::Failed(error) => return Err(error),
                State::UntilClose => {
                    let data = position..input.len();
                    let event = (!data.is_empty()).then(|| BodyEvent::Data(data.clone()));
                    return Ok((data.end, event));
                }
                State::Length(remaining) | State::Data(remaining) => {
                    let len = take(remaining, input.len() - position);
                    if len == 0 {
                        return Ok((position, None));
                    }
                    let left = remaining - len as u64;
                    self.state = match self.state {
                        State::Length(_) => State::Length(left),
                        _ if left == 0 => State::DataCr,
                        _ => State::Data(left),
                    };
                    let data = position..position + len;
                    return Ok((data.end, Some(BodyEvent::Data(data))));
                }
                _ => {
                    let Some(&byte) = input.get(position) else { return Ok((position, None)) };
                    position += 1;
                    self.state = match self.line(byte) {
                        Ok(state) => state,
                        Err(error) => State::Failed(error),
                    };
                }
            }
        }
    }

    /// The connection has ended. That ends a body of [`BodyLength::UntilClose`].
    ///
    /// Errors: [`Error::Incomplete`] for a body whose end had not come, or the earlier error.
    pub fn finish(&mut self) -> Result<(), Error> {
        match self.state {
            State::Done | State::Length(0) | State::UntilClose => self.state = State::Done,
            State::Failed(_) => {}
            _ => self.state = State::Failed(Error::Incomplete),
        }
        if let State::Failed(error) = self.state { Err(error) } else { Ok(()) }
    }

    /// Whether the end was found.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// One byte of what surrounds the data of chunks.
    fn line(&mut self, byte: u8) -> Result<State, Error> {
        self.count()?;
        Ok(match (self.state, byte) {
            (State::Size(size, _), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = u64::from(byte & 0x0f) + if byte > b'9' { 9 } else { 0 };
                let size = size.checked_mul(16).ok_or(Error::Chunk)? | digit;
                State::Size(size, true)
            }
            (State::Size(size, true) | State::SizeSpace(size), b';') => State::Extension(size),
            (State::Size(size, true), b'\r') => State::SizeLf(size),
            // RFC 9112 §7.1.1 still allows whitespace here, but only before an extension.
            (State::Size(size, true) | State::SizeSpace(size), b' ' | b'\t') => {
                State::SizeSpace(size)
            }
            (State::Extension(size), b'\r') => State::SizeLf(size),
            (State::Extension(size), b'\t' | b' '..=b'~' | 0x80..) => State::Extension(size),
            (State::SizeLf(size), b'\n') => {
                self.section_bytes = 0;
                if size == 0 { State::Trailer } else { State::Data(size) }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                self.section_bytes = 0;
                State::Size(0, false)
            }
            (State::Trailer, b'\r') => State::LastLf,
            (State::LastLf, b'\n') => State::Done,
            (State::Trailer | State::TrailerName, _) if is_token_character(byte) => {
                State::TrailerName
            }
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => State::TrailerValue,
            (State::TrailerLf, b'\n') => State::Trailer,
            (
                State::Trailer
                | State::TrailerName
                | State::TrailerValue
                | State::TrailerLf
                | State::LastLf,
                _,
            ) => return Err(Error::Trailer),
            _ => return Err(Error::Chunk),
        })
    }

    fn count(&mut self) -> Result<(), Error> {
        self.section_bytes += 1;
        match self.state {
            State::Trailer | State::TrailerName | State::TrailerValue | State::TrailerLf
                if self.section_bytes > limits::HTTP1_TRAILER_BYTES =>
            {
                return Err(Error::TrailersTooLarge);
            }
            State::Extension(_) | State::SizeSpace(_) => self.extensions_bytes += 1,
            _ => {}
        }
        // The last line's end is never over: a section of lines is counted as its lines are.
        let in_size = matches!(
            self.state,
            State::Size(..) | State::SizeSpace(_) | State::Extension(_) | State::SizeLf(_)
        );
        if (in_size && self.section_bytes > limits::HTTP1_CHUNK_LINE_BYTES)
            || self.extensions_bytes > limits::HTTP1_CHUNK_EXTENSIONS_BYTES
        {
            return Err(Error::ChunkExtensionsTooLarge);
        }
        Ok(())
    }
}

fn take(remaining: u64, available: usize) -> usize {
    usize::try_from(remaining).map_or(available, |remaining| remaining.min(available))
}
