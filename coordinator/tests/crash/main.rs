//! The coordinator is killed, or its machine loses power, at every write, sync
//! and answer of a history: whatever was answered is true afterwards, what was
//! in flight has happened as a whole or not at all, and what was burnt stays so.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "../api/common.rs"]
mod common;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use common::{Machine, cluster_file, name};
use jiff::{SignedDuration, Timestamp};
use kiln_coordinator::{Coordinator, Limits, Server};
use kiln_protocol::admin::{Hints, TicketRecord};
use kiln_protocol::ticket::{Ticket, TicketSeed};
use kiln_protocol::{ErrorClass, Fingerprint, Identity, Role};
use kiln_tests::crash::{self, Loss, Point, Trace};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// Nodes that come and go in the history, beside the server; more in a long run.
fn rounds() -> usize {
    std::env::var("KILN_CRASH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

/// What the child says after each answer: all that anybody can see.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct View {
    /// What was just answered.
    done: String,
    /// The audit trail.
    events: serde_json::Value,
    /// The status, without what depends on the time of asking.
    status: serde_json::Value,
    /// Used tickets, with the key that each let in.
    burnt: Vec<(String, Fingerprint)>,
}

async fn view(coordinator: &Coordinator) -> Result<(serde_json::Value, serde_json::Value)> {
    let events = coordinator.events(0, 100_000).await?;
    let mut status = serde_json::to_value(coordinator.status().await?)?;
    let object = status.as_object_mut().context("a status is an object")?;
    object.remove("at");
    object.remove("strangers");
    Ok((serde_json::to_value(events)?, status))
}

/// The child's side: a coordinator, its operator and its nodes.
struct Child {
    dir: std::path::PathBuf,
    running: Option<(Coordinator, Server)>,
    burnt: Vec<(String, Fingerprint)>,
}

impl Child {
    async fn run(dir: &Path) -> Result<()> {
        let dir = dir.join("state");
        Coordinator::init(&dir)?;
        let mut child = Self { dir, running: None, burnt: Vec::new() };
        child.start().await?;
        child.coordinator().apply(&cluster_file(1)).await?;
        child.say("apply").await?;
        let server = child.join("s1", 1).await?;
        server.gate().await?;
        child.say("gate").await?;
        server.report_ready().await?;
        child.say("ready").await?;
        child.coordinator().rotate_tokens().await?;
        child.say("rotate tokens").await?;
        server.do_chores(&[]).await;
        child.say("tokens rotated").await?;
        for round in 0..rounds() {
            child.round(u32::try_from(round)?).await?;
        }
        child.coordinator().kubeconfig("https://10.0.0.1:6443", Duration::from_secs(3600)).await?;
        child.say("kubeconfig").await?;
        child.coordinator().end().await?;
        child.say("end").await?;
        child.coordinator().apply(&cluster_file(1)).await?;
        child.say("apply again").await?;
        child.stop().await;
        Ok(())
    }

    /// An agent joins, is doubted, released, replaced and thrown out.
    async fn round(&mut self, round: u32) -> Result<()> {
        let first = 2 * round + 1;
        let ticket = self.mint("a1", first).await?;
        self.coordinator().extend(&name("a1"), Duration::from_secs(7200)).await?;
        self.say("extend").await?;
        let _machine = self.enrol(&ticket).await?;
        let thief = self.machine(&Identity::generate()?);
        ensure!(thief.enrol(&ticket).await.is_err_and(|error| error.class == ErrorClass::TicketContested));
        self.say("contested").await?;
        self.coordinator().release(&name("a1")).await?;
        self.say("release").await?;
        // With the state closed and opened again in between.
        self.stop().await;
        self.start().await?;
        self.say("restart").await?;
        let second = self.mint("a1", first + 1).await?;
        self.enrol(&second).await?;
        self.coordinator().revoke(&name("a1")).await?;
        self.say("revoke").await
    }

    async fn start(&mut self) -> Result<()> {
        let coordinator = Coordinator::open(&self.dir).await?;
        let mut limits = Limits::default();
        // A question for chores is not held open when there are none.
        limits.chores = Duration::ZERO;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let server = coordinator.serve_within(listener, limits).await?;
        self.running = Some((coordinator, server));
        Ok(())
    }

    async fn stop(&mut self) {
        if let Some((coordinator, server)) = self.running.take() {
            server.shutdown().await;
            drop(coordinator);
        }
    }

    fn coordinator(&self) -> &Coordinator {
        &self.running.as_ref().unwrap().0
    }

    fn machine(&self, identity: &Identity) -> Machine {
        let (coordinator, server) = self.running.as_ref().unwrap();
        Machine::new(identity, server.local_addr(), coordinator.pin())
    }

    async fn mint(&mut self, node: &str, generation: u32) -> Result<Ticket> {
        let address = "127.0.0.1:7443".parse()?;
        let ticket = Ticket::new(vec![address], self.coordinator().pin(), TicketSeed::generate())?;
        let role = if node.starts_with('s') { Role::Server } else { Role::Agent };
        let now = Timestamp::now();
        let record = TicketRecord {
            node: name(node),
            generation,
            role,
            not_before: now,
            expires: now + SignedDuration::from_hours(1),
            hints: Hints::default(),
            confirm_console: false,
        };
        self.coordinator().mint(ticket.public_key(), record).await?;
        self.say("mint").await?;
        Ok(ticket)
    }

    async fn enrol(&mut self, ticket: &Ticket) -> Result<Machine> {
        let identity = Identity::generate()?;
        let machine = self.machine(&identity);
        machine.enrol(ticket).await.map_err(|error| anyhow::anyhow!("{error:?}"))?;
        self.burnt.push((ticket.to_text().to_string(), machine.key));
        self.say("enrol").await?;
        Ok(machine)
    }

    async fn join(&mut self, node: &str, generation: u32) -> Result<Machine> {
        let ticket = self.mint(node, generation).await?;
        self.enrol(&ticket).await
    }

    /// Says that an operation was answered, and what is to be seen since.
    async fn say(&self, done: &str) -> Result<()> {
        let (events, status) = view(self.coordinator()).await?;
        let view = View { done: done.to_owned(), events, status, burnt: self.burnt.clone() };
        let line = serde_json::to_string(&view)?;
        // These came over the network; the others are the library's.
        if ["gate", "ready", "enrol", "contested", "tokens rotated"].contains(&done) {
            crash::say_answered(&line);
        } else {
            crash::say(&line);
        }
        Ok(())
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// What must be true of a disk after `said` answers.
async fn check(dir: &Path, views: &[View], said: usize) -> Result<()> {
    let state = dir.join("state");
    let coordinator = match Coordinator::open(&state).await {
        Ok(coordinator) => coordinator,
        // Nothing was promised: it may be half made, and says what to do.
        Err(_) if said == 0 => return Ok(()),
        Err(error) => return Err(error).context("opening what is left of the state"),
    };
    let (events, status) = view(&coordinator).await?;
    if said == 0 {
        // Before the first promise: at most the first operation has happened.
        let lines = |events: &serde_json::Value| events.as_array().map_or(0, Vec::len);
        ensure!(lines(&events) <= lines(&views[0].events), "more has happened than was asked for");
    } else {
        let promised = &views[said - 1];
        let in_flight = views.get(said);
        let fits = |view: &View| view.events == events && view.status == status;
        if !fits(promised) && !in_flight.is_some_and(fits) {
            bail!(
                "it is neither as it was after {:?} nor as it was to be after {:?}: {events:#}\n{status:#}",
                promised.done,
                in_flight.map(|view| &view.done)
            );
        }
    }
    let Some(promised) = said.checked_sub(1).map(|last| &views[last]) else { return Ok(()) };
    probe(&coordinator, &promised.burnt).await
}

/// Nobody else gets in with a ticket that was used.
async fn probe(coordinator: &Coordinator, burnt: &[(String, Fingerprint)]) -> Result<()> {
    let server = coordinator.serve(TcpListener::bind("127.0.0.1:0").await?).await?;
    for (ticket, key) in burnt {
        let ticket: Ticket = ticket.parse()?;
        let thief = Identity::generate()?;
        let machine = Machine::new(&thief, server.local_addr(), coordinator.pin());
        match machine.enrol(&ticket).await {
            Ok(answer) => bail!("the ticket of key {key} let another key in, as {answer:?}"),
            Err(error) => ensure!(
                matches!(
                    error.class,
                    ErrorClass::TicketContested
                        | ErrorClass::Superseded
                        | ErrorClass::Revoked
                        | ErrorClass::Held
                ),
                "a used ticket is {}",
                error.class
            ),
        }
    }
    server.shutdown().await;
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
    assert!(views.len() > 10, "{} answers", views.len());
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
