//! What in the database is sealed under the unlock key: the coordinator's own
//! key, and the secrets of each incarnation.

use anyhow::{Context as _, Result, bail};
use kiln_protocol::Secret;
use kiln_protocol::config::Incarnation;
use rusqlite::{OptionalExtension as _, params};
use zeroize::Zeroizing;

use super::{Transaction, incarnations};
use crate::unlock::{self, KeyId, UnlockKey};

/// What the coordinator's own key, a PEM document, is called in its table. It
/// once was a file of this name, of which the database had a copy.
const OWN_KEY: &str = "coordinator.key";

fn own_place() -> String {
    format!("sealed/{OWN_KEY}")
}

/// Where an incarnation's secrets stand.
pub(super) fn place(incarnation: Incarnation) -> String {
    format!("incarnations/{incarnation}/secrets")
}

/// Brings the sealed secrets to what this program writes: seals what an older
/// Kiln left in the clear, and forgets the copy that it kept of an admin's key,
/// which is that admin's business.
pub(crate) fn settle(tx: &Transaction<'_>) -> Result<()> {
    for (incarnation, text) in live_secrets(tx)? {
        if text.starts_with('{') {
            let sealed = tx.unlock()?.seal(&place(incarnation), text.as_bytes())?;
            set_secrets(tx, incarnation, &sealed)?;
        }
    }
    tx.execute("DELETE FROM sealed WHERE name <> ?1", [OWN_KEY])?;
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
    if let Some(pem) = own_key(tx)? {
        seal_own_key(tx, &pem, key)?;
    }
    Ok(())
}

/// The coordinator's own key, a PEM document; none before `init` has ended.
pub(crate) fn own_key(tx: &Transaction<'_>) -> Result<Option<Secret>> {
    let mut statement = tx.prepare_cached("SELECT envelope FROM sealed WHERE name = ?1")?;
    let sealed: Option<String> = statement.query_row([OWN_KEY], |row| row.get(0)).optional()?;
    let Some(sealed) = sealed else { return Ok(None) };
    let bytes = tx.unlock()?.open(&own_place(), &sealed)?;
    let text = std::str::from_utf8(&bytes).context("the coordinator's sealed key is not text")?;
    Ok(Some(Secret::new(text).context("reading the coordinator's sealed key")?))
}

/// Keeps the coordinator's own key, in the place of the one before.
pub(crate) fn set_own_key(tx: &Transaction<'_>, pem: &Secret) -> Result<()> {
    seal_own_key(tx, pem, tx.unlock()?)
}

fn seal_own_key(tx: &Transaction<'_>, pem: &Secret, key: &UnlockKey) -> Result<()> {
    let sealed = key.seal(&own_place(), pem.expose().as_bytes())?;
    tx.execute(
        "INSERT INTO sealed (name, envelope) VALUES (?1, ?2)
         ON CONFLICT (name) DO UPDATE SET envelope = excluded.envelope",
        params![OWN_KEY, sealed],
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
