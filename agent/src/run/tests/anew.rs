//! Another ticket for a machine that is bound and refused, or whose key is.

use super::*;
use kiln_protocol::ratchet::Reach;
use kiln_protocol::ticket::TicketSeed;

/// A node at the gate, where it waits.
async fn at_the_gate(machine: &Machine, host: &FakeHost<'_>, coordinator: &FakeCoordinator) -> Fingerprint {
    coordinator.script().gate.extend(std::iter::repeat_n(wait_at_the_gate(), 10_000));
    machine.boot_until(host, || matches!(machine.state(), State::Gate { .. })).await;
    coordinator.script().gate.clear();
    machine.state().me().unwrap().key
}

/// What an operator takes a node its rights with, and gives its machine: the
/// first ticket is still where it was, and void.
fn another_ticket(host: &FakeHost<'_>, coordinator: &FakeCoordinator) {
    let ticket = TicketSeed::generate();
    host.more_seeds.borrow_mut().push(coordinator.seed_with(&ticket));
    let mut script = coordinator.script();
    (script.ticket, script.key) = (ticket, None);
}

#[tokio::test]
async fn a_node_that_a_restored_coordinator_never_heard_of_joins_with_another_ticket() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    let key = at_the_gate(&machine, &host, &coordinator).await;
    another_ticket(&host, &coordinator);
    coordinator.script().bindings.clear();
    coordinator.script().turn = None;
    assert_eq!(machine.boot(&host).await, Outcome::Ready);
    // Nobody knows its key by another name, so it stays.
    check_ready(&machine, &host, &coordinator, "with another ticket");
    assert_eq!(coordinator.script().key, Some(key));
    assert_eq!(host.log.borrow().iter().filter(|line| *line == "start server").count(), 1);
}

#[tokio::test]
async fn a_node_without_rights_makes_another_key_for_another_ticket() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    let key = at_the_gate(&machine, &host, &coordinator).await;
    another_ticket(&host, &coordinator);
    assert_eq!(machine.boot(&host).await, Outcome::Ready);
    let script = coordinator.script();
    assert_eq!(script.alarms, [""; 0]);
    assert_ne!(script.key, Some(key));
    assert_eq!(machine.state().me().map(|me| me.key), script.key);
    let shown = kiln_protocol::console::key_in(&machine.said());
    assert_eq!(shown, script.key, "whoever reads the console is told of the new one");
}

#[tokio::test]
async fn a_bound_node_gives_nothing_up_for_a_ticket_that_is_not_good() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    let key = at_the_gate(&machine, &host, &coordinator).await;
    host.more_seeds.borrow_mut().push(coordinator.seed_with(&TicketSeed::generate()));
    let refusals = [ErrorClass::Policy, ErrorClass::Held, ErrorClass::Pending, ErrorClass::StaleCoordinator];
    let refusals = refusals.map(|class| (api::OPEN, Fault::Refuse(ApiError::new(class, "not now"))));
    coordinator.script().faults.extend(refusals);
    assert_eq!(machine.boot(&host).await, Outcome::Ready);
    assert!(machine.said().contains("is of no use: ticket_unknown"), "{}", machine.said());
    check_ready(&machine, &host, &coordinator, "after all");
    assert_eq!(coordinator.script().key, Some(key));
}

#[tokio::test]
async fn a_node_whose_k3s_may_have_started_stays_who_it_is() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    let key = machine.state().me().unwrap().key;
    another_ticket(&host, &coordinator);
    host.reboot();
    let asked = coordinator.script().asked.len();
    let node = Node::new(&machine.root, &host, &machine.console, pace());
    tokio::select! {
        () = async { node.run(machine.state()).await.unwrap(); node.follow(machine.state()).await } => {}
        () = until(|| coordinator.script().asked[asked..].iter().filter(|path| *path == api::OPEN).count() > 5) => {}
    }
    let asked = coordinator.script().asked[asked..].to_vec();
    assert!(asked.iter().all(|path| path != api::ENROL), "{asked:?}");
    assert_eq!(machine.state().me().map(|me| me.key), Some(key));
}

#[tokio::test]
async fn a_key_that_was_bound_unheard_gives_way_to_another_with_another_ticket() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    coordinator.script().faults.push_back((api::ENROL, Fault::Lose));
    machine.boot_until(&host, || !coordinator.script().bindings.is_empty()).await;
    let key = machine.state().me().unwrap().key;
    another_ticket(&host, &coordinator);
    // Both tickets stay in their sources, and it has to be patient.
    let busy = || Fault::Refuse(ApiError::new(ErrorClass::Transient, "busy"));
    let late = async {
        until(|| coordinator.script().bindings.len() > 1 || machine.said().contains("makes a new one")).await;
        coordinator.script().faults.extend((0..4).map(|_| (api::ENROL, busy())));
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), late);
    assert_eq!(outcome, Outcome::Ready);
    let script = coordinator.script();
    assert_eq!(script.alarms, [""; 0], "the first ticket is never shown with the new key");
    assert_ne!(script.key, Some(key));
    assert_eq!(machine.state().me().map(|me| me.key), script.key);
}

#[tokio::test]
async fn a_node_that_moves_to_a_coordinator_that_was_set_up_anew_keeps_no_stamp_of_the_one_before() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    coordinator.script().reach = Reach { epoch: 5, seq: 70 };
    at_the_gate(&machine, &host, &coordinator).await;
    coordinator.script().key = None;
    let anew = FakeCoordinator::started().await;
    host.more_seeds.borrow_mut().push(anew.seed());
    assert_eq!(machine.boot(&host).await, Outcome::Ready);
    check_ready(&machine, &host, &anew, "with the new coordinator");
    let seen = crate::bond::Bond::load(&machine.root).unwrap().seen();
    assert_eq!(seen.map(|stamp| stamp.reach), Some(STAMP));
}

#[test]
fn a_power_cut_anywhere_between_two_tickets_is_survived() {
    for steps in 0.. {
        let finished = run(async {
            let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
            let host = FakeHost::new(&machine.root, coordinator.seed());
            let before = at_the_gate(&machine, &host, &coordinator).await;
            another_ticket(&host, &coordinator);
            if steps % 2 == 0 {
                coordinator.script().faults.push_back((api::ENROL, Fault::Lose));
            }
            let fuse = Fuse::after(steps);
            machine.boot_until_cut(&host, &fuse).await;
            let blown = fuse.has_blown();
            host.reboot();
            machine.boot(&host).await;
            let script = coordinator.script();
            assert_eq!(script.alarms, [""; 0], "cut at {steps}");
            assert_eq!(script.bindings.len(), 2, "cut at {steps}: a third key was made");
            assert!(script.key.is_some_and(|key| key != before), "cut at {steps}");
            let kept = identity::load(&machine.root).unwrap().map(|key| key.fingerprint());
            assert_eq!((kept, machine.state().me().map(|me| me.key)), (script.key, script.key), "{steps}");
            !blown
        });
        if finished {
            assert!(steps > 40, "the fuse was hardly in the way: {steps}");
            return;
        }
    }
}
