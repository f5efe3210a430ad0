//! The spool: the journal in front of Kafka, as one shard uses it.
//!
//! **Runs on: shard**; the journal itself is on the storage thread. A *line* is what this shard has
//! spooled of one partition: a stream `TOPIC/PARTITION/SHARD` and the cursor of what Kafka has of
//! it. Sans-IO but for the rings. Invariants: while a line has records that the producer was not
//! given, everything more of its partition goes behind them; a line is forwarded in order, and its
//! cursor never passes a record that Kafka has not acknowledged; while records of a topic are spooled
//! its number of partitions is the one that they were spooled with, so that a key stays where it is.

mod givers;
mod lag;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use givers::{Giver, Kept};
use lag::Lag;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use trine_core::journal::storage::{Answer, ReadFailure, Request, Store};
use trine_core::journal::{Refused, StreamId};

use crate::limits::{FETCH_BYTES, SPOOL_FORWARD_RECORDS, SPOOL_PAUSE_MS};

/// The folder of its journal, in `data_dir`.
pub const FOLDER: &str = "spool";

/// What the spool says.
#[derive(Debug)]
pub enum SpoolEvent {
    /// This shard's lines are known; the producer of the last start, if there was one.
    Open {
        /// Producer id and epoch.
        last: Option<(i64, i16)>,
    },
    /// The record is durable here.
    Durable(u32),
    /// The record is not here. It was for this line, if that is known.
    Refused(u32, Option<usize>, Refused),
    /// Records to be sent to Kafka, in order.
    Forward {
        /// The line.
        line: usize,
        /// Offset, Unix milliseconds and body of each.
        records: Vec<(u64, u64, Bytes)>,
    },
    /// What comes next was given to Kafka by the producer of a shard that is no more. Nothing is
    /// forwarded before [`Spool::resumed`].
    Resume {
        /// Its producer id and epoch.
        last: (i64, i16),
    },
    /// The producer's identity is durable.
    Identity,
}

/// What this shard has spooled of a partition.
#[derive(Debug)]
pub struct Line {
    /// The topic, by its number.
    pub topic: u16,
    /// The partition.
    pub partition: u32,
    /// Whose it is, by its place among the givers.
    giver: usize,
    stream: Option<StreamId>,
    cursor: Option<StreamId>,
    /// Records that are here, or on their way, and that Kafka has not acknowledged.
    spooled: u64,
    /// The next record that Kafka has not acknowledged.
    done: u64,
    /// The next record that Kafka was not given.
    next: u64,
    /// The end of what is durable.
    end: u64,
    given: usize,
    /// Where the read that has no answer begins.
    reading: Option<u64>,
    /// What is damaged before this offset is counted.
    lost_before: u64,
    /// Nothing is forwarded before this.
    not_before_ms: u64,
    /// When its oldest record came; 0: it has none.
    since_ms: u64,
    cursor_moved: bool,
    /// Where its dead letters go, whether that was asked for, and those that wait for it.
    dead: Option<StreamId>,
    dead_asked: bool,
    dead_waiting: VecDeque<Bytes>,
    /// The dead letter that the journal has not answered.
    letter: Option<Bytes>,
    /// It is in the list of lines that have something to do.
    is_listed: bool,
}

/// A topic as the spool knows it.
#[derive(Debug)]
struct Topic {
    name: Box<str>,
    /// This shard's line of each partition.
    lines: Vec<usize>,
    /// Partitions that keys are spread over.
    partitions: Learnt,
    /// Bytes of a record's body that it takes.
    record_bytes: Learnt,
    /// Records that Kafka has not acknowledged.
    spooled: u64,
}

/// A number that Kafka tells, 0 if no start has learnt it, and the cursor that keeps it.
#[derive(Debug, Default)]
struct Learnt {
    value: u64,
    cursor: Option<StreamId>,
}

impl Learnt {
    /// What keeps another number, once there is a place for it.
    fn learn(&mut self, value: u64) -> Option<Request> {
        self.value = value;
        Some(Request::MoveCursor { cursor: self.cursor?, value })
    }
}

impl Topic {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            lines: Vec::new(),
            partitions: Learnt::default(),
            record_bytes: Learnt::default(),
            spooled: 0,
        }
    }
}

