//! The task that reads one connection: HTTP first, WebSocket after the upgrade.
//!
//! **Runs on: shard.** Owns what is half-read. Holds a chunk only while its bytes are being taken,
//! so an idle connection has no buffer. A command that can't be taken yet keeps its bytes here, and
//! nothing more is read until it was taken: the peer's own sends are what then waits.

use std::future::poll_fn;
use std::task::Poll;

use trine_core::metrics::Counter;
use trine_core::rt::{self, Stream};
use trine_proto::client::Format;
use trine_proto::ws::{Decoder, Event, Limits};

use super::Shared;
use super::api::Api;
use super::client::Taken;
use super::connection::{Entrance, Face};
use super::demo;
use super::http::{Http, Next};
use super::shard::Shard;
use crate::limits::{ECHO_FRAGMENTS, ECHO_MESSAGE_LIMIT_BYTES, MAILBOX_WAIT_MS};
use crate::scratch;

/// What the bytes mean.
enum Protocol {
    Http(Box<Http>),
    Api(Box<Api>),
    WebSocket {
        decoder: Decoder,
        /// `None`: echo.
        format: Option<Format>,
    },
}

/// What one input led to.
enum Step {
    /// Everything was taken.
    Taken,
    /// So many bytes were taken and the rest is of WebSocket, with this format; `None`: echo.
    Switched { consumed: usize, format: Option<Format> },
    /// What follows has to wait.
    Waits(Wait),
}

/// What the rest of an input waits for.
enum Wait {
    /// So many bytes were taken; what follows waits for the answer to a call.
    Called(usize),
    /// The demo's slow service is to answer this body, and nothing after it.
    Slow(Vec<u8>),
    /// So many bytes were taken; then these commands must wait.
    Stalled { consumed: usize, commands: Vec<u8>, full: bool },
}

/// Reads the connection until its end, then ends what it has on the shard.
//
// Every connection has one of these, so it is a block, which keeps what it is given once, and not
// an `async fn`, which keeps it twice.
pub(super) fn read(
    shard: Shared,
    id: u32,
    stream: Stream,
    entrance: Entrance,
) -> impl Future<Output = ()> {
    let mut protocol = match entrance {
        Entrance::Client | Entrance::Echo => Protocol::Http(Box::default()),
        Entrance::Api => Protocol::Api(Box::default()),
    };
    async move {
        let failed = loop {
            let mut chunk = match stream.recv().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break false,
                Err(_) => break true,
            };
            received(&shard, chunk.len());
            let mut from = 0;
            loop {
                let step = protocol.input(&mut shard.borrow_mut(), id, &mut chunk[from..]);
                from += match step {
                    Step::Taken => break,
                    Step::Switched { consumed, .. } => consumed,
                    // One boxed wait for all of them, since they are rare and every idle
                    // connection would pay for their room.
                    Step::Waits(wait) => Box::pin(waited(&shard, id, wait)).await,
                };
            }
        };
        ended(&shard, id, failed);
    }
}

fn received(shard: &Shared, bytes: usize) {
    let totals = &mut shard.borrow_mut().clients.totals;
    totals.receives += 1;
    totals.bytes_in += bytes as u64;
}

/// Ends what the connection has on the shard; `failed`: it broke, the peer did not end it.
fn ended(shard: &Shared, id: u32, failed: bool) {
    let now_ms = rt::now_ms();
    let mut shard = shard.borrow_mut();
    shard.end_session(id);
    let connection = shard.clients.entry(id);
    if connection.close_code == 0 && matches!(connection.face, Face::Client | Face::Echo) {
        connection.close_code = 1006;
    }
    shard.clients.reader_ended(id, failed, now_ms);
    shard.balance.remove(shard.index);
}

/// Waits, and returns how many bytes of the input were taken.
async fn waited(shard: &Shared, id: u32, wait: Wait) -> usize {
    match wait {
        Wait::Called(consumed) => {
            answered(shard, id).await;
            consumed
        }
        Wait::Slow(body) => {
            demo::answer_slowly(shard, id, &body).await;
            0
        }
        Wait::Stalled { consumed, commands, full } => {
            resume(shard, id, commands, full).await;
            consumed
        }
    }
}

/// Tries stalled commands until all are taken or the connection is ending.
async fn resume(shard: &Shared, id: u32, mut commands: Vec<u8>, mut full: bool) {
    let began_ms = rt::now_ms();
    let mut since_ms = began_ms;
    shard.borrow_mut().clients.entry(id).paused = true;
    loop {
        wait(shard, id).await;
        let mut shard = shard.borrow_mut();
        let now_ms = rt::now_ms();
        let Some(session) = shard.clients.entry(id).session.as_mut() else { return };
        let format = session.format();
        let give_up = full && now_ms >= since_ms + MAILBOX_WAIT_MS;
        let mut rest = &commands[..];
        match shard.commands(id, format, &commands, give_up, &mut rest) {
            Taken::All => {
                shard.clients.entry(id).paused = false;
                if let Some(session) = shard.clients.entry(id).session.as_mut() {
                    session.resume(now_ms - began_ms);
                    shard.clients.arm(id);
                }
                return;
            }
            Taken::Stalled { full: still_full } => {
                let taken = commands.len() - rest.len();
                // The wait for room begins when that is what it waits for.
                if taken > 0 || (still_full && !full) {
                    since_ms = now_ms;
                }
                commands.drain(..taken);
                full = still_full;
            }
        }
    }
}

/// Waits until the call of the HTTP API has its answer.
async fn answered(shard: &Shared, id: u32) {
    loop {
        {
            let mut shard = shard.borrow_mut();
            if !shard.call_again(id) {
                return;
            }
        }
        wait(shard, id).await;
    }
}

