//! When to start, restart, stop and kill the data process: a sans-IO machine.
//!
//! **Runs on: control.**
//!
//! - A process that ended unasked is started again: the first time after
//!   [`FIRST_RESTART`], then after twice as long each time up to [`LONGEST_RESTART`]; one that
//!   lived for [`STEADY`] clears the count.
//! - A stop asks once, waits [`DRAIN`], then kills and waits [`KILL_GRACE`]; a second stop kills at
//!   once, unless it comes within [`SAME_STOP`] of the first.

use std::time::{Duration, Instant};

/// Delay before the first restart. Clients retry after 0.5 s on average, so less gains little,
/// and it must stay under 1 s.
pub const FIRST_RESTART: Duration = Duration::from_millis(100);
/// Longest delay between restarts.
pub const LONGEST_RESTART: Duration = Duration::from_secs(10);
/// A process that lived this long was not part of a crash loop.
pub const STEADY: Duration = Duration::from_secs(30);
/// How long control waits for a data process that was asked to stop, so that a stop takes less
/// than 10 s whatever happens.
pub const DRAIN: Duration = Duration::from_secs(9);
/// How long control waits for the end of a process that it killed. The system takes some time for
/// much memory, and for ever where the process waits for a disk that hangs.
pub const KILL_GRACE: Duration = Duration::from_millis(700);
const _: () = assert!(DRAIN.as_millis() + KILL_GRACE.as_millis() < 10_000);
/// How long the data process itself waits for its shards: shorter, so that it is the one to tell.
pub const SHARDS_DRAIN: Duration = Duration::from_secs(8);

/// Two requests this close are one: `timeout` and some init programs send a signal to a process and
/// again to its group, and no person is that fast.
pub const SAME_STOP: Duration = Duration::from_millis(250);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The process that was started, or adopted, serves.
    Ready,
    /// A start failed; there is no process.
    StartFailed,
    /// The process ended, for whatever reason.
    Ended,
    /// The operator asks to stop.
    Stop,
    /// The time that [`Supervisor::deadline`] named has come.
    Deadline,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing now.
    Wait,
    /// Start a process.
    Start,
    /// Ask the process to drain.
    Terminate,
    /// Kill the process and wait for its end.
    Kill,
    /// Kill the process if there is one, and exit.
    KillAndExit,
    /// Exit, though the process that was killed has not ended.
    GiveUp,
    /// Exit; there is no process.
    Exit,
}

/// The machine. It begins in the state "starting".
#[derive(Debug)]
pub struct Supervisor {
    state: State,
    next_delay: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Running { since: Instant },
    Waiting { until: Instant },
    Stopping { until: Instant, running: bool },
    Killed { until: Instant },
    Done,
}

impl Supervisor {
    /// A machine whose first start is under way.
    pub fn new() -> Supervisor {
        Supervisor { state: State::Starting, next_delay: FIRST_RESTART }
    }

    /// Whether it was asked to stop.
    pub fn is_stopping(&self) -> bool {
        matches!(self.state, State::Stopping { .. } | State::Killed { .. } | State::Done)
    }

