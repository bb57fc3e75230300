//! What an operator sees: the cluster, its nodes, what happened to them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::{Facts, Report, Step, Usage};
use crate::config::Incarnation;
use crate::identity::Fingerprint;
use crate::names::{ClusterName, K3sVersion, NodeName, Role};
use crate::ratchet::Reach;
use crate::ticket::TicketKey;

/// What an operator sees of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The coordinator's key.
    pub pin: Fingerprint,
    /// The coordinator's clock when it made this.
    pub at: Timestamp,
    /// The live incarnation, if the cluster is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveCluster>,
    /// Every node of the cluster file in force, in its order; then those that
    /// have left the file and still have a key. Empty when nothing is live.
    #[serde(default)]
    pub nodes: Vec<NodeStatus>,
    /// Nodes have seen a state of this coordinator that it never had: it runs on
    /// an old copy, or another copy of it was served. It enrols nobody and lets
    /// nobody start k3s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<Stale>,
    /// What an operator should look at, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<Alarm>,
    /// Machines that called without being known, those that wait to be approved
    /// among them: the newest, from a bounded memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strangers: Vec<Stranger>,
}

/// What a coordinator's state does not know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stale {
    /// How far the state is.
    pub own: Reach,
    /// Where a node has seen it and it has never been.
    pub seen: Reach,
    /// When that was first noticed.
    pub since: Timestamp,
}

impl ClusterStatus {
    /// Whether there is a live cluster and all nodes of its file are ready.
    pub fn all_ready(&self) -> bool {
        self.live.is_some() && self.planned().all(NodeStatus::is_ready)
    }

    /// The nodes of the cluster file in force.
    pub fn planned(&self) -> impl Iterator<Item = &NodeStatus> {
        self.nodes.iter().filter(|node| node.planned)
    }

    /// The node of this name.
    pub fn node(&self, name: &NodeName) -> Option<&NodeStatus> {
        self.nodes.iter().find(|node| node.name == *name)
    }
}

/// A cluster that is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveCluster {
    /// The cluster's name.
    pub cluster: ClusterName,
    /// Which of its lives this is.
    pub incarnation: Incarnation,
    /// Since when.
    pub begun: Timestamp,
    /// The k3s release the cluster file asks for.
    pub k3s: K3sVersion,
    /// What has become of its tokens since it began.
    #[serde(default, skip_serializing_if = "TokensStatus::is_untouched")]
    pub tokens: TokensStatus,
}

/// Whether a cluster's tokens were rotated, and whether they are just now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokensStatus {
    /// Since when they are being rotated: no ready server has said yet that its
    /// k3s has taken the new server token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Timestamp>,
    /// What the server that tried last said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// When they were last rotated, to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated: Option<Timestamp>,
}

impl TokensStatus {
    /// Whether they are those that the cluster began with.
    pub fn is_untouched(&self) -> bool {
        *self == Self::default()
    }
}

/// What an operator sees of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own in the JSON")]
pub struct NodeStatus {
    /// Its name.
    pub name: NodeName,
    /// What it is in its cluster.
    pub role: Role,
    /// Whether it is in the cluster file in force. One that has left it is here
    /// as long as it has a key, and nobody waits for it.
    #[serde(default = "yes")]
    pub planned: bool,
    /// The generation this status is about: the one that has a key, else the
    /// newest that has a ticket, else 0.
    pub generation: u32,
    /// The generation to mint this node's next ticket for.
    pub next_generation: u32,
    /// What the registry says of `generation`.
    pub registry: RegistryState,
    /// Why it is held or revoked, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The key that is bound to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Fingerprint>,
    /// Whether an operator wants that key replaced, which the node has not done yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rotating: bool,
    /// What its machine's console says of that, where somebody reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<Confirmation>,
    /// When the key was bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Timestamp>,
    /// When the gate let it start k3s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed_gate: Option<Timestamp>,
    /// When it first said it was ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Timestamp>,
    /// The newest ticket that nobody used yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<TicketStatus>,
    /// The newest report of its newest boot, without facts and usage, which
    /// stand beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
    /// When each step was first done in that boot, in [`Step::ALL`]'s order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepTime>,
    /// What the machine last said of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Facts>,
    /// What its agent last said it had used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// When it was last heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// Whether its agent is connected and waits for a change of its
    /// configuration.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub connected: bool,
    /// Whether nothing was heard of it for so long that its agent cannot be
    /// running, or does not reach the coordinator ([`NodeStatus::is_stale`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

fn yes() -> bool {
    true
}

/// Seconds of silence after which a node that was heard of is stale. An agent
/// that cannot reach the coordinator tries every five minutes.
const STALE: i64 = 900;

impl NodeStatus {
    /// Whether nothing was heard of it at `now` for longer than an agent that
    /// runs and reaches the coordinator is silent.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        let silent = |seen: Timestamp| now.duration_since(seen).as_secs() > STALE;
        self.registry == RegistryState::Bound && !self.connected && self.last_seen.is_some_and(silent)
    }

