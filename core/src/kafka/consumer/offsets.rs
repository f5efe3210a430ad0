//! Where a group's partitions are read from, and what is committed.
//!
//! **Runs on: shard.** Sans-IO. A partition that was assigned is *ready* once its committed offset is
//! known; where there is none its start is found and committed first. Invariants: nothing is fetched
//! before there is a committed offset; a commit is never behind the one before it, except after the
//! log has lost what was committed; of a partition that was given up nothing is committed any more.
//!
//! With [`Start::Latest`] only what was there when the group began starts at its end: each commit
//! carries in its metadata when the group began with the topic and how many partitions there were.
//! A later partition starts at its earliest record, and one of the first whose start nobody has
//! committed starts at the group's own beginning, by time, so that a crash meanwhile skips nothing.

use super::TopicPartition;
use super::backoff::Backoff;
use super::epochs::Epochs;
use crate::kafka::producer::TopicId;
use crate::limits::{KAFKA_COMMIT_DELAY_MS, KAFKA_REFUSED_MS, KAFKA_RETRY_MAX_MS, KAFKA_RETRY_MS};
use std::collections::BTreeMap;
use trine_proto::kafka::{Action, ErrorCode, list_offsets};

/// Where a group begins that has committed nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the end: what comes from now on.
    #[default]
    Latest,
    /// At the first record that is kept.
    Earliest,
}

/// When a group began with a topic, and how many partitions there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Beginning {
    unix_ms: i64,
    count: u32,
}

impl Beginning {
    /// As the metadata of a commit.
    fn text(self) -> String {
        format!("began={} partitions={}", self.unix_ms, self.count)
    }

    fn parse(text: &str) -> Option<Self> {
        let (unix_ms, count) = text.strip_prefix("began=")?.split_once(" partitions=")?;
        Some(Self { unix_ms: unix_ms.parse().ok()?, count: count.parse().ok()? })
    }
}

/// What is known of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its committed offset is to be asked for, or was.
    Unknown,
    /// There is none: the offset of this time is to be asked for.
    Starting(i64),
    /// This is its start, to be committed.
    Started,
    Ready,
    /// What it wanted is not there any more: the earliest offset is to be asked for.
    OutOfRange(i64),
    /// It is to be given up, and what was delivered of it is not there any more: nothing of it is
    /// committed.
    Over,
}

#[derive(Debug)]
struct Known {
    stage: Stage,
    /// A ListOffsets for it is unanswered.
    is_listing: bool,
    backoff: Backoff,
    committed: Option<i64>,
    /// What is to be committed.
    pending: Option<i64>,
    /// What the unanswered commit says.
    sent: Option<i64>,
    /// It is to be given up, and others wait for that.
    is_revoked: bool,
    epochs: Epochs,
}

/// What has happened to a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It can be read from here on.
    Ready(TopicPartition, i64),
    /// This is committed.
    Committed(TopicPartition, i64),
    /// A commit was dropped: its offset is not there any more, or it was refused for a partition
    /// that is to be given up.
    NotCommitted(TopicPartition),
    /// The offset is not there any more, or other records are before it; the second is where to go on.
    OutOfRange(TopicPartition, i64, i64),
    /// A request about it was refused; it is tried again.
    Failed(TopicPartition, &'static str, ErrorCode),
}

/// An offset to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The partition.
    pub partition: TopicPartition,
    /// The offset of the next record to read.
    pub next_offset: i64,
    /// The leader's epoch of the record before it, -1 if unknown.
    pub last_epoch: i32,
    /// When the group began.
    pub metadata: Option<String>,
}

/// What the group has committed of a partition, as OffsetFetch tells.
#[derive(Clone, Copy, Debug)]
pub struct Committed<'a> {
    /// The partition.
    pub partition: TopicPartition,
    /// The offset, -1 for none.
    pub offset: i64,
    /// The leader's epoch of the record before it, -1 if unknown.
    pub last_epoch: i32,
    /// The committer's words.
    pub metadata: Option<&'a str>,
    /// The error.
    pub error: ErrorCode,
}

