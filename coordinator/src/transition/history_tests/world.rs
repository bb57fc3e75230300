//! The registry with everybody around it: machines, thieves, copies and an
//! operator, who speak to it through the transitions and nothing else.

use std::sync::LazyLock;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use kiln_protocol::admin::{Hints, TicketRecord};
use kiln_protocol::api::{EnrolAnswer, EnrolRequest, Facts};
use kiln_protocol::ratchet::{Reach, Stamp};
use kiln_protocol::{ApiError, ErrorClass, Fingerprint, NodeName, Role};

use super::checks::{Did, Model};
use super::disk::{Fate, Image, Platter};
use super::machine::{Machine, NextKey, POOL, rotation};
use super::sabotage::{Sabotage, spoil};
use super::{LIFETIME, NODES};
use crate::k3s::ClusterSecrets;
use crate::plan::fixtures::three_servers;
use crate::registry::KeyOwner;
use crate::registry::fixtures::NOW;
use crate::store::events::Actor;
use crate::store::memory::{Disk, Memory};
use crate::store::{Transaction, Undo, engine::Engine as _, epoch as reach, keys, seats};
use crate::transition::{enrol, epoch, open, operator, restore, rotate, vouch};

/// A registry in which a cluster file is in force, and nothing has happened.
static BEGINNING: LazyLock<Image> = LazyLock::new(|| {
    let disk = Disk::default();
    let mut engine = Memory::open(&disk).unwrap();
    let secrets = ClusterSecrets::generate(NOW).unwrap();
    engine.begin().unwrap();
    let mut apply = |tx: &Transaction<'_>| {
        operator::apply(tx, &three_servers(), &secrets, &Actor::local(), NOW).unwrap();
        true
    };
    engine.attempt(Undo::Own, &mut apply).unwrap();
    engine.commit().unwrap();
    disk.image()
});

/// What an operator has made of a ticket.
pub(super) struct Issued {
    /// Its number in the pool.
    ticket: usize,
    pub(super) node: usize,
    record: TicketRecord,
}

/// A copy of the registry, and what was true of it.
#[derive(Clone)]
struct Backup {
    image: Image,
    model: Model,
}

/// What a machine hears: a yes, a no, or nothing.
pub(super) type Heard<T> = Option<Result<T, ApiError>>;

pub(super) struct World {
    pub(super) platter: Platter,
    pub(super) now: Timestamp,
    pub(super) machines: Vec<Machine>,
    pub(super) tickets: Vec<Issued>,
    backup: Option<Backup>,
    /// What an old copy is served instead of.
    original: Option<Backup>,
    pub(super) model: Model,
    pub(super) sabotage: Option<Sabotage>,
    fresh_notch: u128,
    fresh_key: usize,
    fresh_ticket: usize,
}

impl World {
    pub(super) fn in_memory(sabotage: Option<Sabotage>) -> Result<Self> {
        let counts_on = sabotage == Some(Sabotage::CopiesCountOn);
        Ok(Self::on(Platter::in_memory(&BEGINNING, counts_on)?, sabotage))
    }

    pub(super) fn on_file() -> Result<Self> {
        Ok(Self::on(Platter::on_file(&BEGINNING)?, None))
    }

    fn on(platter: Platter, sabotage: Option<Sabotage>) -> Self {
        Self {
            platter,
            now: NOW,
            machines: Vec::new(),
            tickets: Vec::new(),
            backup: None,
            original: None,
            model: Model::default(),
            sabotage,
            fresh_notch: 0,
            fresh_key: 0,
            fresh_ticket: 0,
        }
    }

