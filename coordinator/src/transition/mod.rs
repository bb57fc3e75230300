//! The registry's rules, run inside the store's transactions: load, decide by
//! `registry`, write what follows, note it in the audit trail.
//!
//! A refusal is an [`ApiError`] inside the `anyhow::Error`, and undoes the
//! transaction. Where a refusal has consequences that must last (a contested
//! ticket), the transition returns it as a value instead.

pub(crate) mod admins;
pub(crate) mod chores;
pub(crate) mod enrol;
pub(crate) mod epoch;
pub(crate) mod node;
pub(crate) mod open;
pub(crate) mod operator;
pub(crate) mod restore;
pub(crate) mod rotate;
pub(crate) mod status;
pub(crate) mod tokens;
pub(crate) mod vouch;

use std::sync::Arc;

use anyhow::Result;
use jiff::Timestamp;
use kiln_protocol::{ApiError, ErrorClass};

use crate::contacts::Contacts;
use crate::plan::ClusterFile;
use crate::registry::gate::{Cluster, Member, Trust};
use crate::registry::{JoinState, ObjectState, Seat, State, console};
use crate::store::incarnations::Live;
use crate::store::{Transaction, incarnations, seats};

/// The live incarnation, or a refusal.
fn live(tx: &Transaction<'_>) -> Result<Live> {
    Ok(incarnations::live(tx)?.ok_or_else(|| {
        ApiError::new(ErrorClass::Policy, "no cluster is up: no cluster file is in force")
            .hint("bring one up with: builder up FILE, or: coordinator apply FILE")
    })?)
}

/// The live incarnation as the gate sees it, whoever was heard when.
fn cluster(tx: &Transaction<'_>, live: &Live) -> Result<(Cluster, Arc<ClusterFile>)> {
    build(tx, live, 0, &|_| None)
}

/// The live incarnation as the gate sees it now.
fn cluster_now(
    tx: &Transaction<'_>,
    live: &Live,
    contacts: &Contacts,
    now: Timestamp,
) -> Result<(Cluster, Arc<ClusterFile>)> {
    build(tx, live, contacts.slot, &|seat| contacts.heard(seat, now))
}

fn build(
    tx: &Transaction<'_>,
    live: &Live,
    slot: i64,
    heard: &dyn Fn(i64) -> Option<i64>,
) -> Result<(Cluster, Arc<ClusterFile>)> {
    let seated = seats::seated(tx, live.id)?;
    let cluster = Cluster {
        incarnation: live.id,
        lease: live.lease.clone(),
        multi_server: live.plan.is_multi_server(),
        members: seated.servers.iter().map(|seat| member(seat, heard(seat.id))).collect(),
        agents_passed: seated.agents_passed,
        rotating: live.tokens.asked.is_some(),
        slot,
    };
    Ok((cluster, Arc::clone(&live.plan)))
}

fn member(seat: &Seat, heard: Option<i64>) -> Member {
    Member {
        node: seat.node.clone(),
        generation: seat.generation,
        role: seat.role,
        trust: match seat.state {
            State::Bound(_) if console::is_confirmed(seat) => Trust::Trusted,
            State::Bound(_) => Trust::Unconfirmed,
            State::Held(_) => Trust::Doubted,
            State::Issued | State::Superseded(_) | State::Revoked(_) => Trust::Gone,
        },
        passed: seat.passed.map(Timestamp::as_second),
        ready: seat.ready.is_some(),
        left: seat.left.is_some(),
        token: seat.token == Some(JoinState::Made),
        doomed: seat.object == ObjectState::Doomed,
        heard,
    }
}

/// What follows in the cluster when the rights of `seat`, as it was before, are
/// over: its join token is to go, and its Node object where that has to.
fn clear_up(tx: &Transaction<'_>, seat: &Seat, object: bool) -> Result<()> {
    // It may have joined after its slot was given on.
    if seat.state.is_live() && seat.left.is_some() {
        seats::set_left(tx, seat.id, None)?;
    }
    if matches!(seat.token, Some(JoinState::Wanted | JoinState::Made)) {
        seats::set_token(tx, seat.id, Some(JoinState::Unwanted))?;
    }
    if object && seat.passed.is_some() && seat.object == ObjectState::Kept {
        seats::set_object(tx, seat.id, ObjectState::Doomed)?;
    }
    Ok(())
}

/// The datastore that these seats were part of is no more.
fn forget_datastore<'a>(
    tx: &Transaction<'_>,
    seats: impl IntoIterator<Item = &'a Seat>,
    now: Timestamp,
) -> Result<()> {
    for seat in seats.into_iter().filter(|seat| seat.passed.is_some()) {
        seats::set_left(tx, seat.id, Some(now))?;
        seats::set_object(tx, seat.id, ObjectState::Gone)?;
    }
    Ok(())
}

#[cfg(test)]
mod faults_tests;
#[cfg(test)]
mod history_tests;
