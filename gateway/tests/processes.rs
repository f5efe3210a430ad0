//! The two processes on the built program: start, crash, adoption, stop.
//!
//! **Runs on: any.** Everything is polled with a deadline; every process started here is ended
//! by its process id.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use trine::config::Config;
use trine::control::wire;
use trine_core::fd;
use trine_core::metrics::Page;

const PATIENCE: Duration = Duration::from_secs(20);

/// A place of its own for a gateway: directory, addresses, shard count.
struct Place {
    dir: PathBuf,
    client: SocketAddr,
    admin: SocketAddr,
    shards: usize,
}

impl Place {
    fn new(name: &str) -> Place {
        let dir = std::env::temp_dir().join(format!("trine-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        // Held together, so that they differ; free again when this returns.
        let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [client, admin] = free.map(|socket| socket.local_addr().unwrap());
        Place { dir, client, admin, shards: 2 }
    }

    fn runtime_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trine"));
        let file = self.dir.join("trine.toml");
        let text = format!(
            "runtime_dir = \"run\"\n[listen]\nclient = \"{}\"\nadmin = \"{}\"\n\
             [shards]\ncount = {}\nkeep_awake = false\n[client]\nanonymous = true\n",
            self.client, self.admin, self.shards,
        );
        fs::write(&file, text).unwrap();
        command.arg("-c").arg(file);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a gateway and waits until it serves.
    fn start(&self) -> Gateway<'_> {
        self.start_with(&mut self.command())
    }

    fn start_with(&self, command: &mut Command) -> Gateway<'_> {
        // One pipe, so that what it warns of stands before the line that says that it listens.
        let (reader, writer) = std::io::pipe().unwrap();
        let child = command.stdout(writer.try_clone().unwrap()).stderr(writer).spawn().unwrap();
        let printed = Arc::new(Mutex::new(String::new()));
        collect(reader, &printed);
        let gateway = Gateway { place: self, child, printed };
        until("the gateway listens", || gateway.printed().contains("listening on"));
        gateway
    }

    /// Starts a gateway that is expected to end by itself.
    fn fail(&self) -> Output {
        let output = self.command().output().unwrap();
        assert!(!output.status.success());
        output
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect_timeout(&self.admin, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }

    fn status(&self) -> Option<serde_json::Value> {
        serde_json::from_str(&self.get("/status")?).ok()
    }

    fn data_pid(&self) -> Option<i32> {
        i32::try_from(self.status()?["data_pid"].as_i64()?).ok()
    }

    /// Sum of a counter over all shards.
    fn counter(&self, name: &str) -> u64 {
        let text = self.get("/metrics").unwrap();
        let series = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        series.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    }

    /// Opens a connection; the system accepts it as long as a listener is open.
    fn connect(&self) -> TcpStream {
        TcpStream::connect_timeout(&self.client, PATIENCE).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A running control; ends it, and the data process, when dropped.
struct Gateway<'a> {
    place: &'a Place,
    child: Child,
    printed: Arc<Mutex<String>>,
}

impl Gateway<'_> {
    fn printed(&self) -> String {
        self.printed.lock().unwrap().clone()
    }

    fn signal(&self, signal: Signal) {
        send(i32::try_from(self.child.id()).unwrap(), signal);
    }

    /// Waits for control's end; its exit code.
    fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        until("control ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }

    /// Kills control, and only it.
    fn kill(mut self) {
        self.signal(Signal::KILL);
        self.wait();
        std::mem::forget(self);
    }
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            let data = self.place.data_pid();
            let _ = self.child.kill();
            let _ = self.child.wait();
            if let Some(data) = data {
                send(data, Signal::KILL);
            }
        }
    }
}

fn collect(mut from: impl Read + Send + 'static, into: &Arc<Mutex<String>>) {
    let into = Arc::clone(into);
    thread::spawn(move || {
        let mut lines = BufReader::new(&mut from);
        let mut line = String::new();
        while lines.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            into.lock().unwrap().push_str(&line);
            line.clear();
        }
    });
}

fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

fn lives(pid: i32) -> bool {
    test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
}

