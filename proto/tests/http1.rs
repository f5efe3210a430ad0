//! HTTP/1.1 framing against RFC 9112: what is accepted, every ambiguity that is refused, every cut of
//! the input, and the WebSocket handshake of RFC 6455 §4.2.1.

use proptest::prelude::*;
use trine_proto::http1::{
    BodyDecoder, BodyEvent, BodyLength, Error, HeadScanner, LAST_CHUNK, Request, ResponseBody,
    Upgrade, Version, upgrade, write_chunk, write_response_head,
};
use trine_proto::limits;

#[track_caller]
fn parsed(head: &str) -> Request<'_> {
    Request::parse(head.as_bytes()).expect("a valid head")
}

/// A GET of HTTP/1.1 with these field lines beside Host.
fn with_fields(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

fn error_of(head: impl AsRef<[u8]>) -> Option<Error> {
    Request::parse(head.as_ref()).err()
}

#[test]
fn a_request_of_section_2_1() {
    let head = "GET /hello.txt?a=1&b=?/ HTTP/1.1\r\nUser-Agent: curl/7.64.1\r\n\
                Host: www.example.com:8000\r\nAccept-Language: \t en, mi \t\r\nEmpty:\r\n\r\n";
    let request = parsed(head);
    assert_eq!(request.method, "GET");
    assert_eq!(request.target, "/hello.txt?a=1&b=?/");
    assert_eq!((request.path(), request.query()), ("/hello.txt", Some("a=1&b=?/")));
    assert_eq!(request.version, Version::Http11);
    assert_eq!(request.host(), Some("www.example.com:8000"));
    assert_eq!(request.header("accept-language"), Some(&b"en, mi"[..]));
    assert_eq!(request.header("EMPTY"), Some(&b""[..]));
    assert_eq!(request.header("Absent"), None);
    assert_eq!(request.headers.len(), 4);
    assert_eq!(request.body, BodyLength::None);
    assert!(request.keep_alive && !request.expect_continue);
}

#[test]
fn lists_of_rfc_9110_section_5_6_1() {
    let head = with_fields("X: a, ,B\t ,c\r\nx:\r\nX: d\r\n");
    let request = parsed(&head);
    let members: Vec<_> = request.list("x").collect();
    assert_eq!(members, [&b"a"[..], b"B", b"c", b"d"]);
    assert!(request.has_token("X", "b") && request.has_token("x", "D"));
    assert!(!request.has_token("X", "a, ") && !request.has_token("X", ""));
    assert_eq!(request.headers_named("X").count(), 3);
}

#[test]
fn targets_of_section_3_2() {
    for (method, target, path, query, host) in [
        ("GET", "/", "/", None, "a"),
        ("GET", "//b/c", "//b/c", None, "a"),
        ("GET", "/?", "/", Some(""), "a"),
        ("GET", "/a|b{}^%zz", "/a|b{}^%zz", None, "a"),
        // The target's authority goes before Host (§3.2.2).
        ("GET", "http://b.example:80/x?y", "/x", Some("y"), "b.example:80"),
        ("GET", "HTTPS://b", "/", None, "b"),
        ("GET", "http://[::1]:9?q/://", "/", Some("q/://"), "[::1]:9"),
        ("OPTIONS", "*", "*", None, "a"),
        ("CONNECT", "b:443", "b:443", None, "b:443"),
    ] {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let request = parsed(&head);
        assert_eq!((request.path(), request.query()), (path, query), "{target}");
        assert_eq!(request.host(), Some(host), "{target}");
    }
    for (method, target) in [
        ("GET", "*"),
        ("GET", "a"),
        ("GET", "b:443"),
        ("GET", "/a#b"),
        ("GET", "/é"),
        ("GET", "http:///x"),
        ("GET", "http://user@b/"),
        ("GET", "file://b/x"),
        ("GET", "http:/x"),
        ("CONNECT", "/"),
        ("CONNECT", "http://b/"),
    ] {
        let error = error_of(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(error, Some(Error::Target), "{method} {target}");
    }
}

#[test]
fn request_lines_of_section_3() {
    for line in [
        "",
        "GET",
        "GET /",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET\t/ HTTP/1.1",
        "GET /a b HTTP/1.1",
        " GET / HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1",
        "GET / HTTP/11",
        "GET / HTTP/1.10",
        "GET / HTTP/+1.1",
        "GET / HTTPS/1.1",
        "GET / HTTP/1.x",
        "\u{e9} / HTTP/1.1",
    ] {
        let error = error_of(format!("{line}\r\nHost: a\r\n\r\n")).expect("refused");
        assert_eq!(error.status(), 400, "{line}: {error}");
    }
    for version in ["0.9", "1.2", "2.0", "3.0", "9.9"] {
        let error = error_of(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"));
        assert_eq!(error, Some(Error::Version), "{version}");
    }
    assert_eq!(Error::Version.status(), 505);
    for before in ["\r\n", " \r\n", "\t", "\r\n\r\n"] {
        let error = error_of(format!("{before}GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(matches!(error, Some(Error::RequestLine)), "{before:?}: {error:?}");
    }
}

#[test]
fn line_ends_of_section_2_2() {
    let head = with_fields("X: y\r\n");
    for (index, _) in head.match_indices("\r\n") {
        let mut without_cr = head.clone();
        without_cr.remove(index);
        assert_eq!(error_of(&without_cr), Some(Error::BareLf), "{without_cr:?}");
        let mut without_lf = head.clone();
        without_lf.remove(index + 1);
        assert_eq!(error_of(&without_lf), Some(Error::BareCr), "{without_lf:?}");
    }
    // A bare one at any place is refused, whatever it does there.
    for index in 0..head.len() {
        for stray in ['\r', '\n'] {
            let mut head = head.clone();
            head.insert(index, stray);
            assert!(error_of(&head).is_some(), "{head:?}");
        }
    }
}

#[test]
fn control_characters_of_rfc_9110_section_5_5() {
    let head = with_fields("X: yz\r\n");
    for byte in (0..0x20).chain([0x7f]).filter(|byte| !b"\t\r\n".contains(byte)) {
        for index in 0..head.len() - 4 {
            let mut head = head.clone().into_bytes();
            head.insert(index, byte);
            let error = error_of(&head).expect("refused");
            assert_eq!(error.status(), 400, "{byte:#x} at {index}");
        }
    }
    assert_eq!(error_of(with_fields("X: \0\r\n")), Some(Error::ControlCharacter));
    let head = b"GET / HTTP/1.0\r\nX: \xff\ty\r\n\r\n";
    let request = Request::parse(head).expect("obs-text is allowed in values");
    assert_eq!(request.header("x"), Some(&b"\xff\ty"[..]));
}

#[test]
fn field_lines_of_section_5() {
    for fields in [
        "X : y\r\n",
        "X\t: y\r\n",
        " X: y\r\n",
        "X: y\r\n folded\r\n",
        "X: y\r\n\tfolded\r\n",
        "X\r\n",
        ": y\r\n",
        "X Y: z\r\n",
        "X(: y\r\n",
        "\u{e9}: y\r\n",
        "\"X\": y\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length\t: 5\r\n",
    ] {
        assert_eq!(error_of(with_fields(fields)), Some(Error::FieldLine), "{fields:?}");
    }
    // Whitespace between the request line and the first field (§2.2).
    let head = "GET / HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n";
    assert_eq!(error_of(head), Some(Error::FieldLine));
    // Not exactly one head.
    assert!(error_of("GET / HTTP/1.1\r\nHost: a\r\n").is_some());
    assert!(error_of("GET / HTTP/1.1\r\nHost: a\r\n\r\nbody").is_some());
    assert!(error_of("").is_some());

    let many = |count| with_fields(&"X: y\r\n".repeat(count - 1));
    assert_eq!(parsed(&many(limits::HTTP1_HEADER_FIELDS)).headers.len(), 100);
    let error = error_of(many(limits::HTTP1_HEADER_FIELDS + 1));
    assert_eq!(error, Some(Error::TooManyFields));
    assert_eq!(Error::TooManyFields.status(), 431);
}

#[test]
fn hosts_of_section_3_2() {
    for fields in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nhost: b\r\n",
        "Host: a, b\r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: user@a\r\n",
        "Host: a:b\r\n",
        "Host: a:-1\r\n",
        "Host: a:123456\r\n",
        "Host: :80\r\n",
        "Host: a?\r\n",
        "Host: a#\r\n",
        "Host: ::1\r\n",
        "Host: []\r\n",
        "Host: [::1\r\n",
        "Host: [::1]x\r\n",
        "Host: a\u{e9}\r\n",
    ] {
        let head = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        assert_eq!(error_of(&head), Some(Error::Host), "{fields:?}");
    }
    for host in ["a", "a.b-c_d~:8000", "127.0.0.1:1", "[::1]", "[::ffff:1.2.3.4]:80", "", "a:"] {
        let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(parsed(&head).host(), Some(host));
    }
    assert_eq!(parsed("GET / HTTP/1.0\r\n\r\n").host(), None);
    assert_eq!(error_of("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), Some(Error::Host));
    // Absolute form does not excuse a missing Host.
    assert_eq!(error_of("GET http://a/ HTTP/1.1\r\n\r\n"), Some(Error::Host));
}

#[test]
fn body_lengths_of_section_6_3() {
    for (fields, body) in [
        ("Content-Length: 0\r\n", BodyLength::Length(0)),
        ("content-length:\t0042 \r\n", BodyLength::Length(42)),
        ("Content-Length: 18446744073709551615\r\n", BodyLength::Length(u64::MAX)),
        ("Transfer-Encoding: chunked\r\n", BodyLength::Chunked),
        // Names of codings have no case (§7).
        ("TRANSFER-ENCODING:Chunked\r\n", BodyLength::Chunked),
        ("Content-Lengths: 5\r\n", BodyLength::None),
    ] {
        assert_eq!(parsed(&with_fields(fields)).body, body, "{fields:?}");
    }
    for value in [
        "",
        "+5",
        "-5",
        "-0",
        "5 5",
        "5,5",
        "5, 5",
        "5;",
        "0x5",
        "5.0",
        "1e1",
        "\"5\"",
        "\u{665}",
        "18446744073709551616",
        "99999999999999999999999999",
    ] {
        let error = error_of(with_fields(&format!("Content-Length: {value}\r\n")));
        assert_eq!(error, Some(Error::ContentLength), "{value:?}");
    }
    let twice = with_fields("Content-Length: 5\r\nContent-Length: 5\r\n");
    assert_eq!(error_of(twice), Some(Error::ContentLength));
}

#[test]
fn transfer_encodings_of_section_6_1() {
    for value in [
        "",
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "chunked;q=1",
        "\"chunked\"",
        "xchunked",
        "chunked\u{b}",
        "chunked\u{e9}",
    ] {
        let error = error_of(with_fields(&format!("Transfer-Encoding: {value}\r\n")));
        let error = error.expect("refused");
        assert_eq!(error.status(), 400, "{value:?}");
    }
    for fields in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: identity\r\n",
    ] {
        let error = error_of(with_fields(fields));
        assert_eq!(error, Some(Error::TransferEncoding), "{fields:?}");
    }
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(error_of(old), Some(Error::TransferEncoding));
}

#[test]
fn connections_of_section_9_3() {
    for (version, fields, keep_alive) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: Upgrade, CLOSE\r\n", false),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let head = format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
        assert_eq!(parsed(&head).keep_alive, keep_alive, "{version} {fields:?}");
    }
}

#[test]
fn expectations_of_rfc_9110_section_10_1_1() {
    let expect = "Expect: 100-Continue\r\nContent-Length: 5\r\n";
    assert!(parsed(&with_fields(expect)).expect_continue);
    assert!(!parsed(&with_fields("Expect: 100-continue\r\n")).expect_continue);
    let old = format!("POST / HTTP/1.0\r\n{expect}\r\n");
    assert!(!parsed(&old).expect_continue);
}

type Body = (Vec<u8>, Option<Error>, usize);

/// Feeds the pieces: the data, the error, and the bytes consumed if the end was found.
fn decode<'a>(length: BodyLength, pieces: impl IntoIterator<Item = &'a [u8]>) -> Body {
    let mut decoder = BodyDecoder::new(length);
    let (mut data, mut total) = (Vec::new(), 0);
    for piece in pieces {
        let mut position = 0;
        loop {
            match decoder.decode(&piece[position..]) {
                Ok((consumed, Some(BodyEvent::Data(range)))) => {
                    assert!(!range.is_empty() && range.end == consumed);
                    data.extend_from_slice(&piece[position..][range]);
                    position += consumed;
                }
                Ok((consumed, Some(BodyEvent::Done))) => {
                    assert!(decoder.is_done());
                    assert_eq!(decoder.decode(b"next"), Ok((0, Some(BodyEvent::Done))));
                    return (data, None, total + position + consumed);
                }
                Ok((consumed, None)) => {
                    assert_eq!(position + consumed, piece.len());
                    break;
                }
                Err(error) => {
                    assert_eq!(decoder.decode(b"0\r\n\r\n"), Err(error));
                    return (data, Some(error), 0);
                }
            }
        }
        total += piece.len();
    }
    (data, None, usize::MAX)
}

fn decode_every_way(length: BodyLength, input: &[u8]) -> Body {
    let whole = decode(length, [input]);
    for cut in 0..=input.len() {
        let (left, right) = input.split_at(cut);
        assert_eq!(decode(length, [left, right]), whole, "cut at {cut}");
    }
    assert_eq!(decode(length, input.chunks(1)), whole);
    whole
}

#[test]
fn bodies_of_known_length() {
    let next = b"helloGET / HTTP/1.1";
    assert_eq!(decode_every_way(BodyLength::Length(5), next), (b"hello".to_vec(), None, 5));
    assert_eq!(decode_every_way(BodyLength::None, next), (vec![], None, 0));
    assert_eq!(decode_every_way(BodyLength::Length(0), next), (vec![], None, 0));
    let short = decode_every_way(BodyLength::Length(u64::MAX), next);
    assert_eq!(short, (next.to_vec(), None, usize::MAX));
    // An empty body is over without any input.
    assert_eq!(BodyDecoder::new(BodyLength::None).decode(b""), Ok((0, Some(BodyEvent::Done))));
}

#[test]
fn chunks_of_section_7_1() {
    for (input, data) in [
        (&b"0\r\n\r\n"[..], &b""[..]),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"5\r\nhello\r\n7\r\n, world\r\n00\r\n\r\n", b"hello, world"),
        (b"00a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
        // Extensions (§7.1.1), also with the whitespace that recipients must bear.
        (b"1;a=b;c=\"d e\";f\r\nx\r\n0;last\r\n\r\n", b"x"),
        (b"1 \t;a = b\r\nx\r\n0\r\n\r\n", b"x"),
        // Trailers (§7.1.2).
        (b"1\r\nx\r\n0\r\nDigest: a\tb \xff\r\nEmpty:\r\n\r\n", b"x"),
    ] {
        let next = [input, b"GET /"].concat();
        let expect = (data.to_vec(), None, input.len());
        assert_eq!(
            decode_every_way(BodyLength::Chunked, &next),
            expect,
            "{}",
            input.escape_ascii()
        );
    }
}

#[test]
fn chunks_refused() {
    for (input, error) in [
        (&b"\r\n"[..], Error::Chunk),
        (b"x\r\n", Error::Chunk),
        (b" 1\r\nx", Error::Chunk),
        (b"+1\r\nx", Error::Chunk),
        (b"-1\r\nx", Error::Chunk),
        (b"0x1\r\nx", Error::Chunk),
        (b"1_0\r\nx", Error::Chunk),
        (b";a\r\nx", Error::Chunk),
        (b"1 \r\nx", Error::Chunk),
        (b"1 1\r\nx", Error::Chunk),
        (b"1\nx", Error::Chunk),
        (b"1\rx", Error::Chunk),
        (b"1\r\r\n", Error::Chunk),
        (b"1;a\nx", Error::Chunk),
        (b"1;a\rb\r\n", Error::Chunk),
        (b"1;\0\r\n", Error::Chunk),
        (b"1;\x7f\r\n", Error::Chunk),
        (b"10000000000000000\r\n", Error::Chunk),
        (b"fffffffffffffffff\r\n", Error::Chunk),
        // The data is longer or shorter than its size, or its end is not CR LF.
        (b"1\r\nxy\r\n", Error::Chunk),
        (b"2\r\nx\r\n0\r\n\r\n", Error::Chunk),
        (b"1\r\nx\n0\r\n\r\n", Error::Chunk),
        (b"1\r\nx\r0\r\n\r\n", Error::Chunk),
        (b"1\r\nx0\r\n\r\n", Error::Chunk),
        (b"0\r\n\n", Error::Trailer),
        (b"0\r\n\r\r", Error::Trailer),
        (b"0\r\nX\r\n\r\n", Error::Trailer),
        (b"0\r\nX : y\r\n\r\n", Error::Trailer),
        (b"0\r\n: y\r\n\r\n", Error::Trailer),
        (b"0\r\n X: y\r\n\r\n", Error::Trailer),
        (b"0\r\nX: y\r\n folded\r\n\r\n", Error::Trailer),
        (b"0\r\nX: y\n\r\n", Error::Trailer),
        (b"0\r\nX: y\rz\r\n", Error::Trailer),
        (b"0\r\nX: \0\r\n\r\n", Error::Trailer),
    ] {
        let got = decode_every_way(BodyLength::Chunked, input).1;
        assert_eq!(got, Some(error), "{}", input.escape_ascii());
        assert_eq!(error.status(), 400);
    }
}

#[test]
fn extensions_and_trailers_are_bounded() {
    let chunk = |len: usize| [b"1;", &vec![b'e'; len - 4][..], b"\r\nx\r\n"].concat();
    let longest = chunk(limits::HTTP1_CHUNK_LINE_BYTES);
    assert_eq!(decode(BodyLength::Chunked, [&longest[..]]).0, b"x");
    let longer = chunk(limits::HTTP1_CHUNK_LINE_BYTES + 1);
    let error = decode(BodyLength::Chunked, [&longer[..]]).1;
    assert_eq!(error, Some(Error::ChunkExtensionsTooLarge));
    let zeros = vec![b'0'; 300];
    let error = decode(BodyLength::Chunked, [&zeros[..]]).1;
    assert_eq!(error, Some(Error::ChunkExtensionsTooLarge));
    // Small ones without end.
    let many = chunk(100).repeat(1000);
    let (data, error, _) = decode(BodyLength::Chunked, [&many[..]]);
    assert_eq!(error, Some(Error::ChunkExtensionsTooLarge));
    assert!(data.len() * 100 >= limits::HTTP1_CHUNK_EXTENSIONS_BYTES && data.len() < 200);

    // Its bytes are counted with the empty line that ends it.
    let trailer = |len: usize| [b"0\r\nX:", &vec![b'y'; len - 6][..], b"\r\n\r\n"].concat();
    let longest = trailer(limits::HTTP1_TRAILER_BYTES);
    assert_eq!(decode(BodyLength::Chunked, [&longest[..]]).2, longest.len());
    for longer in [
        trailer(limits::HTTP1_TRAILER_BYTES + 2),
        [&b"0\r\n"[..], &b"X: y\r\n".repeat(2000)].concat(),
    ] {
        let error = decode(BodyLength::Chunked, [&longer[..]]).1;
        assert_eq!(error, Some(Error::TrailersTooLarge));
    }
    assert_eq!(Error::TrailersTooLarge.status(), 431);
}

#[test]
fn response_heads() {
    let mut out = Vec::new();
    let headers = [("Content-Type", "text/plain"), ("X", "a\tb")];
    write_response_head(&mut out, 200, &headers, ResponseBody::Length(5), true);
    let expect = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX: a\tb\r\n\
                  Content-Length: 5\r\nConnection: keep-alive\r\n\r\n";
    assert_eq!(out.escape_ascii().to_string(), expect.escape_default().to_string());

    let mut out = Vec::new();
    write_response_head(&mut out, 400, &[], ResponseBody::Chunked, false);
    let expect =
        b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    assert_eq!(out, expect);

    let mut out = Vec::new();
    let headers = [("Upgrade", "websocket"), ("Connection", "Upgrade")];
    write_response_head(&mut out, 101, &headers, ResponseBody::None, true);
    let expect =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    assert_eq!(out, expect);

    let mut out = Vec::new();
    write_response_head(&mut out, 100, &[], ResponseBody::None, true);
    assert_eq!(out, b"HTTP/1.1 100 Continue\r\n\r\n");
}

#[test]
fn a_field_cannot_split_a_response() {
    let bad =
        [("X", "a\r\nY: b"), ("X", "a\n"), ("X\r\nY", "b"), ("X: y", "b"), ("", "b"), ("X", "\0")];
    let mut out = Vec::new();
    write_response_head(&mut out, 204, &bad, ResponseBody::None, true);
    assert_eq!(out, b"HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n");
}

fn handshake(fields: &[(&str, &str)]) -> String {
    let fields: String =
        fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("GET /chat HTTP/1.1\r\n{fields}\r\n")
}

/// The request of RFC 6455 §1.2.
const HANDSHAKE: [(&str, &str); 7] = [
    ("Host", "server.example.com"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Origin", "http://example.com"),
    ("Sec-WebSocket-Protocol", "chat, superchat"),
    ("Sec-WebSocket-Version", "13"),
];

fn try_upgrade(head: &str) -> Result<Option<Upgrade<'_>>, Error> {
    upgrade(&parsed(head))
}

#[test]
fn a_handshake_of_rfc_6455_section_1_2() {
    let head = handshake(&HANDSHAKE);
    let upgrade = try_upgrade(&head).expect("valid").expect("an upgrade");
    assert_eq!(upgrade.key, b"dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(upgrade.origin, Some("http://example.com"));
    assert_eq!(upgrade.host, "server.example.com");
    assert!(upgrade.protocols().eq(["chat", "superchat"]));

    // Without what is optional, with lists and cases that differ, over two lines.
    let mut fields = HANDSHAKE.to_vec();
    fields.remove(4);
    fields[1].1 = "h2c, WebSocket";
    fields[2].1 = "keep-alive, UPGRADE";
    fields.push(("sec-websocket-protocol", "third"));
    let head = handshake(&fields);
    let upgrade = try_upgrade(&head).expect("valid").expect("an upgrade");
    assert_eq!(upgrade.origin, None);
    assert!(upgrade.protocols().eq(["chat", "superchat", "third"]));
}

#[test]
fn handshakes_refused_by_rfc_6455_section_4_2_1() {
    let changed = |name: &str, value: &'static str| {
        let mut fields = HANDSHAKE.to_vec();
        fields.iter_mut().filter(|field| field.0 == name).for_each(|field| field.1 = value);
        handshake(&fields)
    };
    for (name, value, error) in [
        ("Connection", "keep-alive", Error::Upgrade),
        ("Sec-WebSocket-Key", "", Error::Upgrade),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ", Error::Upgrade),
        ("Sec-WebSocket-Version", "8", Error::UpgradeVersion),
        ("Sec-WebSocket-Version", "13, 8", Error::UpgradeVersion),
        ("Sec-WebSocket-Version", "", Error::UpgradeVersion),
        ("Sec-WebSocket-Protocol", "a b", Error::Upgrade),
        ("Host", "", Error::Upgrade),
    ] {
        let head = changed(name, value);
        assert_eq!(try_upgrade(&head).err(), Some(error), "{name}: {value}");
    }
    assert_eq!(Error::Upgrade.status(), 400);
    assert_eq!(Error::UpgradeVersion.status(), 426);
    for (index, (name, value)) in HANDSHAKE.into_iter().enumerate() {
        if ["Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version"].contains(&name) {
            let mut fields = HANDSHAKE.to_vec();
            fields.remove(index);
            assert_eq!(try_upgrade(&handshake(&fields)).err(), Some(Error::Upgrade), "no {name}");
        }
        if ["Sec-WebSocket-Key", "Sec-WebSocket-Version", "Origin"].contains(&name) {
            let mut fields = HANDSHAKE.to_vec();
            fields.push((name, value));
            assert_eq!(try_upgrade(&handshake(&fields)).err(), Some(Error::Upgrade), "two {name}");
        }
    }
    let post = handshake(&HANDSHAKE).replace("GET", "POST");
    assert_eq!(try_upgrade(&post).err(), Some(Error::Upgrade));
    for body in [("Content-Length", "5"), ("Transfer-Encoding", "chunked")] {
        let fields = [&HANDSHAKE[..], &[body]].concat();
        assert_eq!(try_upgrade(&handshake(&fields)).err(), Some(Error::Upgrade), "{body:?}");
    }
    // No upgrade is asked for.
    for head in [
        changed("Upgrade", "h2c"),
        handshake(&HANDSHAKE[..1]),
        handshake(&HANDSHAKE).replace("HTTP/1.1", "HTTP/1.0"),
    ] {
        assert!(matches!(try_upgrade(&head), Ok(None)), "{head}");
    }
}

fn cut(input: &[u8], mut cuts: Vec<usize>) -> Vec<&[u8]> {
    cuts.iter_mut().for_each(|cut| *cut %= input.len() + 1);
    cuts.push(input.len());
    cuts.sort_unstable();
    let mut start = 0;
    cuts.into_iter().map(|end| &input[std::mem::replace(&mut start, end)..end]).collect()
}

proptest! {
    #[test]
    fn heads_come_back(
        method in "[A-Z]{1,10}".prop_filter("has a target of its own", |m| m != "CONNECT"),
        path in "/[!-\"$->@-~]{0,50}",
        query in proptest::option::of("[!-\"$-~]{0,50}"),
        fields in proptest::collection::vec(("X-[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}", "[!-~]([ -~]{0,30}[!-~])?"), 0..20),
    ) {
        let target = query.as_ref().map_or(path.clone(), |query| format!("{path}?{query}"));
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n");
        for (name, value) in &fields {
            head.push_str(&format!("{name}: \t{value} \r\n"));
        }
        head.push_str("\r\n");
        prop_assert_eq!(HeadScanner::new().scan(head.as_bytes()), Ok(Some(head.len())));
        let request = parsed(&head);
        prop_assert_eq!(request.method, method);
        prop_assert_eq!((request.path(), request.query()), (&path[..], query.as_deref()));
        let got: Vec<_> = request.headers[1..].iter().map(|h| (h.name.to_string(), String::from_utf8_lossy(h.value).to_string())).collect();
        prop_assert_eq!(got, fields);
    }

    /// Whatever comes, a head that is accepted has one reading: no stray line ends, one host, and not
    /// two lengths.
    #[test]
    fn changed_heads_are_refused_or_unambiguous(
        changes in proptest::collection::vec((any::<usize>(), prop_oneof![
            any::<u8>(), proptest::sample::select(&b"\r\n\t :,0;+\0"[..]),
        ], any::<bool>()), 1..4),
    ) {
        let mut head = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nTE: b\r\n\r\n".to_vec();
        for (place, byte, insert) in changes {
            let place = place % head.len();
            if insert { head.insert(place, byte) } else { head[place] = byte }
        }
        if let Ok(Some(len)) = HeadScanner::new().scan(&head)
            && let Ok(request) = Request::parse(&head[..len])
        {
            let lines = head[..len].windows(2).filter(|pair| pair == b"\r\n").count();
            prop_assert_eq!(request.headers.len() + 2, lines);
            let ends = head[..len].iter().filter(|byte| b"\r\n".contains(byte)).count();
            prop_assert_eq!(ends, 2 * lines);
            let hosts = request.headers_named("host").count();
            prop_assert!(hosts == 1 || (hosts == 0 && request.version == Version::Http10));
            let lengths = request.headers_named("content-length").count();
            prop_assert_eq!(lengths, usize::from(request.body != BodyLength::None));
        }
    }

    #[test]
    fn chunked_bodies_come_back(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8),
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        let mut out = Vec::new();
        chunks.iter().for_each(|chunk| write_chunk(&mut out, chunk));
        out.extend_from_slice(LAST_CHUNK);
        let expect = (chunks.concat(), None, out.len());
        prop_assert_eq!(decode(BodyLength::Chunked, cut(&out, cuts)), expect);
    }

    #[test]
    fn any_chunked_bytes_decode_the_same_however_cut(
        input in proptest::collection::vec(proptest::sample::select(&b"0123aF;=\r\n\r\n x:\t\""[..]), 0..60),
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        let whole = decode(BodyLength::Chunked, [&input[..]]);
        prop_assert_eq!(decode(BodyLength::Chunked, cut(&input, cuts)), whole);
    }

    /// An independent parser reads the responses.
    #[test]
    fn responses_are_read(status in 200..600_u16, value in "[!-~]{1,30}", len: u64, keep_alive: bool) {
        let mut out = Vec::new();
        write_response_head(&mut out, status, &[("X", &value)], ResponseBody::Length(len), keep_alive);
        let mut fields = [httparse::EMPTY_HEADER; 8];
        let mut response = httparse::Response::new(&mut fields);
        prop_assert_eq!(response.parse(&out), Ok(httparse::Status::Complete(out.len())));
        prop_assert_eq!(response.code, Some(status));
        prop_assert_eq!(response.headers[0].value, value.as_bytes());
        let text = len.to_string();
        prop_assert_eq!(response.headers[1].value, text.as_bytes());
    }
}
