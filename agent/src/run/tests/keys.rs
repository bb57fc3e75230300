//! Keys: copied, replaced, and another coordinator's.

use super::*;

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
async fn a_copied_disk_is_told_of_until_it_was_heard() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    fake_machine(machine.dir.path(), "99999999-1111-2222-3333-444455556666");
    host.reboot();
    coordinator.cut_off.store(true, std::sync::atomic::Ordering::Relaxed);
    // A node that is ready would have given up long ago.
    let pace = Pace { later_boot: Duration::from_millis(1), ..pace() };
    let node = Node::new(&machine.root, &host, &machine.console, pace);
    let cure = async {
        let before = coordinator.handshakes();
        until(|| coordinator.handshakes() > before + 5).await;
        assert!(coordinator.script().beacons.is_empty());
        coordinator.cut_off.store(false, std::sync::atomic::Ordering::Relaxed);
    };
    let run = timeout(DEADLINE, node.run(machine.state()));
    let (outcome, ()) = tokio::join!(run, cure);
    assert_eq!(outcome.expect("it is told for ever").unwrap(), Outcome::Cloned);
    assert_eq!(coordinator.script().beacons.len(), 1);
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

/// A ready server has its key replaced while it asks for chores, and goes on
/// asking with the new one.
async fn replaces_its_key_while_it_tends(
    machine: &Machine,
    coordinator: &FakeCoordinator,
    host: &FakeHost<'_>,
    when: impl Fn() -> bool,
) {
    let node = Node::new(&machine.root, host, &machine.console, pace());
    let state = machine.state();
    let first = coordinator.script().key;
    tokio::select! {
        () = node.tend(&state) => panic!("it stopped tending"),
        () = async {
            until(&when).await;
            coordinator.script().rotate = true;
            node.follow(state.clone()).await;
        } => panic!("it stopped following"),
        () = async {
            until(|| coordinator.script().key != first).await;
            let asked = coordinator.script().chores_done.len();
            until(|| coordinator.script().chores_done.len() > asked + 1).await;
        } => {}
    }
    let script = coordinator.script();
    assert_eq!((script.former.len(), &script.alarms[..]), (1, &[][..]));
}

#[tokio::test]
async fn an_answer_that_is_lost_while_the_key_is_replaced_is_not_asked_for_with_the_old_one() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    // Of a connection that was good before.
    coordinator.script().faults.extend([(CHORES, Fault::Spare), (CHORES, Fault::LoseOnceReplaced)]);
    let asks = || coordinator.script().faults.is_empty();
    replaces_its_key_while_it_tends(&machine, &coordinator, &host, asks).await;
}

#[tokio::test]
async fn a_connection_that_comes_up_while_the_key_is_replaced_is_not_opened_with_the_old_one() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    // The first connection of what follows is the one for chores.
    let slow = &coordinator.slow_handshake;
    slow.store(true, std::sync::atomic::Ordering::SeqCst);
    let comes_up = || !slow.load(std::sync::atomic::Ordering::SeqCst);
    replaces_its_key_while_it_tends(&machine, &coordinator, &host, comes_up).await;
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
            machine.boot_until_cut(&host, &fuse).await;
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
async fn a_network_is_proven_without_the_key_that_is_being_replaced() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    // Both were under way when the power was cut, and the coordinator has the new key.
    let old = machine.state().me().unwrap().key;
    let new = identity::load_or_make_next(&machine.root, &old).unwrap().fingerprint();
    let mut applied = Applied::load(&machine.root).unwrap().unwrap();
    applied.before = Some(applied.network.clone());
    applied.save(&machine.root).unwrap();
    {
        let script = &mut *coordinator.script();
        script.former.push(old);
        script.key = Some(new);
    }
    host.reboot();
    machine.boot(&host).await;
    check_ready(&machine, &host, &coordinator, "with the new key");
    assert_eq!(Applied::load(&machine.root).unwrap().unwrap().before, None);
    assert!(!machine.said().contains("taken back"), "{}", machine.said());
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

/// The bond's file.
fn bond_file(machine: &Machine) -> serde_json::Value {
    serde_json::from_str(&machine.root.read_text("/var/lib/kiln/bond.json").unwrap().unwrap()).unwrap()
}

#[tokio::test]
async fn a_node_that_enrols_after_a_change_of_the_pin_believes_no_earlier_one() {
    let recovery = kiln_protocol::recovery::RecoverySeed::generate();
    let stolen = FakeCoordinator::started().await.succeeded_by(&recovery).await;
    let coordinator = stolen.succeeded_by(&recovery).await;
    coordinator.script().recovery = recovery;
    let machine = Machine::new();
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    // It learned that before it opened a connection to anybody.
    let file = bond_file(&machine);
    assert_eq!((&file["with"]["serial"], &file["pin"]), (&2.into(), &serde_json::Value::Null), "{file}");
    host.reboot();
    let State::Ready { mut home, incarnation } = machine.state() else { panic!("not ready") };
    home.addresses = vec![stolen.address().parse().unwrap()];
    store::save(&machine.root, &State::Ready { home, incarnation }).unwrap();
    machine.boot(&host).await;
    assert!(stolen.handshakes() > 0, "it looked for its coordinator");
    assert_eq!(stolen.script().asked, [""; 0]);
}

#[tokio::test]
async fn a_node_that_an_older_agent_enrolled_learns_of_the_change_behind_its_pin() {
    let recovery = kiln_protocol::recovery::RecoverySeed::generate();
    let coordinator = FakeCoordinator::started().await.succeeded_by(&recovery).await;
    coordinator.script().recovery = recovery;
    let machine = Machine::new();
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    let mut file = bond_file(&machine);
    file.as_object_mut().unwrap().remove("with");
    machine.root.put("/var/lib/kiln/bond.json", Access::ours(0o600), file.to_string().as_bytes()).unwrap();
    host.reboot();
    machine.boot(&host).await;
    check_ready(&machine, &host, &coordinator, "by the older agent's file");
    let trust = crate::bond::Bond::load(&machine.root).unwrap().trust(coordinator.pin(), None);
    assert_eq!((trust.pin, trust.serial), (coordinator.pin(), 1));
}

#[tokio::test]
async fn a_word_that_is_not_the_recovery_keys_tells_a_node_nothing_when_it_enrols() {
    let anybody = kiln_protocol::recovery::RecoverySeed::generate();
    let coordinator = FakeCoordinator::started().await.succeeded_by(&anybody).await;
    let machine = Machine::new();
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    check_ready(&machine, &host, &coordinator, "by its ticket");
    let trust = crate::bond::Bond::load(&machine.root).unwrap().trust(coordinator.pin(), None);
    assert_eq!((trust.pin, trust.serial), (coordinator.pin(), 0));
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
