//! Buffers of a shard: pooled receive chunks and the outbox of a connection.
//!
//! **Runs on: shard.** The pools are thread-local, so a chunk never leaves the thread that
//! allocated it. An idle connection holds no buffer: its chunk is back in the pool when its bytes
//! have been read, its outbox owns nothing while it is empty.

use crate::limits::{CHUNK_BYTES, FLAT_BYTES, LARGE_CHUNK_BYTES, PIECES_PER_SEND, POOLED_CHUNKS};
use bytes::Bytes;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Gives pages that this thread has freed back to the system, once they have been free for the
/// allocator's purge delay: by itself the allocator looks at them only when a thread allocates
/// much, and a shard that has become quiet would keep what a storm of connections took.
pub fn give_back() {
    // SAFETY: mimalloc allows this call on any thread at any time; it touches nothing in use, also
    // where the program allocates with something else.
    #[allow(unsafe_code)]
    unsafe {
        libmimalloc_sys::mi_collect(false);
    }
}

/// What one receive brought, in memory of the shard's pool; dropping it gives the memory back.
pub struct Chunk(Vec<u8>);

impl Chunk {
    /// An empty chunk with room for [`CHUNK_BYTES`], or [`LARGE_CHUNK_BYTES`] when `large`.
    pub fn take(large: bool) -> Self {
        let pooled = POOL.with_borrow_mut(|pool| pool.chunks(large).pop());
        let capacity = if large { LARGE_CHUNK_BYTES } else { CHUNK_BYTES };
        Self(pooled.unwrap_or_else(|| Vec::with_capacity(capacity)))
    }

    /// The memory itself, for the receive call.
    pub(crate) fn vec_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// Bytes that fit beside those that it holds.
    pub fn room(&self) -> usize {
        self.0.capacity() - self.0.len()
    }

    /// Whether no more bytes fit.
    pub fn is_full(&self) -> bool {
        self.0.len() == self.0.capacity()
    }
}

impl Deref for Chunk {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Chunk {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let mut memory = std::mem::take(&mut self.0);
        memory.clear();
        // At thread exit the pool may be gone already; then the memory is simply freed.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            let chunks = pool.chunks(memory.capacity() >= LARGE_CHUNK_BYTES);
            if chunks.len() < POOLED_CHUNKS {
                chunks.push(memory);
            }
        });
    }
}

/// Everything one connection sends at one turn's end, handed to [`crate::rt::Stream::send`].
pub enum Outgoing {
    /// One piece, shared with other connections: sent from where it lies.
    Shared(Bytes),
    /// Small pieces, copied together.
    Flat(Vec<u8>),
    /// Large pieces, gathered: at most [`PIECES_PER_SEND`].
    Gathered(Vec<Bytes>),
}

impl Outgoing {
    /// Bytes in all pieces.
    pub fn len(&self) -> usize {
        match self {
            Self::Shared(piece) => piece.len(),
            Self::Flat(bytes) => bytes.len(),
            Self::Gathered(pieces) => pieces.iter().map(Bytes::len).sum(),
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives the memory back to the shard's pool.
    pub fn recycle(self) {
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            match self {
                Self::Shared(_) => {}
                Self::Flat(mut bytes) => {
                    bytes.clear();
                    if bytes.capacity() == FLAT_BYTES && pool.flats.len() < POOLED_CHUNKS {
                        pool.flats.push(bytes);
                    }
                }
                Self::Gathered(mut pieces) => {
                    pieces.clear();
                    if pool.lists.len() < POOLED_CHUNKS {
                        pool.lists.push(pieces);
                    }
                }
            }
        });
    }
}

/// What waits to be sent to one connection, in order. The caller enforces the limit by
/// [`Outbox::bytes`]; the outbox itself refuses nothing.
#[derive(Default)]
pub struct Outbox {
    pieces: Pieces,
    bytes: usize,
}

#[derive(Default)]
enum Pieces {
    #[default]
    Empty,
    Shared(Bytes),
    Flat(Vec<u8>),
    Gathered(Vec<Bytes>),
}

impl Outbox {
    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends a piece that other connections get too; it is copied only beside other small ones.
    #[inline]
    pub fn push_shared(&mut self, piece: &Bytes) {
        if piece.is_empty() {
            return;
        }
        self.bytes += piece.len();
        match &mut self.pieces {
            Pieces::Empty => self.pieces = Pieces::Shared(piece.clone()),
            Pieces::Flat(flat) if flat.len() + piece.len() <= FLAT_BYTES => {
                flat.extend_from_slice(piece);
            }
            Pieces::Shared(first) if first.len() + piece.len() <= FLAT_BYTES => {
                let mut flat = take_flat();
                flat.extend_from_slice(first);
                flat.extend_from_slice(piece);
                self.pieces = Pieces::Flat(flat);
            }
            _ => self.gathered().push(piece.clone()),
        }
    }

