//! The agent: joins a server, registers its node, keeps saying that it lives.
//!
//! Source: k3s-io/k3s `pkg/agent/run.go` (`createProxyAndValidateToken`),
//! `pkg/agent/config/config.go` (`get`). A server runs one of these as well,
//! against itself.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tracing::{error, info};

use crate::client::{Access, Api, NodeHeaders, message};
use crate::faults::Faults;
use crate::settings::{Agent, Node};
use crate::{VERSION, files, interfaces, kubelet, node, notify};

/// Between two tries to reach a server.
const CONNECT_RETRY: Duration = Duration::from_secs(2);
/// Between two tries to be let in.
const JOIN_RETRY: Duration = Duration::from_secs(5);
/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(5);

/// `k3s agent`: joins, says READY, and lives on.
pub(crate) async fn run(settings: &Agent, faults: &Faults) -> Result<()> {
    info!("Starting k3s agent {VERSION}");
    notify::status(&format!("joining {}", settings.server));
    let mut session = Session::open(&settings.node, &settings.server, &settings.token).await;
    let live = async {
        if faults.never_ready {
            notify::status("never ready, on request");
        } else {
            tokio::time::sleep(Duration::from_secs(faults.ready_after_seconds)).await;
            info!("k3s agent is up and running");
            notify::ready(&format!("node {} registered at {}", settings.node.name, session.base));
        }
        session.live().await;
    };
    tokio::select! {
        () = live => Ok(()),
        end = faults.end() => end,
    }
}

/// The agent in a server: joins that server, and lives on.
pub(crate) async fn run_in_server(settings: &Node, server: &str, token: &str) {
    Session::open(settings, server, token).await.live().await;
}

/// A node that is registered.
struct Session<'a> {
    settings: &'a Node,
    token: String,
    /// The servers known, the one in use first.
    servers: Vec<String>,
    base: String,
    api: Api,
}

impl<'a> Session<'a> {
    async fn open(settings: &'a Node, server: &str, token: &str) -> Self {
        let token = validated(settings, server, token).await;
        let mut servers = vec![server.to_owned()];
        let (api, base) = joined(settings, &token, &mut servers).await;
        registered(settings, &api).await;
        kubelet::serve_health().await;
        Self { settings, token, servers, base, api }
    }

    /// Says for ever that the node lives.
    async fn live(&mut self) {
        loop {
            tokio::time::sleep(BEAT).await;
            if let Err(why) = beat(self.settings, &self.api).await {
                error!("Error updating node status, will retry: {why:#}");
                self.turn().await;
            }
        }
    }

    /// Goes on to the next server, as the load balancer in k3s does; stays if
    /// that one is no better.
    async fn turn(&mut self) {
        self.servers.rotate_left(1);
        let Some(next) = self.servers.first().cloned().filter(|next| *next != self.base) else { return };
        match join(self.settings, &next, &self.token, &mut self.servers).await {
            Ok(api) => {
                info!("Switching to server {next}");
                (self.api, self.base) = (api, next);
            }
            Err(why) => error!("Server {next} is not ready either: {why:#}"),
        }
    }
}

/// Gets the server's CA and checks it; tries for ever. From here on the token
/// carries that CA's hash.
async fn validated(settings: &Node, server: &str, token: &str) -> String {
    loop {
        let access = async {
            files::make_directory(&settings.data_dir.join("agent"), 0o700)?;
            Access::to(server, token, "node").await?.token()
        };
        match access.await {
            Ok(token) => return token,
            Err(why) => error!("Failed to validate connection to cluster at {server}: {why:#}"),
        }
        tokio::time::sleep(CONNECT_RETRY).await;
    }
}

/// Gets the node's certificates; tries for ever.
async fn joined(settings: &Node, token: &str, servers: &mut Vec<String>) -> (Api, String) {
    loop {
        for server in servers.clone() {
            match join(settings, &server, token, servers).await {
                Ok(api) => return (api, server),
                Err(why) => info!("Waiting to retrieve agent configuration; server is not ready: {why:#}"),
            }
        }
        tokio::time::sleep(JOIN_RETRY).await;
    }
}

/// One try to be let in. Adds the servers it hears of.
async fn join(settings: &Node, server: &str, token: &str, servers: &mut Vec<String>) -> Result<Api> {
    let agent = settings.data_dir.join("agent");
    let own = own_certificate(&agent);
    let access = Access::with(server, token, "node", own.as_deref()).await?;
    access.get("/v1-k3s/config").await.context("failed to retrieve configuration from server")?;
    if let Some(name) = &settings.flannel_iface {
        interfaces::must_exist(name)?;
    }
    for file in ["client-ca.crt", "server-ca.crt"] {
        files::write(&agent.join(file), &access.get(&format!("/v1-k3s/{file}")).await?, 0o600)?;
    }
    let password = password(&settings.password_file)?;
    let all: Vec<String> = settings.ips.iter().chain(&settings.external_ips).map(IpAddr::to_string).collect();
    let headers = NodeHeaders { name: &settings.name, password: &password, addresses: all.join(",") };
    named(&access, settings, "serving-kubelet", &headers).await?;
    let (certificates, key) = named(&access, settings, "client-kubelet", &headers).await?;
    for name in ["client-kube-proxy", "client-k3s-controller"] {
        let (certificates, key) = split(&access.get(&format!("/v1-k3s/{name}.crt")).await?)?;
        files::write(&agent.join(format!("{name}.crt")), certificates.as_bytes(), 0o600)?;
        files::write(&agent.join(format!("{name}.key")), key.as_bytes(), 0o600)?;
    }
    let known: Vec<String> = serde_json::from_slice(&access.get("/v1-k3s/apiservers").await?)?;
    for address in known {
        let url = format!("https://{address}");
        if !servers.contains(&url) {
            servers.push(url);
        }
    }
    Api::new(server, &access.ca, &certificates, &key)
}

