//! What a bound node asks: its configuration, the gate, taking its reports.
//! Each looks the seat up again, so that what was revoked a moment ago is.

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kiln_protocol::api::{GateAnswer, GateRequest, Report, Step, StepState};
use kiln_protocol::config::NodeConfig;
use kiln_protocol::{ApiError, ErrorClass};

use super::{cluster, cluster_now, epoch, live, member};
use crate::contacts::Contacts;
use crate::plan;
use crate::registry::gate::{Member, Part};
use crate::registry::{Seat, State, console};
use crate::store::events::{self, Actor, Event, What};
use crate::store::incarnations::Restore;
use crate::store::seats::Moment;
use crate::store::{Transaction, incarnations, reports, seats};

/// A boot id is a uuid.
const MAX_BOOT_ID: usize = 64;

/// The configuration of the node of `seat`, as that is now, secrets and all.
pub(crate) fn config(tx: &Transaction<'_>, seat: &Seat, now: Timestamp) -> Result<NodeConfig> {
    trusted(seat)?;
    confirmed(seat, now)?;
    let live = live(tx)?;
    let (cluster, plan) = cluster(tx, &live)?;
    let planned = plan.node(&seat.node).ok_or_else(|| {
        ApiError::new(ErrorClass::Policy, format!("node {} has left the cluster file", seat.node))
            .hint("put it back, or revoke the node and delete the machine")
    })?;
    let member = member(seat, None);
    let part = cluster.part(&member)?;
    let secrets = incarnations::secrets(tx)?.context("a live incarnation has no secrets")?;
    let restore = live.restore.filter(|_| matches!(part, Part::First { .. })).map(|copy| copy.snapshot);
    let token_serial = live.tokens.done();
    let subject =
        plan::Subject { node: planned, member: &member, part, seat: seat.id, restore, token_serial };
    Ok(NodeConfig { rotate: seat.rotate, ..plan::derive(&plan, &secrets, &cluster, &subject)? })
}

/// The copy of a datastore that the node is to begin with.
pub(crate) fn snapshot(tx: &Transaction<'_>, seat: i64, now: Timestamp) -> Result<Restore> {
    let seat = seats::by_id(tx, seat)?;
    trusted(&seat)?;
    confirmed(&seat, now)?;
    let live = live(tx)?;
    let (cluster, _) = cluster(tx, &live)?;
    let restore =
        live.restore.filter(|_| matches!(cluster.part(&member(&seat, None)), Ok(Part::First { .. })));
    Ok(restore.ok_or_else(|| ApiError::new(ErrorClass::Policy, "no datastore is kept for this node"))?)
}

/// Whether the node may start k3s. A yes is on disk before it is said.
pub(crate) fn gate(
    tx: &Transaction<'_>,
    seat: i64,
    request: &GateRequest,
    actor: &Actor,
    contacts: &Contacts,
    now: Timestamp,
) -> Result<GateAnswer> {
    let seat = seats::by_id(tx, seat)?;
    trusted(&seat)?;
    epoch::check(tx)?;
    confirmed(&seat, now)?;
    let live = live(tx)?;
    let (cluster, _) = cluster_now(tx, &live, contacts, now)?;
    let earlier: Vec<Member> = seats::of_node(tx, &seat.node)?
        .iter()
        .filter(|other| other.incarnation == live.id && other.generation < seat.generation)
        .map(|other| member(other, contacts.heard(other.id, now)))
        .collect();
    let answer = cluster.ask(&member(&seat, None), &earlier, request, now.as_second())?;
    if answer == GateAnswer::Go && seats::note_moment(tx, seat.id, Moment::Passed, now)? {
        events::note(tx, actor, &Event::of(What::Pass, seat.id, &seat.label()), now)?;
    }
    Ok(answer)
}

/// Takes a report; false if it told nothing new. A held node and a server that is
/// not confirmed may report too, but are not ready by their own word: what becomes of
/// a cluster rests on that. They say it again once they may do what nodes do.
pub(crate) fn report(
    tx: &Transaction<'_>,
    seat: i64,
    report: &Report,
    actor: &Actor,
    now: Timestamp,
) -> Result<bool> {
    let seat = seats::by_id(tx, seat)?;
    if !seat.state.is_live() {
        trusted(&seat)?;
    }
    check_report(report)?;
    if let Some(facts) = &report.facts {
        seats::set_facts(tx, seat.id, facts)?;
    }
    let newest = reports::take(tx, seat.id, report, now)?;
    let counts = seat.state.is_trusted() && console::is_confirmed(&seat);
    let ready = counts && report.step == Step::Ready && matches!(report.state, StepState::Done);
    if ready && seats::note_moment(tx, seat.id, Moment::Ready, now)? {
        let detail = format!("{} after {} ms", seat.label(), report.uptime_ms);
        events::note(tx, actor, &Event::of(What::Ready, seat.id, &detail), now)?;
        // Ready means that its datastore has it, whatever was known before.
        seats::set_left(tx, seat.id, None)?;
        let live = live(tx)?;
        let holds_lease = seat.node == live.lease.node && live.lease.generation == Some(seat.generation);
        if holds_lease && live.restore.is_some() {
            incarnations::set_restore(tx, None)?;
        }
        return Ok(true);
    }
    Ok(newest)
}

/// Refuses reports whose parts no honest agent would send.
pub(crate) fn check_report(report: &Report) -> Result<(), ApiError> {
    let id = &report.boot_id;
    let wrong = |what: &str| Err(ApiError::new(ErrorClass::Format, format!("the report's {what}")));
    if id.is_empty() || id.len() > MAX_BOOT_ID || !id.bytes().all(|b| b.is_ascii_graphic()) {
        return wrong("boot_id is not one");
    }
    // SQLite's integers end here.
    let limit = u64::try_from(i64::MAX).unwrap_or(u64::MAX);
    if report.sequence > limit || report.uptime_ms > limit {
        return wrong("numbers are too large");
    }
    Ok(())
}

pub(super) fn confirmed(seat: &Seat, now: Timestamp) -> Result<(), ApiError> {
    console::unconfirmed(seat, now).map_or(Ok(()), Err)
}

pub(super) fn trusted(seat: &Seat) -> Result<(), ApiError> {
    match (seat.state, seat.refusal()) {
        (State::Bound(_), _) | (_, None) => Ok(()),
        (_, Some(refusal)) => Err(refusal),
    }
}