/// The offsets of a member's partitions.
#[derive(Debug)]
pub struct Offsets {
    start: Start,
    started_unix_ms: i64,
    known: BTreeMap<TopicPartition, Known>,
    beginnings: BTreeMap<TopicId, Beginning>,
    is_fetching: bool,
    fetch: Backoff,
    is_committing: bool,
    commit: Backoff,
    events: Vec<Event>,
}

impl Offsets {
    /// Knows nothing yet. `started_unix_ms`: the time now.
    pub fn new(start: Start, started_unix_ms: i64) -> Self {
        Self {
            start,
            started_unix_ms,
            known: BTreeMap::new(),
            beginnings: BTreeMap::new(),
            is_fetching: false,
            fetch: Backoff::default(),
            is_committing: false,
            commit: Backoff::default(),
            events: Vec::new(),
        }
    }

    /// A partition is the member's.
    pub fn add(&mut self, partition: TopicPartition) {
        let known = Known {
            stage: Stage::Unknown,
            is_listing: false,
            backoff: Backoff::default(),
            committed: None,
            pending: None,
            sent: None,
            is_revoked: false,
            epochs: Epochs::default(),
        };
        self.known.insert(partition, known);
    }

    /// A partition is to be given up: a commit of it that is refused is dropped, not tried again.
    pub fn revoke(&mut self, partition: TopicPartition) {
        if let Some(known) = self.known.get_mut(&partition) {
            known.is_revoked = true;
        }
    }

    /// A partition was given up, or is lost.
    pub fn remove(&mut self, partition: TopicPartition) {
        self.known.remove(&partition);
        // What it was told is of that life of it, should it come back at once.
        self.events.retain(|event| !matches!(event, Event::Ready(of, _) if *of == partition));
    }

    /// Everything before `next_offset` is delivered. Less than what was said before is not heard.
    pub fn commit(&mut self, partition: TopicPartition, next_offset: i64) {
        let Some(known) = self.known.get_mut(&partition) else { return };
        let last = known.pending.or(known.sent).or(known.committed);
        if known.stage != Stage::Ready {
            self.events.push(Event::NotCommitted(partition));
        } else if last.is_none_or(|last| last < next_offset) {
            known.pending = Some(next_offset);
        } else if known.pending.is_none() && known.sent.is_none() {
            self.events.push(Event::Committed(partition, next_offset));
        }
    }

    /// Whether nothing of a partition waits to be committed.
    pub fn is_settled(&self, partition: TopicPartition) -> bool {
        let settled = |known: &Known| known.pending.is_none() && known.sent.is_none();
        self.known.get(&partition).is_none_or(settled)
    }

    /// What is committed of a partition.
    pub fn committed(&self, partition: TopicPartition) -> Option<i64> {
        self.known.get(&partition)?.committed
    }

    /// Records were read that are of these leaders' epochs from these offsets on.
    pub fn read(&mut self, partition: TopicPartition, epochs: &[(i64, i32)]) {
        if let Some(known) = self.known.get_mut(&partition) {
            epochs.iter().for_each(|&(first, epoch)| known.epochs.read(first, epoch));
        }
    }

    /// The leader's epoch of the record before an offset, -1 if unknown.
    pub fn last_epoch(&self, partition: TopicPartition, next_offset: i64) -> i32 {
        self.known.get(&partition).map_or(-1, |known| known.epochs.before(next_offset))
    }

    /// A partition holds other records than were read of it, up to `wanted`: those that it has up to
    /// this epoch end at `end`, and of newer ones it has others.
    pub fn diverged(&mut self, partition: TopicPartition, wanted: i64, epoch: i32, end: i64) {
        let Some(known) = self.known.get(&partition) else { return };
        if known.stage == Stage::Ready {
            let newer = known.epochs.first_above(epoch).unwrap_or(wanted);
            self.go_on(partition, wanted, end.min(newer).min(wanted));
        }
    }

