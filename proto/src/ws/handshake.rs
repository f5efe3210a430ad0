//! The opening handshake's answer to its key (RFC 6455 §4.2.2).
//!
//! **Runs on: any.** SHA-1 proves here only that the server understood the question.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use sha1::{Digest as _, Sha1};

/// The value of Sec-WebSocket-Accept for the client's Sec-WebSocket-Key; `None` if the key is not
/// base64 of 16 bytes (§4.2.1).
pub fn accept_key(key: &[u8]) -> Option<[u8; 28]> {
    // The decoder asks for room by its estimate, which may be two bytes more than the result.
    let mut nonce = [0; 18];
    if key.len() != 24 || KEY.decode_slice(key, &mut nonce) != Ok(16) {
        return None;
    }
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut accept = [0; 28];
    let written = KEY.encode_slice(digest, &mut accept);
    assert_eq!(written, Ok(28));
    Some(accept)
}

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The RFC's own example key (§4.1) has bits set that belong to no byte, so they are allowed.
const KEY: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_keys() {
        // RFC 6455 §1.3.
        let accept = accept_key(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept.as_ref().map(|a| &a[..]), Some(&b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="[..]));
        // RFC 6455 §4.1, point 7.
        assert!(accept_key(b"AQIDBAUGBwgJCgsMDQ4PEC==").is_some());
    }

    #[test]
    fn keys_refused() {
        for key in [
            &b""[..],
            b"dGhlIHNhbXBsZSBub25jZQ",
            b"dGhlIHNhbXBsZSBub25jZQ= ",
            b"dGhlIHNhbXBsZSBub25jZTE=",
            b"dGhlIHNhbXBsZSBub25jZTEx",
            b"dGhlIHNhbXBsZSBub25j!Q==",
            b"dGhlIHNhbXBsZSBub25jZQ==A",
        ] {
            assert_eq!(accept_key(key), None, "{}", key.escape_ascii());
        }
    }
}
