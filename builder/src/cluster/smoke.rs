//! Boots throw-away clones of an image and sees them join, one under each
//! firmware that is to be shown: the first is the server. What an image should
//! have left behind, and what two clones must not share, shows here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
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
use crate::image::Digest;
use crate::machine::qemu::{Accel, img};
use crate::provider::qemu::Qemu;
use crate::provider::{LocalImage, NodeFirmware, Provider};

/// What the clone under a firmware is called; nobody else sees it.
fn name_of(firmware: NodeFirmware) -> &'static str {
    match firmware {
        NodeFirmware::Bios => "smoke-bios",
        NodeFirmware::Uefi => "smoke-uefi",
        NodeFirmware::SecureBoot => "smoke-secure-boot",
    }
}

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
    /// What starts the clones, one each; two at least, so that they can differ.
    pub firmware: Vec<NodeFirmware>,
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
    /// The nodes, with the time of each of their steps.
    pub nodes: Vec<NodeSummary>,
}

/// Boots clones of `image`, a qcow2 without backing file, and waits until
/// all are ready. Everything is removed again, whatever comes of it; after
/// `kill -9` the owner of the work directory removes it, VMs included.
pub async fn run(image: &Path, options: Options) -> Result<SmokeReport> {
    let Options { work, version, k3s, accel, timeout, memory_mib, firmware, tell } = options;
    ensure!(firmware.len() >= 2, "one clone alone cannot differ from another");
    let dir = tempfile::Builder::new()
        .prefix("smoke-")
        .tempdir_in(&work)
        .with_context(|| format!("making a directory in {}", work.display()))?;
    let state = StateDir::resolve(Some(dir.path().to_owned()))?;
    let image = read(image).await?;
    let file = cluster_file(&version, &k3s, memory_mib, image.disk.virtual_size, &firmware)?;
    let clones = firmware.iter().map(|firmware| Ok((name_of(*firmware).parse::<NodeName>()?, *firmware)));
    let order = Order {
        data: None,
        file: &file,
        image: &image,
        firmware: clones.collect::<Result<BTreeMap<_, _>>>()?,
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
    judge(&summary, &firmware)?;
    Ok(SmokeReport { nodes: summary.nodes })
}

async fn read(path: &Path) -> Result<Image> {
    let path = path.canonicalize().with_context(|| format!("opening {}", path.display()))?;
    let virtual_size = img::info(&path).await?.virtual_size;
    let read = path.clone();
    let digest =
        tokio::task::spawn_blocking(move || Digest::of_file(&read)).await.context("reading the image")??;
    Ok(Image { disk: LocalImage { path, digest, virtual_size }, manifest: None })
}

fn cluster_file(
    version: &str,
    k3s: &str,
    memory_mib: u32,
    disk: u64,
    firmware: &[NodeFirmware],
) -> Result<ClusterFile> {
    let disk = disk.div_ceil(1 << 20);
    let node = |(index, firmware): (usize, &NodeFirmware)| {
        let (name, role) = (name_of(*firmware), if index == 0 { "server" } else { "agent" });
        format!(
            "[[node]]\nname = \"{name}\"\nrole = \"{role}\"\ncores = 1\nmemory = \"{memory_mib}MiB\"\n\
             disk = \"{disk}MiB\"\n"
        )
    };
    let nodes: String = firmware.iter().enumerate().map(node).collect();
    let text = format!(
        "[cluster]\nname = \"smoke\"\nk3s = \"{k3s}\"\nimage = \"{version}\"\nprovider = \"qemu\"\n{nodes}"
    );
    ClusterFile::parse(&text).context("planning the clones")
}

/// What must hold of the clones of one image.
fn judge(summary: &Summary, firmware: &[NodeFirmware]) -> Result<()> {
    let mut seen: Vec<&Facts> = Vec::new();
    for firmware in firmware {
        let name = name_of(*firmware);
        let node = summary.nodes.iter().find(|node| node.node.as_str() == name);
        let facts = node
            .and_then(|node| node.facts.as_ref())
            .with_context(|| format!("node {name} told nothing of itself"))?;
        let wanted = match firmware {
            NodeFirmware::Bios => Firmware::Bios,
            NodeFirmware::Uefi => Firmware::Uefi,
            NodeFirmware::SecureBoot => Firmware::UefiSecureBoot,
        };
        if facts.firmware != Some(wanted) {
            bail!("{name} should have booted under {wanted:?}, it says {:?}", facts.firmware);
        }
        for other in &seen {
            differ("machine-id", other.machine_id.as_slice(), facts.machine_id.as_slice())?;
            differ("ssh host keys", &other.ssh_host_keys, &facts.ssh_host_keys)?;
        }
        seen.push(facts);
    }
    Ok(())
}

fn differ(what: &str, one: &[String], other: &[String]) -> Result<()> {
    if one.is_empty() || other.is_empty() {
        bail!("a clone has no {what}");
    }
    match one.iter().find(|value| other.contains(value)) {
        None => Ok(()),
        Some(same) => bail!("two clones have the same {what} ({same}): it was baked into the image"),
    }
}

#[cfg(test)]
#[path = "smoke_tests.rs"]
mod tests;
