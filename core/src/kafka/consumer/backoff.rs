//! When something that failed is tried again.
//!
//! **Runs on: shard.** Sans-IO.

use crate::limits::{KAFKA_RETRY_MAX_MS, KAFKA_RETRY_MS};

/// No request before a time, which is further off after each failure in a row.
#[derive(Debug)]
pub(super) struct Backoff {
    until_ms: u64,
    next_ms: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { until_ms: 0, next_ms: KAFKA_RETRY_MS }
    }
}

impl Backoff {
    /// When to try.
    pub fn until_ms(&self) -> u64 {
        self.until_ms
    }

    /// It failed: a pause, twice as long as the one before.
    pub fn failed(&mut self, now_ms: u64) {
        self.until_ms = now_ms + self.next_ms;
        self.next_ms = (self.next_ms * 2).min(KAFKA_RETRY_MAX_MS);
    }

    /// It did not fail: the next pause is a short one again.
    pub fn succeeded(&mut self) {
        self.next_ms = KAFKA_RETRY_MS;
    }

    /// It is to be tried then, whatever has happened.
    pub fn wait_until(&mut self, until_ms: u64) {
        self.until_ms = until_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit_until_something_succeeds() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.until_ms(), 0, "at once, at first");
        let mut pause = |now_ms| {
            backoff.failed(now_ms);
            backoff.until_ms() - now_ms
        };
        let pauses: Vec<u64> = (0..20).map(|n| pause(n * 10_000)).collect();
        assert_eq!(pauses[..3], [KAFKA_RETRY_MS, 2 * KAFKA_RETRY_MS, 4 * KAFKA_RETRY_MS]);
        assert_eq!(pauses[19], KAFKA_RETRY_MAX_MS);
        let until_ms = backoff.until_ms();
        backoff.succeeded();
        assert_eq!(backoff.until_ms(), until_ms, "a pause under way stays");
        backoff.failed(500_000);
        assert_eq!(backoff.until_ms(), 500_000 + KAFKA_RETRY_MS);
        backoff.wait_until(7);
        assert_eq!(backoff.until_ms(), 7);
    }
}
