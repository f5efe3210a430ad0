//! Ten thousand mutations of valid sessions, after a correct handshake, beside a canary that must
//! lose nothing.
//!
//! **Runs on: any.** A mutation changes the bytes of the frames, the text or Protobuf inside them,
//! or the commands themselves. Whatever comes, the gateway ends or keeps the connection, stays the
//! same process, and forgets the session. Case N of seed S is always the same; both are in every
//! failure, and `TRINE_TESTS_SEED` repeats a run.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use trine_tests::client::Client;
use trine_tests::follower::Follower;
use trine_tests::gateway::Gateway;
use trine_tests::random::Random;
use trine_tests::wait;

const CASES: usize = 10_000;
const THREADS: usize = 8;
/// How long a gateway may take that has something to say at all; what is cut may leave it waiting.
const FIRST: Duration = Duration::from_secs(1);
/// How long it is silent then when it has nothing more to say, at least.
const QUIET: Duration = Duration::from_millis(20);
/// Commands of a whole session, and those that are answered with an error.
const SESSION: (f64, f64) = (15.0, 2.0);

#[test]
fn ten_thousand_mutated_sessions() {
    let mut gateway = Gateway::start("shards.count = 2");
    let (address, data) = (gateway.client, gateway.data());
    // What is mutated below is taken as it is, in both formats.
    for (protobuf, format) in [(false, "JSON"), (true, "Protobuf")] {
        let before = counted(&gateway);
        let commands = session(format);
        let mut stream = shake_hands(address, protobuf);
        for command in &commands {
            let message = encode(command, protobuf);
            let opcode = if protobuf { 0x82 } else { 0x81 };
            let frame = frame(&mut Random::new(1), opcode, &message);
            stream.write_all(&frame).expect("the session is taken");
        }
        wait::until("every command is taken", || {
            let now = counted(&gateway);
            let [commands, errors] = [now[0] - before[0], now[1] - before[1]];
            (commands == SESSION.0 && errors == SESSION.1).then_some(())
        });
    }
    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let ends = Mutex::new(BTreeMap::<String, usize>::new());
    thread::scope(|scope| {
        let canary = scope.spawn(|| canary(address, &over));
        let attack = || {
            loop {
                let case = next.fetch_add(1, Ordering::Relaxed);
                if case >= CASES {
                    return;
                }
                let end = run_case(address, case);
                *ends.lock().expect("no thread panics here").entry(end).or_default() += 1;
            }
        };
        let attacks: Vec<_> = (0..THREADS).map(|_| scope.spawn(attack)).collect();
        let results: Vec<_> = attacks.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        canary.join().expect("the canary lost nothing");
        assert!(results.iter().all(Result::is_ok), "seed {}", Random::seed());
    });
    println!("seed {}, ends: {:#?}", Random::seed(), ends.lock().expect("no thread panics here"));

    assert_eq!(gateway.data(), data, "the data process is still the same");
    wait::until("no mutated session is left", || {
        (gateway.metrics().sum("trine_sessions", &[]) == 0.0).then_some(())
    });
    assert_eq!(gateway.metrics().sum("trine_subscriptions", &[]), 0.0);
    let (ends, [commands, _]) =
        (ends.lock().expect("no thread panics here").len(), counted(&gateway));
    assert!(ends >= 4 && commands > 3.0 * CASES as f64, "{ends} kinds of end, {commands} commands");
}

/// Commands so far, and those that were answered with an error.
fn counted(gateway: &Gateway) -> [f64; 2] {
    let metrics = gateway.metrics();
    ["trine_commands_total", "trine_command_errors_total"].map(|name| metrics.sum(name, &[]))
}

