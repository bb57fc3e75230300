//! What happens below the API: handshakes, headers, bodies, connections.

use super::common::{Machine, World, class};
use kiln_coordinator::Limits;
use kiln_protocol::tls::{self, PinMismatch};
use kiln_protocol::{ApiError, ErrorClass, Identity, api};
use reqwest::Method;
use rustls::ClientConfig;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longer than anything here may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn connect(world: &World, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(world.address()).await?;
    let name = ServerName::try_from("kiln.invalid").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// A connection of this key, on which anything may be written.
pub(crate) async fn connect_as(world: &World, identity: &Identity) -> TlsStream<TcpStream> {
    let config = tls::client_config(identity, world.coordinator.pin()).unwrap();
    connect(world, config).await.unwrap()
}

fn config(world: &World) -> ClientConfig {
    tls::client_config(&Identity::generate().unwrap(), world.coordinator.pin()).unwrap()
}

/// Everything until the other side closes, within [`PATIENCE`].
pub(crate) async fn drain(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is as good an end as a close.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("it was not closed");
    bytes
}

#[tokio::test]
async fn a_tls_1_2_client_is_refused() {
    let world = World::new().await;
    // A ClientHello without supported_versions: ECDHE-ECDSA-AES128-GCM, P-256.
    let extensions: &[u8] = &[
        0x00, 0x0a, 0x00, 0x04, 0x00, 0x02, 0x00, 0x17, // supported_groups: secp256r1
        0x00, 0x0b, 0x00, 0x02, 0x01, 0x00, // ec_point_formats: uncompressed
        0x00, 0x0d, 0x00, 0x04, 0x00, 0x02, 0x04, 0x03, // signature_algorithms: ecdsa_secp256r1_sha256
    ];
    let mut body = vec![0x03, 0x03];
    body.extend([7; 32]);
    body.extend([0x00, 0x00, 0x02, 0xc0, 0x2b, 0x01, 0x00, 0x00, u8::try_from(extensions.len()).unwrap()]);
    body.extend(extensions);
    let length = u8::try_from(body.len()).unwrap();
    let mut hello = vec![0x16, 0x03, 0x01, 0x00, length + 4, 0x01, 0x00, 0x00, length];
    hello.extend(body);
    let mut tcp = TcpStream::connect(world.address()).await.unwrap();
    tcp.write_all(&hello).await.unwrap();
    let answer = drain(&mut tcp).await;
    // A fatal alert: protocol_version.
    assert_eq!((answer[0], &answer[5..7]), (0x15, &[2, 70][..]), "{answer:?}");
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_client_without_a_key_gets_no_answer() {
    let world = World::new().await;
    let mut config = config(&world);
    config.client_auth_cert_resolver = Arc::new(NoCertificate);
    // In TLS 1.3 the client believes itself connected before the server has looked.
    if let Ok(mut stream) = connect(&world, config).await {
        let _ = stream.write_all(b"GET /v1/config HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(drain(&mut stream).await, b"");
    }
}

#[tokio::test]
async fn another_coordinator_at_the_address_is_a_pin_mismatch() {
    let (world, other) = (World::new().await, World::new().await);
    let machine = Machine::new(&Identity::generate().unwrap(), other.address(), world.coordinator.pin());
    let error = machine.raw(Method::GET, api::CONFIG, Vec::new()).await.unwrap_err();
    let mismatch = PinMismatch::find(&error).unwrap();
    assert_eq!((mismatch.pinned, mismatch.found), (world.coordinator.pin(), other.coordinator.pin()));
}

#[tokio::test]
async fn plain_http_is_closed_without_an_answer_in_http() {
    let world = World::new().await;
    let mut tcp = TcpStream::connect(world.address()).await.unwrap();
    tcp.write_all(b"GET /v1/config HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(!drain(&mut tcp).await.starts_with(b"HTTP"));
}

pub(crate) fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_is_closed() {
    let world = World::within(1, limits(|l| l.handshake = Duration::from_millis(300))).await;
    let mut tcp = TcpStream::connect(world.address()).await.unwrap();
    tcp.write_all(&[0x16, 0x03, 0x01]).await.unwrap();
    assert_eq!(drain(&mut tcp).await, b"");
}

#[tokio::test]
async fn a_header_that_does_not_end_is_closed() {
    let world = World::within(1, limits(|l| l.header = Duration::from_millis(300))).await;
    let mut stream = connect(&world, config(&world)).await.unwrap();
    stream.write_all(b"GET /v1/config HTTP/1.1\r\nhost").await.unwrap();
    let answer = drain(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{:?}", String::from_utf8(answer));
}

#[tokio::test]
async fn a_body_that_does_not_end_is_answered_and_closed() {
    let world = World::within(1, limits(|l| l.request = Duration::from_millis(300))).await;
    let mut stream = connect(&world, config(&world)).await.unwrap();
    stream.write_all(b"POST /v1/report HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
    let answer = String::from_utf8(drain(&mut stream).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("\"class\":\"transient\""), "{answer}");
}

#[tokio::test]
async fn an_old_connection_ends_after_its_answer() {
    let world = World::within(1, limits(|l| l.age = Duration::from_millis(300))).await;
    let mut stream = connect(&world, config(&world)).await.unwrap();
    let begun = Instant::now();
    assert_eq!(drain(&mut stream).await, b"");
    assert!(begun.elapsed() < PATIENCE);
}

#[tokio::test]
async fn half_open_connections_of_one_host_do_not_keep_others_out() {
    // So long that nothing but the limit ends them in the time of this test.
    let patient = limits(|l| (l.handshakes, l.handshake) = (20, 10 * PATIENCE));
    let world = World::within(1, patient).await;
    let mut flood = Vec::new();
    for _ in 0..60 {
        flood.push(TcpStream::connect(world.address()).await.unwrap());
    }
    let machine = world.enrolled("a1").await;
    assert!(machine.config().await.is_ok());
    // The oldest were displaced by the newest.
    assert_eq!(drain(&mut flood[0]).await, b"");
}

#[tokio::test]
async fn unknown_keys_cannot_displace_known_ones() {
    let world = World::within(1, limits(|l| l.unknown = 4)).await;
    let node = world.enrolled("a1").await;
    assert!(node.config().await.is_ok());
    let mut strangers = Vec::new();
    for _ in 0..12 {
        let mut stream = connect(&world, config(&world)).await.unwrap();
        // The server counts a connection once its handshake is over on its side too.
        stream.write_all(b"GET /v1/config HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 403");
        strangers.push(stream);
    }
    drain(&mut strangers[0]).await;
    assert!(node.config().await.is_ok());
}

#[tokio::test]
async fn bodies_are_bounded_and_malformed_ones_are_format_errors() {
    let world = World::new().await;
    let machine = world.machine();
    let (status, body) = machine.raw(Method::POST, api::ENROL, vec![b' '; api::MAX_BODY + 1]).await.unwrap();
    let refusal: ApiError = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, refusal.class), (413, ErrorClass::Format));
    let nested = "[".repeat(50_000);
    for malformed in ["", "{", "null", "[]", "{\"ticket\":1}", "\u{0}", &nested] {
        let sent = machine.send(Method::POST, api::ENROL, malformed.as_bytes().to_vec()).await;
        assert_eq!(class(sent), ErrorClass::Format, "{malformed:.20}");
    }
    let admin = world.machine_with(&world.admin_identity());
    let large = vec![b' '; 2 * 1024 * 1024];
    let (status, _) = admin.raw(Method::POST, kiln_protocol::admin::APPLY, large).await.unwrap();
    assert_eq!(status, 413);
}

#[tokio::test]
async fn large_headers_are_refused() {
    let world = World::new().await;
    let mut stream = connect(&world, config(&world)).await.unwrap();
    let long = "a".repeat(64 * 1024);
    let _ = stream.write_all(format!("GET /v1/config HTTP/1.1\r\nx: {long}\r\n\r\n").as_bytes()).await;
    let answer = drain(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8(answer));
}

#[tokio::test]
async fn paths_and_methods_that_are_none_are_said_so_in_the_apis_own_form() {
    let world = World::new().await;
    let machine = world.machine();
    for (method, path, expected) in
        [(Method::GET, "/", 404), (Method::GET, "/v1/enrol", 405), (Method::POST, "/v1/config", 405)]
    {
        let (status, body) = machine.raw(method, path, Vec::new()).await.unwrap();
        let refusal: ApiError = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, refusal.class), (expected, ErrorClass::Format), "{path}");
    }
}

#[tokio::test]
async fn shutdown_finishes_the_answer_in_flight_and_accepts_no_more() {
    let world = World::new().await;
    let address = world.address();
    let mut stream = connect(&world, config(&world)).await.unwrap();
    let mut idle = connect(&world, config(&world)).await.unwrap();
    let body = r#"{"boot_id":"b","sequence":1,"uptime_ms":1,"step":"seed","state":"done"}"#;
    let length = body.len();
    let head = format!(
        "POST /v1/report HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The handler has begun to read: the request is in flight.
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");

    let World { server, coordinator, .. } = world;
    let stopping = tokio::spawn(server.shutdown());
    assert_eq!(drain(&mut idle).await, b"", "an idle connection ends at once");
    while TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!stopping.is_finished(), "it waits for the answer in flight");
    stream.write_all(body.as_bytes()).await.unwrap();
    let answer = String::from_utf8(drain(&mut stream).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    tokio::time::timeout(PATIENCE, stopping).await.unwrap().unwrap();
    assert_eq!(coordinator.status().await.unwrap().strangers.len(), 1);
}
