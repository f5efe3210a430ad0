//! Groups of members against a simulated coordinator that moves, with delays, deaths, stops and lost
//! connections.
//!
//! **Runs on: any.** The coordinator follows the broker's rules of the classic protocol as far as
//! members can see them; where it has moved it first loads, and who asks the former one is told so.
//! Checked at every step: no two members that are alive hold a partition; and after the faults: every
//! partition has its member, and every member is in the group.

use super::assignor::Assignor;
use super::membership::{Event, Membership, Options, Partition, Request};
use crate::limits::KAFKA_RETRY_MAX_MS;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use trine_proto::kafka::consumer_protocol::Assignment;
use trine_proto::kafka::{ErrorCode, join_group, sync_group};

// Milliseconds.
const SESSION: u64 = 1000;
const REBALANCE: u64 = 3000;
const DELAY: u64 = 40;
const TOPICS: [&str; 2] = ["orders", "tickets"];

/// A node and the number of its connection.
type At = (usize, u32);

enum Answer {
    Found(Result<i32, ErrorCode>),
    Joined {
        error: ErrorCode,
        member: String,
        leader: String,
        members: Vec<(String, Vec<u8>)>,
    },
    Synced(ErrorCode, Vec<u8>),
    Beaten(ErrorCode),
    /// To a commit.
    Told(ErrorCode),
    Left,
    Disconnected,
}

struct Seat {
    at: At,
    metadata: Vec<u8>,
    alive_ms: u64,
    is_joining: bool,
    is_syncing: bool,
    assignment: Vec<u8>,
}

/// What a member asks of its coordinator that this may refuse although all is in order.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    Join,
    Sync,
    Commit,
}

#[derive(PartialEq)]
enum Phase {
    Stable,
    Preparing(u64),
    Completing,
}

/// The broker's side of one group.
struct Coordinator {
    broker: i32,
    loads_until_ms: u64,
    seats: BTreeMap<String, Seat>,
    generation: i32,
    phase: Phase,
    leader: String,
    next_id: u32,
    protocol: &'static str,
    answers: Vec<(At, i32, Answer)>,
    /// What is refused, and with what.
    refuses: Option<(Asked, ErrorCode)>,
    refused_ms: Vec<u64>,
}

impl Coordinator {
    fn prepare(&mut self, now_ms: u64) {
        if matches!(self.phase, Phase::Preparing(_)) {
            return;
        }
        self.phase = Phase::Preparing(now_ms + REBALANCE);
        for seat in self.seats.values_mut().filter(|seat| seat.is_syncing) {
            (seat.is_syncing, seat.alive_ms) = (false, now_ms);
            let answer = Answer::Synced(ErrorCode::REBALANCE_IN_PROGRESS, Vec::new());
            self.answers.push((seat.at, self.generation, answer));
        }
    }

    /// Another broker coordinates once it has loaded the group: who waits is sent away.
    fn move_on(&mut self, now_ms: u64, load_ms: u64) {
        (self.broker, self.loads_until_ms) = (self.broker + 1, now_ms + load_ms);
        for (id, seat) in &mut self.seats {
            seat.alive_ms = self.loads_until_ms;
            let error = ErrorCode::NOT_COORDINATOR;
            let (member, leader, members) = (id.clone(), String::new(), Vec::new());
            let answer = match (seat.is_joining, seat.is_syncing) {
                (true, _) => Answer::Joined { error, member, leader, members },
                (_, true) => Answer::Synced(error, Vec::new()),
                _ => continue,
            };
            (seat.is_joining, seat.is_syncing) = (false, false);
            self.answers.push((seat.at, -1, answer));
        }
        if self.phase != Phase::Stable {
            self.phase = Phase::Preparing(self.loads_until_ms + REBALANCE);
        }
    }

    /// What is said to a member that this broker can't answer.
    fn is_elsewhere(&self, of: &Membership, now_ms: u64) -> Option<ErrorCode> {
        match of.coordinator() == Some(self.broker) {
            false => Some(ErrorCode::NOT_COORDINATOR),
            true if now_ms < self.loads_until_ms => Some(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS),
            true => None,
        }
    }

