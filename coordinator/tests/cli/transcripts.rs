//! What an operator sees when something is wrong: `docs/transcripts.md` is made
//! of what the program says, and differs from it in keys, times and places only.
//!
//! `make transcripts` (`KILN_WRITE_TRANSCRIPTS=1`) writes it anew.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use kiln_protocol::ticket::Ticket;
use kiln_protocol::{ApiError, Fingerprint, Identity};
use nix::sys::signal::Signal;

use super::common::Machine;
use super::{CLUSTER, Host, Serving};

/// What stands before the first scene.
const HEAD: &str = "\
# What an operator sees

Made by `make transcripts` from what the program says, and compared with it by every test run; only keys, times, addresses
and places were replaced. `#` is an operator's shell on the coordinator's host. What a machine is told is what its agent
writes on its serial console and into its journal.
";

/// One host on which scenes are played, and what is to be seen there.
struct Scene {
    host: Host,
    text: String,
    /// Keys that were seen, in the order in which they came.
    keys: Vec<String>,
    /// Other things that are never the same, and what stands for them.
    replaced: Vec<(String, String)>,
    runtime: tokio::runtime::Runtime,
}

impl Scene {
    fn new(title: &str) -> Self {
        let host = Host::new();
        let node =
            "[[node]]\nname = \"a1\"\nrole = \"agent\"\ncores = 1\nmemory = \"1GiB\"\ndisk = \"8GiB\"\n";
        fs::write(host.path("cluster.toml"), format!("{CLUSTER}{node}")).unwrap();
        let pin = host.ok(&["init"]).trim().to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let replaced = vec![
            (host.path("state").display().to_string(), "/var/lib/kiln-coordinator".to_owned()),
            (host.dir.path().display().to_string(), "/srv".to_owned()),
            (format!("local uid {}", nix::unistd::getuid()), "local uid 0".to_owned()),
        ];
        Self { host, text: format!("\n## {title}\n"), keys: vec![pin], replaced, runtime }
    }

    fn serve(&mut self, state: &str) -> (Serving, String) {
        let serving = Serving::start_with(&self.host, &["--state", self.host.path(state).to_str().unwrap()]);
        let file = fs::read(self.host.path(state).join("endpoint.json")).unwrap();
        let endpoint: serde_json::Value = serde_json::from_slice(&file).unwrap();
        let address = endpoint["address"].as_str().unwrap().to_owned();
        self.replaced.push((address.clone(), "10.0.0.1:7443".to_owned()));
        (serving, address)
    }

    fn stop(serving: Serving) {
        serving.signal(Signal::SIGTERM);
        assert_eq!(serving.exit_code(), Some(0));
    }

    /// What is explained.
    fn say(&mut self, text: &str) {
        write!(self.text, "\n{text}\n").unwrap();
    }

    /// A command, and what it says.
    fn run(&mut self, arguments: &[&str]) {
        let output = self.host.run(arguments);
        let said = [output.stdout, output.stderr].concat();
        let code = match output.status.code() {
            Some(0) => String::new(),
            code => format!("(exit code {})\n", code.unwrap()),
        };
        let said = String::from_utf8(said).unwrap();
        write!(self.text, "\n```text\n# coordinator {}\n{said}{code}```\n", arguments.join(" ")).unwrap();
    }

    /// What a machine is told.
    fn told(&mut self, refusal: &ApiError) {
        let ApiError { class, message, hint, .. } = refusal;
        let hint = hint.as_ref().map_or_else(String::new, |hint| format!("  {hint}\n"));
        write!(self.text, "\n```text\n{class}: {message}\n{hint}```\n").unwrap();
    }

    fn ticket(&mut self, node: &str, address: &str) -> Ticket {
        let text = self.host.ok(&["ticket", "--node", node, "--advertise", address]);
        text.parse().unwrap()
    }

    fn machine(&mut self, address: &str, ticket: &Ticket) -> (Machine, Identity) {
        let identity = Identity::generate().unwrap();
        self.keys.push(identity.fingerprint().to_string());
        (Machine::new(&identity, address.parse().unwrap(), ticket.pin()), identity)
    }

    /// The scene, without what is never the same.
    fn finish(mut self) -> String {
        for (number, key) in self.keys.iter().enumerate() {
            // As random as a key, and always the same.
            let stand_in =
                Fingerprint::of_spki(format!("key {number} of a transcript").as_bytes()).to_string();
            self.text = self.text.replace(key, &stand_in).replace(&key[..16], &stand_in[..16]);
        }
        for (was, is) in &self.replaced {
            self.text = self.text.replace(was, is);
        }
        let text = renumbered(&self.text);
        text.lines().map(|line| timeless(line).trim_end().to_owned() + "\n").collect()
    }
}

