//! What makes the image a node: the agent, k3s, their units, and what the
//! image says of itself.

use kiln_protocol::install::{IMAGE_RECORD, ImageRecord};
use serde::{Deserialize, Serialize};

use super::super::survey::{Entry, Kind, Survey};
use super::{Expected, Verdict};
use crate::image::key::Digest;

pub(super) const CONTENTS: [&str; 2] = [IMAGE_RECORD, "/etc/systemd/system/*"];
pub(super) const DIGESTS: [&str; 2] = [AGENT, K3S];
const AGENT: &str = "/usr/local/bin/agent";
const K3S: &str = "/usr/local/bin/k3s";
const UNITS: &str = "/etc/systemd/system";

/// Units of the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Units {
    /// Those that start at boot, by the links that say so.
    pub enabled: Vec<String>,
    /// Those that cannot be started.
    pub masked: Vec<String>,
}

/// What the image says it is.
pub(in crate::inspect) fn record(survey: &Survey) -> Option<ImageRecord> {
    serde_json::from_str(&survey.text(IMAGE_RECORD)?).ok()
}

/// `PRETTY_NAME` of the image.
pub(in crate::inspect) fn os_name(survey: &Survey) -> Option<String> {
    let text = survey.text("/etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches('"').to_owned())
}

/// The units.
pub(in crate::inspect) fn units(survey: &Survey) -> Units {
    let mut units = Units::default();
    for entry in survey.entries().filter(|entry| entry.path.starts_with("/etc/systemd/system/")) {
        if entry.kind == Kind::Link && is_enabling(entry) {
            units.enabled.push(entry.name().to_owned());
        } else if entry.target.as_deref() == Some("/dev/null") {
            units.masked.push(entry.name().to_owned());
        }
    }
    for list in [&mut units.enabled, &mut units.masked] {
        list.sort();
        list.dedup();
    }
    units
}

fn is_enabling(entry: &Entry) -> bool {
    let dir = entry.path.rsplit('/').nth(1).unwrap_or_default();
    [".wants", ".requires", ".upholds"].iter().any(|kind| dir.ends_with(kind))
}

pub(super) fn judge(survey: &Survey, expected: &Expected, verdict: &mut Verdict) {
    verdict.rule("image-record", "the image says what it is, and its manifest says the same");
    match record(survey) {
        None => verdict.at(IMAGE_RECORD, "is missing or cannot be read"),
        Some(record) => {
            let mut same = |what: &str, inside: String, outside: String| {
                if inside != outside {
                    verdict.at(IMAGE_RECORD, format!("{what} is {inside} here and {outside} outside"));
                }
            };
            if let Some(version) = &expected.version {
                same("the version", record.version.clone(), version.clone());
            }
            same("the hardening", record.harden.to_string(), expected.harden.to_string());
            let told = |login: Option<&kiln_protocol::install::LoginRecord>| {
                login.map_or_else(|| "none".to_owned(), ToString::to_string)
            };
            same("the login", told(record.login.as_ref()), told(expected.login.as_ref()));
        }
    }

    verdict.rule(
        "programs",
        "agent and k3s are there, are root's alone to change, and are those that were baked",
    );
    for (path, wanted) in [(AGENT, expected.agent), (K3S, expected.k3s)] {
        program(survey, path, wanted, verdict);
    }

    verdict.rule("units", "the agent starts at boot; k3s does not before the agent has configured it");
    for name in ["kiln-agent.service", "k3s.service", "k3s-agent.service"] {
        let path = format!("{UNITS}/{name}");
        match survey.get(&path) {
            Some(entry) if entry.is_file() && (entry.uid, entry.gid) == (0, 0) && entry.mode & 0o022 == 0 => {
            }
            Some(_) => verdict.at(&path, "is no file that only root may change"),
            None => verdict.at(&path, "is missing"),
        }
    }
    let asserts = |name: &str| {
        let text = survey.text(&format!("{UNITS}/{name}")).unwrap_or_default();
        text.lines().any(|line| line.trim() == "AssertPathExists=/etc/rancher/k3s/config.yaml")
    };
    for name in ["k3s.service", "k3s-agent.service"] {
        if !asserts(name) {
            verdict.at(&format!("{UNITS}/{name}"), "would start k3s without its configuration");
        }
    }
    let enabling = |unit: &str| {
        survey
            .entries()
            .find(|entry| entry.path.starts_with(UNITS) && entry.name() == unit && is_enabling(entry))
    };
    if enabling("kiln-agent.service").is_none() {
        verdict.at(&format!("{UNITS}/kiln-agent.service"), "is not enabled");
    }
    for unit in ["k3s.service", "k3s-agent.service"] {
        if let Some(link) = enabling(unit) {
            verdict.at(&link.path, "would start k3s at the first boot");
        }
    }
}

fn program(survey: &Survey, path: &str, wanted: Option<Digest>, verdict: &mut Verdict) {
    let Some(entry) = survey.get(path) else { return verdict.at(path, "is missing") };
    if !entry.is_file() || entry.mode & 0o111 == 0 {
        verdict.at(path, "is no program");
    }
    if (entry.uid, entry.gid) != (0, 0) || entry.mode & 0o6022 != 0 {
        verdict.at(path, format!("has the owner {}:{} and the mode {:o}", entry.uid, entry.gid, entry.mode));
    }
    if let Some(wanted) = wanted
        && entry.sha256 != Some(wanted)
    {
        verdict.at(path, "is not the one the image was made from");
    }
}
