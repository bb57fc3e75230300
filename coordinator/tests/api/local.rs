//! The admin's socket and the status listener.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::common::{World, class};
use kiln_coordinator::client::Client;
use kiln_coordinator::{Limits, Listeners, LocalListener, Server};
use kiln_protocol::ErrorClass;
use kiln_protocol::admin::EndRequest;
use kiln_protocol::api::GateAnswer;
use kiln_protocol::chores::ChoresDone;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// A coordinator with all its listeners.
struct Whole {
    world: World,
    server: Server,
    socket: PathBuf,
}

impl Whole {
    async fn new() -> Self {
        Self::of(World::new().await).await
    }

    async fn of(world: World) -> Self {
        let socket = world.dir.join("admin.sock");
        let mut listeners = Listeners::nodes(TcpListener::bind("127.0.0.1:0").await.unwrap());
        listeners.status = Some(TcpListener::bind("127.0.0.1:0").await.unwrap());
        listeners.socket = Some(LocalListener::bind(&socket).unwrap());
        let server = world.coordinator.serve_at(listeners, Limits::default()).await.unwrap();
        Self { world, server, socket }
    }

    /// The answer to a request at the status listener.
    async fn page(&self, head: &str) -> String {
        let mut stream = TcpStream::connect(self.server.status_addr().unwrap()).await.unwrap();
        stream.write_all(format!("{head}\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(&self, path: &str) -> String {
        self.page(&format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1")).await
    }
}

#[tokio::test]
async fn the_socket_is_its_owners_and_speaks_for_an_admin() {
    let whole = Whole::new().await;
    assert_eq!(std::fs::metadata(&whole.socket).unwrap().permissions().mode() & 0o777, 0o600);
    let client = Client::local(&whole.socket).unwrap();
    assert!(client.status().await.unwrap().live.is_some());
    client.end(&EndRequest { cluster: "test".parse().unwrap() }).await.unwrap();
    let last = whole.world.coordinator.events(0, 1000).await.unwrap().pop().unwrap();
    assert!(last.who.starts_with("local uid "), "{last:?}");
}

#[tokio::test]
async fn the_socket_is_no_way_for_nodes() {
    let whole = Whole::new().await;
    let mut stream = UnixStream::connect(&whole.socket).await.unwrap();
    stream.write_all(b"GET /v1/config HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[tokio::test]
async fn the_status_page_tells_and_takes_nothing() {
    let whole = Whole::new().await;
    let node = whole.world.enrolled("s1").await;
    node.report_ready().await.unwrap();
    let secrets = serde_json::to_string(&node.config().await.unwrap().k3s.membership).unwrap();
    let page = whole.get("/").await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("test: 1 of 3 nodes ready"), "{page}");
    assert!(page.contains("content-security-policy: default-src 'none'"), "{page}");
    for secret in secrets.split('"').filter(|part| part.len() > 20) {
        assert!(!page.contains(secret));
    }
    assert!(whole.get("/healthz").await.ends_with("ok\n"));
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let answer =
            whole.page(&format!("{method} / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0")).await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    }
    assert!(whole.get("/v1/admin/status").await.starts_with("HTTP/1.1 404"));
    assert!(whole.get("/v1/config").await.starts_with("HTTP/1.1 404"));
    let elsewhere = whole.page("GET / HTTP/1.1\r\nhost: evil.example").await;
    assert!(elsewhere.starts_with("HTTP/1.1 421"), "a page elsewhere could read it: {elsewhere}");
}

#[tokio::test]
async fn metrics_count_nodes_requests_and_connections() {
    let whole = Whole::new().await;
    let machine = super::common::Machine::new(
        &kiln_protocol::Identity::generate().unwrap(),
        whole.server.local_addr(),
        whole.world.coordinator.pin(),
    );
    machine.enrol(&whole.world.ticket("s1").await).await.unwrap();
    machine.report_ready().await.unwrap();
    let _ = machine.raw(reqwest::Method::GET, "/no/such/path", Vec::new()).await.unwrap();
    let text = whole.get("/metrics").await;
    for line in [
        "kiln_nodes{role=\"server\",state=\"bound\",ready=\"true\"} 1",
        "kiln_requests_total{route=\"/v1/enrol\",status=\"200\"} 1",
        "kiln_requests_total{route=\"other\",status=\"404\"} 1",
        "kiln_connections{crowd=\"known\"} 1",
        "kiln_incarnation 1",
        "kiln_alarms 0",
        "kiln_stale 0",
        "kiln_tokens_rotating 0",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
    }
    assert!(
        text.contains("content-type: application/openmetrics-text") && text.ends_with("# EOF\n"),
        "{text}"
    );
}

#[tokio::test]
async fn an_old_copy_that_is_served_is_told_to_whoever_watches() {
    let (world, machine, ..) = super::ratchet::set_back().await;
    let whole = Whole::of(world).await;
    let told = async |gauge: &str, on_the_page: bool| {
        let (text, page) = (whole.get("/metrics").await, whole.get("/").await);
        assert!(text.lines().any(|line| line == gauge), "no {gauge} in:\n{text}");
        let said = page.contains("class=\"alarm\">STALE since ") && page.contains("coordinator raise-epoch");
        assert_eq!(said, on_the_page, "{page}");
    };
    told("kiln_stale 0", false).await;
    assert_eq!(class(machine.config().await), ErrorClass::StaleCoordinator);
    told("kiln_stale 1", true).await;
    whole.world.coordinator.raise_epoch().await.unwrap();
    told("kiln_stale 0", false).await;
}

#[tokio::test]
async fn a_rotation_that_hangs_is_told_to_whoever_watches() {
    let whole = Whole::new().await;
    let server = whole.world.enrolled("s1").await;
    assert_eq!(server.gate().await.unwrap(), GateAnswer::Go);
    server.report_ready().await.unwrap();
    whole.world.coordinator.rotate_tokens().await.unwrap();
    let page = whole.get("/").await;
    assert!(page.contains("and nobody joins meanwhile.") && !page.contains("class=\"alarm\""), "{page}");
    assert!(whole.get("/metrics").await.contains("\nkiln_tokens_rotating 1\n"));
    let failure = Some("k3s answers <500>".to_owned());
    let change = server.chores_after(ChoresDone { failure, ..ChoresDone::default() }).await.unwrap();
    let page = whole.get("/").await;
    assert!(page.contains("class=\"alarm\">Incarnation 1: its tokens are being rotated since "), "{page}");
    assert!(page.contains("nobody joins meanwhile: k3s answers &lt;500&gt;."), "{page}");
    let token_changed = Some(change.change_token.unwrap().serial);
    server.chores_after(ChoresDone { token_changed, ..ChoresDone::default() }).await.unwrap();
    assert!(whole.get("/").await.contains("its tokens were rotated "));
    assert!(whole.get("/metrics").await.contains("\nkiln_tokens_rotating 0\n"));
}

#[tokio::test]
async fn every_answer_names_its_request() {
    let whole = Whole::new().await;
    let machine = whole.world.machine();
    let (one, other) = (machine.request("/v1/config", &[]).await, machine.request("/", &[]).await);
    let id = |response: &reqwest::Response| response.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_ne!(id(&one), id(&other));
    let named = id(&one);
    let refusal: kiln_protocol::ApiError = one.json().await.unwrap();
    assert_eq!(refusal.request, Some(named));
}
