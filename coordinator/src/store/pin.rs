//! The recovery key, and its last word about the coordinator's own key.

use std::path::Path;

use anyhow::{Context as _, Result};
use kiln_protocol::Fingerprint;
use kiln_protocol::recovery::{PinChange, RecoveryKey};
use rusqlite::{Connection, params};

use super::Transaction;

/// The public half of the recovery key; a state of an early version has none.
pub(crate) fn recovery(tx: &Transaction<'_>) -> Result<Option<RecoveryKey>> {
    let mut statement = tx.prepare_cached("SELECT recovery FROM coordinator")?;
    let text: Option<String> = statement.query_row([], |row| row.get(0))?;
    text.map(|text| text.try_into().context("reading the stored recovery key")).transpose()
}

/// Keeps it. It must be noted as a key.
pub(crate) fn set_recovery(tx: &Transaction<'_>, key: &RecoveryKey) -> Result<()> {
    tx.execute("UPDATE coordinator SET recovery = ?1", [key.to_string()])?;
    Ok(())
}

/// The coordinator's pin, if there is one.
pub(crate) fn own(tx: &Transaction<'_>) -> Result<Option<Fingerprint>> {
    read(
        tx,
        "SELECT coalesce((SELECT pin FROM coordinator), (SELECT id FROM keys WHERE kind = 'coordinator'))",
    )
}

/// As [`own`], of a database of any version, which stays as it is; none if there
/// is no database, or one that `init` did not finish.
pub(crate) fn at(database: &Path) -> Result<Option<Fingerprint>> {
    let looking = || format!("looking for {}", database.display());
    if !database.try_exists().with_context(looking)? {
        return Ok(None);
    }
    let look = || -> Result<Option<Fingerprint>> {
        let connection = super::connect_as_is(database)?;
        let has =
            |table: &str| connection.prepare("SELECT 1 FROM sqlite_schema WHERE name = ?1")?.exists([table]);
        match (has("keys")?, has("coordinator")?) {
            (false, _) => Ok(None),
            (true, true) => own(&Transaction::on(&connection, None)),
            // Of a version in which it could not be changed yet.
            (true, false) => read(&connection, "SELECT max(id) FROM keys WHERE kind = 'coordinator'"),
        }
    };
    look().with_context(|| format!("reading {}", database.display()))
}

fn read(connection: &Connection, query: &str) -> Result<Option<Fingerprint>> {
    let text: Option<String> = connection.query_row(query, [], |row| row.get(0))?;
    text.map(|text| text.parse().context("reading the stored pin")).transpose()
}

/// The last change of the pin, and the key it was to; none if the key is
/// still the one that `init` made.
pub(crate) fn last_change(tx: &Transaction<'_>) -> Result<Option<(Fingerprint, PinChange)>> {
    type Row = (Option<String>, Option<u64>, Option<String>);
    let row: Row = tx.query_row("SELECT pin, pin_serial, pin_signature FROM coordinator", [], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })?;
    let (Some(pin), Some(serial), Some(signature)) = row else { return Ok(None) };
    let signature = signature.try_into().context("reading a stored signature")?;
    Ok(Some((pin.parse().context("reading the stored pin")?, PinChange { serial, signature })))
}

/// Keeps a change. Its key must be noted.
pub(crate) fn set_change(tx: &Transaction<'_>, pin: &Fingerprint, change: &PinChange) -> Result<()> {
    tx.execute(
        "UPDATE coordinator SET pin = ?1, pin_serial = ?2, pin_signature = ?3",
        params![pin.to_string(), change.serial, String::from(change.signature)],
    )?;
    Ok(())
}
