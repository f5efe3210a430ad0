//! The log, as one shard sees it: where durable events go and where consumers read them.
//!
//! **Runs on: shard.** Nothing here waits: appends, fetches and commits are started, and what
//! became of them is taken at the turn's end. Topics that are queues are kept by this node, each in
//! a journal of its own, until they are drained; all others are the main log's, the journal's or
//! Kafka's. Invariants: every append that was taken is answered exactly once; what a feed gets is
//! durable, in order and without gap.

mod embedded;
mod groups;
mod kafka;
mod left;
mod spool;

use bytes::Bytes;
use trine_core::journal::storage::{Phase, Store};
use trine_proto::client::ErrorCode;

pub use embedded::{Embedded, FeedSpec, QUEUE_GROUP};
pub use groups::Groups;
pub use kafka::{Kafka, Totals as KafkaTotals};
pub use left::refuse_left;
pub use spool::{FOLDER as SPOOL_FOLDER, Resharding, Spool};

/// The folder of the queues' journals, in `data_dir`.
pub const QUEUE_FOLDER: &str = "queue";

/// The folder of the journal of what Kafka refuses for good, in `data_dir`.
pub const LETTERS_FOLDER: &str = "dead-letters";

use crate::ingest::{At, Refusal};

/// A token of the journal: what a request is about in its upper half, and which of these in its
/// lower one.
fn token(about: u64, number: usize) -> u64 {
    about << 32 | number as u64
}

/// What [`token`] was made of.
fn parts(token: u64) -> (usize, usize) {
    ((token >> 32) as usize, token as u32 as usize)
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its place in its partition.
    pub offset: u64,
    /// When it was appended, Unix milliseconds; 0: it does not say, and never grows old.
    pub time_ms: u64,
    /// Its key, value and headers, as a Kafka record's body.
    pub body: Bytes,
}

/// Why the log does not have a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// It is still reading what is on the disk.
    Recovering,
    /// Its quota is used up.
    Full,
    /// It can't keep up.
    Busy,
    /// The disk, or every broker, fails.
    Failing,
    /// The record is longer than the log takes.
    TooLarge,
    /// Records of its partition are in the spool, and it must not go there.
    Spooled,
    /// Kafka refuses it for good.
    Refused,
    /// It was given up after it was sent; it may come to light.
    Lost,
    /// The process is ending.
    Closing,
}

/// What the log says of an append: what has the record, and its offset there.
pub type Appended = Result<(At, Option<u64>), Unavailable>;

impl Unavailable {
    /// Why nothing can be appended to a journal that is not open.
    fn of(store: &Store) -> Self {
        match store.state().phase() {
            Phase::Failing => Self::Failing,
            _ => Self::Recovering,
        }
    }

    /// What a client is told.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Recovering => Refusal::temporary("the log is being recovered"),
            Self::Full => Refusal::temporary("the log is full"),
            Self::Busy => Refusal::temporary("the log is busy"),
            Self::Failing => Refusal::temporary("the log fails"),
            Self::TooLarge => Refusal {
                code: ErrorCode::LimitExceeded,
                message: "the record is longer than the log takes",
            },
            Self::Spooled => Refusal::temporary("earlier records are in the spool"),
            Self::Refused => Refusal {
                code: ErrorCode::BadRequest,
                message: "the log refuses the record for good",
            },
            Self::Lost => Refusal::temporary("the log failed; the record may be in the log"),
            Self::Closing => Refusal::temporary("the gateway is ending"),
        }
    }
}

/// A partition that a consumer of this shard reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feed {
    /// The consumer, by its index in the configuration.
    pub consumer: u16,
    /// The topic, by its number.
    pub topic: u16,
    /// The partition.
    pub partition: u32,
}

/// What the log says about a partition that a consumer of this shard reads.
#[derive(Debug, PartialEq, Eq)]
pub enum FeedEvent {
    /// It can be read, from this offset on.
    Ready {
        /// The feed.
        feed: u32,
        /// What it is.
        of: Feed,
        /// What was delivered is before it.
        next_offset: u64,
    },
    /// Records, the answer to a fetch.
    Records {
        /// The feed.
        feed: u32,
        /// Ascending.
        records: Vec<Fetched>,
        /// Where to go on.
        next_offset: u64,
        /// Where the partition ends now.
        end_offset: u64,
    },
    /// The offset asked for is not there any more; the oldest one is `first`.
    OutOfRange {
        /// The feed.
        feed: u32,
        /// The oldest record's offset.
        first: u64,
    },
    /// Everything before this offset is committed.
    Committed {
        /// The feed.
        feed: u32,
    },
    /// A commit was dropped: what it was about is not there any more.
    NotCommitted {
        /// The feed.
        feed: u32,
    },
    /// The partition goes to another member: what came of it is to be delivered and committed, then
    /// [`Log::released`] is called.
    Revoke {
        /// The feed.
        feed: u32,
    },
    /// The partition is another member's already.
    Lost {
        /// The feed.
        feed: u32,
    },
    /// Where the partition ends now.
    End {
        /// The feed.
        feed: u32,
        /// The offset after its last record.
        end_offset: u64,
    },
    /// A fetch failed; it may be tried again.
    Failed {
        /// The feed.
        feed: u32,
        /// What is there can't be read, now or later: to go on behind it.
        skip_to: Option<u64>,
    },
}

