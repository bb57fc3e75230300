//! Digests of files. A file that has not changed since it was last read
//! through is not read again: identity, size and times are remembered.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::image::key::Digest;
use crate::run::dirs::create_private;

/// Read in pieces of this many bytes.
const PIECE: usize = 1 << 20;

/// A file that was read through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashedFile {
    /// Where it is, absolute, without links.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Digest,
}

impl HashedFile {
    /// Its name without directory.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// What tells whether a file is still the one that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    stamp: Stamp,
    sha256: Digest,
}

/// A file that was read, and where that is to be remembered.
#[derive(Debug)]
struct Learned {
    file: PathBuf,
    memory: PathBuf,
    entry: Remembered,
}

/// The digests of files, remembered in a directory of the cache.
#[derive(Debug)]
pub struct Hasher {
    memory: PathBuf,
    /// Whether what is remembered counts.
    remembers: bool,
    /// What is to be remembered, where.
    learned: Mutex<Vec<Learned>>,
}

impl Hasher {
    /// Remembers in `cache`.
    pub fn new(cache: &Path) -> Self {
        Self { memory: cache.join("digests"), remembers: true, learned: Mutex::default() }
    }

    /// Reads everything, whatever is remembered.
    pub fn reading(cache: &Path) -> Self {
        Self { remembers: false, ..Self::new(cache) }
    }

    /// Reads a file through, or remembers having done so.
    pub async fn hash(&self, path: &Path) -> Result<HashedFile> {
        let path = path.canonicalize().with_context(|| format!("opening {}", path.display()))?;
        let memory = self.memory.join(Digest::of(path.as_os_str().as_encoded_bytes()).to_string());
        let known =
            std::fs::read(&memory).ok().and_then(|json| serde_json::from_slice::<Remembered>(&json).ok());
        let trusted = known.filter(|_| self.remembers);
        let cancelled = Arc::new(AtomicBool::new(false));
        let _cancel = SetOnDrop(cancelled.clone());
        let (file, stamp) = tokio::task::spawn_blocking(move || hash(path, trusted.as_ref(), &cancelled))
            .await
            .context("reading a file in the background")??;
        let entry = Remembered { stamp, sha256: file.sha256 };
        if known != Some(entry) {
            let learned = Learned { file: file.path.clone(), memory, entry };
            self.learned.lock().unwrap_or_else(PoisonError::into_inner).push(learned);
        }
        Ok(file)
    }

    /// Writes down what was learned. Until then nothing is written, so that
    /// input that is refused leaves no trace.
    pub fn remember(&self) -> Result<()> {
        let learned = std::mem::take(&mut *self.learned.lock().unwrap_or_else(PoisonError::into_inner));
        for Learned { file, memory, entry } in learned {
            // It was only on its way, or is gone.
            if !file.exists() {
                continue;
            }
            create_private(&self.memory)?;
            // A torn one is not JSON and read as none.
            std::fs::write(&memory, serde_json::to_vec(&entry)?)
                .with_context(|| format!("writing {}", memory.display()))?;
        }
        Ok(())
    }
}

/// Tells the background thread that nobody waits any more.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn hash(path: PathBuf, known: Option<&Remembered>, cancelled: &AtomicBool) -> Result<(HashedFile, Stamp)> {
    let shown = || format!("reading {}", path.display());
    let mut file = std::fs::File::open(&path).with_context(shown)?;
    let metadata = file.metadata().with_context(shown)?;
    if !metadata.is_file() {
        bail!("{} is not a regular file", path.display());
    }
    let stamp = Stamp::of(&metadata);
    if let Some(known) = known.filter(|known| known.stamp == stamp) {
        return Ok((HashedFile { path, size: stamp.size, sha256: known.sha256 }, stamp));
    }
    let (mut hash, mut size) = (Sha256::new(), 0_u64);
    let mut piece = vec![0; PIECE];
    loop {
        let length = file.read(&mut piece).with_context(shown)?;
        if length == 0 {
            break;
        }
        if cancelled.load(Ordering::Relaxed) {
            bail!("interrupted while {}", shown());
        }
        hash.update(&piece[..length]);
        size += length as u64;
    }
    let sha256 = Digest::from_bytes(hash.finalize().into());
    let after = Stamp::of(&std::fs::metadata(&path).with_context(shown)?);
    if after != stamp || size != stamp.size {
        bail!("{} changed while it was read: is it still being written?", path.display());
    }
    Ok((HashedFile { path, size, sha256 }, stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_changed_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let hasher = Hasher::new(dir.path());
        let path = dir.path().join("file");
        std::fs::write(&path, b"one").unwrap();
        let first = hasher.hash(&path).await.unwrap();
        assert_eq!((first.size, first.sha256), (3, Digest::of(b"one")));
        hasher.remember().unwrap();
        assert_eq!(hasher.hash(&path).await.unwrap(), first);
        // Same size, so that the times must tell.
        std::fs::write(&path, b"two").unwrap();
        assert_eq!(hasher.hash(&path).await.unwrap().sha256, Digest::of(b"two"));
    }

    #[tokio::test]
    async fn a_remembered_file_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let hasher = Hasher::new(dir.path());
        let path = dir.path().join("file");
        std::fs::write(&path, b"one").unwrap();
        hasher.hash(&path).await.unwrap();
        assert!(!hasher.memory.exists(), "remembered unasked");
        hasher.remember().unwrap();
        let entry = std::fs::read_dir(&hasher.memory).unwrap().next().unwrap().unwrap().path();
        let mut known: Remembered = serde_json::from_slice(&std::fs::read(&entry).unwrap()).unwrap();
        known.sha256 = Digest::of(b"planted");
        std::fs::write(&entry, serde_json::to_vec(&known).unwrap()).unwrap();
        assert_eq!(hasher.hash(&path).await.unwrap().sha256, Digest::of(b"planted"));
        std::fs::write(&entry, b"{torn").unwrap();
        assert_eq!(hasher.hash(&path).await.unwrap().sha256, Digest::of(b"one"));
    }

    #[tokio::test]
    async fn a_directory_is_not_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let error = Hasher::new(dir.path()).hash(dir.path()).await.unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }
}
