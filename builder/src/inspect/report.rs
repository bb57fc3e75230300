//! What an inspection says, for people and as JSON.

use std::fmt;

use kiln_protocol::install::ImageRecord;
use serde::Serialize;

use super::disk::DiskFacts;
use super::judge;
use super::judge::{Check, Expected, Finding, Labels, Units, Verdict};
use super::survey::{Package, Survey};
use crate::image::key::Digest;

/// Findings of one rule that a person is shown.
const SHOWN: usize = 10;

/// A file that starts the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loader {
    /// Where it is.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Option<Digest>,
}

/// What an image is like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Whether nothing was found.
    pub ok: bool,
    /// What it says it is.
    pub image: Option<ImageRecord>,
    /// Its operating system.
    pub os: Option<String>,
    /// What it was compared with.
    pub expected: Expected,
    /// The disk.
    pub disk: DiskFacts,
    /// Boot loaders and kernels.
    pub boot: Vec<Loader>,
    /// Units.
    pub units: Units,
    /// SELinux labels.
    pub labels: Labels,
    /// Who can log in, and how.
    pub logins: Vec<String>,
    /// How many paths were looked at.
    pub paths: usize,
    /// The packages.
    pub packages: Vec<Package>,
    /// Every rule.
    pub checks: Vec<Check>,
    /// Everything that is against one.
    pub findings: Vec<Finding>,
    /// What is worth a look, and no reason to refuse the image.
    pub notes: Vec<String>,
}

impl Inspection {
    /// Judges a survey.
    pub(super) fn new(survey: &Survey, disk: DiskFacts, expected: Expected) -> Self {
        let (Verdict { checks, findings, notes }, labels) = judge::judge(survey, &disk, &expected);
        let boots = |path: &str| path.starts_with("/boot/efi/EFI/") || path.starts_with("/boot/vmlinuz-");
        let boot = survey.entries().filter(|entry| entry.is_file() && boots(&entry.path));
        let boot = boot.filter(|entry| entry.sha256.is_some());
        Self {
            ok: findings.is_empty(),
            image: judge::record(survey),
            os: judge::os_name(survey),
            boot: boot
                .map(|entry| Loader { path: entry.path.clone(), size: entry.size, sha256: entry.sha256 })
                .collect(),
            units: judge::units(survey),
            labels,
            logins: judge::logins(survey),
            paths: survey.entries().count(),
            packages: survey.packages.clone(),
            expected,
            disk,
            checks,
            findings,
            notes,
        }
    }

    /// One line that says it all.
    pub fn summary(&self) -> String {
        let (rules, paths, found) = (self.checks.len(), self.paths, self.findings.len());
        let against = self.checks.iter().filter(|check| check.findings > 0).count();
        match found {
            0 => format!("sealed: {rules} rules, {paths} paths, nothing found"),
            _ => format!("{found} findings against {against} of {rules} rules in {paths} paths"),
        }
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        if let Some(image) = &self.image {
            writeln!(f, "image      {} with k3s {}", image.version, image.k3s)?;
            writeln!(f, "hardening  {}", image.harden)?;
        }
        writeln!(f, "system     {}", self.os.as_deref().unwrap_or("unknown"))?;
        writeln!(f, "packages   {}", self.packages.len())?;
        writeln!(f, "disk       {} MiB", mib(self.disk.virtual_size))?;
        for part in &self.disk.partitions {
            let (start, size) = (mib(part.start), mib(part.size));
            writeln!(f, "  {}  {:<22} {:<10} {size:>6} MiB from {start}", part.number, part.name, part.kind)?;
        }
        let bios = if self.disk.bios_loader { "GRUB in the boot sector" } else { "none" };
        writeln!(f, "boot       BIOS: {bios}")?;
        for loader in &self.boot {
            writeln!(f, "  {} ({} KiB)", loader.path, loader.size >> 10)?;
        }
        writeln!(f, "enabled    {}", self.units.enabled.join(" "))?;
        if !self.units.masked.is_empty() {
            writeln!(f, "masked     {}", self.units.masked.join(" "))?;
        }
        let Labels { checked, right, off, .. } = &self.labels;
        match off {
            None => writeln!(f, "labels     {right} of {checked} as the policy has them")?,
            Some(why) => writeln!(f, "labels     not judged: SELinux is off, {why}")?,
        }
        let logins = if self.logins.is_empty() { "nobody".to_owned() } else { self.logins.join(", ") };
        writeln!(f, "logins     {logins}")?;
        if let Some(login) = &self.expected.login {
            writeln!(f, "           BREAK-GLASS LOGIN: {login}")?;
        }
        for check in &self.checks {
            let state = if check.findings == 0 { "ok" } else { "FOUND" };
            writeln!(f, "{state:<10} {:<20} {}", check.rule, check.why)?;
            let found = self.findings.iter().filter(|finding| finding.rule == check.rule);
            for finding in found.take(SHOWN) {
                writeln!(f, "           ! {}", finding.at_and_what())?;
            }
            if check.findings > SHOWN {
                writeln!(f, "           ! and {} more", check.findings - SHOWN)?;
            }
        }
        for note in &self.notes {
            writeln!(f, "note       {note}")?;
        }
        writeln!(f, "{}", self.summary())
    }
}
