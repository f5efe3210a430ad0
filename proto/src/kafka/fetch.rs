//! Fetch: records from the leaders of partitions, or from a replica nearby (KIP-392).
//!
//! **Runs on: any.** A response borrows each record set, which [`super::record::Batches`] reads.
//! With a session (KIP-227, from version 7) a request names what changed since the last one, and a
//! response leaves out partitions without news. Topics go by id from version 13.

use super::codec::{Error, Reader, Writer};
use super::error::ErrorCode;
use super::frame::{self, Api};
use super::record::AbortedTransaction;
use super::{Broker, Leader, Topic};

/// The versions that are known here. Zstandard needs version 10.
pub const API: Api = Api { key: 1, name: "Fetch", min: 4, max: 17, flexible: 12 };

/// Asks for records.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// How long the broker waits for `min_bytes`.
    pub max_wait_ms: i32,
    /// How many bytes are worth an answer before that.
    pub min_bytes: i32,
    /// How many bytes there may be in all; a first batch that is larger comes nevertheless.
    pub max_bytes: i32,
    /// Whether to see only records of committed transactions. The broker then lists the aborted ones
    /// and goes no further than the last stable offset.
    pub read_committed: bool,
    /// The session.
    pub session: Session,
    /// The partitions, those of a topic side by side. In a session: new and changed ones.
    pub partitions: &'a [Partition<'a>],
    /// What the session no longer includes, those of a topic side by side.
    pub forgotten: &'a [(Topic<'a>, i32)],
    /// The rack to read in, empty for none; from version 11.
    pub rack: &'a str,
}

/// A fetch session. Not sent before version 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The id that the broker gave, 0 for none.
    pub id: i32,
    /// 0 opens a session, or opens it again; then it counts up, and 1 follows `i32::MAX`. -1 ends it.
    pub epoch: i32,
}

impl Session {
    /// Outside of any session.
    pub const NONE: Session = Session { id: 0, epoch: -1 };
    /// Asks for a new session.
    pub const NEW: Session = Session { id: 0, epoch: 0 };
}

/// Where to read in a partition.
#[derive(Clone, Copy, Debug)]
pub struct Partition<'a> {
    /// The topic: its name before version 13, its id from then on.
    pub topic: Topic<'a>,
    /// The partition.
    pub partition: i32,
    /// The leader's epoch in the metadata that led here, -1 if unknown; from version 9.
    pub leader_epoch: i32,
    /// The first offset wanted.
    pub offset: i64,
    /// The leader's epoch of the record before it, -1 if unknown; from version 12. Where the log has
    /// another one there, the answer is [`Fetched::diverging`].
    pub last_epoch: i32,
    /// How many bytes there may be of this partition.
    pub max_bytes: i32,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'r> {
    /// How long the broker holds back what comes next, by quota.
    pub throttle_ms: i32,
    /// An error of the whole, such as a lost session.
    pub error: ErrorCode,
    /// The session, 0 for none.
    pub session_id: i32,
    /// The partitions, in the broker's order.
    pub partitions: Vec<Fetched<'r>>,
    /// Where the leaders named in `partitions` are, from version 16.
    pub brokers: Vec<Broker<'r>>,
}

/// What there is in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched<'r> {
    /// The topic, as the version names it.
    pub topic: Topic<'r>,
    /// The partition.
    pub partition: i32,
    /// The error.
    pub error: ErrorCode,
    /// The offset after the last record that all replicas in sync have.
    pub high_watermark: i64,
    /// The offset before which every transaction is decided.
    pub last_stable_offset: i64,
    /// The first offset that the partition still has, -1 if the broker does not tell.
    pub log_start_offset: i64,
    /// The aborted transactions in the record set, under `read_committed`.
    pub aborted: Vec<AbortedTransaction>,
    /// The replica to read from instead, -1 for none.
    pub preferred_replica: i32,
    /// The record set.
    pub records: &'r [u8],
    /// The log has other records than were read: the newest epoch before, and where it ends here.
    /// From version 12.
    pub diverging: Option<(i32, i64)>,
    /// The new leader beside an error, from version 12.
    pub leader: Option<Leader>,
}

impl frame::Request for Request<'_> {
    const API: Api = API;
    type Response<'r> = Response<'r>;

    fn write(&self, to: &mut Writer<'_>) {
        // Before version 15 a follower says here who it is; a client is none.
        if !to.since(15) {
            to.i32(-1);
        }
        to.i32(self.max_wait_ms);
        to.i32(self.min_bytes);
        to.i32(self.max_bytes);
        to.bool(self.read_committed);
        let by_id = to.since(13);
        if to.since(7) {
            to.i32(self.session.id);
            to.i32(self.session.epoch);
        }
        to.by_topic(
            self.partitions,
            |partition| partition.topic,
            by_id,
            |to, partition| {
                to.i32(partition.partition);
                if to.since(9) {
                    to.i32(partition.leader_epoch);
                }
                to.i64(partition.offset);
                if to.since(12) {
                    to.i32(partition.last_epoch);
                }
                // The start of the log is a follower's to tell.
                if to.since(5) {
                    to.i64(-1);
                }
                to.i32(partition.max_bytes);
                to.tags();
            },
        );
        if to.since(7) {
            to.by_topic(
                self.forgotten,
                |forgotten| forgotten.0,
                by_id,
                |to, forgotten| {
                    to.i32(forgotten.1);
                },
            );
        }
        if to.since(11) {
            to.string(self.rack);
        }
        to.tags();
    }

    fn read<'r>(from: &mut Reader<'r>) -> Result<Response<'r>, Error> {
        let throttle_ms = from.i32()?;
        let (error, session_id) = match from.since(7) {
            true => (ErrorCode(from.i16()?), from.i32()?),
            false => (ErrorCode::NONE, 0),
        };
        let partitions = from.by_topic(from.since(13), fetched)?;
        let mut brokers = Vec::new();
        from.each_tag(|tag, value| {
            if tag == 0 {
                brokers = value.items(super::metadata::broker)?;
            }
            Ok(())
        })?;
        Ok(Response { throttle_ms, error, session_id, partitions, brokers })
    }
}

fn fetched<'r>(from: &mut Reader<'r>, topic: Topic<'r>) -> Result<Fetched<'r>, Error> {
    let mut fetched = Fetched {
        topic,
        partition: from.i32()?,
        error: ErrorCode(from.i16()?),
        high_watermark: from.i64()?,
        last_stable_offset: from.i64()?,
        log_start_offset: if from.since(5) { from.i64()? } else { -1 },
        aborted: from.items(|from| {
            let (producer_id, first_offset) = (from.i64()?, from.i64()?);
            from.tags()?;
            Ok(AbortedTransaction { producer_id, first_offset })
        })?,
        preferred_replica: if from.since(11) { from.i32()? } else { -1 },
        records: from.nullable_bytes()?.unwrap_or_default(),
        diverging: None,
        leader: None,
    };
    from.each_tag(|tag, value| {
        match tag {
            0 => {
                fetched.diverging = Some((value.i32()?, value.i64()?));
                value.tags()?;
            }
            1 => fetched.leader = Some(super::leader(value)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(fetched)
}
