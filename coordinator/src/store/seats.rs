//! The table of seats.

use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use jiff::Timestamp;
use kiln_protocol::admin::{Hints, TicketRecord};
use kiln_protocol::api::Facts;
use kiln_protocol::config::Incarnation;
use kiln_protocol::ratchet::{Notch, Turn};
use kiln_protocol::{Fingerprint, NodeName, TicketKey};
use rusqlite::types::FromSql;
use rusqlite::{OptionalExtension as _, Row, ToSql, params};

use super::{Transaction, millis, time};
use crate::registry::{JoinState, ObjectState, Seat, State};

/// In the order in which [`read`] takes them.
const COLUMNS: &str = "id, incarnation, node, generation, role, ticket, not_before, expires, state, key, reason, \
                       bound, passed, ready, confirm_console, console_key, token, object, left, \
                       ratchet_from, ratchet_held, rotate";

/// Makes a seat for a ticket that was noted.
pub(crate) fn insert(
    tx: &Transaction<'_>,
    incarnation: Incarnation,
    ticket: &TicketKey,
    record: &TicketRecord,
) -> Result<i64> {
    changed(tx);
    let hints = serde_json::to_string(&record.hints).context("writing hints")?;
    tx.prepare_cached(
        "INSERT INTO seats (incarnation, node, generation, role, ticket, not_before, expires, minted_expires,
             hints, confirm_console, state)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8, ?9, 'issued')",
    )?
    .execute(params![
        incarnation.0,
        record.node.as_str(),
        record.generation,
        record.role.as_str(),
        ticket.to_string(),
        millis(record.not_before),
        millis(record.expires),
        hints,
        record.confirm_console
    ])?;
    Ok(tx.last_insert_rowid())
}

/// The seat with this id, as it is now.
pub(crate) fn by_id(tx: &Transaction<'_>, id: i64) -> Result<Seat> {
    one(tx, "WHERE id = ?1", &[&id])?.context("a seat is gone")
}

/// The seat of a ticket.
pub(crate) fn by_ticket(tx: &Transaction<'_>, ticket: &TicketKey) -> Result<Option<Seat>> {
    one(tx, "WHERE ticket = ?1", &[&ticket.to_string()])
}

/// The seat whose key this is.
#[cfg(test)]
pub(crate) fn by_key(tx: &Transaction<'_>, key: &Fingerprint) -> Result<Option<Seat>> {
    use crate::registry::KeyOwner;
    Ok(match super::keys::owner(tx, key)? {
        Some(KeyOwner::Node { seat, .. }) => Some(*seat),
        _ => None,
    })
}

/// Every generation of a node, newest first.
pub(crate) fn of_node(tx: &Transaction<'_>, node: &NodeName) -> Result<Vec<Seat>> {
    many(tx, "WHERE node = ?1 ORDER BY generation DESC", &[&node.as_str()])
}

/// Every seat of an incarnation, by node, newest generation first.
pub(crate) fn of_incarnation(tx: &Transaction<'_>, incarnation: Incarnation) -> Result<Vec<Seat>> {
    many(tx, "WHERE incarnation = ?1 ORDER BY node, generation DESC", &[&incarnation.0])
}

/// Every generation of every server of an incarnation that has had a key.
fn servers_with_key(tx: &Transaction<'_>, incarnation: Incarnation) -> Result<Vec<Seat>> {
    many(tx, "WHERE incarnation = ?1 AND role = 'server' AND key IS NOT NULL ORDER BY id", &[&incarnation.0])
}

/// Who is in an incarnation's cluster, as far as the gate asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seated {
    /// Every generation of every server that has had a key, without their ratchets,
    /// which turn with each connection.
    pub(crate) servers: Vec<Seat>,
    /// Whether the gate has let an agent start.
    pub(crate) agents_passed: bool,
}

/// Who is in an incarnation's cluster.
pub(crate) fn seated(tx: &Transaction<'_>, incarnation: Incarnation) -> Result<Arc<Seated>> {
    let load = || {
        let mut servers = servers_with_key(tx, incarnation)?;
        for seat in &mut servers {
            seat.turn = None;
        }
        let agents_passed = agents_passed(tx, incarnation)?;
        Ok(Seated { servers, agents_passed })
    };
    match tx.recent() {
        Some(recent) => recent.seated(incarnation, load),
        None => load().map(Arc::new),
    }
}

