//! From a cluster file to nodes that are ready, as nodes see it.

use super::common::{World, class, cluster_file, name, report};
use jiff::Timestamp;
use kiln_coordinator::Limits;
use kiln_coordinator::plan::ClusterFile;
use kiln_protocol::ErrorClass;
use kiln_protocol::admin::{ApplyRequest, EndRequest, KubeconfigRequest, RegistryState};
use kiln_protocol::api::{Facts, GateAnswer, Report, Step, StepState, Usage};
use kiln_protocol::config::{Incarnation, Membership};
use std::time::Duration;

fn waits(answer: GateAnswer) -> String {
    match answer {
        GateAnswer::Wait { reason, .. } => reason,
        GateAnswer::Go => panic!("it should have waited"),
    }
}

#[tokio::test]
async fn an_agent_waits_until_the_server_is_ready() {
    let world = World::new().await;
    let agent = world.enrolled("a1").await;
    assert!(waits(agent.gate().await.unwrap()).contains("s1 has not enrolled"));
    let server = world.enrolled("s1").await;
    assert!(waits(agent.gate().await.unwrap()).contains("s1 has enrolled"));
    let Membership::FirstServer { cluster_init, agent_token, .. } =
        server.config().await.unwrap().k3s.membership
    else {
        panic!("the only server is not the first");
    };
    assert!(!cluster_init);
    assert_eq!(server.gate().await.unwrap(), GateAnswer::Go);
    assert!(waits(agent.gate().await.unwrap()).contains("s1 is starting"));
    server.report_ready().await.unwrap();
    assert!(waits(agent.gate().await.unwrap()).contains("join token"));
    let made = server.do_chores(&[]).await.make_tokens;
    assert_eq!(agent.gate().await.unwrap(), GateAnswer::Go);
    assert_eq!(agent.gate().await.unwrap(), GateAnswer::Go, "asking again gives the same answer");
    let Membership::Agent { server: address, token } = agent.config().await.unwrap().k3s.membership else {
        panic!("the agent is none");
    };
    assert_eq!(address.to_string(), "10.77.0.11:6443");
    let own = format!("::{}.{}", made[0].id, made[0].secret.expose());
    assert!(token.expose().starts_with("K10") && token.expose().ends_with(&own));
    assert!(!token.expose().contains(agent_token.expose()), "no agent is told what would join any agent");
    assert_eq!(world.count_events("pass_gate").await, 2);

    agent.report_ready().await.unwrap();
    let status = world.coordinator.status().await.unwrap();
    assert!(status.node(&name("a1")).unwrap().is_ready() && !status.all_ready(), "a2 is planned only");
}

#[tokio::test]
async fn three_servers_start_one_after_the_other() {
    let world = World::within(3, Limits::default()).await;
    let (s1, s2, s3) = (world.enrolled("s1").await, world.enrolled("s2").await, world.enrolled("s3").await);
    assert!(waits(s2.gate().await.unwrap()).contains("no server is ready yet"));
    let first = s1.config().await.unwrap();
    assert!(matches!(first.k3s.membership, Membership::FirstServer { cluster_init: true, .. }));
    assert_eq!(s1.gate().await.unwrap(), GateAnswer::Go);
    s1.report_ready().await.unwrap();
    assert_eq!(s3.gate().await.unwrap(), GateAnswer::Go);
    assert!(waits(s2.gate().await.unwrap()).contains("s3 is joining"));
    s3.report_ready().await.unwrap();
    assert_eq!(s2.gate().await.unwrap(), GateAnswer::Go);
    let Membership::JoiningServer { server, .. } = s2.config().await.unwrap().k3s.membership else {
        panic!("two servers start the datastore");
    };
    assert_eq!(server.to_string(), "10.77.0.11:6443");

    // s1 is lost and replaced: its replacement joins the others.
    let again = world.enrolled("s1").await;
    assert_eq!(class(s1.gate().await), ErrorClass::Superseded);
    let Membership::JoiningServer { server, .. } = again.config().await.unwrap().k3s.membership else {
        panic!("the replacement starts another datastore");
    };
    assert_eq!(server.to_string(), "10.77.0.13:6443", "s3 is ready, s2 is still joining");
    assert!(waits(again.gate().await.unwrap()).contains("Node object of generation 1 of s1"));
    s3.do_chores(&["s2", "s3"]).await;
    assert!(waits(again.gate().await.unwrap()).contains("s2 is joining"));
}

