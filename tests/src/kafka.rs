//! Real Kafka brokers on free loopback ports, in a folder of their own, and foreign clients that read
//! and write them.
//!
//! **Runs on: any.** A cluster is ended and its folder removed when it goes out of scope. A started node
//! truly serves: it names all nodes, and gives producer ids. `tests/run install` brings the brokers.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::checker::{Outcome, Record, Sent};
use crate::fault::Proxy;
use crate::{script, wait};

/// How long brokers may take to start; a JVM on a busy machine is slow.
const START_LIMIT: Duration = Duration::from_secs(90);

/// How often a start is tried again when another process took a port that was just free.
const START_TRIES: usize = 3;

/// Where the brokers' ports are: below Linux's ports for outgoing connections.
const PORTS: Range<u16> = 14_000..32_000;

/// How long one question to a broker may take before it is asked again.
const ASK_LIMIT: Duration = Duration::from_secs(3);

/// The only user of the SASL listeners, by PLAIN and both kinds of SCRAM.
pub const USER: &str = "trine";
/// Its password.
pub const PASSWORD: &str = "secret";

/// The sender of what foreign producers write.
const WRITER: &str = "writer";

/// Ports of one node.
#[derive(Clone, Copy, Debug)]
struct Ports {
    plaintext: u16,
    controller: u16,
    sasl: u16,
    /// The listener that tells clients `advertised`.
    via: u16,
    advertised: u16,
}

/// What a partition is like now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number.
    pub partition: i32,
    /// The node that leads it.
    pub leader: Option<usize>,
    /// The nodes that hold it.
    pub replicas: Vec<usize>,
    /// Those of them that are in sync.
    pub in_sync: Vec<usize>,
    /// The offset after its last record, while it has a leader.
    pub end_offset: Option<i64>,
}

/// A running cluster; its nodes are numbered from 1.
pub struct Kafka {
    folder: PathBuf,
    ports: Vec<Ports>,
    admin: Mutex<Option<Admin>>,
}

impl Kafka {
    /// Starts 1 or 3 nodes and waits until all serve.
    #[track_caller]
    pub fn start(nodes: usize) -> Self {
        Self::start_with(nodes, &[])
    }

    /// Starts nodes with broker properties of the test's own.
    #[track_caller]
    pub fn start_with(nodes: usize, properties: &[(&str, &str)]) -> Self {
        Self::launch(&vec![None; nodes], properties)
    }

    /// Starts nodes with a proxy before each: a client that asks at a proxy is told the proxies'
    /// addresses and no others. The proxies forward until told otherwise.
    #[track_caller]
    pub fn behind_proxies(nodes: usize, seed: u64) -> (Self, Vec<Proxy>) {
        let proxies: Vec<_> = (0..nodes as u64).map(|node| Proxy::start(seed ^ node)).collect();
        let advertised: Vec<_> = proxies.iter().map(|proxy| Some(proxy.address().port())).collect();
        let kafka = Self::launch(&advertised, &[]);
        for (proxy, ports) in proxies.iter().zip(&kafka.ports) {
            proxy.forward_to(loopback(ports.via));
        }
        (kafka, proxies)
    }

    #[track_caller]
    fn launch(advertised: &[Option<u16>], properties: &[(&str, &str)]) -> Self {
        let started = (0..START_TRIES).find_map(|_| Self::try_launch(advertised, properties));
        started.expect("brokers start on free ports")
    }

    /// Nothing when another process took a port that was just free.
    #[track_caller]
    fn try_launch(advertised: &[Option<u16>], properties: &[(&str, &str)]) -> Option<Self> {
        let ports: Vec<_> = advertised.iter().map(|port| free_ports(*port)).collect();
        let kafka = Self { folder: folder(), ports, admin: Mutex::new(None) };
        let list: Vec<_> = kafka.ports.iter().map(Ports::list).collect();
        let mut arguments = vec!["start".to_owned(), list.len().to_string()];
        arguments.push(format!("--ports={}", list.join(";")));
        arguments.extend(properties.iter().map(|(key, value)| format!("--property={key}={value}")));
        kafka.script(&arguments);
        let all = 1..=kafka.nodes();
        all.into_iter().all(|node| kafka.await_serving(node, kafka.nodes())).then_some(kafka)
    }

