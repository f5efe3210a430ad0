//! The control process: plans, opens the listeners, starts or adopts the data process, watches it
//! and measures it.
//!
//! **Runs on: control**, the main thread, on tokio; never on the data path.
//!
//! - Control owns the listeners, so they stay open whatever happens to a data process.
//! - The data process outlives control: nothing here ends it except a stop that was asked for.
//! - What runs may differ from this control's configuration (after an adoption); a process that
//!   this control starts never does.

mod awake;
mod build;
mod error;
mod listen;
pub(crate) mod process;
pub mod report;
mod runtime_dir;
mod signals;
mod state;
pub mod supervise;
mod topics;
pub mod wire;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::task::JoinHandle;
use tokio::time::timeout;
use trine_core::topology::{PinPlan, Request, Topology, restrict_current_thread};

pub use build::{build, fingerprint};
pub use error::Error;
pub use runtime_dir::data_socket;
pub use state::{Shared, State};

use crate::config::{Config, LogKind};
use crate::limits::{SHARDS_MAX, START_GRACE};
use crate::logs::tell;
use awake::Awake;
use process::{Adopted, Begun, End, Found, Process};
use runtime_dir::RuntimeDir;
use signals::{Asked, Signals};
use supervise::{Action, Event, Supervisor};
use wire::{Handles, Identity, Start};

/// Runs the gateway until it is asked to stop: 0 after a clean stop, otherwise one line on
/// standard error and the error's code.
/// `warnings` are printed, a line each, once nothing hinders the start any more.
pub fn run(config: Config, warnings: &[String]) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => return complain(&Error::System(source)),
    };
    let result = runtime.block_on(async {
        let control = Control::open(config).await?;
        for warning in warnings {
            tell(io::stderr(), &format!("trine: warning: {warning}"));
        }
        control.supervise().await
    });
    // A start that is still under way must not hold up the exit.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

fn complain(error: &Error) -> ExitCode {
    tell(io::stderr(), &format!("trine: {error}"));
    ExitCode::from(error.exit_code())
}

/// Prints one line for people. A standard output that is closed, hung up or not read is no reason
/// to end or to wait.
fn say(line: &str) {
    tell(io::stdout(), line);
}

struct Control {
    config: Config,
    fingerprint: String,
    plan: PinPlan,
    runtime_dir: RuntimeDir,
    signals: Signals,
    shared: Shared,
    listeners: Listeners,
    supervisor: Supervisor,
    process: Option<Process>,
    starting: Option<Starting>,
    /// Whether any data process has served under this control.
    served: bool,
}

/// A start under way.
struct Starting {
    begun: Begun,
    end: JoinHandle<Result<Found, Error>>,
}

#[derive(Debug, Default)]
struct Listeners {
    client: Vec<OwnedFd>,
    echo: Vec<OwnedFd>,
    api: Vec<OwnedFd>,
}

impl Control {
    /// Takes the lock, then adopts a living data process or begins to start one.
    async fn open(config: Config) -> Result<Control, Error> {
        let signals = Signals::install().map_err(Error::System)?;
        let topology = Topology::read().map_err(Error::Topology)?;
        let request = Request {
            count: config.shards.count,
            cpus: config.shards.cpus.clone().unwrap_or_default(),
            most: SHARDS_MAX,
        };
        let plan = PinPlan::new(&topology, &request).map_err(Error::Plan)?;
        if !plan.control.is_empty() {
            // The data process's helper threads inherit this; its shards bind themselves.
            if let Err(error) = restrict_current_thread(&plan.control) {
                tracing::warn!(%error, "control is not restricted to its own CPUs");
            }
        }
        let runtime_dir = RuntimeDir::lock(&config.runtime_dir).await?;
        // Before anything is started, so that a busy address leaves nothing behind.
        let admin = listen::admin(config.listen.admin).await?;
        let mut control = Control {
            fingerprint: fingerprint(&config),
            shared: Shared::new(State::new(listen::local_address(&admin))),
            config,
            plan,
            runtime_dir,
            signals,
            listeners: Listeners::default(),
            supervisor: Supervisor::new(),
            process: None,
            starting: None,
            served: false,
        };
        let socket = control.runtime_dir.data_socket();
        let adopted = blocking(move || process::adopt(&socket)).await?;
        match adopted {
            Some(adopted) => control.take_over(adopted)?,
            None => {
                say(&control.plan.to_string());
                control.start().await?;
            }
        }
        if control.config.log.kind == LogKind::Kafka && control.config.kafka.create_topics {
            tokio::spawn(topics::create(control.config.clone()));
        }
        crate::admin::serve(admin, control.shared.clone()).map_err(Error::System)?;
        let socket = control.runtime_dir.data_socket();
        tokio::spawn(report::follow(control.shared.clone(), socket));
        let awake = Awake::new(control.runtime_dir.awake_note());
        if control.config.shards.keep_awake {
            tokio::spawn(awake.follow(control.shared.clone()));
        }
        Ok(control)
    }

