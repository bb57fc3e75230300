//! Whether this host can bake and run nodes: what was found, and the remedy for
//! what is missing, in the words of the host's own distribution.
//!
//! | module | what it checks |
//! |---|---|
//! | [`host`] | KVM, memory, room on disk |
//! | [`kickstart`] | whether the kickstarts parse |
//! | [`network`] | whether what is downloaded can be reached |
//! | [`programs`] | programs, their versions, firmware |
//! | [`remedy`] | how packages are installed here |

pub mod host;
pub mod kickstart;
pub mod network;
pub mod programs;
pub mod remedy;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::image::VersionName;
use crate::inputs::network::Network;
use crate::run::dirs::create_private;
use crate::run::{Run, orphans};
use remedy::Family;

/// Any image's name: of it, only the system and the architecture matter here.
const ANY: &str = "alma9-k3-node-amd64-v1.0.0-v1";

/// How it is with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Kiln works, but not as well as it could, or not all of it.
    Warning,
    /// Kiln does not work without it.
    Missing,
}

/// What was found of one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The thing: `qemu-img`, `kvm`, `memory`.
    pub name: String,
    /// How it is with it.
    pub status: Status,
    /// What was found, in one sentence without a full stop.
    pub found: String,
    /// What to do about it: a command where there is one.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(name: &str, found: impl Into<String>) -> Self {
        Self { name: name.to_owned(), status: Status::Ok, found: found.into(), remedy: None }
    }

    fn warning(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (found, remedy) = (found.into(), Some(remedy.into()));
        Self { name: name.to_owned(), status: Status::Warning, found, remedy }
    }

    fn missing(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status: Status::Missing, ..Self::warning(name, found, remedy) }
    }
}

/// All that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing is missing.
    pub ok: bool,
    /// The distribution the remedies are for.
    pub distribution: Family,
    /// One finding a thing, in the order of a bake.
    pub findings: Vec<Finding>,
}

/// What is checked.
#[derive(Debug)]
pub struct Options {
    /// Where results of stages would be kept.
    pub cache: PathBuf,
    /// Where runs are recorded.
    pub state: PathBuf,
    /// A kickstart of the user's own for the os stage.
    pub kickstart: Option<PathBuf>,
    /// What downloads may use.
    pub network: Network,
}

/// Checks everything.
pub async fn check(options: &Options) -> Result<Report> {
    let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let family = Family::of(&os_release);
    let mut run = Run::start(&options.state, "preflight")?;
    let work = options.cache.join("tmp").join(run.id().as_str());
    run.own(&work)?;
    create_private(&work)?;
    orphans::claim(&work)?;
    let mut findings = programs::check(family).await;
    findings.push(host::kvm(&options.cache, &work).await);
    findings.push(host::memory(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()));
    findings.push(host::room(&options.cache));
    findings.extend(kickstart::check(options.kickstart.as_deref(), &work, family).await);
    if !options.network.offline {
        let version: VersionName = ANY.parse().context("naming an image")?;
        findings.extend(network::check(&options.network, &version).await?);
    }
    let ok = findings.iter().all(|finding| finding.status != Status::Missing);
    Ok(Report { ok, distribution: family, findings })
}

/// Where in `PATH` a program is, for messages.
fn shown(path: &Path) -> String {
    path.display().to_string()
}
