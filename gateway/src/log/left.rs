//! What an earlier configuration has spooled and this one would never send.
//!
//! **Runs on: control**, before the data process is started.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use trine_core::journal::disk::at_once;
use trine_core::journal::disk::plain::PlainDisk;
use trine_core::journal::{Options, Retention, open};

use super::spool::{DEAD_LETTERS, FOLDER};
use crate::config::{Config, LogKind};

/// Refuses a start that would leave spooled records where they are: their clients were told that
/// Kafka will get them.
///
/// # Errors
/// A line that names the folder, what it holds and what to do.
pub fn refuse_left(config: &Config) -> Result<(), String> {
    let forwards = config.has_log() && config.log.kind == LogKind::Kafka;
    let folder = config.data_dir.join(FOLDER);
    if forwards || !folder.exists() {
        return Ok(());
    }
    match spooled(&folder) {
        Ok(0) => Ok(()),
        Ok(count) => Err(format!(
            "{} holds {count} records for Kafka; start with log.kind = \"kafka\" and a route until \
             they are sent, or move the folder away to give them up",
            folder.display()
        )),
        // Another process has it and removes segments: the start itself says so.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("{}: {error}", folder.display())),
    }
}

/// Records of a spool that Kafka has not acknowledged.
fn spooled(folder: &Path) -> io::Result<u64> {
    let (quota_bytes, retention) = (u64::MAX / 2, Retention::Released);
    let mut disk = PlainDisk::open_to_read(folder)?;
    let opened = at_once(open(&mut disk, Options { quota_bytes, retention, gather_ms: 0 }))?;
    let journal = &opened.journal;
    let done: HashMap<&str, u64> =
        journal.names(true).map(|(id, name)| (name, journal.cursor_value(id))).collect();
    let lines = journal.names(false).filter(|(_, name)| !name.starts_with(DEAD_LETTERS));
    let left = lines.map(|(id, name)| {
        let range = journal.range(id);
        let done = done.get(name).copied().unwrap_or(0);
        range.end.saturating_sub(range.start.max(done))
    });
    Ok(left.sum())
}
