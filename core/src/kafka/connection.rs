//! One connection to a broker: requests out in order, responses in, each with a deadline.
//!
//! **Runs on: shard.** Pipelined: a broker answers in the order of the requests, and a response that
//! is not the oldest request's ends the connection. What a turn submits leaves in one send. When the
//! connection ends every unanswered request is told why, once; a request that is not answered by its
//! deadline ends it too. Invariants: nothing waits inside [`Connection::submit`]; a reply is called
//! without any borrow held.

use super::collect::{Body, Collector};
use super::sasl::{self, Sasl};
use crate::buf::{Chunk, Outbox};
use crate::limits::{KAFKA_LOOK_MS, KAFKA_UNANSWERED};
use crate::rt::{self, Notify, Stream};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use trine_proto::kafka::frame::{self, Api, Request};
use trine_proto::kafka::{self, ErrorCode, api_versions};

/// A broker's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The host as it is named, for errors.
    pub host: Rc<str>,
    /// The port.
    pub port: u16,
    /// Where it is.
    pub address: SocketAddr,
}

/// How to talk to brokers.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The client id of each request, for the broker's log and quotas.
    pub client_id: String,
    /// Milliseconds for connecting, and again for what a connection begins with.
    pub connect_timeout_ms: u64,
    /// Milliseconds after which an unanswered request ends the connection.
    pub request_timeout_ms: u64,
    /// Credentials, if brokers ask for them.
    pub sasl: Option<Sasl>,
}

/// Why a connection ended, or could not be made.
#[derive(Debug)]
pub struct Error {
    /// The host as it was named.
    pub host: Rc<str>,
    /// The port.
    pub port: u16,
    /// What happened.
    pub what: What,
}

