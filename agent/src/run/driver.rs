//! Does what each state asks for until the node is ready.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kiln_protocol::api::Step;
use kiln_protocol::config::Incarnation;
use kiln_protocol::error::ErrorClass;
use kiln_protocol::seed::StaticAddress;
use kiln_protocol::{ApiError, Identity};
use tokio::time::{Instant, sleep, timeout};

use super::seeds::Looks;
use super::state::{Event, Home, State};
use super::store;
use crate::apply::k3s;
use crate::bond::Bond;
use crate::client::Client;
use crate::clock;
use crate::facts;
use crate::host::{Health, Host};
use crate::identity;
use crate::progress::{Console, Link, Progress, deliver};
use crate::retry::{Backoff, Failure, Pace, random};
use crate::root::Root;

/// Looks at something on this host become rarer, down to one in so many.
const RAREST_LOOK: u32 = 10;
/// systemd says when it is done with k3s; looking besides is for what it does
/// not say, and costs more than everything else a node waits with.
const K3S_LOOK: u32 = 5;
/// Looks of one length before the next becomes longer.
const LOOKS_ALIKE: u32 = 60;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The node is ready, and that is reported if the coordinator is there.
    Ready,
    /// This disk was copied from another machine; its key was not used.
    Cloned,
}

/// A node on its way.
#[derive(Debug)]
pub struct Node<'a, H> {
    pub(super) root: &'a Root,
    pub(super) host: &'a H,
    pub(super) pace: Pace,
    pub(super) progress: Progress<'a>,
    pub(super) link: Link,
    client: RefCell<Option<Rc<Client>>>,
    bond: RefCell<Option<Rc<Bond>>>,
    /// When sources are to be asked for another seed.
    pub(super) looks: Looks,
    /// A card has the address of the seed in use, if that names one.
    pub(super) network_set: Cell<bool>,
    /// The network settings that were refused last in this run, and why.
    pub(super) refused_network: RefCell<Option<(Vec<StaticAddress>, ApiError)>>,
    /// The coordinator has said that an operator has to approve this machine.
    pub(super) pending: Cell<bool>,
    /// The gate has opened in this run: the clock was right a moment ago.
    pub(super) passed: Cell<bool>,
}

impl<'a, H: Host> Node<'a, H> {
    /// A node whose files are in `root` and whose machine is `host`.
    pub fn new(root: &'a Root, host: &'a H, console: &'a Console, pace: Pace) -> Self {
        Self {
            root,
            host,
            pace,
            progress: Progress::new(root, console),
            link: Link::default(),
            client: RefCell::default(),
            bond: RefCell::default(),
            looks: Looks::new(pace),
            network_set: Cell::new(false),
            refused_network: RefCell::default(),
            pending: Cell::new(false),
            passed: Cell::new(false),
        }
    }

    /// Reads the state that an earlier run left.
    pub fn load(root: &Root) -> Result<State> {
        Ok(store::load(root)?)
    }

    /// Goes on from `state` until the node is ready, however long that takes.
    pub async fn run(&self, state: State) -> Result<Outcome> {
        if let Some(error) = self.cloned(&state) {
            self.tell_cloned(&state, &error).await;
            return Ok(Outcome::Cloned);
        }
        let later_boot = matches!(state, State::Ready { .. });
        let mut delivering = pin!(deliver(&self.progress.queue, &self.link, self.pace));
        let state = tokio::select! {
            result = self.drive(state) => result?,
            // It ends when it is told to.
            () = &mut delivering => unreachable!("reports are delivered to the end"),
        };
        let finishing = async {
            // Begun by an earlier run: nothing is said before.
            let state = self.rotate_if_due(state).await;
            if let Some(home) = state.home() {
                self.client_for(home)?;
            }
            self.link.end();
            delivering.await;
            // Asked for at this contact.
            self.rotate_if_due(state).await;
            Ok::<_, Failure>(())
        };
        let finished = if later_boot {
            timeout(self.pace.later_boot, finishing).await.unwrap_or(Ok(()))
        } else {
            finishing.await
        };
        if let Err(failure) = finished {
            tracing::warn!("{}", failure.error);
        }
        Ok(Outcome::Ready)
    }

