//! Where clients meet a shard: sockets in, HTTP/1.1 and WebSocket, the client protocol, sockets out.
//!
//! **Runs on: shard.** One task reads each connection; output is collected and leaves at the
//! turn's end. Everything of one shard is in one [`shard::Shard`], which its tasks share.

mod alarm;
mod api;
mod client;
mod connection;
mod deliver;
mod demo;
mod durable;
mod http;
mod members;
mod pools;
mod reader;
mod shard;
mod watch;

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use trine_core::limits::TIMER_SLOT_MS;
use trine_core::metrics::{Counter, DRIVER_EPOLL, DRIVER_IO_URING, Gauge, Writer};
use trine_core::rt::{self, Driver, Listener, Preference, Stream, WakeHandle, Wakeup};

use crate::config::Config;
use crate::data::{Names, Peers, Standings, StopSignal, Stores};
use crate::hub::ToShard;
use crate::limits::{ACCEPT_PAUSE_MS, CONNECTIONS_MAX, DESCRIPTORS_RESERVED};
use crate::log::Resharding;
use connection::Entrance;
pub use deliver::Standing;
pub use pools::Pool;
use shard::Shard;
pub use shard::wall_ms;
pub use watch::Watched;

/// Everything a shard starts with.
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
    /// Its own listener for the HTTP API, where there is one.
    pub api_listener: Option<OwnedFd>,
    /// Its hand on its metric page.
    pub metrics: Writer,
    /// The configuration.
    pub config: Arc<Config>,
    /// Tells it to drain.
    pub stop: StopSignal,
    /// The other shards.
    pub peers: Peers,
    /// Its ends of the journals.
    pub stores: Stores,
    /// Where hosts are.
    pub names: Names,
    /// What the shards' spools share.
    pub resharding: Arc<Resharding>,
    /// Where it leaves how far its consumers are.
    pub standings: Standings,
}

/// A shard as its tasks hold it.
type Shared = Rc<RefCell<Shard>>;

/// Runs the shard on the calling thread; returns when stopped and drained.
///
/// # Panics
/// When the system offers no way to wait for sockets; the process then ends, and says so.
pub fn run(start: ShardStart) {
    let ShardStart {
        index,
        cpu,
        listener,
        echo_listener,
        api_listener,
        metrics,
        config,
        stop,
        peers,
        stores,
        names,
        resharding,
        standings,
        ..
    } = start;
    // A copy of its own, so that no cache line is shared with another shard.
    let config = Rc::new(Config::clone(&config));
    let wake = peers.mailboxes.wake_handle();
    let shard = Shard::new(index, config, metrics, peers, standings);
    let shard = Rc::new(RefCell::new(shard));
    let tasks = shard.clone();
    let begin = move |driver: &Driver| {
        let number = match driver {
            Driver::IoUring { .. } => DRIVER_IO_URING,
            Driver::Epoll { .. } => DRIVER_EPOLL,
        };
        tasks.borrow().clients.metrics.set(Gauge::Driver, number);
        tasks.borrow_mut().begin_log(stores, names, resharding);
        tracing::info!(shard = index, cpu, %driver, "shard serves");
        rt::spawn(accept(tasks.clone(), listener, Entrance::Client));
        if let Some(listener) = echo_listener {
            rt::spawn(accept(tasks.clone(), listener, Entrance::Echo));
        }
        if let Some(listener) = api_listener {
            rt::spawn(accept(tasks.clone(), listener, Entrance::Api));
        }
        rt::spawn(wakes(wake));
        rt::spawn(ticks(tasks, stop));
    };
    let hook = move |turn: &mut rt::Turn| {
        shard.borrow_mut().turn(turn);
        let arrived = std::mem::take(&mut shard.borrow_mut().arrived);
        for stream in arrived {
            serve(&shard, stream, Entrance::Client);
        }
    };
    if let Err(error) = rt::run(Preference::from_environment(), begin, hook) {
        panic!("shard {index} can use neither io_uring nor epoll: {error}");
    }
}

