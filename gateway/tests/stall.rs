//! A client whose commands wait for another shard: nothing of it is read meanwhile, so its pings
//! wait too, and each of its commands is timed once.
//!
//! **Runs on: any.** Two shards run on threads of this process; the second one starts late.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use trine::config::Config;
use trine::data::{Peers, Stop};
use trine::edge::{self, ShardStart};
use trine_core::metrics::{Counter, Histogram, Page};

const PATIENCE: Duration = Duration::from_secs(20);
/// As in the default configuration.
const IN_FLIGHT: usize = 64;
/// More than may be outstanding, on whichever shards the channels are.
const PUBLISHES: usize = 400;

struct Shard {
    address: SocketAddr,
    page: Page,
    thread: JoinHandle<()>,
}

impl Shard {
    fn start(
        index: usize,
        peers: Peers,
        stop: &mut Stop,
        (in_flight, ping_interval_ms): (usize, u64),
    ) -> Shard {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let page = Page::create(index).unwrap();
        let mut config = Config::embedded();
        config.client.ping_interval_ms = ping_interval_ms;
        config.client.pong_timeout_ms = 2900;
        config.client.in_flight = in_flight;
        let start = ShardStart {
            index,
            shards: 2,
            cpu: None,
            listener: listener.into(),
            echo_listener: None,
            api_listener: None,
            stores: trine::data::Stores::default(),
            names: Default::default(),
            resharding: Default::default(),
            standings: Default::default(),
            metrics: page.writer().unwrap(),
            config: Arc::new(config),
            stop: stop.add_shard().unwrap(),
            peers,
        };
        let thread = thread::spawn(move || edge::run(start));
        Shard { address, page, thread }
    }
}

/// A client that has connected; it answers pings.
struct Client {
    stream: TcpStream,
    pings: usize,
}

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = "GET /connection/websocket HTTP/1.1\r\nHost: shard\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let mut client = Client { stream, pings: 0 };
        client.send("{\"id\":1,\"connect\":{}}");
        assert!(client.message().contains("\"connect\""));
        client
    }

    fn send(&mut self, text: &str) {
        let length = u8::try_from(text.len()).unwrap();
        assert!(length < 126);
        self.stream
            .write_all(&[&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat())
            .unwrap();
    }

    /// The next message that is no ping; pings are answered.
    fn message(&mut self) -> String {
        loop {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head).unwrap();
            let mut payload = vec![0; usize::from(head[1] & 0x7f)];
            assert!(payload.len() < 126, "messages are short here");
            self.stream.read_exact(&mut payload).unwrap();
            let text = String::from_utf8_lossy(&payload).into_owned();
            assert_eq!(head[0], 0x81, "closed: {text}");
            if text != "{}" {
                return text;
            }
            self.pings += 1;
            self.send("{}");
        }
    }
}

#[test]
fn a_client_that_is_not_read_is_not_asked_for_a_pong() {
    let (mut peers, mut stop) = (Peers::connect(2).unwrap(), Stop::default());
    let late = peers.pop().unwrap();
    let first = Shard::start(0, peers.pop().unwrap(), &mut stop, (IN_FLIGHT, 3000));

    let mut stalled = Client::connect(first.address);
    for id in 2..PUBLISHES + 2 {
        stalled.send(&format!("{{\"id\":{id},\"publish\":{{\"channel\":\"c{id}\",\"data\":1}}}}"));
    }
    // Another client hears pings on time; two of them are longer than the stalled one would have
    // been waited for.
    let mut other = Client::connect(first.address);
    while other.pings < 2 {
        other.send("{\"id\":9,\"rpc\":{\"method\":\"echo\",\"data\":1}}");
        other.message();
        thread::sleep(Duration::from_millis(20));
    }
    let second = Shard::start(1, late, &mut stop, (IN_FLIGHT, 3000));
    for id in 2..PUBLISHES + 2 {
        assert!(stalled.message().starts_with(&format!("{{\"id\":{id},\"publish\":")), "{id}");
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = first.page.snapshot();
        let timed: u64 = seen.histogram(Histogram::CommandDuration).buckets().iter().sum();
        if timed == seen.counter(Counter::Commands) {
            break;
        }
        assert!(Instant::now() < deadline, "{timed} of {}", seen.counter(Counter::Commands));
        thread::sleep(Duration::from_millis(10));
    }
    stop.request();
    for shard in [first, second] {
        shard.thread.join().unwrap();
    }
}

#[test]
fn a_full_mailbox_is_waited_for_and_then_its_command_is_refused_for_now() {
    const CLIENTS: usize = 3;
    // About half of the channels are the other shard's: more than its mailbox holds.
    const EACH: usize = 1000;
    let (mut peers, mut stop) = (Peers::connect(2).unwrap(), Stop::default());
    let late = peers.pop().unwrap();
    let first = Shard::start(0, peers.pop().unwrap(), &mut stop, (EACH, 0));
    let mut clients = [(); CLIENTS].map(|()| Client::connect(first.address));
    for (number, client) in clients.iter_mut().enumerate() {
        for id in 2..EACH + 2 {
            let channel = number * EACH + id;
            client.send(&format!(
                "{{\"id\":{id},\"publish\":{{\"channel\":\"c{channel}\",\"data\":1}}}}"
            ));
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while first.page.snapshot().counter(Counter::CommandErrors) == 0 {
        assert!(Instant::now() < deadline, "no command was given up");
        thread::sleep(Duration::from_millis(10));
    }
    let second = Shard::start(1, late, &mut stop, (EACH, 0));
    let mut refused = 0;
    for client in &mut clients {
        for id in 2..EACH + 2 {
            let reply = client.message();
            if reply.contains("\"error\"") {
                assert!(
                    reply.contains("\"code\":100") && reply.contains("\"temporary\":true"),
                    "{reply}"
                );
                refused += 1;
            } else {
                assert_eq!(reply, format!("{{\"id\":{id},\"publish\":{{}}}}"));
            }
        }
    }
    assert_eq!(refused, first.page.snapshot().counter(Counter::CommandErrors));
    assert!((1..EACH as u64).contains(&refused), "{refused}");
    stop.request();
    for shard in [first, second] {
        shard.thread.join().unwrap();
    }
}
