//! The HTTP API for backends: `POST /api/publish` (client protocol §10).
//!
//! **Runs on: shard.** One call of a connection is under way at a time; while it waits for its
//! answer the connection is not read. Invariants: every call is answered exactly once or its
//! connection ends; nothing is done for a caller that does not know the key.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use trine_core::metrics::Counter;
use trine_core::rt;
use trine_proto::client::{ErrorCode, Format, Object, Tags};
use trine_proto::http1::{
    BodyDecoder, BodyEvent, Error, HeadScanner, Request, ResponseBody, write_response_head,
};
use uuid::Uuid;

use super::connection::{Connections, Face};
use super::durable::{Asked, AskedKind};
use super::http;
use super::shard::Shard;
use crate::broker::{Message, Position, PublishOptions, Version};
use crate::config::Config;
use crate::hub::{Answer, Progress, Ticket};
use crate::ingest::{Event, Outcome, Place, Refusal};
use crate::limits::{API_BODY_BYTES, IDEMPOTENCY_KEY_BYTES, MAILBOX_WAIT_MS, VERSION_EPOCH_BYTES};
use crate::scratch;
use crate::session::{self, RequestHeaders};

/// What is half-read of a connection's calls.
#[derive(Default)]
pub(super) struct Api {
    scanner: HeadScanner,
    /// The beginning of a head that is not complete.
    head: Vec<u8>,
    /// The call whose body is being read.
    begun: Option<Begun>,
}

struct Begun {
    decoder: BodyDecoder,
    body: Vec<u8>,
    /// The status that refuses it, whatever its body says.
    refused: Option<u16>,
    /// It is a HEAD, whose answer has no body (RFC 9110 §9.3.2).
    is_head: bool,
    options: CallOptions,
}

/// How a call is answered.
#[derive(Clone, Debug, Default)]
struct CallOptions {
    keep_alive: bool,
    /// Errors are told by the status.
    transport_errors: bool,
    headers: RequestHeaders,
}

/// A call that waits for its answer.
pub(super) struct Call {
    number: u32,
    options: CallOptions,
    /// The request, until a mailbox had room for it.
    body: Option<Vec<u8>>,
    since_ms: u64,
}

/// What one step of reading led to.
enum Step {
    More,
    Again,
    /// The head is complete.
    Begun,
    Call(Vec<u8>, CallOptions),
    /// The body is too large.
    TooLarge,
    End,
}

impl Api {
    /// Takes what arrived. `Some`: a call was begun; so many bytes were taken, the rest waits.
    pub fn input(&mut self, shard: &mut Shard, id: u32, input: &[u8]) -> Option<usize> {
        let Face::Http { begun } = shard.clients.entry(id).face else { return None };
        let (config, now_ms) = (shard.config.clone(), rt::now_ms());
        let mut rest = input;
        loop {
            let step = scratch::with(|out| {
                let step = self.step(&mut rest, &config, out);
                shard.clients.push(id, out, &[]);
                step
            });
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Begun) => shard.clients.metrics.add(Counter::HttpRequests, 1),
                Ok(Step::More) => {
                    let connection = shard.clients.entry(id);
                    let begins = !self.head.is_empty() || self.begun.is_some();
                    connection.face = Face::Http { begun: begins };
                    // A call that has begun keeps its deadline, however slowly it trickles in.
                    if !(begun && begins) {
                        connection.deadline_ms = now_ms + config.client.head_timeout_ms;
                        shard.clients.arm(id);
                    }
                    return None;
                }
                Ok(Step::Call(body, options)) => {
                    shard.begin_call(id, body, options);
                    return Some(input.len() - rest.len());
                }
                Ok(step @ (Step::End | Step::TooLarge)) => {
                    let refused = matches!(step, Step::TooLarge);
                    shard.clients.metrics.add(Counter::HttpErrors, refused.into());
                    shard.clients.linger(id, true, now_ms);
                    return None;
                }
                Err(error) => {
                    scratch::with(|out| {
                        http::refuse(error, out);
                        shard.clients.push(id, out, &[]);
                    });
                    shard.clients.metrics.add(Counter::HttpErrors, 1);
                    shard.clients.linger(id, true, now_ms);
                    return None;
                }
            }
        }
    }

    /// A head, or a piece of a body.
    fn step(
        &mut self,
        input: &mut &[u8],
        config: &Config,
        out: &mut Vec<u8>,
    ) -> Result<Step, Error> {
        let Some(begun) = &mut self.begun else { return self.head(input, config, out) };
        let (consumed, event) = begun.decoder.decode(input)?;
        let (taken, rest) = input.split_at(consumed);
        *input = rest;
        match event {
            Some(BodyEvent::Data(range)) => {
                if begun.body.len() + range.len() > API_BODY_BYTES {
                    write_refusal(out, 413, begun.is_head, false);
                    return Ok(Step::TooLarge);
                }
                if begun.refused.is_none() {
                    begun.body.extend_from_slice(&taken[range]);
                }
                Ok(Step::Again)
            }
            Some(BodyEvent::Done) => {
                let Some(begun) = self.begun.take() else { return Ok(Step::End) };
                let Some(status) = begun.refused else {
                    return Ok(Step::Call(begun.body, begun.options));
                };
                write_refusal(out, status, begun.is_head, begun.options.keep_alive);
                Ok(if begun.options.keep_alive { Step::Again } else { Step::End })
            }
            None => Ok(Step::More),
        }
    }

    fn head(
        &mut self,
        input: &mut &[u8],
        config: &Config,
        out: &mut Vec<u8>,
    ) -> Result<Step, Error> {
        if input.is_empty() {
            return Ok(Step::More);
        }
        let kept = self.head.len();
        self.head.extend_from_slice(input);
        let Some(length) = self.scanner.scan(&self.head)? else {
            *input = &[];
            return Ok(Step::More);
        };
        *input = &input[length - kept..];
        let head = std::mem::take(&mut self.head);
        let request = Request::parse(&head[..length])?;
        let refused = verdict(&request, config);
        if request.expect_continue && refused.is_none() {
            out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let text = |name: &str| std::str::from_utf8(request.header(name)?).ok();
        self.begun = Some(Begun {
            decoder: BodyDecoder::new(request.body),
            body: Vec::new(),
            refused,
            is_head: request.method == "HEAD",
            options: CallOptions {
                // Who was refused before its body may send it or not: what follows is ambiguous.
                keep_alive: request.keep_alive && !(request.expect_continue && refused.is_some()),
                transport_errors: text("x-centrifugo-error-mode") == Some("transport"),
                headers: config
                    .record_headers()
                    .filter_map(|name| Some((name.into(), text(name)?.into())))
                    .collect(),
            },
        });
        Ok(Step::Begun)
    }
}

