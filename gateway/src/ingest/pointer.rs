//! JSON pointers into payloads (RFC 6901): one value is found without building the rest.
//!
//! **Runs on: shard.** Sans-IO.

use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// A parsed pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(Box<[Box<str>]>);

impl Pointer {
    /// The pointer that is written so; the empty text is the whole document.
    pub fn parse(text: &str) -> Self {
        let tokens = text.split('/').skip(1);
        Self(tokens.map(|token| token.replace("~1", "/").replace("~0", "~").into()).collect())
    }

    /// The value there, if it is a text (its content), a number, `true` or `false` (as written).
    /// `None` for anything else and where the document has no such place or is no JSON.
    pub fn find<'a>(&self, document: &'a [u8]) -> Option<Cow<'a, str>> {
        let mut here = std::str::from_utf8(document).ok()?;
        for token in &self.0 {
            let mut parser = serde_json::Deserializer::from_str(here);
            here = parser.deserialize_any(Step(token)).ok()??.get();
        }
        let here = here.trim_ascii();
        match here.as_bytes().first()? {
            b'"' => serde_json::from_str::<Text<'a>>(here).ok().map(|text| text.0),
            b'{' | b'[' | b'n' => None,
            _ => Some(Cow::Borrowed(here)),
        }
    }
}

#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Goes one token down.
struct Step<'t>(&'t str);

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Text(name)) = map.next_key()? {
            if name == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let wanted: Option<usize> = self.0.parse().ok();
        let mut found = None;
        let mut index = 0;
        while let Some(value) = list.next_element::<&RawValue>()? {
            if wanted == Some(index) {
                found = Some(value);
            }
            index += 1;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 6901 §5 that lead to plain values, and what leads nowhere.
    #[test]
    fn pointers_lead_where_the_rfc_says() {
        let document = br#" {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "m~n": 8,
            "ticket": {"id": "T-\u0031", "open": true, "none": null, "at": 1.50}} "#;
        for (pointer, value) in [
            ("/foo/0", Some("bar")),
            ("/", Some("0")),
            ("/a~1b", Some("1")),
            ("/c%d", Some("2")),
            ("/m~0n", Some("8")),
            ("/ticket/id", Some("T-1")),
            ("/ticket/open", Some("true")),
            ("/ticket/at", Some("1.50")),
            ("/ticket/none", None),
            ("/ticket", None),
            ("/foo/2", None),
            ("/foo/x", None),
            ("/ticket/id/x", None),
            ("/nothing", None),
            ("", None),
        ] {
            assert_eq!(Pointer::parse(pointer).find(document).as_deref(), value, "{pointer}");
        }
        assert_eq!(Pointer::parse("/a").find(b"{\"a\":"), None);
        assert_eq!(Pointer::parse("/a").find(&[0xff, 0xfe]), None);
    }
}
