//! A seed whose address has no card yet, and seeds that take each other's place.

use super::*;
use kiln_protocol::seed::NodeSeed;
use kiln_protocol::ticket::TicketSeed;

/// A seed with the address without which there is no way to the coordinator.
fn with_network(seed: NodeSeed) -> NodeSeed {
    NodeSeed { network: Some(super::super::fakes::config().network.remove(0)), ..seed }
}

/// A ticket of a coordinator that is not there any more.
async fn dead_end() -> NodeSeed {
    let (coordinator, listener) = FakeCoordinator::new().await;
    drop(listener);
    coordinator.seed()
}

#[tokio::test]
async fn an_address_is_given_as_soon_as_its_card_is_there_however_late_that_is() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, with_network(coordinator.seed()));
    host.dhcp.set(false);
    host.no_card.set(10);
    assert_eq!(machine.boot(&host).await, Outcome::Ready);
    assert_eq!(host.no_card.get(), 0);
    let said = machine.said();
    let why = "no network card has an address yet: no network card has the address 52:54:00:00:00:02";
    assert!(said.contains(why), "{said}");
}

#[tokio::test]
async fn an_address_that_no_card_could_be_given_is_given_after_a_reboot() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, with_network(coordinator.seed()));
    host.dhcp.set(false);
    host.no_card.set(u32::MAX);
    machine.boot_until(&host, || machine.said().contains("[enrol] transient: no network card")).await;
    assert!(matches!(machine.state(), State::Enrol { .. }));
    host.no_card.set(0);
    host.reboot();
    assert_eq!(machine.boot(&host).await, Outcome::Ready);
}

#[tokio::test]
async fn a_card_that_cannot_be_given_its_address_is_said_and_does_not_keep_the_node_from_another_way() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let mut config = super::super::fakes::config();
    config.network.clear();
    coordinator.script().config = config;
    let host = FakeHost::new(&machine.root, with_network(coordinator.seed()));
    host.no_card.set(u32::MAX);
    assert_eq!(machine.boot(&host).await, Outcome::Ready);
    let said = machine.said();
    assert!(said.contains("[enrol] transient: no network card has the address"), "{said}");
}

#[tokio::test]
async fn a_ticket_whose_volume_is_late_takes_the_place_of_what_the_image_holds() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.contact());
    // The network is in the seed that is late: nothing is ever heard before.
    host.dhcp.set(false);
    let late = async {
        until(|| machine.said().contains("[enrol] transient: no network card has an address yet")).await;
        host.more_seeds.borrow_mut().push(with_network(coordinator.seed()));
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), late);
    assert_eq!(outcome, Outcome::Ready);
    assert!(machine.said().contains("another seed found in another source"), "{}", machine.said());
}

#[tokio::test]
async fn another_ticket_cures_one_whose_address_leads_nowhere() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, dead_end().await);
    let cure = async {
        until(|| machine.said().contains("[enrol] transient")).await;
        host.more_seeds.borrow_mut().push(coordinator.seed());
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), cure);
    assert_eq!(outcome, Outcome::Ready);
}

#[tokio::test]
async fn an_old_ticket_in_one_source_does_not_hide_a_new_one_in_another() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed_with(&TicketSeed::generate()));
    let expired = || Fault::Refuse(ApiError::new(ErrorClass::TicketExpired, "too late"));
    coordinator.script().faults.extend((0..2).map(|_| (api::ENROL, expired())));
    let cure = async {
        until(|| machine.said().contains("[enrol] ticket_expired")).await;
        host.more_seeds.borrow_mut().push(coordinator.seed());
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), cure);
    assert_eq!(outcome, Outcome::Ready);
}

#[tokio::test]
async fn of_two_tickets_that_fail_each_gets_its_turn_again() {
    let machine = Machine::new();
    let (coordinator, listener) = FakeCoordinator::new().await;
    let address = listener.local_addr().unwrap();
    drop(listener);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    host.more_seeds.replace(vec![dead_end().await]);
    let late = async {
        until(|| machine.said().matches("another seed found").count() >= 2).await;
        coordinator.listen(tokio::net::TcpListener::bind(address).await.unwrap());
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), late);
    assert_eq!(outcome, Outcome::Ready);
}

#[tokio::test]
async fn a_ticket_is_never_given_up_for_an_address_without_one() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    let refusals = [ErrorClass::TicketExpired, ErrorClass::Transient].into_iter().cycle().take(20);
    let refusals = refusals.map(|class| (api::ENROL, Fault::Refuse(ApiError::new(class, "no"))));
    coordinator.script().faults.extend(refusals);
    machine.boot_until(&host, || machine.said().contains("[enrol]")).await;
    // Its volume has been taken out; the image is as it was.
    host.seed.replace(Search::Nothing(Vec::new()));
    host.more_seeds.borrow_mut().push(coordinator.contact());
    assert_eq!(machine.boot(&host).await, Outcome::Ready);
    assert!(coordinator.script().asked.iter().all(|path| path != api::APPROVAL));
}

#[tokio::test]
async fn a_seed_that_was_exchanged_while_the_machine_was_off_counts_at_once() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, dead_end().await);
    host.more_seeds.replace(vec![dead_end().await]);
    machine.boot_until(&host, || machine.said().contains("another seed found")).await;
    let State::Enrol { seed: second, .. } = machine.state() else { panic!("not at enrolment") };
    // Both are there still: the one in use is gone on with.
    let before = machine.said().len();
    let tried = || machine.said()[before..].contains("[enrol] transient");
    machine.boot_until(&host, tried).await;
    let address = second.0.claim.addresses()[0].to_string();
    assert!(machine.said()[before..].contains(&address), "{}", machine.said());
    // The one in use has gone, and there is another.
    host.more_seeds.borrow_mut().clear();
    host.seed.replace(Search::Found(Box::new(coordinator.seed()), "a volume"));
    assert_eq!(machine.boot(&host).await, Outcome::Ready);
}
