//! The socket on which a living data process waits for a control that wants to adopt it, or to
//! know how its journals and consumers are.
//!
//! **Runs on: a thread of the data process** that blocks; one exchange at a time, each wait bounded.
//!
//! It keeps duplicates of the listeners and pages for that purpose. When the process drains they
//! are closed and the socket's file is removed, which also tells control that the end was no
//! crash.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::control::report::Report;
use crate::control::wire::{self, Handles, Hello, Request, Start};
use crate::limits::LINK_TIMEOUT;

/// The open socket and what is given out on it.
#[derive(Debug)]
pub struct Link {
    path: PathBuf,
    given: Given,
}

/// What is given out: by this thread and the main thread together.
#[derive(Clone, Debug)]
struct Given {
    estate: Arc<Mutex<Option<Estate>>>,
    /// Apart from the estate, which is locked while it is sent.
    report: Arc<Mutex<Option<Arc<Report>>>>,
}

/// What an adopting control gets.
#[derive(Debug)]
struct Estate {
    hello: Hello,
    start: Start,
    handles: Handles,
}

impl Link {
    /// Binds `path`, replacing what a crashed process left there, and answers on a new thread.
    ///
    /// # Errors
    /// When the path can't be bound, or there is no room for the duplicates.
    pub fn open(path: &Path, start: &Start, handles: &Handles) -> io::Result<Link> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        let hello = Hello {
            layout: wire::layout(),
            build: crate::control::build(),
            pid: std::process::id(),
            identity: start.identity.clone(),
        };
        let estate = Estate { hello, start: start.clone(), handles: handles.try_clone()? };
        let given = Given { estate: Arc::new(Mutex::new(Some(estate))), report: Arc::default() };
        let shared = given.clone();
        thread::Builder::new()
            .name("link".to_owned())
            .spawn(move || answer_all(&listener, &shared))?;
        Ok(Link { path: path.to_owned(), given })
    }

    /// Has this report given out from now on.
    pub fn publish(&self, report: Report) {
        let mut current = self.given.report.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Some(Arc::new(report));
    }

    /// Gives nothing out any more: removes the socket and closes the duplicates.
    pub fn close(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "socket not removed");
        }
        self.given.estate.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn answer_all(listener: &UnixListener, given: &Given) {
    loop {
        let answered = listener.accept().and_then(|(control, _)| answer(&control, given));
        if let Err(error) = answered {
            tracing::warn!(%error, "a control was not answered");
            // Running out of descriptors fails at once, again and again.
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn answer(control: &UnixStream, given: &Given) -> io::Result<()> {
    let peer = rustix::net::sockopt::socket_peercred(control)?;
    if peer.uid != rustix::process::geteuid() && !peer.uid.is_root() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    control.set_read_timeout(Some(LINK_TIMEOUT))?;
    control.set_write_timeout(Some(LINK_TIMEOUT))?;
    let hello = |estate: &Option<Estate>| estate.as_ref().map(|estate| estate.hello.clone());
    let lock = || given.estate.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(hello) = hello(&lock()) else { return Ok(()) };
    wire::send(control, &hello, &[])?;
    match wire::receive::<Request>(control)?.0 {
        Request::Adopt { pid } => {
            if let Some(estate) = &*lock() {
                wire::send(control, &estate.start, &estate.handles.as_fds())?;
                tracing::info!(control_pid = pid, "adopted by a new control");
            }
        }
        Request::Report => {
            let report = given.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(report) = report {
                wire::send(control, &*report, &[])?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::control::process::adopt;
    use crate::control::report::{Consumer, Partition, Past, ask};
    use crate::control::wire::Identity;
    use crate::limits::{REPORT_PARTITIONS, REPORT_WATCHED};
    use trine_core::metrics::Page;

    fn link(name: &str) -> (Link, PathBuf) {
        let path = std::env::temp_dir().join(format!("trine-{name}-{}.sock", std::process::id()));
        let start = Start {
            identity: Identity { generation: 3, ..Identity::default() },
            cpus: vec![0],
            control_cpus: vec![],
            config: Config::embedded(),
            past: Past::default(),
            echo_listeners: 0,
            api_listeners: 0,
        };
        let client = vec![std::net::TcpListener::bind("127.0.0.1:0").unwrap().into()];
        let pages = vec![Page::create(0).unwrap()];
        let handles = Handles { client, echo: Vec::new(), api: Vec::new(), pages };
        (Link::open(&path, &start, &handles).unwrap(), path)
    }

    /// As large as one gets.
    fn largest() -> Report {
        let name = "n".repeat(64);
        let partition = Partition {
            partition: u32::MAX,
            position: 1 << 60,
            end_offset: 1 << 61,
            paused: false,
            lag_level: 2,
            age_ms: 1 << 40,
        };
        let consumer = Consumer {
            name: name.clone(),
            group: name.clone(),
            topic: format!("{name}.dlq"),
            partitions: vec![partition],
        };
        let (consumers, watched) =
            (vec![consumer.clone(); REPORT_PARTITIONS], vec![consumer; REPORT_WATCHED]);
        Report { consumers, watched, ..Report::default() }
    }

    #[test]
    fn a_control_asks_before_and_after_another_adopts() {
        let (link, path) = link("asked");
        let pid = std::process::id();
        assert!(ask(&path, pid).is_err(), "there is no report yet");
        let small = Report { partitions_omitted: 1, ..Report::default() };
        link.publish(small.clone());
        assert_eq!(ask(&path, pid).unwrap(), small);
        assert!(ask(&path, pid + 1).is_err(), "another process was expected");
        assert_eq!(adopt(&path).unwrap().unwrap().hello.identity.generation, 3);
        link.publish(largest());
        assert_eq!(ask(&path, pid).unwrap(), largest());
        link.close();
        assert!(ask(&path, pid).is_err(), "a draining process has closed it");
    }

    #[test]
    fn one_that_hangs_up_hinders_nobody() {
        let (link, path) = link("hung-up");
        link.publish(largest());
        for half in [false, true] {
            let socket = UnixStream::connect(&path).unwrap();
            wire::receive::<Hello>(&socket).unwrap();
            if half {
                wire::send(&socket, &Request::Report, &[]).unwrap();
            }
            drop(socket);
            assert!(adopt(&path).unwrap().is_some());
        }
        link.close();
    }
}
