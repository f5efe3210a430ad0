//! Which CPUs this process may use, how they share cores and memory, and which shard runs where.
//!
//! **Runs on: control** reads ([`Topology`]) and plans ([`PinPlan`]); **shard** pins itself
//! ([`pin_current_thread`]).
//!
//! The plan is a pure function of the topology and the two overrides, so that machines nobody has
//! at hand are tested from a few lines.

mod cgroup;
mod pin;
mod plan;
mod read;

pub use pin::{PinError, pin_current_thread, restrict_current_thread};
pub use plan::{PinPlan, PlanError, Request, ShardPlace};
pub use read::{Cpu, Topology};
