//! Results of stages, by content key, in the cache.
//!
//! ```text
//! <cache>/stages/os/<key>/{disk.qcow2, result.json}
//! <cache>/stages/node/<key>/…        an overlay of an os disk
//! <cache>/locks/os-<key>             while somebody makes or uses it
//! ```
//!
//! A result is whole or not there: it is made elsewhere, brought to the disk
//! and renamed, so that `kill -9` at any point leaves the old state or the new
//! one. Before it is used again its disk's size and digest are compared with
//! what was recorded, and an overlay must lie over this cache's disk of the
//! stage below ([`below`](super::below)); one that does not fit, or whose
//! backing disk is another by now, is thrown away and made again.
//!
//! The digest of a file whose inode, size and times are those it had when it
//! was last read through is remembered, not computed again: any write through
//! the file system is noticed, which makes a bake in which nothing changed
//! cheap. What changes behind the file system's back (a failing disk) is found
//! by reading all of it, as `builder cache verify` does.
//!
//! Whoever uses a result holds its lock shared; removing or replacing it takes
//! the lock alone, so a disk below a running machine stays.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::below::Below;
use crate::image::key::{Digest, Key};
use crate::inputs::cache::touch;
use crate::inputs::digest::Hasher;
use crate::progress::Progress;
use crate::run::dirs::create_private;
use crate::run::lock::{Lock, Mode};

/// A result's disk.
pub const DISK: &str = "disk.qcow2";
const RESULT: &str = "result.json";
const FORMAT: u32 = 1;

/// What is written down beside a disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Made {
    format: u32,
    /// The disk's size on the host in bytes.
    pub size: u64,
    /// The disk's digest.
    pub sha256: Digest,
    /// The digest of the disk below it.
    pub backing: Option<Digest>,
    /// How long making it took, in seconds.
    pub seconds: f64,
    /// When that was.
    pub created: Timestamp,
    /// The image it was made for first.
    #[serde(default)]
    pub version: String,
    /// What its key was made of.
    #[serde(default)]
    pub parts: BTreeMap<String, String>,
    /// What the stage reported.
    pub report: serde_json::Value,
}

/// What stands where a result would be.
#[derive(Debug, Clone, PartialEq)]
pub enum Look {
    /// A result that fits.
    Ready(Box<Made>),
    /// Something that cannot be used.
    Stale(Misfit),
    /// Nothing.
    Missing,
}

/// Why something that stands where a result would be cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit {
    /// Its disk is not what was recorded, or nothing was.
    Record,
    /// It was made over a disk that is another by now.
    Remade,
    /// It names a disk below it that is not this cache's, as an earlier
    /// version's does in a cache that was moved or copied.
    Elsewhere,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Record => "does not fit its record",
            Self::Remade => "lies over a disk that was made anew since",
            Self::Elsewhere => "lies over a disk that is not this cache's (was the cache moved or copied?)",
        })
    }
}

/// A result that is there, and stays while this value lives.
#[derive(Debug)]
pub struct Stored {
    /// Its disk.
    pub disk: PathBuf,
    /// What is written down about it.
    pub made: Made,
    _lock: Lock,
}

impl Stored {
    /// Its disk, to make another one over it.
    pub fn below(&self) -> Below {
        Below { disk: self.disk.clone(), sha256: self.made.sha256 }
    }
}

/// What a stage has made, to be stored.
#[derive(Debug)]
pub struct New {
    /// A directory with nothing in it but what is to be stored, [`DISK`]
    /// included, on the cache's file system.
    pub dir: PathBuf,
    /// The image it is made for.
    pub version: String,
    /// The disk below it.
    pub below: Option<Below>,
    /// How long making it took, in seconds.
    pub seconds: f64,
    /// What the stage reported.
    pub report: serde_json::Value,
}

/// A result that is there, or the right to make it.
#[derive(Debug)]
pub enum Found {
    /// It is there.
    Ready(Stored),
    /// It is not, and nobody else makes it meanwhile.
    Missing(Permit),
}

/// The right to make a result.
#[derive(Debug)]
pub struct Permit {
    dir: PathBuf,
    lock_path: PathBuf,
    lock: Lock,
    parts: BTreeMap<String, String>,
}

/// The results of one cache.
#[derive(Debug)]
pub struct Store<'a> {
    cache: PathBuf,
    hasher: &'a Hasher,
    progress: &'a Progress,
}

impl<'a> Store<'a> {
    /// Of the cache at `cache`.
    pub fn new(cache: &Path, hasher: &'a Hasher, progress: &'a Progress) -> Self {
        Self { cache: cache.to_owned(), hasher, progress }
    }

