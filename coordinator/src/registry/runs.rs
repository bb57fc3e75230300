//! Which numbers of `seq` a state has handed out: how a copy of it is told from
//! the state that it was copied from.
//!
//! Whoever opens the state to serve it begins a *run* of `seq`, a random step
//! after the last number: two copies of one state go on with different numbers.
//! A stamp with our signature whose number is in no run was given by another
//! copy of the state. Counting on would not tell: once an old copy has counted
//! past a node's stamp, that stamp looks like one of its own.

use std::ops::RangeInclusive;

use kiln_protocol::ratchet::Reach;

/// A step is this long or up to twice as long. Two copies hand out the same
/// numbers with a probability of about the length of their runs divided by this:
/// for a million numbers, 1 in 70,000.
const STEP: u64 = 1 << 36;

/// A step takes no more of the numbers that are left than one part in this many,
/// twice: 66 million starts within an epoch take full steps, and those after them
/// smaller ones, so that there is always a next one.
const PARTS: u64 = 1 << 20;

/// The last number: what the store's integers hold.
const END: u64 = i64::MAX as u64;

/// The runs of the present epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Runs {
    epoch: u64,
    /// Those that have ended, in their order.
    past: Vec<RangeInclusive<u64>>,
    present: RangeInclusive<u64>,
}

impl Runs {
    /// `past` are in their order, and the present one is after them.
    pub(crate) fn new(epoch: u64, past: Vec<RangeInclusive<u64>>, present: RangeInclusive<u64>) -> Self {
        Self { epoch, past, present }
    }

    /// How far the present run has come.
    pub(crate) fn reach(&self) -> Reach {
        Reach { epoch: self.epoch, seq: *self.present.end() }
    }

    /// The state has come so far. An epoch that has begun since has no past.
    pub(crate) fn come_to(&mut self, reach: Reach) {
        if reach.epoch > self.epoch {
            *self = Self::new(reach.epoch, Vec::new(), reach.seq..=reach.seq);
        } else if reach.epoch == self.epoch && reach.seq > *self.present.end() {
            self.present = *self.present.start()..=reach.seq;
        }
    }

    /// Whether a stamp says nothing that is not known: it is one of this state's
    /// own, or of an epoch before, whose ratchets were forgotten.
    pub(crate) fn covers(&self, reach: Reach) -> bool {
        let Reach { epoch, seq } = reach;
        if epoch != self.epoch {
            return epoch < self.epoch;
        }
        if seq >= *self.present.start() {
            return seq <= *self.present.end();
        }
        let before = self.past.partition_point(|run| *run.start() <= seq);
        before.checked_sub(1).is_some_and(|at| seq <= *self.past[at].end())
    }
}

/// The first number of the run after one that ended with `last`.
pub(crate) fn next_first(last: u64, random: u64) -> u64 {
    let left = END.saturating_sub(last);
    let step = STEP.min(left / PARTS).max(1);
    last + step + random % step
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(epoch: u64, seq: u64) -> Reach {
        Reach { epoch, seq }
    }

    #[test]
    fn a_stamp_is_known_in_a_run_and_nowhere_between() {
        let runs = Runs::new(2, vec![0..=3, 10..=10], 20..=25);
        for seq in [0, 3, 10, 20, 25] {
            assert!(runs.covers(at(2, seq)), "{seq}");
        }
        for seq in [4, 9, 11, 19, 26, u64::MAX] {
            assert!(!runs.covers(at(2, seq)), "{seq}");
        }
        assert!(runs.covers(at(1, 7)), "an epoch that is over says nothing");
        assert!(!runs.covers(at(3, 0)), "one that never began here is another copy's");
        assert_eq!(runs.reach(), at(2, 25));
    }

    #[test]
    fn the_present_run_grows_and_another_epoch_has_no_past() {
        let mut runs = Runs::new(1, vec![0..=3], 20..=20);
        for (to, reach) in [(at(1, 22), at(1, 22)), (at(1, 21), at(1, 22)), (at(0, 99), at(1, 22))] {
            runs.come_to(to);
            assert_eq!(runs.reach(), reach, "{to}");
        }
        assert!(runs.covers(at(1, 20)) && runs.covers(at(1, 22)) && runs.covers(at(1, 3)));
        runs.come_to(at(2, 50));
        assert_eq!(runs, Runs::new(2, Vec::new(), 50..=50));
    }

    #[test]
    fn there_is_always_a_next_run() {
        let after = 66_000_000 * 2 * STEP;
        assert_eq!(
            next_first(after, 0),
            after + STEP,
            "so many of the longest steps leave room for a full one"
        );
        let mut last = after;
        for _ in 0..100_000 {
            let first = next_first(last, u64::MAX);
            assert!((last + 1..END).contains(&first), "{last}");
            last = first;
        }
        for last in [END - PARTS, END - 2] {
            assert!((last + 1..=END).contains(&next_first(last, u64::MAX)), "{last}");
        }
    }

    proptest! {
        #[test]
        fn a_step_is_as_long_as_is_promised(last in 0..END / 2, random: u64) {
            let step = next_first(last, random) - last;
            prop_assert!((STEP..2 * STEP).contains(&step), "{step}");
        }
    }
}
