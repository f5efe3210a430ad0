//! What control knows of the running data process, shared with the admin listener.
//!
//! **Runs on: control.** One thread uses it; the lock is there because the HTTP library's types
//! ask for it, and it is never held across a wait.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use trine_core::metrics::Page;

use super::build::build;
use super::report::{Past, Report};
use super::wire::Identity;

/// The state behind `/metrics` and `/status`.
#[derive(Debug)]
pub struct State {
    /// This program's build.
    pub build: String,
    /// Where the admin listener is.
    pub listen_admin: Option<SocketAddr>,
    /// The data process, while there is one.
    pub data_pid: Option<u32>,
    /// Whether it was adopted.
    pub adopted: bool,
    /// What it runs, or ran last; generation 0 before the first start.
    pub identity: Identity,
    /// The CPU of each shard.
    pub cpus: Vec<usize>,
    /// One page a shard.
    pub pages: Vec<Page>,
    /// What the data process said last of its journals and consumers; absent while it says
    /// nothing.
    pub report: Option<Arc<Report>>,
    /// The totals that were reported last, of all data processes: the next one is told them.
    pub past: Past,
}

impl State {
    /// Before there is a data process.
    pub fn new(listen_admin: Option<SocketAddr>) -> State {
        State {
            build: build(),
            listen_admin,
            data_pid: None,
            adopted: false,
            identity: Identity::default(),
            cpus: Vec::new(),
            pages: Vec::new(),
            report: None,
            past: Past::default(),
        }
    }
}

impl State {
    /// Since the data process's start, by the wall clock, which two controls share.
    pub fn uptime(&self) -> Duration {
        let since = UNIX_EPOCH + Duration::from_millis(self.identity.started_unix_ms);
        SystemTime::now().duration_since(since).unwrap_or_default()
    }
}

/// A handle on the state.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Mutex<State>>);

impl Shared {
    /// Wraps the state.
    pub fn new(state: State) -> Shared {
        Shared(Arc::new(Mutex::new(state)))
    }

    /// Looks at the state or changes it.
    pub fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