/// The data processes that a control has started: those that have their name, and with it a session
/// of their own, so that the system does not hang up on them when they are stopped and orphaned.
fn data_processes(control: u32) -> impl Iterator<Item = i32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(move |process| {
        let read = |file| fs::read_to_string(process.path().join(file)).ok();
        let parent = read("stat")?.rsplit_once(") ")?.1.split(' ').nth(1)?.parse();
        let is_its = parent == Ok(control) && read("comm")? == "trine-data\n";
        is_its.then(|| process.file_name().to_str()?.parse().ok())?
    })
}

/// A process that is not to outlive the test.
struct KillOnDrop(i32);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        send(self.0, Signal::KILL);
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Kills the data process until the next one served within a second, connecting all the while; how
/// often it was killed: once, but for a machine that has no time for it just then.
fn crash(place: &Place) -> u64 {
    for kills in 1..=3 {
        let old = place.data_pid().unwrap();
        let since = Instant::now();
        send(old, Signal::KILL);
        until("a new data process serves", || {
            place.connect();
            place.data_pid().is_some_and(|pid| pid != old)
        });
        if since.elapsed() < Duration::from_secs(1) {
            return kills;
        }
    }
    panic!("three restarts took a second each");
}

#[test]
fn a_crash_is_restarted_within_a_second_and_no_connection_or_count_is_lost() {
    let place = Place::new("crash");
    let mut gateway = place.start();
    assert!(place.get("/healthz").is_some());
    for _ in 0..10 {
        place.connect();
    }
    until("ten are counted", || place.counter("trine_connections_accepted_total") == 10);

    let kills = crash(&place);
    let status = place.status().unwrap();
    assert_eq!(status["restarts"], kills);
    assert_eq!(status["shards"].as_array().unwrap().len(), 2);
    let before = place.counter("trine_connections_accepted_total");
    assert!(before >= 10, "counters fell to {before}");
    place.connect();
    until("the new process counts on", || {
        place.counter("trine_connections_accepted_total") > before
    });

    let data = place.data_pid().unwrap();
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait(), Some(0));
    assert!(!lives(data), "the data process outlived a stop");
    // The kernel takes a ring down, and with it the listener, a moment after the process.
    until("nobody listens any more", || TcpStream::connect(place.client).is_err());
}

#[test]
fn a_new_control_adopts_the_living_data_process() {
    let place = Place::new("adopt");
    let gateway = place.start();
    let data = place.data_pid().unwrap();
    let fingerprint = place.status().unwrap()["config_fingerprint"].clone();
    place.connect();
    until("counted", || place.counter("trine_connections_accepted_total") == 1);
    gateway.kill();

    // Without any control, connections are still served.
    for _ in 0..5 {
        let mut stream = place.connect();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut nothing = Vec::new();
        let _ = stream.read_to_end(&mut nothing);
    }

    let gateway = place.start();
    let printed = gateway.printed();
    assert!(printed.contains(&format!("adopted data process {data}")), "{printed}");
    assert!(!printed.contains("not applied"), "{printed}");
    let status = place.status().unwrap();
    assert_eq!(status["adopted"], true);
    assert_eq!(status["data_pid"], data);
    assert_eq!(status["generation"], 1);
    assert_eq!(status["config_fingerprint"], fingerprint);
    until("all are counted", || place.counter("trine_connections_accepted_total") == 6);

    let kills = crash(&place);
    assert!(place.counter("trine_connections_accepted_total") >= 6);
    let status = place.status().unwrap();
    assert_eq!((&status["adopted"], &status["restarts"]), (&false.into(), &kills.into()));

    // The restarted one is adopted as well.
    let data = place.data_pid().unwrap();
    gateway.kill();
    let mut gateway = place.start();
    assert_eq!(place.data_pid(), Some(data));
    assert_eq!(place.status().unwrap()["restarts"], kills);
    gateway.signal(Signal::INT);
    assert_eq!(gateway.wait(), Some(0));
    until("an adopted process ends with control's stop", || !lives(data));
}