#[tokio::test]
async fn a_lease_whose_holder_died_passes_to_its_next_generation() {
    let world = World::within(3, Limits::default()).await;
    let dead = world.enrolled("s1").await;
    assert_eq!(dead.gate().await.unwrap(), GateAnswer::Go);
    let next = world.enrolled("s1").await;
    let config = next.config().await.unwrap();
    assert!(matches!(config.k3s.membership, Membership::FirstServer { cluster_init: true, .. }));
    assert_eq!(next.gate().await.unwrap(), GateAnswer::Go);
}

#[tokio::test]
async fn a_sole_server_with_data_is_not_replaced_by_an_empty_one() {
    let world = World::new().await;
    let server = world.enrolled("s1").await;
    assert_eq!(server.gate().await.unwrap(), GateAnswer::Go);
    server.report_ready().await.unwrap();
    let next = world.enrolled("s1").await;
    for refusal in [next.config().await.unwrap_err(), next.gate().await.unwrap_err()] {
        assert_eq!(refusal.class, ErrorClass::Policy);
        assert!(refusal.hint.unwrap().contains("builder down"));
    }
}

#[tokio::test]
async fn a_wrong_clock_or_an_old_configuration_does_not_pass() {
    let world = World::new().await;
    let server = world.enrolled("s1").await;
    let now = Timestamp::now().as_second();
    let ten_years = 10 * 365 * 86400;
    for clock in [now + ten_years, now - ten_years, now + 70] {
        let refusal = server.gate_at(Incarnation(1), clock).await.unwrap_err();
        assert_eq!((refusal.class, refusal.retry_after), (ErrorClass::Clock, Some(10)));
    }
    assert_eq!(class(server.gate_at(Incarnation(2), now).await), ErrorClass::Policy);
    assert!(world.node("s1").await.passed_gate.is_none());
}

#[tokio::test]
async fn the_newest_report_of_the_newest_boot_is_shown() {
    let world = World::new().await;
    let node = world.enrolled("a1").await;
    let usage = Usage { cpu_ms: 120, max_rss_kib: 8000 };
    let facts = Facts { kernel: Some("5.14.0".into()), ..Facts::default() };
    let full = Report {
        facts: Some(facts.clone()),
        usage: Some(usage),
        ..report("one", 10, Step::Seed, StepState::Done)
    };
    node.report(&full).await.unwrap();
    node.report(&report("one", 30, Step::Enrol, StepState::Running { detail: None })).await.unwrap();
    // Overtaken on its way: not the newest, but it tells when its step was done.
    node.report(&report("one", 20, Step::Key, StepState::Done)).await.unwrap();
    // Repeated later: the first time counts.
    node.report(&report("one", 40, Step::Seed, StepState::Done)).await.unwrap();
    let status = world.node("a1").await;
    assert_eq!(status.report.as_ref().unwrap().sequence, 40);
    assert_eq!((status.step_time(Step::Seed), status.step_time(Step::Key)), (Some(10), Some(20)));
    assert_eq!(status.step_time(Step::Enrol), None);
    assert_eq!((status.facts, status.usage), (Some(facts.clone()), Some(usage)));

    node.report(&report("two", 5, Step::Seed, StepState::Done)).await.unwrap();
    node.report(&report("one", 50, Step::Ready, StepState::Running { detail: None })).await.unwrap();
    let status = world.node("a1").await;
    assert_eq!(status.report.as_ref().unwrap().boot_id, "two", "an old boot's report comes too late");
    assert_eq!((status.step_time(Step::Seed), status.step_time(Step::Key)), (Some(5), None));
    assert_eq!(status.facts, Some(facts));
}

