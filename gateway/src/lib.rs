//! The product: an edge gateway for real-time services.
//!
//! **Runs on: any**; each module says where.

pub mod admin;
pub mod control;
pub mod data;
pub mod edge;
