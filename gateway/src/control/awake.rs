//! Keeps the CPUs of busy shards from halting, so that they are back in time.
//!
//! **Runs on: control.** A CPU that halts is late when it is wanted: by tens of microseconds out of
//! a deep idle state, and a virtual one by milliseconds, once in a while, until its host runs it
//! again. Linux takes a limit of that for each CPU (PM QoS, `pm_qos_resume_latency_us`); with `n/a`,
//! no delay at all, it polls instead of halting, which costs power and is nobody's CPU time. It is
//! asked for while turns come so fast that they meet halts, and given up when the shard is quiet or
//! control ends. Invariant: before a CPU's setting is changed, a note in `runtime_dir` says what it
//! was, so that the next control takes back what one that was killed has left.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::PathBuf;

use tokio::time::MissedTickBehavior;
use trine_core::metrics::{Counter, Page};

use super::state::{Shared, State};
use crate::limits::{AWAKE_INTERVAL, AWAKE_QUIET_LOOKS, AWAKE_TURNS};

const CPUS: &str = "/sys/devices/system/cpu";
const NO_DELAY: &str = "n/a";

/// CPUs, and what was asked of the system for each.
pub struct Awake {
    folder: PathBuf,
    note: PathBuf,
    cpus: BTreeMap<usize, Cpu>,
}

/// A CPU that shards run on.
#[derive(Default)]
struct Cpu {
    turns: u64,
    /// Looks in a row that found it quiet.
    quiet: u32,
    /// What was asked for before; `None`: it still is.
    before: Option<String>,
}

impl Awake {
    /// Takes back what a control has left that was killed. `note` is where it said so.
    pub fn new(note: PathBuf) -> Awake {
        Awake::of(PathBuf::from(CPUS), note)
    }

    fn of(folder: PathBuf, note: PathBuf) -> Awake {
        let awake = Awake { folder, note, cpus: BTreeMap::new() };
        for line in fs::read_to_string(&awake.note).unwrap_or_default().lines() {
            let Some((cpu, before)) = line.split_once(' ') else { continue };
            let Ok(cpu) = cpu.parse() else { continue };
            let file = awake.file(cpu);
            // Another value is somebody else's.
            if fs::read_to_string(&file).is_ok_and(|value| value.trim() == NO_DELAY)
                && let Err(error) = fs::write(&file, before)
            {
                tracing::warn!(cpu, %error, "a CPU stays awake that was kept so before");
            }
        }
        let _ = fs::remove_file(&awake.note);
        awake
    }

    /// Follows the shards until the system refuses what is asked of it.
    pub async fn follow(mut self, shared: Shared) {
        let mut interval = tokio::time::interval(AWAKE_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let turns = shared.with(|state| turns(state));
            if let Err(error) = self.look(&turns) {
                // The runtime directory is made anew when it is wanted.
                if self.note.parent().is_some_and(|folder| !folder.exists()) {
                    continue;
                }
                tracing::info!(%error, "CPUs of busy shards may halt (shards.keep_awake): longer tails");
                return;
            }
        }
    }

    /// Takes in the turns of each CPU so far.
    fn look(&mut self, turns: &BTreeMap<usize, u64>) -> io::Result<()> {
        let gone: Vec<usize> =
            self.cpus.keys().filter(|cpu| !turns.contains_key(cpu)).copied().collect();
        for number in gone {
            self.release(number)?;
            self.cpus.remove(&number);
        }
        for (&number, &turns) in turns {
            let new = Cpu { turns, ..Cpu::default() };
            let cpu = self.cpus.entry(number).or_insert(new);
            let more = turns.saturating_sub(std::mem::replace(&mut cpu.turns, turns));
            cpu.quiet = if more >= AWAKE_TURNS { 0 } else { cpu.quiet.saturating_add(1) };
            let (quiet, is_awake) = (cpu.quiet, cpu.before.is_some());
            if quiet == 0 && !is_awake {
                self.hold(number)?;
            } else if quiet >= AWAKE_QUIET_LOOKS && is_awake {
                self.release(number)?;
            }
        }
        Ok(())
    }

    fn hold(&mut self, number: usize) -> io::Result<()> {
        let file = self.file(number);
        let before = fs::read_to_string(&file)?.trim().to_owned();
        if before == NO_DELAY {
            // Whoever tunes this system has seen to it.
            return Ok(());
        }
        self.cpus.entry(number).or_default().before = Some(before);
        self.write_note()?;
        fs::write(&file, NO_DELAY).inspect_err(|_| {
            self.cpus.entry(number).or_default().before = None;
            let _ = self.write_note();
        })
    }

