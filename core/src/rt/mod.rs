//! The runtime facade: one thread, one ring, and a surface small enough for another driver, or a
//! simulated network, to stand behind it.
//!
//! **Runs on: shard.** The only folder that names `monoio`. Invariants: the caller never lends
//! memory to an operation in flight (receives come in pooled chunks, sends own their pieces); a
//! receive, send, accept or connect in flight is never dropped; wakers never cross threads.
//!
//! A *turn* is what the thread does between two waits for the kernel. Its end is where output
//! leaves: [`run`]'s hook collects what the turn produced, and all of it is submitted at once.

mod connect;
mod driver;
mod gather;
mod listener;
mod local;
mod notify;
mod sends;
mod stream;
mod wake;

pub use connect::connect;
pub use driver::{Driver, Preference};
pub use listener::Listener;
pub use notify::Notify;
pub use sends::{Sent, Turn};
pub use stream::Stream;
pub use wake::{WakeHandle, Wakeup};

use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

/// Runs a shard's thread until [`stop`] is called in it.
///
/// `start` runs once inside the runtime, with the driver that was chosen; it spawns what the
/// shard does. `hook` runs at the end of each turn in which [`request_turn`] was called or the
/// clock was read: it takes what was sent from the [`Turn`] and starts new sends. What the hook
/// itself does asks for no other turn; a task that it wakes may.
///
/// Errors: none of the drivers could be set up.
pub fn run<S, H>(preference: Preference, start: S, hook: H) -> io::Result<()>
where
    S: FnOnce(&Driver),
    H: FnMut(&mut Turn),
{
    driver::run(preference, start, hook)
}

/// Starts a task on this thread; it ends with the thread at the latest.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    drop(monoio::spawn(task));
}

/// Asks for the hook at the end of this turn.
#[inline]
pub fn request_turn() {
    local::request_turn();
}

/// Ends [`run`] at the end of this turn. Operations in flight are left to the kernel.
pub fn stop() {
    local::stop();
}

/// Nanoseconds of the monotonic clock, read at most once a turn; the same on all threads.
#[inline]
pub fn now_ns() -> u64 {
    local::now_ns()
}

/// The same clock read now, to measure within a turn.
#[inline]
pub fn clock_ns() -> u64 {
    local::clock_ns()
}

/// Milliseconds of the monotonic clock; see [`now_ns`].
#[inline]
pub fn now_ms() -> u64 {
    local::now_ns() / 1_000_000
}

/// Waits until the clock shows `deadline_ms`.
pub async fn sleep_until(deadline_ms: u64) {
    monoio::time::sleep_until(instant(deadline_ms).into()).await;
}

/// What `future` gives, or `None` when the clock shows `deadline_ms` first; the future is dropped
/// then. What is ready at once counts, also after the deadline.
///
/// Only for futures that may be dropped while they wait: [`Stream::recv`], [`Stream::write`] (the
/// send goes on), [`Wakeup::wait`], [`Notify::wait`], [`sleep_until`], and what is made of these.
/// Not [`Listener::accept`]. [`connect`] has a deadline of its own.
pub async fn until<T>(deadline_ms: u64, future: impl Future<Output = T>) -> Option<T> {
    monoio::time::timeout_at(instant(deadline_ms).into(), future).await.ok()
}

fn instant(deadline_ms: u64) -> Instant {
    let deadline_ns = deadline_ms.saturating_mul(1_000_000);
    Instant::now() + Duration::from_nanos(deadline_ns.saturating_sub(local::clock_ns()))
}

#[cfg(test)]
mod tests;
