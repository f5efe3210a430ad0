//! Whose records were read: the epochs of a partition's leaders.
//!
//! **Runs on: shard.** Sans-IO. A replica that becomes the leader without having all records (an
//! unclean election) goes on with other ones at the same offsets. Who tells a leader up to which
//! offset it has read the records of which epoch learns from where on it has read what is no more.
//! Source: KIP-320, KIP-595.

use crate::limits::KAFKA_EPOCHS_KEPT;
use std::collections::VecDeque;

/// Where the records of each epoch begin, of those that were read last.
#[derive(Debug, Default)]
pub(super) struct Epochs(VecDeque<(i64, i32)>);

impl Epochs {
    /// The record before `next_offset` is of an epoch; -1: nobody knows.
    pub fn at(next_offset: i64, epoch: i32) -> Self {
        let mut epochs = Self::default();
        epochs.read(next_offset - 1, epoch);
        epochs
    }

    /// Records from an offset on are of an epoch; -1: nobody knows.
    pub fn read(&mut self, first_offset: i64, epoch: i32) {
        if self.0.back().is_some_and(|&(_, last)| last == epoch) {
            return;
        }
        if self.0.len() == KAFKA_EPOCHS_KEPT {
            self.0.pop_front();
        }
        self.0.push_back((first_offset, epoch));
    }

    /// The epoch of the record before `next_offset`, -1 if that is not known.
    pub fn before(&self, next_offset: i64) -> i32 {
        let mut newest_first = self.0.iter().rev();
        newest_first.find(|&&(first, _)| first < next_offset).map_or(-1, |&(_, epoch)| epoch)
    }

    /// Where records of a newer epoch than this begin.
    pub fn first_above(&self, epoch: i32) -> Option<i64> {
        self.0.iter().find(|&&(_, read)| read > epoch).map(|&(first, _)| first)
    }

    /// What was read from an offset on counts no more.
    pub fn cut(&mut self, next_offset: i64) {
        self.0.retain(|&(first, _)| first < next_offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_has_the_epoch_of_the_record_before_it() {
        assert_eq!(Epochs::default().before(7), -1);
        assert_eq!(Epochs::at(7, -1).before(7), -1);
        let mut epochs = Epochs::at(7, 3);
        assert_eq!((epochs.before(6), epochs.before(7)), (-1, 3));
        epochs.read(7, 3);
        epochs.read(9, 5);
        epochs.read(12, 5);
        assert_eq!([7, 9, 10, 20].map(|offset| epochs.before(offset)), [3, 3, 5, 5]);
        assert_eq!(
            [2, 3, 4, 5].map(|epoch| epochs.first_above(epoch)),
            [Some(6), Some(9), Some(9), None]
        );
        epochs.cut(9);
        assert_eq!([7, 20].map(|offset| epochs.before(offset)), [3, 3]);
        for epoch in 0..2 * KAFKA_EPOCHS_KEPT as i32 {
            epochs.read(100 + i64::from(epoch), 10 + epoch);
        }
        assert_eq!((epochs.0.len(), epochs.before(9)), (KAFKA_EPOCHS_KEPT, -1));
    }
}
