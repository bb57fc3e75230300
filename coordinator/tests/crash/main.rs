//! The coordinator is killed, or its machine loses power, at every write, sync
//! and answer of a history: whatever was answered is true afterwards, what was
//! in flight has happened as a whole or not at all, what was burnt stays so,
//! and every machine goes on from what it has on its disk.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

mod child;
#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "../api/common.rs"]
mod common;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use common::Machine;
use kiln_coordinator::{Coordinator, Server, UnlockFile};
use kiln_protocol::ratchet::{OpenAnswer, OpenRequest, Stamp, Turn};
use kiln_protocol::rotation::RotateRequest;
use kiln_protocol::ticket::Ticket;
use kiln_protocol::{ErrorClass, Fingerprint, Identity, api};
use kiln_tests::crash::{self, Loss, Point, Trace};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use child::Child;

/// What the child says after each answer: all that anybody can see, and what
/// must go on to be true.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct View {
    /// What was just answered.
    done: String,
    /// The state directory that counts, below the recorded one.
    state: String,
    /// The audit trail.
    events: serde_json::Value,
    /// The status, without what depends on the time of asking.
    status: serde_json::Value,
    /// Used tickets, with the key that each let in.
    burnt: Vec<(String, Fingerprint)>,
    /// Machines that are bound and trusted, by node.
    nodes: BTreeMap<String, Kept>,
}

/// What a machine has on its disk when it asks for the next thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Kept {
    key: String,
    /// The key that is to take its place.
    next_key: Option<String>,
    /// The turn that it opens its next connection with.
    turn: Turn,
    /// The newest stamp it was given.
    seen: Option<Stamp>,
}

/// All that anybody can see.
async fn view(coordinator: &Coordinator) -> Result<(serde_json::Value, serde_json::Value)> {
    let events = coordinator.events(0, 100_000).await?;
    let mut status = serde_json::to_value(coordinator.status().await?)?;
    let object = status.as_object_mut().context("a status is an object")?;
    object.remove("at");
    object.remove("strangers");
    Ok((serde_json::to_value(events)?, status))
}

