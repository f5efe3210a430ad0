//! The pin plan: how many shards there are, on which CPUs, and what is left to control.
//!
//! **Runs on: control**, once at start; a pure function of topology and request.
//!
//! - One shard a physical core: two shards on one core's threads would share its caches and
//!   slow each other.
//! - From [`RESERVE_FROM_CORES`] cores up the first core is left to control, interrupts (the
//!   kernel's default is CPU 0) and the storage thread.
//! - Not more shards than the CPU quota rounded up: a shard that is throttled stalls its clients.
//! - An explicit count or CPU list wins over all of these and may share CPUs; the plan says so.

use std::fmt;

use super::read::{Cpu, Topology};

/// From this many cores up one is left to control. Below, a core is too large a share to give.
pub const RESERVE_FROM_CORES: usize = 5;

/// What the configuration asks for; the default leaves everything to the plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// `shards.count`; at least 1.
    pub count: Option<usize>,
    /// `shards.cpus`, in the order to use them; empty for all.
    pub cpus: Vec<usize>,
    /// No more shards than this.
    pub most: usize,
}

/// Where one shard runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardPlace {
    /// The CPU it is bound to.
    pub cpu: usize,
    /// That CPU's physical core, named by its lowest CPU.
    pub core: usize,
    /// Its NUMA node.
    pub node: usize,
}

/// The plan. Its `Display` is what control prints at start.
#[derive(Debug, Clone, PartialEq)]
pub struct PinPlan {
    /// One place a shard, in the shards' order; never empty.
    pub shards: Vec<ShardPlace>,
    /// CPUs left to control and the data process's helper threads; empty when they share the
    /// shards' CPUs.
    pub control: Vec<usize>,
    /// Why the plan is not simply a shard a core, in sentences.
    pub notes: Vec<String>,
    machine: String,
}

impl PinPlan {
    /// Makes the plan.
    ///
    /// # Errors
    /// [`PlanError`] when the request names a CPU that this process may not use.
    pub fn new(topology: &Topology, request: &Request) -> Result<PinPlan, PlanError> {
        assert!(!topology.cpus.is_empty(), "a running thread has a CPU");
        let mut notes = Vec::new();
        let (order, natural, control) = if request.cpus.is_empty() {
            order(topology)
        } else {
            let chosen = chosen(topology, &request.cpus)?;
            notes.push("shards.cpus names the CPUs".to_owned());
            let count = chosen.len();
            (chosen, count, Vec::new())
        };
        let mut count = natural;
        if let Some(asked) = request.count {
            count = asked.max(1);
            notes.push(format!("shards.count asks for {count}"));
        } else if let Some(quota) = topology.quota.filter(|_| request.cpus.is_empty()) {
            let most = (quota.ceil() as usize).max(1);
            if most < count {
                count = most;
                notes.push(format!("the CPU quota of {quota:.2} allows no more shards"));
            }
        }
        if request.most < count {
            count = request.most;
            notes.push(format!("there are {count} shards at most"));
        }
        let shards: Vec<ShardPlace> = (0..count)
            .map(|index| {
                let Cpu { id, core, node } = order[index % order.len()];
                ShardPlace { cpu: id, core, node }
            })
            .collect();
        if count > order.len() {
            let cpus = order.len();
            notes.push(format!("{count} shards share {cpus} CPUs, so they take turns"));
        }
        let mut control = control;
        control.retain(|cpu| shards.iter().all(|shard| shard.cpu != *cpu));
        Ok(PinPlan { shards, control, notes, machine: machine(topology) })
    }
}

impl fmt::Display for PinPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.shards.len() == 1 { "" } else { "s" };
        write!(f, "pin plan: {} shard{plural} on {}", self.shards.len(), self.machine)?;
        for (index, place) in self.shards.iter().enumerate() {
            let ShardPlace { cpu, core, node } = place;
            write!(f, "\n  shard {index:<3} cpu {cpu:<3} core {core:<3} node {node}")?;
        }
        if self.control.is_empty() {
            write!(f, "\n  control   shares these CPUs")?;
        } else {
            let cpus: Vec<String> = self.control.iter().map(usize::to_string).collect();
            write!(f, "\n  control   cpu {}", cpus.join(", "))?;
        }
        for note in &self.notes {
            write!(f, "\n  ({note})")?;
        }
        Ok(())
    }
}

/// A plan that can't be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanError {
    /// `shards.cpus` names a CPU outside the affinity mask and cpuset.
    CpuNotAllowed {
        /// The CPU named.
        cpu: usize,
        /// What may be named.
        allowed: Vec<usize>,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PlanError::CpuNotAllowed { cpu, allowed } = self;
        let allowed: Vec<String> = allowed.iter().map(usize::to_string).collect();
        write!(
            f,
            "shards.cpus names cpu {cpu}, which this process may not use; allowed: {}",
            allowed.join(", ")
        )
    }
}

impl std::error::Error for PlanError {}

/// The CPUs in the order shards take them, how many shards the plan makes by itself, and the CPUs
/// kept for control while nobody asks for more shards than that.
fn order(topology: &Topology) -> (Vec<Cpu>, usize, Vec<usize>) {
    let cores = topology.cores();
    let reserved = usize::from(cores.len() >= RESERVE_FROM_CORES);
    let (control, mine) = cores.split_at(reserved);
    // Every core's first thread before any core's second, and the reserved core last.
    let by_thread = |cores: &[Vec<Cpu>]| -> Vec<Cpu> {
        let threads = cores.iter().map(Vec::len).max().unwrap_or(0);
        (0..threads)
            .flat_map(|thread| cores.iter().filter_map(move |core| core.get(thread).copied()))
            .collect()
    };
    let natural = mine.len();
    let mut order = by_thread(mine);
    order.extend(by_thread(control));
    (order, natural, control.iter().flatten().map(|cpu| cpu.id).collect())
}

