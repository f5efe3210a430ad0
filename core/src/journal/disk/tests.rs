//! Segments as files in a real folder.
//!
//! **Runs on: any.**

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;

use super::plain::PlainDisk;
use super::{Disk, at_once};

/// A folder of its own, with its disk.
struct Folder {
    path: PathBuf,
    disk: PlainDisk,
}

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("trine-disk-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        let disk = PlainDisk::open(&path).expect("a new folder");
        Self { path, disk }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[test]
fn a_replaced_segment_keeps_its_owner_and_mode() {
    let mut folder = Folder::new("replaced");
    at_once(folder.disk.create(1, 4096)).expect("there is room");
    let path = folder.disk.path(1);
    // Only root may, and for all others it has the right owner anyhow.
    let _ = chown(&path, Some(4321), Some(1234));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("it is ours");
    let of = || {
        let status = fs::metadata(&path).expect("it is there");
        (status.uid(), status.gid(), status.mode())
    };
    let before = of();
    folder.disk.replace(1, b"other bytes").expect("there is room");
    assert_eq!((of(), fs::read(&path).expect("readable")), (before, b"other bytes".to_vec()));
}
