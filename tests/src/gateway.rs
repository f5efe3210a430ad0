//! A gateway from the built binary: on free loopback ports, in a folder of its own.
//!
//! **Runs on: any.** What it started is ended when it goes out of scope, by process id. The driver
//! is the environment's (`TRINE_DRIVER`), so the same tests run on io_uring and on epoll.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::metrics::Metrics;
use crate::{http, process, wait};

/// How often a start is tried again when another process took a port that was just free.
const START_TRIES: usize = 3;

/// Channels in which every client may do everything; keys of a test's own come after it.
const OPEN: &str = "channel.subscribe = \"anonymous\"\nchannel.publish = \"anonymous\"\n\
    channel.presence_access = \"anonymous\"\nchannel.history_access = \"anonymous\"\n\
    channel.history_ttl_ms = 600_000\nchannel.presence = true\nchannel.join_leave = true\n\
    channel.recovery = true\nchannel.positioning = true\n";

/// How much history a channel has unless the test says so.
const HISTORY: &str = "channel.history_size = 1000\n";

/// In what time at most a shard's gauges tell what it was given before.
const GAUGES: Duration = Duration::from_millis(1_000);

/// A running gateway.
pub struct Gateway {
    /// Where clients connect.
    pub client: SocketAddr,
    /// Metrics and administration.
    pub admin: SocketAddr,
    /// The echo listener.
    pub echo: SocketAddr,
    /// The HTTP API, which is on where the config has an `api.key`.
    pub api: SocketAddr,
    folder: PathBuf,
    data_dir: PathBuf,
    arguments: Vec<String>,
    control: Child,
    data_seen: Vec<u32>,
}

impl Gateway {
    /// Starts one with `config`: TOML, dotted keys before its sections; channels are open. Panics with its
    /// log when it doesn't serve within the deadline.
    #[track_caller]
    pub fn start(config: &str) -> Self {
        Self::start_on(None, config)
    }

    /// The same with a `data_dir` of the test's own, such as a small filesystem.
    #[track_caller]
    pub fn start_on(data_dir: Option<&Path>, config: &str) -> Self {
        retried(|| {
            let addresses @ [client, admin, echo, api] = free_addresses();
            let folder = folder();
            let data_dir = data_dir.map_or_else(|| folder.join("data"), Path::to_owned);
            let (top, sections) = config.split_at(config.find('[').unwrap_or(config.len()));
            let history = if config.contains("history_size") { "" } else { HISTORY };
            // Tests share the machine's CPUs.
            let halts =
                if config.contains("keep_awake") { "" } else { "shards.keep_awake = false\n" };
            let text = format!(
                "runtime_dir = \"{}\"\ndata_dir = \"{}\"\nclient.anonymous = true\n{halts}{OPEN}{history}{}\n[listen]\n\
                 client = \"{client}\"\nadmin = \"{admin}\"\necho = \"{echo}\"\napi = \"{api}\"\n\
                 {sections}\n",
                folder.join("run").display(),
                data_dir.display(),
                top.trim(),
            );
            let file = folder.join("trine.toml");
            fs::write(&file, text).expect("the config is written");
            let arguments = ["run".into(), "-c".into(), file.display().to_string()].into();
            Self::try_start(addresses, folder, data_dir, arguments)
        })
    }

    /// Starts one with a file that is made for people: `config` gives its text, with addresses of
    /// clients and of the administration in it; it keeps everything beside itself.
    #[track_caller]
    pub fn start_file(config: impl Fn(SocketAddr, SocketAddr) -> String) -> Self {
        retried(|| {
            let [client, admin] = free_addresses();
            let folder = folder();
            let file = folder.join("trine.toml");
            fs::write(&file, config(client, admin)).expect("the config is written");
            let data_dir = folder.join("data");
            let arguments = ["run".into(), "-c".into(), file.display().to_string()].into();
            Self::try_start([client, admin, client, client], folder, data_dir, arguments)
        })
    }

    /// Starts the embedded default, as a newcomer does, but for the address. It has no echo
    /// listener.
    #[track_caller]
    pub fn embedded() -> Self {
        retried(|| {
            let (client, admin) = neighbours();
            let arguments = ["run".into(), "--listen".into(), client.to_string()].into();
            let folder = folder();
            let data_dir = folder.join("data");
            Self::try_start([client, admin, client, client], folder, data_dir, arguments)
        })
    }

    fn try_start(
        [client, admin, echo, api]: [SocketAddr; 4],
        folder: PathBuf,
        data_dir: PathBuf,
        arguments: Vec<String>,
    ) -> Option<Self> {
        let control = spawn(&folder, &arguments);
        let data_seen = Vec::new();
        let mut gateway =
            Self { client, admin, echo, api, folder, data_dir, arguments, control, data_seen };
        gateway.await_serving().then_some(gateway)
    }

