//! A member of a group in which the broker assigns: heartbeats that carry everything.
//!
//! **Runs on: shard.** Sans-IO, with the surface of [`Membership`](super::membership::Membership). A
//! heartbeat says what changed; its answer has the partitions that the member is to have. What is not
//! among them is given up and no longer reported, then the broker gives it to its next owner.
//! Invariants: as of the classic member. Source: KIP-848.

use super::backoff::Backoff;
use super::membership::{Event, Options, Partition, Request};
use crate::limits::{KAFKA_HEARTBEAT_MS, KAFKA_REFUSED_MS};
use std::collections::BTreeSet;
use std::rc::Rc;
use trine_proto::kafka::consumer_group_heartbeat::{self, JOIN, LEAVE, LEAVE_STATIC};
use trine_proto::kafka::{Action, ErrorCode, Uuid};

/// What a heartbeat says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The member's epoch, or that it joins or leaves.
    pub epoch: i32,
    /// Whether everything is said again.
    pub is_full: bool,
    /// What it has, if that has changed.
    pub owned: Option<Vec<Partition>>,
}

/// A member.
#[derive(Debug)]
pub struct BrokerLed {
    options: Options,
    member: Rc<str>,
    epoch: i32,
    coordinator: Option<i32>,
    is_unanswered: bool,
    is_leaving: bool,
    has_ended: bool,
    /// The broker may not have heard what was said last.
    says_all: bool,
    owned: BTreeSet<Partition>,
    /// What the broker was last told that it has, and is being told.
    reported: Option<Vec<Partition>>,
    reporting: Option<Vec<Partition>>,
    /// What it is to have, and by topic ids before they have names.
    target: BTreeSet<Partition>,
    unnamed: Option<Vec<(Uuid, i32)>>,
    /// What it has to give up, until then.
    draining: BTreeSet<Partition>,
    drain_ms: u64,
    interval_ms: u64,
    heartbeat_ms: u64,
    alive_ms: u64,
    polled_ms: u64,
    sent_ms: u64,
    sent_epoch: i32,
    backoff: Backoff,
    /// It was sent away, and no heartbeat of a member was taken since.
    was_sent_away: bool,
    events: Vec<Event>,
}

impl BrokerLed {
    /// A member that has not joined yet, with an id that nobody else has.
    pub fn new(options: Options, member: Rc<str>) -> Self {
        Self {
            options,
            member,
            epoch: JOIN,
            coordinator: None,
            is_unanswered: false,
            is_leaving: false,
            has_ended: false,
            says_all: true,
            owned: BTreeSet::new(),
            reported: None,
            reporting: None,
            target: BTreeSet::new(),
            unnamed: None,
            draining: BTreeSet::new(),
            drain_ms: u64::MAX,
            interval_ms: KAFKA_HEARTBEAT_MS,
            heartbeat_ms: 0,
            alive_ms: 0,
            polled_ms: 0,
            sent_ms: 0,
            sent_epoch: JOIN,
            backoff: Backoff::default(),
            was_sent_away: false,
            events: Vec::new(),
        }
    }

    /// What it is.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Its id.
    pub fn member(&self) -> &Rc<str> {
        &self.member
    }

    /// Its epoch, 0 while it is no member.
    pub fn epoch(&self) -> i32 {
        self.epoch
    }

    /// The broker that coordinates the group, as far as is known.
    pub fn coordinator(&self) -> Option<i32> {
        self.coordinator
    }

    /// Whether it is a member, and the coordinator takes commits.
    pub fn may_commit(&self) -> bool {
        self.epoch > JOIN
    }

    /// Whether it has left, or was fenced.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Moves the events that have come up to `into`.
    pub fn take_events(&mut self, into: &mut Vec<Event>) {
        into.append(&mut self.events);
    }

