//! What the operating system says about pages and clocks (Linux; nothing elsewhere). Reads files; judges nothing.

use std::fs;
use std::path::Path;

/// The mode of transparent large pages: `always`, `madvise` or `never`.
pub(super) fn huge_pages() -> Option<String> {
    chosen(&fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?)
}

/// The clock governor of the first core.
pub(super) fn governor() -> Option<String> {
    let text = fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").ok()?;
    Some(text.trim().to_string())
}

/// Whether the processor chooses its own clock, so that `powersave` does not mean slow.
pub(super) fn has_active_pstate() -> bool {
    let status = |driver: &str| fs::read_to_string(Path::new("/sys/devices/system/cpu").join(driver).join("status"));
    ["intel_pstate", "amd_pstate"].iter().any(|driver| status(driver).is_ok_and(|status| status.trim() == "active"))
}

/// The word in brackets: `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_mode_stands_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n").as_deref(), Some("madvise"));
        assert_eq!(chosen("always madvise\n"), None);
    }
}
