//! Which partition a record goes to.
//!
//! **Runs on: any.** Sans-IO. A key always goes to the partition that the Java client would choose.
//! A custom partitioner is its caller's: it names the partition itself.

use trine_proto::hash;

/// How records are spread over the partitions of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Partitioner {
    /// By the key's murmur2 hash; records without a key as [`Partitioner::Sticky`].
    #[default]
    KeyHash,
    /// Each record to the next partition, whatever its key.
    RoundRobin,
    /// All records to one partition until so many bytes went there, whatever their keys: full
    /// batches where order does not matter.
    Sticky,
}

/// The state of a topic's partitioner.
#[derive(Clone, Debug)]
pub struct Chooser {
    partitioner: Partitioner,
    sticky_bytes: usize,
    current: u32,
    used_bytes: usize,
}

impl Chooser {
    /// A chooser that begins at `start`, a number drawn at random by the caller, so that shards do
    /// not move in step. It stays with a partition for `sticky_bytes`: those of a batch.
    pub fn new(partitioner: Partitioner, start: u32, sticky_bytes: usize) -> Self {
        Self { partitioner, sticky_bytes, current: start, used_bytes: 0 }
    }

    /// The partition, of `partitions` (at least 1), for a record of `bytes`.
    pub fn choose(&mut self, key: Option<&[u8]>, bytes: usize, partitions: u32) -> u32 {
        match (self.partitioner, key) {
            (Partitioner::KeyHash, Some(key)) => return hash::partition(key, partitions),
            (Partitioner::RoundRobin, _) => self.current = self.current.wrapping_add(1),
            (Partitioner::KeyHash | Partitioner::Sticky, _) => {
                if self.used_bytes >= self.sticky_bytes {
                    self.current = self.current.wrapping_add(1);
                    self.used_bytes = 0;
                }
                self.used_bytes += bytes;
            }
        }
        self.current % partitions.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_where_the_java_client_sends_it() {
        let mut chooser = Chooser::new(Partitioner::KeyHash, 5, 100);
        assert_eq!(chooser.choose(Some(b"foobar"), 10, 12), hash::partition(b"foobar", 12));
        let mut other = Chooser::new(Partitioner::KeyHash, 6, 100);
        assert_eq!(
            chooser.choose(Some(b"21"), 10, 7),
            other.choose(Some(b"21"), 900, 7),
            "nothing but the key counts"
        );
    }

    #[test]
    fn sticky_stays_for_a_batch_and_round_robin_never() {
        let mut sticky = Chooser::new(Partitioner::Sticky, 2, 100);
        let chosen: Vec<_> = (0..6).map(|_| sticky.choose(Some(b"k"), 50, 4)).collect();
        assert_eq!(chosen, [2, 2, 3, 3, 0, 0]);
        let mut robin = Chooser::new(Partitioner::RoundRobin, u32::MAX, 100);
        let chosen: Vec<_> = (0..4).map(|_| robin.choose(None, 50, 3)).collect();
        assert_eq!(chosen, [0, 1, 2, 0]);
    }
}
