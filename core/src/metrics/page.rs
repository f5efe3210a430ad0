//! One shard's page: a memfd sealed against resizing, mapped by its writer and its readers.
//!
//! **Runs on: control** ([`Page`]) and **shard** ([`Writer`]).
//!
//! The page is an array of 64-bit words: a header (magic, layout, size, shard), then counters,
//! closes by code, histograms, gauges. Every access is a relaxed atomic one. Exactly one
//! [`Writer`] may exist for a page at a time; that is what lets it do without locked instructions.

#![expect(unsafe_code, reason = "the mapped words are reached through a raw pointer")]

use std::cell::Cell;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use memmap2::{MmapMut, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};

use super::snapshot::Snapshot;
use super::table::{
    BUCKETS, CLOSE_CODES, CLOSES, COUNTERS, Counter, GAUGES, Gauge, HEADER, HISTOGRAM_WORDS,
    HISTOGRAMS, Histogram, LAYOUT, WORDS, bucket_of,
};

const MAGIC: u64 = u64::from_be_bytes(*b"trinepg1");
const SIZE_BYTES: usize = WORDS * size_of::<u64>();
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// A shard's page as control holds it, or the data process between receiving it and starting the
/// shard.
pub struct Page {
    file: OwnedFd,
    words: Words,
    shard: usize,
}

impl Page {
    /// Makes a zeroed page for `shard`, sealed against resizing.
    pub fn create(shard: usize) -> io::Result<Page> {
        let name = format!("trine-metrics-{shard}");
        let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, SIZE_BYTES as u64)?;
        rustix::fs::fcntl_add_seals(&file, SEALS)?;
        let words = Words::map(file.as_fd())?;
        for (word, value) in [MAGIC, LAYOUT, SIZE_BYTES as u64, shard as u64].iter().enumerate() {
            words.get(word).store(*value, Relaxed);
        }
        Ok(Page { file, words, shard })
    }

    /// Maps a page received from another process, after checking its seals, size and layout.
    pub fn open(file: OwnedFd) -> Result<Page, PageError> {
        if !rustix::fs::fcntl_get_seals(&file).map_err(io::Error::from)?.contains(SEALS) {
            return Err(PageError::NotSealed);
        }
        let size = rustix::fs::fstat(&file).map_err(io::Error::from)?.st_size;
        if size != SIZE_BYTES as i64 {
            return Err(PageError::OtherLayout);
        }
        let words = Words::map(file.as_fd())?;
        let header = [MAGIC, LAYOUT, SIZE_BYTES as u64];
        if header.iter().enumerate().any(|(word, value)| words.get(word).load(Relaxed) != *value) {
            return Err(PageError::OtherLayout);
        }
        let shard = words.get(3).load(Relaxed) as usize;
        Ok(Page { file, words, shard })
    }

    /// Which shard writes it.
    pub fn shard(&self) -> usize {
        self.shard
    }

    /// Stores the totals of `from` (counters, closes, histograms; gauges become 0). Only before
    /// the page has a writer.
    pub fn preset(&self, from: &Snapshot) {
        for (word, value) in from.words().iter().enumerate() {
            let value = if HEADER + word < GAUGES { *value } else { 0 };
            self.words.get(HEADER + word).store(value, Relaxed);
        }
    }

    /// What the page holds now. Words are read one by one, so series of one moment may differ by
    /// what was counted meanwhile; each by itself never falls.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::from_words(
            (HEADER..WORDS).map(|word| self.words.get(word).load(Relaxed)).collect(),
        )
    }

    /// A writer of this page, with a mapping of its own. The caller sees to it that there is
    /// only one.
    pub fn writer(&self) -> io::Result<Writer> {
        Ok(Writer { words: Words::map(self.file.as_fd())?, one_thread: PhantomData })
    }
}

impl AsFd for Page {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("shard", &self.shard).finish_non_exhaustive()
    }
}

/// Why a received page can't be used.
#[derive(Debug)]
pub enum PageError {
    /// It could be resized under its reader.
    NotSealed,
    /// Another build's series.
    OtherLayout,
    /// The system refused to inspect or map it.
    Io(io::Error),
}

impl From<io::Error> for PageError {
    fn from(error: io::Error) -> Self {
        PageError::Io(error)
    }
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PageError::NotSealed => f.write_str("metric page is not sealed"),
            PageError::OtherLayout => f.write_str("metric page of another layout"),
            PageError::Io(error) => write!(f, "metric page: {error}"),
        }
    }
}

impl std::error::Error for PageError {}

/// A shard's hand on its page. It may move to the shard's thread, and stays on it.
pub struct Writer {
    words: Words,
    one_thread: PhantomData<Cell<()>>,
}

impl Writer {
    /// A writer of private memory, for tests and benches.
    ///
    /// # Panics
    /// If the system has no memory left.
    pub fn detached() -> Writer {
        let memory = MmapMut::map_anon(SIZE_BYTES).expect("a few KiB of anonymous memory");
        Writer { words: Words { memory: MmapRaw::from(memory) }, one_thread: PhantomData }
    }

