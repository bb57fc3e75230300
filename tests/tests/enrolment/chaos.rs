//! Networks that do their worst, and what happens after a node is ready.

use kiln_protocol::admin::{NodeStatus, RegistryState};
use kiln_tests::chaos::Faults;

use crate::world::{Agent, World};

const ONE_KEY: &str = r#"[cluster]
users = [{ name = "ops", authorized_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq one"] }]"#;
const TWO_KEYS: &str = r#"[cluster]
users = [{ name = "ops", authorized_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq two",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq three"] }]"#;

/// How often something stands in the audit trail.
async fn count(world: &World, what: &str) -> usize {
    let events = world.coordinator().events(0, 10_000).await.unwrap();
    events.iter().filter(|event| event.what == what).count()
}

#[tokio::test]
async fn agents_join_through_a_network_that_loses_three_answers_in_ten() {
    // They wait most of the time.
    tokio::join!(join_through_losses(1), join_through_losses(2), join_through_losses(3));
}

async fn join_through_losses(seed: u64) {
    let (world, chaos) = World::behind(Faults::HARSH, seed).await;
    let (server, worker) = (world.agent("s1").await, world.agent("a1").await);
    tokio::join!(server.ready(), worker.ready());
    assert_eq!((server.k3s_starts(), worker.k3s_starts()), (1, 1), "seed {seed}");
    let status = world.coordinator().status().await.unwrap();
    // What was repeated because its answer was lost is no false alarm.
    assert!(status.alarms.is_empty(), "seed {seed}: {status:#?}");
    assert!(status.nodes.iter().all(|node| node.registry == RegistryState::Bound), "seed {seed}");
    assert!(status.nodes.iter().all(NodeStatus::is_ready), "seed {seed}: {status:#?}");
    for (what, times) in [("bind", 2), ("pass_gate", 2), ("ready", 2), ("ticket_contested", 0)] {
        assert_eq!(count(&world, what).await, times, "{what}, seed {seed}");
    }
    assert!(chaos.broken() > 0 && chaos.connections() > 2, "seed {seed}: {chaos:?}");
}

#[tokio::test]
async fn a_network_in_which_every_second_answer_is_lost_only_takes_longer() {
    let faults = Faults { lose_answer: 0.5, ..Faults::NONE };
    let (world, chaos) = World::behind(faults, 7).await;
    let agent = world.agent("s1").await;
    agent.ready().await;
    assert!(chaos.lost() > 0);
    assert_eq!(count(&world, "bind").await, 1);
}

#[tokio::test]
async fn a_changed_file_reaches_nodes_that_are_ready_and_takes_keys_away_again() {
    let world = World::new().await;
    let (server, worker) = (world.agent("s1").await, world.agent("a1").await);
    tokio::join!(server.ready(), worker.ready());
    world.apply_edited("[cluster]", ONE_KEY).await;
    tokio::join!(server.has_keys("ops", 1), worker.has_keys("ops", 1));
    world.apply_edited("[cluster]", TWO_KEYS).await;
    tokio::join!(server.has_keys("ops", 2), worker.has_keys("ops", 2));
    world.apply_edited("[cluster]", "[cluster]").await;
    tokio::join!(server.has_keys("ops", 0), worker.has_keys("ops", 0));
    assert_eq!((server.k3s_starts(), worker.k3s_starts()), (1, 1), "k3s is left alone");
}

#[tokio::test]
async fn what_changed_while_the_coordinator_was_away_is_picked_up_at_the_next_contact() {
    let mut world = World::new().await;
    let server = world.agent("s1").await;
    server.ready().await;
    world.stop().await;
    world.start().await;
    world.apply_edited("[cluster]", ONE_KEY).await;
    server.has_keys("ops", 1).await;
}

#[tokio::test]
async fn a_revoked_node_that_is_ready_says_so_and_keeps_running_k3s() {
    let world = World::new().await;
    let server: Agent = world.agent("s1").await;
    server.ready().await;
    world.coordinator().revoke(&"s1".parse().unwrap()).await.unwrap();
    server.until(|seen| seen.contains("[ready] revoked")).await;
    assert_eq!(server.k3s_starts(), 1);
}
