//! What a faulty disk holds: files and folders, and what a power loss would leave of them.
//!
//! **Runs on: any.** Nothing here knows the kernel. Invariant: a sector is certain after a power loss
//! only if it was synced after it was written and that sync succeeded; so is a folder's entry.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};

use crate::random::Random;

/// The number of the root folder.
pub const ROOT: u64 = 1;

const BLOCK: usize = 4_096;

/// What a disk writes whole.
const SECTOR: usize = 512;

type Block = Box<[u8; BLOCK]>;

/// Blocks by their place; those that are missing are zeros.
type Blocks = BTreeMap<u64, Option<Block>>;

/// A file.
#[derive(Debug, Default)]
struct File {
    bytes: u64,
    blocks: BTreeMap<u64, Block>,
    /// The size after a power loss.
    synced_bytes: u64,
    /// What the blocks written since the last sync had before.
    written: Blocks,
    /// The same of blocks whose sync failed: they are as uncertain as before it, and the next sync does
    /// not write them unless they are written again.
    failed: Blocks,
}

/// A folder: its entries, and those that are certain.
#[derive(Debug, Default)]
struct Folder {
    entries: BTreeMap<OsString, u64>,
    synced: BTreeMap<OsString, u64>,
}

/// Everything on the disk.
#[derive(Debug)]
pub struct Contents {
    files: HashMap<u64, File>,
    folders: HashMap<u64, Folder>,
    last: u64,
}

impl Default for Contents {
    fn default() -> Self {
        let folders = [(ROOT, Folder::default())].into();
        Self { files: HashMap::new(), folders, last: ROOT }
    }
}

impl Contents {
    /// The number of a folder's entry.
    pub fn find(&self, folder: u64, name: &OsStr) -> Option<u64> {
        self.folders.get(&folder)?.entries.get(name).copied()
    }

    /// The size of a file, or nothing for a folder; `None` when there is no such number.
    pub fn look(&self, number: u64) -> Option<Option<u64>> {
        match self.files.get(&number) {
            Some(file) => Some(Some(file.bytes)),
            None => self.folders.contains_key(&number).then_some(None),
        }
    }

    /// The entries of a folder.
    pub fn entries(&self, folder: u64) -> Option<Vec<(OsString, u64)>> {
        let entries = &self.folders.get(&folder)?.entries;
        Some(entries.iter().map(|(name, &number)| (name.clone(), number)).collect())
    }

    /// A new entry, which must not be there yet.
    pub fn add(&mut self, folder: u64, name: &OsStr, is_folder: bool) -> Option<u64> {
        let number = self.last + 1;
        let entries = &mut self.folders.get_mut(&folder)?.entries;
        if entries.contains_key(name) {
            return None;
        }
        entries.insert(name.to_owned(), number);
        self.last = number;
        if is_folder {
            self.folders.insert(number, Folder::default());
        } else {
            self.files.insert(number, File::default());
        }
        Some(number)
    }

    /// Takes an entry out; what it named stays readable for who has it open.
    pub fn remove(&mut self, folder: u64, name: &OsStr) -> Option<u64> {
        self.folders.get_mut(&folder)?.entries.remove(name)
    }

    /// Moves an entry, over another if there is one.
    pub fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> bool {
        if !self.folders.contains_key(&to.0) {
            return false;
        }
        let Some(number) = self.remove(from.0, from.1) else { return false };
        let folder = self.folders.get_mut(&to.0).expect("it is there");
        folder.entries.insert(to.1.to_owned(), number);
        true
    }

    /// Makes a file so long.
    pub fn resize(&mut self, number: u64, bytes: u64) -> bool {
        let Some(file) = self.files.get_mut(&number) else { return false };
        if bytes < file.bytes {
            let (whole, rest) = (bytes / BLOCK as u64, (bytes % BLOCK as u64) as usize);
            let beyond: Vec<u64> = file.blocks.range(whole..).map(|(&at, _)| at).collect();
            for at in beyond {
                let from = if at == whole { rest } else { 0 };
                file.block(at)[from..].fill(0);
            }
        }
        file.bytes = bytes;
        true
    }

