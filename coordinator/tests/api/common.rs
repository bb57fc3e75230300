//! A coordinator with a cluster, and clients that speak to it as nodes and
//! admins do.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kiln_coordinator::client::Client;
use kiln_coordinator::plan::ClusterFile;
use kiln_coordinator::{Coordinator, Limits, Server};
use kiln_protocol::admin::{Hints, NodeStatus, TicketRecord};
use kiln_protocol::api::{
    self, EnrolAnswer, EnrolRequest, Facts, GateAnswer, GateRequest, Report, Step, StepState,
};
use kiln_protocol::chores::{CHORES, Chores, ChoresDone, ChoresRequest, EtcdMember};
use kiln_protocol::config::{Incarnation, NodeConfig};
use kiln_protocol::ratchet::{ConfigAsked, Notch, OpenAnswer, OpenRequest, Stamp, Turn};
use kiln_protocol::recovery::RecoverySeed;
use kiln_protocol::ticket::{Address, Proof, Ticket, TicketKey, TicketSeed};
use kiln_protocol::{ApiError, ErrorClass, Fingerprint, Identity, NodeName, Role};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

/// One coordinator, served on loopback.
pub(crate) struct World {
    pub(crate) outer: tempfile::TempDir,
    pub(crate) dir: PathBuf,
    pub(crate) coordinator: Coordinator,
    pub(crate) server: Server,
}

/// `s1`, more servers if asked for, and two agents.
pub(crate) fn cluster_file(servers: usize) -> ClusterFile {
    let mut text = "[cluster]\nname = \"test\"\nk3s = \"v1.28.5+k3s1\"\n\
                    image = \"alma9-k3-node-amd64-v1.28.5-v1\"\nprovider = \"qemu\"\n"
        .to_owned();
    let servers = (1..=servers).map(|n| (format!("s{n}"), "server"));
    for (name, role) in servers.chain([("a1".to_owned(), "agent"), ("a2".to_owned(), "agent")]) {
        let size = "cores = 1\nmemory = \"1GiB\"\ndisk = \"8GiB\"";
        let _ = writeln!(text, "[[node]]\nname = \"{name}\"\nrole = \"{role}\"\n{size}");
    }
    ClusterFile::parse(&text).unwrap()
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::within(1, Limits::default()).await
    }

    /// With so many servers in its cluster file, and other limits.
    pub(crate) async fn within(servers: usize, mut limits: Limits) -> Self {
        limits.quiet = Duration::ZERO;
        Self::exactly_within(servers, limits).await
    }

    /// The same, and a machine has to be silent before another takes its place.
    pub(crate) async fn exactly_within(servers: usize, mut limits: Limits) -> Self {
        limits.chores = Duration::from_millis(50);
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("state");
        Coordinator::init(&dir).unwrap();
        let coordinator = Coordinator::open(&dir).await.unwrap();
        coordinator.apply(&cluster_file(servers)).await.unwrap();
        let server = serve(&coordinator, limits).await;
        Self { outer, dir, coordinator, server }.add_admin().await
    }

    /// As [`World::new`], with the recovery key that its making gave.
    pub(crate) async fn with_recovery() -> (Self, RecoverySeed) {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("state");
        let recovery = Coordinator::init(&dir).unwrap();
        let world = Self::at(outer, dir).await.add_admin().await;
        world.coordinator.apply(&cluster_file(1)).await.unwrap();
        (world, recovery)
    }

    /// On a state that is there already.
    pub(crate) async fn at(outer: tempfile::TempDir, dir: PathBuf) -> Self {
        let coordinator = Coordinator::open(&dir).await.unwrap();
        let server = serve(&coordinator, Limits::default()).await;
        Self { outer, dir, coordinator, server }
    }

    /// Stops it, closes its state, and opens both again.
    pub(crate) async fn restart(self) -> Self {
        let Self { outer, dir, coordinator, server } = self;
        server.shutdown().await;
        drop(coordinator);
        let coordinator = Coordinator::open(&dir).await.unwrap();
        let server = serve(&coordinator, Limits::default()).await;
        Self { outer, dir, coordinator, server }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// A ticket for the node's next generation that is good for an hour.
    pub(crate) async fn ticket(&self, node: &str) -> Ticket {
        let now = Timestamp::now();
        self.ticket_between(node, now, now + SignedDuration::from_hours(1)).await
    }

    pub(crate) async fn ticket_between(&self, node: &str, from: Timestamp, to: Timestamp) -> Ticket {
        let node = name(node);
        let role = if node.as_str().starts_with('s') { Role::Server } else { Role::Agent };
        let generation = self.coordinator.next_generation(&node).await.unwrap();
        let hints = Hints::default();
        let confirm_console = false;
        let record =
            TicketRecord { node, generation, role, not_before: from, expires: to, confirm_console, hints };
        let ticket = self.unknown_ticket();
        self.coordinator.mint(ticket.public_key(), record).await.unwrap();
        ticket
    }

    /// A ticket that the coordinator was never told of.
    pub(crate) fn unknown_ticket(&self) -> Ticket {
        let address: Address = self.address().to_string().parse().unwrap();
        Ticket::new(vec![address], self.coordinator.pin(), TicketSeed::generate()).unwrap()
    }

    /// A machine with a key of its own that nobody knows yet.
    pub(crate) fn machine(&self) -> Machine {
        self.machine_with(&Identity::generate().unwrap())
    }

    pub(crate) fn machine_with(&self, identity: &Identity) -> Machine {
        Machine::new(identity, self.address(), self.coordinator.pin())
    }

    /// A machine that has enrolled as a node.
    pub(crate) async fn enrolled(&self, node: &str) -> Machine {
        let (ticket, machine) = (self.ticket(node).await, self.machine());
        machine.enrol(&ticket).await.unwrap();
        machine
    }

    /// An admin's key, which is nowhere in the state.
    pub(crate) fn admin_identity(&self) -> Identity {
        Identity::from_pem(&std::fs::read_to_string(self.outer.path().join("admin.key")).unwrap()).unwrap()
    }

    /// Makes it, and has it trusted.
    async fn add_admin(self) -> Self {
        let identity = Identity::generate().unwrap();
        std::fs::write(self.outer.path().join("admin.key"), identity.to_pem().expose()).unwrap();
        self.coordinator.add_admin(&"cli".parse().unwrap(), identity.fingerprint()).await.unwrap();
        self
    }

    /// The coordinator's own key: what whoever has both the state and its unlock
    /// key has.
    pub(crate) fn own_identity(&self) -> Identity {
        unsealed_key(&self.dir.join("state.db"), &self.outer.path().join("state.unlock-key"))
    }

    pub(crate) fn admin(&self) -> Client {
        self.admin_with(&self.admin_identity())
    }

    pub(crate) fn admin_with(&self, identity: &Identity) -> Client {
        let address: Address = self.address().to_string().parse().unwrap();
        Client::new(&address, identity, self.coordinator.pin()).unwrap()
    }

    pub(crate) async fn node(&self, node: &str) -> NodeStatus {
        self.coordinator.status().await.unwrap().node(&name(node)).unwrap().clone()
    }

    /// The live incarnation ends.
    pub(crate) async fn end(&self) {
        self.coordinator.end(&"test".parse().unwrap()).await.unwrap();
    }

    /// How often something stands in the audit trail.
    pub(crate) async fn count_events(&self, what: &str) -> usize {
        let events = self.coordinator.events(0, 10_000).await.unwrap();
        events.iter().filter(|event| event.what == what).count()
    }
}

