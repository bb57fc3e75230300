//! What the providers' methods take and give.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use jiff::Timestamp;
use kiln_protocol::names::MacAddr;
use kiln_protocol::ticket::Address;
use kiln_protocol::{ClusterName, NodeName};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::record::{Record, Subject};
use crate::image::Digest;

/// What a provider can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caps {
    /// The provider's name in cluster files.
    pub name: &'static str,
    /// The longest seed that reaches a node, in bytes.
    pub max_seed: usize,
    /// Whether the serial console can be read.
    pub console: bool,
    /// Whether a node can be started under a legacy BIOS.
    pub bios: bool,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It may work all the same.
    Warning,
    /// It cannot work.
    Error,
}

/// Something a preflight found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, on what, and what to do.
    pub text: String,
}

impl Finding {
    /// It cannot work.
    pub fn error(text: impl Into<String>) -> Self {
        Self { severity: Severity::Error, text: text.into() }
    }

    /// It may work all the same.
    pub fn warning(text: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.severity {
            Severity::Warning => write!(f, "warning: {}", self.text),
            Severity::Error => write!(f, "error: {}", self.text),
        }
    }
}

/// What starts a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum NodeFirmware {
    /// Legacy BIOS.
    Bios,
    /// UEFI without Secure Boot.
    Uefi,
    /// UEFI with Secure Boot, Microsoft's keys and a TPM.
    SecureBoot,
}

/// What a node is made after: everything that cannot be changed while it
/// exists, and nothing that is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name.
    pub node: NodeName,
    /// Virtual processors.
    pub cores: NonZeroU32,
    /// Memory, in bytes.
    pub memory: u64,
    /// Size of its disk, in bytes.
    pub disk: u64,
    /// SHA-256 of the image.
    pub image: Digest,
    /// Address of the card in the cluster's network.
    pub mac: MacAddr,
    /// Whether its API server is reached from here.
    pub api: bool,
    /// What starts it.
    pub firmware: NodeFirmware,
}

impl NodeSpec {
    /// What differs, in words: one entry for each setting of `self`, the
    /// wanted one, that the node made after `was` does not have.
    pub fn drift_from(&self, was: &Self) -> Vec<String> {
        let value = |spec: &Self| serde_json::to_value(spec).unwrap_or_default();
        let (wanted, was) = (value(self), value(was));
        let Some(wanted) = wanted.as_object() else { return Vec::new() };
        let differing = wanted.iter().filter(|(key, value)| was.get(key.as_str()) != Some(value));
        differing.map(|(key, value)| format!("{key} is {}, wanted {value}", was[key.as_str()])).collect()
    }
}

/// Digest of a specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpecHash(Digest);

impl SpecHash {
    /// Of anything with one JSON form.
    pub fn of(spec: &impl Serialize) -> Self {
        // Only maps with keys that are not text fail here; no specification has one.
        let json = serde_json::to_vec(spec).unwrap_or_default();
        Self(Digest::of(&json))
    }
}

/// An image on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalImage {
    /// The qcow2 file, absolute.
    pub path: PathBuf,
    /// SHA-256 of the file.
    pub digest: Digest,
    /// Size of the disk it holds, in bytes.
    pub virtual_size: u64,
}

/// An image where nodes can be made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRef {
    /// SHA-256.
    pub digest: Digest,
    /// The provider's name for it.
    pub id: String,
}

/// The cluster's network, as far as the coordinator takes part in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetRef {
    /// Where the coordinator listens on this machine.
    pub listen: SocketAddr,
    /// Where nodes reach what listens there.
    pub reached_at: Address,
}

/// A node a provider made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRef {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name.
    pub node: NodeName,
}

/// What becomes of the seed in the node's configuration.
#[derive(Clone, PartialEq, Eq)]
pub enum SeedWish {
    /// The node finds this at its next boot.
    Give(Zeroizing<String>),
    /// As it is.
    Keep,
    /// The node has used it: nothing of it remains.
    Scrub,
}

impl fmt::Debug for SeedWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Give(_) => "Give(…)",
            Self::Keep => "Keep",
            Self::Scrub => "Scrub",
        })
    }
}

/// How a node differs from its specification, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift(pub Vec<String>);

/// What `ensure_node` found or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ensured {
    /// It was made now.
    Created(NodeRef),
    /// It was there, as specified.
    Adopted(NodeRef),
    /// It was there, made after another specification; left as it is.
    Drifted(NodeRef, Drift),
}

impl Ensured {
    /// The node.
    pub fn node(&self) -> &NodeRef {
        match self {
            Self::Created(node) | Self::Adopted(node) | Self::Drifted(node, _) => node,
        }
    }
}

/// What a node's power should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// Run.
    On,
    /// Stop: the button, and the plug when that does not help.
    Off,
    /// Start again from the reset button, as after a power cut.
    Reset,
}

/// Whether a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// It runs.
    Running,
    /// It stands still, though switched on: the guest's kernel panicked or
    /// the host's disk is full.
    Stopped,
    /// It is off.
    Off,
}

impl fmt::Display for PowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Off => "off",
        })
    }
}

/// What a node does, seen from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Whether it runs.
    pub power: PowerState,
    /// Why it does not, where the provider knows.
    pub reason: Option<String>,
    /// When it was last switched on.
    pub powered_on: Option<Timestamp>,
    /// Where its API server is reached from here.
    pub api: Option<SocketAddr>,
    /// The end of what its serial console said.
    pub console_tail: Vec<String>,
}

/// Something that exists and carries our record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The provider's name for it: a path, an id.
    pub id: String,
    /// What it says of itself.
    pub record: Record,
}

impl Object {
    /// The node it is, if it is one.
    pub fn node(&self) -> Option<&NodeName> {
        match &self.record.subject {
            Subject::Node(name) => Some(name),
            Subject::Image(_) | Subject::Net => None,
        }
    }
}

/// What exists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Ours, nodes last: in the order they can be made.
    pub ours: Vec<Object>,
    /// What stands in a place of ours but is not: its id, and why it is not.
    pub foreign: Vec<(String, String)>,
}

impl Listing {
    /// The object of a node.
    pub fn node(&self, name: &NodeName) -> Option<&Object> {
        self.ours.iter().find(|object| object.node() == Some(name))
    }
}

/// How a deletion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone now.
    Removed,
    /// It was gone already.
    Absent,
}

#[cfg(test)]
pub(crate) fn test_spec(node: &str) -> NodeSpec {
    NodeSpec {
        cluster: "home".parse().unwrap(),
        node: node.parse().unwrap(),
        cores: NonZeroU32::new(1).unwrap(),
        memory: 128 << 20,
        disk: 64 << 20,
        image: Digest::of(b"image"),
        mac: "52:54:00:00:00:01".parse().unwrap(),
        api: false,
        firmware: NodeFirmware::Uefi,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_names_the_setting_and_both_values() {
        let was = test_spec("a");
        let wanted = NodeSpec { memory: 256 << 20, ..was.clone() };
        assert_eq!(wanted.drift_from(&was), ["memory is 134217728, wanted 268435456"]);
        assert_eq!(was.drift_from(&was), [] as [&str; 0]);
        assert_ne!(SpecHash::of(&wanted), SpecHash::of(&was));
    }

    #[test]
    fn a_wish_does_not_print_the_seed() {
        let wish = SeedWish::Give(Zeroizing::new("kiln1.secret".into()));
        assert!(!format!("{wish:?}").contains("secret"));
    }
}
