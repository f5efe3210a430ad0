//! Produce: record batches to the leaders of their partitions.
//!
//! **Runs on: any.** A batch is not copied into the request: [`write()`] leaves room for none of them
//! and says where each belongs, for a gathered send. Topics go by id from version 13.

use super::codec::{Error, Reader, Writer};
use super::error::ErrorCode;
use super::frame::{self, Api};
use super::{Broker, Leader, Topic};

/// The versions that are known here. Zstandard needs version 7.
pub const API: Api = Api { key: 0, name: "Produce", min: 3, max: 13, flexible: 9 };

/// Sends batches.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The transactional id, `None` outside transactions.
    pub transactional_id: Option<&'a str>,
    /// -1 waits for all replicas in sync, 1 for the leader, 0 for nothing: there is no response.
    pub acks: i16,
    /// How long the leader waits for the replicas.
    pub timeout_ms: i32,
    /// The batches, those of a topic side by side and one a partition.
    pub batches: &'a [Batch<'a>],
}

/// A batch and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The topic: its name before version 13, its id from then on.
    pub topic: Topic<'a>,
    /// The partition.
    pub partition: i32,
    /// The whole batch.
    pub bytes: &'a [u8],
}

/// Appends a request without its batches, and to `places` where in `out` each belongs, in their
/// order: what goes out is `out[start..places[0]]`, the first batch, `out[places[0]..places[1]]`, the
/// second batch, and so on to the end of `out`.
pub fn write(
    out: &mut Vec<u8>,
    places: &mut Vec<usize>,
    request: &Request<'_>,
    version: i16,
    correlation_id: i32,
    client_id: &str,
) {
    let start = out.len();
    frame::write_with(out, &API, version, correlation_id, client_id, |to| {
        request.write_with(to, |to, batch| {
            to.bytes_len(batch.len());
            places.push(to.position());
        });
    });
    let elsewhere = request.batches.iter().map(|batch| batch.bytes.len()).sum();
    frame::set_length(out, start, elsewhere);
}

impl<'a> Request<'a> {
    fn write_with(&self, to: &mut Writer<'_>, mut place: impl FnMut(&mut Writer<'_>, &'a [u8])) {
        to.nullable_string(self.transactional_id);
        to.i16(self.acks);
        to.i32(self.timeout_ms);
        let by_id = to.since(13);
        to.by_topic(
            self.batches,
            |batch| batch.topic,
            by_id,
            |to, batch| {
                to.i32(batch.partition);
                place(to, batch.bytes);
                to.tags();
            },
        );
        to.tags();
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'r> {
    /// The partitions, in the broker's order.
    pub partitions: Vec<Produced<'r>>,
    /// How long the broker holds back what comes next, by quota.
    pub throttle_ms: i32,
    /// Where the leaders named in `partitions` are, from version 10.
    pub brokers: Vec<Broker<'r>>,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Produced<'r> {
    /// The topic, as the version names it.
    pub topic: Topic<'r>,
    /// The partition.
    pub partition: i32,
    /// The error.
    pub error: ErrorCode,
    /// The offset of the first record, -1 with an error.
    pub base_offset: i64,
    /// When it was appended, -1 unless the topic stamps records itself. In milliseconds.
    pub append_time_ms: i64,
    /// The first offset that the partition still has, -1 if the broker does not tell.
    pub log_start_offset: i64,
    /// The records that made the broker refuse the batch, by their place in it, from version 8.
    pub refused: Vec<(i32, Option<&'r str>)>,
    /// What the broker says to the error, from version 8.
    pub message: Option<&'r str>,
    /// The new leader beside `NOT_LEADER_OR_FOLLOWER`, from version 10.
    pub leader: Option<Leader>,
}

impl frame::Request for Request<'_> {
    const API: Api = API;
    type Response<'r> = Response<'r>;

    fn write(&self, to: &mut Writer<'_>) {
        self.write_with(to, |to, batch| to.bytes(batch));
    }

    fn read<'r>(from: &mut Reader<'r>) -> Result<Response<'r>, Error> {
        let partitions = from.by_topic(from.since(13), produced)?;
        let throttle_ms = from.i32()?;
        let mut brokers = Vec::new();
        from.each_tag(|tag, value| {
            if tag == 0 {
                brokers = value.items(super::metadata::broker)?;
            }
            Ok(())
        })?;
        Ok(Response { partitions, throttle_ms, brokers })
    }
}

fn produced<'r>(from: &mut Reader<'r>, topic: Topic<'r>) -> Result<Produced<'r>, Error> {
    let mut produced = Produced {
        topic,
        partition: from.i32()?,
        error: ErrorCode(from.i16()?),
        base_offset: from.i64()?,
        append_time_ms: from.i64()?,
        log_start_offset: if from.since(5) { from.i64()? } else { -1 },
        refused: Vec::new(),
        message: None,
        leader: None,
    };
    if from.since(8) {
        produced.refused = from.items(|from| {
            let refused = (from.i32()?, from.nullable_string()?);
            from.tags()?;
            Ok(refused)
        })?;
        produced.message = from.nullable_string()?;
    }
    from.each_tag(|tag, value| {
        if tag == 0 {
            produced.leader = Some(super::leader(value)?);
        }
        Ok(())
    })?;
    Ok(produced)
}
