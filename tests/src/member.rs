//! A foreign member of a consumer group, on librdkafka, for groups that ours shares with others.
//!
//! **Runs on: any.** A thread keeps what it says. It is killed when it goes out of scope without having left.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use serde_json::Value;

use crate::kafka::Kafka;
use crate::{script, wait};

#[derive(Default)]
struct Events {
    held: Vec<i32>,
    records: Vec<(i32, i64)>,
    rebalances: usize,
    has_left: bool,
}

/// A running member.
pub struct Member {
    child: Child,
    input: Option<ChildStdin>,
    listener: Option<JoinHandle<()>>,
    events: Arc<Mutex<Events>>,
}

impl Member {
    /// Joins `group` for one topic, which it reads from the beginning unless the group has committed.
    /// `arguments` are those of `tests/kafka/member.py`: the assignor, a static member's id, the protocol.
    #[track_caller]
    pub fn join(kafka: &Kafka, group: &str, topic: &str, arguments: &[&str]) -> Self {
        let mut command = script::python("kafka/member.py");
        command.arg(kafka.bootstrap()).args([group, topic]).args(arguments);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("`tests/run install` brings Python's clients");
        let output = child.stdout.take().expect("it is piped");
        let events = Arc::new(Mutex::new(Events::default()));
        let of_thread = events.clone();
        let listener = Some(thread::spawn(move || listen(output, &of_thread)));
        Self { input: child.stdin.take(), child, listener, events }
    }

    /// The partitions that it holds now, in order.
    pub fn held(&self) -> Vec<i32> {
        self.events().held.clone()
    }

    /// Partition and offset of every record that it got, in order.
    pub fn records(&self) -> Vec<(i32, i64)> {
        self.events().records.clone()
    }

    /// How often partitions were given to it or taken from it.
    pub fn rebalances(&self) -> usize {
        self.events().rebalances
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Lets it commit and leave the group; the records that it got.
    #[track_caller]
    pub fn leave(mut self) -> Vec<(i32, i64)> {
        self.input = None;
        wait::until("the member has left", || self.events().has_left.then_some(()));
        self.records()
    }

    /// Kills it; the records that it got, among them all that it committed.
    #[track_caller]
    pub fn die(mut self) -> Vec<(i32, i64)> {
        self.child.kill().expect("it is our child");
        let listener = self.listener.take().expect("it is joined once");
        listener.join().expect("the listener is content");
        self.records()
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().expect("no thread panics with the events")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen(output: ChildStdout, events: &Mutex<Events>) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
        let mut events = events.lock().expect("no thread panics with the events");
        if let Some(held) = event["assigned"].as_array().or(event["revoked"].as_array()) {
            events.held = held.iter().filter_map(Value::as_i64).map(|at| at as i32).collect();
            events.rebalances += 1;
        }
        if let (Some(partition), Some(offset)) =
            (event["record"][0].as_i64(), event["record"][1].as_i64())
        {
            events.records.push((partition as i32, offset));
        }
        events.has_left |= event["left"] == true;
    }
}