impl Line {
    /// Whether nothing of it is in the spool, or on its way there.
    pub fn is_empty(&self) -> bool {
        self.spooled == 0
    }

    /// Whether more of its partition must go behind what is spooled. What the producer was given
    /// stays ahead of what it is given later, so the line need not run empty, which it never would
    /// while records come faster than Kafka answers.
    pub fn holds(&self) -> bool {
        self.spooled > self.given as u64
    }

    /// Whether something is to be forwarded or written, now or later.
    fn has_work(&self) -> bool {
        self.cursor_moved || self.has_letters() || self.next < self.end
    }

    /// Whether dead letters are not durable yet.
    fn has_letters(&self) -> bool {
        !self.dead_waiting.is_empty() || self.letter.is_some()
    }
}

/// What requests' tokens are about, in their upper half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Append,
    List,
    Stream,
    Cursor,
    Read,
    Producer,
    Shards,
    Identity,
    /// The stream of a line's dead letters.
    Dead,
    /// A dead letter itself.
    Letter,
    /// The number of a topic's partitions.
    Partitions,
    /// The bytes of a topic's records.
    RecordBytes,
    /// Cursors that moved.
    Moved,
}

impl About {
    const ALL: [About; 13] = [
        About::Append,
        About::List,
        About::Stream,
        About::Cursor,
        About::Read,
        About::Producer,
        About::Shards,
        About::Identity,
        About::Dead,
        About::Letter,
        About::Partitions,
        About::RecordBytes,
        About::Moved,
    ];

    fn token(self, number: usize) -> u64 {
        super::token(self as u64, number)
    }

    fn of(token: u64) -> (About, usize) {
        let (about, number) = super::parts(token);
        (About::ALL[about], number)
    }
}

/// What all shards of a process must know when their number has changed: keys have other owners now,
/// so nothing is taken until everything that the owners before have spooled was forwarded.
#[derive(Debug, Default)]
pub struct Resharding {
    /// Shards that know what they have.
    opened: AtomicUsize,
    /// Records of an earlier start that Kafka has not acknowledged.
    pending: AtomicU64,
}

impl Resharding {
    fn is_over(&self, shards: usize) -> bool {
        self.opened.load(Ordering::Acquire) == shards && self.pending.load(Ordering::Acquire) == 0
    }
}

/// The spool of one shard.
pub struct Spool {
    store: Store,
    /// The journal of dead letters, and requests that found no room there.
    letters: (Store, VecDeque<Request>),
    shard: usize,
    shards: usize,
    resharding: Arc<Resharding>,
    /// The number of shards has changed, and what was spooled before is not forwarded.
    is_resharded: bool,
    topics: Vec<Topic>,
    all: Vec<Line>,
    /// Lines that have something to do.
    busy: Vec<usize>,
    /// Requests that found no room.
    waiting: VecDeque<Request>,
    events: VecDeque<SpoolEvent>,
    /// Whose lines there are: this shard's own, then those of each shard that is no more.
    givers: Vec<Giver>,
    /// Whose turn it is; those before have no record left.
    giver: usize,
    /// The producer does not have the giver's identity yet.
    must_resume: bool,
    kept: Option<Kept>,
    /// Flushes for the sake of the producer's identity so far.
    identity_flushes: usize,
    /// The cursor that holds the number of shards, and its value at the start.
    shards_cursor: Option<(StreamId, u64)>,
    /// The line of each append that has no answer, by record.
    appends: std::collections::HashMap<u32, usize>,
    opening: usize,
    is_open: bool,
    lag: Lag,
    /// Records that may be forwarded now.
    allowance: u64,
    allowed_ms: u64,
    rate: u64,
    dead_letters: u64,
}

