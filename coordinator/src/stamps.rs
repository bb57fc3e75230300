//! How far the state is, signed. A signature is what opening a connection costs
//! most, and nodes that open theirs at the same time, in one group of the
//! store, are told the same: how far the group has come.
//!
//! Only what is on disk is ever signed: a stamp ahead of the state would make
//! every node that has it take this coordinator for an old copy after a crash.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kiln_protocol::Identity;
use kiln_protocol::ratchet::{Reach, Stamp};

/// The newest of both.
#[derive(Debug, Default)]
pub(crate) struct Stamps(Mutex<Newest>);

#[derive(Debug, Default)]
struct Newest {
    durable: Option<Reach>,
    signed: Option<Stamp>,
}

impl Stamps {
    /// So far the state is on disk.
    pub(crate) fn reached(&self, reach: Reach) {
        let mut newest = self.newest();
        newest.durable = newest.durable.max(Some(reach));
    }

    /// A stamp that is no earlier than `reach`, which is on disk.
    pub(crate) fn stamp(&self, reach: Reach, coordinator: &Identity) -> Stamp {
        let mut newest = self.newest();
        if let Some(stamp) = newest.signed.filter(|stamp| stamp.reach >= reach) {
            return stamp;
        }
        let reach = newest.durable.map_or(reach, |durable| durable.max(reach));
        *newest.signed.insert(Stamp::sign(reach, coordinator))
    }

    /// Whether the state is known to be as far as `reach`: whoever shows that
    /// shows nothing new. Without an answer yet, the state has to be asked.
    pub(crate) fn covers(&self, reach: Reach) -> bool {
        self.newest().durable >= Some(reach)
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

    #[test]
    fn one_group_is_signed_once_and_never_what_is_not_on_disk() {
        let (stamps, coordinator) = (Stamps::default(), Identity::generate().unwrap());
        assert!(!stamps.covers(at(0)), "nothing is known of the state yet");
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
        let (stamps, coordinator) = (Stamps::default(), Identity::generate().unwrap());
        assert_eq!(stamps.stamp(at(5), &coordinator).reach, at(5));
        stamps.reached(at(6));
        assert_eq!(stamps.stamp(at(6), &coordinator).reach, at(6));
        let raised = Reach { epoch: 2, seq: 0 };
        stamps.reached(raised);
        assert_eq!(stamps.stamp(raised, &coordinator).reach, raised);
        assert_eq!(stamps.stamp(at(7), &coordinator).reach, raised, "the newest is what counts");
    }
}
