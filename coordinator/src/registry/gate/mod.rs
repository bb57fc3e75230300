//! When a node may start k3s, and as what. k3s picks its datastore at its
//! first start and mints certificates then, so order and clocks matter once.
//!
//! * One server: SQLite, it goes at once.
//! * Several: the incarnation's one lease to start etcd belongs to the file's
//!   first server; the others join, one at a time, each when a server is ready.
//! * The lease passes to the holder's next generation if nobody else has
//!   passed the gate; after that a replacement joins like any other server.
//! * A sole server that was ready, or said so while its word did not count, is
//!   replaced at the operator's word only: with a copy of its datastore or without
//!   its data ([`replace`]).
//! * A joining server has a slot until it is ready. A slot whose time is over,
//!   or whose holder was superseded or revoked, is given on once etcd is known
//!   to lack the holder ([`members`]): a ready server's agent reads that from
//!   etcd, or the operator has looked.
//! * Nobody takes the place of a machine that still speaks: create before
//!   destroy is refused.
//! * Agents wait for a ready server, and for their own join token to be in the
//!   cluster.
//! * Who joins others waits while the cluster's tokens are being rotated.

mod members;
mod replace;

use kiln_protocol::api::{GateAnswer, GateRequest, MAX_CLOCK_SKEW};
use kiln_protocol::config::Incarnation;
use kiln_protocol::{ApiError, ErrorClass, NodeName, Role};

/// Seconds between a node's questions while it waits.
const RETRY: u32 = 2;

/// What the gate knows of one generation of a node that has had a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four facts that become known apart from each other")]
pub(crate) struct Member {
    pub(crate) node: NodeName,
    pub(crate) generation: u32,
    pub(crate) role: Role,
    pub(crate) trust: Trust,
    /// When the gate let it start k3s, in seconds since 1970.
    pub(crate) passed: Option<i64>,
    /// It has said that it was ready.
    pub(crate) ready: bool,
    /// Its datastore is known to lack it.
    pub(crate) left: bool,
    /// Its own join token is in the cluster.
    pub(crate) token: bool,
    /// Its Node object is still to be deleted.
    pub(crate) doomed: bool,
    /// Seconds since its machine was last heard, if they are too few to take
    /// it for gone.
    pub(crate) heard: Option<i64>,
}

/// What a member's key is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Bound.
    Trusted,
    /// Bound, but its console has not shown its key.
    Unconfirmed,
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
    /// Its tokens are being rotated: nobody begins with one that is about to end.
    pub(crate) rotating: bool,
    /// Seconds a joining server has to become ready.
    pub(crate) slot: i64,
}

/// As what a node enters its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    First { cluster_init: bool },
    Joining,
    Agent,
}

impl Member {
    /// It holds the slot that etcd has for one joining server.
    fn is_joining(&self) -> bool {
        self.role == Role::Server && self.passed.is_some() && !self.ready && !self.left
    }

    /// The datastore may have it: it was in, or it passed and may get in yet,
    /// though its place was given on.
    fn may_be_in(&self) -> bool {
        !self.left || self.trust != Trust::Gone
    }

    fn is_up(&self) -> bool {
        self.role == Role::Server && self.trust == Trust::Trusted && self.ready
    }
}

