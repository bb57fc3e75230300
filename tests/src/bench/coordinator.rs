//! A coordinator with a cluster, and its admin.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use kiln_protocol::admin::{self, ApproveRequest, Hints, MintRequest, TicketRecord};
use kiln_protocol::ticket::TicketSeed;
use kiln_protocol::{Fingerprint, Identity, NodeName, Role, Ticket};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::agent::{Agent, Line};
use super::process::{Cores, Tested};

/// How long it may take to begin.
const BEGIN: Duration = Duration::from_secs(120);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(50);
/// Connections over which nodes are registered.
const ADMINS: usize = 8;

/// Where coordinators are made.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) program: PathBuf,
    pub(super) dir: PathBuf,
    pub(super) cores: Cores,
}

/// A coordinator in a process of its own, its state on a disk.
#[derive(Debug)]
pub(super) struct Coordinator {
    pub(super) process: Tested,
    pub(super) address: SocketAddr,
    status: SocketAddr,
    pub(super) pin: Fingerprint,
    dir: tempfile::TempDir,
}

/// What `serve` leaves in its state directory.
#[derive(Debug, Deserialize)]
struct Endpoint {
    address: SocketAddr,
    status: SocketAddr,
}

impl Site {
    /// With a server and so many agents in its cluster file.
    pub(super) async fn coordinator(&self, agents: usize) -> Result<Coordinator> {
        let at = || format!("making a state in {}", self.dir.display());
        let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(&self.dir).with_context(at)?;
        let state = dir.path().join("state");
        let init = Command::new(&self.program).args(["init", "--state"]).arg(&state).output();
        let init = init.with_context(|| format!("starting {}", self.program.display()))?;
        ensure!(init.status.success(), "init failed: {}", String::from_utf8_lossy(&init.stderr));
        let pin = String::from_utf8_lossy(&init.stdout).trim().parse().context("init printed no pin")?;
        fs::write(dir.path().join("cluster.toml"), cluster_file(agents))?;
        let coordinator = self.serve(dir, pin).await?;
        let mut add = Command::new(&self.program);
        add.args(["admin", "add", "bench", "--make"]).arg(coordinator.admin_key()).arg("--state").arg(&state);
        let added = add.output().with_context(|| format!("starting {}", self.program.display()))?;
        ensure!(added.status.success(), "no admin was added: {}", String::from_utf8_lossy(&added.stderr));
        Ok(coordinator)
    }

    /// The same one, in a new process.
    pub(super) async fn restarted(&self, coordinator: Coordinator) -> Result<Coordinator> {
        let Coordinator { process, dir, pin, .. } = coordinator;
        drop(process);
        self.serve(dir, pin).await
    }

