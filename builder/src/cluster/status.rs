//! `builder status`: what is there of a cluster, without changing anything
//! and without a coordinator running.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kiln_protocol::admin::{Alarm, ClusterStatus};
use serde::Serialize;
use tokio::time::Instant;

use super::lock::Lock;
use super::paths::{ClusterDir, StateDir};
use super::screen::print_json;
use super::view::{MachineView, Row, View};
use super::{files, target, verify};
use crate::provider::qemu::Qemu;
use crate::provider::{NodeRef, Provider, Selector};

/// How long the API server may take to answer.
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// What `builder status` is asked for.
#[derive(Debug)]
pub struct Options {
    /// The cluster file.
    pub file: PathBuf,
    /// The state directory, if not the usual one.
    pub state: Option<PathBuf>,
    /// One JSON document instead of a table.
    pub json: bool,
}

/// What there is of a cluster.
#[derive(Debug, Serialize)]
struct Status {
    cluster: String,
    /// The run that works on it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    busy: Option<String>,
    /// When the coordinator was last asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<Timestamp>,
    nodes: Vec<NodeLine>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    alarms: Vec<Alarm>,
    /// What stands in a place of the cluster and is not of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    foreign: Vec<String>,
}

#[derive(Debug, Serialize)]
struct NodeLine {
    #[serde(flatten)]
    row: Row,
    /// What k3s says of it now.
    k3s: String,
}

/// Shows what there is of a cluster.
pub async fn status(options: Options) -> Result<()> {
    let file = target::read_file(&options.file)?;
    let (state, name) = (StateDir::resolve(options.state)?, file.name());
    let dir = state.cluster(name);
    let owner = if dir.path().exists() { state.owner()? } else { None };
    let Some(owner) = owner else {
        if options.json {
            let nothing = Status {
                cluster: name.to_string(),
                busy: None,
                asked: None,
                nodes: Vec::new(),
                alarms: Vec::new(),
                foreign: Vec::new(),
            };
            print_json(&nothing);
        } else {
            println!("there is nothing of cluster {name} under {}", state.path().display());
        }
        return Ok(());
    };
    let provider = Provider::Qemu(Qemu::new(&state));
    let selector = Selector { owner, cluster: name.clone() };
    let listing = provider.list(&selector).await?;
    let saved = read_saved(&dir)?;
    let mut nodes = Vec::new();
    for node in file.nodes() {
        let mut machine = MachineView::default();
        if listing.node(&node.name).is_some() {
            let node = NodeRef { cluster: name.clone(), node: node.name.clone() };
            let observed = provider.observe(&node).await?;
            machine.power = Some(observed.power);
            machine.powered_on = observed.powered_on;
        }
        nodes.push((&node.name, node.role, machine));
    }
    let view = View::of(nodes, saved.as_ref(), Timestamp::now());
    let k3s = ask_k3s(&dir).await;
    let line = |row: Row| NodeLine { k3s: k3s_says(&k3s, row.node.as_str()), row };
    let status = Status {
        cluster: name.to_string(),
        busy: Lock::holder(&dir),
        asked: saved.as_ref().map(|saved| saved.at),
        nodes: view.rows.into_iter().map(line).collect(),
        alarms: saved.map(|saved| saved.alarms).unwrap_or_default(),
        foreign: listing.foreign.into_iter().map(|(id, why)| format!("{id}: {why}")).collect(),
    };
    if options.json {
        print_json(&status);
    } else {
        print(&status);
    }
    Ok(())
}

fn read_saved(dir: &ClusterDir) -> Result<Option<ClusterStatus>> {
    let Some(text) = files::read_optional(&dir.status())? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).with_context(|| format!("reading {}", dir.status().display()))
}

/// What k3s knows; why it could not be asked, in words.
async fn ask_k3s(dir: &ClusterDir) -> Result<Vec<verify::KubeNode>, &'static str> {
    if !dir.kubeconfig().exists() {
        return Err("-");
    }
    let asked = async { verify::Api::from_file(&dir.kubeconfig())?.nodes().await };
    match tokio::time::timeout_at(Instant::now() + API_TIMEOUT, asked).await {
        Ok(Ok(nodes)) => Ok(nodes),
        Ok(Err(_)) | Err(_) => Err("does not answer"),
    }
}

fn k3s_says(k3s: &Result<Vec<verify::KubeNode>, &'static str>, node: &str) -> String {
    match k3s {
        Err(why) => (*why).to_owned(),
        Ok(nodes) => match nodes.iter().find(|found| found.name == node) {
            Some(found) if found.ready => "Ready".into(),
            Some(_) => "NotReady".into(),
            None => "unknown".into(),
        },
    }
}

fn print(status: &Status) {
    if let Some(busy) = &status.busy {
        println!("in progress: {busy}");
    }
    let view = View { rows: status.nodes.iter().map(|node| node.row.clone()).collect() };
    let mut lines = view.table();
    let k3s = std::iter::once("k3s").chain(status.nodes.iter().map(|node| node.k3s.as_str()));
    let width = std::iter::once(3).chain(status.nodes.iter().map(|node| node.k3s.len())).max().unwrap_or(3);
    for (line, k3s) in lines.iter_mut().zip(k3s) {
        *line = format!("{k3s:<width$}  {line}");
    }
    println!("{}", lines.join("\n"));
    for Alarm { at, node, message } in &status.alarms {
        println!("alarm {at} {node}: {message}");
    }
    for foreign in &status.foreign {
        println!("not of this cluster: {foreign}");
    }
}
