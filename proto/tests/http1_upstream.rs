//! The client's side of HTTP/1.1 against RFC 9112 and 9110: requests that cannot be split, response
//! heads, where each body ends, every cut of the input and every truncation.

use proptest::prelude::*;
use trine_proto::http1::{
    BodyDecoder, BodyEvent, BodyLength, Error, HeadScanner, Header, Request, Response, Version,
    write_request_head,
};

fn header<'a>(name: &'a str, value: &'a (impl AsRef<[u8]> + ?Sized)) -> Header<'a> {
    Header { name, value: value.as_ref() }
}

fn written(
    method: &str,
    target: &str,
    host: &str,
    headers: &[Header<'_>],
    body: BodyLength,
) -> Result<Vec<u8>, Error> {
    let mut out = b"before".to_vec();
    let result = write_request_head(&mut out, method, target, host, headers, body);
    assert!(out.starts_with(b"before"));
    if result.is_err() {
        assert_eq!(out, b"before", "an error leaves nothing behind");
    }
    result.map(|()| out.split_off(6))
}

#[track_caller]
fn parsed<'a>(head: &'a str, method: &str) -> Response<'a> {
    Response::parse(head.as_bytes(), method).expect("a valid head")
}

fn error_of(head: impl AsRef<[u8]>) -> Option<Error> {
    Response::parse(head.as_ref(), "GET").err()
}

/// A response of HTTP/1.1 with these field lines.
fn with_fields(status: u16, fields: &str) -> String {
    format!("HTTP/1.1 {status} \r\n{fields}\r\n")
}

#[test]
fn request_heads() {
    let fields = [header("Content-Type", "text/plain"), header("X", &b"\tobs\xfftext"[..])];
    assert_eq!(
        written("POST", "/a?b", "up:80", &fields, BodyLength::Length(1234567890)).unwrap(),
        b"POST /a?b HTTP/1.1\r\nHost: up:80\r\nContent-Type: text/plain\r\nX: \tobs\xfftext\r\n\
          Content-Length: 1234567890\r\n\r\n"
    );
    assert_eq!(
        written("PUT", "/", "up", &[], BodyLength::Chunked).unwrap(),
        b"PUT / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    assert_eq!(
        written("OPTIONS", "*", "[::1]:80", &[], BodyLength::None).unwrap(),
        b"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"
    );
}

#[test]
fn a_request_cannot_be_split() {
    let none = BodyLength::None;
    for method in ["", "GET ", "GE\rT", "G(T", "GET / HTTP/1.1\r\n\r\nGET"] {
        assert_eq!(written(method, "/", "a", &[], none), Err(Error::RequestLine), "{method:?}");
    }
    for target in ["", "a", "/a b", "/a\r\nX: y", "/a#b", "/\u{e9}", "*", "/\0", "/\t"] {
        assert_eq!(written("GET", target, "a", &[], none), Err(Error::Target), "{target:?}");
    }
    for host in ["", "a b", "a\r\nX: y", "user@a", "a/b", "a:99999999", "a\n"] {
        assert_eq!(written("GET", "/", host, &[], none), Err(Error::Host), "{host:?}");
    }
    for (name, value) in [
        ("", "a"),
        ("A B", "a"),
        ("A:", "a"),
        ("A\r\n", "a"),
        ("\u{e9}", "a"),
        ("A", "a\r\nB: c"),
        ("A", "a\n"),
        ("A", "a\rb"),
        ("A", "\0"),
        ("A", "\u{7f}"),
    ] {
        let error = written("GET", "/", "a", &[header(name, value)], none).err();
        assert_eq!(error, Some(Error::FieldLine), "{name:?}: {value:?}");
    }
}

#[test]
fn a_request_has_one_framing_and_one_host() {
    for (name, expect) in [
        ("hOst", Error::Host),
        ("content-LENGTH", Error::ContentLength),
        ("Transfer-Encoding", Error::TransferEncoding),
    ] {
        let fields = [header("A", "b"), header(name, "1")];
        let error = written("POST", "/", "a", &fields, BodyLength::Length(1)).err();
        assert_eq!(error, Some(expect));
    }
    let error = written("POST", "/", "a", &[], BodyLength::UntilClose).err();
    assert_eq!(error, Some(Error::TransferEncoding));
}

