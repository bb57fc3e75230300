//! A coordinator that speaks real TLS and says what a test tells it to, and a
//! machine that remembers what was done to it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use kiln_protocol::api::{
    self, EnrolAnswer, EnrolRequest, GateAnswer, GateRequest, MAX_CLOCK_SKEW, Report, SnapshotRequest,
};
use kiln_protocol::chores::{CHORES, Chores, ChoresRequest, EtcdMember};
use kiln_protocol::config::{Incarnation, NodeConfig};
use kiln_protocol::error::ErrorClass;
use kiln_protocol::names::{K3sVersion, SshPublicKey, UserName};
use kiln_protocol::ratchet::{ConfigAnswer, OpenAnswer, OpenRequest, Reach, Stamp, Turn};
use kiln_protocol::recovery::{PinChange, RecoverySeed};
use kiln_protocol::rotation::RotateRequest;
use kiln_protocol::seed::{Contact, NodeSeed, SshUser, StaticAddress};
use kiln_protocol::ticket::{Ticket, TicketSeed};
use kiln_protocol::{ApiError, Fingerprint, Identity, NodeName, Role, Secret, TicketKey, tls};
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::apply::{k3s, token};
use crate::host::{Health, Host};
use crate::root::Root;
use crate::seed::Search;

/// What the coordinator does with one request instead of answering it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    Refuse(ApiError),
    /// These bytes, then the end.
    Raw(&'static str),
    /// The connection ends before an answer, though the request was heard.
    Lose,
    /// As `Lose`, when the key that asked has been replaced.
    LoseOnceReplaced,
    /// Nothing goes wrong this time.
    Spare,
}

/// What becomes of a connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Now,
    OnceReplaced,
}

/// How far its state is at first.
pub(super) const STAMP: Reach = Reach { epoch: 1, seq: 1 };

/// What the coordinator has seen and will say.
#[derive(Debug)]
pub(super) struct Script {
    /// Taken one by one, for requests to the path.
    pub(super) faults: VecDeque<(&'static str, Fault)>,
    pub(super) gate: VecDeque<GateAnswer>,
    pub(super) config: NodeConfig,
    /// What takes its place when the gate has opened.
    pub(super) config_after_gate: Option<NodeConfig>,
    /// Every key that enrolled, with each proof checked.
    pub(super) enrolled: Vec<Fingerprint>,
    pub(super) gates: Vec<GateRequest>,
    pub(super) reports: Vec<Report>,
    /// Keys that an operator has approved.
    pub(super) approved: Vec<Fingerprint>,
    /// What keys that are nobody's, or not yet, have reported.
    pub(super) beacons: Vec<(Fingerprint, Report)>,
    /// Which ticket vouched for which key, for ever.
    pub(super) bindings: Vec<(TicketKey, Fingerprint)>,
    /// The key of the node now, and those it had before.
    pub(super) key: Option<Fingerprint>,
    pub(super) former: Vec<Fingerprint>,
    /// The stamp that the node showed when it asked for another key.
    pub(super) shown: Option<Stamp>,
    /// How far its state is.
    pub(super) reach: Reach,
    /// The last turn of the node's ratchet.
    pub(super) turn: Option<Turn>,
    /// The paths that were asked for, in order.
    pub(super) asked: Vec<String>,
    /// What no honest machine would have done.
    pub(super) alarms: Vec<String>,
    /// Whether the node is told to replace its key.
    pub(super) rotate: bool,
    pub(super) recovery: RecoverySeed,
    /// Given out one by one; then there is nothing to do.
    pub(super) chores: VecDeque<Chores>,
    pub(super) chores_done: Vec<ChoresRequest>,
    /// A datastore to be restored, and where its parts that were asked for begin.
    pub(super) datastore: Vec<u8>,
    pub(super) offsets: Vec<u64>,
    pub(super) ticket: TicketSeed,
    pin: Fingerprint,
}

/// A coordinator on a port of the loopback interface.
#[derive(Debug, Clone)]
pub(super) struct FakeCoordinator {
    script: Arc<Mutex<Script>>,
    identity: Arc<Identity>,
    address: String,
    /// Nobody reaches it, as long as this is set.
    pub(super) cut_off: Arc<AtomicBool>,
    /// The recovery key's word for the identity, if it has one.
    change: Option<PinChange>,
    handshakes: Arc<AtomicUsize>,
    /// The next handshake waits until a key was replaced.
    pub(super) slow_handshake: Arc<AtomicBool>,
}

impl FakeCoordinator {
    /// Takes a port, but does not listen yet.
    pub(super) async fn new() -> (Self, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let identity = Identity::generate().unwrap();
        let script = Script {
            faults: VecDeque::new(),
            gate: VecDeque::new(),
            config: config(),
            config_after_gate: None,
            enrolled: Vec::new(),
            gates: Vec::new(),
            reports: Vec::new(),
            beacons: Vec::new(),
            approved: Vec::new(),
            bindings: Vec::new(),
            key: None,
            former: Vec::new(),
            shown: None,
            reach: STAMP,
            turn: None,
            asked: Vec::new(),
            alarms: Vec::new(),
            rotate: false,
            recovery: RecoverySeed::generate(),
            chores: VecDeque::new(),
            chores_done: Vec::new(),
            datastore: Vec::new(),
            offsets: Vec::new(),
            ticket: TicketSeed::generate(),
            pin: identity.fingerprint(),
        };
        let address = listener.local_addr().unwrap().to_string();
        let this = Self {
            script: Arc::new(Mutex::new(script)),
            identity: Arc::new(identity),
            address,
            cut_off: Arc::default(),
            change: None,
            handshakes: Arc::default(),
            slow_handshake: Arc::default(),
        };
        (this, listener)
    }

