//! The inspect stage: the packed image is read by somebody else than the one
//! who sealed it. An image with findings is not published.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kiln_protocol::install::Login;
use serde::{Deserialize, Serialize};

use super::installer::StageFailed;
use super::{Bake, Options, bundle};
use crate::diagnose::{Class, Diagnosis, Source};
use crate::image::key::{Digest, KeyBuilder};
use crate::inputs::outlook::Known;
use crate::inspect::{self, Expected, Inspection};
use crate::run::dirs::create_private;

/// Changes whenever this stage makes something else of the same inputs.
const VERSION: u32 = 1;
/// The stage's name.
pub(super) const STAGE: &str = "inspect";
/// The report's name beside the image.
pub(super) const REPORT: &str = "inspect.json";

/// What is kept of an inspection without findings.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    seconds: f64,
    summary: String,
    report: serde_json::Value,
}

impl Kept {
    fn inspected(self) -> Result<Inspected> {
        Ok(Inspected { report: text(&self.report)?, summary: self.summary })
    }
}

/// An inspection without findings.
#[derive(Debug)]
pub(super) struct Inspected {
    /// It in one line.
    pub summary: String,
    /// All of it, as it stands beside the image.
    pub report: Vec<u8>,
}

/// What the image at hand must be.
fn expected(options: &Options, inputs: &Known) -> Expected {
    Expected {
        version: Some(inputs.version.to_string()),
        harden: options.order.harden.clone(),
        login: options.order.login.as_ref().map(Login::record),
        agent: Some(inputs.agent),
        k3s: inputs.k3s,
    }
}

/// Where the inspection of a disk is kept; none while an input it depends on
/// is not known.
fn place(options: &Options, inputs: &Known, disk: Digest) -> Result<Option<PathBuf>> {
    let (Some(iso), Some(_)) = (inputs.iso, inputs.k3s) else { return Ok(None) };
    let key = KeyBuilder::new(STAGE, VERSION).with_digest("disk", disk).with_digest("iso", iso);
    let key = inspect::key(key, &expected(options, inputs))?.finish();
    Ok(Some(options.cache.join("stages").join(STAGE).join(format!("{key}.json"))))
}

fn kept(place: &Path) -> Option<Kept> {
    serde_json::from_slice(&std::fs::read(place).ok()?).ok()
}

/// What an earlier inspection of this disk said, if nothing was found.
pub(super) fn known(options: &Options, inputs: &Known, disk: Digest) -> Result<Option<String>> {
    Ok(place(options, inputs, disk)?.and_then(|place| kept(&place)).map(|kept| kept.summary))
}

impl Bake<'_> {
    /// Inspects the image whose disk is at `disk`, unless that was done
    /// before; returns the report.
    pub(super) async fn inspect(&self, disk: &Path) -> Result<Inspected> {
        let known = self.inputs.known();
        let place = place(self.options, &known, self.hasher.hash(disk).await?.sha256)?;
        let place = place.context("an input that was checked is not known")?;
        if let Some(known) = kept(&place) {
            self.progress.step(STAGE, &known.summary);
            self.finish_stage(STAGE, known.seconds, true);
            return known.inspected();
        }
        let begin = self.stage_begins(STAGE);
        let installer = self.installer().await?;
        let work = self.work.join(STAGE);
        let expected = expected(self.options, &known);
        let inspection = Box::pin(inspect::inspect(disk, Some(expected), &installer, &work)).await?;
        if !inspection.ok {
            return Err(self.found(&inspection).await?.into());
        }
        for note in &inspection.notes {
            self.progress.step(STAGE, note);
        }
        self.progress.step(STAGE, inspection.summary());
        let seconds = begin.elapsed().as_secs_f64();
        let report = serde_json::to_value(&inspection)?;
        if let Some(dir) = place.parent() {
            create_private(dir)?;
        }
        let new = Kept { seconds, summary: inspection.summary(), report };
        super::store::write_whole(&place, &serde_json::to_vec(&new)?)?;
        self.stage_ends(STAGE, begin);
        new.inspected()
    }

    /// The failure that findings are; what was found is kept.
    async fn found(&self, inspection: &Inspection) -> Result<StageFailed> {
        let dir = bundle::dir(&self.options.state, &self.run_id);
        let diagnosis = diagnosis(inspection);
        let kept = bundle::write_findings(&dir, STAGE, &diagnosis, &text(inspection)?, self.tools().await?);
        if let Err(error) = &kept {
            self.progress.warn(format!("what was found could not be kept: {error:#}"));
        }
        let bundle = kept.is_ok().then_some(dir);
        Ok(StageFailed { stage: STAGE, diagnosis: Box::new(diagnosis), bundle })
    }
}

fn diagnosis(inspection: &Inspection) -> Diagnosis {
    let mut lines = inspection.findings.iter().map(ToString::to_string);
    let first = lines.next().unwrap_or_else(|| inspection.summary());
    Diagnosis::new(Class::Inspect, Source::Inspection, first).with_context(lines)
}

fn text(report: &impl Serialize) -> Result<Vec<u8>> {
    let mut json = serde_json::to_vec_pretty(report)?;
    json.push(b'\n');
    Ok(json)
}
