//! What a machine's console shows, told by hand.

use super::*;

#[test]
fn a_machine_without_a_ticket_is_approved_by_what_its_console_shows() {
    let host = Host::initialised();
    let _serving = Serving::start(&host);
    assert_eq!(host.ok(&["pending"]), "no machine waits\n");
    let machine = Identity::generate().unwrap();
    let (key, facts) = (machine.fingerprint().to_string(), serde_json::json!({"facts": {}}));
    assert_eq!(post(&host, &machine, api::APPROVAL, &facts), 403);
    let waiting = host.ok(&["pending"]);
    assert!(waiting.contains(&format!("key {}… at 127.0.0.1", &key[..8])), "{waiting}");
    assert!(host.ok(&["status"]).contains(&waiting));

    let short = host.fails(2, &["approve", "s1", "--fingerprint", &key[..8]]);
    assert!(short.contains("at least the first 20"), "{short}");
    let other = host.fails(4, &["approve", "s1", "--fingerprint", &"0".repeat(20)]);
    assert!(other.contains("no machine that waits"), "{other}");
    let approved = host.ok(&["approve", "s1", "--fingerprint", &key[..20].to_uppercase()]);
    assert!(approved.contains(&key), "{approved}");
    assert_eq!(post(&host, &machine, api::APPROVAL, &facts), 200);
    assert_eq!(host.ok(&["pending"]), "no machine waits\n");
}

#[test]
fn a_servers_console_is_confirmed_by_hand_and_another_key_there_is_an_alarm() {
    let host = Host::initialised();
    let _serving = Serving::start(&host);
    let text = host.ok(&["ticket", "--node", "s1", "--advertise", "10.0.2.2:7443", "--confirm-console"]);
    let ticket: Ticket = text.parse().unwrap();
    let thief = Identity::generate().unwrap();
    let body = serde_json::json!({
        "ticket": ticket.public_key(), "proof": ticket.prove(&thief.fingerprint()), "facts": {},
    });
    assert_eq!(post(&host, &thief, api::ENROL, &body), 200);
    let status = host.ok(&["status"]);
    assert!(status.contains("coordinator confirm s1 KEY"), "{status}");
    let shown = Identity::generate().unwrap().fingerprint().to_string();
    // A script that deploys when the console was confirmed must not go on.
    let thiefs = thief.fingerprint().to_string();
    for _ in 0..2 {
        let said = host.fails(6, &["confirm", "s1", &shown]);
        assert!(said.contains(&format!("ALARM: s1 is held: key {thiefs} has enrolled")), "{said}");
        assert!(said.contains(&shown) && said.contains("coordinator revoke s1"), "{said}");
    }
    assert!(host.ok(&["--help"]).contains("6  confirm: the node is held"));
    // If it was mistyped, saying it right is not enough.
    let said = host.fails(6, &["confirm", "s1", &thiefs]);
    assert!(said.contains("s1 is still held: its console shows another key"), "{said}");
    assert!(said.contains("coordinator release s1"), "{said}");
    host.fails(6, &["confirm", "s1", &shown]);
    let status = host.ok(&["status"]);
    assert!(status.contains("ALARM") && status.contains(&shown), "{status}");
    host.fails(2, &["confirm", "s1", &shown[..20]]);
    // After the thief is shut out, the console's own key is all that enrols.
    host.ok(&["revoke", "s1"]);
    host.ok(&["ticket", "--node", "s1", "--advertise", "10.0.2.2:7443", "--confirm-console"]);
    assert_eq!(host.ok(&["confirm", "s1", &shown]), format!("only key {shown} is s1\n"));
}
