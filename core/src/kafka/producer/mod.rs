//! The idempotent producer of a shard: gathers records into batches, sends them in order with
//! acks=all, and says of each record what became of it.
//!
//! **Runs on: shard.** Sans-IO: the caller asks [`Producer::next_request`] what to send, answers with
//! [`Producer::produced`] or [`Producer::disconnected`], and takes outcomes. Invariants:
//!
//! - Every record that [`Producer::append`] took has exactly one outcome, or is handed out once by
//!   [`Producer::take_over`]; outcomes of a partition come in the order of its records.
//! - What may be in the log without an acknowledgement is reported as *possibly written*.
//! - With one identity (producer id and epoch) the log holds each record at most once and in order,
//!   whatever the network and the brokers do; `partition.rs` has the rules.
//!
//! Batches of all partitions of a broker that are due share one request. A partition's batch is due
//! when it is complete, or `linger_ms` after the oldest gathering record of that broker; with
//! [`Options::gather_requests`] unanswered requests only complete batches go, the rest gathers.

mod batch;
mod partition;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
mod verdict;

use crate::limits::{KAFKA_BROKERS, PRODUCE_REQUESTS_IN_FLIGHT};
use bytes::Bytes;
use partition::{Ended, Need, Partition};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use trine_proto::kafka::ErrorCode;
use trine_proto::kafka::record::{Compression, RECORDS_START};
use verdict::{Verdict, verdict};

/// The caller's name for a record.
pub type Token = u64;

/// A topic, as the caller numbers them.
pub type TopicId = u32;

/// A partition that was made known by [`Producer::partition`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(u32);

/// What a batch of one record has beside the record's body: its head, and the record's length,
/// attributes and deltas.
pub const BATCH_OVERHEAD: usize = RECORDS_START + 4 + 3;

/// A producer id and its epoch: what a broker recognises retries by, and fences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The producer id.
    pub id: i64,
    /// The epoch, up to 32,767.
    pub epoch: i16,
}

/// How to gather and how long to try.
#[derive(Clone, Debug)]
pub struct Options {
    /// Milliseconds that a record may wait for others; 0: it goes with what its turn brought.
    pub linger_ms: u64,
    /// Bytes of a batch before compression, at most; a larger record has one of its own.
    pub batch_bytes: usize,
    /// Bytes of all batches of one request, at most; it holds one batch at least.
    pub request_bytes: usize,
    /// Bytes of a record's body, at most, where its topic says nothing else.
    pub record_bytes: usize,
    /// Bytes of bodies that are not yet settled, at most.
    pub buffer_bytes: usize,
    /// Records that are not yet settled, at most.
    pub buffer_records: usize,
    /// Milliseconds after which a record that is not acknowledged is given up.
    pub delivery_timeout_ms: u64,
    /// Unanswered requests of a broker from which on incomplete batches gather: a broker answers one
    /// at a time, so that more of them wait there, not here.
    pub gather_requests: usize,
    /// How batches are compressed.
    pub compression: Compression,
    /// An identity is not used before [`Producer::identity_recorded`].
    pub record_identity: bool,
    /// A batch that meets an error which is not about its records is sent again whatever the error:
    /// for who takes records over that wait too long.
    pub retries_all: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            linger_ms: 0,
            batch_bytes: 64 << 10,
            request_bytes: 1 << 20,
            record_bytes: crate::limits::RECORD_BYTES,
            buffer_bytes: 32 << 20,
            buffer_records: 1 << 18,
            delivery_timeout_ms: 120_000,
            gather_requests: 1,
            compression: Compression::None,
            record_identity: false,
            retries_all: false,
        }
    }
}

/// Why a record was not taken. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// So much waits for Kafka that no more is taken.
    Full,
    /// The body is longer than this many bytes.
    TooLarge(usize),
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the log, on all in-sync replicas.
    Acknowledged {
        /// The caller's name for it.
        token: Token,
        /// Where, unless the broker only said that it had it already.
        offset: Option<i64>,
    },
    /// It was given up.
    Failed {
        /// The caller's name for it.
        token: Token,
        /// Why.
        why: Failure,
        /// It may be in the log nevertheless.
        possibly_written: bool,
    },
}

