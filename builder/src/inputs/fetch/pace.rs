//! How fast bytes come, and whether they still come at all.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Fewer bytes a second than this are none: a server that dribbles would
/// otherwise hold a bake up for days.
const DRIBBLE: u64 = 1024;
/// The rate is that of so long a time.
const WINDOW: Duration = Duration::from_secs(5);
/// Samples are kept so far apart.
const STEP: Duration = Duration::from_millis(200);

/// Watches one connection.
#[derive(Debug)]
pub(super) struct Pace {
    begin: Instant,
    stall: Duration,
    total: u64,
    /// When how much had come, oldest first; reaches back as far as is needed.
    samples: VecDeque<(Instant, u64)>,
}

impl Pace {
    pub(super) fn new(now: Instant, stall: Duration) -> Self {
        Self { begin: now, stall, total: 0, samples: VecDeque::from([(now, 0)]) }
    }

    /// More bytes came.
    pub(super) fn came(&mut self, now: Instant, bytes: u64) {
        self.total += bytes;
        if self.samples.back().is_none_or(|(at, _)| now - *at >= STEP) {
            self.samples.push_back((now, self.total));
        }
        let reach = self.stall.max(WINDOW) + STEP;
        while self.samples.get(1).is_some_and(|(at, _)| now - *at >= reach) {
            self.samples.pop_front();
        }
    }

    fn since(&self, now: Instant, ago: Duration) -> (Duration, u64) {
        let edge = self.samples.iter().rev().find(|(at, _)| now - *at >= ago).or(self.samples.front());
        edge.map_or((Duration::ZERO, 0), |(at, then)| (now - *at, self.total - then))
    }

    /// Bytes a second, lately.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate"
    )]
    pub(super) fn rate(&self, now: Instant) -> u64 {
        let (time, bytes) = self.since(now, WINDOW);
        if time.is_zero() { 0 } else { (bytes as f64 / time.as_secs_f64()) as u64 }
    }

    /// Whether next to nothing came for the whole of the time that is allowed.
    pub(super) fn dribbles(&self, now: Instant) -> bool {
        let (time, bytes) = self.since(now, self.stall);
        now - self.begin >= self.stall && bytes < time.as_secs() * DRIBBLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(30);

    fn after(begin: Instant, seconds: u64) -> Instant {
        begin + Duration::from_secs(seconds)
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin, STALL);
        (1..=20).for_each(|s| pace.came(after(begin, s), 1000));
        (21..=40).for_each(|s| pace.came(after(begin, s), 50_000));
        assert_eq!(pace.rate(after(begin, 40)), 50_000);
    }

    #[test]
    fn a_dribble_is_a_stall_and_a_slow_line_is_not() {
        let begin = Instant::now();
        let (mut dribble, mut slow) = (Pace::new(begin, STALL), Pace::new(begin, STALL));
        for second in 1..=29 {
            dribble.came(after(begin, second), 10);
            slow.came(after(begin, second), 4000);
            assert!(!dribble.dribbles(after(begin, second)), "too early");
        }
        assert!(dribble.dribbles(after(begin, 31)));
        assert!(!slow.dribbles(after(begin, 31)));
        // It had been fast, and is not any more.
        assert!(slow.dribbles(after(begin, 70)));
    }

    #[test]
    fn memory_does_not_grow_with_the_download() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin, STALL);
        (0..1_000_000).for_each(|n| pace.came(begin + Duration::from_millis(n), 1000));
        assert!(pace.samples.len() < 300, "{}", pace.samples.len());
    }
}
