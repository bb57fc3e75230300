//! What goes where: the payload's files, and the links and records that make
//! them work.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use kiln_protocol::install::{BAKED_SEED, IMAGE_RECORD};
use kiln_protocol::seed::NodeSeed;
use rustix::fs::FileType;

use super::payload::{Payload, sha256};
use super::report::Placed;
use crate::root::{Access, Root};

pub(super) const AGENT: &str = "/usr/local/bin/agent";
pub(super) const K3S: &str = "/usr/local/bin/k3s";
const UNITS: &str = "/etc/systemd/system";
/// Files of the hardening baseline lie below it as they do below the root.
const HARDENING: &str = "hardening/";
const IMAGES: &str = "/var/lib/rancher/k3s/agent/images";
/// The names k3s answers to; upstream's install.sh makes the same links.
const K3S_LINKS: [&str; 3] = ["/usr/local/bin/kubectl", "/usr/local/bin/crictl", "/usr/local/bin/ctr"];
/// What `systemctl --root enable kiln-agent` would make. The k3s units stay
/// disabled until a node has once been ready.
const ENABLED: (&str, &str) = (
    "/etc/systemd/system/multi-user.target.wants/kiln-agent.service",
    "/etc/systemd/system/kiln-agent.service",
);
/// Without these there is no node.
const REQUIRED: [&str; 5] =
    ["agent", "k3s", "units/kiln-agent.service", "units/k3s.service", "units/k3s-agent.service"];
/// Room that must be left, in bytes: a full root does not boot.
const MARGIN: u64 = 64 * 1024 * 1024;

/// One file of the payload and its place.
#[derive(Debug, PartialEq, Eq)]
struct Placement {
    source: String,
    target: PathBuf,
    mode: u32,
}

/// Everything that is to be placed.
#[derive(Debug)]
pub(super) struct Plan {
    files: Vec<Placement>,
    unknown: Vec<String>,
}

impl Plan {
    pub(super) fn of(payload: &Payload) -> Self {
        let (mut files, mut unknown) = (Vec::new(), Vec::new());
        for source in payload.spec.files.keys() {
            match destination(source) {
                Some((target, mode)) => files.push(Placement { source: source.clone(), target, mode }),
                None => unknown.push(source.clone()),
            }
        }
        Self { files, unknown }
    }

    /// Refuses a payload that is not one, and a root that it does not fit into.
    pub(super) fn check_space(&self, root: &Root, payload: &Payload) -> Result<()> {
        if let Some(unknown) = self.unknown.first() {
            bail!("the payload holds {unknown}, and there is no place such a file would go to");
        }
        for required in REQUIRED {
            if !self.files.iter().any(|file| file.source == required) {
                bail!("the payload lacks {required}");
            }
        }
        let mut needed = MARGIN;
        for file in &self.files {
            let len = payload.len_of(&file.source)?;
            if root.meta(&file.target)?.is_none_or(|there| there.len != len) {
                needed += len;
            }
        }
        // /usr and /var are on one file system in our images; on a host that
        // divides them this is only the root's share of the truth.
        let free = root.free_space("/")?;
        if free < needed {
            let mib = |bytes: u64| bytes.div_ceil(1024 * 1024);
            bail!(
                "{} has {} MiB free, {} MiB are needed: make the root file system larger",
                root.path().display(),
                mib(free),
                mib(needed)
            );
        }
        Ok(())
    }

