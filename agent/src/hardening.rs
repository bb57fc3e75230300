//! What keeps secrets in memory there.

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// Leaves no core dump, however it was started, and lets no other process of the
/// same user look into the memory. Never fatal: its unit forbids core dumps too.
pub(crate) fn no_core_dumps() {
    let limited = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    if let Err(error) = limited.and_then(|()| prctl::set_dumpable(false)) {
        tracing::warn!("forbidding core dumps: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_agent_leaves_no_core_dump() {
        no_core_dumps();
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
        assert!(!prctl::get_dumpable().unwrap());
        // Other tests of this process look at themselves through /proc.
        prctl::set_dumpable(true).unwrap();
    }
}
