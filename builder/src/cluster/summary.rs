//! What `up` says at its end: where the kubeconfig is, and how long each step
//! of each node took.

use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kiln_protocol::admin::NodeStatus;
use kiln_protocol::api::{Facts, Step, Usage};
use kiln_protocol::config::Incarnation;
use kiln_protocol::{ClusterName, NodeName, Role};
use serde::Serialize;

use super::view::{between, columns, millis};

/// What a cluster is once it is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Its name.
    pub cluster: ClusterName,
    /// Which of its lives this is.
    pub incarnation: Incarnation,
    /// The kubeconfig.
    pub kubeconfig: PathBuf,
    /// Its nodes, in the cluster file's order.
    pub nodes: Vec<NodeSummary>,
}

/// A node that is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeSummary {
    /// Its name.
    pub node: NodeName,
    /// Its role.
    pub role: Role,
    /// Which creation of a node of this name it is.
    pub generation: u32,
    /// When each step was done, in the boot of its last report.
    pub steps: Vec<StepSummary>,
    /// What its agent has used.
    pub usage: Option<Usage>,
    /// What the machine said of itself.
    pub facts: Option<Facts>,
}

/// When a step was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StepSummary {
    /// Which.
    pub step: Step,
    /// Milliseconds since the kernel started.
    pub uptime_ms: u64,
    /// Milliseconds since the machine was switched on: firmware and boot
    /// loader included. Not known for another boot than the last one.
    pub since_power_on_ms: Option<u64>,
}

impl NodeSummary {
    /// From what the coordinator knows, and when the machine was switched on.
    pub fn of(status: &NodeStatus, powered_on: Option<Timestamp>) -> Self {
        let firmware = firmware_time(status, powered_on);
        let step = |step: &kiln_protocol::admin::StepTime| StepSummary {
            step: step.step,
            uptime_ms: step.uptime_ms,
            since_power_on_ms: firmware.map(|firmware| millis(firmware) + step.uptime_ms),
        };
        Self {
            node: status.name.clone(),
            role: status.role,
            generation: status.generation,
            steps: status.steps.iter().map(step).collect(),
            usage: status.usage,
            facts: status.facts.clone(),
        }
    }

    /// How long after power-on a step was done, or after the kernel's start
    /// where that is all that is known.
    pub fn time(&self, step: Step) -> Option<Duration> {
        let found = self.steps.iter().find(|found| found.step == step)?;
        Some(Duration::from_millis(found.since_power_on_ms.unwrap_or(found.uptime_ms)))
    }
}

/// From power-on to the kernel's start: when the last report came, less how
/// long the kernel had then been running.
fn firmware_time(status: &NodeStatus, powered_on: Option<Timestamp>) -> Option<Duration> {
    let report = status.report.as_ref()?;
    let uptime = SignedDuration::from_millis(i64::try_from(report.uptime_ms).ok()?);
    between(powered_on?, status.last_seen?.checked_sub(uptime).ok()?)
}

impl Summary {
    /// The table of times, heading first; seconds since power-on.
    pub fn table(&self) -> Vec<String> {
        let mut heading = vec!["node".to_owned(), "role".to_owned()];
        heading.extend(Step::ALL.map(|step| step.to_string()));
        heading.extend(["agent cpu", "agent rss"].map(str::to_owned));
        let line = |node: &NodeSummary| {
            let mut cells = vec![node.node.to_string(), node.role.to_string()];
            cells.extend(Step::ALL.map(|step| node.time(step).map_or_else(|| "-".into(), seconds)));
            let usage = |text: fn(&Usage) -> String| node.usage.as_ref().map_or_else(|| "-".into(), text);
            cells.push(usage(|usage| format!("{} ms", usage.cpu_ms)));
            cells.push(usage(|usage| format!("{:.1} MiB", f64::from(kib(usage)) / 1024.0)));
            cells
        };
        columns(&std::iter::once(heading).chain(self.nodes.iter().map(line)).collect::<Vec<_>>())
    }
}

fn kib(usage: &Usage) -> u32 {
    u32::try_from(usage.max_rss_kib).unwrap_or(u32::MAX)
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::view::tests::node_status;
    use kiln_protocol::admin::StepTime;
    use kiln_protocol::api::{Report, StepState};

    fn ready() -> NodeStatus {
        let report = Report {
            boot_id: "b".into(),
            sequence: 9,
            uptime_ms: 30_000,
            step: Step::Ready,
            state: StepState::Done,
            facts: None,
            usage: None,
        };
        let steps = vec![
            StepTime { step: Step::Enrol, uptime_ms: 12_000 },
            StepTime { step: Step::StartK3s, uptime_ms: 28_500 },
        ];
        let usage = Some(Usage { cpu_ms: 140, max_rss_kib: 6_500 });
        let last_seen = Some(Timestamp::from_second(1_045).unwrap());
        NodeStatus { report: Some(report), steps, usage, last_seen, ..node_status("a1") }
    }

    #[test]
    fn firmware_and_boot_loader_count() {
        let node = NodeSummary::of(&ready(), Some(Timestamp::from_second(1_000).unwrap()));
        assert_eq!(node.steps[1].since_power_on_ms, Some(15_000 + 28_500));
        assert_eq!(node.time(Step::StartK3s), Some(Duration::from_millis(43_500)));
        assert_eq!(node.time(Step::Gate), None);
    }

    #[test]
    fn a_later_power_on_says_nothing_about_that_boot() {
        let node = NodeSummary::of(&ready(), Some(Timestamp::from_second(1_040).unwrap()));
        assert_eq!(node.steps[1].since_power_on_ms, None);
        assert_eq!(node.time(Step::StartK3s), Some(Duration::from_millis(28_500)));
    }

    #[test]
    fn the_table_has_a_column_for_each_step() {
        let summary = Summary {
            cluster: "demo".parse().unwrap(),
            incarnation: Incarnation(1),
            kubeconfig: "/k".into(),
            nodes: vec![NodeSummary::of(&ready(), None)],
        };
        let table = summary.table();
        assert!(table[0].contains("start_k3s") && table[0].ends_with("agent rss"), "{}", table[0]);
        assert!(table[1].contains("28.5 s") && table[1].ends_with("140 ms     6.3 MiB"), "{}", table[1]);
    }
}
