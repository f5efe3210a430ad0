//! A legacy backend: a cluster of endpoints, a pool of connections a shard, HTTP/1.1 calls.
//!
//! **Runs on: shard**; each shard has its own, and nothing of it crosses threads. Names are resolved
//! by control: endpoints come as addresses. Invariants: leased and idle connections together are
//! never more than `connections`; every wait has a deadline; a request whose work could be done twice
//! is never repeated here.
//!
//! A call waits for its turn, takes an idle connection of the endpoint that is next or makes one,
//! and has its request and response go side by side. **Repeating**: when a connection that had
//! carried a request before breaks or closes before any byte of the response, and the request is
//! idempotent (RFC 9110 §9.2.2) or the caller says so, the request goes out once more on a fresh
//! connection; that the upstream closed it as idle is the likely reason.

mod endpoints;
mod error;
mod lease;
mod permits;

pub use error::{Cause, Error, Fault};
pub use lease::{Head, Headers, Lease};

use crate::buf::Outgoing;
use crate::limits;
use crate::rt::{self, Stream};
use bytes::Bytes;
use endpoints::{Counted, Endpoints};
use lease::{Connection, Slot};
use permits::{Permits, Refused};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::Poll;
use trine_proto::http1::{BodyLength, Header, write_request_head};

/// What an upstream is. Times in milliseconds.
#[derive(Clone, Debug)]
pub struct Options {
    /// The Host of every request: a name or address, with a port if it isn't 80.
    pub host: String,
    /// Where it is served, at least one.
    pub endpoints: Vec<SocketAddr>,
    /// Connections of one shard, leased and idle, at least one.
    pub connections: usize,
    /// Calls of one shard that may wait for a connection.
    pub waiting: usize,
    /// How long a call waits for a connection.
    pub wait_ms: u64,
    /// How long one connect may take.
    pub connect_ms: u64,
    /// How long a connection in use may neither send nor receive.
    pub inactivity_ms: u64,
    /// How long a connection is kept unused.
    pub idle_ms: u64,
    /// How long a whole call may take, with its waits.
    pub call_ms: u64,
    /// How long an endpoint is skipped after a connect to it failed.
    pub backoff_ms: u64,
    /// A lease held longer is named by [`Upstream::report`] and [`Upstream::take_overdue`].
    pub lease_ms: u64,
    /// Bytes of a response's body that [`Upstream::call`] takes.
    pub response_bytes: usize,
}

impl Options {
    /// These endpoints with all limits as `limits.rs` has them.
    pub fn new(host: impl Into<String>, endpoints: Vec<SocketAddr>) -> Self {
        Self {
            host: host.into(),
            endpoints,
            connections: limits::UPSTREAM_CONNECTIONS,
            waiting: limits::UPSTREAM_WAITING,
            wait_ms: limits::UPSTREAM_WAIT_MS,
            connect_ms: limits::UPSTREAM_CONNECT_MS,
            inactivity_ms: limits::UPSTREAM_INACTIVITY_MS,
            idle_ms: limits::UPSTREAM_IDLE_MS,
            call_ms: limits::UPSTREAM_CALL_MS,
            backoff_ms: limits::UPSTREAM_BACKOFF_MS,
            lease_ms: limits::UPSTREAM_LEASE_MS,
            response_bytes: limits::UPSTREAM_RESPONSE_BYTES,
        }
    }
}

/// What [`Upstream::call`] sends.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The method, case-sensitive.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Fields without Host, Content-Length and Transfer-Encoding.
    pub headers: &'a [Header<'a>],
    /// The body, perhaps empty.
    pub body: Bytes,
    /// Whether doing it twice is as good as once: it may then be repeated.
    pub idempotent: bool,
}

impl<'a> Request<'a> {
    /// A request without fields and body; idempotent if its method is (RFC 9110 §9.2.2).
    pub fn new(method: &'a str, target: &'a str) -> Self {
        let known = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];
        let idempotent = known.contains(&method);
        Self { method, target, headers: &[], body: Bytes::new(), idempotent }
    }
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Response {
    /// 200 to 599.
    pub status: u16,
    /// The fields in the order received.
    pub headers: Headers,
    /// The body, at most `response_bytes`.
    pub body: Bytes,
}

