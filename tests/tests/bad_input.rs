//! Bad input gets a clear error before anything is touched: exit code 2, a
//! message that says what, on what and what next, and nothing written.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kiln_tests::lab::VERSION;
use kiln_tests::leftovers::files_below;
use kiln_tests::{Outcome, lab, run};

const SOON: Duration = Duration::from_secs(30);

/// A bake in a directory of its own, everything in it right.
struct Bake {
    home: tempfile::TempDir,
    version: String,
    iso: PathBuf,
    k3s: PathBuf,
    agent: PathBuf,
    more: Vec<String>,
}

fn bake() -> Bake {
    Bake {
        home: tempfile::tempdir().unwrap(),
        version: VERSION.to_owned(),
        iso: lab().media().to_owned(),
        k3s: lab().k3s(),
        agent: lab().agent(),
        more: Vec::new(),
    }
}

impl Bake {
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.home.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Runs it; it must be refused as bad input and leave nothing.
    #[track_caller]
    fn refused(&self) -> Outcome {
        let (out, cache) = (self.home.path().join("out"), self.home.path().join("cache"));
        let mut command = self.command(&out, &cache);
        command.args(&self.more);
        let outcome = run(command, SOON).code(2);
        assert_eq!(files_below(&out), Vec::<PathBuf>::new(), "{outcome}");
        assert_eq!(files_below(&cache), Vec::<PathBuf>::new(), "{outcome}");
        outcome
    }

    fn command(&self, out: &Path, cache: &Path) -> Command {
        let mut command = lab().builder();
        command.args(["bake", "--version", &self.version, "--no-k3s-selinux"]);
        command.arg("--iso").arg(&self.iso).arg("--k3s").arg(&self.k3s).arg("--agent").arg(&self.agent);
        command.arg("--out").arg(out).arg("--cache").arg(cache);
        command.env("XDG_STATE_HOME", self.home.path().join("state"));
        command
    }
}

#[test]
fn wrong_version_names() {
    for (version, why) in [
        ("alma9-k3-node-amd64-1.28.5-v1", "v1.28.5"),
        ("alma9-k3-node-amd64-v1.28.5", "-v1"),
        ("alma9-k3-node-sparc-v1.28.5-v1", "sparc"),
        ("rocky9-k3-node-amd64-v1.28.5-v1", "alma"),
        ("../../etc/passwd", "alma"),
    ] {
        let bake = Bake { version: version.to_owned(), ..bake() };
        bake.refused().says(&[version, why]);
    }
}

#[test]
fn an_iso_that_is_missing() {
    Bake { iso: "/nowhere/AlmaLinux.iso".into(), ..bake() }
        .refused()
        .says(&["/nowhere/AlmaLinux.iso", "--iso"]);
}

#[test]
fn an_iso_that_is_not_one() {
    let mut bake = bake();
    bake.iso = bake.file("AlmaLinux.iso", vec![0; 1 << 20]);
    bake.refused().says(&["AlmaLinux.iso", "not an ISO"]);
}

#[test]
fn an_iso_that_is_truncated() {
    let mut bake = bake();
    let whole = fs::read(lab().media()).unwrap();
    bake.iso = bake.file("AlmaLinux.iso", &whole[..whole.len() / 2]);
    bake.refused().says(&["AlmaLinux.iso", "truncated"]);
}

#[test]
fn an_iso_without_an_installer() {
    let mut bake = bake();
    let tree = bake.file("README", "no installer here");
    bake.iso = bake.home.path().join("data.iso");
    let made =
        Command::new("xorrisofs").args(["-quiet", "-V", "DATA", "-o"]).arg(&bake.iso).arg(tree).status();
    assert!(made.unwrap().success());
    bake.refused().says(&["data.iso", "images/pxeboot/vmlinuz"]);
}

#[test]
fn a_k3s_that_is_missing() {
    Bake { k3s: "/nowhere/k3s".into(), ..bake() }.refused().says(&["/nowhere/k3s", "--k3s"]);
}

#[test]
fn a_k3s_that_is_not_a_program() {
    let mut bake = bake();
    bake.k3s = bake.file("k3s", "<html>404: Not Found</html>");
    bake.refused().says(&["k3s", "not a Linux program"]);
}

