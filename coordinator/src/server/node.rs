//! What nodes may ask.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use kiln_protocol::admin::Stranger;
use kiln_protocol::api::{EnrolAnswer, EnrolRequest, GateAnswer, GateRequest, Report};
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

pub(super) async fn config(
    State(coordinator): State<Coordinator>,
    caller: Caller,
) -> Result<Json<NodeConfig>, Refused> {
    let seat = caller.node()?.id;
    let config = coordinator.inner.store.read(move |tx| transition::node::config(tx, seat)).await?;
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
        let stranger = Stranger { key: caller.peer.key, from, last_seen: now, report };
        coordinator.strangers().note(stranger);
        coordinator.changed();
        return Ok(StatusCode::NO_CONTENT);
    }
    let (seat, actor) = (caller.node()?.id, caller.actor());
    coordinator.change(move |tx| transition::node::report(tx, seat, &report, &actor, now)).await?;
    Ok(StatusCode::NO_CONTENT)
}
