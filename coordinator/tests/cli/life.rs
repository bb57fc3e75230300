//! A whole life of a coordinator, with everything that is said and written on
//! the way searched for every secret there is.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use kiln_protocol::rotation::RotateRequest;
use kiln_protocol::ticket::Ticket;
use kiln_protocol::{ErrorClass, Identity, api};
use kiln_tests::secrets::Secrets;
use nix::sys::signal::Signal;
use reqwest::Method;

use super::common::{Machine, unsealed_key};
use super::{CLUSTER, Host, Serving, endpoint, page};

const WORKER: &str =
    "[[node]]\nname = \"a1\"\nrole = \"agent\"\ncores = 1\nmemory = \"1GiB\"\ndisk = \"8GiB\"\n";

/// A host, what was said on it, and what must be nowhere but where it belongs.
struct Life {
    host: Host,
    said: Vec<(String, Vec<u8>)>,
    secrets: Secrets,
    runtime: tokio::runtime::Runtime,
}

impl Life {
    fn new() -> Self {
        let host = Host::new();
        fs::write(host.path("cluster.toml"), format!("{CLUSTER}{WORKER}")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { host, said: Vec::new(), secrets: Secrets::default(), runtime }
    }

    fn path(&self, name: &str) -> String {
        self.host.path(name).to_str().unwrap().to_owned()
    }

    /// Runs a command that must succeed; what it was told, in words and by its
    /// environment, and what it said, is kept.
    #[track_caller]
    fn run(&mut self, arguments: &[&str]) -> String {
        let mut command = self.host.command(arguments);
        let output = command.env("KILN_LOG", "trace").output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let told = format!("{command:?}");
        for (what, bytes) in [("told", told.as_bytes()), ("out", &output.stdout), ("err", &output.stderr)] {
            self.said.push((format!("{what} of {}", arguments[0]), bytes.to_vec()));
        }
        String::from_utf8(output.stdout).unwrap()
    }

    /// Serves a state with everything in its log, and keeps how the process looks
    /// from outside.
    fn serve(&mut self, state: &str) -> Serving {
        let log = self.host.path(&format!("log-{}", self.said.len()));
        let state = self.path(state);
        let more = ["--state", &state, "--unlock-key", &self.path("state.unlock-key")];
        let serving = Serving::start_logging(&self.host, &more, "trace", File::create(log).unwrap().into());
        let proc = PathBuf::from(format!("/proc/{}", serving.0.id()));
        self.said.push(("cmdline of serve".to_owned(), fs::read(proc.join("cmdline")).unwrap()));
        // Root alone can read the environment of what must not be dumped.
        if let Ok(environment) = fs::read(proc.join("environ")) {
            self.said.push(("environment of serve".to_owned(), environment));
        }
        serving
    }

    /// A ticket in a file, as a caller makes one.
    fn ticket(&mut self, node: &str, address: &str) -> Ticket {
        let file = self.path(&format!("{node}.ticket"));
        self.run(&["ticket", "--node", node, "--advertise", address, "--new", "--out", &file]);
        let ticket: Ticket = fs::read_to_string(file).unwrap().parse().unwrap();
        self.secrets.ticket("ticket", &ticket.to_text());
        ticket
    }

    /// A machine with a key of its own, which is nowhere but there.
    fn machine(&mut self, address: &str, ticket: &Ticket) -> (Machine, Identity) {
        let identity = Identity::generate().unwrap();
        self.secrets.key("a node's key", identity.to_pem().expose());
        (Machine::new(&identity, address.parse().unwrap(), ticket.pin()), identity)
    }

    fn note_unlock_key(&mut self) {
        let text = fs::read_to_string(self.host.path("state.unlock-key")).unwrap();
        self.secrets.unlock_key("unlock key", &text);
    }

    fn note_own_key(&mut self) {
        let key = unsealed_key(&self.host.path("state/state.db"), &self.host.path("state.unlock-key"));
        self.secrets.key("the coordinator's key", key.to_pem().expose());
    }

    /// Every file below the host's directory, and everything that was said.
    fn places(&self) -> Vec<(String, Vec<u8>)> {
        let mut places = self.said.clone();
        for path in kiln_tests::leftovers::files_below(self.host.dir.path()) {
            let name = path.strip_prefix(self.host.dir.path()).unwrap().display().to_string();
            // What serves may remove its socket and its log meanwhile.
            let Ok(content) = fs::read(&path) else { continue };
            places.push((name, content));
        }
        places
    }

    /// Secrets that are where they do not belong: the place and the secret.
    fn strays(&self) -> Vec<(String, String)> {
        let places = self.places();
        let all = places.iter().map(|(name, content)| (name.as_str(), content.as_slice()));
        let found = self.secrets.find(all);
        found.into_iter().filter(|(place, secret)| !belongs(Path::new(place), secret)).collect()
    }
}

/// Whether a file is the one that is made to hold a secret.
fn belongs(place: &Path, secret: &str) -> bool {
    let name = place.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match secret {
        "unlock key" => name.starts_with("state.unlock-key"),
        "recovery key" => name == "recovery",
        // The caller's own copy, and the journal of what was not used yet.
        "ticket" => name.ends_with(".ticket") || place.starts_with(".local/state/kiln/tickets"),
        "an admin's key" => name == "ops.key",
        "kubeconfig" => name == "kubeconfig",
        _ => false,
    }
}

#[test]
fn a_whole_life_leaves_no_secret_where_it_does_not_belong() {
    let mut life = Life::new();
    let recovery = life.path("recovery");
    life.run(&["init", "--recovery-out", &recovery]);
    life.secrets.recovery_key("recovery key", &fs::read_to_string(&recovery).unwrap());
    life.note_unlock_key();
    life.note_own_key();
    let serving = life.serve("state");
    let (address, status) = (endpoint(&life.host, "address"), endpoint(&life.host, "status"));

    // Admins, tickets, machines.
    let ops = life.path("ops.key");
    life.run(&["admin", "add", "ops", "--make", &ops]);
    life.secrets.key("an admin's key", &fs::read_to_string(&ops).unwrap());
    let tickets = [life.ticket("s1", &address), life.ticket("a1", &address)];
    let (server, _) = life.machine(&address, &tickets[0]);
    let (worker, worker_key) = life.machine(&address, &tickets[1]);
    let (thief, _) = life.machine(&address, &tickets[1]);
    let (renewed, renewed_key) = life.machine(&address, &tickets[1]);
    let learnt = life.runtime.block_on(async {
        let mut learnt = Vec::new();
        for (machine, ticket) in [(&server, &tickets[0]), (&worker, &tickets[1])] {
            machine.enrol(ticket).await.unwrap();
            learnt.push(serde_json::to_value(machine.config().await.unwrap()).unwrap());
        }
        server.gate().await.unwrap();
        server.report_ready().await.unwrap();
        learnt.push(serde_json::to_value(server.chores().await.unwrap()).unwrap());
        server.do_chores(&[]).await;
        worker.gate().await.unwrap();
        worker.report_ready().await.unwrap();
        // One ticket, two keys.
        assert_eq!(thief.enrol(&tickets[1]).await.unwrap_err().class, ErrorClass::TicketContested);
        learnt
    });
    for document in &learnt {
        life.secrets.document("cluster", document);
    }
    life.run(&["release", "a1"]);
    life.run(&["rotate", "a1"]);
    life.runtime.block_on(async {
        assert!(worker.open().await.unwrap().rotate);
        let mut ratchet = worker.ratchet.lock().await.clone();
        let (turn, seen) = (ratchet.turn(), ratchet.seen);
        let (pin, old) = (tickets[1].pin(), worker_key.fingerprint());
        let request = RotateRequest::new(&pin, &old, &renewed_key, turn, seen);
        *worker.ratchet.lock().await = ratchet;
        worker.send(Method::POST, api::ROTATE, serde_json::to_vec(&request).unwrap()).await.unwrap();
        worker.ratchet.lock().await.answered();
        *renewed.ratchet.lock().await = worker.ratchet.lock().await.clone();
        renewed.config().await.unwrap();
    });
    // What an operator looks at and takes away.
    let kubeconfig = life.path("kubeconfig");
    life.run(&["kubeconfig", "--out", &kubeconfig, "--server", "https://127.0.0.1:6443"]);
    let text = fs::read_to_string(&kubeconfig).unwrap();
    life.secrets.kubeconfig("kubeconfig", &text);
    for look in
        [&["status"][..], &["status", "--json"], &["events"], &["events", "--json"], &["admin", "list"]]
    {
        life.run(look);
    }
    for path in ["/", "/metrics", "/healthz"] {
        life.said.push((format!("page {path}"), page(&status, path).into_bytes()));
    }
    let backup = life.path("backup");
    life.run(&["backup", &backup]);
    life.run(&["revoke", "a1"]);
    let strays = life.strays();
    assert!(strays.is_empty(), "while it serves: {strays:?}");
    serving.signal(Signal::SIGTERM);
    assert_eq!(serving.exit_code(), Some(0));

    // Its keys are replaced, and a copy of it comes back.
    life.run(&["unlock-key", "rotate"]);
    life.note_unlock_key();
    life.run(&["pin-change", "--recovery-key", &recovery]);
    life.note_own_key();
    let (after, restored) = (life.path("after"), life.path("restored"));
    life.run(&["backup", &after]);
    life.run(&["restore", &after, "--state", &restored, "--unlock-key", &life.path("state.unlock-key")]);
    let serving = life.serve("restored");
    life.run(&["raise-epoch", "--state", &restored]);
    life.run(&["events", "--state", &restored]);
    life.run(&["end", "test", "--state", &restored]);
    serving.signal(Signal::SIGTERM);
    assert_eq!(serving.exit_code(), Some(0));

    let (forms, kinds) = life.secrets.count();
    let searched: usize = life.places().iter().map(|(_, content)| content.len()).sum();
    println!("{forms} forms of {kinds} kinds of secret, looked for in {searched} bytes");
    assert!(forms > 100 && kinds > 8, "{forms} forms of {kinds}");
    let logged = |(name, log): &(String, Vec<u8>)| {
        name.starts_with("log-") && String::from_utf8_lossy(log).contains("ticket_contested: ")
    };
    assert!(life.places().iter().any(logged), "the log of what serves was not searched");
    let strays = life.strays();
    assert!(strays.is_empty(), "{strays:?}");
    // It can fail: each of these is a leak, in a file and in a log.
    let leaked = PathBuf::from(life.path("restored/leaked"));
    fs::write(&leaked, &text).unwrap();
    assert_eq!(life.strays(), [("restored/leaked".to_owned(), "kubeconfig".to_owned())]);
    fs::remove_file(leaked).unwrap();
    life.said.push(("log".to_owned(), format!("seed={}", &*tickets[0].to_text()).into_bytes()));
    assert_eq!(life.strays(), [("log".to_owned(), "ticket".to_owned())]);
}
