//! The gate over its whole life: slots, leases, replacements, chores,
//! revocation, as servers and agents see them.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kiln_coordinator::client::ClientError;
use kiln_coordinator::{Coordinator, Limits, UnlockFile};
use kiln_protocol::admin::{Hints, MintRequest, ReplaceRequest, TicketRecord};
use kiln_protocol::api::{GateAnswer, SNAPSHOT, SNAPSHOT_PART, SnapshotRequest, Step, StepState};
use kiln_protocol::chores::ChoresDone;
use kiln_protocol::config::Membership;
use kiln_protocol::{ErrorClass, Identity, Role};
use reqwest::Method;

use super::common::{Machine, World, class, name, report};

fn waits(answer: GateAnswer) -> String {
    match answer {
        GateAnswer::Wait { reason, .. } => reason,
        GateAnswer::Go => panic!("it should have waited"),
    }
}

async fn passes_and_is_ready(machine: &Machine) {
    assert_eq!(machine.gate().await.unwrap(), GateAnswer::Go);
    machine.report_ready().await.unwrap();
}

/// Three servers, all ready.
async fn three_ready(world: &World) -> [Machine; 3] {
    let mut servers = Vec::new();
    for node in ["s1", "s2", "s3"] {
        let server = world.enrolled(node).await;
        passes_and_is_ready(&server).await;
        servers.push(server);
    }
    servers.try_into().ok().unwrap()
}

#[tokio::test]
async fn a_replaced_server_waits_until_etcd_lacks_the_one_before() {
    let world = World::within(3, Limits::default()).await;
    let [s1, old, _] = three_ready(&world).await;
    let new = world.enrolled("s2").await;
    assert!(waits(new.gate().await.unwrap()).contains("Node object of generation 1 of s2"));
    let chores = s1.chores().await.unwrap();
    assert_eq!((chores.delete_nodes, chores.list_members), (vec![name("s2")], true));
    // The Node object is gone, but etcd still names the member.
    s1.do_chores(&["s1", "s2", "s3"]).await;
    assert!(waits(new.gate().await.unwrap()).contains("etcd may still have generation 1 of s2"));
    assert!(s1.do_chores(&["s1", "s3"]).await.delete_nodes.is_empty(), "deleted once");
    assert_eq!(new.gate().await.unwrap(), GateAnswer::Go);
    assert!(s1.chores().await.unwrap().is_empty());
    assert!(matches!(new.config().await.unwrap().k3s.membership, Membership::JoiningServer { .. }));
    assert_eq!(class(old.chores().await), ErrorClass::Superseded);
    assert_eq!(world.count_events("member_gone").await, 1);
}

#[tokio::test]
async fn without_a_quorum_the_operators_word_gives_a_place_on() {
    let world = World::within(3, Limits::default()).await;
    let [s1, ..] = three_ready(&world).await;
    assert!(world.coordinator.member_gone(&name("s2")).await.is_err(), "it is ready");
    let new = world.enrolled("s2").await;
    // Nothing can be deleted in a cluster without a quorum, and that is told.
    let failure = Some("kubectl: etcdserver: leader changed".to_owned());
    s1.chores_after(ChoresDone { failure, ..ChoresDone::default() }).await.unwrap();
    assert!(waits(new.gate().await.unwrap()).contains("s2"));
    world.coordinator.member_gone(&name("s2")).await.unwrap();
    world.coordinator.member_gone(&name("s2")).await.unwrap();
    assert_eq!(new.gate().await.unwrap(), GateAnswer::Go);
    assert_eq!(world.count_events("member_gone").await, 1);
}

#[tokio::test]
async fn the_operators_word_said_again_does_not_take_the_place_of_the_machine_that_joins() {
    let world = World::within(3, Limits::default()).await;
    let (s1, old) = (world.enrolled("s1").await, world.enrolled("s2").await);
    passes_and_is_ready(&s1).await;
    passes_and_is_ready(&old).await;
    let (new, s3) = (world.enrolled("s2").await, world.enrolled("s3").await);
    world.coordinator.member_gone(&name("s2")).await.unwrap();
    assert_eq!(new.gate().await.unwrap(), GateAnswer::Go);
    world.coordinator.member_gone(&name("s2")).await.unwrap();
    assert!(waits(s3.gate().await.unwrap()).contains("s2 is joining"), "etcd takes one at a time");
    assert_eq!(world.count_events("member_gone").await, 1);
    // Of the new machine it can be said once its rights are over.
    world.coordinator.revoke(&name("s2")).await.unwrap();
    world.coordinator.member_gone(&name("s2")).await.unwrap();
    assert_eq!(s3.gate().await.unwrap(), GateAnswer::Go);
}

