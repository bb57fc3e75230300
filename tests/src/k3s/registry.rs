//! What a cluster knows: nodes, node passwords, heartbeats, etcd members.
//! Plain data and rules; when it is comes from the caller, in milliseconds
//! since 1970.
//!
//! Several servers each hold a copy and exchange them: of two values of one
//! key the later stays, and a removal is a value too. That is what the
//! stand-in has in place of etcd.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::node;

/// A node that has said nothing for so long is no longer ready
/// (kube-controller-manager's `node-monitor-grace-period` is 40 s; ours is
/// shorter because the heartbeat is, see `agent.rs`).
pub(crate) const GRACE_MS: u64 = 20_000;

/// A value with the time of its last change; none means removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stamped<T> {
    at: u64,
    value: Option<T>,
}

type Table<T> = BTreeMap<String, Stamped<T>>;

/// A sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beat {
    at: u64,
    /// Why the node says it cannot work.
    problem: Option<String>,
}

/// A server with a part in the datastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Of this very installation: a new one of the same name has another.
    pub(crate) id: String,
    pub(crate) url: String,
}

/// Why a request was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum Refused {
    #[error("nodes \"{0}\" already exists")]
    Exists(String),
    #[error("nodes \"{0}\" not found")]
    Missing(String),
    #[error("secrets \"{0}\" not found")]
    MissingSecret(String),
    #[error("unable to verify hash for node '{0}': hash does not match")]
    Password(String),
    #[error("duplicate node name found, please use a unique name for this node")]
    DuplicateMember,
}

/// The cluster's data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Registry {
    /// The last resource version given.
    version: u64,
    nodes: Table<Value>,
    /// Salted hashes. k3s uses scrypt; here a slow hash would only slow tests.
    passwords: Table<String>,
    members: Table<Member>,
    /// Secrets in `kube-system`, their values in the clear.
    #[serde(default)]
    secrets: Table<BTreeMap<String, String>>,
    beats: BTreeMap<String, Beat>,
}

impl Registry {
    /// Adds a Node object; its kubelet may update it later.
    pub(crate) fn create(
        &mut self,
        name: &str,
        mut object: Value,
        uid: &str,
        now: u64,
    ) -> Result<(), Refused> {
        if self.object(name).is_some() {
            return Err(Refused::Exists(name.to_owned()));
        }
        object["metadata"]["uid"] = json!(uid);
        object["metadata"]["creationTimestamp"] = json!(node::timestamp(now));
        self.store(name, object, now);
        self.beats.insert(name.to_owned(), Beat { at: now, problem: None });
        Ok(())
    }

    /// Takes what a kubelet says of its Node; what others set at it stays.
    pub(crate) fn update(&mut self, name: &str, mut object: Value, now: u64) -> Result<(), Refused> {
        let old = self.object(name).ok_or_else(|| Refused::Missing(name.to_owned()))?;
        for key in ["uid", "creationTimestamp"] {
            object["metadata"][key] = old["metadata"][key].clone();
        }
        for key in ["labels", "annotations"] {
            let mut merged = old["metadata"][key].as_object().cloned().unwrap_or_default();
            merged.extend(object["metadata"][key].as_object().cloned().unwrap_or_default());
            object["metadata"][key] = Value::Object(merged);
        }
        self.store(name, object, now);
        Ok(())
    }

    /// Sets labels at a Node.
    pub(crate) fn label(&mut self, name: &str, labels: &[(&str, &str)], now: u64) -> Result<(), Refused> {
        let mut object = self.object(name).cloned().ok_or_else(|| Refused::Missing(name.to_owned()))?;
        for (key, value) in labels {
            object["metadata"]["labels"][*key] = json!(value);
        }
        self.store(name, object, now);
        Ok(())
    }

    /// Removes a Node. Its password goes with it, so that the name can be used
    /// again, and so does its etcd member.
    pub(crate) fn remove(&mut self, name: &str, now: u64) -> Result<(), Refused> {
        if self.object(name).is_none() {
            return Err(Refused::Missing(name.to_owned()));
        }
        set(&mut self.nodes, name, None, now);
        set(&mut self.passwords, name, None, now);
        if get(&self.members, name).is_some() {
            set(&mut self.members, name, None, now);
        }
        self.beats.remove(name);
        Ok(())
    }

    /// Puts a Secret into `kube-system`, or in place of one.
    pub(crate) fn set_secret(&mut self, name: &str, data: BTreeMap<String, String>, now: u64) {
        self.version += 1;
        set(&mut self.secrets, name, Some(data), now);
    }

    /// Deletes a Secret.
    pub(crate) fn remove_secret(&mut self, name: &str, now: u64) -> Result<(), Refused> {
        if get(&self.secrets, name).is_none() {
            return Err(Refused::MissingSecret(name.to_owned()));
        }
        set(&mut self.secrets, name, None, now);
        Ok(())
    }

