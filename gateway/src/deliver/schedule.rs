//! When a lane may begin what waits: once so many wait, at times, and how fast.
//!
//! **Runs on: shard.** Sans-IO, one for each partition of a consumer. Times are the calendar's own
//! (multiples of an interval since 1970, times of day in UTC), so a restart moves none. Invariants:
//! nothing is begun before it is due; what is due by time stays due, also after a restart; in no
//! span of time do more begin than the rate allows and two runs.

use crate::config::{self, Consumer};
use crate::limits::{DAY_MS, DRAIN_SLACK_MS};

/// The schedule of one partition.
#[derive(Debug)]
pub(super) struct Schedule {
    /// Records with lower offsets are due, since so many waited.
    due_below: u64,
    /// No record from here on has begun.
    begun_below: u64,
    /// When the next run may begin, by the lane's clock, in microseconds.
    next_run_us: u64,
    /// Records of the present run that have not begun.
    left: u64,
}

impl Schedule {
    /// Of a partition that is read from `offset` on.
    pub fn new(offset: u64) -> Self {
        Self { due_below: offset, begun_below: offset, next_run_us: 0, left: 0 }
    }

    /// Takes where the partition ends: with enough that wait, all are due.
    pub fn ends_at(&mut self, settings: &config::Schedule, end_offset: u64) {
        let waiting = end_offset.saturating_sub(self.due_below.max(self.begun_below));
        if settings.records > 0 && waiting >= settings.records {
            self.due_below = end_offset;
        }
    }

    /// When a record may begin, by the lane's clock, which is `ahead_ms` behind Unix time. It waits
    /// since `since_ms`, Unix milliseconds.
    pub fn opens_ms(
        &self,
        settings: &config::Schedule,
        offset: u64,
        since_ms: u64,
        ahead_ms: u64,
    ) -> u64 {
        let due_ms = match settings.holds() && offset >= self.due_below {
            true => next_time_ms(settings, since_ms).saturating_sub(ahead_ms),
            false => 0,
        };
        let run_ms = if self.left > 0 { 0 } else { self.next_run_us.div_ceil(1_000) };
        due_ms.max(run_ms)
    }

    /// A record begins, or does so again. Runs keep batches whole, and are long enough for the clock's steps.
    pub fn began(&mut self, offset: u64, settings: &Consumer, now_ms: u64) {
        self.begun_below = self.begun_below.max(offset + 1);
        let (batch, rate) = (&settings.batch, settings.schedule.rate_per_s);
        if rate == 0 {
            return;
        }
        if self.left == 0 {
            self.left = (batch.records as u64).max((rate * DRAIN_SLACK_MS).div_ceil(1_000));
            let earliest_us = now_ms.saturating_sub(DRAIN_SLACK_MS) * 1_000;
            let length_us = (self.left * 1_000_000).div_ceil(rate);
            self.next_run_us = self.next_run_us.max(earliest_us) + length_us;
        }
        self.left -= 1;
    }
}

