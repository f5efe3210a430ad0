//! Random lives of a lane, watched by a model.
//!
//! **Runs on: any.** What it checks after every step: one record of a key at a time and in order;
//! no part delivered twice; numbers under way within their bounds; silence while paused; after a
//! revoke nothing but what was overtaken; no commit past a record that is not finished. And at the end of a life that was not
//! revoked: every record has exactly one end, and all is committed.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

/// A step of a life; numbers are reduced to what fits.
#[derive(Clone, Debug)]
enum Step {
    /// A fetch brings these, each by key and kind, with gaps of offsets between them.
    Fetch(Vec<(u8, u8, u8)>),
    /// One of the outcomes that are awaited.
    Outcome { which: u16, how: u8, random: u64 },
    /// Time passes.
    Pass(u16),
    /// There is room.
    Room,
    /// The commit is answered.
    Committed(bool),
    /// The partition goes.
    Revoke,
}

#[derive(Debug)]
struct Known {
    key: Option<u8>,
    since_ms: u64,
    time_ms: u64,
    null: bool,
    /// Parts that are not acknowledged: channel, upstream, topic.
    todo: [bool; 3],
    out: [bool; 3],
    /// A failure or refusal was given for it, or no channel takes it.
    may_die: bool,
    dying: bool,
    /// Its dead letter only says where it is from.
    cut: bool,
    ended: bool,
}

struct Watched {
    lane: Lane,
    consumer: Consumer,
    now_ms: u64,
    /// By offset.
    records: BTreeMap<u64, Known>,
    next_offset: u64,
    awaited: Vec<(Token, Vec<u64>, Part)>,
    committing: Option<u64>,
    committed: u64,
    full: bool,
    stuck: HashMap<u64, bool>,
    /// The newest of which something was done before the revoke.
    newest: Option<u64>,
    revoked: bool,
    drained: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Channel,
    Upstream,
    Topic,
    Letter,
}

impl Watched {
    fn new(consumer: Consumer) -> Self {
        Watched {
            lane: lane_of(consumer.clone()),
            consumer,
            now_ms: 1_000,
            records: BTreeMap::new(),
            next_offset: 0,
            awaited: Vec::new(),
            committing: None,
            committed: 0,
            full: false,
            stuck: HashMap::new(),
            newest: None,
            revoked: false,
            drained: false,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Fetch(batch) => self.fetch(batch),
            Step::Outcome { which, how, random } if !self.awaited.is_empty() => {
                let which = usize::from(which) % self.awaited.len();
                let outcome = match how % 8 {
                    0 => Outcome::Full,
                    1 | 2 => failed(),
                    3 => refused(),
                    _ => Outcome::Delivered,
                };
                self.outcome(which, outcome, random);
            }
            Step::Outcome { random, .. } => {
                self.lane.done(Token(u64::MAX), refused(), self.now_ms, random);
            }
            Step::Pass(ms) => self.now_ms += u64::from(ms),
            Step::Room => {
                self.full = false;
                self.lane.room();
            }
            Step::Committed(succeeded) => {
                if let Some(offset) = self.committing.take() {
                    self.committed = if succeeded { offset } else { self.committed };
                }
                self.lane.committed(succeeded, self.now_ms);
            }
            Step::Revoke => {
                self.revoked = true;
                self.lane.revoke();
            }
        }
        self.drain();
    }

