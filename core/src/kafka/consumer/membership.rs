//! A member of a group by the classic protocol: joins, syncs, stays alive, gives up what it must.
//!
//! **Runs on: shard.** Sans-IO: the caller asks [`Membership::poll`] what to send to the coordinator,
//! brings the answers and takes events. Invariants: at most one request is unanswered; a partition is
//! *assigned* at most once before it is given up, by [`Membership::released`] or by an event that
//! says it is lost; with an eager assignor the member joins again with nothing, with the cooperative
//! one it keeps what does not move. Source: KIP-62, KIP-345, KIP-394, KIP-429, KIP-814.

use super::assignor::{Assignor, Member};
use super::backoff::Backoff;
use super::broker_led::Beat;
use crate::limits::{KAFKA_ASSIGN_WAIT_MS, KAFKA_HEARTBEAT_MS, KAFKA_REFUSED_MS};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use trine_proto::kafka::consumer_protocol::Assignment;
use trine_proto::kafka::{Action, ErrorCode, join_group, sync_group};

/// A topic's name and the number of a partition.
pub type Partition = (Rc<str>, i32);

/// What a member is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The group.
    pub group: Rc<str>,
    /// What it subscribes to.
    pub topics: Vec<Rc<str>>,
    /// The rule, if it leads; all members of a group need one in common.
    pub assignor: Assignor,
    /// The instance id of a static member, which comes back to what it had.
    pub instance: Option<Rc<str>>,
    /// Milliseconds without a heartbeat after which it is taken for dead.
    pub session_timeout_ms: u32,
    /// Milliseconds that it may take to give up partitions and join again.
    pub rebalance_timeout_ms: u32,
}

/// What to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// FindCoordinator, to any broker; all others go to the coordinator.
    FindCoordinator,
    /// JoinGroup, with this metadata for the assignor.
    Join(Vec<u8>),
    /// SyncGroup, from the leader with each member's assignment.
    Sync(Vec<(String, Vec<u8>)>),
    /// Heartbeat.
    Heartbeat,
    /// LeaveGroup.
    Leave,
    /// ConsumerGroupHeartbeat, of a member whose broker assigns.
    Beat(Beat),
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// These are the member's.
    Assigned(Vec<Partition>),
    /// These are to be given up: [`Membership::released`] says that one is.
    Revoke(Vec<Partition>),
    /// These are another's by now.
    Lost(Vec<Partition>),
    /// The coordinator refuses what was asked; it is tried again unless the member is fenced.
    Failed(&'static str, ErrorCode),
}

#[derive(Debug)]
enum State {
    /// Joins as soon as it may.
    Unjoined,
    /// A JoinGroup is unanswered.
    Joining,
    /// It leads, and waits to know how many partitions all topics have, until then.
    Assigning(Vec<Joined>, u64),
    /// A SyncGroup is to be sent, or unanswered.
    Syncing(Option<Vec<(String, Vec<u8>)>>),
    Stable,
    /// Waits until these are given up, until then, and then joins or leaves.
    Draining(BTreeSet<Partition>, u64),
    /// It has left, or was fenced.
    Ended,
}

/// A member that has joined, as the leader is told.
#[derive(Debug)]
struct Joined {
    id: String,
    instance: Option<String>,
    metadata: Vec<u8>,
}

/// A member.
#[derive(Debug)]
pub struct Membership {
    options: Options,
    state: State,
    member: Rc<str>,
    generation: i32,
    /// The assignor that the group has chosen.
    protocol: String,
    coordinator: Option<i32>,
    is_unanswered: bool,
    is_leaving: bool,
    owned: BTreeSet<Partition>,
    /// What it had last, and since which generation, for the eager sticky assignor.
    had: (Vec<Partition>, i32),
    /// When it was last known to be alive to the coordinator.
    alive_ms: u64,
    /// When it was last polled.
    polled_ms: u64,
    /// When the request that is unanswered was sent.
    sent_ms: u64,
    heartbeat_ms: u64,
    /// Nothing is sent before.
    backoff: Backoff,
    /// It was sent away, and no heartbeat was taken since.
    was_sent_away: bool,
    /// If it leads: how many partitions were given out of each topic; `None`: by another life of it,
    /// and nobody has said yet how many there are.
    led: BTreeMap<String, Option<u32>>,
    events: Vec<Event>,
}

