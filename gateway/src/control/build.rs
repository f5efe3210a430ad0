//! Which build this is, and which configuration.
//!
//! **Runs on: any**, at start.

use std::os::unix::fs::MetadataExt;

/// The program's version and a mark of the very file that runs, so that two builds of one version
/// are told apart. A copied file counts as another build; that costs a notice, no more.
pub fn build() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match std::fs::metadata("/proc/self/exe") {
        Ok(file) => {
            let seconds = file.mtime().to_le_bytes();
            let parts = [file.size().to_le_bytes(), seconds, file.mtime_nsec().to_le_bytes()];
            format!("{version}+{:08x}", hash(&parts.concat()) as u32)
        }
        Err(_) => version.to_owned(),
    }
}

/// A short name for a configuration: equal ones have equal fingerprints, in every build.
pub fn fingerprint<T: serde::Serialize>(config: &T) -> String {
    let text = serde_json::to_vec(config).unwrap_or_default();
    format!("{:016x}", hash(&text))
}

/// FNV-1a: stable over builds, which the standard library's hasher does not promise.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
