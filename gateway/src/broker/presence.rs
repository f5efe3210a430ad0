//! One channel's presence: which clients are subscribed, and how many users they are.
//!
//! **Runs on: shard**, the owner's. Sans-IO. In one process an entry lives exactly as long as its
//! subscription, so none expires.

use super::Info;
use crate::limits::PRESENCE_OVERHEAD_BYTES;
use hashbrown::HashMap;
use uuid::Uuid;

/// Numbers of clients and of distinct users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PresenceStats {
    /// Clients.
    pub num_clients: u32,
    /// Distinct users.
    pub num_users: u32,
}

/// The clients of a channel by client id.
#[derive(Default)]
pub struct Presence {
    clients: HashMap<Uuid, Info>,
    users: HashMap<String, u32>,
}

impl Presence {
    /// Whether this client is here.
    pub fn contains(&self, client: Uuid) -> bool {
        self.clients.contains_key(&client)
    }

    /// Adds a client that isn't here.
    pub fn insert(&mut self, info: Info) {
        *self.users.entry_ref(&*info.user).or_insert(0) += 1;
        let before = self.clients.insert(info.client, info);
        assert!(before.is_none(), "a client is counted once");
    }

    /// Removes a client; returns it if it was there.
    pub fn remove(&mut self, client: Uuid) -> Option<Info> {
        let info = self.clients.remove(&client)?;
        let count = self.users.get_mut(&*info.user).expect("each client is counted with its user");
        *count -= 1;
        if *count == 0 {
            self.users.remove(&*info.user);
        }
        Some(info)
    }

    /// The clients, in no order.
    pub fn clients(&self) -> impl Iterator<Item = &Info> {
        self.clients.values()
    }

    /// Whether nobody is here.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// The numbers.
    pub fn stats(&self) -> PresenceStats {
        PresenceStats { num_clients: self.clients.len() as u32, num_users: self.users.len() as u32 }
    }
}

/// Bytes that an entry is counted with.
pub(super) fn entry_bytes(info: &Info) -> usize {
    PRESENCE_OVERHEAD_BYTES + info.user.len() + info.conn_info.len()
}
