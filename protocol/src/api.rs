//! Requests and answers of the node API. HTTP/1.1 with JSON bodies over the
//! TLS of [`crate::tls`]; a refusal is an [`crate::ApiError`] with a 4xx or 5xx
//! status. Who asks is never in a body: it is the key of the connection.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::config::Incarnation;
use crate::error::ApiError;
use crate::identity::Fingerprint;
use crate::names::{ClusterName, MacAddr, NodeName, Role};
use crate::recovery::RecoveryKey;
use crate::ticket::{Proof, TicketKey};

/// `POST`: [`EnrolRequest`] to [`EnrolAnswer`].
pub const ENROL: &str = "/v1/enrol";
/// `POST`: [`ApprovalRequest`] to [`EnrolAnswer`]; `pending` until an operator
/// has approved the connection's key.
///
/// With `Prefer: wait=SECONDS` (RFC 7240) the question is held open until that
/// is so, or for so many seconds, at most [`MAX_WAIT`].
pub const APPROVAL: &str = "/v1/approval";
pub use crate::ratchet::OPEN;
pub use crate::rotation::ROTATE;
/// `GET`: [`crate::config::NodeConfig`], with an `ETag`.
///
/// With that tag in `If-None-Match` and `Prefer: wait=SECONDS` (RFC 7240) the
/// question is held open until the configuration is another one: 304 when it
/// is not after so many seconds, at most [`MAX_WAIT`].
pub const CONFIG: &str = "/v1/config";
/// The longest a question is held open, in seconds.
pub const MAX_WAIT: u32 = 300;
/// Names a request in the coordinator's log; in every answer's header.
pub const REQUEST_ID: &str = "x-request-id";
/// `POST`: [`GateRequest`] to [`GateAnswer`].
pub const GATE: &str = "/v1/gate";
/// `POST`: [`Report`], answered with 204.
pub const REPORT: &str = "/v1/report";
/// `POST`: [`SnapshotRequest`], answered with at most [`SNAPSHOT_PART`] bytes
/// of the datastore that this server is to begin with.
pub const SNAPSHOT: &str = "/v1/snapshot";
/// Bytes in one answer of [`SNAPSHOT`].
pub const SNAPSHOT_PART: usize = 256 * 1024;
/// Request bodies larger than this many bytes are refused.
pub const MAX_BODY: usize = 64 * 1024;
/// The coordinator's usual TCP port.
pub const DEFAULT_PORT: u16 = 7443;

/// Asks that the connection's key be taken for a node's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// Which ticket vouches.
    pub ticket: TicketKey,
    /// Its signature over the coordinator's pin and this connection's key.
    pub proof: Proof,
    /// What the machine says of itself.
    pub facts: Facts,
}

/// Asks what has become of a key that no ticket vouches for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRequest {
    /// What the machine says of itself.
    pub facts: Facts,
}

/// The key is bound. It carries no secret, so that it may be given again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolAnswer {
    /// The cluster.
    pub cluster: ClusterName,
    /// The name in the ticket's record.
    pub node: NodeName,
    /// The role in the ticket's record.
    pub role: Role,
    /// The generation in the ticket's record.
    pub generation: u32,
    /// Who alone may change the coordinator's pin: kept for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryKey>,
}

/// What a machine says of itself: an allow-list. The SMBIOS serial may be the
/// ticket and is therefore never among them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `/etc/machine-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// SMBIOS system uuid; changes when a disk is cloned to another VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smbios_uuid: Option<String>,
    /// `PRETTY_NAME` of os-release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Kernel release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// How the machine booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// The image's version name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// `SHA256:…` of each ssh host key, as `ssh-keygen -l` prints it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_host_keys: Vec<String>,
    /// Network cards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<Nic>,
}

