//! The live incarnation as it was read last. Most requests ask for it: its
//! cluster file may have megabytes, and its secrets are sealed.
//!
//! It is remembered from what is committed only. A change that writes the table
//! of incarnations says so ([`Recent::changed`]); until its group ends nothing
//! is remembered, whether it is then committed or undone. What is remembered
//! stays in this process, as the unlock key does.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use anyhow::Result;

use super::incarnations::Live;
use crate::k3s::ClusterSecrets;

/// What an engine remembers between two jobs.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    live: RefCell<Option<Live>>,
    secrets: RefCell<Option<Arc<ClusterSecrets>>>,
    changed: Cell<bool>,
}

impl Recent {
    /// The live incarnation, if there is one; `load` reads it where it is not
    /// remembered.
    pub(super) fn live(&self, load: impl FnOnce() -> Result<Option<Live>>) -> Result<Option<Live>> {
        if self.changed.get() {
            return load();
        }
        if let Some(live) = &*self.live.borrow() {
            return Ok(Some(live.clone()));
        }
        let live = load()?;
        self.live.replace(live.clone());
        Ok(live)
    }

    /// The secrets of the live incarnation, if there is one.
    pub(super) fn secrets(
        &self,
        load: impl FnOnce() -> Result<Option<ClusterSecrets>>,
    ) -> Result<Option<Arc<ClusterSecrets>>> {
        if self.changed.get() {
            return Ok(load()?.map(Arc::new));
        }
        if let Some(secrets) = &*self.secrets.borrow() {
            return Ok(Some(Arc::clone(secrets)));
        }
        let secrets = load()?.map(Arc::new);
        self.secrets.replace(secrets.clone());
        Ok(secrets)
    }

    /// A change of the table of incarnations was written, and may be undone.
    pub(super) fn changed(&self) {
        self.changed.set(true);
        self.live.take();
        self.secrets.take();
    }

    /// A group has ended, in whichever way.
    pub(super) fn settled(&self) {
        self.changed.set(false);
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use crate::k3s::ClusterSecrets;
    use crate::plan::fixtures::three_servers;
    use crate::registry::fixtures::NOW;
    use crate::store::{Store, Transaction, incarnations, test_store};

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
