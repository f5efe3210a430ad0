//! A page's values at one moment, detached from it.
//!
//! **Runs on: control** (and tests).

use super::table::{
    CLOSE_CODES, CLOSES, COUNTERS, Counter, GAUGES, Gauge, HEADER, HISTOGRAM_WORDS, HISTOGRAMS,
    Histogram, WORDS,
};

/// A copy of one page's words, without the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    words: Box<[u64]>,
}

impl Snapshot {
    /// A snapshot in which nothing was ever counted.
    pub fn zero() -> Snapshot {
        Snapshot { words: vec![0; WORDS - HEADER].into() }
    }

    /// A counter's total.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.words[COUNTERS - HEADER + counter as usize]
    }

    /// A gauge's value in its stored unit.
    pub fn gauge(&self, gauge: Gauge) -> u64 {
        self.words[GAUGES - HEADER + gauge as usize]
    }

    /// Connections closed with `code`, which must be in [`CLOSE_CODES`]; else 0.
    pub fn closed(&self, code: u16) -> u64 {
        CLOSE_CODES.binary_search(&code).map_or(0, |place| self.closes()[place])
    }

    /// Connections closed with a code outside [`CLOSE_CODES`].
    pub fn closed_other(&self) -> u64 {
        self.closes()[CLOSE_CODES.len()]
    }

    /// One histogram.
    pub fn histogram(&self, histogram: Histogram) -> HistogramSnapshot<'_> {
        let start = HISTOGRAMS - HEADER + histogram as usize * HISTOGRAM_WORDS;
        let words = &self.words[start..start + HISTOGRAM_WORDS];
        HistogramSnapshot { sum_nanos: words[0], buckets: &words[1..] }
    }

    /// Adds the totals of another shard (counters, closes, histograms), not its gauges.
    pub fn add_totals(&mut self, other: &Snapshot) {
        let totals = GAUGES - HEADER;
        for (mine, theirs) in self.words.iter_mut().zip(&other.words).take(totals) {
            *mine = mine.wrapping_add(*theirs);
        }
    }

    pub(super) fn from_words(words: Box<[u64]>) -> Snapshot {
        assert_eq!(words.len(), WORDS - HEADER, "a snapshot has every word of a page");
        Snapshot { words }
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    fn closes(&self) -> &[u64] {
        &self.words[CLOSES - HEADER..HISTOGRAMS - HEADER]
    }
}

/// A view of one histogram.
#[derive(Debug, Clone, Copy)]
pub struct HistogramSnapshot<'a> {
    sum_nanos: u64,
    buckets: &'a [u64],
}

impl<'a> HistogramSnapshot<'a> {
    /// Sum of all observations in nanoseconds.
    pub fn sum_nanos(&self) -> u64 {
        self.sum_nanos
    }

    /// Observations, the sum of the buckets.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Observations per bucket, not cumulated; bounds by [`super::bucket_bound_nanos`].
    pub fn buckets(&self) -> &'a [u64] {
        self.buckets
    }
}