impl Spool {
    /// Asks for what earlier starts have left.
    pub fn new(
        (store, letters): (Store, Store),
        (shard, shards): (usize, usize),
        resharding: Arc<Resharding>,
        topics: &[Box<str>],
        rate: u64,
    ) -> Self {
        let mut waiting = VecDeque::new();
        waiting.extend(Giver::requests(shard, 0));
        let token = About::Shards.token(0);
        waiting.push_back(Request::Open { token, name: "shards".into(), cursor: true });
        for (number, topic) in topics.iter().enumerate() {
            for (about, what) in
                [(About::Partitions, "partitions"), (About::RecordBytes, "record-bytes")]
            {
                // No topic has a colon in its name, so that no line has this one.
                let name = format!("{what}:{shard}/{topic}").into();
                waiting.push_back(Request::Open { token: about.token(number), name, cursor: true });
            }
        }
        waiting.push_back(Request::List { token: About::List.token(0), prefix: "".into() });
        Self {
            store,
            letters: (letters, VecDeque::new()),
            shard,
            shards,
            resharding,
            is_resharded: false,
            topics: topics.iter().map(|name| Topic::new(name)).collect(),
            all: Vec::new(),
            busy: Vec::new(),
            waiting,
            events: VecDeque::new(),
            givers: vec![Giver::default()],
            giver: 0,
            must_resume: false,
            kept: None,
            identity_flushes: 0,
            shards_cursor: None,
            appends: std::collections::HashMap::new(),
            opening: 0,
            is_open: false,
            lag: Lag::default(),
            allowance: 0,
            allowed_ms: 0,
            rate,
            dead_letters: 0,
        }
    }

    /// The journal's state.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether what earlier starts have left is known.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether keys' records may be taken: nothing is spooled where they had another owner.
    pub fn is_settled(&mut self) -> bool {
        if self.is_resharded && self.resharding.is_over(self.shards) {
            self.is_resharded = false;
            self.keep_shards();
        }
        self.is_open && !self.is_resharded
    }

    fn keep_shards(&mut self) {
        if let Some((cursor, _)) = self.shards_cursor {
            self.send(Request::MoveCursor { cursor, value: self.shards as u64 });
        }
    }

    /// Records that Kafka has not acknowledged, and the age of the oldest line in milliseconds.
    pub fn backlog(&self, now_ms: u64) -> (u64, u64) {
        let records = self.topics.iter().map(|topic| topic.spooled).sum();
        let since = self.all.iter().map(|line| line.since_ms).filter(|&since_ms| since_ms > 0);
        (records, since.min().map_or(0, |since_ms| now_ms.saturating_sub(since_ms)))
    }

    /// Records that Kafka refused for good, kept among the journal's dead letters.
    pub fn dead_letters(&self) -> u64 {
        self.dead_letters
    }

    /// The line of a partition, made known if it is new.
    pub fn line(&mut self, topic: u16, partition: u32) -> usize {
        while self.topics[topic as usize].lines.len() <= partition as usize {
            let partition = self.topics[topic as usize].lines.len() as u32;
            let number = self.add(topic, partition, self.shard, 0);
            self.topics[topic as usize].lines.push(number);
        }
        self.topics[topic as usize].lines[partition as usize]
    }

    fn add(&mut self, topic: u16, partition: u32, shard: usize, giver: usize) -> usize {
        let number = self.all.len();
        self.all.push(Line {
            topic,
            partition,
            giver,
            stream: None,
            cursor: None,
            spooled: 0,
            done: 0,
            next: 0,
            end: 0,
            given: 0,
            reading: None,
            lost_before: 0,
            not_before_ms: 0,
            since_ms: 0,
            cursor_moved: false,
            dead: None,
            dead_asked: false,
            dead_waiting: VecDeque::new(),
            letter: None,
            is_listed: false,
        });
        let topic = &self.topics[topic as usize].name;
        let name: Box<str> = format!("{topic}/{partition}/{shard}").into();
        for (about, cursor) in [(About::Stream, false), (About::Cursor, true)] {
            let token = about.token(number);
            self.send(Request::Open { token, name: name.clone(), cursor });
        }
        self.opening += 2;
        number
    }

    /// The topics and how many records of each Kafka has not acknowledged: those with a route, and
    /// then those that an earlier start has spooled records of.
    pub fn topics(&self) -> impl Iterator<Item = (&str, u64)> {
        self.topics.iter().map(|topic| (&*topic.name, topic.spooled))
    }

