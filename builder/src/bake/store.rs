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
mod tests {
    use super::*;
    use crate::image::key::KeyBuilder;
    use crate::machine::qemu::img;

    fn key() -> Key {
        KeyBuilder::new("os", 1).with("disk size", "10").key()
    }

    /// A cache in a directory of its own.
    struct Lab {
        home: tempfile::TempDir,
        cache: PathBuf,
        hasher: Hasher,
        progress: Progress,
    }

    impl Lab {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let cache = home.path().join("cache");
            std::fs::create_dir(&cache).unwrap();
            Self { hasher: Hasher::new(&cache), progress: Progress::silent(), cache, home }
        }

        fn store(&self) -> Store<'_> {
            Store::new(&self.cache, &self.hasher, &self.progress)
        }

        /// The cache is elsewhere from now on; says where it was.
        fn is_now_at(&mut self, name: &str) -> PathBuf {
            self.hasher = Hasher::new(&self.home.path().join(name));
            std::mem::replace(&mut self.cache, self.home.path().join(name))
        }

        async fn find(&self) -> Found {
            self.store().find("os", &key(), None).await.unwrap()
        }

        async fn make(&self, content: &[u8]) -> Stored {
            let Found::Missing(permit) = self.find().await else { panic!("there already") };
            let new = self.new_dir();
            std::fs::write(new.join(DISK), content).unwrap();
            self.keep(permit, new, None).await
        }

        /// An empty disk, and one over it.
        async fn make_both(&self) -> (Stored, Stored) {
            let Found::Missing(permit) = self.find().await else { panic!("there already") };
            let new = self.new_dir();
            img::create(&new.join(DISK), 1 << 20).await.unwrap();
            let os = self.keep(permit, new, None).await;
            let node = self.make_over(&os).await;
            (os, node)
        }

        async fn make_over(&self, os: &Stored) -> Stored {
            let found = self.find_over(os).await;
            let Found::Missing(permit) = found else { panic!("there already") };
            let new = self.new_dir();
            img::create_overlay(&os.disk, &new.join(DISK), None).await.unwrap();
            self.keep(permit, new, Some(os.below())).await
        }

        async fn find_over(&self, os: &Stored) -> Found {
            self.store().find("node", &key(), Some(&os.below())).await.unwrap()
        }

        async fn look_over(&self, os: &Stored) -> Look {
            self.store().look("node", &key(), Some(&os.below())).await
        }

        /// The os disk, which is there.
        async fn os(&self) -> Stored {
            let Found::Ready(os) = self.find().await else { panic!("not there") };
            os
        }

        fn new_dir(&self) -> PathBuf {
            let dir = self.cache.join("new");
            std::fs::create_dir(&dir).unwrap();
            dir
        }

        async fn keep(&self, permit: Permit, dir: PathBuf, below: Option<Below>) -> Stored {
            let version = "v1".to_owned();
            let new = New { dir, version, below, seconds: 1.0, report: serde_json::Value::Null };
            self.store().store(permit, new).await.unwrap()
        }

        async fn is_ready(&self) -> bool {
            matches!(self.find().await, Found::Ready(_))
        }
    }

    /// Makes of an overlay what an earlier version kept.
    async fn name_in_full(node: &Stored, os: &Stored) {
        img::name_backing(&node.disk, &os.disk.canonicalize().unwrap()).await.unwrap();
        let bytes = std::fs::read(&node.disk).unwrap();
        let made = Made { sha256: Digest::of(&bytes), size: bytes.len() as u64, ..node.made.clone() };
        let record = serde_json::to_vec(&made).unwrap();
        std::fs::write(node.disk.with_file_name(RESULT), record).unwrap();
    }

    #[tokio::test]
    async fn what_was_stored_is_found_and_no_lock_is_left() {
        let lab = Lab::new();
        let made = lab.make(b"disk").await.made.clone();
        let Found::Ready(stored) = lab.find().await else { panic!("gone") };
        assert_eq!(stored.made, made);
        assert_eq!(std::fs::read(&stored.disk).unwrap(), b"disk");
        drop(stored);
        assert_eq!(std::fs::read_dir(lab.cache.join("locks")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn looking_touches_nothing() {
        let lab = Lab::new();
        let look = async |below| lab.store().look("os", &key(), below).await;
        assert_eq!(look(None).await, Look::Missing);
        let made = lab.make(b"disk").await.made.clone();
        assert_eq!(made.parts, key().parts);
        assert_eq!(look(None).await, Look::Ready(Box::new(made.clone())));
        let another = Below { disk: lab.cache.join("another"), sha256: Digest::of(b"another") };
        assert_eq!(look(Some(&another)).await, Look::Stale(Misfit::Remade));
        assert_eq!(lab.store().records("os"), [made]);
        assert!(lab.is_ready().await, "looking removed it");
    }

    #[tokio::test]
    async fn whoever_waited_for_a_result_does_not_hold_it_alone() {
        let lab = Lab::new();
        let Found::Missing(permit) = lab.find().await else { panic!("there already") };
        let (second, third) = (lab.find(), lab.find());
        tokio::pin!(second, third);
        let early = tokio::time::timeout(std::time::Duration::from_millis(150), async {
            tokio::join!(&mut second, &mut third)
        });
        assert!(early.await.is_err(), "did not wait");
        let new = lab.new_dir();
        std::fs::write(new.join(DISK), b"disk").unwrap();
        // All three use it at once.
        let (_first, second, third) = tokio::join!(lab.keep(permit, new, None), second, third);
        assert!(matches!((second, third), (Found::Ready(_), Found::Ready(_))));
    }

    #[tokio::test]
    async fn a_changed_disk_is_not_used_again() {
        let lab = Lab::new();
        let disk = lab.make(b"disk").await.disk.clone();
        std::fs::write(&disk, b"disc").unwrap();
        assert!(!lab.is_ready().await);
        assert!(!disk.exists(), "kept a damaged result");
        lab.make(b"disk").await;
        assert!(lab.is_ready().await);
    }

    #[tokio::test]
    async fn a_torn_record_is_not_used() {
        let lab = Lab::new();
        let disk = lab.make(b"disk").await.disk.clone();
        std::fs::write(disk.with_file_name(RESULT), b"{\"format\":1").unwrap();
        assert!(!lab.is_ready().await);
    }

    #[tokio::test]
    async fn an_overlay_goes_with_the_disk_it_was_made_over() {
        let lab = Lab::new();
        let (os, node) = lab.make_both().await;
        assert_eq!(lab.look_over(&os).await, Look::Ready(Box::new(node.made.clone())));
        let made = Made { sha256: Digest::of(b"another"), ..os.made.clone() };
        let os = Stored { made, ..os };
        assert_eq!(lab.look_over(&os).await, Look::Stale(Misfit::Remade));
    }

    #[tokio::test]
    async fn a_cache_may_be_moved_and_copied() {
        let mut lab = Lab::new();
        let node = lab.make_both().await.1.made;
        let old = lab.is_now_at("moved");
        std::fs::rename(&old, &lab.cache).unwrap();
        let ready = Look::Ready(Box::new(node));
        assert_eq!(lab.look_over(&lab.os().await).await, ready);
        let old = lab.is_now_at("copied");
        copy(&old, &lab.cache);
        assert_eq!(lab.look_over(&lab.os().await).await, ready);
        std::fs::remove_dir_all(&old).unwrap();
        assert!(matches!(lab.find_over(&lab.os().await).await, Found::Ready(_)));
    }

    #[tokio::test]
    async fn an_earlier_version_s_overlay_is_used_in_its_place_and_made_again_elsewhere() {
        let mut lab = Lab::new();
        let (os, node) = lab.make_both().await;
        name_in_full(&node, &os).await;
        assert!(matches!(lab.look_over(&os).await, Look::Ready(_)));
        drop((os, node));

        // The disk it names is still there, and the very same. It is not used.
        let old = lab.is_now_at("copied");
        copy(&old, &lab.cache);
        let os = lab.os().await;
        assert_eq!(lab.look_over(&os).await, Look::Stale(Misfit::Elsewhere));
        lab.make_over(&os).await;
        let said = format!("{:?}", lab.progress.events());
        assert!(said.contains("a disk that is not this cache's") && said.contains("made again"), "{said}");
        std::fs::remove_dir_all(&old).unwrap();
        assert!(matches!(lab.look_over(&os).await, Look::Ready(_)));
    }

    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap().flatten() {
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            if from.is_dir() {
                copy(&from, &to);
            } else {
                std::fs::copy(&from, &to).unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_second_builder_waits_for_the_first() {
        let lab = Lab::new();
        let Found::Missing(permit) = lab.find().await else { panic!("there already") };
        let second = lab.find();
        tokio::pin!(second);
        let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut second).await;
        assert!(early.is_err(), "did not wait");
        drop(permit);
        assert!(matches!(second.await, Found::Missing(_)));
    }
}
