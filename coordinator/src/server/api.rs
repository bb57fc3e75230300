//! Routes, bodies, errors, and who is asking.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Json, Router};
use jiff::Timestamp;
use kiln_protocol::chores::CHORES;
use kiln_protocol::{ApiError, ErrorClass, admin, api};
use serde::de::DeserializeOwned;

use super::connection::Peer;
use super::local::LocalPeer;
use super::observe::{Observer, current_request, observe};
use super::{node, open, operator};
use crate::operate::Authority;
use crate::registry::{KeyOwner, Seat};
use crate::store::events::Actor;
use crate::store::{Fenced, Transaction, keys};
use crate::{Coordinator, transition};

/// Seconds between tries of what only an operator can cure.
const OPERATOR_RETRY: u32 = 300;

/// Everything that nodes and admins may ask over TLS. A question for chores
/// waits for some as long as `chores`.
pub(super) fn routes(coordinator: Coordinator, observer: Observer, chores: Duration) -> Router {
    let nodes = Router::new()
        .route(api::ENROL, post(node::enrol))
        .route(api::APPROVAL, post(node::approval))
        .route(api::OPEN, post(open::open))
        .route(api::ROTATE, post(open::rotate))
        .route(api::CONFIG, get(node::config))
        .route(api::GATE, post(node::gate))
        .route(api::REPORT, post(node::report))
        .route(api::SNAPSHOT, post(node::snapshot))
        .route(CHORES, post(node::chores))
        .layer(Extension(node::Patience(chores)))
        .layer(DefaultBodyLimit::max(api::MAX_BODY));
    finish(nodes.merge(admins()), coordinator, observer)
}

/// What an admin may ask at the socket.
pub(super) fn admin_routes(coordinator: Coordinator, observer: Observer) -> Router {
    finish(admins(), coordinator, observer)
}

fn admins() -> Router<Coordinator> {
    let routes = admin_routes_and_methods().into_iter();
    routes
        .fold(Router::new(), |router, (path, method)| router.route(path, method))
        .layer(DefaultBodyLimit::max(admin::MAX_ADMIN_BODY))
}

/// In the order of [`admin::ROUTES`].
fn admin_routes_and_methods() -> [(&'static str, MethodRouter<Coordinator>); admin::ROUTES.len()] {
    [
        (admin::MINT, post(operator::mint)),
        (admin::STATUS, get(operator::status)),
        (admin::KUBECONFIG, post(operator::kubeconfig)),
        (admin::RELEASE, post(operator::release)),
        (admin::REVOKE, post(operator::revoke)),
        (admin::CONFIRM, post(operator::confirm)),
        (admin::APPROVE, post(operator::approve)),
        (admin::ROTATE, post(operator::rotate)),
        (admin::ROTATE_TOKENS, post(operator::rotate_tokens)),
        (admin::RAISE_EPOCH, post(operator::raise_epoch)),
        (admin::EXTEND, post(operator::extend)),
        (admin::APPLY, post(operator::apply)),
        (admin::END, post(operator::end)),
        (admin::REPLACE, post(operator::replace)),
        (admin::MEMBER_GONE, post(operator::member_gone)),
        (admin::EVENTS, post(operator::events)),
        (admin::ADMINS, get(operator::admins)),
        (admin::ADD_ADMIN, post(operator::add_admin)),
        (admin::REMOVE_ADMIN, post(operator::remove_admin)),
    ]
}

fn finish(routes: Router<Coordinator>, coordinator: Coordinator, observer: Observer) -> Router {
    routes
        .fallback(async || {
            refused(StatusCode::NOT_FOUND, ErrorClass::Format, "there is nothing at this path")
        })
        .method_not_allowed_fallback(async || {
            refused(StatusCode::METHOD_NOT_ALLOWED, ErrorClass::Format, "this path takes another method")
        })
        .layer(from_fn_with_state(observer, observe))
        .with_state(coordinator)
}

/// A refusal on its way to the wire.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    error: ApiError,
}

fn refused(status: StatusCode, class: ErrorClass, message: impl Into<String>) -> Refused {
    Refused { status, error: ApiError::new(class, message) }
}

/// The one refusal that its status tells apart: open the connection, ask again.
pub(super) fn unopened() -> Refused {
    refused(StatusCode::PRECONDITION_REQUIRED, ErrorClass::Transient, "this connection was not opened")
}

