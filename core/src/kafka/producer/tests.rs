//! The producer against simulated brokers: nothing acknowledged is missing, order is kept, nothing is
//! there twice.
//!
//! **Runs on: any.**

use super::simulation::{Cluster, body_of, token_of};
use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

/// Milliseconds until a record is given up.
const PATIENCE: u64 = 5_000;

fn options() -> Options {
    Options { batch_bytes: 400, delivery_timeout_ms: PATIENCE, ..Options::default() }
}

/// A producer with its cluster, what it was given and what became of it.
struct World {
    cluster: Cluster,
    producer: Producer,
    partitions: Vec<PartitionId>,
    /// The partition of each token; tokens count from 0.
    given: Vec<usize>,
    outcomes: Vec<Outcome>,
}

impl World {
    fn new(partitions: usize, options: Options) -> Self {
        let mut producer = Producer::new(options);
        let of = |index| producer.partition(0, index as i32);
        let partitions: Vec<_> = (0..partitions).map(of).collect();
        let cluster = Cluster::new(partitions.len(), 2);
        let (given, outcomes) = (Vec::new(), Vec::new());
        let mut world = Self { cluster, producer, partitions, given, outcomes };
        world.cluster.refresh(&mut world.producer);
        world.cluster.serve(&mut world.producer);
        world
    }

    fn append(&mut self, partition: usize, bytes: usize) -> Result<Token, Refused> {
        let token = self.given.len() as Token;
        let (id, now_ms) = (self.partitions[partition], self.cluster.now_ms);
        self.producer.append(token, id, 77, &body_of(token, bytes), now_ms)?;
        self.given.push(partition);
        Ok(token)
    }

    fn send(&mut self) -> usize {
        while self.cluster.serve(&mut self.producer) {}
        self.cluster.send(&mut self.producer)
    }

    /// Everything that waits on one broker's connection is handled and answered.
    fn exchange(&mut self, broker: usize) {
        while self.cluster.handle(broker) {}
        while self.cluster.answer(broker, &mut self.producer) {}
    }

    fn settle(&mut self) {
        self.cluster.settle(&mut self.producer);
        self.producer.take_outcomes(&mut self.outcomes);
    }

    fn log(&self, partition: usize) -> Vec<Token> {
        self.cluster.logs[partition].records.iter().map(|record| record.token).collect()
    }

    fn failed(&self) -> Vec<(Token, Failure, bool)> {
        let of = |outcome: &Outcome| match *outcome {
            Outcome::Failed { token, why, possibly_written } => {
                Some((token, why, possibly_written))
            }
            Outcome::Acknowledged { .. } => None,
        };
        self.outcomes.iter().filter_map(of).collect()
    }

    /// What must hold whatever happened, with one exception that a caller names.
    fn check(&self) {
        assert_eq!(self.producer.buffered(), (0, 0));
        let mut last: HashMap<usize, Token> = HashMap::new();
        let mut ended = vec![false; self.given.len()];
        for outcome in &self.outcomes {
            let (Outcome::Acknowledged { token, .. } | Outcome::Failed { token, .. }) = *outcome;
            let partition = self.given[token as usize];
            assert!(!std::mem::replace(&mut ended[token as usize], true), "{token} ended twice");
            let before = last.insert(partition, token);
            assert!(before.is_none_or(|before| before < token), "outcomes in order");
            let records = &self.cluster.logs[partition].records;
            let is_there = records.iter().any(|record| record.token == token);
            match *outcome {
                Outcome::Acknowledged { offset: Some(offset), .. } => {
                    assert_eq!(records[offset as usize].token, token, "where it was said to be");
                }
                Outcome::Acknowledged { offset: None, .. } => assert!(is_there, "{token} is lost"),
                Outcome::Failed { possibly_written, .. } => {
                    assert!(possibly_written || !is_there, "{token} is there all the same");
                }
            }
        }
        assert!(ended.iter().all(|ended| *ended), "a record without an outcome");
        for (partition, log) in self.cluster.logs.iter().enumerate() {
            let records = &log.records;
            let is_sorted =
                records.is_sorted_by(|a, b| (a.producer, a.token) < (b.producer, b.token));
            assert!(is_sorted, "out of order or twice: {records:?}");
            // Only after a record was given up that may be in the log can a late request of a broken
            // connection come between the refusal of what follows it and the next epoch.
            let given_up = self
                .failed()
                .iter()
                .any(|failed| failed.2 && self.given[failed.0 as usize] == partition);
            assert!(given_up || records.is_sorted_by(|a, b| a.token < b.token), "{records:?}");
        }
    }
}

