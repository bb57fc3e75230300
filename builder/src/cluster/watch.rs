//! Waits until every node is ready, and no longer than it can become so.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use kiln_coordinator::Coordinator;
use kiln_protocol::ErrorClass;
use kiln_protocol::admin::{ClusterStatus, Confirmation, NodeStatus, RegistryState};
use kiln_protocol::api::StepState;
use tokio::time::Instant;

use super::board::Board;
use super::converge::NodeUp;
use crate::provider::{Observed, PowerState, Provider};

/// How often machines are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Waits until all of `nodes` are ready; fails as soon as one cannot become so.
pub(super) async fn until_ready(
    provider: &Provider,
    coordinator: &Coordinator,
    nodes: &[NodeUp],
    board: &mut Board<'_>,
    deadline: Instant,
) -> Result<ClusterStatus> {
    let began = Timestamp::now();
    let mut changes = coordinator.changes();
    loop {
        let status = coordinator.status().await.context("asking the coordinator")?;
        confirm_consoles(provider, coordinator, nodes, &status).await?;
        let mut seen = Vec::new();
        for up in nodes {
            let observed = provider.observe(&up.node).await?;
            board.observed(&up.node.node, &observed);
            seen.push((up, observed));
        }
        board.status(status.clone())?;
        board.draw();
        for (up, observed) in &seen {
            let node = status.node(&up.node.node);
            if let Some(why) = failure(node, observed, began) {
                bail!("node {} cannot become ready: {why}{}", up.node.node, console(observed));
            }
        }
        let waiting: Vec<_> = seen.iter().filter(|(up, _)| !is_ready(&status, up)).collect();
        if waiting.is_empty() {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            bail!("{}", too_late(&status, &waiting));
        }
        tokio::select! {
            more = changes.changed() => more.context("the coordinator ended")?,
            () = tokio::time::sleep_until((Instant::now() + LOOK).min(deadline)) => {}
        }
    }
}

/// Tells the coordinator which keys the consoles of nodes show that wait for
/// it: nobody but such a machine itself can write there.
pub(super) async fn confirm_consoles(
    provider: &Provider,
    coordinator: &Coordinator,
    nodes: &[NodeUp],
    status: &ClusterStatus,
) -> Result<()> {
    for up in nodes {
        let name = &up.node.node;
        let waits = |node: &&NodeStatus| node.console == Some(Confirmation::Awaited);
        let Some(node) = status.node(name).filter(waits) else { continue };
        if let Some(key) = provider.console_key(&up.node).await? {
            let confirmed = coordinator.confirm(name, Some(node.generation), key).await;
            confirmed.with_context(|| format!("confirming the key on the console of node {name}"))?;
        }
    }
    Ok(())
}

fn is_ready(status: &ClusterStatus, up: &NodeUp) -> bool {
    status.node(&up.node.node).is_some_and(NodeStatus::is_ready)
}

/// Why a node cannot become ready any more, if that is known. What it said
/// before `began` is history: the cause may have been cured since.
fn failure(node: Option<&NodeStatus>, observed: &Observed, began: Timestamp) -> Option<String> {
    let because = |what: &str, reason: Option<&String>| {
        Some(reason.map_or_else(|| what.to_owned(), |reason| format!("{what}: {reason}")))
    };
    match observed.power {
        PowerState::Off => return because("its machine went off", observed.reason.as_ref()),
        PowerState::Stopped => return because("its machine stands still", observed.reason.as_ref()),
        PowerState::Running => {}
    }
    let node = node?;
    match node.registry {
        RegistryState::Held => {
            return because("it is held (`coordinator release` or `revoke` decides)", node.reason.as_ref());
        }
        RegistryState::Revoked => return because("it is revoked", node.reason.as_ref()),
        RegistryState::Expired => return because("its ticket expired before it enrolled", None),
        _ => {}
    }
    match &node.report.as_ref()?.state {
        // It waits for its console to be read, which is done here.
        StepState::Failed { error } if error.class == ErrorClass::Pending => None,
        StepState::Failed { error } if error.class.needs_operator() && node.last_seen >= Some(began) => {
            Some(error.to_string())
        }
        _ => None,
    }
}

fn console(observed: &Observed) -> String {
    if observed.console_tail.is_empty() {
        return "; its console says nothing".into();
    }
    format!("; the end of its console:\n    {}", observed.console_tail.join("\n    "))
}

fn too_late(status: &ClusterStatus, waiting: &[&(&NodeUp, Observed)]) -> String {
    let mut text = "not every node became ready in time (--timeout gives more)".to_owned();
    for (up, observed) in waiting {
        let said = match status.node(&up.node.node).and_then(|node| node.report.as_ref()) {
            None => "never reported".to_owned(),
            Some(report) => match &report.state {
                StepState::Running { detail } => {
                    format!("is at {}: {}", report.step, detail.as_deref().unwrap_or("under way"))
                }
                StepState::Done => format!("has done {}", report.step),
                StepState::Failed { error } => format!("fails at {}: {error}", report.step),
            },
        };
        text = format!("{text}\n  node {} {said}{}", up.node.node, console(observed));
    }
    for stranger in &status.strangers {
        let from = stranger.from;
        let said = stranger.report.as_ref().map(|report| &report.state);
        if let Some(StepState::Failed { error }) = said {
            text = format!("{text}\n  a machine nobody knows, at {from}, says: {error}");
        }
    }
    text
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
