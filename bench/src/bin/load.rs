//! `load`: runs one row of the benchmark against a server and prints what it
//! found as one line of JSON. `bench/run` calls it; `load --help` for people.
//!
//! **Runs on: any.**

use std::net::SocketAddrV4;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use trine_bench::load::{self, Options, Row};
use trine_bench::message::Format;
use trine_bench::thread::pin;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormatName {
    Json,
    Protobuf,
}

/// Loads a server that speaks the centrifuge client protocol.
#[derive(Parser)]
struct Arguments {
    /// The server's client listener.
    #[arg(long, required_unless_present = "self_test")]
    address: Option<SocketAddrV4>,
    /// rpc, ticket, publish, fanout, deliver, chat, idle or churn.
    #[arg(long, value_parser = |name: &str| Row::by_name(name).ok_or("no such row"), required_unless_present = "self_test")]
    row: Option<Row>,
    #[arg(long, value_enum, default_value = "protobuf")]
    format: FormatName,
    /// Clients; with fanout and deliver the sender comes on top.
    #[arg(long, default_value_t = 1000)]
    connections: u32,
    /// Closed loop: messages in flight for each sender.
    #[arg(long, default_value_t = 1)]
    window: u32,
    /// Bytes of a message's payload.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Seconds before measuring.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Seconds measured.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Open loop at this many units a second.
    #[arg(long)]
    rate: Option<f64>,
    /// Never sleep.
    #[arg(long)]
    spin: bool,
    /// The server's first process, to account for.
    #[arg(long)]
    server_pid: Option<u32>,
    /// What stands behind the server, to account for by itself.
    #[arg(long)]
    broker_pid: Option<u32>,
    /// The core that the server is pinned to.
    #[arg(long, default_value_t = 0)]
    server_cpu: u32,
    /// The core to pin this tool to.
    #[arg(long, default_value_t = 1)]
    cpu: u32,
    /// Goes in front of every channel's name.
    #[arg(long, default_value = "")]
    channel_prefix: String,
    /// With ticket and deliver: what must have the records, kafka, journal, spool or any.
    #[arg(long, default_value = "kafka")]
    at: String,
    /// Breaks deliveries on purpose and shows that the checker counts them.
    #[arg(long)]
    self_test: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = pin(arguments.cpu) {
        eprintln!("load: cannot pin to cpu {}: {error}", arguments.cpu);
    }
    if arguments.self_test {
        return self_test();
    }
    let (Some(address), Some(row)) = (arguments.address, arguments.row) else {
        unreachable!("the parser asks for both");
    };
    match load::run(options(address, row, arguments)) {
        Ok(report) => {
            println!("{}", serde_json::to_string(&report).expect("a plain struct"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn self_test() -> ExitCode {
    let findings = match load::self_test() {
        Ok(findings) => findings,
        Err(error) => {
            eprintln!("load: {error}");
            return ExitCode::FAILURE;
        }
    };
    for finding in &findings {
        let what = finding.tamper.map_or("nothing".into(), |tamper| format!("{tamper:?}"));
        let verdict = if finding.right() { "ok" } else { "WRONG" };
        println!("{verdict:5} {what:8} x {:<5} found {:?}", finding.times, finding.found);
    }
    if findings.iter().all(load::Finding::right) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn options(address: SocketAddrV4, row: Row, arguments: Arguments) -> Options {
    Options {
        address,
        row,
        format: match arguments.format {
            FormatName::Json => Format::Json,
            FormatName::Protobuf => Format::Protobuf,
        },
        connections: arguments.connections,
        window: arguments.window,
        payload_bytes: arguments.payload,
        warm_up: Duration::from_secs_f64(arguments.warm_up),
        measured: Duration::from_secs_f64(arguments.seconds),
        rate: arguments.rate,
        spin: arguments.spin,
        server_pid: arguments.server_pid,
        broker_pid: arguments.broker_pid,
        server_cpu: arguments.server_cpu,
        own_cpu: arguments.cpu,
        channel_prefix: arguments.channel_prefix,
        at: arguments.at,
        tamper: None,
    }
}
