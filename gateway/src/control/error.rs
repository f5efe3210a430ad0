//! Why control can't run or did not end well: one line that names the thing, the value and the remedy, and the exit
//! code.
//!
//! **Runs on: control.**

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use trine_core::topology::PlanError;

/// A reason to end with another code than 0.
#[derive(Debug)]
pub enum Error {
    /// The machine could not be inspected.
    Topology(io::Error),
    /// The configuration asks for CPUs that are not there.
    Plan(PlanError),
    /// `runtime_dir` can't be used.
    RuntimeDir {
        /// Its value.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `runtime_dir` is another user's, or others may write to it.
    RuntimeDirOpen {
        /// Its value.
        path: PathBuf,
    },
    /// `runtime_dir` makes a socket path that the system can't hold.
    RuntimeDirLong {
        /// The socket's path.
        path: PathBuf,
    },
    /// Another control holds the lock.
    SecondInstance {
        /// `runtime_dir`.
        path: PathBuf,
        /// What the lock file says of its holder.
        pid: String,
    },
    /// An address can't be listened on.
    Listen {
        /// Configuration key.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A living data process is of a build whose pages or messages differ.
    OtherLayout {
        /// Its build.
        build: String,
        /// Its process id.
        pid: u32,
    },
    /// A living data process did not hand its listeners over.
    Adopt {
        /// Its process id, when known.
        pid: Option<u32>,
        /// Why.
        source: io::Error,
    },
    /// The data process did not start.
    Start {
        /// Why.
        reason: String,
    },
    /// The data process was killed and has not ended.
    Undying {
        /// Its process id, when known.
        pid: Option<u32>,
    },
    /// A second signal cut the drain short.
    Interrupted,
    /// Control's own runtime, signals or pages failed.
    System(io::Error),
}

impl Error {
    /// The exit code: 78 (`EX_CONFIG`) where the remedy is in what was asked for, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::OtherLayout { .. } | Error::Plan(_) => 78,
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Topology(source) => write!(f, "cannot read this process's CPUs: {source}"),
            Error::Plan(error) => error.fmt(f),
            Error::RuntimeDir { path, source } => write!(
                f,
                "cannot use runtime_dir {}: {source}; name another directory or fix its \
                 permissions",
                path.display()
            ),
            Error::RuntimeDirOpen { path } => write!(
                f,
                "runtime_dir {} must be yours and not writable by others; chmod 700 it or name \
                 another directory",
                path.display()
            ),
            Error::RuntimeDirLong { path } => write!(
                f,
                "runtime_dir makes the socket path {} longer than 107 bytes; name a shorter \
                 directory",
                path.display()
            ),
            Error::SecondInstance { path, pid } => write!(
                f,
                "another trine (pid {pid}) runs with runtime_dir {}; stop it (kill {pid}) or \
                 give this one a runtime_dir, a data_dir and an address of its own, in a file \
                 with -c",
                path.display()
            ),
            Error::Listen { key, address, source } => {
                write!(f, "cannot listen on {address} ({key}): ")?;
                match source.kind() {
                    io::ErrorKind::AddrInUse => f.write_str(
                        "the address is in use; stop the other program or choose another address",
                    ),
                    io::ErrorKind::PermissionDenied => f.write_str(
                        "permission denied; choose a port from 1024 up or grant \
                         CAP_NET_BIND_SERVICE",
                    ),
                    io::ErrorKind::AddrNotAvailable => f.write_str(
                        "this machine has no such address; choose one of its own or 0.0.0.0",
                    ),
                    _ if out_of_descriptors(source) => {
                        write!(f, "{source}; raise the limit of open files (ulimit -n)")
                    }
                    _ => write!(f, "{source}; choose another address"),
                }
            }
            Error::OtherLayout { build, pid } => write!(
                f,
                "a living data process (pid {pid}, build {build}) is of another layout and can't \
                 be adopted; end it, which may take 8 s, then start again: kill {pid}"
            ),
            Error::Adopt { pid, source } => {
                write!(f, "the living data process did not hand over its listeners ({source})")?;
                match pid {
                    Some(pid) => write!(f, "; end it, then start again: kill -9 {pid}"),
                    None => f.write_str("; end it, then start again"),
                }
            }
            Error::Start { reason } => write!(f, "the data process did not start: {reason}"),
            Error::Undying { pid } => {
                f.write_str("the data process ")?;
                if let Some(pid) = pid {
                    write!(f, "(pid {pid}) ")?;
                }
                f.write_str(
                    "was killed and has not ended; it holds data_dir until the system lets it go: \
                     look for a disk that hangs",
                )
            }
            Error::Interrupted => {
                f.write_str("ended at once by a second signal; connections were cut, not closed")
            }
            Error::System(source) => {
                write!(f, "control cannot run: {source}")?;
                if out_of_descriptors(source) {
                    f.write_str("; raise the limit of open files (ulimit -n)")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Error {}

fn out_of_descriptors(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error())
}
