//! What an operator vouches for who has read a machine's console.

use super::common::{Machine, World, class, name};
use jiff::{SignedDuration, Timestamp};
use kiln_protocol::admin::{
    ApproveAnswer, ApproveRequest, ConfirmRequest, Confirmation, Hints, RegistryState, TicketRecord,
};
use kiln_protocol::api::{ApprovalRequest, EnrolAnswer, Facts, GateAnswer};
use kiln_protocol::ticket::Ticket;
use kiln_protocol::{ApiError, ErrorClass, Fingerprint, Role, api};

/// A ticket of a node whose console is read.
pub(crate) async fn read_ticket(world: &World, node: &str, role: Role) -> Ticket {
    let now = Timestamp::now();
    let record = TicketRecord {
        node: name(node),
        generation: world.coordinator.next_generation(&name(node)).await.unwrap(),
        role,
        not_before: now,
        expires: now + SignedDuration::from_hours(1),
        confirm_console: true,
        hints: Hints::default(),
    };
    let ticket = world.unknown_ticket();
    world.coordinator.mint(ticket.public_key(), record).await.unwrap();
    ticket
}

pub(crate) async fn confirm(world: &World, node: &str, shown: Fingerprint) {
    let request = ConfirmRequest { node: name(node), generation: None, fingerprint: shown };
    world.admin().confirm(&request).await.unwrap();
}

#[tokio::test]
async fn a_server_is_given_its_secrets_once_its_console_shows_its_key() {
    let world = World::new().await;
    let (ticket, machine) = (read_ticket(&world, "s1", Role::Server).await, world.machine());
    assert_eq!(world.node("s1").await.console, Some(Confirmation::Awaited));
    machine.enrol(&ticket).await.unwrap();
    let refusal = machine.config().await.unwrap_err();
    assert_eq!((refusal.class, refusal.retry_after), (ErrorClass::Pending, Some(1)));
    assert!(refusal.hint.unwrap().contains(&format!("coordinator confirm s1 {}", machine.key)));
    assert_eq!(class(machine.gate().await), ErrorClass::Pending);
    assert!(machine.report_ready().await.is_ok(), "it may say how far it is");

    for _ in 0..3 {
        confirm(&world, "s1", machine.key).await;
    }
    assert!(machine.config().await.is_ok());
    assert_eq!(machine.gate().await.unwrap(), GateAnswer::Go);
    assert_eq!(world.node("s1").await.console, Some(Confirmation::Confirmed));
    assert_eq!(world.count_events("confirm_console").await, 1);
    let world = world.restart().await;
    assert_eq!(world.node("s1").await.console, Some(Confirmation::Confirmed));
}

#[tokio::test]
async fn an_agent_and_a_node_whose_console_nobody_reads_do_not_wait() {
    let world = World::new().await;
    let (ticket, agent) = (read_ticket(&world, "a1", Role::Agent).await, world.machine());
    agent.enrol(&ticket).await.unwrap();
    assert!(agent.config().await.is_ok());
    let server = world.enrolled("s1").await;
    assert!(server.config().await.is_ok());
    assert_eq!(world.node("s1").await.console, None);
}

#[tokio::test]
async fn a_thief_who_is_first_becomes_the_node_where_no_console_is_read_and_it_is_loud() {
    let world = World::new().await;
    let (ticket, honest, thief) = (world.ticket("s1").await, world.machine(), world.machine());
    thief.enrol(&ticket).await.unwrap();
    assert!(thief.config().await.is_ok(), "a ticket that is read before its node used it is a race");
    assert_eq!(class(honest.enrol(&ticket).await), ErrorClass::TicketContested);
    let status = world.coordinator.status().await.unwrap();
    assert_eq!(status.node(&name("s1")).unwrap().registry, RegistryState::Held);
    assert!(status.alarms[0].message.contains(&honest.key.to_string()), "{:?}", status.alarms);
    assert_eq!(class(thief.config().await), ErrorClass::Held);
}

