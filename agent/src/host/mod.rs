//! What the agent does to the machine it runs on, other than writing files.
//!
//! [`Host`] is the seam between the state machine and the system: the tests
//! have one that remembers what it was asked for.

pub(crate) mod etcd;
mod ping;
pub(crate) mod token;

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kiln_protocol::chores::EtcdMember;
use kiln_protocol::names::{K3sVersion, SshPublicKey, UserName};
use kiln_protocol::seed::{NodeSeed, SshUser, StaticAddress};
use kiln_protocol::{NodeName, Role, Secret};
use tokio::sync::OnceCell;

use crate::apply::{self, hostname, labels, network, users};
use crate::facts;
use crate::process;
use crate::root::Root;
use crate::seed::{self, Baked, Credentials, NoCloud, Search, Source};
use crate::systemd::{Systemd, Verdict, last_words};

const K3S: &str = "/usr/local/bin/k3s";
/// How long a unit's last words count as its last.
const WORDS_KEPT: Duration = Duration::from_secs(30);
/// k3s unpacks itself at its first call.
const VERSION_DEADLINE: Duration = Duration::from_secs(60);

/// How k3s is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Ready,
    /// Not yet; with what is missing.
    Waiting(String),
    /// It failed, and systemd may be trying again; with the reason.
    Down(String),
}

/// The machine.
#[expect(async_fn_in_trait, reason = "everything runs on one thread, so no future has to be Send")]
pub trait Host {
    /// Looks once for a seed that `fits`.
    fn find_seed(&self, fits: &dyn Fn(&NodeSeed) -> bool) -> Search;
    /// Gives the running kernel a host name.
    fn set_hostname(&self, name: &NodeName) -> Result<()>;
    /// Gives cards static addresses; returns once they have them.
    async fn set_addresses(&self, wanted: &[StaticAddress]) -> Result<()>;
    /// Whether cards have been given these addresses already.
    fn has_addresses(&self, wanted: &[StaticAddress]) -> bool;
    /// The static addresses that cards were given.
    fn static_addresses(&self) -> Result<Vec<StaticAddress>>;
    /// Gives cards what they had `before` they were given `tried`: addresses, or
    /// what the network tells them.
    async fn take_back(&self, tried: &[StaticAddress], before: &[StaticAddress]) -> Result<()>;
    /// Every address and its interface.
    fn addresses(&self) -> Vec<(String, IpAddr)>;
    /// Makes a login.
    fn add_user(&self, user: &SshUser) -> Result<()>;
    /// Takes keys of a login away; the login stays.
    fn remove_keys(&self, user: &UserName, keys: &[SshPublicKey]) -> Result<()>;
    /// Whether SELinux is on.
    fn selinux(&self) -> bool;
    /// Gives what was written below these paths its SELinux label.
    fn label(&self, paths: &[PathBuf]);
    /// The k3s that is installed.
    async fn k3s_version(&self) -> Result<K3sVersion>;
    /// Queues the start of k3s.
    async fn start_k3s(&self, role: Role) -> Result<()>;
    /// Looks at k3s once.
    async fn k3s_health(&self, role: Role) -> Result<Health>;
    /// Returns when k3s may have changed, or after `at_most`.
    async fn k3s_changed(&self, role: Role, at_most: Duration);
    /// Makes k3s start with the system.
    async fn enable_k3s(&self, role: Role) -> Result<()>;
    /// Runs `k3s kubectl` with these arguments and this input; what it printed.
    /// The arguments hold no secret.
    async fn kubectl(&self, args: &[&str], input: Option<&str>, time: Duration) -> Result<String>;
    /// Who is in the etcd of this server.
    async fn etcd_members(&self) -> Result<Vec<EtcdMember>>;
    /// Has the k3s of this server, which is under one of `candidates`, take `new`
    /// for its server token.
    async fn change_server_token(&self, candidates: &[Secret], new: &Secret) -> Result<()>;
}

/// This machine, with systemd, NetworkManager and k3s.
#[derive(Debug)]
pub struct ThisMachine<'a> {
    root: &'a Root,
    seeds: Vec<Box<dyn Source>>,
    bus: OnceCell<zbus::Connection>,
    systemd: OnceCell<Systemd>,
    words: RefCell<Option<(Instant, String)>>,
}

impl<'a> ThisMachine<'a> {
    /// `root` is `/`.
    pub fn new(root: &'a Root) -> Self {
        Self {
            root,
            seeds: vec![
                Box::new(Credentials::default()),
                Box::new(NoCloud::default()),
                Box::new(Baked::default()),
            ],
            bus: OnceCell::new(),
            systemd: OnceCell::new(),
            words: RefCell::default(),
        }
    }