/// What happened to a connection.
#[derive(Debug)]
pub enum What {
    /// Nobody has resolved the host's name.
    Unresolved,
    /// It could not be made.
    Connect(io::Error),
    /// The broker closed it.
    Closed,
    /// It was closed here.
    ClosedHere,
    /// It broke.
    Broken(io::Error),
    /// A request of this API was not answered in time.
    TimedOut(&'static str),
    /// What came is no response, or none that can be read.
    Malformed(kafka::Error),
    /// A response to another request than the oldest.
    Mixed,
    /// Too many requests wait for answers.
    Overloaded,
    /// The broker and this client have no version of this API in common.
    NoVersion(&'static str),
    /// The broker refuses a request of this API.
    Refused(&'static str, ErrorCode),
    /// The credentials were not accepted.
    Sasl(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kafka broker {}:{}: ", self.host, self.port)?;
        match &self.what {
            What::Unresolved => f.write_str("its name is not resolved"),
            What::Connect(error) => write!(f, "can't connect: {error}"),
            What::Closed => f.write_str("it closed the connection"),
            What::ClosedHere => f.write_str("the connection was closed here"),
            What::Broken(error) => write!(f, "the connection broke: {error}"),
            What::TimedOut(api) => write!(f, "no answer to {api} in time"),
            What::Malformed(error) => write!(f, "{error}"),
            What::Mixed => f.write_str("it answers another request than the oldest"),
            What::Overloaded => f.write_str("too many requests wait for its answers"),
            What::NoVersion(api) => write!(f, "no version of {api} that both sides know"),
            What::Refused(api, code) => write!(f, "it refuses {api}: {code}"),
            What::Sasl(why) => write!(f, "SASL: {why}"),
        }
    }
}

impl std::error::Error for Error {}

/// Gets the body of a response, or why there is none.
pub type Reply = Box<dyn FnOnce(Result<Body<'_>, &Rc<Error>>)>;

struct Unanswered {
    correlation_id: i32,
    api: &'static str,
    deadline_ms: u64,
    reply: Reply,
}

type Write = Pin<Box<dyn Future<Output = io::Result<()>>>>;

/// A connection to a broker.
pub struct Connection {
    endpoint: Endpoint,
    client_id: String,
    request_timeout_ms: u64,
    stream: Stream,
    versions: RefCell<Option<api_versions::Response>>,
    next_correlation_id: Cell<i32>,
    unanswered: RefCell<VecDeque<Unanswered>>,
    outbox: RefCell<Outbox>,
    /// A send is underway; the writing task waits for its end.
    is_writing: Cell<bool>,
    write: RefCell<Option<Write>>,
    writer: Notify,
    ended: RefCell<Option<Rc<Error>>>,
    end: Notify,
}

impl Connection {
    /// Connects, learns the broker's versions and authenticates. `nonce` is a random text for SCRAM.
    ///
    /// # Errors
    /// What happened, with the broker's place.
    pub async fn open(
        endpoint: Endpoint,
        settings: &Settings,
        nonce: &str,
    ) -> Result<Rc<Self>, Rc<Error>> {
        let error = |what| {
            let (host, port) = (endpoint.host.clone(), endpoint.port);
            Rc::new(Error { host, port, what })
        };
        let deadline_ms = rt::now_ms() + settings.connect_timeout_ms;
        let stream = rt::connect(endpoint.address, deadline_ms).await;
        let stream = stream.map_err(|cause| error(What::Connect(cause)))?;
        let connection = Rc::new(Self {
            endpoint,
            client_id: settings.client_id.clone(),
            request_timeout_ms: settings.connect_timeout_ms,
            stream,
            versions: RefCell::default(),
            next_correlation_id: Cell::new(1),
            unanswered: RefCell::default(),
            outbox: RefCell::default(),
            is_writing: Cell::new(false),
            write: RefCell::default(),
            writer: Notify::new(),
            ended: RefCell::default(),
            end: Notify::new(),
        });
        rt::spawn(read(connection.clone()));
        rt::spawn(write(connection.clone()));
        let begun = connection.begin(settings, nonce).await;
        match begun {
            Ok(()) => Ok(connection),
            Err(error) => {
                connection.close();
                Err(error)
            }
        }
    }

    async fn begin(&self, settings: &Settings, nonce: &str) -> Result<(), Rc<Error>> {
        let request = api_versions::Request {
            software_name: "trine",
            software_version: env!("CARGO_PKG_VERSION"),
        };
        let body = self.request_in(&request, api_versions::API.max).await?;
        let mut response = self.read(&request, &body, api_versions::API.max)?;
        if response.error == ErrorCode::UNSUPPORTED_VERSION {
            let body = self.request_in(&request, 0).await?;
            response = self.read(&request, &body, 0)?;
        }
        if !response.error.is_none() {
            return Err(self.error(What::Refused(api_versions::API.name, response.error)));
        }
        *self.versions.borrow_mut() = Some(response);
        match &settings.sasl {
            Some(sasl) => sasl::authenticate(self, sasl, nonce).await,
            None => Ok(()),
        }
    }

    /// The highest version of an API that both sides know.
    pub fn version(&self, api: &Api) -> Option<i16> {
        self.versions.borrow().as_ref()?.version(api)
    }

    /// Sends one request, which `write` appends to the outbox whole, given its correlation id and
    /// the client id. `reply` is called later, or at once when the connection has ended.
    pub fn submit(
        &self,
        api: &'static str,
        timeout_ms: u64,
        reply: Reply,
        write: impl FnOnce(&mut Outbox, i32, &str),
    ) {
        let ended = self.ended.borrow().clone();
        let is_full = self.unanswered.borrow().len() >= KAFKA_UNANSWERED;
        if let Some(error) = ended.or_else(|| is_full.then(|| self.error(What::Overloaded))) {
            return reply(Err(&error));
        }
        let correlation_id = self.next_correlation_id.get();
        self.next_correlation_id.set(correlation_id.wrapping_add(1));
        let deadline_ms = rt::now_ms() + timeout_ms;
        let unanswered = Unanswered { correlation_id, api, deadline_ms, reply };
        self.unanswered.borrow_mut().push_back(unanswered);
        write(&mut self.outbox.borrow_mut(), correlation_id, &self.client_id);
        self.pump();
    }

    /// Sends a request in the best version and waits for its response's body; the version is needed
    /// to read it, by [`frame::read`].
    ///
    /// # Errors
    /// The connection has ended, or the broker does not know the API.
    pub async fn request<R: Request>(&self, request: &R) -> Result<(Bytes, i16), Rc<Error>> {
        let version = self.version(&R::API);
        let version = version.ok_or_else(|| self.error(What::NoVersion(R::API.name)))?;
        Ok((self.request_in(request, version).await?, version))
    }

    async fn request_in<R: Request>(&self, request: &R, version: i16) -> Result<Bytes, Rc<Error>> {
        type Answer = Rc<(RefCell<Option<Result<Bytes, Rc<Error>>>>, Notify)>;
        let answer = Answer::default();
        let place = answer.clone();
        let reply = Box::new(move |result: Result<Body<'_>, &Rc<Error>>| {
            *place.0.borrow_mut() = Some(result.map(Body::into_bytes).map_err(Rc::clone));
            place.1.notify();
        });
        self.submit(R::API.name, self.request_timeout_ms, reply, |outbox, id, client_id| {
            let mut bytes = Vec::new();
            frame::write(&mut bytes, request, version, id, client_id);
            outbox.push_shared(&bytes.into());
        });
        // No deadline of its own: the connection ends at the request's, and that is an answer.
        loop {
            answer.1.wait().await;
            if let Some(result) = answer.0.take() {
                return result;
            }
        }
    }

    /// Reads the body of a response to a request like this one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read<'b, R: Request>(
        &self,
        _: &R,
        body: &'b [u8],
        version: i16,
    ) -> Result<R::Response<'b>, Rc<Error>> {
        frame::read::<R>(body, version).map_err(|error| self.error(What::Malformed(error)))
    }

    /// An error of this connection's broker.
    pub fn error(&self, what: What) -> Rc<Error> {
        let Endpoint { host, port, .. } = &self.endpoint;
        Rc::new(Error { host: host.clone(), port: *port, what })
    }

    /// Ends the connection; what is unanswered is told so.
    pub fn close(&self) {
        self.fail(What::ClosedHere);
    }

    /// Ends the connection for a reason.
    pub fn fail(&self, what: What) {
        if self.ended.borrow().is_some() {
            return;
        }
        let error = self.error(what);
        *self.ended.borrow_mut() = Some(error.clone());
        self.stream.abort();
        self.outbox.borrow_mut().clear();
        while let Some(unanswered) = self.pop() {
            (unanswered.reply)(Err(&error));
        }
        self.writer.notify();
        self.end.notify();
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Waits for the end; one task may.
    pub async fn ended(&self) -> Rc<Error> {
        loop {
            if let Some(error) = &*self.ended.borrow() {
                return error.clone();
            }
            self.end.wait().await;
        }
    }

    fn pop(&self) -> Option<Unanswered> {
        self.unanswered.borrow_mut().pop_front()
    }

    /// Starts the next send, if there is something to send and none is underway.
    fn pump(&self) {
        if self.is_writing.get() || self.has_ended() {
            return;
        }
        if let Some(outgoing) = self.outbox.borrow_mut().take() {
            self.is_writing.set(true);
            *self.write.borrow_mut() = Some(Box::pin(self.stream.write(outgoing)));
            self.writer.notify();
        }
    }

    fn received(&self, collector: &mut Collector, chunk: Chunk) -> Result<(), What> {
        let mut mixed = false;
        let result = collector.take(chunk, |correlation_id, body| {
            let oldest = self.pop();
            mixed = oldest.as_ref().is_none_or(|oldest| oldest.correlation_id != correlation_id);
            match oldest {
                Some(oldest) if !mixed => (oldest.reply)(Ok(body)),
                Some(oldest) => self.unanswered.borrow_mut().push_front(oldest),
                None => {}
            }
            !mixed && !self.has_ended()
        });
        result.map_err(What::Malformed)?;
        if mixed { Err(What::Mixed) } else { Ok(()) }
    }

    /// The API of the oldest request, if its deadline has passed.
    fn overdue(&self) -> Option<&'static str> {
        let now_ms = rt::now_ms();
        let unanswered = self.unanswered.borrow();
        unanswered.front().filter(|oldest| oldest.deadline_ms <= now_ms).map(|oldest| oldest.api)
    }
}

async fn read(connection: Rc<Connection>) {
    let mut collector = Collector::default();
    let what = loop {
        // Requests come meanwhile, so their deadlines are looked at now and then.
        let oldest_ms = connection.unanswered.borrow().front().map(|oldest| oldest.deadline_ms);
        let look_ms = rt::now_ms() + KAFKA_LOOK_MS;
        let until_ms = oldest_ms.map_or(look_ms, |oldest_ms| oldest_ms.min(look_ms));
        let received = rt::until(until_ms, connection.stream.recv()).await;
        if connection.has_ended() {
            return;
        }
        let result = match received {
            None => Ok(()),
            Some(Ok(Some(chunk))) => connection.received(&mut collector, chunk),
            Some(Ok(None)) => Err(What::Closed),
            Some(Err(error)) => Err(What::Broken(error)),
        };
        if let Err(what) = result {
            break what;
        }
        if let Some(api) = connection.overdue() {
            break What::TimedOut(api);
        }
    };
    connection.fail(what);
}

async fn write(connection: Rc<Connection>) {
    while !connection.has_ended() {
        let write = connection.write.take();
        let Some(write) = write else {
            connection.writer.wait().await;
            continue;
        };
        let result = write.await;
        connection.is_writing.set(false);
        match result {
            Ok(()) => connection.pump(),
            Err(error) => connection.fail(What::Broken(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// What opening a connection says of a peer that reads the first request and then does this.
    fn opened(peer: impl FnOnce(std::net::TcpStream, [u8; 4]) + Send + 'static) -> String {
        opened_within(20_000, peer)
    }

    fn opened_within(
        timeout_ms: u64,
        peer: impl FnOnce(std::net::TcpStream, [u8; 4]) + Send + 'static,
    ) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).unwrap();
            peer(stream, [head[8], head[9], head[10], head[11]]);
        });
        let said: Rc<RefCell<String>> = Rc::default();
        let place = said.clone();
        let start = move |_: &rt::Driver| {
            rt::spawn(async move {
                let endpoint = Endpoint { host: "kafka-7".into(), port: 9092, address };
                let settings = Settings {
                    client_id: "test".to_owned(),
                    connect_timeout_ms: timeout_ms,
                    request_timeout_ms: timeout_ms,
                    sasl: None,
                };
                *place.borrow_mut() = match Connection::open(endpoint, &settings, "nonce").await {
                    Ok(connection) => {
                        let version = connection.version(&kafka::metadata::API);
                        format!("open, Metadata {version:?}, then: {}", connection.ended().await)
                    }
                    Err(error) => error.to_string(),
                };
                rt::stop();
            });
        };
        rt::run(rt::Preference::IoUring, start, |_| {}).unwrap();
        peer.join().unwrap();
        said.take()
    }

    fn response(id: [u8; 4], body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32 + 4).to_be_bytes(), &id[..], body].concat()
    }

    #[test]
    fn a_broker_is_asked_for_its_versions_also_an_old_one() {
        let said = opened(|mut stream, id| {
            // It does not know the version: it answers in version 0 and names its own.
            let versions = [0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 2];
            stream.write_all(&response(id, &versions)).unwrap();
            let mut rest = [0; 256];
            let mut seen = Vec::new();
            while !seen.windows(4).any(|bytes| bytes == [0, 18, 0, 0]) {
                let count = stream.read(&mut rest).unwrap();
                assert!(count > 0, "it asks again in version 0");
                seen.extend_from_slice(&rest[..count]);
            }
            let versions = [0, 0, 0, 0, 0, 2, 0, 3, 0, 0, 0, 7, 0, 0, 0, 3, 0, 8];
            stream.write_all(&response([0, 0, 0, 2], &versions)).unwrap();
        });
        let expected =
            "open, Metadata Some(7), then: Kafka broker kafka-7:9092: it closed the connection";
        assert_eq!(said, expected);
    }

    #[test]
    fn an_error_names_the_broker_and_what_happened() {
        let tls = opened(|mut stream, _| stream.write_all(b"\x15\x03\x03\0\x02\x02\x46").unwrap());
        assert!(tls.starts_with("Kafka broker kafka-7:9092: ") && tls.contains("TLS"), "{tls}");
        let http = opened(|mut stream, _| stream.write_all(b"HTTP/1.1 400 Bad Request").unwrap());
        assert!(http.contains("HTTP"), "{http}");
        let closed = opened(|_, _| ());
        assert!(closed.contains("closed") || closed.contains("reset"), "{closed}");
        let mixed = opened(|mut stream, _| stream.write_all(&response([9; 4], &[0; 6])).unwrap());
        assert!(mixed.contains("another request"), "{mixed}");
        let silent = opened_within(300, |mut stream, _| {
            // Until it is given up.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        assert!(silent.contains("no answer to ApiVersions in time"), "{silent}");
    }
}
