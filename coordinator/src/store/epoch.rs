//! How far this state is, as nodes are told, and how far one of them says that
//! it was.

use anyhow::Result;
use jiff::Timestamp;
use kiln_protocol::ratchet::Reach;
use rusqlite::params;

use super::{Transaction, millis, time};

/// A node has shown this coordinator's own signature under a later reach than
/// the state has: the state is an old copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Newer {
    pub(crate) reach: Reach,
    pub(crate) seen: Timestamp,
}

/// How far this state is.
pub(crate) fn reach(tx: &Transaction<'_>) -> Result<Reach> {
    let mut statement = tx.prepare_cached("SELECT epoch, seq FROM coordinator")?;
    Ok(statement.query_row([], |row| Ok(Reach { epoch: row.get(0)?, seq: row.get(1)? }))?)
}

/// One further: something was promised to a node. Without RETURNING, for which
/// SQLite makes a table each time, with a page cache of its own.
pub(crate) fn advance(tx: &Transaction<'_>) -> Result<()> {
    tx.prepare_cached("UPDATE coordinator SET seq = seq + 1")?.execute([])?;
    Ok(())
}

/// Begins an epoch; whatever was newer than the one before is not any more.
pub(crate) fn begin(tx: &Transaction<'_>, epoch: u64) -> Result<()> {
    tx.execute(
        "UPDATE coordinator SET epoch = ?1, seq = 0, newer_epoch = NULL, newer_seq = NULL, newer_seen = NULL",
        [epoch],
    )?;
    Ok(())
}

/// The newest that was seen, if it is newer than this state.
pub(crate) fn newer(tx: &Transaction<'_>) -> Result<Option<Newer>> {
    type Row = (Option<u64>, Option<u64>, Option<i64>);
    let mut statement = tx.prepare_cached("SELECT newer_epoch, newer_seq, newer_seen FROM coordinator")?;
    let row: Row = statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(match row {
        (Some(epoch), Some(seq), Some(seen)) => {
            Some(Newer { reach: Reach { epoch, seq }, seen: time(seen)? })
        }
        _ => None,
    })
}

/// Keeps what was seen.
pub(crate) fn set_newer(tx: &Transaction<'_>, reach: Reach, now: Timestamp) -> Result<()> {
    tx.execute(
        "UPDATE coordinator SET newer_epoch = ?1, newer_seq = ?2, newer_seen = ?3",
        params![reach.epoch, reach.seq, millis(now)],
    )?;
    Ok(())
}
