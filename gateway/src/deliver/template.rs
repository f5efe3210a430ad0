//! A channel's name made of a record: `user:{key}`, `chat:{header.conversation}`.
//!
//! **Runs on: any**; parsed by control, rendered on a shard. Invariants: what [`Template::render`]
//! gives is a channel name that may be published to; a field never changes the namespace that the
//! template's own text names.

use std::fmt;

use serde::{Deserialize, Serialize};
use trine_proto::kafka::record::Body;

use crate::limits::CHANNEL_NAME_BYTES;

/// What may stand between braces, for messages.
const FIELDS: &str = "{key}, {topic}, {header.NAME} or {value./json/pointer}";

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Key,
    Topic,
    Header(String),
    /// A JSON pointer (RFC 6901).
    Value(String),
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// The first byte that is wrong.
    pub at: usize,
    /// How many bytes are.
    pub length: usize,
    /// What would be right.
    pub label: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at character {}: {}", self.at + 1, self.label)
    }
}

impl std::error::Error for TemplateError {}

/// Why a record gives no channel. All are the record's fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RenderError {
    /// The record has no such field, or an empty one.
    MissingField(String),
    /// The name has characters that a channel may not have, or is too long.
    Invalid(&'static str),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let error = |at, length, label: String| Err(TemplateError { at, length, label });
        let mut parts = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let end = rest.find(['{', '}']).unwrap_or(rest.len());
            if let Some(bad) = rest[..end].find(|c: char| !matches!(c, ' '..='~')) {
                let length = rest[bad..].chars().next().map_or(1, char::len_utf8);
                return error(at + bad, length, "a channel's name is printable ASCII".to_owned());
            }
            if end > 0 {
                parts.push(Part::Text(rest[..end].to_owned()));
                at += end;
                continue;
            }
            let Some(close) = rest.strip_prefix('{').and_then(|inner| inner.find('}')) else {
                return error(at, 1, format!("braces come in pairs: {FIELDS}"));
            };
            match field(&rest[1..=close]) {
                Some(part) => parts.push(part),
                None => return error(at, close + 2, format!("write {FIELDS}")),
            }
            at += close + 2;
        }
        if parts.is_empty() {
            return error(0, 0, "a channel's name is not empty".to_owned());
        }
        let literal: usize =
            parts.iter().map(|part| if let Part::Text(text) = part { text.len() } else { 1 }).sum();
        if literal > CHANNEL_NAME_BYTES {
            return error(0, text.len(), format!("at most {CHANNEL_NAME_BYTES} bytes"));
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The namespace of every channel it gives; `None` when the record decides. Channels without
    /// a prefix are in the namespace `""`.
    pub fn namespace(&self) -> Option<&str> {
        let text = match &self.parts[..] {
            [Part::Text(text), ..] => text,
            _ => return None,
        };
        let public = text.strip_prefix('$').unwrap_or(text);
        match public.split_once(':') {
            Some((name, _)) => Some(name),
            None if self.parts.len() == 1 => Some(""),
            None => None,
        }
    }

    /// The channel of a record of this topic. Of headers with the same name the last one counts.
    ///
    /// # Errors
    /// When the record lacks a field, or its fields make no channel's name.
    pub fn render(&self, topic: &str, record: &Body<'_>) -> Result<String, RenderError> {
        let mut channel = String::with_capacity(self.text.len() + 32);
        let mut parsed = None;
        for part in &self.parts {
            let missing = || RenderError::MissingField(part.to_string());
            let before = channel.len();
            match part {
                Part::Text(text) => channel.push_str(text),
                Part::Topic => channel.push_str(topic),
                Part::Key => push(&mut channel, record.key().ok_or_else(missing)?)?,
                Part::Header(name) => {
                    push(&mut channel, record.header(name).ok_or_else(missing)?)?;
                }
                Part::Value(pointer) => {
                    let value: &serde_json::Value = parsed.get_or_insert_with(|| {
                        serde_json::from_slice(record.value().unwrap_or_default())
                            .unwrap_or_default()
                    });
                    match value.pointer(pointer) {
                        Some(serde_json::Value::String(text)) => channel.push_str(text),
                        Some(serde_json::Value::Number(number)) => {
                            channel.push_str(&number.to_string());
                        }
                        Some(serde_json::Value::Bool(flag)) => channel.push_str(&flag.to_string()),
                        _ => return Err(missing()),
                    }
                }
            }
            if channel.len() == before {
                // An empty field would put everybody without one into the same channel.
                return Err(missing());
            }
        }
        if channel.len() > CHANNEL_NAME_BYTES {
            return Err(RenderError::Invalid("the channel's name is too long"));
        }
        if !channel.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(RenderError::Invalid("the channel's name is not printable ASCII"));
        }
        Ok(channel)
    }
}

fn push(channel: &mut String, bytes: &[u8]) -> Result<(), RenderError> {
    let invalid = |_| RenderError::Invalid("the channel's name is not printable ASCII");
    channel.push_str(std::str::from_utf8(bytes).map_err(invalid)?);
    Ok(())
}

