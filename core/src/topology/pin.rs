//! Binding a thread to its CPU, and checking that the kernel did it.
//!
//! **Runs on: shard** (its own thread) and **control**.

use std::fmt;

use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// Binds the calling thread to `cpu` and verifies it: the affinity mask is exactly that CPU and
/// the thread runs there.
///
/// # Errors
/// [`PinError`] when the CPU is out of range, the kernel refuses, or the check fails.
pub fn pin_current_thread(cpu: usize) -> Result<(), PinError> {
    restrict_current_thread(&[cpu])?;
    let runs_on = sched_getcpu();
    if runs_on == cpu { Ok(()) } else { Err(PinError::Elsewhere { cpu, runs_on }) }
}

/// Restricts the calling thread, and the threads and processes it starts from now on, to `cpus`,
/// and verifies the mask.
///
/// # Errors
/// As [`pin_current_thread`].
pub fn restrict_current_thread(cpus: &[usize]) -> Result<(), PinError> {
    let mut wanted = CpuSet::new();
    for &cpu in cpus {
        if cpu >= CpuSet::MAX_CPU {
            return Err(PinError::OutOfRange { cpu });
        }
        wanted.set(cpu);
    }
    sched_setaffinity(None, &wanted).map_err(PinError::Refused)?;
    let granted = sched_getaffinity(None).map_err(PinError::Refused)?;
    if granted == wanted { Ok(()) } else { Err(PinError::NotGranted) }
}

/// Why a thread is not where the plan wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinError {
    /// Beyond the kernel's CPU mask (1,024).
    OutOfRange {
        /// The CPU asked for.
        cpu: usize,
    },
    /// The kernel said no: offline, outside the cpuset, or forbidden.
    Refused(Errno),
    /// The kernel granted another mask.
    NotGranted,
    /// The thread was still seen on another CPU.
    Elsewhere {
        /// The CPU asked for.
        cpu: usize,
        /// Where it ran.
        runs_on: usize,
    },
}

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PinError::OutOfRange { cpu } => write!(f, "cpu {cpu} is beyond the kernel's mask"),
            PinError::Refused(errno) => write!(f, "sched_setaffinity: {errno}"),
            PinError::NotGranted => f.write_str("the kernel granted another CPU mask"),
            PinError::Elsewhere { cpu, runs_on } => {
                write!(f, "asked for cpu {cpu}, runs on cpu {runs_on}")
            }
        }
    }
}

impl std::error::Error for PinError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_and_verifies() {
        let allowed = sched_getaffinity(None).unwrap();
        let first = (0..CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu)).unwrap();
        std::thread::spawn(move || {
            pin_current_thread(first).unwrap();
            assert_eq!(sched_getcpu(), first);
            assert_eq!(
                pin_current_thread(CpuSet::MAX_CPU),
                Err(PinError::OutOfRange { cpu: CpuSet::MAX_CPU })
            );
        })
        .join()
        .unwrap();
    }
}
