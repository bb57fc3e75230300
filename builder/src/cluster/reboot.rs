//! `builder reboot`: restarts a node and sees it come back, with no
//! coordinator running.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kiln_protocol::NodeName;
use tokio::time::Instant;

use super::context::Context;
use super::paths::StateDir;
use super::{target, verify};
use crate::failure::BadInput;
use crate::provider::qemu::Qemu;
use crate::provider::{NodeRef, Power, Provider};

/// What `builder reboot` is asked for.
#[derive(Debug)]
pub struct Options {
    /// The cluster file.
    pub file: PathBuf,
    /// Which node.
    pub node: NodeName,
    /// The state directory, if not the usual one.
    pub state: Option<PathBuf>,
    /// As a power cut, instead of asking the guest to shut down.
    pub hard: bool,
    /// When it must be back.
    pub timeout: Duration,
}

/// Restarts a node and waits until k3s has seen it come back.
pub async fn reboot(options: Options) -> Result<()> {
    let deadline = Instant::now() + options.timeout;
    let file = target::read_file(&options.file)?;
    if file.node(&options.node).is_none() {
        let why = format!("there is no node {} in {}", options.node, options.file.display());
        return Err(BadInput(why).into());
    }
    let (state, name) = (StateDir::resolve(options.state)?, file.name());
    if !state.cluster(name).kubeconfig().exists() {
        bail!("cluster {name} is not up: `builder up` brings it up");
    }
    let provider = Provider::Qemu(Qemu::new(&state));
    let context = Context::open(&state, name, provider, &format!("reboot {}", options.node))?;
    let api = verify::Api::from_file(&context.dir.kubeconfig())?;
    let before = boot_id(&api, &options.node).await.context("looking at the node before it is restarted")?;
    let node = NodeRef { cluster: name.clone(), node: options.node.clone() };
    let began = Instant::now();
    eprintln!("restarting node {}", options.node);
    if options.hard {
        context.provider.power(&node, Power::Reset).await?;
    } else {
        context.provider.power(&node, Power::Off).await?;
        eprintln!("node {} is off after {:.1} s", options.node, began.elapsed().as_secs_f64());
        context.provider.power(&node, Power::On).await?;
    }
    let started = Instant::now();
    let wanted = verify::Wanted { node: options.node.clone(), since: None, not_boot: Some(before) };
    let back = api.wait(&[wanted], deadline, |missing| eprintln!("{missing}")).await;
    if back.is_err() {
        let observed = context.provider.observe(&node).await?;
        return back.map(drop).with_context(|| {
            format!(
                "node {} did not come back; its machine is {}; the end of its console:\n    {}",
                options.node,
                observed.power,
                observed.console_tail.join("\n    ")
            )
        });
    }
    println!(
        "node {} came back without a coordinator: Ready {:.1} s after power-on",
        options.node,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// The boot the node is in now, as k3s knows it.
async fn boot_id(api: &verify::Api, node: &NodeName) -> Result<String> {
    let nodes = api.nodes().await?;
    let found = nodes.into_iter().find(|found| found.name == node.as_str());
    Ok(found.with_context(|| format!("k3s does not know node {node}"))?.boot_id)
}
