//! A node's connection begins, and its key is replaced: what turns its clone
//! ratchet.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use jiff::Timestamp;
use kiln_protocol::config::NodeConfig;
use kiln_protocol::ratchet::{ConfigAnswer, ConfigAsked, OpenAnswer, OpenRequest, Stamp};
use kiln_protocol::rotation::RotateRequest;
use kiln_protocol::{ApiError, api};

use super::api::{Body, Caller, Refused, Whole};
use super::connection::Peer;
use super::node;
use crate::Coordinator;
use crate::registry::KeyOwner;
use crate::store::Transaction;
use crate::store::events::Actor;
use crate::transition;
use crate::transition::open::Opened;

/// Who asks and the turn of its ratchet are one transaction: this is asked at
/// the beginning of every connection.
pub(super) async fn open(
    State(coordinator): State<Coordinator>,
    Extension(peer): Extension<Peer>,
    body: Result<Body<OpenRequest>, Refused>,
) -> Result<Json<OpenAnswer>, Refused> {
    let request = match body {
        Ok(Body(request)) => request,
        Err(refused) => return Err(Caller::refused(peer, &coordinator, api::OPEN, refused).await),
    };
    let OpenRequest { turn, seen, config: asked } = request;
    let now = Timestamp::now();
    if let Some(seen) = unknown(&coordinator, seen) {
        let shower = Caller::look(peer.clone(), &coordinator).await?.actor();
        notice(&coordinator, seen, shower).await?;
    }
    let (opened, arrival) = (Arc::clone(&peer.opened), peer.arrival);
    let arrivals = Arc::clone(&coordinator.inner.arrivals);
    let stamps = Arc::clone(&coordinator.inner.stamps);
    let open = move |tx: &Transaction<'_>| {
        let caller = Caller::within(tx, peer)?;
        let seat = match caller.unopened_node() {
            Ok(seat) => seat,
            Err(refused) => return Ok((caller, Err(refused))),
        };
        // Nothing was changed yet: as a value, it leaves the caller known.
        if let Err(stale) = transition::epoch::check(tx) {
            return Ok((caller, Err(stale.into())));
        }
        let overtaken = arrivals.overtaken(seat.id, arrival);
        let opened = transition::open::open(tx, seat, turn, overtaken, &caller.actor(), now)?;
        let opened = opened.map_err(Refused::from).map(|opened| {
            arrivals.turned(seat.id);
            // The opening stands, whatever becomes of this.
            let config = asked.map(|asked| (asked, transition::node::config(tx, seat, now)));
            (opened, config)
        });
        Ok((caller, opened))
    };
    let durable = move |(_, opened): &(Caller, Result<(Opened, _), Refused>)| {
        if let Ok((opened, _)) = opened {
            stamps.reached(opened.reach);
        }
    };
    // That a node opens a connection is no news to anybody; that it may not, is.
    let (caller, turned) = coordinator.change_quietly(open, durable).await?;
    caller.noticed(&coordinator, api::OPEN).await?;
    let (Opened { reach, rotate }, config) = turned?;
    opened.store(true, Ordering::Release);
    let stamp = coordinator.inner.stamps.stamp(reach, &coordinator.inner.identity);
    let config = config.map(|(asked, config)| configured(&asked, config));
    Ok(Json(OpenAnswer { stamp, rotate, config }))
}

/// What a node is told of the configuration that it asked for with its opening.
fn configured(asked: &ConfigAsked, config: Result<NodeConfig>) -> ConfigAnswer {
    match config.and_then(|config| node::written(&config)) {
        Ok((_, tag)) if asked.seen.as_ref() == Some(&tag) => ConfigAnswer::Unchanged,
        Ok((config, tag)) => ConfigAnswer::Is { tag, config },
        Err(refused) => ConfigAnswer::Refused(Refused::from(refused).told().1),
    }
}

/// A stamp that this process does not know for one of its state's own.
fn unknown(coordinator: &Coordinator, seen: Option<Stamp>) -> Option<Stamp> {
    seen.filter(|seen| !coordinator.inner.stamps.covers(seen.reach))
}

/// Takes note of such a stamp, whoever shows it: our own signature is proof
/// enough. It is durable before any ratchet is judged.
async fn notice(coordinator: &Coordinator, seen: Stamp, shower: Actor) -> Result<()> {
    let spki = coordinator.inner.identity.spki();
    let note =
        move |tx: &Transaction<'_>| transition::epoch::notice(tx, &seen, &spki, &shower, Timestamp::now());
    coordinator.change(note).await
}

pub(super) async fn rotate(
    State(coordinator): State<Coordinator>,
    caller: Caller,
    body: Result<Whole, Refused>,
) -> Result<StatusCode, Refused> {
    let (key, arrival, actor) = (caller.peer.key, caller.peer.arrival, caller.actor());
    let request = match body.map(|Whole(body)| Body::<RotateRequest>::parse(&body)) {
        Ok(Ok(Body(request))) => request,
        Err(refused) if !refused.is_too_large() => return Err(refused),
        Ok(Err(refused)) | Err(refused) => return Err(no_rotation(&coordinator, &caller, refused).await),
    };
    if let Some(seen) = unknown(&coordinator, request.seen) {
        notice(&coordinator, seen, caller.actor()).await?;
    }
    if let Err(refusal) = transition::rotate::check_proof(&request, &coordinator.pin(), &key) {
        return Err(no_rotation(&coordinator, &caller, refusal.into()).await);
    }
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

/// The refusal of what asks for no rotation. A key that was replaced is good for
/// asking for the same again, and any other use of it is another machine's: a body
/// that was cut off is none, since that happens to an honest one.
async fn no_rotation(coordinator: &Coordinator, caller: &Caller, refused: Refused) -> Refused {
    match &caller.owner {
        Some(KeyOwner::Former(seat)) => match former_key(coordinator, caller, seat.id).await {
            Ok(refusal) => refusal.into(),
            Err(error) => error.into(),
        },
        _ => refused,
    }
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
