//! Inputs that were downloaded, by digest.
//!
//! ```text
//! <cache>/inputs/<sha256>/<name>      the file
//! <cache>/origins/<sha256 of a URL>.json   what was found there last
//! <cache>/quarantine/…                what was found damaged
//! <cache>/locks/input-<sha256>        while somebody uses it
//! ```
//!
//! A file is whole or not there: it is renamed into place after it was hashed.
//! Before it is used again its digest is compared (remembered by the file's
//! times, so seldom by reading it); one that changed is moved to quarantine.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::digest::{HashedFile, Hasher};
use crate::bake::store::{locks_dir, sync};
use crate::image::key::Digest;
use crate::run::dirs::create_private;
use crate::run::lock::{Lock, Mode};

/// The downloaded inputs of a cache.
#[derive(Debug)]
pub struct InputCache<'a> {
    root: &'a Path,
    hasher: &'a Hasher,
}

/// An input that is there, and stays while this value lives.
#[derive(Debug)]
pub struct Kept {
    /// The file.
    pub file: HashedFile,
    /// Keeps `builder cache prune` away.
    pub lock: Lock,
}

/// What was found at a URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The URL.
    pub url: String,
    /// The digest of the file.
    pub sha256: Digest,
    /// A list of checksums is kept as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// When it was found there.
    pub seen: Timestamp,
}

/// The directory of the input with this digest.
pub fn dir_of(cache: &Path, digest: Digest) -> PathBuf {
    cache.join("inputs").join(digest.to_string())
}

/// The path of the lock under which it is used or removed.
pub fn lock_of(cache: &Path, digest: Digest) -> PathBuf {
    locks_dir(cache).join(format!("input-{digest}"))
}

impl<'a> InputCache<'a> {
    /// Of the cache at `root`.
    pub fn new(root: &'a Path, hasher: &'a Hasher) -> Self {
        Self { root, hasher }
    }

    /// The cache's directory.
    pub fn root(&self) -> &'a Path {
        self.root
    }

    /// Looks for an input. One that is damaged is moved out of the way, and
    /// `damaged` is told where to.
    pub async fn find(
        &self,
        name: &str,
        digest: Digest,
        damaged: impl FnOnce(&Path),
    ) -> Result<Option<Kept>> {
        let (dir, lock_path) = (dir_of(self.root, digest), lock_of(self.root, digest));
        if !dir.exists() {
            return Ok(None);
        }
        let lock = Lock::acquire(&lock_path, Mode::Shared, || {}).await?;
        if let Some(file) = self.verified(&dir, name, digest).await? {
            touch(&dir);
            self.hasher.remember()?;
            return Ok(Some(Kept { file, lock }));
        }
        drop(lock);
        let _lock = Lock::acquire(&lock_path, Mode::Exclusive, || {}).await?;
        if self.verified(&dir, name, digest).await?.is_none() && dir.exists() {
            damaged(&quarantine(self.root, &dir, "input")?);
        }
        Ok(None)
    }

    /// The file under the name that is asked for, if it is what it should be.
    async fn verified(&self, dir: &Path, name: &str, digest: Digest) -> Result<Option<HashedFile>> {
        let path = dir.join(name);
        if !path.exists() {
            // Known by another name: it gets this one as well.
            let Some(other) = first_file(dir) else { return Ok(None) };
            if std::fs::hard_link(&other, &path).is_err() && !path.exists() {
                return Ok(None);
            }
        }
        Ok(self.hasher.hash(&path).await.ok().filter(|file| file.sha256 == digest))
    }

    /// Moves a file that was hashed and brought to the disk into the cache.
    pub async fn store(&self, from: &Path, name: &str, digest: Digest) -> Result<Kept> {
        let dir = dir_of(self.root, digest);
        let lock = Lock::acquire(&lock_of(self.root, digest), Mode::Shared, || {}).await?;
        create_private(&dir)?;
        let path = dir.join(name);
        std::fs::rename(from, &path)
            .with_context(|| format!("moving {} to {}", from.display(), path.display()))?;
        sync(&dir)?;
        let file = self.hasher.hash(&path).await?;
        if file.sha256 != digest {
            anyhow::bail!(
                "{} changed while it was moved there: who else writes to the cache?",
                path.display()
            );
        }
        self.hasher.remember()?;
        Ok(Kept { file, lock })
    }

    /// What was found at a URL last.
    pub fn origin(&self, url: &Url) -> Option<Origin> {
        let origin: Origin = serde_json::from_slice(&std::fs::read(self.origin_path(url)).ok()?).ok()?;
        (origin.url == url.as_str()).then_some(origin)
    }

    /// Remembers what was found at a URL.
    pub fn remember(&self, url: &Url, sha256: Digest, text: Option<String>) -> Result<()> {
        let path = self.origin_path(url);
        let origin = Origin { url: url.to_string(), sha256, text, seen: Timestamp::now() };
        create_private(&self.root.join("origins"))?;
        // A torn one is not JSON and read as none.
        std::fs::write(&path, serde_json::to_vec_pretty(&origin)?)
            .with_context(|| format!("writing {}", path.display()))
    }

    fn origin_path(&self, url: &Url) -> PathBuf {
        self.root.join("origins").join(format!("{}.json", Digest::of(url.as_str().as_bytes())))
    }
}