    /// One that knows what this one knows, with another key, at another
    /// address; whoever holds `recovery` says that it took this one's place.
    pub(super) async fn succeeded_by(&self, recovery: &RecoverySeed) -> Self {
        let (mut next, listener) = Self::new().await;
        let serial = self.change.map_or(1, |change| change.serial + 1);
        next.change = Some(recovery.change_pin(serial, &next.pin()));
        {
            let (mut script, known) = (next.script(), self.script());
            (script.key, script.turn) = (known.key, known.turn);
        }
        next.listen(listener);
        next
    }

    pub(super) fn pin(&self) -> Fingerprint {
        self.identity.fingerprint()
    }

    /// How many connections got as far as a handshake, good or not.
    pub(super) fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::SeqCst)
    }

    /// One that listens.
    pub(super) async fn started() -> Self {
        let (this, listener) = Self::new().await;
        this.listen(listener);
        this
    }

    pub(super) fn listen(&self, listener: TcpListener) {
        let config = match &self.change {
            None => tls::server_config(&self.identity).unwrap(),
            Some(change) => tls::server_config_after(&self.identity, change).unwrap(),
        };
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (this, acceptor) = (this.clone(), acceptor.clone());
                // A client that gives up is no concern of the server's.
                tokio::spawn(async move { this.serve(stream, acceptor).await.ok() });
            }
        });
    }

    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    pub(super) fn seed(&self) -> NodeSeed {
        self.seed_with_pin(self.identity.fingerprint())
    }

    pub(super) fn seed_with_pin(&self, pin: Fingerprint) -> NodeSeed {
        let ticket = Ticket::new(vec![self.address.parse().unwrap()], pin, self.script().ticket.clone());
        NodeSeed::new(ticket.unwrap())
    }

    /// A seed with another ticket for this coordinator, which it takes instead if
    /// it is given to `Script::ticket`.
    pub(super) fn seed_with(&self, ticket: &TicketSeed) -> NodeSeed {
        let pin = self.identity.fingerprint();
        NodeSeed::new(Ticket::new(vec![self.address.parse().unwrap()], pin, ticket.clone()).unwrap())
    }

    /// A seed without a ticket.
    pub(super) fn contact(&self) -> NodeSeed {
        let contact = Contact::new(vec![self.address.parse().unwrap()], self.identity.fingerprint());
        NodeSeed::without_ticket(contact.unwrap())
    }

    /// The same, whose tickets tell of it by a name.
    pub(super) fn called(self, name: &str) -> Self {
        let (_, port) = self.address.rsplit_once(':').unwrap();
        Self { address: format!("{name}:{port}"), ..self }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    async fn serve(&self, stream: TcpStream, acceptor: TlsAcceptor) -> Result<()> {
        self.handshakes.fetch_add(1, Ordering::SeqCst);
        if self.cut_off.load(Ordering::Relaxed) {
            bail!("there is no way here");
        }
        if self.slow_handshake.swap(false, Ordering::SeqCst) {
            self.until_replaced().await;
        }
        let mut stream = acceptor.accept(stream).await?;
        let key = tls::fingerprint_of(&stream.get_ref().1.peer_certificates().unwrap()[0])?;
        let mut opened = false;
        loop {
            let (path, seen, body) = read_request(&mut stream).await?;
            if self.cut_off.load(Ordering::Relaxed) {
                bail!("there is no way here any more");
            }
            let (answer, end) = self.answer(key, &path, seen.as_deref(), &body, &mut opened);
            if end == End::OnceReplaced {
                self.until_replaced().await;
            }
            stream.write_all(answer.as_bytes()).await?;
            if end != End::Open {
                stream.shutdown().await?;
                return Ok(());
            }
        }
    }

    /// Returns when the node has another key than its first.
    async fn until_replaced(&self) {
        while self.script().former.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn answer(
        &self,
        key: Fingerprint,
        path: &str,
        seen: Option<&str>,
        body: &[u8],
        opened: &mut bool,
    ) -> (String, End) {
        let mut script = self.script();
        let fault = match script.faults.front() {
            Some((to, _)) if *to == path => script.faults.pop_front().map(|(_, fault)| fault),
            _ => None,
        };
        if let Some(Fault::Refuse(error)) = fault {
            return (response(403, &serde_json::to_string(&error).unwrap()), End::Open);
        }
        let answer = script.hear(&self.identity, key, path, seen, body, opened);
        match fault {
            None | Some(Fault::Spare) => (answer, End::Open),
            Some(Fault::Raw(text)) => (text.to_owned(), End::Now),
            Some(Fault::LoseOnceReplaced) => (String::new(), End::OnceReplaced),
            _ => (String::new(), End::Now),
        }
    }
}

impl Script {
    fn hear(
        &mut self,
        coordinator: &Identity,
        key: Fingerprint,
        path: &str,
        seen: Option<&str>,
        body: &[u8],
        opened: &mut bool,
    ) -> String {
        self.asked.push(path.to_owned());
        let bound = self.key == Some(key);
        if self.former.contains(&key) && path != api::ROTATE {
            self.alarms.push(format!("{path} with a key that was replaced"));
        }
        if path == api::APPROVAL && !self.approved.contains(&key) {
            let error = ApiError::new(ErrorClass::Pending, "no ticket").hint("coordinator approve");
            return response(403, &serde_json::to_string(&error).unwrap());
        }
        if path == api::ENROL || path == api::APPROVAL {
            if path == api::ENROL {
                let request: EnrolRequest = serde_json::from_slice(body).unwrap();
                assert!(
                    request.ticket.verifies(&request.proof, &self.pin, &key),
                    "the proof is for another key"
                );
                if let Some(class) = self.refusal(request.ticket, key) {
                    let error = ApiError::new(class, "a test");
                    return response(403, &serde_json::to_string(&error).unwrap());
                }
                self.bind(request.ticket, key);
            }
            self.enrolled.push(key);
            self.key.get_or_insert(key);
            let (node, role) = (self.config.node.clone(), self.config.role());
            let answer = EnrolAnswer {
                cluster: self.config.cluster.clone(),
                node,
                role,
                generation: 1,
                recovery: Some(self.recovery.public_key()),
            };
            return response(200, &serde_json::to_string(&answer).unwrap());
        }
        if path == api::REPORT && !bound {
            self.beacons.push((key, serde_json::from_slice(body).unwrap()));
            return response(204, "");
        }
        if path == api::ROTATE {
            return self.replace(key, body);
        }
        if !bound {
            let error = ApiError::new(ErrorClass::Policy, "this key is not bound");
            return response(403, &serde_json::to_string(&error).unwrap());
        }
        if path == api::OPEN {
            let request: OpenRequest = serde_json::from_slice(body).unwrap();
            self.turn_to(request.turn);
            *opened = true;
            let stamp = Stamp::sign(self.reach, coordinator);
            // Where it is to go wrong, it is asked for alone, as of a coordinator
            // that does not know better.
            let alone = self.faults.iter().any(|(path, _)| *path == api::CONFIG);
            let config = request.config.filter(|_| !alone).map(|asked| {
                let (config, tag) = self.written();
                if asked.seen.as_ref() == Some(&tag) {
                    return ConfigAnswer::Unchanged;
                }
                ConfigAnswer::Is { tag, config: RawValue::from_string(config).unwrap() }
            });
            let answer = OpenAnswer { stamp, rotate: self.rotate, config };
            return response(200, &serde_json::to_string(&answer).unwrap());
        }
        if !*opened {
            let error = ApiError::new(ErrorClass::Transient, "not opened");
            return response(428, &serde_json::to_string(&error).unwrap());
        }
        match path {
            api::CONFIG => {
                let (config, tag) = self.written();
                // It does not hold a question open: that would make no other difference.
                match seen {
                    Some(seen) if seen == tag => response(304, ""),
                    _ => response(200, &config).replacen("\r\n", &format!("\r\netag: {tag}\r\n"), 1),
                }
            }
            api::GATE => self.pass(serde_json::from_slice(body).unwrap()),
            api::REPORT => {
                self.reports.push(serde_json::from_slice(body).unwrap());
                response(204, "")
            }
            CHORES => {
                self.chores_done.push(serde_json::from_slice(body).unwrap());
                response(200, &serde_json::to_string(&self.chores.pop_front().unwrap_or_default()).unwrap())
            }
            api::SNAPSHOT => {
                let SnapshotRequest { offset } = serde_json::from_slice(body).unwrap();
                self.offsets.push(offset);
                let rest = &self.datastore[usize::try_from(offset).unwrap()..];
                response(200, std::str::from_utf8(&rest[..rest.len().min(7)]).unwrap())
            }
            _ => response(404, "{}"),
        }
    }

    /// What the gate says.
    fn pass(&mut self, request: GateRequest) -> String {
        let (incarnation, clock) = (request.incarnation, request.clock);
        self.gates.push(request);
        if incarnation != self.config.incarnation {
            let error = ApiError::new(ErrorClass::Policy, "that life of the cluster is over");
            return response(403, &serde_json::to_string(&error).unwrap());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let off = clock - i64::try_from(now).unwrap();
        if off.abs() > MAX_CLOCK_SKEW {
            let error = ApiError::new(ErrorClass::Clock, format!("the clocks differ by {off} s"));
            return response(409, &serde_json::to_string(&error).unwrap());
        }
        let answer = self.gate.pop_front().unwrap_or(GateAnswer::Go);
        if answer == GateAnswer::Go
            && let Some(config) = self.config_after_gate.take()
        {
            self.config = config;
        }
        response(200, &serde_json::to_string(&answer).unwrap())
    }

    /// What a ticket is refused with, if it is.
    fn refusal(&mut self, ticket: TicketKey, key: Fingerprint) -> Option<ErrorClass> {
        let of_ticket = self.bindings.iter().find(|(bound, _)| *bound == ticket).map(|(_, key)| *key);
        let of_key = self.bindings.iter().find(|(_, bound)| *bound == key).map(|(ticket, _)| *ticket);
        if of_ticket.is_some_and(|bound| bound != key) {
            self.alarms.push(format!("{ticket} with a second key"));
            return Some(ErrorClass::TicketContested);
        }
        let known = ticket == self.ticket.public_key();
        (!known)
            .then_some(ErrorClass::TicketUnknown)
            .or_else(|| of_key.is_some_and(|bound| bound != ticket).then_some(ErrorClass::NameConflict))
    }

    fn bind(&mut self, ticket: TicketKey, key: Fingerprint) {
        if !self.bindings.contains(&(ticket, key)) {
            self.bindings.push((ticket, key));
            // The node's machine from now on, which has no turn yet.
            (self.key, self.turn) = (Some(key), None);
        }
    }

    /// The configuration and its tag.
    fn written(&self) -> (String, String) {
        let config = NodeConfig { rotate: self.rotate, ..self.config.clone() };
        let config = serde_json::to_string(&config).unwrap();
        let tag = format!("\"{}\"", Fingerprint::of_spki(config.as_bytes()));
        (config, tag)
    }

    fn turn_to(&mut self, turn: Turn) {
        if self.turn.is_some_and(|last| last != turn && last.next != turn.cur) {
            self.alarms.push(format!("{turn:?} after {:?}", self.turn));
        }
        self.turn = Some(turn);
    }

    fn replace(&mut self, key: Fingerprint, body: &[u8]) -> String {
        let request: RotateRequest = serde_json::from_slice(body).unwrap();
        assert!(request.is_proven(&self.pin, &key), "the proof is for another key");
        let new = request.key.fingerprint();
        self.shown = request.seen;
        if self.key == Some(key) {
            self.turn_to(request.turn);
            self.former.push(key);
            self.key = Some(new);
            self.rotate = false;
        } else if self.key != Some(new) {
            self.alarms.push("another rotation with a key that was replaced".to_owned());
        }
        response(204, "")
    }
}

pub(super) fn response(status: u16, body: &str) -> String {
    let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n");
    let length = if status == 204 || status == 304 {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    format!("{head}{length}\r\n{body}")
}

/// The path, what is in `If-None-Match`, and the body.
async fn read_request(
    stream: &mut (impl tokio::io::AsyncRead + Unpin),
) -> Result<(String, Option<String>, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await?;
        bytes.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            // One request is under way at a time, so nothing comes behind it.
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                let path = head.split(' ').nth(1).unwrap().to_owned();
                let seen = head.lines().find_map(|line| line.strip_prefix("if-none-match: "));
                return Ok((path, seen.map(str::to_owned), body.as_bytes()[..length].to_vec()));
            }
        }
        if read == 0 {
            bail!("the request ended early");
        }
    }
}