    /// Takes one event and says what to do. Events that mean nothing in the present state, such
    /// as a deadline that was just overtaken, are ignored.
    pub fn handle(&mut self, now: Instant, event: Event) -> Action {
        let (state, action) = match (self.state, event) {
            (State::Starting, Event::Ready) => (State::Running { since: now }, Action::Wait),
            (State::Starting, Event::StartFailed | Event::Ended) => (self.wait(now), Action::Wait),
            (State::Running { since }, Event::Ended) => {
                if now.duration_since(since) >= STEADY {
                    self.next_delay = FIRST_RESTART;
                }
                (self.wait(now), Action::Wait)
            }
            (State::Waiting { until }, Event::Deadline) if now >= until => {
                (State::Starting, Action::Start)
            }
            (State::Starting, Event::Stop) => {
                (State::Stopping { until: now + DRAIN, running: false }, Action::Wait)
            }
            (State::Running { .. }, Event::Stop) => {
                (State::Stopping { until: now + DRAIN, running: true }, Action::Terminate)
            }
            (State::Waiting { .. }, Event::Stop) => (State::Done, Action::Exit),
            (State::Stopping { until, running: false }, Event::Ready) => {
                (State::Stopping { until, running: true }, Action::Terminate)
            }
            (State::Stopping { until, .. }, Event::Deadline) if now >= until => {
                (State::Killed { until: now + KILL_GRACE }, Action::Kill)
            }
            (State::Killed { until }, Event::Deadline) if now >= until => {
                (State::Done, Action::GiveUp)
            }
            (State::Stopping { .. } | State::Killed { .. }, Event::Ended | Event::StartFailed) => {
                (State::Done, Action::Exit)
            }
            (State::Killed { .. }, Event::Ready) => {
                (State::Killed { until: now + KILL_GRACE }, Action::Kill)
            }
            (State::Stopping { until, .. }, Event::Stop) if now + DRAIN < until + SAME_STOP => {
                (self.state, Action::Wait)
            }
            (State::Stopping { .. } | State::Killed { .. }, Event::Stop) => {
                (State::Done, Action::KillAndExit)
            }
            (state, _) => (state, Action::Wait),
        };
        self.state = state;
        action
    }

