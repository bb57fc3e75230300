//! Every file k3s must find at its first start.
//!
//! `config.yaml` is JSON, which is YAML. Tokens are in files of their own, so
//! that it holds no secret and may be shown to somebody. It comes last: where
//! it is, everything is, and the k3s units assert that it is there.

use std::net::IpAddr;

use anyhow::Result;
use kiln_protocol::config::{Membership, NodeConfig, Snapshot};
use kiln_protocol::error::ErrorClass;
use kiln_protocol::names::K3sVersion;
use kiln_protocol::ticket::Address;
use kiln_protocol::{ApiError, Role};
use serde_json::{Map, Value, json};

use super::{restore, token};
use crate::retry::Failure;
use crate::root::{Access, Root};

pub(crate) const CONFIG: &str = "/etc/rancher/k3s/config.yaml";
pub(crate) const TOKEN: &str = "/etc/rancher/k3s/token";
const AGENT_TOKEN: &str = "/etc/rancher/k3s/agent-token";
const NODE_PASSWORD: &str = "/etc/rancher/node/password";
/// Where k3s looks for certificate authorities before it makes its own.
const TLS: &str = "/var/lib/rancher/k3s/server/tls";
/// What k3s leaves behind once it has run as a server or as an agent.
const TRACES: [&str; 2] = [restore::DATABASE, KUBECONFIG];
const KUBECONFIG: &str = "/var/lib/rancher/k3s/agent/kubelet.kubeconfig";
/// What it has once it has minted its certificates, as a server or as an agent.
const MINTED: [&str; 2] = ["/var/lib/rancher/k3s/server/tls/client-admin.crt", KUBECONFIG];

/// The boot in which k3s was last started. It does not start with the system
/// before it was up once.
const STARTED: &str = "/var/lib/kiln/k3s-started";

/// Notes that k3s is about to be started in this boot.
pub(crate) fn note_start(root: &Root, boot: &str) -> Result<()> {
    root.put(STARTED, Access::ours(0o600), boot.as_bytes()).map(drop)
}

/// Whether k3s, which has not been up yet, has left nothing and does not run:
/// what it was to be started with may still be exchanged.
pub(crate) fn has_not_run(root: &Root, boot: &str) -> Result<bool> {
    let started = root.read(STARTED)?.is_some_and(|started| started == boot.as_bytes());
    Ok(!started && !has_certificates(root)? && trace(root)?.is_none())
}

/// Whether k3s has the certificates that it mints at its first start.
pub(crate) fn has_certificates(root: &Root) -> Result<bool> {
    for path in MINTED {
        if root.meta(path)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn trace(root: &Root) -> Result<Option<&'static str>> {
    for trace in TRACES {
        // What was put there for it to begin with is none.
        let placed = trace == restore::DATABASE && restore::is_placed(root)?;
        if !placed && root.meta(trace)?.is_some() {
            return Ok(Some(trace));
        }
    }
    Ok(None)
}

/// What of the configuration depends on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPart {
    /// The interface that has `node_ip`: flannel's default is that of the
    /// default route.
    pub(crate) interface: Option<String>,
    /// Whether SELinux is on in the running kernel. It is on in our images,
    /// and without `selinux: true` k3s leaves containerd's support off. On a
    /// host where it is off `true` would be wrong, so it is asked and not
    /// assumed.
    pub(crate) selinux: bool,
}

/// The unit that runs k3s in a role.
pub(crate) fn unit(role: Role) -> &'static str {
    match role {
        Role::Server => "k3s.service",
        Role::Agent => "k3s-agent.service",
    }
}

/// Reads what `k3s --version` prints.
pub(crate) fn version_in(text: &str) -> Option<K3sVersion> {
    text.lines().next()?.strip_prefix("k3s version ")?.split_whitespace().next()?.parse().ok()
}

/// Refuses a configuration for another k3s than the one that is installed.
pub(crate) fn check_version(config: &NodeConfig, installed: &K3sVersion) -> Result<(), ApiError> {
    if config.k3s.version == *installed {
        return Ok(());
    }
    let message = format!("the cluster wants k3s {}, this image has {installed}", config.k3s.version);
    Err(ApiError::new(ErrorClass::Policy, message).hint("name an image with that k3s in the cluster file"))
}

/// Writes everything. When it returns it is on the disk.
pub(crate) fn apply(root: &Root, config: &NodeConfig, host: &HostPart) -> Result<(), Failure> {
    if let Some(trace) = trace(root)? {
        let message = format!("k3s has run on this host before: there is {}", root.shown(trace));
        let error = ApiError::new(ErrorClass::Policy, message)
            .hint("its datastore is never changed; remove k3s's data to let the host join anew");
        return Err(error.into());
    }
    // Of an earlier configuration that k3s was never started with.
    root.remove(CONFIG.as_ref())?;
    restore::displace(root)?;
    token::forget(root)?;
    if !matches!(config.k3s.membership, Membership::FirstServer { .. }) {
        root.remove(TLS.as_ref())?;
    }
    if config.role() == Role::Agent {
        root.remove(AGENT_TOKEN.as_ref())?;
    }
    if let Some(snapshot) = to_restore(config) {
        restore::place(root, snapshot)?;
    }
    for file in files(config, host) {
        let (dir, _) = file.path.rsplit_once('/').unwrap_or_default();
        root.make_dirs(dir, 0o700)?;
        root.put(&file.path, Access::ours(file.mode), file.content.as_bytes())?;
    }
    Ok(())
}

