//! The bake: `inputs -> os -> node -> pack -> inspect -> smoke`.
//!
//! ```text
//! inputs   everything is there and is what it should be   (nothing is touched before)
//! os       the installer puts AlmaLinux on an empty disk  -> disk.qcow2
//! node     agent, k3s, units; sealed                      -> overlay of os
//! pack     one compressed disk, manifest, digests         -> <out>/<version>
//! inspect  read by somebody else than who sealed it       before pack's result is moved there
//! smoke    clones become a cluster                        before pack's result is moved there
//! ```
//!
//! The results of `os` and `node` are kept in the cache under the digest of
//! everything they depend on (see [`store`]); the keys of all stages are known
//! once the inputs are, so that a name that is taken is refused at once.

pub mod below;
mod bundle;
pub mod explain;
mod inspect;
pub(crate) mod installer;
pub mod kickstart;
mod making;
mod node;
mod os;
mod pack;
mod publish;
mod smoke;
pub mod store;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kiln_protocol::install::{Hardening, Login};
use kiln_protocol::seed::Contact;
use tokio::sync::OnceCell;

pub use installer::{MachineSize, StageFailed};
pub use pack::Form;

use crate::failure::BadInput;
use crate::image::key::{Digest, Key};
use crate::image::manifest::{FileRecord, StageRecord};
use crate::image::sign::{Signed, sign, signed_by};
use crate::image::signature::Signer;
use crate::image::{Manifest, Size};
use crate::inputs::digest::Hasher;
use crate::inputs::{Inputs, Place, Wanted, xorriso};
use crate::machine::qemu::accel::{self, Evidence};
use crate::machine::qemu::{Accel, AccelChoice, img};
use crate::progress::{Event, Progress};
use crate::provider::NodeFirmware;
use crate::run::{Run, RunId, dirs::create_private, orphans};
#[cfg(test)]
pub(crate) use node::hardening_files;

use kickstart::{Stage, Template, Values};
use pack::Existing;
use store::{Store, Stored};

/// The partitions of `alma9.ks` leave this much for packages and images.
const SMALLEST_DISK: Size = Size::gib(4);
/// Anaconda's text mode with its second stage in memory.
const SMALLEST_MEMORY: Size = Size::mib(1536);
/// What a bake needs on the cache's file system, roughly.
const ROOM: Size = Size::gib(4);

/// What becomes of what a failed bake has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum OnError {
    /// It is removed; logs and a screenshot are kept.
    #[default]
    Cleanup,
    /// It stays, disks included, until `builder gc --yes`.
    Keep,
}

/// How the packed disk is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Compression {
    /// Fast and small; QEMU 5.1 and newer read it.
    #[default]
    Zstd,
    /// For older QEMUs.
    Zlib,
}

impl Compression {
    fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Zlib => "zlib",
        }
    }
}

/// What a bake is asked for.
#[derive(Debug)]
pub struct Options {
    /// What it is to be made from.
    pub wanted: Wanted,
    /// The os stage's kickstart, instead of Kiln's own.
    pub kickstart: Option<PathBuf>,
    /// The coordinator that a node without a ticket asks for approval.
    pub coordinator: Option<Contact>,
    /// Where `<version>/` goes.
    pub out: PathBuf,
    /// Where results of stages are kept.
    pub cache: PathBuf,
    /// Where runs are recorded.
    pub state: PathBuf,
    /// What runs the machines.
    pub accel: AccelChoice,
    /// What the installer's machine is made of.
    pub machine: MachineSize,
    /// The disk's size as a node sees it.
    pub disk_size: Size,
    /// How the disk is compressed.
    pub compression: Compression,
    /// The forms of the disk to make beside the qcow2.
    pub also: BTreeSet<Form>,
    /// What signs the result, if anything does.
    pub signer: Option<Signer>,
    /// What becomes of what a failed bake has made.
    pub on_error: OnError,
    /// What the image is to be beyond a node.
    pub order: Order,
    /// What starts the clones of the image that are tried; empty for none.
    pub smoke: Vec<NodeFirmware>,
    /// After how long without a sign of life a machine counts as hanging.
    pub stall_after: Option<Duration>,
}

/// What an image is to be beyond a node.
#[derive(Debug, Clone)]
pub struct Order {
    /// How it is hardened.
    pub harden: Hardening,
    /// Its break-glass login.
    pub login: Option<Login>,
}

/// A finished bake.
#[derive(Debug)]
pub struct Baked {
    /// The directory with the image.
    pub dir: PathBuf,
    /// What it is.
    pub manifest: Manifest,
    /// What its inspection said, in one line.
    pub inspection: String,
    /// The stages of this run.
    pub stages: Vec<StageRecord>,
    /// Whether it was there already.
    pub existed: bool,
}

