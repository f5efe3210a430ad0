//! The machine as the kernel describes it, cut down to what this process may use.
//!
//! **Runs on: control**, once at start. Sources: `sched_getaffinity(2)`,
//! `/sys/devices/system/cpu/cpu*/topology`, `/sys/devices/system/node`, cgroup version 1 and 2.
//! What can't be read is taken in the plainest way: a CPU is a core of its own on node 0.

use std::fs;
use std::io;
use std::path::Path;

use rustix::thread::{CpuSet, sched_getaffinity};

use super::cgroup;

/// One CPU this process may run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpu {
    /// NUMA node.
    pub node: usize,
    /// The physical core: the lowest-numbered CPU of those that share it, allowed or not.
    pub core: usize,
    /// The kernel's number.
    pub id: usize,
}

/// The allowed CPUs and the allowed CPU time.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    /// Sorted by node, core, number. Never empty.
    pub cpus: Vec<Cpu>,
    /// CPU time the cgroup allows, in CPUs; `None` when unlimited.
    pub quota: Option<f64>,
}

impl Topology {
    /// This process on this machine.
    ///
    /// # Errors
    /// When `sched_getaffinity` fails.
    pub fn read() -> io::Result<Topology> {
        let mask = sched_getaffinity(None)?;
        let affinity: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| mask.is_set(cpu)).collect();
        Ok(Topology::read_from(Path::new("/"), &affinity))
    }

    /// The machine whose `/sys` and `/proc` lie under `root`, for a process with this affinity.
    ///
    /// # Panics
    /// If `affinity` is empty.
    pub fn read_from(root: &Path, affinity: &[usize]) -> Topology {
        assert!(!affinity.is_empty(), "a running thread has a CPU");
        let limits = cgroup::read(root);
        let within = |cpu: &usize| limits.cpus.as_ref().is_none_or(|set| set.contains(cpu));
        let mut allowed: Vec<usize> = affinity.iter().copied().filter(within).collect();
        if allowed.is_empty() {
            // The two sources disagree, as in some sandboxes: the mask is what the kernel enforces.
            allowed = affinity.to_vec();
        }
        let nodes = nodes(root);
        let mut cpus: Vec<Cpu> = allowed
            .into_iter()
            .map(|id| Cpu {
                id,
                core: core(root, id),
                node: nodes
                    .iter()
                    .find(|(_, cpus)| cpus.contains(&id))
                    .map_or(0, |(node, _)| *node),
            })
            .collect();
        cpus.sort_unstable();
        cpus.dedup();
        Topology { cpus, quota: limits.quota }
    }

    /// The physical cores in order, each with its allowed CPUs.
    pub fn cores(&self) -> Vec<Vec<Cpu>> {
        let same_core = |a: &Cpu, b: &Cpu| a.core == b.core && a.node == b.node;
        self.cpus.chunk_by(same_core).map(<[Cpu]>::to_vec).collect()
    }

    /// How many NUMA nodes the allowed CPUs lie on.
    pub fn nodes(&self) -> usize {
        self.cpus.chunk_by(|a, b| a.node == b.node).count()
    }
}

fn core(root: &Path, cpu: usize) -> usize {
    let dir = root.join(format!("sys/devices/system/cpu/cpu{cpu}/topology"));
    ["core_cpus_list", "thread_siblings_list"]
        .iter()
        .find_map(|name| fs::read_to_string(dir.join(name)).ok())
        .and_then(|text| cgroup::parse_list(text.trim()))
        .and_then(|siblings| siblings.into_iter().min())
        .unwrap_or(cpu)
}

