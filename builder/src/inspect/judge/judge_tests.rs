//! A made-up image that is as it must be, and everything that may be wrong
//! with it.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::disk::Partition;
use super::super::survey::tests::{RUN, package, stream};
use super::*;

const ETC_LABEL: &str = "system_u:object_r:etc_t:s0";
const K3S_LABEL: &str = "system_u:object_r:container_runtime_exec_t:s0";
const UNIT_LABEL: &str = "system_u:object_r:systemd_unit_file_t:s0";

#[derive(Clone)]
struct Image {
    entries: BTreeMap<String, Value>,
    labels: BTreeMap<String, String>,
    /// Whether the policy answers for what has no label of its own here.
    policy: bool,
    disk: DiskFacts,
    expected: Expected,
}

fn digest(of: &str) -> Digest {
    Digest::of(of.as_bytes())
}

impl Image {
    fn put(&mut self, path: &str, kind: &str, mode: u32, rest: &Value) {
        let mut entry = json!({"kind": "entry", "path": path, "type": kind, "mode": mode, "uid": 0, "gid": 0,
            "size": 0, "label": "system_u:object_r:etc_t:s0\0"});
        for (key, value) in rest.as_object().unwrap() {
            entry[key] = value.clone();
        }
        self.entries.insert(path.to_owned(), entry);
    }

    fn file(&mut self, path: &str, mode: u32, text: &str) {
        self.put(path, "file", mode, &json!({"size": text.len(), "content": STANDARD.encode(text)}));
    }

    fn link(&mut self, path: &str, target: &str) {
        self.put(path, "link", 0o777, &json!({"target": target}));
    }

    fn label(&mut self, path: &str, label: &str) {
        self.entries.get_mut(path).unwrap()["label"] = json!(format!("{label}\0"));
        self.labels.insert(path.to_owned(), label.to_owned());
    }

    /// One that is as it must be, with the hardening baseline.
    fn good() -> Self {
        let expected = Expected {
            version: Some("alma9-k3-node-amd64-v1.28.5-v1".into()),
            harden: Hardening::Baseline,
            login: None,
            agent: Some(digest("agent")),
            k3s: Some(digest("k3s")),
        };
        let part = |number, kind: &str| Partition {
            number,
            name: String::new(),
            kind: kind.into(),
            start: u64::from(number) << 20,
            size: 1 << 20,
        };
        let partitions =
            vec![part(1, "bios-boot"), part(2, "efi-system"), part(3, "linux"), part(4, "linux")];
        let disk = DiskFacts { virtual_size: 1 << 33, partitions, bios_loader: true };
        let mut this =
            Self { entries: BTreeMap::new(), labels: BTreeMap::new(), policy: true, disk, expected };
        for dir in
            ["/etc", "/tmp", "/var/log", "/var/log/chrony", "/root", "/var/lib/rancher/k3s/agent/images"]
        {
            let mode = if dir == "/tmp" { 0o1777 } else { 0o700 };
            this.put(dir, "dir", mode, &json!({"size": 60}));
        }
        this.record();
        this.file("/etc/machine-id", 0o444, "");
        this.file("/etc/resolv.conf", 0o644, "");
        this.file("/var/log/wtmp", 0o664, "");
        this.file("/etc/ssh/ssh_config", 0o644, "Host *\n");
        this.file("/etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/bash\nbin:x:1:1::/bin:/sbin/nologin\n");
        this.file("/etc/shadow", 0o000, "root:!!:19000::::::\nbin:*:19000::::::\n");
        this.label("/etc/shadow", "system_u:object_r:shadow_t:s0");
        this.file("/etc/sudoers", 0o440, "%wheel ALL=(ALL) ALL\n# %wheel ALL=(ALL) NOPASSWD: ALL\n");
        for (name, label) in [("agent", "system_u:object_r:bin_t:s0"), ("k3s", K3S_LABEL)] {
            let path = format!("/usr/local/bin/{name}");
            this.put(&path, "file", 0o755, &json!({"size": 9, "sha256": digest(name)}));
            this.label(&path, label);
        }
        for unit in ["kiln-agent", "k3s", "k3s-agent"] {
            let path = format!("/etc/systemd/system/{unit}.service");
            this.file(&path, 0o644, "[Unit]\nAssertPathExists=/etc/rancher/k3s/config.yaml\n");
            this.label(&path, UNIT_LABEL);
        }
        let wants = "/etc/systemd/system/multi-user.target.wants";
        this.link(&format!("{wants}/kiln-agent.service"), "/etc/systemd/system/kiln-agent.service");
        this.link("/etc/systemd/system/debug-shell.service", "/dev/null");
        this.link("/etc/systemd/system/ctrl-alt-del.target", "/dev/null");
        let entry = "/boot/loader/entries/ffffffffffffffffffffffffffffffff-5.14.conf";
        this.file(
            entry,
            0o644,
            "title AlmaLinux\nlinux /vmlinuz-5.14\ninitrd /initramfs-5.14.img $tuned_initrd\n",
        );
        this.file("/boot/grub2/grubenv", 0o600, "saved_entry=ffffffffffffffffffffffffffffffff-5.14\n");
        for path in [
            "/boot/vmlinuz-5.14",
            "/boot/initramfs-5.14.img",
            "/boot/grub2/grub.cfg",
            "/boot/efi/EFI/BOOT/BOOTX64.EFI",
            "/boot/efi/EFI/almalinux/shimx64.efi",
            "/boot/efi/EFI/almalinux/grubx64.efi",
        ] {
            this.file(path, 0o600, "x");
        }
        this.file("/etc/selinux/config", 0o644, "SELINUX=enforcing\nSELINUXTYPE=targeted\n");
        this.file(
            "/etc/ssh/sshd_config",
            0o600,
            "Include /etc/ssh/sshd_config.d/*.conf\nPasswordAuthentication yes\n",
        );
        // The very files that are put into images.
        for (path, text) in crate::bake::hardening_files() {
            this.file(&format!("/{path}"), 0o600, text);
        }
        this
    }