#[tokio::test]
async fn the_operators_word_is_in_force_though_nobody_waited_for_its_answer() {
    let world = World::exactly_within(3, Limits::default()).await;
    let (first, second) = (world.ticket("s2").await, world.ticket("s2").await);
    let (s1, thief, next) = (world.enrolled("s1").await, world.machine(), world.machine());
    passes_and_is_ready(&s1).await;
    thief.enrol(&first).await.unwrap();
    passes_and_is_ready(&thief).await;
    next.enrol(&second).await.unwrap();
    assert!(waits(next.gate().await.unwrap()).contains("spoke"));
    asks_and_goes_away(world.coordinator.member_gone(&name("s2"))).await;
    let noted = async { while world.count_events("member_gone").await == 0 {} };
    tokio::time::timeout(Duration::from_secs(30), noted).await.expect("it is in the trail");
    assert_eq!(next.gate().await.unwrap(), GateAnswer::Go);
}

#[tokio::test]
async fn an_overdue_slot_is_given_on_once_etcd_lacks_its_holder() {
    let mut limits = Limits::default();
    limits.slot = Duration::from_secs(1);
    let world = World::within(3, limits).await;
    let s1 = world.enrolled("s1").await;
    passes_and_is_ready(&s1).await;
    let (s2, s3) = (world.enrolled("s2").await, world.enrolled("s3").await);
    assert_eq!(s2.gate().await.unwrap(), GateAnswer::Go);
    assert!(waits(s3.gate().await.unwrap()).contains("s2 is joining"));
    let asked = async || {
        for _ in 0..100 {
            if s1.chores().await.unwrap().list_members {
                return;
            }
        }
        panic!("nobody asks for etcd's members");
    };
    asked().await;
    s1.do_chores(&["s1", "s2"]).await;
    assert!(waits(s3.gate().await.unwrap()).contains("once etcd says that it lacks s2"));
    s1.do_chores(&["s1"]).await;
    assert_eq!(s3.gate().await.unwrap(), GateAnswer::Go);
    // It was only slow.
    s2.report_ready().await.unwrap();
    assert!(world.node("s2").await.is_ready());
}

#[tokio::test]
async fn no_machine_takes_the_place_of_one_that_still_speaks() {
    let world = World::exactly_within(3, Limits::default()).await;
    // A ticket that was there before the machine was heard.
    let (first, second) = (world.ticket("s2").await, world.ticket("s2").await);
    let (s1, old) = (world.enrolled("s1").await, world.machine());
    passes_and_is_ready(&s1).await;
    old.enrol(&first).await.unwrap();
    passes_and_is_ready(&old).await;
    let new = world.machine();
    new.enrol(&second).await.unwrap();
    assert_eq!(class(old.chores().await), ErrorClass::Superseded);
    assert!(waits(new.gate().await.unwrap()).contains("spoke 0 s ago"));
    assert!(s1.chores().await.unwrap().delete_nodes.is_empty(), "it would only register again");
}

/// Its machine is deleted, and a thief goes on with its key.
#[tokio::test]
async fn a_stolen_key_that_is_over_keeps_nobody_waiting_once_the_operator_says_that_its_machine_is_gone() {
    let world = World::exactly_within(3, Limits::default()).await;
    let tickets = |node: &'static str| async { (world.ticket(node).await, world.ticket(node).await) };
    let (of_server, of_agent) = (tickets("s2").await, tickets("a1").await);
    let (s1, server, agent) = (world.enrolled("s1").await, world.machine(), world.machine());
    passes_and_is_ready(&s1).await;
    server.enrol(&of_server.0).await.unwrap();
    passes_and_is_ready(&server).await;
    agent.enrol(&of_agent.0).await.unwrap();
    s1.do_chores(&[]).await;
    passes_and_is_ready(&agent).await;
    assert!(world.coordinator.member_gone(&name("a1")).await.is_err(), "it is ready");
    let (next_server, next_agent) = (world.machine(), world.machine());
    next_server.enrol(&of_server.1).await.unwrap();
    next_agent.enrol(&of_agent.1).await.unwrap();
    s1.do_chores(&[]).await;
    for (node, thief, next) in [("s2", &server, &next_server), ("a1", &agent, &next_agent)] {
        assert_eq!(class(thief.config().await), ErrorClass::Superseded);
        let why = waits(next.gate().await.unwrap());
        assert!(why.contains(&format!("coordinator member-gone {node}")), "{why}");
        world.coordinator.member_gone(&name(node)).await.unwrap();
        world.coordinator.member_gone(&name(node)).await.unwrap();
        assert_eq!(class(thief.config().await), ErrorClass::Superseded);
        assert_eq!(next.gate().await.unwrap(), GateAnswer::Go, "{node}");
    }
    // Of the machine that has the place now nothing was said.
    assert!(world.coordinator.member_gone(&name("s1")).await.is_err());
}

