//! Names that were seen lately, so that a second try is not a second record or publication.
//!
//! **Runs on: shard** (the owner of what is named). Sans-IO. Invariants: a name whose first try came
//! to nothing is forgotten at once; at most `count` names are remembered, the oldest go first.

use hashbrown::HashMap;
use std::collections::VecDeque;

/// Names, and what became of the first that had each.
#[derive(Debug)]
pub struct Recent<V> {
    seen: HashMap<Box<[u8]>, (V, u64)>,
    /// When each name came, the oldest first; names that were forgotten since are passed over.
    order: VecDeque<(u64, Box<[u8]>)>,
    window_ms: u64,
    count: usize,
}

impl<V: Copy> Recent<V> {
    /// Remembers at most `count` names, each for `window_ms`.
    pub fn new(window_ms: u64, count: usize) -> Self {
        Self { seen: HashMap::new(), order: VecDeque::new(), window_ms, count }
    }

    /// What became of the first with this name.
    pub fn find(&mut self, name: &[u8], now_ms: u64) -> Option<V> {
        self.forget_old(now_ms);
        self.known(name)
    }

    /// The same, however long ago it came.
    pub fn known(&self, name: &[u8]) -> Option<V> {
        self.seen.get(name).map(|&(became, _)| became)
    }

    /// There is a first with this name.
    pub fn insert(&mut self, name: Box<[u8]>, became: V, now_ms: u64) {
        // Names that were refused are in the order still, which is bounded too.
        while (self.seen.len() >= self.count || self.order.len() >= 2 * self.count)
            && self.drop_oldest()
        {}
        self.order.push_back((now_ms, name.clone()));
        self.seen.insert(name, (became, now_ms));
    }

    /// Something else became of it; `None`: nothing.
    pub fn settle(&mut self, name: &[u8], became: Option<V>) {
        match (became, self.seen.get_mut(name)) {
            (Some(became), Some((known, _))) => *known = became,
            (None, Some(_)) => {
                self.seen.remove(name);
            }
            (_, None) => {}
        }
    }

    /// Names that are remembered.
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
        let Some((at_ms, name)) = self.order.pop_front() else { return false };
        // A name that was refused and came again has a younger entry, too.
        if self.seen.get(&name).is_some_and(|&(_, since_ms)| since_ms == at_ms) {
            self.seen.remove(&name);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_for_its_time_and_within_the_limit() {
        let mut recent = Recent::new(300, 10);
        recent.insert((*b"a").into(), 7, 5);
        assert_eq!((recent.find(b"a", 304), recent.find(b"b", 304)), (Some(7), None));
        assert_eq!(recent.find(b"a", 305), None);
        for number in 0..=10 {
            recent.insert([number].into(), 0, 400);
        }
        assert_eq!((recent.find(&[0], 401), recent.find(&[1], 401)), (None, Some(0)));
        assert_eq!((recent.len(), recent.order.len()), (10, 10));
    }
}
