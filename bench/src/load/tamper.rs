//! Breaks deliveries on purpose between the socket and the checker, so that a
//! self-test can see the checker catch exactly that many.
//!
//! **Runs on: any.**

use crate::check::{Checker, Faults};
use crate::payload::Stamp;

/// One delivery in this many is broken.
const EVERY: u64 = 100;

/// A way to break deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tamper {
    /// Keeps it from the checker.
    Lose,
    /// Shows it twice.
    Double,
    /// Shows it after the same sender's next one.
    Swap,
    /// Shows it as another channel's.
    Misroute,
}

impl Tamper {
    /// All of them.
    pub const ALL: [Tamper; 4] = [Tamper::Lose, Tamper::Double, Tamper::Swap, Tamper::Misroute];

    /// What a checker must find after this was done so often.
    pub fn expected(self, times: u64) -> Faults {
        let none = Faults::default();
        match self {
            Tamper::Lose => Faults { lost: times, ..none },
            Tamper::Double => Faults { duplicated: times, ..none },
            Tamper::Swap => Faults { reordered: times, ..none },
            Tamper::Misroute => Faults { lost: times, misrouted: times, ..none },
        }
    }
}

/// One delivery: receiver, channel, stamp.
pub type Delivery = (u32, Option<u32>, Option<Stamp>);

/// Carries deliveries to the checker and breaks some.
pub struct Tamperer {
    tamper: Option<Tamper>,
    seen: u64,
    broken: u64,
    held: Option<Delivery>,
}

impl Tamperer {
    /// With `None` everything passes as it is.
    pub fn new(tamper: Option<Tamper>) -> Tamperer {
        Tamperer { tamper, seen: 0, broken: 0, held: None }
    }

    /// Shows one delivery to the checker, broken or not.
    pub fn pass(&mut self, checker: &mut Checker, delivery: Delivery) {
        let (receiver, channel, stamp) = delivery;
        let Some(tamper) = self.tamper else {
            return checker.delivered(receiver, channel, stamp);
        };
        self.seen += 1;
        let chosen = self.seen.is_multiple_of(EVERY) && self.held.is_none();
        self.broken += u64::from(chosen);
        match (chosen, tamper) {
            (false, _) => checker.delivered(receiver, channel, stamp),
            (true, Tamper::Lose) => {}
            (true, Tamper::Double) => {
                checker.delivered(receiver, channel, stamp);
                checker.delivered(receiver, channel, stamp);
            }
            (true, Tamper::Swap) => self.held = Some(delivery),
            (true, Tamper::Misroute) => {
                checker.delivered(receiver, channel.map(|channel| channel + 1), stamp);
            }
        }
        self.release(checker, delivery);
    }

    /// Shows what is still held; says how many were broken. A delivery that
    /// was held to the end had no later one to be swapped with.
    pub fn finish(&mut self, checker: &mut Checker) -> u64 {
        if let Some((receiver, channel, stamp)) = self.held.take() {
            checker.delivered(receiver, channel, stamp);
            self.broken -= 1;
        }
        self.broken
    }

    fn release(&mut self, checker: &mut Checker, delivery: Delivery) {
        let Some((receiver, channel, Some(stamp))) = self.held else { return };
        let overtaken = delivery.0 == receiver
            && delivery
                .2
                .is_some_and(|now| now.sender == stamp.sender && now.sequence > stamp.sequence);
        if overtaken {
            checker.delivered(receiver, channel, Some(stamp));
            self.held = None;
        }
    }
}