/// What comes before the key in `Authorization`.
const SCHEME: &str = "apikey ";

/// The status that refuses a request by its head alone.
fn verdict(request: &Request<'_>, config: &Config) -> Option<u16> {
    let Some(method) = request.path().strip_prefix("/api/") else { return Some(404) };
    let bytes = |name: &str| request.header(name);
    let authorization = bytes("authorization").and_then(|value| {
        let (scheme, key) = value.split_at_checked(SCHEME.len())?;
        scheme.eq_ignore_ascii_case(SCHEME.as_bytes()).then_some(key)
    });
    let query = request.query().unwrap_or_default().split('&');
    let query = query.filter_map(|pair| pair.strip_prefix("api_key=")).next();
    let given = bytes("x-api-key").or(authorization).or(query.map(str::as_bytes));
    if !given.is_some_and(|given| is_same(given, config.api.key.as_bytes())) {
        return Some(401);
    }
    if method != "publish" {
        return Some(404);
    }
    (request.method != "POST").then_some(405)
}

/// Compares in a time that does not depend on where the two differ.
fn is_same(given: &[u8], key: &[u8]) -> bool {
    let differ = given.iter().zip(key).fold(0, |differ, (one, other)| differ | (one ^ other));
    given.len() == key.len() && differ == 0
}

/// Answers a request that is refused before its body is looked at, and says why.
fn write_refusal(out: &mut Vec<u8>, status: u16, is_head: bool, keep_alive: bool) {
    let (more, text): (&[(&str, &str)], _) = match status {
        401 => (
            &[("WWW-Authenticate", SCHEME.trim_ascii_end())],
            "the API key is missing or wrong: send api.key as X-API-Key\n",
        ),
        405 => (&[("Allow", "POST")], "the API is called by POST\n"),
        413 => (&[], "the body is too large for a call\n"),
        _ => (&[], "there is no such call; there is POST /api/publish\n"),
    };
    http::write_text(out, status, more, text, !is_head, keep_alive);
}

/// A body for programs.
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// The body of a publish.
#[derive(Deserialize)]
struct Publish<'a> {
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    b64data: Option<Cow<'a, str>>,
    skip_history: Option<bool>,
    #[serde(borrow, default)]
    idempotency_key: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tags: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
    /// 0: it has none.
    version: Option<u64>,
    #[serde(borrow, default)]
    version_epoch: Option<Cow<'a, str>>,
    /// For subscribers who agreed to get differences. This gateway agrees with nobody on that, so
    /// that each gets the whole payload, which is right for all.
    #[serde(rename = "delta")]
    _delta: Option<bool>,
}