    /// What was wanted of a partition is not there any more: it goes on at another offset.
    fn go_on(&mut self, partition: TopicPartition, wanted: i64, first: i64) {
        let Some(known) = self.known.get_mut(&partition) else { return };
        known.stage = if known.is_revoked { Stage::Over } else { Stage::Ready };
        known.epochs.cut(first);
        // Of a log that was cut an earlier offset counts now, whatever is still to be answered.
        known.committed = known.committed.filter(|committed| *committed <= first);
        let sent = known.sent.take_if(|_| first < wanted);
        if known.pending.take().or(sent).is_some() {
            self.events.push(Event::NotCommitted(partition));
        }
        self.events.push(Event::OutOfRange(partition, wanted, first));
    }

    /// The offset that a partition wanted is not there, or of another topic by now: nobody knows
    /// the epoch of the record before the one where it goes on.
    pub fn out_of_range(&mut self, partition: TopicPartition, offset: i64) {
        if let Some(known) = self.known.get_mut(&partition) {
            known.stage = Stage::OutOfRange(offset);
            known.epochs = Epochs::default();
            if known.pending.take().is_some() {
                self.events.push(Event::NotCommitted(partition));
            }
        }
    }

    /// Moves the events that have come up to `into`.
    pub fn take_events(&mut self, into: &mut Vec<Event>) {
        into.append(&mut self.events);
    }

    /// When to ask for requests again although nothing has happened.
    pub fn deadline_ms(&self) -> u64 {
        let mut due_ms = u64::MAX;
        for known in self.known.values() {
            let at_ms = match known.stage {
                Stage::Unknown if self.is_fetching => u64::MAX,
                Stage::Unknown => self.fetch.until_ms(),
                Stage::Starting(_) | Stage::OutOfRange(_) if known.is_listing => u64::MAX,
                Stage::Starting(_) | Stage::OutOfRange(_) => known.backoff.until_ms(),
                Stage::Started | Stage::Ready | Stage::Over => u64::MAX,
            };
            let waits = known.pending.is_some() && !self.is_committing;
            let commit_ms =
                if waits { self.commit.until_ms().max(known.backoff.until_ms()) } else { u64::MAX };
            due_ms = due_ms.min(at_ms).min(commit_ms);
        }
        due_ms
    }
}

/// The committed offsets and the starts.
impl Offsets {
    /// The topics whose committed offsets, of all partitions, are to be asked for. Empty: none now.
    pub fn next_fetch(&mut self, now_ms: u64) -> Vec<TopicId> {
        if self.is_fetching || now_ms < self.fetch.until_ms() {
            return Vec::new();
        }
        let unknown = self.known.iter().filter(|(_, known)| known.stage == Stage::Unknown);
        let mut topics: Vec<_> = unknown.map(|(partition, _)| partition.topic).collect();
        topics.dedup();
        self.is_fetching = !topics.is_empty();
        topics
    }

