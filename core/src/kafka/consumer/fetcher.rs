//! Fetching: what is wanted of which partition, and a fetch session with each leader.
//!
//! **Runs on: shard.** Sans-IO. A partition is in a request only while its caller wants more of it;
//! one that is not wanted is taken out of the session. One request a broker is unanswered.
//! Invariants: records come in order and without gap from the offset that was wanted; what comes for
//! an offset that is not wanted any more is thrown away. Source: KIP-227, KIP-320, KIP-951.

use super::TopicPartition;
use super::backoff::Backoff;
use super::records::Read;
use crate::kafka::producer::TopicId;
use crate::limits::{
    KAFKA_FETCH_BACKLOG_WAIT_MS, KAFKA_FETCH_PARTITION_BYTES, KAFKA_FETCH_WAIT_MS,
    KAFKA_REFUSED_MS, KAFKA_RETRY_MAX_MS,
};
use std::collections::BTreeMap;
use trine_proto::kafka::fetch::Session;
use trine_proto::kafka::{Action, ErrorCode, Leader, Uuid};

/// A topic whose id the brokers don't tell.
pub const NO_ID: Uuid = [0; 16];

/// A Fetch request to a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The session.
    pub session: Session,
    /// How long the broker may wait for records.
    pub wait_ms: u64,
    /// What is new in the session or changed: those of a topic side by side.
    pub partitions: Vec<(TopicPartition, Place)>,
    /// What the session no longer includes.
    pub forgotten: Vec<TopicPartition>,
}

/// Where to read in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The offset.
    pub offset: i64,
    /// Bytes wanted, at most, if one batch is not more.
    pub limit_bytes: i32,
    /// The leader's epoch, -1 if unknown.
    pub leader_epoch: i32,
    /// That of the record before the offset, -1 if unknown.
    pub last_epoch: i32,
    /// The id of the topic, [`NO_ID`] if that is not known.
    pub of: Uuid,
}

/// What a response says of a partition.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The partition.
    pub partition: TopicPartition,
    /// The id of its topic, [`NO_ID`] if that is not known.
    pub of: Uuid,
    /// The error.
    pub error: ErrorCode,
    /// The end: the last stable offset, or the high watermark.
    pub end_offset: i64,
    /// The log has other records than were read: its newest epoch up to the one that was told, and
    /// where that ends.
    pub diverging: Option<(i32, i64)>,
    /// What it holds.
    pub read: Read,
}

/// What has happened to a partition.
#[derive(Clone, Debug)]
pub enum Event {
    /// Records; the partition is not wanted any more until the caller says so again.
    Records(TopicPartition, Read),
    /// The wanted offset is not there, or it is one of another topic, which was made anew by the
    /// same name. Not wanted any more.
    OutOfRange(TopicPartition, i64),
    /// The log holds other records than were read of it, up to the offset, which is not wanted any
    /// more. Those that it has of the epoch, or of older ones, end at the last.
    Diverged(TopicPartition, i64, i32, i64),
    /// The broker refuses; it is tried again.
    Refused(TopicPartition, ErrorCode),
    /// What it holds from this offset on can't be read; it is tried again.
    Damaged(TopicPartition, i64, trine_proto::kafka::Error),
}

#[derive(Debug, Default)]
struct Partition {
    wanted: Option<(i64, i32)>,
    /// The topic that the wanted offset is of, as its first answer says.
    of: Uuid,
    backoff: Backoff,
    next_offset: i64,
    end_offset: i64,
}

impl Partition {
    /// The wanted offset means nothing any more.
    fn begin_anew(&mut self) {
        (self.wanted, self.of) = (None, NO_ID);
    }
}

#[derive(Debug)]
struct Broker {
    session: Session,
    /// What the session includes.
    included: BTreeMap<TopicPartition, Place>,
    is_unanswered: bool,
    wait_ms: u64,
    pause_ms: u64,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            session: Session::NEW,
            included: BTreeMap::new(),
            is_unanswered: false,
            wait_ms: KAFKA_FETCH_BACKLOG_WAIT_MS,
            pause_ms: 0,
        }
    }
}

impl Broker {
    fn begin_anew(&mut self) {
        self.session = Session::NEW;
        self.included.clear();
    }
}

/// What is fetched.
#[derive(Debug, Default)]
pub struct Fetcher {
    partitions: BTreeMap<TopicPartition, Partition>,
    brokers: BTreeMap<i32, Broker>,
    wants_metadata: bool,
    events: Vec<Event>,
}