/// The schedule's first time after `since_ms`, Unix milliseconds; `u64::MAX`: it has none.
fn next_time_ms(settings: &config::Schedule, since_ms: u64) -> u64 {
    let interval = (settings.every_ms > 0).then_some(settings.every_ms);
    let multiple = interval.map(|every_ms| (since_ms / every_ms + 1).saturating_mul(every_ms));
    let today_ms = since_ms / DAY_MS * DAY_MS;
    let times = settings.at.iter().flat_map(|minute| {
        let today_ms = today_ms + u64::from(*minute) * 60_000;
        [today_ms, today_ms + DAY_MS]
    });
    let of_day = times.filter(|time_ms| *time_ms > since_ms).min();
    multiple.into_iter().chain(of_day).min().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-01-01 00:00 UTC, in Unix milliseconds.
    const NEW_YEAR: u64 = 1_767_225_600_000;

    fn settings(every_ms: u64, at: &[u16], records: u64, rate_per_s: u64) -> config::Schedule {
        config::Schedule { every_ms, at: at.to_vec(), records, rate_per_s }
    }

    fn consumer(schedule: &config::Schedule, batch_records: usize) -> Consumer {
        let mut consumer = Consumer { schedule: schedule.clone(), ..Consumer::default() };
        consumer.batch.records = batch_records;
        consumer
    }

    #[test]
    fn times_are_the_calendars() {
        let (minute, hour) = (60_000, 3_600_000);
        let two = NEW_YEAR + 2 * hour;
        for (every_ms, at, since_ms, expected) in [
            (hour, &[][..], NEW_YEAR, NEW_YEAR + hour),
            (hour, &[], NEW_YEAR + hour - 1, NEW_YEAR + hour),
            (0, &[120], NEW_YEAR, two),
            (0, &[120], two - 1, two),
            (0, &[120], two, two + 24 * hour),
            (0, &[0], NEW_YEAR - 1, NEW_YEAR),
            (0, &[120, 1439], two, NEW_YEAR + 24 * hour - minute),
            (hour, &[30], NEW_YEAR, NEW_YEAR + 30 * minute),
            (0, &[], NEW_YEAR, u64::MAX),
        ] {
            let found = next_time_ms(&settings(every_ms, at, 0, 0), since_ms);
            assert_eq!(found, expected, "every {every_ms}, at {at:?}, since {since_ms}");
        }
    }

    #[test]
    fn enough_that_wait_are_due_together() {
        let settings = settings(3_600_000, &[], 3, 0);
        let mut schedule = Schedule::new(10);
        let opens =
            |schedule: &Schedule, offset| schedule.opens_ms(&settings, offset, NEW_YEAR, NEW_YEAR);
        schedule.ends_at(&settings, 12);
        assert_eq!(opens(&schedule, 10), 3_600_000);
        schedule.ends_at(&settings, 14);
        assert_eq!([10, 13, 14].map(|offset| opens(&schedule, offset)), [0, 0, 3_600_000]);
        schedule.ends_at(&settings, 12);
        schedule.ends_at(&settings, 16);
        assert_eq!([13, 15].map(|offset| opens(&schedule, offset)), [0, 3_600_000]);
        schedule.ends_at(&settings, 17);
        assert_eq!(opens(&schedule, 16), 0);
    }

    #[test]
    fn a_rate_alone_holds_nothing_back_but_the_next_run() {
        let settings = settings(0, &[], 0, 10);
        let consumer = consumer(&settings, 4);
        let mut schedule = Schedule::new(0);
        let mut opened = Vec::new();
        let mut now_ms = 1_000;
        for offset in 0..9 {
            now_ms = now_ms.max(schedule.opens_ms(&settings, offset, NEW_YEAR, NEW_YEAR));
            schedule.began(offset, &consumer, now_ms);
            opened.push(now_ms);
        }
        // The first run may be late by the slack already.
        assert_eq!(opened, [1_000, 1_000, 1_000, 1_000, 1_300, 1_300, 1_300, 1_300, 1_700]);
    }

    proptest! {
        /// Records come at random times and are begun as soon as a clock of steps lets them.
        #[test]
        fn nothing_is_early_all_is_drained_and_the_rate_is_kept(
            (every_ms, minute) in (1u64..500_000, proptest::option::of(0u16..1440)),
            (records, rate) in (prop_oneof![Just(0u64), 1u64..20], prop_oneof![Just(0u64), 1u64..5_000]),
            (batch_records, step_ms) in (1usize..60, 1u64..100),
            pauses in proptest::collection::vec(0u64..2_000, 1..200),
        ) {
            let at: Vec<u16> = minute.into_iter().collect();
            let settings = settings(every_ms, &at, records, rate);
            let consumer = consumer(&settings, batch_records);
            let mut since = Vec::new();
            let mut time_ms = NEW_YEAR;
            for pause in pauses {
                time_ms += pause;
                since.push(time_ms);
            }
            let mut schedule = Schedule::new(0);
            let (mut now_ms, mut due_below) = (0, 0);
            let mut began: Vec<u64> = Vec::new();
            while began.len() < since.len() {
                let unix_ms = NEW_YEAR + now_ms;
                let end = since.iter().filter(|since_ms| **since_ms <= unix_ms).count() as u64;
                schedule.ends_at(&settings, end);
                if records > 0 && end - due_below.max(began.len() as u64) >= records {
                    due_below = end;
                }
                let mut opens_ms = u64::MAX;
                while (began.len() as u64) < end {
                    let offset = began.len() as u64;
                    let since_ms = since[began.len()];
                    opens_ms = schedule.opens_ms(&settings, offset, since_ms, NEW_YEAR);
                    let by_time = unix_ms / every_ms > since_ms / every_ms
                        || minute.is_some_and(|minute| {
                            let shifted = |ms: u64| (ms - u64::from(minute) * 60_000) / DAY_MS;
                            shifted(unix_ms) > shifted(since_ms)
                        });
                    let is_due = offset < due_below || by_time;
                    prop_assert!(opens_ms > now_ms || is_due, "{offset} is early");
                    prop_assert!(opens_ms <= now_ms || !is_due || rate > 0, "{offset} is late");
                    if opens_ms > now_ms {
                        break;
                    }
                    schedule.began(offset, &consumer, now_ms);
                    began.push(now_ms);
                }
                // The next step of the clock at which something may have changed.
                let next = since.get(end as usize).map_or(u64::MAX, |next| next - NEW_YEAR);
                let next = next.min(opens_ms.max(now_ms + 1));
                prop_assert!(next < u64::MAX || began.len() == since.len(), "it never drains");
                now_ms = if next == u64::MAX { now_ms } else { next.div_ceil(step_ms) * step_ms };
            }
            if rate > 0 {
                let run = (batch_records as u64).max((rate * DRAIN_SLACK_MS).div_ceil(1_000));
                for (index, first) in began.iter().enumerate() {
                    for (last, count) in began[index..].iter().zip(1u64..) {
                        let allowed = rate * (last - first + DRAIN_SLACK_MS) / 1_000 + 2 * run;
                        prop_assert!(count <= allowed, "{count} in {} ms", last - first);
                    }
                }
            }
        }
    }
}