#[test]
fn records_of_a_turn_share_a_request_and_are_acknowledged_in_order() {
    let mut world = World::new(4, options());
    for n in 0..8 {
        world.append(n % 4, 10).unwrap();
    }
    assert_eq!(world.send(), 2, "one request for each broker");
    world.settle();
    assert_eq!(world.log(0), [0, 4]);
    assert_eq!(world.producer.totals().batches, 4);
    world.check();
    assert!(world.failed().is_empty());
}

#[test]
fn the_first_batch_goes_alone_then_five_then_what_comes_gathers() {
    let mut world = World::new(1, Options { gather_requests: 2, ..options() });
    world.append(0, 10).unwrap();
    assert_eq!(world.send(), 1);
    world.append(0, 10).unwrap();
    assert_eq!(world.send(), 0, "the broker has not seen this producer yet");
    world.exchange(0);
    assert_eq!(world.send(), 1);
    world.append(0, 10).unwrap();
    assert_eq!(world.send(), 1);
    world.append(0, 10).unwrap();
    world.append(0, 10).unwrap();
    assert_eq!(world.send(), 0, "two requests wait for an answer: gather");
    for _ in 0..4 {
        world.append(0, 390).unwrap();
    }
    assert_eq!(world.send(), 3, "complete batches go, up to five");
    world.settle();
    world.check();
}

#[test]
fn lingering_records_leave_when_the_oldest_is_due_or_the_batch_is_complete() {
    let mut world = World::new(3, Options { linger_ms: 5, ..options() });
    world.append(0, 10).unwrap();
    assert_eq!(world.send(), 0);
    assert_eq!(world.producer.deadline_ms(), Some(world.cluster.now_ms + 5));
    world.cluster.now_ms += 4;
    world.append(2, 10).unwrap();
    assert_eq!(world.send(), 0);
    world.cluster.now_ms += 1;
    assert_eq!(world.send(), 1, "both partitions of broker 0 together");
    assert_eq!(world.producer.totals().batches, 2);
    world.append(1, 500).unwrap();
    assert_eq!(world.send(), 1, "no waiting for a complete batch");
    world.settle();
    world.check();
}

#[test]
fn too_much_is_refused() {
    let options = Options { buffer_bytes: 1000, buffer_records: 5, ..options() };
    let mut world = World::new(1, options);
    let partition = world.partitions[0];
    world.producer.set_message_bytes(partition, 600 + BATCH_OVERHEAD);
    assert_eq!(world.append(0, 700), Err(Refused::TooLarge(600)));
    world.append(0, 550).unwrap();
    assert_eq!(world.append(0, 550), Err(Refused::Full));
    for _ in 0..4 {
        world.append(0, 10).unwrap();
    }
    assert_eq!(world.append(0, 10), Err(Refused::Full));
    world.settle();
    world.append(0, 550).unwrap();
    world.settle();
    world.check();
}