    /// Runs one transition; refusals that undo it and those that last alike
    /// are what the asker hears.
    pub(super) fn ask<T>(
        &mut self,
        fate: Fate,
        transition: impl FnOnce(&Transaction<'_>) -> Result<Result<T, ApiError>>,
    ) -> Result<Heard<T>> {
        let early = self.sabotage == Some(Sabotage::AnswersBeforeItIsDurable);
        match self.platter.transact(fate, early, transition)? {
            None => Ok(None),
            Some(Ok(heard)) => Ok(Some(heard)),
            Some(Err(error)) => Ok(Some(Err(error.downcast::<ApiError>()?))),
        }
    }

    /// As [`World::ask`], of an operator, who asks until he hears an answer.
    fn insist<T>(
        &mut self,
        fate: Fate,
        mut transition: impl FnMut(&Transaction<'_>) -> Result<T>,
    ) -> Result<Result<T, ApiError>> {
        if let Some(heard) = self.ask(fate, |tx| transition(tx).map(Ok))? {
            return Ok(heard);
        }
        let heard = self.ask(Fate::Answered, |tx| transition(tx).map(Ok))?;
        heard.context("an answer that was not lost is heard")
    }

    pub(super) fn look<T>(&mut self, look: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        self.platter.transact(Fate::Answered, false, look)?.context("a look has no answer to lose")?
    }

    pub(super) fn new_key(&mut self) -> Option<usize> {
        self.fresh_key += 1;
        (self.fresh_key <= POOL.keys.len()).then(|| self.fresh_key - 1)
    }

    fn new_ticket(&mut self) -> Option<usize> {
        self.fresh_ticket += 1;
        (self.fresh_ticket <= POOL.tickets.len()).then(|| self.fresh_ticket - 1)
    }

    /// A ticket for a node's next generation, and a machine with it.
    pub(super) fn mint(&mut self, node: usize, fate: Fate) -> Result<Option<usize>> {
        let (Some(ticket), Some(key)) = (self.new_ticket(), self.new_key()) else { return Ok(None) };
        let name = name(node);
        let role = if name.as_str() == "s1" { Role::Server } else { Role::Agent };
        let generation = self.look(|tx| Ok(seats::newest_generation(tx, &name)? + 1))?;
        let record = TicketRecord {
            node: name,
            generation,
            role,
            not_before: self.now,
            expires: self.now + SignedDuration::from_secs(LIFETIME),
            confirm_console: false,
            hints: Hints::default(),
        };
        let now = self.now;
        self.insist(fate, |tx| {
            operator::mint(tx, &POOL.tickets[ticket], record.clone(), &|_| None, &Actor::local(), now)
        })??;
        self.tickets.push(Issued { ticket, node, record });
        Ok(Some(self.add(node, Some(self.tickets.len() - 1), key)))
    }

    fn add(&mut self, node: usize, ticket: Option<usize>, key: usize) -> usize {
        let lineage = self.machines.len();
        self.machines.push(Machine::new(node, ticket, key, lineage));
        lineage
    }

    /// A machine that has no ticket.
    pub(super) fn without_ticket(&mut self, node: usize) {
        if let Some(key) = self.new_key() {
            self.add(node, None, key);
        }
    }

    /// The record that the operator's journal holds is minted again.
    pub(super) fn mint_again(&mut self, ticket: usize) -> Result<()> {
        let Issued { ticket, record, .. } = &self.tickets[ticket];
        let (public, record, now) = (&POOL.tickets[*ticket], record.clone(), self.now);
        let again = self.insist(Fate::Answered, |tx| {
            operator::mint(tx, public, record.clone(), &|_| None, &Actor::local(), now)
        })?;
        again.context("minting is idempotent")
    }

    /// A key comes with a ticket.
    pub(super) fn enrol(
        &mut self,
        ticket: usize,
        key: Fingerprint,
        fate: Fate,
    ) -> Result<Heard<EnrolAnswer>> {
        let request = EnrolRequest {
            ticket: POOL.tickets[self.tickets[ticket].ticket],
            proof: POOL.proof,
            facts: Facts::default(),
        };
        let (now, sabotage) = (self.now, self.sabotage);
        self.ask(fate, |tx| {
            let owner = keys::owner(tx, &key)?;
            if let Some(KeyOwner::Former(seat)) = &owner {
                return Ok(Err(open::former_key_used(tx, seat.id, key, false, &Actor::local(), now)?));
            }
            let answer = enrol::enrol(tx, &request, key, owner.as_ref(), &Actor::local(), now)?;
            spoil::enrolment(sabotage, tx, &request.ticket, key, answer)
        })
    }

    /// A machine does what its agent would do next.
    pub(super) fn act(&mut self, machine: usize, fate: Fate) -> Result<Heard<()>> {
        let disk = &self.machines[machine].disk;
        if !disk.bound {
            self.join(machine, fate)
        } else if disk.rotation_asked || disk.next_key.is_some() {
            self.rotate(machine, fate)
        } else {
            self.open(machine, fate)
        }
    }

    fn join(&mut self, at: usize, fate: Fate) -> Result<Heard<()>> {
        let (key, ticket, now) = (self.machines[at].fingerprint(), self.machines[at].ticket, self.now);
        let heard = match ticket {
            Some(ticket) => {
                let heard = self.enrol(ticket, key, fate)?;
                if let Some(Ok(answer)) = &heard {
                    self.model.promise(ticket, key, answer)?;
                }
                heard
            }
            None => self.ask(fate, |tx| match keys::owner(tx, &key)? {
                None => Ok(Err(vouch::pending(key))),
                Some(KeyOwner::Node { seat, .. }) => vouch::approved(tx, seat.id, &Facts::default()).map(Ok),
                // A copy of a machine that was bound, and has another key since.
                Some(KeyOwner::Former(seat)) => {
                    Ok(Err(open::former_key_used(tx, seat.id, key, false, &Actor::local(), now)?))
                }
                Some(other) => bail!("a machine's key is {other:?}"),
            })?,
        };
        Ok(heard.map(|answer| {
            answer.map(|_| {
                let machine = &mut self.machines[at];
                machine.disk.bound = true;
                machine.snapshot.get_or_insert_with(|| machine.disk.clone());
            })
        }))
    }

    fn open(&mut self, at: usize, fate: Fate) -> Result<Heard<()>> {
        let machine = &mut self.machines[at];
        let (key, seen, turn) =
            (machine.fingerprint(), machine.disk.seen, machine.turn(&mut self.fresh_notch));
        let is_foreign = fate != Fate::Unheard && self.show(seen)?;
        let (now, sabotage) = (self.now, self.sabotage);
        let opened = self.ask(fate, |tx| match keys::owner(tx, &key)? {
            Some(KeyOwner::Node { seat, .. }) => {
                epoch::check(tx)?;
                spoil::opening(sabotage, tx, seat.id, turn)?;
                open::open(tx, &seat, turn, false, &Actor::local(), now)
            }
            Some(KeyOwner::Former(seat)) => {
                Ok(Err(open::former_key_used(tx, seat.id, key, false, &Actor::local(), now)?))
            }
            _ => Ok(Err(ApiError::new(ErrorClass::Policy, "this key has not enrolled"))),
        })?;
        self.check_shown(is_foreign, opened.as_ref())?;
        Ok(opened.map(|opened| {
            opened.map(|opened| {
                let machine = &mut self.machines[at];
                machine.answered();
                machine.disk.seen = Some(opened.reach);
                machine.disk.rotation_asked = opened.rotate;
                machine.heard += 1;
                self.model.gave(opened.reach);
            })
        }))
    }

    /// A stamp that a machine was given is shown, as it is with every opening;
    /// returns whether another copy of the registry gave it.
    fn show(&mut self, seen: Option<Reach>) -> Result<bool> {
        let Some(seen) = seen else { return Ok(false) };
        let (runs, before) = self.look(|tx| Ok((reach::runs(tx)?, reach::newer(tx)?)))?;
        let is_foreign = self.model.is_foreign(seen, runs.reach().epoch);
        // As `server::open` does: it is only looked at if it would say something.
        if !runs.covers(seen) {
            let stamp = Stamp::sign(seen, &POOL.coordinator);
            let (spki, now) = (POOL.coordinator.spki(), self.now);
            self.look(|tx| epoch::notice(tx, &stamp, &spki, &Actor::local(), now))?;
            let mistaken = !is_foreign && self.look(reach::newer)? != before;
            ensure!(!mistaken, "it was shown {seen}, which it gave, and takes itself for another copy");
        }
        Ok(is_foreign)
    }

    /// Whatever it is asked, and by whom: once another copy's stamp was shown, a
    /// copy knows that it is one.
    fn check_shown<T: std::fmt::Debug>(
        &mut self,
        is_foreign: bool,
        heard: Option<&Result<T, ApiError>>,
    ) -> Result<()> {
        if is_foreign {
            let newer = self.look(reach::newer)?;
            ensure!(newer.is_some(), "a copy does not know that it is another, and answers {heard:?}");
            ensure!(
                heard.is_none_or(Result::is_err),
                "a copy that was shown a stamp of another answers {heard:?}"
            );
        }
        Ok(())
    }

    fn rotate(&mut self, at: usize, fate: Fate) -> Result<Heard<()>> {
        if self.machines[at].disk.next_key.is_none() {
            let Some(key) = self.new_key() else { return Ok(None) };
            self.machines[at].disk.next_key = Some(NextKey { key, maybe_heard: false });
        }
        let machine = &mut self.machines[at];
        let (key, seen, turn) =
            (machine.fingerprint(), machine.disk.seen, machine.turn(&mut self.fresh_notch));
        let next = machine.disk.next_key.context("a key was just made")?;
        let shown = match self.sabotage {
            Some(Sabotage::RotationShowsNoStamp) => None,
            _ => seen,
        };
        let is_foreign = fate != Fate::Unheard && self.show(shown)?;
        let (request, now) = (rotation(next, turn), self.now);
        let heard = self.ask(fate, |tx| {
            epoch::check(tx)?;
            rotate::rotate(tx, &request, key, false, &Actor::local(), now)
        })?;
        self.check_shown(is_foreign, heard.as_ref())?;
        let machine = &mut self.machines[at];
        match &heard {
            Some(Ok(())) => {
                // The pair is sent again under the new key, which answers it.
                machine.disk.key = next.key;
                (machine.disk.next_key, machine.disk.rotation_asked) = (None, false);
            }
            // A plain no to the first time leaves the key what it was.
            Some(Err(no)) if no.class.needs_operator() && !next.maybe_heard => {
                (machine.disk.next_key, machine.disk.rotation_asked) = (None, false);
            }
            Some(Err(_)) | None => {
                machine.disk.next_key = Some(NextKey { maybe_heard: true, ..next });
            }
        }
        Ok(heard)
    }

    /// A machine that was told it is bound asks to be enrolled once more.
    pub(super) fn again(&mut self, at: usize) -> Result<()> {
        let machine = &self.machines[at];
        let (key, Some(ticket)) = (machine.fingerprint(), machine.ticket) else { return Ok(()) };
        let known = self.model.promised(ticket, key).cloned();
        // A key whose replacement may have been heard is used for nothing else.
        let may_ask = machine.disk.bound && machine.disk.next_key.is_none();
        let Some(before) = known.filter(|_| may_ask) else { return Ok(()) };
        match self.enrol(ticket, key, Fate::Answered)? {
            Some(Ok(answer)) => ensure!(answer == before, "{before:?} became {answer:?}"),
            Some(Err(no)) => ensure!(
                matches!(
                    no.class,
                    ErrorClass::Held
                        | ErrorClass::Superseded
                        | ErrorClass::Revoked
                        | ErrorClass::StaleCoordinator
                ),
                "a bound key is told {no:?}"
            ),
            None => bail!("the answer was not lost"),
        }
        Ok(())
    }

    /// The network delivers what a machine gave up long ago.
    pub(super) fn late(&mut self, at: usize) -> Result<()> {
        let machine = &self.machines[at];
        let (key, Some(turn), now) = (machine.fingerprint(), machine.before, self.now) else { return Ok(()) };
        let heard = self.ask(Fate::Answered, |tx| match keys::owner(tx, &key)? {
            Some(KeyOwner::Node { seat, .. }) => {
                epoch::check(tx)?;
                open::open(tx, &seat, turn, true, &Actor::local(), now)
            }
            _ => Ok(Err(ApiError::new(ErrorClass::Policy, "this key has not enrolled"))),
        })?;
        let _ = heard;
        Ok(())
    }

    /// Something that an operator says of a node, said twice.
    pub(super) fn operate(
        &mut self,
        fate: Fate,
        mut transition: impl FnMut(&Transaction<'_>, &Actor, Timestamp) -> Result<()>,
    ) -> Result<Result<(), ApiError>> {
        let now = self.now;
        let first = self.insist(fate, |tx| transition(tx, &Actor::local(), now))?;
        let second = self.insist(Fate::Answered, |tx| transition(tx, &Actor::local(), now))?;
        ensure!(first.is_ok() == second.is_ok(), "{first:?} became {second:?}");
        Ok(first)
    }

    pub(super) fn release(&mut self, node: usize, fate: Fate) -> Result<Result<(), ApiError>> {
        self.forget_heard(node);
        if self.sabotage == Some(Sabotage::ReleaseDoesNothing) {
            return Ok(Ok(()));
        }
        self.operate(fate, |tx, actor, now| operator::release(tx, &name(node), actor, now))
    }

    /// The registry takes whatever comes next from these machines.
    fn forget_heard(&mut self, node: usize) {
        self.machines.iter_mut().filter(|machine| machine.node == node).for_each(|machine| machine.heard = 0);
    }

    pub(super) fn approve(&mut self, machine: usize, fate: Fate) -> Result<Result<(), ApiError>> {
        let (node, key) = (self.machines[machine].node, self.machines[machine].fingerprint());
        let Some(nobody) = self.new_ticket() else { return Ok(Ok(())) };
        self.operate(fate, |tx, actor, now| {
            vouch::approve(tx, &name(node), key, &POOL.tickets[nobody], actor, now).map(drop)
        })
    }

    pub(super) fn raise_epoch(&mut self, fate: Fate) -> Result<()> {
        (0..NODES.len()).for_each(|node| self.forget_heard(node));
        let now = self.now;
        self.insist(fate, |tx| epoch::raise(tx, "an operator decided", &Actor::local(), now))??;
        Ok(())
    }

    /// The machine's disk is copied into another machine.
    pub(super) fn copy(&mut self, at: usize) {
        let lineage = self.machines[at].lineage;
        let copy = Machine { before: None, ..self.machines[at].clone() };
        self.machines.push(copy);
        let copies = self.machines.iter_mut().filter(|machine| machine.lineage == lineage);
        copies.for_each(|machine| machine.heard = 0);
    }

    pub(super) fn back_up(&mut self) -> Result<()> {
        self.backup = Some(self.copied()?);
        Ok(())
    }

    fn copied(&mut self) -> Result<Backup> {
        // Both copies have been here, whether or not anybody was told yet: a turn
        // that is asked again is answered with this as long as nothing changes.
        let reach = self.look(reach::reach)?;
        self.model.gave(reach);
        Ok(Backup { image: self.platter.image()?, model: self.model.clone() })
    }

    /// An old copy of the registry is served, without anybody knowing.
    pub(super) fn serve_old_copy(&mut self) -> Result<()> {
        let Some(backup) = self.backup.clone() else { return Ok(()) };
        self.serve_instead(&backup)
    }

    /// The registry comes back that another copy of it was served instead of.
    pub(super) fn serve_original(&mut self) -> Result<()> {
        let Some(original) = self.original.take() else { return Ok(()) };
        self.serve_instead(&original)
    }

    fn serve_instead(&mut self, other: &Backup) -> Result<()> {
        self.original = Some(self.copied()?);
        self.set_back(other)
    }

    fn set_back(&mut self, to: &Backup) -> Result<()> {
        self.platter.set_back(&to.image)?;
        self.model.set_back_to(to.model.clone());
        (0..NODES.len()).for_each(|node| self.forget_heard(node));
        Ok(())
    }

    pub(super) fn restore(&mut self) -> Result<bool> {
        let Some(backup) = self.backup.clone() else { return Ok(false) };
        self.set_back(&backup)?;
        let (now, sabotage) = (self.now, self.sabotage);
        // As `backup::restore` does it, before anybody is answered.
        if sabotage != Some(Sabotage::RestoreKeepsTickets) {
            self.look(|tx| restore::restored(tx, "a backup", &Actor::local(), now))?;
        }
        Ok(true)
    }

    pub(super) fn extend(&mut self, node: usize, fate: Fate) -> Result<Result<(), ApiError>> {
        let lifetime = u32::try_from(LIFETIME)?;
        self.operate(fate, |tx, actor, now| operator::extend(tx, &name(node), lifetime, actor, now).map(drop))
    }

    /// Whose seat a machine speaks for: of the node that its key was bound to,
    /// or the one that its ticket is for.
    pub(super) fn contact(&self, at: usize) -> Did {
        let machine = &self.machines[at];
        match self.model.node_of(&machine.fingerprint()) {
            Some(node) if machine.disk.bound => Did::Contact(node),
            _ => Did::Enrol(machine.node),
        }
    }
}

pub(super) fn name(node: usize) -> NodeName {
    NODES[node].parse().unwrap()
}
