//! The real builder and real QEMU, whose machines' disks are empty: agents of
//! this process join with the tickets that the machines were given, so that a
//! cluster's life takes seconds. It is searched for secrets in all that builder
//! said, in all that it left, and in how its processes look from outside.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_protocol::Ticket;
use kiln_protocol::seed::NodeSeed;
use kiln_protocol::ticket::TicketSeed;
use kiln_tests::cluster::{JOIN, SOON};
use kiln_tests::lab::VERSION;
use kiln_tests::leftovers::{assert_no_process, files_below};
use kiln_tests::process::{Outcome, Running, start, wait_until};
use kiln_tests::secrets::Secrets;
use kiln_tests::{Cluster, lab, run};
use serde_json::Value;

use crate::world::Agent;
use crate::{note_cluster, note_key};

/// Said of a file that others than its owner may read: a secret does not belong there.
const FOR_ALL: &str = ", for all to read";

/// A cluster, what was said about it, and what must be nowhere but where it belongs.
struct Life {
    cluster: Cluster,
    said: Vec<(String, Vec<u8>)>,
    secrets: Secrets,
}

impl Life {
    fn new() -> Self {
        let mut secrets = Secrets::default();
        secrets.bytes("planted", &PLANTED);
        let life = Self { cluster: Cluster::new("secrets"), said: Vec::new(), secrets };
        fs::create_dir(life.cluster.path().join("tmp")).unwrap();
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2"]).arg(life.cluster.path().join("empty.qcow2")).arg("64M");
        run(create, SOON).success();
        life
    }

    /// A call that says all it has to say, and works where it is searched.
    fn saying(&self, mut command: Command) -> Command {
        let home = self.cluster.path();
        command.current_dir(home).env("KILN_LOG", "trace").env("TMPDIR", home.join("tmp"));
        command.env("XDG_STATE_HOME", self.cluster.state()).env("XDG_CACHE_HOME", home.join("cache"));
        command
    }

    fn call(&self, subcommand: &str, more: &[&str]) -> Command {
        let mut command = self.saying(self.cluster.call(subcommand));
        command.args(more);
        command
    }

    fn up(&self, more: &[&str]) -> Command {
        self.call("up", &[&["--accel", "tcg", "--keep", "--image", "empty.qcow2"], more].concat())
    }

    fn keep(&mut self, name: &str, outcome: Outcome) {
        for (what, text) in [("told", outcome.command), ("out", outcome.stdout), ("err", outcome.stderr)] {
            self.said.push((format!("{what} of {name}"), text.into_bytes()));
        }
    }

    /// Keeps how a process looks from outside.
    fn keep_process(&mut self, name: &str, pid: u32) {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        self.said.push((format!("command line of {name}"), fs::read(proc.join("cmdline")).unwrap()));
        // Root alone can read the environment of what must not be dumped.
        if let Ok(environment) = fs::read(proc.join("environ")) {
            self.said.push((format!("environment of {name}"), environment));
        }
    }

    /// A place below the cluster's state.
    fn state(&self, name: &str) -> PathBuf {
        self.cluster.state().join("kiln/clusters/secrets").join(name)
    }

    fn node_file(&self, node: &str, name: &str) -> PathBuf {
        self.state("nodes").join(node).join(name)
    }

    /// The ticket that a machine was given, from where it may be: the journal, and
    /// the file that QEMU reads. One that leads here from outside of a machine, and
    /// the text of the machine's.
    fn ticket(&self, node: &str) -> Option<(Ticket, String)> {
        let journal = fs::read_to_string(self.state("journal.jsonl")).ok()?;
        let mut lines = journal.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let line = lines.find(|line| line["event"] == "ticket" && line["record"]["node"] == node)?;
        let seed: TicketSeed = serde_json::from_value(line["seed"].clone()).unwrap();
        let given = fs::read_to_string(self.node_file(node, "seed")).ok()?;
        let (_, document) = given.split_once('=').unwrap();
        let document = NodeSeed::parse(document.as_bytes()).unwrap();
        let ticket = document.claim.ticket().unwrap();
        assert_eq!(ticket.public_key(), seed.public_key());
        let here = format!("127.0.0.1:{}", ticket.addresses()[0].port()).parse().unwrap();
        let text = ticket.to_text().to_string();
        Some((Ticket::new(vec![here], ticket.pin(), seed).unwrap(), text))
    }

    /// What an agent of this process says is on its machine's console, again and
    /// again until `done`: QEMU writes there too, over what it did not write.
    fn lend_consoles(&self, agents: &[(String, Agent)], up: &mut Running, done: impl Fn() -> bool) {
        let told = || {
            for (node, agent) in agents {
                let console = fs::File::options().append(true).open(self.node_file(node, "console.log"));
                // Its machine may not have been switched on yet.
                let Ok(mut console) = console else { continue };
                write!(console, "\r\n{}", agent.console()).unwrap();
            }
            done() || up.ended()
        };
        let said = || agents.iter().map(|(_, agent)| agent.console()).collect::<String>();
        wait_until(JOIN, told).unwrap_or_else(|_| panic!("{}", said()));
    }

