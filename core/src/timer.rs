//! The timer wheel of a shard: one coarse deadline for each key, no system timer for any of them.
//!
//! **Runs on: shard.** Sans-IO: the caller brings `now_ms`. Entries are never cancelled: what a
//! key waits for is checked when its entry fires, and put back if it isn't due. Firing is never
//! early and at most one slot ([`TIMER_SLOT_MS`]) late.

use crate::limits::{TIMER_SLOT_MS, TIMER_SLOTS};

/// Deadlines of `u32` keys, in milliseconds of the shard's clock.
pub struct Wheel {
    slots: Vec<Vec<(u32, u64)>>,
    /// The slot number (time divided by the slot's length) up to which everything has fired.
    done: u64,
    entries: usize,
}

impl Wheel {
    /// An empty wheel that starts at `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        Self { slots: vec![Vec::new(); TIMER_SLOTS], done: now_ms / TIMER_SLOT_MS, entries: 0 }
    }

    /// Makes `key` fire at `deadline_ms` or up to a slot later.
    pub fn insert(&mut self, key: u32, deadline_ms: u64) {
        let slot = self.due_slot(deadline_ms);
        self.slots[slot as usize % TIMER_SLOTS].push((key, deadline_ms));
        self.entries += 1;
    }

    /// Appends the keys whose deadlines have passed to `fired`.
    pub fn advance(&mut self, now_ms: u64, fired: &mut Vec<u32>) {
        let target = now_ms / TIMER_SLOT_MS;
        let turns = (target.saturating_sub(self.done)).min(TIMER_SLOTS as u64);
        let first = target - turns;
        for slot in first + 1..=target {
            let entries = &mut self.slots[slot as usize % TIMER_SLOTS];
            let before = fired.len();
            entries.retain(|&(key, deadline_ms)| {
                let due = deadline_ms <= now_ms;
                if due {
                    fired.push(key);
                }
                !due
            });
            self.entries -= fired.len() - before;
            if entries.is_empty() && entries.capacity() > 64 {
                entries.shrink_to(64);
            }
        }
        self.done = self.done.max(target);
    }

    /// When [`Wheel::advance`] should be called next; `None` while the wheel is empty.
    pub fn next_ms(&self) -> Option<u64> {
        (self.entries > 0).then_some((self.done + 1) * TIMER_SLOT_MS)
    }

    /// Deadlines that have not fired.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether no deadline is left.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The first slot whose start lies at or after the deadline, so that nothing fires early.
    fn due_slot(&self, deadline_ms: u64) -> u64 {
        deadline_ms.div_ceil(TIMER_SLOT_MS).max(self.done + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fires_each_key_once_never_early_at_most_a_slot_late(
            deadlines in prop::collection::vec(0u64..200_000, 1..200),
            steps in prop::collection::vec(1u64..20_000, 1..60),
        ) {
            let start = 1_000_000;
            let mut wheel = Wheel::new(start);
            for (key, after) in deadlines.iter().enumerate() {
                wheel.insert(key as u32, start + after);
            }
            let mut seen = vec![false; deadlines.len()];
            let mut now = start;
            for step in steps {
                now += step;
                let mut fired = Vec::new();
                wheel.advance(now, &mut fired);
                for key in fired {
                    prop_assert!(!std::mem::replace(&mut seen[key as usize], true));
                    prop_assert!(start + deadlines[key as usize] <= now);
                }
                for (key, after) in deadlines.iter().enumerate() {
                    let late = start + after + TIMER_SLOT_MS <= now;
                    prop_assert!(!late || seen[key], "key {key} is late");
                }
            }
            prop_assert_eq!(wheel.len(), seen.iter().filter(|fired| !**fired).count());
        }
    }
}
