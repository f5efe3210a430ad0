//! `clock`: runs a command and tells it when records are due, so that every peer of an open loop
//! has the same pace and pays the same for it.
//!
//! **Runs on: any.** The command's standard input is a non-blocking socket that carries due times,
//! eight bytes each: nanoseconds since 1970, little endian. It ends when the clock does. What this
//! process takes is not the command's.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use trine_bench::thread::pin;

/// Runs a command with a clock on its standard input.
#[derive(Parser)]
struct Arguments {
    /// Records a second.
    #[arg(long)]
    rate: f64,
    /// How long the clock runs.
    #[arg(long)]
    seconds: f64,
    /// The core to pin the clock to.
    #[arg(long, default_value_t = 1)]
    cpu: u32,
    /// The command.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("clock: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> std::io::Result<ExitCode> {
    let (ours, theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    let mut child = Command::new(&arguments.command[0])
        .args(&arguments.command[1..])
        .stdin(OwnedFd::from(theirs))
        .spawn()?;
    pin(arguments.cpu)?;
    // A command that ends early is told by its status.
    if let Err(error) = tick(&ours, arguments) {
        eprintln!("clock: {error}");
    }
    drop(ours);
    let code = child.wait()?.code().unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// Writes each due time when it is due; what a full socket held up is written late, with its time.
fn tick(mut to: &UnixStream, arguments: &Arguments) -> std::io::Result<()> {
    let (began, began_ns) = (Instant::now(), since_1970().as_nanos() as u64);
    let interval = Duration::from_secs_f64(1.0 / arguments.rate);
    let count = (arguments.rate * arguments.seconds) as u32;
    let mut due = Vec::new();
    let mut next = 0;
    while next < count {
        let wait = (interval * next).saturating_sub(began.elapsed());
        if !wait.is_zero() {
            thread::sleep(wait);
        }
        let now = began.elapsed();
        due.clear();
        while next < count && interval * next <= now {
            let at_ns = began_ns + (interval * next).as_nanos() as u64;
            due.extend_from_slice(&at_ns.to_le_bytes());
            next += 1;
        }
        to.write_all(&due)?;
    }
    Ok(())
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