    fn look_at_clock(&mut self, now_ms: u64) {
        if now_ms < self.loads_until_ms {
            return;
        }
        let before = self.seats.len();
        // A little more patient than its members' clocks, as the way of a request takes time.
        let limit_ms = SESSION + 3 * DELAY;
        self.seats.retain(|_, seat| {
            seat.is_joining || seat.is_syncing || seat.alive_ms + limit_ms > now_ms
        });
        if self.seats.len() < before {
            self.prepare(now_ms);
        }
        if let Phase::Preparing(until_ms) = self.phase {
            if until_ms <= now_ms {
                self.seats.retain(|_, seat| seat.is_joining);
            }
            if self.seats.values().all(|seat| seat.is_joining) {
                self.complete(now_ms);
            }
        }
    }

    fn complete(&mut self, now_ms: u64) {
        self.generation += 1;
        self.phase = Phase::Completing;
        let Some(first) = self.seats.keys().next() else {
            self.phase = Phase::Stable;
            return;
        };
        if !self.seats.contains_key(&self.leader) {
            self.leader = first.clone();
        }
        let all: Vec<_> =
            self.seats.iter().map(|(id, seat)| (id.clone(), seat.metadata.clone())).collect();
        for (id, seat) in &mut self.seats {
            (seat.is_joining, seat.alive_ms) = (false, now_ms);
            seat.assignment.clear();
            let answer = Answer::Joined {
                error: ErrorCode::NONE,
                member: id.clone(),
                leader: self.leader.clone(),
                members: if *id == self.leader { all.clone() } else { Vec::new() },
            };
            self.answers.push((seat.at, self.generation, answer));
        }
    }

    fn refuse_join(&mut self, node: At, error: ErrorCode, member: String) {
        let (leader, members) = (String::new(), Vec::new());
        self.answers.push((node, -1, Answer::Joined { error, member, leader, members }));
    }

    fn check(&self, of: &Membership) -> ErrorCode {
        match self.seats.get(&**of.member()) {
            None => ErrorCode::UNKNOWN_MEMBER_ID,
            Some(_) if of.generation() != self.generation => ErrorCode::ILLEGAL_GENERATION,
            Some(_) => ErrorCode::NONE,
        }
    }

    /// Whether, and with what, this is refused although all is in order.
    fn refuses(&mut self, asked: Asked, member: &str, now_ms: u64) -> Option<ErrorCode> {
        let (_, error) = self.refuses.filter(|refused| refused.0 == asked)?;
        self.refused_ms.push(now_ms);
        if error == ErrorCode::UNKNOWN_MEMBER_ID {
            self.seats.remove(member);
        }
        Some(error)
    }

    /// A commit.
    fn take_commit(&mut self, node: At, of: &Membership, now_ms: u64) {
        let error = match self.phase {
            Phase::Completing if self.check(of).is_none() => ErrorCode::REBALANCE_IN_PROGRESS,
            _ => self.check(of),
        };
        let error = self.refuses(Asked::Commit, of.member(), now_ms).unwrap_or(error);
        let error = self.is_elsewhere(of, now_ms).unwrap_or(error);
        self.answers.push((node, -1, Answer::Told(error)));
    }

    /// The answer of a broker that does not coordinate, or loads.
    fn refuse(&mut self, node: At, of: &Membership, request: &Request, error: ErrorCode) {
        let answer = match request {
            Request::Join(_) => return self.refuse_join(node, error, of.member().to_string()),
            Request::Sync(_) => Answer::Synced(error, Vec::new()),
            Request::Heartbeat => Answer::Beaten(error),
            _ => Answer::Left,
        };
        self.answers.push((node, -1, answer));
    }