    /// When to poll again although nothing has happened.
    pub fn deadline_ms(&self) -> u64 {
        // Who is not polled for a session takes itself for dead.
        let session_ms = match self.owned.is_empty() {
            true => u64::MAX,
            false => self.polled_ms + self.session_ms() / 3,
        };
        let due_ms = match self.coordinator {
            _ if self.has_ended => return u64::MAX,
            _ if self.is_unanswered => u64::MAX,
            None => self.backoff.until_ms(),
            Some(_) => self.heartbeat_ms.max(self.backoff.until_ms()),
        };
        due_ms.min(session_ms).min(self.drain_ms)
    }

    /// The next request. `name` says which topic has an id, `None`: not known yet.
    pub fn poll(
        &mut self,
        now_ms: u64,
        is_connected: bool,
        name: &dyn Fn(&Uuid) -> Option<Rc<str>>,
    ) -> Option<Request> {
        self.look_at_clock(now_ms);
        self.reconcile(now_ms, name);
        if self.has_ended || self.is_unanswered || now_ms < self.backoff.until_ms() {
            return None;
        }
        if self.coordinator.is_none() {
            (self.is_unanswered, self.sent_ms) = (true, now_ms);
            return Some(Request::FindCoordinator);
        }
        if !is_connected {
            return None;
        }
        let is_going = self.is_leaving && self.owned.is_empty();
        if is_going && self.epoch == JOIN {
            self.has_ended = true;
            return None;
        }
        let owned: Vec<_> = self.owned.iter().cloned().collect();
        let has_changed = self.reported.as_ref() != Some(&owned);
        let is_settled = has_changed && self.draining.is_empty();
        if !is_going && !is_settled && now_ms < self.heartbeat_ms {
            return None;
        }
        (self.is_unanswered, self.sent_ms) = (true, now_ms);
        self.heartbeat_ms = now_ms + self.interval_ms;
        let epoch = match (is_going, &self.options.instance) {
            (true, None) => LEAVE,
            (true, Some(_)) => LEAVE_STATIC,
            (false, _) => self.epoch,
        };
        self.sent_epoch = epoch;
        let is_full = self.says_all || self.epoch == JOIN;
        let says_owned = !is_going && (is_full || has_changed);
        self.reporting = says_owned.then(|| owned.clone());
        Some(Request::Beat(Beat { epoch, is_full, owned: says_owned.then_some(owned) }))
    }

    fn look_at_clock(&mut self, now_ms: u64) {
        let session_ms = self.session_ms();
        let last_ms = std::mem::replace(&mut self.polled_ms, now_ms);
        let is_over = [self.alive_ms, last_ms].iter().any(|at_ms| at_ms + session_ms <= now_ms);
        if !self.owned.is_empty() && (is_over || self.drain_ms <= now_ms) {
            self.forget_epoch();
        }
    }

    /// How long it takes itself for a member without an answer. How often it may ask is the broker's
    /// to say: two heartbeats must fit in, or it would lose everything between them.
    fn session_ms(&self) -> u64 {
        u64::from(self.options.session_timeout_ms).max(2 * self.interval_ms)
    }

    /// Goes towards what the member is to have.
    fn reconcile(&mut self, now_ms: u64, name: &dyn Fn(&Uuid) -> Option<Rc<str>>) {
        let Some(unnamed) = &self.unnamed else { return };
        let named = unnamed.iter().map(|(id, partition)| Some((name(id)?, *partition)));
        let Some(target) = named.collect::<Option<BTreeSet<_>>>() else { return };
        (self.unnamed, self.target) = (None, target);
        let revoked: Vec<_> = self.owned.difference(&self.target).cloned().collect();
        self.revoke(revoked, now_ms);
        let added: Vec<_> = self.target.difference(&self.owned).cloned().collect();
        self.owned.extend(added.iter().cloned());
        self.events.push(Event::Assigned(added));
    }

    fn revoke(&mut self, mut revoked: Vec<Partition>, now_ms: u64) {
        revoked.retain(|partition| self.draining.insert(partition.clone()));
        if !revoked.is_empty() {
            self.drain_ms = now_ms + u64::from(self.options.rebalance_timeout_ms);
            self.events.push(Event::Revoke(revoked));
        }
    }

