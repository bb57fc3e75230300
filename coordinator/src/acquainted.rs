//! The TLS keys that are noted, so that the store need not be asked at the
//! beginning of every connection whether it is a stranger's.
//!
//! All of them are here: those that the state had when it was opened, and each
//! that was noted since, before anybody hears of that. No key is ever forgotten.
//! Being in here says nothing about what a key may do: that is asked on every
//! request.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

use kiln_protocol::Fingerprint;

/// Every key that is noted: about 50 bytes each.
#[derive(Debug)]
pub(crate) struct Acquainted(RwLock<HashSet<Fingerprint>>);

impl Acquainted {
    /// With the keys that are noted in the state.
    pub(crate) fn of(keys: HashSet<Fingerprint>) -> Self {
        Self(RwLock::new(keys))
    }

    /// Whether a key is noted.
    pub(crate) fn has(&self, key: &Fingerprint) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    /// These keys are noted, and that is on disk.
    pub(crate) fn add(&self, keys: &[Fingerprint]) {
        if !keys.is_empty() {
            self.0.write().unwrap_or_else(PoisonError::into_inner).extend(keys);
        }
    }
}
