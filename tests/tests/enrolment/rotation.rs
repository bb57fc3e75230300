//! What is made anew while nodes run: their keys, and the tokens of their cluster.

use std::time::Duration;

use kiln_protocol::admin::RegistryState;

use crate::world::{Agent, World};

#[tokio::test]
async fn the_tokens_of_a_cluster_that_runs_are_rotated_and_nobody_restarts() {
    let world = World::new().await;
    let (server, worker) = (world.agent("s1").await, world.agent("a1").await);
    tokio::join!(server.ready(), worker.ready());
    let token = |agent: &Agent| {
        let file = agent.file("etc/rancher/k3s/token").unwrap_or_default();
        String::from_utf8(file).unwrap().trim_end().to_owned()
    };
    let (servers, workers) = (token(&server), token(&worker));
    // A join token is in the cluster before its agent passes the gate; rotation begins
    // when nobody is on the way.
    world.coordinator().rotate_tokens().await.unwrap();
    server.wait(|| token(&server) != servers).await;
    worker.wait(|| token(&worker) != workers).await;
    assert_eq!(server.server_token(), Some(token(&server)), "k3s has what it would start with");
    // Begun after it was known that k3s has it: every configuration says so too.
    let mut changes = world.coordinator().changes();
    let rotated = async {
        while world.coordinator().status().await.unwrap().live.unwrap().tokens.rotated.is_none() {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), rotated).await.expect("nobody says that it was done");
    let secrets: Vec<String> = server.kubectl().into_iter().map(|(_, fed)| fed).collect();
    let join = token(&worker).rsplit_once('.').unwrap().1.to_owned();
    assert!(secrets.last().unwrap().contains(&join), "the Secret in the cluster has the new join token");
    assert_eq!((server.k3s_starts(), worker.k3s_starts()), (1, 1));
}

#[tokio::test]
async fn a_key_is_replaced_at_once_where_its_node_is_connected() {
    let world = World::new().await;
    let server = world.agent("s1").await;
    server.ready().await;
    let node = async || world.coordinator().status().await.unwrap().nodes[0].clone();
    let before = node().await.key;
    let mut changes = world.coordinator().changes();
    let replaced = async {
        while !node().await.connected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world.coordinator().rotate(&"s1".parse().unwrap()).await.unwrap();
        while node().await.key == before {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), replaced).await.expect("it kept its key");
    assert_eq!(node().await.registry, RegistryState::Bound);
}
