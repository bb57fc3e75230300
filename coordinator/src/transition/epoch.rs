//! The coordinator's own rollback: whether this state is an old copy, and what
//! is done when it was knowingly made one.

use anyhow::Result;
use jiff::Timestamp;
use kiln_protocol::ratchet::{Reach, Stamp};
use kiln_protocol::{ApiError, ErrorClass};

use crate::registry::State;
use crate::store::events::{self, Actor, Event, What};
use crate::store::{Transaction, epoch, incarnations, ratchets, seats};

/// An epoch has begun.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raised {
    pub(crate) reach: Reach,
    /// How many unused tickets are void now.
    pub(crate) void: usize,
}

/// Begins an epoch that is later than any a node may have seen: `restore`
/// calls this in the restored state before anybody is answered, and an
/// operator who decides for an old copy does. What the copy cannot know of is
/// undone:
///
/// * tickets that are ISSUED in it are void, for they may have been used since;
/// * the clone ratchets are taken up where the nodes are, for they went on;
/// * the audit trail goes on with numbers that no other copy has reached.
///
/// BOUND stays bound, and HELD stays held.
pub(crate) fn raise(tx: &Transaction<'_>, why: &str, actor: &Actor, now: Timestamp) -> Result<Raised> {
    let (own, newer) = (epoch::reach(tx)?, epoch::newer(tx)?);
    let latest = newer.map_or(own.epoch, |newer| newer.reach.epoch.max(own.epoch));
    epoch::begin(tx, latest + 1)?;
    ratchets::forget_all(tx)?;
    let mut unused = Vec::new();
    if let Some(live) = incarnations::live(tx)? {
        unused = seats::of_incarnation(tx, live.id)?;
        unused.retain(|seat| seat.state == State::Issued);
    }
    let (reach, void) = (epoch::reach(tx)?, unused.len());
    let detail = format!("{why}: epoch {} begins, {void} unused tickets are void", reach.epoch);
    events::note_anew(tx, actor, &Event::about_all(What::Epoch, &detail), now)?;
    let reason = format!("{why}: its ticket may have been used since");
    for seat in unused {
        seats::set_state(tx, seat.id, State::Revoked(None), Some(&reason))?;
        let detail = format!("{}: {reason}", seat.label());
        events::note(tx, actor, &Event::of(What::Revoke, seat.id, &detail), now)?;
    }
    Ok(Raised { reach, void })
}

/// Takes note of a stamp that a node shows. Only one that our key signed and this
/// state never gave says anything; `spki` is that key.
pub(crate) fn notice(
    tx: &Transaction<'_>,
    shown: &Stamp,
    spki: &[u8],
    actor: &Actor,
    now: Timestamp,
) -> Result<()> {
    let newer = epoch::newer(tx)?;
    if newer.is_some_and(|newer| shown.reach <= newer.reach) || !shown.is_of(spki) {
        return Ok(());
    }
    let runs = epoch::runs(tx)?;
    if runs.covers(shown.reach) {
        return Ok(());
    }
    epoch::set_newer(tx, shown.reach, now)?;
    if newer.is_none() {
        let detail = format!(
            "a node was told of {} by this coordinator, whose state, at {}, has never been there: it is an old \
             copy, or another copy of it was served",
            shown.reach,
            runs.reach()
        );
        let event = Event { alarm: true, ..Event::about_all(What::Stale, &detail) };
        events::note(tx, actor, &event, now)?;
        tracing::error!("{detail}; nobody enrols or starts k3s until an operator has decided");
    }
    Ok(())
}

/// Refuses while the state is known to be an old copy.
pub(crate) fn check(tx: &Transaction<'_>) -> Result<(), anyhow::Error> {
    match epoch::newer(tx)? {
        None => Ok(()),
        Some(newer) => Err(stale(epoch::reach(tx)?, newer.reach).into()),
    }
}

fn stale(own: Reach, newer: Reach) -> ApiError {
    ApiError::new(
        ErrorClass::StaleCoordinator,
        format!(
            "the coordinator's state is an old copy, or another copy of it was served: nodes have seen {newer}, \
             where it, at {own}, has never been"
        ),
    )
    .hint(
        "serve the newest state again, or decide for this one: coordinator raise-epoch (its unused tickets \
         become void; nodes that enrolled since need new ones)",
    )
}
