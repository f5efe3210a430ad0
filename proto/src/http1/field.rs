//! Field lines and what they say of framing and connection, for requests and responses alike
//! (RFC 9110 §5, RFC 9112 §5, §6, §9).
//!
//! **Runs on: any.** Invariant: of two ways to read a field that decides where a message ends, none is
//! taken: it is an error.

use super::{BodyLength, Error, Version};

/// One field line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name as it was sent; compare without case.
    pub name: &'a str,
    /// The value without the whitespace around it: no control character but HTAB.
    pub value: &'a [u8],
}

/// The fields that the parser split, in order.
pub(super) fn headers<'a>(parsed: &[httparse::Header<'a>]) -> Vec<Header<'a>> {
    parsed.iter().map(|field| Header { name: field.name, value: trim(field.value) }).collect()
}

pub(super) fn named<'a>(headers: &[Header<'a>], name: &str) -> impl Iterator<Item = &'a [u8]> {
    headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .map(|header| header.value)
}

pub(super) fn list<'a>(headers: &[Header<'a>], name: &str) -> impl Iterator<Item = &'a [u8]> {
    named(headers, name)
        .flat_map(|value| value.split(|&byte| byte == b','))
        .map(trim)
        .filter(|member| !member.is_empty())
}

pub(super) fn has_token(headers: &[Header<'_>], name: &str, token: &str) -> bool {
    list(headers, name).any(|member| member.eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether the sender wants to keep the connection (RFC 9112 §9.3).
pub(super) fn keep_alive(headers: &[Header<'_>], version: Version) -> bool {
    !has_token(headers, "connection", "close")
        && (version == Version::Http11 || has_token(headers, "connection", "keep-alive"))
}

/// The rules of RFC 9112 §6.1-§6.3, with every "ought to" as "must". `None`: no field says it.
pub(super) fn body_length(
    headers: &[Header<'_>],
    version: Version,
) -> Result<Option<BodyLength>, Error> {
    let mut codings = named(headers, "transfer-encoding");
    let mut lengths = named(headers, "content-length");
    match (codings.next(), lengths.next()) {
        (None, None) => Ok(None),
        (None, Some(length)) if lengths.next().is_none() => {
            let length = parse_digits(length).ok_or(Error::ContentLength)?;
            Ok(Some(BodyLength::Length(length)))
        }
        (None, Some(_)) => Err(Error::ContentLength),
        (Some(coding), None) => {
            let chunked = coding.eq_ignore_ascii_case(b"chunked");
            let only = codings.next().is_none() && version == Version::Http11;
            if chunked && only {
                Ok(Some(BodyLength::Chunked))
            } else {
                Err(Error::TransferEncoding)
            }
        }
        (Some(_), Some(_)) => Err(Error::TransferEncoding),
    }
}

/// Whether the name is a token and the value has no control character but HTAB.
pub(super) fn is_field(name: &str, value: &[u8]) -> bool {
    is_token(name) && value.iter().all(|&byte| byte == b'\t' || !byte.is_ascii_control())
}

/// Whether `text` is a token (RFC 9110 §5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_character)
}

/// Whether `byte` may be in a token (RFC 9110 §5.6.2).
pub(super) fn is_token_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Optional whitespace around a value is not part of it (RFC 9110 §5.6.3).
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// `1*DIGIT` below 2^64: no sign, no whitespace, no list.
fn parse_digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |number, &byte| {
        let digit = byte.is_ascii_digit().then_some(byte & 0x0f)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// CR and LF only together, no control characters but HTAB (RFC 9112 §2.2, RFC 9110 §5.5).
pub(super) fn check_characters(head: &[u8]) -> Result<(), Error> {
    let mut after_cr = false;
    for &byte in head {
        match byte {
            b'\n' if !after_cr => return Err(Error::BareLf),
            b'\n' => {}
            _ if after_cr => return Err(Error::BareCr),
            b'\r' | b'\t' | b' '..=b'~' | 0x80.. => {}
            _ => return Err(Error::ControlCharacter),
        }
        after_cr = byte == b'\r';
    }
    if after_cr { Err(Error::BareCr) } else { Ok(()) }
}