/// What stands between two braces.
fn field(name: &str) -> Option<Part> {
    match name {
        "key" => Some(Part::Key),
        "topic" => Some(Part::Topic),
        _ => match name.split_once('.')? {
            ("header", name) if !name.is_empty() => Some(Part::Header(name.to_owned())),
            ("value", pointer) if is_pointer(pointer) => Some(Part::Value(pointer.to_owned())),
            _ => None,
        },
    }
}

/// RFC 6901 §3: each step begins with a slash, and a tilde is followed by 0 or 1.
fn is_pointer(text: &str) -> bool {
    let escaped = |rest: &str| rest.starts_with(['0', '1']);
    text.starts_with('/') && text.split('~').skip(1).all(escaped)
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Text(text) => f.write_str(text),
            Part::Key => f.write_str("key"),
            Part::Topic => f.write_str("topic"),
            Part::Header(name) => write!(f, "header.{name}"),
            Part::Value(pointer) => write!(f, "value.{pointer}"),
        }
    }
}

impl TryFrom<String> for Template {
    type Error = TemplateError;

    fn try_from(text: String) -> Result<Self, TemplateError> {
        Self::parse(&text)
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use trine_proto::kafka::record::write_body;

    const HEADERS: &[(&str, Option<&[u8]>)] =
        &[("room", Some(b"old")), ("room", Some(b"7")), ("void", None), ("bytes", Some(b"\xff"))];

    fn record(
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_body(&mut bytes, key, value, headers.iter().copied());
        bytes
    }

    fn render_of(template: &str, bytes: &[u8]) -> Result<String, RenderError> {
        Template::parse(template).unwrap().render("tickets", &Body::parse(bytes).unwrap())
    }

    fn render(template: &str) -> Result<String, RenderError> {
        let value = br#"{"ticket":{"id":42,"a/b":"x","open":true,"tags":[],"none":""}}"#;
        render_of(template, &record(Some(b"ann"), Some(value), HEADERS))
    }

    #[test]
    fn fields_are_filled_in() {
        for (template, channel) in [
            ("news", "news"),
            ("user:{key}", "user:ann"),
            ("{topic}", "tickets"),
            ("chat:{header.room}", "chat:7"),
            ("t:{value./ticket/id}.{value./ticket/open}", "t:42.true"),
            ("t:{value./ticket/a~1b}!", "t:x!"),
        ] {
            assert_eq!(render(template).as_deref(), Ok(channel), "{template}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for field in ["header.rooms", "header.void", "value./ticket/tags", "value./ticket/none"] {
            let missing = Err(RenderError::MissingField(field.to_owned()));
            assert_eq!(render(&format!("t:{{{field}}}")), missing);
        }
        for template in ["{key}", "{value./a}"] {
            let missing = render_of(template, &record(None, None, &[]));
            assert!(matches!(missing, Err(RenderError::MissingField(_))));
        }
        assert!(matches!(render("t:{header.bytes}"), Err(RenderError::Invalid(_))));
        let long = render_of("user:{key}", &record(Some(&[b'a'; 300]), None, &[]));
        assert!(matches!(long, Err(RenderError::Invalid(_))));
    }

    #[test]
    fn a_mistake_has_its_place_and_remedy() {
        for (text, at, length, part) in [
            ("user:{kee}", 5, 5, "{key}"),
            ("user:{key", 5, 1, "in pairs"),
            ("user:key}", 8, 1, "in pairs"),
            ("user:{{key}}", 5, 6, "{topic}"),
            ("{header.}", 0, 9, "{header.NAME}"),
            ("{value.id}", 0, 10, "{value./json/pointer}"),
            ("{value./a~2}", 0, 12, "{value./json/pointer}"),
            ("t:é", 2, 2, "printable ASCII"),
            ("", 0, 0, "not empty"),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert_eq!((error.at, error.length), (at, length), "{text}");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
        assert!(Template::parse(&"a".repeat(256)).is_err());
    }

    #[test]
    fn the_namespace_is_known_where_the_text_says_it() {
        for (text, namespace) in [
            ("user:{key}", Some("user")),
            ("$user:{key}", Some("user")),
            ("news", Some("")),
            ("news-{key}", None),
            ("{topic}:{key}", None),
        ] {
            assert_eq!(Template::parse(text).unwrap().namespace(), namespace, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_within_itself(text in "\\PC{0,40}|[a-z{}./~:]{0,40}") {
            match Template::parse(&text) {
                Ok(template) => prop_assert_eq!(String::from(template), text),
                Err(error) => {
                    prop_assert!(text.is_char_boundary(error.at));
                    prop_assert!(text.is_char_boundary(error.at + error.length));
                }
            }
        }

        #[test]
        fn no_record_makes_a_bad_name_or_leaves_the_namespace(
            key in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            if let Ok(channel) = render_of("user:{key}", &record(Some(&key), None, &[])) {
                prop_assert!(channel.is_ascii() && channel.len() <= CHANNEL_NAME_BYTES);
                prop_assert_eq!(channel.split_once(':').unwrap().0, "user");
            }
        }
    }
}
