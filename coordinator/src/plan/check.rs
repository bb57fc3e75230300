//! From the file as it is written to a valid plan: the rules between values.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;
use kiln_protocol::names::MacAddr;
use kiln_protocol::seed::{SshUser, StaticAddress};
use kiln_protocol::{ClusterName, NodeName, Role};
use sha2::{Digest, Sha256};
use toml::Spanned;

use super::file::{RawCluster, RawFile, RawNode};
use super::{ByteSize, ClusterFile, PlanError, PlannedNode, ProviderKind};

/// Longer names do not fit where providers keep them as `<cluster>-<node>`.
const MAX_JOINED_NAME: usize = 63;
/// k3s does not start in less.
const MIN_MEMORY: ByteSize = ByteSize::mib(256);
/// No image is smaller.
const MIN_DISK: ByteSize = ByteSize::mib(1024);
/// The network that QEMU nodes share unless the file names one.
const QEMU_NETWORK: &str = "10.77.0.0/24";
/// Allocation begins here, so that low addresses stay free for gateways.
const FIRST_ALLOCATED: usize = 10;

/// A fault and the bytes of the text it is about.
struct Fault {
    at: Range<usize>,
    message: String,
}

impl Fault {
    fn at<T>(place: &Spanned<T>, message: impl Into<String>) -> Self {
        Self { at: place.span(), message: message.into() }
    }

    fn locate(self, text: &str) -> PlanError {
        let mut end = self.at.start.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &text[..end];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        PlanError { line, column, message: self.message }
    }
}

pub(super) fn check(text: &str) -> Result<ClusterFile, PlanError> {
    if let Some((line, word)) = super::placeholder::find(text) {
        let message = format!("{word} is left to be filled in");
        return Err(PlanError { line, column: 1, message });
    }
    let raw: RawFile = toml::from_str(text).map_err(|error: toml::de::Error| {
        Fault { at: error.span().unwrap_or(0..0), message: error.message().to_owned() }.locate(text)
    })?;
    build(text, raw).map_err(|fault| fault.locate(text))
}

fn build(text: &str, raw: RawFile) -> Result<ClusterFile, Fault> {
    let RawFile { cluster, node: nodes } = raw;
    check_image(&cluster)?;
    check_servers(&cluster, &nodes)?;
    check_names(&cluster.name, &nodes)?;
    nodes.iter().try_for_each(check_sizes)?;
    let network = find_network(&cluster, &nodes)?;
    // Addresses are given out in a network that is made for the cluster, never
    // in one that others use too.
    let made = match cluster.provider {
        ProviderKind::Qemu => network,
        ProviderKind::Hetzner => network.filter(|_| cluster.network.is_some()),
        ProviderKind::Proxmox => None,
    };
    let addresses = assign_addresses(network, made, &nodes)?;
    let macs = assign_macs(cluster.name.get_ref(), &nodes)?;

    let planned = nodes
        .into_iter()
        .zip(addresses.into_iter().zip(macs))
        .map(|(node, (address, mac))| plan_node(&cluster.users, node, address, mac))
        .collect::<Result<Vec<_>, _>>()?;
    let places = planned.iter().enumerate().map(|(place, node)| (node.name.clone(), place)).collect();
    let is_server = |place: &usize| planned[*place].role == Role::Server;
    let servers = (0..planned.len()).filter(is_server).collect();
    let RawCluster { name, k3s, image, provider, traefik, disable, tls_san, .. } = cluster;
    Ok(ClusterFile {
        text: text.to_owned(),
        name: name.into_inner(),
        k3s,
        image: image.into_inner(),
        provider,
        network: made,
        traefik,
        disable,
        tls_san,
        nodes: planned,
        places,
        servers,
    })
}

