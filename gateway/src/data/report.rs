//! Collects what shards and journals say of themselves into a report for control.
//!
//! **Runs on: the data process's main thread** ([`Reporter`]) and **shard** ([`Standings`]).
//!
//! A shard never waits here: it tries the lock, and comes again at its next tick if the main
//! thread is just reading. Names stay out of it; numbers become names on the main thread.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::journal::Journals;
use crate::config::{Config, LogKind};
use crate::control::report::{Consumer, Journal, Log, Partition, Report};
use crate::edge::Standing;
use crate::ingest::Routes;
use crate::limits::REPORT_PARTITIONS;

/// Where a shard leaves how far its consumers are.
#[derive(Clone, Debug, Default)]
pub struct Standings(Arc<Mutex<Vec<Standing>>>);

impl Standings {
    /// Replaces what is there; false when somebody is just reading it.
    pub fn try_replace(&self, with: impl Iterator<Item = Standing>) -> bool {
        let Ok(mut all) = self.0.try_lock() else { return false };
        all.clear();
        all.extend(with);
        true
    }

    fn read(&self) -> Vec<Standing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Makes reports.
#[derive(Debug)]
pub(super) struct Reporter {
    data_dir: PathBuf,
    /// Which log there is.
    kind: Option<LogKind>,
    /// Name and group of each consumer.
    consumers: Vec<(String, String)>,
    topics: Vec<Box<str>>,
    queues: Vec<String>,
    /// One a shard.
    shards: Vec<Standings>,
}

impl Reporter {
    /// One for a data process with this configuration.
    pub fn new(config: &Config) -> Reporter {
        let consumers = config.consumers.iter();
        Reporter {
            data_dir: config.data_dir.clone(),
            kind: config.has_log().then_some(config.log.kind),
            consumers: consumers.map(|c| (c.name.clone(), c.group.clone())).collect(),
            topics: Routes::new(config).topics().to_vec(),
            queues: config.queue.topics.clone(),
            shards: Vec::new(),
        }
    }

    /// A place for one more shard.
    pub fn add_shard(&mut self) -> Standings {
        let standings = Standings::default();
        self.shards.push(standings.clone());
        standings
    }

    /// What there is to say now.
    pub fn report(&self, journals: &Journals) -> Report {
        let of = |state| Journal::of(&self.data_dir, state);
        let journal = journals.state().map(of);
        // Which of the two it is: the log itself, or what stands in front of it.
        let (journal, spool) = match self.kind {
            Some(LogKind::Kafka) => (None, journal),
            _ => (journal, None),
        };
        let (consumers, partitions_omitted) = self.consumers();
        Report {
            log: self.kind.map(|kind| Log { kind, journal }),
            spool,
            queues: self.queues.iter().cloned().zip(journals.queues().map(of)).collect(),
            consumers,
            partitions_omitted,
        }
    }

    /// Where all consumers are, and how many partitions are left out.
    fn consumers(&self) -> (Vec<Consumer>, u64) {
        let mut seen: BTreeMap<(u16, u16, u32), Standing> = BTreeMap::new();
        for standing in self.shards.iter().flat_map(Standings::read) {
            let of = standing.of;
            let known = seen.entry((of.consumer, of.topic, of.partition)).or_insert(standing);
            // While a partition moves between two shards both may name it.
            if standing.position > known.position {
                *known = standing;
            }
        }
        let omitted = seen.len().saturating_sub(REPORT_PARTITIONS);
        if omitted > 0 {
            let lag = |standing: &Standing| standing.end_offset.saturating_sub(standing.position);
            let mut by_lag: Vec<_> = seen.iter().map(|(of, at)| (lag(at), *of)).collect();
            by_lag.sort_unstable();
            for (_, of) in &by_lag[..omitted] {
                seen.remove(of);
            }
        }
        let mut consumers: Vec<Consumer> = Vec::new();
        let mut last = None;
        for ((consumer, topic, partition), at) in seen {
            if last != Some((consumer, topic)) {
                last = Some((consumer, topic));
                let (name, group) = self.consumers[consumer as usize].clone();
                let topic = self.topics[topic as usize].to_string();
                consumers.push(Consumer { name, group, topic, partitions: Vec::new() });
            }
            let Standing { position, end_offset, paused, .. } = at;
            let at = Partition { partition, position, end_offset, paused };
            consumers.last_mut().expect("one was just there").partitions.push(at);
        }
        (consumers, omitted as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Feed;

    fn standing(consumer: u16, topic: u16, partition: u32, position: u64) -> Standing {
        let of = Feed { consumer, topic, partition };
        Standing { of, position, end_offset: 100, paused: partition == 1 }
    }

    fn reporter() -> Reporter {
        let named = |name: &str| (name.to_owned(), format!("{name}-group"));
        Reporter {
            data_dir: "/data".into(),
            kind: Some(LogKind::Embedded),
            consumers: vec![named("log"), named("mail")],
            topics: vec!["tickets".into(), "chats".into()],
            queues: Vec::new(),
            shards: Vec::new(),
        }
    }

    #[test]
    fn shards_are_put_together_by_consumer_and_topic() {
        let mut reporter = reporter();
        let (one, other) = (reporter.add_shard(), reporter.add_shard());
        assert!(one.try_replace([standing(1, 0, 2, 7), standing(0, 1, 0, 40)].into_iter()));
        // The last partition is just moving from one shard to the other.
        assert!(other.try_replace([standing(1, 0, 1, 99), standing(1, 0, 2, 9)].into_iter()));
        let report = reporter.report(&Journals::default());
        assert_eq!(report.log, Some(Log { kind: LogKind::Embedded, journal: None }));
        let [log, mail] = report.consumers.as_slice() else { panic!("{report:?}") };
        assert_eq!((&*log.name, &*log.group, &*log.topic), ("log", "log-group", "chats"));
        assert_eq!((log.lag(), log.partitions.len()), (60, 1));
        assert_eq!((&*mail.topic, mail.lag()), ("tickets", 1 + 91));
        let numbers: Vec<_> = mail.partitions.iter().map(|p| (p.partition, p.paused)).collect();
        assert_eq!(numbers, [(1, true), (2, false)]);
        assert!(one.try_replace(std::iter::empty()));
        assert_eq!(reporter.report(&Journals::default()).consumers.len(), 1);
    }

    #[test]
    fn a_shard_never_waits_for_a_reader() {
        let standings = Standings::default();
        let reading = standings.0.lock().unwrap();
        assert!(!standings.try_replace([standing(0, 0, 0, 0)].into_iter()));
        drop(reading);
        assert!(standings.try_replace([standing(0, 0, 0, 0)].into_iter()));
    }

    #[test]
    fn a_report_has_an_end_and_keeps_the_greatest_lags() {
        let mut reporter = reporter();
        let all = 0..REPORT_PARTITIONS as u32 + 3;
        let at = |partition| standing(0, 0, partition, if partition < 3 { 100 } else { 5 });
        assert!(reporter.add_shard().try_replace(all.map(at)));
        let report = reporter.report(&Journals::default());
        assert_eq!(report.partitions_omitted, 3);
        let kept = &report.consumers[0].partitions;
        assert_eq!(kept.len(), REPORT_PARTITIONS);
        assert!(kept.iter().all(|partition| partition.lag() == 95));
    }
}