    /// Watches, restarts and stops the data process; returns when it was asked to.
    async fn supervise(mut self) -> Result<(), Error> {
        loop {
            let event = self.next_event().await?;
            match self.supervisor.handle(Instant::now(), event) {
                Action::Wait => {}
                Action::Start => {
                    if let Err(error) = self.start().await {
                        tracing::error!(%error, "the data process can't be started");
                        self.supervisor.handle(Instant::now(), Event::StartFailed);
                    }
                }
                Action::Terminate => {
                    // New connections are refused from now on instead of waiting for nobody.
                    self.listeners = Listeners::default();
                    self.process.iter().for_each(Process::terminate);
                }
                Action::Kill => {
                    tracing::warn!("the data process did not drain in time");
                    self.kill();
                }
                Action::KillAndExit => {
                    self.kill();
                    // One that begins only now must not be left behind.
                    if let Some(Starting { end, .. }) = self.starting.take()
                        && let Ok(Ok(Ok(found))) = timeout(START_GRACE, end).await
                    {
                        found.kill();
                    }
                    return Err(Error::Interrupted);
                }
                Action::GiveUp => {
                    self.kill();
                    let starting = self.starting.as_ref().and_then(|start| start.begun.pid());
                    let pid = self.process.as_ref().map(Process::pid).or(starting);
                    return Err(Error::Undying { pid });
                }
                Action::Exit => return Ok(()),
            }
        }
    }

    /// Kills the data process, be it only starting.
    fn kill(&self) {
        self.starting.iter().for_each(|starting| starting.begun.kill());
        self.process.iter().for_each(Process::kill);
    }

    async fn next_event(&mut self) -> Result<Event, Error> {
        let deadline = self.supervisor.deadline();
        tokio::select! {
            asked = self.signals.next() => match asked {
                Asked::Stop => {
                    say("stopping");
                    Ok(Event::Stop)
                }
            },
            found = join(&mut self.starting) => {
                self.starting = None;
                self.started(found)
            }
            end = ended(&mut self.process) => {
                self.ended(&end);
                Ok(Event::Ended)
            }
            () = sleep_until(deadline) => Ok(Event::Deadline),
        }
    }

    /// Fits listeners and pages to the plan and starts a data process with them.
    async fn start(&mut self) -> Result<(), Error> {
        self.runtime_dir.restore()?;
        let shards = self.plan.shards.len();
        let listen = &self.config.listen;
        listen::fit(&mut self.listeners.client, "listen.client", Some(listen.client), shards)
            .await?;
        listen::fit(&mut self.listeners.echo, "listen.echo", listen.echo, shards).await?;
        let api = (!self.config.api.key.is_empty()).then_some(listen.api);
        listen::fit(&mut self.listeners.api, "listen.api", api, shards).await?;
        let handles = self.shared.with(|state| {
            state.pages = process::fresh_pages(&state.pages, shards)?;
            state.cpus = self.plan.shards.iter().map(|place| place.cpu).collect();
            state.identity = self.next_identity(&state.identity);
            self.handles(state)
        });
        let mut config = self.config.clone();
        // Only now is a port known that the system chose.
        if let Some(client) = self.listeners.client.first().and_then(listen::local_address) {
            config.reach_itself_at(client);
        }
        let start = Start {
            identity: self.shared.with(|state| state.identity.clone()),
            past: self.shared.with(|state| state.past.clone()),
            cpus: self.plan.shards.iter().map(|place| place.cpu).collect(),
            control_cpus: self.plan.control.clone(),
            config,
            echo_listeners: self.listeners.echo.len(),
            api_listeners: self.listeners.api.len(),
        };
        let handles = handles.map_err(Error::System)?;
        let begun = Begun::default();
        let begins = begun.clone();
        let end = tokio::task::spawn_blocking(move || process::start(&start, &handles, &begins));
        self.starting = Some(Starting { begun, end });
        Ok(())
    }

    fn next_identity(&self, last: &Identity) -> Identity {
        let first = last.generation == 0;
        let changed = last.fingerprint != self.fingerprint;
        Identity {
            generation: last.generation + u64::from(changed),
            fingerprint: self.fingerprint.clone(),
            restarts: if first { 0 } else { last.restarts + 1 },
            started_unix_ms: unix_ms(),
        }
    }

