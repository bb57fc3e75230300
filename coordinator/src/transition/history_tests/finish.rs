//! The faults have stopped: does an honest node of every name join?

use anyhow::{Context as _, Result, bail, ensure};
use jiff::SignedDuration;
use kiln_protocol::ErrorClass;

use super::checks::Did;
use super::disk::Fate;
use super::world::World;
use super::{LIFETIME, NODES};
use crate::registry::KeyOwner;
use crate::store::keys;

/// So often a machine or an operator does something for a node to join.
const PATIENCE: usize = 24;

impl World {
    /// From here on nothing is lost, no copy and no thief speaks, and an
    /// operator does what the errors tell him.
    pub(super) fn finish(&mut self) -> Result<()> {
        for (node, name) in NODES.iter().enumerate() {
            let machine = match self.kept_by_the_operator(node)? {
                Some(machine) => machine,
                None => self.mint(node, Fate::Answered)?.context("the pool is large enough")?,
            };
            let joined = self.join_in_the_end(node, machine).with_context(|| format!("{name} is to join"))?;
            // And it stays so, without anybody's help.
            for _ in 0..3 {
                let did = self.contact(joined);
                let heard = self.act(joined, Fate::Answered)?;
                ensure!(heard == Some(Ok(())), "{name} has joined, and is then told {heard:?}");
                self.check(did)?;
            }
        }
        Ok(())
    }

    /// The newest machine of a node. Of copies of one disk, the one that the
    /// registry knows, if it knows one.
    fn kept_by_the_operator(&mut self, node: usize) -> Result<Option<usize>> {
        let Some(newest) = self.machines.iter().rposition(|machine| machine.node == node) else {
            return Ok(None);
        };
        for at in 0..=newest {
            let machine = &self.machines[at];
            let key = machine.fingerprint();
            // Its key may be another node's, for which somebody has used it.
            let is_its_own = self.model.node_of(&key).is_none_or(|owner| owner == node);
            if machine.lineage == self.machines[newest].lineage && is_its_own && !self.is_former(at)? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    fn is_former(&mut self, machine: usize) -> Result<bool> {
        let key = self.machines[machine].fingerprint();
        self.look(|tx| Ok(matches!(keys::owner(tx, &key)?, Some(KeyOwner::Former(_)))))
    }

    fn join_in_the_end(&mut self, node: usize, mut machine: usize) -> Result<usize> {
        let mut told = Vec::new();
        for _ in 0..PATIENCE {
            let did = self.contact(machine);
            let disk = &self.machines[machine].disk;
            // Only who opens a connection is in.
            let opens = disk.bound && !disk.rotation_asked && disk.next_key.is_none();
            let heard = self.act(machine, Fate::Answered)?;
            self.check(did)?;
            let no = match heard.context("nothing is lost any more")? {
                Ok(()) if opens => return Ok(machine),
                Ok(()) => continue,
                Err(no) => no,
            };
            told.push(no.class);
            match no.class {
                ErrorClass::Transient => {}
                // A key that was replaced is over, and so is what was set back to it.
                ErrorClass::Held if !self.is_former(machine)? => {
                    self.release(node, Fate::Answered)??;
                    self.check(Did::Release(node))?;
                }
                ErrorClass::StaleCoordinator => {
                    self.raise_epoch(Fate::Answered)?;
                    self.check(Did::Restore)?;
                }
                // An operator sees both ends of a ticket's time, and his clock.
                ErrorClass::TicketExpired if told.len() <= 4 => {
                    self.now += SignedDuration::from_secs(2 * LIFETIME);
                    let _ = self.extend(node, Fate::Answered)?;
                    self.check(Did::Nothing)?;
                }
                ErrorClass::Pending if self.approve(machine, Fate::Answered)?.is_ok() => {
                    self.check(Did::Approve(node))?;
                }
                _ => machine = self.mint(node, Fate::Answered)?.context("the pool is large enough")?,
            }
        }
        bail!("it was told {told:?}, and is not in")
    }
}
