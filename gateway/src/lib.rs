//! The product: an edge gateway for real-time services.
//!
//! **Runs on: any**; each module says where.
