//! Where a cluster's state is on this machine.
//!
//! ```text
//! <state>/owner                     which installation of Kiln this is
//! <state>/clusters/<cluster>/       mode 0700, one writer at a time (lock)
//!     journal.jsonl                 what runs did and were about to do; ticket seeds
//!     net/ images/ nodes/           the provider's objects, each with its record
//!     coordinator/                  the coordinator's own state
//!     status.json                   what `up` last saw
//!     kubeconfig
//! <state>.unlock-key                what the coordinators' secrets are sealed under
//! <state>.<cluster>.recovery-key    what alone gives its coordinator another key
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kiln_coordinator::{Coordinator, UnlockFile};
use kiln_protocol::ClusterName;

use super::files;
use crate::provider::Owner;

/// The state directory of an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// At `dir`, or where the XDG rules put it: `$XDG_STATE_HOME/kiln`,
    /// `~/.local/state/kiln`.
    pub fn resolve(dir: Option<PathBuf>) -> Result<Self> {
        let dir = match dir {
            Some(dir) => dir,
            None => {
                crate::run::dirs::state().context("finding the state directory: name one with --state")?
            }
        };
        std::path::absolute(&dir).map(Self).with_context(|| format!("resolving {}", dir.display()))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What the secrets in the coordinators' states are sealed under: beside the
    /// directory, so that no copy of it opens them.
    pub fn unlock_key(&self) -> UnlockFile {
        UnlockFile::beside(&self.0)
    }

    /// What alone lets a cluster's nodes take another key for their coordinator's:
    /// beside the directory, so that no copy of it holds that.
    pub fn recovery_key(&self, name: &ClusterName) -> PathBuf {
        let mut file = self.0.as_os_str().to_owned();
        file.push(format!(".{name}"));
        Coordinator::recovery_file(Path::new(&file))
    }

    /// The clusters' directories.
    pub fn clusters(&self) -> PathBuf {
        self.0.join("clusters")
    }

    /// A cluster's directory.
    pub fn cluster(&self, name: &ClusterName) -> ClusterDir {
        ClusterDir(self.clusters().join(name.as_str()))
    }

    /// Which installation this is; `None` before it made anything.
    pub fn owner(&self) -> Result<Option<Owner>> {
        let path = self.0.join("owner");
        let Some(text) = files::read_optional(&path)? else { return Ok(None) };
        text.trim().parse().map(Some).with_context(|| format!("reading {}", path.display()))
    }

    /// Which installation this is, decided now if it was not.
    pub fn ensure_owner(&self) -> Result<Owner> {
        if let Some(owner) = self.owner()? {
            return Ok(owner);
        }
        crate::run::dirs::create_private(&self.0)?;
        // Two first runs at once: a link is made by one of them only, and
        // both take what it says.
        let (path, owner) = (self.0.join("owner"), Owner::generate());
        let mine = self.0.join(format!(".owner.{owner}"));
        files::write(&mine, format!("{owner}\n").as_bytes())?;
        let linked = std::fs::hard_link(&mine, &path);
        files::remove(&mine)?;
        match linked {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(error).with_context(|| format!("writing {}", path.display()))
            }
            _ => self.owner()?.with_context(|| format!("reading {}", path.display())),
        }
    }
}

/// One cluster's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterDir(PathBuf);

impl ClusterDir {
    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What runs did and were about to do.
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal.jsonl")
    }

    /// The coordinator's own state.
    pub fn coordinator(&self) -> PathBuf {
        self.0.join("coordinator")
    }

    /// What `up` last saw.
    pub fn status(&self) -> PathBuf {
        self.0.join("status.json")
    }

    /// The kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }

    /// Held by the one run that may write here.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_decided_once() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::resolve(Some(dir.path().join("s"))).unwrap();
        assert_eq!(state.owner().unwrap(), None);
        let owner = state.ensure_owner().unwrap();
        assert_eq!(state.ensure_owner().unwrap(), owner);
        std::fs::write(dir.path().join("s/owner"), "me").unwrap();
        assert!(state.ensure_owner().is_err());
    }
}