/// Why a record was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// [`Options::delivery_timeout_ms`] has passed.
    TimedOut,
    /// The broker refuses it for good.
    Refused(ErrorCode),
    /// It could not be encoded.
    Encoding,
}

/// A record that was taken over before it was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The caller's name for it.
    pub token: Token,
    /// Its timestamp, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Its body.
    pub body: Bytes,
}

/// A produce request: the batches have at most one of each partition, and those of a topic are
/// together.
#[derive(Clone, Debug)]
pub struct Request {
    /// The broker's id.
    pub broker: i32,
    /// The name to answer with.
    pub request: u64,
    /// What it carries.
    pub batches: Vec<Sending>,
}

/// A batch in a request.
#[derive(Clone, Debug)]
pub struct Sending {
    /// The partition.
    pub partition: PartitionId,
    /// Its topic.
    pub topic: TopicId,
    /// Its number in the topic.
    pub index: i32,
    /// The record batch as it goes on the wire.
    pub bytes: Bytes,
}

/// What a produce response says of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    /// The partition.
    pub partition: PartitionId,
    /// The error, if there is one.
    pub code: ErrorCode,
    /// The offset of the batch's first record; negative: not known.
    pub base_offset: i64,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Records taken.
    pub records: u64,
    /// Requests sent.
    pub requests: u64,
    /// Batches sent, repetitions included.
    pub batches: u64,
    /// Bytes of batches sent.
    pub bytes: u64,
    /// Batches that were answered with an error, or not at all.
    pub errors: u64,
    /// Identities used.
    pub identities: u64,
}

#[derive(Debug)]
struct Broker {
    id: i32,
    is_connected: bool,
    /// The last attempt to connect failed.
    is_unreachable: bool,
    requests: usize,
    /// Partitions with complete batches, or batches to be sent again.
    complete: VecDeque<u32>,
    /// Partitions with batches that still gather.
    gathering: VecDeque<u32>,
    /// When these are due.
    due_ms: u64,
}

#[derive(Debug)]
struct Unanswered {
    request: u64,
    broker: usize,
    /// Partition and batch, sorted; a serial of 0 was answered.
    entries: Vec<(u32, u64)>,
}

/// The producer.
#[derive(Debug)]
pub struct Producer {
    options: Options,
    partitions: Vec<Partition>,
    brokers: Vec<Broker>,
    unanswered: Vec<Unanswered>,
    next_request: u64,
    next_broker: usize,
    identity: Option<Identity>,
    /// Will be used once it is recorded.
    unrecorded: Option<Identity>,
    wants_identity: bool,
    wants_metadata: bool,
    /// When to look at a partition again, and whether for the age of its oldest batch (at most one
    /// such entry for each partition) or for the end of a pause.
    timers: BinaryHeap<Reverse<(u64, u32, bool)>>,
    buffered_bytes: usize,
    buffered_records: usize,
    buffers: Vec<Vec<u8>>,
    outcomes: Vec<Outcome>,
    totals: Totals,
}

