//! A coordinator that speaks real TLS and says what a test tells it to.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Result, bail};
use kiln_protocol::recovery::{PinChange, RecoverySeed};
use kiln_protocol::seed::{Contact, NodeSeed};
use kiln_protocol::ticket::{Ticket, TicketSeed};
use kiln_protocol::{Fingerprint, Identity, tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::config;
use super::script::{End, Fault, STAMP, Script, response};

/// A coordinator on a port of the loopback interface.
#[derive(Debug, Clone)]
pub(in crate::run) struct FakeCoordinator {
    script: Arc<Mutex<Script>>,
    identity: Arc<Identity>,
    address: String,
    /// Nobody reaches it, as long as this is set.
    pub(in crate::run) cut_off: Arc<AtomicBool>,
    /// The recovery key's word for the identity, if it has one.
    change: Option<PinChange>,
    handshakes: Arc<AtomicUsize>,
    /// The next handshake waits until a key was replaced.
    pub(in crate::run) slow_handshake: Arc<AtomicBool>,
}

impl FakeCoordinator {
    /// Takes a port, but does not listen yet.
    pub(in crate::run) async fn new() -> (Self, TcpListener) {
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
    pub(in crate::run) async fn succeeded_by(&self, recovery: &RecoverySeed) -> Self {
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

    pub(in crate::run) fn pin(&self) -> Fingerprint {
        self.identity.fingerprint()
    }

    /// How many connections got as far as a handshake, good or not.
    pub(in crate::run) fn handshakes(&self) -> usize {
        self.handshakes.load(Ordering::SeqCst)
    }

    /// One that listens.
    pub(in crate::run) async fn started() -> Self {
        let (this, listener) = Self::new().await;
        this.listen(listener);
        this
    }

    pub(in crate::run) fn listen(&self, listener: TcpListener) {
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

    pub(in crate::run) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    pub(in crate::run) fn seed(&self) -> NodeSeed {
        self.seed_with_pin(self.identity.fingerprint())
    }

    pub(in crate::run) fn seed_with_pin(&self, pin: Fingerprint) -> NodeSeed {
        let ticket = Ticket::new(vec![self.address.parse().unwrap()], pin, self.script().ticket.clone());
        NodeSeed::new(ticket.unwrap())
    }

    /// A seed with another ticket for this coordinator, which it takes instead if
    /// it is given to `Script::ticket`.
    pub(in crate::run) fn seed_with(&self, ticket: &TicketSeed) -> NodeSeed {
        let pin = self.identity.fingerprint();
        NodeSeed::new(Ticket::new(vec![self.address.parse().unwrap()], pin, ticket.clone()).unwrap())
    }

    /// A seed without a ticket.
    pub(in crate::run) fn contact(&self) -> NodeSeed {
        let contact = Contact::new(vec![self.address.parse().unwrap()], self.identity.fingerprint());
        NodeSeed::without_ticket(contact.unwrap())
    }

    /// The same, whose tickets tell of it by a name.
    pub(in crate::run) fn called(self, name: &str) -> Self {
        let (_, port) = self.address.rsplit_once(':').unwrap();
        Self { address: format!("{name}:{port}"), ..self }
    }

    pub(in crate::run) fn address(&self) -> &str {
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
