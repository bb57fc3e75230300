//! What an incarnation of a cluster keeps secret, all of it made before any
//! node exists: certificate authorities, tokens and node passwords. From them
//! follow, without contacting a node, the full tokens and kubeconfigs.
//!
//! In the state the whole [`ClusterSecrets`] document is sealed under an unlock
//! key that is kept elsewhere (`unlock`). It can be rotated below the same root,
//! which is why the root's and the intermediate's keys are kept; they never
//! leave the coordinator.

mod ca;
mod kubeconfig;
mod token;

use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use kiln_protocol::chores::JoinToken;
use kiln_protocol::config::{CaFiles, CaSet};
use kiln_protocol::{NodeName, Secret};
use ring::hmac;
use ring::rand::SecureRandom as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use kubeconfig::{KubeUser, ServerUrl};
pub(crate) use token::ca_hash;
pub(crate) use token::id as join_token_id;

/// Begins what is signed to make a node's password.
const NODE_PASSWORD_LABEL: &[u8] = b"kiln/1 node password\0";
/// Random bytes in each secret.
const SECRET_BYTES: usize = 32;

/// The secrets of one incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSecrets {
    /// Signs the intermediate; its certificate is what tokens pin.
    root: CaFiles,
    /// Signs the CAs that nodes get.
    intermediate: CaFiles,
    /// What the first server gets.
    ca: CaSet,
    server_password: Secret,
    agent_password: Secret,
    node_secret: Secret,
    /// Takes `server_password`'s place once k3s has taken it: until then nobody
    /// knows under which of them the datastore is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_server_password: Option<Secret>,
    /// What join tokens are made of since they were rotated; `node_secret` before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    join_secret: Option<Secret>,
    #[serde(skip)]
    ca_hash: CaHash,
}

/// What tokens pin, once it was asked for: every configuration does.
#[derive(Debug, Clone, Default)]
struct CaHash(OnceLock<String>);

impl PartialEq for CaHash {
    /// It follows from the CAs.
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for CaHash {}

impl ClusterSecrets {
    /// Makes all of them.
    pub fn generate(now: Timestamp) -> Result<Self> {
        let ca::Authorities { root, intermediate, set } =
            ca::generate(now).context("making the cluster's certificate authorities")?;
        Ok(Self {
            root,
            intermediate,
            ca: set,
            server_password: random_secret()?,
            agent_password: random_secret()?,
            node_secret: random_secret()?,
            next_server_password: None,
            join_secret: None,
            ca_hash: CaHash::default(),
        })
    }

    /// The certificate authorities, for an incarnation's first server.
    pub fn ca(&self) -> &CaSet {
        &self.ca
    }

    /// The server token in full form: pins the cluster's root, joins anything.
    pub fn server_token(&self) -> Result<Secret> {
        token::full(self.ca_hash()?, "server", &self.server_password)
    }

    fn ca_hash(&self) -> Result<&str> {
        if let Some(hash) = self.ca_hash.0.get() {
            return Ok(hash);
        }
        let hash = ca_hash(self.ca.server.certificates.expose())?;
        Ok(self.ca_hash.0.get_or_init(|| hash))
    }

    /// Makes the server token that is to come, and another secret for join tokens,
    /// which counts at once.
    pub(crate) fn begin_rotation(&mut self) -> Result<()> {
        self.next_server_password = Some(random_secret()?);
        self.join_secret = Some(random_secret()?);
        Ok(())
    }

    /// The server token that is to come, if one is.
    pub(crate) fn next_server_token(&self) -> Result<Option<Secret>> {
        let full = |password| token::full(self.ca_hash()?, "server", password);
        self.next_server_password.as_ref().map(full).transpose()
    }

    /// The server token that was to come is the server token.
    pub(crate) fn finish_rotation(&mut self) {
        if let Some(next) = self.next_server_password.take() {
            self.server_password = next;
        }
    }

    /// The bootstrap token of one seat, an agent's own: the same whenever it is
    /// asked for. `seat` is a number that no other seat of the state has.
    pub fn join_token(&self, seat: i64, node: &NodeName) -> Result<JoinToken> {
        token::bootstrap(self.join_secret.as_ref().unwrap_or(&self.node_secret), seat, node)
    }

    /// A bootstrap token in full form: pins the cluster's root, joins one agent.
    pub fn full_join_token(&self, token: &JoinToken) -> Result<Secret> {
        token::full_bootstrap(self.ca_hash()?, token)
    }

    /// The password servers are told to accept from agents, so that the server
    /// token is not taken for it. No agent knows it: each has a token of its own.
    pub fn agent_password(&self) -> &Secret {
        &self.agent_password
    }

