//! A TCP proxy that does harm on order: it refuses, hangs, holds, delays, cuts and corrupts.
//!
//! **Runs on: any.** Threads of the standard library. What is left to chance (a delay, a byte, a bit)
//! is drawn from the seed; how the bytes fall into reads is the kernel's. A cut is a reset.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::Duration;

use crate::door::{Door, reset_on_close};
use crate::random::Random;

/// How long a thread of the proxy is deaf to a change of orders.
const TURN: Duration = Duration::from_millis(20);

/// How long the other side may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From who connected to the other side.
    ToUpstream,
    /// Back.
    ToClient,
}

/// What happens at a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is reset; the bytes before it have passed.
    Cut,
    /// One bit of the byte flips.
    Corrupt,
}

/// Orders, and what was done.
struct Orders {
    upstream: Option<SocketAddr>,
    hangs: bool,
    holds: [bool; 2],
    delay_max: Duration,
    faults: Vec<(Direction, u64, Fault)>,
    random: Random,
    links: Vec<Weak<Link>>,
    hung: Vec<TcpStream>,
    connections: usize,
    /// How often all connections were cut.
    cuts: usize,
    passed_bytes: [u64; 2],
    struck: usize,
}

struct Shared {
    door: Door,
    orders: Mutex<Orders>,
    changed: Condvar,
}

/// The two sockets of a connection; they close when both directions have ended.
struct Link {
    client: TcpStream,
    upstream: TcpStream,
    over: AtomicBool,
}

/// A proxy on a loopback port of its own; it ends, and all its connections, when it goes out of scope.
pub struct Proxy {
    shared: Arc<Shared>,
}

impl Proxy {
    /// A proxy that hangs until [`Proxy::forward_to`] says where it leads.
    pub fn start(seed: u64) -> Self {
        let orders = Orders {
            upstream: None,
            hangs: false,
            holds: [false; 2],
            delay_max: Duration::ZERO,
            faults: Vec::new(),
            random: Random::new(seed),
            links: Vec::new(),
            hung: Vec::new(),
            connections: 0,
            cuts: 0,
            passed_bytes: [0; 2],
            struck: 0,
        };
        let (orders, changed) = (Mutex::new(orders), Condvar::new());
        let shared = Arc::new(Shared { door: Door::open(), orders, changed });
        let of_thread = shared.clone();
        thread::spawn(move || of_thread.serve());
        Self { shared }
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.shared.door.address()
    }

    /// Leads new connections to `upstream`.
    pub fn forward_to(&self, upstream: SocketAddr) {
        self.shared.orders().upstream = Some(upstream);
    }

    /// Refuses new connections; those there are stay.
    pub fn refuse(&self) {
        self.shared.door.shut();
    }

    /// Accepts new connections and never answers them; those there are stay.
    pub fn hang(&self) {
        self.shared.orders().hangs = true;
    }

    /// Passes nothing on in a direction, on all connections, as a network that drops it. What was read
    /// already is kept and passed on after [`Proxy::restore`].
    pub fn hold(&self, direction: Direction) {
        self.shared.orders().holds[direction as usize] = true;
    }

    /// Delays every read by up to `most`.
    pub fn delay(&self, most: Duration) {
        self.shared.orders().delay_max = most;
    }

    /// Does harm once, on the first connection on which byte `at` passes in this direction, from 0.
    pub fn strike(&self, direction: Direction, at: u64, fault: Fault) {
        self.shared.orders().faults.push((direction, at, fault));
    }

    /// The same at a byte below `bound` that the seed gives; which one.
    pub fn strike_below(&self, direction: Direction, bound: usize, fault: Fault) -> u64 {
        let at = self.shared.orders().random.below(bound) as u64;
        self.strike(direction, at, fault);
        at
    }

    /// Resets all connections that there are.
    pub fn cut_all(&self) {
        self.shared.cut_all();
    }

    /// Does no more harm: accepts, forwards at once; connections that hung are reset.
    pub fn restore(&self) {
        let mut orders = self.shared.orders();
        orders.hangs = false;
        orders.holds = [false; 2];
        orders.delay_max = Duration::ZERO;
        orders.faults.clear();
        orders.hung.drain(..).for_each(|stream| reset_on_close(&stream));
        drop(orders);
        self.shared.door.reopen();
        self.shared.changed.notify_all();
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.shared.orders().connections
    }

