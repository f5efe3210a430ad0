//! Segments as files, with ordinary system calls: for a thread of its own that may block.
//!
//! **Runs on: storage**, and `trine journal`. The folder is locked while it is open, so that two
//! processes never write to one journal.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, chown, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation};

use super::{Disk, Listed};
use crate::limits::OPEN_SEGMENTS;

// What is in a journal is for nobody else to read.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A folder of files, one a segment.
pub struct PlainDisk {
    folder: PathBuf,
    /// The folder itself, to sync its entries.
    directory: File,
    /// Holds the lock as long as it is open; there is none to read only.
    lock: Option<File>,
    open: BTreeMap<u64, File>,
}

impl PlainDisk {
    /// Opens a folder, which is made if it is not there, to write to it alone.
    ///
    /// # Errors
    /// `WouldBlock` while another process has it, else what the filesystem says.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let there = folder.ancestors().find(|ancestor| ancestor.is_dir()).map(Path::to_owned);
        folder.parent().map_or(Ok(()), fs::create_dir_all)?;
        match fs::DirBuilder::new().mode(FOLDER_MODE).create(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        let path = folder.join("lock");
        let mut lock = OpenOptions::new();
        let lock = lock.create(true).truncate(false).write(true).mode(FILE_MODE).open(path)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let disk = Self { lock: Some(lock), ..Self::open_to_read(folder)? };
        disk.directory.sync_all()?;
        // Every folder that was just made is an entry of the one above it.
        for ancestor in folder.ancestors().skip(1) {
            let ancestor = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
            File::open(ancestor)?.sync_all()?;
            if there.as_deref().is_none_or(|there| there.starts_with(ancestor)) {
                break;
            }
        }
        Ok(disk)
    }

    /// Opens a folder to look at it, whoever has it: `remove`, `sync` and `quarantine` do
    /// nothing.
    ///
    /// # Errors
    /// When it is not there or can't be read.
    pub fn open_to_read(folder: &Path) -> io::Result<Self> {
        let directory = File::open(folder)?;
        Ok(Self { folder: folder.to_owned(), directory, lock: None, open: BTreeMap::new() })
    }

    /// The file of a segment.
    pub fn path(&self, segment: u64) -> PathBuf {
        self.folder.join(format!("{segment:016x}.segment"))
    }

    /// Puts other bytes in the place of a segment's, at once: a crash leaves these or those. Who
    /// could open the segment still can, whoever asks for this.
    ///
    /// # Errors
    /// When they can't be written; the segment is as it was.
    pub fn replace(&mut self, segment: u64, data: &[u8]) -> io::Result<()> {
        self.open.remove(&segment);
        let path = self.path(segment);
        let new = path.with_extension("new");
        let before = fs::metadata(&path)?;
        let mut file = File::create(&new)?;
        fchown(&file, Some(before.uid()), Some(before.gid()))?;
        file.set_permissions(before.permissions())?;
        file.write_all(data)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        self.directory.sync_all()
    }

    fn file(&mut self, segment: u64) -> io::Result<&File> {
        if !self.open.contains_key(&segment) {
            let write = self.lock.is_some();
            let file = OpenOptions::new().read(true).write(write).open(self.path(segment))?;
            self.keep_open(segment, file);
        }
        Ok(&self.open[&segment])
    }

    fn keep_open(&mut self, segment: u64, file: File) {
        if self.open.len() >= OPEN_SEGMENTS {
            // The one that is written to is the newest.
            self.open.pop_first();
        }
        self.open.insert(segment, file);
    }
}

impl Disk for PlainDisk {
    async fn list(&mut self) -> io::Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".segment"));
            let Some(Ok(segment)) = number.map(|number| u64::from_str_radix(number, 16)) else {
                continue;
            };
            listed.push(Listed { segment, bytes: entry.metadata()?.len() });
        }
        listed.sort_by_key(|listed| listed.segment);
        Ok(listed)
    }

    async fn create(&mut self, segment: u64, bytes: u64) -> io::Result<()> {
        let path = self.path(segment);
        let mut file = OpenOptions::new();
        let file = file.read(true).write(true).create_new(true).mode(FILE_MODE).open(&path)?;
        let made = match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            // A filesystem that can't preallocate grows the file as it is written.
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            result => result.map_err(io::Error::from),
        };
        let made = made.and_then(|()| file.sync_all()).and_then(|()| self.directory.sync_all());
        if let Err(error) = made {
            // Its number is never used again, so a file that stays behind is only empty.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        self.keep_open(segment, file);
        Ok(())
    }

    async fn write(&mut self, segment: u64, position: u64, data: &[u8]) -> io::Result<()> {
        self.file(segment)?.write_all_at(data, position)
    }

    async fn sync(&mut self, segment: u64) -> io::Result<()> {
        if self.lock.is_none() {
            return Ok(());
        }
        self.file(segment)?.sync_data()
    }

    async fn read(
        &mut self,
        segment: u64,
        position: u64,
        bytes: usize,
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        let file = self.file(segment)?;
        let there = file.metadata()?.len().saturating_sub(position);
        buffer.clear();
        buffer.resize(bytes.min(usize::try_from(there).unwrap_or(usize::MAX)), 0);
        file.read_exact_at(buffer, position)
    }

    async fn truncate(&mut self, segment: u64, bytes: u64) -> io::Result<()> {
        let file = self.file(segment)?;
        file.set_len(bytes)?;
        file.sync_all()?;
        // Nobody writes to it any more, and who reads it may open it anew.
        self.open.remove(&segment);
        Ok(())
    }

    async fn remove(&mut self, segment: u64) -> io::Result<()> {
        if self.lock.is_none() {
            return Ok(());
        }
        self.open.remove(&segment);
        match fs::remove_file(self.path(segment)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    async fn quarantine(&mut self, segment: u64) -> io::Result<()> {
        if self.lock.is_none() {
            return Ok(());
        }
        let (path, folder) = (self.path(segment), self.folder.join("quarantine"));
        match fs::DirBuilder::new().mode(FOLDER_MODE).create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                made?;
                let of = self.directory.metadata()?;
                // Whoever has the journal adds to it later; who may not give it away has it himself.
                let _ = chown(&folder, Some(of.uid()), Some(of.gid()));
            }
        }
        let kept = folder.join(format!("{segment:016x}.segment"));
        let bytes = fs::metadata(&path)?.len();
        // A segment is cut or written anew once it was kept, so what is there is from before that.
        if !fs::metadata(&kept).is_ok_and(|kept| kept.len() >= bytes) {
            let new = kept.with_extension("new");
            let copied = fs::copy(&path, &new)
                .and_then(|_| File::open(&new)?.sync_all())
                .and_then(|()| fs::rename(&new, &kept));
            if let Err(error) = copied {
                let _ = fs::remove_file(&new);
                return Err(error);
            }
        }
        File::open(&folder)?.sync_all()?;
        self.directory.sync_all()
    }
}
