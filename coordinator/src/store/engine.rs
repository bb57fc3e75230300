//! The seam between the registry and what keeps it: [`Engine`].
//!
//! The seam is about promises, not about queries. What differs between stores
//! is when something is durable, what a refusal undoes, who else may write,
//! and how a consistent copy is made; those are the trait, small enough that
//! the suite below (`conformance_tests`) says all of it. The registry's tables
//! stay one set of SQL statements in the submodules' functions, which speak in
//! the registry's types and reach the engine's connection through
//! [`Transaction`]. A trait with a method for each of those functions was the
//! other choice: it would have every rule written twice for a second store,
//! where a store of another dialect needs the statements once. Such a store
//! (PostgreSQL, one SERIALIZABLE transaction a group) replaces what
//! [`Transaction`] stands for, and its tables' functions; the suite runs those
//! functions and so judges both.

use std::cell::RefCell;
use std::ops::Deref;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use kiln_protocol::Fingerprint;
use rusqlite::Connection;

use super::events::Concerned;
use super::recent::Recent;
use crate::unlock::UnlockKey;

/// What a transition runs in. It sees what was committed and what its
/// neighbours in the same group did before it.
#[derive(Debug)]
pub(crate) struct Transaction<'a> {
    connection: &'a Connection,
    unlock: Option<&'a UnlockKey>,
    recent: Option<&'a Recent>,
    /// Whom what was noted in it concerns.
    pub(super) concerned: RefCell<Concerned>,
    /// The TLS keys that came into use in it (true), or went out of use, in order.
    pub(super) keys: RefCell<Vec<(Fingerprint, bool)>>,
}

impl<'a> Transaction<'a> {
    pub(super) fn on(connection: &'a Connection, unlock: Option<&'a UnlockKey>) -> Self {
        let (concerned, keys) = (RefCell::default(), RefCell::default());
        Self { connection, unlock, recent: None, concerned, keys }
    }

    /// With what the engine remembers.
    pub(super) fn remembering(self, recent: &'a Recent) -> Self {
        Self { recent: Some(recent), ..self }
    }

    /// What the engine remembers, if it does.
    pub(super) fn recent(&self) -> Option<&'a Recent> {
        self.recent
    }

    /// Whom the lines of the audit trail concern that it has noted so far.
    pub(crate) fn take_concerned(&self) -> Concerned {
        self.concerned.take()
    }

    /// The TLS keys that came into use (true) or went out of use so far, in order.
    pub(crate) fn take_keys(&self) -> Vec<(Fingerprint, bool)> {
        self.keys.take()
    }

    /// What the secrets in the tables are sealed under.
    pub(crate) fn unlock(&self) -> Result<&'a UnlockKey> {
        self.unlock.context("the state was opened without its unlock key")
    }
}

impl Deref for Transaction<'_> {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        self.connection
    }
}

/// Work on the tables; true keeps what it did, false undoes it.
pub(crate) type Work<'a> = &'a mut dyn FnMut(&Transaction<'_>) -> bool;

/// What becomes of a group when one caller's work is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undo {
    /// That work is undone, and no neighbour's.
    Own,
    /// Nothing need be undone, for the work says no before it writes anything. If it
    /// does not, the whole group is lost: to be able to undo one caller's work alone,
    /// SQLite copies each page that it changes.
    Nothing,
}

/// A store of the registry. One thread calls it.
///
/// A *group* is what happens between [`begin`](Engine::begin) and
/// [`commit`](Engine::commit): work of several callers that becomes durable at
/// once, which is what makes durability cheap.
pub(crate) trait Engine: Send {
    /// Begins a group. An error if another writer has taken the state.
    fn begin(&mut self) -> Result<()>;

    /// Runs one caller's work in the group: kept as a whole or undone as a
    /// whole, and its neighbours' work is untouched either way. An error means
    /// that the group is lost, and must be [rolled back](Engine::rollback).
    fn attempt(&mut self, undo: Undo, work: Work<'_>) -> Result<()>;

    /// Ends the group. When this returns without an error, the group survives
    /// whatever happens to the process and the machine; otherwise nothing of
    /// it was done, as far as anybody who asks later can tell.
    fn commit(&mut self) -> Result<()>;

    /// Ends the group without a trace of it.
    fn rollback(&mut self);

    /// Looks at what was committed. Never called within a group.
    fn read(&mut self, look: &mut dyn FnMut(&Transaction<'_>)) -> Result<()>;

    /// Writes a copy of what was committed into a file that is not there yet.
    fn backup(&mut self, file: &Path) -> Result<()>;

    /// Closes the store. What was committed stays.
    fn close(self: Box<Self>) -> Result<()>;
}

/// [`Engine::attempt`] on a connection with an open transaction.
pub(super) fn attempt(
    connection: &Connection,
    unlock: &UnlockKey,
    recent: &Recent,
    undo: Undo,
    work: Work<'_>,
) -> Result<()> {
    let run = |statement: &str| connection.prepare_cached(statement)?.execute([]);
    let own = undo == Undo::Own;
    if own {
        run("SAVEPOINT work").context("beginning a transition")?;
    }
    let before = (connection.total_changes(), recent.progress.get());
    let keep = work(&Transaction::on(connection, Some(unlock)).remembering(recent));
    // Some failures, such as a full disk, make SQLite undo the whole transaction.
    if connection.is_autocommit() {
        bail!("the store has undone a group of changes");
    }
    if !keep {
        if own {
            run("ROLLBACK TO work").context("undoing a transition")?;
        } else if connection.total_changes() != before.0 {
            bail!("a transition failed that had written already, and its group with it");
        }
        recent.progress.set(before.1);
    }
    if own {
        run("RELEASE work").context("ending a transition")?;
    }
    Ok(())
}

/// [`Engine::rollback`] on a connection.
pub(super) fn rollback(connection: &Connection) {
    let run = || connection.prepare_cached("ROLLBACK")?.execute([]);
    if !connection.is_autocommit()
        && let Err(error) = run()
    {
        tracing::error!("undoing a group of changes: {error}");
    }
}
