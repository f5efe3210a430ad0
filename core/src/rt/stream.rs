//! A connected socket: receives into pooled chunks, sends lists of `Bytes` at the turn's end.
//!
//! **Runs on: shard.** At most one receive and one send are in flight on a stream at a time; the
//! caller keeps the latter: one [`super::Sent`] for each [`Stream::send`] before the next, or one
//! awaited [`Stream::write`] before the next. A stream is sent to in one of the two ways only.

use super::local::{self, Queued};
use super::sends::{Flight, Report};
use crate::buf::{Chunk, Outgoing};
use crate::limits::RECEIVES_IN_A_ROW;
use monoio::io::AsyncWriteRent;
use monoio::net::TcpStream;
use rustix::net::{RecvFlags, Shutdown};
use std::cell::{Cell, RefCell, UnsafeCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// A cheap handle to a connected socket; the socket closes when the last handle and the last
/// operation are gone.
#[derive(Clone)]
pub struct Stream(Rc<Inner>);

struct Inner {
    tcp: UnsafeCell<TcpStream>,
    /// The last receive filled its chunk, so the next one gets a large one.
    large: Cell<bool>,
    /// Receives since the last one that had to wait.
    in_a_row: Cell<u8>,
    aborted: Cell<bool>,
    taken: Cell<u32>,
    write: RefCell<Write>,
}

/// Where the one send of [`Stream::write`] stands.
#[derive(Default)]
enum Write {
    #[default]
    Idle,
    /// Queued or in flight, and the task that waits for it.
    Underway(Option<Waker>),
    /// Over, and nobody has asked yet.
    Done(io::Result<()>),
}

impl Stream {
    pub(super) fn new(tcp: TcpStream) -> Self {
        let (tcp, write) = (UnsafeCell::new(tcp), RefCell::default());
        let (large, in_a_row, aborted) = (Cell::new(false), Cell::new(0), Cell::new(false));
        let taken = Cell::new(0);
        Self(Rc::new(Inner { tcp, large, in_a_row, aborted, taken, write }))
    }

    /// A stream over a connected socket that came from another shard, whatever its driver, or from
    /// another process.
    pub fn from_fd(socket: OwnedFd) -> io::Result<Self> {
        suit_driver(&socket)?;
        TcpStream::from_std(socket.into()).map(Self::new)
    }

    /// Waits for bytes and returns them in a chunk of the pool; `None` at the end of the stream.
    /// May be dropped while it waits: nothing is received before the wait has ended.
    #[expect(
        clippy::manual_async_fn,
        reason = "every idle connection waits in here, and an async fn keeps its arguments twice"
    )]
    pub fn recv(&self) -> impl Future<Output = io::Result<Option<Chunk>>> {
        async move {
            loop {
                if self.0.in_a_row.get() == RECEIVES_IN_A_ROW {
                    self.0.in_a_row.set(0);
                    local::give_way().await;
                }
                {
                    // With epoll there is no wait while a peer is fast enough, and then no other
                    // socket gets its turn; with a ring there always is one.
                    let mut readable = pin!(self.tcp().readable(false));
                    let mut has_waited = false;
                    poll_fn(|cx| {
                        // Of epoll a wake says enough; monoio would ask the socket again.
                        if has_waited && monoio::utils::is_legacy() {
                            return Poll::Ready(Ok(()));
                        }
                        let readable = readable.as_mut().poll(cx);
                        if readable.is_pending() {
                            self.0.in_a_row.set(0);
                            has_waited = true;
                        }
                        readable
                    })
                    .await?;
                }
                // The kernel still gives what has come and comes: a peer could go on without end.
                if self.0.aborted.get() {
                    return Ok(None);
                }
                let mut chunk = Chunk::take(self.0.large.get());
                let spare = rustix::buffer::spare_capacity(chunk.vec_mut());
                match rustix::net::recv(self.fd(), spare, RecvFlags::DONTWAIT) {
                    Ok((_, 0)) => return Ok(None),
                    Ok(_) => {
                        self.0.large.set(chunk.is_full());
                        self.0.in_a_row.update(|count| count + 1);
                        return Ok(Some(chunk));
                    }
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }

    /// Sends at the end of this turn; [`super::Turn::next_sent`] later reports `token`. The next
    /// send of this stream may be started only then.
    pub fn send(&self, token: u32, outgoing: Outgoing) {
        local::queue(Queued { report: Report::Hook(token), stream: self.clone(), outgoing });
    }

    /// Sends at the end of this turn, together with all other sends, and resolves when the kernel
    /// has taken every byte. It is queued by the call itself; dropping the future only ends the
    /// waiting, the send goes on.
    ///
    /// Errors: the connection is gone; `ResourceBusy` while an earlier write is underway (its
    /// future was dropped), and then nothing of this one is sent.
    pub fn write(&self, outgoing: Outgoing) -> impl Future<Output = io::Result<()>> + use<> {
        let mut state = self.0.write.borrow_mut();
        let busy = matches!(*state, Write::Underway(_));
        if !busy && !outgoing.is_empty() {
            *state = Write::Underway(None);
            let (report, stream) = (Report::Writer(self.clone()), self.clone());
            local::queue(Queued { report, stream, outgoing });
        } else {
            outgoing.recycle();
            if !busy {
                *state = Write::Done(Ok(()));
            }
        }
        drop(state);
        let stream = self.clone();
        poll_fn(move |cx| {
            if busy {
                return Poll::Ready(Err(io::ErrorKind::ResourceBusy.into()));
            }
            let mut state = stream.0.write.borrow_mut();
            match std::mem::take(&mut *state) {
                Write::Done(result) => Poll::Ready(result),
                Write::Underway(_) => {
                    *state = Write::Underway(Some(cx.waker().clone()));
                    Poll::Pending
                }
                Write::Idle => unreachable!("one write at a time, polled only until it has ended"),
            }
        })
    }

    /// The send of [`Stream::write`] has ended.
    pub(super) fn written(&self, result: io::Result<()>) {
        if let Write::Underway(Some(waker)) = self.0.write.replace(Write::Done(result)) {
            waker.wake();
        }
    }

    /// Bytes of sends that the kernel has taken since [`Stream::count_anew`], or more than fit.
    pub fn taken(&self) -> u32 {
        self.0.taken.get()
    }

    /// Counts what the kernel takes from 0.
    pub fn count_anew(&self) {
        self.0.taken.set(0);
    }

    /// Whether the peer has neither ended the connection nor sent anything that is unread.
    pub fn is_quiet(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = rustix::net::recv(self.fd(), &mut [0u8; 1], flags);
        matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }

    /// Says that nothing more will be sent; the peer sees the end of the stream.
    pub fn shutdown(&self) {
        let _ = rustix::net::shutdown(self.fd(), Shutdown::Write);
    }

    /// Ends both directions now: a receive in flight sees the end, a send in flight an error.
    pub fn abort(&self) {
        self.0.aborted.set(true);
        let _ = rustix::net::shutdown(self.fd(), Shutdown::Both);
    }

    /// Whether it was aborted: nothing is received or sent any more.
    pub fn is_aborted(&self) -> bool {
        self.0.aborted.get()
    }

    /// The socket itself, to hand it to another shard. Only right after accept, before the first
    /// operation: `None` (and the socket stays here) once another handle or an operation exists.
    pub fn into_fd(self) -> Result<OwnedFd, Self> {
        let inner = Rc::try_unwrap(self.0).map_err(Self)?;
        let fd = inner.tcp.into_inner().into_raw_fd();
        // SAFETY: `into_raw_fd` gave up ownership of this descriptor.
        #[allow(unsafe_code)]
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// The number of its descriptor.
    pub fn number(&self) -> i32 {
        self.fd().as_raw_fd()
    }

    /// The peer's address.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        Ok(rustix::net::getpeername(self.fd())?
            .ok_or(io::ErrorKind::NotConnected)?
            .try_into()
            .map_err(|_| io::ErrorKind::Unsupported)?)
    }

    fn tcp(&self) -> &TcpStream {
        // SAFETY: the only `&mut` to it is taken by `send_all`, which monoio uses for the
        // descriptor alone (`TcpStream` declares itself safe to split into a reading and a
        // writing half), and the cell never moves or changes while handles exist.
        #[allow(unsafe_code)]
        unsafe {
            &*self.0.tcp.get()
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor stays open as long as `self` does.
        #[allow(unsafe_code)]
        unsafe {
            BorrowedFd::borrow_raw(self.tcp().as_raw_fd())
        }
    }
}

/// Makes a socket as the driver's own are: with a ring a send that can't go on waits there and must
/// not come back with EAGAIN; with epoll it must not hold up the shard.
pub(super) fn suit_driver(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(socket, monoio::utils::is_legacy())?)
}

/// Sends all of `flight`, going on after short writes.
pub(super) async fn send_all(stream: Stream, mut flight: Flight) -> (Flight, io::Result<()>) {
    loop {
        // SAFETY: one send is in flight on a stream at a time (the contract of `Stream::send`),
        // so this is the only `&mut`; see `Stream::tcp` for the shared one beside it.
        #[allow(unsafe_code)]
        let tcp = unsafe { &mut *stream.0.tcp.get() };
        let gathered = flight.is_gathered();
        let (result, back) =
            if gathered { tcp.writev(flight).await } else { tcp.write(flight).await };
        flight = back;
        let taken = *result.as_ref().unwrap_or(&0);
        stream.0.taken.set(stream.0.taken.get().saturating_add(taken as u32));
        match result {
            Ok(0) => return (flight, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) if flight.advance(count) => return (flight, Ok(())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (flight, Err(error)),
        }
    }
}
