//! Letting events gather: a short rest before the thread waits, so that one wake serves several.
//!
//! **Runs on: shard.** A wake costs more than what a small message needs, and what it starts (a
//! request to a broker, a commit) costs others as much. Where events come one by one, faster than
//! the rest is long, and none of them is urgent, a rest before the wait halves the cost of each, or
//! better. Output is given to the kernel before it. Network cards moderate their interrupts in the
//! same way.

use super::local;
use crate::limits::{
    GATHER_PAIRS, GATHER_PAUSE_LIMIT_NS, GATHER_PAUSE_NS, GATHER_PERIOD_NS, GATHER_PERIODS,
    GATHER_SETTLE_NS,
};
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

const SECOND_NS: u64 = 1_000_000_000;

/// Decides when to rest: while two events or more gather in the time it takes, and as many come as
/// without it. Who sends more only once the last was answered would be held up by a rest, which
/// shows in pairs of periods, one without rests and one with them; they are tried again after a
/// pause, each time a longer one. One pair would not do: a host that takes the core away for some
/// milliseconds makes few of many events.
#[derive(Debug)]
pub(super) struct Pace {
    since_ns: u64,
    events: u64,
    rests: bool,
    /// Resting has just begun or ended, and what comes is not counted yet.
    settles: bool,
    stage: Stage,
    not_before_ns: u64,
    pause_ns: u64,
}

/// What is known of resting.
#[derive(Debug)]
enum Stage {
    /// Nothing yet, or that it holds up what comes.
    Unknown,
    /// So many pairs are whole; events a second of their periods, added up.
    Tried { pairs: u32, with: u64, without: u64 },
    /// It holds up nothing, and has gone on for so many periods.
    Found { periods: u32 },
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            since_ns: 0,
            events: 0,
            rests: false,
            settles: true,
            stage: Stage::Unknown,
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
        let gather_ns = a_second * rest.as_nanos() as u64;
        let (rests, stage) = match self.stage {
            Stage::Unknown if gather_ns >= 2 * SECOND_NS && now_ns >= self.not_before_ns => {
                (true, Stage::Tried { pairs: 0, with: 0, without: a_second })
            }
            Stage::Unknown => return,
            Stage::Tried { pairs, with, without } if !self.rests => {
                (true, Stage::Tried { pairs, with, without: without + a_second })
            }
            Stage::Tried { with, without, .. } if with + a_second < without / 4 * 3 => {
                self.not_before_ns = now_ns + self.pause_ns;
                self.pause_ns = (self.pause_ns * 2).min(GATHER_PAUSE_LIMIT_NS);
                (false, Stage::Unknown)
            }
            Stage::Tried { pairs, with, without } if pairs + 1 < GATHER_PAIRS => {
                (false, Stage::Tried { pairs: pairs + 1, with: with + a_second, without })
            }
            Stage::Tried { .. } => {
                self.pause_ns = GATHER_PAUSE_NS;
                (true, Stage::Found { periods: 0 })
            }
            // What comes without rests may have changed since.
            Stage::Found { periods } if gather_ns < SECOND_NS || periods >= GATHER_PERIODS => {
                (false, Stage::Unknown)
            }
            Stage::Found { periods } => (true, Stage::Found { periods: periods + 1 }),
        };
        self.settles = rests != self.rests;
        (self.rests, self.stage) = (rests, stage);
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

    /// A load: how many clients have an event so often, `waits`: not before the last was taken, and
    /// how long the host takes the core away now and then.
    #[derive(Clone, Copy)]
    struct Load {
        clients: usize,
        each_ns: u64,
        waits: bool,
        away_ns: u64,
    }

    const CALM: Load = Load { clients: 1, each_ns: 0, waits: false, away_ns: 0 };

    /// A second of that load. The share of turns with a rest, and the events.
    fn second(pace: &mut Pace, from_ns: u64, load: Load) -> (f64, u64) {
        let (mut now_ns, mut dues_ns) = (from_ns, vec![from_ns; load.clients]);
        let (mut rests, mut turns, mut all) = (0, 0, 0);
        let mut away_at_ns = from_ns;
        while now_ns < from_ns + SECOND_NS {
            let mut events = 0;
            for due_ns in &mut dues_ns {
                while *due_ns <= now_ns {
                    events += 1;
                    *due_ns = if load.waits { now_ns } else { *due_ns } + load.each_ns;
                }
            }
            (turns, all) = (turns + 1, all + events);
            let rested = pace.turn(events, REST, now_ns);
            rests += u64::from(rested);
            let rest_ns = if rested { REST.as_nanos() as u64 } else { 0 };
            let due_ns = dues_ns.iter().min().copied().expect("a client");
            now_ns = due_ns.max(now_ns + rest_ns) + 10_000;
            if load.away_ns > 0 && now_ns >= away_at_ns {
                now_ns += load.away_ns;
                // In some periods and not in others.
                away_at_ns = now_ns + 23_000_000 + now_ns / 1_000 % 37 * 1_000_000;
            }
        }
        (rests as f64 / turns as f64, all)
    }

    #[test]
    fn it_rests_while_that_lets_events_gather() {
        let mut pace = Pace::default();
        for (number, each_ns, share) in
            [(1, 400_000, 0.0..0.01), (2, 100_000, 0.8..1.0), (3, 400_000, 0.0..0.1)]
        {
            let load = Load { each_ns, ..CALM };
            let (rests, events) = second(&mut pace, number * SECOND_NS, load);
            assert!(share.contains(&rests), "each {each_ns} ns: {rests}");
            assert!(events.abs_diff(SECOND_NS / each_ns) < 10);
        }
    }

    #[test]
    fn it_holds_nobody_up_who_waits_for_answers() {
        let (mut pace, mut all) = (Pace::default(), 0);
        let load = Load { each_ns: 40_000, waits: true, ..CALM };
        for number in 1..=10 {
            all += second(&mut pace, number * SECOND_NS, load).1;
        }
        let without = 10 * SECOND_NS / 50_000;
        assert!(all > without * 97 / 100, "{all} of {without}");
    }

    /// Of the periods that are compared any may be one in which the core was elsewhere.
    #[test]
    fn a_core_that_is_away_now_and_then_decides_nothing() {
        let share_of_rests = |waits| {
            let (mut pace, mut rests) = (Pace::default(), 0.0);
            let load = Load { clients: 16, each_ns: 120_000, waits, away_ns: 9_000_000 };
            for number in 1..=100 {
                rests += second(&mut pace, number * SECOND_NS, load).0 / 100.0;
            }
            rests
        };
        assert!(share_of_rests(false) > 0.5, "{}", share_of_rests(false));
        assert!(share_of_rests(true) < 0.05, "{}", share_of_rests(true));
    }
}