    fn record(&mut self) {
        let record = json!({"version": self.expected.version, "k3s": "v1.28.5+k3s1",
            "harden": self.expected.harden, "login": self.expected.login});
        self.file("/usr/lib/kiln/image.json", 0o644, &record.to_string());
    }

    fn with_login(mut self, by: kiln_protocol::install::LoginWay) -> Self {
        self.expected.login = Some(LoginRecord { user: "rescue".parse().unwrap(), by });
        self.record();
        self.file("/etc/sudoers.d/kiln-break-glass", 0o440, "rescue ALL=(ALL) NOPASSWD: ALL\n");
        self
    }

    fn judge(&self) -> Verdict {
        let mut facts: Vec<String> = self.entries.values().map(ToString::to_string).collect();
        facts.push(package("k3s-selinux"));
        // Like the script, which asks the policy about every path that was placed.
        let asked = self.entries.keys().filter(|_| self.policy).map(|path| (path, ETC_LABEL));
        let mut labels: BTreeMap<&String, &str> = asked.collect();
        labels.extend(self.labels.iter().map(|(path, wanted)| (path, wanted.as_str())));
        facts.extend(
            labels
                .into_iter()
                .map(|(path, wanted)| json!({"kind":"label","path":path,"wanted":wanted}).to_string()),
        );
        let survey = Survey::parse(&stream(&facts), &RUN.parse().unwrap()).unwrap();
        judge(&survey, &self.disk, &self.expected).0
    }

    /// The rules that something is against.
    fn found(&self) -> BTreeSet<String> {
        self.judge().findings.into_iter().map(|finding| finding.rule).collect()
    }
}

#[test]
fn nothing_is_found_in_a_good_image() {
    let verdict = Image::good().judge();
    assert_eq!(verdict.findings, []);
    assert_eq!(verdict.notes, [""; 0]);
}

type Change = fn(&mut Image);

