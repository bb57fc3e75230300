//! What both stages that make a disk do before and after: one that was made
//! before is used again, a new one is kept.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::Bake;
use super::below::Below;
use super::store::{DISK, Found, New, Permit, Stored};
use crate::image::key::Key;
use crate::run::dirs::create_private;

/// A stage's disk that is there, or the place to make it.
pub(super) enum Begun {
    Reused(Stored),
    New(Making),
}

/// A stage that has begun.
pub(super) struct Making {
    stage: &'static str,
    below: Option<Below>,
    permit: Permit,
    begin: Instant,
    /// The stage's own directory.
    pub(super) dir: PathBuf,
    /// What of it is kept.
    pub(super) result: PathBuf,
    /// The disk in it.
    pub(super) disk: PathBuf,
}

impl Bake<'_> {
    /// Looks for the disk of a stage, over `below` if over any; begins the stage
    /// if there is none.
    pub(super) async fn begin(&self, stage: &'static str, key: &Key, below: Option<Below>) -> Result<Begun> {
        let permit = match self.store().find(stage, key, below.as_ref()).await? {
            Found::Ready(stored) => {
                self.reused(stage, &stored);
                return Ok(Begun::Reused(stored));
            }
            Found::Missing(permit) => permit,
        };
        let begin = self.stage_begins(stage);
        let dir = self.work.join(stage);
        let result = dir.join("result");
        create_private(&result)?;
        let disk = result.join(DISK);
        Ok(Begun::New(Making { stage, below, permit, begin, dir, result, disk }))
    }

    /// Keeps what the stage has made.
    pub(super) async fn keep(&self, made: Making, report: serde_json::Value) -> Result<Stored> {
        let Making { stage, below, permit, begin, result: dir, .. } = made;
        let version = self.inputs.version.to_string();
        let new = New { dir, version, below, seconds: begin.elapsed().as_secs_f64(), report };
        let stored = self.store().store(permit, new).await;
        let stored = stored.with_context(|| format!("keeping the disk of stage {stage}"))?;
        self.stage_ends(stage, begin);
        Ok(stored)
    }
}
