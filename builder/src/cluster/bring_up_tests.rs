//! One suite for what must hold of every provider, run against the one in
//! memory: kill a run at every point it has, and the next one comes to the
//! same end.

use std::sync::MutexGuard;

use super::*;
use crate::cluster::faults::{Faults, Killed};
use crate::cluster::paths::StateDir;
use crate::cluster::up;
use crate::image::Digest;
use crate::provider::fake::{Fake, World};
use crate::provider::{LocalImage, PowerState};
use kiln_protocol::admin::RegistryState;
use kiln_protocol::api::{EnrolRequest, Facts, GateAnswer, GateRequest, Report, Step, StepState};
use kiln_protocol::ratchet::{Notch, OpenRequest, Turn};
use kiln_protocol::seed::NodeSeed;
use kiln_protocol::{Fingerprint, Identity, tls};

const FILE: &str = r#"
[cluster]
name = "home"
k3s = "v1.28.5+k3s1"
image = "alma9-k3-node-amd64-v1.28.5-v1"
provider = "qemu"
[[node]]
name = "s1"
role = "server"
cores = 1
memory = "512MiB"
disk = "4GiB"
[[node]]
name = "a1"
role = "agent"
cores = 1
memory = "512MiB"
disk = "4GiB"
"#;

/// A cluster of which the provider's world and the state directory survive
/// what is done to its runs.
struct Lab {
    dir: tempfile::TempDir,
    file: ClusterFile,
    image: Image,
    fake: Fake,
    data: Option<Data>,
}

impl Lab {
    fn new() -> Self {
        let disk = LocalImage { path: "/i".into(), digest: Digest::of(b"i"), virtual_size: 1 << 30 };
        Self {
            dir: tempfile::tempdir().unwrap(),
            file: ClusterFile::parse(FILE).unwrap(),
            image: Image { disk, manifest: None },
            fake: Fake::default(),
            data: None,
        }
    }

    fn state(&self) -> StateDir {
        StateDir::resolve(Some(self.dir.path().to_owned())).unwrap()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.fake.world()
    }

    fn order(&self) -> Order<'_> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let data = self.data.clone();
        Order {
            file: &self.file,
            image: &self.image,
            firmware: BTreeMap::new(),
            advertise: None,
            data,
            deadline,
        }
    }

    /// Opens the cluster for a run that dies where `faults` say.
    async fn open(&self, faults: &Faults) -> Result<Context> {
        let fake = Fake { faults: faults.clone(), ..self.fake.clone() };
        // A run that was killed in this process may hold the lock a moment longer.
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match up::open(&self.state(), &self.file, &Provider::Fake(fake.clone())).await {
                Err(error) if error.to_string().contains("busy") && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(error) => return Err(error),
                Ok(mut context) => {
                    context.journal.faults = faults.clone();
                    return Ok(context);
                }
            }
        }
    }

    /// A run of `up`, as far as making goes, that dies where `faults` say.
    async fn make(&self, faults: &Faults) -> Result<(Context, Made)> {
        let mut context = self.open(faults).await?;
        let mut screen = Screen::told(|_| {});
        let mut board = Board::new(&self.file, context.dir.status(), &mut screen);
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match make(&mut context, &self.order(), &mut board).await {
                Err(error) if format!("{error:#}").contains("in use") && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                made => return Ok((context, made?)),
            }
        }
    }

    async fn down(&self, faults: &Faults) -> Result<Vec<String>> {
        if !self.state().cluster(self.file.name()).path().exists() {
            return Ok(Vec::new());
        }
        let provider = Provider::Fake(Fake { faults: faults.clone(), ..self.fake.clone() });
        let mut context = Context::open_to_remove(&self.state(), self.file.name(), provider, "down")?;
        context.journal.faults = faults.clone();
        down::remove_all(context, None).await
    }

    /// What must hold once a run has come to its end: one object a node, on,
    /// with the seed of the one ticket that is registered for it.
    async fn assert_up(&self, made: &Made) {
        let status = made.coordinator.status().await.unwrap();
        assert_eq!(made.nodes.len(), 2);
        let world = self.world();
        assert_eq!(world.objects.len(), 4, "{:?}", world.objects.keys());
        for node in self.file.nodes() {
            let thing = &world.objects[&format!("node/{}", node.name)];
            assert_eq!(thing.power, PowerState::Running);
            let seed = NodeSeed::parse(thing.seed.as_ref().unwrap().as_bytes()).unwrap();
            let known = status.node(&node.name).unwrap();
            assert_eq!(known.registry, RegistryState::Issued);
            assert_eq!(known.ticket.as_ref().unwrap().ticket, seed.claim.ticket().unwrap().public_key());
            assert_eq!((known.generation, seed.claim.pin()), (1, made.coordinator.pin()));
        }
    }

    fn assert_gone(&self) {
        assert!(self.world().objects.is_empty(), "{:?}", self.world().objects.keys());
        assert!(!self.state().cluster(self.file.name()).path().exists());
    }
}

