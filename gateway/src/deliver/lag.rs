//! How far a partition's consumer is behind, and when to say so.
//!
//! **Runs on: shard.** Sans-IO, one meter for each partition of a consumer. Invariants: a level is
//! left only well below its threshold, so that a lag at the threshold is told once; a hint for more
//! members comes at most once a window.

use crate::config::Lag;
use crate::limits::LAG_HYSTERESIS_PERCENT;

/// How bad a lag is; its number is the metric's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Below all thresholds.
    #[default]
    Fine = 0,
    /// `lag.warn` reached.
    Warn = 1,
    /// `lag.critical` reached.
    Critical = 2,
}

impl Level {
    /// The word in logs and the hook's body.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Fine => "fine",
            Level::Warn => "warn",
            Level::Critical => "critical",
        }
    }
}

/// Something to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LagEvent {
    /// The lag has crossed a threshold.
    Level {
        /// The level before.
        from: Level,
        /// The level now.
        to: Level,
        /// Records behind.
        lag: u64,
    },
    /// More comes than is consumed, for a whole window: more members, or a faster target.
    ScaleHint {
        /// Records behind.
        lag: u64,
        /// Records that came in the window.
        produced: u64,
        /// Records that were finished in it.
        consumed: u64,
        /// How long it was.
        window_ms: u64,
    },
}

impl LagEvent {
    /// The body of the hook's POST.
    pub fn to_json(&self, consumer: &str, topic: &str, partition: i32) -> String {
        let mut body = match *self {
            LagEvent::Level { from, to, lag } => serde_json::json!({
                "event": "lag", "from": from.as_str(), "to": to.as_str(), "lag": lag,
            }),
            LagEvent::ScaleHint { lag, produced, consumed, window_ms } => serde_json::json!({
                "event": "scale", "lag": lag, "produced": produced, "consumed": consumed,
                "window_ms": window_ms,
            }),
        };
        body["consumer"] = consumer.into();
        body["topic"] = topic.into();
        body["partition"] = partition.into();
        body.to_string()
    }
}

/// One partition's lag.
#[derive(Debug, Default)]
pub struct LagMeter {
    lag: u64,
    level: Level,
    window: Option<Window>,
}

#[derive(Debug)]
struct Window {
    since_ms: u64,
    end_offset: u64,
    position: u64,
    /// The least lag of its second half; a lag that was worked off in between does not grow.
    least_lag: Option<u64>,
}

impl LagMeter {
    /// Records behind, at the last observation.
    pub fn lag(&self) -> u64 {
        self.lag
    }

    /// The level it is at.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Takes the partition's end and the consumer's position; returns a change of level, and a
    /// hint.
    pub fn observe(
        &mut self,
        settings: &Lag,
        end_offset: u64,
        position: u64,
        now_ms: u64,
    ) -> [Option<LagEvent>; 2] {
        self.lag = end_offset.saturating_sub(position);
        let from = self.level;
        let to = next_level(settings, from, self.lag);
        self.level = to;
        let level = (from != to).then_some(LagEvent::Level { from, to, lag: self.lag });
        [level, self.hint(settings, end_offset, position, now_ms)]
    }

    fn hint(
        &mut self,
        settings: &Lag,
        end_offset: u64,
        position: u64,
        now_ms: u64,
    ) -> Option<LagEvent> {
        if settings.window_ms == 0 {
            return None;
        }
        let lag = self.lag;
        let window = self.window.get_or_insert(Window {
            since_ms: now_ms,
            end_offset,
            position,
            least_lag: None,
        });
        let window_ms = now_ms.saturating_sub(window.since_ms);
        if window_ms >= settings.window_ms / 2 {
            window.least_lag = Some(window.least_lag.map_or(lag, |least| least.min(lag)));
        }
        if window_ms < settings.window_ms {
            return None;
        }
        let before = window.end_offset.saturating_sub(window.position);
        let produced = end_offset.saturating_sub(window.end_offset);
        let consumed = position.saturating_sub(window.position);
        let grows = window.least_lag.is_some_and(|least| least > before) && produced > consumed;
        self.window = Some(Window { since_ms: now_ms, end_offset, position, least_lag: None });
        // A tenth of the traffic is what a moment's unevenness leaves.
        let matters = lag > produced / 10;
        (grows && matters).then_some(LagEvent::ScaleHint { lag, produced, consumed, window_ms })
    }
}