    /// When to come back with [`Event::Deadline`].
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until } | State::Stopping { until, .. } | State::Killed { until } => {
                Some(until)
            }
            State::Starting | State::Running { .. } | State::Done => None,
        }
    }

    fn wait(&mut self, now: Instant) -> State {
        let until = now + self.next_delay;
        self.next_delay = (self.next_delay * 2).min(LONGEST_RESTART);
        State::Waiting { until }
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Supervisor::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a process that lives for `life` and ends; returns the delay before the next start.
    fn live_and_end(machine: &mut Supervisor, now: &mut Instant, life: Duration) -> Duration {
        assert_eq!(machine.handle(*now, Event::Ready), Action::Wait);
        assert_eq!(machine.deadline(), None);
        *now += life;
        assert_eq!(machine.handle(*now, Event::Ended), Action::Wait);
        let until = machine.deadline().unwrap();
        let delay = until - *now;
        assert_eq!(machine.handle(until - Duration::from_millis(1), Event::Deadline), Action::Wait);
        *now = until;
        assert_eq!(machine.handle(*now, Event::Deadline), Action::Start);
        delay
    }

    #[test]
    fn restarts_within_a_second_then_backs_off_and_forgets_after_a_steady_life() {
        let mut now = Instant::now();
        let mut machine = Supervisor::new();
        let mut delays = Vec::new();
        for _ in 0..9 {
            delays.push(live_and_end(&mut machine, &mut now, Duration::from_millis(5)).as_millis());
        }
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(live_and_end(&mut machine, &mut now, STEADY), FIRST_RESTART);
    }

    #[test]
    fn a_failed_start_counts_as_a_crash() {
        let now = Instant::now();
        let mut machine = Supervisor::new();
        assert_eq!(machine.handle(now, Event::StartFailed), Action::Wait);
        let first = machine.deadline().unwrap();
        assert_eq!(machine.handle(first, Event::Deadline), Action::Start);
        assert_eq!(machine.handle(first, Event::StartFailed), Action::Wait);
        assert_eq!(machine.deadline().unwrap() - first, FIRST_RESTART * 2);
    }

    #[test]
    fn a_stop_drains_then_kills() {
        let now = Instant::now();
        let mut machine = Supervisor::new();
        machine.handle(now, Event::Ready);
        assert_eq!(machine.handle(now, Event::Stop), Action::Terminate);
        assert_eq!(machine.deadline(), Some(now + DRAIN));
        assert_eq!(machine.handle(now + DRAIN, Event::Deadline), Action::Kill);
        assert_eq!(machine.handle(now + DRAIN, Event::Ended), Action::Exit);
        assert_eq!(machine.deadline(), None);
    }

    #[test]
    fn a_stop_ends_though_what_was_killed_does_not() {
        let now = Instant::now();
        for steps in [&[Event::Ready, Event::Stop][..], &[Event::Stop]] {
            let mut machine = Supervisor::new();
            for event in steps {
                machine.handle(now, *event);
            }
            assert_eq!(machine.handle(now + DRAIN, Event::Deadline), Action::Kill);
            let until = machine.deadline().unwrap();
            assert_eq!(until, now + DRAIN + KILL_GRACE);
            let early = until - Duration::from_millis(1);
            assert_eq!(machine.handle(early, Event::Deadline), Action::Wait);
            assert_eq!(machine.handle(until, Event::Deadline), Action::GiveUp);
            assert_eq!(machine.deadline(), None);
        }
    }

    #[test]
    fn a_stop_while_starting_ends_the_process_as_soon_as_it_is_there() {
        let now = Instant::now();
        let mut machine = Supervisor::new();
        assert_eq!(machine.handle(now, Event::Stop), Action::Wait);
        assert_eq!(machine.handle(now, Event::Ready), Action::Terminate);
        assert_eq!(machine.handle(now, Event::Ended), Action::Exit);

        let mut machine = Supervisor::new();
        machine.handle(now, Event::Stop);
        assert_eq!(machine.handle(now, Event::StartFailed), Action::Exit);
    }

    proptest::proptest! {
        /// Whatever happens in whatever order: one process at most, none started after a stop,
        /// every wait has a deadline or, before a stop, a process whose end will be told; one that
        /// was killed is given up after its time and no sooner.
        #[test]
        fn any_order_of_events(steps in proptest::collection::vec((0u8..6, 0u64..12_000), 0..60)) {
            let mut now = Instant::now();
            let mut machine = Supervisor::new();
            let (mut starting, mut running, mut stopped, mut done) = (true, false, false, false);
            let mut killed = None;
            for (what, pause_ms) in steps {
                now += Duration::from_millis(pause_ms);
                let event = match what {
                    0 if starting => Event::Ready,
                    1 if starting => Event::StartFailed,
                    2 if running => Event::Ended,
                    3 => Event::Stop,
                    4 | 5 => Event::Deadline,
                    _ => continue,
                };
                match event {
                    Event::Ready => (starting, running) = (false, true),
                    Event::StartFailed => starting = false,
                    Event::Ended => running = false,
                    Event::Stop => stopped = true,
                    Event::Deadline => {}
                }
                match machine.handle(now, event) {
                    Action::Start => {
                        proptest::prop_assert!(!starting && !running && !stopped);
                        starting = true;
                    }
                    Action::Terminate => proptest::prop_assert!(stopped && running),
                    Action::Kill => {
                        proptest::prop_assert!(stopped && (starting || running));
                        killed = Some(now);
                    }
                    Action::GiveUp => {
                        proptest::prop_assert!(stopped && (starting || running));
                        proptest::prop_assert!(killed.is_some_and(|at| now >= at + KILL_GRACE));
                        done = true;
                    }
                    Action::Exit => {
                        proptest::prop_assert!(stopped && !running && !starting);
                        done = true;
                    }
                    Action::KillAndExit => {
                        proptest::prop_assert!(stopped);
                        done = true;
                    }
                    Action::Wait => {}
                }
                if done {
                    break;
                }
                let told = !stopped && (starting || running);
                let limit = if killed.is_some() { KILL_GRACE } else { DRAIN.max(LONGEST_RESTART) };
                let deadline = machine.deadline();
                proptest::prop_assert!(told || deadline.is_some_and(|at| at <= now + limit));
            }
        }
    }

    #[test]
    fn a_second_stop_ends_at_once_and_one_without_a_process_too() {
        let now = Instant::now();
        let mut machine = Supervisor::new();
        machine.handle(now, Event::Ready);
        machine.handle(now, Event::Stop);
        let same = now + SAME_STOP - Duration::from_millis(1);
        assert_eq!(machine.handle(same, Event::Stop), Action::Wait);
        assert_eq!(machine.handle(now + SAME_STOP, Event::Stop), Action::KillAndExit);

        let mut machine = Supervisor::new();
        machine.handle(now, Event::Ready);
        machine.handle(now, Event::Ended);
        assert_eq!(machine.handle(now, Event::Stop), Action::Exit);
        assert_eq!(machine.deadline(), None);
    }
}
