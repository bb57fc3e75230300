//! A coordinator on a port of the loopback interface, and agents that each run
//! in a thread of their own, as if in a process of their own, over a root
//! directory that outlives them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::Timestamp;
use kiln_agent::host::{Health, Host};
use kiln_agent::progress::Console;
use kiln_agent::retry::Pace;
use kiln_agent::root::Root;
use kiln_agent::run::{Node, Outcome};
use kiln_agent::seed::Search;
use kiln_coordinator::plan::ClusterFile;
use kiln_coordinator::{Coordinator, Server, UnlockFile};
use kiln_protocol::admin::{Hints, TicketRecord};
use kiln_protocol::chores::EtcdMember;
use kiln_protocol::names::{K3sVersion, SshPublicKey, UserName};
use kiln_protocol::seed::{Contact, NodeSeed, SshUser, StaticAddress};
use kiln_protocol::ticket::TicketSeed;
use kiln_protocol::{Fingerprint, NodeName, Role, Secret, Ticket};
use kiln_tests::chaos::{Chaos, Faults};
use kiln_tests::cluster::SERVER_AND_AGENT;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);
const HOUR: Duration = Duration::from_secs(3600);

/// Waits short enough for a test, in the proportions of the real ones.
const PACE: Pace = Pace {
    first: Duration::from_millis(20),
    longest: Duration::from_millis(200),
    operator: Duration::from_millis(400),
    later_boot: PATIENCE,
    look: Duration::from_millis(10),
    k3s: PATIENCE,
};

