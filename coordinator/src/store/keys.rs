//! The table of every durable key.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kiln_protocol::recovery::RecoveryKey;
use kiln_protocol::{Fingerprint, TicketKey};
use rusqlite::{OptionalExtension as _, params};

use super::{Transaction, admins, millis, seats, time};
use crate::registry::KeyOwner;

/// What a key is noted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Coordinator,
    Admin,
    /// That of this seat.
    Node(i64),
    Ticket,
    Recovery,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Admin => "admin",
            Self::Node(_) => "node",
            Self::Ticket => "ticket",
            Self::Recovery => "recovery",
        }
    }
}

/// Notes a TLS key. An error if it was noted before.
pub(crate) fn note(
    tx: &Transaction<'_>,
    key: &Fingerprint,
    kind: Kind,
    name: &str,
    now: Timestamp,
) -> Result<()> {
    insert(tx, &key.to_string(), kind, name, now)
}

/// The TLS keys that are in use: the present one of every live seat and of every
/// present admin. Not the coordinator's own, with which nobody calls, nor one that
/// was replaced or lost its rights.
pub(crate) fn in_use(tx: &Transaction<'_>) -> Result<HashSet<Fingerprint>> {
    let mut statement = tx.prepare(
        "SELECT key FROM seats WHERE state IN ('bound', 'held')
         UNION ALL SELECT key FROM admins WHERE removed IS NULL",
    )?;
    let keys = statement.query_map([], |row| row.get::<_, String>(0))?;
    keys.map(|key| key?.parse().context("reading a stored key")).collect()
}

/// Notes a ticket. An error if it was noted before.
pub(crate) fn note_ticket(
    tx: &Transaction<'_>,
    ticket: &TicketKey,
    name: &str,
    now: Timestamp,
) -> Result<()> {
    insert(tx, &ticket.to_string(), Kind::Ticket, name, now)
}

/// Notes a recovery key. An error if it was noted before.
pub(crate) fn note_recovery(tx: &Transaction<'_>, key: &RecoveryKey, now: Timestamp) -> Result<()> {
    insert(tx, &key.to_string(), Kind::Recovery, "recovery", now)
}

/// When a TLS key was noted, if it was.
pub(crate) fn noted(tx: &Transaction<'_>, key: &Fingerprint) -> Result<Option<Timestamp>> {
    let noted: Option<i64> = tx
        .prepare_cached("SELECT noted FROM keys WHERE id = ?1")?
        .query_row([key.to_string()], |row| row.get(0))
        .optional()?;
    noted.map(time).transpose()
}

/// Takes a node's key out of use, in favour of another that is noted for the same
/// seat.
pub(crate) fn retire(tx: &Transaction<'_>, seat: i64, old: &Fingerprint, new: &Fingerprint) -> Result<()> {
    tx.keys.borrow_mut().extend([(*old, false), (*new, true)]);
    seats::changed(tx);
    let (old, new) = (old.to_string(), new.to_string());
    // Whoever confirmed the old key from its console has confirmed the new one,
    // which the old one vouches for.
    tx.execute(
        "UPDATE seats SET key = ?3, rotate = 0, console_key = iif(console_key = ?2, ?3, console_key)
         WHERE id = ?1 AND key = ?2",
        params![seat, old, new],
    )?;
    Ok(())
}

fn insert(tx: &Transaction<'_>, id: &str, kind: Kind, name: &str, now: Timestamp) -> Result<()> {
    let seat = if let Kind::Node(seat) = kind { Some(seat) } else { None };
    tx.prepare_cached("INSERT INTO keys (id, kind, name, noted, seat) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![id, kind.as_str(), name, millis(now), seat])
        .with_context(|| format!("noting the key of {} {name}", kind.as_str()))?;
    Ok(())
}

/// What a TLS key was noted for, if it was.
pub(crate) fn owner(tx: &Transaction<'_>, key: &Fingerprint) -> Result<Option<KeyOwner>> {
    type Row = (String, String, Option<i64>);
    let found: Option<Row> = tx
        .prepare_cached("SELECT kind, name, seat FROM keys WHERE id = ?1")?
        .query_row([key.to_string()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    Ok(match found {
        None => None,
        Some((kind, name, seat)) => Some(match kind.as_str() {
            "coordinator" => KeyOwner::Coordinator,
            "admin" if admins::has_rights(tx, key)? => KeyOwner::Admin(name),
            "admin" => KeyOwner::FormerAdmin(name),
            "node" => {
                let seat = Box::new(seats::by_id(tx, seat.context("a node's key belongs to no node")?)?);
                if seat.state.key() == Some(*key) {
                    KeyOwner::Node { label: seat.label(), seat }
                } else {
                    KeyOwner::Former(seat)
                }
            }
            _ => KeyOwner::Ticket,
        }),
    })
}