    /// A line by its number.
    pub fn get(&self, line: usize) -> &Line {
        &self.all[line]
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Partitions that a topic's keys are spread over; 0: no start has learnt that yet.
    pub fn partitions(&self, topic: u16) -> u32 {
        self.topics[topic as usize].partitions.value as u32
    }

    /// Kafka says how many partitions a topic has. A number that grows while records are spooled
    /// counts from when they are forwarded: a key that moved to another partition would overtake its
    /// spooled records. A smaller one is that of another topic of this name, and counts at once.
    pub fn learn_partitions(&mut self, topic: u16, count: u32) {
        let known = self.partitions(topic);
        let state = &mut self.topics[topic as usize];
        let frozen = state.spooled > 0 && count > known && known > 0;
        if !self.is_open || count == 0 || count == known || frozen {
            return;
        }
        // A commit holds the cursors that were moved before its records, so that no record is
        // spooled with a number that the next start won't find.
        if let Some(request) = state.partitions.learn(count.into()) {
            self.send(request);
        }
        self.line(topic, count - 1);
    }

    /// Bytes of a record's body that a topic takes; `None`: no start has learnt that yet.
    pub fn record_bytes(&self, topic: u16) -> Option<u64> {
        Some(self.topics[topic as usize].record_bytes.value).filter(|&bytes| bytes > 0)
    }

    /// Kafka says how many bytes of a record's body a topic takes. That is kept, so that also while no
    /// broker answers nothing is acknowledged that it will refuse.
    pub fn learn_record_bytes(&mut self, topic: u16, bytes: u64) {
        let state = &mut self.topics[topic as usize].record_bytes;
        if self.is_open
            && state.value != bytes
            && let Some(request) = state.learn(bytes)
        {
            self.send(request);
        }
    }

    /// Appends a record behind what its line has. [`SpoolEvent`] will name it.
    pub fn append(&mut self, line: usize, record: u32, body: Bytes, now_ms: u64) {
        let Some(stream) = self.all[line].stream else {
            let refused = SpoolEvent::Refused(record, Some(line), Refused::Busy);
            return self.events.push_back(refused);
        };
        let state = &mut self.all[line];
        state.spooled += 1;
        self.topics[state.topic as usize].spooled += 1;
        if state.since_ms == 0 {
            state.since_ms = now_ms.max(1);
        }
        self.allowance += 1;
        self.appends.insert(record, line);
        let token = About::Append.token(record as usize);
        self.send(Request::Append { token, stream, payload: body });
    }

    /// Kafka has acknowledged what it was given of a line up to `offset`.
    pub fn acknowledged(&mut self, line: usize, offset: u64) {
        self.unspool(line, 1);
        let state = &mut self.all[line];
        state.given = state.given.saturating_sub(1);
        state.done = state.done.max(offset + 1);
        state.cursor_moved = true;
        self.list(line);
    }

    /// So many records of a line need not be forwarded any more.
    fn unspool(&mut self, line: usize, count: u64) {
        let state = &mut self.all[line];
        let count = count.min(state.spooled);
        state.spooled -= count;
        if state.spooled == 0 {
            state.since_ms = 0;
        }
        self.topics[state.topic as usize].spooled -= count;
        if self.is_resharded {
            self.resharding.pending.fetch_sub(count, Ordering::AcqRel);
        }
    }

    /// The line has something to do.
    fn list(&mut self, line: usize) {
        if !std::mem::replace(&mut self.all[line].is_listed, true) {
            self.busy.push(line);
        }
    }

    /// Kafka refuses a record for good: it is kept apart, and its line goes on.
    pub fn refused(&mut self, line: usize, offset: u64, body: Bytes) {
        self.all[line].dead_waiting.push_back(body);
        // The cursor moves only once the dead letter is durable.
        self.acknowledged(line, offset);
    }

    /// Sends the next dead letter, one at a time.
    fn write_dead(&mut self, line: usize) {
        let state = &mut self.all[line];
        if !state.dead_waiting.is_empty() && !std::mem::replace(&mut state.dead_asked, true) {
            let topic = &self.topics[state.topic as usize].name;
            let name = format!("{topic}/{}", state.partition).into();
            let token = About::Dead.token(line);
            self.letters.1.push_back(Request::Open { token, name, cursor: false });
        }
        if let (Some(stream), None) = (state.dead, &state.letter)
            && let Some(payload) = state.dead_waiting.pop_front()
        {
            state.letter = Some(payload.clone());
            let token = About::Letter.token(line);
            self.letters.1.push_back(Request::Append { token, stream, payload });
        }
    }

    /// Kafka does not answer: what it was given of this line will be given again, after a pause.
    pub fn take_back(&mut self, line: usize, now_ms: u64) {
        let state = &mut self.all[line];
        (state.next, state.given) = (state.done, 0);
        state.not_before_ms = now_ms + SPOOL_PAUSE_MS;
        self.list(line);
    }

    /// Kafka was given records of a line up to `offset`, but takes no more now.
    pub fn gave(&mut self, line: usize, count: usize, next: u64, now_ms: u64, full: bool) {
        let state = &mut self.all[line];
        state.given += count;
        state.next = next;
        if full {
            state.not_before_ms = now_ms + SPOOL_PAUSE_MS;
        }
    }

    /// The next event.
    pub fn next_event(&mut self) -> Option<SpoolEvent> {
        self.events.pop_front()
    }

    /// Takes in what the storage thread says.
    pub fn receive(&mut self, now_ms: u64) {
        while let Some(answer) = self.store.receive().or_else(|| self.letters.0.receive()) {
            self.take(answer, now_ms);
        }
    }

    /// Sends what was started, and asks for more to forward.
    pub fn flush(&mut self, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.allowed_ms).min(1_000);
        let more = self.rate * passed_ms / 1_000;
        if more > 0 {
            self.allowed_ms = now_ms;
            self.allowance = (self.allowance + more).min(self.rate);
        }
        self.pass_on();
        let mut busy = std::mem::take(&mut self.busy);
        busy.retain(|&line| {
            if now_ms >= self.all[line].not_before_ms {
                self.write_dead(line);
            }
            self.move_cursor(line, now_ms);
            self.forward(line, now_ms);
            let state = &mut self.all[line];
            state.is_listed = state.has_work();
            state.is_listed
        });
        self.busy = busy;
        if self.lag.ask(now_ms) {
            self.send(Request::Flush { token: About::Moved.token(0) });
        }
        let (letters, waiting) = &mut self.letters;
        for (store, waiting) in [(&mut self.store, &mut self.waiting), (letters, waiting)] {
            while let Some(request) = waiting.pop_front() {
                if let Err(request) = store.try_send(request) {
                    waiting.push_front(request);
                    break;
                }
            }
            store.flush();
        }
    }

