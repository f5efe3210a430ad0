//! A listening socket that can refuse connections for a while and keeps its port meanwhile.
//!
//! **Runs on: any.** Linux lets a listening socket be shut down and listen again; between the two it stays
//! bound, so that nobody else is given the port, and who connects is refused.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::net::Shutdown;

use crate::wait;

/// How often a door looks whether somebody came.
const POLL: Duration = Duration::from_millis(2);

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A door on a loopback port of its own.
pub struct Door {
    listener: TcpListener,
    address: SocketAddr,
    over: AtomicBool,
}

impl Door {
    /// An open door.
    pub fn open() -> Self {
        // The kernel keeps only a port that was asked for by number.
        let listener = wait::until("a port is free twice", || {
            let address = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?;
            TcpListener::bind(address).ok()
        });
        listener.set_nonblocking(true).expect("a listener can be non-blocking");
        let address = listener.local_addr().expect("a listener has an address");
        let door = Self { listener, address, over: AtomicBool::new(false) };
        door.reopen();
        door
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Refuses new connections from now on, and resets those that nobody accepted yet.
    pub fn shut(&self) {
        // A door that is shut already isn't connected: nothing is to be done.
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
    }

    /// Lets connections in again.
    pub fn reopen(&self) {
        rustix::net::listen(&self.listener, BACKLOG).expect("a bound socket can listen");
    }

    /// Lets [`Door::accept`] come back with nothing, for good.
    pub fn close(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// The next connection, a blocking one; nothing once the door is closed.
    pub fn accept(&self) -> Option<TcpStream> {
        while !self.is_closed() {
            if let Ok((stream, _)) = self.listener.accept() {
                let ready = stream.set_nonblocking(false).and_then(|()| stream.set_nodelay(true));
                if ready.is_ok() {
                    return Some(stream);
                }
            }
            thread::sleep(POLL);
        }
        None
    }
}

/// Lets `stream` end with a reset when it is closed, as a cut does.
pub fn reset_on_close(stream: &TcpStream) {
    let linger = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
    linger.expect("lingering is a socket option");
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn a_shut_door_refuses_and_opens_again() {
        let door = Door::open();
        let connect = || TcpStream::connect(door.address());
        assert!(connect().is_ok() && door.accept().is_some());
        for _ in 0..3 {
            door.shut();
            door.shut();
            let refused = connect().expect_err("a shut door lets nobody in");
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            door.reopen();
            assert!(connect().is_ok() && door.accept().is_some());
        }
        door.close();
        assert!(door.accept().is_none());
    }
}
