//! The clone ratchet, and a coordinator that was set back.

use super::common::{Machine, World, class, name};
use kiln_coordinator::Coordinator;
use kiln_protocol::admin::RegistryState;
use kiln_protocol::ratchet::{Notch, OpenAnswer, OpenRequest, Reach, Stamp, Turn};
use kiln_protocol::rotation::RotateRequest;
use kiln_protocol::{ErrorClass, Identity, api};
use reqwest::Method;
use std::path::Path;

/// An enrolled node, and the key that is on its disk.
async fn enrolled(world: &World, node: &str) -> (Machine, Identity) {
    let identity = Identity::generate().unwrap();
    let machine = world.machine_with(&identity);
    machine.enrol(&world.ticket(node).await).await.unwrap();
    (machine, identity)
}

async fn registry(world: &World, node: &str) -> RegistryState {
    world.node(node).await.registry
}

/// Alarms that wait for an operator.
async fn alarms(world: &World) -> usize {
    world.coordinator.status().await.unwrap().alarms.len()
}

#[tokio::test]
async fn a_connection_that_was_not_opened_is_told_so_and_gets_nothing() {
    let world = World::new().await;
    let (machine, _) = enrolled(&world, "a1").await;
    for (method, path) in [(Method::GET, api::CONFIG), (Method::POST, api::GATE), (Method::POST, api::REPORT)]
    {
        let body = br#"{"incarnation":1,"clock":0,"boot_id":"b","sequence":1,"uptime_ms":1,"step":"seed","state":"done"}"#;
        let (status, _) = machine.raw(method, path, body.to_vec()).await.unwrap();
        assert_eq!(status, 428, "{path}");
    }
    assert!(machine.config().await.is_ok());
}

#[tokio::test]
async fn lost_answers_and_new_connections_never_raise_a_false_alarm() {
    let world = World::new().await;
    let (machine, identity) = enrolled(&world, "a1").await;
    for round in 0..30 {
        // Every third answer is lost, and each time another connection is made.
        let again = machine.cloned(&identity, world.coordinator.pin()).await;
        if round % 3 == 0 {
            again.open_and_lose_the_answer().await;
        } else {
            again.open().await.unwrap();
        }
        *machine.ratchet.lock().await = again.ratchet.lock().await.clone();
    }
    assert!(machine.config().await.is_ok());
    assert_eq!((registry(&world, "a1").await, alarms(&world).await), (RegistryState::Bound, 0));
}

#[tokio::test]
async fn a_restart_of_the_coordinator_forgets_no_ratchet() {
    let world = World::new().await;
    let (machine, identity) = enrolled(&world, "a1").await;
    machine.open().await.unwrap();
    let kept = machine.ratchet.lock().await.clone();
    let world = world.restart().await;
    let machine = world.machine_with(&identity);
    *machine.ratchet.lock().await = kept;
    assert!(machine.config().await.is_ok());
    let thief = world.machine_with(&identity);
    assert_eq!(class(thief.open().await), ErrorClass::Held);
}

#[tokio::test]
async fn a_clone_of_an_enrolled_machine_in_lockstep_is_held_with_an_alarm() {
    let world = World::new().await;
    let (original, identity) = enrolled(&world, "a1").await;
    original.open().await.unwrap();
    let clone = original.cloned(&identity, world.coordinator.pin()).await;
    // Both go on from the same disk, at the same time.
    let (one, two) = tokio::join!(original.open(), clone.open());
    let refused = match (one, two) {
        (Ok(_), Err(refusal)) | (Err(refusal), Ok(_)) => refusal,
        other => panic!("not one of them: {other:?}"),
    };
    // Connections that were made at one time are not judged by their order.
    let refused = match refused.class {
        ErrorClass::Transient => {
            let late = if original.ratchet.lock().await.sent.is_some() { &original } else { &clone };
            let late = late.cloned(&identity, world.coordinator.pin()).await;
            late.open().await.unwrap_err()
        }
        _ => refused,
    };
    assert_eq!(refused.class, ErrorClass::Held);
    assert!(refused.message.contains("copied to another machine"), "{refused}");
    assert_eq!((registry(&world, "a1").await, alarms(&world).await), (RegistryState::Held, 1));
    assert_eq!(world.count_events("clone_or_rollback").await, 1);
    for machine in [original, clone] {
        assert_eq!(class(machine.config().await), ErrorClass::Held);
        assert!(machine.report_ready().await.is_ok(), "a held node may report");
    }
}