/// Publishes, hears it, calls, looks at presence, until the others are done.
fn canary(address: SocketAddr, over: &AtomicBool) {
    let mut ears = Follower::start(address, "canary", "canary").expect("subscribed");
    let mut mouth = Client::connect(address, "canary").expect("connected");
    let mut said = 0;
    while !over.load(Ordering::Relaxed) {
        mouth.publish("canary", json!(said)).expect("the canary publishes");
        said += 1;
        assert!(ears.listen(wait::DEADLINE, |of| of.heard.len() == said), "message {said}");
        assert_eq!(ears.heard.last(), Some(&json!(said - 1)));
        let echo = mouth.call("rpc", json!({"method": "echo", "data": {"said": said}}));
        assert_eq!(echo.expect("the canary is answered")["data"]["said"], said);
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!((ears.reconnects, ears.losses), (0, 0));
    println!("the canary said {said} and heard all");
}

/// Sends one mutated session and nothing more; how the gateway ended it.
fn run_case(address: SocketAddr, case: usize) -> String {
    let seed = Random::seed();
    let mut random = Random::new(seed ^ (case as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
    let protobuf = random.below(2) == 1;
    let bytes = mutated_session(&mut random, protobuf, case);
    let mut stream = shake_hands(address, protobuf);
    // The gateway may end the connection while we still write: that is an end like any other.
    let _ = stream.write_all(&bytes);
    let mut answer = Vec::new();
    // Half of them stay until the gateway has nothing to say, the others leave in the middle of it.
    if random.below(2) == 0 {
        listen_until_quiet(&mut stream, &mut answer);
    }
    let _ = stream.shutdown(Shutdown::Write);
    match stream.read_to_end(&mut answer) {
        Ok(_) => close_code(&answer),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => "reset".to_owned(),
        Err(error) => panic!("case {case} of seed {seed}: the connection stays: {error}"),
    }
}

fn listen_until_quiet(stream: &mut TcpStream, answer: &mut Vec<u8>) {
    let (start, mut quiet) = (Instant::now(), FIRST);
    let mut chunk = [0; 4096];
    loop {
        stream.set_read_timeout(Some(quiet)).expect("an option of sockets");
        let Ok(length @ 1..) = stream.read(&mut chunk) else { break };
        if answer.is_empty() {
            // A machine that is slow now is so a little later, too.
            quiet = QUIET.max(5 * start.elapsed());
        }
        answer.extend_from_slice(&chunk[..length]);
    }
    stream.set_read_timeout(Some(wait::DEADLINE)).expect("an option of sockets");
}

fn shake_hands(address: SocketAddr, protobuf: bool) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a listener is always there");
    stream.set_nodelay(true).expect("an option of sockets");
    stream.set_read_timeout(Some(wait::DEADLINE)).expect("an option of sockets");
    stream.set_write_timeout(Some(wait::DEADLINE)).expect("an option of sockets");
    let subprotocol = if protobuf { "Sec-WebSocket-Protocol: centrifuge-protobuf\r\n" } else { "" };
    let request = format!(
        "GET /connection/websocket HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{subprotocol}\r\n"
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

/// The code of the close frame in what the gateway sent (its frames are never masked).
fn close_code(mut frames: &[u8]) -> String {
    while let [first, length, rest @ ..] = frames {
        let (length, rest) = match (length, rest) {
            (126, [a, b, rest @ ..]) => (usize::from(u16::from_be_bytes([*a, *b])), rest),
            (127, [bytes @ .., _]) if bytes.len() >= 8 => return "long frame".to_owned(),
            (length, rest) => (usize::from(*length), rest),
        };
        match (first & 0x0f, rest) {
            (8, [a, b, ..]) => return u16::from_be_bytes([*a, *b]).to_string(),
            (8, _) => return "1005".to_owned(),
            _ => frames = rest.get(length..).unwrap_or_default(),
        }
    }
    "no close frame".to_owned()
}

// ------------------------------------------------------------------ sessions

/// What a client did once: every command in an order that makes sense.
fn session(channel: &str) -> Vec<Value> {
    let at = json!({"offset": 1, "epoch": "abcd"});
    vec![
        json!({"id": 1, "connect": {"data": {"name": "mutant"}, "name": "js", "version": "1"}}),
        json!({"id": 2, "subscribe": {"channel": channel, "recoverable": true, "positioned": true,
            "join_leave": true}}),
        json!({"id": 3, "publish": {"channel": channel, "data": {"text": "héllo", "n": [1, 2.5e3]}}}),
        json!({"id": 4, "history": {"channel": channel, "limit": 10, "reverse": true}}),
        json!({"id": 5, "history": {"channel": channel, "limit": 10, "since": at}}),
        json!({"id": 6, "presence": {"channel": channel}}),
        json!({"id": 7, "presence_stats": {"channel": channel}}),
        json!({"id": 8, "rpc": {"method": "echo", "data": {"a": 1}}}),
        json!({"id": 9, "rpc": {"method": "time", "data": {}}}),
        json!({"id": 10, "refresh": {"token": "x"}}),
        json!({"id": 11, "sub_refresh": {"channel": channel, "token": "x"}}),
        json!({"id": 12, "unsubscribe": {"channel": channel}}),
        json!({"id": 13, "subscribe": {"channel": channel, "recover": true, "recoverable": true,
            "offset": 1, "epoch": "abcd"}}),
        json!({"id": 14, "publish": {"channel": "elsewhere", "data": "x"}}),
        json!({"send": {"data": {}}}),
    ]
}

fn mutated_session(random: &mut Random, protobuf: bool, case: usize) -> Vec<u8> {
    let mut commands = session(&format!("mutants-{}", case % 64));
    let level = random.below(3);
    if level == 0 {
        mutate_commands(random, &mut commands);
    }
    let mut messages: Vec<_> = commands.iter().map(|command| encode(command, protobuf)).collect();
    if level == 1 {
        mutate_messages(random, &mut messages);
    }
    let mut frames = frames(random, &messages, protobuf);
    if level == 2 {
        mutate_frames(random, &mut frames);
    }
    frames.concat()
}

/// One command as a message: a line of JSON, or Protobuf behind its length.
fn encode(command: &Value, protobuf: bool) -> Vec<u8> {
    if !protobuf {
        return command.to_string().into_bytes();
    }
    let body = protobuf::command(command);
    let mut message = protobuf::varint(body.len() as u64);
    message.extend(body);
    message
}

/// Messages in masked frames: one each, several together, or one in fragments.
fn frames(random: &mut Random, messages: &[Vec<u8>], protobuf: bool) -> Vec<Vec<u8>> {
    let opcode = if protobuf { 2 } else { 1 };
    let mut frames = Vec::new();
    let mut rest = messages;
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(rest.len().min(1 + random.below(3)));
        rest = later;
        let payload = if protobuf { batch.concat() } else { batch.join(&b'\n') };
        if random.below(4) > 0 {
            frames.push(frame(random, 0x80 | opcode, &payload));
            continue;
        }
        let (head, tail) = payload.split_at(payload.len() / 2);
        frames.push(frame(random, opcode, head));
        if random.below(2) == 0 {
            frames.push(frame(random, 0x89, b"ping"));
        }
        frames.push(frame(random, 0x80, tail));
    }
    frames
}

fn frame(random: &mut Random, first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend((long as u16).to_be_bytes());
        }
    }
    let mask = (random.draw() as u32).to_be_bytes();
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

// ------------------------------------------------------------------ mutations

fn mutate_commands(random: &mut Random, commands: &mut Vec<Value>) {
    const NAMES: [&str; 8] =
        ["connect", "subscribe", "unsubscribe", "publish", "history", "rpc", "ping", "nonsense"];
    for _ in 0..=random.below(3) {
        let at = random.below(commands.len());
        match random.below(8) {
            0 => {
                let other = random.below(commands.len());
                commands.swap(at, other);
            }
            1 => commands.insert(at, commands[at].clone()),
            2 if commands.len() > 1 => drop(commands.remove(at)),
            3 => commands[at]["id"] = odd_value(random),
            4 => commands[at][*random.pick(&NAMES)] = odd_value(random),
            _ => mutate_field(random, &mut commands[at]),
        }
    }
}

/// Changes one member somewhere in the command's request.
fn mutate_field(random: &mut Random, command: &mut Value) {
    let Some(request) = command.as_object_mut().and_then(|members| {
        members.iter_mut().find(|(name, _)| *name != "id").map(|(_, request)| request)
    }) else {
        return;
    };
    let names = ["channel", "data", "limit", "since", "offset", "epoch", "method", "token", "tf"];
    let name = *random.pick(&names);
    if let Some(members) = request.as_object_mut() {
        members.insert(name.to_owned(), odd_value(random));
    }
}

fn odd_value(random: &mut Random) -> Value {
    match random.below(14) {
        0 => Value::Null,
        1 => json!(0),
        2 => json!(-1),
        3 => json!(u64::MAX),
        4 => json!(1e300),
        5 => json!(""),
        6 => json!("x".repeat(300)),
        7 => json!("no-such:namespace"),
        8 => json!("$private#1,2"),
        9 => json!([]),
        10 => json!({}),
        11 => json!({"offset": -1, "epoch": 7}),
        12 => json!("\u{0}\u{feff}\u{1F426}"),
        _ => json!(true),
    }
}

fn mutate_messages(random: &mut Random, messages: &mut Vec<Vec<u8>>) {
    for _ in 0..=random.below(2) {
        let at = random.below(messages.len());
        let donor = messages[random.below(messages.len())].clone();
        match random.below(6) {
            0 => messages[at].extend(donor),
            1 => messages[at] = Vec::new(),
            2 => messages.insert(at, donor),
            _ => mutate_bytes(random, &mut messages[at]),
        }
    }
}

fn mutate_frames(random: &mut Random, frames: &mut Vec<Vec<u8>>) {
    for _ in 0..=random.below(3) {
        let at = random.below(frames.len());
        match random.below(9) {
            // FIN, RSV and opcode; mask bit and length; the extended length.
            0 => flip(random, &mut frames[at], 0),
            1 => flip(random, &mut frames[at], 1),
            2 => flip(random, &mut frames[at], 2),
            3 => frames.insert(at, control(random)),
            4 => {
                let other = random.below(frames.len());
                frames.swap(at, other);
            }
            5 => frames[at].truncate(1),
            6 => {
                let mut giant = vec![0x82, 0xff];
                giant.extend(random.draw().to_be_bytes());
                frames.insert(at, giant);
            }
            7 => frames[at].insert(0, 0),
            _ => mutate_bytes(random, &mut frames[at]),
        }
    }
}

/// A control frame, right or wrong: any opcode from close up, any length, a close code or not.
fn control(random: &mut Random) -> Vec<u8> {
    let length = *random.pick(&[0, 1, 2, 40, 125, 126, 200]);
    let payload: Vec<_> = (0..length).map(|_| random.draw() as u8).collect();
    let first = 0x88 + random.below(8) as u8;
    frame(random, first, &payload)
}

fn mutate_bytes(random: &mut Random, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return bytes.push(random.draw() as u8);
    }
    let at = random.below(bytes.len());
    match random.below(6) {
        0 => flip(random, bytes, at),
        1 => bytes[at] = *random.pick(&[0, 0x0a, 0x22, 0x7f, 0x80, 0xff]),
        2 => bytes.truncate(at),
        3 => drop(bytes.remove(at)),
        4 => bytes.insert(at, random.draw() as u8),
        // A varint that never ends, or claims more than there can be.
        _ => drop(bytes.splice(at..at, [0xff; 9])),
    }
}

fn flip(random: &mut Random, bytes: &mut [u8], at: usize) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << random.below(8);
    }
}

