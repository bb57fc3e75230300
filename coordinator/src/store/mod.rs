//! The state on disk: one SQLite database, one connection, one thread.
//!
//! Every transition is one transaction, durable when [`Store::write`] returns;
//! those that wait at the same time share one fsync (`group`). What keeps the
//! tables stands behind [`engine::Engine`], whose suite a second store could
//! pass; the tables' functions are in the submodules, in the registry's types.
//! One process at a time has a state directory open (`dir`), and the database
//! notices if a second one does all the same (`sqlite`).

pub(crate) mod admins;
#[cfg(test)]
mod conformance_tests;
pub(crate) mod dir;
pub(crate) mod engine;
pub(crate) mod epoch;
pub(crate) mod events;
mod group;
#[cfg(test)]
mod group_tests;
pub(crate) mod incarnations;
pub(crate) mod keys;
#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod pin;
mod post;
pub(crate) mod ratchets;
mod recent;
pub(crate) mod reports;
mod schema;
pub(crate) mod sealed;
pub(crate) mod seats;
mod sqlite;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use engine::Engine;
pub(crate) use engine::{Transaction, Undo};
use group::{Answer, Change, Job};
use post::{Caller, Post, letter};
pub(crate) use sqlite::Fenced;
use sqlite::{Sqlite, Synchronous};

use crate::unlock::UnlockKey;

/// Jobs that may wait for the thread before callers wait to queue.
const QUEUE: usize = 256;

/// The tables and their thread. Dropping it closes both.
#[derive(Debug)]
pub(crate) struct Store {
    jobs: Option<mpsc::Sender<Job>>,
    post: Post,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens the database, making or migrating it as needed. `guard` is kept
    /// until the database is closed.
    pub(crate) fn open(path: &Path, unlock: UnlockKey, guard: impl Send + 'static) -> Result<Self> {
        Self::start(Box::new(Sqlite::open(path, Synchronous::Full, unlock)?), guard)
    }

    /// Without waiting for the disk: for tests that do not pull the plug.
    #[cfg(test)]
    pub(crate) fn open_relaxed(path: &Path) -> Result<Self> {
        Self::start(Box::new(Sqlite::open(path, Synchronous::Off, UnlockKey::for_tests())?), ())
    }

    fn start(mut engine: Box<dyn Engine>, guard: impl Send + 'static) -> Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let post = Post::default();
        let sent = post.clone();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                group::serve(engine.as_mut(), &mut queue, &sent, group::pause);
                if let Err(error) = engine.close() {
                    tracing::warn!("{error:#}");
                }
                drop(guard);
            })
            .context("starting the store's thread")?;
        Ok(Self { jobs: Some(jobs), post, thread: Some(thread) })
    }

    /// Runs `transition` as one transaction. When this returns without an
    /// error, what it did is on disk; otherwise nothing of it is.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        transition: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.write_then(Undo::Own, transition, |_| {}).await
    }

    /// As [`Store::write`]; `undo` says what a refusal undoes. `then` is told what came
    /// of it once it is on disk, before anybody is answered who was in a later group.
    pub(crate) async fn write_then<T: Send + 'static>(
        &self,
        undo: Undo,
        transition: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
        then: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let run = move |tx: Result<&Transaction<'_>, group::Lost>| {
            let result = tx.map_err(anyhow::Error::from).and_then(|tx| guarded(|| transition(tx)));
            let keep = result.is_ok();
            let answer: Answer = Box::new(move |durable| {
                // A refusal too may rest on what a neighbour did, and is void with it.
                let result = durable.map_err(anyhow::Error::from).and(result);
                if let Ok(done) = &result {
                    then(done);
                }
                letter(answer, result)
            });
            (keep, Some(answer))
        };
        self.ask(Job::Change(Change { undo, run: Box::new(run) }), answered).await
    }

    /// Runs `look` on one consistent view; it changes nothing.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let look = move |tx: Result<&Transaction<'_>, group::Lost>| {
            let result = tx.map_err(anyhow::Error::from).and_then(|tx| guarded(|| look(tx)));
            letter(answer, result)
        };
        self.ask(Job::Look(Box::new(look)), answered).await
    }

    /// Writes a copy of what is committed into a file that is not there yet.
    pub(crate) async fn backup(&self, file: &Path) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        let file = file.to_owned();
        let work = move |engine: &mut dyn Engine| {
            let _ = answer.send(guarded(|| engine.backup(&file)));
        };
        self.ask(Job::Engine(Box::new(work)), answered).await
    }

    async fn ask<T>(&self, job: Job, answered: oneshot::Receiver<Result<T>>) -> Result<T> {
        let jobs = self.jobs.as_ref().expect("the sender is there until the store is dropped");
        jobs.send(job).await.ok().context("the store has stopped")?;
        Caller::new(answered, self.post.clone()).await.context("the store has stopped")?
    }
}