#[tokio::test]
async fn a_snapshot_that_was_rolled_back_is_held_with_an_alarm() {
    let world = World::new().await;
    let (machine, identity) = enrolled(&world, "a1").await;
    machine.open().await.unwrap();
    let snapshot = machine.ratchet.lock().await.clone();
    let later = machine.cloned(&identity, world.coordinator.pin()).await;
    later.open().await.unwrap();
    later.open().await.unwrap();
    let set_back = world.machine_with(&identity);
    *set_back.ratchet.lock().await = snapshot;
    assert_eq!(class(set_back.config().await), ErrorClass::Held);
    assert_eq!((registry(&world, "a1").await, alarms(&world).await), (RegistryState::Held, 1));
}

#[tokio::test]
async fn machines_from_a_template_of_an_enrolled_one_are_held_when_the_second_comes() {
    let world = World::new().await;
    let (template, identity) = enrolled(&world, "a1").await;
    template.open().await.unwrap();
    let first = template.cloned(&identity, world.coordinator.pin()).await;
    let second = template.cloned(&identity, world.coordinator.pin()).await;
    assert!(first.config().await.is_ok(), "one machine with the key is the node");
    assert_eq!(class(second.config().await), ErrorClass::Held);
    assert_eq!(class(first.config().await), ErrorClass::Held, "and then nobody knows which");
}

#[tokio::test]
async fn release_lets_the_right_machine_go_on_and_the_wrong_one_is_noticed_again() {
    let world = World::new().await;
    let (right, identity) = enrolled(&world, "a1").await;
    right.open().await.unwrap();
    let wrong = right.cloned(&identity, world.coordinator.pin()).await;
    wrong.open().await.unwrap();
    // Over a new connection: what an old one says late proves nothing.
    let right = right.cloned(&identity, world.coordinator.pin()).await;
    assert_eq!(class(right.open().await), ErrorClass::Held);
    world.coordinator.release(&name("a1")).await.unwrap();
    // Its turn was refused and is still in the air: it is what it comes with.
    assert!(right.config().await.is_ok());
    assert!(right.open().await.is_ok());
    assert_eq!(alarms(&world).await, 0);
    let wrong = wrong.cloned(&identity, world.coordinator.pin()).await;
    assert_eq!(class(wrong.open().await), ErrorClass::Held);
    assert_eq!((registry(&world, "a1").await, alarms(&world).await), (RegistryState::Held, 1));
}

#[tokio::test]
async fn what_a_slow_network_delivers_late_is_refused_and_is_no_alarm() {
    let world = World::new().await;
    let (machine, identity) = enrolled(&world, "a1").await;
    machine.open().await.unwrap();
    // A connection is made, and what is sent over it does not arrive.
    let slow = machine.cloned(&identity, world.coordinator.pin()).await;
    let (status, _) = slow.raw(Method::GET, api::CONFIG, Vec::new()).await.unwrap();
    assert_eq!(status, 428);
    let late = slow.ratchet.lock().await.turn();
    // The machine gives up and goes on over other connections.
    let on = slow.cloned(&identity, world.coordinator.pin()).await;
    on.open().await.unwrap();
    on.open().await.unwrap();
    // Now it arrives, over the connection that began before.
    let request = serde_json::to_vec(&OpenRequest::new(late, None)).unwrap();
    let (status, body) = slow.raw(Method::POST, api::OPEN, request).await.unwrap();
    let refusal: kiln_protocol::ApiError = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, refusal.class), (503, ErrorClass::Transient), "{refusal}");
    assert_eq!((registry(&world, "a1").await, alarms(&world).await), (RegistryState::Bound, 0));
    assert!(on.config().await.is_ok());
}

