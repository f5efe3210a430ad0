//! `trine journal`: what a journal's files hold, whether they are whole, and mending them.
//!
//! **Runs on: control**, or beside a running gateway: all but `repair` only read. Exit code 1: the
//! files are damaged, or can't be read.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use serde_json::{Value, json};
use trine_core::journal::disk::at_once;
use trine_core::journal::disk::plain::PlainDisk;
use trine_core::journal::{
    Disk, Opened, Options, Retention, StreamId, mark_of, open, read, repaired,
};
use trine_proto::kafka::record::Body;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the segments, streams and cursors
    Ls {
        /// The journal's folder
        folder: PathBuf,
    },
    /// Read every byte and say what is damaged or missing; exit code 1 if anything is
    Check {
        /// The journal's folder
        folder: PathBuf,
    },
    /// Print a stream's records: offset, Unix milliseconds, payload, one line each
    Dump {
        /// The journal's folder
        folder: PathBuf,
        /// The stream, as `ls` names it
        stream: String,
        /// The offset to begin with
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Records to print at most
        #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
        limit: u64,
        /// Print each as a JSON object with its key, value and headers; bytes that are no text
        /// are told in base64, as `{"base64": …}`
        #[arg(long)]
        json: bool,
    },
    /// Write damaged segments anew with all that is good in them, while no gateway runs; the
    /// damaged ones are kept in the folder's `quarantine`
    Repair {
        /// The journal's folder
        folder: PathBuf,
    },
}

/// Read only, so these bound nothing.
const OPTIONS: Options =
    Options { quota_bytes: u64::MAX / 2, retention: Retention::Oldest { age_ms: 0 }, gather_ms: 0 };

pub(super) fn main(command: &Command) -> ExitCode {
    let (folder, result) = match command {
        Command::Ls { folder } => (folder, look(folder).and_then(|seen| seen.list())),
        Command::Check { folder } => (folder, look(folder).and_then(|seen| seen.check())),
        Command::Dump { folder, stream, from, limit, json } => {
            let line = if *json { json_line } else { text_line };
            (folder, look(folder).and_then(|seen| seen.dump(stream, (*from, *limit), line)))
        }
        Command::Repair { folder } => (folder, repair(folder)),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Whoever read the output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            super::complain(&format!("{}: {error}", folder.display()));
            ExitCode::FAILURE
        }
    }
}

/// A journal that was read and is not changed.
struct Seen {
    disk: PlainDisk,
    opened: Opened,
}

fn look(folder: &Path) -> io::Result<Seen> {
    let mut disk = find(folder)?;
    let opened = at_once(open(&mut disk, OPTIONS))?;
    Ok(Seen { disk, opened })
}

/// The journal in a folder, which there must be.
fn find(folder: &Path) -> io::Result<PlainDisk> {
    let mut disk = PlainDisk::open_to_read(folder)?;
    // One that nothing was written to has only its lock.
    if at_once(disk.list())?.is_empty() && !folder.join("lock").exists() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "this folder is no journal; journals are log, spool, dead-letters and queue/… \
             of data_dir",
        ));
    }
    Ok(disk)
}

impl Seen {
    fn list(mut self) -> io::Result<bool> {
        let mut out = io::stdout().lock();
        for listed in at_once(self.disk.list())? {
            writeln!(out, "segment  {:016x}  {} bytes", listed.segment, listed.bytes)?;
        }
        let journal = &self.opened.journal;
        for (id, name) in journal.names(false) {
            let range = journal.range(id);
            let count = range.end - range.start;
            writeln!(out, "stream   {name}  {}..{}  {count} records", range.start, range.end)?;
        }
        for (id, name) in journal.names(true) {
            let value = journal.cursor_value(id);
            match value.checked_sub(1).filter(|_| self.is_of_consumer(name)) {
                Some(offset) => writeln!(out, "cursor   {name}  goes on at {offset}")?,
                None => writeln!(out, "cursor   {name}  {value}")?,
            }
        }
        Ok(self.complain_of_unread())
    }

    /// Whether a cursor is where a consumer of the embedded log goes on in one of its streams.
    fn is_of_consumer(&self, cursor: &str) -> bool {
        cursor.split_once('/').is_some_and(|(_, stream)| self.find(stream).is_some())
    }

    /// Says which segments that are still there could not be read; true: none.
    fn complain_of_unread(&self) -> bool {
        let mut is_whole = true;
        for damage in &self.opened.damaged {
            let is_there = self.disk.path(damage.segment).exists();
            if let Some(why) = damage.error.as_ref().filter(|_| is_there) {
                super::complain(&format!("segment {:016x}: {why}", damage.segment));
                is_whole = false;
            }
        }
        is_whole
    }

