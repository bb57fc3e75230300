//! What of its configuration a node has made so and may change while it runs:
//! who may log in, and its network. Kept on the disk, so that what is no
//! longer wanted can be told from what somebody did by hand.

use anyhow::{Context as _, Result};
use kiln_protocol::config::NodeConfig;
use kiln_protocol::names::{SshPublicKey, UserName};
use kiln_protocol::seed::{SshUser, StaticAddress};
use serde::{Deserialize, Serialize};

use crate::identity::STATE_DIR;
use crate::root::{Access, Root};

const FILE: &str = "/var/lib/kiln/applied.json";

/// What was made so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied {
    /// Logins. Written before they are made, so that none is forgotten.
    #[serde(default)]
    pub(crate) users: Vec<SshUser>,
    /// Static addresses.
    #[serde(default)]
    pub(crate) network: Vec<StaticAddress>,
    /// What `network` was before, while it is not yet proven to work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<Vec<StaticAddress>>,
}

impl Applied {
    pub(crate) fn of(config: &NodeConfig) -> Self {
        Self { users: config.users.clone(), network: config.network.clone(), before: None }
    }

    /// What an earlier run made so.
    pub(crate) fn load(root: &Root) -> Result<Option<Self>> {
        let Some(bytes) = root.read(FILE)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).with_context(|| format!("reading {}", root.shown(FILE)))
    }

    pub(crate) fn save(&self, root: &Root) -> Result<()> {
        let text = serde_json::to_vec(self).context("writing what was applied as JSON")?;
        root.make_dirs(STATE_DIR, 0o700)?;
        root.put(FILE, Access::ours(0o600), &text).map(|_| ())
    }

    /// The logins of both: what there may be while one is changed to the other.
    pub(crate) fn with_users(&self, more: &[SshUser]) -> Self {
        let mut both = self.clone();
        for user in more {
            match both.users.iter_mut().find(|known| known.name == user.name) {
                None => both.users.push(user.clone()),
                Some(known) => {
                    let new = user.authorized_keys.iter().filter(|key| !known.authorized_keys.contains(key));
                    let new: Vec<_> = new.cloned().collect();
                    known.authorized_keys.extend(new);
                }
            }
        }
        both
    }

    /// The keys that are there because of us and are not wanted any more.
    pub(crate) fn unwanted_keys(&self, wanted: &[SshUser]) -> Vec<(UserName, Vec<SshPublicKey>)> {
        let keep = |name: &UserName, key: &SshPublicKey| {
            wanted.iter().any(|user| user.name == *name && user.authorized_keys.contains(key))
        };
        let unwanted = |user: &SshUser| {
            let keys = user.authorized_keys.iter().filter(|key| !keep(&user.name, key)).cloned().collect();
            (user.name.clone(), keys)
        };
        let all = self.users.iter().map(unwanted);
        all.filter(|(_, keys): &(UserName, Vec<SshPublicKey>)| !keys.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, keys: &[&str]) -> SshUser {
        let key =
            |comment: &&str| format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq {comment}").parse().unwrap();
        SshUser { name: name.parse().unwrap(), authorized_keys: keys.iter().map(key).collect() }
    }

    fn applied(users: &[SshUser]) -> Applied {
        Applied { users: users.to_vec(), ..Applied::default() }
    }

    #[test]
    fn keys_that_left_are_told_from_keys_that_stay() {
        let before = applied(&[user("ops", &["a", "b"]), user("bob", &["c"])]);
        let wanted = [user("ops", &["b", "d"])];
        let unwanted = before.unwanted_keys(&wanted);
        assert_eq!(
            unwanted,
            [user("ops", &["a"]), user("bob", &["c"])].map(|user| (user.name, user.authorized_keys))
        );
        assert!(before.unwanted_keys(&before.users).is_empty());
    }

    #[test]
    fn a_power_cut_between_two_configurations_forgets_no_key() {
        let before = applied(&[user("ops", &["a"])]);
        let both = before.with_users(&[user("ops", &["b"]), user("bob", &["c"])]);
        assert_eq!(both.users, [user("ops", &["a", "b"]), user("bob", &["c"])]);
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = crate::testing::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(Applied::load(&root).unwrap(), None);
        let applied = applied(&[user("ops", &["a"])]);
        applied.save(&root).unwrap();
        assert_eq!(Applied::load(&root).unwrap(), Some(applied));
    }
}
