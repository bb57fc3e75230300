//! The seal: what must not be in an image that many machines are cloned from.
//!
//! The list is the union of what `AlmaLinux`'s own images clean
//! (AlmaLinux/cloud-images, `ansible/roles/cleanup_vm/tasks/main.yml`), what
//! virt-sysprep removes by default (libguestfs, `sysprep_operation_*.ml`), and
//! what k3s and the agent write. Of virt-sysprep's operations `lvm-uuids` and
//! `customize` have no rule: the disk has no LVM, and nothing is customized. Patterns are matched by path
//! component; `*` and `?` do not match a `/`.

/// One rule.
#[derive(Debug)]
pub(super) struct Rule {
    /// Its name in reports.
    pub(super) id: &'static str,
    /// What it is about.
    pub(super) paths: &'static [&'static str],
    /// What must become of that.
    pub(super) action: Action,
    /// Why.
    pub(super) why: &'static str,
}

/// What must become of the paths of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// They go, directories with everything in them.
    Remove,
    /// What these directories hold goes, except for the names given.
    Empty { keep: &'static [&'static str] },
    /// Files below these directories go, the directories stay: daemons do not
    /// make theirs again with the right owner. Names given are left alone.
    RemoveFiles { keep: &'static [&'static str] },
    /// Files below these directories go whose names are like one of these.
    RemoveNamed { patterns: &'static [&'static str] },
    /// Files that are there are cut to no length.
    Truncate,
    /// A file of no length with this mode is there.
    EmptyFile { mode: u32 },
    /// Boot entries are not named after this machine.
    BootEntries,
    /// GRUB's environment does not name a boot entry of this machine.
    SavedEntry,
}

