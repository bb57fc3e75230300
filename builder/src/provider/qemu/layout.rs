//! What is where in a cluster's directory, and how a directory of ours comes
//! into being: whole, with its record in it, or not at all.
//!
//! ```text
//! net/                 record.json  net.json
//! images/<sha256>/     record.json  disk.qcow2
//! nodes/<name>/        record.json  node.json  disk.qcow2  vars.fd  tpm/  seed
//!                      console.log  console.log.1  power.json  and QEMU's own files
//! ```

use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cluster::files;
use crate::image::Digest;
use crate::provider::record::{Record, Selector, Subject};
use crate::provider::types::NodeSpec;
use crate::run::dirs::create_private;

pub(super) const DISK: &str = "disk.qcow2";
pub(super) const VARS: &str = "vars.fd";
pub(super) const SEED: &str = "seed";
pub(super) const CONSOLE: &str = "console.log";
pub(super) const OLD_CONSOLE: &str = "console.log.1";
const NET: &str = "net.json";
const NODE: &str = "node.json";
const POWER: &str = "power.json";

/// A cluster's network: what was chosen for it once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NetFile {
    /// Where the coordinator listens on 127.0.0.1.
    pub(super) coordinator_port: u16,
    /// The nodes' shared segment.
    pub(super) segment: SocketAddrV4,
}

/// A node: what it was made after, and what was chosen for it once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeFile {
    pub(super) spec: NodeSpec,
    /// The port of 127.0.0.1 that leads to its API server.
    pub(super) api_port: Option<u16>,
}

/// When and how a node was last switched on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PowerFile {
    /// When.
    pub(super) on: Timestamp,
    /// What runs its instructions: `kvm` or `tcg`.
    pub(super) accel: String,
}

/// Where an object's directory is, below the cluster's.
pub(super) fn dir_of(cluster: &Path, subject: &Subject) -> PathBuf {
    match subject {
        Subject::Net => cluster.join("net"),
        Subject::Image(digest) => cluster.join("images").join(digest.to_string()),
        Subject::Node(name) => cluster.join("nodes").join(name.as_str()),
    }
}

/// Makes an object's directory unless it is there: `fill` puts in what the
/// object cannot be without. Says whether it made it. Refuses one that
/// belongs to somebody else.
pub(super) fn ensure_dir(
    dir: &Path,
    record: &Record,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<bool> {
    let selector = Selector { owner: record.owner.clone(), cluster: record.cluster.clone() };
    if dir.symlink_metadata().is_ok() {
        check_record(dir, &record.subject, &selector)?;
        return Ok(false);
    }
    let parent = dir.parent().with_context(|| format!("{} has no parent", dir.display()))?;
    create_private(parent)?;
    let mut name = std::ffi::OsString::from(".new-");
    name.push(dir.file_name().with_context(|| format!("{} has no name", dir.display()))?);
    // What a killed run began: the lock is ours, so nobody works on it.
    let new = parent.join(name);
    files::remove(&new)?;
    let made = (|| -> Result<()> {
        create_private(&new)?;
        fill(&new)?;
        record.write(&new)?;
        std::fs::rename(&new, dir).and_then(|()| files::sync_dir(parent))?;
        Ok(())
    })();
    if made.is_err() {
        let _ = files::remove(&new);
    }
    made.map(|()| true).with_context(|| format!("making {}", dir.display()))
}

/// The record an object carries now, if it is the object it should be and the
/// selector's.
pub(super) fn check_record(dir: &Path, subject: &Subject, selector: &Selector) -> Result<Record> {
    let Some(record) = Record::read(dir)? else {
        bail!("{} carries no ownership record: it was not made by Kiln, and is left alone", dir.display());
    };
    if let Some(why) = record.foreign_to(selector) {
        bail!("{} {why}, and is left alone", dir.display());
    }
    if record.subject != *subject {
        bail!("{} says it is the {}, and is left alone", dir.display(), record.subject);
    }
    Ok(record)
}

/// Removes an object's directory, its record last, so that what a crash
/// leaves still says whose it is.
pub(super) fn remove_dir(dir: &Path) -> Result<()> {
    let reading = || format!("reading {}", dir.display());
    for entry in std::fs::read_dir(dir).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        if entry.file_name() != crate::provider::record::RECORD_FILE {
            files::remove(&entry.path())?;
        }
    }
    files::remove(dir)
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>> {
    let Some(text) = files::read_optional(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).with_context(|| format!("reading {}", path.display()))
}

impl NetFile {
    pub(super) fn read(cluster: &Path) -> Result<Self> {
        let dir = dir_of(cluster, &Subject::Net);
        read_json(&dir.join(NET))?.with_context(|| format!("{} has no {NET}", dir.display()))
    }

    pub(super) fn write(self, dir: &Path) -> Result<()> {
        files::write_json(&dir.join(NET), &self)
    }
}

impl NodeFile {
    pub(super) fn read(dir: &Path) -> Result<Self> {
        read_json(&dir.join(NODE))?.with_context(|| format!("{} has no {NODE}", dir.display()))
    }

    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        files::write_json(&dir.join(NODE), self)
    }
}

impl PowerFile {
    /// Of a node that was switched on before.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        read_json(&dir.join(POWER)).ok().flatten()
    }

    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        files::write_json(&dir.join(POWER), self)
    }
}

/// Every directory that stands where an object's would, with its subject
/// where its name is one's.
pub(super) fn places(cluster: &Path) -> Result<Vec<(PathBuf, Option<Subject>)>> {
    let mut places = Vec::new();
    let net = dir_of(cluster, &Subject::Net);
    if net.symlink_metadata().is_ok() {
        places.push((net, Some(Subject::Net)));
    }
    for (kind, subject) in [
        (
            "images",
            (|name: &str| Digest::try_from(name.to_owned()).ok().map(Subject::Image))
                as fn(&str) -> Option<Subject>,
        ),
        ("nodes", |name| name.parse().ok().map(Subject::Node)),
    ] {
        let dir = cluster.join(kind);
        let reading = || format!("reading {}", dir.display());
        let entries = match std::fs::read_dir(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.with_context(reading)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.with_context(reading)?.file_name();
            // A beginning that was never finished: nothing of it was used.
            if !name.to_string_lossy().starts_with(".new-") {
                found.push((dir.join(&name), name.to_str().and_then(subject)));
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        places.extend(found);
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::types::SpecHash;
    use crate::run::RunId;

    fn record(cluster: &str) -> Record {
        let selector =
            Selector { owner: "00000000000000aa".parse().unwrap(), cluster: cluster.parse().unwrap() };
        Record::new(&selector, Subject::Net, RunId::generate(), SpecHash::of(&1))
    }

    #[test]
    fn a_directory_appears_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("net");
        let failed = ensure_dir(&dir, &record("home"), |new| {
            std::fs::write(new.join("half"), "x")?;
            bail!("the disk is full")
        });
        assert!(format!("{:#}", failed.unwrap_err()).contains("disk is full"));
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
        assert!(ensure_dir(&dir, &record("home"), |_| Ok(())).unwrap());
        assert!(!ensure_dir(&dir, &record("home"), |_| panic!("made twice")).unwrap());
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("net");
        std::fs::create_dir(&dir).unwrap();
        let error = ensure_dir(&dir, &record("home"), |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("no ownership record"), "{error}");
        record("other").write(&dir).unwrap();
        let error = ensure_dir(&dir, &record("home"), |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("cluster other"), "{error}");
    }
}
