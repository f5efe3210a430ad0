//! Upstreams against real servers, good and bad ones, on both drivers.
//!
//! **Runs on: any** (each test is its own shard; servers are threads of their own).

use super::*;
use crate::rt::{Preference, now_ms, sleep_until, until};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use trine_proto::http1::{self, LAST_CHUNK, write_chunk};

/// The server's end of a connection.
struct Peer {
    /// How many connections the server had before this one.
    number: usize,
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Peer {
    /// The next request's head and body; `None` when the connection has ended.
    fn request(&mut self) -> Option<(String, Vec<u8>)> {
        let head = self.head()?;
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.reader.read_exact(&mut body).ok()?;
        Some((head, body))
    }

    fn head(&mut self) -> Option<String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        Some(head)
    }

    /// A client that has gone is no error of the server.
    fn say(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Waits for the client to close.
    fn wait_for_end(&mut self) {
        while self.reader.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
    }
}

struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A server that runs `serve` on a thread for each connection.
fn server(serve: impl Fn(&mut Peer) + Send + Sync + 'static) -> Server {
    serve_on(TcpListener::bind("127.0.0.1:0").unwrap(), serve)
}

fn serve_on(listener: TcpListener, serve: impl Fn(&mut Peer) + Send + Sync + 'static) -> Server {
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let (count, serve) = (connections.clone(), Arc::new(serve));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let number = count.fetch_add(1, Ordering::SeqCst);
            let reader = BufReader::new(stream.try_clone().unwrap());
            let serve = serve.clone();
            thread::spawn(move || serve(&mut Peer { number, stream, reader }));
        }
    });
    Server { address, connections }
}

/// A server that gives the same answer to every request, on connections that stay.
fn answering(answer: &'static str) -> Server {
    server(move |peer| while peer.request().is_some() && peer.say(answer) {})
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Runs the task that `test` makes alone on a shard, with each driver.
fn on_both<F: Future<Output = ()> + 'static>(test: impl Fn() -> F) {
    for preference in [Preference::IoUring, Preference::Epoll] {
        let task = test();
        let ended = Rc::new(Cell::new(false));
        let end = ended.clone();
        let start = move |_: &rt::Driver| {
            rt::spawn(async move {
                task.await;
                end.set(true);
                rt::stop();
            });
        };
        rt::run(preference, start, |_| {}).unwrap();
        assert!(ended.get());
    }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline_ms = now_ms() + 20_000;
    while !condition() {
        assert!(now_ms() < deadline_ms, "{what} never came");
        sleep_until(now_ms() + 1).await;
    }
}

fn options(servers: &[&Server]) -> Options {
    Options::new("legacy.example", servers.iter().map(|server| server.address).collect())
}

fn upstream(server: &Server) -> Rc<Upstream> {
    Upstream::new(options(&[server]))
}

async fn call(upstream: &Upstream, request: Request<'_>) -> Result<Response, Error> {
    upstream.call(&Rc::from("test"), request).await
}

async fn get(upstream: &Upstream) -> Result<Response, Error> {
    call(upstream, Request::new("GET", "/")).await
}

fn post(body: impl Into<Bytes>) -> Request<'static> {
    Request { body: body.into(), ..Request::new("POST", "/") }
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn a_connection_serves_many_calls() {
    on_both(|| async {
        let server = server(|peer| {
            while let Some((head, body)) = peer.request() {
                let echo = [head.as_bytes(), &body].concat();
                peer.say(format!(
                    "HTTP/1.1 201 Made\r\nX: y\r\nContent-Length: {}\r\n\r\n",
                    echo.len()
                ));
                peer.say(echo);
            }
        });
        let upstream = upstream(&server);
        for number in 0..20 {
            let text = format!("body {number}");
            let headers = [Header { name: "A", value: b"b" }];
            let request = Request { headers: &headers, ..post(text.clone()) };
            let response = call(&upstream, request).await.unwrap();
            assert_eq!(response.status, 201);
            assert_eq!(response.headers.get("x").unwrap(), "y");
            assert_eq!(response.headers.iter().count(), 2);
            let head = "POST / HTTP/1.1\r\nHost: legacy.example\r\nA: b\r\nContent-Length: ";
            assert_eq!(response.body, format!("{head}{}\r\n\r\n{text}", text.len()));
        }
        assert_eq!(server.connections(), 1);
        let report = upstream.report();
        assert_eq!((report.leased, report.idle, report.waiting), (0, 1, 0));
        let totals = Totals { leases: 20, connects: 1, reused: 19, ..Totals::default() };
        assert_eq!(report.totals, totals);
    });
}

