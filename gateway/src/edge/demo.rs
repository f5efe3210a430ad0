//! The demo: its page's files, part of the program so that it needs nothing beside itself, and
//! what stands in for a legacy service that is slow.
//!
//! **Runs on: shard**, only where the configuration says `demo`. Invariants: what is published here
//! goes only into namespaces that the configuration has; a wait never holds up the shard.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use trine_core::rt;
use trine_proto::http1::{ResponseBody, write_response_head};
use uuid::Uuid;

use super::Shared;
use super::connection::Face;
use super::shard::Shard;
use crate::broker::Message;
use crate::hub::{Progress, Ticket};
use crate::limits::DEMO_SLOW_MS;
use crate::{scratch, session};

/// Where the slow service takes tickets.
pub(super) const SLOW_PATH: &str = "/demo/slow";
/// Where it says what it thinks of them.
const QUALITY_CHANNEL: &str = "desk:quality";
/// Where shards say how far the consumer groups are.
const LAG_CHANNEL: &str = "demo:lag";
/// Fewer words than these are too little to go on.
const WORDS_WANTED: usize = 4;

/// One file of the demo.
#[derive(Clone, Copy)]
pub(super) struct File {
    media_type: &'static str,
    /// Its content.
    pub text: &'static str,
}

/// Nothing is loaded from elsewhere, and nobody may put the page into a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

impl File {
    /// The fields of an answer with this file.
    pub fn headers(&self) -> [(&'static str, &'static str); 4] {
        [
            ("Content-Type", self.media_type),
            ("Content-Security-Policy", POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-cache"),
        ]
    }
}

/// The file at `path`.
pub(super) fn file(path: &str) -> Option<File> {
    let (script, style) = ("text/javascript; charset=utf-8", "text/css; charset=utf-8");
    let (media_type, text) = match path {
        "/" => ("text/html; charset=utf-8", include_str!("../../demo/index.html")),
        "/demo/chat.js" => (script, include_str!("../../demo/chat.js")),
        "/demo/tickets.js" => (script, include_str!("../../demo/tickets.js")),
        "/demo/chat.css" => (style, include_str!("../../demo/chat.css")),
        "/demo/tickets.css" => (style, include_str!("../../demo/tickets.css")),
        "/demo/centrifuge.js" => (script, include_str!("../../demo/vendor/centrifuge.js")),
        _ => return None,
    };
    Some(File { media_type, text })
}

/// What the slow service reads of a ticket.
#[derive(Deserialize)]
struct Opened<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    text: Cow<'a, str>,
}

/// Answers a call of the slow service after a wait, then ends the connection: the service is of an
/// age that knows one call of each. What else arrives meanwhile is not read.
pub(super) async fn answer_slowly(shard: &Shared, id: u32, body: &[u8]) {
    rt::sleep_until(rt::now_ms() + DEMO_SLOW_MS).await;
    let now_ms = rt::now_ms();
    let mut shard = shard.borrow_mut();
    if shard.clients.entry(id).face == Face::Closing {
        return;
    }
    let status = match verdict(body) {
        None => 400,
        Some(verdict) if shard.publish_for_page(QUALITY_CHANNEL, &verdict, now_ms) => 200,
        Some(_) => 503,
    };
    scratch::with(|out| {
        write_response_head(out, status, &[], ResponseBody::Length(0), false);
        shard.clients.push(id, out, &[]);
    });
    shard.clients.linger(id, true, now_ms);
}

/// What the slow service says of a ticket; `None`: it is none.
fn verdict(body: &[u8]) -> Option<String> {
    let opened: Opened<'_> = serde_json::from_slice(body).ok()?;
    let verdict = match opened.text.split_whitespace().count() {
        0..WORDS_WANTED => "too little to go on: ask what happened",
        _ => "says enough to begin with",
    };
    Some(json!({ "ticket": opened.id, "verdict": verdict }).to_string())
}

impl Shard {
    /// Tells the page how far the groups are in the partitions that are read here.
    pub fn publish_lag(&mut self, now_ms: u64) {
        let mut groups = BTreeMap::new();
        for standing in self.deliveries.standings(now_ms) {
            let group = &self.config.consumers[standing.of.consumer as usize].group;
            let (position, end_offset) = groups.entry(group).or_insert((0, 0));
            *position += standing.position;
            *end_offset += standing.end_offset;
        }
        if groups.is_empty() {
            return;
        }
        let said = |(group, (position, end_offset))| json!({ "group": group, "position": position, "end_offset": end_offset });
        let groups: Vec<_> = groups.into_iter().map(said).collect();
        let text = json!({ "shard": self.index, "groups": groups }).to_string();
        // It is said again in a second, so that one that finds no room is not missed.
        self.publish_for_page(LAG_CHANNEL, &text, now_ms);
    }

    /// Publishes, where the channel's namespace is there. `false`: there is no room for it now.
    fn publish_for_page(&mut self, channel: &str, data: &str, now_ms: u64) -> bool {
        let Ok(namespace) = session::namespace_of(&self.config, channel) else { return true };
        let ticket = Ticket { client: Ticket::NOBODY, place: 0, id: Uuid::nil() };
        let Shard { hub, clients, .. } = self;
        let channel = (channel, namespace);
        let message = Message::plain(data.as_bytes(), None);
        let published = hub.publish(clients, channel, message, ticket, now_ms);
        rt::request_turn();
        !matches!(published, Progress::Full(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn the_vendored_library_is_the_one_that_its_version_file_names() {
        let version = include_str!("../../demo/vendor/VERSION");
        let named = version.lines().find_map(|line| line.strip_prefix("sha256: "));
        let library = file("/demo/centrifuge.js").unwrap().text;
        assert_eq!(named, Some(&*format!("{:x}", Sha256::digest(library))));
    }

    #[test]
    fn the_slow_service_reads_tickets_and_nothing_else() {
        let said = |body: &str| verdict(body.as_bytes());
        let of = |text: &str| said(&format!(r#"{{"id":"T-\u0031","text":"{text}","more":1}}"#));
        let short = of("it \\n broke").unwrap();
        assert!(short.contains(r#""ticket":"T-1""#) && short.contains("too little"), "{short}");
        assert!(of("it broke this morning").unwrap().contains("enough"));
        for body in ["", "{}", "[]", r#"{"id":1}"#, r#"{"text":"a"}"#] {
            assert_eq!(said(body), None, "{body}");
        }
    }
}
