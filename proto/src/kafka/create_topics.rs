//! CreateTopics: new topics, by the broker that takes requests for the controller.
//!
//! **Runs on: any.** Replicas are placed by the broker.

use super::Topic;
use super::codec::{Error, Reader, Writer};
use super::error::ErrorCode;
use super::frame::{self, Api};

/// The versions that are known here.
pub const API: Api = Api { key: 19, name: "CreateTopics", min: 2, max: 7, flexible: 5 };

/// Makes topics.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The topics.
    pub topics: &'a [NewTopic<'a>],
    /// How long the broker waits until they are there.
    pub timeout_ms: i32,
    /// Whether only to look whether it would work.
    pub validate_only: bool,
}

/// A topic to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewTopic<'a> {
    /// The name.
    pub name: &'a str,
    /// How many partitions; -1 for the broker's default, from version 4.
    pub partitions: i32,
    /// How many replicas of each; -1 for the broker's default, from version 4.
    pub replicas: i16,
    /// The topic's settings, by Kafka's names.
    pub configs: &'a [(&'a str, &'a str)],
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'r> {
    /// How long the broker holds back what comes next, by quota.
    pub throttle_ms: i32,
    /// The topics, in the broker's order.
    pub topics: Vec<Created<'r>>,
}

/// What became of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created<'r> {
    /// Its name, and its id from version 7.
    pub topic: Topic<'r>,
    /// The error.
    pub error: ErrorCode,
    /// What the broker says to the error.
    pub message: Option<&'r str>,
}

impl frame::Request for Request<'_> {
    const API: Api = API;
    type Response<'r> = Response<'r>;

    fn write(&self, to: &mut Writer<'_>) {
        to.items(self.topics, |to, topic| {
            to.string(topic.name);
            to.i32(topic.partitions);
            to.i16(topic.replicas);
            // No placement of our own.
            to.count(0);
            to.items(topic.configs, |to, (name, value)| {
                to.string(name);
                to.nullable_string(Some(value));
                to.tags();
            });
            to.tags();
        });
        to.i32(self.timeout_ms);
        to.bool(self.validate_only);
        to.tags();
    }

    fn read<'r>(from: &mut Reader<'r>) -> Result<Response<'r>, Error> {
        let throttle_ms = from.i32()?;
        let topics = from.items(created)?;
        from.tags()?;
        Ok(Response { throttle_ms, topics })
    }
}

fn created<'r>(from: &mut Reader<'r>) -> Result<Created<'r>, Error> {
    let name = from.string()?;
    let id = if from.since(7) { from.uuid()? } else { [0; 16] };
    let (error, message) = (ErrorCode(from.i16()?), from.nullable_string()?);
    if from.since(5) {
        let _partitions_and_replicas = (from.i32()?, from.i16()?);
        for _ in 0..from.count()? {
            let _name_and_value = (from.string()?, from.nullable_string()?);
            let _read_only_source_and_sensitive = (from.i8()?, from.i8()?, from.i8()?);
            from.tags()?;
        }
    }
    from.tags()?;
    Ok(Created { topic: Topic { name, id }, error, message })
}