#[test]
fn every_form_of_response_is_read() {
    on_both(|| async {
        for (method, answer, status, body) in [
            ("GET", OK, 200, "ok"),
            (
                "GET",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\no,\r\n1\r\nk\r\n0\r\nT: u\r\n\r\n",
                200,
                "o,k",
            ),
            (
                "GET",
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: a\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\nx",
                404,
                "x",
            ),
            ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", 200, ""),
            ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
            ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", 304, ""),
            ("PUT", "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", 500, ""),
        ] {
            let server = answering(answer);
            let upstream = upstream(&server);
            for _ in 0..3 {
                let response = call(&upstream, Request::new(method, "/")).await.unwrap();
                assert_eq!((response.status, &response.body[..]), (status, body.as_bytes()));
            }
            assert_eq!(server.connections(), 1, "{answer}");
        }
        // Until the end, and byte by byte.
        let slow = server(|peer| {
            peer.request();
            for byte in b"HTTP/1.0 200 OK\r\n\r\nall of it" {
                peer.say([*byte]);
                thread::yield_now();
            }
        });
        let upstream = upstream(&slow);
        for _ in 0..3 {
            assert_eq!(get(&upstream).await.unwrap().body, "all of it");
        }
        assert_eq!((slow.connections(), upstream.report().idle), (3, 0));
    });
}

#[test]
fn connections_that_end_are_not_used_again() {
    on_both(|| async {
        for answer in [
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            // What comes after the response answers nothing.
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
        ] {
            let server = answering(answer);
            let upstream = upstream(&server);
            for calls in 1..=3 {
                assert_eq!(get(&upstream).await.unwrap().body, "ok");
                // The surplus may come after the connection went back to the pool.
                let gone = || upstream.idle.borrow().iter().all(|idle| !idle.stream.is_quiet());
                eventually("the end", gone).await;
                assert_eq!(server.connections(), calls);
            }
        }
        // One that closes without a word is found out before it is used.
        let server = server(|peer| {
            peer.request();
            peer.say(OK);
        });
        let upstream = upstream(&server);
        for _ in 0..3 {
            assert_eq!(call(&upstream, post("")).await.unwrap().body, "ok");
            let closed = || upstream.idle.borrow().iter().all(|idle| !idle.stream.is_quiet());
            eventually("the close", closed).await;
        }
        assert_eq!(upstream.report().totals.repeated, 0);
    });
}

/// A server whose first connection breaks at its second request, before an answer.
fn breaking() -> Server {
    server(|peer| {
        let mut count = 0;
        while peer.request().is_some() {
            count += 1;
            if peer.number == 0 && count == 2 {
                return;
            }
            peer.say(OK);
        }
    })
}

#[test]
fn a_reused_connection_that_breaks_is_tried_once_more_if_that_does_no_harm() {
    on_both(|| async {
        let server = breaking();
        let safe = upstream(&server);
        get(&safe).await.unwrap();
        assert_eq!(get(&safe).await.unwrap().body, "ok");
        assert_eq!((server.connections(), safe.report().totals.repeated), (2, 1));
        assert_eq!(safe.report().idle, 1);

        let server = breaking();
        let unsafe_ = upstream(&server);
        call(&unsafe_, post("a")).await.unwrap();
        let error = call(&unsafe_, post("b")).await.unwrap_err();
        assert!(error.is_lost() && !error.retry, "{error}");
        assert_eq!(error.fault(), Fault::Upstream);
        assert_eq!(error.endpoint, Some(server.address));
        assert_eq!((server.connections(), unsafe_.report().totals.repeated), (1, 0));

        let server = breaking();
        let said = upstream(&server);
        call(&said, post("a")).await.unwrap();
        let request = Request { idempotent: true, ..post("b") };
        assert_eq!(call(&said, request).await.unwrap().body, "ok");

        // A fresh connection that breaks is not tried again, and neither is an answer begun.
        let server = answering_then_closing("");
        let error = get(&upstream(&server)).await.unwrap_err();
        assert!(error.is_lost() && error.retry, "{error}");
        assert_eq!(server.connections(), 1);
    });
}

