//! A process that ends itself right after a step of the disk: what it had acknowledged is there.
//!
//! **Runs on: any.**

use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use rustix::process::Signal;

use super::super::super::disk::plain::PlainDisk;
use super::*;

/// A folder whose process ends, without any cleaning up, after so many operations of a kind.
struct AbortingDisk {
    disk: PlainDisk,
    step: String,
    left: u32,
}

impl AbortingDisk {
    fn did<T>(&mut self, step: &str, result: io::Result<T>) -> io::Result<T> {
        if self.step == step {
            self.left -= 1;
            if self.left == 0 {
                std::process::abort();
            }
        }
        result
    }
}

impl Disk for AbortingDisk {
    async fn list(&mut self) -> io::Result<Vec<Listed>> {
        self.disk.list().await
    }

    async fn create(&mut self, segment: u64, bytes: u64) -> io::Result<()> {
        let result = self.disk.create(segment, bytes).await;
        self.did("create", result)
    }

    async fn write(&mut self, segment: u64, position: u64, data: &[u8]) -> io::Result<()> {
        let result = self.disk.write(segment, position, data).await;
        self.did("write", result)
    }

    async fn sync(&mut self, segment: u64) -> io::Result<()> {
        let result = self.disk.sync(segment).await;
        self.did("sync", result)
    }

    async fn read(
        &mut self,
        segment: u64,
        position: u64,
        bytes: usize,
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        self.disk.read(segment, position, bytes, buffer).await
    }

    async fn truncate(&mut self, segment: u64, bytes: u64) -> io::Result<()> {
        let result = self.disk.truncate(segment, bytes).await;
        self.did("truncate", result)
    }

    async fn remove(&mut self, segment: u64) -> io::Result<()> {
        let result = self.disk.remove(segment).await;
        self.did("remove", result)
    }

    async fn quarantine(&mut self, segment: u64) -> io::Result<()> {
        self.disk.quarantine(segment).await
    }
}

/// Not a test of its own: the process that ends itself.
#[test]
fn child_that_ends_itself() {
    let Ok(folder) = std::env::var("TRINE_TEST_FOLDER") else { return };
    let Ok(abort) = std::env::var("TRINE_TEST_ABORT") else { return };
    let (step, left) = abort.split_once(':').expect("STEP:COUNT");
    let (step, left) = (step.to_owned(), left.parse().unwrap());
    let path = PathBuf::from(&folder);
    let open = move || {
        let disk = PlainDisk::open(&path)?;
        Ok(AbortingDisk { disk, step: step.clone(), left })
    };
    let options = Options { quota_bytes: 256 << 20, ..SPOOL };
    let (_storage, mut stores) =
        start_on(setup(PathBuf::from(folder), options, 1), open).expect("it starts");
    let store = &mut stores[0];
    let (a, _, begin, _) = open_any(store, "a", false);
    let (cursor, ..) = open_any(store, "a", true);
    let mut released = 0;
    // Records of 60 KB: segments are soon full, and released soon after. Whole ones are written
    // before some of the steps, on whatever disk there is.
    let load = Load { begin, window: 16, bytes: 60_000 };
    append_and_tell(store, a, load, 4 * PATIENCE, |store, durable| {
        if durable >= released + 200 {
            released = durable - 100;
            let value = begin + released;
            let _ = store.try_send(Request::MoveCursor { cursor, value });
            let _ = store.try_send(Request::Release { stream: a, offset: value });
        }
    });
}

/// What `folder` has of stream `a`.
fn look(folder: &Path) -> Vec<StoredRecord> {
    let options = Options { quota_bytes: 256 << 20, ..SPOOL };
    let (storage, mut stores) = start(setup(folder.to_owned(), options, 1)).unwrap();
    let store = &mut stores[0];
    let a = stream(store, "a");
    let records = read_all(store, a);
    assert_eq!(storage.state().recovery().expect("it is open").damaged, 0);
    storage.stop(PATIENCE).unwrap();
    records
}

#[test]
fn an_abort_after_any_step_leaves_what_was_acknowledged() {
    let steps = ["create:1", "write:1", "sync:1", "write:7", "sync:7", "create:2", "remove:1"];
    for step in steps {
        let folder = Folder::new(&format!("abort-{}", step.replace(':', "-")));
        // Twice, so that the second begins with what the first has left.
        let mut acked_end = 0;
        for _ in 0..2 {
            let mut command = child("abort::child_that_ends_itself", &folder);
            command.env("TRINE_TEST_ABORT", step).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            for (token, offset) in acked(&mut child) {
                assert_eq!(token, offset, "one shard appends to it");
                acked_end = offset + 1;
            }
            let ended = child.wait().unwrap().signal();
            assert_eq!(
                ended,
                Some(Signal::ABORT.as_raw()),
                "{step}: it ended otherwise, {acked_end}"
            );
            let records = look(&folder.0);
            check_order(&records);
            let end = records.last().map_or(acked_end, |record| record.offset + 1);
            assert!(end >= acked_end, "{step}: {acked_end} were acknowledged, {end} are there");
            let first = records.first().map_or(end, |record| record.offset);
            assert_eq!(records.len() as u64, end - first, "{step}: no gap");
        }
    }
}