impl Membership {
    /// A member that has not joined yet.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            state: State::Unjoined,
            member: "".into(),
            generation: -1,
            protocol: String::new(),
            coordinator: None,
            is_unanswered: false,
            is_leaving: false,
            owned: BTreeSet::new(),
            had: (Vec::new(), -1),
            alive_ms: 0,
            polled_ms: 0,
            sent_ms: 0,
            heartbeat_ms: 0,
            backoff: Backoff::default(),
            was_sent_away: false,
            led: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// What it is.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Its id, empty before it has one.
    pub fn member(&self) -> &Rc<str> {
        &self.member
    }

    /// The generation, -1 while it is in none.
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// The assignor that the group has chosen.
    pub fn protocol(&self) -> &str {
        &self.protocol
    }

    /// The broker that coordinates the group, as far as is known.
    pub fn coordinator(&self) -> Option<i32> {
        self.coordinator
    }

    /// Whether it is in a generation in which the coordinator takes commits.
    pub fn may_commit(&self) -> bool {
        match self.state {
            State::Stable | State::Draining(..) => self.generation >= 0,
            State::Unjoined => self.generation >= 0 && !self.is_unanswered,
            _ => false,
        }
    }

    /// Whether it has left, or was fenced.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Moves the events that have come up to `into`.
    pub fn take_events(&mut self, into: &mut Vec<Event>) {
        into.append(&mut self.events);
    }

    /// When to poll again although nothing has happened.
    pub fn deadline_ms(&self) -> u64 {
        // Who is not polled for a session takes itself for dead: see `look_at_clock`.
        let session_ms = match self.owned.is_empty() {
            true => u64::MAX,
            false => self.polled_ms + self.heartbeat_interval_ms(),
        };
        let due_ms = match &self.state {
            State::Ended => return u64::MAX,
            _ if self.is_unanswered => session_ms,
            _ if self.coordinator.is_none() => self.backoff.until_ms(),
            State::Assigning(_, until_ms) => *until_ms,
            State::Draining(_, until_ms) => {
                self.heartbeat_ms.min(*until_ms).max(self.backoff.until_ms())
            }
            State::Stable => self.heartbeat_ms.max(self.backoff.until_ms()),
            State::Unjoined | State::Joining | State::Syncing(_) => self.backoff.until_ms(),
        };
        due_ms.min(session_ms)
    }

    /// The next request. `count` says how many partitions a topic has, `None`: not known yet, ask for
    /// it. `is_connected`: the coordinator can be sent to.
    pub fn poll(
        &mut self,
        now_ms: u64,
        is_connected: bool,
        count: &dyn Fn(&str) -> Option<u32>,
    ) -> Option<Request> {
        self.look_at_clock(now_ms);
        let is_ended = matches!(self.state, State::Ended);
        if is_ended || self.is_unanswered || now_ms < self.backoff.until_ms() {
            return None;
        }
        if self.coordinator.is_none() {
            return Some(self.send(Request::FindCoordinator, now_ms));
        }
        if !is_connected {
            return None;
        }
        if matches!(self.state, State::Stable) && self.has_changed(count) {
            self.rejoin(now_ms);
        }
        if self.is_leaving && matches!(self.state, State::Unjoined) && !self.owned.is_empty() {
            self.drain(self.owned.clone(), now_ms);
        }
        // A static member does not leave: it comes back.
        let just_goes = self.member.is_empty() || self.options.instance.is_some();
        let request = match &mut self.state {
            State::Unjoined if self.is_leaving && just_goes => {
                self.state = State::Ended;
                return None;
            }
            State::Unjoined if self.is_leaving => Request::Leave,
            State::Unjoined => {
                self.state = State::Joining;
                Request::Join(self.metadata())
            }
            State::Assigning(..) => {
                let assignments = self.assignments(now_ms, count)?;
                self.state = State::Syncing(None);
                Request::Sync(assignments)
            }
            State::Syncing(assignments) => Request::Sync(assignments.take().unwrap_or_default()),
            State::Stable | State::Draining(..) if now_ms >= self.heartbeat_ms => {
                self.heartbeat_ms = now_ms + self.heartbeat_interval_ms();
                Request::Heartbeat
            }
            _ => return None,
        };
        Some(self.send(request, now_ms))
    }

    fn send(&mut self, request: Request, now_ms: u64) -> Request {
        self.is_unanswered = true;
        self.sent_ms = now_ms;
        request
    }

    fn heartbeat_interval_ms(&self) -> u64 {
        (u64::from(self.options.session_timeout_ms) / 3).clamp(1, KAFKA_HEARTBEAT_MS)
    }

