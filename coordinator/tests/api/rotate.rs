//! A node's key is replaced.

use super::common::{Machine, World, class, name};
use super::transport::{connect, drain};
use kiln_coordinator::Limits;
use kiln_protocol::admin::{ConfirmOutcome, ConfirmRequest, RegistryState};
use kiln_protocol::rotation::RotateRequest;
use kiln_protocol::{ApiError, ErrorClass, Fingerprint, Identity, api};
use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// An enrolled node, its key, and the one that is to take its place.
async fn enrolled(world: &World, node: &str) -> (Machine, Identity, Identity) {
    let (old, new) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let machine = world.machine_with(&old);
    machine.enrol(&world.ticket(node).await).await.unwrap();
    machine.open().await.unwrap();
    (machine, old, new)
}

async fn request(machine: &Machine, pin: Fingerprint, new: &Identity) -> RotateRequest {
    let mut ratchet = machine.ratchet.lock().await;
    RotateRequest::new(&pin, &machine.key, new, ratchet.turn(), ratchet.seen)
}

async fn send(machine: &Machine, request: &RotateRequest) -> Result<(), ApiError> {
    machine.send(Method::POST, api::ROTATE, serde_json::to_vec(request).unwrap()).await.map(drop)
}

/// The node with its new key, on the same disk.
async fn renewed(world: &World, machine: &Machine, new: &Identity) -> Machine {
    let renewed = world.machine_with(new);
    *renewed.ratchet.lock().await = machine.ratchet.lock().await.clone();
    renewed
}

#[tokio::test]
async fn a_new_key_takes_the_place_of_the_old_one() {
    let world = World::new().await;
    let (machine, _, new) = enrolled(&world, "a1").await;
    world.admin().rotate(&kiln_protocol::admin::NodeRequest { node: name("a1") }).await.unwrap();
    assert!(world.node("a1").await.rotating, "an operator sees that it has not done so yet");
    assert!(machine.open().await.unwrap().rotate, "the node is told at its next contact");
    let request = request(&machine, world.coordinator.pin(), &new).await;
    send(&machine, &request).await.unwrap();
    machine.ratchet.lock().await.answered();
    let renewed = renewed(&world, &machine, &new).await;
    assert!(!renewed.open().await.unwrap().rotate, "and not asked again");
    assert!(renewed.config().await.is_ok());
    let status = world.node("a1").await;
    assert_eq!(
        (status.registry, status.key, status.generation, status.rotating),
        (RegistryState::Bound, Some(new.fingerprint()), 1, false)
    );
    assert_eq!((world.count_events("ask_rotation").await, world.count_events("rotate").await), (1, 1));
}

#[tokio::test]
async fn a_rotation_whose_answer_was_lost_is_asked_again_and_answered_again() {
    let world = World::new().await;
    let (machine, old, new) = enrolled(&world, "a1").await;
    let request = request(&machine, world.coordinator.pin(), &new).await;
    for _ in 0..3 {
        // Each time over another connection, as after a power cut.
        let again = machine.cloned(&old, world.coordinator.pin()).await;
        send(&again, &request).await.unwrap();
    }
    assert_eq!(world.count_events("rotate").await, 1);
    // Nor does it matter that the disk still takes the turn for unanswered.
    let renewed = renewed(&world, &machine, &new).await;
    assert!(renewed.config().await.is_ok());
    assert_eq!(world.node("a1").await.registry, RegistryState::Bound);
}