    fn move_cursor(&mut self, line: usize, now_ms: u64) {
        let state = &mut self.all[line];
        let (Some(stream), Some(cursor)) = (state.stream, state.cursor) else { return };
        if !state.has_letters() && std::mem::take(&mut state.cursor_moved) {
            self.lag.moved(now_ms);
            let (value, offset) = (state.done, state.done);
            self.send(Request::MoveCursor { cursor, value });
            self.send(Request::Release { stream, offset });
        }
    }

    fn forward(&mut self, line: usize, now_ms: u64) {
        let state = &mut self.all[line];
        let Some(stream) = state.stream else { return };
        if self.must_resume || state.giver > self.giver {
            return;
        }
        // A crash repeats what is forwarded while no cursor becomes durable. A disk that fails or has
        // no room keeps none anyhow, and is helped by what needs it no more.
        let is_late = self.lag.is_late(now_ms) && !self.store.state().disk_fails();
        if state.has_letters() || is_late {
            return;
        }
        let room = SPOOL_FORWARD_RECORDS.saturating_sub(state.given);
        let limit_records = room.min(self.allowance as usize);
        let wanted =
            state.next < state.end && state.reading.is_none() && now_ms >= state.not_before_ms;
        if !wanted || limit_records == 0 {
            return;
        }
        state.reading = Some(state.next);
        let (token, offset) = (About::Read.token(line), state.next);
        let (limit_bytes, wait) = (FETCH_BYTES, false);
        self.send(Request::Read { token, stream, offset, limit_bytes, limit_records, wait });
    }

    fn send(&mut self, request: Request) {
        if !self.waiting.is_empty() {
            return self.waiting.push_back(request);
        }
        if let Err(request) = self.store.try_send(request) {
            self.waiting.push_back(request);
        }
    }

