//! What signals ask of control.
//!
//! **Runs on: control.**
//!
//! SIGTERM and SIGINT stop. SIGHUP stops only when control was started from a terminal, and not
//! under `nohup`; otherwise it is kept for reload, which does not exist yet.

use std::io::{self, IsTerminal};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Drain and exit; the second time, exit at once.
    Stop,
}

/// The handlers. They stay installed for the process's life.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    hangup_stops: bool,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// What the system says.
    pub fn install() -> io::Result<Signals> {
        let terminal = io::stdin().is_terminal() || io::stderr().is_terminal();
        let hangup_stops = terminal && !hangup_is_ignored();
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            hangup_stops,
        })
    }

    /// The next thing asked for. Safe to drop and call again.
    pub async fn next(&mut self) -> Asked {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Asked::Stop,
                _ = self.interrupt.recv() => return Asked::Stop,
                _ = self.hangup.recv() => {
                    if self.hangup_stops {
                        return Asked::Stop;
                    }
                    tracing::warn!("SIGHUP is kept for reload, which is not there yet: ignored");
                }
            }
        }
    }
}

/// Whether the process was started with SIGHUP ignored, as `nohup` does. Installing a handler
/// would silently undo that.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}
