//! What control and the data process say to each other.
//!
//! **Runs on: control** and the data process's main and link threads.
//!
//! Three exchanges, all JSON in [`trine_core::fd`] messages, each over a socket of its own:
//! - start, on the data process's standard input: [`Start`] with descriptors, then [`Started`];
//! - adoption, on `runtime_dir/data.sock`: [`Hello`] from the data process, [`Request::Adopt`],
//!   then [`Start`] with the same descriptors back;
//! - once a second, there too: [`Hello`], [`Request::Report`], then a [`Report`], or the end where
//!   there is none yet.
//!
//! [`Report`]: super::report::Report
//!
//! [`Hello`] never loses a field: any build must be able to read any other's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use trine_core::fd;
use trine_core::metrics::{LAYOUT, Page};

use super::report::Past;
use crate::config::Config;

/// Changes whenever the messages here change their meaning.
const WIRE_VERSION: u64 = 3;

/// What two processes must agree on before they share listeners and pages: these messages and the
/// pages' layout.
pub fn layout() -> String {
    format!("{:016x}", LAYOUT.rotate_left(8) ^ WIRE_VERSION)
}

/// Everything a data process needs, and everything an adopting control needs to know of it. The
/// latter leaves the configuration unread (`C` is [`serde::de::IgnoredAny`]): another build may
/// have other keys and still share the layout.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start<C = Config> {
    /// Who it is, or shall be.
    pub identity: Identity,
    /// The CPU of each shard; as many as there are shards.
    pub cpus: Vec<usize>,
    /// CPUs for everything that is not a shard; empty for any.
    pub control_cpus: Vec<usize>,
    /// Its configuration.
    pub config: C,
    /// Totals of the data processes before it, as they were last reported.
    #[serde(default)]
    pub past: Past,
    /// How many echo listeners there are: 0 or one a shard.
    pub echo_listeners: usize,
    /// How many listeners for the HTTP API there are: 0 or one a shard.
    pub api_listeners: usize,
}

/// Which configuration and how many lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Counts the configurations that were applied, from 1.
    pub generation: u64,
    /// Hash of the configuration.
    pub fingerprint: String,
    /// Data processes started after the first.
    pub restarts: u64,
    /// Unix time of this process's start, in milliseconds.
    pub started_unix_ms: u64,
}

/// The data process's answer to [`Start`].
#[derive(Debug, Serialize, Deserialize)]
pub enum Started {
    /// It serves.
    Ready {
        /// Shards that could not be pinned, and why.
        unpinned: Vec<(usize, String)>,
    },
    /// It can't, and ends.
    Failed {
        /// One line.
        reason: String,
    },
}

/// The data process's greeting on its socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`layout`] of its build.
    pub layout: String,
    /// Its build.
    pub build: String,
    /// Its process id.
    pub pid: u32,
    /// Which configuration it runs.
    pub identity: Identity,
}

/// What a control asks the data process for, once in a connection.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// To have everything handed over.
    Adopt {
        /// The control's process id, for the log.
        pid: u32,
    },
    /// What it says of its journals and consumers.
    Report,
}

/// The descriptors that travel with [`Start`].
#[derive(Debug)]
pub struct Handles {
    /// One client listener a shard.
    pub client: Vec<OwnedFd>,
    /// One echo listener a shard, or none at all.
    pub echo: Vec<OwnedFd>,
    /// One listener for the HTTP API a shard, or none at all.
    pub api: Vec<OwnedFd>,
    /// One metric page a shard.
    pub pages: Vec<Page>,
}

impl Handles {
    /// Borrows them in the order in which they travel.
    pub fn as_fds(&self) -> Vec<BorrowedFd<'_>> {
        let listeners = self.client.iter().chain(&self.echo).chain(&self.api).map(AsFd::as_fd);
        listeners.chain(self.pages.iter().map(AsFd::as_fd)).collect()
    }

    /// Sorts received descriptors by what `start` says of them.
    ///
    /// # Errors
    /// `InvalidData` when their number or a page is wrong.
    pub fn from_fds<C>(start: &Start<C>, mut fds: Vec<OwnedFd>) -> io::Result<Handles> {
        let shards = start.cpus.len();
        let (echo, api) = (start.echo_listeners, start.api_listeners);
        let none_or_all = |count| count == 0 || count == shards;
        let whole = none_or_all(echo) && none_or_all(api) && fds.len() == 2 * shards + echo + api;
        if shards == 0 || !whole {
            return Err(invalid(format!("{} descriptors for {shards} shards", fds.len())));
        }
        let pages = fds
            .split_off(shards + echo + api)
            .into_iter()
            .map(|fd| Page::open(fd).map_err(|error| invalid(error.to_string())))
            .collect::<io::Result<Vec<Page>>>()?;
        let api = fds.split_off(shards + echo);
        let echo = fds.split_off(shards);
        Ok(Handles { client: fds, echo, api, pages })
    }

    /// Duplicates every descriptor.
    ///
    /// # Errors
    /// When the process has no room for more.
    pub fn try_clone(&self) -> io::Result<Handles> {
        let dup = |fds: &[OwnedFd]| fds.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>();
        Ok(Handles {
            client: dup(&self.client)?,
            echo: dup(&self.echo)?,
            api: dup(&self.api)?,
            pages: self.pages.iter().map(Page::try_clone).collect::<io::Result<_>>()?,
        })
    }
}