    /// Everything that was said, and every file there is.
    fn places(&self) -> Vec<(String, Vec<u8>)> {
        let mut places = self.said.clone();
        for path in files_below(self.cluster.path()) {
            // A socket has no content, and what runs may remove its files meanwhile.
            let Ok(content) = fs::read(&path) else { continue };
            let open = path.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0);
            let name = path.strip_prefix(self.cluster.path()).unwrap().display();
            places.push((format!("{name}{}", if open { FOR_ALL } else { "" }), content));
        }
        places
    }

    /// Where which secrets are: those that are where they belong, and the others.
    fn search(&self, places: &[(String, Vec<u8>)]) -> [BTreeSet<(String, String)>; 2] {
        let all = places.iter().map(|(name, content)| (name.as_str(), content.as_slice()));
        let (home, astray) =
            self.secrets.find(all).into_iter().partition(|(place, secret)| belongs(place, secret));
        [home, astray]
    }

    /// Nothing is astray, and each place that is made for a secret holds it. A
    /// search that cannot fail proves nothing: planted in any of the places, a secret
    /// is found there.
    #[track_caller]
    fn check(&self, when: &str, home: &[(String, &str)]) {
        let mut places = self.places();
        let [found, astray] = self.search(&places);
        assert!(astray.is_empty(), "{when}: {astray:?}");
        let home = home.iter().map(|(place, secret)| (place.clone(), (*secret).to_owned()));
        assert_eq!(found, home.collect(), "{when}");
        for (_, content) in &mut places {
            content.extend(format!("{PLANTED:02x?}").bytes().filter(u8::is_ascii_hexdigit));
        }
        let [_, astray] = self.search(&places);
        let planted = places.into_iter().map(|(place, _)| (place, "planted".to_owned()));
        assert_eq!(astray, planted.collect(), "{when}");
    }
}

/// A secret that is nobody's.
const PLANTED: [u8; 32] = *b"what builder has no cause to say";

/// Beside what a thief of builder's state takes.
const RECOVERY: &str = "state/kiln.secrets.recovery-key";

fn cluster_file(name: &str) -> String {
    format!("state/kiln/clusters/secrets/{name}")
}

/// Whether a place is the one that is made for a secret.
fn belongs(place: &str, secret: &str) -> bool {
    match secret {
        "unlock key" => place == "state/kiln.unlock-key",
        "recovery key" => place == RECOVERY,
        "kubeconfig" => place == cluster_file("kubeconfig"),
        "signing key" => place == "kiln.key",
        "password's hash" => place == "hash",
        // Until its node is ready: a run that was cut off is gone on with from the
        // journal, and QEMU reads the other file when the machine starts.
        _ => secret.strip_prefix("ticket of ").is_some_and(|node| {
            place == cluster_file("journal.jsonl") || place == cluster_file(&format!("nodes/{node}/seed"))
        }),
    }
}

