//! The install medium.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::cache::touch;
use super::digest::{HashedFile, Hasher};
use super::treeinfo::TreeInfo;
use super::{iso9660, xorriso};
use crate::bake::store::locks_dir;
use crate::failure::BadInput;
use crate::image::VersionName;
use crate::image::key::Digest;
use crate::run::dirs::create_private;
use crate::run::lock::{Lock, Mode};

const TREEINFO: &str = "/.treeinfo";
const KERNEL: &str = "/images/pxeboot/vmlinuz";
const INITRD: &str = "/images/pxeboot/initrd.img";
/// The package collections an image is installed from.
const VARIANTS: [&str; 2] = ["BaseOS", "AppStream"];

/// An install medium and what was taken from it.
#[derive(Debug, Clone)]
pub struct Media {
    /// The image.
    pub iso: HashedFile,
    /// Its volume identifier, by which the installer finds it.
    pub volume_id: String,
    /// What it installs: `AlmaLinux 9.5`.
    pub name: String,
    /// Its installer's kernel.
    pub kernel: PathBuf,
    /// Its installer's first root filesystem.
    pub initrd: PathBuf,
    /// Keeps both in the cache.
    _lock: Arc<Lock>,
}

/// What was taken from a medium, kept beside it in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Taken {
    kernel: Digest,
    initrd: Digest,
}

/// What to pass as `--iso`.
pub fn how_to_get(version: &VersionName) -> String {
    let (major, arch) = (version.major, version.arch.rpm_name());
    format!(
        "pass AlmaLinux {major}'s DVD image, AlmaLinux-{major}.x-{arch}-dvd.iso from \
         https://repo.almalinux.org/almalinux/{major}/isos/{arch}/"
    )
}

/// The volume identifier of what should be an ISO image.
pub fn volume_id(iso: &Path) -> Result<String> {
    let file = std::fs::File::open(iso).with_context(|| format!("opening {}", iso.display()))?;
    iso9660::volume_id(file).map_err(|error| match error {
        iso9660::NotAnIso::Io(error) => {
            anyhow::Error::new(error).context(format!("reading {}", iso.display()))
        }
        why => BadInput(format!("--iso {} {why}", iso.display())).into(),
    })
}

impl Media {
    /// Checks the medium against the image's name and takes its kernel out.
    pub async fn open(
        iso: &Path,
        volume_id: String,
        version: &VersionName,
        hasher: &Hasher,
        cache: &Path,
        work: &Path,
    ) -> Result<Self> {
        let iso = hasher.hash(iso).await?;
        let dir = cache.join("media").join(iso.sha256.to_string());
        let lock = locks_dir(cache).join(format!("media-{}", iso.sha256));
        let lock = Arc::new(Lock::acquire(&lock, Mode::Shared, || {}).await?);
        if !is_whole(&dir, hasher).await {
            let new = take_out(&iso, hasher, work).await?;
            fits(&iso, &treeinfo(&iso, &new)?, version)?;
            move_in(&new, &dir, hasher).await?;
        }
        let info = treeinfo(&iso, &dir)?;
        fits(&iso, &info, version)?;
        touch(&dir);
        let (kernel, initrd) = (dir.join("vmlinuz"), dir.join("initrd"));
        Ok(Self { volume_id, name: info.name(), kernel, initrd, iso, _lock: lock })
    }

    /// The volume identifier as `inst.stage2=hd:LABEL=` takes it: udev's
    /// escapes for what a kernel argument cannot hold.
    pub fn escaped_label(&self) -> String {
        escape_label(&self.volume_id)
    }
}

fn escape_label(label: &str) -> String {
    let mut escaped = String::new();
    for byte in label.bytes() {
        if byte.is_ascii_alphanumeric() || b"#+-.:=@_".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "\\x{byte:02x}");
        }
    }
    escaped
}

fn treeinfo(iso: &HashedFile, dir: &Path) -> Result<TreeInfo> {
    let path = dir.join("treeinfo");
    let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    TreeInfo::parse(&String::from_utf8_lossy(&text))
        .map_err(|why| BadInput(format!("--iso {} is no install medium: {why}", iso.path.display())).into())
}

/// Whether the medium is the one the image's name speaks of.
fn fits(iso: &HashedFile, info: &TreeInfo, version: &VersionName) -> Result<(), BadInput> {
    let wrong =
        |why: String| BadInput(format!("--iso {}: {why}; {}", iso.path.display(), how_to_get(version)));
    let (name, arch) = (info.name(), version.arch.rpm_name());
    if info.family != "AlmaLinux" || info.major() != version.major.to_string() {
        return Err(wrong(format!("it installs {name}, but {version} names AlmaLinux {}", version.major)));
    }
    if info.arch != arch {
        return Err(wrong(format!("it installs on {}, but {version} names {arch}", info.arch)));
    }
    let lacking: Vec<&str> =
        VARIANTS.into_iter().filter(|variant| !info.variants.iter().any(|v| v == variant)).collect();
    if !lacking.is_empty() {
        return Err(wrong(format!(
            "it holds no packages of {} (a boot or minimal image?)",
            lacking.join(" and ")
        )));
    }
    Ok(())
}

