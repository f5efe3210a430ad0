//! A member of a group on librdkafka, and what is known of it when a test fails beside it.
//!
//! **Runs on: any.** Only where `TRINE_KAFKA_MEMBER` names a Python with confluent-kafka.

use crate::kafka::PATIENCE;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How much of its log is told, which has a line for each heartbeat besides.
const LOG_LINES: usize = 150;

/// What the broker says of a group: its state, its members and what each has.
const DESCRIBE: &str = r"
import sys
from confluent_kafka.admin import AdminClient
admin = AdminClient({'bootstrap.servers': sys.argv[1]})
group = admin.describe_consumer_groups([sys.argv[2]], request_timeout=10)[sys.argv[2]].result()
print(group.state, group.partition_assignor)
for member in group.members:
    places = member.assignment.topic_partitions if member.assignment else []
    print(member.client_id, member.member_id, sorted(place.partition for place in places))
";

/// The Python with confluent-kafka, or nothing.
pub fn python() -> Option<String> {
    let python = std::env::var("TRINE_KAFKA_MEMBER").ok();
    if python.is_none() {
        println!("SKIPPED: TRINE_KAFKA_MEMBER names no Python");
    }
    python
}

/// A running member. It is killed when it goes out of scope without having left.
pub struct Foreign {
    python: String,
    broker: SocketAddr,
    group: String,
    child: Child,
    /// What it holds, and how many records it has read.
    seen: Arc<Mutex<(Vec<u32>, u64)>>,
    reader: Option<JoinHandle<()>>,
    log: PathBuf,
}

impl Foreign {
    /// Joins a group for one topic.
    pub fn join(
        python: &str,
        broker: SocketAddr,
        group: &str,
        topic: &str,
        assignor: &str,
    ) -> Foreign {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/kafka/member.py");
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{group}.log"));
        let mut child = Command::new(python)
            .args([script, &broker.to_string(), group, topic, "--assignor", assignor, "--debug"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).expect("its log is made"))
            .spawn()
            .expect("the foreign member");
        let (python, group) = (python.to_owned(), group.to_owned());
        let seen = Arc::<Mutex<(Vec<u32>, u64)>>::default();
        let (output, place) = (child.stdout.take().expect("piped"), seen.clone());
        let reader = Some(std::thread::spawn(move || listen(output, &place)));
        Foreign { python, broker, group, child, seen, reader, log }
    }

    /// The partitions that it holds.
    pub fn held(&self) -> Vec<u32> {
        self.seen.lock().unwrap().0.clone()
    }

    /// How many records it has read.
    pub fn records(&self) -> u64 {
        self.seen.lock().unwrap().1
    }

    /// Lets it commit and leave.
    pub fn leave(mut self) {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            assert!(Instant::now() < deadline, "the foreign member ends");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(status.success(), "the foreign member ends well: {status}");
        self.reader.take().expect("it is joined once").join().unwrap();
    }

    /// All that is known, for a test that has failed.
    fn tell(&self) {
        eprintln!("the foreign member holds {:?}, read {}", self.held(), self.records());
        let arguments = ["-c", DESCRIBE, &self.broker.to_string(), &self.group];
        // It gives up by itself.
        match Command::new(&self.python).args(arguments).output() {
            Ok(output) => eprintln!(
                "the broker says of {}: {}{}",
                self.group,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(error) => eprintln!("the broker is not asked: {error}"),
        }
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().filter(|line| !line.contains("|HEARTBEAT|")).collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        eprintln!("the end of {}:\n{}", self.log.display(), last.join("\n"));
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        match std::thread::panicking() {
            true => self.tell(),
            false => drop(fs::remove_file(&self.log)),
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen(output: ChildStdout, seen: &Mutex<(Vec<u32>, u64)>) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let mut seen = seen.lock().unwrap();
        let held = line.split_once('[').map(|(_, rest)| rest.split(']').next().unwrap_or(""));
        let numbers = held.unwrap_or("").split(',').filter_map(|n| n.trim().parse().ok());
        if line.contains("record") {
            seen.1 += 1;
        } else {
            seen.0 = numbers.collect();
        }
    }
}