/// A server that closes each connection after this answer to its first request.
fn answering_then_closing(answer: &'static str) -> Server {
    server(move |peer| {
        peer.request();
        peer.say(answer);
    })
}

#[test]
fn half_responses_are_never_taken_for_whole_ones() {
    on_both(|| async {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Le",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
        ] {
            let server = answering_then_closing(answer);
            let upstream = upstream(&server);
            let error = get(&upstream).await.unwrap_err();
            assert!(matches!(error.cause, Cause::Closed), "{answer}: {error}");
            let report = upstream.report();
            assert_eq!((report.leased, report.idle, report.totals.repeated), (0, 0, 0));
        }
    });
}

#[test]
fn invalid_responses_are_errors_of_the_upstream() {
    on_both(|| async {
        for (answer, expect) in [
            ("SSH-2.0-OpenSSH_9\r\n\r\n", http1::Error::StatusLine),
            ("\x15\x03\x01\0\x02\x02\x46\r\n\r\n", http1::Error::ControlCharacter),
            ("HTTP/1.1 200 OK\n\n", http1::Error::BareLf),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
                http1::Error::ContentLength,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
                http1::Error::TransferEncoding,
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nok", http1::Error::Chunk),
        ] {
            let server = answering(answer);
            let upstream = upstream(&server);
            let error = get(&upstream).await.unwrap_err();
            let Cause::Response(found) = error.cause else { panic!("{answer}: {error}") };
            assert_eq!((found, error.retry), (expect, false));
            assert_eq!((error.fault(), upstream.report().idle), (Fault::Upstream, 0));
        }
        let endless = server(|peer| {
            peer.request();
            while peer.say(b"HTTP/1.1 200 OK\r\nX: ") && peer.say([b'x'; 4096]) {}
        });
        let error = get(&upstream(&endless)).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Response(http1::Error::HeadTooLarge)), "{error}");
        let interim = answering(
            "HTTP/1.1 102 a\r\n\r\nHTTP/1.1 102 a\r\n\r\nHTTP/1.1 102 a\r\n\r\nHTTP/1.1 102 a\r\n\r\n\
             HTTP/1.1 102 a\r\n\r\nHTTP/1.1 102 a\r\n\r\nHTTP/1.1 102 a\r\n\r\nHTTP/1.1 102 a\r\n\r\n\
             HTTP/1.1 102 a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        );
        let error = get(&upstream(&interim)).await.unwrap_err();
        assert!(matches!(error.cause, Cause::TooManyInterim), "{error}");
        let switching = answering("HTTP/1.1 101 Over\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n");
        let error = get(&upstream(&switching)).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Switched), "{error}");
    });
}

#[test]
fn bodies_over_the_limit_are_refused() {
    on_both(|| async {
        for head in ["Content-Length: 1001\r\n", "Transfer-Encoding: chunked\r\n", ""] {
            let server = server(move |peer| {
                peer.request();
                peer.say(format!("HTTP/1.1 200 OK\r\n{head}\r\n"));
                while peer.say("64\r\n") && peer.say([b'x'; 100]) && peer.say("\r\n") {}
            });
            let upstream = Upstream::new(Options { response_bytes: 1000, ..options(&[&server]) });
            let error = get(&upstream).await.unwrap_err();
            assert!(matches!(error.cause, Cause::TooLarge(200)) && !error.retry, "{error}");
            assert_eq!(upstream.report().idle, 0);
        }
        let server = answering(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1\r\n!\r\n0\r\n\r\n",
        );
        let upstream = Upstream::new(Options { response_bytes: 3, ..options(&[&server]) });
        assert_eq!(get(&upstream).await.unwrap().body, "ok!");
    });
}

