//! The directory with control's lock and the data process's socket.
//!
//! **Runs on: control.**
//!
//! Whoever holds the lock is the one control of this directory. The lock is the system's
//! (`flock`), so it ends with its process however that dies; the file's text, the holder's
//! process id, is only for people.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{FlockOperation, flock};

use super::error::Error;
use crate::limits::{BIND_RETRY, LOCK_WAIT, SOCKET_PATH_LIMIT_BYTES};

/// The locked directory; dropping it frees the lock.
#[derive(Debug)]
pub struct RuntimeDir {
    path: PathBuf,
    lock: File,
}

impl RuntimeDir {
    /// Makes the directory if need be (mode 700), checks that nobody else may write to it, and
    /// takes the lock.
    ///
    /// # Errors
    /// The directory's own, or [`Error::SecondInstance`].
    pub async fn lock(path: &Path) -> Result<RuntimeDir, Error> {
        let failed = |source| Error::RuntimeDir { path: path.to_owned(), source };
        let socket = data_socket(path);
        if socket.as_os_str().as_bytes().len() > SOCKET_PATH_LIMIT_BYTES {
            return Err(Error::RuntimeDirLong { path: socket });
        }
        let mut file = open(path)?;
        let give_up = Instant::now() + LOCK_WAIT;
        while let Err(errno) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if errno != rustix::io::Errno::WOULDBLOCK {
                return Err(failed(errno.into()));
            }
            if Instant::now() >= give_up {
                return Err(Error::SecondInstance { path: path.to_owned(), pid: holder(&file) });
            }
            tokio::time::sleep(BIND_RETRY).await;
        }
        sign(&mut file).map_err(failed)?;
        Ok(RuntimeDir { path: path.to_owned(), lock: file })
    }

    /// Makes the directory and its lock anew if they are gone: a logout takes `$XDG_RUNTIME_DIR`
    /// along, and some systems clean what is temporary.
    ///
    /// # Errors
    /// As [`RuntimeDir::lock`].
    pub fn restore(&mut self) -> Result<(), Error> {
        let failed = |source| Error::RuntimeDir { path: self.path.clone(), source };
        let own = self.lock.metadata().map_err(failed)?;
        let is_own = |there: fs::Metadata| (there.dev(), there.ino()) == (own.dev(), own.ino());
        if fs::metadata(self.path.join("lock")).is_ok_and(is_own) {
            return Ok(());
        }
        let mut file = open(&self.path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::SecondInstance { path: self.path.clone(), pid: holder(&file) });
        }
        sign(&mut file).map_err(failed)?;
        tracing::warn!(path = %self.path.display(), "the runtime directory was gone and is made anew");
        self.lock = file;
        Ok(())
    }

    /// Where the data process listens for a control.
    pub fn data_socket(&self) -> PathBuf {
        data_socket(&self.path)
    }

    /// Where control says which CPUs it keeps awake.
    pub fn awake_note(&self) -> PathBuf {
        self.path.join("awake")
    }
}

/// Makes the directory if need be, checks that nobody else may write to it, and opens its lock.
fn open(path: &Path) -> Result<File, Error> {
    let failed = |source| Error::RuntimeDir { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let directory = fs::metadata(path).map_err(failed)?;
    let me = rustix::process::geteuid().as_raw();
    if directory.uid() != me || directory.mode() & 0o022 != 0 {
        return Err(Error::RuntimeDirOpen { path: path.to_owned() });
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path.join("lock")).map_err(failed)
}

/// Says in the lock who has it.
fn sign(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// Where the data process of `runtime_dir` listens for a control.
pub fn data_socket(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("data.sock")
}

fn holder(mut file: &File) -> String {
    let mut text = String::new();
    let read: io::Result<usize> = file.rewind().and_then(|()| file.read_to_string(&mut text));
    match read {
        Ok(_) if text.trim().parse::<u32>().is_ok() => text.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}
