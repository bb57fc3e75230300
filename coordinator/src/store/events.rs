//! The audit trail: who did what to which node, when and from where. It only
//! grows.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kiln_protocol::{ApiError, ErrorClass, admin};
use rusqlite::{Row, params};

use super::{Transaction, millis, time};

/// Who does something, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Actor {
    pub(crate) who: String,
    pub(crate) from: Option<IpAddr>,
}

impl Actor {
    /// A user of the coordinator's own host, at its socket.
    pub(crate) fn at_socket(uid: u32) -> Self {
        Self { who: format!("local uid {uid}"), from: None }
    }

    /// The program that holds the state itself.
    pub(crate) fn local() -> Self {
        Self { who: "local".to_owned(), from: None }
    }
}

/// What is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Init,
    Begin,
    Apply,
    End,
    Mint,
    Extend,
    Bind,
    Supersede,
    Contested,
    Confirm,
    Mismatch,
    Approve,
    Release,
    Revoke,
    Pass,
    Ready,
    Kubeconfig,
    AddAdmin,
    RemoveAdmin,
    RotateUnlockKey,
    Backup,
    Restore,
    Clone,
    FormerKey,
    AskRotation,
    Rotate,
    Epoch,
    Stale,
    PinChange,
    Replace,
    MemberGone,
    NodeDeleted,
    TokenDeleted,
    AskTokens,
    RotateTokens,
}

impl What {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Begin => "begin",
            Self::Apply => "apply",
            Self::End => "end",
            Self::Mint => "mint",
            Self::Extend => "extend",
            Self::Bind => "bind",
            Self::Supersede => "supersede",
            Self::Contested => "ticket_contested",
            Self::Confirm => "confirm_console",
            Self::Mismatch => "console_mismatch",
            Self::Approve => "approve",
            Self::Release => "release",
            Self::Revoke => "revoke",
            Self::Pass => "pass_gate",
            Self::Ready => "ready",
            Self::Kubeconfig => "kubeconfig",
            Self::AddAdmin => "add_admin",
            Self::RemoveAdmin => "remove_admin",
            Self::RotateUnlockKey => "rotate_unlock_key",
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Clone => "clone_or_rollback",
            Self::FormerKey => "former_key_used",
            Self::AskRotation => "ask_rotation",
            Self::Rotate => "rotate",
            Self::Epoch => "raise_epoch",
            Self::Stale => "stale_coordinator",
            Self::PinChange => "pin_change",
            Self::Replace => "replace",
            Self::MemberGone => "member_gone",
            Self::NodeDeleted => "node_deleted",
            Self::TokenDeleted => "token_deleted",
            Self::AskTokens => "ask_token_rotation",
            Self::RotateTokens => "rotate_tokens",
        }
    }
}

/// One line of the trail.
#[derive(Debug, Clone)]
pub(crate) struct Event<'a> {
    pub(crate) what: What,
    pub(crate) seat: Option<i64>,
    pub(crate) detail: &'a str,
    /// An operator should look, as long as the seat is held.
    pub(crate) alarm: bool,
    /// Noted only if nothing was under the same words.
    pub(crate) once: Option<&'a str>,
}

impl<'a> Event<'a> {
    /// Of a seat.
    pub(crate) fn of(what: What, seat: i64, detail: &'a str) -> Self {
        Self { what, seat: Some(seat), detail, alarm: false, once: None }
    }

    /// Of the whole cluster.
    pub(crate) fn about_all(what: What, detail: &'a str) -> Self {
        Self { what, seat: None, detail, alarm: false, once: None }
    }
}

/// Notes an event; false if it was to be noted once and had been.
pub(crate) fn note(tx: &Transaction<'_>, actor: &Actor, event: &Event<'_>, now: Timestamp) -> Result<bool> {
    insert(tx, None, actor, event, now)
}

/// Notes the event that an epoch begins with. Another copy of this state may have
/// given the next numbers to other lines already, and somebody who exports the
/// trail asks for what comes after those. So the trail goes on with a number that
/// no copy has reached, from which SQLite counts on: the milliseconds since 1970,
/// as long as no copy noted more lines than it lived milliseconds. JSON's readers
/// know numbers below 2^53 exactly, which these are for 285,000 years.
pub(crate) fn note_anew(
    tx: &Transaction<'_>,
    actor: &Actor,
    event: &Event<'_>,
    now: Timestamp,
) -> Result<bool> {
    let number = millis(now).max(newest(tx)? + 1);
    insert(tx, Some(number), actor, event, now)
}

/// The number of the newest line; 0 if there is none.
pub(crate) fn newest(tx: &Transaction<'_>) -> Result<i64> {
    let mut statement = tx.prepare_cached("SELECT coalesce(max(id), 0) FROM events")?;
    statement.query_row([], |row| row.get(0)).context("reading the end of the trail")
}

