//! A listening socket that control opened.
//!
//! **Runs on: shard.**

use super::stream::Stream;
use monoio::net::TcpListener;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// Accepts connections on a socket that was bound elsewhere.
pub struct Listener(TcpListener);

impl Listener {
    /// Takes over a bound, listening socket. It is made non-blocking, which epoll needs; the flag
    /// is shared with every holder of the socket.
    pub fn from_fd(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        TcpListener::from_std(socket.into()).map(Self)
    }

    /// The next connection and its peer. Never drop this while it waits: a connection that was
    /// accepted meanwhile would be lost.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let (tcp, peer) = self.0.accept().await?;
        Ok((Stream::new(tcp), peer))
    }

    /// The address it is bound to.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}
