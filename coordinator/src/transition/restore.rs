//! What a restored state does first.

use anyhow::Result;
use jiff::Timestamp;

use crate::registry::State;
use crate::store::events::{self, Actor, Event, What};
use crate::store::{Transaction, incarnations, seats};

/// Voids the tickets that are ISSUED in a backup, for they may have been used
/// since it was made. BOUND stays bound, and HELD stays held. Returns what was
/// done, in words.
pub(crate) fn restored(tx: &Transaction<'_>, actor: &Actor, now: Timestamp) -> Result<String> {
    let reason = "the state was restored from a backup: its ticket may have been used since";
    let mut void = 0;
    if let Some(live) = incarnations::live(tx)? {
        for seat in seats::of_incarnation(tx, live.id)?.iter().filter(|seat| seat.state == State::Issued) {
            seats::set_state(tx, seat.id, State::Revoked(None), Some(reason))?;
            let detail = format!("{}: {reason}", seat.label());
            events::note(tx, actor, &Event::of(What::Revoke, seat.id, &detail), now)?;
            void += 1;
        }
    }
    let summary = format!("restored from a backup; {void} unused tickets are void");
    events::note(tx, actor, &Event::about_all(What::Restore, &summary), now)?;
    Ok(summary)
}
