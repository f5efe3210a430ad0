//! The ticket flow of the embedded default, so that it shows durable events with nothing beside it.
//!
//! **Runs on: control.** `gateway/examples/customer-service.toml` writes the same as a file, on
//! Kafka. Invariant: what the demo page asks for (`gateway/demo/tickets.js`) is named here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Access, Config, Consumer, Namespace, RecordKey, Route, Rpc, Target, Upstream};
use crate::deliver::Template;

/// The rpc that opens a ticket, and the topic that has the tickets.
const CREATE: &str = "ticket.create";
/// The upstream that is the gateway's own listener.
const SLOW: &str = "demo-slow";

impl Config {
    /// Adds the rpc, its three consumers and the channels that show what they put out.
    pub(super) fn add_ticket_flow(&mut self) {
        self.rpcs.push(Rpc {
            method: CREATE.to_owned(),
            route: Route {
                topic: CREATE.to_owned(),
                key: RecordKey::User,
                dedupe_pointer: "/id".to_owned(),
                ..Route::default()
            },
        });
        let channel = |text| Target { channel: Template::parse(text).ok(), ..Target::default() };
        let slow = Target {
            upstream: Some(SLOW.to_owned()),
            path: "/demo/slow".to_owned(),
            ..Target::default()
        };
        for (name, to) in [
            ("notification", channel("desk:tickets")),
            ("log", channel("log:{topic}")),
            ("quality", slow),
        ] {
            let source = Consumer::default().to.source;
            self.consumers.push(Consumer {
                name: name.to_owned(),
                group: name.to_owned(),
                topics: vec![CREATE.to_owned()],
                to: Target { source, ..to },
                ..Consumer::default()
            });
        }
        self.upstreams.push(Upstream { name: SLOW.to_owned(), ..Upstream::default() });
        self.reach_itself_at(self.listen.client);
        // Who opens the page later sees the last tickets too; nobody asks for an old lag.
        for (name, history_size) in [("desk", 50), ("log", 50), ("demo", 0)] {
            self.namespaces.push(Namespace {
                subscribe: Access::Anonymous,
                history_access: Access::Anonymous,
                history_size,
                history_ttl_ms: if history_size > 0 { 3_600_000 } else { 0 },
                recovery: history_size > 0,
                positioning: history_size > 0,
                ..Namespace::closed(name.to_owned())
            });
        }
    }

    /// The listener for clients is bound to `client`: what the embedded default calls of its own
    /// is found there. A file names its upstreams' addresses itself.
    pub fn reach_itself_at(&mut self, client: SocketAddr) {
        if !self.embedded_default {
            return;
        }
        let ip = match client.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        for upstream in self.upstreams.iter_mut().filter(|upstream| upstream.name == SLOW) {
            upstream.endpoints = vec![SocketAddr::new(ip, client.port())];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slow_service_is_where_clients_connect() {
        let mut config = Config::embedded();
        for (bound, reached) in [
            ("127.0.0.1:8000", "127.0.0.1:8000"),
            ("0.0.0.0:81", "127.0.0.1:81"),
            ("[::]:82", "[::1]:82"),
            ("192.0.2.7:83", "192.0.2.7:83"),
        ] {
            config.reach_itself_at(bound.parse().unwrap());
            assert_eq!(config.upstreams[0].endpoints, [reached.parse().unwrap()]);
        }
        config.embedded_default = false;
        config.reach_itself_at("127.0.0.1:1".parse().unwrap());
        assert_eq!(config.upstreams[0].endpoints, ["192.0.2.7:83".parse().unwrap()]);
    }

    #[test]
    fn nothing_of_it_feeds_itself_and_every_target_is_there() {
        let config = Config::embedded();
        assert_eq!(config.consumers.len(), 3);
        for consumer in &config.consumers {
            assert_eq!(consumer.feeds_itself(config.written_topics()), None);
            let to = &consumer.to;
            let namespace = to.channel.as_ref().and_then(Template::namespace);
            let known =
                namespace.is_none_or(|name| config.namespaces.iter().any(|n| n.name == name));
            assert!(known && to.channel.is_some() != to.upstream.is_some(), "{}", consumer.name);
        }
    }
}
