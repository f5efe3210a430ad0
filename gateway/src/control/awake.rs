//! Keeps the CPUs of busy shards from halting, so that they are back in time.
//!
//! **Runs on: control.** A CPU that halts is late when it is wanted: by tens of microseconds out of
//! a deep idle state, and a virtual one by milliseconds, once in a while, until its host runs it
//! again. Linux takes a limit of that for each CPU (PM QoS, `pm_qos_resume_latency_us`); with `n/a`,
//! no delay at all, it polls instead of halting, which costs power and is nobody's CPU time. It is
//! asked for while turns come so fast that they meet halts, and given up when the shard is quiet or
//! control ends. A control that was killed leaves it to the next one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio::time::MissedTickBehavior;
use trine_core::metrics::{Counter, Page};

use super::state::{Shared, State};
use crate::limits::{AWAKE_INTERVAL, AWAKE_QUIET_LOOKS, AWAKE_TURNS};

const CPUS: &str = "/sys/devices/system/cpu";
const NO_DELAY: &str = "n/a";
const ANY_DELAY: &str = "0";

/// Follows the shards until the system refuses what is asked of it.
pub async fn follow(shared: Shared) {
    let mut awake = Awake::new(Path::new(CPUS));
    let mut interval = tokio::time::interval(AWAKE_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let turns = shared.with(|state| turns(state));
        if let Err(error) = awake.look(&turns) {
            tracing::warn!(%error, "shards.keep_awake: CPUs can't be kept from halting");
            return;
        }
    }
}

/// The turns of all shards of each CPU since they were first counted.
fn turns(state: &State) -> BTreeMap<usize, u64> {
    let mut turns = BTreeMap::new();
    for (cpu, page) in state.cpus.iter().zip(&state.pages) {
        *turns.entry(*cpu).or_default() += Page::snapshot(page).counter(Counter::Turns);
    }
    turns
}

/// CPUs, and what was asked of the system for each.
struct Awake {
    folder: PathBuf,
    cpus: BTreeMap<usize, Cpu>,
}

/// A CPU that shards run on.
#[derive(Default)]
struct Cpu {
    turns: u64,
    /// Looks in a row that found it quiet.
    quiet: u32,
    is_awake: bool,
}

impl Awake {
    fn new(folder: &Path) -> Awake {
        Awake { folder: folder.to_owned(), cpus: BTreeMap::new() }
    }

    /// Takes in the turns of each CPU so far.
    fn look(&mut self, turns: &BTreeMap<usize, u64>) -> io::Result<()> {
        for (&number, &turns) in turns {
            let file = self.file(number);
            let cpu = match self.cpus.get_mut(&number) {
                Some(cpu) => cpu,
                None => {
                    let is_awake = fs::read_to_string(&file)?.trim() == NO_DELAY;
                    self.cpus.entry(number).or_insert(Cpu { turns, quiet: 0, is_awake })
                }
            };
            let more = turns.saturating_sub(std::mem::replace(&mut cpu.turns, turns));
            cpu.quiet = if more >= AWAKE_TURNS { 0 } else { cpu.quiet + 1 };
            let wanted = match cpu.is_awake {
                true => cpu.quiet < AWAKE_QUIET_LOOKS,
                false => cpu.quiet == 0,
            };
            if wanted != cpu.is_awake {
                fs::write(&file, if wanted { NO_DELAY } else { ANY_DELAY })?;
                cpu.is_awake = wanted;
            }
        }
        Ok(())
    }

    fn file(&self, cpu: usize) -> PathBuf {
        self.folder.join(format!("cpu{cpu}/power/pm_qos_resume_latency_us"))
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for (&number, _) in self.cpus.iter().filter(|(_, cpu)| cpu.is_awake) {
            // Nobody is left to be told of an error.
            let _ = fs::write(self.file(number), ANY_DELAY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder as the system's, of so many CPUs.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str, cpus: usize) -> Folder {
            let path = std::env::temp_dir().join(format!("trine-{name}-{}", std::process::id()));
            for cpu in 0..cpus {
                let power = path.join(format!("cpu{cpu}/power"));
                fs::create_dir_all(&power).unwrap();
                fs::write(power.join("pm_qos_resume_latency_us"), "0\n").unwrap();
            }
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn values(awake: &Awake, cpus: usize) -> Vec<String> {
        let read = |cpu| fs::read_to_string(awake.file(cpu)).unwrap().trim().to_owned();
        (0..cpus).map(read).collect()
    }

    #[test]
    fn a_busy_cpu_stays_awake_until_it_is_quiet_for_a_while() {
        let folder = Folder::new("busy", 2);
        let mut awake = Awake::new(&folder.0);
        let mut turns = BTreeMap::from([(0, 1_000_000), (1, 7)]);
        let mut look = |awake: &mut Awake, more| {
            *turns.get_mut(&0).unwrap() += more;
            awake.look(&turns).unwrap();
            values(awake, 2)
        };
        assert_eq!(look(&mut awake, 0), ["0", "0"], "what was before says nothing");
        assert_eq!(look(&mut awake, AWAKE_TURNS - 1), ["0", "0"]);
        assert_eq!(look(&mut awake, AWAKE_TURNS), ["n/a", "0"]);
        for _ in 1..AWAKE_QUIET_LOOKS {
            assert_eq!(look(&mut awake, 0), ["n/a", "0"]);
        }
        assert_eq!(look(&mut awake, AWAKE_TURNS), ["n/a", "0"], "quiet looks in a row count");
        for _ in 1..AWAKE_QUIET_LOOKS {
            look(&mut awake, 0);
        }
        assert_eq!(look(&mut awake, 0), ["0", "0"]);
    }

    #[test]
    fn nothing_stays_awake_after_control() {
        let folder = Folder::new("after", 1);
        let file = Awake::new(&folder.0).file(0);
        let quiet = BTreeMap::from([(0, 1)]);
        let mut awake = Awake::new(&folder.0);
        awake.look(&quiet).unwrap();
        awake.look(&BTreeMap::from([(0, 1 + AWAKE_TURNS)])).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "n/a");
        // As if it was killed: the next one takes it over.
        std::mem::forget(awake);
        let mut next = Awake::new(&folder.0);
        for _ in 0..AWAKE_QUIET_LOOKS {
            assert_eq!(fs::read_to_string(&file).unwrap(), "n/a");
            next.look(&quiet).unwrap();
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "0");
        next.look(&BTreeMap::from([(0, 1 + AWAKE_TURNS)])).unwrap();
        drop(next);
        assert_eq!(fs::read_to_string(&file).unwrap(), "0");
    }

    #[test]
    fn a_system_without_the_file_is_an_error() {
        let folder = Folder::new("none", 0);
        assert!(Awake::new(&folder.0).look(&BTreeMap::from([(0, 1)])).is_err());
    }
}