/// A coordinator with a cluster of one server and one agent.
pub(crate) struct World {
    state: TempDir,
    address: SocketAddr,
    /// Where its nodes are told to look for it.
    advertised: SocketAddr,
    pin: Fingerprint,
    running: Option<(Coordinator, Server)>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("coordinator");
        Coordinator::init(&path).unwrap();
        let coordinator = Coordinator::open(&path).await.unwrap();
        coordinator.apply(&ClusterFile::parse(SERVER_AND_AGENT).unwrap()).await.unwrap();
        let server = coordinator.serve(TcpListener::bind("127.0.0.1:0").await.unwrap()).await.unwrap();
        let (address, pin) = (server.local_addr(), coordinator.pin());
        Self { state, address, advertised: address, pin, running: Some((coordinator, server)) }
    }

    /// One that nodes reach over a network that does its worst.
    pub(crate) async fn behind(faults: Faults, seed: u64) -> (Self, Chaos) {
        let world = Self::new().await;
        let chaos = Chaos::start(world.address, faults, seed).await.unwrap();
        (Self { advertised: chaos.address(), ..world }, chaos)
    }

    /// Puts the cluster file in force with `edit` made to it.
    pub(crate) async fn apply_edited(&self, from: &str, to: &str) {
        assert!(SERVER_AND_AGENT.contains(from));
        let file = ClusterFile::parse(&SERVER_AND_AGENT.replacen(from, to, 1)).unwrap();
        self.coordinator().apply(&file).await.unwrap();
    }

    pub(crate) fn coordinator(&self) -> &Coordinator {
        &self.running.as_ref().expect("the coordinator runs").0
    }

    pub(crate) async fn stop(&mut self) {
        let (coordinator, server) = self.running.take().expect("the coordinator runs");
        server.shutdown().await;
        drop(coordinator);
    }

    /// At the same address, with the same state.
    pub(crate) async fn start(&mut self) {
        let coordinator = Coordinator::open(&self.state.path().join("coordinator")).await.unwrap();
        let server = coordinator.serve(TcpListener::bind(self.address).await.unwrap()).await.unwrap();
        self.running = Some((coordinator, server));
    }

    pub(crate) fn unregistered_ticket(&self) -> Ticket {
        Ticket::new(vec![self.advertised.to_string().parse().unwrap()], self.pin, TicketSeed::generate())
            .unwrap()
    }

    /// A registered ticket for a node.
    pub(crate) async fn ticket(&self, node: &str, not_before: Timestamp, expires: Timestamp) -> Ticket {
        let ticket = self.unregistered_ticket();
        self.register(&ticket, node, not_before, expires, false).await;
        ticket
    }

    /// A valid ticket of a machine whose console is read.
    pub(crate) async fn console_ticket(&self, node: &str) -> Ticket {
        let ticket = self.unregistered_ticket();
        self.register(&ticket, node, Timestamp::now() - HOUR, Timestamp::now() + HOUR, true).await;
        ticket
    }

    /// A seed without a ticket.
    pub(crate) fn contact(&self) -> NodeSeed {
        let addresses = vec![self.advertised.to_string().parse().unwrap()];
        NodeSeed::without_ticket(Contact::new(addresses, self.pin).unwrap())
    }

    async fn register(
        &self,
        ticket: &Ticket,
        node: &str,
        not_before: Timestamp,
        expires: Timestamp,
        confirm_console: bool,
    ) {
        let role = if node.starts_with('s') { Role::Server } else { Role::Agent };
        let (node, hints) = (node.parse().unwrap(), Hints::default());
        let record = TicketRecord { node, generation: 1, role, not_before, expires, confirm_console, hints };
        // A coordinator that is down is opened for the moment it takes.
        let closed = match &self.running {
            Some(_) => None,
            None => Some(Coordinator::open(&self.state.path().join("coordinator")).await.unwrap()),
        };
        let coordinator = closed.as_ref().unwrap_or_else(|| self.coordinator());
        coordinator.mint(ticket.public_key(), record).await.unwrap();
    }

    pub(crate) async fn valid_ticket(&self, node: &str) -> Ticket {
        self.ticket(node, Timestamp::now() - HOUR, Timestamp::now() + HOUR).await
    }

    /// A valid ticket for the machine that is to take a node's place.
    pub(crate) async fn ticket_of_generation(&self, node: &str, generation: u32) -> Ticket {
        let ticket = self.unregistered_ticket();
        let role = if node.starts_with('s') { Role::Server } else { Role::Agent };
        let record = TicketRecord {
            node: node.parse().unwrap(),
            generation,
            role,
            not_before: Timestamp::now() - HOUR,
            expires: Timestamp::now() + HOUR,
            confirm_console: false,
            hints: Hints::default(),
        };
        self.coordinator().mint(ticket.public_key(), record).await.unwrap();
        ticket
    }

    /// The state as it is now, in a file.
    pub(crate) async fn backup(&self) -> PathBuf {
        let file = self.state.path().join("backup");
        self.coordinator().backup(&file).await.unwrap();
        file
    }

    /// Loses the state, and goes on with a copy of it.
    pub(crate) async fn restore(&mut self, file: &Path) {
        self.stop().await;
        let path = self.state.path().join("coordinator");
        fs::remove_dir_all(&path).unwrap();
        Coordinator::restore(file, &path, &UnlockFile::beside(&path)).unwrap();
        self.start().await;
    }

    /// A valid ticket of this coordinator that leads to another one.
    pub(crate) async fn ticket_for_address_of(&self, other: &Self, node: &str) -> Ticket {
        let seed = TicketSeed::generate();
        let ticket = Ticket::new(vec![other.address.to_string().parse().unwrap()], self.pin, seed).unwrap();
        self.register(&ticket, node, Timestamp::now() - HOUR, Timestamp::now() + HOUR, false).await;
        ticket
    }

    /// An agent with a valid ticket.
    pub(crate) async fn agent(&self, node: &str) -> Agent {
        Agent::with(self.valid_ticket(node).await)
    }
}

/// What outlives an agent's process: a disk, a seed, and what systemd does.
struct Machine {
    disk: TempDir,
    seed: Search,
    /// What an operator adds, behind that.
    added: Mutex<Option<NodeSeed>>,
    systemd: Mutex<Units>,
}

#[derive(Default)]
struct Units {
    starts: usize,
    /// Command lines of kubectl, and what it was given to read.
    kubectl: Vec<(String, String)>,
    addresses: Vec<IpAddr>,
    /// What k3s was given in place of the token that it was started with.
    server_token: Option<Secret>,
    /// Who may log in, with which keys.
    logins: BTreeMap<String, BTreeSet<String>>,
}

impl Machine {
    fn new(seed: Search) -> Arc<Self> {
        let disk = tempfile::tempdir().unwrap();
        for folder in ["etc", "run", "var/lib"] {
            fs::create_dir_all(disk.path().join(folder)).unwrap();
        }
        Arc::new(Self { disk, seed, added: Mutex::default(), systemd: Mutex::default() })
    }

    fn units(&self) -> MutexGuard<'_, Units> {
        self.systemd.lock().unwrap()
    }

    fn console(&self) -> PathBuf {
        self.disk.path().join("console")
    }
}

/// The seam below the agent: the machine, in memory.
struct InMemory(Arc<Machine>);

