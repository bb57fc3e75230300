//! A key asks to be taken for a node's.

use anyhow::Result;
use jiff::Timestamp;
use kiln_protocol::api::{EnrolAnswer, EnrolRequest, Facts};
use kiln_protocol::{ApiError, ErrorClass, Fingerprint, Role};

use super::{clear_up, cluster, epoch as standing, forget_datastore, live};
use crate::registry::enrol::{Consequence, Enrolment, decide};
use crate::registry::{KeyOwner, Seat, State, operator};
use crate::store::events::{self, Actor, Event, What};
use crate::store::{Transaction, epoch, incarnations, keys, pin, reports, seats};

/// Whether the ticket's holder vouched for this key towards this coordinator.
/// Asked before anything is told about tickets or names.
pub(crate) fn check_proof(
    request: &EnrolRequest,
    pin: &Fingerprint,
    key: &Fingerprint,
) -> Result<(), ApiError> {
    if request.ticket.verifies(&request.proof, pin, key) {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorClass::Policy,
        "the proof does not hold: it was made for another key or for another coordinator",
    ))
}

/// Runs an enrolment whose proof is good; `owner` is what the key was noted for.
pub(crate) fn enrol(
    tx: &Transaction<'_>,
    request: &EnrolRequest,
    key: Fingerprint,
    owner: Option<&KeyOwner>,
    actor: &Actor,
    now: Timestamp,
) -> Result<Result<EnrolAnswer, ApiError>> {
    standing::check(tx)?;
    let seat = seats::by_ticket(tx, &request.ticket)?;
    match (decide(seat.as_ref(), key, owner, now), seat) {
        (Enrolment::Refuse(error, consequence), Some(seat)) => {
            follow(tx, &seat, key, consequence, actor, now)?;
            Ok(Err(error))
        }
        (Enrolment::Refuse(error, _), None) => Ok(Err(error)),
        (Enrolment::Already, Some(seat)) => {
            seats::set_facts(tx, seat.id, &request.facts)?;
            answer(tx, &seat).map(Ok)
        }
        (Enrolment::Bind, Some(seat)) => {
            bind(tx, &seat, key, Some(&request.facts), actor, now)?;
            answer(tx, &seat).map(Ok)
        }
        (decision, None) => anyhow::bail!("an unknown ticket led to {decision:?}"),
    }
}

/// What a bound key is told.
pub(super) fn answer(tx: &Transaction<'_>, seat: &Seat) -> Result<EnrolAnswer> {
    Ok(EnrolAnswer {
        cluster: live(tx)?.plan.name().clone(),
        node: seat.node.clone(),
        role: seat.role,
        generation: seat.generation,
        recovery: pin::recovery(tx)?,
    })
}

/// Makes a key that of a seat, and keeps what its machine says of itself.
pub(super) fn bind(
    tx: &Transaction<'_>,
    seat: &Seat,
    key: Fingerprint,
    facts: Option<&Facts>,
    actor: &Actor,
    now: Timestamp,
) -> Result<()> {
    let live = live(tx)?;
    let earlier: Vec<Seat> =
        seats::of_node(tx, &seat.node)?.into_iter().filter(|s| s.generation < seat.generation).collect();
    // Nobody else's machine moves the lease: who is in the datastore is not asked.
    let lease = if seat.node == live.lease.node {
        let (cluster, _) = cluster(tx, &live)?;
        // Held when it became ready, it is not ready for us, and has a datastore all the same.
        let holds = |s: &&Seat| s.incarnation == live.id && Some(s.generation) == live.lease.generation;
        let said_ready = match earlier.iter().find(holds) {
            Some(holder) => reports::may_have_been_ready(tx, holder.id)?,
            None => false,
        };
        cluster.lease_after_bind(&seat.node, seat.generation, said_ready)
    } else {
        live.lease.generation
    };
    let takes_lease = lease == Some(seat.generation) && seat.node == live.lease.node;
    for earlier in &earlier {
        let state = operator::supersede(earlier.state);
        if state != earlier.state {
            seats::set_state(tx, earlier.id, state, None)?;
            let detail = format!("{} by generation {}", earlier.label(), seat.generation);
            events::note(tx, actor, &Event::of(What::Supersede, earlier.id, &detail), now)?;
        }
        // etcd lets no other server in under the name of one it knows.
        clear_up(tx, earlier, earlier.role == Role::Server && live.plan.is_multi_server())?;
    }
    keys::note(tx, &key, keys::Kind::Node(seat.id), &seat.label(), now)?;
    seats::bind(tx, seat, &key, facts, now)?;
    epoch::advance(tx)?;
    if takes_lease {
        // It starts a datastore of its own: nobody was part of that.
        forget_datastore(tx, &earlier, now)?;
        if lease != live.lease.generation {
            incarnations::set_lease(tx, lease)?;
        }
    }
    let detail = format!("{} to key {key}", seat.label());
    events::note(tx, actor, &Event::of(What::Bind, seat.id, &detail), now)?;
    Ok(())
}

/// What a refused attempt leaves behind.
fn follow(
    tx: &Transaction<'_>,
    seat: &Seat,
    key: Fingerprint,
    consequence: Consequence,
    actor: &Actor,
    now: Timestamp,
) -> Result<()> {
    let from = actor.from.map_or("an unknown address".to_owned(), |from| from.to_string());
    if consequence == Consequence::Alarm {
        let detail = format!(
            "{}: key {key} at {from}, which its console does not show, used its ticket (others that do are \
             not listed)",
            seat.label()
        );
        // The trail is never shortened, and a new key costs a thief nothing.
        let once = format!("console {}", seat.id);
        let event = Event { alarm: true, once: Some(&once), ..Event::of(What::Mismatch, seat.id, &detail) };
        events::note(tx, actor, &event, now)?;
    }
    let Some(bound) = seat.state.key() else { return Ok(()) };
    let detail = format!("{} is bound to key {bound}; key {key} at {from} used its ticket too", seat.label());
    match consequence {
        Consequence::Nothing | Consequence::Alarm => {}
        Consequence::NoteOnce => {
            let once = format!("contested {}", seat.id);
            let event = Event { once: Some(&once), ..Event::of(What::Contested, seat.id, &detail) };
            events::note(tx, actor, &event, now)?;
        }
        Consequence::Hold => {
            seats::set_state(tx, seat.id, State::Held(bound), Some("two machines used its ticket"))?;
            let event = Event { alarm: true, ..Event::of(What::Contested, seat.id, &detail) };
            events::note(tx, actor, &event, now)?;
        }
    }
    Ok(())
}
