//! The floor: a server that does only the workload's system calls. One thread,
//! io_uring, Protobuf and JSON forms of connect, subscribe, publish, rpc
//! `echo`, pings; nothing is limited, kept or checked beyond what that needs.
//! It says what the kernel's part of the work costs.
//!
//! **Runs on: any** (one thread). Its commands come from the load tool: JSON is
//! read as that tool writes it, so the JSON rows are a floor too.

use std::collections::HashMap;
use std::mem;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use sha1::{Digest, Sha1};

use crate::frame;
use crate::message::{each_field, field_length, put_varint, take_bytes, varint_length};
use crate::ring::{Handler, Net, Wait};

/// The resolution of pings.
pub const TICK: Duration = Duration::from_millis(100);
const PING_SLOTS: usize = 250; // 25 s
const OUTPUT_LIMIT_BYTES: usize = 1 << 20;
const INPUT_LIMIT_BYTES: usize = 65536 + 14;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Upgrading,
    Open,
    Live,
    Closing,
}

struct Client {
    state: State,
    json: bool,
    pinged: bool,
    ping_slot: u8,
    id: u64,
    partial: Vec<u8>,
    channels: Vec<u32>,
}

struct Channel {
    name: Box<[u8]>,
    subscribers: Vec<u32>,
}

/// The server; a [`Handler`] of the loop.
pub struct Floor {
    clients: Vec<Client>,
    names: HashMap<Box<[u8]>, u32>,
    channels: Vec<Channel>,
    free_channels: Vec<u32>,
    wheel: Vec<Vec<u32>>,
    slot: usize,
    made: u64,
    seed: u64,
    scratch: Vec<u8>,
}

/// The client broke the protocol.
struct Bad;

/// One command, its slices in the frame.
#[derive(Default)]
struct Command<'a> {
    id: u64,
    kind: u64,
    channel: &'a [u8],
    data: &'a [u8],
}

const CONNECT: u64 = 4;
const SUBSCRIBE: u64 = 5;
const PUBLISH: u64 = 7;
const RPC: u64 = 13;

impl Default for Floor {
    fn default() -> Floor {
        Floor::new()
    }
}

impl Floor {
    /// A server without clients.
    pub fn new() -> Floor {
        Floor {
            clients: Vec::new(),
            names: HashMap::new(),
            channels: Vec::new(),
            free_channels: Vec::new(),
            wheel: vec![Vec::new(); PING_SLOTS],
            slot: 0,
            made: 0,
            seed: u64::from(std::process::id()) << 32 | 0x9e37_79b9,
            scratch: Vec::new(),
        }
    }

    /// Ends all subscriptions of a client.
    fn leave(&mut self, client: u32) {
        for channel in mem::take(&mut self.clients[client as usize].channels) {
            let c = &mut self.channels[channel as usize];
            if let Some(place) = c.subscribers.iter().position(|&s| s == client) {
                c.subscribers.swap_remove(place);
            }
            if c.subscribers.is_empty() {
                self.names.remove(&c.name);
                c.subscribers = Vec::new();
                self.free_channels.push(channel);
            }
        }
    }

