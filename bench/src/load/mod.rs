//! One row of the benchmark against one server: opens the connections, warms
//! up, measures, drains, checks, reports.
//!
//! **Runs on: any** (one thread).
//!
//! Invariants: a unit is the same for every server (see [`Row`]); what is
//! counted is what came in between the two readings of the CPU's clocks; all
//! that was sent, also during warm-up, is checked.

mod driver;
mod places;
mod report;
mod self_test;
mod tamper;

use std::io;
use std::net::SocketAddrV4;
use std::time::Duration;

pub use driver::Driver;
pub use report::{Latency, Memory, Report};
pub use self_test::{Finding, self_test};
pub use tamper::Tamper;

use crate::message::Format;
use crate::ring::Net;

/// What is measured. The unit is what rates and costs are given for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// Every client calls rpc `echo`. Unit: a reply.
    Rpc,
    /// Every client calls rpc `ticket.create`, whose reply says where the log
    /// has it: at [`Options::at`], and no place twice. Unit: a reply.
    Ticket,
    /// Every client publishes into a channel of its own that nobody hears.
    /// Unit: a reply.
    Publish,
    /// One client publishes, all the others hear it. Unit: a delivery.
    FanOut,
    /// One client calls rpc `ticket.create`; a consumer of the server puts the
    /// record into the channel that all the others hear. Unit: a delivery.
    Deliver,
    /// Clients in pairs, a channel for each pair; both publish, both hear
    /// both. Unit: a delivery.
    Chat,
    /// Every client is subscribed to a channel of its own and keeps still.
    /// Afterwards each publishes once, to see that it was subscribed.
    Idle,
    /// Clients connect, subscribe, close, and begin anew. Unit: one such life.
    Churn,
}

impl Row {
    /// The row by its name on the command line.
    pub fn by_name(name: &str) -> Option<Row> {
        Some(match name {
            "rpc" => Row::Rpc,
            "ticket" => Row::Ticket,
            "publish" => Row::Publish,
            "fanout" => Row::FanOut,
            "deliver" => Row::Deliver,
            "chat" => Row::Chat,
            "idle" => Row::Idle,
            "churn" => Row::Churn,
            _ => return None,
        })
    }

    /// Whether clients only send and are answered.
    fn is_replies_only(self) -> bool {
        matches!(self, Row::Rpc | Row::Ticket | Row::Publish)
    }

    /// Whether one more client sends, and all the others hear it.
    fn is_one_to_all(self) -> bool {
        matches!(self, Row::FanOut | Row::Deliver)
    }

    /// Whether a reply says where the log has the record.
    fn is_durable(self) -> bool {
        matches!(self, Row::Ticket | Row::Deliver)
    }
}

/// How a row is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's client listener.
    pub address: SocketAddrV4,
    /// What is measured.
    pub row: Row,
    /// The form of the messages.
    pub format: Format,
    /// Clients; for [`Row::FanOut`] and [`Row::Deliver`] subscribers, the sender comes on top.
    pub connections: u32,
    /// Closed loop: messages in flight for each sender.
    pub window: u32,
    /// Of a message's payload.
    pub payload_bytes: usize,
    /// Before measuring.
    pub warm_up: Duration,
    /// Of the measurement.
    pub measured: Duration,
    /// Open loop at this many units a second; `None`: closed loop.
    pub rate: Option<f64>,
    /// Never sleep.
    pub spin: bool,
    /// The server's first process.
    pub server_pid: Option<u32>,
    /// What stands behind the server, and is not the server's cost.
    pub broker_pid: Option<u32>,
    /// The core that the server is pinned to.
    pub server_cpu: u32,
    /// The core that this tool is pinned to.
    pub own_cpu: u32,
    /// In front of every channel's name, to choose a namespace.
    pub channel_prefix: String,
    /// What must have the records of [`Row::Ticket`] and [`Row::Deliver`]: `kafka`, `journal`,
    /// `spool`; or `any`.
    pub at: String,
    /// Breaks deliveries on purpose, after they came in.
    pub tamper: Option<Tamper>,
}

impl Options {
    /// Units that one message makes.
    pub fn units_a_message(&self) -> u32 {
        match self.row {
            Row::FanOut | Row::Deliver => self.connections,
            Row::Chat => 2,
            _ => 1,
        }
    }
}

/// Runs a row to its end. Errors: the ring or a connection can't be had, or
/// the server broke the protocol.
pub fn run(options: Options) -> io::Result<Report> {
    let mut net = Net::new()?;
    if options.row != Row::Churn {
        net.reset_at_end();
    }
    let mut driver = Driver::new(options);
    net.run(&mut driver)?;
    driver.into_report()
}