/// What there is and what has happened, for the shard's metrics.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Connections in someone's hands, those being made included.
    pub leased: usize,
    /// Connections kept for later.
    pub idle: usize,
    /// Calls that wait for a connection.
    pub waiting: usize,
    /// Endpoints that are skipped now.
    pub failing: Vec<SocketAddr>,
    /// Leases held longer than `lease_ms`: by whom, and for how many milliseconds.
    pub overdue: Vec<(Rc<str>, u64)>,
    /// What has been counted since the start.
    pub totals: Totals,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Leases asked for, by calls and directly.
    pub leases: u64,
    /// Leases refused since too many waited, or for too long.
    pub refused: u64,
    /// Connects tried.
    pub connects: u64,
    /// Connects that failed.
    pub connect_failures: u64,
    /// Leases served by a connection that was there.
    pub reused: u64,
    /// Requests sent a second time.
    pub repeated: u64,
    /// Idle connections closed since nobody needed them.
    pub expired: u64,
}

/// An upstream on one shard.
pub struct Upstream {
    options: Options,
    endpoints: RefCell<Endpoints>,
    permits: Rc<Permits>,
    held: RefCell<Slab<Held>>,
    /// Oldest first.
    idle: RefCell<Vec<Idle>>,
    expiring: Cell<bool>,
    totals: Cell<Totals>,
    itself: Weak<Upstream>,
}

struct Held {
    holder: Rc<str>,
    since_ms: u64,
    /// [`Upstream::take_overdue`] has named it.
    named: bool,
}

struct Idle {
    stream: Stream,
    to: Counted,
    until_ms: u64,
}

impl Upstream {
    /// Connects to nothing yet.
    pub fn new(options: Options) -> Rc<Self> {
        assert!(!options.endpoints.is_empty() && options.connections > 0);
        Rc::new_cyclic(|itself| Self {
            endpoints: RefCell::new(Endpoints::new(&options.endpoints)),
            permits: Permits::new(options.connections, options.waiting),
            held: RefCell::default(),
            idle: RefCell::default(),
            expiring: Cell::new(false),
            totals: Cell::default(),
            itself: itself.clone(),
            options,
        })
    }

    /// Sends `request` and waits for the whole response, whatever its status. `holder` is who is
    /// named if this never ends. May be dropped while it waits; the request may be done or not.
    pub async fn call(&self, holder: &Rc<str>, request: Request<'_>) -> Result<Response, Error> {
        let mut head = Vec::new();
        let length = match (request.body.len(), request.method) {
            (0, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "DELETE") => BodyLength::None,
            (len, _) => BodyLength::Length(len as u64),
        };
        let Request { method, target, headers, .. } = request;
        write_request_head(&mut head, method, target, &self.options.host, headers, length)
            .map_err(|error| Error::new(Cause::Request(error), None))?;
        let head = Bytes::from(head);
        let deadline_ms = rt::now_ms() + self.options.call_ms;
        let result = rt::until(deadline_ms, self.call_once_or_twice(holder, &head, &request)).await;
        let late = || Err(Error::new(Cause::CallTimeout, None));
        result.unwrap_or_else(late).map_err(|mut error| {
            error.retry |= request.idempotent && error.is_unanswered();
            error
        })
    }

    /// Waits for a connection, for callers that relay bodies themselves.
    ///
    /// Errors: [`Cause::QueueFull`], [`Cause::WaitTimeout`], [`Cause::NoEndpoint`],
    /// [`Cause::Connect`].
    pub async fn lease(&self, holder: &Rc<str>) -> Result<Lease, Error> {
        self.count(|totals| totals.leases += 1);
        let now_ms = rt::now_ms();
        let permit = self.permits.acquire(now_ms + self.options.wait_ms).await;
        let permit = permit.map_err(|refused| {
            self.count(|totals| totals.refused += 1);
            let cause = match refused {
                Refused::QueueFull => Cause::QueueFull,
                Refused::Deadline => Cause::WaitTimeout,
            };
            Error::new(cause, None)
        })?;
        let held = Held { holder: holder.clone(), since_ms: rt::now_ms(), named: false };
        let entry = self.held.borrow_mut().insert(held);
        let upstream = self.itself.upgrade().expect("`self` is alive");
        let slot = Slot { upstream, entry, _permit: permit };
        Ok(Lease::new(self.connection(false).await?, slot))
    }

