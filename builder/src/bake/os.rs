//! The os stage: the installer puts AlmaLinux on an empty disk.

use std::time::Instant;

use anyhow::{Context as _, Result};

use super::Bake;
use super::installer::{Installation, kernel_arguments};
use super::kickstart::{Stage, Template, Values};
use super::store::{self, Found, New, Stored};
use crate::image::Size;
use crate::image::key::{Key, KeyBuilder};
use crate::inputs::Inputs;
use crate::inputs::xorriso::Entry;
use crate::machine::qemu::{Firmware, OvmfFiles, img};
use crate::run::dirs::create_private;

/// Changes whenever this stage makes something else of the same inputs.
const VERSION: u32 = 1;
/// The stage's name.
pub(super) const STAGE: &str = "os";

/// What the stage's result depends on. The processors and the memory of the
/// installer's machine are not among it.
pub(super) fn key(inputs: &Inputs, template: &Template, disk_size: Size) -> Result<Key> {
    let values = Values::without_run(Stage::Os, inputs.k3s_selinux.is_some());
    let mut key = KeyBuilder::new(STAGE, VERSION)
        .with_digest("iso", inputs.media.iso.sha256)
        .with("kickstart", template.render(&values)?)
        .with("kernel arguments", kernel_arguments(&inputs.media))
        .with("disk size", disk_size.as_bytes().to_string());
    if let Some(rpm) = &inputs.k3s_selinux {
        key = key.with_digest("k3s-selinux", rpm.sha256);
    }
    Ok(key.key())
}

impl Bake<'_> {
    /// The installed disk, made now or before.
    pub(super) async fn os(&self, template: &Template, key: &Key) -> Result<Stored> {
        let store = self.store();
        let permit = match store.find(STAGE, key, None).await? {
            Found::Ready(stored) => {
                self.reused(STAGE, &stored);
                return Ok(stored);
            }
            Found::Missing(permit) => permit,
        };
        let begin = self.stage_begins(STAGE);
        let dir = self.work.join(STAGE);
        let result = dir.join("result");
        create_private(&result)?;
        let disk = result.join(store::DISK);
        img::create(&disk, self.options.disk_size.as_bytes()).await?;
        // UEFI, so that Anaconda sets that up; the kickstart adds BIOS.
        let (ovmf, vars) = (OvmfFiles::find()?, dir.join("vars.fd"));
        ovmf.instantiate(&vars)?;
        let firmware = Firmware::Ovmf { code: ovmf.code, vars };
        let rpm = self.inputs.k3s_selinux.as_ref();
        let values = Values::new(&self.run_id, Stage::Os, rpm.is_some());
        let installation = Installation {
            stage: Stage::Os,
            disk,
            firmware,
            kickstart: template.render(&values)?,
            volume: rpm
                .map(|rpm| Entry {
                    source: rpm.path.clone(),
                    target: "/k3s-selinux.rpm".into(),
                    executable: false,
                })
                .into_iter()
                .collect(),
        };
        self.install(&installation, &dir.join("machine")).await?;
        let report = serde_json::Value::Null;
        let version = self.inputs.version.to_string();
        let new = New { dir: result, version, backing: None, seconds: since(begin), report };
        let stored = store.store(permit, new).await.context("keeping the installed disk")?;
        self.stage_ends(STAGE, begin);
        Ok(stored)
    }
}

pub(super) fn since(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64()
}
