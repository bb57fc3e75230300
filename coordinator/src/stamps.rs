//! How far the state is, signed. A signature is what opening a connection costs
//! most, and nodes that open theirs at the same time, in one group of the
//! store, are told the same: how far the group has come.
//!
//! Only what is on disk is ever signed: after a crash, a stamp ahead of the state
//! would be one that it never gave, and this coordinator taken for an old copy.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kiln_protocol::Identity;
use kiln_protocol::ratchet::{Reach, Stamp};

use crate::registry::runs::Runs;

/// The newest of both.
#[derive(Debug)]
pub(crate) struct Stamps(Mutex<Newest>);

#[derive(Debug)]
struct Newest {
    /// What is on disk.
    durable: Runs,
    signed: Option<Stamp>,
}

impl Stamps {
    /// Of a state that was opened with these runs, which are on disk.
    pub(crate) fn new(durable: Runs) -> Self {
        Self(Mutex::new(Newest { durable, signed: None }))
    }

    /// So far the state is on disk.
    pub(crate) fn reached(&self, reach: Reach) {
        self.newest().durable.come_to(reach);
    }

    /// A stamp that is no earlier than `reach`, which is on disk.
    pub(crate) fn stamp(&self, reach: Reach, coordinator: &Identity) -> Stamp {
        let mut newest = self.newest();
        if let Some(stamp) = newest.signed.filter(|stamp| stamp.reach >= reach) {
            return stamp;
        }
        let reach = newest.durable.reach().max(reach);
        *newest.signed.insert(Stamp::sign(reach, coordinator))
    }

    /// Whether a stamp is surely one of this state's own, or of an epoch that is
    /// over: whoever shows it shows nothing new. Of any other, the state is asked.
    pub(crate) fn covers(&self, reach: Reach) -> bool {
        self.newest().durable.covers(reach)
    }

    fn newest(&self) -> MutexGuard<'_, Newest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: u64) -> Reach {
        Reach { epoch: 1, seq }
    }

    /// As after a start.
    fn begun(seq: u64) -> Stamps {
        Stamps::new(Runs::new(1, Vec::new(), seq..=seq))
    }

    #[test]
    fn one_group_is_signed_once_and_never_what_is_not_on_disk() {
        let (stamps, coordinator) = (begun(0), Identity::generate().unwrap());
        for reach in [at(1), at(3), at(2)] {
            stamps.reached(reach);
        }
        let first = stamps.stamp(at(1), &coordinator);
        assert_eq!(first.reach, at(3), "as far as the group has come, and no further");
        assert!(first.is_of(&coordinator.spki()));
        assert_eq!(stamps.stamp(at(2), &coordinator), first);
        assert_eq!(stamps.stamp(at(3), &coordinator), first);
        assert!(stamps.covers(at(3)) && !stamps.covers(at(4)));
    }

    #[test]
    fn a_later_state_gets_a_later_stamp() {
        let (stamps, coordinator) = (begun(0), Identity::generate().unwrap());
        assert_eq!(stamps.stamp(at(5), &coordinator).reach, at(5));
        stamps.reached(at(6));
        assert_eq!(stamps.stamp(at(6), &coordinator).reach, at(6));
        let raised = Reach { epoch: 2, seq: 0 };
        stamps.reached(raised);
        assert_eq!(stamps.stamp(raised, &coordinator).reach, raised);
        assert_eq!(stamps.stamp(at(7), &coordinator).reach, raised, "the newest is what counts");
    }

    #[test]
    fn a_stamp_of_an_earlier_run_is_known_at_once_and_one_between_two_is_not() {
        let stamps = Stamps::new(Runs::new(1, vec![0..=7], 100..=100));
        for known in [at(0), at(7), at(100)] {
            assert!(stamps.covers(known), "{known}");
        }
        for unknown in [at(8), at(99), at(101), Reach { epoch: 2, seq: 0 }] {
            assert!(!stamps.covers(unknown), "{unknown}");
        }
        stamps.reached(at(102));
        assert!(stamps.covers(at(101)) && stamps.covers(at(102)) && !stamps.covers(at(103)));
        // An epoch began, and nobody has opened a connection in it yet.
        let raised = Reach { epoch: 2, seq: 50 };
        assert!(!stamps.covers(raised));
        stamps.reached(raised);
        assert!(stamps.covers(raised) && stamps.covers(at(8)), "the epoch before says nothing");
        assert!(!stamps.covers(Reach { epoch: 2, seq: 49 }));
    }
}
