//! The break-glass login, and hardening.

use super::*;

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
