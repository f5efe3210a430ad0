//! What an earlier configuration has spooled or queued and this one would never send on.
//!
//! **Runs on: control**, before the data process is started.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use trine_core::journal::disk::at_once;
use trine_core::journal::disk::plain::PlainDisk;
use trine_core::journal::{Journal, Options, Retention, open};

use super::spool::FOLDER;
use super::{QUEUE_FOLDER, QUEUE_GROUP};
use crate::config::{Config, LogKind};

/// Refuses a start that would leave spooled or queued records where they are: their clients were
/// told that they will go on.
///
/// # Errors
/// A line that names the folder, what it holds and what to do.
pub fn refuse_left(config: &Config) -> Result<(), String> {
    let forwards = config.has_log() && config.log.kind == LogKind::Kafka;
    if !forwards {
        refuse(&config.data_dir.join(FOLDER), spooled, |count| {
            format!(
                "holds {count} records for Kafka; start with log.kind = \"kafka\" and a route \
                 until they are sent"
            )
        })?;
    }
    let queues_in = config.data_dir.join(QUEUE_FOLDER);
    let queues = queues(&queues_in).map_err(|error| format!("{}: {error}", queues_in.display()))?;
    for (topic, folder) in queues {
        let is_drained = config.queue.topics.contains(&topic);
        let drained = |stream: &str| {
            let parts = stream.rsplit_once('/').filter(|(of, _)| *of == topic);
            let partition = parts.and_then(|(_, text)| text.parse::<u32>().ok());
            is_drained && partition.is_some_and(|partition| partition < config.log.partitions)
        };
        refuse(
            &folder,
            |journal| queued(journal, |stream| !drained(stream)),
            |count| {
                format!(
                    "holds {count} records that no consumer drains; start with \"{topic}\" in \
                 queue.topics, and log.partitions as it was, until they are drained"
                )
            },
        )?;
    }
    Ok(())
}

/// Topics and folders of the queues that there are.
fn queues(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut queues = Vec::new();
    if folder.exists() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if let (true, Ok(topic)) =
                (std::fs::metadata(entry.path())?.is_dir(), entry.file_name().into_string())
            {
                queues.push((topic, entry.path()));
            }
        }
    }
    Ok(queues)
}

/// Refuses the start if a journal has records that `count` counts.
fn refuse(
    folder: &Path,
    count: impl Fn(&Journal) -> u64,
    why: impl Fn(u64) -> String,
) -> Result<(), String> {
    // A data_dir that can't be searched hinders no gateway that needs none.
    if !folder.exists() {
        return Ok(());
    }
    match look(folder).map(|journal| count(&journal)) {
        Ok(0) => Ok(()),
        Ok(count) => {
            let folder = folder.display();
            Err(format!("{folder} {}, or move the folder away to give them up", why(count)))
        }
        // Another process has it and removes segments: the start itself says so.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("{}: {error}", folder.display())),
    }
}

fn look(folder: &Path) -> io::Result<Journal> {
    let (quota_bytes, retention) = (u64::MAX / 2, Retention::Released);
    let mut disk = PlainDisk::open_to_read(folder)?;
    let opened = at_once(open(&mut disk, Options { quota_bytes, retention, gather_ms: 0 }))?;
    // What can't be read may be what was acknowledged.
    Ok(opened.whole()?.journal)
}

/// Records of a spool that Kafka has not acknowledged.
fn spooled(journal: &Journal) -> u64 {
    left(journal, |stream| Some((stream.to_owned(), 0)))
}

/// Records of queues that were not drained, of those streams that `wanted` picks.
fn queued(journal: &Journal, wanted: impl Fn(&str) -> bool) -> u64 {
    // A cursor's value is one more than the next offset.
    left(journal, |stream| wanted(stream).then(|| (format!("{QUEUE_GROUP}/{stream}"), 1)))
}

/// Records of streams that lie behind the cursor which `cursor_of` names, less what it says.
fn left(journal: &Journal, cursor_of: impl Fn(&str) -> Option<(String, u64)>) -> u64 {
    let done: HashMap<&str, u64> =
        journal.names(true).map(|(id, name)| (name, journal.cursor_value(id))).collect();
    let counts = journal.names(false).filter_map(|(id, name)| {
        let (cursor, more) = cursor_of(name)?;
        let range = journal.range(id);
        let done = done.get(cursor.as_str()).map_or(0, |value| value.saturating_sub(more));
        Some(range.end.saturating_sub(range.start.max(done)))
    });
    counts.sum()
}
