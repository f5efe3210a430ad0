//! Every limit of the gateway that is no setting: its name, its unit, its reason.
//!
//! **Runs on: any.**

use std::time::Duration;

// Control.

/// Connections waiting for accept on one listener; the kernel cuts it to `net.core.somaxconn`
/// (4,096 by default).
pub const BACKLOG: i32 = 4096;
/// Binds tried while an address is in use.
pub const BIND_ATTEMPTS: u32 = 25;
/// Pause between two of them.
pub const BIND_RETRY: Duration = Duration::from_millis(50);
/// How long a new control waits for the lock: the system frees it a moment after the old
/// control's death.
pub const LOCK_WAIT: Duration = Duration::from_millis(500);
/// How long a data process may take from its start to serving.
pub const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a second signal waits for a start under way, to end that process too.
pub const START_GRACE: Duration = Duration::from_secs(1);
/// How long either end of the adoption waits for the other's next message.
pub const LINK_TIMEOUT: Duration = Duration::from_secs(5);
/// Open admin connections; the next waits in the backlog.
pub const ADMIN_CONNECTIONS: usize = 64;
/// Longest life of an admin connection. A scraper simply opens the next.
pub const ADMIN_LIFE: Duration = Duration::from_secs(60);
/// Longest path of a UNIX socket, in bytes (`sun_path` without its final NUL).
pub const SOCKET_PATH_LIMIT_BYTES: usize = 107;
/// Fewer descriptors than this serve nobody: the program ends instead.
pub const DESCRIPTORS_MIN: u64 = 256;
/// Descriptors kept for what is no client: listeners, rings, logs, control's own.
pub const DESCRIPTORS_RESERVED: u64 = 64;
/// Descriptors below which a warning names how many clients they serve.
pub const DESCRIPTORS_COMFORTABLE: u64 = 65_536;
/// Locked memory that a shard's ring takes on kernels that count it (before 5.12).
pub const LOCKED_MEMORY_RING_BYTES: u64 = 2 << 20;
/// Locked memory below which a warning names how many rings it is enough for: what systems that
/// don't count it for rings allow by default.
pub const LOCKED_MEMORY_COMFORTABLE_BYTES: u64 = 8 << 20;
/// How long `trine status` waits for each part of the answer.
pub const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest answer that `trine status` reads: a report's partitions with the longest names.
pub const STATUS_ANSWER_BYTES: u64 = 16 << 20;
/// Records that wait for the log's writer; more are dropped, since a shard must not wait.
pub const LOG_QUEUE_RECORDS: usize = 16_384;
/// How long the end of a process waits for what is queued of its log: a reader that is only slow has
/// read it by then.
pub const LOG_END_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a line for people waits for room in a pipe or terminal: a reader that is only slow has
/// made some by then, and neither a stop nor the end after a panic may wait for one that is not.
pub const OUTPUT_TIMEOUT: Duration = Duration::from_millis(100);
/// Bytes of such a line that are written at once: a pipe with room takes so many without blocking
/// (`PIPE_BUF`).
pub const OUTPUT_PIECE_BYTES: usize = 4096;
/// Records that one call site may write in a second: enough to see what happens.
pub const LOG_RECORDS_PER_SECOND: u32 = 10;
/// Longest time a setting may name: a year. Longer ones are mistakes of unit.
pub const YEAR_MS: u64 = 365 * DAY_MS;
/// A day, in which times of day come once.
pub const DAY_MS: u64 = 24 * 3_600_000;
/// Shards; the pin plan and the set of shards that follow a channel are made for so many.
pub const SHARDS_MAX: usize = 256;

/// Hosts that shards may ask for: the brokers of a large cluster, and some that were replaced.
pub const NAMES_MAX: usize = 4_096;
/// After how long a host is looked up again: it may have moved.
pub const NAMES_REFRESH: Duration = Duration::from_secs(30);
/// How long a name's server may take; the other names wait meanwhile.
pub const NAMES_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a broker may take to make a topic.
pub const CREATE_TOPIC_MS: i32 = 5_000;
/// Pause before topics are looked for again, after the brokers did not answer.
pub const CREATE_TOPICS_PAUSE: Duration = Duration::from_secs(5);
/// How often control looks whether CPUs are to be kept awake: a burst of load is met within that.
pub const AWAKE_INTERVAL: Duration = Duration::from_millis(200);
/// Turns between two looks from which on a CPU is kept awake: where a thousand halts a second would
/// come between them, their delays add up.
pub const AWAKE_TURNS: u64 = 200;
/// Looks in a row without so many turns after which it may halt again: a second.
pub const AWAKE_QUIET_LOOKS: u32 = 5;
/// How often the data process looks at its journals, to say what has changed.
pub const JOURNAL_LOOK: Duration = Duration::from_millis(250);
/// How often the data process reports its journals and consumers, and control asks for it.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Partitions in a report: with the longest names they fit a message of the link. The rest is
/// counted.
pub const REPORT_PARTITIONS: usize = 16_384;
/// Partitions of other programs' groups in a report, beside those of the consumers.
pub const REPORT_WATCHED: usize = 4_096;
/// Damaged places of a journal in a report; their number is whole, and the log names all.
pub const REPORT_DAMAGES: usize = 100;
/// How long a journal may take to write what waits, at the end of the data process.
pub const JOURNAL_CLOSE: Duration = Duration::from_secs(3);
/// How long a record waits for others to be committed with, while the disk is idle.
pub const JOURNAL_GATHER_MS: u64 = 0;

