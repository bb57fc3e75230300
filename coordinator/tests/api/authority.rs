//! Who may do what: asked of the registry on every request.

use super::common::{World, class, cluster_file, name};
use super::transport::{PATIENCE, connect_as, drain};
use kiln_protocol::admin::{self, NodeRequest, RegistryState, RemoveAdminRequest};
use kiln_protocol::api::{Step, StepState};
use kiln_protocol::{ErrorClass, Identity};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn only_admins_may_use_the_admin_api() {
    let world = World::new().await;
    let callers = [
        ("a node", world.enrolled("s1").await),
        ("nobody known", world.machine()),
        ("the coordinator itself", world.machine_with(&world.own_identity())),
    ];
    for (who, caller) in callers {
        for (method, path) in admin::ROUTES {
            // Before the body is looked at, so that a bad one changes nothing.
            let method = method.parse().unwrap();
            let refusal = caller.send(method, path, b"{".to_vec()).await.unwrap_err();
            assert_eq!(refusal.class, ErrorClass::Policy, "{who} at {path}");
        }
    }
    assert!(world.coordinator.status().await.unwrap().live.is_some());
}

/// An admin begins a request, loses its rights, and only then sends the end of it.
#[tokio::test]
async fn an_admin_whose_rights_are_taken_during_its_request_does_nothing_more() {
    let world = World::new().await;
    world.enrolled("a1").await;
    let ticket = serde_json::to_string(&world.unknown_ticket().public_key()).unwrap();
    let key = serde_json::to_string(&world.machine().key).unwrap();
    let file = serde_json::to_string(cluster_file(3).text()).unwrap();
    let record = r#"{"node":"a2","generation":1,"role":"agent","not_before":"2026-01-01T00:00:00Z",
        "expires":"2126-01-01T00:00:00Z","confirm_console":false,"hints":{}}"#;
    let node = r#"{"node":"a1"}"#.to_owned();
    let requests = [
        (admin::MINT, format!(r#"{{"ticket":{ticket},"record":{record}}}"#)),
        (admin::KUBECONFIG, r#"{"lifetime":3600}"#.to_owned()),
        (admin::RELEASE, node.clone()),
        (admin::REVOKE, node.clone()),
        (admin::ROTATE, node.clone()),
        (admin::MEMBER_GONE, node),
        (admin::CONFIRM, format!(r#"{{"node":"a1","fingerprint":{key}}}"#)),
        (admin::APPROVE, format!(r#"{{"node":"a2","fingerprint":{key}}}"#)),
        (admin::EXTEND, r#"{"node":"a1","seconds":60}"#.to_owned()),
        (admin::REPLACE, r#"{"node":"s1","restore":"/nowhere"}"#.to_owned()),
        (admin::APPLY, format!(r#"{{"cluster_file":{file}}}"#)),
        (admin::APPLY, format!(r#"{{"cluster_file":{file},"dry_run":true}}"#)),
        (admin::EVENTS, r#"{"after":0,"limit":9,"wait":0}"#.to_owned()),
        (admin::REMOVE_ADMIN, r#"{"name":"cli"}"#.to_owned()),
        (admin::ADD_ADMIN, format!(r#"{{"name":"again","key":{key}}}"#)),
    ];
    for (at, (path, body)) in requests.iter().enumerate() {
        let (identity, named) = (Identity::generate().unwrap(), format!("leaver-{at}").parse().unwrap());
        world.coordinator.add_admin(&named, identity.fingerprint()).await.unwrap();
        let mut stream = connect_as(&world, &identity).await;
        // It is told to go on once it was found to be an admin, and its body is wanted.
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut told = [0; 25];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut told)).await.unwrap().unwrap();
        assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n", "{path}");
        let (last, before) = body.as_bytes().split_last().unwrap();
        stream.write_all(before).await.unwrap();
        world.admin().remove_admin(&RemoveAdminRequest { name: named }).await.unwrap();
        let events = world.coordinator.events(0, 1000).await.unwrap();
        stream.write_all(&[*last]).await.unwrap();
        let answer = String::from_utf8(drain(&mut stream).await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("was removed"), "{path}: {answer}");
        assert_eq!(world.coordinator.events(0, 1000).await.unwrap(), events, "{path}");
    }
    assert_eq!(world.node("a1").await.registry, RegistryState::Bound);
}

#[tokio::test]
async fn only_nodes_may_use_the_node_api() {
    let world = World::new().await;
    let admin = world.machine_with(&world.admin_identity());
    assert_eq!(class(admin.config().await), ErrorClass::Policy);
    assert_eq!(class(admin.gate().await), ErrorClass::Policy);
    assert_eq!(class(admin.report_ready().await), ErrorClass::Policy);
    let stranger = world.machine();
    assert_eq!(class(stranger.config().await), ErrorClass::Policy);
    assert_eq!(class(stranger.gate().await), ErrorClass::Policy);
}

#[tokio::test]
async fn a_held_node_may_report_and_nothing_else_until_it_is_released() {
    let world = World::new().await;
    let (ticket, machine) = (world.ticket("s1").await, world.machine());
    machine.enrol(&ticket).await.unwrap();
    assert!(machine.config().await.is_ok());
    assert_eq!(class(world.machine().enrol(&ticket).await), ErrorClass::TicketContested);
    assert_eq!(class(machine.config().await), ErrorClass::Held);
    assert_eq!(class(machine.gate().await), ErrorClass::Held);
    let waiting = StepState::Running { detail: Some("held".into()) };
    let report = super::common::report("boot", 5, Step::Configure, waiting);
    machine.report(&report).await.unwrap();
    assert_eq!(world.node("s1").await.report, Some(report));

    world.admin().release(&NodeRequest { node: name("s1") }).await.unwrap();
    assert_eq!(world.node("s1").await.registry, RegistryState::Bound);
    assert!(world.coordinator.status().await.unwrap().alarms.is_empty());
    assert!(machine.config().await.is_ok());
    let released = world.coordinator.events(0, 1000).await.unwrap().pop().unwrap();
    assert_eq!((released.what.as_str(), released.who.as_str()), ("release", "admin cli"));
    assert_eq!(released.from, Some("127.0.0.1".parse().unwrap()));
}

#[tokio::test]
async fn revoking_takes_effect_on_the_open_connection() {
    let world = World::new().await;
    let (ticket, machine) = (world.ticket("a1").await, world.machine());
    machine.enrol(&ticket).await.unwrap();
    assert!(machine.config().await.is_ok());
    world.admin().revoke(&NodeRequest { node: name("a1") }).await.unwrap();
    // The client keeps its connection alive between requests.
    assert_eq!(class(machine.config().await), ErrorClass::Revoked);
    assert_eq!(class(machine.gate().await), ErrorClass::Revoked);
    assert_eq!(class(machine.report_ready().await), ErrorClass::Revoked);
    assert_eq!(class(machine.enrol(&ticket).await), ErrorClass::Revoked);
    assert_eq!(class(world.machine().enrol(&ticket).await), ErrorClass::Revoked);
    world.admin().revoke(&NodeRequest { node: name("a1") }).await.unwrap();
    assert_eq!(world.count_events("revoke").await, 1, "revoking is idempotent");
    let unknown = world.admin().revoke(&NodeRequest { node: name("b9") }).await.unwrap_err();
    assert!(unknown.to_string().contains("has no ticket"), "{unknown}");
}

#[tokio::test]
async fn strangers_are_remembered_in_memory_until_they_enrol() {
    let world = World::new().await;
    let machine = world.machine();
    let failed = StepState::Failed {
        error: kiln_protocol::ApiError::new(ErrorClass::TicketExpired, "the ticket expired"),
    };
    machine.report(&super::common::report("boot", 1, Step::Enrol, failed)).await.unwrap();
    let strangers = world.coordinator.status().await.unwrap().strangers;
    assert_eq!((strangers.len(), strangers[0].key), (1, machine.key));
    machine.enrol(&world.ticket("a1").await).await.unwrap();
    assert!(world.coordinator.status().await.unwrap().strangers.is_empty());
}
