//! What the thread of a shard keeps for its runtime: the turn's clock, the main task's waker, the
//! sends that wait for the turn's end.
//!
//! **Runs on: shard.**

use super::sends::Report;
use super::stream::Stream;
use super::wake::WakeHandle;
use crate::buf::Outgoing;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::Duration;

/// A send that starts at the end of this turn.
pub(super) struct Queued {
    pub report: Report,
    pub stream: Stream,
    pub outgoing: Outgoing,
}

#[derive(Default)]
struct Local {
    main: RefCell<Option<Waker>>,
    now_ns: Cell<u64>,
    /// The turn's end is running, so none need be asked for.
    ending: Cell<bool>,
    stopping: Cell<bool>,
    queued: RefCell<Vec<Queued>>,
    ready: RefCell<Vec<usize>>,
    /// Tasks that let other sockets go first, and what brings them back.
    given_way: RefCell<Vec<Waker>>,
    again: RefCell<Option<WakeHandle>>,
    /// The task that rests, and for how long.
    rests: RefCell<Option<Waker>>,
    rest: Cell<Duration>,
}

thread_local! {
    static LOCAL: Local = Local::default();
}

#[inline]
pub(super) fn request_turn() {
    LOCAL.with(|local| {
        if !local.ending.get()
            && let Some(main) = &*local.main.borrow()
        {
            main.wake_by_ref();
        }
    });
}

pub(super) fn stop() {
    LOCAL.with(|local| local.stopping.set(true));
    request_turn();
}

pub(super) fn stopping() -> bool {
    LOCAL.with(|local| local.stopping.get())
}

#[inline]
pub(super) fn now_ns() -> u64 {
    LOCAL.with(|local| {
        if local.now_ns.get() == 0 {
            local.now_ns.set(clock_ns());
            // The end of the turn is where the value is forgotten, so there must be one.
            request_turn();
        }
        local.now_ns.get()
    })
}

/// The clock itself, never cached.
pub(super) fn clock_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The turn is over. Sends that were woken while it ended get another one.
pub(super) fn end() {
    let again = LOCAL.with(|local| {
        local.now_ns.set(0);
        local.ending.set(false);
        !local.ready.borrow().is_empty()
    });
    if again {
        request_turn();
    }
}

pub(super) fn begin(main: &Waker) {
    LOCAL.with(|local| {
        local.ending.set(true);
        let mut slot = local.main.borrow_mut();
        if !slot.as_ref().is_some_and(|known| known.will_wake(main)) {
            *slot = Some(main.clone());
        }
    });
}

/// Forgets everything, so that a thread can run a runtime again.
pub(super) fn reset() {
    LOCAL.with(|local| {
        local.main.borrow_mut().take();
        local.queued.borrow_mut().clear();
        local.ready.borrow_mut().clear();
        local.given_way.borrow_mut().clear();
        local.again.borrow_mut().take();
        local.rests.borrow_mut().take();
        local.stopping.set(false);
        local.ending.set(false);
        local.now_ns.set(0);
    });
}

pub(super) fn queue(queued: Queued) {
    LOCAL.with(|local| local.queued.borrow_mut().push(queued));
    request_turn();
}

pub(super) fn swap_queued(list: &mut Vec<Queued>) {
    LOCAL.with(|local| std::mem::swap(&mut *local.queued.borrow_mut(), list));
}

pub(super) fn mark_ready(slot: usize) {
    LOCAL.with(|local| local.ready.borrow_mut().push(slot));
    request_turn();
}

pub(super) fn swap_ready(list: &mut Vec<usize>) {
    LOCAL.with(|local| std::mem::swap(&mut *local.ready.borrow_mut(), list));
}

/// What the task that rests asks for: how long. It is woken by `waker` the next time.
pub(super) fn take_rest(waker: &Waker) -> Duration {
    LOCAL.with(|local| {
        *local.rests.borrow_mut() = Some(waker.clone());
        local.rest.take()
    })
}

/// Lets the thread rest once what this turn has started is submitted.
pub(super) fn rest(rest: Duration) {
    let task = LOCAL.with(|local| {
        local.rest.set(rest);
        local.rests.borrow_mut().take()
    });
    match task {
        Some(task) => task.wake(),
        None => drop(monoio::spawn(super::gather::rests())),
    }
}

pub(super) fn set_again(handle: WakeHandle) {
    LOCAL.with(|local| *local.again.borrow_mut() = Some(handle));
}

/// Asks for another turn after the kernel was asked what else is ready. A plain wake would come
/// before that, so that a busy socket could keep all others waiting.
pub(super) fn request_turn_after_io() {
    LOCAL.with(|local| {
        if let Some(again) = &*local.again.borrow() {
            again.wake();
        }
    });
}

/// Waits until the kernel was asked what else is ready.
pub(super) async fn give_way() {
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        LOCAL.with(|local| local.given_way.borrow_mut().push(cx.waker().clone()));
        request_turn_after_io();
        Poll::Pending
    })
    .await;
}

/// The kernel was asked: whoever gave way goes on.
pub(super) fn go_on() {
    let given_way = LOCAL.with(|local| std::mem::take(&mut *local.given_way.borrow_mut()));
    given_way.into_iter().for_each(Waker::wake);
}
