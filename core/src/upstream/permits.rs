//! How many leases there may be at a time, and who waits for one, first come first served.
//!
//! **Runs on: shard.** Invariants: permits are free only while nobody waits; a permit granted to a
//! waiter that has given up goes to the next.

use crate::rt::{Notify, until};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

pub(super) struct Permits {
    free: Cell<usize>,
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
    waiting_limit: usize,
}

#[derive(Default)]
struct Waiter {
    notify: Notify,
    granted: Cell<bool>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    QueueFull,
    Deadline,
}

/// Dropping it gives it to the first who waits.
pub(super) struct Permit(Rc<Permits>);

impl Permits {
    pub fn new(count: usize, waiting_limit: usize) -> Rc<Self> {
        Rc::new(Self { free: Cell::new(count), waiting: RefCell::default(), waiting_limit })
    }

    pub fn free(&self) -> usize {
        self.free.get()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }

    pub async fn acquire(self: &Rc<Self>, deadline_ms: u64) -> Result<Permit, Refused> {
        if self.free.get() > 0 {
            self.free.set(self.free.get() - 1);
            return Ok(Permit(self.clone()));
        }
        if self.waiting() >= self.waiting_limit {
            return Err(Refused::QueueFull);
        }
        let waiter = Rc::<Waiter>::default();
        self.waiting.borrow_mut().push_back(waiter.clone());
        let place = Place { permits: self, waiter };
        until(deadline_ms, place.waiter.notify.wait()).await;
        match place.waiter.granted.take() {
            true => Ok(Permit(self.clone())),
            false => Err(Refused::Deadline),
        }
    }

    fn release(&self) {
        let first = self.waiting.borrow_mut().pop_front();
        match first {
            Some(waiter) => {
                waiter.granted.set(true);
                waiter.notify.notify();
            }
            None => self.free.set(self.free.get() + 1),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// A place in the queue.
struct Place<'a> {
    permits: &'a Permits,
    waiter: Rc<Waiter>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.waiter.granted.get() {
            // The wait was dropped between the grant and the wake.
            self.permits.release();
        } else {
            self.permits.waiting.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.waiter));
        }
    }
}
