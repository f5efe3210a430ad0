//! One connection as its shard knows it, and the table of all of them.
//!
//! **Runs on: shard.** The reader task owns what is half-read; everything that another event may
//! touch (outbox, session, deadlines) is here. Invariants: at most one send is in flight; an entry
//! lives until its reader has ended and its send has come back; a connection that is closing gets
//! nothing more than its close frame.

use std::rc::Rc;
use std::task::Waker;

use bytes::Bytes;
use slab::Slab;
use trine_core::buf::Outbox;
use trine_core::metrics::{Counter, Writer};
use trine_core::rt::{self, Stream};
use trine_core::timer::Wheel;
use trine_proto::client::{Disconnect, Format};
use trine_proto::ws::{self, FrameKind};

use super::api::Call;
use super::shard::Undo;
use crate::config::Config;
use crate::hub::Answer;
use crate::limits::{ECHO_OUTBOX_LIMIT_BYTES, LINGER_MS, SEND_PROGRESS_BYTES};
use crate::session::{Session, Slot};

/// The listener that a connection came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entrance {
    /// For clients.
    Client,
    /// For echoes.
    Echo,
    /// For backends.
    Api,
}

/// What a connection speaks now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Face {
    /// HTTP/1.1; `begun`: a part of a request has arrived.
    Http { begun: bool },
    /// WebSocket with the client protocol.
    Client,
    /// WebSocket that sends back what it gets.
    Echo,
    /// The last bytes are on their way; the peer is expected to end the connection.
    Closing,
}

/// Where a client's last ping is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ping {
    /// With the kernel, if there was one.
    Gone,
    /// In the outbox.
    Waits,
    /// In the send in flight.
    Leaves,
}

/// One connection.
pub(super) struct Connection {
    pub stream: Stream,
    pub face: Face,
    pub entrance: Entrance,
    /// The call of the HTTP API that waits for its answer.
    pub call: Option<Box<Call>>,
    /// There while the face is [`Face::Client`].
    pub session: Option<Session>,
    outbox: Outbox,
    /// Bytes of it at most that answer commands: [`Connections::is_behind`] bounds them, and not
    /// the limit for what comes unasked.
    answer_bytes: u32,
    /// The reader waits here until a stalled command may go on.
    pub stalled: Option<Waker>,
    /// Nothing is read for now, so that a pong can't be seen: the session's deadline stands still.
    pub paused: bool,
    /// When the head, the linger or nothing (`u64::MAX`) is due.
    pub deadline_ms: u64,
    /// When the entry in the wheel fires that counts; others are stale.
    wheel_ms: u64,
    /// When the send in flight began, or was last seen to have got on, from when the stream counts
    /// what the kernel takes; 0 while there is none.
    sending_since_ms: u64,
    ping: Ping,
    /// Counted when the connection is gone.
    pub close_code: u16,
    dirty: bool,
    /// Its end is decided and will be carried out at the turn's end.
    doomed: bool,
    /// The outbox's last byte is followed by the end of the stream.
    shutdown: bool,
    reader_ended: bool,
}

/// Totals that go to the metric page at the turn's end.
#[derive(Default)]
pub(super) struct Totals {
    pub messages_in: u64,
    pub messages_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub receives: u64,
    pub sends: u64,
    pub commands: u64,
    /// Of these, those whose answer another shard or the log gives: it is timed when it comes.
    pub asked: u64,
    pub command_errors: u64,
}

/// The connections of one shard and what they share.
pub(super) struct Connections {
    entries: Slab<Connection>,
    wheel: Wheel,
    dirty: Vec<u32>,
    doomed: Vec<(u32, Disconnect)>,
    /// Connections whose reader waits; some may have gone on since.
    stalled: Vec<u32>,
    in_flight: usize,
    outbox_bytes: usize,
    sweep_from: usize,
    /// Subscriptions made against their client's wish, to be taken back.
    pub undo: Vec<Undo>,
    /// Answers for records of the log that other shards were asked to publish.
    pub delivered: Vec<(u32, Answer)>,
    pub sessions: usize,
    pub config: Rc<Config>,
    pub metrics: Writer,
    pub totals: Totals,
}

