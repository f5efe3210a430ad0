//! Buffers of the thread for encoding into, so that a message costs no allocation on its way to an
//! outbox or into a batch.
//!
//! **Runs on: any.**

use crate::limits::{RECORD_BODY_KEEP_BYTES, SCRATCH_KEEP_BYTES};
use bytes::Bytes;
use std::cell::Cell;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static BODY: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
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

/// An empty buffer for a record's body, with room for `bytes`: the one that was given back last.
pub fn body(bytes: usize) -> Vec<u8> {
    let mut body = BODY.take();
    body.reserve(bytes);
    body
}

/// Takes the memory of a body whose bytes are elsewhere now, unless somebody still has it.
pub fn give_back_body(body: Bytes) {
    let Ok(mut body) = body.try_into_mut() else { return };
    body.clear();
    let body = Vec::from(body);
    if body.capacity() <= RECORD_BODY_KEEP_BYTES {
        BODY.set(body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_is_given_back_is_the_next_ones_memory() {
        let mut first = body(300);
        first.extend_from_slice(b"a record");
        let memory = first.as_ptr();
        give_back_body(Bytes::from(first));
        let next = body(200);
        assert_eq!((next.as_ptr(), next.len()), (memory, 0));

        let kept = Bytes::from(next);
        give_back_body(kept.clone());
        let next = body(200);
        assert_ne!(next.as_ptr(), memory, "somebody still has it");
        drop(kept);

        give_back_body(Bytes::from(body(RECORD_BODY_KEEP_BYTES + 1)));
        assert!(body(1).capacity() <= RECORD_BODY_KEEP_BYTES, "no large one is kept");
    }
}
