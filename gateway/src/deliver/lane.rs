//! One partition of one consumer: what was fetched, what is under way, how far it is finished.
//!
//! **Runs on: shard.** Sans-IO. Records of one key form a queue whose first alone is under way;
//! records without a key are free. A record has up to three parts to deliver, channel, upstream and
//! topic, and a retry repeats the parts that are not acknowledged. Invariants: the position never
//! passes a record that is not finished; each record is finished once; none is begun before its
//! consumer's schedule lets it; after [`Lane::revoke`] nothing is begun but what was overtaken.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::hash_map::{Entry as KeyEntry, RandomState};
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::rc::Rc;

use bytes::Bytes;
use smallvec::SmallVec;
use trine_proto::kafka::record::Body;

use super::cloudevents::{self, Event, Request};
use super::dead_letter::{Origin, dead_letter};
use super::route::{GiveUp, Route, pause_ms};
use super::schedule::Schedule;
use super::{Alarm, Effect, Fetched, Outcome, Reason, Token, Totals};
use crate::config::{Consumer, NullValues};
use crate::limits::{DELIVER_AHEAD_RECORDS, LAG_INTERVAL_MS, LANE_FILL_MS};

/// The parts of a delivery, as bits.
const CHANNEL: u8 = 1;
const UPSTREAM: u8 = 2;
const TOPIC: u8 = 4;

/// One partition that a consumer has been given.
pub struct Lane {
    route: Rc<Route>,
    topic: Rc<str>,
    dead_topic: Rc<str>,
    /// The topic that it drains into; empty without one.
    into_topic: Rc<str>,
    partition: i32,
    /// In the order of their offsets; the first is never finished. Records are named by serial
    /// numbers, of which the first here has `base`.
    entries: VecDeque<Entry>,
    base: u64,
    /// By the key's hash: those that wait behind the one under way. A collision only makes two keys
    /// wait for each other.
    keys: HashMap<u64, VecDeque<u64>>,
    hasher: RandomState,
    /// Those that may begin, the oldest first.
    ready: BinaryHeap<Reverse<u64>>,
    /// Those that pause after a failure, with the end of the pause.
    pausing: BinaryHeap<Reverse<(u64, u64)>>,
    /// Those whose dead letter is to be written.
    dying: VecDeque<u64>,
    schedule: Schedule,
    /// When the oldest record that is ready may begin, if only the schedule holds it.
    opens_ms: Option<u64>,
    /// Unix time less the clock of `now_ms`.
    unix_ahead_ms: u64,
    gather: Gather,
    works: HashMap<u64, Work>,
    next_token: u64,
    publishes: usize,
    calls: usize,
    produces: usize,
    letters: usize,
    /// Records whose dead letter could not be written so far.
    stuck: usize,
    full: bool,
    phase: Phase,
    /// Behind the newest record of which something was done.
    newest: u64,
    /// Until when a revoked lane begins records.
    fill_until_ms: Option<u64>,
    /// What was decided and not taken yet.
    effects: VecDeque<Effect>,
    fetch_offset: u64,
    held_records: usize,
    held_bytes: usize,
    committed: u64,
    committing: Option<u64>,
    /// When the position that moved is committed; `None` while a commit is awaited.
    commit_due_ms: Option<u64>,
    totals: Totals,
}

struct Entry {
    offset: u64,
    time_ms: u64,
    /// Since when it waits, Unix milliseconds: its time, or else when it was fetched.
    since_ms: u64,
    body: Bytes,
    key: Option<u64>,
    /// Parts that are not acknowledged.
    todo: u8,
    /// Parts under way, or gathered for a request.
    out: u8,
    tries: u32,
    letter_tries: u32,
    first_try_ms: u64,
    /// What went wrong with this try.
    failure: Option<Failure>,
    /// It goes into a request of its own, since one with others failed.
    alone: bool,
    /// Its body is in memory of its own.
    is_kept: bool,
    step: Step,
}

impl Entry {
    /// Gives its body memory of its own: one that waits for others, or for another try, must not
    /// keep all that was fetched with it.
    fn keep(&mut self) {
        if !self.is_kept {
            self.body = Bytes::copy_from_slice(&self.body);
            self.is_kept = true;
        }
    }
}

