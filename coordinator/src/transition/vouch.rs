//! What an operator says of a machine whose console was read: that it is the
//! one that enrolled, or that it is to be a node without a ticket.

use anyhow::Result;
use jiff::Timestamp;
use kiln_protocol::admin::{ApproveAnswer, ConfirmAnswer, ConfirmOutcome, Hints, TicketRecord};
use kiln_protocol::api::{EnrolAnswer, Facts};
use kiln_protocol::{ApiError, ErrorClass, Fingerprint, NodeName, TicketKey};

use super::{enrol, epoch, live};
use crate::registry::console::{self, Shown};
use crate::registry::{KeyOwner, Seat, State, enrol as rules, operator};
use crate::store::events::{self, Actor, Event, What};
use crate::store::{Transaction, keys, rounded, seats};

/// Why a node is held that enrolled with another key than its console's.
const OTHER_KEY: &str = "its console shows another key";

/// A machine's console shows `shown`. Idempotent.
pub(crate) fn confirm(
    tx: &Transaction<'_>,
    node: &NodeName,
    generation: Option<u32>,
    shown: Fingerprint,
    actor: &Actor,
    now: Timestamp,
) -> Result<ConfirmAnswer> {
    let owner = keys::owner(tx, &shown)?;
    let seat = seat_of(tx, node, generation, owner.as_ref())?;
    let decision = console::confirm(&seat, shown)?;
    let held = matches!(seat.state, State::Held(_)).then(|| seat.reason.clone().unwrap_or_default());
    let answer = |outcome| {
        let held = if outcome == ConfirmOutcome::Mismatch { Some(OTHER_KEY.to_owned()) } else { held };
        Ok(ConfirmAnswer { outcome, generation: seat.generation, key: seat.state.key(), held })
    };
    if let Some(KeyOwner::Former(former)) = owner
        && former.id == seat.id
    {
        // What the console showed before the key was replaced.
        return answer(ConfirmOutcome::Former);
    }
    if seat.console_key != Some(shown) {
        seats::set_console_key(tx, seat.id, &shown)?;
    }
    match decision {
        Shown::Already => answer(ConfirmOutcome::Kept),
        Shown::Keep => {
            let detail = format!("{} shows key {shown}", seat.label());
            events::note(tx, actor, &Event::of(What::Confirm, seat.id, &detail), now)?;
            answer(ConfirmOutcome::Kept)
        }
        Shown::Mismatch(key) => {
            seats::set_state(tx, seat.id, State::Held(key), Some(OTHER_KEY))?;
            let detail =
                format!("{} enrolled with key {key}, but its console shows key {shown}", seat.label());
            let once = format!("console {} {key} {shown}", seat.id);
            let event =
                Event { alarm: true, once: Some(&once), ..Event::of(What::Mismatch, seat.id, &detail) };
            events::note(tx, actor, &event, now)?;
            answer(ConfirmOutcome::Mismatch)
        }
    }
}

/// The generation whose machine shows a key: the one that was named, the one
/// that has the key or had it, else the newest that is not over.
fn seat_of(
    tx: &Transaction<'_>,
    node: &NodeName,
    generation: Option<u32>,
    owner: Option<&KeyOwner>,
) -> Result<Seat> {
    let mut generations = seats::of_node(tx, node)?;
    let open = |seat: &Seat| seat.state.is_live() || seat.state == State::Issued;
    let whose = match owner {
        Some(KeyOwner::Node { seat, .. } | KeyOwner::Former(seat)) => Some(seat.id),
        _ => None,
    };
    let at = match generation {
        Some(generation) => generations.iter().position(|seat| seat.generation == generation),
        None => generations
            .iter()
            .position(|seat| seat.state.is_live() && Some(seat.id) == whose)
            .or_else(|| generations.iter().position(open))
            .or(if generations.is_empty() { None } else { Some(0) }),
    };
    let at = at.ok_or_else(|| operator::no_such_node(node))?;
    Ok(generations.swap_remove(at))
}

/// Binds `key`, which no ticket vouches for, to a new generation of a node.
/// `nobody` is a ticket whose seed nobody has. Idempotent.
pub(crate) fn approve(
    tx: &Transaction<'_>,
    node: &NodeName,
    key: Fingerprint,
    nobody: &TicketKey,
    actor: &Actor,
    now: Timestamp,
) -> Result<ApproveAnswer> {
    let live = live(tx)?;
    match keys::owner(tx, &key)? {
        Some(KeyOwner::Node { seat, .. }) if seat.node == *node && seat.state.is_live() => {
            return Ok(ApproveAnswer { key, generation: seat.generation });
        }
        Some(owner) => return Err(rules::owned(&owner).into()),
        None => {}
    }
    let Some(planned) = live.plan.node(node) else {
        let message = format!("node {node} is not in the cluster file in force");
        let hint = "add it and apply the file: coordinator apply FILE";
        return Err(ApiError::new(ErrorClass::Policy, message).hint(hint).into());
    };
    let generations = seats::of_node(tx, node)?;
    if let Some(seat) = generations.iter().find(|seat| seat.state.is_live()) {
        let message = format!("node {} has a key already", seat.label());
        let hint = format!("if that machine is gone: coordinator revoke {node}; then approve this one");
        return Err(ApiError::new(ErrorClass::NameConflict, message).hint(hint).into());
    }
    let now_rounded = rounded(now);
    let record = TicketRecord {
        node: node.clone(),
        generation: seats::newest_generation(tx, node)? + 1,
        role: planned.role,
        not_before: now_rounded,
        expires: now_rounded,
        confirm_console: true,
        hints: Hints::default(),
    };
    let label = format!("{node} (generation {}), approved", record.generation);
    keys::note_ticket(tx, nobody, &label, now)?;
    let seat = seats::insert(tx, live.id, nobody, &record)?;
    // The operator read the key on the console: that is the confirmation too.
    seats::set_console_key(tx, seat, &key)?;
    let detail = format!("{label}: key {key}, {}", record.role);
    events::note(tx, actor, &Event::of(What::Approve, seat, &detail), now)?;
    epoch::check(tx)?;
    enrol::bind(tx, &seats::by_id(tx, seat)?, key, None, actor, now)?;
    Ok(ApproveAnswer { key, generation: record.generation })
}

/// What a machine that waited for approval has become.
pub(crate) fn approved(tx: &Transaction<'_>, seat: i64, facts: &Facts) -> Result<EnrolAnswer> {
    let seat = seats::by_id(tx, seat)?;
    if let Some(refusal) = seat.refusal() {
        return Err(refusal.into());
    }
    seats::set_facts(tx, seat.id, facts)?;
    enrol::answer(tx, &seat)
}

/// The answer to a machine that nobody has approved yet.
pub(crate) fn pending(key: Fingerprint) -> ApiError {
    ApiError::new(
        ErrorClass::Pending,
        format!("this machine has no ticket; its key {key} waits for an operator"),
    )
    .hint("read the key on this machine's console and type it: coordinator approve NODE --fingerprint KEY")
}
