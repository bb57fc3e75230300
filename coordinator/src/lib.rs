//! The coordinator: it vouches for nodes' keys, tells nodes what to become,
//! keeps a cluster's secrets and knows how far everyone is.
//!
//! [`Coordinator`] is the whole of it: a program opens one on a state
//! directory, and either serves it or calls it in-process (`builder up`).

pub mod k3s;
pub mod plan;
mod registry;
mod server;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use kiln_protocol::admin::{ClusterStatus, TicketRecord};
use kiln_protocol::config::Incarnation;
use kiln_protocol::{Fingerprint, NodeName, Secret, TicketKey};
use plan::ClusterFile;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use server::Server;

/// One cluster's coordinator, on one state directory. Clones are handles to
/// the same one.
#[derive(Debug, Clone)]
pub struct Coordinator {
    pin: Fingerprint,
    changes: watch::Sender<u64>,
}

impl Coordinator {
    /// Makes a state directory (0700): the coordinator's key, an admin's key and an
    /// empty registry. An error if there is one already.
    pub fn init(_dir: &Path) -> Result<()> {
        anyhow::bail!("the state cannot be made yet")
    }

    /// Opens a state directory. An error if another process has it open, if
    /// others may read it, or if a newer Kiln wrote it.
    pub async fn open(_dir: &Path) -> Result<Self> {
        anyhow::bail!("the state cannot be opened yet")
    }

    /// The coordinator's key, which tickets pin.
    pub fn pin(&self) -> Fingerprint {
        self.pin
    }

    /// Answers nodes and admins on `listener` until the [`Server`] is shut down.
    pub async fn serve(&self, _listener: TcpListener) -> Result<Server> {
        anyhow::bail!("not served yet")
    }

    /// Makes `cluster` the file in force: begins an incarnation (CA set, tokens, node
    /// passwords) when none is live, else updates the live one. Idempotent.
    pub async fn apply(&self, _cluster: &ClusterFile) -> Result<Incarnation> {
        anyhow::bail!("not applied yet")
    }

    /// Registers a ticket's public key. Idempotent. The node must be in the
    /// cluster file in force, with the same role.
    pub async fn mint(&self, _ticket: TicketKey, _record: TicketRecord) -> Result<()> {
        anyhow::bail!("not minted yet")
    }

    /// The generation to mint a node's next ticket for: one more than the
    /// newest there ever was, across incarnations.
    pub async fn next_generation(&self, _node: &NodeName) -> Result<u32> {
        anyhow::bail!("not counted yet")
    }

    /// What an operator sees.
    pub async fn status(&self) -> Result<ClusterStatus> {
        anyhow::bail!("no status yet")
    }

    /// A number that grows whenever the status may have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A kubeconfig for an administrator, signed with the live incarnation's
    /// client CA; no node is contacted. `server_url` is `https://HOST:PORT`.
    pub async fn kubeconfig(&self, _server_url: &str, _lifetime: Duration) -> Result<Secret> {
        anyhow::bail!("no kubeconfig yet")
    }

    /// Ends the live incarnation: its nodes' keys lose every right, its leases and
    /// tokens are over. Idempotent.
    pub async fn end(&self) -> Result<()> {
        anyhow::bail!("not ended yet")
    }
}
