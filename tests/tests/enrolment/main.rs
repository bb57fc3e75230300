//! The real agent against the real coordinator, over real TLS, in one process:
//! only the machine is made of memory.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

mod anew;
mod chaos;
mod rotation;
mod world;

use std::time::Duration;

use jiff::Timestamp;
use kiln_protocol::admin::RegistryState;

use world::{Agent, World};

#[tokio::test]
async fn a_server_and_an_agent_join_in_order() {
    let world = World::new().await;
    let server = world.agent("s1").await;
    let worker = world.agent("a1").await;
    // The worker alone gets as far as the gate, and says what it waits for.
    worker.until(|seen| seen.contains("[gate]")).await;
    assert_eq!(worker.k3s_starts(), 0, "k3s was started before there was a server\n{}", worker.console());
    tokio::join!(server.ready(), worker.ready());
    assert_eq!((server.k3s_starts(), worker.k3s_starts()), (1, 1));
    assert!(
        world
            .coordinator()
            .status()
            .await
            .unwrap()
            .nodes
            .iter()
            .all(kiln_protocol::admin::NodeStatus::is_ready)
    );
    // Each holds what its role may know.
    assert!(server.file("var/lib/rancher/k3s/server/tls/server-ca.key").is_some());
    assert!(worker.file("var/lib/rancher/k3s/server/tls/server-ca.key").is_none());
    let server_token = server.everything_below("etc/rancher");
    let worker_token = worker.everything_below("etc/rancher");
    assert!(server_token.contains("::server:"), "{server_token}");
    assert!(!worker_token.contains("::server:"), "{worker_token}");
    // The worker's token is its own, and the server has put it into the cluster.
    let (_, own) = worker_token.split_once("::").unwrap();
    let (id, secret) = own.lines().next().unwrap().split_once('.').unwrap();
    assert!(!server_token.contains(secret));
    let (args, input) = server.kubectl().remove(0);
    assert!(args.starts_with("apply ") && !args.contains(secret));
    assert!(input.contains(secret) && input.contains(&format!("bootstrap-token-{id}")));
}

