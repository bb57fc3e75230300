//! Who may answer and be asked: refusals, approvals, and what is no coordinator.

use super::*;
use rustls::ServerConfig;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

#[tokio::test]
async fn another_coordinators_key_is_named_and_told_nothing() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let wrong = coordinator.seed_with_pin(Fingerprint::of_spki(b"another"));
    let host = FakeHost::new(&machine.root, wrong);
    machine.boot_until(&host, || machine.said().contains("not the pinned")).await;
    let said = machine.said();
    assert!(said.contains("[enrol] policy") && said.contains("another coordinator answers"), "{said}");
    assert!(coordinator.script().enrolled.is_empty());
}

#[tokio::test]
async fn another_seed_cures_a_node_that_is_not_bound_yet() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed_with_pin(Fingerprint::of_spki(b"another")));
    let cure = async {
        until(|| machine.said().contains("not the pinned")).await;
        host.seed.replace(Search::Found(Box::new(coordinator.seed()), "a volume"));
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), cure);
    assert_eq!(outcome, Outcome::Ready);
}

#[tokio::test]
async fn refusals_are_said_and_tried_again_until_an_operator_has_cured_them() {
    for class in
        [ErrorClass::TicketExpired, ErrorClass::TicketContested, ErrorClass::Held, ErrorClass::Pending]
    {
        let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
        let host = FakeHost::new(&machine.root, coordinator.seed());
        let refusal = ApiError::new(class, "no").hint("ask the operator");
        coordinator
            .script()
            .faults
            .extend([(api::ENROL, Fault::Refuse(refusal.clone())), (api::ENROL, Fault::Refuse(refusal))]);
        assert_eq!(machine.boot(&host).await, Outcome::Ready);
        let said = machine.said();
        assert!(said.contains(&format!("[enrol] {class}: no (ask the operator)")), "{said}");
        assert_eq!(coordinator.script().enrolled.len(), 1);
    }
}

#[tokio::test]
async fn whatever_else_is_answered_is_taken_for_a_passing_trouble() {
    let portal = "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n<html></html>";
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{\"cluster\":\"ho";
    let faults = [Fault::Lose, Fault::Raw(cut), Fault::Raw("\0\0\0\0"), Fault::Raw(portal)];
    for path in [api::ENROL, api::CONFIG, api::GATE] {
        let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
        let host = FakeHost::new(&machine.root, coordinator.seed());
        coordinator.script().faults.extend(faults.iter().map(|fault| (path, fault.clone())));
        assert_eq!(machine.boot(&host).await, Outcome::Ready);
        assert_eq!(host.log.borrow().iter().filter(|line| *line == "start server").count(), 1);
        assert!(coordinator.script().faults.is_empty());
    }
}

#[tokio::test]
async fn a_machine_without_a_ticket_shows_its_key_and_waits_for_approval() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.contact());
    let approve = async {
        until(|| machine.said().matches("[enrol] pending: no ticket (coordinator approve)").count() > 0)
            .await;
        let key = kiln_protocol::console::key_in(&machine.said()).unwrap();
        assert_eq!(identity::load(&machine.root).unwrap().unwrap().fingerprint(), key);
        // Its beacon says what it waits for.
        until(|| !coordinator.script().beacons.is_empty()).await;
        let StepState::Failed { error } = coordinator.script().beacons[0].1.state.clone() else { panic!() };
        assert_eq!(error.class, ErrorClass::Pending);
        coordinator.script().approved.push(key);
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), approve);
    assert_eq!(outcome, Outcome::Ready);
}

#[tokio::test]
async fn a_ticket_that_comes_later_ends_the_wait_for_approval() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.contact());
    let cure = async {
        until(|| machine.said().contains("[enrol] pending")).await;
        host.seed.replace(Search::Found(Box::new(coordinator.seed()), "a volume"));
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), cure);
    assert_eq!(outcome, Outcome::Ready);
}