#[tokio::test]
async fn changes_are_announced() {
    let world = World::new().await;
    let mut changes = world.coordinator.changes();
    let ticket = world.ticket("a1").await;
    let machine = world.machine();
    changes.mark_unchanged();
    machine.enrol(&ticket).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), changes.changed()).await.unwrap().unwrap();
    machine.enrol(&ticket).await.unwrap();
    assert!(waits(machine.gate().await.unwrap()).contains("no server"));
    assert!(!changes.has_changed().unwrap(), "asking again changes nothing");
    machine.report_ready().await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), changes.changed()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_new_incarnation_has_other_secrets_and_other_nodes() {
    let world = World::new().await;
    let (ticket, old) = (world.ticket("s1").await, world.machine());
    old.enrol(&ticket).await.unwrap();
    let before = old.config().await.unwrap();
    assert_eq!(before.incarnation, Incarnation(1));
    let unused = world.ticket("a1").await;
    let request = |cluster: &str| EndRequest { cluster: cluster.parse().unwrap() };
    let refused = world.admin().end(&request("another")).await.unwrap_err().to_string();
    assert!(refused.contains("is test, not another") && old.config().await.is_ok(), "{refused}");
    let ended = world.admin().end(&request("test")).await.unwrap();
    assert_eq!(ended.incarnation, Some(Incarnation(1)));
    world.end().await;
    assert_eq!(world.admin().end(&request("another")).await.unwrap().incarnation, None, "nothing is live");
    let status = world.coordinator.status().await.unwrap();
    assert!(status.live.is_none() && status.nodes.is_empty());
    let refusal = old.config().await.unwrap_err();
    assert_eq!(refusal.class, ErrorClass::Revoked);
    assert!(refusal.message.contains("has ended"), "{refusal}");
    assert_eq!(class(world.machine().enrol(&unused).await), ErrorClass::Revoked);
    assert!(world.coordinator.kubeconfig("https://a:6443", Duration::from_secs(3600)).await.is_err());

    assert_eq!(world.coordinator.apply(&cluster_file(1)).await.unwrap(), Incarnation(2));
    assert_eq!(world.coordinator.next_generation(&name("s1")).await.unwrap(), 2);
    assert_eq!(world.node("s1").await.registry, RegistryState::Planned);
    assert_eq!(class(old.enrol(&ticket).await), ErrorClass::Revoked, "the old machine stays out");
    let new = world.enrolled("s1").await;
    let after = new.config().await.unwrap();
    assert_eq!((after.incarnation, after.generation), (Incarnation(2), 2));
    assert_ne!(after.k3s.node_password, before.k3s.node_password);
    assert_ne!(after.k3s.membership, before.k3s.membership);
    assert_eq!(class(new.gate().await), ErrorClass::Policy, "with the configuration of incarnation 1");
    let now = Timestamp::now().as_second();
    assert_eq!(new.gate_at(Incarnation(2), now).await.unwrap(), GateAnswer::Go);
}

#[tokio::test]
async fn a_replacement_within_an_incarnation_keeps_its_node_password() {
    let world = World::new().await;
    let before = world.enrolled("a1").await.config().await.unwrap();
    let after = world.enrolled("a1").await.config().await.unwrap();
    assert_eq!((before.generation, after.generation), (1, 2));
    assert_eq!(before.k3s.node_password, after.k3s.node_password);
}

#[tokio::test]
async fn an_edited_file_changes_what_may_change() {
    let world = World::new().await;
    world.enrolled("a1").await;
    let file = cluster_file(1);
    let apply = |text: String| {
        let admin = world.admin();
        async move { admin.apply(&ApplyRequest { cluster_file: text, dry_run: false }).await }
    };
    let same = apply(file.text().to_owned()).await.unwrap();
    assert_eq!((same.incarnation, same.changes.len()), (Incarnation(1), 0));
    let more = apply(file.text().replacen("cores = 1", "cores = 2", 1)).await.unwrap();
    assert_eq!(more.changes, ["s1: cores: 1 becomes 2 (for machines made from now on)"]);
    let other_k3s = apply(file.text().replace("k3s1", "k3s2")).await.unwrap_err().to_string();
    assert!(other_k3s.contains("k3s cannot change from v1.28.5+k3s1"), "{other_k3s}");
    let broken = apply(file.text().replace("\"qemu\"", "qemu")).await.unwrap_err().to_string();
    assert!(broken.contains("line 5, column"), "{broken}");
    let other_cluster = ClusterFile::parse(&file.text().replace("\"test\"", "\"other\"")).unwrap();
    assert!(world.coordinator.apply(&other_cluster).await.is_err());
    world.end().await;
    assert!(world.coordinator.apply(&other_cluster).await.is_err(), "one state keeps one cluster");
    assert!(world.coordinator.apply(&file).await.is_ok());
}