/// A node's machine, without the machine: one connection, as its agent has.
struct Booted {
    http: reqwest::Client,
    base: String,
    key: Fingerprint,
}

impl Booted {
    fn new(made: &Made, identity: &Identity) -> Self {
        let config = tls::client_config(identity, made.coordinator.pin()).unwrap();
        let http = reqwest::Client::builder().tls_backend_preconfigured(config).no_proxy().build().unwrap();
        let base = format!("https://{}", made.server.local_addr());
        Self { http, base, key: identity.fingerprint() }
    }

    async fn say(&self, path: &str, body: &impl serde::Serialize) {
        let answer = self.http.post(format!("{}{path}", self.base)).json(body).send().await.unwrap();
        let status = answer.status();
        // Read to its end, so that the connection serves the next request too.
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
    }

    /// Whether it may start k3s.
    async fn passes(&self) -> bool {
        let clock = Timestamp::now().as_second();
        let request = GateRequest { incarnation: Incarnation(1), clock };
        let url = format!("{}{}", self.base, kiln_protocol::api::GATE);
        let answer = self.http.post(url).json(&request).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
        answer.json::<GateAnswer>().await.unwrap() == GateAnswer::Go
    }

    /// What it gets when it asks for its configuration.
    async fn configuration(&self) -> u16 {
        let url = format!("{}{}", self.base, kiln_protocol::api::CONFIG);
        let answer = self.http.get(url).send().await.unwrap();
        let status = answer.status().as_u16();
        answer.bytes().await.unwrap();
        status
    }
}

/// The node of that name enrols with the seed it was given and says it is ready.
async fn boot(lab: &Lab, made: &Made, node: &str) -> Booted {
    let text = lab.world().objects[&format!("node/{node}")].seed.clone().unwrap();
    let seed = NodeSeed::parse(text.as_bytes()).unwrap();
    let ticket = seed.claim.ticket().unwrap();
    let identity = Identity::generate().unwrap();
    let booted = Booted::new(made, &identity);
    let proof = ticket.prove(&identity.fingerprint());
    let request = EnrolRequest { ticket: ticket.public_key(), proof, facts: Facts::default() };
    booted.say(kiln_protocol::api::ENROL, &request).await;
    let turn = Turn { cur: Notch::random(), next: Notch::random() };
    booted.say(kiln_protocol::api::OPEN, &OpenRequest::new(turn, None)).await;
    let report = Report {
        boot_id: "b".into(),
        sequence: 1,
        uptime_ms: 1000,
        step: Step::Ready,
        state: StepState::Done,
        facts: None,
        usage: None,
    };
    booted.say(kiln_protocol::api::REPORT, &report).await;
    booted
}

#[tokio::test]
async fn a_server_gets_its_secrets_once_its_console_was_read_and_a_thief_of_its_ticket_never() {
    for thief in [false, true] {
        let mut lab = Lab::new();
        lab.fake.console = true;
        let (context, made) = lab.make(&Faults::default()).await.unwrap();
        let enrolled = boot(&lab, &made, "s1").await;
        assert_eq!(enrolled.configuration().await, 403);
        let confirm = async || {
            let status = made.coordinator.status().await.unwrap();
            let confirmed =
                watch::confirm_consoles(&context.provider, &made.coordinator, &made.nodes, &status);
            confirmed.await.unwrap();
            made.coordinator.status().await.unwrap().node(&"s1".parse().unwrap()).unwrap().registry
        };
        assert_eq!(confirm().await, RegistryState::Bound, "the console says nothing yet");
        assert_eq!(enrolled.configuration().await, 403);
        let shown = if thief { Booted::new(&made, &Identity::generate().unwrap()) } else { enrolled };
        lab.world().consoles.insert("s1".parse().unwrap(), shown.key);
        let (registry, answer) = if thief { (RegistryState::Held, 403) } else { (RegistryState::Bound, 200) };
        assert_eq!(confirm().await, registry);
        assert_eq!(shown.configuration().await, answer);
    }
}

