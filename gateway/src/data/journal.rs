//! The journals of a data process: started before its shards, closed after them, watched meanwhile.
//!
//! **Runs on: the data process's main thread**; each journal has a storage thread of its own.

use trine_core::journal::storage::{Phase, Preference, Setup, State, Storage, Store, start};
use trine_core::journal::{Options, Retention};

use super::Peers;
use crate::config::{Config, LogKind};
use crate::control::wire::Start;
use crate::limits::{JOURNAL_CLOSE, JOURNAL_GATHER_MS};
use crate::log::SPOOL_FOLDER;

/// What is durable on this node.
#[derive(Default)]
pub(super) struct Journals {
    log: Option<Storage>,
    stores: std::vec::IntoIter<Store>,
    phase: Option<Phase>,
    told: bool,
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
        let setup = Setup {
            folder: config.data_dir.join(folder),
            options: Options { quota_bytes, retention, gather_ms: JOURNAL_GATHER_MS },
            shards: peers.len(),
            wakes: peers.iter().map(|peer| peer.mailboxes.wake_handle()).collect(),
            cpus: (!begin.control_cpus.is_empty()).then(|| begin.control_cpus.clone()),
            preference: Preference::from_environment(),
        };
        let (log, stores) = start(setup).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => format!(
                "data_dir {} is in use by another process; end that one, or give this one a \
                 data_dir of its own, in a file with -c or by XDG_STATE_HOME",
                config.data_dir.display()
            ),
            _ => format!("data_dir {}: {error}", config.data_dir.display()),
        })?;
        let stores = stores.into_iter();
        Ok(Journals { log: Some(log), stores, phase: None, told: false })
    }

    /// The next shard's end.
    pub fn next_store(&mut self) -> Option<Store> {
        self.stores.next()
    }

    /// How the journal is, where there is one.
    pub fn state(&self) -> Option<&State> {
        self.log.as_ref().map(Storage::state)
    }

    /// Says what has changed.
    pub fn look(&mut self) {
        let Some(log) = &self.log else { return };
        let state = log.state();
        let phase = state.phase();
        if let Some(recovery) = state.recovery().filter(|_| !self.told) {
            self.told = true;
            tracing::info!(driver = state.driver(), ?recovery, "journal recovered");
            for damage in state.damages() {
                tracing::error!(damage, "journal damaged; a copy is in its quarantine");
            }
        }
        if self.phase == Some(phase) {
            return;
        }
        match phase {
            Phase::Failing | Phase::Full => {
                tracing::error!(?phase, error = state.error(), "journal refuses records");
            }
            _ => tracing::info!(?phase, "journal"),
        }
        self.phase = Some(phase);
    }

    /// Writes what waits and the final mark. For the end, when no shard runs any more.
    pub fn close(&mut self) {
        if let Some(log) = self.log.take()
            && let Err(error) = log.stop(JOURNAL_CLOSE)
        {
            tracing::error!(%error, "journal not closed");
        }
    }
}
