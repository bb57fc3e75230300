//! What stands beside a packed image: `manifest.json` and `SHA256SUMS`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kiln_protocol::install::{Hardening, LoginRecord};
use kiln_protocol::names::K3sVersion;
use serde::{Deserialize, Serialize};

use super::key::Digest;
use super::version::VersionName;

/// The packed disk's name in the result directory.
pub const DISK: &str = "disk.qcow2";
/// The manifest's name.
pub const MANIFEST: &str = "manifest.json";
/// The name of the list of packages, one a line as rpm names them.
pub const PACKAGES: &str = "packages.txt";
/// The name of the list of digests, as `sha256sum -c` reads it.
pub const SUMS: &str = "SHA256SUMS";

/// A file that went in or came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its name, without directory.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Digest,
}

/// How long a stage took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// The stage's name.
    pub stage: String,
    /// Seconds from its begin to its end, in this run or the one that made the
    /// result that was used again.
    pub seconds: f64,
    /// Whether its result was used again.
    pub cached: bool,
}

/// What an image is and what it was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The image's name.
    pub version: VersionName,
    /// The system it is installed from, as its media call it.
    pub base_os: String,
    /// `amd64` or `arm64`.
    pub architecture: String,
    /// The k3s build inside.
    pub k3s_version: K3sVersion,
    /// The release of the image itself.
    pub distribution_release: u32,
    /// When it was packed.
    pub build_date: Timestamp,
    /// The disk, relative to this file.
    pub qcow2_path: String,
    /// The packed disk's size in GiB, to two digits.
    pub qcow2_size_gb: f64,
    /// The template made of it, where a provider has made one.
    pub template_id: Option<String>,
    /// How it is hardened.
    #[serde(default)]
    pub harden: Hardening,
    /// The break-glass login it has.
    #[serde(default)]
    pub login: Option<LoginRecord>,
    /// Digest of everything the image depends on: equal keys, equal images.
    pub content_key: Digest,
    /// The disk's size as a guest sees it, in bytes.
    pub virtual_size: u64,
    /// What went in, by what it is.
    pub inputs: BTreeMap<String, FileRecord>,
    /// What came out.
    pub outputs: BTreeMap<String, FileRecord>,
    /// The stages in order.
    pub stages: Vec<StageRecord>,
    /// Versions of the programs that took part.
    pub tools: BTreeMap<String, String>,
    /// What `agent install` reported: its steps and the seal's checks.
    pub install_report: serde_json::Value,
}

/// A manifest of a disk, for tests.
#[cfg(test)]
pub(crate) fn test_manifest(disk: &[u8]) -> Manifest {
    let version: VersionName = "alma9-k3-node-amd64-v1.28.5-v1".parse().expect("a version name");
    let record = FileRecord { name: DISK.into(), size: disk.len() as u64, sha256: Digest::of(disk) };
    Manifest {
        base_os: "AlmaLinux 9.5".into(),
        architecture: "amd64".into(),
        k3s_version: version.k3s.first_build(),
        distribution_release: version.release,
        build_date: Timestamp::UNIX_EPOCH,
        qcow2_path: DISK.into(),
        qcow2_size_gb: 0.0,
        template_id: None,
        content_key: Digest::of(b"key"),
        virtual_size: 1,
        inputs: BTreeMap::new(),
        outputs: BTreeMap::from([("disk".into(), record)]),
        stages: Vec::new(),
        tools: BTreeMap::new(),
        harden: kiln_protocol::install::Hardening::None,
        login: None,
        install_report: serde_json::Value::Null,
        version,
    }
}

/// Bytes in GiB, to two digits.
#[expect(clippy::cast_precision_loss, reason = "two digits are kept")]
pub fn gigabytes(bytes: u64) -> f64 {
    (bytes as f64 / f64::from(1 << 30) * 100.0).round() / 100.0
}

/// The lines of `SHA256SUMS`.
pub fn sums<'a>(files: impl IntoIterator<Item = (&'a str, Digest)>) -> String {
    let mut text = String::new();
    for (name, digest) in files {
        text += format!("{digest}  {name}\n").as_str();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_what_sha256sum_reads() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(DISK), b"disk").unwrap();
        std::fs::write(dir.path().join(MANIFEST), b"{}").unwrap();
        let text = sums([(DISK, Digest::of(b"disk")), (MANIFEST, Digest::of(b"{}"))]);
        std::fs::write(dir.path().join(SUMS), text).unwrap();
        let mut check = std::process::Command::new("sha256sum");
        check.args(["--check", "--strict", "--quiet", SUMS]).current_dir(dir.path());
        assert!(check.status().unwrap().success());
    }

    #[test]
    fn sizes_have_two_digits() {
        assert!((gigabytes(1_500_000_000) - 1.4).abs() < f64::EPSILON);
        assert!((gigabytes(0)).abs() < f64::EPSILON);
    }
}