    fn take(&mut self, node: At, of: &Membership, request: Request, now_ms: u64) {
        if request == Request::FindCoordinator {
            let is_known = !now_ms.is_multiple_of(4) || self.loads_until_ms <= now_ms;
            let found = is_known.then_some(self.broker).ok_or(ErrorCode::COORDINATOR_NOT_AVAILABLE);
            return self.answers.push((node, -1, Answer::Found(found)));
        }
        if let Some(error) = self.is_elsewhere(of, now_ms) {
            return self.refuse(node, of, &request, error);
        }
        let asked = match request {
            // Who has no id yet is always given one.
            Request::Join(_) if !of.member().is_empty() => Some(Asked::Join),
            Request::Sync(_) => Some(Asked::Sync),
            _ => None,
        };
        if let Some(error) = asked.and_then(|asked| self.refuses(asked, of.member(), now_ms)) {
            return self.refuse(node, of, &request, error);
        }
        let (member, generation) = (of.member().to_string(), of.generation());
        let check = self.check(of);
        match request {
            Request::FindCoordinator => unreachable!("it is answered above"),
            Request::Join(metadata) if member.is_empty() => {
                self.next_id += 1;
                let id = format!("member-{}", self.next_id);
                let seat = Seat {
                    at: node,
                    metadata,
                    alive_ms: now_ms,
                    is_joining: false,
                    is_syncing: false,
                    assignment: Vec::new(),
                };
                self.seats.insert(id.clone(), seat);
                self.prepare(now_ms);
                self.refuse_join(node, ErrorCode::MEMBER_ID_REQUIRED, id);
            }
            Request::Join(metadata) => match self.seats.get_mut(&member) {
                None => self.refuse_join(node, ErrorCode::UNKNOWN_MEMBER_ID, String::new()),
                Some(seat) => {
                    (seat.metadata, seat.is_joining, seat.is_syncing) = (metadata, true, false);
                    seat.at = node;
                    self.prepare(now_ms);
                }
            },
            Request::Sync(assignments) => {
                self.sync(node, (member, generation), check, assignments, now_ms);
            }
            Request::Heartbeat => {
                if let Some(seat) = self.seats.get_mut(&member) {
                    seat.alive_ms = now_ms;
                }
                let error = match self.phase {
                    Phase::Preparing(_) if check.is_none() => ErrorCode::REBALANCE_IN_PROGRESS,
                    _ => check,
                };
                self.answers.push((node, generation, Answer::Beaten(error)));
            }
            Request::Beat(_) => unreachable!("the protocol is the classic one"),
            Request::Leave => {
                self.seats.remove(&member);
                self.prepare(now_ms);
                self.answers.push((node, -1, Answer::Left));
            }
        }
    }

    fn sync(
        &mut self,
        node: At,
        (member, generation): (String, i32),
        check: ErrorCode,
        assignments: Vec<(String, Vec<u8>)>,
        now_ms: u64,
    ) {
        let error = match self.phase {
            Phase::Preparing(_) if check.is_none() => ErrorCode::REBALANCE_IN_PROGRESS,
            _ => check,
        };
        if !error.is_none() {
            self.answers.push((node, generation, Answer::Synced(error, Vec::new())));
            return;
        }
        if member == self.leader && self.phase == Phase::Completing {
            for (id, bytes) in assignments {
                if let Some(seat) = self.seats.get_mut(&id) {
                    seat.assignment = bytes;
                }
            }
            self.phase = Phase::Stable;
        }
        if let Some(seat) = self.seats.get_mut(&member) {
            (seat.is_syncing, seat.alive_ms, seat.at) = (true, now_ms, node);
        }
        if self.phase == Phase::Stable {
            for seat in self.seats.values_mut().filter(|seat| seat.is_syncing) {
                (seat.is_syncing, seat.alive_ms) = (false, now_ms);
                let answer = Answer::Synced(ErrorCode::NONE, seat.assignment.clone());
                self.answers.push((seat.at, generation, answer));
            }
        }
    }
}

/// A member and what a consumer around it would do.
struct Node {
    membership: Membership,
    connection: u32,
    inbox: VecDeque<(u64, i32, Answer)>,
    held: BTreeSet<Partition>,
    releasing: Vec<(u64, Partition)>,
    stopped_until_ms: u64,
    is_dead: bool,
}

