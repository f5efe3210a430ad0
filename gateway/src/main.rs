//! The `trine` program: hands the command line to the library.
//!
//! **Runs on: control** (the main thread of either process).

use std::process::ExitCode;

/// Shards free what they allocated on their own thread, which this allocator is quickest at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    trine::cli::main()
}
