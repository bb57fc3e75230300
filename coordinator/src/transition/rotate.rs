//! A node's key takes another's place.

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use kiln_protocol::rotation::RotateRequest;
use kiln_protocol::{ApiError, ErrorClass, Fingerprint};

use super::open::{former_key_used, turned};
use crate::registry::ratchet::{Verdict, judge};
use crate::registry::{KeyOwner, Seat, State};
use crate::store::events::{self, Actor, Event, What};
use crate::store::{Transaction, keys, ratchets};

/// Between two new keys of one node that no operator asked for. Every key is noted
/// for ever: without a limit, one machine could fill the state with its own.
const PAUSE: SignedDuration = SignedDuration::from_mins(10);

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
    // A ratchet that does not fit has consequences of its own, which come first.
    let fits = matches!(judge(seat.turn, request.turn, overtaken), Verdict::Take | Verdict::Again);
    if fits && let Some(refusal) = too_soon(tx, &seat, &key, now)? {
        return Ok(Err(refusal));
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

/// The refusal of another key while the present one is new, unless an operator
/// asked for another. The key that a node enrolled with may be replaced at once.
fn too_soon(
    tx: &Transaction<'_>,
    seat: &Seat,
    key: &Fingerprint,
    now: Timestamp,
) -> Result<Option<ApiError>> {
    let noted = keys::noted(tx, key)?.filter(|noted| seat.bound.is_none_or(|bound| *noted > bound));
    let Some(noted) = noted.filter(|_| !seat.rotate) else { return Ok(None) };
    let age = now.duration_since(noted);
    // A key from the future says that the clock was set back, and nothing else.
    if age.is_negative() || age >= PAUSE {
        return Ok(None);
    }
    let message = format!("the key of node {} was replaced {} s ago", seat.label(), age.as_secs());
    let left = u32::try_from((PAUSE - age).as_secs()).unwrap_or(0) + 1;
    Ok(Some(
        ApiError::new(ErrorClass::Policy, message)
            .hint(format!(
                "ask again in {left} s; an operator has it replaced at once with: coordinator rotate {}",
                seat.node
            ))
            .retry_after(left),
    ))
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
