//! The data process: receives its plan and listeners, starts the shards, answers a control that
//! wants to adopt, drains on SIGTERM.
//!
//! **Runs on: the data process's main thread**; the link and each shard have threads of their own.
//!
//! - It lives on when control dies, and never when a shard panics: a bug ends the whole process,
//!   loudly, and control starts a new one.
//! - It opens no listener of its own.

mod journal;
mod link;
mod names;
mod report;
mod stop;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use trine_core::shard::{Balance, Mailboxes, Ownership, mesh};
use trine_core::topology::{pin_current_thread, restrict_current_thread};

use crate::control::data_socket;
use crate::control::supervise::SHARDS_DRAIN;
use crate::control::wire::{self, Handles, Start, Started};
use crate::edge::ShardStart;
use crate::hub::ToShard;
use crate::limits::{JOURNAL_LOOK, REPORT_INTERVAL, START_TIMEOUT};
use crate::log::Resharding;
use journal::Journals;
use link::Link;
use report::Reporter;

pub use journal::Stores;
pub use names::Names;
pub use report::Standings;
pub use stop::{Stop, StopSignal};

/// What a shard holds of the others.
pub struct Peers {
    /// Its ends of the queues to and from each.
    pub mailboxes: Mailboxes<ToShard>,
    /// Which shard owns a channel.
    pub ownership: Ownership,
    /// How many connections each has.
    pub balance: Balance,
}

impl Peers {
    /// One value for each of `shards` shards.
    ///
    /// # Errors
    /// When the process has no room for another descriptor.
    pub fn connect(shards: usize) -> io::Result<Vec<Peers>> {
        let (ownership, balance) = (Ownership::new(shards), Balance::new(shards));
        let peers =
            |mailboxes| Peers { mailboxes, ownership: ownership.clone(), balance: balance.clone() };
        Ok(mesh(shards)?.into_iter().map(peers).collect())
    }
}

/// The data process's whole life. Standard input is the socket on which control sends the start
/// message.
pub fn main() -> ExitCode {
    // Off the terminal: neither Ctrl-C, nor a hang-up, nor output from the background concerns
    // this process. It fails only for the leader of a group, which no child is that control starts.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"trine-data");
    let Some((control, start, handles)) = receive_start() else {
        complain("`trine data` is started by trine itself, not by hand");
        return ExitCode::from(64);
    };
    crate::logs::start(&start.config.logs);
    crate::logs::abort_on_panic();
    match serve(control, start, handles) {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("data process: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn receive_start() -> Option<(UnixStream, Start, Handles)> {
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().ok()?);
    control.set_read_timeout(Some(START_TIMEOUT)).ok()?;
    control.set_write_timeout(Some(START_TIMEOUT)).ok()?;
    let (start, fds) = wire::receive::<Start>(&control).ok()?;
    let handles = Handles::from_fds(&start, fds).ok()?;
    Some((control, start, handles))
}

fn complain(line: &str) {
    crate::logs::tell(io::stderr(), &format!("trine: {line}"));
}

fn serve(control: UnixStream, start: Start, handles: Handles) -> io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before anything is begun: a stop that is asked for meanwhile is a drain, too.
    let signals = Signals::install(&runtime)?;
    let path = data_socket(&start.config.runtime_dir);
    let begun = begin(&start, handles, &path);
    let (link, mut shards) = match begun {
        Ok(parts) => parts,
        Err(reason) => {
            let _ = wire::send(&control, &Started::Failed { reason: reason.clone() }, &[]);
            return Err(io::Error::other(reason));
        }
    };
    let unpinned = std::mem::take(&mut shards.unpinned);
    // Control may be gone already; this process serves on and waits for another.
    let _ = wire::send(&control, &Started::Ready { unpinned }, &[]);
    drop(control);
    let ended = runtime.block_on(until_drained(shards, link, signals));
    // A name that is being looked up is of no use any more, and its server may take its time.
    runtime.shutdown_background();
    ended
}

/// Opens what must be had before clients are served. The error is a line that names it.
fn begin(start: &Start, handles: Handles, path: &Path) -> Result<(Link, Shards), String> {
    let of = |what: &Path| {
        let what = what.display().to_string();
        move |error: io::Error| format!("{what}: {error}")
    };
    let link = Link::open(path, start, &handles).map_err(of(path))?;
    let peers = Peers::connect(start.cpus.len()).map_err(of(path))?;
    let journals = Journals::open(start, &peers)?;
    let shards = Shards::start(start, handles, peers, journals).map_err(of(path))?;
    Ok((link, shards))
}

/// What a signal asks for waits here until it is taken.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Kept for reload; its default would end the process.
    _hangup: Signal,
}