    /// The plaintext addresses of all nodes, as clients take them.
    pub fn bootstrap(&self) -> String {
        list(self.ports.iter().map(|ports| ports.plaintext))
    }

    /// The addresses of the SASL listeners.
    pub fn sasl_bootstrap(&self) -> String {
        list(self.ports.iter().map(|ports| ports.sasl))
    }

    /// The plaintext address of a node.
    pub fn address(&self, node: usize) -> SocketAddr {
        loopback(self.ports[node - 1].plaintext)
    }

    /// How many nodes it has.
    pub fn nodes(&self) -> usize {
        self.ports.len()
    }

    /// Makes a topic, as many replicas as nodes, and waits until every partition has a leader.
    #[track_caller]
    pub fn create_topic(&self, topic: &str, partitions: usize) {
        self.create_topic_with(topic, partitions, &[]);
    }

    /// Makes a topic with configs of its own.
    #[track_caller]
    pub fn create_topic_with(&self, topic: &str, partitions: usize, configs: &[(&str, &str)]) {
        let mut words = vec!["create".to_owned(), topic.to_owned()];
        words.extend([partitions.to_string(), self.nodes().to_string()]);
        words.extend(configs.iter().map(|(key, value)| format!("{key}={value}")));
        self.admin(&words);
        wait::until("every partition has a leader", || {
            let found = self.try_describe(topic)?;
            let led = found.iter().filter(|partition| partition.leader.is_some()).count();
            (led == partitions).then_some(())
        });
    }

    /// Deletes a topic.
    #[track_caller]
    pub fn delete_topic(&self, topic: &str) {
        self.admin(&["delete", topic]);
    }

    /// Raises a topic's partitions to `total`.
    #[track_caller]
    pub fn add_partitions(&self, topic: &str, total: usize) {
        self.admin(&["partitions", topic, &total.to_string()]);
    }

    /// Changes one config of a topic.
    #[track_caller]
    pub fn configure_topic(&self, topic: &str, key: &str, value: &str) {
        self.admin(&["config", topic, &format!("{key}={value}")]);
    }

    /// Makes `node` the leader of a partition; the other nodes stay its replicas.
    #[track_caller]
    pub fn move_leader(&self, topic: &str, partition: i32, node: usize) {
        let others = (1..=self.nodes()).filter(|other| *other != node);
        self.place(topic, partition, &[node].into_iter().chain(others).collect::<Vec<_>>());
    }

    /// Makes these nodes the replicas of a partition, and the first of them its leader.
    #[track_caller]
    pub fn place(&self, topic: &str, partition: i32, nodes: &[usize]) {
        let words: Vec<_> = nodes.iter().map(usize::to_string).collect();
        self.admin(&["move", topic, &partition.to_string(), &words.join(",")]);
        wait::until("the leader has moved", || {
            let found = self.try_describe(topic)?;
            (found.get(partition as usize)?.leader == nodes.first().copied()).then_some(())
        });
    }

    /// Deletes the records of a partition before `offset`.
    #[track_caller]
    pub fn truncate(&self, topic: &str, partition: i32, offset: i64) {
        self.admin(&["truncate", topic, &partition.to_string(), &offset.to_string()]);
    }

    /// The partitions of a topic, in order.
    #[track_caller]
    pub fn describe(&self, topic: &str) -> Vec<Partition> {
        wait::until("the topic is described", || self.try_describe(topic))
    }

    /// The same, or nothing while there is no such topic.
    pub fn try_describe(&self, topic: &str) -> Option<Vec<Partition>> {
        self.try_admin(&["describe", topic]).ok()?.lines().map(partition).collect()
    }

    /// What a consumer group has committed, by topic and partition; nothing when there is no such group.
    pub fn committed(&self, group: &str) -> BTreeMap<(String, i32), i64> {
        let answer = self.try_admin(&["group", group]).unwrap_or_default();
        let committed = answer.lines().filter_map(|line| {
            let mut words = line.strip_prefix("committed ")?.split(' ');
            let topic = words.next()?.to_owned();
            Some(((topic, words.next()?.parse().ok()?), words.next()?.parse().ok()?))
        });
        committed.collect()
    }

    /// Gives a user of the SASL listeners a password for one SCRAM mechanism.
    #[track_caller]
    pub fn add_user(&self, name: &str, mechanism: &str, password: &str) {
        self.admin(&["user", name, mechanism, password]);
    }

