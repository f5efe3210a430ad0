//! A subscriber that survives: it reconnects, recovers, and knows whether anything was lost.
//!
//! **Runs on: any.** Invariant: what it heard of one epoch has offsets without gap or repeat; a
//! break of that is a panic, since the protocol promises it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{Client, Failure, Position};
use crate::wait::DEADLINE;

/// One channel, followed.
pub struct Follower {
    /// The data of every publication heard, in order.
    pub heard: Vec<Value>,
    /// How often a connection was lost and made again.
    pub reconnects: usize,
    /// How often a subscription was ended by the gateway with a code that asks to come back.
    pub resubscribes: usize,
    /// How often recovery was refused, so that something may be missing.
    pub losses: usize,
    /// How the last connection ended.
    pub last_end: Option<Failure>,
    address: SocketAddr,
    name: String,
    channel: String,
    client: Client,
    position: Position,
}

impl Follower {
    /// Connects as `name` and subscribes to `channel`.
    pub fn start(address: SocketAddr, name: &str, channel: &str) -> Result<Self, Failure> {
        let mut client = Client::connect(address, name)?;
        let subscribed = client.subscribe(channel, None)?;
        Ok(Self {
            heard: Vec::new(),
            reconnects: 0,
            resubscribes: 0,
            losses: 0,
            last_end: None,
            address,
            name: name.to_owned(),
            channel: channel.to_owned(),
            client,
            position: subscribed.position,
        })
    }

    /// Where it stands.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// How often it was pinged on the connection that it has now.
    pub fn pings(&self) -> usize {
        self.client.pings
    }

    /// Listens until `enough` says so; false when `limit` passed first.
    #[track_caller]
    pub fn listen(&mut self, limit: Duration, mut enough: impl FnMut(&Self) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        while !enough(self) {
            if Instant::now() > deadline {
                return false;
            }
            match self.client.push(Duration::from_millis(50)) {
                Ok(push) => self.take(&push),
                Err(Failure::TimedOut) => {}
                Err(end) => {
                    self.last_end = Some(end);
                    self.return_to(deadline);
                }
            }
        }
        true
    }

    /// Cuts the connection, as a network does.
    pub fn cut(self) -> Away {
        let Self { client, address, name, channel, position, .. } = self;
        client.cut();
        Away { address, name, channel, position }
    }

    #[track_caller]
    fn take(&mut self, push: &Value) {
        if push["channel"] != self.channel.as_str() {
            return;
        }
        if !push["pub"].is_null() {
            self.hear(&push["pub"]);
        } else if push["unsubscribe"]["code"].as_u64().is_some_and(|code| code >= 2500) {
            self.resubscribes += 1;
            // What is overloaded says so, and is asked again.
            let deadline = Instant::now() + DEADLINE;
            while let Err(error) = self.resubscribe() {
                let is_for_now = matches!(error, Failure::Refused { code: 100, .. });
                assert!(is_for_now && Instant::now() < deadline, "no way back: {error}");
            }
        }
    }

    #[track_caller]
    fn hear(&mut self, publication: &Value) {
        let offset = publication["offset"].as_u64().unwrap_or_default();
        let Position { epoch, offset: last } = &self.position;
        assert_eq!(offset, last + 1, "{} heard {offset} after {last} of {epoch}", self.name);
        self.position.offset = offset;
        self.heard.push(publication["data"].clone());
    }

    /// Connects again until it works, and recovers.
    #[track_caller]
    fn return_to(&mut self, deadline: Instant) {
        self.reconnects += 1;
        loop {
            match Client::connect(self.address, &self.name) {
                Ok(client) => {
                    self.client = client;
                    if self.resubscribe().is_ok() {
                        return;
                    }
                }
                Err(error) => assert!(Instant::now() < deadline + DEADLINE, "no way back: {error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn resubscribe(&mut self) -> Result<(), Failure> {
        let subscribed = self.client.subscribe(&self.channel, Some(&self.position))?;
        if subscribed.recovered {
            assert_eq!(
                subscribed.position, self.position,
                "a recovered reply tells the position asked for"
            );
            subscribed.publications.iter().for_each(|publication| self.hear(publication));
        } else {
            self.losses += 1;
            self.position = subscribed.position;
        }
        Ok(())
    }
}

/// A follower whose connection was cut; it comes back with its position.
pub struct Away {
    address: SocketAddr,
    name: String,
    channel: String,
    position: Position,
}

impl Away {
    /// Connects and recovers.
    pub fn come_back(self) -> Result<Follower, Failure> {
        let client = Client::connect(self.address, &self.name)?;
        let mut follower = Follower {
            heard: Vec::new(),
            reconnects: 1,
            resubscribes: 0,
            losses: 0,
            last_end: None,
            address: self.address,
            name: self.name,
            channel: self.channel,
            client,
            position: self.position,
        };
        follower.resubscribe()?;
        Ok(follower)
    }
}
