//! The log that is a Kafka cluster, with the spool in front of it.
//!
//! **Runs on: shard.** A record goes to the producer, unless its partition has spooled records: then
//! it goes behind them. Records that Kafka does not acknowledge in time are taken over by the spool,
//! in order, and acknowledged once they are durable there; what is spooled is forwarded by the same
//! producer at its next epoch, so that a late old batch is fenced (KIP-360). Invariants: every
//! record that was taken is answered once; `only_log` records never enter the spool.

use bytes::Bytes;
use smallvec::SmallVec;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use trine_core::kafka::client::{Client, NotTaken, Options};
use trine_core::kafka::connection::Error;
use trine_core::kafka::producer::{Failure, Identity, Outcome, PartitionId, Refused};
use trine_proto::kafka::ErrorCode;

use super::groups::Groups;
use super::spool::{Line, Spool, SpoolEvent};
use super::{Appended, Unavailable};
use crate::ingest::At;
use crate::limits::{EPOCH_RAISE_MS, KAFKA_ERROR_MS, KAFKA_ERRORS, SPOOL_LOOK_MS};
use crate::scratch;
use trine_core::journal::Refused as JournalRefused;

/// Kafka as one shard sees it.
pub struct Kafka {
    client: Rc<Client>,
    /// By the number of the topic here; `None`: it has no route and no spooled record.
    topics: Vec<Option<u32>>,
    /// How many of them have a route.
    routed: usize,
    spool: Spool,
    groups: Groups,
    after_ms: u64,
    timeout_ms: u64,
    outcomes: Vec<Outcome>,
    ready: VecDeque<(u32, Appended)>,
    /// What the producer has of each line.
    sent: Vec<Sent>,
    /// The lines that forward into each of the producer's partitions.
    lines: HashMap<PartitionId, Lines>,
    overdue: Vec<PartitionId>,
    looked_ms: u64,
    /// What was taken over goes on with the next epoch, which is raised at one of the next looks.
    must_raise: bool,
    raised_ms: u64,
    /// Records on their way to the spool that Kafka was sent before.
    taken: HashSet<u32>,
    /// The identity whose record is being made durable.
    keeping: Option<Identity>,
    told: Told,
    totals: Totals,
}

/// Lines of one partition: more than one only after a change of the number of shards, or of a topic
/// that was made anew with fewer partitions.
type Lines = SmallVec<[usize; 2]>;

/// What the producer has of a line's partition.
#[derive(Default)]
struct Sent {
    /// The producer's partition, once Kafka has told of it, and the one that it is forwarded into.
    partition: Option<PartitionId>,
    forwarded_into: Option<PartitionId>,
    /// What was forwarded, in order.
    forwarded: VecDeque<Forwarded>,
    /// Live records that the spool may take over.
    live: usize,
    /// Kafka was late, and has not acknowledged a forwarded record in time since: records go to the
    /// spool at once. Given to Kafka they would be taken over again and again, and written each time.
    is_late: bool,
}

/// A spooled record that the producer has.
struct Forwarded {
    offset: u64,
    /// When the producer was given it.
    given_ms: u64,
    body: Bytes,
}

impl Sent {
    /// Whether the producer has forwarded records of it in this partition.
    fn has_forwarded_into(&self, id: PartitionId) -> bool {
        !self.forwarded.is_empty() && self.forwarded_into == Some(id)
    }

    /// Whether this is the record whose outcome is the next one's of the line. It is another's when
    /// the line was taken back meanwhile, and this goes again.
    fn is_next(&self, offset: u64) -> bool {
        self.forwarded.front().is_some_and(|first| first.offset == offset)
    }
}

/// What operators were told is wrong with Kafka.
#[derive(Default)]
struct Told {
    /// What was said lately, and when.
    lately: Vec<(String, u64)>,
}

