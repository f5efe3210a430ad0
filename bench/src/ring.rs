//! A single-threaded io_uring loop for the load tool and the floor server:
//! multishot accept and receive with provided buffers, at most one send a
//! connection and turn, one enter a turn.
//!
//! **Runs on: any** (one thread owns a `Net`).
//!
//! Invariants: a connection's id is given again only when nothing of it is in
//! flight; bytes in flight are not moved or freed until the kernel is done.
#![allow(unsafe_code)] // the ring takes raw pointers; each block says why they hold

use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use std::{io, mem, ptr, slice};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

/// Receive buffers given to the kernel; a power of two.
const BUFFERS: u16 = 1024;
const BUFFER_BYTES: usize = 2048;
const SUBMISSIONS: u32 = 2048;
const COMPLETIONS: u32 = 16384;
const BACKLOG: i32 = 4096;
const POOLED_BUFFERS: usize = 4096;
const GET_EVENTS: u32 = 1;

const ACCEPT: u64 = 1;
const RECEIVE: u64 = 2;
const SEND: u64 = 3;
const TIMER: u64 = 4;
const OTHER: u64 = 5;

/// What runs on the loop.
pub trait Handler {
    /// A connection was accepted.
    fn accepted(&mut self, _net: &mut Net, _connection: u32) {}
    /// Bytes came; the handler may change them in place.
    fn received(&mut self, net: &mut Net, connection: u32, bytes: &mut [u8]);
    /// The connection is gone. Its id may be given to another one next.
    fn closed(&mut self, net: &mut Net, connection: u32);
    /// The timer of [`Net::tick_every`] fired.
    fn tick(&mut self, _net: &mut Net) {}
    /// All completions of a turn are handled; output goes out after this.
    fn turn(&mut self, net: &mut Net) -> Wait;
}

/// What the loop does when a turn is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Look again at once, never sleep.
    Spin,
    /// Sleep until something completes.
    Forever,
    /// Sleep until something completes or this long.
    For(Duration),
    /// End the loop.
    Stop,
}

/// Bytes queued for one connection.
#[derive(Default)]
enum Output {
    #[default]
    Empty,
    Shared(Rc<[u8]>),
    Flat(Vec<u8>),
}

impl Output {
    fn bytes(&self) -> &[u8] {
        match self {
            Output::Empty => &[],
            Output::Shared(bytes) => bytes,
            Output::Flat(bytes) => bytes,
        }
    }
}

struct Connection {
    fd: i32,
    queued: Output,
    flight: Output,
    flight_offset: usize,
    failed: Option<i32>,
    sending: bool,
    receiving: bool,
    dirty: bool,
    closing: bool,
}

/// The loop's sockets.
pub struct Net {
    ring: IoUring,
    buffers: *mut u8,
    buffer_ring: *mut types::BufRingEntry,
    tail: u16,
    connections: Vec<Connection>,
    free: Vec<u32>,
    dirty: Vec<u32>,
    quick: Vec<u32>,
    pool: Vec<Vec<u8>>,
    accept: Option<squeue::Entry>,
    timer: types::Timespec,
    busy: Duration,
    reset_at_end: bool,
}

