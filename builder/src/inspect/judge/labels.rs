//! SELinux labels: the raw attributes, against what the image's own policy
//! has, and against what we know must be there.

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

/// How the labels are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// How many paths were compared with the policy.
    pub checked: usize,
    /// How many of them are as the policy has them.
    pub right: usize,
    /// How many files have no label at all.
    pub without: usize,
}

pub(super) fn judge(survey: &Survey, verdict: &mut Verdict) -> Labels {
    let mut labels = Labels::default();
    verdict
        .rule("labels", "under SELinux a program with a wrong label does not start, and a file is not read");
    for (path, wanted) in &survey.wanted_labels {
        let Some(entry) = survey.get(path) else { continue };
        if wanted == "<<none>>" {
            continue;
        }
        labels.checked += 1;
        match entry.label() {
            Some(found) if found == wanted => labels.right += 1,
            Some(found) => verdict.at(path, format!("is labelled {found}, the policy has {wanted}")),
            None => verdict.at(path, format!("has no label, the policy has {wanted}")),
        }
    }
    if labels.checked == 0 {
        verdict.at(CONFIG, "the policy has no label for anything that was put into the image");
    }
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
    let unlabelled = |path: &str| ["/etc/", "/usr/", "/var/"].iter().any(|dir| path.starts_with(dir));
    let without: Vec<_> =
        survey.entries().filter(|entry| entry.label.is_none() && unlabelled(&entry.path)).collect();
    labels.without = without.len();
    if let Some(first) = without.first() {
        verdict.notes.push(format!(
            "{} paths have no label at all, {} is the first",
            without.len(),
            first.path
        ));
    }
    labels
}
