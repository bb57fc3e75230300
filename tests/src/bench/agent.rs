//! What an agent says to a coordinator, in the order in which it says it, with
//! hyper as the agent does. It does not check who answers: a client's
//! signatures are no part of what is measured, and it has to outrun the server.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, ETAG, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use kiln_protocol::api::{self, EnrolRequest, Facts, Report, Step, StepState};
use kiln_protocol::ratchet::{ConfigAnswer, ConfigAsked, Notch, OpenAnswer, OpenRequest, Stamp, Turn};
use kiln_protocol::{Fingerprint, Identity, Ticket, tls};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use serde::Serialize;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A machine with a key, calling from an address of its own.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    pub(super) key: Fingerprint,
    config: Arc<ClientConfig>,
    source: Ipv4Addr,
    notch: Notch,
    seen: Option<Stamp>,
    reports: u64,
}

impl Agent {
    /// The machine of this number: its address is one of 127.0.0.0/8.
    pub(super) fn new(identity: &Identity, pin: Fingerprint, number: usize) -> Result<Self> {
        let mut config = tls::client_config(identity, pin)?;
        config.dangerous().set_certificate_verifier(Arc::new(Anybody));
        let (config, key) = (Arc::new(config), identity.fingerprint());
        Ok(Self { key, config, source: address(number), notch: Notch::random(), seen: None, reports: 0 })
    }

    /// A TLS connection, its handshake done.
    pub(super) async fn handshake(&self, to: SocketAddr) -> Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddrV4::new(self.source, 0).into())?;
        let stream = socket.connect(to).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("kiln.invalid")?;
        TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await.context("in the handshake")
    }

    pub(super) async fn connect(&self, to: SocketAddr) -> Result<Line> {
        let stream = self.handshake(to).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let task = tokio::spawn(async { drop(connection.await) }).abort_handle();
        Ok(Line { sender, task })
    }

    pub(super) async fn enrol(&self, line: &mut Line, ticket: &Ticket) -> Result<()> {
        let proof = ticket.prove(&self.key);
        let request = EnrolRequest { ticket: ticket.public_key(), proof, facts: facts() };
        line.post(api::ENROL, &request).await.map(drop)
    }

    /// Opens a connection: the clone ratchet turns.
    pub(super) async fn open(&mut self, line: &mut Line) -> Result<()> {
        self.opened(line, None).await.map(drop)
    }

    /// Opens a connection and fetches the configuration with that, as an agent
    /// does that has a new connection for it; its tag.
    pub(super) async fn open_for_config(&mut self, line: &mut Line) -> Result<String> {
        match self.opened(line, Some(ConfigAsked::default())).await? {
            Some(ConfigAnswer::Is { tag, .. }) => Ok(tag),
            other => bail!("no configuration came with the opening: {other:?}"),
        }
    }

    async fn opened(&mut self, line: &mut Line, config: Option<ConfigAsked>) -> Result<Option<ConfigAnswer>> {
        let turn = Turn { cur: self.notch, next: Notch::random() };
        let request = OpenRequest { config, ..OpenRequest::new(turn, self.seen) };
        let answer: OpenAnswer = serde_json::from_slice(&line.post(api::OPEN, &request).await?)?;
        (self.notch, self.seen) = (turn.next, Some(answer.stamp));
        Ok(answer.config)
    }

    /// Its configuration's tag.
    pub(super) async fn config(&self, line: &mut Line) -> Result<String> {
        let answer = line.ask(Method::GET, api::CONFIG, None, &[]).await?;
        if answer.body.is_empty() {
            bail!("an empty configuration");
        }
        answer.tag.context("a configuration without a tag")
    }

    pub(super) async fn report(&mut self, line: &mut Line) -> Result<()> {
        self.reports += 1;
        let report = Report {
            boot_id: "8f1c1d3e-5a60-4f0c-9a53-0c1f6f0f8d11".to_owned(),
            sequence: self.reports,
            uptime_ms: 20_000 + self.reports,
            step: Step::Configure,
            state: StepState::Done,
            facts: None,
            usage: None,
        };
        line.post(api::REPORT, &report).await.map(drop)
    }
}

/// As much as an agent says of an ordinary machine.
fn facts() -> Facts {
    Facts {
        machine_id: Some("4d1f3a0c9c1b4f7c8a7a0f3f6d5e2b10".to_owned()),
        os: Some("AlmaLinux 9.4 (Seafoam Ocelot)".to_owned()),
        kernel: Some("5.14.0-427.13.1.el9_4.x86_64".to_owned()),
        image: Some("alma9-k3-node-amd64-v1.28.5-v1".to_owned()),
        agent: Some("0.1.0".to_owned()),
        ssh_host_keys: vec!["SHA256:uN2qVdXk0w1bVxkq2bJYxjz0m3oVvJq8a7l0w4xw9mE".to_owned(); 3],
        ..Facts::default()
    }
}

fn address(number: usize) -> Ipv4Addr {
    // Of each network, the hosts 1 to 250.
    let (network, host) = (number / 250, number % 250 + 1);
    let byte = |value: usize| u8::try_from(value).unwrap_or(u8::MAX);
    Ipv4Addr::new(127, byte(1 + network / 256), byte(network % 256), byte(host))
}

/// A connection that speaks HTTP.
pub(super) struct Line {
    sender: SendRequest<Full<Bytes>>,
    task: AbortHandle,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An answer that is no refusal.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) tag: Option<String>,
    pub(super) body: Bytes,
}

impl Line {
    pub(super) async fn post(&mut self, path: &str, body: &impl Serialize) -> Result<Bytes> {
        let body = serde_json::to_vec(body)?;
        Ok(self.ask(Method::POST, path, Some(body), &[]).await?.body)
    }

    pub(super) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        headers: &[(&str, &str)],
    ) -> Result<Answer> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, "127.0.0.1:7443");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body.unwrap_or_default()))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await.with_context(|| format!("asking {path}"))?;
        let status = response.status();
        let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        let body = response.into_body().collect().await?.to_bytes();
        if status.is_client_error() || status.is_server_error() {
            bail!("{path}: {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(Answer { tag, body })
    }
}

/// Takes every server for the right one.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_machine_has_an_address_of_its_own() {
        let all: BTreeSet<Ipv4Addr> = (0..120_000).map(address).collect();
        assert_eq!(all.len(), 120_000);
        assert!(all.iter().all(Ipv4Addr::is_loopback));
    }
}
