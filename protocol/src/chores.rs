//! What a ready server's agent does for the coordinator inside the cluster.
//!
//! The coordinator may not reach the API server (a private network, a CI
//! runner behind NAT), but a server's agent reaches both. It asks for chores
//! again and again; one server at a time gets any. Every chore may be done
//! twice: it names what shall be, and what is done is told with the next
//! question.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::Incarnation;
use crate::names::NodeName;
use crate::secret::Secret;

/// `POST`: [`ChoresRequest`] to [`Chores`]. Without any the answer waits for
/// some, for a few seconds.
pub const CHORES: &str = "/v1/chores";
/// Seconds after which chores that were not done yet are left alone: from
/// then on they may be another server's.
pub const CHORES_GOOD_FOR: u64 = 45;

/// The public half of a bootstrap token: six lower case letters and digits.
/// Its Secret is `bootstrap-token-<id>` in `kube-system`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootstrapId(String);

/// A text is not one half of a bootstrap token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a bootstrap token's {0}")]
pub struct InvalidBootstrap(&'static str);

fn is_half(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

impl BootstrapId {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BootstrapId {
    type Err = InvalidBootstrap;
    fn from_str(text: &str) -> Result<Self, InvalidBootstrap> {
        if is_half(text, 6) { Ok(Self(text.to_owned())) } else { Err(InvalidBootstrap("id")) }
    }
}

impl TryFrom<String> for BootstrapId {
    type Error = InvalidBootstrap;
    fn try_from(text: String) -> Result<Self, InvalidBootstrap> {
        text.parse()
    }
}

impl From<BootstrapId> for String {
    fn from(id: BootstrapId) -> Self {
        id.0
    }
}

impl fmt::Display for BootstrapId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The secret half of a bootstrap token: sixteen lower case letters and digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Secret", into = "Secret")]
pub struct BootstrapSecret(Secret);

impl BootstrapSecret {
    /// The text in the clear.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl TryFrom<Secret> for BootstrapSecret {
    type Error = InvalidBootstrap;
    fn try_from(secret: Secret) -> Result<Self, InvalidBootstrap> {
        if is_half(secret.expose(), 16) { Ok(Self(secret)) } else { Err(InvalidBootstrap("secret")) }
    }
}

impl From<BootstrapSecret> for Secret {
    fn from(secret: BootstrapSecret) -> Self {
        secret.0
    }
}

/// A bootstrap token that joins one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Its public half.
    pub id: BootstrapId,
    /// Its secret half.
    pub secret: BootstrapSecret,
    /// Whose it is.
    pub node: NodeName,
}

/// Another server token, which is to take the present one's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenChange {
    /// Which change of the incarnation's tokens this is, counted from 1.
    pub serial: u64,
    /// The new server token, in full `K10…` form.
    pub token: Secret,
}

/// Asks for chores, and tells what became of the last ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChoresRequest {
    /// The cluster's life this server belongs to.
    pub incarnation: Incarnation,
    /// What was done since the last question.
    #[serde(default)]
    pub done: ChoresDone,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChoresDone {
    /// Bootstrap tokens that are in the cluster now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens_made: Vec<BootstrapId>,
    /// Bootstrap tokens that are in it no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens_deleted: Vec<BootstrapId>,
    /// Nodes whose object is gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes_deleted: Vec<NodeName>,
    /// The [`TokenChange`] that k3s has made: the datastore is under its token now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_changed: Option<u64>,
    /// The members of etcd, as it tells them itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<EtcdMember>>,
    /// Why something was not done, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// A member of etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdMember {
    /// `<node>-<8 hex digits>`; empty while it was added and has not started.
    pub name: String,
    /// The hosts of its peer URLs.
    pub hosts: Vec<String>,
}

impl EtcdMember {
    /// Whether this is `node`, which other servers reach at `address`.
    pub fn is(&self, node: &NodeName, address: Option<std::net::IpAddr>) -> bool {
        // As k3s names and finds members: `setName` and `Join` in pkg/etcd/etcd.go.
        let named = self.name.strip_prefix(node.as_str()).and_then(|rest| rest.strip_prefix('-'));
        let named = named.is_some_and(|id| id.len() == 8 && id.bytes().all(|b| b.is_ascii_hexdigit()));
        named || address.is_some_and(|address| self.hosts.iter().any(|host| *host == address.to_string()))
    }
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chores {
    /// Bootstrap tokens to be put into the cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub make_tokens: Vec<JoinToken>,
    /// Bootstrap tokens to be taken out of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delete_tokens: Vec<BootstrapId>,
    /// Nodes whose object is to be deleted; a server's etcd member goes with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delete_nodes: Vec<NodeName>,
    /// A server token to be given to k3s in the present one's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_token: Option<TokenChange>,
    /// Whether etcd's members are to be told, after all the rest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub list_members: bool,
}

impl Chores {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_halves_of_a_token_are_checked_when_they_are_decoded() {
        let text = r#"{"id":"00000a","secret":"0123456789abcdef","node":"a1"}"#;
        let token: JoinToken = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&token).unwrap(), text);
        assert!(!format!("{token:?}").contains("0123456789abcdef"));
        for (from, to) in [
            ("00000a", "00000"),
            ("00000a", "00000A"),
            ("00000a", "../../"),
            ("0123456789abcdef", "short"),
            ("0123456789abcdef", "0123456789abcde\\n"),
            ("0123456789abcdef", "0123456789abcde\\\""),
        ] {
            let hostile = text.replacen(from, to, 1);
            assert!(serde_json::from_str::<JoinToken>(&hostile).is_err(), "{to} was taken");
        }
    }

    #[test]
    fn a_member_is_known_by_its_name_or_by_its_address() {
        let (s1, address) = ("s1".parse().unwrap(), "10.0.0.1".parse().ok());
        let member = |name: &str, host: &str| EtcdMember { name: name.into(), hosts: vec![host.into()] };
        assert!(member("s1-0badcafe", "10.0.0.9").is(&s1, address));
        assert!(member("", "10.0.0.1").is(&s1, address), "added, but not started yet");
        assert!(member("other-0badcafe", "10.0.0.1").is(&s1, address));
        assert!(!member("s1-x-0badcafe", "10.0.0.2").is(&s1, address), "another node's name begins so");
        assert!(!member("s10-0badcafe", "10.0.0.2").is(&s1, address));
        assert!(!member("", "10.0.0.2").is(&s1, address));
    }
}
