//! `builder inspect`: reads a finished image and says what is in it.

use std::fmt::Display;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::bake::MachineSize;
use crate::bake::installer::Installer;
use crate::failure::BadInput;
use crate::image::manifest::MANIFEST;
use crate::image::{Manifest, Size, VersionName};
use crate::inputs::cache::InputCache;
use crate::inputs::digest::Hasher;
use crate::inputs::media::{self, Media};
use crate::inspect::{self, Expected, outside};
use crate::machine::qemu::AccelChoice;
use crate::machine::qemu::accel::{self, Evidence};
use crate::progress::{Progress, Style};
use crate::run::lock::Lock;
use crate::run::{Run, dirs, dirs::create_private};

/// Where an image's medium is.
enum Medium {
    /// Given, or in the cache.
    Here {
        iso: PathBuf,
        /// Keeps it in the cache.
        lock: Option<Lock>,
    },
    /// Not here, for this reason.
    Missing(String),
}

/// An image that comes without a manifest is taken for one of these: only the
/// major version and the architecture matter, for the medium.
const UNNAMED: &str = "alma9-k3-node-amd64-v1.0.0-v1";

pub(super) const HELP: &str = "The disk is read by the kernel of the install medium, which mounts a throw-away overlay \
of it: nothing is changed and no root is needed.\n\n\
Exit codes: 0 nothing found, 1 something was found or the image could not be read through, 2 what was asked \
for cannot be.\n\n\
Examples:\n  builder inspect images/alma9-k3-node-amd64-v1.28.5-v1\n  \
builder inspect images/alma9-k3-node-amd64-v1.28.5-v1 --iso AlmaLinux-9.5-x86_64-dvd.iso\n  \
builder inspect disk.qcow2 --iso AlmaLinux-9.5-x86_64-dvd.iso --json";

/// Arguments of `builder inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image: its directory, or a qcow2 disk. What a manifest beside it says is compared.
    image: PathBuf,
    /// AlmaLinux's DVD image, whose kernel reads the disk [default: the one in the cache that the
    /// image was made from].
    #[arg(long, value_name = "FILE")]
    iso: Option<PathBuf>,
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
    if let Some(iso) = &args.iso {
        media::volume_id(iso)?;
    }
    let mut run = Run::start(&state, &format!("inspect {}", disk.display()))?;
    let work = cache.join("tmp").join(run.id().as_str());
    run.own(&work)?;
    create_private(&work)?;
    let hasher = Hasher::new(&cache);
    let (iso, _lock) = match medium(args.iso, manifest.as_ref(), &cache, &hasher, &progress).await? {
        Medium::Here { iso, lock } => (iso, lock),
        Medium::Missing(why) => {
            let Some(manifest) = &manifest else {
                return Err(BadInput(format!("{}: {why}", disk.display())).into());
            };
            let seen = outside::look(&disk, manifest, why, &hasher, &work.join("inspect")).await?;
            hasher.remember()?;
            print_out(args.json, &seen)?;
            bail!("{}: {}", disk.display(), seen.summary())
        }
    };
    let media = Media::open(&iso, media::volume_id(&iso)?, &version, &hasher, &cache, &work).await?;
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
    print_out(args.json, &inspection)?;
    if inspection.ok {
        return Ok(());
    }
    bail!("{} is not as it must be: {}", disk.display(), inspection.summary())
}

fn print_out(json: bool, what: &(impl Serialize + Display)) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(what)?);
    } else {
        print!("{what}");
    }
    Ok(())
}

/// The medium that reads the image: the one that is given, or that the manifest
/// names by its digest, from the cache.
async fn medium(
    given: Option<PathBuf>,
    manifest: Option<&Manifest>,
    cache: &Path,
    hasher: &Hasher,
    progress: &Progress,
) -> Result<Medium> {
    if let Some(iso) = given {
        return Ok(Medium::Here { iso, lock: None });
    }
    const PASS: &str = "pass a DVD image of the same AlmaLinux by --iso";
    let Some(manifest) = manifest else {
        return Ok(Medium::Missing(format!("no manifest names the medium it was made from; {PASS}")));
    };
    let Some(record) = manifest.inputs.get("iso") else {
        return Ok(Medium::Missing(format!("its manifest names no medium it was made from; {PASS}")));
    };
    let damaged = |place: &Path| {
        progress.warn(format!("{} in the cache was damaged and is now {}", record.name, place.display()));
    };
    let kept = InputCache::new(cache, hasher).find(&record.name, record.sha256, damaged).await?;
    Ok(match kept {
        Some(kept) => Medium::Here { iso: kept.file.path, lock: Some(kept.lock) },
        None => Medium::Missing(format!(
            "the medium it was made from, {} (sha256 {}), is not in the cache {}; {PASS}",
            record.name,
            record.sha256,
            cache.display()
        )),
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::key::Digest;
    use crate::image::manifest::{FileRecord, test_manifest};

    #[tokio::test]
    async fn the_medium_is_the_one_that_is_given_or_that_the_manifest_names() {
        let dir = tempfile::tempdir().unwrap();
        let (hasher, progress) = (Hasher::new(dir.path()), Progress::silent());
        let look = async |given: Option<&Path>, manifest: Option<&Manifest>| match medium(
            given.map(Path::to_owned),
            manifest,
            dir.path(),
            &hasher,
            &progress,
        )
        .await
        .unwrap()
        {
            Medium::Here { iso, .. } => Ok(iso),
            Medium::Missing(why) => Err(why),
        };
        assert_eq!(look(Some(Path::new("/dvd.iso")), None).await, Ok("/dvd.iso".into()));
        assert!(look(None, None).await.unwrap_err().contains("no manifest"));

        let mut manifest = test_manifest(b"disk");
        assert!(look(None, Some(&manifest)).await.unwrap_err().contains("names no medium"));
        let record = FileRecord { name: "dvd.iso".into(), size: 3, sha256: Digest::of(b"dvd") };
        manifest.inputs.insert("iso".into(), record);
        let missing = look(None, Some(&manifest)).await.unwrap_err();
        for word in ["dvd.iso", &Digest::of(b"dvd").to_string(), "is not in the cache", "--iso"] {
            assert!(missing.contains(word), "{word} is not in: {missing}");
        }
        let from = dir.path().join("new");
        std::fs::write(&from, b"dvd").unwrap();
        let kept = InputCache::new(dir.path(), &hasher).store(&from, "dvd.iso", Digest::of(b"dvd")).await;
        let path = kept.unwrap().file.path;
        assert_eq!(look(None, Some(&manifest)).await, Ok(path));
    }
}
