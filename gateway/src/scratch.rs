//! A buffer of the thread for encoding into, so that a message costs no allocation on its way to
//! an outbox.
//!
//! **Runs on: any.**

use crate::limits::SCRATCH_KEEP_BYTES;
use std::cell::Cell;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Calls `with` with an empty buffer. Calls may nest; the inner one gets a buffer of its own.
pub fn with<R>(with: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let mut buffer = SCRATCH.take();
    buffer.clear();
    let result = with(&mut buffer);
    if buffer.capacity() <= SCRATCH_KEEP_BYTES {
        SCRATCH.set(buffer);
    }
    result
}
