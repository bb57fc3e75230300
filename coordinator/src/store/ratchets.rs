//! What is written of each seat's clone ratchet, and of the operator's wish for
//! another key; both are read with the seat.

use anyhow::Result;
use kiln_protocol::ratchet::Turn;
use rusqlite::params;

use super::{Transaction, seats};

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
    seats::changed(tx);
    Ok(tx.execute("UPDATE seats SET rotate = 1 WHERE id = ?1 AND rotate = 0", [seat])? == 1)
}