    async fn bus(&self) -> Result<&zbus::Connection> {
        let connect = || async { zbus::Connection::system().await.context("connecting to the system bus") };
        self.bus.get_or_try_init(connect).await
    }

    /// What a unit logged last. Not looked up each time: that takes longer
    /// than everything else here together.
    async fn last_words(&self, unit: &str) -> String {
        if let Some((asked, words)) = &*self.words.borrow()
            && asked.elapsed() < WORDS_KEPT
        {
            return words.clone();
        }
        let words = last_words(unit).await;
        self.words.replace(Some((Instant::now(), words.clone())));
        words
    }

    async fn systemd(&self) -> Result<&Systemd> {
        let connect = || async { Systemd::connect(self.bus().await?).await };
        self.systemd.get_or_try_init(connect).await
    }
}

impl Host for ThisMachine<'_> {
    fn find_seed(&self, fits: &dyn Fn(&NodeSeed) -> bool) -> Search {
        seed::search(&self.seeds, fits)
    }

    fn set_hostname(&self, name: &NodeName) -> Result<()> {
        hostname::set(name)
    }

    async fn set_addresses(&self, wanted: &[StaticAddress]) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        network::apply(self.root, self.bus().await?, wanted).await
    }

    fn has_addresses(&self, wanted: &[StaticAddress]) -> bool {
        network::is_applied(self.root, wanted)
    }

    fn static_addresses(&self) -> Result<Vec<StaticAddress>> {
        network::present(self.root)
    }

    async fn take_back(&self, tried: &[StaticAddress], before: &[StaticAddress]) -> Result<()> {
        network::take_back(self.root, self.bus().await?, tried, before).await
    }

    fn addresses(&self) -> Vec<(String, IpAddr)> {
        facts::addresses()
    }

    fn add_user(&self, user: &SshUser) -> Result<()> {
        let written = users::apply(user)?;
        self.label(&[written]);
        Ok(())
    }

    fn remove_keys(&self, user: &UserName, keys: &[SshPublicKey]) -> Result<()> {
        self.label(users::remove(user, keys)?.as_slice());
        Ok(())
    }

    fn selinux(&self) -> bool {
        labels::selinux_is_on(self.root)
    }

    fn label(&self, paths: &[PathBuf]) {
        labels::restore(self.root, paths);
    }

    async fn k3s_version(&self) -> Result<K3sVersion> {
        let mut command = process::command(K3S);
        command.arg("--version");
        let text =
            process::run_within(command, VERSION_DEADLINE).await.context("asking k3s for its version")?;
        apply::k3s::version_in(&text).with_context(|| {
            format!("k3s does not tell its version: {:?}", text.lines().next().unwrap_or(""))
        })
    }

    async fn start_k3s(&self, role: Role) -> Result<()> {
        self.systemd().await?.start(apply::k3s::unit(role)).await
    }

    async fn k3s_health(&self, role: Role) -> Result<Health> {
        let unit = apply::k3s::unit(role);
        let state = self.systemd().await?.state(unit).await?;
        Ok(match (state.verdict(), role) {
            (Verdict::Starting, _) => Health::Waiting(format!("{unit} is starting")),
            (Verdict::Down(reason), _) => Health::Down(format!(
                "{unit} is down: {reason}; its log ends: {}",
                self.last_words(unit).await
            )),
            (Verdict::Up, Role::Agent) => Health::Ready,
            (Verdict::Up, Role::Server) => match ping::ping(self.root).await {
                Ok(()) => Health::Ready,
                Err(error) => Health::Waiting(format!("k3s does not answer yet: {error:#}")),
            },
        })
    }

    async fn k3s_changed(&self, role: Role, at_most: Duration) {
        match self.systemd().await {
            Ok(systemd) => systemd.changed(apply::k3s::unit(role), at_most).await,
            Err(_) => tokio::time::sleep(at_most).await,
        }
    }

    async fn enable_k3s(&self, role: Role) -> Result<()> {
        self.systemd().await?.enable(apply::k3s::unit(role)).await?;
        // systemd makes the link and does not sync it.
        self.root.sync(&["/etc"])
    }

    async fn kubectl(&self, args: &[&str], input: Option<&str>, time: Duration) -> Result<String> {
        let mut command = process::command(K3S);
        command.arg("kubectl").args(args);
        match input {
            Some(input) => process::run_fed(command, input, time).await,
            None => process::run_within(command, time).await,
        }
    }

    async fn etcd_members(&self) -> Result<Vec<EtcdMember>> {
        etcd::members(self.root).await
    }

    async fn change_server_token(&self, candidates: &[Secret], new: &Secret) -> Result<()> {
        token::change(self.root, candidates, new).await
    }
}
