//! A run's record on disk.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::RunId;
use super::process::{ProcessId, helpers_of};

const RECORD_FILE: &str = "record.json";
/// A killed QEMU is gone within this, whatever its disk does.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// What a run is and what is its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its id, also the directory's name.
    pub id: RunId,
    /// What it does, for people: `bake alma9-k3-node-amd64-v1.28.5-v1`.
    pub what: String,
    /// The builder's process.
    pub process: ProcessId,
    /// When it began.
    pub created: Timestamp,
    /// Files and directories it made or was about to make, absolute.
    pub paths: Vec<PathBuf>,
    /// Directories it takes locks in, shared with other runs.
    #[serde(default)]
    pub lock_dirs: Vec<PathBuf>,
    /// Somebody asked to keep what a failed run left.
    #[serde(default)]
    pub kept: bool,
}

/// Where the records of all runs are.
pub(super) fn runs_dir(state: &Path) -> PathBuf {
    state.join("runs")
}

impl Record {
    pub(super) fn new(id: RunId, what: &str) -> Self {
        let (process, created) = (ProcessId::current(), Timestamp::now());
        Self {
            id,
            what: what.to_owned(),
            process,
            created,
            paths: Vec::new(),
            lock_dirs: Vec::new(),
            kept: false,
        }
    }

    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(RECORD_FILE);
        let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))
    }

    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(RECORD_FILE);
        let temporary = dir.join("record.json.new");
        let write = || {
            let mut json = serde_json::to_vec_pretty(self)?;
            json.push(b'\n');
            std::fs::write(&temporary, json)?;
            std::fs::rename(&temporary, &path)
        };
        write().with_context(|| format!("writing the run's record {}", path.display()))
    }

    /// VMs and other programs that run in what is recorded, or write to it.
    pub fn vms(&self) -> Vec<ProcessId> {
        self.paths.iter().flat_map(|path| helpers_of(path)).collect()
    }

    /// Ends the VMs, removes the files, and the record when nothing is left.
    /// Says what could not be removed.
    pub(super) fn clean(&self, dir: &Path) -> Vec<String> {
        let vms = self.vms();
        for vm in &vms {
            vm.signal(Signal::SIGKILL);
        }
        let deadline = Instant::now() + KILL_TIMEOUT;
        while vms.iter().any(|vm| vm.is_alive()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut problems: Vec<String> = vms
            .iter()
            .filter(|vm| vm.is_alive())
            .map(|vm| format!("process {} does not end", vm.pid))
            .collect();
        for path in &self.paths {
            if let Err(error) = remove(path) {
                problems.push(format!("removing {}: {error}", path.display()));
            }
        }
        self.lock_dirs.iter().for_each(|dir| super::lock::remove_unheld(dir));
        if problems.is_empty()
            && let Err(error) = remove(dir)
        {
            problems.push(format!("removing {}: {error}", dir.display()));
        }
        problems
    }
}

/// Removes a file, a link or a directory with all in it; nothing there is fine.
fn remove(path: &Path) -> std::io::Result<()> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if kind.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
}
