//! Locks between builders: one makes a stage's result, others wait and use it.
//!
//! A lock is an empty file with `flock(2)` on it: it ends with its process,
//! whatever happens. Whoever is last removes the file.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::run::dirs::create_private;

/// How often a lock somebody else holds is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// What the holder does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Uses what is there; others may too.
    Shared,
    /// Makes or removes it; alone.
    Exclusive,
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: Option<Flock<File>>,
}

impl Lock {
    /// Waits for the lock at `path`. `waiting` is called once, if somebody
    /// else holds it.
    pub async fn acquire(path: &Path, mode: Mode, waiting: impl FnOnce()) -> Result<Self> {
        let mut waiting = Some(waiting);
        loop {
            if let Some(lock) = Self::try_acquire(path, mode)? {
                return Ok(lock);
            }
            if let Some(waiting) = waiting.take() {
                waiting();
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// The lock at `path`, if nobody else's is in the way.
    pub fn try_acquire(path: &Path, mode: Mode) -> Result<Option<Self>> {
        let arg = match mode {
            Mode::Shared => FlockArg::LockSharedNonblock,
            Mode::Exclusive => FlockArg::LockExclusiveNonblock,
        };
        if let Some(dir) = path.parent() {
            create_private(dir)?;
        }
        loop {
            let file = File::options().create(true).truncate(false).write(true).open(path);
            let file = file.with_context(|| format!("opening lock {}", path.display()))?;
            match Flock::lock(file, arg) {
                Ok(file) if is_at(&file, path) => {
                    return Ok(Some(Self { path: path.to_owned(), file: Some(file) }));
                }
                // Its last holder removed it in the meantime.
                Ok(_) => {}
                Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
                Err((_, error)) => bail!("locking {}: {error}", path.display()),
            }
        }
    }
}

/// Whether the file that is open is the one that stands at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// The locks in `dir` that nobody holds: what killed processes left.
pub fn unheld(dir: &Path) -> Vec<PathBuf> {
    let free = |path: &PathBuf| {
        let file = File::open(path).ok();
        file.is_some_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok())
    };
    let mut locks: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(free)
        .collect();
    locks.sort();
    locks
}

/// Removes the locks in `dir` that nobody holds.
pub fn remove_unheld(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        // Held alone for a moment, it is removed as it is given back.
        if let Ok(lock) = Lock::try_acquire(&entry.path(), Mode::Exclusive) {
            drop(lock);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        // Alone: nobody else holds it, and who is about to will look again.
        if file.relock(FlockArg::LockExclusiveNonblock).is_ok() && is_at(&file, &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(lock: Option<Lock>) -> Lock {
        lock.expect("the lock is free")
    }

    #[test]
    fn one_makes_or_many_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks/os");
        let maker = held(Lock::try_acquire(&path, Mode::Exclusive).unwrap());
        assert!(Lock::try_acquire(&path, Mode::Shared).unwrap().is_none());
        drop(maker);
        let user = held(Lock::try_acquire(&path, Mode::Shared).unwrap());
        let other = held(Lock::try_acquire(&path, Mode::Shared).unwrap());
        assert!(Lock::try_acquire(&path, Mode::Exclusive).unwrap().is_none());
        drop(user);
        assert!(path.exists(), "removed under a user");
        drop(other);
        assert!(!path.exists(), "left behind");
    }

    #[tokio::test]
    async fn who_waits_says_so_once_and_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("os");
        let maker = held(Lock::try_acquire(&path, Mode::Exclusive).unwrap());
        let (said, mut hear) = tokio::sync::mpsc::unbounded_channel();
        let theirs = path.clone();
        let waiter = tokio::spawn(async move {
            Lock::acquire(&theirs, Mode::Exclusive, move || said.send(()).unwrap()).await.unwrap()
        });
        hear.recv().await.unwrap();
        drop(maker);
        drop(waiter.await.unwrap());
        assert_eq!(hear.recv().await, None);
        assert!(!path.exists());
    }

    #[test]
    fn only_what_nobody_holds_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let (stale, used) = (dir.path().join("stale"), dir.path().join("used"));
        std::fs::write(&stale, b"").unwrap();
        let holder = held(Lock::try_acquire(&used, Mode::Shared).unwrap());
        assert_eq!(unheld(dir.path()), std::slice::from_ref(&stale));
        remove_unheld(dir.path());
        assert!(!stale.exists() && used.exists());
        drop(holder);
    }

    #[test]
    fn many_at_once_are_never_two() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("os");
        let (inside, most, turns) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut mine = 0;
                    while mine < 50 {
                        if let Some(lock) = Lock::try_acquire(&path, Mode::Exclusive).unwrap() {
                            most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            turns.fetch_add(1, Ordering::SeqCst);
                            inside.fetch_sub(1, Ordering::SeqCst);
                            drop(lock);
                            mine += 1;
                        }
                    }
                });
            }
        });
        assert_eq!((most.into_inner(), turns.into_inner()), (1, 400));
    }
}
