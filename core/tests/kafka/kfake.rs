//! franz-go's broker in memory, as old as a test asks for, failing when it is told to.
//!
//! **Runs on: any.** Only where `TRINE_KFAKE` names the program of `tests/services/kfake`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Versions that are claimed to work, oldest first. A newer one is the real broker of other tests.
pub const OLDER: [&str; 7] = ["0.11.0", "1.1", "2.0", "2.4", "2.8", "3.5", "3.9"];

/// The topic that a broker has from its start.
pub const TOPIC: &str = "events";

/// A running broker; it ends with this.
pub struct Kfake {
    pub address: SocketAddr,
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Kfake {
    /// A broker with so many partitions of [`TOPIC`]; `version` empty: the newest. `None`: there
    /// is no program to start.
    pub fn start(version: &str, partitions: u32) -> Option<Kfake> {
        let Ok(program) = std::env::var("TRINE_KFAKE") else {
            println!("SKIPPED: TRINE_KFAKE names no program");
            return None;
        };
        let mut child = Command::new(program)
            .args(["-as-version", version, "-topic", TOPIC])
            .args(["-partitions", &partitions.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("TRINE_KFAKE is a program");
        let commands = child.stdin.take();
        let mut answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        answers.read_line(&mut line).expect("its first line");
        let address = line.trim().parse().expect("its first line is an address");
        Some(Kfake { address, child, commands, answers })
    }

    /// The answer to a command.
    pub fn ask(&mut self, command: &str) -> String {
        let mut commands = self.commands.as_ref().expect("it runs");
        writeln!(commands, "{command}").expect("it runs");
        self.line()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it answers");
        line.trim().to_owned()
    }

    /// Lets franz-go write tokens to the partitions in turn.
    #[allow(dead_code, reason = "not each test file writes")]
    pub fn write(&mut self, tokens: std::ops::Range<u64>) {
        assert_eq!(self.ask(&format!("write {} {}", tokens.start, tokens.end)), "ok");
    }

    /// What a group has committed of each partition, as the broker itself has it.
    #[allow(dead_code, reason = "not each test file commits")]
    pub fn commits(&mut self, group: &str) -> BTreeMap<u32, i64> {
        let line = self.ask(&format!("commits {group}"));
        let commit = |word: &str| {
            let (partition, offset) = word.split_once(':')?;
            Some((partition.parse().ok()?, offset.parse().ok()?))
        };
        let commits = line.split_whitespace().map(|word| commit(word).expect("PARTITION:OFFSET"));
        commits.collect()
    }

    /// Lets franz-go be a member of a group.
    #[allow(dead_code, reason = "not each test file has groups")]
    pub fn join(&mut self, assignor: &str, group: &str) {
        assert_eq!(self.ask(&format!("join {assignor} {group}")), "ok");
    }

    /// How many records that member has read, and what it holds.
    #[allow(dead_code, reason = "not each test file has groups")]
    pub fn held(&mut self) -> (u64, BTreeSet<u32>) {
        let line = self.ask("held");
        let mut numbers = line.split(' ').map(|word| word.parse().expect("a number"));
        let records = numbers.next().expect("records read");
        (records, numbers.map(|partition| partition as u32).collect())
    }

    /// What franz-go reads: partition, offset, key and token of each record.
    #[allow(dead_code, reason = "not each test file reads")]
    pub fn read(&mut self) -> Vec<(i32, i64, Vec<u8>, u64)> {
        let count = self.ask("read");
        let count: usize = count.parse().unwrap_or_else(|_| panic!("{count}"));
        let record = |line: String| {
            let mut words = line.split(' ');
            let mut word = || words.next().expect("four words");
            let (partition, offset) = (word().parse().unwrap(), word().parse().unwrap());
            let key = word().trim_matches('"').as_bytes().to_vec();
            (partition, offset, key, word().parse().unwrap())
        };
        (0..count).map(|_| record(self.line())).collect()
    }
}

impl Drop for Kfake {
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