/// Sends one message.
///
/// # Errors
/// As [`fd::send`].
pub fn send<T: Serialize>(
    socket: &UnixStream,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    fd::send(socket, &serde_json::to_vec(message)?, fds)
}

/// Receives one message.
///
/// # Errors
/// As [`fd::receive`]; `UnexpectedEof` when the other end closed, `InvalidData` for another
/// message than the one expected.
pub fn receive<T: DeserializeOwned>(socket: &UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let (payload, fds) = fd::receive(socket)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let message = serde_json::from_slice(&payload).map_err(|error| invalid(error.to_string()))?;
    Ok((message, fds))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::listen;

    fn start(shards: usize, echo_listeners: usize) -> Start {
        Start {
            identity: Identity { generation: 3, ..Identity::default() },
            cpus: (0..shards).collect(),
            control_cpus: vec![],
            config: Config::embedded(),
            past: Past::default(),
            echo_listeners,
            api_listeners: 0,
        }
    }

    fn handles(shards: usize, echo: usize) -> Handles {
        let open = |count| -> Vec<OwnedFd> {
            let open = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            (0..count).map(|_| open().into()).collect()
        };
        let pages = (0..shards).map(|shard| Page::create(shard).unwrap()).collect();
        Handles { client: open(shards), echo: open(echo), api: Vec::new(), pages }
    }

    #[test]
    fn a_start_for_a_hundred_shards_arrives_with_every_handle_in_its_place() {
        let (near, far) = UnixStream::pair().unwrap();
        let sent = handles(100, 100);
        let (got, fds) = std::thread::scope(|scope| {
            scope.spawn(|| send(&near, &start(100, 100), &sent.as_fds()).unwrap());
            receive::<Start>(&far).unwrap()
        });
        assert_eq!((got.identity.generation, got.cpus.len()), (3, 100));
        let got = Handles::from_fds(&got, fds).unwrap();
        let ports = |fds: &[OwnedFd]| -> Vec<_> { fds.iter().map(listen::local_address).collect() };
        assert_eq!(ports(&got.client), ports(&sent.client));
        assert_eq!(ports(&got.echo), ports(&sent.echo));
        let shards: Vec<usize> = got.pages.iter().map(Page::shard).collect();
        assert_eq!(shards, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_wrong_number_or_order_of_handles_is_refused() {
        let fds = |handles: Handles| -> Vec<OwnedFd> {
            handles.as_fds().iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect()
        };
        assert!(Handles::from_fds(&start(2, 0), fds(handles(2, 0))).is_ok());
        assert!(Handles::from_fds(&start(2, 2), fds(handles(2, 2))).is_ok());
        assert!(Handles::from_fds(&start(2, 0), fds(handles(2, 2))).is_err());
        assert!(Handles::from_fds(&start(2, 1), fds(handles(2, 1))).is_err());
        assert!(Handles::from_fds(&start(0, 0), vec![]).is_err());
        let mut swapped = fds(handles(2, 0));
        swapped.reverse();
        assert!(Handles::from_fds(&start(2, 0), swapped).is_err(), "a socket is no page");
    }

    #[test]
    fn another_builds_configuration_does_not_hinder_adoption() {
        let mut sent = serde_json::to_value(start(2, 0)).unwrap();
        sent["config"] = serde_json::json!({"a key of tomorrow": [1]});
        assert!(serde_json::from_value::<Start>(sent.clone()).is_err());
        let got: Start<serde::de::IgnoredAny> = serde_json::from_value(sent).unwrap();
        assert_eq!(got.cpus, [0, 1]);
    }

    #[test]
    fn a_later_builds_greeting_is_understood() {
        let text = r#"{"layout":"x","build":"9","pid":1,"new":[1],"identity":{"generation":1,
            "fingerprint":"","restarts":0,"started_unix_ms":0,"more":true}}"#;
        let hello: Hello = serde_json::from_str(text).unwrap();
        assert_ne!(hello.layout, layout());
    }
}