/// Just enough Protobuf to write the commands above; a member of the wrong type is left out.
mod protobuf {
    use serde_json::Value;

    pub fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    pub fn command(command: &Value) -> Vec<u8> {
        const REQUESTS: [(&str, u64); 12] = [
            ("connect", 4),
            ("subscribe", 5),
            ("unsubscribe", 6),
            ("publish", 7),
            ("presence", 8),
            ("presence_stats", 9),
            ("history", 10),
            ("ping", 11),
            ("send", 12),
            ("rpc", 13),
            ("refresh", 14),
            ("sub_refresh", 15),
        ];
        let mut bytes = number(1, &command["id"]);
        for (name, field) in REQUESTS {
            if let Some(request) = command.get(name) {
                bytes.extend(delimited(field, &body(name, request)));
            }
        }
        bytes
    }

    fn body(name: &str, request: &Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        let fields: &[(&str, u64)] = match name {
            "connect" => &[("token", 1), ("data", 2), ("name", 4), ("version", 5)],
            "publish" | "rpc" if request.get("method").is_none() => &[("channel", 1), ("data", 2)],
            "rpc" => &[("data", 1), ("method", 2)],
            "send" => &[("data", 1)],
            "history" => &[("channel", 1), ("limit", 7), ("since", 8), ("reverse", 9)],
            "subscribe" => &[
                ("channel", 1),
                ("token", 2),
                ("recover", 3),
                ("epoch", 6),
                ("offset", 7),
                ("data", 8),
                ("positioned", 9),
                ("recoverable", 10),
                ("join_leave", 11),
                ("tf", 13),
            ],
            "refresh" => &[("token", 1)],
            _ => &[("channel", 1), ("token", 2)],
        };
        for (name, field) in fields {
            match (&request[*name], *name) {
                (Value::Null, _) => {}
                (value, "data") => bytes.extend(delimited(*field, value.to_string().as_bytes())),
                (Value::String(text), _) => bytes.extend(delimited(*field, text.as_bytes())),
                (value @ Value::Object(_), _) => {
                    let mut since = number(1, &value["offset"]);
                    since.extend(delimited(2, value["epoch"].as_str().unwrap_or("").as_bytes()));
                    bytes.extend(delimited(*field, &since));
                }
                (value, _) => bytes.extend(number(*field, value)),
            }
        }
        bytes
    }

    fn number(field: u64, value: &Value) -> Vec<u8> {
        let value = match value {
            Value::Bool(on) => u64::from(*on),
            other => other.as_u64().or(other.as_i64().map(|it| it as u64)).unwrap_or_default(),
        };
        [varint(field << 3), varint(value)].concat()
    }

    fn delimited(field: u64, bytes: &[u8]) -> Vec<u8> {
        [varint(field << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
    }
}
