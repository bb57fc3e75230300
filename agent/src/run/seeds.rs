//! The seed that a node goes by: found at first, given its network again until
//! it has it, and exchanged for another one as long as nothing came of it.
//!
//! * Sources are asked for another seed after a failure: after each that only an
//!   operator cures, and after others more and more rarely, down to once a minute. A source that is
//!   late (a volume that udev has not seen yet), or one that an operator adds, is
//!   found so, whatever the seed in use fails with and wherever it comes from.
//! * A ticket takes any seed's place, an address without a ticket never that of a
//!   ticket: it is in every image, and the volume that the ticket came from may
//!   be gone.
//! * Two seeds that both fail take turns.
//! * A node that is bound, whose k3s never started, and that is refused goes on
//!   with another ticket, once that is known to be good: until then nothing is
//!   given up. A restored coordinator that never heard of its key, and an
//!   operator who takes it its rights, are cured so without its console.

use std::cell::Cell;
use std::time::Duration;

use anyhow::Context as _;
use kiln_protocol::api::{EnrolRequest, Step};
use kiln_protocol::error::ErrorClass;
use kiln_protocol::seed::NodeSeed;
use kiln_protocol::{ApiError, Ticket};
use tokio::time::{Instant, sleep};

use super::driver::Node;
use super::join::Done;
use super::shown::Shown;
use super::state::{Event, Me, State};
use crate::facts;
use crate::host::Host;
use crate::identity;
use crate::retry::{Failure, Pace};
use crate::seed::Search;

/// How often a login and a host name are tried before the node goes on without
/// them: a user that cannot be made should not keep it from its cluster.
const TRIES: u32 = 3;

/// When sources are to be asked for another seed.
#[derive(Debug)]
pub(super) struct Looks {
    pace: Pace,
    due: Cell<Due>,
    /// How often they were, and until when no passing failure is a reason to.
    made: Cell<u32>,
    rest: Cell<Option<Instant>>,
}

/// Whether sources are to be asked before the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    No,
    /// The seed was found by an earlier run, and has not failed in this one: only
    /// if it has been taken out of its source since.
    IfGone,
    Yes,
}

impl Looks {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, due: Cell::new(Due::IfGone), made: Cell::default(), rest: Cell::default() }
    }

    /// The seed that is in use has failed, or what was begun with it.
    pub(super) fn failed(&self, failure: &Failure) {
        let resting = self.rest.get().is_some_and(|until| Instant::now() < until);
        if failure.error.class.needs_operator() || !resting {
            self.due.set(Due::Yes);
        }
    }

    /// What is due, which is done now.
    fn take(&self) -> Due {
        let due = self.due.replace(Due::No);
        if due == Due::Yes {
            let made = self.made.get();
            let Pace { first, longest, .. } = self.pace;
            self.rest.set(Some(Instant::now() + first.saturating_mul(1 << made.min(16)).min(longest)));
            self.made.set(made + 1);
        }
        due
    }
}

