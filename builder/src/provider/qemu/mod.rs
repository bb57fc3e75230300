//! Nodes as virtual machines of QEMU on this machine.
//!
//! A node is a directory: an overlay over the cluster's own link to the golden
//! image, the machine's UEFI variables, its consoles. Its QEMU runs in that
//! directory and outlives the builder.
//!
//! Each node has two network cards. The first leads to QEMU's own NAT, where
//! this machine's loopback is 10.0.2.2: that is how a node reaches the
//! coordinator, and, on servers, how a port of 127.0.0.1 reaches the API
//! server. The second is the cluster's network: a segment that all nodes of
//! the cluster share and that ends at this machine's loopback.

mod console;
mod host;
mod layout;
mod machine;
mod ports;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use kiln_protocol::{ClusterName, Fingerprint, NodeName};

use super::record::{Record, Selector, Subject};
use super::types::{
    Caps, Deleted, Drift, Ensured, Finding, ImageRef, Listing, LocalImage, NetRef, NodeRef, NodeSpec, Object,
    Observed, Power, PowerState, SeedWish,
};
use crate::cluster::files;
use crate::cluster::paths::StateDir;
use crate::image::Digest;
use crate::machine::qemu::Accel;
use layout::{NetFile, NodeFile};

/// This machine's loopback, as a guest behind QEMU's NAT sees it.
const HOST_IN_GUEST: &str = "10.0.2.2";
/// How much of a console an observation carries.
const TAIL_LINES: usize = 15;

/// The provider.
#[derive(Debug, Clone)]
pub struct Qemu {
    clusters: PathBuf,
    accel: Option<Accel>,
    throwaway: bool,
}

impl Qemu {
    /// Clusters under a state directory.
    pub fn new(state: &StateDir) -> Self {
        Self { clusters: state.clusters(), accel: None, throwaway: false }
    }

    /// What runs VMs that are started from now on. Without it a VM runs as it
    /// did before, and new ones are not started.
    #[must_use]
    pub fn accel(self, accel: Accel) -> Self {
        Self { accel: Some(accel), ..self }
    }

    /// Disks need not survive a crash of this machine: for nodes that are
    /// thrown away at once.
    #[must_use]
    pub fn throwaway(mut self) -> Self {
        self.throwaway = true;
        self
    }

    fn clusters(&self) -> &Path {
        &self.clusters
    }

    fn cluster_dir(&self, cluster: &ClusterName) -> PathBuf {
        self.clusters.join(cluster.as_str())
    }

    fn node_dir(&self, cluster: &ClusterName, node: &NodeName) -> PathBuf {
        layout::dir_of(&self.cluster_dir(cluster), &Subject::Node(node.clone()))
    }

    pub(super) fn caps() -> Caps {
        // A type 11 structure is at most 64 KiB, all its strings together.
        Caps { name: "qemu", max_seed: 32 * 1024, console: true, bios: true }
    }

    #[expect(clippy::unused_async, reason = "other providers ask a network")]
    pub(super) async fn preflight(&self, nodes: &[NodeSpec]) -> Vec<Finding> {
        host::preflight(self, nodes)
    }

    #[expect(clippy::unused_async, reason = "other providers ask a network")]
    pub(super) async fn list(&self, selector: &Selector) -> Result<Listing> {
        let mut listing = Listing::default();
        for (dir, subject) in layout::places(&self.cluster_dir(&selector.cluster))? {
            let id = dir.display().to_string();
            let checked = match subject {
                Some(subject) => layout::check_record(&dir, &subject, selector),
                None => Err(anyhow::anyhow!("has no name that Kiln gives")),
            };
            match checked {
                Ok(record) => listing.ours.push(Object { id, record }),
                Err(why) => listing.foreign.push((id, format!("{why:#}"))),
            }
        }
        Ok(listing)
    }

    /// A hard link, or a copy on another filesystem: whatever becomes of the
    /// file it was made of, a node's disk keeps what it was made over.
    pub(super) async fn ensure_image(&self, record: &Record, image: &LocalImage) -> Result<ImageRef> {
        let dir = layout::dir_of(&self.cluster_dir(&record.cluster), &record.subject);
        let made = {
            let (record, image, dir) = (record.clone(), image.clone(), dir.clone());
            let make = move || layout::ensure_dir(&dir, &record, |new| place_image(&image, new));
            tokio::task::spawn_blocking(make).await.context("placing the image")?
        };
        made.with_context(|| format!("taking the image {}", image.path.display()))?;
        Ok(ImageRef { digest: image.digest, id: dir.display().to_string() })
    }

