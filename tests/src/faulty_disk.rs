//! A filesystem of the tests' own, on which the whole program keeps its data while the disk under it fails:
//! syncs that fail or are slow, a process that dies just after a step, power that is lost.
//!
//! **Runs on: any** where the kernel has FUSE and lets this process mount. It is in memory, and every open
//! file goes past the page cache, so that what the kernel was given is what the disk was given.

mod contents;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use contents::{Contents, ROOT};
use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::process::Signal;

use crate::process;
use crate::random::Random;

/// The kernel keeps no attributes: it would not see what a power loss changes.
const TTL: Duration = Duration::ZERO;

/// Requests that are served at once, so that a slow sync holds up no read.
const THREADS: usize = 4;

/// After what a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A write of a file.
    Write,
    /// A sync of a file.
    Sync,
    /// A sync of a folder.
    SyncFolder,
}

impl Step {
    /// All of them.
    pub const ALL: [Step; 3] = [Step::Write, Step::Sync, Step::SyncFolder];
}

#[derive(Debug, Default)]
struct Faults {
    /// So many syncs of files fail.
    failing: usize,
    slow: Duration,
    /// Syncs of files say that they wrote, and did not.
    lying: bool,
    /// After how many of which step who asked for it dies.
    fatal: Option<(Step, usize)>,
}

#[derive(Debug, Default)]
struct Disk {
    contents: Contents,
    faults: Faults,
    /// Syncs that failed so far.
    failed: usize,
    /// Processes that died so far.
    killed: usize,
}

/// A mounted disk; unmounted when it goes out of scope, which must be after its users'.
pub struct FaultyDisk {
    path: PathBuf,
    disk: Arc<Mutex<Disk>>,
    session: Option<BackgroundSession>,
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FaultyDisk {
    /// Mounts an empty disk in a new folder at `path`.
    ///
    /// # Errors
    /// Where there can be none.
    pub fn mount(path: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let disk = Arc::<Mutex<Disk>>::default();
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("trine-tests".into())];
        config.n_threads = Some(THREADS);
        let session = fuser::spawn_mount(Served(disk.clone()), path, &config)?;
        Ok(Self { path: path.to_owned(), disk, session: Some(session) })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets so many syncs of files fail, from now on; 0 ends it.
    pub fn fail_syncs(&self, count: usize) {
        lock(&self.disk).faults.failing = count;
    }

    /// How many have failed.
    pub fn failed_syncs(&self) -> usize {
        lock(&self.disk).failed
    }

    /// Lets syncs of files do nothing and say that they did.
    pub fn lie(&self) {
        lock(&self.disk).faults.lying = true;
    }

    /// Lets each sync of a file take so long.
    pub fn slow_syncs(&self, by: Duration) {
        lock(&self.disk).faults.slow = by;
    }

    /// Once so many of `step` were carried out, kills who asked for the last, before it is told of it.
    pub fn kill_after(&self, step: Step, count: usize) {
        lock(&self.disk).faults.fatal = Some((step, count));
    }

    /// How many were killed.
    pub fn killed(&self) -> usize {
        lock(&self.disk).killed
    }

    /// Loses power. Whoever used the disk must be gone.
    pub fn lose_power(&self, random: &mut Random) {
        let disk = &mut *lock(&self.disk);
        disk.faults = Faults::default();
        disk.contents.lose_power(random);
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        if let Some(Err(why)) = self.session.take().map(BackgroundSession::umount_and_join) {
            eprintln!("{}: {why}", self.path.display());
        }
        let _ = std::fs::remove_dir(&self.path);
    }
}

impl Disk {
    /// A step was carried out; kills who must not be told of it.
    fn stepped(&mut self, step: Step, request: &Request) {
        let Some((fatal, left)) = &mut self.faults.fatal else { return };
        if *fatal == step {
            *left = left.saturating_sub(1);
            if *left == 0 {
                process::signal(request.pid(), Signal::KILL);
                self.faults.fatal = None;
                self.killed += 1;
            }
        }
    }

