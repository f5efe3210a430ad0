//! What the system lends this program: descriptors and locked memory.
//!
//! **Runs on: control**, before the data process is started, which inherits the limits.

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::limits::{
    DESCRIPTORS_COMFORTABLE, DESCRIPTORS_MIN, DESCRIPTORS_RESERVED,
    LOCKED_MEMORY_COMFORTABLE_BYTES, LOCKED_MEMORY_RING_BYTES,
};

/// Raises the soft limit of descriptors to the hard one. Returns what an operator should know.
///
/// # Errors
/// When there are so few descriptors that nobody could be served.
pub(super) fn prepare() -> Result<Vec<String>, String> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refused only in a sandbox; then what is there has to do.
    let _ = setrlimit(Resource::Nofile, limit);
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let mut warnings = Vec::new();
    if descriptors < DESCRIPTORS_MIN {
        return Err(format!(
            "only {descriptors} file descriptors are allowed, {DESCRIPTORS_MIN} are needed at \
             least; raise the limit (`ulimit -Hn`, LimitNOFILE= in systemd)"
        ));
    }
    if descriptors < DESCRIPTORS_COMFORTABLE {
        warnings.push(format!(
            "{descriptors} file descriptors are enough for about {} connections; raise the limit \
             (`ulimit -Hn`, LimitNOFILE= in systemd) for more",
            descriptors - DESCRIPTORS_RESERVED
        ));
    }
    let locked = getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX);
    if locked < LOCKED_MEMORY_COMFORTABLE_BYTES {
        warnings.push(format!(
            "{locked} bytes of locked memory are enough for {} shards on io_uring where the kernel \
             counts their rings (before 5.12), others run on epoll; raise the limit (`ulimit -l`, \
             LimitMEMLOCK= in systemd) for more",
            locked / LOCKED_MEMORY_RING_BYTES
        ));
    }
    Ok(warnings)
}
