//! What nodes may ask.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use jiff::Timestamp;
use kiln_protocol::Fingerprint;
use kiln_protocol::api::{
    self, ApprovalRequest, EnrolAnswer, EnrolRequest, GateAnswer, GateRequest, MAX_WAIT, Report,
    SnapshotRequest,
};
use kiln_protocol::chores::{Chores, ChoresRequest};
use kiln_protocol::config::NodeConfig;
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep_until};

use super::api::{Body, Caller, Refused, unopened};
use super::connection::{Peer, stopped};
use super::observe::Stop;
use super::park::Words;
use crate::registry::KeyOwner;
use crate::store::Transaction;
use crate::{Coordinator, locked, snapshot, transition};

/// Between two looks for chores, if nothing changes.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Who asks and what becomes of it are one transaction.
pub(super) async fn enrol(
    State(coordinator): State<Coordinator>,
    Extension(peer): Extension<Peer>,
    body: Result<Body<EnrolRequest>, Refused>,
) -> Result<Json<EnrolAnswer>, Refused> {
    let key = peer.key;
    let proven = body.and_then(|Body(request)| {
        transition::enrol::check_proof(&request, &coordinator.pin(), &key)?;
        Ok(request)
    });
    let request = match proven {
        Ok(request) => request,
        Err(refused) => return Err(Caller::refused(peer, &coordinator, api::ENROL, refused).await),
    };
    let enrol = move |tx: &Transaction<'_>| {
        let caller = Caller::within(tx, peer)?;
        if let Some(KeyOwner::Former(_)) = &caller.owner {
            return Ok((caller, None));
        }
        let (owner, actor, now) = (caller.owner.as_ref(), caller.actor(), Timestamp::now());
        let enrolled = transition::enrol::enrol(tx, &request, key, owner, &actor, now)?;
        Ok((caller, Some(enrolled)))
    };
    let (caller, enrolled) = coordinator.change(enrol).await?;
    caller.noticed(&coordinator, api::ENROL).await?;
    let enrolled = enrolled.context("a key that was replaced was not refused")??;
    coordinator.strangers().forget(&key);
    Ok(Json(enrolled))
}

/// What has become of a machine without a ticket; held open until it is
/// approved, if that is asked for.
pub(super) async fn approval(
    State(coordinator): State<Coordinator>,
    Extension(Stop(stop)): Extension<Stop>,
    mut caller: Caller,
    headers: HeaderMap,
    Body(ApprovalRequest { facts }): Body<ApprovalRequest>,
) -> Result<Json<EnrolAnswer>, Refused> {
    let time = wait_asked_for(&headers);
    drop(headers);
    let end = Instant::now() + time.unwrap_or_default();
    if caller.owner.is_none() {
        let (key, from) = (caller.peer.key, caller.peer.address.ip().to_canonical());
        coordinator.strangers().wait(key, from, facts.clone(), Timestamp::now());
        coordinator.changed();
    }
    while caller.owner.is_none() {
        // Whoever is approved between the look and the waiting is not missed.
        let approval = coordinator.inner.news.an_approval();
        caller = Caller::look(caller.peer, &coordinator).await?;
        if caller.owner.is_some() {
            break;
        }
        let over = Instant::now() >= end || *stop.borrow();
        if over {
            let pending = transition::vouch::pending(caller.peer.key);
            // Whoever waits here need not wait elsewhere.
            return Err(if time.is_some() { pending.retry_after(1) } else { pending }.into());
        }
        tokio::select! {
            () = approval => {}
            () = sleep_until(end) => {}
            () = stopped(stop.clone()) => {}
        }
    }
    let seat = caller.unopened_node()?.id;
    let approved = coordinator.change(move |tx| transition::vouch::approved(tx, seat, &facts)).await?;
    Ok(Json(approved))
}

