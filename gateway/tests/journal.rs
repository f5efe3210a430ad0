//! `trine journal` on real files: what it lists, what it finds damaged, what it mends.
//!
//! **Runs on: any.** Each test has a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use trine_core::journal::disk::at_once;
use trine_core::journal::disk::plain::PlainDisk;
use trine_core::journal::{Options, Retention, open, perform};

const RECORDS: u64 = 100;

/// A folder that goes when the test ends. One test at a time has one: a process that another starts
/// just then would hold the lock of its journal for a moment.
struct Folder(PathBuf, #[allow(dead_code)] MutexGuard<'static, ()>);

static ALONE: Mutex<()> = Mutex::new(());

impl Folder {
    fn new(name: &str) -> Folder {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let path = std::env::temp_dir().join(format!("trine-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a folder for the test");
        Folder(path, alone)
    }

    fn segment(&self) -> PathBuf {
        self.0.join("0000000000000001.segment")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes records to two streams, moves a cursor, and stops cleanly.
fn fill(folder: &Path) {
    let retention = Retention::Oldest { age_ms: 0 };
    let options = Options { quota_bytes: 64 << 20, retention, gather_ms: 0 };
    let mut disk = PlainDisk::open(folder).expect("the folder is free");
    let mut journal = at_once(open(&mut disk, options)).expect("readable").journal;
    let work = |disk: &mut PlainDisk, journal: &mut trine_core::journal::Journal| {
        while let Some(operation) = journal.next_operation(1000) {
            let result = at_once(perform(disk, &operation));
            journal.completed(result, 1000, &mut Vec::new());
        }
    };
    let streams = ["tickets/0", "tickets/1"].map(|name| journal.stream(name).expect("few"));
    for number in 0..RECORDS {
        let payload = Bytes::from(format!("{{\"ticket\": {number}}}"));
        journal.append(number, streams[number as usize % 2], payload, 1000).expect("there is room");
        if number % 10 == 9 {
            work(&mut disk, &mut journal);
        }
    }
    for (name, value) in [("qa", 7), ("qa/tickets/0", 43)] {
        let cursor = journal.cursor(name).expect("few cursors");
        journal.move_cursor(cursor, value, 1000);
    }
    journal.close();
    work(&mut disk, &mut journal);
    assert!(journal.is_closed());
}

fn trine(command: &str, folder: &Path, rest: &[&str]) -> Output {
    let mut trine = Command::new(env!("CARGO_BIN_EXE_trine"));
    trine.args(["journal", command]).arg(folder).args(rest).output().expect("trine starts")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_whole_journal_is_listed_checked_and_dumped() {
    let folder = Folder::new("whole");
    fill(&folder.0);
    let listed = text(&trine("ls", &folder.0, &[]));
    for line in [
        "stream   tickets/0  0..50  50 records",
        "cursor   qa  7",
        "cursor   qa/tickets/0  goes on at 42",
        "segment  0000000000000001",
    ] {
        assert!(listed.contains(line), "{line} in:\n{listed}");
    }
    let checked = trine("check", &folder.0, &[]);
    assert!(checked.status.success(), "{}", text(&checked));
    let dumped = text(&trine("dump", &folder.0, &["tickets/1", "--from", "47"]));
    let lines: Vec<&str> = dumped.lines().collect();
    assert_eq!(lines.len(), 3, "{dumped}");
    assert_eq!(lines[2], "49\t1000\t{\\\"ticket\\\": 99}");
    let none = trine("dump", &folder.0, &["tickets/2"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("there is no stream"));
}

#[test]
fn a_folder_without_a_journal_is_told_and_left_alone() {
    let folder = Folder::new("none");
    let missing = folder.0.join("missing");
    for command in ["ls", "check", "repair"] {
        let none = trine(command, &missing, &[]);
        assert_eq!(none.status.code(), Some(1), "{command}");
        assert!(!missing.exists(), "{command} made it");
        let empty = trine(command, &folder.0, &[]);
        let said = String::from_utf8_lossy(&empty.stderr).into_owned();
        assert!(empty.status.code() == Some(1) && said.contains("no journal"), "{command}: {said}");
    }
    drop(PlainDisk::open(&folder.0).expect("the folder is free"));
    for command in ["ls", "check", "repair"] {
        assert!(trine(command, &folder.0, &[]).status.success(), "nothing was written to it yet");
    }
}

#[test]
fn a_damaged_journal_is_told_and_mended() {
    let folder = Folder::new("damaged");
    fill(&folder.0);
    let mut bytes = fs::read(folder.segment()).expect("readable");
    let at = bytes.windows(14).position(|part| part == b"{\"ticket\": 42}").expect("it is there");
    bytes[at + 12] ^= 1;
    fs::write(folder.segment(), &bytes).expect("writable");

    let checked = trine("check", &folder.0, &[]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(text(&checked).contains("damaged  segment 0000000000000001"), "{}", text(&checked));
    assert!(text(&checked).contains("missing  1 records between others"), "{}", text(&checked));
    assert!(!folder.0.join("quarantine").exists(), "looking changes nothing");

    let lock = PlainDisk::open(&folder.0).expect("the folder is free");
    let refused = trine("repair", &folder.0, &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("stop it first"));
    drop(lock);

    let repaired = trine("repair", &folder.0, &[]);
    assert!(repaired.status.success(), "{}", String::from_utf8_lossy(&repaired.stderr));
    assert_eq!(fs::read(folder.0.join("quarantine/0000000000000001.segment")).ok(), Some(bytes));
    let checked = text(&trine("check", &folder.0, &[]));
    assert!(!checked.contains("damaged"), "{checked}");
    assert!(checked.contains("missing  1 records between others"), "{checked}");
    let dumped = text(&trine("dump", &folder.0, &["tickets/0"]));
    assert_eq!(dumped.lines().count(), 49);
    assert!(!dumped.contains(": 42}"));
}
