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
//! what was recorded; one that does not fit, or whose backing disk is another
//! by now, is thrown away and made again.
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
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
    /// Something that does not fit its record, or lies over another disk.
    Stale,
    /// Nothing.
    Missing,
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

/// What a stage has made, to be stored.
#[derive(Debug)]
pub struct New {
    /// A directory with nothing in it but what is to be stored, [`DISK`]
    /// included, on the cache's file system.
    pub dir: PathBuf,
    /// The image it is made for.
    pub version: String,
    /// The digest of the disk below it.
    pub backing: Option<Digest>,
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

    /// Looks for a result; `backing` is the digest the disk below it has now.
    /// Waits while another builder makes it.
    pub async fn find(&self, stage: &'static str, key: &Key, backing: Option<Digest>) -> Result<Found> {
        let dir = self.dir(stage, key);
        let lock_path = locks_dir(&self.cache).join(format!("{stage}-{}", key.digest));
        loop {
            let waiting = || self.progress.step(stage, "waiting for another builder that makes the same");
            let lock = Lock::acquire(&lock_path, Mode::Shared, waiting).await?;
            if let Some(made) = self.verify(&dir, backing).await {
                touch(&dir);
                return Ok(Found::Ready(Stored { disk: dir.join(DISK), made, _lock: lock }));
            }
            drop(lock);
            let lock = Lock::acquire(&lock_path, Mode::Exclusive, waiting).await?;
            if self.verify(&dir, backing).await.is_some() {
                // Somebody made it in between: it is used as everybody does,
                // not held alone.
                continue;
            }
            if dir.exists() {
                self.progress.warn(format!("{} does not fit its record and is made again", dir.display()));
                std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
            }
            return Ok(Found::Missing(Permit { dir, lock_path, lock, parts: key.parts.clone() }));
        }
    }

