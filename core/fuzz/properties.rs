//! What must hold for any input: the fuzz target's body, which tests run on its corpus too.
//!
//! **Runs on: any.**

use std::collections::BTreeSet;

use trine_core::journal::disk::at_once;
use trine_core::journal::disk::simulated::SimulatedDisk;
use trine_core::journal::{
    CommitWriter, Disk, Kind, Mark, Opened, Options, Record, Retention, StreamId, open, read,
};

const BLOCK_BYTES: u64 = 4096;

/// An input as a script: each byte decides something, and behind its end there are zeros.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    fn below(&mut self, end: u8) -> u8 {
        self.byte() % end
    }

    /// Mostly small, sometimes huge.
    fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX - u64::from(self.byte()),
            254 => u64::from(self.byte()) << 32,
            small => small.into(),
        }
    }

    /// A place in a segment, or far behind it.
    fn position(&mut self) -> u64 {
        self.number().wrapping_mul(BLOCK_BYTES / 2)
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let count = count.min(self.0.len());
        self.0.split_off(..count).unwrap_or_default()
    }
}

/// Segments of whole commits that say anything, and then some of their bytes changed, are opened
/// without a panic; what is found is in order and within its range, and found again.
pub fn journal(data: &[u8]) {
    let mut script = Script(data);
    let retention = match script.below(2) {
        0 => Retention::Released,
        _ => Retention::Oldest { age_ms: script.number() },
    };
    let options = Options { quota_bytes: 1 << 30, retention, gather_ms: 0 };
    let mut disk = SimulatedDisk::new(1);
    let mut segments = BTreeSet::new();
    for _ in 0..script.below(4) {
        write_segment(&mut disk, &mut script, &mut segments);
    }
    let segments = at_once(disk.list()).expect("a disk without faults");
    let Ok(first) = at_once(open(&mut disk, options)) else { return };
    let found = contents(&mut disk, &first);
    let second = at_once(open(&mut disk, options)).expect("it could be opened before");
    let again = contents(&mut disk, &second);
    // A segment that was removed as void said something of another one, which may have been a lie.
    if at_once(disk.list()).expect("a disk without faults") == segments {
        assert_eq!(again, found, "opening changes nothing that is there");
    }
}

fn write_segment(disk: &mut SimulatedDisk, script: &mut Script<'_>, segments: &mut BTreeSet<u64>) {
    let segment = 1 + script.number() % 8;
    let mut bytes = Vec::new();
    for _ in 0..script.below(5) {
        let mut writer = CommitWriter::new(segment, bytes.len() as u64, 0);
        for _ in 0..script.below(9) {
            let kind = [Kind::Stream, Kind::Data, Kind::Cursor][script.below(3) as usize];
            let (stream, offset, time_ms) = (script.number(), script.number(), script.number());
            let length = script.byte();
            let payload = script.bytes(length.into());
            writer.record(&Record { stream: stream as u32, kind, offset, time_ms, payload });
        }
        let synced = script.position();
        let previous = Mark { segment: script.number(), synced: script.position() };
        bytes.extend(writer.finish(synced, previous, script.number()));
    }
    bytes.resize(bytes.len() + usize::from(script.below(3)) * BLOCK_BYTES as usize, 0);
    if !segments.insert(segment) {
        return;
    }
    at_once(disk.create(segment, bytes.len() as u64)).expect("there is room");
    at_once(disk.write(segment, 0, &bytes)).expect("there is room");
    at_once(disk.sync(segment)).expect("nothing fails here");
    for _ in 0..script.below(4) {
        let (high, low) = (u64::from(script.byte()), u64::from(script.byte()));
        disk.flip(segment, (high << 8 | low) % bytes.len().max(1) as u64, script.byte());
    }
}

/// Names, and offset and payload of each record.
type Contents = Vec<(String, Vec<(u64, Vec<u8>)>)>;

fn contents(disk: &mut SimulatedDisk, opened: &Opened) -> Contents {
    let journal = &opened.journal;
    let streams: Vec<(StreamId, String)> =
        journal.names(false).map(|(id, name)| (id, name.to_owned())).collect();
    let mut all = Vec::new();
    for (id, name) in streams {
        let range = journal.range(id);
        assert!(range.start <= range.end, "{name}: {range:?}");
        let mut records: Vec<(u64, Vec<u8>)> = Vec::new();
        let reading = read(disk, journal, id, range.start, |offset, _, payload| {
            assert!(range.contains(&offset), "{name}: {offset} is not in {range:?}");
            assert!(records.last().is_none_or(|(last, _)| *last < offset), "{name}: order");
            records.push((offset, payload.to_vec()));
            true
        });
        at_once(reading).expect("a disk without faults");
        all.push((name, records));
    }
    all
}