    /// How many bytes have passed in a direction.
    pub fn passed_bytes(&self, direction: Direction) -> u64 {
        self.shared.orders().passed_bytes[direction as usize]
    }

    /// How many of the faults ordered by [`Proxy::strike`] have been done.
    pub fn struck(&self) -> usize {
        self.shared.orders().struck
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.door.close();
        self.shared.door.shut();
        self.shared.cut_all();
    }
}

impl Shared {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().expect("no thread panics with the orders")
    }

    fn cut_all(&self) {
        let mut orders = self.orders();
        orders.cuts += 1;
        orders.links.drain(..).filter_map(|link| link.upgrade()).for_each(|link| link.cut());
        orders.hung.drain(..).for_each(|stream| reset_on_close(&stream));
        drop(orders);
        self.changed.notify_all();
    }

    fn serve(self: &Arc<Self>) {
        while let Some(client) = self.door.accept() {
            let mut orders = self.orders();
            orders.connections += 1;
            let Some(upstream) = orders.upstream.filter(|_| !orders.hangs) else {
                orders.hung.push(client);
                continue;
            };
            let cuts = orders.cuts;
            drop(orders);
            let shared = self.clone();
            thread::spawn(move || shared.link(client, upstream, cuts));
        }
    }

    /// Joins a connection, accepted after so many cuts, with one of its own to the other side.
    fn link(self: Arc<Self>, client: TcpStream, upstream: SocketAddr, cuts: usize) {
        let Ok(upstream) = TcpStream::connect_timeout(&upstream, CONNECT_LIMIT) else {
            return reset_on_close(&client);
        };
        for stream in [&client, &upstream] {
            let patience = stream.set_read_timeout(Some(TURN));
            patience.and(stream.set_write_timeout(Some(TURN))).expect("a turn isn't zero");
            stream.set_nodelay(true).expect("a socket may send at once");
        }
        let link = Arc::new(Link { client, upstream, over: AtomicBool::new(false) });
        let mut orders = self.orders();
        orders.links.retain(|other| other.strong_count() > 0);
        orders.links.push(Arc::downgrade(&link));
        if orders.cuts > cuts {
            return link.cut();
        }
        drop(orders);
        let (shared, back) = (self.clone(), link.clone());
        thread::spawn(move || shared.pass(&back, Direction::ToClient));
        self.pass(&link, Direction::ToUpstream);
    }

    /// Passes one direction on until it ends.
    fn pass(&self, link: &Link, direction: Direction) {
        let (from, to) = match direction {
            Direction::ToUpstream => (&link.client, &link.upstream),
            Direction::ToClient => (&link.upstream, &link.client),
        };
        let mut at = 0;
        let mut buffer = vec![0; 64 * 1024];
        while !link.is_over() {
            let count = match (&*from).read(&mut buffer) {
                Ok(0) => {
                    self.await_release(link, direction);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                    return;
                }
                Ok(count) => count,
                Err(error) if is_timeout(&error) => continue,
                Err(_) => return link.cut(),
            };
            let delay = self.await_release(link, direction);
            thread::sleep(delay);
            let (bytes, cut) = self.harm(&mut buffer[..count], direction, at);
            at += count as u64;
            if !link.write(to, bytes) || cut {
                return link.cut();
            }
            self.orders().passed_bytes[direction as usize] += bytes.len() as u64;
        }
    }

    /// Waits while the direction is held; the delay that the bytes get.
    fn await_release(&self, link: &Link, direction: Direction) -> Duration {
        let mut orders = self.orders();
        while orders.holds[direction as usize] && !link.is_over() {
            let waited = self.changed.wait_timeout(orders, TURN);
            orders = waited.expect("no thread panics with the orders").0;
        }
        let most_us = orders.delay_max.as_micros() as usize;
        Duration::from_micros(orders.random.below(most_us + 1) as u64)
    }

    /// Does the harm ordered for `bytes`, the first of which is byte `at` of its connection: what is left
    /// to pass on, and whether the connection is cut after that.
    fn harm<'a>(&self, bytes: &'a mut [u8], direction: Direction, at: u64) -> (&'a [u8], bool) {
        let mut orders = self.orders();
        let mut end = bytes.len();
        while let Some(number) = orders
            .faults
            .iter()
            .position(|(way, byte, _)| *way == direction && (at..at + end as u64).contains(byte))
        {
            let (_, byte, fault) = orders.faults.swap_remove(number);
            let byte = (byte - at) as usize;
            orders.struck += 1;
            match fault {
                Fault::Cut => end = byte,
                Fault::Corrupt => bytes[byte] ^= 1 << orders.random.below(8),
            }
        }
        (&bytes[..end], end < bytes.len())
    }
}