/// Whoever writes the table says so first, but for ratchets and facts, which
/// [`Seated`] does not tell.
pub(super) fn changed(tx: &Transaction<'_>) {
    if let Some(recent) = tx.recent() {
        recent.seats_changed();
    }
}

/// Every seat of an incarnation of which something is to be done in its cluster.
pub(crate) fn with_chores(tx: &Transaction<'_>, incarnation: Incarnation) -> Result<Vec<Seat>> {
    many(
        tx,
        "WHERE incarnation = ?1 AND (token IN ('wanted', 'unwanted') OR object = 'doomed') ORDER BY id",
        &[&incarnation.0],
    )
}

/// Whether the gate has let an agent of an incarnation start.
fn agents_passed(tx: &Transaction<'_>, incarnation: Incarnation) -> Result<bool> {
    // As a range, which the index answers at once; IS NOT NULL would walk over
    // every agent that has not.
    let query =
        "SELECT EXISTS (SELECT 1 FROM seats WHERE incarnation = ?1 AND role = 'agent' AND passed >= 0)";
    Ok(tx.prepare_cached(query)?.query_row([incarnation.0], |row| row.get(0))?)
}

/// How many seats are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeatCount {
    pub(crate) role: String,
    pub(crate) state: String,
    pub(crate) ready: bool,
    pub(crate) count: u64,
}

