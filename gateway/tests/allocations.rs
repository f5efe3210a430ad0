//! What a publication costs a running shard: allocations, encodes and sends, through real sockets.
//!
//! **Runs on: any.** The shard runs on a thread of this process, whose allocator counts. While it
//! is counted the clients only write and read buffers that they have already.

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use trine::config::Config;
use trine::data::{Peers, Stop};
use trine::edge::{self, ShardStart};
use trine_core::metrics::{Counter, Page, Snapshot};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const PATIENCE: Duration = Duration::from_secs(20);
/// Sends to a client until it is connected and subscribed: the upgrade, and the replies together.
const CONNECTING: usize = 2;
/// Publications after which history and every pool are full.
const FILLING: usize = 150;

/// A shard on a thread of its own.
struct Running {
    address: SocketAddr,
    page: Page,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start() -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let page = Page::create(0).unwrap();
        let mut stop = Stop::default();
        let mut config = Config::embedded();
        config.namespaces[0].presence = false;
        config.namespaces[0].join_leave = false;
        config.client.ping_interval_ms = 0;
        let start = ShardStart {
            index: 0,
            shards: 1,
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
            peers: Peers::connect(1).unwrap().remove(0),
        };
        let thread = thread::spawn(move || edge::run(start));
        Running { address, page, stop, thread: Some(thread) }
    }

    /// The counters once there were so many sends, the answer to one more command of `client` among
    /// them: all that the clients got before that answer is counted when it leaves.
    fn settled(&self, client: &mut TcpStream, sends: usize) -> Snapshot {
        client.write_all(&frame(r#"{"id":9,"rpc":{"method":"echo","data":1}}"#)).unwrap();
        skip_frame(client);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.page.snapshot();
            let counted = seen.counter(Counter::Sends);
            if counted >= sends as u64 {
                // Once more: counters are read one after the other, and the turns before the sends.
                return self.page.snapshot();
            }
            assert!(Instant::now() < deadline, "{counted} of {sends} sends");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.request();
        if let Some(thread) = self.thread.take()
            && !thread::panicking()
        {
            thread.join().unwrap();
        }
    }
}

/// Connects, upgrades and sends `commands` as one text frame; waits for `replies` frames.
fn client(address: SocketAddr, commands: &str, replies: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
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
    assert!(head.starts_with(b"HTTP/1.1 101"));
    stream.write_all(&frame(commands)).unwrap();
    for _ in 0..replies {
        skip_frame(&mut stream);
    }
    stream
}

/// A masked text frame; a key of zeros leaves the payload as it is.
fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match text.len() {
        len @ ..126 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// Reads one frame without allocating.
fn skip_frame(stream: &mut TcpStream) {
    let mut buffer = [0u8; 4096];
    stream.read_exact(&mut buffer[..2]).unwrap();
    let mut len = usize::from(buffer[1]);
    assert_eq!(buffer[0], 0x81, "a text frame");
    if len == 126 {
        stream.read_exact(&mut buffer[..2]).unwrap();
        len = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
    }
    stream.read_exact(&mut buffer[..len]).unwrap();
}

fn publish(batch: usize) -> Vec<u8> {
    let data = "x".repeat(100);
    let commands: Vec<String> = (1..=batch)
        .map(|id| format!(r#"{{"id":{id},"publish":{{"channel":"room","data":"{data}"}}}}"#))
        .collect();
    frame(&commands.join("\n"))
}

/// Allocations per publication to `subscribers`, and the counters before and after.
fn measure(subscribers: usize, publications: usize) -> (f64, Snapshot, Snapshot) {
    let shard = Running::start();
    let subscribe = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"room\"}}";
    let mut heard: Vec<TcpStream> =
        (0..subscribers).map(|_| client(shard.address, subscribe, 2)).collect();
    let mut publisher = client(shard.address, "{\"id\":1,\"connect\":{}}", 1);
    let one = publish(1);
    let mut rounds = |publisher: &mut TcpStream, count: usize| {
        for _ in 0..count {
            publisher.write_all(&one).unwrap();
            skip_frame(publisher);
            heard.iter_mut().for_each(skip_frame);
        }
    };
    rounds(&mut publisher, FILLING);
    let each = subscribers + 1;
    let sends = (CONNECTING + FILLING) * each + 1;
    let before = shard.settled(&mut publisher, sends);
    let region = Region::new(ALLOCATOR);
    rounds(&mut publisher, publications);
    let allocations = region.change().allocations;
    let after = shard.settled(&mut publisher, sends + publications * each + 1);
    (allocations as f64 / publications as f64, before, after)
}

#[test]
fn a_publication_costs_few_allocations_however_many_hear_it() {
    let (ten, ..) = measure(10, 400);
    let (thousand, before, after) = measure(1000, 100);
    println!("allocations per publication: {ten:.2} for 10 subscribers, {thousand:.2} for 1,000");
    assert!(ten <= 4.0, "{ten} allocations per publication for 10 subscribers");
    assert!(thousand <= 4.0, "{thousand} allocations per publication for 1,000 subscribers");
    assert!((ten - thousand).abs() < 0.5, "{ten} for 10 subscribers, {thousand} for 1,000");
    let grown = |counter| after.counter(counter) - before.counter(counter);
    assert_eq!(grown(Counter::Publications), 100);
    assert_eq!(grown(Counter::Deliveries), 100 * 1000);
    assert_eq!(grown(Counter::EncodesJson), 100, "encoded once, not once a subscriber");
    assert_eq!(grown(Counter::EncodesProtobuf), 0);
    assert_eq!(grown(Counter::Sends), 100 * 1001 + 1, "one for each delivery and reply");
    sends_fit_turns(1001, &before, &after);

    one_turn_is_one_send();
}

/// Part of the one test above, so that nothing else allocates meanwhile.
fn one_turn_is_one_send() {
    let shard = Running::start();
    let subscribe = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"room\"}}";
    let mut heard: Vec<TcpStream> = (0..20).map(|_| client(shard.address, subscribe, 2)).collect();
    let mut publisher = client(shard.address, "{\"id\":1,\"connect\":{}}", 1);
    let sends = CONNECTING * 21 + 1;
    let before = shard.settled(&mut publisher, sends);
    publisher.write_all(&publish(8)).unwrap();
    for stream in heard.iter_mut().chain([&mut publisher]) {
        (0..8).for_each(|_| skip_frame(stream));
    }
    let after = shard.settled(&mut publisher, sends + 21 + 1);
    let grown = |counter| after.counter(counter) - before.counter(counter);
    assert_eq!(grown(Counter::Deliveries), 8 * 20);
    assert_eq!(grown(Counter::EncodesJson), 8);
    assert_eq!(grown(Counter::Sends), 21 + 1, "a turn's output leaves a connection in one send");
    sends_fit_turns(21, &before, &after);
}

/// A turn sends to a connection at most once, however many turns the shard made of the work.
fn sends_fit_turns(connections: u64, before: &Snapshot, after: &Snapshot) {
    let grown = |counter| after.counter(counter) - before.counter(counter);
    let (sends, turns) = (grown(Counter::Sends), grown(Counter::Turns));
    assert!(sends <= connections * turns, "{sends} sends to {connections} in {turns} turns");
}