struct World {
    now_ms: u64,
    seed: u64,
    assignor: Assignor,
    coordinator: Coordinator,
    nodes: Vec<Node>,
    counts: [u32; 2],
}

impl World {
    fn new(seed: u64, assignor: Assignor) -> Self {
        let coordinator = Coordinator {
            broker: 1,
            loads_until_ms: 0,
            seats: BTreeMap::new(),
            generation: 0,
            phase: Phase::Stable,
            leader: String::new(),
            next_id: 0,
            protocol: assignor.name(),
            answers: Vec::new(),
            refuses: None,
            refused_ms: Vec::new(),
        };
        let counts = [7, 5];
        Self { now_ms: 0, seed: seed | 1, assignor, coordinator, nodes: Vec::new(), counts }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 20) % below
    }

    fn join(&mut self) {
        let membership = Membership::new(Options {
            group: "group".into(),
            topics: TOPICS.map(Into::into).to_vec(),
            assignor: self.assignor,
            instance: None,
            session_timeout_ms: SESSION as u32,
            rebalance_timeout_ms: REBALANCE as u32,
        });
        self.nodes.push(Node {
            membership,
            connection: 0,
            inbox: VecDeque::new(),
            held: BTreeSet::new(),
            releasing: Vec::new(),
            stopped_until_ms: 0,
            is_dead: false,
        });
    }

    fn step(&mut self) {
        self.now_ms += 1 + self.random(20);
        self.coordinator.look_at_clock(self.now_ms);
        for index in 0..self.nodes.len() {
            let drain_ms = self.random(300);
            let commits = self.random(20) == 0;
            self.turn(index, drain_ms, commits);
        }
        for (node, generation, answer) in std::mem::take(&mut self.coordinator.answers) {
            let due_ms = self.now_ms + 1 + self.random(DELAY);
            if self.nodes[node.0].connection == node.1 {
                self.nodes[node.0].inbox.push_back((due_ms, generation, answer));
            }
        }
        self.check();
    }

    /// The first member's time up to then, with answers that take none. It commits while that is
    /// refused.
    fn run_first(&mut self, until_ms: u64) {
        let commits = self.coordinator.refuses.is_some_and(|refused| refused.0 == Asked::Commit);
        for _ in 0..1000 {
            self.coordinator.look_at_clock(self.now_ms);
            self.turn(0, 0, commits);
            self.coordinator.look_at_clock(self.now_ms);
            let node = &mut self.nodes[0];
            let answers = std::mem::take(&mut self.coordinator.answers);
            if answers.is_empty() {
                self.now_ms = node.membership.deadline_ms().max(self.now_ms + 1).min(until_ms);
            }
            let arrives = |(_, generation, answer)| (self.now_ms, generation, answer);
            node.inbox.extend(answers.into_iter().map(arrives));
            if self.now_ms == until_ms {
                return;
            }
        }
        panic!("it asks all the time: {:?}", self.coordinator.refused_ms);
    }

    fn turn(&mut self, index: usize, drain_ms: u64, commits: bool) {
        let (now_ms, counts) = (self.now_ms, self.counts);
        let node = &mut self.nodes[index];
        if node.is_dead || node.stopped_until_ms > now_ms {
            return;
        }
        while let Some((_, generation, answer)) = node.inbox.pop_front_if(|next| next.0 <= now_ms) {
            node.answer(generation, answer, self.coordinator.protocol, now_ms);
        }
        let count =
            |topic: &str| TOPICS.iter().position(|known| *known == topic).map(|at| counts[at]);
        if let Some(request) = node.membership.poll(now_ms, true, &count) {
            self.coordinator.take((index, node.connection), &node.membership, request, now_ms);
        }
        if commits && node.membership.may_commit() {
            self.coordinator.take_commit((index, node.connection), &node.membership, now_ms);
        }
        node.events(now_ms + drain_ms);
        let due = node.releasing.extract_if(.., |next| next.0 <= now_ms);
        for (_, partition) in due.collect::<Vec<_>>() {
            node.held.remove(&partition);
            node.membership.released(&partition);
        }
    }

    fn check(&self) {
        let awake = |node: &&Node| !node.is_dead && node.stopped_until_ms <= self.now_ms;
        let mut holders = BTreeSet::new();
        for node in self.nodes.iter().filter(awake) {
            for partition in &node.held {
                assert!(holders.insert(partition), "{partition:?} has two at {}", self.now_ms);
            }
        }
    }

    fn fault(&mut self) {
        let index = self.random(self.nodes.len() as u64) as usize;
        match self.random(10) {
            0 if self.nodes.len() < 9 => self.join(),
            1 => self.nodes[index].is_dead = true,
            2 => self.nodes[index].membership.leave(self.now_ms),
            3 => self.nodes[index].stopped_until_ms = self.now_ms + 2 * SESSION,
            4 | 5 => {
                // What was asked and answered is lost with the connection.
                let due_ms = self.now_ms;
                let node = &mut self.nodes[index];
                node.inbox.clear();
                node.connection += 1;
                node.inbox.push_back((due_ms, -1, Answer::Disconnected));
            }
            6 => self.counts[0] += 1,
            7 | 8 => {
                let load_ms = self.random(300);
                self.coordinator.move_on(self.now_ms, load_ms);
            }
            _ => {}
        }
    }
}