    /// Places everything.
    pub(super) fn carry_out(&self, root: &Root, payload: &Payload) -> Result<Vec<Placed>> {
        let mut placed = Vec::new();
        for file in &self.files {
            make_parent(root, &file.target)?;
            let changed = copy(root, payload, file)
                .with_context(|| format!("installing {} of the payload", file.source))?;
            placed.push(Placed { path: file.target.clone(), changed });
        }
        for link in K3S_LINKS {
            let changed = link_k3s(root, link)?;
            placed.push(Placed { path: link.into(), changed });
        }
        make_parent(root, Path::new(IMAGE_RECORD))?;
        let record =
            serde_json::to_string_pretty(&payload.spec.image).context("writing the image's record")?;
        let changed = root.put(IMAGE_RECORD, Access::ours(0o644), format!("{record}\n").as_bytes())?;
        placed.push(Placed { path: IMAGE_RECORD.into(), changed });
        if let Some(contact) = &payload.spec.coordinator {
            // Nothing of it is secret, so anybody may read it.
            let seed = NodeSeed::without_ticket(contact.clone()).to_text();
            let changed = root.put(BAKED_SEED, Access::ours(0o644), format!("{}\n", *seed).as_bytes())?;
            placed.push(Placed { path: BAKED_SEED.into(), changed });
        }
        let (link, unit) = ENABLED;
        make_parent(root, Path::new(link))?;
        placed.push(Placed { path: link.into(), changed: root.symlink(link, unit)? });
        Ok(placed)
    }
}

/// Where a file of the payload goes, and with which mode.
fn destination(source: &str) -> Option<(PathBuf, u32)> {
    if let Some(unit) = source.strip_prefix("units/") {
        return Some((Path::new(UNITS).join(unit), 0o644));
    }
    if let Some(image) = source.strip_prefix("images/") {
        return Some((Path::new(IMAGES).join(image), 0o644));
    }
    if let Some(path) = source.strip_prefix(HARDENING) {
        // sshd's configuration is for root alone, as in EL's own packages.
        let mode = if path.starts_with("etc/ssh/") { 0o600 } else { 0o644 };
        return Some((Path::new("/").join(path), mode));
    }
    match source {
        "agent" => Some((AGENT.into(), 0o755)),
        "k3s" => Some((K3S.into(), 0o755)),
        _ => None,
    }
}

fn make_parent(root: &Root, path: &Path) -> Result<()> {
    root.make_dirs(path.parent().unwrap_or(Path::new("/")), 0o755)
}

fn copy(root: &Root, payload: &Payload, file: &Placement) -> Result<bool> {
    let access = Access::ours(file.mode);
    if let Some(there) = root.meta(&file.target)?
        && there.kind == FileType::RegularFile
        && (Access { mode: there.mode, uid: there.uid, gid: there.gid }) == access
        && there.len == payload.len_of(&file.source)?
        && let Some(mut content) = root.open_file(&file.target)?
        && sha256(&mut content).context("comparing with what is there")? == payload.sha256_of(&file.source)
    {
        return Ok(false);
    }
    let mut source = payload.open(&file.source)?;
    root.put_from(&file.target, access, &mut source.by_ref())?;
    Ok(true)
}

/// Makes a link to k3s, unless something else has that name: a host may have
/// its own kubectl.
fn link_k3s(root: &Root, link: &str) -> Result<bool> {
    match root.meta(link)? {
        Some(meta) if meta.kind != FileType::Symlink => Ok(false),
        _ => root.symlink(link, "k3s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_file_has_its_place() {
        for (source, target, mode) in [
            ("agent", "/usr/local/bin/agent", 0o755),
            ("k3s", "/usr/local/bin/k3s", 0o755),
            ("units/k3s.service", "/etc/systemd/system/k3s.service", 0o644),
            ("units/k3s.service.d/x.conf", "/etc/systemd/system/k3s.service.d/x.conf", 0o644),
            ("hardening/etc/sysctl.d/60-kiln.conf", "/etc/sysctl.d/60-kiln.conf", 0o644),
            ("hardening/etc/ssh/sshd_config.d/x.conf", "/etc/ssh/sshd_config.d/x.conf", 0o600),
            ("images/a.tar.zst", "/var/lib/rancher/k3s/agent/images/a.tar.zst", 0o644),
        ] {
            assert_eq!(destination(source), Some((target.into(), mode)));
        }
        assert_eq!(destination("notes.txt"), None);
    }
}