    /// Writes into a file, beyond its end too.
    pub fn write(&mut self, number: u64, offset: u64, data: &[u8]) -> bool {
        let Some(file) = self.files.get_mut(&number) else { return false };
        let mut done = 0;
        while done < data.len() {
            let place = offset + done as u64;
            let from = (place % BLOCK as u64) as usize;
            let count = (BLOCK - from).min(data.len() - done);
            let block = file.block(place / BLOCK as u64);
            block[from..from + count].copy_from_slice(&data[done..done + count]);
            done += count;
        }
        file.bytes = file.bytes.max(offset + data.len() as u64);
        true
    }

    /// Reads from a file, less where it ends.
    pub fn read(&self, number: u64, offset: u64, count: usize) -> Option<Vec<u8>> {
        let file = self.files.get(&number)?;
        let end = file.bytes.min(offset + count as u64);
        let mut data = vec![0; end.saturating_sub(offset) as usize];
        let mut done = 0;
        while done < data.len() {
            let place = offset + done as u64;
            let from = (place % BLOCK as u64) as usize;
            let count = (BLOCK - from).min(data.len() - done);
            if let Some(block) = file.blocks.get(&(place / BLOCK as u64)) {
                data[done..done + count].copy_from_slice(&block[from..from + count]);
            }
            done += count;
        }
        Some(data)
    }

    /// A sync of a file or of a folder's entries, which may fail.
    pub fn sync(&mut self, number: u64, succeeds: bool) {
        if let Some(file) = self.files.get_mut(&number) {
            let written = std::mem::take(&mut file.written);
            for (at, before) in written {
                match succeeds {
                    true => drop(file.failed.remove(&at)),
                    // What it had before the first of them is what may come back.
                    false => drop(file.failed.entry(at).or_insert(before)),
                }
            }
            if succeeds {
                file.synced_bytes = file.bytes;
            }
        } else if let Some(folder) = self.folders.get_mut(&number).filter(|_| succeeds) {
            folder.synced.clone_from(&folder.entries);
        }
    }

    /// The power is lost: each sector and each entry that is not certain is as it was, or as it was to be.
    pub fn lose_power(&mut self, random: &mut Random) {
        let mut numbers: Vec<u64> = self.files.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            self.files.get_mut(&number).expect("it is there").lose_power(random);
        }
        let mut numbers: Vec<u64> = self.folders.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            self.folders.get_mut(&number).expect("it is there").lose_power(random);
        }
    }
}

impl File {
    /// A block to be written, as it was before remembered.
    fn block(&mut self, at: u64) -> &mut [u8; BLOCK] {
        self.written.entry(at).or_insert_with(|| self.blocks.get(&at).cloned());
        self.blocks.entry(at).or_insert_with(|| Box::new([0; BLOCK]))
    }

    fn lose_power(&mut self, random: &mut Random) {
        // What failed to be synced is the older of the two.
        for before in [std::mem::take(&mut self.written), std::mem::take(&mut self.failed)] {
            for (at, before) in before {
                let before = before.unwrap_or_else(|| Box::new([0; BLOCK]));
                let block = self.blocks.entry(at).or_insert_with(|| Box::new([0; BLOCK]));
                for (new, old) in block.chunks_mut(SECTOR).zip(before.chunks(SECTOR)) {
                    if random.below(2) == 0 {
                        new.copy_from_slice(old);
                    }
                }
            }
        }
        if random.below(2) == 0 {
            self.bytes = self.synced_bytes;
        }
        self.synced_bytes = self.bytes;
    }
}

