//! Machines that call without being known, in a bounded memory: their keys
//! are proven, so a failure's beacon before enrolment is authentic, but
//! anybody can make a key, so nothing of it reaches the disk.
//!
//! Machines without a ticket wait here for an operator, who approves one by
//! typing the fingerprint that its console shows. That this memory can be
//! filled by others keeps nobody out: a whole fingerprint needs no entry.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use jiff::Timestamp;
use kiln_protocol::Fingerprint;
use kiln_protocol::admin::Stranger;
use kiln_protocol::api::{Facts, Report};
use kiln_protocol::identity::TypedFingerprint;

use crate::server::Source;

/// Machines remembered in all.
const CAPACITY: usize = 64;
/// Machines remembered from one source: an IPv4 address or an IPv6 /64.
const PER_SOURCE: usize = 8;

/// The newest of them, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Strangers(VecDeque<Stranger>);

impl Strangers {
    /// Remembers the report that one made last.
    pub(crate) fn report(&mut self, key: Fingerprint, from: IpAddr, report: Report, now: Timestamp) {
        self.called(key, from, now).report = Some(report);
    }

    /// Remembers that one has no ticket and waits to be approved.
    pub(crate) fn wait(&mut self, key: Fingerprint, from: IpAddr, facts: Facts, now: Timestamp) {
        let stranger = self.called(key, from, now);
        (stranger.pending, stranger.facts) = (true, Some(facts));
    }

    /// The keys that wait and fit what was typed.
    pub(crate) fn waiting(&self, typed: &TypedFingerprint) -> Vec<Fingerprint> {
        let fits = |stranger: &&Stranger| stranger.pending && typed.matches(&stranger.key);
        self.0.iter().filter(fits).map(|stranger| stranger.key).collect()
    }

    /// The entry of one that has just called, which is the newest now. Room is
    /// made at the cost of whoever takes most of it.
    fn called(&mut self, key: Fingerprint, from: IpAddr, now: Timestamp) -> &mut Stranger {
        let known = self.0.iter().position(|known| known.key == key).and_then(|at| self.0.remove(at));
        if self.0.iter().filter(|known| source(known) == from.into()).count() >= PER_SOURCE {
            self.forget_oldest_of(from.into());
        } else if self.0.len() >= CAPACITY {
            let mut counts = BTreeMap::<Source, usize>::new();
            for known in &self.0 {
                *counts.entry(source(known)).or_default() += 1;
            }
            if let Some((fullest, _)) = counts.into_iter().max_by_key(|(_, count)| *count) {
                self.forget_oldest_of(fullest);
            }
        }
        let blank = || Stranger { key, from, last_seen: now, pending: false, facts: None, report: None };
        self.0.push_back(Stranger { from, last_seen: now, ..known.unwrap_or_else(blank) });
        self.0.back_mut().expect("one was just added")
    }

    /// Newest first.
    pub(crate) fn list(&self) -> Vec<Stranger> {
        self.0.iter().rev().cloned().collect()
    }

    /// It is known now.
    pub(crate) fn forget(&mut self, key: &kiln_protocol::Fingerprint) {
        self.0.retain(|known| known.key != *key);
    }

    fn forget_oldest_of(&mut self, of: Source) {
        if let Some(at) = self.0.iter().position(|known| source(known) == of) {
            self.0.remove(at);
        }
    }
}

