//! A small blocking client of the client protocol over JSON, that hides nothing: every push is
//! kept in the order it came, and the way a connection ended is told.
//!
//! **Runs on: any.** Every wait ends with [`DEADLINE`] at the latest.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::{Error, Message, WebSocket};

use crate::wait::DEADLINE;

/// Why a command has no result.
#[derive(Debug)]
pub enum Failure {
    /// The gateway's error reply.
    Refused {
        /// The protocol's error code.
        code: u64,
        /// Its text.
        message: String,
    },
    /// The connection ended with a close frame.
    Closed {
        /// The close code, 1005 when there was none.
        code: u16,
        /// The reason given.
        reason: String,
    },
    /// The connection ended without one.
    Cut(String),
    /// Nothing came in time.
    TimedOut,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, message } => write!(f, "error {code}: {message}"),
            Self::Closed { code, reason } => write!(f, "closed {code}: {reason}"),
            Self::Cut(how) => write!(f, "cut: {how}"),
            Self::TimedOut => write!(f, "nothing came in time"),
        }
    }
}

impl std::error::Error for Failure {}

/// Where a subscriber stands in a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The stream's epoch.
    pub epoch: String,
    /// The offset of the last publication seen.
    pub offset: u64,
}

/// A subscribe reply.
#[derive(Clone, Debug)]
pub struct Subscribed {
    /// The position it tells.
    pub position: Position,
    /// Whether all that was missed is in `publications`.
    pub recovered: bool,
    /// What was missed.
    pub publications: Vec<Value>,
}

/// A connected client.
pub struct Client {
    /// The id that the gateway gave.
    pub id: String,
    /// How often the gateway has asked whether it is still there.
    pub pings: usize,
    socket: WebSocket<TcpStream>,
    next_id: u32,
    answers_pings: bool,
    replies: VecDeque<(u32, Value)>,
    pushes: VecDeque<Value>,
}

impl Client {
    /// Connects as `name` (the embedded default makes it user and conn_info).
    pub fn connect(address: SocketAddr, name: &str) -> Result<Self, Failure> {
        Self::connect_with(address, name, &[])
    }