    fn take(&mut self, answer: Answer, now_ms: u64) {
        match answer {
            Answer::Listed { names, .. } => self.listed(&names),
            Answer::Opened { token, stream, first, next, value } => {
                self.opened_as(About::of(token), stream, (first, next), value, now_ms);
            }
            Answer::Durable { token, offset } => {
                let (about, record) = About::of(token);
                if about == About::Letter {
                    self.dead_letters += 1;
                    self.all[record].letter = None;
                    return;
                }
                let record = record as u32;
                if let Some(line) = self.appends.remove(&record) {
                    self.all[line].end = self.all[line].end.max(offset + 1);
                    self.list(line);
                }
                self.events.push_back(SpoolEvent::Durable(record));
            }
            Answer::Refused { token, why } => self.was_refused(token, why, now_ms),
            Answer::Read { token, records, next_offset, .. } => {
                let (_, line) = About::of(token);
                self.read(line, records, next_offset);
            }
            Answer::ReadFailed { token, why: ReadFailure::Damaged, next_offset } => {
                let (_, line) = About::of(token);
                self.read(line, Vec::new(), next_offset);
            }
            Answer::ReadFailed { token, why, next_offset } => {
                let (_, line) = About::of(token);
                let state = &mut self.all[line];
                state.reading = None;
                state.not_before_ms = now_ms + SPOOL_PAUSE_MS;
                tracing::error!(
                    line,
                    ?why,
                    from = state.next,
                    next_offset,
                    "the spool can't be read"
                );
            }
            Answer::Flushed { token } => match About::of(token) {
                (About::Moved, _) => self.lag.flushed(),
                (_, flush) => self.identity_flushed(flush),
            },
        }
    }

    /// A stream or cursor is known now, and what it holds.
    fn opened_as(
        &mut self,
        about: (About, usize),
        stream: StreamId,
        (first, next): (u64, u64),
        value: u64,
        now_ms: u64,
    ) {
        match about {
            (About::Producer, number) => self.giver_opened(number, stream, value),
            (About::Shards, _) => self.shards_cursor = Some((stream, value)),
            (About::Partitions, topic) => {
                self.topics[topic].partitions = Learnt { value, cursor: Some(stream) };
            }
            (About::RecordBytes, topic) => {
                self.topics[topic].record_bytes = Learnt { value, cursor: Some(stream) };
            }
            (About::Dead, line) => {
                self.all[line].dead = Some(stream);
            }
            (About::Cursor, line) => {
                let state = &mut self.all[line];
                state.cursor = Some(stream);
                state.done = state.done.max(value);
                self.opened(line, now_ms);
            }
            (_, line) => {
                let state = &mut self.all[line];
                state.stream = Some(stream);
                (state.done, state.end) = (state.done.max(first), next);
                self.opened(line, now_ms);
            }
        }
    }

    /// The storage thread has not carried a request out.
    fn was_refused(&mut self, token: u64, why: Refused, now_ms: u64) {
        match About::of(token) {
            (About::Append, record) => {
                let record = record as u32;
                let line = self.appends.remove(&record);
                if let Some(line) = line {
                    self.unspool(line, 1);
                }
                self.events.push_back(SpoolEvent::Refused(record, line, why));
            }
            (About::Letter, line) => {
                let state = &mut self.all[line];
                if let Some(letter) = state.letter.take() {
                    state.dead_waiting.push_front(letter);
                }
                state.not_before_ms = now_ms + SPOOL_PAUSE_MS;
                tracing::error!(line, ?why, "a dead letter can't be written; its line waits");
            }
            (About::Dead, line) => {
                let state = &mut self.all[line];
                state.dead_asked = false;
                state.not_before_ms = now_ms + SPOOL_PAUSE_MS;
                tracing::error!(line, ?why, "there is no place for dead letters; their line waits");
            }
            (About::Moved, _) => self.lag.refused(now_ms),
            (about, number) => {
                tracing::error!(?about, number, ?why, "not in the spool");
                let is_givers = about == About::Producer && number > 1;
                if is_givers || matches!(about, About::Stream | About::Cursor) {
                    self.opening -= 1;
                    self.open_if_all();
                }
            }
        }
    }