    fn fetch(&mut self, batch: Vec<(u8, u8, u8)>) {
        let Some(from) = self.lane.wants_more() else { return };
        assert_eq!(from, self.next_offset);
        assert!(!self.revoked);
        let mut fetched = Vec::new();
        for (key, kind, gap) in batch {
            let offset = self.next_offset + u64::from(gap % 3);
            self.next_offset = offset + 1;
            let key = (key % 5 > 0).then_some(key % 5);
            let (text, name) = (format!("u:{offset}"), offset.to_string());
            let (value, channel) = match kind % 10 {
                0 => (None, Some(text.as_bytes())),
                1 => (Some(&b"{"[..]), Some(text.as_bytes())),
                2 => (Some(&b"1"[..]), None),
                _ => (Some(&b"1"[..]), Some(text.as_bytes())),
            };
            let time_ms = if kind >= 250 { 1 } else { 0 };
            let bytes = key.map(|key| [key]);
            let key_bytes = bytes.as_ref().map(|key| &key[..]);
            let record =
                record(offset, key_bytes, value, &[("c", channel), ("n", Some(name.as_bytes()))]);
            fetched.push(Fetched { time_ms, ..record });
            let to = &self.consumer.to;
            let todo = [to.channel.is_some(), to.upstream.is_some(), to.topic.is_some()];
            let since_ms = if time_ms == 0 { self.now_ms } else { time_ms };
            let null = value.is_none();
            let may_die = todo[0] && (value == Some(b"{") || channel.is_none());
            let (out, dying, cut, ended) = ([false; 3], false, false, false);
            let known =
                Known { key, since_ms, time_ms, null, todo, out, may_die, dying, cut, ended };
            self.records.insert(offset, known);
        }
        self.lane.ends_at(self.next_offset);
        self.lane.fetched(fetched, self.next_offset, self.now_ms);
    }

    fn outcome(&mut self, which: usize, outcome: Outcome, random: u64) {
        let (token, offsets, part) = self.awaited.swap_remove(which);
        self.full |= matches!(outcome, Outcome::Full);
        for offset in offsets {
            let known = self.records.get_mut(&offset).unwrap();
            let delivered = matches!(outcome, Outcome::Delivered);
            let fails = matches!(outcome, Outcome::Failed { .. } | Outcome::Refused { .. });
            if part == Part::Letter {
                known.ended = delivered;
                // One that was refused is written once more, with less in it.
                let refused = matches!(outcome, Outcome::Refused { .. });
                let again = refused && !known.cut;
                known.cut |= refused;
                if fails && !again {
                    self.stuck.insert(offset, true);
                } else if delivered {
                    self.stuck.remove(&offset);
                }
                continue;
            }
            known.out[part as usize] = false;
            known.todo[part as usize] &= !delivered;
            known.may_die |= fails;
            known.ended = known.todo == [false; 3];
        }
        self.lane.done(token, outcome, self.now_ms, random);
        // An outcome counts once.
        self.lane.done(token, refused(), self.now_ms, random);
    }

    /// Takes every effect, and objects to what should not be.
    fn drain(&mut self) {
        while let Some(effect) = self.lane.next(self.now_ms) {
            let quiet = self.full || !self.stuck.is_empty();
            match effect {
                Effect::Publish { token, channel, .. } => {
                    assert!(!quiet);
                    let offset = channel.strip_prefix("u:").unwrap().parse().unwrap();
                    self.begin(token, vec![offset], Part::Channel);
                }
                Effect::Call { token, request, records, .. } => {
                    assert!(!quiet);
                    let offsets = offsets(&request);
                    assert_eq!(offsets.len(), records);
                    assert!(records <= self.consumer.batch.records);
                    self.begin(token, offsets, Part::Upstream);
                }
                Effect::Produce { token, body, .. } => {
                    assert!(!quiet);
                    let name = header(&body, "n").parse().unwrap();
                    self.begin(token, vec![name], Part::Topic);
                }
                Effect::DeadLetter { token, body, .. } => {
                    assert!(!self.full && !self.revoked);
                    let offset = header(&body, "trine-dlq-offset").parse().unwrap();
                    self.is_overtaken(offset);
                    self.dies(offset);
                    self.awaited.push((token, vec![offset], Part::Letter));
                }
                Effect::GivenUp { offset, .. } => {
                    assert!(!self.consumer.dead_letter);
                    self.is_overtaken(offset);
                    self.dies(offset);
                    self.records.get_mut(&offset).unwrap().ended = true;
                }
                Effect::Commit { next_offset } => {
                    assert!(self.committing.is_none() && next_offset > self.committed);
                    assert!(next_offset <= self.unfinished().unwrap_or(self.next_offset));
                    self.committing = Some(next_offset);
                }
                Effect::Alarm(Alarm::DeadLetterFailed { .. }) => assert!(!self.stuck.is_empty()),
                Effect::Alarm(Alarm::DeadLetterWritten) => assert!(self.stuck.is_empty()),
                Effect::Drained => {
                    assert!(self.revoked && self.awaited.is_empty() && !self.drained);
                    self.drained = true;
                }
            }
        }
        for part in [Part::Channel, Part::Upstream, Part::Topic, Part::Letter] {
            let under_way = self.awaited.iter().filter(|(.., of)| *of == part).count();
            assert!(under_way <= self.consumer.concurrency);
        }
        assert!(self.lane.deadline_ms().is_none_or(|deadline_ms| deadline_ms > self.now_ms));
    }

