//! What `kickstart/survey.py` told of an image: facts, read strictly. One that
//! is not whole is no survey.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::image::key::Digest;
use crate::run::RunId;

const FORMAT: u32 = 1;

/// What the survey is asked for, as the script reads it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Wants {
    /// Files whose text is needed.
    pub contents: Vec<&'static str>,
    /// Files whose digest is needed.
    pub digests: Vec<&'static str>,
    /// Paths whose label in the policy is needed.
    pub labels: Vec<&'static str>,
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    File,
    Dir,
    Link,
    Char,
    Block,
    Fifo,
    Socket,
}

/// One path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub path: String,
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// In bytes.
    pub size: u64,
    /// The raw attribute, with the zero byte that C programs store.
    #[serde(default)]
    pub label: Option<String>,
    /// Of a symlink.
    #[serde(default)]
    pub target: Option<String>,
    #[serde(default)]
    pub sha256: Option<Digest>,
    /// The text, base64.
    #[serde(default)]
    content: Option<String>,
    /// Whether there is a PEM private key in it.
    #[serde(default)]
    pub private_key: bool,
}

/// A package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Epoch, version and release.
    pub evr: String,
    /// Its architecture.
    pub arch: String,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Fact {
    Begin { format: u32, run: RunId },
    Entry(Box<Entry>),
    Label { path: String, wanted: String },
    Package(Package),
    Error { what: String },
    End { run: RunId, told: usize },
}

/// Why a survey cannot be judged.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWhole {
    /// A line is no fact.
    #[error("line {line} of the survey cannot be read ({why})")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// Something could not be read inside.
    #[error("the image could not be read as a whole: {0}")]
    Unread(String),
    /// Begin or end are missing or of another run.
    #[error("the survey is cut off: {0}")]
    CutOff(&'static str),
}

/// A whole survey.
#[derive(Debug, Default)]
pub(super) struct Survey {
    entries: BTreeMap<String, Entry>,
    /// What the policy has, by path.
    pub wanted_labels: BTreeMap<String, String>,
    pub packages: Vec<Package>,
}

impl Survey {
    /// Reads the survey of `run` from a file.
    pub(super) fn read(path: &Path, run: &RunId) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Ok(Self::parse(&bytes, run)?)
    }

    /// Reads the survey of `run`.
    pub(super) fn parse(bytes: &[u8], run: &RunId) -> Result<Self, NotWhole> {
        let mut survey = Self::default();
        let mut ended = false;
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        for (index, line) in lines.enumerate() {
            let wrong = |why: String| NotWhole::Line { line: index + 1, why };
            if ended {
                return Err(NotWhole::CutOff("something comes after its end"));
            }
            let line = line.strip_suffix(b"\n").ok_or(NotWhole::CutOff("its last line has no end"))?;
            let fact: Fact = serde_json::from_slice(line).map_err(|error| wrong(error.to_string()))?;
            match fact {
                Fact::Begin { format: FORMAT, run: of } if index == 0 && of == *run => {}
                Fact::Begin { .. } => return Err(NotWhole::CutOff("its begin is not where it should be")),
                _ if index == 0 => return Err(NotWhole::CutOff("it has no begin")),
                Fact::Entry(entry) => {
                    if survey.entries.insert(entry.path.clone(), *entry).is_some() {
                        return Err(wrong("a path is told twice".to_owned()));
                    }
                }
                Fact::Label { path, wanted } => {
                    survey.wanted_labels.insert(path, wanted);
                }
                Fact::Package(package) => survey.packages.push(package),
                Fact::Error { what } => return Err(NotWhole::Unread(what)),
                Fact::End { run: of, told } if of == *run && told == index => ended = true,
                Fact::End { .. } => return Err(NotWhole::CutOff("its end does not fit what came before")),
            }
        }
        if !ended {
            return Err(NotWhole::CutOff("it has no end"));
        }
        if survey.entries.is_empty() || survey.packages.is_empty() {
            return Err(NotWhole::CutOff("it tells of no files or no packages"));
        }
        Ok(survey)
    }

    /// What there is at a path. Directories above it are taken as they are
    /// named: a symlink is not followed.
    pub(super) fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// Everything, sorted by path.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The paths directly in a directory.
    pub(super) fn in_dir<'a>(&'a self, dir: &'a str) -> impl Iterator<Item = &'a Entry> {
        let below = self.entries.range(format!("{dir}/")..).map(|(_, entry)| entry);
        let below = below.take_while(move |entry| entry.path.starts_with(dir));
        below.filter(move |entry| {
            let name = entry.path[dir.len()..].strip_prefix('/');
            name.is_some_and(|name| !name.contains('/'))
        })
    }

    /// The text of a file, links followed once; none if it was not asked for,
    /// is not there, or is no text.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let entry = self.get(path)?;
        let entry = match &entry.target {
            Some(target) => self.get(&resolve(path, target))?,
            None => entry,
        };
        String::from_utf8(STANDARD.decode(entry.content.as_ref()?).ok()?).ok()
    }
}

impl Entry {
    /// Its name without directory.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Its label as the policy writes it.
    pub(super) fn label(&self) -> Option<&str> {
        self.label.as_deref().map(|label| label.strip_suffix('\0').unwrap_or(label))
    }

    /// Whether it is a regular file.
    pub(super) fn is_file(&self) -> bool {
        self.kind == Kind::File
    }
}

/// Where a symlink at `path` leads, textually.
fn resolve(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = match target.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => path.split('/').filter(|part| !part.is_empty()).collect(),
    };
    if !target.starts_with('/') {
        parts.pop();
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
#[path = "survey_tests.rs"]
pub(super) mod tests;
