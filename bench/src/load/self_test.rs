//! Breaks deliveries on purpose and says whether the checker counted exactly
//! those: a checker that finds nothing proves little until it was seen to find
//! something.
//!
//! **Runs on: any**; starts a floor server on a thread of its own.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::{Options, Row, Tamper, run};
use crate::check::Faults;
use crate::floor::{Floor, TICK};
use crate::message::Format;
use crate::ring::Net;

/// One broken run: how, how often, what was found.
pub struct Finding {
    /// What was done to deliveries; `None`: nothing.
    pub tamper: Option<Tamper>,
    /// How often.
    pub times: u64,
    /// What the checker must find.
    pub expected: Faults,
    /// What it found.
    pub found: Faults,
}

impl Finding {
    /// Whether the checker was right, and had something to be right about.
    pub fn right(&self) -> bool {
        self.found == self.expected && (self.times > 0 || self.tamper.is_none())
    }
}

/// Runs the chat row untouched and with each way of breaking it, in both
/// formats.
pub fn self_test() -> io::Result<Vec<Finding>> {
    let address = start_floor()?;
    let mut findings = Vec::new();
    for format in [Format::Protobuf, Format::Json] {
        for tamper in [None].into_iter().chain(Tamper::ALL.map(Some)) {
            let report = run(options(address, format, tamper))?;
            findings.push(Finding {
                tamper,
                times: report.tampered,
                expected: tamper.map_or(Faults::default(), |t| t.expected(report.tampered)),
                found: report.faults,
            });
        }
    }
    Ok(findings)
}

fn start_floor() -> io::Result<SocketAddrV4> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || -> io::Result<()> {
        let mut net = Net::new()?;
        let address = net.listen(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        net.tick_every(TICK);
        let _ = sender.send(address);
        net.run(&mut Floor::new())
    });
    receiver.recv().map_err(|_| io::Error::other("the floor server did not start"))
}

fn options(address: SocketAddrV4, format: Format, tamper: Option<Tamper>) -> Options {
    Options {
        address,
        row: Row::Chat,
        format,
        connections: 20,
        window: 4,
        payload_bytes: 128,
        warm_up: Duration::from_millis(50),
        measured: Duration::from_millis(200),
        rate: None,
        spin: false,
        server_pid: None,
        broker_pid: None,
        server_cpu: 0,
        own_cpu: 0,
        channel_prefix: String::new(),
        at: String::new(),
        tamper,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checker_counts_exactly_what_was_broken() {
        for finding in super::self_test().expect("a floor server and a load") {
            assert!(
                finding.right(),
                "{:?} {} times: expected {:?}, found {:?}",
                finding.tamper,
                finding.times,
                finding.expected,
                finding.found
            );
        }
    }
}