fn chosen(topology: &Topology, cpus: &[usize]) -> Result<Vec<Cpu>, PlanError> {
    cpus.iter()
        .map(|&id| {
            topology.cpus.iter().find(|cpu| cpu.id == id).copied().ok_or_else(|| {
                let mut allowed: Vec<usize> = topology.cpus.iter().map(|cpu| cpu.id).collect();
                allowed.sort_unstable();
                PlanError::CpuNotAllowed { cpu: id, allowed }
            })
        })
        .collect()
}

fn machine(topology: &Topology) -> String {
    let count = |number: usize, what: &str| {
        format!("{number} {what}{}", if number == 1 { "" } else { "s" })
    };
    let mut text = format!(
        "{} ({}, {}",
        count(topology.cpus.len(), "CPU"),
        count(topology.cores().len(), "core"),
        count(topology.nodes(), "NUMA node"),
    );
    if let Some(quota) = topology.quota {
        text.push_str(&format!(", quota {quota:.2}"));
    }
    text.push(')');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine of `cores` cores with `threads` CPUs each, spread evenly over `nodes`.
    fn machine(cores: usize, threads: usize, nodes: usize, quota: Option<f64>) -> Topology {
        let mut cpus: Vec<Cpu> = (0..cores * threads)
            .map(|id| Cpu { id, core: id % cores, node: id % cores * nodes / cores })
            .collect();
        cpus.sort_unstable();
        Topology { cpus, quota }
    }

    fn cpus(plan: &PinPlan) -> Vec<usize> {
        plan.shards.iter().map(|place| place.cpu).collect()
    }

    fn plan(topology: &Topology, count: Option<usize>, cpus: &[usize]) -> PinPlan {
        PinPlan::new(topology, &Request { count, cpus: cpus.to_vec(), most: 256 }).unwrap()
    }

    #[test]
    fn there_are_no_more_shards_than_asked_for_at_most() {
        let request = Request { count: None, cpus: Vec::new(), most: 2 };
        let plan = PinPlan::new(&machine(4, 1, 1, None), &request).unwrap();
        assert_eq!(plan.shards.len(), 2);
    }

    #[test]
    fn a_shard_a_core_and_one_core_left_from_five_up() {
        for (cores, threads, expect, control) in [
            (1, 1, vec![0], vec![]),
            (1, 2, vec![0], vec![]),
            (2, 1, vec![0, 1], vec![]),
            (4, 2, vec![0, 1, 2, 3], vec![]),
            (5, 1, vec![1, 2, 3, 4], vec![0]),
            (6, 2, vec![1, 2, 3, 4, 5], vec![0, 6]),
        ] {
            let plan = plan(&machine(cores, threads, 1, None), None, &[]);
            assert_eq!(cpus(&plan), expect, "{cores} cores");
            assert_eq!(plan.control, control, "{cores} cores");
        }
    }

    #[test]
    fn many_cores_on_two_nodes() {
        let plan = plan(&machine(64, 2, 2, None), None, &[]);
        assert_eq!(plan.shards.len(), 63);
        assert_eq!(plan.shards.iter().filter(|place| place.node == 1).count(), 32);
        assert_eq!(plan.control, [0, 64]);
    }

    #[test]
    fn a_quota_caps_the_count_unless_overridden() {
        for (quota, shards) in [(0.2, 1), (1.0, 1), (1.5, 2), (3.0, 3), (100.0, 4)] {
            let machine = machine(4, 1, 1, Some(quota));
            assert_eq!(plan(&machine, None, &[]).shards.len(), shards, "quota {quota}");
            assert_eq!(plan(&machine, Some(4), &[]).shards.len(), 4, "quota {quota}");
        }
    }

    #[test]
    fn an_explicit_count_fills_cores_then_siblings_then_the_reserve_then_wraps() {
        let machine = machine(5, 2, 1, None);
        assert_eq!(cpus(&plan(&machine, Some(2), &[])), [1, 2]);
        assert_eq!(cpus(&plan(&machine, Some(6), &[])), [1, 2, 3, 4, 6, 7]);
        let all = plan(&machine, Some(11), &[]);
        assert_eq!(cpus(&all), [1, 2, 3, 4, 6, 7, 8, 9, 0, 5, 1]);
        assert!(all.control.is_empty());
        assert!(all.to_string().contains("11 shards share 10 CPUs"), "{all}");
        assert_eq!(plan(&machine, Some(9), &[]).control, [5]);
    }

    #[test]
    fn explicit_cpus_are_taken_in_order_and_must_be_allowed() {
        let machine = machine(4, 1, 1, Some(1.0));
        assert_eq!(cpus(&plan(&machine, None, &[3, 1])), [3, 1]);
        assert_eq!(cpus(&plan(&machine, Some(3), &[3, 1])), [3, 1, 3]);
        let error =
            PinPlan::new(&machine, &Request { count: None, cpus: vec![9], most: 256 }).unwrap_err();
        assert_eq!(
            error.to_string(),
            "shards.cpus names cpu 9, which this process may not use; allowed: 0, 1, 2, 3"
        );
    }

    #[test]
    fn reads_well() {
        let text = plan(&machine(2, 2, 1, Some(1.5)), None, &[]).to_string();
        assert_eq!(
            text,
            "pin plan: 2 shards on 4 CPUs (2 cores, 1 NUMA node, quota 1.50)\
             \n  shard 0   cpu 0   core 0   node 0\
             \n  shard 1   cpu 1   core 1   node 0\
             \n  control   shares these CPUs"
        );
    }
}
