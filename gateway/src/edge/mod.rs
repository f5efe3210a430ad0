//! A stand-in for the edge: accepts connections and closes them.
//!
//! **Runs on: shard.**

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use trine_core::metrics::{Counter, DRIVER_EPOLL, Gauge, Writer};

use crate::config::Config;
use crate::data::{Peers, StopSignal};

/// Everything a shard starts with.
#[derive(Debug)]
pub struct ShardStart {
    /// Its number, from 0.
    pub index: usize,
    /// How many there are.
    pub shards: usize,
    /// The CPU it is bound to; `None` when that failed.
    pub cpu: Option<usize>,
    /// Its own listening socket for clients, non-blocking.
    pub listener: OwnedFd,
    /// Its own echo listener, where there is one.
    pub echo_listener: Option<OwnedFd>,
    /// Its hand on its metric page.
    pub metrics: Writer,
    /// The configuration.
    pub config: Arc<Config>,
    /// Tells it to drain.
    pub stop: StopSignal,
    /// The other shards.
    pub peers: Peers,
}

/// Runs the shard on the calling thread; returns when stopped and drained.
pub fn run(start: ShardStart) {
    let listener = TcpListener::from(start.listener);
    start.metrics.set(Gauge::Driver, DRIVER_EPOLL);
    while !start.stop.requested() {
        let mut fds = [
            PollFd::new(&listener, PollFlags::IN),
            PollFd::from_borrowed_fd(start.stop.fd(), PollFlags::IN),
        ];
        let _ = poll(&mut fds, None);
        match listener.accept() {
            Ok(_) => {
                start.metrics.add(Counter::Accepted, 1);
                start.metrics.closed(0);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => start.metrics.add(Counter::AcceptErrors, 1),
        }
    }
}
