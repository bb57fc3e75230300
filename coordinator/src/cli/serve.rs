//! `init` and `serve`.

use std::fs;
use std::io::IsTerminal as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, Result};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::arguments::{Init, LogFormat, Serve};
use super::connect::Endpoint;
use super::{print, recovery, until_ready};
use crate::plan::ClusterFile;
use crate::store::dir::{self, StateDir};
use crate::store::events::Actor;
use crate::{Coordinator, Limits, Listeners, LocalListener};

pub(super) fn init(arguments: &Init) -> Result<()> {
    let path = &arguments.state.state;
    if !(arguments.if_missing && Coordinator::pin_at(path)?.is_some()) {
        let unlock = arguments.unlock.file(path);
        // A state that is there is refused below, in its own words.
        let file = match Coordinator::pin_at(path)? {
            None => recovery::place(path, arguments.recovery_out.as_deref())?,
            Some(_) => None,
        };
        let recovery = recovery::make(path, &unlock, file.as_deref())?;
        eprintln!(
            "made {}: back it up with coordinator backup; its secrets open with {}, of which you keep a copy elsewhere",
            path.display(),
            unlock.path().display()
        );
        recovery::hand_over(&recovery, file.as_deref());
    }
    let pin = Coordinator::pin_at(path)?;
    print(&format!("{}\n", pin.with_context(|| format!("there is no coordinator in {}", path.display()))?))
}

pub(super) async fn serve(arguments: &Serve) -> Result<()> {
    start_logging(arguments.log_format);
    let mut signals = Signals::new()?;
    let coordinator = {
        let path = &arguments.state.state;
        Coordinator::open_with(path, &arguments.unlock.file(path)).await?
    };
    let state = StateDir::new(&arguments.state.state);
    let listeners = listen(arguments, &state).await?;
    // Only now: what cannot serve puts nothing in force.
    if let Some(file) = &arguments.cluster {
        let applied = apply(&coordinator, file).await;
        applied.inspect_err(|_| drop(fs::remove_file(state.socket())))?;
    }
    if state.recovery_key().exists() {
        tracing::warn!(
            "{} is in the clear, and whoever copies the directory can have nodes take his key for the \
             coordinator's: move it to a place that is offline",
            state.recovery_key().display()
        );
    }
    if state.admin_key().exists() {
        tracing::warn!(
            "{} is in the clear, and whoever copies the directory is an admin: move it out of there, or take it \
             its rights (coordinator admin remove cli) and delete it",
            state.admin_key().display()
        );
    }
    let server = coordinator.serve_at(listeners, Limits::default()).await?;
    let cluster = arguments.cluster.as_ref().and_then(|file| fs::canonicalize(file).ok());
    let endpoint = Endpoint { address: server.local_addr(), status: server.status_addr(), cluster };
    dir::replace_private(&state.endpoint(), &serde_json::to_vec(&endpoint)?)?;
    let status = server.status_addr().map_or("none".to_owned(), |address| format!("http://{address}/"));
    tracing::info!(listen = %server.local_addr(), status, pin = %coordinator.pin(), "serving");
    notify(&[NotifyState::Ready]);
    let outcome = if arguments.until_ready {
        let time = arguments.timeout.time();
        tokio::select! {
            ready = until_ready::wait(&coordinator, time) => ready,
            () = follow_signals(&mut signals, &coordinator, arguments) => {
                Err(until_ready::stopped(&coordinator.status().await?).into())
            }
        }
    } else {
        follow_signals(&mut signals, &coordinator, arguments).await;
        Ok(())
    };
    tracing::info!("stopping");
    notify(&[NotifyState::Stopping]);
    // Gone before the listener, so that no command finds it and is cut off.
    let _ = fs::remove_file(state.endpoint());
    let _ = fs::remove_file(state.socket());
    tokio::select! {
        () = server.shutdown() => {}
        () = signals.next_stop() => tracing::warn!("told twice: stopping at once"),
    }
    outcome
}

/// Reads the cluster file again as often as it is told to; returns when told
/// to stop.
async fn follow_signals(signals: &mut Signals, coordinator: &Coordinator, arguments: &Serve) {
    while signals.next().await == Order::Reload {
        match &arguments.cluster {
            None => tracing::warn!("told to reload, but no --cluster file was given"),
            Some(file) => {
                if let Err(error) = apply(coordinator, file).await {
                    tracing::error!("the cluster file stays as it was: {error:#}");
                }
            }
        }
    }
}

/// Everything it answers at.
async fn listen(arguments: &Serve, state: &StateDir) -> Result<Listeners> {
    let nodes = TcpListener::bind(arguments.listen).await;
    let mut listeners = Listeners::nodes(
        nodes
            .with_context(|| format!("listening on {}: give another one with --listen", arguments.listen))?,
    );
    listeners.status = status_listener(arguments).await?;
    listeners.socket = Some(LocalListener::bind(&state.socket())?);
    Ok(listeners)
}

/// The listener of the status page. One that was asked for has to be there;
/// the default one must not keep a coordinator from serving nodes.
async fn status_listener(arguments: &Serve) -> Result<Option<TcpListener>> {
    const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7444);
    if arguments.no_status {
        return Ok(None);
    }
    let Some(address) = arguments.status_listen else {
        let bound = TcpListener::bind(DEFAULT).await;
        return Ok(bound.inspect_err(|error| tracing::warn!("no status page: {DEFAULT}: {error}")).ok());
    };
    let bound = TcpListener::bind(address).await;
    bound.map(Some).with_context(|| format!("listening on {address}: give another one with --status-listen"))
}

async fn apply(coordinator: &Coordinator, file: &Path) -> Result<()> {
    let plan = read_cluster_file(file)?;
    let at = || format!("putting {} in force", file.display());
    let words =
        |changes: &[String]| if changes.is_empty() { "nothing".to_owned() } else { changes.join("; ") };
    // Said before it is done, as `coordinator apply` does: also what replaces a
    // file that was put in force otherwise.
    let (incarnation, changes) = coordinator.preview(plan.clone()).await.with_context(at)?;
    tracing::info!(%incarnation, changes = words(&changes), file = %file.display(), "about to put the cluster file in force");
    let (incarnation, changes) = coordinator.apply_as(plan, Actor::local().into()).await.with_context(at)?;
    tracing::info!(%incarnation, changes = words(&changes), "cluster file in force");
    Ok(())
}

/// Reads a cluster file; errors begin with `FILE: line N, column M`.
pub(super) fn read_cluster_file(file: &Path) -> Result<ClusterFile> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    ClusterFile::parse(&text).map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Stop,
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.terminate.recv() => Order::Stop,
            _ = self.interrupt.recv() => Order::Stop,
            _ = self.hangup.recv() => Order::Reload,
        }
    }

    async fn next_stop(&mut self) {
        while self.next().await != Order::Stop {}
    }
}

/// Tells systemd, where it asked to be told. Never fatal.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("telling systemd: {error}");
    }
}

fn start_logging(format: LogFormat) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("KILN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second one, in-process, is not an error.
    let _ = match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => {
            log.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
        }
    };
}
