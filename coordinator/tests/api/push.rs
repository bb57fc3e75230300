//! Questions that are held open: what answers them, and who cuts them.

use std::time::Duration;

use super::common::{Machine, World, cluster_file, name};
use kiln_coordinator::Limits;
use kiln_coordinator::plan::ClusterFile;
use kiln_protocol::admin::{AddAdminRequest, EventsRequest, NodeRequest, RemoveAdminRequest};
use kiln_protocol::api::{CONFIG, EnrolAnswer, REQUEST_ID};
use kiln_protocol::config::NodeConfig;
use kiln_protocol::{ApiError, ErrorClass, Identity};
use reqwest::{Response, StatusCode};

/// Longer than anything here may take on a busy machine, and shorter than any
/// question is held open.
const PATIENCE: Duration = Duration::from_secs(60);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it was not answered")
}

/// The tag of a node's present configuration.
async fn tag(machine: &Machine) -> String {
    let response = machine.request(CONFIG, &[]).await;
    response.headers()["etag"].to_str().unwrap().to_owned()
}

/// Holds a question open until the configuration is another one than `tag`.
fn held_open(machine: &Machine, tag: &str) -> tokio::task::JoinHandle<Response> {
    let (machine, tag) = (machine.clone(), tag.to_owned());
    tokio::spawn(async move {
        within(machine.request(CONFIG, &[("if-none-match", &tag), ("prefer", "wait=300")])).await
    })
}

