//! What a real coordinator tells the nodes of a cluster.

use std::net::SocketAddr;

use jiff::{SignedDuration, Timestamp};
use kiln_coordinator::Coordinator;
use kiln_coordinator::plan::ClusterFile;
use kiln_protocol::admin::{Hints, TicketRecord};
use kiln_protocol::api::{self, EnrolRequest, Facts};
use kiln_protocol::config::NodeConfig;
use kiln_protocol::ratchet::{Notch, OPEN, OpenRequest, Turn};
use kiln_protocol::ticket::TicketSeed;
use kiln_protocol::{Identity, Role, Ticket, tls};
use kiln_tests::cluster::SERVER_AND_AGENT;
use tokio::net::TcpListener;

/// The configurations of `s1` and `a1`.
pub(crate) fn configurations() -> [NodeConfig; 2] {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let state = tempfile::tempdir().expect("a directory");
        let path = state.path().join("coordinator");
        Coordinator::init(&path).expect("a state");
        let coordinator = Coordinator::open(&path).await.expect("it opens");
        coordinator
            .apply(&ClusterFile::parse(SERVER_AND_AGENT).expect("a cluster file"))
            .await
            .expect("it is in force");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = coordinator.serve(listener).await.expect("it answers");
        let mut told = Vec::new();
        for (node, role) in [("s1", Role::Server), ("a1", Role::Agent)] {
            told.push(enrolled(&coordinator, server.local_addr(), node, role).await);
        }
        server.shutdown().await;
        told.try_into().expect("two of them")
    })
}

/// The configuration of a machine that enrols as this node.
async fn enrolled(coordinator: &Coordinator, address: SocketAddr, node: &str, role: Role) -> NodeConfig {
    let (now, pin) = (Timestamp::now(), coordinator.pin());
    let addresses = vec![address.to_string().parse().expect("an address")];
    let ticket = Ticket::new(addresses, pin, TicketSeed::generate()).expect("a ticket");
    let record = TicketRecord {
        node: node.parse().expect("a name"),
        generation: 1,
        role,
        not_before: now,
        expires: now + SignedDuration::from_hours(1),
        confirm_console: false,
        hints: Hints::default(),
    };
    coordinator.mint(ticket.public_key(), record).await.expect("it is noted");

    let identity = Identity::generate().expect("a key");
    let config = tls::client_config(&identity, pin).expect("a TLS configuration");
    let http = reqwest::Client::builder().tls_backend_preconfigured(config).no_proxy().build();
    let (http, base) = (http.expect("a client"), format!("https://{address}"));
    let proof = ticket.prove(&identity.fingerprint());
    let enrol = EnrolRequest { ticket: ticket.public_key(), proof, facts: Facts::default() };
    let open = OpenRequest::new(Turn { cur: Notch::random(), next: Notch::random() }, None);
    let bodies = [
        (api::ENROL, serde_json::to_vec(&enrol).expect("JSON")),
        (OPEN, serde_json::to_vec(&open).expect("JSON")),
    ];
    // One after the other over one connection, as each answer is read to its end.
    for (path, body) in bodies {
        let answer = http.post(format!("{base}{path}")).body(body).send().await.expect(path);
        let (status, text) = (answer.status(), answer.text().await.expect(path));
        assert!(status.is_success(), "{path}: {status} {text}");
    }
    let answer = http.get(format!("{base}{}", api::CONFIG)).send().await.expect("an answer");
    answer.error_for_status().expect("a configuration").json().await.expect("a configuration")
}
