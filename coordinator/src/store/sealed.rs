//! What in the database is sealed under the unlock key: the secrets of each
//! incarnation, and copies of the key files, which make a backup whole.

use anyhow::{Context as _, Result, bail};
use kiln_protocol::Secret;
use kiln_protocol::config::Incarnation;
use rusqlite::{OptionalExtension as _, params};
use zeroize::Zeroizing;

use super::{Transaction, incarnations};
use crate::unlock::{self, KeyId, UnlockKey};

/// A key file of the state directory, of which the database has a sealed copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyFile {
    Coordinator,
    Admin,
}

impl KeyFile {
    pub(crate) const ALL: [Self; 2] = [Self::Coordinator, Self::Admin];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator.key",
            Self::Admin => "admin.key",
        }
    }

    fn place(self) -> String {
        format!("sealed/{}", self.as_str())
    }
}

/// Where an incarnation's secrets stand.
pub(super) fn place(incarnation: Incarnation) -> String {
    format!("incarnations/{incarnation}/secrets")
}

/// Brings the sealed secrets to what this program writes: seals what an older
/// Kiln left in the clear, and notes the key files as they are now. An error
/// if the state is sealed under another key.
pub(crate) fn settle(tx: &Transaction<'_>, files: &[(KeyFile, Secret)]) -> Result<()> {
    for (incarnation, text) in live_secrets(tx)? {
        if text.starts_with('{') {
            let sealed = tx.unlock()?.seal(&place(incarnation), text.as_bytes())?;
            set_secrets(tx, incarnation, &sealed)?;
        }
    }
    for (file, content) in files {
        // Also what tells whether the unlock key is the right one.
        let noted = key_file(tx, *file)?;
        if noted.as_ref() != Some(content) {
            set_key_file(tx, *file, content, tx.unlock()?)?;
        }
    }
    Ok(())
}

/// The unlock key that everything is sealed under; `None` if nothing is.
pub(crate) fn under(tx: &Transaction<'_>) -> Result<Option<KeyId>> {
    let sealed: Option<String> =
        tx.query_row("SELECT envelope FROM sealed LIMIT 1", [], |row| row.get(0)).optional()?;
    sealed.map(|sealed| unlock::sealed_under(&sealed)).transpose()
}

/// Seals everything anew, under another key.
pub(crate) fn seal_anew(tx: &Transaction<'_>, key: &UnlockKey) -> Result<()> {
    for (incarnation, text) in live_secrets(tx)? {
        let plain = tx.unlock()?.open(&place(incarnation), &text)?;
        set_secrets(tx, incarnation, &key.seal(&place(incarnation), &plain)?)?;
    }
    for file in KeyFile::ALL {
        if let Some(content) = key_file(tx, file)? {
            set_key_file(tx, file, &content, key)?;
        }
    }
    Ok(())
}

/// The copy of a key file.
pub(crate) fn key_file(tx: &Transaction<'_>, file: KeyFile) -> Result<Option<Secret>> {
    let mut statement = tx.prepare_cached("SELECT envelope FROM sealed WHERE name = ?1")?;
    let sealed: Option<String> = statement.query_row([file.as_str()], |row| row.get(0)).optional()?;
    let Some(sealed) = sealed else { return Ok(None) };
    let bytes = tx.unlock()?.open(&file.place(), &sealed)?;
    let text = std::str::from_utf8(&bytes).context("a sealed key file is not text")?;
    Ok(Some(Secret::new(text).context("reading a sealed key file")?))
}

fn set_key_file(tx: &Transaction<'_>, file: KeyFile, content: &Secret, key: &UnlockKey) -> Result<()> {
    let sealed = key.seal(&file.place(), content.expose().as_bytes())?;
    tx.execute(
        "INSERT INTO sealed (name, envelope) VALUES (?1, ?2)
         ON CONFLICT (name) DO UPDATE SET envelope = excluded.envelope",
        params![file.as_str(), sealed],
    )?;
    Ok(())
}

fn live_secrets(tx: &Transaction<'_>) -> Result<Vec<(Incarnation, Zeroizing<String>)>> {
    let mut statement = tx.prepare("SELECT id, secrets FROM incarnations WHERE secrets IS NOT NULL")?;
    let rows = statement.query_map([], |row| Ok((Incarnation(row.get(0)?), Zeroizing::new(row.get(1)?))))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn set_secrets(tx: &Transaction<'_>, incarnation: Incarnation, sealed: &str) -> Result<()> {
    incarnations::changed(tx);
    let changed =
        tx.execute("UPDATE incarnations SET secrets = ?2 WHERE id = ?1", params![incarnation.0, sealed])?;
    if changed != 1 {
        bail!("incarnation {incarnation} is gone");
    }
    Ok(())
}