enum Step {
    /// It waits for its key, its turn or its outcome.
    Open,
    /// Its dead letter is to be written; only where it is from, if its log takes no more.
    Dying { why: GiveUp, only_origin: bool },
    /// Delivered, dead-lettered or skipped.
    Finished,
}

struct Failure {
    /// `None`: it may be repeated.
    refused: Option<Reason>,
    detail: Cow<'static, str>,
    retry_after_ms: u64,
    /// Others shared the request.
    shared: bool,
}

/// Records of the next request.
#[derive(Default)]
struct Gather {
    serials: SmallVec<[u64; 1]>,
    bytes: usize,
    since_ms: u64,
}

enum Work {
    Publish(u64),
    Call(SmallVec<[u64; 1]>),
    Produce(u64),
    Letter(u64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Live,
    Draining,
    Closed,
}

impl Lane {
    /// A partition from `offset` on, which is the group's committed position.
    pub fn new(route: Rc<Route>, topic: Rc<str>, partition: i32, offset: u64) -> Self {
        Self {
            dead_topic: format!("{topic}.dlq").into(),
            into_topic: route.consumer().to.topic.as_deref().unwrap_or_default().into(),
            route,
            topic,
            partition,
            entries: VecDeque::new(),
            base: 0,
            keys: HashMap::new(),
            hasher: RandomState::new(),
            ready: BinaryHeap::new(),
            pausing: BinaryHeap::new(),
            dying: VecDeque::new(),
            schedule: Schedule::new(offset),
            opens_ms: None,
            unix_ahead_ms: 0,
            gather: Gather::default(),
            works: HashMap::new(),
            next_token: 0,
            publishes: 0,
            calls: 0,
            produces: 0,
            letters: 0,
            stuck: 0,
            full: false,
            phase: Phase::Live,
            newest: 0,
            fill_until_ms: None,
            effects: VecDeque::new(),
            fetch_offset: offset,
            held_records: 0,
            held_bytes: 0,
            committed: offset,
            committing: None,
            commit_due_ms: None,
            totals: Totals::default(),
        }
    }

    /// How far Unix time is ahead of the clock of `now_ms`; at first it is not.
    pub fn set_clock(&mut self, unix_ahead_ms: u64) {
        self.unix_ahead_ms = unix_ahead_ms;
    }

    /// Where the partition ends now.
    pub fn ends_at(&mut self, end_offset: u64) {
        self.schedule.ends_at(&self.route.consumer().schedule, end_offset);
    }

    /// Where the next fetch begins, if more is wanted: what is held is below the prefetch limits.
    pub fn wants_more(&self) -> Option<u64> {
        let settings = self.route.consumer();
        let wants = self.phase == Phase::Live
            && self.held_records < settings.prefetch_records
            && self.held_bytes < settings.prefetch_bytes
            && self.entries.len() < DELIVER_AHEAD_RECORDS;
        wants.then_some(self.fetch_offset)
    }

    /// Takes what a fetch brought, in the order of the offsets; `next_offset` is where the next
    /// fetch begins, past whatever the log keeps from readers. Offsets seen before are passed over.
    pub fn fetched(
        &mut self,
        records: impl IntoIterator<Item = Fetched>,
        next_offset: u64,
        now_ms: u64,
    ) {
        if self.phase != Phase::Live {
            return;
        }
        for record in records {
            if record.offset >= self.fetch_offset {
                self.fetch_offset = record.offset.saturating_add(1);
                self.push(record, now_ms);
            }
        }
        self.fetch_offset = self.fetch_offset.max(next_offset);
        self.trim(now_ms);
    }

