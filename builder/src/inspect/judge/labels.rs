//! SELinux labels: the raw attributes, against what the image's own policy
//! has, and against what we know must be there.
//!
//! Where SELinux is on, what was put into the image must have a label whatever
//! the policy says. Where it is off, labels mean nothing and are not judged;
//! the report says so and why. That it must be on is a rule of the baseline.

use globset::{Glob, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

use super::super::survey::Survey;
use super::Verdict;

/// What we put into an image, and what is easily left without its label.
pub(super) const PATHS: [&str; 17] = [
    "/usr/local/bin/*",
    "/usr/lib/kiln*",
    "/etc/systemd/system/*",
    "/var/lib/rancher*",
    "/etc/machine-id",
    "/etc/passwd",
    "/etc/shadow",
    "/etc/group",
    "/etc/gshadow",
    "/etc/ssh/*",
    "/etc/sysctl.d/*",
    "/etc/modprobe.d/*",
    "/etc/sudoers.d/*",
    "/boot/loader/entries/*",
    "/boot/grub2/grubenv",
    "/home/*",
    "/root",
];
/// Types that are known whatever a policy's files say: those of EL's
/// selinux-policy-targeted, and what the reference policy calls them if that
/// is something else.
const KNOWN: [(&str, &[&str]); 4] = [
    ("/usr/local/bin/agent", &["bin_t"]),
    ("/etc/systemd/system/kiln-agent.service", &["systemd_unit_file_t", "systemd_unit_t"]),
    ("/etc/systemd/system/k3s.service", &["systemd_unit_file_t", "systemd_unit_t"]),
    ("/etc/shadow", &["shadow_t"]),
];
const K3S: &str = "/usr/local/bin/k3s";
const K3S_TYPE: &str = "container_runtime_exec_t";
const CONFIG: &str = "/etc/selinux/config";
/// What the policy says of paths whose label it leaves alone.
const NONE: &str = "<<none>>";

/// How the labels are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// How many paths were compared with the policy.
    pub checked: usize,
    /// How many of them are as the policy has them.
    pub right: usize,
    /// How many files have no label at all.
    pub without: usize,
    /// Why labels were not judged, where SELinux is off in the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub off: Option<String>,
}

pub(super) fn judge(survey: &Survey, verdict: &mut Verdict) -> Labels {
    let mut labels = Labels { without: without(survey).count(), ..Labels::default() };
    verdict
        .rule("labels", "under SELinux a program with a wrong label does not start, and a file is not read");
    if let Some(why) = off(survey) {
        verdict.notes.push(format!("labels were not judged: SELinux is off in this image, {why}"));
        labels.off = Some(why);
        return labels;
    }
    let ours = placed();
    for entry in survey.entries().filter(|entry| ours.is_match(&entry.path)) {
        let path = entry.path.as_str();
        // The ESP is FAT, which has no labels.
        if path.starts_with("/boot/efi/") {
            continue;
        }
        match (survey.wanted_labels.get(path).map(String::as_str), entry.label()) {
            (None, _) => verdict.at(path, "is not compared: the policy was not asked about it"),
            (Some(NONE), None) => verdict.at(path, "has no label at all"),
            (Some(NONE), Some(_)) => {}
            (Some(wanted), found) => {
                labels.checked += 1;
                match found {
                    Some(found) if found == wanted => labels.right += 1,
                    Some(found) => verdict.at(path, format!("is labelled {found}, the policy has {wanted}")),
                    None => verdict.at(path, format!("has no label at all, the policy has {wanted}")),
                }
            }
        }
    }
    if labels.checked == 0 {
        verdict.at(CONFIG, "the policy has no label for anything that was put into the image");
    }
    types(survey, verdict);
    let others: Vec<_> = without(survey).filter(|path| !ours.is_match(path)).collect();
    if let Some(first) = others.first() {
        let count = others.len();
        verdict.notes.push(format!(
            "{count} paths that Kiln did not place have no label at all, {first} is the first"
        ));
    }
    labels
}

/// Whether what must have a certain type has it.
fn types(survey: &Survey, verdict: &mut Verdict) {
    let kind_of = |path: &str| survey.get(path)?.label()?.split(':').nth(2);
    for (path, wanted) in KNOWN {
        let found = kind_of(path).unwrap_or("no type");
        if survey.get(path).is_some() && !wanted.contains(&found) {
            verdict.at(path, format!("is labelled {found}, and must be {}", wanted[0]));
        }
    }
    let has_policy = survey.packages.iter().any(|package| package.name == "k3s-selinux");
    match kind_of(K3S) {
        Some(K3S_TYPE) => {}
        found if has_policy => {
            let found = found.unwrap_or("no type");
            verdict.at(K3S, format!("is labelled {found}, and k3s-selinux makes it {K3S_TYPE}"));
        }
        _ => verdict.notes.push(format!("{K3S} is not {K3S_TYPE}: k3s-selinux is not in this image")),
    }
}

/// Why SELinux is off in the image; none where it is on, or where it cannot be
/// told that it is off. It is off without its configuration (libselinux then
/// takes "disabled", `selinux_getenforcemode`), and where that says so.
fn off(survey: &Survey) -> Option<String> {
    if survey.get(CONFIG).is_none() {
        return Some(format!("which has no {CONFIG}"));
    }
    let text = survey.text(CONFIG)?;
    let mode = text.lines().rev().find_map(|line| line.strip_prefix("SELINUX=")).map(str::trim)?;
    mode.eq_ignore_ascii_case("disabled").then(|| format!("by SELINUX={mode} in {CONFIG}"))
}

/// What we put into an image, as the survey is asked for it.
fn placed() -> GlobSet {
    let globs = PATHS.into_iter().map(|path| Glob::new(path).expect("PATHS are patterns"));
    let all = globs.fold(GlobSetBuilder::new(), |mut all, glob| {
        all.add(glob);
        all
    });
    all.build().expect("PATHS are patterns")
}

/// The paths that have no label, where files have some.
fn without(survey: &Survey) -> impl Iterator<Item = &str> {
    let labelled = |path: &str| ["/etc/", "/usr/", "/var/"].iter().any(|dir| path.starts_with(dir));
    let entries = survey.entries().filter(|entry| entry.label.is_none());
    entries.map(|entry| entry.path.as_str()).filter(move |path| labelled(path))
}