/// The same text with other numbers for the trail's lines since an epoch began,
/// which count on from the time of that in milliseconds.
fn renumbered(text: &str) -> String {
    const STAND_IN: u64 = 1_767_348_000_000;
    let number = |line: &str| line.split_once("  ").and_then(|(number, _)| number.parse().ok());
    let numbers = || text.lines().filter_map(number).filter(|number: &u64| *number > 1_000_000_000_000);
    let Some(first) = numbers().min() else { return text.to_owned() };
    numbers().fold(text.to_owned(), |text, number| {
        text.replace(&format!("\n{number}  "), &format!("\n{}  ", STAND_IN + number - first))
    })
}

/// A line with the same time for every time, and the same age for every age.
fn timeless(line: &str) -> String {
    /// A digit where there is a 0.
    const TIMES: [&str; 2] = ["0000-00-00 00:00:00", "0000-00-00T00:00:00"];
    let fits = |at: usize, shape: &str| {
        let part = line.as_bytes().get(at..at + shape.len());
        part.is_some_and(|part| {
            part.iter().zip(shape.bytes()).all(|(c, s)| if s == b'0' { c.is_ascii_digit() } else { *c == s })
        })
    };
    let (mut text, mut at) = (String::new(), 0);
    while at < line.len() {
        if let Some(shape) = TIMES.iter().find(|shape| fits(at, shape)) {
            text += &shape.replace("0000-00-00", "2026-01-02").replace("00:00:00", "10:00:00");
            at += shape.len();
            // Fractions of a second.
            if fits(at, ".0") {
                at += 1 + line[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
            }
            continue;
        }
        let character = line[at..].chars().next().unwrap();
        text.push(character);
        at += character.len_utf8();
    }
    // The column SEEN: seconds, on a machine that may be slow.
    let cells: Vec<&str> = text.split_inclusive(' ').collect();
    let age = |cell: &str| {
        let digits = cell.trim_end().strip_suffix('s');
        digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    };
    let mut cells = cells.into_iter().peekable();
    let mut line = String::new();
    while let Some(cell) = cells.next() {
        if !age(cell) {
            line += cell;
            continue;
        }
        let mut width = cell.len();
        while cells.next_if_eq(&" ").is_some() {
            width += 1;
        }
        write!(line, "{:<width$}", "1s").unwrap();
    }
    line
}

fn contested() -> String {
    let mut scene = Scene::new("A contested ticket");
    let (serving, address) = scene.serve("state");
    scene.say(
        "`a1` has a ticket, and a machine has enrolled with it. Then a second machine shows the same ticket:",
    );
    let ticket = scene.ticket("a1", &address);
    let (first, _) = scene.machine(&address, &ticket);
    let (second, _) = scene.machine(&address, &ticket);
    let refusal = scene.runtime.block_on(async {
        first.enrol(&ticket).await.unwrap();
        second.enrol(&ticket).await.unwrap_err()
    });
    scene.told(&refusal);
    scene.say("Nobody knows which of the two is the right one, so the first one is held as well, and there is an alarm:");
    scene.run(&["status"]);
    scene.run(&["events"]);
    let refusal = scene.runtime.block_on(async { first.config().await.unwrap_err() });
    scene.say("The first machine is told, when it asks for its configuration:");
    scene.told(&refusal);
    scene.say(
        "The operator compares the keys above with what the machine's console shows. If the first one is theirs, it \
         is released, and the other one stays out:",
    );
    scene.run(&["release", "a1"]);
    scene.run(&["status"]);
    let refusal = scene.runtime.block_on(async { second.enrol(&ticket).await.unwrap_err() });
    scene.told(&refusal);
    scene.say("If it is not, it is revoked, and the machine that is theirs gets another ticket:");
    scene.run(&["revoke", "a1"]);
    scene.run(&["status"]);
    Scene::stop(serving);
    scene.finish()
}

fn cloned() -> String {
    let mut scene = Scene::new("A cloned node");
    let (serving, address) = scene.serve("state");
    scene.say("`a1` has enrolled. Its disk was copied, and both machines run. The copy was heard first, then the original, with what the copy has used up:");
    let ticket = scene.ticket("a1", &address);
    let (node, identity) = scene.machine(&address, &ticket);
    let refusal = scene.runtime.block_on(async {
        node.enrol(&ticket).await.unwrap();
        node.open().await.unwrap();
        // Two disks that are the same, each in a machine of its own.
        let [original, copy] = [node.cloned(&identity, ticket.pin()).await, node];
        copy.open().await.unwrap();
        original.open().await.unwrap_err()
    });
    scene.run(&["status"]);
    scene.say("Either of them is told, when it asks:");
    scene.told(&refusal);
    scene.run(&["events"]);
    scene.say(
        "One key in two machines is no identity any more: neither gets anything. The operator takes it its rights, \
         and the machine that is to stay gets another ticket, for the next generation:",
    );
    scene.run(&["revoke", "a1"]);
    let out = scene.host.path("a1.ticket").display().to_string();
    scene.run(&["ticket", "--node", "a1", "--advertise", &address, "--out", &out]);
    scene.run(&["status"]);
    Scene::stop(serving);
    scene.finish()
}

fn restored() -> String {
    let mut scene = Scene::new("A restored backup");
    let (serving, address) = scene.serve("state");
    scene.say("`s1` has enrolled, `a1` has a ticket that it has not used yet. The backup is made while the coordinator serves:");
    let [server_ticket, worker_ticket] = ["s1", "a1"].map(|node| scene.ticket(node, &address));
    let (server, server_key) = scene.machine(&address, &server_ticket);
    let (worker, worker_key) = scene.machine(&address, &worker_ticket);
    scene.runtime.block_on(async {
        server.enrol(&server_ticket).await.unwrap();
        server.open().await.unwrap();
    });
    let backup = scene.host.path("monday").display().to_string();
    scene.run(&["backup", &backup]);
    scene.runtime.block_on(async { worker.enrol(&worker_ticket).await.unwrap() });
    scene.say("Afterwards `a1` enrols, which the backup does not know. Then the host is lost. A backup that somebody has altered is refused:");
    Scene::stop(serving);
    let unlock = scene.host.path("state.unlock-key").display().to_string();
    let new = scene.host.path("restored").display().to_string();
    scene.replaced.insert(0, (new.clone(), "/var/lib/kiln-coordinator".to_owned()));
    scene.replaced.insert(0, (unlock.clone(), "/etc/kiln-coordinator/unlock-key".to_owned()));
    let altered = scene.host.path("altered").display().to_string();
    let mut bytes = fs::read(&backup).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&altered, bytes).unwrap();
    let state = ["--state", new.as_str(), "--unlock-key", unlock.as_str()];
    scene.run(&[&["restore", &altered][..], &state].concat());
    scene.run(&[&["restore", &backup][..], &state].concat());
    // The same unlock key, at the place where `serve` looks for it.
    fs::copy(&unlock, scene.host.path("restored.unlock-key")).unwrap();
    let (serving, again) = scene.serve("restored");
    scene.say("The restored coordinator goes on with whom the backup knows:");
    scene.run(&["status", "--state", &new]);
    scene.run(&["events", "--state", &new]);
    scene.say("`s1` goes on as if nothing had been. `a1` is told:");
    let (server, worker) = scene.runtime.block_on(async {
        let moved = |identity: &Identity| Machine::new(identity, again.parse().unwrap(), worker_ticket.pin());
        let (at, enrolled) = (moved(&server_key), moved(&worker_key));
        *at.ratchet.lock().await = server.ratchet.lock().await.clone();
        (at.config().await.map(drop), enrolled.enrol(&worker_ticket).await.unwrap_err())
    });
    server.unwrap();
    scene.told(&worker);
    Scene::stop(serving);
    scene.say(
        "Had the old directory been copied back instead, without `restore`, the first node that has seen more would \
         have told: see `stale_coordinator` in [security.md](security.md#state).",
    );
    scene.finish()
}

