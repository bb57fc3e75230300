//! The TLS keys that are in use, so that the store need not be asked at the
//! beginning of every connection whether it is a stranger's.
//!
//! In use are the present keys of live nodes, held ones too, and of present
//! admins: those of the state when it was opened, and what became of them since,
//! before anybody hears of that. A key that was replaced, or that lost its rights,
//! is a stranger's from then on: a node could otherwise make itself any number of
//! keys that each have a place among those that are known. Being in here says
//! nothing about what a key may do: that is asked on every request.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

use kiln_protocol::Fingerprint;

/// Every key that is in use: about 50 bytes each.
#[derive(Debug)]
pub(crate) struct Acquainted(RwLock<HashSet<Fingerprint>>);

impl Acquainted {
    /// With the keys that are in use in the state.
    pub(crate) fn of(keys: HashSet<Fingerprint>) -> Self {
        Self(RwLock::new(keys))
    }

    /// Whether a key is in use.
    pub(crate) fn has(&self, key: &Fingerprint) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    #[cfg(test)]
    pub(crate) fn all(&self) -> HashSet<Fingerprint> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// These keys came into use (true) or went out of use, in this order, and that
    /// is on disk.
    pub(crate) fn follow(&self, changes: &[(Fingerprint, bool)]) {
        if changes.is_empty() {
            return;
        }
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (key, in_use) in changes {
            if *in_use {
                keys.insert(*key);
            } else {
                keys.remove(key);
            }
        }
    }
}