#[tokio::test]
async fn a_sole_server_whose_stolen_key_still_speaks_is_given_up_at_the_operators_word_for_both() {
    let world = World::exactly_within(1, Limits::default()).await;
    let stolen = world.enrolled("s1").await;
    passes_and_is_ready(&stolen).await;
    let refused = async || {
        let error = world.coordinator.replace(&name("s1"), None).await.unwrap_err();
        error.downcast::<kiln_protocol::ApiError>().unwrap().hint.unwrap()
    };
    assert!(refused().await.contains("delete the machine first"));
    assert!(world.coordinator.member_gone(&name("s1")).await.is_err(), "its key is good still");
    world.coordinator.revoke(&name("s1")).await.unwrap();
    assert_eq!(class(stolen.config().await), ErrorClass::Revoked);
    assert!(refused().await.contains("coordinator member-gone s1"));
    world.coordinator.member_gone(&name("s1")).await.unwrap();
    assert_eq!(class(stolen.config().await), ErrorClass::Revoked);
    let next = world.enrolled("s1").await;
    assert_eq!(class(next.gate().await), ErrorClass::Policy, "its data is given up by another word");
    world.coordinator.replace(&name("s1"), None).await.unwrap();
    assert_eq!(next.gate().await.unwrap(), GateAnswer::Go);
}

#[tokio::test]
async fn no_ticket_is_minted_for_the_place_of_a_machine_that_still_speaks() {
    let world = World::exactly_within(3, Limits::default()).await;
    let s1 = world.enrolled("s1").await;
    s1.config().await.unwrap();
    let record = async |node: &str, role: Role| {
        let now = Timestamp::now();
        let generation = world.coordinator.next_generation(&name(node)).await.unwrap();
        let expires = now + SignedDuration::from_hours(1);
        let hints = Hints::default();
        TicketRecord {
            node: name(node),
            generation,
            role,
            not_before: now,
            expires,
            confirm_console: false,
            hints,
        }
    };
    let (ticket, again) = (world.unknown_ticket().public_key(), record("s1", Role::Server).await);
    let request = MintRequest { ticket, record: again };
    let ClientError::Refused(refusal) = world.admin().mint(&request).await.unwrap_err() else {
        panic!("it is not the coordinator that says no");
    };
    assert_eq!(refusal.class, ErrorClass::Policy);
    assert!(refusal.message.contains("the machine of node s1 (generation 1) is still there"), "{refusal}");
    assert!(refusal.hint.unwrap().contains("delete that machine"));
    // The operator's word is enough: it has no rights any more.
    world.coordinator.revoke(&name("s1")).await.unwrap();
    world.admin().mint(&request).await.unwrap();
}

#[tokio::test]
async fn only_one_ready_server_does_chores() {
    let world = World::within(3, Limits::default()).await;
    let (s1, s2) = (world.enrolled("s1").await, world.enrolled("s2").await);
    let agent = world.enrolled("a1").await;
    assert_eq!(class(s1.chores().await), ErrorClass::Policy);
    assert_eq!(class(agent.chores().await), ErrorClass::Policy);
    assert_eq!(class(world.machine().chores().await), ErrorClass::Policy);
    passes_and_is_ready(&s1).await;
    passes_and_is_ready(&s2).await;
    assert_eq!(s1.chores().await.unwrap().make_tokens.len(), 1);
    assert!(s2.chores().await.unwrap().is_empty());
    // What is only said to be done counts, and nothing that was not asked for.
    let wrong = ChoresDone { tokens_made: vec!["zzzzzz".parse().unwrap()], ..ChoresDone::default() };
    s1.chores_after(wrong).await.unwrap();
    assert!(waits(agent.gate().await.unwrap()).contains("join token"));
}

