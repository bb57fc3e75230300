//! Each seat's clone ratchet, and the operator's wish for another key.

use anyhow::{Context as _, Result};
use kiln_protocol::ratchet::Turn;
use rusqlite::params;

use super::Transaction;

/// The turn that was taken last, if one was since the seat was bound, released
/// or restored.
pub(crate) fn last(tx: &Transaction<'_>, seat: i64) -> Result<Option<Turn>> {
    let mut statement = tx.prepare_cached("SELECT ratchet_from, ratchet_held FROM seats WHERE id = ?1")?;
    let row: (Option<String>, Option<String>) =
        statement.query_row([seat], |row| Ok((row.get(0)?, row.get(1)?)))?;
    match row {
        (Some(from), Some(held)) => {
            let read = |text: String| text.try_into().context("reading a stored notch");
            Ok(Some(Turn { cur: read(from)?, next: read(held)? }))
        }
        _ => Ok(None),
    }
}

/// Keeps the turn that was taken.
pub(crate) fn set(tx: &Transaction<'_>, seat: i64, turn: Turn) -> Result<()> {
    tx.prepare_cached("UPDATE seats SET ratchet_from = ?2, ratchet_held = ?3 WHERE id = ?1")?
        .execute(params![seat, turn.cur.to_string(), turn.next.to_string()])?;
    Ok(())
}

/// Whatever comes next is taken.
pub(crate) fn forget(tx: &Transaction<'_>, seat: i64) -> Result<()> {
    tx.execute("UPDATE seats SET ratchet_from = NULL, ratchet_held = NULL WHERE id = ?1", [seat])?;
    Ok(())
}

/// As [`forget`], for every seat.
pub(crate) fn forget_all(tx: &Transaction<'_>) -> Result<()> {
    tx.execute("UPDATE seats SET ratchet_from = NULL, ratchet_held = NULL", [])?;
    Ok(())
}

/// Asks for another key at the node's next contact; false if that was asked before.
pub(crate) fn ask_rotation(tx: &Transaction<'_>, seat: i64) -> Result<bool> {
    Ok(tx.execute("UPDATE seats SET rotate = 1 WHERE id = ?1 AND rotate = 0", [seat])? == 1)
}

/// Whether another key was asked for and has not come yet.
pub(crate) fn rotation_asked(tx: &Transaction<'_>, seat: i64) -> Result<bool> {
    let mut statement = tx.prepare_cached("SELECT rotate FROM seats WHERE id = ?1")?;
    Ok(statement.query_row([seat], |row| row.get(0))?)
}
