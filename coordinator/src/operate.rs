//! What an operator decides and asks, in this process: the same for the socket,
//! the admin API and the tests. Each decision is one transition, and names who
//! made it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kiln_protocol::admin::{self, AdminStatus, ApproveAnswer, ClusterStatus, ConfirmAnswer, TicketRecord};
use kiln_protocol::config::Incarnation;
use kiln_protocol::identity::TypedFingerprint;
use kiln_protocol::names::AdminName;
use kiln_protocol::ratchet::Reach;
use kiln_protocol::ticket::TicketSeed;
use kiln_protocol::{ApiError, ClusterName, ErrorClass, Fingerprint, NodeName, Secret, TicketKey};

use crate::contacts::Contacts;
use crate::k3s::{ClusterSecrets, KubeUser, ServerUrl};
use crate::plan::ClusterFile;
use crate::store::Transaction;
use crate::store::events::{self, Actor};
use crate::transition::status::Look;
use crate::{Coordinator, locked, snapshot, store, transition};

/// By whose authority something is decided or shown. An admin elsewhere has it by a
/// key, and may lose it while a request's body is still on its way: so it is asked for
/// in the transaction that does what was decided.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    actor: Actor,
    /// None for whoever is on the coordinator's own host: this process or the kernel
    /// vouches for them.
    key: Option<Fingerprint>,
}

impl From<Actor> for Authority {
    fn from(actor: Actor) -> Self {
        Self { actor, key: None }
    }
}

impl Authority {
    /// Of an admin, as long as this key is one's.
    pub(crate) fn of_key(actor: Actor, key: Fingerprint) -> Self {
        Self { actor, key: Some(key) }
    }

    /// Who it is, if they have it still.
    fn within(&self, tx: &Transaction<'_>) -> Result<&Actor> {
        if let Some(key) = &self.key {
            transition::admins::check(store::keys::owner(tx, key)?.as_ref())?;
        }
        Ok(&self.actor)
    }
}

impl Coordinator {
    /// Runs what was decided.
    async fn administer<T: Send + 'static>(
        &self,
        by: Authority,
        decision: impl FnOnce(&Transaction<'_>, &Actor) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.change(move |tx| decision(tx, by.within(tx)?)).await
    }

