//! The cluster file: what a cluster is to be. It holds no secret and lives in
//! git; whoever holds a [`ClusterFile`] holds a valid one.
//!
//! | file | what it holds |
//! |---|---|
//! | `file` | TOML as it is written, with the place of each value |
//! | `check` | from there to a valid plan: the rules between values |
//! | [`placeholder`] | what nobody filled in |
//! | `units` | sizes and image names |
//! | `derive` | what one node of the plan is told to become |
//! | `change` | what an edit of the file may do to a live cluster |

pub(crate) mod change;
mod check;
mod derive;
mod file;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod placeholder;
mod units;

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use kiln_protocol::names::{K3sComponent, K3sVersion, MacAddr, SubjectAltName};
use kiln_protocol::seed::{SshUser, StaticAddress};
use kiln_protocol::ticket::Address;
use kiln_protocol::{ClusterName, NodeName, Role};
use serde::Deserialize;

pub(crate) use derive::{Subject, derive};
pub use units::{ByteSize, ImageVersion};

/// The port of the Kubernetes API server, and of k3s's own supervisor.
pub const API_PORT: u16 = 6443;

/// A cluster file that is not valid, with the place of the fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct PlanError {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What is wrong and, where it is known, what would be right.
    pub message: String,
}

/// Where nodes live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// Virtual machines on this host.
    Qemu,
    /// A Proxmox VE cluster.
    Proxmox,
    /// Hetzner Cloud.
    Hetzner,
}

impl ProviderKind {
    /// The word in the cluster file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Proxmox => "proxmox",
            Self::Hetzner => "hetzner",
        }
    }
}

impl std::fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A valid cluster file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterFile {
    text: String,
    name: ClusterName,
    k3s: K3sVersion,
    image: ImageVersion,
    provider: ProviderKind,
    network: Option<IpNet>,
    traefik: bool,
    disable: Vec<K3sComponent>,
    tls_san: Vec<SubjectAltName>,
    nodes: Vec<PlannedNode>,
    /// Where each node is among them, and where the servers are: asked on
    /// every request, however many nodes there are.
    places: HashMap<NodeName, usize>,
    servers: Vec<usize>,
}

/// One node of a cluster file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedNode {
    /// Its name, and its host name.
    pub name: NodeName,
    /// What it is in its cluster.
    pub role: Role,
    /// Processors.
    pub cores: u16,
    /// Memory.
    pub memory: ByteSize,
    /// Size of its one disk.
    pub disk: ByteSize,
    /// Its cluster address, from the file or allocated from the private
    /// network; none means DHCP.
    pub address: Option<IpNet>,
    /// The card that carries the cluster address: from the file, or derived
    /// from the names of cluster and node, so that provider and configuration
    /// agree.
    pub mac: MacAddr,
    /// The default route's next hop; none on a card that has no way out.
    pub gateway: Option<IpAddr>,
    /// Name servers, in order.
    pub nameservers: Vec<IpAddr>,
    /// An address from outside, where it differs.
    pub external_address: Option<IpAddr>,
    /// Logins: the cluster's, then the node's own.
    pub users: Vec<SshUser>,
}

impl PlannedNode {
    /// Address, gateway and name servers of its card, unless it has DHCP.
    pub fn static_address(&self) -> Option<StaticAddress> {
        self.address.map(|address| StaticAddress {
            mac: Some(self.mac),
            address,
            gateway: self.gateway,
            nameservers: self.nameservers.clone(),
        })
    }
}

impl ClusterFile {
    /// Reads a cluster file's text.
    ///
    /// # Errors
    /// The first fault, with its line and column.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        check::check(text)
    }

    /// The text it was read from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The cluster's name.
    pub fn name(&self) -> &ClusterName {
        &self.name
    }

    /// The k3s release every node runs.
    pub fn k3s(&self) -> &K3sVersion {
        &self.k3s
    }

    /// The golden image nodes are made from.
    pub fn image(&self) -> &ImageVersion {
        &self.image
    }

    /// Where nodes live.
    pub fn provider(&self) -> ProviderKind {
        self.provider
    }

    /// The private network that nodes share, where the provider makes one.
    pub fn network(&self) -> Option<IpNet> {
        self.network
    }

    /// The nodes, in the file's order.
    pub fn nodes(&self) -> &[PlannedNode] {
        &self.nodes
    }

    /// The node of this name.
    pub fn node(&self, name: &NodeName) -> Option<&PlannedNode> {
        self.places.get(name).map(|place| &self.nodes[*place])
    }

    /// The servers, in the file's order; there is at least one.
    pub fn servers(&self) -> impl Iterator<Item = &PlannedNode> {
        self.servers.iter().map(|place| &self.nodes[*place])
    }

    /// The server that starts the cluster: the file's first.
    pub fn first_server(&self) -> &PlannedNode {
        self.servers().next().expect("a valid plan has a server")
    }

    /// Whether there are several servers, so that the datastore is etcd.
    pub fn is_multi_server(&self) -> bool {
        self.servers.len() > 1
    }

    /// Where other nodes reach the first server.
    pub fn first_server_address(&self) -> Address {
        server_address(self.first_server())
    }
}

/// Where other nodes reach a server.
fn server_address(server: &PlannedNode) -> Address {
    let address = server.address.expect("a server of a valid plan has an address").addr();
    Address::new(address.to_string().parse().expect("an IP address is a host"), API_PORT)
}
