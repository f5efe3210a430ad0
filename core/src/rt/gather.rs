//! Letting events gather: a short rest before the thread waits, so that one wake serves several.
//!
//! **Runs on: shard.** A wake costs more than what a small message needs, and what it starts (a
//! request to a broker, a commit) costs others as much. Where events come one by one, faster than
//! the rest is long, and none of them is urgent, a rest before the wait halves the cost of each, or
//! better. Output is given to the kernel before it. Network cards moderate their interrupts in the
//! same way.

use super::local;
use crate::limits::{
    GATHER_PAUSE_LIMIT_NS, GATHER_PAUSE_NS, GATHER_PERIOD_NS, GATHER_PERIODS, GATHER_SETTLE_NS,
};
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

const SECOND_NS: u64 = 1_000_000_000;

/// Decides when to rest: while two events or more gather in the time it takes, and as many come as
/// without it. Who sends more only once the last was answered would be held up by a rest, which
/// shows soon; it is tried again after a pause, each time a longer one.
#[derive(Debug)]
pub(super) struct Pace {
    since_ns: u64,
    events: u64,
    rests: bool,
    /// Resting has just begun or ended, and what comes is not counted yet.
    settles: bool,
    /// Periods counted since then.
    periods: u32,
    /// Events a second that came before resting began.
    before: u64,
    not_before_ns: u64,
    pause_ns: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            since_ns: 0,
            events: 0,
            rests: false,
            settles: true,
            periods: 0,
            before: 0,
            not_before_ns: 0,
            pause_ns: GATHER_PAUSE_NS,
        }
    }
}

impl Pace {
    /// Takes in a turn's events. Whether to rest so long after it.
    pub fn turn(&mut self, events: u64, rest: Duration, now_ns: u64) -> bool {
        self.events += events;
        let passed_ns = now_ns.saturating_sub(self.since_ns);
        let is_over = passed_ns >= if self.settles { GATHER_SETTLE_NS } else { GATHER_PERIOD_NS };
        if is_over {
            if !std::mem::replace(&mut self.settles, false) {
                self.period(self.events * SECOND_NS / passed_ns, rest, now_ns);
            }
            (self.since_ns, self.events) = (now_ns, 0);
        }
        self.rests
    }

    /// A period has ended; so many events came, a second.
    fn period(&mut self, a_second: u64, rest: Duration, now_ns: u64) {
        self.periods += 1;
        let gather_ns = a_second * rest.as_nanos() as u64;
        if !self.rests {
            if gather_ns >= 2 * SECOND_NS && now_ns >= self.not_before_ns {
                self.before = a_second;
                self.switch(true);
            }
        } else if self.periods == 1 && a_second < self.before / 4 * 3 {
            self.not_before_ns = now_ns + self.pause_ns;
            self.pause_ns = (self.pause_ns * 2).min(GATHER_PAUSE_LIMIT_NS);
            self.switch(false);
        } else if gather_ns < SECOND_NS || self.periods >= GATHER_PERIODS {
            // What comes without rests may have changed since.
            self.pause_ns = GATHER_PAUSE_NS;
            self.switch(false);
        }
    }

    fn switch(&mut self, rests: bool) {
        (self.rests, self.settles, self.periods) = (rests, true, 0);
    }
}

/// Rests whenever it is woken: for the one task that does, which the run queue gives its turn after
/// what was started has been submitted.
pub(super) async fn rests() {
    poll_fn(|cx| {
        let rest = local::take_rest(cx.waker());
        let time = rustix::time::Timespec { tv_sec: 0, tv_nsec: rest.subsec_nanos().into() };
        // A signal ends it early, and so does a completion with the plainer flags of a ring.
        let _ = rustix::thread::nanosleep(&time);
        Poll::<()>::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_micros(250);

    /// Turns in a second when so many events come meanwhile, `waits`: none before the last is
    /// answered. The share of turns with a rest, and the events.
    fn second(pace: &mut Pace, from_ns: u64, each_ns: u64, waits: bool) -> (f64, u64) {
        let (mut now_ns, mut due_ns) = (from_ns, from_ns);
        let (mut rests, mut turns, mut all) = (0, 0, 0);
        while now_ns < from_ns + SECOND_NS {
            let mut events = 0;
            while due_ns <= now_ns {
                events += 1;
                due_ns = if waits { now_ns } else { due_ns } + each_ns;
            }
            (turns, all) = (turns + 1, all + events);
            let rested = pace.turn(events, REST, now_ns);
            rests += u64::from(rested);
            let rest_ns = if rested { REST.as_nanos() as u64 } else { 0 };
            now_ns = due_ns.max(now_ns + rest_ns) + 10_000;
        }
        (rests as f64 / turns as f64, all)
    }

    #[test]
    fn it_rests_while_that_lets_events_gather() {
        let mut pace = Pace::default();
        for (number, each_ns, share) in
            [(1, 400_000, 0.0..0.01), (2, 100_000, 0.8..1.0), (3, 400_000, 0.0..0.1)]
        {
            let (rests, events) = second(&mut pace, number * SECOND_NS, each_ns, false);
            assert!(share.contains(&rests), "each {each_ns} ns: {rests}");
            assert!(events.abs_diff(SECOND_NS / each_ns) < 10);
        }
    }

    #[test]
    fn it_holds_nobody_up_who_waits_for_answers() {
        let (mut pace, mut all) = (Pace::default(), 0);
        for number in 1..=10 {
            all += second(&mut pace, number * SECOND_NS, 40_000, true).1;
        }
        let without = 10 * SECOND_NS / 50_000;
        assert!(all > without * 97 / 100, "{all} of {without}");
    }
}