impl Cluster {
    /// The lease's holder after a key was bound to `generation` of `node`. `said_ready`:
    /// the present holder may have said that it was ready, believed or not.
    pub(crate) fn lease_after_bind(&self, node: &NodeName, generation: u32, said_ready: bool) -> Option<u32> {
        // A lie at worst has the operator asked, and a truth unheard would cost the data.
        if *node != self.lease.node || (!self.multi_server && said_ready) {
            return self.lease.generation;
        }
        // Without its holder's start there is no datastore for others to be in.
        let Some(holder) =
            self.members.iter().find(|member| self.holds_lease(member) && member.passed.is_some())
        else {
            return Some(generation);
        };
        let others_passed = self.agents_passed
            || self
                .members
                .iter()
                .any(|member| member.passed.is_some() && member.node != *node && member.may_be_in());
        let has_data = !self.multi_server && holder.ready;
        if others_passed || has_data { self.lease.generation } else { Some(generation) }
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
            .hint(format!(
                "say what becomes of the data: coordinator replace {0} --restore FILE, or coordinator \
                 replace {0} --discard-data; or begin anew with: builder down, then builder up",
                self.lease.node
            ))),
        }
    }

    /// Whether `caller` may start k3s now; `earlier` are the generations of
    /// its name before it. Who passed once, passes.
    pub(crate) fn ask(
        &self,
        caller: &Member,
        earlier: &[Member],
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
        if caller.passed.is_some() {
            return Ok(GateAnswer::Go);
        }
        let reason = self.replaced(earlier).or_else(|| match part {
            Part::First { .. } => None,
            Part::Agent => self.no_server(caller).or_else(|| self.rotation()).or_else(|| no_token(caller)),
            Part::Joining => self
                .no_server(caller)
                .or_else(|| self.rotation())
                .or_else(|| self.slot_taken(caller, clock))
                .or_else(|| still_a_member(earlier)),
        });
        Ok(reason.map_or(GateAnswer::Go, |reason| GateAnswer::Wait { reason, retry_after: RETRY }))
    }

    /// Whether a ready server's address is to be preferred over the lease holder's.
    pub(crate) fn is_ready_server(&self, node: &NodeName) -> bool {
        self.members.iter().any(|member| member.node == *node && member.is_up())
    }

    fn holds_lease(&self, member: &Member) -> bool {
        member.node == self.lease.node && Some(member.generation) == self.lease.generation
    }

    fn other_servers<'a>(&'a self, caller: &'a Member) -> impl Iterator<Item = &'a Member> {
        self.members.iter().filter(|member| member.role == Role::Server && member.node != caller.node)
    }

    /// What of the machines before has to end first.
    fn replaced(&self, earlier: &[Member]) -> Option<String> {
        let passed = || earlier.iter().filter(|old| old.passed.is_some());
        if let Some((old, seconds)) = passed().find_map(|old| Some((old, old.heard?))) {
            return Some(format!(
                "the machine of generation {0} of {1} spoke {seconds} s ago: no machine takes its place before \
                 it is gone; if it was deleted, and somebody else has its key: coordinator member-gone {1}",
                old.generation, old.node
            ));
        }
        let old = earlier.iter().find(|old| old.doomed)?;
        let who = if self.members.iter().any(Member::is_up) {
            "a ready server's agent does that"
        } else {
            "that takes a ready server, and there is none"
        };
        Some(format!(
            "the Node object of generation {} of {} is to be deleted first: {who}",
            old.generation, old.node
        ))
    }

    fn no_server(&self, caller: &Member) -> Option<String> {
        let ready = self.other_servers(caller).any(Member::is_up);
        (!ready).then(|| format!("no server is ready yet; {}", self.servers_in_words(caller)))
    }

    fn rotation(&self) -> Option<String> {
        self.rotating.then(|| {
            "the cluster's tokens are being rotated: a ready server's agent gives k3s the new one".to_owned()
        })
    }

    fn slot_taken(&self, caller: &Member, clock: i64) -> Option<String> {
        let holder = self.other_servers(caller).find(|other| other.is_joining())?;
        let node = &holder.node;
        Some(if holder.trust == Trust::Gone {
            format!(
                "server {node} was joining when it was replaced or revoked: its place is given on once etcd \
                 says that it lacks {node}"
            )
        } else if self.is_overdue(holder, clock) {
            format!(
                "server {node} has not become ready in {} min: its place is given on once etcd says that it \
                 lacks {node}",
                self.slot / 60
            )
        } else {
            format!("server {node} is joining, and etcd takes one at a time")
        })
    }

    /// Whether a joining server has had its time.
    fn is_overdue(&self, member: &Member, clock: i64) -> bool {
        member.passed.is_some_and(|passed| clock.saturating_sub(passed) > self.slot)
    }

    fn servers_in_words(&self, caller: &Member) -> String {
        let mut words: Vec<String> = self
            .other_servers(caller)
            .filter(|server| server.trust != Trust::Gone)
            .map(|server| {
                let how = match server {
                    Member { trust: Trust::Doubted, .. } => "is held",
                    Member { trust: Trust::Unconfirmed, .. } => "waits for its key to be confirmed",
                    Member { passed: Some(_), .. } => "is starting",
                    _ => "has enrolled",
                };
                format!("{} {how}", server.node)
            })
            .collect();
        if words.is_empty() {
            let lost = self.members.iter().any(|member| member.ready);
            words.push(if lost {
                format!(
                    "every server that was is gone, and a quorum of etcd with them: coordinator replace {} \
                     --discard-data, or begin anew with: builder down, then builder up",
                    self.lease.node
                )
            } else {
                format!("{} has not enrolled", self.lease.node)
            });
        }
        words.join(", ")
    }
}

fn no_token(caller: &Member) -> Option<String> {
    (!caller.token).then(|| {
        "its own join token is not in the cluster yet: a ready server's agent puts it there".to_owned()
    })
}

/// k3s refuses a server whose name etcd knows under another id.
fn still_a_member(earlier: &[Member]) -> Option<String> {
    let old = earlier.iter().find(|old| old.passed.is_some() && !old.left)?;
    Some(format!(
        "etcd may still have generation {0} of {1}: a ready server's agent removes it; if that cannot be, as \
         without a quorum, look yourself and say: coordinator member-gone {1}",
        old.generation, old.node
    ))
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
mod history_tests;
#[cfg(test)]
pub(crate) mod tests;
