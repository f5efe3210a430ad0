//! The journal's streams and cursors: their names, how far they go, where their records lie.
//!
//! **Runs on: storage.** A stream is a sequence of records with offsets 0, 1, 2 …; a cursor is a
//! number with a name. Both have a number that never changes. The index has one entry for each
//! stream in each commit, so it is at most a few thousandths of what the journal holds.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use crate::limits::JOURNAL_STREAMS;

/// A stream, or a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub(super) u32);

impl StreamId {
    /// Its number, which records carry.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// A commit in which a stream has records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The offset of the stream's first record there.
    pub offset: u64,
    /// The segment.
    pub segment: u64,
    /// Where the commit begins.
    pub position: u64,
    /// Its bytes, whole blocks.
    pub bytes: u32,
}

/// One stream or cursor.
#[derive(Debug)]
pub(super) struct Stream {
    pub name: Box<str>,
    pub is_cursor: bool,
    /// The offset after the last durable record, or a cursor's durable value.
    pub durable: u64,
    /// The offset that the next append gets, or a cursor's newest value.
    pub next: u64,
    /// Nothing below is wanted any more (see [`super::Retention::Released`]).
    pub released: u64,
    /// The segment in which it was named last.
    pub named_in: u64,
    places: VecDeque<Place>,
}

impl Stream {
    pub fn first(&self) -> u64 {
        self.places.front().map_or(self.durable, |place| place.offset)
    }

    /// Records of this segment and those before it that were not released.
    fn unreleased(&self, segment: u64) -> u64 {
        let after = self.places.partition_point(|place| place.segment <= segment);
        let end = self.places.get(after).map_or(self.durable, |place| place.offset);
        if after == 0 { 0 } else { end.saturating_sub(self.first().max(self.released)) }
    }
}

#[derive(Debug, Default)]
pub(super) struct Streams {
    all: Vec<Stream>,
    names: HashMap<(bool, Box<str>), u32>,
    /// Cursors whose newest value is not durable.
    pub moved: Vec<u32>,
}

impl Streams {
    /// The stream or cursor of this name, made if there is none; `None`: there are too many.
    pub fn find_or_add(&mut self, name: &str, is_cursor: bool) -> Option<StreamId> {
        if let Some(id) = self.find(name, is_cursor) {
            return Some(id);
        }
        if self.all.len() >= JOURNAL_STREAMS {
            return None;
        }
        let number = self.all.len() as u32;
        self.push(name, is_cursor);
        Some(StreamId(number))
    }

    pub fn find(&self, name: &str, is_cursor: bool) -> Option<StreamId> {
        self.names.get(&(is_cursor, name.into())).map(|&number| StreamId(number))
    }