    async fn drive(&self, mut state: State) -> Result<State> {
        let mut backoff = Backoff::new(self.pace);
        self.progress.identify(&state);
        if let Some(me) = state.me() {
            self.progress.show_key(&me.key);
        }
        if let Some(home) = state.home()
            && let Err(failure) = self.settle_network(home).await
        {
            self.progress.note(state.step(), &failure.error.to_string());
        }
        loop {
            let step = state.step();
            let done = match self.step(&state).await {
                // Boxed: it is rare, and would make every future around it larger.
                Err(failure) => Box::pin(self.with_another_ticket(&state, failure)).await,
                done => done,
            };
            match done {
                Ok(None) => return Ok(state),
                Ok(Some((event @ Event::KeyReplaced(_), note))) => {
                    match self.key_replaced(state.clone(), event, &note) {
                        Ok(next) => (state, backoff) = (next, Backoff::new(self.pace)),
                        Err(error) => self.wait(step, &Failure::local(&error), &mut backoff).await,
                    }
                }
                Ok(Some((event, note))) => {
                    let next = state.clone().after(event)?;
                    match store::save(self.root, &next) {
                        Ok(()) => {
                            backoff = Backoff::new(self.pace);
                            self.progress.identify(&next);
                            if next.step() > step {
                                self.progress.done(step, &note, facts::collect(self.root));
                            }
                            state = next;
                        }
                        Err(error) => self.wait(step, &Failure::local(&error), &mut backoff).await,
                    }
                }
                Err(failure) => {
                    // What is behind enrolment says nothing of the next seed.
                    if matches!(state, State::Enrol { .. }) {
                        self.looks.failed(&failure);
                    }
                    self.pending.set(failure.error.class == ErrorClass::Pending);
                    // Somebody has to read it, and may have missed it.
                    if self.pending.get()
                        && let Some(me) = state.me()
                    {
                        self.progress.show_key(&me.key);
                    }
                    self.wait(step, &failure, &mut backoff).await;
                }
            }
        }
    }

    pub(super) async fn wait(&self, step: Step, failure: &Failure, backoff: &mut Backoff) {
        let wait = backoff.after(failure, random());
        self.progress.failed(step, &failure.error, wait);
        sleep(wait).await;
    }

    /// Does what a state asks for. Returns what came of it and a word for
    /// people, or nothing once there is nothing left to do.
    async fn step(&self, state: &State) -> Result<Option<(Event, String)>, Failure> {
        // A ready node needs no coordinator, so it does not wait for this.
        if let Some(home) = state.home().filter(|_| state.step() != Step::Ready)
            && self.rotation_due(home)?
        {
            return self.rotate(home).await.map(Some);
        }
        let (event, note) = match state {
            State::Seed => self.seed().await?,
            State::Key { not, .. } => self.key(not.as_ref())?,
            State::Enrol { seed, me, shown } => self.enrol(&seed.0, me, shown).await?,
            State::Configure { home } => self.configure(home).await?,
            State::Gate { home, incarnation } => self.gate(home, *incarnation).await?,
            State::StartK3s { home, incarnation } => {
                // Reports still need the way to the coordinator after a reboot.
                self.client_for(home)?;
                let role = home.bound.role;
                if let Some(back) = self.check_clock(home, *incarnation).await? {
                    return Ok(Some(back));
                }
                k3s::note_start(self.root, &clock::boot_id())?;
                self.host.start_k3s(role).await?;
                self.watch(Step::StartK3s, (home, *incarnation), true).await;
                self.host.enable_k3s(role).await?;
                (Event::K3sReady, "k3s is up and starts with the system".to_owned())
            }
            State::Ready { home, incarnation } => {
                self.client_for(home)?;
                self.watch(Step::Ready, (home, *incarnation), false).await;
                let note = format!("{} is a {} of {}", home.bound.node, home.bound.role, home.bound.cluster);
                self.progress.done(Step::Ready, &note, facts::collect(self.root));
                return Ok(None);
            }
        };
        Ok(Some((event, note)))
    }

