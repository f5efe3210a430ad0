//! WebSocket frames of a client against RFC 6455: vectors by section, every cut of the input, limits,
//! and `tungstenite` as an independent implementation on the other side.

use proptest::prelude::*;
use trine_proto::ws::{self, Decoder, Error, Event, FrameKind, Kind, Limits};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Event<'_>> for Owned {
    fn from(event: Event<'_>) -> Owned {
        match event {
            Event::Message { kind: Kind::Text, payload } => {
                Owned::Text(String::from_utf8(payload.to_vec()).expect("text is UTF-8"))
            }
            Event::Message { kind: Kind::Binary, payload } => Owned::Binary(payload.to_vec()),
            Event::Ping(payload) => Owned::Ping(payload.to_vec()),
            Event::Pong(payload) => Owned::Pong(payload.to_vec()),
            Event::Close { code, reason } => Owned::Close(code, reason.to_string()),
        }
    }
}

type Decoded = (Vec<Owned>, Option<Error>);

/// Feeds the pieces one after another, each in a buffer of its own.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, limits: &Limits) -> Decoded {
    let mut decoder = Decoder::new();
    let mut events = Vec::new();
    for piece in pieces {
        let mut input = piece.to_vec();
        let mut position = 0;
        loop {
            match decoder.next(&mut input[position..], limits, 0) {
                Ok((consumed, Some(event))) => {
                    events.push(event.into());
                    position += consumed;
                }
                Ok((consumed, None)) => {
                    assert_eq!(position + consumed, piece.len(), "no event: all is consumed");
                    break;
                }
                Err(error) => return (events, Some(error)),
            }
        }
    }
    (events, None)
}

/// The input whole, in two at every place, and byte by byte: the same each time.
fn decode_every_way(input: &[u8], limits: &Limits) -> Decoded {
    let whole = decode([input], limits);
    for cut in 0..=input.len() {
        let (left, right) = input.split_at(cut);
        assert_eq!(decode([left, right], limits), whole, "cut at {cut}");
    }
    assert_eq!(decode(input.chunks(1), limits), whole, "byte by byte");
    whole
}

/// A client's frame: the first byte, then the payload masked, its length in the shortest form.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&KEY);
    bytes.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

fn text(text: &str) -> Owned {
    Owned::Text(text.to_string())
}

#[track_caller]
fn accepted(input: &[u8], expect: &[Owned]) {
    assert_eq!(decode_every_way(input, &Limits::default()), (expect.to_vec(), None));
}

#[track_caller]
fn refused(input: &[u8], expect: Error, close_code: u16) {
    let (_, error) = decode_every_way(input, &Limits::default());
    assert_eq!(error, Some(expect));
    assert_eq!(expect.close_code(), close_code);
    assert!(expect.reason().len() <= 123);
}