#[test]
fn a_second_signal_ends_a_stuck_drain_at_once() {
    let place = Place::new("stuck");
    let mut gateway = place.start();
    let data = place.data_pid().unwrap();
    send(data, Signal::STOP);
    gateway.signal(Signal::TERM);
    until("the first is taken", || gateway.printed().contains("stopping"));
    assert!(gateway.child.try_wait().unwrap().is_none(), "control waits for the drain");
    // Sent again until it counts: one right after the first is taken for the same.
    until("control ends", || {
        gateway.signal(Signal::INT);
        gateway.child.try_wait().unwrap().is_some()
    });
    assert_eq!(gateway.wait(), Some(1));
    until("the data process is gone", || !lives(data));
}

/// A gateway whose data process is paused before it serves. Each that serves already is ended for
/// the next; after some, restarts are slow, and a new gateway is started.
fn caught_while_it_starts(place: &Place) -> (Gateway<'_>, KillOnDrop) {
    let deadline = Instant::now() + 3 * PATIENCE;
    loop {
        let gateway = place.start();
        let mut data = KillOnDrop(place.data_pid().unwrap());
        for _ in 0..4 {
            let old = std::mem::replace(&mut data, KillOnDrop(0)).0;
            send(old, Signal::KILL);
            while data.0 == 0 {
                assert!(Instant::now() < deadline, "none is caught while it starts");
                let another = data_processes(gateway.child.id()).find(|pid| *pid != old);
                data.0 = another.unwrap_or(0);
            }
            send(data.0, Signal::STOP);
            if place.data_pid().is_none() {
                return (gateway, data);
            }
        }
    }
}

#[test]
fn a_second_signal_ends_a_start_that_hangs_too() {
    let place = Place::new("hangs");
    let (mut gateway, data) = caught_while_it_starts(&place);
    gateway.signal(Signal::TERM);
    until("the first is taken", || gateway.printed().contains("stopping"));
    assert!(gateway.child.try_wait().unwrap().is_none(), "control waits for the start");
    until("control ends", || {
        gateway.signal(Signal::INT);
        gateway.child.try_wait().unwrap().is_some()
    });
    assert_eq!(gateway.wait(), Some(1));
    until("the data process is gone", || !lives(data.0));
}

#[test]
fn a_drain_that_never_ends_is_killed() {
    let place = Place::new("never");
    let mut gateway = place.start();
    let data = place.data_pid().unwrap();
    send(data, Signal::STOP);
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait(), Some(0));
    assert!(!lives(data));
}

#[test]
fn a_stop_is_served_while_nobody_reads_what_is_said() {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    while writer.write(&[0; 4096]).is_ok() {}
    fcntl_setfl(&writer, flags).unwrap();
    let place = Place::new("unread");
    let mut command = place.command();
    let child = command.stdout(writer.try_clone().unwrap()).stderr(writer).spawn().unwrap();
    let mut gateway = Gateway { place: &place, child, printed: Arc::default() };
    until("it serves", || place.data_pid().is_some());
    let data = place.data_pid().unwrap();
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait(), Some(0));
    assert!(!lives(data), "the data process outlived a stop");
    drop(reader);
}

#[test]
fn a_stop_that_is_asked_for_during_the_start_is_a_drain() {
    let place = Place::new("early");
    private_directory(&place.runtime_dir());
    let (near, far) = UnixStream::pair().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_trine"));
    command.arg("data").stdin(OwnedFd::from(far));
    let data = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut data = Gateway { place: &place, child: data, printed: Arc::default() };
    let config = Config { runtime_dir: place.runtime_dir(), ..Config::with_file_defaults() };
    let identity = wire::Identity::default();
    let (cpus, control_cpus) = (vec![0], Vec::new());
    let past = trine::control::report::Past::default();
    let (echo_listeners, api_listeners) = (0, 0);
    let start =
        wire::Start { identity, cpus, control_cpus, config, echo_listeners, api_listeners, past };
    let client = vec![TcpListener::bind(place.client).unwrap().into()];
    let pages = vec![Page::create(0).unwrap()];
    let handles = wire::Handles { client, echo: Vec::new(), api: Vec::new(), pages };
    wire::send(&near, &start, &handles.as_fds()).unwrap();
    // Made first; the shards are started after it.
    until("the start is under way", || place.runtime_dir().join("data.sock").exists());
    data.signal(Signal::TERM);
    assert_eq!(data.wait(), Some(0));
}

