//! Waking a shard from another thread: an eventfd, the only thing of `rt` that crosses threads.
//!
//! **Runs on: any** (the handle), **shard** (the wait).

use monoio::net::TcpStream;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Wakes the shard that waits on the matching [`Wakeup`]; may be cloned and sent anywhere.
#[derive(Clone)]
pub struct WakeHandle(Arc<OwnedFd>);

impl WakeHandle {
    /// A new handle; the shard calls [`Wakeup::new`] with a clone of it.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        Ok(Self(Arc::new(eventfd(0, flags)?)))
    }

    /// Wakes the shard; costs a system call. Wakes before the shard has looked are one.
    pub fn wake(&self) {
        // The only possible failure is a counter that is full, and then the shard is woken anyway.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

/// The waiting end, on its shard.
pub struct Wakeup {
    // monoio waits for readability of streams only, and an eventfd is as pollable as a socket.
    stream: TcpStream,
}

impl Wakeup {
    /// Waits for wakes of `handle` on this thread.
    pub fn new(handle: &WakeHandle) -> io::Result<Self> {
        let duplicate = handle.0.try_clone()?;
        Ok(Self { stream: TcpStream::from_std(duplicate.into())? })
    }

    /// Waits until the handle was used, and clears it.
    pub async fn wait(&self) -> io::Result<()> {
        self.stream.readable(false).await?;
        // SAFETY: the descriptor is owned by `stream`, which outlives this call.
        #[allow(unsafe_code)]
        let fd = unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) };
        match rustix::io::read(fd, &mut [0u8; 8]) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