#[tokio::test]
async fn a_thief_who_is_first_gets_nothing_where_the_console_is_read() {
    let world = World::new().await;
    let ticket = read_ticket(&world, "s1", Role::Server).await;
    let (honest, thief) = (world.machine(), world.machine());
    thief.enrol(&ticket).await.unwrap();
    assert_eq!(class(thief.config().await), ErrorClass::Pending);
    confirm(&world, "s1", honest.key).await;
    confirm(&world, "s1", honest.key).await;
    let status = world.coordinator.status().await.unwrap();
    let node = status.node(&name("s1")).unwrap();
    assert_eq!((node.registry, node.console), (RegistryState::Held, Some(Confirmation::Mismatch)));
    let [alarm] = &status.alarms[..] else { panic!("{:?}", status.alarms) };
    for key in [thief.key, honest.key] {
        assert!(alarm.message.contains(&key.to_string()), "{}", alarm.message);
    }
    assert_eq!(world.count_events("console_mismatch").await, 1, "said once");
    for refusal in [thief.config().await.unwrap_err(), thief.gate().await.unwrap_err()] {
        assert_eq!(refusal.class, ErrorClass::Held);
    }
    // Not even an operator who releases it without looking lets the secrets out.
    world.coordinator.release(&name("s1")).await.unwrap();
    assert_eq!(class(thief.config().await), ErrorClass::Pending);
    // The node itself joins with a ticket of its own.
    world.coordinator.revoke(&name("s1")).await.unwrap();
    let again = read_ticket(&world, "s1", Role::Server).await;
    confirm(&world, "s1", honest.key).await;
    honest.enrol(&again).await.unwrap();
    assert!(honest.config().await.is_ok());
    assert_eq!(class(thief.config().await), ErrorClass::Revoked);
}

#[tokio::test]
async fn a_server_that_is_not_confirmed_is_not_ready_by_its_own_word_and_gets_no_chores() {
    let world = World::new().await;
    let agent = world.enrolled("a1").await;
    let (ticket, server) = (read_ticket(&world, "s1", Role::Server).await, world.machine());
    server.enrol(&ticket).await.unwrap();
    server.report_ready().await.unwrap();
    let refusal = server.chores().await.unwrap_err();
    assert_eq!((refusal.class, refusal.retry_after), (ErrorClass::Pending, Some(1)));
    let status = world.node("s1").await;
    assert!(status.report.is_some() && status.ready.is_none() && status.passed_gate.is_none(), "{status:?}");
    let waits = async || match agent.gate().await.unwrap() {
        GateAnswer::Wait { reason, .. } => reason,
        GateAnswer::Go => panic!("it should have waited"),
    };
    assert!(waits().await.contains("s1 waits for its key to be confirmed"));

    // It was the right one after all, and says so again.
    confirm(&world, "s1", server.key).await;
    assert_eq!(class(server.chores().await), ErrorClass::Policy);
    server.report_ready().await.unwrap();
    assert_eq!(server.do_chores(&[]).await.make_tokens.len(), 1);
    // Or was it not? The console shows another key, and somebody releases it all the same.
    confirm(&world, "s1", world.machine().key).await;
    assert_eq!(class(server.chores().await), ErrorClass::Held);
    world.coordinator.release(&name("s1")).await.unwrap();
    assert_eq!(class(server.chores().await), ErrorClass::Pending);
    assert!(waits().await.contains("no server is ready"));
    assert!(world.coordinator.rotate_tokens().await.is_err(), "nobody is there to give k3s the new one");
}

#[tokio::test]
async fn a_thief_who_comes_after_the_console_was_read_binds_nothing() {
    let world = World::new().await;
    let ticket = read_ticket(&world, "s1", Role::Server).await;
    let (honest, thief) = (world.machine(), world.machine());
    confirm(&world, "s1", honest.key).await;
    for _ in 0..3 {
        assert_eq!(class(thief.enrol(&ticket).await), ErrorClass::TicketContested);
    }
    for _ in 0..3 {
        assert_eq!(class(world.machine().enrol(&ticket).await), ErrorClass::TicketContested);
    }
    let status = world.coordinator.status().await.unwrap();
    assert_eq!(status.node(&name("s1")).unwrap().registry, RegistryState::Issued);
    assert!(status.alarms[0].message.contains(&thief.key.to_string()), "{:?}", status.alarms);
    assert_eq!(world.count_events("console_mismatch").await, 1, "a thief may make as many keys as it likes");
    honest.enrol(&ticket).await.unwrap();
    assert!(honest.config().await.is_ok());
    assert!(world.coordinator.status().await.unwrap().alarms.is_empty());
}

#[tokio::test]
async fn the_console_of_the_next_generation_says_nothing_about_this_one() {
    let world = World::new().await;
    let (ticket, machine) = (read_ticket(&world, "s1", Role::Server).await, world.machine());
    machine.enrol(&ticket).await.unwrap();
    confirm(&world, "s1", machine.key).await;
    read_ticket(&world, "s1", Role::Server).await;
    let shown = world.machine().key;
    world.coordinator.confirm(&name("s1"), Some(2), shown).await.unwrap();
    assert_eq!(world.node("s1").await.registry, RegistryState::Bound);
    assert!(machine.config().await.is_ok());
    let unknown = world.coordinator.confirm(&name("s1"), Some(3), shown).await.unwrap_err();
    assert!(unknown.to_string().contains("no ticket"), "{unknown}");
}