/// A node's configuration; held open until it is another one, if that is asked
/// for. Who holds it open is looked at again with each piece of news.
pub(super) async fn config(
    State(coordinator): State<Coordinator>,
    Extension(Stop(stop)): Extension<Stop>,
    Extension(peer): Extension<Peer>,
    request: Parts,
) -> Result<Response, Refused> {
    let wait = Wait::asked_for(&request);
    // It holds on to the buffer that it was read into.
    drop(request);
    let mut ear = peer.parking.ear();
    if let Some(ear) = &mut ear {
        ear.mark();
    }
    let (caller, config) = look_for_configuration(&coordinator, peer.clone()).await?;
    if ear.is_none() {
        // The node itself has spoken, and not its connection in its place.
        caller.noticed(&coordinator, api::CONFIG).await?;
    }
    let seat = caller.node()?.id;
    let (config, tag) = allowed(&caller, config)?;
    let Some(Wait { seen, time, words }) = wait.filter(|wait| wait.seen == tag) else {
        return Ok(tagged(config, &tag));
    };
    drop((caller, config));
    let end = Instant::now() + time;
    let look = || {
        let (coordinator, seen, peer) = (coordinator.clone(), seen.clone(), peer.clone());
        async move {
            let (caller, config) = look_for_configuration(&coordinator, peer).await?;
            let (config, tag) = allowed(&caller, config)?;
            Ok::<_, Refused>((tag != seen).then(|| tagged(config, &tag)))
        }
    };
    let ear = if let Some(ear) = ear {
        ear
    } else {
        let ear = coordinator.inner.news.listen(seat);
        // It has changed before anybody listened.
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ear
    };
    if time.is_zero() {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let mut ear = match peer.parking.park(words, end, ear) {
        // The connection takes this apart, and asks again when there is news.
        Ok(()) => return std::future::pending().await,
        Err(ear) => ear,
    };
    let looks = ear.wait(end, look);
    let found = tokio::select! {
        found = looks => found?,
        () = stopped(stop) => None,
    };
    Ok(found.unwrap_or_else(|| StatusCode::NOT_MODIFIED.into_response()))
}

/// A node's configuration, or why it has none.
type Config = Result<NodeConfig, anyhow::Error>;

/// Who asks, and a node's configuration, both as they are at one moment: what
/// is asked most is one look and not two.
async fn look_for_configuration(
    coordinator: &Coordinator,
    peer: Peer,
) -> Result<(Caller, Option<Config>), Refused> {
    let now = Timestamp::now();
    let look = move |tx: &Transaction<'_>| {
        let caller = Caller::within(tx, peer)?;
        let config = match &caller.owner {
            Some(KeyOwner::Node { seat, .. }) => Some(transition::node::config(tx, seat, now)),
            _ => None,
        };
        Ok((caller, config))
    };
    Ok(coordinator.inner.store.read(look).await?)
}

/// The configuration of a caller that may have it, and its tag.
fn allowed(caller: &Caller, config: Option<Config>) -> Result<(Box<RawValue>, String), Refused> {
    caller.node()?;
    let config = config.context("a node's configuration was not looked for")??;
    Ok(written(&config)?)
}

/// A configuration's document and its tag.
pub(super) fn written(config: &NodeConfig) -> Result<(Box<RawValue>, String), anyhow::Error> {
    let text = to_raw_value(config).context("writing a configuration")?;
    let tag = Fingerprint::from_bytes(Sha256::digest(text.get()).into());
    Ok((text, format!("\"{tag}\"")))
}

fn tagged(config: Box<RawValue>, tag: &str) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::ETAG, tag)];
    (headers, String::from(Box::<str>::from(config))).into_response()
}

/// What a question that may be held open says.
struct Wait {
    seen: String,
    time: Duration,
    words: Words,
}

impl Wait {
    /// `If-None-Match: "TAG"` and `Prefer: wait=SECONDS` (RFC 7240, section 4.3).
    fn asked_for(request: &Parts) -> Option<Self> {
        let time = wait_asked_for(&request.headers)?;
        let seen = request.headers.get(header::IF_NONE_MATCH)?.to_str().ok()?.trim().to_owned();
        let words = Words::of(request, &seen);
        Some(Self { seen, time, words })
    }
}

