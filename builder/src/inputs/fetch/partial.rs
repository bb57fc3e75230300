//! Downloads that are not complete.
//!
//! ```text
//! <cache>/partials/<key>/{data, state.json}
//! <cache>/locks/download-<key>               while somebody downloads it
//! ```
//!
//! The key is the digest the file must have, or that of its URL. A partial
//! download outlives its builder on purpose: the next one continues. One that
//! nobody holds is found by `builder gc` and `builder cache prune`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::answer::Validator;
use crate::bake::store::locks_dir;
use crate::run::RunId;
use crate::run::dirs::create_private;
use crate::run::lock::{Lock, Mode};

const STATE: &str = "state.json";
const DATA: &str = "data";

/// What is known of a download that is not complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Where it comes from.
    pub(super) url: String,
    /// Which content of it.
    pub(super) validator: Option<Validator>,
    /// The run that began it.
    pub(super) run: RunId,
    /// When that was.
    pub(super) began: Timestamp,
    /// The boot in which it was written: after a power cut the end of the data
    /// may never have reached the disk.
    pub(super) boot: String,
}

/// The directory of one.
pub(super) fn dir(cache: &Path, key: &str) -> PathBuf {
    cache.join("partials").join(key)
}

/// The path of its data.
pub(super) fn data(dir: &Path) -> PathBuf {
    dir.join(DATA)
}

/// The path of the lock under which it is written.
pub(super) fn lock_path(cache: &Path, key: &str) -> PathBuf {
    locks_dir(cache).join(format!("download-{key}"))
}

impl State {
    /// What was written down in a directory; none if there is nothing to be
    /// continued.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(dir.join(STATE)).ok()?).ok()
    }

    /// Writes it down, as a whole: on a full disk the one before stays. It need
    /// not reach the disk: after a power cut, data and record are not trusted.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        create_private(dir)?;
        let (path, new) = (dir.join(STATE), dir.join(format!("{STATE}.new")));
        std::fs::write(&new, serde_json::to_vec(self)?)
            .and_then(|()| std::fs::rename(&new, &path))
            .with_context(|| format!("writing {}", path.display()))
    }
}

/// This boot's identity; the same text when it cannot be told.
pub(super) fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// A partial download, as gc and prune see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial {
    /// Its directory.
    pub dir: PathBuf,
    /// Where it comes from, if that can be read.
    pub url: Option<String>,
    /// The run that began it, if that can be read.
    pub run: Option<RunId>,
    /// Bytes that are there.
    pub size: u64,
    /// When bytes last came.
    pub used: Timestamp,
    /// Whether somebody downloads it now.
    pub held: bool,
    lock: PathBuf,
}

impl Partial {
    /// The lock under which it is downloaded.
    pub fn lock(&self) -> &Path {
        &self.lock
    }

    /// Removes it, unless somebody downloads it now; says whether.
    pub fn remove(&self) -> Result<bool> {
        let Some(_lock) = Lock::try_acquire(&self.lock, Mode::Exclusive)? else { return Ok(false) };
        std::fs::remove_dir_all(&self.dir).with_context(|| format!("removing {}", self.dir.display()))?;
        Ok(true)
    }
}

/// The partial downloads of a cache.
pub fn find(cache: &Path) -> Result<Vec<Partial>> {
    let all = cache.join("partials");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&all).into_iter().flatten().flatten() {
        let dir = entry.path();
        let lock = lock_path(cache, &entry.file_name().to_string_lossy());
        let metadata = std::fs::metadata(data(&dir)).or_else(|_| std::fs::metadata(&dir));
        // It was only on its way, or is gone.
        let Ok(metadata) = metadata else { continue };
        let state = State::read(&dir);
        found.push(Partial {
            size: if metadata.is_file() { metadata.len() } else { 0 },
            used: metadata.modified().ok().and_then(|at| at.try_into().ok()).unwrap_or(Timestamp::UNIX_EPOCH),
            held: Lock::try_acquire(&lock, Mode::Exclusive)?.is_none(),
            run: state.as_ref().map(|state| state.run.clone()),
            url: state.map(|state| state.url),
            dir,
            lock,
        });
    }
    found.sort_by(|a, b| a.dir.cmp(&b.dir));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_downloads_any_more_is_found_and_removed() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(find(cache.path()).unwrap(), []);
        let state = State {
            url: "http://e/a.iso".into(),
            validator: None,
            run: RunId::generate(),
            began: Timestamp::now(),
            boot: boot(),
        };
        for key in ["a", "b"] {
            state.write(&dir(cache.path(), key)).unwrap();
            std::fs::write(data(&dir(cache.path(), key)), b"12345").unwrap();
        }
        let holder = Lock::try_acquire(&lock_path(cache.path(), "a"), Mode::Exclusive).unwrap().unwrap();
        let found = find(cache.path()).unwrap();
        assert_eq!(found.iter().map(|p| (p.held, p.size)).collect::<Vec<_>>(), [(true, 5), (false, 5)]);
        assert_eq!(found[1].run.as_ref(), Some(&state.run));
        assert!(!found[0].remove().unwrap() && found[0].dir.exists(), "removed under its builder");
        assert!(found[1].remove().unwrap() && !found[1].dir.exists());
        drop(holder);
        assert!(found[0].remove().unwrap());
        assert_eq!(std::fs::read_dir(cache.path().join("locks")).unwrap().count(), 0);
    }

    #[test]
    fn a_torn_record_is_read_as_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(STATE), b"{\"url\":").unwrap();
        assert_eq!(State::read(dir.path()), None);
    }
}