    fn check(self) -> io::Result<bool> {
        let mut out = io::stdout().lock();
        report(&self.opened, &mut out)
    }

    fn dump(mut self, stream: &str, (from, limit): (u64, u64), line: Line) -> io::Result<bool> {
        let Some(id) = self.find(stream) else {
            self.complain_of_unread();
            let text = format!("there is no stream {stream:?}; `trine journal ls` names them");
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        };
        let mut out = io::BufWriter::new(io::stdout().lock());
        let (mut left, mut failed) = (limit, None);
        let journal = &self.opened.journal;
        let reading = read(&mut self.disk, journal, id, from, |offset, time_ms, payload| {
            if left == 0 {
                return false;
            }
            left -= 1;
            failed = line(&mut out, offset, time_ms, &payload).err();
            failed.is_none()
        });
        at_once(reading)?;
        failed.map_or(Ok(()), Err)?;
        out.flush()?;
        Ok(self.complain_of_unread())
    }

    fn find(&self, stream: &str) -> Option<StreamId> {
        let mut names = self.opened.journal.names(false);
        names.find(|(_, name)| *name == stream).map(|(id, _)| id)
    }
}

/// Writes a record for people.
type Line = fn(&mut dyn Write, u64, u64, &[u8]) -> io::Result<()>;

fn text_line(out: &mut dyn Write, offset: u64, time_ms: u64, payload: &[u8]) -> io::Result<()> {
    writeln!(out, "{offset}\t{time_ms}\t{}", payload.escape_ascii())
}

fn json_line(out: &mut dyn Write, offset: u64, time_ms: u64, payload: &[u8]) -> io::Result<()> {
    let Ok(body) = Body::parse(payload) else {
        let line = json!({"offset": offset, "time_ms": time_ms, "malformed": bytes(payload)});
        return writeln!(out, "{line}");
    };
    let headers: Vec<Value> =
        body.headers().map(|(name, value)| json!([name, value.map(bytes)])).collect();
    let line = json!({
        "offset": offset,
        "time_ms": time_ms,
        "key": body.key().map(bytes),
        "value": body.value().map(bytes),
        "headers": headers,
    });
    writeln!(out, "{line}")
}

fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({"base64": STANDARD.encode(bytes)}),
    }
}

/// Says what opening has found; true: all is well.
fn report(opened: &Opened, out: &mut impl Write) -> io::Result<bool> {
    for damage in &opened.damaged {
        let (segment, at) = (damage.segment, &damage.at);
        let why = damage.error.as_deref().unwrap_or("a checksum does not match");
        writeln!(out, "damaged  segment {segment:016x}, bytes {}..{}: {why}", at.start, at.end)?;
    }
    for segment in &opened.missing_segments {
        writeln!(out, "missing  segment {segment:016x}")?;
    }
    if opened.missing_records > 0 {
        writeln!(out, "missing  {} records between others", opened.missing_records)?;
    }
    if opened.torn_bytes > 0 {
        let bytes = opened.torn_bytes;
        writeln!(out, "torn     {bytes} bytes at the end, which no later sync confirms")?;
    }
    let Opened { segments, records, bytes, .. } = opened;
    writeln!(
        out,
        "read     {segments} segments, {records} records and cursor moves, {bytes} bytes"
    )?;
    Ok(opened.damaged.is_empty()
        && opened.missing_segments.is_empty()
        && opened.missing_records == 0)
}

fn repair(folder: &Path) -> io::Result<bool> {
    // To write, it would be made.
    find(folder)?;
    let mut disk = PlainDisk::open(folder).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            io::Error::new(error.kind(), "a running gateway has this journal; stop it first")
        }
        _ => error,
    })?;
    let opened = at_once(open(&mut disk, OPTIONS))?;
    let mut out = io::stdout().lock();
    if let Some((segment, why)) = opened.not_kept.first() {
        let text = format!("segment {segment:016x} can't be copied to quarantine: {why}");
        return Err(io::Error::other(text));
    }
    let listed = at_once(disk.list())?;
    let mut damaged: Vec<u64> = opened.damaged.iter().map(|damage| damage.segment).collect();
    damaged.dedup();
    let mut buffer = Vec::new();
    for segment in damaged {
        let at = listed.iter().position(|listed| listed.segment == segment);
        let at = at.expect("a damaged segment is listed");
        let mark = at_once(mark_of(&mut disk, segment, &listed[at + 1..], &mut buffer));
        at_once(disk.read(segment, 0, listed[at].bytes as usize, &mut buffer))?;
        disk.replace(segment, &repaired(segment, &buffer, mark))?;
        writeln!(out, "repaired segment {segment:016x}; as it was it is in quarantine")?;
    }
    drop((out, disk));
    look(folder)?.check()?;
    Ok(true)
}