    /// What there is now.
    pub fn report(&self) -> Report {
        let now_ms = rt::now_ms();
        let held = self.held.borrow();
        let age_ms = |held: &Held| now_ms.saturating_sub(held.since_ms);
        Report {
            leased: self.leased(),
            idle: self.idle.borrow().len(),
            waiting: self.permits.waiting(),
            failing: (self.endpoints.borrow().all().iter())
                .filter(|endpoint| endpoint.failing_until_ms > now_ms)
                .map(|endpoint| endpoint.address)
                .collect(),
            overdue: (held.iter().map(|(_, held)| (held.holder.clone(), age_ms(held))))
                .filter(|&(_, age_ms)| age_ms > self.options.lease_ms)
                .collect(),
            totals: self.totals.get(),
        }
    }

    /// Leases held longer than `lease_ms`, each once: by whom, and for how many milliseconds.
    pub fn take_overdue(&self) -> Vec<(Rc<str>, u64)> {
        let (now_ms, limit_ms) = (rt::now_ms(), self.options.lease_ms);
        let mut held = self.held.borrow_mut();
        let overdue = held.iter_mut().filter_map(|(_, held)| {
            let age_ms = now_ms.saturating_sub(held.since_ms);
            if age_ms <= limit_ms || std::mem::replace(&mut held.named, true) {
                return None;
            }
            Some((held.holder.clone(), age_ms))
        });
        overdue.collect()
    }

    async fn call_once_or_twice(
        &self,
        holder: &Rc<str>,
        head: &Bytes,
        request: &Request<'_>,
    ) -> Result<Response, Error> {
        let mut lease = self.lease(holder).await?;
        let error = match self.exchange(&lease, head, request).await {
            Err(error) if error.is_lost() => error,
            result => return result,
        };
        if !lease.is_reused() || lease.has_received() || !request.idempotent {
            return Err(error);
        }
        self.count(|totals| totals.repeated += 1);
        lease.replace(self.connection(true).await?);
        self.exchange(&lease, head, request).await
    }

    /// One request and its response. The response is read while the request is sent: an upstream may
    /// answer before it has read everything.
    async fn exchange(
        &self,
        lease: &Lease,
        head: &Bytes,
        request: &Request<'_>,
    ) -> Result<Response, Error> {
        let mut send = pin!(send(lease, head, &request.body));
        let mut receive = pin!(self.response(lease, request.method));
        let mut sending = true;
        let result = poll_fn(|cx| {
            if sending && let Poll::Ready(result) = send.as_mut().poll(cx) {
                sending = false;
                // A failed send shows on the receiving side too, unless a response came first.
                drop(result);
            }
            receive.as_mut().poll(cx)
        })
        .await;
        // The answer to a whole request may be seen a moment before the end of its sending is, and
        // the connection is as good as any then.
        if sending && result.is_ok() {
            rt::until(rt::now_ms() + limits::TIMER_SLOT_MS, send).await;
        }
        result
    }

    async fn response(&self, lease: &Lease, method: &str) -> Result<Response, Error> {
        let Head { status, headers, body: length } = lease.head(method).await?;
        if status == 101 {
            return Err(lease.error(Cause::Switched));
        }
        let limit = self.options.response_bytes;
        let too_large = || lease.error(Cause::TooLarge(status));
        if matches!(length, BodyLength::Length(len) if len > limit as u64) {
            return Err(too_large());
        }
        // A body that comes in one piece is not copied.
        let (mut body, mut more) = (Bytes::new(), Vec::new());
        while let Some(piece) = lease.body().await? {
            if body.len() + more.len() + piece.len() > limit {
                return Err(too_large());
            }
            if body.is_empty() {
                body = piece;
            } else {
                more.extend_from_slice(&piece);
            }
        }
        if !more.is_empty() {
            body = [&body[..], &more].concat().into();
        }
        Ok(Response { status, headers, body })
    }

    /// An idle connection, unless a fresh one is asked for, or a new one. Each endpoint is tried
    /// once: a failed connect has sent nothing.
    async fn connection(&self, fresh: bool) -> Result<Connection, Error> {
        let mut last = None;
        for _ in 0..self.options.endpoints.len() {
            let picked = self.endpoints.borrow_mut().pick(rt::now_ms());
            // Where nothing can be connected to, what is open still serves.
            if !fresh && let Some(Idle { stream, to, .. }) = self.take_idle(picked.ok()) {
                self.count(|totals| totals.reused += 1);
                return Ok(Connection::new(stream, to, true));
            }
            let endpoint = match picked {
                Ok(endpoint) => endpoint,
                Err(at_ms) => {
                    return Err(last.unwrap_or_else(|| Error::new(Cause::NoEndpoint(at_ms), None)));
                }
            };
            self.make_room();
            match self.connect(endpoint).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("there is at least one endpoint"))
    }