impl Folder {
    fn lose_power(&mut self, random: &mut Random) {
        let names = self.entries.keys().chain(self.synced.keys()).cloned();
        let mut names: Vec<OsString> = names.collect();
        names.sort();
        names.dedup();
        for name in names {
            if random.below(2) == 0 {
                match self.synced.get(&name) {
                    Some(&number) => self.entries.insert(name, number),
                    None => self.entries.remove(&name),
                };
            }
        }
        self.synced.clone_from(&self.entries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file() -> (Contents, u64) {
        let mut disk = Contents::default();
        let file = disk.add(ROOT, OsStr::new("a"), false).unwrap();
        disk.sync(ROOT, true);
        (disk, file)
    }

    /// What a file has after power losses, each with another seed.
    fn losses(make: impl Fn() -> (Contents, u64)) -> Vec<Vec<u8>> {
        let loss = |seed| {
            let (mut disk, file) = make();
            disk.lose_power(&mut Random::new(seed));
            disk.read(file, 0, 1 << 20).unwrap()
        };
        (0..64).map(loss).collect()
    }

    #[test]
    fn what_is_written_is_read_in_any_pieces() {
        let (mut disk, file) = with_file();
        let data: Vec<u8> = (0..20_000).map(|at| (at % 251) as u8).collect();
        assert!(disk.write(file, 3_000, &data));
        assert_eq!(disk.read(file, 3_000, 30_000).unwrap(), data);
        assert_eq!(disk.read(file, 5_000, 10).unwrap(), data[2_000..2_010]);
        assert_eq!(disk.read(file, 0, 3_000).unwrap(), vec![0; 3_000]);
        assert!(disk.resize(file, 4_000) && disk.resize(file, 23_000));
        assert_eq!(disk.read(file, 3_000, 1_000).unwrap(), data[..1_000]);
        assert_eq!(disk.read(file, 4_000, 30_000).unwrap(), vec![0; 19_000]);
    }

    #[test]
    fn a_power_loss_keeps_what_was_synced_and_tears_the_rest() {
        let seen = losses(|| {
            let (mut disk, file) = with_file();
            disk.write(file, 0, &[1; 8_192]);
            disk.sync(file, true);
            disk.write(file, 4_096, &[2; 4_096]);
            (disk, file)
        });
        assert!(seen.iter().all(|data| data[..4_096] == [1; 4_096]));
        let whole = |data: &Vec<u8>| data[4_096..].chunks(SECTOR).all(|of| of == [of[0]; SECTOR]);
        assert!(seen.iter().all(whole), "a sector is written whole");
        assert!(seen.iter().any(|data| data[4_096..].contains(&1) && data.ends_with(&[2])));
    }

    #[test]
    fn a_sync_that_failed_writes_nothing_later() {
        let seen = losses(|| {
            let (mut disk, file) = with_file();
            disk.write(file, 0, &[1; 4_096]);
            disk.sync(file, false);
            disk.sync(file, true);
            (disk, file)
        });
        assert!(seen.iter().any(|data| data.contains(&0)));
        let seen = losses(|| {
            let (mut disk, file) = with_file();
            disk.write(file, 0, &[1; 4_096]);
            disk.sync(file, false);
            disk.write(file, 0, &[2; 4_096]);
            disk.sync(file, true);
            (disk, file)
        });
        assert!(seen.iter().all(|data| *data == [2; 4_096]), "it was written again");
    }

    #[test]
    fn an_entry_is_certain_once_its_folder_is_synced() {
        let left = |seed, synced| {
            let (mut disk, _) = with_file();
            disk.add(ROOT, OsStr::new("b"), false).unwrap();
            assert!(disk.rename((ROOT, OsStr::new("a")), (ROOT, OsStr::new("c"))));
            disk.sync(ROOT, synced);
            disk.lose_power(&mut Random::new(seed));
            ["a", "b", "c"].map(|name| disk.find(ROOT, OsStr::new(name)).is_some())
        };
        assert!((0..64).all(|seed| left(seed, true) == [false, true, true]));
        let torn: Vec<_> = (0..64).map(|seed| left(seed, false)).collect();
        assert!(torn.contains(&[true, false, false]) && torn.contains(&[false, true, true]));
    }
}