impl Signals {
    fn install(runtime: &Runtime) -> io::Result<Signals> {
        let _entered = runtime.enter();
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// Serves until asked to stop, then drains.
async fn until_drained(
    mut shards: Shards,
    link: Link,
    mut signals: Signals,
) -> io::Result<ExitCode> {
    let mut draining = false;
    let mut deadline = tokio::time::Instant::now();
    let mut look = tokio::time::interval(JOURNAL_LOOK);
    let mut report = tokio::time::interval(REPORT_INTERVAL);
    loop {
        tokio::select! {
            _ = look.tick() => {
                shards.journals.look();
                shards.names.look_up_meanwhile();
                continue;
            }
            _ = report.tick() => {
                link.publish(shards.reporter.report(&shards.journals));
                continue;
            }
            _ = signals.terminate.recv() => {}
            _ = signals.interrupt.recv() => {}
            ended = shards.ended.recv() => {
                assert!(draining && ended.is_some(), "a shard returned without being asked to");
                shards.running -= 1;
                if shards.running == 0 {
                    shards.journals.close();
                    tracing::info!("drained");
                    return Ok(ExitCode::SUCCESS);
                }
                continue;
            }
            () = tokio::time::sleep_until(deadline), if draining => {
                complain(&format!("{} shards did not drain in time", shards.running));
                return Ok(ExitCode::FAILURE);
            }
        }
        // Init systems and `pkill` signal control, too, which then asks as well. Who is in a hurry
        // has SIGKILL, as control does.
        if draining {
            continue;
        }
        tracing::info!("draining");
        draining = true;
        deadline = tokio::time::Instant::now() + SHARDS_DRAIN;
        link.close();
        shards.stop.request();
    }
}

/// The shard threads.
struct Shards {
    running: usize,
    unpinned: Vec<(usize, String)>,
    ended: mpsc::Receiver<usize>,
    stop: Stop,
    journals: Journals,
    names: Names,
    reporter: Reporter,
}

impl Shards {
    /// Starts every shard on a thread of its own and waits until each has pinned itself.
    fn start(
        start: &Start,
        handles: Handles,
        peers: Vec<Peers>,
        mut journals: Journals,
    ) -> io::Result<Shards> {
        let count = start.cpus.len();
        let config = Arc::new(start.config.clone());
        let (report, ended) = mpsc::channel(count);
        let (pinned, pins) = std::sync::mpsc::sync_channel(count);
        let mut stop = Stop::default();
        let (names, resharding) = (Names::default(), Arc::new(Resharding::default()));
        let mut reporter = Reporter::new(&start.config, start.past.clone());
        let Handles { client, echo, api, pages } = handles;
        let (mut echo, mut api) = (echo.into_iter(), api.into_iter());
        let shards = client.into_iter().zip(pages).zip(peers);
        for (index, ((listener, page), peers)) in shards.enumerate() {
            let shard = ShardStart {
                index,
                shards: count,
                cpu: Some(start.cpus[index]),
                listener,
                echo_listener: echo.next(),
                api_listener: api.next(),
                stores: journals.next_stores(),
                names: names.clone(),
                resharding: resharding.clone(),
                standings: reporter.add_shard(),
                metrics: page.writer()?,
                config: Arc::clone(&config),
                stop: stop.add_shard()?,
                peers,
            };
            let (pinned, report) = (pinned.clone(), report.clone());
            let elsewhere: Vec<usize> = start.cpus.clone();
            thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
                let shard = pin(shard, &elsewhere, &pinned);
                crate::edge::run(shard);
                // The receiver is gone only when the process is ending.
                let _ = report.try_send(index);
            })?;
        }
        let results: Vec<(usize, Result<(), String>)> = pins.iter().take(count).collect();
        let failed = |(index, result): (usize, Result<(), String>)| Some((index, result.err()?));
        let unpinned = results.into_iter().filter_map(failed).collect();
        Ok(Shards { running: count, unpinned, ended, stop, journals, names, reporter })
    }
}

/// Binds the calling thread to its CPU and reports; a shard that can't be bound runs anyway, on
/// any of the shards' CPUs.
fn pin(
    mut shard: ShardStart,
    elsewhere: &[usize],
    report: &std::sync::mpsc::SyncSender<(usize, Result<(), String>)>,
) -> ShardStart {
    let result = match shard.cpu {
        Some(cpu) => pin_current_thread(cpu).map_err(|error| error.to_string()),
        None => Ok(()),
    };
    match &result {
        Ok(()) => tracing::info!(shard = shard.index, cpu = shard.cpu, "pinned, verified"),
        Err(error) => {
            tracing::warn!(shard = shard.index, cpu = shard.cpu, error, "not pinned");
            shard.cpu = None;
            // Threads begin on control's CPUs. If this fails too, that is where the shard stays.
            let _ = restrict_current_thread(elsewhere);
        }
    }
    let _ = report.send((shard.index, result));
    shard
}