    /// Whether its key is bound and it has said that it is ready.
    pub fn is_ready(&self) -> bool {
        self.registry == RegistryState::Bound && self.ready.is_some()
    }

    /// Milliseconds after its kernel started at which `step` was done.
    pub fn step_time(&self, step: Step) -> Option<u64> {
        self.steps.iter().find(|time| time.step == step).map(|time| time.uptime_ms)
    }
}

/// Whether a machine's console shows the key that enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confirmation {
    /// Nobody has said yet what it shows, or no key has enrolled yet.
    Awaited,
    /// It does.
    Confirmed,
    /// It shows another key: whoever enrolled is not that machine.
    Mismatch,
}

/// What the registry says of one generation of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegistryState {
    /// In the cluster file; no ticket was minted yet.
    Planned,
    /// Its ticket waits to be used.
    Issued,
    /// Its ticket was not used in time; `extend` revives it.
    Expired,
    /// A key is bound to it.
    Bound,
    /// It may report and nothing else, until an operator says release or revoke.
    Held,
    /// A later generation has a key.
    Superseded,
    /// An operator took its rights away, or the incarnation ended.
    Revoked,
}

impl RegistryState {
    /// The state as it stands on the wire and on the screen.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Issued => "issued",
            Self::Expired => "expired",
            Self::Bound => "bound",
            Self::Held => "held",
            Self::Superseded => "superseded",
            Self::Revoked => "revoked",
        }
    }
}

impl std::fmt::Display for RegistryState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A ticket that nobody used yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketStatus {
    /// Its name.
    pub ticket: TicketKey,
    /// For which generation.
    pub generation: u32,
    /// When its time is over.
    pub expires: Timestamp,
}

/// When a step was first done in a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTime {
    /// Which step.
    pub step: Step,
    /// Milliseconds after the kernel started.
    pub uptime_ms: u64,
}

/// Something an operator should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// When.
    pub at: Timestamp,
    /// About which node.
    pub node: NodeName,
    /// What happened and what to do.
    pub message: String,
}

/// One line of the audit trail, which only grows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number; later ones are greater.
    pub id: u64,
    /// When.
    pub at: Timestamp,
    /// Who did it: an admin, a node, a key, or `local`.
    pub who: String,
    /// From where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<std::net::IpAddr>,
    /// What was done: one word.
    pub what: String,
    /// To which node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Of which generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// In words.
    pub detail: String,
    /// Whether an operator should look.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub alarm: bool,
}

/// A machine that called without being known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stranger {
    /// Its key, which it has proven to hold.
    pub key: Fingerprint,
    /// Where it called from.
    pub from: std::net::IpAddr,
    /// When it last did.
    pub last_seen: Timestamp,
    /// Whether it has no ticket and waits to be approved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// What it says of itself, if it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Facts>,
    /// The last report it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_states_are_named_as_on_the_wire() {
        for state in [RegistryState::Planned, RegistryState::Held, RegistryState::Superseded] {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
        }
    }

    #[test]
    fn nothing_is_ready_when_nothing_is_live() {
        let status = ClusterStatus {
            pin: Fingerprint::of_spki(b"c"),
            at: Timestamp::UNIX_EPOCH,
            live: None,
            nodes: Vec::new(),
            stale: None,
            alarms: Vec::new(),
            strangers: Vec::new(),
        };
        assert!(!status.all_ready());
    }

    #[test]
    fn a_node_that_has_left_the_file_is_not_waited_for() {
        let status = r#"{
            "pin": "0000000000000000000000000000000000000000000000000000000000000000",
            "at": "2026-01-01T00:01:00Z",
            "live": {"cluster": "home", "incarnation": 1, "begun": "2026-01-01T00:00:00Z", "k3s": "v1.28.5+k3s1"},
            "nodes": [
                {"name": "s1", "role": "server", "generation": 1, "next_generation": 2, "registry": "bound",
                 "ready": "2026-01-01T00:00:50Z"},
                {"name": "a1", "role": "agent", "planned": false, "generation": 1, "next_generation": 2,
                 "registry": "bound"}
            ]
        }"#;
        let mut status: ClusterStatus = serde_json::from_str(status).unwrap();
        assert!(status.all_ready());
        assert_eq!(status.planned().count(), 1);
        status.nodes[1].planned = true;
        assert!(!status.all_ready());
    }
}
