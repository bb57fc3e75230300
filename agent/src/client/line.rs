//! One connection to a coordinator, from its making to its end.
//!
//! Connections are made one by one and by hand, because the clone ratchet
//! opens each of them: which one a request travels over must be known. They go
//! through a proxy where the environment names one (`HTTPS_PROXY`), by CONNECT.

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, ETAG, HOST};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use kiln_protocol::Fingerprint;
use kiln_protocol::error::ErrorClass;
use kiln_protocol::recovery::PinChange;
use kiln_protocol::ticket::Address;
use kiln_protocol::tls::{self, PinMismatch, Trust};
use kiln_protocol::{ApiError, Identity};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tower_service::Service as _;

use super::{MAX_ANSWER, names};
use crate::retry::Failure;

/// Finding an address, connecting, and a proxy's consent. The system asks the
/// second of its name servers when the first has been silent for 5 s, and the
/// third after as long again.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// Of that, for all addresses of a name in one family: hyper-util gives each an
/// equal share, so that one behind which nothing is does not use up the others'.
const TCP_TIMEOUT: Duration = Duration::from_secs(4);
/// A coordinator on the same continent answers within a second.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// From the first byte sent to the last one received.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct Question<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    /// JSON.
    pub(super) body: Option<Vec<u8>>,
    pub(super) headers: Vec<(&'static str, String)>,
    /// How long the coordinator may take on purpose.
    pub(super) hold: Duration,
}

/// An answer, whatever it says.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Names what was answered, as `If-None-Match` takes it.
    pub(super) tag: Option<String>,
    pub(super) body: Vec<u8>,
}

/// A connection that is up.
pub(super) struct Line {
    sender: SendRequest<Full<Bytes>>,
    task: AbortHandle,
    address: Address,
    /// Whether the clone ratchet has opened it.
    pub(super) opened: bool,
    /// The server has another key than the pinned one, by the recovery key's
    /// word.
    pub(super) change: Option<(Fingerprint, PinChange)>,
    /// What its certificate has for a change of the pin, good or not.
    pub(super) word: Option<PinChange>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Line {
    /// Connects; when this returns, the server's key has been found good and
    /// nothing but the handshake was sent.
    pub(super) async fn connect(
        identity: &Identity,
        trust: &Trust,
        address: &Address,
    ) -> Result<Self, Failure> {
        let config = tls::client_config(identity, *trust).map_err(anyhow::Error::from)?;
        let tcp = within(DIAL_TIMEOUT, address, "connecting", Box::pin(dial(address))).await?;
        let _ = tcp.set_nodelay(true);
        let greeting = async {
            // No name means anything, and none is told (SNI is off).
            let name = ServerName::try_from("kiln.invalid")?;
            let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
            let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
            let change = certificates.first().and_then(|certificate| trust.change(certificate));
            let word = certificates.first().and_then(|certificate| PinChange::find(certificate));
            let (sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
            Ok((sender, connection, change, word))
        };
        let (sender, connection, change, word) =
            within(HANDSHAKE_TIMEOUT, address, "agreeing on keys", Box::pin(greeting)).await?;
        // Its end shows in the request that is under way, or in the next one.
        let task = tokio::spawn(async { drop(connection.await) }).abort_handle();
        Ok(Self { sender, task, address: address.clone(), opened: false, change, word })
    }

    /// Sends one request and reads the whole answer, or as much of it as is
    /// looked at.
    pub(super) async fn ask(&mut self, question: &Question<'_>) -> Result<Answer, Failure> {
        let Question { method, path, body, headers, hold } = question;
        let mut request = Request::builder().method(method).uri(*path).header(HOST, self.address.to_string());
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let body = Full::new(Bytes::copy_from_slice(body.as_deref().unwrap_or_default()));
        let request = request.body(body).map_err(anyhow::Error::from)?;
        let mut doing = "asking";
        let asking = async {
            self.sender.ready().await?;
            doing = "waiting for the answer";
            let response = self.sender.send_request(request).await?;
            doing = "reading the answer";
            let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
            let (status, mut body) = (response.status(), response.into_body());
            let mut bytes = Vec::new();
            while bytes.len() <= MAX_ANSWER
                && let Some(frame) = body.frame().await
            {
                if let Some(data) = frame?.data_ref() {
                    bytes.extend_from_slice(data);
                }
            }
            Ok::<_, hyper::Error>(Answer { status, tag, body: bytes })
        };
        match timeout(REQUEST_TIMEOUT + *hold, asking).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(unanswered(&self.address, doing, &error)),
            Err(_) => Err(too_slow(&self.address, doing)),
        }
    }
}

/// What goes wrong below HTTP.
type Broken = Box<dyn StdError + Send + Sync>;

/// `what` is on the heap: it would be in the future of everything that asks.
async fn within<T>(
    limit: Duration,
    address: &Address,
    doing: &str,
    what: Pin<Box<impl Future<Output = Result<T, Broken>>>>,
) -> Result<T, Failure> {
    match timeout(limit, what).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(unanswered(address, doing, &*error)),
        Err(_) => Err(too_slow(address, doing)),
    }
}

