//! How long a download is waited for, and how often it is tried.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Patience with a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How often one place is tried without anything new having come.
    pub tries: u32,
    /// The pause after the first failure; it doubles with each further one.
    pub first_pause: Duration,
    /// No pause is longer.
    pub longest_pause: Duration,
    /// A connection that brings (almost) nothing for so long is given up.
    pub stall: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            tries: 5,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
            stall: Duration::from_secs(30),
        }
    }
}

impl Policy {
    /// The pause after `failures` failures in a row. `jitter` from 0 to 1
    /// spreads many builders that failed at the same moment over half to the
    /// whole of it; a server that named a time gets that, within reason.
    pub fn pause(&self, failures: u32, jitter: f64, asked: Option<Duration>) -> Duration {
        let doubled = self.first_pause.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let pause = doubled.min(self.longest_pause).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        pause.max(asked.unwrap_or_default().min(self.longest_pause))
    }
}

/// A number from 0 to 1, another one each time.
pub(super) fn jitter() -> f64 {
    // The standard library seeds its hash maps from the kernel's random numbers.
    f64::from((RandomState::new().hash_one(0_u8) >> 32) as u32) / f64::from(u32::MAX)
}

/// Counts failures of one place. New bytes make up for what failed before:
/// a connection that is cut every gigabyte is no reason to give up.
#[derive(Debug, Default)]
pub(super) struct Failures {
    in_a_row: u32,
    furthest: u64,
}

impl Failures {
    /// Another one, when `have` bytes were there. Says how many that makes.
    pub(super) fn count(&mut self, have: u64) -> u32 {
        if have > self.furthest {
            self.furthest = have;
            self.in_a_row = 0;
        }
        self.in_a_row += 1;
        self.in_a_row
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let policy = Policy::default();
        let pauses: Vec<_> = (1..=7).map(|n| policy.pause(n, 1.0, None).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(policy.pause(1, 0.0, None), Duration::from_millis(500));
    }

    #[test]
    fn a_server_s_wish_is_heard_within_reason() {
        let policy = Policy::default();
        assert_eq!(policy.pause(1, 1.0, Some(Duration::from_secs(7))).as_secs(), 7);
        assert_eq!(policy.pause(1, 1.0, Some(Duration::from_secs(86_400))).as_secs(), 30);
    }

    #[test]
    fn new_bytes_make_up_for_failures_and_the_same_ones_again_do_not() {
        let mut failures = Failures::default();
        let counted: Vec<_> = [0, 0, 100, 100, 50, 100, 101].into_iter().map(|n| failures.count(n)).collect();
        assert_eq!(counted, [1, 2, 1, 2, 3, 4, 1]);
    }

    proptest! {
        #[test]
        fn no_pause_is_longer_than_the_longest(failures in any::<u32>(), jitter in any::<f64>(), asked in any::<u64>()) {
            let policy = Policy::default();
            let jitter = if jitter.is_nan() { 0.0 } else { jitter };
            prop_assert!(policy.pause(failures, jitter, Some(Duration::from_millis(asked))) <= policy.longest_pause);
        }
    }
}