#[tokio::test]
async fn making_twice_makes_once() {
    let lab = Lab::new();
    let (context, made) = lab.make(&Faults::default()).await.unwrap();
    lab.assert_up(&made).await;
    assert!(made.nodes.iter().all(|up| up.started));
    drop((context, made));
    let (_context, again) = lab.make(&Faults::default()).await.unwrap();
    lab.assert_up(&again).await;
    assert!(again.nodes.iter().all(|up| !up.started && up.drift.is_empty()));
    assert_eq!((lab.world().nodes_made, again.incarnation.0), (2, 1));
}

#[tokio::test]
async fn a_run_killed_at_any_point_is_finished_by_the_next() {
    let all = Faults::default();
    Lab::new().make(&all).await.unwrap();
    assert!(all.passed() > 20, "only {} points", all.passed());
    for point in 1..=all.passed() {
        let lab = Lab::new();
        let error = lab.make(&Faults::die_at(point)).await.map(|_| ()).unwrap_err();
        assert!(error.chain().any(<dyn std::error::Error>::is::<Killed>), "point {point}: {error:#}");
        let (_context, made) = lab.make(&Faults::default()).await.unwrap();
        lab.assert_up(&made).await;
        assert_eq!(lab.world().nodes_made, 2, "point {point} made a node twice");
    }
}

#[tokio::test]
async fn a_run_killed_at_any_point_is_removed_by_down() {
    let all = Faults::default();
    Lab::new().make(&all).await.unwrap();
    for point in 1..=all.passed() {
        let lab = Lab::new();
        lab.make(&Faults::die_at(point)).await.map(|_| ()).unwrap_err();
        assert_eq!(lab.down(&Faults::default()).await.unwrap(), [] as [String; 0], "point {point}");
        lab.assert_gone();
    }
}

#[tokio::test]
async fn a_down_killed_at_any_point_is_finished_by_the_next_down_or_up() {
    let all = Faults::default();
    let lab = Lab::new();
    drop(lab.make(&Faults::default()).await.unwrap());
    lab.down(&all).await.unwrap();
    lab.assert_gone();
    assert_eq!(lab.down(&Faults::default()).await.unwrap(), [] as [String; 0]);
    for point in 1..=all.passed() {
        for finish_with_up in [false, true] {
            let lab = Lab::new();
            drop(lab.make(&Faults::default()).await.unwrap());
            let died = lab.down(&Faults::die_at(point)).await;
            assert!(died.is_err() || !died.unwrap().is_empty(), "point {point} was not reached");
            if finish_with_up {
                let (_context, made) = lab.make(&Faults::default()).await.unwrap();
                lab.assert_up(&made).await;
            } else {
                assert_eq!(lab.down(&Faults::default()).await.unwrap(), [] as [String; 0]);
                lab.assert_gone();
            }
        }
    }
}

#[tokio::test]
async fn a_failed_run_undoes_what_it_made_and_nothing_else() {
    let lab = Lab::new();
    let (context, made) = lab.make(&Faults::default()).await.unwrap();
    drop(made);
    // The run that began the cluster takes all of it away again.
    assert_eq!(undo(context).await, [] as [String; 0]);
    lab.assert_gone();
    // One that adds a node takes that node away.
    drop(lab.make(&Faults::default()).await.unwrap());
    lab.world().objects.remove("node/a1");
    let (context, made) = lab.make(&Faults::default()).await.unwrap();
    assert!(lab.world().objects.contains_key("node/a1"));
    drop(made);
    assert_eq!(undo(context).await, [] as [String; 0]);
    let left: Vec<String> = lab.world().objects.keys().cloned().collect();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(!left.contains(&"node/a1".to_owned()), "{left:?}");
}

#[tokio::test]
async fn somebody_elses_object_is_left_alone() {
    let lab = Lab::new();
    drop(lab.make(&Faults::default()).await.unwrap());
    lab.world().objects.get_mut("node/a1").unwrap().record.owner = "00000000000000bb".parse().unwrap();
    let error = lab.make(&Faults::default()).await.map(|_| ()).unwrap_err();
    assert!(format!("{error:#}").contains("stands in the way"), "{error:#}");
    let left = lab.down(&Faults::default()).await.unwrap();
    assert!(left[0].contains("another installation"), "{left:?}");
    assert!(lab.world().objects.contains_key("node/a1"));
}