    async fn serve(&self, dir: tempfile::TempDir, pin: Fingerprint) -> Result<Coordinator> {
        let (state, log) = (dir.path().join("state"), dir.path().join("log"));
        let mut command = Command::new(&self.program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--status-listen", "127.0.0.1:0", "--state"]);
        command.arg(&state).arg("--cluster").arg(dir.path().join("cluster.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        // What a developer may have set would make every refusal look at its stack.
        command.env_remove("RUST_BACKTRACE");
        let mut process = Tested::start(command, &self.cores)?;
        let deadline = Instant::now() + BEGIN;
        let endpoint = loop {
            let text = fs::read(state.join("endpoint.json")).unwrap_or_default();
            if let Ok(endpoint) = serde_json::from_slice::<Endpoint>(&text) {
                break endpoint;
            }
            if process.child().try_wait()?.is_some() || Instant::now() > deadline {
                bail!("the coordinator does not serve: {}", fs::read_to_string(&log)?);
            }
            tokio::time::sleep(LOOK).await;
        };
        Ok(Coordinator { process, address: endpoint.address, status: endpoint.status, pin, dir })
    }
}

impl Coordinator {
    async fn admins(&self) -> Result<Vec<Line>> {
        let key = fs::read_to_string(self.admin_key()).context("reading the admin's key")?;
        let admin = Agent::new(&Identity::from_pem(&key)?, self.pin, 0)?;
        let mut lines = Vec::new();
        for _ in 0..ADMINS {
            lines.push(admin.connect(self.address).await?);
        }
        Ok(lines)
    }

    fn admin_key(&self) -> PathBuf {
        self.dir.path().join("admin.key")
    }

    /// Tickets for these nodes.
    pub(super) async fn tickets(&self, nodes: impl Iterator<Item = usize>) -> Result<Vec<Ticket>> {
        let (from, hour) = (Timestamp::now(), SignedDuration::from_hours(1));
        let mut made = Vec::new();
        let mut requests = Vec::new();
        for node in nodes {
            let ticket =
                Ticket::new(vec![self.address.to_string().parse()?], self.pin, TicketSeed::generate())?;
            let record = TicketRecord {
                node: name(node),
                generation: 1,
                role: Role::Agent,
                not_before: from,
                expires: from + hour,
                confirm_console: false,
                hints: Hints::default(),
            };
            requests.push(serde_json::to_vec(&MintRequest { ticket: ticket.public_key(), record })?);
            made.push(ticket);
        }
        self.administer(admin::MINT, requests).await?;
        Ok(made)
    }

    /// Binds these keys to these nodes, as an operator does.
    pub(super) async fn approve(&self, nodes: impl Iterator<Item = (usize, Fingerprint)>) -> Result<()> {
        let requests = nodes.map(|(node, key)| {
            let fingerprint = key.to_string().parse()?;
            Ok(serde_json::to_vec(&ApproveRequest { node: name(node), fingerprint })?)
        });
        let requests = requests.collect::<Result<Vec<_>>>()?;
        self.administer(admin::APPROVE, requests).await
    }

    /// Asks all this, over several connections at once.
    async fn administer(&self, path: &'static str, requests: Vec<Vec<u8>>) -> Result<()> {
        let mut lines = self.admins().await?;
        let share = requests.len().div_ceil(lines.len()).max(1);
        let mut requests = requests.into_iter();
        let mut asking = tokio::task::JoinSet::new();
        for mut line in lines.drain(..) {
            let part: Vec<_> = requests.by_ref().take(share).collect();
            asking.spawn(async move {
                for body in part {
                    line.ask(hyper::Method::POST, path, Some(body), &[]).await?;
                }
                Ok::<_, anyhow::Error>(())
            });
        }
        while let Some(asked) = asking.join_next().await {
            asked.context("an admin panicked")??;
        }
        Ok(())
    }

    /// How many questions it holds open, by its own metrics.
    pub(super) async fn held_open(&self) -> Result<usize> {
        let mut stream = TcpStream::connect(self.status).await.context("asking for metrics")?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let line = text.lines().find_map(|line| line.strip_prefix("kiln_requests_held_open "));
        line.and_then(|count| count.parse().ok()).context("the metrics do not say how many are held open")
    }
}

/// What the agent of this number is called.
fn name(number: usize) -> NodeName {
    format!("n{number}").parse().expect("a letter and digits are a name")
}

/// On a provider that gives out no addresses, which the cluster's default
/// network would not have enough of.
fn cluster_file(agents: usize) -> String {
    let mut text = "[cluster]\nname = \"bench\"\nk3s = \"v1.28.5+k3s1\"\n\
                    image = \"alma9-k3-node-amd64-v1.28.5-v1\"\nprovider = \"proxmox\"\n"
        .to_owned();
    let size = "cores = 1\nmemory = \"1GiB\"\ndisk = \"8GiB\"";
    let _ = writeln!(text, "[[node]]\nname = \"s1\"\nrole = \"server\"\naddress = \"10.0.0.9/8\"\n{size}");
    for number in 0..agents {
        let [_, a, b, c] = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
        let _ = writeln!(
            text,
            "[[node]]\nname = \"{}\"\nrole = \"agent\"\nmac = \"52:54:01:{a:02x}:{b:02x}:{c:02x}\"\n{size}",
            name(number)
        );
    }
    text
}