#[test]
fn silent_and_endless_upstreams_end_at_their_deadline() {
    on_both(|| async {
        let (tell, ended) = mpsc::channel();
        let hanging = server(move |peer| {
            peer.request();
            peer.say("HTTP/1.1 200 OK\r\n");
            peer.wait_for_end();
            tell.send(()).unwrap();
        });
        let upstream = Upstream::new(Options { inactivity_ms: 30, ..options(&[&hanging]) });
        let error = get(&upstream).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Inactive) && error.retry, "{error}");
        let error = call(&upstream, post("a")).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Inactive) && !error.retry, "{error}");
        // Both connections are closed, not left behind.
        let left = Cell::new(2);
        eventually("the close", || {
            left.set(left.get() - ended.try_iter().count());
            left.get() == 0
        })
        .await;

        let trickling = server(|peer| {
            peer.request();
            peer.say("HTTP/1.1 200 OK\r\n\r\n");
            while peer.say("x") {
                thread::sleep(std::time::Duration::from_millis(2));
            }
        });
        let upstream = Upstream::new(Options { call_ms: 60, ..options(&[&trickling]) });
        let error = get(&upstream).await.unwrap_err();
        assert!(matches!(error.cause, Cause::CallTimeout), "{error}");
        assert_eq!(upstream.report().leased, 0);
    });
}

#[test]
fn request_and_response_go_side_by_side() {
    const BYTES: usize = 12 << 20;
    on_both(|| async {
        // More than the buffers hold is answered before the body is read: neither end may wait.
        let server = server(|peer| {
            while let Some(head) = peer.head() {
                assert!(head.contains(&format!("Content-Length: {BYTES}\r\n")), "{head}");
                peer.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n"));
                peer.say(vec![b'y'; BYTES]);
                let mut body = vec![0; BYTES];
                peer.reader.read_exact(&mut body).unwrap();
                assert!(body.iter().all(|&byte| byte == b'x'));
            }
        });
        let upstream = Upstream::new(Options { response_bytes: BYTES, ..options(&[&server]) });
        let response = call(&upstream, post(vec![b'x'; BYTES])).await.unwrap();
        assert!(response.body.len() == BYTES && response.body.iter().all(|&byte| byte == b'y'));
        // An answer that leaves the body unread.
        let (over, until_over) = mpsc::channel::<()>();
        let until_over = Mutex::new(until_over);
        let refusing = self::server(move |peer| {
            peer.head();
            peer.say("HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n");
            let _ = until_over.lock().unwrap().recv();
        });
        let upstream = self::upstream(&refusing);
        assert_eq!(call(&upstream, post(vec![b'x'; BYTES])).await.unwrap().status, 413);
        let report = upstream.report();
        assert_eq!((report.leased, report.idle), (0, 0), "the request did not end");
        drop(over);
    });
}

#[test]
fn a_request_that_cannot_be_sent_is_the_callers_fault() {
    on_both(|| async {
        let server = answering(OK);
        let upstream = upstream(&server);
        let headers = [Header { name: "A", value: b"b\r\nC: d" }];
        for request in [
            Request { headers: &headers, ..Request::new("GET", "/") },
            Request::new("GET", "/ HTTP/1.1\r\nA: b\r\n\r\n"),
            Request::new("GET /", "/"),
        ] {
            let error = call(&upstream, request).await.unwrap_err();
            assert!(matches!(error.cause, Cause::Request(_)) && !error.retry, "{error}");
            assert_eq!(error.fault(), Fault::Caller);
        }
        assert_eq!(server.connections(), 0);
    });
}