#[test]
fn a_response_of_rfc_9112_section_4() {
    let head = "HTTP/1.1 404 Not  F\u{f8}und \r\nServer: a \r\nVary: b\r\nvary:\tc , D\r\n\
                Content-Length: 5\r\n\r\n";
    let response = parsed(head, "GET");
    assert_eq!((response.status, response.version), (404, Version::Http11));
    assert_eq!(response.header("server"), Some(&b"a"[..]));
    assert_eq!(response.headers_named("VARY").count(), 2);
    assert!(response.has_token("Vary", "d") && !response.has_token("Vary", "e"));
    assert_eq!(response.body, BodyLength::Length(5));
    assert!(response.keep_alive && !response.is_interim());
    // Some servers leave the space away with the phrase.
    assert_eq!(parsed("HTTP/1.0 200\r\n\r\n", "GET").version, Version::Http10);
}

#[test]
fn status_lines_refused() {
    for (line, error) in [
        ("HTTP/1.1 20 OK", Error::StatusLine),
        ("HTTP/1.1 2000 OK", Error::StatusLine),
        ("HTTP/1.1 099 No", Error::StatusLine),
        ("HTTP/1.1 600 No", Error::StatusLine),
        ("HTTP/1.1 -20 No", Error::StatusLine),
        ("HTTP/1.1  200 OK", Error::StatusLine),
        ("HTTP/1.1 ", Error::StatusLine),
        ("HTTP/1.2 200 OK", Error::Version),
        ("HTTP/2.0 200 OK", Error::Version),
        ("HTTP/11 200 OK", Error::Version),
        ("http/1.1 200 OK", Error::StatusLine),
        (" HTTP/1.1 200 OK", Error::StatusLine),
        ("\r\nHTTP/1.1 200 OK", Error::StatusLine),
        ("ICY 200 OK", Error::StatusLine),
        ("GET / HTTP/1.1", Error::StatusLine),
        ("SSH-2.0-OpenSSH", Error::StatusLine),
        ("HTTP/1.1 200 O\0K", Error::ControlCharacter),
        ("HTTP/1.1 200 O\rK", Error::BareCr),
        ("HTTP/1.1 200 O\nK", Error::BareLf),
    ] {
        assert_eq!(error_of(format!("{line}\r\n\r\n")), Some(error), "{line:?}");
    }
    assert_eq!(error_of(""), Some(Error::StatusLine));
}

#[test]
fn field_lines_refused() {
    for fields in ["A : b\r\n", "A: b\r\n c\r\n", " A: b\r\n", "A\r\n", ": b\r\n", "A(: b\r\n"] {
        assert_eq!(error_of(with_fields(200, fields)), Some(Error::FieldLine), "{fields:?}");
    }
    assert_eq!(error_of(with_fields(200, &"A: b\r\n".repeat(101))), Some(Error::TooManyFields));
    assert!(Response::parse(with_fields(200, &"A: b\r\n".repeat(100)).as_bytes(), "GET").is_ok());
}

#[test]
fn body_lengths_of_section_6_3() {
    use BodyLength::{Chunked, Length, None, UntilClose};
    let (five, zero) = ("Content-Length: 5\r\n", "Content-Length: 0\r\n");
    let chunked = "Transfer-Encoding: Chunked\r\n";
    for (method, status, fields, body) in [
        ("GET", 200, five, Length(5)),
        ("GET", 500, zero, Length(0)),
        ("POST", 200, chunked, Chunked),
        ("GET", 200, "", UntilClose),
        ("GET", 205, "", UntilClose),
        ("HEAD", 200, five, None),
        ("HEAD", 200, chunked, None),
        ("HEAD", 200, "", None),
        ("head", 200, five, Length(5)),
        ("GET", 304, five, None),
        ("GET", 304, chunked, None),
        ("GET", 204, "", None),
        ("GET", 204, zero, None),
        ("GET", 100, "", None),
        ("GET", 101, "", None),
        ("CONNECT", 200, five, None),
        ("CONNECT", 400, five, Length(5)),
    ] {
        let head = with_fields(status, fields);
        assert_eq!(parsed(&head, method).body, body, "{method} {status} {fields:?}");
    }
    for status in [100, 103, 204] {
        assert_eq!(error_of(with_fields(status, five)), Some(Error::ContentLength));
        assert_eq!(error_of(with_fields(status, chunked)), Some(Error::TransferEncoding));
    }
}

