//! Tickets and keys.

use super::common::{Machine, World, class, name};
use jiff::{SignedDuration, Timestamp};
use kiln_protocol::admin::RegistryState;
use kiln_protocol::{ErrorClass, Identity, Role};
use std::time::Duration;

#[tokio::test]
async fn a_ticket_binds_a_key_and_the_answer_stays_the_same() {
    let world = World::new().await;
    let (ticket, machine) = (world.ticket("a1").await, world.machine());
    let answer = machine.enrol(&ticket).await.unwrap();
    assert_eq!((answer.node, answer.role, answer.generation), (name("a1"), Role::Agent, 1));
    assert_eq!(answer.cluster.as_str(), "test");
    for _ in 0..3 {
        assert_eq!(machine.enrol(&ticket).await.unwrap().node, name("a1"));
    }
    let status = world.node("a1").await;
    assert_eq!((status.registry, status.key), (RegistryState::Bound, Some(machine.key)));
    assert_eq!(world.count_events("bind").await, 1);
}

#[tokio::test]
async fn the_bound_key_is_answered_long_after_the_ticket_expired() {
    let world = World::new().await;
    let now = Timestamp::now();
    let ticket = world.ticket_between("a1", now, now + SignedDuration::from_millis(1500)).await;
    let machine = world.machine();
    machine.enrol(&ticket).await.unwrap();
    wait_until(now + SignedDuration::from_millis(1600)).await;
    assert!(machine.enrol(&ticket).await.is_ok());
    assert_eq!(class(world.machine().enrol(&ticket).await), ErrorClass::TicketContested);
    assert_eq!(world.node("a1").await.registry, RegistryState::Bound, "too late to cost the node its place");
}

