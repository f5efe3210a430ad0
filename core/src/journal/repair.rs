//! Writes what is good of a damaged segment anew.
//!
//! **Runs on: `trine journal repair`**, with the journal closed. Sans-IO.

use super::format::{CommitHeader, CommitWriter, Mark, Record};
use super::scan::scan;
use crate::limits::BLOCK_BYTES;

/// The bytes of a segment with every good record of `bytes` where it was, and commits without
/// records in the place of what is damaged. `mark`: see [`super::mark_of`].
///
/// A record that was damaged stays missing; its copy in quarantine is all there is of it.
pub fn repaired(segment: u64, bytes: &[u8], mark: Option<u64>) -> Vec<u8> {
    let kept = mark.map_or(bytes.len(), |mark| bytes.len().min(mark as usize));
    let marked = mark.unwrap_or(0);
    let mut commits: Vec<(CommitHeader, Vec<Record<'_>>)> = Vec::new();
    let scanned =
        scan(segment, &bytes[..kept], marked, |header, record| match commits.last_mut() {
            Some((last, records)) if last.position == header.position => records.push(record),
            _ => commits.push((*header, vec![record])),
        });
    // With no good commit nothing is known of earlier segments, and nothing may be said: a mark on
    // the segment itself is passed over, while one on none would make all before it void.
    let previous = scanned.previous.unwrap_or(Mark { segment, synced: 0 });
    let mut good = Vec::with_capacity(bytes.len());
    for (header, records) in &commits {
        fill(segment, &mut good, header.position, previous, header.time_ms);
        let mut writer = CommitWriter::new(segment, header.position, header.bytes as usize);
        records.iter().for_each(|record| writer.record(record));
        good.extend(writer.finish(header.synced, header.previous, header.time_ms));
    }
    fill(segment, &mut good, scanned.end.max(marked), previous, scanned.last_ms);
    good
}

/// Commits without records up to `end`.
fn fill(segment: u64, good: &mut Vec<u8>, end: u64, previous: Mark, time_ms: u64) {
    while (good.len() as u64) < end {
        let position = good.len() as u64;
        let writer = CommitWriter::new(segment, position, BLOCK_BYTES);
        good.extend(writer.finish(position, previous, time_ms));
    }
}
