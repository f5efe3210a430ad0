//! The state of an open journal: what waits, what is being committed, what the disk does next.
//!
//! **Runs on: storage.** Sans-IO: the caller carries out [`Journal::next_operation`] and answers
//! with [`Journal::completed`]. One operation is out at a time.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use bytes::Bytes;

use super::format::{COMMIT_HEADER_BYTES, CommitWriter, Kind, Mark, Record, record_bytes};
use super::streams::{Place, StreamId, Streams};
use super::{Options, Retention};
use crate::limits::{
    BLOCK_BYTES, COMMIT_BYTES, CURSOR_DELAY_MS, JOURNAL_CACHE_BYTES, JOURNAL_PENDING_BYTES,
    JOURNAL_RETRIES, JOURNAL_RETRY_MS, RECORD_BYTES,
};

/// The caller's name for an append.
pub type Token = u64;

/// What the disk must do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`super::Disk::create`].
    Create {
        /// The new segment.
        segment: u64,
        /// Room for so many bytes.
        bytes: u64,
    },
    /// [`super::Disk::write`].
    Write {
        /// The segment.
        segment: u64,
        /// Where.
        position: u64,
        /// Whole blocks.
        data: Bytes,
    },
    /// [`super::Disk::sync`].
    Sync {
        /// The segment.
        segment: u64,
    },
    /// [`super::Disk::truncate`].
    Truncate {
        /// The segment, which is not written to any more.
        segment: u64,
        /// What it keeps.
        bytes: u64,
    },
    /// [`super::Disk::remove`].
    Remove {
        /// The segment.
        segment: u64,
    },
}

/// Why an append was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The quota is used up.
    Full,
    /// Too much waits for the disk.
    Busy,
    /// The disk failed and is tried again later.
    Failing,
    /// The record is larger than [`RECORD_BYTES`].
    TooLarge,
    /// The journal is being closed.
    Closing,
    /// It was taken, and the disk failed meanwhile: it is not in the journal, or comes to light
    /// after a crash.
    Lost,
}

/// What became of something.
#[derive(Debug)]
pub enum Event {
    /// The record with this token is durable.
    Durable {
        /// The token given with it.
        token: Token,
        /// Its stream.
        stream: StreamId,
        /// Its offset there.
        offset: u64,
    },
    /// The record with this token is not in the journal, or may come to light after a crash.
    Lost {
        /// The token given with it.
        token: Token,
    },
    /// An operation failed. The journal goes on or refuses; somebody should know.
    Failed {
        /// What was tried.
        operation: &'static str,
        /// On which segment.
        segment: u64,
        /// What the disk said.
        error: io::Error,
    },
    /// A segment is gone.
    Removed {
        /// Its number.
        segment: u64,
        /// Records in it that nobody had released: they had to make room, or were too old.
        unreleased: u64,
    },
}

/// A moment in a journal's life: what had been appended and which moves of cursors were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    appends: u64,
    moves: u64,
}

/// A segment that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub segment: u64,
    /// What it keeps of the disk.
    pub bytes: u64,
    /// When it was written to last.
    pub last_ms: u64,
}

/// The segment that is written to.
#[derive(Clone, Copy, Debug)]
struct Current {
    segment: u64,
    /// Where the next commit begins; all before is synced.
    position: u64,
    bytes: u64,
    /// How far a commit has said that it is synced.
    marked: u64,
}

#[derive(Debug)]
struct Waiting {
    token: Token,
    stream: StreamId,
    offset: u64,
    time_ms: u64,
    payload: Bytes,
}

/// What is being made durable.
#[derive(Debug, Default)]
struct Commit {
    records: Vec<Waiting>,
    cursors: Vec<(StreamId, u64)>,
    /// The streams and cursors that it names.
    named: Vec<StreamId>,
    /// The moves of cursors that it and the commits before it hold.
    moves: u64,
    data: Bytes,
    time_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Nothing,
    Creating { segment: u64, bytes: u64 },
    Writing,
    Syncing,
    Truncating { segment: u64, bytes: u64 },
    Removing { segment: u64 },
}

