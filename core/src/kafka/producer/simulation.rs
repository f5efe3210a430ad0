//! Brokers for the producer's tests: they check epochs and sequence numbers as Kafka's do, and fail
//! in every way that a test asks for.
//!
//! **Runs on: any.** A connection keeps the order of its requests; what was on a connection that
//! broke may still reach the broker later, or never.

use super::*;
use std::collections::HashMap;
use trine_proto::kafka::record::{Batches, Body, write_body};

/// A record in a partition's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    pub token: Token,
    pub producer: (i64, i16),
}

#[derive(Default)]
pub struct Log {
    pub records: Vec<Logged>,
    pub leader: i32,
    producers: HashMap<i64, Known>,
}

struct Known {
    epoch: i16,
    /// First and last sequence and offset of the newest batches.
    batches: VecDeque<(i32, i32, i64)>,
}

#[derive(Default)]
struct Connection {
    is_open: bool,
    requests: VecDeque<Request>,
    responses: VecDeque<(u64, Vec<Produced>)>,
}

pub struct Cluster {
    pub logs: Vec<Log>,
    pub now_ms: u64,
    connections: Vec<Connection>,
    /// Requests of broken connections that a broker may still read.
    lurking: VecDeque<Request>,
    /// What the next batches meet: before the append, or instead of its acknowledgement.
    pub before: VecDeque<ErrorCode>,
    pub after: VecDeque<ErrorCode>,
    /// Bytes of a batch, at most.
    pub batch_limit: usize,
    pub next_id: i64,
}

impl Cluster {
    pub fn new(partitions: usize, brokers: usize) -> Self {
        Self {
            logs: (0..partitions)
                .map(|n| Log { leader: (n % brokers) as i32, ..Log::default() })
                .collect(),
            now_ms: 1_000_000,
            connections: (0..brokers).map(|_| Connection::default()).collect(),
            lurking: VecDeque::new(),
            before: VecDeque::new(),
            after: VecDeque::new(),
            batch_limit: usize::MAX,
            next_id: 4000,
        }
    }

    pub fn brokers(&self) -> usize {
        self.connections.len()
    }

    /// Gives the producer what it wants: connections, metadata, an identity. Whether it wanted any.
    pub fn serve(&mut self, producer: &mut Producer) -> bool {
        let mut wanted = producer.wants_identity();
        if producer.wants_identity() {
            self.next_id += 1;
            producer.set_identity(Identity { id: self.next_id, epoch: 0 }, self.now_ms);
        }
        if producer.take_metadata_wish() {
            wanted = true;
            self.refresh(producer);
        }
        for broker in producer.wanted_brokers().collect::<Vec<_>>() {
            self.connections[broker as usize].is_open = true;
            producer.connected(broker);
            wanted = true;
        }
        wanted
    }

    pub fn refresh(&mut self, producer: &mut Producer) {
        for (partition, log) in self.logs.iter().enumerate() {
            producer.set_leader(PartitionId(partition as u32), Some(log.leader), self.now_ms);
        }
    }

    /// Puts what the producer sends on its connections.
    pub fn send(&mut self, producer: &mut Producer) -> usize {
        let mut sent = 0;
        while let Some(request) = producer.next_request(self.now_ms) {
            let connection = &mut self.connections[request.broker as usize];
            assert!(connection.is_open, "a request for a broker without a connection");
            let mut partitions: Vec<_> = request.batches.iter().map(|b| b.partition).collect();
            partitions.dedup();
            assert_eq!(partitions.len(), request.batches.len(), "one batch of each partition");
            connection.requests.push_back(request);
            sent += 1;
        }
        sent
    }

    /// The broker handles the oldest request of its connection.
    pub fn handle(&mut self, broker: usize) -> bool {
        let Some(request) = self.connections[broker].requests.pop_front() else { return false };
        let results = self.process(&request);
        self.connections[broker].responses.push_back((request.request, results));
        true
    }

    /// The oldest response of a connection reaches the producer.
    pub fn answer(&mut self, broker: usize, producer: &mut Producer) -> bool {
        let Some((request, results)) = self.connections[broker].responses.pop_front() else {
            return false;
        };
        producer.produced(request, results, self.now_ms);
        true
    }

    /// The connection breaks. What the broker had not handled is gone, or `lurks`.
    pub fn break_connection(&mut self, broker: usize, lurks: bool, producer: &mut Producer) {
        let connection = std::mem::take(&mut self.connections[broker]);
        if lurks {
            self.lurking.extend(connection.requests);
        }
        producer.disconnected(broker as i32, self.now_ms);
    }