#[test]
fn a_stop_does_not_wait_for_a_name_that_is_being_looked_up() {
    use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
    let services = fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    if services.lines().any(|line| line.starts_with("hosts:") && line.contains("resolve")) {
        println!("not tried: another process looks names up here");
        return;
    }
    let place = Place::new("name");
    let mut command = place.command();
    let file = place.dir.join("trine.toml");
    let text = fs::read_to_string(&file).unwrap();
    let text = format!(
        "data_dir = \"data\"\n{text}[log]\nkind = \"kafka\"\n\
         [kafka]\nbrokers = [\"broker:9092\"]\n[[rpc]]\nmethod = \"a\"\ntopic = \"a\"\n"
    );
    fs::write(file, text).unwrap();
    // Where the resolver looks for other names of a host; nobody writes there, so it waits.
    let aliases = place.dir.join("aliases");
    mknodat(CWD, &aliases, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut gateway = place.start_with(command.env("HOSTALIASES", &aliases));
    let mut held = None;
    until("the name is looked up", || {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        held = open(&aliases, flags, Mode::empty()).ok();
        held.is_some()
    });
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait(), Some(0));
    until("it ended by itself", || gateway.printed().contains("exit code 0"));
    drop(held);
}

#[test]
fn a_hang_up_stops_only_what_a_terminal_started() {
    let place = Place::new("service");
    let gateway = place.start();
    let data = place.data_pid().unwrap();
    // What concerns the terminal of control does not concern a session without one.
    let session = rustix::process::getsid(Pid::from_raw(data)).unwrap();
    assert_eq!(session.as_raw_pid(), data);
    gateway.signal(Signal::HUP);
    // Answered after the signal was taken: both are handled by the one thread.
    until("still served", || place.data_pid() == Some(data));
    assert!(gateway.printed().lines().all(|line| line != "stopping"));
    drop(gateway);

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let line = fs::File::options().read(true).open(name.to_str().unwrap()).unwrap();
    let place = Place::new("terminal");
    let mut gateway = place.start_with(place.command().stdin(line));
    gateway.signal(Signal::HUP);
    assert_eq!(gateway.wait(), Some(0));
}

#[test]
fn another_configuration_is_named_and_applied_after_a_drain() {
    let mut place = Place::new("config");
    place.shards = 3;
    place.start().kill();
    place.shards = 1;
    let gateway = place.start();
    let data = place.data_pid().unwrap();
    let printed = gateway.printed();
    assert!(printed.contains("is not applied"), "{printed}");
    assert!(printed.contains(&format!("kill {data}")), "{printed}");
    assert_eq!(place.status().unwrap()["shards"].as_array().unwrap().len(), 3);
    for _ in 0..20 {
        place.connect();
    }
    until("counted", || place.counter("trine_connections_accepted_total") == 20);

    send(data, Signal::TERM);
    until("a new process", || place.data_pid().is_some_and(|pid| pid != data));
    let status = place.status().unwrap();
    assert_eq!(status["shards"].as_array().unwrap().len(), 1);
    assert_eq!(status["generation"], 2);
    // The totals of the shards that vanished went to shard 0, and nobody is left unaccepted.
    assert!(place.counter("trine_connections_accepted_total") >= 20);
    let before = place.counter("trine_connections_accepted_total");
    for _ in 0..20 {
        place.connect();
    }
    until("all accepted", || place.counter("trine_connections_accepted_total") == before + 20);
}

