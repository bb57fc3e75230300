//! A node's key takes another's place.

use anyhow::Result;
use jiff::Timestamp;
use kiln_protocol::rotation::RotateRequest;
use kiln_protocol::{ApiError, ErrorClass, Fingerprint};

use super::open::{former_key_used, turned};
use crate::registry::{KeyOwner, State};
use crate::store::events::{self, Actor, Event, What};
use crate::store::{Transaction, keys, ratchets};

/// Takes the key of a good proof in place of `key`, the connection's, and
/// answers a repeated request as it did the first time.
pub(crate) fn rotate(
    tx: &Transaction<'_>,
    request: &RotateRequest,
    key: Fingerprint,
    overtaken: bool,
    actor: &Actor,
    now: Timestamp,
) -> Result<Result<(), ApiError>> {
    let new = request.key.fingerprint();
    let seat = match keys::owner(tx, &key)? {
        Some(KeyOwner::Node { seat, .. }) => *seat,
        Some(KeyOwner::Former(seat)) => {
            // A ratchet that was forgotten since takes whatever comes next, and
            // this comes from the machine that has the new key.
            if seat.state == State::Bound(new) && seat.turn.is_none_or(|last| last == request.turn) {
                return turned(tx, &seat, request.turn, overtaken, actor, now);
            }
            return former_key_used(tx, seat.id, key, overtaken, actor, now).map(Err);
        }
        _ => return Ok(Err(ApiError::new(ErrorClass::Policy, "this key is no node's"))),
    };
    if let Some(refusal) = seat.refusal() {
        return Ok(Err(refusal));
    }
    if keys::owner(tx, &new)?.is_some() {
        let message = format!("the new key of node {} was noted before", seat.label());
        return Ok(Err(ApiError::new(ErrorClass::NameConflict, message)
            .hint("a key has one name for ever: make another one")));
    }
    if let Err(refusal) = turned(tx, &seat, request.turn, overtaken, actor, now)? {
        return Ok(Err(refusal));
    }
    keys::note(tx, &new, keys::Kind::Node(seat.id), &seat.label(), now)?;
    keys::retire(tx, seat.id, &key, &new)?;
    let detail = format!("{} from key {key} to key {new}", seat.label());
    events::note(tx, actor, &Event::of(What::Rotate, seat.id, &detail), now)?;
    Ok(Ok(()))
}

/// Whether the asker has the key it asks for. Looked at before anything else.
pub(crate) fn check_proof(
    request: &RotateRequest,
    pin: &Fingerprint,
    key: &Fingerprint,
) -> Result<(), ApiError> {
    if request.is_proven(pin, key) {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorClass::Policy,
        "the proof does not hold: it was made for another key or for another coordinator",
    ))
}

/// Asks for another key at the node's next contact. Idempotent.
pub(crate) fn ask(
    tx: &Transaction<'_>,
    node: &kiln_protocol::NodeName,
    actor: &Actor,
    now: Timestamp,
) -> Result<()> {
    let seat = super::operator::choose(tx, node, State::is_live)?;
    match seat.refusal() {
        Some(_) if seat.state == State::Issued => {
            let message = format!("node {} has no key yet: it has not enrolled", seat.label());
            return Err(ApiError::new(ErrorClass::Policy, message).into());
        }
        Some(refusal) => return Err(refusal.into()),
        None => {}
    }
    if ratchets::ask_rotation(tx, seat.id)? {
        events::note(tx, actor, &Event::of(What::AskRotation, seat.id, &seat.label()), now)?;
    }
    Ok(())
}