    /// Looks at what is shown to admins only.
    async fn show<T: Send + 'static>(
        &self,
        by: Authority,
        look: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let look = move |tx: &Transaction<'_>| {
            by.within(tx)?;
            look(tx)
        };
        self.inner.store.read(look).await
    }

    /// Makes `cluster` the file in force: begins an incarnation (CA set, tokens, node
    /// passwords) when none is live, else updates the live one. Idempotent.
    pub async fn apply(&self, cluster: &ClusterFile) -> Result<Incarnation> {
        Ok(self.apply_as(cluster.clone(), Actor::local().into()).await?.0)
    }

    pub(crate) async fn apply_as(
        &self,
        plan: ClusterFile,
        by: Authority,
    ) -> Result<(Incarnation, Vec<String>)> {
        let now = Timestamp::now();
        let fresh = ClusterSecrets::generate(now)?;
        self.administer(by, move |tx, actor| transition::operator::apply(tx, &plan, &fresh, actor, now)).await
    }

    /// What [`Coordinator::apply`] would do: to which incarnation, and what
    /// changes, in words.
    pub async fn preview(&self, plan: ClusterFile) -> Result<(Incarnation, Vec<String>)> {
        self.preview_as(plan, Actor::local().into()).await
    }

    pub(crate) async fn preview_as(
        &self,
        plan: ClusterFile,
        by: Authority,
    ) -> Result<(Incarnation, Vec<String>)> {
        self.show(by, move |tx| transition::operator::preview(tx, &plan)).await
    }

    /// Registers a ticket's public key. Idempotent. The node must be in the
    /// cluster file in force, with the same role; while a machine that is a server
    /// or has an address of its own still speaks, none is begun in its place.
    pub async fn mint(&self, ticket: TicketKey, record: TicketRecord) -> Result<()> {
        self.mint_as(ticket, record, Actor::local().into()).await
    }

    pub(crate) async fn mint_as(&self, ticket: TicketKey, record: TicketRecord, by: Authority) -> Result<()> {
        let (now, contacts, presence) =
            (Timestamp::now(), self.inner.contacts.clone(), self.inner.news.presence());
        self.administer(by, move |tx, actor| {
            let speaks = |seat: i64| match presence.get(&seat) {
                Some(seen) if seen.connected => Some(0),
                _ => locked(&contacts).spoke(seat, now),
            };
            transition::operator::mint(tx, &ticket, record, &speaks, actor, now)
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
        self.status_as(Actor::local().into()).await
    }

    pub(crate) async fn status_as(&self, by: Authority) -> Result<ClusterStatus> {
        let (pin, strangers, now) = (self.pin(), self.strangers().list(), Timestamp::now());
        let presence = self.inner.news.presence();
        self.show(by, move |tx| transition::status::status(tx, pin, strangers, &presence, now)).await
    }

    /// What metrics say of the state.
    pub(crate) async fn look(&self) -> Result<Look> {
        let news = &self.inner.news;
        let connected = news.presence().values().filter(|seen| seen.connected).count();
        let (strangers, held_open) = (self.strangers().list().len(), news.held_open());
        let look = self.inner.store.read(transition::status::look).await?;
        Ok(Look { connected, strangers, held_open, ..look })
    }

    /// The audit trail after line `after` (0 for all of it), at most `limit` lines.
    /// An error if it has not come so far.
    pub async fn events(&self, after: u64, limit: usize) -> Result<Vec<admin::Event>> {
        self.events_as(after, limit, Actor::local().into()).await
    }

    pub(crate) async fn events_as(
        &self,
        after: u64,
        limit: usize,
        by: Authority,
    ) -> Result<Vec<admin::Event>> {
        self.show(by, move |tx| events::list_after(tx, after, limit)).await
    }

    /// A kubeconfig for an administrator, signed with the live incarnation's
    /// client CA; no node is contacted. `server_url` is `https://HOST:PORT`.
    pub async fn kubeconfig(&self, server_url: &str, lifetime: Duration) -> Result<Secret> {
        let server = server_url.parse()?;
        self.kubeconfig_as(Some(server), KubeUser::admin(), lifetime.as_secs(), Actor::local().into()).await
    }

    pub(crate) async fn kubeconfig_as(
        &self,
        server: Option<ServerUrl>,
        user: KubeUser,
        lifetime: u64,
        by: Authority,
    ) -> Result<Secret> {
        let now = Timestamp::now();
        let store = &self.inner.store;
        store
            .write(move |tx| {
                let actor = by.within(tx)?;
                transition::operator::kubeconfig(tx, server.as_ref(), &user, lifetime, actor, now)
            })
            .await
    }

    /// Trusts a held node's key again. Idempotent.
    pub async fn release(&self, node: &NodeName) -> Result<()> {
        self.release_as(node.clone(), Actor::local().into()).await
    }

    pub(crate) async fn release_as(&self, node: NodeName, by: Authority) -> Result<()> {
        self.administer(by, move |tx, actor| {
            transition::operator::release(tx, &node, actor, Timestamp::now())
        })
        .await
    }

    /// Takes every right of a node away, of all its generations. Idempotent.
    pub async fn revoke(&self, node: &NodeName) -> Result<()> {
        self.revoke_as(node.clone(), Actor::local().into()).await
    }

    pub(crate) async fn revoke_as(&self, node: NodeName, by: Authority) -> Result<()> {
        self.administer(by, move |tx, actor| transition::operator::revoke(tx, &node, actor, Timestamp::now()))
            .await
    }

    /// Says which key the serial console of a node's machine shows: of this
    /// generation, or of the newest that is not over. If another key has
    /// enrolled, the node is held and an alarm is raised. Idempotent.
    pub async fn confirm(
        &self,
        node: &NodeName,
        generation: Option<u32>,
        shown: Fingerprint,
    ) -> Result<ConfirmAnswer> {
        self.confirm_as(node.clone(), generation, shown, Actor::local().into()).await
    }

    pub(crate) async fn confirm_as(
        &self,
        node: NodeName,
        generation: Option<u32>,
        shown: Fingerprint,
        by: Authority,
    ) -> Result<ConfirmAnswer> {
        let now = Timestamp::now();
        self.administer(by, move |tx, actor| {
            transition::vouch::confirm(tx, &node, generation, shown, actor, now)
        })
        .await
    }

    /// Takes the machine whose console shows this key for a node, without a
    /// ticket. Idempotent.
    pub async fn approve(&self, node: &NodeName, typed: TypedFingerprint) -> Result<ApproveAnswer> {
        self.approve_as(node.clone(), typed, Actor::local().into()).await
    }

    pub(crate) async fn approve_as(
        &self,
        node: NodeName,
        typed: TypedFingerprint,
        by: Authority,
    ) -> Result<ApproveAnswer> {
        let key = match (typed.whole(), &self.strangers().waiting(&typed)[..]) {
            (Some(key), _) | (None, &[key]) => key,
            (None, waiting) => return Err(not_one(waiting.len()).into()),
        };
        // The seed is gone when this returns: nobody can use this ticket.
        let nobody = TicketSeed::generate().public_key();
        let now = Timestamp::now();
        let approved = self
            .administer(by, move |tx, actor| transition::vouch::approve(tx, &node, key, &nobody, actor, now))
            .await?;
        self.strangers().forget(&key);
        self.inner.news.tell_strangers();
        Ok(approved)
    }

    /// Gives a node's newest unused ticket more time, from now; returns its new end.
    pub async fn extend(&self, node: &NodeName, time: Duration) -> Result<Timestamp> {
        let seconds = u32::try_from(time.as_secs()).context("a ticket's time ends after 136 years")?;
        self.extend_as(node.clone(), seconds, Actor::local().into()).await
    }

    pub(crate) async fn extend_as(&self, node: NodeName, seconds: u32, by: Authority) -> Result<Timestamp> {
        let now = Timestamp::now();
        self.administer(by, move |tx, actor| transition::operator::extend(tx, &node, seconds, actor, now))
            .await
    }

    /// Gives up the datastore of the server that started it, because its
    /// machine is lost: what takes its place begins with the copy of a SQLite
    /// datastore in `restore`, a file that stays where it is until then, or
    /// with nothing. Idempotent.
    pub async fn replace(&self, node: &NodeName, restore: Option<&Path>) -> Result<()> {
        self.replace_as(node.clone(), restore.map(Path::to_owned), Actor::local().into()).await
    }

    /// As [`Coordinator::replace`], by somebody who knows that the machine is gone,
    /// since it was theirs to make: whether it was heard a moment ago is not asked.
    pub async fn replace_lost(&self, node: &NodeName, restore: Option<&Path>) -> Result<()> {
        let silent = Contacts::new(Timestamp::now(), Duration::ZERO, Duration::ZERO);
        let silent = Arc::new(Mutex::new(silent));
        self.replace_when(node.clone(), restore.map(Path::to_owned), Actor::local().into(), silent).await
    }

    pub(crate) async fn replace_as(
        &self,
        node: NodeName,
        restore: Option<PathBuf>,
        by: Authority,
    ) -> Result<()> {
        self.replace_when(node, restore, by, self.inner.contacts.clone()).await
    }

    pub(crate) async fn replace_when(
        &self,
        node: NodeName,
        restore: Option<PathBuf>,
        by: Authority,
        contacts: Arc<Mutex<Contacts>>,
    ) -> Result<()> {
        let restore = match restore {
            Some(path) => Some(tokio::task::spawn_blocking(move || snapshot::examine(path)).await?),
            None => None,
        };
        let now = Timestamp::now();
        self.administer(by, move |tx, actor| {
            // Whoever may not replace anything is not told what is at a path either.
            let restore = restore.transpose()?;
            transition::operator::replace(tx, &node, restore.as_ref(), actor, &locked(&contacts), now)
        })
        .await
    }

    /// Takes the operator's word that the machine of a node that is replaced, revoked or
    /// did not become ready is gone, and that etcd has no member of it if it is a
    /// server. Idempotent. That a machine is gone although somebody speaks with its key
    /// is known until this process ends.
    pub async fn member_gone(&self, node: &NodeName) -> Result<()> {
        self.member_gone_as(node.clone(), Actor::local().into()).await
    }

    pub(crate) async fn member_gone_as(&self, node: NodeName, by: Authority) -> Result<()> {
        let (now, contacts) = (Timestamp::now(), self.inner.contacts.clone());
        let known_to = self.inner.contacts.clone();
        let word = move |tx: &Transaction<'_>| {
            transition::operator::member_gone(tx, &node, by.within(tx)?, &locked(&contacts), now)
        };
        // What is in the trail is in force, also if nobody waits for the answer any more.
        self.change_and_tell(false, word, move |gone| locked(&known_to).bury(gone)).await.map(drop)
    }

    /// Ends the live incarnation of the cluster of this name: its nodes' keys lose
    /// every right, its leases and tokens are over. Refused if another cluster is
    /// live. Idempotent; returns which one ended, none if nothing was live.
    pub async fn end(&self, cluster: &ClusterName) -> Result<Option<Incarnation>> {
        self.end_as(cluster.clone(), Actor::local().into()).await
    }

    pub(crate) async fn end_as(&self, cluster: ClusterName, by: Authority) -> Result<Option<Incarnation>> {
        self.administer(by, move |tx, actor| transition::operator::end(tx, &cluster, actor, Timestamp::now()))
            .await
    }

    /// Every admin's key there ever was, oldest first.
    pub async fn admins(&self) -> Result<Vec<AdminStatus>> {
        self.admins_as(Actor::local().into()).await
    }

    pub(crate) async fn admins_as(&self, by: Authority) -> Result<Vec<AdminStatus>> {
        self.show(by, store::admins::list).await
    }

    /// Gives a key the rights of an admin, who may then ask from elsewhere.
    /// Idempotent.
    pub async fn add_admin(&self, name: &AdminName, key: Fingerprint) -> Result<()> {
        self.add_admin_as(name.clone(), key, Actor::local().into()).await
    }

    pub(crate) async fn add_admin_as(&self, name: AdminName, key: Fingerprint, by: Authority) -> Result<()> {
        self.administer(by, move |tx, actor| transition::admins::add(tx, &name, key, actor, Timestamp::now()))
            .await
    }

    /// From the next request on; questions that are held open end at once.
    pub(crate) async fn remove_admin_as(&self, name: AdminName, by: Authority) -> Result<()> {
        self.administer(by, move |tx, actor| transition::admins::remove(tx, &name, actor, Timestamp::now()))
            .await
    }

    /// Wants a node's key replaced at its next contact. Idempotent.
    pub async fn rotate(&self, node: &NodeName) -> Result<()> {
        self.rotate_as(node.clone(), Actor::local().into()).await
    }

    pub(crate) async fn rotate_as(&self, node: NodeName, by: Authority) -> Result<()> {
        self.administer(by, move |tx, actor| transition::rotate::ask(tx, &node, actor, Timestamp::now()))
            .await
    }

    /// Gives the live cluster another server token, and every agent another join
    /// token. A ready server's agent gives the new one to its k3s; until then the
    /// present one counts. Idempotent while it is under way.
    pub async fn rotate_tokens(&self) -> Result<()> {
        self.rotate_tokens_as(Actor::local().into()).await
    }

    pub(crate) async fn rotate_tokens_as(&self, by: Authority) -> Result<()> {
        self.administer(by, move |tx, actor| transition::tokens::ask(tx, actor, Timestamp::now())).await
    }

    /// Decides for this state although nodes have seen a later one, or were
    /// about to: begins an epoch later than any, and voids unused tickets.
    pub async fn raise_epoch(&self) -> Result<Reach> {
        self.raise_epoch_as(Actor::local().into()).await
    }

    pub(crate) async fn raise_epoch_as(&self, by: Authority) -> Result<Reach> {
        let why = "an operator decided for this state";
        let raise =
            |tx: &Transaction<'_>, actor: &Actor| transition::epoch::raise(tx, why, actor, Timestamp::now());
        Ok(self.administer(by, raise).await?.reach)
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
