//! The table of admins: whose keys may do what admins may.

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kiln_protocol::Fingerprint;
use kiln_protocol::admin::AdminStatus;
use kiln_protocol::names::AdminName;
use rusqlite::{OptionalExtension as _, Row, params};

use super::{Transaction, millis, time};

/// Gives a noted key an admin's rights.
pub(crate) fn add(tx: &Transaction<'_>, key: &Fingerprint, name: &str, now: Timestamp) -> Result<()> {
    tx.execute(
        "INSERT INTO admins (key, name, added) VALUES (?1, ?2, ?3)",
        params![key.to_string(), name, millis(now)],
    )
    .with_context(|| format!("adding the admin {name}"))?;
    tx.keys.borrow_mut().push((*key, true));
    Ok(())
}

/// Takes the rights of the admin's key; false if there is no such admin.
pub(crate) fn remove(tx: &Transaction<'_>, name: &AdminName, now: Timestamp) -> Result<bool> {
    let removed: Option<String> = tx
        .query_row(
            "UPDATE admins SET removed = ?2 WHERE name = ?1 AND removed IS NULL RETURNING key",
            params![name.as_str(), millis(now)],
            |row| row.get(0),
        )
        .optional()?;
    let Some(key) = removed else { return Ok(false) };
    tx.keys.borrow_mut().push((key.parse().context("reading a stored key")?, false));
    Ok(true)
}

/// Whether an admin's key still has its rights.
pub(crate) fn has_rights(tx: &Transaction<'_>, key: &Fingerprint) -> Result<bool> {
    let found: Option<i64> = tx
        .prepare_cached("SELECT 1 FROM admins WHERE key = ?1 AND removed IS NULL")?
        .query_row([key.to_string()], |row| row.get(0))
        .optional()?;
    Ok(found.is_some())
}

/// Every admin there ever was, oldest first.
pub(crate) fn list(tx: &Transaction<'_>) -> Result<Vec<AdminStatus>> {
    let mut statement = tx.prepare("SELECT key, name, added, removed FROM admins ORDER BY added, name")?;
    let rows = statement.query_map([], |row| Ok(read(row)))?;
    rows.map(|row| row?).collect()
}

fn read(row: &Row<'_>) -> Result<AdminStatus> {
    let text = |column: &str| row.get::<_, String>(column);
    Ok(AdminStatus {
        name: text("name")?.parse().context("reading a stored name")?,
        key: text("key")?.parse().context("reading a stored key")?,
        added: time(row.get("added")?)?,
        removed: row.get::<_, Option<i64>>("removed")?.map(time).transpose()?,
    })
}
