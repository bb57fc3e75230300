//! What most requests ask for, as it was read last: the live incarnation, whose
//! cluster file may have megabytes and whose secrets are sealed, who is in its
//! cluster, and how far the state is.
//!
//! It is remembered from what is committed only. A change that writes the table
//! of incarnations or that of seats says so ([`Recent::changed`],
//! [`Recent::seats_changed`]); until its group ends nothing of it is remembered,
//! whether it is then committed or undone. How far the state is grows with each
//! node that opens a connection, and so is written once a group, before that is
//! committed ([`Progress`]). What is remembered stays in this process, as the
//! unlock key does.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use anyhow::Result;
use kiln_protocol::config::Incarnation;

use super::epoch::Progress;
use super::incarnations::Live;
use super::seats::Seated;
use crate::k3s::ClusterSecrets;

/// Something of the tables, as it was read last. While a group changes that,
/// nothing is remembered.
#[derive(Debug)]
struct Memo<T> {
    value: RefCell<Option<T>>,
    changed: Cell<bool>,
}

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Self { value: RefCell::default(), changed: Cell::default() }
    }
}

impl<T: Clone> Memo<T> {
    /// What there is, if there is something; `load` reads it where it is not
    /// remembered.
    fn get(&self, load: impl FnOnce() -> Result<Option<T>>) -> Result<Option<T>> {
        if self.changed.get() {
            return load();
        }
        if let Some(value) = &*self.value.borrow() {
            return Ok(Some(value.clone()));
        }
        let value = load()?;
        self.value.replace(value.clone());
        Ok(value)
    }

    fn changed(&self) {
        self.changed.set(true);
        self.value.take();
    }
}

/// What an engine remembers between two jobs.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    live: Memo<Live>,
    secrets: Memo<Arc<ClusterSecrets>>,
    seated: Memo<(Incarnation, Arc<Seated>)>,
    pub(super) progress: Cell<Option<Progress>>,
}

impl Recent {
    /// The live incarnation, if there is one; `load` reads it where it is not
    /// remembered.
    pub(super) fn live(&self, load: impl FnOnce() -> Result<Option<Live>>) -> Result<Option<Live>> {
        self.live.get(load)
    }

    /// The secrets of the live incarnation, if there is one.
    pub(super) fn secrets(
        &self,
        load: impl FnOnce() -> Result<Option<ClusterSecrets>>,
    ) -> Result<Option<Arc<ClusterSecrets>>> {
        self.secrets.get(|| Ok(load()?.map(Arc::new)))
    }

    /// Who is in an incarnation's cluster.
    pub(super) fn seated(&self, of: Incarnation, load: impl Fn() -> Result<Seated>) -> Result<Arc<Seated>> {
        let found = self.seated.get(|| Ok(Some((of, Arc::new(load()?)))))?;
        let Some((_, seated)) = found.filter(|(incarnation, _)| *incarnation == of) else {
            return load().map(Arc::new);
        };
        // Whoever writes seats and does not say so is found out by any test.
        debug_assert_eq!(load().ok().as_ref(), Some(&*seated));
        Ok(seated)
    }

    /// A change of the table of incarnations was written, and may be undone: another
    /// may be the live one.
    pub(super) fn changed(&self) {
        self.live.changed();
        self.secrets.changed();
        self.seats_changed();
    }

    /// A change of the table of seats was written, and may be undone.
    pub(super) fn seats_changed(&self) {
        self.seated.changed();
    }

    /// A group was committed.
    pub(super) fn committed(&self) {
        self.settled();
        self.progress.set(self.progress.take().map(Progress::written));
    }

    /// A group was undone, and what it had come to is void.
    pub(super) fn undone(&self) {
        self.settled();
        self.progress.set(None);
    }

    /// A group has ended, in whichever way.
    fn settled(&self) {
        self.live.changed.set(false);
        self.secrets.changed.set(false);
        self.seated.changed.set(false);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use anyhow::anyhow;
    use kiln_protocol::config::Incarnation;

    use crate::k3s::ClusterSecrets;
    use crate::plan::fixtures::three_servers;
    use crate::registry::fixtures::NOW;
    use crate::store::conformance_tests::{seat, ticket};
    use crate::store::seats::{Moment, Seated};
    use crate::store::{Store, Transaction, incarnations, seats, test_store};

    fn lease(tx: &Transaction<'_>) -> anyhow::Result<Option<u32>> {
        Ok(incarnations::live(tx)?.and_then(|live| live.lease.generation))
    }

    async fn begin(store: &Store) {
        let secrets = ClusterSecrets::generate(NOW).unwrap();
        store.write(move |tx| incarnations::begin(tx, &three_servers(), &secrets, NOW)).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_undone_is_not_remembered_and_what_was_committed_is_seen() {
        let (_dir, store) = test_store();
        assert!(store.read(|tx| Ok(incarnations::live(tx)?.is_none())).await.unwrap());
        begin(&store).await;
        assert_eq!(store.read(lease).await.unwrap(), None);
        let undone = store.write(|tx| {
            incarnations::set_lease(tx, Some(7))?;
            assert_eq!(lease(tx)?, Some(7), "a change sees itself");
            Err::<(), _>(anyhow!("no"))
        });
        assert!(undone.await.is_err());
        assert_eq!(store.read(lease).await.unwrap(), None);
        store.write(|tx| incarnations::set_lease(tx, Some(8))).await.unwrap();
        assert_eq!(store.read(lease).await.unwrap(), Some(8));
        assert_eq!(store.write(lease).await.unwrap(), Some(8));
    }

    #[tokio::test]
    async fn who_is_in_the_cluster_is_remembered_until_seats_are_written() {
        let (_dir, store) = test_store();
        begin(&store).await;
        let agents_passed = |tx: &Transaction<'_>| Ok(seats::seated(tx, Incarnation(1))?.agents_passed);
        let (first, again) = (seated(&store).await, seated(&store).await);
        assert!(Arc::ptr_eq(&first, &again), "read anew though nothing has changed");
        let undone = store.write(move |tx| {
            let seat = an_agent(tx)?;
            seats::note_moment(tx, seat, Moment::Passed, NOW)?;
            assert!(agents_passed(tx)?, "a change sees itself");
            Err::<(), _>(anyhow!("no"))
        });
        assert!(undone.await.is_err());
        assert!(!seated(&store).await.agents_passed);
        let seat = store.write(an_agent).await.unwrap();
        store.write(move |tx| seats::note_moment(tx, seat, Moment::Passed, NOW)).await.unwrap();
        assert!(seated(&store).await.agents_passed);
        assert!(store.write(agents_passed).await.unwrap());
    }

    async fn seated(store: &Store) -> Arc<Seated> {
        store.read(|tx| seats::seated(tx, Incarnation(1))).await.unwrap()
    }

    fn an_agent(tx: &Transaction<'_>) -> anyhow::Result<i64> {
        seat(tx, &ticket(), 1)
    }

    #[tokio::test]
    async fn secrets_are_forgotten_with_their_incarnation() {
        let (_dir, store) = test_store();
        begin(&store).await;
        let first = store.read(incarnations::secrets).await.unwrap().unwrap();
        assert_eq!(store.read(incarnations::secrets).await.unwrap().as_ref(), Some(&first));
        store.write(|tx| incarnations::end(tx, NOW)).await.unwrap();
        assert!(store.read(incarnations::secrets).await.unwrap().is_none());
        begin(&store).await;
        assert_ne!(store.read(incarnations::secrets).await.unwrap().unwrap(), first);
    }
}