impl Host for InMemory {
    fn find_seed(&self, fits: &dyn Fn(&NodeSeed) -> bool) -> Search {
        match self.0.seed.clone() {
            Search::Found(seed, _) if !fits(&seed) => match self.0.added.lock().unwrap().clone() {
                Some(added) if fits(&added) => Search::Found(Box::new(added), "a volume"),
                _ => Search::Nothing(Vec::new()),
            },
            found => found,
        }
    }
    fn set_hostname(&self, _name: &NodeName) -> Result<()> {
        Ok(())
    }
    async fn set_addresses(&self, wanted: &[StaticAddress]) -> Result<()> {
        self.0.units().addresses = wanted.iter().map(|wanted| wanted.address.addr()).collect();
        Ok(())
    }
    fn has_addresses(&self, wanted: &[StaticAddress]) -> bool {
        wanted.iter().all(|wanted| self.0.units().addresses.contains(&wanted.address.addr()))
    }
    fn static_addresses(&self) -> Result<Vec<StaticAddress>> {
        // No test gives a machine any before its configuration does.
        Ok(Vec::new())
    }
    async fn take_back(&self, _tried: &[StaticAddress], before: &[StaticAddress]) -> Result<()> {
        self.set_addresses(before).await
    }
    fn addresses(&self) -> Vec<(String, IpAddr)> {
        // DHCP was there before the agent, as on most networks.
        let dhcp = ("eth0".to_owned(), IpAddr::from([10, 0, 2, 15]));
        let given = self.0.units().addresses.clone().into_iter().map(|address| ("eth1".to_owned(), address));
        std::iter::once(dhcp).chain(given).collect()
    }
    fn add_user(&self, user: &SshUser) -> Result<()> {
        let keys = user.authorized_keys.iter().map(|key| key.as_str().to_owned());
        self.0.units().logins.entry(user.name.to_string()).or_default().extend(keys);
        Ok(())
    }
    fn remove_keys(&self, user: &UserName, keys: &[SshPublicKey]) -> Result<()> {
        if let Some(login) = self.0.units().logins.get_mut(user.as_str()) {
            login.retain(|there| !keys.iter().any(|key| key.as_str() == there));
        }
        Ok(())
    }
    fn selinux(&self) -> bool {
        false
    }
    fn label(&self, _paths: &[PathBuf]) {}
    async fn k3s_version(&self) -> Result<K3sVersion> {
        Ok("v1.28.5+k3s1".parse()?)
    }
    async fn start_k3s(&self, _role: Role) -> Result<()> {
        self.0.units().starts += 1;
        Ok(())
    }
    async fn k3s_health(&self, _role: Role) -> Result<Health> {
        let started = self.0.units().starts > 0;
        Ok(if started { Health::Ready } else { Health::Waiting("not started".to_owned()) })
    }
    async fn k3s_changed(&self, _role: Role, at_most: Duration) {
        tokio::time::sleep(at_most).await;
    }
    async fn enable_k3s(&self, _role: Role) -> Result<()> {
        Ok(())
    }
    async fn kubectl(&self, args: &[&str], input: Option<&str>, _time: Duration) -> Result<String> {
        self.0.units().kubectl.push((args.join(" "), input.unwrap_or_default().to_owned()));
        Ok(String::new())
    }
    async fn etcd_members(&self) -> Result<Vec<EtcdMember>> {
        anyhow::bail!("there is no etcd in memory")
    }
    async fn change_server_token(&self, candidates: &[Secret], new: &Secret) -> Result<()> {
        let mut units = self.0.units();
        // It was started with the one that it finds.
        let present = units.server_token.clone().or_else(|| candidates.first().cloned());
        anyhow::ensure!(candidates.iter().any(|candidate| Some(candidate) == present.as_ref()));
        units.server_token = Some(new.clone());
        Ok(())
    }
}

/// An agent that runs.
pub(crate) struct Agent {
    machine: Arc<Machine>,
    stop: Option<oneshot::Sender<()>>,
    /// Set once it is ready; it then follows its configuration, and a server
    /// tends its cluster.
    is_ready: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    pub(crate) fn with(ticket: Ticket) -> Self {
        Self::start(Machine::new(Search::Found(Box::new(NodeSeed::new(ticket)), "a test")))
    }

    /// One whose only source of a seed holds this text.
    pub(crate) fn with_seed_text(text: &str) -> Self {
        let search = match NodeSeed::parse(text.as_bytes()) {
            Ok(seed) => Search::Found(Box::new(seed), "a test"),
            Err(error) => Search::Nothing(vec![format!("a test: {error}")]),
        };
        Self::start(Machine::new(search))
    }

