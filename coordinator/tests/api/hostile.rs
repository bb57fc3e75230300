//! Clients that do what no honest one would: certificates, signatures,
//! sessions, relays, floods and bodies.

use super::common::{Machine, World, class};
use super::transport::{PATIENCE, connect, drain, limits};
use kiln_protocol::ratchet::{Notch, OpenRequest, Turn};
use kiln_protocol::{ErrorClass, Identity, admin, api, tls};
use reqwest::Method;
use ring::rand::SecureRandom as _;
use rustls::client::{ClientConnection, ResolvesClientCert, Resumption};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{ClientConfig, HandshakeKind, SignatureAlgorithm, SignatureScheme};
use std::cell::Cell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// One DER element of these contents.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = body.len().to_be_bytes();
    let length = &length[length.iter().position(|byte| *byte != 0).unwrap_or(length.len() - 1)..];
    let mut out = vec![tag];
    if body.len() >= 128 {
        out.push(0x80 | u8::try_from(length.len()).unwrap());
    }
    out.extend(length);
    out.extend(body);
    out
}

const ECDSA_SHA256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const V3: [u8; 5] = [0xa0, 0x03, 0x02, 0x01, 0x02];

/// A certificate around an SPKI; nobody looks at its own signature.
fn certificate(version: &[u8], spki: &[u8], signature: &[u8]) -> CertificateDer<'static> {
    let algorithm = der(0x30, &[&ECDSA_SHA256]);
    let (from, to) = (der(0x17, &[b"500101000000Z"]), der(0x17, &[b"491231235959Z"]));
    let empty_name = der(0x30, &[]);
    let validity = der(0x30, &[&from, &to]);
    let tbs = der(0x30, &[version, &[2, 1, 1], &algorithm, &empty_name, &validity, &empty_name, spki]);
    der(0x30, &[&tbs, &algorithm, &der(0x03, &[&[0], signature])]).into()
}

/// A key that shows whatever it is given and signs as it likes.
#[derive(Debug, Clone)]
struct Forger {
    certificates: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
    /// What it calls its signatures, whatever was offered.
    scheme: SignatureScheme,
    /// This instead of a signature.
    constant: Option<Vec<u8>>,
}

impl ResolvesClientCert for Forger {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::new(CertifiedKey::new(self.certificates.clone(), Arc::new(self.clone()))))
    }
    fn has_certs(&self) -> bool {
        true
    }
}

impl SigningKey for Forger {
    fn choose_scheme(&self, _offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(self.clone()))
    }
    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Forger {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let own = [SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519];
        let signer = self.key.choose_scheme(&own).expect("the key signs somehow");
        self.constant.clone().map_or_else(|| signer.sign(message), Ok)
    }
    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

impl Forger {
    /// Of a P-256 key in this certificate.
    fn new(identity: &Identity, certificate: CertificateDer<'static>) -> Self {
        let key = PrivateKeyDer::from_pem_slice(identity.to_pem().expose().as_bytes()).unwrap();
        let key = rustls::crypto::ring::sign::any_ecdsa_type(&key).unwrap();
        let scheme = SignatureScheme::ECDSA_NISTP256_SHA256;
        Self { certificates: vec![certificate], key, scheme, constant: None }
    }

    /// What the coordinator answers it in HTTP; nothing if it does not.
    async fn asks(self, world: &World) -> String {
        let mut config = tls::client_config(&Identity::generate().unwrap(), world.coordinator.pin()).unwrap();
        config.client_auth_cert_resolver = Arc::new(self);
        // In TLS 1.3 the client believes itself connected before the server has looked.
        let Ok(mut stream) = connect(world, config).await else { return String::new() };
        let _ = stream.write_all(b"GET /v1/config HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        String::from_utf8(drain(&mut stream).await).unwrap()
    }
}

fn spki(identity: &Identity) -> Vec<u8> {
    let certificate = identity.certificate();
    let parsed = ParsedCertificate::try_from(&certificate).unwrap();
    parsed.subject_public_key_info().as_ref().to_vec()
}

fn ed25519_spki(point: &[u8]) -> Vec<u8> {
    der(0x30, &[&der(0x30, &[&[0x06, 0x03, 0x2b, 0x65, 0x70]]), &der(0x03, &[&[0], point])])
}

#[tokio::test]
async fn only_one_small_certificate_around_an_uncompressed_p256_key_is_taken() {
    let world = World::new().await;
    let identity = Identity::generate().unwrap();
    let good = spki(&identity);
    let forger = |certificate: CertificateDer<'static>| Forger::new(&identity, certificate);
    // What the others differ from is taken, as one that nobody knows.
    let answer = forger(certificate(&V3, &good, &[0; 70])).asks(&world).await;
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("policy"), "{answer}");