    /// The same by a request with these headers, whose names are in lower case.
    pub fn connect_with(
        address: SocketAddr,
        name: &str,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Self, Failure> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).map_err(cut)?;
        Self::open(stream, address, name, headers)
    }

    /// Connects over a socket that the caller has made.
    pub fn over(stream: TcpStream, address: SocketAddr, name: &str) -> Result<Self, Failure> {
        Self::open(stream, address, name, &[])
    }

    fn open(
        stream: TcpStream,
        address: SocketAddr,
        name: &str,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Self, Failure> {
        stream.set_nodelay(true).map_err(cut)?;
        stream.set_read_timeout(Some(DEADLINE)).map_err(cut)?;
        stream.set_write_timeout(Some(DEADLINE)).map_err(cut)?;
        let url = format!("ws://{address}/connection/websocket");
        let mut request = url.into_client_request().map_err(cut)?;
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_static(value));
        }
        let (socket, _) = tungstenite::client(request, stream).map_err(cut)?;
        let (replies, pushes) = (VecDeque::new(), VecDeque::new());
        let id = String::new();
        let (pings, next_id, answers_pings) = (0, 1, false);
        let mut client = Self { id, pings, socket, next_id, answers_pings, replies, pushes };
        let connected = client.call("connect", json!({"data": {"name": name}}))?;
        client.id = connected["client"].as_str().unwrap_or_default().to_owned();
        client.answers_pings = connected["pong"] == true;
        Ok(client)
    }

    /// Sends one command and waits for its reply.
    pub fn call(&mut self, method: &str, body: Value) -> Result<Value, Failure> {
        let id = self.send(method, body)?;
        self.reply(id, method)
    }

    /// Sends one command; its id.
    pub fn send(&mut self, method: &str, body: Value) -> Result<u32, Failure> {
        let id = self.next_id;
        self.next_id += 1;
        let text = json!({"id": id, method: body}).to_string();
        self.socket.send(Message::text(text)).map_err(failure)?;
        Ok(id)
    }

    /// Sends commands in one frame; the id of the first, the others' follow.
    pub fn send_together(&mut self, method: &str, bodies: &[Value]) -> Result<u32, Failure> {
        let first = self.next_id;
        self.next_id += bodies.len() as u32;
        let lines = bodies.iter().zip(first..);
        let lines: Vec<_> =
            lines.map(|(body, id)| json!({"id": id, method: body}).to_string()).collect();
        self.socket.send(Message::text(lines.join("\n"))).map_err(failure)?;
        Ok(first)
    }

    /// Waits for the reply to command `id`, which was `method`.
    pub fn reply(&mut self, id: u32, method: &str) -> Result<Value, Failure> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.replies.iter().position(|(of, _)| *of == id) {
                let (_, reply) = self.replies.remove(at).unwrap_or_default();
                return result(reply, method);
            }
            self.receive(deadline)?;
        }
    }

    /// The next reply, whichever it is, already received or within `limit`: the id of its command, which was
    /// `method`, and its result or the refusal. Any other failure is the connection's.
    pub fn next_reply(
        &mut self,
        method: &str,
        limit: Duration,
    ) -> Result<(u32, Result<Value, Failure>), Failure> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some((id, reply)) = self.replies.pop_front() {
                return Ok((id, result(reply, method)));
            }
            self.receive(deadline)?;
        }
    }

    /// Subscribes, recoverable and positioned; with `from` it asks to recover.
    pub fn subscribe(
        &mut self,
        channel: &str,
        from: Option<&Position>,
    ) -> Result<Subscribed, Failure> {
        let mut body = json!({
            "channel": channel, "recoverable": true, "positioned": true, "join_leave": false,
        });
        if let Some(position) = from {
            body["recover"] = true.into();
            body["epoch"] = position.epoch.clone().into();
            body["offset"] = position.offset.into();
        }
        let mut reply = self.call("subscribe", body)?;
        let publications = reply["publications"].take();
        Ok(Subscribed {
            position: Position {
                epoch: reply["epoch"].as_str().unwrap_or_default().to_owned(),
                offset: reply["offset"].as_u64().unwrap_or_default(),
            },
            recovered: reply["recovered"] == true,
            publications: publications.as_array().cloned().unwrap_or_default(),
        })
    }

    /// Publishes and waits for the reply.
    pub fn publish(&mut self, channel: &str, data: Value) -> Result<(), Failure> {
        self.call("publish", json!({"channel": channel, "data": data})).map(|_| ())
    }

    /// The next push, already received or within `limit`.
    pub fn push(&mut self, limit: Duration) -> Result<Value, Failure> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(push) = self.pushes.pop_front() {
                return Ok(push);
            }
            self.receive(deadline)?;
        }
    }

    /// Reads until the connection ends; how it did.
    pub fn end(&mut self) -> Failure {
        loop {
            match self.push(DEADLINE) {
                Ok(_) => {}
                Err(end) => return end,
            }
        }
    }

    /// Ends the connection as a network does: a reset, no close frame.
    pub fn cut(self) {
        let stream = self.socket.get_ref();
        let linger = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
        linger.expect("lingering is a socket option");
    }

    /// Receives one frame and sorts what is in it.
    fn receive(&mut self, deadline: Instant) -> Result<(), Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = left.max(Duration::from_millis(1));
        self.socket.get_ref().set_read_timeout(Some(left)).map_err(cut)?;
        let text = match self.socket.read().map_err(failure)? {
            Message::Text(text) => text,
            Message::Close(frame) => {
                let (code, reason) = frame
                    .map(|frame| (u16::from(frame.code), frame.reason.to_string()))
                    .unwrap_or((1005, String::new()));
                return Err(Failure::Closed { code, reason });
            }
            _ => return Ok(()),
        };
        for line in text.lines() {
            let mut message: Value = serde_json::from_str(line).map_err(cut)?;
            if let Some(id) = message["id"].as_u64() {
                self.replies.push_back((id as u32, message));
            } else if !message["push"].is_null() {
                self.pushes.push_back(message["push"].take());
            } else {
                self.pings += 1;
                if self.answers_pings {
                    self.socket.send(Message::text("{}")).map_err(failure)?;
                }
            }
        }
        Ok(())
    }
}

/// The result of a `method` in its reply, or the refusal.
fn result(mut reply: Value, method: &str) -> Result<Value, Failure> {
    if let Some(error) = reply.get("error") {
        let code = error["code"].as_u64().unwrap_or_default();
        let message = error["message"].as_str().unwrap_or_default().to_owned();
        return Err(Failure::Refused { code, message });
    }
    Ok(reply[method].take())
}

fn cut(error: impl fmt::Display) -> Failure {
    Failure::Cut(error.to_string())
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Io(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
        {
            Failure::TimedOut
        }
        other => cut(other),
    }
}