impl Producer {
    /// A producer that knows no broker and no partition.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            partitions: Vec::new(),
            brokers: Vec::new(),
            unanswered: Vec::new(),
            next_request: 1,
            next_broker: 0,
            identity: None,
            unrecorded: None,
            wants_identity: true,
            wants_metadata: false,
            timers: BinaryHeap::new(),
            buffered_bytes: 0,
            buffered_records: 0,
            buffers: Vec::new(),
            outcomes: Vec::new(),
            totals: Totals::default(),
        }
    }

    /// Makes a partition known. The caller does so once for each.
    pub fn partition(&mut self, topic: TopicId, index: i32) -> PartitionId {
        let id = PartitionId(self.partitions.len() as u32);
        let Options { record_bytes, batch_bytes, .. } = self.options;
        self.partitions.push(Partition::new(topic, index, record_bytes, batch_bytes));
        id
    }

    /// Bytes of a batch that a partition takes, as its topic's `max.message.bytes` says: the broker
    /// counts them after compression, which may make a larger record fit, so that only without it
    /// such a record is refused here.
    pub fn set_message_bytes(&mut self, partition: PartitionId, bytes: usize) {
        let Options { record_bytes, batch_bytes, compression, .. } = self.options;
        let state = &mut self.partitions[partition.0 as usize];
        state.batch_bytes = batch_bytes.min(bytes);
        if compression == Compression::None {
            state.record_bytes = record_bytes.min(bytes.saturating_sub(BATCH_OVERHEAD));
        }
    }

    /// Bytes of a record's body that a partition takes.
    pub fn record_bytes(&self, partition: PartitionId) -> usize {
        self.partitions[partition.0 as usize].record_bytes
    }

    /// Takes a record; it leaves with one of the next requests.
    ///
    /// # Errors
    /// When it was not taken; there will be no outcome then.
    pub fn append(
        &mut self,
        token: Token,
        partition: PartitionId,
        timestamp_ms: i64,
        body: &[u8],
        now_ms: u64,
    ) -> Result<(), Refused> {
        let state = &mut self.partitions[partition.0 as usize];
        if body.len() > state.record_bytes {
            return Err(Refused::TooLarge(state.record_bytes));
        }
        if self.buffered_bytes + body.len() > self.options.buffer_bytes
            || self.buffered_records >= self.options.buffer_records
        {
            return Err(Refused::Full);
        }
        self.buffered_bytes += body.len();
        self.buffered_records += 1;
        self.totals.records += 1;
        let limit = state.batch_bytes;
        let last = state.batches.back_mut();
        let fits = last.is_some_and(|batch| batch.push(token, timestamp_ms, body, limit));
        if !fits {
            let batch = state.open_batch(now_ms, self.buffers.pop().unwrap_or_default());
            batch.push(token, timestamp_ms, body, limit);
            if !std::mem::replace(&mut state.is_timed, true) {
                let at_ms = now_ms + self.options.delivery_timeout_ms;
                self.timers.push(Reverse((at_ms, partition.0, true)));
            }
        }
        self.list(partition.0, now_ms);
        Ok(())
    }

    /// Says which broker leads a partition; `None`: none does, or it is not known.
    pub fn set_leader(&mut self, partition: PartitionId, broker: Option<i32>, now_ms: u64) {
        let slot = broker.and_then(|id| self.slot(id));
        let state = &mut self.partitions[partition.0 as usize];
        state.awaits_leader = false;
        if state.leader != slot {
            // Who leads nothing any more is not wanted, and who does now is tried.
            if let Some(old) = state.leader {
                let old = &mut self.brokers[old];
                for list in [&mut old.complete, &mut old.gathering] {
                    // It is there once at most, and first where all of a topic's move in order.
                    if let Some(place) = list.iter().position(|&listed| listed == partition.0) {
                        list.remove(place);
                    }
                }
            }
            if let Some(new) = slot {
                self.brokers[new].is_unreachable = false;
            }
            state.leader = slot;
            state.is_complete_listed = false;
            state.is_gathering_listed = false;
            state.moved();
        }
        self.list(partition.0, now_ms);
    }

    /// Brokers that lead partitions with something to send and have no connection.
    pub fn wanted_brokers(&self) -> impl Iterator<Item = i32> {
        let wanted = |broker: &&Broker| {
            let is_idle = broker.complete.is_empty() && broker.gathering.is_empty();
            !broker.is_connected && !is_idle
        };
        self.brokers.iter().filter(wanted).map(|broker| broker.id)
    }

    /// There is a connection to a broker.
    pub fn connected(&mut self, broker: i32) {
        let Some(slot) = self.slot(broker) else { return };
        self.brokers[slot].is_connected = true;
        self.brokers[slot].is_unreachable = false;
    }

    /// A broker cannot be connected to, for now.
    pub fn unreachable(&mut self, broker: i32) {
        let Some(slot) = self.slot(broker) else { return };
        self.brokers[slot].is_unreachable = true;
    }

    /// The connection to a broker is gone, with all its unanswered requests.
    pub fn disconnected(&mut self, broker: i32, now_ms: u64) {
        let Some(slot) = self.slot(broker) else { return };
        self.brokers[slot].is_connected = false;
        self.brokers[slot].requests = 0;
        let mut lost = Vec::new();
        self.unanswered.retain_mut(|request| {
            let is_lost = request.broker == slot;
            if is_lost {
                lost.append(&mut request.entries);
            }
            !is_lost
        });
        for (partition, serial) in lost.into_iter().filter(|entry| entry.1 != 0) {
            self.totals.errors += 1;
            self.partitions[partition as usize].lost(serial, now_ms);
            self.list(partition, now_ms);
        }
    }

    /// Takes in the response to a request. A partition that it leaves out counts as not answered. A
    /// request that is not known (its connection was reported as gone) is ignored.
    pub fn produced(
        &mut self,
        request: u64,
        results: impl IntoIterator<Item = Produced>,
        now_ms: u64,
    ) {
        let found = self.unanswered.iter().position(|known| known.request == request);
        let Some(place) = found else { return };
        let mut known = self.unanswered.remove(place);
        let broker = &mut self.brokers[known.broker];
        broker.requests = broker.requests.saturating_sub(1);
        for Produced { partition, code, base_offset } in results {
            let found = known.entries.binary_search_by_key(&partition.0, |entry| entry.0);
            let Ok(place) = found else { continue };
            let serial = std::mem::take(&mut known.entries[place].1);
            if serial != 0 {
                let offset = (base_offset >= 0).then_some(base_offset);
                self.answered(partition.0, serial, code, offset, now_ms);
            }
        }
        for (partition, serial) in known.entries.into_iter().filter(|entry| entry.1 != 0) {
            self.answered(partition, serial, ErrorCode::NETWORK_EXCEPTION, None, now_ms);
        }
    }

    fn answered(
        &mut self,
        partition: u32,
        serial: u64,
        code: ErrorCode,
        offset: Option<i64>,
        now_ms: u64,
    ) {
        self.totals.errors += u64::from(!code.is_none());
        let verdict = match verdict(code) {
            Verdict::Fatal { doubt } if self.options.retries_all => {
                Verdict::Retry { doubt, refresh: false }
            }
            verdict => verdict,
        };
        let (state, mut ended) = self.split(partition);
        let refresh = state.answered(serial, (code, verdict), offset, now_ms, &mut ended);
        let not_before_ms = state.not_before_ms;
        self.wants_metadata |= refresh;
        if not_before_ms > now_ms {
            self.timers.push(Reverse((not_before_ms, partition, false)));
        }
        self.list(partition, now_ms);
    }

    /// The next request to send, if anything may go now.
    pub fn next_request(&mut self, now_ms: u64) -> Option<Request> {
        self.tick(now_ms);
        for _ in 0..self.brokers.len() {
            self.next_broker = (self.next_broker + 1) % self.brokers.len();
            let broker = &self.brokers[self.next_broker];
            if !broker.is_connected || broker.requests >= PRODUCE_REQUESTS_IN_FLIGHT {
                continue;
            }
            let is_due = now_ms >= broker.due_ms && broker.requests < self.options.gather_requests;
            let gathering = if is_due { broker.gathering.len() } else { 0 };
            if broker.complete.len() + gathering > 0
                && let Some(request) = self.build(self.next_broker, is_due, now_ms)
            {
                return Some(request);
            }
        }
        None
    }

    fn build(&mut self, slot: usize, is_due: bool, now_ms: u64) -> Option<Request> {
        let mut batches = Vec::new();
        let mut entries = Vec::new();
        let mut bytes = 0;
        while let Some(partition) = self.take_listed(slot, is_due) {
            let (sending, serial) = match self.seal(slot, partition, now_ms) {
                Some(sealed) => sealed,
                None => continue,
            };
            bytes += sending.bytes.len();
            entries.push((partition, serial));
            batches.push(sending);
            let broker = &self.brokers[slot];
            let next = broker.complete.front().or(broker.gathering.front().filter(|_| is_due));
            let next = next.and_then(|&next| self.partitions[next as usize].batches.front());
            if bytes + next.map_or(0, |batch| batch.size()) > self.options.request_bytes {
                break;
            }
        }
        // Only now, since a request has one batch of a partition.
        for &(partition, _) in &entries {
            self.list(partition, now_ms);
        }
        if batches.is_empty() {
            return None;
        }
        entries.sort_unstable();
        batches.sort_unstable_by_key(|sending: &Sending| (sending.topic, sending.index));
        let request = self.next_request;
        self.next_request += 1;
        self.brokers[slot].requests += 1;
        self.totals.requests += 1;
        self.totals.batches += batches.len() as u64;
        self.totals.bytes += bytes as u64;
        self.unanswered.push(Unanswered { request, broker: slot, entries });
        Some(Request { broker: self.brokers[slot].id, request, batches })
    }

    fn take_listed(&mut self, slot: usize, is_due: bool) -> Option<u32> {
        let broker = &mut self.brokers[slot];
        if let Some(partition) = broker.complete.pop_front() {
            let state = &mut self.partitions[partition as usize];
            state.is_complete_listed &= state.leader != Some(slot);
            return Some(partition);
        }
        let partition = if is_due { broker.gathering.pop_front()? } else { return None };
        let state = &mut self.partitions[partition as usize];
        state.is_gathering_listed &= state.leader != Some(slot);
        Some(partition)
    }

    fn seal(&mut self, slot: usize, partition: u32, now_ms: u64) -> Option<(Sending, u64)> {
        let newest = self.identity;
        let compression = self.options.compression;
        let state = &mut self.partitions[partition as usize];
        // It may be in both lists, and is listed again after this request.
        if state.leader != Some(slot) || state.last_request == self.next_request {
            return None;
        }
        let index = match state.next(newest, now_ms) {
            Ok(index) => index?,
            Err(need) => {
                // A new identity lists every partition again, this one too.
                self.renew(need, now_ms);
                return None;
            }
        };
        match state.send(index, compression, now_ms) {
            Some(bytes) => {
                let (topic, number) = (state.topic, state.index);
                let serial = state.batches[index].serial;
                state.last_request = self.next_request;
                let partition = PartitionId(partition);
                Some((Sending { partition, topic, index: number, bytes }, serial))
            }
            None => {
                let (state, mut ended) = self.split(partition);
                state.give_up(index, Failure::Encoding, &mut ended);
                None
            }
        }
    }

    /// Lists a partition with its broker if it has something to send.
    fn list(&mut self, partition: u32, now_ms: u64) {
        let state = &mut self.partitions[partition as usize];
        let Some(is_complete) = state.waiting(state.batch_bytes) else { return };
        let Some(slot) = state.leader.filter(|_| !state.awaits_leader) else {
            self.wants_metadata = true;
            return;
        };
        if state.is_blocked(now_ms) {
            return;
        }
        let broker = &mut self.brokers[slot];
        if is_complete && !state.is_complete_listed {
            state.is_complete_listed = true;
            broker.complete.push_back(partition);
        } else if !is_complete && !state.is_gathering_listed {
            state.is_gathering_listed = true;
            if broker.gathering.is_empty() {
                broker.due_ms = now_ms + self.options.linger_ms;
            }
            broker.gathering.push_back(partition);
        }
    }

    /// `None`: there is no end of brokers.
    fn slot(&mut self, id: i32) -> Option<usize> {
        let known = self.brokers.iter().position(|broker| broker.id == id);
        if known.is_some() || self.brokers.len() >= KAFKA_BROKERS {
            return known;
        }
        self.brokers.push(Broker {
            id,
            is_connected: false,
            is_unreachable: false,
            requests: 0,
            complete: VecDeque::new(),
            gathering: VecDeque::new(),
            due_ms: 0,
        });
        Some(self.brokers.len() - 1)
    }

    /// Gives up what is too old and lists what has paused long enough.
    fn tick(&mut self, now_ms: u64) {
        let timeout_ms = self.options.delivery_timeout_ms;
        while let Some(&Reverse((at_ms, partition, is_age))) = self.timers.peek()
            && at_ms <= now_ms
        {
            self.timers.pop();
            if is_age {
                let (state, mut ended) = self.split(partition);
                state.expire(now_ms.saturating_sub(timeout_ms), &mut ended);
                let oldest_ms = state.batches.front().map(|batch| batch.appended_ms);
                state.is_timed = oldest_ms.is_some();
                if let Some(oldest_ms) = oldest_ms {
                    self.timers.push(Reverse((oldest_ms + timeout_ms, partition, true)));
                }
            }
            self.list(partition, now_ms);
        }
    }

    fn split(&mut self, partition: u32) -> (&mut Partition, Ended<'_>) {
        let ended = Ended {
            outcomes: &mut self.outcomes,
            buffered_bytes: &mut self.buffered_bytes,
            buffered_records: &mut self.buffered_records,
            buffers: &mut self.buffers,
            compression: self.options.compression,
        };
        (&mut self.partitions[partition as usize], ended)
    }

    /// When [`Producer::next_request`] has to be asked again although nothing has come in.
    pub fn deadline_ms(&self) -> Option<u64> {
        let timer_ms = self.timers.peek().map(|timer| timer.0.0);
        let gathers = |broker: &&Broker| {
            broker.is_connected
                && !broker.gathering.is_empty()
                && broker.requests < self.options.gather_requests
        };
        let due_ms = self.brokers.iter().filter(gathers).map(|broker| broker.due_ms).min();
        timer_ms.into_iter().chain(due_ms).min()
    }

    /// Moves the outcomes that have come up to `into`.
    pub fn take_outcomes(&mut self, into: &mut Vec<Outcome>) {
        into.append(&mut self.outcomes);
    }

    /// Whether there are outcomes to take.
    pub fn has_outcomes(&self) -> bool {
        !self.outcomes.is_empty()
    }

    /// Whether metadata are needed, asked once: a leader is not known, or another than was thought.
    pub fn take_metadata_wish(&mut self) -> bool {
        std::mem::take(&mut self.wants_metadata)
    }

    /// Whether half of what may wait for an acknowledgement does.
    pub fn is_half_full(&self) -> bool {
        self.buffered_bytes > self.options.buffer_bytes / 2
            || self.buffered_records > self.options.buffer_records / 2
    }

    /// Bytes and records that are not settled.
    pub fn buffered(&self) -> (usize, usize) {
        (self.buffered_bytes, self.buffered_records)
    }

    /// Counts since the start.
    pub fn totals(&self) -> Totals {
        self.totals
    }
}

