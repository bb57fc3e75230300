//! Backups: one file with everything of a state but the unlock key.
//!
//! ```text
//! "kiln-backup 2 " KEYID " " MAC, 64 hex digits "\n"
//! the database, as SQLite's VACUUM INTO copies it
//!
//! MAC = HMAC-SHA256(the unlock key's for "backup", "kiln-backup 2 " || KEYID || "\0" || SHA-256(database))
//! ```
//!
//! What is sealed in the database cannot be altered unnoticed anyway; the rest,
//! such as who is an admin, is under the MAC, so that nobody without the unlock
//! key makes a backup that restores. KEYID names that key (`unlock`). A backup of
//! an older Kiln begins with `kiln-backup 1` and a bare SHA-256, which anybody
//! can make: it is restored only when told so.
//!
//! The database holds the coordinator's key, sealed, so that nothing else is
//! needed to be the same coordinator again; the unlock key, which opens it, is
//! in no backup. A restored state knows that it is one: it begins an epoch
//! of its own, and the tickets that were unused in it are void.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use ring::hmac;
use rusqlite::{Connection, OpenFlags};
use sha2::{Digest as _, Sha256};

use crate::store::dir::{self, StateDir};
use crate::store::events::{self, Actor, Event, What};
use crate::store::{self, Transaction, sealed};
use crate::transition;
use crate::unlock::{KeyId, UnlockFile, UnlockKey};
use crate::unlocking;

const MAGIC: &str = "kiln-backup 2 ";
const MAGIC_V1: &str = "kiln-backup 1 ";
/// Longer than any header is.
const MAX_HEADER: u64 = 128;
/// As many symbolic links as Linux follows.
const MAX_LINKS: usize = 40;

/// Whether a backup may be taken that nothing vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Only one that was made with the unlock key.
    Authentic,
    /// Also an older Kiln's, which somebody else may have altered.
    Anybodys,
}

/// Backs a state up, whether a coordinator serves it or not. The audit trail
/// says so, in the backup too.
pub(crate) fn back_up(state: &StateDir, file: &Path, unlock: &UnlockFile, actor: &Actor) -> Result<()> {
    state.check()?;
    let copy = Temporary::beside(file)?;
    let key = unlocking::matching(state, unlock)?;
    store::beside(&state.database(), |tx| note(tx, file, actor, Timestamp::now()))?;
    store::copy(&state.database(), copy.path())?;
    pack(copy.path(), file, &key)
}

/// Notes that a backup is made: before it is, so that there is none that the
/// trail does not know of.
pub(crate) fn note(tx: &Transaction<'_>, file: &Path, actor: &Actor, now: Timestamp) -> Result<()> {
    let detail = format!("to {}", file.display());
    events::note(tx, actor, &Event::about_all(What::Backup, &detail), now).map(drop)
}

/// Makes a backup of a database's copy.
pub(crate) fn pack(copy: &Path, file: &Path, key: &UnlockKey) -> Result<()> {
    let at = || format!("writing the backup {}", file.display());
    let mut database = File::open(copy).with_context(at)?;
    let (digest, id) = (digest(&mut database).with_context(at)?, key.id());
    let mac = hmac::sign(&key.mac_key(MAC_KIND), &message(&id, &digest));
    database.rewind().with_context(at)?;
    dir::create_private_from(file, |backup| {
        writeln!(backup, "{MAGIC}{id} {}", HEXLOWER.encode(mac.as_ref()))?;
        io::copy(&mut database, backup).map(drop)
    })
    .with_context(at)
}

/// A backup of a database that is in memory, as an older Kiln made it: nothing
/// vouches for it.
pub(crate) fn frame(database: &[u8]) -> Vec<u8> {
    let digest = HEXLOWER.encode(&Sha256::digest(database));
    [MAGIC_V1.as_bytes(), digest.as_bytes(), b"\n", database].concat()
}

const MAC_KIND: &str = "backup";

fn message(id: &KeyId, digest: &[u8]) -> Vec<u8> {
    [MAGIC.as_bytes(), id.to_string().as_bytes(), b"\0", digest].concat()
}

/// Makes a new state from a backup. Nothing is touched unless the backup is
/// whole, was made with this unlock key (or is trusted all the same), is a
/// coordinator's, and there is no state yet. Returns what begins, in words.
pub(crate) fn restore(
    file: &Path,
    state: &Path,
    unlock: &UnlockFile,
    trust: Trust,
    actor: &Actor,
) -> Result<String> {
    let place = place(state)?;
    let mut new = place.as_os_str().to_owned();
    new.push(".restoring");
    let new = PathBuf::from(new);
    // What a restore that was cut off left.
    let _ = fs::remove_dir_all(&new);
    let built = build(file, &StateDir::new(&new), unlock, trust, actor);
    if built.is_err() {
        let _ = fs::remove_dir_all(&new);
    }
    let summary = built.with_context(|| format!("restoring {}", file.display()))?;
    unlock.check_outside(&new)?;
    dir::rename(&new, &place).context("putting the restored state in its place")?;
    Ok(summary)
}