impl Connections {
    pub fn new(config: Rc<Config>, metrics: Writer, now_ms: u64) -> Self {
        Self {
            entries: Slab::new(),
            wheel: Wheel::new(now_ms),
            dirty: Vec::new(),
            doomed: Vec::new(),
            stalled: Vec::new(),
            in_flight: 0,
            outbox_bytes: 0,
            sweep_from: 0,
            undo: Vec::new(),
            delivered: Vec::new(),
            sessions: 0,
            config,
            metrics,
            totals: Totals::default(),
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn outbox_bytes(&self) -> usize {
        self.outbox_bytes
    }

    pub fn get(&self, id: u32) -> Option<&Connection> {
        self.entries.get(id as usize)
    }

    /// The entry of a connection whose reader lives.
    pub fn entry(&mut self, id: u32) -> &mut Connection {
        &mut self.entries[id as usize]
    }

    pub fn ids(&self) -> Vec<u32> {
        self.entries.iter().map(|(id, _)| id as u32).collect()
    }

    /// Adds a connection that begins with a request head.
    pub fn add(&mut self, stream: Stream, entrance: Entrance, now_ms: u64) -> u32 {
        let id = self.entries.insert(Connection {
            stream,
            face: Face::Http { begun: false },
            entrance,
            call: None,
            session: None,
            outbox: Outbox::default(),
            answer_bytes: 0,
            stalled: None,
            paused: false,
            deadline_ms: now_ms + self.config.client.head_timeout_ms,
            wheel_ms: u64::MAX,
            sending_since_ms: 0,
            ping: Ping::Gone,
            close_code: 0,
            dirty: false,
            doomed: false,
            shutdown: false,
            reader_ended: false,
        }) as u32;
        self.arm(id);
        id
    }

    /// Sees to it that the wheel fires for the connection's next deadline.
    pub fn arm(&mut self, id: u32) {
        let connection = &mut self.entries[id as usize];
        let due_ms = connection.due_ms();
        if due_ms < connection.wheel_ms {
            connection.wheel_ms = due_ms;
            self.wheel.insert(id, due_ms);
        }
    }

    /// The connections whose next deadline has passed. Each must be armed again.
    pub fn fired(&mut self, now_ms: u64, fired: &mut Vec<u32>) {
        self.wheel.advance(now_ms, fired);
        fired.retain(|&id| {
            let Some(connection) = self.entries.get_mut(id as usize) else { return false };
            let valid = connection.wheel_ms <= now_ms;
            if valid {
                connection.wheel_ms = u64::MAX;
            }
            valid
        });
    }

    /// The connections whose send has not got on for `timeout_ms`, among the next `count`.
    pub fn stuck(&mut self, count: usize, timeout_ms: u64, now_ms: u64, stuck: &mut Vec<u32>) {
        if self.in_flight == 0 {
            return;
        }
        let end = self.entries.capacity();
        for _ in 0..count.min(end) {
            self.sweep_from = if self.sweep_from + 1 < end { self.sweep_from + 1 } else { 0 };
            let Some(connection) = self.entries.get_mut(self.sweep_from) else { continue };
            if connection.sending_since_ms == 0 {
                continue;
            }
            if connection.stream.taken() >= SEND_PROGRESS_BYTES {
                connection.stream.count_anew();
                connection.sending_since_ms = now_ms;
            } else if now_ms > connection.sending_since_ms + timeout_ms {
                stuck.push(self.sweep_from as u32);
            }
        }
    }

    fn mark(&mut self, id: u32, added: usize) {
        self.outbox_bytes += added;
        let connection = &mut self.entries[id as usize];
        if !connection.dirty {
            connection.dirty = true;
            if self.dirty.is_empty() {
                rt::request_turn();
            }
            self.dirty.push(id);
        }
    }

    /// Appends a piece that other connections get too; false: the connection is ending, or has no
    /// room and ends for it.
    #[inline]
    pub fn push_shared(&mut self, id: u32, piece: &Bytes) -> bool {
        let connection = &mut self.entries[id as usize];
        if connection.is_over() {
            return false;
        }
        if !connection.has_room(piece.len(), &self.config) {
            self.doom(id, Disconnect::Slow);
            return false;
        }
        connection.outbox.push_shared(piece);
        self.totals.messages_out += 1;
        self.mark(id, piece.len());
        true
    }

    /// Appends a WebSocket frame of this connection alone.
    #[inline]
    pub fn push_frame(&mut self, id: u32, kind: FrameKind, payload: &[u8]) {
        let header = ws::header(kind, payload.len());
        if matches!(kind, FrameKind::Text | FrameKind::Binary) {
            self.totals.messages_out += 1;
        }
        self.push(id, header.as_slice(), payload);
    }

    /// Appends a frame that the client must answer.
    pub fn ping(&mut self, id: u32, kind: FrameKind, payload: &[u8]) {
        self.push_frame(id, kind, payload);
        self.entries[id as usize].ping = Ping::Waits;
    }

    /// Appends bytes of this connection alone.
    pub fn push(&mut self, id: u32, head: &[u8], body: &[u8]) {
        let connection = &mut self.entries[id as usize];
        if connection.is_over() {
            return;
        }
        let length = head.len() + body.len();
        if !connection.has_room(length, &self.config) {
            return self.doom(id, Disconnect::Slow);
        }
        connection.outbox.push_copy(head, body);
        self.mark(id, length);
    }

    /// Appends a client-protocol message behind what waits for an earlier answer.
    pub fn push_message(&mut self, id: u32, format: Format, message: &[u8], subscribe: bool) {
        if self.is_ending(id) {
            return;
        }
        let kind = crate::hub::frame_kind(format);
        let session = self.entries[id as usize].session.as_mut();
        match session {
            Some(session) if session.has_pending() => {
                let header = ws::header(kind, message.len());
                let frame = Bytes::from([header.as_slice(), message].concat());
                session.pending().push(Slot::Ready { frame, subscribe });
                self.release(id);
            }
            _ => {
                let header = ws::header(kind, message.len());
                let connection = &mut self.entries[id as usize];
                connection.outbox.push_copy(header.as_slice(), message);
                self.answer(id, header.as_slice().len() + message.len());
            }
        }
    }

    /// The outbox has got so many bytes of an answer.
    fn answer(&mut self, id: u32, length: usize) {
        let connection = &mut self.entries[id as usize];
        let bytes = u32::try_from(length).unwrap_or(u32::MAX);
        connection.answer_bytes = connection.answer_bytes.saturating_add(bytes);
        self.totals.messages_out += 1;
        self.mark(id, length);
    }

    /// Keeps a push behind what waits for an earlier answer; false: the connection is ending, or has
    /// no room and ends for it.
    pub fn hold(&mut self, id: u32, frame: &Bytes) -> bool {
        let Connection { session: Some(session), doomed: false, .. } =
            &mut self.entries[id as usize]
        else {
            return false;
        };
        session.pending().push(Slot::Push(frame.clone()));
        if session.pending().push_bytes() > self.config.client.outbox_limit_bytes {
            self.doom(id, Disconnect::Slow);
            return false;
        }
        self.release(id);
        true
    }

    /// Moves to the outbox what waits for no answer any more, until that is half full: the rest
    /// leaves once it has been taken.
    pub fn release(&mut self, id: u32) {
        let limit_bytes = self.config.client.outbox_limit_bytes;
        loop {
            let Connection { outbox, session: Some(session), doomed: false, .. } =
                &mut self.entries[id as usize]
            else {
                return;
            };
            if !session.has_pending() || outbox.bytes() > limit_bytes / 2 {
                return;
            }
            let Some(frame) = session.pending().take() else {
                return session.drop_pending_if_empty();
            };
            outbox.push_shared(&frame);
            self.answer(id, frame.len());
        }
    }

    /// Whether its end is decided, or it is broken: nothing more is done for it.
    pub fn is_ending(&self, id: u32) -> bool {
        let connection = &self.entries[id as usize];
        connection.is_over() || connection.stream.is_aborted()
    }

    /// Whether a client has answers to take before it may ask for more: else its own requests
    /// would make it a slow reader, and small ones for large answers take any memory and time.
    pub fn is_behind(&self, id: u32) -> bool {
        let Connection { outbox, session, .. } = &self.entries[id as usize];
        let held_bytes = session.as_ref().map_or(0, Session::held_bytes);
        outbox.bytes() + held_bytes > self.config.client.outbox_limit_bytes / 2
    }

    /// Decides the connection's end; what happens then happens at the turn's end.
    pub fn doom(&mut self, id: u32, disconnect: Disconnect) {
        let connection = &mut self.entries[id as usize];
        if !connection.is_over() {
            connection.doomed = true;
            self.doomed.push((id, disconnect));
            rt::request_turn();
        }
    }

    /// The next connection whose end is decided; those that are too slow are counted. One that has
    /// ended by itself meanwhile is left out: it is gone, and its number may be another's.
    pub fn take_doomed(&mut self) -> Option<(u32, Disconnect)> {
        loop {
            let (id, disconnect) = self.doomed.pop()?;
            if let Some(connection) = self.get(id).filter(|connection| connection.doomed) {
                if disconnect == Disconnect::Slow && connection.face != Face::Closing {
                    self.metrics.add(Counter::SlowCloses, 1);
                }
                return Some((id, disconnect));
            }
        }
    }

    /// Ends a connection now and without a word, which could not be sent. The caller has ended the
    /// session.
    pub fn cut(&mut self, id: u32, disconnect: Disconnect, now_ms: u64) {
        let connection = &mut self.entries[id as usize];
        assert!(connection.session.is_none(), "the session ends before its connection");
        if connection.face != Face::Closing {
            connection.close_code = disconnect.code();
        }
        connection.stream.abort();
        self.linger(id, true, now_ms);
    }

    /// Ends a WebSocket with a close frame, without the session, which the caller has ended.
    /// `answered`: the peer's close frame has come, so this one is the last.
    pub fn close(&mut self, id: u32, code: Option<u16>, reason: &str, answered: bool, now_ms: u64) {
        let connection = &mut self.entries[id as usize];
        assert!(connection.session.is_none(), "the session ends before its connection");
        if connection.face == Face::Closing {
            connection.shutdown |= answered;
            return self.mark(id, 0);
        }
        connection.doomed = false;
        if code == Some(Disconnect::Slow.code()) {
            self.outbox_bytes -= connection.outbox.bytes();
            connection.outbox.clear();
        }
        connection.close_code = code.unwrap_or(1005);
        let payload = code.map(|code| ws::close_payload(code, reason));
        let payload = payload.as_ref().map_or(&[][..], |payload| payload.as_slice());
        let header = ws::header(FrameKind::Close, payload.len());
        connection.outbox.push_copy(header.as_slice(), payload);
        self.mark(id, header.len() + payload.len());
        self.linger(id, answered, now_ms);
    }

    /// Nothing more will be pushed: once the outbox is empty the peer may end the connection, and
    /// must within [`LINGER_MS`]. `shutdown`: we say the end first.
    pub fn linger(&mut self, id: u32, shutdown: bool, now_ms: u64) {
        let connection = &mut self.entries[id as usize];
        connection.face = Face::Closing;
        connection.shutdown |= shutdown;
        connection.deadline_ms = now_ms + LINGER_MS;
        if let Some(waker) = connection.stalled.take() {
            waker.wake();
        }
        self.mark(id, 0);
        self.arm(id);
    }

    /// The reader must wait: `waker` is used when it may try again.
    pub fn stall(&mut self, id: u32, waker: Waker) {
        let connection = &mut self.entries[id as usize];
        if connection.stalled.replace(waker).is_none() {
            self.stalled.push(id);
        }
    }

    /// Lets every stalled reader try again.
    pub fn wake_stalled(&mut self) {
        for id in self.stalled.drain(..) {
            if let Some(connection) = self.entries.get_mut(id as usize)
                && let Some(waker) = connection.stalled.take()
            {
                waker.wake();
            }
        }
    }

    /// Starts a send for each connection that has something to send and none in flight.
    pub fn send_dirty(&mut self, now_ms: u64) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            let Some(connection) = self.entries.get_mut(id as usize) else { continue };
            connection.dirty = false;
            if connection.sending_since_ms != 0 {
                continue;
            }
            match connection.outbox.take() {
                Some(outgoing) => {
                    let left = u32::try_from(connection.outbox.bytes()).unwrap_or(u32::MAX);
                    connection.answer_bytes = connection.answer_bytes.min(left);
                    let length = outgoing.len();
                    self.outbox_bytes -= length;
                    self.totals.bytes_out += length as u64;
                    self.in_flight += 1;
                    connection.sending_since_ms = now_ms.max(1);
                    connection.stream.count_anew();
                    if connection.ping == Ping::Waits && connection.outbox.is_empty() {
                        connection.ping = Ping::Leaves;
                    }
                    connection.stream.send(id, outgoing);
                    // Answers and commands that waited for the client to take others have room.
                    if let Some(waker) = connection.stalled.take() {
                        waker.wake();
                    }
                    self.release(id);
                }
                None if connection.shutdown => connection.stream.shutdown(),
                None => {}
            }
        }
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }

