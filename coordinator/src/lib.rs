//! The coordinator: it vouches for nodes' keys, tells nodes what to become,
//! keeps a cluster's secrets and knows how far everyone is.
//!
//! [`Coordinator`] is the whole of it: a program opens one on a state
//! directory, and either serves it or calls it in-process (`builder up`).
//!
//! | module | what it holds |
//! |---|---|
//! | [`plan`] | the cluster file, and what one node of it is told to become |
//! | [`k3s`] | CA set, tokens, node passwords, kubeconfigs |
//! | `registry` | the rules: who is who, and who may start k3s when |
//! | `transition` | the rules, run inside the store's transactions |
//! | `stamps` | how far the state is, signed once for all who open at the same time |
//! | `snapshot` | the copy of a datastore that a server is to begin with |
//! | `store` | the state directory and its database |
//! | `backup`, `unlock`, `unlocking` | copies of the state; what its secrets are sealed under |
//! | `contacts` | when each machine was last heard, and which server does the chores |
//! | `server` | the listener of nodes and admins, the socket, the status page |
//! | `hardening` | no core dumps |
//! | `news` | who waits for a change |
//! | `operate` | what an operator decides, in one transition each |
//! | `acquainted` | which keys are in use, asked at the beginning of every connection |
//! | [`client`] | the admin's side of it |
//! | [`cli`] | the program `coordinator` |
//! | [`decoders`] | what the fuzz targets decode, and nobody else outside |

mod acquainted;
mod arrivals;
mod backup;
pub mod cli;
pub mod client;
mod contacts;
pub mod decoders;
mod hardening;
pub mod k3s;
mod news;
mod operate;
mod pin_change;
pub mod plan;
mod registry;
mod server;
mod snapshot;
mod stamps;
mod store;
mod strangers;
mod transition;
mod unlock;
mod unlocking;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use kiln_protocol::recovery::{PinChange, RecoverySeed};
use kiln_protocol::{Fingerprint, Identity};
use tokio::net::TcpListener;
use tokio::sync::watch;

use acquainted::Acquainted;
use arrivals::Arrivals;
use contacts::Contacts;
use news::News;
use stamps::Stamps;
use store::dir::{self, StateDir};
use store::events::{self, Actor, Concerned, Event, What};
use store::{Store, Transaction, Undo, sealed};
use strangers::Strangers;

pub use hardening::limit_core_dumps;
pub use server::{Limits, Listeners, LocalListener, Server};
pub use unlock::{UnlockFile, UnlockKey};

/// One cluster's coordinator, on one state directory. Clones are handles to
/// the same one; the state is closed when the last is dropped.
#[derive(Debug, Clone)]
pub struct Coordinator {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    identity: Identity,
    /// The recovery key's word for it, if it took another's place.
    pin_change: Option<PinChange>,
    store: Store,
    changes: watch::Sender<u64>,
    news: Arc<News>,
    strangers: Mutex<Strangers>,
    arrivals: Arc<Arrivals>,
    acquainted: Arc<Acquainted>,
    stamps: Arc<Stamps>,
    contacts: Arc<Mutex<Contacts>>,
}

impl Coordinator {
    /// Makes a state directory (0700): an empty registry and, sealed in it, the
    /// coordinator's key. An error if there is one already. The recovery key that is
    /// returned is kept nowhere: [`Coordinator::change_pin`] needs it.
    ///
    /// The unlock key of its secrets is the file beside the directory, made if
    /// there is none ([`UnlockFile::beside`]).
    pub fn init(path: &Path) -> Result<RecoverySeed> {
        Self::init_with(path, &UnlockFile::beside(path), |_| Ok(()))
    }

