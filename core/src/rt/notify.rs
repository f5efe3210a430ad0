//! One task of a shard waits, another of the same shard wakes it.
//!
//! **Runs on: shard.** Invariant: a notification that comes before the wait is not lost; several
//! before it are one.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// A flag that one task at a time waits for.
#[derive(Default)]
pub struct Notify {
    notified: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Notify {
    /// Not notified yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the wait, or the next one at once if none waits.
    pub fn notify(&self) {
        self.notified.set(true);
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    /// Waits until notified since the last wait ended. May be dropped; of two tasks that wait at
    /// the same time only the later one is woken.
    pub async fn wait(&self) {
        poll_fn(|cx| {
            if self.notified.replace(false) {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
