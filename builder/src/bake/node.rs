//! The node stage: agent, k3s and units onto the installed disk, sealed. The
//! disk has never booted and does not boot here either.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use kiln_protocol::install::{Hardening, INSTALL_SPEC, ImageRecord, InstallSpec, Login};
use kiln_protocol::seed::Contact;

use super::installer::Installation;
use super::kickstart::{Stage, Template, Values};
use super::making::Begun;
use super::store::Stored;
use super::{Bake, Order};
use crate::image::key::{Digest, Key, KeyBuilder, Sketch};
use crate::inputs::outlook::Known;
use crate::inputs::xorriso::Entry;
use crate::machine::qemu::{Firmware, img};
use crate::run::dirs::create_private;

/// Changes whenever this stage makes something else of the same inputs.
const VERSION: u32 = 1;
/// The stage's name.
pub(super) const STAGE: &str = "node";
/// Where on the volume the payload is.
const PAYLOAD: &str = "/payload";
/// The format of `install.json`.
const SPEC_FORMAT: u32 = 1;

/// The units of the image.
const UNITS: [(&str, &str); 3] = [
    ("units/kiln-agent.service", include_str!("../../../units/kiln-agent.service")),
    ("units/k3s.service", include_str!("../../../units/k3s.service")),
    ("units/k3s-agent.service", include_str!("../../../units/k3s-agent.service")),
];

/// The files of the hardening baseline, by their path in the payload.
const HARDENING: [(&str, &str); 3] = [
    (
        "hardening/etc/ssh/sshd_config.d/00-kiln.conf",
        include_str!("../../../hardening/etc/ssh/sshd_config.d/00-kiln.conf"),
    ),
    ("hardening/etc/sysctl.d/60-kiln.conf", include_str!("../../../hardening/etc/sysctl.d/60-kiln.conf")),
    ("hardening/etc/modprobe.d/kiln.conf", include_str!("../../../hardening/etc/modprobe.d/kiln.conf")),
];

/// Our own files of an image that is hardened so.
fn own_files(harden: &Hardening) -> impl Iterator<Item = (&'static str, &'static str)> {
    UNITS.into_iter().chain(HARDENING.into_iter().filter(|_| harden.has_baseline()))
}

/// The files of the baseline, by their path in the image.
#[cfg(test)]
pub(crate) fn hardening_files() -> impl Iterator<Item = (&'static str, &'static str)> {
    HARDENING.into_iter().map(|(name, text)| (name.trim_start_matches("hardening/"), text))
}

/// A file of the payload.
#[derive(Debug, PartialEq, Eq)]
struct Part<D> {
    /// Its place in the payload.
    name: String,
    /// Its digest, known or not.
    sha256: D,
    executable: bool,
}

fn parts<D: From<Digest>>(
    agent: D,
    k3s: D,
    images: impl IntoIterator<Item = (String, D)>,
    harden: &Hardening,
) -> Vec<Part<D>> {
    let part = |name: &str, sha256, executable| Part { name: name.to_owned(), sha256, executable };
    let mut parts = vec![part("agent", agent, true), part("k3s", k3s, true)];
    parts.extend(own_files(harden).map(|(name, text)| part(name, Digest::of(text.as_bytes()).into(), false)));
    parts.extend(images.into_iter().map(|(name, sha256)| part(&format!("images/{name}"), sha256, false)));
    parts
}

/// What the stage's result depends on.
pub(super) fn key(
    inputs: &Known,
    os: Option<Digest>,
    order: &Order,
    coordinator: Option<&Contact>,
) -> Result<Sketch> {
    let values = Values::without_run(Stage::Node, inputs.k3s_selinux.is_some());
    let mut key = KeyBuilder::new(STAGE, VERSION)
        .sketch()
        .with_digest("os", os)
        .with("kickstart", Some(Template::of(Stage::Node).render(&values)?))
        .with("version", Some(inputs.version.to_string()))
        .with("k3s version", Some(inputs.k3s_version.as_str()))
        .with("hardening", Some(order.harden.to_string()))
        // A key remembers its parts, and nobody needs to remember a hash.
        .with_digest("login", Some(Digest::of(&serde_json::to_vec(&order.login)?)));
    if let Some(contact) = coordinator {
        key = key.with("coordinator", Some(serde_json::to_string(contact)?));
    }
    for part in parts(Some(inputs.agent), inputs.k3s, inputs.k3s_images.clone(), &order.harden) {
        key = key.with_digest(&part.name, part.sha256);
    }
    Ok(key.finish())
}

