//! What a restored state does first.

use anyhow::Result;
use jiff::Timestamp;

use super::epoch;
use crate::store::Transaction;
use crate::store::events::{self, Actor, Event, What};

/// Begins an epoch ([`epoch::raise`]): the tickets that are ISSUED in a backup
/// are void, for they may have been used since it was made, and its nodes are
/// taken up where they are. Returns what was done, in words.
pub(crate) fn restored(tx: &Transaction<'_>, from: &str, actor: &Actor, now: Timestamp) -> Result<String> {
    let raised = epoch::raise(tx, "the state was restored from a backup", actor, now)?;
    let summary = format!("restored from {from}; {} unused tickets are void", raised.void);
    events::note(tx, actor, &Event::about_all(What::Restore, &summary), now)?;
    Ok(summary)
}
