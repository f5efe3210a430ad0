//! What a disk itself can do, to hold beside what is built on it: the time of
//! a synced write, and the rate of reading files.
//!
//! **Runs on: any.**

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::load::Latency;

/// Bytes of one write, and what direct reads are aligned to.
const BLOCK_BYTES: usize = 4096;
/// Bytes of the file that is written round and round.
const FILE_BYTES: u64 = 16 << 20;
/// Bytes of one read.
const READ_BYTES: usize = 1 << 20;
/// Longest time told apart.
const LIMIT_NS: u64 = 60_000_000_000;

/// Writes blocks of 4 KiB in a preallocated file in `folder`, each followed by
/// fdatasync, one after another for `how_long`.
///
/// # Errors
/// What the filesystem met.
pub fn sync_times(folder: &Path, how_long: Duration) -> io::Result<Latency> {
    let path = folder.join(format!("sync-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    let times = write_synced(&file, how_long);
    std::fs::remove_file(&path)?;
    times
}

fn write_synced(file: &File, how_long: Duration) -> io::Result<Latency> {
    // Written and not only allocated, so that no sync has extents to note.
    let megabyte = vec![0; 1 << 20];
    for at in (0..FILE_BYTES).step_by(megabyte.len()) {
        file.write_all_at(&megabyte, at)?;
    }
    file.sync_all()?;
    let mut times = Histogram::<u64>::new_with_bounds(1, LIMIT_NS, 3).expect("fixed bounds");
    let block = [0x5a; BLOCK_BYTES];
    let (began, mut at) = (Instant::now(), 0);
    while began.elapsed() < how_long {
        let before = Instant::now();
        file.write_all_at(&block, at)?;
        file.sync_data()?;
        times.saturating_record(before.elapsed().as_nanos().max(1) as u64);
        at = (at + BLOCK_BYTES as u64) % FILE_BYTES;
    }
    Ok(Latency::of(&times))
}

/// Reads the files of a folder from their beginning to their end, past the
/// page cache or not. Gives bytes and time.
///
/// # Errors
/// What the filesystem met; `InvalidInput` where it knows no direct reads.
pub fn read_all(folder: &Path, direct: bool) -> io::Result<(u64, Duration)> {
    let mut room = vec![0; READ_BYTES + BLOCK_BYTES];
    let start = room.as_ptr().align_offset(BLOCK_BYTES);
    let buffer = &mut room[start..start + READ_BYTES];
    let (began, mut bytes) = (Instant::now(), 0);
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.metadata()?.is_file() {
            continue;
        }
        let flags = if direct { libc::O_DIRECT } else { 0 };
        let mut file = OpenOptions::new().read(true).custom_flags(flags).open(entry.path())?;
        loop {
            match file.read(buffer)? {
                0 => break,
                count => bytes += count as u64,
            }
        }
    }
    Ok((bytes, began.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_there_and_leaves_nothing_behind() {
        let folder = std::env::temp_dir().join(format!("trine-bench-disk-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("a folder");
        let times = sync_times(&folder, Duration::from_millis(20)).expect("synced writes");
        assert!(times.count > 0);
        assert_eq!(std::fs::read_dir(&folder).expect("the folder").count(), 0);
        std::fs::write(folder.join("a"), [1; 5000]).expect("a file");
        std::fs::write(folder.join("b"), [2; 70]).expect("a file");
        assert_eq!(read_all(&folder, false).expect("files").0, 5070);
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
