//! Nodes that join a fake coordinator over real TLS, and what may go wrong.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kiln_protocol::api::{self, GateAnswer, Report, Step, StepState};
use kiln_protocol::chores::{CHORES, Chores, ChoresRequest, TokenChange};
use kiln_protocol::config::{Membership, Snapshot};
use kiln_protocol::error::ErrorClass;
use kiln_protocol::{ApiError, Fingerprint, Secret};
use proptest::prelude::*;
use tokio::time::{sleep, timeout};

use super::fakes::{FakeCoordinator, FakeHost, Fault, NO_WAY_OUT, STAMP, incarnation, response};
use super::state::State;
use super::{Node, Outcome, store};
use crate::apply::{k3s, token};
use crate::facts::tests::fake_machine;
use crate::host::Health;
use crate::identity;
use crate::progress::Console;
use crate::progress::status::Status;
use crate::retry::Pace;
use crate::root::{Fuse, Root};
use crate::seed::Search;

const UUID: &str = "0f5e2a3c-1111-2222-3333-444455556666";
const DEADLINE: Duration = Duration::from_secs(20);

fn pace() -> Pace {
    Pace {
        first: Duration::from_millis(2),
        longest: Duration::from_millis(20),
        operator: Duration::from_millis(40),
        look: Duration::from_millis(2),
        k3s: Duration::from_millis(50),
    }
}

/// The disk and console of one machine.
struct Machine {
    dir: tempfile::TempDir,
    root: Root,
    console: Console,
}

impl Machine {
    fn new() -> Self {
        let dir = crate::testing::tempdir().unwrap();
        fake_machine(dir.path(), UUID);
        let path = dir.path().join("console");
        std::fs::write(&path, "").unwrap();
        let root = Root::open(dir.path()).unwrap();
        Self { dir, root, console: Console::to(vec![path]) }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("console")).unwrap()
    }

    fn state(&self) -> State {
        store::load(&self.root).unwrap()
    }

    /// Boots and runs until the node is ready.
    async fn boot(&self, host: &FakeHost<'_>) -> Outcome {
        let node = Node::new(&self.root, host, &self.console, pace());
        let run = timeout(DEADLINE, node.run(self.state())).await;
        run.unwrap_or_else(|_| panic!("never ready; the console says:\n{}", self.said())).unwrap()
    }

    /// Boots and runs until the condition holds; then the power is cut.
    async fn boot_until(&self, host: &FakeHost<'_>, condition: impl Fn() -> bool) {
        let node = Node::new(&self.root, host, &self.console, pace());
        tokio::select! {
            outcome = node.run(self.state()) => panic!("{outcome:?} too early:\n{}", self.said()),
            () = until(condition) => {}
        }
    }
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(DEADLINE, wait).await.is_ok(), "what was waited for never happened");
}

/// Runs a test's future on the kind of runtime the agent uses.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[tokio::test]
async fn a_first_boot_goes_through_every_step_and_tells_of_each() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    assert_eq!(machine.boot(&host).await, Outcome::Ready);

    let changes = host.log.borrow().clone();
    assert_eq!(
        changes,
        ["hostname k3s-s1", "address 10.77.0.11/24", "user ops", "start server", "enable server"]
    );
    assert_eq!(machine.root.read_text("/etc/hostname").unwrap().as_deref(), Some("k3s-s1\n"));
    let script = coordinator.script();
    let done: Vec<Step> = script
        .reports
        .iter()
        .filter(|report| report.state == StepState::Done)
        .map(|report| report.step)
        .collect();
    assert_eq!(done, Step::ALL);
    assert!(script.reports.is_sorted_by_key(|report| report.sequence));
    let last = script.reports.last().unwrap();
    assert!(last.usage.is_some() && last.facts.as_ref().unwrap().smbios_uuid.as_deref() == Some(UUID));

    let said = machine.said();
    let key = identity::load(&machine.root).unwrap().unwrap().fingerprint();
    assert!(said.contains(&format!("{}\r\n", kiln_protocol::console::line(&key))), "{said}");
    assert_eq!(kiln_protocol::console::key_in(&said), Some(key));
    assert!(said.contains("kiln: [ready] k3s-s1 is a server of home\r\n"), "{said}");
    assert!(!said.contains("K10") && !said.contains("kiln1."), "a secret on the console: {said}");
    let status = Status::read(&machine.root).unwrap().to_string();
    assert!(status.contains("k3s-s1 (server of home, generation 1)"), "{status}");
}

#[tokio::test]
async fn a_later_boot_needs_no_coordinator() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    host.reboot();
    host.log.borrow_mut().clear();
    let gone = FakeCoordinator::new().await.0;
    let State::Ready { mut home, incarnation } = machine.state() else { panic!("not ready") };
    home.addresses = vec![gone.address().parse().unwrap()];
    store::save(&machine.root, &State::Ready { home, incarnation }).unwrap();

    let ready = || machine.said().matches("[ready] k3s-s1 is a server").count() == 2;
    machine.boot_until(&host, ready).await;
    assert_eq!(*host.log.borrow(), [""; 0], "nothing is done on a later boot");
}

#[tokio::test]
async fn a_later_boot_is_reported_where_there_is_a_coordinator() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    host.reboot();
    coordinator.script().reports.clear();
    assert_eq!(machine.boot(&host).await, Outcome::Ready);
    let script = coordinator.script();
    assert_eq!(
        script.reports.last().map(|report| (report.step, &report.state)),
        Some((Step::Ready, &StepState::Done))
    );
    assert_eq!(script.gates.len(), 1, "the gate is passed once in a node's life");
}

