//! Carries out what lanes decide: fetches, publications, calls of upstreams, records of other
//! topics, dead letters, commits.
//!
//! **Runs on: shard.** Invariants: every effect of a lane is answered, if the lane still lives; an
//! answer for a lane that is gone is dropped; nothing here waits inside a turn.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use slab::Slab;
use trine_core::metrics::Counter;
use trine_core::rt;
use trine_core::upstream::{Cause, Request as UpstreamRequest, Upstream};
use trine_proto::client::ErrorCode;
use trine_proto::hash;
use trine_proto::http1::Header;
use uuid::Uuid;

use super::durable::{Asked, AskedKind};
use super::pools::{Pool, name_overdue};
use super::shard::{Shard, wall_ms};
use crate::broker::Message;
use crate::config::Config;
use crate::data::Standings;
use crate::deliver::{
    Alarm, Effect, LagEvent, LagMeter, Lane, Level, Outcome, Reason, Request, Route, Token, Totals,
    outcome_of,
};
use crate::hub::{Answer, Progress, Ticket, ToShard};
use crate::ingest::{Asker, Outcome as Stored, Owner, Refusal, Wish};
use crate::limits::{FETCH_BYTES, LAG_INTERVAL_MS};
use crate::log::{Feed, FeedEvent};

/// What this shard delivers.
pub(super) struct Deliveries {
    /// By consumer.
    routes: Vec<Rc<Route>>,
    /// By upstream.
    upstreams: Vec<Rc<Upstream>>,
    /// Who is told of a lag, by consumer.
    hooks: Vec<Option<Hook>>,
    /// By feed.
    running: Vec<Option<Running>>,
    /// Feeds whose lanes may have something to do.
    busy: Vec<u32>,
    /// Publications that other shards were asked for.
    publishes: Slab<Errand>,
    /// What tasks have brought back.
    results: Rc<RefCell<VecDeque<(Errand, Outcome)>>>,
    /// Counts lanes, to tell one from the one before it on the same feed.
    lives: u32,
    next_look_ms: u64,
    /// For control; not told yet in this second.
    standings: Standings,
    untold: bool,
    /// Unix time less the shard's clock, at the last look.
    unix_ahead_ms: u64,
    /// Of lanes that are gone.
    past: Totals,
}

/// An effect that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Errand {
    feed: u32,
    life: u32,
    token: Token,
}

struct Running {
    lane: Lane,
    life: u32,
    feed: Feed,
    fetching: bool,
    /// When a fetch that failed is tried again; 0: none did.
    retry_ms: u64,
    /// Something met a full mailbox.
    full: bool,
    end_offset: u64,
    lag: LagMeter,
}

#[derive(Clone)]
struct Hook {
    upstream: Rc<Upstream>,
    path: Rc<str>,
}

/// How far a consumer is in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which consumer and partition.
    pub of: Feed,
    /// The next offset that is not delivered.
    pub position: u64,
    /// Where the partition ends.
    pub end_offset: u64,
    /// Nothing is begun: a mailbox is full, or a dead letter can't be written.
    pub paused: bool,
    /// How bad its lag is.
    pub level: Level,
    /// Age of the oldest record that is held and not delivered.
    pub age_ms: u64,
}

impl Deliveries {
    pub fn new(config: &Rc<Config>, standings: Standings) -> Self {
        let consumers = 0..config.consumers.len();
        let hook = |consumer: usize| hook(&config.consumers[consumer].lag.hook);
        Self {
            routes: consumers
                .clone()
                .map(|index| Rc::new(Route::new(config.clone(), index)))
                .collect(),
            upstreams: config.upstreams.iter().map(|u| Upstream::new(u.options())).collect(),
            hooks: consumers.map(hook).collect(),
            running: Vec::new(),
            busy: Vec::new(),
            publishes: Slab::new(),
            results: Rc::default(),
            lives: 0,
            next_look_ms: 0,
            standings,
            untold: false,
            unix_ahead_ms: unix_ahead_ms(),
            past: Totals::default(),
        }
    }

    /// Where standings are left for control.
    pub fn to_control(&self) -> Standings {
        self.standings.clone()
    }

    /// What became of all records.
    pub fn totals(&self) -> Totals {
        let lanes = self.running.iter().flatten().map(|running| running.lane.totals());
        lanes.fold(self.past, add)
    }

