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
/// Descriptors in one piece of a link's message: the kernel's `SCM_MAX_FD`.
pub const LINK_CHUNK_FDS: usize = 253;
/// Descriptors in one message of a link: three for each of 1,024 shards, and room to spare.
pub const LINK_FDS: usize = 4096;
/// Bytes of one message of a link: plan and configuration take some KiB.
pub const LINK_PAYLOAD_BYTES: usize = 16 << 20;
/// Bytes of a block of the journal: what disks write whole, and what O_DIRECT asks for.
pub const BLOCK_BYTES: usize = 4 << 10;
/// Bytes of a journal's segment, at most: few files, and yet old ones go in small steps.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Bytes of one commit, at most: two of the largest records, a few milliseconds of writing.
pub const COMMIT_BYTES: usize = 2 << 20;
/// Bytes of one record's payload, at most: what Kafka takes by default (`message.max.bytes`).
pub const RECORD_BYTES: usize = 1 << 20;
/// Streams and cursors of one journal: each is named anew in every segment.
pub const JOURNAL_STREAMS: usize = 65_536;
/// Bytes that may wait for the disk: some commits, so that a stall of it is felt soon.
pub const JOURNAL_PENDING_BYTES: usize = 16 << 20;
/// Bytes of the newest commits kept in memory: readers at the end don't go to the disk.
pub const JOURNAL_CACHE_BYTES: usize = 16 << 20;
/// New segments tried at once when the disk fails: one bad file is not yet a bad disk.
pub const JOURNAL_RETRIES: u32 = 3;
/// Milliseconds before a failing disk is tried again.
pub const JOURNAL_RETRY_MS: u64 = 1000;
/// Milliseconds that a moved cursor may wait for other records to be committed with.
pub const CURSOR_DELAY_MS: u64 = 50;