async fn wait_until(then: Timestamp) {
    while Timestamp::now() < then {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_hundred_parallel_enrolments_of_one_key_are_one_bind() {
    let world = World::new().await;
    let ticket = world.ticket("a1").await;
    let pem = Identity::generate().unwrap().to_pem();
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let (machine, ticket) =
                (world.machine_with(&Identity::from_pem(pem.expose()).unwrap()), ticket.clone());
            tokio::spawn(async move { machine.enrol(&ticket).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap().node, name("a1"));
    }
    assert_eq!(world.count_events("bind").await, 1);
    assert_eq!(world.node("a1").await.registry, RegistryState::Bound);
}

#[tokio::test]
async fn two_keys_in_parallel_make_one_winner_who_is_held_and_an_alarm() {
    let world = World::new().await;
    let ticket = world.ticket("a1").await;
    let (one, two) = (world.machine(), world.machine());
    let (first, second) = tokio::join!(one.enrol(&ticket), two.enrol(&ticket));
    let (winner, loser, refusal) = match (first, second) {
        (Ok(_), Err(refusal)) => (one, two, refusal),
        (Err(refusal), Ok(_)) => (two, one, refusal),
        other => panic!("not one winner: {other:?}"),
    };
    assert_eq!(refusal.class, ErrorClass::TicketContested);
    let status = world.coordinator.status().await.unwrap();
    let node = status.node(&name("a1")).unwrap();
    assert_eq!((node.registry, node.key), (RegistryState::Held, Some(winner.key)));
    let [alarm] = &status.alarms[..] else { panic!("{:?}", status.alarms) };
    assert!(
        alarm.message.contains(&loser.key.to_string()) && alarm.message.contains(&winner.key.to_string())
    );
    assert_eq!(class(winner.config().await), ErrorClass::Held);
    assert_eq!(class(winner.enrol(&ticket).await), ErrorClass::Held);
    assert_eq!(class(loser.enrol(&ticket).await), ErrorClass::TicketContested);
    assert_eq!(class(loser.config().await), ErrorClass::Policy);
}

#[tokio::test]
async fn a_ticket_that_is_unknown_expired_or_not_yet_valid_says_which() {
    let world = World::new().await;
    let machine = world.machine();
    assert_eq!(class(machine.enrol(&world.unknown_ticket()).await), ErrorClass::TicketUnknown);
    let (now, hour) = (Timestamp::now(), SignedDuration::from_hours(1));
    let expired = world.ticket_between("a1", now - hour - hour, now - hour).await;
    let refusal = machine.enrol(&expired).await.unwrap_err();
    assert_eq!(refusal.class, ErrorClass::TicketExpired);
    assert!(refusal.hint.unwrap().contains("coordinator extend a1"));
    assert_eq!(refusal.retry_after, Some(300));
    assert_eq!(world.node("a1").await.registry, RegistryState::Expired);
    let early = world.ticket_between("a2", now + hour, now + hour + hour).await;
    let refusal = machine.enrol(&early).await.unwrap_err();
    assert_eq!(refusal.class, ErrorClass::TicketExpired);
    assert!(refusal.message.contains("not valid before"), "{refusal}");
}

#[tokio::test]
async fn extending_revives_an_expired_ticket_without_touching_the_node() {
    let world = World::new().await;
    let (now, hour) = (Timestamp::now(), SignedDuration::from_hours(1));
    let (ticket, machine) =
        (world.ticket_between("a1", now - hour - hour, now - hour).await, world.machine());
    assert_eq!(class(machine.enrol(&ticket).await), ErrorClass::TicketExpired);
    let until = world.coordinator.extend(&name("a1"), Duration::from_secs(60)).await.unwrap();
    assert!(until > now);
    assert!(machine.enrol(&ticket).await.is_ok());
    assert!(world.coordinator.extend(&name("a1"), Duration::from_secs(60)).await.is_err());
}

#[tokio::test]
async fn a_recorded_proof_is_worth_nothing_over_another_key_or_to_another_coordinator() {
    let (world, other) = (World::new().await, World::new().await);
    let (ticket, machine, thief) = (world.ticket("a1").await, world.machine(), world.machine());
    let recorded = ticket.prove(&machine.key);
    let refusal = thief.enrol_with(ticket.public_key(), recorded).await.unwrap_err();
    assert_eq!(refusal.class, ErrorClass::Policy);
    assert!(!refusal.to_string().contains("a1"), "names are told to nobody without a good proof");
    // The same ticket, registered at another coordinator too.
    let status = world.coordinator.status().await.unwrap();
    let planned = status.node(&name("a1")).unwrap().ticket.clone().unwrap();
    let record = kiln_protocol::admin::TicketRecord {
        node: name("a1"),
        generation: planned.generation,
        role: Role::Agent,
        not_before: Timestamp::now(),
        expires: planned.expires,
        confirm_console: false,
        hints: kiln_protocol::admin::Hints::default(),
    };
    other.coordinator.mint(ticket.public_key(), record).await.unwrap();
    let identity = Identity::generate().unwrap();
    let recorded = ticket.prove(&identity.fingerprint());
    let there = Machine::new(&identity, other.address(), other.coordinator.pin());
    assert_eq!(class(there.enrol_with(ticket.public_key(), recorded).await), ErrorClass::Policy);
    assert!(machine.enrol(&ticket).await.is_ok(), "the honest node still joins");
}

#[tokio::test]
async fn a_key_never_gets_a_second_name() {
    let world = World::new().await;
    let machine = world.enrolled("a1").await;
    let refusal = machine.enrol(&world.ticket("a2").await).await.unwrap_err();
    assert_eq!(refusal.class, ErrorClass::NameConflict);
    let same_node = machine.enrol(&world.ticket("a1").await).await.unwrap_err();
    assert_eq!(same_node.class, ErrorClass::NameConflict, "nor a second generation");
    let admin = world.machine_with(&world.admin_identity());
    assert_eq!(class(admin.enrol(&world.ticket("a2").await).await), ErrorClass::Policy);
}

#[tokio::test]
async fn binding_a_generation_supersedes_the_earlier_ones_and_minting_does_not() {
    let world = World::new().await;
    let old = world.enrolled("a1").await;
    let ticket = world.ticket("a1").await;
    assert!(old.config().await.is_ok(), "a ticket alone supersedes nothing");
    let status = world.node("a1").await;
    assert_eq!((status.generation, status.next_generation), (1, 3));
    assert_eq!(status.ticket.unwrap().generation, 2);
    let new = world.machine();
    assert_eq!(new.enrol(&ticket).await.unwrap().generation, 2);
    assert_eq!(class(old.config().await), ErrorClass::Superseded);
    assert_eq!(class(old.report_ready().await), ErrorClass::Superseded);
    assert!(new.config().await.is_ok());
    assert_eq!(world.node("a1").await.key, Some(new.key));
}

#[tokio::test]
async fn a_restart_forgets_nothing() {
    let world = World::new().await;
    let (ticket, unused) = (world.ticket("a1").await, world.ticket("a2").await);
    let pem = Identity::generate().unwrap().to_pem();
    let identity = || Identity::from_pem(pem.expose()).unwrap();
    world.machine_with(&identity()).enrol(&ticket).await.unwrap();
    let (pin, events) = (world.coordinator.pin(), world.coordinator.events(0, 1000).await.unwrap());
    let machine = world.machine_with(&identity());
    let config = machine.config().await.unwrap();
    let ratchet = machine.ratchet.lock().await.clone();

    let world = world.restart().await;
    assert_eq!(world.coordinator.pin(), pin);
    assert_eq!(world.coordinator.events(0, 1000).await.unwrap(), events);
    let machine = world.machine_with(&identity());
    *machine.ratchet.lock().await = ratchet;
    assert_eq!(machine.enrol(&ticket).await.unwrap().generation, 1);
    assert_eq!(machine.config().await.unwrap(), config, "the same secrets");
    assert_eq!(
        class(world.machine().enrol(&ticket).await),
        ErrorClass::TicketContested,
        "what is burnt stays burnt"
    );
    assert!(world.machine().enrol(&unused).await.is_ok());
}

#[tokio::test]
async fn hostile_names_are_refused_by_type() {
    let world = World::new().await;
    let admin = world.machine_with(&world.admin_identity());
    let ticket = world.unknown_ticket().public_key();
    let long = "a".repeat(64);
    for hostile in ["../../etc", "A1", "nöde", "a b", "", &long] {
        let body = serde_json::json!({"ticket": ticket, "record": {
            "node": hostile, "generation": 1, "role": "agent",
            "not_before": "2026-01-01T00:00:00Z", "expires": "2030-01-01T00:00:00Z"}});
        let refusal = admin.post::<()>(kiln_protocol::admin::MINT, &body).await.unwrap_err();
        assert_eq!(refusal.class, ErrorClass::Format, "{hostile}");
    }
}
