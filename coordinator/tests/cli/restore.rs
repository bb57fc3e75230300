//! A restored state: where it goes, and what its operator is told.

use std::os::unix::fs::symlink;

use super::*;

/// What is in a directory, by name.
fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn a_state_is_restored_behind_the_link_that_systemd_leaves() {
    let host = Host::initialised();
    let pin = host.ok(&["init", "--if-missing"]);
    let [backup, link, unlock] =
        ["backup", "lib/kiln", "state.unlock-key"].map(|name| host.path(name).display().to_string());
    host.ok(&["backup", &backup]);
    // As it is for a unit with DynamicUser= and StateDirectory=kiln.
    let behind = host.path("lib/private/kiln");
    fs::create_dir_all(&behind).unwrap();
    symlink("private/kiln", &link).unwrap();
    let restore = ["restore", &backup, "--state", &link, "--unlock-key", &unlock];

    // There and empty, then not there any more.
    for round in ["empty", "dangling"] {
        host.ok(&restore);
        assert_eq!(mode(&behind), 0o700, "{round}");
        assert_eq!(names(&behind), ["state.db"], "{round}");
        assert_eq!(names(&host.path("lib")), ["kiln", "private"], "{round}");
        assert_eq!(names(&host.path("lib/private")), ["kiln"], "{round}");
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("private/kiln"), "{round}");
        assert_eq!(host.ok(&["init", "--if-missing", "--state", &link, "--unlock-key", &unlock]), pin);
        // What is there is left alone.
        assert!(host.fails(1, &restore).contains("a restore never overwrites"), "{round}");
        fs::remove_dir_all(&behind).unwrap();
    }

    // What no directory can take the place of is said before anything is made.
    fs::write(&behind, "").unwrap();
    assert!(host.fails(1, &restore).contains("Not a directory"));
    fs::remove_file(&link).unwrap();
    symlink("kiln", &link).unwrap();
    assert!(host.fails(1, &restore).contains("symbolic link"));
    assert_eq!(names(&host.path("lib/private")), ["kiln"]);
}

#[test]
fn a_restore_says_what_was_taken_away_after_the_backup_and_is_back() {
    let host = Host::initialised();
    let [backup, new, unlock] =
        ["backup", "new", "state.unlock-key"].map(|name| host.path(name).display().to_string());
    let serving = Serving::start(&host);
    host.ok(&["admin", "add", "ops", "--make", host.path("ops.key").to_str().unwrap()]);
    host.ok(&["backup", &backup]);
    host.ok(&["admin", "remove", "ops"]);
    serving.signal(Signal::SIGTERM);
    assert_eq!(serving.exit_code(), Some(0));
    let output = host.run(&["restore", &backup, "--state", &new, "--unlock-key", &unlock]);
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("nodes that enrolled after the backup need new tickets"), "{said}");
    for again in ["revoke NODE", "admin remove NAME", "end CLUSTER", "rotate-tokens"] {
        assert!(said.contains(&format!("coordinator {again}\n")), "{said}");
    }
    // It is true.
    fs::rename(host.path("state"), host.path("before")).unwrap();
    fs::rename(&new, host.path("state")).unwrap();
    let _serving = Serving::start(&host);
    let listed = host.ok(&["admin", "list"]);
    assert!(listed.contains("ops") && !listed.contains("removed"), "{listed}");
}