    fn consume(&mut self, net: &mut Net, client: u32, bytes: &mut [u8]) -> Result<usize, Bad> {
        let mut used = 0;
        if self.clients[client as usize].state == State::Upgrading {
            let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
                return Ok(0);
            };
            self.upgrade(net, client, &bytes[..end])?;
            used = end + 4;
        }
        loop {
            let rest = &mut bytes[used..];
            let &mut [first, second, a, b, ..] = rest else { return Ok(used) };
            let (header, length) = match second & 127 {
                126 => (8, usize::from(u16::from_be_bytes([a, b]))),
                127 => return Err(Bad),
                n => (6, usize::from(n)),
            };
            if second < 128 || first & 0xf0 != 0x80 {
                return Err(Bad);
            }
            if rest.len() < header + length {
                return Ok(used);
            }
            let key = [rest[header - 4], rest[header - 3], rest[header - 2], rest[header - 1]];
            let payload = &mut rest[header..header + length];
            frame::mask(payload, key);
            self.frame(net, client, first & 15, payload)?;
            used += header + length;
        }
    }

    fn frame(&mut self, net: &mut Net, client: u32, opcode: u8, payload: &[u8]) -> Result<(), Bad> {
        match opcode {
            frame::TEXT | frame::BINARY if self.clients[client as usize].json => {
                for line in payload.split(|&byte| byte == b'\n') {
                    self.command(net, client, &json_command(line)?)?;
                }
            }
            frame::TEXT | frame::BINARY => {
                let mut rest = payload;
                while !rest.is_empty() {
                    let body = take_bytes(&mut rest).map_err(|_| Bad)?;
                    self.command(net, client, &protobuf_command(body)?)?;
                }
            }
            frame::CLOSE => {
                let code = &payload[..payload.len().min(2)];
                let out = net.output(client);
                out.extend_from_slice(&[0x88, code.len() as u8]);
                out.extend_from_slice(code);
                self.clients[client as usize].state = State::Closing;
                self.leave(client);
            }
            frame::PING => put_frame(net.output(client), frame::PONG, payload),
            _ => {}
        }
        Ok(())
    }

    fn upgrade(&mut self, net: &mut Net, client: u32, head: &[u8]) -> Result<(), Bad> {
        let text = std::str::from_utf8(head).map_err(|_| Bad)?;
        let (mut key, mut subprotocol) = (None, "");
        for (name, value) in text.split("\r\n").filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("sec-websocket-key") {
                key = Some(value.trim());
            } else if name.eq_ignore_ascii_case("sec-websocket-protocol") {
                subprotocol = value.trim();
            }
        }
        let mut hash = Sha1::new();
        hash.update(key.ok_or(Bad)?);
        hash.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
        let accept = base64::engine::general_purpose::STANDARD.encode(hash.finalize());
        let response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
        );
        net.output(client).extend_from_slice(response.as_bytes());
        let c = &mut self.clients[client as usize];
        c.state = State::Open;
        c.json = subprotocol != "centrifuge-protobuf";
        Ok(())
    }

    fn command(&mut self, net: &mut Net, client: u32, command: &Command) -> Result<(), Bad> {
        let c = &mut self.clients[client as usize];
        if command.kind == 0 {
            return if mem::take(&mut c.pinged) { Ok(()) } else { Err(Bad) };
        }
        if command.id == 0 || (c.state == State::Live) == (command.kind == CONNECT) {
            return Err(Bad);
        }
        let (json, id) = (c.json, command.id);
        match command.kind {
            CONNECT => {
                c.state = State::Live;
                let name = uuid(self.seed, c.id);
                reply_connect(net.output(client), json, id, &name);
            }
            SUBSCRIBE => {
                self.subscribe(client, command.channel);
                put_reply(net.output(client), json, id, (6, "subscribe"), None);
            }
            PUBLISH => {
                self.publish(net, client, command.channel, command.data);
                put_reply(net.output(client), json, id, (8, "publish"), None);
            }
            RPC => put_reply(net.output(client), json, id, (13, "rpc"), Some(command.data)),
            _ => return Err(Bad),
        }
        Ok(())
    }

    fn subscribe(&mut self, client: u32, name: &[u8]) {
        let channel = match self.names.get(name) {
            Some(&channel) => channel,
            None => {
                let fresh = Channel { name: name.into(), subscribers: Vec::new() };
                let channel = match self.free_channels.pop() {
                    Some(channel) => {
                        self.channels[channel as usize] = fresh;
                        channel
                    }
                    None => {
                        self.channels.push(fresh);
                        self.channels.len() as u32 - 1
                    }
                };
                self.names.insert(name.into(), channel);
                channel
            }
        };
        let channels = &mut self.clients[client as usize].channels;
        if !channels.contains(&channel) {
            channels.reserve_exact(1);
            channels.push(channel);
            self.channels[channel as usize].subscribers.push(client);
        }
    }

    fn publish(&mut self, net: &mut Net, from: u32, name: &[u8], data: &[u8]) {
        let Some(&channel) = self.names.get(name) else { return };
        let id = uuid(self.seed, self.clients[from as usize].id);
        let mut frames: [Option<Rc<[u8]>>; 2] = [None, None];
        for &subscriber in &self.channels[channel as usize].subscribers {
            let json = self.clients[subscriber as usize].json;
            let frame = frames[usize::from(json)].get_or_insert_with(|| {
                self.scratch.clear();
                put_publication(&mut self.scratch, json, name, data, &id);
                Rc::from(&self.scratch[..])
            });
            if net.queued_bytes(subscriber) > OUTPUT_LIMIT_BYTES {
                net.close(subscriber);
            } else {
                net.write_shared(subscriber, frame);
            }
        }
    }
}

