//! The hardening baseline, by its effect: what sshd and the kernel will take
//! from all their files together, not whether a file of ours is there.

use std::collections::BTreeMap;

use super::super::survey::{Entry, Kind, Survey};
use super::Verdict;

pub(super) const CONTENTS: [&str; 8] = [
    "/etc/ssh/sshd_config",
    "/etc/ssh/sshd_config.d/*",
    "/etc/sysctl.conf",
    "/etc/sysctl.d/*",
    "/usr/lib/sysctl.d/*",
    "/etc/modprobe.d/*",
    "/etc/selinux/config",
    "/etc/crontab",
];
/// sshd's keywords, in lower case, and what they must be.
const SSHD: [(&str, &str); 6] = [
    ("permitrootlogin", "no"),
    ("passwordauthentication", "no"),
    ("kbdinteractiveauthentication", "no"),
    ("permitemptypasswords", "no"),
    ("hostbasedauthentication", "no"),
    ("x11forwarding", "no"),
];
/// The kernel's settings.
const SYSCTL: [(&str, &str); 13] = [
    ("kernel.dmesg_restrict", "1"),
    ("kernel.kptr_restrict", "2"),
    ("kernel.yama.ptrace_scope", "1"),
    ("kernel.unprivileged_bpf_disabled", "1"),
    ("net.core.bpf_jit_harden", "2"),
    ("fs.suid_dumpable", "0"),
    ("fs.protected_hardlinks", "1"),
    ("fs.protected_symlinks", "1"),
    ("net.ipv4.tcp_syncookies", "1"),
    ("net.ipv4.conf.all.accept_redirects", "0"),
    ("net.ipv4.conf.all.send_redirects", "0"),
    ("net.ipv4.conf.all.accept_source_route", "0"),
    ("net.ipv6.conf.all.accept_redirects", "0"),
];
/// Modules that must not be loaded.
const MODULES: [&str; 4] = ["dccp", "rds", "tipc", "cramfs"];
/// Units that must not start by themselves.
const OFF: [&str; 8] = [
    "rpcbind.service",
    "rpcbind.socket",
    "avahi-daemon.service",
    "cups.service",
    "kdump.service",
    "postfix.service",
    "telnet.socket",
    "dnf-makecache.timer",
];
const MASKED: [&str; 2] = ["debug-shell.service", "ctrl-alt-del.target"];
/// Bits nobody may have.
const CLOSED: [(&str, u32); 7] = [
    ("/etc/shadow", 0o027),
    ("/etc/gshadow", 0o027),
    ("/etc/ssh/sshd_config", 0o077),
    ("/etc/crontab", 0o077),
    ("/etc/cron.d", 0o077),
    ("/root", 0o077),
    ("/boot/grub2/grub.cfg", 0o077),
];