/// What may be wrong, and the one rule that must say so.
const PLANTED: &[(&str, Change)] = &[
    ("host-keys", |i| i.file("/etc/ssh/ssh_host_ed25519_key", 0o600, "x")),
    ("names", |i| i.file("/etc/hostname", 0o644, "node")),
    ("names", |i| i.file("/etc/nvme/hostnqn", 0o644, "nqn")),
    ("random-seed", |i| i.file("/var/lib/systemd/random-seed", 0o600, "x")),
    ("random-seed", |i| i.file("/boot/efi/loader/random-seed", 0o600, "x")),
    ("credential-secret", |i| i.file("/var/lib/systemd/credential.secret", 0o400, "x")),
    ("registrations", |i| i.file("/etc/pki/consumer/cert.pem", 0o600, "x")),
    ("service-data", |i| i.file("/var/lib/sss/db/cache_x.ldb", 0o600, "x")),
    ("user-secrets", |i| i.put("/root/.kube", "dir", 0o700, &json!({}))),
    ("root-ssh-password", |i| i.file("/etc/ssh/sshd_config.d/01-permitrootlogin.conf", 0o600, "")),
    ("account-backups", |i| i.file("/etc/shadow-", 0o000, "x")),
    ("network-profiles", |i| i.file("/etc/NetworkManager/system-connections/e.nmconnection", 0o600, "x")),
    ("network-profiles", |i| i.file("/etc/sysconfig/network-scripts/ifcfg-eth0", 0o644, "x")),
    ("network-state", |i| i.file("/var/lib/NetworkManager/secret_key", 0o600, "x")),
    ("name-servers", |i| i.file("/etc/resolv.conf", 0o644, "nameserver 10.0.0.1")),
    ("hardware", |i| i.file("/etc/udev/rules.d/70-persistent-net.rules", 0o644, "x")),
    ("hardware", |i| i.file("/etc/lvm/devices/system.devices", 0o600, "x")),
    ("installer", |i| i.file("/root/anaconda-ks.cfg", 0o600, "rootpw x")),
    ("history", |i| i.file("/home/me/.bash_history", 0o600, "x")),
    ("logs", |i| i.file("/var/log/audit/audit.log", 0o600, "x")),
    ("journal", |i| i.put("/var/log/journal/0123", "dir", 0o755, &json!({}))),
    ("mail", |i| i.file("/var/spool/mail/root", 0o600, "x")),
    ("accounting", |i| i.file("/var/account/pacct", 0o600, "x")),
    ("crashes", |i| i.file("/var/lib/systemd/coredump/core.zst", 0o640, "x")),
    ("package-leftovers", |i| i.put("/var/cache/dnf/baseos", "dir", 0o755, &json!({}))),
    ("package-leftovers", |i| i.file("/var/lib/dnf/history.sqlite", 0o644, "x")),
    ("jobs", |i| i.file("/var/spool/cron/root", 0o600, "x")),
    ("editor-backups", |i| i.file("/etc/deep/fstab.bak", 0o644, "x")),
    ("temporary", |i| i.file("/var/tmp/x", 0o600, "x")),
    ("temporary", |i| i.put("/run/lock", "dir", 0o755, &json!({}))),
    ("cloud-init", |i| i.put("/var/lib/cloud", "dir", 0o755, &json!({}))),
    ("k3s-node", |i| i.file("/etc/rancher/k3s/config.yaml", 0o600, "token: x")),
    ("k3s-state", |i| i.put("/var/lib/rancher/k3s/server", "dir", 0o700, &json!({}))),
    ("k3s-agent-state", |i| i.file("/var/lib/rancher/k3s/agent/client-ca.crt", 0o644, "x")),
    ("kubelet-state", |i| i.put("/var/lib/kubelet", "dir", 0o755, &json!({}))),
    ("agent-state", |i| i.put("/var/lib/kiln", "dir", 0o700, &json!({}))),
    ("ssh-keys", |i| i.file("/root/.ssh/authorized_keys", 0o600, "ssh-ed25519 AAAA")),
    ("machine-id", |i| i.file("/etc/machine-id", 0o444, "0123456789abcdef0123456789abcdef\n")),
    ("machine-id", |i| drop(i.entries.remove("/etc/machine-id"))),
    ("boot-entries", |i| {
        let entry =
            i.entries.remove("/boot/loader/entries/ffffffffffffffffffffffffffffffff-5.14.conf").unwrap();
        i.put(
            "/boot/loader/entries/0123456789abcdef0123456789abcdef-5.14.conf",
            "file",
            0o644,
            &json!({"size": entry["size"], "content": entry["content"]}),
        );
    }),
    ("boot-entries", |i| {
        i.file("/boot/grub2/grubenv", 0o600, "saved_entry=0123456789abcdef0123456789abcdef-5.14\n");
    }),
    ("private-keys", |i| i.put("/etc/x", "file", 0o600, &json!({"size": 9, "private_key": true}))),
    ("passwords", |i| i.file("/etc/shadow", 0o000, "root:$6$a$b:1::::::\n")),
    ("passwords", |i| i.file("/etc/shadow", 0o000, "root:!!:1::::::\nx::1::::::\n")),
    ("passwords", |i| drop(i.entries.remove("/etc/shadow"))),
    ("root-accounts", |i| i.file("/etc/passwd", 0o644, "root:x:0:0::/:/bin/sh\ntoor:x:0:0::/:/bin/sh\n")),
    ("root-accounts", |i| i.file("/etc/passwd", 0o644, "root:abc:0:0::/:/bin/sh\n")),
    ("sudo", |i| i.file("/etc/sudoers.d/x", 0o440, "me ALL=(ALL) NOPASSWD: ALL\n")),
    ("sudo", |i| i.file("/etc/sudoers.d/kiln-break-glass", 0o440, "x ALL=(ALL) ALL\n")),
    ("image-record", |i| drop(i.entries.remove("/usr/lib/kiln/image.json"))),
    ("image-record", |i| i.expected.version = Some("alma9-k3-node-amd64-v1.28.5-v2".into())),
    ("programs", |i| i.expected.k3s = Some(digest("another"))),
    ("programs", |i| i.entries.get_mut("/usr/local/bin/k3s").unwrap()["mode"] = json!(0o777)),
    ("units", |i| drop(i.entries.remove("/etc/systemd/system/multi-user.target.wants/kiln-agent.service"))),
    ("units", |i| i.link("/etc/systemd/system/multi-user.target.wants/k3s.service", "../k3s.service")),
    ("partitions", |i| drop(i.disk.partitions.pop())),
    ("boot-loaders", |i| i.disk.bios_loader = false),
    ("boot-loaders", |i| drop(i.entries.remove("/boot/efi/EFI/BOOT/BOOTX64.EFI"))),
    ("kernels", |i| drop(i.entries.remove("/boot/initramfs-5.14.img"))),
    ("labels", |i| i.entries.get_mut("/usr/local/bin/k3s").unwrap()["label"] = json!("u:object_r:bin_t:s0")),
    ("labels", |i| unlabel(i, "/etc/shadow")),
    ("labels", |i| i.policy = false),
    ("labels", |i| unlabel(i, "/etc/systemd/system/multi-user.target.wants/kiln-agent.service")),
    ("labels", |i| {
        // The policy leaves it alone, and it has none all the same.
        i.labels.insert("/usr/lib/kiln/image.json".into(), "<<none>>".into());
        unlabel(i, "/usr/lib/kiln/image.json");
    }),
    ("sshd", |i| drop(i.entries.remove("/etc/ssh/sshd_config.d/00-kiln.conf"))),
    ("sshd", |i| i.file("/etc/ssh/sshd_config.d/00-a.conf", 0o600, "passwordAuthentication yes\n")),
    ("sysctl", |i| i.file("/etc/sysctl.d/99-x.conf", 0o644, "kernel.kptr_restrict=0\n")),
    ("modules", |i| drop(i.entries.remove("/etc/modprobe.d/kiln.conf"))),
    ("services", |i| i.link("/etc/systemd/system/sockets.target.wants/rpcbind.socket", "/x")),
    ("services", |i| drop(i.entries.remove("/etc/systemd/system/debug-shell.service"))),
    ("modes", |i| i.file("/usr/bin/x", 0o777, "x")),
    ("modes", |i| i.put("/srv", "dir", 0o777, &json!({}))),
    ("modes", |i| i.entries.get_mut("/etc/shadow").unwrap()["mode"] = json!(0o644)),
    ("enforcing", |i| i.file("/etc/selinux/config", 0o644, "SELINUX=permissive\n")),
];

