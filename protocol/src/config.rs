//! What a node is told to become. Everything is typed down to the single
//! name, so that a hostile or mistaken coordinator cannot reach a file, a line
//! or a shell it was not meant to reach.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::identity::Fingerprint;
use crate::names::{ClusterName, K3sComponent, K3sVersion, NodeName, Role, SubjectAltName};
use crate::secret::Secret;
use crate::seed::{SshUser, StaticAddress};
use crate::ticket::Address;

/// One life of a cluster, from `up` to `down`: tokens, CAs and leases belong
/// to it. Counts from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The answer to `GET /v1/config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeConfig {
    /// The cluster's name.
    pub cluster: ClusterName,
    /// The cluster's life this configuration belongs to.
    pub incarnation: Incarnation,
    /// The node's name, and its host name.
    pub node: NodeName,
    /// Which creation of a node of this name, counted from 1.
    pub generation: u32,
    /// Static addresses; cards that are not named keep DHCP.
    #[serde(default, deserialize_with = "of_any_version::addresses")]
    pub network: Vec<StaticAddress>,
    /// Logins to make.
    #[serde(default, deserialize_with = "of_any_version::users")]
    pub users: Vec<SshUser>,
    /// What k3s is told.
    pub k3s: K3sConfig,
    /// An operator wants the node's key replaced ([`crate::rotation`]): a node
    /// that is connected hears of it here, and need not wait for its next
    /// connection.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rotate: bool,
}

/// Entries that a seed and a cluster file have too. People write those, and a
/// field that is none is a slip of the pen there; a configuration is written by
/// a coordinator, and one that is newer than its nodes may say more than they
/// know. What a node must not overlook (a login that ends, a login without
/// rights) is therefore never a field of such an entry: it gets a list of its
/// own, of which an older node makes nothing.
mod of_any_version {
    use std::net::IpAddr;

    use ipnet::IpNet;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer};

    use crate::names::{MacAddr, SshPublicKey, UserName};
    use crate::seed::{SshUser, StaticAddress};

    #[derive(Deserialize)]
    struct Card {
        mac: Option<MacAddr>,
        address: IpNet,
        gateway: Option<IpAddr>,
        #[serde(default)]
        nameservers: Vec<IpAddr>,
    }

    #[derive(Deserialize)]
    struct Login {
        name: UserName,
        authorized_keys: Vec<SshPublicKey>,
    }

    pub(super) fn addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<StaticAddress>, D::Error> {
        let checked = |Card { mac, address, gateway, nameservers }| {
            let entry = StaticAddress { mac, address, gateway, nameservers };
            entry.check().map(|()| entry).map_err(D::Error::custom)
        };
        Vec::deserialize(from)?.into_iter().map(checked).collect()
    }

    pub(super) fn users<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SshUser>, D::Error> {
        let known = |Login { name, authorized_keys }| SshUser { name, authorized_keys };
        Ok(Vec::deserialize(from)?.into_iter().map(known).collect())
    }
}

impl NodeConfig {
    /// What the node is in its cluster.
    pub fn role(&self) -> Role {
        match self.k3s.membership {
            Membership::Agent { .. } => Role::Agent,
            Membership::FirstServer { .. } | Membership::JoiningServer { .. } => Role::Server,
        }
    }
}

/// What k3s is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct K3sConfig {
    /// The release the cluster file asks for; the agent refuses to start
    /// another one.
    pub version: K3sVersion,
    /// The address other nodes use, if not the default route's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_ip: Option<IpAddr>,
    /// An address from outside, where it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_external_ip: Option<IpAddr>,
    /// Further names in the API server's certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls_san: Vec<SubjectAltName>,
    /// Packaged components to leave out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disable: Vec<K3sComponent>,
    /// Content of `/etc/rancher/node/password`: the same for every generation
    /// of a name within an incarnation, so that a re-created node is not
    /// refused with "Node password rejected".
    pub node_password: Secret,
    /// How often the cluster's server token has been rotated: a server that has
    /// taken a later one than that of `membership` keeps it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub token_serial: u64,
    /// How this node enters the cluster, with the secrets that takes.
    pub membership: Membership,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// How a node enters its cluster. Each kind carries what that kind may know,
/// and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Membership {
    /// The incarnation's first server: starts the datastore.
    FirstServer {
        /// Embedded etcd (several servers) instead of SQLite (one). k3s picks
        /// its datastore at the first start.
        cluster_init: bool,
        /// The server token, in full `K10…` form.
        token: Secret,
        /// A password that would join agents: without one k3s takes the
        /// server token for it. No agent is told it.
        agent_token: Secret,
        /// The cluster's certificate authorities.
        ca: Box<CaSet>,
        /// A SQLite datastore to put in place before the first start
        /// ([`crate::api::SNAPSHOT`]).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restore: Option<Snapshot>,
    },
    /// A server that joins others.
    JoiningServer {
        /// A server that is up.
        server: Address,
        /// The server token, in full `K10…` form.
        token: Secret,
        /// All servers must agree on it; no agent is told it.
        agent_token: Secret,
    },
    /// Runs workloads only.
    Agent {
        /// A server that is up.
        server: Address,
        /// A bootstrap token of this node's own, in full `K10…::id.secret`
        /// form. It joins agents only, and is revoked alone.
        token: Secret,
    },
}