    /// As [`Coordinator::init`], with the unlock key elsewhere. `keep` is given the
    /// recovery key before there is a coordinator: what it has made durable when it
    /// returns is there whenever the state is. If it fails, no state is made.
    pub fn init_with(
        path: &Path,
        unlock: &UnlockFile,
        keep: impl FnOnce(&RecoverySeed) -> Result<()>,
    ) -> Result<RecoverySeed> {
        let state = StateDir::new(path);
        state.create()?;
        state.check()?;
        let guard = state.lock()?;
        let (shown, database) = (path.display(), state.database());
        ensure!(store::pin::at(&database)?.is_none(), "there is a coordinator in {shown} already");
        ensure!(
            !state.clear_keys().iter().any(|path| path.exists()),
            "{shown} holds a coordinator.key, but no registry that knows it: restore both from a backup, or \
             remove {shown} to begin anew"
        );
        unlock.check_outside(path)?;
        let unlock = unlock.read_or_make()?;
        let (identity, recovery) = (Identity::generate()?, RecoverySeed::generate());
        // An init that was cut off may have left one, with nothing in it.
        if !database.exists() {
            dir::create_private(&database, b"")?;
        }
        let (key, public, now) = (identity.fingerprint(), recovery.public_key(), Timestamp::now());
        // All of it or nothing: from here on there is a coordinator.
        store::once(&database, Some(&unlock), |tx| {
            sealed::set_own_key(tx, &identity.to_pem())?;
            store::keys::note(tx, &key, store::keys::Kind::Coordinator, "coordinator", now)?;
            store::keys::note_recovery(tx, &public, now)?;
            store::pin::set_recovery(tx, &public)?;
            let detail = format!("coordinator {key}");
            events::note(tx, &Actor::local(), &Event::about_all(What::Init, &detail), now)?;
            // Last of all, so that little can fail between it and the commit.
            keep(&recovery)
        })?;
        drop(guard);
        Ok(recovery)
    }

    /// Where the recovery key of a state goes that could be shown to nobody: beside
    /// the directory, not in it. Whoever copies the directory must not have it.
    pub fn recovery_file(path: &Path) -> PathBuf {
        // Of `.`, say, only the whole path has a beside.
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut file = whole.components().as_path().as_os_str().to_owned();
        file.push(".recovery-key");
        file.into()
    }

    /// Keeps the recovery key in a file, 0600, in the place of what is there, for
    /// those who could not be shown it. It is to be moved to where it is offline.
    pub fn keep_recovery_key(file: &Path, recovery: &RecoverySeed) -> Result<()> {
        dir::replace_private(file, recovery.to_text().as_bytes()).context("keeping the recovery key")
    }

