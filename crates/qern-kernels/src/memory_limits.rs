//! How much memory this process may use: the machine's, or that of the control group it is confined to. Reads the system's
//! tables; allocates nothing (`memory` does).

use std::fs::read_to_string;
use std::path::Path;

/// Bytes that new buffers can take before the system swaps, or kills: the machine's available memory (which counts page
/// cache that can be dropped) or what is left in the control group, whichever is less. `None` where the system does not say.
pub fn available_memory() -> Option<u64> {
    let machine = meminfo("MemAvailable:", &read_to_string("/proc/meminfo").ok()?);
    let groups = control_groups(&read_to_string("/proc/self/cgroup").unwrap_or_default());
    machine.into_iter().chain(groups.iter().filter_map(|g| g.available(Path::new("/sys/fs/cgroup")))).min()
}

/// Bytes of memory that the machine has, or that the control group allows, whichever is less. `None` where the system does
/// not say.
pub fn total_memory() -> Option<u64> {
    let machine = meminfo("MemTotal:", &read_to_string("/proc/meminfo").ok()?);
    let groups = control_groups(&read_to_string("/proc/self/cgroup").unwrap_or_default());
    machine.into_iter().chain(groups.iter().filter_map(|g| g.limit(Path::new("/sys/fs/cgroup")))).min()
}

/// A value of `/proc/meminfo` in bytes; the file counts kB.
fn meminfo(key: &str, text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A control group, by version and folder below the mount point. The limits of its ancestors hold as well.
#[derive(Debug, PartialEq, Eq)]
enum ControlGroup {
    V1(String),
    V2(String),
}

/// The groups of this process that may limit memory, from `/proc/self/cgroup` (cgroups(7)). Each ancestor is its own entry.
/// In a container the path is often that of the host, which does not exist inside; the mount's root, always included, then
/// is the container's own group.
fn control_groups(text: &str) -> Vec<ControlGroup> {
    let mut groups = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let make = match controllers {
            "" => ControlGroup::V2,
            _ if controllers.split(',').any(|c| c == "memory") => ControlGroup::V1,
            _ => continue,
        };
        if path.split('/').any(|part| part == "..") {
            continue;
        }
        let mut path = path.trim_end_matches('/');
        while let Some(slash) = path.rfind('/') {
            groups.push(make(path.to_string()));
            path = &path[..slash];
        }
        groups.push(make(String::new()));
    }
    groups
}

impl ControlGroup {
    /// The limit in bytes, if the group exists under `mount` and has one.
    fn limit(&self, mount: &Path) -> Option<u64> {
        let (folder, file, _, _) = self.files(mount);
        // Version 2 says "max" for no limit (which does not parse), version 1 a number near 2^63.
        let limit: u64 = read_to_string(folder.join(file)).ok()?.trim().parse().ok()?;
        (limit < 1 << 60).then_some(limit)
    }

    /// What is left of the limit, counting file pages that can be dropped as free.
    fn available(&self, mount: &Path) -> Option<u64> {
        let limit = self.limit(mount)?;
        let (folder, _, usage_file, inactive_key) = self.files(mount);
        let usage: u64 = read_to_string(folder.join(usage_file)).ok()?.trim().parse().ok()?;
        let stat = read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let inactive = stat.lines().find_map(|line| line.strip_prefix(inactive_key)?.trim().parse::<u64>().ok()).unwrap_or(0);
        Some(limit.saturating_sub(usage.saturating_sub(inactive)))
    }

    /// (folder, file of the limit, file of the usage, key of the droppable pages in `memory.stat`).
    fn files(&self, mount: &Path) -> (std::path::PathBuf, &'static str, &'static str, &'static str) {
        match self {
            Self::V1(path) => {
                let folder = mount.join("memory").join(path.trim_start_matches('/'));
                (folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
            }
            Self::V2(path) => (mount.join(path.trim_start_matches('/')), "memory.max", "memory.current", "inactive_file "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_counts_kilobytes() {
        let text = "MemTotal:       16316412 kB\nMemFree:  5 kB\nMemAvailable:    1024 kB\nHugePages_Total:       3\n";
        assert_eq!(meminfo("MemTotal:", text), Some(16_316_412 * 1024));
        assert_eq!(meminfo("MemAvailable:", text), Some(1 << 20));
        assert_eq!(meminfo("HugePages_Total:", text), None);
        assert_eq!(meminfo("Absent:", text), None);
    }

    #[test]
    fn groups_of_both_versions_are_found_with_their_ancestors() {
        let v1 = |path: &str| ControlGroup::V1(path.into());
        let v2 = |path: &str| ControlGroup::V2(path.into());
        assert_eq!(control_groups("0::/a/b\n"), [v2("/a/b"), v2("/a"), v2("")]);
        assert_eq!(control_groups("3:cpuset:/x\n4:memory:/p\n0::/\n"), [v1("/p"), v1(""), v2("")]);
        assert_eq!(control_groups("4:cpu,memory:/\nnonsense\n0::/../up\n"), [v1("")]);
        assert_eq!(control_groups(""), []);
    }

    #[test]
    fn a_group_leaves_its_limit_less_what_cannot_be_dropped() {
        let mount = std::env::temp_dir().join(format!("qern-cgroup-{}", std::process::id()));
        std::fs::create_dir_all(mount.join("a/b")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(mount.join(name), text).unwrap();
        write("a/memory.max", "max\n");
        write("a/b/memory.max", "1000\n");
        write("a/b/memory.current", "700\n");
        write("a/b/memory.stat", "anon 400\ninactive_file 300\n");
        assert_eq!(ControlGroup::V2("/a/b".into()).limit(&mount), Some(1000));
        assert_eq!(ControlGroup::V2("/a/b".into()).available(&mount), Some(600));
        assert_eq!(ControlGroup::V2("/a".into()).available(&mount), None);
        assert_eq!(ControlGroup::V2("/absent".into()).available(&mount), None);
        std::fs::remove_dir_all(&mount).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn available_memory_is_less_than_all_of_it() {
        let (available, total) = (available_memory().unwrap(), total_memory().unwrap());
        assert!(0 < available && available <= total, "{available} of {total}");
    }
}