fn unlabel(image: &mut Image, path: &str) {
    image.entries.get_mut(path).unwrap().as_object_mut().unwrap().remove("label").unwrap();
}

#[test]
fn labels_are_not_judged_where_selinux_is_off_and_the_report_says_so() {
    let says = |image: &Image| image.judge().notes.into_iter().find(|note| note.contains("SELinux is off"));
    let mut image = Image::good();
    image.expected.harden = Hardening::None;
    image.record();
    assert_eq!(says(&image), None);
    unlabel(&mut image, "/usr/local/bin/agent");
    assert_eq!(image.found(), BTreeSet::from(["labels".to_owned()]));
    image.file("/etc/selinux/config", 0o644, "# SELINUX=enforcing\nSELINUX=disabled\n");
    assert_eq!(image.judge().findings, []);
    assert!(says(&image).unwrap().contains("by SELINUX=disabled"));
    image.entries.remove("/etc/selinux/config");
    assert_eq!(image.judge().findings, []);
    assert!(says(&image).unwrap().contains("has no /etc/selinux/config"));
    // What nobody understands is no reason to look away.
    image.file("/etc/selinux/config", 0o644, "SELINUX=of\n");
    assert_eq!(image.found(), BTreeSet::from(["labels".to_owned()]));
    // The baseline does not let SELinux be off.
    let mut image = Image::good();
    image.file("/etc/selinux/config", 0o644, "SELINUX=disabled\n");
    assert!(image.found().contains("enforcing"));
}