/// Notes an event under this number, or under the one after the newest.
fn insert(
    tx: &Transaction<'_>,
    number: Option<i64>,
    actor: &Actor,
    event: &Event<'_>,
    now: Timestamp,
) -> Result<bool> {
    let Event { what, seat, detail, alarm, once } = event;
    let noted = tx
        .prepare_cached(
            "INSERT INTO events (id, at, who, source, what, seat, detail, alarm, once)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (once) WHERE once IS NOT NULL DO NOTHING",
        )?
        .execute(params![
            number,
            millis(now),
            actor.who,
            actor.from.map(|from| from.to_string()),
            what.as_str(),
            seat,
            detail,
            alarm,
            once
        ])
        .context("noting an event")?;
    if noted == 1 {
        tx.concerned.borrow_mut().add(event);
        let from = actor.from.map_or(String::new(), |from| format!(" from {from}"));
        tracing::info!(who = actor.who, "{}: {detail}{from}", what.as_str());
    }
    Ok(noted == 1)
}

impl What {
    /// Of the whole cluster, and yet nothing to any node.
    fn is_no_news(self) -> bool {
        matches!(
            self,
            Self::Init
                | Self::Kubeconfig
                | Self::AddAdmin
                | Self::RemoveAdmin
                | Self::RotateUnlockKey
                | Self::Backup
        )
    }
}

/// Whom the lines concern that one transition noted.
#[derive(Debug, Default)]
pub(crate) struct Concerned {
    /// There was one at all.
    pub(crate) anybody: bool,
    /// Every node.
    pub(crate) all: bool,
    /// These seats.
    pub(crate) seats: Vec<i64>,
}

impl Concerned {
    fn add(&mut self, event: &Event<'_>) {
        self.anybody = true;
        match event.seat {
            Some(seat) => self.seats.push(seat),
            None => self.all |= !event.what.is_no_news(),
        }
    }
}

/// The lines after `after`, in order, at most `limit`.
///
/// # Errors
/// A refusal, when the trail has not come as far as `after`: who asks so goes on
/// with another state's, and would miss lines of this one without a word.
pub(crate) fn list_after(tx: &Transaction<'_>, after: u64, limit: usize) -> Result<Vec<admin::Event>> {
    let newest = u64::try_from(newest(tx)?)?;
    if after <= newest {
        return list(tx, after, limit);
    }
    let message =
        format!("the trail ends at {newest}: another state is served than the one with line {after}");
    Err(ApiError::new(ErrorClass::Policy, message)
        .hint(
            "a backup was restored, or an old copy of the state is served: coordinator events prints the whole \
             trail; go on from its last line that you have",
        )
        .into())
}

/// As [`list_after`], of this state for certain.
pub(crate) fn list(tx: &Transaction<'_>, after: u64, limit: usize) -> Result<Vec<admin::Event>> {
    let mut statement = tx.prepare_cached(
        "SELECT events.id, at, who, source, what, node, generation, detail, alarm
         FROM events LEFT JOIN seats ON seats.id = events.seat WHERE events.id > ?1 ORDER BY events.id LIMIT ?2",
    )?;
    let rows = statement.query_map(params![after, limit], |row| Ok(read(row)))?;
    rows.map(|row| row?).collect()
}

fn read(row: &Row<'_>) -> Result<admin::Event> {
    let text = |column: &str| row.get::<_, Option<String>>(column);
    let from = text("source")?.map(|from| from.parse()).transpose().context("reading a stored address")?;
    let node = text("node")?.map(|node| node.parse()).transpose().context("reading a stored name")?;
    Ok(admin::Event {
        id: row.get("id")?,
        at: time(row.get("at")?)?,
        who: row.get("who")?,
        from,
        what: row.get("what")?,
        node,
        generation: row.get("generation")?,
        detail: row.get("detail")?,
        alarm: row.get("alarm")?,
    })
}

/// An alarm whose seat is still held, or still waits for its machine.
#[derive(Debug)]
pub(crate) struct OpenAlarm {
    pub(crate) at: Timestamp,
    pub(crate) node: String,
    pub(crate) detail: String,
    pub(crate) held: bool,
}

/// The newest alarm of each seat that is still held or issued, newest first.
pub(crate) fn open_alarms(tx: &Transaction<'_>) -> Result<Vec<OpenAlarm>> {
    let mut statement = tx.prepare_cached(
        "SELECT max(events.id), events.at, seats.node, events.detail, seats.state = 'held'
         FROM events JOIN seats ON seats.id = events.seat
         WHERE events.alarm AND seats.state IN ('held', 'issued') GROUP BY seats.id ORDER BY max(events.id) DESC",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?;
    rows.map(|row| {
        let (at, node, detail, held): (i64, String, String, bool) = row?;
        Ok(OpenAlarm { at: time(at)?, node, detail, held })
    })
    .collect()
}