    /// What there is of a result, without touching it or waiting for anybody.
    pub async fn look(&self, stage: &str, key: &Key, backing: Option<Digest>) -> Look {
        let dir = self.dir(stage, key);
        match self.verify(&dir, backing).await {
            Some(made) => Look::Ready(Box::new(made)),
            None if dir.exists() => Look::Stale,
            None => Look::Missing,
        }
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

    async fn verify(&self, dir: &Path, backing: Option<Digest>) -> Option<Made> {
        let made = read_record(dir)?;
        if made.format != FORMAT || made.backing != backing {
            return None;
        }
        let disk = self.hasher.hash(&dir.join(DISK)).await.ok()?;
        (disk.size == made.size && disk.sha256 == made.sha256).then_some(made)
    }

    /// Stores what was made. Others may use it from now on.
    pub async fn store(&self, permit: Permit, new: New) -> Result<Stored> {
        let Permit { dir, lock_path, lock, parts } = permit;
        let disk = new.dir.join(DISK);
        sync(&disk)?;
        let hashed = self.hasher.hash(&disk).await?;
        let made = Made {
            format: FORMAT,
            size: hashed.size,
            sha256: hashed.sha256,
            backing: new.backing,
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
        let parent = dir.parent().context("a result has a parent directory")?;
        create_private(parent)?;
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
mod tests {
    use super::*;
    use crate::image::key::KeyBuilder;

    fn key() -> Key {
        KeyBuilder::new("os", 1).with("disk size", "10").key()
    }

    struct Lab {
        dir: tempfile::TempDir,
        hasher: Hasher,
        progress: Progress,
    }

    impl Lab {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self { hasher: Hasher::new(dir.path()), progress: Progress::silent(), dir }
        }

        fn store(&self) -> Store<'_> {
            Store::new(self.dir.path(), &self.hasher, &self.progress)
        }

        async fn find(&self, backing: Option<Digest>) -> Found {
            self.store().find("os", &key(), backing).await.unwrap()
        }

        async fn make(&self, content: &[u8], backing: Option<Digest>) -> Stored {
            let Found::Missing(permit) = self.find(backing).await else { panic!("there already") };
            let dir = self.dir.path().join("new");
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join(DISK), content).unwrap();
            let version = "v1".to_owned();
            let new = New { dir, version, backing, seconds: 1.0, report: serde_json::Value::Null };
            self.store().store(permit, new).await.unwrap()
        }

        async fn is_ready(&self, backing: Option<Digest>) -> bool {
            matches!(self.find(backing).await, Found::Ready(_))
        }
    }

    #[tokio::test]
    async fn what_was_stored_is_found_and_no_lock_is_left() {
        let lab = Lab::new();
        let made = lab.make(b"disk", None).await.made.clone();
        let Found::Ready(stored) = lab.find(None).await else { panic!("gone") };
        assert_eq!(stored.made, made);
        assert_eq!(std::fs::read(&stored.disk).unwrap(), b"disk");
        drop(stored);
        assert_eq!(std::fs::read_dir(lab.dir.path().join("locks")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn looking_touches_nothing() {
        let lab = Lab::new();
        let look = async |backing| lab.store().look("os", &key(), backing).await;
        assert_eq!(look(None).await, Look::Missing);
        let made = lab.make(b"disk", None).await.made.clone();
        assert_eq!(made.parts, key().parts);
        assert_eq!(look(None).await, Look::Ready(Box::new(made.clone())));
        assert_eq!(look(Some(Digest::of(b"another"))).await, Look::Stale);
        assert_eq!(lab.store().records("os"), [made]);
        assert!(lab.is_ready(None).await, "looking removed it");
    }

    #[tokio::test]
    async fn whoever_waited_for_a_result_does_not_hold_it_alone() {
        let lab = Lab::new();
        let Found::Missing(permit) = lab.find(None).await else { panic!("there already") };
        let (second, third) = (lab.find(None), lab.find(None));
        tokio::pin!(second, third);
        let early = tokio::time::timeout(std::time::Duration::from_millis(150), async {
            tokio::join!(&mut second, &mut third)
        });
        assert!(early.await.is_err(), "did not wait");
        let dir = lab.dir.path().join("new");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join(DISK), b"disk").unwrap();
        let new =
            New { dir, version: String::new(), backing: None, seconds: 1.0, report: serde_json::Value::Null };
        let store = lab.store();
        let (first, second, third) = tokio::join!(store.store(permit, new), second, third);
        // All three use it at once.
        first.unwrap();
        assert!(matches!((second, third), (Found::Ready(_), Found::Ready(_))));
    }

    #[tokio::test]
    async fn a_changed_disk_is_not_used_again() {
        let lab = Lab::new();
        let disk = lab.make(b"disk", None).await.disk.clone();
        std::fs::write(&disk, b"disc").unwrap();
        assert!(!lab.is_ready(None).await);
        assert!(!disk.exists(), "kept a damaged result");
        lab.make(b"disk", None).await;
        assert!(lab.is_ready(None).await);
    }

    #[tokio::test]
    async fn a_torn_record_is_not_used() {
        let lab = Lab::new();
        let disk = lab.make(b"disk", None).await.disk.clone();
        std::fs::write(disk.with_file_name(RESULT), b"{\"format\":1").unwrap();
        assert!(!lab.is_ready(None).await);
    }

    #[tokio::test]
    async fn an_overlay_goes_with_the_disk_it_was_made_over() {
        let lab = Lab::new();
        let (old, new) = (Some(Digest::of(b"old")), Some(Digest::of(b"new")));
        lab.make(b"overlay", old).await;
        assert!(lab.is_ready(old).await);
        assert!(!lab.is_ready(new).await);
    }

    #[tokio::test]
    async fn a_second_builder_waits_for_the_first() {
        let lab = Lab::new();
        let Found::Missing(permit) = lab.find(None).await else { panic!("there already") };
        let second = lab.find(None);
        tokio::pin!(second);
        let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut second).await;
        assert!(early.is_err(), "did not wait");
        drop(permit);
        assert!(matches!(second.await, Found::Missing(_)));
    }
}
