//! Which of a node's connections began before its ratchet last turned.
//!
//! An honest machine gives up on a connection and goes on over another one; a
//! network that held the first one's bytes back may deliver them afterwards.
//! What comes late in that way must not look like a second machine. Kept in
//! memory: no connection outlives the process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A number that later connections have more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arrival(u64);

/// Counts connections, and remembers for each seat when it last went on.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    next: AtomicU64,
    turned: Mutex<HashMap<i64, Arrival>>,
}

impl Arrivals {
    /// A connection begins: before its handshake, so before its other end may
    /// believe that anything was heard over it.
    pub(crate) fn begin(&self) -> Arrival {
        Arrival(self.next.fetch_add(1, Ordering::SeqCst))
    }

    /// A seat's ratchet has turned.
    pub(crate) fn turned(&self, seat: i64) {
        let now = self.begin();
        self.turned.lock().unwrap_or_else(PoisonError::into_inner).insert(seat, now);
    }

    /// Whether a connection began before the seat's ratchet last turned.
    pub(crate) fn overtaken(&self, seat: i64, arrival: Arrival) -> bool {
        let turned = self.turned.lock().unwrap_or_else(PoisonError::into_inner);
        turned.get(&seat).is_some_and(|turned| arrival < *turned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_overtaken_by_what_its_own_node_does_later() {
        let arrivals = Arrivals::default();
        let (first, second) = (arrivals.begin(), arrivals.begin());
        assert!(!arrivals.overtaken(1, first));
        arrivals.turned(1);
        let third = arrivals.begin();
        assert!(arrivals.overtaken(1, first) && arrivals.overtaken(1, second));
        assert!(!arrivals.overtaken(1, third) && !arrivals.overtaken(2, first));
    }
}