/// Who the producer is to the brokers.
impl Producer {
    /// Whether a producer id is needed from a broker.
    pub fn wants_identity(&self) -> bool {
        self.wants_identity
    }

    /// The id and epoch that a broker gave.
    pub fn set_identity(&mut self, identity: Identity, now_ms: u64) {
        self.wants_identity = false;
        if self.options.record_identity {
            self.unrecorded = Some(identity);
        } else {
            self.adopt(identity, now_ms);
        }
    }

    /// Goes on, after a restart, with the id of an earlier producer whose last epoch this was: one
    /// epoch up. At the last epoch another id has to be asked for.
    pub fn resume(&mut self, last: Identity, now_ms: u64) {
        match last.epoch.checked_add(1) {
            Some(epoch) => self.set_identity(Identity { id: last.id, epoch }, now_ms),
            None => self.wants_identity = true,
        }
    }

    /// The identity that has to be recorded before it is used; see [`Options::record_identity`].
    pub fn unrecorded_identity(&self) -> Option<Identity> {
        self.unrecorded
    }

    /// The identity is recorded and may be used.
    pub fn identity_recorded(&mut self, identity: Identity, now_ms: u64) {
        if self.unrecorded == Some(identity) {
            self.unrecorded = None;
            self.adopt(identity, now_ms);
        }
    }

