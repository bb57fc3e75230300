//! `builder inspect`: a second reader of a finished image, which shares
//! nothing with the program that sealed it and fails closed.
//!
//! ```text
//! qcow2 header, partition table, boot sectors     read on the host       ([`disk`])
//! files, modes, labels, digests, packages         told by the guest      ([`survey`])
//! rules                                           over both, on the host ([`judge`])
//! ```
//!
//! Images hold XFS, which nothing reads without root but a kernel: the install
//! medium's own kernel and second stage mount a throw-away overlay of the disk
//! read-only and tell what is there, over a virtio port. They judge nothing. A
//! survey without its end, or with something in it that could not be read, is
//! an error and never a clean image.

mod disk;
mod judge;
pub(crate) mod outside;
mod report;
mod survey;

use std::path::Path;

use anyhow::{Context as _, Result};

pub(crate) use disk::check_qcow2;
pub use disk::{DiskFacts, Partition};
pub use judge::{Check, Expected, Finding, Labels, Units};
pub use report::{Inspection, Loader};
pub use survey::{NotWhole, Package};

use crate::bake::installer::{Installation, Installer};
use crate::bake::kickstart::{Stage, Template, Values};
use crate::image::Manifest;
use crate::image::key::KeyBuilder;
use crate::inputs::xorriso::Entry;
use crate::machine::qemu::{Firmware, img};
use crate::run::dirs::create_private;

/// The script that tells what is there.
const SURVEY: &str = include_str!("../../../kickstart/survey.py");
/// Where it writes to.
const SURVEY_PORT: &str = "io.kiln.survey.0";
/// Changes whenever other rules apply.
const VERSION: u32 = 2;

impl Expected {
    /// What a manifest says of its image.
    pub fn of(manifest: &Manifest) -> Self {
        let input = |name: &str| manifest.inputs.get(name).map(|file| file.sha256);
        Self {
            version: Some(manifest.version.to_string()),
            harden: manifest.harden.clone(),
            login: manifest.login.clone(),
            agent: input("agent"),
            k3s: input("k3s"),
        }
    }
}

/// Adds everything the outcome depends on, besides the image itself.
pub(crate) fn key(key: KeyBuilder, expected: &Expected) -> Result<KeyBuilder> {
    Ok(key
        .with("rules", VERSION.to_string())
        .with("kickstart", Template::of(Stage::Inspect).render(&Values::without_run(Stage::Inspect, false))?)
        .with("survey", SURVEY)
        .with("wants", serde_json::to_vec(&judge::wants())?)
        .with("expected", serde_json::to_vec(expected)?))
}

/// Inspects `image` and leaves it as it is. `expected` is what it is said to
/// be; without it the image's own record counts. `work` is a directory for
/// what this needs, which is made.
pub(crate) async fn inspect(
    image: &Path,
    expected: Option<Expected>,
    installer: &Installer<'_>,
    work: &Path,
) -> Result<Inspection> {
    disk::check_qcow2(image)?;
    create_private(work)?;
    let facts = disk::read(image, work).await?;
    let overlay = work.join("overlay.qcow2");
    img::create_overlay(image, &overlay, None).await?;
    let (script, wants) = (work.join("survey.py"), work.join("survey.json"));
    let write = |path: &Path, bytes: &[u8]| {
        std::fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
    };
    write(&script, SURVEY.as_bytes())?;
    write(&wants, &serde_json::to_vec(&judge::wants())?)?;
    let entry = |source, target: &str| Entry { source, target: target.to_owned(), executable: false };
    let told = work.join("survey.jsonl");
    let installation = Installation {
        stage: Stage::Inspect,
        disk: overlay,
        // Nothing here depends on it, and it is the faster one.
        firmware: Firmware::SeaBios,
        kickstart: Template::of(Stage::Inspect).render(&Values::new(
            installer.run_id,
            Stage::Inspect,
            false,
        ))?,
        volume: vec![entry(script, "/survey.py"), entry(wants, "/survey.json")],
        port: Some((SURVEY_PORT, told.clone())),
    };
    installer.install(&installation, &work.join("machine")).await?;
    let survey = survey::Survey::read(&told, installer.run_id)?;
    let expected = expected.unwrap_or_else(|| own_word(&survey));
    Ok(Inspection::new(&survey, facts, expected))
}

/// What an image that comes without a manifest says of itself.
fn own_word(survey: &survey::Survey) -> Expected {
    let record = judge::record(survey);
    Expected {
        version: None,
        harden: record.as_ref().map(|record| record.harden.clone()).unwrap_or_default(),
        login: record.and_then(|record| record.login),
        agent: None,
        k3s: None,
    }
}