    /// Records that were not delivered, of all partitions.
    pub fn lag(&self) -> u64 {
        self.running.iter().flatten().map(|running| running.lag.lag()).sum()
    }

    /// Partitions read here.
    pub fn len(&self) -> usize {
        self.running.iter().flatten().count()
    }

    fn get(&mut self, feed: u32) -> Option<&mut Running> {
        self.running.get_mut(feed as usize)?.as_mut()
    }

    fn touch(&mut self, feed: u32) {
        if !self.busy.contains(&feed) {
            self.busy.push(feed);
        }
    }

    /// Takes the outcome of an effect.
    fn done(&mut self, errand: Errand, outcome: Outcome, now_ms: u64, random: u64) {
        let Errand { feed, life, token } = errand;
        if let Some(running) = self.get(feed)
            && running.life == life
        {
            running.full |= matches!(outcome, Outcome::Full);
            running.lane.done(token, outcome, now_ms, random);
            self.touch(feed);
        }
    }
}

/// Unix time less the shard's clock: rather 1 ms too little, so that nothing due by it is early.
fn unix_ahead_ms() -> u64 {
    wall_ms().saturating_sub(rt::clock_ns() / 1_000_000 + 1)
}

fn add(one: Totals, other: Totals) -> Totals {
    Totals {
        delivered: one.delivered + other.delivered,
        dead_lettered: one.dead_lettered + other.dead_lettered,
        given_up: one.given_up + other.given_up,
        expired: one.expired + other.expired,
        null_skipped: one.null_skipped + other.null_skipped,
        retried: one.retried + other.retried,
    }
}

fn hook(url: &str) -> Option<Hook> {
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let address = authority.parse().ok()?;
    let options = trine_core::upstream::Options::new(authority, vec![address]);
    let path = if path.is_empty() { "/" } else { path };
    Some(Hook { upstream: Upstream::new(options), path: path.into() })
}

impl Shard {
    /// Takes what the log and the tasks brought, and carries out what the lanes want.
    pub fn deliver_turn(&mut self, now_ms: u64) {
        while let Some(event) = self.ingest.log.next_event() {
            self.feed_event(event, now_ms);
        }
        while let Some((place, answer)) = self.clients.delivered.pop() {
            let errand = self.deliveries.publishes.remove(place as usize);
            let outcome = match answer {
                Answer::Published(_) => Outcome::Delivered,
                _ => Outcome::Failed { detail: "not published".into(), retry_after_ms: None },
            };
            let random = self.random();
            self.deliveries.done(errand, outcome, now_ms, random);
        }
        loop {
            let result = self.deliveries.results.borrow_mut().pop_front();
            let Some((errand, outcome)) = result else { break };
            let random = self.random();
            self.deliveries.done(errand, outcome, now_ms, random);
        }
        while let Some(feed) = self.deliveries.busy.pop() {
            self.pump(feed, now_ms);
        }
    }

    /// What is due by the clock; called once in each slot of the wheel.
    pub fn deliver_tick(&mut self, now_ms: u64) {
        let look = now_ms >= self.deliveries.next_look_ms;
        if look {
            self.deliveries.next_look_ms = now_ms + LAG_INTERVAL_MS;
            self.deliveries.untold = true;
            self.deliveries.unix_ahead_ms = unix_ahead_ms();
        }
        let unix_ahead_ms = self.deliveries.unix_ahead_ms;
        for feed in 0..self.deliveries.running.len() as u32 {
            let Some(running) = self.deliveries.get(feed) else { continue };
            if running.retry_ms != 0 && now_ms >= running.retry_ms {
                (running.retry_ms, running.fetching) = (0, false);
                self.deliveries.touch(feed);
                continue;
            }
            let due = running.lane.deadline_ms().is_some_and(|due_ms| due_ms <= now_ms);
            if look {
                running.lane.set_clock(unix_ahead_ms);
            }
            if std::mem::take(&mut running.full) {
                running.lane.room();
                self.deliveries.touch(feed);
            } else if due {
                self.deliveries.touch(feed);
            }
            if look {
                self.ingest.log.look(feed);
                self.observe(feed, now_ms);
            }
        }
        if look {
            self.deliveries.look_at_pools(&self.config);
        }
        if look && self.config.demo {
            self.publish_lag(now_ms);
        }
        if self.deliveries.untold {
            self.deliveries.untold = !self.deliveries.tell_standings(now_ms);
        }
    }

