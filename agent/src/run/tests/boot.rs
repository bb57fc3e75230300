//! From a first boot to a ready node, and what may stand in the way of each step.

use super::*;
use crate::client::names::tests as names;
use crate::clock::tests::OFF;

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
async fn an_agent_that_is_started_again_within_a_boot_goes_on_with_its_numbers() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    let before = coordinator.script().reports.len();
    // No program is started anew within a millisecond.
    let last = coordinator.script().reports[before - 1].sequence;
    until(|| crate::clock::uptime_ms() > last).await;
    machine.boot(&host).await;
    let script = coordinator.script();
    assert!(script.reports.len() > before, "nothing was told after the crash");
    let numbers: Vec<u64> = script.reports.iter().map(|report| report.sequence).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "the coordinator would take them for old: {numbers:?}");
}

#[tokio::test]
async fn a_node_gets_its_configuration_with_the_opening_of_the_connection_for_it() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    // Once more after the gate: it may have been another one meanwhile.
    let asked = coordinator.script().asked.clone();
    let gate = asked.iter().position(|path| path == api::GATE).unwrap();
    assert!(asked[..gate].iter().all(|path| path != api::CONFIG), "{asked:?}");
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

/// By ten years, to either side, in the midst of it.
#[tokio::test]
async fn a_clock_that_jumps_meanwhile_is_said_and_the_node_goes_on() {
    for jump in [-10, 10].map(|years| years * 365 * 86_400) {
        let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
        let host = FakeHost::new(&machine.root, coordinator.seed());
        // It waits at the gate, with a clock that is right, when that happens.
        let wait = || GateAnswer::Wait { reason: "waiting for the first server".to_owned(), retry_after: 0 };
        coordinator.script().gate.extend((0..1000).map(|_| wait()));
        let jumps = async {
            until(|| !coordinator.script().gates.is_empty()).await;
            OFF.set(jump);
            until(|| machine.said().contains(&format!("[gate] clock: the clocks differ by {jump}"))).await;
            // k3s would mint certificates that are good for nobody.
            assert_eq!(host.log.borrow().iter().filter(|line| *line == "start server").count(), 0);
            assert_ne!(machine.state().step(), Step::Ready);
            // A time server sets it right.
            OFF.set(0);
            coordinator.script().gate.clear();
        };
        let (outcome, ()) = tokio::join!(machine.boot(&host), jumps);
        assert_eq!(outcome, Outcome::Ready);
        assert_eq!(host.log.borrow().iter().filter(|line| *line == "start server").count(), 1);
        assert_eq!(coordinator.script().enrolled.len(), 1, "its ticket is used once");
    }
}

#[tokio::test]
async fn a_coordinators_name_that_nobody_knows_yet_is_asked_for_until_somebody_does() {
    let name = "coordinator.localhost";
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let address = coordinator.address().parse().unwrap();
    let coordinator = coordinator.called(name);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    names::say(name, None);
    let late = async {
        until(|| names::asked(name) >= 3).await;
        assert!(machine.said().contains("Temporary failure in name resolution"), "{}", machine.said());
        assert_eq!(coordinator.handshakes(), 0);
        names::say(name, Some(address));
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), late);
    assert_eq!(outcome, Outcome::Ready);
    let script = coordinator.script();
    let done = script.reports.iter().filter(|report| report.state == StepState::Done).count();
    assert_eq!(done, Step::ALL.len(), "steps before the contact are told too");
}

/// The power was cut when the gate had opened and k3s was about to start.
async fn about_to_start_k3s(machine: &Machine, host: &FakeHost<'_>) {
    machine.boot(host).await;
    let State::Ready { home, incarnation } = machine.state() else { panic!("not ready") };
    store::save(&machine.root, &State::StartK3s { home, incarnation }).unwrap();
    host.enabled.set(false);
    host.reboot();
    host.log.borrow_mut().clear();
}

#[tokio::test]
async fn a_power_cut_after_the_gate_starts_no_k3s_by_a_wrong_clock() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    about_to_start_k3s(&machine, &host).await;
    let off = || Fault::Refuse(ApiError::new(ErrorClass::Clock, "the clocks differ by ten years"));
    coordinator.script().faults.extend((0..1000).map(|_| (api::GATE, off())));
    machine.boot_until(&host, || machine.said().contains("[start_k3s] clock: the clocks differ")).await;
    assert_eq!(*host.log.borrow(), [""; 0]);
    coordinator.script().faults.clear();
    machine.boot(&host).await;
    assert_eq!(*host.log.borrow(), ["start server", "enable server"]);
}