    /// The content of a node's `/etc/rancher/node/password`: the same for all
    /// its generations within the incarnation.
    pub fn node_password(&self, node: &NodeName) -> Secret {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.node_secret.expose().as_bytes());
        let message = [NODE_PASSWORD_LABEL, node.as_str().as_bytes()].concat();
        Secret::new(HEXLOWER.encode(hmac::sign(&key, &message).as_ref())).expect("hex digits are printable")
    }

    /// A kubeconfig for `user`, valid from now for `lifetime` seconds.
    pub fn kubeconfig(
        &self,
        cluster: &kiln_protocol::ClusterName,
        server: &ServerUrl,
        user: &KubeUser,
        now: Timestamp,
        lifetime: u64,
    ) -> Result<Secret> {
        kubeconfig::render(&self.ca, cluster, server, user, now, lifetime)
    }
}

fn random_secret() -> Result<Secret> {
    let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
    let random = ring::rand::SystemRandom::new();
    random.fill(&mut *bytes).ok().context("reading the system's randomness")?;
    Ok(Secret::new(HEXLOWER.encode(&*bytes)).expect("hex digits are printable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_passwords_depend_on_the_name_and_the_incarnation_only() {
        let now = Timestamp::now();
        let (one, two) = (ClusterSecrets::generate(now).unwrap(), ClusterSecrets::generate(now).unwrap());
        let (a, b): (NodeName, NodeName) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert_eq!(one.node_password(&a), one.node_password(&a));
        assert_ne!(one.node_password(&a), one.node_password(&b));
        assert_ne!(one.node_password(&a), two.node_password(&a));
        assert_eq!(one.node_password(&a).expose().len(), 64);
    }

    #[test]
    fn tokens_are_apart_and_in_full_form() {
        let secrets = ClusterSecrets::generate(Timestamp::now()).unwrap();
        let server = secrets.server_token().unwrap();
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        let token = secrets.join_token(36, &a).unwrap();
        let agent = secrets.full_join_token(&token).unwrap();
        let (server_hash, server_password) = server.expose().split_once("::server:").unwrap();
        let (agent_hash, agent_secret) = agent.expose().split_once("::000010.").unwrap();
        assert_eq!(server_hash, agent_hash);
        assert_eq!((&server_hash[..3], server_hash.len()), ("K10", 67));
        assert_ne!(server_password, secrets.agent_password().expose());
        assert_eq!(agent_secret, token.secret.expose());
        assert_eq!(secrets.join_token(36, &a).unwrap(), token);
        for other in [secrets.join_token(37, &a).unwrap(), secrets.join_token(36, &b).unwrap()] {
            assert_ne!(other.secret, token.secret);
        }
        let other = ClusterSecrets::generate(Timestamp::now()).unwrap();
        assert_ne!(other.join_token(36, &a).unwrap().secret, token.secret);
    }

    #[test]
    fn a_rotation_leaves_everything_but_tokens_what_it_was() {
        let node: NodeName = "a".parse().unwrap();
        let before = ClusterSecrets::generate(Timestamp::now()).unwrap();
        let mut after = before.clone();
        assert_eq!(after.next_server_token().unwrap(), None);
        after.begin_rotation().unwrap();
        let next = after.next_server_token().unwrap().unwrap();
        assert_eq!(after.server_token().unwrap(), before.server_token().unwrap(), "not before k3s has it");
        // As it is kept in between.
        let text = serde_json::to_string(&after).unwrap();
        let mut after: ClusterSecrets = serde_json::from_str(&text).unwrap();
        after.finish_rotation();
        after.finish_rotation();
        assert_eq!((after.server_token().unwrap(), after.next_server_token().unwrap()), (next, None));
        assert_ne!(after.server_token().unwrap(), before.server_token().unwrap());
        let join = |secrets: &ClusterSecrets| secrets.join_token(1, &node).unwrap();
        assert_eq!(
            join(&after).id,
            join(&before).id,
            "the Secret in the cluster is the same, with another content"
        );
        assert_ne!(join(&after).secret, join(&before).secret);
        assert_eq!(after.node_password(&node), before.node_password(&node), "k3s knows nodes by it");
        assert_eq!(after.ca(), before.ca());
    }

    #[test]
    fn the_document_survives_storage_and_debug_shows_nothing() {
        let secrets = ClusterSecrets::generate(Timestamp::now()).unwrap();
        let text = serde_json::to_string(&secrets).unwrap();
        assert_eq!(serde_json::from_str::<ClusterSecrets>(&text).unwrap(), secrets);
        assert!(!format!("{secrets:?}").contains("PRIVATE"));
    }
}
