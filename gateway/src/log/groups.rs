//! The members of Kafka groups on one shard, told as feeds.
//!
//! **Runs on: shard.** A feed is a partition that a member was given; its number is used again once
//! the partition is gone.

use std::collections::VecDeque;
use std::rc::Rc;

use trine_core::kafka::client::Client;
use trine_core::kafka::consumer::{Consumer, Event, Lag, Options};

use super::{Feed, FeedEvent, Fetched};

/// All members of this shard.
pub struct Groups {
    /// By the number of the topic here.
    topics: Vec<u32>,
    members: Vec<Member>,
    feeds: Vec<Option<Feed>>,
    events: VecDeque<FeedEvent>,
    taken: Vec<Event>,
    lags: Vec<Lag>,
}

struct Member {
    /// The consumer, by its index in the configuration.
    consumer: u16,
    member: Rc<Consumer>,
}

impl Groups {
    pub(super) fn new(topics: Vec<u32>) -> Self {
        Self {
            topics,
            members: Vec::new(),
            feeds: Vec::new(),
            events: VecDeque::new(),
            taken: Vec::new(),
            lags: Vec::new(),
        }
    }

    pub(super) fn join(&mut self, consumer: u16, client: &Rc<Client>, options: Options) {
        self.members.push(Member { consumer, member: Consumer::start(client, options) });
    }

    pub(super) fn receive(&mut self) {
        for index in 0..self.members.len() {
            let mut taken = std::mem::take(&mut self.taken);
            self.members[index].member.take_events(&mut taken);
            for event in taken.drain(..) {
                self.take(self.members[index].consumer, event);
            }
            self.taken = taken;
        }
    }

    pub(super) fn flush(&self) {
        self.members.iter().for_each(|member| member.member.flush());
    }

    pub(super) fn next_event(&mut self) -> Option<FeedEvent> {
        self.events.pop_front()
    }

    pub(super) fn fetch(&mut self, feed: u32, offset: u64, limit_bytes: usize) {
        self.with(feed, |member, topic, partition| {
            member.fetch(topic, partition, offset as i64, limit_bytes);
        });
    }

    pub(super) fn commit(&mut self, feed: u32, next_offset: u64) {
        self.with(feed, |member, topic, partition| {
            member.commit(topic, partition, next_offset as i64);
        });
    }

    pub(super) fn released(&mut self, feed: u32) {
        self.with(feed, |member, topic, partition| member.released(topic, partition));
        self.feeds[feed as usize] = None;
    }

    pub(super) fn look(&mut self, feed: u32) {
        let mut lags = std::mem::take(&mut self.lags);
        let mut end = None;
        let found = self.with(feed, |member, topic, partition| {
            member.lag(&mut lags);
            let its = |lag: &&Lag| lag.topic == topic && lag.partition == partition;
            end = lags.iter().find(its).map(|lag| lag.end_offset);
        });
        if let (true, Some(end)) = (found, end) {
            self.events.push_back(FeedEvent::End { feed, end_offset: offset(end) });
        }
        lags.clear();
        self.lags = lags;
    }

    pub(super) fn leave(&mut self) {
        self.members.iter().for_each(|member| member.member.leave());
    }

    pub(super) fn has_left(&self) -> bool {
        self.members.iter().all(|member| member.member.has_left())
    }

    /// Calls `with` for the feed's member, topic and partition, if there is such a feed.
    fn with(&self, feed: u32, with: impl FnOnce(&Consumer, u32, u32)) -> bool {
        let Some(Some(feed)) = self.feeds.get(feed as usize) else { return false };
        let member = self.members.iter().find(|member| member.consumer == feed.consumer);
        let Some(member) = member else { return false };
        with(&member.member, self.topics[feed.topic as usize], feed.partition);
        true
    }

    fn take(&mut self, consumer: u16, event: Event) {
        match event {
            Event::Assigned { topic, partition, next_offset } => {
                let Some(topic) = self.topics.iter().position(|&known| known == topic) else {
                    return;
                };
                let of = Feed { consumer, topic: topic as u16, partition };
                let free = self.feeds.iter().position(Option::is_none);
                let feed = free.unwrap_or(self.feeds.len());
                if free.is_none() {
                    self.feeds.push(None);
                }
                self.feeds[feed] = Some(of);
                let (feed, next_offset) = (feed as u32, offset(next_offset));
                self.events.push_back(FeedEvent::Ready { feed, of, next_offset });
            }
            Event::Records { topic, partition, records, next_offset, end_offset } => {
                let Some(feed) = self.find(consumer, topic, partition) else { return };
                let fetched = |record: trine_core::kafka::consumer::Record| Fetched {
                    offset: offset(record.offset),
                    time_ms: u64::try_from(record.timestamp_ms).unwrap_or(0),
                    body: record.body,
                };
                self.events.push_back(FeedEvent::Records {
                    feed,
                    records: records.into_iter().map(fetched).collect(),
                    next_offset: offset(next_offset),
                    end_offset: offset(end_offset),
                });
            }
            Event::Revoke { topic, partition } => {
                if let Some(feed) = self.find(consumer, topic, partition) {
                    self.events.push_back(FeedEvent::Revoke { feed });
                }
            }
            Event::Lost { topic, partition } => {
                if let Some(feed) = self.find(consumer, topic, partition) {
                    self.feeds[feed as usize] = None;
                    self.events.push_back(FeedEvent::Lost { feed });
                }
            }
            Event::Committed { topic, partition, .. } => {
                if let Some(feed) = self.find(consumer, topic, partition) {
                    self.events.push_back(FeedEvent::Committed { feed });
                }
            }
            Event::NotCommitted { topic, partition } => {
                if let Some(feed) = self.find(consumer, topic, partition) {
                    self.events.push_back(FeedEvent::NotCommitted { feed });
                }
            }
            Event::OutOfRange { topic, partition, first, .. } => {
                if let Some(feed) = self.find(consumer, topic, partition) {
                    self.events.push_back(FeedEvent::OutOfRange { feed, first: offset(first) });
                }
            }
            Event::Failed { text } => tracing::warn!(consumer, text, "a group's member"),
        }
    }

    fn find(&self, consumer: u16, topic: u32, partition: u32) -> Option<u32> {
        let topic = self.topics.iter().position(|&known| known == topic)? as u16;
        let feed = Some(Feed { consumer, topic, partition });
        self.feeds.iter().position(|known| *known == feed).map(|at| at as u32)
    }
}

fn offset(offset: i64) -> u64 {
    u64::try_from(offset).unwrap_or(0)
}
