//! Publishes that were named, so that a second try is not a second publication.
//!
//! **Runs on: shard**, the channel's owner. Sans-IO. Invariant: at most
//! [`IDEMPOTENCY_KEYS`] names are remembered, each for [`IDEMPOTENCY_MS`]; the oldest go first.

use super::Position;
use crate::limits::{IDEMPOTENCY_KEYS, IDEMPOTENCY_MS};
use hashbrown::HashMap;
use std::collections::VecDeque;

/// Where named publications are, by channel and name.
#[derive(Debug, Default)]
pub(super) struct Once {
    seen: HashMap<Box<str>, Option<Position>>,
    order: VecDeque<(u64, Box<str>)>,
}

impl Once {
    /// The position of the publication with this name, if there was one.
    pub fn find(&mut self, channel: &str, name: &str, now_ms: u64) -> Option<Option<Position>> {
        let is_over = |(since_ms, _): &(u64, Box<str>)| since_ms + IDEMPOTENCY_MS <= now_ms;
        while self.order.front().is_some_and(is_over) {
            self.drop_oldest();
        }
        self.seen.get(&*joined(channel, name)).copied()
    }

    /// A publication has this name; it had none before.
    pub fn insert(&mut self, channel: &str, name: &str, at: Option<Position>, now_ms: u64) {
        if self.order.len() >= IDEMPOTENCY_KEYS {
            self.drop_oldest();
        }
        let name = joined(channel, name);
        self.order.push_back((now_ms, name.clone()));
        self.seen.insert(name, at);
    }

    fn drop_oldest(&mut self) {
        if let Some((_, name)) = self.order.pop_front() {
            self.seen.remove(&name);
        }
    }
}

/// No channel's name has a NUL that a second part could hide behind, nor would it matter: both are
/// the same caller's.
fn joined(channel: &str, name: &str) -> Box<str> {
    format!("{channel}\0{name}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_for_its_time_and_within_the_limit() {
        let mut once = Once::default();
        let at = Some(Position { offset: 7, ..Position::default() });
        once.insert("room", "a", at, 5);
        assert_eq!(once.find("room", "a", 6), Some(at));
        assert_eq!((once.find("room", "b", 6), once.find("rooma", "", 6)), (None, None));
        assert_eq!(once.find("room", "a", 5 + IDEMPOTENCY_MS), None);
        for number in 0..=IDEMPOTENCY_KEYS {
            once.insert("room", &number.to_string(), None, 0);
        }
        assert_eq!((once.find("room", "0", 1), once.find("room", "1", 1)), (None, Some(None)));
        assert_eq!((once.seen.len(), once.order.len()), (IDEMPOTENCY_KEYS, IDEMPOTENCY_KEYS));
    }
}
