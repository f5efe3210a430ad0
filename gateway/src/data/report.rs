//! Collects what shards and journals say of themselves into a report for control.
//!
//! **Runs on: the data process's main thread** ([`Reporter`]) and **shard** ([`Standings`]).
//!
//! A shard never waits here: it tries the lock, and comes again at its next tick if the main
//! thread is just reading. Names stay out of it; numbers become names on the main thread.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::journal::Journals;
use crate::config::{Config, LogKind};
use crate::control::report::{Consumer, Journal, Log, Partition, Past, Report, Upstream};
use crate::edge::{Pool, Standing, Watched};
use crate::ingest::Routes;
use crate::limits::{REPORT_PARTITIONS, REPORT_WATCHED};

/// Where a shard leaves how far its consumers are, and how its pools of connections are.
#[derive(Clone, Debug, Default)]
pub struct Standings(Arc<Mutex<Said>>);

/// What a shard said last.
#[derive(Debug, Default)]
struct Said {
    consumers: Vec<Standing>,
    /// By upstream.
    pools: Vec<Pool>,
    /// Of groups that other programs are in; by group, topic and partition.
    watched: Vec<Watched>,
}

impl Standings {
    /// Replaces what is there; false when somebody is just reading it.
    pub fn try_replace(
        &self,
        consumers: impl Iterator<Item = Standing>,
        pools: impl Iterator<Item = Pool>,
    ) -> bool {
        let Ok(mut said) = self.0.try_lock() else { return false };
        said.consumers.clear();
        said.consumers.extend(consumers);
        said.pools.clear();
        said.pools.extend(pools);
        true
    }

    /// Replaces what is known of other programs' groups; false, and nothing is taken, when somebody
    /// is just reading it.
    pub fn try_replace_watched(&self, watched: &mut Vec<Watched>) -> bool {
        let Ok(mut said) = self.0.try_lock() else { return false };
        said.watched = std::mem::take(watched);
        true
    }