#[test]
fn a_k3s_of_another_release() {
    let bake = Bake { version: VERSION.replace("v1.28.5", "v1.29.1"), ..bake() };
    bake.refused().says(&["v1.29.1+k3s1", "v1.28.5+k3s1"]);
}

#[test]
fn sizes_that_make_no_sense() {
    for (option, value) in
        [("--disk-size", "10"), ("--disk-size", "1KiB"), ("--memory", "plenty"), ("--cpus", "0")]
    {
        let bake = Bake { more: vec![option.to_owned(), value.to_owned()], ..bake() };
        bake.refused().says(&[option]);
    }
}

#[test]
fn a_profile_the_medium_has_no_packages_for() {
    let more = ["--harden", "oscap:cis_server_l1"].map(str::to_owned).to_vec();
    Bake { more, ..bake() }.refused().says(&["oscap:cis_server_l1", "openscap-scanner", "--harden baseline"]);
}

#[test]
fn a_login_whose_file_says_nothing_usable() {
    let mut bake = bake();
    let file = bake.file("hash", "hunter2\n").display().to_string();
    bake.more = ["--login-user", "rescue", "--login-password-hash-file", &file].map(str::to_owned).to_vec();
    let outcome = bake.refused().says(&["--login-password-hash-file", "openssl passwd -6"]);
    assert!(!format!("{outcome}").contains("hunter2"), "{outcome}");
}

#[test]
fn a_kickstart_with_something_left_to_fill_in() {
    let mut bake = bake();
    let file = bake.file("own.ks", "cmdline\nrootpw CHANGEME\n").display().to_string();
    bake.more = vec!["--kickstart".to_owned(), file];
    bake.refused().says(&["own.ks", "CHANGEME", "line 2"]);
}

#[test]
fn a_cluster_file_with_something_left_to_fill_in() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("cluster.toml");
    fs::write(&file, "[cluster]\nname = \"TODO\"\n").unwrap();
    let mut up = lab().builder();
    up.arg("up").arg(&file).env("XDG_STATE_HOME", home.path().join("state"));
    run(up, SOON).code(2).says(&["cluster.toml", "line 2", "TODO"]);
}

#[test]
fn a_cluster_file_with_mistakes_is_refused_with_its_line() {
    let home = tempfile::tempdir().unwrap();
    let right = fs::read_to_string(lab().root().join("examples/demo.toml")).unwrap();
    for (from, to, why) in [
        ("role = \"server\"", "rôle = \"server\"", "line"),
        ("role = \"server\"", "role = \"agent\"", "server"),
        ("provider = \"qemu\"", "provider = \"vmware\"", "vmware"),
        ("name = \"", "name = \"../", "../"),
    ] {
        assert!(right.contains(from), "examples/demo.toml has no {from:?}");
        let file = home.path().join("cluster.toml");
        fs::write(&file, right.replacen(from, to, 1)).unwrap();
        let mut command = lab().builder();
        command.arg("up").arg(&file).arg("--state").arg(home.path().join("state"));
        run(command, SOON).code(2).says(&["cluster.toml", why]);
        assert_eq!(files_below(&home.path().join("state")), Vec::<PathBuf>::new());
    }
}

#[test]
fn an_image_that_is_not_there_is_refused_before_anything_is_made() {
    let home = tempfile::tempdir().unwrap();
    let mut command = lab().builder();
    command.arg("up").arg(lab().root().join("examples/demo.toml"));
    command.arg("--state").arg(home.path().join("state")).arg("--image").arg(home.path().join("nothing"));
    run(command, SOON).code(2).says(&["nothing", "builder bake"]);
    assert_eq!(files_below(&home.path().join("state")), Vec::<PathBuf>::new());
}

#[test]
fn a_port_that_is_taken() {
    let home = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut init = lab().coordinator();
    init.args(["init", "--state"]).arg(home.path().join("state"));
    run(init, SOON).success();
    let mut serve = lab().coordinator();
    serve.args(["serve", "--listen", &address, "--state"]).arg(home.path().join("state"));
    let outcome = run(serve, SOON);
    assert!(!outcome.status.success(), "{outcome}");
    outcome.says(&[&address, "in use", "--listen"]);
}