    fn begin(&mut self, token: Token, offsets: Vec<u64>, part: Part) {
        for &offset in &offsets {
            let known = self.records.get_mut(&offset).unwrap();
            assert!(!known.ended && !known.dying && !known.out[part as usize]);
            assert!(known.todo[part as usize]);
            known.out[part as usize] = true;
            self.is_first(offset);
            self.is_overtaken(offset);
        }
        self.awaited.push((token, offsets, part));
    }

    /// After a revoke only what a later record has overtaken is begun.
    fn is_overtaken(&mut self, offset: u64) {
        if self.revoked {
            assert!(self.consumer.to.channel.is_none());
            assert!(self.newest.is_some_and(|newest| offset < newest));
        } else {
            self.newest = self.newest.max(Some(offset));
        }
    }

    fn dies(&mut self, offset: u64) {
        self.is_first(offset);
        let kept_apart = self.consumer.null_values == NullValues::DeadLetter;
        let known = self.records.get_mut(&offset).unwrap();
        assert!(!known.ended && known.out == [false; 3]);
        assert!(known.may_die || (known.null && kept_apart));
        known.dying = true;
    }

    /// It is due, and every earlier record of its key is finished.
    fn is_first(&self, offset: u64) {
        let schedule = &self.consumer.schedule;
        let times = |ms: u64| ms / schedule.every_ms;
        assert!(
            schedule.every_ms == 0
                || schedule.records > 0
                || times(self.now_ms) > times(self.records[&offset].since_ms),
            "{offset} is early"
        );
        let Some(key) = self.records[&offset].key else { return };
        let earlier = self.records.range(..offset).filter(|(_, known)| known.key == Some(key));
        for (earlier, known) in earlier {
            assert!(self.is_finished(known), "{offset} overtakes {earlier}");
        }
    }

    fn is_finished(&self, known: &Known) -> bool {
        let skipped = known.null && self.consumer.null_values == NullValues::Skip;
        let expired = self.consumer.ttl_ms > 0 && known.time_ms > 0;
        known.ended || ((skipped || expired) && known.out == [false; 3] && !known.dying)
    }

    fn unfinished(&self) -> Option<u64> {
        let mut records = self.records.iter();
        records.find(|(_, known)| !self.is_finished(known)).map(|(offset, _)| *offset)
    }

    /// From here on all goes well: whatever happened, everything comes to its end.
    fn finish(&mut self) {
        for _ in 0..100_000 {
            self.step(Step::Room);
            if !self.awaited.is_empty() {
                self.step(Step::Outcome { which: 0, how: 7, random: 1 });
            } else if self.committing.is_some() {
                self.step(Step::Committed(true));
            } else if let Some(deadline_ms) = self.lane.deadline_ms() {
                self.now_ms = deadline_ms;
                self.drain();
            } else {
                return;
            }
        }
        panic!("it never ends");
    }