fn document() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/transcripts.md")
}

#[test]
fn the_transcripts_in_the_documentation_are_what_the_program_says() {
    let text = [HEAD.to_owned(), contested(), cloned(), restored()].concat();
    if std::env::var_os("KILN_WRITE_TRANSCRIPTS").is_some() {
        fs::write(document(), &text).unwrap();
    }
    let kept = fs::read_to_string(document()).unwrap_or_default();
    for (number, (kept, said)) in kept.lines().zip(text.lines()).enumerate() {
        let line = number + 1;
        assert_eq!(
            kept, said,
            "docs/transcripts.md, line {line}; run: make transcripts, and look at the difference"
        );
    }
    assert_eq!(kept.lines().count(), text.lines().count(), "docs/transcripts.md; run: make transcripts");
}

#[test]
fn times_and_ages_are_replaced_and_nothing_else() {
    let line =
        "a1    agent   1    bound     -     -       12s   ticket good until 2031-12-11 10:09:08.123Z x";
    let expected =
        "a1    agent   1    bound     -     -       1s    ticket good until 2026-01-02 10:00:00Z x";
    assert_eq!(timeless(line), expected);
    assert_eq!(timeless("k3s v1.28.5+k3s1: 0 of 2 nodes"), "k3s v1.28.5+k3s1: 0 of 2 nodes");
}
