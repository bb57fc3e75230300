//! Backups: one file with everything of a state but the unlock key.
//!
//! ```text
//! "kiln-backup 1 " SHA-256 of the rest, 64 hex digits "\n"
//! the database, as SQLite's VACUUM INTO copies it
//! ```
//!
//! The database holds sealed copies of the key files, so that nothing else is
//! needed to be the same coordinator again; the unlock key, which opens them,
//! is in no backup. A restored state knows that it is one: it begins an epoch
//! of its own, and the tickets that were unused in it are void.

use std::fs::{self, File};
use std::io::{self, Read, Seek as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::k3s::hex;
use crate::store;
use crate::store::dir::{self, StateDir};

const MAGIC: &[u8] = b"kiln-backup 1 ";

/// Backs a state up, whether a coordinator serves it or not; nothing of the
/// state is changed.
pub(crate) fn back_up(state: &StateDir, file: &Path) -> Result<()> {
    state.check()?;
    let copy = Temporary::beside(file)?;
    store::copy(&state.database(), copy.path())?;
    pack(copy.path(), file)
}

/// Makes a backup of a database's copy.
pub(crate) fn pack(copy: &Path, file: &Path) -> Result<()> {
    let at = || format!("writing the backup {}", file.display());
    let mut database = File::open(copy).with_context(at)?;
    let digest = digest(&mut database).with_context(at)?;
    database.rewind().with_context(at)?;
    dir::create_private_from(file, |backup| {
        backup.write_all(MAGIC)?;
        writeln!(backup, "{digest}")?;
        io::copy(&mut database, backup).map(drop)
    })
    .with_context(at)
}

/// The SHA-256 of what remains to be read, in hex.
fn digest(from: &mut impl Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    Ok(hex(&hasher.finalize()))
}

/// An empty private file, removed when dropped.
#[derive(Debug)]
pub(crate) struct Temporary(PathBuf);

impl Temporary {
    /// In the same directory as `file`, where there is room for a copy or
    /// nothing is.
    pub(crate) fn beside(file: &Path) -> Result<Self> {
        ensure!(!file.exists(), "{} is there already: a backup never overwrites", file.display());
        let mut path = file.as_os_str().to_owned();
        path.push(format!(".{}", std::process::id()));
        let path = PathBuf::from(path);
        let _ = fs::remove_file(&path);
        dir::create_private(&path, b"")?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