    /// Moves the recovery key that an older Kiln left in the state directory to
    /// `file`; false if there is none. The state may be open.
    pub fn take_out_recovery_key(path: &Path, file: &Path) -> Result<bool> {
        let left = StateDir::new(path).recovery_key();
        let moving = || format!("moving the recovery key {} out of the state", left.display());
        let text = match std::fs::read(&left) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            read => zeroize::Zeroizing::new(read.with_context(moving)?),
        };
        dir::replace_private(file, &text).and_then(|()| dir::remove(&left)).with_context(moving)?;
        Ok(true)
    }

    /// Gives the coordinator another key, which nodes that enrolled take for the
    /// old one's successor by the recovery key's word alone; returns its pin. The
    /// state must not be open. Tickets that were not used are void.
    pub fn change_pin(path: &Path, recovery: &RecoverySeed) -> Result<Fingerprint> {
        Self::change_pin_with(path, recovery, &UnlockFile::beside(path))
    }

    /// As [`Coordinator::change_pin`], with the unlock key elsewhere.
    pub fn change_pin_with(path: &Path, recovery: &RecoverySeed, unlock: &UnlockFile) -> Result<Fingerprint> {
        pin_change::change(path, recovery, unlock)
    }

    /// Opens a state directory. An error if another process has it open, if
    /// others may look into it, if a newer Kiln wrote it, or if the unlock key
    /// beside it is not there or is another one.
    pub async fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, &UnlockFile::beside(path)).await
    }

    /// As [`Coordinator::open`], with the unlock key elsewhere.
    pub async fn open_with(path: &Path, unlock: &UnlockFile) -> Result<Self> {
        let state = StateDir::new(path);
        state.check()?;
        ensure!(
            store::pin::at(&state.database())?.is_some(),
            "there is no coordinator in {0}: make it with: coordinator init --state {0}",
            path.display()
        );
        let guard = state.lock()?;
        let unlock = unlocking::unlock(&state, unlock)?;
        let (identity, pin_change) = unlocking::settle(&state, &unlock)?;
        let store = Store::open(&state.database(), unlock, guard)?;
        let keys = store.read(store::keys::in_use).await?;
        let runs = store.write(store::epoch::start).await?;
        let strangers = Mutex::default();
        let arrivals = Arc::default();
        let Limits { quiet, slot, .. } = Limits::default();
        let contacts = Arc::new(Mutex::new(Contacts::new(Timestamp::now(), quiet, slot)));
        let inner = Inner {
            identity,
            pin_change,
            store,
            changes: watch::Sender::new(0),
            news: Arc::default(),
            strangers,
            arrivals,
            acquainted: Arc::new(Acquainted::of(keys)),
            stamps: Arc::new(Stamps::new(runs)),
            contacts,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The pin of the coordinator in a state directory, open or not, without its
    /// unlock key; none if there is no coordinator.
    pub fn pin_at(path: &Path) -> Result<Option<Fingerprint>> {
        store::pin::at(&StateDir::new(path).database())
    }

    /// The coordinator's key, which tickets pin.
    pub fn pin(&self) -> Fingerprint {
        self.inner.identity.fingerprint()
    }

    /// Answers nodes and admins on `listener` until the [`Server`] is shut down.
    pub async fn serve(&self, listener: TcpListener) -> Result<Server> {
        self.serve_within(listener, Limits::default()).await
    }

    /// As [`Coordinator::serve`], with other limits.
    pub async fn serve_within(&self, listener: TcpListener, limits: Limits) -> Result<Server> {
        self.serve_at(Listeners::nodes(listener), limits).await
    }

    /// As [`Coordinator::serve`], with more than one listener.
    #[expect(clippy::unused_async, reason = "it needs a runtime, and its callers are async anyway")]
    pub async fn serve_at(&self, listeners: Listeners, limits: Limits) -> Result<Server> {
        server::start(self.clone(), listeners, limits)
    }

    /// Writes everything but the unlock key into a file (0600) that is not there
    /// yet, while everything goes on.
    pub async fn backup(&self, file: &Path) -> Result<()> {
        let copy = backup::Temporary::beside(file)?;
        let noted = file.to_owned();
        let note = move |tx: &Transaction<'_>| {
            backup::note(tx, &noted, &Actor::local(), Timestamp::now())?;
            tx.unlock().cloned()
        };
        let unlock = self.change(note).await?;
        self.inner.store.backup(copy.path()).await?;
        backup::pack(copy.path(), file, &unlock)
    }

    /// Makes a state directory from a backup that was made with this unlock key.
    /// The tickets that were unused in it are void. Returns what was done, in words.
    /// An error, before anything is touched, if there is a state already or the
    /// backup is damaged, altered, foreign, an older Kiln's, or made with another key.
    pub fn restore(file: &Path, path: &Path, unlock: &UnlockFile) -> Result<String> {
        backup::restore(file, path, unlock, backup::Trust::Authentic, &Actor::local())
    }

    /// As [`Coordinator::restore`], also from an older Kiln's backup, of which
    /// nothing tells whether somebody altered it.
    pub fn restore_unauthenticated(file: &Path, path: &Path, unlock: &UnlockFile) -> Result<String> {
        backup::restore(file, path, unlock, backup::Trust::Anybodys, &Actor::local())
    }

    /// Seals everything under a new unlock key, in the place of the old one or in
    /// another file; the old one stays, since older backups open with no other.
    /// The state must not be open. Returns where the old one is.
    pub fn rotate_unlock_key(path: &Path, unlock: &UnlockFile, to: Option<&UnlockFile>) -> Result<PathBuf> {
        unlocking::rotate(path, unlock, to)
    }

    /// A number that grows whenever the status may have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Whether the state is known to be an old copy.
    async fn is_stale(&self) -> Result<bool> {
        self.inner.store.read(|tx| Ok(store::epoch::newer(tx)?.is_some())).await
    }

    /// Whether a key is no stranger's: a live node's or a present admin's.
    fn knows(&self, key: &Fingerprint) -> bool {
        self.inner.acquainted.has(key)
    }

    /// Runs a transition, and says so if it changed anything.
    async fn change<T: Send + 'static>(
        &self,
        transition: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.change_and_tell(false, transition, |_| {}).await
    }

    /// Runs a transition, and says so if the audit trail has something new: for
    /// what happens all the time and is no news to anybody, and says no before it
    /// writes anything. `then` is told what came of it, in the order in which it was
    /// made durable.
    async fn change_quietly<T: Send + 'static>(
        &self,
        transition: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
        then: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T> {
        self.change_and_tell(true, transition, then).await
    }

    async fn change_and_tell<T: Send + 'static>(
        &self,
        quietly: bool,
        transition: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
        then: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T> {
        // The store has a thread of its own; its lines belong to this request.
        let span = tracing::Span::current();
        let transition = move |tx: &Transaction<'_>| {
            let before = tx.total_changes();
            let result = span.in_scope(|| transition(tx))?;
            let (changed, concerned) = (tx.total_changes() != before, tx.take_concerned());
            let anything = changed && (!quietly || concerned.anybody);
            Ok((result, anything.then_some(concerned), tx.take_keys()))
        };
        // Not after the answer: whoever asked may have hung up, and what is durable is
        // news all the same.
        let acquainted = Arc::clone(&self.inner.acquainted);
        let (news, changes) = (Arc::clone(&self.inner.news), self.inner.changes.clone());
        let done = move |(result, concerned, keys): &(T, Option<Concerned>, Vec<(Fingerprint, bool)>)| {
            acquainted.follow(keys);
            then(result);
            if let Some(concerned) = concerned {
                one_more(&changes);
                news.tell(concerned);
            }
        };
        // What happens all the time says no before it writes.
        let undo = if quietly { Undo::Nothing } else { Undo::Own };
        let (result, ..) = self.inner.store.write_then(undo, transition, done).await?;
        Ok(result)
    }

    fn changed(&self) {
        one_more(&self.inner.changes);
    }

    fn strangers(&self) -> MutexGuard<'_, Strangers> {
        locked(&self.inner.strangers)
    }

    fn contacts(&self) -> MutexGuard<'_, Contacts> {
        locked(&self.inner.contacts)
    }
}

/// The status may have changed once more.
fn one_more(changes: &watch::Sender<u64>) {
    changes.send_modify(|count| *count += 1);
}

/// Nothing panics between two changes that belong together.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Poll;
    use std::time::Duration;

    #[tokio::test]
    async fn what_is_durable_is_told_though_whoever_asked_has_hung_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        Coordinator::init(&path).unwrap();
        let coordinator = Coordinator::open(&path).await.unwrap();
        let (mut changes, mut ear) = (coordinator.changes(), coordinator.inner.news.listen(1));
        ear.mark();
        let note = |tx: &Transaction<'_>| {
            events::note(tx, &Actor::local(), &Event::about_all(What::Apply, "again"), Timestamp::now())
        };
        let mut asked = Box::pin(coordinator.change(note));
        // It is asked for, and then nobody waits for it any more.
        std::future::poll_fn(|cx| {
            let _ = asked.as_mut().poll(cx);
            Poll::Ready(())
        })
        .await;
        drop(asked);
        let told = async {
            changes.changed().await.unwrap();
            ear.news().await;
        };
        tokio::time::timeout(Duration::from_secs(10), told).await.expect("it is durable and not told");
    }
}