    /// `SIGKILL` for a node; it is gone on return.
    #[track_caller]
    pub fn kill_node(&self, node: usize) {
        self.script(&["kill-node".to_owned(), node.to_string()]);
    }

    /// Ends a node in an orderly way, as a maintenance does: its leaders move first.
    #[track_caller]
    pub fn shut_down_node(&self, node: usize) {
        self.script(&["stop-node".to_owned(), node.to_string()]);
    }

    /// Starts a node again and waits until it serves.
    #[track_caller]
    pub fn restart_node(&self, node: usize) {
        self.script(&["start-node".to_owned(), node.to_string()]);
        // Others may be down; a majority is what it needs.
        assert!(self.await_serving(node, self.nodes() / 2 + 1), "its port was taken");
    }

    /// `SIGSTOP` for a node: its connections stay and nothing is answered.
    #[track_caller]
    pub fn stop_node(&self, node: usize) {
        self.script(&["pause-node".to_owned(), node.to_string()]);
    }

    /// `SIGCONT` for a stopped node.
    #[track_caller]
    pub fn resume_node(&self, node: usize) {
        self.script(&["resume-node".to_owned(), node.to_string()]);
    }

    /// All records of a topic, by partition and offset, as a client on librdkafka reads them.
    #[track_caller]
    pub fn read(&self, topic: &str) -> Vec<Record> {
        self.read_with(topic, &[])
    }

    /// The same with arguments of `tests/kafka/read.py` (another client, SASL, only what is committed).
    #[track_caller]
    pub fn read_with(&self, topic: &str, arguments: &[&str]) -> Vec<Record> {
        let sasl = arguments.contains(&"--sasl");
        let bootstrap = if sasl { self.sasl_bootstrap() } else { self.bootstrap() };
        let mut command = script::python("kafka/read.py");
        command.arg(bootstrap).arg(topic).args(arguments);
        let mut records = script::lines(command, record);
        records.sort_by_key(|record| (record.partition, record.log_offset));
        records
    }

