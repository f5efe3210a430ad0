//! Message ids that were seen, so that a client's second try is not a second record.
//!
//! **Runs on: shard** (the key's owner). Sans-IO. Invariants: an id whose record was refused is
//! forgotten at once; at most `count` ids are remembered, the oldest go first.

use hashbrown::HashMap;
use std::collections::VecDeque;

use super::Place;

/// What became of the first record with an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The log has not answered; the record's number among the accepted ones.
    InFlight(u32),
    /// It is here.
    Stored(Place),
    /// It is here, and was refused before for want of time: nobody has published it.
    Unpublished(Place),
}

/// The ids of one route.
#[derive(Debug)]
pub struct Dedupe {
    seen: HashMap<Box<[u8]>, (Seen, u64)>,
    /// When each id came, the oldest first; ids that were forgotten since are passed over.
    order: VecDeque<(u64, Box<[u8]>)>,
    window_ms: u64,
    count: usize,
}

impl Dedupe {
    /// Remembers at most `count` ids, each for `window_ms`.
    pub fn new(window_ms: u64, count: usize) -> Self {
        Self { seen: HashMap::new(), order: VecDeque::new(), window_ms, count }
    }

    /// What is known of `id`.
    pub fn find(&mut self, id: &[u8], now_ms: u64) -> Option<Seen> {
        self.forget_old(now_ms);
        self.seen.get(id).map(|&(seen, _)| seen)
    }

    /// A first record with this id is on its way.
    pub fn insert(&mut self, id: Box<[u8]>, record: u32, now_ms: u64) {
        // Ids that were refused are in the order still, which is bounded too.
        while (self.seen.len() >= self.count || self.order.len() >= 2 * self.count)
            && self.drop_oldest()
        {}
        self.order.push_back((now_ms, id.clone()));
        self.seen.insert(id, (Seen::InFlight(record), now_ms));
    }

    /// What became of it; `None`: it was refused.
    pub fn settle(&mut self, id: &[u8], became: Option<Seen>) {
        match (became, self.seen.get_mut(id)) {
            (Some(became), Some((seen, _))) => *seen = became,
            (None, Some(_)) => {
                self.seen.remove(id);
            }
            (_, None) => {}
        }
    }

    /// Ids that are remembered.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    fn forget_old(&mut self, now_ms: u64) {
        while self.order.front().is_some_and(|(at_ms, _)| at_ms + self.window_ms <= now_ms) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) -> bool {
        let Some((at_ms, id)) = self.order.pop_front() else { return false };
        // An id that was refused and came again has a younger entry, too.
        if self.seen.get(&id).is_some_and(|&(_, since_ms)| since_ms == at_ms) {
            self.seen.remove(&id);
        }
        true
    }
}
