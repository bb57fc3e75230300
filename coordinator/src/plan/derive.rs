//! What one node of a plan is told to become.

use anyhow::Result;
use kiln_protocol::Role;
use kiln_protocol::config::{K3sConfig, Membership, NodeConfig, Snapshot};
use kiln_protocol::names::{K3sComponent, SubjectAltName};
use kiln_protocol::ticket::Address;

use super::{ClusterFile, PlannedNode, server_address};
use crate::k3s::ClusterSecrets;
use crate::registry::gate::{Cluster, Member, Part};

/// Whose configuration is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// As the plan knows it.
    pub(crate) node: &'a PlannedNode,
    /// As the gate knows it.
    pub(crate) member: &'a Member,
    /// As what the gate lets it in.
    pub(crate) part: Part,
    /// Its seat's number.
    pub(crate) seat: i64,
    /// The datastore it begins with, if it starts one.
    pub(crate) restore: Option<Snapshot>,
    /// How often the server token has been rotated.
    pub(crate) token_serial: u64,
}

/// The configuration of one node.
pub(crate) fn derive(
    plan: &ClusterFile,
    secrets: &ClusterSecrets,
    cluster: &Cluster,
    subject: &Subject<'_>,
) -> Result<NodeConfig> {
    let Subject { node, member, part, seat, restore, token_serial } = *subject;
    let server = || join_address(plan, node, cluster);
    let membership = match part {
        Part::First { cluster_init } => Membership::FirstServer {
            cluster_init,
            token: secrets.server_token()?,
            agent_token: secrets.agent_password().clone(),
            ca: Box::new(secrets.ca().clone()),
            restore,
        },
        Part::Joining => Membership::JoiningServer {
            server: server(),
            token: secrets.server_token()?,
            agent_token: secrets.agent_password().clone(),
        },
        Part::Agent => {
            let token = secrets.full_join_token(&secrets.join_token(seat, &node.name)?)?;
            Membership::Agent { server: server(), token }
        }
    };
    let is_server = node.role == Role::Server;
    Ok(NodeConfig {
        cluster: plan.name.clone(),
        incarnation: cluster.incarnation,
        node: node.name.clone(),
        generation: member.generation,
        network: node.static_address().into_iter().collect(),
        users: node.users.clone(),
        k3s: K3sConfig {
            version: plan.k3s.clone(),
            node_ip: node.address.map(|address| address.addr()),
            node_external_ip: node.external_address,
            tls_san: if is_server { names_of_the_api(plan) } else { Vec::new() },
            disable: if is_server { disabled(plan) } else { Vec::new() },
            node_password: secrets.node_password(&node.name),
            token_serial,
            membership,
        },
        rotate: false,
    })
}

/// A server that `node` can join: a ready one, the file's first above others;
/// while none is ready, the one that will start the cluster.
fn join_address(plan: &ClusterFile, node: &PlannedNode, cluster: &Cluster) -> Address {
    let others = || plan.servers().filter(|server| server.name != node.name);
    let ready = others().find(|server| cluster.is_ready_server(&server.name));
    let starter = || others().find(|server| server.name == cluster.lease.node);
    let chosen = ready.or_else(starter).or_else(|| others().next());
    server_address(chosen.unwrap_or(plan.first_server()))
}

/// Everything a kubeconfig may be pointed at: every server's addresses, so
/// that all servers have the same certificate, and the file's own names. k3s
/// adds `127.0.0.1` and `localhost` itself, and since 1.28 nothing that a
/// client merely asks for.
fn names_of_the_api(plan: &ClusterFile) -> Vec<SubjectAltName> {
    let mut names = Vec::new();
    let addresses = plan.servers().flat_map(|server| {
        let inside = server.address.map(|address| address.addr());
        inside.into_iter().chain(server.external_address)
    });
    let addresses = addresses.map(|ip| ip.to_string().parse().expect("an IP address is a name"));
    for name in addresses.chain(plan.tls_san.iter().cloned()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn disabled(plan: &ClusterFile) -> Vec<K3sComponent> {
    let mut components = plan.disable.clone();
    let traefik: K3sComponent = "traefik".parse().expect("the constant is a component's name");
    if !plan.traefik && !components.contains(&traefik) {
        components.insert(0, traefik);
    }
    components
}

#[cfg(test)]
#[path = "derive_tests.rs"]
mod tests;