impl Node {
    fn answer(&mut self, generation: i32, answer: Answer, protocol: &str, now_ms: u64) {
        match answer {
            Answer::Found(found) => self.membership.found(found, now_ms),
            Answer::Joined { error, member, leader, members } => {
                let of =
                    |(member, metadata): &'_ (String, Vec<u8>)| (member.clone(), metadata.clone());
                let members: Vec<_> = members.iter().map(of).collect();
                let members = members
                    .iter()
                    .map(|(member, metadata)| join_group::Member {
                        member,
                        instance: None,
                        metadata,
                    })
                    .collect();
                let response = join_group::Response {
                    throttle_ms: 0,
                    error,
                    generation,
                    protocol,
                    leader: &leader,
                    skip_assignment: false,
                    member: &member,
                    members,
                };
                self.membership.joined(&response, now_ms);
            }
            Answer::Synced(error, assignment) => {
                let response =
                    sync_group::Response { throttle_ms: 0, error, assignment: &assignment };
                self.membership.synced(&response, now_ms);
            }
            Answer::Beaten(error) => self.membership.beaten(error, now_ms),
            Answer::Told(error) => self.membership.told(error, now_ms),
            Answer::Left => self.membership.left(),
            Answer::Disconnected => self.membership.disconnected(now_ms),
        }
    }

    fn events(&mut self, release_ms: u64) {
        let mut events = Vec::new();
        self.membership.take_events(&mut events);
        for event in events {
            match event {
                Event::Assigned(partitions) => {
                    for partition in partitions {
                        assert!(self.held.insert(partition), "assigned twice");
                    }
                }
                Event::Revoke(partitions) => {
                    for partition in partitions {
                        assert!(self.held.contains(&partition), "revoked but not held");
                        self.releasing.push((release_ms, partition));
                    }
                }
                Event::Lost(partitions) => {
                    for partition in partitions {
                        assert!(self.held.remove(&partition), "lost but not held");
                        self.releasing.retain(|releasing| releasing.1 != partition);
                    }
                }
                Event::Failed(api, error) => panic!("{api}: {error}"),
            }
        }
    }
}

fn run(seed: u64, assignor: Assignor) {
    let mut world = World::new(seed, assignor);
    (0..3).for_each(|_| world.join());
    for _ in 0..1500 {
        world.step();
        if world.random(60) == 0 {
            world.fault();
        }
    }
    world.join();
    let settled = (0..4000).any(|_| {
        world.step();
        let is_there = |node: &&Node| !node.is_dead && !node.membership.has_ended();
        let there: Vec<_> = world.nodes.iter().filter(is_there).collect();
        let held: usize = there.iter().map(|node| node.held.len()).sum();
        there.len() == world.coordinator.seats.len()
            && held as u32 == world.counts.iter().sum::<u32>()
            && world.coordinator.phase == Phase::Stable
            && world.coordinator.seats.values().all(|seat| !world.nodes[seat.at.0].is_dead)
    });
    assert!(settled, "{assignor:?} does not settle");
}