    fn look_at_clock(&mut self, now_ms: u64) {
        if let State::Draining(left, until_ms) = &mut self.state
            && *until_ms <= now_ms
        {
            // The group goes on without this member; it must not believe that these are its own.
            let lost: Vec<_> = std::mem::take(left).into_iter().collect();
            self.state = State::Unjoined;
            self.lost(lost);
        }
        // While a JoinGroup or SyncGroup is unanswered the coordinator waits for others, not for
        // heartbeats, and the request's deadline ends it; but a process that stood still can't tell
        // how old the answer is that it finds.
        let session_ms = u64::from(self.options.session_timeout_ms);
        let last_ms = std::mem::replace(&mut self.polled_ms, now_ms);
        let is_waiting = match self.state {
            State::Joining | State::Ended => true,
            State::Syncing(_) => self.is_unanswered,
            _ => false,
        };
        let is_over = !is_waiting && self.alive_ms + session_ms <= now_ms;
        if !self.owned.is_empty() && (is_over || last_ms + session_ms <= now_ms) {
            self.forget_generation();
        }
    }

    /// Leaves the group as soon as everything is given up.
    pub fn leave(&mut self, now_ms: u64) {
        if self.is_leaving {
            return;
        }
        self.is_leaving = true;
        match &self.state {
            State::Draining(left, until_ms) => {
                let until_ms = *until_ms;
                let more: Vec<_> = self.owned.difference(left).cloned().collect();
                self.state = State::Draining(self.owned.clone(), until_ms);
                self.revoke(more);
            }
            State::Stable | State::Unjoined => self.drain(self.owned.clone(), now_ms),
            // What is unanswered comes to one of the states above.
            _ => {}
        }
    }

    /// A partition that was revoked, or is assigned, is given up.
    pub fn released(&mut self, partition: &Partition) {
        if !self.owned.remove(partition) {
            return;
        }
        if let State::Draining(left, _) = &mut self.state {
            left.remove(partition);
            if left.is_empty() {
                self.state = State::Unjoined;
            }
        }
    }

    /// Answers [`Request::FindCoordinator`].
    pub fn found(&mut self, result: Result<i32, ErrorCode>, now_ms: u64) {
        self.is_unanswered = false;
        match result {
            Ok(broker) => {
                self.coordinator = Some(broker);
                self.backoff.succeeded();
            }
            Err(error) if error.is_retriable() => self.back_off(now_ms),
            Err(error) => self.refused("FindCoordinator", error, now_ms),
        }
    }

    /// The coordinator can't be reached, or the connection to it has ended: what was asked has no
    /// answer. Another broker may coordinate by now.
    pub fn disconnected(&mut self, now_ms: u64) {
        let was_joining = matches!(self.state, State::Joining | State::Syncing(_));
        if was_joining || matches!(self.state, State::Assigning(..)) {
            self.state = State::Unjoined;
        }
        if self.is_leaving && self.owned.is_empty() {
            self.state = State::Ended;
        }
        self.is_unanswered = false;
        self.coordinator = None;
        self.back_off(now_ms);
    }

