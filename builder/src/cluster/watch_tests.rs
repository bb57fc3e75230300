use super::*;
use crate::cluster::view::tests::node_status;
use kiln_protocol::api::{Report, Step};
use kiln_protocol::{ApiError, ErrorClass};

fn running() -> Observed {
    Observed {
        power: PowerState::Running,
        reason: None,
        powered_on: None,
        api: None,
        console_tail: vec!["kiln: [enrol] ticket_unknown".into()],
    }
}

fn failed(class: ErrorClass, heard: i64) -> NodeStatus {
    let state = StepState::Failed { error: ApiError::new(class, "no") };
    let report = Report {
        boot_id: "b".into(),
        sequence: 1,
        uptime_ms: 1,
        step: Step::Enrol,
        state,
        facts: None,
        usage: None,
    };
    let last_seen = Some(Timestamp::from_second(heard).unwrap());
    NodeStatus { report: Some(report), last_seen, ..node_status("a1") }
}

fn now() -> Timestamp {
    Timestamp::from_second(100).unwrap()
}

#[test]
fn a_machine_that_ended_ends_the_wait() {
    let off = Observed { power: PowerState::Off, ..running() };
    assert_eq!(failure(None, &off, now()).as_deref(), Some("its machine went off"));
    let full = Observed { power: PowerState::Stopped, reason: Some("disk full".into()), ..running() };
    assert_eq!(failure(None, &full, now()).as_deref(), Some("its machine stands still: disk full"));
    assert_eq!(failure(None, &running(), now()), None);
}

#[test]
fn only_what_an_operator_must_cure_ends_the_wait() {
    assert!(failure(Some(&failed(ErrorClass::Policy, 101)), &running(), now()).is_some());
    assert_eq!(failure(Some(&failed(ErrorClass::Transient, 101)), &running(), now()), None);
    assert_eq!(failure(Some(&failed(ErrorClass::Clock, 101)), &running(), now()), None);
    // Said before this run began; the cure may have come since.
    assert_eq!(failure(Some(&failed(ErrorClass::Policy, 99)), &running(), now()), None);
}

#[test]
fn a_held_node_says_why() {
    let held = NodeStatus {
        registry: RegistryState::Held,
        reason: Some("two keys used its ticket".into()),
        ..node_status("a1")
    };
    let why = failure(Some(&held), &running(), now()).unwrap();
    assert!(why.contains("two keys") && why.contains("release"), "{why}");
}

#[test]
fn a_timeout_names_every_node_and_shows_its_console() {
    let status = ClusterStatus {
        pin: kiln_protocol::Fingerprint::of_spki(b"c"),
        at: now(),
        live: None,
        nodes: vec![failed(ErrorClass::Transient, 101)],
        stale: None,
        alarms: Vec::new(),
        strangers: Vec::new(),
    };
    let up = |name: &str| NodeUp {
        node: crate::provider::NodeRef { cluster: "c".parse().unwrap(), node: name.parse().unwrap() },
        started: true,
        drift: Vec::new(),
    };
    let (a1, a2) = (up("a1"), up("a2"));
    let text = too_late(&status, &[&(&a1, running()), &(&a2, running())]);
    assert!(text.contains("node a1 fails at enrol: transient: no"), "{text}");
    assert!(text.contains("node a2 never reported") && text.contains("ticket_unknown"), "{text}");
}
