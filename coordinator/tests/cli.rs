//! The program as an operator and systemd use it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is how a test fails")]

#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "api/common.rs"]
mod common;
#[path = "cli/life.rs"]
mod life;
#[path = "cli/transcripts.rs"]
mod transcripts;

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

    host.ok(&["end"]);
    assert_eq!(host.ok(&["status"]), "no cluster is live\n");
    assert!(host.ok(&["apply", host.path("cluster.toml").to_str().unwrap()]).contains("incarnation 2"));

    serving.signal(Signal::SIGTERM);
    assert_eq!(serving.exit_code(), Some(0));
    host.fails(3, &["status"]);
}

#[test]
fn a_ticket_is_journalled_and_printed_again_until_it_is_used() {
    let host = Host::initialised();
    let _serving = Serving::start(&host);
    let arguments =
        ["ticket", "--node", "s1", "--advertise", "10.0.2.2:7443", "--advertise", "[fd00::1]:7443"];
    let text = host.ok(&arguments);
    let ticket: Ticket = text.parse().unwrap();
    assert_eq!(ticket.pin(), host.status().pin);
    assert_eq!(ticket.addresses()[1].to_string(), "[fd00::1]:7443");
    let journal = host.path(".local/state/kiln/tickets");
    assert_eq!(mode(&journal), 0o700);
    for entry in fs::read_dir(&journal).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    let known = |ticket: &Ticket| {
        let newest = host.status().nodes[0].ticket.clone().unwrap();
        (newest.ticket == ticket.public_key()).then_some(newest.generation)
    };
    assert_eq!(known(&ticket), Some(1));
    assert_eq!(host.ok(&arguments), text, "asking again mints nothing new");

    let other: Ticket = host.ok(&[&arguments[..], &["--new"]].concat()).parse().unwrap();
    assert_eq!(known(&other), Some(2));
    let file = host.path("ticket");
    host.ok(&[&arguments[..], &["--out", file.to_str().unwrap()]].concat());
    assert_eq!(mode(&file), 0o600);
    assert_eq!(fs::read_to_string(file).unwrap().parse::<Ticket>().unwrap(), other);

    let refused = host.fails(4, &["ticket", "--node", "s9", "--advertise", "a:1"]);
    assert!(
        refused.contains("not in the cluster file") && refused.contains("coordinator apply"),
        "{refused}"
    );
    assert!(host.ok(&["extend", "s1", "--lifetime", "2h"]).contains("may be used before"));
    assert!(host.fails(4, &["release", "s1"]).contains("is not held"));
    host.ok(&["revoke", "s1"]);
    assert!(host.fails(4, &["extend", "s1"]).contains("is revoked"));
}