    /// The identity that new batches get.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Raises the epoch by one on the same producer id, without a broker (KIP-360). Each partition
    /// moves to it, with sequence numbers from 0, once nothing of it is in flight or its batches were
    /// taken over; late batches of the epoch before are then refused by the broker. At the last epoch
    /// a new id is asked for, and a partition moves once all its requests were answered.
    pub fn raise_epoch(&mut self, now_ms: u64) {
        if self.unrecorded.is_some() {
            return;
        }
        if let Some(own) = self.identity {
            self.resume(own, now_ms);
        }
    }

    fn renew(&mut self, need: Need, now_ms: u64) {
        match need {
            // Someone else may have raised it already.
            Need::Epoch(own) if self.identity == Some(own) => self.raise_epoch(now_ms),
            Need::Id(own) if self.identity.is_some_and(|identity| identity.id == own.id) => {
                self.wants_identity = true;
            }
            Need::Epoch(_) | Need::Id(_) => {}
        }
    }

    fn adopt(&mut self, identity: Identity, now_ms: u64) {
        self.identity = Some(identity);
        self.totals.identities += 1;
        for partition in 0..self.partitions.len() {
            self.list(partition as u32, now_ms);
        }
    }
}

/// For the spool: what it needs to know of records that Kafka does not acknowledge.
impl Producer {
    /// Appends the partitions with records that wait although their leader is unreachable, or whose
    /// oldest record was sent for the first time at or before `sent_ms`, or came then and could not
    /// be sent at all.
    pub fn overdue(&self, sent_ms: u64, into: &mut Vec<PartitionId>) {
        for (number, partition) in self.partitions.iter().enumerate() {
            let Some(oldest) = partition.batches.front() else { continue };
            let since_ms = oldest.sent_ms.unwrap_or(oldest.appended_ms);
            let leader = partition.leader.map(|slot| &self.brokers[slot]);
            if since_ms <= sent_ms || leader.is_some_and(|leader| leader.is_unreachable) {
                into.push(PartitionId(number as u32));
            }
        }
    }