#[tokio::test]
async fn a_coordinator_that_comes_up_late_is_waited_for_and_told_everything() {
    let machine = Machine::new();
    let (coordinator, listener) = FakeCoordinator::new().await;
    let address = listener.local_addr().unwrap();
    drop(listener);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    let late = async {
        until(|| machine.said().contains("[enrol] transient")).await;
        coordinator.listen(tokio::net::TcpListener::bind(address).await.unwrap());
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), late);
    assert_eq!(outcome, Outcome::Ready);
    assert!(machine.said().contains("Connection refused"), "{}", machine.said());
    let script = coordinator.script();
    let done = script.reports.iter().filter(|report| report.state == StepState::Done).count();
    assert_eq!(done, Step::ALL.len(), "steps before the contact are told too");
}

#[tokio::test]
async fn another_coordinators_key_is_named_and_told_nothing() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let wrong = coordinator.seed_with_pin(Fingerprint::of_spki(b"another"));
    let host = FakeHost::new(&machine.root, wrong);
    machine.boot_until(&host, || machine.said().contains("not the pinned")).await;
    let said = machine.said();
    assert!(said.contains("[enrol] policy") && said.contains("another coordinator answers"), "{said}");
    assert!(coordinator.script().enrolled.is_empty());
}

#[tokio::test]
async fn another_seed_cures_a_node_that_is_not_bound_yet() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed_with_pin(Fingerprint::of_spki(b"another")));
    let cure = async {
        until(|| machine.said().contains("not the pinned")).await;
        host.seed.replace(Search::Found(Box::new(coordinator.seed()), "a volume"));
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), cure);
    assert_eq!(outcome, Outcome::Ready);
}

#[tokio::test]
async fn refusals_are_said_and_tried_again_until_an_operator_has_cured_them() {
    for class in
        [ErrorClass::TicketExpired, ErrorClass::TicketContested, ErrorClass::Held, ErrorClass::Pending]
    {
        let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
        let host = FakeHost::new(&machine.root, coordinator.seed());
        let refusal = ApiError::new(class, "no").hint("ask the operator");
        coordinator
            .script()
            .faults
            .extend([(api::ENROL, Fault::Refuse(refusal.clone())), (api::ENROL, Fault::Refuse(refusal))]);
        assert_eq!(machine.boot(&host).await, Outcome::Ready);
        let said = machine.said();
        assert!(said.contains(&format!("[enrol] {class}: no (ask the operator)")), "{said}");
        assert_eq!(coordinator.script().enrolled.len(), 1);
    }
}

#[tokio::test]
async fn whatever_else_is_answered_is_taken_for_a_passing_trouble() {
    let portal = "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n<html></html>";
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{\"cluster\":\"ho";
    let faults = [Fault::Lose, Fault::Raw(cut), Fault::Raw("\0\0\0\0"), Fault::Raw(portal)];
    for path in [api::ENROL, api::CONFIG, api::GATE] {
        let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
        let host = FakeHost::new(&machine.root, coordinator.seed());
        coordinator.script().faults.extend(faults.iter().map(|fault| (path, fault.clone())));
        assert_eq!(machine.boot(&host).await, Outcome::Ready);
        assert_eq!(host.log.borrow().iter().filter(|line| *line == "start server").count(), 1);
        assert!(coordinator.script().faults.is_empty());
    }
}

#[tokio::test]
async fn a_machine_without_a_ticket_shows_its_key_and_waits_for_approval() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.contact());
    let approve = async {
        until(|| machine.said().matches("[enrol] pending: no ticket (coordinator approve)").count() > 0)
            .await;
        let key = kiln_protocol::console::key_in(&machine.said()).unwrap();
        assert_eq!(identity::load(&machine.root).unwrap().unwrap().fingerprint(), key);
        // Its beacon says what it waits for.
        until(|| !coordinator.script().beacons.is_empty()).await;
        let StepState::Failed { error } = coordinator.script().beacons[0].1.state.clone() else { panic!() };
        assert_eq!(error.class, ErrorClass::Pending);
        coordinator.script().approved.push(key);
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), approve);
    assert_eq!(outcome, Outcome::Ready);
}

#[tokio::test]
async fn a_ticket_that_comes_later_ends_the_wait_for_approval() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.contact());
    let cure = async {
        until(|| machine.said().contains("[enrol] pending")).await;
        host.seed.replace(Search::Found(Box::new(coordinator.seed()), "a volume"));
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), cure);
    assert_eq!(outcome, Outcome::Ready);
}

#[tokio::test]
async fn a_server_whose_console_nobody_has_confirmed_yet_asks_again() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    let pending = || Fault::Refuse(ApiError::new(ErrorClass::Pending, "not confirmed").retry_after(1));
    coordinator.script().faults.extend((0..3).map(|_| (api::CONFIG, pending())));
    assert_eq!(machine.boot(&host).await, Outcome::Ready);
    // The line may have been missed or cut: it is written again.
    let key = identity::load(&machine.root).unwrap().unwrap().fingerprint();
    let lines = machine.said().matches(&kiln_protocol::console::line(&key)).count();
    assert!(lines >= 4, "{lines}: {}", machine.said());
}

