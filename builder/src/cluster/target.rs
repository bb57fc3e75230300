//! What a run is asked for: the cluster file and the image, read and checked
//! before anything is touched.

use std::num::NonZeroU32;
use std::path::Path;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use kiln_coordinator::plan::{ClusterFile, PlannedNode, ProviderKind};
use kiln_protocol::Role;

use crate::failure::BadInput;
use crate::image::{Digest, Manifest, manifest};
use crate::machine::qemu::img;
use crate::provider::{Finding, LocalImage, NodeFirmware, NodeSpec};

/// Longer files are not cluster files.
const MAX_FILE: u64 = 1 << 20;
/// QEMU's NAT, which every node of this provider has a card in.
const NAT: &str = "10.0.2.0/24";

/// Reads and checks a cluster file.
pub fn read_file(path: &Path) -> Result<ClusterFile> {
    let bad = |why: String| BadInput(format!("cluster file {}: {why}", path.display()));
    let size = std::fs::metadata(path).map_err(|error| bad(error.to_string()))?.len();
    if size > MAX_FILE {
        return Err(bad("is too large to be one".into()).into());
    }
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    let file = ClusterFile::parse(&text).map_err(|error| bad(error.to_string()))?;
    match file.provider() {
        ProviderKind::Qemu => Ok(file),
        other => {
            let why =
                format!("provider \"{other}\" is not supported by this builder yet; supported: \"qemu\"");
            Err(bad(why).into())
        }
    }
}

/// An image on this machine and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The disk.
    pub disk: LocalImage,
    /// What it says it is; none for a bare disk.
    pub manifest: Option<Manifest>,
}

/// Finds an image: `given` is a directory that `builder bake` made, one that
/// holds such directories by version, or a qcow2 file.
pub async fn read_image(given: &Path, version: &str) -> Result<Image> {
    let bad = |why: String| BadInput(format!("image {}: {why}", given.display()));
    let dirs = [given.to_owned(), given.join(version)];
    let dir = dirs.iter().find(|dir| dir.join(manifest::MANIFEST).is_file());
    let (disk, manifest) = match dir {
        Some(dir) => {
            let text = std::fs::read_to_string(dir.join(manifest::MANIFEST))
                .map_err(|error| bad(format!("{}: {error}", manifest::MANIFEST)))?;
            let manifest: Manifest = serde_json::from_str(&text)
                .map_err(|error| bad(format!("{} is not one of Kiln's: {error}", manifest::MANIFEST)))?;
            (dir.join(manifest::DISK), Some(manifest))
        }
        None if given.is_file() => (given.to_owned(), None),
        None if given.is_dir() => {
            return Err(bad(format!("there is no {} in it, nor in {version}", manifest::MANIFEST)).into());
        }
        None => return Err(bad("does not exist: `builder bake` makes one".into()).into()),
    };
    let path = disk.canonicalize().map_err(|error| bad(format!("{}: {error}", disk.display())))?;
    let info = img::info(&path).await.map_err(|error| bad(format!("{error:#}")))?;
    if info.format != "qcow2" || info.backing_filename.is_some() {
        return Err(bad("is not a self-contained qcow2 disk".into()).into());
    }
    let recorded = manifest.as_ref().and_then(disk_digest);
    let digest = if let Some(digest) = recorded {
        digest
    } else {
        let path = path.clone();
        let read = move || Digest::of_file(&path);
        tokio::task::spawn_blocking(read).await.context("reading the image")??
    };
    Ok(Image { disk: LocalImage { path, digest, virtual_size: info.virtual_size }, manifest })
}

fn disk_digest(manifest: &Manifest) -> Option<Digest> {
    manifest.outputs.values().find(|file| file.name == manifest::DISK).map(|file| file.sha256)
}

/// What does not fit together between file and image.
pub fn check(file: &ClusterFile, image: &Image) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(manifest) = &image.manifest {
        let version = manifest.version.to_string();
        if version != file.image().to_string() {
            findings.push(Finding::error(format!(
                "the cluster file asks for image {}, this one is {version}: name another with --image",
                file.image()
            )));
        }
        if manifest.k3s_version != *file.k3s() {
            findings.push(Finding::error(format!(
                "the cluster file asks for k3s {}, the image holds {}: change `k3s` in the file, or bake \
                 another image",
                file.k3s(),
                manifest.k3s_version
            )));
        }
    } else {
        findings.push(Finding::warning(format!(
            "{} has no {}: whether it is {} is not known",
            image.disk.path.display(),
            manifest::MANIFEST,
            file.image()
        )));
    }
    for node in file.nodes().iter().filter(|node| node.disk.bytes() < image.disk.virtual_size) {
        findings.push(Finding::error(format!(
            "node {}: its disk of {} is smaller than the image's of {} MiB",
            node.name,
            node.disk,
            image.disk.virtual_size >> 20
        )));
    }
    let nat: IpNet = NAT.parse().unwrap_or_default();
    if let Some(network) = file.network()
        && (network.contains(&nat) || nat.contains(&network))
    {
        findings.push(Finding::error(format!(
            "network {network} overlaps {nat}, which QEMU's NAT uses in every node: choose another"
        )));
    }
    findings
}

/// The specification of each node.
pub fn specs(
    file: &ClusterFile,
    image: Digest,
    firmware: impl Fn(&PlannedNode) -> NodeFirmware,
) -> Vec<NodeSpec> {
    let spec = |node: &PlannedNode| NodeSpec {
        cluster: file.name().clone(),
        node: node.name.clone(),
        cores: NonZeroU32::new(node.cores.into()).unwrap_or(NonZeroU32::MIN),
        memory: node.memory.bytes(),
        disk: node.disk.bytes(),
        image,
        mac: node.mac,
        api: node.role == Role::Server,
        firmware: firmware(node),
    };
    file.nodes().iter().map(spec).collect()
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