    /// The names of the Secrets that are there.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().filter(|(_, secret)| secret.value.is_some()).map(|(name, _)| name.as_str())
    }

    /// Whether a bootstrap token is one of the cluster's and may be used to
    /// authenticate (Kubernetes `plugin/pkg/auth/authenticator/token/bootstrap`).
    pub(crate) fn holds_token(&self, id: &str, secret: &str) -> bool {
        get(&self.secrets, &format!("bootstrap-token-{id}")).is_some_and(|data| {
            let is = |key: &str, value: &str| data.get(key).is_some_and(|found| found == value);
            is("token-id", id) && is("token-secret", secret) && is("usage-bootstrap-authentication", "true")
        })
    }

    /// Notes a sign of life. Whether that has to reach the disk: not, if only
    /// the time is new.
    pub(crate) fn beat(&mut self, name: &str, problem: Option<String>, now: u64) -> Result<bool, Refused> {
        if self.object(name).is_none() {
            return Err(Refused::Missing(name.to_owned()));
        }
        let beat = Beat { at: now, problem };
        let old = self.beats.insert(name.to_owned(), beat.clone());
        Ok(old.is_none_or(|old| old.problem != beat.problem))
    }

    /// One Node, with its conditions as of now.
    pub(crate) fn node(&self, name: &str, now: u64) -> Option<Value> {
        let mut object = self.object(name)?.clone();
        let ready = match self.beats.get(name) {
            Some(beat) if now.saturating_sub(beat.at) <= GRACE_MS => match &beat.problem {
                None => node::Ready::Yes,
                Some(problem) => node::Ready::No(problem),
            },
            _ => node::Ready::Silent,
        };
        let heard = self.beats.get(name).map_or(0, |beat| beat.at);
        object["status"]["conditions"] = node::conditions(&ready, heard);
        Some(object)
    }

    /// All Nodes, in the order of their names.
    pub(crate) fn nodes(&self, now: u64) -> Vec<Value> {
        self.nodes.keys().filter_map(|name| self.node(name, now)).collect()
    }

    /// Checks a node's password; the first one given for a name is its
    /// password from then on. Whether it was the first.
    pub(crate) fn ensure_password(
        &mut self,
        name: &str,
        password: &str,
        salt: &str,
        now: u64,
    ) -> Result<bool, Refused> {
        let Some(hash) = get(&self.passwords, name) else {
            set(&mut self.passwords, name, Some(hashed(salt, password)), now);
            return Ok(true);
        };
        let salt = hash.split_once(':').map_or("", |(salt, _)| salt);
        if *hash == hashed(salt, password) { Ok(false) } else { Err(Refused::Password(name.to_owned())) }
    }

    /// Takes a server into the datastore.
    pub(crate) fn join(&mut self, name: &str, member: Member, now: u64) -> Result<(), Refused> {
        match get(&self.members, name) {
            Some(known) if known.id != member.id => Err(Refused::DuplicateMember),
            Some(known) if *known == member => Ok(()),
            _ => {
                set(&mut self.members, name, Some(member), now);
                Ok(())
            }
        }
    }

    /// The servers with a part in the datastore.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &Member)> {
        self.members.iter().filter_map(|(name, member)| Some((name.as_str(), member.value.as_ref()?)))
    }

    /// Takes over what another server knows better. Whether anything but a
    /// heartbeat was new.
    pub(crate) fn merge(&mut self, other: Self) -> bool {
        self.version = self.version.max(other.version);
        let mut changed = merge(&mut self.nodes, other.nodes);
        changed |= merge(&mut self.passwords, other.passwords);
        changed |= merge(&mut self.members, other.members);
        changed |= merge(&mut self.secrets, other.secrets);
        for (name, beat) in other.beats {
            if self.beats.get(&name).is_none_or(|own| own.at < beat.at) {
                self.beats.insert(name, beat);
            }
        }
        changed
    }

    /// The last resource version given, as lists carry it.
    pub(crate) fn version(&self) -> String {
        self.version.to_string()
    }

    fn object(&self, name: &str) -> Option<&Value> {
        get(&self.nodes, name)
    }

    fn store(&mut self, name: &str, mut object: Value, now: u64) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if let Some(status) = object["status"].as_object_mut() {
            status.remove("conditions");
        }
        set(&mut self.nodes, name, Some(object), now);
    }
}

fn get<'a, T>(table: &'a Table<T>, name: &str) -> Option<&'a T> {
    table.get(name)?.value.as_ref()
}

fn set<T>(table: &mut Table<T>, name: &str, value: Option<T>, now: u64) {
    // Two changes within one tick of the clock, or a clock set back: later is later.
    let at = table.get(name).map_or(now, |old| now.max(old.at + 1));
    table.insert(name.to_owned(), Stamped { at, value });
}

fn merge<T>(own: &mut Table<T>, other: Table<T>) -> bool {
    let mut changed = false;
    for (name, stamped) in other {
        if own.get(&name).is_none_or(|known| known.at < stamped.at) {
            own.insert(name, stamped);
            changed = true;
        }
    }
    changed
}

