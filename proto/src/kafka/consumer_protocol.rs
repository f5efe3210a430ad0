//! What consumers tell each other inside JoinGroup and SyncGroup: subscription and assignment.
//!
//! **Runs on: any.** Each begins with its own version; a newer one is read as far as it is known,
//! since fields are only ever appended. Source: KIP-429, KIP-792, KIP-881.

use super::Topic;
use super::codec::{Error, Reader, Writer};

/// The newest version of a subscription here.
const SUBSCRIPTION_VERSION: i16 = 3;

/// What a consumer wants and has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription<'a> {
    /// The names of the topics.
    pub topics: Vec<&'a str>,
    /// For the assignor alone.
    pub user_data: Option<&'a [u8]>,
    /// Topic and partition of what it has; from version 1.
    pub owned: Vec<(&'a str, i32)>,
    /// The generation that it got `owned` in, -1 if unknown; from version 2.
    pub generation: i32,
    /// The rack that it reads in; from version 3.
    pub rack: Option<&'a str>,
}

/// What a consumer gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment<'a> {
    /// Topic and partition.
    pub partitions: Vec<(&'a str, i32)>,
    /// For the assignor alone.
    pub user_data: Option<&'a [u8]>,
}

impl<'a> Subscription<'a> {
    /// Appends it in `version`, from 0 to 3. `owned` has those of a topic side by side.
    pub fn write(&self, out: &mut Vec<u8>, version: i16) {
        let mut to = Writer::new(out, version, false);
        to.i16(version);
        to.items(&self.topics, |to, topic| to.string(topic));
        to.nullable_bytes(self.user_data);
        if to.since(1) {
            write_partitions(&mut to, &self.owned);
        }
        if to.since(2) {
            to.i32(self.generation);
        }
        if to.since(3) {
            to.nullable_string(self.rack);
        }
    }

    /// Reads it in its own version.
    pub fn parse(bytes: &'a [u8]) -> Result<Subscription<'a>, Error> {
        let mut from = versioned(bytes, SUBSCRIPTION_VERSION)?;
        Ok(Subscription {
            topics: from.items(Reader::string)?,
            user_data: from.nullable_bytes()?,
            owned: if from.since(1) { read_partitions(&mut from)? } else { Vec::new() },
            generation: if from.since(2) { from.i32()? } else { -1 },
            rack: if from.since(3) { from.nullable_string()? } else { None },
        })
    }
}

impl<'a> Assignment<'a> {
    /// Appends it in `version`, which changes nothing but its number. `partitions` has those of a
    /// topic side by side.
    pub fn write(&self, out: &mut Vec<u8>, version: i16) {
        let mut to = Writer::new(out, version, false);
        to.i16(version);
        write_partitions(&mut to, &self.partitions);
        to.nullable_bytes(self.user_data);
    }

    /// Reads it in its own version. No bytes at all are an empty assignment, as a broker gives to a
    /// member that the leader left out.
    pub fn parse(bytes: &'a [u8]) -> Result<Assignment<'a>, Error> {
        if bytes.is_empty() {
            return Ok(Assignment::default());
        }
        let mut from = versioned(bytes, SUBSCRIPTION_VERSION)?;
        Ok(Assignment {
            partitions: read_partitions(&mut from)?,
            user_data: from.nullable_bytes()?,
        })
    }
}

fn versioned(bytes: &[u8], newest: i16) -> Result<Reader<'_>, Error> {
    let version = Reader::new(bytes, 0, false).i16()?;
    if version < 0 {
        return Err(Error::Malformed("version of the consumer protocol"));
    }
    let mut from = Reader::new(bytes, version.min(newest), false);
    from.i16()?;
    Ok(from)
}

fn write_partitions(to: &mut Writer<'_>, partitions: &[(&str, i32)]) {
    to.by_topic(
        partitions,
        |partition| Topic::named(partition.0),
        false,
        |to, partition| {
            to.i32(partition.1);
        },
    );
}

fn read_partitions<'a>(from: &mut Reader<'a>) -> Result<Vec<(&'a str, i32)>, Error> {
    from.by_topic(false, |from, topic| Ok((topic.name, from.i32()?)))
}