    /// A send has ended; with an error the connection is gone.
    pub fn sent(&mut self, id: u32, failed: bool) {
        self.in_flight -= 1;
        self.totals.sends += 1;
        let connection = &mut self.entries[id as usize];
        assert!(connection.sending_since_ms != 0, "each send ends once");
        connection.sending_since_ms = 0;
        if connection.ping == Ping::Leaves {
            connection.ping = Ping::Gone;
            if let Some(session) = &mut connection.session {
                session.ping_left(&self.config, rt::now_ms());
            }
        }
        if failed {
            connection.stream.abort();
            self.outbox_bytes -= connection.outbox.bytes();
            connection.outbox.clear();
        }
        if !connection.outbox.is_empty() || connection.shutdown {
            self.mark(id, 0);
        }
        self.remove_if_over(id);
    }

    /// The reader has ended: nothing more will come. `failed`: nothing can be sent either, else
    /// what the outbox holds may still leave.
    pub fn reader_ended(&mut self, id: u32, failed: bool, now_ms: u64) {
        let connection = &mut self.entries[id as usize];
        assert!(connection.session.is_none(), "the session ends before its connection");
        connection.reader_ended = true;
        if failed {
            connection.stream.abort();
            self.outbox_bytes -= connection.outbox.bytes();
            connection.outbox.clear();
        }
        self.linger(id, true, now_ms);
        self.remove_if_over(id);
    }

