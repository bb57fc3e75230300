//! A bound node opens a connection: its clone ratchet turns.

use anyhow::Result;
use jiff::Timestamp;
use kiln_protocol::ratchet::{Reach, Turn};
use kiln_protocol::{ApiError, ErrorClass, Fingerprint};

use crate::registry::ratchet::{Verdict, judge};
use crate::registry::{Seat, State};
use crate::store::events::{self, Actor, Event, What};
use crate::store::{Transaction, epoch, ratchets, seats};

/// What a node is told when its connection is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) reach: Reach,
    /// An operator wants its key replaced.
    pub(crate) rotate: bool,
}

/// Opens a connection of the node of `seat`, as that is now; see [`judge`] for
/// `overtaken`. A refusal that has consequences is a value, so that they last.
pub(crate) fn open(
    tx: &Transaction<'_>,
    seat: &Seat,
    turn: Turn,
    overtaken: bool,
    actor: &Actor,
    now: Timestamp,
) -> Result<Result<Opened, ApiError>> {
    if let Some(refusal) = seat.refusal() {
        return Ok(Err(refusal));
    }
    if let Err(refusal) = turned(tx, seat, turn, overtaken, actor, now)? {
        return Ok(Err(refusal));
    }
    Ok(Ok(Opened { reach: epoch::reach(tx)?, rotate: seat.rotate }))
}

/// Turns the ratchet, or says why not; a broken one holds the node.
pub(super) fn turned(
    tx: &Transaction<'_>,
    seat: &Seat,
    turn: Turn,
    overtaken: bool,
    actor: &Actor,
    now: Timestamp,
) -> Result<Result<(), ApiError>> {
    match judge(seat.turn, turn, overtaken) {
        Verdict::Take => {
            ratchets::set(tx, seat.id, turn)?;
            epoch::advance(tx)?;
            Ok(Ok(()))
        }
        Verdict::Again => Ok(Ok(())),
        Verdict::Overtaken => Ok(Err(late(seat))),
        Verdict::Broken => {
            let reason = "its ratchet does not fit: its disk was copied to another machine, or set back to \
                          a snapshot";
            hold(tx, seat, What::Clone, reason, reason, actor, now).map(Err)
        }
    }
}

/// The key of `seat` that rotation took out of use has been used.
pub(crate) fn former_key_used(
    tx: &Transaction<'_>,
    seat: i64,
    key: Fingerprint,
    overtaken: bool,
    actor: &Actor,
    now: Timestamp,
) -> Result<ApiError> {
    let seat = seats::by_id(tx, seat)?;
    if !seat.state.is_live() {
        return Ok(seat.refusal().unwrap_or_else(|| late(&seat)));
    }
    if overtaken {
        return Ok(late(&seat));
    }
    let reason = "a key that was replaced was used again: another machine has a copy of it";
    let detail = format!(
        "{reason} (key {key}; the present one is {})",
        seat.state.key().map_or_else(String::new, |key| key.to_string())
    );
    hold(tx, &seat, What::FormerKey, reason, &detail, actor, now)
}

/// Holds a live node, with an alarm; returns the refusal.
fn hold(
    tx: &Transaction<'_>,
    seat: &Seat,
    what: What,
    reason: &str,
    detail: &str,
    actor: &Actor,
    now: Timestamp,
) -> Result<ApiError> {
    if let State::Bound(key) = seat.state {
        seats::set_state(tx, seat.id, State::Held(key), Some(reason))?;
        let from = actor.from.map_or(String::new(), |from| format!("; heard from {from}"));
        let detail = format!("{}: {detail}{from}", seat.label());
        events::note(tx, actor, &Event { alarm: true, ..Event::of(what, seat.id, &detail) }, now)?;
    }
    let seat = seats::by_id(tx, seat.id)?;
    Ok(seat.refusal().unwrap_or_else(|| late(&seat)))
}

fn late(seat: &Seat) -> ApiError {
    let message = format!("a later connection of node {} overtook this one", seat.label());
    ApiError::new(ErrorClass::Transient, message).retry_after(1)
}