impl FeedEvent {
    /// The feed that it is about.
    pub fn feed(&mut self) -> &mut u32 {
        match self {
            FeedEvent::Ready { feed, .. }
            | FeedEvent::Records { feed, .. }
            | FeedEvent::Committed { feed }
            | FeedEvent::NotCommitted { feed }
            | FeedEvent::Revoke { feed }
            | FeedEvent::Lost { feed }
            | FeedEvent::End { feed, .. }
            | FeedEvent::OutOfRange { feed, .. }
            | FeedEvent::Failed { feed, .. } => feed,
        }
    }

    /// With the numbers that feeds and topics have behind so many others.
    fn shifted(mut self, feeds: u32, topics: u16) -> Self {
        if let FeedEvent::Ready { of, .. } = &mut self {
            of.topic += topics;
        }
        *self.feed() += feeds;
        self
    }
}

/// The log of one shard: what keeps most topics, and the queues beside it.
pub struct Log {
    /// What keeps the topics that are no queues.
    pub main: Main,
    /// The queues, a topic each: they have the first numbers of topics, and their feeds the first
    /// numbers of feeds.
    queues: Vec<Embedded>,
}

/// What keeps the topics that are no queues.
pub enum Main {
    /// Nothing is durable here.
    None,
    /// The journal of this process.
    Embedded(Box<Embedded>),
    /// A Kafka cluster.
    Kafka(Box<Kafka>),
    /// What a test says.
    #[cfg(test)]
    Scripted(Scripted),
}

impl From<Main> for Log {
    fn from(main: Main) -> Log {
        Log { main, queues: Vec::new() }
    }
}

impl Log {
    /// Keeps the first topics in journals of their own.
    #[must_use]
    pub fn with_queues(self, queues: Vec<Embedded>) -> Log {
        Log { queues, ..self }
    }

    /// The log of a queue, or else the number of a topic in the main log.
    fn topic(&mut self, topic: u16) -> Result<&mut Embedded, u16> {
        let queues = self.queues.len() as u16;
        self.queues.get_mut(topic as usize).ok_or(topic.wrapping_sub(queues))
    }

    /// The log of a queue's feed and the feed's number there, or else its number in the main log.
    fn feed(&mut self, mut feed: u32) -> Result<(&mut Embedded, u32), u32> {
        for queue in &mut self.queues {
            match feed.checked_sub(queue.feeds()) {
                None => return Ok((queue, feed)),
                Some(rest) => feed = rest,
            }
        }
        Err(feed)
    }

    /// How many partitions a topic has; 0: that is not known yet.
    pub fn partitions(&mut self, topic: u16) -> u32 {
        match self.topic(topic) {
            Ok(queue) => queue.partitions(topic),
            Err(topic) => self.main.partitions(topic),
        }
    }

    /// Starts to append a record; [`Log::next_outcome`] will name `record`. `only_log`: the spool
    /// won't do.
    ///
    /// # Errors
    /// When the record was not taken; nothing has changed then.
    pub fn append(
        &mut self,
        record: u32,
        topic: u16,
        partition: u32,
        body: Bytes,
        only_log: bool,
        now_ms: u64,
    ) -> Result<(), Unavailable> {
        match self.topic(topic) {
            Ok(queue) => queue.append(record, 0, partition, body),
            Err(topic) => self.main.append(record, topic, partition, body, only_log, now_ms),
        }
    }

    /// The next append that has its answer: what has the record, and its offset there.
    pub fn next_outcome(&mut self) -> Option<(u32, Appended)> {
        let queued = self.queues.iter_mut().find_map(Embedded::next_outcome);
        queued.or_else(|| self.main.next_outcome())
    }

    /// Takes in what has happened; called at each turn's end before anything is taken out.
    pub fn receive(&mut self, now_ms: u64) {
        self.queues.iter_mut().for_each(Embedded::receive);
        match &mut self.main {
            Main::None => {}
            #[cfg(test)]
            Main::Scripted(_) => {}
            Main::Embedded(log) => log.receive(),
            Main::Kafka(log) => log.receive(now_ms),
        }
    }

    /// Sends what was started; called at each turn's end.
    pub fn flush(&mut self, now_ms: u64) {
        self.queues.iter_mut().for_each(Embedded::flush);
        match &mut self.main {
            Main::None => {}
            #[cfg(test)]
            Main::Scripted(_) => {}
            Main::Embedded(log) => log.flush(),
            Main::Kafka(log) => log.flush(now_ms),
        }
    }

