//! The clone ratchet, and a coordinator that was set back.

use super::common::{Machine, World, class, name};
use kiln_protocol::admin::RegistryState;
use kiln_protocol::ratchet::{Notch, OpenAnswer, OpenRequest, Reach, Stamp, Turn};
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

/// A coordinator that runs on a copy of its state from before `machine` opened
/// another connection, and a ticket that was not used in the copy.
async fn set_back() -> (World, Machine, Identity, kiln_protocol::Ticket, kiln_protocol::Ticket) {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new().await;
    let (machine, identity) = enrolled(&world, "a1").await;
    machine.open().await.unwrap();
    let (used, unused) = (world.ticket("a2").await, world.ticket("s1").await);
    // Closed, so that the copy is whole; then time goes on.
    let world = world.restart().await;
    let World { outer, dir, coordinator, server } = world;
    server.shutdown().await;
    drop(coordinator);
    let kept = outer.path().join("copy");
    copy(&dir, &kept);
    std::fs::set_permissions(&kept, std::fs::Permissions::from_mode(0o700)).unwrap();
    let world = World::at(outer, dir).await;
    let later = Machine::new(&identity, world.address(), world.coordinator.pin());
    *later.ratchet.lock().await = machine.ratchet.lock().await.clone();
    later.open().await.unwrap();
    later.open().await.unwrap();
    world.machine().enrol(&used).await.unwrap();
    let World { outer, dir, coordinator, server } = world;
    server.shutdown().await;
    drop(coordinator);
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::rename(&kept, &dir).unwrap();
    let world = World::at(outer, dir).await;
    let machine = Machine::new(&identity, world.address(), world.coordinator.pin());
    *machine.ratchet.lock().await = later.ratchet.lock().await.clone();
    (world, machine, identity, used, unused)
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
    assert!(stale.seen > stale.own);
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