fn plan_node(
    everywhere: &[SshUser],
    node: RawNode,
    address: Option<IpNet>,
    mac: MacAddr,
) -> Result<PlannedNode, Fault> {
    let mut users = everywhere.to_vec();
    if let Some(own) = &node.users {
        let names: BTreeSet<_> = own.get_ref().iter().map(|user| &user.name).collect();
        if names.len() < own.get_ref().len() {
            return Err(Fault::at(own, format!("node {}: a user is named twice", node.name.get_ref())));
        }
        // A node's own entry for a user replaces the cluster's.
        users.retain(|user| !names.contains(&user.name));
        users.extend(own.get_ref().iter().cloned());
    }
    let planned = PlannedNode {
        name: node.name.get_ref().clone(),
        role: node.role.into_inner(),
        cores: node.cores.into_inner(),
        memory: node.memory.into_inner(),
        disk: node.disk.into_inner(),
        address,
        mac,
        gateway: node.gateway.as_ref().map(|gateway| *gateway.get_ref()),
        nameservers: node.nameservers,
        external_address: node.external_address,
        users,
    };
    match (&planned.static_address(), &node.gateway) {
        (None, Some(gateway)) => Err(Fault::at(
            gateway,
            format!("node {}: a gateway without an address: DHCP gives both or none", planned.name),
        )),
        (Some(address), _) => {
            let place = node.gateway.as_ref().map_or(node.name.span(), Spanned::span);
            let at_address = node.address.as_ref().map_or(place.clone(), Spanned::span);
            check_static(address).map_err(|(gateway, message)| Fault {
                at: if gateway { place } else { at_address },
                message: format!("node {}: {message}", planned.name),
            })?;
            Ok(planned)
        }
        (None, None) => Ok(planned),
    }
}

/// A fault of the address alone, or (true) of the gateway with it.
fn check_static(address: &StaticAddress) -> Result<(), (bool, String)> {
    let alone = StaticAddress { gateway: None, ..address.clone() };
    alone.check().map_err(|message| (false, message))?;
    address.check().map_err(|message| (true, message))
}

fn check_image(cluster: &RawCluster) -> Result<(), Fault> {
    let release = cluster.k3s.as_str().split('+').next().unwrap_or_default();
    let image = cluster.image.get_ref();
    if image.k3s_release() == release {
        return Ok(());
    }
    let message =
        format!("the image holds k3s {}, the cluster asks for {}", image.k3s_release(), cluster.k3s);
    Err(Fault::at(&cluster.image, message))
}

fn check_servers(cluster: &RawCluster, nodes: &[RawNode]) -> Result<(), Fault> {
    let servers: Vec<_> = nodes.iter().filter(|node| *node.role.get_ref() == Role::Server).collect();
    match servers[..] {
        [] => Err(Fault::at(&cluster.name, "there is no [[node]] with role = \"server\"")),
        [.., last] if servers.len() % 2 == 0 => Err(Fault::at(
            &last.role,
            format!(
                "{} servers: etcd needs an odd number, an even one survives no more failures than one less",
                servers.len()
            ),
        )),
        _ => Ok(()),
    }
}

fn check_names(cluster: &Spanned<ClusterName>, nodes: &[RawNode]) -> Result<(), Fault> {
    let mut seen = BTreeSet::<&NodeName>::new();
    for node in nodes {
        let name = node.name.get_ref();
        if !seen.insert(name) {
            return Err(Fault::at(&node.name, format!("a second node is named {name}")));
        }
        let joined = cluster.get_ref().as_str().len() + 1 + name.as_str().len();
        if joined > MAX_JOINED_NAME {
            let message = format!(
                "{}-{name} has {joined} characters; providers take {MAX_JOINED_NAME}",
                cluster.get_ref()
            );
            return Err(Fault::at(&node.name, message));
        }
    }
    Ok(())
}

fn check_sizes(node: &RawNode) -> Result<(), Fault> {
    let name = node.name.get_ref();
    if !(1..=512).contains(node.cores.get_ref()) {
        return Err(Fault::at(&node.cores, format!("node {name}: cores must be between 1 and 512")));
    }
    if *node.memory.get_ref() < MIN_MEMORY {
        return Err(Fault::at(&node.memory, format!("node {name}: memory must be at least {MIN_MEMORY}")));
    }
    if *node.disk.get_ref() < MIN_DISK {
        return Err(Fault::at(&node.disk, format!("node {name}: disk must be at least {MIN_DISK}")));
    }
    Ok(())
}