    fn push(&mut self, name: &str, is_cursor: bool) {
        self.names.insert((is_cursor, name.into()), self.all.len() as u32);
        self.all.push(Stream {
            name: name.into(),
            is_cursor,
            durable: 0,
            next: 0,
            released: 0,
            named_in: 0,
            places: VecDeque::new(),
        });
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn get(&self, id: StreamId) -> &Stream {
        &self.all[id.0 as usize]
    }

    pub fn get_mut(&mut self, id: StreamId) -> &mut Stream {
        &mut self.all[id.0 as usize]
    }

    pub fn ids(&self) -> impl Iterator<Item = StreamId> + use<> {
        (0..self.all.len() as u32).map(StreamId)
    }

    /// Takes a name from `segment`. Numbers may come with gaps when a damaged place held some.
    /// Returns how many records between the last known one and `next` are missing.
    pub fn restore_name(
        &mut self,
        number: u32,
        name: &str,
        is_cursor: bool,
        next: u64,
        segment: u64,
    ) -> u64 {
        if number as usize >= JOURNAL_STREAMS {
            return 0;
        }
        while self.all.len() < number as usize {
            let unknown = format!("unknown-{}", self.all.len());
            self.push(&unknown, false);
        }
        if self.all.len() == number as usize {
            self.push(name, is_cursor);
        }
        let stream = &mut self.all[number as usize];
        if stream.is_cursor != is_cursor {
            // A number is one or the other for good; only a placeholder learns which.
            if !stream.places.is_empty() {
                return 0;
            }
            (stream.durable, stream.next) = (0, 0);
        }
        if *stream.name != *name || stream.is_cursor != is_cursor {
            self.names.remove(&(stream.is_cursor, stream.name.clone()));
            (stream.name, stream.is_cursor) = (name.into(), is_cursor);
            self.names.insert((is_cursor, name.into()), number);
        }
        self.all[number as usize].named_in = segment;
        self.restore_next(number, next)
    }

    fn restore_next(&mut self, number: u32, next: u64) -> u64 {
        let stream = &mut self.all[number as usize];
        if stream.is_cursor {
            stream.durable = next;
            stream.next = next;
            return 0;
        }
        let fresh = stream.next == 0 && stream.places.is_empty();
        let missing = if fresh { 0 } else { next.saturating_sub(stream.next) };
        stream.durable = stream.durable.max(next);
        stream.next = stream.durable;
        missing
    }

    /// Takes a record from a segment. Returns how many before it are missing.
    pub fn restore_record(&mut self, number: u32, place: Place) -> u64 {
        if number as usize >= self.all.len() {
            self.restore_name(number, &format!("unknown-{number}"), false, place.offset, 0);
            if number as usize >= self.all.len() {
                return 0;
            }
        }
        if self.all[number as usize].is_cursor {
            return 0;
        }
        let missing = self.restore_next(number, place.offset);
        self.add_place(StreamId(number), place);
        self.restore_next(number, place.offset.saturating_add(1));
        missing
    }

    /// Notes a durable record; the first of its stream in its commit makes an entry.
    pub fn add_place(&mut self, id: StreamId, place: Place) {
        let stream = &mut self.all[id.0 as usize];
        let last = stream.places.back();
        if !last
            .is_some_and(|last| last.segment == place.segment && last.position == place.position)
        {
            stream.places.push_back(place);
        }
    }

    /// The commit with the record at `offset`, or with the next one that is there.
    pub fn place(&self, id: StreamId, offset: u64) -> Option<Place> {
        let stream = self.get(id);
        if offset >= stream.durable {
            return None;
        }
        let after = stream.places.partition_point(|place| place.offset <= offset);
        stream.places.get(after.saturating_sub(1)).copied()
    }

    /// The commit after one that was read to its end.
    pub fn place_after(&self, id: StreamId, place: Place) -> Option<Place> {
        let stream = self.get(id);
        let after = stream.places.partition_point(|other| other.offset <= place.offset);
        stream.places.get(after).copied()
    }

    /// Forgets a removed segment.
    pub fn forget(&mut self, segment: u64) {
        for stream in &mut self.all {
            while stream.places.front().is_some_and(|place| place.segment <= segment) {
                stream.places.pop_front();
            }
        }
    }

    /// Whether nothing in this segment and those before it is wanted any more.
    pub fn is_released(&self, segment: u64) -> bool {
        self.all.iter().all(|stream| stream.unreleased(segment) == 0)
    }

    /// Records of this segment and those before it that were not released.
    pub fn unreleased(&self, segment: u64) -> u64 {
        self.all.iter().map(|stream| stream.unreleased(segment)).sum()
    }

    /// Takes back offsets that were given and never became durable.
    pub fn roll_back(&mut self) {
        for stream in self.all.iter_mut().filter(|stream| !stream.is_cursor) {
            stream.next = stream.durable;
        }
    }

    /// The offsets that can be read.
    pub fn range(&self, id: StreamId) -> Range<u64> {
        let stream = self.get(id);
        stream.first()..stream.durable
    }
}