/// A session is long enough for a coordinator to move and load, whenever it does.
#[test]
fn a_coordinator_that_moves_takes_nothing_from_a_member() {
    for seed in 0..100 {
        let mut world = World::new(seed, Assignor::Range);
        world.join();
        let all = world.counts.iter().sum::<u32>() as usize;
        let is_settled = (0..100 + seed).fold(false, |_, _| {
            world.step();
            world.nodes[0].held.len() == all
        });
        assert!(is_settled, "seed {seed}");
        let generation = world.coordinator.generation;
        world.coordinator.move_on(world.now_ms, SESSION * 2 / 5);
        while world.now_ms < world.coordinator.loads_until_ms + 2 * SESSION {
            world.step();
            assert_eq!(world.nodes[0].held.len(), all, "seed {seed}");
        }
        let is_found = world.nodes[0].membership.coordinator() == Some(world.coordinator.broker);
        assert!(is_found && world.coordinator.generation == generation, "seed {seed}");
    }
}

/// KIP-814: nobody else watches the topics, and it gives nothing out itself.
#[test]
fn a_static_leader_that_is_back_goes_on_watching_its_topics() {
    let options = Options {
        group: "group".into(),
        topics: TOPICS.map(Into::into).to_vec(),
        assignor: Assignor::Range,
        instance: Some("desk".into()),
        session_timeout_ms: SESSION as u32,
        rebalance_timeout_ms: SESSION as u32,
    };
    let (mut membership, known) = (Membership::new(options), |_: &str| Some(7));
    assert_eq!(membership.poll(0, true, &known), Some(Request::FindCoordinator));
    membership.found(Ok(1), 0);
    let Some(Request::Join(metadata)) = membership.poll(0, true, &known) else { panic!() };
    let member = join_group::Member { member: "me", instance: Some("desk"), metadata: &metadata };
    let joined = join_group::Response {
        throttle_ms: 0,
        error: ErrorCode::NONE,
        generation: 5,
        protocol: "range",
        leader: "me",
        skip_assignment: true,
        member: "me",
        members: vec![member],
    };
    membership.joined(&joined, 0);
    assert_eq!(membership.poll(0, true, &known), Some(Request::Sync(Vec::new())));
    let mut assignment = Vec::new();
    let partitions = vec![(TOPICS[0], 0)];
    Assignment { partitions, user_data: None }.write(&mut assignment, 3);
    let synced =
        sync_group::Response { throttle_ms: 0, error: ErrorCode::NONE, assignment: &assignment };
    membership.synced(&synced, 0);
    assert_eq!(membership.poll(1, true, &|_| None), None, "nobody has said how many there are");
    assert_eq!(membership.poll(2, true, &known), None);
    let grown = |topic: &str| Some(if topic == TOPICS[1] { 8 } else { 7 });
    assert_eq!(membership.poll(3, true, &grown), None);
    let mut events = Vec::new();
    membership.take_events(&mut events);
    let own = vec![(TOPICS[0].into(), 0)];
    assert_eq!(events, [Event::Assigned(own.clone()), Event::Revoke(own.clone())]);
    membership.released(&own[0]);
    assert!(matches!(membership.poll(4, true, &grown), Some(Request::Join(_))));
}

