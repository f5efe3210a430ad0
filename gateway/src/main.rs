//! The `trine` program: hands the command line to the library.
//!
//! **Runs on: control** (the main thread of either process).
fn main() {}
