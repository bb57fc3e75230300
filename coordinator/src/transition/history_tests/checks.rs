//! What has to be true of the registry after everything that happens.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};
use jiff::Timestamp;
use kiln_protocol::Fingerprint;
use kiln_protocol::api::EnrolAnswer;
use kiln_protocol::config::Incarnation;
use kiln_protocol::ratchet::Reach;

use super::NODES;
use super::world::World;
use crate::registry::{KeyOwner, Seat, State};
use crate::store::{incarnations, keys, seats};

/// What was done, as far as it says which seats may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Did {
    /// Nothing that may change what any key may do.
    Nothing,
    /// A machine that does not know itself bound asked for a node.
    Enrol(usize),
    /// A key came with a ticket of a node that was not made for it.
    Steal(usize),
    /// A bound machine asked to be enrolled again.
    Again,
    /// A bound machine of a node opened a connection, or asked for another key.
    Contact(usize),
    Confirm(usize),
    Approve(usize),
    Release(usize),
    Revoke(usize),
    /// An epoch began.
    Restore,
}

/// What was promised, and what is known to have happened outside.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    /// The seat and the node that each key was first seen bound to.
    names: BTreeMap<Fingerprint, (i64, usize)>,
    promises: BTreeMap<(usize, Fingerprint), EnrolAnswer>,
    /// Somebody has used a ticket or a copy of a disk of this node, or has
    /// read its console: it may be held for that.
    doubtful: [bool; NODES.len()],
    /// The stamps that were given.
    given: BTreeSet<Reach>,
    before: Vec<Seat>,
}

impl Model {
    pub(super) fn doubt(&mut self, node: usize) {
        self.doubtful[node] = true;
    }

    pub(super) fn is_doubtful(&self, node: usize) -> bool {
        self.doubtful[node]
    }

    /// The node that a key is or was bound to.
    pub(super) fn node_of(&self, key: &Fingerprint) -> Option<usize> {
        self.names.get(key).map(|(_, node)| *node)
    }

    pub(super) fn promised(&self, ticket: usize, key: Fingerprint) -> Option<&EnrolAnswer> {
        self.promises.get(&(ticket, key))
    }

    /// A key was told that it is bound by a ticket: that is so for ever.
    pub(super) fn promise(&mut self, ticket: usize, key: Fingerprint, answer: &EnrolAnswer) -> Result<()> {
        let promised = self.promises.entry((ticket, key)).or_insert_with(|| answer.clone());
        ensure!(promised == answer, "{promised:?} became {answer:?}");
        Ok(())
    }

    pub(super) fn gave(&mut self, stamp: Reach) {
        self.given.insert(stamp);
    }

    /// Whether a stamp was given by another copy of the registry, which is in the
    /// epoch `own`. After another epoch has begun, older stamps say nothing.
    pub(super) fn is_foreign(&self, stamp: Reach, own: u64) -> bool {
        stamp.epoch >= own && !self.given.contains(&stamp)
    }

    /// The registry knows what it knew then; what happened outside, happened.
    pub(super) fn set_back_to(&mut self, then: Self) {
        let doubtful = self.doubtful;
        *self = Self { doubtful, ..then };
    }
}

