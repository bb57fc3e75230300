//! A coordinator is made, serves, and stops.

use super::*;

#[test]
fn init_prints_the_pin_and_never_overwrites() {
    let host = Host::new();
    let pin = host.ok(&["init"]);
    assert_eq!(pin.trim().len(), 64);
    assert_eq!(mode(&host.path("state")), 0o700);
    assert!(host.fails(1, &["init"]).contains("already"));
    assert_eq!(host.ok(&["init", "--if-missing"]), pin);
}

#[test]
fn exit_codes_say_what_kind_of_failure_it_was() {
    let host = Host::new();
    assert!(host.fails(1, &["status"]).contains("coordinator init --state"));
    host.ok(&["init"]);
    let unreachable = host.fails(3, &["status"]);
    assert!(unreachable.contains("start it with: coordinator serve --state"), "{unreachable}");
    host.fails(2, &["status", "--jason"]);
    host.fails(2, &["ticket", "--node", "../etc", "--advertise", "a:1"]);
    assert!(host.ok(&["--help"]).contains("4  the coordinator refused"));
}

#[test]
fn a_serving_coordinator_is_asked_and_stops_in_order() {
    let host = Host::initialised();
    let serving = Serving::start(&host);
    assert!(host.ok(&["status"]).starts_with("cluster test, incarnation 1"));
    let status = host.status();
    assert_eq!(status.nodes.len(), 1);

    let second = host.fails(1, &["serve", "--listen", "127.0.0.1:0"]);
    assert!(second.contains(&format!("in use by process {}", serving.0.id())), "{second}");

    let kubeconfig = host.path("kubeconfig");
    host.ok(&["kubeconfig", "--out", kubeconfig.to_str().unwrap(), "--server", "https://127.0.0.1:6443"]);
    assert_eq!(mode(&kubeconfig), 0o600);
    assert!(fs::read_to_string(&kubeconfig).unwrap().contains("server: https://127.0.0.1:6443"));

    host.fails(2, &["end"]);
    let other = host.fails(4, &["end", "prod"]);
    assert!(
        other.contains("the cluster that is live is test, not prod") && host.status().live.is_some(),
        "{other}"
    );
    let ended = host.ok(&["end", "test"]);
    assert!(ended.starts_with("incarnation 1 of test has ended"), "{ended}");
    assert_eq!(host.ok(&["end", "test"]), "nothing is live, and nothing was done\n");
    assert_eq!(host.ok(&["status"]), "no cluster is live\n");
    assert!(host.ok(&["apply", host.path("cluster.toml").to_str().unwrap()]).contains("incarnation 2"));

    serving.signal(Signal::SIGTERM);
    assert_eq!(serving.exit_code(), Some(0));
    host.fails(3, &["status"]);
}

#[test]
fn a_killed_coordinator_is_reported_and_starts_again() {
    let host = Host::initialised();
    let serving = Serving::start(&host);
    serving.signal(Signal::SIGKILL);
    assert_eq!(serving.exit_code(), None);
    let unreachable = host.fails(3, &["status"]);
    assert!(unreachable.contains("does not answer"), "{unreachable}");
    let _serving = Serving::start(&host);
    assert_eq!(host.status().live.unwrap().incarnation.0, 1);
}

#[test]
fn until_ready_gives_up_with_an_exit_code_and_a_summary() {
    let host = Host::initialised();
    let cluster = host.path("cluster.toml");
    let until = ["serve", "--listen", "127.0.0.1:0", "--no-status", "--until-ready", "--timeout", "1s"];
    let no_file = host.fails(1, &until);
    assert!(no_file.contains("give one with --cluster"), "{no_file}");
    let stuck = host.fails(5, &[&until[..], &["--cluster", cluster.to_str().unwrap()]].concat());
    assert!(stuck.contains("1 of 1 are missing") && stuck.contains("s1: no ticket was minted"), "{stuck}");
    host.fails(2, &["serve", "--timeout", "1s"]);
}

#[test]
fn a_log_for_machines_is_one_json_object_a_line() {
    let host = Host::initialised();
    let mut serving = Serving::start_with(&host, &["--log-format", "json"]);
    host.ok(&["end", "test"]);
    serving.signal(Signal::SIGTERM);
    let mut log = String::new();
    std::io::Read::read_to_string(&mut serving.0.stderr.take().unwrap(), &mut log).unwrap();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ended = lines.iter().find(|line| line["message"].as_str().unwrap_or("").starts_with("end:")).unwrap();
    let request = &ended["span"];
    assert!(
        request["id"].is_string() && request["who"].as_str().unwrap().starts_with("local uid"),
        "{ended}"
    );
}

#[test]
fn a_wrong_cluster_file_is_named_with_line_and_column() {
    let host = Host::initialised();
    fs::write(host.path("cluster.toml"), CLUSTER.replace("1GiB", "1GB")).unwrap();
    let file = host.path("cluster.toml");
    let error = host.fails(1, &["serve", "--listen", "127.0.0.1:0", "--cluster", file.to_str().unwrap()]);
    assert!(error.contains("cluster.toml: line 10, column 10: size \"1GB\": write 1GiB"), "{error}");
}

