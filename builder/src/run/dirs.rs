//! Where state and cache live: the XDG base directories.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// `$XDG_STATE_HOME/kiln`, normally `~/.local/state/kiln`.
pub fn state() -> Result<PathBuf> {
    base("XDG_STATE_HOME", ".local/state")
}

/// `$XDG_CACHE_HOME/kiln`, normally `~/.cache/kiln`.
pub fn cache() -> Result<PathBuf> {
    base("XDG_CACHE_HOME", ".cache")
}

fn base(variable: &str, below_home: &str) -> Result<PathBuf> {
    let set = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = match set {
        Some(base) => base,
        None => std::env::home_dir()
            .filter(|home| home.is_absolute())
            .with_context(|| format!("neither {variable} nor HOME names a directory"))?
            .join(below_home),
    };
    Ok(base.join("kiln"))
}

/// Makes a directory, and those above it, that only its owner may look into.
pub fn create_private(dir: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("creating directory {}", dir.display()))
}
