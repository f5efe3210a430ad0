//! A disk in memory that can do what real ones do at the worst time.
//!
//! **Runs on: any; tests.** What was not synced is lost at a power loss in any combination of
//! sectors; a failed sync forgets what it should have written, as kernels do; space ends; each
//! fault comes from a seed or is asked for.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use super::{Disk, Listed};

/// What a disk writes whole.
const SECTOR: usize = 512;

/// Faults and their frequency, in thousandths of the operations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A write fails, perhaps after a part of it.
    pub write: u32,
    /// A sync fails and what it should have written is forgotten.
    pub sync: u32,
    /// A segment can't be made.
    pub create: u32,
    /// A segment can't be removed.
    pub remove: u32,
    /// Bytes of all segments; 0: no limit.
    pub capacity_bytes: u64,
}

#[derive(Clone, Debug, Default)]
struct File {
    /// As it is after a power loss, if no unsynced sector survives.
    durable: Vec<u8>,
    /// As it reads now.
    now: Vec<u8>,
    /// Places of sectors written since the last sync.
    dirty: Vec<usize>,
}

/// A folder of segments in memory.
#[derive(Debug)]
pub struct SimulatedDisk {
    files: BTreeMap<u64, File>,
    quarantined: Vec<u64>,
    /// Bytes of removed segments: what a lost sector may show.
    old: Option<Vec<u8>>,
    /// The faults to come.
    pub faults: Faults,
    /// A segment that can't be read.
    pub unreadable: Option<u64>,
    /// The power fails in this many operations.
    pub power_in: Option<u32>,
    /// Outcomes asked for, before any by chance: `false` fails.
    pub script: VecDeque<bool>,
    random: u64,
}

impl SimulatedDisk {
    /// An empty disk; the same seed brings the same faults.
    pub fn new(seed: u64) -> Self {
        Self {
            files: BTreeMap::new(),
            quarantined: Vec::new(),
            old: None,
            faults: Faults::default(),
            unreadable: None,
            power_in: None,
            script: VecDeque::new(),
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.random() % end.max(1)
    }

    fn fails(&mut self, thousandths: u32) -> bool {
        match self.script.pop_front() {
            Some(outcome) => !outcome,
            None => self.below(1000) < u64::from(thousandths),
        }
    }

    /// Counts an operation down to the power loss.
    fn power(&mut self) -> io::Result<()> {
        match &mut self.power_in {
            Some(0) => Err(io::Error::other("the power has failed")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Whether the power has failed.
    pub fn is_dark(&self) -> bool {
        self.power_in == Some(0)
    }

    /// The power comes back: of what was not synced any sectors may be there, old or new.
    pub fn restart(&mut self) {
        self.power_in = None;
        for (segment, mut file) in std::mem::take(&mut self.files) {
            for at in std::mem::take(&mut file.dirty) {
                let end = (at + SECTOR).min(file.now.len());
                if file.durable.len() < end {
                    file.durable.resize(end, 0);
                }
                let old = self.old.as_ref().and_then(|old| old.get(at..end)).map(<[u8]>::to_vec);
                match (self.below(4), old) {
                    (0, _) => {}
                    (1, Some(old)) => file.durable[at..end].copy_from_slice(&old),
                    _ => file.durable[at..end].copy_from_slice(&file.now[at..end]),
                }
            }
            file.now.clone_from(&file.durable);
            self.files.insert(segment, file);
        }
    }

    /// Changes bytes as a failing medium would. Returns whether there was such a byte.
    pub fn flip(&mut self, segment: u64, at: u64, bits: u8) -> bool {
        let Some(file) = self.files.get_mut(&segment) else { return false };
        let Some(byte) = file.now.get_mut(at as usize) else { return false };
        *byte ^= bits;
        file.durable[at as usize] = *byte;
        true
    }

    /// The bytes of a segment as they read now.
    pub fn bytes(&self, segment: u64) -> &[u8] {
        self.files.get(&segment).map_or(&[], |file| &file.now)
    }

    /// The segments of which a copy was asked for.
    pub fn quarantined(&self) -> &[u64] {
        &self.quarantined
    }

    fn file(&mut self, segment: u64) -> io::Result<&mut File> {
        self.files.get_mut(&segment).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimulatedDisk {
    async fn list(&mut self) -> io::Result<Vec<Listed>> {
        let listed =
            |(&segment, file): (&u64, &File)| Listed { segment, bytes: file.now.len() as u64 };
        Ok(self.files.iter().map(listed).collect())
    }

    async fn create(&mut self, segment: u64, bytes: u64) -> io::Result<()> {
        self.power()?;
        let used: usize = self.files.values().map(|file| file.now.len()).sum();
        let limit = self.faults.capacity_bytes;
        if limit > 0 && used as u64 + bytes > limit {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.fails(self.faults.create) {
            return Err(io::Error::other("no segment can be made"));
        }
        let zeros = vec![0; bytes as usize];
        let file = File { durable: zeros.clone(), now: zeros, dirty: Vec::new() };
        assert!(self.files.insert(segment, file).is_none(), "a segment is made once");
        Ok(())
    }

    async fn write(&mut self, segment: u64, position: u64, data: &[u8]) -> io::Result<()> {
        // Power that fails during a write leaves a part of it, which was not synced anyhow.
        let failed = self.power().err();
        let bad = failed.is_none() && self.fails(self.faults.write);
        let taken = match failed.is_some() || bad {
            true => self.below(data.len() as u64 + 1) as usize,
            false => data.len(),
        };
        let file = self.file(segment)?;
        let begin = position as usize;
        file.now[begin..begin + taken].copy_from_slice(&data[..taken]);
        file.dirty.extend((begin..begin + taken).step_by(SECTOR));
        match failed {
            Some(error) => Err(error),
            None if bad => Err(io::Error::other("not all was taken")),
            None => Ok(()),
        }
    }

    async fn sync(&mut self, segment: u64) -> io::Result<()> {
        self.power()?;
        let fails = self.fails(self.faults.sync);
        let file = self.file(segment)?;
        for at in std::mem::take(&mut file.dirty) {
            let end = (at + SECTOR).min(file.now.len());
            if !fails {
                file.durable[at..end].copy_from_slice(&file.now[at..end]);
            }
        }
        if fails { Err(io::Error::other("what was written is not durable")) } else { Ok(()) }
    }

    async fn read(
        &mut self,
        segment: u64,
        position: u64,
        bytes: usize,
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        buffer.clear();
        if self.unreadable == Some(segment) {
            return Err(io::Error::other("it can't be read"));
        }
        let file = self.file(segment)?;
        let begin = (position as usize).min(file.now.len());
        let end = (begin + bytes).min(file.now.len());
        buffer.extend_from_slice(&file.now[begin..end]);
        Ok(())
    }

    async fn truncate(&mut self, segment: u64, bytes: u64) -> io::Result<()> {
        self.power()?;
        let file = self.file(segment)?;
        file.now.truncate(bytes as usize);
        file.durable.truncate(bytes as usize);
        file.dirty.retain(|&at| (at as u64) < bytes);
        Ok(())
    }

    async fn remove(&mut self, segment: u64) -> io::Result<()> {
        self.power()?;
        if self.fails(self.faults.remove) {
            return Err(io::Error::other("it stays"));
        }
        if let Some(file) = self.files.remove(&segment) {
            self.old = Some(file.now);
        }
        Ok(())
    }

    async fn quarantine(&mut self, segment: u64) -> io::Result<()> {
        self.quarantined.push(segment);
        Ok(())
    }
}
