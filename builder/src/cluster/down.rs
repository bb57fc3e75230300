//! `builder down`: the cluster and everything of it is gone.
//!
//! Nodes first; the incarnation ends with its last server, even if another node
//! cannot be removed; then network and images, then the state. A run that is cut
//! off is finished by the next one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kiln_coordinator::{Coordinator, UnlockFile};
use kiln_protocol::{NodeName, Role};
use tokio::time::Instant;

use super::context::Context;
use super::files;
use super::journal::Event;
use super::paths::StateDir;
use crate::provider::qemu::Qemu;
use crate::provider::{Object, Provider, Subject};

/// What `builder down` is asked for.
#[derive(Debug)]
pub struct Options {
    /// The cluster file; only the cluster's name counts.
    pub file: PathBuf,
    /// The state directory, if not the usual one.
    pub state: Option<PathBuf>,
    /// Where to keep what the nodes' consoles said.
    pub keep_logs: Option<PathBuf>,
}

/// Takes a cluster down. Doing so twice is fine.
pub async fn down(options: Options) -> Result<()> {
    let file = super::target::read_file(&options.file)?;
    let (state, name) = (StateDir::resolve(options.state)?, file.name());
    if !state.cluster(name).path().exists() {
        eprintln!("there is nothing of cluster {name} under {}", state.path().display());
        return Ok(());
    }
    let provider = Provider::Qemu(Qemu::new(&state));
    let context = Context::open_to_remove(&state, name, provider, &format!("down {name}"))?;
    let left = remove_all(context, options.keep_logs.as_deref()).await?;
    if left.is_empty() {
        eprintln!("cluster {name} is gone");
        return Ok(());
    }
    bail!(
        "cluster {name} is not all gone; what is left:\n  {}\nRun `builder down` again once the cause is gone",
        left.join("\n  ")
    )
}

/// How long the coordinator's state may be in use by what is just ending.
const LET_GO: Duration = Duration::from_secs(2);
/// Files of a node that may be kept: what its consoles said.
const LOGS: [&str; 3] = ["console.log", "console.log.1", "qemu.log"];

/// Removes everything; keeps the nodes' logs in `logs` if that is wanted.
/// Returns what was left, and why.
pub(super) async fn remove_all(mut context: Context, logs: Option<&Path>) -> Result<Vec<String>> {
    if !context.journal.state().ending {
        context.journal.append(Event::Ending)?;
    }
    let listing = context.provider.list(&context.selector).await?;
    if let Some(logs) = logs {
        for object in &listing.ours {
            keep_logs(object, logs)?;
        }
    }
    let mut left: Vec<String> = listing.foreign.iter().map(|(id, why)| format!("{id}: {why}")).collect();
    let (nodes, rest): (Vec<_>, Vec<_>) = listing.ours.iter().partition(|object| object.node().is_some());
    left.extend(delete(&mut context, &nodes).await);
    let still = context.provider.list(&context.selector).await?;
    let still: Vec<NodeName> = still.ours.iter().filter_map(|object| object.node().cloned()).collect();
    end_incarnation(&mut context, &still).await;
    if left.is_empty() {
        left.extend(delete(&mut context, &rest).await);
    }
    if left.is_empty() {
        left.extend(context.provider.list(&context.selector).await?.ours.into_iter().map(|object| object.id));
    }
    if left.is_empty() {
        remove_state(context)?;
    }
    Ok(left)
}

async fn delete(context: &mut Context, objects: &[&Object]) -> Vec<String> {
    let mut left = Vec::new();
    for object in objects.iter().rev() {
        if let Err(error) = context.delete(object).await {
            left.push(format!("{}: {error:#}", object.id));
        }
    }
    left
}

/// Ends the incarnation once its last server is gone, whatever else is `still`
/// there: no key of the cluster is worth anything after this. The state is removed
/// next, so a state that cannot be opened is no reason to keep it.
async fn end_incarnation(context: &mut Context, still: &[NodeName]) {
    let dir = context.dir.coordinator();
    if context.journal.state().ended || !dir.exists() {
        return;
    }
    let end = async {
        let coordinator = open_coordinator(&dir, &context.unlock).await?;
        let status = coordinator.status().await?;
        let is_server = |name: &NodeName| status.node(name).is_none_or(|node| node.role == Role::Server);
        if still.iter().any(is_server) {
            return Ok(());
        }
        coordinator.end(&context.selector.cluster).await?;
        context.journal.append(Event::Ended)
    };
    if let Err(error) = end.await {
        tracing::warn!("ending the incarnation: {error:#}; the coordinator's state is removed all the same");
    }
}

/// What an interrupted run of ours served may take a moment to let go of it.
async fn open_coordinator(dir: &Path, unlock: &UnlockFile) -> Result<Coordinator> {
    let deadline = Instant::now() + LET_GO;
    loop {
        match Coordinator::open_with(dir, unlock).await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(LET_GO / 20).await,
            opened => return opened,
        }
    }
}

/// The journal goes last but one, so that until then a run that is cut off is
/// known to be one; the lock goes last.
fn remove_state(context: Context) -> Result<()> {
    let Context { dir, lock, recovery, .. } = context;
    let reading = || format!("reading {}", dir.path().display());
    for entry in std::fs::read_dir(dir.path()).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        if path != dir.journal() && path != dir.lock() {
            files::remove(&path)?;
        }
    }
    files::remove(&recovery)?;
    files::remove(&dir.journal())?;
    lock.remove()?;
    // Another run may have begun the cluster anew already.
    let _ = std::fs::remove_dir(dir.path());
    let _ = dir.path().parent().map(std::fs::remove_dir);
    Ok(())
}

fn keep_logs(object: &Object, logs: &Path) -> Result<()> {
    let Subject::Node(name) = &object.record.subject else { return Ok(()) };
    for log in LOGS {
        let from = Path::new(&object.id).join(log);
        let to = logs.join(format!("{name}.{log}"));
        if from.is_file() {
            std::fs::create_dir_all(logs)
                .and_then(|()| std::fs::copy(&from, &to).map(drop))
                .with_context(|| format!("keeping {} as {}", from.display(), to.display()))?;
        }
    }
    Ok(())
}
