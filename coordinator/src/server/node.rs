//! What nodes may ask.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use kiln_protocol::api::{ApprovalRequest, EnrolAnswer, EnrolRequest, GateAnswer, GateRequest, Report};
use kiln_protocol::config::NodeConfig;

use super::api::{Body, Caller, Refused};
use crate::Coordinator;
use crate::transition;

pub(super) async fn enrol(
    State(coordinator): State<Coordinator>,
    caller: Caller,
    Body(request): Body<EnrolRequest>,
) -> Result<Json<EnrolAnswer>, Refused> {
    let (key, actor) = (caller.peer.key, caller.actor());
    transition::enrol::check_proof(&request, &coordinator.pin(), &key)?;
    let enrolled = coordinator
        .change(move |tx| transition::enrol::enrol(tx, &request, key, &actor, Timestamp::now()))
        .await??;
    coordinator.strangers().forget(&key);
    Ok(Json(enrolled))
}

pub(super) async fn approval(
    State(coordinator): State<Coordinator>,
    caller: Caller,
    Body(ApprovalRequest { facts }): Body<ApprovalRequest>,
) -> Result<Json<EnrolAnswer>, Refused> {
    if caller.owner.is_none() {
        let (key, from) = (caller.peer.key, caller.peer.address.ip().to_canonical());
        coordinator.strangers().wait(key, from, facts, Timestamp::now());
        coordinator.changed();
        return Err(transition::vouch::pending(key).into());
    }
    let seat = caller.node()?.id;
    let approved = coordinator.change(move |tx| transition::vouch::approved(tx, seat, &facts)).await?;
    Ok(Json(approved))
}

pub(super) async fn config(
    State(coordinator): State<Coordinator>,
    caller: Caller,
) -> Result<Json<NodeConfig>, Refused> {
    let seat = caller.node()?.id;
    let config =
        coordinator.inner.store.read(move |tx| transition::node::config(tx, seat, Timestamp::now())).await?;
    Ok(Json(config))
}

pub(super) async fn gate(
    State(coordinator): State<Coordinator>,
    caller: Caller,
    Body(request): Body<GateRequest>,
) -> Result<Json<GateAnswer>, Refused> {
    let (seat, actor) = (caller.node()?.id, caller.actor());
    let answer = coordinator
        .change(move |tx| transition::node::gate(tx, seat, &request, &actor, Timestamp::now()))
        .await?;
    Ok(Json(answer))
}

pub(super) async fn report(
    State(coordinator): State<Coordinator>,
    caller: Caller,
    Body(report): Body<Report>,
) -> Result<StatusCode, Refused> {
    let now = Timestamp::now();
    if caller.owner.is_none() {
        transition::node::check_report(&report)?;
        let from = caller.peer.address.ip().to_canonical();
        coordinator.strangers().report(caller.peer.key, from, report, now);
        coordinator.changed();
        return Ok(StatusCode::NO_CONTENT);
    }
    let (seat, actor) = (caller.node()?.id, caller.actor());
    coordinator.change(move |tx| transition::node::report(tx, seat, &report, &actor, now)).await?;
    Ok(StatusCode::NO_CONTENT)
}
