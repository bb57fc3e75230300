//! A machine that remembers what was done to it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use kiln_protocol::chores::EtcdMember;
use kiln_protocol::names::{K3sVersion, SshPublicKey, UserName};
use kiln_protocol::seed::{NodeSeed, SshUser, StaticAddress};
use kiln_protocol::{NodeName, Role, Secret};

use crate::apply::{k3s, token};
use crate::host::{Health, Host};
use crate::root::Root;
use crate::seed::Search;

/// A machine that remembers what was done to it.
#[derive(Debug)]
pub(in crate::run) struct FakeHost<'a> {
    root: &'a Root,
    pub(in crate::run) seed: RefCell<Search>,
    /// In sources behind that one.
    pub(in crate::run) more_seeds: RefCell<Vec<NodeSeed>>,
    /// Each change, in order.
    pub(in crate::run) log: RefCell<Vec<String>>,
    /// The card that is to have an address will not be there for so many tries.
    pub(in crate::run) no_card: Cell<u32>,
    /// Whether it has an address without anybody's doing.
    pub(in crate::run) dhcp: Cell<bool>,
    /// Taken one by one; after the last, k3s is up if it was started.
    pub(in crate::run) health: RefCell<VecDeque<Health>>,
    pub(in crate::run) k3s: RefCell<K3sVersion>,
    /// Survives reboots, as an enabled unit does.
    pub(in crate::run) enabled: Cell<bool>,
    pub(in crate::run) started: Cell<bool>,
    /// Its network leads nowhere.
    pub(in crate::run) cut_off: Arc<AtomicBool>,
    /// The static addresses that its cards were given.
    network: RefCell<Vec<StaticAddress>>,
    /// Its cards cannot be given back what they had.
    pub(in crate::run) no_way_back: Cell<bool>,
    /// What was given to kubectl to read.
    pub(in crate::run) fed: RefCell<Vec<String>>,
    /// What kubectl fails with.
    pub(in crate::run) kubectl_error: RefCell<Option<String>>,
    /// What its k3s takes for the server token; none if it does not answer.
    pub(in crate::run) datastore_token: RefCell<Option<Secret>>,
    /// It takes the next one, and that is not heard.
    pub(in crate::run) lose_token_answer: Cell<bool>,
}

/// A gateway behind which there is nothing.
pub(in crate::run) const NO_WAY_OUT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 254));

/// A card whose cable is not in: it takes no addresses.
pub(in crate::run) const NO_CABLE: &str = "52:54:00:00:00:01";

impl<'a> FakeHost<'a> {
    pub(in crate::run) fn new(root: &'a Root, seed: NodeSeed) -> Self {
        Self {
            root,
            seed: RefCell::new(Search::Found(Box::new(seed), "a test")),
            more_seeds: RefCell::default(),
            log: RefCell::default(),
            no_card: Cell::default(),
            dhcp: Cell::new(true),
            health: RefCell::default(),
            k3s: RefCell::new("v1.28.5+k3s1".parse().unwrap()),
            enabled: Cell::new(false),
            started: Cell::new(false),
            cut_off: Arc::default(),
            network: RefCell::default(),
            no_way_back: Cell::new(false),
            fed: RefCell::default(),
            kubectl_error: RefCell::default(),
            datastore_token: RefCell::new(Some(Secret::new("K10aa::server:s").unwrap())),
            lose_token_answer: Cell::new(false),
        }
    }

    /// Power off and on again: what is enabled starts.
    pub(in crate::run) fn reboot(&self) {
        self.started.set(self.enabled.get());
        self.health.borrow_mut().clear();
    }

    fn give(&self, addresses: &[StaticAddress]) {
        let cut = |one: &StaticAddress| one.gateway.is_some_and(|gateway| gateway == NO_WAY_OUT);
        self.cut_off.store(addresses.iter().any(cut), Ordering::Relaxed);
        self.network.replace(addresses.to_vec());
    }

    fn note(&self, what: String) {
        self.log.borrow_mut().push(what);
    }
}