#[test]
fn refusals_are_one_line_and_an_exit_code() {
    let place = Place::new("refuse");
    let one_line = |output: Output, code: i32, parts: &[&str]| {
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
        for part in parts {
            assert!(text.contains(part), "{text}");
        }
    };

    let taken = TcpListener::bind(place.client).unwrap();
    one_line(place.fail(), 1, &[&place.client.to_string(), "listen.client", "in use"]);
    drop(taken);
    let taken = TcpListener::bind(place.admin).unwrap();
    one_line(place.fail(), 1, &[&place.admin.to_string(), "listen.admin", "in use"]);
    drop(taken);

    let gateway = place.start();
    let pid = gateway.child.id().to_string();
    let dir = place.runtime_dir();
    one_line(place.fail(), 1, &[&pid, dir.to_str().unwrap()]);
    let mut other = Place::new("refuse-other");
    other.client = place.client;
    one_line(other.fail(), 1, &["listen.client", "in use"]);
    drop(gateway);
}

/// A start of the gateway at `place` with such arguments of `ulimit`.
fn limited(place: &Place, limit: &str) -> Command {
    let whole = place.command();
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit {limit} && exec \"$0\" \"$@\""));
    command.arg(whole.get_program()).args(whole.get_args());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn little_locked_memory_is_told_with_what_it_is_enough_for() {
    // Five times 1,000 KiB: two rings of 2 MiB, and a rest that is enough for none.
    let limit = "-l 5000";
    let tried = Command::new("sh").arg("-c").arg(format!("ulimit {limit}")).output().unwrap();
    if !tried.status.success() {
        let why = String::from_utf8_lossy(&tried.stderr);
        // Past what keeps the output of a test that passes.
        writeln!(std::io::stderr(), "SKIPPED: the shell can't limit locked memory: {why}").unwrap();
        return;
    }
    let place = Place::new("locked");
    let gateway = place.start_with(&mut limited(&place, limit));
    let printed = gateway.printed();
    let warning = printed.lines().find(|line| line.contains("5120000 bytes of locked memory"));
    let warning = warning.unwrap_or_else(|| panic!("{printed}"));
    for part in ["warning", "enough for 2 shards on io_uring", "ulimit -l", "LimitMEMLOCK="] {
        assert!(warning.contains(part), "{part} is missing: {warning}");
    }
}

#[test]
fn few_descriptors_are_told_and_too_few_are_refused() {
    let place = Place::new("descriptors");
    let limited = |descriptors: u32| limited(&place, &format!("-n {descriptors}"));
    let refused = limited(200).output().unwrap();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    assert!(text.contains("only 200 file descriptors are allowed"), "{text}");
    let gateway = place.start_with(&mut limited(1_000));
    let printed = gateway.printed();
    let warning = printed.lines().find(|line| line.contains("1000 file descriptors"));
    let warning = warning.unwrap_or_else(|| panic!("{printed}"));
    for part in ["warning", "enough for about", "connections", "ulimit"] {
        assert!(warning.contains(part), "{warning}");
    }
    // What the kernel takes for it, too: huge pages would double what a connection keeps.
    let status = fs::read_to_string(format!("/proc/{}/status", place.data_pid().unwrap())).unwrap();
    assert!(!status.contains("THP_enabled:\t1"), "{status}");
}

/// Runs what follows it where io_uring_setup (system call 425) is refused with EPERM, as containers
/// commonly do.
const WITHOUT_RINGS: &str = r#"
import ctypes, os, struct, sys
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = Program(len(steps), ctypes.cast(code, ctypes.c_void_p))
prctl = ctypes.CDLL(None).prctl
if prctl(38, 1, 0, 0, 0) or prctl(22, 2, ctypes.byref(program), 0, 0):
    sys.exit("no filter")
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn a_system_that_refuses_rings_is_told_and_served_with_epoll() {
    let place = Place::new("no-rings");
    let whole = place.command();
    let mut command = Command::new("python3");
    command.arg("-c").arg(WITHOUT_RINGS).arg(whole.get_program()).args(whole.get_args());
    command.stdin(Stdio::null()).env_remove("TRINE_DRIVER");
    let gateway = place.start_with(&mut command);
    until("both shards say why", || {
        let refused = "epoll (io_uring refused: Operation not permitted";
        gateway.printed().matches(refused).count() == 2
    });
    assert!(gateway.printed().contains("io_uring_disabled"), "{}", gateway.printed());
    place.connect();
    until("it serves", || place.counter("trine_connections_accepted_total") == 1);
}

