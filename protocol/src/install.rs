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

/// A package of an installed system, as its RPM database has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its epoch; 0 where it has none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u32,
    /// Its version.
    pub version: String,
    /// Its release.
    pub release: String,
    /// What it runs on: `x86_64`, `noarch`.
    pub arch: String,
    /// Its licence as the package states it, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl std::fmt::Display for Package {
    /// As rpm prints it: `name-version-release.arch`, with the epoch, if any,
    /// before the version.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-", self.name)?;
        if self.epoch > 0 {
            write!(f, "{}:", self.epoch)?;
        }
        write!(f, "{}-{}.{}", self.version, self.release, self.arch)
    }
}

/// What an image says it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The version name, such as `alma9-k3-node-amd64-v1.28.5-v1`.
    pub version: String,
    /// The k3s release inside.
    pub k3s: K3sVersion,
}
