//! `serve --until-ready`: serving until every node is ready, and saying which
//! one is stuck where if that takes too long.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use kiln_protocol::admin::{ClusterStatus, NodeStatus, RegistryState};
use kiln_protocol::api::StepState;
use tokio::time::{Instant, timeout_at};

use crate::Coordinator;

/// Not every node was ready in time.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotReady(String);

/// Returns once every node of the cluster file is ready.
///
/// # Errors
/// [`NotReady`] when that takes longer than `time`; another error at once when
/// no cluster file is in force.
pub(super) async fn wait(coordinator: &Coordinator, time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    let mut changes = coordinator.changes();
    loop {
        changes.mark_unchanged();
        let status = coordinator.status().await?;
        ensure!(status.live.is_some(), "no cluster file is in force: give one with --cluster FILE");
        if status.all_ready() {
            tracing::info!("all {} nodes are ready", status.nodes.len());
            return Ok(());
        }
        if timeout_at(end, changes.changed()).await.is_err() {
            let why = format!("not every node was ready within {} s", time.as_secs());
            return Err(NotReady(summary(&why, &status)).into());
        }
    }
}

/// It was told to stop before that.
pub(super) fn stopped(status: &ClusterStatus) -> NotReady {
    NotReady(summary("it was told to stop before every node was ready", status))
}

/// One line a node that is not ready: where it is stuck, and why.
fn summary(why: &str, status: &ClusterStatus) -> String {
    let missing: Vec<_> = status.nodes.iter().filter(|node| !node.is_ready()).collect();
    let mut text = format!("{why}: {} of {} are missing", missing.len(), status.nodes.len());
    for node in missing {
        let _ = write!(text, "\n  {}: {}", node.name, stuck(node, status.at));
    }
    for alarm in &status.alarms {
        let _ = write!(text, "\n  ALARM {}: {}", alarm.node, alarm.message);
    }
    text
}

fn stuck(node: &NodeStatus, now: Timestamp) -> String {
    let reason = || node.reason.clone().map_or(String::new(), |reason| format!(": {reason}"));
    match node.registry {
        RegistryState::Planned => "no ticket was minted for it".to_owned(),
        RegistryState::Issued => {
            "its ticket was not used yet: was the machine made, does it start, can it reach this coordinator?"
                .to_owned()
        }
        RegistryState::Expired => {
            format!("its ticket was not used in time; if the machine runs: coordinator extend {}", node.name)
        }
        RegistryState::Held => {
            format!(
                "held{}; an operator decides: coordinator release {1}, or coordinator revoke {1}",
                reason(),
                node.name
            )
        }
        RegistryState::Superseded | RegistryState::Revoked => format!("{}{}", node.registry, reason()),
        RegistryState::Bound => at_step(node, now),
    }
}

fn at_step(node: &NodeStatus, now: Timestamp) -> String {
    let Some(report) = &node.report else {
        return "it has enrolled and reported nothing since".to_owned();
    };
    let said = match &report.state {
        StepState::Running { detail: None } => "under way".to_owned(),
        StepState::Running { detail: Some(detail) } => detail.clone(),
        StepState::Done => "done, and nothing since".to_owned(),
        StepState::Failed { error } => format!("failed: {error}"),
    };
    let silent = node.last_seen.map_or(0, |seen| now.duration_since(seen).as_secs().max(0));
    format!("at step {}, last heard of {silent} s ago: {said}", report.step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_which_node_is_stuck_where_and_why() {
        let status = r#"{
            "pin": "0000000000000000000000000000000000000000000000000000000000000000",
            "at": "2026-01-01T00:01:00Z",
            "live": {"cluster": "home", "incarnation": 1, "begun": "2026-01-01T00:00:00Z", "k3s": "v1.28.5+k3s1"},
            "nodes": [
                {"name": "s1", "role": "server", "generation": 1, "next_generation": 2, "registry": "bound",
                 "ready": "2026-01-01T00:00:50Z"},
                {"name": "a1", "role": "agent", "generation": 1, "next_generation": 2, "registry": "bound",
                 "last_seen": "2026-01-01T00:00:50Z",
                 "report": {"boot_id": "b", "sequence": 9, "uptime_ms": 3000, "step": "gate",
                            "state": "running", "detail": "no server is ready yet"}},
                {"name": "a2", "role": "agent", "generation": 1, "next_generation": 2, "registry": "held",
                 "reason": "two machines used its ticket"},
                {"name": "a3", "role": "agent", "generation": 1, "next_generation": 2, "registry": "issued"}
            ]
        }"#;
        let status: ClusterStatus = serde_json::from_str(status).unwrap();
        assert_eq!(
            summary("not within 60 s", &status),
            "not within 60 s: 3 of 4 are missing
  a1: at step gate, last heard of 10 s ago: no server is ready yet
  a2: held: two machines used its ticket; an operator decides: coordinator release a2, or coordinator revoke a2
  a3: its ticket was not used yet: was the machine made, does it start, can it reach this coordinator?"
        );
    }
}
