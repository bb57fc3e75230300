//! A server's datastore: one JSON file, replaced whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::files;
use crate::registry::Registry;

/// Which datastore k3s would have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Datastore {
    Sqlite,
    Etcd,
}

/// The file's content.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    datastore: Datastore,
    /// Of the server token: bootstrap data is encrypted with it.
    token_key: String,
    /// Of this installation, in etcd's list of members.
    member_id: String,
    /// Whether this server is part of a cluster, its own or the one it joined.
    joined: bool,
    registry: Registry,
}

/// The datastore, open.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    content: Mutex<Content>,
}

impl Store {
    /// Opens the datastore in `directory`, if there is one.
    pub(crate) fn open(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join("state.json");
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let content =
            serde_json::from_slice(&text).with_context(|| format!("reading datastore {}", path.display()))?;
        Ok(Some(Self { path, content: Mutex::new(content) }))
    }

    /// Makes a new datastore in `directory`; one that joins others is not part
    /// of their cluster before `set_joined`.
    pub(crate) fn create(
        directory: &Path,
        datastore: Datastore,
        password: &str,
        joins: bool,
    ) -> Result<Self> {
        let content = Content {
            datastore,
            token_key: token_key(password),
            member_id: files::random_hex(4)?,
            joined: !joins,
            registry: Registry::default(),
        };
        let store = Self { path: directory.join("state.json"), content: Mutex::new(content) };
        store.save(&store.lock())?;
        Ok(store)
    }

    /// Refuses another token than the one the datastore was made with.
    pub(crate) fn check_token(&self, password: &str) -> Result<()> {
        if self.lock().token_key != token_key(password) {
            bail!("bootstrap data already found and encrypted with different token");
        }
        Ok(())
    }

    /// Puts what is under the token `old` under another one; what is under that one
    /// already stays. Refuses a datastore that is under neither (k3s
    /// `pkg/cluster/storage.go`, `RotateBootstrapToken` and `Save`).
    pub(crate) fn rotate_token(&self, old: &str, new: &str) -> Result<()> {
        let mut content = self.lock();
        if ![token_key(old), token_key(new)].contains(&content.token_key) {
            bail!("bootstrap data already found and encrypted with different token");
        }
        content.token_key = token_key(new);
        self.save(&content)
    }

    /// Applies what the configuration says of the datastore. `SQLite` can become
    /// etcd; etcd stays, whatever the configuration says; and a server with
    /// `SQLite` cannot join others.
    pub(crate) fn configure(&self, cluster_init: bool, joins: bool) -> Result<()> {
        let mut content = self.lock();
        if content.datastore == Datastore::Sqlite && joins {
            bail!(
                "{} holds the SQLite datastore of a cluster of its own: it cannot join another. Remove the data \
                 directory to join with nothing, or use cluster-init to turn it into embedded etcd",
                self.path.display()
            );
        }
        if content.datastore == Datastore::Sqlite && cluster_init {
            tracing::info!("Migrating content from sqlite to etcd");
            content.datastore = Datastore::Etcd;
            self.save(&content)?;
        }
        Ok(())
    }

    pub(crate) fn datastore(&self) -> Datastore {
        self.lock().datastore
    }

    pub(crate) fn member_id(&self) -> String {
        self.lock().member_id.clone()
    }

    pub(crate) fn joined(&self) -> bool {
        self.lock().joined
    }

    /// Notes that the others have taken this server in.
    pub(crate) fn set_joined(&self) -> Result<()> {
        let mut content = self.lock();
        content.joined = true;
        self.save(&content)
    }

    /// Forgets a datastore that never became part of a cluster.
    pub(crate) fn discard(&self) -> Result<()> {
        fs::remove_file(&self.path).with_context(|| format!("removing {}", self.path.display()))
    }

    /// Reads the registry as of now (milliseconds since 1970).
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Registry, u64) -> T) -> T {
        read(&self.lock().registry, now())
    }

    /// Changes the registry; it is on the disk when this returns.
    pub(crate) fn change<T, E>(
        &self,
        change: impl FnOnce(&mut Registry, u64) -> Result<T, E>,
    ) -> Result<Result<T, E>> {
        let mut content = self.lock();
        let result = change(&mut content.registry, now());
        if result.is_ok() {
            self.save(&content)?;
        }
        Ok(result)
    }

    /// Changes the registry in memory; the change says whether it has to reach
    /// the disk now.
    pub(crate) fn touch<E>(
        &self,
        change: impl FnOnce(&mut Registry, u64) -> Result<bool, E>,
    ) -> Result<Result<(), E>> {
        let mut content = self.lock();
        let result = change(&mut content.registry, now());
        if matches!(result, Ok(true)) {
            self.save(&content)?;
        }
        Ok(result.map(|_| ()))
    }

    /// Puts the datastore aside: this server is no longer part of its cluster.
    pub(crate) fn retire(&self) -> Result<()> {
        let _content = self.lock();
        let aside = self.path.with_extension("json.removed");
        fs::rename(&self.path, &aside).with_context(|| format!("moving {} aside", self.path.display()))
    }

    fn save(&self, content: &Content) -> Result<()> {
        files::write(&self.path, &serde_json::to_vec_pretty(content)?, 0o600)
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        // Nothing panics between two changes that belong together.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// k3s's `keyHash`: the key under which bootstrap data is stored.
fn token_key(password: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(password))[..12].to_owned()
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_survive_and_another_token_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(Store::open(directory.path()).expect("nothing there").is_none());
        let store = Store::create(directory.path(), Datastore::Sqlite, "pw", false).expect("a store");
        let node = json!({"metadata": {"name": "a"}});
        store
            .change(|registry, now| registry.create("a", node, "uid", now))
            .expect("saved")
            .expect("created");
        let again = Store::open(directory.path()).expect("opened").expect("a store");
        assert_eq!(again.read(Registry::nodes).len(), 1);
        again.check_token("pw").expect("the same token");
        let error = again.check_token("other").expect_err("another token");
        assert!(error.to_string().contains("encrypted with different token"));
    }

    #[test]
    fn another_token_takes_the_place_of_the_one_that_is_known() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::create(directory.path(), Datastore::Sqlite, "one", false).expect("a store");
        assert!(store.rotate_token("other", "two").is_err());
        store.rotate_token("one", "two").expect("rotated");
        store.rotate_token("two", "two").expect("it is there already");
        let again = Store::open(directory.path()).expect("opened").expect("a store");
        again.check_token("two").expect("the new token");
        assert!(again.check_token("one").is_err());
    }

    #[test]
    fn sqlite_may_become_etcd_and_nothing_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::create(directory.path(), Datastore::Sqlite, "pw", false).expect("a store");
        store.configure(false, false).expect("no change");
        assert!(store.configure(false, true).is_err());
        store.configure(true, false).expect("migrated");
        let again = Store::open(directory.path()).expect("opened").expect("a store");
        assert_eq!(again.datastore(), Datastore::Etcd);
        again.configure(false, false).expect("etcd stays");
        again.configure(false, true).expect("a member with a server to join");
        assert_eq!(again.datastore(), Datastore::Etcd);
    }

    #[test]
    fn a_broken_datastore_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("state.json"), "{").expect("a torn file");
        let error = Store::open(directory.path()).expect_err("torn");
        assert!(error.to_string().contains("state.json"));
    }
}
