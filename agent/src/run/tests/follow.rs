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
        until(|| host.log.borrow().iter().filter(|line| *line == "no way back").count() > 2).await;
        host.no_way_back.set(false);
        until(|| machine.said().contains("were taken back")).await;
        // It is asked again and again, and goes on with what it has.
        unchanged(&coordinator).await;
    })
    .await;
    let mut log = host.log.borrow().clone();
    log.retain(|line| line != "no way back");
    assert_eq!(log, ["address 10.77.0.11/24 by 10.77.0.254", "address 10.77.0.11/24"]);
    let last = machine.said().lines().rfind(|line| line.contains("policy")).map(str::to_owned);
    assert!(last.as_ref().is_some_and(|line| line.contains("were taken back")), "{}", machine.said());
    assert!(!machine.said().contains("follows its configuration"), "{}", machine.said());
}

/// Returns when the node was told several times that nothing has changed.
async fn unchanged(coordinator: &FakeCoordinator) {
    let asked = || coordinator.script().asked.iter().filter(|path| *path == api::CONFIG).count();
    let before = asked();
    until(|| asked() > before + 4).await;
}

/// The other card leads to the coordinator, so its word is the cure.
#[tokio::test]
async fn a_first_network_that_cannot_be_given_back_keeps_no_corrected_one_away() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    host.no_way_back.set(true);
    let good = coordinator.script().config.network[0].mac;
    coordinator.script().config.network[0].mac = Some(NO_CABLE.parse().unwrap());
    let correct = async {
        until(|| host.log.borrow().iter().any(|line| line == "no way back")).await;
        coordinator.script().config.network[0].mac = good;
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), correct);
    assert_eq!(outcome, Outcome::Ready);
    assert!(host.log.borrow().iter().any(|line| line == "address 10.77.0.11/24"));
    assert_eq!(Applied::load(&machine.root).unwrap().unwrap().before, None);
}

/// What there was before the first of them is what is given back in the end.
#[tokio::test]
async fn a_network_that_is_not_given_back_yet_keeps_nothing_else_away() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let mut host = FakeHost::new(&machine.root, coordinator.seed());
    host.cut_off = coordinator.cut_off.clone();
    follows(&machine, &host, async {
        host.no_way_back.set(true);
        coordinator.script().config.network[0].mac = Some(NO_CABLE.parse().unwrap());
        until(|| machine.said().contains("giving the cards their earlier addresses")).await;
        coordinator.script().config.users[0].authorized_keys = vec![key("new")];
        until(|| machine.said().contains("k3s-s1: has new logins")).await;
        coordinator.script().config.network[0].mac = None;
        coordinator.script().config.network[0].gateway = Some(NO_WAY_OUT);
        until(|| host.log.borrow().iter().any(|line| line.ends_with("by 10.77.0.254"))).await;
        host.no_way_back.set(false);
        until(|| machine.said().contains("were taken back")).await;
    })
    .await;
    assert_eq!(host.log.borrow().last().unwrap(), "address 10.77.0.11/24");
    let tries = host.log.borrow().iter().filter(|line| line.starts_with("nothing for")).count();
    assert_eq!(tries, 1, "{:?}", host.log.borrow());
    assert!(!machine.said().contains("follows its configuration"), "{}", machine.said());
}

#[tokio::test]
async fn a_refused_network_is_tried_once_and_keeps_nothing_else_away() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let mut host = FakeHost::new(&machine.root, coordinator.seed());
    host.cut_off = coordinator.cut_off.clone();
    let new = Secret::new("K10aa::server:new").unwrap();
    follows(&machine, &host, async {
        coordinator.script().config.network[0].gateway = Some(NO_WAY_OUT);
        until(|| machine.said().contains("were taken back")).await;
        {
            let config = &mut coordinator.script().config;
            config.k3s.token_serial = 1;
            let Membership::FirstServer { token, .. } = &mut config.k3s.membership else { unreachable!() };
            *token = new.clone();
        }
        until(|| machine.said().contains("k3s-s1: has new token")).await;
        unchanged(&coordinator).await;
        let said = machine.said();
        assert!(!said.contains("follows its configuration"), "{said}");
        assert_eq!(said.matches("were taken back").count(), 1, "{said}");
        // Back to what there is, and it is another try.
        coordinator.script().config.network[0].gateway = None;
        until(|| machine.said().contains("follows its configuration")).await;
        coordinator.script().config.network[0].gateway = Some(NO_WAY_OUT);
        until(|| machine.said().matches("were taken back").count() == 2).await;
    })
    .await;
    assert_eq!(*host.datastore_token.borrow(), Some(new));
    let wrong = host.log.borrow().iter().filter(|line| line.ends_with("by 10.77.0.254")).count();
    assert_eq!(wrong, 2, "{:?}", host.log.borrow());
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