    /// Looks for a result; `below` is the disk below it as it is now. Waits
    /// while another builder makes it.
    pub async fn find(&self, stage: &'static str, key: &Key, below: Option<&Below>) -> Result<Found> {
        let dir = self.dir(stage, key);
        let lock_path = locks_dir(&self.cache).join(format!("{stage}-{}", key.digest));
        loop {
            let waiting = || self.progress.step(stage, "waiting for another builder that makes the same");
            let lock = Lock::acquire(&lock_path, Mode::Shared, waiting).await?;
            if let Ok(made) = self.verify(&dir, below).await {
                touch(&dir);
                return Ok(Found::Ready(Stored { disk: dir.join(DISK), made, _lock: lock }));
            }
            drop(lock);
            let lock = Lock::acquire(&lock_path, Mode::Exclusive, waiting).await?;
            let Err(misfit) = self.verify(&dir, below).await else {
                // Somebody made it in between: it is used as everybody does,
                // not held alone.
                continue;
            };
            if dir.exists() {
                self.progress.warn(format!("{} {misfit} and is made again", dir.display()));
                std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
            }
            return Ok(Found::Missing(Permit { dir, lock_path, lock, parts: key.parts.clone() }));
        }
    }

    /// What there is of a result, without touching it or waiting for anybody.
    pub async fn look(&self, stage: &str, key: &Key, below: Option<&Below>) -> Look {
        let dir = self.dir(stage, key);
        match self.verify(&dir, below).await {
            Ok(made) => Look::Ready(Box::new(made)),
            Err(misfit) if dir.exists() => Look::Stale(misfit),
            Err(_) => Look::Missing,
        }
    }

    /// The disk of a result that was looked at, as what another lies over.
    pub fn below(&self, stage: &str, key: &Key, made: &Made) -> Below {
        Below { disk: self.dir(stage, key).join(DISK), sha256: made.sha256 }
    }

    /// The records of all results of a stage, newest first.
    pub fn records(&self, stage: &str) -> Vec<Made> {
        let entries =
            std::fs::read_dir(self.cache.join("stages").join(stage)).into_iter().flatten().flatten();
        let mut records: Vec<Made> = entries.filter_map(|entry| read_record(&entry.path())).collect();
        records.sort_by_key(|made| std::cmp::Reverse(made.created));
        records
    }

    fn dir(&self, stage: &str, key: &Key) -> PathBuf {
        self.cache.join("stages").join(stage).join(key.digest.to_string())
    }

    async fn verify(&self, dir: &Path, below: Option<&Below>) -> Result<Made, Misfit> {
        let made = read_record(dir).filter(|made| made.format == FORMAT).ok_or(Misfit::Record)?;
        if made.backing != below.map(|below| below.sha256) {
            return Err(Misfit::Remade);
        }
        let disk = dir.join(DISK);
        let hashed = self.hasher.hash(&disk).await.map_err(|_| Misfit::Record)?;
        if (hashed.size, hashed.sha256) != (made.size, made.sha256) {
            return Err(Misfit::Record);
        }
        if below.is_some_and(|below| !below.is_below(&disk)) {
            return Err(Misfit::Elsewhere);
        }
        Ok(made)
    }

    /// Stores what was made. Others may use it from now on.
    pub async fn store(&self, permit: Permit, new: New) -> Result<Stored> {
        let Permit { dir, lock_path, lock, parts } = permit;
        let disk = new.dir.join(DISK);
        let parent = dir.parent().context("a result has a parent directory")?;
        create_private(parent)?;
        if let Some(below) = &new.below {
            below.name_from(&dir, &disk).await?;
        }
        sync(&disk)?;
        let hashed = self.hasher.hash(&disk).await?;
        let made = Made {
            format: FORMAT,
            size: hashed.size,
            sha256: hashed.sha256,
            backing: new.below.map(|below| below.sha256),
            seconds: new.seconds,
            created: Timestamp::now(),
            version: new.version,
            parts,
            report: new.report,
        };
        let result = new.dir.join(RESULT);
        std::fs::write(&result, serde_json::to_vec_pretty(&made)?)
            .with_context(|| format!("writing {}", result.display()))?;
        sync(&result)?;
        std::fs::rename(&new.dir, &dir)
            .with_context(|| format!("moving {} to {}", new.dir.display(), dir.display()))?;
        sync(parent)?;
        // Known under its new name, so that the next run need not read it.
        self.hasher.hash(&dir.join(DISK)).await?;
        self.hasher.remember()?;
        drop(lock);
        let lock = Lock::acquire(&lock_path, Mode::Shared, || {}).await?;
        if !dir.join(RESULT).exists() {
            // Locks change hands; somebody who cleans up may have been first.
            bail!("{} was removed as soon as it was made: bake again", dir.display());
        }
        Ok(Stored { disk: dir.join(DISK), made, _lock: lock })
    }
}

fn read_record(dir: &Path) -> Option<Made> {
    serde_json::from_slice(&std::fs::read(dir.join(RESULT)).ok()?).ok()
}

/// Where a cache's locks are.
pub fn locks_dir(cache: &Path) -> PathBuf {
    cache.join("locks")
}

/// Writes a file that is there as a whole or not at all.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    let writing = || format!("writing {}", path.display());
    let dir = path.parent().with_context(writing)?;
    let mut file = tempfile::NamedTempFile::new_in(dir).with_context(writing)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).with_context(writing)?;
    file.persist(path).with_context(writing)?;
    sync(dir)
}

/// Brings a file, or a directory's names, to the disk.
pub fn sync(path: &Path) -> Result<()> {
    std::fs::File::open(path)
        .and_then(|file| file.sync_all())
        .with_context(|| format!("writing {} to the disk", path.display()))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
