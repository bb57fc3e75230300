//! Who is in etcd, as far as that decides about slots.
//!
//! k3s adds a joining server to etcd as a learner before the server has a Node
//! object, so only etcd's own list says who is in it. A ready server's agent
//! reads it from `GET /db/info` of its own supervisor (k3s `pkg/etcd/etcd.go`,
//! `infoHandler`), which is the list that joining servers are given.

use std::net::IpAddr;

use kiln_protocol::chores::EtcdMember;
use kiln_protocol::{NodeName, Role};

use super::{Cluster, Member, Trust};

impl Cluster {
    /// Whether somebody waits for what etcd says.
    pub(crate) fn wants_members(&self, clock: i64) -> bool {
        self.multi_server && self.members.iter().any(|member| self.is_asked_about(member, clock))
    }

    /// Of those that are asked about, the ones that `list` does not know.
    pub(crate) fn missing_from<'a>(
        &'a self,
        list: &'a [EtcdMember],
        address: impl Fn(&NodeName) -> Option<IpAddr> + 'a,
        clock: i64,
    ) -> impl Iterator<Item = &'a Member> {
        self.members.iter().filter(move |member| {
            self.is_asked_about(member, clock)
                && !list.iter().any(|known| known.is(&member.node, address(&member.node)))
        })
    }

    /// Whether the place of `member` is given on once etcd lacks it.
    fn is_asked_about(&self, member: &Member, clock: i64) -> bool {
        let started = member.role == Role::Server && member.passed.is_some() && !member.left;
        started
            && match member.trust {
                // What is doomed is a member until its Node object is deleted.
                Trust::Gone => !member.doomed && (!member.ready || self.is_awaited(member)),
                Trust::Trusted | Trust::Unconfirmed | Trust::Doubted => {
                    !member.ready && self.is_overdue(member, clock)
                }
            }
    }

    /// Whether a later generation waits to take its place.
    fn is_awaited(&self, member: &Member) -> bool {
        let later = |other: &&Member| other.node == member.node && other.generation > member.generation;
        self.members.iter().filter(later).any(|later| later.trust != Trust::Gone && later.passed.is_none())
    }
}