#[tokio::test]
async fn a_k3s_that_has_its_certificates_when_the_power_is_cut_starts_without_a_coordinator() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let mut host = FakeHost::new(&machine.root, coordinator.seed());
    host.cut_off = coordinator.cut_off.clone();
    about_to_start_k3s(&machine, &host).await;
    let minted = machine.dir.path().join("var/lib/rancher/k3s/server/tls/client-admin.crt");
    std::fs::write(minted, "").unwrap();
    host.cut_off.store(true, std::sync::atomic::Ordering::Relaxed);
    machine.boot_until(&host, || host.enabled.get()).await;
    assert_eq!(*host.log.borrow(), ["start server", "enable server"]);
}

/// As `about_to_start_k3s`, and the machine has been off since.
async fn about_to_start_k3s_in_an_earlier_boot(machine: &Machine, host: &FakeHost<'_>) {
    about_to_start_k3s(machine, host).await;
    k3s::note_start(&machine.root, "an earlier boot").unwrap();
}

#[tokio::test]
async fn a_life_of_the_cluster_that_ends_before_k3s_has_run_is_left_for_the_next() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    about_to_start_k3s_in_an_earlier_boot(&machine, &host).await;
    coordinator.script().config.incarnation = incarnation(2);
    assert_eq!(machine.boot(&host).await, Outcome::Ready);
    let State::Ready { incarnation: kept, .. } = machine.state() else { panic!("not ready") };
    assert_eq!(kept, incarnation(2));
    check_ready(&machine, &host, &coordinator, "in the next life");
    assert_eq!(host.log.borrow().iter().filter(|line| *line == "start server").count(), 1);
}

#[tokio::test]
async fn a_k3s_that_may_have_run_stays_in_the_life_it_was_started_in() {
    for (boot, left) in [(None, None), (Some("an earlier boot"), Some("var/lib/rancher/k3s/server/db"))] {
        let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
        let host = FakeHost::new(&machine.root, coordinator.seed());
        about_to_start_k3s(&machine, &host).await;
        if let Some(boot) = boot {
            k3s::note_start(&machine.root, boot).unwrap();
        }
        if let Some(left) = left {
            std::fs::create_dir_all(machine.dir.path().join(left)).unwrap();
        }
        coordinator.script().config.incarnation = incarnation(2);
        machine.boot_until(&host, || machine.said().contains("[start_k3s] policy: that life")).await;
        assert!(matches!(machine.state(), State::StartK3s { .. }), "{boot:?} {left:?}");
        assert_eq!(*host.log.borrow(), [""; 0]);
    }
}

#[tokio::test]
async fn a_node_that_loses_its_rights_before_k3s_has_run_joins_with_another_ticket() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    about_to_start_k3s_in_an_earlier_boot(&machine, &host).await;
    let key = machine.state().me().unwrap().key;
    let ticket = kiln_protocol::ticket::TicketSeed::generate();
    host.more_seeds.borrow_mut().push(coordinator.seed_with(&ticket));
    {
        let script = &mut *coordinator.script();
        (script.ticket, script.key) = (ticket, None);
    }
    assert_eq!(machine.boot(&host).await, Outcome::Ready);
    assert_ne!(coordinator.script().key, Some(key));
    assert_eq!(machine.state().me().map(|me| me.key), coordinator.script().key);
    assert_eq!(host.log.borrow().iter().filter(|line| *line == "start server").count(), 1);
}

/// An agent whose configuration is another one when the gate opens than before.
async fn passes_with_another_configuration(
    change: impl FnOnce(&mut kiln_protocol::config::NodeConfig),
) -> (Machine, FakeCoordinator) {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let member = r#"{"kind": "agent", "server": "10.77.0.11:6443", "token": "K10aa::00000a.b"}"#;
    {
        let script = &mut *coordinator.script();
        script.config.k3s.membership = serde_json::from_str(member).unwrap();
        let mut other = script.config.clone();
        change(&mut other);
        script.config_after_gate = Some(other);
    }
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    assert_eq!(host.log.borrow().iter().filter(|line| *line == "start agent").count(), 1);
    let script = coordinator.script();
    let interface = k3s::interface_of(script.config.k3s.node_ip, &host.addresses()).unwrap();
    let part = k3s::HostPart { interface, selinux: host.selinux() };
    assert!(k3s::is_applied(&machine.root, &script.config, &part).unwrap());
    assert_eq!(script.gates.len(), 2);
    drop(script);
    (machine, coordinator)
}