    fn remove_if_over(&mut self, id: u32) {
        let connection = &self.entries[id as usize];
        if connection.reader_ended
            && connection.sending_since_ms == 0
            && connection.outbox.is_empty()
        {
            self.metrics.closed(connection.close_code);
            self.entries.remove(id as usize);
        }
    }
}

impl Connection {
    /// The next deadline of the connection or of its session.
    fn due_ms(&self) -> u64 {
        let session = self.session.as_ref().filter(|_| !self.paused);
        let session_ms = session.map_or(u64::MAX, Session::deadline_ms);
        self.deadline_ms.min(session_ms)
    }

    /// Whether the last ping has not left.
    pub fn holds_ping(&self) -> bool {
        self.ping != Ping::Gone
    }

    /// Whether its end is decided.
    #[inline]
    fn is_over(&self) -> bool {
        self.doomed || self.face == Face::Closing
    }

    /// Whether the outbox takes `length` bytes more that were not asked for; one without such takes
    /// a message of any size.
    #[inline]
    fn has_room(&self, length: usize, config: &Config) -> bool {
        let limit_bytes = match self.entrance {
            Entrance::Echo => ECHO_OUTBOX_LIMIT_BYTES,
            Entrance::Client | Entrance::Api => config.client.outbox_limit_bytes,
        };
        let waiting_bytes = self.outbox.bytes().saturating_sub(self.answer_bytes as usize);
        waiting_bytes == 0 || waiting_bytes + length <= limit_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    /// Runs `with` on a runtime, with one connection that speaks the client protocol.
    fn with_connection(with: fn(&mut Connections, u32)) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        let start = move |_: &rt::Driver| {
            let config = Rc::new(Config::embedded());
            let mut clients = Connections::new(config, Writer::detached(), rt::now_ms());
            let id = clients.add(
                Stream::from_fd(socket.into()).unwrap(),
                Entrance::Client,
                rt::now_ms(),
            );
            clients.entry(id).face = Face::Client;
            with(&mut clients, id);
            rt::stop();
        };
        rt::run(rt::Preference::from_environment(), start, |_| {}).unwrap();
    }

