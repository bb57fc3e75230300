//! What admins may ask.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use kiln_protocol::admin::{
    AddAdminRequest, AdminsAnswer, ApplyAnswer, ApplyRequest, ApproveAnswer, ApproveRequest, ClusterStatus,
    ConfirmAnswer, ConfirmRequest, EndAnswer, EndRequest, EventsAnswer, EventsRequest, ExtendAnswer,
    ExtendRequest, KubeconfigAnswer, KubeconfigRequest, MAX_EVENTS, MintRequest, NodeRequest,
    RemoveAdminRequest, ReplaceRequest,
};
use kiln_protocol::api::MAX_WAIT;
use kiln_protocol::ratchet::Reach;
use kiln_protocol::{ApiError, ErrorClass};
use tokio::time::{Instant, timeout_at};

use super::api::{Admin, Body, Refused};
use super::observe::Stop;
use crate::Coordinator;
use crate::k3s::{KubeUser, ServerUrl};
use crate::plan::ClusterFile;

pub(super) async fn mint(
    State(coordinator): State<Coordinator>,
    Admin(by): Admin,
    Body(MintRequest { ticket, record }): Body<MintRequest>,
) -> Result<StatusCode, Refused> {
    coordinator.mint_as(ticket, record, by).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn status(
    State(coordinator): State<Coordinator>,
    Admin(by): Admin,
) -> Result<Json<ClusterStatus>, Refused> {
    Ok(Json(coordinator.status_as(by).await?))
}

pub(super) async fn kubeconfig(
    State(coordinator): State<Coordinator>,
    Admin(by): Admin,
    Body(KubeconfigRequest { server, user, lifetime }): Body<KubeconfigRequest>,
) -> Result<Json<KubeconfigAnswer>, Refused> {
    let server = server.map(|text| text.parse::<ServerUrl>()).transpose();
    let server = server.map_err(|error| format(error.to_string()))?;
    let user = match user {
        Some(user) => KubeUser::new(&user.name, &user.group).map_err(|error| format(format!("{error:#}")))?,
        None => KubeUser::admin(),
    };
    let kubeconfig = coordinator.kubeconfig_as(server, user, lifetime, by).await?;
    Ok(Json(KubeconfigAnswer { kubeconfig }))
}

pub(super) async fn release(
    State(coordinator): State<Coordinator>,
    Admin(by): Admin,
    Body(NodeRequest { node }): Body<NodeRequest>,
) -> Result<StatusCode, Refused> {
    coordinator.release_as(node, by).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn revoke(
    State(coordinator): State<Coordinator>,
    Admin(by): Admin,
    Body(NodeRequest { node }): Body<NodeRequest>,
) -> Result<StatusCode, Refused> {
    coordinator.revoke_as(node, by).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn confirm(
    State(coordinator): State<Coordinator>,
    Admin(by): Admin,
    Body(ConfirmRequest { node, generation, fingerprint }): Body<ConfirmRequest>,
) -> Result<Json<ConfirmAnswer>, Refused> {
    Ok(Json(coordinator.confirm_as(node, generation, fingerprint, by).await?))
}

pub(super) async fn approve(
    State(coordinator): State<Coordinator>,
    Admin(by): Admin,
    Body(ApproveRequest { node, fingerprint }): Body<ApproveRequest>,
) -> Result<Json<ApproveAnswer>, Refused> {
    Ok(Json(coordinator.approve_as(node, fingerprint, by).await?))
}

pub(super) async fn rotate(
    State(coordinator): State<Coordinator>,
    Admin(by): Admin,
    Body(NodeRequest { node }): Body<NodeRequest>,
) -> Result<StatusCode, Refused> {
    coordinator.rotate_as(node, by).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn rotate_tokens(
    State(coordinator): State<Coordinator>,
    Admin(by): Admin,
) -> Result<StatusCode, Refused> {
    coordinator.rotate_tokens_as(by).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn raise_epoch(
    State(coordinator): State<Coordinator>,
    Admin(by): Admin,
) -> Result<Json<Reach>, Refused> {
    Ok(Json(coordinator.raise_epoch_as(by).await?))
}

pub(super) async fn extend(
    State(coordinator): State<Coordinator>,
    Admin(by): Admin,
    Body(ExtendRequest { node, seconds }): Body<ExtendRequest>,
) -> Result<Json<ExtendAnswer>, Refused> {
    let expires = coordinator.extend_as(node, seconds, by).await?;
    Ok(Json(ExtendAnswer { expires }))
}

pub(super) async fn apply(
    State(coordinator): State<Coordinator>,
    Admin(by): Admin,
    Body(ApplyRequest { cluster_file, dry_run }): Body<ApplyRequest>,
) -> Result<Json<ApplyAnswer>, Refused> {
    let plan = ClusterFile::parse(&cluster_file).map_err(|error| format(format!("cluster file, {error}")))?;
    let (incarnation, changes) = if dry_run {
        coordinator.preview_as(plan, by).await?
    } else {
        coordinator.apply_as(plan, by).await?
    };
    Ok(Json(ApplyAnswer { incarnation, changes }))
}

/// The audit trail; held open while there is nothing new, if that is asked for.
pub(super) async fn events(
    State(coordinator): State<Coordinator>,
    Extension(Stop(mut stop)): Extension<Stop>,
    Admin(by): Admin,
    Body(EventsRequest { after, limit, wait }): Body<EventsRequest>,
) -> Result<Json<EventsAnswer>, Refused> {
    let limit = limit.clamp(1, MAX_EVENTS) as usize;
    let end = Instant::now() + Duration::from_secs(wait.min(MAX_WAIT).into());
    let mut changes = coordinator.changes();
    loop {
        changes.mark_unchanged();
        let events = coordinator.events_as(after, limit, by.clone()).await?;
        if !events.is_empty() || Instant::now() >= end || *stop.borrow() {
            return Ok(Json(EventsAnswer { events }));
        }
        tokio::select! {
            // Elapsed is as good as a reason to look again.
            _ = timeout_at(end, changes.changed()) => {}
            _ = stop.changed() => {}
        }
    }
}

pub(super) async fn admins(
    State(coordinator): State<Coordinator>,
    Admin(by): Admin,
) -> Result<Json<AdminsAnswer>, Refused> {
    Ok(Json(AdminsAnswer { admins: coordinator.admins_as(by).await? }))
}

pub(super) async fn add_admin(
    State(coordinator): State<Coordinator>,
    Admin(by): Admin,
    Body(AddAdminRequest { name, key }): Body<AddAdminRequest>,
) -> Result<StatusCode, Refused> {
    coordinator.add_admin_as(name, key, by).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove_admin(
    State(coordinator): State<Coordinator>,
    Admin(by): Admin,
    Body(RemoveAdminRequest { name }): Body<RemoveAdminRequest>,
) -> Result<StatusCode, Refused> {
    coordinator.remove_admin_as(name, by).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn end(
    State(coordinator): State<Coordinator>,
    Admin(by): Admin,
    Body(EndRequest { cluster }): Body<EndRequest>,
) -> Result<Json<EndAnswer>, Refused> {
    Ok(Json(EndAnswer { incarnation: coordinator.end_as(cluster, by).await? }))
}

pub(super) async fn replace(
    State(coordinator): State<Coordinator>,
    Admin(by): Admin,
    Body(ReplaceRequest { node, restore }): Body<ReplaceRequest>,
) -> Result<StatusCode, Refused> {
    coordinator.replace_as(node, restore.map(Into::into), by).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn member_gone(
    State(coordinator): State<Coordinator>,
    Admin(by): Admin,
    Body(NodeRequest { node }): Body<NodeRequest>,
) -> Result<StatusCode, Refused> {
    coordinator.member_gone_as(node, by).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn format(message: String) -> Refused {
    ApiError::new(ErrorClass::Format, message).into()
}