/// Waits until something happened that may let this connection's commands go on.
async fn wait(shard: &Shared, id: u32) {
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        shard.borrow_mut().clients.stall(id, cx.waker().clone());
        Poll::Pending
    })
    .await;
}

impl Protocol {
    fn input(&mut self, shard: &mut Shard, id: u32, input: &mut [u8]) -> Step {
        match self {
            Protocol::Http(http) => {
                let step = http_input(http, shard, id, input);
                if let Step::Switched { format, .. } = step {
                    *self = Protocol::WebSocket { decoder: Decoder::new(), format };
                }
                step
            }
            Protocol::Api(api) => match api.input(shard, id, input) {
                Some(consumed) => Step::Waits(Wait::Called(consumed)),
                None => Step::Taken,
            },
            Protocol::WebSocket { decoder, format: Some(format) } => {
                socket_input(decoder, *format, shard, id, input)
            }
            Protocol::WebSocket { decoder, format: None } => {
                echo_input(decoder, shard, id, input);
                Step::Taken
            }
        }
    }
}

/// Answers requests, until an upgrade or a call that takes its time.
fn http_input(http: &mut Http, shard: &mut Shard, id: u32, input: &[u8]) -> Step {
    let Face::Http { begun } = shard.clients.entry(id).face else { return Step::Taken };
    let (config, now_ms) = (shard.config.clone(), rt::now_ms());
    let echo = shard.clients.entry(id).entrance == Entrance::Echo;
    let progress = scratch::with(|out| {
        let progress = http.input(input, &config, echo, out);
        shard.clients.push(id, out, &[]);
        progress
    });
    let metrics = &shard.clients.metrics;
    metrics.add(Counter::HttpRequests, progress.requests);
    metrics.add(Counter::HttpErrors, progress.refused.into());
    match progress.next {
        Next::Read => {
            let connection = shard.clients.entry(id);
            connection.face = Face::Http { begun: http.is_begun() };
            // A head that has begun keeps its deadline, however slowly it trickles in.
            if progress.requests > 0 || !begun {
                connection.deadline_ms = now_ms + config.client.head_timeout_ms;
                shard.clients.arm(id);
            }
            Step::Taken
        }
        Next::End => {
            shard.clients.linger(id, true, now_ms);
            Step::Taken
        }
        Next::Slow(body) => {
            shard.clients.entry(id).deadline_ms = u64::MAX;
            Step::Waits(Wait::Slow(body))
        }
        Next::Upgraded { consumed, agreed } => {
            let format = agreed.as_ref().map(|agreed| agreed.format);
            match agreed {
                Some(agreed) => shard.begin_session(id, agreed),
                None => {
                    let connection = shard.clients.entry(id);
                    connection.face = Face::Echo;
                    connection.deadline_ms = u64::MAX;
                    shard.clients.metrics.add(Counter::Upgrades, 1);
                }
            }
            Step::Switched { consumed, format }
        }
    }
}

fn socket_input(
    decoder: &mut Decoder,
    format: Format,
    shard: &mut Shard,
    id: u32,
    input: &mut [u8],
) -> Step {
    let now_ms = rt::now_ms();
    let limits =
        Limits { message_bytes: shard.config.client.message_limit_bytes, ..Limits::default() };
    let mut consumed = 0;
    loop {
        match decoder.next(&mut input[consumed..], &limits, now_ms) {
            Ok((_, None)) => return Step::Taken,
            Ok((count, Some(Event::Message { payload, .. }))) => {
                consumed += count;
                if shard.clients.is_ending(id) {
                    continue;
                }
                shard.clients.totals.messages_in += 1;
                let mut rest = payload;
                let taken = shard.commands(id, format, payload, false, &mut rest);
                if let Taken::Stalled { full } = taken {
                    let commands = rest.to_vec();
                    return Step::Waits(Wait::Stalled { consumed, commands, full });
                }
            }
            Ok((count, Some(event))) => {
                consumed += count;
                control(shard, id, event);
            }
            Err(error) => {
                shard.close_socket(id, Some(error.close_code()), error.reason(), true);
                return Step::Taken;
            }
        }
    }
}

fn echo_input(decoder: &mut Decoder, shard: &mut Shard, id: u32, input: &mut [u8]) {
    let limits = Limits {
        message_bytes: ECHO_MESSAGE_LIMIT_BYTES,
        fragments: ECHO_FRAGMENTS,
        ..Limits::default()
    };
    let mut consumed = 0;
    loop {
        match decoder.next(&mut input[consumed..], &limits, rt::now_ms()) {
            Ok((_, None)) => return,
            Ok((count, Some(Event::Message { kind, payload }))) => {
                consumed += count;
                shard.clients.totals.messages_in += 1;
                shard.clients.push_frame(id, kind.into(), payload);
            }
            Ok((count, Some(event))) => {
                consumed += count;
                control(shard, id, event);
            }
            Err(error) => {
                shard.close_socket(id, Some(error.close_code()), error.reason(), true);
                return;
            }
        }
    }
}

/// Control frames (RFC 6455 §5.5).
fn control(shard: &mut Shard, id: u32, event: Event<'_>) {
    match event {
        Event::Ping(payload) => {
            shard.clients.push_frame(id, trine_proto::ws::FrameKind::Pong, payload);
        }
        Event::Close { code, .. } => shard.close_socket(id, code, "", true),
        Event::Pong(_) => {
            if let Some(session) = shard.clients.entry(id).session.as_mut() {
                session.frame_pong(&shard.config);
            }
        }
        Event::Message { .. } => {}
    }
}
