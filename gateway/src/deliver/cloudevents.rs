//! Records as CloudEvents 1.0 over HTTP: one a request in binary mode, or several as a batch.
//!
//! **Runs on: shard.** Pure functions. Source: CloudEvents 1.0.2, its HTTP protocol binding (§3.1
//! binary, §3.3 batched) and its JSON format. Invariants: an event's id is its place in the log, so
//! a repeated delivery has the same one; a header's value is printable ASCII whatever the record
//! holds. A key that is not UTF-8 can't be an attribute and is left out.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use trine_proto::client::is_json;
use trine_proto::kafka::record::Body;

/// What a POST carries besides its target and length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Names in lower case, values ready for the wire.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Bytes,
}

/// A record and where it comes from.
pub(super) struct Event<'a> {
    pub source: &'a str,
    pub topic: &'a str,
    pub partition: i32,
    pub offset: u64,
    /// 0: unknown.
    pub time_ms: u64,
    /// What `record` was read from.
    pub bytes: &'a Bytes,
    pub record: Body<'a>,
}

impl Event<'_> {
    /// The attributes by name, without their prefix.
    fn attributes(&self) -> impl Iterator<Item = (&'static str, String)> {
        let key = self.record.key().and_then(|key| std::str::from_utf8(key).ok());
        // An attribute is never empty.
        let key = key.filter(|key| !key.is_empty());
        let time = (self.time_ms > 0).then(|| rfc3339(self.time_ms));
        let trace = self.record.header("traceparent").and_then(|it| std::str::from_utf8(it).ok());
        [
            ("ce-specversion", Some("1.0".to_owned())),
            ("ce-id", Some(format!("{}/{}/{}", self.topic, self.partition, self.offset))),
            ("ce-source", Some(self.source.to_owned())),
            ("ce-type", Some(self.topic.to_owned())),
            ("ce-time", time),
            ("ce-subject", key.map(str::to_owned)),
            ("ce-partitionkey", key.map(str::to_owned)),
            ("ce-traceparent", trace.filter(|it| !it.is_empty()).map(str::to_owned)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }

    /// What the value is: as the record's header says, else JSON if it is that.
    fn content_type(&self, value: &[u8]) -> String {
        let said = self.record.header("content-type").and_then(|it| std::str::from_utf8(it).ok());
        let clean =
            |text: &&str| !text.is_empty() && text.bytes().all(|b| matches!(b, b' '..=b'~'));
        match said.map(str::trim).filter(clean) {
            Some(said) => said.to_owned(),
            None if is_json(value) => "application/json".to_owned(),
            None => "application/octet-stream".to_owned(),
        }
    }
}

/// One event in binary mode: attributes are headers, the value is the body.
pub(super) fn single(event: &Event<'_>) -> Request {
    let mut headers: Vec<_> =
        event.attributes().map(|(name, value)| (name, percent_encoded(&value))).collect();
    let body = match event.record.value() {
        None => Bytes::new(),
        Some(value) => {
            headers.push(("content-type", event.content_type(value)));
            event.bytes.slice_ref(value)
        }
    };
    Request { headers, body }
}

/// Several events as one JSON array.
pub(super) fn batch(events: &[Event<'_>]) -> Request {
    let mut body = Vec::with_capacity(events.iter().map(|event| event.bytes.len() + 320).sum());
    for event in events {
        body.push(if body.is_empty() { b'[' } else { b',' });
        write_json(&mut body, event);
    }
    if body.is_empty() {
        body.push(b'[');
    }
    body.push(b']');
    let content_type = "application/cloudevents-batch+json; charset=utf-8".to_owned();
    Request { headers: vec![("content-type", content_type)], body: body.into() }
}

/// JSON format §3.1: data that is JSON stands as it is, other data in base64.
fn write_json(out: &mut Vec<u8>, event: &Event<'_>) {
    let attributes = event.attributes();
    let mut object: Map<String, Value> = attributes
        .map(|(name, value)| (name.trim_start_matches("ce-").to_owned(), value.into()))
        .collect();
    let Some(value) = event.record.value() else {
        return out.extend_from_slice(Value::Object(object).to_string().as_bytes());
    };
    let content_type = event.content_type(value);
    let raw = is_json_type(&content_type)
        .then(|| serde_json::from_slice::<&RawValue>(value).ok())
        .flatten();
    object.insert("datacontenttype".to_owned(), content_type.into());
    if raw.is_none() {
        object.insert("data_base64".to_owned(), STANDARD.encode(value).into());
    }
    out.extend_from_slice(Value::Object(object).to_string().as_bytes());
    if let Some(raw) = raw {
        out.pop();
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(raw.get().as_bytes());
        out.push(b'}');
    }
}

/// `*/json` and `*/*+json`, whatever their parameters.
fn is_json_type(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.split_once('/').is_some_and(|(_, kind)| kind == "json" || kind.ends_with("+json"))
}

/// HTTP binding §3.1.3.2: space, double quote, percent, and all that is not printable ASCII.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' => {}
            b'!'..=b'~' => {
                encoded.push(byte as char);
                continue;
            }
            _ => {}
        }
        // Writing to a string never fails.
        let _ = write!(encoded, "%{byte:02X}");
    }
    encoded
}

