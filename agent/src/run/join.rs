//! The steps from a seed to the gate.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use kiln_protocol::api::{ApprovalRequest, EnrolRequest, GateAnswer, GateRequest, Step};
use kiln_protocol::config::{Incarnation, Membership, NodeConfig, Snapshot};
use kiln_protocol::error::ErrorClass;
use kiln_protocol::seed::NodeSeed;
use kiln_protocol::{ApiError, Fingerprint, NodeName};
use tokio::time::sleep;

use super::driver::Node;
use super::shown::Shown;
use super::state::{Event, Home, Me};
use crate::applied::Applied;
use crate::apply::{hostname, k3s, restore};
use crate::client::Client;
use crate::clock;
use crate::facts;
use crate::host::Host;
use crate::identity;
use crate::retry::{Backoff, Failure, random};

/// How long a question for approval is held open: between two of them the key is
/// shown on the console again, and another seed is looked for.
const APPROVAL_HOLD: Duration = Duration::from_secs(60);

/// What came of a step, and a word for people.
pub(super) type Done = (Event, String);

impl<H: Host> Node<'_, H> {
    pub(super) fn name(&self, name: &NodeName) -> anyhow::Result<()> {
        hostname::write(self.root, name)?;
        self.host.set_hostname(name)
    }

    /// Makes the key, or finds the one that is there, if that is not the one
    /// that another has to take the place of.
    pub(super) fn key(&self, not: Option<&Fingerprint>) -> Result<Done, Failure> {
        let identity = match not {
            Some(not) => {
                self.forget_bond()?;
                identity::load_or_make_another(self.root, not)?
            }
            None => identity::load_or_make(self.root)?,
        };
        let key = identity.fingerprint();
        let me = Me { key, machine: facts::machine_uuid(self.root) };
        // Whoever reads the console confirms the key by this line.
        Ok((Event::KeyMade(me), format!("fingerprint {key}")))
    }

    /// Has the key bound, unless there is another seed to be had.
    pub(super) async fn enrol(&self, seed: &NodeSeed, me: &Me, shown: &Shown) -> Result<Done, Failure> {
        if let Some(other) = Box::pin(self.another_seed(seed, me, shown)).await {
            return Ok(other);
        }
        let claim = &seed.claim;
        let client = self.client(|| self.connect(me, claim.addresses(), claim.pin()))?;
        let addresses: Vec<String> = claim.addresses().iter().map(ToString::to_string).collect();
        self.progress.begun(Step::Enrol, &format!("asking {}", addresses.join(", ")));
        let trouble = self.set_network(seed).await.err();
        if !self.host.addresses().iter().any(|(_, address)| !address.is_loopback()) {
            // What was given once may be gone with its card.
            self.network_set.set(false);
            let why = trouble.map(|error| format!(": {error:#}")).unwrap_or_default();
            let error =
                ApiError::new(ErrorClass::Transient, format!("no network card has an address yet{why}"));
            return Err(Failure { offline: true, ..error.into() });
        }
        if let Some(error) = trouble {
            // Another card, or DHCP, may lead there all the same.
            self.progress.failed(Step::Enrol, &Failure::local(&error).error, Duration::ZERO);
        }
        let facts = facts::collect(self.root);
        let answer = if let Some(ticket) = claim.ticket() {
            let (ticket, proof) = (ticket.public_key(), ticket.prove(&me.key));
            client.enrol(&EnrolRequest { ticket, proof, facts }).await
        } else {
            // The first answer is wanted at once: it is what people are told.
            let wait = if self.pending.get() { APPROVAL_HOLD } else { Duration::ZERO };
            client.approval(&ApprovalRequest { facts }, wait).await
        };
        if let Err(failure) = &answer
            && failure.heard
        {
            self.link.answered(false);
            // Bound with what this machine was given before, or approved: it has
            // that name for ever. With this ticket, which is good, comes another.
            if failure.error.class == ErrorClass::NameConflict
                && claim.ticket().is_some_and(|ticket| shown.with_another(&ticket.public_key(), &me.key))
            {
                let note =
                    format!("{}: this machine makes a new one for its new ticket", failure.error.message);
                self.progress.note(Step::Enrol, &note);
                self.forget_client();
                return Ok((Event::KeyTaken, note));
            }
        }
        let bound = answer?;
        // Its own certificate may tell by which change it came to be.
        let word = bound.recovery.zip(client.word()).filter(|(key, word)| key.verifies(word, &claim.pin()));
        let serial = word.map_or(0, |(_, word)| word.serial);
        self.bond()?.enrolled(claim.pin(), bound.recovery, serial)?;
        // What a bound node says, it says over connections that it opens.
        self.forget_client();
        let note = format!("bound as {}, {} of {}", bound.node, bound.role, bound.cluster);
        Ok((Event::Bound(bound), note))
    }

    /// Fetches the configuration and makes it so.
    pub(super) async fn configure(&self, home: &Home) -> Result<Done, Failure> {
        self.settle_network(home).await?;
        let client = self.client_for(home)?;
        let config = client.config().await?;
        self.link.answered(true);
        check(&config, home)?;
        k3s::check_version(&config, &self.host.k3s_version().await?)?;
        self.progress.begun(Step::Configure, "applying the configuration");
        self.name(&config.node)?;
        let mut applied = Applied::load(self.root)?.unwrap_or_default();
        if applied.before.is_none() && self.host.has_addresses(&config.network) {
            applied.network.clone_from(&config.network);
            self.host.set_addresses(&config.network).await?;
        } else {
            // What there is has brought the node here.
            let before = self.host.static_addresses()?;
            self.change_network(home, &mut applied, before, &config.network).await?;
        }
        self.set_users(&mut applied, &config)?;
        if let Membership::FirstServer { restore: Some(snapshot), .. } = &config.k3s.membership {
            self.fetch_datastore(&client, snapshot).await?;
        }
        k3s::apply(self.root, &config, &self.host_part(&config)?)?;
        let written = ["/etc/hostname", "/etc/rancher", "/var/lib/rancher/k3s/server"].map(PathBuf::from);
        let there = |path: &PathBuf| self.root.meta(path).ok().flatten().is_some();
        self.host.label(&written.into_iter().filter(there).collect::<Vec<_>>());
        Ok((Event::Configured(config.incarnation), "the configuration is on the disk".to_owned()))
    }

    async fn fetch_datastore(&self, client: &Client, wanted: &Snapshot) -> Result<(), Failure> {
        restore::begin(self.root)?;
        let mut fetched = 0;
        let mut backoff = Backoff::new(self.pace);
        while fetched < wanted.size {
            let part = match client.snapshot(fetched).await {
                Ok(part) => part,
                // It goes on where it is: of many parts one is always lost.
                Err(failure) if !failure.error.class.needs_operator() => {
                    self.wait(Step::Configure, &failure, &mut backoff).await;
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            backoff = Backoff::new(self.pace);
            if part.is_empty() {
                break;
            }
            restore::append(self.root, &part)?;
            fetched += part.len() as u64;
            let note =
                format!("fetching the datastore to restore: {} of {} KiB", fetched >> 10, wanted.size >> 10);
            self.progress.running(Step::Configure, &note);
        }
        Ok(restore::check(self.root, wanted)?)
    }

    fn host_part(&self, config: &NodeConfig) -> Result<k3s::HostPart, Failure> {
        let interface = k3s::interface_of(config.k3s.node_ip, &self.host.addresses())?;
        Ok(k3s::HostPart { interface, selinux: self.host.selinux() })
    }

    /// Waits for the word to start k3s. What was fetched before may be another
    /// configuration by now: its token may have been rotated, the server that it
    /// joins be gone. From now on it stays until this node is ready.
    pub(super) async fn gate(&self, home: &Home, incarnation: Incarnation) -> Result<Done, Failure> {
        let client = self.client_for(home)?;
        let passed = self.pass(&client, Step::Gate, incarnation).await;
        let config = match passed {
            Ok(()) => client.config().await?,
            // The cluster may have begun another life in the meantime.
            Err(failure) if failure.error.class.needs_operator() => match client.config().await {
                Ok(config) if config.incarnation != incarnation => config,
                _ => return Err(failure),
            },
            Err(failure) => return Err(failure),
        };
        if config.incarnation != incarnation {
            return Ok((Event::Reconfigure, "the cluster has begun another life".to_owned()));
        }
        check(&config, home)?;
        let applied = Applied::load(self.root)?.unwrap_or_default();
        let same = applied.network == config.network && applied.users == config.users;
        if !same || !k3s::is_applied(self.root, &config, &self.host_part(&config)?)? {
            self.progress.running(Step::Gate, "the configuration has changed meanwhile: making it so");
            return Ok((Event::Reconfigure, "the configuration has changed".to_owned()));
        }
        self.passed.set(true);
        Ok((Event::Passed, "k3s may be started".to_owned()))
    }

    /// k3s mints its certificates at its first start, by a clock that has to be
    /// right then. It was right at the gate; since then the power may have been cut.
    /// A k3s that has its certificates starts without a coordinator. If it is
    /// refused what it was let through the gate for, because the cluster has begun
    /// another life or the node lost its rights, and k3s has not run, it is back at
    /// the gate, which knows what to do about that.
    pub(super) async fn check_clock(
        &self,
        home: &Home,
        incarnation: Incarnation,
    ) -> Result<Option<Done>, Failure> {
        if self.passed.get() || k3s::has_certificates(self.root)? {
            return Ok(None);
        }
        self.progress.begun(Step::StartK3s, "asking the coordinator whether the clock is right");
        let asked = self.pass(&*self.client_for(home)?, Step::StartK3s, incarnation).await;
        if let Err(failure) = &asked
            && failure.error.class.needs_operator()
            && k3s::has_not_run(self.root, &clock::boot_id())?
        {
            let note = format!("k3s has not run yet, and may not be started now: {}", failure.error);
            self.progress.running(Step::StartK3s, &note);
            return Ok(Some((Event::NotStarted, note)));
        }
        asked?;
        self.passed.set(true);
        Ok(None)
    }

    /// Returns when the gate is open, which it stays, and the clock is right.
    async fn pass(&self, client: &Client, step: Step, incarnation: Incarnation) -> Result<(), Failure> {
        loop {
            match client.gate(&GateRequest { incarnation, clock: clock::unix_time() }).await? {
                GateAnswer::Go => return Ok(()),
                GateAnswer::Wait { reason, retry_after } => {
                    self.link.answered(true);
                    self.progress.running(step, &reason);
                    let asked = Duration::from_secs(retry_after.into());
                    let wait = asked.clamp(self.pace.first, self.pace.longest);
                    sleep(wait.mul_f64(0.5 + random() / 2.0)).await;
                }
            }
        }
    }

    /// The client of a bound node.
    pub(super) fn client_for(&self, home: &Home) -> Result<Rc<Client>, Failure> {
        self.client(|| {
            let client = self.bonded_client(home)?;
            if identity::load_next(self.root, &home.me.key)?.is_some() {
                client.retire();
            }
            self.link.answered(true);
            Ok(client)
        })
    }

    /// A client of a bound node with connections of its own.
    pub(super) fn bonded_client(&self, home: &Home) -> Result<Client, Failure> {
        let client = self.connect(&home.me, &home.addresses, home.pin)?;
        Ok(client.bound(self.bond()?, home.bound.recovery))
    }

    pub(super) fn connect(
        &self,
        me: &Me,
        addresses: &[kiln_protocol::ticket::Address],
        pin: Fingerprint,
    ) -> Result<Client, Failure> {
        let identity = identity::load_named(self.root, &me.key)
            .map_err(|error| ApiError::new(ErrorClass::Policy, format!("{error:#}")))?;
        Ok(Client::new(identity, pin, addresses))
    }
}

/// Whether a configuration is for this node.
pub(super) fn check(config: &NodeConfig, home: &Home) -> Result<(), ApiError> {
    let bound = &home.bound;
    if config.node == bound.node && config.cluster == bound.cluster && config.role() == bound.role {
        return Ok(());
    }
    let (node, role, cluster) = (&config.node, config.role(), &config.cluster);
    Err(ApiError::new(
        ErrorClass::Policy,
        format!(
            "the configuration is for {node}, {role} of {cluster}; this is {}, {} of {}",
            bound.node, bound.role, bound.cluster
        ),
    ))
}