#[tokio::test]
async fn ready_nodes_are_left_alone_and_their_tickets_are_gone() {
    let lab = Lab::new();
    let (mut context, made) = lab.make(&Faults::default()).await.unwrap();
    for node in ["s1", "a1"] {
        boot(&lab, &made, node).await;
    }
    let mut screen = Screen::told(|_| {});
    let mut board = Board::new(&lab.file, context.dir.status(), &mut screen);
    let provider = context.provider.clone();
    let order = lab.order();
    watch::until_ready(&provider, &made.coordinator, &made.nodes, &mut board, order.deadline).await.unwrap();
    spend_tickets(&mut context, &order, &made.nodes).await.unwrap();
    let journal = std::fs::read_to_string(context.dir.journal()).unwrap();
    assert!(!journal.contains("seed"), "{journal}");
    assert!(lab.world().objects.values().all(|thing| thing.seed.is_none()));
    made.server.shutdown().await;
    drop((context, made.coordinator));
    // A node that is off is switched on; nothing is made and no ticket given.
    lab.world().objects.get_mut("node/a1").unwrap().power = PowerState::Off;
    let (_context, again) = lab.make(&Faults::default()).await.unwrap();
    assert_eq!(again.nodes.iter().map(|up| up.started).collect::<Vec<_>>(), [false, true]);
    assert_eq!(lab.world().nodes_made, 2);
    assert!(lab.world().objects.values().all(|thing| thing.seed.is_none()));
    assert!(again.coordinator.status().await.unwrap().all_ready());
}

#[tokio::test]
async fn an_agent_whose_machine_is_gone_gets_a_new_generation() {
    let lab = Lab::new();
    let (context, made) = lab.make(&Faults::default()).await.unwrap();
    for node in ["s1", "a1"] {
        boot(&lab, &made, node).await;
    }
    made.server.shutdown().await;
    drop((context, made.coordinator));
    lab.world().objects.remove("node/a1");
    let (_context, again) = lab.make(&Faults::default()).await.unwrap();
    let status = again.coordinator.status().await.unwrap();
    let a1 = status.node(&"a1".parse().unwrap()).unwrap();
    assert_eq!(a1.ticket.as_ref().unwrap().generation, 2);
    boot(&lab, &again, "a1").await;
    let status = again.coordinator.status().await.unwrap();
    assert_eq!(status.node(&"a1".parse().unwrap()).unwrap().generation, 2);
}

/// A cluster whose only server was ready, and is gone.
async fn lost() -> Lab {
    let lab = Lab::new();
    let (context, made) = lab.make(&Faults::default()).await.unwrap();
    let server = boot(&lab, &made, "s1").await;
    assert!(server.passes().await);
    made.server.shutdown().await;
    drop((context, made.coordinator));
    lab.world().objects.remove("node/s1");
    lab
}

#[tokio::test]
async fn a_sole_server_that_is_gone_is_made_anew_at_the_operators_word_only() {
    let mut lab = lost().await;
    let refusal = format!("{:#}", lab.make(&Faults::default()).await.map(|_| ()).unwrap_err());
    assert!(refusal.contains("--restore FILE") && refusal.contains("--discard-data"), "{refusal}");
    assert!(!lab.world().objects.contains_key("node/s1"), "nothing was touched");
    lab.data = Some(Data::Discard);
    let (_context, made) = lab.make(&Faults::default()).await.unwrap();
    let s1 = "s1".parse().unwrap();
    let status = made.coordinator.status().await.unwrap();
    assert_eq!(status.node(&s1).unwrap().ticket.as_ref().unwrap().generation, 2);
    let again = boot(&lab, &made, "s1").await;
    assert_eq!(again.configuration().await, 200);
    let events = made.coordinator.events(0, 1000).await.unwrap();
    assert!(events.iter().any(|event| event.what == "replace" && event.detail.contains("without data")));
}

#[tokio::test]
async fn a_sole_server_begins_with_the_copy_that_was_named() {
    let mut lab = lost().await;
    let copy = lab.dir.path().join("state.db");
    lab.data = Some(Data::Restore(copy.clone()));
    std::fs::write(&copy, "no database").unwrap();
    let refusal = format!("{:#}", lab.make(&Faults::default()).await.map(|_| ()).unwrap_err());
    assert!(refusal.contains("is no SQLite database"), "{refusal}");
    assert!(!lab.world().objects.contains_key("node/s1"), "nothing was made");
    std::fs::write(&copy, b"SQLite format 3\0 and so on").unwrap();
    let (_context, made) = lab.make(&Faults::default()).await.unwrap();
    let events = made.coordinator.events(0, 1000).await.unwrap();
    let begins = format!("s1 begins with the datastore in {}", copy.display());
    assert!(events.iter().any(|event| event.what == "replace" && event.detail == begins));
}

