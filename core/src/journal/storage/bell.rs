//! How the storage thread waits for requests while nothing is to be done.
//!
//! **Runs on: storage.** Shards ring by writing a byte to a pipe ([`super::link`]).

use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Hears the bell.
#[allow(async_fn_in_trait, reason = "used with known types on one thread")]
pub(in crate::journal) trait Bell {
    /// Ready if it was rung; else the task is woken when it is, perhaps with nothing to hear.
    fn poll_rung(&mut self, context: &mut Context<'_>) -> Poll<()>;

    /// Waits until it is rung, or for this time; it may return early.
    async fn wait(&mut self, timeout_ms: u64);
}

/// Blocks the thread.
pub(super) struct PlainBell<'a>(pub &'a OwnedFd);

impl Bell for PlainBell<'_> {
    fn poll_rung(&mut self, _: &mut Context<'_>) -> Poll<()> {
        unreachable!("a disk that blocks is done before anybody waits for it")
    }

    async fn wait(&mut self, timeout_ms: u64) {
        let timeout = Timespec {
            tv_sec: (timeout_ms / 1000) as i64,
            tv_nsec: (timeout_ms % 1000 * 1_000_000) as i64,
        };
        // A signal only ends the wait early.
        let _ = poll(&mut [PollFd::new(self.0, PollFlags::IN)], Some(&timeout));
    }
}