/// How a machine booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    /// Legacy BIOS.
    Bios,
    /// UEFI without Secure Boot.
    Uefi,
    /// UEFI with Secure Boot in force.
    UefiSecureBoot,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// The kernel's name for it.
    pub name: String,
    /// Its address on the wire.
    pub mac: MacAddr,
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// Asks whether k3s may be started now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateRequest {
    /// The incarnation whose configuration is on disk and synced.
    pub incarnation: Incarnation,
    /// The node's clock, seconds since 1970. k3s mints certificates at its
    /// first start, so it must agree with the coordinator's within
    /// [`MAX_CLOCK_SKEW`].
    pub clock: i64,
}

/// Asks for a part of a datastore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRequest {
    /// From which byte.
    pub offset: u64,
}

/// Seconds by which a node's clock may differ at the gate.
pub const MAX_CLOCK_SKEW: i64 = 60;

/// Whether k3s may be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum GateAnswer {
    /// Start it. Asking again gives the same answer.
    Go,
    /// Not yet.
    Wait {
        /// What is waited for, in words.
        reason: String,
        /// Seconds until asking again makes sense.
        retry_after: u32,
    },
}

/// The steps of a node's way into its cluster, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Finding a ticket and first settings.
    Seed,
    /// Making the node's key.
    Key,
    /// Having the key bound.
    Enrol,
    /// Fetching the configuration and writing it.
    Configure,
    /// Waiting for the word to start k3s.
    Gate,
    /// Starting k3s and waiting for it to answer.
    StartK3s,
    /// Done: the k3s unit is enabled.
    Ready,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Self; 7] =
        [Self::Seed, Self::Key, Self::Enrol, Self::Configure, Self::Gate, Self::StartK3s, Self::Ready];

    /// The step's name on the wire, in logs and on the console.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Seed => "seed",
            Self::Key => "key",
            Self::Enrol => "enrol",
            Self::Configure => "configure",
            Self::Gate => "gate",
            Self::StartK3s => "start_k3s",
            Self::Ready => "ready",
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// How far a step is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum StepState {
    /// Under way; `detail` says what is waited for.
    Running {
        /// In words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// Finished.
    Done,
    /// Failed this time; the agent tries again.
    Failed {
        /// Why.
        error: ApiError,
    },
}

/// Tells how far a node is. Reports may be lost or repeated: `sequence` grows
/// within a boot and the coordinator keeps the newest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Grows with each report of a boot.
    pub sequence: u64,
    /// Milliseconds since the kernel started, when it was made.
    pub uptime_ms: u64,
    /// Which step.
    pub step: Step,
    /// How far it is.
    #[serde(flatten)]
    pub state: StepState,
    /// What the machine says of itself now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Facts>,
    /// What the agent has used so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// What the agent itself has cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time, user and system, in milliseconds.
    pub cpu_ms: u64,
    /// Largest resident set so far, in KiB.
    pub max_rss_kib: u64,
}

/// Who stands behind a connection: the registry's answer, asked on each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// A node whose key is bound.
    Node {
        /// Its name.
        name: NodeName,
        /// Its generation.
        generation: u32,
    },
    /// An operator or a CI job.
    Admin {
        /// What it was called when it was made.
        name: String,
    },
    /// A key that nobody vouched for yet.
    Unknown(Fingerprint),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_flat_and_small() {
        let report = Report {
            boot_id: "b".into(),
            sequence: 3,
            uptime_ms: 21_400,
            step: Step::StartK3s,
            state: StepState::Running { detail: Some("waiting for /ping".into()) },
            facts: None,
            usage: None,
        };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(
            text,
            r#"{"boot_id":"b","sequence":3,"uptime_ms":21400,"step":"start_k3s","state":"running","detail":"waiting for /ping"}"#
        );
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }

    #[test]
    fn steps_are_in_order_and_named_as_on_the_wire() {
        assert!(Step::ALL.is_sorted());
        for step in Step::ALL {
            assert_eq!(serde_json::to_string(&step).unwrap(), format!("\"{step}\""));
        }
    }
}