/// While the leader computes, the coordinator waits for it: no heartbeat of others is due.
#[test]
fn a_member_whose_leader_is_slow_keeps_what_it_has() {
    let protocol = Assignor::CooperativeSticky.name();
    let known = |_: &str| Some(7);
    let mut assignment = Vec::new();
    let partitions = vec![(TOPICS[0], 0)];
    Assignment { partitions, user_data: None }.write(&mut assignment, 3);
    let synced = || Answer::Synced(ErrorCode::NONE, assignment.clone());
    let begins_anew = Answer::Synced(ErrorCode::REBALANCE_IN_PROGRESS, Vec::new());
    for (answer, is_kept) in [(synced(), true), (begins_anew, true), (Answer::Disconnected, false)]
    {
        let mut world = World::new(1, Assignor::CooperativeSticky);
        world.join();
        let mut node = world.nodes.remove(0);
        let mut now_ms = 0;
        assert_eq!(node.membership.poll(now_ms, true, &known), Some(Request::FindCoordinator));
        node.answer(-1, Answer::Found(Ok(1)), protocol, now_ms);
        for (generation, waits_ms, answer) in [(1, 0, synced()), (2, 3 * SESSION, answer)] {
            let joins = node.membership.poll(now_ms, true, &known);
            assert!(matches!(joins, Some(Request::Join(_))), "{joins:?}");
            let (member, leader) = ("me".to_owned(), "other".to_owned());
            let (error, members) = (ErrorCode::NONE, Vec::new());
            let joined = Answer::Joined { error, member, leader, members };
            node.answer(generation, joined, protocol, now_ms);
            let syncs = Some(Request::Sync(Vec::new()));
            assert_eq!(node.membership.poll(now_ms, true, &known), syncs);
            let until_ms = now_ms + waits_ms;
            while now_ms < until_ms {
                now_ms += SESSION / 4;
                assert_eq!(node.membership.poll(now_ms, true, &known), None);
            }
            node.answer(generation, answer, protocol, now_ms);
            // It is told of a rebalance at its next heartbeat.
            now_ms += SESSION / 2;
            if node.membership.poll(now_ms, true, &known) == Some(Request::Heartbeat) {
                node.answer(-1, Answer::Beaten(ErrorCode::REBALANCE_IN_PROGRESS), protocol, now_ms);
            }
            node.events(now_ms);
            let expected = if is_kept || generation == 1 { 1 } else { 0 };
            assert_eq!(node.held.len(), expected);
        }
    }
}

/// Being sent away is the protocol's ordinary course, but not again and again.
#[test]
fn who_is_sent_away_over_and_over_asks_ever_less_often() {
    use ErrorCode as Code;
    let rejoins = [Code::UNKNOWN_MEMBER_ID, Code::REBALANCE_IN_PROGRESS, Code::ILLEGAL_GENERATION];
    let cases = [Asked::Join, Asked::Sync].map(|asked| rejoins.map(|error| (asked, error)));
    let commits = rejoins.map(|error| (Asked::Commit, error));
    let commits = commits.into_iter().filter(|case| case.1 != Code::REBALANCE_IN_PROGRESS);
    for (asked, error) in cases.into_iter().flatten().chain(commits) {
        let case = format!("{asked:?}: {error}");
        let mut world = World::new(1, Assignor::CooperativeSticky);
        world.join();
        world.coordinator.refuses = Some((asked, error));
        world.run_first(6000);
        let pauses = pauses(&mut world);
        assert_eq!(pauses[..6], [0, 50, 100, 200, 400, 800], "{case}");
        assert!(pauses[6..].iter().all(|pause| *pause == KAFKA_RETRY_MAX_MS), "{case}");
        // Once it is taken it becomes a member, and the next refusal is a first one again.
        world.coordinator.refuses = None;
        world.run_first(6000 + KAFKA_RETRY_MAX_MS + SESSION);
        let all = world.counts.iter().sum::<u32>() as usize;
        assert_eq!(world.nodes[0].held.len(), all, "{case}");
        world.coordinator.refuses = Some((asked, error));
        world.coordinator.seats.clear();
        world.run_first(world.now_ms + SESSION);
        let again = self::pauses(&mut world).into_iter().filter(|pause| *pause > 0);
        assert_eq!(again.take(3).collect::<Vec<_>>(), [50, 100, 200], "{case}");
    }
}

/// Milliseconds between refusals.
fn pauses(world: &mut World) -> Vec<u64> {
    let refused_ms = std::mem::take(&mut world.coordinator.refused_ms);
    refused_ms.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_partition_never_has_two_members_and_in_the_end_one(seed in any::<u64>()) {
        for assignor in Assignor::ALL {
            run(seed, assignor);
        }
    }
}