    /// The answer to [`Offsets::next_fetch`]; `count` says how many partitions a topic has.
    pub fn fetched(
        &mut self,
        answer: &[Committed<'_>],
        count: impl Fn(TopicId) -> u32,
        now_ms: u64,
    ) {
        self.is_fetching = false;
        self.fetch.succeeded();
        let mut has_any: BTreeMap<TopicId, bool> = BTreeMap::new();
        for committed in answer {
            *has_any.entry(committed.partition.topic).or_default() |= committed.offset >= 0;
            if let Some(beginning) = committed.metadata.and_then(Beginning::parse) {
                // Of several members that began at the same time the first one counts.
                let known = self.beginnings.entry(committed.partition.topic).or_insert(beginning);
                if beginning.unix_ms < known.unix_ms {
                    *known = beginning;
                }
            }
        }
        for committed in answer {
            let topic = committed.partition.topic;
            let Some(known) = self.known.get_mut(&committed.partition) else { continue };
            if known.stage != Stage::Unknown {
                continue;
            }
            if !committed.error.is_none() {
                self.fetch.wait_until(now_ms + KAFKA_RETRY_MAX_MS);
                let (partition, error) = (committed.partition, committed.error);
                if !error.is_retriable() {
                    self.events.push(Event::Failed(partition, "OffsetFetch", error));
                }
                continue;
            }
            if committed.offset >= 0 {
                known.stage = Stage::Ready;
                known.committed = Some(committed.offset);
                known.epochs = Epochs::at(committed.offset, committed.last_epoch);
                self.events.push(Event::Ready(committed.partition, committed.offset));
                continue;
            }
            let has_begun = has_any.get(&topic) == Some(&true);
            let time = match (self.start, self.beginnings.get(&topic)) {
                (Start::Earliest, _) => list_offsets::EARLIEST,
                (_, None) if has_begun => list_offsets::EARLIEST,
                (_, Some(began)) if committed.partition.partition >= began.count => {
                    list_offsets::EARLIEST
                }
                (_, Some(began)) if has_begun => began.unix_ms,
                _ => list_offsets::LATEST,
            };
            known.stage = Stage::Starting(time);
        }
        if self.known.values().any(|known| known.stage == Stage::Unknown) {
            self.fetch.wait_until(self.fetch.until_ms().max(now_ms + KAFKA_RETRY_MS));
        }
        for (topic, has_begun) in has_any {
            if self.start == Start::Latest && !has_begun {
                let beginning = Beginning { unix_ms: self.started_unix_ms, count: count(topic) };
                self.beginnings.entry(topic).or_insert(beginning);
            }
        }
    }

    /// There is no answer to [`Offsets::next_fetch`], or an error of the whole.
    pub fn fetch_failed(&mut self, now_ms: u64) {
        self.is_fetching = false;
        self.fetch.failed(now_ms);
    }

    /// The partitions whose offset of a time is to be asked for at their leaders, of those that
    /// `may_ask` allows.
    pub fn next_lists(
        &mut self,
        now_ms: u64,
        may_ask: impl Fn(TopicPartition) -> bool,
    ) -> Vec<(TopicPartition, i64)> {
        let mut lists = Vec::new();
        for (&partition, known) in &mut self.known {
            let time = match known.stage {
                Stage::Starting(time) => time,
                Stage::OutOfRange(_) => list_offsets::EARLIEST,
                _ => continue,
            };
            if !known.is_listing && known.backoff.until_ms() <= now_ms && may_ask(partition) {
                known.is_listing = true;
                lists.push((partition, time));
            }
        }
        lists
    }

    /// The answer for a partition of [`Offsets::next_lists`]; an offset of -1: no record is that
    /// late. No answer at all is `NETWORK_EXCEPTION`.
    pub fn listed(
        &mut self,
        partition: TopicPartition,
        answer: Result<i64, ErrorCode>,
        now_ms: u64,
    ) {
        let Some(known) = self.known.get_mut(&partition) else { return };
        known.is_listing = false;
        let offset = match answer {
            Ok(offset) => offset,
            Err(error) => {
                known.backoff.failed(now_ms);
                if !error.is_retriable() {
                    self.events.push(Event::Failed(partition, "ListOffsets", error));
                }
                return;
            }
        };
        known.backoff.succeeded();
        match known.stage {
            Stage::Starting(_) if offset < 0 => known.stage = Stage::Starting(list_offsets::LATEST),
            Stage::Starting(_) => {
                known.stage = Stage::Started;
                known.pending = Some(offset);
            }
            Stage::OutOfRange(wanted) if offset >= 0 => self.go_on(partition, wanted, offset),
            _ => {}
        }
    }
}

/// Commits.
impl Offsets {
    /// What is to be committed now; `at_once`: also what could wait for more. Empty: nothing.
    pub fn next_commit(&mut self, now_ms: u64, at_once: bool) -> Vec<Commit> {
        let mut commits = Vec::new();
        if self.is_committing || (now_ms < self.commit.until_ms() && !at_once) {
            return commits;
        }
        for (&partition, known) in &mut self.known {
            if known.backoff.until_ms() > now_ms {
                continue;
            }
            let Some(next_offset) = known.pending.take() else { continue };
            known.sent = Some(next_offset);
            let metadata = self.beginnings.get(&partition.topic).map(|began| began.text());
            let last_epoch = known.epochs.before(next_offset);
            commits.push(Commit { partition, next_offset, last_epoch, metadata });
        }
        self.is_committing = !commits.is_empty();
        commits
    }

