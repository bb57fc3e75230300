//! What an edited cluster file may do to a live incarnation. k3s picks its
//! datastore, addresses and options at its first start, so much of a node is
//! settled once it has a ticket; the rest may change.

use std::collections::BTreeSet;

use kiln_protocol::{ApiError, ErrorClass, NodeName};

use super::{ClusterFile, PlannedNode};

/// What changes from `old` to `new`, in words; nothing when nothing does.
/// `settled` are the nodes that have a ticket or a key.
///
/// # Errors
/// The first change that a live cluster cannot follow.
pub(crate) fn check(
    old: &ClusterFile,
    new: &ClusterFile,
    settled: &BTreeSet<NodeName>,
) -> Result<Vec<String>, ApiError> {
    if old.name != new.name {
        return Err(refused(
            format!("the file is of cluster {}, this coordinator has {}", new.name, old.name),
            "one state directory keeps one cluster: use another --state for this one",
        ));
    }
    let mut changes = Vec::new();
    // While no node was promised anything, anything may change.
    if !settled.is_empty() {
        check_cluster(old, new)?;
    }
    note(&mut changes, "k3s", &old.k3s, &new.k3s);
    note(&mut changes, "image", &old.image, &new.image);
    note(&mut changes, "provider", &old.provider, &new.provider);
    for node in &new.nodes {
        match old.node(&node.name) {
            None => changes.push(format!("{} {} is new", node.role, node.name)),
            Some(before) => {
                if settled.contains(&node.name) {
                    check_node(before, node)?;
                }
                note_node(&mut changes, before, node);
            }
        }
    }
    for node in &old.nodes {
        if new.node(&node.name).is_none() {
            let what =
                if settled.contains(&node.name) { "leaves; revoke it when it is gone" } else { "leaves" };
            changes.push(format!("{} {} {what}", node.role, node.name));
        }
    }
    if changes.is_empty() && old.nodes != new.nodes {
        changes.push("the nodes' order".to_owned());
    }
    Ok(changes)
}

fn check_cluster(old: &ClusterFile, new: &ClusterFile) -> Result<(), ApiError> {
    const ANEW: &str = "it takes effect in a new incarnation only: builder down, then builder up";
    let fixed = |what: &str, before: &dyn std::fmt::Display, after: &dyn std::fmt::Display| {
        refused(format!("{what} cannot change from {before} to {after} while the cluster is up"), ANEW)
    };
    if old.k3s != new.k3s {
        return Err(fixed("k3s", &old.k3s, &new.k3s));
    }
    if old.provider != new.provider {
        return Err(fixed("provider", &old.provider, &new.provider));
    }
    if old.network != new.network {
        let text = |network: Option<ipnet::IpNet>| network.map_or("none".to_owned(), |n| n.to_string());
        return Err(fixed("network", &text(old.network), &text(new.network)));
    }
    if old.first_server().name != new.first_server().name {
        return Err(fixed("the first server", &old.first_server().name, &new.first_server().name));
    }
    if old.is_multi_server() != new.is_multi_server() {
        return Err(refused(
            "one server keeps its data in SQLite, several in etcd: that cannot change while the cluster is up"
                .to_owned(),
            ANEW,
        ));
    }
    if (old.traefik, &old.disable, &old.tls_san) != (new.traefik, &new.disable, &new.tls_san) {
        return Err(refused(
            "traefik, disable and tls_san cannot change while the cluster is up: servers must agree on them"
                .to_owned(),
            ANEW,
        ));
    }
    Ok(())
}

fn check_node(old: &PlannedNode, new: &PlannedNode) -> Result<(), ApiError> {
    const INSTEAD: &str = "give the new machine another name, or begin anew: builder down, then builder up; \
                           an address that was given out is kept by writing it into the file";
    let name = &new.name;
    if old.role != new.role {
        let message = format!("node {name} is a {} and cannot become a {}", old.role, new.role);
        return Err(refused(message, INSTEAD));
    }
    let network = |node: &PlannedNode| (node.address, node.mac, node.external_address);
    if network(old) != network(new) {
        let text = |node: &PlannedNode| {
            let address = node.address.map_or("DHCP".to_owned(), |address| address.to_string());
            format!("{address} on {}", node.mac)
        };
        let message = format!(
            "node {name} has {} and cannot move to {}: k3s keeps a node's address",
            text(old),
            text(new)
        );
        return Err(refused(message, INSTEAD));
    }
    Ok(())
}

fn note_node(changes: &mut Vec<String>, old: &PlannedNode, new: &PlannedNode) {
    let name = &new.name;
    note(changes, &format!("{name}: role"), &old.role, &new.role);
    note(changes, &format!("{name}: cores"), &old.cores, &new.cores);
    note(changes, &format!("{name}: memory"), &old.memory, &new.memory);
    note(changes, &format!("{name}: disk"), &old.disk, &new.disk);
    let rest = |node: &PlannedNode| {
        (node.address, node.mac, node.gateway, node.nameservers.clone(), node.external_address)
    };
    if rest(old) != rest(new) {
        changes.push(format!("{name}: network"));
    }
    if old.users != new.users {
        changes.push(format!("{name}: users"));
    }
}

fn note(changes: &mut Vec<String>, what: &str, old: &impl ToString, new: &impl ToString) {
    let (old, new) = (old.to_string(), new.to_string());
    if old != new {
        changes.push(format!("{what}: {old} becomes {new}"));
    }
}

fn refused(message: String, hint: &str) -> ApiError {
    ApiError::new(ErrorClass::Policy, message).hint(hint)
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
