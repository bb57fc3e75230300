//! The registry's rules, run inside the store's transactions: load, decide by
//! `registry`, write what follows, note it in the audit trail.
//!
//! A refusal is an [`ApiError`] inside the `anyhow::Error`, and undoes the
//! transaction. Where a refusal has consequences that must last (a contested
//! ticket), the transition returns it as a value instead.

pub(crate) mod admins;
pub(crate) mod enrol;
pub(crate) mod epoch;
pub(crate) mod node;
pub(crate) mod open;
pub(crate) mod operator;
pub(crate) mod restore;
pub(crate) mod rotate;
pub(crate) mod status;
pub(crate) mod vouch;

use std::rc::Rc;

use anyhow::Result;
use kiln_protocol::{ApiError, ErrorClass};

use crate::plan::ClusterFile;
use crate::registry::gate::{Cluster, Member, Trust};
use crate::registry::{Seat, State};
use crate::store::incarnations::Live;
use crate::store::{Transaction, incarnations, seats};

/// The live incarnation, or a refusal.
fn live(tx: &Transaction<'_>) -> Result<Live> {
    Ok(incarnations::live(tx)?.ok_or_else(|| {
        ApiError::new(ErrorClass::Policy, "no cluster is up: no cluster file is in force")
            .hint("bring one up with: builder up FILE, or: coordinator apply FILE")
    })?)
}

/// The live incarnation as the gate sees it.
fn cluster(tx: &Transaction<'_>, live: &Live) -> Result<(Cluster, Rc<ClusterFile>)> {
    let servers = seats::servers_with_key(tx, live.id)?;
    let cluster = Cluster {
        incarnation: live.id,
        lease: live.lease.clone(),
        multi_server: live.plan.is_multi_server(),
        members: servers.iter().map(member).collect(),
        agents_passed: seats::agents_passed(tx, live.id)?,
    };
    Ok((cluster, Rc::clone(&live.plan)))
}

fn member(seat: &Seat) -> Member {
    Member {
        node: seat.node.clone(),
        generation: seat.generation,
        role: seat.role,
        trust: match seat.state {
            State::Bound(_) => Trust::Trusted,
            State::Held(_) => Trust::Doubted,
            State::Issued | State::Superseded(_) | State::Revoked(_) => Trust::Gone,
        },
        passed: seat.passed.is_some(),
        ready: seat.ready.is_some(),
    }
}

#[cfg(test)]
mod faults_tests;
#[cfg(test)]
mod history_tests;
