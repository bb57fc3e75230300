//! The real agent and the real coordinator through a whole life of a cluster, in
//! one process that logs all that any part of it has to say.

use std::time::{Duration, Instant};

use kiln_tests::secrets::{Log, Secrets};
use tracing_subscriber::filter::LevelFilter;

use crate::world::{Agent, World};
use crate::{note_cluster, note_key};

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
        secrets.ticket("ticket", &ticket.to_text());
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
    world.coordinator().end(&"test".parse().unwrap()).await.unwrap();

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
