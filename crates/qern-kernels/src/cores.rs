//! How many cores this process may use. Reads the system's tables; pins nothing.

use std::collections::BTreeSet;
use std::fs::read_to_string;

/// Physical cores that the calling thread may run on: those of its affinity mask, counted once however many hardware
/// threads each has, and no more than the control group's processor quota. At least 1.
pub fn physical_cores() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    let status = read_to_string("/proc/thread-self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).map(parse_cpu_list);
    let cores: BTreeSet<String> = allowed
        .unwrap_or_default()
        .into_iter()
        .filter_map(|cpu| read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok())
        .collect();
    if cores.is_empty() { logical } else { logical.min(cores.len()) }
}

/// The processors of a list as `/proc` and `/sys` write it: `0-3,8,10-11`. What makes no sense in it is left out.
pub(crate) fn parse_cpu_list(list: &str) -> Vec<usize> {
    /// No machine has more processors; a range that says so must not take memory by its length.
    const MAX_CPUS: usize = 1 << 16;
    let mut cpus = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            cpus.extend(first..=last.min(MAX_CPUS));
        }
    }
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_at_least_one_core() {
        assert!((1..=std::thread::available_parallelism().unwrap().get()).contains(&physical_cores()));
    }

    #[test]
    fn processor_lists_are_ranges_and_numbers() {
        let check = |list: &str, expect: &[usize]| assert_eq!(parse_cpu_list(list), expect, "{list:?}");
        check("\t0-3,8,10-11\n", &[0, 1, 2, 3, 8, 10, 11]);
        check("5", &[5]);
        check("", &[]);
        check("x,3-2,7-,9", &[9]);
    }
}