    /// Duplicates what the data process gets; control keeps its own.
    fn handles(&self, state: &State) -> io::Result<Handles> {
        let open = |listeners: &[OwnedFd]| -> io::Result<Vec<OwnedFd>> {
            listeners.iter().map(OwnedFd::try_clone).collect()
        };
        let Listeners { client, echo, api } = &self.listeners;
        let pages = state.pages.iter().map(|page| page.try_clone()).collect::<io::Result<_>>()?;
        Ok(Handles { client: open(client)?, echo: open(echo)?, api: open(api)?, pages })
    }

    /// A start came to its end.
    fn started(&mut self, found: Result<Found, Error>) -> Result<Event, Error> {
        let process = found.and_then(|found| Process::watch(found).map_err(Error::System));
        let process = match process {
            Ok(process) => process,
            // Nothing has ever worked here, so a person is looking on.
            Err(error) if !self.served && !self.supervisor.is_stopping() => return Err(error),
            Err(error) => {
                tracing::error!(%error, "the data process did not start");
                self.reset_gauges();
                return Ok(Event::StartFailed);
            }
        };
        self.shared.with(|state| {
            state.data_pid = Some(process.pid());
            state.adopted = false;
        });
        if self.served {
            tracing::info!(pid = process.pid(), "data process restarted");
        } else {
            self.announce();
        }
        self.process = Some(process);
        self.served = true;
        Ok(Event::Ready)
    }

    /// The data process is gone; its gauges go with it, its totals stay.
    fn ended(&mut self, End { how, by_signal }: &End) {
        let pid = self.process.take().map(|process| process.pid());
        // A process that drained removed its socket; a crash leaves it, if all was not removed.
        let clean = !self.runtime_dir.data_socket().exists() && !by_signal;
        if clean {
            tracing::info!(pid, how, "data process ended after draining");
        } else {
            tracing::error!(pid, how, "data process crashed");
        }
        self.reset_gauges();
    }

    /// Forgets what a process that is gone has said of itself, but for its totals.
    fn reset_gauges(&self) {
        let pages = self.shared.with(|state| {
            state.data_pid = None;
            state.report = None;
            process::fresh_pages(&state.pages, state.pages.len()).map(|pages| state.pages = pages)
        });
        if let Err(error) = pages {
            tracing::warn!(%error, "gauges of the ended data process stay until the next one");
        }
    }

    /// Takes a living data process over: its listeners, its pages, its identity.
    fn take_over(&mut self, adopted: Adopted) -> Result<(), Error> {
        let Adopted { found, hello, start, handles } = adopted;
        let process = Process::watch(found).map_err(Error::System)?;
        let pid = process.pid();
        say(&format!(
            "adopted data process {pid}, build {}, configuration generation {} ({})",
            hello.build, hello.identity.generation, hello.identity.fingerprint
        ));
        if hello.build != build() {
            say(&format!(
                "this build ({}) is not applied; to end the old process: kill {pid}",
                build()
            ));
        }
        if hello.identity.fingerprint != self.fingerprint {
            say(&format!(
                "this configuration ({}) is not applied; to end the old process: kill {pid}",
                self.fingerprint
            ));
        }
        let Handles { client, echo, api, pages } = handles;
        self.shared.with(|state| {
            state.pages = pages;
            state.cpus = start.cpus;
            state.identity = hello.identity;
            state.past = start.past;
            state.data_pid = Some(pid);
            state.adopted = true;
        });
        self.listeners = Listeners { client, echo, api };
        self.process = Some(process);
        self.served = true;
        self.supervisor.handle(Instant::now(), Event::Ready);
        self.announce();
        Ok(())
    }

    fn announce(&self) {
        let local = |listeners: &[_]| listeners.first().and_then(listen::local_address);
        let Some(client) = local(&self.listeners.client) else { return };
        let mut line = format!("listening on {client}");
        if let Some(admin) = self.shared.with(|state| state.listen_admin) {
            line.push_str(&format!(", admin {admin}"));
        }
        if let Some(echo) = local(&self.listeners.echo) {
            line.push_str(&format!(", echo {echo}"));
        }
        if let Some(api) = local(&self.listeners.api) {
            line.push_str(&format!(", API {api}"));
        }
        say(&line);
        if self.config.has_log() {
            say(&format!("durable events: {}", self.config.data_dir.display()));
        }
        if self.config.demo {
            say(&format!("demo: http://{}/", reachable(client)));
        }
    }
}

/// An address a browser on this machine can open: the unspecified one is not.
fn reachable(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("localhost:{}", address.port())
    } else {
        address.to_string()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::System(error.into()))?
}

/// The end of the start under way; never, when there is none.
async fn join(starting: &mut Option<Starting>) -> Result<Found, Error> {
    match starting {
        Some(Starting { end, .. }) => end.await.map_err(|error| Error::System(error.into()))?,
        None => std::future::pending().await,
    }
}

/// The end of the process; never, when there is none.
async fn ended(process: &mut Option<Process>) -> End {
    match process {
        Some(process) => process.ended().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