impl Handler for Floor {
    fn accepted(&mut self, _net: &mut Net, client: u32) {
        self.made += 1;
        let random = self.made.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40;
        // The first ping comes at a random point of the interval's second half.
        let slot = self.slot + PING_SLOTS / 2 + random as usize % (PING_SLOTS / 2);
        let slot = slot % PING_SLOTS;
        let fresh = Client {
            state: State::Upgrading,
            json: true,
            pinged: false,
            ping_slot: slot as u8,
            id: self.made,
            partial: Vec::new(),
            channels: Vec::new(),
        };
        match self.clients.get_mut(client as usize) {
            Some(place) => *place = fresh,
            None => self.clients.push(fresh),
        }
        self.wheel[slot].push(client);
    }

    fn received(&mut self, net: &mut Net, client: u32, bytes: &mut [u8]) {
        if self.clients[client as usize].state == State::Closing {
            return;
        }
        let mut partial = mem::take(&mut self.clients[client as usize].partial);
        let bytes = if partial.is_empty() {
            bytes
        } else {
            partial.extend_from_slice(bytes);
            &mut partial[..]
        };
        match self.consume(net, client, bytes) {
            Ok(used) if bytes.len() - used <= INPUT_LIMIT_BYTES => {
                if used < bytes.len() {
                    self.clients[client as usize].partial = bytes[used..].to_vec();
                }
            }
            _ => net.close(client),
        }
    }

    fn closed(&mut self, _net: &mut Net, client: u32) {
        self.leave(client);
        let c = &mut self.clients[client as usize];
        c.state = State::Closing;
        c.partial = Vec::new();
        let slot = &mut self.wheel[usize::from(c.ping_slot)];
        if let Some(place) = slot.iter().position(|&other| other == client) {
            slot.swap_remove(place);
        }
    }

    fn tick(&mut self, net: &mut Net) {
        self.slot = (self.slot + 1) % PING_SLOTS;
        for &client in &self.wheel[self.slot] {
            let c = &mut self.clients[client as usize];
            if c.state != State::Live || mem::replace(&mut c.pinged, true) {
                net.close(client); // no pong, never connected, or never gone after its close
            } else if c.json {
                net.output(client).extend_from_slice(&[0x81, 2, b'{', b'}']);
            } else {
                net.output(client).extend_from_slice(&[0x82, 1, 0]);
            }
        }
    }

    fn turn(&mut self, _net: &mut Net) -> Wait {
        Wait::Forever
    }
}

fn protobuf_command(body: &[u8]) -> Result<Command<'_>, Bad> {
    let mut command = Command::default();
    let mut request = &[][..];
    each_field(body, |number, varint, bytes| match number {
        1 => command.id = varint,
        _ => (command.kind, request) = (number, bytes),
    })
    .map_err(|_| Bad)?;
    let kind = command.kind;
    each_field(request, |number, _, bytes| match (kind, number) {
        (PUBLISH, 2) | (RPC, 1) => command.data = bytes,
        (SUBSCRIBE | PUBLISH, 1) => command.channel = bytes,
        _ => {}
    })
    .map_err(|_| Bad)?;
    Ok(command)
}

/// Reads a command in the one spelling that the load tool uses.
fn json_command(line: &[u8]) -> Result<Command<'_>, Bad> {
    if line == b"{}" {
        return Ok(Command::default());
    }
    let rest = line.strip_prefix(b"{\"id\":").ok_or(Bad)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (id, rest) = rest.split_at(digits);
    let id = id.iter().fold(0, |id, digit| id * 10 + u64::from(digit - b'0'));
    let command = Command { id, ..Command::default() };
    if rest.starts_with(b",\"connect\":") {
        return Ok(Command { kind: CONNECT, ..command });
    }
    let rest = rest.strip_suffix(b"}}").ok_or(Bad)?;
    if let Some(data) = rest.strip_prefix(b",\"rpc\":{\"method\":\"echo\",\"data\":") {
        return Ok(Command { kind: RPC, data, ..command });
    }
    if let Some(channel) = rest.strip_prefix(b",\"subscribe\":{\"channel\":\"") {
        let channel = channel.strip_suffix(b"\"").ok_or(Bad)?;
        return Ok(Command { kind: SUBSCRIBE, channel, ..command });
    }
    let rest = rest.strip_prefix(b",\"publish\":{\"channel\":\"").ok_or(Bad)?;
    let end = rest.iter().position(|&byte| byte == b'"').ok_or(Bad)?;
    let data = rest[end..].strip_prefix(b"\",\"data\":").ok_or(Bad)?;
    Ok(Command { kind: PUBLISH, channel: &rest[..end], data, ..command })
}