impl Fetcher {
    /// Nothing is wanted yet of a partition that can be read from `next_offset` on.
    pub fn add(&mut self, partition: TopicPartition, next_offset: i64) {
        let added = Partition { next_offset, end_offset: -1, ..Partition::default() };
        self.partitions.insert(partition, added);
    }

    /// A partition is given up: nothing comes of it any more.
    pub fn remove(&mut self, partition: TopicPartition) {
        self.partitions.remove(&partition);
    }

    /// More is wanted of a partition, from `offset` on.
    pub fn want(&mut self, partition: TopicPartition, offset: i64, limit_bytes: usize) {
        if let Some(partition) = self.partitions.get_mut(&partition) {
            let limit = limit_bytes.clamp(1, KAFKA_FETCH_PARTITION_BYTES);
            partition.wanted = Some((offset, limit as i32));
            partition.next_offset = offset;
        }
    }

    /// Moves the events that have come up to `into`.
    pub fn take_events(&mut self, into: &mut Vec<Event>) {
        into.append(&mut self.events);
    }

    /// Whether metadata should be asked for, since something was not where it was thought to be.
    pub fn take_metadata_wish(&mut self) -> bool {
        std::mem::take(&mut self.wants_metadata)
    }

    /// Where a partition ends, -1 if that is not known, and where it is read.
    pub fn position(&self, partition: TopicPartition) -> Option<(i64, i64)> {
        self.partitions.get(&partition).map(|known| (known.end_offset, known.next_offset))
    }

    /// Where a partition is wanted to be read.
    pub fn offset(&self, partition: TopicPartition) -> Option<i64> {
        self.partitions.get(&partition)?.wanted.map(|wanted| wanted.0)
    }

    /// Where a partition ends, by another's word.
    pub fn ends(&mut self, partition: TopicPartition, end_offset: i64) {
        if let Some(known) = self.partitions.get_mut(&partition) {
            known.end_offset = known.end_offset.max(end_offset);
        }
    }

    /// The partitions that something is wanted of.
    pub fn wanted(&self) -> impl Iterator<Item = TopicPartition> {
        let wanted = self.partitions.iter().filter(|(_, partition)| partition.wanted.is_some());
        wanted.map(|(&partition, _)| partition)
    }

    /// When to ask for requests again although nothing has happened.
    pub fn deadline_ms(&self, now_ms: u64) -> u64 {
        let pauses = self.partitions.values().filter(|partition| partition.wanted.is_some());
        let pauses = pauses.map(|partition| partition.backoff.until_ms());
        let brokers = self.brokers.values().map(|broker| broker.pause_ms);
        pauses.chain(brokers).filter(|pause_ms| *pause_ms > now_ms).min().unwrap_or(u64::MAX)
    }

    /// The next request to a broker that can be sent to. `last_epoch` says of which epoch the record
    /// before an offset was that was read, -1: nobody knows; `id_of` a topic's id.
    pub fn next_request(
        &mut self,
        broker: i32,
        leader: impl Fn(TopicPartition) -> Option<Leader>,
        last_epoch: impl Fn(TopicPartition, i64) -> i32,
        id_of: impl Fn(TopicId) -> Uuid,
        now_ms: u64,
    ) -> Option<Request> {
        let at_broker = self.brokers.entry(broker).or_default();
        if at_broker.is_unanswered || at_broker.pause_ms > now_ms {
            return None;
        }
        // A topic that was made anew stays in the session by its old id, as an error without end.
        if at_broker.included.iter().any(|(place, at)| at.of != id_of(place.topic)) {
            at_broker.begin_anew();
        }
        let mut wanted = BTreeMap::new();
        let mut has_backlog = false;
        for (&place, partition) in &self.partitions {
            let Some(leader) = leader(place).filter(|leader| leader.id == broker) else { continue };
            match partition.wanted {
                Some((offset, limit_bytes)) if partition.backoff.until_ms() <= now_ms => {
                    let (leader_epoch, last_epoch) = (leader.epoch, last_epoch(place, offset));
                    let of = id_of(place.topic);
                    let at = Place { offset, limit_bytes, leader_epoch, last_epoch, of };
                    wanted.insert(place, at);
                }
                _ => has_backlog |= partition.next_offset < partition.end_offset,
            }
        }
        if wanted.is_empty() {
            return None;
        }
        let forgotten = at_broker.included.keys().filter(|place| !wanted.contains_key(place));
        let forgotten = forgotten.copied().collect();
        let is_news =
            |(place, at): &(&TopicPartition, &Place)| at_broker.included.get(place) != Some(*at);
        let partitions = wanted.iter().filter(is_news);
        let partitions = partitions.map(|(&place, &at)| (place, at)).collect();
        at_broker.included = wanted;
        at_broker.is_unanswered = true;
        // What has more to give and is not wanted just now will be soon, and then has to wait for
        // the end of this request.
        let wait_ms = if has_backlog { at_broker.wait_ms } else { KAFKA_FETCH_WAIT_MS };
        Some(Request { session: at_broker.session, wait_ms, partitions, forgotten })
    }

