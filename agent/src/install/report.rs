//! What `agent install` did, as JSON and for people.

use std::fmt;
use std::path::{Path, PathBuf};

use kiln_protocol::install::{ImageRecord, Package};
use serde::{Deserialize, Serialize};

use super::labels::Labels;

/// The report of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether the root is as it should be now.
    pub ok: bool,
    /// The root, as it was named.
    pub root: PathBuf,
    /// What was installed.
    pub image: ImageRecord,
    /// Files and links put in their places.
    pub placed: Vec<Placed>,
    /// Units masked and accounts locked by the hardening baseline.
    #[serde(default)]
    pub hardened: Vec<Placed>,
    /// Each rule of the seal, in order; empty with the root `/`.
    pub sealed: Vec<Sealed>,
    /// SELinux labels.
    pub labels: Labels,
    /// The packages of the root.
    pub packages: Vec<Package>,
    /// What is not as one would expect, and does not make the run fail.
    pub warnings: Vec<String>,
}

/// A file or link in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Its path inside the root.
    pub path: PathBuf,
    /// Whether it had to be written.
    pub changed: bool,
}

/// Directories that the system's own packages make and label.
const OF_THE_SYSTEM: [&str; 16] = [
    "/",
    "/etc",
    "/etc/modprobe.d",
    "/etc/ssh",
    "/etc/ssh/sshd_config.d",
    "/etc/sudoers.d",
    "/etc/sysctl.d",
    "/etc/systemd",
    "/etc/systemd/system",
    "/home",
    "/usr",
    "/usr/lib",
    "/usr/local",
    "/usr/local/bin",
    "/var",
    "/var/lib",
];

impl Placed {
    /// What should have its label: the path, and the directories around it
    /// that are ours, whichever run it was that made them.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let system = |dir: &&Path| !OF_THE_SYSTEM.iter().any(|system| *dir == Path::new(system));
        self.path.ancestors().take_while(system).map(PathBuf::from).collect()
    }
}

/// What one rule of the seal found and did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The rule's name.
    pub rule: String,
    /// Why there is such a rule.
    pub why: String,
    /// What was against it before, at most [`Sealed::SHOWN`] paths.
    pub found: Vec<String>,
    /// How many paths were against it before.
    pub count: usize,
    /// Whether nothing is against it now.
    pub ok: bool,
    /// Why it is not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Sealed {
    /// A report lists no more paths than this for one rule.
    pub const SHOWN: usize = 20;
}

impl Report {
    pub(super) fn new(
        root: &Path,
        image: ImageRecord,
        placed: Vec<Placed>,
        hardened: Vec<Placed>,
        sealed: Vec<Sealed>,
        mut labels: Labels,
    ) -> Self {
        let warnings = std::mem::take(&mut labels.warnings);
        let ok = labels.ok && sealed.iter().all(|rule| rule.ok);
        let packages = Vec::new();
        Self { ok, root: root.to_owned(), image, placed, hardened, sealed, labels, packages, warnings }
    }

    /// Why it is not ok, one line each.
    pub fn problems(&self) -> Vec<String> {
        let rules = self.sealed.iter().filter(|rule| !rule.ok).map(|rule| {
            format!("seal rule {} is not kept: {}", rule.rule, rule.problem.as_deref().unwrap_or("?"))
        });
        rules.chain(self.labels.problems.iter().cloned()).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changed = self.placed.iter().filter(|placed| placed.changed).count();
        writeln!(f, "image   {} with k3s {}", self.image.version, self.image.k3s)?;
        writeln!(f, "root    {}", self.root.display())?;
        writeln!(f, "files   {} in place, {changed} written", self.placed.len())?;
        writeln!(f, "harden  {}", self.image.harden)?;
        match &self.image.login {
            Some(login) => writeln!(f, "login   {login}")?,
            None => writeln!(f, "login   none")?,
        }
        for rule in &self.sealed {
            let state = if rule.ok { "ok" } else { "FAILED" };
            writeln!(f, "seal    {state:<6} {:<22} {} removed or emptied", rule.rule, rule.count)?;
        }
        writeln!(f, "labels  {} of {} as the policy has them", self.labels.right, self.labels.checked)?;
        writeln!(f, "rpms    {} installed", self.packages.len())?;
        for warning in &self.warnings {
            writeln!(f, "warning {warning}")?;
        }
        for problem in self.problems() {
            writeln!(f, "FAILED  {problem}")?;
        }
        Ok(())
    }
}
