//! The cluster gets other tokens, and nobody is left behind.

use kiln_coordinator::Limits;
use kiln_protocol::api::GateAnswer;
use kiln_protocol::chores::ChoresDone;
use kiln_protocol::config::Membership;
use kiln_protocol::{ErrorClass, Identity};

use super::common::{Machine, World, class};

async fn ready(world: &World, node: &str) -> Machine {
    let machine = world.enrolled(node).await;
    assert_eq!(machine.gate().await.unwrap(), GateAnswer::Go);
    machine.report_ready().await.unwrap();
    machine
}

/// The token that a node is told.
async fn token(machine: &Machine) -> String {
    match machine.config().await.unwrap().k3s.membership {
        Membership::FirstServer { token, .. }
        | Membership::JoiningServer { token, .. }
        | Membership::Agent { token, .. } => token.expose().to_owned(),
    }
}

fn waits(answer: GateAnswer) -> String {
    match answer {
        GateAnswer::Wait { reason, .. } => reason,
        GateAnswer::Go => panic!("it should have waited"),
    }
}

#[tokio::test]
async fn the_server_token_counts_until_k3s_has_the_next_one() {
    let world = World::within(3, Limits::default()).await;
    let (s1, s2) = (ready(&world, "s1").await, ready(&world, "s2").await);
    s1.do_chores(&[]).await;
    let before = (token(&s1).await, token(&s2).await);
    world.admin().rotate_tokens().await.unwrap();
    world.admin().rotate_tokens().await.unwrap();
    assert_eq!(world.count_events("ask_token_rotation").await, 1);
    let tokens = world.coordinator.status().await.unwrap().live.unwrap().tokens;
    assert!(tokens.asked.is_some() && tokens.rotated.is_none());
    assert_eq!((token(&s1).await, token(&s2).await), before, "nobody knows yet whether k3s has it");
    // Nobody joins with a token that is about to end.
    let s3 = world.enrolled("s3").await;
    assert!(waits(s3.gate().await.unwrap()).contains("tokens are being rotated"));

    let change = s1.chores().await.unwrap().change_token.unwrap();
    assert_eq!((change.serial, token(&s1).await == change.token.expose()), (1, false));
    // An answer was lost: it is the same again. What failed is told.
    let failure = Some("k3s answers 500".to_owned());
    s1.chores_after(ChoresDone { failure, ..ChoresDone::default() }).await.unwrap();
    let tokens = world.coordinator.status().await.unwrap().live.unwrap().tokens;
    assert_eq!(tokens.trouble.as_deref(), Some("k3s answers 500"));
    // Another change's word is none.
    let wrong = ChoresDone { token_changed: Some(7), ..ChoresDone::default() };
    assert_eq!(s1.chores_after(wrong).await.unwrap().change_token, Some(change.clone()));
    // Said twice, as after a lost answer.
    let done = ChoresDone { token_changed: Some(1), ..ChoresDone::default() };
    for _ in 0..2 {
        assert_eq!(s1.chores_after(done.clone()).await.unwrap().change_token, None);
    }
    for server in [&s1, &s2, &s3] {
        assert_eq!(token(server).await, change.token.expose());
    }
    let tokens = world.coordinator.status().await.unwrap().live.unwrap().tokens;
    assert!(tokens.asked.is_none() && tokens.trouble.is_none() && tokens.rotated.is_some());
    assert_eq!(world.count_events("rotate_tokens").await, 1);
    assert_eq!(s3.gate().await.unwrap(), GateAnswer::Go);
}

#[tokio::test]
async fn a_rotation_survives_the_coordinator_at_any_point() {
    let world = World::new().await;
    let (identity, ticket) = (Identity::generate().unwrap(), world.ticket("s1").await);
    let mut server = world.machine_with(&identity);
    server.enrol(&ticket).await.unwrap();
    server.gate().await.unwrap();
    server.report_ready().await.unwrap();
    world.coordinator.rotate_tokens().await.unwrap();
    let change = server.chores().await.unwrap().change_token;
    assert!(change.is_some());
    let reopened = async |world: World, server: &Machine| {
        let kept = server.ratchet.lock().await.clone();
        let world = world.restart().await;
        let server = world.machine_with(&identity);
        *server.ratchet.lock().await = kept;
        (world, server)
    };
    let (world, again) = reopened(world, &server).await;
    server = again;
    assert_eq!(server.chores().await.unwrap().change_token, change, "the same token, not a third");
    server.do_chores(&[]).await;
    let (_world, server) = reopened(world, &server).await;
    assert_eq!(token(&server).await, change.unwrap().token.expose());
    assert_eq!(server.chores().await.unwrap().change_token, None);
}

#[tokio::test]
async fn every_agent_gets_another_join_token_under_the_same_id() {
    let world = World::new().await;
    let server = ready(&world, "s1").await;
    let a1 = world.enrolled("a1").await;
    let before = server.do_chores(&[]).await.make_tokens;
    assert_eq!(a1.gate().await.unwrap(), GateAnswer::Go);
    assert_eq!(class(world.coordinator.rotate_tokens().await.map_err(refusal)), ErrorClass::Policy);
    a1.report_ready().await.unwrap();
    let told = token(&a1).await;
    world.coordinator.rotate_tokens().await.unwrap();
    let after = server.do_chores(&[]).await.make_tokens;
    assert_eq!((before.len(), after.len()), (1, 1));
    assert_eq!(after[0].id, before[0].id);
    assert_ne!(after[0].secret, before[0].secret);
    let now = token(&a1).await;
    assert!(now != told && now.ends_with(after[0].secret.expose()), "{}", after[0].id);
    assert!(server.chores().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_rotation_without_a_ready_server_is_refused() {
    let world = World::new().await;
    let refused = world.coordinator.rotate_tokens().await.map_err(refusal).unwrap_err();
    assert!(refused.message.contains("no server of the cluster is ready"), "{refused}");
    world.end().await;
    assert!(world.coordinator.rotate_tokens().await.is_err());
}

fn refusal(error: anyhow::Error) -> kiln_protocol::ApiError {
    error.downcast().unwrap()
}