#[tokio::test]
async fn the_first_server_may_change_until_it_has_started() {
    let world = World::new().await;
    let renamed = ClusterFile::parse(&cluster_file(1).text().replace("\"s1\"", "\"s9\"")).unwrap();
    let server = world.enrolled("s1").await;
    world.coordinator.revoke(&name("s1")).await.unwrap();
    world.coordinator.apply(&renamed).await.unwrap();
    let other = world.enrolled("s9").await;
    assert!(matches!(other.config().await.unwrap().k3s.membership, Membership::FirstServer { .. }));
    assert_eq!(other.gate().await.unwrap(), GateAnswer::Go);
    world.coordinator.revoke(&name("s9")).await.unwrap();
    let error = world.coordinator.apply(&cluster_file(1)).await.unwrap_err().to_string();
    assert!(error.contains("the first server cannot change from s9 to s1"), "{error}");
    assert_eq!(class(server.config().await), ErrorClass::Revoked);
}

#[tokio::test]
async fn a_node_that_left_the_file_gets_no_configuration_but_is_still_shown() {
    let world = World::new().await;
    let node = world.enrolled("a2").await;
    let file = cluster_file(1);
    let without = file.text().rsplit_once("[[node]]").unwrap().0.to_owned();
    world.coordinator.apply(&ClusterFile::parse(&without).unwrap()).await.unwrap();
    let refusal = node.config().await.unwrap_err();
    assert!(refusal.message.contains("has left the cluster file"), "{refusal}");
    assert_eq!(world.node("a2").await.registry, RegistryState::Bound);
    assert!(!world.node("a2").await.planned && world.node("a1").await.planned);
    let (server, agent) = (world.enrolled("s1").await, world.enrolled("a1").await);
    assert_eq!(server.gate().await.unwrap(), GateAnswer::Go);
    server.report_ready().await.unwrap();
    server.do_chores(&[]).await;
    assert_eq!(agent.gate().await.unwrap(), GateAnswer::Go);
    agent.report_ready().await.unwrap();
    assert!(world.coordinator.status().await.unwrap().all_ready(), "nobody waits for it");
}

#[tokio::test]
async fn tickets_are_for_nodes_of_a_live_cluster_only() {
    let world = World::new().await;
    let mint = |node: &'static str| {
        let now = Timestamp::now();
        let record = kiln_protocol::admin::TicketRecord {
            node: name(node),
            generation: 1,
            role: kiln_protocol::Role::Agent,
            not_before: now,
            expires: now + jiff::SignedDuration::from_hours(1),
            confirm_console: false,
            hints: kiln_protocol::admin::Hints::default(),
        };
        world.coordinator.mint(world.unknown_ticket().public_key(), record)
    };
    assert!(mint("a1").await.is_ok());
    assert!(mint("a1").await.unwrap_err().to_string().contains("has a ticket already"));
    assert!(mint("b1").await.unwrap_err().to_string().contains("not in the cluster file"));
    assert!(mint("s1").await.unwrap_err().to_string().contains("is a server"));
    world.end().await;
    assert!(mint("a2").await.unwrap_err().to_string().contains("no cluster is up"));
}

#[tokio::test]
async fn a_kubeconfig_is_made_without_any_node() {
    let world = World::new().await;
    let hour = Duration::from_secs(3600);
    let local = world.coordinator.kubeconfig("https://127.0.0.1:16443", hour).await.unwrap();
    assert!(local.expose().contains("server: https://127.0.0.1:16443\n"));
    let request = KubeconfigRequest { server: None, user: None, lifetime: 3600 };
    let remote = world.admin().kubeconfig(&request).await.unwrap();
    assert!(remote.kubeconfig.expose().contains("server: https://10.77.0.11:6443\n"));
    assert!(world.coordinator.kubeconfig("http://127.0.0.1:1", hour).await.is_err());
    assert!(world.coordinator.kubeconfig("https://127.0.0.1:1", Duration::ZERO).await.is_err());
    assert_eq!(world.count_events("kubeconfig").await, 2);
}