const fn rule(id: &'static str, paths: &'static [&'static str], action: Action, why: &'static str) -> Rule {
    Rule { id, paths, action, why }
}

const REMOVE: Action = Action::Remove;
const EMPTY: Action = Action::Empty { keep: &[] };

/// Every rule, in the order they are carried out.
pub(super) const RULES: &[Rule] = &[
    // Who the machine is.
    rule(
        "boot-entries",
        &["/boot/loader/entries"],
        Action::BootEntries,
        "entries are named after the machine-id, and after cloning an older kernel may sort before a newer one",
    ),
    rule(
        "boot-saved-entry",
        &["/boot/grub2/grubenv", "/boot/efi/EFI/*/grubenv"],
        Action::SavedEntry,
        "it names one of the renamed boot entries",
    ),
    rule(
        "machine-id",
        &["/etc/machine-id"],
        Action::EmptyFile { mode: 0o444 },
        "clones with one machine-id get one DHCP lease; it must be empty, not absent, to be made at boot",
    ),
    rule("dbus-machine-id", &["/var/lib/dbus/machine-id"], REMOVE, "an older copy of the machine-id"),
    rule("ssh-host-keys", &["/etc/ssh/*host*key*"], REMOVE, "every machine has its own"),
    rule("hostname", &["/etc/hostname", "/etc/machine-info"], REMOVE, "every machine has its own"),
    rule(
        "random-seed",
        &["/var/lib/systemd/random-seed", "/boot/efi/loader/random-seed", "/boot/loader/random-seed"],
        REMOVE,
        "clones would begin with the same randomness",
    ),
    rule(
        "credential-secret",
        &["/var/lib/systemd/credential.secret"],
        REMOVE,
        "the key systemd-creds encrypts with; every machine has its own",
    ),
    rule(
        "storage-names",
        &[
            "/etc/iscsi/initiatorname.iscsi",
            "/etc/nvme/hostnqn",
            "/etc/nvme/hostid",
            "/etc/multipath/bindings",
            "/etc/multipath/wwids",
        ],
        REMOVE,
        "two initiators of one name corrupt what they share",
    ),
    rule(
        "subscription",
        &[
            "/etc/pki/consumer/*",
            "/etc/pki/entitlement/*",
            "/var/lib/rhsm/*",
            "/etc/sysconfig/rhn/systemid*",
            "/etc/sysconfig/rhn/osad-auth.conf",
            "/etc/sysconfig/hw-uuid",
            "/etc/smolt/uuid",
            "/etc/smolt/hw-uuid",
            "/var/lib/yum/uuid",
        ],
        REMOVE,
        "registrations of the machine the image was made on",
    ),
    rule(
        "domain",
        &[
            "/etc/krb5.keytab",
            "/etc/ipa/ca.crt",
            "/etc/ipa/default.conf",
            "/var/lib/ipa-client/sysrestore/*",
            "/var/lib/ipa-client/pki/*",
            "/etc/pki/ca-trust/source/anchors/ipa-ca.crt",
            "/etc/pki/ca-trust/source/ipa.p11-kit",
        ],
        REMOVE,
        "what a machine proves to its domain who it is with",
    ),
    rule(
        "directory-caches",
        &["/var/lib/sss/db", "/var/lib/sss/mc", "/var/lib/samba", "/var/lib/puppet", "/var/lib/dovecot"],
        Action::RemoveFiles { keep: &[] },
        "accounts, keys and certificates another machine was given",
    ),
    // Who may come in.
    rule("ssh-user-keys", &["/root/.ssh", "/home/*/.ssh"], REMOVE, "the image lets nobody in"),
    rule(
        "root-ssh-password",
        &["/etc/ssh/sshd_config.d/01-permitrootlogin.conf"],
        REMOVE,
        "the installer writes it when a kickstart lets root in with a password",
    ),
    rule(
        "user-secrets",
        &["/root/.gnupg", "/home/*/.gnupg", "/root/.kube", "/home/*/.kube", "/root/.pki", "/root/.netrc"],
        REMOVE,
        "keys and passwords of whoever made the image",
    ),
    rule(
        "passwd-backups",
        &[
            "/etc/passwd-",
            "/etc/shadow-",
            "/etc/group-",
            "/etc/gshadow-",
            "/etc/subuid-",
            "/etc/subgid-",
            "/etc/security/opasswd",
        ],
        REMOVE,
        "they may hold passwords that were taken away",
    ),
    // Network and hardware of the machine the image was made on.
    rule(
        "network-profiles",
        &[
            "/etc/NetworkManager/system-connections/*",
            "/etc/sysconfig/network-scripts/ifcfg-b*",
            "/etc/sysconfig/network-scripts/ifcfg-e*",
            "/etc/sysconfig/network-scripts/ifcfg-t*",
            "/etc/sysconfig/network-scripts/ifcfg-v*",
            "/etc/sysconfig/network-scripts/ifcfg-w*",
        ],
        REMOVE,
        "they name the cards and addresses of the machine the image was made on",
    ),
    rule(
        "network-state",
        &[
            "/var/lib/NetworkManager/*",
            "/var/lib/dhclient/*",
            "/var/lib/dhcp/*",
            "/var/lib/dhcpcd/*",
            "/var/lib/dhcpd/*",
        ],
        REMOVE,
        "leases, and the secret stable addresses are made from",
    ),
    rule("resolv-conf", &["/etc/resolv.conf"], Action::Truncate, "name servers of another network"),
    rule("udev-net", &["/etc/udev/rules.d/70*"], REMOVE, "it pins names to old cards"),
    rule(
        "lvm-devices",
        &["/etc/lvm/devices/*", "/etc/lvm/archive/*", "/etc/lvm/backup/*"],
        REMOVE,
        "volume groups on other disks would not be found",
    ),
    rule(
        "blkid-cache",
        &["/etc/blkid/blkid.tab*", "/etc/blkid.tab*"],
        REMOVE,
        "names of the disks of another machine",
    ),
    // What the installer and its users left behind.
    rule(
        "installer",
        &[
            "/root/*ks.cfg",
            "/root/bake-post.log",
            "/root/install.log*",
            "/root/anaconda-*",
            "/var/log/anaconda",
        ],
        REMOVE,
        "the kickstart and its logs may hold passwords",
    ),
    rule(
        "history",
        &[
            "/root/.*history",
            "/home/*/.*history",
            "/root/.histfile",
            "/root/.lesshst",
            "/home/*/.lesshst",
            "/root/.viminfo",
            "/home/*/.viminfo",
        ],
        REMOVE,
        "what was typed while the image was made",
    ),
    rule("journal", &["/var/log/journal/*"], REMOVE, "logs of another machine"),
    rule(
        "login-records",
        &["/var/log/wtmp", "/var/log/btmp", "/var/log/lastlog"],
        Action::Truncate,
        "logins on another machine; their owner and mode matter",
    ),
    rule(
        "logs",
        &["/var/log"],
        Action::RemoveFiles { keep: &["wtmp", "btmp", "lastlog"] },
        "logs of another machine",
    ),
    rule("mail", &["/var/spool/mail/*", "/var/mail/*"], Action::Truncate, "mail of another machine"),
    rule(
        "core-dumps",
        &["/var/lib/systemd/coredump", "/var/lib/systemd/pstore", "/var/crash", "/var/spool/abrt"],
        EMPTY,
        "memory of another machine",
    ),
    rule(
        "dnf",
        &["/var/cache/dnf", "/var/cache/yum", "/var/cache/PackageKit"],
        EMPTY,
        "stale in an image, and large",
    ),
    rule(
        "dnf-history",
        &["/var/lib/dnf/history*", "/var/lib/dnf/repos", "/var/lib/yum/history"],
        REMOVE,
        "history and the counting cookie of another machine",
    ),
    rule(
        "package-database",
        &["/var/lib/rpm/__db.*"],
        REMOVE,
        "state of a transaction on another machine; rpm makes it again",
    ),
    rule(
        "jobs",
        &["/var/spool/cron", "/var/spool/at"],
        Action::RemoveFiles { keep: &[] },
        "what users of another machine had planned",
    ),
    rule("accounting", &["/var/account/pacct*"], Action::Truncate, "what ran on another machine"),
    rule(
        "backup-files",
        &["/etc", "/root", "/srv", "/var"],
        Action::RemoveNamed { patterns: &["*.bak", "*~"] },
        "what editors keep of files that were changed, passwords included",
    ),
    rule(
        "tmp",
        &["/tmp", "/var/tmp", "/run"],
        EMPTY,
        "nothing there outlives the installation; a booted system mounts over /run",
    ),
    rule("cloud-init", &["/var/lib/cloud"], REMOVE, "cloud-init would take a clone for the same instance"),
    // What k3s and the agent write.
    rule(
        "k3s-node",
        &["/etc/rancher/node", "/etc/rancher/k3s/config.yaml", "/etc/rancher/k3s/k3s.yaml"],
        REMOVE,
        "a baked node password clones to \"Node password rejected\"",
    ),
    rule(
        "k3s-server",
        &["/var/lib/rancher/k3s/server"],
        REMOVE,
        "certificate authorities, tokens and the datastore of a cluster",
    ),
    rule(
        "k3s-agent",
        &["/var/lib/rancher/k3s/agent"],
        Action::Empty { keep: &["images"] },
        "a node's certificates and containers; the images are what was baked",
    ),
    rule(
        "k3s-data",
        &["/var/lib/rancher/k3s/data", "/var/lib/rancher/k3s/storage", "/var/lib/rancher/k3s/.lock"],
        REMOVE,
        "volumes of pods, and programs k3s unpacks for itself",
    ),
    rule("kubelet", &["/var/lib/kubelet", "/var/lib/cni", "/etc/cni"], REMOVE, "state of another node"),
    rule(
        "k3s-disabled",
        &["/etc/systemd/system/*.wants/k3s.service", "/etc/systemd/system/*.wants/k3s-agent.service"],
        REMOVE,
        "k3s picks its datastore at its first start: never before the agent says so",
    ),
    rule("agent-state", &["/var/lib/kiln"], REMOVE, "a node's key never leaves the node"),
];

/// Whether one component of a path matches a pattern with `*` and `?`.
pub(super) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=name.len()).any(|skip| matches(rest, &name[skip..])),
        (Some((b'?', rest)), Some((_, name))) => matches(rest, name),
        (Some((wanted, rest)), Some((found, name))) => wanted == found && matches(rest, name),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn rules_have_names_paths_and_reasons() {
        let names: BTreeSet<_> = RULES.iter().map(|rule| rule.id).collect();
        assert_eq!(names.len(), RULES.len(), "two rules of one name");
        for rule in RULES {
            assert!(!rule.why.is_empty() && !rule.paths.is_empty(), "{}", rule.id);
            for path in rule.paths {
                assert!(path.starts_with('/') && !path.contains("..") && path.len() > 1, "{path}");
            }
        }
    }

    #[test]
    fn no_rule_takes_what_was_just_installed() {
        for placed in ["/usr", "/etc/systemd/system/kiln-agent.service", "/var/lib/rancher/k3s/agent/images"]
        {
            for rule in RULES.iter().filter(|rule| rule.action == Action::Remove) {
                for path in rule.paths {
                    assert!(!placed.starts_with(path), "{} takes {placed}", rule.id);
                }
            }
        }
    }

    #[test]
    fn patterns_match_like_a_shells() {
        for (pattern, name, wanted) in [
            ("ssh_host_*", "ssh_host_ed25519_key.pub", true),
            ("ssh_host_*", "ssh_config", false),
            (".*_history", ".bash_history", true),
            (".*_history", "bash_history", false),
            ("*ks.cfg", "anaconda-ks.cfg", true),
            ("*", "", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), wanted, "{pattern} {name}");
        }
    }
}