/// A configuration for a first server.
pub(super) fn config() -> NodeConfig {
    let text = r#"{
        "cluster": "home", "incarnation": 1, "node": "k3s-s1", "generation": 1,
        "network": [{"mac": "52:54:00:00:00:02", "address": "10.77.0.11/24"}],
        "users": [{"name": "ops", "authorized_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq me"]}],
        "k3s": {
            "version": "v1.28.5+k3s1", "node_ip": "10.77.0.11", "node_password": "00ff",
            "membership": {
                "kind": "first_server", "cluster_init": false, "token": "K10aa::server:s", "agent_token": "a",
                "ca": {
                    "server": {"certificates": "C", "key": "K"}, "client": {"certificates": "C", "key": "K"},
                    "request_header": {"certificates": "C", "key": "K"},
                    "etcd_peer": {"certificates": "C", "key": "K"},
                    "etcd_server": {"certificates": "C", "key": "K"}, "service_key": "K"
                }
            }
        }
    }"#;
    serde_json::from_str(text).unwrap()
}

/// A machine that remembers what was done to it.
#[derive(Debug)]
pub(super) struct FakeHost<'a> {
    root: &'a Root,
    pub(super) seed: RefCell<Search>,
    /// In sources behind that one.
    pub(super) more_seeds: RefCell<Vec<NodeSeed>>,
    /// Each change, in order.
    pub(super) log: RefCell<Vec<String>>,
    /// The card that is to have an address will not be there for so many tries.
    pub(super) no_card: Cell<u32>,
    /// Whether it has an address without anybody's doing.
    pub(super) dhcp: Cell<bool>,
    /// Taken one by one; after the last, k3s is up if it was started.
    pub(super) health: RefCell<VecDeque<Health>>,
    pub(super) k3s: RefCell<K3sVersion>,
    /// Survives reboots, as an enabled unit does.
    pub(super) enabled: Cell<bool>,
    pub(super) started: Cell<bool>,
    /// Its network leads nowhere.
    pub(super) cut_off: Arc<AtomicBool>,
    /// The static addresses that its cards were given.
    network: RefCell<Vec<StaticAddress>>,
    /// Its cards cannot be given back what they had.
    pub(super) no_way_back: Cell<bool>,
    /// What was given to kubectl to read.
    pub(super) fed: RefCell<Vec<String>>,
    /// What kubectl fails with.
    pub(super) kubectl_error: RefCell<Option<String>>,
    /// What its k3s takes for the server token; none if it does not answer.
    pub(super) datastore_token: RefCell<Option<Secret>>,
    /// It takes the next one, and that is not heard.
    pub(super) lose_token_answer: Cell<bool>,
}

