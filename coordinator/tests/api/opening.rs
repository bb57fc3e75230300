//! A configuration that is asked for with the opening of a connection.

use kiln_protocol::config::NodeConfig;
use kiln_protocol::ratchet::{ConfigAnswer, ConfigAsked};
use kiln_protocol::{ErrorClass, Identity, Role, api};

use super::common::{World, class};
use super::vouch::{confirm, read_ticket};

fn asked(seen: Option<&str>) -> ConfigAsked {
    ConfigAsked { seen: seen.map(str::to_owned) }
}

fn given(answer: Option<ConfigAnswer>) -> (String, String) {
    match answer {
        Some(ConfigAnswer::Is { tag, config }) => (tag, config.get().to_owned()),
        other => panic!("not a configuration: {other:?}"),
    }
}

#[tokio::test]
async fn a_configuration_is_the_same_with_the_opening_and_alone() {
    let world = World::new().await;
    let machine = world.machine();
    machine.enrol(&world.ticket("a1").await).await.unwrap();
    let (tag, config) = given(machine.open_asking(Some(asked(None))).await.unwrap().config);
    let alone = machine.request(api::CONFIG, &[]).await;
    assert_eq!(alone.headers()["etag"], tag.as_str());
    assert_eq!(alone.text().await.unwrap(), config);
    let again = machine.open_asking(Some(asked(Some(&tag)))).await.unwrap().config;
    assert!(matches!(again, Some(ConfigAnswer::Unchanged)), "{again:?}");
    let (other, _) =
        given(machine.open_asking(Some(asked(Some("\"of another life\"")))).await.unwrap().config);
    assert_eq!(other, tag);
    assert!(machine.open().await.unwrap().config.is_none(), "nobody asked");
}

#[tokio::test]
async fn an_answer_that_was_lost_comes_again_with_its_configuration() {
    let world = World::new().await;
    let identity = Identity::generate().unwrap();
    let machine = world.machine_with(&identity);
    machine.enrol(&world.ticket("a1").await).await.unwrap();
    // On its disk before it is sent, and sent twice: nobody hears the first answer.
    machine.ratchet.lock().await.turn();
    let again = machine.cloned(&identity, world.coordinator.pin()).await;
    let first = given(machine.open_asking(Some(asked(None))).await.unwrap().config);
    assert_eq!(given(again.open_asking(Some(asked(None))).await.unwrap().config), first);
}

#[tokio::test]
async fn an_opening_stands_whatever_becomes_of_the_configuration() {
    let world = World::new().await;
    let (ticket, server) = (read_ticket(&world, "s1", Role::Server).await, world.machine());
    server.enrol(&ticket).await.unwrap();
    let opened = server.open_asking(Some(asked(None))).await.unwrap();
    match opened.config {
        Some(ConfigAnswer::Refused(refusal)) => {
            assert_eq!((refusal.class, refusal.retry_after), (ErrorClass::Pending, Some(1)));
            assert!(refusal.request.is_some(), "it is found in the journal");
        }
        other => panic!("secrets for a machine whose console nobody has read: {other:?}"),
    }
    assert!(server.report_ready().await.is_ok());
    confirm(&world, "s1", server.key).await;
    let (_, config) = given(server.open_asking(Some(asked(None))).await.unwrap().config);
    let config: NodeConfig = serde_json::from_str(&config).unwrap();
    assert_eq!(config, server.config().await.unwrap());
}

#[tokio::test]
async fn whoever_may_not_open_is_told_no_configuration() {
    let world = World::new().await;
    let identity = Identity::generate().unwrap();
    let machine = world.machine_with(&identity);
    machine.enrol(&world.ticket("a1").await).await.unwrap();
    machine.open().await.unwrap();
    let clone = world.machine_with(&identity);
    assert_eq!(class(clone.open_asking(Some(asked(None))).await), ErrorClass::Held);
    assert_eq!(class(machine.open_asking(Some(asked(None))).await), ErrorClass::Held);
    assert_eq!(class(world.machine().open_asking(Some(asked(None))).await), ErrorClass::Policy);
}