#[test]
fn frames_of_section_5_7() {
    accepted(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", &[text("Hello")]);
    accepted(&[frame(0x01, b"Hel"), frame(0x80, b"lo")].concat(), &[text("Hello")]);
    accepted(b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", &[Owned::Pong(b"Hello".to_vec())]);
    accepted(&frame(0x89, b"Hello"), &[Owned::Ping(b"Hello".to_vec())]);
    accepted(&frame(0x82, &[7; 256]), &[Owned::Binary(vec![7; 256])]);
}

#[test]
fn empty_frames() {
    accepted(&frame(0x81, b""), &[text("")]);
    accepted(&frame(0x82, b""), &[Owned::Binary(vec![])]);
    accepted(&frame(0x89, b""), &[Owned::Ping(vec![])]);
    let fragments = [frame(0x01, b""), frame(0x00, b""), frame(0x80, b"")].concat();
    accepted(&fragments, &[text("")]);
}

#[test]
fn control_frames_between_fragments_of_section_5_4() {
    let input = [
        frame(0x01, b"Hel"),
        frame(0x89, b"are you there"),
        frame(0x00, b"lo"),
        frame(0x8a, b""),
        frame(0x80, b"!"),
        frame(0x82, b"\xff"),
        frame(0x88, b"\x03\xe8bye"),
        frame(0x81, b"after close, ignored"),
        b"not even a frame".to_vec(),
    ]
    .concat();
    let expect = [
        Owned::Ping(b"are you there".to_vec()),
        Owned::Pong(vec![]),
        text("Hello!"),
        Owned::Binary(vec![0xff]),
        Owned::Close(Some(1000), "bye".to_string()),
    ];
    accepted(&input, &expect);
}

#[test]
fn reserved_bits_and_opcodes_of_section_5_2() {
    for bit in [0x40, 0x20, 0x10] {
        refused(&frame(0x81 | bit, b"x"), Error::ReservedBits, 1002);
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        refused(&frame(0x80 | opcode, b"x"), Error::UnknownOpcode, 1002);
        // The first byte is enough.
        refused(&[0x80 | opcode], Error::UnknownOpcode, 1002);
    }
}

#[test]
fn masking_of_section_5_1() {
    refused(b"\x81\x05Hello", Error::Unmasked, 1002);
    refused(b"\x89\x00", Error::Unmasked, 1002);
}

#[test]
fn lengths_of_section_5_2() {
    refused(b"\x82\xfe\x00\x7d", Error::LengthNotMinimal, 1002);
    refused(b"\x82\xff\x00\x00\x00\x00\x00\x00\xff\xff", Error::LengthNotMinimal, 1002);
    refused(b"\x82\xff\x80\x00\x00\x00\x00\x01\x00\x00", Error::LengthInvalid, 1002);
    for len in [125, 126, 127, 65_535] {
        let payload = vec![0x5a; len];
        let input = frame(0x82, &payload);
        assert_eq!(decode([&input[..]], &Limits::default()).0, [Owned::Binary(payload)]);
    }
}

#[test]
fn fragmentation_of_section_5_4() {
    refused(&frame(0x80, b"x"), Error::UnexpectedContinuation, 1002);
    refused(&frame(0x00, b"x"), Error::UnexpectedContinuation, 1002);
    let inside = [frame(0x01, b"x"), frame(0x81, b"y")].concat();
    refused(&inside, Error::ExpectedContinuation, 1002);
    let after = [frame(0x01, b"x"), frame(0x80, b"y"), frame(0x80, b"z")].concat();
    refused(&after, Error::UnexpectedContinuation, 1002);
}

#[test]
fn control_frames_of_section_5_5() {
    for opcode in [8, 9, 10] {
        refused(&frame(opcode, b""), Error::ControlFragmented, 1002);
        refused(&frame(0x80 | opcode, &[0; 126]), Error::ControlTooLong, 1002);
    }
    accepted(&frame(0x89, &[0; 125]), &[Owned::Ping(vec![0; 125])]);
}

#[test]
fn close_frames_of_sections_5_5_1_and_7_4() {
    accepted(&frame(0x88, b""), &[Owned::Close(None, String::new())]);
    refused(&frame(0x88, b"\x03"), Error::CloseTooShort, 1002);
    for code in 0..=u16::MAX {
        let input = frame(0x88, &code.to_be_bytes());
        let (events, error) = decode([&input[..]], &Limits::default());
        if matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
            assert_eq!(events, [Owned::Close(Some(code), String::new())]);
        } else {
            assert_eq!(error, Some(Error::CloseCodeInvalid), "{code}");
        }
    }
    let long = [&b"\x03\xe8"[..], "ö".repeat(61).as_bytes()].concat();
    accepted(&frame(0x88, &long), &[Owned::Close(Some(1000), "ö".repeat(61))]);
    refused(&frame(0x88, b"\x03\xe8\xc3"), Error::CloseReasonInvalid, 1007);
}

#[test]
fn text_is_utf8_of_section_8_1() {
    accepted(&frame(0x81, "κόσμε 😀".as_bytes()), &[text("κόσμε 😀")]);
    // Characters cut by fragments, at every place.
    let greeting = "aé€😀".as_bytes();
    for cut in 0..=greeting.len() {
        let (left, right) = greeting.split_at(cut);
        let input = [frame(0x01, left), frame(0x89, b"p"), frame(0x80, right)].concat();
        accepted(&input, &[Owned::Ping(b"p".to_vec()), text("aé€😀")]);
    }
    // RFC 3629 §3, §4: stray, overlong, surrogates, beyond U+10FFFF, cut short.
    for bad in [
        &b"\x80"[..],
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xff",
        b"ab\xce",
        b"\xf0\x9f\x98",
        b"\xe2\x82x",
    ] {
        refused(&frame(0x81, bad), Error::InvalidUtf8, 1007);
        for cut in 0..=bad.len() {
            let (left, right) = bad.split_at(cut);
            let input = [frame(0x01, left), frame(0x80, right)].concat();
            refused(&input, Error::InvalidUtf8, 1007);
        }
    }
}

#[test]
fn text_fails_at_its_first_bad_byte() {
    // As Autobahn's 6.4: the bad byte within a frame whose end has not come.
    let payload = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited";
    for (first, rest) in [(0x81, &[][..]), (0x01, &[]), (0x80, &frame(0x01, b"ok"))] {
        let input = [rest, &frame(first, payload)].concat();
        let bad = input.len() - payload.len() + 12;
        let mut decoder = Decoder::new();
        let limits = Limits::default();
        let (mut good, mut byte) = (input[..bad].to_vec(), [input[bad]]);
        assert_eq!(decoder.next(&mut good, &limits, 0), Ok((bad, None)));
        assert_eq!(decoder.next(&mut byte, &limits, 0), Err(Error::InvalidUtf8));
    }
}

#[test]
fn messages_over_the_limit_are_refused_by_their_declared_length() {
    let limits = Limits { message_bytes: 1000, ..Limits::default() };
    let within = frame(0x82, &[1; 1000]);
    assert_eq!(decode_every_way(&within, &limits).0, [Owned::Binary(vec![1; 1000])]);
    // The length alone, without key and payload.
    for declared in
        [&b"\x82\xfe\x03\xe9"[..], b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff", b"\x02\xfe\x03\xe9"]
    {
        let error = decode_every_way(declared, &limits).1;
        assert_eq!(error, Some(Error::MessageTooLong));
    }
    // The sum over fragments.
    let parts = [&frame(0x02, &[1; 600])[..], b"\x80\xfe\x01\x91"].concat();
    assert_eq!(decode_every_way(&parts, &limits).1, Some(Error::MessageTooLong));
    let parts = [frame(0x02, &[1; 600]), frame(0x80, &[1; 400])].concat();
    assert_eq!(decode_every_way(&parts, &limits).0, [Owned::Binary(vec![1; 1000])]);
    assert_eq!(Error::MessageTooLong.close_code(), 1009);
    // Control frames have their own limit.
    let none = Limits { message_bytes: 0, ..Limits::default() };
    assert_eq!(decode_every_way(&frame(0x89, b"x"), &none).0, [Owned::Ping(b"x".to_vec())]);
}

#[test]
fn fragments_are_counted() {
    let limits = Limits { fragments: 3, ..Limits::default() };
    let three = [frame(0x02, b"a"), frame(0x00, b"b"), frame(0x80, b"c")].concat();
    // The count starts again with each message.
    let six = [&three[..], &three[..]].concat();
    let abc = Owned::Binary(b"abc".to_vec());
    assert_eq!(decode_every_way(&six, &limits), (vec![abc.clone(), abc], None));
    let four = [frame(0x02, b""), frame(0x00, b""), frame(0x00, b""), frame(0x80, b"")].concat();
    assert_eq!(decode_every_way(&four, &limits).1, Some(Error::TooManyFragments));
    assert_eq!(Error::TooManyFragments.close_code(), 1009);
}

#[test]
fn control_frames_are_counted_by_the_second() {
    let limits = Limits { control_frames_per_second: 3, ..Limits::default() };
    let mut decoder = Decoder::new();
    let mut ping = |now_ms| decoder.next(&mut frame(0x89, b""), &limits, now_ms).map(|_| ());
    for now_ms in [5_000, 5_400, 5_999, 6_000, 6_001, 6_500] {
        assert_eq!(ping(now_ms), Ok(()), "at {now_ms}");
    }
    assert_eq!(ping(6_999), Err(Error::TooManyControlFrames));
    assert_eq!(Error::TooManyControlFrames.close_code(), 1008);
    // Messages are not counted.
    let messages = frame(0x81, b"x").repeat(100);
    assert_eq!(decode_every_way(&messages, &limits).0.len(), 100);
}

#[test]
fn a_whole_message_is_handed_out_where_it_lies() {
    let mut decoder = Decoder::new();
    let mut input = [frame(0x81, b"one"), frame(0x82, &[9; 300])].concat();
    let place = input.as_ptr() as usize;
    for offset in [6, 9 + 8] {
        let start = if offset == 6 { 0 } else { 9 };
        let (_, event) =
            decoder.next(&mut input[start..], &Limits::default(), 0).expect("valid frames");
        let Some(Event::Message { payload, .. }) = event else { panic!("a message") };
        assert_eq!(payload.as_ptr() as usize, place + offset);
        assert!(decoder.is_idle());
    }
}

#[test]
fn idle_is_between_messages() {
    let input = [frame(0x01, b"ab"), frame(0x89, b"p"), frame(0x80, b"c")].concat();
    let mut decoder = Decoder::new();
    assert!(decoder.is_idle());
    for (index, byte) in input.iter().enumerate() {
        let _ = decoder.next(&mut [*byte], &Limits::default(), 0).expect("valid frames");
        assert_eq!(decoder.is_idle(), index + 1 == input.len(), "after byte {index}");
    }
}

#[test]
fn nothing_follows_an_error() {
    let mut decoder = Decoder::new();
    let limits = Limits::default();
    assert_eq!(decoder.next(&mut [0xff], &limits, 0), Err(Error::ReservedBits));
    assert_eq!(decoder.next(&mut frame(0x81, b"x"), &limits, 0), Ok((7, None)));
}

/// Frames as a client may send them: whole messages and fragments, control frames in between.
fn valid_stream() -> impl Strategy<Value = (Vec<u8>, Vec<Owned>)> {
    let control = proptest::option::weighted(
        0.3,
        (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..=125)),
    );
    let pieces =
        proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..300), control), 1..4);
    let message = prop_oneof![
        ".{0,200}".prop_map(|text| (Owned::Text(text.clone()), vec![(text.into_bytes(), None)])),
        (".{0,60}", 0..60_usize).prop_map(|(text, cut)| {
            let (left, right) = text.as_bytes().split_at(cut.min(text.len()));
            let parts = vec![(left.to_vec(), None), (right.to_vec(), None)];
            (Owned::Text(text.clone()), parts)
        }),
        pieces.prop_map(|pieces| {
            let whole = pieces.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
            (Owned::Binary(whole), pieces)
        }),
    ];
    proptest::collection::vec(message, 0..6).prop_map(|messages| {
        let (mut stream, mut events) = (Vec::new(), Vec::new());
        for (message, parts) in messages {
            let opcode = if matches!(message, Owned::Text(_)) { 1 } else { 2 };
            let last = parts.len() - 1;
            for (index, (bytes, control)) in parts.into_iter().enumerate() {
                if let Some((ping, payload)) = control {
                    stream.extend(frame(if ping { 0x89 } else { 0x8a }, &payload));
                    events.push(if ping { Owned::Ping(payload) } else { Owned::Pong(payload) });
                }
                let fin = if index == last { 0x80 } else { 0 };
                stream.extend(frame(fin | if index == 0 { opcode } else { 0 }, &bytes));
            }
            events.push(message);
        }
        (stream, events)
    })
}

