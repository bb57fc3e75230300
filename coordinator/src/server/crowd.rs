//! Who is let in when too many want in. At the cap, the oldest of the source
//! that takes most room has to go: an attacker at one address displaces
//! himself, and an honest machine elsewhere gets its turn. Of several sources
//! that take as much, it is the one whose oldest came first: nobody is always
//! the one to go because of its address or key.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kiln_protocol::Fingerprint;
use tokio::task::AbortHandle;

use super::Limits;

/// The crowds: those whose key is not proven yet, those with a key that nobody
/// knows, those with a known one, and those who only look. Strangers can
/// displace strangers only.
#[derive(Debug, Clone)]
pub(super) struct Crowds {
    pub(super) handshakes: Crowd<Source>,
    pub(super) unknown: Crowd<Source>,
    /// By key and not by address: many nodes may be behind one.
    pub(super) known: Crowd<Fingerprint>,
    /// Of the socket and of the status page.
    pub(super) local: Crowd<()>,
}

impl Crowds {
    pub(super) fn new(limits: &Limits) -> Self {
        let Limits { handshakes, unknown, unknown_per_source, known, known_per_key, local, .. } = *limits;
        Self {
            handshakes: Crowd::new(handshakes, handshakes),
            unknown: Crowd::new(unknown, unknown_per_source),
            known: Crowd::new(known, known_per_key),
            local: Crowd::new(local, local),
        }
    }
}

/// An IPv4 address, or the /64 of an IPv6 address, which one host can fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source([u8; 8]);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        let mut bytes = [0; 8];
        match address.to_canonical() {
            IpAddr::V4(v4) => bytes[4..].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => bytes.copy_from_slice(&v6.octets()[..8]),
        }
        Self(bytes)
    }
}

/// A bounded number of connections.
#[derive(Debug, Clone)]
pub(super) struct Crowd<S: Copy + Ord>(Arc<Mutex<Members<S, AbortHandle>>>);

/// A place in a crowd, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place<S: Copy + Ord> {
    crowd: Crowd<S>,
    arrival: u64,
}

impl<S: Copy + Ord> Crowd<S> {
    fn new(capacity: usize, per_source: usize) -> Self {
        Self(Arc::new(Mutex::new(Members::new(capacity, per_source))))
    }

    /// Lets a connection in, at another's cost if need be: that one's task is aborted.
    pub(super) fn enter(&self, source: S, task: AbortHandle) -> Place<S> {
        let (arrival, displaced) = self.members().enter(source, task);
        if let Some(task) = displaced {
            task.abort();
        }
        Place { crowd: self.clone(), arrival }
    }

    /// How many there are, and how many had to go so far.
    pub(super) fn count(&self) -> (usize, u64) {
        let members = self.members();
        (members.by_arrival.len(), members.displaced)
    }

    fn members(&self) -> MutexGuard<'_, Members<S, AbortHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Copy + Ord> Drop for Place<S> {
    fn drop(&mut self) {
        self.crowd.members().remove(self.arrival);
    }
}

/// Who is there, as plain data.
#[derive(Debug)]
struct Members<S, T> {
    capacity: usize,
    per_source: usize,
    next: u64,
    displaced: u64,
    by_arrival: BTreeMap<u64, (S, T)>,
    /// The arrivals of each source that is there: its oldest first.
    by_source: BTreeMap<S, BTreeSet<u64>>,
    /// How many each source has, and its oldest arrival: the fullest last, and
    /// of those that are as full the one whose oldest came first.
    by_count: BTreeMap<(usize, Reverse<u64>), S>,
}