/// The level that a lag leads to from another.
fn next_level(settings: &Lag, level: Level, lag: u64) -> Level {
    let reached = |threshold: u64, holds: bool| {
        let leave = u128::from(threshold) * u128::from(LAG_HYSTERESIS_PERCENT) / 100;
        threshold > 0 && (lag >= threshold || (holds && u128::from(lag) >= leave.max(1)))
    };
    if reached(settings.critical, level == Level::Critical) {
        Level::Critical
    } else if reached(settings.warn, level >= Level::Warn) {
        Level::Warn
    } else {
        Level::Fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings(warn: u64, critical: u64, window_ms: u64) -> Lag {
        Lag { warn, critical, window_ms, hook: String::new() }
    }

    #[test]
    fn a_level_is_told_once_and_left_well_below() {
        let settings = settings(100, 1000, 0);
        let mut meter = LagMeter::default();
        let mut told = Vec::new();
        for end in [0, 99, 100, 99, 80, 100, 5000, 900, 800, 799, 80, 79, 99] {
            if let [Some(LagEvent::Level { to, lag, .. }), _] = meter.observe(&settings, end, 0, 0)
            {
                told.push((to, lag));
            }
        }
        let expected =
            [(Level::Warn, 100), (Level::Critical, 5000), (Level::Warn, 799), (Level::Fine, 79)];
        assert_eq!(told, expected);
        assert_eq!((meter.lag(), meter.level()), (99, Level::Fine));
    }

    #[test]
    fn thresholds_of_zero_say_nothing() {
        let mut meter = LagMeter::default();
        let events = meter.observe(&settings(0, 0, 0), u64::MAX, 0, 0);
        assert_eq!(events, [None, None]);
    }

    /// Ten observations in each of two windows; produced and consumed grow by these steps.
    fn hints(produced: u64, consumed: impl Fn(u64) -> u64) -> Vec<LagEvent> {
        let mut meter = LagMeter::default();
        let observe = |step: u64| {
            meter.observe(&settings(0, 0, 1000), step * produced, consumed(step), step * 100)[1]
        };
        (0..=20).filter_map(observe).collect()
    }

    #[test]
    fn a_lag_that_grows_for_a_window_asks_for_more() {
        let hint = |lag| LagEvent::ScaleHint { lag, produced: 500, consumed: 200, window_ms: 1000 };
        assert_eq!(hints(50, |step| step * 20), [hint(300), hint(600)]);
        // It keeps up; it is a moment behind; it catches up in between.
        assert_eq!(hints(50, |step| step * 50), []);
        assert_eq!(hints(50, |step| step * 50 - step.min(1)), []);
        assert_eq!(hints(50, |step| if step % 10 == 8 { step * 50 } else { step * 20 }), []);
    }

    #[test]
    fn the_hook_hears_what_and_where() {
        let event = LagEvent::Level { from: Level::Fine, to: Level::Warn, lag: 7 };
        let body = event.to_json("desk", "tickets", 3);
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        let expected = serde_json::json!({
            "event": "lag", "from": "fine", "to": "warn", "lag": 7,
            "consumer": "desk", "topic": "tickets", "partition": 3,
        });
        assert_eq!(body, expected);
    }

    proptest! {
        #[test]
        fn levels_and_lag_agree(steps in proptest::collection::vec((0u64..3000, 0u64..3000), 1..50)) {
            let settings = settings(100, 1000, 500);
            let mut meter = LagMeter::default();
            for (step, (end, position)) in steps.into_iter().enumerate() {
                let before = meter.level();
                let [level, _] = meter.observe(&settings, end, position, step as u64 * 90);
                prop_assert_eq!(level.is_some(), before != meter.level());
                prop_assert_eq!(meter.lag(), end.saturating_sub(position));
                prop_assert!(meter.lag() < 1000 || meter.level() == Level::Critical);
                prop_assert!(meter.lag() >= 80 || meter.level() == Level::Fine);
            }
        }
    }
}
