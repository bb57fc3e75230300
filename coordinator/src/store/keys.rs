//! The table of every durable key.

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kiln_protocol::{Fingerprint, TicketKey};
use rusqlite::{OptionalExtension as _, params};

use super::{Transaction, admins, millis, seats};
use crate::registry::KeyOwner;

/// What a key is noted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Coordinator,
    Admin,
    Node,
    Ticket,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Admin => "admin",
            Self::Node => "node",
            Self::Ticket => "ticket",
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

/// Notes a ticket. An error if it was noted before.
pub(crate) fn note_ticket(
    tx: &Transaction<'_>,
    ticket: &TicketKey,
    name: &str,
    now: Timestamp,
) -> Result<()> {
    insert(tx, &ticket.to_string(), Kind::Ticket, name, now)
}

fn insert(tx: &Transaction<'_>, id: &str, kind: Kind, name: &str, now: Timestamp) -> Result<()> {
    tx.prepare_cached("INSERT INTO keys (id, kind, name, noted) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![id, kind.as_str(), name, millis(now)])
        .with_context(|| format!("noting the key of {} {name}", kind.as_str()))?;
    Ok(())
}

/// What a TLS key was noted for, if it was.
pub(crate) fn owner(tx: &Transaction<'_>, key: &Fingerprint) -> Result<Option<KeyOwner>> {
    let found: Option<(String, String)> = tx
        .prepare_cached("SELECT kind, name FROM keys WHERE id = ?1")?
        .query_row([key.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(match found {
        None => None,
        Some((kind, name)) => Some(match kind.as_str() {
            "coordinator" => KeyOwner::Coordinator,
            "admin" if admins::has_rights(tx, key)? => KeyOwner::Admin(name),
            "admin" => KeyOwner::FormerAdmin(name),
            "node" => {
                let seat = seats::by_key(tx, key)?.context("a node's key belongs to no node")?;
                KeyOwner::Node { label: seat.label(), seat: Box::new(seat) }
            }
            _ => KeyOwner::Ticket,
        }),
    })
}