    /// The answer to [`Offsets::next_commit`]. What is not in it is tried again.
    pub fn answered(&mut self, answer: &[(TopicPartition, ErrorCode)], now_ms: u64) {
        self.is_committing = false;
        self.commit.wait_until(now_ms + KAFKA_COMMIT_DELAY_MS);
        self.commit.succeeded();
        for &(partition, error) in answer {
            let Some(known) = self.known.get_mut(&partition) else { continue };
            if error.is_none() {
                let Some(sent) = known.sent.take() else { continue };
                known.committed = Some(sent);
                self.events.push(Event::Committed(partition, sent));
                if known.stage == Stage::Started {
                    known.stage = Stage::Ready;
                    self.events.push(Event::Ready(partition, sent));
                }
                continue;
            }
            let is_of_group = matches!(
                error.action(),
                Action::Retry | Action::RefreshCoordinator | Action::Rejoin | Action::Fenced
            );
            if is_of_group {
                continue;
            }
            known.backoff.wait_until(now_ms + KAFKA_REFUSED_MS);
            self.events.push(Event::Failed(partition, "OffsetCommit", error));
            if known.is_revoked {
                (known.pending, known.sent) = (None, None);
                self.events.push(Event::NotCommitted(partition));
            }
        }
        self.commit_again(now_ms);
    }

    /// There is no answer to [`Offsets::next_commit`].
    pub fn commit_failed(&mut self, now_ms: u64) {
        self.is_committing = false;
        self.commit_again(now_ms);
    }