pub(super) fn too_slow() -> Refused {
    refused(StatusCode::REQUEST_TIMEOUT, ErrorClass::Transient, "the request took too long")
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        let status = match error.class {
            ErrorClass::Format => StatusCode::BAD_REQUEST,
            ErrorClass::TicketUnknown
            | ErrorClass::TicketExpired
            | ErrorClass::Held
            | ErrorClass::Superseded
            | ErrorClass::Revoked
            | ErrorClass::Pending
            | ErrorClass::Policy => StatusCode::FORBIDDEN,
            ErrorClass::Clock
            | ErrorClass::TicketContested
            | ErrorClass::Cloned
            | ErrorClass::NameConflict => StatusCode::CONFLICT,
            ErrorClass::Transient | ErrorClass::StaleCoordinator => StatusCode::SERVICE_UNAVAILABLE,
            ErrorClass::Bug => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, error }
    }
}

impl From<anyhow::Error> for Refused {
    fn from(error: anyhow::Error) -> Self {
        let error = match error.downcast::<ApiError>() {
            Ok(refusal) => return refusal.into(),
            Err(other) => other,
        };
        tracing::error!("answering a request: {error:#}");
        let disk = error.chain().any(|cause| {
            use rusqlite::ErrorCode::{CannotOpen, DatabaseBusy, DiskFull, ReadOnly, SystemIoFailure};
            let code = cause.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
            matches!(code, Some(CannotOpen | DatabaseBusy | DiskFull | ReadOnly | SystemIoFailure))
        });
        let fenced = error.chain().any(<dyn std::error::Error>::is::<Fenced>);
        if fenced {
            let message = "this coordinator's state was taken over by another: see its journal";
            ApiError::new(ErrorClass::Transient, message).into()
        } else if disk {
            ApiError::new(ErrorClass::Transient, "the coordinator cannot write its state: see its journal")
                .into()
        } else {
            ApiError::new(ErrorClass::Bug, "the coordinator met a defect: see its journal").into()
        }
    }
}

impl Refused {
    /// Of a body that is larger than any that is asked for.
    pub(super) fn is_too_large(&self) -> bool {
        self.status == StatusCode::PAYLOAD_TOO_LARGE
    }

    /// As it is told, and written to the journal.
    pub(super) fn told(self) -> (StatusCode, ApiError) {
        let Self { status, mut error } = self;
        if error.retry_after.is_none() && error.class.needs_operator() {
            error.retry_after = Some(OPERATOR_RETRY);
        }
        error.request = current_request();
        tracing::info!(class = %error.class, "refused: {}", error.message);
        (status, error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, error) = self.told();
        let gone = matches!(error.class, ErrorClass::Revoked | ErrorClass::Superseded);
        let mut response = (status, Json(error)).into_response();
        if gone {
            // Whoever lost its rights for good needs no open connection.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// A JSON body, read only after the caller was found to be allowed to send it.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let Whole(bytes) = Whole::from_request(request, state).await?;
        Self::parse(&bytes)
    }
}

impl<T: DeserializeOwned> Body<T> {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        let parsed = serde_json::from_slice(bytes);
        parsed.map(Self).map_err(|error| {
            refused(StatusCode::BAD_REQUEST, ErrorClass::Format, format!("the request's body: {error}"))
        })
    }
}

/// The bytes of a body that came to its end, whatever they say.
#[derive(Debug)]
pub(super) struct Whole(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Whole {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let bytes = Bytes::from_request(request, state).await;
        bytes
            .map(Self)
            .map_err(|rejection| refused(rejection.status(), ErrorClass::Format, rejection.body_text()))
    }
}

/// Who is asking: the registry's answer of this moment, not of the connection's
/// beginning.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) peer: Peer,
    pub(super) owner: Option<KeyOwner>,
}

impl FromRequestParts<Coordinator> for Caller {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, coordinator: &Coordinator) -> Result<Self, Refused> {
        let peer = parts.extensions.get::<Peer>().cloned().ok_or_else(|| {
            refused(StatusCode::INTERNAL_SERVER_ERROR, ErrorClass::Bug, "a request came without a peer")
        })?;
        let caller = Self::look(peer, coordinator).await?;
        caller.noticed(coordinator, parts.uri.path()).await?;
        Ok(caller)
    }
}

impl Caller {
    /// What follows from somebody's asking, whatever it is that is asked.
    pub(super) async fn noticed(&self, coordinator: &Coordinator, path: &str) -> Result<(), Refused> {
        if let Some(KeyOwner::Node { seat, .. }) = &self.owner {
            coordinator.contacts().note(seat.id, Timestamp::now());
        }
        tracing::Span::current().record("who", self.actor().who);
        if let Some(KeyOwner::Former(seat)) = &self.owner
            && path != api::ROTATE
        {
            return Err(open::former_key(coordinator, self, seat.id).await?.into());
        }
        Ok(())
    }

    /// Who a peer is, within a transaction that goes on to do what it asks.
    pub(super) fn within(tx: &Transaction<'_>, peer: Peer) -> anyhow::Result<Self> {
        let owner = keys::owner(tx, &peer.key)?;
        Ok(Self { peer, owner })
    }