#[tokio::test]
async fn a_second_new_key_within_ten_minutes_takes_an_operators_word() {
    let world = World::new().await;
    let (mut machine, _, _) = enrolled(&world, "a1").await;
    let pin = world.coordinator.pin();
    for asked in [false, true, true] {
        if asked {
            let wanted = request(&machine, pin, &Identity::generate().unwrap()).await;
            let refusal = send(&machine, &wanted).await.unwrap_err();
            assert_eq!(refusal.class, ErrorClass::Policy, "{refusal}");
            assert!((1..=600).contains(&refusal.retry_after.unwrap()), "{refusal:?}");
            // Nothing became of it: the node goes on with the key that it has.
            assert!(machine.config().await.is_ok());
            world.coordinator.rotate(&name("a1")).await.unwrap();
        }
        let new = Identity::generate().unwrap();
        let wanted = request(&machine, pin, &new).await;
        // A lost answer is given again, as new as the key is.
        send(&machine, &wanted).await.unwrap();
        send(&machine, &wanted).await.unwrap();
        machine = renewed(&world, &machine, &new).await;
        machine.open().await.unwrap();
    }
    assert_eq!(world.count_events("rotate").await, 3);
    assert_eq!(world.node("a1").await.registry, RegistryState::Bound);
}

#[tokio::test]
async fn a_later_use_of_the_old_key_is_held_with_an_alarm() {
    for path in [api::OPEN, api::GATE, api::REPORT, api::ENROL] {
        let world = World::new().await;
        let (machine, old, new) = enrolled(&world, "a1").await;
        send(&machine, &request(&machine, world.coordinator.pin(), &new).await).await.unwrap();
        let thief = machine.cloned(&old, world.coordinator.pin()).await;
        let (_, body) = thief.raw(Method::POST, path, b"{}".to_vec()).await.unwrap();
        let refusal: ApiError = serde_json::from_slice(&body).unwrap();
        assert_eq!(refusal.class, ErrorClass::Held, "{path}: {refusal}");
        let status = world.coordinator.status().await.unwrap();
        assert_eq!(status.node(&name("a1")).unwrap().registry, RegistryState::Held, "{path}");
        assert!(status.alarms[0].message.contains(&machine.key.to_string()), "{:?}", status.alarms);
        let renewed = renewed(&world, &machine, &new).await;
        assert_eq!(class(renewed.config().await), ErrorClass::Held, "nobody knows which is the right one");
        // Nor does whoever reads the console: he is told of it, whichever key that shows.
        for (shown, expected) in [(&old, ConfirmOutcome::Former), (&new, ConfirmOutcome::Kept)] {
            let fingerprint = shown.fingerprint();
            let request = ConfirmRequest { node: name("a1"), generation: None, fingerprint };
            let answer = world.admin().confirm(&request).await.unwrap();
            assert_eq!(answer.outcome, expected);
            assert!(answer.held.unwrap().contains("was replaced was used again"), "{path}");
        }
    }
}

#[tokio::test]
async fn what_asks_for_no_rotation_with_the_old_key_is_held_too() {
    let pin_of = |world: &World| world.coordinator.pin();
    for use_of_it in ["malformed", "too large", "bad proof"] {
        let world = World::new().await;
        let (machine, old, new) = enrolled(&world, "a1").await;
        let asked = request(&machine, pin_of(&world), &new).await;
        send(&machine, &asked).await.unwrap();
        // Cut off on its way: that happens to honest machines, which ask again.
        let body = serde_json::to_vec(&asked).unwrap();
        let mut cut = super::transport::connect_as(&world, &old).await;
        let head = format!("POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n", api::ROTATE, body.len());
        cut.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).await.unwrap();
        cut.write_all(&body[..body.len() / 2]).await.unwrap();
        cut.shutdown().await.unwrap();
        super::transport::drain(&mut cut).await;
        send(&machine.cloned(&old, pin_of(&world)).await, &asked).await.unwrap();
        assert_eq!(world.node("a1").await.registry, RegistryState::Bound);

        let thief = machine.cloned(&old, pin_of(&world)).await;
        let forged = RotateRequest::new(&world.machine().key, &thief.key, &new, asked.turn, asked.seen);
        let body = match use_of_it {
            "bad proof" => serde_json::to_vec(&forged).unwrap(),
            "too large" => vec![b' '; api::MAX_BODY + 1],
            _ => b"{}".to_vec(),
        };
        let refusal = thief.send(Method::POST, api::ROTATE, body).await.unwrap_err();
        assert_eq!(refusal.class, ErrorClass::Held, "{use_of_it}: {refusal}");
        let status = world.coordinator.status().await.unwrap();
        assert_eq!(status.node(&name("a1")).unwrap().registry, RegistryState::Held);
        assert!(status.alarms[0].message.contains(&machine.key.to_string()), "{:?}", status.alarms);
    }
}