/// Whether an operation failed for want of room.
pub(super) fn no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    options: Options,
    pub(super) streams: Streams,
    pub(super) segments: VecDeque<Segment>,
    /// Bytes of all of them, see [`Journal::count_segments`].
    segments_bytes: u64,
    /// The newest sealed segment with something synced, and how far.
    pub(super) previous: Mark,
    pub(super) next_segment: u64,
    /// The newest segment with something synced: it names every stream and cursor, so that older
    /// ones can be removed; 0: it names not all of them.
    carrier: u64,
    current: Option<Current>,
    /// Segments that failed before anything in them was synced: they go once a later one has something.
    voids: Vec<u64>,
    pending: VecDeque<Waiting>,
    pending_bytes: usize,
    pending_since_ms: u64,
    moved_since_ms: u64,
    commit: Option<Commit>,
    written: bool,
    doing: Doing,
    truncate: Vec<(u64, u64)>,
    failures: u32,
    /// What can be given back comes before the next commit: the disk was full, or the last operation
    /// ended a commit or a cut, since a steady stream of records would let nothing go.
    make_room: bool,
    /// The disk was full, and segments are as small as they may be until one was written to.
    small: bool,
    /// Until then no segment is removed, since one could not be; 0: nothing is wrong.
    removal_ms: u64,
    /// Until then nothing is tried; 0: nothing is wrong.
    retry_ms: u64,
    closing: bool,
    /// Appends taken and moves made so far.
    taken: Moment,
    /// What of these is durable; a lost append counts too.
    settled: Moment,
    /// Up to there nothing waits for others.
    flush: Moment,
    cache: VecDeque<(u64, u64, Bytes)>,
    cache_bytes: usize,
}

