//! Choosing and running a driver: io_uring with the best flags that the kernel takes, else epoll.
//!
//! **Runs on: shard.** The ring is built on the shard's own thread, since its flags tie it to the
//! thread that submits.

use super::gather::Pace;
use super::local;
use super::sends::{Sends, Turn};
use super::stream::send_all;
use super::wake::{WakeHandle, Wakeup};
use crate::limits::{COMPLETION_ENTRIES, SEND_ROUNDS, SUBMISSION_ENTRIES};
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;

/// Which driver to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preference {
    /// io_uring, and epoll where it cannot be had.
    IoUring,
    /// epoll only.
    Epoll,
}

impl Preference {
    /// What `TRINE_DRIVER` asks for: `epoll` forces epoll, anything else means io_uring first.
    pub fn from_environment() -> Self {
        match std::env::var("TRINE_DRIVER").as_deref() {
            Ok("epoll") => Self::Epoll,
            _ => Self::IoUring,
        }
    }
}

/// The driver that runs, to be told in one line.
#[derive(Debug)]
pub enum Driver {
    /// A ring, with the name of its flags and why better ones failed.
    IoUring {
        /// The flags in words.
        flags: &'static str,
        /// The error that better flags met, if any.
        refused: Option<io::Error>,
    },
    /// epoll, and why there is no ring (`None`: it was asked for).
    Epoll {
        /// The error that the plainest ring met.
        refused: Option<io::Error>,
    },
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IoUring { flags, refused: None } => write!(f, "io_uring ({flags})"),
            Self::IoUring { flags, refused: Some(error) } => {
                write!(f, "io_uring ({flags}; better flags refused: {error})")
            }
            Self::Epoll { refused: None } => write!(f, "epoll (asked for by TRINE_DRIVER)"),
            Self::Epoll { refused: Some(error) } => write!(
                f,
                "epoll (io_uring refused: {error}; look at seccomp, \
                 /proc/sys/kernel/io_uring_disabled and `ulimit -l`)"
            ),
        }
    }
}

pub(super) fn run<S, H>(preference: Preference, start: S, hook: H) -> io::Result<()>
where
    S: FnOnce(&Driver),
    H: FnMut(&mut Turn),
{
    local::reset();
    let again = WakeHandle::new()?;
    let mut refused = None;
    if preference == Preference::IoUring {
        for (flags, builder) in rings() {
            let runtime = RuntimeBuilder::<IoUringDriver>::new()
                .with_entries(SUBMISSION_ENTRIES)
                .uring_builder(builder)
                .enable_timer()
                .build();
            match runtime {
                Ok(mut runtime) => {
                    let driver = Driver::IoUring { flags, refused };
                    return runtime.block_on(turns(move || start(&driver), hook, again));
                }
                Err(error) => refused = Some(error),
            }
        }
    }
    let mut runtime = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?;
    let driver = Driver::Epoll { refused };
    runtime.block_on(turns(move || start(&driver), hook, again))
}

/// Ring flags, best first.
fn rings() -> [(&'static str, io_uring06::Builder); 3] {
    let mut best = io_uring06::IoUring::builder();
    best.setup_single_issuer().setup_defer_taskrun();
    best.setup_coop_taskrun().setup_taskrun_flag().setup_cqsize(COMPLETION_ENTRIES);
    let mut plainer = io_uring06::IoUring::builder();
    plainer.setup_coop_taskrun().setup_cqsize(COMPLETION_ENTRIES);
    let mut plain = io_uring06::IoUring::builder();
    plain.setup_cqsize(COMPLETION_ENTRIES);
    [("SINGLE_ISSUER, DEFER_TASKRUN", best), ("COOP_TASKRUN", plainer), ("no flags", plain)]
}

/// The main future: monoio polls it when the run queue is empty and before it waits.
async fn turns<H: FnMut(&mut Turn)>(
    start: impl FnOnce(),
    mut hook: H,
    again: WakeHandle,
) -> io::Result<()> {
    // Not a task, which would keep the ring beyond the end of this one.
    let wakeup = Wakeup::new(&again)?;
    let mut io_seen = pin!(wakeup.wait());
    let mut sends = Sends::new(send_all);
    let mut turn = Turn::default();
    let (mut start, mut pace) = (Some(start), Pace::default());
    poll_fn(|cx| {
        local::begin(cx.waker());
        if let Some(start) = start.take() {
            local::set_again(again.clone());
            start();
        }
        // What gave way goes on, now that the kernel has been asked about other sockets.
        while let Poll::Ready(seen) = io_seen.as_mut().poll(cx) {
            io_seen.set(wakeup.wait());
            local::go_on();
            if seen.is_err() {
                break;
            }
        }
        sends.collect(&mut turn);
        for round in 1.. {
            hook(&mut turn);
            sends.start(&mut turn);
            // Sends that completed at once may let their connections send again.
            if turn.sent.is_empty() {
                break;
            }
            if round == SEND_ROUNDS {
                local::request_turn_after_io();
                break;
            }
        }
        local::end();
        if let Some((events, rest)) = turn.gather.take()
            && pace.turn(events, rest, local::clock_ns())
        {
            local::rest(rest);
        }
        if local::stopping() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    local::reset();
    Ok(())
}
