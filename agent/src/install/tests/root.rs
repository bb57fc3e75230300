//! A root becomes an image's, whatever was in it and whatever cuts the run off.

use super::*;

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