#[test]
fn a_journal_whose_mint_was_lost_goes_on() {
    let host = Host::initialised();
    let serving = Serving::start(&host);
    let arguments = ["ticket", "--node", "s1", "--advertise", "10.0.2.2:7443"];
    let text = host.ok(&arguments);
    // The coordinator loses the mint, as if the caller had died before it.
    serving.signal(Signal::SIGTERM);
    assert_eq!(serving.exit_code(), Some(0));
    let database = rusqlite::Connection::open(host.path("state/state.db")).unwrap();
    database
        .execute_batch(
            "PRAGMA foreign_keys = OFF; DROP TRIGGER events_are_never_deleted;
             DROP TRIGGER keys_are_never_deleted; DELETE FROM events WHERE what = 'mint';
             DELETE FROM seats; DELETE FROM keys WHERE kind = 'ticket';",
        )
        .unwrap();
    drop(database);
    let _serving = Serving::start(&host);
    assert!(host.status().nodes[0].ticket.is_none());
    assert_eq!(host.ok(&arguments), text);
    assert!(host.status().nodes[0].ticket.is_some());
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

/// What a running `serve` says of where it listens.
fn endpoint(host: &Host, what: &str) -> String {
    let text = fs::read(host.path("state/endpoint.json")).unwrap();
    let endpoint: serde_json::Value = serde_json::from_slice(&text).unwrap();
    endpoint[what].as_str().unwrap().to_owned()
}

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

    let mut follower =
        host.command(&["events", "--follow", "--since", &since]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(follower.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
    assert_eq!(line, text);
    host.ok(&["end"]);
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
    host.ok(&["end"]);
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
    let serving = Serving::start(&host);
    let more = "[[node]]\nname = \"a1\"\nrole = \"agent\"\ncores = 1\nmemory = \"1GiB\"\ndisk = \"8GiB\"\n";
    fs::write(host.path("cluster.toml"), format!("{CLUSTER}{more}")).unwrap();
    serving.signal(Signal::SIGHUP);
    let deadline = Instant::now() + PATIENCE;
    while host.status().nodes.len() < 2 {
        assert!(Instant::now() < deadline, "the file was not read again");
        std::thread::sleep(Duration::from_millis(50));
    }
    serving.signal(Signal::SIGINT);
    assert_eq!(serving.exit_code(), Some(0));
}

#[test]
fn the_status_page_listens_where_it_was_told_to() {
    let host = Host::initialised();
    let _serving = Serving::start(&host);
    let answer = page(&endpoint(&host, "status"), "/healthz");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
}

/// A node without an agent.
struct RawNode<'a> {
    address: &'a str,
    key: Fingerprint,
    config: std::sync::Arc<rustls::ClientConfig>,
    /// Where its ratchet is, once it is bound.
    ratchet: std::cell::Cell<Option<Notch>>,
}

impl<'a> RawNode<'a> {
    fn new(address: &'a str, identity: &Identity, pin: Fingerprint) -> Self {
        let config = std::sync::Arc::new(tls::client_config(identity, pin).unwrap());
        Self { address, key: identity.fingerprint(), config, ratchet: std::cell::Cell::new(None) }
    }

    /// A connection on which this was asked, and the answer up to `end`.
    async fn ask(
        &self,
        request: &str,
        end: &[u8],
    ) -> (tokio_rustls::client::TlsStream<tokio::net::TcpStream>, String) {
        let tcp = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("kiln.invalid").unwrap();
        let connector = tokio_rustls::TlsConnector::from(self.config.clone());
        let mut stream = connector.connect(name, tcp).await.unwrap();
        if let Some(cur) = self.ratchet.get() {
            let next = Notch::random();
            let open = OpenRequest::new(Turn { cur, next }, None);
            let answer = exchange(&mut stream, &Self::posting(OPEN, &open), b"}}").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            self.ratchet.set(Some(next));
        }
        let answer = exchange(&mut stream, request, end).await;
        (stream, answer)
    }

    fn posting(path: &str, body: &impl serde::Serialize) -> String {
        let body = serde_json::to_string(body).unwrap();
        format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    async fn post(&self, path: &str, body: &impl serde::Serialize, end: &[u8]) -> String {
        self.ask(&Self::posting(path, body), end).await.1
    }

    async fn enrol(&self, ticket: &Ticket) {
        let (key, facts) = (ticket.public_key(), Facts::default());
        let request = EnrolRequest { ticket: key, proof: ticket.prove(&self.key), facts };
        let answer = self.post(api::ENROL, &request, b"}").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        self.ratchet.set(Some(Notch::random()));
    }
}

/// Asks, and returns the answer up to `end`.
async fn exchange(
    stream: &mut tokio_rustls::client::TlsStream<tokio::net::TcpStream>,
    request: &str,
    end: &[u8],
) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(end) {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
    }
    String::from_utf8(answer).unwrap()
}

#[test]
fn until_ready_ends_once_every_node_is_ready() {
    let host = Host::initialised();
    let serving = Serving::start_with(&host, &["--until-ready", "--timeout", "5m"]);
    let address = endpoint(&host, "address");
    let ticket: Ticket = host.ok(&["ticket", "--node", "s1", "--advertise", &address]).parse().unwrap();
    let identity = Identity::generate().unwrap();
    let node = RawNode::new(&address, &identity, ticket.pin());
    let (boot_id, step, state) = ("b".to_owned(), Step::Ready, StepState::Done);
    let ready = Report { boot_id, sequence: 1, uptime_ms: 1, step, state, facts: None, usage: None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        node.enrol(&ticket).await;
        let answer = node.post(api::REPORT, &ready, b"\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 204"), "the last report is answered: {answer}");
    });
    assert_eq!(serving.exit_code(), Some(0));
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

