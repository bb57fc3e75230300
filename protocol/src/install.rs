//! What `agent install` is given beside its payload: `install.json`, written by
//! the builder and read inside the installer.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::{K3sVersion, OscapProfile, PasswordHash, SshPublicKey, UserName};
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
    /// The break-glass login, if there is to be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
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
    /// How it is hardened.
    #[serde(default)]
    pub harden: Hardening,
    /// The break-glass login it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<LoginRecord>,
}

/// How an image is hardened: `none`, `baseline` or `oscap:<profile>`. A record
/// that says nothing of it is of an image that is not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Hardening {
    /// As the distribution has it.
    #[default]
    None,
    /// What Kiln does itself.
    Baseline,
    /// The baseline, and a profile of the SCAP Security Guide before it.
    Oscap(OscapProfile),
}

impl Hardening {
    /// Whether Kiln's own baseline applies.
    pub fn has_baseline(&self) -> bool {
        *self != Self::None
    }

    /// The profile of the SCAP Security Guide.
    pub fn profile(&self) -> Option<&OscapProfile> {
        match self {
            Self::Oscap(profile) => Some(profile),
            Self::None | Self::Baseline => None,
        }
    }
}

impl fmt::Display for Hardening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Baseline => f.write_str("baseline"),
            Self::Oscap(profile) => write!(f, "oscap:{profile}"),
        }
    }
}

impl FromStr for Hardening {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "baseline" => Ok(Self::Baseline),
            Some(("oscap", profile)) => profile.parse().map(Self::Oscap).map_err(|error| format!("{error}")),
            _ => Err(format!("{text:?} is neither none nor baseline nor oscap:<profile>")),
        }
    }
}

impl TryFrom<String> for Hardening {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Hardening> for String {
    fn from(hardening: Hardening) -> Self {
        hardening.to_string()
    }
}

/// A login for when nothing else works, made in the image itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The account; it may become root.
    pub user: UserName,
    /// How one logs in.
    pub credential: Credential,
}

/// How one logs in with a break-glass login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Credential {
    /// Over ssh with one of these keys.
    SshKeys(Vec<SshPublicKey>),
    /// On the console with the password of this hash.
    PasswordHash(PasswordHash),
}

/// What an image tells of its break-glass login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginRecord {
    /// The account.
    pub user: UserName,
    /// How one logs in.
    pub by: LoginWay,
}

/// The ways of a break-glass login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoginWay {
    /// Over ssh, with a key.
    SshKey,
    /// On the console, with a password.
    Password,
}

impl Login {
    /// What is told of it.
    pub fn record(&self) -> LoginRecord {
        let by = match self.credential {
            Credential::SshKeys(_) => LoginWay::SshKey,
            Credential::PasswordHash(_) => LoginWay::Password,
        };
        LoginRecord { user: self.user.clone(), by }
    }
}

impl fmt::Display for LoginRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.by {
            LoginWay::SshKey => write!(f, "{} over ssh with a key", self.user),
            LoginWay::Password => write!(f, "{} on the console with a password", self.user),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardening_is_one_word() {
        for text in ["none", "baseline", "oscap:cis_server_l1"] {
            let hardening: Hardening = text.parse().unwrap();
            assert_eq!(hardening.to_string(), text);
            let json = serde_json::to_string(&hardening).unwrap();
            assert_eq!(serde_json::from_str::<Hardening>(&json).unwrap(), hardening);
        }
        for wrong in ["", "oscap", "oscap:", "oscap:$(id)", "oscap:a b", "Baseline", "strict"] {
            assert!(wrong.parse::<Hardening>().is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn a_record_of_before_hardening_is_read() {
        let old = r#"{"version":"v","k3s":"v1.28.5+k3s1"}"#;
        let record: ImageRecord = serde_json::from_str(old).unwrap();
        assert_eq!((record.harden, record.login), (Hardening::None, None));
    }
}
