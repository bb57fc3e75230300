//! Boots throw-away clones of an image and sees them join: a server under
//! UEFI, an agent under BIOS. What an image should have left behind, and what
//! two clones must not share, shows here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kiln_coordinator::plan::ClusterFile;
use kiln_protocol::NodeName;
use kiln_protocol::api::{Facts, Firmware};
use tokio::time::Instant;

use super::bring_up::{Order, bring_up, preflight};
use super::paths::StateDir;
use super::screen::Screen;
use super::summary::{NodeSummary, Summary};
use super::target::Image;
use super::{down, up};
use crate::machine::qemu::{Accel, img};
use crate::provider::qemu::{Qemu, file_digest};
use crate::provider::{LocalImage, NodeFirmware, Provider};

/// What the nodes are called; nobody else sees them.
const SERVER: &str = "smoke-server";
const AGENT: &str = "smoke-agent";

/// How the clones are run.
pub struct Options {
    /// An existing directory, emptied by its owner whatever happens: the
    /// clones' disks and everything else is made in it.
    pub work: PathBuf,
    /// The image's version name.
    pub version: String,
    /// The k3s release inside.
    pub k3s: String,
    /// What runs the guests.
    pub accel: Accel,
    /// When both must be ready.
    pub timeout: Duration,
    /// Memory of each clone, in MiB.
    pub memory_mib: u32,
    /// Hears what happens, a line at a time.
    pub tell: Box<dyn FnMut(&str) + Send>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("work", &self.work)
            .field("accel", &self.accel)
            .finish_non_exhaustive()
    }
}

/// What the clones showed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SmokeReport {
    /// Both nodes, with the time of each of their steps.
    pub nodes: Vec<NodeSummary>,
}

/// Boots two clones of `image`, a qcow2 without backing file, and waits until
/// both are ready. Everything is removed again, whatever comes of it; after
/// `kill -9` the owner of the work directory removes it, VMs included.
pub async fn run(image: &Path, options: Options) -> Result<SmokeReport> {
    let Options { work, version, k3s, accel, timeout, memory_mib, tell } = options;
    let dir = tempfile::Builder::new()
        .prefix("smoke-")
        .tempdir_in(&work)
        .with_context(|| format!("making a directory in {}", work.display()))?;
    let state = StateDir::resolve(Some(dir.path().to_owned()))?;
    let image = read(image).await?;
    let file = cluster_file(&version, &k3s, memory_mib, image.disk.virtual_size)?;
    let firmware = [(SERVER, NodeFirmware::Uefi), (AGENT, NodeFirmware::Bios)];
    let firmware = firmware.iter().map(|(name, firmware)| Ok((name.parse::<NodeName>()?, *firmware)));
    let order = Order {
        file: &file,
        image: &image,
        firmware: firmware.collect::<Result<BTreeMap<_, _>>>()?,
        advertise: None,
        deadline: Instant::now() + timeout,
    };
    let mut screen = Screen::told(tell);
    let provider = Provider::Qemu(Qemu::new(&state).accel(accel).throwaway());
    // That a file made here has no manifest yet is nothing to warn about.
    let findings = preflight(&provider, &order).await;
    let errors: Vec<_> =
        findings.into_iter().filter(|f| f.severity == crate::provider::Severity::Error).collect();
    up::refuse(&errors, &mut screen)?;
    let mut context = up::open(&state, &file, &provider).await?;
    // Dropped half-way (Ctrl-C), the VMs are left to the owner of the work
    // directory, which ends what runs in it.
    let outcome = bring_up(&mut context, &order, &mut screen).await;
    let left = down::remove_all(context, None).await;
    let summary = outcome?;
    match left?.as_slice() {
        [] => {}
        left => bail!("the clones could not be removed:\n  {}", left.join("\n  ")),
    }
    judge(&summary)?;
    Ok(SmokeReport { nodes: summary.nodes })
}

async fn read(path: &Path) -> Result<Image> {
    let path = path.canonicalize().with_context(|| format!("opening {}", path.display()))?;
    let virtual_size = img::info(&path).await?.virtual_size;
    let read = path.clone();
    let digest =
        tokio::task::spawn_blocking(move || file_digest(&read)).await.context("reading the image")??;
    Ok(Image { disk: LocalImage { path, digest, virtual_size }, manifest: None })
}

fn cluster_file(version: &str, k3s: &str, memory_mib: u32, disk: u64) -> Result<ClusterFile> {
    let node = |name: &str, role: &str| {
        format!(
            "[[node]]\nname = \"{name}\"\nrole = \"{role}\"\ncores = 1\nmemory = \"{memory_mib}MiB\"\n\
             disk = \"{}MiB\"\n",
            disk.div_ceil(1 << 20)
        )
    };
    let text = format!(
        "[cluster]\nname = \"smoke\"\nk3s = \"{k3s}\"\nimage = \"{version}\"\nprovider = \"qemu\"\n{}{}",
        node(SERVER, "server"),
        node(AGENT, "agent")
    );
    ClusterFile::parse(&text).context("planning the clones")
}

/// What must hold of two clones of one image.
fn judge(summary: &Summary) -> Result<()> {
    let facts = |name: &str| -> Result<&Facts> {
        let node = summary.nodes.iter().find(|node| node.node.as_str() == name);
        node.and_then(|node| node.facts.as_ref())
            .with_context(|| format!("node {name} told nothing of itself"))
    };
    let (server, agent) = (facts(SERVER)?, facts(AGENT)?);
    differ("machine-id", server.machine_id.as_slice(), agent.machine_id.as_slice())?;
    differ("ssh host keys", &server.ssh_host_keys, &agent.ssh_host_keys)?;
    for (name, facts, wanted) in [(SERVER, server, Firmware::Uefi), (AGENT, agent, Firmware::Bios)] {
        if facts.firmware.is_some_and(|found| found != wanted) {
            bail!("{name} should have booted under {wanted:?}, it says {:?}", facts.firmware);
        }
    }
    Ok(())
}

fn differ(what: &str, server: &[String], agent: &[String]) -> Result<()> {
    if server.is_empty() || agent.is_empty() {
        bail!("a clone has no {what}");
    }
    match server.iter().find(|value| agent.contains(value)) {
        None => Ok(()),
        Some(same) => bail!("both clones have the same {what} ({same}): it was baked into the image"),
    }
}

#[cfg(test)]
#[path = "smoke_tests.rs"]
mod tests;
