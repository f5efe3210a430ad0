//! Starts with the embedded log over what a gateway before Kafka or with queues has left.
//!
//! **Runs on: any.** Each test has a folder of its own.

use super::*;
use bytes::Bytes;
use std::fs;
use trine_core::journal::perform;

const NOW: u64 = 1_000;

/// A `data_dir` that goes when the test ends, and a configuration with the embedded log in it.
struct DataDir {
    path: PathBuf,
    config: Config,
}

impl DataDir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("trine-left-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        let mut config = Config::embedded();
        config.data_dir = path.clone();
        Self { path, config }
    }

    /// Why the start is refused; it is over one folder.
    fn refusal(&self, folder: &str) -> String {
        let reason = refuse_left(&self.config).expect_err("what is there is given up");
        let folder = self.path.join(folder);
        assert!(reason.starts_with(folder.to_str().unwrap()), "{reason}");
        reason
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Three records of one stream, of which the cursor says how many are wanted no more.
fn fill(folder: &Path, stream: &str, cursor: &str, value: u64) {
    let options = Options { quota_bytes: 64 << 20, retention: Retention::Released, gather_ms: 0 };
    let mut disk = PlainDisk::open(folder).unwrap();
    let mut journal = at_once(open(&mut disk, options)).unwrap().journal;
    let stream = journal.stream(stream).unwrap();
    for token in 0..3 {
        journal.append(token, stream, Bytes::from_static(b"body"), NOW).unwrap();
    }
    let cursor = journal.cursor(cursor).unwrap();
    journal.move_cursor(cursor, value, NOW);
    journal.close();
    while let Some(operation) = journal.next_operation(NOW) {
        let result = at_once(perform(&mut disk, &operation));
        journal.completed(result, NOW, &mut Vec::new());
    }
    assert!(journal.is_closed());
}

#[test]
fn records_that_kafka_lacks_or_nobody_drains_refuse_a_start() {
    let left = DataDir::new("records");
    assert_eq!(refuse_left(&left.config), Ok(()), "nothing is there");
    let spool = left.path.join(FOLDER);
    fill(&spool, "topic/0/0", "topic/0/0", 1);
    let reason = left.refusal(FOLDER);
    assert!(reason.contains("holds 2 records for Kafka"), "{reason}");
    fs::remove_dir_all(&spool).unwrap();
    fill(&spool, "topic/0/0", "topic/0/0", 3);
    assert_eq!(refuse_left(&left.config), Ok(()), "Kafka has all of them");
    // A queue's cursor says one more.
    fill(&left.path.join("queue/calls"), "calls/0", "queue/calls/0", 2);
    let reason = left.refusal("queue/calls");
    assert!(reason.contains("holds 2 records that no consumer drains"), "{reason}");
}

#[test]
fn a_spool_that_cannot_be_read_does_not_pass_for_an_empty_one() {
    // Also root can't read a folder as a file, nor a file as a folder.
    let left = DataDir::new("segment");
    fs::create_dir_all(left.path.join(FOLDER).join("0000000000000001.segment")).unwrap();
    let reason = left.refusal(FOLDER);
    assert!(reason.contains("0000000000000001.segment can't be read"), "{reason}");
    let left = DataDir::new("spool");
    fs::write(left.path.join(FOLDER), "").unwrap();
    left.refusal(FOLDER);
}

#[test]
fn queues_that_cannot_be_read_do_not_pass_for_none() {
    let left = DataDir::new("queues");
    fs::write(left.path.join(QUEUE_FOLDER), "").unwrap();
    left.refusal(QUEUE_FOLDER);
}