    /// The next event of a feed.
    pub fn next_event(&mut self) -> Option<FeedEvent> {
        let mut before = 0;
        for (topic, queue) in self.queues.iter_mut().enumerate() {
            if let Some(event) = queue.next_event() {
                return Some(event.shifted(before, topic as u16));
            }
            before += queue.feeds();
        }
        let event = match &mut self.main {
            Main::None => None,
            #[cfg(test)]
            Main::Scripted(_) => None,
            Main::Embedded(log) => log.next_event(),
            Main::Kafka(log) => log.groups().next_event(),
        }?;
        Some(event.shifted(before, self.queues.len() as u16))
    }

    /// Starts to fetch records of a feed from `offset` on; waits until there is one.
    pub fn fetch(&mut self, feed: u32, offset: u64, limit_bytes: usize) {
        match self.feed(feed) {
            Ok((queue, feed)) => queue.fetch(feed, offset, limit_bytes),
            Err(feed) => match &mut self.main {
                Main::Embedded(log) => log.fetch(feed, offset, limit_bytes),
                Main::Kafka(log) => log.groups().fetch(feed, offset, limit_bytes),
                _ => {}
            },
        }
    }

    /// Asks where a feed's partition ends; [`FeedEvent::End`] will tell.
    pub fn look(&mut self, feed: u32) {
        match self.feed(feed) {
            Ok((queue, feed)) => queue.look(feed),
            Err(feed) => match &mut self.main {
                Main::Embedded(log) => log.look(feed),
                Main::Kafka(log) => log.groups().look(feed),
                _ => {}
            },
        }
    }

    /// Says that a revoked partition is drained and its last commit was asked for.
    pub fn released(&mut self, feed: u32) {
        if let Err(feed) = self.feed(feed)
            && let Main::Kafka(log) = &mut self.main
        {
            log.groups().released(feed);
        }
    }

    /// The shard ends: its members leave their groups.
    pub fn leave(&mut self) {
        if let Main::Kafka(log) = &mut self.main {
            log.groups().leave();
        }
    }

    /// Whether that is done.
    pub fn has_left(&self) -> bool {
        match &self.main {
            Main::Kafka(log) => log.has_left(),
            _ => true,
        }
    }

    /// Whether a feed is a group's: its commits are answered, by [`FeedEvent::Committed`], and it
    /// ends when its member leaves.
    pub fn is_of_group(&mut self, feed: u32) -> bool {
        self.feed(feed).is_err() && matches!(self.main, Main::Kafka(_))
    }

    /// Says that everything before `next_offset` was delivered.
    pub fn commit(&mut self, feed: u32, next_offset: u64) {
        match self.feed(feed) {
            Ok((queue, feed)) => queue.commit(feed, next_offset),
            Err(feed) => match &mut self.main {
                Main::Embedded(log) => log.commit(feed, next_offset),
                Main::Kafka(log) => log.groups().commit(feed, next_offset),
                _ => {}
            },
        }
    }
}

impl Main {
    fn partitions(&self, topic: u16) -> u32 {
        match self {
            Main::None => 0,
            #[cfg(test)]
            Main::Scripted(log) => log.partitions,
            Main::Embedded(log) => log.partitions(topic),
            Main::Kafka(log) => log.partitions(topic),
        }
    }

    fn append(
        &mut self,
        record: u32,
        topic: u16,
        partition: u32,
        body: Bytes,
        only_log: bool,
        now_ms: u64,
    ) -> Result<(), Unavailable> {
        match self {
            Main::None => Err(Unavailable::Failing),
            #[cfg(test)]
            Main::Scripted(log) => log.append(record, topic, partition, body),
            Main::Embedded(log) => log.append(record, topic, partition, body),
            Main::Kafka(log) => log.append(record, topic, partition, body, only_log, now_ms),
        }
    }

    fn next_outcome(&mut self) -> Option<(u32, Appended)> {
        match self {
            Main::None => None,
            #[cfg(test)]
            Main::Scripted(log) => log.outcomes.pop_front(),
            Main::Embedded(log) => log.next_outcome(),
            Main::Kafka(log) => log.next_outcome(),
        }
    }
}

/// A log that keeps what it gets and answers what a test wants.
#[cfg(test)]
#[derive(Default)]
pub struct Scripted {
    /// Partitions of every topic.
    pub partitions: u32,
    /// What every append is refused with.
    pub refuses: Option<Unavailable>,
    /// Record, topic, partition and body of each append.
    pub appended: Vec<(u32, u16, u32, Bytes)>,
    /// Answers to come.
    pub outcomes: std::collections::VecDeque<(u32, Appended)>,
}

#[cfg(test)]
impl Scripted {
    fn append(
        &mut self,
        record: u32,
        topic: u16,
        partition: u32,
        body: Bytes,
    ) -> Result<(), Unavailable> {
        if let Some(why) = self.refuses {
            return Err(why);
        }
        self.appended.push((record, topic, partition, body));
        Ok(())
    }
}