/// Every produce error at the head and not at the head of five batches in flight.
#[test]
fn errors_at_every_place_of_five_in_flight_keep_order_and_lose_nothing() {
    let written = [ErrorCode::NONE, ErrorCode::DUPLICATE_SEQUENCE_NUMBER];
    for code in ErrorCode::ALL.iter().copied().filter(|code| !written.contains(code)) {
        for place in 0..5 {
            for is_after in [false, true] {
                let doubt = matches!(
                    verdict(code),
                    Verdict::Retry { doubt: true, .. } | Verdict::Fatal { doubt: true }
                );
                if is_after && !doubt {
                    continue; // A broker does not say so of what it has appended.
                }
                let mut world = World::new(1, options());
                world.append(0, 390).unwrap();
                world.settle();
                for _ in 0..9 {
                    world.append(0, 390).unwrap();
                }
                assert_eq!(world.send(), 5);
                let mut codes = VecDeque::from(vec![ErrorCode::NONE; place]);
                codes.push_back(code);
                *(if is_after { &mut world.cluster.after } else { &mut world.cluster.before }) =
                    codes;
                world.settle();
                world.check();
                let lost = world.failed().len();
                assert!(lost <= 1, "{code} at {place}: {:?}", world.failed());
                if code.is_retriable() || code == ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER {
                    assert_eq!(lost, 0, "{code} at {place}");
                }
            }
        }
    }
}

#[test]
fn errors_for_good_are_tried_again_where_records_may_be_taken_over() {
    for code in [ErrorCode::TOPIC_AUTHORIZATION_FAILED, ErrorCode::UNKNOWN_SERVER_ERROR] {
        for (retries_all, lost) in [(false, 1), (true, 0)] {
            let mut world = World::new(1, Options { retries_all, ..options() });
            world.append(0, 10).unwrap();
            world.cluster.before.push_back(code);
            world.settle();
            world.check();
            assert_eq!(world.failed().len(), lost, "{code}");
        }
    }
    // What is wrong with the record itself is wrong the next time, too.
    let mut world = World::new(1, Options { retries_all: true, ..options() });
    world.append(0, 10).unwrap();
    world.cluster.before.push_back(ErrorCode::INVALID_RECORD);
    world.settle();
    assert_eq!(world.failed().len(), 1);
}

#[test]
fn a_broker_that_is_late_serves_and_one_that_is_gone_or_refuses_does_not() {
    let mut world = World::new(1, Options { retries_all: true, ..options() });
    let partition = world.partitions[0];
    world.append(0, 10).unwrap();
    assert!(world.producer.is_served(partition), "its turn will come");
    assert!(!world.producer.is_numbered(partition), "no broker knows it");
    assert_eq!(world.send(), 1);
    assert!(world.producer.is_served(partition) && world.producer.is_numbered(partition));
    let now_ms = world.cluster.now_ms;
    world.producer.disconnected(0, now_ms);
    world.producer.unreachable(0);
    assert!(!world.producer.is_served(partition));

    let mut world = World::new(1, Options { retries_all: true, ..options() });
    let partition = world.partitions[0];
    world.append(0, 10).unwrap();
    world.cluster.before.push_back(ErrorCode::TOPIC_AUTHORIZATION_FAILED);
    assert_eq!(world.send(), 1);
    world.exchange(0);
    assert!(!world.producer.is_served(partition));

    // What may be written is sent again as it was: given anew it would be written twice.
    let mut world = World::new(1, options());
    let partition = world.partitions[0];
    world.append(0, 10).unwrap();
    world.cluster.after.push_back(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND);
    assert_eq!(world.send(), 1);
    world.exchange(0);
    assert!(world.producer.is_served(partition));
    world.settle();
    world.check();
}

#[test]
fn duplicate_sequence_is_success() {
    let mut world = World::new(1, options());
    world.append(0, 10).unwrap();
    world.cluster.after.push_back(ErrorCode::DUPLICATE_SEQUENCE_NUMBER);
    world.settle();
    assert_eq!(world.outcomes, [Outcome::Acknowledged { token: 0, offset: None }]);
    world.check();
}

#[test]
fn a_retry_sends_the_same_bytes_again() {
    let mut world = World::new(1, options());
    world.append(0, 10).unwrap();
    let now_ms = world.cluster.now_ms;
    world.cluster.serve(&mut world.producer);
    let first = world.producer.next_request(now_ms).unwrap();
    world.append(0, 10).unwrap();
    world.producer.disconnected(0, now_ms);
    assert!(world.producer.next_request(now_ms).is_none());
    world.producer.connected(0);
    let again = world.producer.next_request(now_ms).unwrap();
    assert_eq!(first.batches[0].bytes, again.batches[0].bytes);
    assert!(world.producer.next_request(now_ms).is_none(), "one at a time after an error");
}