fn cut(input: &[u8], mut cuts: Vec<usize>) -> Vec<&[u8]> {
    cuts.iter_mut().for_each(|cut| *cut %= input.len() + 1);
    cuts.push(input.len());
    cuts.sort_unstable();
    let mut start = 0;
    cuts.into_iter().map(|end| &input[std::mem::replace(&mut start, end)..end]).collect()
}

/// What a peer sees of our frames, and what we see of a peer's.
mod peer {
    use super::*;
    use std::io::{self, Read, Write};
    use tungstenite::protocol::{CloseFrame, Message, Role, WebSocket};

    /// A socket whose input is given and whose output is kept.
    #[derive(Default)]
    pub struct Pipe {
        pub input: io::Cursor<Vec<u8>>,
        pub output: Vec<u8>,
    }

    impl Read for Pipe {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            match self.input.read(room)? {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                len => Ok(len),
            }
        }
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.output.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a client of `tungstenite` writes for these messages.
    pub fn written(events: &[Owned]) -> Vec<u8> {
        let mut client = WebSocket::from_raw_socket(Pipe::default(), Role::Client, None);
        for event in events {
            let message = match event.clone() {
                Owned::Text(text) => Message::Text(text.into()),
                Owned::Binary(bytes) => Message::Binary(bytes.into()),
                Owned::Ping(bytes) => Message::Ping(bytes.into()),
                Owned::Pong(bytes) => Message::Pong(bytes.into()),
                Owned::Close(code, reason) => Message::Close(
                    code.map(|code| CloseFrame { code: code.into(), reason: reason.into() }),
                ),
            };
            client.send(message).expect("writes");
        }
        std::mem::take(&mut client.get_mut().output)
    }

