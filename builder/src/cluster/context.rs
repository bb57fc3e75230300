//! A cluster that a run may change: its lock, its journal, its objects.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kiln_coordinator::{Coordinator, UnlockFile};
use kiln_protocol::ClusterName;
use kiln_protocol::recovery::RecoverySeed;

use super::files;
use super::journal::{Event, Journal};
use super::lock::Lock;
use super::paths::{ClusterDir, StateDir};
use crate::provider::{Object, Provider, Record, Selector, SpecHash, Subject};
use crate::run::RunId;

/// A cluster and the right to change it.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) dir: ClusterDir,
    pub(super) lock: Lock,
    pub(super) journal: Journal,
    pub(super) selector: Selector,
    pub(super) run: RunId,
    pub(super) provider: Provider,
    /// What the coordinator's secrets are sealed under.
    pub(super) unlock: UnlockFile,
    /// Where the coordinator's recovery key is kept until somebody takes it offline.
    pub(super) recovery: PathBuf,
}

impl Context {
    /// Takes the cluster's lock and reads its journal.
    pub(super) fn open(
        state: &StateDir,
        cluster: &ClusterName,
        provider: Provider,
        command: &str,
    ) -> Result<Self> {
        Self::open_with(state, cluster, provider, command, Journal::open)
    }

    /// As [`Context::open`], to remove the cluster: a journal that cannot be
    /// read is no reason to keep it.
    pub(super) fn open_to_remove(
        state: &StateDir,
        cluster: &ClusterName,
        provider: Provider,
        command: &str,
    ) -> Result<Self> {
        Self::open_with(state, cluster, provider, command, |path| {
            Journal::open(path).or_else(|error| {
                tracing::warn!("{error:#}; the cluster is removed all the same");
                files::remove(path)?;
                Journal::open(path)
            })
        })
    }

    fn open_with(
        state: &StateDir,
        cluster: &ClusterName,
        provider: Provider,
        command: &str,
        journal: impl FnOnce(&Path) -> Result<Journal>,
    ) -> Result<Self> {
        let dir = state.cluster(cluster);
        let selector = Selector { owner: state.ensure_owner()?, cluster: cluster.clone() };
        let lock = Lock::take(&dir, &format!("builder {command}"))?;
        let journal = journal(&dir.journal())?;
        let (unlock, recovery) = (state.unlock_key(), state.recovery_key(cluster));
        let run = RunId::generate();
        let mut context = Self { dir, lock, journal, selector, run, provider, unlock, recovery };
        let (run, command) = (context.run.clone(), command.to_owned());
        context.journal.append(Event::Begin { run, command, at: Timestamp::now() })?;
        Ok(context)
    }

    /// The record of something this run makes now.
    pub(super) fn record(&self, subject: Subject, spec_hash: SpecHash) -> Record {
        Record::new(&self.selector, subject, self.run.clone(), spec_hash)
    }

    /// Notes that this run is about to make something, unless it is there.
    pub(super) fn making(&mut self, subject: &Subject, there: bool) -> Result<()> {
        if there {
            return Ok(());
        }
        self.journal.append(Event::Making { run: self.run.clone(), subject: subject.clone() })
    }

    /// Removes an object.
    pub(super) async fn delete(&mut self, object: &Object) -> Result<()> {
        let subject = object.record.subject.clone();
        let removed = self.provider.delete(&self.selector, object).await;
        removed.with_context(|| format!("removing the {subject} of cluster {}", self.selector.cluster))?;
        self.journal.append(Event::Removed { subject })
    }

    /// The cluster's coordinator; made if there is none.
    pub(super) async fn coordinator(&self) -> Result<Coordinator> {
        let dir = self.dir.coordinator();
        if dir.exists() {
            // The cluster works with it there; no copy of its state should hold it.
            if let Err(error) = Coordinator::take_out_recovery_key(&dir, &self.recovery) {
                tracing::warn!("{error:#}: move it to a place that is offline");
            }
        } else {
            // Whole or absent, like everything here.
            let new = self.dir.path().join(".new-coordinator");
            files::remove(&new)?;
            let keep = |recovery: &RecoverySeed| Coordinator::keep_recovery_key(&self.recovery, recovery);
            Coordinator::init_with(&new, &self.unlock, keep).context("making the coordinator's state")?;
            std::fs::rename(&new, &dir)
                .and_then(|()| files::sync_dir(self.dir.path()))
                .with_context(|| format!("making {}", dir.display()))?;
        }
        Coordinator::open_with(&dir, &self.unlock)
            .await
            .with_context(|| format!("opening the coordinator's state {}", dir.display()))
    }
}