    /// Adds `count` to a counter.
    #[inline]
    pub fn add(&self, counter: Counter, count: u64) {
        self.bump(COUNTERS + counter as usize, count);
    }

    /// Sets a gauge.
    #[inline]
    pub fn set(&self, gauge: Gauge, value: u64) {
        self.words.get(GAUGES + gauge as usize).store(value, Relaxed);
    }

    /// Adds one observation of `nanos` nanoseconds.
    #[inline]
    pub fn record(&self, histogram: Histogram, nanos: u64) {
        let start = HISTOGRAMS + histogram as usize * HISTOGRAM_WORDS;
        self.bump(start, nanos);
        self.bump(start + 1 + bucket_of(nanos), 1);
    }

    /// Counts a connection closed with `code`; 0 when it ended without a close frame.
    pub fn closed(&self, code: u16) {
        let place = CLOSE_CODES.binary_search(&code).unwrap_or(CLOSE_CODES.len());
        self.bump(CLOSES + place, 1);
    }

    /// What was written so far.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::from_words(
            (HEADER..WORDS).map(|word| self.words.get(word).load(Relaxed)).collect(),
        )
    }

    #[inline]
    fn bump(&self, word: usize, count: u64) {
        let word = self.words.get(word);
        word.store(word.load(Relaxed).wrapping_add(count), Relaxed);
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// A mapping of exactly `WORDS` words.
struct Words {
    memory: MmapRaw,
}

impl Words {
    fn map(file: BorrowedFd<'_>) -> io::Result<Words> {
        let memory = memmap2::MmapOptions::new().len(SIZE_BYTES).map_raw(file.as_raw_fd())?;
        Ok(Words { memory })
    }

    #[inline]
    fn get(&self, word: usize) -> &AtomicU64 {
        // SAFETY: the mapping is page aligned, SIZE_BYTES long and lives as long as `self`; it is
        // anonymous memory or a memfd sealed against shrinking, so no access can fault. Zeroed
        // or written memory is a valid array of words, and every access to it, in whichever
        // process, is atomic.
        let words = unsafe { &*self.memory.as_ptr().cast::<[AtomicU64; WORDS]>() };
        &words[word]
    }
}

const _: () = assert!(BUCKETS + 1 == HISTOGRAM_WORDS && Gauge::ALL.len() + GAUGES == WORDS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_in_another_mapping_sees_what_the_writer_counts() {
        let page = Page::create(3).unwrap();
        let writer = page.writer().unwrap();
        let received = Page::open(page.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(received.shard(), 3);

        writer.add(Counter::Accepted, 2);
        writer.add(Counter::Accepted, 5);
        writer.set(Gauge::Driver, 2);
        writer.record(Histogram::TurnTime, 1_500);
        writer.record(Histogram::TurnTime, u64::from(u32::MAX) * 100);
        writer.closed(3008);
        writer.closed(4321);

        let seen = received.snapshot();
        assert_eq!(seen, page.snapshot());
        assert_eq!(seen.counter(Counter::Accepted), 7);
        assert_eq!(seen.gauge(Gauge::Driver), 2);
        assert_eq!(seen.closed(3008), 1);
        assert_eq!(seen.closed_other(), 1);
        let turns = seen.histogram(Histogram::TurnTime);
        assert_eq!(turns.count(), 2);
        assert_eq!(turns.sum_nanos(), 1_500 + u64::from(u32::MAX) * 100);
        assert_eq!(turns.buckets()[1], 1, "1,500 ns lie between 1,024 and 1,536");
        assert_eq!(seen.histogram(Histogram::CommandDuration).count(), 0);
    }

    #[test]
    fn totals_survive_into_a_fresh_page_and_gauges_do_not() {
        let old = Page::create(0).unwrap();
        let writer = old.writer().unwrap();
        writer.add(Counter::Sends, 9);
        writer.closed(1000);
        writer.record(Histogram::CommandDuration, 10);
        writer.set(Gauge::Connections, 4);

        let mut totals = old.snapshot();
        let vanished = Writer::detached();
        vanished.add(Counter::Sends, 1);
        vanished.set(Gauge::Connections, 1);
        totals.add_totals(&vanished.snapshot());

        let fresh = Page::create(0).unwrap();
        fresh.preset(&totals);
        let seen = fresh.snapshot();
        assert_eq!(seen.counter(Counter::Sends), 10);
        assert_eq!(seen.closed(1000), 1);
        assert_eq!(seen.histogram(Histogram::CommandDuration).count(), 1);
        assert_eq!(seen.gauge(Gauge::Connections), 0);
    }

    #[test]
    fn a_page_that_could_shrink_or_is_foreign_is_refused() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("loose", flags).unwrap();
        rustix::fs::ftruncate(&file, SIZE_BYTES as u64).unwrap();
        let same = file.try_clone().unwrap();
        assert!(matches!(Page::open(same), Err(PageError::NotSealed)));
        rustix::fs::fcntl_add_seals(&file, SEALS).unwrap();
        assert!(matches!(Page::open(file), Err(PageError::OtherLayout)), "zeroed header");

        let page = Page::create(0).unwrap();
        assert!(rustix::fs::ftruncate(&page, 0).is_err(), "a sealed page can't be resized");
    }
}