/// A bake in progress: what its stages have in common.
struct Bake<'a> {
    options: &'a Options,
    inputs: &'a Inputs,
    run_id: RunId,
    work: PathBuf,
    hasher: &'a Hasher,
    progress: &'a Progress,
    tools: OnceCell<BTreeMap<String, String>>,
    accel: OnceCell<Accel>,
    finished: Mutex<Vec<StageRecord>>,
}

/// Bakes an image. Dropped half-way (Ctrl-C), everything it made goes with it.
pub async fn bake(options: &Options, progress: &Progress) -> Result<Baked> {
    check(options)?;
    let what = format!("bake {}", options.wanted.version);
    let mut run = Run::start(&options.state, &what)?;
    progress.tell(&Event::Run { run: run.id().to_string(), what });
    let work = options.cache.join("tmp").join(run.id().as_str());
    let packed = options.out.join(format!(".{}.{}", options.wanted.version, run.id()));
    run.own(&work)?;
    run.own(&packed)?;
    run.locks_in(&store::locks_dir(&options.cache))?;
    let outcome = in_run(options, progress, run.id(), &work, &packed).await;
    if outcome.is_err() && options.on_error == OnError::Keep {
        progress.warn(format!("kept: {} (`builder gc --yes` removes it)", work.display()));
        run.keep()?;
    }
    outcome
}

async fn in_run(
    options: &Options,
    progress: &Progress,
    run_id: &RunId,
    work: &Path,
    packed: &Path,
) -> Result<Baked> {
    create_private(work)?;
    orphans::claim(work)?;
    let begin = Instant::now();
    progress.tell(&Event::StageStarted { stage: "inputs" });
    let hasher = Hasher::new(&options.cache);
    let Prepared { template, inputs, os_key, node_key, key } =
        prepare(options, progress, &hasher, work, run_id).await?;
    let existing = pack::existing(&options.out, &inputs.version, key, &hasher).await?;
    let bake = Bake {
        options,
        inputs: &inputs,
        run_id: run_id.clone(),
        work: work.to_owned(),
        hasher: &hasher,
        progress,
        tools: OnceCell::new(),
        accel: OnceCell::new(),
        finished: Mutex::default(),
    };
    bake.stage_ends("inputs", begin);

    let dir = options.out.join(inputs.version.to_string());
    let unsigned = match (&existing, &options.signer) {
        // Another's signature is told before machines run.
        (Existing::Same(_), Some(signer)) => signed_by(&dir, signer)? == Signed::Not,
        _ => false,
    };
    let (manifest, inspection, existed) = match existing {
        Existing::Same(manifest) => {
            for stage in manifest
                .stages
                .iter()
                .filter(|stage| !["inputs", inspect::STAGE, smoke::STAGE].contains(&&*stage.stage))
            {
                let name =
                    [os::STAGE, node::STAGE, pack::STAGE].into_iter().find(|name| *name == stage.stage);
                bake.finish_stage(name.unwrap_or(pack::STAGE), stage.seconds, true);
            }
            let inspected = bake.inspect(&dir.join(&manifest.qcow2_path)).await?;
            bake.smoke(&dir.join(&manifest.qcow2_path)).await?;
            if let Some(signer) = options.signer.as_ref().filter(|_| unsigned) {
                let path = sign(&dir, signer).await?;
                progress.step(pack::STAGE, format!("signed: {}", path.display()));
            }
            (*manifest, inspected.summary, true)
        }
        Existing::None => {
            let out = &options.out;
            std::fs::create_dir_all(out).with_context(|| format!("creating directory {}", out.display()))?;
            room(&options.cache, progress);
            // What a bake needs is missed now rather than in its middle.
            bake.tools().await?;
            let os = bake.os(&template, &os_key).await?;
            let node = bake.node(&os, &node_key).await?;
            let packed = bake.pack(&node, packed).await?;
            let inspected = bake.inspect(&packed.disk).await?;
            bake.smoke(&packed.disk).await?;
            let manifest = bake.publish(packed, (&os, &node), &inspected.report, key).await?;
            (manifest, inspected.summary, false)
        }
    };
    hasher.remember()?;
    inputs.record(&options.cache, progress).await?;
    let stages = bake.finished.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Baked { dir, manifest, inspection, stages, existed })
}

/// What is to be made from what, and the key of each stage's result.
struct Prepared {
    template: Template,
    inputs: Inputs,
    os_key: Key,
    node_key: Key,
    /// The packed image's.
    key: Digest,
}

/// Checks the inputs; `work` is an existing directory of this run.
async fn prepare(
    options: &Options,
    progress: &Progress,
    hasher: &Hasher,
    work: &Path,
    run_id: &RunId,
) -> Result<Prepared> {
    let (template, offers) = begin(options).await?;
    let place = Place { cache: &options.cache, work, run: run_id };
    let inputs = Box::pin(Inputs::check(options.wanted.clone(), hasher, place, progress)).await?;
    if offers == Offers::Unknown {
        os::check(&inputs.media.iso.path, &options.order).await?;
    }
    let known = inputs.known();
    let unknown = "an input that was checked is not known";
    let os = os::key(&known, &template, options.disk_size, &options.order)?;
    let os_key = os.key().context(unknown)?;
    let node = node::key(&known, Some(os_key.digest), &options.order, options.coordinator.as_ref())?;
    let node_key = node.key().context(unknown)?;
    let key = pack::key(node_key.digest, options.compression, &options.also);
    Ok(Prepared { template, inputs, os_key, node_key, key })
}