impl World {
    pub(super) fn check(&mut self, did: Did) -> Result<()> {
        let after = self.look(|tx| seats::of_incarnation(tx, Incarnation(1)))?;
        for (node, name) in NODES.iter().enumerate() {
            let of_node = || after.iter().filter(|seat| seat.node.as_str() == *name);
            ensure!(of_node().filter(|s| s.state.is_live()).count() <= 1, "two live keys for {name}");
            let held = of_node().any(|seat| matches!(seat.state, State::Held(_)));
            ensure!(!held || self.model.is_doubtful(node), "{name} is held, and nobody has given a reason");
        }
        for seat in &after {
            let Some(key) = seat.state.key() else { continue };
            let node = NODES.iter().position(|name| seat.node.as_str() == *name).unwrap_or(usize::MAX);
            let first = *self.model.names.entry(key).or_insert((seat.id, node));
            ensure!(first.0 == seat.id, "key {key} got a second name: {}", seat.label());
        }
        let before = std::mem::take(&mut self.model.before);
        for old in &before {
            let Some(new) = after.iter().find(|seat| seat.id == old.id) else {
                bail!("seat {} is gone", old.label());
            };
            self.check_change(old, new, did)?;
        }
        if did == Did::Restore {
            let usable = after.iter().find(|seat| seat.state == State::Issued);
            ensure!(usable.is_none(), "a ticket of the time before can still be used: {usable:?}");
        }
        self.check_copies()?;
        let in_use = self.look(keys::in_use)?;
        ensure!(
            self.platter.known.all() == in_use,
            "{in_use:?} are in use, and known are {:?}",
            self.platter.known
        );
        let lease = self.look(|tx| Ok(incarnations::live(tx)?.map(|live| live.lease)))?;
        let Some(lease) = lease else { bail!("the incarnation is gone") };
        let newest = after.iter().filter(|s| s.node == lease.node && s.state.key().is_some());
        // Nobody has passed the gate in these histories.
        ensure!(lease.generation == newest.map(|seat| seat.generation).max(), "the lease is {lease:?}");
        self.model.before = after;
        Ok(())
    }

    fn check_change(&mut self, old: &Seat, new: &Seat, did: Did) -> Result<()> {
        if allowed(old, new, did, self.now) {
            return Ok(());
        }
        // A key took another's place: its own wish, and the other is no more.
        if let (State::Bound(former), State::Bound(key), Did::Contact(node)) = (old.state, new.state, did)
            && old.node.as_str() == NODES[node]
            && let Some(KeyOwner::Former(seat)) = self.look(|tx| keys::owner(tx, &former))?
            && seat.id == new.id
            && self.model.names.get(&key).is_some_and(|(seat, _)| *seat == new.id)
        {
            return Ok(());
        }
        bail!("{did:?} took {old:?} to {new:?}")
    }

    /// Of the machines that began with one disk, one is heard for long.
    fn check_copies(&self) -> Result<()> {
        for machine in &self.machines {
            let copies = self.machines.iter().filter(|other| other.lineage == machine.lineage);
            let going_on = copies.filter(|copy| copy.heard >= 2).count();
            ensure!(going_on <= 1, "{going_on} copies of one disk go on, and nobody notices");
        }
        Ok(())
    }
}

/// Whether what was done may take a seat from one state to another.
fn allowed(old: &Seat, new: &Seat, did: Did, now: Timestamp) -> bool {
    let of = |node: usize| old.node.as_str() == NODES[node];
    let enrols = matches!(did, Did::Enrol(node) | Did::Steal(node) if of(node));
    match (old.state, new.state) {
        (before, after) if before == after => true,
        // Once the console was read, nobody else binds.
        (State::Issued, State::Bound(key)) => {
            enrols && now < old.expires && old.console_key.is_none_or(|shown| shown == key)
        }
        // That there is a reason is looked at elsewhere.
        (State::Bound(a), State::Held(b)) => {
            let speaks = matches!(did, Did::Enrol(_) | Did::Steal(_) | Did::Again | Did::Contact(_));
            let shown = matches!(did, Did::Confirm(node) if of(node))
                && new.console_key.is_some_and(|shown| shown != a);
            a == b && (speaks || shown)
        }
        (State::Held(a), State::Bound(b)) => matches!(did, Did::Release(node) if of(node)) && a == b,
        (State::Revoked(_) | State::Superseded(_), _) => false,
        (_, State::Superseded(key)) => {
            let approves = matches!(did, Did::Approve(node) if of(node));
            (enrols || approves) && key == old.state.key()
        }
        (State::Issued, State::Revoked(None)) if did == Did::Restore => true,
        (_, State::Revoked(key)) => matches!(did, Did::Revoke(node) if of(node)) && key == old.state.key(),
        _ => false,
    }
}
