//! The break-glass login, tried: images that were ordered with one are booted,
//! and whoever holds its key or password gets in and becomes root. Nobody else
//! does, and the image says that there is such a login.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kiln_tests::lab::VERSION;
use kiln_tests::process::{Outcome, Running, start, wait_until};
use kiln_tests::{lab, run};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
/// The node's stage and the inspection; with others beside it, several times as long.
const BAKE: Duration = Duration::from_secs(600);
/// A first boot under emulation, likewise.
const BOOT: Duration = Duration::from_secs(300);

const USER: &str = "rescue";
const PASSWORD: &str = "break the glass";

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Bakes an image with a login over the cached `os` stage; its directory.
fn image_with(home: &Path, option: &str, credential: &Path, way: &str) -> PathBuf {
    lab().image();
    let mut bake = lab().bake(&home.join("out"));
    bake.args(["--no-smoke", "--login-user", USER, option]).arg(credential);
    let outcome = run(bake, BAKE).success();
    outcome.says(&["BREAK-GLASS LOGIN", USER]);
    let image = home.join("out").join(VERSION);
    let ordered = json!({"user": USER, "by": way});
    assert_eq!(read_json(&image.join("manifest.json"))["login"], ordered);
    let report = read_json(&image.join("inspect.json"));
    assert_eq!(report["ok"], true, "{report:#}");
    assert_eq!(report["expected"]["login"], ordered, "{report:#}");
    assert_eq!(report["logins"].as_array().unwrap().len(), 1, "{report:#}");
    image
}

/// A machine that was made from an image and got no ticket.
struct Guest {
    qemu: Option<Running>,
    serial: UnixStream,
    said: Arc<Mutex<String>>,
    ssh_port: u16,
}

impl Guest {
    fn boot(image: &Path, home: &Path) -> Self {
        let (overlay, socket) = (home.join("overlay.qcow2"), home.join("serial.sock"));
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]);
        run(
            {
                create.arg(image.join("disk.qcow2")).arg(&overlay);
                create
            },
            SOON,
        )
        .success();
        // Free now, and taken by QEMU a moment later.
        let ssh_port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "1024",
        ]);
        qemu.args([
            "-nodefaults",
            "-display",
            "none",
            "-device",
            "virtio-scsi-pci",
            "-device",
            "virtio-rng-pci",
        ]);
        qemu.arg("-drive")
            .arg(format!("if=none,id=disk,format=qcow2,cache=unsafe,file={}", overlay.display()));
        qemu.args(["-device", "scsi-hd,drive=disk", "-device", "virtio-net-pci,netdev=net", "-netdev"]);
        qemu.arg(format!("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{ssh_port}-:22"));
        // It begins when somebody is there to read.
        qemu.arg("-chardev").arg(format!("socket,id=serial,server=on,wait=on,path={}", socket.display()));
        qemu.args(["-serial", "chardev:serial"]);
        let qemu = start(qemu);
        wait_until(SOON, || socket.exists()).expect("QEMU did not start");
        let serial = UnixStream::connect(&socket).unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (mut reader, heard) = (serial.try_clone().unwrap(), said.clone());
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut piece) {
                heard.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..length]));
            }
        });
        Self { qemu: Some(qemu), serial, said, ssh_port }
    }

    fn console(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until the console says something it had not said `before`.
    #[track_caller]
    fn wait_for(&self, what: &str, before: usize, deadline: Duration) {
        let said = || self.console().get(before..).is_some_and(|news| news.contains(what));
        wait_until(deadline, said)
            .unwrap_or_else(|_| panic!("no {what:?} on the console\n{}", self.console()));
    }

    /// Types a line, and waits for an answer to it.
    #[track_caller]
    fn type_line(&mut self, line: &str, answer: &str) {
        let before = self.console().len();
        self.serial.write_all(format!("{line}\r").as_bytes()).unwrap();
        self.wait_for(answer, before, SOON);
    }

    /// `ssh` with one key and no questions.
    fn ssh(&self, user: &str, key: &Path, words: &str) -> Outcome {
        let mut ssh = Command::new("ssh");
        ssh.args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "ConnectTimeout=20",
        ]);
        ssh.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i"]).arg(key);
        ssh.args(["-p", &self.ssh_port.to_string(), &format!("{user}@127.0.0.1"), words]);
        run(ssh, SOON)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(mut qemu) = self.qemu.take() {
            // A test that failed before it ran has nothing to stop.
            let _ = self.serial.shutdown(Shutdown::Both);
            if !qemu.ended() {
                qemu.signal("TERM");
                wait_until(SOON, || qemu.ended()).expect("QEMU did not end");
            }
        }
    }
}