/// Whether the medium has what is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offers {
    /// It was looked into.
    All,
    /// It is not at hand yet.
    Unknown,
}

/// What can be told at once: the template, and of a medium that was given by
/// path what it offers; what follows reads gigabytes.
async fn begin(options: &Options) -> Result<(Template, Offers)> {
    let template =
        options.kickstart.as_deref().map_or_else(|| Ok(Template::of(Stage::Os)), Template::read)?;
    let values = Values::without_run(Stage::Os, options.wanted.k3s_selinux.is_wanted());
    template.render(&values.with_oscap(options.order.harden.profile()))?;
    let Some(iso) = options.wanted.iso_file().filter(|iso| iso.is_file()) else {
        return Ok((template, Offers::Unknown));
    };
    crate::inputs::media::volume_id(iso)?;
    os::check(iso, &options.order).await?;
    Ok((template, Offers::All))
}

/// Gets and checks what an image is to be made from, and does no more: what a
/// bake without a network needs is in the cache then. The files, by what they are.
pub async fn fetch(options: &Options, progress: &Progress) -> Result<BTreeMap<String, FileRecord>> {
    check(options)?;
    let mut run = Run::start(&options.state, &format!("bake --fetch {}", options.wanted.version))?;
    let work = options.cache.join("tmp").join(run.id().as_str());
    run.own(&work)?;
    create_private(&work)?;
    orphans::claim(&work)?;
    let hasher = Hasher::new(&options.cache);
    let prepared = Box::pin(prepare(options, progress, &hasher, &work, run.id())).await?;
    Ok(prepared.inputs.records())
}

/// What can be told from the options alone.
fn check(options: &Options) -> Result<(), BadInput> {
    let at_least = |option: &str, given: Size, least: Size| {
        let why = format!("{option} {given} is too small: at least {least} is needed");
        if given < least { Err(BadInput(why)) } else { Ok(()) }
    };
    at_least("--disk-size", options.disk_size, SMALLEST_DISK)?;
    at_least("--memory", options.machine.memory, SMALLEST_MEMORY)?;
    smoke::check(&options.smoke)
}

/// A warning when the disk is likely to be too small.
fn room(cache: &Path, progress: &Progress) {
    let Ok(stat) = nix::sys::statvfs::statvfs(cache) else { return };
    let free = Size::bytes(stat.blocks_available() * stat.fragment_size());
    if free < ROOM {
        progress.warn(format!("{} has only {free} left, a bake needs about {ROOM}", cache.display()));
    }
}

pub(crate) async fn tools() -> Result<BTreeMap<String, String>> {
    let (qemu, qemu_img, xorriso) = tokio::try_join!(accel::version(), img::version(), xorriso::version())
        .context("asking the programs a bake needs for their versions")?;
    Ok(BTreeMap::from([
        ("builder".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("qemu".to_owned(), qemu),
        ("qemu-img".to_owned(), qemu_img),
        ("xorriso".to_owned(), xorriso),
    ]))
}

impl Bake<'_> {
    fn store(&self) -> Store<'_> {
        Store::new(&self.options.cache, self.hasher, self.progress)
    }

    /// Versions of the programs that take part.
    async fn tools(&self) -> Result<&BTreeMap<String, String>> {
        self.tools.get_or_try_init(tools).await
    }

    /// What runs the machines: decided when the first one is needed.
    async fn accel(&self) -> Result<Accel> {
        let decide = async || {
            let evidence = Evidence::Kernel(&self.inputs.media.kernel);
            let decision =
                accel::decide(self.options.accel, evidence, &self.options.cache, &self.work).await?;
            if let Some(warning) = decision.warning {
                self.progress.warn(warning);
            }
            Ok::<_, anyhow::Error>(decision.accel)
        };
        self.accel.get_or_try_init(decide).await.copied()
    }

    fn stage_begins(&self, stage: &'static str) -> Instant {
        self.progress.tell(&Event::StageStarted { stage });
        Instant::now()
    }

    fn stage_ends(&self, stage: &'static str, begin: Instant) {
        self.finish_stage(stage, begin.elapsed().as_secs_f64(), false);
    }

    fn reused(&self, stage: &'static str, stored: &Stored) {
        self.finish_stage(stage, stored.made.seconds, true);
    }

    fn finish_stage(&self, stage: &'static str, seconds: f64, cached: bool) {
        self.progress.tell(&Event::StageFinished { stage, seconds, cached });
        let record = StageRecord { stage: stage.to_owned(), seconds, cached };
        self.finished.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    }
}