/// RFC 3339 in UTC, of milliseconds since 1970. The calendar repeats every 400 years, so days are
/// counted within one such era that begins on a 1st of March, when leap days come last.
fn rfc3339(time_ms: u64) -> String {
    let (days, ms) = (time_ms / 86_400_000, time_ms % 86_400_000);
    // From 1 March of the year 0 to 1 January 1970.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year + u64::from(month >= 10);
    let month = if month < 10 { month + 3 } else { month - 9 };
    let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
    let (second, ms) = (ms / 1000 % 60, ms % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use trine_proto::kafka::record::write_body;

    type Headers<'a> = &'a [(&'a str, Option<&'a [u8]>)];

    fn body(key: Option<&[u8]>, value: Option<&[u8]>, headers: Headers<'_>) -> Bytes {
        let mut bytes = Vec::new();
        write_body(&mut bytes, key, value, headers.iter().copied());
        bytes.into()
    }

    fn event(bytes: &Bytes) -> Event<'_> {
        Event {
            source: "/trine",
            topic: "tickets",
            partition: 3,
            offset: 42,
            time_ms: 1_700_000_000_123,
            bytes,
            record: Body::parse(bytes).unwrap(),
        }
    }

    #[test]
    fn a_record_is_an_event_in_binary_mode() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let bytes = body(
            Some("Zoë \"50%\"".as_bytes()),
            Some(b"{\"id\":1}"),
            &[("traceparent", Some(trace.as_bytes()))],
        );
        let request = single(&event(&bytes));
        let key = "Zo%C3%AB%20%2250%25%22";
        let expected = [
            ("ce-specversion", "1.0"),
            ("ce-id", "tickets/3/42"),
            ("ce-source", "/trine"),
            ("ce-type", "tickets"),
            ("ce-time", "2023-11-14T22:13:20.123Z"),
            ("ce-subject", key),
            ("ce-partitionkey", key),
            ("ce-traceparent", trace),
            ("content-type", "application/json"),
        ];
        let headers: Vec<_> = request.headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        assert_eq!(headers, expected);
        assert_eq!(request.body, "{\"id\":1}");
    }

    #[test]
    fn what_a_record_lacks_is_left_out() {
        for key in [None, Some(&b""[..]), Some(b"\xff")] {
            let bytes = body(key, None, &[]);
            let request = single(&Event { time_ms: 0, ..event(&bytes) });
            let names: Vec<_> = request.headers.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, ["ce-specversion", "ce-id", "ce-source", "ce-type"]);
            assert!(request.body.is_empty());
        }
    }

    #[test]
    fn the_content_type_is_the_records_or_found() {
        let said = |headers: Headers<'_>, value: &[u8]| {
            let bytes = body(None, Some(value), headers);
            single(&event(&bytes)).headers.pop().unwrap().1
        };
        assert_eq!(said(&[("content-type", Some(b"text/plain"))], b"{}"), "text/plain");
        assert_eq!(said(&[("content-type", Some(b"a\r\nx: y"))], b"{}"), "application/json");
        assert_eq!(said(&[], b"{"), "application/octet-stream");
    }

    #[test]
    fn a_batch_is_a_json_array() {
        let one = body(Some(b"k"), Some(b"{\"a\": [1, 2]}"), &[]);
        let two = body(None, Some(b"\x00\xff"), &[]);
        let three = body(None, Some(b"not json"), &[("content-type", Some(b"application/json"))]);
        let four = body(None, None, &[]);
        let records = [&one, &two, &three, &four];
        let request = batch(&records.map(event));
        assert_eq!(request.headers.len(), 1);
        assert!(request.headers[0].1.starts_with("application/cloudevents-batch+json"));
        let events: Vec<Value> = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(events.len(), 4);
        assert_eq!(events[0]["data"]["a"][1], 2);
        assert_eq!(events[0]["subject"], "k");
        assert_eq!(events[0]["datacontenttype"], "application/json");
        assert_eq!(events[1]["data_base64"], "AP8=");
        assert_eq!(events[2]["data_base64"], "bm90IGpzb24=");
        assert!(events[3].get("data").is_none() && events[3].get("data_base64").is_none());
        assert!(events.iter().all(|event| event["specversion"] == "1.0"));
        assert_eq!(batch(&[]).body, "[]");
    }

    #[test]
    fn times_are_written_as_in_rfc_3339() {
        for (time_ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (4_102_444_800_000, "2100-01-01T00:00:00.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(time_ms), text);
        }
        // A time that nobody meant still is no panic.
        assert!(rfc3339(u64::MAX).ends_with('Z'));
    }

    proptest! {
        #[test]
        fn no_record_breaks_a_header_or_the_array(
            key in proptest::collection::vec(any::<u8>(), 0..20),
            value in proptest::collection::vec(any::<u8>(), 0..20),
            said in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let bytes = body(Some(&key), Some(&value), &[("content-type", Some(&said))]);
            let request = single(&event(&bytes));
            for (_, value) in &request.headers {
                prop_assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            }
            prop_assert_eq!(&request.body[..], &value[..]);
            let request = batch(&[event(&bytes), event(&bytes)]);
            let events: Vec<Value> = serde_json::from_slice(&request.body).unwrap();
            prop_assert_eq!(events.len(), 2);
        }
    }
}