#[test]
fn ambiguous_framing_is_an_error() {
    for (fields, error) in [
        ("Content-Length: 5\r\nContent-Length: 5\r\n", Error::ContentLength),
        ("Content-Length: 5, 5\r\n", Error::ContentLength),
        ("Content-Length: +5\r\n", Error::ContentLength),
        ("Content-Length:\r\n", Error::ContentLength),
        ("Content-Length: 18446744073709551616\r\n", Error::ContentLength),
        ("Transfer-Encoding: gzip, chunked\r\n", Error::TransferEncoding),
        ("Transfer-Encoding: identity\r\n", Error::TransferEncoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Error::TransferEncoding),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Error::TransferEncoding),
    ] {
        for status in [200, 204, 304, 100] {
            assert_eq!(error_of(with_fields(status, fields)), Some(error), "{status} {fields:?}");
        }
        let head = with_fields(200, fields);
        assert_eq!(Response::parse(head.as_bytes(), "HEAD").err(), Some(error), "{fields:?}");
    }
    let old = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(error_of(old), Some(Error::TransferEncoding));
}

#[test]
fn connections_of_section_9_3() {
    for (version, fields, keep_alive) in [
        ("1.1", "Content-Length: 0\r\n", true),
        ("1.1", "Content-Length: 0\r\nConnection: a, CLOSE\r\n", false),
        ("1.1", "Transfer-Encoding: chunked\r\n", true),
        ("1.1", "", false),
        ("1.0", "Content-Length: 0\r\n", false),
        ("1.0", "Content-Length: 0\r\nConnection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive\r\n", false),
    ] {
        let head = format!("HTTP/{version} 200 OK\r\n{fields}\r\n");
        assert_eq!(parsed(&head, "GET").keep_alive, keep_alive, "{version} {fields:?}");
    }
    let switching = with_fields(101, "");
    assert!(!parsed(&switching, "GET").keep_alive && !parsed(&switching, "GET").is_interim());
    assert!(parsed(&with_fields(103, ""), "GET").is_interim());
    assert!(parsed(&with_fields(204, ""), "GET").keep_alive);
}

/// Reads responses of `method` from pieces as a client does; what it saw, in words.
fn read<'a>(method: &str, pieces: impl IntoIterator<Item = &'a [u8]>, closed: bool) -> Vec<String> {
    let (mut buffer, mut scanner) = (Vec::new(), HeadScanner::new());
    let mut decoder: Option<BodyDecoder> = None;
    let (mut seen, mut data) = (Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            if let Some(body) = &mut decoder {
                let (consumed, event) = match body.decode(&buffer) {
                    Ok(found) => found,
                    Err(error) => return with(seen, &data, error),
                };
                if let Some(BodyEvent::Data(range)) = &event {
                    data.extend_from_slice(&buffer[range.clone()]);
                }
                buffer.drain(..consumed);
                match event {
                    None => break,
                    Some(BodyEvent::Data(_)) => {}
                    Some(BodyEvent::Done) => {
                        seen.push(format!("body {data:?}"));
                        data.clear();
                        decoder = None;
                    }
                }
                continue;
            }
            let len = match scanner.scan(&buffer) {
                Ok(Some(len)) => len,
                Ok(None) => break,
                Err(error) => return with(seen, &data, error),
            };
            match Response::parse(&buffer[..len], method) {
                Ok(response) => {
                    seen.push(format!("{} {:?}", response.status, response.body));
                    if !response.is_interim() {
                        decoder = Some(BodyDecoder::new(response.body));
                    }
                }
                Err(error) => return with(seen, &data, error),
            }
            buffer.drain(..len);
        }
    }
    match decoder {
        Some(mut body) if closed => match body.finish() {
            Ok(()) => seen.push(format!("body {data:?} at the end")),
            Err(error) => return with(seen, &data, error),
        },
        Some(_) => seen.push(format!("more after {data:?}")),
        None if buffer.is_empty() => {}
        None => seen.push("part of a head".to_owned()),
    }
    seen
}

fn with(mut seen: Vec<String>, data: &[u8], error: Error) -> Vec<String> {
    seen.push(format!("{error} after {data:?}"));
    seen
}

const EXCHANGE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n\
    HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nT: u\r\n\r\n\
    HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody\
    HTTP/1.1 200 OK\r\n\r\nto the end\r\n\r\n";

#[test]
fn responses_are_the_same_however_cut() {
    let whole = read("GET", [EXCHANGE], true);
    assert_eq!(whole.len(), 10, "{whole:?}");
    assert!(whole[9].ends_with("at the end"));
    for first in 0..=EXCHANGE.len() {
        let (left, right) = EXCHANGE.split_at(first);
        assert_eq!(read("GET", [left, right], true), whole, "cut at {first}");
    }
    assert_eq!(read("GET", EXCHANGE.chunks(1), true), whole);
}