    /// What `tungstenite` in this role reads, and whether it refused anything.
    pub fn read(input: &[u8], role: Role) -> (Vec<Owned>, bool) {
        let pipe = Pipe { input: io::Cursor::new(input.to_vec()), output: Vec::new() };
        let mut socket = WebSocket::from_raw_socket(pipe, role, None);
        let mut events = Vec::new();
        loop {
            events.push(match socket.read() {
                Ok(Message::Text(text)) => Owned::Text(text.to_string()),
                Ok(Message::Binary(bytes)) => Owned::Binary(bytes.to_vec()),
                Ok(Message::Ping(bytes)) => Owned::Ping(bytes.to_vec()),
                Ok(Message::Pong(bytes)) => Owned::Pong(bytes.to_vec()),
                Ok(Message::Close(None)) => {
                    events.push(Owned::Close(None, String::new()));
                    return (events, false);
                }
                Ok(Message::Close(Some(close))) => {
                    events.push(Owned::Close(Some(close.code.into()), close.reason.to_string()));
                    return (events, false);
                }
                Ok(Message::Frame(_)) => unreachable!("not read"),
                Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return (events, false);
                }
                Err(_) => return (events, true),
            });
        }
    }
}

fn unbounded() -> Limits {
    Limits { control_frames_per_second: u32::MAX, ..Limits::default() }
}

