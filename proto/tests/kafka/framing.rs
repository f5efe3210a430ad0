//! Length, header and version.
//!
//! **Runs on: any.**

use super::oracle::{request, respond, response};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use trine_proto::kafka::frame::{self, Framed};
use trine_proto::kafka::{Error, ErrorCode, api_versions, metadata};
use trine_proto::limits::KAFKA_APIS;

#[test]
fn a_response_is_found_wherever_it_is_cut() {
    let mut received = 6u32.to_be_bytes().to_vec();
    received.extend_from_slice(&[0, 0, 1, 2, 0xaa, 0xbb, 0xff]);
    for cut in 0..10 {
        let Ok(Framed::Partial(needed)) = frame::response(&received[..cut]) else {
            panic!("{cut}")
        };
        assert_eq!(needed, if cut < 4 { 8 } else { 10 });
    }
    for cut in 10..=11 {
        let found = frame::response(&received[..cut]);
        assert_eq!(found, Ok(Framed::Response { correlation_id: 258, end: 10 }));
    }
}

#[test]
fn a_length_that_is_none_is_named() {
    let alert = [0x15, 3, 3, 0, 2, 2, 70];
    assert!(matches!(frame::response(&alert), Err(Error::Foreign(what)) if what.contains("TLS")));
    let answer = b"HTTP/1.1 400 Bad Request\r\n";
    assert!(matches!(frame::response(answer), Err(Error::Foreign(what)) if what.contains("HTTP")));
    let over = (64 * 1024 * 1024 + 1u32).to_be_bytes();
    assert!(matches!(frame::response(&over), Err(Error::TooLarge(_))));
    let most = (64 * 1024 * 1024u32).to_be_bytes();
    assert_eq!(frame::response(&most), Ok(Framed::Partial(64 * 1024 * 1024 + 4)));
    assert!(matches!(frame::response(&3u32.to_be_bytes()), Err(Error::Malformed(_))));
    assert!(matches!(frame::response(&[0xff; 4]), Err(Error::TooLarge(_))));
}

#[test]
fn the_highest_common_version_is_chosen() {
    let api = metadata::API;
    assert_eq!(api.version(0, 99), Some(api.max));
    assert_eq!(api.version(0, 7), Some(7));
    assert_eq!(api.version(api.max, 99), Some(api.max));
    assert_eq!(api.version(api.max + 1, 99), None);
    assert_eq!(api.version(0, api.min - 1), None);
    assert_eq!(api.version(9, 3), None);
}

#[test]
fn api_versions() {
    let ours = api_versions::Request { software_name: "trine", software_version: "0.1.0" };
    for version in 0..=4 {
        let theirs: ApiVersionsRequest = request(&ours, version);
        if version >= 3 {
            assert_eq!(theirs.client_software_name.as_str(), "trine");
            assert_eq!(theirs.client_software_version.as_str(), "0.1.0");
        }
        let theirs = ApiVersionsResponse::default().with_api_keys(vec![
            ApiVersion::default().with_api_key(3).with_min_version(2).with_max_version(12),
            ApiVersion::default().with_api_key(0).with_min_version(40).with_max_version(41),
        ]);
        response::<api_versions::Request<'_>, _>(&theirs, version, |ours| {
            assert!(ours.error.is_none());
            assert_eq!(ours.version(&metadata::API), Some(12));
            assert_eq!(ours.version(&trine_proto::kafka::produce::API), None);
            assert_eq!(ours.version(&api_versions::API), None);
        });
    }
}

#[test]
fn a_broker_has_no_end_of_apis() {
    for (count, is_read) in [(KAFKA_APIS, true), (KAFKA_APIS + 1, false)] {
        let theirs =
            ApiVersionsResponse::default().with_api_keys(vec![ApiVersion::default(); count]);
        let whole = respond(&theirs, 0);
        let ours = frame::read::<api_versions::Request<'_>>(&whole[8..], 0);
        let refused = Err(Error::TooLarge("more than 1024 APIs of a broker"));
        assert_eq!(ours.map(|ours| ours.offered.len()), if is_read { Ok(count) } else { refused });
    }
}

/// KIP-511: whatever version was asked for, the refusal is in version 0.
#[test]
fn an_unknown_version_of_api_versions_is_answered_in_version_0() {
    let theirs = ApiVersionsResponse::default()
        .with_error_code(ResponseError::UnsupportedVersion.code())
        .with_api_keys(vec![
            ApiVersion::default().with_api_key(18).with_min_version(0).with_max_version(2),
        ]);
    let whole = respond(&theirs, 0);
    let ours = frame::read::<api_versions::Request<'_>>(&whole[8..], 4).unwrap();
    assert_eq!(ours.error, ErrorCode::UNSUPPORTED_VERSION);
    assert_eq!(ours.version(&api_versions::API), Some(2));
}

#[test]
fn every_error_code_is_as_in_the_other_implementation() {
    for code in -1..200 {
        let ours = ErrorCode(code);
        match ResponseError::try_from_code(code) {
            None | Some(ResponseError::Unknown(_)) => {
                assert!(code == 0 || ours.known_name().is_none());
            }
            Some(theirs) => {
                let name = ours.known_name().unwrap_or_else(|| panic!("{code} {theirs:?}"));
                let plain = name.replace('_', "").to_lowercase();
                assert_eq!(plain, format!("{theirs:?}").to_lowercase(), "{code}");
                assert_eq!(ours.is_retriable(), theirs.is_retriable(), "{name}");
            }
        }
    }
    assert_eq!(ErrorCode(6).to_string(), "NOT_LEADER_OR_FOLLOWER");
    assert_eq!(ErrorCode(999).to_string(), "error code 999");
}
