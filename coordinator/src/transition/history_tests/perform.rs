//! What each operation of a history does to the world.

use anyhow::{Context as _, Result, ensure};
use jiff::SignedDuration;

use super::Op;
use super::checks::Did;
use super::machine::POOL;
use super::sabotage::{Sabotage, spoil};
use super::world::{World, name};
use crate::transition::{operator, rotate, vouch};

impl World {
    /// Does one thing, and looks at what became of the registry.
    pub(super) fn step(&mut self, op: &Op) -> Result<()> {
        let did = self.perform(op).with_context(|| format!("{op:?}"))?;
        self.check(did).with_context(|| format!("after {op:?}"))
    }

    #[expect(clippy::too_many_lines, reason = "a few lines for each thing that may happen")]
    fn perform(&mut self, op: &Op) -> Result<Did> {
        let machine = |index: &proptest::sample::Index, world: &Self| {
            (!world.machines.is_empty()).then(|| index.index(world.machines.len()))
        };
        Ok(match op {
            Op::Mint(node, fate) => {
                if let Some(machine) = self.mint(*node, *fate)? {
                    self.mint_again(self.machines[machine].ticket.context("it was just minted")?)?;
                }
                Did::Nothing
            }
            Op::Machine(node) => {
                self.without_ticket(*node);
                Did::Nothing
            }
            Op::Act(index, fate) => match machine(index, self) {
                None => Did::Nothing,
                Some(at) => {
                    let did = self.contact(at);
                    self.act(at, *fate)?;
                    did
                }
            },
            Op::Again(index) => {
                if let Some(at) = machine(index, self) {
                    self.again(at)?;
                }
                Did::Again
            }
            Op::Late(index) => {
                if let Some(at) = machine(index, self) {
                    self.late(at)?;
                }
                // It may change nothing at all.
                Did::Nothing
            }
            Op::Steal { ticket, machine: with, fate } => {
                if self.tickets.is_empty() {
                    return Ok(Did::Nothing);
                }
                let ticket = ticket.index(self.tickets.len());
                let known = with.as_ref().and_then(|index| machine(index, self));
                let known = known.map(|at| self.machines[at].fingerprint());
                let Some(key) = known.or_else(|| self.new_key().map(|key| POOL.keys[key])) else {
                    return Ok(Did::Nothing);
                };
                let node = self.tickets[ticket].node;
                self.model.doubt(node);
                // The key may be another node's, which this does not become.
                if let Some(owner) = self.model.node_of(&key) {
                    self.model.doubt(owner);
                }
                let (first, second) = (self.enrol(ticket, key, *fate)?, self.enrol(ticket, key, *fate)?);
                if let (Some(Ok(first)), Some(second)) = (first, second) {
                    ensure!(second == Ok(first), "the same request was answered otherwise: {second:?}");
                }
                Did::Steal(node)
            }
            Op::Confirm { machine: index, node, fate } => match machine(index, self) {
                None => Did::Nothing,
                Some(at) => {
                    let (node, shown) = (*node, self.machines[at].fingerprint());
                    if self.model.node_of(&shown) != Some(node) {
                        self.model.doubt(node);
                    }
                    // It may be the key of an earlier generation.
                    self.model.doubt(self.machines[at].node);
                    let _ = self.operate(*fate, |tx, actor, now| {
                        vouch::confirm(tx, &name(node), None, shown, actor, now).map(drop)
                    })?;
                    Did::Confirm(node)
                }
            },
            Op::Approve(index, fate) => match machine(index, self) {
                None => Did::Nothing,
                Some(at) => {
                    let _ = self.approve(at, *fate)?;
                    Did::Approve(self.machines[at].node)
                }
            },
            Op::Release(node, fate) => {
                let _ = self.release(*node, *fate)?;
                Did::Release(*node)
            }
            Op::Revoke(node, fate) => {
                let _ =
                    self.operate(*fate, |tx, actor, now| operator::revoke(tx, &name(*node), actor, now))?;
                Did::Revoke(*node)
            }
            Op::Extend(node, fate) => {
                let _ = self.extend(*node, *fate)?;
                Did::Nothing
            }
            Op::AskRotation(node, fate) => {
                let _ = self.operate(*fate, |tx, actor, now| rotate::ask(tx, &name(*node), actor, now))?;
                Did::Nothing
            }
            Op::Copy(index) => {
                if let Some(at) = machine(index, self) {
                    self.model.doubt(self.machines[at].node);
                    self.copy(at);
                }
                Did::Nothing
            }
            Op::RollBack(index) => {
                if let Some(at) = machine(index, self)
                    && let Some(snapshot) = self.machines[at].snapshot.clone()
                {
                    self.model.doubt(self.machines[at].node);
                    self.machines[at].disk = snapshot;
                }
                Did::Nothing
            }
            Op::BackUp => {
                self.back_up()?;
                Did::Nothing
            }
            Op::Restore => {
                if self.restore()? {
                    Did::Restore
                } else {
                    Did::Nothing
                }
            }
            Op::ServeOldCopy => {
                self.serve_old_copy()?;
                Did::Nothing
            }
            Op::ServeOriginal => {
                self.serve_original()?;
                Did::Nothing
            }
            Op::RaiseEpoch(fate) => {
                self.raise_epoch(*fate)?;
                Did::Restore
            }
            Op::Crash => {
                self.platter.restart()?;
                if self.sabotage == Some(Sabotage::CrashUnbinds) {
                    self.look(spoil::crash)?;
                }
                Did::Nothing
            }
            Op::Wait(seconds) => {
                self.now += SignedDuration::from_secs(*seconds);
                Did::Nothing
            }
        })
    }
}
