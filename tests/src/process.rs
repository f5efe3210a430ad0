//! Processes by id: who is whose child, is one alive, signals.
//!
//! **Runs on: any.** Nothing is ever ended by name.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// Ids of the processes whose parent is `parent`.
pub fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc is readable").flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id| status(*id).is_some_and(|(state, of)| of == parent && state != 'Z')).collect()
}

/// Whether `id` is a process that runs (a zombie doesn't).
pub fn is_alive(id: u32) -> bool {
    status(id).is_some_and(|(state, _)| state != 'Z')
}

/// The most memory that `id` has had, in bytes (its resident set).
pub fn peak_memory_bytes(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a process has it");
    let kibibytes = line.trim().trim_end_matches(" kB").parse::<u64>();
    kibibytes.expect("the kernel writes a number") << 10
}

/// Whether nothing of `id` is left: no thread of it holds a file any more.
pub fn is_gone(id: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{id}/task")).map_or(0, Iterator::count);
    threads <= 1 && !is_alive(id)
}

/// Sends `signal`; a process that is gone already is none of the caller's trouble.
pub fn signal(id: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(id as i32) {
        let _ = kill_process(pid, signal);
    }
}

/// The CPUs that a thread of `id` may run on, as the kernel lists them; `thread` is its name.
pub fn allowed_cpus(id: u32, thread: &str) -> Option<String> {
    let threads = fs::read_dir(format!("/proc/{id}/task")).ok()?.flatten();
    threads.map(|entry| entry.path()).find_map(|task| {
        let name = fs::read_to_string(task.join("comm")).ok()?;
        let status = fs::read_to_string(task.join("status")).ok()?;
        let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        (name.trim() == thread).then(|| cpus.trim().to_owned())
    })
}

/// State and parent, from the fields behind the command's closing parenthesis.
fn status(id: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
