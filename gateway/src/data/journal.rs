//! The journals of a data process: started before its shards, closed after them, watched meanwhile.
//!
//! **Runs on: the data process's main thread**; each journal has a storage thread of its own.

use trine_core::journal::storage::{Phase, Preference, Setup, State, Storage, Store, start};
use trine_core::journal::{Options, Retention};

use super::Peers;
use crate::config::{Config, LogKind};
use crate::control::wire::Start;
use crate::limits::{JOURNAL_CLOSE, JOURNAL_GATHER_MS};
use crate::log::{QUEUE_FOLDER, SPOOL_FOLDER};

/// What is durable on this node.
#[derive(Default)]
pub(super) struct Journals {
    /// The embedded log, or the spool.
    log: Option<Journal>,
    queues: Option<Journal>,
}

/// A journal that is open.
struct Journal {
    folder: &'static str,
    storage: Storage,
    stores: std::vec::IntoIter<Store>,
    phase: Option<Phase>,
    told: bool,
}

/// A shard's ends of the journals.
#[derive(Default)]
pub struct Stores {
    /// Of the embedded log, or of the spool.
    pub log: Option<Store>,
    /// Of the queues.
    pub queues: Option<Store>,
}

impl Journals {
    /// Starts what the configuration asks for. The error is a line that names the folder.
    pub fn open(begin: &Start, peers: &[Peers]) -> Result<Journals, String> {
        let config: &Config = &begin.config;
        if !config.has_log() {
            return Ok(Journals::default());
        }
        let (folder, quota_bytes, retention) = match config.log.kind {
            LogKind::Embedded => {
                let retention = Retention::Oldest { age_ms: config.log.retention_ms };
                ("log", config.log.quota_bytes, retention)
            }
            LogKind::Kafka => (SPOOL_FOLDER, config.spool.quota_bytes, Retention::Released),
        };
        let log = Journal::open(folder, (quota_bytes, retention), begin, peers)?;
        let queues = match &config.queue {
            queue if queue.topics.is_empty() => None,
            queue => {
                let keeps = (queue.quota_bytes, Retention::Released);
                Some(Journal::open(QUEUE_FOLDER, keeps, begin, peers)?)
            }
        };
        Ok(Journals { log: Some(log), queues })
    }

    /// The next shard's ends.
    pub fn next_stores(&mut self) -> Stores {
        let next = |journal: &mut Option<Journal>| journal.as_mut()?.stores.next();
        Stores { log: next(&mut self.log), queues: next(&mut self.queues) }
    }

    /// How the embedded log's journal, or the spool's, is, where there is one.
    pub fn state(&self) -> Option<&State> {
        self.log.as_ref().map(|journal| journal.storage.state())
    }

    /// How the queues' journal is, where there is one.
    pub fn queues_state(&self) -> Option<&State> {
        self.queues.as_ref().map(|journal| journal.storage.state())
    }

    /// Says what has changed.
    pub fn look(&mut self) {
        self.log.iter_mut().chain(&mut self.queues).for_each(Journal::look);
    }

    /// Writes what waits and the final marks. For the end, when no shard runs any more.
    pub fn close(&mut self) {
        for journal in self.log.take().into_iter().chain(self.queues.take()) {
            if let Err(error) = journal.storage.stop(JOURNAL_CLOSE) {
                tracing::error!(journal = journal.folder, %error, "journal not closed");
            }
        }
    }
}

impl Journal {
    fn open(
        folder: &'static str,
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
        Ok(Journal { folder, storage, stores: stores.into_iter(), phase: None, told: false })
    }

    fn look(&mut self) {
        let (state, journal) = (self.storage.state(), self.folder);
        let phase = state.phase();
        if let Some(recovery) = state.recovery().filter(|_| !self.told) {
            self.told = true;
            tracing::info!(journal, driver = state.driver(), ?recovery, "journal recovered");
            for damage in state.damages() {
                tracing::error!(journal, damage, "journal damaged; a copy is in its quarantine");
            }
        }
        if self.phase == Some(phase) {
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
