//! Requests in, answers and work for the disk out: the storage thread without thread and disk.
//!
//! **Runs on: storage.** Sans-IO. Invariants: every request but those without an answer is answered
//! once; one shard's appends are answered in their order; after each commit at most one read goes
//! to the disk before the next commit.

use std::collections::{HashMap, VecDeque};
use std::io;

use bytes::Bytes;

use super::super::machine::{Event, Journal, Moment, Operation, Refused, no_room};
use super::super::streams::StreamId;
use super::message::{Answer, ReadFailure, Request};
use super::reading::{Collected, Fetch, Fetched, Wanted, collect, offset_behind};
use super::state::{Phase, State, add};
use crate::limits::{STORAGE_TICK_MS, STORAGE_WAITING_READS, STREAM_NAME_BYTES};

/// What the thread does next.
pub(super) enum Next {
    /// One of the journal's operations, to be answered with [`Engine::completed`].
    Operation(Operation),
    /// A read, to be answered with [`Engine::fetched`].
    Fetch(Fetch),
    /// Nothing before this time or a request.
    Wait { until_ms: u64 },
}

/// The journal with what shards want of it.
pub(super) struct Engine {
    journal: Journal,
    /// Who appended, in the order in which the journal settles records; its tokens count up.
    appends: VecDeque<(usize, u64)>,
    appends_settled: u64,
    flushes: VecDeque<(usize, u64, Moment)>,
    /// Reads that have something to read.
    ready: VecDeque<Wanted>,
    /// Reads of which the first record is not durable yet.
    waiting: HashMap<StreamId, Vec<Wanted>>,
    /// The stream of each of them, by shard and token.
    waits: HashMap<(usize, u64), StreamId>,
    shards: Vec<Shard>,
    fetched: Fetched,
    fetching: Option<Wanted>,
    /// A commit has just become durable, so it is the reads' turn.
    reads_turn: bool,
    closing: bool,
    /// Bytes of the last record that the quota had no room for.
    full_for_bytes: usize,
    /// The last failure was a disk without room.
    no_room: bool,
    events: Vec<Event>,
    out: Vec<(usize, Answer)>,
}

#[derive(Clone, Copy, Default)]
struct Shard {
    /// Requests taken and not answered, without reads that wait for records.
    outstanding: usize,
    waiting_reads: usize,
}

/// The answer of a storage thread that has no journal.
pub(super) fn refusal(request: &Request) -> Option<Answer> {
    match *request {
        Request::Open { token, .. }
        | Request::List { token, .. }
        | Request::Append { token, .. }
        | Request::Flush { token } => Some(Answer::Refused { token, why: Refused::Failing }),
        Request::Read { token, offset, .. } => {
            Some(Answer::ReadFailed { token, why: ReadFailure::Failing, next_offset: offset })
        }
        Request::CancelRead { .. } | Request::MoveCursor { .. } | Request::Release { .. } => None,
    }
}