    /// The refusal of what was found wrong before it was asked who says it:
    /// what follows from asking comes first.
    pub(super) async fn refused(
        peer: Peer,
        coordinator: &Coordinator,
        path: &str,
        refused: Refused,
    ) -> Refused {
        match Self::look(peer, coordinator).await {
            Ok(caller) => caller.noticed(coordinator, path).await.err().unwrap_or(refused),
            Err(error) => error,
        }
    }

    /// Asks the registry who a peer is at this moment.
    pub(super) async fn look(peer: Peer, coordinator: &Coordinator) -> Result<Self, Refused> {
        Ok(coordinator.inner.store.read(move |tx| Self::within(tx, peer)).await?)
    }

    /// For the audit trail.
    pub(super) fn actor(&self) -> Actor {
        let who = match &self.owner {
            Some(KeyOwner::Admin(name)) => format!("admin {name}"),
            Some(KeyOwner::Node { label, .. }) => format!("node {label}"),
            Some(KeyOwner::Former(seat)) => format!("former key of node {}", seat.label()),
            _ => format!("key {}", self.peer.key),
        };
        Actor { who, from: Some(self.peer.address.ip()) }
    }

    /// The seat of the node that asks over a connection that it has opened.
    pub(super) fn node(&self) -> Result<&Seat, Refused> {
        let seat = self.unopened_node()?;
        match seat.refusal() {
            Some(refusal) => Err(refusal.into()),
            None if !self.peer.opened.load(Ordering::Acquire) => Err(unopened()),
            None => Ok(seat),
        }
    }

    /// The seat of the node that asks, opened or not.
    pub(super) fn unopened_node(&self) -> Result<&Seat, Refused> {
        let policy = |message: &str| Err(ApiError::new(ErrorClass::Policy, message).into());
        match &self.owner {
            Some(KeyOwner::Node { seat, .. }) => Ok(seat),
            Some(KeyOwner::Former(_)) => policy("this key was replaced by another"),
            Some(KeyOwner::Admin(_) | KeyOwner::FormerAdmin(_)) => policy("an admin's key is not a node's"),
            Some(KeyOwner::Coordinator) => policy("a coordinator's key is not a node's"),
            Some(KeyOwner::Ticket) => policy("a ticket's key is not a node's"),
            None => policy("this key has not enrolled"),
        }
    }
}

/// A caller that is an admin before its request's body is read. Whether it is one
/// still when that has come is asked with what it asks for: [`Authority`].
#[derive(Debug)]
pub(super) struct Admin(pub(super) Authority);

impl FromRequestParts<Coordinator> for Admin {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, coordinator: &Coordinator) -> Result<Self, Refused> {
        if let Some(LocalPeer { uid }) = parts.extensions.get::<LocalPeer>() {
            let actor = Actor::at_socket(*uid);
            tracing::Span::current().record("who", &actor.who);
            return Ok(Self(actor.into()));
        }
        let caller = Caller::from_request_parts(parts, coordinator).await?;
        transition::admins::check(caller.owner.as_ref())?;
        Ok(Self(Authority::of_key(caller.actor(), caller.peer.key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tests of who may ask what go through that list.
    #[test]
    fn what_admins_may_ask_is_what_the_protocol_lists() {
        let routes = admin_routes_and_methods().map(|(path, _)| path);
        assert_eq!(routes, admin::ROUTES.map(|(_, path)| path));
    }

    #[test]
    fn a_full_disk_is_transient_and_a_defect_is_a_bug() {
        let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
        let full = anyhow::Error::new(rusqlite::Error::SqliteFailure(full, None)).context("making durable");
        let refused = Refused::from(full);
        assert_eq!(
            (refused.status, refused.error.class),
            (StatusCode::SERVICE_UNAVAILABLE, ErrorClass::Transient)
        );
        let refused = Refused::from(anyhow::anyhow!("secret detail"));
        assert_eq!(refused.error.class, ErrorClass::Bug);
        assert!(!refused.error.message.contains("secret"), "what went wrong inside stays inside");
    }

    #[test]
    fn what_only_an_operator_can_cure_is_retried_slowly() {
        for class in [ErrorClass::Held, ErrorClass::TicketUnknown, ErrorClass::Policy, ErrorClass::Transient]
        {
            let response = Refused::from(ApiError::new(class, "x")).into_response();
            let body = response.into_body();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let bytes = runtime.block_on(axum::body::to_bytes(body, 1000)).unwrap();
            let error: ApiError = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(error.retry_after.is_some(), class.needs_operator(), "{class}");
        }
    }
}