    // Tag, then the point's x alone.
    let algorithm = &good[2..23];
    let compressed = der(0x30, &[algorithm, &der(0x03, &[&[0, 2 + (good[90] & 1)], &good[27..59]])]);
    let rsa_algorithm =
        der(0x30, &[&[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00]]);
    let rsa_key = der(0x30, &[&der(0x02, &[&[0x00, 0xc1], &[0x5b; 255]]), &[2, 3, 1, 0, 1]]);
    let rsa = der(0x30, &[&rsa_algorithm, &der(0x03, &[&[0], &rsa_key])]);
    let whole = certificate(&V3, &good, &[0; 70]);
    let trailing = [whole.as_ref(), &[0]].concat();
    for (what, certificate) in [
        ("compressed P-256", certificate(&V3, &compressed, &[0; 70])),
        ("RSA", certificate(&V3, &rsa, &[0; 70])),
        ("Ed25519", certificate(&V3, &ed25519_spki(&[7; 32]), &[0; 70])),
        ("X.509 v1", certificate(&[], &good, &[0; 70])),
        ("a certificate over 2 KiB", certificate(&V3, &good, &[0; 2048])),
        ("a certificate of 50 KiB", certificate(&V3, &good, &vec![0; 50_000])),
        ("a truncated one", whole.as_ref()[..whole.len() - 9].to_vec().into()),
        ("one with a trailing byte", trailing.into()),
        ("garbage", vec![0x30; 300].into()),
        ("an empty one", Vec::new().into()),
    ] {
        assert_eq!(forger(certificate).asks(&world).await, "", "{what} was taken");
    }
    let chain = Forger { certificates: vec![whole.clone(), whole], ..forger(Vec::new().into()) };
    assert_eq!(chain.asks(&world).await, "", "a chain was taken");
    assert!(world.enrolled("a1").await.config().await.is_ok());
}

#[tokio::test]
async fn a_key_is_proven_by_the_one_scheme_that_was_offered() {
    let world = World::new().await;
    let identity = Identity::generate().unwrap();
    let own = || Forger::new(&identity, identity.certificate());
    assert!(own().asks(&world).await.starts_with("HTTP/1.1 403"));
    for scheme in [
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::ED25519,
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::ECDSA_SHA1_Legacy,
    ] {
        assert_eq!(Forger { scheme, ..own() }.asks(&world).await, "", "{scheme:?} was taken");
    }
    // Somebody else's certificate, without its key.
    let stolen = Forger::new(&Identity::generate().unwrap(), identity.certificate());
    assert_eq!(stolen.asks(&world).await, "");
    // Ed25519's identity point verifies this signature without any private key.
    let mut identity_point = [0; 32];
    identity_point[0] = 1;
    let forged = Forger {
        certificates: vec![certificate(&V3, &ed25519_spki(&identity_point), &[0; 70])],
        scheme: SignatureScheme::ED25519,
        constant: Some([&identity_point[..], &[0; 32]].concat()),
        ..own()
    };
    assert_eq!(forged.asks(&world).await, "");
}

/// A client that would resume sessions and send early data if it could.
fn eager(identity: &Identity, world: &World) -> ClientConfig {
    let mut config = tls::client_config(identity, world.coordinator.pin()).unwrap();
    config.resumption = Resumption::in_memory_sessions(16);
    config.enable_early_data = true;
    config
}