// Edge.

/// Connections of one shard; a client's number must fit beside the flags of a subscriber.
pub const CONNECTIONS_MAX: usize = 1 << 24;
/// Pause after an accept that failed.
pub const ACCEPT_PAUSE_MS: u64 = 50;
/// Bytes of a request body that are read to keep the connection; more closes it.
pub const BODY_BYTES: u64 = 65_536;
/// How long the client may take to answer a close frame, or to read the last answer.
pub const LINGER_MS: u64 = 2_000;
/// Longest wait for room in another shard's mailbox; then the command gets error 100.
pub const MAILBOX_WAIT_MS: u64 = 1_000;
/// Messages taken from the mailboxes in one turn, so that clients wait for a bounded time.
pub const MAILBOX_TURN: usize = 4_096;
/// What the kernel must have taken of a send within `client.write_timeout_ms`, unless that was all:
/// who takes less keeps a large answer in memory for nobody's good.
pub const SEND_PROGRESS_BYTES: u32 = 64 << 10;
/// Connections looked at by one slice of the sweep for sends that make no progress.
pub const SWEEP_CONNECTIONS: usize = 4_096;
/// How long the demo's slow service takes: long enough to be seen, well within an upstream's wait.
pub const DEMO_SLOW_MS: u64 = 1_500;
/// Bytes of a call's body: the longest payload in base64, and what names its channel.
pub const API_BODY_BYTES: usize = (16 << 20) / 3 * 4 + 4096;
/// Pause between two slices.
pub const SWEEP_INTERVAL_MS: u64 = 100;
/// How often a shard gives freed memory back: rarely enough to cost nothing, soon after a storm.
pub const GIVE_BACK_INTERVAL_MS: u64 = 1_000;
/// A turn that took longer is a stall: counted and logged.
pub const STALL_MS: u64 = 100;
/// How often a shard publishes its gauges.
pub const GAUGES_INTERVAL_MS: u64 = 250;
/// How long a draining shard waits for its clients to take the close frame.
pub const DRAIN_MS: u64 = 3_000;
/// Message limit of the echo listener.
pub const ECHO_MESSAGE_LIMIT_BYTES: usize = 16 << 20;
/// Frames of a message on the echo listener: 65,536 with data, and an empty one that ends it.
pub const ECHO_FRAGMENTS: u32 = 65_536 + 1;
/// Outbox limit of the echo listener: two of its largest messages.
pub const ECHO_OUTBOX_LIMIT_BYTES: usize = 2 * ECHO_MESSAGE_LIMIT_BYTES;
/// A thread's buffer for encoding is kept up to this size.
pub const SCRATCH_KEEP_BYTES: usize = 256 << 10;

// Session and hub.
/// Commands of one client that other shards have under way and whose answers may be as long as a
/// channel's history: enough to hide the way there, and few, since all may come at once.
pub const LARGE_ANSWERS_IN_FLIGHT: usize = 8;

/// Longest channel name.
pub const CHANNEL_NAME_BYTES: usize = 255;
/// Longest user name taken from connect data.
pub const USER_NAME_BYTES: usize = 64;
/// Requests of one shard that other shards have not answered.
pub const REQUESTS_OUTSTANDING: usize = 1024;

// Deliver.

/// Records of one partition between the first that is not delivered and the last fetched: one that
/// is retried for long must not let the finished ones behind it pile up, nor a crash repeat more.
pub const DELIVER_AHEAD_RECORDS: usize = 16_384;
/// A run of a drain with a rate is at least what the rate allows in so long, and may be so late: a
/// lane that waits for the clock is woken in steps of 64 ms.
pub const DRAIN_SLACK_MS: u64 = 100;
/// A lag's level is left below so much of its threshold; nearer, it would come and go.
pub const LAG_HYSTERESIS_PERCENT: u64 = 80;

// Broker.

/// Publications that one recovery or one history reply returns.
pub const HISTORY_PUBLICATIONS: usize = 300;
/// Channels looked at by one slice of the expiry.
pub const SWEEP_CHANNELS: usize = 64;
/// What a channel with a stream is counted with besides its publications.
pub const CHANNEL_OVERHEAD_BYTES: usize = 256;
/// What a publication is counted with besides its payload and its publisher's data.
pub const PUBLICATION_OVERHEAD_BYTES: usize = 128;
/// What a presence entry is counted with besides its user and data.
pub const PRESENCE_OVERHEAD_BYTES: usize = 160;

