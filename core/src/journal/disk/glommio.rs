//! Segments as files on an executor with io_uring: the thread takes requests while the disk works.
//!
//! **Runs on: storage.** Commits are written past the page cache (`O_DIRECT`) where the filesystem
//! takes that. What is rare and short (a new segment, a cut, a removal) and the lock stay with
//! [`PlainDisk`], as does recovery. An operation in flight is never dropped.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::future::{Future, poll_fn};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use glommio::io::{BufferedFile, DmaFile, OpenOptions};
use glommio::timer::Timer;
use glommio::{LocalExecutorBuilder, Placement};

use super::super::storage::Bell;
use super::plain::PlainDisk;
use super::{Disk, Listed};
use crate::limits::{BLOCK_BYTES, OPEN_SEGMENTS, STORAGE_IO_BYTES, STORAGE_RING_ENTRIES};

/// A folder of files on the executor of this thread.
pub struct RingDisk {
    plain: PlainDisk,
    open: BTreeMap<u64, Segment>,
    /// Whether to try the way past the page cache.
    direct: bool,
}

enum Segment {
    Direct(DmaFile),
    Buffered(BufferedFile),
}

impl RingDisk {
    /// The folder that was opened, in an executor of this thread.
    pub async fn new(plain: PlainDisk) -> Self {
        let path = plain.path(0).with_extension("probe");
        let direct = is_described(&path) && probe(&path).await.is_ok_and(|same| same);
        // It is no segment, so if it stays nobody minds.
        let _ = fs::remove_file(&path);
        Self { plain, open: BTreeMap::new(), direct }
    }

    /// Whether commits go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    async fn file(&mut self, segment: u64) -> io::Result<&Segment> {
        if !self.open.contains_key(&segment) {
            if self.open.len() >= OPEN_SEGMENTS {
                // The one that is written to is the newest.
                let oldest = *self.open.keys().next().expect("some are open");
                self.close(oldest).await?;
            }
            let file = open(self.plain.path(segment), self.direct).await?;
            self.open.insert(segment, file);
        }
        Ok(&self.open[&segment])
    }

    async fn close(&mut self, segment: u64) -> io::Result<()> {
        match self.open.remove(&segment) {
            Some(file) => file.close().await,
            None => Ok(()),
        }
    }
}

/// Whether the kernel describes the device in the way that glommio takes for granted before it
/// opens a file past the page cache: it panics otherwise.
fn is_described(path: &Path) -> bool {
    let Some(Ok(status)) = path.parent().map(rustix::fs::stat) else { return false };
    let device = PathBuf::from(format!("/sys/dev/block/{}:0", rustix::fs::major(status.st_dev)));
    match fs::exists(&device) {
        Ok(true) => {}
        // It makes do with defaults then.
        Ok(false) => return true,
        Err(_) => return false,
    }
    let queue = device.join("queue");
    let read = |name: &str| fs::read_to_string(queue.join(name)).unwrap_or_default();
    let numbers = [
        "rotational",
        "minimum_io_size",
        "optimal_io_size",
        "logical_block_size",
        "physical_block_size",
        "max_sectors_kb",
        "max_segment_size",
    ];
    numbers.iter().all(|name| read(name).trim().parse::<isize>().is_ok())
        && ["write back", "write through"].contains(&read("write_cache").trim())
        && fs::read_dir(device.join("slaves")).is_ok()
}

/// Writes and reads a block past the page cache. It has to be there before the file is opened:
/// glommio reads it then to see whether the device can be polled, and remembers that, but a block
/// that was never written is answered without the device.
async fn probe(path: &Path) -> io::Result<bool> {
    let mut block = vec![1; BLOCK_BYTES];
    let mut file = fs::File::create(path)?;
    file.write_all(&block)?;
    file.sync_all()?;
    let Segment::Direct(file) = open(path.to_owned(), true).await? else { return Ok(false) };
    block.fill(2);
    let segment = Segment::Direct(file);
    let written = segment.write(0, &block).await?;
    segment.sync().await?;
    let mut read = Vec::new();
    segment.read(0, BLOCK_BYTES, &mut read).await?;
    segment.close().await?;
    Ok(written == BLOCK_BYTES && read == block)
}

