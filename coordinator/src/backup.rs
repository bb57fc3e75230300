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

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use sha2::{Digest as _, Sha256};

use crate::k3s::hex;
use crate::store::dir::{self, StateDir};
use crate::store::events::Actor;
use crate::store::sealed::{self, KeyFile};
use crate::store::{self, Transaction};
use crate::transition;
use crate::unlock::UnlockFile;

const MAGIC: &[u8] = b"kiln-backup 1 ";
const DIGEST_HEX: usize = 64;

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

/// A backup of a database that is in memory.
pub(crate) fn frame(database: &[u8]) -> Vec<u8> {
    let digest = hex(&Sha256::digest(database));
    [MAGIC, digest.as_bytes(), b"\n", database].concat()
}

/// Makes a new state from a backup. Nothing is touched unless the backup is
/// whole, is a coordinator's, opens with this unlock key, and there is no state
/// yet. Returns what begins, in words.
pub(crate) fn restore(file: &Path, state: &Path, unlock: &UnlockFile) -> Result<String> {
    ensure!(
        fs::read_dir(state).map_or(true, |mut entries| entries.next().is_none()),
        "{} is not empty: a restore never overwrites; move it away, or name another place with --state",
        state.display()
    );
    let mut new = state.components().as_path().as_os_str().to_owned();
    new.push(".restoring");
    let new = PathBuf::from(new);
    // What a restore that was cut off left.
    let _ = fs::remove_dir_all(&new);
    let built = build(file, &StateDir::new(&new), unlock);
    if built.is_err() {
        let _ = fs::remove_dir_all(&new);
    }
    let summary = built.with_context(|| format!("restoring {}", file.display()))?;
    unlock.check_outside(&new)?;
    dir::rename(&new, state).context("putting the restored state in its place")?;
    Ok(summary)
}

fn build(file: &Path, state: &StateDir, unlock: &UnlockFile) -> Result<String> {
    let mut backup = File::open(file)?;
    let digest = header(&mut backup)?;
    state.create()?;
    dir::create_private_from(&state.database(), |database| io::copy(&mut backup, database).map(drop))?;
    let mut database = File::open(state.database())?;
    ensure!(self::digest(&mut database)? == digest, "it is damaged or cut off: its digest does not fit");
    examine(&state.database())?;
    let key = unlock.read()?;
    let under = store::once(&state.database(), None, sealed::under)?;
    ensure!(
        under.as_ref() == Some(&key.id()),
        "its secrets are sealed under the unlock key {}, and {} holds the unlock key {}",
        under.map_or("(none)".to_owned(), |id| id.to_string()),
        unlock.path().display(),
        key.id()
    );
    let now = Timestamp::now();
    let (files, summary) = store::once(&state.database(), Some(&key), |tx: &Transaction<'_>| {
        let mut files = Vec::new();
        for file in KeyFile::ALL {
            files.push((file, sealed::key_file(tx, file)?));
        }
        Ok((files, transition::restore::restored(tx, &Actor::local(), now)?))
    })?;
    for (file, content) in files {
        let Some(content) = content else { bail!("it holds no {}", file.as_str()) };
        dir::create_private(&state.path().join(file.as_str()), content.expose().as_bytes())?;
    }
    Ok(summary)
}

/// Reads the first line; the digest in it.
fn header(backup: &mut impl Read) -> Result<String> {
    let mut line = [0; MAGIC.len() + DIGEST_HEX + 1];
    let read = backup.read_exact(&mut line);
    let text = read.ok().and_then(|()| line.strip_prefix(MAGIC)).and_then(|rest| rest.strip_suffix(b"\n"));
    let text = text.and_then(|text| std::str::from_utf8(text).ok());
    Ok(text.context("it is no backup of a coordinator, or of a newer Kiln")?.to_owned())
}

/// Refuses a database that is not a coordinator's, is a newer one's, or is not sound.
fn examine(database: &Path) -> Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    store::check_identity(&connection)?;
    let sound: String = connection.pragma_query_value(None, "integrity_check", |row| row.get(0))?;
    ensure!(sound == "ok", "its database is not sound: {sound}");
    let dangling = connection.prepare("PRAGMA foreign_key_check")?.exists([])?;
    ensure!(!dangling, "its database is not sound: something refers to what is not there");
    Ok(())
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
