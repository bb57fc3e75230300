//! `builder inspect`: reads a finished image and says what is in it.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::bake::MachineSize;
use crate::bake::installer::Installer;
use crate::failure::BadInput;
use crate::image::manifest::MANIFEST;
use crate::image::{Manifest, Size, VersionName};
use crate::inputs::digest::Hasher;
use crate::inputs::media::{self, Media};
use crate::inspect::{self, Expected};
use crate::machine::qemu::AccelChoice;
use crate::machine::qemu::accel::{self, Evidence};
use crate::progress::{Progress, Style};
use crate::run::{Run, dirs, dirs::create_private};

/// An image that comes without a manifest is taken for one of these: only the
/// major version and the architecture matter, for the medium.
const UNNAMED: &str = "alma9-k3-node-amd64-v1.0.0-v1";

pub(super) const HELP: &str = "The disk is read by the kernel of the install medium, which mounts a throw-away overlay \
of it: nothing is changed and no root is needed.\n\n\
Exit codes: 0 nothing found, 1 something was found or the image could not be read through, 2 what was asked \
for cannot be.\n\n\
Examples:\n  builder inspect images/alma9-k3-node-amd64-v1.28.5-v1 --iso AlmaLinux-9.5-x86_64-dvd.iso\n  \
builder inspect disk.qcow2 --iso AlmaLinux-9.5-x86_64-dvd.iso --json";

/// Arguments of `builder inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image: its directory, or a qcow2 disk. What a manifest beside it says is compared.
    image: PathBuf,
    /// AlmaLinux's DVD image, whose kernel reads the disk.
    #[arg(long, value_name = "FILE")]
    iso: PathBuf,
    /// Where what is taken from the medium is kept [default: ~/.cache/kiln].
    #[arg(long, value_name = "DIR", env = "KILN_CACHE")]
    cache: Option<PathBuf>,
    /// What runs the machine; auto takes KVM if a guest proves that it works.
    #[arg(long, value_enum, default_value_t)]
    accel: AccelChoice,
    /// Memory of the machine.
    #[arg(long, value_name = "SIZE", default_value = "2GiB")]
    memory: Size,
    /// Everything as JSON on stdout.
    #[arg(long)]
    json: bool,
}

/// Inspects and prints what came of it.
pub(super) async fn run(args: Args) -> Result<()> {
    let (disk, manifest) = find(&args.image)?;
    inspect::check_qcow2(&disk)?;
    let version = match &manifest {
        Some(manifest) => manifest.version.clone(),
        None => UNNAMED.parse::<VersionName>().context("naming an image without a name")?,
    };
    let progress = Progress::new(Style::Human);
    let (state, cache) = (dirs::state()?, std::path::absolute(args.cache.map_or_else(dirs::cache, Ok)?)?);
    let volume_id = media::volume_id(&args.iso)?;
    let mut run = Run::start(&state, &format!("inspect {}", disk.display()))?;
    let work = cache.join("tmp").join(run.id().as_str());
    run.own(&work)?;
    create_private(&work)?;
    let hasher = Hasher::new(&cache);
    let media = Media::open(&args.iso, volume_id, &version, &hasher, &cache, &work).await?;
    hasher.remember()?;
    let decision = accel::decide(args.accel, Evidence::Kernel(&media.kernel), &cache, &work).await?;
    if let Some(warning) = decision.warning {
        progress.warn(warning);
    }
    let tools = crate::bake::tools().await?;
    let installer = Installer {
        media: &media,
        accel: decision.accel,
        size: MachineSize { cpus: NonZeroU32::MIN.saturating_add(1), memory: args.memory },
        stall_after: None,
        run_id: run.id(),
        state: &state,
        tools: &tools,
        progress: &progress,
    };
    let expected = manifest.as_ref().map(Expected::of);
    let inspection = Box::pin(inspect::inspect(&disk, expected, &installer, &work.join("inspect"))).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&inspection)?);
    } else {
        print!("{inspection}");
    }
    if inspection.ok {
        return Ok(());
    }
    bail!("{} is not as it must be: {}", disk.display(), inspection.summary())
}

/// The disk, and the manifest beside it if that is its own.
fn find(given: &Path) -> Result<(PathBuf, Option<Manifest>)> {
    let bad = |why: String| BadInput(format!("{}: {why}", given.display()));
    let dir = if given.is_dir() { given } else { given.parent().unwrap_or(Path::new(".")) };
    let manifest = match std::fs::read(dir.join(MANIFEST)) {
        Ok(json) => Some(
            serde_json::from_slice::<Manifest>(&json)
                .map_err(|error| bad(format!("its {MANIFEST} cannot be read: {error}")))?,
        ),
        Err(_) => None,
    };
    if given.is_dir() {
        let manifest = manifest.ok_or_else(|| bad(format!("there is no {MANIFEST} in it")))?;
        return Ok((absolute(&dir.join(&manifest.qcow2_path))?, Some(manifest)));
    }
    let its = manifest.filter(|manifest| given.file_name().is_some_and(|name| name == &*manifest.qcow2_path));
    Ok((absolute(given)?, its))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    let path = path.canonicalize().map_err(|error| BadInput(format!("{}: {error}", path.display())))?;
    Ok(path)
}