#[test]
fn endpoints_take_turns_and_dead_ones_are_skipped() {
    on_both(|| async {
        let (first, second) = (answering(OK), answering(OK));
        let mut options = options(&[&first, &second]);
        let dead = nobody();
        options.endpoints.insert(1, dead);
        options.backoff_ms = 60_000;
        let upstream = Upstream::new(options);
        let holder: Rc<str> = Rc::from("test");
        let mut turns = Vec::new();
        for _ in 0..6 {
            turns.push(upstream.lease(&holder).await.unwrap().endpoint());
        }
        assert_eq!(turns, [[first.address, second.address]; 3].concat());
        for _ in 0..6 {
            get(&upstream).await.unwrap();
        }
        let report = upstream.report();
        assert_eq!((report.failing, report.totals.connect_failures), (vec![dead], 1));
        assert_eq!(report.idle, 2);
    });
}

#[test]
fn an_endpoint_that_comes_back_is_used_again() {
    on_both(|| async {
        let address = nobody();
        let options = Options { backoff_ms: 40, ..Options::new("a", vec![address]) };
        let upstream = Upstream::new(options);
        let error = call(&upstream, post("a")).await.unwrap_err();
        let Cause::Connect(found) = &error.cause else { panic!("{error}") };
        assert_eq!(found.kind(), ErrorKind::ConnectionRefused);
        assert!(error.retry && error.fault() == Fault::Upstream);
        let error = call(&upstream, post("a")).await.unwrap_err();
        assert!(matches!(error.cause, Cause::NoEndpoint(_)) && error.retry, "{error}");
        assert_eq!(upstream.report().totals.connects, 1);
        serve_on(TcpListener::bind(address).unwrap(), |peer| {
            while peer.request().is_some() && peer.say(OK) {}
        });
        let deadline_ms = now_ms() + 20_000;
        while call(&upstream, post("a")).await.is_err() {
            assert!(now_ms() < deadline_ms);
            sleep_until(now_ms() + 1).await;
        }
        assert!(upstream.report().failing.is_empty());
    });
}

#[test]
fn a_connect_that_hangs_ends_at_its_deadline() {
    on_both(|| async {
        let full =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        let _queued = TcpStream::connect(address).unwrap();
        let options = Options { connect_ms: 30, ..Options::new("a", vec![address]) };
        let error = get(&Upstream::new(options)).await.unwrap_err();
        let Cause::Connect(found) = &error.cause else { panic!("{error}") };
        assert_eq!(found.kind(), ErrorKind::TimedOut);
    });
}

#[test]
fn calls_over_the_pools_size_wait_in_order_and_not_too_many_of_them() {
    on_both(|| async {
        let (go, may_answer) = mpsc::channel::<()>();
        let may_answer = Mutex::new(may_answer);
        let server = server(move |peer| {
            while let Some((_, body)) = peer.request() {
                may_answer.lock().unwrap().recv().unwrap();
                let text = String::from_utf8(body).unwrap();
                peer.say(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
                    text.len()
                ));
            }
        });
        let limits = Options { connections: 1, waiting: 3, wait_ms: 20_000, ..options(&[&server]) };
        let upstream = Upstream::new(limits);
        let done: Rc<RefCell<Vec<Bytes>>> = Rc::default();
        for number in 0..4 {
            let (upstream, done) = (upstream.clone(), done.clone());
            rt::spawn(async move {
                let response = call(&upstream, post(number.to_string())).await.unwrap();
                done.borrow_mut().push(response.body);
            });
        }
        eventually("the queue", || upstream.report().waiting == 3).await;
        let error = call(&upstream, post("x")).await.unwrap_err();
        assert!(matches!(error.cause, Cause::QueueFull) && error.retry, "{error}");
        assert_eq!(error.fault(), Fault::Internal);
        for count in 1..=4 {
            go.send(()).unwrap();
            eventually("an answer", || done.borrow().len() == count).await;
        }
        assert_eq!(done.take(), ["0", "1", "2", "3"]);
        assert_eq!(server.connections(), 1);
        let report = upstream.report();
        assert_eq!((report.leased, report.idle, report.totals.refused), (0, 1, 1));
    });
}

