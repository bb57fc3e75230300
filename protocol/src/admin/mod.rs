//! What operators and CI jobs say to a coordinator, and what they see of it:
//! the admin routes of the same listener the nodes use, authorised on every
//! request by the connection's key.
//!
//! Later steps add: backup and restore.

mod status;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use status::{
    Alarm, ClusterStatus, Confirmation, Event, LiveCluster, NodeStatus, RegistryState, Stale, StepTime,
    Stranger, TicketStatus, TokensStatus,
};

use crate::config::Incarnation;
use crate::identity::{Fingerprint, TypedFingerprint};
use crate::names::{AdminName, ClusterName, NodeName, Role};
use crate::secret::Secret;
use crate::ticket::TicketKey;

/// `POST`: [`MintRequest`], answered with 204. Idempotent.
pub const MINT: &str = "/v1/admin/mint";
/// `GET`: [`ClusterStatus`].
pub const STATUS: &str = "/v1/admin/status";
/// `POST`: [`KubeconfigRequest`] to [`KubeconfigAnswer`].
pub const KUBECONFIG: &str = "/v1/admin/kubeconfig";
/// `POST`: [`NodeRequest`], answered with 204: a held node's key is trusted again.
pub const RELEASE: &str = "/v1/admin/release";
/// `POST`: [`NodeRequest`], answered with 204: the node's key loses every right.
pub const REVOKE: &str = "/v1/admin/revoke";
/// `POST`: [`ConfirmRequest`] to [`ConfirmAnswer`]. Idempotent.
pub const CONFIRM: &str = "/v1/admin/confirm";
/// `POST`: [`ApproveRequest`] to [`ApproveAnswer`]. Idempotent.
pub const APPROVE: &str = "/v1/admin/approve";
/// `POST`: [`NodeRequest`], answered with 204: the node replaces its key at its next contact.
pub const ROTATE: &str = "/v1/admin/rotate";
/// `POST` without a body to [`crate::ratchet::Reach`]: this state counts,
/// whatever later one nodes have seen.
pub const RAISE_EPOCH: &str = "/v1/admin/raise-epoch";
/// `POST`: [`ExtendRequest`] to [`ExtendAnswer`].
pub const EXTEND: &str = "/v1/admin/extend";
/// `POST`: [`ApplyRequest`] to [`ApplyAnswer`].
pub const APPLY: &str = "/v1/admin/apply";
/// `POST`: [`EndRequest`] to [`EndAnswer`]: the live incarnation ends.
pub const END: &str = "/v1/admin/end";
/// `POST`: [`EventsRequest`] to [`EventsAnswer`].
pub const EVENTS: &str = "/v1/admin/events";
/// `GET`: [`AdminsAnswer`].
pub const ADMINS: &str = "/v1/admin/admins";
/// `POST`: [`AddAdminRequest`], answered with 204. Idempotent.
pub const ADD_ADMIN: &str = "/v1/admin/admins/add";
/// `POST`: [`RemoveAdminRequest`], answered with 204. Idempotent.
pub const REMOVE_ADMIN: &str = "/v1/admin/admins/remove";
/// Events that one answer holds at most.
pub const MAX_EVENTS: u32 = 1000;
/// `POST`: [`ReplaceRequest`], answered with 204: the datastore of a lost server is given up.
pub const REPLACE: &str = "/v1/admin/replace";
/// `POST`: [`NodeRequest`], answered with 204: etcd has no member of this server any more.
pub const MEMBER_GONE: &str = "/v1/admin/member-gone";
/// `POST` without a body, answered with 204: gives the live cluster another
/// server token, and every agent another join token.
pub const ROTATE_TOKENS: &str = "/v1/admin/rotate-tokens";
/// Each of them with its method: all that an admin may ask, and nobody else.
pub const ROUTES: [(&str, &str); 19] = [
    ("POST", MINT),
    ("GET", STATUS),
    ("POST", KUBECONFIG),
    ("POST", RELEASE),
    ("POST", REVOKE),
    ("POST", CONFIRM),
    ("POST", APPROVE),
    ("POST", ROTATE),
    ("POST", ROTATE_TOKENS),
    ("POST", RAISE_EPOCH),
    ("POST", EXTEND),
    ("POST", APPLY),
    ("POST", END),
    ("POST", REPLACE),
    ("POST", MEMBER_GONE),
    ("POST", EVENTS),
    ("GET", ADMINS),
    ("POST", ADD_ADMIN),
    ("POST", REMOVE_ADMIN),
];
/// Bodies of admin requests larger than this many bytes are refused.
pub const MAX_ADMIN_BODY: usize = 1024 * 1024;

/// What a ticket stands for. Names and roles always come from here, never from
/// a node's request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketRecord {
    /// Which node.
    pub node: NodeName,
    /// Which creation of a node of this name, counted from 1. Binding it
    /// supersedes all earlier ones.
    pub generation: u32,
    /// What the node is in its cluster.
    pub role: Role,
    /// The ticket is of no use before.
    pub not_before: Timestamp,
    /// Unless bound, the ticket is of no use from then on.
    pub expires: Timestamp,
    /// The caller reads the machine's serial console, and will [`CONFIRM`] the
    /// key that it shows: until then a server is given no secret.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub confirm_console: bool,
    /// What the caller knows of the machine it makes.
    #[serde(default)]
    pub hints: Hints,
}