    /// A partition is this shard's: a new lane reads it.
    fn begin_lane(&mut self, feed: u32, of: Feed, next_offset: u64) {
        if self.draining_until_ms.is_some() {
            return self.ingest.log.released(feed);
        }
        let deliveries = &mut self.deliveries;
        let route = deliveries.routes[of.consumer as usize].clone();
        let topic = self.ingest.routes().topics()[of.topic as usize].clone();
        deliveries.lives += 1;
        let index = feed as usize;
        if deliveries.running.len() <= index {
            deliveries.running.resize_with(index + 1, || None);
        }
        let mut lane = Lane::new(route, topic.into(), of.partition as i32, next_offset);
        lane.set_clock(deliveries.unix_ahead_ms);
        deliveries.running[index] = Some(Running {
            lane,
            life: deliveries.lives,
            feed: of,
            fetching: false,
            retry_ms: 0,
            full: false,
            end_offset: next_offset,
            lag: LagMeter::default(),
        });
    }

    fn feed_event(&mut self, mut event: FeedEvent, now_ms: u64) {
        let feed = *event.feed();
        let deliveries = &mut self.deliveries;
        match event {
            FeedEvent::Ready { of, next_offset, .. } => self.begin_lane(feed, of, next_offset),
            FeedEvent::Records { records, next_offset, end_offset, .. } => {
                let Some(running) = deliveries.get(feed) else { return };
                running.fetching = false;
                running.end_offset = running.end_offset.max(end_offset);
                running.lane.ends_at(end_offset);
                running.lane.fetched(records, next_offset, now_ms);
            }
            FeedEvent::Committed { .. } => {
                let Some(running) = deliveries.get(feed) else { return };
                running.lane.committed(true, now_ms);
            }
            FeedEvent::NotCommitted { .. } => {
                let Some(running) = deliveries.get(feed) else { return };
                running.lane.committed(false, now_ms);
            }
            FeedEvent::Revoke { .. } => {
                let Some(running) = deliveries.get(feed) else { return };
                running.lane.revoke();
            }
            FeedEvent::Lost { .. } => {
                let Some(running) = deliveries.get(feed) else { return };
                running.lane.lose();
                let totals = running.lane.totals();
                deliveries.past = add(deliveries.past, totals);
                deliveries.running[feed as usize] = None;
                return;
            }
            FeedEvent::End { end_offset, .. } => {
                let Some(running) = deliveries.get(feed) else { return };
                running.end_offset = running.end_offset.max(end_offset);
                running.lane.ends_at(end_offset);
            }
            FeedEvent::OutOfRange { first, .. } => self.out_of_range(feed, first, now_ms),
            FeedEvent::Failed { skip_to, .. } => {
                let Some(running) = deliveries.get(feed) else { return };
                running.retry_ms = now_ms + LAG_INTERVAL_MS;
                let offset = running.lane.position();
                if let Some(next_offset) = skip_to {
                    running.lane.fetched([], next_offset, now_ms);
                }
                let consumer = deliveries.name_of(feed);
                tracing::error!(consumer, offset, ?skip_to, "records can't be read");
            }
        }
        self.deliveries.touch(feed);
    }

    /// What a lane wants is not there any more.
    fn out_of_range(&mut self, feed: u32, first: u64, now_ms: u64) {
        let Some(running) = self.deliveries.get(feed) else { return };
        running.fetching = false;
        let (offset, position) = (running.lane.next_fetch(), running.lane.position());
        let of = running.feed;
        let what = if !running.lane.is_live() {
            // Its next owner will see it, too.
            "records were removed, or replaced by others, of a partition that is given up"
        } else if first < offset {
            // The partition was made anew, or cut: what is there now is other records.
            let totals = running.lane.totals();
            self.deliveries.past = add(self.deliveries.past, totals);
            self.deliveries.running[feed as usize] = None;
            self.begin_lane(feed, of, first.min(position));
            "the log ends before what was delivered, or has other records: those from `first` on are \
             delivered, too"
        } else {
            running.lane.fetched([], first, now_ms);
            "records were removed before they were delivered"
        };
        self.clients.metrics.add(Counter::OffsetsOutOfRange, 1);
        let consumer = self.deliveries.name_of(feed);
        let group = &self.config.consumers[of.consumer as usize].group;
        let topic = &*self.ingest.routes().topics()[of.topic as usize];
        tracing::error!(consumer, group, topic, offset, first, "{what}");
    }