fn put_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    put_header(out, opcode, payload.len());
    out.extend_from_slice(payload);
}

fn put_header(out: &mut Vec<u8>, opcode: u8, length: usize) {
    out.push(0x80 | opcode);
    match length {
        0..=125 => out.push(length as u8),
        126..=65535 => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

fn reply_connect(out: &mut Vec<u8>, json: bool, id: u64, client: &str) {
    if json {
        let text = format!(
            "{{\"id\":{id},\"connect\":{{\"client\":\"{client}\",\"version\":\"floor\",\
             \"ping\":25,\"pong\":true}}}}"
        );
        return put_frame(out, frame::TEXT, text.as_bytes());
    }
    let result =
        [&[0x0a, 36][..], client.as_bytes(), &[0x12, 5], b"floor", &[0x38, 25, 0x40, 1]].concat();
    let mut reply = vec![8];
    put_varint(&mut reply, id);
    reply.extend_from_slice(&[5 << 3 | 2, result.len() as u8]);
    reply.extend_from_slice(&result);
    reply.insert(0, reply.len() as u8);
    put_frame(out, frame::BINARY, &reply);
}

/// A reply with an empty result, or one that has only data.
fn put_reply(
    out: &mut Vec<u8>,
    json: bool,
    id: u64,
    (number, name): (u64, &str),
    data: Option<&[u8]>,
) {
    if json {
        let mut digits = [0; 20];
        let digits = decimal(&mut digits, id);
        let (open, data) = data.map_or((&b"\":{"[..], &[][..]), |data| (b"\":{\"data\":", data));
        let length = 6 + digits.len() + 2 + name.len() + open.len() + data.len() + 2;
        put_header(out, frame::TEXT, length);
        for part in [&b"{\"id\":"[..], digits, b",\"", name.as_bytes(), open, data, b"}}"] {
            out.extend_from_slice(part);
        }
        return;
    }
    let result = data.map_or(0, |data| field_length(data.len()));
    let reply = 1 + varint_length(id as usize) + field_length(result);
    put_header(out, frame::BINARY, varint_length(reply) + reply);
    put_varint(out, reply as u64);
    out.push(1 << 3);
    put_varint(out, id);
    put_varint(out, number << 3 | 2);
    put_varint(out, result as u64);
    if let Some(data) = data {
        put_bytes(out, 1, data);
    }
}

fn put_bytes(out: &mut Vec<u8>, number: u64, value: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn put_publication(out: &mut Vec<u8>, json: bool, channel: &[u8], data: &[u8], client: &str) {
    if json {
        let mut text = Vec::with_capacity(128 + channel.len() + data.len());
        for part in [
            &b"{\"push\":{\"channel\":\""[..],
            channel,
            b"\",\"pub\":{\"data\":",
            data,
            b",\"info\":{\"user\":\"\",\"client\":\"",
            client.as_bytes(),
            b"\"}}}}",
        ] {
            text.extend_from_slice(part);
        }
        return put_frame(out, frame::TEXT, &text);
    }
    let info = field_length(client.len());
    let publication = field_length(data.len()) + field_length(info);
    let push = field_length(channel.len()) + field_length(publication);
    let reply = field_length(push);
    put_header(out, frame::BINARY, varint_length(reply) + reply);
    put_varint(out, reply as u64);
    put_varint(out, 4 << 3 | 2);
    put_varint(out, push as u64);
    put_bytes(out, 2, channel);
    put_varint(out, 4 << 3 | 2);
    put_varint(out, publication as u64);
    put_bytes(out, 4, data);
    put_varint(out, 5 << 3 | 2);
    put_varint(out, info as u64);
    put_bytes(out, 2, client.as_bytes());
}

fn decimal(digits: &mut [u8; 20], mut value: u64) -> &[u8] {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &digits[start..];
        }
    }
}

fn uuid(seed: u64, number: u64) -> String {
    let (high, low) = (seed >> 32, seed as u16);
    format!("{high:08x}-{low:04x}-4000-8000-{number:012x}")
}
