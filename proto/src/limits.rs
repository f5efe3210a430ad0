//! Limits of the wire formats: each constant with its unit, its reason, and the config key that
//! moves it ("fixed" where none does).
//!
//! **Runs on: any.** A limit is checked on what a peer declares before anything is allocated for it.

// WebSocket (`ws`).

/// Bytes of one WebSocket message, over all its fragments. Chat and tickets stay far below; larger
/// things belong in an upload. Config: `client.message_limit_bytes`.
pub const WS_MESSAGE_BYTES: usize = 64 * 1024;

/// Frames that one WebSocket message may be cut into. A browser sends one; a sender that streams in
/// 512-byte pieces still fits the default message. Fixed.
pub const WS_FRAGMENTS: u32 = 128;

/// Control frames a client may send in a second. A ping every second and its pong are two; each
/// costs a reply. Fixed.
pub const WS_CONTROL_FRAMES_PER_SECOND: u32 = 20;

/// Bytes of a control frame's payload (RFC 6455 §5.5). Fixed.
pub const WS_CONTROL_BYTES: usize = 125;

// HTTP/1.1 (`http1`).

/// Bytes of a request head, its empty line included. Leaves room for large cookies and tokens.
/// Fixed.
pub const HTTP1_HEAD_BYTES: usize = 32 * 1024;

/// Header fields of a request. Fixed.
pub const HTTP1_HEADER_FIELDS: usize = 100;

/// Bytes of one chunk-size line, extensions included: nobody sends more than a signature there.
/// Fixed.
pub const HTTP1_CHUNK_LINE_BYTES: usize = 256;

/// Bytes of chunk extensions over a whole body. They are thrown away, so without this a peer could
/// have us read two hundred bytes for each byte of data. Fixed.
pub const HTTP1_CHUNK_EXTENSIONS_BYTES: usize = 16 * 1024;

/// Bytes of the trailer section of a chunked body, which is read and thrown away. Fixed.
pub const HTTP1_TRAILER_BYTES: usize = 8 * 1024;

// Kafka (`kafka`).

/// Bytes of one response of a broker. A broker keeps a Fetch response within what was asked for plus
/// one batch; what claims more is no Kafka, or damaged. Fixed.
pub const KAFKA_RESPONSE_BYTES: usize = 64 * 1024 * 1024;

/// Bytes that the records of one batch may inflate to. Brokers take batches of 1 MiB by default, and
/// a batch made of one byte repeated should not take the memory of a shard. Fixed.
pub const KAFKA_BATCH_BYTES: usize = 64 * 1024 * 1024;

/// Iterations of a SCRAM key's derivation that a broker may ask for: four times what Kafka lets an
/// administrator set. Each is two hashes, for which the shard stands still. Fixed.
pub const KAFKA_SCRAM_ITERATIONS: u32 = 65_536;

/// Partitions of one topic. Each has its state in every shard, and clusters have fewer of all topics
/// together, as a rule. Fixed.
pub const KAFKA_TOPIC_PARTITIONS: usize = 32_768;

/// APIs that a broker may say it has: Kafka has a hundred. They are gone through with each request.
/// Fixed.
pub const KAFKA_APIS: usize = 1024;
