//! Opening the listeners: probing that a port is free, then one `SO_REUSEPORT` socket a shard.
//!
//! **Runs on: control**, at start and when a new data process needs other listeners.
//!
//! `SO_REUSEPORT` lets a second instance of the same user bind silently and steal connections, so
//! a port is probed first by a socket without it. Sockets are non-blocking already here: the flag
//! belongs to the open socket and is shared with every holder.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::error::Error;
use crate::limits::{BACKLOG, BIND_ATTEMPTS, BIND_RETRY};

/// Makes `open` hold exactly `shards` listeners on `address`: keeps those that are, closes the
/// surplus, binds what is missing. Port 0 keeps the port of those there, or takes a free one.
/// `key` names the address in the configuration.
///
/// # Errors
/// [`Error::Listen`].
pub async fn fit(
    open: &mut Vec<OwnedFd>,
    key: &'static str,
    address: Option<SocketAddr>,
    shards: usize,
) -> Result<(), Error> {
    let Some(address) = address else {
        open.clear();
        return Ok(());
    };
    open.retain(|listener| serves(listener, address));
    open.truncate(shards);
    let mut address = address;
    if open.is_empty() {
        let failed = |source| Error::Listen { key, address, source };
        retrying(|| probe(address)).await.map_err(failed)?;
    }
    while open.len() < shards {
        if let Some(bound) = open.first().and_then(local_address) {
            address = bound;
        }
        let failed = |source| Error::Listen { key, address, source };
        open.push(retrying(|| bind(address)).await.map_err(failed)?);
    }
    Ok(())
}

/// Opens the admin listener.
///
/// # Errors
/// [`Error::Listen`].
pub async fn admin(address: SocketAddr) -> Result<OwnedFd, Error> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    retrying(open).await.map_err(|source| Error::Listen { key: "listen.admin", address, source })
}

/// The address a listener is bound to.
pub fn local_address(listener: &OwnedFd) -> Option<SocketAddr> {
    SockRef::from(listener).local_addr().ok()?.as_socket()
}

fn serves(listener: &OwnedFd, address: SocketAddr) -> bool {
    local_address(listener).is_some_and(|bound| {
        bound.ip() == address.ip() && (address.port() == 0 || bound.port() == address.port())
    })
}

/// Tries again while the address is in use: after a process with io_uring accepts in flight died,
/// its port stays taken for some milliseconds.
async fn retrying<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut left = BIND_ATTEMPTS;
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && left > 1 => {
                left -= 1;
                tokio::time::sleep(BIND_RETRY).await;
            }
            result => return result,
        }
    }
}

fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

fn bind(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets inherit it, which saves a system call each.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[test]
    fn listeners_share_one_port_and_are_kept_when_they_fit() {
        run(async {
            let mut open = Vec::new();
            fit(&mut open, "listen.client", Some(any()), 3).await.unwrap();
            let address = local_address(&open[0]).unwrap();
            assert!(open.iter().all(|listener| local_address(listener) == Some(address)));
            let flags = rustix::fs::fcntl_getfl(&open[0]).unwrap();
            assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));
            assert!(SockRef::from(&open[0]).tcp_nodelay().unwrap());

            fit(&mut open, "listen.client", Some(address), 1).await.unwrap();
            assert_eq!(open.len(), 1);
            fit(&mut open, "listen.client", Some(any()), 2).await.unwrap();
            assert_eq!(local_address(&open[1]), Some(address));
            fit(&mut open, "listen.client", None, 2).await.unwrap();
            assert!(open.is_empty());
        });
    }

    #[test]
    fn a_taken_port_is_refused_even_to_the_same_user() {
        run(async {
            let mut taken = Vec::new();
            fit(&mut taken, "listen.client", Some(any()), 2).await.unwrap();
            let address = local_address(&taken[0]).unwrap();
            let error = fit(&mut Vec::new(), "listen.client", Some(address), 1).await.unwrap_err();
            let line = error.to_string();
            assert!(
                line.contains(&address.to_string()) && line.contains("listen.client"),
                "{line}"
            );
        });
    }
}
