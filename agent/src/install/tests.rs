//! Installs onto a fake root, with fakes of SELinux's tools.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef";
const IMAGE: &str = r#"{"version":"alma9-k3-node-amd64-v1.28.5-v1","k3s":"v1.28.5+k3s1"}"#;

/// Labels everything `<path>_t`, unless told to do it wrong.
#[derive(Default)]
struct FakeTools {
    labels: RefCell<BTreeMap<PathBuf, String>>,
    idle: bool,
    calls: RefCell<Vec<String>>,
}

impl FakeTools {
    fn wanted(path: &Path) -> String {
        let kind = if path.ends_with("k3s") { "container_runtime_exec_t" } else { "etc_t" };
        format!("system_u:object_r:{kind}:s0")
    }
}

impl Tools for FakeTools {
    fn prepare(&self, _root: &Root) -> Result<()> {
        Ok(())
    }

    fn run(&self, _root: &Root, program: &str, arguments: &[&OsStr]) -> Result<String> {
        let paths = arguments.iter().map(Path::new).filter(|path| !path.starts_with("/etc/selinux"));
        let paths: Vec<_> = paths.filter(|path| path.is_absolute()).collect();
        self.calls.borrow_mut().push(program.to_owned());
        if program == "rpm" {
            return Ok("bash\t0\t5.1.8\t9.el9\tx86_64\tGPLv3+\n".to_owned());
        }
        if program == "setfiles" {
            assert_eq!(arguments[0], "-F");
            for path in paths.iter().filter(|_| !self.idle) {
                self.labels.borrow_mut().insert(path.to_path_buf(), Self::wanted(path) + "\0");
            }
            return Ok(String::new());
        }
        Ok(paths.iter().map(|path| Self::wanted(path) + "\n").collect())
    }

    fn label_of(&self, _root: &Root, path: &Path) -> Result<Option<Vec<u8>>> {
        Ok(self.labels.borrow().get(path).map(|label| label.clone().into_bytes()))
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    tools: FakeTools,
}

impl Fixture {
    /// A root as Anaconda leaves it, and then some.
    fn new() -> Self {
        let this = Self { dir: crate::testing::tempdir().unwrap(), tools: FakeTools::default() };
        this.write("usr/lib/os-release", "ID=\"almalinux\"\nPLATFORM_ID=\"platform:el9\"\n");
        this.link("../usr/lib/os-release", "etc/os-release");
        this.write("etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=targeted\n");
        this.write("etc/selinux/targeted/contexts/files/file_contexts", "");
        this.write("etc/machine-id", &format!("{ID}\n"));
        this.write("etc/ssh/ssh_host_ed25519_key", "secret");
        this.write("etc/ssh/sshd_config", "keep");
        this.write("root/anaconda-ks.cfg", "rootpw x");
        this.write("root/.ssh/authorized_keys", "ssh-ed25519 AAAA");
        this.write("var/log/anaconda/program.log", "x");
        this.write("var/log/chrony/tracking.log", "x");
        this.write("var/log/wtmp", "x");
        this.write("etc/shadow-", "root:x");
        this.write("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nadm:x:3:4:adm:/var/adm:/sbin/nologin\n");
        this.write("etc/shadow", "root:!!:19000:0:99999:7:::\nadm:*:19000:0:99999:7:::\n");
        this.write("etc/group", "root:x:0:\nadm:x:4:\n");
        this.write("etc/gshadow", "root:::\nadm:::\n");
        this.write("var/lib/rancher/k3s/agent/containerd/x", "x");
        this.write(&format!("boot/loader/entries/{ID}-5.14.conf"), "title x");
        this.write("boot/grub2/grubenv", &grubenv(ID));
        this.link("/dev/null", "tmp/link");
        for dir in ["etc/systemd/system", "usr/local/bin", "var/lib"] {
            fs::create_dir_all(this.path(dir)).unwrap();
        }
        for (name, content) in [
            ("agent", "agent"),
            ("k3s", "k3s"),
            ("units/kiln-agent.service", "[Unit]"),
            ("units/k3s.service", "[Unit]"),
            ("units/k3s-agent.service", "[Unit]"),
            ("images/airgap.tar.zst", "images"),
        ] {
            this.write_to("payload", name, content);
        }
        this.write_spec("");
        this
    }