    /// Carries out everything that a lane wants now.
    fn pump(&mut self, feed: u32, now_ms: u64) {
        loop {
            let Some(running) = self.deliveries.get(feed) else { return };
            let life = running.life;
            let Some(effect) = running.lane.next(now_ms) else { break };
            let errand = |token| Errand { feed, life, token };
            match effect {
                Effect::Publish { token, channel, namespace, data } => {
                    self.publish_record(errand(token), (&channel, namespace), &data, now_ms);
                }
                Effect::Call { token, request, .. } => self.call_upstream(errand(token), request),
                Effect::Produce { token, topic, key, body } => {
                    let kind = AskedKind::Produce(errand(token));
                    self.append_record(kind, &topic, key.as_ref(), body, now_ms);
                }
                Effect::DeadLetter { token, topic, key, body } => {
                    let kind = AskedKind::DeadLetter(errand(token));
                    self.append_record(kind, &topic, key.as_ref(), body, now_ms);
                }
                Effect::Commit { next_offset } => {
                    self.ingest.log.commit(feed, next_offset);
                    if !self.ingest.log.is_of_group(feed) {
                        let running = self.deliveries.get(feed).expect("its lane has just asked");
                        running.lane.committed(true, now_ms);
                    }
                }
                Effect::GivenUp { offset, reason, detail } => {
                    let (consumer, reason) = (self.deliveries.name_of(feed), reason.as_str());
                    tracing::warn!(consumer, offset, reason, %detail, "a record was given up");
                }
                Effect::Alarm(Alarm::DeadLetterFailed { offset, detail }) => {
                    let consumer = self.deliveries.name_of(feed);
                    tracing::error!(consumer, offset, %detail, "a dead letter can't be written");
                }
                Effect::Alarm(Alarm::DeadLetterWritten) => {
                    let consumer = self.deliveries.name_of(feed);
                    tracing::info!(consumer, "dead letters are written again");
                }
                Effect::Drained => {
                    let running = self.deliveries.running[feed as usize].take();
                    let totals = running.map(|running| running.lane.totals()).unwrap_or_default();
                    self.deliveries.past = add(self.deliveries.past, totals);
                    self.ingest.log.released(feed);
                    return;
                }
            }
        }
        let Some(running) = self.deliveries.get(feed) else { return };
        if !running.fetching
            && let Some(offset) = running.lane.wants_more()
        {
            running.fetching = true;
            self.ingest.log.fetch(feed, offset, FETCH_BYTES);
        }
    }

    fn publish_record(
        &mut self,
        errand: Errand,
        channel: (&str, usize),
        data: &Bytes,
        now_ms: u64,
    ) {
        let place = self.deliveries.publishes.insert(errand) as u32;
        let ticket = Ticket { client: Ticket::DELIVER, place, id: Uuid::nil() };
        let Shard { hub, clients, .. } = self;
        let outcome =
            match hub.publish(clients, channel, Message::plain(data, None), ticket, now_ms) {
                Progress::Asked => return,
                Progress::Done(_) => Outcome::Delivered,
                Progress::Full(_) => Outcome::Full,
            };
        self.deliveries.publishes.remove(place as usize);
        let random = self.random();
        self.deliveries.done(errand, outcome, now_ms, random);
    }

    fn call_upstream(&mut self, errand: Errand, request: Request) {
        let running = self.deliveries.get(errand.feed).expect("its lane has just asked");
        let consumer = running.feed.consumer as usize;
        let route = self.deliveries.routes[consumer].clone();
        let (index, _) = route.upstream().expect("a lane calls only an upstream that it has");
        let upstream = self.deliveries.upstreams[index].clone();
        let results = self.deliveries.results.clone();
        rt::spawn(async move {
            let outcome = call(&upstream, &route, request).await;
            results.borrow_mut().push_back((errand, outcome));
            rt::request_turn();
        });
    }