#[test]
fn a_second_embedded_default_is_told_what_it_lacks() {
    let place = Place::new("embedded");
    let command = |run: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trine"));
        command.args(["--listen", "127.0.0.1:0"]).stdin(Stdio::null());
        command.env("XDG_STATE_HOME", &place.dir).env("XDG_RUNTIME_DIR", place.dir.join(run));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let mut gateway = place.start_with(&mut command("one"));
    until("it says where the demo is", || gateway.printed().contains("demo: http://"));
    assert_eq!(gateway.printed().matches("not for production").count(), 1);
    let data_dir = place.dir.join("trine").display().to_string();
    let durable = format!("durable events: {data_dir}");
    assert!(gateway.printed().lines().any(|line| line == durable), "{}", gateway.printed());
    let pid = gateway.child.id().to_string();
    let outputs = ["one", "other"].map(|run| command(run).output().unwrap());
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait(), Some(0));
    for (output, parts) in outputs.iter().zip([
        [&*pid, "runtime_dir", "-c"],
        [&*data_dir, "in use by another process", "XDG_STATE_HOME"],
    ]) {
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        for part in parts {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
    }
}

#[test]
fn nobody_listens_for_backends_without_a_key() {
    let place = Place::new("api");
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let api = free.local_addr().unwrap();
    drop(free);
    let command = |key: &str| {
        let command = place.command();
        let file = place.dir.join("trine.toml");
        let text = fs::read_to_string(&file).unwrap();
        let text = text.replace("[shards]", &format!("api = \"{api}\"\n[shards]"));
        fs::write(file, format!("{text}[api]\nkey = \"{key}\"\n")).unwrap();
        command
    };
    let mut gateway = place.start_with(&mut command(""));
    let refused = TcpStream::connect(api).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let printed = gateway.printed();
    assert!(!printed.contains("API"), "{printed}");
    assert!(!printed.contains("durable events"), "there are none: {printed}");
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait(), Some(0));

    let gateway = place.start_with(&mut command("secret"));
    TcpStream::connect(api).unwrap();
    assert!(gateway.printed().contains(&format!("API {api}")), "{}", gateway.printed());
}

#[test]
fn a_data_process_of_another_layout_is_not_adopted() {
    let place = Place::new("layout");
    let dir = place.runtime_dir();
    private_directory(&dir);
    let socket = UnixListener::bind(dir.join("data.sock")).unwrap();
    let answer = thread::spawn(move || {
        let (control, _) = socket.accept().unwrap();
        let identity = r#"{"generation":7,"fingerprint":"f","restarts":0,"started_unix_ms":0}"#;
        let hello = format!(
            r#"{{"layout":"other","build":"9.9","pid":4242,"identity":{identity},"more":1}}"#
        );
        fd::send(&control, hello.as_bytes(), &[]).unwrap();
    });
    let output = place.fail();
    answer.join().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("9.9") && text.contains("kill 4242"), "{text}");
}

#[test]
fn a_control_that_is_paused_while_it_asks_hears_the_answer() {
    let place = Place::new("paused");
    let dir = place.runtime_dir();
    private_directory(&dir);
    let socket = UnixListener::bind(dir.join("data.sock")).unwrap();
    let child = place.command().spawn().unwrap();
    let control = KillOnDrop(i32::try_from(child.id()).unwrap());
    let (answer, _) = socket.accept().unwrap();
    let is = |state| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", control.0)).unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with(state)
    };
    // Some of its sleeps are others than the one for the answer.
    for _ in 0..10 {
        until("it waits", || is('S'));
        send(control.0, Signal::STOP);
        until("it is paused", || is('T'));
        send(control.0, Signal::CONT);
    }
    fd::send(&answer, b"no greeting", &[]).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("expected"), "{text}");
}

#[test]
fn a_data_process_started_by_hand_explains_itself() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trine"));
    let output = command.arg("data").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(!output.stderr.is_empty());
}

fn private_directory(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(dir).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
}
