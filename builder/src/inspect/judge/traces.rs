//! What must not be in an image, by its path.

use globset::{Glob, GlobBuilder, GlobMatcher};

use super::super::survey::{Entry, Survey};
use super::{Expected, Verdict};

/// A rule: nothing like `forbidden` may be there, but for what is like `but`.
/// In patterns `*` stays within a name and `**` does not.
struct Rule {
    name: &'static str,
    forbidden: &'static str,
    but: &'static str,
    kinds: Kinds,
    why: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kinds {
    /// Nothing at all.
    Anything,
    /// No file with anything in it; directories and empty files are no trace.
    Content,
}

const NOTHING: &str = "/nothing";

const fn none(name: &'static str, forbidden: &'static str, why: &'static str) -> Rule {
    Rule { name, forbidden, but: NOTHING, kinds: Kinds::Anything, why }
}

const fn empty(name: &'static str, forbidden: &'static str, why: &'static str) -> Rule {
    Rule { name, forbidden, but: NOTHING, kinds: Kinds::Content, why }
}

const RULES: &[Rule] = &[
    none(
        "host-keys",
        "/etc/ssh/*host*key*",
        "whoever has the image could pose as every machine made from it",
    ),
    none(
        "names",
        "{/etc/hostname,/etc/machine-info,/var/lib/dbus/machine-id,/etc/iscsi/initiatorname.iscsi,/etc/nvme/host*,\
         /etc/multipath/{wwids,bindings},/etc/sysconfig/hw-uuid,/etc/smolt/*uuid,/var/lib/yum/uuid}",
        "two machines would have one name",
    ),
    none(
        "random-seed",
        "{/var/lib/systemd/random-seed,/boot/loader/random-seed,/boot/efi/loader/random-seed}",
        "clones would begin with the same randomness",
    ),
    none(
        "credential-secret",
        "/var/lib/systemd/credential.secret",
        "one key would open the sealed credentials of every clone",
    ),
    none(
        "registrations",
        "{/etc/pki/consumer/*,/etc/pki/entitlement/*,/var/lib/rhsm/*,/etc/sysconfig/rhn/{systemid*,osad-auth.conf},\
         /etc/krb5.keytab,/etc/ipa/{ca.crt,default.conf},/var/lib/ipa-client/{sysrestore,pki}/*,\
         /etc/pki/ca-trust/source/{anchors/ipa-ca.crt,ipa.p11-kit}}",
        "clones would act as the machine that was registered",
    ),
    empty(
        "service-data",
        "{/var/lib/sss/{db,mc}/**,/var/lib/{samba,puppet,dovecot}/**}",
        "accounts, keys and caches of another machine",
    ),
    none(
        "user-secrets",
        "{/root,/home/*}/{.gnupg,.kube,.pki,.netrc}",
        "keys and passwords of whoever made the image",
    ),
    none(
        "root-ssh-password",
        "/etc/ssh/sshd_config.d/01-permitrootlogin.conf",
        "root could log in over ssh with a password",
    ),
    none(
        "account-backups",
        "{/etc/{passwd,shadow,group,gshadow,subuid,subgid}-,/etc/security/opasswd}",
        "old copies hold passwords that were taken away",
    ),
    none(
        "network-profiles",
        "{/etc/NetworkManager/system-connections/*,/etc/sysconfig/network-scripts/ifcfg-[betvw]*}",
        "clones would take the addresses of the machine the image was made on",
    ),
    none(
        "network-state",
        "/var/lib/{NetworkManager,dhclient,dhcp,dhcpcd,dhcpd}/*",
        "leases of another machine, and the secret stable addresses are made from",
    ),
    empty("name-servers", "/etc/resolv.conf", "name servers of another network"),
    none(
        "hardware",
        "{/etc/udev/rules.d/70*,/etc/lvm/{devices,archive,backup}/*,/etc/{blkid/,}blkid.tab*}",
        "cards and disks of another machine",
    ),
    none(
        "installer",
        "{/root/{*ks.cfg,bake-post.log,install.log*,anaconda-*,*.rpm},/var/log/anaconda}",
        "the kickstart and its logs may hold passwords",
    ),
    none(
        "history",
        "{/root,/home/*}/{.*history,.histfile,.lesshst,.viminfo}",
        "what was typed while the image was made",
    ),
    empty("logs", "/var/log/**", "logs of another machine"),
    none("journal", "/var/log/journal/*", "logs of another machine"),
    empty("mail", "/var/{spool/mail,mail}/**", "mail of another machine"),
    empty("accounting", "/var/account/**", "what ran on another machine"),
    none(
        "crashes",
        "{/var/lib/systemd/{coredump,pstore},/var/crash,/var/spool/abrt}/*",
        "memory of another machine",
    ),
    none(
        "package-leftovers",
        "{/var/cache/{dnf,yum,PackageKit}/*,/var/lib/dnf/{history*,repos},/var/lib/yum/history,/var/lib/rpm/__db.*}",
        "stale, large, and counted as another machine by the mirrors",
    ),
    empty("jobs", "/var/spool/{cron,at}/**", "what somebody planned for another machine"),
    empty(
        "editor-backups",
        "{/etc,/root,/srv,/var}/**/{*.bak,*~}",
        "old versions of files that were changed",
    ),
    none("temporary", "{/tmp,/var/tmp,/run}/*", "nothing temporary outlives the installation"),
    none("cloud-init", "/var/lib/cloud", "cloud-init would take a clone for a machine it knows"),
    none(
        "k3s-node",
        "{/etc/rancher/node,/etc/rancher/k3s/{config.yaml,k3s.yaml}}",
        "a baked node password makes every clone but one be rejected",
    ),
    none(
        "k3s-state",
        "/var/lib/rancher/k3s/{server,data,storage,.lock}",
        "authorities, tokens and the datastore of a cluster",
    ),
    Rule {
        name: "k3s-agent-state",
        forbidden: "/var/lib/rancher/k3s/agent/*",
        but: "/var/lib/rancher/k3s/agent/images",
        kinds: Kinds::Anything,
        why: "certificates and containers of another node",
    },
    none("kubelet-state", "{/var/lib/{kubelet,cni,calico,etcd},/etc/cni}", "state of another node"),
    none("agent-state", "/var/lib/kiln", "a node's key must be made on the node"),
];

fn matcher(pattern: &str) -> GlobMatcher {
    let glob: Result<Glob, _> = GlobBuilder::new(pattern).literal_separator(true).build();
    glob.expect("the patterns are constants, and a test builds each").compile_matcher()
}

/// The keys of a declared break-glass login, and nothing beside them.
pub(super) fn declared_keys(expected: &Expected) -> Option<String> {
    use kiln_protocol::install::LoginWay;
    let login = expected.login.as_ref().filter(|login| login.by == LoginWay::SshKey)?;
    Some(format!("/home/{}/.ssh", login.user))
}

pub(super) fn judge(survey: &Survey, expected: &Expected, verdict: &mut Verdict) {
    for rule in RULES {
        verdict.rule(rule.name, rule.why);
        let (forbidden, but) = (matcher(rule.forbidden), matcher(rule.but));
        let against = |entry: &&Entry| {
            forbidden.is_match(&entry.path)
                && !but.is_match(&entry.path)
                && (rule.kinds == Kinds::Anything || entry.is_file() && entry.size > 0)
        };
        for entry in survey.entries().filter(against) {
            verdict.at(&entry.path, "is still there");
        }
    }
    verdict.rule("ssh-keys", "the image lets in nobody it was not ordered with");
    let (keys, file) = (matcher("{/root,/home/*}/.ssh/**"), declared_keys(expected));
    let allowed = file.map(|dir| format!("{dir}/authorized_keys"));
    for entry in survey.entries().filter(|entry| keys.is_match(&entry.path)) {
        if Some(&entry.path) != allowed.as_ref() {
            verdict.at(&entry.path, "is still there");
        }
    }
    if let Some(allowed) = allowed.filter(|allowed| survey.get(allowed).is_none_or(|entry| !entry.is_file()))
    {
        verdict.at(&allowed, "is missing, and the image was ordered with it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_is_one_and_no_two_rules_have_a_name() {
        let mut names = std::collections::BTreeSet::new();
        for rule in RULES {
            assert!(names.insert(rule.name), "{}", rule.name);
            assert!(!matcher(rule.forbidden).is_match("/usr/bin/bash"), "{}", rule.name);
            matcher(rule.but);
        }
    }
}