#[test]
fn waits_end_at_their_deadline_and_give_their_turn_on() {
    on_both(|| async {
        let server = answering(OK);
        let limits = Options { connections: 1, wait_ms: 30, ..options(&[&server]) };
        let upstream = Upstream::new(limits);
        let holder: Rc<str> = Rc::from("test");
        let lease = upstream.lease(&holder).await.unwrap();
        let error = get(&upstream).await.unwrap_err();
        assert!(matches!(error.cause, Cause::WaitTimeout) && error.retry, "{error}");
        assert_eq!((error.fault(), upstream.report().waiting), (Fault::Internal, 0));
        drop(lease);
        get(&upstream).await.unwrap();

        // Who is granted a permit and gives up before it wakes passes it on.
        let permits = Permits::new(1, 8);
        let permit = permits.acquire(0).await.ok().unwrap();
        let mut first = Box::pin(permits.acquire(now_ms() + 20_000));
        let mut second = Box::pin(permits.acquire(now_ms() + 20_000));
        poll_fn(|cx| {
            assert!(first.as_mut().poll(cx).is_pending() && second.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        assert_eq!(permits.waiting(), 2);
        drop(permit);
        drop(first);
        let permit = second.await.ok().unwrap();
        assert_eq!((permits.waiting(), permits.free()), (0, 0));
        drop(permit);
        assert_eq!(permits.free(), 1);
    });
}

#[test]
fn two_endpoints_share_the_pools_size() {
    on_both(|| async {
        let (first, second) = (answering(OK), answering(OK));
        let limits = Options { connections: 1, ..options(&[&first, &second]) };
        let upstream = Upstream::new(limits);
        for _ in 0..6 {
            get(&upstream).await.unwrap();
            let report = upstream.report();
            assert_eq!((report.leased, report.idle), (0, 1));
        }
        // The one that is open is used, rather than closed for the other's turn.
        assert_eq!(first.connections() + second.connections(), 1);
    });
}

#[test]
fn an_endpoint_that_is_back_gets_its_share_of_a_full_pool() {
    on_both(|| async {
        let (first, second) = (answering(OK), answering(OK));
        let limits = Options { connections: 2, ..options(&[&first, &second]) };
        let upstream = Upstream::new(limits);
        upstream.endpoints.borrow_mut().failed(0, u64::MAX);
        let (over, ended) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        for _ in 0..6 {
            let (upstream, over, ended) = (upstream.clone(), over.clone(), ended.clone());
            rt::spawn(async move {
                while !over.get() {
                    get(&upstream).await.unwrap();
                }
                ended.set(ended.get() + 1);
            });
        }
        eventually("a full pool", || second.connections() == 2).await;
        assert_eq!(first.connections(), 0);
        upstream.endpoints.borrow_mut().failed(0, 0);
        eventually("its share", || first.connections() == 1).await;
        over.set(true);
        eventually("the end", || ended.get() == 6).await;
        assert_eq!(second.connections(), 2, "nobody lost a share");
    });
}

#[test]
fn what_is_open_serves_while_nothing_can_be_connected_to() {
    on_both(|| async {
        let server = answering(OK);
        let upstream = upstream(&server);
        get(&upstream).await.unwrap();
        upstream.endpoints.borrow_mut().failed(0, u64::MAX);
        get(&upstream).await.unwrap();
        assert_eq!(server.connections(), 1);
    });
}

#[test]
fn unused_connections_are_closed_in_time() {
    on_both(|| async {
        let (tell, ended) = mpsc::channel();
        let server = server(move |peer| {
            while peer.request().is_some() && peer.say(OK) {}
            tell.send(()).unwrap();
        });
        let upstream = Upstream::new(Options { idle_ms: 20, ..options(&[&server]) });
        for round in 1..=2 {
            get(&upstream).await.unwrap();
            eventually("the expiry", || upstream.report().idle == 0).await;
            assert_eq!(upstream.report().totals.expired, round);
            eventually("the close", || ended.try_recv().is_ok()).await;
        }
        assert_eq!(server.connections(), 2);
    });
}

#[test]
fn a_lease_held_too_long_is_reported_with_its_holder() {
    on_both(|| async {
        let server = answering(OK);
        let upstream = Upstream::new(Options { lease_ms: 20, ..options(&[&server]) });
        let (leak, brief): (Rc<str>, Rc<str>) = (Rc::from("deliver qa"), Rc::from("brief"));
        let lease = upstream.lease(&leak).await.unwrap();
        let second = upstream.lease(&brief).await.unwrap();
        assert_eq!(upstream.report().leased, 2);
        drop(second);
        eventually("the report", || !upstream.report().overdue.is_empty()).await;
        let overdue = upstream.report().overdue;
        assert_eq!(overdue.len(), 1);
        assert!(&*overdue[0].0 == "deliver qa" && overdue[0].1 > 20);
        let news = || -> Vec<String> {
            upstream.take_overdue().iter().map(|(holder, _)| holder.to_string()).collect()
        };
        assert_eq!(news(), ["deliver qa"]);
        assert!(news().is_empty(), "it was named already");
        drop(lease);
        let report = upstream.report();
        assert!(report.overdue.is_empty() && report.leased == 0);
        // Another lease of the same holder, in the same place, is another leak.
        let lease = upstream.lease(&leak).await.unwrap();
        eventually("the next leak", || news() == ["deliver qa"]).await;
        drop(lease);
    });
}

#[test]
fn a_call_that_is_given_up_gives_its_connection_back() {
    on_both(|| async {
        let (tell, ended) = mpsc::channel();
        let hanging = server(move |peer| {
            peer.wait_for_end();
            tell.send(()).unwrap();
        });
        let upstream = Upstream::new(Options { connections: 1, ..options(&[&hanging]) });
        for _ in 0..3 {
            assert!(until(now_ms() + 20, get(&upstream)).await.is_none());
            let report = upstream.report();
            assert_eq!((report.leased, report.idle), (0, 0));
            eventually("the close", || ended.try_recv().is_ok()).await;
        }
    });
}

#[test]
fn bodies_stream_through_a_lease() {
    on_both(|| async {
        let server = server(|peer| {
            while let Some(head) = peer.head() {
                assert!(head.contains("Transfer-Encoding: chunked\r\n"), "{head}");
                let mut body = String::new();
                while !body.ends_with("0\r\n\r\n") {
                    peer.reader.read_line(&mut body).unwrap();
                }
                // The same chunks back.
                peer.say(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
            }
        });
        let upstream = upstream(&server);
        for _ in 0..2 {
            let lease = upstream.lease(&Rc::from("proxy")).await.unwrap();
            let mut head = Vec::new();
            write_request_head(&mut head, "POST", "/", "a", &[], BodyLength::Chunked).unwrap();
            lease.send(Outgoing::Flat(head), false).await.unwrap();
            let mut expected = Vec::new();
            for number in 0..100 {
                let mut chunk = Vec::new();
                let text = format!("piece {number} ");
                write_chunk(&mut chunk, text.as_bytes());
                lease.send(Outgoing::Flat(chunk), false).await.unwrap();
                expected.extend_from_slice(text.as_bytes());
            }
            lease.send(Outgoing::Shared(Bytes::from_static(LAST_CHUNK)), true).await.unwrap();
            let head = lease.head("POST").await.unwrap();
            assert_eq!((head.status, head.body), (200, BodyLength::Chunked));
            let mut body = Vec::new();
            while let Some(piece) = lease.body().await.unwrap() {
                assert!(!piece.is_empty());
                body.extend_from_slice(&piece);
            }
            assert!(lease.body().await.unwrap().is_none());
            assert_eq!(body, expected);
            drop(lease);
            assert_eq!(upstream.report().idle, 1);
        }
        assert_eq!(server.connections(), 1);
        // One whose request did not end goes to nobody else.
        let lease = upstream.lease(&Rc::from("proxy")).await.unwrap();
        lease.send(Outgoing::Shared(Bytes::from_static(b"POST")), false).await.unwrap();
        drop(lease);
        assert_eq!(upstream.report().idle, 0);
    });
}