impl Told {
    /// Tells of an error, unless the same was said lately.
    fn tell(&mut self, error: &Error, now_ms: u64) {
        let text = error.to_string();
        self.lately.retain(|&(_, at_ms)| now_ms < at_ms + KAFKA_ERROR_MS);
        if self.lately.len() < KAFKA_ERRORS && self.lately.iter().all(|(said, _)| *said != text) {
            tracing::warn!(error = text, "Kafka has a problem");
            self.lately.push((text, now_ms));
        }
    }
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Records that the spool has taken over or been given.
    pub spooled: u64,
    /// Records that were forwarded from the spool.
    pub forwarded: u64,
    /// Times that the spool took over a partition.
    pub take_overs: u64,
    /// Times that something was wrong with a broker.
    pub errors: u64,
}

/// Whether the record itself is why it was refused, so that it will be refused again.
fn is_of_the_record(why: Failure) -> bool {
    match why {
        Failure::Encoding => true,
        Failure::TimedOut => false,
        Failure::Refused(code) => matches!(
            code,
            ErrorCode::MESSAGE_TOO_LARGE
                | ErrorCode::RECORD_LIST_TOO_LARGE
                | ErrorCode::INVALID_RECORD
                | ErrorCode::INVALID_TIMESTAMP
        ),
    }
}

/// What a token of the producer means.
enum Token {
    /// A client's record.
    Live { record: u32, line: usize, only_log: bool },
    /// A spooled one.
    Forward { line: usize, offset: u64 },
}

impl Token {
    const FORWARD: u64 = 1 << 63;
    const ONLY_LOG: u64 = 1 << 62;
    const LIVE_LINE_BITS: u32 = 30;
    const OFFSET_BITS: u32 = 44;

    fn pack(self) -> u64 {
        match self {
            Token::Live { record, line, only_log } => {
                let flag = if only_log { Self::ONLY_LOG } else { 0 };
                flag | (line as u64) << 32 | u64::from(record)
            }
            Token::Forward { line, offset } => {
                let offset = offset & ((1 << Self::OFFSET_BITS) - 1);
                Self::FORWARD | (line as u64) << Self::OFFSET_BITS | offset
            }
        }
    }

    fn unpack(token: u64) -> Self {
        if token & Self::FORWARD == 0 {
            let line = (token >> 32) as usize & ((1 << Self::LIVE_LINE_BITS) - 1);
            let only_log = token & Self::ONLY_LOG != 0;
            return Token::Live { record: token as u32, line, only_log };
        }
        let token = token & !Self::FORWARD;
        let offset = token & ((1 << Self::OFFSET_BITS) - 1);
        Token::Forward { line: (token >> Self::OFFSET_BITS) as usize, offset }
    }
}

impl Kafka {
    /// Starts the client; call it inside the shard's runtime. The spool takes over after the first
    /// of the limits, in milliseconds; what it may not have is given up after the second.
    pub fn start(
        options: Options,
        spool: Spool,
        topics: &[Box<str>],
        (after_ms, timeout_ms): (u64, u64),
    ) -> Self {
        let client = Client::start(options);
        let topics: Vec<u32> = topics.iter().map(|topic| client.topic(topic)).collect();
        Self {
            groups: Groups::new(topics.clone()),
            client,
            routed: topics.len(),
            topics: topics.into_iter().map(Some).collect(),
            spool,
            after_ms,
            timeout_ms,
            outcomes: Vec::new(),
            ready: VecDeque::new(),
            sent: Vec::new(),
            lines: HashMap::new(),
            overdue: Vec::new(),
            looked_ms: 0,
            must_raise: false,
            raised_ms: 0,
            taken: HashSet::new(),
            keeping: None,
            told: Told::default(),
            totals: Totals::default(),
        }
    }

    /// Joins a group with a member of this shard.
    pub fn join(&mut self, consumer: u16, options: trine_core::kafka::consumer::Options) {
        self.groups.join(consumer, &self.client, options);
    }

    /// What talks to the brokers.
    pub fn client(&self) -> &Rc<Client> {
        &self.client
    }

    /// The members of this shard.
    pub fn groups(&mut self) -> &mut Groups {
        &mut self.groups
    }

    pub(super) fn has_left(&self) -> bool {
        self.groups.has_left()
    }