    #[test]
    fn a_connection_that_ends_by_itself_is_doomed_no_more() {
        with_connection(|clients, id| {
            clients.doom(id, Disconnect::InappropriateProtocol);
            clients.reader_ended(id, true, rt::now_ms());
            assert_eq!(clients.len(), 0);
            assert_eq!(clients.take_doomed(), None, "nobody is there to be closed");
        });
    }

    #[test]
    fn what_was_closed_keeps_its_code_when_its_close_frame_is_stuck() {
        with_connection(|clients, id| {
            clients.push(id, b"stuck", b"");
            clients.doom(id, Disconnect::Slow);
            assert_eq!(clients.take_doomed(), Some((id, Disconnect::Slow)));
            clients.close(id, Some(Disconnect::Slow.code()), "slow", false, rt::now_ms());
            clients.cut(id, Disconnect::WriteError, rt::now_ms());
            assert_eq!(clients.entry(id).close_code, Disconnect::Slow.code());
        });
    }

    #[test]
    fn whatever_it_speaks_one_that_is_too_slow_is_counted() {
        with_connection(|clients, id| {
            for face in [Face::Client, Face::Echo, Face::Http { begun: true }] {
                let connection = clients.entry(id);
                (connection.face, connection.doomed) = (face, false);
                clients.doom(id, Disconnect::Slow);
                assert_eq!(clients.take_doomed(), Some((id, Disconnect::Slow)));
            }
            clients.entry(id).doomed = false;
            clients.doom(id, Disconnect::InappropriateProtocol);
            assert!(clients.take_doomed().is_some());
            assert_eq!(clients.metrics.snapshot().counter(Counter::SlowCloses), 3);
        });
    }

    #[test]
    fn a_cut_connection_takes_nothing_more() {
        with_connection(|clients, id| {
            clients.cut(id, Disconnect::WriteError, rt::now_ms());
            let connection = clients.entry(id);
            assert_eq!(connection.face, Face::Closing, "its reader must not ask for a session");
            assert_eq!(connection.close_code, Disconnect::WriteError.code());
        });
    }
}