#[tokio::test]
async fn a_refusal_before_enrolment_reaches_the_coordinator_as_a_beacon_whatever_its_class() {
    for class in [ErrorClass::TicketUnknown, ErrorClass::Transient] {
        let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
        let host = FakeHost::new(&machine.root, coordinator.seed());
        let refusal = || Fault::Refuse(ApiError::new(class, "no"));
        coordinator.script().faults.extend((0..1000).map(|_| (api::ENROL, refusal())));
        machine
            .boot_until(&host, || {
                let script = coordinator.script();
                let failed =
                    |state: &StepState| matches!(state, StepState::Failed { error } if error.class == class);
                let told = script.beacons.iter().any(|(_, report)| failed(&report.state));
                // Enrolment stands in the way of everything else.
                drop(script);
                told
            })
            .await;
    }
}

#[tokio::test]
async fn a_captive_portal_is_named_as_such() {
    let machine = Machine::new();
    let (coordinator, listener) = FakeCoordinator::new().await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let page = b"HTTP/1.1 302 Found\r\nlocation: http://login.example/\r\ncontent-length: 0\r\n\r\n";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, page).await;
        }
    });
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot_until(&host, || machine.said().contains("captive portal")).await;
    let said = machine.said();
    assert!(said.contains("[enrol] transient") && said.contains("does not speak TLS"), "{said}");
}

#[tokio::test]
async fn a_nodes_key_is_not_taken_for_the_coordinators() {
    // Another node of the same cluster answers, with the key it enrolled with.
    let (machine, node) = (Machine::new(), FakeCoordinator::started().await);
    let coordinator = FakeCoordinator::started().await;
    let pin = coordinator.seed().claim.pin();
    let host = FakeHost::new(&machine.root, node.seed_with_pin(pin));
    machine.boot_until(&host, || machine.said().contains("not the pinned")).await;
    assert!(node.script().enrolled.is_empty() && node.script().beacons.is_empty());
}

#[tokio::test]
async fn a_clock_that_jumps_meanwhile_is_said_and_the_node_goes_on() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    // The coordinator compares the clocks; a time server sets this one right.
    let off = || Fault::Refuse(ApiError::new(ErrorClass::Clock, "the clocks differ by ten years"));
    coordinator.script().faults.extend((0..5).map(|_| (api::GATE, off())));
    assert_eq!(machine.boot(&host).await, Outcome::Ready);
    assert!(machine.said().contains("[gate] clock: the clocks differ"), "{}", machine.said());
    assert_eq!(host.log.borrow().iter().filter(|line| *line == "start server").count(), 1);
}

#[tokio::test]
async fn first_settings_are_applied_before_any_contact() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::new().await.0);
    let mut seed = coordinator.seed();
    seed.hostname = Some("early".parse().unwrap());
    seed.user = Some(super::fakes::config().users.remove(0));
    seed.network = Some(super::fakes::config().network.remove(0));
    let host = FakeHost::new(&machine.root, seed);
    machine.boot_until(&host, || machine.said().contains("[enrol] transient")).await;
    assert_eq!(*host.log.borrow(), ["hostname early", "user ops", "address 10.77.0.11/24"]);
}

#[tokio::test]
async fn no_seed_is_waited_for_and_a_broken_one_is_named() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    host.seed.replace(Search::Nothing(Vec::new()));
    let find = async {
        until(|| machine.said().contains("[seed] no seed yet")).await;
        host.seed.replace(Search::Nothing(vec!["the cidata volume: the ticket is truncated".to_owned()]));
        until(|| machine.said().contains("[seed] format: the cidata volume: the ticket is truncated")).await;
        host.seed.replace(Search::Found(Box::new(coordinator.seed()), "a volume"));
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), find);
    assert_eq!(outcome, Outcome::Ready);
}

#[tokio::test]
async fn the_gate_is_asked_until_it_opens_and_another_life_is_configured_anew() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    let wait = || GateAnswer::Wait { reason: "waiting for the first server".to_owned(), retry_after: 0 };
    coordinator.script().gate.extend((0..5).map(|_| wait()));
    let another_life = async {
        until(|| !coordinator.script().gates.is_empty()).await;
        coordinator.script().config.incarnation = incarnation(2);
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), another_life);
    assert_eq!(outcome, Outcome::Ready);
    assert!(machine.said().contains("[gate] waiting for the first server"), "{}", machine.said());
    let script = coordinator.script();
    assert_eq!(script.gates.last().unwrap().incarnation, incarnation(2));
    let State::Ready { incarnation: kept, .. } = machine.state() else { panic!("not ready") };
    assert_eq!(kept, incarnation(2));
}

#[tokio::test]
async fn a_k3s_that_falls_down_is_reported_and_watched_on() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    host.health.borrow_mut().extend([
        Health::Waiting("k3s.service is starting".to_owned()),
        Health::Down("its log ends: no space left".to_owned()),
        Health::Down("its log ends: no space left".to_owned()),
    ]);
    assert_eq!(machine.boot(&host).await, Outcome::Ready);
    let said = machine.said();
    assert!(said.contains("[start_k3s] transient: its log ends: no space left"), "{said}");
}

#[tokio::test]
async fn a_k3s_that_takes_too_long_is_a_failure_that_is_watched_on() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    let slow = Health::Waiting("k3s.service is starting".to_owned());
    host.health.borrow_mut().extend(std::iter::repeat_n(slow, 60));
    assert_eq!(machine.boot(&host).await, Outcome::Ready);
    assert!(machine.said().contains("k3s is not up after"), "{}", machine.said());
}