#[tokio::test]
async fn no_session_is_resumed_least_of_all_after_revocation() {
    let world = World::new().await;
    let identity = Identity::generate().unwrap();
    world.machine_with(&identity).enrol(&world.ticket("a1").await).await.unwrap();
    // One configuration keeps the sessions of all its connections.
    let config = eager(&identity, &world);
    let notch = Cell::new(Notch::random());
    let ask = async || {
        let mut stream = connect(&world, config.clone()).await.unwrap();
        // A node's connection is opened before anything is asked on it.
        let turn = Turn { cur: notch.get(), next: Notch::random() };
        let body = serde_json::to_string(&OpenRequest::new(turn, None)).unwrap();
        let requests = format!(
            "POST /v1/open HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}\
             GET /v1/config HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(requests.as_bytes()).await.unwrap();
        notch.set(turn.next);
        let answer = String::from_utf8(drain(&mut stream).await).unwrap();
        let tls = stream.get_ref().1;
        (answer, tls.handshake_kind(), tls.tls13_tickets_received(), tls.is_early_data_accepted())
    };
    for _ in 0..2 {
        let (answer, kind, tickets, early) = ask().await;
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
        assert_eq!((kind, tickets, early), (Some(HandshakeKind::Full), 0, false));
    }
    world.coordinator.revoke(&super::common::name("a1")).await.unwrap();
    let (answer, kind, tickets, early) = ask().await;
    assert!(answer.contains("\"class\":\"revoked\""), "{answer}");
    assert_eq!((kind, tickets, early), (Some(HandshakeKind::Full), 0, false));
}

#[tokio::test]
async fn data_before_the_end_of_the_handshake_is_not_listened_to() {
    let world = World::new().await;
    let config = eager(&Identity::generate().unwrap(), &world);
    let name = ServerName::try_from("kiln.invalid").unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    assert!(client.early_data().is_none(), "there is no session to send early data in");
    // What makes its sender a stranger that is remembered, once it is heard.
    let body = r#"{"boot_id":"b","sequence":1,"uptime_ms":1,"step":"seed","state":"done"}"#;
    let length = body.len();
    let request = format!(
        "POST /v1/report HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let record = [&[0x17, 3, 3][..], &sized::<2>(&[request.as_bytes()])].concat();
    for early in [&record[..], request.as_bytes()] {
        let mut tcp = TcpStream::connect(world.address()).await.unwrap();
        tcp.write_all(&[&hello, early].concat()).await.unwrap();
        // Whatever it said before, it gives up: the record fits no key.
        let answer = drain(&mut tcp).await;
        assert!(!answer.is_empty(), "not even the hello was answered");
        assert!(!answer.windows(4).any(|part| part == b"HTTP"), "it answered early data");
        assert!(world.coordinator.status().await.unwrap().strangers.is_empty());
    }
    // The same after the handshake is listened to.
    let config = eager(&Identity::generate().unwrap(), &world);
    let mut stream = connect(&world, config).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = String::from_utf8(drain(&mut stream).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    assert_eq!(world.coordinator.status().await.unwrap().strangers.len(), 1);
}

type Trace = Arc<Mutex<(Vec<u8>, Vec<u8>)>>;

/// Passes bytes on, and keeps what went up and what came down.
async fn relay(to: SocketAddr) -> (SocketAddr, Trace) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, trace) = (listener.local_addr().unwrap(), Trace::default());
    let kept = trace.clone();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to).await.unwrap();
            let ((mut from_near, mut to_near), (mut from_far, mut to_far)) =
                (near.into_split(), far.into_split());
            let (up, down) = (kept.clone(), kept.clone());
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = from_near.read(&mut buffer).await {
                    up.lock().unwrap().0.extend(&buffer[..n]);
                    if to_far.write_all(&buffer[..n]).await.is_err() {
                        return;
                    }
                }
            });
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = from_far.read(&mut buffer).await {
                    down.lock().unwrap().1.extend(&buffer[..n]);
                    if to_near.write_all(&buffer[..n]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, trace)
}

#[tokio::test]
async fn bytes_may_be_relayed_and_are_worth_nothing_when_they_are_recorded() {
    let (world, other) = (World::new().await, World::new().await);
    let (address, trace) = relay(world.address()).await;
    let identity = Identity::generate().unwrap();
    let ticket = world.ticket("a1").await;
    // A layer-4 balancer does no harm.
    let machine = Machine::new(&identity, address, world.coordinator.pin());
    machine.enrol(&ticket).await.unwrap();
    let config = machine.config().await.unwrap();
    let (up, down) = trace.lock().unwrap().clone();
    assert!(up.len() > 1000 && down.len() > 1000);
    let password = config.k3s.node_password.expose().to_owned();
    for secret in ["kiln1.", "/v1/enrol", &ticket.public_key().to_string(), &password, "K10", "a1"] {
        for recorded in [&up, &down] {
            let seen = recorded.windows(secret.len()).any(|window| window == secret.as_bytes());
            // Two letters may occur in any random bytes.
            assert!(!seen || secret.len() < 3, "{secret} can be read on the wire");
        }
    }
    // Nor does it help to say the same again, to this coordinator or another.
    let events = world.coordinator.events(0, 1000).await.unwrap();
    for target in [world.address(), other.address()] {
        let mut tcp = TcpStream::connect(target).await.unwrap();
        let _ = tcp.write_all(&up).await;
        let answer = drain(&mut tcp).await;
        assert!(!answer.windows(4).any(|window| window == b"HTTP"), "it answered in the clear");
    }
    assert_eq!(world.coordinator.events(0, 1000).await.unwrap(), events);
    assert!(other.coordinator.status().await.unwrap().strangers.is_empty());
    assert!(machine.config().await.is_ok());
}

