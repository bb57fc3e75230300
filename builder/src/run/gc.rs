//! What killed runs left, and its removal.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::record::{Record, runs_dir};

/// A run whose builder is gone, or that was kept.
#[derive(Debug)]
pub struct LeftOver {
    dir: PathBuf,
    /// What it wrote down.
    pub record: Record,
}

impl LeftOver {
    /// What of it still exists.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.record.paths.iter().map(PathBuf::as_path).filter(|path| path.symlink_metadata().is_ok())
    }

    /// Ends its VMs and removes its files and its record; says what could not
    /// be removed.
    pub fn remove(&self) -> Vec<String> {
        self.record.clean(&self.dir)
    }
}

/// Runs recorded under `state` whose builder is gone, oldest first.
pub fn find(state: &Path) -> Result<Vec<LeftOver>> {
    let runs = runs_dir(state);
    let entries = match std::fs::read_dir(&runs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", runs.display())),
    };
    let mut left = Vec::new();
    for entry in entries {
        let dir = entry.with_context(|| format!("reading {}", runs.display()))?.path();
        match Record::read(&dir) {
            Ok(record) if record.kept || !record.process.is_alive() => left.push(LeftOver { dir, record }),
            Ok(_) => {}
            // A run that was killed as it began, or is just beginning or ending.
            Err(error) => tracing::debug!("{error:#}"),
        }
    }
    left.sort_by_key(|run| run.record.created);
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{Run, process::ProcessId};

    /// A run as `kill -9` leaves it.
    fn killed(state: &Path, work: &Path) {
        let mut run = Run::start(state, "test").unwrap();
        run.own(work).unwrap();
        run.record.process = ProcessId { pid: 1, start: u64::MAX };
        run.record.write(&run.dir).unwrap();
        run.keep = true;
    }

    #[test]
    fn a_killed_runs_files_are_found_and_removed() {
        let state = tempfile::tempdir().unwrap();
        let work = state.path().join("work");
        killed(state.path(), &work);
        std::fs::create_dir(&work).unwrap();
        let left = find(state.path()).unwrap();
        assert_eq!(left[0].paths().collect::<Vec<_>>(), [work.as_path()]);
        assert!(left[0].remove().is_empty());
        assert!(!work.exists());
        assert!(find(state.path()).unwrap().is_empty());
    }

    #[test]
    fn a_living_runs_files_are_left_alone() {
        let state = tempfile::tempdir().unwrap();
        let _run = Run::start(state.path(), "test").unwrap();
        assert!(find(state.path()).unwrap().is_empty());
    }

    #[test]
    fn without_a_state_directory_nothing_is_left() {
        assert!(find(Path::new("/nonexistent")).unwrap().is_empty());
    }
}