impl Net {
    /// Sets up the ring and its receive buffers on the calling thread, and
    /// raises the soft limit of open files to the hard one.
    pub fn new() -> io::Result<Net> {
        raise_fd_limit();
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        builder.setup_cqsize(COMPLETIONS);
        let ring: IoUring = builder.build(SUBMISSIONS)?;
        let buffer_ring = map(usize::from(BUFFERS) * 16)?.cast::<types::BufRingEntry>();
        // SAFETY: the mapping is page-aligned, BUFFERS entries long and never unmapped.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(buffer_ring as u64, BUFFERS, 0, 0)?;
        }
        let buffers = map(usize::from(BUFFERS) * BUFFER_BYTES)?;
        let mut net = Net {
            ring,
            buffers,
            buffer_ring,
            tail: 0,
            connections: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            quick: Vec::new(),
            pool: Vec::new(),
            accept: None,
            timer: types::Timespec::new(),
            busy: Duration::ZERO,
            reset_at_end: false,
        };
        for buffer in 0..BUFFERS {
            net.give_back(buffer);
        }
        net.publish_buffers();
        Ok(net)
    }

    /// Accepts on an address; says which (port 0 is chosen by the kernel).
    pub fn listen(&mut self, address: SocketAddrV4) -> io::Result<SocketAddrV4> {
        let fd = socket()?;
        set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
        set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY)?; // accepted sockets inherit it
        bind(fd, address)?;
        // SAFETY: plain system call on an own descriptor.
        check(unsafe { libc::listen(fd, BACKLOG) })?;
        let accept = opcode::AcceptMulti::new(types::Fd(fd)).flags(libc::SOCK_CLOEXEC).build();
        let accept = accept.user_data(ACCEPT << 56);
        self.push(&accept);
        self.accept = Some(accept);
        local_address(fd)
    }

    /// Connects from a local address (its port is the kernel's choice). On
    /// loopback this is done when it returns, whatever the server does, unless
    /// its accept queue is full.
    pub fn connect(&mut self, from: Ipv4Addr, to: SocketAddrV4) -> io::Result<u32> {
        let fd = socket()?;
        set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY)?;
        set_option(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT)?;
        if self.reset_at_end {
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            set(fd, libc::SOL_SOCKET, libc::SO_LINGER, &linger)?;
        }
        bind(fd, SocketAddrV4::new(from, 0))?;
        let name = socket_address(to);
        // SAFETY: `name` is a sockaddr_in that outlives the call.
        let result =
            unsafe { libc::connect(fd, ptr::from_ref(&name).cast(), size_of_val(&name) as u32) };
        if let Err(error) = check(result) {
            // SAFETY: closes an own descriptor that nothing else knows.
            unsafe { libc::close(fd) };
            return Err(error);
        }
        Ok(self.adopt(fd))
    }

    /// Connections made from now on end with a reset, so that they leave no
    /// TIME-WAIT behind in the kernel's memory.
    pub fn reset_at_end(&mut self) {
        self.reset_at_end = true;
    }

    /// Calls [`Handler::tick`] at this interval.
    pub fn tick_every(&mut self, interval: Duration) {
        self.timer = timespec(interval);
        let timer = opcode::Timeout::new(&raw const self.timer);
        let timer = timer.flags(types::TimeoutFlags::MULTISHOT).build();
        self.push(&timer.user_data(TIMER << 56));
        // The kernel reads the interval when it takes the entry.
        self.ring.submit().expect("submit a timer");
    }

    /// The connection's output buffer to append to.
    pub fn output(&mut self, connection: u32) -> &mut Vec<u8> {
        self.mark(connection);
        let pool = &mut self.pool;
        let queued = &mut self.connections[connection as usize].queued;
        if !matches!(queued, Output::Flat(_)) {
            let mut flat = pool.pop().unwrap_or_default();
            flat.extend_from_slice(queued.bytes());
            *queued = Output::Flat(flat);
        }
        match queued {
            Output::Flat(flat) => flat,
            _ => unreachable!("just made flat"),
        }
    }

    /// Queues bytes that several connections share. Copied only if other bytes
    /// are queued already.
    pub fn write_shared(&mut self, connection: u32, bytes: &Rc<[u8]>) {
        let queued = &mut self.connections[connection as usize].queued;
        if matches!(queued, Output::Empty) {
            *queued = Output::Shared(Rc::clone(bytes));
            self.mark(connection);
        } else {
            self.output(connection).extend_from_slice(bytes);
        }
    }

    /// Bytes waiting to be sent, those in flight left out.
    pub fn queued_bytes(&self, connection: u32) -> usize {
        self.connections[connection as usize].queued.bytes().len()
    }

    /// Ends a connection; what is queued may be lost. `closed` follows.
    pub fn close(&mut self, connection: u32) {
        let c = &mut self.connections[connection as usize];
        if c.fd >= 0 && !mem::replace(&mut c.closing, true) {
            // Not through the ring: there it runs on a worker thread, which looks
            // the descriptor up when it may be another connection's already.
            // SAFETY: plain system call on an own descriptor.
            unsafe { libc::shutdown(c.fd, libc::SHUT_RDWR) };
        }
    }

    /// Time spent in turns that had something to do, system calls included.
    pub fn busy(&self) -> Duration {
        self.busy
    }

    /// Runs until the handler says stop.
    pub fn run(&mut self, handler: &mut impl Handler) -> io::Result<()> {
        let mut completions = Vec::with_capacity(COMPLETIONS as usize);
        loop {
            let wait = handler.turn(self);
            self.flush();
            if wait == Wait::Stop {
                return Ok(());
            }
            let start = Instant::now();
            self.enter(wait)?;
            let all = self.ring.completion();
            completions.extend(all.map(|c| (c.user_data(), c.result(), c.flags())));
            if wait == Wait::Spin && completions.is_empty() && self.quick.is_empty() {
                continue;
            }
            self.settle_quick_sends(&completions);
            for (data, result, flags) in completions.drain(..) {
                self.complete(handler, data, result, flags);
            }
            self.publish_buffers();
            self.busy += start.elapsed();
        }
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let result = match wait {
            Wait::Forever => self.ring.submit_and_wait(1).map(|_| ()),
            Wait::For(duration) => {
                let limit = timespec(duration);
                let arguments = types::SubmitArgs::new().timespec(&limit);
                self.ring.submitter().submit_with_args(1, &arguments).map(|_| ())
            }
            Wait::Spin | Wait::Stop => {
                let submission = self.ring.submission();
                let (count, work) = (submission.len() as u32, submission.taskrun());
                drop(submission);
                if count == 0 && !work {
                    std::hint::spin_loop();
                    return Ok(());
                }
                // SAFETY: no argument is passed along with the entries.
                let entered =
                    unsafe { self.ring.submitter().enter::<()>(count, 0, GET_EVENTS, None) };
                entered.map(|_| ())
            }
        };
        match result.map_err(|e| (e.raw_os_error(), e)) {
            Ok(()) => Ok(()),
            Err((Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN), _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
    }

    fn complete(&mut self, handler: &mut impl Handler, data: u64, result: i32, flags: u32) {
        let connection = data as u32;
        match data >> 56 {
            RECEIVE => self.receive_completed(handler, connection, result, flags),
            SEND => self.send_completed(handler, connection, result),
            ACCEPT => {
                if result >= 0 {
                    let connection = self.adopt(result);
                    handler.accepted(self, connection);
                }
                if !cqueue::more(flags)
                    && let Some(accept) = self.accept.clone()
                {
                    self.push(&accept);
                }
            }
            TIMER => handler.tick(self),
            _ => {}
        }
    }

    fn receive_completed(
        &mut self,
        handler: &mut impl Handler,
        connection: u32,
        result: i32,
        flags: u32,
    ) {
        if let Some(buffer) = cqueue::buffer_select(flags) {
            let length = result.max(0) as usize;
            assert!(length <= BUFFER_BYTES && buffer < BUFFERS);
            if length > 0 {
                // SAFETY: the kernel filled this buffer and does not touch it until it
                // is given back; nothing else refers to it.
                let bytes = unsafe {
                    let start = self.buffers.add(usize::from(buffer) * BUFFER_BYTES);
                    slice::from_raw_parts_mut(start, length)
                };
                handler.received(self, connection, bytes);
            }
            self.give_back(buffer);
        }
        if cqueue::more(flags) {
            return;
        }
        if result > 0 || result == -libc::ENOBUFS {
            self.publish_buffers();
            self.arm(connection);
        } else {
            self.connections[connection as usize].receiving = false;
            self.release(handler, connection);
        }
    }

    /// Frees a connection once neither receive nor send is in flight.
    fn release(&mut self, handler: &mut impl Handler, connection: u32) {
        let c = &mut self.connections[connection as usize];
        if c.receiving || c.sending || c.fd < 0 {
            return;
        }
        let close = opcode::Close::new(types::Fd(c.fd)).build();
        c.fd = -1;
        handler.closed(self, connection);
        let c = &mut self.connections[connection as usize];
        let (queued, flight) = (mem::take(&mut c.queued), mem::take(&mut c.flight));
        if mem::take(&mut c.dirty) {
            self.dirty.retain(|&other| other != connection);
        }
        self.recycle(queued);
        self.recycle(flight);
        self.push(&close.flags(squeue::Flags::SKIP_SUCCESS).user_data(OTHER << 56));
        self.free.push(connection);
    }

    fn adopt(&mut self, fd: i32) -> u32 {
        let fresh = Connection {
            fd,
            queued: Output::Empty,
            flight: Output::Empty,
            flight_offset: 0,
            failed: None,
            sending: false,
            receiving: true,
            dirty: false,
            closing: false,
        };
        let connection = match self.free.pop() {
            Some(connection) => {
                self.connections[connection as usize] = fresh;
                connection
            }
            None => {
                self.connections.push(fresh);
                self.connections.len() as u32 - 1
            }
        };
        self.arm(connection);
        connection
    }

    fn arm(&mut self, connection: u32) {
        let fd = types::Fd(self.connections[connection as usize].fd);
        let entry = opcode::RecvMulti::new(fd, 0).build();
        self.push(&entry.user_data(RECEIVE << 56 | u64::from(connection)));
    }

    fn mark(&mut self, connection: u32) {
        let c = &mut self.connections[connection as usize];
        if !mem::replace(&mut c.dirty, true) {
            self.dirty.push(connection);
        }
    }

    /// One send for each connection that has output and none in flight. A send
    /// that succeeds at once posts no completion.
    fn flush(&mut self) {
        let mut dirty = mem::take(&mut self.dirty);
        for connection in dirty.drain(..) {
            let c = &mut self.connections[connection as usize];
            c.dirty = false;
            if c.sending || c.closing || c.fd < 0 || matches!(c.queued, Output::Empty) {
                continue;
            }
            c.flight = mem::take(&mut c.queued);
            c.flight_offset = 0;
            self.quick.push(connection);
            self.send(connection, true);
        }
        self.dirty = dirty;
    }

    fn send(&mut self, connection: u32, quick: bool) {
        let c = &self.connections[connection as usize];
        let bytes = &c.flight.bytes()[c.flight_offset..];
        let mut flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        if quick {
            flags |= libc::MSG_DONTWAIT;
        }
        let send = opcode::Send::new(types::Fd(c.fd), bytes.as_ptr(), bytes.len() as u32);
        let mut entry = send.flags(flags).build().user_data(SEND << 56 | u64::from(connection));
        if quick {
            entry = entry.flags(squeue::Flags::SKIP_SUCCESS);
        }
        self.push(&entry);
    }

    /// Quick sends without a completion after the enter are done; the others
    /// failed or were short, and their completions are among these.
    fn settle_quick_sends(&mut self, completions: &[(u64, i32, u32)]) {
        if self.quick.is_empty() {
            return;
        }
        for &(data, result, _) in completions {
            if data >> 56 == SEND {
                self.connections[data as u32 as usize].failed = Some(result);
            }
        }
        let mut quick = mem::take(&mut self.quick);
        for connection in quick.drain(..) {
            let c = &mut self.connections[connection as usize];
            if c.failed.is_some() {
                c.sending = true;
            } else {
                let flight = mem::take(&mut c.flight);
                self.recycle(flight);
            }
        }
        self.quick = quick;
    }

    fn send_completed(&mut self, handler: &mut impl Handler, connection: u32, result: i32) {
        let c = &mut self.connections[connection as usize];
        c.failed = None;
        c.sending = false;
        if result < 0 && result != -libc::EAGAIN {
            // The receive tells that the connection is gone.
            let flight = mem::take(&mut c.flight);
            self.recycle(flight);
            return self.release(handler, connection);
        }
        c.flight_offset += result.max(0) as usize;
        if c.flight_offset < c.flight.bytes().len() && c.receiving {
            c.sending = true;
            return self.send(connection, false);
        }
        let flight = mem::take(&mut c.flight);
        let more = !matches!(c.queued, Output::Empty);
        self.recycle(flight);
        if !self.connections[connection as usize].receiving {
            return self.release(handler, connection);
        }
        if more {
            self.mark(connection);
        }
    }

    fn recycle(&mut self, output: Output) {
        if let Output::Flat(mut bytes) = output
            && self.pool.len() < POOLED_BUFFERS
        {
            bytes.clear();
            self.pool.push(bytes);
        }
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: what the entry points to lives in the connection's `flight`
            // (or the fields of `self`) until its completion is taken.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            let _ = self.ring.submit(); // full: make room; errors come as completions
        }
    }

    fn give_back(&mut self, buffer: u16) {
        // SAFETY: the index is masked to the ring's length; the kernel reads the entry
        // only after the tail is published.
        unsafe {
            let entry = &mut *self.buffer_ring.add(usize::from(self.tail & (BUFFERS - 1)));
            entry.set_addr(self.buffers.add(usize::from(buffer) * BUFFER_BYTES) as u64);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish_buffers(&self) {
        // SAFETY: the tail is a u16 in the ring's first entry, shared with the kernel
        // by atomic stores.
        unsafe {
            let tail = types::BufRingEntry::tail(self.buffer_ring).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

fn timespec(duration: Duration) -> types::Timespec {
    types::Timespec::new().sec(duration.as_secs()).nsec(duration.subsec_nanos())
}

fn map(length_bytes: usize) -> io::Result<*mut u8> {
    // SAFETY: a fresh anonymous mapping.
    let address = unsafe {
        libc::mmap(
            ptr::null_mut(),
            length_bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address.cast()) }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn socket() -> io::Result<i32> {
    // SAFETY: plain system call.
    check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })
}

fn set_option(fd: i32, level: i32, name: i32) -> io::Result<()> {
    set(fd, level, name, &1i32)
}

fn set<T>(fd: i32, level: i32, name: i32, value: &T) -> io::Result<()> {
    let length = size_of_val(value) as u32;
    // SAFETY: `value` outlives the call and has the length given.
    check(unsafe { libc::setsockopt(fd, level, name, ptr::from_ref(value).cast(), length) })?;
    Ok(())
}

fn socket_address(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

fn bind(fd: i32, address: SocketAddrV4) -> io::Result<()> {
    let name = socket_address(address);
    // SAFETY: `name` is a sockaddr_in that outlives the call.
    check(unsafe { libc::bind(fd, ptr::from_ref(&name).cast(), size_of_val(&name) as u32) })?;
    Ok(())
}

fn local_address(fd: i32) -> io::Result<SocketAddrV4> {
    let mut name = socket_address(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
    let mut length = size_of_val(&name) as u32;
    // SAFETY: both pointers are to locals of the right size.
    check(unsafe { libc::getsockname(fd, ptr::from_mut(&mut name).cast(), &raw mut length) })?;
    let ip = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
    Ok(SocketAddrV4::new(ip, u16::from_be(name.sin_port)))
}

fn raise_fd_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a local of the right type.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}
