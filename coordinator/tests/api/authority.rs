//! Who may do what: asked of the registry on every request.

use super::common::{World, class, name};
use kiln_protocol::ErrorClass;
use kiln_protocol::admin::{self, NodeRequest, RegistryState};
use kiln_protocol::api::{Step, StepState};
use reqwest::Method;

const ADMIN_ROUTES: [(Method, &str); 14] = [
    (Method::POST, admin::MINT),
    (Method::GET, admin::STATUS),
    (Method::POST, admin::KUBECONFIG),
    (Method::POST, admin::RELEASE),
    (Method::POST, admin::REVOKE),
    (Method::POST, admin::CONFIRM),
    (Method::POST, admin::APPROVE),
    (Method::POST, admin::EXTEND),
    (Method::POST, admin::APPLY),
    (Method::POST, admin::END),
    (Method::POST, admin::EVENTS),
    (Method::GET, admin::ADMINS),
    (Method::POST, admin::ADD_ADMIN),
    (Method::POST, admin::REMOVE_ADMIN),
];

#[tokio::test]
async fn only_admins_may_use_the_admin_api() {
    let world = World::new().await;
    let callers = [
        ("a node", world.enrolled("s1").await),
        ("nobody known", world.machine()),
        ("the coordinator itself", world.machine_with(&world.own_identity())),
    ];
    for (who, caller) in callers {
        for (method, path) in ADMIN_ROUTES {
            // Before the body is looked at, so that a bad one changes nothing.
            let refusal = caller.send(method.clone(), path, b"{".to_vec()).await.unwrap_err();
            assert_eq!(refusal.class, ErrorClass::Policy, "{who} at {path}");
        }
    }
    assert!(world.coordinator.status().await.unwrap().live.is_some());
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
