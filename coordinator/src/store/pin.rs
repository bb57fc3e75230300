//! The recovery key, and its last word about the coordinator's own key.

use anyhow::{Context as _, Result};
use kiln_protocol::Fingerprint;
use kiln_protocol::recovery::{PinChange, RecoveryKey};
use rusqlite::params;

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
