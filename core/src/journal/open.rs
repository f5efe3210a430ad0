//! Opens a journal: reads every segment, says what is damaged or missing, and carries operations
//! out on a disk.
//!
//! **Runs on: storage**, and `trine journal`.

use std::cmp::Ordering;
use std::io;
use std::ops::Range;

use bytes::Bytes;

use super::disk::{Disk, Listed};
use super::format::{Kind, Mark, Record, Records, commit_at};
use super::machine::{Journal, Operation, Segment};
use super::scan::{Scanned, next_commit, scan};
use super::streams::{Place, StreamId};
use super::{Options, Retention};
use crate::limits::BLOCK_BYTES;

/// A place that held durable bytes and does not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment; a copy is kept in quarantine where it can be read, and one be written.
    pub segment: u64,
    /// The bytes.
    pub at: Range<u64>,
    /// What the disk said, when it could not read the segment at all.
    pub error: Option<String>,
}

/// An open journal and what was found.
#[derive(Debug)]
pub struct Opened {
    /// The journal.
    pub journal: Journal,
    /// Segments read.
    pub segments: usize,
    /// Bytes read.
    pub bytes: u64,
    /// Records found.
    pub records: u64,
    /// Damaged places, which are corruption.
    pub damaged: Vec<Damage>,
    /// Records that are missing between others of their stream.
    pub missing_records: u64,
    /// Segments that later ones know of and that are not there.
    pub missing_segments: Vec<u64>,
    /// Bytes cut off behind the last whole commit, which no sync had confirmed.
    pub torn_bytes: u64,
    /// Segments of which no copy could be kept, and why.
    pub not_kept: Vec<(u64, String)>,
    /// A segment that can't be read and that the journal can't do without, and why: none behind it
    /// names the streams, so that where they end is not known, or it is one of a spool.
    pub unread: Option<(u64, io::Error)>,
}

impl Opened {
    /// The journal to append to, and all that was found.
    ///
    /// # Errors
    /// When the end of its streams can't be read, or something of a spool.
    pub fn whole(mut self) -> io::Result<Self> {
        match self.unread.take() {
            None => Ok(self),
            Some((segment, error)) => {
                let text = format!(
                    "{segment:016x}.segment can't be read: {error} (moved out of the folder it is \
                     given up)"
                );
                Err(io::Error::new(error.kind(), text))
            }
        }
    }
}

/// Reads all segments. Nothing is changed but what can't be of use: empty segments are removed, all but
/// the newest.
///
/// # Errors
/// When the folder can't be read, or what the process before wrote can't be synced. Damage is no
/// error, it is told in [`Opened`].
pub async fn open<D: Disk>(disk: &mut D, options: Options) -> io::Result<Opened> {
    let listed = disk.list().await?;
    let mut opened = Opened {
        journal: Journal::new(options),
        segments: 0,
        bytes: 0,
        records: 0,
        damaged: Vec::new(),
        missing_records: 0,
        missing_segments: Vec::new(),
        torn_bytes: 0,
        not_kept: Vec::new(),
        unread: None,
    };
    let mut buffer = Vec::new();
    let mut before = 0;
    for (index, &Listed { segment, bytes }) in listed.iter().enumerate() {
        opened.journal.next_segment = segment + 1;
        let mark = mark_of(disk, segment, &listed[index + 1..], &mut buffer).await;
        let read = disk.read(segment, 0, bytes as usize, &mut buffer).await;
        if let Err(error) = read {
            let (at, text) = (0..bytes, error.to_string());
            opened.unread = Some((segment, error));
            opened.damaged.push(Damage { segment, at, error: Some(text) });
            opened.journal.segments.push_back(Segment { segment, bytes, last_ms: 0 });
            before = segment;
            continue;
        }
        let scanned = opened.take(segment, &buffer, mark);
        if let Some(previous) = scanned.previous
            && before > 0
            && previous.synced > 0
            && previous.segment != before
        {
            opened.missing_segments.push(previous.segment);
        }
        if scanned.damaged.is_empty() && scanned.end == 0 {
            if index + 1 < listed.len() {
                disk.remove(segment).await?;
            } else if bytes > 0 {
                // The newest stays as an empty file, so that its number is never given again: what
                // it held may show up in the room of the next one, and would pass there.
                opened.journal.cut_later(segment, 0);
            }
            continue;
        }
        if !scanned.damaged.is_empty() {
            opened.keep_copy(disk, segment).await;
        }
        if mark.is_none_or(|mark| mark < scanned.end) {
            // What no commit says to be synced may be in the page cache alone, of a process that was
            // killed; from now on it counts as durable.
            disk.sync(segment).await?;
        }
        opened.keep(segment, bytes, &scanned);
        // A spool gives up only what was released, and nobody knows that of what wasn't read.
        if options.retention != Retention::Released {
            opened.unread = None;
        }
        before = segment;
    }
    opened.journal.find_carrier();
    opened.journal.count_segments();
    Ok(opened)
}

/// How far `later` segments say that `segment` was synced; `None`: none of them says anything.
pub async fn mark_of<D: Disk>(
    disk: &mut D,
    segment: u64,
    later: &[Listed],
    buffer: &mut Vec<u8>,
) -> Option<u64> {
    for &next in later {
        let Some(previous) = previous_of(disk, next, buffer).await else { continue };
        match previous.segment.cmp(&segment) {
            Ordering::Equal => return Some(previous.synced),
            Ordering::Less => return Some(0),
            Ordering::Greater => {}
        }
    }
    None
}

