//! Connecting, with a deadline.
//!
//! **Runs on: shard.** monoio cannot cancel a connect of the ring, so there is none: the kernel
//! connects a non-blocking socket by itself, and what waits is a readiness wait, which may be
//! dropped. At the deadline the socket closes, and with it the attempt.

use super::stream::{Stream, suit_driver};
use super::until;
use monoio::net::TcpStream;
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Connects to `address`; the stream sends without Nagle's delay, since what a turn produced
/// leaves whole. May be dropped while it waits.
///
/// Errors: `TimedOut` at `deadline_ms`, else what the kernel met.
pub async fn connect(address: SocketAddr, deadline_ms: u64) -> io::Result<Stream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket: OwnedFd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let tcp = TcpStream::from_std(socket.into())?;
    until(deadline_ms, tcp.writable(false)).await.ok_or(io::ErrorKind::TimedOut)??;
    // SAFETY: the descriptor is owned by `tcp`, which outlives this borrow.
    #[allow(unsafe_code)]
    let socket = unsafe { BorrowedFd::borrow_raw(tcp.as_raw_fd()) };
    sockopt::socket_error(socket)??;
    suit_driver(socket)?;
    Ok(Stream::new(tcp))
}
