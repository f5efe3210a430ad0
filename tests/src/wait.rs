//! Waiting for a condition with a deadline.
//!
//! **Runs on: any.**

use std::time::{Duration, Instant};

/// How long an effect may take before a test gives up; generous, since the machine may be shared.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Polls `condition` until it gives a value. Panics with `what` after [`DEADLINE`].
#[track_caller]
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    match within(DEADLINE, condition) {
        Some(value) => value,
        None => panic!("not within {DEADLINE:?}: {what}"),
    }
}

/// Polls `condition` until it gives a value or `limit` has passed.
pub fn within<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if start.elapsed() > limit {
            return None;
        }
        std::thread::sleep(POLL);
    }
}
