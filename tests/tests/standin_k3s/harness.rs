//! Runs the stand-in k3s as processes on loopback, each with an `/etc`, a data
//! directory and a systemd of its own.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The program under test.
pub(crate) const K3S: &str = env!("CARGO_BIN_EXE_standin-k3s");
/// Long enough for anything the stand-in does, its retries included.
const DEADLINE: Duration = Duration::from_secs(60);

/// A port below those the kernel gives to outgoing connections, which might
/// otherwise take it before its server does.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 10_000).expect("below 10000");
    let mut ports =
        std::iter::repeat_with(|| 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000);
    ports.find(|port| TcpListener::bind(("0.0.0.0", *port)).is_ok()).expect("a free port")
}

/// A machine, as far as k3s sees one.
pub(crate) struct Machine {
    directory: TempDir,
    /// Where its server listens.
    pub(crate) port: u16,
}

impl Machine {
    /// A machine with this configuration in `config.yaml`. Name and addresses
    /// are added, and for a server its port.
    pub(crate) fn new(name: &str, mut config: Value) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let port = free_port();
        config["node-name"] = json!(name);
        config["node-ip"] = json!("127.0.0.1");
        config["data-dir"] = json!(directory.path().join("data"));
        let machine = Self { directory, port };
        machine.configure(&config);
        machine
    }

    /// A machine that is to run `k3s server`.
    pub(crate) fn server(name: &str, config: Value) -> Self {
        let machine = Self::new(name, config);
        machine.edit(|config| config["https-listen-port"] = json!(machine.port));
        machine
    }

    /// Changes its configuration.
    pub(crate) fn edit(&self, change: impl FnOnce(&mut Value)) {
        let path = self.etc("rancher/k3s/config.yaml");
        let mut config = serde_json::from_slice(&fs::read(path).expect("config.yaml")).expect("JSON");
        change(&mut config);
        self.configure(&config);
    }

    fn configure(&self, config: &Value) {
        write(&self.etc("rancher/k3s/config.yaml"), &config.to_string());
    }

    /// Sets what is to go wrong.
    pub(crate) fn fault(&self, faults: &Value) {
        write(&self.etc("standin-k3s.json"), &faults.to_string());
    }

    /// A path below its `/etc`.
    pub(crate) fn etc(&self, path: &str) -> PathBuf {
        self.directory.path().join("etc").join(path)
    }

    /// A path below its data directory.
    pub(crate) fn data(&self, path: &str) -> PathBuf {
        self.directory.path().join("data").join(path)
    }

    /// Text of a file below its data directory, without the space around it.
    pub(crate) fn text(&self, path: &str) -> String {
        fs::read_to_string(self.data(path)).expect(path).trim().to_owned()
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(K3S);
        command.args(args).env_clear().env("STANDIN_K3S_ETC", self.etc(""));
        command
    }

    /// Starts `k3s server` or `k3s agent`.
    pub(crate) fn start(&self, command: &str) -> Running {
        let socket = self.directory.path().join("notify");
        let _ = fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket).expect("a notification socket");
        notify.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let mut child = self
            .command(&[command])
            .env("NOTIFY_SOCKET", &socket)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the stand-in starts");
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, copy) = (BufReader::new(child.stderr.take().expect("stderr")).lines(), Arc::clone(&log));
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *copy.lock().expect("the log") += &(line + "\n");
            }
        });
        Running { child, log, notify, told: String::new() }
    }

    /// Starts `k3s server` or `k3s agent` and waits until it is ready.
    pub(crate) fn ready(&self, command: &str) -> Running {
        let mut running = self.start(command);
        running.wait_told("READY=1");
        running
    }

    /// Runs `k3s kubectl`.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Output {
        self.command(&[&["kubectl"], args].concat()).output().expect("kubectl runs")
    }

    /// Runs `k3s kubectl` with something to read.
    pub(crate) fn kubectl_fed(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.command(&[&["kubectl"], args].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl runs");
        child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("it reads");
        child.wait_with_output().expect("kubectl ends")
    }

    /// The Node objects its kubectl sees.
    pub(crate) fn nodes(&self) -> Vec<Value> {
        let output = self.kubectl(&["get", "nodes", "-o", "json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let list: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        list["items"].as_array().expect("items").clone()
    }

    /// Waits until its kubectl sees exactly these nodes, ready.
    pub(crate) fn wait_nodes(&self, names: &[&str]) {
        let mut seen = Vec::new();
        wait(|| {
            seen = self.nodes();
            let ready = |node: &Value| {
                let conditions = node["status"]["conditions"].as_array().expect("conditions");
                conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
            };
            seen.iter()
                .map(|node| node["metadata"]["name"].as_str().expect("a name"))
                .eq(names.iter().copied())
                && seen.iter().all(ready)
        })
        .unwrap_or_else(|()| panic!("waited for {names:?}, saw {seen:#?}"));
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a directory above")).expect("directories");
    fs::write(path, text).expect("a file");
}

/// A process of the stand-in. Ends with its value.
pub(crate) struct Running {
    child: Child,
    log: Arc<Mutex<String>>,
    notify: UnixDatagram,
    told: String,
}

impl Running {
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    /// What systemd has been told until now.
    pub(crate) fn told(&mut self) -> &str {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.notify.recv(&mut buffer) {
            self.told += &String::from_utf8_lossy(&buffer[..length]);
            self.told += "\n";
        }
        &self.told
    }

    pub(crate) fn wait_told(&mut self, what: &str) {
        wait(|| self.told().contains(what))
            .unwrap_or_else(|()| panic!("systemd was not told {what}, but {}\n{}", self.told, self.log()));
    }

    pub(crate) fn wait_log(&self, what: &str) {
        wait(|| self.log().contains(what)).unwrap_or_else(|()| panic!("no {what:?} in\n{}", self.log()));
    }

    /// Waits for the end; exit code and log.
    pub(crate) fn wait_end(&mut self) -> (Option<i32>, String) {
        let mut code = None;
        wait(|| {
            code = self.child.try_wait().expect("a state").map(|status| status.code());
            code.is_some()
        })
        .unwrap_or_else(|()| panic!("still running:\n{}", self.log()));
        // The reader of the log may be a moment behind.
        let _ = wait(|| Arc::strong_count(&self.log) == 1);
        (code.flatten(), self.log())
    }

    /// As systemd ends a service.
    pub(crate) fn terminate(&mut self) -> (Option<i32>, String) {
        let kill = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(kill.success());
        self.wait_end()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, perhaps.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is so.
pub(crate) fn wait(mut so: impl FnMut() -> bool) -> Result<(), ()> {
    let deadline = Instant::now() + DEADLINE;
    while !so() {
        if Instant::now() > deadline {
            return Err(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
