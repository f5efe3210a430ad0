//! The embedded log: topics with partitions on the journal, consumer groups with cursors.
//!
//! **Runs on: shard**; the journal itself is on the storage thread. A topic's partition is a
//! stream `TOPIC/PARTITION`, a group's place in it a cursor `GROUP/TOPIC/PARTITION` whose value is
//! the next offset plus one, so that 0 says that the group has never been there. Queues are such
//! topics too, in a journal of their own that gives up only what was drained.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use std::collections::VecDeque;
use trine_core::journal::storage::{Answer, ReadFailure, Request, Store, StoredRecord};
use trine_core::journal::{Refused, StreamId};

use super::{Appended, Feed, FeedEvent, Fetched, Unavailable};
use crate::config::Start;
use crate::ingest::At;
use crate::limits::FETCH_RECORDS;

/// A partition that a consumer of this shard reads.
#[derive(Clone, Debug)]
pub struct FeedSpec {
    /// The group.
    pub group: Box<str>,
    /// What is read.
    pub feed: Feed,
    /// Where it begins.
    pub start: Start,
}

/// Who reads a queue, whatever its consumer is called: nobody else does, and another name must not
/// begin anew.
pub const QUEUE_GROUP: &str = "queue";

/// The embedded log of one shard.
pub struct Embedded {
    store: Store,
    partitions: u32,
    topics: Vec<Box<str>>,
    /// The stream of each partition of each topic; `None` until the journal is open.
    streams: Vec<Option<Partition>>,
    feeds: Vec<Reading>,
    /// What was delivered is given up.
    is_queue: bool,
    /// Streams of the journal that are no partition here, and what each has.
    left: Vec<(Box<str>, Option<Partition>)>,
    /// Requests that found no room.
    waiting: VecDeque<Request>,
    outcomes: VecDeque<(u32, Appended)>,
    events: VecDeque<FeedEvent>,
}

/// A partition's stream, and its oldest and next offset when it was opened.
#[derive(Clone, Copy)]
struct Partition {
    stream: StreamId,
    first: u64,
    next: u64,
}

struct Reading {
    of: Feed,
    /// The partition, by its place among the streams.
    stream: usize,
    cursor: Option<StreamId>,
    start: Start,
    /// Where it begins, if the group was never there or is past the end.
    begins: u64,
    /// Where the group was, past the partition's end.
    past_end: Option<u64>,
    /// Where its last fetch began.
    asked: u64,
    /// A commit that found no room.
    commit: Option<u64>,
}

/// What a request's token says, in its upper half; the lower half is a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Append,
    Stream,
    Cursor,
    Fetch,
    /// A stream once more, since a feed begins at its end.
    End,
    /// The cursor of a feed that has just begun.
    Begun,
    /// A stream once more, to see how far a feed is behind.
    Look,
    /// What else the journal has, and how much of each.
    List,
    Left,
    /// How far a queue's partition was drained that is none any more.
    LeftCursor,
}

impl About {
    const ALL: [About; 10] = [
        About::Append,
        About::Stream,
        About::Cursor,
        About::Fetch,
        About::End,
        About::Begun,
        About::Look,
        About::List,
        About::Left,
        About::LeftCursor,
    ];

    fn token(self, number: usize) -> u64 {
        super::token(self as u64, number)
    }

    fn of(token: u64) -> (About, usize) {
        let (about, number) = super::parts(token);
        (About::ALL[about], number)
    }
}