impl<H: Host> Node<'_, H> {
    /// Looks for a seed until there is one, and applies its settings.
    pub(super) async fn seed(&self) -> Result<Done, Failure> {
        for looks in 0.. {
            match self.host.find_seed(&|_| true) {
                Search::Found(seed, source) => {
                    self.first_settings(Step::Seed, &seed).await;
                    self.looks.due.set(Due::No);
                    return Ok((Event::SeedFound(*seed), format!("found in {source}")));
                }
                Search::Nothing(problems) if problems.is_empty() => self.progress.running(
                    Step::Seed,
                    "no seed yet: waiting for an SMBIOS credential kiln.seed or kiln.ticket, or a volume labelled cidata",
                ),
                Search::Nothing(problems) => {
                    let error = ApiError::new(ErrorClass::Format, problems.join("; "));
                    self.progress.failed(Step::Seed, &error, self.look(looks));
                }
            }
            sleep(self.look(looks)).await;
        }
        unreachable!("looks are not counted to their end")
    }

    /// Another seed than the one in use, if it is time to look for one; its
    /// settings are applied then.
    pub(super) async fn another_seed(&self, seed: &NodeSeed, me: &Me, shown: &Shown) -> Option<Done> {
        match self.looks.take() {
            Due::No => return None,
            Due::IfGone if matches!(self.host.find_seed(&|there| there == seed), Search::Found(..)) => {
                return None;
            }
            Due::IfGone | Due::Yes => {}
        }
        let fits = |other: &NodeSeed| {
            other != seed
                && match other.claim.ticket() {
                    // It would look like two machines with one ticket.
                    Some(ticket) => !shown.is_spent(&ticket.public_key(), &me.key),
                    None => seed.claim.ticket().is_none(),
                }
        };
        match self.host.find_seed(&fits) {
            Search::Found(other, source) => {
                let note = format!("another seed found in {source}");
                self.progress.note(Step::Enrol, &note);
                self.first_settings(Step::Enrol, &other).await;
                self.forget_client();
                Some((Event::SeedFound(*other), note))
            }
            Search::Nothing(problems) => {
                if !problems.is_empty() {
                    self.progress.note(Step::Enrol, &format!("no other seed: {}", problems.join("; ")));
                }
                None
            }
        }
    }

    /// A step has failed: what becomes of it if this is a bound node, k3s was
    /// never started, only an operator can cure it, and he has: another ticket
    /// is there. `pending` is no refusal: his word is awaited.
    pub(super) async fn with_another_ticket(
        &self,
        state: &State,
        failure: Failure,
    ) -> Result<Option<Done>, Failure> {
        let (State::Configure { home } | State::Gate { home, .. }) = state else { return Err(failure) };
        let class = failure.error.class;
        if !class.needs_operator() || class == ErrorClass::Pending {
            return Err(failure);
        }
        // A key that is being replaced is used for nothing else.
        if self.key_is_retired() || identity::load_next(self.root, &home.me.key)?.is_some() {
            return Err(failure);
        }
        let mut useless = Vec::new();
        loop {
            let fits = |seed: &NodeSeed| {
                let ticket = seed.claim.ticket().map(Ticket::public_key);
                ticket.is_some_and(|ticket| !home.shown.has(&ticket)) && !useless.contains(seed)
            };
            let Search::Found(seed, source) = self.host.find_seed(&fits) else { return Err(failure) };
            match self.try_ticket(&seed, &home.me).await {
                Ok(()) => {
                    let note = format!("another ticket found in {source}: {}", failure.error);
                    self.progress.note(state.step(), &note);
                    self.first_settings(Step::Enrol, &seed).await;
                    self.forget_client();
                    self.link.answered(false);
                    return Ok(Some((Event::SeedFound(*seed), note)));
                }
                Err(why) => {
                    let note = format!("the other ticket in {source} is of no use: {}", why.error);
                    self.progress.note(state.step(), &note);
                    useless.push(*seed);
                }
            }
        }
    }

    /// Whether a ticket is good for this machine: its coordinator binds the key
    /// to it, or would if the key were no other node's.
    async fn try_ticket(&self, seed: &NodeSeed, me: &Me) -> Result<(), Failure> {
        let claim = &seed.claim;
        let ticket = claim.ticket().context("a seed without a ticket")?;
        let (ticket, proof) = (ticket.public_key(), ticket.prove(&me.key));
        let request = EnrolRequest { ticket, proof, facts: facts::collect(self.root) };
        match self.connect(me, claim.addresses(), claim.pin())?.enrol(&request).await {
            Err(failure) if failure.heard && failure.error.class == ErrorClass::NameConflict => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Applies what a seed says before any contact: a network without DHCP
    /// needs its address, and a failed node someone who may look into it.
    async fn first_settings(&self, step: Step, seed: &NodeSeed) {
        if let Some(name) = &seed.hostname {
            self.insist(step, async || self.name(name)).await;
        }
        if let Some(user) = &seed.user {
            self.insist(step, async || self.host.add_user(user)).await;
        }
        self.network_set.set(false);
        if let Err(error) = self.set_network(seed).await {
            self.progress.failed(step, &Failure::local(&error).error, Duration::ZERO);
        }
    }

    async fn insist(&self, step: Step, attempt: impl AsyncFn() -> anyhow::Result<()>) {
        for _ in 0..TRIES {
            let Err(error) = attempt().await else { return };
            self.progress.failed(step, &Failure::local(&error).error, self.pace.first);
            sleep(self.pace.first).await;
        }
    }

    /// Gives a card the seed's address, unless this run has done so. Tried before
    /// each contact until it succeeds: the card's driver, its link or
    /// NetworkManager may be late, and nothing else would bring the node there.
    pub(super) async fn set_network(&self, seed: &NodeSeed) -> anyhow::Result<()> {
        if let Some(address) = &seed.network
            && !self.network_set.get()
        {
            self.host.set_addresses(std::slice::from_ref(address)).await?;
            self.network_set.set(true);
        }
        Ok(())
    }
}
