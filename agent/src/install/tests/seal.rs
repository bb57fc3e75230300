//! Every rule of the seal against what is planted against it.

use super::*;

/// For every rule, things that are against it.
const PLANTED: &[(&str, &[&str])] = &[
    ("boot-entries", &["boot/loader/entries/fedcba9876543210fedcba9876543210-6.1.conf"]),
    ("boot-saved-entry", &["boot/efi/EFI/almalinux/grubenv"]),
    ("machine-id", &["etc/machine-id"]),
    ("dbus-machine-id", &["var/lib/dbus/machine-id"]),
    ("ssh-host-keys", &["etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_rsa_key.pub"]),
    ("hostname", &["etc/hostname", "etc/machine-info"]),
    ("random-seed", &["var/lib/systemd/random-seed", "boot/efi/loader/random-seed"]),
    ("credential-secret", &["var/lib/systemd/credential.secret"]),
    ("storage-names", &["etc/iscsi/initiatorname.iscsi", "etc/nvme/hostid", "etc/multipath/wwids"]),
    ("subscription", &["etc/pki/consumer/key.pem", "etc/sysconfig/rhn/systemid", "var/lib/yum/uuid"]),
    ("domain", &["etc/krb5.keytab", "etc/ipa/default.conf", "var/lib/ipa-client/pki/x"]),
    ("directory-caches", &["var/lib/sss/db/cache.ldb", "var/lib/samba/private/secrets.tdb"]),
    ("ssh-user-keys", &["root/.ssh/authorized_keys", "home/me/.ssh/id_ed25519"]),
    ("root-ssh-password", &["etc/ssh/sshd_config.d/01-permitrootlogin.conf"]),
    ("user-secrets", &["root/.kube/config", "home/me/.gnupg/x", "root/.netrc"]),
    ("passwd-backups", &["etc/passwd-", "etc/gshadow-", "etc/subuid-"]),
    (
        "network-profiles",
        &[
            "etc/NetworkManager/system-connections/ens3.nmconnection",
            "etc/sysconfig/network-scripts/ifcfg-eth0",
        ],
    ),
    ("network-state", &["var/lib/NetworkManager/secret_key", "var/lib/dhclient/x.lease", "var/lib/dhcpd/x"]),
    ("resolv-conf", &["etc/resolv.conf"]),
    ("udev-net", &["etc/udev/rules.d/70-persistent-net.rules", "etc/udev/rules.d/70-x.rules"]),
    ("lvm-devices", &["etc/lvm/devices/system.devices", "etc/lvm/backup/rl"]),
    ("blkid-cache", &["etc/blkid/blkid.tab"]),
    (
        "installer",
        &["root/anaconda-ks.cfg", "root/original-ks.cfg", "root/bake-post.log", "var/log/anaconda/x"],
    ),
    ("history", &["root/.bash_history", "home/me/.zsh_history", "root/.history", "root/.viminfo"]),
    ("journal", &["var/log/journal/0123/system.journal"]),
    ("login-records", &["var/log/wtmp", "var/log/btmp", "var/log/lastlog"]),
    ("logs", &["var/log/audit/audit.log", "var/log/messages", "var/log/secure-20240101"]),
    ("mail", &["var/spool/mail/root"]),
    ("core-dumps", &["var/lib/systemd/coredump/core.x", "var/crash/x", "var/spool/abrt/x"]),
    ("dnf", &["var/cache/dnf/x.solv"]),
    ("dnf-history", &["var/lib/dnf/history.sqlite", "var/lib/dnf/repos/x/countme"]),
    ("package-database", &["var/lib/rpm/__db.001"]),
    ("jobs", &["var/spool/cron/root", "var/spool/at/a0001"]),
    ("accounting", &["var/account/pacct"]),
    ("backup-files", &["etc/fstab.bak", "etc/ssh/sshd_config~", "root/deep/down/x.bak", "srv/x~"]),
    ("tmp", &["tmp/x", "var/tmp/.y/z", "run/utmp", "run/faillock/me"]),
    ("cloud-init", &["var/lib/cloud/instance/x"]),
    ("k3s-node", &["etc/rancher/node/password", "etc/rancher/k3s/config.yaml", "etc/rancher/k3s/k3s.yaml"]),
    ("k3s-server", &["var/lib/rancher/k3s/server/token"]),
    ("k3s-agent", &["var/lib/rancher/k3s/agent/client-ca.crt"]),
    ("k3s-data", &["var/lib/rancher/k3s/data/current/bin/x", "var/lib/rancher/k3s/storage/pvc/x"]),
    ("kubelet", &["var/lib/kubelet/x", "var/lib/cni/networks/x", "etc/cni/net.d/x"]),
    ("k3s-disabled", &["etc/systemd/system/multi-user.target.wants/k3s.service"]),
    ("agent-state", &["var/lib/kiln/identity.key"]),
];

#[test]
fn every_rule_catches_what_is_planted_against_it() {
    let rules: Vec<_> = rules::RULES.iter().map(|rule| rule.id).collect();
    let planted: Vec<_> = PLANTED.iter().map(|(id, _)| *id).collect();
    assert_eq!(planted, rules, "a rule without something planted against it");
    for (id, paths) in PLANTED {
        let fixture = Fixture::new();
        fixture.install().unwrap();
        for path in *paths {
            let text = if path.ends_with("grubenv") { grubenv(ID) } else { "secret".to_owned() };
            // Read-only files, the machine-id among them, are replaced.
            fs::remove_file(fixture.path(path)).ok();
            fixture.write(path, &text);
        }
        let report = fixture.install().unwrap();
        assert!(report.ok, "{id}: {report}");
        let rule = report.sealed.iter().find(|rule| rule.rule == *id).unwrap();
        assert!(rule.count >= 1 && !rule.found.is_empty(), "{id} found nothing");
        for path in *paths {
            let left = fs::read_to_string(fixture.path(path)).unwrap_or_default();
            assert!(!left.contains("secret") && !left.contains(ID), "{id}: {path} is still there");
        }
    }
}