/// What a process has in memory, in bytes.
fn resident(process: u32) -> usize {
    let statm = fs::read_to_string(format!("/proc/{process}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn an_agent_that_waits_for_news_costs_little_memory() {
    // 12 kB with optimisation: a TLS session with a buffer of 4, and a future.
    const LIMIT: usize = 20_000;
    const WARM_UP: usize = 50;
    const AGENTS: usize = 200;
    let host = Host::initialised();
    let serving = Serving::start(&host);
    let (address, status) = (endpoint(&host, "address"), endpoint(&host, "status"));
    let ticket: Ticket = host.ok(&["ticket", "--node", "s1", "--advertise", &address]).parse().unwrap();
    let identity = Identity::generate().unwrap();
    let node = RawNode::new(&address, &identity, ticket.pin());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(node.enrol(&ticket));
    let get = format!("GET {} HTTP/1.1\r\nhost: x\r\n", api::CONFIG);
    let (_, first) = runtime.block_on(node.ask(&format!("{get}\r\n"), b"}"));
    let tag = first.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    let poll = format!("{get}if-none-match: {tag}\r\nprefer: wait=300\r\n\r\n");
    let mut open = Vec::new();
    let mut with = |count: usize| {
        while open.len() < count {
            open.push(runtime.block_on(node.ask(&poll, b"")));
        }
        let all = format!("kiln_requests_held_open {count}");
        let deadline = Instant::now() + PATIENCE;
        while !page(&status, "/metrics").lines().any(|line| line == all) {
            assert!(Instant::now() < deadline, "not all are held open:\n{}", page(&status, "/metrics"));
            std::thread::sleep(Duration::from_millis(20));
        }
        resident(serving.0.id())
    };
    // What the program takes once is no agent's.
    let before = with(WARM_UP);
    let each = with(WARM_UP + AGENTS).saturating_sub(before) / AGENTS;
    println!("{each} bytes an agent");
    assert!(each < LIMIT, "{each} bytes an agent");
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

#[test]
fn a_machine_without_a_ticket_is_approved_by_what_its_console_shows() {
    let host = Host::initialised();
    let _serving = Serving::start(&host);
    assert_eq!(host.ok(&["pending"]), "no machine waits\n");
    let machine = Identity::generate().unwrap();
    let (key, facts) = (machine.fingerprint().to_string(), serde_json::json!({"facts": {}}));
    assert_eq!(post(&host, &machine, api::APPROVAL, &facts), 403);
    let waiting = host.ok(&["pending"]);
    assert!(waiting.contains(&format!("key {}… at 127.0.0.1", &key[..8])), "{waiting}");
    assert!(host.ok(&["status"]).contains(&waiting));

    let short = host.fails(2, &["approve", "s1", "--fingerprint", &key[..8]]);
    assert!(short.contains("at least the first 20"), "{short}");
    let other = host.fails(4, &["approve", "s1", "--fingerprint", &"0".repeat(20)]);
    assert!(other.contains("no machine that waits"), "{other}");
    let approved = host.ok(&["approve", "s1", "--fingerprint", &key[..20].to_uppercase()]);
    assert!(approved.contains(&key), "{approved}");
    assert_eq!(post(&host, &machine, api::APPROVAL, &facts), 200);
    assert_eq!(host.ok(&["pending"]), "no machine waits\n");
}

#[test]
fn a_servers_console_is_confirmed_by_hand_and_another_key_there_is_an_alarm() {
    let host = Host::initialised();
    let _serving = Serving::start(&host);
    let text = host.ok(&["ticket", "--node", "s1", "--advertise", "10.0.2.2:7443", "--confirm-console"]);
    let ticket: Ticket = text.parse().unwrap();
    let thief = Identity::generate().unwrap();
    let body = serde_json::json!({
        "ticket": ticket.public_key(), "proof": ticket.prove(&thief.fingerprint()), "facts": {},
    });
    assert_eq!(post(&host, &thief, api::ENROL, &body), 200);
    let status = host.ok(&["status"]);
    assert!(status.contains("coordinator confirm s1 KEY"), "{status}");
    let shown = Identity::generate().unwrap().fingerprint().to_string();
    let said = host.ok(&["confirm", "s1", &shown]);
    assert!(said.contains("ALARM: s1 is held: its console shows another key"), "{said}");
    let status = host.ok(&["status"]);
    assert!(status.contains("ALARM") && status.contains(&shown), "{status}");
    host.fails(2, &["confirm", "s1", &shown[..20]]);
    // After the thief is shut out, the console's own key is all that enrols.
    host.ok(&["revoke", "s1"]);
    host.ok(&["ticket", "--node", "s1", "--advertise", "10.0.2.2:7443", "--confirm-console"]);
    assert_eq!(host.ok(&["confirm", "s1", &shown]), format!("only key {shown} is s1\n"));
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
