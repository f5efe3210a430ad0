//! A connection of the pool in someone's hands: one request goes out, one response comes in, piece
//! by piece, both at the same time if the holder wants.
//!
//! **Runs on: shard.** Invariant: only a connection on which request and response ended exactly, and
//! the upstream wants to go on, returns to the pool; every other one is closed.

use super::Upstream;
use super::endpoints::Counted;
use super::error::{Cause, Error};
use super::permits::Permit;
use crate::buf::Outgoing;
use crate::limits::UPSTREAM_INTERIM_RESPONSES;
use crate::rt::{self, Stream};
use bytes::{Buf, Bytes, BytesMut};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use trine_proto::http1::{self, BodyDecoder, BodyEvent, BodyLength, HeadScanner};

/// A leased connection. Its methods take `&self`, so that sending and receiving may go on in one
/// task side by side; all of them may be dropped while they wait, but then the connection is not
/// used again. Dropping the lease returns or closes the connection.
pub struct Lease {
    pub(super) connection: Connection,
    slot: Slot,
}

/// A connection and what it is in the middle of.
pub(super) struct Connection {
    pub stream: Stream,
    pub to: Counted,
    /// Whether it has carried a request before.
    pub reused: bool,
    reading: RefCell<Reading>,
    /// When something was last sent or received.
    progress_ms: Cell<u64>,
    received: Cell<bool>,
    request_sent: Cell<bool>,
    keep_alive: Cell<bool>,
}

#[derive(Default)]
struct Reading {
    buffer: BytesMut,
    scanner: HeadScanner,
    body: Option<BodyDecoder>,
}

/// The right to a connection, and the entry that says who has it.
pub(super) struct Slot {
    pub upstream: Rc<Upstream>,
    pub entry: usize,
    // Dropped after the lease's own `drop`, so the next in the queue finds the connection idle.
    pub _permit: Permit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.upstream.held.borrow_mut().remove(self.entry);
    }
}

/// The head of a final response.
#[derive(Clone, Debug)]
pub struct Head {
    /// 101, or 200 to 599.
    pub status: u16,
    /// The fields in the order received.
    pub headers: Headers,
    /// Where the body ends.
    pub body: BodyLength,
}

/// Header fields that own their memory.
#[derive(Clone, Debug, Default)]
pub struct Headers(Vec<(Box<str>, Bytes)>);

impl Headers {
    /// The first value of a field; names are compared without case.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All fields in the order received.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }
}

impl Connection {
    pub fn new(stream: Stream, to: Counted, reused: bool) -> Self {
        Self {
            stream,
            to,
            reused,
            reading: RefCell::default(),
            progress_ms: Cell::new(rt::now_ms()),
            received: Cell::new(false),
            request_sent: Cell::new(false),
            keep_alive: Cell::new(false),
        }
    }

    fn is_reusable(&self) -> bool {
        let reading = self.reading.borrow();
        let ended = reading.body.as_ref().is_some_and(BodyDecoder::is_done);
        // Bytes after the response answer nothing that was asked.
        self.request_sent.get() && self.keep_alive.get() && ended && reading.buffer.is_empty()
    }
}

impl Lease {
    pub(super) fn new(connection: Connection, slot: Slot) -> Self {
        Self { connection, slot }
    }

    /// The endpoint that the connection goes to.
    pub fn endpoint(&self) -> SocketAddr {
        self.slot.upstream.endpoints.borrow().address(self.connection.to.endpoint)
    }

    /// Whether the connection has carried a request before, so that the upstream may have closed it
    /// without having seen this one.
    pub fn is_reused(&self) -> bool {
        self.connection.reused
    }

    /// Whether any byte of a response has come.
    pub fn has_received(&self) -> bool {
        self.connection.received.get()
    }

    /// Sends a piece of the request at the end of this turn and waits until the kernel has taken it;
    /// `last` when the request ends with it. One at a time.
    ///
    /// Errors: [`Cause::Broken`], [`Cause::Inactive`].
    pub async fn send(&self, piece: Outgoing, last: bool) -> Result<(), Error> {
        self.connection.request_sent.set(false);
        let deadline_ms = self.touch() + self.slot.upstream.options.inactivity_ms;
        match rt::until(deadline_ms, self.connection.stream.write(piece)).await {
            Some(Ok(())) => {
                self.touch();
                self.connection.request_sent.set(last);
                Ok(())
            }
            Some(Err(error)) => Err(self.error(Cause::Broken(error))),
            None => Err(self.error(Cause::Inactive)),
        }
    }