    /// The answer of a broker.
    pub fn fetched(
        &mut self,
        broker: i32,
        session_id: i32,
        error: ErrorCode,
        answer: Vec<Fetched>,
        now_ms: u64,
    ) {
        let Some(of) = self.brokers.get_mut(&broker) else { return };
        of.is_unanswered = false;
        if !error.is_none() {
            of.begin_anew();
            if error.action() != Action::ResetSession {
                of.pause_ms = now_ms + KAFKA_RETRY_MAX_MS;
                self.wants_metadata = true;
            }
            return;
        }
        of.session = match (session_id, of.session.epoch) {
            (0, _) => Session::NEW,
            (id, i32::MAX) => Session { id, epoch: 1 },
            (id, epoch) => Session { id, epoch: epoch + 1 },
        };
        let included = match session_id {
            0 => std::mem::take(&mut of.included),
            _ => of.included.clone(),
        };
        let mut has_records = false;
        for fetched in answer {
            let Some(at) = included.get(&fetched.partition) else { continue };
            has_records |= !fetched.read.records.is_empty();
            self.take_in(broker, fetched, *at, now_ms);
        }
        if let Some(of) = self.brokers.get_mut(&broker) {
            of.wait_ms = match has_records {
                true => KAFKA_FETCH_BACKLOG_WAIT_MS,
                false => (of.wait_ms * 2).min(KAFKA_FETCH_WAIT_MS),
            };
        }
    }

    fn take_in(&mut self, broker: i32, fetched: Fetched, at: Place, now_ms: u64) {
        let offset = at.offset;
        let Fetched { partition: place, of, error, end_offset, diverging, read } = fetched;
        let Some(partition) = self.partitions.get_mut(&place) else { return };
        if partition.wanted.is_none_or(|wanted| wanted.0 != offset) {
            return;
        }
        if !error.is_none() {
            partition.backoff.failed(now_ms);
            match error.action() {
                Action::ResetOffset => {
                    partition.begin_anew();
                    partition.backoff.wait_until(0);
                    self.events.push(Event::OutOfRange(place, offset));
                }
                Action::RefreshMetadata => {
                    self.wants_metadata = true;
                    let is_renamed = matches!(
                        error,
                        ErrorCode::UNKNOWN_TOPIC_ID | ErrorCode::INCONSISTENT_TOPIC_ID
                    );
                    if let Some(of) = self.brokers.get_mut(&broker).filter(|_| is_renamed) {
                        of.begin_anew();
                    }
                }
                Action::Retry => {}
                _ => {
                    partition.backoff.wait_until(now_ms + KAFKA_REFUSED_MS);
                    self.events.push(Event::Refused(place, error));
                }
            }
            return;
        }
        if partition.of != NO_ID && of != NO_ID && partition.of != of {
            partition.begin_anew();
            return self.events.push(Event::OutOfRange(place, offset));
        }
        if let Some((epoch, end)) = diverging {
            partition.wanted = None;
            // Without a leader since it is no log that was cut: it is another one.
            let is_cut = at.leader_epoch > at.last_epoch && at.last_epoch >= 0;
            return self.events.push(match is_cut && (end < offset || epoch < at.last_epoch) {
                true => Event::Diverged(place, offset, epoch, end),
                false => Event::OutOfRange(place, offset),
            });
        }
        if of != NO_ID {
            partition.of = of;
        }
        partition.end_offset = end_offset;
        if let Some(damage) = read.damage.filter(|_| read.next_offset == offset) {
            partition.backoff.wait_until(now_ms + KAFKA_REFUSED_MS);
            self.events.push(Event::Damaged(place, offset, damage));
            return;
        }
        partition.backoff.succeeded();
        if read.next_offset > offset {
            partition.wanted = None;
            partition.next_offset = read.next_offset;
            self.events.push(Event::Records(place, read));
        }
    }