#[tokio::test]
async fn another_k3s_than_the_clusters_is_never_configured() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    host.k3s.replace("v1.29.0+k3s1".parse().unwrap());
    machine.boot_until(&host, || machine.said().contains("[configure] policy")).await;
    assert!(machine.said().contains("wants k3s v1.28.5+k3s1, this image has v1.29.0+k3s1"));
    assert!(machine.root.meta(k3s::CONFIG).unwrap().is_none());
}

#[tokio::test]
async fn a_configuration_for_another_node_is_refused() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    let mut other = super::fakes::config();
    other.node = "k3s-s2".parse().unwrap();
    let other = response(200, &serde_json::to_string(&other).unwrap());
    coordinator.script().faults.push_back((api::CONFIG, Fault::Raw(other.leak())));
    assert_eq!(machine.boot(&host).await, Outcome::Ready);
    assert!(machine.said().contains("the configuration is for k3s-s2"), "{}", machine.said());
    assert!(!host.log.borrow().contains(&"hostname k3s-s2".to_owned()));
}

#[tokio::test]
async fn a_copied_disk_says_so_and_does_not_use_its_key() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    fake_machine(machine.dir.path(), "99999999-1111-2222-3333-444455556666");
    host.reboot();
    let reports = coordinator.script().reports.len();
    assert_eq!(machine.boot(&host).await, Outcome::Cloned);
    assert_eq!(coordinator.script().reports.len(), reports, "the key was used");
    let said = machine.said();
    assert!(said.contains("cloned: this disk is a copy") && said.contains("remove /var/lib/kiln"), "{said}");
    // It is told with a key that is nobody's, so that an operator sees it from afar.
    let script = coordinator.script();
    let [(key, report)] = &script.beacons[..] else { panic!("{:?}", script.beacons) };
    assert_ne!(Some(*key), script.key);
    let StepState::Failed { error } = &report.state else { panic!("{report:?}") };
    assert_eq!(error.class, ErrorClass::Cloned);
    assert!(error.message.contains("k3s-s1"), "{error}");
    assert_eq!(script.alarms, [""; 0]);
}

#[tokio::test]
async fn an_operator_who_wants_another_key_gets_it_at_the_next_contact() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    let before = coordinator.script().key;
    coordinator.script().rotate = true;
    host.reboot();
    machine.boot(&host).await;
    assert_ne!(coordinator.script().key, before);
    let shown = coordinator.script().shown.map(|stamp| stamp.reach);
    assert_eq!(shown, Some(STAMP), "the newest stamp goes with it");
    check_ready(&machine, &host, &coordinator, "after the rotation");
    assert!(machine.said().contains("the node's key is now"), "{}", machine.said());
    host.reboot();
    machine.boot(&host).await;
    check_ready(&machine, &host, &coordinator, "with the new key");
    assert_eq!(coordinator.script().former.len(), 1);
}

#[tokio::test]
async fn a_node_that_is_connected_replaces_its_key_when_it_is_asked_to() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    follows(&machine, &host, async {
        until(|| machine.said().contains("[ready]")).await;
        let before = coordinator.script().key;
        coordinator.script().rotate = true;
        until(|| coordinator.script().key != before && !coordinator.script().rotate).await;
        // It goes on with the new one.
        let new = coordinator.script().key;
        until(|| machine.state().me().map(|me| me.key) == new).await;
        coordinator.script().config.users.clear();
        until(|| machine.said().contains("has new logins")).await;
    })
    .await;
    assert_eq!(coordinator.script().former.len(), 1);
    assert_eq!(coordinator.script().alarms, [""; 0]);
}

#[tokio::test]
async fn a_key_is_replaced_on_the_way_to_readiness_too() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    coordinator.script().rotate = true;
    coordinator.script().faults.extend([(api::ROTATE, Fault::Lose), (api::ROTATE, Fault::Lose)]);
    machine.boot(&host).await;
    check_ready(&machine, &host, &coordinator, "asked before the gate");
    assert_eq!(coordinator.script().former.len(), 1);
}

#[test]
fn a_power_cut_anywhere_in_a_rotation_is_survived() {
    for steps in 0.. {
        let finished = run(async {
            let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
            let host = FakeHost::new(&machine.root, coordinator.seed());
            machine.boot(&host).await;
            coordinator.script().rotate = true;
            if steps % 2 == 0 {
                coordinator.script().faults.push_back((api::ROTATE, Fault::Lose));
            }
            host.reboot();
            let fuse = Fuse::after(steps);
            let node = Node::new(&machine.root, &host, &machine.console, pace());
            tokio::select! {
                outcome = node.run(machine.state()) => assert_eq!(outcome.unwrap(), Outcome::Ready),
                () = until(|| fuse.is_blown()) => {}
            }
            let blown = fuse.has_blown();
            for _ in 0..2 {
                host.reboot();
                machine.boot(&host).await;
            }
            check_ready(&machine, &host, &coordinator, &format!("cut at {steps}"));
            assert_eq!(coordinator.script().former.len(), 1, "cut at {steps}");
            !blown
        });
        if finished {
            assert!(steps > 10, "the fuse was hardly in the way: {steps}");
            return;
        }
    }
}