impl Embedded {
    /// The log with these topics, `partitions` each, and the feeds of this shard. `tells`: it says
    /// what else the journal has.
    pub fn new(
        store: Store,
        topics: &[Box<str>],
        partitions: u32,
        feeds: Vec<FeedSpec>,
        tells: bool,
    ) -> Self {
        let mut waiting = VecDeque::new();
        if tells {
            waiting.push_back(Request::List { token: About::List.token(0), prefix: "".into() });
        }
        for (number, topic) in topics.iter().enumerate() {
            for partition in 0..partitions {
                let token = About::Stream.token(number * partitions as usize + partition as usize);
                let name = format!("{topic}/{partition}").into();
                waiting.push_back(Request::Open { token, name, cursor: false });
            }
        }
        let mut known = Vec::new();
        for (number, feed) in feeds.into_iter().enumerate() {
            let FeedSpec { group, feed: of, start } = feed;
            let Feed { topic, partition, .. } = of;
            let stream = topic as usize * partitions as usize + partition as usize;
            let name = format!("{group}/{}/{partition}", topics[topic as usize]).into();
            let token = About::Cursor.token(number);
            waiting.push_back(Request::Open { token, name, cursor: true });
            known.push(Reading {
                of,
                stream,
                cursor: None,
                start,
                begins: 0,
                past_end: None,
                asked: 0,
                commit: None,
            });
        }
        Self {
            store,
            partitions,
            topics: topics.to_vec(),
            streams: vec![None; topics.len() * partitions as usize],
            feeds: known,
            is_queue: false,
            left: Vec::new(),
            waiting,
            outcomes: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Gives up what was delivered: for a topic with one reader, in a journal that keeps what was not
    /// released ([`trine_core::journal::Retention::Released`]).
    #[must_use]
    pub fn of_queue(self) -> Self {
        Self { is_queue: true, ..self }
    }

    /// How many partitions this shard's consumers read.
    pub fn feeds(&self) -> u32 {
        self.feeds.len() as u32
    }

    pub(super) fn partitions(&self, _topic: u16) -> u32 {
        self.partitions
    }

    /// The state of the journal.
    pub fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn append(
        &mut self,
        record: u32,
        topic: u16,
        partition: u32,
        body: Bytes,
    ) -> Result<(), Unavailable> {
        let at = topic as usize * self.partitions as usize + partition as usize;
        let Some(Partition { stream, .. }) = self.streams[at] else {
            return Err(Unavailable::of(&self.store));
        };
        let token = About::Append.token(record as usize);
        let request = Request::Append { token, stream, payload: body };
        self.store.try_send(request).map_err(|_| Unavailable::Busy)
    }

    pub(super) fn next_outcome(&mut self) -> Option<(u32, Appended)> {
        self.outcomes.pop_front()
    }

    pub(super) fn next_event(&mut self) -> Option<FeedEvent> {
        self.events.pop_front()
    }

    pub(super) fn fetch(&mut self, feed: u32, offset: u64, limit_bytes: usize) {
        let reading = &mut self.feeds[feed as usize];
        reading.asked = offset;
        let at = reading.stream;
        let Partition { stream, .. } = self.streams[at].expect("a ready feed has its stream");
        let token = About::Fetch.token(feed as usize);
        let limit_records = FETCH_RECORDS;
        self.send(Request::Read { token, stream, offset, limit_bytes, limit_records, wait: true });
    }

    pub(super) fn look(&mut self, feed: u32) {
        let name = self.name(self.feeds[feed as usize].stream);
        let token = About::Look.token(feed as usize);
        self.send(Request::Open { token, name, cursor: false });
    }

    pub(super) fn commit(&mut self, feed: u32, next_offset: u64) {
        self.feeds[feed as usize].commit = Some(next_offset);
        self.send_commit(feed as usize);
    }

    fn send_commit(&mut self, number: usize) {
        let feed = &mut self.feeds[number];
        let (Some(next_offset), Some(cursor)) = (feed.commit, feed.cursor) else { return };
        // A newer value takes an older one's place until there is room for it.
        if self.store.try_send(Request::MoveCursor { cursor, value: next_offset + 1 }).is_err() {
            return;
        }
        feed.commit = None;
        let at = feed.stream;
        self.release(at, next_offset);
    }

    /// What a queue's partition has before `offset` is wanted no more.
    fn release(&mut self, at: usize, offset: u64) {
        if let (true, Some(Partition { stream, .. })) = (self.is_queue, self.streams[at]) {
            self.send(Request::Release { stream, offset });
        }
    }

    fn send(&mut self, request: Request) {
        if !self.waiting.is_empty() {
            return self.waiting.push_back(request);
        }
        if let Err(request) = self.store.try_send(request) {
            self.waiting.push_back(request);
        }
    }

    pub(super) fn flush(&mut self) {
        while let Some(request) = self.waiting.pop_front() {
            if let Err(request) = self.store.try_send(request) {
                self.waiting.push_front(request);
                break;
            }
        }
        for number in 0..self.feeds.len() {
            self.send_commit(number);
        }
        self.store.flush();
    }

    pub(super) fn receive(&mut self) {
        while let Some(answer) = self.store.receive() {
            self.take(answer);
        }
    }

    fn take(&mut self, answer: Answer) {
        match answer {
            Answer::Durable { token, offset } => {
                let (_, record) = About::of(token);
                self.outcomes.push_back((record as u32, Ok((At::Journal, Some(offset)))));
            }
            Answer::Refused { token, why } => match About::of(token) {
                (About::Append, record) => {
                    self.outcomes.push_back((record as u32, Err(unavailable(why))));
                }
                // Too many streams, or the process is ending: what needs it is never ready.
                (about, number) => tracing::error!(?about, number, ?why, "not in the journal"),
            },
            Answer::Opened { token, stream, first, next, value } => {
                self.opened(About::of(token), Partition { stream, first, next }, value);
            }
            Answer::Read { token, records, first, next_offset, end_offset } => {
                let (_, number) = About::of(token);
                let feed = number as u32;
                if first > self.feeds[number].asked {
                    return self.events.push_back(FeedEvent::OutOfRange { feed, first });
                }
                let fetched = |record: StoredRecord| Fetched {
                    offset: record.offset,
                    time_ms: record.time_ms,
                    body: record.payload,
                };
                let records = records.into_iter().map(fetched).collect();
                let event = FeedEvent::Records { feed, records, next_offset, end_offset };
                self.events.push_back(event);
            }
            Answer::ReadFailed { token, why, next_offset } => {
                let (_, number) = About::of(token);
                let damaged = why == ReadFailure::Damaged;
                let skip_to =
                    (damaged && next_offset > self.feeds[number].asked).then_some(next_offset);
                self.events.push_back(FeedEvent::Failed { feed: number as u32, skip_to });
            }
            Answer::Listed { names, .. } => {
                let left = names.into_iter().filter(|name| !self.has(name));
                self.left = left.map(|name| (name, None)).collect();
                for number in 0..self.left.len() {
                    let (token, name) = (About::Left.token(number), self.left[number].0.clone());
                    self.send(Request::Open { token, name, cursor: false });
                }
            }
            Answer::Flushed { token } => {
                let (_, number) = About::of(token);
                let Reading { begins, past_end, of, .. } = self.feeds[number];
                let (feed, next_offset) = (number as u32, past_end.unwrap_or(begins));
                self.events.push_back(FeedEvent::Ready { feed, of, next_offset });
                if past_end.is_some() {
                    self.events.push_back(FeedEvent::OutOfRange { feed, first: begins });
                }
            }
        }
    }

    /// A stream or a cursor is open.
    fn opened(&mut self, about: (About, usize), partition: Partition, value: u64) {
        let Partition { stream, first, next } = partition;
        match about {
            (About::Left, number) if self.is_queue => {
                let (name, left) = &mut self.left[number];
                *left = Some(partition);
                let name = format!("{QUEUE_GROUP}/{name}").into();
                let token = About::LeftCursor.token(number);
                self.send(Request::Open { token, name, cursor: true });
            }
            (About::LeftCursor, number) => {
                let (name, left) = &self.left[number];
                let Partition { stream, next, .. } = left.expect("its stream is opened before");
                let offset = value.saturating_sub(1);
                if offset < next {
                    let (stream, records) = (&**name, next - offset);
                    let remedy = "give log.partitions its old value";
                    tracing::error!(stream, records, remedy, "a queue has records nobody drains");
                }
                self.send(Request::Release { stream, offset });
            }
            (About::Left, number) if next > first => {
                let (stream, records) = (&*self.left[number].0, next - first);
                let remedy = "give it a route again, or log.partitions its old value";
                tracing::warn!(stream, records, remedy, "the log has records nobody reads");
            }
            (About::Left, _) => {}
            (About::Cursor, number) => {
                self.feeds[number].cursor = Some(stream);
                self.place(number, value);
            }
            (About::End, number) => self.begin(number, next),
            (About::Look, number) => {
                let feed = number as u32;
                self.events.push_back(FeedEvent::End { feed, end_offset: next });
            }
            (_, number) => self.streams[number] = Some(partition),
        }
    }

    /// The cursor's value is known.
    fn place(&mut self, number: usize, value: u64) {
        let Reading { stream, start, of, .. } = self.feeds[number];
        let Some(Partition { first, next, .. }) = self.streams[stream] else { return };
        if value > 0 && value - 1 > next {
            // The log has lost records that the group was given. It goes on at the end, since its
            // cursor would pass what comes next, and that is told.
            self.feeds[number].past_end = Some(value - 1);
            self.release(stream, next);
            self.begin(number, next);
        } else if value > 0 {
            // What a queue has given up was delivered, whatever became of its cursor.
            let least = if self.is_queue { first } else { 0 };
            let (feed, next_offset) = (number as u32, (value - 1).max(least));
            self.release(stream, next_offset);
            self.events.push_back(FeedEvent::Ready { feed, of, next_offset });
        } else if self.is_queue {
            self.begin(number, first);
        } else if start == Start::Earliest || next == 0 {
            // A partition that was empty when this process began is read from its beginning.
            self.begin(number, 0);
        } else {
            let name = self.name(stream);
            self.send(Request::Open { token: About::End.token(number), name, cursor: false });
        }
    }

    /// A group begins that was never here, or is past the end: its place is durable before the first
    /// fetch.
    fn begin(&mut self, number: usize, next_offset: u64) {
        let feed = &mut self.feeds[number];
        feed.begins = next_offset;
        let cursor = feed.cursor.expect("it is opened before its feed begins");
        self.send(Request::MoveCursor { cursor, value: next_offset + 1 });
        self.send(Request::Flush { token: About::Begun.token(number) });
    }

    /// Whether a stream is a partition of this log.
    fn has(&self, name: &str) -> bool {
        name.rsplit_once('/').is_some_and(|(topic, partition)| {
            let is_known = self.topics.iter().any(|known| **known == *topic);
            is_known && partition.parse().is_ok_and(|number: u32| number < self.partitions)
        })
    }

    fn name(&self, stream: usize) -> Box<str> {
        let partitions = self.partitions as usize;
        format!("{}/{}", self.topics[stream / partitions], stream % partitions).into()
    }
}

fn unavailable(why: Refused) -> Unavailable {
    match why {
        Refused::Full => Unavailable::Full,
        Refused::Busy => Unavailable::Busy,
        Refused::Failing => Unavailable::Failing,
        Refused::TooLarge => Unavailable::TooLarge,
        Refused::Closing => Unavailable::Closing,
        Refused::Lost => Unavailable::Lost,
    }
}