/// The seats of an incarnation, counted.
pub(crate) fn count(tx: &Transaction<'_>, incarnation: Incarnation) -> Result<Vec<SeatCount>> {
    let mut statement = tx.prepare_cached(
        "SELECT role, state, ready IS NOT NULL, count(*) FROM seats WHERE incarnation = ?1 GROUP BY 1, 2, 3",
    )?;
    let rows = statement.query_map([incarnation.0], |row| {
        Ok(SeatCount { role: row.get(0)?, state: row.get(1)?, ready: row.get(2)?, count: row.get(3)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The record that a ticket was minted with.
pub(crate) fn minted_record(tx: &Transaction<'_>, seat: &Seat) -> Result<TicketRecord> {
    let (expires, hints): (i64, String) =
        tx.query_row("SELECT minted_expires, hints FROM seats WHERE id = ?1", [seat.id], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let hints: Hints = serde_json::from_str(&hints).context("reading stored hints")?;
    Ok(TicketRecord {
        node: seat.node.clone(),
        generation: seat.generation,
        role: seat.role,
        not_before: seat.not_before,
        expires: time(expires)?,
        confirm_console: seat.confirm_console,
        hints,
    })
}

/// Moves a seat to another state.
pub(crate) fn set_state(tx: &Transaction<'_>, seat: i64, state: State, reason: Option<&str>) -> Result<()> {
    changed(tx);
    let word = match state {
        State::Issued => "issued",
        State::Bound(_) => "bound",
        State::Held(_) => "held",
        State::Superseded(_) => "superseded",
        State::Revoked(_) => "revoked",
    };
    tx.prepare_cached("UPDATE seats SET state = ?2, key = ?3, reason = ?4 WHERE id = ?1")?
        .execute(params![seat, word, state.key().map(|key| key.to_string()), reason])?;
    tx.keys.borrow_mut().extend(state.key().map(|key| (key, state.is_live())));
    Ok(())
}

/// Binds a key to a seat, and keeps what the machine says of itself; an agent's
/// join token is wanted from then on. One statement, as this is what enrolling
/// costs most.
pub(crate) fn bind(
    tx: &Transaction<'_>,
    seat: &Seat,
    key: &Fingerprint,
    facts: Option<&Facts>,
    now: Timestamp,
) -> Result<()> {
    changed(tx);
    let facts = facts.map(serde_json::to_string).transpose().context("writing facts")?;
    tx.prepare_cached(
        "UPDATE seats SET state = 'bound', key = ?2, reason = NULL, bound = coalesce(bound, ?3),
             token = iif(role = 'agent', 'wanted', token), facts = coalesce(?4, facts)
         WHERE id = ?1",
    )?
    .execute(params![seat.id, key.to_string(), millis(now), facts])?;
    tx.keys.borrow_mut().push((*key, true));
    Ok(())
}

/// A moment in a seat's life that is noted once.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Moment {
    Passed,
    Ready,
}

/// Notes a moment; true if it was the first of its kind. Who is ready has passed the
/// gate, also if this is the copy of a state that was made before it did.
pub(crate) fn note_moment(tx: &Transaction<'_>, seat: i64, moment: Moment, now: Timestamp) -> Result<bool> {
    changed(tx);
    let update = match moment {
        Moment::Passed => "UPDATE seats SET passed = ?2 WHERE id = ?1 AND passed IS NULL",
        Moment::Ready => {
            "UPDATE seats SET ready = coalesce(ready, ?2), passed = coalesce(passed, ?2)
             WHERE id = ?1 AND (ready IS NULL OR passed IS NULL)"
        }
    };
    Ok(tx.prepare_cached(update)?.execute(params![seat, millis(now)])? == 1)
}

/// Keeps what a machine's console shows.
pub(crate) fn set_console_key(tx: &Transaction<'_>, seat: i64, shown: &Fingerprint) -> Result<()> {
    changed(tx);
    tx.prepare_cached("UPDATE seats SET console_key = ?2 WHERE id = ?1")?
        .execute(params![seat, shown.to_string()])?;
    Ok(())
}

/// Notes what is known of a seat's join token.
pub(crate) fn set_token(tx: &Transaction<'_>, seat: i64, token: Option<JoinState>) -> Result<()> {
    changed(tx);
    let word = token.map(|token| match token {
        JoinState::Wanted => "wanted",
        JoinState::Made => "made",
        JoinState::Unwanted => "unwanted",
        JoinState::Gone => "gone",
    });
    tx.prepare_cached("UPDATE seats SET token = ?2 WHERE id = ?1")?.execute(params![seat, word])?;
    Ok(())
}

/// Notes whether a seat's Node object is to be deleted, or was.
pub(crate) fn set_object(tx: &Transaction<'_>, seat: i64, object: ObjectState) -> Result<()> {
    changed(tx);
    let word = match object {
        ObjectState::Kept => None,
        ObjectState::Doomed => Some("doomed"),
        ObjectState::Gone => Some("gone"),
    };
    tx.prepare_cached("UPDATE seats SET object = ?2 WHERE id = ?1")?.execute(params![seat, word])?;
    Ok(())
}

/// Notes when the datastore was known to lack a seat's server, or that it has it.
pub(crate) fn set_left(tx: &Transaction<'_>, seat: i64, left: Option<Timestamp>) -> Result<()> {
    changed(tx);
    tx.prepare_cached("UPDATE seats SET left = ?2 WHERE id = ?1")?
        .execute(params![seat, left.map(millis)])?;
    Ok(())
}

/// Gives a ticket another end.
pub(crate) fn set_expires(tx: &Transaction<'_>, seat: i64, expires: Timestamp) -> Result<()> {
    changed(tx);
    tx.execute("UPDATE seats SET expires = ?2 WHERE id = ?1", params![seat, millis(expires)])?;
    Ok(())
}

/// Keeps what a machine says of itself.
pub(crate) fn set_facts(tx: &Transaction<'_>, seat: i64, facts: &Facts) -> Result<()> {
    let facts = serde_json::to_string(facts).context("writing facts")?;
    // Nothing new is nothing to write, and needs no fsync.
    tx.prepare_cached("UPDATE seats SET facts = ?2 WHERE id = ?1 AND facts IS NOT ?2")?
        .execute(params![seat, facts])?;
    Ok(())
}

/// What a machine last said of itself.
pub(crate) fn facts(tx: &Transaction<'_>, seat: i64) -> Result<Option<Facts>> {
    let text: Option<String> =
        tx.prepare_cached("SELECT facts FROM seats WHERE id = ?1")?.query_row([seat], |row| row.get(0))?;
    text.map(|text| serde_json::from_str(&text).context("reading stored facts")).transpose()
}

/// The newest generation of a node there ever was; 0 for none.
pub(crate) fn newest_generation(tx: &Transaction<'_>, node: &NodeName) -> Result<u32> {
    let newest: Option<u32> = tx
        .prepare_cached("SELECT max(generation) FROM seats WHERE node = ?1")?
        .query_row([node.as_str()], |row| row.get(0))?;
    Ok(newest.unwrap_or(0))
}

fn one(tx: &Transaction<'_>, rest: &str, values: &[&dyn ToSql]) -> Result<Option<Seat>> {
    let mut statement = tx.prepare_cached(&format!("SELECT {COLUMNS} FROM seats {rest}"))?;
    statement.query_row(values, |row| Ok(read(row))).optional()?.transpose()
}

fn many(tx: &Transaction<'_>, rest: &str, values: &[&dyn ToSql]) -> Result<Vec<Seat>> {
    let mut statement = tx.prepare_cached(&format!("SELECT {COLUMNS} FROM seats {rest}"))?;
    let rows = statement.query_map(values, |row| Ok(read(row)))?;
    rows.map(|row| row?).collect()
}

fn read(row: &Row<'_>) -> Result<Seat> {
    let mut row = Fields { row, next: 0 };
    let (id, incarnation) = (row.value()?, Incarnation(row.value()?));
    let node = row.parsed("name")?;
    let generation = row.value()?;
    let role = row.parsed("role")?;
    let ticket = TicketKey::try_from(row.value::<String>()?).context("reading a stored ticket")?;
    let (not_before, expires) = (time(row.value()?)?, time(row.value()?)?);
    let state = row.text()?.context("a seat has no state")?;
    let key: Option<Fingerprint> = row.parsed_if_there("key")?;
    let known = key.context("a bound seat has no key");
    let state = match state {
        "issued" => State::Issued,
        "bound" => State::Bound(known?),
        "held" => State::Held(known?),
        "superseded" => State::Superseded(key),
        "revoked" => State::Revoked(key),
        other => return Err(anyhow!("a seat's stored state is {other:?}")),
    };
    let reason = row.value()?;
    let (bound, passed, ready) = (row.moment()?, row.moment()?, row.moment()?);
    let (confirm_console, console_key) = (row.value()?, row.parsed_if_there("key")?);
    let token = match row.text()? {
        None => None,
        Some("wanted") => Some(JoinState::Wanted),
        Some("made") => Some(JoinState::Made),
        Some("unwanted") => Some(JoinState::Unwanted),
        Some("gone") => Some(JoinState::Gone),
        Some(other) => return Err(anyhow!("a seat's stored token is {other:?}")),
    };
    let object = match row.text()? {
        None => ObjectState::Kept,
        Some("doomed") => ObjectState::Doomed,
        Some("gone") => ObjectState::Gone,
        Some(other) => return Err(anyhow!("a seat's stored object is {other:?}")),
    };
    let left = row.moment()?;
    let turn = match (row.notch()?, row.notch()?) {
        (Some(cur), Some(next)) => Some(Turn { cur, next }),
        _ => None,
    };
    let rotate = row.value()?;
    Ok(Seat {
        id,
        incarnation,
        node,
        generation,
        role,
        ticket,
        not_before,
        expires,
        state,
        confirm_console,
        console_key,
        reason,
        bound,
        passed,
        ready,
        token,
        object,
        left,
        turn,
        rotate,
    })
}

/// A row's columns, one after the other: every request reads a seat, and looking
/// for each column by its name took longer than all the rest of that.
struct Fields<'a> {
    row: &'a Row<'a>,
    next: usize,
}

impl<'a> Fields<'a> {
    fn value<T: FromSql>(&mut self) -> Result<T> {
        self.next += 1;
        Ok(self.row.get(self.next - 1)?)
    }

    fn text(&mut self) -> Result<Option<&'a str>> {
        self.next += 1;
        Ok(self.row.get_ref(self.next - 1)?.as_str_or_null()?)
    }

    fn parsed_if_there<T>(&mut self, what: &str) -> Result<Option<T>>
    where
        T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
    {
        self.text()?.map(str::parse).transpose().with_context(|| format!("reading a stored {what}"))
    }

    fn parsed<T>(&mut self, what: &str) -> Result<T>
    where
        T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
    {
        self.parsed_if_there(what)?.with_context(|| format!("a seat has no {what}"))
    }

    fn notch(&mut self) -> Result<Option<Notch>> {
        let text: Option<String> = self.value()?;
        text.map(Notch::try_from).transpose().context("reading a stored notch")
    }

    fn moment(&mut self) -> Result<Option<Timestamp>> {
        self.value::<Option<i64>>()?.map(time).transpose()
    }
}