#[tokio::test]
async fn revoking_a_node_deletes_its_object_and_its_token() {
    let world = World::new().await;
    let (server, agent) = (world.enrolled("s1").await, world.enrolled("a1").await);
    passes_and_is_ready(&server).await;
    let id = server.do_chores(&[]).await.make_tokens[0].id.clone();
    passes_and_is_ready(&agent).await;
    world.coordinator.revoke(&name("a1")).await.unwrap();
    let chores = server.chores().await.unwrap();
    assert_eq!((&chores.delete_nodes, &chores.delete_tokens), (&vec![name("a1")], &vec![id.clone()]));
    assert!(!chores.list_members, "SQLite has no members");
    // Until then nobody else is let in under its name.
    let next = world.enrolled("a1").await;
    assert!(waits(next.gate().await.unwrap()).contains("Node object of generation 1 of a1"));
    let made = server.do_chores(&[]).await.make_tokens;
    assert_ne!(made[0].id, id, "the next machine has a token of its own");
    assert_eq!(next.gate().await.unwrap(), GateAnswer::Go);
    let counts = (world.count_events("node_deleted").await, world.count_events("token_deleted").await);
    assert_eq!(counts, (1, 1));
    assert!(server.chores().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_superseded_agent_loses_its_token_and_its_node_object_stays() {
    let world = World::new().await;
    let (server, _old) = (world.enrolled("s1").await, world.enrolled("a1").await);
    passes_and_is_ready(&server).await;
    let before = server.do_chores(&[]).await.make_tokens;
    let _new = world.enrolled("a1").await;
    let chores = server.do_chores(&[]).await;
    assert_eq!(chores.delete_tokens, [before[0].id.clone()]);
    assert_eq!((chores.make_tokens.len(), chores.delete_nodes.len()), (1, 0));
}

#[tokio::test]
async fn chores_survive_a_restart_of_the_coordinator() {
    let world = World::new().await;
    let (identity, ticket) = (Identity::generate().unwrap(), world.ticket("s1").await);
    let server = world.machine_with(&identity);
    server.enrol(&ticket).await.unwrap();
    world.enrolled("a1").await;
    passes_and_is_ready(&server).await;
    let before = server.chores().await.unwrap();
    assert_eq!(before.make_tokens.len(), 1);
    let kept = server.ratchet.lock().await.clone();
    let world = world.restart().await;
    let server = world.machine_with(&identity);
    *server.ratchet.lock().await = kept;
    assert_eq!(server.chores().await.unwrap(), before);
}

#[tokio::test]
async fn a_sole_servers_data_is_discarded_at_the_operators_word_only() {
    let world = World::new().await;
    let server = world.enrolled("s1").await;
    passes_and_is_ready(&server).await;
    let agent = world.enrolled("a1").await;
    assert_eq!(server.do_chores(&[]).await.make_tokens.len(), 1);
    let next = world.enrolled("s1").await;
    let refusal = next.config().await.unwrap_err();
    assert!(refusal.hint.unwrap().contains("--discard-data"));
    let request = |node: &str| ReplaceRequest { node: name(node), restore: None };
    assert!(world.admin().replace(&request("a1")).await.is_err());
    world.admin().replace(&request("s1")).await.unwrap();
    world.admin().replace(&request("s1")).await.unwrap();
    let Membership::FirstServer { cluster_init, restore, .. } = next.config().await.unwrap().k3s.membership
    else {
        panic!("it joins nobody");
    };
    assert_eq!((cluster_init, restore), (false, None));
    passes_and_is_ready(&next).await;
    let why = waits(agent.gate().await.unwrap());
    assert!(why.contains("join token is not in the cluster"), "it was in the datastore that is lost: {why}");
    let again = world.enrolled("s1").await;
    assert_eq!(class(again.gate().await), ErrorClass::Policy, "one word is good for one machine");
}

#[tokio::test]
async fn a_sole_server_is_restored_from_a_copy() {
    let world = World::new().await;
    let server = world.enrolled("s1").await;
    passes_and_is_ready(&server).await;
    let copy = world.outer.path().join("state.db");
    let fill = "CREATE TABLE kine (x); INSERT INTO kine SELECT randomblob(300000);";
    rusqlite::Connection::open(&copy).unwrap().execute_batch(fill).unwrap();
    assert!(world.coordinator.replace(&name("s1"), Some(world.outer.path())).await.is_err());
    world.coordinator.replace(&name("s1"), Some(&copy)).await.unwrap();
    let next = world.enrolled("s1").await;
    let Membership::FirstServer { restore: Some(snapshot), .. } = next.config().await.unwrap().k3s.membership
    else {
        panic!("it begins with nothing");
    };
    let bytes = std::fs::read(&copy).unwrap();
    assert_eq!(snapshot.size, bytes.len() as u64);
    let part = async |machine: &Machine, offset: usize| {
        let body = serde_json::to_vec(&SnapshotRequest { offset: offset as u64 }).unwrap();
        machine.send(Method::POST, SNAPSHOT, body).await
    };
    let first = part(&next, 0).await.unwrap();
    assert_eq!((first.len(), &first[..]), (SNAPSHOT_PART, &bytes[..SNAPSHOT_PART]));
    assert_eq!(part(&next, first.len()).await.unwrap(), bytes[SNAPSHOT_PART..]);
    // Nobody else gets a byte, and nobody does after it was used.
    let agent = world.enrolled("a1").await;
    for stranger in [&agent, &server] {
        assert!(part(stranger, 0).await.is_err());
    }
    passes_and_is_ready(&next).await;
    assert_eq!(class(part(&next, 0).await), ErrorClass::Policy);
}

#[tokio::test]
async fn a_held_server_that_says_it_is_ready_changes_nothing_but_its_report() {
    let world = World::new().await;
    passes_and_is_ready(&world.enrolled("s1").await).await;
    let copy = world.outer.path().join("state.db");
    rusqlite::Connection::open(&copy).unwrap().execute_batch("CREATE TABLE kine (x)").unwrap();
    world.coordinator.replace(&name("s1"), Some(&copy)).await.unwrap();
    let (ticket, next) = (world.ticket("s1").await, world.machine());
    next.enrol(&ticket).await.unwrap();
    assert_eq!(class(world.machine().enrol(&ticket).await), ErrorClass::TicketContested);
    next.report_ready().await.unwrap();
    let status = world.node("s1").await;
    assert!(status.report.is_some() && status.ready.is_none(), "{status:?}");
    world.coordinator.release(&name("s1")).await.unwrap();
    let restored = async || match next.config().await.unwrap().k3s.membership {
        Membership::FirstServer { restore, .. } => restore.is_some(),
        other => panic!("it joins somebody: {other:?}"),
    };
    assert!(restored().await, "the copy of the datastore waits for it still");
    passes_and_is_ready(&next).await;
    assert!(!restored().await);
}

/// Its k3s was starting when a second key used its ticket.
#[tokio::test]
async fn a_sole_server_that_was_held_before_it_was_ready_is_given_up_at_the_operators_word_only() {
    // Of its last boots only some are remembered.
    for later_boots in [0, 8] {
        let world = World::new().await;
        let (ticket, held) = (world.ticket("s1").await, world.machine());
        held.enrol(&ticket).await.unwrap();
        assert_eq!(held.gate().await.unwrap(), GateAnswer::Go);
        assert_eq!(class(world.machine().enrol(&ticket).await), ErrorClass::TicketContested);
        held.report_ready().await.unwrap();
        for boot in 0..later_boots {
            let starting =
                report(&format!("later-{boot}"), 1, Step::StartK3s, StepState::Running { detail: None });
            held.report(&starting).await.unwrap();
        }
        assert!(world.node("s1").await.ready.is_none(), "its word does not count");
        world.coordinator.revoke(&name("s1")).await.unwrap();
        let next = world.enrolled("s1").await;
        let refusal = next.config().await.unwrap_err();
        assert!(refusal.hint.unwrap().contains("--discard-data"));
        assert_eq!(class(next.gate().await), ErrorClass::Policy);
        world.coordinator.replace(&name("s1"), None).await.unwrap();
        assert_eq!(next.gate().await.unwrap(), GateAnswer::Go);
    }
}

/// The state is set back to a moment when the server was bound and had no data yet.
#[tokio::test]
async fn a_restored_backup_does_not_make_a_server_one_without_data() {
    let world = World::new().await;
    let server = world.enrolled("s1").await;
    server.config().await.unwrap();
    let (backup, restored) = (world.outer.path().join("backup"), world.outer.path().join("restored"));
    world.coordinator.backup(&backup).await.unwrap();
    passes_and_is_ready(&server).await;
    let unlock = UnlockFile::beside(&world.dir);
    let World { outer, server: serving, coordinator, .. } = world;
    serving.shutdown().await;
    drop(coordinator);
    Coordinator::restore(&backup, &restored, &unlock).unwrap();
    std::fs::rename(outer.path().join("state.unlock-key"), outer.path().join("restored.unlock-key")).unwrap();
    let world = World::at(outer, restored).await;
    assert!(world.node("s1").await.passed_gate.is_none(), "the copy cannot know");
    let (server, again) = (server.moved_to(world.address()), world.ticket("s1").await);
    server.report_ready().await.unwrap();
    let status = world.node("s1").await;
    assert!(status.passed_gate.is_some() && status.is_ready());
    let next = world.machine();
    next.enrol(&again).await.unwrap();
    let refusal = next.config().await.unwrap_err();
    assert!(refusal.hint.unwrap().contains("--discard-data"));
    assert_eq!(class(next.gate().await), ErrorClass::Policy);
}

#[tokio::test]
async fn the_datastore_of_several_servers_is_given_up_when_all_are_lost() {
    let world = World::within(3, Limits::default()).await;
    three_ready(&world).await;
    let again = world.enrolled("s1").await;
    assert!(world.coordinator.replace(&name("s1"), None).await.is_err(), "s2 and s3 have the data");
    for node in ["s2", "s3"] {
        world.coordinator.revoke(&name(node)).await.unwrap();
    }
    assert!(waits(again.gate().await.unwrap()).contains("there is none"));
    world.coordinator.replace(&name("s1"), None).await.unwrap();
    let config = again.config().await.unwrap();
    assert!(matches!(config.k3s.membership, Membership::FirstServer { cluster_init: true, .. }));
    passes_and_is_ready(&again).await;
    let other = world.enrolled("s2").await;
    assert_eq!(other.gate().await.unwrap(), GateAnswer::Go);
}

#[tokio::test]
async fn fifty_agents_join_at_once() {
    let world = World::new().await;
    let file = kiln_coordinator::plan::ClusterFile::parse(&{
        let mut text = super::common::cluster_file(1).text().to_owned();
        for n in 3..=50 {
            let size = "cores = 1\nmemory = \"1GiB\"\ndisk = \"8GiB\"";
            let _ = writeln!(text, "[[node]]\nname = \"a{n}\"\nrole = \"agent\"\n{size}");
        }
        text
    })
    .unwrap();
    world.coordinator.apply(&file).await.unwrap();
    let server = world.enrolled("s1").await;
    let mut machines = Vec::new();
    for n in 1..=50 {
        let node = format!("a{n}");
        machines.push((world.ticket(&node).await, world.machine()));
    }
    let joins = machines.iter().map(|(ticket, machine)| async move {
        machine.enrol(ticket).await.unwrap();
        waits(machine.gate().await.unwrap())
    });
    all(joins).await;
    passes_and_is_ready(&server).await;
    assert_eq!(server.do_chores(&[]).await.make_tokens.len(), 50);
    let passed = all(machines.iter().map(|(_, machine)| async move {
        let Membership::Agent { token, .. } = machine.config().await.unwrap().k3s.membership else {
            panic!("the agent is none");
        };
        (machine.gate().await.unwrap(), token.expose().to_owned())
    }))
    .await;
    assert!(passed.iter().all(|(answer, _)| *answer == GateAnswer::Go));
    let tokens: std::collections::BTreeSet<&String> = passed.iter().map(|(_, token)| token).collect();
    assert_eq!(tokens.len(), 50, "each has a token of its own");
}

/// Asks, and is gone before the answer, as a request is whose connection is lost.
async fn asks_and_goes_away<T>(asking: impl Future<Output = T>) {
    let mut asking = std::pin::pin!(asking);
    std::future::poll_fn(|context| std::task::Poll::Ready(asking.as_mut().poll(context).is_ready())).await;
}

/// All of them at once, in order.
async fn all<T, F: Future<Output = T>>(futures: impl Iterator<Item = F>) -> Vec<T> {
    let mut running: Vec<_> = futures.map(Box::pin).map(Some).collect();
    let mut done: Vec<Option<T>> = running.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in running.iter_mut().zip(&mut done) {
            if let Some(waiting) = future
                && let std::task::Poll::Ready(value) = waiting.as_mut().poll(context)
            {
                *done = Some(value);
                *future = None;
            }
        }
        if running.iter().all(Option::is_none) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().map(Option::unwrap).collect()
}
