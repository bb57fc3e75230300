//! The program as an operator and systemd use it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "../api/common.rs"]
mod common;
mod life;
mod nodes;
mod operators;
mod restore;
mod serve;
mod tickets;
mod transcripts;
mod vouch;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use kiln_protocol::admin::ClusterStatus;
use kiln_protocol::api::{self, EnrolRequest, Facts, Report, Step, StepState};
use kiln_protocol::ratchet::{Notch, OPEN, OpenRequest, Turn};
use kiln_protocol::ticket::Ticket;
use kiln_protocol::{Fingerprint, Identity, tls};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Longer than anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

const CLUSTER: &str = r#"[cluster]
name = "test"
k3s = "v1.28.5+k3s1"
image = "alma9-k3-node-amd64-v1.28.5-v1"
provider = "qemu"
[[node]]
name = "s1"
role = "server"
cores = 1
memory = "1GiB"
disk = "8GiB"
"#;

/// A directory with a state in it, and commands that are about it.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { dir: tempfile::tempdir().unwrap() };
        fs::write(host.path("cluster.toml"), CLUSTER).unwrap();
        host
    }

    fn initialised() -> Self {
        let host = Self::new();
        assert_eq!(host.run(&["init"]).status.code(), Some(0));
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
        command
            .args(arguments)
            .env_clear()
            .env("KILN_STATE", self.path("state"))
            .env("HOME", self.dir.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard error of a command that must fail with this exit code.
    #[track_caller]
    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        stderr(&output)
    }

    fn status(&self) -> ClusterStatus {
        serde_json::from_str(&self.ok(&["status", "--json"])).unwrap()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A running `serve`, killed when the test is over.
struct Serving(Child);

impl Serving {
    /// Starts it and waits until it tells systemd that it is ready.
    fn start(host: &Host) -> Self {
        Self::start_with(host, &[])
    }

    fn start_with(host: &Host, more: &[&str]) -> Self {
        Self::start_logging(host, more, "info", Stdio::piped())
    }

    /// With so much in its log, which goes there.
    fn start_logging(host: &Host, more: &[&str], level: &str, log: Stdio) -> Self {
        let socket = host.path("notify");
        let _ = fs::remove_file(&socket);
        let notified = UnixDatagram::bind(&socket).unwrap();
        notified.set_read_timeout(Some(PATIENCE)).unwrap();
        let cluster = host.path("cluster.toml");
        let child = host
            .command(&["serve", "--listen", "127.0.0.1:0", "--cluster", cluster.to_str().unwrap()])
            .args(["--status-listen", "127.0.0.1:0"])
            .args(more)
            .env("NOTIFY_SOCKET", &socket)
            .env("KILN_LOG", level)
            .stderr(log)
            .spawn()
            .unwrap();
        let serving = Self(child);
        let mut message = [0; 100];
        let length = notified.recv(&mut message).expect("serve never said that it is ready");
        assert!(message[..length].starts_with(b"READY=1"));
        serving
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
    }

    fn exit_code(mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a running `serve` says of where it listens.
fn endpoint(host: &Host, what: &str) -> String {
    let text = fs::read(host.path("state/endpoint.json")).unwrap();
    let endpoint: serde_json::Value = serde_json::from_slice(&text).unwrap();
    endpoint[what].as_str().unwrap().to_owned()
}

/// The answer of a status listener.
fn page(address: &str, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    answer
}

/// A machine's request, as its agent would make it; the status of the answer.
fn post(host: &Host, identity: &Identity, path: &str, body: &serde_json::Value) -> u16 {
    let endpoint: serde_json::Value =
        serde_json::from_slice(&fs::read(host.path("state/endpoint.json")).unwrap()).unwrap();
    let tls = kiln_protocol::tls::client_config(identity, host.status().pin).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
        let url = format!("https://{}{path}", endpoint["address"].as_str().unwrap());
        client.post(url).json(body).send().await.unwrap().status().as_u16()
    })
}
