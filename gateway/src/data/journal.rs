//! The journals of a data process: started before its shards, closed after them, watched meanwhile.
//!
//! **Runs on: the data process's main thread**; each journal has a storage thread of its own.

use trine_core::journal::storage::{
    Phase, Preference, Recovery, Setup, State, Storage, Store, start,
};
use trine_core::journal::{Options, Retention};

use super::Peers;
use crate::config::{Config, LogKind};
use crate::control::wire::Start;
use crate::limits::{DEAD_LETTERS_BYTES, JOURNAL_CLOSE, JOURNAL_GATHER_MS};
use crate::log::{LETTERS_FOLDER, QUEUE_FOLDER, SPOOL_FOLDER};

/// What is durable on this node.
#[derive(Default)]
pub(super) struct Journals {
    /// The embedded log, or the spool.
    log: Option<Journal>,
    /// What Kafka refuses for good.
    letters: Option<Journal>,
    /// One for each queue: one that waits for its time must not fill another's.
    queues: Vec<Journal>,
}

/// A journal that is open.
struct Journal {
    folder: String,
    storage: Storage,
    stores: std::vec::IntoIter<Store>,
    phase: Option<Phase>,
    told: bool,
    /// Records removed unreleased, as told so far.
    removed: u64,
    failures: u64,
}

/// A shard's ends of the journals.
#[derive(Default)]
pub struct Stores {
    /// Of the embedded log, or of the spool.
    pub log: Option<Store>,
    /// Of what Kafka refuses for good, beside the spool.
    pub letters: Option<Store>,
    /// Of each queue.
    pub queues: Vec<Store>,
}

impl Journals {
    /// Starts what the configuration asks for. The error is a line that names the folder.
    pub fn open(begin: &Start, peers: &[Peers]) -> Result<Journals, String> {
        let config: &Config = &begin.config;
        let mut journals = Journals::default();
        if !config.has_log() {
            return Ok(journals);
        }
        let of = |folder: &str, quota_bytes, retention| {
            Journal::open(folder, (quota_bytes, retention), begin, peers)
        };
        match config.log.kind {
            LogKind::Embedded => {
                let retention = Retention::Oldest { age_ms: config.log.retention_ms };
                journals.log = Some(of("log", config.log.quota_bytes, retention)?);
            }
            LogKind::Kafka => {
                let quota_bytes = config.spool.quota_bytes;
                journals.log = Some(of(SPOOL_FOLDER, quota_bytes, Retention::Released)?);
                let oldest = Retention::Oldest { age_ms: 0 };
                journals.letters = Some(of(LETTERS_FOLDER, DEAD_LETTERS_BYTES, oldest)?);
            }
        }
        for topic in &config.queue.topics {
            let folder = format!("{QUEUE_FOLDER}/{topic}");
            journals.queues.push(of(&folder, config.queue.quota_bytes, Retention::Released)?);
        }
        Ok(journals)
    }

    /// The next shard's ends.
    pub fn next_stores(&mut self) -> Stores {
        let next = |journal: &mut Option<Journal>| journal.as_mut()?.stores.next();
        Stores {
            log: next(&mut self.log),
            letters: next(&mut self.letters),
            queues: self.queues.iter_mut().filter_map(|queue| queue.stores.next()).collect(),
        }
    }

    /// How the embedded log's journal, or the spool's, is, where there is one.
    pub fn state(&self) -> Option<&State> {
        self.log.as_ref().map(|journal| journal.storage.state())
    }

    /// How the dead letters' is, where there is one.
    pub fn letters(&self) -> Option<&State> {
        self.letters.as_ref().map(|journal| journal.storage.state())
    }

    /// How each queue's is, in the order of the configuration.
    pub fn queues(&self) -> impl Iterator<Item = &State> {
        self.queues.iter().map(|queue| queue.storage.state())
    }

    /// Says what has changed.
    pub fn look(&mut self) {
        let others = self.letters.iter_mut().chain(&mut self.queues);
        self.log.iter_mut().chain(others).for_each(Journal::look);
    }

    /// Writes what waits and the final marks, all journals side by side. For the end, when no shard
    /// runs any more.
    pub fn close(&mut self) {
        let others = self.letters.take().into_iter().chain(self.queues.drain(..));
        let all: Vec<Journal> = self.log.take().into_iter().chain(others).collect();
        std::thread::scope(|scope| {
            for Journal { folder, storage, .. } in all {
                scope.spawn(move || {
                    if let Err(error) = storage.stop(JOURNAL_CLOSE) {
                        tracing::error!(journal = folder, %error, "journal not closed");
                    }
                });
            }
        });
    }
}

