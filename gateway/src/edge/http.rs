//! The HTTP/1.1 face: health, the demo, and the upgrade to WebSocket.
//!
//! **Runs on: shard**, in the connection's reader. Invariants: a head is never scanned twice; a
//! request that is ambiguous is answered 400 and the connection ends; at most one head is kept.

use trine_proto::client::Format;
use trine_proto::http1::{
    BodyDecoder, BodyEvent, BodyLength, Error, HeadScanner, Request, ResponseBody, Upgrade,
    upgrade, write_response_head,
};
use trine_proto::ws;

use super::demo;
use crate::config::Config;
use crate::limits::BODY_BYTES;
use crate::session::RequestHeaders;

/// Where the client protocol is spoken.
const CLIENT_PATH: &str = "/connection/websocket";
/// Where the echo listener echoes.
const ECHO_PATH: &str = "/echo";
/// Of bodies for people.
pub(super) const TEXT: (&str, &str) = ("Content-Type", "text/plain");

/// What is half-read of a connection's requests.
#[derive(Default)]
pub(super) struct Http {
    scanner: HeadScanner,
    /// The beginning of a head that is not complete.
    head: Vec<u8>,
    /// The body of the last request, which is dropped unless the demo's slow service wants it.
    body: Option<BodyDecoder>,
    body_bytes: u64,
    slow: Option<Vec<u8>>,
}

/// What the connection does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Read on.
    Read,
    /// Speak WebSocket from byte `consumed` of the input on; `None`: echo.
    Upgraded { consumed: usize, agreed: Option<Agreed> },
    /// Let the demo's slow service answer this body, then end the connection.
    Slow(Vec<u8>),
    /// End the connection when the answer has left.
    End,
}

/// What the handshake of the client protocol settled, for the life of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    pub format: Format,
    /// What records need of the request.
    pub headers: RequestHeaders,
    /// Pings are WebSocket frames, for tools that don't know the client protocol's.
    pub frame_pings: bool,
}

/// What one input did.
pub(super) struct Progress {
    pub next: Next,
    /// Requests with a complete head.
    pub requests: u64,
    /// The connection broke the rules.
    pub refused: bool,
}

impl Http {
    /// Whether a request has begun and is not complete.
    pub fn is_begun(&self) -> bool {
        !self.head.is_empty() || self.body.is_some()
    }

    /// Takes what arrived and appends the answers to `out`.
    pub fn input(
        &mut self,
        mut input: &[u8],
        config: &Config,
        echo: bool,
        out: &mut Vec<u8>,
    ) -> Progress {
        let mut progress = Progress { next: Next::Read, requests: 0, refused: false };
        let whole = input.len();
        loop {
            match self.step(&mut input, config, echo, out, &mut progress) {
                // Requests may come together (RFC 9112 §9.3.2), but their answers must not grow
                // without end: the rest may be asked for again on another connection.
                Ok(Some(Next::Read)) if out.len() > config.client.outbox_limit_bytes => {
                    progress.next = Next::End;
                    return progress;
                }
                Ok(Some(Next::Read)) => {}
                Ok(Some(Next::Upgraded { agreed, .. })) => {
                    let consumed = whole - input.len();
                    progress.next = Next::Upgraded { consumed, agreed };
                    return progress;
                }
                Ok(Some(next)) => {
                    progress.next = next;
                    return progress;
                }
                Ok(None) => return progress,
                Err(error) => {
                    refuse(error, out);
                    progress.next = Next::End;
                    progress.refused = true;
                    return progress;
                }
            }
        }
    }

    /// One body or one head; `None`: more input is needed.
    fn step(
        &mut self,
        input: &mut &[u8],
        config: &Config,
        echo: bool,
        out: &mut Vec<u8>,
        progress: &mut Progress,
    ) -> Result<Option<Next>, Error> {
        if let Some(body) = &mut self.body {
            let (consumed, event) = body.decode(input)?;
            let (taken, rest) = input.split_at(consumed);
            *input = rest;
            match event {
                Some(BodyEvent::Data(data)) => {
                    self.body_bytes += data.len() as u64;
                    if self.body_bytes > BODY_BYTES {
                        if self.slow.is_some() {
                            write_response_head(out, 413, &[], ResponseBody::Length(0), false);
                            progress.refused = true;
                        }
                        return Ok(Some(Next::End));
                    }
                    if let Some(kept) = &mut self.slow {
                        kept.extend_from_slice(&taken[data]);
                    }
                    return Ok(Some(Next::Read));
                }
                Some(BodyEvent::Done) => {
                    self.body = None;
                    if let Some(kept) = self.slow.take() {
                        return Ok(Some(Next::Slow(kept)));
                    }
                }
                None => return Ok(None),
            }
            return Ok(Some(Next::Read));
        }
        if self.head.is_empty() && input.is_empty() {
            return Ok(None);
        }
        let kept = self.head.len();
        let next = if kept == 0 {
            let Some(len) = self.scanner.scan(input)? else {
                self.head.extend_from_slice(input);
                return Ok(None);
            };
            let (head, rest) = input.split_at(len);
            *input = rest;
            self.request(head, config, echo, out)?
        } else {
            self.head.extend_from_slice(input);
            let Some(len) = self.scanner.scan(&self.head)? else {
                *input = &[];
                return Ok(None);
            };
            *input = &input[len - kept..];
            let head = std::mem::take(&mut self.head);
            self.request(&head[..len], config, echo, out)?
        };
        progress.requests += 1;
        Ok(Some(next))
    }