    fn check_end(&self) {
        if self.revoked {
            return assert!(self.drained);
        }
        assert_eq!(self.unfinished(), None);
        assert_eq!((self.lane.position(), self.committed), (self.next_offset, self.next_offset));
        let totals = self.lane.totals();
        let ends = totals.delivered
            + totals.dead_lettered
            + totals.given_up
            + totals.expired
            + totals.null_skipped;
        assert_eq!(ends, self.records.len() as u64);
        let ended = self.records.values().filter(|known| known.ended).count() as u64;
        assert_eq!(totals.delivered + totals.dead_lettered + totals.given_up, ended);
        assert!(self.lane.wants_more().is_some());
    }
}

/// The offsets of a request's events, by their ids.
fn offsets(request: &Request) -> Vec<u64> {
    let offset = |id: &str| id.strip_prefix("tickets/3/").unwrap().parse().unwrap();
    if let Some((_, id)) = request.headers.iter().find(|(name, _)| *name == "ce-id") {
        return vec![offset(id)];
    }
    let events: Vec<serde_json::Value> = serde_json::from_slice(&request.body).unwrap();
    events.iter().map(|event| offset(event["id"].as_str().unwrap())).collect()
}

fn route_of_u(mut consumer: Consumer, targets: u8) -> Consumer {
    consumer.to.channel = (targets & 1 > 0).then(|| Template::parse("{header.c}").unwrap());
    consumer.to.upstream = (targets & 2 > 0).then(|| "backend".to_owned());
    consumer.to.topic = (targets & 4 > 0).then(|| "done".to_owned());
    consumer
}

prop_compose! {
    fn consumers()(
        targets in 1u8..8,
        (every_ms, queued, rate_per_s) in (
            prop_oneof![Just(0u64), Just(300)], prop_oneof![Just(0u64), 1u64..6], prop_oneof![Just(0u64), Just(20)],
        ),
        concurrency in 1usize..4,
        (batch_records, linger_ms) in (1usize..4, prop_oneof![Just(0u64), Just(30)]),
        (tries, age_ms) in (0u32..4, prop_oneof![Just(0u64), Just(500)]),
        dead_letter in any::<bool>(),
        null_values in prop_oneof![
            Just(NullValues::Skip), Just(NullValues::Deliver), Just(NullValues::DeadLetter)
        ],
        ttl_ms in prop_oneof![Just(0u64), Just(50)],
        prefetch_records in 1usize..20,
    ) -> Consumer {
        let mut consumer = Consumer {
            name: "desk".to_owned(),
            concurrency,
            dead_letter,
            null_values,
            ttl_ms,
            prefetch_records,
            ..Consumer::default()
        };
        let records = if every_ms > 0 { queued } else { 0 };
        consumer.schedule = Schedule { every_ms, records, rate_per_s, at: Vec::new() };
        consumer.batch.records = batch_records;
        consumer.batch.linger_ms = linger_ms;
        consumer.retry.tries = tries;
        consumer.retry.age_ms = age_ms;
        route_of_u(consumer, targets)
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let batch = proptest::collection::vec(any::<(u8, u8, u8)>(), 0..8);
    let step = prop_oneof![
        4 => batch.prop_map(Step::Fetch),
        12 => (any::<u16>(), any::<u8>(), any::<u64>())
            .prop_map(|(which, how, random)| Step::Outcome { which, how, random }),
        3 => (0u16..400).prop_map(Step::Pass),
        2 => Just(Step::Room),
        2 => any::<bool>().prop_map(Step::Committed),
    ];
    proptest::collection::vec(step, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_life_keeps_the_rules(
        consumer in consumers(),
        before in steps(),
        revoked in any::<bool>(),
        after in steps(),
    ) {
        let mut watched = Watched::new(consumer);
        let revoke = revoked.then_some(Step::Revoke);
        for step in before.into_iter().chain(revoke).chain(after) {
            watched.step(step);
        }
        watched.finish();
        watched.check_end();
    }
}