impl Engine {
    pub fn new(journal: Journal, shards: usize) -> Self {
        Self {
            journal,
            appends: VecDeque::new(),
            appends_settled: 0,
            flushes: VecDeque::new(),
            ready: VecDeque::new(),
            waiting: HashMap::new(),
            waits: HashMap::new(),
            shards: vec![Shard::default(); shards],
            fetched: Fetched::default(),
            fetching: None,
            reads_turn: false,
            closing: false,
            full_for_bytes: 0,
            no_room: false,
            events: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Requests of a shard that are not answered, without reads that wait for records.
    pub fn outstanding(&self, shard: usize) -> usize {
        self.shards[shard].outstanding
    }

    /// The answers so far.
    pub fn answers(&mut self) -> std::vec::Drain<'_, (usize, Answer)> {
        self.out.drain(..)
    }

    /// Takes a request.
    pub fn take(&mut self, shard: usize, request: Request, now_ms: u64) {
        match request {
            Request::Open { token, name, cursor } => {
                self.shards[shard].outstanding += 1;
                let answer = self.open(token, &name, cursor);
                self.answer(shard, answer);
            }
            Request::List { token, prefix } => {
                self.shards[shard].outstanding += 1;
                let names = self.journal.names(false);
                let names = names.filter(|(_, name)| name.starts_with(&*prefix));
                let names = names.map(|(_, name)| name.into()).collect();
                self.answer(shard, Answer::Listed { token, names });
            }
            Request::Append { token, stream, payload } => {
                self.shards[shard].outstanding += 1;
                let bytes = payload.len();
                let number = self.appends_settled + self.appends.len() as u64;
                match self.journal.append(number, stream, payload, now_ms) {
                    Ok(_) => self.appends.push_back((shard, token)),
                    Err(why) => {
                        if why == Refused::Full {
                            self.full_for_bytes = bytes;
                        }
                        self.answer(shard, Answer::Refused { token, why });
                    }
                }
            }
            Request::Read { token, stream, offset, limit_bytes, limit_records, wait } => {
                self.shards[shard].outstanding += 1;
                self.read(Wanted {
                    shard,
                    token,
                    stream,
                    offset,
                    limit_bytes,
                    limit_records,
                    wait,
                });
            }
            Request::CancelRead { token } => self.cancel(shard, token),
            Request::MoveCursor { cursor, value } => {
                self.journal.move_cursor(cursor, value, now_ms);
            }
            Request::Release { stream, offset } => self.journal.release(stream, offset),
            Request::Flush { token } => {
                self.shards[shard].outstanding += 1;
                self.flushes.push_back((shard, token, self.journal.flush()));
                self.answer_flushes();
            }
        }
    }

    fn answer(&mut self, shard: usize, answer: Answer) {
        let outstanding = &mut self.shards[shard].outstanding;
        *outstanding = outstanding.checked_sub(1).expect("each request is answered once");
        self.out.push((shard, answer));
    }

    fn open(&mut self, token: u64, name: &str, cursor: bool) -> Answer {
        if name.len() > STREAM_NAME_BYTES {
            return Answer::Refused { token, why: Refused::TooLarge };
        }
        let found = if cursor { self.journal.cursor(name) } else { self.journal.stream(name) };
        let Some(stream) = found else {
            return Answer::Refused { token, why: Refused::Full };
        };
        let (range, value) = (self.journal.range(stream), self.journal.cursor_value(stream));
        match cursor {
            true => Answer::Opened { token, stream, first: 0, next: 0, value },
            false => {
                Answer::Opened { token, stream, first: range.start, next: range.end, value: 0 }
            }
        }
    }

    fn read(&mut self, wanted: Wanted) {
        if wanted.wait && wanted.offset >= self.journal.range(wanted.stream).end {
            self.wait_for_records(wanted);
        } else {
            self.ready.push_back(wanted);
        }
    }

    fn wait_for_records(&mut self, wanted: Wanted) {
        let Wanted { shard, token, stream, offset, .. } = wanted;
        let refused = match self.closing {
            true => Some(ReadFailure::Closing),
            false => (self.shards[shard].waiting_reads >= STORAGE_WAITING_READS)
                .then_some(ReadFailure::Busy),
        };
        if let Some(why) = refused {
            return self.answer(shard, Answer::ReadFailed { token, why, next_offset: offset });
        }
        let before = self.waits.insert((shard, token), stream);
        assert!(before.is_none(), "each read that waits has a token of its own");
        self.shards[shard].outstanding -= 1;
        self.shards[shard].waiting_reads += 1;
        self.waiting.entry(stream).or_default().push(wanted);
    }

    fn cancel(&mut self, shard: usize, token: u64) {
        let Some(stream) = self.waits.remove(&(shard, token)) else { return };
        self.shards[shard].waiting_reads -= 1;
        let list = self.waiting.get_mut(&stream).expect("its stream has a list");
        list.retain(|wanted| (wanted.shard, wanted.token) != (shard, token));
        if list.is_empty() {
            self.waiting.remove(&stream);
        }
    }

    /// Reads that waited for this record or an earlier one have something to read now.
    fn arrived(&mut self, stream: StreamId, offset: u64) {
        let Some(list) = self.waiting.get_mut(&stream) else { return };
        for wanted in list.extract_if(.., |wanted| wanted.offset <= offset) {
            self.waits.remove(&(wanted.shard, wanted.token));
            self.shards[wanted.shard].waiting_reads -= 1;
            self.shards[wanted.shard].outstanding += 1;
            self.ready.push_back(wanted);
        }
        if list.is_empty() {
            self.waiting.remove(&stream);
        }
    }

    /// What to do now.
    pub fn next(&mut self, now_ms: u64) -> Next {
        if std::mem::take(&mut self.reads_turn)
            && let Some(fetch) = self.serve_reads()
        {
            return Next::Fetch(fetch);
        }
        if let Some(operation) = self.journal.next_operation(now_ms) {
            return Next::Operation(operation);
        }
        if let Some(fetch) = self.serve_reads() {
            return Next::Fetch(fetch);
        }
        Next::Wait { until_ms: self.journal.deadline_ms().min(now_ms + STORAGE_TICK_MS) }
    }

    /// Whether nothing waits for a time.
    pub fn is_idle(&self) -> bool {
        self.journal.deadline_ms() == u64::MAX
    }

    /// Answers reads until one needs the disk.
    fn serve_reads(&mut self) -> Option<Fetch> {
        while let Some(wanted) = self.ready.pop_front() {
            if let Some(fetch) = self.serve(wanted) {
                self.fetching = Some(wanted);
                return Some(fetch);
            }
        }
        None
    }

    fn serve(&mut self, wanted: Wanted) -> Option<Fetch> {
        let Wanted { shard, token, stream, .. } = wanted;
        let range = self.journal.range(stream);
        match collect(&self.journal, &self.fetched, &wanted) {
            Collected::Lacks(fetch) => return Some(fetch),
            Collected::Damaged { next_offset } => {
                let why = ReadFailure::Damaged;
                self.answer(shard, Answer::ReadFailed { token, why, next_offset });
            }
            Collected::Records { records, next_offset } if records.is_empty() && wanted.wait => {
                // There were damaged ones only, or it was asked for too early.
                self.read(Wanted { offset: next_offset, ..wanted });
            }
            Collected::Records { records, next_offset } => {
                let (first, end_offset) = (range.start, range.end);
                let answer = Answer::Read { token, records, first, next_offset, end_offset };
                self.answer(shard, answer);
            }
        }
        None
    }

    /// Takes what was read.
    pub fn fetched(&mut self, fetch: Fetch, result: io::Result<Bytes>, state: &State) {
        let wanted = self.fetching.take().expect("an answer without a question");
        match result {
            Ok(data) => self.fetched.put(fetch, data),
            Err(error) => {
                state.failed(format!("read of segment {:x}: {error}", fetch.segment));
            }
        }
        if self.serve(wanted).is_some() {
            let next_offset = offset_behind(&self.journal, &wanted);
            let (token, why) = (wanted.token, ReadFailure::Unreadable);
            self.answer(wanted.shard, Answer::ReadFailed { token, why, next_offset });
        }
    }

    /// Takes the outcome of the journal's operation.
    pub fn completed(
        &mut self,
        operation: &Operation,
        result: io::Result<()>,
        now_ms: u64,
        state: &State,
    ) {
        let is_sync = matches!(operation, Operation::Sync { .. });
        if is_sync && result.is_ok() {
            add(&state.commits, 1);
            self.no_room = false;
        }
        self.reads_turn = is_sync;
        let mut events = std::mem::take(&mut self.events);
        self.journal.completed(result, now_ms, &mut events);
        for event in events.drain(..) {
            match event {
                Event::Durable { token: number, stream, offset } => {
                    let (shard, token) = self.settle(number);
                    add(&state.records, 1);
                    self.answer(shard, Answer::Durable { token, offset });
                    self.arrived(stream, offset);
                }
                Event::Lost { token: number } => {
                    let (shard, token) = self.settle(number);
                    add(&state.lost, 1);
                    self.answer(shard, Answer::Refused { token, why: Refused::Lost });
                }
                Event::Failed { operation, segment, error } => {
                    self.no_room = no_room(&error);
                    state.failed(format!("{operation} of segment {segment:x}: {error}"));
                }
                Event::Removed { unreleased, .. } => add(&state.removed, unreleased),
            }
        }
        self.events = events;
        self.answer_flushes();
    }

    fn settle(&mut self, number: u64) -> (usize, u64) {
        assert_eq!(number, self.appends_settled, "records settle in the order of their appends");
        self.appends_settled += 1;
        self.appends.pop_front().expect("it was appended")
    }

    fn answer_flushes(&mut self) {
        while let Some(&(shard, token, moment)) = self.flushes.front() {
            if !self.journal.is_settled(moment) {
                return;
            }
            self.flushes.pop_front();
            self.answer(shard, Answer::Flushed { token });
        }
    }

    /// Nothing more is appended; what waits becomes durable, then a final mark is written.
    pub fn close(&mut self) {
        if std::mem::replace(&mut self.closing, true) {
            return;
        }
        self.journal.close();
        self.waits.clear();
        for wanted in std::mem::take(&mut self.waiting).into_values().flatten() {
            self.shards[wanted.shard].waiting_reads -= 1;
            self.shards[wanted.shard].outstanding += 1;
            let (token, why) = (wanted.token, ReadFailure::Closing);
            let answer = Answer::ReadFailed { token, why, next_offset: wanted.offset };
            self.answer(wanted.shard, answer);
        }
    }

    /// Whether it was told to close.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether it was closed and nothing is left to do; a disk that fails by then is not tried
    /// again. `Some(false)`: the final mark is missing.
    pub fn is_over(&mut self, now_ms: u64) -> Option<bool> {
        let (closed, failing) = (self.journal.is_closed(), self.journal.is_failing(now_ms));
        if !self.closing || !(closed || failing) {
            return None;
        }
        for (shard, token, _) in std::mem::take(&mut self.flushes) {
            self.answer(shard, Answer::Refused { token, why: Refused::Closing });
        }
        Some(!failing)
    }

    /// Tells how things are.
    pub fn tell(&self, state: &State, now_ms: u64) {
        use std::sync::atomic::Ordering::Relaxed;
        state.used_bytes.store(self.journal.used_bytes(), Relaxed);
        state.pending_bytes.store(self.journal.pending_bytes() as u64, Relaxed);
        let failing = self.journal.is_failing(now_ms);
        state.disk_fails.store(failing, Relaxed);
        state.set_phase(match () {
            () if failing && self.no_room => Phase::Full,
            () if failing => Phase::Failing,
            () if self.journal.is_full(self.full_for_bytes) => Phase::Full,
            () => Phase::Ready,
        });
    }
}
