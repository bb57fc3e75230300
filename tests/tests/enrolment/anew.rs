//! A machine that is bound, is refused before its k3s ever ran, and is given
//! another ticket.

use kiln_protocol::admin::RegistryState;
use kiln_protocol::console::key_in;

use crate::world::World;

#[tokio::test]
async fn a_node_that_a_restored_coordinator_never_heard_of_joins_with_another_ticket() {
    let mut world = World::new().await;
    let backup = world.backup().await;
    let worker = world.agent("a1").await;
    worker.until(|seen| seen.contains("[gate]")).await;
    let key = key_in(&worker.console()).unwrap();
    world.restore(&backup).await;
    worker.until(|seen| seen.contains("[gate] policy")).await;
    worker.is_given(world.valid_ticket("a1").await);
    let server = world.agent("s1").await;
    tokio::join!(server.ready(), worker.ready());
    assert_eq!(key_in(&worker.console()), Some(key), "nobody knows it by another name");
    assert!(world.coordinator().status().await.unwrap().alarms.is_empty());
}

#[tokio::test]
async fn a_node_that_was_revoked_is_another_machine_with_another_ticket() {
    let world = World::new().await;
    let worker = world.agent("a1").await;
    worker.until(|seen| seen.contains("[gate]")).await;
    let key = key_in(&worker.console()).unwrap();
    world.coordinator().revoke(&"a1".parse().unwrap()).await.unwrap();
    worker.until(|seen| seen.contains("[gate] revoked")).await;
    worker.is_given(world.ticket_of_generation("a1", 2).await);
    let server = world.agent("s1").await;
    tokio::join!(server.ready(), worker.ready());
    let status = world.coordinator().status().await.unwrap();
    let node = status.nodes.iter().find(|node| node.name.as_str() == "a1").unwrap();
    assert_eq!((node.registry, node.generation), (RegistryState::Bound, 2));
    assert_ne!(node.key, Some(key), "a key has one name for ever");
    assert_eq!(key_in(&worker.console()), node.key);
    assert!(status.alarms.is_empty(), "{:?}", status.alarms);
}