    #[expect(clippy::unused_async, reason = "other providers ask a network")]
    pub(super) async fn ensure_net(&self, record: &Record) -> Result<NetRef> {
        let cluster = self.cluster_dir(&record.cluster);
        layout::ensure_dir(&layout::dir_of(&cluster, &Subject::Net), record, |new| {
            let name = format!("{}/{}", record.owner, record.cluster);
            let coordinator_port = ports::free_tcp(&name, &[])?;
            NetFile { coordinator_port, segment: ports::free_segment(&name)? }.write(new)
        })?;
        let port = NetFile::read(&cluster)?.coordinator_port;
        let reached_at = format!("{HOST_IN_GUEST}:{port}").parse()?;
        Ok(NetRef { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), reached_at })
    }

    pub(super) async fn ensure_node(
        &self,
        record: &Record,
        spec: &NodeSpec,
        seed: SeedWish,
    ) -> Result<Ensured> {
        let dir = self.node_dir(&spec.cluster, &spec.node);
        let made = layout::ensure_dir(&dir, record, |new| {
            let api_port = if spec.api { Some(self.choose_api_port(record, spec)?) } else { None };
            NodeFile { spec: spec.clone(), api_port }.write(new)
        })?;
        let node = NodeRef { cluster: spec.cluster.clone(), node: spec.node.clone() };
        let was = NodeFile::read(&dir)?;
        // A killed run may have left it unfinished: it is finished after the
        // specification it was begun with.
        machine::finish(&self.cluster_dir(&spec.cluster), &dir, &was.spec)
            .await
            .with_context(|| format!("making node {}", spec.node))?;
        let seed_file = dir.join(layout::SEED);
        match seed {
            // The credential's name stands before it; no newline after it.
            SeedWish::Give(seed) => {
                let text = zeroize::Zeroizing::new(format!("io.systemd.credential:kiln.seed={}", *seed));
                files::write(&seed_file, text.as_bytes())?;
            }
            SeedWish::Keep => {}
            SeedWish::Scrub => files::remove(&seed_file)?,
        }
        let drift = spec.drift_from(&was.spec);
        Ok(match drift.is_empty() {
            _ if made => Ensured::Created(node),
            true => Ensured::Adopted(node),
            false => Ensured::Drifted(node, Drift(drift)),
        })
    }

    fn choose_api_port(&self, record: &Record, spec: &NodeSpec) -> Result<u16> {
        // Ports of nodes that are off are free only to look at.
        let taken: Vec<u16> = std::fs::read_dir(&self.clusters)
            .into_iter()
            .flatten()
            .flatten()
            .flat_map(|cluster| layout::places(&cluster.path()).unwrap_or_default())
            .filter_map(|(dir, _)| NodeFile::read(&dir).ok()?.api_port)
            .collect();
        ports::free_tcp(&format!("{}/{}/{}", record.owner, spec.cluster, spec.node), &taken)
    }

    pub(super) async fn power(&self, node: &NodeRef, want: Power) -> Result<PowerState> {
        let cluster = self.cluster_dir(&node.cluster);
        let dir = self.node_dir(&node.cluster, &node.node);
        let power = machine::Machine { cluster: &cluster, dir: &dir, node };
        match want {
            Power::On => power.on(self.accel, self.throwaway).await,
            Power::Off => power.off().await,
            Power::Reset => power.reset().await,
        }
    }

    pub(super) async fn observe(&self, node: &NodeRef) -> Result<Observed> {
        let cluster = self.cluster_dir(&node.cluster);
        let dir = self.node_dir(&node.cluster, &node.node);
        let (power, reason) = machine::Machine { cluster: &cluster, dir: &dir, node }.state().await;
        let api_port = NodeFile::read(&dir)?.api_port;
        Ok(Observed {
            power,
            reason,
            powered_on: layout::PowerFile::read(&dir).map(|power| power.on),
            api: api_port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            console_tail: console::tail(&dir.join(layout::CONSOLE), TAIL_LINES),
        })
    }

    #[expect(clippy::unused_async, reason = "the shape of all providers")]
    pub(super) async fn console_key(&self, node: &NodeRef) -> Result<Option<Fingerprint>> {
        Ok(console::key(&self.node_dir(&node.cluster, &node.node).join(layout::CONSOLE)))
    }

    pub(super) async fn delete(&self, selector: &Selector, object: &Object) -> Result<Deleted> {
        // Where it is follows from what it is, not from what a list said.
        let subject = &object.record.subject;
        let dir = layout::dir_of(&self.cluster_dir(&selector.cluster), subject);
        if dir.symlink_metadata().is_err() {
            return Ok(Deleted::Absent);
        }
        layout::check_record(&dir, subject, selector)?;
        if matches!(subject, Subject::Node(_)) {
            machine::end_all(&dir).await?;
        }
        layout::remove_dir(&dir)?;
        Ok(Deleted::Removed)
    }
}

/// Puts an image into its directory and checks that it is the one it should be.
fn place_image(image: &LocalImage, dir: &Path) -> Result<()> {
    let place = dir.join(layout::DISK);
    if std::fs::hard_link(&image.path, &place).is_err() {
        std::fs::copy(&image.path, &place).context("copying it")?;
    }
    let found = Digest::of_file(&place)?;
    if found != image.digest {
        bail!(
            "its SHA-256 is {found}, its manifest says {}: the file was changed after it was packed; bake it \
             again",
            image.digest
        );
    }
    Ok(())
}
