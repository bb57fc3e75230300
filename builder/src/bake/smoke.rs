//! The smoke stage: throw-away clones of the packed image must become a
//! cluster. A disk that once has is not tried again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_protocol::api::Step;
use serde_json::json;

use super::Bake;
use crate::cluster::smoke::{self, Options};
use crate::failure::BadInput;
use crate::image::key::{Digest, KeyBuilder};
use crate::provider::NodeFirmware;
use crate::run::dirs::create_private;

/// Changes whenever the clones have to show something else.
const VERSION: u32 = 2;
/// The stage's name.
pub(super) const STAGE: &str = "smoke";
/// All clones are ready by then, under emulation on two busy cores too.
const TIMEOUT: Duration = Duration::from_secs(900);
/// Memory of a clone, in MiB: what k3s asks for.
const MEMORY_MIB: u32 = 2048;

/// What can be told of `--smoke` alone.
pub(super) fn check(firmware: &[NodeFirmware]) -> Result<(), BadInput> {
    if firmware.len() == 1 {
        let why = "--smoke: two clones at least are needed, so that they can differ (--no-smoke tries none)";
        return Err(BadInput(why.to_owned()));
    }
    match firmware.iter().enumerate().find(|(index, one)| firmware[..*index].contains(one)) {
        Some((_, twice)) => Err(BadInput(format!("--smoke: {twice:?} is named twice"))),
        None => Ok(()),
    }
}

fn record(cache: &Path, disk: Digest, firmware: &[NodeFirmware]) -> PathBuf {
    let key =
        KeyBuilder::new(STAGE, VERSION).with_digest("disk", disk).with("firmware", format!("{firmware:?}"));
    let key = key.finish();
    cache.join("stages").join(STAGE).join(format!("{key}.json"))
}

/// Whether the image with this disk was tried before, and how long that took,
/// in seconds.
pub(super) fn tried(cache: &Path, disk: Digest, firmware: &[NodeFirmware]) -> Option<f64> {
    let known = std::fs::read(record(cache, disk, firmware)).ok()?;
    serde_json::from_slice::<serde_json::Value>(&known).ok()?["seconds"].as_f64()
}

impl Bake<'_> {
    /// Tries the image whose disk is at `disk`, unless it was tried before or
    /// is not to be tried.
    pub(super) async fn smoke(&self, disk: &Path) -> Result<()> {
        let firmware = &self.options.smoke;
        if firmware.is_empty() {
            return Ok(());
        }
        let digest = self.hasher.hash(disk).await?.sha256;
        let record = record(&self.options.cache, digest, firmware);
        if let Some(seconds) = tried(&self.options.cache, digest, firmware) {
            self.finish_stage(STAGE, seconds, true);
            return Ok(());
        }
        let begin = self.stage_begins(STAGE);
        let work = self.work.join(STAGE);
        create_private(&work)?;
        let progress = self.progress.clone();
        let options = Options {
            work,
            version: self.inputs.version.to_string(),
            k3s: self.inputs.k3s_version.to_string(),
            accel: self.accel().await?,
            timeout: TIMEOUT,
            memory_mib: MEMORY_MIB,
            firmware: firmware.clone(),
            tell: Box::new(move |line| progress.step(STAGE, line)),
        };
        let report = Box::pin(smoke::run(disk, options)).await.context(
            "the image was baked, but clones of it do not become a cluster (--no-smoke keeps it all the same)",
        )?;
        for node in &report.nodes {
            if let Some(time) = node.time(Step::Ready) {
                self.progress
                    .step(STAGE, format!("{} ready {:.0} s after power-on", node.node, time.as_secs_f64()));
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        if let Some(dir) = record.parent() {
            create_private(dir)?;
        }
        let text = serde_json::to_vec_pretty(&json!({ "seconds": seconds, "report": report }))?;
        std::fs::write(&record, text).with_context(|| format!("writing {}", record.display()))?;
        self.stage_ends(STAGE, begin);
        Ok(())
    }
}