#[test]
fn a_truncated_body_is_never_whole() {
    for (head, body) in [
        ("Content-Length: 10\r\n", "0123456789"),
        ("Transfer-Encoding: chunked\r\n", "5;x=y\r\nhello\r\n00\r\nA: b\r\n\r\n"),
    ] {
        for cut in 0..body.len() {
            let input = format!("HTTP/1.1 200 OK\r\n{head}\r\n{}", &body[..cut]);
            let last = read("GET", [input.as_bytes()], true).pop().unwrap();
            assert!(last.starts_with("connection closed within a body"), "{cut}: {last}");
        }
        let input = format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}");
        let last = read("GET", [input.as_bytes()], true).pop().unwrap();
        assert!(last.starts_with("body"), "{last}");
    }
    let mut failed = BodyDecoder::new(BodyLength::Chunked);
    assert_eq!(failed.decode(b"x"), Err(Error::Chunk));
    assert_eq!(failed.finish(), Err(Error::Chunk));
    let mut cut = BodyDecoder::new(BodyLength::Length(1));
    assert_eq!(cut.finish(), Err(Error::Incomplete));
    assert_eq!(cut.decode(b"a"), Err(Error::Incomplete));
    let mut open = BodyDecoder::new(BodyLength::UntilClose);
    assert_eq!(open.decode(b""), Ok((0, None)));
    assert_eq!(open.decode(b"ab"), Ok((2, Some(BodyEvent::Data(0..2)))));
    assert!(!open.is_done() && open.finish().is_ok() && open.is_done());
    assert_eq!(open.decode(b"ab"), Ok((0, Some(BodyEvent::Done))));
}

proptest! {
    /// Our own server side, an independent reader of the rules, reads what is written.
    #[test]
    fn written_requests_come_back(
        method in "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,10}".prop_filter("needs no target of its own", |m| m != "CONNECT"),
        target in "/[!-\"$-~]{0,50}",
        fields in proptest::collection::vec(("X-[!#$%&'*+.^_`|~0-9A-Za-z-]{0,20}", "[!-~]([ -~]{0,30}[!-~])?"), 0..20),
        len in proptest::option::of(any::<u64>()),
    ) {
        let headers: Vec<_> = fields.iter().map(|(name, value)| header(name, value)).collect();
        let body = len.map_or(BodyLength::Chunked, BodyLength::Length);
        let head = written(&method, &target, "up.example:8080", &headers, body).unwrap();
        prop_assert_eq!(HeadScanner::new().scan(&head), Ok(Some(head.len())));
        let request = Request::parse(&head).unwrap();
        prop_assert_eq!((request.method, request.target), (&method[..], &target[..]));
        prop_assert_eq!(request.host(), Some("up.example:8080"));
        prop_assert_eq!(request.body, body);
        prop_assert!(request.keep_alive);
        prop_assert_eq!(&request.headers[1..=fields.len()], &headers[..]);
    }

    /// Whatever a caller passes, either nothing is written or exactly one request.
    #[test]
    fn anything_written_is_one_request(
        method in "[A-Z\r\n :]{0,5}",
        target in "[/a*#? \r\n:]{0,8}",
        host in "[a:@/ \r\n]{0,5}",
        name in "[A: \r\n\0]{0,4}",
        value in proptest::collection::vec(any::<u8>(), 0..6),
    ) {
        if let Ok(head) = written(&method, &target, &host, &[header(&name, &value)], BodyLength::None) {
            prop_assert_eq!(HeadScanner::new().scan(&head), Ok(Some(head.len())));
            let request = Request::parse(&head).unwrap();
            prop_assert_eq!((request.method, request.target), (&method[..], &target[..]));
            prop_assert_eq!(request.headers.len(), 2);
        }
    }

    #[test]
    fn damaged_responses_read_the_same_however_cut(
        changes in proptest::collection::vec((any::<usize>(), prop_oneof![
            any::<u8>(), proptest::sample::select(&b"\r\n\t :,0;+\0"[..]),
        ], any::<bool>()), 0..4),
        piece in 1usize..40,
        end: usize,
        method in proptest::sample::select(&["GET", "HEAD"][..]),
    ) {
        let mut input = EXCHANGE.to_vec();
        for (place, byte, insert) in changes {
            let place = place % input.len();
            if insert { input.insert(place, byte) } else { input[place] = byte }
        }
        input.truncate(end % (input.len() + 1));
        for closed in [false, true] {
            let whole = read(method, [&input[..]], closed);
            prop_assert_eq!(read(method, input.chunks(piece), closed), whole);
        }
    }
}