async fn connected(world: &World, node: &str) {
    within(async {
        while !world.node(node).await.connected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn with_user(file: &ClusterFile) -> ClusterFile {
    let users = "[cluster]\nusers = [{ name = \"ops\", authorized_keys = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq me\"] }]";
    ClusterFile::parse(&file.text().replacen("[cluster]", users, 1)).unwrap()
}

#[tokio::test]
async fn a_changed_file_reaches_the_nodes_that_wait_without_their_asking() {
    let world = World::new().await;
    let (s1, a1) = (world.enrolled("s1").await, world.enrolled("a1").await);
    let (polls, tags) = (
        [held_open(&s1, &tag(&s1).await), held_open(&a1, &tag(&a1).await)],
        [tag(&s1).await, tag(&a1).await],
    );
    connected(&world, "s1").await;
    connected(&world, "a1").await;
    world.coordinator.apply(&with_user(&cluster_file(1))).await.unwrap();
    for (poll, before) in polls.into_iter().zip(tags) {
        let response = poll.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_ne!(response.headers()["etag"], before.as_str());
        let config: NodeConfig = response.json().await.unwrap();
        assert_eq!(config.users.len(), 1);
    }
}

#[tokio::test]
async fn a_change_that_came_while_nobody_waited_is_answered_at_once() {
    let world = World::new().await;
    let machine = world.enrolled("a1").await;
    let before = tag(&machine).await;
    world.coordinator.apply(&with_user(&cluster_file(1))).await.unwrap();
    let response = held_open(&machine, &before).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn nothing_new_is_said_so_when_the_time_is_over() {
    let world = World::new().await;
    let machine = world.enrolled("a1").await;
    let now = tag(&machine).await;
    for wait in ["wait=0", "wait=1"] {
        let response = within(machine.request(CONFIG, &[("if-none-match", &now), ("prefer", wait)])).await;
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
    }
}

#[tokio::test]
async fn others_news_do_not_answer_a_question() {
    let world = World::new().await;
    let machine = world.enrolled("a1").await;
    let poll = held_open(&machine, &tag(&machine).await);
    connected(&world, "a1").await;
    // A line of the audit trail about every node, which changes nothing for this one.
    let more_cores = cluster_file(1).text().replacen("cores = 1", "cores = 2", 1);
    world.coordinator.apply(&ClusterFile::parse(&more_cores).unwrap()).await.unwrap();
    world.enrolled("a2").await;
    assert!(!poll.is_finished());
    world.coordinator.revoke(&name("a1")).await.unwrap();
    assert_eq!(poll.await.unwrap().status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn hold_revoke_and_end_cut_a_question_that_is_open() {
    for (act, class) in
        [("hold", ErrorClass::Held), ("revoke", ErrorClass::Revoked), ("end", ErrorClass::Revoked)]
    {
        let world = World::new().await;
        let (ticket, machine) = (world.ticket("a1").await, world.machine());
        machine.enrol(&ticket).await.unwrap();
        let poll = held_open(&machine, &tag(&machine).await);
        connected(&world, "a1").await;
        match act {
            "hold" => drop(world.machine().enrol(&ticket).await),
            "revoke" => world.admin().revoke(&NodeRequest { node: name("a1") }).await.unwrap(),
            _ => world.end().await,
        }
        let response = poll.await.unwrap();
        let id = response.headers()[REQUEST_ID].to_str().unwrap().to_owned();
        let closes = response.headers().get("connection").is_some();
        let refusal: ApiError = response.json().await.unwrap();
        assert_eq!(refusal.class, class, "{act}");
        assert_eq!(refusal.request, Some(id), "the error names its request");
        assert_eq!(closes, class == ErrorClass::Revoked, "a held node may go on reporting");
    }
}

#[tokio::test]
async fn a_superseded_node_is_cut_too() {
    let world = World::new().await;
    let (first, second) = (world.ticket("a1").await, world.ticket("a1").await);
    let old = world.machine();
    old.enrol(&first).await.unwrap();
    let poll = held_open(&old, &tag(&old).await);
    connected(&world, "a1").await;
    world.machine().enrol(&second).await.unwrap();
    let refusal: ApiError = poll.await.unwrap().json().await.unwrap();
    assert_eq!(refusal.class, ErrorClass::Superseded);
}

#[tokio::test]
async fn stopping_answers_open_questions_instead_of_waiting_for_them() {
    let world = World::new().await;
    let machine = world.enrolled("a1").await;
    let poll = held_open(&machine, &tag(&machine).await);
    connected(&world, "a1").await;
    let World { server, .. } = world;
    within(server.shutdown()).await;
    assert_eq!(poll.await.unwrap().status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn a_removed_admin_is_refused_at_the_next_request_and_its_open_one_ends() {
    let world = World::new().await;
    let identity = Identity::generate().unwrap();
    let key = identity.fingerprint();
    let add = AddAdminRequest { name: "ops@work".parse().unwrap(), key };
    world.admin().add_admin(&add).await.unwrap();
    world.admin().add_admin(&add).await.unwrap();
    assert_eq!(
        world.count_events("add_admin").await,
        2,
        "the world's own, and ops once: adding is idempotent"
    );
    let ops = world.admin_with(&identity);
    assert!(ops.status().await.unwrap().live.is_some());

    let newest = world.coordinator.events(0, 1000).await.unwrap().pop().unwrap();
    let follow = EventsRequest { after: newest.id, limit: 1000, wait: 300 };
    let open = tokio::spawn({
        let ops = ops.clone();
        async move { within(ops.events(follow)).await }
    });
    // An admin that waits is told of others' doings.
    world.coordinator.revoke(&name("a1")).await.unwrap_err();
    world.ticket("a1").await;
    let events = open.await.unwrap().unwrap().events;
    assert_eq!(events[0].what, "mint");

    let follow = EventsRequest { after: events[0].id, ..follow };
    let open = tokio::spawn({
        let ops = ops.clone();
        async move { within(ops.events(follow)).await }
    });
    // Whether it is held open already or comes after: it must not be answered.
    let remove = RemoveAdminRequest { name: "ops@work".parse().unwrap() };
    world.admin().remove_admin(&remove).await.unwrap();
    let refused = open.await.unwrap().unwrap_err().to_string();
    assert!(refused.contains("was removed"), "{refused}");
    assert!(ops.status().await.unwrap_err().to_string().contains("was removed"));
    world.admin().remove_admin(&remove).await.unwrap();
    assert_eq!(world.count_events("remove_admin").await, 1, "removing is idempotent");

    let again = world.admin().add_admin(&add).await.unwrap_err().to_string();
    assert!(again.contains("never gets them back"), "{again}");
    let other = AddAdminRequest { key: Identity::generate().unwrap().fingerprint(), ..add };
    world.admin().add_admin(&other).await.unwrap();
    let admins = world.admin().admins().await.unwrap().admins;
    let listed: Vec<_> = admins.iter().map(|admin| (admin.name.as_str(), admin.removed.is_some())).collect();
    assert_eq!(listed.len(), 3);
    assert!(listed.contains(&("cli", false)) && listed.contains(&("ops@work", true)), "{listed:?}");
}

#[tokio::test]
async fn a_nodes_key_is_no_admins_and_a_name_is_one_admins() {
    let world = World::new().await;
    let node = world.enrolled("a1").await;
    let add = |name: &str, key| AddAdminRequest { name: name.parse().unwrap(), key };
    for refused in [add("thief", node.key), add("thief", world.coordinator.pin())] {
        assert!(world.admin().add_admin(&refused).await.is_err());
    }
    let taken = world.admin().add_admin(&add("cli", Identity::generate().unwrap().fingerprint())).await;
    assert!(taken.unwrap_err().to_string().contains("there is an admin cli already"));
    // Nor is an admin's key a node's, removed or not.
    let admin = Identity::generate().unwrap();
    world.admin().add_admin(&add("ops", admin.fingerprint())).await.unwrap();
    world.admin().remove_admin(&RemoveAdminRequest { name: "ops".parse().unwrap() }).await.unwrap();
    let enrolled = world.machine_with(&admin).enrol(&world.ticket("a2").await).await.unwrap_err();
    assert_eq!(enrolled.class, ErrorClass::Policy);
}

#[tokio::test]
async fn a_key_has_so_many_connections_and_no_more() {
    let mut limits = Limits::default();
    limits.known_per_key = 2;
    let world = World::within(1, limits).await;
    let identity = Identity::generate().unwrap();
    let machine = world.machine_with(&identity);
    machine.enrol(&world.ticket("a1").await).await.unwrap();
    let before = tag(&machine).await;
    let poll = |machine: Machine, tag: String| async move {
        within(machine.try_request(CONFIG, &[("if-none-match", &tag), ("prefer", "wait=300")])).await
    };
    let oldest = tokio::spawn(poll(machine.clone(), before.clone()));
    connected(&world, "a1").await;
    let mut others = vec![machine];
    for _ in 0..2 {
        let other = others[others.len() - 1].cloned(&identity, world.coordinator.pin()).await;
        assert!(other.config().await.is_ok());
        others.push(other);
    }
    assert!(oldest.await.unwrap().is_err(), "its oldest connection had to go");
}

#[tokio::test]
async fn a_dry_run_says_what_would_change_and_changes_nothing() {
    let world = World::new().await;
    let machine = world.enrolled("a1").await;
    let before = tag(&machine).await;
    let (incarnation, changes) = world.coordinator.preview(with_user(&cluster_file(1))).await.unwrap();
    assert_eq!(incarnation.0, 1);
    assert!(changes.iter().any(|change| change.starts_with("a1: user ops is new")), "{changes:?}");
    assert_eq!(tag(&machine).await, before);
    assert_eq!(world.count_events("apply").await, 0);
    world.end().await;
    let (next, changes) = world.coordinator.preview(cluster_file(1)).await.unwrap();
    let begins = "incarnation 2 of test begins: a cluster with authorities, tokens and data of its own";
    assert_eq!((next.0, changes.as_slice()), (2, &[begins.to_owned()][..]));
    assert!(world.coordinator.status().await.unwrap().live.is_none());
}

#[tokio::test]
async fn a_wish_for_another_key_reaches_a_node_that_waits() {
    let world = World::new().await;
    let machine = world.enrolled("a1").await;
    let before = tag(&machine).await;
    let poll = held_open(&machine, &before);
    connected(&world, "a1").await;
    world.admin().rotate(&NodeRequest { node: name("a1") }).await.unwrap();
    let response = poll.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let config: NodeConfig = response.json().await.unwrap();
    assert!(config.rotate);
    // Once it is asked it is asked: the next question is held open again.
    let poll = held_open(&machine, &tag(&machine).await);
    connected(&world, "a1").await;
    world.admin().rotate(&NodeRequest { node: name("a1") }).await.unwrap();
    assert!(!poll.is_finished());
    poll.abort();
}

/// Asks to be approved, and waits for it.
fn waits_for_approval(machine: &Machine) -> tokio::task::JoinHandle<(u16, Vec<u8>)> {
    let machine = machine.clone();
    tokio::spawn(async move { within(machine.approval_within(300)).await })
}

#[tokio::test]
async fn an_approval_reaches_the_machine_that_waits_for_it() {
    let world = World::new().await;
    let (machine, other) = (world.machine(), world.machine());
    let (waiting, others) = (waits_for_approval(&machine), waits_for_approval(&other));
    within(async {
        while world.coordinator.status().await.unwrap().strangers.len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let typed = machine.key.to_string().parse().unwrap();
    world.coordinator.approve(&name("a1"), typed).await.unwrap();
    let (status, body) = waiting.await.unwrap();
    assert_eq!(status, 200);
    let bound: EnrolAnswer = serde_json::from_slice(&body).unwrap();
    assert_eq!(bound.node, name("a1"));
    // Another's approval is none; and a stop answers it.
    assert!(!others.is_finished());
    world.server.shutdown().await;
    let (status, body) = others.await.unwrap();
    let refusal: ApiError = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, refusal.class, refusal.retry_after), (403, ErrorClass::Pending, Some(1)));
}

#[tokio::test]
async fn a_question_for_approval_ends_with_its_time_and_one_without_is_answered_at_once() {
    let world = World::new().await;
    let machine = world.machine();
    for (wait, retry) in [(1, 1), (0, 300)] {
        let (status, body) = within(machine.approval_within(wait)).await;
        let refusal: ApiError = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, refusal.class, refusal.retry_after), (403, ErrorClass::Pending, Some(retry)));
    }
}