/// Opens the sealed copy of the coordinator's key as `coordinator::unlock`
/// describes it, from the description alone.
pub(crate) fn unsealed_key(database: &std::path::Path, unlock: &std::path::Path) -> Identity {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ring::{aead, hkdf};
    let database = rusqlite::Connection::open(database).unwrap();
    let query = "SELECT envelope FROM sealed WHERE name = 'coordinator.key'";
    let sealed: String = database.query_row(query, [], |row| row.get(0)).unwrap();
    let (id, envelope) = sealed.strip_prefix("kiln-sealed-1.").unwrap().split_once('.').unwrap();
    let envelope = URL_SAFE_NO_PAD.decode(envelope).unwrap();
    let text = std::fs::read_to_string(unlock).unwrap();
    let unlock = URL_SAFE_NO_PAD.decode(text.trim().strip_prefix("kiln-unlock-1-").unwrap()).unwrap();
    let (salt, sealed) = envelope.split_at(16);
    let info = [&b"kiln/1 seal\0"[..], b"sealed/coordinator.key"];
    let key = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(&unlock);
    let key = aead::LessSafeKey::new(key.expand(&info, &aead::AES_256_GCM).unwrap().into());
    let aad = format!("kiln/1 sealed\0{id}\0sealed/coordinator.key");
    let (nonce, mut pem) = (aead::Nonce::assume_unique_for_key([0; 12]), sealed.to_vec());
    let pem = key.open_in_place(nonce, aead::Aad::from(aad.as_bytes()), &mut pem).unwrap();
    Identity::from_pem(std::str::from_utf8(pem).unwrap()).unwrap()
}

async fn serve(coordinator: &Coordinator, limits: Limits) -> Server {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    coordinator.serve_within(listener, limits).await.unwrap()
}

