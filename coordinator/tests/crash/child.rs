//! The history: a coordinator, its operator and its nodes, who say after each
//! answer what was promised.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use kiln_coordinator::{Coordinator, Limits, Server};
use kiln_protocol::admin::{Hints, TicketRecord};
use kiln_protocol::recovery::RecoverySeed;
use kiln_protocol::rotation::RotateRequest;
use kiln_protocol::ticket::{Ticket, TicketSeed};
use kiln_protocol::{ErrorClass, Fingerprint, Identity, Role, api};
use kiln_tests::crash;
use reqwest::Method;
use tokio::net::TcpListener;

use super::common::{Machine, Ratchet, cluster_file, name};
use super::{Kept, View, unlock_file, view};

/// Nodes that come and go in the history, beside the server; more in a long run.
fn rounds() -> usize {
    std::env::var("KILN_CRASH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

/// Whether an answer came over the network, or is the library's own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Network,
    Library,
}

/// A machine that is bound and trusted.
struct Node {
    identity: Identity,
    next: Option<Identity>,
    ratchet: Ratchet,
}

/// Everybody in the history.
pub(super) struct Child {
    dir: PathBuf,
    /// The state directory that counts, below `dir`.
    state: String,
    recovery: RecoverySeed,
    running: Option<(Coordinator, Server)>,
    burnt: Vec<(String, Fingerprint)>,
    nodes: BTreeMap<String, Node>,
}

impl Child {
    pub(super) async fn run(dir: &Path) -> Result<()> {
        let recovery = Coordinator::init(&dir.join("state"))?;
        let mut child = Self {
            dir: dir.to_owned(),
            state: "state".to_owned(),
            recovery,
            running: None,
            burnt: Vec::new(),
            nodes: BTreeMap::new(),
        };
        child.start().await?;
        child.coordinator().apply(&cluster_file(1)).await?;
        child.say("apply", By::Library).await?;
        let server = child.join("s1", 1).await?;
        server.gate().await?;
        child.gone_on("s1", &server).await;
        child.say("gate", By::Network).await?;
        *server.ratchet.lock().await = child.nodes["s1"].ratchet.clone();
        server.report_ready().await?;
        child.gone_on("s1", &server).await;
        child.say("ready", By::Network).await?;
        child.coordinator().rotate_tokens().await?;
        child.say("rotate tokens", By::Library).await?;
        *server.ratchet.lock().await = child.nodes["s1"].ratchet.clone();
        server.do_chores(&[]).await;
        child.gone_on("s1", &server).await;
        child.say("tokens rotated", By::Network).await?;
        for round in 0..rounds() {
            child.round(u32::try_from(round)?).await?;
        }
        child.restore().await?;
        child.change_pin().await?;
        child.coordinator().kubeconfig("https://10.0.0.1:6443", Duration::from_secs(3600)).await?;
        child.say("kubeconfig", By::Library).await?;
        child.coordinator().end(cluster_file(1).name()).await?;
        child.nodes.clear();
        child.say("end", By::Library).await?;
        child.coordinator().apply(&cluster_file(1)).await?;
        child.say("apply again", By::Library).await?;
        child.stop().await;
        Ok(())
    }

    /// An agent joins, is doubted, released, gets another key, is copied,
    /// replaced and thrown out.
    async fn round(&mut self, round: u32) -> Result<()> {
        let first = 2 * round + 1;
        let ticket = self.mint("a1", first).await?;
        self.coordinator().extend(&name("a1"), Duration::from_secs(7200)).await?;
        self.say("extend", By::Library).await?;
        self.enrol("a1", &ticket).await?;
        self.open("a1").await?;
        let thief = self.machine(&Identity::generate()?);
        ensure!(thief.enrol(&ticket).await.is_err_and(|error| error.class == ErrorClass::TicketContested));
        let doubted = self.nodes.remove("a1").context("a1 is bound")?;
        self.say("contested", By::Network).await?;
        self.coordinator().release(&name("a1")).await?;
        self.nodes.insert("a1".to_owned(), doubted);
        self.say("release", By::Library).await?;
        self.rotate("a1").await?;
        self.copied("a1").await?;
        // With the state closed and opened again in between: who was heard is
        // not known any more, so that another machine may be made.
        self.stop().await;
        self.start().await?;
        self.say("restart", By::Library).await?;
        let second = self.mint("a1", first + 1).await?;
        self.enrol("a1", &second).await?;
        self.coordinator().revoke(&name("a1")).await?;
        self.nodes.remove("a1");
        self.say("revoke", By::Library).await
    }

    /// A node's key is replaced, because an operator wants that.
    async fn rotate(&mut self, node: &str) -> Result<()> {
        self.coordinator().rotate(&name(node)).await?;
        self.say("ask for another key", By::Library).await?;
        self.open(node).await?;
        let next = Identity::generate()?;
        self.nodes.get_mut(node).context("it is bound")?.next =
            Some(Identity::from_pem(next.to_pem().expose())?);
        // Its key is on the node's disk before it is shown.
        self.say("a new key is on the disk", By::Library).await?;
        let pin = self.coordinator().pin();
        let kept = self.nodes.get_mut(node).context("it is bound")?;
        let (turn, seen) = (kept.ratchet.turn(), kept.ratchet.seen);
        let request = RotateRequest::new(&pin, &kept.identity.fingerprint(), &next, turn, seen);
        let machine = Machine::new(&kept.identity, self.running.as_ref().unwrap().1.local_addr(), pin);
        let (status, _) = machine.raw(Method::POST, api::ROTATE, serde_json::to_vec(&request)?).await?;
        ensure!(status == 204, "the new key is refused");
        let kept = self.nodes.get_mut(node).context("it is bound")?;
        kept.ratchet.answered();
        (kept.identity, kept.next) = (next, None);
        self.say("rotate", By::Network).await?;
        self.open(node).await
    }

    /// A copy of a node's disk speaks after the node has gone on.
    async fn copied(&mut self, node: &str) -> Result<()> {
        let kept = self.nodes.get(node).context("it is bound")?;
        let copy = self.machine(&kept.identity);
        *copy.ratchet.lock().await = Ratchet { sent: None, ..kept.ratchet.clone() };
        self.open(node).await?;
        ensure!(copy.open().await.is_err_and(|error| error.class == ErrorClass::Held));
        self.nodes.remove(node);
        self.say("copied", By::Network).await
    }

    /// A backup is restored, and takes the state's place.
    async fn restore(&mut self) -> Result<()> {
        let (before, backup) = (self.dir.join(&self.state), self.dir.join("backup"));
        self.coordinator().backup(&backup).await?;
        self.say("backup", By::Library).await?;
        self.coordinator().raise_epoch().await?;
        self.say("raise the epoch", By::Library).await?;
        self.stop().await;
        "restored".clone_into(&mut self.state);
        Coordinator::restore(&backup, &self.dir.join(&self.state), &unlock_file(&self.dir))?;
        ensure!(before.exists(), "a restore takes nothing away");
        self.start().await?;
        self.say("restore", By::Library).await?;
        self.open("s1").await
    }

    /// The coordinator gets another key.
    async fn change_pin(&mut self) -> Result<()> {
        self.stop().await;
        let state = self.dir.join(&self.state);
        Coordinator::change_pin_with(&state, &self.recovery, &unlock_file(&self.dir))?;
        self.start().await?;
        self.say("change the pin", By::Library).await?;
        self.open("s1").await
    }

    async fn start(&mut self) -> Result<()> {
        let coordinator =
            Coordinator::open_with(&self.dir.join(&self.state), &unlock_file(&self.dir)).await?;
        let mut limits = Limits::default();
        // A question for chores is not held open when there are none.
        limits.chores = Duration::ZERO;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let server = coordinator.serve_within(listener, limits).await?;
        self.running = Some((coordinator, server));
        Ok(())
    }

    async fn stop(&mut self) {
        if let Some((coordinator, server)) = self.running.take() {
            server.shutdown().await;
            drop(coordinator);
        }
    }

    fn coordinator(&self) -> &Coordinator {
        &self.running.as_ref().unwrap().0
    }

    fn machine(&self, identity: &Identity) -> Machine {
        let (coordinator, server) = self.running.as_ref().unwrap();
        Machine::new(identity, server.local_addr(), coordinator.pin())
    }

    async fn mint(&mut self, node: &str, generation: u32) -> Result<Ticket> {
        let address = "127.0.0.1:7443".parse()?;
        let ticket = Ticket::new(vec![address], self.coordinator().pin(), TicketSeed::generate())?;
        let role = if node.starts_with('s') { Role::Server } else { Role::Agent };
        let now = Timestamp::now();
        let record = TicketRecord {
            node: name(node),
            generation,
            role,
            not_before: now,
            expires: now + SignedDuration::from_hours(1),
            hints: Hints::default(),
            confirm_console: false,
        };
        self.coordinator().mint(ticket.public_key(), record).await?;
        self.say("mint", By::Library).await?;
        Ok(ticket)
    }

    async fn enrol(&mut self, node: &str, ticket: &Ticket) -> Result<Machine> {
        let identity = Identity::generate()?;
        let machine = self.machine(&identity);
        machine.enrol(ticket).await.map_err(|error| anyhow::anyhow!("{error:?}"))?;
        self.burnt.push((ticket.to_text().to_string(), machine.key));
        let ratchet = machine.ratchet.lock().await.clone();
        self.nodes.insert(node.to_owned(), Node { identity, next: None, ratchet });
        self.say("enrol", By::Network).await?;
        Ok(machine)
    }

    async fn join(&mut self, node: &str, generation: u32) -> Result<Machine> {
        let ticket = self.mint(node, generation).await?;
        let machine = self.enrol(node, &ticket).await?;
        *machine.ratchet.lock().await = self.nodes[node].ratchet.clone();
        machine.open().await.map_err(|error| anyhow::anyhow!("{error:?}"))?;
        self.gone_on(node, &machine).await;
        self.say("open", By::Network).await?;
        *machine.ratchet.lock().await = self.nodes[node].ratchet.clone();
        Ok(machine)
    }

    /// A node's machine has opened connections of its own accord.
    async fn gone_on(&mut self, node: &str, machine: &Machine) {
        if let Some(kept) = self.nodes.get_mut(node) {
            kept.ratchet = machine.ratchet.lock().await.clone();
        }
    }

    /// A node opens a connection, with what it has on its disk.
    async fn open(&mut self, node: &str) -> Result<()> {
        let machine = self.machine(&self.nodes.get(node).context("it is bound")?.identity);
        *machine.ratchet.lock().await = self.nodes[node].ratchet.clone();
        machine.open().await.map_err(|error| anyhow::anyhow!("{error:?}"))?;
        self.gone_on(node, &machine).await;
        self.say("open", By::Network).await
    }

    /// Says that something was answered, and what is to be seen since.
    async fn say(&mut self, done: &str, by: By) -> Result<()> {
        let (events, status) = view(self.coordinator()).await?;
        // What a node sends next is on its disk before it is sent.
        let kept = |node: &mut Node| Kept {
            key: node.identity.to_pem().expose().to_owned(),
            next_key: node.next.as_ref().map(|next| next.to_pem().expose().to_owned()),
            turn: node.ratchet.turn(),
            seen: node.ratchet.seen,
        };
        let nodes = self.nodes.iter_mut().map(|(name, node)| (name.clone(), kept(node))).collect();
        let (done, state, burnt) = (done.to_owned(), self.state.clone(), self.burnt.clone());
        let line = serde_json::to_string(&View { done, state, events, status, burnt, nodes })?;
        match by {
            By::Network => crash::say_answered(&line),
            By::Library => crash::say(&line),
        }
        Ok(())
    }
}
