//! What an edited cluster file may do to a live incarnation. k3s picks its
//! datastore, addresses and options at its first start, so much of a node is
//! settled once it has a ticket; the rest may change.
//!
//! Each change is said with what it does: an operator reads it before it is
//! put in force.

use std::collections::BTreeSet;

use kiln_protocol::seed::SshUser;
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
    // These three only change before any node has begun.
    note(&mut changes, "k3s", &old.k3s, &new.k3s, "for every node");
    note(&mut changes, "provider", &old.provider, &new.provider, "for every node");
    note(&mut changes, "network", &shown(old.network), &shown(new.network), "for every node");
    if (old.traefik, &old.disable, &old.tls_san) != (new.traefik, &new.disable, &new.tls_san) {
        changes.push("traefik, disable or tls_san (for every server)".to_owned());
    }
    note(&mut changes, "image", &old.image, &new.image, LATER);
    for node in &new.nodes {
        match old.node(&node.name) {
            None => {
                changes.push(format!("{} {} is new: it needs a machine and a ticket", node.role, node.name));
            }
            Some(before) => {
                if settled.contains(&node.name) {
                    check_node(before, node)?;
                }
                note_node(&mut changes, before, node, settled.contains(&node.name));
            }
        }
    }
    for node in &old.nodes {
        if new.node(&node.name).is_none() {
            let what =
                if settled.contains(&node.name) { "leaves: revoke it when it is gone" } else { "leaves" };
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
        return Err(fixed("network", &shown(old.network), &shown(new.network)));
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

/// What concerns machines, and no running one.
const LATER: &str = "for machines made from now on";

fn note_node(changes: &mut Vec<String>, old: &PlannedNode, new: &PlannedNode, settled: bool) {
    let name = &new.name;
    let now = if settled { "its agent applies it while it runs" } else { "when it joins" };
    let mut note = |what: &str, old: &dyn ToString, new: &dyn ToString, effect: &str| {
        note(changes, &format!("{name}: {what}"), old, new, effect);
    };
    note("role", &old.role, &new.role, now);
    note("cores", &old.cores, &new.cores, LATER);
    note("memory", &old.memory, &new.memory, LATER);
    note("disk", &old.disk, &new.disk, LATER);
    note("address", &shown(old.address), &shown(new.address), now);
    note("mac", &old.mac, &new.mac, LATER);
    note("external_address", &shown(old.external_address), &shown(new.external_address), now);
    note("gateway", &shown(old.gateway), &shown(new.gateway), now);
    note("nameservers", &listed(&old.nameservers), &listed(&new.nameservers), now);
    changes.extend(users(old, new).into_iter().map(|what| format!("{name}: {what} ({now})")));
}

/// What changes for whom, in the words of who may log in.
fn users(old: &PlannedNode, new: &PlannedNode) -> Vec<String> {
    let mut changes = Vec::new();
    for user in &new.users {
        let Some(before) = old.users.iter().find(|before| before.name == user.name) else {
            changes.push(format!("user {} is new, with {}", user.name, keys(user.authorized_keys.len())));
            continue;
        };
        let lacks = |of: &SshUser, than: &SshUser| {
            than.authorized_keys.iter().filter(|key| !of.authorized_keys.contains(key)).count()
        };
        match (lacks(before, user), lacks(user, before)) {
            (0, 0) => {}
            (more, 0) => changes.push(format!("user {} gains {}", user.name, keys(more))),
            (0, less) => changes.push(format!("user {} loses {}", user.name, keys(less))),
            (more, less) => {
                changes.push(format!("user {} gains {} and loses {}", user.name, keys(more), keys(less)));
            }
        }
    }
    for gone in old.users.iter().filter(|gone| !new.users.iter().any(|user| user.name == gone.name)) {
        changes.push(format!("user {} leaves: the account stays, its keys from this file go", gone.name));
    }
    changes
}

fn keys(count: usize) -> String {
    if count == 1 { "1 key".to_owned() } else { format!("{count} keys") }
}

fn shown(value: Option<impl ToString>) -> String {
    value.map_or("none".to_owned(), |value| value.to_string())
}

fn listed(values: &[std::net::IpAddr]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    if values.is_empty() { "none".to_owned() } else { values.join(" ") }
}

fn note(changes: &mut Vec<String>, what: &str, old: &dyn ToString, new: &dyn ToString, effect: &str) {
    let (old, new) = (old.to_string(), new.to_string());
    if old != new {
        changes.push(format!("{what}: {old} becomes {new} ({effect})"));
    }
}

fn refused(message: String, hint: &str) -> ApiError {
    ApiError::new(ErrorClass::Policy, message).hint(hint)
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