/// What the caller of `mint` knows of the machine that it makes: shown to an
/// operator beside what the machine says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hints {
    /// The SMBIOS system uuid it will have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smbios_uuid: Option<String>,
    /// The network it will connect from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<ipnet::IpNet>,
    /// The provider's id for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
}

/// Registers a ticket's public key. The seed stays with the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MintRequest {
    /// The ticket's name.
    pub ticket: TicketKey,
    /// What it stands for.
    pub record: TicketRecord,
}

/// Names a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRequest {
    /// Which.
    pub node: NodeName,
}

/// Says which key a machine's serial console shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmRequest {
    /// Which node's machine.
    pub node: NodeName,
    /// Which generation of it; the newest that is not over, if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// The key on its console.
    pub fingerprint: Fingerprint,
}

/// What came of a key that was read on a console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmAnswer {
    /// In a word.
    pub outcome: ConfirmOutcome,
    /// Of which generation of the node.
    pub generation: u32,
    /// The key that is bound to it; none as long as nobody has enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Fingerprint>,
    /// Why the node is held, if it is: whatever its console shows, it may do nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
}

/// How the key on a console stands to the key of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfirmOutcome {
    /// It is the node's, or will be: no other key enrols.
    Kept,
    /// It was the node's until it was replaced by the present one; nothing was done.
    Former,
    /// Another key has enrolled: the node is held, and an alarm raised.
    Mismatch,
}

/// Takes a machine without a ticket for a node, by the key on its console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApproveRequest {
    /// Which node it becomes.
    pub node: NodeName,
    /// The key on its console, as a person typed it.
    pub fingerprint: TypedFingerprint,
}

/// The machine is the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApproveAnswer {
    /// Its key.
    pub key: Fingerprint,
    /// The node's generation that it is.
    pub generation: u32,
}

/// Says what becomes of the data of a server that started the datastore and
/// is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceRequest {
    /// Which server.
    pub node: NodeName,
    /// The copy of a SQLite datastore, by its absolute path on the
    /// coordinator's host; without it the server begins with nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<String>,
}

/// Gives an unused ticket more time, without touching the node that holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtendRequest {
    /// Whose newest ticket.
    pub node: NodeName,
    /// Seconds from now.
    pub seconds: u32,
}

/// The ticket's new end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtendAnswer {
    /// When it expires now.
    pub expires: Timestamp,
}

/// Asks for a kubeconfig with an administrator's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubeconfigRequest {
    /// Where the API server is reached, such as `https://10.77.0.11:6443`.
    /// Without it the first server's cluster address is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Whom it stands for; an administrator without limits if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<KubeUserName>,
    /// How many seconds its certificate is valid.
    pub lifetime: u64,
}

/// A user and a group that role bindings in the cluster name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubeUserName {
    /// The user.
    pub name: String,
    /// Its one group.
    pub group: String,
}

/// A kubeconfig.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubeconfigAnswer {
    /// The YAML document.
    pub kubeconfig: Secret,
}

/// Makes a cluster file the one in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyRequest {
    /// The file's text, TOML.
    pub cluster_file: String,
    /// Only say what would change.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// The cluster file is in force, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyAnswer {
    /// The live incarnation.
    pub incarnation: Incarnation,
    /// What changed and what that does to which node, in words; empty when
    /// nothing did.
    pub changes: Vec<String>,
}

/// Ends the live incarnation of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRequest {
    /// Its name: nothing ends that was not meant.
    pub cluster: ClusterName,
}

/// What has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndAnswer {
    /// The incarnation; none if nothing was live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Incarnation>,
}

/// Asks for the audit trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsRequest {
    /// The lines after this number; 0 for all.
    pub after: u64,
    /// At most so many lines, and never more than [`MAX_EVENTS`].
    pub limit: u32,
    /// Seconds to wait for a line if there is none, at most
    /// [`crate::api::MAX_WAIT`].
    #[serde(default)]
    pub wait: u32,
}

/// A part of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsAnswer {
    /// In order.
    pub events: Vec<Event>,
}

/// Makes a key an admin's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddAdminRequest {
    /// What the audit trail is to call it.
    pub name: AdminName,
    /// The key.
    pub key: Fingerprint,
}

/// Takes an admin's key every right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveAdminRequest {
    /// Whose.
    pub name: AdminName,
}

/// Every admin's key there ever was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminsAnswer {
    /// Oldest first.
    pub admins: Vec<AdminStatus>,
}

/// An admin's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminStatus {
    /// What the audit trail calls it.
    pub name: AdminName,
    /// The key.
    pub key: Fingerprint,
    /// Since when.
    pub added: Timestamp,
    /// Since when it may do nothing any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_record_is_stable() {
        let text = r#"{"node":"k3s-s1","generation":2,"role":"server","not_before":"2026-01-01T00:00:00Z","expires":"2026-01-01T01:00:00Z","hints":{}}"#;
        let record: TicketRecord = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), text);
        // Hints are shown and decide nothing: one that is not known here does no harm.
        let later = text.replace(r#""hints":{}"#, r#""hints":{"serial":"7"}"#);
        assert_eq!(serde_json::from_str::<TicketRecord>(&later).unwrap(), record);
    }
}
