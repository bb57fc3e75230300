//! The disk below a stage's disk, and how that one names it.
//!
//! An overlay in a cache names the disk below it by the way there from its own
//! directory, where QEMU looks a relative name up: both move together, so that
//! a cache can be moved or copied as a whole. A name in full, as earlier
//! versions wrote it, leads to the old place once the cache is elsewhere, and
//! whatever lies there would be read without a word. So what a name leads to
//! is looked at before an overlay is used again.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cache::backing;
use crate::image::key::Digest;
use crate::machine::qemu::img;

/// A disk that others lie over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// Where it is.
    pub disk: PathBuf,
    /// Its digest.
    pub sha256: Digest,
}

impl Below {
    /// Whether the overlay `over` lies over this very file, not over one like it
    /// elsewhere.
    pub fn is_below(&self, over: &Path) -> bool {
        let named = backing::of(over).and_then(|named| named.canonicalize().ok());
        named.is_some_and(|named| self.disk.canonicalize().is_ok_and(|disk| disk == named))
    }

    /// Has `over` name this disk as it is to be named from the directory
    /// `place`, which `over` is to be moved to; that directory's parent exists.
    /// Until it is there, `over` lies over nothing.
    pub async fn name_from(&self, place: &Path, over: &Path) -> Result<()> {
        let real = |path: &Path| path.canonicalize().with_context(|| format!("opening {}", path.display()));
        // Without links: the system leaves a directory by its real parent.
        let (parent, name) = place.parent().zip(place.file_name()).context("a disk's place has a parent")?;
        let way = relative(&real(parent)?.join(name), &real(&self.disk)?);
        img::name_backing(over, &way).await
    }
}

/// The way from the directory `from` to `to`; both are absolute, without links.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let common = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_way_leads_up_to_what_both_have_in_common() {
        for (from, to, way) in [
            ("/c/stages/node/k", "/c/stages/os/k/disk", "../../os/k/disk"),
            ("/a/b", "/c/disk", "../../c/disk"),
            ("/a", "/a/disk", "disk"),
        ] {
            assert_eq!(relative(Path::new(from), Path::new(to)), Path::new(way));
        }
    }

    /// A cache with a disk of the os stage and one over it that is still being made.
    struct Lab {
        home: tempfile::TempDir,
        below: Below,
        over: PathBuf,
    }

    const OS: &str = "stages/os/k/disk.qcow2";
    const NODE: &str = "stages/node/k";

    impl Lab {
        async fn new(content: &[u8]) -> Self {
            let home = tempfile::tempdir().unwrap();
            let cache = home.path().join("cache");
            let (disk, over) = (cache.join(OS), cache.join("tmp/run/result/disk.qcow2"));
            for file in [&disk, &over, &cache.join(NODE)] {
                fs::create_dir_all(file.parent().unwrap()).unwrap();
            }
            let raw = home.path().join("raw");
            fs::write(&raw, content).unwrap();
            img::convert(&raw, &disk, img::Compression::Zlib, 1).await.unwrap();
            img::create_overlay(&disk, &over, None).await.unwrap();
            Self { below: Below { disk, sha256: Digest::of(content) }, home, over }
        }

        /// Puts the overlay where it is kept, in `cache`.
        async fn keep(&self, cache: &Path) -> PathBuf {
            let place = cache.join(NODE);
            self.below.name_from(&place, &self.over).await.unwrap();
            fs::rename(self.over.parent().unwrap(), &place).unwrap();
            place.join("disk.qcow2")
        }

        /// The same disk of the cache at another place.
        fn in_cache(&self, cache: &Path) -> Below {
            Below { disk: cache.join(OS), ..self.below.clone() }
        }
    }

    #[tokio::test]
    async fn an_overlay_lies_over_its_disk_wherever_both_are_moved() {
        let content = b"what is installed".repeat(1 << 12);
        let lab = Lab::new(&content).await;
        let (cache, moved) = (lab.home.path().join("cache"), lab.home.path().join("deep/moved"));
        assert!(lab.below.is_below(&lab.over), "in the making");
        let over = lab.keep(&cache).await;
        assert!(lab.below.is_below(&over), "kept");
        assert_eq!(img::backing_of(&over).unwrap().as_deref(), Some("../../os/k/disk.qcow2"));

        fs::create_dir(moved.parent().unwrap()).unwrap();
        fs::rename(&cache, &moved).unwrap();
        let over = moved.join(NODE).join("disk.qcow2");
        assert!(lab.in_cache(&moved).is_below(&over) && !lab.below.is_below(&over));
        // QEMU finds it too.
        let raw = lab.home.path().join("read");
        img::to_raw(&over, &raw).await.unwrap();
        assert_eq!(fs::read(&raw).unwrap()[..content.len()], content);
    }

    #[tokio::test]
    async fn a_directory_that_is_a_link_does_not_lead_astray() {
        let lab = Lab::new(&[1; 4096]).await;
        let cache = lab.home.path().join("cache");
        fs::create_dir_all(lab.home.path().join("other/place")).unwrap();
        fs::remove_dir(cache.join("stages/node")).unwrap();
        std::os::unix::fs::symlink("../../other/place", cache.join("stages/node")).unwrap();
        let over = lab.keep(&cache).await;
        assert!(lab.below.is_below(&over));
        img::to_raw(&over, &lab.home.path().join("read")).await.unwrap();
        // The cache by another name is still this one.
        let link = lab.home.path().join("link");
        std::os::unix::fs::symlink(&cache, &link).unwrap();
        assert!(lab.in_cache(&link).is_below(&over));
    }

    #[tokio::test]
    async fn a_name_in_full_is_right_as_long_as_nothing_moves() {
        let lab = Lab::new(&[1; 4096]).await;
        let (cache, copy) = (lab.home.path().join("cache"), lab.home.path().join("copy"));
        assert!(lab.below.is_below(&lab.over));
        for file in [OS, "tmp/run/result/disk.qcow2"] {
            fs::create_dir_all(copy.join(file).parent().unwrap()).unwrap();
            fs::copy(cache.join(file), copy.join(file)).unwrap();
        }
        // The old place is still there, and so is what lies there.
        assert!(!lab.in_cache(&copy).is_below(&copy.join("tmp/run/result/disk.qcow2")));
        fs::remove_file(cache.join(OS)).unwrap();
        assert!(!lab.below.is_below(&lab.over), "over a disk that is gone");
        assert!(!lab.below.is_below(&lab.home.path().join("raw")), "no overlay at all");
    }
}
