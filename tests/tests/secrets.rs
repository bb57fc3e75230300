//! The real agent and the real coordinator through a whole life of a cluster, in
//! one process that logs all that any part of it has to say: no secret is in the
//! log, on a console, on a command line, or in a file that is not made for it.
//! The coordinator's own side of it is `coordinator/tests/cli/life.rs`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "enrolment/world.rs"]
mod world;

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kiln_protocol::Ticket;
use kiln_tests::secrets::{Log, Secrets};
use tracing_subscriber::filter::LevelFilter;

use world::{Agent, World};

fn note_ticket(secrets: &mut Secrets, ticket: &Ticket) {
    let text = ticket.to_text();
    let bytes = URL_SAFE_NO_PAD.decode(&text["kiln1.".len()..]).unwrap();
    secrets.text("ticket", &text);
    // Its seed stands before the checksum.
    secrets.bytes("ticket", &bytes[bytes.len() - 36..bytes.len() - 4]);
}

/// Whatever k3s was given: keys, tokens, passwords.
fn note_cluster(secrets: &mut Secrets, agent: &Agent) {
    for (path, _, content) in agent.files() {
        if content.contains("PRIVATE KEY") && !path.contains("var/lib/kiln") {
            secrets.key("cluster", &content);
        }
        for word in content.split(['"', '\'', ' ', '\n']).filter(|word| word.starts_with("K10")) {
            secrets.document("cluster", &serde_json::json!(word));
        }
        if path.ends_with("etc/rancher/node/password") {
            secrets.text("cluster", &content);
        }
    }
}

fn note_key(secrets: &mut Secrets, agent: &Agent) -> Vec<u8> {
    let pem = agent.file("var/lib/kiln/node.key").unwrap();
    secrets.key("node key", std::str::from_utf8(&pem).unwrap());
    pem
}

/// Said of a file that others than root may read: a secret does not belong there.
const FOR_ALL: &str = ", for all to read: ";

/// Whether a file of a node is made to hold a secret.
fn belongs(path: &str, secret: &str) -> bool {
    match secret {
        _ if path.contains(FOR_ALL) => false,
        "node key" => path.ends_with("/var/lib/kiln/node.key"),
        // One that it was refused with, and would show again.
        "ticket" => path.starts_with("thief: ") && path.ends_with("/var/lib/kiln/state.json"),
        "cluster" => path.contains("/etc/rancher/") || path.contains("/var/lib/rancher/"),
        _ => false,
    }
}

#[tokio::test]
async fn an_agents_whole_life_leaves_no_secret_where_it_does_not_belong() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE);
    subscriber.with_writer(move || writer.clone()).init();
    let world = World::new().await;
    let mut secrets = Secrets::default();
    let tickets = [world.valid_ticket("s1").await, world.valid_ticket("a1").await];
    for ticket in &tickets {
        note_ticket(&mut secrets, ticket);
    }
    let agents = tickets.clone().map(Agent::with);
    for agent in &agents {
        agent.ready().await;
    }
    for agent in &agents {
        note_key(&mut secrets, agent);
        note_cluster(&mut secrets, agent);
    }
    // A thief of a ticket, an operator's word, a new key, a start again, an end.
    let thief = Agent::with(tickets[1].clone());
    thief.until(|seen| seen.contains("ticket_contested")).await;
    note_key(&mut secrets, &thief);
    let worker = "a1".parse().unwrap();
    world.coordinator().release(&worker).await.unwrap();
    world.coordinator().rotate(&worker).await.unwrap();
    let [server, agent] = agents;
    let before = agent.file("var/lib/kiln/node.key").unwrap();
    let agent = agent.restarted();
    let end = Instant::now() + Duration::from_secs(60);
    while agent.file("var/lib/kiln/node.key").unwrap() == before {
        assert!(Instant::now() < end, "its key was not replaced:\n{}", agent.console());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    note_key(&mut secrets, &agent);
    world.coordinator().revoke(&worker).await.unwrap();
    world.coordinator().end().await.unwrap();

    let mut places: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, agent) in [("s1", &server), ("a1", &agent), ("thief", &thief)] {
        places.push((format!("console of {name}"), agent.console().into_bytes()));
        let told = agent.kubectl().into_iter().map(|(arguments, _)| arguments + "\n");
        places.push((format!("kubectl of {name}"), told.collect::<String>().into_bytes()));
        for (path, open, content) in agent.files() {
            let place = if open { format!("{name}{FOR_ALL}{path}") } else { format!("{name}: {path}") };
            places.push((place, content.into_bytes()));
        }
    }
    let log = log.kept();
    // Both sides have spoken.
    let said = String::from_utf8_lossy(&log).into_owned();
    assert!(
        ["ticket_contested: ", "pass_gate: ", "kiln_agent"].iter().all(|part| said.contains(part)),
        "{said}"
    );
    places.push(("log".to_owned(), log));
    let strays = |places: &[(String, Vec<u8>)]| -> Vec<(String, String)> {
        let found = secrets.find(places.iter().map(|(name, content)| (name.as_str(), content.as_slice())));
        found.into_iter().filter(|(place, secret)| !belongs(place, secret)).collect()
    };
    let (forms, _) = secrets.count();
    println!("{forms} forms, {} places, {} bytes of log", places.len(), places.last().unwrap().1.len());
    assert!(forms > 100, "{forms} forms");
    let found = strays(&places);
    assert!(found.is_empty(), "{found:?}");
    // It can fail: this is a leak.
    places.push(("planted".to_owned(), format!("{:?}", &**tickets[0].to_text()).into_bytes()));
    assert_eq!(strays(&places), [("planted".to_owned(), "ticket".to_owned())]);
}