    /// Partition and offset of each record of a topic, as kcat reads them; nothing without it.
    #[track_caller]
    pub fn places_by_kcat(&self, topic: &str) -> Option<Vec<(i32, i64)>> {
        let bootstrap = self.bootstrap();
        let mut command = Command::new("kcat");
        command.args(["-C", "-q", "-e", "-o", "beginning", "-b", &bootstrap, "-t", topic]);
        let output = match command.args(["-f", "%p %o\n"]).output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                println!("SKIPPED: there is no kcat");
                return None;
            }
            output => output.expect("kcat is started"),
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("numbers");
        let place = |line: &str| {
            let (partition, offset) = line.split_once(' ').expect("two numbers");
            (partition.parse().expect("a partition"), offset.parse().expect("an offset"))
        };
        let mut places: Vec<_> = text.lines().map(place).collect();
        places.sort_unstable();
        Some(places)
    }

    /// Starts `tests/kafka/write.py`: messages 0 to `count` of `run` in a topic, at `rate_per_s`, or as fast
    /// as it goes when that is 0.
    #[track_caller]
    pub fn write(&self, topic: &str, run: &str, count: u64, rate_per_s: u32) -> Writer {
        Writer::start(&self.bootstrap(), topic, run, count, rate_per_s)
    }

    /// Waits until a node names so many nodes and gives a producer id. False when a port was busy; panics on
    /// any other failure.
    #[track_caller]
    fn await_serving(&self, node: usize, named: usize) -> bool {
        let outcome = wait::within(START_LIMIT, || match serves(self.address(node), named) {
            Ok(()) => Some(true),
            Err(_) => self.log(node).contains("Address already in use").then_some(false),
        });
        outcome.unwrap_or_else(|| panic!("node {node} does not serve:\n{}", self.log(node)))
    }

    /// The last lines that a node said.
    pub fn log(&self, node: usize) -> String {
        let path = self.folder.join(format!("node{node}/log"));
        let text = fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(8192)..]).into_owned()
    }

    #[track_caller]
    fn admin(&self, words: &[impl AsRef<str>]) -> String {
        self.try_admin(words).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Asks the admin process, which is started by the first question and started anew after it failed.
    fn try_admin(&self, words: &[impl AsRef<str>]) -> Result<String, String> {
        let words: Vec<_> = words.iter().map(AsRef::as_ref).collect();
        let question = words.join("\t");
        let mut admin = self.admin.lock().expect("no thread panics while it asks");
        let mut of = admin.take().unwrap_or_else(|| Admin::start(self.command("admin")));
        let answer = of.ask(&question).map_err(|error| format!("the admin process: {error}"))?;
        *admin = Some(of);
        answer.map_err(|error| format!("kafka {}: {error}", words.join(" ")))
    }

    #[track_caller]
    fn script(&self, arguments: &[String]) -> String {
        self.try_script(arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    fn try_script(&self, arguments: &[String]) -> Result<String, String> {
        let mut command = self.command(&arguments[0]);
        let output = command.args(&arguments[1..]).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("python3: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("kafka {}: {said}", arguments.join(" ")))
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new("python3");
        command.arg(script::tests_folder().join("services/kafka/cluster.py"));
        command.arg(&self.folder).arg(name);
        command
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in 1..=self.nodes() {
                let log = self.log(node);
                let notable = log.lines().filter(|line| line.contains("ERROR"));
                notable.for_each(|line| eprintln!("kafka node {node}: {line}"));
            }
        }
        if let Err(error) = self.try_script(&["wipe".to_owned()]) {
            eprintln!("{error}");
        }
    }
}

/// The broker's own admin client, kept running, since a JVM takes long to start.
struct Admin {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Admin {
    fn start(mut command: Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("`tests/run install` brings the admin tool");
        let questions = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, questions, answers }
    }

    /// What it answers: lines, or the broker's error. It gives up by itself after 30 s.
    fn ask(&mut self, question: &str) -> io::Result<Result<String, String>> {
        writeln!(self.questions, "{question}")?;
        let mut answer = String::new();
        loop {
            let mut line = String::new();
            if self.answers.read_line(&mut line)? == 0 {
                return Err(io::Error::other("it has ended"));
            }
            match line.trim_end() {
                "ok" => return Ok(Ok(answer)),
                line if line.starts_with("error ") => return Ok(Err(line.to_owned())),
                _ => answer.push_str(&line),
            }
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A foreign producer at work.
pub struct Writer {
    child: Child,
}

impl Writer {
    /// The same as [`Kafka::write`], at addresses of the caller's, as those of proxies.
    #[track_caller]
    pub fn start(bootstrap: &str, topic: &str, run: &str, count: u64, rate_per_s: u32) -> Self {
        let mut command = script::python("kafka/write.py");
        command.arg(bootstrap).arg(topic).args(["--run", run, "--sender", WRITER]);
        command.args(["--count", &count.to_string(), "--rate", &rate_per_s.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        Self { child: child.expect("`tests/run install` brings Python's clients") }
    }

    /// Waits until all is answered; the messages by sequence.
    #[track_caller]
    pub fn finish(mut self) -> Vec<Sent> {
        let lines = BufReader::new(self.child.stdout.take().expect("its output is piped")).lines();
        let lines: Vec<_> = lines.map(|line| line.expect("a script writes text")).collect();
        let status = self.child.wait().expect("it is our child");
        let (last, lines) = lines.split_last().expect("it says a verdict");
        assert!(status.success(), "the writer failed: {last}");
        let mut sent: Vec<_> = lines.iter().map(|line| answered(line)).collect();
        sent.sort_by_key(|message| message.sequence);
        sent
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the writer was told about a message.
#[track_caller]
fn answered(line: &str) -> Sent {
    let line: Value = serde_json::from_str(line).expect("a script writes JSON");
    let outcome = match line["offset"].as_i64() {
        Some(log_offset) => Outcome::Acknowledged {
            at: "kafka".to_owned(),
            place: Some((line["partition"].as_i64().unwrap_or(-1) as i32, log_offset)),
            acknowledged_ns: line["acknowledged_ns"].as_u64().unwrap_or_default(),
        },
        None => Outcome::Refused { code: 0, possibly_written: true },
    };
    Sent {
        sender: WRITER.to_owned(),
        connection: 0,
        sequence: line["sequence"].as_u64().expect("a message has a sequence"),
        key: line["key"].as_str().unwrap_or_default().to_owned(),
        sent_ns: line["sent_ns"].as_u64().unwrap_or_default(),
        outcome,
    }
}

/// A record from a line of `read.py`.
fn record(line: &Value) -> Record {
    let bytes = |value: &Value| {
        value.as_str().map(|text| BASE64_STANDARD.decode(text).expect("base64 by a script"))
    };
    let headers = line["headers"].as_array().into_iter().flatten().map(|header| {
        (header[0].as_str().unwrap_or_default().to_owned(), bytes(&header[1]).unwrap_or_default())
    });
    Record {
        partition: line["partition"].as_i64().expect("a record has a partition") as i32,
        log_offset: line["offset"].as_i64().expect("and an offset"),
        timestamp_ms: line["timestamp_ms"].as_i64().unwrap_or(-1),
        key: bytes(&line["key"]),
        value: bytes(&line["value"]),
        headers: headers.collect(),
    }
}

/// A partition from a line of words, each after its name.
fn partition(line: &str) -> Option<Partition> {
    let words: Vec<_> = line.split(' ').collect();
    let after = |name: &str| {
        words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1).copied())
    };
    let nodes = |name| -> Vec<usize> {
        after(name).unwrap_or_default().split(',').filter_map(|node| node.parse().ok()).collect()
    };
    Some(Partition {
        partition: after("partition")?.parse().ok()?,
        leader: after("leader")?.parse().ok(),
        replicas: nodes("replicas"),
        in_sync: nodes("isr"),
        end_offset: after("end").and_then(|end| end.parse().ok()),
    })
}

// ------------------------------------------------------------------ two questions of Kafka's protocol

const METADATA: i16 = 3;
const INIT_PRODUCER_ID: i16 = 22;

/// Whether a broker answers Metadata with at least `nodes` brokers, and InitProducerId without an error.
fn serves(broker: SocketAddr, nodes: usize) -> io::Result<()> {
    // Metadata 1 without topics: a correlation id, then the number of brokers.
    let answer = ask(broker, METADATA, 1, &0_i32.to_be_bytes())?;
    let count = i32::from_be_bytes(field(&answer, 4)?) as usize;
    // InitProducerId 0 without a transactional id: correlation id, throttle, error, id, epoch.
    let answer = ask(broker, INIT_PRODUCER_ID, 0, &[0xff, 0xff, 0, 0, 0x03, 0xe8])?;
    let error = i16::from_be_bytes(field(&answer, 8)?);
    if error != 0 || count < nodes {
        return Err(io::Error::other(format!("{count} brokers, error {error}")));
    }
    Ok(())
}

fn ask(broker: SocketAddr, api: i16, version: i16, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&broker, ASK_LIMIT)?;
    stream.set_read_timeout(Some(ASK_LIMIT))?;
    let mut request = Vec::new();
    request.extend((10 + body.len() as i32).to_be_bytes());
    request.extend([api.to_be_bytes(), version.to_be_bytes()].concat());
    // Correlation id 0, no client id.
    request.extend([0, 0, 0, 0, 0xff, 0xff]);
    request.extend(body);
    stream.write_all(&request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = Vec::new();
    stream.take(u64::from(u32::from_be_bytes(length))).read_to_end(&mut answer)?;
    Ok(answer)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> io::Result<[u8; N]> {
    let field = bytes.get(at..at + N).and_then(|field| field.try_into().ok());
    field.ok_or_else(|| io::Error::other("a short answer"))
}

// ------------------------------------------------------------------ places

impl Ports {
    fn list(&self) -> String {
        let Self { plaintext, controller, sasl, via, advertised } = self;
        format!("{plaintext},{controller},{sasl},{via},{advertised}")
    }
}

/// Ports of which nobody listens on any; the node's own when nothing else is advertised.
fn free_ports(advertised: Option<u16>) -> Ports {
    let [plaintext, controller, sasl, via] = [(); 4].map(|()| free_port());
    Ports { plaintext, controller, sasl, via, advertised: advertised.unwrap_or(via) }
}

/// A port below those that the kernel gives to outgoing connections, so that none of these can take it
/// while its node is down; never the same one twice in a process.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(61);
    let mut ports = (0..PORTS.len()).map(|_| {
        let number = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        PORTS.start + (number % PORTS.len() as u32) as u16
    });
    let free = ports.find(|port| TcpListener::bind(loopback(*port)).is_ok());
    free.expect("some port is free")
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn list(ports: impl Iterator<Item = impl Display>) -> String {
    ports.map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
}

fn folder() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("trine-kafka-{}-{number}", std::process::id()))
}
