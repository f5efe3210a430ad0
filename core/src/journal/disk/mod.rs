//! Where segments lie: the few things that the journal asks of a filesystem.
//!
//! **Runs on: storage.** A disk does one operation at a time and answers when it is done. None of
//! these promises that bytes are durable except `create`, `sync` and `truncate`.

mod glommio;
pub mod plain;
#[cfg(any(test, feature = "simulation"))]
pub mod simulated;
#[cfg(test)]
mod tests;

pub(super) use glommio::{RingDisk, run_ring};

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// A segment that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its number.
    pub segment: u64,
    /// The file's length.
    pub bytes: u64,
}

/// The outcome of a future on a disk that blocks instead of waiting.
pub fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("a disk that blocks is never pending"),
    }
}

/// A folder of segments.
#[allow(async_fn_in_trait, reason = "used with known types on one thread")]
pub trait Disk {
    /// The segments that are there, in the order of their numbers.
    ///
    /// # Errors
    /// When the folder can't be read.
    async fn list(&mut self) -> io::Result<Vec<Listed>>;

    /// Makes a new segment with room for `bytes`, all zeros; it and the folder are synced.
    ///
    /// # Errors
    /// When it exists, when there is no room, when a sync fails.
    async fn create(&mut self, segment: u64, bytes: u64) -> io::Result<()>;

    /// Writes all of `data` at `position`; both are whole blocks.
    ///
    /// # Errors
    /// When not all of it was taken.
    async fn write(&mut self, segment: u64, position: u64, data: &[u8]) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// Then nothing may be assumed of what was written since the last sync.
    async fn sync(&mut self, segment: u64) -> io::Result<()>;

    /// Reads up to `bytes` from `position` into `buffer`, which is cleared first; fewer only at
    /// the file's end.
    ///
    /// # Errors
    /// When the device can't read them.
    async fn read(
        &mut self,
        segment: u64,
        position: u64,
        bytes: usize,
        buffer: &mut Vec<u8>,
    ) -> io::Result<()>;

    /// Cuts a segment that will not be written to any more.
    ///
    /// # Errors
    /// When it can't be; the segment stays as it was.
    async fn truncate(&mut self, segment: u64, bytes: u64) -> io::Result<()>;

    /// Removes a segment.
    ///
    /// # Errors
    /// When it can't be; the segment stays.
    async fn remove(&mut self, segment: u64) -> io::Result<()>;

    /// Keeps a segment as it is now for a person to look at, whatever becomes of it later. A longer
    /// copy that is there already stays, since it is of the segment before it was cut.
    ///
    /// # Errors
    /// When it can't be kept.
    async fn quarantine(&mut self, segment: u64) -> io::Result<()>;
}