/// What a segment says of the ones before it; `None`: it has no good commit.
async fn previous_of<D: Disk>(disk: &mut D, of: Listed, buffer: &mut Vec<u8>) -> Option<Mark> {
    let Listed { segment, bytes } = of;
    disk.read(segment, 0, BLOCK_BYTES, buffer).await.ok()?;
    if let Some(commit) = commit_at(segment, 0, buffer) {
        return Some(commit.previous);
    }
    // The first commit is damaged, so any other will do.
    disk.read(segment, 0, bytes as usize, buffer).await.ok()?;
    next_commit(segment, buffer, 0).map(|commit| commit.previous)
}

impl Opened {
    /// Reads one segment into the journal.
    fn take(&mut self, segment: u64, bytes: &[u8], mark: Option<u64>) -> Scanned {
        // What lies above a later segment's mark was given up, and its offsets given again.
        let kept = mark.map_or(bytes.len(), |mark| bytes.len().min(mark as usize));
        let marked = mark.unwrap_or(0);
        let (mut missing, mut records) = (0_u64, 0);
        let streams = &mut self.journal.streams;
        let scanned = scan(segment, &bytes[..kept], marked, |commit, record| {
            let Record { stream, kind, offset, payload, .. } = record;
            records += 1;
            // Gaps of records that only look good may be of any size.
            let gap = match kind {
                Kind::Data => {
                    let (position, bytes) = (commit.position, commit.padded_bytes() as u32);
                    streams.restore_record(stream, Place { offset, segment, position, bytes })
                }
                Kind::Stream | Kind::Cursor => {
                    let name = String::from_utf8_lossy(payload);
                    streams.restore_name(stream, &name, kind == Kind::Cursor, offset, segment)
                }
            };
            missing = missing.saturating_add(gap);
        });
        self.segments += 1;
        self.bytes += bytes.len() as u64;
        self.records += records;
        self.missing_records = self.missing_records.saturating_add(missing);
        self.torn_bytes += scanned.torn_bytes;
        let damage = |at: &Range<u64>| Damage { segment, at: at.clone(), error: None };
        self.damaged.extend(scanned.damaged.iter().map(damage));
        scanned
    }

    fn keep(&mut self, segment: u64, bytes: u64, scanned: &Scanned) {
        let journal = &mut self.journal;
        // What is damaged and has no copy may be of use to a person yet: it isn't cut, and the next
        // start finds it again, since it was synced.
        let is_kept = !self.not_kept.iter().any(|(of, _)| *of == segment);
        let damaged = scanned.damaged.last().filter(|_| !is_kept).map_or(0, |range| range.end);
        let synced = scanned.end.max(damaged);
        journal.previous = Mark { segment, synced };
        let end = bytes.min(synced);
        let kept = Segment { segment, bytes: end, last_ms: scanned.last_ms };
        // Those without a time are no younger than this one, and may be as young.
        let timeless = journal.segments.iter_mut().rev().take_while(|before| before.last_ms == 0);
        timeless.for_each(|before| before.last_ms = kept.last_ms);
        journal.segments.push_back(kept);
        if bytes > end {
            journal.cut_later(segment, end);
        }
    }

    async fn keep_copy<D: Disk>(&mut self, disk: &mut D, segment: u64) {
        if let Err(error) = disk.quarantine(segment).await {
            self.not_kept.push((segment, error.to_string()));
        }
    }
}

/// Carries out what the journal asks for.
///
/// # Errors
/// The disk's, to be given to [`Journal::completed`].
pub async fn perform<D: Disk>(disk: &mut D, operation: &Operation) -> io::Result<()> {
    match operation {
        Operation::Create { segment, bytes } => disk.create(*segment, *bytes).await,
        Operation::Write { segment, position, data } => disk.write(*segment, *position, data).await,
        Operation::Sync { segment } => disk.sync(*segment).await,
        Operation::Truncate { segment, bytes } => disk.truncate(*segment, *bytes).await,
        Operation::Remove { segment } => disk.remove(*segment).await,
    }
}

/// Reads a stream from `offset` on until `take` says that it has enough (false), or to the end.
/// Payloads are slices of their commit's bytes. Returns the offset to go on from.
///
/// # Errors
/// When the disk can't read a commit; what was taken before stays taken.
pub async fn read<D: Disk>(
    disk: &mut D,
    journal: &Journal,
    stream: StreamId,
    offset: u64,
    mut take: impl FnMut(u64, u64, Bytes) -> bool,
) -> io::Result<u64> {
    let end = journal.range(stream).end;
    let mut next = offset;
    let mut place = journal.place(stream, offset);
    while let Some(at) = place {
        let data = match journal.cached(at) {
            Some(data) => data,
            None => {
                let mut buffer = Vec::new();
                disk.read(at.segment, at.position, at.bytes as usize, &mut buffer).await?;
                Bytes::from(buffer)
            }
        };
        let Some(header) = commit_at(at.segment, at.position, &data) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the commit is damaged"));
        };
        let mut records = Records::new(header, &data);
        loop {
            for record in records.by_ref() {
                let wanted = record.kind == Kind::Data && record.stream == stream.number();
                if !wanted || record.offset < next || record.offset >= end {
                    continue;
                }
                next = record.offset + 1;
                if !take(record.offset, record.time_ms, data.slice_ref(record.payload)) {
                    return Ok(next);
                }
            }
            if records.is_done() {
                break;
            }
            records.skip_damaged();
        }
        place = journal.place_after(stream, at);
    }
    Ok(next.max(end))
}
