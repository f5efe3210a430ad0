//! The consumer against a real broker: members on threads of their own, killed and joining.
//!
//! **Runs on: any.** Runs only where `TRINE_KAFKA` names a broker (`host:port`); another client writes
//! what is read. With `TRINE_KAFKA_MEMBER` (a Python with confluent-kafka) a foreign member joins too;
//! `TRINE_KAFKA_RESTART` is a command that kills a broker and brings one back, of a cluster in which
//! topics have `TRINE_KAFKA_REPLICAS`. Older versions and errors of coordinators are those of the
//! program that `TRINE_KFAKE` names, from `tests/services/kfake`.

#[path = "kafka/foreign.rs"]
mod foreign;
mod kafka;

use foreign::Foreign;
use kafka::kfake::{self, Kfake};
use kafka::{
    PARTITIONS, PATIENCE, broker, create_topic, create_topic_named, delete_topic, options, runtime,
    unique,
};
use rskafka::chrono::DateTime;
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, UnknownTopicHandling};
use rskafka::record::Record;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use trine_core::kafka::client::Client;
use trine_core::kafka::consumer::{self, Assignor, Consumer, Event, Protocol, Start};
use trine_core::kafka::lag::group_lag;
use trine_core::kafka::producer;
use trine_core::rt;
use trine_proto::kafka::record::Body;

const FETCH_BYTES: usize = 256 << 10;
const SESSION_MS: u32 = 3000;

const RUN: u8 = 0;
const LEAVE: u8 = 1;
const KILL: u8 = 2;
/// Wants no more records until it runs again.
const HOLD: u8 = 3;

/// What all members of a group have seen.
#[derive(Default)]
struct Seen {
    /// How often each record came, by partition and offset.
    records: HashMap<(u32, i64), u32>,
    /// How often each token came.
    tokens: HashMap<u64, u32>,
    /// The highest offset that a member was told to be committed.
    committed: BTreeMap<u32, i64>,
    /// Which partition a member has as far as it knows, and where it goes on. One that was too
    /// slow for its session may have what is another's by now, until it is told.
    assigned: BTreeMap<(u32, usize), i64>,
    /// Who was given each partition last, and where it began.
    owners: BTreeMap<u32, (usize, i64)>,
    /// Offsets that were not there any more.
    out_of_range: u32,
    /// Partitions that another member had before they were given up.
    lost: u32,
    /// Whether offsets are missing, as where transactions end.
    has_gaps: bool,
    failures: Vec<String>,
    cpu: Duration,
}

impl Seen {
    fn take_in(&mut self, member: usize, event: &Event) {
        match event {
            Event::Assigned { partition, next_offset, .. } => {
                let committed = self.committed.get(partition).copied().unwrap_or(0);
                assert!(*next_offset >= committed, "what was committed is not read again");
                self.assigned.insert((*partition, member), *next_offset);
                self.owners.insert(*partition, (member, *next_offset));
            }
            Event::Records { partition, records, next_offset, .. } => {
                let place = self.assigned.get(&(*partition, member));
                let mut next = *place.unwrap_or_else(|| panic!("{member} has no {partition}"));
                for record in records {
                    let is_next = record.offset == next;
                    assert!(is_next || (self.has_gaps && record.offset > next), "in order");
                    next = record.offset + 1;
                    let value = Body::parse(&record.body).unwrap().value().unwrap();
                    let token = std::str::from_utf8(&value[..20]).unwrap().parse().unwrap();
                    *self.tokens.entry(token).or_default() += 1;
                    *self.records.entry((*partition, record.offset)).or_default() += 1;
                }
                self.assigned.insert((*partition, member), *next_offset);
            }
            Event::NotCommitted { .. } => {}
            Event::Committed { partition, next_offset, .. } => {
                let committed = self.committed.entry(*partition).or_default();
                match self.owners.get(partition) {
                    // Who lost it may be told late of what it had committed while it had it.
                    Some((owner, began)) if *owner != member => {
                        assert!(next_offset <= began, "{member} commits what is {owner}'s");
                    }
                    _ => assert!(*committed <= *next_offset, "a commit went back"),
                }
                *committed = (*committed).max(*next_offset);
            }
            Event::Revoke { .. } => {}
            Event::Lost { partition, .. } => {
                println!("member {member} has lost {partition}");
                self.lost += 1;
                self.assigned.remove(&(*partition, member));
            }
            Event::OutOfRange { partition, first, .. } => {
                self.out_of_range += 1;
                self.committed.remove(partition);
                self.assigned.insert((*partition, member), *first);
            }
            Event::Failed { text } => self.failures.push(text.clone()),
        }
    }
}

/// What a test wants otherwise.
type Change = fn(&mut consumer::Options);

