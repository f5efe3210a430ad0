//! DescribeConfigs: how topics are configured.
//!
//! **Runs on: any.**

use super::codec::{Error, Reader, Writer};
use super::error::ErrorCode;
use super::frame::{self, Api};

/// The versions that are known here.
pub const API: Api = Api { key: 32, name: "DescribeConfigs", min: 1, max: 4, flexible: 4 };

/// The bytes of a batch that a topic takes.
pub const LARGEST_BATCH: &str = "max.message.bytes";

/// The kind of resource that a topic is.
const TOPIC: i8 = 2;

/// Asks for the configs of topics.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The topics.
    pub topics: &'a [&'a str],
    /// The names of the configs wanted.
    pub names: &'a [&'a str],
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<'r> {
    /// How long the broker holds back what comes next, by quota.
    pub throttle_ms: i32,
    /// The topics, in the broker's order.
    pub topics: Vec<Topic<'r>>,
}

/// A topic's configs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic<'r> {
    /// The error; without the right to know them `TOPIC_AUTHORIZATION_FAILED`.
    pub error: ErrorCode,
    /// The topic.
    pub name: &'r str,
    /// Names and values; a secret has none.
    pub configs: Vec<(&'r str, Option<&'r str>)>,
}

impl frame::Request for Request<'_> {
    const API: Api = API;
    type Response<'r> = Response<'r>;

    fn write(&self, to: &mut Writer<'_>) {
        to.items(self.topics, |to, topic| {
            to.i8(TOPIC);
            to.string(topic);
            to.items(self.names, |to, name| to.string(name));
            to.tags();
        });
        // Neither where a value comes from nor what it means.
        to.bool(false);
        if to.since(3) {
            to.bool(false);
        }
        to.tags();
    }

    fn read<'r>(from: &mut Reader<'r>) -> Result<Response<'r>, Error> {
        let throttle_ms = from.i32()?;
        let topics = from.items(topic)?;
        from.tags()?;
        Ok(Response { throttle_ms, topics })
    }
}

fn topic<'r>(from: &mut Reader<'r>) -> Result<Topic<'r>, Error> {
    let error = ErrorCode(from.i16()?);
    from.nullable_string()?;
    from.i8()?;
    let name = from.string()?;
    let configs = from.items(config)?;
    from.tags()?;
    Ok(Topic { error, name, configs })
}

fn config<'r>(from: &mut Reader<'r>) -> Result<(&'r str, Option<&'r str>), Error> {
    let (name, value) = (from.string()?, from.nullable_string()?);
    // Whether it can be changed, where it comes from, whether it is a secret.
    from.bool()?;
    from.i8()?;
    from.bool()?;
    from.items(|from| {
        from.string()?;
        from.nullable_string()?;
        from.i8()?;
        from.tags()
    })?;
    if from.since(3) {
        from.i8()?;
        from.nullable_string()?;
    }
    from.tags()?;
    Ok((name, value))
}
