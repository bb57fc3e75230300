//! Who an object belongs to, written in the object itself before it is whole.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use kiln_protocol::{ClusterName, NodeName};
use serde::{Deserialize, Serialize};

use super::types::SpecHash;
use crate::image::Digest;
use crate::run::RunId;

/// The record's format.
const FORMAT: u32 = 1;
/// The file that holds it, in the object's directory.
pub(crate) const RECORD_FILE: &str = "record.json";
/// Longer files are not records.
const MAX_RECORD: u64 = 16 * 1024;

/// An installation of Kiln: 16 hex digits, made once per state directory, so
/// that two people's clusters of one name are never taken for each other's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Owner(RunId);

impl Owner {
    /// A new one.
    pub fn generate() -> Self {
        Self(RunId::generate())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Owner {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> Result<Self> {
        let run = text.parse().ok().with_context(|| format!("{text:?} is not an owner's 16 hex digits"))?;
        Ok(Self(run))
    }
}

impl TryFrom<String> for Owner {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|error: anyhow::Error| error.to_string())
    }
}

impl From<Owner> for String {
    fn from(owner: Owner) -> Self {
        owner.to_string()
    }
}

/// Whose objects are meant. Both parts are always there, by type: an empty
/// selector would mean everybody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The installation.
    pub owner: Owner,
    /// The cluster.
    pub cluster: ClusterName,
}

/// What an object is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The node of this name.
    Node(NodeName),
    /// The image with this SHA-256.
    Image(Digest),
    /// The cluster's network.
    Net,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Image(digest) => write!(f, "image {}", &digest.to_string()[..12]),
            Self::Net => f.write_str("network"),
        }
    }
}

/// The ownership record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Format of this record; 1.
    pub v: u32,
    /// The installation that made it.
    pub owner: Owner,
    /// The cluster it is part of.
    pub cluster: ClusterName,
    /// What it is.
    pub subject: Subject,
    /// The run that made it.
    pub run: RunId,
    /// What it was made after.
    pub spec_hash: SpecHash,
    /// When.
    pub created: Timestamp,
    /// When it may be removed by whoever cleans up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

impl Record {
    /// A record for an object this run makes now.
    pub fn new(selector: &Selector, subject: Subject, run: RunId, spec_hash: SpecHash) -> Self {
        let Selector { owner, cluster } = selector.clone();
        Self { v: FORMAT, owner, cluster, subject, run, spec_hash, created: Timestamp::now(), expires: None }
    }

    /// Whether the selector means this object.
    pub fn matches(&self, selector: &Selector) -> bool {
        self.owner == selector.owner && self.cluster == selector.cluster
    }

    /// Why the selector does not mean this object, in words.
    pub(crate) fn foreign_to(&self, selector: &Selector) -> Option<String> {
        if self.owner != selector.owner {
            Some(format!("belongs to another installation of Kiln ({})", self.owner))
        } else if self.cluster != selector.cluster {
            Some(format!("belongs to the cluster {}", self.cluster))
        } else {
            None
        }
    }

    /// Decodes a record.
    pub fn parse(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        let Version { v } = serde_json::from_str(text).context("decoding the record")?;
        if v != FORMAT {
            bail!("the record is of format {v}, this builder knows {FORMAT}: use the builder that made it");
        }
        serde_json::from_str(text).context("decoding the record")
    }

    /// Reads the record an object carries; `None` if it carries none.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(RECORD_FILE);
        let reading = || format!("reading the ownership record {}", path.display());
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(reading),
            Ok(data) if data.len() > MAX_RECORD => bail!("{} is too large for a record", path.display()),
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(&path).with_context(reading)?;
        Self::parse(&text).with_context(reading).map(Some)
    }

    /// Writes the record into the object's directory.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        crate::cluster::files::write_json(&dir.join(RECORD_FILE), self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(owner: &str, cluster: &str) -> Selector {
        Selector { owner: owner.parse().unwrap(), cluster: cluster.parse().unwrap() }
    }

    fn record() -> Record {
        let node = Subject::Node("k3s-s1".parse().unwrap());
        Record::new(&selector("00000000000000aa", "home"), node, RunId::generate(), SpecHash::of(&"x"))
    }

    #[test]
    fn a_record_survives_its_file() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), None);
        let record = record();
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), Some(record));
    }

    #[test]
    fn owner_and_cluster_must_both_match() {
        let record = record();
        assert!(record.matches(&selector("00000000000000aa", "home")));
        assert!(!record.matches(&selector("00000000000000aa", "home2")));
        assert!(!record.matches(&selector("00000000000000ab", "home")));
        assert_eq!(record.foreign_to(&selector("00000000000000aa", "home")), None);
    }

    #[test]
    fn what_is_not_a_record_is_an_error_and_never_a_match() {
        let good = serde_json::to_string(&record()).unwrap();
        for (wrong, why) in [
            (String::new(), "decoding"),
            (good.replace("\"v\":1", "\"v\":2"), "format 2"),
            (good.replace("\"home\"", "\"\""), "cluster name"),
            (good.replace("00000000000000aa", ""), "owner"),
            (good.replace("\"run\"", "\"ran\""), "unknown field"),
        ] {
            let error = format!("{:#}", Record::parse(&wrong).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
    }
}