/// Connects to whichever address of a name answers.
fn direct<R>(resolver: R, tcp: Duration) -> HttpConnector<R> {
    let mut direct = HttpConnector::new_with_resolver(resolver);
    direct.enforce_http(false);
    direct.set_connect_timeout(Some(tcp));
    direct
}

async fn dial(address: &Address) -> Result<TcpStream, Broken> {
    let to: Uri = format!("https://{address}").parse()?;
    let mut direct = direct(names::resolver(), TCP_TIMEOUT);
    let Some(proxy) = Matcher::from_env().intercept(&to) else {
        return Ok(direct.call(to).await?.into_inner());
    };
    let mut tunnel = Tunnel::new(proxy.uri().clone(), direct);
    if let Some(auth) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(auth.clone());
    }
    Ok(tunnel.call(to).await?.into_inner())
}

fn too_slow(address: &Address, doing: &str) -> Failure {
    ApiError::new(ErrorClass::Transient, format!("{address}: {doing}: it took too long")).into()
}

/// Why there was no answer.
fn unanswered(address: &Address, doing: &str, error: &(dyn StdError + 'static)) -> Failure {
    if let Some(mismatch) = PinMismatch::find(error) {
        return ApiError::new(ErrorClass::Policy, format!("{address}: {mismatch}"))
            .hint("mint the ticket with the coordinator that is to be joined, or open the way to it")
            .into();
    }
    if tls::is_not_tls(error) {
        let message = format!("{address}: what answers there does not speak TLS");
        return ApiError::new(ErrorClass::Transient, message)
            .hint("a captive portal or a proxy is in the way, or the address is another service's")
            .into();
    }
    let causes: Vec<_> = std::iter::successors(Some(error), |cause| (*cause).source()).collect();
    let offline = causes.iter().any(|cause| is_no_route(*cause));
    let why = causes.last().map_or_else(String::new, ToString::to_string);
    let failed = ApiError::new(ErrorClass::Transient, format!("{address}: {doing}: {why}"));
    if tls::is_foreign_tls(error) {
        let hint = "does a proxy between end TLS, or is the address another service's? a coordinator's TLS is \
                    not to be looked into on the way";
        return failed.hint(hint).into();
    }
    Failure { offline, ..failed.into() }
}

/// No interface has a route there: the link or its address is still missing.
fn is_no_route(cause: &(dyn StdError + 'static)) -> bool {
    cause
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::NetworkUnreachable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_util::client::legacy::connect::dns::Name;
    use std::future::{Ready, ready};
    use std::net::SocketAddr;
    use std::task::{Context, Poll};
    use tokio::net::{TcpListener, TcpSocket};

    /// Knows one name.
    #[derive(Clone)]
    struct Names(Vec<SocketAddr>);

    impl tower_service::Service<Name> for Names {
        type Response = std::vec::IntoIter<SocketAddr>;
        type Error = std::io::Error;
        type Future = Ready<std::io::Result<Self::Response>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Name) -> Self::Future {
            ready(Ok(self.0.clone().into_iter()))
        }
    }

    /// A port that answers nothing, as a machine that is off: its queue is full.
    async fn silent() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
            queue.push(stream.unwrap());
            assert!(queue.len() < 100, "its queue has no end");
        }
        (address, listener, queue)
    }

    #[tokio::test]
    async fn an_address_behind_which_nothing_is_does_not_use_up_the_time_of_the_next_one() {
        let (off, _listener, _queue) = silent().await;
        let up = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let up_address = up.local_addr().unwrap();
        let mut direct = direct(Names(vec![off, up_address]), Duration::from_millis(200));
        let connecting = direct.call("https://coordinator.test".parse().unwrap());
        let tcp = timeout(DIAL_TIMEOUT, connecting).await.expect("it waits for the first alone").unwrap();
        assert_eq!(tcp.into_inner().peer_addr().unwrap(), up_address);
    }

    #[test]
    fn two_silent_name_servers_leave_time_to_connect() {
        // resolv.conf(5): `timeout`, which is 5 s.
        assert!(DIAL_TIMEOUT >= 2 * Duration::from_secs(5) + TCP_TIMEOUT);
    }
}