/// A file in a directory, if there is one.
pub fn first_file(dir: &Path) -> Option<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.into_iter().find(|path| path.is_file())
}

/// Writes down that something in the cache was used now: in the time its
/// directory was last changed, which nothing else depends on.
pub fn touch(path: &Path) {
    let now = std::fs::FileTimes::new().set_modified(std::time::SystemTime::now());
    // Whoever cannot write there can still use it.
    let _ = std::fs::File::open(path).and_then(|file| file.set_times(now));
}

/// Moves something damaged out of the way, for somebody to look at; `builder
/// cache prune` removes it.
pub fn quarantine(cache: &Path, what: &Path, kind: &str) -> Result<PathBuf> {
    let all = cache.join("quarantine");
    create_private(&all)?;
    let name = what.file_name().unwrap_or_default().to_string_lossy();
    let at = Timestamp::now().as_millisecond();
    let place = all.join(format!("{kind}-{name}-{at}"));
    std::fs::rename(what, &place)
        .with_context(|| format!("moving damaged {} to {}", what.display(), place.display()))?;
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Lab {
        dir: tempfile::TempDir,
        hasher: Hasher,
    }

    impl Lab {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self { hasher: Hasher::new(dir.path()), dir }
        }

        fn cache(&self) -> InputCache<'_> {
            InputCache::new(self.dir.path(), &self.hasher)
        }

        async fn store(&self, name: &str, content: &[u8]) -> Kept {
            let from = self.dir.path().join("new");
            std::fs::write(&from, content).unwrap();
            self.cache().store(&from, name, Digest::of(content)).await.unwrap()
        }

        async fn find(&self, name: &str, content: &[u8]) -> Option<Kept> {
            self.cache().find(name, Digest::of(content), |_| {}).await.unwrap()
        }
    }

    #[tokio::test]
    async fn what_was_stored_is_found_by_its_digest_under_any_name() {
        let lab = Lab::new();
        let stored = lab.store("k3s", b"program").await.file;
        assert_eq!(lab.find("k3s", b"program").await.unwrap().file, stored);
        let other = lab.find("k3s-v1.28.5", b"program").await.unwrap().file;
        assert_eq!((other.name().as_str(), other.sha256), ("k3s-v1.28.5", stored.sha256));
        assert!(lab.find("k3s", b"other").await.is_none());
        assert_eq!(std::fs::read_dir(lab.dir.path().join("locks")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_is_damaged_is_moved_out_of_the_way() {
        let lab = Lab::new();
        let path = lab.store("k3s", b"program").await.file.path.clone();
        std::fs::write(&path, b"prog").unwrap();
        let mut told = None;
        let found =
            lab.cache().find("k3s", Digest::of(b"program"), |place| told = Some(place.to_owned())).await;
        assert!(found.unwrap().is_none() && !path.exists());
        assert_eq!(std::fs::read(told.unwrap().join("k3s")).unwrap(), b"prog");
        lab.store("k3s", b"program").await;
        assert!(lab.find("k3s", b"program").await.is_some());
    }

    #[tokio::test]
    async fn what_a_url_held_is_remembered() {
        let lab = Lab::new();
        let url: Url = "https://e/CHECKSUM".parse().unwrap();
        assert_eq!(lab.cache().origin(&url), None);
        lab.cache().remember(&url, Digest::of(b"x"), Some("x".into())).unwrap();
        let origin = lab.cache().origin(&url).unwrap();
        assert_eq!((origin.sha256, origin.text.as_deref()), (Digest::of(b"x"), Some("x")));
        std::fs::write(lab.cache().origin_path(&url), b"{\"url\"").unwrap();
        assert_eq!(lab.cache().origin(&url), None);
    }
}