#[tokio::test]
async fn a_coordinator_with_a_new_key_is_believed_by_the_recovery_keys_word_alone() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    // At the same address: first an impostor with a word of his own.
    let impostor = coordinator.succeeded_by(&kiln_protocol::recovery::RecoverySeed::generate()).await;
    host.reboot();
    let State::Ready { mut home, incarnation } = machine.state() else { panic!("not ready") };
    home.addresses = vec![impostor.address().parse().unwrap()];
    store::save(&machine.root, &State::Ready { home: home.clone(), incarnation }).unwrap();
    machine.boot(&host).await;
    assert!(impostor.handshakes() > 0, "a ready node needs no coordinator, but it looked for one");
    assert!(impostor.script().reports.is_empty() && impostor.script().beacons.is_empty());
    assert_eq!(impostor.script().turn, coordinator.script().turn, "it was told nothing");
    // Then the coordinator with its new key.
    let recovery = coordinator.script().recovery.clone();
    let successor = coordinator.succeeded_by(&recovery).await;
    home.addresses = vec![successor.address().parse().unwrap()];
    store::save(&machine.root, &State::Ready { home, incarnation }).unwrap();
    machine.boot(&host).await;
    assert_eq!(successor.script().reports.last().map(|report| report.step), Some(Step::Ready));
    assert_eq!(successor.script().alarms, [""; 0]);
    // And it is remembered: the old one is an impostor from now on.
    let bond = crate::bond::Bond::load(&machine.root).unwrap();
    assert_eq!(bond.trust(Fingerprint::of_spki(b"old"), None).pin, successor.pin());
}

/// An address behind which one coordinator or another is.
async fn junction(to: Arc<Mutex<String>>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let target = to.lock().unwrap().clone();
            tokio::spawn(async move {
                let mut to = tokio::net::TcpStream::connect(target).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn what_another_coordinator_may_not_hear_is_kept_for_the_right_one() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    let told = coordinator.script().reports.len();
    let impostor = FakeCoordinator::started().await;
    let way = Arc::new(Mutex::new(impostor.address().to_owned()));
    let State::Ready { mut home, incarnation } = machine.state() else { panic!("not ready") };
    home.addresses = vec![junction(way.clone()).await.parse().unwrap()];
    store::save(&machine.root, &State::Ready { home, incarnation }).unwrap();
    host.reboot();
    let node = Node::new(&machine.root, &host, &machine.console, pace());
    let outcome = timeout(DEADLINE, node.run(machine.state())).await.expect("it waits for ever");
    assert_eq!(outcome.unwrap(), Outcome::Ready, "another coordinator holds no node up");
    let right_again = async {
        until(|| machine.said().contains("[ready] policy")).await;
        assert!(impostor.script().reports.is_empty() && impostor.script().beacons.is_empty());
        assert_eq!(coordinator.script().reports.len(), told);
        *way.lock().unwrap() = coordinator.address().to_owned();
        let done = |report: &Report| report.step == Step::Ready && report.state == StepState::Done;
        until(|| coordinator.script().reports[told..].iter().any(done)).await;
    };
    tokio::select! {
        () = node.follow(machine.state()) => panic!("it stopped following"),
        () = right_again => {}
    }
    assert_eq!(coordinator.script().alarms, [""; 0]);
}

/// A node that is ready and follows a fake coordinator until `story` is told.
async fn follows(machine: &Machine, host: &FakeHost<'_>, story: impl Future<Output = ()>) {
    machine.boot(host).await;
    host.log.borrow_mut().clear();
    let node = Node::new(&machine.root, host, &machine.console, pace());
    tokio::select! {
        () = node.follow(machine.state()) => panic!("it stopped following:\n{}", machine.said()),
        () = story => {}
    }
}

fn key(comment: &str) -> kiln_protocol::names::SshPublicKey {
    format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq {comment}").parse().unwrap()
}

#[tokio::test]
async fn a_ready_node_follows_who_may_log_in() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    follows(&machine, &host, async {
        coordinator.script().config.users[0].authorized_keys = vec![key("new")];
        until(|| machine.said().contains("[ready] k3s-s1 has new logins")).await;
        coordinator.script().config.users.clear();
        until(|| host.log.borrow().len() == 3).await;
    })
    .await;
    assert_eq!(*host.log.borrow(), ["user ops", "user ops loses 1", "user ops loses 1"]);
    assert!(host.started.get() && host.enabled.get(), "k3s is left alone");
}

#[tokio::test]
async fn what_changed_while_the_node_was_off_is_made_so_when_it_is_on_again() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    coordinator.script().config.users[0].authorized_keys.push(key("new"));
    host.reboot();
    follows(&machine, &host, until(|| machine.said().contains("has new logins"))).await;
    assert_eq!(*host.log.borrow(), ["user ops"]);
}

#[tokio::test]
async fn a_network_that_cuts_the_node_off_is_taken_back() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let mut host = FakeHost::new(&machine.root, coordinator.seed());
    host.cut_off = coordinator.cut_off.clone();
    follows(&machine, &host, async {
        coordinator.script().config.network[0].gateway = Some(NO_WAY_OUT);
        until(|| machine.said().contains("[ready] policy: the new network settings were taken back")).await;
        let good = "10.77.0.1".parse().unwrap();
        coordinator.script().config.network[0].gateway = Some(good);
        until(|| machine.said().contains("has new network")).await;
    })
    .await;
    let wanted = [
        "address 10.77.0.11/24 by 10.77.0.254",
        "address 10.77.0.11/24",
        "address 10.77.0.11/24 by 10.77.0.1",
    ];
    assert_eq!(*host.log.borrow(), wanted);
}