impl Publish<'_> {
    fn options(&self) -> PublishOptions {
        let key = self.idempotency_key.as_deref().filter(|key| !key.is_empty());
        let mut tags = Vec::new();
        for (name, text) in self.tags.iter().flatten() {
            Tags::pack(&mut tags, name, text);
        }
        let epoch = self.version_epoch.as_deref().unwrap_or_default();
        let number = self.version.filter(|number| *number > 0);
        let version = number.map(|number| Version { number, epoch: epoch.into() });
        PublishOptions {
            skip_history: self.skip_history.unwrap_or_default(),
            idempotency_key: key.map(Into::into),
            tags: (!tags.is_empty()).then(|| tags.into()),
            version: version.map(Box::new),
        }
    }
}

/// What a call led to at once.
enum Begin {
    Waits,
    /// There is no room; `durable`: for an event.
    Full {
        durable: bool,
    },
    Answer(Result<(Option<Position>, Option<Place>), Refusal>),
    /// Why the body is no publish.
    Malformed(serde_json::Error),
}

impl Shard {
    fn begin_call(&mut self, id: u32, body: Vec<u8>, options: CallOptions) {
        let now_ms = rt::now_ms();
        self.next_call = self.next_call.wrapping_add(1);
        let number = self.next_call;
        let connection = self.clients.entry(id);
        connection.deadline_ms = u64::MAX;
        connection.face = Face::Http { begun: false };
        connection.call =
            Some(Box::new(Call { number, options, body: Some(body), since_ms: now_ms }));
    }

    /// Goes on with the connection's call. `false`: it has its answer, so more may be read.
    pub fn call_again(&mut self, id: u32) -> bool {
        let connection = self.clients.entry(id);
        if connection.face == Face::Closing {
            connection.call = None;
            return false;
        }
        let Some(call) = &mut connection.call else { return false };
        let (number, since_ms) = (call.number, call.since_ms);
        let Some(body) = call.body.take() else { return true };
        let headers = std::mem::take(&mut call.options.headers);
        match self.publish_for(id, number, &body, &headers) {
            Begin::Waits => return true,
            Begin::Full { .. } if rt::now_ms() < since_ms + MAILBOX_WAIT_MS => {
                let call = self.clients.entry(id).call.as_mut().expect("it was just taken");
                (call.body, call.options.headers) = (Some(body), headers);
                return true;
            }
            Begin::Full { durable } => {
                if durable {
                    self.ingest.count_refused();
                }
                let full = Refusal::temporary("another shard is overloaded");
                self.clients.answer_call(id, Err(full));
            }
            Begin::Answer(answer) => self.clients.answer_call(id, answer),
            Begin::Malformed(error) => {
                let text = format!("the body is not what publish takes: {error}\n");
                self.clients.answer_body(id, 400, http::TEXT, &text);
            }
        }
        false
    }

    fn publish_for(
        &mut self,
        id: u32,
        number: u32,
        body: &[u8],
        headers: &RequestHeaders,
    ) -> Begin {
        let Object(publish) = match serde_json::from_slice::<Object<Publish<'_>>>(body) {
            Ok(publish) => publish,
            Err(error) => return Begin::Malformed(error),
        };
        let options = &publish.options();
        let (namespace, data) = match check(&self.config, &publish, options.tags()) {
            Ok(checked) => checked,
            Err(refusal) => return Begin::Answer(Err(refusal)),
        };
        let channel = (&*publish.channel, namespace);
        if let Some(route) = self.ingest.routes().of_namespace(namespace) {
            let (channel, data) = (channel.0, &*data);
            let event =
                Event { channel, namespace, info: None, data, headers, json: false, options };
            let asked = Asked {
                client: id,
                session: Uuid::nil(),
                reply: number,
                kind: AskedKind::Api,
                since_ns: rt::now_ns(),
            };
            return match self.ask_ingest(route, &event, asked) {
                Ok(true) => Begin::Waits,
                Ok(false) => Begin::Full { durable: true },
                Err(refusal) => Begin::Answer(Err(refusal)),
            };
        }
        let ticket = Ticket { client: id, place: number, id: Uuid::nil() };
        let Shard { hub, clients, .. } = self;
        let message = Message { data: &data, info: None, options };
        match hub.publish(clients, channel, message, ticket, rt::now_ms()) {
            Progress::Done(position) => Begin::Answer(Ok((position, None))),
            Progress::Asked => Begin::Waits,
            Progress::Full(_) => Begin::Full { durable: false },
        }
    }
}