/// The node's certificate of an earlier start, with its key.
fn own_certificate(agent: &Path) -> Option<Vec<u8>> {
    let mut pem = fs::read(agent.join("client-kubelet.crt")).ok()?;
    pem.extend(fs::read(agent.join("client-kubelet.key")).ok()?);
    Some(pem)
}

/// Asks for one certificate in the node's name and keeps it.
async fn named(
    access: &Access,
    settings: &Node,
    name: &str,
    headers: &NodeHeaders<'_>,
) -> Result<(String, String)> {
    let answer = access.node_certificate(&format!("/v1-k3s/{name}.crt"), headers).await?;
    let Some(answer) = answer else {
        bail!(
            "Node password rejected, duplicate hostname or contents of '{}' may not match server node-passwd entry, \
             try enabling a unique node name with the --with-node-id flag",
            settings.password_file.display()
        );
    };
    let (certificates, key) = split(&answer)?;
    let agent = settings.data_dir.join("agent");
    files::write(&agent.join(format!("{name}.crt")), certificates.as_bytes(), 0o600)?;
    files::write(&agent.join(format!("{name}.key")), key.as_bytes(), 0o600)?;
    Ok((certificates, key))
}

/// Takes certificates and key apart.
fn split(pem: &[u8]) -> Result<(String, String)> {
    let text = std::str::from_utf8(pem).context("reading a certificate from the server")?;
    let at = text.find("-----BEGIN PRIVATE KEY-----").context("the server sent no private key")?;
    let (certificates, key) = text.split_at(at);
    Ok((certificates.to_owned(), key.to_owned()))
}

/// The node's password; a random one, if nobody set it.
fn password(file: &Path) -> Result<String> {
    if file.exists() {
        let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        return Ok(text.trim().to_owned());
    }
    let password = files::random_hex(16)?;
    files::write(file, format!("{password}\n").as_bytes(), 0o600)?;
    Ok(password)
}

/// Puts the node into the cluster; tries for ever.
async fn registered(settings: &Node, api: &Api) {
    loop {
        let try_it = async {
            register(settings, api).await?;
            beat(settings, api).await
        };
        match try_it.await {
            Ok(()) => return info!("Successfully registered node {}", settings.name),
            Err(why) => error!("Unable to register node with API server: {why:#}"),
        }
        tokio::time::sleep(CONNECT_RETRY).await;
    }
}

async fn register(settings: &Node, api: &Api) -> Result<()> {
    let object = node::object(settings);
    let (status, body) = api.ask(Method::POST, "/api/v1/nodes", Some(&object)).await?;
    if status == StatusCode::CONFLICT {
        let path = format!("/api/v1/nodes/{}", settings.name);
        return accepted(api.ask(Method::PUT, &path, Some(&object)).await?);
    }
    accepted((status, body))
}

/// Why this node cannot work, as its kubelet would say.
fn problem(settings: &Node) -> Option<String> {
    settings.ips.iter().find(|ip| !interfaces::has(**ip).unwrap_or(true)).map(|ip| {
        format!("failed to validate nodeIP: node IP: \"{ip}\" not found in the host's network interfaces")
    })
}

/// One sign of life.
async fn beat(settings: &Node, api: &Api) -> Result<()> {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{}", settings.name);
    let lease: Value = json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1",
        "metadata": {"name": settings.name}, "spec": {"holderIdentity": settings.name},
        "standinProblem": problem(settings)});
    accepted(api.ask(Method::PUT, &path, Some(&lease)).await?)
}

fn accepted((status, body): (StatusCode, Vec<u8>)) -> Result<()> {
    if !status.is_success() {
        bail!("{}", message(&body).unwrap_or_else(|| status.to_string()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_made_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("rancher/node/password");
        let first = password(&file).expect("made");
        assert_eq!((first.len(), password(&file).expect("kept")), (32, first));
        fs::write(&file, " given\n").expect("given");
        assert_eq!(password(&file).expect("given"), "given");
    }

    #[test]
    fn certificates_and_key_are_taken_apart() {
        let pem = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\nBB==\n";
        let (certificates, key) = split(pem.as_bytes()).expect("both");
        assert!(
            certificates.ends_with("END CERTIFICATE-----\n") && key.starts_with("-----BEGIN PRIVATE KEY")
        );
        assert!(split(certificates.as_bytes()).is_err());
    }
}
