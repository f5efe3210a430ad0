//! The data process as control holds it: started or adopted, watched and signalled by pidfd.
//!
//! **Runs on: control**; [`start`] and [`adopt`] block and run on the blocking pool.
//!
//! A pidfd names one process for good: a signal can't hit a stranger that got the same number.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::SocketAddrUnix;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::de::IgnoredAny;
use socket2::{Domain, Socket, Type};
use tokio::sync::oneshot;
use trine_core::metrics::Page;

use super::error::Error;
use super::wire::{self, Handles, Hello, Request, Start, Started};
use crate::limits::{LINK_TIMEOUT, START_TIMEOUT};

/// A running data process.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pidfd: Arc<OwnedFd>,
    ended: oneshot::Receiver<End>,
}

/// How a process has ended.
#[derive(Debug)]
pub struct End {
    /// In a few words.
    pub how: String,
    /// A signal ended it, its own abort included.
    pub by_signal: bool,
}

impl Process {
    /// Begins to watch a process that [`start`] or [`adopt`] returned, on a small thread that
    /// blocks on the pidfd.
    ///
    /// # Errors
    /// When there is no room for the thread.
    pub fn watch(found: Found) -> io::Result<Process> {
        let Found { pid, pidfd, child } = found;
        let pidfd = Arc::new(pidfd);
        let (report, ended) = oneshot::channel();
        let own = child.is_some();
        let watched = Arc::clone(&pidfd);
        let watch = move || {
            // Control is ending if nobody listens any more.
            let _ = report.send(end_of(&watched, child));
        };
        let process = Process { pid, pidfd, ended };
        match thread::Builder::new().name("watch".to_owned()).spawn(watch) {
            Ok(_) => Ok(process),
            Err(error) => {
                if own {
                    // Unwatched it would serve on and never be restarted.
                    process.kill();
                }
                Err(error)
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for its end and says how it came. Safe to drop and call again until it has returned
    /// once.
    pub async fn ended(&mut self) -> End {
        let unwatched = || End { how: "no longer watched".to_owned(), by_signal: false };
        (&mut self.ended).await.unwrap_or_else(|_| unwatched())
    }

    /// Asks it to drain and end.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it at once.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // The only failure left is that it has ended already, which is what was wanted.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
    }
}

/// A data process that serves, not watched yet.
#[derive(Debug)]
pub struct Found {
    pid: u32,
    pidfd: OwnedFd,
    child: Option<Child>,
}

impl Found {
    /// Ends it at once.
    pub fn kill(self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

/// The process of a start under way, for whoever must end it before it serves.
#[derive(Debug, Clone, Default)]
pub struct Begun(Arc<OnceLock<(u32, OwnedFd)>>);

impl Begun {
    /// Its process id, once there is one.
    pub fn pid(&self) -> Option<u32> {
        self.0.get().map(|(pid, _)| *pid)
    }

    /// Ends it at once, if there is one.
    pub fn kill(&self) {
        if let Some((_, pidfd)) = self.0.get() {
            let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
}

/// Starts a data process from this very program and waits until it serves. Blocks for at most
/// twice [`START_TIMEOUT`], and then for as long as a process that failed does not end: the next one
/// must not be started beside it.
///
/// # Errors
/// [`Error::Start`]; the process is gone then.
pub fn start(start: &Start, handles: &Handles, begun: &Begun) -> Result<Found, Error> {
    let failed = |reason: String| Error::Start { reason };
    let (near, far) = UnixStream::pair().map_err(Error::System)?;
    near.set_read_timeout(Some(START_TIMEOUT)).map_err(Error::System)?;
    near.set_write_timeout(Some(START_TIMEOUT)).map_err(Error::System)?;
    // Not the path: the file there may have been replaced by another build meanwhile.
    let mut child = Command::new("/proc/self/exe")
        .arg0("trine")
        .arg("data")
        .stdin(Stdio::from(OwnedFd::from(far)))
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let answer = pidfd(child.id()).and_then(|pidfd| {
        let _ = begun.0.set((child.id(), pidfd.try_clone()?));
        wire::send(&near, start, &handles.as_fds())?;
        Ok((pidfd, wire::receive::<Started>(&near)?.0))
    });
    let reason = match answer {
        Ok((pidfd, Started::Ready { unpinned })) => {
            for (shard, why) in unpinned {
                tracing::warn!(shard, why, "shard runs unpinned");
            }
            return Ok(Found { pid: child.id(), pidfd, child: Some(child) });
        }
        Ok((_, Started::Failed { reason })) => reason,
        Err(error) => match status_soon(&mut child) {
            Some(status) => format!("it ended at once ({status})"),
            None => format!("it does not answer ({error})"),
        },
    };
    let _ = child.kill();
    if status_soon(&mut child).is_none() {
        tracing::error!(pid = child.id(), reason, "a data process that did not start lives on");
        // Nobody waits for this: a stop has a deadline of its own.
        let _ = child.wait();
    }
    Err(failed(reason))
}

/// What an adoption yields.
#[derive(Debug)]
pub struct Adopted {
    /// The process.
    pub found: Found,
    /// What it said of itself.
    pub hello: Hello,
    /// What it runs, but for its configuration.
    pub start: Start<IgnoredAny>,
    /// Its listeners and pages.
    pub handles: Handles,
}

/// Connects to the data process behind `socket`, each wait bounded by [`LINK_TIMEOUT`], that for
/// room in its backlog too.
///
/// # Errors
/// `NotFound` and `ConnectionRefused` when nobody is there: no file, or a file whose process is
/// gone.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    stream.set_read_timeout(Some(LINK_TIMEOUT))?;
    stream.set_write_timeout(Some(LINK_TIMEOUT))?;
    // A wait for room in the listener's queue that a signal ended has connected nothing.
    let address = SocketAddrUnix::new(socket)?;
    retry_on_intr(|| rustix::net::connect(&stream, &address))?;
    Ok(OwnedFd::from(stream).into())
}

/// Connects and hears who is there. Blocks for at most twice [`LINK_TIMEOUT`].
///
/// # Errors
/// When nobody is there, or says nothing that can be understood.
pub fn greet(socket: &Path) -> io::Result<(UnixStream, Hello)> {
    let stream = connect(socket)?;
    let (hello, _) = wire::receive::<Hello>(&stream)?;
    Ok((stream, hello))
}

/// Asks the data process behind `socket`, if one lives, for its listeners and pages. Blocks for
/// at most four times [`LINK_TIMEOUT`], and a second more if the process is dying just then.
///
/// # Errors
/// [`Error::OtherLayout`] and [`Error::Adopt`].
pub fn adopt(socket: &Path) -> Result<Option<Adopted>, Error> {
    match ask_for_all(socket) {
        Err(Error::Adopt { pid: Some(pid), .. }) if ends_soon(pid) => ask_for_all(socket),
        answer => answer,
    }
}

/// Whether a process has ended, or does within a second.
fn ends_soon(pid: u32) -> bool {
    pidfd(pid).map_or(true, |pidfd| await_end(&pidfd))
}

fn ask_for_all(socket: &Path) -> Result<Option<Adopted>, Error> {
    let stream = match connect(socket) {
        Ok(stream) => stream,
        // A process too busy to take connections is there all the same.
        Err(source) if source.kind() == io::ErrorKind::WouldBlock => {
            return Err(Error::Adopt { pid: None, source });
        }
        Err(_) => return Ok(None),
    };
    let peer = rustix::net::sockopt::socket_peercred(&stream).map(|peer| peer.pid.as_raw_pid());
    let peer = peer.ok().and_then(|pid| u32::try_from(pid).ok());
    let failed = |source| Error::Adopt { pid: peer, source };
    let (hello, _) = wire::receive::<Hello>(&stream).map_err(failed)?;
    if hello.layout != wire::layout() {
        return Err(Error::OtherLayout { build: hello.build, pid: hello.pid });
    }
    // Taken before the hand-over: if the process ends from here on, the pidfd tells.
    let pidfd = pidfd(hello.pid).map_err(failed)?;
    wire::send(&stream, &Request::Adopt { pid: std::process::id() }, &[]).map_err(failed)?;
    let (start, fds) = wire::receive::<Start<IgnoredAny>>(&stream).map_err(failed)?;
    let handles = Handles::from_fds(&start, fds).map_err(failed)?;
    let found = Found { pid: hello.pid, pidfd, child: None };
    Ok(Some(Adopted { found, hello, start, handles }))
}

/// Fresh pages for `shards` shards that continue the totals of `old`; those of vanished shards go
/// to shard 0.
///
/// # Errors
/// When the system has no memory or descriptors left.
pub fn fresh_pages(old: &[Page], shards: usize) -> io::Result<Vec<Page>> {
    assert!(shards > 0);
    let mut totals: Vec<_> = old.iter().map(Page::snapshot).collect();
    for vanished in totals.split_off(shards.min(totals.len())) {
        totals[0].add_totals(&vanished);
    }
    (0..shards)
        .map(|shard| {
            let page = Page::create(shard)?;
            if let Some(totals) = totals.get(shard) {
                page.preset(totals);
            }
            Ok(page)
        })
        .collect()
}

/// The status of a child that closed its socket, if it ends within a second.
fn status_soon(child: &mut Child) -> Option<ExitStatus> {
    // Once it was waited for its id may be another's.
    if let Ok(Some(status)) = child.try_wait() {
        return Some(status);
    }
    await_end(&pidfd(child.id()).ok()?);
    child.try_wait().ok()?
}

/// Waits until a process ends, for a second at most; whether it has.
fn await_end(pidfd: &OwnedFd) -> bool {
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    let ready = retry_on_intr(|| poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&second)));
    ready.is_ok_and(|count| count > 0)
}

/// Blocks until the process ends: its pidfd becomes readable then.
fn end_of(pidfd: &OwnedFd, child: Option<Child>) -> End {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    while let Err(errno) = poll(&mut fds, None) {
        assert_eq!(errno, rustix::io::Errno::INTR, "poll on a valid descriptor");
    }
    let status = child.map(|mut child| child.wait());
    let signal = status.as_ref().and_then(|status| status.as_ref().ok()?.signal());
    let how = match status {
        Some(Ok(status)) => match (status.code(), signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "unknown status".to_owned(),
        },
        Some(Err(error)) => error.to_string(),
        None => "adopted, so its status is unknown".to_owned(),
    };
    End { how, by_signal: signal.is_some() }
}

fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use trine_core::metrics::{Counter, Gauge};

    #[test]
    fn totals_go_on_and_those_of_vanished_shards_go_to_shard_0() {
        let old: Vec<Page> = (0..3).map(|shard| Page::create(shard).unwrap()).collect();
        for (page, sends) in old.iter().zip([1, 10, 100]) {
            let writer = page.writer().unwrap();
            writer.add(Counter::Sends, sends);
            writer.set(Gauge::Connections, 5);
        }
        for (shards, expect) in [(1, vec![111]), (2, vec![101, 10]), (4, vec![1, 10, 100, 0])] {
            let fresh = fresh_pages(&old, shards).unwrap();
            let sends: Vec<u64> =
                fresh.iter().map(|page| page.snapshot().counter(Counter::Sends)).collect();
            assert_eq!(sends, expect);
            assert!(fresh.iter().all(|page| page.snapshot().gauge(Gauge::Connections) == 0));
        }
        assert_eq!(fresh_pages(&[], 2).unwrap().len(), 2);
    }
}
