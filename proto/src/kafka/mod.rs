//! Kafka's wire formats: requests out, responses in, record batches both ways.
//!
//! **Runs on: any.** Written by hand, borrowing from the input. An API is a module with a request
//! type for [`frame::write`] and a response for [`frame::read`]; the broker's ApiVersions say which
//! version, by [`frame::Api::version`]. Responses are flat lists: each partition names its topic.

pub mod api_versions;
pub mod codec;
pub mod error;
pub mod frame;
pub mod init_producer_id;
pub mod metadata;
pub mod produce;
pub mod record;

pub use codec::{Error, Uuid};
pub use error::{Action, ErrorCode};

use codec::{Reader, Writer};

/// A topic as requests and responses name it: by name in older versions, by id in newer ones. Of a
/// response only the one that its version has is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Topic<'a> {
    /// The name, or empty.
    pub name: &'a str,
    /// The id, or all 0.
    pub id: Uuid,
}

/// Where a broker listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broker<'a> {
    /// Its id in the cluster.
    pub id: i32,
    /// Name or address.
    pub host: &'a str,
    /// Port; a broker sends 32 bits, of which only 16 are one.
    pub port: i32,
    /// Its rack, where it has one.
    pub rack: Option<&'a str>,
}

/// A partition's leader, as Produce and Fetch responses tell it beside an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The broker's id, -1 if there is none.
    pub id: i32,
    /// The leader's epoch.
    pub epoch: i32,
}

/// A leader in a tagged field.
fn leader(from: &mut Reader<'_>) -> Result<Leader, Error> {
    let leader = Leader { id: from.i32()?, epoch: from.i32()? };
    from.tags()?;
    Ok(leader)
}

impl Writer<'_> {
    /// An array of topics with an array of partitions each, from a flat list: neighbours of one
    /// topic become one. `partition` writes an item up to its tagged fields.
    fn by_topic<'t, T>(
        &mut self,
        items: &'t [T],
        topic: impl Fn(&T) -> Topic<'t>,
        by_id: bool,
        mut partition: impl FnMut(&mut Self, &'t T),
    ) {
        let same = |a: &T, b: &T| match by_id {
            true => topic(a).id == topic(b).id,
            false => topic(a).name == topic(b).name,
        };
        self.count(items.chunk_by(same).count());
        for items in items.chunk_by(same) {
            match by_id {
                true => self.uuid(&topic(&items[0]).id),
                false => self.string(topic(&items[0]).name),
            }
            self.count(items.len());
            for item in items {
                partition(self, item);
                self.tags();
            }
            self.tags();
        }
    }
}

impl<'r> Reader<'r> {
    /// An array of topics with an array of partitions each, as a flat list. `partition` reads a whole
    /// item.
    fn by_topic<T>(
        &mut self,
        by_id: bool,
        mut partition: impl FnMut(&mut Self, Topic<'r>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let mut items = Vec::new();
        for _ in 0..self.count()? {
            let topic = match by_id {
                true => Topic { id: self.uuid()?, ..Topic::default() },
                false => Topic { name: self.string()?, ..Topic::default() },
            };
            for _ in 0..self.count()? {
                items.push(partition(self, topic)?);
            }
            self.tags()?;
        }
        Ok(items)
    }
}