    /// Appends a piece of this connection alone: `head` followed by `body`.
    #[inline]
    pub fn push_copy(&mut self, head: &[u8], body: &[u8]) {
        let length = head.len() + body.len();
        if length == 0 {
            return;
        }
        self.bytes += length;
        if length > FLAT_BYTES {
            self.gathered().push([head, body].concat().into());
            return;
        }
        match &mut self.pieces {
            Pieces::Empty => self.pieces = Pieces::Flat(take_flat()),
            Pieces::Shared(first) if first.len() + length <= FLAT_BYTES => {
                let mut flat = take_flat();
                flat.extend_from_slice(first);
                self.pieces = Pieces::Flat(flat);
            }
            _ => {}
        }
        if let Pieces::Flat(flat) = &mut self.pieces
            && flat.len() + length <= FLAT_BYTES
        {
            flat.extend_from_slice(head);
            flat.extend_from_slice(body);
            return;
        }
        self.gathered().push([head, body].concat().into());
    }

    /// Takes what the next send shall carry, in order; `None` when nothing waits.
    #[inline]
    pub fn take(&mut self) -> Option<Outgoing> {
        let outgoing = match std::mem::take(&mut self.pieces) {
            Pieces::Empty => return None,
            Pieces::Shared(piece) => Outgoing::Shared(piece),
            Pieces::Flat(flat) => Outgoing::Flat(flat),
            Pieces::Gathered(mut list) => {
                if list.len() > PIECES_PER_SEND {
                    let rest = list.split_off(PIECES_PER_SEND);
                    self.pieces = Pieces::Gathered(rest);
                }
                Outgoing::Gathered(list)
            }
        };
        self.bytes -= outgoing.len();
        Some(outgoing)
    }

    /// Drops everything that waits.
    pub fn clear(&mut self) {
        while let Some(outgoing) = self.take() {
            outgoing.recycle();
        }
        assert_eq!(self.bytes, 0, "an empty outbox holds no bytes");
    }

    fn gathered(&mut self) -> &mut Vec<Bytes> {
        if !matches!(self.pieces, Pieces::Gathered(_)) {
            let mut list = POOL.with_borrow_mut(|pool| pool.lists.pop()).unwrap_or_default();
            match std::mem::take(&mut self.pieces) {
                Pieces::Shared(piece) => list.push(piece),
                Pieces::Flat(flat) => list.push(flat.into()),
                Pieces::Empty | Pieces::Gathered(_) => {}
            }
            self.pieces = Pieces::Gathered(list);
        }
        match &mut self.pieces {
            Pieces::Gathered(list) => list,
            _ => unreachable!("the line above made it so"),
        }
    }
}

#[derive(Default)]
struct Pool {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    flats: Vec<Vec<u8>>,
    lists: Vec<Vec<Bytes>>,
}

impl Pool {
    fn chunks(&mut self, large: bool) -> &mut Vec<Vec<u8>> {
        if large { &mut self.large } else { &mut self.small }
    }
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::new(Pool::default());
}

fn take_flat() -> Vec<u8> {
    POOL.with_borrow_mut(|pool| pool.flats.pop()).unwrap_or_else(|| Vec::with_capacity(FLAT_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(outbox: &mut Outbox) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(outgoing) = outbox.take() {
            match &outgoing {
                Outgoing::Shared(piece) => all.extend_from_slice(piece),
                Outgoing::Flat(flat) => all.extend_from_slice(flat),
                Outgoing::Gathered(list) => {
                    assert!(list.len() <= PIECES_PER_SEND);
                    list.iter().for_each(|piece| all.extend_from_slice(piece));
                }
            }
            outgoing.recycle();
        }
        all
    }

    proptest! {
        #[test]
        fn outbox_keeps_order_and_counts_bytes(
            pieces in prop::collection::vec((any::<bool>(), 0usize..6000, any::<u8>()), 0..300),
        ) {
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for (shared, length, fill) in pieces {
                let piece = vec![fill; length];
                expected.extend_from_slice(&piece);
                if shared {
                    outbox.push_shared(&Bytes::from(piece));
                } else {
                    let (head, body) = piece.split_at(length / 3);
                    outbox.push_copy(head, body);
                }
                prop_assert_eq!(outbox.bytes(), expected.len());
            }
            prop_assert_eq!(drain(&mut outbox), expected);
            prop_assert!(outbox.is_empty());
        }
    }

    #[test]
    fn a_lone_shared_piece_is_not_copied() {
        let piece = Bytes::from(vec![7; 200]);
        let mut outbox = Outbox::default();
        outbox.push_shared(&piece);
        let Some(Outgoing::Shared(out)) = outbox.take() else { panic!("one shared piece") };
        assert_eq!(out.as_ptr(), piece.as_ptr());
    }

    #[test]
    fn chunks_come_back_to_the_pool() {
        let address = {
            let mut chunk = Chunk::take(false);
            chunk.vec_mut().push(1);
            chunk.as_ptr()
        };
        let again = Chunk::take(false);
        assert_eq!(again.as_ptr(), address);
        assert!(again.is_empty());
    }
}
