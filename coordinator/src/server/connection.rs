//! One connection, from handshake to end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use kiln_protocol::Fingerprint;
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::crowd::{Crowds, Place};
use super::{Limits, api};
use crate::Coordinator;

/// Bytes of one request's header.
const MAX_HEADER: usize = 16 * 1024;
/// Fields of one request's header.
const MAX_FIELDS: usize = 32;

/// What all connections share.
pub(super) struct Shared {
    pub(super) coordinator: Coordinator,
    pub(super) routes: Router,
    pub(super) tls: TlsAcceptor,
    pub(super) crowds: Crowds,
    pub(super) limits: Limits,
    pub(super) stopped: watch::Receiver<bool>,
}

/// Whose connection this is: proven by the handshake, the same for all its requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) key: Fingerprint,
    pub(super) address: SocketAddr,
}

pub(super) fn spawn(
    connections: &mut JoinSet<()>,
    shared: &Arc<Shared>,
    stream: TcpStream,
    address: SocketAddr,
) {
    let (send, place) = oneshot::channel();
    let handle = connections.spawn(run(Arc::clone(shared), stream, address, place));
    let _ = send.send((shared.crowds.handshakes.enter(address.ip(), handle.clone()), handle));
}

async fn run(
    shared: Arc<Shared>,
    stream: TcpStream,
    address: SocketAddr,
    place: oneshot::Receiver<(Place, AbortHandle)>,
) {
    let Ok((handshaking, task)) = place.await else { return };
    let _ = stream.set_nodelay(true);
    let handshake = shared.tls.accept(stream);
    let stream = match tokio::time::timeout(shared.limits.handshake, handshake).await {
        Ok(Ok(stream)) => stream,
        // Never a verdict: how it reaches the other side is up to chance.
        Ok(Err(error)) => return tracing::debug!("handshake with {address}: {error}"),
        Err(_) => return tracing::debug!("handshake with {address}: too slow"),
    };
    let Some(peer) = peer(&stream, address) else { return };
    let crowd = match shared.coordinator.knows(peer.key).await {
        Ok(true) => &shared.crowds.known,
        Ok(false) => &shared.crowds.unknown,
        Err(error) => return tracing::error!("looking for a key: {error:#}"),
    };
    let place = crowd.enter(address.ip(), task);
    drop(handshaking);
    serve(&shared, stream, peer).await;
    drop(place);
}

fn peer(stream: &TlsStream<TcpStream>, address: SocketAddr) -> Option<Peer> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let key = kiln_protocol::tls::fingerprint_of(certificate).ok()?;
    Some(Peer { key, address })
}

async fn serve(shared: &Shared, stream: TlsStream<TcpStream>, peer: Peer) {
    let Limits { header, request: time, age, grace, .. } = shared.limits;
    let answer = |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let routes = TowerToHyperService::new(shared.routes.clone());
        async move {
            let answered = tokio::time::timeout(time, routes.call(request.map(Body::new))).await;
            let response: Response = match answered {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => api::too_slow().into_response(),
            };
            Ok::<_, Infallible>(response)
        }
    };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(header).max_headers(MAX_FIELDS);
    let http = http.max_buf_size(MAX_HEADER).serve_connection(TokioIo::new(stream), service_fn(answer));
    let mut http = pin!(http);
    let ended = tokio::select! {
        result = &mut http => Some(result),
        () = stopped(shared.stopped.clone()) => None,
        () = tokio::time::sleep(age) => None,
    };
    let result = if let Some(result) = ended {
        result
    } else {
        // It ends with the answer it is at.
        http.as_mut().graceful_shutdown();
        tokio::time::timeout(grace, http).await.unwrap_or(Ok(()))
    };
    if let Err(error) = result {
        tracing::debug!("connection of {} ({}): {error}", peer.address, peer.key);
    }
}

/// Returns when the server is to stop.
pub(super) async fn stopped(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