    /// Takes the outcome of an effect. `random` is any random number (it spreads the retries). One
    /// that the lane does not wait for is passed over.
    pub fn done(&mut self, token: Token, outcome: Outcome, now_ms: u64, random: u64) {
        match self.works.remove(&token.0) {
            None => {}
            Some(Work::Publish(serial)) => {
                self.publishes -= 1;
                self.settle(serial, CHANNEL, &outcome, false, now_ms, random);
            }
            Some(Work::Call(serials)) => {
                self.calls -= 1;
                let shared = serials.len() > 1;
                for serial in serials {
                    // Each its own pause.
                    let random = random.wrapping_add(serial.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                    self.settle(serial, UPSTREAM, &outcome, shared, now_ms, random);
                }
            }
            Some(Work::Produce(serial)) => {
                self.produces -= 1;
                self.settle(serial, TOPIC, &outcome, false, now_ms, random);
            }
            Some(Work::Letter(serial)) => {
                self.letters -= 1;
                self.letter_settled(serial, outcome, now_ms, random);
            }
        }
        self.trim(now_ms);
    }

    /// There is room again for what met [`Outcome::Full`].
    pub fn room(&mut self) {
        self.full = false;
    }

    /// The partition goes to another member: nothing new is begun but, for a moment, what later
    /// records have overtaken, since these would be repeated otherwise. The effects under way are
    /// awaited and what they finish is committed; then comes [`Effect::Drained`].
    pub fn revoke(&mut self) {
        if self.phase != Phase::Live {
            return;
        }
        self.phase = Phase::Draining;
        for serial in std::mem::take(&mut self.gather).serials {
            self.entry(serial).out &= !UPSTREAM;
        }
    }

    /// The partition is another member's already: no effect comes any more, and outcomes mean
    /// nothing.
    pub fn lose(&mut self) {
        self.phase = Phase::Closed;
        self.effects.clear();
        self.works.clear();
        (self.publishes, self.calls, self.produces, self.letters) = (0, 0, 0, 0);
    }

    /// The answer to [`Effect::Commit`]; one that failed is repeated with the next.
    pub fn committed(&mut self, succeeded: bool, now_ms: u64) {
        let Some(position) = self.committing.take() else { return };
        if succeeded {
            self.committed = position;
        }
        // The last commit of a lane is tried once: the next member starts where the group stands.
        if self.phase == Phase::Live || self.position() > position {
            self.trim(now_ms);
        }
    }

    /// What became of the records so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The offset of the first record that is not finished; what is committed, or soon will be.
    pub fn position(&self) -> u64 {
        self.entries.front().map_or(self.fetch_offset, |entry| entry.offset)
    }

    /// The offset of the next record to be fetched.
    pub fn next_fetch(&self) -> u64 {
        self.fetch_offset
    }

    /// Whether it takes records: its partition is neither given up nor lost.
    pub fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// Since when the oldest record waits of those that are held and not finished, by the clock of
    /// `now_ms`; the log says when it was appended.
    pub fn waits_since_ms(&self) -> Option<u64> {
        let oldest = self.entries.front()?;
        Some(oldest.since_ms.saturating_sub(self.unix_ahead_ms))
    }

    /// Whether nothing is begun until [`Lane::room`] or until a dead letter is written.
    pub fn is_paused(&self) -> bool {
        self.full || self.stuck > 0
    }

    /// When [`Lane::next`] has something to do though nothing else happens.
    pub fn deadline_ms(&self) -> Option<u64> {
        match self.phase {
            Phase::Live => {}
            Phase::Draining => return self.commit_due_ms,
            Phase::Closed => return None,
        }
        let pause = self.pausing.peek().map(|Reverse((due_ms, _))| *due_ms);
        let may_call = !self.gather.serials.is_empty()
            && !self.is_paused()
            && self.calls < self.route.consumer().concurrency;
        let linger = may_call.then(|| self.gather.since_ms + self.route.consumer().batch.linger_ms);
        [self.commit_due_ms, pause, linger, self.opens_ms].into_iter().flatten().min()
    }

    /// The next thing to do; to be asked until there is none, after each input and at the deadline.
    pub fn next(&mut self, now_ms: u64) -> Option<Effect> {
        self.opens_ms = None;
        loop {
            if let Some(effect) = self.effects.pop_front() {
                return Some(effect);
            }
            match self.phase {
                Phase::Live => {}
                Phase::Draining => match self.fill(now_ms) {
                    true => continue,
                    false => return self.drain(now_ms),
                },
                Phase::Closed => return None,
            }
            if self.commit_due_ms.is_some_and(|due_ms| due_ms <= now_ms) {
                return Some(self.commit());
            }
            self.wake(now_ms);
            let route = self.route.clone();
            let settings = route.consumer();
            if !self.full
                && self.letters < settings.concurrency
                && let Some(serial) = self.dying.pop_front()
            {
                return Some(self.letter(serial));
            }
            if self.is_paused() {
                return None;
            }
            let may_call = self.calls < settings.concurrency && !self.gather.serials.is_empty();
            let lingered = self.gather.since_ms + settings.batch.linger_ms <= now_ms;
            let is_full = self.gather.serials.len() >= settings.batch.records;
            if may_call && (is_full || (lingered && settings.batch.linger_ms > 0)) {
                return Some(self.call_gathered());
            }
            if self.may_begin(settings) && self.is_open(now_ms) {
                if let Some(Reverse(serial)) = self.ready.pop() {
                    let offset = self.entry(serial).offset;
                    self.schedule.began(offset, settings, now_ms);
                    self.begin(serial, settings, now_ms);
                    self.trim(now_ms);
                }
            } else if may_call && lingered {
                return Some(self.call_gathered());
            } else {
                return None;
            }
        }
    }

    /// Whether the oldest record that is ready has room for each part it needs.
    fn may_begin(&mut self, settings: &Consumer) -> bool {
        let Some(&Reverse(serial)) = self.ready.peek() else { return false };
        let todo = self.entry(serial).todo;
        let limit = settings.concurrency;
        (todo & CHANNEL == 0 || self.publishes < limit)
            && (todo & UPSTREAM == 0 || self.calls < limit)
            && (todo & TOPIC == 0 || self.produces < limit)
            && self.dying.len() < limit
    }

    /// Whether the schedule lets the oldest record that is ready begin.
    fn is_open(&mut self, now_ms: u64) -> bool {
        let Some(&Reverse(serial)) = self.ready.peek() else { return false };
        let Entry { offset, since_ms, .. } = *self.entry(serial);
        let settings = &self.route.consumer().schedule;
        let opens_ms = self.schedule.opens_ms(settings, offset, since_ms, self.unix_ahead_ms);
        self.opens_ms = (opens_ms > now_ms).then_some(opens_ms);
        self.opens_ms.is_none()
    }

    fn push(&mut self, record: Fetched, now_ms: u64) {
        let Fetched { offset, time_ms, body } = record;
        let unix_ms = now_ms + self.unix_ahead_ms;
        // A time that lies ahead was written by a clock that has been set back since; the lane's own
        // is as old as its last setting.
        let is_known = time_ms > 0 && time_ms <= unix_ms + LAG_INTERVAL_MS;
        let since_ms = if is_known { time_ms } else { unix_ms };
        let settings = self.route.consumer();
        let parsed = Body::parse(&body);
        let key = parsed.as_ref().ok().and_then(Body::key).map(|key| self.hasher.hash_one(key));
        let mut todo = 0;
        if settings.to.channel.is_some() {
            todo |= CHANNEL;
        }
        if settings.to.upstream.is_some() {
            todo |= UPSTREAM;
        }
        if settings.to.topic.is_some() {
            todo |= TOPIC;
        }
        let serial = self.base + self.entries.len() as u64;
        self.held_records += 1;
        self.held_bytes += body.len();
        self.entries.push_back(Entry {
            offset,
            time_ms,
            since_ms,
            body,
            key,
            todo,
            out: 0,
            tries: 0,
            letter_tries: 0,
            first_try_ms: 0,
            failure: None,
            alone: false,
            is_kept: false,
            step: Step::Open,
        });
        match key.map(|key| self.keys.entry(key)) {
            Some(KeyEntry::Occupied(mut behind)) => {
                behind.get_mut().push_back(serial);
                self.entry(serial).keep();
            }
            Some(KeyEntry::Vacant(free)) => {
                free.insert(VecDeque::new());
                self.ready.push(Reverse(serial));
            }
            None => self.ready.push(Reverse(serial)),
        }
    }

    /// Starts a try: decides the record's fate by rule, or puts its parts under way.
    fn begin(&mut self, serial: u64, settings: &Consumer, now_ms: u64) {
        let (route, topic) = (self.route.clone(), self.topic.clone());
        let unix_ms = now_ms + self.unix_ahead_ms;
        let entry = self.entry(serial);
        let (todo, body) = (entry.todo, entry.body.clone());
        let old = entry.time_ms > 0 && entry.time_ms.saturating_add(settings.ttl_ms) < unix_ms;
        if settings.ttl_ms > 0 && old {
            self.totals.expired += 1;
            return self.finish(serial);
        }
        let parsed = match Body::parse(&body) {
            Ok(parsed) => parsed,
            Err(_) => return self.give_up(serial, (Reason::Malformed, "".into())),
        };
        if parsed.value().is_none() {
            match settings.null_values {
                NullValues::Deliver => {}
                NullValues::DeadLetter => {
                    return self.give_up(serial, (Reason::NullValue, "".into()));
                }
                NullValues::Skip => {
                    self.totals.null_skipped += 1;
                    return self.finish(serial);
                }
            }
        }
        // Before the upstream is called: a record with no channel to go to is nobody's.
        let publication = match todo & CHANNEL {
            0 => None,
            _ => match route.publication(&topic, &body, &parsed) {
                Ok(publication) => Some(publication),
                Err(why) => return self.give_up(serial, why),
            },
        };
        let entry = self.entry(serial);
        entry.out = todo;
        entry.failure = None;
        if entry.tries == 0 {
            entry.first_try_ms = now_ms;
        }
        if let Some(publication) = publication {
            self.publishes += 1;
            let token = self.work(Work::Publish(serial));
            let (channel, namespace) = (publication.channel, publication.namespace);
            let data = publication.data;
            self.effects.push_back(Effect::Publish { token, channel, namespace, data });
        }
        if todo & TOPIC != 0 {
            self.produces += 1;
            let token = self.work(Work::Produce(serial));
            let (topic, key) = (self.into_topic.clone(), parsed.key());
            let key = key.map(|key| body.slice_ref(key));
            self.effects.push_back(Effect::Produce { token, topic, key, body: body.clone() });
        }
        if todo & UPSTREAM != 0 {
            self.gather(serial, parsed.value().map_or(0, <[u8]>::len), settings, now_ms);
        }
    }

    /// Adds a record to the next request, or gives it one of its own.
    fn gather(&mut self, serial: u64, bytes: usize, settings: &Consumer, now_ms: u64) {
        if settings.batch.records == 1 || self.entry(serial).alone {
            let effect = self.call(SmallVec::from_elem(serial, 1));
            return self.effects.push_back(effect);
        }
        let exceeds = self.gather.bytes + bytes > settings.batch.limit_bytes;
        if exceeds && !self.gather.serials.is_empty() {
            let effect = self.call_gathered();
            self.effects.push_back(effect);
        }
        if self.gather.serials.is_empty() {
            self.gather.since_ms = now_ms;
        }
        self.gather.serials.push(serial);
        self.gather.bytes += bytes;
    }

    fn call_gathered(&mut self) -> Effect {
        let gather = std::mem::take(&mut self.gather);
        self.call(gather.serials)
    }

    fn call(&mut self, serials: SmallVec<[u64; 1]>) -> Effect {
        let request = self.request(&serials);
        let (first_offset, records) = (self.entry(serials[0]).offset, serials.len());
        self.calls += 1;
        let token = self.work(Work::Call(serials));
        Effect::Call { token, request, first_offset, records }
    }

    fn request(&self, serials: &[u64]) -> Request {
        let settings = self.route.consumer();
        let entries = serials.iter().map(|&serial| &self.entries[(serial - self.base) as usize]);
        let events: SmallVec<[Event<'_>; 1]> = entries
            .filter_map(|entry| {
                Some(Event {
                    source: &settings.to.source,
                    topic: &self.topic,
                    partition: self.partition,
                    offset: entry.offset,
                    time_ms: entry.time_ms,
                    bytes: &entry.body,
                    record: Body::parse(&entry.body).ok()?,
                })
            })
            .collect();
        match &events[..] {
            [event] if settings.batch.records == 1 => cloudevents::single(event),
            events => cloudevents::batch(events),
        }
    }

    /// Takes the outcome of one part of a record.
    fn settle(
        &mut self,
        serial: u64,
        part: u8,
        outcome: &Outcome,
        shared: bool,
        now_ms: u64,
        random: u64,
    ) {
        self.full |= matches!(outcome, Outcome::Full);
        let entry = self.entry(serial);
        entry.out &= !part;
        let failure = match outcome {
            Outcome::Delivered => {
                entry.todo &= !part;
                None
            }
            Outcome::Full => None,
            Outcome::Failed { detail, retry_after_ms } => Some(Failure {
                refused: None,
                detail: detail.clone(),
                retry_after_ms: retry_after_ms.unwrap_or(0),
                shared,
            }),
            Outcome::Refused { reason, detail } => Some(Failure {
                refused: Some(*reason),
                detail: detail.clone(),
                retry_after_ms: 0,
                shared,
            }),
        };
        // Of two failures a refusal of this very record decides.
        let decides = |failure: &Failure| failure.refused.is_some() && !failure.shared;
        if failure.is_some() && !entry.failure.as_ref().is_some_and(decides) {
            entry.failure = failure;
        }
        if entry.out != 0 {
            return;
        }
        if entry.todo == 0 {
            self.totals.delivered += 1;
            return self.finish(serial);
        }
        if self.phase == Phase::Live {
            self.again(serial, now_ms, random);
        }
    }

    /// A try has ended without reaching every target.
    fn again(&mut self, serial: u64, now_ms: u64, random: u64) {
        let route = self.route.clone();
        let retry = &route.consumer().retry;
        let entry = self.entry(serial);
        entry.keep();
        let Some(failure) = entry.failure.take() else {
            // There was no room: that was no try.
            return self.ready.push(Reverse(serial));
        };
        entry.alone |= failure.shared;
        match failure.refused {
            // Which one of them was refused shows when each goes alone.
            Some(_) if failure.shared => return self.ready.push(Reverse(serial)),
            Some(reason) => {
                entry.tries += 1;
                return self.give_up(serial, (reason, failure.detail));
            }
            None => {}
        }
        entry.tries += 1;
        let pause = pause_ms(retry, entry.tries, random);
        let pause = pause.max(failure.retry_after_ms.min(retry.max_ms));
        let is_last = retry.tries > 0 && entry.tries >= retry.tries;
        let too_old =
            retry.age_ms > 0 && (now_ms + pause).saturating_sub(entry.first_try_ms) > retry.age_ms;
        // Nobody is given up for what others in the request may have caused.
        match (is_last, too_old) {
            (true, _) if !failure.shared => self.give_up(serial, (Reason::Tries, failure.detail)),
            (_, true) if !failure.shared => self.give_up(serial, (Reason::Age, failure.detail)),
            _ => {
                self.totals.retried += 1;
                self.pausing.push(Reverse((now_ms + pause, serial)));
            }
        }
    }

    fn give_up(&mut self, serial: u64, why: GiveUp) {
        if self.route.consumer().dead_letter {
            self.entry(serial).step = Step::Dying { why, only_origin: false };
            self.dying.push_back(serial);
            return;
        }
        let (reason, detail) = why;
        let offset = self.entry(serial).offset;
        self.effects.push_back(Effect::GivenUp { offset, reason, detail });
        self.totals.given_up += 1;
        self.finish(serial);
    }

    fn letter(&mut self, serial: u64) -> Effect {
        let (route, source) = (self.route.clone(), self.topic.clone());
        let partition = self.partition;
        let entry = self.entry(serial);
        let origin = Origin {
            topic: &source,
            partition,
            offset: entry.offset,
            time_ms: entry.time_ms,
            consumer: &route.consumer().name,
            tries: entry.tries,
        };
        let Step::Dying { why, only_origin } = &entry.step else {
            unreachable!("only records that were given up are in `dying`");
        };
        let (key, body) = dead_letter(&entry.body, &origin, why, *only_origin);
        self.letters += 1;
        let token = self.work(Work::Letter(serial));
        Effect::DeadLetter { token, topic: self.dead_topic.clone(), key, body }
    }

    fn letter_settled(&mut self, serial: u64, outcome: Outcome, now_ms: u64, random: u64) {
        let route = self.route.clone();
        let entry = self.entry(serial);
        if !matches!(outcome, Outcome::Delivered) {
            entry.keep();
        }
        let offset = entry.offset;
        let detail = match outcome {
            Outcome::Delivered => {
                let was_stuck = entry.letter_tries > 0;
                self.totals.dead_lettered += 1;
                self.finish(serial);
                self.stuck -= usize::from(was_stuck);
                if was_stuck && self.stuck == 0 {
                    self.effects.push_back(Effect::Alarm(Alarm::DeadLetterWritten));
                }
                return;
            }
            Outcome::Full => {
                self.full = true;
                return self.dying.push_front(serial);
            }
            Outcome::Refused { detail, .. } => match &mut entry.step {
                Step::Dying { only_origin, .. } if !*only_origin => {
                    *only_origin = true;
                    return self.dying.push_front(serial);
                }
                _ => detail,
            },
            Outcome::Failed { detail, .. } => detail,
        };
        entry.letter_tries += 1;
        let tries = entry.letter_tries;
        let due_ms = now_ms + pause_ms(&route.consumer().retry, tries, random);
        self.pausing.push(Reverse((due_ms, serial)));
        self.stuck += usize::from(tries == 1);
        if tries == 1 && self.stuck == 1 {
            self.effects.push_back(Effect::Alarm(Alarm::DeadLetterFailed { offset, detail }));
        }
    }

    /// A record is finished: the next of its key may begin.
    fn finish(&mut self, serial: u64) {
        let entry = self.entry(serial);
        entry.step = Step::Finished;
        let bytes = std::mem::take(&mut entry.body).len();
        let key = entry.key.take();
        self.held_records -= 1;
        self.held_bytes -= bytes;
        if let Some(KeyEntry::Occupied(mut behind)) = key.map(|key| self.keys.entry(key)) {
            match behind.get_mut().pop_front() {
                Some(next) => self.ready.push(Reverse(next)),
                None => {
                    behind.remove();
                }
            }
        }
    }

    /// Forgets what is finished up to the position, and sees to its commit.
    fn trim(&mut self, now_ms: u64) {
        while matches!(self.entries.front(), Some(Entry { step: Step::Finished, .. })) {
            self.entries.pop_front();
            self.base += 1;
        }
        if self.committing.is_none()
            && self.commit_due_ms.is_none()
            && self.position() > self.committed
        {
            self.commit_due_ms = Some(now_ms + self.route.consumer().commit_interval_ms);
        }
    }

    /// Pauses that are over.
    fn wake(&mut self, now_ms: u64) {
        while let Some(&Reverse((due_ms, serial))) = self.pausing.peek()
            && due_ms <= now_ms
        {
            self.pausing.pop();
            match self.entry(serial).step {
                Step::Dying { .. } => self.dying.push_back(serial),
                _ => self.ready.push(Reverse(serial)),
            }
        }
    }

    fn commit(&mut self) -> Effect {
        let next_offset = self.position();
        self.commit_due_ms = None;
        self.committing = Some(next_offset);
        Effect::Commit { next_offset }
    }

    /// After a revoke: begins a record that a later one has overtaken, if there is time. One for a
    /// channel is left: who follows it may have gone already, to where it is delivered next.
    fn fill(&mut self, now_ms: u64) -> bool {
        let until_ms = *self.fill_until_ms.get_or_insert(now_ms + LANE_FILL_MS);
        let route = self.route.clone();
        let settings = route.consumer();
        let may_begin = now_ms < until_ms
            && settings.batch.records == 1
            && settings.to.channel.is_none()
            && self.ready.peek().is_some_and(|Reverse(serial)| serial + 1 < self.newest)
            && !self.full
            && !self.is_paused()
            && self.may_begin(settings)
            && self.is_open(now_ms);
        if may_begin && let Some(Reverse(serial)) = self.ready.pop() {
            let offset = self.entry(serial).offset;
            self.schedule.began(offset, settings, now_ms);
            self.begin(serial, settings, now_ms);
            self.trim(now_ms);
        }
        may_begin
    }

    /// After a revoke: commits in time meanwhile, and ends once everything that was taken has its
    /// outcome.
    fn drain(&mut self, now_ms: u64) -> Option<Effect> {
        if self.committing.is_some() {
            return None;
        }
        let is_over = self.works.is_empty();
        if self.commit_due_ms.is_some_and(|due_ms| is_over || due_ms <= now_ms) {
            return Some(self.commit());
        }
        is_over.then(|| {
            self.phase = Phase::Closed;
            Effect::Drained
        })
    }

    fn work(&mut self, work: Work) -> Token {
        let newest = match &work {
            Work::Publish(serial) | Work::Produce(serial) | Work::Letter(serial) => *serial,
            Work::Call(serials) => serials.iter().copied().max().unwrap_or_default(),
        };
        self.newest = self.newest.max(newest + 1);
        let token = self.next_token;
        self.next_token += 1;
        self.works.insert(token, work);
        Token(token)
    }

    fn entry(&mut self, serial: u64) -> &mut Entry {
        assert!(serial >= self.base, "a record that is at work is not finished");
        &mut self.entries[(serial - self.base) as usize]
    }
}
