//! Counts, exactly, what a server did wrong with deliveries: lost, duplicated,
//! reordered, misrouted.
//!
//! **Runs on: any.**
//!
//! Every receiver keeps, for every sender that it should hear, the next
//! sequence number and the gaps before it.

use std::collections::HashMap;

use crate::payload::Stamp;

/// What went wrong. All zero is right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Faults {
    /// Deliveries that were due and never came.
    pub lost: u64,
    /// Deliveries beyond the first of the same publication to the same receiver.
    pub duplicated: u64,
    /// Deliveries that came after a later one of the same sender.
    pub reordered: u64,
    /// Deliveries of another channel, sender, run or shape than was due.
    pub misrouted: u64,
}

impl Faults {
    /// How many in all.
    pub fn total(&self) -> u64 {
        self.lost + self.duplicated + self.reordered + self.misrouted
    }
}

/// What one receiver has from one sender.
struct Stream {
    sender: u32,
    next: u32,
    /// Sequence numbers below `next` that did not come yet.
    missing: Vec<u32>,
}

struct Receiver {
    channel: u32,
    streams: Vec<Stream>,
}

/// Checks all receivers.
pub struct Checker {
    run: u32,
    receivers: Vec<Receiver>,
    senders: HashMap<u32, u32>,
    faults: Faults,
}

impl Checker {
    /// A checker for one run.
    pub fn new(run: u32) -> Checker {
        Checker { run, receivers: Vec::new(), senders: HashMap::new(), faults: Faults::default() }
    }

    /// Adds a receiver, which hears a channel; the answer is its number.
    pub fn add_receiver(&mut self, channel: u32) -> u32 {
        self.receivers.push(Receiver { channel, streams: Vec::new() });
        self.receivers.len() as u32 - 1
    }

    /// Adds a sender, which publishes into a channel; receivers are added first.
    pub fn add_sender(&mut self, sender: u32, channel: u32) {
        self.senders.insert(sender, channel);
        for receiver in self.receivers.iter_mut().filter(|r| r.channel == channel) {
            receiver.streams.push(Stream { sender, next: 0, missing: Vec::new() });
        }
    }

    /// One delivery: to whom, in which channel by the server's word, and the
    /// payload's stamp (`None`: it was no payload of ours).
    pub fn delivered(&mut self, receiver: u32, channel: Option<u32>, stamp: Option<Stamp>) {
        let receiver = &mut self.receivers[receiver as usize];
        let stream = match stamp {
            Some(stamp) if stamp.run == self.run && channel == Some(receiver.channel) => {
                receiver.streams.iter_mut().find(|s| s.sender == stamp.sender)
            }
            _ => None,
        };
        let (Some(stream), Some(stamp)) = (stream, stamp) else {
            self.faults.misrouted += 1;
            return;
        };
        if stamp.sequence >= stream.next {
            stream.missing.extend(stream.next..stamp.sequence);
            stream.next = stamp.sequence + 1;
        } else if let Some(place) = stream.missing.iter().position(|&m| m == stamp.sequence) {
            stream.missing.swap_remove(place);
            self.faults.reordered += 1;
        } else {
            self.faults.duplicated += 1;
        }
    }

    /// What went wrong, given how many each sender has sent.
    pub fn finish(&self, sent: impl Fn(u32) -> u32) -> Faults {
        let mut faults = self.faults;
        for stream in self.receivers.iter().flat_map(|r| &r.streams) {
            let never_seen = u64::from(sent(stream.sender)).saturating_sub(stream.next.into());
            faults.lost += stream.missing.len() as u64 + never_seen;
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checker() -> Checker {
        let mut checker = Checker::new(1);
        for channel in [0, 0, 1] {
            checker.add_receiver(channel);
        }
        checker.add_sender(7, 0);
        checker
    }

    fn faults(sequences: &[u32], sent: u32) -> Faults {
        let mut checker = checker();
        for &sequence in sequences {
            let stamp = Stamp { run: 1, sender: 7, sequence, due_ns: 0 };
            checker.delivered(0, Some(0), Some(stamp));
        }
        for sequence in 0..sent {
            let stamp = Stamp { run: 1, sender: 7, sequence, due_ns: 0 };
            checker.delivered(1, Some(0), Some(stamp));
        }
        checker.finish(|_| sent)
    }

    #[test]
    fn counts_each_fault_once() {
        let none = Faults::default();
        assert_eq!(faults(&[0, 1, 2, 3], 4), none);
        assert_eq!(faults(&[0, 2, 3], 4), Faults { lost: 1, ..none });
        assert_eq!(faults(&[0, 1], 4), Faults { lost: 2, ..none });
        assert_eq!(faults(&[0, 1, 1, 2, 3], 4), Faults { duplicated: 1, ..none });
        assert_eq!(faults(&[0, 2, 1, 3], 4), Faults { reordered: 1, ..none });
        assert_eq!(
            faults(&[3, 0, 0, 1], 4),
            Faults { lost: 1, duplicated: 1, reordered: 2, ..none }
        );
    }

    #[test]
    fn notices_what_is_not_for_the_receiver() {
        let right = Stamp { run: 1, sender: 7, sequence: 0, due_ns: 0 };
        let mut checker = checker();
        checker.delivered(2, Some(0), Some(right));
        checker.delivered(2, Some(1), Some(right));
        checker.delivered(0, Some(0), Some(Stamp { run: 2, ..right }));
        checker.delivered(0, Some(0), Some(Stamp { sender: 8, ..right }));
        checker.delivered(0, None, Some(right));
        checker.delivered(0, Some(0), None);
        assert_eq!(checker.finish(|_| 0), Faults { misrouted: 6, ..Faults::default() });
    }
}
