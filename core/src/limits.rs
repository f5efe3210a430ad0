//! Every limit of the engine, with its unit and its reason.
//!
//! **Runs on: any.** A limit that a config key moves names the key; the others are properties of
//! the mechanism and need no key.

/// Bytes of an ordinary receive chunk: holds several chat-sized messages, fits the L1 cache.
pub const CHUNK_BYTES: usize = 4 << 10;
/// Bytes of the chunk a stream gets after it filled an ordinary one: bulk senders need fewer calls.
pub const LARGE_CHUNK_BYTES: usize = 64 << 10;
/// Chunks of each size that a shard's pool keeps; beyond it they go back to the allocator.
pub const POOLED_CHUNKS: usize = 256;
/// Bytes up to which pieces of output are copied together: measured cheaper than an iovec each.
pub const FLAT_BYTES: usize = 4 << 10;
/// Pieces gathered in one send: bounds the iovec list that the kernel must copy in.
pub const PIECES_PER_SEND: usize = 256;
/// Entries of the submission queue: more are submitted early, so this bounds memory, not work.
pub const SUBMISSION_ENTRIES: u32 = 2048;
/// Entries of the completion queue: room for every connection of a burst without an overflow.
pub const COMPLETION_ENTRIES: u32 = 16384;
/// Messages of one mailbox (an ordered pair of shards), at most: a burst of one turn.
pub const MAILBOX_MESSAGES: usize = 1024;
/// Messages of all mailboxes into one shard: bounds memory on machines with many shards.
pub const MAILBOX_MESSAGES_PER_SHARD: usize = 16384;
/// Milliseconds of one slot of a shard's timer wheel: deadlines here are seconds, not micros.
pub const TIMER_SLOT_MS: u64 = 64;
/// Slots of the timer wheel (a power of two): one turn of it is 65 seconds.
pub const TIMER_SLOTS: usize = 1024;
