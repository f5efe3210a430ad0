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
/// Receives of one stream that did not have to wait, before other sockets are looked at.
pub const RECEIVES_IN_A_ROW: u8 = 16;
/// Rounds of sends at one turn's end that complete at once, before other sockets are looked at.
pub const SEND_ROUNDS: usize = 8;
/// Nanoseconds after which what comes is counted, once resting has begun or ended.
pub const GATHER_SETTLE_NS: u64 = 4_000_000;
/// Nanoseconds over which it is counted: long enough for what comes in bursts to even out.
pub const GATHER_PERIOD_NS: u64 = 16_000_000;
/// Pairs of a period without rests and one with them before rests are found to hold up nothing.
pub const GATHER_PAIRS: u32 = 3;
/// Periods after which what comes without rests is counted anew: a second.
pub const GATHER_PERIODS: u32 = 62;
/// Nanoseconds without rests after they were seen to hold up what comes; doubled each time …
pub const GATHER_PAUSE_NS: u64 = 200_000_000;
/// … up to this: what is tried in vain takes less than a hundredth of the time with its first pair,
/// which mostly is its last, and two hundredths with all three.
pub const GATHER_PAUSE_LIMIT_NS: u64 = 3_200_000_000;
/// Entries of the submission queue: more are submitted early, so this bounds memory, not work.
pub const SUBMISSION_ENTRIES: u32 = 2048;
/// Entries of the completion queue: room for every connection of a burst without an overflow.
pub const COMPLETION_ENTRIES: u32 = 16384;
/// Messages of one mailbox (an ordered pair of shards), at most: a burst of one turn.
pub const MAILBOX_MESSAGES: usize = 1024;
/// Messages of all mailboxes into one shard: bounds memory on machines with many shards.
pub const MAILBOX_MESSAGES_PER_SHARD: usize = 16384;
/// Messages taken from one mailbox before the next is looked at: enough to keep its cache lines.
pub const MAILBOX_MESSAGES_IN_A_ROW: usize = 64;
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
/// Requests of one shard that may wait in its queue to the storage thread: some turns' work.
pub const STORAGE_REQUESTS: usize = 4096;
/// Answers that may wait in the queue back: as many as requests.
pub const STORAGE_ANSWERS: usize = 4096;
/// Requests of one shard that the storage thread has taken and not answered: beyond it they stay in
/// the queue, so that it fills and the shard feels it.
pub const STORAGE_OUTSTANDING: usize = 16_384;
/// Reads of one shard that may wait for records: a partition of each consumer group has one.
pub const STORAGE_WAITING_READS: usize = 4096;
/// Bytes of a stream's or cursor's name: the longest Kafka topic (249), a partition, a group.
pub const STREAM_NAME_BYTES: usize = 1024;
/// Bytes of payloads in the answer to one read, at most (a record that is larger comes alone).
pub const STORAGE_READ_BYTES: usize = 1 << 20;
/// Bytes that one read of the disk gets at least, where they are there: old records are mostly
/// read one after another.
pub const STORAGE_READ_AHEAD_BYTES: usize = 256 << 10;
/// Bytes of old commits that were read from the disk, kept for the next read.
pub const STORAGE_READ_CACHE_BYTES: usize = 4 << 20;
/// Milliseconds that the storage thread sleeps at most: old segments go by age with nobody asking.
pub const STORAGE_TICK_MS: u64 = 10_000;
/// Milliseconds before a folder that could not be opened is tried again.
pub const STORAGE_RETRY_MS: u64 = 1000;
/// Milliseconds that a start waits for the folder's lock: the process before may be going just now.
pub const STORAGE_LOCK_MS: u64 = 1000;
/// Milliseconds between two looks at a lock that another process holds.
pub const STORAGE_LOCK_STEP_MS: u64 = 10;
/// Milliseconds that a closed journal waits for shards to take its last answers.
pub const STORAGE_CLOSE_MS: u64 = 1000;
/// Connections of one shard to one upstream, leased and idle: legacy backends often take a few
/// hundred in all.
pub const UPSTREAM_CONNECTIONS: usize = 64;
/// Calls of one shard that wait for a connection: more would only wait to time out.
pub const UPSTREAM_WAITING: usize = 1024;
/// Milliseconds that a call waits for a connection.
pub const UPSTREAM_WAIT_MS: u64 = 2000;
/// Milliseconds of one connect: a lost SYN is sent again after one second.
pub const UPSTREAM_CONNECT_MS: u64 = 2000;
/// Milliseconds in which a connection in use must send or receive something.
pub const UPSTREAM_INACTIVITY_MS: u64 = 5000;
/// Milliseconds that an unused connection is kept.
pub const UPSTREAM_IDLE_MS: u64 = 30_000;
/// Milliseconds of a whole call: ends a response that trickles in for ever.
pub const UPSTREAM_CALL_MS: u64 = 60_000;
/// Milliseconds that an endpoint is skipped after a connect to it failed.
pub const UPSTREAM_BACKOFF_MS: u64 = 1000;
/// Milliseconds after which a lease is reported with its holder: above the longest call.
pub const UPSTREAM_LEASE_MS: u64 = 90_000;
/// Bytes of a response's body that is taken whole.
pub const UPSTREAM_RESPONSE_BYTES: usize = 1 << 20;
/// Bytes of a request's body sent at once: a slow upstream takes a piece within its inactivity time.
pub const UPSTREAM_PIECE_BYTES: usize = 256 << 10;
/// Interim responses (1xx) before a final one: nobody needs more than Continue and some hints.
pub const UPSTREAM_INTERIM_RESPONSES: usize = 8;
/// Batches of one partition in flight: a broker remembers the last five of a producer (KIP-98).
pub const PRODUCE_IN_FLIGHT: usize = 5;
/// Unanswered produce requests of one broker: it answers one at a time, more would wait there.
pub const PRODUCE_REQUESTS_IN_FLIGHT: usize = 5;
/// Milliseconds before a batch that met an error is sent again; doubled with each error.
pub const PRODUCE_RETRY_MS: u64 = 20;
/// Milliseconds of that wait, at most: what the Java client waits.
pub const PRODUCE_RETRY_MAX_MS: u64 = 1000;
/// Milliseconds of silence after which a broker may have forgotten a producer: far less than
/// Kafka's `producer.id.expiration.ms` (a day) and any retention that makes sense.
pub const PRODUCE_SILENCE_MS: u64 = 60_000;
/// Buffers of acknowledged batches kept for the next ones: five of each of some partitions.
pub const PRODUCE_SPARE_BUFFERS: usize = 64;
/// Requests of one connection to a broker that wait for answers, at most: five produce requests, or
/// a fetch and what goes with it, and room to spare.
pub const KAFKA_UNANSWERED: usize = 64;
/// Milliseconds after which a connection looks at its requests' deadlines although nothing came.
pub const KAFKA_LOOK_MS: u64 = 1000;
/// Milliseconds between two looks for metadata, at least, so that errors do not make a storm; doubled
/// while something stays open, as a topic that nobody has created.
pub const KAFKA_METADATA_PAUSE_MS: u64 = 50;
/// Milliseconds of that pause, at most.
pub const KAFKA_METADATA_PAUSE_MAX_MS: u64 = 1000;
/// Milliseconds after which metadata are asked for again although nothing is wrong: what other
/// clients take (`metadata.max.age.ms`).
pub const KAFKA_METADATA_AGE_MS: u64 = 300_000;
/// Milliseconds before a broker that failed is tried again, doubled with each failure.
pub const KAFKA_RECONNECT_MS: u64 = 50;
/// Milliseconds of that wait, at most.
pub const KAFKA_RECONNECT_MAX_MS: u64 = 1000;
/// Files of segments kept open: readers go back and forth between few, and a large journal has
/// thousands.
pub const OPEN_SEGMENTS: usize = 64;
/// Bytes of the storage thread's registered memory for each of glommio's three rings: 3 MiB, below
/// the 8 MiB that a process may lock by default.
pub const STORAGE_IO_BYTES: usize = 1 << 20;
/// Entries of the storage thread's rings: one operation of the disk, the bell, some timers.
pub const STORAGE_RING_ENTRIES: usize = 16;
/// Milliseconds that a broker waits for records before it answers a fetch with none: what other
/// clients take (`fetch.max.wait.ms`).
pub const KAFKA_FETCH_WAIT_MS: u64 = 500;
/// The same while a partition has records that its reader has no room for yet: it soon will, and
/// then has to wait for the answer. Doubled with each answer that has no records.
pub const KAFKA_FETCH_BACKLOG_WAIT_MS: u64 = 10;
/// Bytes of one fetch's answer, at most, if one batch is not more.
pub const KAFKA_FETCH_BYTES: usize = 8 << 20;
/// Bytes of one partition in it: what a reader may ask for at once.
pub const KAFKA_FETCH_PARTITION_BYTES: usize = 1 << 20;
/// Milliseconds before a group's or a partition's request that failed is tried again, doubled with
/// each failure.
pub const KAFKA_RETRY_MS: u64 = 50;
/// Milliseconds of that wait, at most.
pub const KAFKA_RETRY_MAX_MS: u64 = 1000;
/// Milliseconds before something is tried again that a broker refuses for good: an administrator
/// may change it.
pub const KAFKA_REFUSED_MS: u64 = 5000;
/// Milliseconds between two heartbeats, at most: what other clients take.
pub const KAFKA_HEARTBEAT_MS: u64 = 3000;
/// Milliseconds that a group's leader waits to know the partitions of all topics.
pub const KAFKA_ASSIGN_WAIT_MS: u64 = 2000;
/// Milliseconds between two commits, so that deliveries of many turns share one.
pub const KAFKA_COMMIT_DELAY_MS: u64 = 100;
/// Epochs of a partition's leaders that are remembered: as many changes of the leader within what is
/// delivered and not committed are rare, and an older one is only not checked.
pub const KAFKA_EPOCHS_KEPT: usize = 16;
/// Milliseconds after which the end of a partition that is not fetched is asked for, for its lag.
pub const KAFKA_LAG_MS: u64 = 5000;
/// Bytes that the batches of one partition in a fetch's answer inflate to, if one batch is not more:
/// small batches may inflate to a thousand times their size.
pub const KAFKA_INFLATED_BYTES: usize = 8 << 20;
/// Bytes that all batches of a fetch's answer inflate to, if one partition's are not more: what comes
/// of as many full partitions as fit in it.
pub const KAFKA_FETCH_INFLATED_BYTES: usize =
    KAFKA_FETCH_BYTES / KAFKA_FETCH_PARTITION_BYTES * KAFKA_INFLATED_BYTES;
/// Brokers of a cluster that are known at a time, and that partitions were ever led by: many times
/// what the largest clusters have.
pub const KAFKA_BROKERS: usize = 4096;
/// Characters kept of what a broker says to credentials: a sentence for the log and the status.
pub const KAFKA_SASL_CHARACTERS: usize = 500;
/// Bytes of a broker's host by its own word: no name in the DNS is longer.
pub const KAFKA_HOST_BYTES: usize = 253;
