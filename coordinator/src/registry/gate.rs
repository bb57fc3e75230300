//! When a node may start k3s, and as what. k3s picks its datastore at its
//! first start and mints certificates then, so order and clocks matter once.
//!
//! * One server: SQLite, it goes at once.
//! * Several: the incarnation's one lease to start etcd belongs to the file's
//!   first server; the others join, one at a time, each when a server is ready.
//! * The lease passes to the holder's next generation if nobody else has
//!   passed the gate; after that a replacement joins like any other server.
//! * A sole server that was ready is not replaced: its data would be lost.
//! * Agents wait for a ready server.
//!
//! Places of later steps: a slot whose holder died before it was ready is given
//! to another server once etcd is known to lack the holder; `--restore` and
//! `--discard-data` say what becomes of a sole server's data; a server role
//! also waits for its console confirmation.

use kiln_protocol::api::{GateAnswer, GateRequest, MAX_CLOCK_SKEW};
use kiln_protocol::config::Incarnation;
use kiln_protocol::{ApiError, ErrorClass, NodeName, Role};

/// Seconds between a node's questions while it waits.
const RETRY: u32 = 2;

/// What the gate knows of one seat of the live incarnation that has had a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) node: NodeName,
    pub(crate) generation: u32,
    pub(crate) role: Role,
    pub(crate) trust: Trust,
    /// The gate let it start k3s.
    pub(crate) passed: bool,
    /// It has said that it was ready.
    pub(crate) ready: bool,
}

/// What a member's key is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Bound.
    Trusted,
    /// Held: it may come back.
    Doubted,
    /// Superseded or revoked, for good.
    Gone,
}

/// The right to start the incarnation's datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) node: NodeName,
    /// The generation that holds it; none before one has enrolled.
    pub(crate) generation: Option<u32>,
}

/// The live incarnation as the gate sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cluster {
    pub(crate) incarnation: Incarnation,
    pub(crate) lease: Lease,
    /// Several servers: etcd.
    pub(crate) multi_server: bool,
    /// Every generation of every server that has had a key.
    pub(crate) members: Vec<Member>,
    /// Whether the gate has let an agent start.
    pub(crate) agents_passed: bool,
}

/// As what a node enters its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    First { cluster_init: bool },
    Joining,
    Agent,
}

impl Cluster {
    /// The lease's holder after a key was bound to `generation` of `node`.
    pub(crate) fn lease_after_bind(&self, node: &NodeName, generation: u32) -> Option<u32> {
        if *node != self.lease.node {
            return self.lease.generation;
        }
        let others_passed =
            self.agents_passed || self.members.iter().any(|member| member.passed && member.node != *node);
        let has_data =
            !self.multi_server && self.members.iter().any(|member| member.ready && self.holds_lease(member));
        if self.lease.generation.is_some() && (others_passed || has_data) {
            self.lease.generation
        } else {
            Some(generation)
        }
    }

    /// As what `caller` enters: the same for a generation, whenever it asks.
    pub(crate) fn part(&self, caller: &Member) -> Result<Part, ApiError> {
        match caller.role {
            Role::Agent => Ok(Part::Agent),
            Role::Server if self.holds_lease(caller) => Ok(Part::First { cluster_init: self.multi_server }),
            Role::Server if self.multi_server => Ok(Part::Joining),
            Role::Server => Err(ApiError::new(
                ErrorClass::Policy,
                format!(
                    "{} was the cluster's only server and held its data: generation {} may not start an \
                     empty one in its place",
                    self.lease.node, caller.generation
                ),
            )
            .hint("begin anew with: builder down, then builder up")),
        }
    }

    /// Whether `caller` may start k3s now. Who passed once, passes.
    pub(crate) fn ask(
        &self,
        caller: &Member,
        request: &GateRequest,
        clock: i64,
    ) -> Result<GateAnswer, ApiError> {
        let part = self.part(caller)?;
        if request.incarnation != self.incarnation {
            let message = format!(
                "the node holds the configuration of incarnation {}, the cluster is at {}",
                request.incarnation, self.incarnation
            );
            return Err(ApiError::new(ErrorClass::Policy, message).hint("fetch the configuration again"));
        }
        check_clock(request.clock, clock)?;
        let wait = |reason: String| Ok(GateAnswer::Wait { reason, retry_after: RETRY });
        if caller.passed {
            return Ok(GateAnswer::Go);
        }
        match part {
            Part::Agent | Part::Joining
                if !self.other_servers(caller).any(|s| s.trust == Trust::Trusted && s.ready) =>
            {
                wait(format!("no server is ready yet; {}", self.servers_in_words(caller)))
            }
            Part::Joining => {
                match self.other_servers(caller).find(|s| s.trust != Trust::Gone && s.passed && !s.ready) {
                    Some(joining) => {
                        wait(format!("server {} is joining, and etcd takes one at a time", joining.node))
                    }
                    None => Ok(GateAnswer::Go),
                }
            }
            Part::First { .. } | Part::Agent => Ok(GateAnswer::Go),
        }
    }

    /// Whether a ready server's address is to be preferred over the lease holder's.
    pub(crate) fn is_ready_server(&self, node: &NodeName) -> bool {
        self.members
            .iter()
            .any(|m| m.node == *node && m.role == Role::Server && m.trust == Trust::Trusted && m.ready)
    }

    fn holds_lease(&self, member: &Member) -> bool {
        member.node == self.lease.node && Some(member.generation) == self.lease.generation
    }

    fn other_servers<'a>(&'a self, caller: &'a Member) -> impl Iterator<Item = &'a Member> {
        self.members.iter().filter(|member| member.role == Role::Server && member.node != caller.node)
    }

    fn servers_in_words(&self, caller: &Member) -> String {
        let mut words: Vec<String> = self
            .other_servers(caller)
            .filter(|server| server.trust != Trust::Gone)
            .map(|server| {
                let how = match server {
                    Member { trust: Trust::Doubted, .. } => "is held",
                    Member { passed: true, .. } => "is starting",
                    _ => "has enrolled",
                };
                format!("{} {how}", server.node)
            })
            .collect();
        if words.is_empty() {
            words.push(format!("{} has not enrolled", self.lease.node));
        }
        words.join(", ")
    }
}

fn check_clock(node: i64, coordinator: i64) -> Result<(), ApiError> {
    let skew = node.saturating_sub(coordinator);
    if skew.saturating_abs() <= MAX_CLOCK_SKEW {
        return Ok(());
    }
    let direction = if skew > 0 { "ahead of" } else { "behind" };
    let message = format!("the node's clock is {} s {direction} the coordinator's", skew.saturating_abs());
    Err(ApiError::new(ErrorClass::Clock, message)
        .hint(format!("k3s starts when they agree within {MAX_CLOCK_SKEW} s: is chronyd running?"))
        .retry_after(10))
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