#[tokio::test]
async fn a_power_cut_before_a_network_has_proven_itself_is_no_way_to_keep_it() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let mut host = FakeHost::new(&machine.root, coordinator.seed());
    host.cut_off = coordinator.cut_off.clone();
    follows(&machine, &host, async {
        coordinator.script().config.network[0].gateway = Some(NO_WAY_OUT);
        until(|| host.log.borrow().len() == 1).await;
    })
    .await;
    coordinator.cut_off.store(false, std::sync::atomic::Ordering::Relaxed);
    host.reboot();
    follows(&machine, &host, until(|| machine.said().contains("were taken back"))).await;
    assert_eq!(
        host.log.borrow().last().map(String::as_str),
        Some("address 10.77.0.11/24"),
        "{:?}",
        host.log.borrow()
    );
}

#[tokio::test]
async fn what_k3s_was_started_with_is_compared_and_left_alone() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    let before = machine.root.read_text(k3s::CONFIG).unwrap();
    follows(&machine, &host, async {
        coordinator.script().config.k3s.tls_san = vec!["k3s.example".parse().unwrap()];
        until(|| machine.said().contains("[ready] k3s was started with another tls-san")).await;
        // The operator is told, too.
        let tells = |state: &StepState| {
            matches!(state, StepState::Running { detail: Some(detail) } if detail.contains("tls-san"))
        };
        until(|| coordinator.script().reports.iter().any(|report| tells(&report.state))).await;
    })
    .await;
    assert_eq!(machine.root.read_text(k3s::CONFIG).unwrap(), before);
}

#[tokio::test]
async fn a_held_node_says_so_once_and_goes_on_when_it_is_released() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    let held = || (api::CONFIG, Fault::Refuse(ApiError::new(ErrorClass::Held, "two machines")));
    coordinator.script().faults.extend([held(), held(), held()]);
    follows(&machine, &host, async {
        until(|| machine.said().contains("[ready] k3s-s1 follows its configuration")).await;
    })
    .await;
    assert_eq!(machine.said().matches("[ready] held: two machines").count(), 1, "{}", machine.said());
    assert_eq!(*host.log.borrow(), [""; 0]);
}

#[tokio::test]
async fn an_absent_coordinator_is_no_trouble_of_a_ready_node() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    let said = machine.said();
    coordinator.script().faults.extend(std::iter::repeat_n((api::CONFIG, Fault::Lose), 5));
    follows(&machine, &host, async {
        until(|| coordinator.script().faults.is_empty()).await;
        coordinator.script().config.users[0].authorized_keys.push(key("new"));
        until(|| machine.said().contains("has new logins")).await;
    })
    .await;
    assert!(!machine.said()[said.len()..].contains("transient"), "{}", machine.said());
}

/// What must hold whenever a node has become ready, whatever happened before.
fn check_ready(machine: &Machine, host: &FakeHost<'_>, coordinator: &FakeCoordinator, when: &str) {
    assert!(matches!(machine.state(), State::Ready { .. }), "{when}");
    assert!(host.enabled.get(), "{when}");
    let script = coordinator.script();
    assert!(script.enrolled.iter().all(|key| *key == script.enrolled[0]), "a second key was made: {when}");
    assert_eq!(script.alarms, [""; 0], "{when}");
    let key = identity::load(&machine.root).unwrap().map(|key| key.fingerprint());
    assert_eq!(key, script.key, "{when}");
    assert_eq!(machine.state().me().map(|me| me.key), script.key, "{when}");
    let config = machine.root.read_text(k3s::CONFIG).unwrap().unwrap();
    assert!(config.contains("\"node-name\": \"k3s-s1\""), "{when}: {config}");
}

#[test]
fn a_power_cut_between_any_two_writes_is_survived() {
    for steps in 0.. {
        let finished = run(async {
            let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
            let host = FakeHost::new(&machine.root, coordinator.seed());
            let fuse = Fuse::after(steps);
            let node = Node::new(&machine.root, &host, &machine.console, pace());
            tokio::select! {
                outcome = node.run(State::Seed) => assert_eq!(outcome.unwrap(), Outcome::Ready),
                () = until(|| fuse.is_blown()) => {}
            }
            if !fuse.has_blown() {
                return true;
            }
            host.reboot();
            machine.boot(&host).await;
            check_ready(&machine, &host, &coordinator, &format!("cut at {steps}"));
            false
        });
        if finished {
            assert!(steps > 80, "the fuse was hardly in the way: {steps}");
            return;
        }
    }
}

fn chores(text: &str) -> Chores {
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn a_ready_server_does_chores_and_tells_what_was_done() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    host.log.borrow_mut().clear();
    let token = r#"{"make_tokens":[{"id":"00000a","secret":"0123456789abcdef","node":"a1"}]}"#;
    let delete = r#"{"delete_tokens":["00000b"],"delete_nodes":["a2","s2"],"list_members":true}"#;
    coordinator.script().chores.extend([chores(token), chores(delete)]);
    coordinator.script().faults.push_back((CHORES, Fault::Lose));
    let node = Node::new(&machine.root, &host, &machine.console, pace());
    let state = machine.state();
    tokio::select! {
        () = node.tend(&state) => panic!("a server tends for ever"),
        () = until(|| coordinator.script().chores_done.len() > 3) => {}
    }
    let done: Vec<_> = coordinator.script().chores_done.iter().map(|request| request.done.clone()).collect();
    let told = done.iter().find(|done| !done.nodes_deleted.is_empty()).unwrap();
    assert_eq!(told.tokens_deleted, ["00000b".parse().unwrap()]);
    assert_eq!(told.members.as_ref().unwrap()[0].name, "s1-0badcafe");
    let log = host.log.borrow().join("\n");
    assert!(log.contains("--namespace=kube-system bootstrap-token-00000b"), "{log}");
    assert!(log.contains("kubectl delete --ignore-not-found --timeout=20s node a2 s2"), "{log}");
}