#[derive(Clone)]
struct Spec {
    broker: SocketAddr,
    group: String,
    topic: String,
    options: Change,
    /// A commit after so many answers to fetches.
    commit_every: u32,
    /// Only counts, so that what is measured is the consumer.
    only_counts: bool,
}

struct Member {
    command: Arc<AtomicU8>,
    thread: JoinHandle<()>,
}

impl Member {
    fn start(spec: &Spec, number: usize, seen: &Arc<Mutex<Seen>>) -> Self {
        let command = Arc::new(AtomicU8::new(RUN));
        let (spec, seen, order) = (spec.clone(), seen.clone(), command.clone());
        let thread = std::thread::spawn(move || run(&spec, number, &seen, &order));
        Self { command, thread }
    }

    fn order(&self, command: u8) {
        self.command.store(command, Ordering::SeqCst);
    }

    fn end(self, how: u8) {
        self.order(how);
        let deadline = Instant::now() + PATIENCE;
        while !self.thread.is_finished() {
            assert!(Instant::now() < deadline, "the member ends");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.thread.join().expect("the member ended well");
    }
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn start(spec: &Spec, number: usize) -> (Rc<Client>, Rc<Consumer>) {
    let options = options(spec.broker, number, producer::Options::default());
    let client = Client::start(options);
    let unix = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let mut options = consumer::Options {
        group: spec.group.as_str().into(),
        topics: vec![spec.topic.as_str().into()],
        protocol: Protocol::Classic,
        assignor: Assignor::CooperativeSticky,
        start: Start::Earliest,
        instance: None,
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: 20_000,
        read_committed: true,
        started_unix_ms: unix.as_millis() as i64,
    };
    (spec.options)(&mut options);
    let consumer = Consumer::start(&client, options);
    (client, consumer)
}

type Began = Rc<RefCell<Option<(Rc<Client>, Rc<Consumer>)>>>;

/// Wants more of what was read, unless it is to hold.
fn want(client: &Client, consumer: &Consumer, order: u8, read: &mut Vec<(u32, u32, i64)>) {
    if order == HOLD {
        // One that nobody has: what is known of topics is asked for again and again.
        client.topic("none");
        return;
    }
    for (topic, partition, next_offset) in read.drain(..) {
        consumer.fetch(topic, partition, next_offset, FETCH_BYTES);
    }
}

/// One member's shard.
fn run(spec: &Spec, number: usize, seen: &Mutex<Seen>, command: &AtomicU8) {
    let began = Began::default();
    let (place, of) = (began.clone(), spec.clone());
    let begin = move |_: &rt::Driver| {
        *place.borrow_mut() = Some(start(&of, number));
        rt::request_turn();
    };
    let mut events = Vec::new();
    let (mut answers, mut read) = (HashMap::new(), Vec::new());
    let (mut before, mut is_leaving, mut count) = (None, false, 0u64);
    rt::run(rt::Preference::from_environment(), begin, |turn| {
        while turn.next_sent().is_some() {}
        let began = began.borrow();
        let Some((client, consumer)) = &*began else { return };
        let order = command.load(Ordering::SeqCst);
        if order == KILL || (is_leaving && consumer.has_left()) {
            consumer.close();
            client.close();
            return rt::stop();
        }
        if order == LEAVE && !is_leaving {
            is_leaving = true;
            consumer.leave();
        }
        consumer.take_events(&mut events);
        if !spec.only_counts && !events.is_empty() {
            let mut seen = seen.lock().unwrap();
            events.iter().for_each(|event| seen.take_in(number, event));
        }
        for event in events.drain(..) {
            match event {
                Event::Assigned { topic, partition, next_offset } => {
                    consumer.fetch(topic, partition, next_offset, FETCH_BYTES);
                }
                Event::Records { topic, partition, records, next_offset, .. } => {
                    before.get_or_insert_with(cpu);
                    count += records.len() as u64;
                    let answers: &mut u32 = answers.entry(partition).or_default();
                    *answers += 1;
                    if answers.is_multiple_of(spec.commit_every) {
                        consumer.commit(topic, partition, next_offset);
                    }
                    read.push((topic, partition, next_offset));
                }
                Event::OutOfRange { topic, partition, first, .. } => {
                    consumer.fetch(topic, partition, first, FETCH_BYTES);
                }
                Event::Revoke { topic, partition } => {
                    let next = seen.lock().unwrap().assigned.remove(&(partition, number));
                    if let Some(next_offset) = next {
                        consumer.commit(topic, partition, next_offset);
                    }
                    consumer.released(topic, partition);
                }
                _ => {}
            }
        }
        want(client, consumer, order, &mut read);
        if spec.only_counts {
            let mut seen = seen.lock().unwrap();
            seen.tokens.insert(number as u64, count as u32);
            let now = cpu();
            seen.cpu = now - before.unwrap_or(now);
        }
        consumer.flush();
        client.flush();
    })
    .expect("a driver");
}

/// Waits until something is so.
fn until(what: &str, seen: &Mutex<Seen>, mut is_so: impl FnMut(&Seen) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let state = seen.lock().unwrap();
        if is_so(&state) {
            return;
        }
        let (tokens, assigned) = (state.tokens.len(), &state.assigned);
        assert!(
            Instant::now() < deadline,
            "not {what}: {tokens} tokens, {assigned:?}, {:?}",
            state.failures
        );
        drop(state);
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Writes the tokens, token by token to the partitions in turn.
fn produce(broker: SocketAddr, topic: &str, tokens: std::ops::Range<u64>, value_bytes: usize) {
    runtime().block_on(async {
        let client = ClientBuilder::new(vec![broker.to_string()]).build().await.unwrap();
        // A broker removes at once what is older than its retention.
        let unix = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let timestamp = DateTime::from_timestamp_millis(unix.as_millis() as i64).unwrap();
        for partition in 0..u64::from(PARTITIONS) {
            let retry = UnknownTopicHandling::Retry;
            let to = client.partition_client(topic, partition as i32, retry).await.unwrap();
            let own = tokens.clone().filter(|token| token % u64::from(PARTITIONS) == partition);
            let record = |token: u64| {
                let mut value = vec![b'.'; value_bytes];
                value[..20].copy_from_slice(format!("{token:020}").as_bytes());
                Record { key: None, value: Some(value), headers: BTreeMap::new(), timestamp }
            };
            let records: Vec<_> = own.map(record).collect();
            for records in records.chunks(500) {
                let compression = Compression::NoCompression;
                to.produce(records.to_vec(), compression).await.unwrap();
            }
        }
    });
}

fn spec(broker: SocketAddr, what: &str, options: Change) -> Spec {
    let (topic, group) = (create_topic(broker, what), unique("group"));
    Spec { broker, group, topic, options, commit_every: 3, only_counts: false }
}

/// Members that read what is in memory.
fn spec_on(kfake: &Kfake, options: Change) -> Spec {
    let (broker, group, topic) = (kfake.address, unique("group"), kfake::TOPIC.to_owned());
    Spec { broker, group, topic, options, commit_every: 3, only_counts: false }
}

/// How many partitions each member has; nothing while two have the same one.
fn owners(seen: &Seen) -> BTreeMap<usize, usize> {
    let mut owners = BTreeMap::new();
    let partitions: BTreeSet<_> = seen.assigned.keys().map(|(partition, _)| partition).collect();
    if partitions.len() == seen.assigned.len() {
        seen.assigned.keys().for_each(|(_, owner)| *owners.entry(*owner).or_default() += 1);
    }
    owners
}

/// 100,000 records, three members, one killed, one joining.
fn survives(broker: SocketAddr, options: Change) {
    let spec = spec(broker, "survive", options);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut members: Vec<_> =
        (0..3).map(|number| Member::start(&spec, number, &seen)).map(Some).collect();
    until("all are assigned", &seen, |seen| seen.assigned.len() == 16 && owners(seen).len() == 3);
    let (address, topic) = (spec.broker, spec.topic.clone());
    let writer = std::thread::spawn(move || produce(address, &topic, 0..40_000, 100));
    until("half is read", &seen, |seen| seen.tokens.len() > 10_000);
    members[1].take().unwrap().end(KILL);
    seen.lock().unwrap().assigned.retain(|(_, owner), _| *owner != 1);
    writer.join().unwrap();
    until("the dead one's part is read", &seen, |seen| seen.tokens.len() == 40_000);
    members.push(Some(Member::start(&spec, 3, &seen)));
    let (address, topic) = (spec.broker, spec.topic.clone());
    let writer = std::thread::spawn(move || produce(address, &topic, 40_000..100_000, 100));
    until("the new one has its part", &seen, |seen| {
        seen.assigned.len() == 16 && owners(seen) == BTreeMap::from([(0, 5), (2, 5), (3, 6)])
            || owners(seen).values().all(|count| *count >= 5) && owners(seen).len() == 3
    });
    writer.join().unwrap();
    until("everything is read", &seen, |seen| seen.tokens.len() == 100_000);
    members.into_iter().flatten().for_each(|member| member.end(LEAVE));
    // What the last members committed is where the next one goes on.
    let last = Member::start(&spec, 9, &seen);
    until("the last one has all", &seen, |seen| owners(seen) == BTreeMap::from([(9, 16)]));
    last.end(LEAVE);
    let seen = seen.lock().unwrap();
    let ends: i64 = seen.committed.values().sum();
    let twice = seen.records.values().filter(|count| **count > 1).count();
    println!("100000 records read, {twice} twice, failures: {:?}", seen.failures);
    assert_eq!(seen.records.len(), 100_000);
    assert_eq!(ends, 100_000, "everything is committed at the end");
}

#[test]
fn older_brokers_are_spoken_to_by_their_versions() {
    let classic = kfake::OLDER.map(|version| (version, Protocol::Classic));
    // The last of these knows only an early form of the protocol, which nobody speaks any more.
    let falls_back = ["2.8", "3.5", "3.9"].map(|version| (version, Protocol::Consumer));
    for (version, protocol) in classic.into_iter().chain(falls_back) {
        let Some(mut kfake) = Kfake::start(version, PARTITIONS) else { return };
        println!("{version}, {protocol:?}");
        let spec = match protocol {
            Protocol::Classic => spec_on(&kfake, |_| {}),
            Protocol::Consumer => spec_on(&kfake, |options| options.protocol = Protocol::Consumer),
        };
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (first, second) = (Member::start(&spec, 0, &seen), Member::start(&spec, 1, &seen));
        until("both have a part", &seen, |seen| owners(seen) == BTreeMap::from([(0, 8), (1, 8)]));
        kfake.write(0..3_200);
        until("all is read", &seen, |seen| seen.tokens.len() == 3_200);
        second.end(LEAVE);
        until("one has all", &seen, |seen| owners(seen) == BTreeMap::from([(0, 16)]));
        kfake.write(3_200..6_400);
        until("all is read", &seen, |seen| seen.tokens.len() == 6_400);
        first.end(LEAVE);
        let committed: i64 = seen.lock().unwrap().committed.values().sum();
        assert_eq!(committed, 6_400, "{version}, {protocol:?}");
    }
}

/// Who asks a coordinator of the classic protocol.
const CLASSIC: [&str; 5] = ["OffsetCommit", "Heartbeat", "JoinGroup", "SyncGroup", "OffsetFetch"];

/// What a coordinator says that has moved, is not there yet, or has another view of the group.
const OF_CLASSIC: [&str; 7] = [
    "NOT_COORDINATOR",
    "COORDINATOR_LOAD_IN_PROGRESS",
    "COORDINATOR_NOT_AVAILABLE",
    "ILLEGAL_GENERATION",
    "UNKNOWN_MEMBER_ID",
    "REBALANCE_IN_PROGRESS",
    // The broker answers an OffsetCommit so that it has carried out.
    "REQUEST_TIMED_OUT",
];

/// What is committed now is nowhere behind what was committed before.
fn advance(commits: &mut BTreeMap<u32, i64>, now: BTreeMap<u32, i64>) {
    for (partition, before) in &*commits {
        let now = now.get(partition);
        assert!(now >= Some(before), "partition {partition}: {before} and then {now:?}");
    }
    *commits = now;
}

/// Each of the APIs fails three times in a row with each of the errors, each error on a broker of its
/// own, since it is waiting for sessions to end that takes the time.
fn withstands(apis: &[&str], errors: &[&str], options: Change) {
    std::thread::scope(|scope| {
        for error in errors {
            let Some(kfake) = Kfake::start("", PARTITIONS) else { return };
            scope.spawn(move || withstands_one(kfake, apis, error, options));
        }
    });
}

/// One member stays, others join and leave, so that each of the APIs is asked.
fn withstands_one(mut kfake: Kfake, apis: &[&str], error: &str, options: Change) {
    let spec = Spec { commit_every: 1, ..spec_on(&kfake, options) };
    let seen = Arc::new(Mutex::new(Seen::default()));
    let stays = Member::start(&spec, 0, &seen);
    until("one has all", &seen, |seen| owners(seen) == BTreeMap::from([(0, 16)]));
    let (mut commits, mut end) = (kfake.commits(&spec.group), 0);
    for (number, api) in (1..).zip(apis) {
        println!("{api}: {error}");
        assert_eq!(kfake.ask(&format!("fault {api} {error} 1 3")), "ok");
        let joins = Member::start(&spec, number, &seen);
        kfake.write(end..end + 320);
        end += 320;
        let mut is_committed = |kfake: &mut Kfake| {
            advance(&mut commits, kfake.commits(&spec.group));
            commits.values().sum::<i64>() == end as i64
        };
        until(&format!("{api} has failed three times, {error}"), &seen, |_| {
            is_committed(&mut kfake);
            kfake.ask("hits") == "3"
        });
        until(&format!("{api} failed, and all is well, {error}"), &seen, |seen| {
            let is_shared = owners(seen) == BTreeMap::from([(0, 8), (number, 8)]);
            is_committed(&mut kfake) && is_shared && seen.tokens.len() as u64 == end
        });
        joins.end(LEAVE);
        until("one has all again", &seen, |seen| {
            is_committed(&mut kfake);
            owners(seen) == BTreeMap::from([(0, 16)])
        });
    }
    stays.end(LEAVE);
    advance(&mut commits, kfake.commits(&spec.group));
    let seen = seen.lock().unwrap();
    let each = end as i64 / i64::from(PARTITIONS);
    assert!(commits.len() == 16 && commits.values().all(|at| *at == each), "{commits:?}");
    assert_eq!(seen.committed, commits, "members know what is committed, {error}");
    assert_eq!(seen.failures, [""; 0], "what passes is no alarm, {error}");
}

#[test]
fn what_coordinators_say_to_a_cooperative_group_loses_nothing() {
    withstands(&CLASSIC, &OF_CLASSIC, |_| {});
}

#[test]
fn what_coordinators_say_to_an_eager_group_loses_nothing() {
    withstands(&CLASSIC, &OF_CLASSIC, |options| options.assignor = Assignor::Range);
}

#[test]
fn what_coordinators_say_to_a_group_that_they_lead_loses_nothing() {
    let options: Change = |options| options.protocol = Protocol::Consumer;
    let moves = ["NOT_COORDINATOR", "COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE"];
    let all = ["OffsetCommit", "ConsumerGroupHeartbeat", "OffsetFetch"];
    withstands(&all, &moves, options);
    withstands(&all, &["UNKNOWN_MEMBER_ID", "REQUEST_TIMED_OUT"], options);
    withstands(&["ConsumerGroupHeartbeat"], &["FENCED_MEMBER_EPOCH"], options);
    withstands(&["OffsetCommit", "OffsetFetch"], &["STALE_MEMBER_EPOCH"], options);
}

/// As those to a topic that was deleted are.
#[test]
fn commits_that_are_refused_keep_nobody_from_giving_up_partitions() {
    let all: [Change; 2] = [|_| {}, |options| options.protocol = Protocol::Consumer];
    for options in all {
        let Some(mut kfake) = Kfake::start("", PARTITIONS) else { return };
        let spec = Spec { commit_every: 1, ..spec_on(&kfake, options) };
        let seen = Arc::new(Mutex::new(Seen::default()));
        let member = Member::start(&spec, 0, &seen);
        until("one has all", &seen, |seen| owners(seen) == BTreeMap::from([(0, 16)]));
        let answer = kfake.ask("fault OffsetCommit UNKNOWN_TOPIC_OR_PARTITION 1 1000000");
        assert_eq!(answer, "ok");
        kfake.write(0..320);
        until("all is read", &seen, |seen| seen.tokens.len() == 320);
        until("commits are refused", &seen, |seen| !seen.failures.is_empty());
        member.end(LEAVE);
        assert_eq!(seen.lock().unwrap().lost, 0);
    }
}

#[test]
fn a_cooperative_group_loses_nothing_when_members_die_and_join() {
    let Some(broker) = broker() else { return };
    survives(broker, |_| {});
}

#[test]
fn an_eager_group_loses_nothing_when_members_die_and_join() {
    let Some(broker) = broker() else { return };
    survives(broker, |options| options.assignor = Assignor::Range);
    survives(broker, |options| options.assignor = Assignor::Sticky);
}

#[test]
fn a_group_led_by_the_broker_loses_nothing_when_members_die_and_join() {
    let Some(broker) = broker() else { return };
    survives(broker, |options| options.protocol = Protocol::Consumer);
}

#[test]
fn the_latest_start_is_committed_and_stays_the_start() {
    let Some(broker) = broker() else { return };
    let spec = spec(broker, "latest", |options| options.start = Start::Latest);
    produce(broker, &spec.topic, 0..1600, 100);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let member = Member::start(&spec, 0, &seen);
    until("all are assigned", &seen, |seen| seen.assigned.len() == 16);
    member.end(KILL);
    seen.lock().unwrap().assigned.clear();
    produce(broker, &spec.topic, 1600..3200, 100);
    let member = Member::start(&spec, 1, &seen);
    until("what came meanwhile is read", &seen, |seen| seen.tokens.len() == 1600);
    member.end(LEAVE);
    assert!(seen.lock().unwrap().tokens.keys().all(|token| *token >= 1600));
}

#[test]
fn a_static_member_comes_back_to_what_it_had() {
    let Some(broker) = broker() else { return };
    // It is back before its session ends, however slow the machine is.
    let patient: Change = |options| options.session_timeout_ms = 30_000;
    let named: Change = |options| {
        (options.instance, options.session_timeout_ms) = (Some("desk-1".into()), 30_000);
    };
    let spec = spec(broker, "static", named);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let first = Member::start(&spec, 0, &seen);
    let other = Member::start(&Spec { options: patient, ..spec.clone() }, 1, &seen);
    until("both have a part", &seen, |seen| owners(seen) == BTreeMap::from([(0, 8), (1, 8)]));
    let before = held_by(&seen.lock().unwrap(), 0);
    first.end(LEAVE);
    let first = Member::start(&spec, 2, &seen);
    until("it is back", &seen, |seen| held_by(seen, 2).len() == 8);
    assert_eq!(held_by(&seen.lock().unwrap(), 2), before);
    first.end(KILL);
    other.end(LEAVE);
}

#[test]
fn a_broker_that_is_killed_and_comes_back_costs_nothing() {
    let Some(broker) = broker() else { return };
    let Ok(restart) = std::env::var("TRINE_KAFKA_RESTART") else {
        println!("SKIPPED: TRINE_KAFKA_RESTART has no command that kills the broker and starts it");
        return;
    };
    let all: [Change; 2] = [|_| {}, |options| options.protocol = Protocol::Consumer];
    for options in all {
        let spec = spec(broker, "restart", options);
        produce(broker, &spec.topic, 0..40_000, 100);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let members: Vec<_> = (0..2).map(|number| Member::start(&spec, number, &seen)).collect();
        until("some are read", &seen, |seen| seen.tokens.len() > 1_000);
        let status = Command::new("sh").args(["-c", &restart]).status();
        assert!(status.expect("a shell").success());
        until("a restart later the rest is read", &seen, |seen| seen.tokens.len() == 40_000);
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = std::panic::catch_unwind(|| {
            produce(broker, &spec.topic, 40_000..44_000, 100);
        }) {
            assert!(Instant::now() < deadline, "{error:?}");
        }
        until("and what comes then", &seen, |seen| seen.tokens.len() == 44_000);
        members.into_iter().for_each(|member| member.end(LEAVE));
        let seen = seen.lock().unwrap();
        println!("failures: {:?}", seen.failures);
        assert_eq!(seen.committed.values().sum::<i64>(), 44_000, "everything is committed");
    }
}

#[test]
fn a_foreign_member_shares_the_group_by_each_assignor() {
    let Some(broker) = broker() else { return };
    let Some(python) = foreign::python() else { return };
    let all: [(&str, Change); 3] = [
        ("range", |options| options.assignor = Assignor::Range),
        ("roundrobin", |options| options.assignor = Assignor::RoundRobin),
        ("cooperative-sticky", |_| {}),
    ];
    for (assignor, options) in all {
        // Each leads once: the first one of the group does.
        for foreign_first in [false, true] {
            shares(broker, &python, assignor, options, foreign_first);
        }
    }
}

fn shares(broker: SocketAddr, python: &str, assignor: &str, options: Change, foreign_first: bool) {
    let spec = spec(broker, "mixed", options);
    produce(broker, &spec.topic, 0..1600, 100);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let ours = (!foreign_first).then(|| Member::start(&spec, 0, &seen));
    if ours.is_some() {
        until("ours has all", &seen, |seen| seen.assigned.len() == 16);
    }
    let foreign = Foreign::join(python, broker, &spec.group, &spec.topic, assignor);
    if foreign_first {
        until("the foreign one has all", &seen, |_| foreign.held().len() == 16);
    }
    let ours = ours.unwrap_or_else(|| Member::start(&spec, 0, &seen));
    until("both have half", &seen, |seen| {
        let held = foreign.held();
        seen.assigned.len() == 8
            && held.len() == 8
            && held.iter().all(|partition| !seen.assigned.contains_key(&(*partition, 0)))
    });
    produce(broker, &spec.topic, 1600..3200, 100);
    until("both read", &seen, |seen| seen.tokens.len() as u64 + foreign.records() >= 3200);
    foreign.leave();
    until("ours has all again", &seen, |seen| seen.assigned.len() == 16);
    ours.end(LEAVE);
    println!("{assignor}, foreign first: {foreign_first}: shared");
}

fn held_by(seen: &Seen, number: usize) -> BTreeSet<u32> {
    let own = seen.assigned.keys().filter(|(_, owner)| *owner == number);
    own.map(|(partition, _)| *partition).collect()
}

/// By a sticky assignor a member keeps what it said it had, whoever of both leads and reads that.
#[test]
fn a_member_of_franz_go_and_ours_keep_what_they_say_they_had() {
    let all: [(&str, Change); 2] =
        [("sticky", |options| options.assignor = Assignor::Sticky), ("cooperative-sticky", |_| {})];
    for (assignor, options) in all {
        // The first one of the group leads.
        for foreign_first in [false, true] {
            println!("{assignor}, foreign first: {foreign_first}");
            keeps(assignor, options, foreign_first);
        }
    }
}

fn keeps(assignor: &str, options: Change, foreign_first: bool) {
    let Some(mut kfake) = Kfake::start("", PARTITIONS) else { return };
    let spec = spec_on(&kfake, options);
    kfake.write(0..1600);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let ours = (!foreign_first).then(|| Member::start(&spec, 0, &seen));
    if ours.is_some() {
        until("ours has all", &seen, |seen| seen.assigned.len() == 16);
    }
    kfake.join(assignor, &spec.group);
    if foreign_first {
        until("the foreign one has all", &seen, |_| kfake.held().1.len() == 16);
    }
    let ours = ours.unwrap_or_else(|| Member::start(&spec, 0, &seen));
    let mut had = [BTreeSet::new(), BTreeSet::new()];
    until("both have half", &seen, |seen| {
        had = [held_by(seen, 0), kfake.held().1];
        had[0].len() == 8 && had[1].len() == 8 && had[0].is_disjoint(&had[1])
    });
    let third = Member::start(&spec, 1, &seen);
    let mut have = Vec::new();
    until("each of three has a third", &seen, |seen| {
        have = vec![held_by(seen, 0), kfake.held().1, held_by(seen, 1)];
        let all: BTreeSet<u32> = have.iter().flatten().copied().collect();
        all.len() == 16 && have.iter().all(|have| (5..=6).contains(&have.len()))
    });
    assert!(have[0].is_subset(&had[0]), "{had:?}, then {have:?}");
    // An eager member of franz-go does not say what it had: it forgets that when it gives it up.
    let says_it = assignor.starts_with("cooperative");
    assert!(!says_it || have[1].is_subset(&had[1]), "{had:?}, then {have:?}");
    kfake.write(1600..3200);
    until("all is read", &seen, |seen| seen.tokens.len() as u64 + kfake.held().0 >= 3200);
    assert_eq!(kfake.ask("leave"), "ok");
    until("ours have half each", &seen, |seen| owners(seen) == BTreeMap::from([(0, 8), (1, 8)]));
    for (number, had) in [(0, &have[0]), (1, &have[2])] {
        assert!(held_by(&seen.lock().unwrap(), number).is_superset(had), "{number} had {had:?}");
    }
    ours.end(LEAVE);
    third.end(LEAVE);
}

#[test]
fn what_is_not_there_any_more_is_an_alarm_and_goes_on_at_the_earliest() {
    let Some(broker) = broker() else { return };
    let spec = spec(broker, "range", |_| {});
    produce(broker, &spec.topic, 0..1600, 100);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let member = Member::start(&spec, 0, &seen);
    until("all is read", &seen, |seen| seen.tokens.len() == 1600);
    member.end(LEAVE);
    produce(broker, &spec.topic, 1600..3200, 100);
    runtime().block_on(async {
        let client = ClientBuilder::new(vec![broker.to_string()]).build().await.unwrap();
        for partition in 0..PARTITIONS as i32 {
            let retry = UnknownTopicHandling::Retry;
            let of = client.partition_client(&spec.topic, partition, retry).await.unwrap();
            of.delete_records(150, 10_000).await.unwrap();
        }
    });
    let member = Member::start(&spec, 1, &seen);
    until("the rest is read", &seen, |seen| seen.tokens.len() == 1600 + 50 * 16);
    member.end(LEAVE);
    let seen = seen.lock().unwrap();
    assert_eq!((seen.out_of_range, seen.committed.len()), (PARTITIONS, 16));
    assert!(seen.committed.values().all(|committed| *committed == 200));
}

/// As many records as were read are no reason to go on behind them.
#[test]
fn a_topic_that_is_made_anew_is_read_from_its_beginning() {
    let Some(broker) = broker() else { return };
    let spec = spec(broker, "anew", |_| {});
    let seen = Arc::new(Mutex::new(Seen::default()));
    let member = Member::start(&spec, 0, &seen);
    until("all are assigned", &seen, |seen| seen.assigned.len() == 16);
    member.order(HOLD);
    produce(broker, &spec.topic, 0..1600, 100);
    until("all is read", &seen, |seen| seen.tokens.len() == 1600);
    delete_topic(broker, &spec.topic);
    create_topic_named(broker, &spec.topic);
    produce(broker, &spec.topic, 1600..3200, 100);
    member.order(RUN);
    until("all is read again", &seen, |seen| seen.tokens.len() == 3200);
    member.end(LEAVE);
    let seen = seen.lock().unwrap();
    assert_eq!((seen.out_of_range, seen.lost), (PARTITIONS, 0));
    assert!(seen.committed.len() == 16 && seen.committed.values().all(|at| *at == 100));
}

/// A broker that is asked by name answers so, and tells of the id only with its metadata.
#[test]
fn a_topic_that_is_made_anew_on_an_older_broker_is_known_by_its_next_record() {
    let Some(mut kfake) = Kfake::start("2.8", PARTITIONS) else { return };
    let spec = spec_on(&kfake, |_| {});
    let seen = Arc::new(Mutex::new(Seen::default()));
    let member = Member::start(&spec, 0, &seen);
    until("all are assigned", &seen, |seen| seen.assigned.len() == 16);
    member.order(HOLD);
    kfake.write(0..1600);
    until("all is read", &seen, |seen| seen.tokens.len() == 1600);
    delete_topic(kfake.address, &spec.topic);
    create_topic_named(kfake.address, &spec.topic);
    kfake.write(1600..3200);
    member.order(RUN);
    let mut end = 3200;
    until("it is known", &seen, |seen| {
        kfake.write(end..end + 16);
        end += 16;
        seen.out_of_range == PARTITIONS
    });
    until("all is read again", &seen, |seen| seen.tokens.len() as u64 == end);
    member.end(LEAVE);
}

/// Ten transactions of a hundred records each, of which every other one is aborted.
const TRANSACTIONS: &str = r"
import sys
from confluent_kafka import Producer
producer = Producer({'bootstrap.servers': sys.argv[1], 'transactional.id': sys.argv[2]})
producer.init_transactions()
for number in range(10):
    producer.begin_transaction()
    for token in range(100 * number, 100 * number + 100):
        producer.produce(sys.argv[2], value=f'{token:020}', partition=token % 16)
    producer.flush()
    producer.commit_transaction() if number % 2 else producer.abort_transaction()
";

#[test]
fn records_of_aborted_transactions_are_not_seen() {
    let Some(broker) = broker() else { return };
    let Some(python) = foreign::python() else { return };
    let spec = spec(broker, "aborted", |_| {});
    let arguments = ["-c", TRANSACTIONS, &broker.to_string(), &spec.topic];
    let status = Command::new(python).args(arguments).status();
    assert!(status.expect("the foreign producer").success());
    let seen = Arc::new(Mutex::new(Seen { has_gaps: true, ..Seen::default() }));
    let member = Member::start(&spec, 0, &seen);
    until("all is read", &seen, |seen| seen.tokens.len() >= 500);
    member.end(LEAVE);
    let seen = seen.lock().unwrap();
    assert!(seen.tokens.keys().all(|token| token / 100 % 2 == 1), "{:?}", seen.tokens.keys());
    assert_eq!((seen.tokens.len(), seen.records.len()), (500, 500));
}

#[test]
fn the_lag_of_a_group_is_seen_from_outside() {
    let Some(broker) = broker() else { return };
    let spec = spec(broker, "lag", |_| {});
    produce(broker, &spec.topic, 0..1600, 100);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let member = Member::start(&spec, 0, &seen);
    until("all is read", &seen, |seen| seen.tokens.len() == 1600);
    member.end(LEAVE);
    produce(broker, &spec.topic, 1600..4000, 100);
    let found = Rc::new(RefCell::new(Vec::new()));
    let (place, group) = (found.clone(), spec.group.clone());
    let begin = move |_: &rt::Driver| {
        let client = Client::start(options(broker, 0, producer::Options::default()));
        rt::spawn(async move {
            *place.borrow_mut() = group_lag(&client, &group).await.expect("it is known");
            assert!(group_lag(&client, "nobody").await.expect("it is known").is_empty());
            client.close();
            rt::stop();
        });
    };
    rt::run(rt::Preference::from_environment(), begin, |_| {}).expect("a driver");
    let found = found.borrow();
    assert_eq!(found.len(), PARTITIONS as usize);
    for (index, lag) in found.iter().enumerate() {
        assert_eq!((&*lag.topic, lag.partition), (&*spec.topic, index as i32));
        assert_eq!((lag.committed, lag.end_offset), (100, 250));
    }
}

/// No assertion: what a record costs the shard, for the eye.
#[test]
fn cpu_for_each_record() {
    let Some(broker) = broker() else { return };
    let records = if cfg!(debug_assertions) { 50_000 } else { 1_000_000 };
    let mut spec = spec(broker, "cost", |_| {});
    (spec.only_counts, spec.commit_every) = (true, 1);
    produce(broker, &spec.topic, 0..records, 128);
    for round in 0..3 {
        spec.group = unique("group");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let began = Instant::now();
        let member = Member::start(&spec, 0, &seen);
        until("all is read", &seen, |seen| seen.tokens.get(&0) == Some(&(records as u32)));
        let elapsed = began.elapsed();
        member.end(LEAVE);
        let cpu = seen.lock().unwrap().cpu;
        println!(
            "round {round}: {records} records of 128 B: {} ns of CPU each, {:.0} records/s",
            cpu.as_nanos() / u128::from(records),
            records as f64 / elapsed.as_secs_f64(),
        );
    }
}
