//! How long to wait after what went wrong.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use kiln_protocol::ApiError;
use kiln_protocol::error::ErrorClass;

/// What went wrong this time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// As it is reported.
    pub error: ApiError,
    /// There is no way to the coordinator at all: the network is not up yet.
    /// Trying again costs nothing and nobody.
    pub offline: bool,
    /// The coordinator itself answered, if only to refuse: it can be told why.
    pub heard: bool,
}

impl Failure {
    /// Something on this host failed; it may be better next time (a disk that
    /// is full, a service that is not up yet).
    pub(crate) fn local(error: &anyhow::Error) -> Self {
        ApiError::new(ErrorClass::Transient, format!("{error:#}")).into()
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self { error, offline: false, heard: false }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::local(&error)
    }
}

/// The lengths of all waits, so that tests need not live through them.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// After the first failure; doubled after each further one.
    pub first: Duration,
    /// Never longer than this.
    pub longest: Duration,
    /// After a failure that only an operator can cure.
    pub operator: Duration,
    /// After a later boot, an absent coordinator is told "ready" for this long.
    pub later_boot: Duration,
    /// Between two looks at something on this host: a seed, k3s.
    pub look: Duration,
    /// How long k3s may take before that is reported as a failure.
    pub k3s: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(60),
            operator: Duration::from_secs(300),
            later_boot: Duration::from_secs(600),
            look: Duration::from_secs(1),
            // A first start imports every baked image: minutes on a slow disk.
            k3s: Duration::from_secs(15 * 60),
        }
    }
}

/// Waits that grow, for one step or one stream of requests.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    pace: Pace,
    tries: u32,
}

impl Backoff {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { pace, tries: 0 }
    }

    /// How long to wait after this failure. `random` is in 0..1 and spreads
    /// machines that failed together.
    pub(crate) fn after(&mut self, failure: &Failure, random: f64) -> Duration {
        let Pace { first, longest, operator, .. } = self.pace;
        if failure.offline {
            return first.mul_f64(0.5 + random / 2.0);
        }
        let asked = failure.error.retry_after.map(|seconds| Duration::from_secs(seconds.into()));
        let whole = if failure.error.class.needs_operator() {
            // Whatever was asked for, nobody is asked without a pause.
            asked.unwrap_or(operator).min(operator).max(first)
        } else {
            let doubled = first.saturating_mul(1 << self.tries.min(16)).min(longest);
            self.tries += 1;
            asked.map_or(doubled, |asked| asked.min(longest).max(first))
        };
        whole.mul_f64(0.5 + random / 2.0)
    }
}

/// A number in 0..1, for spreading waits; of no use for secrets.
pub(crate) fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(bits).unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(class: ErrorClass) -> Failure {
        ApiError::new(class, "x").into()
    }

    fn millis(wait: Duration) -> u128 {
        wait.as_millis()
    }

    #[test]
    fn waits_double_from_one_second_to_a_minute_and_stay_there() {
        let mut backoff = Backoff::new(Pace::default());
        let waits: Vec<u128> =
            (0..9).map(|_| millis(backoff.after(&failure(ErrorClass::Transient), 1.0))).collect();
        assert_eq!(waits, [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]);
    }

    #[test]
    fn what_only_an_operator_cures_is_tried_every_five_minutes() {
        let mut backoff = Backoff::new(Pace::default());
        for class in [ErrorClass::Held, ErrorClass::TicketExpired, ErrorClass::Policy] {
            assert_eq!(millis(backoff.after(&failure(class), 1.0)), 300_000);
        }
        for (asked, wait) in [(0, 1000), (30, 30_000), (3600, 300_000)] {
            let failure = ApiError::new(ErrorClass::Pending, "x").retry_after(asked).into();
            assert_eq!(millis(backoff.after(&failure, 1.0)), wait);
        }
    }

    #[test]
    fn a_network_that_is_not_up_does_not_lengthen_the_waits() {
        let mut backoff = Backoff::new(Pace::default());
        let offline = Failure { offline: true, ..failure(ErrorClass::Transient) };
        for _ in 0..20 {
            assert!(millis(backoff.after(&offline, 0.9)) <= 1000);
        }
        assert_eq!(millis(backoff.after(&failure(ErrorClass::Transient), 1.0)), 1000);
    }

    #[test]
    fn an_answer_may_ask_for_a_wait_within_bounds() {
        let mut backoff = Backoff::new(Pace::default());
        for (asked, wait) in [(0, 1000), (7, 7000), (3600, 60_000)] {
            let failure = ApiError::new(ErrorClass::Transient, "x").retry_after(asked).into();
            assert_eq!(millis(backoff.after(&failure, 1.0)), wait);
        }
    }

    #[test]
    fn random_numbers_spread() {
        let numbers: Vec<f64> = (0..100).map(|_| random()).collect();
        assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
        assert!(numbers.iter().any(|n| *n < 0.5) && numbers.iter().any(|n| *n >= 0.5));
    }
}