    fn start(machine: Arc<Machine>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (inside, is_ready) = (machine.clone(), Arc::<AtomicBool>::default());
        let tell_ready = is_ready.clone();
        let thread = std::thread::spawn(move || {
            let root = Root::open(inside.disk.path()).unwrap();
            fs::File::options().create(true).append(true).open(inside.console()).unwrap();
            let console = Console::to(vec![inside.console()]);
            let host = InMemory(inside);
            let state = Node::<InMemory>::load(&root).unwrap();
            let node = Node::new(&root, &host, &console, PACE);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let life = async {
                    assert_eq!(node.run(state).await.unwrap(), Outcome::Ready);
                    tell_ready.store(true, Ordering::Relaxed);
                    let ready = Node::<InMemory>::load(&root).unwrap();
                    tokio::join!(node.follow(ready.clone()), node.tend(&ready));
                };
                tokio::select! {
                    () = life => {}
                    _ = stopped => {}
                }
            });
        });
        Self { machine, stop: Some(stop), is_ready, thread: Some(thread) }
    }

    /// The same machine after its agent was killed and started again.
    pub(crate) fn restarted(self) -> Self {
        let machine = self.machine.clone();
        drop(self);
        Self::start(machine)
    }

    /// Gives the machine another ticket, beside the one that it has.
    pub(crate) fn is_given(&self, ticket: Ticket) {
        self.machine.added.lock().unwrap().replace(NodeSeed::new(ticket));
    }

    /// Command lines of kubectl, and what it was given to read.
    pub(crate) fn kubectl(&self) -> Vec<(String, String)> {
        self.machine.units().kubectl.clone()
    }

    pub(crate) fn console(&self) -> String {
        fs::read_to_string(self.machine.console()).unwrap_or_default()
    }

    pub(crate) fn k3s_starts(&self) -> usize {
        self.machine.units().starts
    }

    /// The keys that may log in as a user.
    pub(crate) fn keys_of(&self, user: &str) -> usize {
        self.machine.units().logins.get(user).map_or(0, BTreeSet::len)
    }

    /// Waits until a user has so many keys.
    pub(crate) async fn has_keys(&self, user: &str, count: usize) {
        self.wait(|| self.keys_of(user) == count).await;
    }

    /// A file of its disk, if there is one.
    pub(crate) fn file(&self, path: &str) -> Option<Vec<u8>> {
        fs::read(self.machine.disk.path().join(path)).ok()
    }

    /// Every file of its disk: its path, whether somebody else than its owner
    /// may read it, and its content.
    pub(crate) fn files(&self) -> Vec<(String, bool, String)> {
        fn walk(dir: &Path, open: bool, found: &mut Vec<(String, bool, String)>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = fs::symlink_metadata(&path).unwrap();
                let others = meta.permissions().mode() & 0o077;
                if meta.is_dir() {
                    walk(&path, open && others & 0o011 != 0, found);
                } else if meta.is_file() {
                    let content = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                    found.push((path.display().to_string(), open && others & 0o044 != 0, content));
                }
            }
        }
        let mut found = Vec::new();
        walk(self.machine.disk.path(), true, &mut found);
        found
    }

    /// What k3s was given in place of the token that it was started with.
    pub(crate) fn server_token(&self) -> Option<String> {
        self.machine.units().server_token.as_ref().map(|token| token.expose().to_owned())
    }

    /// The text of all files below a directory of its disk.
    pub(crate) fn everything_below(&self, path: &str) -> String {
        let read = |file: PathBuf| String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
        kiln_tests::leftovers::files_below(&self.machine.disk.path().join(Path::new(path)))
            .into_iter()
            .map(read)
            .collect()
    }

    /// Waits until what the console said so far satisfies `condition`.
    pub(crate) async fn until(&self, condition: impl Fn(&str) -> bool) {
        self.wait(|| condition(&self.console())).await;
    }

    /// Waits until the node is ready.
    pub(crate) async fn ready(&self) {
        let thread = self.thread.as_ref().expect("the agent was started");
        self.wait(|| self.is_ready.load(Ordering::Relaxed) || thread.is_finished()).await;
        self.until(|seen| seen.contains("[ready]")).await;
    }

    /// Waits until the condition holds.
    pub(crate) async fn wait(&self, condition: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < end, "not within {PATIENCE:?}; the console says:\n{}", self.console());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panic was printed, and what it should have done is missed
            // by the test.
            let _ = thread.join();
        }
    }
}
