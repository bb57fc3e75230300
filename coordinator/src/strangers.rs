//! Machines that report without being known, in a bounded memory: their keys
//! are proven, so a failure's beacon before enrolment is authentic, but
//! anybody can make a key, so nothing of it reaches the disk.
//!
//! Later, pending nodes are approved from here by a typed fingerprint.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use kiln_protocol::admin::Stranger;

/// Machines remembered in all.
const CAPACITY: usize = 64;
/// Machines remembered from one address.
const PER_SOURCE: usize = 8;

/// The newest of them, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Strangers(VecDeque<Stranger>);

impl Strangers {
    /// Remembers what one said last. Room is made at the cost of whoever
    /// takes most of it.
    pub(crate) fn note(&mut self, stranger: Stranger) {
        self.0.retain(|known| known.key != stranger.key);
        if self.0.iter().filter(|known| known.from == stranger.from).count() >= PER_SOURCE {
            self.forget_oldest_of(stranger.from);
        } else if self.0.len() >= CAPACITY {
            let mut counts = BTreeMap::<IpAddr, usize>::new();
            for known in &self.0 {
                *counts.entry(known.from).or_default() += 1;
            }
            if let Some((fullest, _)) = counts.into_iter().max_by_key(|(_, count)| *count) {
                self.forget_oldest_of(fullest);
            }
        }
        self.0.push_back(stranger);
    }

    /// Newest first.
    pub(crate) fn list(&self) -> Vec<Stranger> {
        self.0.iter().rev().cloned().collect()
    }

    /// It is known now.
    pub(crate) fn forget(&mut self, key: &kiln_protocol::Fingerprint) {
        self.0.retain(|known| known.key != *key);
    }

    fn forget_oldest_of(&mut self, source: IpAddr) {
        if let Some(at) = self.0.iter().position(|known| known.from == source) {
            self.0.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use kiln_protocol::Fingerprint;
    use kiln_protocol::api::{Report, Step, StepState};

    fn stranger(key: usize, from: u8) -> Stranger {
        Stranger {
            key: Fingerprint::of_spki(&key.to_be_bytes()),
            from: IpAddr::from([10, 0, 0, from]),
            last_seen: Timestamp::UNIX_EPOCH,
            report: Report {
                boot_id: "b".into(),
                sequence: 1,
                uptime_ms: 1,
                step: Step::Enrol,
                state: StepState::Done,
                facts: None,
                usage: None,
            },
        }
    }

    #[test]
    fn one_machine_is_remembered_once_and_newest_first() {
        let mut strangers = Strangers::default();
        for key in [1, 2, 1] {
            strangers.note(stranger(key, 1));
        }
        assert_eq!(strangers.list(), [stranger(1, 1), stranger(2, 1)]);
        strangers.forget(&stranger(1, 1).key);
        assert_eq!(strangers.list(), [stranger(2, 1)]);
    }

    #[test]
    fn one_source_cannot_push_the_others_out() {
        let mut strangers = Strangers::default();
        strangers.note(stranger(0, 1));
        (1..1000).for_each(|key| strangers.note(stranger(key, 2)));
        assert_eq!(strangers.list().len(), 1 + PER_SOURCE);
        (1000..2000).zip((0..50).cycle()).for_each(|(key, from)| strangers.note(stranger(key, from)));
        assert!(strangers.list().len() <= CAPACITY);
    }
}