pub(super) fn judge(survey: &Survey, verdict: &mut Verdict) {
    verdict.rule("sshd", "one logs in with a key, and not as root");
    let sshd = sshd(survey);
    for (key, wanted) in SSHD {
        match sshd.get(key).map(String::as_str) {
            Some(found) if found.eq_ignore_ascii_case(wanted) => {}
            Some(found) => {
                verdict.at("/etc/ssh/sshd_config", format!("{key} is {found}, and must be {wanted}"));
            }
            None => verdict.at("/etc/ssh/sshd_config", format!("{key} is left to its default")),
        }
    }

    verdict.rule("sysctl", "the kernel tells little of itself and takes no routes from strangers");
    let settings = sysctl(survey);
    for (key, wanted) in SYSCTL {
        if settings.get(key).map(String::as_str) != Some(wanted) {
            let found = settings.get(key).map_or("not set", String::as_str);
            verdict.at("/etc/sysctl.d", format!("{key} is {found}, and must be {wanted}"));
        }
    }

    verdict.rule("modules", "code nobody needs is not loaded because a packet asks for it");
    let files = survey.in_dir("/etc/modprobe.d").filter_map(|entry| survey.text(&entry.path));
    let lines: Vec<String> =
        files.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    for module in MODULES {
        let off = |line: &String| {
            let words: Vec<&str> = line.split_whitespace().collect();
            matches!(words.as_slice(), ["install", name, to, ..] if *name == module && to.ends_with("/false"))
        };
        if !lines.iter().any(off) {
            verdict.at("/etc/modprobe.d", format!("{module} can be loaded"));
        }
    }

    verdict.rule("services", "what no node needs does not run");
    let units = super::units(survey);
    for unit in OFF.iter().filter(|unit| units.enabled.iter().any(|enabled| enabled == *unit)) {
        verdict.at("/etc/systemd/system", format!("{unit} is enabled"));
    }
    for unit in MASKED.iter().filter(|unit| !units.masked.iter().any(|masked| masked == *unit)) {
        verdict.at("/etc/systemd/system", format!("{unit} is not masked"));
    }

    verdict.rule("modes", "what only root may read or change is root's alone");
    for (path, bits) in CLOSED {
        // Debian's unix_chkpwd reads shadow as its group; EL's has no mode at all.
        let open = survey.get(path).map_or(0, |entry| entry.mode & bits & !group_shadow(path));
        if open != 0 {
            verdict.at(path, format!("may be used by others (mode bits {open:o})"));
        }
    }
    for entry in survey.entries() {
        let everybody = entry.mode & 0o002 != 0;
        let open = match entry.kind {
            Kind::File => everybody,
            Kind::Dir => everybody && entry.mode & 0o1000 == 0,
            _ => false,
        };
        if open && !entry.path.starts_with("/boot/efi/") {
            verdict.at(&entry.path, "may be changed by everybody");
        }
    }

    verdict.rule("enforcing", "without SELinux's enforcement a pod that breaks out is root");
    let config = survey.text("/etc/selinux/config").unwrap_or_default();
    if config.lines().rev().find_map(|line| line.trim().strip_prefix("SELINUX=")) != Some("enforcing") {
        verdict.at("/etc/selinux/config", "SELinux is not enforcing");
    }
}

fn is_conf(entry: &Entry) -> bool {
    entry.path.strip_suffix(".conf").is_some()
}

fn group_shadow(path: &str) -> u32 {
    if path.ends_with("shadow") { 0o040 } else { 0 }
}

/// What sshd takes: the first value of a keyword, files included where the
/// line that includes them stands (`sshd_config(5)`). What follows a Match
/// counts for some connections only and is left out.
fn sshd(survey: &Survey) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    read_sshd(survey, "/etc/ssh/sshd_config", 0, &mut settings);
    settings
}

fn read_sshd(survey: &Survey, path: &str, depth: u32, settings: &mut BTreeMap<String, String>) {
    // sshd itself stops at 16.
    const DEEPEST: u32 = 16;
    for line in survey.text(path).unwrap_or_default().lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some((key, value)) = line.split_once([' ', '\t', '=']) else { continue };
        let (key, value) = (key.to_ascii_lowercase(), value.trim_matches([' ', '\t', '=', '"']));
        match key.as_str() {
            "match" => return,
            "include" if depth < DEEPEST => {
                for dir in value.split_whitespace().filter_map(|pattern| pattern.strip_suffix("/*.conf")) {
                    // in_dir is sorted by name, as glob(3) is.
                    for entry in survey.in_dir(dir).filter(|entry| is_conf(entry)) {
                        read_sshd(survey, &entry.path, depth + 1, settings);
                    }
                }
            }
            // The old name of the same.
            "challengeresponseauthentication" => {
                settings.entry("kbdinteractiveauthentication".to_owned()).or_insert(value.to_owned());
            }
            _ => {
                settings.entry(key).or_insert(value.to_owned());
            }
        }
    }
}

/// What systemd-sysctl sets: all files sorted by their names, one in /etc in
/// the place of its namesake, the last value of a setting (`sysctl.d(5)`).
fn sysctl(survey: &Survey) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for dir in ["/usr/lib/sysctl.d", "/etc/sysctl.d"] {
        for entry in survey.in_dir(dir).filter(|entry| is_conf(entry)) {
            files.insert(entry.name().to_owned(), entry.path.clone());
        }
    }
    let mut settings = BTreeMap::new();
    for path in files.values() {
        for line in survey.text(path).unwrap_or_default().lines() {
            let line = line.trim().trim_start_matches('-');
            if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with(['#', ';'])) {
                settings.insert(key.trim().replace('/', "."), value.trim().to_owned());
            }
        }
    }
    settings
}