/// Whether [`apply`] was done with this configuration.
pub(crate) fn is_applied(root: &Root, config: &NodeConfig, host: &HostPart) -> Result<bool> {
    if !restore::is_as_wanted(root, to_restore(config))? {
        return Ok(false);
    }
    for file in files(config, host) {
        if root.read(&file.path)?.as_deref() != Some(file.content.as_bytes()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The datastore that k3s is to begin with, if that is not an empty one.
fn to_restore(config: &NodeConfig) -> Option<&Snapshot> {
    match &config.k3s.membership {
        Membership::FirstServer { restore, .. } => restore.as_ref(),
        Membership::JoiningServer { .. } | Membership::Agent { .. } => None,
    }
}

/// What k3s was started with that this configuration has otherwise, by name:
/// the values may be secrets. A server to join counts for the first start only,
/// what depends on the host is the host's, and the token is followed
/// (`run::token`).
pub(crate) fn differences(root: &Root, config: &NodeConfig, host: &HostPart) -> Result<Vec<String>> {
    const FIRST_START_OR_HOST: [&str; 3] = ["server", "flannel-iface", "selinux"];
    let mut differs = Vec::new();
    for (name, path) in [("agent-token", AGENT_TOKEN), ("node password", NODE_PASSWORD)] {
        let wanted = files(config, host).into_iter().find(|file| file.path == path);
        if let (Some(wanted), Some(there)) = (wanted, root.read_text(path)?)
            && wanted.content != there
        {
            differs.push(name.to_owned());
        }
    }
    // What somebody wrote there by hand in YAML's own form is theirs.
    let there =
        root.read_text(CONFIG)?.and_then(|text| serde_json::from_str::<Map<String, Value>>(&text).ok());
    if let (Some(there), Value::Object(wanted)) = (there, settings(config, host)) {
        let mut keys: Vec<&String> = there.keys().chain(wanted.keys()).collect();
        keys.sort();
        keys.dedup();
        keys.retain(|key| {
            there.get(*key) != wanted.get(*key) && !FIRST_START_OR_HOST.contains(&key.as_str())
        });
        differs.extend(keys.into_iter().cloned());
    }
    Ok(differs)
}

/// One file. Its content may be a secret.
struct FileToWrite {
    path: String,
    mode: u32,
    content: String,
}

/// All files, in the order they are to be written.
fn files(config: &NodeConfig, host: &HostPart) -> Vec<FileToWrite> {
    let secret = |path: &str, content: &str| FileToWrite {
        path: path.to_owned(),
        mode: 0o600,
        content: format!("{}\n", content.trim_end()),
    };
    let mut files = vec![secret(NODE_PASSWORD, config.k3s.node_password.expose())];
    match &config.k3s.membership {
        Membership::FirstServer { token, agent_token, ca, .. } => {
            files.push(secret(TOKEN, token.expose()));
            files.push(secret(AGENT_TOKEN, agent_token.expose()));
            files.extend(ca.files().iter().map(|(name, pem)| FileToWrite {
                path: format!("{TLS}/{name}"),
                mode: if has_key(name) { 0o600 } else { 0o644 },
                // To the byte: the token holds a hash of the certificates.
                content: pem.expose().to_owned(),
            }));
        }
        Membership::JoiningServer { token, agent_token, .. } => {
            files.push(secret(TOKEN, token.expose()));
            files.push(secret(AGENT_TOKEN, agent_token.expose()));
        }
        Membership::Agent { token, .. } => files.push(secret(TOKEN, token.expose())),
    }
    let text = serde_json::to_string_pretty(&settings(config, host)).expect("its keys are strings");
    files.push(secret(CONFIG, &text));
    files
}

fn has_key(name: &str) -> bool {
    std::path::Path::new(name).extension().is_some_and(|extension| extension == "key")
}

/// The content of `config.yaml`. Keys are k3s's command line flags; a role is
/// given no flag that its subcommand does not know.
fn settings(config: &NodeConfig, host: &HostPart) -> Value {
    let k3s = &config.k3s;
    let mut settings = Map::new();
    let mut set = |key: &str, value: Value| settings.insert(key.to_owned(), value);
    set("node-name", json!(config.node));
    set("token-file", json!(TOKEN));
    set("selinux", json!(host.selinux));
    for (key, address) in [("node-ip", k3s.node_ip), ("node-external-ip", k3s.node_external_ip)] {
        if let Some(address) = address {
            set(key, json!(address));
        }
    }
    if let Some(interface) = &host.interface {
        set("flannel-iface", json!(interface));
    }
    match &k3s.membership {
        Membership::FirstServer { cluster_init: true, .. } => {
            set("cluster-init", json!(true));
        }
        Membership::FirstServer { cluster_init: false, .. } => {}
        Membership::JoiningServer { server, .. } | Membership::Agent { server, .. } => {
            set("server", json!(server_url(server)));
        }
    }
    if config.role() == Role::Server {
        set("agent-token-file", json!(AGENT_TOKEN));
        set("write-kubeconfig-mode", json!("0600"));
        if !k3s.tls_san.is_empty() {
            set("tls-san", json!(k3s.tls_san));
        }
        if !k3s.disable.is_empty() {
            set("disable", json!(k3s.disable));
        }
    }
    Value::Object(settings)
}

fn server_url(server: &Address) -> String {
    format!("https://{server}")
}

/// The interface that holds `node_ip`, if one is asked for.
pub(crate) fn interface_of(
    node_ip: Option<IpAddr>,
    addresses: &[(String, IpAddr)],
) -> Result<Option<String>, Failure> {
    let Some(node_ip) = node_ip else { return Ok(None) };
    match addresses.iter().find(|(_, address)| *address == node_ip) {
        Some((interface, _)) => Ok(Some(interface.clone())),
        None => Err(anyhow::anyhow!("no interface of this host has the node's address {node_ip}").into()),
    }
}

#[cfg(test)]
#[path = "k3s_tests.rs"]
mod tests;
