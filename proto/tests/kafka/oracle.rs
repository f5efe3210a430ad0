//! Ours encodes and theirs decodes, theirs encodes and ours decodes.
//!
//! **Runs on: any.**

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::{ResponseHeader, TopicName};
use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, StrBytes, decode_request_header_from_buffer,
};
use std::ops::RangeInclusive;
use trine_proto::kafka::frame::{self, Api, BODY_START, Framed, Request};

pub fn versions(api: &Api) -> RangeInclusive<i16> {
    api.min..=api.max
}

pub fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

pub fn topic(name: &'static str) -> TopicName {
    TopicName(text(name))
}

/// What they read of our request.
pub fn request<R: Request, T: Decodable>(ours: &R, version: i16) -> T {
    let mut out = b"before".to_vec();
    frame::write(&mut out, ours, version, 77, "trine");
    decode_request::<T>(&R::API, out.split_off(6), version)
}

pub fn decode_request<T: Decodable>(api: &Api, out: Vec<u8>, version: i16) -> T {
    let mut bytes = Bytes::from(out);
    assert_eq!(bytes.get_u32() as usize, bytes.len());
    let header = decode_request_header_from_buffer(&mut bytes).unwrap();
    assert_eq!((header.request_api_key, header.request_api_version), (api.key, version));
    assert_eq!(header.correlation_id, 77);
    assert_eq!(header.client_id.unwrap().as_str(), "trine");
    let message = T::decode(&mut bytes, version)
        .unwrap_or_else(|error| panic!("{} version {version}: {error}", api.name));
    assert!(bytes.is_empty(), "{} version {version} has {} bytes over", api.name, bytes.len());
    message
}

/// Their response, behind its length.
pub fn respond<T: Encodable + HeaderVersion>(theirs: &T, version: i16) -> Vec<u8> {
    let mut out = BytesMut::new();
    let header = ResponseHeader::default().with_correlation_id(77);
    header.encode(&mut out, T::header_version(version)).unwrap();
    theirs.encode(&mut out, version).unwrap_or_else(|error| panic!("version {version}: {error}"));
    let mut whole = (out.len() as u32).to_be_bytes().to_vec();
    whole.extend_from_slice(&out);
    whole
}

/// Has `check` see what we read of their response, and reads it damaged too: cut short anywhere it
/// is an error, and changed anywhere it is no panic.
pub fn response<R: Request, T: Encodable + HeaderVersion>(
    theirs: &T,
    version: i16,
    check: impl FnOnce(R::Response<'_>),
) {
    let whole = respond(theirs, version);
    let Ok(Framed::Response { correlation_id: 77, end }) = frame::response(&whole) else {
        panic!("{} version {version}: {:?}", R::API.name, frame::response(&whole));
    };
    assert_eq!(end, whole.len());
    let body = &whole[BODY_START..];
    let mut from = frame::body_reader(&R::API, body, version).unwrap();
    match R::read(&mut from) {
        Ok(response) => check(response),
        Err(error) => panic!("{} version {version}: {error}", R::API.name),
    }
    assert!(from.rest().is_empty(), "{} version {version}: {:?}", R::API.name, from.rest());
    for at in 0..body.len() {
        let read = frame::read::<R>(&body[..at], version);
        assert!(read.is_err(), "{} version {version} cut at {at}", R::API.name);
        for change in [0x01, 0x55, 0x80, 0xff] {
            let mut changed = body.to_vec();
            changed[at] ^= change;
            let _ = frame::read::<R>(&changed, version);
        }
    }
}
