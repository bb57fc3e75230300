//! What keeps secrets in memory there.

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// Leaves no core dump, whatever the system is set to, of this program and of
/// what it starts. Never fatal: the systemd unit forbids core dumps too.
pub fn limit_core_dumps() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        tracing::warn!("forbidding core dumps: {error}");
    }
}

/// As [`limit_core_dumps`], and lets no other process of the same user look
/// into the memory.
pub(crate) fn no_core_dumps() {
    limit_core_dumps();
    if let Err(error) = prctl::set_dumpable(false) {
        tracing::warn!("closing the memory to other processes: {error}");
    }
}
