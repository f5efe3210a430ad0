//! The storage thread: runs the journal for all shards.
//!
//! **Runs on: storage** (the thread), **shard** ([`Store`]), **control** ([`Storage`], [`State`]).
//! Shards serve while the thread still reads its files: requests wait in the rings until then, and
//! [`State::phase`] tells. Invariants:
//!
//! - A full ring never blocks the thread and loses no answer: answers wait in its own list for that
//!   shard, as many as requests are outstanding, and of these only so many are taken.
//! - One operation of the disk is out at a time. While it runs, requests are taken and so gather for
//!   the next commit, if the driver can do other things meanwhile; else they gather in the rings.
//! - A panic here ends the process by its hook; an error of the disk never does.

mod bell;
mod engine;
mod link;
mod message;
mod reading;
mod serve;
mod state;
#[cfg(test)]
mod tests;

pub(in crate::journal) use bell::Bell;
pub use link::Store;
pub use message::{Answer, ReadFailure, Request, StoredRecord};
pub use state::{Phase, Recovery, State};

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use self::link::{Shared, link};
use self::serve::Desks;
use super::Options;
use super::disk::Disk;
use super::disk::plain::PlainDisk;
use crate::limits::{
    STORAGE_ANSWERS, STORAGE_LOCK_MS, STORAGE_LOCK_STEP_MS, STORAGE_OUTSTANDING, STORAGE_REQUESTS,
};
use crate::rt::WakeHandle;

/// How the disk is to be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preference {
    /// io_uring, and plain system calls where it cannot be had.
    Automatic,
    /// Plain system calls.
    Plain,
}

impl Preference {
    /// What `TRINE_DRIVER` asks for: `epoll` forces plain system calls, as it forces epoll in rt.
    pub fn from_environment() -> Self {
        match crate::rt::Preference::from_environment() {
            crate::rt::Preference::Epoll => Self::Plain,
            crate::rt::Preference::IoUring => Self::Automatic,
        }
    }
}

/// What a storage thread is started with.
pub struct Setup {
    /// Where the segments are; made if it is not there.
    pub folder: PathBuf,
    /// The journal's.
    pub options: Options,
    /// How many shards there are.
    pub shards: usize,
    /// What wakes each of them.
    pub wakes: Vec<WakeHandle>,
    /// Where the thread may run; `None`: wherever its parent may.
    pub cpus: Option<Vec<usize>>,
    /// How the disk is to be driven.
    pub preference: Preference,
}

/// Room in the rings and beyond, for each shard.
#[derive(Clone, Copy, Debug)]
struct Capacity {
    requests: usize,
    answers: usize,
    outstanding: usize,
}

const CAPACITY: Capacity = Capacity {
    requests: STORAGE_REQUESTS,
    answers: STORAGE_ANSWERS,
    outstanding: STORAGE_OUTSTANDING,
};

/// The running thread. Dropped, the journal is closed in the background.
pub struct Storage {
    shared: Arc<Shared>,
    /// Whether the final mark was written.
    ended: Receiver<bool>,
    thread: Option<JoinHandle<()>>,
}

/// Takes the folder's lock and starts the thread, which then reads the segments. Gives each shard
/// its end, in order.
///
/// # Errors
/// `WouldBlock` when another process holds the lock for [`STORAGE_LOCK_MS`]; no descriptor or
/// thread left. Everything else that is wrong with the folder is told in [`State`] and tried again
/// each second.
pub fn start(setup: Setup) -> io::Result<(Storage, Vec<Store>)> {
    let mut first = Some(match locked(&setup.folder) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
        result => result,
    });
    let (folder, preference) = (setup.folder.clone(), setup.preference);
    let open = move || first.take().unwrap_or_else(|| locked(&folder));
    launch(setup, CAPACITY, move |desks| serve::run(desks, open, preference))
}

/// As [`start`], on whatever `open` gives; it is called on the thread, each second until it gives
/// one. The disk must block: [`super::disk::at_once`].
///
/// # Errors
/// No descriptor or thread left.
pub fn start_on<D: Disk + 'static>(
    setup: Setup,
    open: impl FnMut() -> io::Result<D> + Send + 'static,
) -> io::Result<(Storage, Vec<Store>)> {
    launch(setup, CAPACITY, move |desks| serve::run_blocking(desks, open))
}

/// The folder with its lock.
fn locked(folder: &Path) -> io::Result<PlainDisk> {
    let deadline = Instant::now() + Duration::from_millis(STORAGE_LOCK_MS);
    loop {
        match PlainDisk::open(folder) {
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline =>
            {
                thread::sleep(Duration::from_millis(STORAGE_LOCK_STEP_MS));
            }
            result => {
                let name = |error: io::Error| {
                    io::Error::new(error.kind(), format!("{}: {error}", folder.display()))
                };
                return result.map_err(name);
            }
        }
    }
}

fn launch(
    setup: Setup,
    capacity: Capacity,
    run: impl FnOnce(&mut Desks) -> bool + Send + 'static,
) -> io::Result<(Storage, Vec<Store>)> {
    let Setup { options, shards, wakes, cpus, .. } = setup;
    assert_eq!(wakes.len(), shards, "each shard has its wake");
    let shared = Arc::new(Shared::new()?);
    shared.state.quota_bytes.store(options.quota_bytes, Ordering::Relaxed);
    let (mut stores, mut desks) = (Vec::new(), Vec::new());
    for wake in wakes {
        let (store, desk) = link(&shared, wake, capacity.requests, capacity.answers);
        stores.push(store);
        desks.push(desk);
    }
    let mut desks = Desks::new(shared.clone(), desks, options, capacity.outstanding);
    let (end, ended) = sync_channel(1);
    let thread = thread::Builder::new().name("storage".to_owned()).spawn(move || {
        if let Some(cpus) = cpus
            && let Err(error) = crate::topology::restrict_current_thread(&cpus)
        {
            desks.shared.state.failed(format!("the storage thread runs anywhere: {error}"));
        }
        let clean = run(&mut desks);
        desks.shared.state.set_phase(Phase::Closed);
        drop(desks);
        // Nobody may be waiting any more.
        let _ = end.send(clean);
    })?;
    Ok((Storage { shared, ended, thread: Some(thread) }, stores))
}

impl Storage {
    /// How the journal is.
    pub fn state(&self) -> &State {
        &self.shared.state
    }

    /// Closes the journal: what was sent before becomes durable, then a final mark is written and
    /// the thread ends.
    ///
    /// # Errors
    /// `TimedOut`; what the disk said when it failed, so that there is no final mark. Either is as
    /// safe as a kill.
    pub fn stop(mut self, timeout: Duration) -> io::Result<()> {
        self.close();
        let clean = match self.ended.recv_timeout(timeout) {
            Ok(clean) => clean,
            Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::TimedOut.into()),
            Err(RecvTimeoutError::Disconnected) => false,
        };
        let joined = self.thread.take().expect("it is stopped once").join();
        assert!(joined.is_ok(), "the storage thread panicked");
        match clean {
            true => Ok(()),
            false => {
                let why = self.state().error();
                Err(io::Error::other(why.unwrap_or_else(|| "it was never opened".to_owned())))
            }
        }
    }

    fn close(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.rouse();
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.close();
    }
}