    /// Leaves the group as soon as everything is given up.
    pub fn leave(&mut self, now_ms: u64) {
        if !std::mem::replace(&mut self.is_leaving, true) {
            (self.unnamed, self.target) = (None, BTreeSet::new());
            self.revoke(self.owned.iter().cloned().collect(), now_ms);
        }
    }

    /// A partition that was revoked is given up.
    pub fn released(&mut self, partition: &Partition) {
        self.owned.remove(partition);
        self.draining.remove(partition);
        if self.draining.is_empty() {
            self.drain_ms = u64::MAX;
        }
        // The broker has changed its mind meanwhile.
        if self.target.contains(partition) {
            self.owned.insert(partition.clone());
            self.events.push(Event::Assigned(vec![partition.clone()]));
        }
    }

    /// Answers [`Request::FindCoordinator`].
    pub fn found(&mut self, result: Result<i32, ErrorCode>, now_ms: u64) {
        self.is_unanswered = false;
        match result {
            Ok(broker) => {
                self.coordinator = Some(broker);
                self.backoff.succeeded();
                self.heartbeat_ms = now_ms;
            }
            Err(error) if error.is_retriable() => self.back_off(now_ms),
            Err(error) => self.failed("FindCoordinator", error, now_ms),
        }
    }

    /// The coordinator can't be reached, or the connection to it has ended.
    pub fn disconnected(&mut self, now_ms: u64) {
        (self.is_unanswered, self.says_all) = (false, true);
        self.coordinator = None;
        self.has_ended |= self.is_leaving && self.owned.is_empty();
        self.back_off(now_ms);
    }

    /// Answers [`Request::Beat`].
    pub fn beaten(&mut self, answer: &consumer_group_heartbeat::Response<'_>, now_ms: u64) {
        self.is_unanswered = false;
        let reporting = self.reporting.take();
        if !answer.error.is_none() {
            return self.failed("ConsumerGroupHeartbeat", answer.error, now_ms);
        }
        if self.epoch == JOIN && self.sent_epoch > JOIN {
            // It has forgotten meanwhile what that answer is about, and the broker tells what a member
            // has only once: it has to join again.
            return;
        }
        // Not on joining: a coordinator may take that each time and refuse what follows.
        if self.epoch > JOIN {
            self.backoff.succeeded();
            self.was_sent_away = false;
        }
        if answer.member_epoch < JOIN {
            self.has_ended = true;
            return;
        }
        if reporting.is_some() {
            self.reported = reporting;
        }
        self.says_all = false;
        self.epoch = answer.member_epoch;
        self.alive_ms = self.sent_ms;
        self.interval_ms = u64::try_from(answer.heartbeat_interval_ms).unwrap_or(0).max(1);
        self.heartbeat_ms = self.sent_ms + self.interval_ms;
        if let Some(assignment) = answer.assignment.as_ref().filter(|_| !self.is_leaving) {
            self.unnamed = Some(assignment.clone());
        }
    }

    /// What an OffsetCommit or OffsetFetch says of the membership, or of the coordinator.
    pub fn told(&mut self, error: ErrorCode, now_ms: u64) {
        match error {
            // The next answer has the new epoch.
            ErrorCode::STALE_MEMBER_EPOCH => self.heartbeat_ms = now_ms,
            error if matches!(error.action(), Action::RefreshCoordinator) => {
                self.failed("OffsetCommit", error, now_ms);
            }
            error if self.epoch > JOIN => {
                if matches!(error.action(), Action::Rejoin | Action::Fenced) {
                    self.failed("OffsetCommit", error, now_ms);
                }
            }
            _ => {}
        }
    }