    /// Answers [`Request::Join`].
    pub fn joined(&mut self, response: &join_group::Response<'_>, now_ms: u64) {
        self.is_unanswered = false;
        if !matches!(self.state, State::Joining) {
            return;
        }
        self.state = State::Unjoined;
        if response.error == ErrorCode::MEMBER_ID_REQUIRED {
            // A member that had an id already was not to be told this.
            if !self.member.is_empty() {
                self.sent_away(now_ms);
            }
            self.member = response.member.into();
            return;
        }
        if !response.error.is_none() {
            return self.failed("JoinGroup", response.error, now_ms);
        }
        self.member = response.member.into();
        self.generation = response.generation;
        self.protocol = response.protocol.to_owned();
        self.alive_ms = now_ms;
        self.heartbeat_ms = now_ms + self.heartbeat_interval_ms();
        self.led.clear();
        if response.leader != response.member {
            self.state = State::Syncing(Some(Vec::new()));
            return;
        }
        if response.skip_assignment {
            // A static leader that is back within its session: all keep what they have, and it
            // watches the topics as before (KIP-814).
            self.watch(response.members.iter().map(|member| member.metadata));
            self.state = State::Syncing(Some(Vec::new()));
            return;
        }
        let joined = |member: &join_group::Member<'_>| Joined {
            id: member.member.to_owned(),
            instance: member.instance.map(str::to_owned),
            metadata: member.metadata.to_owned(),
        };
        let members = response.members.iter().map(joined).collect();
        self.state = State::Assigning(members, now_ms + KAFKA_ASSIGN_WAIT_MS);
    }

    /// Answers [`Request::Sync`].
    pub fn synced(&mut self, response: &sync_group::Response<'_>, now_ms: u64) {
        self.is_unanswered = false;
        if !matches!(self.state, State::Syncing(_)) {
            return;
        }
        self.state = State::Unjoined;
        if response.error.is_none() || response.error == ErrorCode::REBALANCE_IN_PROGRESS {
            // The session begins with the answer, which was not there when it was last polled.
            self.alive_ms = self.alive_ms.max(self.polled_ms);
        }
        if !response.error.is_none() {
            return self.failed("SyncGroup", response.error, now_ms);
        }
        let Ok(assignment) = Assignment::parse(response.assignment) else {
            return self.refused("SyncGroup", ErrorCode::INVALID_REQUEST, now_ms);
        };
        self.heartbeat_ms = now_ms + self.heartbeat_interval_ms();
        let topics = &self.options.topics;
        let own = |&(topic, partition): &(&str, i32)| {
            let topic = topics.iter().find(|known| ***known == *topic)?;
            (partition >= 0).then(|| (topic.clone(), partition))
        };
        let assigned: BTreeSet<_> = assignment.partitions.iter().filter_map(own).collect();
        let revoked: BTreeSet<_> = self.owned.difference(&assigned).cloned().collect();
        let added: Vec<_> = assigned.difference(&self.owned).cloned().collect();
        self.had = (assigned.iter().cloned().collect(), self.generation);
        self.owned.extend(added.iter().cloned());
        self.state = State::Stable;
        if self.is_leaving {
            // Nobody has seen what was added.
            added.iter().for_each(|partition| {
                self.owned.remove(partition);
            });
            return self.drain(self.owned.clone(), now_ms);
        }
        if !revoked.is_empty() {
            self.drain(revoked, now_ms);
        }
        // An event also where nothing is new, so that a caller sees every generation.
        self.events.push(Event::Assigned(added));
    }

    /// Answers [`Request::Heartbeat`].
    pub fn beaten(&mut self, error: ErrorCode, now_ms: u64) {
        self.is_unanswered = false;
        if error.is_none() || error == ErrorCode::REBALANCE_IN_PROGRESS {
            self.alive_ms = self.alive_ms.max(self.sent_ms);
            // Not before: a coordinator may take each JoinGroup and refuse what follows.
            self.backoff.succeeded();
            self.was_sent_away = false;
        }
        match error {
            ErrorCode::NONE => {}
            ErrorCode::REBALANCE_IN_PROGRESS => self.rejoin(now_ms),
            error => self.failed("Heartbeat", error, now_ms),
        }
    }

    /// Answers [`Request::Leave`]; whatever it is, the member is gone.
    pub fn left(&mut self) {
        self.is_unanswered = false;
        self.state = State::Ended;
    }

    /// What an OffsetCommit or OffsetFetch says of the membership, or of the coordinator.
    pub fn told(&mut self, error: ErrorCode, now_ms: u64) {
        match error.action() {
            Action::RefreshCoordinator => self.coordinator_moved(now_ms),
            Action::Rejoin if error == ErrorCode::REBALANCE_IN_PROGRESS => self.rejoin(now_ms),
            Action::Rejoin | Action::Fenced if self.generation >= 0 => {
                self.failed("OffsetCommit", error, now_ms);
            }
            _ => {}
        }
    }

    fn coordinator_moved(&mut self, now_ms: u64) {
        if self.coordinator.take().is_some() {
            self.back_off(now_ms);
        }
    }

    fn failed(&mut self, api: &'static str, error: ErrorCode, now_ms: u64) {
        match error {
            ErrorCode::UNKNOWN_MEMBER_ID => {
                self.member = "".into();
                self.forget_generation();
                self.sent_away(now_ms);
            }
            ErrorCode::ILLEGAL_GENERATION => {
                self.forget_generation();
                self.sent_away(now_ms);
            }
            ErrorCode::FENCED_INSTANCE_ID => {
                self.forget_generation();
                self.state = State::Ended;
                self.events.push(Event::Failed(api, error));
            }
            ErrorCode::REBALANCE_IN_PROGRESS => self.sent_away(now_ms),
            error if error.action() == Action::RefreshCoordinator => self.coordinator_moved(now_ms),
            error if error.is_retriable() => self.back_off(now_ms),
            error => self.refused(api, error, now_ms),
        }
    }

    /// What an administrator or other members may mend is tried again now and then.
    fn refused(&mut self, api: &'static str, error: ErrorCode, now_ms: u64) {
        self.events.push(Event::Failed(api, error));
        self.backoff.wait_until(now_ms + KAFKA_REFUSED_MS);
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

    /// The generation is over for this member: others may have everything that it had.
    fn forget_generation(&mut self) {
        self.generation = -1;
        self.state = State::Unjoined;
        let lost = std::mem::take(&mut self.owned).into_iter().collect();
        self.lost(lost);
    }

    fn lost(&mut self, lost: Vec<Partition>) {
        for partition in &lost {
            self.owned.remove(partition);
        }
        if !lost.is_empty() {
            self.events.push(Event::Lost(lost));
        }
    }

    /// Joins again: at once, or when everything is given up.
    fn rejoin(&mut self, now_ms: u64) {
        if !matches!(self.state, State::Stable) {
            return;
        }
        match self.options.assignor.is_cooperative() {
            true => self.state = State::Unjoined,
            false => self.drain(self.owned.clone(), now_ms),
        }
    }

    fn drain(&mut self, left: BTreeSet<Partition>, now_ms: u64) {
        if left.is_empty() {
            self.state = State::Unjoined;
            return;
        }
        let revoked = left.iter().cloned().collect();
        // It heard of the rebalance a heartbeat late, and has to have joined before its end.
        let timeout_ms = u64::from(self.options.rebalance_timeout_ms);
        let margin_ms = (2 * self.heartbeat_interval_ms()).min(timeout_ms / 2);
        self.state = State::Draining(left, now_ms + timeout_ms - margin_ms);
        self.revoke(revoked);
    }

    fn revoke(&mut self, revoked: Vec<Partition>) {
        if !revoked.is_empty() {
            self.events.push(Event::Revoke(revoked));
        }
    }
}

