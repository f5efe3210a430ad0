//! Telling every shard to drain.
//!
//! **Runs on: the data process's main thread** ([`Stop`]) and **shard** ([`StopSignal`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// The side that asks.
#[derive(Debug, Default)]
pub struct Stop {
    requested: Arc<AtomicBool>,
    wakes: Vec<Arc<OwnedFd>>,
}

impl Stop {
    /// A signal for one more shard.
    ///
    /// # Errors
    /// When the process has no room for another descriptor.
    pub fn add_shard(&mut self) -> io::Result<StopSignal> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        self.wakes.push(Arc::clone(&wake));
        Ok(StopSignal { requested: Arc::clone(&self.requested), wake })
    }

    /// Asks every shard to drain, and wakes it.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
        for wake in &self.wakes {
            // A counter at its maximum is readable, which is all that is wanted.
            let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
        }
    }
}

/// A shard's side.
#[derive(Debug, Clone)]
pub struct StopSignal {
    requested: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
}

impl StopSignal {
    /// A non-blocking eventfd that becomes readable with the request and stays so until read.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Whether the shard is to drain: accept nothing more, flush, close clients with 3001, return.
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reaches_every_shard_and_wakes_it() {
        let mut stop = Stop::default();
        let signals = [stop.add_shard().unwrap(), stop.add_shard().unwrap()];
        let mut count = [0; 8];
        for signal in &signals {
            assert!(!signal.requested());
            assert!(rustix::io::read(signal.fd(), &mut count).is_err(), "not readable yet");
        }
        stop.request();
        for signal in &signals {
            assert!(signal.requested());
            assert_eq!(rustix::io::read(signal.fd(), &mut count), Ok(8));
        }
    }
}