    fn failed(&mut self, api: &'static str, error: ErrorCode, now_ms: u64) {
        self.says_all = true;
        match error {
            ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::FENCED_MEMBER_EPOCH if self.is_leaving => {
                self.forget_epoch();
                self.has_ended = true;
            }
            ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::FENCED_MEMBER_EPOCH => {
                self.forget_epoch();
                self.sent_away(now_ms);
            }
            ErrorCode::FENCED_INSTANCE_ID => {
                self.forget_epoch();
                self.has_ended = true;
                self.events.push(Event::Failed(api, error));
            }
            error if error.action() == Action::RefreshCoordinator => {
                // A commit says it of each of its partitions.
                if self.coordinator.take().is_some() {
                    self.back_off(now_ms);
                }
            }
            error if error.action() == Action::Retry || error.is_retriable() => {
                self.back_off(now_ms);
            }
            error => {
                self.events.push(Event::Failed(api, error));
                self.backoff.wait_until(now_ms + KAFKA_REFUSED_MS);
            }
        }
    }

    /// It has to join again: at once, as is the protocol's ordinary course, but after a pause if that
    /// has only brought it here again.
    fn sent_away(&mut self, now_ms: u64) {
        if std::mem::replace(&mut self.was_sent_away, true) {
            self.back_off(now_ms);
        }
    }

    fn back_off(&mut self, now_ms: u64) {
        self.backoff.failed(now_ms);
        // A heartbeat that failed is sent again then, not when the next one would be due.
        self.heartbeat_ms = self.heartbeat_ms.min(self.backoff.until_ms());
    }