#[test]
fn hangup_reads_the_cluster_file_again() {
    let host = Host::initialised();
    let mut serving = Serving::start(&host);
    let more = "[[node]]\nname = \"a1\"\nrole = \"agent\"\ncores = 1\nmemory = \"1GiB\"\ndisk = \"8GiB\"\n";
    fs::write(host.path("cluster.toml"), format!("{CLUSTER}{more}")).unwrap();
    serving.signal(Signal::SIGHUP);
    let deadline = Instant::now() + PATIENCE;
    while host.status().nodes.len() < 2 {
        assert!(Instant::now() < deadline, "the file was not read again");
        std::thread::sleep(Duration::from_millis(50));
    }
    let more = more.replace("a1", "a2");
    let other = host.path("other.toml");
    let with_both = fs::read_to_string(host.path("cluster.toml")).unwrap() + &more;
    fs::write(&other, with_both).unwrap();
    let applied = host.run(&["apply", other.to_str().unwrap()]);
    let own = fs::canonicalize(host.path("cluster.toml")).unwrap();
    let warned = format!("then puts {} in force", own.display());
    assert!(applied.status.success() && stderr(&applied).contains(&warned), "{}", stderr(&applied));
    serving.signal(Signal::SIGHUP);
    while host.status().nodes.len() > 2 {
        assert!(Instant::now() < deadline, "the file was not read again");
        std::thread::sleep(Duration::from_millis(50));
    }
    let own = host.run(&["apply", own.to_str().unwrap()]);
    assert!(own.status.success() && own.stderr.is_empty(), "{}", stderr(&own));
    serving.signal(Signal::SIGINT);
    let mut log = String::new();
    std::io::Read::read_to_string(&mut serving.0.stderr.take().unwrap(), &mut log).unwrap();
    assert_eq!(serving.exit_code(), Some(0));
    // What is about to change stands in the log before it is done.
    let lines: Vec<&str> = log.lines().collect();
    let last = |said: &str| lines.iter().rposition(|line| line.contains(said)).expect(said);
    let (before, done) = (last("about to put the cluster file in force"), last("apply: "));
    assert!(before < done && lines[before].contains("a2"), "{log}");
}

#[test]
fn the_status_page_listens_where_it_was_told_to() {
    let host = Host::initialised();
    let _serving = Serving::start(&host);
    let answer = page(&endpoint(&host, "status"), "/healthz");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
}

#[test]
fn a_taken_port_is_said_so() {
    let host = Host::initialised();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = host.fails(1, &["serve", "--listen", &address]);
    assert!(error.contains(&format!("listening on {address}")) && error.contains("in use"), "{error}");
}