    /// The broker reads what was left on a broken connection.
    pub fn handle_late(&mut self) -> bool {
        let Some(request) = self.lurking.pop_front() else { return false };
        self.process(&request);
        true
    }

    pub fn settle(&mut self, producer: &mut Producer) {
        for _ in 0..100_000 {
            let mut progress = self.send(producer) > 0;
            progress |= self.serve(producer);
            for broker in 0..self.brokers() {
                progress |= self.handle(broker);
                progress |= self.answer(broker, producer);
            }
            progress |= self.handle_late();
            if !progress {
                if producer.buffered().1 == 0 {
                    return;
                }
                self.now_ms = producer.deadline_ms().expect("records wait for something");
            }
        }
        panic!("the producer does not come to rest: {producer:#?}");
    }

    fn process(&mut self, request: &Request) -> Vec<Produced> {
        let one = |sending: &Sending| {
            let partition = sending.partition;
            let (code, base_offset) = self.take(request.broker, sending);
            Produced { partition, code, base_offset }
        };
        request.batches.iter().map(one).collect()
    }

    fn take(&mut self, broker: i32, sending: &Sending) -> (ErrorCode, i64) {
        let log = &mut self.logs[sending.partition.0 as usize];
        if log.leader != broker {
            return (ErrorCode::NOT_LEADER_OR_FOLLOWER, -1);
        }
        if let Some(code) = self.before.pop_front().filter(|code| !code.is_none()) {
            return (code, -1);
        }
        if sending.bytes.len() > self.batch_limit {
            return (ErrorCode::MESSAGE_TOO_LARGE, -1);
        }
        match log.append(&sending.bytes) {
            Ok(offset) => match self.after.pop_front() {
                Some(code) if !code.is_none() => (code, -1),
                _ => (ErrorCode::NONE, offset),
            },
            Err(code) => (code, -1),
        }
    }
}

impl Log {
    /// As Kafka's `ProducerStateManager` and `ProducerAppendInfo` do it.
    fn append(&mut self, bytes: &[u8]) -> Result<i64, ErrorCode> {
        let batch = Batches::new(bytes).next().expect("a batch").expect("a whole batch");
        let (first, count) = (batch.base_sequence, batch.count);
        let last = batch::advance(first, count as usize - 1);
        let known = self.producers.get(&batch.producer_id);
        if let Some(known) = known {
            if batch.producer_epoch < known.epoch {
                return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
            }
            if batch.producer_epoch > known.epoch && first != 0 {
                return Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
            }
            if batch.producer_epoch == known.epoch {
                let same = |known: &&(i32, i32, i64)| known.0 == first && known.1 == last;
                if let Some(known) = known.batches.iter().find(same) {
                    return Ok(known.2);
                }
                let newest = known.batches.back().expect("a known producer has written").1;
                if batch::advance(newest, 1) != first {
                    return Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
                }
            }
        }
        let offset = self.records.len() as i64;
        let epoch = batch.producer_epoch;
        let inflated = batch.inflate().expect("whole records");
        for record in batch.iter(&inflated) {
            let token = token_of(record.expect("a whole record").body);
            self.records.push(Logged { token, producer: (batch.producer_id, epoch) });
        }
        assert_eq!(self.records.len() as i64 - offset, i64::from(count));
        let known = self
            .producers
            .entry(batch.producer_id)
            .or_insert_with(|| Known { epoch, batches: VecDeque::new() });
        if known.epoch != epoch {
            *known = Known { epoch, batches: VecDeque::new() };
        }
        known.batches.push_back((first, last, offset));
        if known.batches.len() > 5 {
            known.batches.pop_front();
        }
        Ok(offset)
    }

    /// The broker loses the end of its log, as after an unclean election.
    pub fn truncate(&mut self, records: usize) {
        self.records.truncate(records);
        for known in self.producers.values_mut() {
            known.batches.retain(|batch| (batch.2 as usize) < records);
        }
        self.producers.retain(|_, known| !known.batches.is_empty());
    }
}

/// The body of a record that names its token, padded to `bytes`.
pub fn body_of(token: Token, bytes: usize) -> Vec<u8> {
    let mut body = Vec::new();
    let padding = vec![b'.'; bytes];
    let key = token.to_be_bytes();
    write_body(&mut body, Some(&key), Some(&padding), std::iter::empty());
    body
}

pub fn token_of(body: &[u8]) -> Token {
    let key = Body::parse(body).expect("a body").key().expect("a key");
    Token::from_be_bytes(key.try_into().expect("eight bytes"))
}