    /// Its time as a member is over: others may have everything that it had.
    fn forget_epoch(&mut self) {
        (self.epoch, self.says_all, self.heartbeat_ms) = (JOIN, true, 0);
        (self.reported, self.unnamed, self.drain_ms) = (None, None, u64::MAX);
        self.target.clear();
        self.draining.clear();
        let lost: Vec<_> = std::mem::take(&mut self.owned).into_iter().collect();
        if !lost.is_empty() {
            self.events.push(Event::Lost(lost));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::KAFKA_RETRY_MS;
    use consumer_group_heartbeat::Response;

    const ID: Uuid = [7; 16];

    fn name(id: &Uuid) -> Option<Rc<str>> {
        (*id == ID).then(|| "tickets".into())
    }

    fn member(instance: Option<&str>) -> BrokerLed {
        let options = Options {
            group: "group".into(),
            topics: vec!["tickets".into()],
            assignor: super::super::Assignor::Range,
            instance: instance.map(Into::into),
            session_timeout_ms: 1000,
            rebalance_timeout_ms: 500,
        };
        let mut member = BrokerLed::new(options, "m".into());
        assert_eq!(member.poll(0, false, &name), Some(Request::FindCoordinator));
        member.found(Ok(1), 0);
        member
    }

    fn answer(error: ErrorCode, epoch: i32, partitions: Option<&[i32]>) -> Response<'static> {
        let of = |partitions: &[i32]| partitions.iter().map(|at| (ID, *at)).collect();
        Response {
            throttle_ms: 0,
            error,
            message: None,
            member: None,
            member_epoch: epoch,
            heartbeat_interval_ms: 100,
            assignment: partitions.map(of),
        }
    }

    fn beat(member: &mut BrokerLed, now_ms: u64) -> Beat {
        match member.poll(now_ms, true, &name) {
            Some(Request::Beat(beat)) => beat,
            other => panic!("{other:?}"),
        }
    }

    fn numbers(partitions: &[Partition]) -> Vec<i32> {
        partitions.iter().map(|partition| partition.1).collect()
    }

    fn events(member: &mut BrokerLed) -> Vec<(char, Vec<i32>)> {
        let mut events = Vec::new();
        member.take_events(&mut events);
        let short = |event: Event| match event {
            Event::Assigned(partitions) => ('+', numbers(&partitions)),
            Event::Revoke(partitions) => ('-', numbers(&partitions)),
            Event::Lost(partitions) => ('!', numbers(&partitions)),
            Event::Failed(..) => ('?', Vec::new()),
        };
        events
            .into_iter()
            .map(short)
            .filter(|event| event.0 != '+' || !event.1.is_empty())
            .collect()
    }

    #[test]
    fn it_joins_takes_gives_up_and_leaves() {
        let mut member = member(None);
        let first = beat(&mut member, 0);
        assert_eq!((first.epoch, first.is_full, first.owned), (JOIN, true, Some(vec![])));
        assert!(member.poll(0, true, &name).is_none(), "one at a time");
        member.beaten(&answer(ErrorCode::NONE, 3, Some(&[0, 1])), 10);
        let next = beat(&mut member, 10);
        assert_eq!(events(&mut member), [('+', vec![0, 1])]);
        assert_eq!((next.epoch, next.is_full), (3, false));
        assert_eq!(numbers(&next.owned.unwrap()), [0, 1], "said at once");
        member.beaten(&answer(ErrorCode::NONE, 3, None), 20);
        assert!(member.poll(20, true, &name).is_none());
        assert_eq!(beat(&mut member, 110).owned, None, "nothing has changed");
        member.beaten(&answer(ErrorCode::NONE, 4, Some(&[1, 2])), 120);
        assert!(member.poll(120, true, &name).is_none(), "not before 0 is given up");
        assert_eq!(events(&mut member), [('-', vec![0]), ('+', vec![2])]);
        member.released(&("tickets".into(), 0));
        assert_eq!(numbers(&beat(&mut member, 130).owned.unwrap()), [1, 2]);
        member.beaten(&answer(ErrorCode::NONE, 4, None), 140);
        member.leave(150);
        assert_eq!(events(&mut member), [('-', vec![1, 2])]);
        member.released(&("tickets".into(), 1));
        member.released(&("tickets".into(), 2));
        assert_eq!(beat(&mut member, 160).epoch, LEAVE);
        member.beaten(&answer(ErrorCode::NONE, LEAVE, None), 170);
        assert!(member.has_ended());
    }

    #[test]
    fn a_coordinator_that_moved_or_loads_is_asked_again_soon() {
        let mut member = member(None);
        beat(&mut member, 0);
        member.beaten(&answer(ErrorCode::NONE, 3, Some(&[0])), 0);
        let heard = beat(&mut member, 10);
        assert_eq!(numbers(&heard.owned.unwrap()), [0]);
        member.beaten(&answer(ErrorCode::NONE, 3, None), 20);
        events(&mut member);
        // Commits of many partitions are refused at once.
        (0..16).for_each(|_| member.told(ErrorCode::NOT_COORDINATOR, 30));
        let soon_ms = 30 + KAFKA_RETRY_MS;
        assert_eq!((member.coordinator(), member.deadline_ms()), (None, soon_ms));
        assert_eq!(member.poll(soon_ms, false, &name), Some(Request::FindCoordinator));
        // Nobody coordinates yet: it is not asked for at once, nor ever faster.
        member.found(Err(ErrorCode::COORDINATOR_NOT_AVAILABLE), 80);
        let later_ms = member.deadline_ms();
        assert!(later_ms >= 80 + KAFKA_RETRY_MS && member.poll(80, false, &name).is_none());
        assert_eq!(member.poll(later_ms, false, &name), Some(Request::FindCoordinator));
        member.found(Ok(2), later_ms);
        let sent = beat(&mut member, later_ms);
        assert_eq!((sent.epoch, sent.is_full), (3, true), "it says all to the new one");
        member.beaten(&answer(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS, 0, None), later_ms);
        let soon_ms = later_ms + KAFKA_RETRY_MS;
        assert!(member.poll(soon_ms - 1, true, &name).is_none());
        assert_eq!(beat(&mut member, soon_ms).epoch, 3, "not when the next one would be due");
        assert!(events(&mut member).is_empty(), "nothing is lost, and nothing an alarm");
    }

    /// Being sent away is the protocol's ordinary course, but not again and again: whether the broker
    /// refuses each member that joins, or takes it and refuses what it says next.
    #[test]
    fn who_is_sent_away_over_and_over_asks_ever_less_often() {
        for takes_joins in [false, true] {
            for error in [ErrorCode::UNKNOWN_MEMBER_ID, ErrorCode::FENCED_MEMBER_EPOCH] {
                let mut member = member(None);
                let mut now_ms = 0;
                let mut pauses = Vec::new();
                for _ in 0..8 {
                    if takes_joins {
                        assert_eq!(beat(&mut member, now_ms).epoch, JOIN);
                        member.beaten(&answer(ErrorCode::NONE, 3, Some(&[0])), now_ms);
                    }
                    beat(&mut member, now_ms);
                    member.beaten(&answer(error, 0, None), now_ms);
                    let pause_ms = member.deadline_ms().saturating_sub(now_ms);
                    assert!(pause_ms == 0 || member.poll(now_ms, true, &name).is_none());
                    now_ms += pause_ms;
                    pauses.push(pause_ms);
                }
                assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1000, 1000], "{error}");
                // Once it is taken and was heard as a member, the next time is a first one again.
                beat(&mut member, now_ms);
                member.beaten(&answer(ErrorCode::NONE, 3, Some(&[0])), now_ms);
                beat(&mut member, now_ms);
                member.beaten(&answer(ErrorCode::NONE, 3, None), now_ms);
                member.told(error, now_ms);
                assert_eq!(beat(&mut member, now_ms).epoch, JOIN, "at once");
                member.beaten(&answer(error, 0, None), now_ms);
                assert_eq!(member.deadline_ms(), now_ms + KAFKA_RETRY_MS, "{error}");
            }
        }
    }

    #[test]
    fn a_session_is_never_shorter_than_two_heartbeats() {
        let mut member = member(None);
        beat(&mut member, 0);
        let seldom =
            Response { heartbeat_interval_ms: 2_000, ..answer(ErrorCode::NONE, 3, Some(&[0])) };
        member.beaten(&seldom, 0);
        beat(&mut member, 10);
        member.beaten(&Response { assignment: None, ..seldom }, 10);
        assert_eq!(events(&mut member), [('+', vec![0])]);
        beat(&mut member, 2_010);
        assert_eq!(events(&mut member), [], "a session of 1,000 ms is over, but nothing was due");
        assert!(member.poll(4_010, true, &name).is_none(), "unanswered");
        assert_eq!(events(&mut member), [('!', vec![0])]);
        // The answer comes after all, and does not make it a member that has nothing.
        member.beaten(&answer(ErrorCode::NONE, 3, None), 4_020);
        let joins = beat(&mut member, 4_020);
        assert!(joins.epoch == JOIN && joins.is_full, "{joins:?}");
    }

    #[test]
    fn fenced_silent_or_slow_it_loses_all_and_joins_again() {
        for case in 0..3 {
            let mut member = member(Some("desk"));
            beat(&mut member, 0);
            member.beaten(&answer(ErrorCode::NONE, 3, Some(&[0])), 0);
            beat(&mut member, 10);
            events(&mut member);
            let now_ms = match case {
                0 => {
                    member.beaten(&answer(ErrorCode::FENCED_MEMBER_EPOCH, 0, None), 20);
                    20
                }
                1 => {
                    member.disconnected(20);
                    member.poll(900, true, &name);
                    member.found(Ok(1), 900);
                    1010
                }
                _ => {
                    member.beaten(&answer(ErrorCode::NONE, 4, Some(&[])), 20);
                    member.poll(20, true, &name);
                    520
                }
            };
            let again = beat(&mut member, now_ms);
            assert_eq!((again.epoch, again.owned), (JOIN, Some(vec![])), "case {case}");
            let lost = events(&mut member).pop();
            assert_eq!(lost, Some(('!', vec![0])), "case {case}");
        }
    }
}
