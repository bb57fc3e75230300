//! Clocks, and what this process has used.

use std::time::{Duration, SystemTime};

use kiln_protocol::api::Usage;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_gettime};

/// Milliseconds since the kernel started, time asleep included.
pub(crate) fn uptime_ms() -> u64 {
    let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    uptime.as_millis().try_into().unwrap_or(u64::MAX)
}

/// Seconds since 1970.
pub(crate) fn unix_time() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now: i64 = since.as_secs().try_into().unwrap_or(i64::MAX);
    #[cfg(test)]
    let now = now + tests::OFF.get();
    now
}

/// Names this boot.
pub(crate) fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// What this process has used so far.
pub(crate) fn usage() -> Option<Usage> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let cpu = usage.user_time() + usage.system_time();
    Some(Usage {
        cpu_ms: cpu.num_milliseconds().try_into().unwrap_or(0),
        max_rss_kib: usage.max_rss().try_into().unwrap_or(0),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Seconds by which the clock of the machines on this thread is off.
        pub(crate) static OFF: Cell<i64> = const { Cell::new(0) };
    }

    #[test]
    fn this_process_has_used_something_since_the_kernel_started() {
        assert!(uptime_ms() > 0);
        assert!(unix_time() > 1_700_000_000);
        assert_eq!(boot_id().len(), 36);
        let usage = usage().unwrap();
        assert!(usage.max_rss_kib > 100 && u128::from(usage.cpu_ms) < u128::from(uptime_ms()) * 64);
    }
}