    fn attributes(&self, number: u64) -> Option<FileAttr> {
        let size = self.contents.look(number)?;
        let bytes = size.unwrap_or(0);
        Some(FileAttr {
            ino: INodeNo(number),
            size: bytes,
            blocks: bytes.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if size.is_some() { FileType::RegularFile } else { FileType::Directory },
            perm: if size.is_some() { 0o600 } else { 0o700 },
            nlink: 1,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            rdev: 0,
            blksize: 4_096,
            flags: 0,
        })
    }
}

/// The disk as the kernel asks it.
struct Served(Arc<Mutex<Disk>>);

impl Served {
    fn made(&self, parent: INodeNo, name: &OsStr, is_folder: bool) -> Result<FileAttr, Errno> {
        let disk = &mut *lock(&self.0);
        let number = disk.contents.add(parent.into(), name, is_folder).ok_or(Errno::EEXIST)?;
        Ok(disk.attributes(number).expect("it was made"))
    }

    fn removed(&self, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(lock(&self.0).contents.remove(parent.into(), name).is_some(), reply);
    }
}

fn done(is_done: bool, reply: ReplyEmpty) {
    if is_done { reply.ok() } else { reply.error(Errno::ENOENT) }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let disk = lock(&self.0);
        let found = disk.contents.find(parent.into(), name);
        match found.and_then(|number| disk.attributes(number)) {
            Some(of) => reply.entry(&TTL, &of, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match lock(&self.0).attributes(number.into()) {
            Some(of) => reply.attr(&TTL, &of),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let disk = &mut *lock(&self.0);
        if let Some(bytes) = size {
            disk.contents.resize(number.into(), bytes);
        }
        match disk.attributes(number.into()) {
            Some(of) => reply.attr(&TTL, &of),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        match self.made(parent, name, true) {
            Ok(of) => reply.entry(&TTL, &of, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        match self.made(parent, name, false) {
            Ok(of) => {
                reply.created(&TTL, &of, Generation(0), FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.removed(parent, name, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.removed(parent, name, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = ((parent.into(), name), (new_parent.into(), new_name));
        done(lock(&self.0).contents.rename(from, to), reply);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        count: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match lock(&self.0).contents.read(number.into(), offset, count as usize) {
            Some(data) => reply.data(&data),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn write(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let disk = &mut *lock(&self.0);
        if !disk.contents.write(number.into(), offset, data) {
            return reply.error(Errno::ENOENT);
        }
        disk.stepped(Step::Write, request);
        reply.written(data.len() as u32);
    }

    fn fallocate(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: u64,
        _: i32,
        reply: ReplyEmpty,
    ) {
        let disk = &mut *lock(&self.0);
        let Some(Some(size)) = disk.contents.look(number.into()) else {
            return reply.error(Errno::ENOENT);
        };
        done(disk.contents.resize(number.into(), size.max(offset + bytes)), reply);
    }

    fn fsync(&self, request: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let slow = lock(&self.0).faults.slow;
        std::thread::sleep(slow);
        let disk = &mut *lock(&self.0);
        let fails = disk.faults.failing > 0;
        disk.contents.sync(number.into(), !fails && !disk.faults.lying);
        if fails {
            disk.faults.failing -= 1;
            disk.failed += 1;
            return reply.error(Errno::EIO);
        }
        disk.stepped(Step::Sync, request);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let disk = &mut *lock(&self.0);
        disk.contents.sync(number.into(), true);
        disk.stepped(Step::SyncFolder, request);
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let disk = lock(&self.0);
        let Some(entries) = disk.contents.entries(number.into()) else {
            return reply.error(Errno::ENOENT);
        };
        let dots = [(".".into(), ROOT), ("..".into(), ROOT)];
        let all = dots.into_iter().chain(entries).enumerate().skip(offset as usize);
        for (at, (name, number)) in all {
            let Some(of) = disk.attributes(number) else { continue };
            if reply.add(of.ino, at as u64 + 1, of.kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = 1 << 20;
        reply.statfs(blocks, blocks, blocks, blocks, blocks, 4_096, 255, 4_096);
    }
}