impl Link {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn cut(&self) {
        if !self.over.swap(true, Ordering::Relaxed) {
            reset_on_close(&self.client);
            reset_on_close(&self.upstream);
        }
    }

    /// Whether all of `bytes` went out before the connection was over.
    fn write(&self, mut to: &TcpStream, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.is_over() {
                return false;
            }
            match to.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if is_timeout(&error) => {}
                Err(_) => return false,
            }
        }
        true
    }
}

fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::wait::{self, DEADLINE};

    /// A server that sends back what it gets, and a proxy before it.
    fn echo() -> (Arc<Door>, Proxy) {
        let door = Arc::new(Door::open());
        let of_thread = door.clone();
        thread::spawn(move || {
            while let Some(stream) = of_thread.accept() {
                thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
        });
        let proxy = Proxy::start(7);
        proxy.forward_to(door.address());
        (door, proxy)
    }

    fn connect(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.address()).expect("the proxy accepts");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline is an option");
        stream
    }

    fn exchange(stream: &mut TcpStream, text: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(text)?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    #[test]
    fn it_forwards_and_ends_cleanly() {
        let (door, proxy) = echo();
        let mut stream = connect(&proxy);
        assert_eq!(exchange(&mut stream, b"hello").expect("an echo"), b"hello");
        stream.shutdown(std::net::Shutdown::Write).expect("half a close");
        assert_eq!(stream.read(&mut [0; 8]).expect("a clean end"), 0);
        assert_eq!((proxy.connections(), proxy.passed_bytes(Direction::ToClient)), (1, 5));
        door.close();
    }

    #[test]
    fn it_cuts_and_corrupts_at_the_very_byte() {
        let (door, proxy) = echo();
        proxy.strike(Direction::ToUpstream, 3, Fault::Corrupt);
        proxy.strike(Direction::ToClient, 12, Fault::Cut);
        let mut stream = connect(&proxy);
        let answer = exchange(&mut stream, b"0123456789").expect("an echo");
        let wrong: Vec<_> = (0..10).filter(|at| answer[*at] != b"0123456789"[*at]).collect();
        assert_eq!(wrong, [3]);
        assert_eq!((answer[3] ^ b'3').count_ones(), 1);
        stream.write_all(b"abcdef").expect("still connected");
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest).expect_err("a cut is a reset");
        assert_eq!((end.kind(), rest.as_slice()), (ErrorKind::ConnectionReset, &b"ab"[..]));
        assert_eq!(proxy.struck(), 2);
        assert!(exchange(&mut connect(&proxy), b"again, and longer").is_ok(), "only once");
        door.close();
    }

    #[test]
    fn it_holds_hangs_refuses_and_restores() {
        let (door, proxy) = echo();
        let mut stream = connect(&proxy);
        assert!(exchange(&mut stream, b"one").is_ok());
        wait::until("the answer is counted", || {
            (proxy.passed_bytes(Direction::ToClient) == 3).then_some(())
        });
        proxy.hold(Direction::ToClient);
        stream.write_all(b"two").expect("still connected");
        wait::until("the request has passed", || {
            (proxy.passed_bytes(Direction::ToUpstream) == 6).then_some(())
        });
        proxy.hang();
        let mut hung = connect(&proxy);
        wait::until("it is accepted", || (proxy.connections() == 2).then_some(()));
        proxy.refuse();
        let refused = TcpStream::connect(proxy.address()).expect_err("it refuses");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(proxy.passed_bytes(Direction::ToClient), 3, "held back");
        proxy.restore();
        let mut answer = [0; 3];
        stream.read_exact(&mut answer).expect("what was held comes");
        assert_eq!(&answer, b"two");
        assert!(exchange(&mut hung, b"x").is_err(), "what hung is reset");
        assert!(exchange(&mut connect(&proxy), b"fine").is_ok());
        proxy.cut_all();
        assert!(exchange(&mut stream, b"three").is_err());
        door.close();
    }

    #[test]
    fn equal_seeds_draw_equal_bytes() {
        let draw = |seed| {
            let proxy = Proxy::start(seed);
            [(); 8].map(|()| proxy.strike_below(Direction::ToClient, 10_000, Fault::Cut))
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