/// The one network all addresses are in, if any is known.
fn find_network(cluster: &RawCluster, nodes: &[RawNode]) -> Result<Option<IpNet>, Fault> {
    let explicit = nodes.iter().find_map(|node| node.address.as_ref()).map(|a| a.get_ref().0.trunc());
    let Some(network) = &cluster.network else {
        let qemu = QEMU_NETWORK.parse().expect("the constant is a network");
        return Ok(explicit.or((cluster.provider == ProviderKind::Qemu).then_some(qemu)));
    };
    let given = network.get_ref().0;
    if given != given.trunc() {
        let message = format!("network {given} has host bits: write {}", given.trunc());
        return Err(Fault::at(network, message));
    }
    if given.max_prefix_len() - given.prefix_len() < 3 {
        return Err(Fault::at(network, format!("network {given} has no room for a cluster")));
    }
    Ok(Some(given))
}

/// Each node's address: the file's, or the next free one of the network that
/// the provider makes.
fn assign_addresses(
    network: Option<IpNet>,
    made: Option<IpNet>,
    nodes: &[RawNode],
) -> Result<Vec<Option<IpNet>>, Fault> {
    let mut taken = BTreeMap::<IpAddr, &NodeName>::new();
    for node in nodes {
        let (Some(address), name) = (&node.address, node.name.get_ref()) else { continue };
        let given = address.get_ref().0;
        if network.is_some_and(|network| network != given.trunc()) {
            let network = network.map(|n| n.to_string()).unwrap_or_default();
            let message = format!("node {name}: {given} is not in the cluster's network {network}");
            return Err(Fault::at(address, message));
        }
        if let Some(other) = taken.insert(given.addr(), name) {
            let message = format!("node {name}: {} is already {other}'s", given.addr());
            return Err(Fault::at(address, message));
        }
    }
    let mut reserved: BTreeSet<IpAddr> = taken.keys().copied().collect();
    for node in nodes {
        let Some(gateway) = &node.gateway else { continue };
        if let Some(owner) = taken.get(gateway.get_ref()) {
            let message = format!("gateway {} is the address of node {owner}", gateway.get_ref());
            return Err(Fault::at(gateway, message));
        }
        reserved.insert(*gateway.get_ref());
    }
    let mut free = made.into_iter().flat_map(|network| {
        let hosts = || network.hosts();
        let ordered = hosts().skip(FIRST_ALLOCATED).chain(hosts().take(FIRST_ALLOCATED));
        ordered.map(move |host| IpNet::new(host, network.prefix_len()).expect("a prefix of its own network"))
    });
    nodes
        .iter()
        .map(|node| {
            if let Some(address) = &node.address {
                return Ok(Some(address.get_ref().0));
            }
            let allocated = free.find(|address| !reserved.contains(&address.addr()));
            let (name, server) = (node.name.get_ref(), *node.role.get_ref() == Role::Server);
            match allocated {
                None if made.is_some() => {
                    Err(Fault::at(&node.name, format!("no address is left for node {name}")))
                }
                None if server => Err(Fault::at(
                    &node.name,
                    format!("server {name} needs an address: other nodes must know where to join"),
                )),
                allocated => Ok(allocated),
            }
        })
        .collect()
}

fn assign_macs(cluster: &ClusterName, nodes: &[RawNode]) -> Result<Vec<MacAddr>, Fault> {
    let mut taken = BTreeMap::<MacAddr, &NodeName>::new();
    nodes
        .iter()
        .map(|node| {
            let name = node.name.get_ref();
            let mac = node.mac.as_ref().map_or_else(|| derived_mac(cluster, name), |mac| *mac.get_ref());
            if let Some(other) = taken.insert(mac, name) {
                let at = node.mac.as_ref().map_or(node.name.span(), Spanned::span);
                let message = format!("node {name}: MAC address {mac} is already {other}'s; set mac");
                return Err(Fault { at, message });
            }
            Ok(mac)
        })
        .collect()
}

/// `52:54:00` (QEMU's range of locally administered addresses) and three bytes
/// of SHA-256 over `cluster/node`.
fn derived_mac(cluster: &ClusterName, node: &NodeName) -> MacAddr {
    let digest = Sha256::digest(format!("{cluster}/{node}"));
    MacAddr::new([0x52, 0x54, 0x00, digest[0], digest[1], digest[2]]).expect("0x52 is unicast")
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