    /// The spool.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// What happened since the start.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    pub(super) fn partitions(&self, topic: u16) -> u32 {
        // While no broker answers, what an earlier start has learnt will do.
        self.spool.partitions(topic)
    }

    pub(super) fn append(
        &mut self,
        record: u32,
        topic: u16,
        partition: u32,
        body: Bytes,
        only_log: bool,
        now_ms: u64,
    ) -> Result<(), Unavailable> {
        if !self.spool.is_settled() {
            return Err(Unavailable::of(self.spool.store()));
        }
        if self.spool.record_bytes(topic).is_some_and(|limit| body.len() as u64 > limit) {
            return Err(Unavailable::TooLarge);
        }
        let line = self.line(topic, partition);
        let is_late = self.sent(line).is_late;
        let spooled = self.spool.get(line);
        if only_log && (spooled.holds() || is_late && !spooled.is_empty()) {
            return Err(Unavailable::Spooled);
        }
        if !only_log && (spooled.holds() || is_late) {
            self.spool_record(line, record, body, now_ms);
            return Ok(());
        }
        let token = Token::Live { record, line, only_log }.pack();
        let (kafka_topic, time_ms) = (self.topic(topic), crate::edge::wall_ms() as i64);
        match self.client.append(token, kafka_topic, partition, time_ms, &body) {
            Ok(()) => {
                self.sent[line].live += usize::from(!only_log);
                scratch::give_back_body(body);
                Ok(())
            }
            Err(NotTaken::Unknown) if only_log => Err(Unavailable::Failing),
            Err(NotTaken::Unknown) => {
                self.spool_record(line, record, body, now_ms);
                Ok(())
            }
            Err(NotTaken::Refused(Refused::Full)) => Err(Unavailable::Busy),
            Err(NotTaken::Refused(Refused::TooLarge(_))) => Err(Unavailable::TooLarge),
        }
    }

    fn spool_record(&mut self, line: usize, record: u32, body: Bytes, now_ms: u64) {
        self.totals.spooled += 1;
        self.spool.append(line, record, body, now_ms);
    }

    fn line(&mut self, topic: u16, partition: u32) -> usize {
        let line = self.spool.line(topic, partition);
        if self.sent(line).partition.is_none()
            && let Some(id) = self.client.partition(self.topic(topic), partition)
        {
            self.sent(line).partition = Some(id);
            // Lines of shards that are no more are known before the first record is taken.
            let its = |other: &Line| other.topic == topic && other.partition == partition;
            let others = 0..self.spool.len();
            let others = others.filter(|&other| other != line && its(self.spool.get(other)));
            let all: Lines = std::iter::once(line).chain(others).collect();
            all.into_iter().for_each(|line| self.forward_by(line, id));
        }
        line
    }

    /// A line forwards into a partition of the producer.
    fn forward_by(&mut self, line: usize, id: PartitionId) {
        let lines = self.lines.entry(id).or_default();
        if !lines.contains(&line) {
            lines.push(line);
        }
    }

    fn sent(&mut self, line: usize) -> &mut Sent {
        if self.sent.len() <= line {
            self.sent.resize_with(line + 1, Sent::default);
        }
        &mut self.sent[line]
    }

    fn topic(&self, number: u16) -> u32 {
        self.topics[number as usize].expect("a topic with a route or a spooled record")
    }

    pub(super) fn next_outcome(&mut self) -> Option<(u32, Appended)> {
        self.ready.pop_front()
    }

    pub(super) fn receive(&mut self, now_ms: u64) {
        let mut outcomes = std::mem::take(&mut self.outcomes);
        self.client.take_outcomes(&mut outcomes);
        for outcome in outcomes.drain(..) {
            self.outcome(outcome, now_ms);
        }
        self.outcomes = outcomes;
        self.groups.receive();
        self.spool.receive(now_ms);
        while let Some(event) = self.spool.next_event() {
            self.spool_event(event, now_ms);
        }
    }

    pub(super) fn flush(&mut self, now_ms: u64) {
        if now_ms >= self.looked_ms + SPOOL_LOOK_MS {
            self.looked_ms = now_ms;
            self.learn_partitions();
            self.take_over(now_ms);
            self.keep_identity();
            if let Some(error) = self.client.take_error() {
                self.totals.errors += 1;
                self.told.tell(&error, now_ms);
            }
            // An epoch that is durable already is used at once.
            while let Some(event) = self.spool.next_event() {
                self.spool_event(event, now_ms);
            }
        }
        self.spool.flush(now_ms);
        self.client.flush();
        self.groups.flush();
    }

    fn learn_partitions(&mut self) {
        for number in 0..self.routed as u16 {
            let known = self.client.partition_count(self.topic(number));
            self.spool.learn_partitions(number, known);
            if let Some(bytes) = self.client.record_bytes(self.topic(number)) {
                self.spool.learn_record_bytes(number, bytes as u64);
            }
        }
    }

    fn outcome(&mut self, outcome: Outcome, now_ms: u64) {
        let (token, answer) = match outcome {
            Outcome::Acknowledged { token, offset } => (token, Ok(offset)),
            Outcome::Failed { token, why, possibly_written } => {
                (token, Err((why, possibly_written)))
            }
        };
        let token = Token::unpack(token);
        if let Token::Live { line, only_log: false, .. } = token {
            self.sent[line].live -= 1;
        }
        match (token, answer) {
            (Token::Live { record, .. }, Ok(offset)) => {
                let offset = offset.and_then(|offset| u64::try_from(offset).ok());
                self.ready.push_back((record, Ok((At::Kafka, offset))));
            }
            (Token::Live { record, .. }, Err((why, possibly_written))) => {
                tracing::warn!(?why, possibly_written, "Kafka did not take a record");
                let why = match why {
                    _ if possibly_written => Unavailable::Lost,
                    why if is_of_the_record(why) => Unavailable::Refused,
                    _ => Unavailable::Failing,
                };
                self.ready.push_back((record, Err(why)));
            }
            (Token::Forward { line, offset }, answer) => {
                if self.sent[line].is_next(offset) {
                    self.forwarded(line, offset, answer.map(|_| ()), now_ms);
                }
            }
        }
    }

    /// The outcome of the first record that the producer has of a line.
    fn forwarded(
        &mut self,
        line: usize,
        offset: u64,
        answer: Result<(), (Failure, bool)>,
        now_ms: u64,
    ) {
        match answer {
            Ok(()) => {
                let first = self.sent[line].forwarded.pop_front();
                let given_ms = first.map_or(0, |first| first.given_ms);
                self.sent[line].is_late &= now_ms > given_ms + self.after_ms;
                self.totals.forwarded += 1;
                self.spool.acknowledged(line, offset);
            }
            Err((why, possibly_written)) if possibly_written || !is_of_the_record(why) => {
                tracing::warn!(?why, line, offset, "a spooled record is given to Kafka again");
                // What the producer has behind it must stay behind it.
                let id = self.sent[line].forwarded_into.expect("it was given records");
                self.take_over_partition(id, now_ms);
            }
            Err((why, _)) => {
                tracing::error!(line, offset, ?why, "Kafka refuses a spooled record for good");
                let first = self.sent[line].forwarded.pop_front();
                self.spool.refused(line, offset, first.map(|first| first.body).unwrap_or_default());
            }
        }
    }

    fn spool_event(&mut self, event: SpoolEvent, now_ms: u64) {
        match event {
            SpoolEvent::Open { last } => {
                for (topic, spooled) in self.spool.topics().skip(self.routed) {
                    if spooled > 0 {
                        let text =
                            "a topic without a route has spooled records; they are forwarded";
                        tracing::warn!(topic, spooled, text);
                    }
                    self.topics.push((spooled > 0).then(|| self.client.topic(topic)));
                }
                if let Some((id, epoch)) = last {
                    self.client.resume(Identity { id, epoch });
                }
            }
            SpoolEvent::Durable(record) => {
                self.taken.remove(&record);
                self.ready.push_back((record, Ok((At::Spool, None))));
            }
            SpoolEvent::Refused(record, line, why) => {
                // Nothing of the line is forwarded then that would show whether Kafka is late still.
                if let Some(line) = line
                    && self.spool.get(line).is_empty()
                {
                    self.sent(line).is_late = false;
                }
                let why = match why {
                    // Kafka was sent it before.
                    _ if self.taken.remove(&record) => Unavailable::Lost,
                    JournalRefused::Full => Unavailable::Full,
                    // Kafka may take it, once it is back.
                    JournalRefused::TooLarge => Unavailable::Failing,
                    JournalRefused::Lost => Unavailable::Lost,
                    JournalRefused::Closing => Unavailable::Closing,
                    JournalRefused::Busy => Unavailable::Busy,
                    JournalRefused::Failing => Unavailable::Failing,
                };
                self.ready.push_back((record, Err(why)));
            }
            SpoolEvent::Forward { line, records } => self.give(line, records, now_ms),
            SpoolEvent::Resume { last: (id, epoch) } => self.client.resume(Identity { id, epoch }),
            SpoolEvent::Identity => {
                if let Some(identity) = self.keeping.take() {
                    self.client.identity_recorded(identity);
                }
                if self.client.unrecorded_identity().is_none() {
                    self.spool.resumed();
                }
            }
        }
    }

    /// Gives Kafka what the spool has, as far as it takes it.
    fn give(&mut self, line: usize, records: Vec<(u64, u64, Bytes)>, now_ms: u64) {
        let (topic, partition) = (self.spool.get(line).topic, self.spool.get(line).partition);
        let topic_id = self.topic(topic);
        self.line(topic, partition);
        let Some((partition, id)) = self.forwards_into(topic_id, partition) else {
            return self.spool.gave(line, 0, records[0].0, now_ms, true);
        };
        let sent = self.sent(line);
        if sent.forwarded_into.is_some_and(|known| known != id) && !sent.forwarded.is_empty() {
            return self.spool.gave(line, 0, records[0].0, now_ms, true);
        }
        sent.forwarded_into = Some(id);
        self.forward_by(line, id);
        let (mut count, mut next, mut full) = (0, records[0].0, false);
        for (offset, time_ms, body) in records {
            // The other half is for live records, whose clients wait.
            if self.client.is_half_full() {
                full = true;
                break;
            }
            let token = Token::Forward { line, offset }.pack();
            let taken = self.client.append(token, topic_id, partition, time_ms as i64, &body);
            match taken {
                Ok(()) => {
                    let given = Forwarded { offset, given_ms: now_ms, body };
                    self.sent(line).forwarded.push_back(given);
                    (count, next) = (count + 1, offset + 1);
                }
                // What is underway before it comes first: the line is done up to where this one is.
                Err(NotTaken::Refused(Refused::TooLarge(_)))
                    if self.sent(line).forwarded.is_empty() =>
                {
                    tracing::error!(
                        line,
                        offset,
                        "a spooled record is longer than its topic takes"
                    );
                    self.spool.gave(line, 1, offset + 1, now_ms, false);
                    self.spool.refused(line, offset, body);
                    return;
                }
                Err(_) => {
                    full = true;
                    break;
                }
            }
        }
        self.spool.gave(line, count, next, now_ms, full);
    }

    /// The partition that spooled records of one are for now. One that is no more, since its topic was
    /// made anew with fewer, has its records spread over those that are there: in no order with
    /// newer ones, but none is lost.
    fn forwards_into(&self, topic: u32, partition: u32) -> Option<(u32, PartitionId)> {
        let partition = partition.checked_rem(self.client.partition_count(topic))?;
        Some((partition, self.client.partition(topic, partition)?))
    }

    /// Records that Kafka has not acknowledged in time go to the spool, in order. What came from there
    /// and is with a broker waits for it however late it is, unless live records are behind: nobody
    /// waits for it, and taken back it would be written again.
    fn take_over(&mut self, now_ms: u64) {
        let mut overdue = std::mem::take(&mut self.overdue);
        self.client.overdue(now_ms.saturating_sub(self.after_ms), &mut overdue);
        for id in overdue.drain(..) {
            let of_lines = self.lines[&id].iter().filter_map(|&line| self.sent.get(line));
            let live: usize = of_lines.clone().map(|sent| sent.live).sum();
            let has_forwarded = of_lines.clone().any(|sent| sent.has_forwarded_into(id));
            if live > 0 || (has_forwarded && self.is_lost(id)) {
                self.take_over_partition(id, now_ms);
            } else if has_forwarded {
                for &line in &self.lines[&id] {
                    if let Some(sent) = self.sent.get_mut(line) {
                        sent.is_late |= sent.has_forwarded_into(id);
                    }
                }
            } else {
                // Only the log may acknowledge what is there.
                self.client.expire(id, now_ms.saturating_sub(self.timeout_ms));
            }
        }
        self.overdue = overdue;
        // Epochs are few (32,767), so an outage uses them slowly.
        if self.must_raise && now_ms >= self.raised_ms + EPOCH_RAISE_MS {
            (self.must_raise, self.raised_ms) = (false, now_ms);
            self.client.raise_epoch();
        }
    }

    /// Whether no broker has what was forwarded into a partition, or it would go elsewhere now, since
    /// the partition is there no more.
    fn is_lost(&self, id: PartitionId) -> bool {
        let has_forwarded =
            |&&line: &&usize| self.sent.get(line).is_some_and(|sent| sent.has_forwarded_into(id));
        let is_elsewhere = |&line: &usize| {
            let Line { topic, partition, .. } = self.spool.get(line);
            let now = self.forwards_into(self.topic(*topic), *partition);
            now.map(|(_, into)| into) != Some(id)
        };
        !self.client.is_served(id) || self.lines[&id].iter().filter(has_forwarded).any(is_elsewhere)
    }

    fn take_over_partition(&mut self, id: PartitionId, now_ms: u64) {
        let lines = self.lines[&id].clone();
        self.totals.take_overs += 1;
        self.must_raise |= self.client.is_numbered(id);
        for &line in &lines {
            let is_elsewhere =
                |sent: &Sent| !sent.forwarded.is_empty() && !sent.has_forwarded_into(id);
            if self.sent.get(line).is_some_and(is_elsewhere) {
                continue;
            }
            self.spool.take_back(line, now_ms);
            if let Some(sent) = self.sent.get_mut(line) {
                sent.forwarded.clear();
                sent.is_late = true;
            }
        }
        for taken in self.client.take_over(id) {
            match Token::unpack(taken.token) {
                Token::Live { record, line, only_log: false } => {
                    self.sent[line].live -= 1;
                    self.taken.insert(record);
                    self.spool_record(line, record, taken.body, now_ms);
                }
                Token::Live { record, .. } => {
                    self.ready.push_back((record, Err(Unavailable::Lost)));
                }
                // It is in the spool as before.
                Token::Forward { .. } => {}
            }
        }
    }

    /// A producer's identity is durable before it is used, so that a later start can fence it.
    fn keep_identity(&mut self) {
        if self.keeping.is_none()
            && self.spool.is_open()
            && let Some(identity) = self.client.unrecorded_identity()
        {
            self.keeping = Some(identity);
            self.spool.keep_identity(identity.id, identity.epoch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trine_core::kafka::connection::What;

    #[test]
    fn the_same_trouble_is_told_once_a_minute() {
        let error = |port| Error { host: "kafka".into(), port, what: What::Closed };
        let mut told = Told::default();
        let mut tell = |error: &Error, now_ms| {
            told.tell(error, now_ms);
            told.lately.clone()
        };
        assert_eq!(tell(&error(1), 5).len(), 1);
        assert_eq!(tell(&error(2), 6).len(), 2, "of each broker");
        assert_eq!(tell(&error(1), 7)[0].1, 5, "not again");
        let later_ms = 5 + KAFKA_ERROR_MS;
        assert_eq!(tell(&error(1), later_ms)[1].1, later_ms, "as long as it lasts");
        let many = (10..).take(2 * KAFKA_ERRORS).map(|port| tell(&error(port), later_ms).len());
        assert_eq!(many.max(), Some(KAFKA_ERRORS));
    }
}
