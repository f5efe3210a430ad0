//! Reads a segment's bytes after a start: what is whole, what is damaged, what never became whole.
//!
//! **Runs on: storage**, and `trine journal`. Sans-IO. Every byte from the beginning to the end of
//! what was written is looked at: a damaged one is in a good record's place, in a header or in the
//! zeros between, and each of these is checked.

use std::ops::Range;

use super::format::{CommitHeader, Mark, Record, Records, commit_at};
use crate::limits::BLOCK_BYTES;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// What a segment's bytes are worth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Behind the last commit that is kept.
    pub end: u64,
    /// Damaged places that were synced once: what was there is lost, unless it was only zeros.
    pub damaged: Vec<Range<u64>>,
    /// Bytes above the highest mark that don't make a whole commit: a commit that was cut off.
    pub torn_bytes: u64,
    /// Commits read.
    pub commits: u64,
    /// Records read.
    pub records: u64,
    /// When the last commit was written; 0: there is none.
    pub last_ms: u64,
    /// What the segment says of the one before it.
    pub previous: Option<Mark>,
}

/// Reads all of `segment`. `marked`: how far later segments say that it was synced. `visit` gets
/// every good record, in order.
pub fn scan<'a>(
    segment: u64,
    bytes: &'a [u8],
    marked: u64,
    mut visit: impl FnMut(&CommitHeader, Record<'a>),
) -> Scanned {
    let mut scanned = Scanned::default();
    // What was synced was not zeros, whatever is there now.
    let written = written_bytes(bytes).max(marked);
    let mut at = 0;
    while at < written {
        let found = commit_at(segment, at, tail(bytes, at));
        let Some(commit) = found else {
            let next = next_commit(segment, bytes, at + BLOCK);
            // One commit is in flight at a time, so a later one says that all before was synced.
            let known = next.as_ref().map_or(marked, |next| marked.max(next.synced));
            let to = next.as_ref().map_or(written, |next| next.position);
            if known > at {
                scanned.damaged.push(at..to.min(known));
            }
            scanned.torn_bytes += to - to.min(known.max(at));
            at = to;
            continue;
        };
        take_commit(commit, bytes, written, marked, &mut scanned, &mut visit);
        at += commit.padded_bytes();
    }
    scanned
}

/// Takes the records of a commit with a good header.
fn take_commit<'a>(
    commit: CommitHeader,
    bytes: &'a [u8],
    written: u64,
    marked: u64,
    scanned: &mut Scanned,
    visit: &mut impl FnMut(&CommitHeader, Record<'a>),
) {
    let (begin, end) = (commit.position, commit.position + commit.padded_bytes());
    let mut records = Records::new(commit, tail(bytes, begin));
    let next = next_commit(commit.segment, bytes, end);
    let synced = end <= marked || next.is_some_and(|next| next.synced >= end);
    if !synced {
        // Nobody says that it was synced, so it is there as a whole or not at all.
        let mut all = records.clone();
        all.by_ref().for_each(drop);
        if !all.is_done() {
            scanned.torn_bytes += written.min(end) - begin;
            return;
        }
    }
    scanned.commits += 1;
    scanned.last_ms = commit.time_ms;
    scanned.previous = Some(commit.previous);
    loop {
        for record in records.by_ref() {
            scanned.records += 1;
            visit(&commit, record);
        }
        if records.is_done() {
            break;
        }
        scanned.damaged.push(records.skip_damaged());
    }
    scanned.end = end;
    let records_end = begin + commit.bytes as u64;
    let zeros = tail(bytes, records_end);
    let zeros = &zeros[..zeros.len().min((end - records_end) as usize)];
    if zeros.iter().any(|&byte| byte != 0) {
        if synced {
            scanned.damaged.push(records_end..end);
        } else {
            scanned.end = records_end;
            scanned.torn_bytes += end - records_end;
        }
    }
}

fn tail(bytes: &[u8], from: u64) -> &[u8] {
    bytes.get(from as usize..).unwrap_or_default()
}

/// Up to the last byte that is not zero.
fn written_bytes(bytes: &[u8]) -> u64 {
    let mut end = bytes.len();
    // A block at a time first, since preallocated files end with megabytes of zeros.
    while end >= BLOCK_BYTES && bytes[end - BLOCK_BYTES..end] == [0; BLOCK_BYTES] {
        end -= BLOCK_BYTES;
    }
    bytes[..end].iter().rposition(|&byte| byte != 0).map_or(0, |last| last as u64 + 1)
}

/// The first good commit of `segment` at `from` or behind it.
pub(super) fn next_commit(segment: u64, bytes: &[u8], from: u64) -> Option<CommitHeader> {
    let mut at = from;
    while at < bytes.len() as u64 {
        if let Some(commit) = commit_at(segment, at, tail(bytes, at)) {
            return Some(commit);
        }
        at += BLOCK;
    }
    None
}