#[tokio::test]
async fn ten_thousand_half_open_handshakes_keep_nobody_out() {
    const FLOOD: usize = 10_000;
    /// What the attacker keeps open at once: more than the coordinator lets in.
    const HELD: usize = 1500;
    /// What the honest machine has, and what is just being closed.
    const OTHERS: usize = 64;
    // So long that nothing but the limit ends them in the time of this test.
    let limits = limits(|limits| limits.handshake = 60 * PATIENCE);
    let world = World::within(1, limits).await;
    let (ticket, address) = (world.ticket("a1").await, world.address());
    let (enough, mut flooded) = tokio::sync::watch::channel(0);
    let flood = tokio::spawn(async move {
        let mut held = VecDeque::new();
        for sent in 1..=FLOOD {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            // As far as the length of a hello that never comes.
            let _ = tcp.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00]).await;
            held.push_back(tcp);
            if held.len() > HELD {
                held.pop_front();
            }
            enough.send_replace(sent);
        }
        held
    });
    flooded.wait_for(|sent| *sent > HELD).await.unwrap();
    // An honest machine comes from elsewhere, in the midst of it.
    let identity = Identity::generate().unwrap();
    let honest = Machine::at("127.0.0.2".parse().unwrap(), &identity, address, world.coordinator.pin());
    honest.enrol(&ticket).await.unwrap();
    let held = tokio::time::timeout(PATIENCE * 3, flood).await.unwrap().unwrap();
    assert!(honest.config().await.is_ok());
    assert!(held.len() >= HELD);
    // The coordinator keeps its own share of them and no more, once it has taken
    // all that wait and what it cut off is closed.
    let enough = limits.handshakes + OTHERS;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (open, waiting) = connections_to(address);
        if waiting == 0 && open <= enough {
            assert!(open + OTHERS > limits.handshakes, "{open} are not enough to have met the limit");
            return;
        }
        assert!(Instant::now() < deadline, "{open} connections are open, and {waiting} wait");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How many connections a listener of this host has, those of its own side: taken,
/// and waiting to be.
fn connections_to(address: SocketAddr) -> (usize, usize) {
    let SocketAddr::V4(v4) = address else { panic!("{address} is no IPv4 address") };
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let (mut open, mut waiting) = (0, 0);
    for line in table.lines().skip(1) {
        let fields: Vec<_> = line.split_whitespace().collect();
        // Local address, remote address, state (10 listens), ..., inode.
        if fields[1] == local && fields[3] != "0A" {
            match (fields[9], fields[3]) {
                // One that nobody has taken yet: established, or its other end is gone already.
                ("0", "01" | "08") => waiting += 1,
                ("0", _) => {}
                _ => open += 1,
            }
        }
    }
    (open, waiting)
}

#[tokio::test]
async fn json_bombs_are_format_errors_and_change_nothing() {
    let world = World::new().await;
    let machine = world.enrolled("a1").await;
    let admin = world.machine_with(&world.admin_identity());
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(9000), close.repeat(9000));
    let wide = format!("[{}0]", "0,".repeat(30_000));
    let long = format!("{{\"incarnation\":1,\"clock\":{}}}", "9".repeat(60_000));
    let float = r#"{"incarnation":1,"clock":1e999999999}"#.to_owned();
    let twice = r#"{"incarnation":1,"incarnation":1,"clock":1}"#.to_owned();
    let surrogate = r#"{"node":"\ud800","seconds":1}"#.to_owned();
    for bomb in [&deep("[", "]"), &deep("{\"a\":", "}"), &wide, &long, &float, &twice, &surrogate] {
        for (caller, path) in [
            (&machine, api::GATE),
            (&machine, api::ENROL),
            (&machine, api::APPROVAL),
            (&machine, api::REPORT),
            (&admin, admin::EXTEND),
            (&admin, admin::MINT),
            (&admin, admin::APPROVE),
        ] {
            let sent = caller.send(Method::POST, path, bomb.as_bytes().to_vec()).await;
            assert_eq!(class(sent), ErrorClass::Format, "{bomb:.30} at {path}");
        }
    }
    assert!(machine.config().await.is_ok());
}