#[test]
fn a_builders_whole_life_leaves_no_secret_where_it_does_not_belong() {
    let mut life = Life::new();
    let nodes = [life.cluster.server.clone(), life.cluster.agent.clone()];
    let mut up = start(life.up(&[]));
    life.keep_process("up", up.pid());
    let given = |life: &Life| nodes.iter().filter_map(|node| life.ticket(node)).collect::<Vec<_>>();
    let all_given = wait_until(SOON, || given(&life).len() == nodes.len() || up.ended());
    let mut agents = Vec::new();
    let mut home = Vec::new();
    for (node, (ticket, text)) in nodes.iter().zip(given(&life)) {
        let name = format!("ticket of {node}");
        life.secrets.ticket(&name, &text);
        home.extend(
            [cluster_file("journal.jsonl"), cluster_file(&format!("nodes/{node}/seed"))]
                .map(|place| (place, name.clone())),
        );
        agents.push((node.clone(), Agent::with(ticket)));
    }
    assert!(all_given.is_ok() && agents.len() == nodes.len(), "{}", up.wait(SOON));

    // The nodes join, and builder looks for their k3s, which is not there.
    life.lend_consoles(&agents, &mut up, || life.state("kubeconfig").exists());
    for node in &nodes {
        let (pid, _) = life.cluster.machine(node).unwrap_or_else(|| panic!("{node} is off"));
        life.keep_process(&format!("the machine of {node}"), pid);
    }
    up.signal("INT");
    life.keep("up", up.wait(SOON).code(130));
    for (_, agent) in &agents {
        assert!(agent.console().contains("[ready]"), "{}", agent.console());
        note_key(&mut life.secrets, agent);
        note_cluster(&mut life.secrets, agent);
    }
    let read = |place: &str| fs::read_to_string(life.cluster.path().join(place)).unwrap();
    let unlock = "state/kiln.unlock-key".to_owned();
    let (recovery, kubeconfig) = (RECOVERY.to_owned(), cluster_file("kubeconfig"));
    let texts = [read(&unlock), read(&recovery), read(&kubeconfig)];
    life.secrets.unlock_key("unlock key", &texts[0]);
    life.secrets.recovery_key("recovery key", &texts[1]);
    life.secrets.kubeconfig("kubeconfig", &texts[2]);

    // Once more, for machines; and what can be seen of it, while it fails and after.
    life.keep("again", run(life.up(&["--json", "--timeout", "5s"]), JOIN).code(1).says(&["k3s"]));
    let looks = [&["--json"][..], &[]].map(|how| start(life.call("status", how)));
    for look in looks {
        life.keep("status", look.wait(SOON));
    }

    // All of it was looked at, and each had all to say that it has.
    let places = life.places();
    let content = |name: &str| {
        let found = places.iter().find(|(place, _)| place == name);
        String::from_utf8_lossy(&found.unwrap_or_else(|| panic!("{name} was not searched")).1).into_owned()
    };
    for name in ["status.json", "coordinator/state.db", "net/net.json", "lock"] {
        content(&cluster_file(name));
    }
    for node in &nodes {
        for name in ["console.log", "node.json", "power.json", "qemu.log", "record.json"] {
            content(&cluster_file(&format!("nodes/{node}/{name}")));
        }
        assert!(content(&format!("command line of the machine of {node}")).contains("path=seed"));
    }
    assert!(content("err of up").contains("TRACE") && content("err of up").contains("pass_gate"));
    assert!(content("out of again").starts_with('{') && content("told of again").contains("KILN_LOG"));

    let (forms, kinds) = life.secrets.count();
    println!("{forms} forms of {kinds} kinds of secret, looked for in {} places", places.len());
    assert!(forms > 100 && kinds > 6, "{forms} forms of {kinds}");
    let unlock_only = vec![(unlock.clone(), "unlock key")];
    let mut home: Vec<_> = home.iter().map(|(place, secret)| (place.clone(), secret.as_str())).collect();
    home.extend([(unlock, "unlock key"), (recovery, "recovery key"), (kubeconfig, "kubeconfig")]);
    life.check("while it is up", &home);
    // A journal that others may read is no place for a ticket, nor is another's seed.
    assert!(!belongs(&(cluster_file("journal.jsonl") + FOR_ALL), &format!("ticket of {}", nodes[0])));
    assert!(!belongs(&cluster_file(&format!("nodes/{}/seed", nodes[1])), &format!("ticket of {}", nodes[0])));

    let logs = life.cluster.path().join("logs");
    let down = life.call("down", &["--keep-logs", logs.to_str().unwrap()]);
    life.keep("down", run(down, SOON).success());
    assert_no_process(life.cluster.path());
    life.check("when it is gone", &unlock_only);
}

#[test]
fn what_a_bake_is_trusted_with_is_said_nowhere() {
    let mut life = Life::new();
    let put = |life: &Life, name: &str, text: &str| {
        let path = life.cluster.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let hash = format!("$6$saltsaltsaltsalt${}", "NobodyKnowsThis/And.NobodyEverWillxxxxxxxxx".repeat(2));
    let typed = "typed instead of its hash";
    put(&life, "hash", &hash);
    put(&life, "empty.iso", "");
    life.secrets.text("password's hash", &hash);
    life.secrets.text("a password", typed);
    let builder = |life: &Life, words: &[&str]| {
        let mut command = life.saying(lab().builder());
        command.args(words);
        command
    };
    life.keep("sign --new-key", run(builder(&life, &["sign", "--new-key", "kiln"]), SOON).success());
    let key = fs::read_to_string(life.cluster.path().join("kiln.key")).unwrap();
    // An untrusted comment, then what it is.
    let key = key.lines().nth(1).unwrap();
    life.secrets.text("signing key", key);
    // Six bytes of kinds, forty of how a password is made a key, eight of a name; then the key.
    life.secrets.bytes("signing key", &STANDARD.decode(key).unwrap()[62..94]);
    life.keep("sign", run(builder(&life, &["sign", "images", "--key", "kiln.key"]), SOON).code(2));
    let bake = ["bake", "--version", VERSION, "--iso", "empty.iso", "--sign-key", "kiln.key"];
    let login = ["--login-user", "rescue", "--login-password-hash-file", "hash"];
    let outcome = run(builder(&life, &[&bake[..], &login].concat()), SOON);
    life.keep("bake", outcome.code(2).says(&["empty.iso"]));
    let home = [("kiln.key".to_owned(), "signing key"), ("hash".to_owned(), "password's hash")];
    life.check("for a bake", &home);

    // What stands there is no hash: it is not repeated.
    put(&life, "hash", typed);
    let outcome = run(builder(&life, &[&bake[..], &login].concat()), SOON);
    life.keep("bake", outcome.code(2).says(&["hash: its text"]));
    fs::remove_file(life.cluster.path().join("hash")).unwrap();
    life.check("for a bake that was refused", &home[..1]);
}