    /// Gives a record to the owner of its key, behind what that has spooled of it.
    fn append_record(
        &mut self,
        kind: AskedKind,
        topic: &str,
        key: Option<&Bytes>,
        body: Bytes,
        now_ms: u64,
    ) {
        let topics = self.ingest.routes().topics();
        let number = topics.iter().position(|known| **known == *topic);
        let number = number.expect("consumers' topics are known from the start") as u16;
        let hash = |key: &Bytes| Wish::Hash(hash::murmur2(key) as u32 & 0x7fff_ffff);
        let wish = key.map_or(Wish::Current, hash);
        let asked =
            Asked { client: 0, session: Uuid::nil(), reply: 0, kind, since_ns: rt::now_ns() };
        let request = self.asked.vacant_key() as u32;
        let owner = key.map(|key| self.hub.owner_of_key(Owner::new(topic, key)));
        if let Some(owner) = owner.filter(|owner| *owner != self.index) {
            // What crosses shards is memory of its own.
            let body = Bytes::copy_from_slice(&body);
            let message = ToShard::Record { request, topic: number, wish, body };
            if self.hub.post().try_send(owner, message).is_err() {
                let (AskedKind::Produce(errand) | AskedKind::DeadLetter(errand)) = kind else {
                    unreachable!("only these are whole records")
                };
                let random = self.random();
                return self.deliveries.done(errand, Outcome::Full, now_ms, random);
            }
        } else {
            let asker = Asker { shard: self.index as u16, request };
            self.ingest.take_record(number, wish, body, asker, now_ms);
        }
        self.asked.insert(asked);
        rt::request_turn();
    }

    /// The log's answer to a record for another topic. While the log can't take it, it waits: no
    /// other place would be any better.
    pub fn produce_stored(&mut self, errand: Errand, stored: Stored, now_ms: u64) {
        let outcome = match stored {
            Ok(_) => Outcome::Delivered,
            Err(refusal) if refusal.code == ErrorCode::Internal => Outcome::Full,
            Err(refusal) => {
                Outcome::Refused { reason: Reason::Refused, detail: refusal.message.into() }
            }
        };
        let random = self.random();
        self.deliveries.done(errand, outcome, now_ms, random);
    }

    /// The log's answer to a dead letter.
    pub fn dead_letter_stored(&mut self, errand: Errand, stored: Stored, now_ms: u64) {
        let outcome = match stored {
            Ok(_) => Outcome::Delivered,
            // Larger than it may be, by what is known here or by Kafka's own word.
            Err(Refusal { code: ErrorCode::LimitExceeded | ErrorCode::BadRequest, message }) => {
                Outcome::Refused { reason: Reason::TooLarge, detail: message.into() }
            }
            Err(refusal) => {
                Outcome::Failed { detail: refusal.message.into(), retry_after_ms: None }
            }
        };
        let random = self.random();
        self.deliveries.done(errand, outcome, now_ms, random);
    }

    /// The shard is about to end: nothing new is begun, and what is under way may end.
    pub fn revoke_deliveries(&mut self) {
        // The members of Kafka's groups give up their partitions one after the other.
        self.ingest.log.leave();
        for (feed, running) in self.deliveries.running.iter_mut().enumerate() {
            if let Some(running) = running
                && !self.ingest.log.is_of_group(feed as u32)
            {
                running.lane.revoke();
                self.deliveries.busy.push(feed as u32);
            }
        }
    }

    /// The shard ends: what was delivered is committed, and nothing more.
    pub fn end_deliveries(&mut self, now_ms: u64) {
        for (feed, running) in self.deliveries.running.iter_mut().enumerate() {
            if let Some(running) = running {
                self.ingest.log.commit(feed as u32, running.lane.position());
                running.lane.lose();
            }
        }
        self.ingest.log.flush(now_ms);
    }

