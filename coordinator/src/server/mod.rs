//! What the coordinator answers at: the listener of nodes and admins, HTTP/1.1
//! over the TLS of [`kiln_protocol::tls`]; the admin's socket; the status page.
//!
//! The accept loop is our own, because handshakes must not hold up the
//! accepting, header timeouts need a timer installed, and handlers need the
//! connection's key.
//!
//! | file | what it holds |
//! |---|---|
//! | `connection` | one connection from handshake to end |
//! | `crowd` | who is let in when too many want in |
//! | `turns` | how many nodes speak at a time |
//! | `park` | a connection that waits without what answers it |
//! | `whole` | whether a request was read and answered as a whole |
//! | `observe` | each request's name, time limit and place in the metrics |
//! | `api` | routes, bodies, errors, and who is asking |
//! | `open` | a node's connection begins; its key is replaced |
//! | `node` | what nodes may ask |
//! | `operator` | what admins may ask |
//! | `local` | the admin's socket |
//! | `pages` | metrics, health and the status page |

mod api;
mod connection;
mod crowd;
mod local;
mod metrics;
mod node;
mod observe;
mod open;
mod operator;
mod pages;
mod park;
mod turns;
mod whole;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::Coordinator;
use connection::Shared;
use crowd::Crowds;
pub(crate) use crowd::Source;
pub use local::LocalListener;
use metrics::Metrics;
use observe::Observer;
use turns::Turns;

/// How much strangers and friends may take.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Limits {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For a request's header, and between two requests of a connection.
    pub header: Duration,
    /// For a request's body and the answer to it.
    pub request: Duration,
    /// After which a connection ends with its current answer.
    pub age: Duration,
    /// For an answer that waits for news, at most.
    pub poll: Duration,
    /// For answers in flight at shutdown.
    pub grace: Duration,
    /// Handshakes at a time.
    pub handshakes: usize,
    /// Connections of unknown keys at a time.
    pub unknown: usize,
    /// Of these, from one source.
    pub unknown_per_source: usize,
    /// Connections of known keys at a time.
    pub known: usize,
    /// Of these, of one key.
    pub known_per_key: usize,
    /// Of known connections, those over which something is said at a time.
    pub speaking: usize,
    /// How long the others wait for one of these.
    pub turn: Duration,
    /// Connections to the socket and to the status page at a time.
    pub local: usize,
    /// How long a machine must have been silent before another takes its place.
    pub quiet: Duration,
    /// How long a joining server has to become ready before its place may be
    /// given on.
    pub slot: Duration,
    /// How long a question for chores waits for some.
    pub chores: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(30),
            request: Duration::from_secs(30),
            age: Duration::from_secs(3600),
            poll: Duration::from_secs(kiln_protocol::api::MAX_WAIT.into()),
            grace: Duration::from_secs(10),
            handshakes: 512,
            unknown: 512,
            unknown_per_source: 128,
            known: 16_384,
            known_per_key: 256,
            speaking: 256,
            turn: Duration::from_secs(1),
            local: 64,
            quiet: Duration::from_secs(30),
            slot: Duration::from_secs(900),
            chores: Duration::from_secs(10),
        }
    }
}

/// Wait after an `accept` that failed, as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where a coordinator answers.
#[derive(Debug)]
#[non_exhaustive]
pub struct Listeners {
    /// Nodes and admins, over TLS.
    pub nodes: TcpListener,
    /// Metrics, health and the status page, in plain HTTP.
    pub status: Option<TcpListener>,
    /// The admin's socket.
    pub socket: Option<LocalListener>,
}

impl Listeners {
    /// Nodes and admins alone.
    pub fn nodes(nodes: TcpListener) -> Self {
        Self { nodes, status: None, socket: None }
    }
}

/// A coordinator that is answering. Dropping it stops it at once; answers in
/// flight are finished by [`Server::shutdown`].
#[derive(Debug)]
pub struct Server {
    local_addr: SocketAddr,
    status_addr: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Where it listens for nodes and admins.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where the status page is, if there is one.
    pub fn status_addr(&self) -> Option<SocketAddr> {
        self.status_addr
    }

    /// Accepts nothing more, finishes the answers in flight and returns.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
    }
}

pub(crate) fn start(coordinator: Coordinator, listeners: Listeners, limits: Limits) -> Result<Server> {
    let Listeners { nodes, status, socket } = listeners;
    let at = || "asking where the listener is";
    let local_addr = nodes.local_addr().with_context(at)?;
    let status_addr = status.as_ref().map(TcpListener::local_addr).transpose().with_context(at)?;
    let identity = &coordinator.inner.identity;
    let tls = match &coordinator.inner.pin_change {
        None => kiln_protocol::tls::server_config(identity).map_err(Into::into),
        Some(change) => kiln_protocol::tls::server_config_after(identity, change),
    };
    let tls = tls.map_err(|error| anyhow!(error)).context("preparing TLS with the coordinator's key")?;
    let (stop, stopped) = watch::channel(false);
    let (metrics, crowds) = (Metrics::new(), Crowds::new(&limits));
    let observer = Observer::new(limits.request, limits.poll, metrics.clone(), stopped.clone());
    coordinator.contacts().set_patience(limits.quiet, limits.slot);
    let shared = Arc::new(Shared {
        routes: api::routes(coordinator.clone(), observer.clone(), limits.chores),
        admin_routes: api::admin_routes(coordinator.clone(), observer),
        pages: pages::routes(coordinator.clone(), metrics.clone(), crowds.clone(), status_addr),
        coordinator,
        tls: TlsAcceptor::from(Arc::new(tls)),
        crowds,
        turns: Turns::new(limits.speaking, limits.turn),
        metrics,
        limits,
        stopped,
    });
    let accepting = Some(tokio::spawn(accept(nodes, status, socket, shared)));
    Ok(Server { local_addr, status_addr, stop, accepting })
}

async fn accept(
    nodes: TcpListener,
    status: Option<TcpListener>,
    socket: Option<LocalListener>,
    shared: Arc<Shared>,
) {
    let mut connections = JoinSet::new();
    loop {
        let failed = tokio::select! {
            () = connection::stopped(shared.stopped.clone()) => break,
            Some(_) = connections.join_next() => continue,
            accepted = nodes.accept() => accepted
                .map(|(stream, peer)| connection::spawn(&mut connections, &shared, stream, peer)),
            accepted = accept_status(status.as_ref()) => accepted
                .map(|stream| pages::spawn(&mut connections, &shared, stream)),
            (listener, accepted) = accept_local(socket.as_ref()) => accepted
                .map(|stream| listener.spawn(&mut connections, &shared, stream)),
        };
        if let Err(error) = failed {
            tracing::warn!("accepting a connection: {error}");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
    drop((nodes, status, socket));
    let grace = shared.limits.grace;
    let finished = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, finished).await.is_err() {
        tracing::warn!("connections were cut {} s after the order to stop", grace.as_secs());
    }
}

async fn accept_status(listener: Option<&TcpListener>) -> std::io::Result<tokio::net::TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

async fn accept_local(
    listener: Option<&LocalListener>,
) -> (&LocalListener, std::io::Result<tokio::net::UnixStream>) {
    match listener {
        Some(listener) => (listener, listener.socket.accept().await.map(|(stream, _)| stream)),
        None => std::future::pending().await,
    }
}
