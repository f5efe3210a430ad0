//! What the kernel charged to whom: CPU time of a server's whole process tree
//! and of its core's `ksoftirqd`, memory, slab, and what others took.
//!
//! **Runs on: any.** Linux `/proc` only. Times are in steps of 10 ms: measure
//! for seconds. [`own_cpu`] alone is exact.
#![allow(unsafe_code)] // getrusage

use std::time::Duration;
use std::{fs, mem};

/// Clock ticks a second in `/proc` (`USER_HZ`, a constant of the interface).
const TICKS_PER_SECOND: f64 = 100.0;

/// Whom to account for.
pub struct Watch {
    server: Vec<u32>,
    broker: Option<u32>,
    softirq: Option<u32>,
    server_cpu: u32,
    own_cpu: u32,
}

/// One reading; differences of two mean something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    server_ticks: u64,
    broker_ticks: u64,
    softirq_ticks: u64,
    own_ticks: u64,
    server_cpu_ticks: u64,
    own_cpu_ticks: u64,
    steal_ticks: u64,
}

/// CPU seconds between two readings.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Usage {
    /// All processes and threads of the server.
    pub server_s: f64,
    /// What stands behind the server, on whatever cores.
    pub broker_s: f64,
    /// `ksoftirqd` of the server's core.
    pub softirq_s: f64,
    /// This process.
    pub own_s: f64,
    /// Time on both cores that was neither the server's, the broker's nor ours.
    pub others_s: f64,
    /// Time that the hypervisor gave to other machines.
    pub steal_s: f64,
}

impl Watch {
    /// Watches a server process and its descendants, as they are now, and the
    /// broker behind it.
    pub fn new(
        server_pid: Option<u32>,
        broker: Option<u32>,
        server_cpu: u32,
        own_cpu: u32,
    ) -> Watch {
        let softirq = find_by_name(&format!("ksoftirqd/{server_cpu}"));
        let server = server_pid.map(process_tree).unwrap_or_default();
        Watch { server, broker, softirq, server_cpu, own_cpu }
    }

    /// Reads everything.
    pub fn read(&self) -> Reading {
        let (server_cpu_ticks, steal) = cpu_ticks(self.server_cpu);
        let (own_cpu_ticks, own_steal) = cpu_ticks(self.own_cpu);
        Reading {
            server_ticks: self.server.iter().map(|&pid| process_ticks(pid)).sum(),
            broker_ticks: self.broker.map_or(0, process_ticks),
            softirq_ticks: self.softirq.map_or(0, process_ticks),
            own_ticks: process_ticks(std::process::id()),
            server_cpu_ticks,
            own_cpu_ticks,
            steal_ticks: steal + own_steal,
        }
    }

    /// Resident memory of all the server's processes.
    pub fn server_resident_bytes(&self) -> u64 {
        self.server.iter().map(|&pid| resident_bytes(pid)).sum()
    }
}

impl Reading {
    /// The usage from an earlier reading to this one.
    pub fn since(&self, earlier: &Reading) -> Usage {
        let seconds = |now: u64, then: u64| now.saturating_sub(then) as f64 / TICKS_PER_SECOND;
        let server_s = seconds(self.server_ticks, earlier.server_ticks);
        let broker_s = seconds(self.broker_ticks, earlier.broker_ticks);
        let softirq_s = seconds(self.softirq_ticks, earlier.softirq_ticks);
        let own_s = seconds(self.own_ticks, earlier.own_ticks);
        let both = seconds(self.server_cpu_ticks, earlier.server_cpu_ticks)
            + seconds(self.own_cpu_ticks, earlier.own_cpu_ticks);
        Usage {
            server_s,
            broker_s,
            softirq_s,
            own_s,
            others_s: (both - server_s - broker_s - softirq_s - own_s).max(0.0),
            steal_s: seconds(self.steal_ticks, earlier.steal_ticks),
        }
    }
}

/// User and system time of this process, all threads.
pub fn own_cpu() -> Duration {
    // SAFETY: the call fills a local struct of the right type; all zeros is a value of it.
    let usage = unsafe {
        let mut usage: libc::rusage = mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// The kernel's slab memory of the whole machine that is in use: objects, not
/// the pages kept for them, since those outlive the connections of an earlier
/// run. Where only the pages are told (no right to read slabinfo), those.
pub fn slab_bytes() -> u64 {
    match fs::read_to_string("/proc/slabinfo") {
        Ok(text) => text.lines().filter_map(slab_cache_bytes).sum(),
        Err(_) => {
            let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
            kilobytes(&text, "Slab:") * 1024
        }
    }
}

/// A line of slabinfo: name, active objects, objects, object size, ….
fn slab_cache_bytes(line: &str) -> Option<u64> {
    let mut fields = line.split_whitespace().skip(1);
    let active: u64 = fields.next()?.parse().ok()?;
    let size: u64 = fields.nth(1)?.parse().ok()?;
    Some(active * size)
}

/// A process and all that descend from it.
fn process_tree(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = processes()
        .filter_map(|pid| Some((pid, stat_fields(pid)?.get(1)?.parse().ok()?)))
        .collect();
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&parent) = tree.get(next) {
        tree.extend(parents.iter().filter(|&&(_, p)| p == parent).map(|&(pid, _)| pid));
        next += 1;
    }
    tree
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn find_by_name(name: &str) -> Option<u32> {
    processes().find(|pid| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
    })
}

/// The fields of `/proc/PID/stat` after the name: state, parent, ….
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// User and system time of a process with all its threads, also ended ones.
fn process_ticks(pid: u32) -> u64 {
    let Some(fields) = stat_fields(pid) else { return 0 };
    let field = |index: usize| fields.get(index).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    field(11) + field(12)
}

/// Time in which a core was neither idle nor waiting, and what was stolen.
fn cpu_ticks(cpu: u32) -> (u64, u64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let name = format!("cpu{cpu} ");
    let Some(line) = text.lines().find_map(|line| line.strip_prefix(&name)) else { return (0, 0) };
    let fields: Vec<u64> = line.split_whitespace().filter_map(|f| f.parse().ok()).collect();
    let field = |index: usize| fields.get(index).copied().unwrap_or(0);
    let busy = field(0) + field(1) + field(2) + field(5) + field(6);
    (busy, field(7))
}

fn resident_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    kilobytes(&text, "VmRSS:") * 1024
}

fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