impl Bake<'_> {
    /// The node's disk, made now or before: an overlay of `os`.
    pub(super) async fn node(&self, os: &Stored, key: &Key) -> Result<Stored> {
        let making = match self.begin(STAGE, key, Some(os.below())).await? {
            Begun::Reused(stored) => return Ok(stored),
            Begun::New(making) => making,
        };
        img::create_overlay(&os.disk, &making.disk, None).await?;
        let values = Values::new(&self.run_id, Stage::Node, self.inputs.k3s_selinux.is_some());
        let installation = Installation {
            stage: Stage::Node,
            disk: making.disk.clone(),
            // Nothing here depends on it, and it is the faster one.
            firmware: Firmware::SeaBios,
            kickstart: Template::of(Stage::Node).render(&values)?,
            volume: self.payload(&making.dir.join("payload"))?,
            port: None,
        };
        let done = self.install(&installation, &making.dir.join("machine")).await?;
        let report = done.report.context("`agent install` succeeded without its report")?;
        let report = serde_json::from_str(&report).context("reading the report of `agent install`")?;
        self.keep(making, report).await
    }

    /// The payload: our own files are written to `dir`, the inputs are taken
    /// from where they are.
    fn payload(&self, dir: &Path) -> Result<Vec<Entry>> {
        let inputs = self.inputs;
        let Order { harden, login } = &self.options.order;
        let images = inputs.k3s_images.iter().map(|image| (image.name(), image.sha256));
        let parts = parts(inputs.agent.sha256, inputs.k3s.sha256, images, harden);
        let spec = InstallSpec {
            format: SPEC_FORMAT,
            run: self.run_id.to_string(),
            image: ImageRecord {
                version: inputs.version.to_string(),
                k3s: inputs.k3s_version.clone(),
                harden: harden.clone(),
                login: login.as_ref().map(Login::record),
            },
            login: login.clone(),
            files: parts.iter().map(|part| (part.name.clone(), part.sha256.to_string())).collect(),
            coordinator: self.options.coordinator.clone(),
        };
        let spec = serde_json::to_string_pretty(&spec)?;
        let mut sources = BTreeMap::from([
            ("agent".to_owned(), inputs.agent.path.clone()),
            ("k3s".to_owned(), inputs.k3s.path.clone()),
        ]);
        for image in &inputs.k3s_images {
            sources.insert(format!("images/{}", image.name()), image.path.clone());
        }
        let mut files: Vec<(&str, &str)> = own_files(harden).collect();
        files.push((INSTALL_SPEC, &spec));
        for (name, text) in files {
            let path = dir.join(name);
            if let Some(parent) = path.parent() {
                create_private(parent)?;
            }
            std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            sources.insert(name.to_owned(), path);
        }
        let executable = |name: &str| parts.iter().any(|part| part.name == name && part.executable);
        let entry = |(name, source): (String, _)| Entry {
            source,
            executable: executable(&name),
            target: format!("{PAYLOAD}/{name}"),
        };
        Ok(sources.into_iter().map(entry).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_coordinator::plan::placeholder;

    #[test]
    fn nothing_of_ours_is_left_to_fill_in() {
        for (name, text) in own_files(&Hardening::Baseline) {
            assert_eq!(placeholder::find(text), None, "{name}");
        }
    }

    #[test]
    fn an_image_that_is_not_hardened_has_only_the_units() {
        assert_eq!(own_files(&Hardening::None).count(), UNITS.len());
        assert_eq!(own_files(&Hardening::Baseline).count(), UNITS.len() + HARDENING.len());
    }
}