    async fn connect(&self, endpoint: usize) -> Result<Connection, Error> {
        let address = self.endpoints.borrow().address(endpoint);
        self.count(|totals| totals.connects += 1);
        let until_ms = rt::now_ms() + self.options.connect_ms;
        let to = self.endpoints.borrow_mut().connecting(endpoint, until_ms);
        match rt::connect(address, until_ms).await {
            Ok(stream) => {
                self.endpoints.borrow_mut().connected(endpoint);
                Ok(Connection::new(stream, to, false))
            }
            Err(error) => {
                self.count(|totals| totals.connect_failures += 1);
                let until_ms = rt::now_ms() + self.options.backoff_ms;
                self.endpoints.borrow_mut().failed(endpoint, until_ms);
                Err(Error::new(Cause::Connect(error), Some(address)))
            }
        }
    }

    /// The idle connection of `endpoint` that was used last; of any where none is named, or where no
    /// more can be made and the endpoint has its share.
    fn take_idle(&self, endpoint: Option<usize>) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        // What the upstream has closed, or said something on unasked, is of no use.
        idle.retain(|idle| idle.stream.is_quiet());
        let own = |endpoint| idle.iter().rposition(|idle| idle.to.endpoint == endpoint);
        let Options { connections, endpoints, .. } = &self.options;
        let has_share = |endpoint| {
            self.leased() + idle.len() > *connections
                && self.endpoints.borrow().open(endpoint) >= connections / endpoints.len()
        };
        let at = endpoint.and_then(own).or_else(|| {
            let any = endpoint.is_none_or(has_share);
            any.then(|| idle.len().checked_sub(1)).flatten()
        })?;
        Some(idle.remove(at))
    }

    /// Closes the oldest idle connection if the one to be made would be one too many.
    fn make_room(&self) {
        let mut idle = self.idle.borrow_mut();
        if self.leased() + idle.len() > self.options.connections {
            idle.remove(0);
        }
    }

    fn leased(&self) -> usize {
        self.options.connections - self.permits.free()
    }

    /// Takes back a connection that can be used again.
    fn keep(&self, stream: Stream, to: Counted) {
        let until_ms = rt::now_ms() + self.options.idle_ms;
        self.idle.borrow_mut().push(Idle { stream, to, until_ms });
        if !self.expiring.replace(true) {
            rt::spawn(expire(self.itself.clone()));
        }
    }

    fn count(&self, change: impl FnOnce(&mut Totals)) {
        let mut totals = self.totals.get();
        change(&mut totals);
        self.totals.set(totals);
    }
}

/// Closes idle connections when their time is over; lives as long as there are any.
async fn expire(upstream: Weak<Upstream>) {
    let mut wake_ms = rt::now_ms();
    loop {
        rt::sleep_until(wake_ms).await;
        let Some(upstream) = upstream.upgrade() else { return };
        let mut idle = upstream.idle.borrow_mut();
        let over = idle.iter().take_while(|idle| idle.until_ms <= rt::now_ms()).count();
        idle.drain(..over);
        upstream.count(|totals| totals.expired += over as u64);
        match idle.first() {
            Some(oldest) => wake_ms = oldest.until_ms,
            None => {
                upstream.expiring.set(false);
                return;
            }
        }
    }
}

/// A whole request, in pieces whose progress can be seen.
async fn send(lease: &Lease, head: &Bytes, body: &Bytes) -> Result<(), Error> {
    let mut rest = body.clone();
    let first = rest.split_to(rest.len().min(limits::UPSTREAM_PIECE_BYTES));
    let pieces = match first.is_empty() {
        true => Outgoing::Shared(head.clone()),
        false => Outgoing::Gathered(vec![head.clone(), first]),
    };
    lease.send(pieces, rest.is_empty()).await?;
    while !rest.is_empty() {
        let piece = rest.split_to(rest.len().min(limits::UPSTREAM_PIECE_BYTES));
        lease.send(Outgoing::Shared(piece), rest.is_empty()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
