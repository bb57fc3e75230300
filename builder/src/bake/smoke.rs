//! The smoke stage: throw-away clones of the packed image must become a
//! cluster. A disk that once has is not tried again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::Bake;
use crate::cluster::smoke::{self, Options};
use crate::image::key::{Digest, KeyBuilder};
use crate::run::dirs::create_private;

/// Changes whenever the clones have to show something else.
const VERSION: u32 = 1;
/// The stage's name.
pub(super) const STAGE: &str = "smoke";
/// Both clones are ready by then, under emulation on two busy cores too.
const TIMEOUT: Duration = Duration::from_secs(900);
/// Memory of a clone, in MiB: what k3s asks for.
const MEMORY_MIB: u32 = 2048;

fn record(cache: &Path, disk: Digest) -> PathBuf {
    let key = KeyBuilder::new(STAGE, VERSION).with_digest("disk", disk).finish();
    cache.join("stages").join(STAGE).join(format!("{key}.json"))
}

/// Whether the image with this disk was tried before, and how long that took,
/// in seconds.
pub(super) fn tried(cache: &Path, disk: Digest) -> Option<f64> {
    let known = std::fs::read(record(cache, disk)).ok()?;
    serde_json::from_slice::<serde_json::Value>(&known).ok()?["seconds"].as_f64()
}

impl Bake<'_> {
    /// Tries the image whose disk is at `disk`, unless it was tried before.
    pub(super) async fn smoke(&self, disk: &Path) -> Result<()> {
        let digest = self.hasher.hash(disk).await?.sha256;
        let record = record(&self.options.cache, digest);
        if let Some(seconds) = tried(&self.options.cache, digest) {
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
            tell: Box::new(move |line| progress.step(STAGE, line)),
        };
        let report = Box::pin(smoke::run(disk, options)).await.context(
            "the image was baked, but clones of it do not become a cluster (--no-smoke keeps it all the same)",
        )?;
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