#[tokio::test]
async fn a_run_that_gives_up_data_and_is_killed_anywhere_is_finished_by_the_next() {
    let all = Faults::default();
    let mut lab = lost().await;
    lab.data = Some(Data::Discard);
    lab.make(&all).await.unwrap();
    for point in 1..=all.passed() {
        let mut lab = lost().await;
        lab.data = Some(Data::Discard);
        lab.make(&Faults::die_at(point)).await.map(|_| ()).unwrap_err();
        // Told again, or not: the word may have been heard already.
        let told_again = match lab.make(&Faults::default()).await {
            Err(error) => {
                let said = format!("{error:#}");
                assert!(said.contains("run `builder up` without it"), "point {point}: {said}");
                false
            }
            Ok(made) => {
                drop(made);
                true
            }
        };
        lab.data = None;
        let (_context, made) = lab.make(&Faults::default()).await.unwrap();
        let again = boot(&lab, &made, "s1").await;
        assert_eq!(again.configuration().await, 200, "point {point}, told again: {told_again}");
    }
}

#[tokio::test]
async fn data_that_is_not_lost_is_not_given_up() {
    let mut lab = Lab::new();
    lab.data = Some(Data::Discard);
    let refusal = format!("{:#}", lab.make(&Faults::default()).await.map(|_| ()).unwrap_err());
    assert!(refusal.contains("--discard-data is for a cluster whose only server is gone"), "{refusal}");
    let mut lab = Lab::new();
    let (context, made) = lab.make(&Faults::default()).await.unwrap();
    boot(&lab, &made, "s1").await;
    made.server.shutdown().await;
    drop((context, made.coordinator));
    lab.data = Some(Data::Discard);
    let refusal = format!("{:#}", lab.make(&Faults::default()).await.map(|_| ()).unwrap_err());
    assert!(refusal.contains("server s1 is there"), "{refusal}");
}

/// Whether the cluster's secrets are still worth something.
async fn is_live(lab: &Lab) -> bool {
    let context =
        Context::open(&lab.state(), lab.file.name(), Provider::Fake(lab.fake.clone()), "look").unwrap();
    context.coordinator().await.unwrap().status().await.unwrap().live.is_some()
}

#[tokio::test]
async fn the_incarnation_ends_with_its_last_server_and_not_before() {
    for (stuck, live) in [("node/s1", true), ("node/a1", false), ("net", false)] {
        let lab = Lab::new();
        drop(lab.make(&Faults::default()).await.unwrap());
        lab.world().stuck = Some(stuck.to_owned());
        let left = lab.down(&Faults::default()).await.unwrap();
        assert_eq!(left.iter().filter(|left| left.contains("does not go away")).count(), 1, "{left:?}");
        assert_eq!(is_live(&lab).await, live, "{stuck} is left");
        // No `up` goes on with a cluster that is half gone.
        let refusal = format!("{:#}", lab.make(&Faults::default()).await.map(|_| ()).unwrap_err());
        assert!(refusal.contains("an earlier `down` of this cluster left"), "{refusal}");
        lab.world().stuck = None;
        assert_eq!(lab.down(&Faults::default()).await.unwrap(), [] as [String; 0]);
        lab.assert_gone();
    }
}

#[tokio::test]
async fn a_down_after_the_machines_went_away_by_themselves_ends_the_incarnation_too() {
    let lab = lost().await;
    lab.world().objects.remove("node/a1");
    lab.world().stuck = Some("net".to_owned());
    lab.down(&Faults::default()).await.unwrap();
    assert!(!is_live(&lab).await);
    lab.world().stuck = None;
    assert_eq!(lab.down(&Faults::default()).await.unwrap(), [] as [String; 0]);
    lab.assert_gone();
}

#[tokio::test]
async fn a_cluster_all_of_whose_servers_are_gone_is_not_waited_for() {
    let mut lab = Lab::new();
    let begin = FILE.find("[[node]]").unwrap();
    let server = &FILE[begin..FILE.find("[[node]]\nname = \"a1\"").unwrap()];
    let more = ["s2", "s3"].map(|name| server.replacen("s1", name, 1)).concat();
    lab.file = ClusterFile::parse(&format!("{FILE}{more}")).unwrap();
    let (context, made) = lab.make(&Faults::default()).await.unwrap();
    for node in ["s1", "s2", "s3"] {
        let booted = boot(&lab, &made, node).await;
        assert!(booted.passes().await, "{node}");
    }
    made.server.shutdown().await;
    drop((context, made.coordinator));
    lab.world().objects.remove("node/s1");
    drop(lab.make(&Faults::default()).await.unwrap());
    for node in ["node/s1", "node/s2", "node/s3"] {
        lab.world().objects.remove(node);
    }
    let refusal = format!("{:#}", lab.make(&Faults::default()).await.map(|_| ()).unwrap_err());
    assert!(refusal.contains("every server of the cluster is gone"), "{refusal}");
}
