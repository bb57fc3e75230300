//! What killed runs left in a cache and nobody's record names any more: the
//! record went with another state directory, or was removed by hand.
//!
//! A run's working directory says whose it is ([`claim`]); one whose process
//! is gone is nobody's. What downloads left and can go on with is the business
//! of `builder cache prune`, and here only if asked for with all the rest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::process::{ProcessId, helpers_of};
use super::record::{Record, runs_dir};

const OWNER: &str = "owner.json";
/// A directory is made a moment before it is claimed.
const UNCLAIMED: Duration = Duration::from_secs(60);

/// Writes down that `dir` is this process's.
pub fn claim(dir: &Path) -> Result<()> {
    let path = dir.join(OWNER);
    let owner = serde_json::to_vec(&ProcessId::current())?;
    std::fs::write(&path, owner).with_context(|| format!("writing {}", path.display()))
}

/// Working directories in `cache` whose process is gone and that no record
/// under `state` names.
pub fn find(cache: &Path, state: &Path) -> Vec<PathBuf> {
    let recorded: Vec<PathBuf> = entries(&runs_dir(state))
        .filter_map(|dir| Record::read(&dir).ok())
        .flat_map(|record| record.paths)
        .collect();
    let mut found: Vec<PathBuf> =
        entries(&cache.join("tmp")).filter(|dir| !recorded.contains(dir) && is_orphan(dir)).collect();
    found.sort();
    found
}

/// Ends what still runs in an orphan and removes it.
pub fn remove(dir: &Path) -> Result<()> {
    for helper in helpers_of(dir) {
        helper.signal(Signal::SIGKILL);
    }
    std::fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))
}

fn is_orphan(dir: &Path) -> bool {
    let owner = std::fs::read(dir.join(OWNER)).ok();
    if let Some(owner) = owner.and_then(|json| serde_json::from_slice::<ProcessId>(&json).ok()) {
        return !owner.is_alive();
    }
    let made = dir.metadata().and_then(|metadata| metadata.modified());
    made.ok().and_then(|made| made.elapsed().ok()).is_some_and(|age| age > UNCLAIMED)
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Run;

    #[test]
    fn a_directory_of_a_dead_process_is_nobodys() {
        let (cache, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dir = |name: &str| {
            let dir = cache.path().join("tmp").join(name);
            std::fs::create_dir_all(&dir).unwrap();
            dir
        };
        let (mine, dead, fresh) = (dir("mine"), dir("dead"), dir("fresh"));
        claim(&mine).unwrap();
        let gone = ProcessId { pid: 1, start: u64::MAX };
        std::fs::write(dead.join(OWNER), serde_json::to_vec(&gone).unwrap()).unwrap();
        assert_eq!(find(cache.path(), state.path()), std::slice::from_ref(&dead));
        remove(&dead).unwrap();
        assert!(!dead.exists() && mine.exists() && fresh.exists());
    }

    #[test]
    fn what_a_record_names_is_left_to_it() {
        let (cache, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let work = cache.path().join("tmp/0123456789abcdef");
        let mut run = Run::start(state.path(), "test").unwrap();
        run.own(&work).unwrap();
        std::fs::create_dir_all(&work).unwrap();
        let gone = ProcessId { pid: 1, start: u64::MAX };
        std::fs::write(work.join(OWNER), serde_json::to_vec(&gone).unwrap()).unwrap();
        assert!(find(cache.path(), state.path()).is_empty());
    }
}