#[test]
fn everything_planted_is_found_by_its_rule() {
    for (index, (rule, change)) in PLANTED.iter().enumerate() {
        let mut image = Image::good();
        change(&mut image);
        assert!(image.found().contains(*rule), "{index}, {rule}: {:?}", image.judge().findings);
    }
    let planted: BTreeSet<_> = PLANTED.iter().map(|(rule, _)| (*rule).to_owned()).collect();
    let rules: BTreeSet<_> = Image::good().judge().checks.into_iter().map(|check| check.rule).collect();
    assert_eq!(planted, rules, "a rule nothing is planted against");
}

#[test]
fn an_image_that_is_not_hardened_is_judged_without_the_baseline() {
    let mut image = Image::good();
    image.expected.harden = Hardening::None;
    image.record();
    image.entries.remove("/etc/ssh/sshd_config.d/00-kiln.conf");
    assert_eq!(image.judge().findings, []);
}

#[test]
fn a_break_glass_login_is_allowed_where_it_was_ordered_and_nowhere_else() {
    use kiln_protocol::install::LoginWay;
    let mut key = Image::good().with_login(LoginWay::SshKey);
    assert!(key.found().contains("ssh-keys"), "its key is missing");
    key.put("/home/rescue/.ssh", "dir", 0o700, &json!({}));
    key.file("/home/rescue/.ssh/authorized_keys", 0o600, "ssh-ed25519 AAAA");
    assert_eq!(key.judge().findings, []);
    for other in ["/home/rescue/.ssh/id_rsa", "/home/other/.ssh/authorized_keys"] {
        let mut image = key.clone();
        image.file(other, 0o600, "x");
        assert_eq!(image.found(), BTreeSet::from(["ssh-keys".to_owned()]), "{other}");
    }

    let mut password = Image::good().with_login(LoginWay::Password);
    assert!(password.found().contains("passwords"), "its password is missing");
    password.file("/etc/shadow", 0o000, "root:!!:1::::::\nrescue:$6$a$b:::::::\n");
    password.label("/etc/shadow", "system_u:object_r:shadow_t:s0");
    assert_eq!(password.judge().findings, []);

    // The same image, of which nobody said that it has one.
    let mut secret = password.clone();
    secret.expected.login = None;
    let found = secret.found();
    for rule in ["passwords", "sudo", "image-record"] {
        assert!(found.contains(rule), "{rule}: {found:?}");
    }
}