#[tokio::test]
async fn join_tokens_reach_kubectl_over_its_standard_input_only() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    let token = r#"{"make_tokens":[{"id":"00000a","secret":"0123456789abcdef","node":"a1"}]}"#;
    host.kubectl_error.replace(Some("kubectl: the API server is not up".to_owned()));
    coordinator.script().chores.push_back(chores(token));
    let node = Node::new(&machine.root, &host, &machine.console, pace());
    let failed = || coordinator.script().chores_done.iter().any(|request| request.done.failure.is_some());
    let made = || coordinator.script().chores_done.iter().any(|request| !request.done.tokens_made.is_empty());
    let state = machine.state();
    tokio::select! {
        () = node.tend(&state) => panic!("a server tends for ever"),
        () = async {
            until(failed).await;
            host.kubectl_error.replace(None);
            coordinator.script().chores.push_back(chores(token));
            until(made).await;
        } => {}
    }
    let fed = host.fed.borrow();
    let secret: serde_json::Value = serde_json::from_str(fed.last().unwrap()).unwrap();
    let item = &secret["items"][0];
    assert_eq!(item["metadata"]["name"], "bootstrap-token-00000a");
    assert_eq!(item["type"], "bootstrap.kubernetes.io/token");
    assert_eq!(item["stringData"]["token-secret"], "0123456789abcdef");
    assert!(!host.log.borrow().join("\n").contains("0123456789abcdef"), "a secret in a command line");
}

fn new_token() -> Secret {
    Secret::new("K10aa::server:new").unwrap()
}

fn token_chore() -> Chores {
    Chores { change_token: Some(TokenChange { serial: 1, token: new_token() }), ..Chores::default() }
}

/// A node that is ready and does chores until `story` is told.
async fn tends(machine: &Machine, host: &FakeHost<'_>, story: impl Future<Output = ()>) {
    let node = Node::new(&machine.root, host, &machine.console, pace());
    let state = machine.state();
    tokio::select! {
        () = node.tend(&state) => panic!("it stopped tending"),
        () = story => {}
    }
}

#[tokio::test]
async fn a_server_gives_k3s_another_token_and_says_so_once_that_is_certain() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    // k3s takes it, and its answer is lost: it is asked again.
    host.lose_token_answer.set(true);
    coordinator.script().chores.extend([token_chore(), token_chore()]);
    let done =
        || coordinator.script().chores_done.iter().any(|request| request.done.token_changed == Some(1));
    tends(&machine, &host, until(done)).await;
    assert_eq!(*host.datastore_token.borrow(), Some(new_token()));
    assert_eq!(token::present(&machine.root).unwrap(), Some(new_token()));
    let failed =
        |request: &ChoresRequest| request.done.failure.as_ref().is_some_and(|f| f.contains("in time"));
    assert!(coordinator.script().chores_done.iter().any(failed));
    let said = machine.said();
    assert!(!said.contains("server:new"), "{said}");
    // The coordinator may not have heard: its configuration is no way back.
    host.reboot();
    follows(&machine, &host, async {
        coordinator.script().config.users.clear();
        until(|| machine.said().contains("has new logins")).await;
    })
    .await;
    assert_eq!(token::present(&machine.root).unwrap(), Some(new_token()));
}

#[test]
fn a_power_cut_anywhere_in_a_rotation_of_the_token_is_survived() {
    for steps in 0.. {
        let finished = run(async {
            let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
            let host = FakeHost::new(&machine.root, coordinator.seed());
            machine.boot(&host).await;
            coordinator.script().chores.push_back(token_chore());
            let told = || {
                coordinator.script().chores_done.iter().any(|request| request.done.token_changed == Some(1))
            };
            let fuse = Fuse::after(steps);
            tends(&machine, &host, until(|| fuse.is_blown() || told())).await;
            if !fuse.has_blown() {
                return true;
            }
            // It comes up without the coordinator's help, under whichever token it is.
            host.reboot();
            machine.boot(&host).await;
            check_ready(&machine, &host, &coordinator, &format!("cut at {steps}"));
            coordinator.script().chores.push_back(token_chore());
            tends(&machine, &host, until(told)).await;
            assert_eq!(*host.datastore_token.borrow(), Some(new_token()), "cut at {steps}");
            assert_eq!(token::present(&machine.root).unwrap(), Some(new_token()), "cut at {steps}");
            false
        });
        if finished {
            assert!(steps > 2, "nothing was written");
            return;
        }
    }
}

#[tokio::test]
async fn a_server_whose_token_was_rotated_by_another_gives_it_to_its_own_k3s() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    let rotated = || {
        let mut script = coordinator.script();
        script.config.k3s.token_serial = 1;
        let Membership::FirstServer { token, .. } = &mut script.config.k3s.membership else { panic!() };
        *token = new_token();
    };
    follows(&machine, &host, async {
        // Its k3s does not answer at first.
        let before = host.datastore_token.take();
        rotated();
        until(|| machine.said().contains("k3s has not taken the new token yet")).await;
        host.datastore_token.replace(before);
        until(|| machine.said().contains("has new token")).await;
    })
    .await;
    assert_eq!(*host.datastore_token.borrow(), Some(new_token()));
    assert_eq!(token::present(&machine.root).unwrap(), Some(new_token()));
}