#[tokio::test]
async fn a_server_whose_console_nobody_has_confirmed_yet_asks_again() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    let pending = || Fault::Refuse(ApiError::new(ErrorClass::Pending, "not confirmed").retry_after(1));
    coordinator.script().faults.extend((0..3).map(|_| (api::CONFIG, pending())));
    assert_eq!(machine.boot(&host).await, Outcome::Ready);
    // The line may have been missed or cut: it is written again.
    let key = identity::load(&machine.root).unwrap().unwrap().fingerprint();
    let lines = machine.said().matches(&kiln_protocol::console::line(&key)).count();
    assert!(lines >= 4, "{lines}: {}", machine.said());
}

#[tokio::test]
async fn a_refusal_before_enrolment_reaches_the_coordinator_as_a_beacon_whatever_its_class() {
    for class in [ErrorClass::TicketUnknown, ErrorClass::Transient] {
        let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
        let host = FakeHost::new(&machine.root, coordinator.seed());
        let refusal = || Fault::Refuse(ApiError::new(class, "no"));
        coordinator.script().faults.extend((0..1000).map(|_| (api::ENROL, refusal())));
        machine
            .boot_until(&host, || {
                let script = coordinator.script();
                let failed =
                    |state: &StepState| matches!(state, StepState::Failed { error } if error.class == class);
                let told = script.beacons.iter().any(|(_, report)| failed(&report.state));
                // Enrolment stands in the way of everything else.
                drop(script);
                told
            })
            .await;
    }
}

#[tokio::test]
async fn a_captive_portal_is_named_as_such() {
    let machine = Machine::new();
    let (coordinator, listener) = FakeCoordinator::new().await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let page = b"HTTP/1.1 302 Found\r\nlocation: http://login.example/\r\ncontent-length: 0\r\n\r\n";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, page).await;
        }
    });
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot_until(&host, || machine.said().contains("captive portal")).await;
    let said = machine.said();
    assert!(said.contains("[enrol] transient") && said.contains("does not speak TLS"), "{said}");
}

/// A middlebox that ends TLS with keys of its own, in place of the coordinator.
async fn middlebox(certificate: CertifiedKey) -> FakeCoordinator {
    let (coordinator, listener) = FakeCoordinator::new().await;
    let config = ServerConfig::builder_with_provider(kiln_protocol::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move { acceptor.accept(stream).await.ok() });
        }
    });
    coordinator
}

#[tokio::test]
async fn a_middlebox_that_ends_tls_is_named_as_such_whatever_it_shows() {
    let shown = |algorithm, names: usize| {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<String> = (0..names).map(|n| format!("service-{n}.example.net")).collect();
        let leaf = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap().der().clone();
        let signing = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let signing = rustls::crypto::ring::sign::any_supported_type(&signing).unwrap();
        CertifiedKey::new(vec![leaf.clone(), leaf], signing)
    };
    for (certificate, class, words) in [
        // A chain, and more than 2 KiB.
        (shown(&rcgen::PKCS_ECDSA_P256_SHA256, 1), "policy", "a proxy between ends TLS"),
        (shown(&rcgen::PKCS_ECDSA_P256_SHA256, 200), "policy", "a proxy between ends TLS"),
        // It has nothing to sign with that is asked for: an alert ends it.
        (shown(&rcgen::PKCS_ED25519, 1), "transient", "does a proxy between end TLS"),
    ] {
        let (machine, coordinator) = (Machine::new(), middlebox(certificate).await);
        let host = FakeHost::new(&machine.root, coordinator.seed());
        machine.boot_until(&host, || machine.said().contains(words)).await;
        let said = machine.said();
        assert!(said.contains(&format!("[enrol] {class}")), "{said}");
    }
}

#[tokio::test]
async fn a_nodes_key_is_not_taken_for_the_coordinators() {
    // Another node of the same cluster answers, with the key it enrolled with.
    let (machine, node) = (Machine::new(), FakeCoordinator::started().await);
    let coordinator = FakeCoordinator::started().await;
    let pin = coordinator.seed().claim.pin();
    let host = FakeHost::new(&machine.root, node.seed_with_pin(pin));
    machine.boot_until(&host, || machine.said().contains("not the pinned")).await;
    assert!(node.script().enrolled.is_empty() && node.script().beacons.is_empty());
}
