//! What must hold for any bytes: no panic, and the same outcome however the input is cut.
//!
//! **Runs on: any.** Shared by the fuzz targets and by the test that runs the corpus through it.

use std::fmt::Debug;
use trine_proto::client::{Commands, Format, is_json, strip_newlines};
use trine_proto::http1::{
    BodyDecoder, BodyEvent, BodyLength, HeadScanner, Request, Response, upgrade, write_request_head,
};
use trine_proto::kafka::consumer_protocol::{Assignment, Subscription};
use trine_proto::kafka::frame::{self, BODY_START, Framed, Request as KafkaRequest};
use trine_proto::kafka::record::{
    AbortedTransactions, Batch, BatchWriter, Batches, Body, Compression, RECORDS_START, Stamp,
    restamp, write_body,
};
use trine_proto::kafka::{self, scram};
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

/// Responses of a broker: the second byte chooses the API, the third its version.
pub fn kafka_response(data: &[u8]) {
    let (piece, data) = cut(data);
    let [api, version, data @ ..] = data else { return };
    let mut from = 0;
    let mut end = 0;
    while let Ok(framed) = frame::response(&data[from..end]) {
        // As it comes in pieces, the same response is found as in the whole.
        let Framed::Response { end: len, .. } = framed else {
            if end == data.len() {
                break;
            }
            end = (end + piece).min(data.len());
            continue;
        };
        assert_eq!(frame::response(&data[from..]), Ok(framed));
        body(*api, *version, &data[from + BODY_START..from + len]);
        from += len;
    }
}

fn body(api: u8, version: u8, body: &[u8]) {
    match api % 21 {
        0 => answer::<kafka::api_versions::Request<'_>>(version, body),
        1 => answer::<kafka::metadata::Request<'_>>(version, body),
        2 => answer::<kafka::produce::Request<'_>>(version, body),
        3 => answer::<kafka::fetch::Request<'_>>(version, body),
        4 => answer::<kafka::list_offsets::Request<'_>>(version, body),
        5 => answer::<kafka::init_producer_id::Request<'_>>(version, body),
        6 => answer::<kafka::find_coordinator::Request<'_>>(version, body),
        7 => answer::<kafka::join_group::Request<'_>>(version, body),
        8 => answer::<kafka::sync_group::Request<'_>>(version, body),
        9 => answer::<kafka::heartbeat::Request<'_>>(version, body),
        10 => answer::<kafka::leave_group::Request<'_>>(version, body),
        11 => answer::<kafka::offset_commit::Request<'_>>(version, body),
        12 => answer::<kafka::offset_fetch::Request<'_>>(version, body),
        13 => answer::<kafka::consumer_group_heartbeat::Request<'_>>(version, body),
        14 => answer::<kafka::sasl_handshake::Request<'_>>(version, body),
        15 => answer::<kafka::sasl_authenticate::Request<'_>>(version, body),
        16 => answer::<kafka::create_topics::Request<'_>>(version, body),
        17 => subscription(body),
        18 => assignment(body),
        20 => answer::<kafka::describe_configs::Request<'_>>(version, body),
        _ => {
            let client = scram::Client::new(scram::Mechanism::Sha256, "user", "nonce");
            // Without iterations, so that no key is derived: that would take most of the time.
            let cut = body.split(|&byte| byte == b'i').next().unwrap_or_default();
            assert!(client.last(cut, "password").is_err());
        }
    }
}

/// What was read takes up a part of the body: the same without the rest, an error without its end.
fn answer<R: KafkaRequest>(version: u8, body: &[u8])
where
    for<'r> R::Response<'r>: PartialEq + Debug,
{
    let versions = i16::from(version) % (R::API.max - R::API.min + 1);
    let version = R::API.min + versions;
    let Ok(mut from) = frame::body_reader(&R::API, body, version) else { return };
    let Ok(response) = R::read(&mut from) else { return };
    let taken = body.len() - from.rest().len();
    assert_eq!(frame::read::<R>(&body[..taken], version).as_ref(), Ok(&response));
    assert!(frame::read::<R>(&body[..taken - 1], version).is_err());
}

fn subscription(bytes: &[u8]) {
    let Ok(read) = Subscription::parse(bytes) else { return };
    let mut written = Vec::new();
    read.write(&mut written, 3);
    assert_eq!(Subscription::parse(&written), Ok(read));
}

fn assignment(bytes: &[u8]) {
    let Ok(read) = Assignment::parse(bytes) else { return };
    let mut written = Vec::new();
    read.write(&mut written, 0);
    assert_eq!(Assignment::parse(&written), Ok(read));
}

/// A fetched record set, as it is and with a right head and checksum for one batch.
pub fn kafka_record(data: &[u8]) {
    batches(data);
    if data.len() >= RECORDS_START {
        let mut batch = data.to_vec();
        batch[8..12].copy_from_slice(&(data.len() as u32 - 12).to_be_bytes());
        batch[16] = 2;
        restamp(&mut batch, Stamp { producer_id: 1, producer_epoch: 2, base_sequence: 3 });
        batches(&batch);
    }
    if let Ok(read) = Body::parse(data) {
        let mut written = Vec::new();
        write_body(&mut written, read.key(), read.value(), read.headers());
        assert!(written.len() <= data.len());
        let again = Body::parse(&written).unwrap();
        assert_eq!((again.key(), again.value()), (read.key(), read.value()));
        assert!(again.headers().eq(read.headers()));
    }
}

fn batches(data: &[u8]) {
    let mut aborted = AbortedTransactions::default();
    let mut batches = Batches::new(data);
    for batch in batches.by_ref().map_while(Result::ok) {
        let _ = aborted.keeps(&batch);
        records(&batch);
    }
    assert!(batches.next().is_none());
}

/// The records that can be read make a batch of their own.
fn records(batch: &Batch<'_>) {
    let Ok(inflated) = batch.inflate() else { return };
    let mut writer = BatchWriter::default();
    let mut records = batch.iter(&inflated);
    let read: Vec<_> = records.by_ref().map_while(Result::ok).collect();
    assert!(records.next().is_none());
    // The writer takes times of a clock, of which no two are further apart than a number can say.
    let first_ms = read.first().map_or(0, |record| record.timestamp_ms);
    if read.iter().any(|record| record.timestamp_ms.checked_sub(first_ms).is_none()) {
        return;
    }
    for record in &read {
        writer.push(record.timestamp_ms, record.body);
    }
    let Ok(bytes) = writer.finish(Stamp::NONE, Compression::None, false) else { return };
    if let Some(Ok(batch)) = Batches::new(&bytes).next() {
        let again: Vec<_> = batch.iter(batch.records).map(Result::unwrap).collect();
        assert_eq!(again.len(), read.len());
        assert!(again.iter().zip(&read).all(|(again, read)| again.body == read.body));
    } else {
        assert!(read.is_empty());
    }
}