#[tokio::test]
async fn an_unknown_ticket_lets_nobody_in() {
    let world = World::new().await;
    let stranger = Agent::with(world.unregistered_ticket());
    stranger.until(|seen| seen.contains("ticket_unknown")).await;
    assert_eq!(stranger.k3s_starts(), 0);
    // The beacon: its key is proven, so an operator may believe who said it.
    let key = kiln_protocol::console::key_in(&stranger.console()).unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let status = world.coordinator().status().await.unwrap();
        let told = status.strangers.iter().find(|told| told.key == key).and_then(|told| told.report.as_ref());
        if told.is_some_and(|report| serde_json::to_string(report).unwrap().contains("ticket_unknown")) {
            break;
        }
        assert!(std::time::Instant::now() < end, "no beacon: {status:#?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_expired_ticket_waits_for_more_time_and_then_joins() {
    let world = World::new().await;
    let past = Timestamp::now() - Duration::from_secs(7200);
    let late = Agent::with(world.ticket("s1", past, past + Duration::from_secs(3600)).await);
    late.until(|seen| seen.contains("ticket_expired")).await;
    world.coordinator().extend(&"s1".parse().unwrap(), Duration::from_secs(600)).await.unwrap();
    late.ready().await;
}

#[tokio::test]
async fn a_truncated_ticket_is_named_and_nobody_is_asked() {
    let world = World::new().await;
    let text = world.valid_ticket("s1").await.to_text();
    let cut = Agent::with_seed_text(&text[..text.len() - 10]);
    cut.until(|seen| seen.contains("truncated")).await;
    assert!(cut.file("var/lib/kiln/node.key").is_none(), "{}", cut.console());
}

#[tokio::test]
async fn a_reused_ticket_is_contested_and_holds_the_node_until_an_operator_speaks() {
    let world = World::new().await;
    let ticket = world.valid_ticket("s1").await;
    let first = Agent::with(ticket.clone());
    first.ready().await;
    let thief = Agent::with(ticket);
    thief.until(|seen| seen.contains("ticket_contested")).await;
    assert_eq!(thief.k3s_starts(), 0);
    let held = world.coordinator().status().await.unwrap();
    assert_eq!(held.nodes[0].registry, RegistryState::Held, "{held:#?}");
    // The operator knows which machine is theirs; the other one stays out.
    world.coordinator().release(&"s1".parse().unwrap()).await.unwrap();
    let released = world.coordinator().status().await.unwrap();
    assert_eq!(released.nodes[0].registry, RegistryState::Bound);
    assert_eq!(released.nodes[0].key, held.nodes[0].key);
}

#[tokio::test]
async fn nobody_but_root_can_read_a_secret_on_a_node_and_nothing_is_left_of_its_ticket() {
    let world = World::new().await;
    let (server_ticket, worker_ticket) = (world.valid_ticket("s1").await, world.valid_ticket("a1").await);
    let (server, worker) = (Agent::with(server_ticket.clone()), Agent::with(worker_ticket.clone()));
    tokio::join!(server.ready(), worker.ready());
    for (agent, ticket) in [(&server, server_ticket), (&worker, worker_ticket)] {
        let secret_of = |path: &str| String::from_utf8(agent.file(path).unwrap()).unwrap().trim().to_owned();
        let password = secret_of("etc/rancher/node/password");
        assert!(password.len() >= 16);
        let (files, ticket) = (agent.files(), ticket.to_text());
        assert!(files.len() > 5, "{files:?}");
        assert!(files.iter().any(|(_, open, _)| *open) && files.iter().any(|(_, open, _)| !*open));
        for (path, open, content) in &files {
            for trace in [&*ticket, &ticket[ticket.len() - 40..], "kiln1."] {
                assert!(!content.contains(trace), "{path} holds what is left of a ticket");
            }
            for secret in ["PRIVATE KEY", "K10", "::server:", "::node:", &password] {
                assert!(!open || !content.contains(secret), "anybody may read {secret:?} in {path}");
            }
        }
    }
}

#[tokio::test]
async fn another_coordinator_at_the_address_is_told_nothing() {
    let (pinned, other) = (World::new().await, World::new().await);
    let ticket = pinned.ticket_for_address_of(&other, "s1").await;
    let misled = Agent::with(ticket);
    misled.until(|seen| seen.contains("pin")).await;
    // It refused in the handshake: that coordinator has seen no key and no name.
    let status = other.coordinator().status().await.unwrap();
    assert!(status.nodes.iter().all(|node| node.key.is_none() && node.last_seen.is_none()), "{status:#?}");
}

#[tokio::test]
async fn a_coordinator_that_comes_up_later_is_waited_for() {
    let mut world = World::new().await;
    world.stop().await;
    let early = world.agent("s1").await;
    early.until(|seen| seen.contains("[enrol]")).await;
    world.start().await;
    early.ready().await;
}

#[tokio::test]
async fn an_agent_that_is_killed_at_any_step_goes_on_with_the_same_key() {
    let world = World::new().await;
    let mut agent = world.agent("s1").await;
    let mut key = None;
    for step in ["[key]", "[enrol]", "[configure]", "[gate]"] {
        agent.until(|seen| seen.contains(step)).await;
        // The process is gone; what it wrote stays.
        agent = agent.restarted();
        let now = agent.file("var/lib/kiln/node.key");
        assert!(key.is_none() || key == now, "another key after {step}");
        key = now.or(key);
    }
    agent.ready().await;
    assert_eq!(agent.file("var/lib/kiln/node.key"), key);
    let status = world.coordinator().status().await.unwrap();
    assert_eq!(status.nodes[0].registry, RegistryState::Bound);
}

#[tokio::test]
async fn a_machine_without_a_ticket_joins_once_its_console_was_read_and_typed() {
    let world = World::new().await;
    let waiting = Agent::with_seed_text(&world.contact().to_text());
    waiting.until(|seen| seen.contains("[enrol] pending")).await;
    let shown = kiln_protocol::console::key_in(&waiting.console()).unwrap();
    let typed = shown.to_string()[..24].to_uppercase().parse().unwrap();
    let approved = world.coordinator().approve(&"s1".parse().unwrap(), typed).await.unwrap();
    assert_eq!(approved.key, shown);
    waiting.ready().await;
}

#[tokio::test]
async fn a_server_goes_on_as_soon_as_its_console_is_confirmed() {
    let world = World::new().await;
    let server = Agent::with(world.console_ticket("s1").await);
    server.until(|seen| seen.contains("[configure] pending")).await;
    assert!(server.file("var/lib/rancher/k3s/server/tls/server-ca.key").is_none());
    let shown = kiln_protocol::console::key_in(&server.console()).unwrap();
    world.coordinator().confirm(&"s1".parse().unwrap(), None, shown).await.unwrap();
    server.ready().await;
}
