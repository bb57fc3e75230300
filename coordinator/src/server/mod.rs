//! The one listener of nodes and admins: HTTP/1.1 over the TLS of
//! [`kiln_protocol::tls`], on an accept loop of our own, because handshakes must
//! not hold up the accepting, header timeouts need a timer installed, and
//! handlers need the connection's key.
//!
//! | file | what it holds |
//! |---|---|
//! | `connection` | one connection from handshake to end |
//! | `crowd` | who is let in when too many want in |
//! | `api` | routes, bodies, errors, and who is asking |
//! | `node` | what nodes may ask |
//! | `operator` | what admins may ask |
//!
//! Places of later steps: a second listener (loopback) for `/metrics`, `/healthz`
//! and the status page; the admin's Unix socket; long polls, which end when
//! their node is held or revoked.

mod api;
mod connection;
mod crowd;
mod node;
mod operator;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::Coordinator;
use connection::Shared;
use crowd::Crowds;

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
    /// For answers in flight at shutdown.
    pub grace: Duration,
    /// Handshakes at a time.
    pub handshakes: usize,
    /// Connections of unknown keys at a time.
    pub unknown: usize,
    /// Connections of known keys at a time.
    pub known: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(30),
            request: Duration::from_secs(30),
            age: Duration::from_secs(600),
            grace: Duration::from_secs(10),
            handshakes: 512,
            unknown: 512,
            known: 16_384,
        }
    }
}

/// Wait after an `accept` that failed, as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A coordinator that is answering. Dropping it stops it at once; answers in
/// flight are finished by [`Server::shutdown`].
#[derive(Debug)]
pub struct Server {
    local_addr: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
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

pub(crate) fn start(coordinator: Coordinator, listener: TcpListener, limits: Limits) -> Result<Server> {
    let local_addr = listener.local_addr().context("asking where the listener is")?;
    let tls = kiln_protocol::tls::server_config(&coordinator.inner.identity)
        .context("preparing TLS with the coordinator's key")?;
    let (stop, stopped) = watch::channel(false);
    let shared = Arc::new(Shared {
        routes: api::routes(coordinator.clone()),
        coordinator,
        tls: TlsAcceptor::from(Arc::new(tls)),
        crowds: Crowds::new(&limits),
        limits,
        stopped: stopped.clone(),
    });
    let accepting = Some(tokio::spawn(accept(listener, shared, stopped)));
    Ok(Server { local_addr, stop, accepting })
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = connection::stopped(stop.clone()) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => connection::spawn(&mut connections, &shared, stream, peer),
                Err(error) => {
                    tracing::warn!("accepting a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let grace = shared.limits.grace;
    let finished = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, finished).await.is_err() {
        tracing::warn!("connections were cut {} s after the order to stop", grace.as_secs());
    }
}
