//! Runs: everything one call of the builder makes outside its cache and its
//! output is written down before it exists, so that Ctrl-C removes it and
//! `builder gc` finds it after `kill -9`.
//!
//! | module | what it holds |
//! |---|---|
//! | [`dirs`] | where state and cache live |
//! | [`gc`] | what killed runs left, and its removal |
//! | [`interrupt`] | Ctrl-C as a future |
//! | [`lock`] | locks between builders |
//! | [`orphans`] | what killed runs left in a cache without a record |
//! | [`process`] | naming a process so that it is found again |
//! | [`record`] | the record on disk |

pub mod dirs;
pub mod gc;
pub mod interrupt;
pub mod lock;
pub mod orphans;
pub mod process;
pub mod record;

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use record::Record;

/// Names one run: 16 lowercase hex digits, random.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

/// Text that is not a run id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a run id is 16 lowercase hex digits")]
pub struct InvalidRunId;

impl RunId {
    /// A new one.
    pub fn generate() -> Self {
        let mut bytes = [0_u8; 8];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut bytes))
            .expect("Linux has /dev/urandom");
        Self(format!("{:016x}", u64::from_be_bytes(bytes)))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for RunId {
    type Err = InvalidRunId;
    fn from_str(text: &str) -> Result<Self, InvalidRunId> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == 16 && text.bytes().all(digit)).then(|| Self(text.to_owned())).ok_or(InvalidRunId)
    }
}

impl TryFrom<String> for RunId {
    type Error = InvalidRunId;
    fn try_from(text: String) -> Result<Self, InvalidRunId> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.0
    }
}

/// A run in progress. Dropping it ends the VMs and removes the files that are
/// in its record, and then the record.
#[derive(Debug)]
pub struct Run {
    dir: PathBuf,
    record: Record,
    keep: bool,
}

impl Run {
    /// Begins a run that does `what`, recorded in `<state>/runs/<id>`.
    pub fn start(state: &Path, what: &str) -> Result<Self> {
        let record = Record::new(RunId::generate(), what);
        let dir = record::runs_dir(state).join(record.id.as_str());
        let run = Self { dir, record, keep: false };
        dirs::create_private(&run.dir)?;
        run.record.write(&run.dir)?;
        Ok(run)
    }

    /// Its id.
    pub fn id(&self) -> &RunId {
        &self.record.id
    }

    /// Writes down that `path` (a file, or a directory with all in it,
    /// running VMs included) is this run's. To be called before it is made.
    pub fn own(&mut self, path: &Path) -> Result<()> {
        let path = std::path::absolute(path).with_context(|| format!("resolving {}", path.display()))?;
        self.record.paths.push(path);
        self.record.write(&self.dir)
    }

    /// Writes down that this run takes locks in `dir`: those nobody holds any
    /// more go with it.
    pub fn locks_in(&mut self, dir: &Path) -> Result<()> {
        self.record.lock_dirs.push(dir.to_owned());
        self.record.write(&self.dir)
    }

    /// Leaves what was made, for somebody to look at; `builder gc` knows it.
    pub fn keep(mut self) -> Result<()> {
        self.keep = true;
        self.record.kept = true;
        self.record.write(&self.dir)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.keep {
            for problem in self.record.clean(&self.dir) {
                tracing::warn!("cleaning up run {}: {problem}", self.record.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_run_owns_goes_with_it() {
        let state = tempfile::tempdir().unwrap();
        let work = state.path().join("work");
        let mut run = Run::start(state.path(), "test").unwrap();
        let record = run.dir.clone();
        run.own(&work).unwrap();
        std::fs::create_dir_all(work.join("deep")).unwrap();
        std::fs::write(work.join("deep/file"), b"x").unwrap();
        drop(run);
        assert!(!work.exists() && !record.exists());
    }

    #[test]
    fn what_is_kept_stays_with_its_record() {
        let state = tempfile::tempdir().unwrap();
        let work = state.path().join("work");
        let mut run = Run::start(state.path(), "test").unwrap();
        run.own(&work).unwrap();
        std::fs::create_dir(&work).unwrap();
        run.keep().unwrap();
        let left = gc::find(state.path()).unwrap();
        assert!(work.exists());
        // The run's process, this one, is alive still.
        assert!(left[0].record.kept && left[0].record.paths == [work]);
    }

    proptest! {
        #[test]
        fn a_run_id_is_16_hex_digits(text in "[0-9a-f]{16}", other in "[0-9a-fA-F]{0,20}") {
            prop_assert_eq!(text.parse::<RunId>().unwrap().to_string(), text);
            prop_assert_eq!(other.parse::<RunId>().is_ok(), other.len() == 16 && other == other.to_lowercase());
        }
    }

    #[test]
    fn generated_ids_are_valid_and_differ() {
        let (a, b) = (RunId::generate(), RunId::generate());
        assert_ne!(a, b);
        assert_eq!(a.as_str().parse::<RunId>().unwrap(), a);
    }
}