impl Journal {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            streams: Streams::default(),
            segments: VecDeque::new(),
            segments_bytes: 0,
            previous: Mark::default(),
            next_segment: 1,
            carrier: 0,
            current: None,
            voids: Vec::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            pending_since_ms: 0,
            moved_since_ms: 0,
            commit: None,
            written: false,
            doing: Doing::Nothing,
            truncate: Vec::new(),
            failures: 0,
            make_room: false,
            small: false,
            retry_ms: 0,
            removal_ms: 0,
            closing: false,
            taken: Moment::default(),
            settled: Moment::default(),
            flush: Moment::default(),
            cache: VecDeque::new(),
            cache_bytes: 0,
        }
    }

    /// The stream of this name, which is made if there is none; `None`: there are too many.
    pub fn stream(&mut self, name: &str) -> Option<StreamId> {
        self.streams.find_or_add(name, false)
    }

    /// The cursor of this name, which is made if there is none; `None`: there are too many.
    pub fn cursor(&mut self, name: &str) -> Option<StreamId> {
        self.streams.find_or_add(name, true)
    }

    /// All streams, or all cursors, with their names.
    pub fn names(&self, cursors: bool) -> impl Iterator<Item = (StreamId, &str)> {
        let of = move |id| (self.streams.get(id).is_cursor == cursors).then_some(id);
        self.streams.ids().filter_map(of).map(|id| (id, &*self.streams.get(id).name))
    }

    /// The offsets of a stream that can be read.
    pub fn range(&self, stream: StreamId) -> Range<u64> {
        self.streams.range(stream)
    }

    /// A cursor's newest value.
    pub fn cursor_value(&self, cursor: StreamId) -> u64 {
        self.streams.get(cursor).next
    }

    /// Bytes that the journal has of its quota.
    pub fn used_bytes(&self) -> u64 {
        let current = self.current.map_or(0, |current| current.bytes - current.position);
        self.segments_bytes - current
    }

    /// To be called whenever a segment or its length has changed.
    pub(super) fn count_segments(&mut self) {
        self.segments_bytes = self.segments.iter().map(|segment| segment.bytes).sum();
    }

    /// To be called once all segments were read.
    pub(super) fn find_carrier(&mut self) {
        let newest = self.segments.back().map_or(0, |newest| newest.segment);
        let names_all = self.streams.ids().all(|id| self.streams.get(id).named_in == newest);
        self.carrier = if names_all { newest } else { 0 };
    }

    /// Bytes that wait for the disk.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Whether the disk has failed and appends are refused.
    pub fn is_failing(&self, now_ms: u64) -> bool {
        now_ms < self.retry_ms
    }

    /// Whether no record with so many bytes is taken before others are released.
    pub fn is_full(&self, payload_bytes: usize) -> bool {
        let bytes = record_bytes(payload_bytes);
        self.options.retention == Retention::Released && !self.has_room(bytes)
    }

    /// Commits what has been taken so far without waiting for more; [`Journal::is_settled`] says
    /// when that is done.
    pub fn flush(&mut self) -> Moment {
        self.flush = self.taken;
        self.flush
    }

    /// Whether every record appended before `moment` is durable or lost, and every cursor durable
    /// that was moved before it.
    pub fn is_settled(&self, moment: Moment) -> bool {
        self.settled.appends >= moment.appends && self.settled.moves >= moment.moves
    }

    /// Appends a record; its offset. [`Event::Durable`] or [`Event::Lost`] will name the token.
    ///
    /// # Errors
    /// When the record was not taken; nothing has changed then.
    pub fn append(
        &mut self,
        token: Token,
        stream: StreamId,
        payload: Bytes,
        now_ms: u64,
    ) -> Result<u64, Refused> {
        let bytes = record_bytes(payload.len());
        if payload.len() > RECORD_BYTES {
            return Err(Refused::TooLarge);
        }
        if self.closing {
            return Err(Refused::Closing);
        }
        if self.is_failing(now_ms) {
            return Err(Refused::Failing);
        }
        if self.pending_bytes + bytes > JOURNAL_PENDING_BYTES {
            return Err(Refused::Busy);
        }
        if self.is_full(payload.len()) {
            return Err(Refused::Full);
        }
        if self.pending.is_empty() {
            self.pending_since_ms = now_ms;
        }
        let state = self.streams.get_mut(stream);
        assert!(!state.is_cursor, "records go to streams");
        let offset = state.next;
        state.next += 1;
        self.taken.appends += 1;
        self.pending_bytes += bytes;
        self.pending.push_back(Waiting { token, stream, offset, time_ms: now_ms, payload });
        Ok(offset)
    }

    /// Each record may need a commit and a block of its own, and a new segment may be needed.
    fn has_room(&self, bytes: usize) -> bool {
        let waiting = self.pending_bytes + bytes + 2 * BLOCK_BYTES;
        let unusable = self.options.segment_bytes();
        self.used_bytes() + waiting as u64 + unusable <= self.options.data_bytes()
    }

    /// Moves a cursor. It is durable within [`CURSOR_DELAY_MS`] and a commit; a crash before that
    /// leaves an older value.
    pub fn move_cursor(&mut self, cursor: StreamId, value: u64, now_ms: u64) {
        let state = self.streams.get_mut(cursor);
        assert!(state.is_cursor, "only cursors move");
        if state.next == value {
            return;
        }
        if state.next == state.durable || !self.streams.moved.contains(&cursor.0) {
            if self.streams.moved.is_empty() {
                self.moved_since_ms = now_ms;
            }
            self.streams.moved.push(cursor.0);
        }
        self.streams.get_mut(cursor).next = value;
        self.taken.moves += 1;
    }

    /// Says that no record of the stream below `offset` is wanted any more.
    pub fn release(&mut self, stream: StreamId, offset: u64) {
        let state = self.streams.get_mut(stream);
        state.released = state.released.max(offset);
    }

    /// Nothing more is taken; what waits is committed, then a mark.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Whether a closed journal has nothing left to do.
    pub fn is_closed(&self) -> bool {
        self.closing && self.doing == Doing::Nothing && self.commit.is_none() && !self.has_work()
    }

    fn has_work(&self) -> bool {
        let unmarked = |current: Current| current.marked < current.position;
        !self.pending.is_empty()
            || !self.streams.moved.is_empty()
            || !self.truncate.is_empty()
            || self.current.is_some_and(unmarked)
    }

    /// When [`Journal::next_operation`] may have something to say that it had not before.
    pub fn deadline_ms(&self) -> u64 {
        if self.retry_ms > 0 {
            return self.retry_ms;
        }
        let pending = match self.pending.is_empty() {
            true => u64::MAX,
            false => self.pending_since_ms + self.options.gather_ms,
        };
        let moved = match self.streams.moved.is_empty() {
            true => u64::MAX,
            false => self.moved_since_ms + CURSOR_DELAY_MS,
        };
        let removal = if self.removal_ms > 0 { self.removal_ms } else { u64::MAX };
        pending.min(moved).min(removal)
    }

    /// What the disk must do now; `None`: nothing, or it is at work.
    pub fn next_operation(&mut self, now_ms: u64) -> Option<Operation> {
        if self.doing != Doing::Nothing || now_ms < self.retry_ms {
            return None;
        }
        self.retry_ms = 0;
        if now_ms >= self.removal_ms {
            self.removal_ms = 0;
        }
        // Once for each commit and try: what gives room must not hold up records.
        if self.commit.is_none()
            && std::mem::take(&mut self.make_room)
            && let Some(operation) = self.give_back(now_ms)
        {
            return Some(operation);
        }
        if self.commit.is_none() {
            self.begin_commit(now_ms);
        }
        if self.commit.is_some() {
            return Some(self.commit_operation(now_ms));
        }
        self.give_back(now_ms)
    }

    /// What leaves the disk more room.
    fn give_back(&mut self, now_ms: u64) -> Option<Operation> {
        if let Some((segment, bytes)) = self.truncate.pop() {
            self.doing = Doing::Truncating { segment, bytes };
            return Some(Operation::Truncate { segment, bytes });
        }
        let segment = self.removable(now_ms)?;
        self.doing = Doing::Removing { segment };
        Some(Operation::Remove { segment })
    }

    /// Takes what a commit may hold of what waits.
    fn begin_commit(&mut self, now_ms: u64) {
        let full = self.pending_bytes >= COMMIT_BYTES / 2;
        let asked = !self.is_settled(self.flush);
        let due = now_ms >= self.deadline_ms() || full || asked || self.closing;
        let mark =
            self.closing && !self.has_records() && self.has_work() && self.truncate.is_empty();
        if !due || (!self.has_records() && !mark) {
            return;
        }
        let mut commit = Commit { moves: self.taken.moves, ..Commit::default() };
        let mut bytes = COMMIT_HEADER_BYTES;
        for number in std::mem::take(&mut self.streams.moved) {
            let id = StreamId(number);
            commit.cursors.push((id, self.streams.get(id).next));
            bytes += self.name_bytes(id);
        }
        while let Some(waiting) = self.pending.front() {
            // The stream's name may have to go with it.
            let more = record_bytes(waiting.payload.len()) + self.name_bytes(waiting.stream);
            if bytes + more > COMMIT_BYTES {
                break;
            }
            bytes += more;
            let waiting = self.pending.pop_front().expect("it was just looked at");
            self.pending_bytes -= record_bytes(waiting.payload.len());
            commit.records.push(waiting);
        }
        self.pending_since_ms = now_ms;
        self.commit = Some(commit);
    }

    fn has_records(&self) -> bool {
        !self.pending.is_empty() || !self.streams.moved.is_empty()
    }

    fn name_bytes(&self, id: StreamId) -> usize {
        record_bytes(self.streams.get(id).name.len())
    }

    /// The next step of the commit.
    fn commit_operation(&mut self, now_ms: u64) -> Operation {
        if self.written {
            let segment = self.current.expect("it was written to").segment;
            self.doing = Doing::Syncing;
            return Operation::Sync { segment };
        }
        let commit = self.commit.take().expect("there is one to carry out");
        if let Some(current) = self.current {
            let commit = self.encode(commit, current, now_ms);
            if current.position + commit.data.len() as u64 <= current.bytes {
                let (segment, position) = (current.segment, current.position);
                let data = commit.data.clone();
                self.commit = Some(commit);
                self.doing = Doing::Writing;
                return Operation::Write { segment, position, data };
            }
            self.commit = Some(commit);
            self.seal(current.position);
        } else {
            self.commit = Some(commit);
        }
        let (segment, bytes) = (self.next_segment, self.new_segment_bytes());
        self.next_segment += 1;
        self.doing = Doing::Creating { segment, bytes };
        Operation::Create { segment, bytes }
    }

    /// A new segment begins with the names of all streams and the values of all cursors, so that
    /// older ones can be removed.
    fn new_segment_bytes(&self) -> u64 {
        let names: usize = self.streams.ids().map(|id| self.name_bytes(id)).sum();
        let least = (2 * names + COMMIT_BYTES + COMMIT_HEADER_BYTES).next_multiple_of(BLOCK_BYTES);
        if self.small { least as u64 } else { self.options.segment_bytes().max(least as u64) }
    }

    /// The current segment gets nothing more and keeps `bytes`.
    fn seal(&mut self, bytes: u64) {
        let Some(current) = self.current.take() else { return };
        self.remember(current);
        self.truncate.push((current.segment, bytes));
        if let Some(segment) = self.segments.back_mut() {
            segment.bytes = bytes;
        }
        self.count_segments();
    }

    fn encode(&self, mut commit: Commit, current: Current, now_ms: u64) -> Commit {
        let Current { segment, position, .. } = current;
        commit.named.clear();
        let fresh = position == 0;
        let users = commit.records.iter().map(|waiting| waiting.stream);
        let all: Vec<StreamId> = if fresh { self.streams.ids().collect() } else { users.collect() };
        let mut named = vec![false; self.streams.len()];
        for id in all {
            let is_named = self.streams.get(id).named_in == segment;
            if !is_named && !std::mem::replace(&mut named[id.0 as usize], true) {
                commit.named.push(id);
            }
        }
        // The room is taken at once, since growing would copy the records over and over.
        let names = commit.named.iter().chain(commit.cursors.iter().map(|(id, _)| id));
        let names: usize = names.map(|id| self.name_bytes(*id)).sum();
        let payloads = commit.records.iter().map(|waiting| record_bytes(waiting.payload.len()));
        let bytes = COMMIT_HEADER_BYTES + names + payloads.sum::<usize>();
        let mut writer = CommitWriter::new(segment, position, bytes);
        for &id in &commit.named {
            let stream = self.streams.get(id);
            let kind = if stream.is_cursor { Kind::Cursor } else { Kind::Stream };
            let payload = stream.name.as_bytes();
            let offset = stream.durable;
            writer.record(&Record { stream: id.0, kind, offset, time_ms: now_ms, payload });
        }
        for &(id, offset) in &commit.cursors {
            let payload = self.streams.get(id).name.as_bytes();
            let kind = Kind::Cursor;
            writer.record(&Record { stream: id.0, kind, offset, time_ms: now_ms, payload });
        }
        for Waiting { stream, offset, time_ms, payload, .. } in &commit.records {
            let (offset, time_ms, kind) = (*offset, *time_ms, Kind::Data);
            writer.record(&Record { stream: stream.0, kind, offset, time_ms, payload });
        }
        commit.time_ms = now_ms;
        commit.data = Bytes::from(writer.finish(position, self.previous, now_ms));
        commit
    }

    /// Takes the answer to the operation that is out.
    pub fn completed(&mut self, result: io::Result<()>, now_ms: u64, events: &mut Vec<Event>) {
        let doing = std::mem::replace(&mut self.doing, Doing::Nothing);
        // Each commit may fill a segment, and what can be removed must not wait for all cuts.
        self.make_room |= matches!(doing, Doing::Truncating { .. });
        match (doing, result) {
            (Doing::Nothing, _) => unreachable!("an answer without a question"),
            (Doing::Creating { segment, bytes }, Ok(())) => {
                self.segments.push_back(Segment { segment, bytes, last_ms: now_ms });
                self.count_segments();
                self.current = Some(Current { segment, position: 0, bytes, marked: 0 });
            }
            (Doing::Creating { segment, .. }, Err(error)) => {
                self.failed("create", segment, error, now_ms, events);
            }
            (Doing::Writing, Ok(())) => self.written = true,
            (Doing::Syncing, Ok(())) => self.durable(events),
            (Doing::Writing | Doing::Syncing, Err(error)) => {
                let current = self.current.expect("it was written to");
                let what = if doing == Doing::Writing { "write" } else { "sync" };
                self.written = false;
                self.abandon(current);
                self.failed(what, current.segment, error, now_ms, events);
            }
            (Doing::Truncating { .. }, Ok(())) => {}
            (Doing::Truncating { segment, bytes }, Err(error)) => {
                // It keeps its preallocated room, which counts until it is removed.
                if let Some(kept) = self.segments.iter_mut().find(|kept| kept.segment == segment) {
                    kept.bytes = kept.bytes.max(bytes);
                }
                self.count_segments();
                events.push(Event::Failed { operation: "truncate", segment, error });
            }
            (Doing::Removing { segment }, Ok(())) => {
                self.segments.retain(|kept| kept.segment != segment);
                self.count_segments();
                if self.voids.first() == Some(&segment) {
                    self.voids.remove(0);
                    return;
                }
                let unreleased = self.streams.unreleased(segment);
                self.streams.forget(segment);
                events.push(Event::Removed { segment, unreleased });
            }
            (Doing::Removing { segment }, Err(error)) => {
                self.removal_ms = now_ms + JOURNAL_RETRY_MS;
                events.push(Event::Failed { operation: "remove", segment, error });
            }
        }
    }

    /// Cuts a segment of an earlier start when there is time.
    pub(super) fn cut_later(&mut self, segment: u64, bytes: u64) {
        self.truncate.push((segment, bytes));
    }

    /// The segment failed: it keeps what was synced and is not touched any more, not even cut,
    /// since nothing is known of its tail.
    fn abandon(&mut self, current: Current) {
        if current.position == 0 {
            self.voids.push(current.segment);
        }
        self.remember(current);
        self.current = None;
    }

    /// What later commits say of the segments before theirs: a segment in which nothing was synced
    /// is passed over, and so void.
    fn remember(&mut self, current: Current) {
        if current.position > 0 {
            self.previous = Mark { segment: current.segment, synced: current.position };
        }
    }

    fn durable(&mut self, events: &mut Vec<Event>) {
        let commit = self.commit.take().expect("it was synced");
        let current = self.current.as_mut().expect("it was synced");
        let (segment, position) = (current.segment, current.position);
        let bytes = commit.data.len() as u32;
        current.marked = current.position;
        current.position += u64::from(bytes);
        if commit.records.is_empty() && commit.cursors.is_empty() {
            current.marked = current.position;
        }
        (self.written, self.failures, self.carrier) = (false, 0, segment);
        (self.small, self.make_room) = (false, true);
        if let Some(kept) = self.segments.back_mut() {
            kept.last_ms = commit.time_ms;
        }
        for id in commit.named {
            self.streams.get_mut(id).named_in = segment;
        }
        for (id, value) in commit.cursors {
            self.streams.get_mut(id).durable = value;
        }
        self.settled.appends += commit.records.len() as u64;
        self.settled.moves = commit.moves;
        for Waiting { token, stream, offset, .. } in commit.records {
            self.streams.add_place(stream, Place { offset, segment, position, bytes });
            self.streams.get_mut(stream).durable = offset + 1;
            events.push(Event::Durable { token, stream, offset });
        }
        self.cache_bytes += commit.data.len();
        self.cache.push_back((segment, position, commit.data));
        while self.cache_bytes > JOURNAL_CACHE_BYTES {
            let (_, _, old) = self.cache.pop_front().expect("it has bytes");
            self.cache_bytes -= old.len();
        }
    }

    /// Tries a new segment some times at once, then refuses everything for a while.
    fn failed(
        &mut self,
        operation: &'static str,
        segment: u64,
        error: io::Error,
        now_ms: u64,
        events: &mut Vec<Event>,
    ) {
        self.failures += 1;
        let full = no_room(&error);
        events.push(Event::Failed { operation, segment, error });
        if self.failures < JOURNAL_RETRIES && !full {
            return;
        }
        (self.failures, self.make_room, self.small) = (0, full, full);
        self.retry_ms = now_ms + JOURNAL_RETRY_MS;
        let commit = self.commit.take().unwrap_or_default();
        // Cursors wait for the next commit that succeeds.
        for (id, _) in commit.cursors {
            if !self.streams.moved.contains(&id.0) {
                self.streams.moved.push(id.0);
            }
        }
        let lost = commit.records.into_iter().chain(self.pending.drain(..));
        self.settled.appends = self.taken.appends;
        events.extend(lost.map(|waiting| Event::Lost { token: waiting.token }));
        self.pending_bytes = 0;
        self.streams.roll_back();
    }

    fn removable(&self, now_ms: u64) -> Option<u64> {
        if self.removal_ms > 0 {
            return None;
        }
        // Room that nothing is in comes before any record.
        if let Some(&void) = self.voids.first().filter(|&&void| void < self.carrier) {
            return Some(void);
        }
        let oldest = self.segments.front()?;
        let remove = match self.options.retention {
            Retention::Oldest { age_ms } => {
                let old = age_ms > 0 && oldest.last_ms + age_ms < now_ms;
                // What isn't old makes room for records alone, and so not while none are written.
                let writes = self.current.is_some_and(|current| current.position > 0);
                old || (writes && self.segments_bytes > self.options.quota_bytes)
            }
            Retention::Released => self.streams.is_released(oldest.segment),
        };
        // What the names and cursors in it say is in every later segment that was written to.
        (remove && oldest.segment < self.carrier).then_some(oldest.segment)
    }

    /// The commit with the record at `offset` or the next one that is there; `None`: it is not
    /// durable yet.
    pub fn place(&self, stream: StreamId, offset: u64) -> Option<Place> {
        self.streams.place(stream, offset)
    }

    /// The commit of the stream after this one.
    pub fn place_after(&self, stream: StreamId, place: Place) -> Option<Place> {
        self.streams.place_after(stream, place)
    }

    /// How far a segment may be read: nothing is written below any more.
    pub fn readable_bytes(&self, segment: u64) -> u64 {
        match self.current {
            Some(current) if current.segment == segment => current.position,
            _ => {
                let found = self.segments.binary_search_by_key(&segment, |kept| kept.segment);
                found.map_or(0, |at| self.segments[at].bytes)
            }
        }
    }

    /// A commit's bytes, if it is one of the newest.
    pub fn cached(&self, place: Place) -> Option<Bytes> {
        let key = (place.segment, place.position);
        let at = self.cache.partition_point(|&(segment, position, _)| (segment, position) < key);
        let (segment, position, data) = self.cache.get(at)?;
        ((*segment, *position) == key).then(|| data.clone())
    }
}