/// A gateway behind which there is nothing.
pub(super) const NO_WAY_OUT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 254));

/// A card whose cable is not in: it takes no addresses.
pub(super) const NO_CABLE: &str = "52:54:00:00:00:01";

impl<'a> FakeHost<'a> {
    pub(super) fn new(root: &'a Root, seed: NodeSeed) -> Self {
        Self {
            root,
            seed: RefCell::new(Search::Found(Box::new(seed), "a test")),
            more_seeds: RefCell::default(),
            log: RefCell::default(),
            no_card: Cell::default(),
            dhcp: Cell::new(true),
            health: RefCell::default(),
            k3s: RefCell::new("v1.28.5+k3s1".parse().unwrap()),
            enabled: Cell::new(false),
            started: Cell::new(false),
            cut_off: Arc::default(),
            network: RefCell::default(),
            no_way_back: Cell::new(false),
            fed: RefCell::default(),
            kubectl_error: RefCell::default(),
            datastore_token: RefCell::new(Some(Secret::new("K10aa::server:s").unwrap())),
            lose_token_answer: Cell::new(false),
        }
    }

    /// Power off and on again: what is enabled starts.
    pub(super) fn reboot(&self) {
        self.started.set(self.enabled.get());
        self.health.borrow_mut().clear();
    }

