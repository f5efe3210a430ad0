//! The product: an edge gateway for real-time services.
//!
//! **Runs on: any**; each module says where.

pub mod admin;
pub mod broker;
pub mod cli;
pub mod config;
pub mod control;
pub mod data;
pub mod deliver;
pub mod edge;
pub mod hub;
pub mod ingest;
pub mod limits;
pub mod log;
pub mod logs;
pub mod proxy;
pub mod recent;
pub mod scratch;
pub mod session;
