use super::*;
use kiln_protocol::api::Report;
use kiln_protocol::{ApiError, ErrorClass};

pub(crate) fn node_status(name: &str) -> NodeStatus {
    NodeStatus {
        name: name.parse().unwrap(),
        role: Role::Agent,
        planned: true,
        generation: 1,
        next_generation: 2,
        registry: RegistryState::Issued,
        reason: None,
        key: None,
        rotating: false,
        console: None,
        bound: None,
        passed_gate: None,
        ready: None,
        ticket: None,
        report: None,
        steps: Vec::new(),
        facts: None,
        usage: None,
        last_seen: None,
        connected: false,
        stale: false,
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn report(step: Step, state: StepState) -> Report {
    Report { boot_id: "b".into(), sequence: 1, uptime_ms: 0, step, state, facts: None, usage: None }
}

fn shown(status: &NodeStatus, machine: &MachineView) -> Row {
    row(&status.name, status.role, machine, Some(status), at(100))
}

#[test]
fn a_nodes_way_in_words() {
    let mut node = node_status("a1");
    let machine = MachineView { doing: None, power: Some(PowerState::Running), powered_on: Some(at(59)) };
    assert_eq!(shown(&node, &machine).sentence(), "a1: machine running: waiting for its first word");
    node.registry = RegistryState::Bound;
    node.report =
        Some(report(Step::Gate, StepState::Running { detail: Some("waiting for a server".into()) }));
    let row = shown(&node, &machine);
    assert_eq!(row.sentence(), "a1: machine running, gate: waiting for a server");
    assert_eq!(row.since_power_on_ms, Some(41_000));
    node.ready = Some(at(80));
    node.report = Some(report(Step::Ready, StepState::Done));
    let row = shown(&node, &machine);
    assert_eq!((row.state.as_str(), row.ready, row.since_power_on_ms), ("ready", true, Some(21_000)));
}

#[test]
fn what_needs_the_operator_is_said_before_the_step() {
    let mut node = node_status("a1");
    node.report = Some(report(Step::Enrol, StepState::Running { detail: None }));
    node.registry = RegistryState::Held;
    node.reason = Some("its ticket was used by two keys".into());
    assert_eq!(shown(&node, &MachineView::default()).state, "held: its ticket was used by two keys");
    node.registry = RegistryState::Issued;
    let error = ApiError::new(ErrorClass::Clock, "90 s apart");
    node.report = Some(report(Step::Gate, StepState::Failed { error }));
    assert_eq!(shown(&node, &MachineView::default()).state, "clock: 90 s apart");
}

#[test]
fn columns_are_as_wide_as_their_widest_cell() {
    let line = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
    let lines = columns(&[line(["node", "x", "state"]), line(["k3s-s1", "…", "ready"])]);
    assert_eq!(lines, ["node    x  state", "k3s-s1  …  ready"]);
}

#[test]
fn time_alone_is_no_change() {
    let node = node_status("a1");
    let view = |second| {
        let machine = MachineView { doing: None, power: None, powered_on: Some(at(0)) };
        View { rows: vec![row(&node.name, node.role, &machine, Some(&node), at(second))] }
    };
    assert_ne!(view(1), view(2));
    assert!(view(2).changed_since(&view(1)).is_empty());
    assert_eq!(view(2).changed_since(&View::default()).len(), 1);
}