#[test]
fn a_lost_response_makes_no_duplicate() {
    let mut world = World::new(1, options());
    world.append(0, 390).unwrap();
    world.settle();
    for _ in 0..5 {
        world.append(0, 390).unwrap();
    }
    assert_eq!(world.send(), 5);
    for _ in 0..3 {
        assert!(world.cluster.handle(0));
    }
    world.cluster.break_connection(0, true, &mut world.producer);
    world.settle();
    world.check();
    assert_eq!(world.log(0), [0, 1, 2, 3, 4, 5]);
}

/// The broker remembers five batches, so a sixth must not be written while the first is in doubt.
#[test]
fn a_batch_in_doubt_stays_among_the_last_five() {
    let mut world = World::new(1, options());
    world.append(0, 390).unwrap();
    world.settle();
    for _ in 0..8 {
        world.append(0, 390).unwrap();
    }
    assert_eq!(world.send(), 5);
    world.cluster.after.push_back(ErrorCode::REQUEST_TIMED_OUT);
    world.exchange(0);
    world.cluster.now_ms = world.producer.deadline_ms().unwrap();
    world.cluster.before.push_back(ErrorCode::NOT_ENOUGH_REPLICAS);
    assert_eq!(world.send(), 1);
    world.settle();
    world.check();
    assert_eq!(world.log(0), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_broker_that_leads_nothing_any_more_is_not_wanted() {
    let mut producer = Producer::new(options());
    let partition = producer.partition(0, 0);
    producer.set_identity(Identity { id: 1, epoch: 0 }, 0);
    producer.set_leader(partition, Some(7), 0);
    producer.unreachable(7);
    // A complete batch, and one that gathers.
    for token in 0..2 {
        producer.append(token, partition, 77, &body_of(token, 300), 0).unwrap();
    }
    assert_eq!(producer.wanted_brokers().collect::<Vec<_>>(), [7]);
    producer.set_leader(partition, Some(8), 1);
    assert_eq!(producer.wanted_brokers().collect::<Vec<_>>(), [8]);
    // Who leads again is tried before the spool takes what is for it.
    producer.set_leader(partition, Some(7), 2);
    producer.take_over(partition);
    producer.append(2, partition, 77, &body_of(2, 20), 2).unwrap();
    let mut overdue = Vec::new();
    producer.overdue(1, &mut overdue);
    assert!(overdue.is_empty(), "{overdue:?}");
    producer.unreachable(7);
    producer.overdue(1, &mut overdue);
    assert_eq!(overdue, [partition]);
}

#[test]
fn there_is_no_end_of_brokers() {
    let mut producer = Producer::new(options());
    let partition = producer.partition(0, 0);
    producer.append(0, partition, 77, &body_of(0, 20), 0).unwrap();
    let last = KAFKA_BROKERS as i32;
    for broker in 0..=last {
        producer.set_leader(partition, Some(broker), 0);
        let wanted: Vec<_> = producer.wanted_brokers().collect();
        assert_eq!(wanted, if broker < last { vec![broker] } else { vec![] });
    }
    assert!(producer.take_metadata_wish(), "it has no leader that can be asked");
    producer.set_leader(partition, Some(last - 1), 0);
    assert!(producer.wanted_brokers().eq([last - 1]));
}

#[test]
fn a_moved_leader_gets_the_rest_once_the_old_one_has_answered() {
    let mut world = World::new(1, options());
    world.append(0, 390).unwrap();
    world.settle();
    for _ in 0..3 {
        world.append(0, 390).unwrap();
    }
    assert_eq!(world.send(), 3);
    assert!(world.cluster.handle(0));
    world.cluster.logs[0].leader = 1;
    world.cluster.refresh(&mut world.producer);
    assert_eq!(world.send(), 0);
    world.settle();
    world.check();
    assert_eq!(world.log(0), [0, 1, 2, 3]);
    assert_eq!(world.producer.identity().unwrap().epoch, 0, "no reason for another epoch");
}

#[test]
fn a_log_that_lost_its_end_gets_the_next_epoch() {
    let mut world = World::new(1, options());
    for _ in 0..3 {
        world.append(0, 390).unwrap();
        world.settle();
    }
    world.cluster.logs[0].truncate(2);
    world.append(0, 390).unwrap();
    world.settle();
    assert_eq!(world.log(0), [0, 1, 3]);
    assert_eq!(world.producer.identity().unwrap().epoch, 1);
}

#[test]
fn a_fenced_producer_takes_another_id() {
    let mut world = World::new(1, options());
    world.append(0, 10).unwrap();
    world.settle();
    world.append(0, 10).unwrap();
    world.cluster.before.push_back(ErrorCode::INVALID_PRODUCER_EPOCH);
    let before = world.producer.identity().unwrap();
    world.settle();
    world.check();
    assert_ne!(world.producer.identity().unwrap().id, before.id);
}

#[test]
fn a_batch_too_large_is_cut_until_the_one_record_is_found() {
    let mut world = World::new(1, Options { batch_bytes: 4000, ..options() });
    world.cluster.batch_limit = 300;
    for bytes in [100, 100, 280, 100, 50, 20] {
        world.append(0, bytes).unwrap();
    }
    world.settle();
    world.check();
    let refused = Failure::Refused(ErrorCode::MESSAGE_TOO_LARGE);
    assert_eq!(world.failed(), [(2, refused, false)]);
    assert_eq!(world.log(0), [0, 1, 3, 4, 5]);
    assert_eq!(world.producer.identity().unwrap().epoch, 0, "a refused record costs no epoch");
}

#[test]
fn what_is_not_acknowledged_in_time_is_given_up_with_the_truth() {
    let mut world = World::new(2, options());
    world.append(0, 10).unwrap();
    world.append(1, 10).unwrap();
    assert_eq!(world.send(), 2);
    // Broker 0 hangs; broker 1 refuses for good.
    let refuses = world.cluster.now_ms + PATIENCE;
    while world.cluster.now_ms < refuses {
        world.cluster.before.push_back(ErrorCode::NOT_ENOUGH_REPLICAS);
        world.exchange(1);
        world.cluster.now_ms = world.producer.deadline_ms().unwrap();
        world.send();
    }
    world.producer.take_outcomes(&mut world.outcomes);
    let mut failed = world.failed();
    failed.sort_by_key(|failed| failed.0);
    assert_eq!(failed, [(0, Failure::TimedOut, true), (1, Failure::TimedOut, false)]);
    world.cluster.before.clear();
    world.append(0, 10).unwrap();
    world.append(1, 10).unwrap();
    world.settle();
    world.check();
    assert_eq!(world.log(1), [3]);
}

#[test]
fn an_identity_to_be_recorded_is_not_used_before() {
    let mut world = World::new(1, Options { record_identity: true, ..options() });
    world.append(0, 10).unwrap();
    assert_eq!(world.send(), 0);
    let identity = world.producer.unrecorded_identity().unwrap();
    let now_ms = world.cluster.now_ms;
    world.producer.identity_recorded(identity, now_ms);
    assert_eq!(world.send(), 1);
    world.exchange(0);
    world.producer.raise_epoch(now_ms);
    world.append(0, 10).unwrap();
    assert_eq!(world.send(), 1, "the old epoch goes on meanwhile");
    world.exchange(0);
    let raised = world.producer.unrecorded_identity().unwrap();
    assert_eq!(raised, Identity { id: identity.id, epoch: 1 });
    world.producer.identity_recorded(raised, now_ms);
    world.append(0, 10).unwrap();
    world.settle();
    world.check();
    let epochs: Vec<_> = world.cluster.logs[0].records.iter().map(|r| r.producer.1).collect();
    assert_eq!(epochs, [0, 0, 1]);
}

/// The spool's walk: taken over, forwarded under the next epoch, and what comes late is fenced.
#[test]
fn records_taken_over_are_forwarded_and_late_batches_are_fenced() {
    let mut world = World::new(1, options());
    world.append(0, 390).unwrap();
    world.settle();
    for _ in 0..7 {
        world.append(0, 390).unwrap();
    }
    assert_eq!(world.send(), 5);
    assert!(world.cluster.handle(0), "one is written, its response is lost");
    let mut overdue = Vec::new();
    world.producer.overdue(world.cluster.now_ms - 1, &mut overdue);
    assert!(overdue.is_empty());
    world.producer.overdue(world.cluster.now_ms, &mut overdue);
    assert_eq!(overdue, world.partitions);
    let taken = world.producer.take_over(world.partitions[0]);
    let tokens: Vec<_> = taken.iter().map(|taken| taken.token).collect();
    assert_eq!(tokens, [1, 2, 3, 4, 5, 6, 7]);
    assert!(taken.iter().all(|t| token_of(&t.body) == t.token && t.timestamp_ms == 77));
    assert_eq!(world.producer.buffered(), (0, 0));
    world.cluster.break_connection(0, true, &mut world.producer);
    let now_ms = world.cluster.now_ms;
    world.producer.raise_epoch(now_ms);
    for record in taken {
        let (partition, body) = (world.partitions[0], &record.body);
        world.producer.append(record.token, partition, record.timestamp_ms, body, now_ms).unwrap();
    }
    world.send();
    assert!(world.cluster.handle(0));
    while world.cluster.handle_late() {}
    world.settle();
    assert_eq!(world.log(0), [0, 1, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(world.producer.identity().unwrap().epoch, 1);
}

#[test]
fn after_a_restart_the_old_id_goes_on_one_epoch_up() {
    let mut world = World::new(1, options());
    world.append(0, 10).unwrap();
    world.settle();
    let old = world.producer.identity().unwrap();
    let mut again = World::new(1, options());
    std::mem::swap(&mut again.cluster.logs, &mut world.cluster.logs);
    again.producer.resume(old, 0);
    again.append(0, 10).unwrap();
    again.settle();
    let log: Vec<_> = again.cluster.logs[0].records.iter().map(|r| r.producer).collect();
    assert_eq!(log, [(old.id, 0), (old.id, 1)]);
}

#[test]
fn after_the_last_epoch_comes_another_id_once_all_is_answered() {
    let mut world = World::new(1, options());
    let last = Identity { id: 9, epoch: i16::MAX };
    world.producer.set_identity(last, 0);
    world.append(0, 390).unwrap();
    assert_eq!(world.send(), 1);
    let taken = world.producer.take_over(world.partitions[0]);
    world.producer.raise_epoch(0);
    assert!(world.producer.wants_identity());
    let now_ms = world.cluster.now_ms;
    for record in &taken {
        world.producer.append(record.token, world.partitions[0], 0, &record.body, now_ms).unwrap();
    }
    assert_eq!(world.send(), 0, "another id fences nothing: what is underway must end first");
    world.exchange(0);
    assert_eq!(world.send(), 1);
    world.settle();
    let ids: Vec<_> = world.cluster.logs[0].records.iter().map(|r| r.producer.0).collect();
    assert_eq!(ids[0], 9);
    assert!(ids[1] > 4000);
}

#[derive(Clone, Debug)]
enum Step {
    Append { partition: usize, bytes: usize },
    Send,
    Handle(usize),
    Answer(usize),
    Break { broker: usize, lurks: bool },
    Late,
    Before(usize),
    After(usize),
    Move { partition: usize, broker: i32 },
    Pass(u64),
}

const BEFORE: &[ErrorCode] = &[
    ErrorCode::NOT_ENOUGH_REPLICAS,
    ErrorCode::NOT_LEADER_OR_FOLLOWER,
    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
    ErrorCode::LEADER_NOT_AVAILABLE,
    ErrorCode::CORRUPT_MESSAGE,
    ErrorCode::TOPIC_AUTHORIZATION_FAILED,
    ErrorCode::INVALID_RECORD,
    ErrorCode::UNKNOWN_SERVER_ERROR,
    ErrorCode::NONE,
    ErrorCode::NONE,
];
const AFTER: &[ErrorCode] = &[
    ErrorCode::REQUEST_TIMED_OUT,
    ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    ErrorCode::NOT_LEADER_OR_FOLLOWER,
    ErrorCode::UNKNOWN_SERVER_ERROR,
    ErrorCode::NONE,
    ErrorCode::NONE,
];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..3usize, 0..500usize).prop_map(|(partition, bytes)| Step::Append { partition, bytes }),
        8 => Just(Step::Send),
        8 => (0..2usize).prop_map(Step::Handle),
        8 => (0..2usize).prop_map(Step::Answer),
        1 => (0..2usize, any::<bool>()).prop_map(|(broker, lurks)| Step::Break { broker, lurks }),
        2 => Just(Step::Late),
        1 => (0..BEFORE.len()).prop_map(Step::Before),
        1 => (0..AFTER.len()).prop_map(Step::After),
        1 => (0..3usize, 0..2i32).prop_map(|(partition, broker)| Step::Move { partition, broker }),
        3 => (0..PATIENCE / 3).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..250)
}

fn run(world: &mut World, step: &Step) {
    match *step {
        Step::Append { partition, bytes } => {
            world.append(partition, bytes).unwrap();
        }
        Step::Send => {
            world.send();
        }
        Step::Handle(broker) => {
            world.cluster.handle(broker);
        }
        Step::Answer(broker) => {
            world.cluster.answer(broker, &mut world.producer);
        }
        Step::Break { broker, lurks } => {
            world.cluster.break_connection(broker, lurks, &mut world.producer);
        }
        Step::Late => {
            world.cluster.handle_late();
        }
        Step::Before(code) => world.cluster.before.push_back(BEFORE[code]),
        Step::After(code) => world.cluster.after.push_back(AFTER[code]),
        Step::Move { partition, broker } => world.cluster.logs[partition].leader = broker,
        Step::Pass(ms) => world.cluster.now_ms += ms,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_nothing_acknowledged_is_missing_reordered_or_twice(steps in steps()) {
        let mut world = World::new(3, options());
        for step in &steps {
            run(&mut world, step);
        }
        world.cluster.before.clear();
        world.cluster.after.clear();
        world.settle();
        world.check();
    }

    #[test]
    fn whatever_is_taken_over_comes_after_what_went_before(
        steps in steps(), more in steps(), partition in 0..3usize,
    ) {
        let mut world = World::new(3, options());
        for step in &steps {
            run(&mut world, step);
        }
        world.producer.take_outcomes(&mut world.outcomes);
        let taken = world.producer.take_over(world.partitions[partition]);
        let now_ms = world.cluster.now_ms;
        world.producer.raise_epoch(now_ms);
        for record in &taken {
            let (partition, body) = (world.partitions[partition], &record.body);
            world.producer.append(record.token, partition, 0, body, now_ms).unwrap();
        }
        for step in &more {
            run(&mut world, step);
        }
        world.cluster.before.clear();
        world.cluster.after.clear();
        world.settle();
        // The old epoch may hold some of them, in order, and then the new one all that were
        // acknowledged, in order.
        let records = &world.cluster.logs[partition].records;
        prop_assert!(records.is_sorted_by(|a, b| a.producer <= b.producer), "{records:?}");
        prop_assert!(records.is_sorted_by(|a, b| a.producer != b.producer || a.token < b.token));
        let tokens: std::collections::HashSet<_> = records.iter().map(|r| r.token).collect();
        let given_up = world.failed().iter().any(|failed| {
            failed.2 && world.given[failed.0 as usize] == partition
        });
        prop_assert!(given_up || records.len() - tokens.len() <= taken.len());
        for outcome in &world.outcomes {
            if let Outcome::Acknowledged { token, .. } = *outcome {
                let records = &world.cluster.logs[world.given[token as usize]].records;
                prop_assert!(records.iter().any(|record| record.token == token), "{token} is lost");
            }
        }
    }
}
