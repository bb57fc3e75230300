//! The os stage: the installer puts AlmaLinux on an empty disk.

use std::path::Path;

use anyhow::Result;

use super::installer::{Installation, kernel_arguments};
use super::kickstart::{Stage, Template, Values};
use super::making::Begun;
use super::store::Stored;
use super::{Bake, Order};
use crate::failure::BadInput;
use crate::image::Size;
use crate::image::key::{Key, KeyBuilder, Sketch};
use crate::inputs::outlook::Known;
use crate::inputs::xorriso::{self, Entry};
use crate::machine::qemu::{Firmware, OvmfFiles, img};

/// Changes whenever this stage makes something else of the same inputs.
const VERSION: u32 = 1;
/// The stage's name.
pub(super) const STAGE: &str = "os";
/// Where `OpenSCAP`'s report is sent to.
const OSCAP_PORT: &str = "io.kiln.oscap.0";
/// `OpenSCAP`'s report, beside the disk.
pub(super) const OSCAP_REPORT: &str = "oscap.html";
/// What `OpenSCAP` needs.
const OSCAP_PACKAGES: [&str; 2] = ["openscap-scanner", "scap-security-guide"];

/// Whether the medium `iso` offers what the order needs.
pub(super) async fn check(iso: &Path, order: &Order) -> Result<()> {
    let Some(profile) = order.harden.profile() else { return Ok(()) };
    for package in OSCAP_PACKAGES {
        if xorriso::find(iso, &format!("{package}-[0-9]*.rpm")).await?.is_empty() {
            return Err(BadInput(format!(
                "--harden oscap:{profile}: the medium {} has no package {package}; use AlmaLinux's DVD image, \
                 or --harden baseline",
                iso.display()
            ))
            .into());
        }
    }
    Ok(())
}

/// What the stage's result depends on. The processors and the memory of the
/// installer's machine are not among it.
pub(super) fn key(inputs: &Known, template: &Template, disk_size: Size, order: &Order) -> Result<Sketch> {
    let values = Values::without_run(Stage::Os, inputs.k3s_selinux.is_some());
    let values = values.with_oscap(order.harden.profile());
    let mut key = KeyBuilder::new(STAGE, VERSION)
        .sketch()
        .with_digest("iso", inputs.iso)
        .with("kickstart", Some(template.render(&values)?))
        .with("kernel arguments", inputs.media.as_ref().map(kernel_arguments))
        .with("disk size", Some(disk_size.as_bytes().to_string()));
    if let Some(rpm) = inputs.k3s_selinux {
        key = key.with_digest("k3s-selinux", rpm);
    }
    Ok(key.finish())
}

impl Bake<'_> {
    /// The installed disk, made now or before.
    pub(super) async fn os(&self, template: &Template, key: &Key) -> Result<Stored> {
        let making = match self.begin(STAGE, key, None).await? {
            Begun::Reused(stored) => return Ok(stored),
            Begun::New(making) => making,
        };
        img::create(&making.disk, self.options.disk_size.as_bytes()).await?;
        // UEFI, so that Anaconda sets that up; the kickstart adds BIOS.
        let (ovmf, vars) = (OvmfFiles::find()?, making.dir.join("vars.fd"));
        ovmf.instantiate(&vars)?;
        let firmware = Firmware::Ovmf { code: ovmf.code, vars };
        let rpm = self.inputs.k3s_selinux.as_ref();
        let values = Values::new(&self.run_id, Stage::Os, rpm.is_some());
        let profile = self.options.order.harden.profile();
        let report = making.result.join(OSCAP_REPORT);
        let installation = Installation {
            stage: Stage::Os,
            disk: making.disk.clone(),
            firmware,
            kickstart: template.render(&values.with_oscap(profile))?,
            volume: rpm
                .map(|rpm| Entry {
                    source: rpm.path.clone(),
                    target: "/k3s-selinux.rpm".into(),
                    executable: false,
                })
                .into_iter()
                .collect(),
            port: profile.map(|_| (OSCAP_PORT, report.clone())),
        };
        self.install(&installation, &making.dir.join("machine")).await?;
        if profile.is_some() && std::fs::metadata(&report).map_or(0, |report| report.len()) == 0 {
            anyhow::bail!("OpenSCAP's report did not arrive, so nobody knows what it did");
        }
        self.keep(making, serde_json::Value::Null).await
    }
}
