//! A stand-in for the configuration until `config` is there.
//!
//! **Runs on: any.**

use std::net::SocketAddr;
use std::path::PathBuf;

/// The resolved configuration.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Config {
    /// Addresses.
    pub listen: Listen,
    /// Shard count and CPUs.
    pub shards: Shards,
    /// Lock and data socket.
    pub runtime_dir: PathBuf,
    /// Whether the demo page is served.
    pub demo: bool,
}

/// Addresses to listen on.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Listen {
    /// Clients.
    pub client: SocketAddr,
    /// Operators.
    pub admin: SocketAddr,
    /// The echo listener.
    pub echo: Option<SocketAddr>,
}

/// Shards.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Shards {
    /// How many.
    pub count: Option<usize>,
    /// Where.
    pub cpus: Vec<usize>,
}

/// Limits that move to the crate's own list.
pub mod limits {
    use std::time::Duration;

    /// Connections waiting for accept on one listener; the kernel cuts it to
    /// `net.core.somaxconn` (4,096 by default).
    pub const BACKLOG: i32 = 4096;
    /// Binds tried while an address is in use.
    pub const BIND_ATTEMPTS: u32 = 25;
    /// Pause between two of them.
    pub const BIND_RETRY: Duration = Duration::from_millis(50);
    /// How long a new control waits for the lock: the system frees it a moment after the old
    /// control's death.
    pub const LOCK_WAIT: Duration = Duration::from_millis(500);
    /// How long a data process may take from its start to serving.
    pub const START_TIMEOUT: Duration = Duration::from_secs(10);
    /// How long a second signal waits for a start under way, to end that process too.
    pub const START_GRACE: Duration = Duration::from_secs(1);
    /// How long either end of the adoption waits for the other's next message.
    pub const LINK_TIMEOUT: Duration = Duration::from_secs(5);
    /// Open admin connections; the next waits in the backlog.
    pub const ADMIN_CONNECTIONS: usize = 64;
    /// Longest life of an admin connection. A scraper simply opens the next.
    pub const ADMIN_LIFE: Duration = Duration::from_secs(60);
    /// Longest path of a UNIX socket, in bytes (`sun_path` without its final NUL).
    pub const SOCKET_PATH_LIMIT_BYTES: usize = 107;
}