/// A defect in one transition must not take the others' store away: its panic
/// is an error, and undone like one.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(anyhow!("a transition panicked")))
}

impl Drop for Store {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            // It ends as soon as it has done what was asked before.
            let _ = thread.join();
        }
    }
}

/// Runs one transaction on a database that nobody has open, making or migrating
/// it as needed. Without an unlock key, what is sealed stays closed.
pub(crate) fn once<T>(
    path: &Path,
    unlock: Option<&UnlockKey>,
    transition: impl FnOnce(&Transaction<'_>) -> Result<T>,
) -> Result<T> {
    let mut connection = sqlite::connect(path, Synchronous::Full)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let result = transition(&Transaction::on(&transaction, unlock))?;
    transaction.commit().context("making the state durable")?;
    // With the last connection goes the log, and what was overwritten in it.
    connection.close().map_err(|(_, error)| error).context("closing the state")?;
    Ok(result)
}

/// Writes a consistent copy of a database that may be in use.
pub(crate) fn copy(path: &Path, file: &Path) -> Result<()> {
    let connection = connect_as_is(path)?;
    check_identity(&connection).with_context(|| format!("opening {}", path.display()))?;
    sqlite::copy(&connection, file)
}

/// Runs a transaction on a database that another process may have open, in which
/// it changes nothing that this other one relies on.
pub(crate) fn beside<T>(path: &Path, work: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
    let mut connection = connect_as_is(path)?;
    check_identity(&connection).with_context(|| format!("opening {}", path.display()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let result = work(&Transaction::on(&transaction, None))?;
    transaction.commit().context("making the change durable")?;
    Ok(result)
}

/// Looks at a database that another process may have open, in its version.
pub(crate) fn as_it_is<T>(path: &Path, look: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
    let connection = connect_as_is(path)?;
    check_identity(&connection).with_context(|| format!("opening {}", path.display()))?;
    look(&Transaction::on(&connection, None))
}

/// Opens a database that may be in use, without bringing it to another version.
fn connect_as_is(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags).with_context(|| format!("opening {}", path.display()))
}

/// Refuses a database that is not a coordinator's, or a newer one's.
pub(crate) fn check_identity(connection: &Connection) -> Result<()> {
    schema::check_identity(connection)
}

/// Times are stored as milliseconds since 1970.
fn millis(time: Timestamp) -> i64 {
    time.as_millisecond()
}

fn time(millis: i64) -> Result<Timestamp> {
    Timestamp::from_millisecond(millis).context("reading a stored time")
}

/// As precise as a time is after it was stored.
pub(crate) fn rounded(at: Timestamp) -> Timestamp {
    time(millis(at)).unwrap_or(at)
}

/// The engine in use on a file, without waiting for the disk.
#[cfg(test)]
pub(crate) fn relaxed_engine(path: &Path) -> Result<Box<dyn Engine>> {
    Ok(Box::new(Sqlite::open(path, Synchronous::Off, UnlockKey::for_tests())?))
}

/// An empty store in a directory of its own.
#[cfg(test)]
pub(crate) fn test_store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    std::fs::File::create_new(&path).unwrap();
    let store = Store::open_relaxed(&path).unwrap();
    (dir, store)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_one_transition_leaves_the_store_usable_and_unchanged() {
        let (_dir, store) = test_store();
        let insert = "INSERT INTO keys (id, kind, name, noted) VALUES ('x', 'admin', 'x', 0)";
        let panicked: Result<()> = store
            .write(move |tx| {
                tx.execute(insert, [])?;
                panic!("a defect")
            })
            .await;
        assert!(panicked.is_err());
        let count = |tx: &Transaction<'_>| {
            Ok(tx.query_row("SELECT count(*) FROM keys", [], |row| row.get::<_, i64>(0))?)
        };
        assert_eq!(store.read(count).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_failed_transition_changes_nothing() {
        let (_dir, store) = test_store();
        let failed: Result<()> = store
            .write(|tx| {
                tx.execute("INSERT INTO keys (id, kind, name, noted) VALUES ('x', 'admin', 'x', 0)", [])?;
                Err(anyhow!("no"))
            })
            .await;
        assert!(failed.is_err());
        let count = |tx: &Transaction<'_>| {
            Ok(tx.query_row("SELECT count(*) FROM keys", [], |row| row.get::<_, i64>(0))?)
        };
        assert_eq!(store.read(count).await.unwrap(), 0);
    }
}
