//! `serve --until-ready`: serving until every node is ready, and saying which
//! one is stuck where if that takes too long.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use kiln_protocol::admin::{ClusterStatus, NodeStatus, RegistryState};
use kiln_protocol::api::StepState;
use tokio::time::{Instant, timeout_at};

use super::table;
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
            tracing::info!("all {} nodes are ready", status.planned().count());
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

/// One line a node that is not ready: where it is stuck, and why; then what
/// keeps all of them, and what an operator has to decide.
fn summary(why: &str, status: &ClusterStatus) -> String {
    let missing: Vec<_> = status.planned().filter(|node| !node.is_ready()).collect();
    let mut text = format!("{why}: {} of {} are missing", missing.len(), status.planned().count());
    for node in missing {
        let _ = write!(text, "\n  {}: {}", node.name, stuck(node, status));
    }
    if let Some(live) = status.live.as_ref().filter(|live| live.tokens.asked.is_some()) {
        let said = table::tokens(&live.tokens).unwrap_or_default();
        let _ = write!(text, "\n  {}: {said}", live.cluster);
    }
    for line in table::attention(status).lines() {
        let _ = write!(text, "\n  {line}");
    }
    text
}

fn stuck(node: &NodeStatus, status: &ClusterStatus) -> String {
    let reason = || node.reason.clone().map_or(String::new(), |reason| format!(": {reason}"));
    match node.registry {
        RegistryState::Planned if status.strangers.iter().any(|stranger| stranger.pending) => {
            "no ticket was minted for it, and no machine that waits was approved as it (below)".to_owned()
        }
        RegistryState::Planned => "no ticket was minted for it".to_owned(),
        RegistryState::Issued if status.stale.is_some() => {
            "its ticket was not used, and is refused: this coordinator's state is an old copy (below)"
                .to_owned()
        }
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
        RegistryState::Bound => at_step(node, status.at),
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

    const STATUS: &str = r#"{
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
            {"name": "a3", "role": "agent", "generation": 1, "next_generation": 2, "registry": "issued"},
            {"name": "a9", "role": "agent", "planned": false, "generation": 1, "next_generation": 2,
             "registry": "bound"}
        ]
    }"#;

    #[test]
    fn the_summary_says_which_node_is_stuck_where_and_why() {
        let status: ClusterStatus = serde_json::from_str(STATUS).unwrap();
        assert_eq!(
            summary("not within 60 s", &status),
            "not within 60 s: 3 of 4 are missing
  a1: at step gate, last heard of 10 s ago: no server is ready yet
  a2: held: two machines used its ticket; an operator decides: coordinator release a2, or coordinator revoke a2
  a3: its ticket was not used yet: was the machine made, does it start, can it reach this coordinator?"
        );
    }

    #[test]
    fn what_the_coordinator_itself_keeps_them_from_is_said_too() {
        let mut status: ClusterStatus = serde_json::from_str(STATUS).unwrap();
        status.live.as_mut().unwrap().tokens =
            serde_json::from_str(r#"{"asked": "2026-01-01T00:00:30Z", "trouble": "k3s answers 404"}"#)
                .unwrap();
        status.stale = serde_json::from_str(
            r#"{"own": {"epoch": 1, "seq": 5}, "seen": {"epoch": 1, "seq": 9}, "since": "2026-01-01T00:00:20Z"}"#,
        )
        .unwrap();
        let stranger = format!(
            r#"{{"key": "{}", "from": "10.0.0.7", "last_seen": "2026-01-01T00:00:58Z", "pending": true}}"#,
            "7".repeat(64)
        );
        status.strangers.push(serde_json::from_str(&stranger).unwrap());
        status.nodes[1].registry = RegistryState::Planned;
        let summary = summary("not within 60 s", &status);
        for said in [
            "\n  a1: no ticket was minted for it, and no machine that waits was approved as it (below)\n",
            "\n  a3: its ticket was not used, and is refused: this coordinator's state is an old copy (below)\n",
            "\n  home: its tokens are being rotated since 2026-01-01 00:00:30, and nobody joins meanwhile: k3s answers 404\n",
            "\n  STALE since 2026-01-01 00:00:20: ",
            "\n  waits for approval: key 7777",
            "\n  approve one by the key on its console: coordinator approve NODE --fingerprint KEY",
        ] {
            assert!(summary.contains(said), "{said}: {summary}");
        }
    }
}