/// The unlock key of every state of a history: a restored one has it too.
fn unlock_file(dir: &Path) -> UnlockFile {
    UnlockFile::beside(&dir.join("state"))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// What must be true of a disk after `said` answers.
async fn check(dir: &Path, views: &[View], said: usize) -> Result<()> {
    let (promised, in_flight) = (said.checked_sub(1).map(|last| &views[last]), views.get(said));
    let Some(promised) = promised else {
        return before_the_first_promise(dir, views).await;
    };
    let unlock = unlock_file(dir);
    // A state that is being made is there as a whole or not at all.
    if let Some(next) = in_flight.filter(|next| next.state != promised.state)
        && dir.join(&next.state).exists()
    {
        let made = Coordinator::open_with(&dir.join(&next.state), &unlock).await;
        let made = made.context("opening the state that was being made")?;
        let (_, status) = view(&made).await?;
        ensure!(status == next.status, "the state that was being made is another: {status:#}");
    }
    let coordinator = Coordinator::open_with(&dir.join(&promised.state), &unlock).await;
    let coordinator = coordinator.context("opening what is left of the state")?;
    let (events, status) = view(&coordinator).await?;
    let fits = |view: &&View| view.events == events && view.status == status;
    let Some(now) = [Some(promised), in_flight].into_iter().flatten().find(fits) else {
        bail!(
            "it is neither as it was after {:?} nor as it was to be after {:?}: {events:#}\n{status:#}",
            promised.done,
            in_flight.map(|view| &view.done)
        );
    };
    let server = coordinator.serve(TcpListener::bind("127.0.0.1:0").await?).await?;
    for (node, kept) in &now.nodes {
        go_on(&coordinator, &server, kept).await.with_context(|| format!("{node} goes on"))?;
    }
    probe(&coordinator, &server, &promised.burnt).await?;
    server.shutdown().await;
    Ok(())
}

/// At most the first operation has happened; what is half made says what to do.
async fn before_the_first_promise(dir: &Path, views: &[View]) -> Result<()> {
    let Ok(coordinator) = Coordinator::open_with(&dir.join("state"), &unlock_file(dir)).await else {
        return Ok(());
    };
    let lines = |events: &serde_json::Value| events.as_array().map_or(0, Vec::len);
    let (events, _) = view(&coordinator).await?;
    ensure!(lines(&events) <= lines(&views[0].events), "more has happened than was asked for");
    Ok(())
}

/// A machine does what its agent does next: it finishes replacing its key if
/// that was begun, and opens a connection, which raises no alarm.
async fn go_on(coordinator: &Coordinator, server: &Server, kept: &Kept) -> Result<()> {
    let pin = coordinator.pin();
    let mut identity = Identity::from_pem(&kept.key)?;
    let mut machine = Machine::new(&identity, server.local_addr(), pin);
    let mut turn = kept.turn;
    if let Some(next) = &kept.next_key {
        let next = Identity::from_pem(next)?;
        let request = RotateRequest::new(&pin, &identity.fingerprint(), &next, turn, kept.seen);
        let body = serde_json::to_vec(&request)?;
        let (status, answer) = machine.raw(Method::POST, api::ROTATE, body).await?;
        ensure!(status == 204, "its new key is refused: {}", String::from_utf8_lossy(&answer));
        identity = next;
        machine = Machine::new(&identity, server.local_addr(), pin);
        turn = Turn { cur: turn.next, next: kiln_protocol::ratchet::Notch::random() };
    }
    let request = OpenRequest::new(turn, kept.seen);
    let (status, answer) = machine.raw(Method::POST, api::OPEN, serde_json::to_vec(&request)?).await?;
    ensure!(status == 200, "its turn is refused: {}", String::from_utf8_lossy(&answer));
    let OpenAnswer { stamp, .. } = serde_json::from_slice(&answer)?;
    let seen = kept.seen.map(|seen| seen.reach);
    ensure!(
        seen.is_none_or(|seen| seen <= stamp.reach),
        "it was told of {seen:?}, and now of {:?}",
        stamp.reach
    );
    Ok(())
}

/// Nobody else gets in with a ticket that was used.
async fn probe(coordinator: &Coordinator, server: &Server, burnt: &[(String, Fingerprint)]) -> Result<()> {
    for (ticket, key) in burnt {
        let ticket: Ticket = ticket.parse()?;
        let thief = Identity::generate()?;
        let machine = Machine::new(&thief, server.local_addr(), coordinator.pin());
        let error = match machine.enrol(&ticket).await {
            Ok(answer) => bail!("the ticket of key {key} let another key in, as {answer:?}"),
            Err(error) => error.class,
        };
        let known = matches!(
            error,
            ErrorClass::TicketContested | ErrorClass::Superseded | ErrorClass::Revoked | ErrorClass::Held
        );
        // A proof for the key that the coordinator had is worth nothing.
        let of_another_key = ticket.pin() != coordinator.pin() && error == ErrorClass::Policy;
        ensure!(known || of_another_key, "a used ticket is {error}");
    }
    Ok(())
}

const TEST: &str = "nothing_promised_is_lost_and_nothing_bound_revives_at_any_point_of_a_crash";

#[test]
fn nothing_promised_is_lost_and_nothing_bound_revives_at_any_point_of_a_crash() {
    if let Some(dir) = crash::child() {
        runtime().block_on(Child::run(&dir)).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let trace = Trace::record(TEST, dir.path()).unwrap();
    let views: Vec<View> = trace.said().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(views.len() > 25, "{} answers", views.len());
    let runtime = runtime();
    let disks = trace
        .each_disk(|disk, point: &Point, _: Loss| runtime.block_on(check(disk, &views, point.said)))
        .unwrap();
    println!("{}; {disks} different disks, and every promise held", trace.summary());
    // The test can fail: without syncs, promises are lost.
    let lost = trace.without_syncs().each_disk(|disk, point, loss| match loss {
        Loss::Unsynced if point.said > 0 => runtime.block_on(check(disk, &views, point.said)),
        _ => Ok(()),
    });
    assert!(lost.is_err(), "a store that never syncs passed");
}
