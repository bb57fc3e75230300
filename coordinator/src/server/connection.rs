//! One connection, from handshake to end.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::Request;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use kiln_protocol::{Fingerprint, api};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Limits;
use super::crowd::{Crowds, Place, Source};
use super::metrics::Metrics;
use super::park::{Parking, Pause, Readable, Rewound};
use super::turns::{Turn, Turns};
use super::whole;
use crate::Coordinator;
use crate::arrivals::Arrival;

/// Bytes of one request's header: the least that hyper reads at a time.
const MAX_HEADER: usize = 8 * 1024;
/// Bytes of a request that are read before HTTP is made: most of one.
const BEGINNING: usize = 2 * 1024;
/// Fields of one request's header.
const MAX_FIELDS: usize = 32;

/// What all connections share.
pub(super) struct Shared {
    pub(super) coordinator: Coordinator,
    pub(super) routes: Router,
    pub(super) admin_routes: Router,
    pub(super) pages: Router,
    pub(super) tls: TlsAcceptor,
    pub(super) crowds: Crowds,
    pub(super) turns: Turns,
    pub(super) metrics: Metrics,
    pub(super) limits: Limits,
    pub(super) stopped: watch::Receiver<bool>,
}

/// Whose connection this is: proven by the handshake, the same for all its requests.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) key: Fingerprint,
    pub(super) address: SocketAddr,
    /// When it began, among others.
    pub(super) arrival: Arrival,
    /// Whether a bound node has opened it.
    pub(super) opened: Arc<AtomicBool>,
    /// Where its question may wait.
    pub(super) parking: Parking,
}

/// Where a connection has its place.
enum Standing {
    Unknown { _place: Place<Source>, task: AbortHandle },
    Known { _place: Place<Fingerprint> },
}

pub(super) fn spawn(
    connections: &mut JoinSet<()>,
    shared: &Arc<Shared>,
    stream: TcpStream,
    address: SocketAddr,
) {
    let (send, place) = oneshot::channel();
    let arrival = shared.coordinator.inner.arrivals.begin();
    let handle = connections.spawn(run(Arc::clone(shared), stream, address, arrival, place));
    let handshakes = &shared.crowds.handshakes;
    let _ = send.send((handshakes.enter(address.ip().into(), handle.clone()), handle));
}

async fn run(
    shared: Arc<Shared>,
    stream: TcpStream,
    address: SocketAddr,
    arrival: Arrival,
    place: oneshot::Receiver<(Place<Source>, AbortHandle)>,
) {
    let Ok((handshaking, task)) = place.await else { return };
    let _ = stream.set_nodelay(true);
    // Boxed: what a handshake takes is given back once it is over.
    let handshake = Box::pin(tokio::time::timeout(shared.limits.handshake, shared.tls.accept(stream)));
    let stream = match handshake.await {
        // Boxed, as a future keeps room for each place it is moved through.
        Ok(Ok(stream)) => Box::new(stream),
        failed => {
            shared.metrics.failed_handshakes.inc();
            // Never a verdict: how it reaches the other side is up to chance.
            let why = failed.map_or("too slow".to_owned(), |failed| {
                failed.err().map_or_else(String::new, |error| error.to_string())
            });
            return tracing::debug!("handshake with {address}: {why}");
        }
    };
    let Some(peer) = peer(&stream, address, arrival) else { return };
    let standing = if shared.coordinator.knows(&peer.key) {
        Standing::Known { _place: shared.crowds.known.enter(peer.key, task) }
    } else {
        let place = shared.crowds.unknown.enter(address.ip().into(), task.clone());
        Standing::Unknown { _place: place, task }
    };
    drop(handshaking);
    let standing = Mutex::new(standing);
    let answer = |mut request: Request<Body>| {
        request.extensions_mut().insert(peer.clone());
        let enrols = [api::ENROL, api::APPROVAL].contains(&request.uri().path());
        let routes = TowerToHyperService::new(shared.routes.clone());
        let (standing, shared, key) = (&standing, &shared, peer.key);
        async move {
            let response = answered(routes.call(request).await);
            if enrols && response.status().is_success() {
                promote(standing, shared, key);
            }
            Ok(response)
        }
    };
    let whose = format!("of {address} ({})", peer.key);
    // Of strangers there are few.
    let turns = || is_known(&standing).then(|| shared.turns.clone());
    Box::pin(converse(&shared, stream, &whose, &peer.parking, turns, answer)).await;
}

/// A stranger that enrolled is none any more: others cannot displace it.
fn promote(standing: &Mutex<Standing>, shared: &Shared, key: Fingerprint) {
    let mut standing = standing.lock().unwrap_or_else(PoisonError::into_inner);
    if let Standing::Unknown { task, .. } = &*standing {
        let place = shared.crowds.known.enter(key, task.clone());
        *standing = Standing::Known { _place: place };
    }
}

fn is_known(standing: &Mutex<Standing>) -> bool {
    matches!(&*standing.lock().unwrap_or_else(PoisonError::into_inner), Standing::Known { .. })
}