    fn observe(&mut self, feed: u32, now_ms: u64) {
        let Some(running) = self.deliveries.get(feed) else { return };
        let (consumer, position) = (running.feed.consumer as usize, running.lane.position());
        let (topic, partition) = (running.feed.topic as usize, running.feed.partition);
        let settings = &self.config.consumers[consumer];
        let end_offset = running.end_offset.max(position);
        let events = running.lag.observe(&settings.lag, end_offset, position, now_ms);
        let topic = self.ingest.routes().topics()[topic].clone();
        for event in events.into_iter().flatten() {
            let text = event.to_json(&settings.name, &topic, partition as i32);
            match event {
                LagEvent::Level { to: Level::Critical, .. } => {
                    tracing::error!(event = text, "a consumer is far behind");
                }
                LagEvent::Level { to: Level::Warn, .. } => {
                    tracing::warn!(event = text, "a consumer is behind");
                }
                LagEvent::Level { .. } => tracing::info!(event = text, "a consumer has caught up"),
                LagEvent::ScaleHint { .. } => {
                    tracing::warn!(event = text, "a consumer falls behind: it wants more members");
                }
            }
            if let Some(hook) = self.deliveries.hooks[consumer].clone() {
                rt::spawn(tell(hook, text));
            }
        }
    }
}

impl Deliveries {
    /// How far each consumer is in the partitions that are read here.
    pub fn standings(&self, now_ms: u64) -> impl Iterator<Item = Standing> {
        self.running.iter().flatten().map(move |running| {
            let position = running.lane.position();
            let end_offset = running.end_offset.max(position);
            let (paused, level) = (running.lane.is_paused(), running.lag.level());
            let since_ms = running.lane.waits_since_ms();
            let age_ms = since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
            Standing { of: running.feed, position, end_offset, paused, level, age_ms }
        })
    }

    /// Leaves that and how the pools are for control; false when it is just being read.
    fn tell_standings(&self, now_ms: u64) -> bool {
        let pools = self.upstreams.iter().map(|upstream| Pool::of(upstream));
        self.standings.try_replace(self.standings(now_ms), pools)
    }

    /// Says who keeps a connection of an upstream or a hook.
    fn look_at_pools(&self, config: &Config) {
        for (of, upstream) in config.upstreams.iter().zip(&self.upstreams) {
            name_overdue(&of.name, upstream);
        }
        for (of, hook) in config.consumers.iter().zip(&self.hooks) {
            hook.iter().for_each(|hook| name_overdue(&of.lag.hook, &hook.upstream));
        }
    }

    fn name_of(&self, feed: u32) -> String {
        let running = self.running.get(feed as usize).and_then(Option::as_ref);
        let Some(running) = running else { return String::new() };
        let name = &self.routes[running.feed.consumer as usize].consumer().name;
        format!("{name}, partition {}", running.feed.partition)
    }
}

/// POSTs a lane's request and says how it went.
async fn call(upstream: &Upstream, route: &Route, request: Request) -> Outcome {
    let (_, path) = route.upstream().expect("a lane calls only an upstream that it has");
    let headers: Vec<Header<'_>> = request
        .headers
        .iter()
        .map(|(name, value)| Header { name, value: value.as_bytes() })
        .collect();
    let holder: Rc<str> = route.consumer().name.as_str().into();
    let post = UpstreamRequest {
        headers: &headers,
        body: request.body,
        // A lane repeats after any failure, and the event's id is the same.
        idempotent: true,
        ..UpstreamRequest::new("POST", path)
    };
    match upstream.call(&holder, post).await {
        Ok(response) => {
            let retry_after = response.headers.get("retry-after");
            outcome_of(
                response.status,
                retry_after.and_then(|value| std::str::from_utf8(value).ok()),
            )
        }
        Err(error) => match error.cause {
            // The backend has not heard of it: that was no try.
            Cause::QueueFull | Cause::WaitTimeout => Outcome::Full,
            // What it says beside the status is nobody's.
            Cause::TooLarge(status) => outcome_of(status, None),
            _ => Outcome::Failed { detail: error.to_string().into(), retry_after_ms: None },
        },
    }
}

/// Tells an operator's hook; it is told once, whatever becomes of it.
async fn tell(hook: Hook, text: String) {
    let holder: Rc<str> = "lag hook".into();
    let headers = [Header { name: "content-type", value: b"application/json" }];
    let post = UpstreamRequest {
        headers: &headers,
        body: text.into(),
        ..UpstreamRequest::new("POST", &hook.path)
    };
    if let Err(error) = hook.upstream.call(&holder, post).await {
        tracing::warn!(%error, "the lag hook was not told");
    }
}
