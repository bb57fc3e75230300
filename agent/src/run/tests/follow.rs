//! A ready node follows its configuration.

use super::*;
use kiln_protocol::ratchet::Reach;

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
    // It leads nowhere, so nothing tells the node that it is a mistake.
    host.reboot();
    host.log.borrow_mut().clear();
    machine.boot(&host).await;
    assert!(machine.said().contains("[ready] policy: the new network settings were taken back"));
    assert_eq!(*host.log.borrow(), ["address 10.77.0.11/24 by 10.77.0.254", "address 10.77.0.11/24"]);
}

#[tokio::test]
async fn a_first_network_that_leads_nowhere_is_taken_back_and_the_corrected_one_taken() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let mut host = FakeHost::new(&machine.root, coordinator.seed());
    host.cut_off = coordinator.cut_off.clone();
    coordinator.script().config.network[0].gateway = Some(NO_WAY_OUT);
    let correct = async {
        until(|| machine.said().contains("[configure] policy: the new network settings were taken back"))
            .await;
        coordinator.script().config.network[0].gateway = Some("10.77.0.1".parse().unwrap());
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), correct);
    assert_eq!(outcome, Outcome::Ready);
    let mut log = host.log.borrow().clone();
    log.retain(|line| line.starts_with("address"));
    assert_eq!(log[..2], ["address 10.77.0.11/24 by 10.77.0.254", "addresses by DHCP"]);
    assert_eq!(log.last().unwrap(), "address 10.77.0.11/24 by 10.77.0.1");
}

#[tokio::test]
async fn settings_that_could_not_be_given_back_yet_are_given_back_later() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let mut host = FakeHost::new(&machine.root, coordinator.seed());
    host.cut_off = coordinator.cut_off.clone();
    follows(&machine, &host, async {
        host.no_way_back.set(true);
        coordinator.script().config.network[0].gateway = Some(NO_WAY_OUT);
        until(|| host.log.borrow().len() > 2).await;
        host.no_way_back.set(false);
        until(|| machine.said().contains("were taken back")).await;
    })
    .await;
    assert_eq!(host.log.borrow().last().unwrap(), "address 10.77.0.11/24");
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

/// Its state was restored from a copy that may not know how far the node is.
#[tokio::test]
async fn a_node_says_again_that_it_is_ready_when_another_epoch_has_begun() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    follows(&machine, &host, async {
        let told = coordinator.script().reports.len();
        coordinator.script().reach = Reach { epoch: 2, seq: 1 };
        // The connection that was open is lost with the state of before.
        coordinator.script().faults.push_back((api::CONFIG, Fault::Lose));
        let again = |report: &Report| report.step == Step::Ready && report.state == StepState::Done;
        until(|| coordinator.script().reports[told..].iter().any(again)).await;
    })
    .await;
    assert_eq!(machine.said().matches("state of epoch 2").count(), 1, "{}", machine.said());
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