#[tokio::test]
async fn another_rotation_with_the_old_key_is_held() {
    let world = World::new().await;
    let (machine, old, new) = enrolled(&world, "a1").await;
    send(&machine, &request(&machine, world.coordinator.pin(), &new).await).await.unwrap();
    let thief = machine.cloned(&old, world.coordinator.pin()).await;
    let third = Identity::generate().unwrap();
    let wanted = request(&thief, world.coordinator.pin(), &third).await;
    assert_eq!(class(send(&thief, &wanted).await), ErrorClass::Held);
    assert_eq!(world.node("a1").await.key, Some(new.fingerprint()));
}

#[tokio::test]
async fn a_rotation_without_the_ratchet_is_a_second_machines_and_held() {
    let world = World::new().await;
    let (_machine, old, new) = enrolled(&world, "a1").await;
    // Who has the key, but not the disk.
    let thief = world.machine_with(&old);
    let wanted = request(&thief, world.coordinator.pin(), &new).await;
    assert_eq!(class(send(&thief, &wanted).await), ErrorClass::Held);
    let status = world.node("a1").await;
    assert_eq!((status.registry, status.key), (RegistryState::Held, Some(old.fingerprint())));
}

#[tokio::test]
async fn a_held_node_rotates_nothing() {
    let world = World::new().await;
    let (machine, old, new) = enrolled(&world, "a1").await;
    assert_eq!(class(world.machine_with(&old).open().await), ErrorClass::Held);
    let wanted = request(&machine, world.coordinator.pin(), &new).await;
    assert_eq!(class(send(&machine, &wanted).await), ErrorClass::Held);
    assert!(world.coordinator.rotate(&name("a1")).await.is_err());
    assert_eq!(world.node("a1").await.key, Some(old.fingerprint()));
}

#[tokio::test]
async fn a_key_never_gets_a_second_name_by_rotation() {
    let world = World::new().await;
    let (machine, old, _) = enrolled(&world, "a1").await;
    let (other, _, _) = enrolled(&world, "a2").await;
    let pin = world.coordinator.pin();
    // A key that is another node's, an admin's, and the node's own.
    let (taken, admin) = (Identity::generate().unwrap(), world.admin_identity());
    send(&other, &request(&other, pin, &taken).await).await.unwrap();
    for wanted in [&taken, &admin, &old] {
        let wanted = request(&machine, pin, wanted).await;
        assert_eq!(class(send(&machine, &wanted).await), ErrorClass::NameConflict);
    }
    assert_eq!(world.node("a1").await.key, Some(old.fingerprint()));
    // Nor does the key that was replaced become another's.
    let new = Identity::generate().unwrap();
    send(&machine, &request(&machine, pin, &new).await).await.unwrap();
    let again = world.machine_with(&old);
    assert_eq!(class(again.enrol(&world.ticket("a2").await).await), ErrorClass::Held);
}

#[tokio::test]
async fn a_proof_for_another_key_or_coordinator_rotates_nothing() {
    let (world, elsewhere) = (World::new().await, World::new().await);
    let (machine, old, new) = enrolled(&world, "a1").await;
    let (other, _, _) = enrolled(&world, "a2").await;
    let turn = machine.ratchet.lock().await.turn();
    for (pin, key) in [(world.coordinator.pin(), other.key), (elsewhere.coordinator.pin(), machine.key)] {
        let forged = RotateRequest::new(&pin, &key, &new, turn, None);
        assert_eq!(class(send(&machine, &forged).await), ErrorClass::Policy);
    }
    assert_eq!(world.node("a1").await.key, Some(old.fingerprint()));
    assert_eq!(
        class(send(&world.machine(), &request(&machine, world.coordinator.pin(), &new).await).await),
        ErrorClass::Policy
    );
}