pub(crate) fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// What a machine's agent does, without the machine.
#[derive(Clone)]
pub(crate) struct Machine {
    http: reqwest::Client,
    base: String,
    pub(crate) key: Fingerprint,
    pub(crate) ratchet: Arc<Mutex<Ratchet>>,
}

/// What a node keeps of its ratchet on its disk.
#[derive(Debug, Clone)]
pub(crate) struct Ratchet {
    pub(crate) cur: Notch,
    /// Sent, and not answered yet.
    pub(crate) sent: Option<Notch>,
    pub(crate) seen: Option<Stamp>,
}

impl Ratchet {
    fn new() -> Self {
        Self { cur: Notch::random(), sent: None, seen: None }
    }

    /// The turn to send: the one in the air, or a new one.
    pub(crate) fn turn(&mut self) -> Turn {
        Turn { cur: self.cur, next: *self.sent.get_or_insert_with(Notch::random) }
    }

    /// Its answer has come.
    pub(crate) fn answered(&mut self) {
        self.cur = self.sent.take().expect("a turn was sent");
    }
}

impl Machine {
    pub(crate) fn new(identity: &Identity, address: SocketAddr, pin: Fingerprint) -> Self {
        Self::at(std::net::Ipv4Addr::LOCALHOST.into(), identity, address, pin)
    }

    /// One that calls from another address of this host.
    pub(crate) fn at(
        local: std::net::IpAddr,
        identity: &Identity,
        address: SocketAddr,
        pin: Fingerprint,
    ) -> Self {
        let tls = kiln_protocol::tls::client_config(identity, pin).unwrap();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .local_address(local)
            .no_proxy()
            .timeout(Duration::from_secs(30))
            .build()
            .unwrap();
        let ratchet = Arc::new(Mutex::new(Ratchet::new()));
        Self { http, base: format!("https://{address}"), key: identity.fingerprint(), ratchet }
    }

    /// The same key on the same disk, in another machine: nothing of what one
    /// does from now on is known to the other.
    pub(crate) async fn cloned(&self, identity: &Identity, pin: Fingerprint) -> Self {
        let address = self.base.trim_start_matches("https://").parse().unwrap();
        let other = Self::new(identity, address, pin);
        *other.ratchet.lock().await = self.ratchet.lock().await.clone();
        other
    }

    /// Opens a connection, as an agent does before anything else.
    pub(crate) async fn open(&self) -> Result<OpenAnswer, ApiError> {
        self.open_asking(None).await
    }

    /// Opens a connection, and may ask for the configuration with that.
    pub(crate) async fn open_asking(&self, config: Option<ConfigAsked>) -> Result<OpenAnswer, ApiError> {
        let mut ratchet = self.ratchet.lock().await;
        let request = OpenRequest { config, ..OpenRequest::new(ratchet.turn(), ratchet.seen) };
        let answer: OpenAnswer = self.post_unopened(api::OPEN, &request).await?;
        ratchet.answered();
        ratchet.seen = Some(answer.stamp);
        Ok(answer)
    }

    /// As [`Machine::open`], but the answer is lost on the way.
    pub(crate) async fn open_and_lose_the_answer(&self) {
        let mut ratchet = self.ratchet.lock().await;
        let request = OpenRequest::new(ratchet.turn(), ratchet.seen);
        let _: OpenAnswer = self.post_unopened(api::OPEN, &request).await.unwrap();
    }