    fn commit_again(&mut self, now_ms: u64) {
        let mut again = false;
        for known in self.known.values_mut() {
            if let Some(sent) = known.sent.take() {
                known.pending.get_or_insert(sent);
                again = true;
            }
        }
        if again {
            self.commit.failed(now_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTED: i64 = 1_700_000_000_000;
    /// The epoch that commits are said to have.
    const EPOCH: i32 = 2;

    fn place(partition: u32) -> TopicPartition {
        TopicPartition { topic: 0, partition }
    }

    fn with(start: Start, partitions: &[u32]) -> Offsets {
        let mut offsets = Offsets::new(start, STARTED);
        partitions.iter().for_each(|&partition| offsets.add(place(partition)));
        offsets
    }

    fn fetch(offsets: &mut Offsets, answer: &[(i64, Option<&str>)], now_ms: u64) {
        assert_eq!(offsets.next_fetch(now_ms), [0]);
        assert!(offsets.next_fetch(now_ms).is_empty(), "one at a time");
        let committed =
            |(partition, &(offset, metadata)): (usize, &(i64, Option<&'static str>))| {
                let (partition, error) = (place(partition as u32), ErrorCode::NONE);
                Committed { partition, offset, last_epoch: EPOCH, metadata, error }
            };
        let answer: Vec<(i64, Option<&'static str>)> = answer
            .iter()
            .map(|(offset, text)| (*offset, text.map(|text| &*text.to_owned().leak())))
            .collect();
        let answer: Vec<_> = answer.iter().enumerate().map(committed).collect();
        offsets.fetched(&answer, |_| answer.len() as u32, now_ms);
    }

    fn events(offsets: &mut Offsets) -> Vec<Event> {
        let mut events = Vec::new();
        offsets.take_events(&mut events);
        events
    }

    #[test]
    fn the_start_is_committed_before_anything_is_ready() {
        let mut offsets = with(Start::Latest, &[0, 1]);
        fetch(&mut offsets, &[(-1, None), (-1, None)], 0);
        let lists = offsets.next_lists(0, |_| true);
        assert_eq!(lists, [(place(0), list_offsets::LATEST), (place(1), list_offsets::LATEST)]);
        offsets.listed(place(0), Ok(40), 0);
        offsets.listed(place(1), Err(ErrorCode::NOT_LEADER_OR_FOLLOWER), 0);
        assert!(events(&mut offsets).is_empty(), "not before it is committed");
        let commits = offsets.next_commit(0, false);
        assert_eq!(commits.len(), 1);
        assert_eq!(commits[0].next_offset, 40);
        let metadata = commits[0].metadata.clone().unwrap();
        assert_eq!(Beginning::parse(&metadata), Some(Beginning { unix_ms: STARTED, count: 2 }));
        offsets.commit_failed(0);
        assert!(events(&mut offsets).is_empty());
        let commits = offsets.next_commit(offsets.deadline_ms(), false);
        assert_eq!(commits[0].next_offset, 40);
        offsets.answered(&[(place(0), ErrorCode::NONE)], 100);
        let expected = [Event::Committed(place(0), 40), Event::Ready(place(0), 40)];
        assert_eq!(events(&mut offsets), expected);
        assert_eq!(offsets.next_lists(1000, |_| true), [(place(1), list_offsets::LATEST)]);
    }

    #[test]
    fn later_partitions_start_at_their_earliest_and_forgotten_ones_where_the_group_began() {
        let mut offsets = with(Start::Latest, &[0, 1, 2]);
        let began = "began=1690000000000 partitions=2";
        fetch(&mut offsets, &[(7, Some(began)), (-1, None), (-1, None)], 0);
        assert_eq!(events(&mut offsets), [Event::Ready(place(0), 7)]);
        let lists = offsets.next_lists(0, |_| true);
        let expected = [(place(1), 1_690_000_000_000), (place(2), list_offsets::EARLIEST)];
        assert_eq!(lists, expected);
        offsets.listed(place(1), Ok(-1), 0);
        assert_eq!(offsets.next_lists(0, |_| true), [(place(1), list_offsets::LATEST)]);
        // What others have begun without a word starts at the earliest: rather twice than never.
        let mut offsets = with(Start::Latest, &[0, 1]);
        fetch(&mut offsets, &[(7, None), (-1, None)], 0);
        assert_eq!(offsets.next_lists(0, |_| true), [(place(1), list_offsets::EARLIEST)]);
    }

    #[test]
    fn commits_are_gathered_and_never_go_back() {
        let mut offsets = with(Start::Earliest, &[0, 1]);
        fetch(&mut offsets, &[(10, None), (20, None)], 0);
        offsets.commit(place(0), 12);
        offsets.commit(place(0), 11);
        offsets.commit(place(1), 20);
        let commits = offsets.next_commit(0, false);
        assert_eq!(commits.iter().map(|commit| commit.next_offset).collect::<Vec<_>>(), [12]);
        offsets.commit(place(0), 12);
        offsets.commit(place(0), 15);
        assert!(offsets.next_commit(0, true).is_empty(), "one at a time");
        assert!(!offsets.is_settled(place(0)));
        offsets.answered(&[(place(0), ErrorCode::NONE)], 10);
        assert!(offsets.next_commit(10, false).is_empty(), "it gathers");
        assert_eq!(offsets.deadline_ms(), 10 + KAFKA_COMMIT_DELAY_MS);
        assert_eq!(offsets.next_commit(10, true)[0].next_offset, 15);
        offsets.commit(place(0), 16);
        offsets.answered(&[(place(0), ErrorCode::REBALANCE_IN_PROGRESS)], 20);
        assert_eq!(offsets.next_commit(500, false)[0].next_offset, 16);
        offsets.answered(&[(place(0), ErrorCode::NONE)], 520);
        assert!(offsets.is_settled(place(0)));
        offsets.commit(place(0), 17);
        offsets.remove(place(0));
        assert!(offsets.next_commit(9000, true).is_empty(), "it is another's");
    }

    #[test]
    fn a_commit_that_came_to_a_former_coordinator_is_sent_again_in_time() {
        let mut offsets = with(Start::Earliest, &[0, 1]);
        fetch(&mut offsets, &[(10, None), (20, None)], 0);
        events(&mut offsets);
        offsets.commit(place(0), 12);
        offsets.commit(place(1), 22);
        let mut now_ms = 0;
        for error in [
            ErrorCode::NOT_COORDINATOR,
            ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
            ErrorCode::COORDINATOR_NOT_AVAILABLE,
            ErrorCode::ILLEGAL_GENERATION,
            ErrorCode::UNKNOWN_MEMBER_ID,
        ] {
            let commits = offsets.next_commit(now_ms, false);
            let sent: Vec<_> = commits.iter().map(|commit| commit.next_offset).collect();
            assert_eq!(sent, [12, 22], "{error}");
            offsets.answered(&[(place(0), error), (place(1), error)], now_ms);
            assert!(events(&mut offsets).is_empty(), "{error} is no alarm");
            assert!(!offsets.is_settled(place(0)) && offsets.committed(place(0)) == Some(10));
            assert!(offsets.next_commit(now_ms, false).is_empty(), "not at once");
            now_ms = offsets.deadline_ms();
        }
        offsets.next_commit(now_ms, false);
        // What is not answered of it stays to be committed.
        offsets.answered(&[(place(1), ErrorCode::NONE)], now_ms);
        assert_eq!(events(&mut offsets), [Event::Committed(place(1), 22)]);
        let commits = offsets.next_commit(offsets.deadline_ms(), false);
        assert_eq!((commits.len(), commits[0].next_offset), (1, 12));
    }

    /// As of a topic that was deleted: nobody waits until it is there again.
    #[test]
    fn a_commit_that_is_refused_does_not_keep_a_partition_from_being_given_up() {
        let mut offsets = with(Start::Earliest, &[0, 1]);
        fetch(&mut offsets, &[(10, None), (20, None)], 0);
        offsets.commit(place(0), 12);
        offsets.commit(place(1), 22);
        events(&mut offsets);
        let refused = [0, 1].map(|at| (place(at), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
        let failed =
            |at| Event::Failed(place(at), "OffsetCommit", ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        assert_eq!(offsets.next_commit(0, true).len(), 2);
        offsets.answered(&refused, 0);
        assert_eq!(events(&mut offsets), [failed(0), failed(1)]);
        offsets.revoke(place(0));
        let now_ms = offsets.deadline_ms();
        assert_eq!(offsets.next_commit(now_ms, true).len(), 2, "it is tried again");
        offsets.commit(place(0), 13);
        offsets.answered(&refused, now_ms);
        assert_eq!(events(&mut offsets), [failed(0), Event::NotCommitted(place(0)), failed(1)]);
        assert!(offsets.is_settled(place(0)) && !offsets.is_settled(place(1)));
        // What only the group's members may mend is committed all the same.
        offsets.revoke(place(1));
        let now_ms = offsets.deadline_ms();
        assert_eq!(offsets.next_commit(now_ms, true).len(), 1);
        offsets.answered(&[(place(1), ErrorCode::NOT_COORDINATOR)], now_ms);
        assert!(events(&mut offsets).is_empty() && !offsets.is_settled(place(1)));
    }

    #[test]
    fn what_is_lost_before_it_is_ready_never_is() {
        let mut offsets = with(Start::Latest, &[0, 1]);
        fetch(&mut offsets, &[(50, None), (60, None)], 0);
        offsets.remove(place(0));
        offsets.add(place(0));
        assert_eq!(events(&mut offsets), [Event::Ready(place(1), 60)]);
    }

    #[test]
    fn a_log_that_has_other_records_than_were_read_is_read_and_committed_again() {
        let mut offsets = with(Start::Latest, &[0]);
        fetch(&mut offsets, &[(50, None)], 0);
        assert_eq!(events(&mut offsets), [Event::Ready(place(0), 50)]);
        assert_eq!(offsets.last_epoch(place(0), 50), EPOCH);
        offsets.read(place(0), &[(50, EPOCH + 1)]);
        offsets.commit(place(0), 100);
        let commits = offsets.next_commit(0, true);
        assert_eq!((commits[0].next_offset, commits[0].last_epoch), (100, EPOCH + 1));
        offsets.commit(place(0), 110);
        offsets.diverged(place(0), 120, EPOCH - 1, 40);
        let lost = [Event::NotCommitted(place(0)), Event::OutOfRange(place(0), 120, 40)];
        assert_eq!(events(&mut offsets), lost);
        assert_eq!(offsets.last_epoch(place(0), 40), -1, "the broker has told no epoch");
        // The commit that was under way may have come through: the next one counts all the same.
        offsets.answered(&[(place(0), ErrorCode::NONE)], 1_000);
        assert!(events(&mut offsets).is_empty());
        offsets.read(place(0), &[(40, EPOCH + 2)]);
        offsets.commit(place(0), 60);
        let commits = offsets.next_commit(2_000, true);
        assert_eq!((commits[0].next_offset, commits[0].last_epoch), (60, EPOCH + 2));
        offsets.answered(&[(place(0), ErrorCode::NONE)], 3_000);
        assert_eq!(events(&mut offsets), [Event::Committed(place(0), 60)]);
        // Of a newer epoch nothing that was read is there, however far the older one goes.
        for end in [65, 90] {
            offsets.read(place(0), &[(60, EPOCH + 2)]);
            offsets.read(place(0), &[(63, EPOCH + 3)]);
            offsets.diverged(place(0), 70, EPOCH + 2, end);
            assert_eq!(events(&mut offsets), [Event::OutOfRange(place(0), 70, 63)]);
        }
    }

    /// A commit of it would pass over what is there now, at its next owner.
    #[test]
    fn of_what_is_out_of_range_and_given_up_nothing_is_committed() {
        for is_revoked_before in [true, false] {
            let mut offsets = with(Start::Latest, &[0]);
            fetch(&mut offsets, &[(100, None)], 0);
            events(&mut offsets);
            offsets.commit(place(0), 110);
            if is_revoked_before {
                offsets.revoke(place(0));
            }
            offsets.out_of_range(place(0), 120);
            assert_eq!(events(&mut offsets), [Event::NotCommitted(place(0))]);
            assert!(offsets.next_commit(0, true).is_empty());
            offsets.revoke(place(0));
            assert_eq!(offsets.next_lists(0, |_| true), [(place(0), list_offsets::EARLIEST)]);
            offsets.listed(place(0), Ok(0), 0);
            assert_eq!(events(&mut offsets), [Event::OutOfRange(place(0), 120, 0)]);
            offsets.commit(place(0), 120);
            assert_eq!(events(&mut offsets), [Event::NotCommitted(place(0))]);
            assert!(offsets.next_commit(0, true).is_empty() && offsets.is_settled(place(0)));
            assert_eq!(offsets.deadline_ms(), u64::MAX, "nothing is to be done");
        }
    }

    #[test]
    fn out_of_range_is_an_alarm_and_lets_the_commit_go_back() {
        let mut offsets = with(Start::Latest, &[0]);
        fetch(&mut offsets, &[(100, None)], 0);
        events(&mut offsets);
        offsets.out_of_range(place(0), 100);
        assert_eq!(offsets.last_epoch(place(0), 100), -1, "what was read may be another topic's");
        assert_eq!(offsets.next_lists(0, |_| true), [(place(0), list_offsets::EARLIEST)]);
        offsets.listed(place(0), Ok(30), 0);
        assert_eq!(events(&mut offsets), [Event::OutOfRange(place(0), 100, 30)]);
        offsets.commit(place(0), 31);
        assert_eq!(offsets.next_commit(0, true)[0].next_offset, 31);
    }
}
