//! What the cache holds, what of it is used, and getting rid of the rest.
//!
//! | module | what it does |
//! |---|---|
//! | [`backing`] | which disk a disk lies over |
//! | [`plan`] | what may go |
//! | [`survey`] | what there is |
//! | [`verify`] | whether it is still what it was |
//!
//! Something in use is never removed: a bake that uses it holds its lock, and a
//! disk that another one lies over stays as long as that one.

pub mod backing;
pub mod plan;
pub mod survey;
pub mod verify;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::Serialize;

use crate::run::lock::{Lock, Mode};

/// What something in the cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A downloaded input.
    Input,
    /// What was taken out of an install medium.
    Media,
    /// A stage's result: the installed disk.
    Os,
    /// A stage's result: the node's disk, over an installed one.
    Node,
    /// A download that is not complete.
    Partial,
    /// Something that was found damaged.
    Quarantine,
}

impl Kind {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Media => "media",
            Self::Os => "os",
            Self::Node => "node",
            Self::Partial => "partial",
            Self::Quarantine => "damaged",
        }
    }

    /// Whether it is of no use to anybody.
    pub fn is_rubbish(self) -> bool {
        matches!(self, Self::Partial | Self::Quarantine)
    }
}

/// Something in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Its name for people.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
    /// Its size on the disk in bytes.
    pub size: u64,
    /// When it was last used.
    pub last_used: Timestamp,
    /// A builder uses it now.
    pub in_use: bool,
    /// Disks that lie over its own.
    pub below: Vec<PathBuf>,
    #[serde(skip)]
    pub(crate) lock: Option<PathBuf>,
}

impl Entry {
    /// Removes it, unless somebody uses it now; says whether.
    pub fn remove(&self) -> Result<bool> {
        let _lock = match &self.lock {
            Some(path) => match Lock::try_acquire(path, Mode::Exclusive)? {
                Some(lock) => Some(lock),
                None => return Ok(false),
            },
            None => None,
        };
        let removed = match std::fs::symlink_metadata(&self.path) {
            Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(&self.path),
            Ok(_) => std::fs::remove_file(&self.path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
            other => other.map(|()| true).with_context(|| format!("removing {}", self.path.display())),
        }
    }
}
