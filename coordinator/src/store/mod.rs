//! The state on disk: one SQLite database, one connection, one thread.
//!
//! Every transition is one transaction, durable when [`Store::write`] returns:
//! write-ahead log with `synchronous = FULL`. One process at a time has a state
//! directory open (`dir`).
//!
//! Places of later steps: the thread is where several waiting transactions can
//! share one fsync (group commit); `incarnations` is where the secrets'
//! document is sealed and opened; a second store would stand behind the
//! functions of the submodules, which speak in the registry's types.

pub(crate) mod dir;
pub(crate) mod events;
pub(crate) mod incarnations;
pub(crate) mod keys;
pub(crate) mod reports;
mod schema;
pub(crate) mod seats;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

/// Transactions that may wait for the thread before callers wait to queue.
const QUEUE: usize = 256;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The database and its thread. Dropping it closes both.
#[derive(Debug)]
pub(crate) struct Store {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens the database, making or migrating it as needed. `guard` is kept
    /// until the database is closed.
    pub(crate) fn open(path: &Path, guard: impl Send + 'static) -> Result<Self> {
        Self::start(connect(path, "FULL")?, guard)
    }

    /// Without waiting for the disk: for tests that do not pull the plug.
    #[cfg(test)]
    pub(crate) fn open_relaxed(path: &Path) -> Result<Self> {
        Self::start(connect(path, "OFF")?, ())
    }

    fn start(mut connection: Connection, guard: impl Send + 'static) -> Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    job(&mut connection);
                }
                if let Err((_, error)) = connection.close() {
                    tracing::warn!("closing the state: {error}");
                }
                drop(guard);
            })
            .context("starting the store's thread")?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs `transition` as one transaction. When this returns without an
    /// error, what it did is on disk; otherwise nothing of it is.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        transition: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = transition(&transaction)?;
            transaction.commit().context("making the change durable")?;
            Ok(result)
        })
        .await
    }

    /// Runs `look` on one consistent view; it changes nothing.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run(move |connection| look(&connection.transaction()?)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // A defect in one transition must not take the others' store away;
            // the transaction was rolled back when the panic dropped it.
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| work(connection)))
                .unwrap_or_else(|_| Err(anyhow!("a transition panicked")));
            let _ = answer.send(result);
        });
        let jobs = self.jobs.as_ref().expect("the sender is there until the store is dropped");
        jobs.send(job).await.ok().context("the store has stopped")?;
        answered.await.context("the store has stopped")?
    }
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

/// Makes the tables of a new database and runs its first transaction.
pub(crate) fn initialise(path: &Path, first: impl FnOnce(&Transaction<'_>) -> Result<()>) -> Result<()> {
    let mut connection = connect(path, "FULL")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    first(&transaction)?;
    transaction.commit().context("making the new state durable")?;
    connection.close().map_err(|(_, error)| error).context("closing the new state")
}

fn connect(path: &Path, synchronous: &str) -> Result<Connection> {
    let at = || format!("opening {}", path.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).with_context(at)?;
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; PRAGMA foreign_keys = ON;
             PRAGMA secure_delete = ON; PRAGMA trusted_schema = OFF;"
        ))
        .with_context(at)?;
    schema::migrate(&mut connection).with_context(at)?;
    Ok(connection)
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
