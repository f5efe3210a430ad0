//! The load tool, the floor it is compared with, and what both share.
//!
//! `ring` is a small single-threaded io_uring loop; `frame`, `message` and
//! `payload` are the client's side of the wire; `check` counts what went wrong
//! with deliveries; `accounting` reads what the kernel charged to whom; `load`
//! puts these together into the benchmark's rows; `floor` is a server that
//! does only the workload's system calls.
//!
//! **Runs on: any.**

pub mod accounting;
pub mod check;
pub mod client;
pub mod disk;
pub mod floor;
pub mod frame;
pub mod load;
pub mod message;
pub mod payload;
pub mod ring;
pub mod thread;
