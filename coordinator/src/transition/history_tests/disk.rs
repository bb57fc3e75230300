//! What a history's registry is kept on: the database in memory, or the one in
//! use, on a file.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::acquainted::Acquainted;
use crate::store::engine::{Engine, Transaction, Undo};
use crate::store::memory::{Disk, Memory};
use crate::store::{epoch, keys, relaxed_engine};

/// How a request fares between its sender and the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Answered,
    /// The network loses it.
    Unheard,
    /// The network loses what it is answered with.
    AnswerLost,
    /// The coordinator dies before it is durable.
    DiesBefore,
    /// The coordinator dies when it is durable, before it answers.
    DiesAfter,
}

/// A whole database, as it was at some moment.
pub(super) type Image = Vec<u8>;

#[derive(Debug)]
enum Kind {
    Memory(Disk),
    File { dir: tempfile::TempDir, copies: usize },
}

/// A disk, and the coordinator's database on it.
pub(super) struct Platter {
    kind: Kind,
    /// There is always one, but while it is opened anew.
    engine: Option<Box<dyn Engine>>,
    /// Which keys the process takes for known, as it has followed that so far.
    pub(super) known: Acquainted,
    /// A defect: a process that begins counts on where the last one was.
    counts_on: bool,
}

impl Platter {
    pub(super) fn in_memory(image: &Image, counts_on: bool) -> Result<Self> {
        let disk = Disk::default();
        if !image.is_empty() {
            disk.set_image(image);
        }
        let known = Acquainted::of(HashSet::new());
        let mut platter = Self { kind: Kind::Memory(disk), engine: None, known, counts_on };
        platter.restart()?;
        Ok(platter)
    }

    pub(super) fn on_file(image: &Image) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (kind, known) = (Kind::File { dir, copies: 0 }, Acquainted::of(HashSet::new()));
        let mut platter = Self { kind, engine: None, known, counts_on: false };
        platter.set_back(image)?;
        Ok(platter)
    }

    /// The process is killed, and another begins.
    pub(super) fn restart(&mut self) -> Result<()> {
        if let Some(engine) = self.engine.take() {
            engine.close()?;
        }
        self.engine = Some(match &self.kind {
            Kind::Memory(disk) => Box::new(Memory::open(disk)?),
            Kind::File { dir, .. } => relaxed_engine(&dir.path().join("state.db"))?,
        });
        let known = self.transact(Fate::Answered, false, keys::in_use)?.context("it is certain")??;
        self.known = Acquainted::of(known);
        if !self.counts_on {
            // As `Coordinator::open_with` does it, before anybody is answered.
            self.transact(Fate::Answered, false, epoch::start)?.context("it is certain")??;
        }
        Ok(())
    }

    /// What a backup of this moment holds.
    pub(super) fn image(&mut self) -> Result<Image> {
        let engine = self.engine.as_mut().context("the database is open")?;
        match &mut self.kind {
            Kind::Memory(disk) => Ok(disk.image()),
            Kind::File { dir, copies } => {
                *copies += 1;
                let copy: PathBuf = dir.path().join(format!("copy-{copies}"));
                engine.backup(&copy)?;
                Ok(std::fs::read(copy)?)
            }
        }
    }

    /// The disk holds an earlier moment again.
    pub(super) fn set_back(&mut self, image: &Image) -> Result<()> {
        if let Some(engine) = self.engine.take() {
            engine.close()?;
        }
        match &self.kind {
            Kind::Memory(disk) => disk.set_image(image),
            Kind::File { dir, .. } => {
                for log in ["state.db-wal", "state.db-shm"] {
                    let _ = std::fs::remove_file(dir.path().join(log));
                }
                std::fs::write(dir.path().join("state.db"), image)?;
            }
        }
        self.restart()
    }

    /// One transaction, and what its sender hears of it: nothing if it or the
    /// answer was lost. `answers_early` is a defect: it answers what it then
    /// does not keep.
    pub(super) fn transact<T>(
        &mut self,
        fate: Fate,
        answers_early: bool,
        transition: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> Result<Option<Result<T>>> {
        if fate == Fate::Unheard {
            return Ok(None);
        }
        let engine = self.engine.as_mut().context("the database is open")?;
        engine.begin()?;
        let (mut transition, mut result, mut known) = (Some(transition), None, Vec::new());
        engine.attempt(Undo::Own, &mut |tx| {
            let outcome = transition.take().map(|transition| transition(tx));
            let keep = outcome.as_ref().is_some_and(Result::is_ok);
            result = outcome;
            if keep {
                known = tx.take_keys();
            }
            keep
        })?;
        if fate == Fate::DiesBefore || answers_early {
            engine.rollback();
        } else {
            engine.commit()?;
            self.known.follow(&known);
        }
        if matches!(fate, Fate::DiesBefore | Fate::DiesAfter) {
            self.restart()?;
        }
        Ok(result.filter(|_| fate == Fate::Answered))
    }
}