#[tokio::test]
async fn k3s_starts_towards_the_server_that_is_there_when_the_gate_opens() {
    let (machine, _) = passes_with_another_configuration(|config| {
        let Membership::Agent { server, .. } = &mut config.k3s.membership else { panic!() };
        *server = "10.77.0.12:6443".parse().unwrap();
    })
    .await;
    let config = machine.root.read_text(k3s::CONFIG).unwrap().unwrap();
    assert!(config.contains("https://10.77.0.12:6443"), "{config}");
}

#[tokio::test]
async fn a_life_of_the_cluster_that_ends_when_the_gate_opens_starts_no_k3s() {
    let (machine, _) = passes_with_another_configuration(|config| config.incarnation = incarnation(2)).await;
    let State::Ready { incarnation: kept, .. } = machine.state() else { panic!("not ready") };
    assert_eq!(kept, incarnation(2));
}

#[tokio::test]
async fn first_settings_are_applied_before_any_contact() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::new().await.0);
    let mut seed = coordinator.seed();
    seed.hostname = Some("early".parse().unwrap());
    seed.user = Some(super::super::fakes::config().users.remove(0));
    seed.network = Some(super::super::fakes::config().network.remove(0));
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
    let mut other = super::super::fakes::config();
    other.node = "k3s-s2".parse().unwrap();
    let other = response(200, &serde_json::to_string(&other).unwrap());
    coordinator.script().faults.push_back((api::CONFIG, Fault::Raw(other.leak())));
    assert_eq!(machine.boot(&host).await, Outcome::Ready);
    assert!(machine.said().contains("the configuration is for k3s-s2"), "{}", machine.said());
    assert!(!host.log.borrow().contains(&"hostname k3s-s2".to_owned()));
}

#[tokio::test]
async fn a_datastore_of_whose_parts_many_are_lost_is_gone_on_with_where_it_is() {
    use sha2::Digest as _;
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let data = b"SQLite format 3 and the rest of it, which is some pages long";
    let sha256 = Fingerprint::from_bytes(sha2::Sha256::digest(data).into());
    {
        let script = &mut *coordinator.script();
        let Membership::FirstServer { restore, .. } = &mut script.config.k3s.membership else { panic!() };
        *restore = Some(Snapshot { size: data.len() as u64, sha256 });
        script.datastore = data.to_vec();
        // The connection there is and the one that takes its place.
        let lost = [Fault::Spare, Fault::Lose, Fault::Lose];
        script.faults.extend(lost.iter().cycle().take(18).map(|fault| (api::SNAPSHOT, fault.clone())));
    }
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    let script = coordinator.script();
    assert!(script.faults.is_empty() && script.offsets.is_sorted(), "{:?}", script.offsets);
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

#[tokio::test]
async fn a_datastore_that_was_exchanged_while_the_node_waited_at_the_gate_is_the_one_k3s_starts_with() {
    use sha2::Digest as _;
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let restore_from = |data: &[u8]| {
        let script = &mut *coordinator.script();
        let Membership::FirstServer { restore, .. } = &mut script.config.k3s.membership else { panic!() };
        let sha256 = Fingerprint::from_bytes(sha2::Sha256::digest(data).into());
        *restore = Some(Snapshot { size: data.len() as u64, sha256 });
        script.datastore = data.to_vec();
    };
    restore_from(b"SQLite format 3 of last year");
    let host = FakeHost::new(&machine.root, coordinator.seed());
    coordinator.script().gate.extend(std::iter::repeat_n(wait_at_the_gate(), 10_000));
    let exchanged = async {
        until(|| !coordinator.script().gates.is_empty()).await;
        restore_from(b"SQLite format 3 of yesterday");
        coordinator.script().gate.clear();
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), exchanged);
    assert_eq!(outcome, Outcome::Ready);
    let data = machine.root.read("/var/lib/rancher/k3s/server/db/state.db").unwrap().unwrap();
    assert_eq!(String::from_utf8(data).unwrap(), "SQLite format 3 of yesterday");
    assert_eq!(host.log.borrow().iter().filter(|line| *line == "start server").count(), 1);
}