    /// Whether a broker may know anything of what waits in a partition, so that it can be given anew
    /// only with the next epoch.
    pub fn is_numbered(&self, partition: PartitionId) -> bool {
        self.partitions[partition.0 as usize].batches.iter().any(|batch| batch.stamp().is_some())
    }

    /// Whether a broker has what waits in a partition, may have written it, or will be sent it in its
    /// turn. Else its leader is not there, or has refused it.
    pub fn is_served(&self, partition: PartitionId) -> bool {
        let state = &self.partitions[partition.0 as usize];
        let is_reachable = state.leader.is_some_and(|slot| !self.brokers[slot].is_unreachable);
        let oldest = state.batches.front();
        let waits = oldest.is_some_and(|oldest| oldest.sent_ms.is_none() || oldest.in_doubt);
        is_reachable && (waits || state.has_in_flight())
    }

    /// Gives up a partition's batches whose first record came at or before `latest_ms`, as if
    /// [`Options::delivery_timeout_ms`] had passed.
    pub fn expire(&mut self, partition: PartitionId, latest_ms: u64) {
        let (state, mut ended) = self.split(partition.0);
        state.expire(latest_ms, &mut ended);
    }

    /// Hands out all records of a partition that are not acknowledged, in order, and forgets them:
    /// they have no outcome here. The partition goes on with the next epoch, so that what is still
    /// underway cannot come after what it is given next.
    pub fn take_over(&mut self, partition: PartitionId) -> Vec<Taken> {
        let mut records = Vec::new();
        let (state, mut ended) = self.split(partition.0);
        state.take_over(&mut records, &mut ended);
        records
    }
}