/// Leading.
impl Membership {
    fn metadata(&self) -> Vec<u8> {
        let topics: Vec<_> = self.options.topics.iter().map(|topic| &**topic).collect();
        let named = |(topic, partition): &'_ Partition| (topic.clone(), *partition);
        let (had, generation): (Vec<_>, _) = match self.options.assignor.is_cooperative() {
            true => (self.owned.iter().map(named).collect(), self.generation),
            false => self.had.clone(),
        };
        let had: Vec<_> = had.iter().map(|(topic, partition)| (&**topic, *partition)).collect();
        self.options.assignor.metadata(&topics, &had, generation)
    }

    /// Each member's assignment, once it is known how many partitions all topics have.
    fn assignments(
        &mut self,
        now_ms: u64,
        count: &dyn Fn(&str) -> Option<u32>,
    ) -> Option<Vec<(String, Vec<u8>)>> {
        let State::Assigning(joined, until_ms) = &self.state else { return None };
        let assignor = self.options.assignor;
        let read = |joined: &'_ Joined| (joined.id.clone(), joined.instance.clone());
        let ids: Vec<_> = joined.iter().map(read).collect();
        let mut members = Vec::with_capacity(joined.len());
        for (joined, (id, instance)) in joined.iter().zip(&ids) {
            // Who can't be understood gets nothing, as if it subscribed to nothing.
            let member = Member::parse(assignor, id, instance.as_deref(), &joined.metadata);
            members.push(member.unwrap_or(Member { id, ..Member::default() }));
        }
        let topics: BTreeSet<&str> =
            members.iter().flat_map(|m| m.topics.iter().copied()).collect();
        let counts: BTreeMap<&str, Option<u32>> =
            topics.iter().map(|&topic| (topic, count(topic))).collect();
        if counts.values().any(Option::is_none) && now_ms < *until_ms {
            return None;
        }
        let known: BTreeMap<&str, u32> =
            counts.iter().map(|(&topic, count)| (topic, count.unwrap_or(0))).collect();
        let given = assignor.assign(&members, &known);
        let assignments = members.iter().zip(given).map(|(member, partitions)| {
            let mut bytes = Vec::new();
            Assignment { partitions, user_data: None }.write(&mut bytes, 3);
            (member.id.to_owned(), bytes)
        });
        let assignments = assignments.collect();
        self.led = known.into_iter().map(|(topic, count)| (topic.into(), Some(count))).collect();
        Some(assignments)
    }

    /// Watches the topics of members whose partitions another life of it gave out.
    fn watch<'a>(&mut self, metadata: impl Iterator<Item = &'a [u8]>) {
        for metadata in metadata {
            let member = Member::parse(self.options.assignor, "", None, metadata);
            let topics = member.map(|member| member.topics).unwrap_or_default();
            self.led.extend(topics.iter().map(|&topic| (topic.into(), None)));
        }
    }

    /// Whether it leads and a topic has other partitions than were given out, or than there were when
    /// it was first looked at.
    fn has_changed(&mut self, count: &dyn Fn(&str) -> Option<u32>) -> bool {
        self.led.iter_mut().any(|(topic, given)| {
            count(topic).is_some_and(|count| *given.get_or_insert(count) != count)
        })
    }
}