#[tokio::test]
async fn a_server_that_was_off_while_the_token_was_rotated_comes_up_with_the_new_one() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    host.datastore_token.replace(Some(new_token()));
    {
        let mut script = coordinator.script();
        script.config.k3s.token_serial = 1;
        let Membership::FirstServer { token, .. } = &mut script.config.k3s.membership else { panic!() };
        *token = new_token();
    }
    host.reboot();
    machine.boot(&host).await;
    check_ready(&machine, &host, &coordinator, "with the new token");
    assert!(machine.said().contains("k3s finds another token at its next start"), "{}", machine.said());
}

#[tokio::test]
async fn a_token_that_was_rotated_while_a_node_waited_at_the_gate_is_fetched_before_k3s_starts() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    coordinator.script().gate.extend([wait_at_the_gate(), wait_at_the_gate()]);
    host.datastore_token.replace(Some(new_token()));
    let rotate = async {
        until(|| !coordinator.script().gates.is_empty()).await;
        let mut script = coordinator.script();
        script.config.k3s.token_serial = 1;
        let Membership::FirstServer { token, .. } = &mut script.config.k3s.membership else { panic!() };
        *token = new_token();
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), rotate);
    assert_eq!(outcome, Outcome::Ready);
    assert!(!machine.said().contains("another token at its next start"), "{}", machine.said());
}

#[tokio::test]
async fn an_agent_or_a_node_that_is_not_ready_tends_nothing() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let member = r#"{"kind": "agent", "server": "10.77.0.11:6443", "token": "K10aa::00000a.b"}"#;
    coordinator.script().config.k3s.membership = serde_json::from_str(member).unwrap();
    let host = FakeHost::new(&machine.root, coordinator.seed());
    let node = Node::new(&machine.root, &host, &machine.console, pace());
    node.tend(&machine.state()).await;
    machine.boot(&host).await;
    node.tend(&machine.state()).await;
    assert!(coordinator.script().chores_done.is_empty());
}

#[tokio::test]
async fn a_datastore_is_in_place_before_k3s_starts_and_only_whole() {
    use sha2::Digest as _;
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let data = b"SQLite format 3 and the rest of it";
    let sha256 = Fingerprint::from_bytes(sha2::Sha256::digest(data).into());
    {
        let script = &mut *coordinator.script();
        let Membership::FirstServer { restore, .. } = &mut script.config.k3s.membership else { panic!() };
        *restore = Some(Snapshot { size: data.len() as u64, sha256 });
        // At first another file is there.
        script.datastore = b"SQLite format 3 and the rest of IT".to_vec();
    }
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot_until(&host, || machine.said().contains("changed while it was fetched")).await;
    assert!(machine.root.meta(k3s::CONFIG).unwrap().is_none());
    coordinator.script().datastore = data.to_vec();
    for _ in 0..2 {
        // The power is cut when all is in place: that is done again, and k3s
        // has not run.
        coordinator.script().gate.extend(std::iter::repeat_n(wait_at_the_gate(), 1000));
        machine.boot_until(&host, || machine.root.meta(k3s::CONFIG).unwrap().is_some()).await;
        let State::Gate { home, .. } = machine.state() else { continue };
        store::save(&machine.root, &State::Configure { home }).unwrap();
    }
    coordinator.script().gate.clear();
    machine.boot(&host).await;
    let path = "/var/lib/rancher/k3s/server/db/state.db";
    assert_eq!(machine.root.read(path).unwrap().unwrap(), data);
    assert_eq!(machine.root.meta(path).unwrap().unwrap().mode, 0o600);
}

fn wait_at_the_gate() -> GateAnswer {
    GateAnswer::Wait { reason: "a test".to_owned(), retry_after: 1 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Lost answers, refusals and power cuts in any order: an honest node ends
    /// up joined, with the one key it made.
    #[test]
    fn an_honest_node_always_ends_up_joined(
        faults in proptest::collection::vec((0..6usize, 0..4usize), 0..12),
        cuts in proptest::collection::vec(0..160u32, 0..5),
        rotate: bool,
    ) {
        run(async {
            let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
            let host = FakeHost::new(&machine.root, coordinator.seed());
            for (path, fault) in faults {
                let path = [api::ENROL, api::CONFIG, api::GATE, api::REPORT, api::OPEN, api::ROTATE][path];
                let fault = match fault {
                    0 => Fault::Lose,
                    1 => Fault::Raw("HTTP/1.1 500 X\r\ncontent-length: 3\r\n\r\n{}"),
                    2 => Fault::Refuse(ApiError::new(ErrorClass::Transient, "busy")),
                    _ => Fault::Refuse(ApiError::new(ErrorClass::Held, "held")),
                };
                coordinator.script().faults.push_back((path, fault));
            }
            coordinator.script().rotate = rotate;
            for steps in cuts {
                let fuse = Fuse::after(steps);
                let node = Node::new(&machine.root, &host, &machine.console, pace());
                tokio::select! {
                    outcome = node.run(machine.state()) => { outcome.unwrap(); }
                    () = until(|| fuse.is_blown()) => {}
                }
                drop(fuse);
                host.reboot();
            }
            // What is refused for ever is not a passing fault.
            coordinator.script().faults.clear();
            machine.boot(&host).await;
            check_ready(&machine, &host, &coordinator, "at the end");
        });
    }
}
