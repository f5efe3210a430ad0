//! `floor`: a single-threaded io_uring server that does only the workload's
//! system calls. A yardstick, not a server to use.
//!
//! **Runs on: any.**

use std::io;
use std::net::SocketAddrV4;

use clap::Parser;
use trine_bench::floor::{Floor, TICK};
use trine_bench::ring::Net;

/// Serves the benchmark's workload and nothing else.
#[derive(Parser)]
struct Arguments {
    /// The address of the client listener.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddrV4,
}

fn main() -> io::Result<()> {
    let mut net = Net::new()?;
    println!("listening on {}", net.listen(Arguments::parse().listen)?);
    net.tick_every(TICK);
    net.run(&mut Floor::new())
}
