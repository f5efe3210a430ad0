//! What a gateway's journals have, read from their files by `trine journal`, beside a running
//! gateway or after it.
//!
//! **Runs on: any.**

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::checker::Record;
use crate::gateway;

/// All records that the embedded log has of a topic, partition by partition.
#[track_caller]
pub fn read(data_dir: &Path, topic: &str, partitions: u32) -> Vec<Record> {
    read_all(&data_dir.join("log"), topic, partitions)
}

/// All records of a topic that Kafka refused for good after they were spooled.
#[track_caller]
pub fn read_dead_letters(data_dir: &Path, topic: &str, partitions: u32) -> Vec<Record> {
    read_all(&data_dir.join("dead-letters"), topic, partitions)
}

#[track_caller]
fn read_all(folder: &Path, topic: &str, partitions: u32) -> Vec<Record> {
    (0..partitions).flat_map(|partition| read_partition(folder, topic, partition)).collect()
}

#[track_caller]
fn read_partition(folder: &Path, topic: &str, partition: u32) -> Vec<Record> {
    let stream = format!("{topic}/{partition}");
    let output = Command::new(gateway::binary())
        .args(["journal", "dump", "--json"])
        .arg(folder)
        .arg(&stream)
        .output()
        .expect("the gateway's binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("there is no stream"), "{stream}: {said}");
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    text.lines().map(|line| record(partition, line)).collect()
}

fn record(partition: u32, line: &str) -> Record {
    let line: Value = serde_json::from_str(line).expect("a line is JSON");
    let bytes = |value: &Value| value.as_str().map(|text| text.as_bytes().to_vec());
    let header = |pair: &Value| {
        let name = pair[0].as_str().expect("a header has a name").to_owned();
        (name, bytes(&pair[1]).unwrap_or_default())
    };
    Record {
        partition: partition as i32,
        log_offset: line["offset"].as_i64().expect("an offset"),
        timestamp_ms: line["time_ms"].as_i64().expect("a time"),
        key: bytes(&line["key"]),
        value: bytes(&line["value"]),
        headers: line["headers"].as_array().expect("headers").iter().map(header).collect(),
    }
}

/// What `trine journal check` says: whether all is well, and its lines.
pub fn check(data_dir: &Path) -> (bool, String) {
    let output = Command::new(gateway::binary())
        .args(["journal", "check"])
        .arg(data_dir.join("log"))
        .output()
        .expect("the gateway's binary runs");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Flips a bit in the first place where the files of a stopped gateway have `text`.
#[track_caller]
pub fn damage(data_dir: &Path, text: &[u8]) {
    let files = fs::read_dir(data_dir.join("log")).expect("the journal has a folder").flatten();
    let damaged = files.map(|file| file.path()).any(|path| {
        let bytes = fs::read(&path).expect("a segment is read");
        let Some(at) = bytes.windows(text.len()).position(|window| window == text) else {
            return false;
        };
        let file = File::options().write(true).open(&path).expect("a segment is written");
        file.write_all_at(&[bytes[at] ^ 1], at as u64).expect("a segment is written");
        true
    });
    assert!(damaged, "no file has {}", String::from_utf8_lossy(text));
}