fn nodes(root: &Path) -> Vec<(usize, Vec<usize>)> {
    let Ok(entries) = fs::read_dir(root.join("sys/devices/system/node")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let node = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
            let list = fs::read_to_string(entry.path().join("cpulist")).ok()?;
            Some((node, cgroup::parse_list(list.trim())?))
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A machine made of files in a directory of its own.
    pub struct Machine {
        root: PathBuf,
    }

    impl Machine {
        pub fn new(name: &str) -> Machine {
            let root =
                std::env::temp_dir().join(format!("trine-topology-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            Machine { root }
        }

        pub fn file(&self, path: &str, text: &str) -> &Machine {
            let path = self.root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        /// `cores` cores of `threads` CPUs; siblings are `cores` apart, as on most x86 machines.
        pub fn cores(&self, cores: usize, threads: usize) -> &Machine {
            for cpu in 0..cores * threads {
                let siblings: Vec<String> =
                    (0..threads).map(|t| (cpu % cores + t * cores).to_string()).collect();
                self.file(
                    &format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"),
                    &format!("{}\n", siblings.join(",")),
                );
            }
            self
        }

        pub fn read(&self, affinity: &[usize]) -> Topology {
            Topology::read_from(&self.root, affinity)
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    #[test]
    fn a_bare_machine_is_cores_on_one_node() {
        let machine = Machine::new("bare");
        let topology = machine.read(&[2, 0]);
        let ids: Vec<usize> = topology.cpus.iter().map(|cpu| cpu.id).collect();
        assert_eq!(ids, [0, 2]);
        assert_eq!((topology.cores().len(), topology.nodes(), topology.quota), (2, 1, None));
    }

    #[test]
    fn siblings_and_nodes() {
        let machine = Machine::new("smt");
        machine
            .cores(4, 2)
            .file("sys/devices/system/node/node0/cpulist", "0-1,4-5\n")
            .file("sys/devices/system/node/node1/cpulist", "2-3,6-7\n")
            .file("sys/devices/system/node/possible", "0-1\n");
        let topology = machine.read(&[0, 1, 2, 3, 4, 5, 6]);
        let cores: Vec<Vec<usize>> =
            topology.cores().iter().map(|core| core.iter().map(|cpu| cpu.id).collect()).collect();
        assert_eq!(cores, [vec![0, 4], vec![1, 5], vec![2, 6], vec![3]]);
        assert_eq!(topology.nodes(), 2);
    }

    #[test]
    fn cgroup_v2_limits_at_any_level() {
        let machine = Machine::new("v2");
        machine
            .cores(4, 1)
            .file("proc/self/cgroup", "0::/a/b\n")
            .file(
                "proc/self/mountinfo",
                "30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
            )
            .file("sys/fs/cgroup/cpuset.cpus.effective", "0-3\n")
            .file("sys/fs/cgroup/a/cpu.max", "150000 100000\n")
            .file("sys/fs/cgroup/a/cpuset.cpus.effective", "1-3\n")
            .file("sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
        let topology = machine.read(&[0, 1, 2]);
        let ids: Vec<usize> = topology.cpus.iter().map(|cpu| cpu.id).collect();
        assert_eq!(ids, [1, 2], "the affinity mask and the nearest cpuset");
        assert_eq!(topology.quota, Some(1.5));
    }

    #[test]
    fn cgroup_v1_and_a_mount_that_shows_a_part() {
        let machine = Machine::new("v1");
        machine
            .cores(4, 1)
            .file("proc/self/cgroup", "3:cpuset:/\n1:cpu,cpuacct:/docker/x\n0::/\n")
            .file(
                "proc/self/mountinfo",
                "32 31 0:29 /docker/x /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct\n\
                 34 31 0:31 / /sys/fs/cgroup/cpuset ro - cgroup cgroup rw,cpuset\n",
            )
            .file("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "250000\n")
            .file("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
            .file("sys/fs/cgroup/cpuset/cpuset.cpus", "0,3\n");
        let topology = machine.read(&[0, 1, 2, 3]);
        assert_eq!(topology.cpus.len(), 2);
        assert_eq!(topology.quota, Some(2.5));
    }

    #[test]
    fn this_machine_can_be_read() {
        let topology = Topology::read().unwrap();
        assert!(!topology.cpus.is_empty());
    }
}