impl Journal {
    fn open(
        folder: &str,
        (quota_bytes, retention): (u64, Retention),
        begin: &Start,
        peers: &[Peers],
    ) -> Result<Journal, String> {
        let data_dir = &begin.config.data_dir;
        let setup = Setup {
            folder: data_dir.join(folder),
            options: Options { quota_bytes, retention, gather_ms: JOURNAL_GATHER_MS },
            shards: peers.len(),
            wakes: peers.iter().map(|peer| peer.mailboxes.wake_handle()).collect(),
            cpus: (!begin.control_cpus.is_empty()).then(|| begin.control_cpus.clone()),
            preference: Preference::from_environment(),
        };
        let (storage, stores) = start(setup).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => format!(
                "data_dir {} is in use by another process; end that one, or give this one a \
                 data_dir of its own, in a file with -c or by XDG_STATE_HOME",
                data_dir.display()
            ),
            _ => format!("data_dir {}: {error}", data_dir.display()),
        })?;
        Ok(Journal::of(folder, storage, stores))
    }

    fn of(folder: &str, storage: Storage, stores: Vec<Store>) -> Journal {
        Journal {
            folder: folder.to_owned(),
            storage,
            stores: stores.into_iter(),
            phase: None,
            failures: 0,
            told: false,
            removed: 0,
        }
    }

    fn look(&mut self) {
        let (state, journal) = (self.storage.state(), &*self.folder);
        let phase = state.phase();
        if let Some(recovery) = state.recovery().filter(|_| !self.told) {
            self.told = true;
            let Recovery { segments, records, bytes, duration_ms, .. } = recovery;
            let Recovery { damaged, missing_records, missing_segments, torn_bytes, .. } = recovery;
            tracing::info!(
                journal,
                driver = state.driver(),
                segments,
                records,
                bytes,
                duration_ms,
                damaged,
                missing_records,
                missing_segments,
                torn_bytes,
                "journal recovered"
            );
            for damage in state.damages() {
                tracing::error!(
                    journal,
                    damage,
                    "journal damaged; what could be copied is in its quarantine"
                );
            }
        }
        let records = state.removed() - self.removed;
        if records > 0 {
            self.removed += records;
            if journal == LETTERS_FOLDER {
                tracing::error!(journal, records, "the oldest dead letters were given up");
            } else {
                tracing::info!(journal, records, "the oldest records were removed");
            }
        }
        let failures = state.failures();
        let has_failed = std::mem::replace(&mut self.failures, failures) < failures;
        if self.phase == Some(phase) {
            if has_failed && phase == Phase::Ready {
                tracing::warn!(journal, error = state.error(), "the journal's disk has a problem");
            }
            return;
        }
        match phase {
            Phase::Failing | Phase::Full => {
                tracing::error!(journal, ?phase, error = state.error(), "journal refuses records");
            }
            _ => tracing::info!(journal, ?phase, "journal"),
        }
        self.phase = Some(phase);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::logged;
    use bytes::Bytes;
    use std::fs;
    use std::time::{Duration, Instant};
    use trine_core::journal::storage::{Answer, Request};
    use trine_core::rt::WakeHandle;

    /// What the journal says now.
    fn said(journal: &mut Journal) -> String {
        logged(|| journal.look())
    }

    fn ask(store: &mut Store, request: Request) -> Answer {
        assert!(store.try_send(request).is_ok(), "there is room");
        store.flush();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            assert!(Instant::now() < deadline, "no answer");
            if let Some(answer) = store.receive() {
                return answer;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_segment_that_cannot_be_removed_refuses_no_record_and_is_warned_of() {
        let folder = std::env::temp_dir().join(format!("trine-stays-{}", std::process::id()));
        let retention = Retention::Oldest { age_ms: 0 };
        let options = Options { quota_bytes: 16 << 20, retention, gather_ms: 0 };
        let (wakes, preference) = (vec![WakeHandle::new().unwrap()], Preference::Plain);
        let setup =
            Setup { folder: folder.clone(), options, shards: 1, wakes, cpus: None, preference };
        let (storage, mut stores) = start(setup).unwrap();
        let mut store = stores.remove(0);
        let mut journal = Journal::of("log", storage, stores);
        let name = "topic/0".into();
        let Answer::Opened { stream, .. } =
            ask(&mut store, Request::Open { token: 0, name, cursor: false })
        else {
            panic!("a new journal takes a stream");
        };
        let mut append = || {
            let payload = Bytes::from(vec![7; 500_000]);
            let answer = ask(&mut store, Request::Append { token: 1, stream, payload });
            assert!(matches!(answer, Answer::Durable { .. }), "{answer:?}");
        };
        append();
        let begins = said(&mut journal);
        assert!(begins.contains("INFO") && !begins.contains("WARN"), "{begins}");
        // Also root can't remove a folder as a file.
        let segment = folder.join("0000000000000001.segment");
        fs::remove_file(&segment).unwrap();
        fs::create_dir(&segment).unwrap();
        // More than the quota, and the records that come after the failure.
        (0..50).for_each(|_| append());
        let warned = said(&mut journal);
        assert!(warned.contains("WARN") && warned.contains("remove of segment 1"), "{warned}");
        assert!(!warned.contains("refuses"), "{warned}");
        drop(journal);
        fs::remove_dir_all(&folder).unwrap();
    }
}
