//! What is shown of a cluster: one row a node. Pure.

use std::time::Duration;

use jiff::Timestamp;
use kiln_protocol::admin::{ClusterStatus, NodeStatus, RegistryState};
use kiln_protocol::api::{Step, StepState};
use kiln_protocol::{NodeName, Role};
use serde::Serialize;

use crate::provider::PowerState;

/// What stands where nothing is known.
const UNKNOWN: &str = "-";

/// A node's machine, seen from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MachineView {
    /// What is being done with it: `making`, `starting`; none when nothing is.
    pub doing: Option<&'static str>,
    /// Whether it runs; unknown before it was looked at.
    pub power: Option<PowerState>,
    /// When it was last switched on.
    pub powered_on: Option<Timestamp>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its name.
    pub node: NodeName,
    /// Its role.
    pub role: Role,
    /// What its machine does, in a word.
    pub machine: String,
    /// The step it is at; none before its first report.
    pub step: Option<Step>,
    /// How far it is, in words.
    pub state: String,
    /// Whether it has said that it is ready.
    pub ready: bool,
    /// Milliseconds since it was switched on, or those it took to be ready.
    pub since_power_on_ms: Option<u64>,
}

/// The cluster at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Its nodes, in the cluster file's order.
    pub rows: Vec<Row>,
}

impl View {
    /// Of the nodes named, from what the coordinator and the provider know.
    pub fn of<'a>(
        nodes: impl IntoIterator<Item = (&'a NodeName, Role, MachineView)>,
        status: Option<&ClusterStatus>,
        now: Timestamp,
    ) -> Self {
        let row = |(name, role, machine): (&NodeName, Role, MachineView)| {
            row(name, role, &machine, status.and_then(|status| status.node(name)), now)
        };
        Self { rows: nodes.into_iter().map(row).collect() }
    }

    /// Whether every node is ready.
    pub fn all_ready(&self) -> bool {
        self.rows.iter().all(|row| row.ready)
    }
}

fn row(
    name: &NodeName,
    role: Role,
    machine: &MachineView,
    status: Option<&NodeStatus>,
    now: Timestamp,
) -> Row {
    let ready = status.is_some_and(NodeStatus::is_ready);
    let report = status.and_then(|status| status.report.as_ref());
    let reached = status.filter(|_| ready).and_then(|status| ready_at(status, machine.powered_on));
    let on = machine.powered_on.filter(|_| machine.power != Some(PowerState::Off));
    let since = on.and_then(|on| between(on, reached.unwrap_or(now)));
    Row {
        node: name.clone(),
        role,
        machine: match (machine.doing, machine.power) {
            (Some(doing), _) => doing.to_owned(),
            (None, Some(power)) => power.to_string(),
            (None, None) => UNKNOWN.to_owned(),
        },
        step: report.map(|report| report.step),
        state: state_of(status),
        ready,
        since_power_on_ms: since.map(millis),
    }
}

/// When it was ready, if that was since it was last switched on.
fn ready_at(status: &NodeStatus, powered_on: Option<Timestamp>) -> Option<Timestamp> {
    status.ready.filter(|ready| powered_on.is_none_or(|on| *ready >= on))
}

fn state_of(status: Option<&NodeStatus>) -> String {
    let Some(status) = status else { return String::new() };
    let because = |word: &str| match &status.reason {
        Some(reason) => format!("{word}: {reason}"),
        None => word.to_owned(),
    };
    match status.registry {
        RegistryState::Held | RegistryState::Revoked => return because(status.registry.as_str()),
        RegistryState::Expired => return "its ticket expired unused".into(),
        _ if status.is_ready() => return "ready".into(),
        _ => {}
    }
    match status.report.as_ref().map(|report| &report.state) {
        None if status.registry == RegistryState::Planned => "planned".into(),
        None => "waiting for its first word".into(),
        Some(StepState::Running { detail: Some(detail) }) => detail.clone(),
        Some(StepState::Running { detail: None }) => "…".into(),
        Some(StepState::Done) => "done".into(),
        Some(StepState::Failed { error }) => error.to_string(),
    }
}

/// The time from one moment to a later one.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Option<Duration> {
    Duration::try_from(to.duration_since(from)).ok()
}

/// A duration's milliseconds, as they go into JSON.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `m:ss`.
pub(crate) fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// Lines of equally wide columns; the first one is the heading. The last
/// column is as long as it is.
pub(crate) fn columns(lines: &[Vec<String>]) -> Vec<String> {
    let count = lines.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let padded = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(padded).collect()
}

impl View {
    /// The table, heading first.
    pub fn table(&self) -> Vec<String> {
        let heading = ["node", "role", "machine", "since on", "step", "state"].map(str::to_owned).to_vec();
        let cells = |row: &Row| {
            vec![
                row.node.to_string(),
                row.role.to_string(),
                row.machine.clone(),
                row.since_power_on_ms.map_or_else(|| "-".into(), |ms| clock(Duration::from_millis(ms))),
                row.step.map_or("-", Step::as_str).to_owned(),
                row.state.clone(),
            ]
        };
        let lines: Vec<_> = std::iter::once(heading).chain(self.rows.iter().map(cells)).collect();
        columns(&lines)
    }

    /// The rows that say something else than they did `before`; time alone
    /// changes nothing.
    pub fn changed_since<'a>(&'a self, before: &Self) -> Vec<&'a Row> {
        let timeless = |row: &Row| Row { since_power_on_ms: None, ..row.clone() };
        let same = |row: &Row| {
            let was = before.rows.iter().find(|was| was.node == row.node);
            was.is_some_and(|was| timeless(was) == timeless(row))
        };
        self.rows.iter().filter(|row| !same(row) && !row.is_blank()).collect()
    }
}

impl Row {
    /// Whether nothing is known of it yet.
    fn is_blank(&self) -> bool {
        self.machine == UNKNOWN && self.step.is_none() && self.state.is_empty()
    }

    /// The row as one line of a log.
    pub fn sentence(&self) -> String {
        let step = self.step.map(|step| format!(", {step}")).unwrap_or_default();
        let state = if self.state.is_empty() { String::new() } else { format!(": {}", self.state) };
        format!("{}: machine {}{step}{state}", self.node, self.machine)
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
pub(crate) mod tests;
