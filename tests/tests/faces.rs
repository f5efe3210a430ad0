//! What a client may not do on the HTTP and WebSocket faces, byte by byte on real sockets, and how
//! it is told.
//!
//! **Runs on: any.** A gateway for each.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use trine_tests::client::{Client, Failure};
use trine_tests::gateway::Gateway;
use trine_tests::wait;

const CONFIG: &str = "shards.count = 2\nchannel.history_size = 1000\n\
    [[namespace]]\nname = \"blob\"\npayload = \"binary\"\nsubscribe = \"anonymous\"\n\
    publish = \"anonymous\"\nhistory_access = \"anonymous\"\nhistory_size = 10\n\
    history_ttl_ms = 60_000\nrecovery = true\n";

/// A socket right after the opening handshake.
fn open(address: SocketAddr, query: &str) -> TcpStream {
    let mut stream = connect(address);
    let request = format!(
        "GET /connection/websocket{query} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("the handshake is sent");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("the handshake is answered");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    stream
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a listener is always there");
    stream.set_nodelay(true).expect("an option of sockets");
    stream.set_read_timeout(Some(wait::DEADLINE)).expect("an option of sockets");
    stream
}

/// A masked frame; a key of zeros leaves the payload as it is.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match u8::try_from(payload.len()) {
        Ok(length @ ..126) => frame.push(0x80 | length),
        _ => {
            frame.push(0x80 | 126);
            let length = u16::try_from(payload.len()).expect("frames are short here");
            frame.extend_from_slice(&length.to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// Reads one frame: its first byte and its payload.
fn read_frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a frame");
    let mut length = usize::from(head[1]);
    if length == 126 {
        let mut long = [0; 2];
        stream.read_exact(&mut long).expect("its length");
        length = usize::from(u16::from_be_bytes(long));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).expect("its payload");
    (head[0], payload)
}

/// Reads to the close frame: what came before it, and its code.
fn read_to_close(stream: &mut TcpStream) -> (Vec<(u8, Vec<u8>)>, u16) {
    let mut before = Vec::new();
    loop {
        match read_frame(stream) {
            (0x88, payload) => {
                let code = payload.first_chunk().expect("a close frame with a code");
                return (before, u16::from_be_bytes(*code));
            }
            frame => before.push(frame),
        }
    }
}

const CONNECT: &[u8] = b"{\"id\":1,\"connect\":{}}";

/// A subscription that is refused since it can't recover was never there for others.
#[test]
fn a_refused_recovery_tells_nobody_of_a_leave() {
    let gateway = Gateway::start("shards.count = 1\n");
    let mut watcher = Client::connect(gateway.client, "watcher").expect("it connects");
    let watch = json!({"channel": "room", "join_leave": true});
    watcher.call("subscribe", watch).expect("it subscribes");
    let mut late = Client::connect(gateway.client, "late").expect("it connects");
    let body = json!({
        "channel": "room", "recover": true, "epoch": "another", "offset": 7, "flag": 2,
    });
    let refused = late.call("subscribe", body).expect_err("it can't recover");
    assert!(matches!(refused, Failure::Refused { code: 112, .. }), "{refused:?}");
    let mut next = Client::connect(gateway.client, "next").expect("it connects");
    next.subscribe("room", None).expect("it subscribes");
    let seen: Vec<Value> = (0..2).map(|_| watcher.push(wait::DEADLINE).expect("a push")).collect();
    let joined: Vec<&Value> = seen.iter().map(|push| &push["join"]["info"]["client"]).collect();
    assert_eq!(joined, [&json!(watcher.id), &json!(next.id)], "{seen:?}");
}

#[test]
fn broken_frames_and_limits_end_with_their_codes() {
    let gateway = Gateway::start(CONFIG);
    let ends = |input: Vec<u8>| {
        let mut stream = open(gateway.client, "");
        stream.write_all(&frame(0x81, CONNECT)).expect("sent");
        assert!(read_frame(&mut stream).1.starts_with(b"{\"id\":1,\"connect\":"));
        stream.write_all(&input).expect("sent");
        read_to_close(&mut stream)
    };
    let pings = |count| frame(0x89, b"p").repeat(count);
    let fragments = |count: usize| {
        let middle = frame(0x00, b" ").repeat(count - 2);
        [frame(0x01, b"{\"id\":2,\"rpc\":"), middle, frame(0x80, b"{\"method\":\"time\"}}")]
            .concat()
    };
    // The declared length alone is refused: nothing of the payload is sent.
    assert_eq!(ends([&[0x81, 0xff][..], &65_537u64.to_be_bytes()].concat()).1, 1009);
    assert_eq!(ends(vec![0x81, 0x01, b'x']).1, 1002, "not masked");
    assert_eq!(ends(frame(0xc1, b"x")).1, 1002, "a reserved bit");
    assert_eq!(ends(frame(0x83, b"x")).1, 1002, "an unknown opcode");
    assert_eq!(ends(frame(0x09, b"x")).1, 1002, "a ping in parts");
    assert_eq!(ends(frame(0x81, b"\xff")).1, 1007);
    assert_eq!(ends(frame(0x88, &1005u16.to_be_bytes())).1, 1002, "a code that is never sent");
    assert_eq!(ends(frame(0x88, &1000u16.to_be_bytes())).1, 1000, "the client's own is echoed");
    assert_eq!(ends(fragments(129)).1, 1009);
    let (replies, code) = ends([fragments(128), frame(0x88, &1000u16.to_be_bytes())].concat());
    assert_eq!((replies.len(), code), (1, 1000), "128 fragments are a message");
    let (pongs, code) = ends(pings(21));
    assert_eq!((pongs.len(), code), (20, 1008), "20 control frames in a second, not 21");
    assert!(pongs.iter().all(|pong| *pong == (0x8a, b"p".to_vec())));

    // Commands before the broken one are answered.
    let (replies, code) = ends(frame(0x81, b"{\"id\":2,\"rpc\":{\"method\":\"echo\"}}\n{\"id\":"));
    assert_eq!((replies.len(), code), (1, 3501));
    assert_eq!(ends(frame(0x81, CONNECT)).1, 3501, "a second connect");
    assert_eq!(ends(frame(0x81, b"{}")).1, 3501, "a pong that nobody asked for");
    assert_eq!(ends(frame(0x81, b"")).1, 3501, "a frame with no message");
    assert_eq!(ends(frame(0x81, b"{\"send\":{\"data\":1}}")).1, 3508);
    assert_eq!(ends(frame(0x81, b"{\"id\":2,\"subscribe\":{}}")).1, 3501, "no channel");

    let closed = |code| {
        let labels = [("code", code)];
        gateway.metrics().sum("trine_connections_closed_total", &labels)
    };
    wait::until("closes are counted by their codes", || {
        (closed("1009") == 2.0 && closed("1007") == 1.0 && closed("1008") == 1.0).then_some(())
    });
}

#[test]
fn the_slow_are_not_waited_for() {
    let config = "client.head_timeout_ms = 2_000\nclient.stale_close_delay_ms = 2_000\n";
    let gateway = Gateway::start(config);
    let mut stale = open(gateway.client, "");
    assert_eq!(read_to_close(&mut stale).1, 3502, "no connect came");

    let mut slow = connect(gateway.client);
    slow.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").expect("sent");
    let mut answer = String::new();
    slow.read_to_string(&mut answer).expect("an answer and the end");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");

    // A byte now and then is no reason to wait on.
    let mut trickling = connect(gateway.client);
    trickling.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ").expect("sent");
    trickling.set_read_timeout(Some(Duration::from_millis(20))).expect("a limit");
    let (mut answer, deadline) = ([0; 13], Instant::now() + wait::DEADLINE);
    while let Err(error) = trickling.read_exact(&mut answer) {
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        assert!(Instant::now() < deadline, "it is waited for");
        trickling.write_all(b"a").expect("it listens");
    }
    assert_eq!(&answer, b"HTTP/1.1 408 ");

    // Whoever asks for nothing is told nothing, and a connection is kept between two requests.
    let mut idle = connect(gateway.client);
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    let mut answer = String::new();
    idle.read_to_string(&mut answer).expect("an answer and later the end");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok\n"), "{answer}");
}

/// Client protocol §1: what is not JSON closes a JSON client, as a push, as history, as recovery.
#[test]
fn a_json_client_is_never_told_what_is_not_json() {
    let gateway = Gateway::start(CONFIG);
    let field = |number: u8, value: &[u8]| {
        let length = u8::try_from(value.len()).expect("values are short here");
        [&[number << 3 | 2, length], value].concat()
    };
    let command = |id: u8, request: Vec<u8>| {
        let message = [vec![8, id], request].concat();
        let length = u8::try_from(message.len()).expect("messages are short here");
        frame(0x82, &[vec![length], message].concat())
    };
    let mut publisher = open(gateway.client, "?format=protobuf");
    publisher.write_all(&command(1, field(4, b""))).expect("sent");
    read_frame(&mut publisher);
    let mut publish = |channel: &str, data: &[u8]| {
        let request = field(7, &[field(1, channel.as_bytes()), field(2, data)].concat());
        publisher.write_all(&command(2, request)).expect("sent");
        assert_eq!(read_frame(&mut publisher).1, [4, 8, 2, 66, 0], "published");
    };
    let json = |commands: &str| {
        let mut stream = open(gateway.client, "");
        stream.write_all(&frame(0x81, CONNECT)).expect("sent");
        read_frame(&mut stream);
        stream.write_all(&frame(0x81, commands.as_bytes())).expect("sent");
        stream
    };
    // Channels of both shards, so that the owner is the client's own shard and another one.
    for number in 0..8 {
        let channel = format!("blob:{number}");
        let named = format!("\"channel\":\"{channel}\"");
        let history = format!("{{\"id\":2,\"history\":{{{named},\"limit\":-1}}}}");
        let recover = format!("{{\"id\":2,\"subscribe\":{{{named},\"recover\":true}}}}");
        publish(&channel, b"{\n\"a\":\n1}");
        let told = read_frame(&mut json(&history)).1;
        let told = String::from_utf8(told).expect("text");
        assert!(told.contains("\"publications\":[{\"data\":{\"a\":1},"), "no newlines: {told}");

        let mut follower = json(&format!("{{\"id\":2,\"subscribe\":{{{named}}}}}"));
        read_frame(&mut follower);
        publish(&channel, b"\xff\x00");
        assert_eq!(read_to_close(&mut follower), (vec![], 3506));
        assert_eq!(read_to_close(&mut json(&history)), (vec![], 3506));
        assert_eq!(read_to_close(&mut json(&recover)), (vec![], 3506));
    }
    wait::until("nothing of them is left", || {
        (gateway.metrics().sum("trine_subscriptions", &[]) == 0.0).then_some(())
    });
    Client::connect(gateway.client, "last").expect("it still serves");
}
