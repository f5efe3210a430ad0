//! Kafka's wire formats: requests out, responses in, record batches both ways.
//!
//! **Runs on: any.** Written by hand, borrowing from the input. An API is a module with a request
//! type for [`frame::write`] and a response for [`frame::read`]; the broker's ApiVersions say which
//! version, by [`frame::Api::version`]. Responses are flat lists: each partition names its topic.

pub mod api_versions;
pub mod codec;
pub mod consumer_group_heartbeat;
pub mod consumer_protocol;
pub mod create_topics;
pub mod describe_configs;
pub mod error;
pub mod fetch;
pub mod find_coordinator;
pub mod frame;
pub mod heartbeat;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_offsets;
pub mod metadata;
pub mod offset_commit;
pub mod offset_fetch;
pub mod produce;
pub mod record;
pub mod sasl_authenticate;
pub mod sasl_handshake;
pub mod scram;
pub mod sync_group;

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

impl<'a> Topic<'a> {
    /// A topic by its name.
    pub fn named(name: &'a str) -> Topic<'a> {
        Topic { name, id: [0; 16] }
    }
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

/// Who speaks to a group's coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership<'a> {
    /// The group.
    pub group: &'a str,
    /// The generation, or the member's epoch in the protocol of KIP-848; -1 for who is no member.
    pub generation: i32,
    /// The member's id, empty for who is no member.
    pub member: &'a str,
    /// The instance id of a static member (KIP-345), in the versions that know it.
    pub instance: Option<&'a str>,
}

impl<'a> Membership<'a> {
    /// Of who asks about a group from outside.
    pub fn of_group(group: &'a str) -> Membership<'a> {
        Membership { group, generation: -1, member: "", instance: None }
    }

    /// Writes it, with the instance id from a version on.
    fn write(&self, to: &mut Writer<'_>, instance_since: i16) {
        to.string(self.group);
        to.i32(self.generation);
        to.string(self.member);
        if to.since(instance_since) {
            to.nullable_string(self.instance);
        }
    }
}

/// The answer of a broker that only says whether it worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// How long the broker holds back what comes next, by quota.
    pub throttle_ms: i32,
    /// The error.
    pub error: ErrorCode,
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