#[tokio::test]
async fn a_console_that_still_shows_the_old_key_is_told_from_one_that_shows_the_nodes() {
    let world = World::new().await;
    let (machine, old, new) = enrolled(&world, "a1").await;
    send(&machine, &request(&machine, world.coordinator.pin(), &new).await).await.unwrap();
    let admin = world.admin();
    let confirm = async |generation, shown: &Identity| {
        let fingerprint = shown.fingerprint();
        let request = ConfirmRequest { node: name("a1"), generation, fingerprint };
        let answer = admin.confirm(&request).await.unwrap();
        (answer.outcome, answer.generation, answer.key)
    };
    let bound = Some(new.fingerprint());
    assert_eq!(confirm(None, &old).await, (ConfirmOutcome::Former, 1, bound));
    assert_eq!(confirm(Some(1), &old).await, (ConfirmOutcome::Former, 1, bound));
    assert_eq!(world.count_events("confirm_console").await, 0, "nothing was done");
    // Nor is it taken for the key of the machine that comes next.
    let next = world.ticket("a1").await;
    assert_eq!(confirm(None, &old).await, (ConfirmOutcome::Former, 1, bound));
    assert_eq!(confirm(None, &new).await, (ConfirmOutcome::Kept, 1, bound));
    let machine = world.machine();
    machine.enrol(&next).await.unwrap();
    assert_eq!(confirm(None, &new).await, (ConfirmOutcome::Mismatch, 2, Some(machine.key)));
    // Of a generation that is over nothing is confirmed.
    let over = ConfirmRequest { node: name("a1"), generation: Some(1), fingerprint: old.fingerprint() };
    assert!(admin.confirm(&over).await.unwrap_err().to_string().contains("superseded"));
}

/// A connection that this key has, and its server counts: it has answered once.
async fn connected(world: &World, identity: &Identity) -> TlsStream<TcpStream> {
    let config = kiln_protocol::tls::client_config(identity, world.coordinator.pin()).unwrap();
    let mut stream = connect(world, config).await.unwrap();
    stream.write_all(b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 404");
    stream
}

#[tokio::test]
async fn keys_that_are_out_of_use_displace_nobody_who_is_known() {
    let mut limits = Limits::default();
    limits.known = 4;
    let world = World::within(1, limits).await;
    let mut out_of_use = Vec::new();
    // One machine makes itself key after key, as often as an operator lets it.
    let (mut machine, mut old, _) = enrolled(&world, "a1").await;
    for _ in 0..4 {
        world.coordinator.rotate(&name("a1")).await.unwrap();
        let new = Identity::generate().unwrap();
        send(&machine, &request(&machine, world.coordinator.pin(), &new).await).await.unwrap();
        machine = renewed(&world, &machine, &new).await;
        machine.open().await.unwrap();
        out_of_use.push(std::mem::replace(&mut old, new));
    }
    drop(machine);
    // A place was given on, and its next holder lost it too.
    for _ in 0..2 {
        let (_, key, _) = enrolled(&world, "a2").await;
        out_of_use.push(key);
    }
    world.coordinator.revoke(&name("a2")).await.unwrap();
    // An admin was removed.
    let gone = Identity::generate().unwrap();
    world.coordinator.add_admin(&"gone".parse().unwrap(), gone.fingerprint()).await.unwrap();
    let remove = kiln_protocol::admin::RemoveAdminRequest { name: "gone".parse().unwrap() };
    world.admin().remove_admin(&remove).await.unwrap();
    out_of_use.extend([gone, world.own_identity()]);

    let (machine, honest, _) = enrolled(&world, "s1").await;
    drop(machine);
    let mut kept = [connected(&world, &honest).await, connected(&world, &honest).await];
    let mut flood = Vec::new();
    for key in &out_of_use {
        flood.push(connected(&world, key).await);
    }
    assert!(flood.len() > 2 * limits.known - 2, "so many would fill it");
    for stream in &mut kept {
        let asked = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        let answer = String::from_utf8(drain(stream).await).unwrap();
        assert!(asked.is_ok() && answer.contains("HTTP/1.1 404"), "it was displaced: {answer}");
    }
}