    fn read(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Names of the upstreams.
    upstreams: Vec<String>,
    /// Groups of other programs.
    watched: Vec<String>,
    /// One a shard.
    shards: Vec<Standings>,
    /// Totals of the data processes before.
    past: Past,
}

impl Reporter {
    /// One for a data process with this configuration, after others with these totals.
    pub fn new(config: &Config, past: Past) -> Reporter {
        let consumers = config.consumers.iter();
        Reporter {
            data_dir: config.data_dir.clone(),
            kind: config.has_log().then_some(config.log.kind),
            consumers: consumers.map(|c| (c.name.clone(), c.group.clone())).collect(),
            topics: Routes::new(config).topics().to_vec(),
            queues: config.queue.topics.clone(),
            upstreams: config.upstreams.iter().map(|upstream| upstream.name.clone()).collect(),
            watched: config.kafka.watch_groups.clone(),
            shards: Vec::new(),
            past,
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
        let (consumers, omitted) = self.consumers();
        let (watched, watched_omitted) = self.watched();
        Report {
            log: self.kind.map(|kind| Log { kind, journal }),
            spool,
            dead_letters: journals.letters().map(of),
            queues: self.queues.iter().cloned().zip(journals.queues().map(of)).collect(),
            consumers,
            watched,
            partitions_omitted: omitted + watched_omitted,
            upstreams: self.upstreams(),
            past: self.past.clone(),
        }
    }

    /// Each upstream with what all shards have of it.
    fn upstreams(&self) -> Vec<Upstream> {
        let named = |name: &String| Upstream { name: name.clone(), pool: Pool::default() };
        let mut all: Vec<Upstream> = self.upstreams.iter().map(named).collect();
        for shard in &self.shards {
            for (upstream, pool) in all.iter_mut().zip(&shard.read().pools) {
                upstream.pool.add(pool);
            }
        }
        all
    }

    /// Where other programs' groups are, and how many partitions are left out.
    fn watched(&self) -> (Vec<Consumer>, u64) {
        let said = |shard: &Standings| shard.read().watched.clone();
        let mut all: Vec<Watched> = self.shards.iter().flat_map(said).collect();
        let omitted = all.len().saturating_sub(REPORT_WATCHED);
        if omitted > 0 {
            all.sort_by_key(|watched| watched.lag.committed - watched.lag.end_offset);
            all.truncate(REPORT_WATCHED);
            let place = |of: &Watched| (of.group, of.lag.topic.clone(), of.lag.partition);
            all.sort_by_cached_key(place);
        }
        let unsigned = |offset: i64| u64::try_from(offset).unwrap_or(0);
        let mut groups: Vec<Consumer> = Vec::new();
        for Watched { group, lag } in all {
            let group = &self.watched[group as usize];
            if !groups.last().is_some_and(|last| last.group == *group && last.topic == lag.topic) {
                let (name, group, topic) = (String::new(), group.clone(), lag.topic);
                groups.push(Consumer { name, group, topic, partitions: Vec::new() });
            }
            groups.last_mut().expect("one was just there").partitions.push(Partition {
                partition: lag.partition as u32,
                position: unsigned(lag.committed),
                end_offset: unsigned(lag.end_offset),
                paused: false,
                lag_level: 0,
                age_ms: 0,
            });
        }
        (groups, omitted as u64)
    }

    /// Where all consumers are, and how many partitions are left out.
    fn consumers(&self) -> (Vec<Consumer>, u64) {
        let mut seen: BTreeMap<(u16, u16, u32), Standing> = BTreeMap::new();
        let said = |shard: &Standings| shard.read().consumers.clone();
        for standing in self.shards.iter().flat_map(said) {
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
            let Standing { position, end_offset, paused, level, age_ms, .. } = at;
            let lag_level = level as u8;
            let at = Partition { partition, position, end_offset, paused, lag_level, age_ms };
            consumers.last_mut().expect("one was just there").partitions.push(at);
        }
        (consumers, omitted as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::Level;
    use crate::log::Feed;
    use trine_core::kafka::lag::GroupLag;

    fn standing(consumer: u16, topic: u16, partition: u32, position: u64) -> Standing {
        let of = Feed { consumer, topic, partition };
        let level = if partition == 2 { Level::Critical } else { Level::Fine };
        let (paused, age_ms) = (partition == 1, 100 - position);
        Standing { of, position, end_offset: 100, paused, level, age_ms }
    }

    fn reporter() -> Reporter {
        let named = |name: &str| (name.to_owned(), format!("{name}-group"));
        Reporter {
            data_dir: "/data".into(),
            kind: Some(LogKind::Embedded),
            consumers: vec![named("log"), named("mail")],
            topics: vec!["tickets".into(), "chats".into()],
            queues: Vec::new(),
            upstreams: vec!["desk".into(), "crm".into()],
            watched: vec!["billing".into(), "search".into()],
            shards: Vec::new(),
            past: Past::default(),
        }
    }

    /// Leaves standings and no pools.
    fn leave(standings: &Standings, all: impl IntoIterator<Item = Standing>) -> bool {
        standings.try_replace(all.into_iter(), std::iter::empty())
    }

    #[test]
    fn pools_of_all_shards_are_one_upstreams() {
        let mut reporter = reporter();
        let (one, other) = (reporter.add_shard(), reporter.add_shard());
        let pool = |leased, waiting, connect_failures| Pool {
            leased,
            waiting,
            connect_failures,
            ..Pool::default()
        };
        let none = std::iter::empty::<Standing>;
        assert!(one.try_replace(none(), [pool(1, 2, 3), pool(0, 0, 9)].into_iter()));
        assert!(other.try_replace(none(), [pool(10, 20, 30), pool(0, 0, 0)].into_iter()));
        let named = |name: &str, pool| Upstream { name: name.to_owned(), pool };
        let expected = [named("desk", pool(11, 22, 33)), named("crm", pool(0, 0, 9))];
        assert_eq!(reporter.report(&Journals::default()).upstreams, expected);
    }

    fn watched(group: u16, topic: &str, partition: i32, committed: i64) -> Watched {
        let topic = topic.to_owned();
        Watched { group, lag: GroupLag { topic, partition, committed, end_offset: 100 } }
    }

    #[test]
    fn other_programs_groups_are_told_by_group_and_topic() {
        let mut reporter = reporter();
        let standings = reporter.add_shard();
        let mut all = vec![
            watched(0, "chats", 1, 90),
            watched(0, "tickets", 0, 100),
            watched(0, "tickets", 3, 99),
            watched(1, "tickets", 0, 0),
        ];
        let reading = standings.0.lock().unwrap();
        assert!(!standings.try_replace_watched(&mut all) && all.len() == 4);
        drop(reading);
        assert!(standings.try_replace_watched(&mut all));
        // What the consumers say replaces nothing of it.
        assert!(leave(&standings, [standing(0, 0, 0, 0)]));
        let groups = reporter.report(&Journals::default()).watched;
        let rows: Vec<_> = groups.iter().map(|at| (&*at.group, &*at.topic, at.lag())).collect();
        let expected =
            [("billing", "chats", 10), ("billing", "tickets", 1), ("search", "tickets", 100)];
        assert_eq!(rows, expected);
        let tickets: Vec<_> = groups[1].partitions.iter().map(|at| at.partition).collect();
        assert_eq!(tickets, [0, 3]);
        let at = |partition| watched(1, "tickets", partition, if partition == 7 { 99 } else { 0 });
        let mut many = (0..=REPORT_WATCHED as i32).map(at).collect();
        assert!(standings.try_replace_watched(&mut many));
        let report = reporter.report(&Journals::default());
        let kept: Vec<u32> = report.watched[0].partitions.iter().map(|at| at.partition).collect();
        let expected: Vec<u32> = (0..=REPORT_WATCHED as u32).filter(|at| *at != 7).collect();
        assert_eq!((kept, report.partitions_omitted), (expected, 1));
    }

    #[test]
    fn shards_are_put_together_by_consumer_and_topic() {
        let mut reporter = reporter();
        let (one, other) = (reporter.add_shard(), reporter.add_shard());
        assert!(leave(&one, [standing(1, 0, 2, 7), standing(0, 1, 0, 40)]));
        // The last partition is just moving from one shard to the other.
        assert!(leave(&other, [standing(1, 0, 1, 99), standing(1, 0, 2, 9)]));
        let report = reporter.report(&Journals::default());
        assert_eq!(report.log, Some(Log { kind: LogKind::Embedded, journal: None }));
        let [log, mail] = report.consumers.as_slice() else { panic!("{report:?}") };
        assert_eq!((&*log.name, &*log.group, &*log.topic), ("log", "log-group", "chats"));
        assert_eq!((log.lag(), log.partitions.len()), (60, 1));
        assert_eq!((&*mail.topic, mail.lag()), ("tickets", 1 + 91));
        let numbers: Vec<_> = mail.partitions.iter().map(|p| (p.partition, p.paused)).collect();
        assert_eq!(numbers, [(1, true), (2, false)]);
        let levels: Vec<_> = mail.partitions.iter().map(|at| at.lag_level).collect();
        assert_eq!(levels, [0, 2]);
        let ages: Vec<_> = mail.partitions.iter().map(|at| at.age_ms).collect();
        assert_eq!(ages, [1, 91]);
        assert!(leave(&one, []));
        assert_eq!(reporter.report(&Journals::default()).consumers.len(), 1);
    }

    #[test]
    fn a_shard_never_waits_for_a_reader() {
        let standings = Standings::default();
        let reading = standings.0.lock().unwrap();
        assert!(!leave(&standings, [standing(0, 0, 0, 0)]));
        drop(reading);
        assert!(leave(&standings, [standing(0, 0, 0, 0)]));
    }

    #[test]
    fn a_report_has_an_end_and_keeps_the_greatest_lags() {
        let mut reporter = reporter();
        let all = 0..REPORT_PARTITIONS as u32 + 3;
        let at = |partition| standing(0, 0, partition, if partition < 3 { 100 } else { 5 });
        assert!(leave(&reporter.add_shard(), all.map(at)));
        let report = reporter.report(&Journals::default());
        assert_eq!(report.partitions_omitted, 3);
        let kept = &report.consumers[0].partitions;
        assert_eq!(kept.len(), REPORT_PARTITIONS);
        assert!(kept.iter().all(|partition| partition.lag() == 95));
    }
}