/// A server's frames for these events.
fn sent(events: &[Owned]) -> Vec<u8> {
    let mut out = Vec::new();
    for event in events {
        let close;
        let (kind, payload) = match event {
            Owned::Text(text) => (FrameKind::Text, text.as_bytes()),
            Owned::Binary(bytes) => (FrameKind::Binary, &bytes[..]),
            Owned::Ping(bytes) => (FrameKind::Ping, &bytes[..]),
            Owned::Pong(bytes) => (FrameKind::Pong, &bytes[..]),
            Owned::Close(Some(code), reason) => {
                close = ws::close_payload(*code, reason);
                (FrameKind::Close, close.as_slice())
            }
            Owned::Close(None, _) => (FrameKind::Close, &[][..]),
        };
        out.extend_from_slice(ws::header(kind, payload.len()).as_slice());
        out.extend_from_slice(payload);
    }
    out
}

proptest! {
    #[test]
    fn valid_streams_decode_however_cut(
        (stream, events) in valid_stream(),
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        prop_assert_eq!(decode(cut(&stream, cuts), &unbounded()), (events, None));
    }

    #[test]
    fn any_bytes_decode_the_same_however_cut(
        stream in proptest::collection::vec(any::<u8>(), 0..200),
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
    ) {
        let whole = decode([&stream[..]], &unbounded());
        prop_assert_eq!(decode(cut(&stream, cuts), &unbounded()), whole);
    }

    #[test]
    fn a_peers_messages_are_read((_, mut events) in valid_stream(), close in any::<bool>()) {
        if close {
            events.push(Owned::Close(Some(1001), "going".to_string()));
        }
        let stream = peer::written(&events);
        prop_assert_eq!(decode([&stream[..]], &unbounded()), (events, None));
    }

    #[test]
    fn a_peer_reads_our_messages((_, mut events) in valid_stream(), reason in ".{0,30}") {
        events.push(Owned::Close(Some(3008), reason));
        let (read, refused) = peer::read(&sent(&events), tungstenite::protocol::Role::Client);
        prop_assert!(!refused);
        prop_assert_eq!(read, events);
    }

    /// A valid stream with a few bytes changed: both refuse it or neither does, and until then both
    /// read the same.
    #[test]
    fn a_peer_judges_changed_streams_alike(
        (mut stream, _) in valid_stream(),
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..3),
    ) {
        for (place, byte) in changes {
            if let Some(len) = stream.len().checked_sub(1) {
                stream[place % (len + 1)] = byte;
            }
        }
        let (ours, error) = decode([&stream[..]], &unbounded());
        let (theirs, refused) = peer::read(&stream, tungstenite::protocol::Role::Server);
        // It takes lengths that are not minimal, larger messages, and checks text a frame at a time.
        match error {
            Some(Error::LengthNotMinimal | Error::MessageTooLong | Error::LengthInvalid) => {}
            Some(_) => {
                prop_assert!(refused || theirs.len() == ours.len(), "{error:?}");
                prop_assert_eq!(ours, theirs);
            }
            None => {
                prop_assert!(!refused);
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}