#[test]
fn what_cannot_serve_puts_no_cluster_file_in_force() {
    let host = Host::initialised();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = host.path("cluster.toml");
    let serve = ["serve", "--cluster", file.to_str().unwrap()];
    host.fails(1, &[&serve[..], &["--listen", &address]].concat());
    host.fails(1, &[&serve[..], &["--listen", "127.0.0.1:0", "--status-listen", &address]].concat());
    // The socket cannot be where a directory is.
    fs::create_dir_all(host.path("state/admin.sock/in-the-way")).unwrap();
    host.fails(1, &[&serve[..], &["--listen", "127.0.0.1:0", "--no-status"]].concat());
    fs::remove_dir_all(host.path("state/admin.sock")).unwrap();
    // Nor does one that cannot follow its file leave a socket behind.
    fs::write(host.path("wrong.toml"), CLUSTER.replace("1GiB", "1GB")).unwrap();
    host.fails(
        1,
        &["serve", "--listen", "127.0.0.1:0", "--cluster", host.path("wrong.toml").to_str().unwrap()],
    );
    let unreachable = host.fails(3, &["status"]);
    assert!(unreachable.contains("no coordinator serves"), "{unreachable}");
    let database = rusqlite::Connection::open(host.path("state/state.db")).unwrap();
    let begun = "SELECT count(*) FROM events WHERE what = 'begin'";
    assert_eq!(database.query_row(begun, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

#[test]
fn a_running_coordinator_leaves_no_core_dump() {
    let host = Host::initialised();
    let serving = Serving::start(&host);
    let limits = fs::read_to_string(format!("/proc/{}/limits", serving.0.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
}

#[test]
fn an_unlock_key_is_a_file_of_its_own_and_another_one_is_refused_by_name() {
    let host = Host::new();
    let key = host.path("kept/elsewhere");
    fs::create_dir(host.path("kept")).unwrap();
    let key = key.to_str().unwrap();
    host.ok(&["unlock-key", "make", key]);
    assert_eq!(mode(Path::new(key)), 0o600);
    host.fails(1, &["unlock-key", "make", key]);
    host.ok(&["init", "--unlock-key", key]);
    assert!(!host.path("state.unlock-key").exists());
    let backup = host.path("backup");
    assert!(host.fails(1, &["backup", backup.to_str().unwrap()]).contains("no unlock key in"));
    assert!(!backup.exists());
    host.ok(&["backup", backup.to_str().unwrap(), "--unlock-key", key]);
    assert_eq!(mode(&backup), 0o600);
    let restored = host.path("restored");
    let restore =
        ["restore", backup.to_str().unwrap(), "--state", restored.to_str().unwrap(), "--unlock-key"];
    host.fails(1, &[&restore[..], &["/nonexistent"]].concat());
    host.ok(&[&restore[..], &[key]].concat());
    host.fails(1, &[&restore[..], &[key]].concat());
    let pin = host.ok(&["init", "--if-missing"]);
    assert_eq!(host.ok(&["init", "--if-missing", "--state", restored.to_str().unwrap()]), pin);
    assert!(host.fails(1, &["serve", "--listen", "127.0.0.1:0"]).contains("no unlock key in"));
    // As systemd hands it over.
    fs::rename(key, host.path("kept/unlock-key")).unwrap();
    let rotate =
        host.command(&["unlock-key", "rotate"]).env("CREDENTIALS_DIRECTORY", host.path("kept")).output();
    assert!(stderr(&rotate.unwrap()).contains("systemd's to change"));
    let kept = host.path("kept/unlock-key");
    host.ok(&["unlock-key", "rotate", "--unlock-key", kept.to_str().unwrap()]);
    assert_eq!(fs::read_dir(host.path("kept")).unwrap().count(), 2, "the new key and the old one");
}

#[test]
fn a_recovery_key_that_no_terminal_shows_goes_outside_of_the_state_or_no_state_is_made() {
    let host = Host::new();
    let kept = host.path("state.recovery-key");
    fs::write(&kept, "what is another's").unwrap();
    let refusal = host.fails(1, &["init"]);
    assert!(refusal.contains("state.recovery-key") && refusal.contains("--recovery-out"), "{refusal}");
    assert!(!host.path("state").exists());
    fs::remove_file(&kept).unwrap();
    // Nor is a place kept for the key of a state that was not made.
    let nowhere = host.path("nowhere/key");
    host.fails(1, &["init", "--unlock-key", nowhere.to_str().unwrap()]);
    assert!(!kept.exists());
    fs::remove_dir_all(host.path("state")).unwrap();

    host.ok(&["init"]);
    assert_eq!(mode(&kept), 0o600);
    let text = fs::read_to_string(&kept).unwrap();
    let secret = text.strip_prefix("kiln-recovery1.").unwrap().trim();
    for entry in fs::read_dir(host.path("state")).unwrap() {
        let path = entry.unwrap().path();
        let content = fs::read(&path).unwrap();
        assert!(!content.windows(secret.len()).any(|part| part == secret.as_bytes()), "{}", path.display());
    }
    host.ok(&["pin-change", "--recovery-key", kept.to_str().unwrap()]);

    // An older Kiln left it in the state: that is said as long as it lies there.
    let warned = |host: &Host| {
        let log = fs::File::create(host.path("log")).unwrap();
        drop(Serving::start_logging(host, &[], "warn", log.into()));
        fs::read_to_string(host.path("log")).unwrap().contains("state/recovery.key is in the clear")
    };
    assert!(!warned(&host));
    fs::rename(&kept, host.path("state/recovery.key")).unwrap();
    assert!(warned(&host));
}

#[test]
fn a_recovery_key_inside_of_the_state_is_refused_and_a_missing_directory_is_called_that() {
    let host = Host::new();
    let state = host.path("state");
    let inside = state.join("rk");
    // Before the directory is there and after, by its own name and by another.
    for there in [false, true] {
        if there {
            fs::create_dir(&state).unwrap();
            fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
        }
        for out in [inside.clone(), host.path("state/../state/./rk")] {
            let refusal = host.fails(1, &["init", "--recovery-out", out.to_str().unwrap()]);
            assert!(refusal.contains("in the state directory"), "there: {there}: {refusal}");
        }
        assert_eq!(state.exists(), there);
    }
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0, "something was made");

    let nowhere = host.path("nowhere/rk");
    let refusal = host.fails(1, &["init", "--recovery-out", nowhere.to_str().unwrap()]);
    assert!(refusal.contains("make its directory") && !refusal.contains("move what"), "{refusal}");

    // Beside `.` is beside the directory that it is.
    let key = host.path("key");
    let mut init = host.command(&["init", "--state", ".", "--unlock-key", key.to_str().unwrap()]);
    let output = init.current_dir(&state).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let kept = fs::read_to_string(host.path("state.recovery-key")).unwrap();
    assert!(kept.starts_with("kiln-recovery1."));
    for entry in fs::read_dir(&state).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.contains("recovery"), "{name} is in the state");
    }
}