    async fn post_unopened<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        let (status, bytes) = self.raw(Method::POST, path, serde_json::to_vec(body).unwrap()).await.unwrap();
        if status == 200 { Ok(serde_json::from_slice(&bytes).unwrap()) } else { Err(refusal(status, &bytes)) }
    }

    /// The same machine, of a coordinator that is now at another address.
    pub(crate) fn moved_to(self, address: SocketAddr) -> Self {
        Self { base: format!("https://{address}"), ..self }
    }

    pub(crate) async fn enrol(&self, ticket: &Ticket) -> Result<EnrolAnswer, ApiError> {
        self.enrol_with(ticket.public_key(), ticket.prove(&self.key)).await
    }

    pub(crate) async fn enrol_with(&self, ticket: TicketKey, proof: Proof) -> Result<EnrolAnswer, ApiError> {
        let request = EnrolRequest { ticket, proof, facts: Facts::default() };
        self.post(api::ENROL, &request).await
    }

    pub(crate) async fn config(&self) -> Result<NodeConfig, ApiError> {
        self.get(api::CONFIG).await
    }

    pub(crate) async fn gate(&self) -> Result<GateAnswer, ApiError> {
        self.gate_at(Incarnation(1), Timestamp::now().as_second()).await
    }

    pub(crate) async fn gate_at(&self, incarnation: Incarnation, clock: i64) -> Result<GateAnswer, ApiError> {
        self.post(api::GATE, &GateRequest { incarnation, clock }).await
    }

    pub(crate) async fn report(&self, report: &Report) -> Result<(), ApiError> {
        self.send(Method::POST, api::REPORT, serde_json::to_vec(report).unwrap()).await.map(drop)
    }

    pub(crate) async fn report_ready(&self) -> Result<(), ApiError> {
        self.report(&report("boot", 100, Step::Ready, StepState::Done)).await
    }

    pub(crate) async fn chores(&self) -> Result<Chores, ApiError> {
        self.chores_after(ChoresDone::default()).await
    }

    pub(crate) async fn chores_after(&self, done: ChoresDone) -> Result<Chores, ApiError> {
        self.post(CHORES, &ChoresRequest { incarnation: Incarnation(1), done }).await
    }

    /// Does all there is to do, as a server would whose cluster does what it
    /// is told and whose etcd has these members; tells what it was.
    pub(crate) async fn do_chores(&self, members: &[&str]) -> Chores {
        let chores = self.chores().await.unwrap();
        let member = |name: &&str| EtcdMember { name: format!("{name}-0badcafe"), hosts: Vec::new() };
        let done = ChoresDone {
            tokens_made: chores.make_tokens.iter().map(|token| token.id.clone()).collect(),
            tokens_deleted: chores.delete_tokens.clone(),
            nodes_deleted: chores.delete_nodes.clone(),
            token_changed: chores.change_token.as_ref().map(|change| change.serial),
            members: chores.list_members.then(|| members.iter().map(member).collect()),
            failure: None,
        };
        self.chores_after(done).await.unwrap();
        chores
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        let answer = self.send(Method::POST, path, serde_json::to_vec(body).unwrap()).await?;
        Ok(serde_json::from_slice(&answer).unwrap())
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        Ok(serde_json::from_slice(&self.send(Method::GET, path, Vec::new()).await?).unwrap())
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Vec<u8>, ApiError> {
        // The client's pool gives no say over which of its connections is used.
        for _ in 0..20 {
            let (status, bytes) = self.raw(method.clone(), path, body.clone()).await.unwrap();
            match status {
                200..300 => return Ok(bytes),
                428 => self.open().await.map(drop)?,
                _ => return Err(refusal(status, &bytes)),
            }
        }
        panic!("opened again and again");
    }

    /// The answer to a `GET` with these headers.
    pub(crate) async fn request(&self, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
        self.try_request(path, headers).await.unwrap()
    }

    pub(crate) async fn try_request(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<reqwest::Response, reqwest::Error> {
        loop {
            let request = self.http.get(format!("{}{path}", self.base)).timeout(Duration::from_secs(300));
            let request =
                headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            let response = request.send().await?;
            if response.status() != 428 || self.open().await.is_err() {
                return Ok(response);
            }
        }
    }

    /// Asks to be approved, and waits for it so many seconds; not at all for 0.
    pub(crate) async fn approval_within(&self, seconds: u32) -> (u16, Vec<u8>) {
        let body = serde_json::to_vec(&api::ApprovalRequest { facts: Facts::default() }).unwrap();
        let mut request = self.http.post(format!("{}{}", self.base, api::APPROVAL)).body(body);
        if seconds > 0 {
            request = request.header("prefer", format!("wait={seconds}"));
        }
        let response = request.timeout(Duration::from_secs(300)).send().await.unwrap();
        (response.status().as_u16(), response.bytes().await.unwrap().to_vec())
    }

    pub(crate) async fn raw(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(u16, Vec<u8>), reqwest::Error> {
        let response = self.http.request(method, format!("{}{path}", self.base)).body(body).send().await?;
        Ok((response.status().as_u16(), response.bytes().await?.to_vec()))
    }
}

fn refusal(status: u16, body: &[u8]) -> ApiError {
    serde_json::from_slice(body).unwrap_or_else(|_| panic!("HTTP {status} without an ApiError"))
}

/// A report of a boot's `sequence`th millisecond.
pub(crate) fn report(boot_id: &str, sequence: u64, step: Step, state: StepState) -> Report {
    let boot_id = boot_id.to_owned();
    Report { boot_id, sequence, uptime_ms: sequence, step, state, facts: None, usage: None }
}

/// The class of a refusal that must have come.
#[track_caller]
pub(crate) fn class<T: std::fmt::Debug>(answer: Result<T, ApiError>) -> ErrorClass {
    answer.expect_err("it should have been refused").class
}
