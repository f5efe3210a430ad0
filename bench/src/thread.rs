//! Where a thread runs, and how exactly it sleeps.
//!
//! **Runs on: any.**
#![allow(unsafe_code)]

use std::{io, mem};

/// Pins this thread, and makes its short sleeps short.
///
/// # Errors
/// There is no such core, or it is not ours.
pub fn pin(cpu: u32) -> io::Result<()> {
    // SAFETY: plain system calls on a local set of the right size.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(cpu as usize, &mut set);
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
        if libc::sched_setaffinity(0, size_of_val(&set), &raw const set) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