    fn request(
        &mut self,
        head: &[u8],
        config: &Config,
        echo: bool,
        out: &mut Vec<u8>,
    ) -> Result<Next, Error> {
        let request = Request::parse(head)?;
        let path = request.path();
        let socket_path = if echo { ECHO_PATH } else { CLIENT_PATH };
        if path == socket_path {
            return match upgrade(&request)? {
                Some(upgrade) => Ok(handshake(&request, &upgrade, config, echo, out)),
                None => Ok(self.answer(
                    &request,
                    426,
                    &[("Upgrade", "websocket")],
                    "this is a WebSocket endpoint\n",
                    out,
                )),
            };
        }
        if path == demo::SLOW_PATH && request.method == "POST" && config.demo && !echo {
            if request.expect_continue {
                out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            self.body = Some(BodyDecoder::new(request.body));
            self.body_bytes = 0;
            self.slow = Some(Vec::new());
            return Ok(Next::Read);
        }
        if !matches!(request.method, "GET" | "HEAD") {
            let headers = [("Allow", "GET, HEAD")];
            return Ok(self.answer(&request, 405, &headers, "method not allowed\n", out));
        }
        if path == "/healthz" {
            let headers = [TEXT, ("Cache-Control", "no-store")];
            return Ok(self.answer(&request, 200, &headers, "ok\n", out));
        }
        if config.demo
            && !echo
            && let Some(file) = demo::file(path)
        {
            return Ok(self.answer(&request, 200, &file.headers(), file.text, out));
        }
        Ok(self.answer(&request, 404, &[TEXT], "not found\n", out))
    }

    /// Appends a whole answer; the request's body, if there is one, is dropped afterwards.
    fn answer(
        &mut self,
        request: &Request<'_>,
        status: u16,
        headers: &[(&str, &str)],
        text: &str,
        out: &mut Vec<u8>,
    ) -> Next {
        // Who waits for 100 (Continue) may send the body or not, so what follows is ambiguous.
        let keep_alive = request.keep_alive && !request.expect_continue;
        let length = ResponseBody::Length(text.len() as u64);
        write_response_head(out, status, headers, length, keep_alive);
        if request.method != "HEAD" {
            out.extend_from_slice(text.as_bytes());
        }
        if request.body != BodyLength::None {
            self.body = Some(BodyDecoder::new(request.body));
            self.body_bytes = 0;
        }
        if keep_alive { Next::Read } else { Next::End }
    }
}

/// Answers a valid handshake: 101, or 403 for a page that may not connect.
fn handshake(
    request: &Request<'_>,
    upgrade: &Upgrade<'_>,
    config: &Config,
    echo: bool,
    out: &mut Vec<u8>,
) -> Next {
    if !may_connect(upgrade, config) {
        let text = "this origin may not connect; client.allowed_origins lists those that may\n";
        write_text(out, 403, &[], text, true, false);
        return Next::End;
    }
    let Some(accept) = ws::accept_key(upgrade.key) else {
        refuse(Error::Upgrade, out);
        return Next::End;
    };
    let (mut agreed, protocol) = negotiate(request, upgrade);
    agreed.headers = config
        .record_headers()
        .filter_map(|name| {
            Some((name.into(), std::str::from_utf8(request.header(name)?).ok()?.into()))
        })
        .collect();
    let accept = std::str::from_utf8(&accept).unwrap_or_default();
    let headers = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept),
        ("Sec-WebSocket-Protocol", protocol.unwrap_or_default()),
    ];
    let count = if protocol.is_some() && !echo { 4 } else { 3 };
    write_response_head(out, 101, &headers[..count], ResponseBody::None, true);
    Next::Upgraded { consumed: 0, agreed: (!echo).then_some(agreed) }
}