fn peer(stream: &TlsStream<TcpStream>, address: SocketAddr, arrival: Arrival) -> Option<Peer> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let key = kiln_protocol::tls::fingerprint_of(certificate).ok()?;
    Some(Peer { key, address, arrival, opened: Arc::default(), parking: Parking::default() })
}

/// What a service without errors answers.
pub(super) fn answered(result: Result<Response, Infallible>) -> Response {
    result.unwrap_or_else(|never| match never {})
}

/// Speaks HTTP until the connection ends, is too old, or the server stops.
/// While nothing is said, there is no HTTP (`park`), and before there is, one of the
/// `turns` is waited for, if there are any.
pub(super) async fn converse<F>(
    shared: &Shared,
    mut stream: impl AsyncRead + AsyncWrite + Readable + Unpin,
    whose: &str,
    parking: &Parking,
    turns: impl Fn() -> Option<Turns>,
    answer: impl Fn(Request<Body>) -> F,
) where
    F: Future<Output = Result<Response, Infallible>>,
{
    let Limits { header, age, poll, grace, .. } = shared.limits;
    let old = Instant::now() + age;
    let mut over = pin!(async {
        tokio::select! {
            () = stopped(shared.stopped.clone()) => grace,
            () = sleep_until(old) => poll + grace,
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(header).max_headers(MAX_FIELDS);
    // One flat write an answer would copy it into a buffer that stays.
    http.max_buf_size(MAX_HEADER).writev(true);
    let answer = |request| {
        let answering = answer(whole::asked(parking, request));
        async move { Ok::<_, Infallible>(whole::answered(parking, answering.await?)) }
    };
    let (mut before, mut within) = (Vec::new(), None);
    let result = loop {
        if before.is_empty() {
            tokio::select! {
                _ = stream.readable() => {}
                () = tokio::time::sleep(header) => break hang_up(stream, grace).await,
                _ = &mut over => break hang_up(stream, grace).await,
            }
            match poll_fn(|cx| Poll::Ready(at_once(&mut stream, cx))).await {
                Poll::Ready(Ok(read)) if read.is_empty() => break hang_up(stream, grace).await,
                Poll::Ready(Ok(read)) => before = read,
                // It ended without a word, and nobody listens.
                Poll::Ready(Err(error)) => return tracing::debug!("connection {whose}: {error}"),
                // A part of a TLS record: the rest of it is for HTTP to wait for.
                Poll::Pending => {}
            }
        }
        let mut turn = match turns() {
            Some(turns) => turns.take().await,
            None => Turn::free(),
        };
        parking.made();
        let rewound = Rewound::new(before.into(), stream, parking);
        let mut speaking = Box::new(http.serve_connection(TokioIo::new(rewound), service_fn(&answer)));
        let spoken = match within {
            None => tokio::select! {
                // What was asked before the order to stop is answered.
                biased;
                spoken = parking.speak(&mut *speaking) => spoken,
                never = turn.is_over() => match never {},
                within = &mut over => {
                    parking.close();
                    Pin::new(&mut *speaking).graceful_shutdown();
                    break in_time(within, speaking).await;
                }
            },
            Some(within) => break in_time(within, speaking).await,
        };
        let parked = match spoken {
            Ok(Pause::Ended) => break Ok(()),
            Ok(Pause::Rest) => None,
            Ok(Pause::Parked(parked)) => Some(parked),
            Err(error) => break Err(error),
        };
        let parts = speaking.into_parts();
        let (unread, kept) = parts.io.into_inner().into_parts();
        (before, stream) = ([parts.read_buf, unread].concat(), kept);
        drop(turn);
        let Some(mut parked) = parked else { continue };
        if !before.is_empty() {
            parking.close();
        }
        tokio::select! {
            () = parked.wait(&stream) => {}
            time = &mut over => {
                // It ends with the answer to this.
                parking.close();
                parked.is_last();
                within = Some(time);
            }
        }
        before.splice(..0, parking.again(parked));
    };
    if let Err(error) = result {
        tracing::debug!("connection {whose}: {error}");
    }
}

/// What can be read without waiting; nothing is the other side's end, for which no
/// HTTP need be made.
fn at_once(stream: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
    let mut room = [0; BEGINNING];
    let mut read = ReadBuf::new(&mut room);
    ready!(Pin::new(stream).poll_read(cx, &mut read))?;
    Poll::Ready(Ok(read.filled().to_vec()))
}

/// Says that a connection ends, to whoever still listens.
async fn hang_up(mut stream: impl AsyncWrite + Unpin, within: Duration) -> hyper::Result<()> {
    let _ = tokio::time::timeout(within, stream.shutdown()).await;
    Ok(())
}

/// A connection ends with the answer it is at, or is cut.
async fn in_time(within: Duration, speaking: impl Future<Output = hyper::Result<()>>) -> hyper::Result<()> {
    tokio::time::timeout(within, speaking).await.unwrap_or(Ok(()))
}

/// Returns when the server is to stop.
pub(super) async fn stopped(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