fn new_key(path: PathBuf) -> PathBuf {
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"]).arg(&path);
    run(keygen, SOON).success();
    path
}

#[test]
fn who_holds_the_key_gets_in_over_ssh_and_becomes_root() {
    let home = tempfile::tempdir().unwrap();
    let key = new_key(home.path().join("key"));
    let other = new_key(home.path().join("other"));
    let image = image_with(home.path(), "--login-ssh-key", &key.with_extension("pub"), "ssh-key");
    let guest = Guest::boot(&image, home.path());

    let script = "id -un; sudo -n id -u; sudo -n passwd -S root; cat /usr/lib/kiln/image.json";
    let mut inside = None;
    let get_in = || {
        let outcome = guest.ssh(USER, &key, script);
        let done = outcome.status.success();
        inside = Some(outcome);
        done
    };
    // Until sshd is there a connection is refused or ends at once.
    let reached = wait_until(BOOT, get_in);
    let inside = inside.unwrap();
    reached.unwrap_or_else(|_| panic!("nobody got in\n{inside}\n{}", guest.console()));
    let lines: Vec<&str> = inside.stdout.lines().collect();
    assert_eq!(lines[..2], [USER, "0"], "{inside}");
    assert!(lines[2].starts_with("root L"), "root's password is not locked\n{inside}");
    inside.says(&["\"login\"", "\"ssh-key\""]);

    // With another key, or as root, nobody does; and no password is asked for.
    for (user, key) in [(USER, &other), ("root", &key)] {
        let outcome = guest.ssh(user, key, "true").code(255).says(&["Permission denied", "publickey"]);
        assert!(!outcome.stderr.contains("password"), "{outcome}");
    }
}

#[test]
fn who_knows_the_password_gets_in_on_the_console_and_becomes_root() {
    let home = tempfile::tempdir().unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["passwd", "-6", PASSWORD]);
    let hash = home.path().join("hash");
    fs::write(&hash, run(openssl, SOON).success().stdout).unwrap();
    let image = image_with(home.path(), "--login-password-hash-file", &hash, "password");
    let mut guest = Guest::boot(&image, home.path());

    guest.wait_for("login: ", 0, BOOT);
    guest.type_line(USER, "Password: ");
    guest.type_line("something else", "Login incorrect");
    guest.wait_for("login: ", guest.console().rfind("Login incorrect").unwrap(), SOON);
    guest.type_line("root", "Password: ");
    guest.type_line(PASSWORD, "Login incorrect");
    guest.wait_for("login: ", guest.console().rfind("Login incorrect").unwrap(), SOON);
    guest.type_line(USER, "Password: ");
    // A prompt would do, were it the same on every system.
    guest.type_line(PASSWORD, "$ ");
    guest.type_line("echo I-AM-$(id -un)", &format!("I-AM-{USER}"));
    // It has a password, so that is asked for.
    guest.type_line("sudo -n true || echo NOT-$((6*7))", "NOT-42");
    guest.type_line(&format!("echo ROOT-$(echo '{PASSWORD}' | sudo -S -p '' id -u)"), "ROOT-0");

    // A password is of no use over ssh.
    let key = new_key(home.path().join("key"));
    let outcome = guest.ssh(USER, &key, "true").code(255).says(&["Permission denied", "publickey"]);
    assert!(!outcome.stderr.contains("password"), "{outcome}");
}
