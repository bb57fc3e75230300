//! Who is let in when too many want in. At the cap, the oldest of the source
//! that takes most room has to go: an attacker at one address displaces
//! himself, and an honest machine elsewhere gets its turn.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::AbortHandle;

use super::Limits;

/// The three crowds: those whose key is not proven yet, those with a key that
/// nobody knows, and those with a known one. Strangers can displace strangers
/// only.
#[derive(Debug)]
pub(super) struct Crowds {
    pub(super) handshakes: Crowd,
    pub(super) unknown: Crowd,
    pub(super) known: Crowd,
}

impl Crowds {
    pub(super) fn new(limits: &Limits) -> Self {
        let Limits { handshakes, unknown, known, .. } = *limits;
        Self { handshakes: Crowd::new(handshakes), unknown: Crowd::new(unknown), known: Crowd::new(known) }
    }
}

/// A bounded number of connections.
#[derive(Debug, Clone)]
pub(super) struct Crowd {
    capacity: usize,
    members: Arc<Mutex<Members>>,
}

#[derive(Debug, Default)]
struct Members {
    next: u64,
    /// By arrival, so that the first of a source is its oldest.
    by_arrival: BTreeMap<u64, (Source, AbortHandle)>,
    counts: BTreeMap<Source, usize>,
}

/// An IPv4 address, or the /64 of an IPv6 address, which one host can fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Source([u8; 8]);

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

/// A place in a crowd, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Crowd,
    arrival: u64,
}

impl Crowd {
    fn new(capacity: usize) -> Self {
        Self { capacity, members: Arc::default() }
    }

    /// Lets a connection in, at another's cost if need be: that one's task is aborted.
    pub(super) fn enter(&self, from: IpAddr, task: AbortHandle) -> Place {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if members.by_arrival.len() >= self.capacity {
            members.evict();
        }
        let (source, arrival) = (Source::from(from), members.next);
        members.next += 1;
        members.by_arrival.insert(arrival, (source, task));
        *members.counts.entry(source).or_default() += 1;
        Place { crowd: self.clone(), arrival }
    }
}

impl Members {
    fn evict(&mut self) {
        let fullest = self.counts.iter().max_by_key(|(_, count)| **count).map(|(source, _)| *source);
        let oldest =
            self.by_arrival.iter().find(|(_, (source, _))| Some(*source) == fullest).map(|(at, _)| *at);
        if let Some((_, task)) = oldest.and_then(|arrival| self.remove(arrival)) {
            task.abort();
        }
    }

    fn remove(&mut self, arrival: u64) -> Option<(Source, AbortHandle)> {
        let (source, task) = self.by_arrival.remove(&arrival)?;
        if let Some(count) = self.counts.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&source);
            }
        }
        Some((source, task))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.members.lock().unwrap_or_else(PoisonError::into_inner).remove(self.arrival);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forever() -> tokio::task::JoinHandle<()> {
        tokio::spawn(std::future::pending())
    }

    #[tokio::test]
    async fn the_fullest_sources_oldest_goes_first() {
        let crowd = Crowd::new(4);
        let honest = forever();
        let honest_place = crowd.enter([10, 0, 0, 1].into(), honest.abort_handle());
        let flood: Vec<_> = (0..10).map(|_| forever()).collect();
        let places: Vec<_> =
            flood.iter().map(|task| crowd.enter([10, 0, 0, 2].into(), task.abort_handle())).collect();
        for (at, task) in flood.into_iter().enumerate() {
            if at < 7 {
                assert!(task.await.unwrap_err().is_cancelled());
            } else {
                assert!(!task.is_finished());
            }
        }
        assert!(!honest.is_finished());
        drop((places, honest_place));
        assert!(crowd.members.lock().unwrap().counts.is_empty());
    }

    #[test]
    fn an_ipv6_network_of_one_host_is_one_source() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
    }
}