impl Host for FakeHost<'_> {
    fn find_seed(&self, fits: &dyn Fn(&NodeSeed) -> bool) -> Search {
        let first = self.seed.borrow().clone();
        if matches!(&first, Search::Found(seed, _) if fits(seed)) {
            return first;
        }
        match self.more_seeds.borrow().iter().find(|seed| fits(seed)) {
            Some(seed) => Search::Found(Box::new(seed.clone()), "another source"),
            None if matches!(first, Search::Found(..)) => Search::Nothing(Vec::new()),
            None => first,
        }
    }
    fn set_hostname(&self, name: &NodeName) -> Result<()> {
        self.note(format!("hostname {name}"));
        Ok(())
    }
    async fn set_addresses(&self, wanted: &[StaticAddress]) -> Result<()> {
        if !wanted.is_empty() && self.no_card.get() > 0 {
            self.no_card.set(self.no_card.get() - 1);
            bail!("no network card has the address 52:54:00:00:00:02");
        }
        if wanted.iter().any(|one| one.mac.is_some_and(|mac| mac.to_string() == NO_CABLE)) {
            self.note(format!("nothing for {NO_CABLE}"));
            bail!("is its cable in?");
        }
        for one in wanted {
            let gateway = one.gateway.map_or(String::new(), |gateway| format!(" by {gateway}"));
            self.note(format!("address {}{gateway}", one.address));
        }
        self.give(wanted);
        Ok(())
    }
    fn has_addresses(&self, wanted: &[StaticAddress]) -> bool {
        wanted.is_empty() || *self.network.borrow() == wanted
    }
    fn static_addresses(&self) -> Result<Vec<StaticAddress>> {
        Ok(self.network.borrow().clone())
    }
    async fn take_back(&self, _tried: &[StaticAddress], before: &[StaticAddress]) -> Result<()> {
        if self.no_way_back.get() {
            self.note("no way back".to_owned());
            bail!("NetworkManager is not running");
        }
        if before.is_empty() {
            self.note("addresses by DHCP".to_owned());
            self.give(before);
        }
        self.set_addresses(before).await
    }
    fn addresses(&self) -> Vec<(String, IpAddr)> {
        let given = self.dhcp.get() || self.log.borrow().iter().any(|line| line.starts_with("address"));
        let loopback = ("lo".to_owned(), "127.0.0.1".parse().unwrap());
        let card = ("eth1".to_owned(), "10.77.0.11".parse().unwrap());
        std::iter::once(loopback).chain(given.then_some(card)).collect()
    }
    fn add_user(&self, user: &SshUser) -> Result<()> {
        self.note(format!("user {}", user.name));
        Ok(())
    }
    fn remove_keys(&self, user: &UserName, keys: &[SshPublicKey]) -> Result<()> {
        self.note(format!("user {user} loses {}", keys.len()));
        Ok(())
    }
    fn selinux(&self) -> bool {
        false
    }
    fn label(&self, _paths: &[PathBuf]) {}
    async fn k3s_version(&self) -> Result<K3sVersion> {
        Ok(self.k3s.borrow().clone())
    }
    async fn start_k3s(&self, role: Role) -> Result<()> {
        assert!(self.root.meta(k3s::CONFIG)?.is_some(), "k3s was started without its configuration");
        self.started.set(true);
        self.note(format!("start {role}"));
        Ok(())
    }
    async fn k3s_health(&self, role: Role) -> Result<Health> {
        let next = self.health.borrow_mut().pop_front();
        let found = token::present(self.root)?;
        if next.is_none() && self.started.get() && role == Role::Server {
            let datastore = self.datastore_token.borrow();
            if datastore.is_some() && *datastore != found {
                return Ok(Health::Down("the datastore is under another token".to_owned()));
            }
        }
        Ok(next.unwrap_or_else(|| {
            if self.started.get() { Health::Ready } else { Health::Waiting("not started".to_owned()) }
        }))
    }
    async fn k3s_changed(&self, _role: Role, at_most: Duration) {
        tokio::time::sleep(at_most).await;
    }
    async fn enable_k3s(&self, role: Role) -> Result<()> {
        self.enabled.set(true);
        self.note(format!("enable {role}"));
        Ok(())
    }
    async fn kubectl(&self, args: &[&str], input: Option<&str>, _time: Duration) -> Result<String> {
        self.note(format!("kubectl {}", args.join(" ")));
        self.fed.borrow_mut().extend(input.map(str::to_owned));
        match self.kubectl_error.borrow().as_deref() {
            Some(error) => bail!("{error}"),
            None => Ok(String::new()),
        }
    }
    async fn change_server_token(&self, candidates: &[Secret], new: &Secret) -> Result<()> {
        let mut datastore = self.datastore_token.borrow_mut();
        let Some(present) = datastore.clone() else { bail!("k3s does not answer") };
        if !candidates.contains(&present) {
            bail!("k3s takes none of these tokens");
        }
        *datastore = Some(new.clone());
        if self.lose_token_answer.replace(false) {
            bail!("k3s did not answer in time");
        }
        Ok(())
    }
    async fn etcd_members(&self) -> Result<Vec<EtcdMember>> {
        Ok(vec![EtcdMember { name: "s1-0badcafe".to_owned(), hosts: vec!["10.77.0.11".to_owned()] }])
    }
}