async fn open(path: PathBuf, direct: bool) -> io::Result<Segment> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if direct {
        match options.dma_open(&path).await.map_err(io::Error::from) {
            Ok(file) => return Ok(Segment::Direct(file)),
            // What a filesystem says that has no way past its cache.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Segment::Buffered(options.buffered_open(&path).await?))
}

impl Segment {
    /// Writes the beginning of `data`, whole blocks, and says how much.
    async fn write(&self, position: u64, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Direct(file) => {
                let mut buffer = file.alloc_dma_buffer(data.len());
                buffer.as_bytes_mut()[..data.len()].copy_from_slice(data);
                buffer.trim_to_size(data.len());
                Ok(file.write_at(buffer, position).await?)
            }
            Self::Buffered(file) => Ok(file.write_at(data.to_vec(), position).await?),
        }
    }

    async fn sync(&self) -> io::Result<()> {
        match self {
            Self::Direct(file) => file.fdatasync().await?,
            Self::Buffered(file) => file.fdatasync().await?,
        }
        Ok(())
    }

    async fn close(self) -> io::Result<()> {
        match self {
            Self::Direct(file) => file.close().await?,
            Self::Buffered(file) => file.close().await?,
        }
        Ok(())
    }

    async fn read(&self, position: u64, bytes: usize, into: &mut Vec<u8>) -> io::Result<()> {
        let read = match self {
            Self::Direct(file) => file.read_at(position, bytes).await?,
            Self::Buffered(file) => file.read_at(position, bytes).await?,
        };
        into.extend_from_slice(&read);
        Ok(())
    }
}

impl Disk for RingDisk {
    async fn list(&mut self) -> io::Result<Vec<Listed>> {
        self.plain.list().await
    }

    async fn create(&mut self, segment: u64, bytes: u64) -> io::Result<()> {
        self.plain.create(segment, bytes).await
    }

    async fn write(&mut self, segment: u64, position: u64, data: &[u8]) -> io::Result<()> {
        let file = self.file(segment).await?;
        let mut written = 0;
        while written < data.len() {
            // A short write past the cache ends on a block, else going on from there is refused.
            match file.write(position + written as u64, &data[written..]).await {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(more) => written += more,
                Err(error) => {
                    // The journal goes on in a new segment, which is better opened otherwise.
                    self.direct &= error.kind() != io::ErrorKind::Unsupported;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn sync(&mut self, segment: u64) -> io::Result<()> {
        self.file(segment).await?.sync().await
    }

    async fn read(
        &mut self,
        segment: u64,
        position: u64,
        bytes: usize,
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        buffer.clear();
        let file = self.file(segment).await?;
        while buffer.len() < bytes {
            let before = buffer.len();
            file.read(position + before as u64, bytes - before, buffer).await?;
            if buffer.len() == before {
                break;
            }
        }
        Ok(())
    }

    async fn truncate(&mut self, segment: u64, bytes: u64) -> io::Result<()> {
        self.close(segment).await?;
        self.plain.truncate(segment, bytes).await
    }

    async fn remove(&mut self, segment: u64) -> io::Result<()> {
        self.close(segment).await?;
        self.plain.remove(segment).await
    }

    async fn quarantine(&mut self, segment: u64) -> io::Result<()> {
        self.plain.quarantine(segment).await
    }
}

/// Hears the bell through the executor: one of its tasks reads the pipe.
pub struct RingBell(Rc<Signal>);

#[derive(Default)]
struct Signal {
    rung: Cell<bool>,
    over: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    fn ring(&self) {
        self.rung.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Bell for RingBell {
    fn poll_rung(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.0.rung.take() {
            return Poll::Ready(());
        }
        self.0.waker.replace(Some(context.waker().clone()));
        Poll::Pending
    }

    async fn wait(&mut self, timeout_ms: u64) {
        let mut timer = pin!(Timer::new(Duration::from_millis(timeout_ms)));
        poll_fn(|context| match self.poll_rung(context) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => timer.as_mut().poll(context).map(drop),
        })
        .await;
    }
}

/// Runs `work` on an executor of this thread; `bell` is a pipe's reading end, and `ring` writes to
/// it.
///
/// # Errors
/// Why there can be no executor, in words; then `work` was not begun.
pub fn run_ring<T>(
    bell: &OwnedFd,
    ring: impl Fn(),
    work: impl AsyncFnOnce(RingBell) -> T,
) -> Result<T, String> {
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .name("storage")
        .io_memory(STORAGE_IO_BYTES)
        .ring_depth(STORAGE_RING_ENTRIES)
        .make()
        .map_err(|error| error.to_string())?;
    let path = format!("/proc/self/fd/{}", bell.as_raw_fd());
    executor.run(async {
        let pipe = BufferedFile::open(&path).await.map_err(|error| error.to_string())?;
        let signal = Rc::new(Signal::default());
        let hearing = glommio::spawn_local(hear(pipe, signal.clone()));
        let result = work(RingBell(signal.clone())).await;
        // The read in flight ends before the executor does.
        signal.over.set(true);
        ring();
        hearing.await;
        Ok(result)
    })
}

async fn hear(pipe: BufferedFile, signal: Rc<Signal>) {
    while !signal.over.get() {
        if let Err(error) = pipe.read_at(0, 64).await {
            // Without the bell nobody would be heard again.
            panic!("the bell of the storage thread: {error}");
        }
        signal.ring();
    }
    let _ = pipe.close().await;
}