    fn give(&self, addresses: &[StaticAddress]) {
        let cut = |one: &StaticAddress| one.gateway.is_some_and(|gateway| gateway == NO_WAY_OUT);
        self.cut_off.store(addresses.iter().any(cut), Ordering::Relaxed);
        self.network.replace(addresses.to_vec());
    }

    fn note(&self, what: String) {
        self.log.borrow_mut().push(what);
    }
}

impl Host for FakeHost<'_> {
    fn find_seed(&self, fits: &dyn Fn(&NodeSeed) -> bool) -> Search {
        let first = self.seed.borrow().clone();
        if matches!(&first, Search::Found(seed, _) if fits(seed)) {
            return first;
        }
        match self.more_seeds.borrow().iter().find(|seed| fits(seed)) {
            Some(seed) => Search::Found(Box::new(seed.clone()), "another source"),
            None if matches!(first, Search::Found(..)) => Search::Nothing(Vec::new()),
            None => first,
        }
    }
    fn set_hostname(&self, name: &NodeName) -> Result<()> {
        self.note(format!("hostname {name}"));
        Ok(())
    }
    async fn set_addresses(&self, wanted: &[StaticAddress]) -> Result<()> {
        if !wanted.is_empty() && self.no_card.get() > 0 {
            self.no_card.set(self.no_card.get() - 1);
            bail!("no network card has the address 52:54:00:00:00:02");
        }
        if wanted.iter().any(|one| one.mac.is_some_and(|mac| mac.to_string() == NO_CABLE)) {
            self.note(format!("nothing for {NO_CABLE}"));
            bail!("is its cable in?");
        }
        for one in wanted {
            let gateway = one.gateway.map_or(String::new(), |gateway| format!(" by {gateway}"));
            self.note(format!("address {}{gateway}", one.address));
        }
        self.give(wanted);
        Ok(())
    }
    fn has_addresses(&self, wanted: &[StaticAddress]) -> bool {
        wanted.is_empty() || *self.network.borrow() == wanted
    }
    fn static_addresses(&self) -> Result<Vec<StaticAddress>> {
        Ok(self.network.borrow().clone())
    }
    async fn take_back(&self, _tried: &[StaticAddress], before: &[StaticAddress]) -> Result<()> {
        if self.no_way_back.get() {
            self.note("no way back".to_owned());
            bail!("NetworkManager is not running");
        }
        if before.is_empty() {
            self.note("addresses by DHCP".to_owned());
            self.give(before);
        }
        self.set_addresses(before).await
    }
    fn addresses(&self) -> Vec<(String, IpAddr)> {
        let given = self.dhcp.get() || self.log.borrow().iter().any(|line| line.starts_with("address"));
        let loopback = ("lo".to_owned(), "127.0.0.1".parse().unwrap());
        let card = ("eth1".to_owned(), "10.77.0.11".parse().unwrap());
        std::iter::once(loopback).chain(given.then_some(card)).collect()
    }
    fn add_user(&self, user: &SshUser) -> Result<()> {
        self.note(format!("user {}", user.name));
        Ok(())
    }
    fn remove_keys(&self, user: &UserName, keys: &[SshPublicKey]) -> Result<()> {
        self.note(format!("user {user} loses {}", keys.len()));
        Ok(())
    }
    fn selinux(&self) -> bool {
        false
    }
    fn label(&self, _paths: &[PathBuf]) {}
    async fn k3s_version(&self) -> Result<K3sVersion> {
        Ok(self.k3s.borrow().clone())
    }
    async fn start_k3s(&self, role: Role) -> Result<()> {
        assert!(self.root.meta(k3s::CONFIG)?.is_some(), "k3s was started without its configuration");
        self.started.set(true);
        self.note(format!("start {role}"));
        Ok(())
    }
    async fn k3s_health(&self, role: Role) -> Result<Health> {
        let next = self.health.borrow_mut().pop_front();
        let found = token::present(self.root)?;
        if next.is_none() && self.started.get() && role == Role::Server {
            let datastore = self.datastore_token.borrow();
            if datastore.is_some() && *datastore != found {
                return Ok(Health::Down("the datastore is under another token".to_owned()));
            }
        }
        Ok(next.unwrap_or_else(|| {
            if self.started.get() { Health::Ready } else { Health::Waiting("not started".to_owned()) }
        }))
    }
    async fn k3s_changed(&self, _role: Role, at_most: Duration) {
        tokio::time::sleep(at_most).await;
    }
    async fn enable_k3s(&self, role: Role) -> Result<()> {
        self.enabled.set(true);
        self.note(format!("enable {role}"));
        Ok(())
    }
    async fn kubectl(&self, args: &[&str], input: Option<&str>, _time: Duration) -> Result<String> {
        self.note(format!("kubectl {}", args.join(" ")));
        self.fed.borrow_mut().extend(input.map(str::to_owned));
        match self.kubectl_error.borrow().as_deref() {
            Some(error) => bail!("{error}"),
            None => Ok(String::new()),
        }
    }
    async fn change_server_token(&self, candidates: &[Secret], new: &Secret) -> Result<()> {
        let mut datastore = self.datastore_token.borrow_mut();
        let Some(present) = datastore.clone() else { bail!("k3s does not answer") };
        if !candidates.contains(&present) {
            bail!("k3s takes none of these tokens");
        }
        *datastore = Some(new.clone());
        if self.lose_token_answer.replace(false) {
            bail!("k3s did not answer in time");
        }
        Ok(())
    }
    async fn etcd_members(&self) -> Result<Vec<EtcdMember>> {
        Ok(vec![EtcdMember { name: "s1-0badcafe".to_owned(), hosts: vec!["10.77.0.11".to_owned()] }])
    }
}

/// The incarnation a script's configuration belongs to.
pub(super) fn incarnation(number: u64) -> Incarnation {
    Incarnation(number)
}