async fn ask(machine: &Machine) -> Result<EnrolAnswer, ApiError> {
    machine.post(api::APPROVAL, &ApprovalRequest { facts: Facts::default() }).await
}

async fn approve(world: &World, node: &str, typed: &str) -> Result<ApproveAnswer, String> {
    let request = ApproveRequest { node: name(node), fingerprint: typed.parse().unwrap() };
    world.admin().approve(&request).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_machine_without_a_ticket_waits_until_its_key_is_typed() {
    let world = World::new().await;
    let machine = world.machine();
    let refusal = ask(&machine).await.unwrap_err();
    assert_eq!((refusal.class, refusal.retry_after), (ErrorClass::Pending, Some(300)));
    assert!(refusal.hint.unwrap().contains("coordinator approve NODE --fingerprint"));
    assert_eq!(class(machine.config().await), ErrorClass::Policy);
    let strangers = world.coordinator.status().await.unwrap().strangers;
    assert!(strangers.len() == 1 && strangers[0].pending && strangers[0].key == machine.key);

    let shown = machine.key.to_string();
    let approved = approve(&world, "s1", &shown[..20].to_uppercase()).await.unwrap();
    assert_eq!((approved.key, approved.generation), (machine.key, 1));
    assert_eq!(approve(&world, "s1", &shown).await.unwrap(), approved, "approving is idempotent");
    let answer = ask(&machine).await.unwrap();
    assert_eq!((answer.node, answer.role, answer.generation), (name("s1"), Role::Server, 1));
    assert!(machine.config().await.is_ok(), "the console was read already");
    let status = world.coordinator.status().await.unwrap();
    assert!(status.strangers.is_empty());
    assert_eq!(status.node(&name("s1")).unwrap().console, Some(Confirmation::Confirmed));
    let approvals = world.count_events("approve").await;
    assert_eq!((approvals, world.count_events("bind").await), (1, 1));

    world.coordinator.revoke(&name("s1")).await.unwrap();
    assert_eq!(class(ask(&machine).await), ErrorClass::Revoked);
}

#[tokio::test]
async fn a_fingerprint_that_fits_no_machine_or_too_many_names_or_a_taken_one_is_refused() {
    let world = World::new().await;
    let (machine, other) = (world.machine(), world.machine());
    assert_eq!(class(ask(&machine).await), ErrorClass::Pending);
    let shown = machine.key.to_string();
    // A machine that never asked is found by the whole fingerprint only.
    let part = approve(&world, "a1", &other.key.to_string()[..40]).await.unwrap_err();
    assert!(part.contains("no machine that waits"), "{part}");
    let absent = approve(&world, "b9", &shown).await.unwrap_err();
    assert!(absent.contains("not in the cluster file"), "{absent}");
    world.enrolled("a1").await;
    let taken = approve(&world, "a1", &shown).await.unwrap_err();
    assert!(taken.contains("has a key already"), "{taken}");
    approve(&world, "a2", &shown).await.unwrap();
    let second = approve(&world, "s1", &shown).await.unwrap_err();
    assert!(second.contains("already node a2"), "{second}");
    assert!(approve(&world, "s1", &other.key.to_string()).await.is_ok());
    let admin = approve(&world, "s1", &world.admin_identity().fingerprint().to_string()).await.unwrap_err();
    assert!(admin.contains("admin"), "{admin}");
}

#[tokio::test]
async fn many_machines_that_wait_take_bounded_room_and_keep_nobody_out() {
    let world = World::new().await;
    let honest = world.machine();
    assert_eq!(class(ask(&honest).await), ErrorClass::Pending);
    for _ in 0..40 {
        assert_eq!(class(ask(&world.machine()).await), ErrorClass::Pending);
    }
    let strangers = world.coordinator.status().await.unwrap().strangers;
    assert!(strangers.len() <= 8, "{} of one address are remembered", strangers.len());
    assert!(strangers.iter().all(|stranger| stranger.key != honest.key), "it was pushed out");
    approve(&world, "a1", &honest.key.to_string()).await.unwrap();
    assert!(ask(&honest).await.is_ok());
}