/// `Prefer: wait=SECONDS`.
fn wait_asked_for(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u32 = headers.get("prefer")?.to_str().ok()?.trim().strip_prefix("wait=")?.parse().ok()?;
    Some(Duration::from_secs(seconds.min(MAX_WAIT).into()))
}

pub(super) async fn gate(
    State(coordinator): State<Coordinator>,
    caller: Caller,
    Body(request): Body<GateRequest>,
) -> Result<Json<GateAnswer>, Refused> {
    let (seat, actor) = (caller.node()?.id, caller.actor());
    let contacts = coordinator.inner.contacts.clone();
    let answer = coordinator
        .change(move |tx| {
            transition::node::gate(tx, seat, &request, &actor, &locked(&contacts), Timestamp::now())
        })
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
    let (seat, opened) = (caller.unopened_node()?, caller.peer.opened.load(Ordering::Acquire));
    // A held node may report, and so may any while the state is an old copy:
    // neither can open.
    if seat.state.is_trusted() && !opened && !coordinator.is_stale().await? {
        return Err(unopened());
    }
    let (seat, actor) = (seat.id, caller.actor());
    coordinator.change(move |tx| transition::node::report(tx, seat, &report, &actor, now)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How long a question for chores waits for some.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience(pub(super) Duration);

/// Takes what was done, then waits for something to be done: the registry is
/// asked again after every change, so that a server whose rights are taken
/// away is told so at once.
pub(super) async fn chores(
    State(coordinator): State<Coordinator>,
    Extension(Patience(patience)): Extension<Patience>,
    Extension(Stop(stop)): Extension<Stop>,
    caller: Caller,
    Body(request): Body<ChoresRequest>,
) -> Result<Json<Chores>, Refused> {
    let (seat, actor) = (caller.node()?.id, caller.actor());
    let mut changes = coordinator.changes();
    let request = Arc::new(request);
    let (told, contacts) = (request.clone(), coordinator.inner.contacts.clone());
    let taken = coordinator
        .change(move |tx| {
            transition::chores::take(tx, seat, &told, &actor, &locked(&contacts), Timestamp::now())
        })
        .await;
    // Whoever may do none any more gives way to another server.
    let dismissed = |_: &anyhow::Error| coordinator.contacts().dismiss(seat);
    taken.inspect_err(dismissed)?;
    let end = Instant::now() + patience;
    loop {
        changes.mark_unchanged();
        let (asked, contacts) = (request.clone(), coordinator.inner.contacts.clone());
        let chores = coordinator
            .inner
            .store
            .read(move |tx| transition::chores::look(tx, seat, &asked, &locked(&contacts), Timestamp::now()))
            .await
            .inspect_err(dismissed)?;
        if !chores.is_empty() && coordinator.contacts().is_steward(seat, Timestamp::now()) {
            return Ok(Json(chores));
        }
        // Not every reason for a chore is a change: time passes as well.
        let soon = end.min(Instant::now() + LOOK_AGAIN);
        tokio::select! {
            _ = changes.changed() => {}
            () = sleep_until(soon) => {}
            () = stopped(stop.clone()) => return Ok(Json(Chores::default())),
        }
        if Instant::now() >= end {
            return Ok(Json(Chores::default()));
        }
    }
}

pub(super) async fn snapshot(
    State(coordinator): State<Coordinator>,
    caller: Caller,
    Body(SnapshotRequest { offset }): Body<SnapshotRequest>,
) -> Result<Vec<u8>, Refused> {
    let seat = caller.node()?.id;
    let now = Timestamp::now();
    let restore = coordinator.inner.store.read(move |tx| transition::node::snapshot(tx, seat, now)).await?;
    let read = tokio::task::spawn_blocking(move || snapshot::part(&restore.path, offset)).await;
    Ok(read.context("reading a part of a datastore")??)
}