/// Where a state directory is in truth, which must be empty or not be there.
///
/// For a unit with `DynamicUser=` systemd makes `/var/lib/NAME` a symbolic link
/// to `private/NAME`, and it stays, dangling, once that is moved away: no
/// directory can take a link's place, and systemd wants to find it behind it.
fn place(state: &Path) -> Result<PathBuf> {
    let shown = state.display();
    let place = match fs::canonicalize(state) {
        Ok(place) => place,
        Err(error) if error.kind() == io::ErrorKind::NotFound => behind_links(state)?,
        Err(error) => return Err(error).with_context(|| format!("looking for {shown}")),
    };
    match fs::read_dir(&place) {
        Ok(mut entries) => ensure!(
            entries.next().is_none(),
            "{shown} is not empty: a restore never overwrites; move it away, or name another place with --state"
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("looking into {}", place.display())),
    }
    Ok(place)
}

/// What a path names that leads to nothing yet.
fn behind_links(path: &Path) -> Result<PathBuf> {
    let mut place = path.components().as_path().to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(target) = fs::read_link(&place) else { return Ok(place) };
        place = place.parent().unwrap_or(Path::new("")).join(target);
    }
    bail!("{} is a symbolic link to another one, and so on: name the directory itself", path.display())
}

fn build(file: &Path, state: &StateDir, unlock: &UnlockFile, trust: Trust, actor: &Actor) -> Result<String> {
    let mut backup = BufReader::new(File::open(file)?);
    let header = header(&mut backup)?;
    let key = unlock.read()?;
    if let Header::Made { by, .. } = &header {
        ensure!(
            *by == key.id(),
            "it was made under the unlock key {by}, and {} holds the unlock key {}: name the file with the \
             right one with --unlock-key",
            unlock.path().display(),
            key.id()
        );
    }
    state.create()?;
    dir::create_private_from(&state.database(), |database| io::copy(&mut backup, database).map(drop))?;
    let digest = digest(&mut File::open(state.database())?)?;
    let from = vouched(&header, &digest, &key, trust)?;
    examine(&state.database())?;
    let under = store::once(&state.database(), None, sealed::under)?;
    ensure!(
        under.as_ref() == Some(&key.id()),
        "its secrets are sealed under the unlock key {}, and {} holds the unlock key {}",
        under.map_or("(none)".to_owned(), |id| id.to_string()),
        unlock.path().display(),
        key.id()
    );
    let now = Timestamp::now();
    store::once(&state.database(), Some(&key), |tx: &Transaction<'_>| {
        sealed::settle(tx)?;
        sealed::own_key(tx)?.context("it holds no key of the coordinator")?;
        transition::restore::restored(tx, &format!("{}{from}", file.display()), actor, now)
    })
}

/// What the first line of a backup says.
#[derive(Debug, PartialEq, Eq)]
enum Header {
    /// Of an older Kiln: a digest.
    Older(Vec<u8>),
    /// By whom it was made, and what proves that.
    Made { by: KeyId, mac: Vec<u8> },
}

fn header(backup: &mut impl BufRead) -> Result<Header> {
    let mut line = Vec::new();
    backup.take(MAX_HEADER).read_until(b'\n', &mut line)?;
    let line = std::str::from_utf8(&line).ok().and_then(|line| line.strip_suffix('\n'));
    line.and_then(parse)
        .context("it is no backup of a coordinator, or of a newer Kiln, or its first line is damaged")
}

fn parse(line: &str) -> Option<Header> {
    let hex = |text: &str| HEXLOWER.decode(text.as_bytes()).ok().filter(|bytes| bytes.len() == 32);
    if let Some(digest) = line.strip_prefix(MAGIC_V1) {
        return Some(Header::Older(hex(digest)?));
    }
    let (by, mac) = line.strip_prefix(MAGIC)?.split_once(' ')?;
    Some(Header::Made { by: by.parse().ok()?, mac: hex(mac)? })
}

/// Refuses a database that the header does not speak for; returns what the audit
/// trail adds to the backup's name.
fn vouched(header: &Header, digest: &[u8], key: &UnlockKey, trust: Trust) -> Result<&'static str> {
    match header {
        Header::Made { by, mac } => {
            let verified = hmac::verify(&key.mac_key(MAC_KIND), &message(by, digest), mac);
            verified.ok().context("it is damaged, cut off, or was altered after it was made")?;
            Ok("")
        }
        Header::Older(expected) => {
            ensure!(expected == digest, "it is damaged or cut off: its digest does not fit");
            ensure!(
                trust == Trust::Anybodys,
                "it is an older Kiln's, and nothing in it tells whether somebody altered it: if it was kept where \
                 nobody else can write, run it again with --unauthenticated"
            );
            Ok(", which nothing vouched for")
        }
    }
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

/// The SHA-256 of what remains to be read.
fn digest(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    Ok(hasher.finalize().to_vec())
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