    fn read(
        &mut self,
        line: usize,
        records: Vec<trine_core::journal::storage::StoredRecord>,
        next_offset: u64,
    ) {
        let state = &mut self.all[line];
        let from = state.next;
        if state.reading.take() != Some(from) {
            // The line was taken back meanwhile: these are not its next records any more.
            return;
        }
        let records: Vec<_> = records
            .into_iter()
            .filter(|record| record.offset >= from)
            .map(|record| (record.offset, record.time_ms, record.payload))
            .collect();
        self.allowance = self.allowance.saturating_sub(records.len() as u64);
        let end = next_offset.clamp(from, state.end.max(from));
        let end = records.last().map_or(end, |&(offset, ..)| offset + 1);
        // A line that was taken back is read again, and what is damaged is missed once.
        let new = from.max(state.lost_before);
        let there = records.iter().filter(|&&(offset, ..)| offset >= new).count() as u64;
        let lost = end.saturating_sub(new).saturating_sub(there);
        state.lost_before = new.max(end);
        if lost > 0 {
            // What was damaged is not there any more, and nothing may wait for it.
            tracing::error!(line, from, lost, "spooled records are damaged");
            self.unspool(line, lost);
        }
        if records.is_empty() {
            let state = &mut self.all[line];
            state.next = end;
            if state.given == 0 {
                (state.done, state.cursor_moved) = (end, true);
            }
            return;
        }
        self.events.push_back(SpoolEvent::Forward { line, records });
    }

    /// The streams of earlier starts: this shard's lines among them are opened.
    fn listed(&mut self, names: &[Box<str>]) {
        for name in names {
            let mut parts = name.rsplitn(3, '/');
            let shard: Option<usize> = parts.next().and_then(|text| text.parse().ok());
            let partition: Option<u32> = parts.next().and_then(|text| text.parse().ok());
            let (Some(shard), Some(partition), Some(topic)) = (shard, partition, parts.next())
            else {
                continue;
            };
            if shard != self.shard && (shard < self.shards || shard % self.shards != self.shard) {
                continue;
            }
            let known = self.topics.iter().position(|known| *known.name == *topic);
            let topic = known.unwrap_or_else(|| {
                // No route names it any more, and what it has is promised to Kafka all the same.
                self.topics.push(Topic::new(topic));
                self.topics.len() - 1
            });
            if shard == self.shard {
                self.line(topic as u16, partition);
            } else {
                // What a shard has spooled that is no more.
                let giver = self.giver_of(shard);
                self.add(topic as u16, partition, shard, giver);
            }
        }
        self.open_if_all();
    }

    fn opened(&mut self, line: usize, now_ms: u64) {
        self.opening -= 1;
        let state = &mut self.all[line];
        if state.stream.is_some() && state.cursor.is_some() {
            if state.done > state.end {
                tracing::error!(line, "a spooled stream was cut; what comes next is forwarded");
                (state.done, state.cursor_moved) = (state.end, true);
            }
            state.next = state.done;
            // What was forwarded before the start is given up again: a journal forgets what was.
            state.cursor_moved = true;
            let spooled = state.end.saturating_sub(state.done);
            state.spooled += spooled;
            self.topics[state.topic as usize].spooled += spooled;
            if state.spooled > 0 && state.since_ms == 0 {
                state.since_ms = now_ms.max(1);
            }
            self.list(line);
        }
        self.open_if_all();
    }

    fn open_if_all(&mut self) {
        if self.opening > 0 || self.is_open {
            return;
        }
        self.is_open = true;
        let shards = self.shards_cursor.map_or(0, |(_, value)| value);
        let records: u64 = self.topics.iter().map(|topic| topic.spooled).sum();
        self.is_resharded = shards != 0 && shards != self.shards as u64;
        if self.is_resharded {
            self.resharding.pending.fetch_add(records, Ordering::AcqRel);
            self.resharding.opened.fetch_add(1, Ordering::AcqRel);
        } else {
            self.keep_shards();
        }
        for number in 0..self.topics.len() {
            // A spool that has no number has at least the partitions that were spooled for.
            let topic = &mut self.topics[number];
            if topic.partitions.value == 0 {
                topic.partitions.value = topic.lines.len() as u64;
            }
            if let Some(last) = self.partitions(number as u16).checked_sub(1) {
                self.line(number as u16, last);
            }
        }
        let last = self.gives(0).then(|| self.givers[0].last()).flatten();
        self.events.push_back(SpoolEvent::Open { last });
    }
}