/// One TLS element: a length of `N` bytes, then these contents.
fn sized<const N: usize>(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = body.len().to_be_bytes();
    [&length[length.len() - N..], &body].concat()
}

/// A `ClientHello` (RFC 8446, 4.1.2) that claims to resume a session by a ticket and a
/// binder of nobody's making, and to send data with it at once.
fn forged_hello() -> Vec<u8> {
    let extension = |kind: u16, content: &[u8]| [&kind.to_be_bytes()[..], &sized::<2>(&[content])].concat();
    let random = |n: usize| {
        let mut bytes = vec![0; n];
        ring::rand::SystemRandom::new().fill(&mut bytes).unwrap();
        bytes
    };
    let share = [&[0, 29][..], &sized::<2>(&[&random(32)])].concat();
    let identity = [sized::<2>(&[&random(120)]), random(4)].concat();
    let binder = sized::<1>(&[&random(32)]);
    let extensions = [
        extension(43, &sized::<1>(&[&[3, 4]])),  // supported_versions: TLS 1.3
        extension(10, &sized::<2>(&[&[0, 29]])), // supported_groups: x25519
        extension(13, &sized::<2>(&[&[4, 3]])),  // signature_algorithms: ecdsa_secp256r1_sha256
        extension(51, &sized::<2>(&[&share])),   // key_share
        extension(45, &sized::<1>(&[&[1]])),     // psk_key_exchange_modes: psk_dhe_ke
        extension(42, &[]),                      // early_data
        // pre_shared_key, which comes last
        extension(41, &[sized::<2>(&[&identity]), sized::<2>(&[&binder])].concat()),
    ];
    let hello = [
        &[3, 3][..],
        &random(32),
        &sized::<1>(&[&random(32)]),
        &sized::<2>(&[&[0x13, 0x01, 0x13, 0x02]]),
        &sized::<1>(&[&[0]]),
        &sized::<2>(&[&extensions.concat()]),
    ];
    let handshake = [&[1][..], &sized::<3>(&hello)].concat();
    [&[0x16, 3, 1][..], &sized::<2>(&[&handshake])].concat()
}

/// The kinds of extensions in a `ServerHello` that begins a record.
fn server_hello_extensions(record: &[u8]) -> Vec<u16> {
    assert_eq!((record[0], record[5]), (0x16, 2), "it answers with a ServerHello");
    // Record and handshake header, version, random; the session's name; suite, compression.
    let at = 5 + 4 + 2 + 32;
    let at = at + 1 + usize::from(record[at]) + 2 + 1;
    let mut rest = &record[at + 2..][..usize::from(u16::from_be_bytes([record[at], record[at + 1]]))];
    let mut kinds = Vec::new();
    while let [a, b, c, d, ..] = rest {
        kinds.push(u16::from_be_bytes([*a, *b]));
        rest = &rest[4 + usize::from(u16::from_be_bytes([*c, *d]))..];
    }
    kinds
}

#[tokio::test]
async fn a_forged_session_with_early_data_is_no_session_and_its_data_is_not_heard() {
    let world = World::new().await;
    let before = world.coordinator.events(0, 1000).await.unwrap();
    // What it would send early: something like a record, and the request in the clear.
    let sealed = [&[0x17, 3, 3][..], &sized::<2>(&[&[0x5a; 200]])].concat();
    let clear = [&[0x17, 3, 3][..], &sized::<2>(&[b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n"])].concat();
    for early in [sealed, clear] {
        let mut tcp = TcpStream::connect(world.address()).await.unwrap();
        tcp.write_all(&[forged_hello(), early].concat()).await.unwrap();
        let answer = drain(&mut tcp).await;
        let kinds = server_hello_extensions(&answer);
        assert!(kinds.contains(&43) && kinds.contains(&51), "a handshake of its own: {kinds:?}");
        assert!(!kinds.contains(&41), "it took up a session that never was");
        assert!(!answer.windows(4).any(|part| part == b"HTTP"), "it answered early data");
    }
    // A second hello of the same client is no help either: nobody came in.
    assert_eq!(world.coordinator.events(0, 1000).await.unwrap(), before);
    assert!(world.coordinator.status().await.unwrap().strangers.is_empty());
    assert!(world.enrolled("a1").await.config().await.is_ok());
}