/// RFC 6455 §10.2: no Origin (no browser), that of the same host, or one on the list.
fn may_connect(upgrade: &Upgrade<'_>, config: &Config) -> bool {
    let Some(origin) = upgrade.origin else { return true };
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(upgrade.host))
        || config.client.allowed_origins.iter().any(|allowed| allowed == origin)
}

/// The format by the subprotocol that is named first, else by the query; the kind of pings by the
/// query (client protocol §1).
fn negotiate(request: &Request<'_>, upgrade: &Upgrade<'_>) -> (Agreed, Option<&'static str>) {
    let headers = RequestHeaders::default();
    let mut agreed = Agreed { format: Format::Json, headers, frame_pings: false };
    for pair in request.query().unwrap_or_default().split('&') {
        match pair {
            "format=protobuf" | "cf_protocol=protobuf" => agreed.format = Format::Protobuf,
            "cf_ws_frame_ping_pong=true" => agreed.frame_pings = true,
            _ => {}
        }
    }
    for offered in upgrade.protocols() {
        let (format, name) = match offered {
            "centrifuge-json" => (Format::Json, "centrifuge-json"),
            "centrifuge-protobuf" => (Format::Protobuf, "centrifuge-protobuf"),
            _ => continue,
        };
        return (Agreed { format, ..agreed }, Some(name));
    }
    (agreed, None)
}

/// Answers a broken request; the connection ends after it.
pub(super) fn refuse(error: Error, out: &mut Vec<u8>) {
    let version: &[_] = &[("Sec-WebSocket-Version", "13")];
    let more = if error == Error::UpgradeVersion { version } else { &[] };
    write_text(out, error.status(), more, &format!("{error}\n"), true, false);
}

/// The answer to a request that did not arrive in time (RFC 9110 §15.5.9).
pub(super) fn write_timeout(out: &mut Vec<u8>) {
    write_text(out, 408, &[], "the request did not arrive in time\n", true, false);
}

