//! What keeps secrets in memory there.

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// Leaves no core dump, whatever the system is set to, and lets no other
/// process of the same user look into the memory. Never fatal: the systemd unit
/// forbids core dumps too.
pub(super) fn no_core_dumps() {
    let limited = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    if let Err(error) = limited.and_then(|()| prctl::set_dumpable(false)) {
        tracing::warn!("forbidding core dumps: {error}");
    }
}
