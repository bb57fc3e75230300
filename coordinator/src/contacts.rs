//! When each machine was last heard, and which server does the chores: of
//! this process only. What was before it began counts as heard at its begin,
//! so that after a restart nobody is taken for gone too early.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kiln_protocol::chores::CHORES_GOOD_FOR;

/// Seconds after which another server may be given chores: those given out
/// before are left alone by then.
const STEWARD: i64 = 2 * CHORES_GOOD_FOR.cast_signed();

#[derive(Debug)]
pub(crate) struct Contacts {
    begun: Timestamp,
    quiet: SignedDuration,
    /// Seconds a joining server has to become ready.
    pub(crate) slot: i64,
    heard: HashMap<i64, Timestamp>,
    /// Seats whose rights are over, and whose machines are gone by the operator's word.
    buried: HashSet<i64>,
    steward: Option<(i64, Timestamp)>,
}

impl Contacts {
    /// `quiet` is how long a machine must have been silent to be taken for
    /// gone, `slot` how long a joining server has to become ready.
    pub(crate) fn new(begun: Timestamp, quiet: Duration, slot: Duration) -> Self {
        let mut contacts = Self {
            begun,
            quiet: SignedDuration::ZERO,
            slot: 0,
            heard: HashMap::new(),
            buried: HashSet::new(),
            steward: None,
        };
        contacts.set_patience(quiet, slot);
        contacts
    }

    pub(crate) fn set_patience(&mut self, quiet: Duration, slot: Duration) {
        self.quiet = SignedDuration::try_from(quiet).unwrap_or(SignedDuration::MAX);
        self.slot = i64::try_from(slot.as_secs()).unwrap_or(i64::MAX);
    }

    /// The machine of a seat has said something, whatever became of it.
    pub(crate) fn note(&mut self, seat: i64, now: Timestamp) {
        self.heard.insert(seat, now);
    }

    /// The machines of these seats are gone by the operator's word: what speaks with
    /// their keys is somebody else, whom nobody waits for.
    pub(crate) fn bury(&mut self, seats: &[i64]) {
        self.buried.extend(seats);
    }

    /// Seconds since the machine of a seat was heard, if they are too few to
    /// take it for gone.
    pub(crate) fn heard(&self, seat: i64, now: Timestamp) -> Option<i64> {
        if self.buried.contains(&seat) {
            return None;
        }
        let last = self.heard.get(&seat).copied().unwrap_or(self.begun);
        let since = now.duration_since(last);
        (since < self.quiet).then(|| since.as_secs().max(0))
    }

    /// As [`Contacts::heard`], of a machine that this process has heard itself:
    /// nothing is taken for possible here.
    pub(crate) fn spoke(&self, seat: i64, now: Timestamp) -> Option<i64> {
        let since = now.duration_since(*self.heard.get(&seat)?);
        (since < self.quiet).then(|| since.as_secs().max(0))
    }

    /// Whether chores that were given out before this process began are left
    /// alone by now: it does not know to whom.
    pub(crate) fn settled(&self, now: Timestamp) -> bool {
        now.duration_since(self.begun) >= self.quiet.saturating_mul(3)
    }

    /// Whether the server of this seat is the one that does the chores; it is,
    /// if no other was within some time.
    pub(crate) fn is_steward(&mut self, seat: i64, now: Timestamp) -> bool {
        match self.steward {
            Some((other, asked)) if other != seat && now.duration_since(asked).as_secs() < STEWARD => false,
            _ => {
                self.steward = Some((seat, now));
                true
            }
        }
    }

    /// Its server may do chores no more.
    pub(crate) fn dismiss(&mut self, seat: i64) {
        // What it was given before may still be under way: the time runs on.
        if let Some((steward, asked)) = self.steward
            && steward == seat
        {
            self.steward = Some((-1, asked));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fixtures::{NOW, later};

    #[test]
    fn a_machine_is_gone_when_it_was_silent_for_long_enough() {
        let mut contacts = Contacts::new(NOW, Duration::from_secs(30), Duration::ZERO);
        assert_eq!(contacts.heard(1, later(29)), Some(29), "it may have spoken before this process began");
        assert_eq!(contacts.heard(1, later(30)), None);
        contacts.note(1, later(100));
        assert_eq!(contacts.heard(1, later(129)), Some(29));
        assert_eq!(contacts.heard(1, later(130)), None);
        assert_eq!(contacts.heard(2, later(100)), None);
        assert_eq!((contacts.spoke(1, later(129)), contacts.spoke(1, later(130))), (Some(29), None));
        assert_eq!(contacts.spoke(2, later(0)), None, "it never spoke here");
        assert!(!contacts.settled(later(89)) && contacts.settled(later(90)));
        let quiet = crate::Limits::default().quiet;
        assert!(quiet.as_secs() * 3 >= CHORES_GOOD_FOR, "what was given out before is over by then");
    }

    #[test]
    fn a_machine_that_is_gone_by_the_operators_word_is_not_heard_whoever_has_its_key() {
        let mut contacts = Contacts::new(NOW, Duration::from_secs(30), Duration::ZERO);
        contacts.note(1, later(100));
        contacts.bury(&[1]);
        contacts.note(1, later(101));
        contacts.note(2, later(101));
        assert_eq!((contacts.heard(1, later(101)), contacts.heard(2, later(101))), (None, Some(0)));
    }

    #[test]
    fn one_server_does_the_chores_until_it_is_silent() {
        let mut contacts = Contacts::new(NOW, Duration::ZERO, Duration::ZERO);
        assert!(contacts.is_steward(1, NOW));
        assert!(!contacts.is_steward(2, later(STEWARD - 1)));
        assert!(contacts.is_steward(1, later(STEWARD - 1)));
        assert!(!contacts.is_steward(2, later(STEWARD)));
        assert!(contacts.is_steward(2, later(2 * STEWARD)));
        contacts.dismiss(2);
        assert!(!contacts.is_steward(1, later(3 * STEWARD - 1)), "what it was given may be under way");
        assert!(contacts.is_steward(1, later(3 * STEWARD)));
    }
}