    fn release(&mut self, number: usize) -> io::Result<()> {
        let file = self.file(number);
        let Some(cpu) = self.cpus.get_mut(&number) else { return Ok(()) };
        let Some(before) = &cpu.before else { return Ok(()) };
        fs::write(&file, before)?;
        cpu.before = None;
        self.write_note()
    }

    fn write_note(&self) -> io::Result<()> {
        let mut text = String::new();
        for (number, cpu) in &self.cpus {
            if let Some(before) = &cpu.before {
                let _ = writeln!(text, "{number} {before}");
            }
        }
        match text.is_empty() {
            true => fs::remove_file(&self.note).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }),
            // At once, whatever ends control meanwhile.
            false => {
                let new = self.note.with_extension("new");
                fs::write(&new, text).and_then(|()| fs::rename(&new, &self.note))
            }
        }
    }

    fn file(&self, cpu: usize) -> PathBuf {
        self.folder.join(format!("cpu{cpu}/power/pm_qos_resume_latency_us"))
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        let all: Vec<usize> = self.cpus.keys().copied().collect();
        for number in all {
            if let Err(error) = self.release(number) {
                tracing::warn!(cpu = number, %error, "a CPU stays awake");
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder as the system's, of so many CPUs.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str, cpus: usize) -> Folder {
            let path = std::env::temp_dir().join(format!("trine-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            for cpu in 0..cpus {
                let power = path.join(format!("cpu{cpu}/power"));
                fs::create_dir_all(&power).unwrap();
                fs::write(power.join("pm_qos_resume_latency_us"), "0\n").unwrap();
            }
            Folder(path)
        }

        fn awake(&self) -> Awake {
            Awake::of(self.0.clone(), self.note())
        }

        fn note(&self) -> PathBuf {
            self.0.join("note")
        }

        fn file(&self, cpu: usize) -> PathBuf {
            self.0.join(format!("cpu{cpu}/power/pm_qos_resume_latency_us"))
        }

        fn value(&self, cpu: usize) -> String {
            fs::read_to_string(self.file(cpu)).unwrap().trim().to_owned()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_busy_cpu_stays_awake_until_it_is_quiet_for_a_while() {
        let folder = Folder::new("busy", 2);
        let mut awake = folder.awake();
        let mut turns = BTreeMap::from([(0, 1_000_000), (1, 7)]);
        let mut look = |awake: &mut Awake, more| {
            *turns.get_mut(&0).unwrap() += more;
            awake.look(&turns).unwrap();
            [folder.value(0), folder.value(1)]
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
        assert!(!folder.note().exists());
    }

    #[test]
    fn nothing_stays_awake_after_control_or_without_a_shard() {
        let folder = Folder::new("after", 2);
        let busy = |awake: &mut Awake, cpu| {
            awake.look(&BTreeMap::from([(cpu, 1)])).unwrap();
            awake.look(&BTreeMap::from([(cpu, 1 + AWAKE_TURNS)])).unwrap();
            assert_eq!(folder.value(cpu), "n/a");
        };
        fs::write(folder.file(0), "50").unwrap();
        let mut awake = folder.awake();
        busy(&mut awake, 0);
        // As if it was killed: the next one takes it back, whatever it is told to do.
        std::mem::forget(awake);
        let mut next = folder.awake();
        assert_eq!(folder.value(0), "50");
        busy(&mut next, 0);
        busy(&mut next, 1);
        assert_eq!(folder.value(0), "50", "no shard is on it any more");
        drop(next);
        assert_eq!((&*folder.value(1), folder.note().exists()), ("0", false));
    }

    #[test]
    fn what_others_ask_for_stays() {
        let folder = Folder::new("others", 1);
        fs::write(folder.file(0), "n/a").unwrap();
        let mut awake = folder.awake();
        awake.look(&BTreeMap::from([(0, 1)])).unwrap();
        for look in 1..10 {
            awake.look(&BTreeMap::from([(0, 1 + look.min(5) * AWAKE_TURNS)])).unwrap();
        }
        drop(awake);
        assert_eq!(folder.value(0), "n/a");
    }

    #[test]
    fn a_system_without_the_file_is_an_error() {
        let folder = Folder::new("none", 0);
        let mut awake = folder.awake();
        awake.look(&BTreeMap::from([(0, 1)])).unwrap();
        assert!(awake.look(&BTreeMap::from([(0, 1 + AWAKE_TURNS)])).is_err());
        drop(awake);
        assert!(!folder.note().exists(), "nothing was changed");
    }
}