    /// As [`Fixture::new`], for an image that is hardened so and has this
    /// login, both JSON.
    fn ordered(harden: &str, login: Option<&str>) -> Self {
        let this = Self::new();
        this.write_to("payload", "hardening/etc/ssh/sshd_config.d/00-kiln.conf", "PermitRootLogin no\n");
        this.order(harden, login);
        this
    }

    fn order(&self, harden: &str, login: Option<&str>) {
        self.write_spec(&format!(
            "{}{}",
            format_args!(r#""image":{},"#, IMAGE.replace('}', &format!(r#","harden":"{harden}"}}"#))),
            login.map(|login| format!(r#""login":{login},"#)).unwrap_or_default()
        ));
    }

    fn write_to(&self, area: &str, name: &str, content: &str) {
        let path = self.dir.path().join(area).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn write(&self, name: &str, content: &str) {
        self.write_to("root", name, content);
    }

    fn link(&self, target: &str, name: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("root").join(name)
    }

    /// Writes `install.json` over what the payload holds; `more` replaces
    /// the image's record.
    fn write_spec(&self, more: &str) {
        let payload = self.dir.path().join("payload");
        let mut files = BTreeMap::new();
        let mut waiting = vec![payload.clone()];
        while let Some(dir) = waiting.pop() {
            for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    waiting.push(entry);
                } else if !entry.ends_with("install.json") {
                    let name = entry.strip_prefix(&payload).unwrap().to_str().unwrap().to_owned();
                    files.insert(name, payload::sha256(&mut fs::File::open(entry).unwrap()).unwrap());
                }
            }
        }
        let files = serde_json::to_string(&files).unwrap();
        let image = if more.is_empty() { format!(r#""image":{IMAGE},"#) } else { more.to_owned() };
        let spec = format!(r#"{{"format":1,"run":"0123456789abcdef",{image}"files":{files}}}"#);
        self.write_to("payload", "install.json", &spec);
    }

    fn install(&self) -> Result<Report> {
        install(&self.dir.path().join("root"), &self.dir.path().join("payload"), None, &self.tools)
    }
}

fn grubenv(id: &str) -> String {
    format!("{:#<1024}", format!("# GRUB Environment Block\nsaved_entry={id}-5.14\n"))
}

#[test]
fn an_installed_root_is_complete_sealed_and_labelled() {
    let fixture = Fixture::new();
    let report = fixture.install().unwrap();
    assert!(report.ok, "{report}");
    assert_eq!(report.warnings, [""; 0]);

    let mode = |name: &str| fs::metadata(fixture.path(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(fs::read(fixture.path("usr/local/bin/k3s")).unwrap(), b"k3s");
    assert_eq!(mode("usr/local/bin/k3s"), 0o755);
    assert_eq!(fs::read_link(fixture.path("usr/local/bin/kubectl")).unwrap(), Path::new("k3s"));
    let enabled = fixture.path("etc/systemd/system/multi-user.target.wants/kiln-agent.service");
    assert_eq!(fs::read_link(enabled).unwrap(), Path::new("/etc/systemd/system/kiln-agent.service"));
    let record = fs::read_to_string(fixture.path("usr/lib/kiln/image.json")).unwrap();
    assert!(record.contains("v1.28.5+k3s1"), "{record}");

    assert_eq!(fs::read(fixture.path("etc/machine-id")).unwrap(), b"");
    assert_eq!(mode("etc/machine-id"), 0o444);
    assert_eq!(fs::read(fixture.path("var/log/wtmp")).unwrap(), b"");
    for gone in [
        "etc/ssh/ssh_host_ed25519_key",
        "root/anaconda-ks.cfg",
        "root/.ssh",
        "var/log/anaconda",
        "var/log/chrony/tracking.log",
        "etc/shadow-",
        "var/lib/rancher/k3s/agent/containerd",
        "tmp/link",
    ] {
        assert!(fs::symlink_metadata(fixture.path(gone)).is_err(), "{gone} is still there");
    }
    for kept in ["etc/ssh/sshd_config", "var/log/chrony", "var/lib/rancher/k3s/agent/images/airgap.tar.zst"] {
        assert!(fixture.path(kept).exists(), "{kept} is gone");
    }
    assert!(fixture.path("boot/loader/entries/ffffffffffffffffffffffffffffffff-5.14.conf").exists());
    let env = fs::read_to_string(fixture.path("boot/grub2/grubenv")).unwrap();
    assert_eq!(env, grubenv("ffffffffffffffffffffffffffffffff"));
    let labels = fixture.tools.labels.borrow();
    for path in ["/usr/local/bin/agent", "/etc/machine-id", "/usr/local/bin/ctr", "/usr/lib/kiln"] {
        assert!(labels.contains_key(Path::new(path)), "{path} was not labelled");
    }
}

#[test]
fn a_second_run_changes_nothing() {
    let fixture = Fixture::new();
    fixture.install().unwrap();
    let report = fixture.install().unwrap();
    assert!(report.ok, "{report}");
    assert!(report.placed.iter().all(|placed| !placed.changed), "{report}");
    assert!(report.sealed.iter().all(|rule| rule.count == 0), "{report}");
}

#[test]
fn a_run_cut_short_anywhere_is_repaired_by_the_next() {
    let whole = Fixture::new();
    whole.install().unwrap();
    let labelled = |fixture: &Fixture| -> Vec<_> { fixture.tools.labels.borrow().keys().cloned().collect() };
    for steps in 0.. {
        let fixture = Fixture::new();
        let fuse = crate::root::Fuse::after(steps);
        let first = fixture.install();
        let blown = fuse.has_blown();
        if !blown {
            assert!(first.unwrap().ok);
            assert!(steps > 30, "the fuse was hardly in the way: {steps}");
            return;
        }
        assert!(!first.is_ok_and(|report| report.ok), "cut at {steps}, and nothing was said");
        let second = fixture.install().unwrap();
        assert!(second.ok, "cut at {steps}: {second}");
        assert_eq!(labelled(&fixture), labelled(&whole), "cut at {steps}");
        let names = fs::read_dir(fixture.path("usr/local/bin")).unwrap().count();
        assert_eq!(names, 5, "something was left behind by the cut at {steps}");
    }
}

#[test]
fn a_damaged_payload_is_refused_before_anything_is_touched() {
    let (damaged, extra, missing) = (Fixture::new(), Fixture::new(), Fixture::new());
    damaged.write_to("payload", "k3s", "k4s");
    extra.write_to("payload", "units/evil.service", "");
    fs::remove_file(missing.dir.path().join("payload/agent")).unwrap();
    for (fixture, why) in
        [(damaged, "k3s of the payload is damaged"), (extra, "evil"), (missing, "lacks agent")]
    {
        let error = format!("{:#}", fixture.install().unwrap_err());
        assert!(error.contains(why), "{error}");
        assert!(!fixture.path("usr/local/bin/agent").exists());
        assert!(fixture.path("etc/shadow-").exists());
    }
}

#[test]
fn another_system_or_none_is_refused() {
    let fixture = Fixture::new();
    fixture.write("usr/lib/os-release", "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian 12\"\n");
    let error = fixture.install().unwrap_err().to_string();
    assert!(error.contains("Debian 12") && error.contains("el9"), "{error}");
    fs::remove_file(fixture.path("etc/os-release")).unwrap();
    let error = fixture.install().unwrap_err().to_string();
    assert!(error.contains("is the disk mounted"), "{error}");
}

#[test]
fn labels_that_were_not_set_are_noticed() {
    let mut fixture = Fixture::new();
    fixture.tools.idle = true;
    let report = fixture.install().unwrap();
    assert!(!report.ok);
    assert!(report.problems()[0].contains("has no label"), "{:?}", report.problems());
}

#[test]
fn a_root_without_k3s_selinux_is_a_warning_and_one_without_a_policy_an_error() {
    struct NoK3sPolicy(FakeTools);
    impl Tools for NoK3sPolicy {
        fn prepare(&self, _root: &Root) -> Result<()> {
            Ok(())
        }
        fn run(&self, root: &Root, program: &str, arguments: &[&OsStr]) -> Result<String> {
            Ok(self.0.run(root, program, arguments)?.replace("container_runtime_exec_t", "bin_t"))
        }
        fn label_of(&self, root: &Root, path: &Path) -> Result<Option<Vec<u8>>> {
            let label = self.0.label_of(root, path)?.map(|label| String::from_utf8(label).unwrap());
            Ok(label.map(|label| label.replace("container_runtime_exec_t", "bin_t").into_bytes()))
        }
    }
    let fixture = Fixture::new();
    let (root, payload) = (fixture.dir.path().join("root"), fixture.dir.path().join("payload"));
    let report = install(&root, &payload, None, &NoK3sPolicy(FakeTools::default())).unwrap();
    assert!(report.ok, "{report}");
    assert!(report.warnings[0].contains("k3s-selinux is not installed"), "{report}");

    fs::remove_file(fixture.path("etc/selinux/targeted/contexts/files/file_contexts")).unwrap();
    let report = fixture.install().unwrap();
    assert!(report.problems()[0].contains("selinux-policy-targeted"), "{report}");
}

#[test]
fn a_rule_that_cannot_be_kept_fails_the_run_and_not_the_other_rules() {
    let fixture = Fixture::new();
    // A directory where a file of no length belongs.
    fs::remove_file(fixture.path("etc/machine-id")).unwrap();
    fs::create_dir_all(fixture.path("etc/machine-id/x")).unwrap();
    let report = fixture.install().unwrap();
    assert!(!report.ok);
    let failed: Vec<_> =
        report.sealed.iter().filter(|rule| !rule.ok).map(|rule| rule.rule.as_str()).collect();
    assert_eq!(failed, ["machine-id"]);
    assert!(!fixture.path("etc/shadow-").exists());
    assert!(report.problems()[0].contains("machine-id"), "{:?}", report.problems());
}

#[test]
fn links_that_point_out_of_the_root_lead_back_into_it() {
    let fixture = Fixture::new();
    let outside = crate::testing::tempdir().unwrap();
    fs::remove_dir_all(fixture.path("var/log")).unwrap();
    fs::write(outside.path().join("host.log"), "keep").unwrap();
    fixture.link(outside.path().to_str().unwrap(), "var/log");
    fs::remove_dir_all(fixture.path("usr/local")).unwrap();
    fixture.link(outside.path().to_str().unwrap(), "usr/local");
    let error = format!("{:#}", fixture.install().unwrap_err());
    assert!(error.contains("usr/local"), "{error}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(fs::read(outside.path().join("host.log")).unwrap(), b"keep");
}

#[test]
fn a_coordinator_can_be_baked_in_and_a_ticket_cannot() {
    let fixture = Fixture::new();
    let (root, payload) = (fixture.dir.path().join("root"), fixture.dir.path().join("payload"));
    let pin = kiln_protocol::Fingerprint::of_spki(b"c");
    let contact = Contact::new(vec!["10.0.2.2:7443".parse().unwrap()], pin).unwrap();
    fixture.install().unwrap();
    assert!(!fixture.path("usr/lib/kiln/seed.json").exists());
    install(&root, &payload, Some(contact.clone()), &fixture.tools).unwrap();
    let seed = fs::read(fixture.path("usr/lib/kiln/seed.json")).unwrap();
    let seed = kiln_protocol::seed::NodeSeed::parse(&seed).unwrap();
    assert_eq!(seed, kiln_protocol::seed::NodeSeed::without_ticket(contact.clone()));
    let again = install(&root, &payload, Some(contact), &fixture.tools).unwrap();
    assert!(again.ok, "{again}");
}

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

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlqaaaaaaaaaaaaaaaaaaaaaaaa admin";

fn hash() -> String {
    format!("$6$salt${}", "a".repeat(86))
}

#[test]
fn a_login_with_a_key_is_the_one_thing_the_seal_leaves() {
    let login = format!(r#"{{"user":"rescue","credential":{{"ssh-keys":["{KEY}"]}}}}"#);
    let fixture = Fixture::ordered("none", Some(&login));
    fixture.write("home/rescue/.ssh/id_rsa", "secret");
    fixture.write("home/other/.ssh/authorized_keys", KEY);
    for run in 0..2 {
        let report = fixture.install().unwrap();
        assert!(report.ok, "{report}");
        let text = |name: &str| fs::read_to_string(fixture.path(name)).unwrap();
        assert_eq!(text("home/rescue/.ssh/authorized_keys"), format!("{KEY}\n"));
        assert!(!fixture.path("home/rescue/.ssh/id_rsa").exists());
        assert!(!fixture.path("home/other/.ssh").exists());
        assert!(text("etc/passwd").ends_with("\nrescue:x:1000:1000::/home/rescue:/bin/bash\n"));
        assert!(text("etc/shadow").ends_with("\nrescue:*:::::::\n"));
        assert!(text("etc/group").ends_with("\nrescue:x:1000:\n"));
        assert_eq!(text("etc/sudoers.d/kiln-break-glass"), "rescue ALL=(ALL) NOPASSWD: ALL\n");
        let found: usize = report.sealed.iter().map(|rule| rule.count).sum();
        assert_eq!(run == 1, found == 0, "{report}");
        let labels = fixture.tools.labels.borrow();
        for path in ["/etc/shadow", "/home/rescue", "/home/rescue/.ssh/authorized_keys"] {
            assert!(labels.contains_key(Path::new(path)), "{path} was not labelled");
        }
        assert!(!labels.contains_key(Path::new("/")) && !labels.contains_key(Path::new("/home")));
    }
}

#[test]
fn a_login_with_a_password_has_its_hash_in_shadow_and_nowhere_else() {
    let login = format!(r#"{{"user":"rescue","credential":{{"password-hash":"{}"}}}}"#, hash());
    let fixture = Fixture::ordered("baseline", Some(&login));
    let report = fixture.install().unwrap();
    assert!(report.ok, "{report}");
    assert!(!serde_json::to_string(&report).unwrap().contains("$6$"));
    let shadow = fs::read_to_string(fixture.path("etc/shadow")).unwrap();
    assert!(shadow.ends_with(&format!("\nrescue:{}:::::::\n", hash())), "{shadow}");
    assert!(!fixture.path("home/rescue/.ssh").exists());
    let sudo = fs::read_to_string(fixture.path("etc/sudoers.d/kiln-break-glass")).unwrap();
    assert_eq!(sudo, "rescue ALL=(ALL) ALL\n");
}

#[test]
fn no_login_takes_the_name_of_a_system_account() {
    let login = format!(r#"{{"user":"adm","credential":{{"ssh-keys":["{KEY}"]}}}}"#);
    let fixture = Fixture::ordered("none", Some(&login));
    let error = format!("{:#}", fixture.install().unwrap_err());
    assert!(error.contains("adm is an account of the system"), "{error}");
}

#[test]
fn the_baseline_masks_disables_closes_and_locks() {
    let fixture = Fixture::ordered("baseline", None);
    fixture.write("etc/shadow", &format!("root:{}:19000:0:99999:7:::\n", hash()));
    fixture.write("etc/ssh/sshd_config", "x");
    fixture.write("etc/cron.daily/x", "x");
    fixture.link(
        "/usr/lib/systemd/system/rpcbind.socket",
        "etc/systemd/system/sockets.target.wants/rpcbind.socket",
    );
    fixture.link(
        "/usr/lib/systemd/system/sshd.service",
        "etc/systemd/system/multi-user.target.wants/sshd.service",
    );
    for _ in 0..2 {
        let report = fixture.install().unwrap();
        assert!(report.ok, "{report}");
        let link = |name: &str| fs::read_link(fixture.path(name)).ok();
        assert_eq!(link("etc/systemd/system/debug-shell.service"), Some("/dev/null".into()));
        assert_eq!(link("etc/systemd/system/sockets.target.wants/rpcbind.socket"), None);
        assert!(link("etc/systemd/system/multi-user.target.wants/sshd.service").is_some());
        let mode = |name: &str| fs::metadata(fixture.path(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("etc/ssh/sshd_config") & 0o077, 0);
        assert_eq!(mode("etc/cron.daily") & 0o077, 0);
        assert_eq!(mode("etc/ssh/sshd_config.d/00-kiln.conf"), 0o600);
        assert_eq!(fs::read_to_string(fixture.path("etc/shadow")).unwrap(), "root:!!:19000:0:99999:7:::\n");
    }
}

#[test]
fn an_image_that_is_not_hardened_is_left_as_the_distribution_has_it() {
    let fixture = Fixture::new();
    fixture.install().unwrap();
    assert!(fs::symlink_metadata(fixture.path("etc/systemd/system/debug-shell.service")).is_err());
}
