//! The engine in use: one SQLite file, write-ahead log, `synchronous = FULL`
//! (the log is synced at every commit, <https://sqlite.org/pragma.html#pragma_synchronous>).
//!
//! Who opens it raises the *fence*, a number in the database, and every group
//! and every look checks that it still stands. The lock on the directory
//! (`dir`) keeps a second coordinator out; the fence stops the first one where
//! that lock did not hold: its file was deleted and made anew, or the file
//! system only pretends to lock.

use std::path::Path;

use anyhow::{Context as _, Result};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::engine::{self, Engine, Transaction, Undo, Work};
use super::recent::Recent;
use super::{epoch, schema};
use crate::unlock::UnlockKey;

/// Statements that stay compiled: more than there are.
const STATEMENTS: usize = 256;

/// KiB of tables that stay in memory: some thousand nodes.
const CACHE_KIB: u32 = 8192;

/// How much of a disk's patience a commit has.
#[derive(Debug, Clone, Copy)]
pub(super) enum Synchronous {
    /// Durable when it returns.
    Full,
    /// For tests that do not pull the plug.
    #[cfg(test)]
    Off,
}

/// A database file that this process writes.
#[derive(Debug)]
pub(super) struct Sqlite {
    connection: Connection,
    fence: i64,
    unlock: UnlockKey,
    recent: Recent,
}

/// Another writer has taken the state.
#[derive(Debug, thiserror::Error)]
#[error(
    "another coordinator has opened this state since (fence {fence}, ours is {ours}): this one has stopped \
     answering from it; stop one of the two"
)]
pub(crate) struct Fenced {
    fence: i64,
    ours: i64,
}

impl Sqlite {
    /// Opens the file, which must be there, bringing its tables to the newest
    /// version, and takes it from whoever had it open before.
    pub(super) fn open(path: &Path, synchronous: Synchronous, unlock: UnlockKey) -> Result<Self> {
        let mut connection = connect(path, synchronous)?;
        let fence = take(&mut connection).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { connection, fence, unlock, recent: Recent::default() })
    }

    fn check_fence(&self) -> Result<()> {
        let fence: i64 = self
            .connection
            .prepare_cached("SELECT fence FROM writer")?
            .query_row([], |row| row.get(0))
            .context("reading the state's fence")?;
        if fence != self.fence {
            return Err(Fenced { fence, ours: self.fence }.into());
        }
        Ok(())
    }

    fn run(&self, statement: &str) -> Result<()> {
        self.connection.prepare_cached(statement)?.execute([])?;
        Ok(())
    }
}

impl Engine for Sqlite {
    fn begin(&mut self) -> Result<()> {
        self.run("BEGIN IMMEDIATE").context("beginning a change")?;
        self.check_fence().inspect_err(|_| self.rollback())
    }

    fn attempt(&mut self, undo: Undo, work: Work<'_>) -> Result<()> {
        engine::attempt(&self.connection, &self.unlock, &self.recent, undo, work)
    }

    fn commit(&mut self) -> Result<()> {
        let transaction = Transaction::on(&self.connection, Some(&self.unlock)).remembering(&self.recent);
        let written = epoch::write_down(&transaction).and_then(|()| self.run("COMMIT"));
        written.context("making the change durable").inspect_err(|_| self.rollback())?;
        self.recent.committed();
        Ok(())
    }

    fn rollback(&mut self) {
        engine::rollback(&self.connection);
        self.recent.undone();
    }

    fn read(&mut self, look: &mut dyn FnMut(&Transaction<'_>)) -> Result<()> {
        self.run("BEGIN")?;
        let checked = self.check_fence();
        if checked.is_ok() {
            look(&Transaction::on(&self.connection, Some(&self.unlock)).remembering(&self.recent));
        }
        engine::rollback(&self.connection);
        checked
    }

    fn backup(&mut self, file: &Path) -> Result<()> {
        self.check_fence()?;
        copy(&self.connection, file)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.connection.close().map_err(|(_, error)| error).context("closing the state")
    }
}

/// Writes what the connection sees into a new file, without free pages.
pub(super) fn copy(connection: &Connection, file: &Path) -> Result<()> {
    let at = || format!("copying the state to {}", file.display());
    let name = file.to_str().context("a file's name that is not UTF-8").with_context(at)?;
    connection.execute("VACUUM INTO ?1", [name]).with_context(at)?;
    Ok(())
}

/// Opens a database file that is there, with its tables in the newest version.
pub(super) fn connect(path: &Path, synchronous: Synchronous) -> Result<Connection> {
    let at = || format!("opening {}", path.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).with_context(at)?;
    let synchronous = match synchronous {
        Synchronous::Full => "FULL",
        #[cfg(test)]
        Synchronous::Off => "OFF",
    };
    // Temporary files would be in /var/tmp: what undoes one change of a group, which
    // holds whole pages of the tables.
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; PRAGMA foreign_keys = OFF;
             PRAGMA secure_delete = ON; PRAGMA trusted_schema = OFF;
             PRAGMA cache_size = -{CACHE_KIB}; PRAGMA temp_store = MEMORY;"
        ))
        .with_context(at)?;
    // Otherwise a statement is compiled anew whenever its values are others, in
    // case another index would do for these.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).with_context(at)?;
    schema::migrate(&mut connection).with_context(at)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "foreign_keys", true).with_context(at)?;
    Ok(connection)
}

/// Raises the fence; returns where it now stands.
fn take(connection: &mut Connection) -> Result<i64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let fence = transaction
        .query_row("UPDATE writer SET fence = fence + 1 RETURNING fence", [], |row| row.get(0))
        .context("raising the state's fence")?;
    transaction.commit().context("raising the state's fence")?;
    Ok(fence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        std::fs::File::create_new(&path).unwrap();
        (dir, path)
    }

    #[test]
    fn commits_wait_for_the_disk() {
        let (_dir, path) = file();
        let engine = Sqlite::open(&path, Synchronous::Full, UnlockKey::for_tests()).unwrap();
        let pragma =
            |name: &str| engine.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        assert_eq!(pragma("synchronous").unwrap(), 2);
        let mode: String =
            engine.connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        assert_eq!(mode, "wal");
        assert_eq!(pragma("temp_store").unwrap(), 2, "nothing of the state is in /var/tmp");
    }

    #[test]
    fn whoever_opens_it_later_is_the_writer_and_the_earlier_one_neither_writes_nor_reads() {
        let (_dir, path) = file();
        let mut first = Sqlite::open(&path, Synchronous::Full, UnlockKey::for_tests()).unwrap();
        first.begin().unwrap();
        first.commit().unwrap();
        let mut second = Sqlite::open(&path, Synchronous::Full, UnlockKey::for_tests()).unwrap();
        let error = first.begin().unwrap_err().to_string();
        assert!(error.contains("another coordinator has opened this state"), "{error}");
        assert!(first.read(&mut |_| panic!("a look at a state that is another's")).is_err());
        assert!(first.backup(&path.with_extension("copy")).is_err());
        second.begin().unwrap();
        second.commit().unwrap();
    }
}