    /// Returns when k3s answers. Meanwhile says what it lacks; starts it again
    /// now and then if that is ours to do.
    async fn watch(&self, step: Step, (home, incarnation): (&Home, Incarnation), start: bool) {
        let (role, begun) = (home.bound.role, Instant::now());
        let mut started = begun;
        for looks in 0.. {
            let failure = match self.host.k3s_health(role).await {
                Ok(Health::Ready) => return,
                Ok(Health::Waiting(what)) if begun.elapsed() < self.pace.k3s => {
                    self.progress.running(step, &what);
                    None
                }
                Ok(Health::Waiting(what)) => {
                    Some(format!("k3s is not up after {} s: {what}", self.pace.k3s.as_secs()))
                }
                Ok(Health::Down(why)) => {
                    match self.try_another_token(home, incarnation).await {
                        Ok(true) => self.progress.note(step, "k3s finds another token at its next start"),
                        Ok(false) => {}
                        Err(error) => tracing::warn!("looking for another token: {error:#}"),
                    }
                    Some(why)
                }
                Err(error) => Some(format!("{error:#}")),
            };
            let look = self.look(looks) * K3S_LOOK;
            if let Some(why) = failure {
                self.progress.failed(step, &ApiError::new(ErrorClass::Transient, why), look);
                if start && started.elapsed() > self.pace.longest {
                    started = Instant::now();
                    // If it fails, the next look says so.
                    let _ = self.host.start_k3s(role).await;
                }
            }
            self.host.k3s_changed(role, look).await;
        }
    }

    /// How long to wait after so many looks at something on this host.
    pub(super) fn look(&self, looks: u32) -> Duration {
        self.pace.look * (looks / LOOKS_ALIKE + 1).min(RAREST_LOOK)
    }

    /// The client in use, or a new one.
    pub(super) fn client(
        &self,
        make: impl FnOnce() -> Result<Client, Failure>,
    ) -> Result<Rc<Client>, Failure> {
        if let Some(client) = self.client.borrow().clone() {
            return Ok(client);
        }
        let client = Rc::new(make()?);
        self.client.replace(Some(client.clone()));
        self.link.connect(client.clone());
        Ok(client)
    }

    /// Another seed means another coordinator, or another way to it.
    pub(super) fn forget_client(&self) {
        self.client.replace(None);
    }

    /// What holds this node and its coordinator together.
    pub(super) fn bond(&self) -> Result<Rc<Bond>> {
        if let Some(bond) = self.bond.borrow().clone() {
            return Ok(bond);
        }
        let bond = Rc::new(Bond::load(self.root)?);
        self.bond.replace(Some(bond.clone()));
        Ok(bond)
    }

    /// Another key begins with nothing.
    pub(super) fn forget_bond(&self) -> Result<()> {
        Bond::forget(self.root)?;
        self.bond.replace(None);
        Ok(())
    }

    pub(super) fn key_is_retired(&self) -> bool {
        self.client.borrow().as_ref().is_some_and(|client| client.is_retired())
    }

    pub(super) fn rotation_asked(&self) -> bool {
        self.client.borrow().as_ref().is_some_and(|client| client.rotation_asked())
    }

    /// What is to be said if this disk was copied from another machine.
    fn cloned(&self, state: &State) -> Option<ApiError> {
        let me = state.me()?;
        let (made_on, here) = (me.machine.as_ref()?, facts::machine_uuid(self.root)?);
        if *made_on == here {
            return None;
        }
        let whose = state.home().map_or_else(String::new, |home| format!(" of node {}", home.bound.node));
        let message =
            format!("this disk is a copy: its key{whose} was made on machine {made_on}, this is {here}");
        let error = ApiError::new(ErrorClass::Cloned, message).hint(format!(
            "to make this a node of its own, remove {} and give it a ticket",
            identity::STATE_DIR
        ));
        self.progress.identify(state);
        self.progress.refused(state.step(), &error);
        Some(error)
    }

    /// Tells the coordinator, with a key that is made for this and thrown away:
    /// an operator sees a stranger that says whose copy it is. However long that
    /// takes: there is nobody else to tell it.
    async fn tell_cloned(&self, state: &State, error: &ApiError) {
        let (addresses, pin) = match (state, state.home()) {
            (State::Enrol { seed, .. }, _) => (seed.0.claim.addresses().to_vec(), seed.0.claim.pin()),
            (_, Some(home)) => (home.addresses.clone(), home.pin),
            _ => return,
        };
        let recovery = state.home().and_then(|home| home.bound.recovery);
        let report = self.progress.last_word(state.step(), error, facts::collect(self.root));
        let tell = async || {
            let client = self.client(|| {
                let stranger = Identity::generate().context("making a key that is nobody's")?;
                Ok(Client::new(stranger, self.bond()?.trust(pin, recovery).pin, &addresses))
            })?;
            client.report(&report).await
        };
        let mut backoff = Backoff::new(self.pace);
        while let Err(failure) = tell().await {
            tracing::warn!("telling the coordinator that this disk is a copy: {}", failure.error);
            sleep(backoff.after(&failure, random())).await;
        }
    }
}