impl Membership {
    /// What the node joins with.
    pub fn token(&self) -> &Secret {
        match self {
            Self::FirstServer { token, .. }
            | Self::JoiningServer { token, .. }
            | Self::Agent { token, .. } => token,
        }
    }
}

/// A datastore that is kept by the coordinator for one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Bytes.
    pub size: u64,
    /// Of all of them.
    pub sha256: Fingerprint,
}

/// A certificate chain (leaf CA first, root last) and its leaf's key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaFiles {
    /// The chain.
    pub certificates: Secret,
    /// The key, PKCS#8 or SEC1.
    pub key: Secret,
}

/// The certificate authorities k3s finds in `server/tls` before its first
/// start (contrib/util/generate-custom-ca-certs.sh in k3s's repository).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaSet {
    /// `server-ca`: signs the API server's certificate.
    pub server: CaFiles,
    /// `client-ca`: signs client certificates, kubeconfigs among them.
    pub client: CaFiles,
    /// `request-header-ca`: the aggregation layer's.
    pub request_header: CaFiles,
    /// `etcd/peer-ca`.
    pub etcd_peer: CaFiles,
    /// `etcd/server-ca`.
    pub etcd_server: CaFiles,
    /// `service.key`: signs service account tokens.
    pub service_key: Secret,
}

impl CaSet {
    /// Every file with its path below `server/tls`, in a fixed order.
    pub fn files(&self) -> Vec<(&'static str, &Secret)> {
        let Self { server, client, request_header, etcd_peer, etcd_server, service_key } = self;
        vec![
            ("server-ca.crt", &server.certificates),
            ("server-ca.key", &server.key),
            ("client-ca.crt", &client.certificates),
            ("client-ca.key", &client.key),
            ("request-header-ca.crt", &request_header.certificates),
            ("request-header-ca.key", &request_header.key),
            ("etcd/peer-ca.crt", &etcd_peer.certificates),
            ("etcd/peer-ca.key", &etcd_peer.key),
            ("etcd/server-ca.crt", &etcd_server.certificates),
            ("etcd/server-ca.key", &etcd_server.key),
            ("service.key", service_key),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: &str = r#"{
        "cluster": "home", "incarnation": 1, "node": "k3s-a1", "generation": 1,
        "network": [{"mac": "52:54:00:00:00:02", "address": "10.77.0.12/24"}],
        "k3s": {
            "version": "v1.28.5+k3s1", "node_ip": "10.77.0.12", "node_password": "00ff",
            "membership": {"kind": "agent", "server": "10.77.0.11:6443", "token": "K10aa::00000a.bbbbbbbbbbbbbbbb"}
        }
    }"#;

    #[test]
    fn the_wire_form_of_an_agent_is_stable() {
        let config: NodeConfig = serde_json::from_str(AGENT).unwrap();
        assert_eq!(config.role(), Role::Agent);
        let again: NodeConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn what_a_newer_coordinator_says_besides_is_ignored_at_every_depth() {
        let mut config: serde_json::Value = serde_json::from_str(AGENT).unwrap();
        config["users"] = serde_json::json!([{"name": "ops", "authorized_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq"]}]);
        let known: NodeConfig = serde_json::from_value(config.clone()).unwrap();
        assert_eq!((known.users.len(), known.network.len()), (1, 1));
        for pointer in ["", "/network/0", "/users/0", "/k3s", "/k3s/membership"] {
            config.pointer_mut(pointer).unwrap()["later"] = serde_json::json!({"a": [1]});
        }
        assert_eq!(serde_json::from_value::<NodeConfig>(config).unwrap(), known);
    }

    #[test]
    fn hostile_values_are_refused_by_type() {
        for (from, to) in [
            ("k3s-a1", "../../etc/passwd"),
            ("v1.28.5+k3s1", "v1.28.5+k3s1;reboot"),
            ("10.77.0.11:6443", "10.77.0.11:6443/$(id)"),
            ("K10aa::00000a.", "K10aa::00000a.\\u0000"),
            ("10.77.0.12/24", "10.77.0.0/24"),
        ] {
            let hostile = AGENT.replacen(from, to, 1);
            assert!(serde_json::from_str::<NodeConfig>(&hostile).is_err(), "{to} was taken");
        }
    }

    #[test]
    fn printing_a_configuration_shows_no_secret() {
        let config: NodeConfig = serde_json::from_str(AGENT).unwrap();
        assert!(!format!("{config:?}").contains("K10"));
    }
}
