//! When to speak of what is bad: at once, from time to time while it lasts, and when it is over.
//!
//! **Runs on: shard.** Invariant: it is never spoken of twice within a pause, be it over meanwhile
//! or not.

/// What to say now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// It is bad.
    Bad,
    /// It was bad, which was said, and is no more.
    Over,
}

/// One thing that may be bad.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    /// Before this it is not said again.
    silent_until_ms: u64,
    /// It was said and is not over.
    is_said: bool,
}

impl Alarm {
    /// Takes how it is now.
    pub fn look(&mut self, is_bad: bool, pause_ms: u64, now_ms: u64) -> Option<Say> {
        if is_bad && now_ms >= self.silent_until_ms {
            (self.silent_until_ms, self.is_said) = (now_ms + pause_ms, true);
            return Some(Say::Bad);
        }
        (!is_bad && std::mem::take(&mut self.is_said)).then_some(Say::Over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_at_once_then_seldom_and_once_when_it_is_over() {
        let mut alarm = Alarm::default();
        let mut look = |is_bad, now_ms| alarm.look(is_bad, 1_000, now_ms);
        assert_eq!(look(false, 0), None);
        let said: Vec<u64> =
            (1..=10).map(|n| n * 250).filter(|now_ms| look(true, *now_ms).is_some()).collect();
        assert_eq!(said, [250, 1_250, 2_250]);
        assert_eq!((look(false, 2_750), look(false, 3_000)), (Some(Say::Over), None));
        // It comes and goes.
        assert_eq!((look(true, 3_100), look(false, 3_200)), (None, None));
        assert_eq!((look(true, 3_250), look(false, 3_300)), (Some(Say::Bad), Some(Say::Over)));
    }
}
