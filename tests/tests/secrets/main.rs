//! The programs through a whole life of a cluster, saying all that they have to
//! say: no secret is in a log, on a console, on a command line, in an environment,
//! or in a file that is not made for it. The coordinator's own side of it is
//! `coordinator/tests/cli/life.rs`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

mod agent;
mod builder;
#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "../enrolment/world.rs"]
mod world;

use kiln_tests::secrets::Secrets;

use world::Agent;

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
