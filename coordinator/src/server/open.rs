//! A node's connection begins, and its key is replaced: what turns its clone
//! ratchet.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use kiln_protocol::ApiError;
use kiln_protocol::ratchet::{OpenAnswer, OpenRequest};
use kiln_protocol::rotation::RotateRequest;

use super::api::{Body, Caller, Refused};
use crate::Coordinator;
use crate::registry::KeyOwner;
use crate::store::Transaction;
use crate::transition;
use crate::transition::open::Opened;

pub(super) async fn open(
    State(coordinator): State<Coordinator>,
    caller: Caller,
    Body(request): Body<OpenRequest>,
) -> Result<Json<OpenAnswer>, Refused> {
    // Whoever it is that shows it: our own signature is proof enough.
    let (spki, actor) = (coordinator.inner.identity.spki(), caller.actor());
    let (now, seen, noticed) = (Timestamp::now(), request.seen, actor.clone());
    // One that is no later than what this process has promised says nothing.
    if seen.is_some_and(|seen| !coordinator.inner.stamps.covers(seen.reach)) {
        coordinator
            .change(move |tx| transition::epoch::notice(tx, seen.as_ref(), &spki, &noticed, now))
            .await?;
    }
    let (seat, arrival) = (caller.unopened_node()?.id, caller.peer.arrival);
    let arrivals = Arc::clone(&coordinator.inner.arrivals);
    let stamps = Arc::clone(&coordinator.inner.stamps);
    let open = move |tx: &Transaction<'_>| {
        transition::epoch::check(tx)?;
        let overtaken = arrivals.overtaken(seat, arrival);
        let opened = transition::open::open(tx, seat, request.turn, overtaken, &actor, now)?;
        if opened.is_ok() {
            arrivals.turned(seat);
        }
        Ok(opened)
    };
    let durable = move |opened: &Result<Opened, ApiError>| {
        if let Ok(opened) = opened {
            stamps.reached(opened.reach);
        }
    };
    // That a node opens a connection is no news to anybody; that it may not, is.
    let opened = coordinator.change_quietly(open, durable).await??;
    caller.peer.opened.store(true, Ordering::Release);
    let stamp = coordinator.inner.stamps.stamp(opened.reach, &coordinator.inner.identity);
    Ok(Json(OpenAnswer { stamp, rotate: opened.rotate }))
}

pub(super) async fn rotate(
    State(coordinator): State<Coordinator>,
    caller: Caller,
    Body(request): Body<RotateRequest>,
) -> Result<StatusCode, Refused> {
    let (key, arrival, actor) = (caller.peer.key, caller.peer.arrival, caller.actor());
    transition::rotate::check_proof(&request, &coordinator.pin(), &key)?;
    let seat = match &caller.owner {
        Some(KeyOwner::Former(seat)) => seat.id,
        _ => caller.unopened_node()?.id,
    };
    let arrivals = Arc::clone(&coordinator.inner.arrivals);
    coordinator
        .change(move |tx| {
            transition::epoch::check(tx)?;
            let overtaken = arrivals.overtaken(seat, arrival);
            let now = Timestamp::now();
            let rotated = transition::rotate::rotate(tx, &request, key, overtaken, &actor, now)?;
            if rotated.is_ok() {
                arrivals.turned(seat);
            }
            Ok(rotated)
        })
        .await??;
    Ok(StatusCode::NO_CONTENT)
}

/// What becomes of a request over a key that was replaced.
pub(super) async fn former_key(coordinator: &Coordinator, caller: &Caller, seat: i64) -> Result<ApiError> {
    let (key, arrival, actor) = (caller.peer.key, caller.peer.arrival, caller.actor());
    let arrivals = Arc::clone(&coordinator.inner.arrivals);
    coordinator
        .change(move |tx| {
            let overtaken = arrivals.overtaken(seat, arrival);
            transition::open::former_key_used(tx, seat, key, overtaken, &actor, Timestamp::now())
        })
        .await
}
