//! Operators: from elsewhere, on the record, and what they are shown first.

use std::os::unix::process::CommandExt as _;

use super::*;

#[test]
fn another_coordinator_at_the_address_is_named_as_such() {
    let (host, other) = (Host::initialised(), Host::initialised());
    let _serving = Serving::start(&other);
    let (address, pin) = (endpoint(&other, "address"), host.ok(&["init", "--if-missing"]));
    let key = host.path("admin.key");
    host.ok(&["admin", "key", key.to_str().unwrap()]);
    let remote = ["--address", &address, "--pin", pin.trim(), "--admin-key", key.to_str().unwrap()];
    assert!(host.fails(3, &[&["status"][..], &remote].concat()).contains("not the pinned"));
}

#[test]
fn a_remote_admin_has_a_key_of_its_own_until_it_is_removed() {
    let host = Host::initialised();
    let _serving = Serving::start(&host);
    let (address, pin) = (endpoint(&host, "address"), host.ok(&["init", "--if-missing"]));
    let key = host.path("elsewhere.key");
    let key_text = key.to_str().unwrap();
    let remote = ["--address", &address, "--pin", pin.trim(), "--admin-key", key_text];
    let remotely = |arguments: &[&'static str]| [arguments, &remote].concat();

    let fingerprint = host.ok(&["admin", "key", key_text]);
    assert_eq!(mode(&key), 0o600);
    assert!(host.fails(1, &["admin", "key", key_text]).contains("File exists"));
    assert!(host.fails(4, &remotely(&["status"])).contains("only an admin's key may do this"));
    let added = host.ok(&["admin", "add", "ops", "--fingerprint", fingerprint.trim()]);
    assert!(added.contains("ops is an admin") && added.contains(pin.trim()), "{added}");
    assert!(host.ok(&remotely(&["status"])).contains("cluster test"));
    assert!(host.ok(&remotely(&["admin", "list"])).contains(fingerprint.trim()));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(host.fails(1, &remotely(&["status"])).contains("read by others"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    // A key that is kept encrypted comes through a pipe, and is in no file.
    let mut through_a_pipe = remotely(&["status"]);
    *through_a_pipe.last_mut().unwrap() = "/dev/stdin";
    let mut child =
        host.command(&through_a_pipe).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&fs::read(&key).unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("cluster test"));

    host.ok(&["admin", "remove", "ops"]);
    assert!(host.fails(4, &remotely(&["status"])).contains("was removed"));
    let made = host.path("made.key");
    host.ok(&["admin", "add", "ops", "--make", made.to_str().unwrap()]);
    assert_eq!(mode(&made), 0o600);
    host.fails(2, &["admin", "add", "nobody"]);
    host.fails(2, &["admin", "add", "../x", "--fingerprint", fingerprint.trim()]);
    assert!(host.fails(4, &["admin", "remove", "nobody"]).contains("no admin nobody"));
}

#[test]
fn the_audit_trail_is_read_on_from_where_one_stopped_and_exported_as_json_lines() {
    let host = Host::initialised();
    let _serving = Serving::start(&host);
    let lines = host.ok(&["events", "--json"]);
    let events: Vec<kiln_protocol::admin::Event> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.iter().map(|event| event.what.as_str()).collect::<Vec<_>>(), ["init", "begin"]);
    host.ok(&["kubeconfig"]);
    let since = events.last().unwrap().id.to_string();
    let text = host.ok(&["events", "--since", &since]);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("local uid ") && text.contains(": kubeconfig: "), "{text}");

    // What cannot be, and what another state's trail has come to.
    host.fails(2, &["events", "--since", "9223372036854775808"]);
    for beyond in ["1000", "9223372036854775807"] {
        let refused = host.fails(4, &["events", "--json", "--since", beyond]);
        assert!(refused.contains("another state is served") && refused.contains(beyond), "{refused}");
    }

    let mut follower =
        host.command(&["events", "--follow", "--since", &since]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(follower.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
    assert_eq!(line, text);
    host.ok(&["end", "test"]);
    line.clear();
    std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
    assert!(line.contains(": end: "), "{line}");
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn what_a_file_changes_is_shown_before_it_is_applied() {
    let host = Host::initialised();
    let _serving = Serving::start(&host);
    let edited = host.path("edited.toml");
    fs::write(&edited, CLUSTER.replace("cores = 1", "cores = 2")).unwrap();
    let edited = edited.to_str().unwrap();
    let line = "s1: cores: 1 becomes 2 (for machines made from now on)";
    let dry = host.ok(&["apply", "--dry-run", edited]);
    assert!(dry.contains(line) && dry.contains("nothing was done"), "{dry}");
    assert!(host.ok(&["apply", "--dry-run", edited]).contains(line), "it was done all the same");
    assert!(host.ok(&["apply", edited]).contains(line));
    assert!(host.ok(&["apply", edited]).contains("nothing changes"));
}

#[test]
fn a_copy_of_a_datastore_is_named_by_its_place_on_the_coordinators_host() {
    let host = Host::initialised();
    let _serving = Serving::start(&host);
    let missing = host.path("no.db").display().to_string();
    let refused = host.fails(4, &["replace", "s1", "--restore", &missing]);
    for told in [
        "No such file",
        "the user that the coordinator runs as",
        "/var/lib/kiln-coordinator/restore.db",
        "until the node is ready",
    ] {
        assert!(refused.contains(told), "{refused}");
    }
    // From elsewhere, a relative path would be made absolute on the wrong host.
    let (address, pin) = (endpoint(&host, "address"), host.ok(&["init", "--if-missing"]));
    let key = host.path("ops.key").display().to_string();
    host.ok(&["admin", "add", "ops", "--make", &key]);
    let remote = ["--address", &address, "--pin", pin.trim(), "--admin-key", &key];
    let refused = host.fails(1, &[&["replace", "s1", "--restore", "state.db"][..], &remote].concat());
    assert!(refused.contains("a file on the coordinator's host") && refused.contains(&address), "{refused}");
    let reached = host.fails(4, &[&["replace", "s1", "--restore", &missing][..], &remote].concat());
    assert!(reached.contains("No such file"), "{reached}");
}

#[test]
fn a_rotation_that_cannot_be_says_why_and_what_to_do() {
    let host = Host::initialised();
    let _serving = Serving::start(&host);
    let refused = host.fails(4, &["rotate-tokens"]);
    assert!(
        refused.contains("no server of the cluster is ready") && refused.contains("(policy)"),
        "{refused}"
    );
    let authorities = host.fails(1, &["rotate-ca"]);
    for told in ["are an incarnation's", "builder down FILE, then builder up", "systemctl restart k3s"] {
        assert!(authorities.contains(told), "{authorities}");
    }
}

/// The status as somebody asks who may not look into `closed`: another user or,
/// where this one cannot become another, everybody.
fn asked_from_outside(host: &Host, program: &Path, closed: &Path) -> Output {
    let mut command = Command::new(program);
    command.arg("status").env_clear().env("KILN_STATE", host.path("state"));
    if nix::unistd::getuid().is_root() {
        return command.uid(65534).gid(65534).output().unwrap();
    }
    let allowed = fs::metadata(closed).unwrap().permissions();
    fs::set_permissions(closed, fs::Permissions::from_mode(0o000)).unwrap();
    let output = command.output();
    fs::set_permissions(closed, allowed).unwrap();
    output.unwrap()
}

#[test]
fn whoever_forgets_sudo_is_told_so_and_not_that_nobody_serves() {
    let host = Host::initialised();
    let _serving = Serving::start(&host);
    // Where everybody may run it.
    let elsewhere = tempfile::tempdir().unwrap();
    let program = elsewhere.path().join("coordinator");
    fs::copy(env!("CARGO_BIN_EXE_coordinator"), &program).unwrap();
    for directory in [elsewhere.path(), host.dir.path()] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let told = |closed: &Path| {
        let output = asked_from_outside(&host, &program, closed);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let said = stderr(&output);
        assert!(said.contains("sudo") && said.contains("--admin-key"), "{said}");
        assert!(!said.contains("start it with"), "{said}");
    };
    told(&host.path("state"));
    // As systemd keeps the state of a user that is made for the unit: below a
    // directory of root's.
    fs::set_permissions(host.dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    told(host.dir.path());
}