    /// The connection to a broker has ended: what was asked has no answer.
    pub fn disconnected(&mut self, broker: i32) {
        self.brokers.remove(&broker);
        self.wants_metadata = true;
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::Record;
    use super::*;
    use crate::limits::KAFKA_RETRY_MS;
    use bytes::Bytes;

    const A: TopicPartition = TopicPartition { topic: 0, partition: 0 };
    const B: TopicPartition = TopicPartition { topic: 0, partition: 1 };
    const ID: Uuid = [7; 16];

    fn leader(_: TopicPartition) -> Option<Leader> {
        Some(Leader { id: 1, epoch: 3 })
    }

    /// What was read of A is of epoch 2, but for the end.
    fn last_epoch(place: TopicPartition, next_offset: i64) -> i32 {
        match (place, next_offset) {
            (A, ..6) => 2,
            (A, _) => 3,
            _ => -1,
        }
    }

    fn id_of(_: TopicId) -> Uuid {
        ID
    }

    fn fetcher() -> Fetcher {
        let mut fetcher = Fetcher::default();
        fetcher.add(A, 5);
        fetcher.add(B, 7);
        fetcher.want(A, 5, 1000);
        fetcher.want(B, 7, 1000);
        fetcher
    }

    fn records(partition: TopicPartition, offset: i64, next_offset: i64, end: i64) -> Fetched {
        let record = |offset| Record { offset, timestamp_ms: 0, body: Bytes::new() };
        let records = (offset..next_offset).map(record).collect();
        let read = Read { records, next_offset, ..Read::default() };
        let (of, error) = (ID, ErrorCode::NONE);
        Fetched { partition, of, error, end_offset: end, diverging: None, read }
    }

    fn refused(partition: TopicPartition, error: ErrorCode) -> Fetched {
        let read = Read::default();
        Fetched { partition, of: ID, error, end_offset: -1, diverging: None, read }
    }

    fn offsets(request: &Request) -> Vec<(u32, i64)> {
        request.partitions.iter().map(|(place, at)| (place.partition, at.offset)).collect()
    }

    #[test]
    fn a_session_that_knows_a_topic_by_another_id_begins_anew() {
        let mut fetcher = fetcher();
        fetcher.next_request(1, leader, last_epoch, id_of, 0).unwrap();
        fetcher.fetched(1, 77, ErrorCode::NONE, vec![], 0);
        let request = fetcher.next_request(1, leader, last_epoch, id_of, 0).unwrap();
        assert_eq!((request.session.id, offsets(&request)), (77, vec![]));
        fetcher.fetched(1, 77, ErrorCode::NONE, vec![], 0);
        let request = fetcher.next_request(1, leader, last_epoch, |_| [9; 16], 0).unwrap();
        assert_eq!((request.session, offsets(&request)), (Session::NEW, vec![(0, 5), (1, 7)]));
    }

    #[test]
    fn a_session_is_told_what_changed_and_forgets_what_is_not_wanted() {
        let mut fetcher = fetcher();
        let request = fetcher.next_request(1, leader, last_epoch, id_of, 0).unwrap();
        assert_eq!((request.session, offsets(&request)), (Session::NEW, vec![(0, 5), (1, 7)]));
        assert_eq!(request.wait_ms, KAFKA_FETCH_WAIT_MS);
        assert!(fetcher.next_request(1, leader, last_epoch, id_of, 0).is_none(), "one at a time");
        fetcher.fetched(1, 77, ErrorCode::NONE, vec![records(A, 5, 8, 20)], 0);
        let request = fetcher.next_request(1, leader, last_epoch, id_of, 0).unwrap();
        assert_eq!(request.session, Session { id: 77, epoch: 1 });
        assert_eq!((offsets(&request), request.forgotten), (vec![], vec![A]));
        assert_eq!(request.wait_ms, KAFKA_FETCH_BACKLOG_WAIT_MS, "A has more");
        fetcher.fetched(1, 77, ErrorCode::NONE, vec![], 0);
        fetcher.want(A, 8, 1000);
        let request = fetcher.next_request(1, leader, last_epoch, id_of, 0).unwrap();
        assert_eq!((request.session.epoch, offsets(&request)), (2, vec![(0, 8)]));
        let mut events = Vec::new();
        fetcher.take_events(&mut events);
        assert!(matches!(&events[..], [Event::Records(A, read)] if read.records.len() == 3));
    }

    #[test]
    fn a_lost_session_begins_anew_with_everything_wanted() {
        let mut fetcher = fetcher();
        fetcher.next_request(1, leader, last_epoch, id_of, 0).unwrap();
        fetcher.fetched(1, 77, ErrorCode::NONE, vec![], 0);
        fetcher.next_request(1, leader, last_epoch, id_of, 0).unwrap();
        fetcher.fetched(1, 0, ErrorCode::FETCH_SESSION_ID_NOT_FOUND, vec![], 0);
        let request = fetcher.next_request(1, leader, last_epoch, id_of, 0).unwrap();
        assert_eq!((request.session, offsets(&request)), (Session::NEW, vec![(0, 5), (1, 7)]));
        // A broker without room for sessions gives none.
        fetcher.fetched(1, 0, ErrorCode::NONE, vec![], 0);
        let request = fetcher.next_request(1, leader, last_epoch, id_of, 0).unwrap();
        assert_eq!((request.session, offsets(&request).len()), (Session::NEW, 2));
        fetcher.disconnected(1);
        assert!(fetcher.take_metadata_wish());
        let request = fetcher.next_request(1, leader, last_epoch, id_of, 0).unwrap();
        assert_eq!((request.session, offsets(&request).len()), (Session::NEW, 2));
    }

    #[test]
    fn what_is_not_wanted_any_more_is_thrown_away() {
        let mut fetcher = fetcher();
        fetcher.next_request(1, leader, last_epoch, id_of, 0).unwrap();
        fetcher.want(A, 2, 1000);
        fetcher.remove(B);
        let answer = vec![records(A, 5, 8, 8), records(B, 7, 9, 9)];
        fetcher.fetched(1, 77, ErrorCode::NONE, answer, 0);
        let mut events = Vec::new();
        fetcher.take_events(&mut events);
        assert!(events.is_empty(), "{events:?}");
        let request = fetcher.next_request(1, leader, last_epoch, id_of, 0).unwrap();
        assert_eq!((offsets(&request), request.forgotten), (vec![(0, 2)], vec![B]));
    }

    #[test]
    fn a_log_that_has_other_records_than_were_read_is_told_of() {
        // The leader is of epoch 3, and what was read of 2.
        let cases = [
            ((2, 3), Event::Diverged(A, 5, 2, 3)),
            ((1, 20), Event::Diverged(A, 5, 1, 20)),
            // A broker's mistake: no record is passed over for it.
            ((2, 7), Event::OutOfRange(A, 5)),
        ];
        for (told, expected) in cases {
            let mut fetcher = fetcher();
            let request = fetcher.next_request(1, leader, last_epoch, id_of, 0).unwrap();
            let epochs = request.partitions.iter().map(|(_, at)| at.last_epoch);
            assert_eq!(epochs.collect::<Vec<_>>(), [2, -1]);
            let diverged = Fetched { diverging: Some(told), ..records(A, 5, 5, 9) };
            let silent = Fetched { diverging: None, ..records(B, 7, 8, 9) };
            fetcher.fetched(1, 77, ErrorCode::NONE, vec![diverged, silent], 0);
            let mut events = Vec::new();
            fetcher.take_events(&mut events);
            assert_eq!(format!("{:?}", events[0]), format!("{expected:?}"));
            assert!(
                fetcher.next_request(1, leader, last_epoch, id_of, 0).is_none(),
                "nothing is wanted any more"
            );
        }
        // The leader that what was read is of has no reason to have less: another log of that name.
        let mut fetcher = fetcher();
        fetcher.want(A, 6, 1000);
        fetcher.next_request(1, leader, last_epoch, id_of, 0).unwrap();
        let shorter = Fetched { diverging: Some((3, 4)), ..records(A, 4, 4, 4) };
        fetcher.fetched(1, 77, ErrorCode::NONE, vec![shorter], 0);
        let mut events = Vec::new();
        fetcher.take_events(&mut events);
        assert!(matches!(&events[..], [Event::OutOfRange(A, 6)]), "{events:?}");
    }

    /// Its offsets begin anew, however far they go by now: also where they end at the wanted one.
    #[test]
    fn what_is_of_another_topic_of_the_same_name_is_not_read_on() {
        let mut fetcher = fetcher();
        let mut answered = |fetched: Fetched, then: i64| {
            fetcher.next_request(1, leader, |_, _| -1, id_of, 0).expect("A is wanted");
            fetcher.fetched(1, 0, ErrorCode::NONE, vec![fetched], 0);
            let mut events = Vec::new();
            fetcher.take_events(&mut events);
            fetcher.want(A, then, 1000);
            events.pop()
        };
        let of = |of, fetched| Fetched { of, ..fetched };
        assert!(matches!(answered(records(A, 5, 8, 8), 8), Some(Event::Records(A, _))));
        // Who tells no ids, as an older broker, tells nothing else.
        assert!(answered(of(NO_ID, records(A, 8, 8, 8)), 8).is_none());
        for (made_anew, fetched) in [([8; 16], records(A, 8, 8, 8)), (ID, records(A, 8, 9, 20))] {
            let event = answered(of(made_anew, fetched), 0);
            assert!(matches!(event, Some(Event::OutOfRange(A, 8))), "{event:?}");
            let event = answered(of(made_anew, records(A, 0, 8, 8)), 8);
            assert!(matches!(event, Some(Event::Records(A, _))), "{event:?}");
        }
        // Where it has told already that the offset is not there, it is not told again.
        let gone = of([8; 16], refused(A, ErrorCode::OFFSET_OUT_OF_RANGE));
        assert!(matches!(answered(gone, 0), Some(Event::OutOfRange(A, 8))));
        let event = answered(of([8; 16], records(A, 0, 8, 8)), 8);
        assert!(matches!(event, Some(Event::Records(A, _))), "{event:?}");
    }

    #[test]
    fn errors_pause_a_partition_and_nothing_else() {
        let mut fetcher = fetcher();
        fetcher.next_request(1, leader, last_epoch, id_of, 0).unwrap();
        let moved = refused(A, ErrorCode::NOT_LEADER_OR_FOLLOWER);
        fetcher.fetched(1, 77, ErrorCode::NONE, vec![moved, records(B, 7, 8, 8)], 0);
        assert!(fetcher.take_metadata_wish());
        assert!(fetcher.next_request(1, leader, last_epoch, id_of, 0).is_none());
        fetcher.want(B, 8, 1000);
        let request = fetcher.next_request(1, leader, last_epoch, id_of, 0).unwrap();
        assert_eq!(offsets(&request), [(1, 8)]);
        fetcher.fetched(1, 77, ErrorCode::NONE, vec![], 0);
        let due_ms = fetcher.deadline_ms(0);
        assert_eq!(due_ms, KAFKA_RETRY_MS);
        let elsewhere = |place| Some(Leader { id: if place == A { 2 } else { 1 }, epoch: 4 });
        let request = fetcher.next_request(2, elsewhere, last_epoch, id_of, due_ms).unwrap();
        assert_eq!(offsets(&request), [(0, 5)]);
        let gone = refused(A, ErrorCode::OFFSET_OUT_OF_RANGE);
        fetcher.fetched(2, 9, ErrorCode::NONE, vec![gone], due_ms);
        let mut events = Vec::new();
        fetcher.take_events(&mut events);
        assert!(matches!(events.last(), Some(Event::OutOfRange(A, 5))), "{events:?}");
        fetcher.want(A, 6, 10);
        assert!(fetcher.next_request(2, elsewhere, last_epoch, id_of, due_ms).is_some());
    }

    #[test]
    fn damage_behind_whole_records_shows_only_when_it_is_reached() {
        let mut fetcher = fetcher();
        fetcher.next_request(1, leader, last_epoch, id_of, 0).unwrap();
        let damage = Some(trine_proto::kafka::Error::Checksum);
        let mut first = records(A, 5, 6, 9);
        first.read.damage = damage;
        fetcher.fetched(1, 0, ErrorCode::NONE, vec![first], 0);
        fetcher.want(A, 6, 1000);
        fetcher.next_request(1, leader, last_epoch, id_of, 0).unwrap();
        let mut second = records(A, 6, 6, 9);
        second.read.damage = damage;
        fetcher.fetched(1, 0, ErrorCode::NONE, vec![second], 0);
        let mut events = Vec::new();
        fetcher.take_events(&mut events);
        assert!(matches!(events[0], Event::Records(A, _)));
        assert!(matches!(events[1], Event::Damaged(A, 6, _)));
        assert!(fetcher.deadline_ms(0) <= KAFKA_REFUSED_MS);
    }
}