#[tokio::test]
async fn strangers_and_admins_have_nothing_to_open() {
    let world = World::new().await;
    assert_eq!(class(world.machine().open().await), ErrorClass::Policy);
    assert_eq!(class(world.machine_with(&world.admin_identity()).open().await), ErrorClass::Policy);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// The same coordinator, and a copy of its state as it is now, at `copy` beside it.
async fn copied(world: World) -> World {
    use std::os::unix::fs::PermissionsExt as _;
    // Closed, so that the copy is whole.
    let World { outer, dir, coordinator, server } = world;
    server.shutdown().await;
    drop(coordinator);
    let kept = outer.path().join("copy");
    copy(&dir, &kept);
    std::fs::set_permissions(&kept, std::fs::Permissions::from_mode(0o700)).unwrap();
    World::at(outer, dir).await
}

/// A coordinator on the other state, which is at `copy` beside it; then this one is.
async fn exchanged(world: World) -> World {
    let World { outer, dir, coordinator, server } = world;
    server.shutdown().await;
    drop(coordinator);
    let (kept, aside) = (outer.path().join("copy"), outer.path().join("aside"));
    for (from, to) in [(&dir, &aside), (&kept, &dir), (&aside, &kept)] {
        std::fs::rename(from, to).unwrap();
    }
    World::at(outer, dir).await
}

/// A machine with what it has on its disk, of a coordinator that began again.
async fn again(world: &World, machine: &Machine, identity: &Identity) -> Machine {
    let again = world.machine_with(identity);
    *again.ratchet.lock().await = machine.ratchet.lock().await.clone();
    again
}

/// A coordinator that runs on a copy of its state from before `machine` opened
/// another connection, and a ticket that was not used in the copy.
pub(super) async fn set_back() -> (World, Machine, Identity, kiln_protocol::Ticket, kiln_protocol::Ticket) {
    let world = World::new().await;
    let (machine, identity) = enrolled(&world, "a1").await;
    machine.open().await.unwrap();
    let (used, unused) = (world.ticket("a2").await, world.ticket("s1").await);
    let world = copied(world.restart().await).await;
    // Time goes on.
    let later = again(&world, &machine, &identity).await;
    later.open().await.unwrap();
    later.open().await.unwrap();
    world.machine().enrol(&used).await.unwrap();
    let world = exchanged(world).await;
    let machine = again(&world, &later, &identity).await;
    (world, machine, identity, used, unused)
}

/// A coordinator that runs on an old copy of its state, on which `a2` has gone on
/// for longer than `a1` did on the original since. Neither has been told anything.
async fn went_on() -> (World, [(Machine, Identity); 2]) {
    let world = World::new().await;
    let (one, one_key) = enrolled(&world, "a1").await;
    let (two, two_key) = enrolled(&world, "a2").await;
    one.open().await.unwrap();
    two.open().await.unwrap();
    let world = copied(world).await;
    let one = again(&world, &one, &one_key).await;
    one.open().await.unwrap();
    one.open().await.unwrap();
    let world = exchanged(world).await;
    let (one, two) = (again(&world, &one, &one_key).await, again(&world, &two, &two_key).await);
    for _ in 0..10 {
        two.open().await.unwrap();
    }
    assert!(world.coordinator.status().await.unwrap().stale.is_none(), "nobody has said so yet");
    (world, [(one, one_key), (two, two_key)])
}

async fn check_nobody_is_held(world: &World) {
    for node in ["a1", "a2"] {
        assert_eq!(registry(world, node).await, RegistryState::Bound, "{node}");
    }
    for what in ["clone_or_rollback", "former_key_used"] {
        assert_eq!(world.count_events(what).await, 0, "{what}");
    }
}

#[tokio::test]
async fn an_old_copy_that_other_nodes_went_on_with_is_noticed_and_holds_nobody() {
    let (world, [(one, _), (two, _)]) = went_on().await;
    for machine in [&one, &two, &one] {
        assert_eq!(class(machine.open().await), ErrorClass::StaleCoordinator);
    }
    let stale = world.coordinator.status().await.unwrap().stale.unwrap();
    // Which of the two numbers is the larger one is up to chance.
    assert_ne!(stale.seen, stale.own);
    assert_eq!(world.count_events("stale_coordinator").await, 1);
    check_nobody_is_held(&world).await;
    world.coordinator.raise_epoch().await.unwrap();
    for machine in [&one, &two, &one] {
        machine.open().await.unwrap();
    }
    check_nobody_is_held(&world).await;
}

#[tokio::test]
async fn an_old_copy_whose_first_word_of_a_node_is_a_new_key_is_noticed_and_holds_nobody() {
    let (world, [(one, one_key), _]) = went_on().await;
    let new = Identity::generate().unwrap();
    let mut kept = one.ratchet.lock().await.clone();
    let request = RotateRequest::new(&world.coordinator.pin(), &one.key, &new, kept.turn(), kept.seen);
    let body = serde_json::to_vec(&request).unwrap();
    let refused = one.send(Method::POST, api::ROTATE, body).await;
    assert_eq!(class(refused), ErrorClass::StaleCoordinator);
    assert_eq!(world.node("a1").await.key, Some(one_key.fingerprint()));
    assert_eq!(world.count_events("stale_coordinator").await, 1);
    check_nobody_is_held(&world).await;
}

#[tokio::test]
async fn the_original_that_comes_back_after_a_copy_was_served_is_noticed_too() {
    let (world, [(one, one_key), (two, two_key)]) = went_on().await;
    let world = exchanged(world).await;
    let (one, two) = (again(&world, &one, &one_key).await, again(&world, &two, &two_key).await);
    // This is the one that it knows; what the other one was told is not in it.
    one.open().await.unwrap();
    for machine in [&two, &one] {
        assert_eq!(class(machine.open().await), ErrorClass::StaleCoordinator);
    }
    assert_eq!(world.count_events("stale_coordinator").await, 1);
    check_nobody_is_held(&world).await;
    world.coordinator.raise_epoch().await.unwrap();
    for machine in [&two, &one] {
        machine.open().await.unwrap();
    }
    check_nobody_is_held(&world).await;
}

#[tokio::test]
async fn a_coordinator_that_starts_again_and_again_knows_every_stamp_it_gave() {
    let mut world = World::new().await;
    let (mut machine, identity) = enrolled(&world, "a1").await;
    let mut given: Vec<Stamp> = Vec::new();
    for start in 0..4 {
        // Of every earlier run, and of this one.
        for seen in given.clone().into_iter().map(Some).chain([None]) {
            machine.ratchet.lock().await.seen = seen;
            let stamp = machine.open().await.unwrap().stamp;
            assert!(given.last().is_none_or(|last| last.reach < stamp.reach), "{stamp:?} after {given:?}");
            given.push(stamp);
        }
        assert!(world.coordinator.status().await.unwrap().stale.is_none(), "start {start}");
        world = world.restart().await;
        machine = again(&world, &machine, &identity).await;
    }
}

#[tokio::test]
async fn two_that_were_restored_from_one_backup_are_told_apart() {
    let world = World::new().await;
    let (machine, identity) = enrolled(&world, "a1").await;
    let backup = world.outer.path().join("backup");
    world.coordinator.backup(&backup).await.unwrap();
    let World { outer, dir, coordinator, server } = world;
    server.shutdown().await;
    drop(coordinator);
    let unlock = kiln_coordinator::UnlockFile::beside(&dir);
    for state in [&dir, &outer.path().join("copy")] {
        let _ = std::fs::remove_dir_all(state);
        Coordinator::restore(&backup, state, &unlock).unwrap();
    }
    let world = World::at(outer, dir).await;
    let machine = again(&world, &machine, &identity).await;
    let stamp = machine.open().await.unwrap().stamp;
    let world = exchanged(world).await;
    let machine = again(&world, &machine, &identity).await;
    assert_eq!(class(machine.open().await), ErrorClass::StaleCoordinator);
    let stale = world.coordinator.status().await.unwrap().stale.unwrap();
    assert_eq!((stale.seen, stale.own.epoch), (stamp.reach, stamp.reach.epoch));
}

#[tokio::test]
async fn a_restored_backup_is_noticed_by_its_nodes_and_enrols_nobody() {
    let (world, machine, _, used, unused) = set_back().await;
    assert!(world.coordinator.status().await.unwrap().stale.is_none(), "nobody has said so yet");
    let refusal = machine.config().await.unwrap_err();
    assert_eq!(refusal.class, ErrorClass::StaleCoordinator);
    assert_eq!(refusal.retry_after, Some(300));
    for ticket in [&used, &unused] {
        assert_eq!(class(world.machine().enrol(ticket).await), ErrorClass::StaleCoordinator);
    }
    assert_eq!(class(machine.gate().await), ErrorClass::StaleCoordinator);
    assert!(machine.report_ready().await.is_ok(), "it may say how it is");
    let status = world.coordinator.status().await.unwrap();
    let stale = status.stale.unwrap();
    assert_ne!(stale.seen, stale.own);
    assert!(kiln_coordinator::cli::status_table(&status).contains("coordinator raise-epoch"));
    assert_eq!(
        status.node(&name("a1")).unwrap().registry,
        RegistryState::Bound,
        "that is not the node's fault"
    );
    assert_eq!(world.count_events("stale_coordinator").await, 1);
    // It is not forgotten with the process.
    let world = world.restart().await;
    assert!(world.coordinator.status().await.unwrap().stale.is_some());
    assert_eq!(class(world.machine().enrol(&unused).await), ErrorClass::StaleCoordinator);
}

#[tokio::test]
async fn an_operator_who_decides_for_the_old_copy_voids_its_unused_tickets_and_nodes_go_on() {
    let (world, machine, _, used, unused) = set_back().await;
    assert_eq!(class(machine.config().await), ErrorClass::StaleCoordinator);
    let reach = world.admin().raise_epoch().await.unwrap();
    assert_eq!(reach.epoch, 2);
    assert!(world.coordinator.status().await.unwrap().stale.is_none());
    for ticket in [&used, &unused] {
        assert_eq!(class(world.machine().enrol(ticket).await), ErrorClass::Revoked, "burnt stays burnt");
    }
    // The copy does not know how far the node's ratchet is, and takes it up there.
    let answer = machine.open().await.unwrap();
    assert_eq!(answer.stamp.reach.epoch, 2);
    assert!(machine.config().await.is_ok());
    assert_eq!(alarms(&world).await, 0);
    assert!(world.machine().enrol(&world.ticket("a2").await).await.is_ok());
}

#[tokio::test]
async fn nobody_can_make_a_coordinator_believe_in_a_future_that_never_was() {
    let world = World::new().await;
    let (machine, identity) = enrolled(&world, "a1").await;
    let reach = Reach { epoch: 9, seq: 9 };
    let forged = Stamp::sign(reach, &identity);
    let genuine = machine.open().await.unwrap().stamp;
    for seen in [forged, Stamp { reach, ..genuine }] {
        machine.ratchet.lock().await.seen = Some(seen);
        assert!(machine.open().await.is_ok());
    }
    assert!(world.coordinator.status().await.unwrap().stale.is_none());
    // And whoever shows a genuine one needs no name here.
    let turn = Turn { cur: Notch::random(), next: Notch::random() };
    let stranger = world.machine();
    let request = OpenRequest::new(turn, Some(genuine));
    let refused = stranger.post::<OpenAnswer>(api::OPEN, &request).await;
    assert_eq!(class(refused), ErrorClass::Policy);
}