/// Accepts connections for as long as the shard runs.
async fn accept(shard: Shared, listener: OwnedFd, entrance: Entrance) {
    let listener = Listener::from_fd(listener).expect("a listener that control has opened");
    let (mut most, mut is_failing) = (descriptors_for_clients(), false);
    loop {
        let accepted = listener.accept().await;
        if shard.borrow().draining_until_ms.is_some() {
            // What comes after this one waits for the next process, if control has the listener.
            return;
        }
        let error = match accepted {
            Ok((stream, _)) if (stream.number() as u64) < most => {
                is_failing = false;
                admit(&shard, stream, entrance);
                continue;
            }
            // Journals, brokers and backends need some, too.
            Ok(_) => {
                most = descriptors_for_clients();
                Errno::MFILE.into()
            }
            Err(error) => error,
        };
        shard.borrow().clients.metrics.add(Counter::AcceptErrors, 1);
        if !std::mem::replace(&mut is_failing, true) {
            let remedy = match Errno::from_io_error(&error) {
                Some(Errno::MFILE | Errno::NFILE) => {
                    Some("raise the limit of open files (LimitNOFILE= in systemd)")
                }
                _ => None,
            };
            tracing::warn!(%error, remedy, "connections are not accepted");
        }
        // Running out of descriptors fails at once, again and again.
        rt::sleep_until(rt::now_ms() + ACCEPT_PAUSE_MS).await;
    }
}

/// Below which number a descriptor may be a client's; the limit may be raised while it runs.
fn descriptors_for_clients() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(DESCRIPTORS_RESERVED)
}

/// Takes a new connection, or gives it to a shard that has fewer.
fn admit(shared: &Shared, stream: Stream, entrance: Entrance) {
    let mut shard = shared.borrow_mut();
    shard.clients.metrics.add(Counter::Accepted, 1);
    if shard.draining_until_ms.is_some() || shard.clients.len() >= CONNECTIONS_MAX {
        return;
    }
    let own = shard.index;
    let handed_over = entrance == Entrance::Client;
    let place = if handed_over { shard.balance.place(own) } else { own };
    shard.balance.add(place);
    if place == own {
        drop(shard);
        return serve(shared, stream, entrance);
    }
    let kept = match stream.into_fd() {
        Ok(socket) => match shard.hub.post().try_send(place, ToShard::Connection(socket)) {
            Ok(()) => {
                shard.clients.metrics.add(Counter::HandedOver, 1);
                rt::request_turn();
                return;
            }
            Err(ToShard::Connection(socket)) => Stream::from_fd(socket).ok(),
            Err(_) => unreachable!("the message comes back as it was"),
        },
        Err(stream) => Some(stream),
    };
    shard.balance.remove(place);
    let Some(stream) = kept else { return };
    shard.balance.add(own);
    drop(shard);
    serve(shared, stream, entrance);
}

/// Starts reading a connection that lives here.
fn serve(shared: &Shared, stream: Stream, entrance: Entrance) {
    let id = shared.borrow_mut().clients.add(stream.clone(), entrance, rt::now_ms());
    rt::spawn(reader::read(shared.clone(), id, stream, entrance));
}

/// Begins a turn whenever another shard has sent something.
async fn wakes(wake: WakeHandle) {
    let wakeup = Wakeup::new(&wake).expect("a descriptor for the shard's own eventfd");
    while wakeup.wait().await.is_ok() {
        rt::request_turn();
    }
}

/// Looks at the clock once in each slot of the timer wheel.
async fn ticks(shard: Shared, stop: StopSignal) {
    loop {
        rt::sleep_until(rt::now_ms() + TIMER_SLOT_MS).await;
        let now_ms = rt::now_ms();
        let mut shard = shard.borrow_mut();
        shard.tick(now_ms);
        if stop.requested() {
            shard.drain(&stop, now_ms);
        }
    }
}