// Log.

/// Bytes of one fetch.
pub const FETCH_BYTES: usize = 1 << 20;
/// Bytes of a key that a dead letter keeps whose record was too large for its log.
pub const DEAD_LETTER_KEY_BYTES: usize = 4_096;
/// How often a consumer's lag is looked at.
pub const LAG_INTERVAL_MS: u64 = 1_000;
/// Records of one fetch: what a consumer handles in some turns.
pub const FETCH_RECORDS: usize = 512;
/// Spooled records of one partition that Kafka was given and has not acknowledged.
pub const SPOOL_FORWARD_RECORDS: usize = 4_096;
/// How old what Kafka acknowledged may be before its cursor is durable: nothing more is forwarded
/// then, since a crash would repeat it.
pub const SPOOL_CURSOR_LAG_MS: u64 = 100;
/// How often a log says that the spool is old while it stays so: it is seen, and hides nothing else.
pub const SPOOL_ALARM_PAUSE_MS: u64 = 60_000;
/// Pause before Kafka is given records of the spool again, after it did not answer.
pub const SPOOL_PAUSE_MS: u64 = 250;
/// How often the producer is looked at for records that the spool must take over, while it has some:
/// with the turn that it takes, within the 50 ms that the design allows.
pub const SPOOL_LOOK_MS: u64 = 16;
/// Least time between two raises of a producer's epoch: 32,767 of them last for hours of outage.
pub const EPOCH_RAISE_MS: u64 = 500;
/// Epochs of a producer that are durable before they are needed: a disk may fail for half a minute
/// while Kafka hangs. Each start leaves as many behind, so that an id lasts for 500 starts.
pub const SPOOL_EPOCHS_AHEAD: i16 = 64;
/// How long a connection to a broker may take to open.
pub const KAFKA_CONNECT_MS: u64 = 2_000;
/// How long a group waits for a sign of life of a member, unless the consumer says so: what Kafka's
/// own clients take.
pub const KAFKA_SESSION_MS: u32 = 45_000;
/// How long a consumer that gives up a partition begins what later records have overtaken: enough
/// for quick targets, and a slow one holds up nobody's rebalance for it.
pub const LANE_FILL_MS: u64 = 500;
/// How long a member may take to give up partitions: a slow backend's longest call.
pub const KAFKA_REBALANCE_MS: u32 = 60_000;
/// How often the lag of other programs' groups is asked for: brokers hardly notice, and an alarm is
/// soon enough.
pub const WATCH_INTERVAL_MS: u64 = 10_000;
/// How long a broker may take to answer.
pub const KAFKA_REQUEST_MS: u64 = 10_000;

// Ingest.

/// Records of one shard that the log has not answered: a second of a busy shard's.
pub const INGEST_OUTSTANDING: usize = 16_384;
/// Milliseconds that a publication's idempotency key is remembered (client protocol §10).
pub const IDEMPOTENCY_MS: u64 = 300_000;
/// Idempotency keys that a shard remembers: 330 a second for all of that time, in some 20 MB. There are
/// three such tables: of records, and of their and of other publications on the channel's owner.
pub const IDEMPOTENCY_KEYS: usize = 100_000;
/// Bytes of the epoch that a publication's version belongs to: any digest or name fits.
pub const VERSION_EPOCH_BYTES: usize = 256;
/// Bytes of an idempotency key: any digest or name fits.
pub const IDEMPOTENCY_KEY_BYTES: usize = 256;
/// Bytes of a message id in a payload, and of the key that it is for: each shard remembers many.
pub const MESSAGE_ID_BYTES: usize = IDEMPOTENCY_KEY_BYTES;
/// Milliseconds between two lines about the same trouble with Kafka: each try meets it again.
pub const KAFKA_ERROR_MS: u64 = 60_000;
/// Lines about different trouble with Kafka in that time: some brokers', each its own.
pub const KAFKA_ERRORS: usize = 16;
/// Events that wait for the answer to one record with the same message id.
pub const DEDUPE_WAITERS: usize = 16;
/// Bytes on disk of records that Kafka refused for good; the oldest go first.
pub const DEAD_LETTERS_BYTES: u64 = 256 << 20;
/// Records that a keyless topic's partition gets before the next one's turn: some batches.
pub const STICKY_RECORDS: u32 = 256;
/// A thread's buffer for a record's body is kept up to this size. One that is still needed when the
/// log has the record keeps all its memory, so that it may not be much larger than a record.
pub const RECORD_BODY_KEEP_BYTES: usize = 4 << 10;
/// Room for a record's headers, made at once with its payload's.
pub const RECORD_HEADERS_BYTES: usize = 160;
