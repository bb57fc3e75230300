//! Keys that are known to be noted, so that the store need not be asked at the
//! beginning of every connection whether it is a stranger's.
//!
//! No key is ever forgotten, so whoever is in here is no stranger, however old
//! that knowledge is. It says nothing about what a key may do: that is asked on
//! every request.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kiln_protocol::Fingerprint;

/// Keys that are remembered at most; as many as may be connected at a time.
const MOST: usize = 16_384;

/// Some of the keys that are noted.
#[derive(Debug, Default)]
pub(crate) struct Acquainted(Mutex<HashSet<Fingerprint>>);

impl Acquainted {
    /// Whether a key is remembered to be noted. If not, it may be all the same.
    pub(crate) fn has(&self, key: &Fingerprint) -> bool {
        self.keys().contains(key)
    }

    /// This key is noted.
    pub(crate) fn add(&self, key: Fingerprint) {
        let mut keys = self.keys();
        if keys.len() >= MOST {
            // Begun anew: each comes back with one question.
            keys.clear();
        }
        keys.insert(key);
    }

    fn keys(&self) -> MutexGuard<'_, HashSet<Fingerprint>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_no_more_than_it_may() {
        let (acquainted, key) = (Acquainted::default(), |n: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            Fingerprint::from_bytes(bytes)
        });
        assert!(!acquainted.has(&key(0)));
        let most = u32::try_from(MOST).unwrap();
        (0..most).for_each(|n| acquainted.add(key(n)));
        assert!(acquainted.has(&key(0)) && acquainted.has(&key(most - 1)));
        acquainted.add(key(most));
        assert!(acquainted.has(&key(most)) && !acquainted.has(&key(0)));
    }
}
