//! One suite for what must hold of every provider, run against the one in
//! memory: kill a run at every point it has, and the next one comes to the
//! same end.

mod data;
mod making;
mod removing;

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
        StateDir::resolve(Some(self.dir.path().join("kiln"))).unwrap()
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
        assert!(!self.state().recovery_key(self.file.name()).exists());
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
        let (status, text) = self.ask(path, body).await;
        assert!((200..300).contains(&status), "{path}: {status} {text}");
    }

    async fn ask(&self, path: &str, body: &impl serde::Serialize) -> (u16, String) {
        let answer = self.http.post(format!("{}{path}", self.base)).json(body).send().await.unwrap();
        // Read to its end, so that the connection serves the next request too.
        (answer.status().as_u16(), answer.text().await.unwrap())
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

/// What a machine with this key asks with the ticket of a seed.
fn enrolment(seed: &NodeSeed, identity: &Identity) -> EnrolRequest {
    let ticket = seed.claim.ticket().unwrap();
    let proof = ticket.prove(&identity.fingerprint());
    EnrolRequest { ticket: ticket.public_key(), proof, facts: Facts::default() }
}

/// The node of that name enrols with the seed it was given and says it is ready.
async fn boot(lab: &Lab, made: &Made, node: &str) -> Booted {
    let text = lab.world().objects[&format!("node/{node}")].seed.clone().unwrap();
    let seed = NodeSeed::parse(text.as_bytes()).unwrap();
    let identity = Identity::generate().unwrap();
    let booted = Booted::new(made, &identity);
    let request = enrolment(&seed, &identity);
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
