//! What the cgroup allows: CPUs (`cpuset`) and CPU time (the quota), in version 1 and 2.
//!
//! **Runs on: control**, once at start.
//!
//! Groups nest and every level limits, so both are read from the process's own group up to the
//! mount's root. A file that is missing limits nothing.

use std::fs;
use std::path::{Path, PathBuf};

/// What the cgroups of this process leave it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Limits {
    /// CPUs of the cpuset; `None` when there is no cpuset controller.
    pub cpus: Option<Vec<usize>>,
    /// CPU time in CPUs, such as 1.5; `None` when unlimited.
    pub quota: Option<f64>,
}

/// Reads `proc/self/cgroup` and `proc/self/mountinfo` under `root`, and the groups they name.
pub(super) fn read(root: &Path) -> Limits {
    let memberships = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
    let mut limits = Limits::default();
    for line in memberships.lines() {
        // hierarchy-ID:controller-list:path, and "0::path" for version 2 (cgroups(7)).
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let controllers: Vec<&str> = controllers.split(',').filter(|c| !c.is_empty()).collect();
        let Some(levels) = levels(root, &mounts, &controllers, group) else { continue };
        if controllers.is_empty() || controllers.contains(&"cpuset") {
            limits.cpus = levels.iter().find_map(|dir| cpuset(dir)).or(limits.cpus);
        }
        if controllers.is_empty() || controllers.contains(&"cpu") {
            for quota in levels.iter().filter_map(|dir| quota(dir)) {
                limits.quota = Some(limits.quota.map_or(quota, |least| least.min(quota)));
            }
        }
    }
    limits
}

/// The group's directory and those above it up to its hierarchy's mount, innermost first.
fn levels(root: &Path, mounts: &str, controllers: &[&str], group: &str) -> Option<Vec<PathBuf>> {
    let (mount_root, mount_point) = mounts.lines().find_map(|line| {
        // ID parent major:minor root mount-point options ... - type source super-options
        let (before, after) = line.split_once(" - ")?;
        let before: Vec<&str> = before.split(' ').collect();
        let after: Vec<&str> = after.split(' ').collect();
        let same = match controllers.first() {
            None => after.first() == Some(&"cgroup2"),
            Some(first) => {
                after.first() == Some(&"cgroup") && after.get(2)?.split(',').any(|c| c == *first)
            }
        };
        same.then_some((*before.get(3)?, *before.get(4)?))
    })?;
    let top = root.join(mount_point.trim_start_matches('/'));
    // Inside a container the mount may show only a part of the hierarchy, and the group's path
    // may begin outside it; then the mount's top is the best known.
    let below = Path::new(group).strip_prefix(mount_root).unwrap_or(Path::new(""));
    let mut levels: Vec<PathBuf> = below
        .ancestors()
        .map(|part| if part.as_os_str().is_empty() { top.clone() } else { top.join(part) })
        .collect();
    levels.dedup();
    Some(levels)
}

fn cpuset(dir: &Path) -> Option<Vec<usize>> {
    ["cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"]
        .iter()
        .find_map(|name| fs::read_to_string(dir.join(name)).ok())
        .and_then(|text| parse_list(text.trim()))
        .filter(|cpus| !cpus.is_empty())
}

fn quota(dir: &Path) -> Option<f64> {
    if let Ok(text) = fs::read_to_string(dir.join("cpu.max")) {
        let mut fields = text.split_whitespace();
        return ratio(fields.next()?, fields.next()?);
    }
    let quota = fs::read_to_string(dir.join("cpu.cfs_quota_us")).ok()?;
    let period = fs::read_to_string(dir.join("cpu.cfs_period_us")).ok()?;
    ratio(quota.trim(), period.trim())
}

/// Quota over period, both in microseconds; `None` for `max`, -1 and nonsense.
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let quota: f64 = quota.parse::<i64>().ok().filter(|&quota| quota > 0)? as f64;
    let period: f64 = period.parse::<i64>().ok().filter(|&period| period > 0)? as f64;
    Some(quota / period)
}

/// A list in the kernel's format, such as `0-3,8,10-11`.
pub(super) fn parse_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last > 1 << 16 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(parse_list("0-2,5,7-8"), Some(vec![0, 1, 2, 5, 7, 8]));
        assert_eq!(parse_list(""), Some(vec![]));
        for bad in ["x", "3-1", "1-", "0-99999999"] {
            assert_eq!(parse_list(bad), None, "{bad}");
        }
    }

    #[test]
    fn quotas() {
        assert_eq!(ratio("150000", "100000"), Some(1.5));
        assert_eq!(ratio("max", "100000"), None);
        assert_eq!(ratio("-1", "100000"), None);
        assert_eq!(ratio("1", "0"), None);
    }
}
