//! A member of a group by either protocol.
//!
//! **Runs on: shard.** The same surface over [`Membership`], the classic protocol, and [`BrokerLed`],
//! that of KIP-848.

use super::broker_led::BrokerLed;
use super::membership::{Event, Membership, Options, Partition, Request};
use std::rc::Rc;
use trine_proto::kafka::{ErrorCode, Uuid};

/// A member.
#[derive(Debug)]
pub enum Group {
    /// Members assign among themselves.
    Classic(Membership),
    /// The broker assigns.
    BrokerLed(BrokerLed),
}

/// Calls the method of the same name.
macro_rules! of_both {
    ($($(#[$doc:meta])* $name:ident($($mut:ident)?; $($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {$(
        $(#[$doc])*
        pub fn $name(&$($mut)? self, $($argument: $type),*) $(-> $result)? {
            match self {
                Self::Classic(member) => member.$name($($argument),*),
                Self::BrokerLed(member) => member.$name($($argument),*),
            }
        }
    )*};
}

impl Group {
    of_both! {
        /// What it is.
        options(;) -> &Options;
        /// Its id, empty before it has one.
        member(;) -> &Rc<str>;
        /// The broker that coordinates the group, as far as is known.
        coordinator(;) -> Option<i32>;
        /// Whether the coordinator takes commits.
        may_commit(;) -> bool;
        /// Whether it has left, or was fenced.
        has_ended(;) -> bool;
        /// When to poll again although nothing has happened.
        deadline_ms(;) -> u64;
        /// Moves the events that have come up to `into`.
        take_events(mut; into: &mut Vec<Event>);
        /// Leaves the group as soon as everything is given up.
        leave(mut; now_ms: u64);
        /// A partition is given up.
        released(mut; partition: &Partition);
        /// Answers [`Request::FindCoordinator`].
        found(mut; result: Result<i32, ErrorCode>, now_ms: u64);
        /// What was asked of the coordinator has no answer.
        disconnected(mut; now_ms: u64);
        /// What OffsetCommit or OffsetFetch says of the membership.
        told(mut; error: ErrorCode, now_ms: u64);
    }

    /// The generation or the member's epoch.
    pub fn generation(&self) -> i32 {
        match self {
            Self::Classic(member) => member.generation(),
            Self::BrokerLed(member) => member.epoch(),
        }
    }

    /// The next request; see [`Membership::poll`] and [`BrokerLed::poll`].
    pub fn poll(
        &mut self,
        now_ms: u64,
        is_connected: bool,
        count: &dyn Fn(&str) -> Option<u32>,
        name: &dyn Fn(&Uuid) -> Option<Rc<str>>,
    ) -> Option<Request> {
        match self {
            Self::Classic(member) => member.poll(now_ms, is_connected, count),
            Self::BrokerLed(member) => member.poll(now_ms, is_connected, name),
        }
    }

    /// The member by the classic protocol, to answer its requests.
    pub fn classic(&mut self) -> Option<&mut Membership> {
        match self {
            Self::Classic(member) => Some(member),
            Self::BrokerLed(_) => None,
        }
    }

    /// The member by the broker's protocol, to answer its requests.
    pub fn broker_led(&mut self) -> Option<&mut BrokerLed> {
        match self {
            Self::BrokerLed(member) => Some(member),
            Self::Classic(_) => None,
        }
    }
}