/// The namespace and the payload of a publish that may be done.
fn check<'a>(
    config: &Config,
    publish: &'a Publish<'_>,
    tags: &[u8],
) -> Result<(usize, Cow<'a, [u8]>), Refusal> {
    if publish.idempotency_key.as_ref().is_some_and(|key| key.len() > IDEMPOTENCY_KEY_BYTES) {
        return Err(Refusal::bad_request("the idempotency_key is too long"));
    }
    if publish.version_epoch.as_ref().is_some_and(|epoch| epoch.len() > VERSION_EPOCH_BYTES) {
        return Err(Refusal::bad_request("the version_epoch is too long"));
    }
    if publish.channel.is_empty() {
        return Err(Refusal::bad_request("a channel is wanted"));
    }
    let of_code = |code: ErrorCode| Refusal { code, message: code.message() };
    let namespace = session::namespace_of(config, &publish.channel).map_err(of_code)?;
    let data: Cow<'a, [u8]> = match (publish.data, &publish.b64data) {
        (Some(data), None) => Cow::Borrowed(data.get().as_bytes()),
        (None, Some(text)) => {
            let decoded = STANDARD.decode(text.as_bytes());
            Cow::Owned(decoded.map_err(|_| Refusal::bad_request("b64data is not base64"))?)
        }
        _ => return Err(Refusal::bad_request("data or b64data is wanted, and one of them only")),
    };
    let settings = &config.namespaces[namespace];
    session::check_publish(settings, &data, Format::Protobuf, |_| true).map_err(of_code)?;
    // They are kept and sent with it.
    if data.len() + tags.len() > settings.message_limit_bytes {
        return Err(of_code(ErrorCode::LimitExceeded));
    }
    Ok((namespace, data))
}

impl Connections {
    /// The channel's owner has answered a call.
    pub fn api_answered(&mut self, ticket: Ticket, answer: Answer) {
        let is_its = |call: &Call| call.number == ticket.place && ticket.id.is_nil();
        let call = self.get(ticket.client).and_then(|connection| connection.call.as_ref());
        if !call.is_some_and(|call| is_its(call)) {
            return;
        }
        let answer = match answer {
            Answer::Published(position) => Ok((position, None)),
            Answer::Refused(code) => Err(Refusal { code, message: code.message() }),
            _ => unreachable!("a publish is answered as one"),
        };
        self.answer_call(ticket.client, answer);
    }

    /// The log has answered a call.
    pub fn api_stored(&mut self, id: u32, number: u32, outcome: Outcome, at: Option<Position>) {
        let call = self.get(id).and_then(|connection| connection.call.as_ref());
        if call.is_some_and(|call| call.number == number) {
            self.answer_call(id, outcome.map(|place| (at, Some(place))));
        }
    }

    fn answer_call(&mut self, id: u32, answer: Result<(Option<Position>, Option<Place>), Refusal>) {
        let transport = self.entry(id).call.as_ref().is_some_and(|c| c.options.transport_errors);
        match answer {
            Ok((position, place)) => self.answer_body(id, 200, JSON, &result(position, place)),
            Err(Refusal { code, message }) => {
                let error = format!("{{\"code\":{},\"message\":\"{message}\"}}", code.code());
                match transport {
                    true => self.answer_body(id, status(code), JSON, &error),
                    false => self.answer_body(id, 200, JSON, &format!("{{\"error\":{error}}}")),
                }
            }
        }
    }

    fn answer_body(&mut self, id: u32, status: u16, kind: (&str, &str), body: &str) {
        let now_ms = rt::now_ms();
        let deadline_ms = now_ms + self.config.client.head_timeout_ms;
        let connection = self.entry(id);
        let Some(call) = connection.call.take() else { return };
        connection.deadline_ms = deadline_ms;
        if let Some(waker) = connection.stalled.take() {
            waker.wake();
        }
        let keep_alive = call.options.keep_alive;
        scratch::with(|out| {
            let length = ResponseBody::Length(body.len() as u64);
            write_response_head(out, status, &[kind], length, keep_alive);
            self.push(id, out, body.as_bytes());
        });
        self.arm(id);
        if !keep_alive {
            self.linger(id, true, now_ms);
        }
    }
}

/// Client protocol §10: `offset` and `epoch` are the channel's, the others the log's.
fn result(position: Option<Position>, place: Option<Place>) -> String {
    let mut text = String::from("{\"result\":{");
    if let Some(Position { epoch, offset }) = position {
        let _ = write!(text, "\"offset\":{offset},\"epoch\":\"{epoch}\"");
    }
    if let Some(place) = place {
        let members = place.to_json();
        let comma = if position.is_some() { "," } else { "" };
        let _ = write!(text, "{comma}{}", &members[1..members.len() - 1]);
    }
    text.push_str("}}");
    text
}

/// The status that tells an error in transport mode.
fn status(code: ErrorCode) -> u16 {
    match code {
        ErrorCode::UnknownChannel | ErrorCode::MethodNotFound => 404,
        ErrorCode::UnrecoverablePosition => 416,
        // The log does not have it, and the caller may try again.
        ErrorCode::Internal => 503,
        _ => 400,
    }
}
