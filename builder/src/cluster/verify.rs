//! Asks the cluster itself: `GET /api/v1/nodes` with the kubeconfig's own
//! certificate, as `kubectl get nodes` does.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use jiff::{SignedDuration, Timestamp};
use kiln_protocol::{NodeName, Secret};
use serde::Deserialize;
use tokio::time::Instant;

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait between two.
const PAUSE: Duration = Duration::from_secs(1);
/// Heartbeats are written in whole seconds, by clocks that may differ a little.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_secs(2);
/// The longest list of nodes that is read: about 10 KiB a node.
const MAX_ANSWER: usize = 16 << 20;

/// What the cluster says of one of its nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeNode {
    /// Its name.
    pub name: String,
    /// Whether its condition Ready is True.
    pub ready: bool,
    /// What the cluster says of that.
    pub message: String,
    /// When it was last heard of.
    pub heartbeat: Option<Timestamp>,
    /// The node's `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

/// What has to be true of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which node.
    pub node: NodeName,
    /// It must have been heard of since then.
    pub since: Option<Timestamp>,
    /// It must have booted since this boot.
    pub not_boot: Option<String>,
}

/// A cluster's API server, and the right to ask it.
#[derive(Debug)]
pub struct Api {
    client: reqwest::Client,
    nodes: String,
}

impl Api {
    /// As a kubeconfig that Kiln wrote says.
    pub fn from_kubeconfig(kubeconfig: &Secret) -> Result<Self> {
        Self::build(kubeconfig).context("reading the kubeconfig")
    }

    /// As the kubeconfig in a file says.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::build(&Secret::new(text)?).with_context(|| format!("reading the kubeconfig {}", path.display()))
    }

    fn build(kubeconfig: &Secret) -> Result<Self> {
        // reqwest takes the provider that is installed, and panics without one.
        let _ = (*kiln_protocol::tls::provider()).clone().install_default();
        let authority = pem(kubeconfig, "certificate-authority-data")?;
        let identity = [pem(kubeconfig, "client-certificate-data")?, pem(kubeconfig, "client-key-data")?];
        let identity = zeroize::Zeroizing::new(identity.map(|part| part.to_vec()).concat());
        let client = reqwest::Client::builder()
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(&authority)?)
            .identity(reqwest::Identity::from_pem(&identity)?)
            .https_only(true)
            .no_proxy()
            .timeout(REQUEST_TIMEOUT)
            .build()?;
        let server = field(kubeconfig, "server").context("it names no server")?;
        Ok(Self { client, nodes: format!("{}/api/v1/nodes", server.trim_end_matches('/')) })
    }

    /// The cluster's nodes.
    pub async fn nodes(&self) -> Result<Vec<KubeNode>> {
        let asking = || format!("asking {}", self.nodes);
        let mut answer = self.client.get(&self.nodes).send().await.with_context(asking)?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.with_context(asking)? {
            if body.len() + chunk.len() > MAX_ANSWER {
                bail!("the answer of {} is too long", self.nodes);
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            let said: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            bail!("{} answers {status}: {}", self.nodes, said.trim());
        }
        parse_nodes(&body).with_context(asking)
    }

    /// Waits until everything wanted is true; says through `tell` what is
    /// waited for, whenever that changes.
    pub async fn wait(
        &self,
        wanted: &[Wanted],
        deadline: Instant,
        mut tell: impl FnMut(&str),
    ) -> Result<Vec<KubeNode>> {
        let mut last = String::new();
        loop {
            let missing = match self.nodes().await {
                Ok(nodes) => match missing(wanted, &nodes) {
                    None => return Ok(nodes),
                    Some(missing) => missing,
                },
                Err(error) => format!("the API server does not answer: {error:#}"),
            };
            if Instant::now() + PAUSE > deadline {
                bail!("the cluster is not as it should be in time: {missing}");
            }
            if missing != last {
                tell(&missing);
                last = missing;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The first thing that is not yet true, in words.
fn missing(wanted: &[Wanted], nodes: &[KubeNode]) -> Option<String> {
    wanted.iter().find_map(|wanted| {
        let name = wanted.node.as_str();
        let Some(node) = nodes.iter().find(|node| node.name == name) else {
            return Some(format!("k3s does not know node {name}"));
        };
        let heard = |since: Timestamp| node.heartbeat.is_some_and(|at| at + CLOCK_SLACK >= since);
        if wanted.not_boot.as_ref().is_some_and(|boot| *boot == node.boot_id) {
            Some(format!("node {name} has not come back yet"))
        } else if !node.ready {
            Some(format!("node {name} is not Ready: {}", node.message))
        } else if !wanted.since.is_none_or(heard) {
            Some(format!("node {name} was not heard of since it was switched on"))
        } else {
            None
        }
    })
}

/// The value of a key in a kubeconfig of ours, which names each key once.
fn field<'a>(kubeconfig: &'a Secret, key: &str) -> Option<&'a str> {
    let mut lines = kubeconfig.expose().lines();
    lines.find_map(|line| {
        let value = line.trim_start().trim_start_matches("- ").strip_prefix(key)?.strip_prefix(':')?;
        Some(value.trim().trim_matches('"'))
    })
}

fn pem(kubeconfig: &Secret, key: &str) -> Result<zeroize::Zeroizing<Vec<u8>>> {
    let text = field(kubeconfig, key).with_context(|| format!("it has no {key}"))?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text);
    bytes.map(zeroize::Zeroizing::new).with_context(|| format!("its {key} is not base64"))
}

fn parse_nodes(json: &[u8]) -> Result<Vec<KubeNode>> {
    #[derive(Deserialize)]
    struct List {
        items: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        metadata: Metadata,
        #[serde(default)]
        status: Status,
    }
    #[derive(Deserialize)]
    struct Metadata {
        name: String,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Status {
        conditions: Vec<Condition>,
        node_info: NodeInfo,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Condition {
        r#type: String,
        status: String,
        #[serde(default)]
        message: String,
        #[serde(default)]
        last_heartbeat_time: Option<Timestamp>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct NodeInfo {
        #[serde(rename = "bootID")]
        boot_id: String,
    }
    let list: List = serde_json::from_slice(json).context("reading the list of nodes")?;
    let node = |item: Item| {
        let Status { conditions, node_info } = item.status;
        let ready = conditions.into_iter().find(|condition| condition.r#type == "Ready");
        KubeNode {
            name: item.metadata.name,
            ready: ready.as_ref().is_some_and(|ready| ready.status == "True"),
            message: ready.as_ref().map_or_else(|| "it has no condition yet".into(), |r| r.message.clone()),
            heartbeat: ready.and_then(|ready| ready.last_heartbeat_time),
            boot_id: node_info.boot_id,
        }
    };
    Ok(list.items.into_iter().map(node).collect())
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