    /// Waits for the head of the final response to a request of this `method`; interim ones are
    /// skipped.
    ///
    /// Errors: of the upstream, of any kind; the lease is of no more use then.
    pub async fn head(&self, method: &str) -> Result<Head, Error> {
        for _ in 0..=UPSTREAM_INTERIM_RESPONSES {
            let bytes = self.head_bytes().await?;
            let parsed = http1::Response::parse(&bytes, method)
                .map_err(|error| self.error(Cause::Response(error)))?;
            if parsed.is_interim() {
                continue;
            }
            let mut decoder = BodyDecoder::new(parsed.body);
            // A response without a body has ended here.
            let _ = decoder.decode(&[]);
            self.connection.reading.borrow_mut().body = Some(decoder);
            self.connection.keep_alive.set(parsed.keep_alive);
            let owned = |header: &http1::Header<'_>| {
                (Box::from(header.name), bytes.slice_ref(header.value))
            };
            let headers = Headers(parsed.headers.iter().map(owned).collect());
            return Ok(Head { status: parsed.status, headers, body: parsed.body });
        }
        Err(self.error(Cause::TooManyInterim))
    }

    /// The next piece of the response's body, never empty; `None` at its end. After [`Lease::head`].
    ///
    /// Errors: of the upstream, of any kind; the lease is of no more use then.
    pub async fn body(&self) -> Result<Option<Bytes>, Error> {
        loop {
            {
                let Reading { buffer, body, .. } = &mut *self.connection.reading.borrow_mut();
                let Some(decoder) = body else { return Ok(None) };
                let (consumed, event) =
                    decoder.decode(buffer).map_err(|error| self.error(Cause::Response(error)))?;
                let mut piece = buffer.split_to(consumed);
                match event {
                    Some(BodyEvent::Data(range)) => {
                        piece.truncate(range.end);
                        piece.advance(range.start);
                        return Ok(Some(piece.freeze()));
                    }
                    Some(BodyEvent::Done) => return Ok(None),
                    None => {}
                }
            }
            if !self.receive().await? {
                let mut reading = self.connection.reading.borrow_mut();
                let ended = reading.body.as_mut().is_some_and(|body| body.finish().is_ok());
                return if ended { Ok(None) } else { Err(self.error(Cause::Closed)) };
            }
        }
    }

    pub(super) fn replace(&mut self, connection: Connection) {
        let old = std::mem::replace(&mut self.connection, connection);
        old.stream.abort();
    }

    async fn head_bytes(&self) -> Result<Bytes, Error> {
        loop {
            {
                let Reading { buffer, scanner, .. } = &mut *self.connection.reading.borrow_mut();
                match scanner.scan(buffer) {
                    Ok(Some(len)) => return Ok(buffer.split_to(len).freeze()),
                    Ok(None) => {}
                    Err(error) => return Err(self.error(Cause::Response(error))),
                }
            }
            if !self.receive().await? {
                return Err(self.error(Cause::Closed));
            }
        }
    }

    /// Brings more bytes into the buffer; `false` at the end of the stream.
    async fn receive(&self) -> Result<bool, Error> {
        let inactivity_ms = self.slot.upstream.options.inactivity_ms;
        self.touch();
        loop {
            let deadline_ms = self.connection.progress_ms.get() + inactivity_ms;
            match rt::until(deadline_ms, self.connection.stream.recv()).await {
                Some(Ok(Some(chunk))) => {
                    self.touch();
                    self.connection.received.set(true);
                    self.connection.reading.borrow_mut().buffer.extend_from_slice(&chunk);
                    return Ok(true);
                }
                Some(Ok(None)) => return Ok(false),
                Some(Err(error)) => return Err(self.error(Cause::Broken(error))),
                // Something was sent meanwhile: the connection is not inactive.
                None if self.connection.progress_ms.get() + inactivity_ms > deadline_ms => {}
                None => return Err(self.error(Cause::Inactive)),
            }
        }
    }

    fn touch(&self) -> u64 {
        let now_ms = rt::now_ms();
        self.connection.progress_ms.set(now_ms);
        now_ms
    }

    pub(super) fn error(&self, cause: Cause) -> Error {
        Error::new(cause, Some(self.endpoint()))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Connection { stream, to, .. } = &self.connection;
        if self.connection.is_reusable() {
            self.slot.upstream.keep(stream.clone(), to.clone());
        } else {
            stream.abort();
        }
    }
}
