//! How long the durable cursors lag behind what Kafka has acknowledged: what a crash repeats.
//!
//! **Runs on: shard.** Sans-IO: the spool asks its journal for a flush when [`Lag::ask`] says so.

use crate::limits::{SPOOL_CURSOR_LAG_MS, SPOOL_PAUSE_MS};

/// The lag of one shard's cursors.
#[derive(Debug, Default)]
pub(super) struct Lag {
    /// When the first cursor moved that the flush under way covers.
    asked_ms: Option<u64>,
    /// When the first cursor moved that no flush covers yet.
    moved_ms: Option<u64>,
    /// No flush is asked for before this.
    not_before_ms: u64,
}

impl Lag {
    /// A cursor has moved.
    pub fn moved(&mut self, now_ms: u64) {
        self.moved_ms.get_or_insert(now_ms);
    }

    /// Whether to ask for a flush now: one at a time, each for what half the lag has brought.
    pub fn ask(&mut self, now_ms: u64) -> bool {
        let is_due = self.moved_ms.is_some_and(|since| now_ms >= since + SPOOL_CURSOR_LAG_MS / 2);
        let asks = is_due && self.asked_ms.is_none() && now_ms >= self.not_before_ms;
        if asks {
            self.asked_ms = self.moved_ms.take();
        }
        asks
    }

    /// What the flush covered is durable.
    pub fn flushed(&mut self) {
        self.asked_ms = None;
    }

    /// The journal has not carried the flush out.
    pub fn refused(&mut self, now_ms: u64) {
        self.moved_ms = self.asked_ms.take().or(self.moved_ms);
        self.not_before_ms = now_ms + SPOOL_PAUSE_MS;
    }

    /// Whether a crash would repeat more than it may, so that nothing is to be forwarded now.
    pub fn is_late(&self, now_ms: u64) -> bool {
        let first_ms = self.asked_ms.or(self.moved_ms);
        first_ms.is_some_and(|since| now_ms > since + SPOOL_CURSOR_LAG_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_flush_does_not_cover_counts_from_its_own_move() {
        let half = SPOOL_CURSOR_LAG_MS / 2;
        let mut lag = Lag::default();
        assert!(!lag.ask(0) && !lag.is_late(u64::MAX));
        lag.moved(1_000);
        assert!(!lag.ask(1_000 + half - 1));
        assert!(lag.ask(1_000 + half));
        lag.moved(1_000 + half + 1);
        assert!(!lag.ask(9_000), "one is under way");
        assert!(!lag.is_late(1_000 + 2 * half) && lag.is_late(1_001 + 2 * half));
        lag.flushed();
        assert!(!lag.is_late(1_001 + 3 * half) && lag.is_late(1_002 + 3 * half));
        assert!(lag.ask(9_000));
    }

    #[test]
    fn what_is_refused_is_asked_for_again_and_stays_late() {
        let mut lag = Lag::default();
        lag.moved(1_000);
        assert!(lag.ask(2_000));
        lag.moved(2_001);
        lag.refused(2_100);
        assert!(lag.is_late(2_100));
        assert!(!lag.ask(2_099 + SPOOL_PAUSE_MS));
        assert!(lag.ask(2_100 + SPOOL_PAUSE_MS));
        lag.flushed();
        assert!(!lag.is_late(u64::MAX));
    }
}
