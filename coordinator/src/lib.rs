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
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use kiln_protocol::admin::{self, AdminStatus, ApproveAnswer, ClusterStatus, TicketRecord};
use kiln_protocol::config::Incarnation;
use kiln_protocol::identity::TypedFingerprint;
use kiln_protocol::names::AdminName;
use kiln_protocol::ratchet::Reach;
use kiln_protocol::recovery::{PinChange, RecoverySeed};
use kiln_protocol::ticket::TicketSeed;
use kiln_protocol::{ApiError, ErrorClass, Fingerprint, Identity, NodeName, Secret, TicketKey};
use tokio::net::TcpListener;
use tokio::sync::watch;

use acquainted::Acquainted;
use arrivals::Arrivals;
use contacts::Contacts;
use k3s::{ClusterSecrets, KubeUser, ServerUrl};
use news::News;
use plan::ClusterFile;
use stamps::Stamps;
use store::dir::{self, StateDir};
use store::events::{self, Actor, Event, What};
use store::{Store, Transaction, sealed};
use strangers::Strangers;
use transition::status::Look;

pub use hardening::limit_core_dumps;
pub use server::{Limits, Listeners, Server};
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
        Self::init_with(path, &UnlockFile::beside(path))
    }

    /// As [`Coordinator::init`], with the unlock key elsewhere.
    pub fn init_with(path: &Path, unlock: &UnlockFile) -> Result<RecoverySeed> {
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
            Ok(())
        })?;
        drop(guard);
        Ok(recovery)
    }

    /// Keeps the recovery key in the state directory, 0600, for those who could
    /// not be shown it: whoever takes the directory then has it too, so it is to
    /// be moved elsewhere.
    pub fn keep_recovery_key(path: &Path, recovery: &RecoverySeed) -> Result<()> {
        dir::create_private(&StateDir::new(path).recovery_key(), recovery.to_text().as_bytes())
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
        let keys = store.read(store::keys::all).await?;
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

    /// Makes `cluster` the file in force: begins an incarnation (CA set, tokens, node
    /// passwords) when none is live, else updates the live one. Idempotent.
    pub async fn apply(&self, cluster: &ClusterFile) -> Result<Incarnation> {
        Ok(self.apply_as(cluster.clone(), Actor::local()).await?.0)
    }

    async fn apply_as(&self, plan: ClusterFile, actor: Actor) -> Result<(Incarnation, Vec<String>)> {
        let now = Timestamp::now();
        let fresh = ClusterSecrets::generate(now)?;
        self.change(move |tx| transition::operator::apply(tx, &plan, &fresh, &actor, now)).await
    }

    /// What [`Coordinator::apply`] would do: to which incarnation, and what
    /// changes, in words.
    pub async fn preview(&self, plan: ClusterFile) -> Result<(Incarnation, Vec<String>)> {
        self.inner.store.read(move |tx| transition::operator::preview(tx, &plan)).await
    }

    /// Registers a ticket's public key. Idempotent. The node must be in the
    /// cluster file in force, with the same role; while a machine that is a server
    /// or has an address of its own still speaks, none is begun in its place.
    pub async fn mint(&self, ticket: TicketKey, record: TicketRecord) -> Result<()> {
        self.mint_as(ticket, record, Actor::local()).await
    }

    async fn mint_as(&self, ticket: TicketKey, record: TicketRecord, actor: Actor) -> Result<()> {
        let (now, contacts, presence) =
            (Timestamp::now(), self.inner.contacts.clone(), self.inner.news.presence());
        self.change(move |tx| {
            let speaks = |seat: i64| match presence.get(&seat) {
                Some(seen) if seen.connected => Some(0),
                _ => locked(&contacts).spoke(seat, now),
            };
            transition::operator::mint(tx, &ticket, record, &speaks, &actor, now)
        })
        .await
    }

    /// The generation to mint a node's next ticket for: one more than the
    /// newest there ever was, across incarnations.
    pub async fn next_generation(&self, node: &NodeName) -> Result<u32> {
        let node = node.clone();
        Ok(self.inner.store.read(move |tx| store::seats::newest_generation(tx, &node)).await? + 1)
    }

    /// What an operator sees.
    pub async fn status(&self) -> Result<ClusterStatus> {
        let (pin, strangers, now) = (self.pin(), self.strangers().list(), Timestamp::now());
        let presence = self.inner.news.presence();
        self.inner.store.read(move |tx| transition::status::status(tx, pin, strangers, &presence, now)).await
    }

    /// What metrics say of the state.
    async fn look(&self) -> Result<Look> {
        let news = &self.inner.news;
        let connected = news.presence().values().filter(|seen| seen.connected).count();
        let (strangers, held_open) = (self.strangers().list().len(), news.held_open());
        let look = self.inner.store.read(transition::status::look).await?;
        Ok(Look { connected, strangers, held_open, ..look })
    }

    /// The audit trail after line `after` (0 for all of it), at most `limit` lines.
    pub async fn events(&self, after: u64, limit: usize) -> Result<Vec<admin::Event>> {
        self.inner.store.read(move |tx| events::list(tx, after, limit)).await
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

    /// A kubeconfig for an administrator, signed with the live incarnation's
    /// client CA; no node is contacted. `server_url` is `https://HOST:PORT`.
    pub async fn kubeconfig(&self, server_url: &str, lifetime: Duration) -> Result<Secret> {
        let server = server_url.parse()?;
        self.kubeconfig_as(Some(server), KubeUser::admin(), lifetime.as_secs(), Actor::local()).await
    }

    async fn kubeconfig_as(
        &self,
        server: Option<ServerUrl>,
        user: KubeUser,
        lifetime: u64,
        actor: Actor,
    ) -> Result<Secret> {
        let now = Timestamp::now();
        let store = &self.inner.store;
        store
            .write(move |tx| {
                transition::operator::kubeconfig(tx, server.as_ref(), &user, lifetime, &actor, now)
            })
            .await
    }

    /// Trusts a held node's key again. Idempotent.
    pub async fn release(&self, node: &NodeName) -> Result<()> {
        self.release_as(node.clone(), Actor::local()).await
    }

    async fn release_as(&self, node: NodeName, actor: Actor) -> Result<()> {
        self.change(move |tx| transition::operator::release(tx, &node, &actor, Timestamp::now())).await
    }

    /// Takes every right of a node away, of all its generations. Idempotent.
    pub async fn revoke(&self, node: &NodeName) -> Result<()> {
        self.revoke_as(node.clone(), Actor::local()).await
    }

    async fn revoke_as(&self, node: NodeName, actor: Actor) -> Result<()> {
        self.change(move |tx| transition::operator::revoke(tx, &node, &actor, Timestamp::now())).await
    }

    /// Says which key the serial console of a node's machine shows: of this
    /// generation, or of the newest that is not over. If another key has
    /// enrolled, the node is held and an alarm is raised. Idempotent.
    pub async fn confirm(&self, node: &NodeName, generation: Option<u32>, shown: Fingerprint) -> Result<()> {
        self.confirm_as(node.clone(), generation, shown, Actor::local()).await
    }

    async fn confirm_as(
        &self,
        node: NodeName,
        generation: Option<u32>,
        shown: Fingerprint,
        actor: Actor,
    ) -> Result<()> {
        let now = Timestamp::now();
        self.change(move |tx| transition::vouch::confirm(tx, &node, generation, shown, &actor, now)).await
    }

    /// Takes the machine whose console shows this key for a node, without a
    /// ticket. Idempotent.
    pub async fn approve(&self, node: &NodeName, typed: TypedFingerprint) -> Result<ApproveAnswer> {
        self.approve_as(node.clone(), typed, Actor::local()).await
    }

    async fn approve_as(
        &self,
        node: NodeName,
        typed: TypedFingerprint,
        actor: Actor,
    ) -> Result<ApproveAnswer> {
        let key = match (typed.whole(), &self.strangers().waiting(&typed)[..]) {
            (Some(key), _) | (None, &[key]) => key,
            (None, waiting) => return Err(not_one(waiting.len()).into()),
        };
        // The seed is gone when this returns: nobody can use this ticket.
        let nobody = TicketSeed::generate().public_key();
        let now = Timestamp::now();
        let approved =
            self.change(move |tx| transition::vouch::approve(tx, &node, key, &nobody, &actor, now)).await?;
        self.strangers().forget(&key);
        self.inner.news.tell_strangers();
        Ok(approved)
    }

    /// Gives a node's newest unused ticket more time, from now; returns its new end.
    pub async fn extend(&self, node: &NodeName, time: Duration) -> Result<Timestamp> {
        let seconds = u32::try_from(time.as_secs()).context("a ticket's time ends after 136 years")?;
        self.extend_as(node.clone(), seconds, Actor::local()).await
    }

    async fn extend_as(&self, node: NodeName, seconds: u32, actor: Actor) -> Result<Timestamp> {
        let now = Timestamp::now();
        self.change(move |tx| transition::operator::extend(tx, &node, seconds, &actor, now)).await
    }

    /// Gives up the datastore of the server that started it, because its
    /// machine is lost: what takes its place begins with the copy of a SQLite
    /// datastore in `restore`, a file that stays where it is until then, or
    /// with nothing. Idempotent.
    pub async fn replace(&self, node: &NodeName, restore: Option<&Path>) -> Result<()> {
        self.replace_as(node.clone(), restore.map(Path::to_owned), Actor::local()).await
    }

    /// As [`Coordinator::replace`], by somebody who knows that the machine is gone,
    /// since it was theirs to make: whether it was heard a moment ago is not asked.
    pub async fn replace_lost(&self, node: &NodeName, restore: Option<&Path>) -> Result<()> {
        let silent = Contacts::new(Timestamp::now(), Duration::ZERO, Duration::ZERO);
        let silent = Arc::new(Mutex::new(silent));
        self.replace_when(node.clone(), restore.map(Path::to_owned), Actor::local(), silent).await
    }

    async fn replace_as(&self, node: NodeName, restore: Option<PathBuf>, actor: Actor) -> Result<()> {
        self.replace_when(node, restore, actor, self.inner.contacts.clone()).await
    }

    async fn replace_when(
        &self,
        node: NodeName,
        restore: Option<PathBuf>,
        actor: Actor,
        contacts: Arc<Mutex<Contacts>>,
    ) -> Result<()> {
        let restore = match restore {
            Some(path) => Some(tokio::task::spawn_blocking(move || snapshot::examine(path)).await??),
            None => None,
        };
        let now = Timestamp::now();
        self.change(move |tx| {
            transition::operator::replace(tx, &node, restore.as_ref(), &actor, &locked(&contacts), now)
        })
        .await
    }

    /// Takes the operator's word that etcd has no member of a server that is
    /// replaced, revoked or did not become ready. Idempotent.
    pub async fn member_gone(&self, node: &NodeName) -> Result<()> {
        self.member_gone_as(node.clone(), Actor::local()).await
    }

    async fn member_gone_as(&self, node: NodeName, actor: Actor) -> Result<()> {
        self.change(move |tx| transition::operator::member_gone(tx, &node, &actor, Timestamp::now())).await
    }

    /// Ends the live incarnation: its nodes' keys lose every right, its leases and
    /// tokens are over. Idempotent.
    pub async fn end(&self) -> Result<()> {
        self.end_as(Actor::local()).await
    }

    async fn end_as(&self, actor: Actor) -> Result<()> {
        self.change(move |tx| transition::operator::end(tx, &actor, Timestamp::now())).await
    }

    /// Every admin's key there ever was, oldest first.
    pub async fn admins(&self) -> Result<Vec<AdminStatus>> {
        self.inner.store.read(store::admins::list).await
    }

    /// Gives a key the rights of an admin, who may then ask from elsewhere.
    /// Idempotent.
    pub async fn add_admin(&self, name: &AdminName, key: Fingerprint) -> Result<()> {
        self.add_admin_as(name.clone(), key, Actor::local()).await
    }

    async fn add_admin_as(&self, name: AdminName, key: Fingerprint, actor: Actor) -> Result<()> {
        self.change(move |tx| transition::admins::add(tx, &name, key, &actor, Timestamp::now())).await
    }

    /// From the next request on; questions that are held open end at once.
    async fn remove_admin_as(&self, name: AdminName, actor: Actor) -> Result<()> {
        self.change(move |tx| transition::admins::remove(tx, &name, &actor, Timestamp::now())).await
    }

    /// Wants a node's key replaced at its next contact. Idempotent.
    pub async fn rotate(&self, node: &NodeName) -> Result<()> {
        self.rotate_as(node.clone(), Actor::local()).await
    }

    async fn rotate_as(&self, node: NodeName, actor: Actor) -> Result<()> {
        self.change(move |tx| transition::rotate::ask(tx, &node, &actor, Timestamp::now())).await
    }

    /// Gives the live cluster another server token, and every agent another join
    /// token. A ready server's agent gives the new one to its k3s; until then the
    /// present one counts. Idempotent while it is under way.
    pub async fn rotate_tokens(&self) -> Result<()> {
        self.rotate_tokens_as(Actor::local()).await
    }

    async fn rotate_tokens_as(&self, actor: Actor) -> Result<()> {
        self.change(move |tx| transition::tokens::ask(tx, &actor, Timestamp::now())).await
    }

    /// Decides for this state although nodes have seen a later one, or were
    /// about to: begins an epoch later than any, and voids unused tickets.
    pub async fn raise_epoch(&self) -> Result<Reach> {
        self.raise_epoch_as(Actor::local()).await
    }

    async fn raise_epoch_as(&self, actor: Actor) -> Result<Reach> {
        let why = "an operator decided for this state";
        let raise = move |tx: &Transaction<'_>| transition::epoch::raise(tx, why, &actor, Timestamp::now());
        Ok(self.change(raise).await?.reach)
    }

    /// Whether the state is known to be an old copy.
    async fn is_stale(&self) -> Result<bool> {
        self.inner.store.read(|tx| Ok(store::epoch::newer(tx)?.is_some())).await
    }

    /// Whether a key is no stranger's.
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
    /// what happens all the time and is no news to anybody. `then` is told what
    /// came of it, in the order in which it was made durable.
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
        let acquainted = Arc::clone(&self.inner.acquainted);
        let done = move |(result, _, keys): &(T, _, Vec<Fingerprint>)| {
            acquainted.add(keys);
            then(result);
        };
        let (result, concerned, _) = self.inner.store.write_then(transition, done).await?;
        if let Some(concerned) = concerned {
            self.changed();
            self.inner.news.tell(&concerned);
        }
        Ok(result)
    }

    fn changed(&self) {
        self.inner.changes.send_modify(|count| *count += 1);
    }

    fn strangers(&self) -> MutexGuard<'_, Strangers> {
        locked(&self.inner.strangers)
    }

    fn contacts(&self) -> MutexGuard<'_, Contacts> {
        locked(&self.inner.contacts)
    }
}

/// Part of a fingerprint does not name one of the machines that wait.
fn not_one(waiting: usize) -> ApiError {
    if waiting == 0 {
        return ApiError::new(ErrorClass::Policy, "no machine that waits has a key that begins so").hint(
            "type all 64 digits, or wait until the machine has asked again: coordinator status shows it",
        );
    }
    let message = format!("{waiting} machines that wait have keys that begin so");
    ApiError::new(ErrorClass::Policy, message).hint("type all 64 digits")
}

/// Nothing panics between two changes that belong together.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