    /// False when control exited because of a busy port; panics on any other failure.
    fn await_serving(&mut self) -> bool {
        let mut busy = false;
        let serving = wait::within(wait::DEADLINE, || {
            if let Ok(Some(_)) = self.control.try_wait() {
                busy = self.log().contains("in use");
                return Some(false);
            }
            (self.is_serving() && self.scrape().is_some()).then_some(true)
        });
        if serving == Some(true) {
            self.data();
            // What silently ran on the other driver would show nothing.
            let epoll = std::env::var("TRINE_DRIVER").is_ok_and(|driver| driver == "epoll");
            let used = wait::until("every shard says its driver", || {
                let used = self.metrics().by("trine_shard_driver", "shard");
                used.values().all(|driver| *driver > 0.0).then_some(used)
            });
            let asked = if epoll { 2.0 } else { 1.0 };
            assert!(
                used.values().all(|driver| *driver == asked),
                "{asked} was asked for: {used:?}"
            );
            return true;
        }
        assert!(busy, "the gateway does not serve:\n{}", self.log());
        false
    }

    /// Whether the client listener answers.
    pub fn is_serving(&self) -> bool {
        http::get(self.client, "/healthz").is_ok_and(|(status, _)| status == 200)
    }

    /// The metrics now.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        wait::until("metrics are served", || self.scrape())
    }

    /// Waits until every shard knows what it has spooled, and has nothing of it left. `limit` is how
    /// long nothing may be forwarded meanwhile; a busy machine has some times as long for all of it.
    #[track_caller]
    pub fn await_empty_spool(&self, limit: Duration) {
        let mut since = None;
        let (mut forwarded, mut moved) = (0.0, Instant::now());
        let is_empty = || {
            let metrics = self.metrics();
            let open = metrics.sum("trine_spool_open", &[]);
            let left = metrics.sum("trine_spool_records", &[]);
            let now_forwarded = metrics.sum("trine_spool_records_total", &[("direction", "out")]);
            if now_forwarded > forwarded {
                (forwarded, moved) = (now_forwarded, Instant::now());
            }
            if open != metrics.sum("trine_shards", &[]) || left > 0.0 {
                since = None;
                return (moved.elapsed() > limit).then_some(false);
            }
            (since.get_or_insert_with(Instant::now).elapsed() >= GAUGES).then_some(true)
        };
        if wait::within(5 * limit, is_empty) != Some(true) {
            let of = |name| self.metrics().sum(name, &[]);
            let taken = self.metrics().sum("trine_spool_records_total", &[("direction", "in")]);
            panic!(
                "the spool is not empty, nothing was forwarded for {:?}; open on {} shards, {} left, \
                 {taken} taken, {forwarded} forwarded, {} take-overs",
                moved.elapsed(),
                of("trine_spool_open"),
                of("trine_spool_records"),
                of("trine_spool_take_overs_total")
            );
        }
    }

    fn scrape(&self) -> Option<Metrics> {
        let (status, text) = http::get(self.admin, "/metrics").ok()?;
        (status == 200).then(|| Metrics::parse(&text))
    }

    /// The control process.
    pub fn control(&self) -> u32 {
        self.control.id()
    }

    /// The data process; panics when control has none within the deadline.
    #[track_caller]
    pub fn data(&mut self) -> u32 {
        let control = self.control.id();
        let data = wait::until("control has a data process", || {
            process::children(control).first().copied()
        });
        if !self.data_seen.contains(&data) {
            self.data_seen.push(data);
        }
        data
    }

    /// `SIGKILL` for the data process; returns the id it had.
    pub fn kill_data(&mut self) -> u32 {
        let data = self.data();
        process::signal(data, Signal::KILL);
        data
    }

    /// `SIGKILL` for control alone, and its end awaited.
    pub fn kill_control(&mut self) {
        self.data();
        process::signal(self.control.id(), Signal::KILL);
        self.control.wait().expect("control is our child");
    }

    /// `SIGKILL` for both, as when power is lost; they are gone when it returns.
    #[track_caller]
    pub fn kill(&mut self) {
        self.kill_control();
        for data in &self.data_seen {
            process::signal(*data, Signal::KILL);
        }
        let is_gone = || self.data_seen.iter().all(|&data| process::is_gone(data)).then_some(());
        wait::until("they are gone", is_gone);
    }

    /// Starts control again with the same config and listeners, and waits until it has metrics.
    #[track_caller]
    pub fn start_control(&mut self) {
        self.control = spawn(&self.folder, &self.arguments);
        wait::until("the new control serves metrics", || self.scrape());
    }

    /// `SIGTERM` for control; its status, or nothing when it takes longer than `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Option<ExitStatus> {
        process::signal(self.control.id(), Signal::TERM);
        wait::within(limit, || self.control.try_wait().expect("control is our child"))
    }

    /// Replaces `from` by `to` in the config, which the next start reads.
    #[track_caller]
    pub fn reconfigure(&self, from: &str, to: &str) {
        let file = self.folder.join("trine.toml");
        let text = fs::read_to_string(&file).expect("the config is readable");
        assert!(text.contains(from), "{from} is not in the config");
        fs::write(&file, text.replace(from, to)).expect("the config is written");
    }

    /// Where it keeps what outlives it.
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone()
    }

    /// The command line that started it.
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// What `trine status` prints.
    #[track_caller]
    pub fn status(&self) -> String {
        let mut said = String::new();
        // The options that started a gateway name it to `status` too. It gives up by itself.
        let answer = wait::within(wait::DEADLINE, || {
            let output = Command::new(binary()).arg("status").args(&self.arguments[1..]).output();
            let output = output.expect("the built program starts");
            said = String::from_utf8_lossy(&output.stderr).into_owned();
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
        });
        answer.unwrap_or_else(|| panic!("there is no status: {said}"))
    }

    /// Where its lock and socket are, when it was started with a configuration of the test's.
    pub fn runtime_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// What the processes said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Takes back what a control asked of CPUs that was killed, by the note of it.
    fn let_cpus_halt(&self) {
        for runtime_dir in ["run", "trine"] {
            let note = fs::read_to_string(self.folder.join(runtime_dir).join("awake"));
            for (cpu, before) in
                note.iter().flat_map(|note| note.lines()).filter_map(|line| line.split_once(' '))
            {
                let file =
                    format!("/sys/devices/system/cpu/cpu{cpu}/power/pm_qos_resume_latency_us");
                let _ = fs::write(file, before);
            }
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.data_seen.extend(process::children(self.control.id()));
        let _ = self.control.kill();
        let _ = self.control.wait();
        for data in &self.data_seen {
            // An id may have passed to another process since: only our binary is ended.
            if fs::read_link(format!("/proc/{data}/exe")).is_ok_and(|exe| is_ours(&exe)) {
                process::signal(*data, Signal::KILL);
            }
        }
        self.let_cpus_halt();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let last = lines.len().saturating_sub(40);
            eprintln!("--- the gateway's last lines\n{}\n---", lines[last..].join("\n"));
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The built program: `TRINE_BIN`, or `trine` beside the tests' own build.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TRINE_BIN") {
        return fs::canonicalize(path).expect("TRINE_BIN is a program");
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test.ancestors().nth(2).expect("a test lies in deps below its profile");
    let path = profile.join("trine");
    assert!(path.exists(), "{} is not built: run `cargo build` first", path.display());
    path
}

fn is_ours(exe: &Path) -> bool {
    let built = binary().canonicalize().unwrap_or_default();
    exe.to_string_lossy().trim_end_matches(" (deleted)") == built.to_string_lossy()
}

/// Tries `start` again when a port that was just free no longer is.
#[track_caller]
fn retried(start: impl Fn() -> Option<Gateway>) -> Gateway {
    let started = (0..START_TRIES).find_map(|_| start());
    started.expect("a gateway starts on free ports")
}

fn spawn(folder: &Path, arguments: &[String]) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log"));
    let log = log.expect("the log is writable");
    let mut command = Command::new(binary());
    command.args(arguments).stdin(Stdio::null());
    // Whatever it keeps by default is kept in the folder that goes away with the test.
    command
        .current_dir(folder)
        .env("TMPDIR", folder)
        .env("XDG_RUNTIME_DIR", folder)
        .env("XDG_STATE_HOME", folder);
    command.stdout(log.try_clone().expect("a file is cloned")).stderr(log);
    command.spawn().expect("the built program starts")
}

fn folder() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("trine-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder is made");
    folder
}

/// Two addresses that were free a moment ago, the second a port above the first.
fn neighbours() -> (SocketAddr, SocketAddr) {
    wait::until("two ports side by side are free", || {
        let [one] = free_addresses();
        let other = SocketAddr::new(one.ip(), one.port().checked_add(1)?);
        TcpListener::bind(other).ok().map(|_| (one, other))
    })
}

/// Loopback addresses that were free a moment ago.
fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port is free"));
    listeners.map(|listener| listener.local_addr().expect("a listener has an address"))
}