fn source(stranger: &Stranger) -> Source {
    stranger.from.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_protocol::api::{Step, StepState};
    use proptest::prelude::*;

    fn key(number: usize) -> Fingerprint {
        Fingerprint::of_spki(&number.to_be_bytes())
    }

    fn report() -> Report {
        Report {
            boot_id: "b".into(),
            sequence: 1,
            uptime_ms: 1,
            step: Step::Enrol,
            state: StepState::Done,
            facts: None,
            usage: None,
        }
    }

    impl Strangers {
        fn note(&mut self, number: usize, from: u8) {
            self.report(key(number), IpAddr::from([10, 0, 0, from]), report(), Timestamp::UNIX_EPOCH);
        }

        fn keys(&self) -> Vec<Fingerprint> {
            self.list().iter().map(|stranger| stranger.key).collect()
        }
    }

    #[test]
    fn one_machine_is_remembered_once_and_newest_first() {
        let mut strangers = Strangers::default();
        for number in [1, 2, 1] {
            strangers.note(number, 1);
        }
        assert_eq!(strangers.keys(), [key(1), key(2)]);
        strangers.forget(&key(1));
        assert_eq!(strangers.keys(), [key(2)]);
    }

    #[test]
    fn one_source_cannot_push_the_others_out() {
        let mut strangers = Strangers::default();
        strangers.note(0, 1);
        (1..1000).for_each(|number| strangers.note(number, 2));
        assert_eq!(strangers.list().len(), 1 + PER_SOURCE);
        (1000..2000).zip((0..50).cycle()).for_each(|(number, from)| strangers.note(number, from));
        assert!(strangers.list().len() <= CAPACITY);
    }

    #[derive(Debug, Clone)]
    enum Arrival {
        Reports,
        Waits,
        /// An operator has approved it, or it has enrolled.
        IsKnown,
    }

    /// Machines of sources of very different eagerness, some of which come
    /// again, also from elsewhere.
    fn arrivals() -> impl Strategy<Value = Vec<(usize, u8, Arrival)>> {
        let key = prop_oneof![3 => 0..40usize, 2 => 40..100_000usize];
        let from = prop_oneof![4 => Just(0u8), 2 => 1..4u8, 3 => any::<u8>()];
        let arrival =
            prop_oneof![5 => Just(Arrival::Reports), 4 => Just(Arrival::Waits), 1 => Just(Arrival::IsKnown)];
        proptest::collection::vec((key, from, arrival), 0..400)
    }

    proptest! {
        /// Whoever comes, how often and from where: the memory is bounded, in
        /// all and for each source; who has just come is in it; and who had to
        /// go for that was the oldest of a source that had filled its room, or
        /// that had as much of a full memory as any.
        #[test]
        fn any_sequence_of_arrivals_takes_bounded_room(arrivals in arrivals()) {
            let mut strangers = Strangers::default();
            for (number, from, arrival) in arrivals {
                let (machine, address) = (key(number), IpAddr::from([10, 0, 0, from]));
                let before: Vec<_> =
                    strangers.0.iter().filter(|known| known.key != machine).map(|s| (s.key, source(s))).collect();
                let count = |of: Source| before.iter().filter(|(_, from)| *from == of).count();
                match arrival {
                    Arrival::Reports => strangers.report(machine, address, report(), Timestamp::UNIX_EPOCH),
                    Arrival::Waits => strangers.wait(machine, address, Facts::default(), Timestamp::UNIX_EPOCH),
                    Arrival::IsKnown => strangers.forget(&machine),
                }
                prop_assert!(strangers.0.len() <= CAPACITY);
                let after = strangers.keys();
                let gone: Vec<_> = before.iter().filter(|(key, _)| !after.contains(key)).collect();
                if matches!(arrival, Arrival::IsKnown) {
                    prop_assert!(!after.contains(&machine) && gone.is_empty());
                    continue;
                }
                prop_assert_eq!(after[0], machine);
                for of in strangers.0.iter().map(source) {
                    prop_assert!(strangers.0.iter().filter(|known| source(known) == of).count() <= PER_SOURCE);
                }
                prop_assert!(gone.len() <= 1);
                if let Some((key, of)) = gone.first() {
                    let fullest = before.iter().map(|(_, from)| count(*from)).max();
                    let crowded = count(*of) >= PER_SOURCE && *of == address.into();
                    let full = before.len() >= CAPACITY && Some(count(*of)) == fullest;
                    prop_assert!(crowded || full);
                    let oldest = before.iter().find(|(_, from)| from == of).map(|(key, _)| *key);
                    prop_assert_eq!(oldest, Some(*key));
                }
            }
        }
    }

    #[test]
    fn who_waits_is_found_by_what_was_typed_and_goes_on_waiting_when_it_reports() {
        let (mut strangers, from) = (Strangers::default(), IpAddr::from([10, 0, 0, 1]));
        strangers.wait(key(1), from, Facts::default(), Timestamp::UNIX_EPOCH);
        strangers.note(1, 1);
        strangers.note(2, 1);
        let typed = |number| key(number).to_string()[..TypedFingerprint::SHORTEST].parse().unwrap();
        assert_eq!(strangers.waiting(&typed(1)), [key(1)]);
        assert!(strangers.waiting(&typed(2)).is_empty(), "it has a ticket");
        assert!(strangers.list()[1].report.is_some());
    }
}