/// An answer for people; without `has_body` its head alone, as HEAD gets it (RFC 9110 §9.3.2).
pub(super) fn write_text(
    out: &mut Vec<u8>,
    status: u16,
    more: &[(&str, &str)],
    text: &str,
    has_body: bool,
    keep_alive: bool,
) {
    let headers = [&[TEXT], more].concat();
    write_response_head(out, status, &headers, ResponseBody::Length(text.len() as u64), keep_alive);
    if has_body {
        out.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is answered to `input`, and what the connection does next.
    fn input(input: &str, config: &Config, echo: bool) -> (String, Next) {
        let mut out = Vec::new();
        let progress = Http::default().input(input.as_bytes(), config, echo, &mut out);
        (String::from_utf8(out).unwrap(), progress.next)
    }

    fn handshake(path: &str, fields: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: chat.example:8000\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n"
        )
    }

    fn statuses(answers: &str) -> Vec<&str> {
        let heads = answers.split("HTTP/1.1 ").skip(1);
        heads.map(|head| head.split(' ').next().unwrap_or_default()).collect()
    }

    #[test]
    fn a_page_may_connect_from_its_own_host_or_from_the_list() {
        let mut config = Config::embedded();
        config.client.allowed_origins = vec!["https://desk.example".into()];
        for (origin, status) in [
            ("", "101"),
            ("Origin: http://chat.example:8000\r\n", "101"),
            ("Origin: https://CHAT.example:8000\r\n", "101"),
            ("Origin: https://desk.example\r\n", "101"),
            ("Origin: http://desk.example\r\n", "403"),
            ("Origin: https://desk.example.evil\r\n", "403"),
            ("Origin: http://chat.example\r\n", "403"),
            ("Origin: null\r\n", "403"),
            ("Origin: \r\n", "403"),
            ("Origin: https://desk.example\r\nOrigin: https://desk.example\r\n", "400"),
        ] {
            let (answer, _) = input(&handshake(CLIENT_PATH, origin), &config, false);
            assert_eq!(statuses(&answer), [status], "{origin}");
        }
    }

    #[test]
    fn the_first_subprotocol_that_is_known_is_echoed_and_none_otherwise() {
        let config = Config::embedded();
        let offer = |protocols: &str, query: &str| {
            let path = format!("{CLIENT_PATH}{query}");
            let fields = match protocols {
                "" => String::new(),
                named => format!("Sec-WebSocket-Protocol: {named}\r\n"),
            };
            let (answer, next) = input(&handshake(&path, &fields), &config, false);
            let Next::Upgraded { agreed: Some(agreed), .. } = next else { panic!("{answer}") };
            let echoed = answer.lines().find_map(|l| l.strip_prefix("Sec-WebSocket-Protocol: "));
            (agreed.format, echoed.map(str::to_owned))
        };
        let protobuf = Some("centrifuge-protobuf".to_owned());
        assert_eq!(offer("", ""), (Format::Json, None));
        assert_eq!(offer("graphql-ws", ""), (Format::Json, None));
        assert_eq!(offer("x, centrifuge-protobuf", ""), (Format::Protobuf, protobuf));
        let json = Some("centrifuge-json".to_owned());
        assert_eq!(offer("centrifuge-json, centrifuge-protobuf", ""), (Format::Json, json));
        assert_eq!(offer("", "?a=b&format=protobuf"), (Format::Protobuf, None));
        assert_eq!(offer("", "?cf_protocol=protobuf"), (Format::Protobuf, None));
    }

    #[test]
    fn the_echo_listener_knows_its_own_path_only() {
        let config = Config::embedded();
        for (path, echo, status) in [
            (ECHO_PATH, true, "101"),
            (CLIENT_PATH, true, "404"),
            (ECHO_PATH, false, "404"),
            (CLIENT_PATH, false, "101"),
        ] {
            let (answer, _) = input(&handshake(path, ""), &config, echo);
            assert_eq!(statuses(&answer), [status], "{path}, echo {echo}");
        }
        assert_eq!(statuses(&input("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &config, true).0), ["404"]);
    }

    #[test]
    fn requests_may_be_pipelined_with_bodies_and_without() {
        let config = Config::embedded();
        let requests = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n\
            POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
            3\r\nabc\r\n0\r\n\r\n\
            PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /\
            HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n\
            GET /connection/websocket HTTP/1.1\r\nHost: a\r\n\r\n\
            GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n\
            GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
        let (answers, next) = input(requests, &config, false);
        assert_eq!(statuses(&answers), ["200", "405", "405", "200", "426", "404"]);
        assert_eq!(next, Next::End, "nothing is answered after `Connection: close`");
        assert_eq!(answers.matches("ok\n").count(), 1, "HEAD has no body");
        // However the bytes arrive, the answers are the same.
        let (mut http, mut out) = (Http::default(), Vec::new());
        for byte in requests.as_bytes() {
            if http.input(&[*byte], &config, false, &mut out).next == Next::End {
                break;
            }
        }
        assert_eq!(String::from_utf8(out).unwrap(), answers);
    }

    #[test]
    fn the_slow_service_takes_one_call_of_a_connection() {
        let mut config = Config::embedded();
        let call = "POST /demo/slow HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}";
        let (answer, next) = input(&call.repeat(2), &config, false);
        assert_eq!((&*answer, next), ("", Next::Slow(b"{}".to_vec())), "it is answered later");
        let next = input("POST /demo/slow HTTP/1.1\r\nHost: a\r\n\r\n", &config, false).1;
        assert_eq!(next, Next::Slow(Vec::new()));
        let long = call.replace("Length: 2", "Length: 65537").replace("{}", &"x".repeat(65_537));
        let mut answer = Vec::new();
        let progress = Http::default().input(long.as_bytes(), &config, false, &mut answer);
        let answer = String::from_utf8(answer).unwrap();
        assert_eq!((statuses(&answer), progress.next), (vec!["413"], Next::End));
        assert_eq!((progress.requests, progress.refused), (1, true));
        assert_eq!(
            statuses(&input("GET /demo/slow HTTP/1.1\r\nHost: a\r\n\r\n", &config, false).0),
            ["404"]
        );
        config.demo = false;
        assert_eq!(statuses(&input(call, &config, false).0), ["405"]);
    }

    #[test]
    fn answers_to_pipelined_requests_are_bounded() {
        let config = Config::embedded();
        let request = "GET /demo/centrifuge.js HTTP/1.1\r\nHost: a\r\n\r\n";
        let (answers, next) = input(&request.repeat(1000), &config, false);
        let one = input(request, &config, false).0.len();
        assert_eq!(next, Next::End);
        assert!(answers.len() <= config.client.outbox_limit_bytes + one, "{}", answers.len());
    }

    #[test]
    fn what_is_ambiguous_is_400_and_the_end() {
        let config = Config::embedded();
        for request in [
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
            "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            let (answer, next) = input(&format!("{request}{request}"), &config, false);
            assert_eq!((statuses(&answer), next), (vec!["400"], Next::End), "{request:?}");
            assert!(answer.contains("Connection: close"), "{answer}");
        }
    }
}