/// Whether what was taken out of a medium is there as it was.
pub async fn is_whole(dir: &Path, hasher: &Hasher) -> bool {
    let Ok(json) = std::fs::read(dir.join("taken.json")) else { return false };
    let Ok(taken) = serde_json::from_slice::<Taken>(&json) else { return false };
    let kernel = hasher.hash(&dir.join("vmlinuz")).await.map(|file| file.sha256);
    let initrd = hasher.hash(&dir.join("initrd")).await.map(|file| file.sha256);
    kernel.is_ok_and(|kernel| kernel == taken.kernel) && initrd.is_ok_and(|initrd| initrd == taken.initrd)
}

/// Takes what is needed out of the medium, into a new directory.
async fn take_out(iso: &HashedFile, hasher: &Hasher, work: &Path) -> Result<PathBuf> {
    let new = work.join("media");
    create_private(&new)?;
    let (treeinfo_file, kernel, initrd) = (new.join("treeinfo"), new.join("vmlinuz"), new.join("initrd"));
    let files = [(TREEINFO, treeinfo_file), (KERNEL, kernel.clone()), (INITRD, initrd.clone())];
    if let Err(error) = xorriso::extract(&iso.path, &files).await {
        let lacking: Vec<&str> =
            files.iter().filter(|(_, file)| !file.exists()).map(|(name, _)| *name).collect();
        if lacking.is_empty() || crate::machine::qemu::vm::find_program("xorriso").is_none() {
            return Err(error);
        }
        let (path, lacking) = (iso.path.display(), lacking.join(", "));
        return Err(BadInput(format!("--iso {path} is no install medium: it has no {lacking}")).into());
    }
    let taken =
        Taken { kernel: hasher.hash(&kernel).await?.sha256, initrd: hasher.hash(&initrd).await?.sha256 };
    let info = treeinfo(iso, &new)?;
    for (name, found) in [(KERNEL, taken.kernel), (INITRD, taken.initrd)] {
        if info.checksums.get(&name[1..]).is_some_and(|wanted| *wanted != found) {
            let path = iso.path.display();
            return Err(
                BadInput(format!("--iso {path} is damaged: {name} is not what its .treeinfo says")).into()
            );
        }
    }
    std::fs::write(new.join("taken.json"), serde_json::to_vec(&taken)?)?;
    Ok(new)
}

async fn move_in(new: &Path, dir: &Path, hasher: &Hasher) -> Result<()> {
    // Whoever else took the same out at the same time put the same there.
    let parent = dir.parent().context("the cache has a parent directory")?;
    create_private(parent)?;
    let moved = std::fs::rename(new, dir);
    if moved.is_err() && !is_whole(dir, hasher).await {
        std::fs::remove_dir_all(dir).with_context(|| format!("removing damaged {}", dir.display()))?;
        std::fs::rename(new, dir)
            .with_context(|| format!("moving {} to {}", new.display(), dir.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn info(family: &str, version: &str, arch: &str, variants: &[&str]) -> TreeInfo {
        let variants = variants.iter().map(|&v| v.to_owned()).collect();
        let checksums = std::collections::BTreeMap::new();
        TreeInfo { family: family.into(), version: version.into(), arch: arch.into(), variants, checksums }
    }

    #[test]
    fn a_medium_must_be_the_one_the_name_speaks_of() {
        let version: VersionName = "alma9-k3-node-amd64-v1.28.5-v1".parse().unwrap();
        let iso = HashedFile { path: "/i.iso".into(), size: 0, sha256: Digest::of(b"") };
        let both = ["AppStream", "BaseOS"];
        let check = |info: &TreeInfo| fits(&iso, info, &version).map_err(|error| error.0);
        assert_eq!(check(&info("AlmaLinux", "9.5", "x86_64", &both)), Ok(()));
        for (wrong, why) in [
            (info("Rocky Linux", "9.5", "x86_64", &both), "installs Rocky Linux 9.5, but"),
            (info("AlmaLinux", "8.10", "x86_64", &both), "names AlmaLinux 9"),
            (info("AlmaLinux", "90.1", "x86_64", &both), "names AlmaLinux 9"),
            (info("AlmaLinux", "9.5", "aarch64", &both), "installs on aarch64"),
            (info("AlmaLinux", "9.5", "x86_64", &[]), "no packages of BaseOS and AppStream"),
            (info("AlmaLinux", "9.5", "x86_64", &["BaseOS"]), "no packages of AppStream"),
        ] {
            let error = check(&wrong).unwrap_err();
            assert!(error.contains(why) && error.contains("AlmaLinux-9.x-x86_64-dvd.iso"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn an_escaped_label_is_one_word(label in "[ -~]{1,32}") {
            let escaped = escape_label(&label);
            prop_assert!(!escaped.contains([' ', '"', '\'', '/']), "{}", escaped);
        }
    }

    #[test]
    fn labels_are_escaped_as_udev_does() {
        assert_eq!(escape_label("AlmaLinux-9-5-x86_64-dvd"), "AlmaLinux-9-5-x86_64-dvd");
        assert_eq!(escape_label("My Disc"), r"My\x20Disc");
    }
}