impl<S: Copy + Ord, T> Members<S, T> {
    fn new(capacity: usize, per_source: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            per_source: per_source.max(1),
            next: 0,
            displaced: 0,
            by_arrival: BTreeMap::new(),
            by_source: BTreeMap::new(),
            by_count: BTreeMap::new(),
        }
    }

    /// Lets one in; returns its number, and who has to go for it.
    fn enter(&mut self, source: S, member: T) -> (u64, Option<T>) {
        let own = self.by_source.get(&source).map_or(0, BTreeSet::len);
        let crowded = if own >= self.per_source {
            Some(source)
        } else if self.by_arrival.len() >= self.capacity {
            self.by_count.last_key_value().map(|(_, fullest)| *fullest)
        } else {
            None
        };
        let oldest = crowded.and_then(|source| self.by_source.get(&source)?.first().copied());
        let displaced = oldest.and_then(|arrival| self.remove(arrival));
        self.displaced += u64::from(displaced.is_some());
        let arrival = self.next;
        self.next += 1;
        self.by_arrival.insert(arrival, (source, member));
        self.recount(source, |arrivals| arrivals.insert(arrival));
        (arrival, displaced)
    }

    fn remove(&mut self, arrival: u64) -> Option<T> {
        let (source, member) = self.by_arrival.remove(&arrival)?;
        self.recount(source, |arrivals| arrivals.remove(&arrival));
        Some(member)
    }

    fn recount(&mut self, source: S, change: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let arrivals = self.by_source.entry(source).or_default();
        if let Some(oldest) = arrivals.first() {
            self.by_count.remove(&(arrivals.len(), Reverse(*oldest)));
        }
        change(arrivals);
        if let Some(oldest) = arrivals.first() {
            self.by_count.insert((arrivals.len(), Reverse(*oldest)), source);
        } else {
            self.by_source.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn forever() -> tokio::task::JoinHandle<()> {
        tokio::spawn(std::future::pending())
    }

    #[tokio::test]
    async fn the_fullest_sources_oldest_goes_first() {
        let crowd = Crowd::new(4, 4);
        let source = |last| Source::from(IpAddr::from([10, 0, 0, last]));
        let honest = forever();
        let honest_place = crowd.enter(source(1), honest.abort_handle());
        let flood: Vec<_> = (0..10).map(|_| forever()).collect();
        let places: Vec<_> = flood.iter().map(|task| crowd.enter(source(2), task.abort_handle())).collect();
        for (at, task) in flood.into_iter().enumerate() {
            if at < 7 {
                assert!(task.await.unwrap_err().is_cancelled());
            } else {
                assert!(!task.is_finished());
            }
        }
        assert!(!honest.is_finished());
        assert_eq!(crowd.count(), (4, 7));
        drop((places, honest_place));
        assert!(crowd.members().by_source.is_empty());
    }

    #[test]
    fn of_sources_as_full_the_one_that_came_first_goes_whatever_its_bytes() {
        for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
            let mut members = Members::new(3, 3);
            for source in order {
                assert_eq!(members.enter(source, source).1, None);
            }
            // Newcomers, the lowest and the highest of all, go as little as any other.
            for (newcomer, gone) in [0u8, 9, 8].into_iter().zip(order) {
                assert_eq!(members.enter(newcomer, newcomer).1, Some(gone), "{order:?}");
            }
        }
    }

    #[test]
    fn an_ipv6_network_of_one_host_is_one_source() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
    }

    #[derive(Debug, Clone)]
    enum Act {
        Enter(u8),
        Leave(usize),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        // Sources of very different eagerness.
        let source = prop_oneof![8 => Just(0u8), 3 => Just(1u8), 1 => 2..6u8];
        let act = prop_oneof![3 => source.prop_map(Act::Enter), 1 => (0..64usize).prop_map(Act::Leave)];
        proptest::collection::vec(act, 0..300)
    }

    proptest! {
        /// Compared with the rule itself, written down without any index.
        #[test]
        fn who_has_to_go_is_the_oldest_of_the_fullest(acts in acts(), capacity in 1..20usize, per_source in 1..20usize) {
            let mut members = Members::new(capacity, per_source);
            let mut there: Vec<(u64, u8)> = Vec::new();
            for act in acts {
                match act {
                    Act::Enter(source) => {
                        let count = |of: u8| there.iter().filter(|(_, from)| *from == of).count();
                        let crowded = if count(source) >= per_source {
                            vec![source]
                        } else if there.len() >= capacity {
                            let most = (0..6).map(count).max().unwrap();
                            (0..6).filter(|of| count(*of) == most).collect()
                        } else {
                            Vec::new()
                        };
                        let before = there.clone();
                        let (arrival, displaced) = members.enter(source, members.next);
                        prop_assert_eq!(displaced.is_some(), !crowded.is_empty());
                        if let Some(gone) = displaced {
                            let (_, of) = *before.iter().find(|(at, _)| *at == gone).unwrap();
                            prop_assert!(crowded.contains(&of));
                            let oldest = before.iter().find(|(_, from)| crowded.contains(from)).unwrap();
                            prop_assert_eq!(oldest.0, gone, "not the oldest of them");
                            there.retain(|(at, _)| *at != gone);
                        }
                        there.push((arrival, source));
                    }
                    Act::Leave(at) => {
                        if at < there.len() {
                            let (arrival, _) = there.remove(at);
                            prop_assert!(members.remove(arrival).is_some());
                        }
                    }
                }
                prop_assert!(members.by_arrival.len() <= capacity);
                prop_assert!(members.by_source.values().all(|arrivals| (1..=per_source).contains(&arrivals.len())));
                prop_assert_eq!(members.by_arrival.keys().copied().collect::<Vec<_>>(), there.iter().map(|(at, _)| *at).collect::<Vec<_>>());
                prop_assert_eq!(members.by_count.len(), members.by_source.len());
            }
        }
    }
}
