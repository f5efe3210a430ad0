//! The `trine` program: hands the command line to the library.
//!
//! **Runs on: control** (the main thread of either process).

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["data"] {
        return trine::data::main();
    }
    if arguments.is_empty() {
        return trine::control::run(trine::config::Config::embedded());
    }
    // A configuration in JSON until the command line is there.
    match arguments.first().and_then(|config| serde_json::from_str(config).ok()) {
        Some(config) => trine::control::run(config),
        None => ExitCode::from(64),
    }
}
