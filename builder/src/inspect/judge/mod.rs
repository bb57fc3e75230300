//! What must be true of a finished image, said independently of the program
//! that made it so: nothing of the agent's sealing code or tables is used.
//!
//! | module | what it is about |
//! |---|---|
//! | [`traces`] | what must not be there, by path |
//! | [`identity`] | machine-id, boot entries, private keys |
//! | [`accounts`] | who can log in |
//! | [`node`] | agent, k3s, units, the image's own record |
//! | [`boot`] | partitions, boot loaders, kernels |
//! | [`labels`] | SELinux |
//! | [`hardening`] | the baseline |

mod accounts;
mod boot;
mod hardening;
mod identity;
mod labels;
mod node;
mod traces;

use std::fmt;

use kiln_protocol::install::{Hardening, LoginRecord};
use serde::{Deserialize, Serialize};

use super::disk::DiskFacts;
use super::survey::{Survey, Wants};
use crate::image::key::Digest;

pub(super) use accounts::logins;
pub use labels::Labels;
pub use node::Units;
pub(super) use node::{os_name, record, units};

/// Something that should not be so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The rule it is against.
    pub rule: String,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What is there, or is not.
    pub what: String,
    /// Why that matters.
    pub why: String,
}

impl Finding {
    /// Where and what, without the rule.
    pub fn at_and_what(&self) -> String {
        match &self.path {
            Some(path) => format!("{path} {}", self.what),
            None => self.what.clone(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.at_and_what())
    }
}

/// A rule that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Its name.
    pub rule: String,
    /// Why there is such a rule.
    pub why: String,
    /// How many findings there are.
    pub findings: usize,
}

/// What the image is said to be, by its manifest or whoever baked it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Its version name.
    pub version: Option<String>,
    /// How it is hardened.
    pub harden: Hardening,
    /// Its break-glass login.
    pub login: Option<LoginRecord>,
    /// The agent's digest.
    pub agent: Option<Digest>,
    /// k3s's digest.
    pub k3s: Option<Digest>,
}

/// The rules, as they are gone through.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) checks: Vec<Check>,
    pub(super) findings: Vec<Finding>,
    /// Worth a look, and no reason to refuse the image.
    pub(super) notes: Vec<String>,
}

impl Verdict {
    /// Begins a rule; what is found from now on is against it.
    fn rule(&mut self, rule: &str, why: &str) {
        self.checks.push(Check { rule: rule.to_owned(), why: why.to_owned(), findings: 0 });
    }

    fn against(&mut self, path: Option<&str>, what: impl Into<String>) {
        let Some(check) = self.checks.last_mut() else { return };
        check.findings += 1;
        self.findings.push(Finding {
            rule: check.rule.clone(),
            path: path.map(str::to_owned),
            what: what.into(),
            why: check.why.clone(),
        });
    }

    fn at(&mut self, path: &str, what: impl Into<String>) {
        self.against(Some(path), what);
    }
}

/// What the rules need to know of an image.
pub(super) fn wants() -> Wants {
    let mut contents = vec!["/etc/os-release", "/usr/lib/os-release"];
    contents.extend(identity::CONTENTS);
    contents.extend(accounts::CONTENTS);
    contents.extend(node::CONTENTS);
    contents.extend(hardening::CONTENTS);
    let mut digests = node::DIGESTS.to_vec();
    digests.extend(boot::DIGESTS);
    Wants { contents, digests, labels: labels::PATHS.to_vec() }
}

/// Goes through every rule.
pub(super) fn judge(survey: &Survey, disk: &DiskFacts, expected: &Expected) -> (Verdict, Labels) {
    let mut verdict = Verdict::default();
    traces::judge(survey, expected, &mut verdict);
    identity::judge(survey, &mut verdict);
    accounts::judge(survey, expected, &mut verdict);
    node::judge(survey, expected, &mut verdict);
    boot::judge(survey, disk, &mut verdict);
    let labels = labels::judge(survey, &mut verdict);
    if expected.harden.has_baseline() {
        hardening::judge(survey, &mut verdict);
    }
    (verdict, labels)
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
