//! What must hold for any bytes: no panic, and the same outcome however the input is cut.
//!
//! **Runs on: any.** Shared by the fuzz targets and by the test that runs the corpus through it.

use trine_proto::client::{Commands, Format, is_json, strip_newlines};
use trine_proto::http1::{
    BodyDecoder, BodyEvent, BodyLength, HeadScanner, Request, Response, upgrade, write_request_head,
};
use trine_proto::ws::{Decoder, Limits};

/// The first byte says how long the pieces are that the input is cut into.
fn cut(data: &[u8]) -> (usize, &[u8]) {
    match data.split_first() {
        Some((first, rest)) => (usize::from(*first) % 37 + 1, rest),
        None => (1, data),
    }
}

/// Frames of a client.
pub fn ws(data: &[u8]) {
    let (piece, data) = cut(data);
    let whole = ws_events(data.len().max(1), data);
    assert_eq!(ws_events(piece, data), whole);
    assert_eq!(ws_events(1, data), whole);
}

fn ws_events(piece: usize, data: &[u8]) -> Vec<String> {
    let limits = Limits { message_bytes: 4096, ..Limits::default() };
    let (mut decoder, mut events) = (Decoder::new(), Vec::new());
    for piece in data.to_vec().chunks_mut(piece) {
        let mut rest = piece;
        loop {
            match decoder.next(rest, &limits, 0) {
                Ok((_, None)) => break,
                Ok((consumed, Some(event))) => {
                    events.push(format!("{event:?}"));
                    rest = &mut rest[consumed..];
                }
                Err(error) => {
                    events.push(error.to_string());
                    assert!(
                        decoder.next(&mut [], &limits, 0).is_ok_and(|(_, event)| event.is_none())
                    );
                    return events;
                }
            }
        }
    }
    events
}

/// A request's or a response's head and its body.
pub fn http1(data: &[u8]) {
    let (piece, data) = cut(data);
    let whole = HeadScanner::new().scan(data);
    let mut scanner = HeadScanner::new();
    let mut found = Ok(None);
    let mut end = 0;
    while end < data.len() && found == Ok(None) {
        end = (end + piece).min(data.len());
        found = scanner.scan(&data[..end]);
    }
    if !data.is_empty() {
        assert_eq!(found, whole);
    }
    let Ok(Some(len)) = whole else { return };
    let (head, body) = data.split_at(len);
    let length = if let Ok(request) = Request::parse(head) {
        let _ = upgrade(&request);
        let _ = (request.path(), request.query(), request.list("x").count());
        rewritten(&request);
        request.body
    } else if let Ok(response) = Response::parse(head, if piece % 2 == 0 { "GET" } else { "HEAD" })
    {
        assert!(!response.keep_alive || response.body != BodyLength::UntilClose);
        response.body
    } else {
        return;
    };
    if length != BodyLength::None {
        let all = body_of(length, body.len().max(1), body);
        assert_eq!(body_of(length, piece, body), all);
    }
}

/// What was read can be written for an upstream, which reads the same.
fn rewritten(request: &Request<'_>) {
    let Some(host) = request.host().filter(|host| !host.is_empty()) else { return };
    let framing = ["host", "content-length", "transfer-encoding"];
    let mut headers = request.headers.clone();
    headers.retain(|header| !framing.iter().any(|name| header.name.eq_ignore_ascii_case(name)));
    let mut out = Vec::new();
    write_request_head(&mut out, request.method, request.target, host, &headers, request.body)
        .expect("what was parsed can be written");
    assert_eq!(HeadScanner::new().scan(&out), Ok(Some(out.len())));
    let again = Request::parse(&out).expect("what was written can be parsed");
    assert_eq!((again.method, again.target), (request.method, request.target));
    assert_eq!((again.host(), again.body), (Some(host), request.body));
    assert_eq!(again.headers[1..=headers.len()], headers[..]);
}

fn body_of(length: BodyLength, piece: usize, input: &[u8]) -> (Vec<u8>, String) {
    let (mut decoder, mut data) = (BodyDecoder::new(length), Vec::new());
    for mut rest in input.chunks(piece) {
        loop {
            match decoder.decode(rest) {
                Ok((_, None)) => break,
                Ok((consumed, Some(BodyEvent::Data(range)))) => {
                    data.extend_from_slice(&rest[range]);
                    rest = &rest[consumed..];
                }
                Ok((_, Some(BodyEvent::Done))) => return (data, "done".to_owned()),
                Err(error) => return (data, error.to_string()),
            }
        }
    }
    let end = decoder.finish().map_or_else(|error| error.to_string(), |()| "closed".to_owned());
    (data, end)
}

/// Commands in either format.
pub fn client(data: &[u8]) {
    let (first, data) = cut(data);
    let format = if first % 2 == 0 { Format::Json } else { Format::Protobuf };
    let all: Vec<_> = Commands::new(format, data).collect();
    let mut commands = Commands::new(format, data);
    let mut taken = 0;
    while let Some(command) = commands.next() {
        taken += 1;
        let rest = commands.rest();
        if command.is_ok() && !rest.is_empty() && taken < all.len() {
            // Who stops here can go on with the rest later.
            let later: Vec<_> = Commands::new(format, rest).collect();
            assert_eq!(later, all[taken..]);
        }
    }
    assert_eq!(taken, all.len());
    if is_json(data)
        && let Some(stripped) = strip_newlines(data)
    {
        assert!(is_json(&stripped) && !stripped.contains(&b'\n'));
    }
}
