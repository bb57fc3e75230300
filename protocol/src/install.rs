//! What `agent install` is given beside its payload: `install.json`, written by
//! the builder and read inside the installer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::names::K3sVersion;
use crate::seed::Contact;

/// The file's name in the payload.
pub const INSTALL_SPEC: &str = "install.json";
/// Where an installed system says what image it is, as JSON [`ImageRecord`].
pub const IMAGE_RECORD: &str = "/usr/lib/kiln/image.json";
/// Where an installed system has the seed that was baked into it, if any: a
/// coordinator's address and pin, never a ticket.
pub const BAKED_SEED: &str = "/usr/lib/kiln/seed.json";

/// What the payload is and what it becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstallSpec {
    /// Format of this file; 1.
    pub format: u32,
    /// The bake's run id, 16 hex digits.
    pub run: String,
    /// The image's record.
    pub image: ImageRecord,
    /// SHA-256 (hex) of every file of the payload, by its path in it.
    pub files: BTreeMap<String, String>,
    /// The coordinator that a machine without a ticket asks for approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<Contact>,
}

/// What an image says it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The version name, such as `alma9-k3-node-amd64-v1.28.5-v1`.
    pub version: String,
    /// The k3s release inside.
    pub k3s: K3sVersion,
}
