//! Telling every shard to drain.
//!
//! **Runs on: the data process's main thread** ([`Stop`]) and **shard** ([`StopSignal`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// The side that asks.
#[derive(Debug, Default)]
pub struct Stop {
    requested: Arc<AtomicBool>,
    /// Shards that are not drained.
    busy: Arc<AtomicUsize>,
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
        self.busy.fetch_add(1, Ordering::AcqRel);
        let (requested, busy) = (Arc::clone(&self.requested), Arc::clone(&self.busy));
        Ok(StopSignal { requested, busy, wake })
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
    busy: Arc<AtomicUsize>,
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

    /// Says, once, that nothing of the shard is under way any more.
    pub fn tell_drained(&self) {
        self.busy.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether that holds for all shards: till then others may ask it for something.
    pub fn all_drained(&self) -> bool {
        self.busy.load(Ordering::Acquire) == 0
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
        for signal in &signals {
            assert!(!signals[0].all_drained(), "others may still ask for something");
            signal.tell_drained();
        }
        assert!(signals[0].all_drained());
    }
}
