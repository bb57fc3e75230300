//! The coordinator gets another key.

use super::common::{Machine, World, class, unsealed_key};
use kiln_coordinator::Coordinator;
use kiln_protocol::recovery::{PinChange, RecoverySeed};
use kiln_protocol::tls::{self, PinMismatch, Trust};
use kiln_protocol::{ErrorClass, Fingerprint, Identity};
use rustls::pki_types::ServerName;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A coordinator whose state is closed, its recovery key and its pin.
async fn closed() -> (World, RecoverySeed, Fingerprint) {
    let (world, recovery) = World::with_recovery().await;
    let pin = world.coordinator.pin();
    (world, recovery, pin)
}

/// Connects as a node that trusts so; returns the key that answered, and what
/// it learned of a change.
async fn connect(world: &World, trust: Trust) -> std::io::Result<Option<(Fingerprint, PinChange)>> {
    let config = tls::client_config(&Identity::generate().unwrap(), trust).unwrap();
    let tcp = TcpStream::connect(world.address()).await?;
    let name = ServerName::try_from("kiln.invalid").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    Ok(trust.change(&stream.get_ref().1.peer_certificates().unwrap()[0]))
}

async fn changed(world: World, recovery: &RecoverySeed) -> World {
    let World { outer, dir, coordinator, server } = world;
    server.shutdown().await;
    drop(coordinator);
    Coordinator::change_pin(&dir, recovery).unwrap();
    World::at(outer, dir).await
}

#[tokio::test]
async fn a_pin_change_signed_by_the_recovery_key_passes_and_the_node_goes_on() {
    let (world, recovery, old) = closed().await;
    let identity = Identity::generate().unwrap();
    let machine = world.machine_with(&identity);
    let answer = machine.enrol(&world.ticket("a1").await).await.unwrap();
    assert_eq!(answer.recovery, Some(recovery.public_key()), "a node is told it when it enrols");
    machine.open().await.unwrap();
    let ratchet = machine.ratchet.lock().await.clone();
    let world = changed(world, &recovery).await;
    assert_ne!(world.coordinator.pin(), old);

    let trust = Trust { pin: old, recovery: answer.recovery, serial: 0 };
    let (pin, change) = connect(&world, trust).await.unwrap().unwrap();
    assert_eq!(pin, world.coordinator.pin());
    let after = Trust { pin, serial: change.serial, ..trust };
    assert_eq!(connect(&world, after).await.unwrap(), None, "from then on it is simply the pin");
    let machine = Machine::new(&identity, world.address(), pin);
    *machine.ratchet.lock().await = ratchet;
    assert!(machine.config().await.is_ok(), "its name and its key are what they were");
    assert_eq!(world.count_events("pin_change").await, 1);

    // A node that was away for two changes comes back too.
    let world = changed(world, &recovery).await;
    let (twice, _) = connect(&world, trust).await.unwrap().unwrap();
    assert_eq!(twice, world.coordinator.pin());
    assert!(connect(&world, after).await.unwrap().is_some());
}

#[tokio::test]
async fn a_changed_pin_is_refused_by_who_trusts_no_recovery_key_or_another() {
    let (world, recovery, old) = closed().await;
    let world = changed(world, &recovery).await;
    for recovery in [None, Some(RecoverySeed::generate().public_key())] {
        let trust = Trust { pin: old, recovery, serial: 0 };
        let error = connect(&world, trust).await.unwrap_err();
        assert!(PinMismatch::find(&error).is_some(), "{error}");
    }
}

#[tokio::test]
async fn only_the_recovery_key_of_the_state_changes_its_pin_and_only_when_nobody_serves_it() {
    let (world, recovery, old) = closed().await;
    let error = Coordinator::change_pin(&world.dir, &recovery).unwrap_err().to_string();
    assert!(error.contains("in use by process"), "{error}");
    let World { outer, dir, coordinator, server } = world;
    server.shutdown().await;
    drop(coordinator);
    let error = Coordinator::change_pin(&dir, &RecoverySeed::generate()).unwrap_err().to_string();
    assert!(error.contains("not the recovery key"), "{error}");
    let world = World::at(outer, dir).await;
    assert_eq!(world.coordinator.pin(), old);
}

#[tokio::test]
async fn tickets_of_the_old_key_are_void_and_new_ones_are_good() {
    let (world, recovery, _) = closed().await;
    let before = world.ticket("a1").await;
    let world = changed(world, &recovery).await;
    assert_eq!(class(world.machine().enrol(&before).await), ErrorClass::Policy);
    assert!(world.machine().enrol(&world.ticket("a1").await).await.is_ok());
}

#[tokio::test]
async fn what_an_older_kiln_left_of_a_change_in_the_clear_is_removed_and_the_old_key_serves_no_more() {
    let (world, recovery, old) = closed().await;
    let before = world.own_identity();
    let World { outer, dir, coordinator, server } = world;
    server.shutdown().await;
    drop(coordinator);
    let new = Coordinator::change_pin(&dir, &recovery).unwrap();
    assert_ne!(new, old);
    let after = unsealed_key(&dir.join("state.db"), &outer.path().join("state.unlock-key"));
    assert_eq!((before.fingerprint(), after.fingerprint()), (old, new));
    let put = |name: &str, identity: &Identity| {
        let path = dir.join(name);
        std::fs::write(&path, identity.to_pem().expose()).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        path
    };
    // As if the power had gone before the last step; then the old key, out of an old copy.
    let both = [put("coordinator.key", &before), put("coordinator.key.next", &after)];
    Coordinator::open(&dir).await.unwrap();
    assert!(both.iter().all(|path| !path.exists()), "a key is still in the clear");
    put("coordinator.key", &before);
    let world = World::at(outer, dir).await;
    assert_eq!(world.coordinator.pin(), new);
    assert!(!world.dir.join("coordinator.key").exists());
}

/// Takes the sealed key out of a state, as one that never had a sealed copy.
fn forget_sealed_key(dir: &std::path::Path) {
    rusqlite::Connection::open(dir.join("state.db")).unwrap().execute("DELETE FROM sealed", []).unwrap();
}

#[tokio::test]
async fn a_state_whose_key_is_lost_says_which_and_what_to_do() {
    let (world, _recovery, pin) = closed().await;
    let World { outer: _outer, dir, coordinator, server } = world;
    server.shutdown().await;
    drop(coordinator);
    forget_sealed_key(&dir);
    let error = format!("{:#}", Coordinator::open(&dir).await.unwrap_err());
    assert!(error.contains(&pin.to_string()) && error.contains("restore"), "{error}");
}
