//! `disk`: the time of a synced write of 4 KiB in a folder, as one line of JSON.
//!
//! **Runs on: any.**

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use trine_bench::disk::sync_times;

/// Times pwrite and fdatasync.
#[derive(Parser)]
struct Arguments {
    /// Where to write.
    folder: PathBuf,
    /// How long.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match sync_times(&arguments.folder, Duration::from_secs_f64(arguments.seconds)) {
        Ok(times) => {
            println!("{}", serde_json::to_string(&times).expect("a plain struct"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("disk: {}: {error}", arguments.folder.display());
            ExitCode::FAILURE
        }
    }
}