fn hashed(salt: &str, password: &str) -> String {
    format!("{salt}:{}", HEXLOWER.encode(&Sha256::digest(format!("{salt}:{password}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {"a": "1"}}, "status": {"conditions": ["lies"]}})
    }

    fn ready(registry: &Registry, name: &str, now: u64) -> String {
        let node = registry.node(name, now).expect("a node");
        let conditions = node["status"]["conditions"].as_array().expect("conditions").clone();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready").expect("Ready");
        ready["status"].as_str().expect("a status").to_owned()
    }

    #[test]
    fn a_node_is_ready_while_it_is_heard() {
        let mut registry = Registry::default();
        registry.create("a", object("a"), "uid", 1_000).expect("created");
        assert_eq!(registry.create("a", object("a"), "other", 1_000), Err(Refused::Exists("a".into())));
        assert_eq!(ready(&registry, "a", 1_000 + GRACE_MS), "True");
        assert_eq!(ready(&registry, "a", 1_001 + GRACE_MS), "Unknown");
        assert!(
            registry.beat("a", Some("no address".into()), 50_000).expect("heard"),
            "a new problem is kept"
        );
        assert_eq!(ready(&registry, "a", 50_000), "False");
        registry.beat("a", None, 51_000).expect("heard");
        assert!(!registry.beat("a", None, 52_000).expect("heard"), "a mere beat stays in memory");
        assert_eq!(ready(&registry, "a", 52_000), "True");
    }

    #[test]
    fn an_update_keeps_what_others_set() {
        let mut registry = Registry::default();
        registry.create("a", object("a"), "uid", 0).expect("created");
        registry.label("a", &[("node-role.kubernetes.io/control-plane", "true")], 1).expect("labelled");
        registry.update("a", json!({"metadata": {"name": "a", "labels": {"b": "2"}}}), 2).expect("updated");
        let metadata = registry.node("a", 2).expect("a node")["metadata"].clone();
        assert_eq!(metadata["uid"], "uid");
        assert_eq!(metadata["labels"].as_object().expect("labels").len(), 3);
        assert_eq!(metadata["resourceVersion"], "3");
    }

    #[test]
    fn the_first_password_of_a_name_is_its_password_until_the_node_is_removed() {
        let mut registry = Registry::default();
        registry.create("a", object("a"), "uid", 0).expect("created");
        assert_eq!(registry.ensure_password("a", "one", "salt", 1), Ok(true));
        assert_eq!(registry.ensure_password("a", "one", "other", 2), Ok(false));
        assert_eq!(registry.ensure_password("a", "two", "salt", 3), Err(Refused::Password("a".into())));
        registry.remove("a", 4).expect("removed");
        assert_eq!(registry.ensure_password("a", "two", "salt", 5), Ok(true));
        assert!(registry.node("a", 6).is_none());
        assert_eq!(registry.beat("a", None, 7), Err(Refused::Missing("a".into())));
    }

    #[test]
    fn a_second_installation_of_a_members_name_is_refused_until_the_node_is_removed() {
        let member = |id: &str| Member { id: id.into(), url: "https://10.0.0.1:6443".into() };
        let mut registry = Registry::default();
        registry.create("s", object("s"), "uid", 0).expect("created");
        registry.join("s", member("1"), 1).expect("joined");
        registry.join("s", member("1"), 2).expect("joined again");
        assert_eq!(registry.join("s", member("2"), 3), Err(Refused::DuplicateMember));
        registry.remove("s", 4).expect("removed");
        assert_eq!(registry.members().count(), 0);
        registry.join("s", member("2"), 5).expect("joined anew");
    }

    #[test]
    fn copies_agree_whichever_way_they_are_merged() {
        let mut one = Registry::default();
        one.create("a", object("a"), "uid", 10).expect("created");
        one.ensure_password("a", "pw", "salt", 10).expect("kept");
        let mut two = one.clone();
        one.create("b", object("b"), "uid", 20).expect("created");
        two.remove("a", 30).expect("removed");
        two.create("c", object("c"), "uid", 30).expect("created");
        let (mut left, mut right) = (one.clone(), two.clone());
        assert!(left.merge(two));
        assert!(right.merge(one));
        let names = |registry: &Registry| -> Vec<Value> {
            registry.nodes(30).iter().map(|node| node["metadata"]["name"].clone()).collect()
        };
        assert_eq!(names(&left), ["b", "c"]);
        assert_eq!(names(&left), names(&right));
        assert!(!left.clone().merge(left.clone()), "nothing new");
    }

    #[test]
    fn a_clock_set_back_does_not_bring_back_the_dead() {
        let mut registry = Registry::default();
        registry.create("a", object("a"), "uid", 1_000).expect("created");
        let before = registry.clone();
        registry.remove("a", 5).expect("removed");
        registry.merge(before);
        assert!(registry.node("a", 1_000).is_none());
    }
}
